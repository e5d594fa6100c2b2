"""The saved steps of a training run: to start from, and to be evaluated over steps."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from written_runs import both, write_run

from modgap.core.errors import UserError
from modgap.core.options import EvalOptions, TrainOptions
from modgap.reporting.collect import collect
from modgap.reporting.curves import MEASURED, MEASURED_GAP, training
from modgap.reporting.page import numbers_of
from modgap.workflows import checkpoints
from modgap.workflows.checkpoints import (
    chosen_steps,
    evaluate_checkpoints,
    find_checkpoint,
    stages_of,
)
from modgap.workflows.train import starting_model


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two stages: model folders in the first, shards of verl in the second."""
    folder = tmp_path / "a:run"  # a colon in a name is no separator
    for step in (40, 80, 100):
        model = folder / "stage1" / "checkpoints" / f"step_{step}"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
    (folder / "stage1/checkpoints/best").symlink_to("step_80")
    for step in (50, 100, 150):
        actor = folder / f"stage2/verl/global_step_{step}/actor"
        actor.mkdir(parents=True)
        (actor / "model_world_size_1_rank_0.pt").touch()
    # verl removed the shards of an earlier one, and left the position in the data.
    (folder / "stage2/verl/global_step_25").mkdir()
    (folder / "stage2/verl/global_step_25/data.pt").touch()
    (folder / "stage2/verl/latest_checkpointed_iteration.txt").write_text("100")
    (folder / "stage2/checkpoints/step_100").mkdir(parents=True)
    (folder / "stage2/checkpoints/step_100/config.json").write_text("{}")
    return folder


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that were merged."""
    found: list[str] = []

    def merge(checkpoint: Path, out: Path, source: Path | None = None, **_: Any) -> Path:
        found.append(checkpoint.name)
        time.sleep(0.05)
        out.mkdir(exist_ok=True)
        (out / "config.json").write_text("{}")
        return out

    monkeypatch.setattr("modgap.training.verl.merge.merge", merge)
    return found


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        ("", "stage2/checkpoints/step_100"),
        (":stage1", "stage1/checkpoints/step_100"),
        (":stage1:step_40", "stage1/checkpoints/step_40"),
        (":stage1:last", "stage1/checkpoints/step_100"),
        (":stage1:best", "stage1/checkpoints/step_80"),
        (":step_50", "stage2/checkpoints/step_50"),
        ("/stage1:step_40", "stage1/checkpoints/step_40"),
    ],
)
def test_a_reference_names_a_checkpoint(
    reference: str, place: str, run: Path, merges: list[str]
) -> None:
    assert find_checkpoint(f"{run}{reference}") == run / place
    # Only what has no model folder yet is merged.
    assert merges == (["global_step_50"] if place.endswith("_50") else [])


def test_two_processes_merge_a_step_once(run: Path, merges: list[str]) -> None:
    with ThreadPoolExecutor(2) as pool:  # each opens the lock by itself, as processes do
        places = list(pool.map(find_checkpoint, [f"{run}:stage2:step_50"] * 2))
    assert places[0] == places[1] and merges == ["global_step_50"]


def test_a_dry_run_merges_nothing(run: Path, merges: list[str]) -> None:
    options = TrainOptions(start_from=f"{run}:step_50")
    assert starting_model(None, options, dry=True) == run / "stage2/checkpoints/step_50"
    assert not merges


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("{run}:stage1:step_7", "has not saved step_7: choose from step_40, step_80, step_100"),
        # The last save of verl was not complete.
        ("{run}:stage2:step_150", "has not saved step_150: choose from step_50, step_100"),
        ("{run}:stage3", "has no stage3: choose from stage1, stage2"),
        ("{run}:stage1:7", "is no folder: write it as RUN:stage1:step_N"),
        ("{run}/stage2/verl", "is no training run"),
    ],
)
def test_a_reference_to_nothing_lists_what_there_is(reference: str, words: str, run: Path) -> None:
    with pytest.raises(UserError, match=words):
        find_checkpoint(reference.format(run=run))


def test_steps_are_chosen_with_the_last_of_each_stage(run: Path) -> None:
    stages = stages_of(run)
    assert list(chosen_steps(stages, "all")) == [
        "stage1_step_40", "stage1_step_80", "stage1_step_100", "stage2_step_50", "stage2_step_100",
    ]  # fmt: skip
    assert list(chosen_steps(stages, "every=80")) == [
        "stage1_step_80", "stage1_step_100", "stage2_step_100",
    ]  # fmt: skip
    for which in ("every=0", "some", "every=-1", "40"):
        with pytest.raises(UserError, match="give all, or every=N"):
            chosen_steps(stages, which)


def test_a_start_that_is_not_there_is_left_out_with_a_line(
    run: Path, tmp_path: Path, merges: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = {"given": {"model": "../elsewhere/base"}}
    (run / "manifest.json").write_text(json.dumps({"kind": "train"} | given))
    asked: list[str] = []

    def fleet(models: list[str], data: Path, out: Path, options: Any, **more: Any) -> Any:
        asked.extend(more["names"])
        return {}, {}

    monkeypatch.setattr(checkpoints, "run_fleet", fleet)
    evaluate_checkpoints(str(run), "all", tmp_path, tmp_path / "steps", EvalOptions())
    assert "stage1_step_0" not in asked and asked
    assert "no step 0" in capsys.readouterr().err


def test_every_saved_step_is_evaluated_into_one_report_with_the_gap_over_steps(
    run: Path, tmp_path: Path, merges: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "manifest.json").write_text(json.dumps({"kind": "train", "given": {"model": "base"}}))
    asked: dict[str, str] = {}

    def fleet(models: list[str], data: Path, out: Path, options: Any, **more: Any) -> Any:
        asked.update(zip(more["names"], models, strict=True))
        for n, name in enumerate(asked):
            wrong = "w" * n + "c" * (len(asked) - n)
            write_run(out / name, {f"p{i}": both("c", wrong[i]) for i in range(len(wrong))})
        return {model: out / name for name, model in asked.items()}, {}

    monkeypatch.setattr(checkpoints, "run_fleet", fleet)
    out = tmp_path / "steps"
    assert evaluate_checkpoints(str(run), "all", tmp_path, out, EvalOptions()) == 0
    assert list(asked.items())[:2] == [
        ("stage1_step_0", "base"),
        ("stage1_step_40", str(run / "stage1/checkpoints/step_40")),
    ]
    assert merges == ["global_step_50"]
    assert "Gap over steps" in (out / "report.html").read_text()

    numbers, _ = numbers_of(collect([out]))
    panels = training(numbers.training)
    assert panels is not None
    by_name = {panel.metric: panel for panel in panels.main}
    gaps = [point for line in by_name[MEASURED_GAP].lines for point in line.points]
    # Steps go on over the stages, and the gap grows by one of six problems with each.
    assert [step for step, _ in gaps] == [0, 40, 80, 100, 150, 200]
    assert [round(gap) for _, gap in gaps] == [0, 17, 33, 50, 67, 83]
    assert {line.name.rpartition(", ")[2] for line in by_name[MEASURED].lines} == {
        "full-text", "image-only",
    }  # fmt: skip
