"""The graders by name, and `grade_answer`: what it says is what a grading of a run says."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest

from modgap.core.errors import UserError
from modgap.core.rows import OUTCOMES
from modgap.grading import symbolic
from modgap.grading.answer import Mode, grade
from modgap.grading.graders import GRADERS, find_grader, grade_answer
from modgap.grading.judge import JudgeMode
from modgap.grading.mathverse import Case, grade_all
from modgap.grading.symbolic import SymbolicPool

CHOICES = "What is the angle?\nChoices:\nA:40°\nB:60°\nC:120°\nD:x"
# Gold, question and question type; then what a response's box holds.
GOLDS = (
    ("C", CHOICES, "multi-choice"),
    ("(-2, 1]", "Where?", "free-form"),
    ("a square", "What is it?", "free-form"),
    ("10", "How many?", "free-form"),
)
BOXES = ("C", "(B)", "120^\\circ", "(-2,1]", "a rhombus", "10", "\\binom{5}{2}", "9.96", "")


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_number_is_graded_as_in_a_run(mode: Mode) -> None:
    for box, gold in itertools.product(
        ("25", "25.1", "7,07", "12.5\\cdot 2", "", "x"), ("25.000", "7.07", "east")
    ):
        response = f"<think>so</think>\\boxed{{{box}}}"
        assert grade_answer(response, gold, mode=mode) == grade(response, gold, mode)
    assert grade_answer("no box", "25").outcome == "no_answer"


@pytest.mark.parametrize("mode", get_args(JudgeMode))
def test_an_answer_of_mathverse_is_graded_as_in_a_run(mode: JudgeMode) -> None:
    cases = [
        Case(f"so</think> \\boxed{{{box}}}", gold, question, kind)
        for (gold, question, kind), box in itertools.product(GOLDS, BOXES)
    ]
    with SymbolicPool(workers=1) as pool:
        wanted = grade_all(cases, mode, None if mode == "paper" else pool)
    found: set[str] = set()
    for case, verdict in zip(cases, wanted, strict=True):
        mine = grade_answer(
            case.response,
            case.gold,
            mode=mode,
            question=case.question,
            question_type=case.question_type,
        )
        assert mine == verdict
        found.add(str(mine.outcome))
    assert found == (set(OUTCOMES) if mode != "paper" else {"correct", "wrong", "error"})


def test_the_symbolic_stage_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    if not symbolic.available():
        pytest.skip("math-verify is not installed")
    asked: dict[str, Any] = {"gold": "10", "question": "How many?", "question_type": "free-form"}
    verdict = grade_answer("\\boxed{\\binom{5}{2}}", **asked)
    assert (verdict.outcome, verdict.stage) == ("correct", "symbolic")
    monkeypatch.setattr(symbolic, "available", lambda: False)
    verdict = grade_answer("\\boxed{\\binom{5}{2}}", **asked)
    assert (verdict.outcome, verdict.stage) == (
        "error",
        "judge",
    ) and "math-verify is not installed (extra mathverse)" in verdict.reason


@pytest.mark.parametrize(
    "question_type",
    ["multi-choice", "multi_choice", "Multiple Choice", "MCQ", " multi choice ", "multiplechoice"],
)
def test_a_question_type_may_be_spelled_as_data_sets_do(question_type: str) -> None:
    verdict = grade_answer(
        "\\boxed{120^\\circ}", "C", question=CHOICES, question_type=question_type
    )
    assert (verdict.outcome, verdict.stage, verdict.answer) == ("correct", "choice-value", "C")


@pytest.mark.parametrize("question_type", ["", " "])
def test_without_a_question_type_an_answer_is_a_number(question_type: str) -> None:
    verdict = grade_answer("\\boxed{C}", "C", question_type=question_type)
    assert (verdict.outcome, verdict.stage) == ("error", "gold")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mode": "strct"}, r"mode='strct': .* choose from strict, relative, paper, exact"),
        ({"mode": ""}, r"mode='': .* choose from strict, relative, paper, exact"),
        (
            {"mode": "exact", "question_type": "free-form"},
            r"mode='exact': MathVerse .* choose from strict, relative, pap",
        ),
        (
            {"question_type": "choice"},
            r"unknown question_type 'choice': choose multi-choice or free-form",
        ),
        ({"question_type": "mathverse:free-form"}, "unknown question_type 'mathverse:free-form'"),
        ({"question_type": None}, "question_type is None, of the type NoneType: give a string"),
        ({"gold": None}, "gold is None, of the type NoneType: give a string"),
        ({"response": None}, "response is None"),
        ({"mode": None}, "mode is None"),
    ],
)
def test_what_cannot_be_graded_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        grade_answer(**({"response": "\\boxed{1}", "gold": "1"} | values))


def test_every_grader_is_found_with_and_without_a_kind() -> None:
    for name, grader in GRADERS.items():
        assert find_grader(name) is find_grader(f"{name}:free-form") is grader
    with pytest.raises(
        UserError, match=r"unknown grader 'mathvers': choose from .*, mathverse\. Did you mean"
    ):
        find_grader("mathvers:free-form")
