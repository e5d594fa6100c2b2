"""Grading of MathVerse runs: rules, the symbolic pool and a judge behind a real server on loopback."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modgap.cli import main
from modgap.core import symbolic
from modgap.core.errors import UserError
from modgap.core.grading import grade
from modgap.core.mathverse_grading import Case, grade_all
from modgap.core.record import ProblemRow, Response, RunFolder
from modgap.core.symbolic import SKIPPED
from modgap.grading_runs import grade_run

CHOICES = "What is the angle?\nChoices:\nA:40°\nB:60°\nC:120°\nD:x"
# Problem -> question type, question, gold, and the content of the box of each sample.
PROBLEMS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "letters": ("multi-choice", CHOICES, "C", ("C", "(B)", "120^\\circ", "")),
    "interval": ("free-form", "Where?", "(-2, 1]", ("(-2,1]", "[-2,1]", "2", "-2 < x \\le 1")),
    "prose": ("free-form", "What is it?", "a square", ("a square", "a rhombus", "a quadrilateral, equilateral", "9")),
    "count": ("free-form", "How many?", "10", ("\\binom{5}{2}", "\\binom{5}{1}", "10", "11")),
    "number": ("", "Find x.", "25.000", ("25", "7", "25.01", "")),
}


def write_run(
    path: Path, problems: Sequence[str] = tuple(PROBLEMS), views: Sequence[str] = ("full-text",)
) -> RunFolder:
    """An evaluation as `modgap eval` leaves it, ungraded."""
    run = RunFolder(path)
    run.start("eval", {"samples": 4, "views": list(views)})
    run.write_problems(
        ProblemRow(id=name, answer=gold, question=question, question_type=kind)
        for name in problems
        for kind, question, gold, _ in [PROBLEMS[name]]
    )
    with run.appending() as writer:
        for name in problems:
            for view in views:
                for sample, box in enumerate(PROBLEMS[name][3]):
                    text = f"<think>t</think> \\boxed{{{box}}}" if box else "<think>lost"
                    writer.write(Response(problem_id=name, view=view, sample=sample, prompt="p", response=text,
                                          finish_reason="stop"))  # fmt: skip
    return run


def by_key(run: RunFolder) -> dict[tuple[str, int], tuple[str, str]]:
    return {(row.problem_id, row.sample): (row.outcome, row.stage) for row in run.grades()}


# ---- without a judge -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["strict", "relative", "paper"])
def test_each_problem_is_graded_by_its_own_rules(tmp_path: Path, mode: Any) -> None:
    run = write_run(tmp_path / "run")
    grade_run(run, mode)
    rows = run.grades()
    assert [row.key for row in rows] == [response.key for response in run.responses()]
    with symbolic.SymbolicPool() as pool:
        for row, response in zip(rows, run.responses(), strict=True):
            kind, question, gold, _ = PROBLEMS[row.problem_id]
            if kind:
                case = Case(response.response, gold, question, kind)
                wanted = grade_all([case], mode, None if mode == "paper" else pool)[0]
            else:
                wanted = grade(response.response, gold, mode)
            assert (row.outcome, row.stage, row.answer, row.value, row.reason) == (
                wanted.outcome, wanted.stage, wanted.answer, wanted.value, wanted.reason
            )  # fmt: skip


def test_what_waits_for_a_judge_is_an_error_and_the_summary_says_how_to_settle_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    summary = grade_run(run)
    waiting = [key for key, grade in by_key(run).items() if grade == ("error", "judge")]
    assert (
        ("prose", 1) in waiting
        and ("interval", 3) in waiting
        and len(waiting) == summary["views"]["full-text"]["error"]
    )
    assert by_key(run)["count", 0] == ("correct", "symbolic")
    (said,) = [line for line in summary["warnings"] if "wait for a judge" in line]
    assert said.startswith(f"{len(waiting)} samples") and "modgap grade RUN --judge" in said and "pip" not in said
    assert main(["grade", str(run.path)]) == 0
    assert f"{len(waiting)} samples wait for a judge" in " ".join(capsys.readouterr().out.split())


def test_without_math_verify_the_stage_is_skipped_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbolic, "available", lambda: False)
    run = write_run(tmp_path / "run")
    summary = grade_run(run)
    assert by_key(run)["count", 0] == ("error", "judge")
    assert sum(SKIPPED in line for line in summary["warnings"]) == 1


def test_mathverse_has_no_exact_mode_and_the_old_grades_stay(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    grade_run(run, "paper")
    before = run.grades()
    with pytest.raises(UserError, match="--mode exact: .* choose from strict, relative, paper"):
        grade_run(run, "exact")
    assert run.grades() == before


def test_a_failed_response_keeps_its_cause(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ["prose"])
    with run.appending() as writer:
        writer.write(Response(problem_id="prose", view="full-text", sample=9, prompt="p", response="",
                              finish_reason="error", error="HTTP 500"))  # fmt: skip
    grade_run(run)
    assert (run.grades()[-1].stage, run.grades()[-1].reason) == ("engine", "HTTP 500")
