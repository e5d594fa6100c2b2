"""The saved steps of a training run: to start from, and to be evaluated over steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modgap.core.errors import UserError
from modgap.core.options import TrainOptions
from modgap.workflows.checkpoints import (
    find_checkpoint,
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
        (folder / f"stage2/verl/global_step_{step}").mkdir(parents=True)
    (folder / "stage2/verl/latest_checkpointed_iteration.txt").write_text("100")
    (folder / "stage2/checkpoints/step_100").mkdir(parents=True)
    (folder / "stage2/checkpoints/step_100/config.json").write_text("{}")
    return folder


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that were merged."""
    found: list[str] = []

    def merge(checkpoint: Path, out: Path, **_: Any) -> Path:
        found.append(checkpoint.name)
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
