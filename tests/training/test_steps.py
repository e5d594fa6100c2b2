"""The steps of the local engine: what is sampled, what is used, and memory that runs out."""

from __future__ import annotations

import json
import math
import random
import re
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import PROBLEMS, SETTINGS, log_of, made_up, recipe, rollouts_of, run, weights_of

from modgap.core import progress
from modgap.core.errors import UserError
from modgap.core.prompt import contrastive_prompt, training_prompt
from modgap.core.recipe import PARTS, Recipe, Stage
from modgap.models.memory import BatchSize
from modgap.models.parts import part_of
from modgap.models.policy import Policy
from modgap.training import rollout
from modgap.training.local import final_checkpoint
from modgap.training.log import StageLog
from modgap.training.rollout import DataOrder, draw_size


def test_the_first_update_is_on_policy_exactly(tiny: Path, tmp_path: Path) -> None:
    run(recipe(mini_batch=4, steps=1), tiny, tmp_path)
    (row,) = log_of(tmp_path / "stage1")
    assert row["updates"] == 1 and row["ratio_mean"] == 1.0 and row["ratio_max"] == 1.0
    assert row["clip_low"] == row["clip_high"] == row["clip_dual"] == 0.0


def test_a_step_begins_with_what_the_step_before_would_have_needed(
    tiny: Path, tmp_path: Path
) -> None:
    """Half of the groups or fewer are mixed, so four prompts are not enough."""

    def even_ones(response: str, gold: str) -> float:
        return made_up(response, gold).score if int(float(gold)) % 2 == 0 else 0.0

    chosen = recipe(steps=3, max_refills=5, overlong_buffer=0, eval_every=0, validation_problems=0)
    run(chosen, tiny, tmp_path, reward=even_ones)
    first, *later = log_of(tmp_path / "stage1")
    assert first["refills"] > 0
    for before, row in pairwise([first, *later]):
        expected = draw_size(replace(SETTINGS, prompts_per_step=4), 0, 0, before["mixed_share"])
        assert (
            row["sampled_groups"] == expected
            if row["refills"] == 0
            else row["sampled_groups"] > expected
        )


def test_without_mixed_rewards_refills_are_bounded_and_nothing_is_learned(
    tiny: Path, tmp_path: Path
) -> None:
    events = run(recipe(overlong_buffer=0), tiny, tmp_path, reward=lambda response, gold: 0.1)
    for row in log_of(tmp_path / "stage1"):
        first = 4 if row["step"] == 1 else 12  # and two refills of 4
        assert (row["kept_groups"], row["refills"], row["sampled_groups"]) == (0, 2, first + 8)
        assert (row["updates"], row["grad_norm"]) == (0, 0.0)
    before, after = weights_of(tiny), weights_of(tmp_path / "stage1" / "checkpoints" / "step_2")
    assert all(
        torch.equal(after[name], value.to(after[name].dtype)) for name, value in before.items()
    )
    notes = [event.text for event in events if event.kind == "note"]
    assert len(notes) == 1 and "no mixed rewards" in notes[0]


def test_without_dynamic_sampling_every_group_is_used(tiny: Path, tmp_path: Path) -> None:
    run(
        recipe(overlong_buffer=0, dynamic_sampling=False, steps=1),
        tiny,
        tmp_path,
        reward=lambda response, gold: 0.1,
    )
    (row,) = log_of(tmp_path / "stage1")
    assert (row["kept_groups"], row["refills"], row["updates"], row["grad_norm"]) == (4, 0, 2, 0.0)


# Memory


def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(recipe(True, steps=1, mini_batch=4), tiny, tmp_path / "roomy")
    scored = Policy.logprobs

    def narrow(self: Policy, prompts: Any, *more: Any) -> Any:
        out = scored(self, prompts, *more)
        if len(prompts) > 1 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("made up")
        return out

    monkeypatch.setattr(Policy, "logprobs", narrow)
    events = run(recipe(True, steps=1, mini_batch=4), tiny, tmp_path / "narrow")
    assert [e.text for e in events if e.kind == "note"] == [
        f"out of memory in the update: halved to {n} rows at a time" for n in (2, 1)
    ]
    (roomy,), (narrowed,) = (log_of(tmp_path / name / "stage1") for name in ("roomy", "narrow"))
    assert narrowed["micro_batch"] == 1 and narrowed["updates"] == roomy["updates"] == 1
    assert narrowed["grad_norm"] == pytest.approx(roomy["grad_norm"], rel=1e-4)
    assert narrowed["contrastive_kl"] == pytest.approx(roomy["contrastive_kl"], rel=1e-4)
    assert narrowed["eligible_rows"] == roomy["eligible_rows"]


