r"""Properties of the grader: what a number is, which box counts, and that no text can hang or break it."""

from __future__ import annotations

import math
import multiprocessing
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modgap.grading.answer import extract_answer, grade, reward, well_formatted
from modgap.grading.number import MAX_CHARS, parse_number
from modgap.grading.paper import extract_boxed_content

# gold: boxes that state it (to 5e-3) | after `!`, boxes that do not
TABLE = r"""
5.000: 5 ; 5.0 ; 5.000 ; 05 ; +5 ; 5. ; $5$ ; \$5 ; {5} ; {{5}} ; (5) ; \left(5\right) ; \text{5} ; \mathrm{5} ; \mathbf{5}
5.000: x=5 ; x = 5 ; AB = 5 ; BC = 5 \text{ cm} ; x_1 = 5 ; \theta = 5^\circ ; 5 = x ; \overline{AB} = 5 ; r = \frac{10}{2} = 5
5.000: 5 cm ; 5\text{ cm} ; 5 \text{ cm}^2 ; 5\text{ cm}^{2} ; 5\,\text{cm}^2 ; 5~cm² ; 5\ \mathrm{m} ; 5 units ; 5\text{ square units}
5.000: 5 \text{ sq. in.} ; 5 (units) ; 5\text{ units}^2 ; 5 ft ; 5 \text{ feet} ; 5\text{ inches} ; 5\text{ m/s} ; 5\quad\text{cm} ; {5\text{ cm}}
5.000: \approx 5 ; x \approx 5 ; ≈ 5.001 ; about 5 ; 10/2 ; \frac{10}{2} ; \dfrac{10}{2} ; \tfrac{15}{3} ; \frac{10}2 ; 10 \div 2 ; 10÷2
5.000: 2+3 ; 8 - 3 ; 8 − 3 ; 2(1+1.5) ; (1)(5) ; 2 \cdot 2.5 ; 2 \times 2.5 ; 2×2.5 ; 2*2.5 ; \sqrt{25} ; \sqrt[3]{125} ; \sqrt 25 ; √25
5.000: 5\sqrt{1} ; 5^1 ; 5^{1} ; 25^{1/2} ; 25^{0.5} ; 5e0 ; 0.5 \times 10^{1} ; 50 × 10⁻¹ ; 500\times10^{-2} ; 5.0E0 ; \boxed{5} ; 5\%
5.000: \displaystyle 5 ; 5\; ; \;5 ; 5.004 ; 4.996 ; - -5 ; 10 - 5 ; --5 ; 5^{\circ} ; 5^\circ ; 5° ; 5 degrees ; 5\text{ degrees} ; \(5\)
5.000: \ 5 ; \hspace{1em}5 ; 5^o ; 5^{\text{o}} ; \num{5} ; \underline{5} ; (x = 5) ; (5\text{ cm}) ; 5 (approximately) ; 5\text{ approx}
5.000! 6 ; 4 ; -5 ; 5.1 ; 4.99 ; 5.006 ; 50 ; 0.5 ; 5x ; 5 + x ; 2x = 5 ; x^2 = 5 ; -x = 5 ; 5, 6 ; 5,5 ; 5 or 6 ; 5 \text{ or } 6 ; 6 \text{ or } 5
5.000! 5 and 6 ; \pm 5 ; ±5 ; 5 \pm 1 ; x > 5 ; x \geq 5 ; 5 < x ; 5 \le 6 ; (5, 6) ; [5, 6] ; \{5, 6\} ; 5:1 ; 5 = 6 ; 5 \approx 6 ; 5 6 ; 5!
5.000! 5\sqrt{2} ; 5\pi ; 5^2 ; 5² ; \frac{5}{2} ; 5/2 ; A ; \text{five} ; \text{the answer is } 5 ; \text{B} ; ? ; x ; 5 apples ; 5) ; (5 ; 5 + ; + ; 5^
5.000! \frac{5}{0} ; 5/0 ; \sqrt{-25} ; 0^{-1} ; 9**9**9 ; 10^{99999} ; nan ; inf ; \infty ; 1e999 ; 0x5 ; 5_0 ; 5j ; __import__('os') ; 5;5 ; 5\\6
45.000: 45 ; 45^\circ ; 45^{\circ} ; 45° ; 45^\circ{} ; 45.0^\circ ; 45\degree ; \angle ABC = 45^\circ ; m\angle 1 = 45^\circ ; ∠A = 45° ; m∠ABC=45°
45.000: 180^\circ - 135^\circ ; 180 - 135 = 45 ; 90^\circ/2 ; \angle 1 = 180^\circ - 135^\circ = 45^\circ ; 45 \text{ degrees} ; 45 deg ; \theta = 45
45.000! 46^\circ ; 44^\circ ; 45^2 ; 45^\circ, 135^\circ ; 45^\circ \text{ or } 135^\circ ; 45^\circ 30' ; 135 ; 0.785 ; \pi/4 ; \frac{\pi}{4} ; -45 ; 4.5e2
3.464: 2\sqrt{3} ; 2 \sqrt{3} ; 2\sqrt3 ; 2√3 ; \sqrt{12} ; \sqrt12 ; 2\cdot\sqrt{3} ; 2*sqrt(3) ; 2 \times \sqrt{3} ; \frac{6}{\sqrt{3}} ; \frac{6\sqrt{3}}{3}
3.464: 3.464 ; 3.46 ; 3.4641 ; 2\sqrt{3} \approx 3.46 ; x = 2\sqrt{3} \text{ cm} ; 2{\sqrt{3}} ; \sqrt{3} + \sqrt{3} ; 2(3)^{1/2} ; 2\sqrt{\frac{9}{3}} ; \sqrt{4}\sqrt{3}
3.464! 3.5 ; 2\sqrt{2} ; 3\sqrt{2} ; \sqrt{3} ; 23 ; 2 + \sqrt{3} ; 2\sqrt{3}, 4 ; \pm 2\sqrt{3} ; 2\sqrt{3}x ; \sqrt[3]{12} ; 12 ; 2\sqrt{-3}
3.750: 3\frac{3}{4} ; 3 \frac{3}{4} ; 3\frac34 ; 3 3/4 ; 3¾ ; \frac{15}{4} ; 15/4 ; 3.75 ; 3\dfrac{3}{4} ; 3\,\frac{3}{4} ; 3\frac{3}{4}\text{ cm} ; 3 + \frac{3}{4}
3.750: 3 \tfrac{3}{4} ; \frac{7.5}{2} ; 2.5 \cdot 1.5 ; 2.5\frac{3}{2} ; -(-3\frac{3}{4}) ; {,}3.75!
-3.500: -3.5 ; −3.5 ; -3\frac{1}{2} ; -\frac{7}{2} ; \frac{-7}{2} ; -3½ ; - 3.5 ; x = -3.5 ; -7/2 ; 7 \cdot -0.5
-3.500! 3.5 ; -2.5 ; 3\frac{1}{2} ; -35 ; 7 - 2
1234.000: 1234 ; 1,234 ; 1{,}234 ; 1\,234 ; 1,234.0 ; 1.234 \times 10^3 ; 1.234e3 ; 1.234 \cdot 10^{3} ; 1,234 \text{ cm}^2 ; 1\,234\,\text{m} ; 12.34\times10^2
1234.000! 1, 234 ; 1 234 ; 1.234 ; 12,34 ; 1.234,0 ; 123 ; 1235 ; 1,234,0
78.540: 25\pi ; 25 \pi ; 25π ; 25*pi ; 25\cdot\pi ; \pi 25 ; 25\pi \text{ cm}^2 ; \pi \cdot 5^2 ; \pi(5)^2 ; \pi 5^{2} ; 78.54 ; 78.54 cm² ; A = 25\pi \approx 78.54
78.540! 25 ; 78.5 ; 79 ; 25\pi^2 ; 50\pi ; \pi ; 25\pi, 10\pi
0.500: 1/2 ; \frac12 ; \frac{1}2 ; ½ ; .5 ; 0.5 ; 0.50 ; 1÷2 ; 2^{-1} ; 10^{0}/2 ; \frac{\frac{1}{2}}{1} ; 5\times 10^{-1} ; 4^{-1/2} ; \sqrt{\frac14}
0.500! 1:2 ; 0,5 ; 1\2 ; 2 ; 50 ; 50\% ; 5 ; \frac{2}{1} ; -1/2
"""  # noqa: E501 - one row a line


