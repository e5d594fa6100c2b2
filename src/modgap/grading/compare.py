r"""Compare two answers that have been read (see `forms`).

Brackets and signs count as they are, equations and inequalities up to the order of their sides,
lists up to their order unless only one of them says which part is which. Things of two kinds are
not the same, except `y = 2x + 3` and `2x + 3`, `2, -2` and `(2, -2)`. Values with different units
(`10 m`, `10 cm`) are never right by their numbers. A verdict is True, False or None (undecided, for
a judge).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

from modgap.grading.forms import FUNCTION_SIDE, HALF_DAY, LETTER, Form, formula_side
from modgap.grading.formula import evaluate, same_formula, same_relation
from modgap.grading.notation import LOWER
from modgap.grading.units import conversion, units_differ

Close = Callable[[float, float], bool]
"""Whether a value (first) is close enough to the gold's (second)."""

_ANSWER_WORDS = frozenset({"yes", "no", "true", "false"})
_GREEK = f"(?:{'|'.join(LOWER)})$"
_OVERLINE = re.compile(r"\\overline(?![a-z])")
_MATHEMATICAL = re.compile(r"[\d+*/^=<>|':!°]")
_VARIABLES = frozenset("xyz")
_ARGUMENTS = frozenset("txyz")
_INVERSE = re.compile(r"arc(?:sin|cos|tan|cot|sec|csc)|\^\s*\{\s*-\s*1\s*\}")
_DENIAL = re.compile(r"\\(?:not|neq?)(?![a-z])|\\(?:lnot|neg)(?![a-z])|[≉≢¬≇]|\bnot\s+[\d.\\-]")
# Algebra would read a denial as a statement, and a decimal comma as a decimal point.
_DOUBTFUL = re.compile(
    r"\d\{,\}\d|\\n(?:ot|eq?|eg|less|gtr|leq|geq|mid|sim)(?![a-z])|\\lnot|≠|!=|≉|≢|¬"
)


def same_form(answer: Form, gold: Form, close: Close) -> bool | None:
    """Whether an answer states what the gold states; None if rules cannot decide.

    Args:
        answer: The answer, read.
        gold: The gold, read.
        close: Compares two numbers.
    """
    verdict = _same_values(answer, gold, close)
    if units_differ(answer.units, gold.units):
        return _of_other_units(answer, gold, verdict)
    return verdict


def _of_other_units(answer: Form, gold: Form, verdict: bool | None) -> bool | None:
    """The verdict where units differ: never right.

    A number is wrong only if it is neither the gold's nor the gold's converted to its unit.
    """
    if verdict is not False or answer.kind != gold.kind:
        return None if verdict else verdict
    factor = conversion(answer.units, gold.units)
    if gold.kind == "number" and (
        factor is None or not math.isclose(answer.value * factor, gold.value, rel_tol=0.01)
    ):
        return False
    return None


def _same_values(answer: Form, gold: Form, close: Close) -> bool | None:
    if _contradict(answer.name, gold.name):
        return False
    if "words" in (answer.kind, gold.kind):
        if _denied(answer, gold) or _denied(gold, answer):
            return False
        return _same_words(answer, gold)
    if answer.kind == gold.kind:
        return _same_kind(answer, gold, close)
    kinds = {answer.kind, gold.kind}
    if kinds == {"time", "number"}:
        return _number_of_time(answer, gold, close)
    if kinds == {"formula", "equation"}:
        return _formula_of_equation(answer, gold)
    if kinds == {"number", "equation"}:
        number = answer if answer.kind == "number" else gold
        return bool(LETTER.fullmatch(number.name)) and _same_kind(
            _as_equation(answer), _as_equation(gold), close
        )
    if kinds == {"ratio", "number"}:
        return _number_of_ratio(answer, gold, close)
    if kinds == {"bracket", "list"}:
        return _point_without_brackets(answer, gold, close)
    return None if _may_be_the_same_range(answer, gold) else False


def _number_of_time(answer: Form, gold: Form, close: Close) -> bool | None:
    """`4:30` for the number that the ratio 4 to 30 is; `3` for `3:00` is left to a judge."""
    time, number = (answer, gold) if answer.kind == "time" else (gold, answer)
    if math.isnan(time.value):
        hours = number.value * 3600 in (time.seconds, time.seconds - HALF_DAY)
        return None if hours and not number.units - {"h"} else False
    return close(answer.value, gold.value)


