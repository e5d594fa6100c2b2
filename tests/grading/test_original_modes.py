"""The grader's original modes against MathRuler, and the original's format check."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from graded_answers import expressions, fuzz, hostile, numbers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modgap.grading.answer import grade, well_formatted
from modgap.grading.paper import extract_boxed_content

# ---- format --------------------------------------------------------------------------------------
ORIGINAL_FORMAT = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)
format_pieces = st.sampled_from(
    ["<think>", "</think>", "\\boxed{", "\\boxed", "{", "}", "\n", "a", " ", "<think", "\\"]
)


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.lists(format_pieces, max_size=9).map("".join),
        st.text("<think>/\\boxed{}\n", max_size=30),
    )
)
def test_the_format_check_is_the_original_pattern(text: str) -> None:
    for response in (
        text,
        "<think>" + text,
        "<think></think>" + text,
        "<think>" + text + "</think>\\boxed{1}",
    ):
        assert well_formatted(response) == (ORIGINAL_FORMAT.fullmatch(response) is not None)


# ---- the original's modes ------------------------------------------------------------------------
@fuzz
@given(hostile)
def test_extraction_is_mathrulers(response: str) -> None:
    from mathruler.grader import extract_boxed_content as original

    assert extract_boxed_content(response) == original(response)


# One row for each rule: answer, gold, what the original's reward and its eval.py say.
@pytest.mark.parametrize(
    ("answer", "gold", "exact", "paper"),
    [
        ("25", "25.000", True, True),
        ("25^\\circ", "25.000", True, True),
        ("25°", "25.000", False, True),
        ("25 \\text{ cm}", "25.000", True, True),
        ("x = 25", "25.000", False, False),
        ("24.9", "25.000", False, True),
        ("24", "25.000", False, False),
        ("2\\sqrt{3}", "3.464", False, True),
        ("2(3+1)", "8.000", False, True),
        ("5(2)", "10.000", False, True),
        ("\\frac{7}{2}", "3.500", True, True),
        ("\\frac{22}{7}", "3.142", False, False),
        ("7/2", "3.500", True, True),
        ("3.50", "3.500", True, True),
        ("2 + 1.5", "3.500", True, True),
        ("10**2", "100.000", False, True),
        ("2^2", "4.000", False, False),
        ("5^2", "7.000", False, False),
        ("0x10", "16.000", False, False),
        ("1_0", "10.050", False, False),
        ("6 or 12", "6.000", False, True),
        ("3.5+x-x", "3.500", True, True),
        ("3.5x", "3.500", False, False),
        ("25, 30", "25.000", False, False),
        ("2\\pi", "6.283", False, False),
        ("9**9**9**9", "25.500", False, False),
        ("99999999!", "25.500", False, False),
        ("__import__('os').getpid()", "25.500", False, False),
        ("math.factorial(5)", "120.000", False, False),
        ("().__class__", "25.500", False, False),
    ],
)
def test_the_original_modes(answer: str, gold: str, exact: bool, paper: bool) -> None:
    assert grade(rf"\boxed{{{answer}}}", gold, "exact").correct == exact
    assert grade(rf"\boxed{{{answer}}}", gold, "paper").correct == paper


def test_the_original_modes_know_no_think_rule_and_count_none() -> None:
    for mode in ("exact", "paper"):
        assert grade(r"<think>\boxed{5}</think>", "5.000", mode).correct
        assert grade("5", "5.000", mode).outcome == "no_answer"
        assert grade(r"\boxed{None}", "5.000", mode).outcome == "no_answer"
        assert grade(r"\boxed{}", "5.000", mode).outcome == "wrong"
        assert grade(r"\boxed{5}", "unknown", mode).outcome == "error"


@settings(max_examples=150, deadline=None)
@given(expressions, numbers)
def test_exact_is_mathruler_on_plain_arithmetic(
    expression: tuple[str, float], other: float
) -> None:
    from mathruler.grader import grade_answer as original

    assume(expression[1] < 1e6)
    for gold in (f"{expression[1]:.3f}", str(other)):
        assert grade(rf"\boxed{{{expression[0]}}}", gold, "exact").correct == original(
            expression[0], gold
        )


def test_sympy_is_loaded_for_the_original_modes_only() -> None:
    code = (
        "import sys; from modgap.grading.answer import grade; import modgap.rewards;"
        " grade(r'\\boxed{5}', '5');assert not {'sympy', 'mathruler', 'torch', 'numpy'} &"
        " set(sys.modules); grade(r'\\boxed{5}', '5', 'paper');assert 'mathruler' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        hostile,
        st.lists(
            st.sampled_from(
                ["\\title{a}", "\\maketitle", "\\frac", "{1}", "\\pi", "\\text{cm}", "5"]
            )
        ),
    )
)
def test_shared_tables_do_not_change_what_mathruler_normalises(text: str | list[str]) -> None:
    from mathruler.grader import _normalize as original

    from modgap.grading.paper import _safe_grade_answer

    def outcome(normalise: object) -> object:
        try:
            return normalise("".join(text))  # type: ignore[operator]
        except Exception as error:
            return type(error)

    assert outcome(_safe_grade_answer().__globals__["_normalize"]) == outcome(original)  # type: ignore[attr-defined]
