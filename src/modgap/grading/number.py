r"""Read one number out of the LaTeX that a model puts into `\boxed{}`.

`readings` and `parse_number` are pure functions: no `eval`, no sympy, no signals, no state. They
tidy the string (see `notation`), split it at relation signs (`x = 5`, `\text{Answer: } 5`,
`5\sqrt{2} \approx 7.07`), and read each side with a recursive-descent parser over floats; what is
left over must be a unit. Everything else (a list, "a or b", `\pm`, an inequality, a denial, an
unknown letter, prose) is not a number, never a guess and never an exception.

Bounded by construction: at most `MAX_CHARS` characters, `MAX_DEPTH` nested groups, exponents up to
`MAX_EXPONENT`, and float arithmetic only, so no intermediate value can grow.

Where a notation has two readings:
- `3\frac{3}{4}` and `3 3/4` are mixed numbers when the fraction is a proper one of plain integers,
  else products;
- `1/2\pi` is read from left to right, (1/2)pi; `-2^2` is -4; `\sqrt12` is the root of 12, `\frac12`
  one half;
- `1,234` and `1\,234` are one number, `1, 234` and `0,5` are lists (but see
  `decimal_comma_readings`);
- `50\%` is 50; `25'` and `25''` have a unit; `45^\circ 30'` is not a number;
- `\sin 30` and `\arctan 0.75` do not say whether an angle is in degrees or radians: two readings,
  unless a degree sign or the other side of a relation decides (`\sin 30^\circ`, `\arctan(0.75)
  \approx 36.87`); `\sin(\pi/6)` is in radians;
- of `5\sqrt{2} \approx 7.07` the first number counts, and the others must agree with it to 1%, so
  that `5 = 6` is not a number; a decimal after an `\approx` may also be its rounding
  (`\tan 20^\circ \approx 0.36`);
- of the rows of an `aligned` or `array` the last one counts. The others must state the same or be
  steps towards it.

The paper's graders (mathruler in training, Python's `eval` in evaluation) are in `grading.paper`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Final, Literal

from modgap.grading.notation import FUNCTIONS, clean

MAX_CHARS: Final = 400
MAX_DEPTH: Final = 20
MAX_EXPONENT: Final = 100.0
AGREEMENT: Final = 0.01

_PLAIN = re.compile(r"[+-]?(?:[0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})")

_CLOSING = {"(": ")", "{": "}", "[": "]"}

# ---- relations -----------------------------------------------------------------------------------
# A sign, or a word instead of it: `is` only before what may be a number, so that `is not 5` stays
# one text.
_RELATION = re.compile(
    r"(\(\s*approx(?:imately|\.)?\s*\)|=|≈|≅|:|\\(?:approx|approxeq|simeq|cong|sim|equiv"
    r"|doteq)(?![A-Za-z])"
    r"|\b(?:approximately|approx\.?|about|equal(?:s|\s+to))(?![a-z])"
    rf"|(?:\bis|是|为|等于)(?=[\s{{}}]*(?:[-+]?\s*(?:[0-9.|(]|\\|{FUNCTIONS}|sqrt|pi)|equal|about"
    rf"|approx)))"
)
_APPROXIMATE = re.compile(r"≈|≅|approx|sim|doteq|about")
_DENIAL = re.compile(
    r"\\(?:not|centernot|ne|neq|nsim|ncong|napprox|neg|lnot|notin|nequiv)(?![A-Za-z])"
    r"|[≠≉≇≢≁¬∉\u0338]|!=|<>|=\s*/\s*=|/="
    r"|(?i:n't\b|\b(?:not|cannot|never|neither|nor|isnt|incorrect|wrong|false|impossible|except"
    r"|rejected)\b)|不"
)
_CONCLUSION = re.compile(
    r"[\s{]*(?:\\(?:therefore|Rightarrow|implies|Longrightarrow)(?![A-Za-z])|[∴⇒]"
    r"|(?i:so|thus|hence|therefore|then|finally)\s*,[\s}]*)"
)
_DEGREE_WORDS = re.compile(r"(?<=[0-9)}])\s*(?:\{\s*deg(?:rees?)?\.?\s*\}|deg(?:rees?)?\b\.?)")
# The left side of `x = 5`: letters, no digit that is not a subscript or an angle's number, no sign,
# no list.
_NUMBERED = re.compile(r"_\s*\{?\s*\w{1,3}\s*\}?|\\angle\s*\{?\s*[0-9]{1,2}")
_NAME = re.compile(r"(?:[^\W0-9]|[\\_{}()|' +/.])*")
_SET_BRACE = re.compile(r"\\(?:[{}]|[lr]brace(?![A-Za-z]))")
# `|x| = 5` does not say which of the two x is; `|AB|` is a length.
_SIZE = re.compile(r"[\s{]*\|[\s{]*[a-z][\s}]*\|[\s}]*")
_TAKES_ARGUMENT = re.compile(r"(?:\\(?!approx|cong|sim|equiv|doteq|therefore)[A-Za-z]+|[\^_])\s*$")


def _tidy(text: str) -> str:
    """`clean`, without outer brackets and without groups that a relation sign would split."""
    text = _SET_BRACE.sub(
        lambda match: "{" if match[0] in ("\\{", "\\lbrace") else "}", clean(text)
    )
    text = _DEGREE_WORDS.sub(" ° ", text) if "deg" in text else text
    if match := _CONCLUSION.match(text):
        text = "{" * (match[0].count("{") - match[0].count("}")) + text[match.end() :]
    for _ in range(MAX_DEPTH):
        if text[:1] not in ("{", "(") or _closing(text) != len(text) - 1:
            break
        text = text[1:-1].strip()
    return _without_torn_groups(text) if "{" in text else text


def _without_torn_groups(text: str) -> str:
    """`{x = } 5` as `x = 5`: no braces around a relation sign, except a command's argument."""
    signs = [match.start() for match in _RELATION.finditer(text)]
    if not signs:
        return text
    characters = list(text)
    openings: list[int] = []
    for at, character in enumerate(text):
        if character == "{":
            openings.append(at)
        elif character == "}" and openings:
            opening = openings.pop()
            if any(opening < sign < at for sign in signs) and not _TAKES_ARGUMENT.search(
                text, 0, opening
            ):
                characters[opening] = characters[at] = " "
    return "".join(characters)


