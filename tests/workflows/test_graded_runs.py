"""Grading of MathVerse runs: rules, agreement with a judge, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from judge_server import PROBLEMS, JudgeServer, by_key, judge, write_run

from modgap.analysis.agreement import Agreement
from modgap.analysis.results import read_summary
from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.rows import Response
from modgap.grading import symbolic
from modgap.grading.answer import grade
from modgap.grading.judge import VerdictFile
from modgap.grading.mathverse import Case, grade_all
from modgap.grading.symbolic import SKIPPED
from modgap.reporting.page import build_report
from modgap.workflows.grade import grade_run


# ---- without a judge -----------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["strict", "relative", "paper"])
def test_each_problem_is_graded_by_its_own_rules(
    tmp_path: Path, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode != "strict":  # the pool takes a second
        monkeypatch.setattr(symbolic, "available", lambda: False)
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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run")
    summary = grade_run(run)
    waiting = [key for key, grade in by_key(run).items() if grade == ("error", "judge")]
    monkeypatch.setattr(symbolic, "available", lambda: False)
    assert (
        ("prose", 1) in waiting
        and ("interval", 3) in waiting
        and len(waiting) == summary.views["full-text"].error
    )
    assert by_key(run)["count", 0] == ("correct", "symbolic")
    (said,) = [line for line in summary.warnings if "wait for a judge" in line]
    assert (
        said.startswith(f"{len(waiting)} samples")
        and "modgap grade RUN --judge" in said
        and "pip" not in said
    )
    assert main(["grade", str(run.path)]) == 0
    assert f"{len(waiting) + 1} samples wait for a judge" in " ".join(
        capsys.readouterr().out.split()
    )


def test_without_math_verify_the_stage_is_skipped_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbolic, "available", lambda: False)
    run = write_run(tmp_path / "run")
    summary = grade_run(run)
    assert by_key(run)["count", 0] == ("error", "judge")
    assert sum(SKIPPED in line for line in summary.warnings) == 1


def test_mathverse_has_no_exact_mode_and_the_old_grades_stay(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    grade_run(run, "paper")
    before = run.grades()
    with pytest.raises(UserError, match=r"--mode exact: .* choose from strict, relative, paper"):
        grade_run(run, "exact")
    assert run.grades() == before


def test_a_failed_response_keeps_its_cause(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ["prose"], samples=10)
    with run.appending() as writer:
        writer.write(Response(problem_id="prose", view="full-text", sample=9, prompt="p",
                              response="", finish_reason="error", error="HTTP 500"))  # fmt: skip
    grade_run(run)
    assert (run.grades()[-1].stage, run.grades()[-1].reason) == ("engine", "HTTP 500")


# ---- the judge against the rules -----------------------------------------------------------------
def test_agreement_with_the_rules_is_counted_on_answers_that_they_decided(
    server: JudgeServer, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    check = grade_run(run, judge=judge(server), check=100).judge.check
    decided = [row for row in run.grades() if row.stage != "judge" and row.problem_id != "number"
               and row.outcome in ("correct", "wrong")]  # fmt: skip
    assert (
        check.samples
        == len(decided)
        == check.table.count
        == sum(part.samples for part in check.stages.values())
    )
    # This judge compares characters: it misses the value of a choice and is right about the rest.
    right = sum(row.outcome == "correct" for row in decided)
    assert check.table.cells() == (right - 1, 1, 0, len(decided) - right)
    (apart,) = check.disagreements
    assert (apart.problem_id, apart.answer, apart.rules, apart.judge) == (
        "letters", "120^\\circ", "correct", "wrong"
    )  # fmt: skip
    assert 0.5 < check.kappa < 1 and check.agreement == 1 - 1 / len(decided)


def test_the_choice_of_checked_answers_is_seeded_and_bounded(
    server: JudgeServer, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")

    def asked(check: int, seed: int) -> set[str]:
        server.bodies.clear()
        VerdictFile(run).path.unlink(missing_ok=True)
        assert (
            grade_run(run, judge=judge(server), check=check, seed=seed).judge.check.samples == check
        )
        return {body["asked"] for body in server.bodies}

    assert asked(3, 1) == asked(3, 1) != asked(3, 2)
    assert asked(3, 1) < asked(5, 1)


@pytest.mark.parametrize(
    ("pairs", "share", "kappa"),
    [
        ([], None, None),
        ([(True, True)] * 3, 1.0, None),
        (
            [(True, True)] * 20
            + [(True, False)] * 5
            + [(False, True)] * 10
            + [(False, False)] * 15,
            0.7,
            0.4,
        ),
        ([(True, False), (False, True)], 0.0, -1.0),
    ],
)
def test_kappa(pairs: list[tuple[bool, bool]], share: float | None, kappa: float | None) -> None:
    found = Agreement.of(pairs)
    assert (found.n, found.share) == (len(pairs), share)
    assert found.kappa == (None if kappa is None else pytest.approx(kappa))


def test_a_run_without_mathverse_problems_needs_no_judge(
    server: JudgeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", ["number"])
    assert main(["grade", str(run.path), "--judge", server.url]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "nothing in this run is for a judge: its problems are graded as numbers, by rules alone"
    ]
    assert not server.bodies and read_summary(run.path).judge is None


def test_the_page_and_the_terminal_show_what_the_judge_did(
    server: JudgeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", views=("full-text", "image-only"))
    assert main(["grade", str(run.path), "--judge", server.url]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"Judge openai:Qwen/Qwen3-8B at {server.url}: of" in out and "Cohen's kappa" in out
    numbers = build_report([run.path], tmp_path / "report.html")
    assert numbers.runs["run"].judge == read_summary(run.path).judge
    page = (tmp_path / "report.html").read_text()
    assert "The judge against the rules" in page and "What the judge made of" in page
    grade_run(run, "relative")  # a grading that no judge had part in
    assert not build_report([run.path], tmp_path / "report.html").runs["run"].judge.judge