def test_what_a_rollout_keeps_goes_before_rows_do() -> None:
    kept, sizes, notes = [True], list[int](), list[str]()

    def work(size: int) -> str:
        sizes.append(size)
        if len(sizes) < 3:
            raise torch.OutOfMemoryError
        return "done"

    micro = BatchSize(8, notes.append, free=lambda: bool(kept and kept.pop()))
    assert micro.run("update", work) == "done"
    assert sizes == [8, 8, 4] and len(notes) == 1 and micro.limit == 4


def test_out_of_memory_with_one_row_is_an_error_with_a_remedy() -> None:
    def work(size: int) -> None:
        raise torch.OutOfMemoryError

    notes: list[str] = []
    with pytest.raises(UserError, match=r"one row at a time.*gradient_checkpointing"):
        BatchSize(8, notes.append).run("update", work)
    assert len(notes) == 3


# Options


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [
        ({"freeze_vision": True}, {"tower", "merger"}),
        ({"freeze": "tower"}, {"tower"}),
        ({"freeze": "language, merger"}, {"language", "merger"}),
    ],
)
def test_a_frozen_part_does_not_move(
    tiny: Path, tmp_path: Path, settings: dict[str, Any], frozen: set[str]
) -> None:
    run(recipe(**settings, steps=1), tiny, tmp_path)
    before, after = weights_of(tiny), weights_of(tmp_path / "stage1" / "checkpoints" / "step_1")
    same = {
        name: torch.equal(after[name], value.to(after[name].dtype))
        for name, value in before.items()
    }
    assert all(same[name] for name in same if part_of(name) in frozen)
    moved = {part_of(name) for name in same if not same[name]}
    assert moved == set(PARTS) - frozen


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"freeze": "vision"}, "unknown part to freeze 'vision': choose from language, merger"),
        ({"freeze": "tower,merger,language"}, "nothing is left to train"),
        ({"freeze": "language", "lora_rank": 4}, "lora_rank=4: nothing is left to train"),
    ],
)
def test_a_freezing_that_leaves_nothing_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe(**settings).check()


def test_a_frozen_language_model_needs_pictures() -> None:
    stage = Stage(("full-text", "text-only"), settings=replace(SETTINGS, freeze="language"))
    with pytest.raises(UserError, match="'text-only' has no picture"):
        stage.check()


def length_reward(response: str, gold: str) -> float:
    return float(zlib.crc32(response.encode()) % 2)


def test_a_reward_of_your_own(tiny: Path, tmp_path: Path) -> None:
    run(
        recipe(reward_function="test_steps:length_reward", steps=1),
        tiny,
        tmp_path,
        reward=None,
    )
    rows = rollouts_of(tmp_path / "stage1")
    assert {row["score"] for row in rows} == {0.0, 1.0}
    assert all(row["score"] == length_reward(row["response"], row["gold"]) for row in rows)


def test_prompts_that_are_too_long_are_left_out_and_counted(
    tiny: Path, policy: Policy, tmp_path: Path
) -> None:
    lengths = sorted(
        len(policy.encode(training_prompt(p, "full-text"), p.open_image())) for p in PROBLEMS
    )
    assert lengths[0] < lengths[-1]
    run(recipe(max_prompt_tokens=lengths[-1] - 1, steps=1, eval_every=0), tiny, tmp_path / "some")
    (row,) = log_of(tmp_path / "some" / "stage1")
    assert row["too_long_prompts"] > 0 and row["sampled_groups"] >= 4
    with pytest.raises(UserError, match="every prompt is longer than max_prompt_tokens=5 "):
        run(recipe(max_prompt_tokens=5), tiny, tmp_path / "none")


def test_groups_that_are_not_used_let_go_of_their_pixels(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[bool, bool]] = []
    written = StageLog.rollouts

    def looked_at(self: StageLog, step: int, groups: Any, used: Any) -> None:
        chosen = {id(group) for group in used}
        held.extend((id(g) in chosen, g.prompt is not None or bool(g.twins)) for g in groups)
        written(self, step, groups, used)

    monkeypatch.setattr(StageLog, "rollouts", looked_at)
    # Half of the problems have one reward for all, so that their groups are dropped.
    run(recipe(True, eval_every=0, overlong_buffer=0), tiny, tmp_path,
        reward=lambda response, gold:
        made_up(response, gold) if int(float(gold)) % 2 else 0.1)  # fmt: skip
    assert {True, False} == {used for used, _ in held} and all(
        used == holds for used, holds in held
    )


