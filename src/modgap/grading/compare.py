r"""Compare two answers that have been read (see `forms`).

Brackets and signs count as they are, equations and inequalities up to the order of their sides, lists up to their
order unless only one of them says which part is which. Things of two kinds are not the same, except `y = 2x + 3` and
`2x + 3`, `2, -2` and `(2, -2)`. Values with different units (`10 m`, `10 cm`) are never right by their numbers. A
verdict is True, False or None: undecided, a matter for a judge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

from modgap.grading.forms import LETTER, Form, formula_side
from modgap.grading.formula import evaluate, same_formula, same_relation
from modgap.grading.units import conversion, units_differ

Close = Callable[[float, float], bool]
"""Whether a value (first) is close enough to the gold's (second)."""

_ANSWER_WORDS = frozenset({"yes", "no", "true", "false"})
_VARIABLES = frozenset("xyz")


def same_form(answer: Form, gold: Form, close: Close) -> bool | None:
    """Whether an answer states what the gold states; None if rules cannot tell.

    Args:
        answer: The answer, read.
        gold: The gold, read.
        close: Compares two numbers.
    """
    verdict = _same_values(answer, gold, close)
    return _of_other_units(answer, gold, verdict) if units_differ(answer.units, gold.units) else verdict


def _of_other_units(answer: Form, gold: Form, verdict: bool | None) -> bool | None:
    """Where units differ, nothing is right; a number is wrong only if it is neither the gold's nor that converted."""
    if verdict is not False or answer.kind != gold.kind:
        return None if verdict else verdict
    factor = conversion(answer.units, gold.units)
    if gold.kind == "number" and (factor is None or not math.isclose(answer.value * factor, gold.value, rel_tol=0.01)):
        return False
    return None


def _same_values(answer: Form, gold: Form, close: Close) -> bool | None:
    if _contradict(answer.name, gold.name):
        return False
    if "words" in (answer.kind, gold.kind):
        return _same_words(answer, gold)
    if answer.kind == gold.kind:
        return _same_kind(answer, gold, close)
    kinds = {answer.kind, gold.kind}
    if kinds == {"formula", "equation"}:
        return _formula_of_equation(answer, gold)
    if kinds == {"number", "equation"}:
        number = answer if answer.kind == "number" else gold
        return bool(LETTER.fullmatch(number.name)) and _same_kind(_as_equation(answer), _as_equation(gold), close)
    if kinds == {"bracket", "list"}:
        return _point_without_brackets(answer, gold, close)
    return None if _may_be_the_same_range(answer, gold) else False


def _as_equation(form: Form) -> Form:
    """`x = 3`, which is read as a number, for `3 - x = 0`."""
    if form.kind == "equation":
        return form
    return Form("equation", form.text, parts=(formula_side(form.name), formula_side(repr(form.value))))


def _may_be_the_same_range(answer: Form, gold: Form) -> bool:
    """`-2 < x < 1` and `(-2, 1)`: a matter for a judge, since a question may ask for one of them."""
    return any(
        _any_part(first, _is_interval) and _any_part(second, _is_bound)
        for first, second in ((answer, gold), (gold, answer))
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
    if _may_be_the_same_range(answer, gold):
        return None
    if "()" not in (answer.sign, gold.sign) or "or" in (answer.sign, gold.sign) or len(answer.parts) != len(gold.parts):
        return False
    return _all(same_form(a, g, close) for a, g in zip(answer.parts, gold.parts, strict=True))


def _contradict(answer: str, gold: str) -> bool:
    return answer in _VARIABLES and gold in _VARIABLES and answer != gold


def _same_words(answer: Form, gold: Form) -> bool | None:
    first, second = (re.sub(r"\\overline(?![a-z])|[\W_]+", "", form.text).casefold() for form in (answer, gold))
    if first == second and first:
        return True
    return False if first in _ANSWER_WORDS and second in _ANSWER_WORDS else None


def _same_kind(answer: Form, gold: Form, close: Close) -> bool | None:
    if gold.kind == "number":
        if math.isinf(gold.value) or math.isinf(answer.value):
            return answer.value == gold.value
        same = close(answer.value, gold.value)
        return None if not same and _same_angle(answer, gold) else same
    if gold.kind == "bracket":
        if answer.sign != gold.sign or len(answer.parts) != len(gold.parts):
            return False
        return _all(same_form(a, g, close) for a, g in zip(answer.parts, gold.parts, strict=True))
    if gold.kind == "list":
        return _same_list(answer, gold, close)
    if gold.kind == "formula":
        left, right = evaluate(answer.text), evaluate(gold.text)
        return None if left is None or right is None else same_formula(left, right)
    if gold.kind == "inequality" and answer.sign != gold.sign:
        return False
    sides = [evaluate(part.text) for part in (*answer.parts, *gold.parts)]
    if len(sides) != 4 or None in sides:
        return None
    a, b, c, d = (side for side in sides if side is not None)
    if gold.kind == "inequality":
        return same_relation((a, b), (c, d), directed=True)
    return _same_function(answer, gold) or same_relation((a, b), (c, d))


def _same_function(answer: Form, gold: Form) -> bool:
    """`V(t) = 2t` against `V = 2t`: what stands for `V(t)` is the other equation's lone letter."""
    for first, second in ((answer, gold), (gold, answer)):
        for name, side in (first.parts, first.parts[::-1]):
            if name.name and _formula_of_equation(side, second):
                return True
    return False


def _same_angle(answer: Form, gold: Form) -> bool:
    """The same angle in degrees and in radians: another number, a matter for a judge."""
    pairs = ((answer, gold), (gold, answer))
    return any(
        "°" in degrees.text and "°" not in radians.text and math.isclose(math.radians(degrees.value), radians.value)
        for degrees, radians in pairs
    )


def _same_list(answer: Form, gold: Form, close: Close) -> bool | None:
    if len(answer.parts) != len(gold.parts):
        return False
    relations = all(part.kind == "inequality" for part in gold.parts)
    if relations and "or" in (answer.sign, gold.sign) and answer.sign != gold.sign:
        return False
    labels = [all(part.name for part in form.parts) for form in (answer, gold)]
    if labels[0] != labels[1] and gold.parts[0].kind == "bracket":  # one says which is which: the other's order counts
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
    return True if not left else None if undecided else False


def _same_label(answer: str, gold: str) -> bool:
    first, second = answer.casefold().removeprefix("the "), gold.casefold().removeprefix("the ")
    return first.startswith(second) or second.startswith(first)


def _formula_of_equation(answer: Form, gold: Form) -> bool | None:
    """`y = 2x + 3` against `2x + 3`: the same where one side is a single letter that the other does not have."""
    equation, formula = (answer, gold) if answer.kind == "equation" else (gold, answer)
    for name, side in (equation.parts, equation.parts[::-1]):
        values, other = evaluate(side.text), evaluate(formula.text)
        if LETTER.fullmatch(name.text) and values and other and name.text not in values.letters:
            return same_formula(values, other)
    return False


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    found = list(verdicts)
    return False if False in found else None if None in found else True
