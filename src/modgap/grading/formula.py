r"""Compare formulas, equations and inequalities by their values, without algebra.

Every letter gets the same fixed numbers wherever it occurs; two formulas that agree at all points
where both have a value are the same. An equation is its left side minus its right one: two
equations are the same if those differences are proportional (`y = 2x+3`, `2x+3 = y`, `2x - y + 3 =
0`), and so are two inequalities if the factor is positive.

Pure and bounded like `number`, on whose parser it builds; nothing is simplified, so nothing can
explode. What it does not know (matrices, sums, prose) is `None`, undecided, and so is what agrees
to 2% and has a decimal point, as rounded coefficients do. `f(...)` and `g(...)` are functions that
nothing is known of, so that `f(2x)` is not `2f(x)`. The functions of angles take degrees where the
formula has a degree sign. `\sin^{-1}` is the arc sine; since some write it for one over the sine, a
formula with it is never certainly a different one.

The original has nothing of the kind: it compares the numbers that it finds in a formula, whatever
is between them.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from modgap.grading.notation import COMMAND
from modgap.grading.number import MAX_CHARS, MAX_DEPTH, NotANumberError, Parser

POINTS: Final = 10
SAME_VALUE: Final = 1e-9
SAME_RATIO: Final = 1e-7
CANCELLED: Final = 1e-5  # of the largest term: a smaller sum is compared on the scale of its terms
NEAR: Final = 0.02

_ANGLES: dict[str, Callable[[float], float]] = {
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "tg": math.tan,
    "sec": lambda x: 1 / math.cos(x),
    "csc": lambda x: 1 / math.sin(x),
    "cot": lambda x: 1 / math.tan(x),
    "ctg": lambda x: 1 / math.tan(x),
}
_INVERSES: dict[str, Callable[[float], float]] = {
    "sin": math.asin,
    "cos": math.acos,
    "tan": math.atan,
    "tg": math.atan,
    "sec": lambda x: math.acos(1 / x),
    "csc": lambda x: math.asin(1 / x),
    "cot": lambda x: math.pi / 2 - math.atan(x),
    "ctg": lambda x: math.pi / 2 - math.atan(x),
}
_OTHERS: dict[str, Callable[[float], float]] = {"ln": math.log, "log": math.log10, "exp": math.exp}
_NAMES = "|".join((*(f"arc{name}" for name in _INVERSES), *_ANGLES, *_OTHERS))
_FUNCTION = re.compile(rf"\\?({_NAMES})(?![a-z])")
_ANGLE_FUNCTION = re.compile(rf"(?<![A-Za-z])\\?(?:arc)?(?:{'|'.join(_ANGLES)})(?![a-z])")
_FUNCTION_IN_BRACES = re.compile(rf"\{{\s*({_NAMES})\s*\}}")
_UNKNOWN_FUNCTION = re.compile(
    r"([fg]\s*(?:'{1,2}|\^\s*\{\s*-1\s*\}|\^\s*\{\s*\\prime\s*\}|_\s*\w"
    r"|_\s*\{\s*\w{1,3}\s*\})?)\s*(?=\()"
)
_LETTER = re.compile(rf"({COMMAND}|[A-Za-z])(?:\s*_\s*(\{{\s*\w{{1,6}}\s*\}}|\w))?('{{0,2}})")
# Two letters side by side are a product only where nobody would read a word (`AB` is a segment,
# `no` an answer).
_PRODUCTS = "xy|yx|xz|zx|yz|zy|ab|ac|bc|ax|bx|cx|ay|cy|az|bz|cz|abc|xyz|mx|kx|rh|lw|bh|dx|hk|xh"
_KNOWN = re.compile(
    rf"\\[A-Za-z]+|_\s*\{{[^{{}}]*\}}|(?<![A-Za-z])(?:{_NAMES}|sqrt|pi|{_PRODUCTS})(?![a-z])"
)
_LARGE_NUMBER = re.compile(r"\d{2}")
_COMPOSITION = re.compile(r"[A-Za-z]\s*°\s*[A-Za-z]")  # `f \circ g`
_WORD = re.compile(r"[^\W\d_]{2}")


@dataclass(frozen=True, slots=True)
class Values:
    r"""What a formula is at each of the points, None where it has no value there.

    Attributes:
        numbers: One for each point.
        terms: At each point the size of the largest term; what is left when terms cancel is
            rounding of this size.
        letters: The letters that it has.
        rounded: Whether it has a decimal point, so that its coefficients may be rounded.
        angles: Which of a degree sign, pi and a function of an angle it has.
        ambiguous: Whether it has `\sin^{-1}`, or an angle that may be in degrees.
    """

    numbers: tuple[float | None, ...]
    terms: tuple[float, ...]
    letters: frozenset[str]
    rounded: bool = False
    angles: frozenset[str] = frozenset()
    ambiguous: bool = False


class _FormulaParser(Parser):
    """The parser of numbers, with letters and functions."""

    def __init__(self, text: str, point: int) -> None:
        super().__init__(text)
        self.point = point
        self.letters: set[str] = set()
        self.largest = 0.0  # the largest term of the sum that is being read
        # The largest term of the last sum that was read completely: in the end, of the outermost.
        self.terms = 0.0
        self.in_degrees = "°" in text
        self.ambiguous = False

    def sum(self) -> float:
        outer, self.largest = self.largest, 0.0
        value = super().sum()
        self.terms, self.largest = self.largest, outer
        return value

    def product(self, signed: bool = False) -> float:
        value = super().product(signed)
        self.largest = max(self.largest, abs(value))
        return value

    def operator(self) -> str:
        character = self.peek()
        if character in ("(", "{", "["):
            return "*"
        if _FUNCTION.match(self.text, self.at) or _LETTER.match(self.text, self.at):
            return "*"
        return super().operator()

    def atom(self) -> float:
        if match := self.take(_FUNCTION):
            return self.function(match[1])
        if match := self.take(_UNKNOWN_FUNCTION):
            return self.unknown_function("".join(re.findall(r"[\w'-]", match[1])))
        if not self.text.startswith("pi", self.at) and not self.text.startswith("sqrt", self.at):
            match = self.take(_LETTER)
            if match:
                subscript = "".join(re.findall(r"\w", match[2] or ""))
                return self.letter(match[1].lstrip("\\") + subscript + match[3])
        return super().atom()

    def letter(self, name: str) -> float:
        if name == "e":
            return math.e
        self.letters.add(name)
        return _value(name, self.point)

    def function(self, name: str) -> float:
        """What follows the name of a function."""
        exponent, base = 1.0, 10.0
        inverse = name.startswith("arc")
        name = name.removeprefix("arc")
        if self.peek() == "_" and name == "log":
            self.at += 1
            base = self.argument()
        if self.peek() == "^":
            self.at += 1
            exponent = self.exponent()
            if exponent == -1 and name in _INVERSES and not inverse:
                exponent, inverse, self.ambiguous = 1.0, True, True
            elif exponent <= 0 or exponent % 1:
                raise NotANumberError
        start = self.at
        value = self.function_argument()
        own = self.text[start : self.at]
        if name in _OTHERS:
            result = math.log(value, base) if name == "log" else _OTHERS[name](value)
        elif inverse:
            result = (
                math.degrees(_INVERSES[name](value)) if self.in_degrees else _INVERSES[name](value)
            )
        else:
            # `\sin(x + 30)` does not say degrees.
            self.ambiguous |= bool(_LARGE_NUMBER.search(own)) and "°" not in own and "pi" not in own
            in_degrees = "°" in own or (self.in_degrees and _LETTER.search(own) and "pi" not in own)
            result = _ANGLES[name](math.radians(value) if in_degrees else value)
        return result**exponent

    def function_argument(self) -> float:
        r"""A bracket, or all that is multiplied without a sign: `\sin 2x \cos y` has `2x`."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotANumberError
        bracketed = self.peek() in ("(", "{", "[", "|")
        value = self.atom() if bracketed else self.power()
        self.degree_signs()
        while (
            not bracketed
            and self.peek()
            and (_LETTER.match(self.text, self.at) or self.text[self.at] == "\\")
        ):
            if _FUNCTION.match(self.text, self.at) or self.operator() != "*":
                break
            value *= self.power()
        self.depth -= 1
        return value

    def unknown_function(self, name: str) -> float:
        """`f(...)`: some smooth function, the same for the same name."""
        self.letters.add(f"{name}()")
        value = self.group(")")
        share, shift = (zlib.crc32(f"{name}/{part}".encode()) / 2**32 for part in "ab")
        return 2 + shift + (0.3 + share) * value + math.sin(value + 3 * share)