def test_half_a_surrogate_pair_is_logged(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    said = SimpleNamespace(text="a \ud83d b", finish_reason="stop", token_ids=[1])
    zeros = torch.zeros(1)
    words = training_prompt(PROBLEMS[0], "full-text")
    group = rollout.Group(
        PROBLEMS[0], "full-text", words, None, (), [1], [said], zeros, zeros, zeros, rewards_N=zeros
    )
    log.rollouts(1, [group], [])
    log.close()
    assert [row["response"] for row in rollouts_of(tmp_path)] == ["a ? b"]


def test_fewer_held_out_problems_than_asked_for_are_said_once(tiny: Path, tmp_path: Path) -> None:
    stages = (Stage(("full-text",)), Stage(("image-only",)))
    chained = Recipe(
        "r",
        tuple(
            replace(s, settings=replace(SETTINGS, validation_problems=800, steps=1)) for s in stages
        ),
    )
    notes = [event.text for event in run(chained, tiny, tmp_path) if event.kind == "note"]
    assert [note for note in notes if "validation_problems" in note] == [
        "validation_problems=800: train has 12 problems and at most a fifth of them is held out, so"
        " 2 of them are"
    ]


def test_without_validation_none_is_called_best_and_the_pointer_is_at_the_last(
    tiny: Path, tmp_path: Path
) -> None:
    run(recipe(eval_every=0), tiny, tmp_path)
    assert json.loads((tmp_path / "stage1" / "result.json").read_text())["best"] is None
    assert final_checkpoint(tmp_path, "best").name == "step_2"


# The order of the data


def test_every_epoch_is_a_new_permutation_and_a_position_says_it_all() -> None:
    order = DataOrder(PROBLEMS, ("full-text", "image-only"), seed=1)
    epochs = [
        [(p.id, view) for p, view in (order[i] for i in range(e * 24, e * 24 + 24))]
        for e in range(3)
    ]
    assert all(len(set(epoch)) == 24 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [order[i][0].id for i in (50, 3)] == [
        DataOrder(PROBLEMS, ("full-text", "image-only"), 1)[i][0].id for i in (50, 3)
    ]
    assert epochs[0] != [
        (p.id, v)
        for p, v in (DataOrder(PROBLEMS, ("full-text", "image-only"), 2)[i] for i in range(24))
    ]


@given(st.integers(1, 64), st.integers(0, 64), st.integers(0, 640), st.floats(0, 1))
def test_a_draw_is_what_is_missing_and_a_standard_deviation_more(
    wanted: int, kept: int, sampled: int, before: float
) -> None:
    if kept < wanted and kept <= sampled:
        size = draw_size(replace(SETTINGS, prompts_per_step=wanted), kept, sampled, before)
        most, rate = (wanted, kept / sampled) if sampled else (3 * wanted, before)
        rate = max(rate, 1 / most)

        def surely(groups: int) -> float:
            return groups * rate - math.sqrt(groups * rate * (1 - rate))

        assert wanted - kept <= size <= most
        assert size == most or surely(size) >= wanted - kept - 1e-6
        assert surely(size - 1) < wanted - kept + 1e-6


def test_most_draws_suffice() -> None:
    rng, rate = random.Random(0), 0.42
    draw = draw_size(replace(SETTINGS, prompts_per_step=64), 0, 0, rate)
    mixed = [sum(rng.random() < rate for _ in range(draw)) for _ in range(500)]
    assert 0.75 < sum(count >= 64 for count in mixed) / 500 < 0.92
    assert draw < 1.15 * 64 / rate


def test_the_twin_shares_the_image_of_its_prompt(policy: Policy) -> None:
    problem = PROBLEMS[0]
    full = policy.encode(
        training_prompt(problem, "full-text", contrastive=True), problem.open_image()
    )
    twin = policy.encode(contrastive_prompt(problem), problem.open_image())
    assert full.image_key == twin.image_key and len(twin) < len(full)


def test_a_step_tells_what_it_does_inside(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "_active", SimpleNamespace(doing=said.append))
    run(recipe(contrastive=True, steps=1, prompts_per_step=4, mini_batch=2), tiny, tmp_path / "run")
    seen = dict.fromkeys(re.sub(r"\d+", "N", words) for words in said)
    for words in (
        "loading the model model",
        "prompt N of N",
        "reading N prompts",
        "token N of at most N",
        "log-probabilities: pass N of N",
        "update: pass N of N",
        "optimizer step",
    ):
        assert words in seen, list(seen)
    assert sum("token" in words for words in said) >= SETTINGS.max_response_tokens - 1
