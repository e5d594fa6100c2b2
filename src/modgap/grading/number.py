r"""Read one number out of the LaTeX that a model puts into `\boxed{}`.

`parse_number` is a pure function: no `eval`, no sympy, no signals, no state. It tidies the string (spacing commands,
wrappers, unicode), splits it at relation signs (`x = 5`, `5\sqrt{2} \approx 7.07`), and reads each side with a
recursive-descent parser over floats; what is left over must be a unit. Everything else (a list, "a or b", `\pm`, an
inequality, an unknown letter, prose) is no number: the result is `None`, never a guess and never an exception.

Bounded by construction: at most `MAX_CHARS` characters, `MAX_DEPTH` nested groups, exponents up to `MAX_EXPONENT`,
and float arithmetic only, so no intermediate value can grow.

Where a notation has two readings:
- `3\frac{3}{4}` and `3 3/4` are mixed numbers when the fraction is a proper one of plain integers, else products;
- `1/2\pi` is read from left to right, (1/2)pi; `-2^2` is -4; `\sqrt12` is the root of 12, `\frac12` one half;
- `1,234` is one number, `1, 234` and `0,5` are lists;
- `50\%` is 50;
- of `5\sqrt{2} \approx 7.07` the first number counts, and the others must agree with it to 1%, so that `5 = 6` is none.

The paper's graders (mathruler in training, Python's `eval` in evaluation) are in `grading.paper`.
"""

from __future__ import annotations

import math
import re
from typing import Final

MAX_CHARS: Final = 400
MAX_DEPTH: Final = 20
MAX_EXPONENT: Final = 100.0
AGREEMENT: Final = 0.01

_PLAIN = re.compile(r"[+-]?(?:[0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})")

_CLOSING = {"(": ")", "{": "}", "[": "]"}

# ---- tidying -------------------------------------------------------------------------------------------------------
_FRACTIONS = "½12 ⅓13 ⅔23 ¼14 ¾34 ⅕15 ⅖25 ⅗35 ⅘45 ⅙16 ⅚56 ⅛18 ⅜38 ⅝58 ⅞78"
_UNICODE: dict[int, str] = {
    **{ord(c): "-" for c in "−–—‒‐‑﹣"},
    **{ord(c): "*" for c in "×·∙⋅∗✕•"},
    **{ord(c): " " for c in "\u00a0\u2009\u200a\u2002\u2003\u202f\u3000\t\n\r"},
    **{ord(c): "" for c in "\u200b\u200c\u200d\u2060\ufeff\u2061\u2062"},
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width forms of ASCII
    **{ord(c): rf"\frac{{{n}}}{{{d}}}" for c, n, d in _FRACTIONS.split()},
    ord("÷"): "/", ord("∕"): "/", ord("⁄"): "/", ord("√"): r"\sqrt ", ord("∛"): r"\sqrt[3] ", ord("π"): r"\pi ",
    ord("𝜋"): r"\pi ", ord("°"): r"\degree ", ord("º"): r"\degree ", ord("≈"): "≈", ord("∠"): r"\angle ",
    ord("△"): r"\triangle ", ord("±"): r"\pm ",
}  # fmt: skip
_SUPERSCRIPT = re.compile("⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|textup|mathrm|mathbf|mathit|mathsf|mathbb|boldsymbol|bm|mbox|operatorname"
    r"|boxed|fbox|underline|num|unit|mathstrut)\*?(?![A-Za-z])"
)
_THIN_THOUSANDS = re.compile(r"(?<=[0-9])(?:\\[,!; ]|\{,\}|,\\!)(?=[0-9]{3}(?![0-9]))")
_SPACING = re.compile(
    r"\\(?:[,;:! ]|(?:quad|qquad|displaystyle|textstyle|left|right|[bB]igg?[lr]?|limits|thinspace|rm)(?![A-Za-z]))"
    r"|\\[hv]space\*?\{[^{}]{0,20}\}|[~&]"
)
_DELIMITERS = re.compile(r"\\?\$|\\[()\[\]]")
_DEGREES = re.compile(
    r"\^\s*(?:\{\s*\{\s*o\s*\}\s*\}|\{\s*o\s*\}|o(?![A-Za-z]))|\^\s*\{\s*\\(?:circ|degree)\s*\}|\^?\s*\\(?:circ|degree)(?![A-Za-z])"
)
_RELATION = re.compile(
    r"\(\s*approx(?:imately|\.)?\s*\)|=|≈|≅|:|\\(?:approx|approxeq|simeq|cong|sim|equiv|doteq)(?![A-Za-z])|\b(?:approximately|approx\.?|about)(?![a-z])"
)
# The left side of `x = 5`: letters, no digit that is not a subscript or an angle's number, no sign, no list.
_NUMBERED = re.compile(r"_\s*\{?\s*\w{1,3}\s*\}?|\\angle\s*\{?\s*[0-9]{1,2}")
_NAME = re.compile(r"(?:[^\W0-9]|[\\_{}()|' +/])*")


def clean(text: str) -> str:
    """One notation for what is written in many: no wrappers, delimiters or spacing commands, plain signs."""
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(_RAISED)}}}", text.translate(_UNICODE))
    text = _THIN_THOUSANDS.sub("", text)
    text = _DELIMITERS.sub(" ", text)
    text = _WRAPPERS.sub(" ", text)
    text = _DEGREES.sub(" ° ", text)
    text = _SPACING.sub(" ", text)
    return " ".join(text.replace("**", "^").split()).rstrip(".,; \\")


def _tidy(text: str) -> str:
    """`clean`, without the brackets around the whole."""
    text = clean(text)
    for _ in range(MAX_DEPTH):
        if text[:1] not in ("{", "(") or _closing(text) != len(text) - 1:
            break
        text = text[1:-1].strip()
    return text