@lru_cache(maxsize=1024)
def _value(letter: str, point: int) -> float:
    """The value of a letter: between 0.3 and 3.3.

    The last points have other sizes and signs, so that `|x|` is not `x`.
    """
    share = zlib.crc32(f"{letter}/{point}".encode()) / 2**32
    factor = (1, 1, 1, 1, 1, 4, 9, -1, -2, -1)[point]
    sign = -1 if point == 8 and share > 0.5 else 1
    return (0.3 + 3 * share) * factor * sign


@lru_cache(maxsize=4096)
def evaluate(text: str) -> Values | None:
    """Return the values of a cleaned formula at the points.

    None if it is not a formula, or has a value at fewer than two points.
    """
    text = _FUNCTION_IN_BRACES.sub(r"\\\1 ", text.strip())
    if (
        not text
        or len(text) > MAX_CHARS
        or _COMPOSITION.search(text)
        or _WORD.search(_KNOWN.sub(" ", text))
    ):
        return None
    numbers: list[float | None] = []
    terms: list[float] = []
    letters: set[str] = set()
    ambiguous = False
    for point in range(POINTS):
        parser = _FormulaParser(text, point)
        number: float | None = None
        try:
            number = parser.quotient()
        except (NotANumberError, ArithmeticError, ValueError):
            pass
        else:
            if parser.peek():
                return None  # something is left over, as it will be at every point
            letters |= parser.letters
        ambiguous |= parser.ambiguous
        numbers.append(number if number is not None and math.isfinite(number) else None)
        terms.append(parser.terms)
    if sum(number is not None for number in numbers) < 2:
        return None
    angles = frozenset(sign for sign in ("°", "pi") if sign in text)
    if _ANGLE_FUNCTION.search(text):
        angles |= {"function"}
    return Values(tuple(numbers), tuple(terms), frozenset(letters), "." in text, angles, ambiguous)


