"""Properties of the rules of MathVerse: letters, choices by value, and free-form answers."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mathverse_answers import LETTERS, QUESTION, case, free_form_rows, fuzz, verdict

from modgap.grading.choices import named_letters, parse_choices
from modgap.grading.grade import Grade
from modgap.grading.judge import Undecided
from modgap.grading.mathverse import Case, grade_by_rule


def test_free_form() -> None:
    """One test for the whole table: a test of its own for each row costs more than the row."""
    rows = [
        (gold, answer, right, verdict(answer, gold)) for gold, answer, right in free_form_rows()
    ]
    assert len(rows) > 500
    assert [row for row in rows if row[3] is not row[2]] == []


def test_multiple_choice() -> None:
    rows = [(gold, box, right, verdict(box, gold, "multi-choice")) for gold, box, right in LETTERS]
    assert len(rows) > 150
    assert [row for row in rows if row[3] is not row[2]] == []


DENIALS = [
    *(
        "Not option C",
        "rule out option C",
        "option C fails",
        "The wrong answer is C",
        "Don't choose option C",
        "C: false",
    ),
    *(
        "Choice C does not work",
        "other than option C",
        "Option C is clearly wrong",
        "Answer is C? No, B",
        r"\text{C, because } 120",
    ),
]


@pytest.mark.parametrize(
    "box",
    ["C, 61", "C = 61", "C - x", "option C is wrong", "not C", "The answer is not C", *DENIALS],
)
def test_a_letter_with_no_choices_value_or_denied_is_not_right(box: str) -> None:
    assert verdict(box, "C", "multi-choice") is None
    assert verdict(box, "B", "multi-choice") is not True


SIDES = "Which side is the longest?\nChoices:\nA:b\nB:a\nC:c\nD:d"


@pytest.mark.parametrize(
    "box",
    [
        "a",
        "$a$",
        "\\text{a}",
        "{a}",
        "a.",
        "B",
        "B: a",
        "B, a",
        "a, B",
        "\\mathrm{a}",
        "(B) a",
        "\\(a\\)",
    ],
)
def test_a_lower_case_letter_is_the_choice_that_says_so(box: str) -> None:
    assert [verdict(box, gold, "multi-choice", SIDES) for gold in "ABCD"] == [
        False,
        True,
        False,
        False,
    ]
    assert [verdict("(a)", gold, "multi-choice", SIDES) for gold in "ABC"] == [None, None, False]
    assert [verdict("A", gold, "multi-choice", SIDES) for gold in "AB"] == [True, False]
    assert [verdict("c", gold, "multi-choice", SIDES) for gold in "AC"] == [False, True]
    assert [verdict("a", gold, "multi-choice") for gold in "AB"] == [
        True,
        False,
    ]  # no choice says `a`


@pytest.mark.parametrize(
    ("choices", "box", "gold"),
    [
        ("A:90°-α B:90°+α C:180°-2α D:2α", "180^\\circ - 2\\alpha", "C"),
        ("A:90°-α B:90°+α C:180°-2α D:2α", "90 + alpha", "B"),
        ("A:\\varphi B:θ C:\\psi D:2φ", "φ", "A"),
        ("A:3:00 B:4:30 C:6:15 D:9:45", "4:30", "B"),
        ("A:3:00 B:4:30 C:6:15 D:9:45", "03:00", "A"),
        ("A:25% B:50% C:75% D:80%", "\\frac{3}{4}", "C"),
        (
            "A:\\overline{AB} B:$\\overline{CD}$ C:\\(\\overrightarrow{EF}\\) D:\\textbf{GH}",
            "AB",
            "A",
        ),
        (
            "A:\\overline{AB} B:$\\overline{CD}$ C:\\(\\overrightarrow{EF}\\) D:\\textbf{GH}",
            "\\overline{CD}",
            "B",
        ),
        (
            "A:\\overline{AB} B:$\\overline{CD}$ C:\\(\\overrightarrow{EF}\\) D:\\textbf{GH}",
            "\\overrightarrow{EF}",
            "C",
        ),
        ("A:AB B:CD C:EF D:GH", "\\overline{GH}", "D"),
        ("A:C-80 B:80 C:-80 D:80+C", "C - 80", "A"),
        ("A:10 B:14 C:7.5 D:8", "A, 10", "A"),
        ("A:a\\sin 30° B:a C:2a D:3a", "\\frac{a}{2}", "A"),
        ("A:20°C B:80°C C:40°C D:50°C", "80^\\circ C", "B"),
    ],
)
def test_choices_by_value(choices: str, box: str, gold: str) -> None:
    question = "Which?\nChoices:\n" + re.sub(r" (?=[B-D]:)", "\n", choices)
    assert [verdict(box, letter, "multi-choice", question) for letter in "ABCD"] == [
        letter == gold for letter in "ABCD"
    ]


def test_what_no_choice_says_is_wrong_and_what_may_be_one_is_for_the_judge() -> None:
    times = "What time?\nChoices:\nA:3:00\nB:4:30\nC:6:15\nD:9:45"
    assert verdict("7:00", "A", "multi-choice", times) is False
    assert verdict("3", "A", "multi-choice", times) is None
    decimals = "How long?\nChoices:\nA:2.5\nB:3.5\nC:4.5\nD:5"
    assert verdict("3,5", "B", "multi-choice", decimals) is None
    assert verdict("3.5", "B", "multi-choice", decimals) is True


@pytest.mark.parametrize(
    ("choice", "box"),
    [
        ("35", "3.5"), ("3.5", "35"), ("5", ".5"), ("11/2", "1 1/2"), ("1 1/2", "11/2"),
        ("34", "3*4"), ("\\frac{1}{23}", "\\frac{12}{3}"), ("(12)", "(1, 2)"),
        ("x^{12}", "x^{1}2"), ("12:3", "1:23"),
    ],
)  # fmt: skip
def test_punctuation_between_digits_says_something(choice: str, box: str) -> None:
    question = f"How long?\nChoices:\nA:{choice}\nB:77\nC:88\nD:99"
    assert verdict(box, "A", "multi-choice", question) is not True
    assert verdict(choice, "A", "multi-choice", question) is True
    assert verdict(box, choice) is not True and verdict(choice, choice) is True


def test_choices_in_latex() -> None:
    latex = r"What? $\textbf{(A)}\ 3 \qquad \textbf{(B)}\ 4 \qquad \textbf{(C)}\ \frac{1}{2}$"
    assert list(parse_choices(latex)) == ["A", "B", "C"]
    assert [verdict("0.5", gold, "multi-choice", latex) for gold in "ABC"] == [False, False, True]
    marked = "What?\nChoices:\n**A.** $40^{\\circ}$\n**B.** \\( 50^\\circ \\)\n\\text{C.} 80°"
    assert [verdict("50", gold, "multi-choice", marked) for gold in "ABC"] == [False, True, False]


def test_parse_choices() -> None:
    assert parse_choices(QUESTION) == {"A": "40°", "B": "60°", "C": "120°", "D": "2\\sqrt{3}"}
    assert parse_choices("Which?\nChoices:\nA.3/8\nB.1/4\nC.1/8") == {
        "A": "3/8",
        "B": "1/4",
        "C": "1/8",
    }
    assert parse_choices("Which?\nChoices:\n(A) x\n(B) two\nlines\n(C) z") == {
        "A": "x",
        "B": "two\nlines",
        "C": "z",
    }
    assert parse_choices("Which graph?\nChoices:\nA\nB\nC\nD") == dict.fromkeys("ABCD", "")
    assert parse_choices("Find its equation.A. x = 1 B. Can not determine.\n") == {
        "A": "x = 1",
        "B": "Can not determine.",
    }
    assert parse_choices("In triangle ABC, find A. Then go on") == {}
    assert parse_choices("") == {}


def test_a_letter_beyond_the_choices_is_a_name() -> None:
    choices = parse_choices("Which point?\nChoices:\nA:E\nB:F\nC:G\nD:H")
    assert named_letters("E", choices) == frozenset()
    assert verdict("E", "A", "multi-choice", "Which point?\nChoices:\nA:E\nB:F\nC:G\nD:H") is True
    assert verdict("F", "A", "multi-choice", "Which point?\nChoices:\nA:E\nB:F\nC:G\nD:H") is False


def test_outcomes_and_stages() -> None:
    def stage(response: str, gold: str, question_type: str = "free-form") -> tuple[str, str]:
        result = grade_by_rule(Case(response, gold, QUESTION, question_type))
        return (
            ("undecided", "") if isinstance(result, Undecided) else (result.outcome, result.stage)
        )

    assert stage("no box", "5") == ("no_answer", "no-box")
    assert stage(r"<think>\boxed{5}</think>", "5") == ("no_answer", "no-box")
    assert stage(r"\boxed{}", "5") == ("no_answer", "empty")
    assert stage(r"\boxed{5}", " ") == ("error", "gold")
    assert stage(r"\boxed{C}", "a triangle", "multi-choice") == ("error", "gold")
    assert stage(r"\boxed{C}", "C", "multi-choice") == ("correct", "letter")
    assert stage(r"\boxed{120}", "C", "multi-choice") == ("correct", "choice-value")
    assert stage(r"\boxed{121}", "C", "multi-choice") == ("wrong", "choice-value")
    assert stage(r"\boxed{none of these}", "C", "multi-choice") == ("undecided", "")
    assert stage(r"\boxed{5}", "5") == ("correct", "text")
    assert stage(r"\boxed{5.0}", "5") == ("correct", "number")
    assert stage(r"\boxed{5 cm}", "5 m") == ("undecided", "")
    assert stage(r"\boxed{x < 5.0}", "x<5") == ("correct", "inequality")
    assert stage(r"\boxed{2}", "x<5") == ("wrong", "inequality")
    assert stage(r"\boxed{" + "x+" * 300 + "x}", "x") == ("wrong", "length")


def test_modes_differ_in_the_tolerance() -> None:
    def right(answer: str, gold: str, mode: str) -> bool:
        result = grade_by_rule(case(answer, gold), mode)  # type: ignore[arg-type]
        return isinstance(result, Grade) and result.correct

    for answer, expected in [
        ("169.604", "strict"),
        ("169.7", "relative"),
        ("176", "paper"),
        ("2", ""),
    ]:
        assert [m for m in ("strict", "relative", "paper") if right(answer, "169.6 cm", m)][:1] == [
            expected
        ][: bool(expected)]
    assert not right("101", "100", "relative")
    with pytest.raises(ValueError, match=r"'exact'.*strict, relative, paper"):
        grade_by_rule(case("5", "5"), "exact")  # type: ignore[arg-type]


def test_a_wrong_unit_is_for_the_judge_and_not_for_algebra() -> None:
    for mode in ("strict", "relative"):
        result = grade_by_rule(case(r"10 \text{ cm}", "10 m"), mode)  # type: ignore[arg-type]
        assert isinstance(result, Undecided) and not result.symbolic
    paper = grade_by_rule(case(r"10 \text{ cm}", "10 m"), "paper")
    assert (
        isinstance(paper, Grade) and paper.correct and paper.stage == "any-number"
    )  # the original's


@pytest.mark.parametrize(
    "unit",
    [
        "cm" + "^9" * 150,
        "nm^4 " * 60,
        "ton " * 90,
        "m/" * 150 + "m",
        "m^0",
        "per /^2",
        "°^9",
        "m^",
        "^",
    ],
)
def test_no_unit_breaks_the_rules(unit: str) -> None:
    for gold in (f"5 {unit}", "5 m"):
        for answer in (f"5.0 {unit}", "5 kg"):
            verdict(answer, gold)


# ---- a constant is never right -------------------------------------------------------------------
def _synthetic_golds(count: int) -> list[str]:
    """Golds of many kinds to which the number 2 is not an answer, though most contain a 2."""
    rng = random.Random(7)

    def n() -> str:
        return rng.choice(
            ["3", "5", "7.5", "12", "20", "22", "-2", "0.2", "\\frac{1}{2}", "2\\sqrt{3}", "2\\pi"]
        )

    kinds = [
        lambda: f"{n()} \\mathrm{{~cm}}^{{2}}",
        lambda: f"Area $={n()} \\mathrm{{~m}}^{{2}}$",
        lambda: f"Volume $={n()} \\text{{ cm}}^3$",
        lambda: f"({n()}, 2)",
        lambda: f"[2, {n()})",
        lambda: f"(-\\infty, 2) \\cup ({n()}, \\infty)",
        lambda: f"y = 2x + {n()}",
        lambda: f"(x-2)^2 + (y-{n()})^2 = 2",
        lambda: f"y \\leq {n()} x + 2",
        lambda: f"{n()} x^2 + 2x + 2",
        lambda: f"x = 2, y = {n()}",
        lambda: f"x = 2 or x = {n()}",
        lambda: f"domain: [2, 5) and range: ({n()}, 2]",
        lambda: f"Center $=(2, {n()})$",
        lambda: f"x > 2 and x < 1{rng.randint(0, 9)}",
        lambda: f"f(x) = \\sin(2x) + {n()}",
    ]  # fmt: skip
    return [rng.choice(kinds)() for _ in range(count)]


@pytest.mark.parametrize(
    "constant", ["2", "2.0", "(2)", "x = 2", "2^\\circ", "2 \\text{ cm}^2", "2 \\text{ cm}"]
)
def test_a_constant_is_right_for_no_gold_that_is_something_else(constant: str) -> None:
    golds = _synthetic_golds(400)
    right = [gold for gold in golds if verdict(constant, gold) is not False]
    assert right == []
    paper = [grade_by_rule(case("2", gold), "paper") for gold in golds]
    assert (
        sum(isinstance(g, Grade) and g.correct for g in paper) > 200
    )  # which is why the original's rule is not ours


# ---- properties ----------------------------------------------------------------------------------
terms = st.sampled_from(
    [
        "x",
        "y",
        "2x",
        "x^2",
        "3",
        "\\frac{x}{2}",
        "\\sqrt{x}",
        "xy",
        "\\sin x",
        "|y|",
        "\\pi x",
        "5y^{2}",
    ]
)
formulas = st.lists(st.tuples(st.sampled_from("+-"), terms), min_size=1, max_size=5)


def _written(parts: list[tuple[str, str]]) -> str:
    return "".join(sign + term for sign, term in parts).removeprefix("+")


@fuzz
@given(formulas, st.randoms(use_true_random=False))
def test_the_order_of_terms_and_sides_does_not_matter(
    parts: list[tuple[str, str]], rng: random.Random
) -> None:
    shuffled = rng.sample(parts, len(parts))
    left, right = _written(parts), _written(shuffled)
    for gold, answer in [
        (left, right),
        (f"z = {left}", f"{right} = z"),
        (f"z = {left}", f"{right} - z = 0"),
        (f"z < {left}", f"{right} > z"),
        (f"z \\le {left}", f"2z \\leq 2({right})"),
        (f"({left}, 1]", f"\\left({right}, 1\\right]"),
    ]:
        assert verdict(answer, gold) is True
    for gold, answer in [
        (left, f"{right} + 1"),
        (f"z = {left}", f"z = {right} - 1"),
        (f"z < {left}", f"z > {right}"),
        (f"z < {left}", f"z \\le {right}"),
        (f"({left}, 1]", f"({right}, 1)"),
    ]:
        assert verdict(answer, gold) is not True


@fuzz
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.sampled_from("[("), st.sampled_from("])"))
def test_an_interval_is_its_ends_and_its_brackets(
    low: float, high: float, left: str, right: str
) -> None:
    gold = f"{left}{low:.3f}, {high:.3f}{right}"
    for opening in "[(":
        for closing in "])":
            answer = f"\\left{opening}{low:.3f},{high:.3f}\\right{closing}"
            assert verdict(answer, gold) == ((opening, closing) == (left, right))
    assert verdict(f"{left}{low + 1:.3f}, {high:.3f}{right}", gold) is False
