"""`modgap ls`: what runs there are, how far they are, and in which state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from written_runs import both, write_run
from written_studies import write_studies

from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.reporting.listing import Listed, list_runs
from modgap.workflows.grade import grade_run

OLD = Path(__file__).parents[1] / "fixtures" / "runs_before_restructuring"


def listed(folder: Path) -> Mapping[str, Listed]:
    return {run.path.relative_to(folder).as_posix(): run for run in list_runs(folder)}


def test_runs_made_before_are_listed_with_their_numbers() -> None:
    found = listed(OLD)
    assert list(found) == ["study", "study/base/eval", "study/no-text", "study/no-text/eval"]
    assert {run.state for run in found.values()} == {"finished"}
    assert {(run.model, run.data) for run in found.values()} == {("tiny", "synthetic")}
    assert [run.kind for run in found.values()] == ["study", "eval", "train", "eval"]
    assert found["study/no-text"].done == "2 steps"
    assert found["study/base/eval"].done == "16 of 16"
    gap = found["study/base/eval"].gap
    assert gap is not None and (gap.text_accuracy, gap.vision_accuracy) == (0.375, 0.25)


def test_the_state_of_an_evaluation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {name: both("cw", "cc") for name in "ab"})
    manifest = json.loads(run.manifest_path.read_text())
    manifest["resolved"]["views"] = ["full-text", "image-only"]
    run.manifest_path.write_text(json.dumps(manifest))
    run.write_responses(list(run.responses()))  # of the run as it is now
    assert (listed(tmp_path)["run"].state, listed(tmp_path)["run"].gap) == ("interrupted", None)
    grade_run(run)
    found = listed(tmp_path)["run"]
    assert found.state == "finished" and found.gap is not None and found.done == "8 of 8"
    with run.lock():
        assert listed(tmp_path)["run"].state == "running"
    lines = run.responses_path.read_text().splitlines(keepends=True)
    run.responses_path.write_text("".join(lines[:5]) + lines[5][:9])
    found = listed(tmp_path)["run"]
    assert (found.state, found.done, found.gap) == ("interrupted", "5 of 8", None)
    run.manifest_path.write_text("{")
    assert listed(tmp_path)["run"].state == "damaged"


def test_the_state_of_a_training(tmp_path: Path) -> None:
    (study, *_) = write_studies(tmp_path, 1)
    kl = study / "kl"
    assert listed(tmp_path)["seed0/kl"].done == "stage 1 of 2, 2 of 2 steps"
    (kl / "stage1" / "result.json").write_text("{}")
    assert listed(tmp_path)["seed0/kl"].done == "stage 2 of 2, 2 of 2 steps"
    (kl / "stage2" / "result.json").write_text("{}")
    found = listed(tmp_path)["seed0/kl"]
    assert (found.done, found.state, found.model) == ("4 steps", "finished", "m")
    RunFolder(tmp_path / "new").start("train", {"recipe": "kl", "stages": ["a", "b"]})
    found = listed(tmp_path)["new"]
    assert (found.done, found.state) == ("stage 1 of 2, not begun", "interrupted")


def test_a_stage_that_two_recipes_share_is_no_second_run(tmp_path: Path) -> None:
    write_studies(tmp_path, 1)
    (tmp_path / "again").symlink_to(tmp_path / "seed0", target_is_directory=True)
    assert all(name.startswith("seed0") for name in listed(tmp_path))


def test_the_command_prints_a_table_or_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["ls", str(OLD)]) == 0
    out = capsys.readouterr().out
    (row,) = (line.split() for line in out.splitlines() if line.startswith("study/base/eval"))
    assert row[1:] == [
        "tiny",
        "synthetic",
        "eval",
        "finished",
        "16",
        "of",
        "16",
        "37.5",
        "25.0",
        "+12.5",
    ]
    assert main(["ls", str(tmp_path)]) == 1
    assert "no run is in" in capsys.readouterr().err
    with pytest.raises(UserError, match="is no folder"):
        list_runs(tmp_path / "nowhere")
