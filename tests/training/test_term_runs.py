"""Whole trainings with terms on the local engine, the twins' pictures, and the reading reward."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_training import (
    LONG,
    PROBLEMS,
    SETTINGS,
    log_of,
    made_up,
    on_cpu,
    rollouts_of,
    run,
    weights_of,
)

from modgap.analysis.transcription import share_read
from modgap.core.errors import UserError
from modgap.core.prompt import TRANSCRIBE_INSTRUCTION, training_prompt
from modgap.core.recipe import Recipe, Stage
from modgap.core.terms import Reward, Term, Twin
from modgap.models.encode import Pixels, pixel_values
from modgap.models.policy import Policy
from modgap.training.events import Event
from modgap.training.local import train
from modgap.training.pictures import as_bytes, pictured


def recipe_of(*terms: Term, views: tuple[str, ...] = ("full-text",), **more: Any) -> Recipe:
    changes = {name: more.pop(name) for name in ("reward", "policy_loss") if name in more}
    stage = Stage(views, settings=replace(SETTINGS, **more), terms=terms, **changes)
    return Recipe("test", (stage,))


def test_an_interrupted_run_with_an_average_teacher_goes_on_bit_for_bit(
    tiny: Path, tmp_path: Path
) -> None:
    terms = (
        Term("image-only", "twin", "reverse", None, 0.5, "all", teacher="ema", decay=0.5),
        Term("", "twin", "k3", None, 0.5, "all", teacher="frozen"),
    )
    plan = recipe_of(*terms, **LONG | {"save_every": 0})
    run(plan, tiny, tmp_path / "straight")

    def progress(event: Event) -> None:
        if event.kind == "phase" and event.text == "update" and event.step == 3:
            raise KeyboardInterrupt

    again = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        train(plan, PROBLEMS, tiny, again, load_policy=on_cpu, reward=made_up, progress=progress)
    run(plan, tiny, again)
    stages = [folder / "stage1" for folder in (tmp_path / "straight", again)]
    assert log_of(stages[0]) == log_of(stages[1])
    got, expected = (weights_of(stage / "checkpoints" / "step_4") for stage in stages)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    last = log_of(stages[0])[-1]
    assert last["term1"] != 0 and last["term2"] != 0 and last["term1"] != last["term2"]


def test_each_term_is_logged_under_its_number_and_the_papers_under_its_own_names(
    tiny: Path, tmp_path: Path
) -> None:
    terms = (
        Term("image-only", "rollout", "k3", 10.0, 0.01, "right"),
        Term("image-only", "twin", "reverse", 0.5, 0.1, "wrong"),
        Term(estimator="nll", coef=0.01, rows="all"),
        Term("text-only", coef=0.0),
    )
    run(recipe_of(*terms, max_refills=5), tiny, tmp_path)
    for row in log_of(tmp_path / "stage1"):
        rows = row["kept_groups"] * SETTINGS.samples_per_prompt
        assert row["eligible_rows"] + row["term2_rows"] == row["term3_rows"] == rows > 0
        assert ("contrastive_kl" in row) == (row["eligible_rows"] > 0)
        assert 0 < row["term2_clamped"] < 1 and row["term3_clamped"] == 0
        assert row["term3"] == pytest.approx(row["term3"]) and row["term3"] > 0
        assert "term1" not in row and "term4" not in row
    titles = {
        "full-text + contrastive KL + reverse KL to image-only + nll of itself + k3 KL to text-only"
    }
    assert {recipe_of(*terms).stages[0].title} == titles


def test_supervised_targets_alone_raise_their_probability(tiny: Path, tmp_path: Path) -> None:
    """The model's own right answers as targets of the other view, without a policy loss."""
    term = Term("image-only", estimator="nll", coef=1.0, rows="all")
    plan = recipe_of(
        term, policy_loss=False, dynamic_sampling=False, steps=6, mini_batch=4, temperature=1.0
    )
    run(plan, tiny, tmp_path)
    rows = log_of(tmp_path / "stage1")
    assert rows[-1]["term1"] < rows[0]["term1"]
    assert all(row["loss"] == pytest.approx(row["term1"], rel=1e-5) for row in rows)
    assert "ratio_mean" not in rows[0]