def _closing(text: str) -> int:
    """Where the bracket that opens `text` closes, -1 if it does not."""
    opening, closing = text[0], _CLOSING[text[0]]
    depth = 0
    for at, character in enumerate(text):
        depth += (character == opening) - (character == closing)
        if depth == 0:
            return at
    return -1


# ---- units ---------------------------------------------------------------------------------------
_UNIT_WORDS: Final = """
    mms cms dms kms mm cm dm m km nm in inch inches ft foot feet yd yard yards mi mile miles unit
    units u un degree degrees deg degs meter meters metre metres centimeter centimeters centimetre
    centimetres millimeter millimeters millimetre millimetres kilometer kilometers kilometre
    kilometres decimeter decimeters s sec secs second seconds min mins minute minutes h hr hrs hour
    hours day days g kg mg gram grams kilogram kilograms lb lbs oz pound pounds ton tons l ml liter
    liters litre litres gal gallon gallons acre acres hectare hectares ha rad rads radian radians
    percent percentage pct dollar dollars usd cent cents mph square squared sq cubic cubed cu cc
    sqcm sqm sqkm sqmm sqft sqin squnits yds kgs yuan euro euros per
"""
UNITS = frozenset(_UNIT_WORDS.split())
_UNIT = re.compile(
    r"\s*(?:([A-Za-z]+)\.?|\^\s*\{?\s*-?[0-9]\s*\}?|\\?%|°|'{1,2}|\x22|[/*{}()\[\]])"
)


_POWER_ALONE = re.compile(r"[\s{}]*(?:squared|cubed)[\s{}]*")  # `5 squared` is 25


def _is_unit(tail: str) -> bool:
    """Whether `tail` consists of unit words, their exponents and separators only."""
    if tail.count("(") != tail.count(")") or tail.count("[") != tail.count("]"):
        return False
    if _POWER_ALONE.fullmatch(tail):
        return False
    # An exponent has to follow a word: `5^2` never comes here, `5 ^2` must not pass.
    at, word = 0, True
    while at < len(tail):
        match = _UNIT.match(tail, at)
        if match is None:
            return not tail[at:].strip()
        if match[1] and match[1].lower() not in UNITS:
            return False
        if match[0].lstrip()[0] in "/*^" and word and at == 0:
            return False
        at, word = match.end(), False
    return True