def rows() -> list[tuple[str, str, bool]]:
    pairs: list[tuple[str, str, bool]] = []
    for line in TABLE.strip().splitlines():
        gold, mark, answers = re.fullmatch(r"(-?[\d.]+)([:!]) (.*)", line).groups()  # type: ignore[union-attr]
        pairs += [(gold, answer.strip(), mark == ":") for answer in answers.split(" ; ") if not answer.endswith("!")]
    return pairs


PAIRS = rows()
fuzz = settings(deadline=None)  # a loaded machine is not the property
numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
modes = st.sampled_from(["strict", "relative", "exact", "paper"])
# Pieces that reach every branch of the parser, so that random strings are not all rejected at the first character.
PIECES = r"""
\boxed{ \fbox{ { } ( ) [ ] 0 1 9 12 1,234 . , + - * / ^ ** _ = : ! % $ \frac \dfrac \sqrt \sqrt[3] \sqrt{ sqrt( \pi pi
\text{ \times \cdot \pm \approx \left \right ^\circ ^{\circ} ° ½ ² ⁻ √ π − × cm x e E or and < 10^ 9**9 </think>
<think> \\ \{ \} {,} \, ' " __import__ None
"""
pieces = st.sampled_from(PIECES.split())
hostile = st.one_of(st.text(max_size=60), st.lists(st.one_of(pieces, st.just(" ")), max_size=40).map("".join))


