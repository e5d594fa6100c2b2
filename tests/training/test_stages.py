"""A chained recipe on the local engine: one stage after the other, and what a run folder keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import (
    PROBLEMS,
    SETTINGS,
    log_of,
    made_up,
    no_model,
    on_cpu,
    recipe,
    rollouts_of,
    run,
    weights_of,
)

from modgap.core.assign import apply_settings
from modgap.core.errors import UserError
from modgap.core.recipe import Recipe, Stage
from modgap.core.record import RunFolder
from modgap.models.load import load_policy
from modgap.models.policy import Policy
from modgap.training.events import Event
from modgap.training.local import final_checkpoint, train
from modgap.training.rollout import hold_out

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


def test_later_updates_of_a_step_are_off_policy(kl_run: tuple[Path, list[Event]]) -> None:
    rows = [row for row in log_of(kl_run[0] / "stage1") if row["updates"] > 1]
    assert rows and all(row["ratio_max"] > 1.0 for row in rows)


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


def test_held_out_problems_are_the_same_in_any_order_and_never_trained_on(
    kl_run: tuple[Path, list[Event]],
) -> None:
    kept, held = hold_out(PROBLEMS, 2)
    assert len(held) == 2 and len(kept) == 10
    assert {p.id for p in hold_out(PROBLEMS[::-1], 2)[1]} == {p.id for p in held}
    assert not hold_out(PROBLEMS[:4], 64)[1]  # too few to spare one
    trained = {row["problem_id"] for n in (1, 2, 3) for row in rollouts_of(kl_run[0] / f"stage{n}")}
    assert trained and not trained & {p.id for p in held}


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