def same_formula(left: Values, right: Values) -> bool | None:
    """Whether two formulas have the same values; None if that cannot be decided."""
    distances: list[float] = []
    for a, b, *terms in zip(left.numbers, right.numbers, left.terms, right.terms, strict=True):
        if a is None or b is None:
            continue
        scale = max(abs(a), abs(b), CANCELLED * max(terms), 1e-12)
        distances.append(abs(a - b) / scale)
    if len(distances) < 2:
        return None
    if max(distances) <= SAME_VALUE:
        return True
    if left.ambiguous or right.ambiguous or _in_other_measures(left.angles, right.angles):
        return None
    # Four of five points: where a rounded formula is close to 0, it is not close to the exact one.
    near = sum(distance <= NEAR for distance in distances) >= 0.8 * len(distances)
    may_be_rounded = (left.rounded or right.rounded) and left.letters == right.letters
    return None if near and may_be_rounded else False


def _in_other_measures(left: frozenset[str], right: frozenset[str]) -> bool:
    """Whether one is in degrees, and the other may be in radians."""
    if ("°" in left) == ("°" in right):
        return False
    return "function" in left & right or "pi" in left ^ right


def same_relation(
    left: tuple[Values, Values], right: tuple[Values, Values], *, directed: bool = False
) -> bool | None:
    """Whether two relations are the same; None if that cannot be decided.

    Args:
        left: One relation, as its two sides.
        right: The other one.
        directed: Inequalities, both written as smaller side, larger side: the factor must be
            positive.
    """
    ratios = [
        ratio for ratio in map(_ratio, _differences(left), _differences(right)) if ratio is not None
    ]
    if len(ratios) < 2:
        return None
    if directed and max(ratios) <= 0:
        return False
    if max(abs(ratio - ratios[0]) for ratio in ratios) <= SAME_RATIO * abs(ratios[0]):
        return True
    orders = (right,) if directed else (right, right[::-1])
    near = any(
        same_formula(left[0], a) is not False and same_formula(left[1], b) is not False
        for a, b in orders
    )
    return None if near else False


def _differences(sides: tuple[Values, Values]) -> Sequence[float | None]:
    pairs = zip(sides[0].numbers, sides[1].numbers, strict=True)
    return [None if a is None or b is None else a - b for a, b in pairs]


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None or abs(b) < 1e-9 else a / b