def boxed(answer: str) -> str:
    return f"<think>some work, first \\boxed{{123456}}</think> So it is \\boxed{{{answer}}}."


@pytest.mark.parametrize(("gold", "answer", "right"), PAIRS, ids=[f"{gold} | {answer}" for gold, answer, _ in PAIRS])
def test_labelled_pairs(gold: str, answer: str, right: bool) -> None:
    assert grade(boxed(answer), gold, "strict").outcome == ("correct" if right else "wrong")


def test_the_table_is_large() -> None:
    assert len(PAIRS) >= 300


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("no box at all: 5", None),
        (r"\boxed{5}", "5"),
        (r"<think>\boxed{4}</think>\boxed{5}", "5"),
        (r"<think>\boxed{5}</think> hm", None),
        (r"<think>a</think><think>\boxed{4}</think>\boxed{5}", "5"),
        (r"\boxed{4} then \boxed{5}", "5"),
        (r"\boxed{5} and then \boxed{\frac{1}{2", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"{ \boxed{5}", "5"),
        (r"\boxed{ 5 } }}}", "5"),
        (r"\boxed{\left\{5\right.}", r"\left\{5\right."),
        (r"\boxed 7.", "7"),
        (r"\boxed7", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{}", ""),
        (r"\boxed{", None),
        (r"\boxedx{5}", None),
        ("\\boxed{5}" + "x" * 100_000, "5"),
        ("\\boxed{4}" + "\\boxed{" * 5 + "5", "4"),
    ],
)
def test_which_box_counts(response: str, expected: str | None) -> None:
    assert extract_answer(response) == expected


@pytest.mark.parametrize("mode", ["strict", "relative"])
def test_outcomes_and_stages(mode: str) -> None:
    def verdict(response: str, gold: str = "5.000") -> tuple[str, str]:
        result = grade(response, gold, mode)  # type: ignore[arg-type]
        return result.outcome, result.stage

    assert verdict("I do not know.") == ("no_answer", "no-box")
    assert verdict(r"\boxed{}") == ("no_answer", "empty")
    assert verdict(r"\boxed{ }") == ("no_answer", "empty")
    assert verdict(r"\boxed{5\text{ cm}\ }") == ("correct", "strict")
    assert verdict(r"\boxed{two}") == ("wrong", "not-a-number")
    assert verdict(r"\boxed{" + "5" * (MAX_CHARS + 1) + "}") == ("wrong", "length")
    assert verdict(r"\boxed{6}")[0] == "wrong"
    assert verdict(r"\boxed{5}", "") == ("error", "gold")
    assert verdict("nothing", "a triangle") == ("error", "gold")
    assert "a triangle" in grade(r"\boxed{5}", "a triangle").reason


def test_an_unknown_mode_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'lenient'.*strict, relative"):
        grade("x", "5", "lenient")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'paper'.*exact, strict, relative"):
        reward("x", "5", "paper")  # type: ignore[arg-type]


# ---- tolerance -----------------------------------------------------------------------------------------------------
@fuzz
@given(st.integers(-100_000, 100_000), st.sampled_from([-1, 1]), st.sampled_from(["{}", "{}.0", "{}.000"]), modes)
def test_off_by_one_is_never_right_for_an_integer(gold: int, step: int, form: str, mode: str) -> None:
    if mode == "paper" and abs(gold) >= 100:
        return  # the original's 1% has no such rule: this is why it is not the default
    assert grade(boxed(str(gold + step)), form.format(gold), mode).outcome == "wrong"  # type: ignore[arg-type]