def _number_of_ratio(answer: Form, gold: Form, close: Close) -> bool | None:
    r"""`\sqrt{3}:2` for `\frac{\sqrt{3}}{2}` is left to a judge."""
    values: list[float] = []
    for form in (answer, gold):
        is_quotient = form.kind == "ratio" and len(form.parts) == 2
        if is_quotient and all(part.value for part in form.parts):
            values.append(form.parts[0].value / form.parts[1].value)
        else:
            values.append(form.value)
    return None if not any(map(math.isnan, values)) and close(values[0], values[1]) else False


def _same_time(answer: Form, gold: Form) -> bool | None:
    """Whether two times of day are the same.

    None for the same ratio, and for half a day between them where one says neither am nor pm.
    """
    if answer.seconds == gold.seconds:
        afternoon = max(answer.seconds, gold.seconds) > HALF_DAY
        return True if answer.sign == gold.sign or afternoon else None
    half_known = answer.sign and gold.sign
    if not half_known and (answer.seconds - gold.seconds) % HALF_DAY == 0:
        return None
    return None if math.isclose(answer.value, gold.value) else False


def _as_equation(form: Form) -> Form:
    """`x = 3`, which is read as a number, for `3 - x = 0`."""
    if form.kind == "equation":
        return form
    return Form(
        "equation", form.text, parts=(formula_side(form.name), formula_side(repr(form.value)))
    )


def _may_be_the_same_range(answer: Form, gold: Form) -> bool:
    """`-2 < x < 1` and `(-2, 1)`: left to a judge, since a question may ask for one of them."""
    intervals = [_any_part(form, _is_interval) for form in (answer, gold)]
    bounds = [_any_part(form, _is_bound) for form in (answer, gold)]
    if bounds[0] == bounds[1]:
        return False
    # One of them has a bound: the other one may state the same range as an interval.
    return intervals[0] if bounds[1] else intervals[1]


def for_algebra(answer: Form, gold: Form) -> bool:
    """Whether algebra may settle what `same_form` left open: a side is unread and not prose.

    Where both sides were read, the verdict depends on what the question asks for: units, degrees or
    radians, an interval or an inequality, rounded numbers.
    """
    forms = (answer, gold)
    unread = any(_any_part(form, lambda part: part.kind == "words") for form in forms)
    prose = any(re.search(r"[^\W\d_]{3}", re.sub(r"\\[A-Za-z]+", " ", form.text)) for form in forms)
    doubtful = any(_DOUBTFUL.search(form.text) for form in forms)
    ranged = any(
        _any_part(
            form, lambda part: _is_interval(part) or part.kind in ("inequality", "time", "ratio")
        )
        for form in forms
    )
    return (
        unread and not (prose or doubtful or ranged) and not units_differ(answer.units, gold.units)
    )


def _any_part(form: Form, test: Callable[[Form], bool]) -> bool:
    return any(map(test, (form, *form.parts)))


def _is_interval(form: Form) -> bool:
    ends = [part.value for part in form.parts]
    return form.kind == "bracket" and len(ends) == 2 and ends[0] < ends[1]


def _is_bound(form: Form) -> bool:
    letters = [values.letters for part in form.parts if (values := evaluate(part.text))]
    return form.kind == "inequality" and len(frozenset[str]().union(*letters)) == 1


def _point_without_brackets(answer: Form, gold: Form, close: Close) -> bool | None:
    """`2, -2` for the point `(2, -2)`: in that order."""
    if _may_be_the_same_range(answer, gold) or "{}" in (answer.sign, gold.sign):
        return None
    names = [part.name for part in (answer if answer.kind == "list" else gold).parts]
    if all(names) and names != sorted(names):
        return None  # `y = 1, x = 2` for the point (1, 2)
    if (
        "()" not in (answer.sign, gold.sign)
        or "or" in (answer.sign, gold.sign)
        or len(answer.parts) != len(gold.parts)
    ):
        return False
    return _all(same_form(a, g, close) for a, g in zip(answer.parts, gold.parts, strict=True))


def _contradict(answer: str, gold: str) -> bool:
    return answer in _VARIABLES and gold in _VARIABLES and answer != gold


def _same_words(answer: Form, gold: Form) -> bool | None:
    first, second = (_only_words(form.text) for form in (answer, gold))
    if first == second and first:
        return True
    return False if first in _ANSWER_WORDS and second in _ANSWER_WORDS else None


def _denied(words: Form, other: Form) -> bool:
    r"""A denial (`x \not\approx 5`) for something that is stated."""
    return bool(_DENIAL.search(words.text)) and other.kind in (
        "number",
        "formula",
        "equation",
        "bracket",
    )