# ---- the parser ----------------------------------------------------------------------------------
_NUMBER = re.compile(r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+")
_SCIENTIFIC = re.compile(r"[eE][+-]?[0-9]{1,3}(?![0-9.])")
_INTEGER = re.compile(r"[0-9]+")
_DIGIT = re.compile(r"[0-9]")
_COMMAND = re.compile(r"\\([A-Za-z]+)|(sqrt|pi|(?:a|arc)?(?:sin|cos|tan|cot))(?![A-Za-z])")
_PART = r" *(?:\{ *\{ *([0-9]{1,9}) *\} *\}|\{ *([0-9]{1,9}) *\}|([0-9]))"
_FRACTION = rf"\\[dtc]?frac{_PART}{_PART}"
_PROPER = re.compile(
    rf" *{_FRACTION}| *\{{ *{_FRACTION} *\}}|(?<=[0-9]) +([0-9]{{1,9}}) */"
    r" *([0-9]{1,9})(?![0-9.])"
)
_DOTS = re.compile(r"\s*(?:\\(?:[lc]?dots|dots[bcmio])(?![A-Za-z])|\.{2,})(?!\s*[0-9.])")
_OVER = re.compile(r"\\over(?![A-Za-z])")
_FRACTIONS = frozenset({"frac", "dfrac", "tfrac", "cfrac"})
_FUNCTIONS: Final[dict[str, Callable[[float], float]]] = {
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "cot": lambda x: 1 / math.tan(x),
    "sec": lambda x: 1 / math.cos(x),
    "csc": lambda x: 1 / math.sin(x),
}
_INVERSES: Final[dict[str, Callable[[float], float]]] = {
    "sin": math.asin,
    "cos": math.acos,
    "tan": math.atan,
    "cot": lambda x: math.pi / 2 - math.atan(x),
    "sec": lambda x: math.acos(1 / x),
    "csc": lambda x: math.asin(1 / x),
}
_TRIGONOMETRY: Final = frozenset(FUNCTIONS.split("|"))
_FACTORS = _FRACTIONS | _TRIGONOMETRY | {"sqrt", "pi", "abs"}

Angle = Literal["degrees", "radians"]


class NotANumberError(Exception):
    """The text is not one number, or in `formula` not one formula; internal to `grading`."""


class Parser:
    """Recursive descent over one cleaned string: sum, product, power, atom.

    `formula` adds letters and functions.

    Attributes:
        text: The string.
        angle: The unit assumed for an angle without one; None where functions of angles are not
            read.
        at: The current position.
        depth: The number of open groups.
        bars: The number of open absolute values.
        degrees: Whether a degree sign was read, in the argument that is being read or outside of
            all arguments.
        bare: Whether a function had an argument without a unit, so that its value depends on
            `angle`.
        inverse: Whether an inverse function was read, the value of which is an angle in the unit
            `angle`.
    """

    def __init__(self, text: str, angle: Angle | None = None) -> None:
        self.text = text
        self.angle = angle
        self.at: int = 0
        self.depth: int = 0
        self.bars: int = 0
        self.degrees = self.bare = self.inverse = False

    def peek(self) -> str:
        """The next character that is not a space, empty at the end."""
        while self.text[self.at : self.at + 1] == " ":
            self.at += 1
        return self.text[self.at : self.at + 1]

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Consume what `pattern` matches here, if it does."""
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def expect(self, character: str) -> None:
        """Consume `character`, or raise `NotANumberError`."""
        if self.peek() != character:
            raise NotANumberError
        self.at += 1

    def quotient(self) -> float:
        r"""A sum, or two with `\over` between them."""
        value = self.sum()
        return value / self.sum() if self.peek() == "\\" and self.take(_OVER) else value

    def sum(self) -> float:
        """Products, added and subtracted."""
        value = self.product(signed=True)
        while (sign := self.peek()) and sign in "+-":
            self.at += 1
            term = self.product(signed=True)
            value = value + term if sign == "+" else value - term
        return value

    def product(self, signed: bool = False) -> float:
        """Powers, multiplied and divided, from left to right."""
        negative = False
        while signed and (sign := self.peek()) and sign in "+-":
            self.at += 1
            negative ^= sign == "-"
        value = self.power()
        while True:
            operator = self.operator()
            if operator == "/":
                value /= self.factor()
            elif operator == "*":
                value *= self.factor()
            else:
                return -value if negative else value

    def factor(self) -> float:
        """A factor after an explicit operator: it may bring its own sign, as in `2 * -3`."""
        if self.peek() in ("-", "+"):
            sign = -1.0 if self.text[self.at] == "-" else 1.0
            self.at += 1
            return sign * self.power()
        return self.power()

    def operator(self) -> str:
        r"""Consume the next product operator.

        An implied product (`2\sqrt{3}`, `2(3+1)`) consumes nothing.
        """
        character = self.peek()
        if character in ("*", "/"):
            self.at += 1
            return character
        if character in ("(", "{"):
            # `5 (units)`, `5 {cm}`: a unit's bracket opens no product.
            return "" if _is_unit(self.text[self.at :]) else "*"
        if character.isdigit():
            # `\sqrt{3} 2` is a product, `2 3` are two numbers.
            before = self.text[: self.at].rstrip()
            return "" if before[-1:].isdigit() or before[-1:] == "." or "°" in before[-1:] else "*"
        if character == "|":
            return "" if self.bars else "*"
        match = _COMMAND.match(self.text, self.at)
        name = (match[1] or match[2]) if match else ""
        if match and name in ("times", "cdot", "ast", "div"):
            self.at = match.end()
            return "/" if name == "div" else "*"
        return "*" if name in _FACTORS else ""

    def power(self) -> float:
        """An atom, perhaps raised."""
        base = self.atom()
        if self.peek() == "^":
            self.at += 1
            exponent = self.exponent()
            if abs(exponent) > MAX_EXPONENT or self.peek() == "^":
                raise NotANumberError
            result: float | complex = base**exponent
            if isinstance(result, complex):
                raise NotANumberError
            base = result
        self.degree_signs()
        return base

    def degree_signs(self) -> None:
        """Consume them."""
        while self.peek() == "°":
            self.at += 1
            self.degrees = True

    def exponent(self) -> float:
        """What follows `^`."""
        if self.peek() == "-":
            self.at += 1
            return -self.exponent_size()
        return self.exponent_size()

    def exponent_size(self) -> float:
        r"""A literal or a TeX argument; `2^3\frac{1}{2}` is a product, not a mixed number."""
        match = self.take(_NUMBER) if self.peek() else None
        return float(match[0].replace(",", "")) if match else self.atom()

    def atom(self) -> float:
        """A number, a group or a command."""
        character = self.peek()
        if character in _CLOSING:
            return self.group(_CLOSING[character])
        if character == "|":
            return self.absolute()
        if match := self.take(_NUMBER):
            return self.number(match[0])
        match = self.take(_COMMAND)
        name = (match[1] or match[2]) if match else ""
        if name == "pi":
            return math.pi
        if name == "sqrt":
            return self.root()
        if name in _FRACTIONS:
            top = self.argument()
            return top / self.argument()
        if name == "abs":
            return abs(self.atom())
        if name in _TRIGONOMETRY and self.angle:
            return self.trigonometry(name)
        raise NotANumberError

    def number(self, digits: str) -> float:
        """A literal: plain, scientific or mixed."""
        value = float(digits.replace(",", ""))
        if scientific := self.take(_SCIENTIFIC):
            return float(digits.replace(",", "") + scientific[0])
        if _INTEGER.fullmatch(digits) and (match := _PROPER.match(self.text, self.at)):
            top, bottom = (float(part) for part in match.groups() if part is not None)
            if 0 < top < bottom:
                self.at = match.end()
                return value + top / bottom
        if "." in digits:
            self.take(_DOTS)
        return value

    def group(self, closing: str) -> float:
        """What is between brackets."""
        self.at += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotANumberError
        value = self.quotient()
        self.expect(closing)
        self.depth -= 1
        return value

    def absolute(self) -> float:
        """What is between bars."""
        self.bars += 1
        value = abs(self.group("|"))
        self.bars -= 1
        return value

    def trigonometry(self, name: str) -> float:
        r"""Read what follows the name of a function.

        For example `\sin 30°`, `\cos^2(30°)`, `\tan^{-1}(0.75)`, `\arctan 0.75`.
        """
        inverse, exponent = name.startswith("a"), 1.0
        if self.peek() == "^":
            self.at += 1
            digit = self.take(_DIGIT) if self.peek() else None  # `\\sin^230°` is the square
            exponent = float(digit[0]) if digit else self.exponent()
            if exponent == -1 and not inverse:
                inverse, exponent = True, 1.0
            elif exponent < 1 or exponent % 1:
                raise NotANumberError
        outside, self.degrees = self.degrees, False
        start = self.at
        value = self.angle_argument()
        in_degrees, self.degrees = self.degrees, outside
        if inverse:
            # The degree sign of `\arcsin 0.5°` belongs to the value of the function.
            self.inverse, self.degrees = True, outside or in_degrees
            result = _INVERSES[name[-3:]](value)
            return (math.degrees(result) if self.angle == "degrees" else result) ** exponent
        if not in_degrees and "pi" not in self.text[start : self.at]:
            self.bare = True
            in_degrees = self.angle == "degrees"
        return _FUNCTIONS[name](math.radians(value) if in_degrees else value) ** exponent

    def angle_argument(self) -> float:
        r"""A bracketed group, or a power and any π after it (`\sin 2\pi`); no later factors."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotANumberError
        sign = 1.0
        if self.peek() == "-":
            self.at += 1
            sign = -1.0
        if self.peek() in ("(", "{", "[", "|"):
            value = self.atom()
            self.degree_signs()
        else:
            value = self.power()
            while self.peek() == "\\" and self.text.startswith("\\pi", self.at):
                value *= self.power()
        self.depth -= 1
        return sign * value

    def root(self) -> float:
        """What follows a root sign."""
        degree = self.group("]") if self.peek() == "[" else 2.0
        if self.peek() in ("{", "("):
            radicand = self.group(_CLOSING[self.text[self.at]])
        elif match := self.take(_NUMBER):  # `\sqrt12` and `√12`
            radicand = float(match[0].replace(",", ""))
        else:
            radicand = self.argument()
        if radicand < 0 and degree % 2 == 1:
            return -math.pow(-radicand, 1 / degree)
        return math.sqrt(radicand) if degree == 2 else math.pow(radicand, 1 / degree)

    def argument(self) -> float:
        """A TeX argument: a group, one digit, or one command."""
        character = self.peek()
        if character == "{":
            return self.group("}")
        if character.isascii() and character.isdigit():
            self.at += 1
            return float(character)
        self.depth += 1
        if self.depth > MAX_DEPTH or character != "\\":
            raise NotANumberError
        value = self.atom()
        self.depth -= 1
        return value


# ---- one answer ----------------------------------------------------------------------------------
_RADIANS = re.compile(r"\brad(?:s|ians?)?\b")
_IN_DEGREES = re.compile(r"°|\bdeg")
_DECIMAL_COMMA = re.compile(
    r"(?<![0-9.,])([0-9]{1,3}(?:\.[0-9]{3})+|[0-9]{1,30})(?:,|\{,\}|,\\!)([0-9]{1,30})(?![0-9]"
    r"|[.,][0-9])"
)
_DECIMALS = re.compile(r"\s*-?[0-9]{0,30}\.([0-9]{1,30})(?![0-9.])")
_ROW_END = re.compile(r"\\\\\*?(?:\s*\[[^\[\]]{0,10}\])?|\\(?:cr|newline)(?![A-Za-z])")
_TABLE_NAME = r"\{\s*(?:array|[dr]?cases)\s*\}"
_TABLE = re.compile(
    rf"\\begin\s*{_TABLE_NAME}(?:\s*\[[tcb]\])?(?:\s*\{{[lcr|@."
    rf" ]{{1,20}}\}})?|\\end\s*{_TABLE_NAME}"
)
_SIGN_AT_END = re.compile(r"(?:=|≈|≅|:|\\(?:approx|approxeq|simeq|cong|sim|equiv|doteq))$")
_BOUND = re.compile(r"\\(?:pm|mp|le|ge|leq|geq|lt|gt|leqslant|geqslant|in|notin|infty)(?![A-Za-z])")
_NO_STEP = re.compile(rf"{_BOUND.pattern}|[,;<>≤≥]|\b(?:or|and)\b")


def _values_of(side: str) -> tuple[float, ...]:
    """What one side of a relation states: a number with an optional unit.

    Two numbers where an angle has no unit.
    """
    side = side.strip()
    parser = Parser(side, "degrees")
    value = _parse(parser)
    if value is None or not (parser.bare or parser.inverse):
        return () if value is None else (value,)
    tail = side[parser.at :]
    in_radians = _parse(Parser(side, "radians"))
    if in_radians is None:
        return ()
    if math.isclose(value, in_radians, abs_tol=1e-12):
        return (value,)
    if not parser.bare and (parser.degrees or _IN_DEGREES.search(tail)):
        return (value,)
    if not parser.bare and _RADIANS.search(tail):
        return (in_radians,)
    return value, in_radians


def _parse(parser: Parser) -> float | None:
    try:
        value = parser.quotient()
    except (NotANumberError, ArithmeticError, ValueError):
        return None
    return value if math.isfinite(value) and _is_unit(parser.text[parser.at :]) else None


def readings(text: str) -> tuple[float, ...]:
    r"""Return the numbers that `text` may state: one, none or two.

    Two where the text does not say whether an angle is in degrees or radians.

    Args:
        text: The content of a `\boxed{}` or a gold answer, for example `2\sqrt{3} \text{ cm}` or
            `"25.000"`.

    Returns:
        Finite floats; none for text that is empty, too long, a list, an inequality, a denial, or
        anything unknown.
    """
    text = text.strip()
    if len(text) > MAX_CHARS:
        return ()
    if _PLAIN.fullmatch(text):
        return (float(text),)
    if "\\begin" in text:
        rows = _ROW_END.split(_TABLE.sub(" ", text))
        if any(map(_has_columns, rows)):
            return ()
        return _last_of([row for part in rows if (row := _tidy(part))])
    return _stated(_tidy(text))


def parse_number(text: str) -> float | None:
    """The number that `text` states, None if it does not state exactly one; see `readings`."""
    values = readings(text)
    return values[0] if len(values) == 1 else None


def decimal_comma_readings(text: str) -> tuple[float, ...]:
    """What `text` states if its commas are decimal points: 7.07 for `7,07`.

    Empty where it has no such comma.
    """
    text = text[: MAX_CHARS + 1]
    other = (
        _DECIMAL_COMMA.sub(lambda match: f"{match[1].replace('.', '')}.{match[2]}", text)
        if "," in text
        else text
    )
    return readings(other) if other != text else ()


def _has_columns(row: str) -> bool:
    r"""Whether a row has cells that are not the sides of a relation.

    For example `2 & 5` and `x & \text{if } x > 0`.
    """
    cells = [cell.strip() for cell in row.split("&")]
    for left, right in pairwise(cells):
        related = _SIGN_AT_END.search(left) or _RELATION.match(right.lstrip("{} "))
        if left and right and not related:
            return True
    return False


def _last_of(rows: list[str]) -> tuple[float, ...]:
    """What the last row states, if each earlier row states the same or is a step towards it.

    A step is for example `2x = 50`.
    """
    values = _stated(rows[-1]) if rows else ()
    for row in rows[:-1]:
        stated = _stated(row)
        if stated:
            values = _agreeing(values, stated)
        elif _DENIAL.search(row) or _NO_STEP.search(row) or not _RELATION.search(row):
            return ()
    return values


def _stated(text: str) -> tuple[float, ...]:
    """The first number of a chain of relations.

    Empty if another number does not agree with it, or a side is neither a number nor a name.
    """
    if _DENIAL.search(text):
        return ()
    parts = _RELATION.split(text)
    found: tuple[float, ...] = ()
    for at in range(0, len(parts), 2):
        side = parts[at]
        values = _values_of(side)
        if not values:
            if not _is_name(side):
                return ()
        elif not found:
            found = values
        elif parts[at - 1] == ":":
            return ()
        else:
            rounding = _rounding(side) if _APPROXIMATE.search(parts[at - 1]) else 0.0
            found = _agreeing(found, values, rounding)
            if not found:
                return ()
    return found


def _is_name(side: str) -> bool:
    return (
        bool(_NAME.fullmatch(_NUMBERED.sub("", side)))
        and not _BOUND.search(side)
        and not _SIZE.fullmatch(side)
    )


def _agree(value: float, other: float, rounding: float = 0.0) -> bool:
    return abs(other - value) <= max(AGREEMENT * max(abs(value), abs(other)), rounding, 1e-9)


def _agreeing(
    values: tuple[float, ...], others: tuple[float, ...], rounding: float = 0.0
) -> tuple[float, ...]:
    """The values that agree with at least one of the others."""
    found: list[float] = []
    for value in values:
        if any(_agree(value, other, rounding) for other in others):
            found.append(value)
    return tuple(found)


def _rounding(side: str) -> float:
    """Half a unit of the last place of a plain decimal: the rounding error of `0.36`."""
    match = _DECIMALS.match(side)
    return 0.5000001 * 10.0 ** -len(match[1]) if match else 0.0