@fuzz
@given(numbers, numbers)
def test_a_verdict_is_the_distance_to_the_gold(value: float, gold: float) -> None:
    distance = abs(value - gold)
    allowed = max(5e-3, 0.0 if gold == round(gold) else 0.01 * abs(gold))
    if abs(distance - 5e-3) > 1e-6:
        assert grade(boxed(f"{value:.3f}"), f"{gold:.3f}", "strict").correct == (distance < 5e-3)
    if abs(distance - allowed) > 1e-6:
        assert grade(boxed(f"{value:.3f}"), f"{gold:.3f}", "relative").correct == (distance < allowed)


@fuzz
@given(st.integers(-50_000, 50_000), st.sampled_from([-5, 5]))
def test_the_boundary_itself_is_right_in_spite_of_binary_floats(hundredths: int, thousandths: int) -> None:
    gold = f"{hundredths / 100:.3f}"
    value = f"{(hundredths * 10 + thousandths) / 1000:.3f}"
    assert grade(boxed(value), gold, "strict").correct


@fuzz
@given(numbers, numbers, numbers)
def test_two_answers_further_apart_than_twice_the_tolerance_are_never_both_right(
    a: float, b: float, gold: float
) -> None:
    if abs(a - b) > 0.0101:
        assert not (grade(boxed(str(a)), str(gold)).correct and grade(boxed(str(b)), str(gold)).correct)


@fuzz
@given(
    st.integers(0, 99_999),
    st.sampled_from(
        [
            "{}",
            "${}$",
            " {} ",
            "{}\\text{{ cm}}",
            "{} \\mathrm{{ m}}^2",
            "{}^\\circ",
            "x = {}",
            "{{{}}}",
            "\\text{{{}}}",
        ]
    ),
    st.sampled_from(["{}", "\\;{}", "{}\\,", "\\left({}\\right)"]),
    st.sampled_from(["strict", "relative"]),
)
def test_wrapping_does_not_change_the_verdict(thousandths: int, outer: str, inner: str, mode: str) -> None:
    number = f"{thousandths / 1000:.3f}"
    for gold in (number, "12.345"):
        bare, wrapped = (grade(boxed(text), gold, mode) for text in (number, outer.format(inner.format(number))))  # type: ignore[arg-type]
        assert (bare.outcome, bare.value) == (wrapped.outcome, wrapped.value)


expressions = st.recursive(
    st.integers(1, 40).map(lambda n: (str(n), float(n))),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: (rf"\frac{{{p[0][0]}}}{{{p[1][0]}}}", p[0][1] / p[1][1])),
        st.tuples(inner, inner).map(lambda p: (rf"({p[0][0]}) \cdot ({p[1][0]})", p[0][1] * p[1][1])),
        st.tuples(inner, inner).map(lambda p: (rf"({p[0][0]} + {p[1][0]})", p[0][1] + p[1][1])),
        st.tuples(st.integers(2, 9), inner).map(lambda p: (rf"{p[0]}\sqrt{{{p[1][0]}}}", p[0] * math.sqrt(p[1][1]))),
        st.tuples(st.integers(2, 9), inner).map(lambda p: (rf"{p[0]}\pi({p[1][0]})", p[0] * math.pi * p[1][1])),
        inner.map(lambda p: (rf"{{({p[0]})}}^{{2}}", p[1] ** 2)),
    ),
    max_leaves=5,
)


@fuzz
@given(expressions)
def test_the_parser_computes_what_was_printed(expression: tuple[str, float]) -> None:
    text, value = expression
    assert parse_number(text) == pytest.approx(value, rel=1e-9)


# ---- hostile text --------------------------------------------------------------------------------------------------
def robust(response: str, gold: str, mode: str) -> None:
    start = time.perf_counter()
    for text in (response, boxed(response), "\\boxed{" + response):
        result = grade(text, gold, mode)  # type: ignore[arg-type]
        assert result.outcome in ("correct", "wrong", "no_answer", "error")
        assert result.value is None or math.isfinite(result.value)
    assert time.perf_counter() - start < 2