# Pictures

MASKED = Twin("", "masked", 0.6, 0, "live", None)


def test_a_masked_picture_is_black_in_its_share_of_the_patches(policy: Policy) -> None:
    words, image = training_prompt(PROBLEMS[0], "full-text"), PROBLEMS[0].open_image()
    prompt = policy.encode(words, image)
    assert prompt.pixels is not None
    table = policy.bytes_seen
    changed = pictured(prompt, MASKED, table)
    assert changed.pixels is not None and changed.image_key != prompt.image_key
    assert changed.input_ids is prompt.input_ids
    black = (changed.pixels.data == 0).all(-1).all(-1)
    assert int(black.sum()) == round(0.6 * len(black))
    assert changed.pixels.data[~black].equal(prompt.pixels.data[~black])
    # What the model sees is what the processor makes of a black square.
    dark = policy.encode(words, Image.new("RGB", image.size, "black"))
    assert dark.pixel_values is not None and changed.pixel_values is not None
    torch.testing.assert_close(changed.pixel_values[black], dark.pixel_values[black])
    again = pictured(policy.encode(words, image), MASKED, table)
    assert again.pixels is not None and again.pixels.data.equal(changed.pixels.data)
    for other in (
        pictured(prompt, MASKED._replace(seed=1), table),
        pictured(policy.encode(words, PROBLEMS[1].open_image()), MASKED, table),
    ):
        assert other.pixels is not None
        assert not (other.pixels.data == 0).all(-1).all(-1).equal(black)


def test_a_blank_picture_is_the_view_blank_image_and_noise_is_of_its_size(policy: Policy) -> None:
    words, image = training_prompt(PROBLEMS[0], "full-text"), PROBLEMS[0].open_image()
    prompt = policy.encode(words, image)
    blank = pictured(prompt, Twin("", "blank", None, 0, "live", None), policy.bytes_seen)
    white = policy.encode(words, Image.new("RGB", image.size, "white"))
    assert blank.pixels is not None and white.pixels is not None and prompt.pixels is not None
    assert blank.pixels.data.equal(white.pixels.data)
    grey = policy.encode(words, Image.new("RGB", image.size, (128, 128, 128)))
    noised = pictured(grey, Twin("", "noised", 0.1, 0, "live", None), policy.bytes_seen)
    assert noised.pixels is not None
    assert noised.pixels.data.float().std().item() == pytest.approx(25.5, rel=0.1)


def test_patches_in_numbers_give_the_picture_of_patches_in_bytes(policy: Policy) -> None:
    """As verl's workers get them."""
    words = training_prompt(PROBLEMS[0], "full-text")
    prompt = policy.encode(words, PROBLEMS[0].open_image())
    assert prompt.pixels is not None
    numbers = replace(
        prompt, pixels=Pixels(pixel_values([prompt.pixels]), prompt.pixels.grid), image_key="x"
    )
    assert numbers.pixels is not None
    assert as_bytes(numbers.pixels, policy.bytes_seen).equal(prompt.pixels.data)
    for twin in (MASKED, MASKED._replace(picture="noised"), MASKED._replace(picture="blank")):
        a, b = (pictured(p, twin, policy.bytes_seen) for p in (prompt, numbers))
        assert a.pixels is not None and b.pixels is not None
        assert pixel_values([a.pixels]).equal(pixel_values([b.pixels]))


def test_swapped_pictures_need_another_picture(tiny: Path, tmp_path: Path) -> None:
    term = Term("", "rollout", "k3", 10.0, 0.1, "all", picture="swapped")
    alike = [replace(problem, image=PROBLEMS[0].image) for problem in PROBLEMS]
    with pytest.raises(UserError, match="at least two problems with different diagrams"):
        train(recipe_of(term), alike, tiny, tmp_path, load_policy=on_cpu, reward=made_up)


