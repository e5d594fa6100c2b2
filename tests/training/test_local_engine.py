"""The local engine on a very small Qwen2.5-VL with random weights; rewards are made up, so that
groups are mixed.
"""

from __future__ import annotations

import functools
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from modgap.core.errors import UserError
from modgap.core.problem import Problem, Shown
from modgap.core.prompt import Prompt, contrastive_prompt, training_prompt
from modgap.core.recipe import Recipe, Settings, Stage, apply_settings
from modgap.core.record import RunFolder
from modgap.models import tree
from modgap.models.load import load_policy
from modgap.models.memory import BatchSize
from modgap.models.policy import Policy
from modgap.testbed.build import Size, build_tiny
from modgap.training import checkpoint as checkpoint_module
from modgap.training import local, rollout, update
from modgap.training.checkpoint import LastStep
from modgap.training.events import Event
from modgap.training.local import Job, final_checkpoint, train
from modgap.training.log import StageLog
from modgap.training.rollout import Batch, DataOrder, draw_size, hold_out, score
from modgap.training.setup import check_prompts, digest, identity
from modgap.training.update import SharedVision, TokenStats, computing, gradients, old_logprobs

on_cpu = functools.partial(load_policy, device="cpu")

SIZE = Size(
    vocabulary=400,
    text_width=64,
    text_layers=2,
    text_mlp=96,
    vision_width=64,
    vision_layers=2,
    vision_mlp=64,
    side=56,
)
SETTINGS = Settings(
    steps=2, prompts_per_step=4, samples_per_prompt=3, mini_batch=2, micro_batch=4, lr=1e-3,
    max_response_tokens=8, overlong_buffer=2, save_every=1, eval_every=1, validation_problems=2,
    max_refills=2,
)  # fmt: skip


def picture(n: int) -> bytes:
    image = Image.new("RGB", (56, 56), "white")
    ImageDraw.Draw(image).line([(n * 7 % 50, 3), (40, n * 11 % 50), (5, 50)], fill="black", width=3)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


PROBLEMS = [
    Problem(
        id=f"prob_{n}", question=f"Find the length of A{'BCDEFGH'[n % 7]}.", answer=f"{n}.000",
        image=picture(n), semantic=(f"AB = {n}", f"BC = {n + 2}"),
    )
    for n in range(12)
]  # fmt: skip


def made_up(response: str, gold: str) -> Any:
    """A reward that depends on nothing but the words, and takes every value."""
    kind = zlib.crc32(f"{gold} {response}".encode()) % 3
    return SimpleNamespace(
        score=[0.0, 0.1, 1.0][kind], acc=float(kind == 2), format=float(kind > 0)
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [
        training_prompt(problem, view).text
        for problem in PROBLEMS
        for view in ("full-text", "image-only")
    ]
    folder = build_tiny(tmp_path_factory.mktemp("tiny") / "model", words, seed=3, size=SIZE)
    policy = on_cpu(folder, dtype="float32")
    with torch.no_grad():  # opinionated, so that the two prompts differ and the clamps have work
        policy.model.lm_head.weight.mul_(18)
        for layer in policy.decoder.layers:
            for linear in (layer.mlp.down_proj, layer.self_attn.o_proj, layer.self_attn.v_proj):
                linear.weight.mul_(20)
        policy.visual.merger.mlp[-1].weight.mul_(10)
    policy.save(folder)
    return folder


@pytest.fixture
def policy(tiny: Path) -> Policy:
    loaded = on_cpu(tiny, dtype="float32")
    loaded.model.train()
    return loaded


def recipe(
    contrastive: bool = False, views: tuple[str, ...] = ("full-text",), **changes: Any
) -> Recipe:
    return Recipe("test", (Stage(views, contrastive, replace(SETTINGS, **changes)),))


def run(
    recipe: Recipe, tiny: Path, out: Path, reward: Any = made_up, loader: Any = on_cpu, **more: Any
) -> list[Event]:
    events: list[Event] = []
    train(
        recipe,
        PROBLEMS,
        tiny,
        out,
        load_policy=loader,
        reward=reward,
        progress=events.append,
        job=Job(**more),
    )
    return events


def log_of(stage: Path, *, timing: bool = False) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (stage / "train_log.jsonl").read_text().splitlines()]
    timed = ("time_", "tokens_per_s")
    return (
        rows
        if timing
        else [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]
    )


