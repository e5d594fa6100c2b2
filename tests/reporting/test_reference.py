"""`docs/results/`: what the files may hold, and that they are made from runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from written_runs import both, write_run
from written_studies import write_studies

from modgap.analysis.reference import read_results
from modgap.analysis.results import read_summary
from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.registry import DATASETS, RECIPES
from modgap.reporting.reference import Given, write_results
from modgap.workflows.grade import grade_run

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docs" / "results").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_our_files_are_valid_and_name_what_exists(path: Path) -> None:
    for row in read_results(path).rows:
        assert row.benchmark in DATASETS
        assert row.recipe in ("", *RECIPES)
        if row.measured and "://" not in row.measured.source:
            assert (ROOT / row.measured.source).is_file()


def test_the_testbed_s_rows_are_those_of_its_records(tmp_path: Path) -> None:
    cells = ROOT / "docs" / "experiments" / "testbed" / "cells.json"
    given = Given("docs/lab/testbed.md", "synthetic")
    made = write_results([cells], tmp_path / "new.json", given)
    assert made == read_results(ROOT / "docs" / "results" / "testbed.json")


def graded(path: Path, **fields: Any) -> Path:
    run = write_run(path, {name: both("cccw", "cwww") for name in "abcdef"}, **fields)
    manifest = json.loads(run.manifest_path.read_text())
    manifest["resolved"] |= {"engine": "hf", "temperature": 0.6, "max_tokens": 64}
    manifest["given"] |= {"benchmark": "pairs", "command": "/home/me/bin/modgap eval --x 'a b'"}
    rows = list(run.responses())
    run.manifest_path.write_text(json.dumps(manifest))
    run.write_responses(rows)  # of the run as it is now
    grade_run(run)
    return path


def test_a_run_becomes_a_row(tmp_path: Path) -> None:
    run, out = graded(tmp_path / "run", model="a/b"), tmp_path / "rows.json"
    command = ["results", "write", str(run), "--out", str(out), "--source", "https://x.org/r"]
    assert main(command) == 0 and main(["results", "check", str(out)]) == 0
    (row,) = read_results(out).rows
    assert (row.model, row.recipe, row.benchmark) == ("a/b", "", "pairs")
    assert row.command == "modgap eval --x 'a b'"
    gap, done = read_summary(run).gap, row.measured
    assert gap is not None and done is not None
    assert done.gap.value == round(gap.points, 2)
    assert done.text.value == round(100 * gap.text_accuracy, 2)
    assert (done.problems, done.samples, done.seeds, done.error_rate) == (6, 4, 0, 0.0)
    assert done.date == json.loads((run / "manifest.json").read_text())["created"][:10]


def test_rows_of_other_models_stay_and_the_same_one_is_replaced(tmp_path: Path) -> None:
    out, given = tmp_path / "rows.json", Given("s")
    for name, model in (("1", "a/b"), ("2", "c/d"), ("3", "a/b")):
        write_results([graded(tmp_path / name, model=model)], out, given)
    assert [row.model for row in read_results(out).rows] == ["c/d", "a/b"]


def test_recipes_of_several_seeds_become_rows_over_seeds(tmp_path: Path) -> None:
    studies = write_studies(tmp_path / "runs")
    made = write_results(studies, tmp_path / "r.json", Given("s", "synthetic"))
    seeds = {row.recipe: row.measured.seeds for row in made.rows if row.measured}
    assert seeds == {"": 0, "full-text": 3, "kl": 3, "full-text-continued": 3}
    with pytest.raises(UserError, match="give --benchmark"):
        write_results(studies, tmp_path / "r.json", Given("s"))


def _break(change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> str:
    content = json.loads((ROOT / "docs" / "results" / "testbed.json").read_text())
    change(content)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        read_results(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format="modgap results 0"), "format: Input should be"),
        (lambda c: c["rows"][0].update(accuracy=1), "rows.0.accuracy: Extra inputs"),
        (lambda c: c["rows"][2]["measured"]["gap"].update(value=18), "gap"),
        (lambda c: c["rows"][2]["measured"]["text"].update(value=60), "does not hold 60.0"),
        (lambda c: c["rows"][2]["measured"]["text"].update(value=166), "less than or equal to 100"),
        (lambda c: c["rows"][2]["measured"]["text"].update(high=None), "two ends"),
        (lambda c: c["rows"][2]["measured"]["gap"].update(value=float("nan")), "finite number"),
        (lambda c: c["rows"][2]["measured"].update(date="yesterday"), "date: String should match"),
        (lambda c: c["rows"][2]["measured"].pop("source"), "source: Field required"),
        (lambda c: c["rows"][2].update(measured=None), "needs the command that fills it"),
        (lambda c: c["rows"].append(c["rows"][1]), "2 rows are of tiny full-text"),
        (lambda c: c["rows"].clear(), "at least 1 item"),
    ],
)
def test_a_faulty_file_is_named_with_its_fault(
    change: Callable[[dict[str, Any]], Any], words: str, tmp_path: Path
) -> None:
    assert words in _break(change, tmp_path)


def test_a_gap_that_is_not_the_difference_of_the_accuracies_is_a_fault(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["rows"][2]["measured"]["gap"].update(value=17.0)

    assert "the gap 17.0 is not text minus image (17.64)" in _break(change, tmp_path)


def test_every_file_is_checked_before_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = tmp_path / "torn.json"
    torn.write_text("{")
    assert main(["results", "check", str(torn), str(tmp_path / "none.json"), str(FILES[0])]) == 1
    captured = capsys.readouterr()
    assert "torn.json is not JSON" in captured.err and "none.json cannot be read" in captured.err
    assert f"{FILES[0]}: " in captured.out