# The reading reward


def test_the_share_read_counts_the_first_values_only() -> None:
    known = ("line A B C", "AB = 7", r"m \angle CBA = 35", "AB = DE")
    right = r"<think>BA = 7, \angle ABC = 35. So AC = 12</think> \boxed{12}"
    assert share_read(right, known) == 1
    assert share_read(r"AB = 7, \angle ABC = 36 \boxed{1}", known) == 0.5
    assert share_read(r"AB = 1, AB = 2, AB = 7, \angle ABC = 35 \boxed{1}", known) == 0
    assert share_read(r"AB = 7, BA = 7, \angle ABC = 35 \boxed{1}", known) == 1
    assert share_read("no idea", known) == 0
    assert share_read("no idea", ("line A B C",)) is None  # nothing to read
    assert share_read(r"\angle ABC = 35", known, "If AB = 7, find x.") == 1


def test_the_reading_reward_is_added_and_right_stays_the_answers(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modgap.training import rollout

    monkeypatch.setattr(rollout, "share_read", lambda text, known, question: (len(text) % 4) / 4)
    plan = recipe_of(
        Term("image-only", "rollout", "k3", 10.0, 0.1, "right"),
        views=("transcribe",), reward=Reward(0.5, 2.0), overlong_buffer=0,
    )  # fmt: skip
    run(plan, tiny, tmp_path)
    rows = rollouts_of(tmp_path / "stage1")
    assert all(TRANSCRIBE_INSTRUCTION in row["prompt"] for row in rows)
    for row in rows:
        answer = made_up(row["response"], row["gold"]).score
        assert row["reading"] == (len(row["response"]) % 4) / 4
        assert row["reward"] == pytest.approx(0.5 * answer + 2.0 * row["reading"])
    used = [row for row in rows if row["used"] and row["step"] == 1]
    right = [made_up(row["response"], row["gold"]).score == 1 for row in used]
    first = log_of(tmp_path / "stage1")[0]
    assert first["eligible_rows"] == sum(right) and 0 < first["reading"] < 1


def test_a_problem_with_nothing_to_read_is_left_out_of_the_mean(tiny: Path, tmp_path: Path) -> None:
    bare = replace(PROBLEMS[0], semantic=("ABC is a square",))
    plan = recipe_of(views=("transcribe",), reward=Reward(0.5, 2.0), overlong_buffer=0)
    train(plan, [bare, *PROBLEMS[1:]], tiny, tmp_path, load_policy=on_cpu, reward=made_up)
    rows, first = rollouts_of(tmp_path / "stage1"), log_of(tmp_path / "stage1")[0]
    sampled = [row for row in rows if row["step"] == first["step"]]
    read = [row["reading"] for row in sampled if row["problem_id"] != bare.id]
    others = [row for row in rows if row["problem_id"] == bare.id]
    assert others and not any("reading" in row for row in others)
    assert first["reading"] == pytest.approx(sum(read) / len(read))
    assert first["nothing_to_read"] == len(sampled) - len(read)
    for row in others:  # as if all of it were read: equal for all samples of the problem
        answer = made_up(row["response"], row["gold"]).score
        assert row["reward"] == pytest.approx(0.5 * answer + 2.0)


def test_a_reading_reward_without_anything_to_read_is_refused(tiny: Path, tmp_path: Path) -> None:
    bare = [replace(problem, semantic=("ABC is a square",)) for problem in PROBLEMS]
    plan = recipe_of(views=("transcribe",), reward=Reward(1.0, 1.0))
    with pytest.raises(UserError, match=r"no problem has a condition with a value"):
        train(plan, bare, tiny, tmp_path, load_policy=on_cpu, reward=made_up)