def _only_words(text: str) -> str:
    """Remove punctuation where there are only words; else spaces and backslashes."""
    text = _OVERLINE.sub("", text).casefold()
    if not _MATHEMATICAL.search(text):
        return re.sub(r"[\W_]+", "", text)
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)|[\\$]|[.,;]$", "", text)


def _same_kind(answer: Form, gold: Form, close: Close) -> bool | None:
    if gold.kind == "number":
        return _same_number(answer, gold, close)
    if gold.kind == "time":
        return _same_time(answer, gold)
    if gold.kind == "ratio":
        return _same_ratio(
            [part.value for part in answer.parts], [part.value for part in gold.parts]
        )
    if gold.kind == "bracket":
        if answer.sign != gold.sign or len(answer.parts) != len(gold.parts):
            return False
        return _all(same_form(a, g, close) for a, g in zip(answer.parts, gold.parts, strict=True))
    if gold.kind == "list":
        return _same_list(answer, gold, close)
    if gold.kind == "formula":
        if _function_and_letter(answer, gold):
            return None
        left, right = evaluate(answer.text), evaluate(gold.text)
        return None if left is None or right is None else same_formula(left, right)
    if gold.kind == "inequality" and answer.sign != gold.sign:
        return False
    sides = [evaluate(part.text) for part in (*answer.parts, *gold.parts)]
    if len(sides) != 4 or None in sides:
        return None
    a, b, c, d = (side for side in sides if side is not None)
    if gold.kind == "inequality":
        return same_relation((a, b), (c, d), directed=gold.sign != "!=")
    if _names_other_variable(answer) or _names_other_variable(gold):
        return None
    same = _same_function(answer, gold) or same_relation((a, b), (c, d))
    return None if _other_functions(answer, gold, bool(same)) else same


def _same_ratio(answer: list[float], gold: list[float]) -> bool | None:
    if len(answer) != len(gold):
        return False
    if not all(answer) or not all(gold):
        return True if answer == gold else None
    return all(
        math.isclose(a * gold[0], g * answer[0], rel_tol=1e-6)
        for a, g in zip(answer, gold, strict=True)
    )


def _same_number(answer: Form, gold: Form, close: Close) -> bool | None:
    if math.isinf(gold.value) or math.isinf(answer.value):
        return answer.value == gold.value
    if not (math.isnan(answer.other) and math.isnan(gold.other)):
        if close(answer.value, gold.value) and close(answer.other, gold.other):
            return True
        pairs = [(a, g) for a in (answer.value, answer.other) for g in (gold.value, gold.other)]
        return None if any(close(a, g) for a, g in pairs) else False
    if close(answer.value, gold.value):
        return None if _other_quantities(answer.text, gold.text) else True
    return None if _same_angle(answer, gold) else _same_share(answer, gold)


def _other_quantities(answer: str, gold: str) -> bool:
    r"""Whether two names of one kind differ.

    `\sin A = 0.6` and `\cos A = 0.6`, or `AB = 5` and `CD = 5`.
    """
    names = [
        re.sub(r"[\s{}()\\]|angle|overline", "", text.partition("=")[0])
        for text in (answer, gold)
        if "=" in text
    ]
    if len(names) < 2 or names[0] == names[1]:
        return False
    if any(all(re.match(kind, name) for name in names) for kind in ("(?:sin|cos|tan)", _GREEK)):
        return True
    return all(re.fullmatch("[A-Z]{2}", name) for name in names) and set(names[0]) != set(names[1])


def _same_share(answer: Form, gold: Form) -> bool | None:
    """`0.75` for `75%`, or the other way round; None where one of them may be rounded."""
    shares = ["%" in form.text or "%" in form.units for form in (answer, gold)]
    if shares[0] == shares[1] or answer.units - {"%"} or gold.units - {"%"}:
        return False
    percent, plain = (answer.value, gold.value) if shares[0] else (gold.value, answer.value)
    if math.isclose(percent, 100 * plain, rel_tol=1e-9):
        return True
    return None if math.isclose(percent, 100 * plain, rel_tol=0.01) else False


def _function_and_letter(answer: Form, gold: Form) -> bool:
    """`f(x)` and `y`: whether they are the same depends on the question."""
    return any(
        FUNCTION_SIDE.fullmatch(first.text) and LETTER.fullmatch(second.text)
        for first, second in ((answer, gold), (gold, answer))
    )


