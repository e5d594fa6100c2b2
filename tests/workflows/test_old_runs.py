"""Run folders made before the package was restructured are read, graded, reported and resumed, with
equal numbers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from modgap.cli.main import main
from modgap.core.record import RunFolder

FIXTURE = Path(__file__).parents[1] / "fixtures" / "runs_before_restructuring"
ARGUMENTS = ["--benchmark", "synthetic", "--model", "tiny", "--samples", "2", "--max-tokens", "64"]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy: its `data`, and its `study` of the base model and the recipe no-text (without
    checkpoints).
    """
    shutil.copytree(FIXTURE, tmp_path / "old")
    return tmp_path / "old"


def numbers(folder: Path) -> Any:
    """A summary without the intervals of accuracies: they follow Student's quantile, which became
    exact.
    """

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(v) for key, v in value.items() if "ci_" not in key}
        return [without(v) for v in value] if isinstance(value, list) else value

    return without(json.loads((folder / "summary.json").read_text()))


def resume(old: Path, run: Path) -> int:
    return main(["eval", "--data", str(old / "data"), "--out", str(run), *ARGUMENTS])


def test_a_complete_run_is_accepted_as_it_is(old: Path) -> None:
    """The same arguments, model and data give the same identity: nothing is asked again."""
    run = old / "study" / "base" / "eval"
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    summary = numbers(run)
    assert resume(old, run) == 0
    for name in ("responses.jsonl", "grades.jsonl"):
        assert (run / name).read_bytes() == before[name], name
    # The options in force, the folders of the images and the digest of the problems are noted;
    # they are not a part of what makes the run.
    old_manifest, manifest = json.loads(before["manifest.json"]), RunFolder(run).manifest()
    del manifest["options"], manifest["image_folders"], manifest["problems_digest"]
    assert manifest == old_manifest
    assert numbers(run) == summary


def test_a_cut_run_is_resumed(old: Path) -> None:
    run = old / "study" / "base" / "eval"
    lines = (run / "responses.jsonl").read_text().splitlines(True)
    (run / "responses.jsonl").write_text("".join(lines[:-2]))
    assert resume(old, run) == 0
    made = (run / "responses.jsonl").read_text().splitlines(True)
    assert made[:-2] == lines[:-2] and len(made) == len(lines)
    seeds = [sorted(json.loads(line)["seed"] for line in some) for some in (made, lines)]
    assert seeds[0] == seeds[1]


@pytest.mark.parametrize("mode", ["strict", "relative", "paper"])
def test_a_run_is_graded_again(old: Path, mode: str) -> None:
    run = old / "study" / "no-text" / "eval"
    assert main(["grade", str(run), "--mode", mode]) == 0
    rows = list(RunFolder(run).grades())
    assert len(rows) == 16 and {row.mode for row in rows} == {mode}
    if mode == "strict":
        assert (run / "grades.jsonl").read_bytes() == (
            FIXTURE / "study/no-text/eval/grades.jsonl"
        ).read_bytes()
        assert numbers(run) == numbers(FIXTURE / "study/no-text/eval")


def test_a_study_is_reported(old: Path, tmp_path: Path) -> None:
    assert main(["report", str(old / "study"), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "no-text" in page and "image-only" in page


def test_another_model_or_other_arguments_are_refused(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = old / "study" / "base" / "eval"
    assert (
        main(
            [
                "eval",
                "--data",
                str(old / "data"),
                "--out",
                str(run),
                *ARGUMENTS,
                "--temperature",
                "1",
            ]
        )
        == 1
    )
    assert "temperature was 0.6, now 1.0" in capsys.readouterr().err
