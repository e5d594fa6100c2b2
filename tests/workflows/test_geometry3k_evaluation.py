"""Geometry3K from its files to the gap: free form and choices, with and without logic forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asking import evaluate
from geometry3k_data import LOGIC, hub_row, write_parquet, write_problem, write_splits

from modgap.cli.main import main
from modgap.core.engine import Request
from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.core.view import parse_views
from modgap.engines.scripted import ScriptedEngine
from modgap.recipes.paper import no_text
from modgap.reporting.page import build_report
from modgap.training.setup import check_prompts
from modgap.workflows.problems import load_problems, warn_about_words


def reads_words(request: Request, sample: int) -> str:
    """Right where the conditions are written, and with any value where choices are given."""
    written = "AB = 4y-10" in request.prompt.text
    if "Choices:" in request.prompt.text:
        return "\\boxed{10}" if written else "\\boxed{A}"
    return "\\boxed{10}" if written else "\\boxed{8}"


@pytest.mark.parametrize("benchmark", ["geometry3k", "geometry3k-choices"])
def test_the_gap_of_a_model_that_reads_words_only(tmp_path: Path, benchmark: str) -> None:
    problems = load_problems(write_splits(tmp_path / "data"), benchmark)
    views = "full-text,image-only,as-published,text-only,question-only"
    summary = evaluate(problems, ScriptedEngine(reads_words), tmp_path / "run", views=views)
    assert summary.gap is not None and summary.gap.points == 100
    counts = {name: (row.correct, row.wrong, row.error) for name, row in summary.views.items()}
    assert counts["full-text"] == counts["text-only"] == (8, 0, 0)
    assert counts["image-only"] == counts["as-published"] == (0, 8, 0)
    rows = RunFolder(tmp_path / "run").problems()
    assert rows["4"].conditions[:2] == ("E is on line DA", "B is on line AC")
    assert rows["4"].subject == "Length" and rows["4"].type == "Line, Triangle"
    assert summary.subjects is None  # all are of one
    build_report([tmp_path / "run"], tmp_path / "report.html")


def test_the_gap_by_subject(tmp_path: Path) -> None:
    for number, goal in enumerate(["Length", "Angle", "Angle"]):
        folder = tmp_path / "data" / "test" / str(number)
        logic = {} if number else None  # without forms the conditions are not in the words
        write_problem(folder, logic, problem_type_goal=[goal])
    problems = load_problems(tmp_path / "data", "geometry3k")
    summary = evaluate(problems, ScriptedEngine(reads_words), tmp_path / "run")
    assert summary.subjects is not None
    found = {row.type: (row.n_problems, row.points) for row in summary.subjects}
    assert found == {"Angle": (2, 0), "Length": (1, 100)}
    build_report([tmp_path / "run"], tmp_path / "report.html")
    assert "By subject" in (tmp_path / "report.html").read_text()


def test_a_report_shows_the_diagrams_of_a_table(tmp_path: Path) -> None:
    row = hub_row() | {key: LOGIC[key] for key in ("text_logic_form", "diagram_logic_form")}
    problems = load_problems(write_parquet(tmp_path / "test.parquet", [row]), "geometry3k")
    evaluate(problems, ScriptedEngine(reads_words), tmp_path / "run", given={"data": str(tmp_path)})
    build_report([tmp_path / "run"], tmp_path / "report.html")
    assert "data:image/png;base64," in (tmp_path / "report.html").read_text()


def test_a_set_without_conditions_in_words_has_no_gap_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = load_problems(write_parquet(tmp_path / "test.parquet", [hub_row()]), "geometry3k")
    warn_about_words(problems, parse_views("full-text,image-only"))
    assert "full-text shows what image-only shows" in capsys.readouterr().err
    warn_about_words(problems, parse_views("image-only"))
    assert capsys.readouterr().err == ""


def test_choices_are_no_training_data_for_a_reward_of_numbers(tmp_path: Path) -> None:
    write_splits(tmp_path)
    free, choices = (
        load_problems(tmp_path, name, split="train")
        for name in ("geometry3k", "geometry3k-choices")
    )
    check_prompts(no_text(), free, free, "aligned")
    with pytest.raises(UserError, match="train on free-form problems"):
        check_prompts(no_text(), choices, choices, "aligned")


def test_the_check_names_what_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_problem(tmp_path / "test" / "7", {"diagram_logic_form": ["Cirle(A)"]})
    command = ["data", "check", str(tmp_path), "--benchmark", "geometry3k"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "warning: test/7/data.json, 7: Cirle in 'Cirle(A)' is misspelt: read as Circle" in said
    form = tmp_path / "test" / "7" / "logic_form.json"
    form.write_text(json.dumps({"diagram_logic_form": ["Glues(Line(A,B),Line(C,D))"]}))
    assert main(command) == 1
    assert "7: the predicate 'Glues' of 'Glues(Line(A,B),Line(C,D))' is not known" in (
        capsys.readouterr().out
    )
