r"""Read a free-form answer as what it is, and compare two of them.

It is a number, a time (`3:00`), a formula, an equation, an inequality (or `x \ne 5`), a bracket (an
interval, a point), a list of those, or words. `read_form` sorts out names (`Area = 5`, `domain: [0,
1)`), units (`cm^2` is not 2; see `units`) and separators. `2:3` is the number 2/3; a ratio with a
zero (`5:0`) is a kind of its own, not a number.

Differs from the original, which takes every number of both strings, unit exponents included, and
calls the answer right if any of them is within 5% of the gold's (so that a constant 2 is right for
every area in `cm^2`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Final, Literal

from modgap.grading.formula import evaluate
from modgap.grading.notation import canonical
from modgap.grading.number import AGREEMENT, MAX_CHARS, UNITS, parse_number, readings
from modgap.grading.units import stated_units

Kind = Literal[
    "number", "time", "ratio", "formula", "equation", "inequality", "bracket", "list", "words"
]

MAX_PARTS: Final = 12

_TEXT = (
    r"\\(?:text|textrm|textbf|textit|textnormal|mathrm|mathbf|mathit|mbox|operatorname|rm)\*?\s*"
)
_WRAPPED = re.compile(_TEXT + r"\{([^{}]*)\}")
_EXPONENT = r"(?:\s*\^\s*(?:\{\s*-?[1-4]\s*\}|-?[1-4])|\s*[²³])?"
_WRAPPED_UNIT = re.compile(_TEXT + r"\{([^{}]{1,40})\}" + _EXPONENT)
_LONG_UNITS = "|".join(sorted((unit for unit in UNITS if len(unit) > 1), key=len, reverse=True))
_BARE_UNIT = re.compile(
    rf"(?:(?<=[\d)}}])\s*(?:{_LONG_UNITS})|(?<=\S)\s+[cmk]m)\.?{_EXPONENT}$"
    rf"|(?<=[\d)}}])\s+m\s*\^\s*\{{?\s*[23]\s*\}}?$"
)
_REALS = re.compile(r"\\mathbb\s*(?:\{\s*R\s*\}|R(?![A-Za-z]))|ℝ")
_BEARING = re.compile(r"(?<=[\d°])\s*\{?\s*T\s*\}?$")
_INFINITY = re.compile(r"([+-]?)\s*(?:\\infty|\\infin|∞|infinity|inf)", re.IGNORECASE)
_SEPARATOR = re.compile(r"[,;]|\\\\|\b(?:and|or)\b", re.IGNORECASE)
_COMMA = re.compile("[,;]")
_UNION = re.compile(r"\\cup(?![a-z])|∪|(?<=[)\]])\s*U\s*(?=[(\[])")
_SIGN = re.compile(r"(<=|>=|<|>|≤|≥|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt|ne)(?![a-z]))")
_TWICE_ESCAPED = re.compile(
    r"\\\\(?=(?:[dt]?frac|sqrt|leq?|geq?|neq?|lt|gt|pi|circ|cdot|times|infty|cup|in|pm|text|mathrm"
    r"|left|right)(?![a-z]))"
)
_NOT_EQUAL = re.compile(r"≠|!=|<>|\\neq?(?![a-z])|\\not\s*=")
_SMALLER = {
    sign: "<" if sign in ("<", "\\lt") else "<="
    for sign in ("<", "\\lt", "<=", "≤", "\\leqslant", "\\leq", "\\le")
}
_LARGER = {
    sign: "<" if sign in (">", "\\gt") else "<="
    for sign in (">", "\\gt", ">=", "≥", "\\geqslant", "\\geq", "\\ge")
}
_LABEL = re.compile(
    r"((?:the )?[A-Za-z][A-Za-z.' ]*[A-Za-z.])\s*(?:[:=]|\bis\b)\s*(?=\S)"  # `Area =`, `range:`
    r"|([A-Za-z])\s*(?::|=(?=\s*[\[(][^()=]*,))\s*(?=\S)"  # `D:`, `C = (1, 2)`
    r"|([A-Z])\s*(?=\([^()]*,)"  # `M(1, 2)`
)
_MEMBER = re.compile(r"[a-z]\s*(?:\\in(?![a-z])|∈)\s*(?=[(\[])")
FUNCTION_SIDE = re.compile(
    r"([a-zA-Z]\s*(?:'{1,2}|\^\s*\{\s*(?:-1|\\prime)\s*\}|_\s*\{?\s*\w\s*\}?)?)\s*\(\s*([a-z])\s*\)"
)
_PLAIN_RATIO = re.compile(r"\s*\d+(?:\.\d+)?\s*:\s*\d+(?:\.\d+)?\s*")
_SIDES = re.compile(r"[=≈]|\\approx")
# `V_1:V_2 = 2:3`, `t = 3:00`
_OF_RATIO_OR_TIME = re.compile(r"[^=]*[A-Za-z][^=]*=\s*(?=[^=:]*\d[^=:]*:[^=]*\d[^=]*$)")
_POINT_NAME = re.compile(r"\(\s*([a-z](?:\s*,\s*[a-z])+)\s*\)\s*=\s*(?=\()")  # `(p, q) = (3, 2)`
_TIME = re.compile(
    r"(\d{1,2})\s*:\s*([0-5]\d)(?:\s*:\s*([0-5]\d))?(?:\s*\{?\s*([ap])\.?\s?m\b\.?\s*\}?)?",
    re.IGNORECASE,
)
HALF_DAY: Final = 12 * 3600
_OF_VARIABLE = re.compile(r"(?:[-+\d\s.^{}()*/]|\\frac)*[xyz](?:[-+\d\s.^{}()*/]|\\frac)*")
LETTER = re.compile(r"[A-Za-z]|\\[A-Za-z]+")
_NUMBER_WORDS = {
    "zero": 0.0, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0,
    "six": 6.0, "seven": 7.0, "eight": 8.0, "nine": 9.0, "ten": 10.0, "eleven": 11.0,
    "twelve": 12.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    r"""An answer, read.

    Attributes:
        kind: What it is.
        text: Its cleaned text.
        name: What it is said to be the value of (`x`, `Area`), empty if that is not said.
        value: Of a number; infinite for the end of an interval. Of a time, what it is as a ratio,
            if it can be one.
        other: Of a number that does not say whether an angle is in degrees (`\sin 30`), its value
            in radians; else NaN.
        seconds: Of a time, since midnight.
        parts: Of a list or a bracket; the two sides of an equation, or of an inequality, smaller
            first.
        sign: `<`, `<=` or `!=` of an inequality, the brackets of a bracket, `or`, `and`, `,` or
            `{}` of a list, `a` or `p` of a time.
        units: Those that the whole answer states.
    """

    kind: Kind
    text: str
    name: str = ""
    value: float = math.nan
    parts: tuple[Form, ...] = ()
    sign: str = ""
    units: frozenset[str] = frozenset()
    seconds: int = 0
    other: float = math.nan


@lru_cache(maxsize=1024)
def read_form(text: str) -> Form:
    """Read an answer; whatever cannot be read is `words`."""
    text = text.strip()
    if len(text) > MAX_CHARS:
        return Form("words", text[:MAX_CHARS])
    return replace(_read(text), units=stated_units(text))


def _read(text: str) -> Form:
    text = _TWICE_ESCAPED.sub(r"\\", text)
    if "\\begin" not in text:
        text = text.replace("\\\\", " , ")
    text = _NOT_EQUAL.sub(r"\\ne ", _REALS.sub(" all real numbers ", text)).replace("{:}", ":")
    flat = _WRAPPED.sub(r" \1 ", _WRAPPED_UNIT.sub(_without_unit, text.replace("$", " ")))
    flat = _unbrace(canonical(flat.replace("\\{", "\\lbrace ").replace("\\}", "\\rbrace ")))
    if is_set := flat.startswith("\\lbrace") and flat.endswith("\\rbrace"):
        flat = flat[len("\\lbrace") : -len("\\rbrace")].strip()
    values = readings(text)
    if values and not _TIME.fullmatch(flat) and not (":" in flat and _read_ratio(flat)):
        return _number(flat, values)
    if "\\begin" in flat:
        return Form("words", flat)  # a matrix
    parts = _split(flat, _SEPARATOR)
    if 1 < len(parts) <= MAX_PARTS:
        joiner = "or" if re.search(r"\bor\b", flat, re.IGNORECASE) else ","
        if is_set:
            joiner = "{}"
        return Form("list", flat, parts=tuple(_read_part(part) for part in parts), sign=joiner)
    return _read_part(flat)


def _without_unit(match: re.Match[str]) -> str:
    words = re.findall(r"[A-Za-z]+", match[1])
    if not match.string[: match.start()].strip():
        return match[0]  # `\text{square}`: an answer, not a unit
    at_end = not match.string[match.end() :].strip(" $.}")
    is_unit = bool(words) and all(
        w.lower() in UNITS and (len(w) > 1 or (at_end and w in "ms")) for w in words
    )
    return " " if is_unit and not re.search(r"[^A-Za-z\s~./\\,^\d²³]", match[1]) else match[0]


def _unbrace(text: str) -> str:
    while text.startswith("{") and text.endswith("}") and _depth_free(text[1:-1]):
        text = text[1:-1].strip()
    return text


def _depth_free(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _split(text: str, pattern: re.Pattern[str]) -> list[str]:
    """The parts between separators that are in no bracket."""
    depths: list[int] = [0]
    for character in text:
        depths.append(max(0, depths[-1] + (character in "([{") - (character in ")]}")))
    parts: list[str] = []
    start = 0
    for match in pattern.finditer(text):
        if depths[match.start()] == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _number(text: str, values: tuple[float, ...]) -> Form:
    """A number with one reading, or with two (its angle in degrees, in radians)."""
    value, *others = values
    other = others[-1] if others else math.nan
    return Form("number", text, _name_of(text), value, other=other)


def _name_of(text: str) -> str:
    left, sign, _ = text.partition("=")
    return left.strip() if sign and LETTER.fullmatch(left.strip()) else ""


def _read_part(text: str, labelled: bool = False) -> Form:
    """Read one part of a list, or an answer that is not a list; it has at most one label."""
    text = _unbrace(_BARE_UNIT.sub("", _BEARING.sub("", text)).strip())
    bracketed = text[:1] == "(" and text[-1:] == ")" and _depth_free(text[1:-1])
    if bracketed and not _split(text[1:-1], _COMMA)[1:]:
        text = text[1:-1].strip()
    if text.casefold() in _NUMBER_WORDS:
        return Form("number", text, value=_NUMBER_WORDS[text.casefold()])
    if match := _INFINITY.fullmatch(text):
        return Form("number", text, value=-math.inf if match[1] == "-" else math.inf)
    if (match := _TIME.fullmatch(text)) and int(match[1]) <= 24:
        return _read_time(text, match)
    if ":" in text and (ratio := _read_ratio(text)):
        return ratio
    if values := readings(text):
        return _number(text, values)
    if (match := _OF_RATIO_OR_TIME.match(text)) and not labelled:
        rest = text[match.end() :]
        ratio = _read_ratio(rest) if ":" in match[0] else None
        return ratio or _read_part(rest, labelled=True)
    if (match := _POINT_NAME.match(text)) and _in_order(match[1]):
        return _read_part(text[match.end() :], labelled=True)
    match = _LABEL.match(text)
    if match and not labelled and not (match[1] and evaluate(match[1])):  # `xy = 1` names nothing
        form = _read_part(text[match.end() :], labelled=True)
        if form.kind != "words":
            return replace(form, name=(match[1] or match[2] or match[3]).strip())
    signs = _SIGN.split(text)
    if len(signs) > 1:
        return _read_inequality(text, signs)
    text = _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text
    unions = _split(text, _UNION)
    if 1 < len(unions) <= MAX_PARTS:
        return Form("list", text, parts=tuple(_read_part(part) for part in unions), sign="or")
    if text.count("\\pm") == 1:
        both = tuple(_read_part(text.replace("\\pm", sign)) for sign in "+-")
        if all(part.kind != "words" for part in both):
            return Form("list", text, parts=both, sign=",")
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _depth_free(text[1:-1]):
        items = _split(text[1:-1], _COMMA)
        if 1 < len(items) <= MAX_PARTS:
            inner = tuple(_read_part(item) for item in items)
            return Form("bracket", text, parts=inner, sign=text[0] + text[-1])
    return _read_equation(text)


def _in_order(names: str) -> bool:
    """Whether the letters of a point are in alphabetical order.

    `(y, x) = (1, 2)` is not the point (1, 2).
    """
    letters = re.findall("[a-z]", names)
    return letters == sorted(letters)


def _read_ratio(text: str) -> Form | None:
    r"""`2:3`, `\sqrt{3}:2` and `1:2:3`, whose parts are numbers."""
    numbers = [None if _SIDES.search(part) else parse_number(part) for part in text.split(":")]
    values = [number for number in numbers if number is not None]
    if len(values) < max(2, len(numbers)) or len(values) > MAX_PARTS:
        return None
    if len(values) == 2 and all(values) and _PLAIN_RATIO.fullmatch(text):
        return Form("number", text, value=values[0] / values[1])
    return Form(
        "ratio", text, parts=tuple(Form("number", repr(value), value=value) for value in values)
    )


def _read_time(text: str, match: re.Match[str]) -> Form:
    """`4:30` may be a ratio as well; `3:00`, `12:30 pm` and `3:30:15` are times only."""
    hours, minutes, seconds = (int(part or 0) for part in match.groups()[:3])
    half = (match[4] or "").lower()
    if half:
        hours = hours % 12 + (12 if half == "p" else 0)
    ratio = math.nan if half or match[3] or not hours or not minutes else hours / minutes
    return Form("time", text, value=ratio, sign=half, seconds=hours * 3600 + minutes * 60 + seconds)


def _read_inequality(text: str, signs: Sequence[str]) -> Form:
    if not signs[0].strip() and signs[1] == "\\ne":
        signs = ["x", *signs[1:]]  # `\ne 5`
    sides = [formula_side(side) for side in signs[::2]]
    if any(evaluate(side.text) is None for side in sides):
        return Form("words", text)
    forms: list[Form] = []
    for (left, right), sign in zip(pairwise(sides), signs[1::2], strict=True):
        parts = (right, left) if sign in _LARGER else (left, right)
        forms.append(
            Form(
                "inequality", text, parts=parts, sign=_SMALLER.get(sign) or _LARGER.get(sign, "!=")
            )
        )
    return forms[0] if len(forms) == 1 else Form("list", text, parts=tuple(forms), sign="and")


def _read_equation(text: str) -> Form:
    texts = [side.strip() for side in text.split("=")]
    # `f(x) = 2x` says what y is; `y = f(x)`, and `f(x)` alone, say nothing of f.
    named = len(texts) > 1 and "y" not in texts
    sides = [formula_side(side) if named else Form("formula", side) for side in texts]
    if any(evaluate(side.text) is None for side in sides):
        return Form("words", text)
    if len(sides) == 1:
        values = evaluate(sides[0].text)
        assert values is not None
        if not values.letters and values.numbers[0] is not None:
            return Form("number", text, value=values.numbers[0])
        return sides[0]
    if (number := _number_of_equation(text, sides)) is not None:
        return number
    if len(sides) == 2:
        return Form("equation", text, parts=tuple(sides))
    # `2x = 20 + 6 = 26` does not say 26.
    if _OF_VARIABLE.fullmatch(texts[0]) and not LETTER.fullmatch(texts[0]):
        return Form("equation", text, parts=(sides[0], sides[-1]))
    # Numbers that contradict each other.
    if not any(values.letters for side in sides if (values := evaluate(side.text))):
        return Form("equation", text, parts=(sides[0], sides[-1]))
    last = _read_part(sides[-1].text)  # the result of a chain
    name = sides[0].text if LETTER.fullmatch(sides[0].text) else ""
    return Form(last.kind, last.text, name, last.value, last.parts)


def _number_of_equation(text: str, sides: Sequence[Form]) -> Form | None:
    r"""The first number written in an equation of numbers and at most one letter.

    For example `x = 12\cos 60^\circ` and `\cos^{-1}(0.5) = 60^\circ = x`.
    """
    names = [side.text for side in sides if LETTER.fullmatch(side.text)]
    numbers = [_number_of_side(side.text) for side in sides if side.text not in names]
    known = [number for number in numbers if number is not None]
    if len(names) > 1 or not known or len(known) < len(numbers):
        return None
    first = known[0]
    if any(abs(number - first) > AGREEMENT * max(abs(number), abs(first)) for number in known):
        return None
    return Form("number", text, names[0] if names else "", first)


def _number_of_side(text: str) -> float | None:
    number = parse_number(text)
    values = evaluate(text) if number is None else None
    return values.numbers[0] if values and not values.letters else number


def formula_side(text: str) -> Form:
    """One side of a relation; `f(x)` is y, with that name."""
    text = text.strip()
    if FUNCTION_SIDE.fullmatch(text):
        return Form("formula", "y", name=text)
    return Form("formula", text)