def _other_functions(answer: Form, gold: Form, same: bool) -> bool:
    """`f(x) = 2x` and `g(x) = 2x`, or `f(x) = 2x` and `f(t) = 2t`: left to a judge."""
    sides = [side for side in (*answer.parts, *gold.parts) if side.name]
    names = [FUNCTION_SIDE.fullmatch(side.name) for side in sides]
    if len(names) != 2 or names[0] is None or names[1] is None:
        return False
    other_name, other_variable = (
        names[0][n].replace(" ", "") != names[1][n].replace(" ", "") for n in (1, 2)
    )
    return other_name or other_variable if same else other_variable


def _names_other_variable(equation: Form) -> bool:
    """`f(y) = 2x + 1`: what it states about f depends on what x is."""
    for name, side in (equation.parts, equation.parts[::-1]):
        function, values = FUNCTION_SIDE.fullmatch(name.name), evaluate(side.text)
        if (
            function
            and values
            and function[2] not in values.letters
            and values.letters & _ARGUMENTS
        ):
            return True
    return False


def _same_function(answer: Form, gold: Form) -> bool:
    """`V(t) = 2t` against `V = 2t`: the other equation's lone letter replaces `V(t)`."""
    for first, second in ((answer, gold), (gold, answer)):
        for name, side in (first.parts, first.parts[::-1]):
            if name.name and _formula_of_equation(side, second):
                return True
    return False


def _same_angle(answer: Form, gold: Form) -> bool:
    """The same angle in degrees and in radians: another number, left to a judge."""
    for degrees, radians in ((answer, gold), (gold, answer)):
        # An inverse function's value may be meant in degrees, and the other one is rounded.
        inverse = bool(_INVERSE.search(radians.text))
        signed = "°" in degrees.text and "°" not in radians.text
        rounding = 1e-3 if inverse else 1e-9
        if (signed or inverse) and math.isclose(
            math.radians(degrees.value), radians.value, rel_tol=rounding
        ):
            return True
    return False


def _same_list(answer: Form, gold: Form, close: Close) -> bool | None:
    verdict = _same_parts(answer, gold, close)
    return None if verdict is False and _may_be_the_same_range(answer, gold) else verdict


def _same_parts(answer: Form, gold: Form, close: Close) -> bool | None:
    if len(answer.parts) != len(gold.parts):
        return None if _points_and_coordinates(answer, gold) else False
    relations = all(part.kind == "inequality" for part in gold.parts)
    if relations and "or" in (answer.sign, gold.sign) and answer.sign != gold.sign:
        return False
    labels = [all(part.name for part in form.parts) for form in (answer, gold)]
    # Only one says which part is which: the order of the other counts.
    if labels[0] != labels[1] and gold.parts[0].kind == "bracket":
        return _all(same_form(a, g, close) for a, g in zip(answer.parts, gold.parts, strict=True))
    left = list(answer.parts)
    undecided = False
    for part in gold.parts:
        for candidate in left:
            labelled_otherwise = all(labels) and not _same_label(candidate.name, part.name)
            verdict = False if labelled_otherwise else same_form(candidate, part, close)
            if verdict:
                left.remove(candidate)
                break
            undecided = undecided or verdict is None
    if not left:
        return True
    return None if undecided else False


def _points_and_coordinates(answer: Form, gold: Form) -> bool:
    """`(5, 2), (7, 2)` and `p = 5, q = 2; p = 7, q = 2`: left to a judge."""
    points, flat = (answer, gold) if len(answer.parts) < len(gold.parts) else (gold, answer)
    coordinates = sum(len(part.parts) for part in points.parts if part.kind == "bracket")
    return coordinates == len(flat.parts) and all(
        part.name or part.kind == "equation" for part in flat.parts
    )


def _same_label(answer: str, gold: str) -> bool:
    first, second = answer.casefold().removeprefix("the "), gold.casefold().removeprefix("the ")
    return first.startswith(second) or second.startswith(first)


def _formula_of_equation(answer: Form, gold: Form) -> bool | None:
    """Compare `y = 2x + 3` with `2x + 3`.

    They are the same where one side is a single letter that the other side does not have.
    """
    equation, formula = (answer, gold) if answer.kind == "equation" else (gold, answer)
    if _names_other_variable(equation):
        return None
    for name, side in (equation.parts, equation.parts[::-1]):
        values, other = evaluate(side.text), evaluate(formula.text)
        if LETTER.fullmatch(name.text) and values and other and name.text not in values.letters:
            return same_formula(values, other)
    return False


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found = list(verdicts)
    if False in found:
        return False
    return None if None in found else True