def rollouts_of(stage: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage / "rollouts.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


# The oracle: every row forwarded twice, images and all, in one graph


def sampled_batch(
    policy: Policy, *, contrastive: bool = True, views: tuple[str, ...] = ("full-text",)
) -> Batch:
    stage = Stage(views, contrastive, SETTINGS)
    roller = rollout.Roller(policy, DataOrder(PROBLEMS[:3], views, 1), stage, 1, "aligned")
    groups = roller.draw(4)  # 4 of 3 problems: one image comes twice
    roller.sample(groups)
    roller.grade(groups, made_up)
    batch = Batch.of([group for group in groups if group.mixed])
    assert len(batch) >= 9 and batch.eligible_B.sum() >= 2
    # It never stops by itself: cut the responses, so that there is padding.
    return replace(
        batch, responses=[tokens[: 1 + 5 * n % 8] for n, tokens in enumerate(batch.responses)]
    )


def plain_logps(
    policy: Policy, prompt: Any, response: torch.Tensor, temperature: float
) -> torch.Tensor:
    """`[T, V]` from one plain forward of transformers' model."""
    ids = torch.cat((prompt.input_ids, response))[None]
    config = policy.model.config
    logits = policy.model(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.image_grid_thw,
        mm_token_type_ids=(ids == config.image_token_id).long(),
    ).logits[0, len(prompt.input_ids) - 1 : -1]  # fmt: skip
    logits = logits / temperature
    logits[:, [config.image_token_id, config.video_token_id]] = -torch.inf
    return logits.log_softmax(-1)


def naive_loss(policy: Policy, batch: Batch, settings: Settings) -> torch.Tensor:
    policy_terms, kl_terms = [], []
    size = settings.micro_batch if settings.loss_mean == "micro_batch" else len(batch)
    for start in range(0, len(batch), size):
        losses, kls = [], []
        for i in range(start, min(start + size, len(batch))):
            y = batch.responses[i]
            full = plain_logps(policy, batch.prompts[i], y, settings.temperature)
            free = plain_logps(policy, batch.twins[i], y, settings.temperature)
            full_t, free_t = full.gather(1, y[:, None])[:, 0], free.gather(1, y[:, None])[:, 0]
            old = full_t.detach() if batch.old_logps is None else batch.old_logps[i]
            a, rho = batch.advantages_B[i], (full_t - old).clamp(-20, 20).exp()
            surrogate = torch.min(
                rho * a, rho.clamp(1 - settings.clip_low, 1 + settings.clip_high) * a
            )
            losses.append(-(torch.max(surrogate, settings.dual_clip * a) if a < 0 else surrogate))
            if batch.eligible_B[i]:
                d = full_t.detach() - free_t
                if settings.kl_estimator == "forward":
                    kls.append(d)
                elif settings.kl_estimator == "full_vocab":
                    keep = ~full[0].isinf()
                    p, q = full[:, keep].detach(), free[:, keep]
                    kls.append((p.exp() * (p - q)).sum(-1))
                else:
                    k3 = d.clamp(-20, 20).exp() - d.clamp(-20, 20) - 1
                    kls.append(k3.clamp(-10, 10) if settings.kl_clamp == "paper" else k3)
        policy_terms.append(torch.cat(losses).mean())
        kl_terms.append(torch.cat(kls).mean() if kls else torch.zeros(()))
    return torch.stack(policy_terms).mean() + settings.kl_coef * torch.stack(kl_terms).mean()


def gradients_of(policy: Policy) -> dict[str, torch.Tensor]:
    return {
        name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None
    }


def assert_same_gradients(
    got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float
) -> None:
    assert got.keys() == expected.keys()
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
    for name, gradient in expected.items():
        own = float(gradient.abs().max())
        torch.testing.assert_close(
            got[name], gradient, rtol=tolerance, atol=tolerance * own, msg=name
        )


@pytest.fixture(params=["together", "apart"])
def twins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Beside their prompts as far as the settings allow, or in passes of their own."""
    if request.param == "apart":
        monkeypatch.setattr(update, "twins_together", lambda *_: False)
    return request.param


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"kl_clamp": "none"}, {"kl_estimator": "forward"}, {"kl_estimator": "full_vocab"},
        {"loss_mean": "micro_batch"},
    ],
    ids=str,
)  # fmt: skip
def test_loss_and_gradients_equal_the_naive_form(
    policy: Policy, twins: str, changes: dict[str, Any]
) -> None:
    settings = replace(SETTINGS, kl_coef=0.5, **changes)
    batch = sampled_batch(policy)
    torch.manual_seed(0)
    old = [
        logps + 0.4 * torch.randn_like(logps)
        for logps in old_logprobs(policy, batch, settings, 100)
    ]
    batch = replace(batch, old_logps=old)
    loss = naive_loss(policy, batch, settings)
    loss.backward()
    expected = gradients_of(policy)
    for micro_batch in (2, 100):
        stats = gradients(policy, batch, settings, True, micro_batch)
        assert_same_gradients(gradients_of(policy), expected, 1e-5)
        assert stats.loss == pytest.approx(loss.item(), rel=1e-5)
        means = stats.means()
        assert means["clip_low"] + means["clip_high"] > 0 and means["contrastive_kl"] > 0.1
        if settings.kl_estimator == "k3" and settings.kl_clamp == "paper":
            assert 0 < means["kl_clamped"] < 1  # the oracle saw both sides of the clamp


def test_a_tree_has_the_log_probabilities_of_each_row_alone(policy: Policy) -> None:
    """Prompts with and without an image, twins beside their prompts, a prompt that is there once, a
    response of one token."""
    batch = sampled_batch(policy)
    alone = policy.encode(training_prompt(PROBLEMS[5], "full-text"), PROBLEMS[5].open_image())
    words = policy.encode(replace(training_prompt(PROBLEMS[6], "full-text"), has_image=False), None)
    prompts = [*batch.prompts[:5], *batch.twins[:5], alone, words, words]
    responses = [
        *batch.responses[:5],
        *batch.responses[:5],
        batch.responses[0],
        *(r[:1] for r in batch.responses[:2]),
    ]
    with torch.no_grad():
        logps_BT, _, mask_BT = policy.logprobs(
            prompts, responses, policy.image_features(prompts), 0.7
        )
    for prompt, response, logps, mask in zip(prompts, responses, logps_BT, mask_BT, strict=True):
        plain = plain_logps(policy, prompt, response, 0.7).gather(-1, response[:, None])[:, 0]
        assert int(mask.sum()) == len(response)
        torch.testing.assert_close(logps[: len(response)], plain.detach(), rtol=1e-4, atol=1e-5)


def test_a_twin_follows_the_first_tokens_of_its_prompt(policy: Policy) -> None:
    batch = sampled_batch(policy)
    image = policy.model.config.image_token_id
    first = [i for i, prompt in enumerate(batch.prompts) if prompt is batch.prompts[0]]
    prompts = [*(batch.prompts[i] for i in first), *(batch.twins[i] for i in first)]
    responses = [batch.responses[i] for i in first] * 2
    planted = tree.plant(prompts, responses, image)
    assert int((planted.ids == image).sum()) == int((batch.prompts[0].input_ids == image).sum())
    full, free = batch.prompts[0], batch.twins[0]
    prompt, answers, twin, again = planted.spans
    assert (
        prompt.context == ()
        and prompt.lengths == (len(full),)
        and answers.context == ((0, len(full)),)
    )
    ((at, shared),) = twin.context
    assert at == 0 and full.input_ids[:shared].equal(free.input_ids[:shared])
    assert full.input_ids[shared] != free.input_ids[shared]
    assert again.context == ((0, shared), (2, len(free) - shared)) and twin.lengths == (
        len(free) - shared,
    )
    assert len(planted.ids) == len(full) + twin.lengths[0] + 2 * sum(
        len(batch.responses[i]) - 1 for i in first
    )


def test_the_first_step_has_the_gradient_of_trls_grpo_trainer(
    policy: Policy, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    batch = sampled_batch(policy, contrastive=False, views=("full-text", "image-only"))
    # TRL bans the image tokens in sampling only.
    policy.token_logps = lambda logits, temperature: (logits / temperature).log_softmax(-1)  # type: ignore[method-assign]
    gradients(policy, batch, SETTINGS, False, 4)
    ours = gradients_of(policy)
    policy.model.zero_grad(set_to_none=True)

    rows = len(batch)
    trainer = trl.GRPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=datasets.Dataset.from_dict({"prompt": ["a"] * rows}),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), loss_type="dapo", epsilon=SETTINGS.clip_low,
            epsilon_high=SETTINGS.clip_high, beta=0.0, temperature=SETTINGS.temperature,
            per_device_train_batch_size=rows, num_generations=rows, max_completion_length=8,
            use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        ),
    )  # fmt: skip
    width, longest = (max(map(len, rows)) for rows in (batch.prompts, batch.responses))
    ids = torch.full((rows, width + longest), policy.tokenizer.pad_token_id)
    real = torch.zeros_like(ids)
    for i, (prompt, response) in enumerate(zip(batch.prompts, batch.responses, strict=True)):
        ids[i, width - len(prompt) : width], real[i, width - len(prompt) : width] = (
            prompt.input_ids,
            1,
        )
        ids[i, width : width + len(response)], real[i, width : width + len(response)] = response, 1
    trainer.current_gradient_accumulation_steps = 1
    policy.model.train()
    loss = trainer.compute_loss(
        policy.model,
        {
            "prompt_ids": ids[:, :width], "prompt_mask": real[:, :width],
            "completion_ids": ids[:, width:], "completion_mask": real[:, width:],
            "advantages": batch.advantages_B, "num_items_in_batch": real[:, width:].sum(),
            "num_images": [1] * rows,
            "pixel_values": torch.cat([prompt.pixel_values for prompt in batch.prompts]),
            "image_grid_thw": torch.cat([prompt.image_grid_thw for prompt in batch.prompts]),
            "mm_token_type_ids": (ids == policy.model.config.image_token_id).long(),
        },
    )  # fmt: skip
    loss.backward()
    assert_same_gradients(ours, gradients_of(policy), 1e-4)


def test_recomputing_layers_and_the_size_of_the_micro_batch_change_no_gradient(
    tiny: Path, policy: Policy
) -> None:
    batch = sampled_batch(policy)
    settings = replace(SETTINGS, kl_coef=0.5)
    gradients(policy, batch, settings, True, 100)
    expected = gradients_of(policy)
    saving = on_cpu(tiny, dtype="float32", gradient_checkpointing=True)
    saving.model.train()
    for micro_batch in (1, 5):
        gradients(saving, batch, settings, True, micro_batch)
        assert_same_gradients(gradients_of(saving), expected, 1e-5)


def test_the_vision_tower_sees_each_image_once(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = sampled_batch(policy)
    seen: list[int] = []
    forward = policy.image_features

    def counted(prompts: Any) -> Any:
        seen.append(len({prompt.image_key for prompt in prompts}))
        return forward(prompts)

    monkeypatch.setattr(policy, "image_features", counted)
    gradients(policy, batch, SETTINGS, True, 100)
    assert seen == [3]
    vision = SharedVision(policy, [*batch.prompts, *batch.twins], 100)
    assert len({id(leaf) for leaf in vision.of([*batch.prompts, *batch.twins])}) == 3


# The loop


@pytest.fixture(scope="session")
def kl_run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """Three stages, as `kl-curriculum` has them, of two steps each."""
    stages = (
        Stage(("full-text",)),
        Stage(("full-text",), True),
        Stage(("image-only", "full-text")),
    )
    chained = Recipe("chained", tuple(replace(stage, settings=SETTINGS) for stage in stages))
    out = tmp_path_factory.mktemp("chained") / "run"
    return out, run(chained, tiny, out)


def test_a_chained_recipe_makes_real_updates_and_keeps_what_it_did(
    kl_run: tuple[Path, list[Event]], tiny: Path
) -> None:
    out, events = kl_run
    before = weights_of(tiny)
    for number in (1, 2, 3):
        stage = out / f"stage{number}"
        rows = log_of(stage)
        assert [row["step"] for row in rows] == [1, 2]
        for row in rows:
            assert row["kept_groups"] > 0 and row["grad_norm"] > 0 and row["updates"] > 0
            assert 0 <= row["accuracy"] <= 1 and 0 <= row["validation_accuracy"] <= 1
            assert row["length_max"] <= 8 and 0 <= row["truncated"] <= 1 and row["entropy"] > 0
            assert ("contrastive_kl" in row) == (number == 2 and row["eligible_rows"] > 0)
        assert any(row["eligible_rows"] for row in rows) == (number == 2)
        sampled = rollouts_of(stage)
        for row in rows:
            mine = [r for r in sampled if r["step"] == row["step"]]
            assert len(mine) == row["sampled_groups"] * 3
            assert sum(r["used"] for r in mine) == row["kept_groups"] * 3
            assert sum(r["reward"] for r in mine) / len(mine) == pytest.approx(row["reward"])
        views = {"full-text"} if number < 3 else {"full-text", "image-only"}
        assert {row["view"] for row in sampled} == views
        after = weights_of(stage / "checkpoints" / "step_2")
        changed = [
            name
            for name in after
            if not torch.equal(after[name], before[name].to(after[name].dtype))
        ]
        assert any("visual" in name for name in changed) and any(
            "language" in name or "layers" in name for name in changed
        )
        before = after
        assert (stage / "checkpoints" / "best").resolve().name in ("step_1", "step_2")
        assert not (stage / "state.pt").exists() and list((stage / "tensorboard").iterdir())
    assert final_checkpoint(out) == out / "stage3" / "checkpoints" / "step_2"
    assert [event.text for event in events if event.kind == "stage"] == [
        "full-text", "full-text + contrastive KL", "image-only + full-text"
    ]  # fmt: skip
    assert [event.step for event in events if event.kind == "step"] == [1, 2] * 3


def test_a_finished_run_is_not_done_again_and_other_arguments_are_refused(
    kl_run: tuple[Path, list[Event]], tiny: Path
) -> None:
    out, _ = kl_run
    before = (out / "stage3" / "train_log.jsonl").read_bytes()
    stages = (
        Stage(("full-text",)),
        Stage(("full-text",), True),
        Stage(("image-only", "full-text")),
    )
    chained = Recipe("chained", tuple(replace(stage, settings=SETTINGS) for stage in stages))

    def no_model(*_: Any, **__: Any) -> Any:
        raise AssertionError("a finished run loads no model")

    assert [e.kind for e in run(chained, tiny, out, loader=no_model)] == ["stage"] * 3
    assert (out / "stage3" / "train_log.jsonl").read_bytes() == before
    faster = apply_settings(chained, ["lr=0.002"])
    with pytest.raises(UserError, match=r"lr was .*, now 0\.002"):
        run(faster, tiny, out, loader=no_model)


def test_a_stage_starts_from_the_last_ones_weights_with_a_fresh_optimizer(
    kl_run: tuple[Path, list[Event]], tiny: Path, tmp_path: Path
) -> None:
    out, _ = kl_run
    alone = Recipe("alone", (Stage(("full-text",), True, SETTINGS),))
    started: list[Path] = []

    def loader(ref: Path, **how: Any) -> Policy:
        started.append(ref)
        return on_cpu(ref, **how)

    run(alone, out / "stage1" / "checkpoints" / "step_2", tmp_path / "run", loader=loader)
    # Draws are seeded with the stage's number, so the first stage draws others; what must agree is
    # where it starts.
    assert started == [out / "stage1" / "checkpoints" / "step_2"]
    first = on_cpu(started[0], dtype="float32").model.state_dict()
    saved = weights_of(started[0])
    assert all(
        value.dtype == torch.float32 and torch.equal(first[name], value)
        for name, value in saved.items()
        if name in first
    )


def test_the_first_update_is_on_policy_exactly(tiny: Path, tmp_path: Path) -> None:
    run(recipe(mini_batch=4, steps=1), tiny, tmp_path)
    (row,) = log_of(tmp_path / "stage1")
    assert row["updates"] == 1 and row["ratio_mean"] == 1.0 and row["ratio_max"] == 1.0
    assert row["clip_low"] == row["clip_high"] == row["clip_dual"] == 0.0


def test_later_updates_of_a_step_are_off_policy(kl_run: tuple[Path, list[Event]]) -> None:
    rows = [row for row in log_of(kl_run[0] / "stage1") if row["updates"] > 1]
    assert rows and all(row["ratio_max"] > 1.0 for row in rows)


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
        expected = min(12, math.ceil(4 / before["mixed_share"]))
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


# Going on after a kill

LONG = {"steps": 4, "save_every": 2, "eval_every": 2}


@pytest.fixture(scope="session")
def straight(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight")
    run(recipe(True, **LONG), tiny, out)
    return out / "stage1"


def assert_same_run(stage: Path, straight: Path) -> None:
    assert log_of(stage) == log_of(straight)
    assert rollouts_of(stage) == rollouts_of(straight)
    for step in (2, 4):
        got, expected = (weights_of(s / "checkpoints" / f"step_{step}") for s in (stage, straight))
        assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert json.loads((stage / "result.json").read_text()) == json.loads(
        (straight / "result.json").read_text()
    )
    assert sorted(p.name for p in (stage / "checkpoints").iterdir()) == ["best", "step_2", "step_4"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "where", ["in step 1", "in step 4", "between weights and state", "while saving weights"]
)
def test_a_run_that_was_killed_goes_on_bit_equal(
    where: str, tiny: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def dies(*_: Any, **__: Any) -> Any:
        raise Killed

    def progress(event: Event) -> None:
        nonlocal calls
        calls += event.kind == "phase" and event.text == "update"
        if where.startswith("in step") and calls == int(where[-1]):
            raise Killed
        if calls == 4 and where == "between weights and state":
            monkeypatch.setattr(checkpoint_module, "save_state", dies)
        if calls == 4 and where == "while saving weights":
            monkeypatch.setattr(
                Policy, "save", lambda self, folder: (folder / "half").touch() or dies()
            )

    with pytest.raises(Killed):
        train(
            recipe(True, **LONG),
            PROBLEMS,
            tiny,
            tmp_path,
            load_policy=on_cpu,
            reward=made_up,
            progress=progress,
        )
    monkeypatch.undo()
    run(recipe(True, **LONG), tiny, tmp_path)
    assert_same_run(tmp_path / "stage1", straight)


@pytest.mark.parametrize("phase", ["rollout", "update"])
def test_a_run_that_was_interrupted_loses_no_finished_step(
    phase: str, tiny: Path, straight: Path, tmp_path: Path
) -> None:
    """Ctrl-C in step 4, two steps after the last checkpoint: it resumes at step 3, bit for bit."""
    begun: list[int] = []

    def progress(event: Event) -> None:
        begun.append(event.step)
        if event.kind == "phase" and event.text == phase and event.step == 3:
            raise KeyboardInterrupt

    plan = recipe(True, **LONG | {"save_every": 0})
    with pytest.raises(KeyboardInterrupt):
        train(plan, PROBLEMS, tiny, tmp_path, load_policy=on_cpu, reward=made_up, progress=progress)
    begun.clear()
    train(
        plan,
        PROBLEMS,
        tiny,
        tmp_path,
        load_policy=on_cpu,
        reward=made_up,
        progress=lambda e: begun.append(e.step),
    )
    assert min(begun) == 3
    stage = tmp_path / "stage1"
    assert log_of(stage) == log_of(straight) and rollouts_of(stage) == rollouts_of(straight)
    got, expected = (weights_of(s / "checkpoints" / "step_4") for s in (stage, straight))
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["result.json", "state.pt", "rollouts.jsonl"])
def test_a_stage_adopts_nothing_of_another_run(
    tiny: Path, straight: Path, tmp_path: Path, name: str
) -> None:
    """Its manifest is that of a run with another seed, or it has none."""
    other = recipe(True, **LONG, seed=9)
    shutil.copytree(straight.parent, tmp_path / "run", symlinks=True)
    stage = tmp_path / "run" / "stage1"
    if name != "result.json":
        (stage / "result.json").unlink()
    if name == "state.pt":
        (stage / "rollouts.jsonl").unlink()
        torch.save({"run": RunFolder(stage).mark(), "weights": {}, "step": 1}, stage / "state.pt")
    train_on, held_out = hold_out(PROBLEMS, SETTINGS.validation_problems)
    marks = {"model": "m", "data": digest(train_on), "validation": digest(held_out)}
    told = json.loads((stage / "manifest.json").read_text())
    told |= {"resolved": identity(other, 1, "the base model", "aligned"), "fingerprints": marks}
    (stage / "manifest.json").write_text(json.dumps(told))
    before = {path: path.stat().st_mtime_ns for path in stage.rglob("*")}
    with pytest.raises(
        UserError,
        match=rf"{name} is of another run than the manifest\.json beside it.*another --out",
    ):
        run(other, tiny, tmp_path / "run", fingerprint="m")
    assert {path: path.stat().st_mtime_ns for path in stage.rglob("*")} == before
    (stage / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"stage1 has lost its manifest\.json: it holds"):
        run(other, tiny, tmp_path / "run", fingerprint="m")


def test_weights_that_are_changing_are_not_a_steps(tmp_path: Path, policy: Policy) -> None:
    optimizer = torch.optim.AdamW(policy.parameters())
    for changing in (False, True):
        path = tmp_path / f"{changing}.pt"
        with pytest.raises(KeyboardInterrupt), LastStep(path) as last:
            last.done(False, policy, optimizer, step=1)
            if changing:
                last.changing()
            raise KeyboardInterrupt
        assert path.exists() != changing


def test_kill_9_and_the_same_command(tiny: Path, straight: Path, tmp_path: Path) -> None:
    script = (
        "import sys, os, signal, test_local_engine as t\ndef watch(e):\n    if e.kind == 'phase'"
        " and e.text == 'update' and e.step == 2: os.kill(os.getpid(),"
        " signal.SIGKILL)\nt.train(t.recipe(True, **t.LONG), t.PROBLEMS, sys.argv[1], sys.argv[2],"
        " load_policy=t.on_cpu, reward=t.made_up, progress=watch)\n"
    )
    here = str(Path(__file__).parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([here, *sys.path]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny), str(tmp_path)],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(log_of(tmp_path / "stage1")) == 2
    with pytest.raises(UserError, match="no finished training run"):
        final_checkpoint(tmp_path)
    with (tmp_path / "stage1" / "train_log.jsonl").open("a") as file:
        file.write('{"step": 3, "torn')
    run(recipe(True, **LONG), tiny, tmp_path)
    assert_same_run(tmp_path / "stage1", straight)


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


def test_a_frozen_vision_tower_does_not_move(tiny: Path, tmp_path: Path) -> None:
    run(recipe(freeze_vision=True, steps=1), tiny, tmp_path)
    before, after = weights_of(tiny), weights_of(tmp_path / "stage1" / "checkpoints" / "step_1")
    same = {
        name: torch.equal(after[name], value.to(after[name].dtype))
        for name, value in before.items()
    }
    assert all(same[name] for name in same if "visual" in name) and not all(same.values())


def test_lora_goes_on_after_a_kill_and_is_merged_into_a_plain_checkpoint(
    tiny: Path, tmp_path: Path
) -> None:
    with_lora = recipe(lora_rank=2, steps=2, eval_every=0, lr=1e-2)
    run(with_lora, tiny, tmp_path / "straight")

    def dies_in_step_2(event: Event) -> None:
        if event.kind == "phase" and event.step == 1:
            raise Killed

    with pytest.raises(Killed):
        train(
            with_lora,
            PROBLEMS,
            tiny,
            tmp_path / "run",
            load_policy=on_cpu,
            reward=made_up,
            progress=dies_in_step_2,
        )
    run(with_lora, tiny, tmp_path / "run")
    before = weights_of(tiny)
    after, straight = (
        weights_of(tmp_path / d / "stage1" / "checkpoints" / "step_2") for d in ("run", "straight")
    )
    assert before.keys() == after.keys() and all(
        torch.equal(after[name], straight[name]) for name in after
    )
    changed = {
        name for name in before if not torch.equal(after[name], before[name].to(after[name].dtype))
    }
    assert changed and all("layers" in name and "visual" not in name for name in changed)


def in_bf16(ref: Any, *, dtype: Any, **more: Any) -> Policy:
    """As on a GPU: bf16, but for what is trained whole."""
    return on_cpu(ref, dtype=dtype or "bfloat16", **more)


def test_a_chain_with_lora_loses_nothing_between_stages(tiny: Path, tmp_path: Path) -> None:
    """Each stage starts from the model that the last one ended with, killed or not; to the bit, as
    long as it is one adapter, and in fp32 the sum of two."""
    starts: list[torch.Tensor] = []
    ends: list[torch.Tensor] = []
    policies: list[Policy] = []

    def logps(policy: Policy) -> torch.Tensor:
        prompts = [
            policy.encode(training_prompt(p, "full-text"), p.open_image()) for p in PROBLEMS[:3]
        ]
        with torch.no_grad():
            return policy.logprobs(
                prompts, [torch.arange(20, 40)] * 3, policy.image_features(prompts)
            )[0]

    def loading(ref: Any, **more: Any) -> Policy:
        policies.append(in_bf16(ref, **more))
        starts.append(logps(policies[-1]))
        return policies[-1]

    def watching(event: Event) -> None:
        if event.kind == "step" and event.step == event.steps:
            ends.append(logps(policies[-1]))
        if event.kind == "phase" and event.stage == 2 and event.step == 1 and len(policies) == 2:
            raise Killed

    one = replace(SETTINGS, lora_rank=2, lr=1e-4, eval_every=0)
    settings = (one, replace(one, lora_rank=3), replace(one, lora_rank=0))
    stages = Recipe("test", tuple(Stage(("full-text",), False, each) for each in settings))
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(stages, PROBLEMS, tiny, out, load_policy=loading, reward=made_up, progress=watching)
    train(stages, PROBLEMS, tiny, out, load_policy=loading, reward=made_up, progress=watching)
    assert (
        torch.equal(starts[1], ends[0])
        and torch.equal(starts[2], ends[0])
        and not torch.equal(starts[0], ends[0])
    )
    first, second = (out / f"stage{number}" / "checkpoints" / "step_2" for number in (1, 2))
    assert torch.equal(logps(in_bf16(first, dtype=None)), ends[0])
    # In fp32: of two adapters and of their sum, bf16 rounds activations differently.
    by_adapters = logps(
        Policy(policies[2].model.float(), policies[2].tokenizer, policies[2].processor)
    )
    moved = by_adapters - logps(on_cpu(tiny, dtype="bfloat16")).float()
    assert moved.abs().max() > 1e-4
    assert (logps(on_cpu(second)) - by_adapters).norm() < 1e-3 * moved.norm()
    assert torch.equal(starts[3], logps(on_cpu(second)))

    straight = tmp_path / "straight"
    train(stages, PROBLEMS, tiny, straight, load_policy=in_bf16, reward=made_up)
    for number in (1, 2, 3):
        a, b = (
            weights_of(root / f"stage{number}" / "checkpoints" / "step_2")
            for root in (out, straight)
        )
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def length_reward(response: str, gold: str) -> float:
    return float(zlib.crc32(response.encode()) % 2)


def test_a_reward_of_your_own(tiny: Path, tmp_path: Path) -> None:
    run(
        recipe(reward_function="test_local_engine:length_reward", steps=1),
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


# Before the model is loaded


def no_model(*_: Any, **__: Any) -> Any:
    raise AssertionError("no model is loaded")


def test_a_stage_shared_by_a_link_counts_for_the_recipe_that_links_it(
    kl_run: tuple[Path, list[Event]], tiny: Path, tmp_path: Path
) -> None:
    first = Recipe("first", (Stage(("full-text",), False, SETTINGS),))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stage1").symlink_to(kl_run[0] / "stage1", target_is_directory=True)
    result = train(first, PROBLEMS, tiny, tmp_path / "run", load_policy=no_model, reward=made_up)
    assert (
        result.final
        == final_checkpoint(tmp_path / "run")
        == tmp_path / "run" / "stage1" / "checkpoints" / "step_2"
    )
    assert final_checkpoint(kl_run[0] / "stage1").name == "step_2"  # one stage, by itself


def test_a_folder_is_for_one_recipe_and_for_no_other_kind_of_run(
    kl_run: tuple[Path, list[Event]], tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="recipe was 'chained', now 'test'"):
        run(recipe(), tiny, kl_run[0], loader=no_model)
    RunFolder(tmp_path).start("eval", {"model": "m"})
    with pytest.raises(UserError, match="kind was 'eval', now 'train'"):
        run(recipe(), tiny, tmp_path, loader=no_model)
    with pytest.raises(UserError, match="no finished training run"):
        final_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "views", "message"),
    [
        (
            {"shown": {"full-text": Shown("AB = 3. Find AB.")}},
            ("full-text",),
            "validation .*no prompt.*'image-only'.*eval_ev",
        ),
        (
            {"shown": {"image-only": Shown("Find AB.")}},
            ("image-only", "full-text"),
            "stage 2 .*no prompt.*'full-text'",
        ),
        ({"image": None}, ("full-text",), r"stage 1 .*problem prob_0 has no diagram.*\(7 more"),
        ({"image": None}, ("text-only",), "validation .*no diagram.*eval_every=0"),
        ({"image": Path("nowhere.png")}, ("image-only",), "no file nowhere.png"),
        ({}, ("blank-image",), "'blank-image' cannot be trained on"),
    ],
    ids=str,
)
def test_words_and_diagrams_are_looked_for_first(
    change: dict[str, Any], views: tuple[str, ...], message: str, tiny: Path, tmp_path: Path
) -> None:
    faulty = [replace(problem, **change) for problem in PROBLEMS[:8]]
    stages = tuple(Stage((view,), False, SETTINGS) for view in views)
    with pytest.raises(UserError, match=message):
        train(
            Recipe("r", stages), faulty, tiny, tmp_path, load_policy=no_model, reward=made_up,
            job=Job(validation=faulty if "validation" in message else []),
        )  # fmt: skip
    assert not any(tmp_path.iterdir())  # nothing that would refuse another recipe


def test_what_is_not_shown_need_not_be_there() -> None:
    faulty = [replace(problem, image=None) for problem in PROBLEMS]
    check_prompts(recipe(views=("text-only",), eval_every=0), faulty, faulty, "aligned")
    own = [replace(problem, shown={"full-text": Shown("AB = 3. Find AB.")}) for problem in PROBLEMS]
    check_prompts(recipe(eval_every=0), own, own, "aligned")
    apart = [
        replace(problem, shown={"full-text": Shown(None, image=problem.image)})
        for problem in PROBLEMS
    ]
    with pytest.raises(
        UserError, match="images of its own for some views, and training shows one image"
    ):
        check_prompts(recipe(eval_every=0), apart, [], "aligned")
    with pytest.raises(UserError, match="no prompt for the view 'image-only'"):
        check_prompts(recipe(True, eval_every=0), own, [], "aligned")  # the twin


def test_every_stages_reward_is_found_first(tiny: Path, tmp_path: Path) -> None:
    stages = tuple(
        Stage(("full-text",), False, replace(SETTINGS, reward_function=name))
        for name in ("", "no_such_module:reward")
    )
    with pytest.raises(UserError, match="no_such_module"):
        run(Recipe("r", stages), tiny, tmp_path, reward=None, loader=no_model)
    with pytest.raises(UserError, match="SIZE is no function"):
        run(
            recipe(reward_function="test_local_engine:SIZE"),
            tiny,
            tmp_path,
            reward=None,
            loader=no_model,
        )


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (0.5, (0.5, 0, 0)), (1, (1, 1, 1)), (True, (1, 1, 1)), (np.float32(1), (1, 1, 1)),
        (torch.tensor(0.25), (0.25, 0, 0)), (np.array(0.25), (0.25, 0, 0)),
        ({"score": 0.9, "acc": 1.0, "format": 0.0, "ungraded": 0.0}, (0.9, 1, 0)),
        ({"score": np.int64(1)}, (1, 1, 1)),
        (SimpleNamespace(score=0.1, acc=0.0, format=1.0), (0.1, 0, 1)),
    ],
    ids=str,
)  # fmt: skip
def test_a_reward_may_have_any_form_that_is_a_number(given: Any, parts: tuple[float, ...]) -> None:
    assert score(lambda response, gold: given, "r", "g") == pytest.approx(parts)


@pytest.mark.parametrize(
    "given",
    [None, "1", {}, {"acc": 1.0}, math.nan, torch.ones(2), [1.0], {"score": math.inf}],
    ids=str,
)
def test_any_other_reward_is_named_with_its_function(given: Any) -> None:
    def my_reward(response: str, gold: str) -> Any:
        return given

    with pytest.raises(
        UserError, match=r"test_local_engine:.*my_reward gave .*finite number"
    ) as caught:
        score(my_reward, "r", "g")
    assert repr(given)[:20] in str(caught.value)


def test_a_digest_sees_the_images_and_not_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(picture(0))
    moved = [replace(PROBLEMS[0], image=tmp_path / "0.png"), *PROBLEMS[1:]]
    assert digest(moved) == digest(PROBLEMS)
    (tmp_path / "0.png").write_bytes(picture(1))
    assert digest(moved) != digest(PROBLEMS)


def test_unbounded_refills_are_written_in_json(tmp_path: Path) -> None:
    unbounded = recipe(max_refills=math.inf)
    unbounded.check()
    RunFolder(tmp_path).start("train", identity(unbounded, 1, "model", "aligned"))

    def no_constant(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    manifest = json.loads((tmp_path / "manifest.json").read_text(), parse_constant=no_constant)
    assert manifest["resolved"]["max_refills"] == "inf"
    assert RunFolder(tmp_path).start("train", identity(unbounded, 1, "model", "aligned"))


# What a run keeps and says


def test_a_smaller_micro_batch_holds_when_a_run_goes_on(tiny: Path, tmp_path: Path) -> None:
    def dies(event: Event) -> None:
        if event.kind == "phase" and event.step == 1:
            raise Killed

    with pytest.raises(Killed):
        train(recipe(), PROBLEMS, tiny, tmp_path, load_policy=on_cpu, reward=made_up, progress=dies)
    run(recipe(micro_batch=1), tiny, tmp_path)
    assert [row["micro_batch"] for row in log_of(tmp_path / "stage1")] == [4, 1]


def test_groups_that_are_not_used_let_go_of_their_pixels(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[bool, bool]] = []
    written = StageLog.rollouts

    def looked_at(self: StageLog, step: int, groups: Any, used: Any) -> None:
        chosen = {id(group) for group in used}
        held.extend((id(g) in chosen, g.prompt is not None or g.twin is not None) for g in groups)
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
        PROBLEMS[0], "full-text", words, None, None, [1], [said], zeros, zeros, zeros, zeros
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
def test_a_draw_is_what_is_missing_at_the_rate_so_far(
    wanted: int, kept: int, sampled: int, before: float
) -> None:
    if kept < wanted and kept <= sampled:
        size = draw_size(replace(SETTINGS, prompts_per_step=wanted), kept, sampled, before)
        most, rate = (wanted, kept / sampled) if sampled else (3 * wanted, before)
        assert wanted - kept <= size <= most
        assert size == most or size - 1 < (wanted - kept) / rate <= size


def test_held_out_problems_are_the_same_in_any_order_and_never_trained_on(
    kl_run: tuple[Path, list[Event]],
) -> None:
    kept, held = hold_out(PROBLEMS, 2)
    assert len(held) == 2 and len(kept) == 10
    assert {p.id for p in hold_out(PROBLEMS[::-1], 2)[1]} == {p.id for p in held}
    assert not hold_out(PROBLEMS[:4], 64)[1]  # too few to spare one
    trained = {row["problem_id"] for n in (1, 2, 3) for row in rollouts_of(kl_run[0] / f"stage{n}")}
    assert trained and not trained & {p.id for p in held}


def test_the_twin_shares_the_image_of_its_prompt(policy: Policy) -> None:
    problem = PROBLEMS[0]
    full = policy.encode(
        training_prompt(problem, "full-text", contrastive=True), problem.open_image()
    )
    twin = policy.encode(contrastive_prompt(problem), problem.open_image())
    assert full.image_key == twin.image_key and len(twin) < len(full)


# On a GPU: pytest -m gpu


def cosine(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    one, other = (
        torch.cat([g[name].flatten().double().cpu() for name in sorted(g)]) for g in (a, b)
    )
    return float(one @ other / one.norm() / other.norm())


@pytest.mark.gpu
def test_bf16_on_a_gpu_has_the_direction_of_fp32_and_trains_fp32_weights(
    tiny: Path, policy: Policy
) -> None:
    batch = sampled_batch(policy)
    settings = replace(SETTINGS, kl_coef=0.5)
    gradients(policy, batch, settings, True, 100)
    for micro_batch in (100, 2):
        on_gpu = local.load_for_training(load_policy, tiny, settings)
        assert on_gpu.device.type == "cuda" and {p.dtype for p in on_gpu.parameters()} == {
            torch.float32
        }
        gradients(on_gpu, batch, settings, True, micro_batch)
        got = gradients_of(on_gpu)  # type: ignore[arg-type]
        expected = gradients_of(policy)
        assert got.keys() == expected.keys() and cosine(got, expected) > 0.99


@pytest.mark.gpu
def test_real_out_of_memory_halves_the_micro_batch(tiny: Path, policy: Policy) -> None:
    batch = sampled_batch(policy)
    long = replace(
        batch,
        responses=[
            torch.randint(5, 300, (1500,), generator=torch.Generator().manual_seed(n))
            for n in range(len(batch))
        ],
    )
    on_gpu = local.load_for_training(load_policy, tiny, SETTINGS)
    torch.cuda.reset_peak_memory_stats()  # of the tests before
    gradients(on_gpu, long, SETTINGS, True, 100)
    expected, peak = gradients_of(on_gpu), torch.cuda.max_memory_allocated()  # type: ignore[arg-type]
    torch.cuda.empty_cache()
    notes: list[str] = []
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(0.6 * peak / total)
        BatchSize(16, notes.append).run(
            "update", lambda size: gradients(on_gpu, long, SETTINGS, True, size)
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert notes and "halved to 8 rows" in notes[0]
    assert cosine(gradients_of(on_gpu), expected) > 0.99  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options", [{}, {"lora_rank": 2}, {"gradient_checkpointing": True}], ids=str
)
def test_a_chained_recipe_trains_on_a_gpu(
    options: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, **options)
    stages = (
        Stage(("full-text",), False, settings),
        Stage(("full-text", "image-only"), True, settings),
    )
    run(Recipe("chained", stages), tiny, tmp_path, loader=load_policy)
    rows = [row for n in (1, 2) for row in log_of(tmp_path / f"stage{n}")]
    assert all(row["grad_norm"] > 0 for row in rows if row["updates"]) and any(
        row["updates"] for row in rows
    )
    # As loaded: transformers may write either of two layouts of the names.
    last = tmp_path / "stage2" / "checkpoints" / "step_2"
    before, after = (
        load_policy(folder, device="cpu").model.state_dict() for folder in (tiny, last)
    )
    assert any(not torch.equal(before[name], after[name].float()) for name in before)


@pytest.mark.gpu
def test_no_pass_of_an_update_waits_for_the_gpu(
    twins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first pass to the end of the last, images of several sizes and twins included: torch
    would raise.
    """
    on_gpu = load_policy("tiny", device="cuda", dtype=torch.float32, pixels=(56 * 56, 140 * 140))
    words = torch.Generator().manual_seed(0)
    prompts, twins = [], []
    for n, size in enumerate([(56, 56), (112, 84), (140, 140)]):
        image = Image.new("RGB", size, "white")
        prompts += [on_gpu.encode(Prompt(f"AB = {n}. Find x."), image)] * 3
        twins += [on_gpu.encode(Prompt("Find x."), image)] * 3
    advantages = torch.tensor([1.0, -0.5, -0.5] * 3)
    responses = [torch.randint(10, 600, (n,), generator=words) for n in (4, 6, 1, 3, 2, 5, 7, 7, 2)]
    batch = Batch(prompts, twins, responses, advantages, advantages > 0)
    scored_first, read = Policy.logprobs, TokenStats.read

    def logprobs(self: Policy, *given: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        return scored_first(self, *given)

    def at_the_end(self: TokenStats) -> TokenStats:
        torch.cuda.set_sync_debug_mode("default")
        return read(self)

    settings = replace(SETTINGS, kl_coef=0.5)
    gradients(on_gpu, batch, settings, True, 4)  # what is made once and kept
    monkeypatch.setattr(Policy, "logprobs", logprobs)
    monkeypatch.setattr(TokenStats, "read", at_the_end)
    try:
        assert gradients(on_gpu, batch, settings, True, 4).means()["contrastive_kl"] > 0
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_steps_of_equal_sizes_take_no_new_memory() -> None:
    """Rollouts keep their graphs and the copies that these read, so that nothing is given back and
    asked for again.
    """
    on_gpu = load_policy("tiny", device="cuda", dtype=torch.float32)
    prompts = [on_gpu.encode(Prompt(f"AB = {n}. Find x.", has_image=False)) for n in range(4)]
    optimizer = torch.optim.AdamW(on_gpu.parameters(), lr=0.0)
    seen: list[tuple[int, int]] = []
    for _ in range(6):
        with computing(on_gpu):
            rolled = on_gpu.generate(prompts, [list(range(5))] * 4, 1.0, 60)
        rows = [prompt for prompt in prompts for _ in range(5)]
        responses = [sample.token_ids for row in rolled for sample in row]
        advantages = torch.tensor([1.0, -0.25, -0.25, -0.25, -0.25] * 4)
        batch = Batch(rows, rows, responses, advantages, advantages > 0)
        gradients(on_gpu, batch, SETTINGS, False, 10)
        optimizer.step()
        stats = torch.cuda.memory_stats()
        seen.append((stats["num_device_alloc"], stats["reserved_bytes.all.current"]))
    assert on_gpu._static is not None and on_gpu._static.graphs
    assert seen[3] == seen[4] == seen[5], seen
