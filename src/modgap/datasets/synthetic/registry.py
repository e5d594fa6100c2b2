"""The table of templates, and the two forms of algebra in most of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modgap.datasets.synthetic.numbers import Linear, constant, evaluate, linear, solve
from modgap.datasets.synthetic.scene import Scene

Put = Callable[[Linear], object]
"""Writes an expression at its place in the figure."""


@dataclass(frozen=True, slots=True)
class Template:
    """A way to make problems of one type, at some levels.

    Level 1 is one step, 2 a second step or a root, 3 algebra or more.
    """

    name: str
    type: str
    levels: tuple[int, ...]
    build: Callable[[Scene], None]


TEMPLATES: list[Template] = []


def template(
    type: str, *levels: int
) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Add a function to the table."""

    def enter(build: Callable[[Scene], None]) -> Callable[[Scene], None]:
        TEMPLATES.append(Template(build.__name__, type, levels, build))
        return build

    return enter


class Redraw(Exception):
    """The numbers drawn do not make a good problem; draw again."""


def require(good: bool) -> None:
    """Reject these numbers unless the condition holds."""
    if not good:
        raise Redraw


def unknown_for(s: Scene, values: Sequence[int]) -> tuple[str, int]:
    """Name an unknown whose value suits expressions of these values."""
    least = max(3, -(-max(values) // 8))  # keeps coefficients small
    x = s.rng.randint(least, max(least + 1, min(30, *values)))
    return s.unknown(x), x


def equated(
    s: Scene, left: Put, right: Put, value: int, factor: int = 1
) -> tuple[str, int, Linear]:
    """Two expressions, `left = factor * right = value`.

    Gives the unknown, its value and the left expression.
    """
    require(value % factor == 0)
    var, x = unknown_for(s, (value, value // factor))
    b = linear(s.rng, value // factor, x, var)
    a = linear(s.rng, value, x, var, avoid=b.a * factor)
    require(a.a != b.a * factor)
    left(a)
    right(b)
    if factor != 1:
        s.steps.append(f"{factor}({b}) = {b * factor}")
    s.steps += solve(a, b * factor)
    return var, x, a


def summed(
    s: Scene, puts: Sequence[Put], values: Sequence[int], total: int | None
) -> tuple[str, int, list[Linear]]:
    """Expressions whose sum is `total`, one of them perhaps a number.

    Gives the unknown, its value and the expressions.
    """
    var, x = unknown_for(s, values)
    plain = s.rng.randrange(len(values)) if len(values) > 2 or s.rng.random() < 0.3 else -1
    terms = [constant(v) if i == plain else linear(s.rng, v, x, var) for i, v in enumerate(values)]
    for put, term in zip(puts, terms, strict=True):
        put(term)
    whole = sum(terms[1:], terms[0])
    s.steps.append(f"{' + '.join(map(str, terms))} = {whole}")
    s.steps += solve(whole, constant(sum(values) if total is None else total))
    return var, x, terms


def finish(s: Scene, var: str, x: int, term: Linear, ask: Callable[[int], object]) -> None:
    """Ask for the unknown or, half of the time, for the quantity of `term`."""
    if s.rng.random() < 0.5 or term.a == 0:
        s.ask_unknown(var)
        return
    value = term.at(x)
    s.steps += evaluate(term, x)
    ask(value)
