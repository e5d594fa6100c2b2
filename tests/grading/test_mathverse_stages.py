"""MathVerse answers that rules leave open: hostile text, algebra and the judge, in turn."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mathverse_answers import FLOODS, QUESTION, case, fuzz, verdict

from modgap.grading.choices import parse_choices
from modgap.grading.compare import same_form
from modgap.grading.forms import read_form
from modgap.grading.formula import evaluate
from modgap.grading.judge import Undecided
from modgap.grading.mathverse import Case, grade_all, grade_by_rule
from modgap.grading.symbolic import SymbolicPool


@pytest.mark.parametrize(
    "box",
    [
        "C, 60",
        "C - 60",
        "60, C",
        "C = 60",
        "C (60)",
        "60 (C)",
        "C\\\\60",
        "C 60",
        "60 C",
        "\\text{C}, 60^\\circ",
    ],
)
def test_a_letter_and_another_choices_value_are_for_the_judge(box: str) -> None:
    for gold in ("C", "B"):
        result = grade_by_rule(case(box, gold, "multi-choice"))
        assert isinstance(result, Undecided) and not result.symbolic
    assert (
        grade_all([case(box, "C", "multi-choice")], symbolic=_Everything(True))[0].stage == "judge"
    )


PIECES = re.findall(
    r"\S+",
    "\n"
    r"( ) [ ] { } \{ \} , ; : = < > \le \ge \leq \pm \cup \infty \frac \sqrt{ ^ _ | x y f(x) 2 3.5 "
    r"1,234 cm \text{ \mathrm{"
    "\n"
    r"cm} ^{2} and or A B C D (C) domain \sin \log_ - + ° T Area \overline \\ & $ π ≤ ∪ ∞ answer is"
    "\n",
)
hostile = st.one_of(
    st.text(max_size=50), st.lists(st.sampled_from([*PIECES, " "]), max_size=30).map("".join)
)


def _robust(response: str, gold: str, question: str, question_type: str, mode: str) -> None:
    start = time.perf_counter()
    for text in (response, f"\\boxed{{{response}}}"):
        result = grade_by_rule(Case(text, gold, question, question_type), mode)  # type: ignore[arg-type]
        assert isinstance(result, Undecided) or result.outcome in (
            "correct",
            "wrong",
            "no_answer",
            "error",
        )
    assert time.perf_counter() - start < 2  # a hang, not a slow machine


kinds = st.sampled_from(["multi-choice", "free-form"])
modes = st.sampled_from(["strict", "relative", "paper"])


@settings(max_examples=150, deadline=None)
@given(hostile, hostile, hostile, kinds, modes)
def test_no_text_breaks_or_hangs_the_rules(
    response: str, gold: str, question: str, kind: str, mode: str
) -> None:
    _robust(response, gold, "Choices:\nA:" + question, kind, mode)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None)
@given(hostile, hostile, hostile, kinds, modes)
def test_no_text_breaks_or_hangs_the_rules_longer(
    r: str, gold: str, question: str, kind: str, mode: str
) -> None:
    _robust(r, gold, "Choices:\nA:" + question, kind, mode)


@fuzz
@given(hostile)
def test_what_is_read_is_the_same_as_itself_or_a_matter_for_a_judge(text: str) -> None:
    form = read_form(text)
    assert same_form(form, form, lambda value, gold: value == gold) is not False


@pytest.mark.parametrize("piece", ["C or ", "(C), ", "option C, ", "not the ", "A is "])
def test_a_flood_of_letters_takes_no_time(piece: str) -> None:
    start = time.perf_counter()
    verdict(piece * (1900 // len(piece)) + "?", "C", "multi-choice")
    assert time.perf_counter() - start < 2  # a hang, not a slow machine


def test_floods_take_no_time() -> None:
    for name, text in FLOODS.items():
        for kind in ("multi-choice", "free-form"):
            for mode in ("strict", "paper"):
                best = 9.0
                for _ in range(2):
                    evaluate.cache_clear()
                    start = time.process_time()  # not the clock's: a busy machine is no fault
                    for response in (text, f"\\boxed{{{text}}}"):
                        grade_by_rule(Case(response, "x^2 + 2", QUESTION, kind), mode)  # type: ignore[arg-type]
                        grade_by_rule(case("x^2 + 2", text[:1000], kind, "Choices:\n" + text), mode)  # type: ignore[arg-type]
                    best = min(best, time.process_time() - start)
                assert best < 0.25, f"{name}, {kind}, {mode}: {best:.3f} s"


# ---- the stages together -------------------------------------------------------------------------
class _Everything:
    note = ""

    def __init__(self, value: bool | None) -> None:
        self.value = value
        self.pairs: list[tuple[str, str]] = []

    def same(self, pairs: object) -> list[bool | None]:
        self.pairs = list(pairs)  # type: ignore[call-overload]
        return [self.value] * len(self.pairs)


CASES = [
    case("5", "5"),
    case("\\binom{4}{2}", "6"),
    case("a rhombus", "a square"),
    case("none", "C", "multi-choice"),
]


def test_each_stage_gets_what_the_one_before_left() -> None:
    symbolic, asked = _Everything(True), []

    def ask(prompts: object) -> list[str]:
        asked.extend(prompts)  # type: ignore[arg-type]
        return ["1", "0"]

    grades = grade_all(CASES, symbolic=symbolic, ask=ask)
    assert symbolic.pairs == [("\\binom{4}{2}", "6")]  # prose and choices are nothing for algebra
    assert len(asked) == 2
    assert [(g.outcome, g.stage) for g in grades] == [
        ("correct", "text"), ("correct", "symbolic"), ("correct", "judge"), ("wrong", "judge")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("(-2, 1]", "-2 < x \\le 1"), ("-2 < x \\le 1", "(-2, 1]"), ("x < 3", "(-\\infty, 3)"),
        ("x \\ge 0", "[0, \\infty)"),
        ("x < 1 \\text{ or } x > 2", "(-\\infty, 1) \\cup (2, \\infty)"),
        ("45^\\circ", "\\frac{\\pi}{4}"), ("10 cm", "10 m"),
        ("y = 0.33x + 1", "y = \\frac{1}{3}x + 1"), ("3,5", "3.5"), ("3{,}5", "3.5"),
        ("4:00 pm", "4:00"), ("0.7501", "75\\%"), ("x \\not> 5", "x > 5"),
        ("\\sin^{-1} x", "\\csc x"), ("g(x) = 2x", "f(x) = 2x"), ("\\sin 30", "0.5"),
        ("\\cos^{-1}(0.6)", "53.13"), ("x \\nleq 5", "5"), ("f(t) = 2t", "f(x) = 2x"),
    ],
)  # fmt: skip
def test_what_depends_on_the_question_is_nothing_for_algebra(answer: str, gold: str) -> None:
    symbolic = _Everything(True)
    [grade] = grade_all([case(answer, gold)], symbolic=symbolic)
    assert (grade.outcome, grade.stage) == ("error", "judge")
    assert symbolic.pairs == []


@pytest.mark.parametrize("value", [False, None])
def test_what_algebra_does_not_prove_goes_to_the_judge_and_is_an_error_without_one(
    value: bool | None,
) -> None:
    grades = grade_all(CASES, symbolic=_Everything(value))
    assert [(g.outcome, g.stage) for g in grades] == [
        ("correct", "text"),
        *[("error", "judge")] * 3,
    ]
    assert all("give a judge" in g.reason for g in grades[1:])
    assert [
        g.outcome
        for g in grade_all(CASES, symbolic=_Everything(value), ask=lambda prompts: ["1"] * 3)
    ] == ["correct"] * 4


def test_without_math_verify_the_stage_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modgap.grading.symbolic.available", lambda: False)
    with SymbolicPool() as pool:
        grades = grade_all(CASES, symbolic=pool)
    assert grades[1].outcome == "error" and "extra mathverse" in grades[1].reason


needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None,
    reason="math-verify is not installed (pip install 'modgap[mathverse]')",
)


@needs_math_verify
def test_symbolic_pool_kills_what_hangs_and_goes_on() -> None:
    # A busy machine takes its time over the others.
    with SymbolicPool(workers=2, seconds=1.5) as pool:
        pairs = [
            ("9^{9^{9^{9}}}", "5"),
            ("\\sqrt{x^2}", "|x|"),
            ("x+1", "x+2"),
            ("\\sqrt{x^2}", "|x|"),
            ("x" * 999, "x"),
        ]
        assert pool.same(pairs) == [None, True, False, True, None]
        assert pool.killed == 1
        processes = [worker.process for worker in pool._all]
        assert pool.same([("2+x", "x+2")]) == [True]
    assert all(process is None or process.poll() is not None for process in processes)


# ---- the real records ----------------------------------------------------------------------------
SAMPLE = Path(os.environ["MODGAP_MATHVERSE"]) if "MODGAP_MATHVERSE" in os.environ else None


@pytest.mark.skipif(
    SAMPLE is None, reason="set MODGAP_MATHVERSE to a folder with MathVerse records to check them"
)
def test_the_real_golds_are_right_for_themselves_and_for_nobody_else() -> None:
    assert SAMPLE is not None
    records = [
        r
        for path in sorted(SAMPLE.glob("*.json"))
        for r in json.loads(path.read_text(encoding="utf-8"))
    ]
    assert len(records) >= 50
    free = [r for r in records if r["question_type"] == "free-form"]
    for record in records:
        kind, gold, question = record["question_type"], record["answer"], record["question"]
        assert verdict(gold, gold, kind, question) is True, gold
        if kind == "multi-choice":
            choices = parse_choices(question)
            assert 2 <= len(choices) <= 5 and gold in choices
            for letter, text in choices.items():
                for box in (
                    letter,
                    f"({letter})",
                    f"\\text{{{letter}}}",
                    f"{letter}: {text}",
                    f"The answer is {letter}.",
                    text,
                ):
                    assert verdict(box, gold, kind, question) == (letter == gold), (gold, box)
        else:
            for other in free:
                if other["answer"] != gold:
                    assert verdict(other["answer"], gold) is False, (other["answer"], gold)
            assert verdict("2", gold) is False
