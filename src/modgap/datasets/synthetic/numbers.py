"""Exact numbers and the small algebra of school geometry, with the words that show each step.

A step is one short line of arithmetic (`35 + 75 = 110`), because the testbed model of a few million
parameters learns these steps: one operation each, integers wherever the problem allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from random import Random

# Pythagorean triples with legs of similar size, so that their triangles draw well.
TRIPLES = (
    (3, 4, 5),
    (5, 12, 13),
    (8, 15, 17),
    (20, 21, 29),
    (12, 35, 37),
    (28, 45, 53),
    (33, 56, 65),
    (48, 55, 73),
)


@dataclass(frozen=True, slots=True)
class Exact:
    r"""The number `factor * sqrt(root) * pi**pi`, as written in an answer.

    For example, `25`, `7.5`, `5\sqrt{3}`, `12\pi`.
    """

    factor: Fraction
    root: int = 1
    pi: bool = False

    @classmethod
    def of(cls, value: int | float | Fraction) -> Exact:
        """A rational number; a float must be a short decimal."""
        return cls(Fraction(value).limit_denominator(10_000))

    @classmethod
    def sqrt(cls, square: int) -> Exact:
        r"""The root of a whole number, simplified: 75 gives `5\sqrt{3}`."""
        k = max(k for k in range(1, math.isqrt(square) + 1) if square % (k * k) == 0)
        return cls(Fraction(k), square // (k * k))

    def __float__(self) -> float:
        return float(self.factor) * math.sqrt(self.root) * (math.pi if self.pi else 1.0)

    def __str__(self) -> str:
        tail = ("" if self.root == 1 else rf"\sqrt{{{self.root}}}") + (r"\pi" if self.pi else "")
        return tail if tail and self.factor == 1 else decimal(self.factor) + tail


def decimal(value: int | float | Fraction) -> str:
    r"""A number as a person writes it: `7`, `7.5`.

    A fraction without a short decimal is written as `\frac{22}{7}`.
    """
    exact = Fraction(value).limit_denominator(10_000)
    if exact.denominator == 1:
        return str(exact.numerator)
    if 1000 % exact.denominator == 0:
        return f"{float(exact):.3f}".rstrip("0")
    return rf"\frac{{{exact.numerator}}}{{{exact.denominator}}}"


@dataclass(frozen=True, slots=True)
class Linear:
    """The expression `a x + b` of one unknown."""

    a: int
    b: int
    var: str = "x"

    def __str__(self) -> str:
        if self.a == 0:
            return str(self.b)
        return ("" if self.a == 1 else str(self.a)) + self.var + (f"{self.b:+d}" if self.b else "")

    def __add__(self, other: Linear) -> Linear:
        return Linear(self.a + other.a, self.b + other.b, self.var if self.a else other.var)

    def __mul__(self, factor: int) -> Linear:
        return Linear(self.a * factor, self.b * factor, self.var)

    def at(self, x: int) -> int:
        """Its value."""
        return self.a * x + self.b


def constant(value: int) -> Linear:
    """A number that takes part in an equation."""
    return Linear(0, value)


def linear(rng: Random, value: int, x: int, var: str = "x", avoid: int = 0) -> Linear:
    """A random `a x + b` that is `value` at `x`, with a small constant.

    `avoid` is a coefficient not to use.
    """
    nearest = max(1, round(value / x))
    choices = [a for a in range(max(1, nearest - 2), nearest + 3) if a != avoid and value != a * x]
    a = rng.choice(choices or [nearest + 1 + (nearest + 1 == avoid)])
    return Linear(a, value - a * x, var)


def solve(left: Linear, right: Linear) -> list[str]:
    """The steps from `left = right` to `x = ...`.

    `left` must have the larger coefficient or the right one none.
    """
    if left.a < right.a:
        left, right = right, left
    a, b = left.a - right.a, right.b - left.b
    steps = [f"{left} = {right}"]
    if a != 1 and (right.a or left.b):
        steps.append(f"{a}{left.var} = {b}")
    steps.append(f"{left.var} = {decimal(Fraction(b, a))}")
    return list(dict.fromkeys(steps))


def add(*terms: int) -> list[str]:
    """Running sums: `35 + 75 = 110`."""
    steps, total = [], terms[0]
    for term in terms[1:]:
        steps.append(f"{total} + {term} = {total + term}")
        total += term
    return steps


def minus(a: int | Fraction, b: int | Fraction) -> str:
    """`180 - 110 = 70`."""
    return f"{decimal(a)} - {decimal(b)} = {decimal(Fraction(a) - Fraction(b))}"


def times(a: int | Fraction, b: int | Fraction) -> str:
    """`6*8 = 48`."""
    return f"{decimal(a)}*{decimal(b)} = {decimal(Fraction(a) * Fraction(b))}"


def over(a: int | Fraction, b: int) -> str:
    """`48/2 = 24`."""
    return f"{decimal(a)}/{b} = {decimal(Fraction(a) / b)}"


def evaluate(term: Linear, x: int) -> list[str]:
    """The steps of putting `x` into an expression."""
    steps = [times(term.a, x)] if term.a != 1 else []
    if term.b:
        steps.append(f"{term.a * x} {'+' if term.b > 0 else '-'} {abs(term.b)} = {term.at(x)}")
    return steps


def legs_to_hypotenuse(a: int, b: int) -> list[str]:
    r"""`6*6 = 36, 8*8 = 64, 36 + 64 = 100, \sqrt{100} = 10`."""
    return [
        times(a, a),
        times(b, b),
        *add(a * a, b * b),
        rf"\sqrt{{{a * a + b * b}}} = {Exact.sqrt(a * a + b * b)}",
    ]


def hypotenuse_to_leg(c: int, a: int) -> list[str]:
    r"""`10*10 = 100, 6*6 = 36, 100 - 36 = 64, \sqrt{64} = 8`."""
    return [
        times(c, c),
        times(a, a),
        minus(c * c, a * a),
        rf"\sqrt{{{c * c - a * a}}} = {Exact.sqrt(c * c - a * a)}",
    ]