def _closing(text: str) -> int:
    """Where the bracket that opens `text` closes, -1 if it does not."""
    opening, closing = text[0], _CLOSING[text[0]]
    depth = 0
    for at, character in enumerate(text):
        depth += (character == opening) - (character == closing)
        if depth == 0:
            return at
    return -1


# ---- units ---------------------------------------------------------------------------------------------------------
_UNIT_WORDS: Final = """
    mm cm dm m km nm in inch inches ft foot feet yd yard yards mi mile miles unit units u un degree degrees deg degs
    meter meters metre metres centimeter centimeters centimetre centimetres millimeter millimeters millimetre
    millimetres kilometer kilometers kilometre kilometres decimeter decimeters s sec secs second seconds min mins
    minute minutes h hr hrs hour hours day days g kg mg gram grams kilogram kilograms lb lbs oz pound pounds ton
    tons l ml liter liters litre litres gal gallon gallons acre acres hectare hectares ha rad rads radian radians
    percent dollar dollars usd cent cents mph square squared sq cubic cubed cu per
"""
UNITS = frozenset(_UNIT_WORDS.split())
_UNIT = re.compile(r"\s*(?:([A-Za-z]+)\.?|\^\s*\{?\s*-?[0-9]\s*\}?|\\?%|°|[/*{}()])")


def _is_unit(tail: str) -> bool:
    """Whether `tail` consists of unit words, their exponents and separators only."""
    if tail.count("(") != tail.count(")"):
        return False
    at, word = 0, True  # an exponent has to follow a word: `5^2` never comes here, `5 ^2` must not pass
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


# ---- the parser ----------------------------------------------------------------------------------------------------
_NUMBER = re.compile(r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+")
_SCIENTIFIC = re.compile(r"[eE][+-]?[0-9]{1,3}(?![0-9.])")
_INTEGER = re.compile(r"[0-9]+")
_COMMAND = re.compile(r"\\([A-Za-z]+)|(sqrt|pi)(?![A-Za-z])")
_PROPER = re.compile(
    r" *\\[dtc]?frac *(?:\{ *([0-9]{1,9}) *\}|([0-9])) *(?:\{ *([0-9]{1,9}) *\}|([0-9]))"
    r"|(?<=[0-9]) +([0-9]{1,9}) */ *([0-9]{1,9})(?![0-9.])"
)


class NotANumberError(Exception):
    """The text is not one number (or, in `formula`, not one formula); internal, no caller of `core` sees it."""


class Parser:
    """Recursive descent over one cleaned string: sum, product, power, atom; `formula` adds letters and functions."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at: int = 0
        self.depth: int = 0

    def peek(self) -> str:
        """The next character that is no space, empty at the end."""
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
        """Consume `character`, or give up."""
        if self.peek() != character:
            raise NotANumberError
        self.at += 1

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
        r"""The next product operator, consumed; an implied product (`2\sqrt{3}`, `2(3+1)`) consumes nothing."""
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
        match = _COMMAND.match(self.text, self.at)
        name = (match[1] or match[2]) if match else ""
        if match and name in ("times", "cdot", "ast", "div"):
            self.at = match.end()
            return "/" if name == "div" else "*"
        return "*" if name in ("sqrt", "pi", "frac", "dfrac", "tfrac", "cfrac") else ""

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
        while self.peek() == "°":
            self.at += 1
        return base

    def exponent(self) -> float:
        """What follows `^`."""
        if self.peek() == "-":
            self.at += 1
            return -self.exponent_size()
        return self.exponent_size()

    def exponent_size(self) -> float:
        r"""A literal (`10^12`; no mixed number: `2^3\frac{1}{2}` is a product) or a TeX argument."""
        match = self.take(_NUMBER) if self.peek() else None
        return float(match[0].replace(",", "")) if match else self.atom()

    def atom(self) -> float:
        """A number, a group or a command."""
        character = self.peek()
        if character in _CLOSING:
            return self.group(_CLOSING[character])
        if match := self.take(_NUMBER):
            return self.number(match[0])
        match = self.take(_COMMAND)
        name = (match[1] or match[2]) if match else ""
        if name == "pi":
            return math.pi
        if name == "sqrt":
            return self.root()
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            top = self.argument()
            return top / self.argument()
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
        return value

    def group(self, closing: str) -> float:
        """What is between brackets."""
        self.at += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotANumberError
        value = self.sum()
        self.expect(closing)
        self.depth -= 1
        return value

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


def _parse_side(side: str) -> float | None:
    """The value of one side of a relation, None if it is no number with an optional unit."""
    side = side.strip()
    parser = Parser(side)
    try:
        value = parser.sum()
    except (NotANumberError, ArithmeticError, ValueError):
        return None
    return value if math.isfinite(value) and _is_unit(side[parser.at :]) else None


def parse_number(text: str) -> float | None:
    r"""The number that `text` states, or None if it does not state exactly one.

    Args:
        text: The content of a `\boxed{}` or a gold answer, for example `2\sqrt{3} \text{ cm}` or `"25.000"`.

    Returns:
        A finite float, or None for text that is empty, too long, a list, an inequality, or anything unknown.
    """
    text = text.strip()
    if len(text) > MAX_CHARS:
        return None
    if _PLAIN.fullmatch(text):
        return float(text)
    text = _tidy(text)
    value: float | None = None
    for side in _RELATION.split(text):
        number = _parse_side(side)
        if number is None:
            if not _NAME.fullmatch(_NUMBERED.sub("", side)):
                return None
        elif value is None:
            value = number
        elif ":" in text or abs(number - value) > AGREEMENT * max(abs(value), abs(number)):
            return None
    return value