@settings(max_examples=400, deadline=None)
@given(hostile, hostile, modes)
def test_no_text_breaks_or_hangs_the_grader(response: str, gold: str, mode: str) -> None:
    robust(response, gold, mode)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None)
@given(hostile, hostile, modes)
def test_no_text_breaks_or_hangs_the_grader_longer(response: str, gold: str, mode: str) -> None:
    robust(response, gold, mode)


FLOODS = {
    "open boxes": "\\boxed{" * 14_000,
    "braces": "\\boxed{5}" + "{" * 100_000,
    "pairs in a box": "\\boxed{" + "{}" * 50_000 + "}",
    "nested": "\\boxed{" + "{" * 50_000 + "5" + "}" * 50_001,
    "backslashes": "\\boxed{5}" + "\\" * 100_000,
    "digits": "\\boxed{" + "9" * 100_000 + "}",
    "powers": "\\boxed{" + "9**" * 130 + "9}",
    "towers": "\\boxed{9^{9^{9^{9^{9}}}}}",
    "factorial": "\\boxed{99999999!}",
    "roots": "\\boxed{" + "\\sqrt{" * 60 + "2" + "}" * 61,
    "parentheses": "\\boxed{" + "(" * 390 + "}",
    "relations": "\\boxed{" + "5=" * 190 + "5}",
    "expanding": "\\boxed{" + "½" * 390 + "}",
    "thinking": "<think></think>" * 7_000 + "\\boxed",
    "format": "<think>" + "</think>\\boxed{" * 6_000,
    "spaces": "\\boxed{" + " " * 100_000 + "}",
    "minus": "\\boxed{" + "-" * 390 + "5}",
}


@pytest.mark.parametrize("mode", ["strict", "relative", "exact", "paper"])
def test_floods_of_100_kb_take_no_time(mode: str) -> None:
    grade(r"\boxed{\frac{1}{2}}", "5.000", mode)  # type: ignore[arg-type]  # mathruler's import is not the flood's
    for name, text in FLOODS.items():
        best = math.inf
        for _ in range(3):
            start = time.perf_counter()
            grade(text, "5.000", mode)  # type: ignore[arg-type]
            well_formatted(text)
            best = min(best, time.perf_counter() - start)
        assert best < 0.1, f"{name} took {best:.3f} s"  # measured: under 5 ms; a loaded machine is not the property


def _verdicts(mode: str) -> list[str]:
    return [f"{grade(boxed(answer), gold, mode)}" for gold, answer, _ in PAIRS[::4]]  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["relative", "paper"])
def test_threads_and_processes_give_the_same_verdicts(mode: str) -> None:
    expected = _verdicts(mode)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_verdicts, [mode] * 4)) == [expected] * 4
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_verdicts, [mode]) == [expected]


# ---- format --------------------------------------------------------------------------------------------------------
ORIGINAL_FORMAT = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)
format_pieces = st.sampled_from(
    ["<think>", "</think>", "\\boxed{", "\\boxed", "{", "}", "\n", "a", " ", "<think", "\\"]
)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.lists(format_pieces, max_size=9).map("".join), st.text("<think>/\\boxed{}\n", max_size=30)))
def test_the_format_check_is_the_original_pattern(text: str) -> None:
    for response in (text, "<think>" + text, "<think></think>" + text, "<think>" + text + "</think>\\boxed{1}"):
        assert well_formatted(response) == (ORIGINAL_FORMAT.fullmatch(response) is not None)


# ---- the original's modes ------------------------------------------------------------------------------------------
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
def test_exact_is_mathruler_on_plain_arithmetic(expression: tuple[str, float], other: float) -> None:
    from mathruler.grader import grade_answer as original

    assume(expression[1] < 1e6)
    for gold in (f"{expression[1]:.3f}", str(other)):
        assert grade(rf"\boxed{{{expression[0]}}}", gold, "exact").correct == original(expression[0], gold)


def test_sympy_is_loaded_for_the_original_modes_only() -> None:
    code = (
        "import sys; from modgap.grading.answer import grade; import modgap.rewards; grade(r'\\boxed{5}', '5');"
        "assert not {'sympy', 'mathruler', 'torch', 'numpy'} & set(sys.modules); grade(r'\\boxed{5}', '5', 'paper');"
        "assert 'mathruler' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        hostile, st.lists(st.sampled_from(["\\title{a}", "\\maketitle", "\\frac", "{1}", "\\pi", "\\text{cm}", "5"]))
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
