"""Parallelograms, rectangles, rhombi, squares and trapezoids."""

# ruff: noqa: D103  A template's name, type and figure say what it is.

from __future__ import annotations

import cmath
from fractions import Fraction
from math import radians

from modgap.datasets.synthetic.numbers import (
    Exact,
    add,
    constant,
    evaluate,
    hypotenuse_to_leg,
    legs_to_hypotenuse,
    linear,
    minus,
    over,
    solve,
    times,
)
from modgap.datasets.synthetic.registry import (
    equated,
    finish,
    require,
    summed,
    template,
    unknown_for,
)
from modgap.datasets.synthetic.scene import Scene
from modgap.datasets.synthetic.triangles import triple

RECTANGLE = "Rectangle"
PARALLELOGRAM = "Parallelogram"
RHOMBUS = "Rhombus and Square"
TRAPEZOID = "Trapezoid and Kite"


def parallelogram(
    s: Scene, p: float, q: float, degrees: float, diagonals: bool = False
) -> list[str]:
    """A, B, C, D in order with AB = p, AD = q and this angle at A.

    With the diagonals comes their crossing E.
    """
    a, b, c, d = names = s.names(4)
    s.put(a, 0)
    s.put(b, p)
    s.put(d, cmath.rect(q, radians(degrees)))
    s.put(c, s.points[b] + s.points[d])
    s.polygon(*names)
    if diagonals:
        (e,) = s.names(1)
        s.between(e, a, c, 0.5)
        s.line(a, e, c)
        s.line(b, e, d)
        names.append(e)
    return names


def called(s: Scene, kind: str, *names: str) -> str:
    """`ABCD is a rhombus. `."""
    word = "".join(names)
    return s.rng.choice((f"{word} is a {kind}. ", f"Quadrilateral {word} is a {kind}. "))


def two_sides(s: Scene, low: int, high: int) -> tuple[int, int]:
    p, q = s.rng.randint(low, high), s.rng.randint(low, high)
    require(p != q and p < 2.2 * q and q < 2.2 * p)
    return p, q


def square_corners(s: Scene, a: str, b: str, c: str, d: str) -> None:
    """Two clauses that make a parallelogram's corner, and the opposite one, right."""
    s.perp((a, b), (b, c), b)
    s.perp((a, d), (c, d), d)


@template(PARALLELOGRAM, 1)
def parallelogram_angle(s: Scene) -> None:
    p, q = two_sides(s, 6, 12)
    g = s.rng.randint(48, 132)
    require(abs(g - 90) > 4)
    a, b, c, d = parallelogram(s, p, q, g)
    n = s.angle(d, a, b, g)
    before = called(s, "parallelogram", a, b, c, d)
    if s.rng.random() < 0.25:
        got = s.seek_angle(b, c, d, g, before)
        s.steps, s.program = [f"{g} = {g}"], f"Equal {n} {got} Get {got}"
    else:
        got = s.seek_angle(*s.rng.choice(((a, b, c), (a, d, c))), 180 - g, before)
        s.steps, s.program = [minus(180, g)], f"Sum {n} {got} C180 Get {got}"


@template(PARALLELOGRAM, 2, 3)
def parallelogram_angle_algebra(s: Scene) -> None:
    p, q = two_sides(s, 6, 12)
    g = s.rng.randint(55, 125)
    require(abs(g - 90) > 4)
    a, b, c, d = parallelogram(s, p, q, g)
    before = called(s, "parallelogram", a, b, c, d)
    terms = []
    if s.rng.random() < 0.4:
        var, x, term = equated(s, lambda t: s.angle(d, a, b, t), lambda t: s.angle(b, c, d, t), g)
        terms.append(term)
    else:
        puts = [lambda t: s.angle(d, a, b, t), lambda t: s.angle(a, b, c, t)]
        var, x, terms = summed(s, puts, [g, 180 - g], 180)
    if s.level == 2:
        s.ask_unknown(var, before)
        return
    term = next(term for term in terms if term.a)
    value = term.at(x)
    s.steps += evaluate(term, x)
    if s.rng.random() < 0.5:  # a corner beside the one of the expression
        value = 180 - value
        s.steps.append(minus(180, 180 - value))
    s.ask_angle(*((b, c, d) if value == g else (a, d, c)), value, before, number=False)


@template(PARALLELOGRAM, 2, 3)
def parallelogram_sides(s: Scene) -> None:
    p, q = two_sides(s, 6, 18 * s.level)
    a, b, c, d = parallelogram(s, p, q, s.rng.uniform(58, 75))
    var, x, term = equated(s, lambda t: s.side(a, b, t), lambda t: s.side(c, d, t), p)
    if s.rng.random() < 0.5:
        s.side(b, c, q)
    before = called(s, "parallelogram", a, b, c, d)
    finish(s, var, x, term, lambda v: s.ask_length(a, b, v, before))
    if before not in s.question:
        s.question = before + s.question


@template(PARALLELOGRAM, 1, 2, 3)
def parallelogram_diagonals(s: Scene) -> None:
    r, t = two_sides(s, 5, 12 + 12 * s.level)
    g = radians(s.rng.uniform(55, 80))
    a, b, c, d, e = s.names(5)
    for name, at in ((a, -r), (c, r), (b, cmath.rect(t, g)), (d, -cmath.rect(t, g)), (e, 0)):
        s.put(name, at)
    s.polygon(a, b, c, d)
    s.line(a, e, c)
    s.line(b, e, d)
    before = called(s, "parallelogram", a, b, c, d)
    if s.level == 1:
        s.side(b, e, t)
        n = s.side(a, e, r)
        s.ask_length(a, c, 2 * r, before)
        s.steps, s.program = [times(2, r)], f"Multiple {n} C2 V0 Get V0"
    else:
        var, x, term = equated(s, lambda k: s.side(a, e, k), lambda k: s.side(c, e, k), r)
        if s.level == 2:
            s.ask_unknown(var, before)
        else:
            s.steps += [*evaluate(term, x), times(2, r)]
            s.ask_length(a, c, 2 * r, before)


def _rectangle_with_diagonals(s: Scene, r: float, degrees: float) -> list[str]:
    """A rectangle whose diagonals of length 2r meet at this angle AEB."""
    a, b, c, d, e = s.names(5)
    for name, at in ((a, 0), (b, degrees), (c, 180), (d, 180 + degrees)):
        s.put(name, cmath.rect(r, radians(at)))
    s.put(e, 0)
    s.polygon(a, b, c, d)
    s.line(a, e, c)
    s.line(b, e, d)
    return [a, b, c, d, e]


@template(RECTANGLE, 2, 3)
def rectangle_diagonals(s: Scene) -> None:
    r = s.rng.randint(6, 12 * s.level)
    a, b, c, d, e = _rectangle_with_diagonals(s, r, s.rng.uniform(62, 118))
    before = called(s, "rectangle", a, b, c, d)
    ends = (a, c), (b, d)
    halves = s.rng.choice(((a, e), (c, e))), s.rng.choice(((b, e), (d, e)))
    var, x, term = equated(s, lambda t: s.side(*halves[0], t), lambda t: s.side(*halves[1], t), r)
    if s.level == 2:
        s.ask_unknown(var, before)
    else:
        s.steps += [*evaluate(term, x), times(2, r)]
        s.ask_length(*s.rng.choice(ends), 2 * r, before)


@template(RECTANGLE, 1, 2)
def rectangle_angle(s: Scene) -> None:
    half = s.rng.randint(31, 59)
    require(half != 45)
    a, b, c, d, e = _rectangle_with_diagonals(s, 10, 180 - 2 * half)
    before = called(s, "rectangle", a, b, c, d)
    n = s.angle(e, a, b, half)
    if s.level == 1:
        got = s.seek_angle(e, a, d, 90 - half, before)
        s.steps, s.program = [minus(90, half)], f"Sum {n} {got} C90 Get {got}"
    elif s.rng.random() < 0.5:
        got = s.seek_angle(a, e, b, 180 - 2 * half, before)
        s.steps, s.program = (
            [times(2, half), minus(180, 2 * half)],
            f"Iso_Tri_Ang {got} {n} Get {got}",
        )
    else:
        got = s.seek_angle(a, e, d, 2 * half, before)
        s.steps, s.program = [times(2, half)], f"Multiple {n} C2 {got} Get {got}"


@template(RECTANGLE, 1, 2, 3)
def rectangle_diagonal(s: Scene) -> None:
    p, q, r = triple(s, 40 * s.level)
    require(p < 2.2 * q and q < 2.2 * p)
    a, b, c, d = parallelogram(s, p, q, 90)
    s.line(a, c)
    before = called(s, "rectangle", a, b, c, d)
    if s.level == 1:
        m, n = s.side(a, b, p), s.side(b, c, q)
        got = s.seek_length(a, c, r, before)
        s.steps, s.program = legs_to_hypotenuse(p, q), f"Gougu {m} {n} {got} Get {got}"
    else:
        m, n = s.side(a, b, p), s.side(a, c, r)
        far = (b, c) if s.level == 2 else (a, d)
        got = s.seek_length(*far, q, before)
        s.steps, s.program = hypotenuse_to_leg(r, p), f"Gougu {m} {got} {n} Get {got}"


@template(RECTANGLE, 2, 3)
def rectangle_sides(s: Scene) -> None:
    p, q = two_sides(s, 6, 15 * s.level)
    a, b, c, d = parallelogram(s, p, q, 90)
    square_corners(s, a, b, c, d)
    var, x, term = equated(s, lambda t: s.side(a, b, t), lambda t: s.side(c, d, t), p)
    before = called(s, "rectangle", a, b, c, d)
    if s.level == 2:
        s.ask_unknown(var, before)
        return
    s.side(b, c, q)
    s.steps += [*evaluate(term, x), *add(p, q), times(2, p + q)]
    s.ask(
        "Find the perimeter of the rectangle.",
        f"Find the perimeter of rectangle {a}{b}{c}{d}.",
        answer=2 * (p + q),
    )


@template(RHOMBUS, 1, 2, 3)
def rhombus_angle(s: Scene) -> None:
    half = s.rng.randint(27, 63) if s.level < 3 else s.rng.randint(38, 52)
    require(abs(half - 45) > 3)
    a, b, c, d, e = parallelogram(s, 10, 10, 2 * half, diagonals=True)
    before = called(s, "rhombus", a, b, c, d)
    if s.level == 1:
        n = s.angle(e, a, b, half)
        got = s.seek_angle(e, b, a, 90 - half, before)
        s.steps, s.program = [minus(90, half)], f"Sum {n} {got} C90 Get {got}"
    elif s.level == 2:
        n = s.angle(e, a, b, half)
        s.ask_angle(b, c, d, 2 * half, before, number=False)
        s.steps, s.program = [times(2, half)], f"Multiple {n} C2 V0 Get V0"
    elif s.rng.random() < 0.5:
        var, _, _ = equated(s, lambda t: s.angle(e, a, b, t), lambda t: s.angle(e, a, d, t), half)
        s.ask_unknown(var, before)
    else:
        puts = [lambda t: s.angle(e, a, b, t), lambda t: s.angle(e, b, a, t)]
        var, _, _ = summed(s, puts, [half, 90 - half], 90)
        s.ask_unknown(var, before)


@template(RHOMBUS, 1, 2)
def rhombus_sides(s: Scene) -> None:
    p = s.rng.randint(5, 20 * s.level)
    a, b, c, d = parallelogram(s, p, p, s.rng.uniform(55, 75))
    s.equal((a, b), (b, c), (c, d), (a, d))
    if s.level == 1:
        n = s.side(a, b, p)
        s.ask(
            "Find the perimeter of the figure.", "Find the perimeter of the rhombus.", answer=4 * p
        )
        s.steps, s.program = [times(4, p)], f"Multiple {n} C4 V0 Get V0"
    else:
        ends = s.rng.choice(((b, c), (c, d)))
        var, x, term = equated(s, lambda t: s.side(a, b, t), lambda t: s.side(*ends, t), p)
        finish(s, var, x, term, lambda v: s.ask_length(a, d, v))


@template(RHOMBUS, 2, 3)
def rhombus_diagonals(s: Scene) -> None:
    p, q, r = triple(s, 20 * s.level)
    require(p < 2.2 * q and q < 2.2 * p)
    a, b, c, d, e = s.names(5)
    for name, at in ((a, -p), (b, 1j * q), (c, p), (d, -1j * q), (e, 0)):
        s.put(name, at)
    s.polygon(a, b, c, d)
    s.line(a, e, c)
    s.line(b, e, d)
    before = called(s, "rhombus", a, b, c, d)
    if s.level == 2 and s.rng.random() < 0.5:
        m, n = s.side(a, e, p), s.side(b, e, q)
        got = s.seek_length(a, b, r, before)
        s.steps, s.program = legs_to_hypotenuse(p, q), f"Gougu {m} {n} {got} Get {got}"
    elif s.level == 2:
        m, n = s.side(a, e, p), s.side(b, e, q)
        s.ask(
            f"Find the area of rhombus {a}{b}{c}{d}.",
            before + "Find the area of the figure.",
            answer=2 * p * q,
        )
        s.steps = [times(p, q), times(2, p * q)]
    else:
        m, n = s.side(a, b, r), s.side(a, e, p)
        s.ask_length(b, d, 2 * q, before)
        s.steps = [*hypotenuse_to_leg(r, p), times(2, q)]
        s.program = f"Gougu {n} V0 {m} Multiple V0 C2 V1 Get V1"


@template(RHOMBUS, 1, 2)
def square_diagonal(s: Scene) -> None:
    p = s.rng.randint(3, 18 * s.level)
    a, b, c, d = parallelogram(s, p, p, 90)
    s.line(a, c)
    n = s.side(a, b, p)
    before = called(s, "square", a, b, c, d)
    if s.level == 1:
        s.ask(
            before + "Find the area of the figure.",
            f"Find the area of square {a}{b}{c}{d}.",
            answer=p * p,
        )
        s.steps, s.program = [times(p, p)], f"Rect_Area {n} {n} V0 Get V0"
    else:
        got = s.seek_length(a, c, Exact(Fraction(p), 2), before)
        s.steps, s.program = (
            [rf"{p}*\sqrt{{2}} = {Exact(Fraction(p), 2)}"],
            f"Gougu {n} {n} {got} Get {got}",
        )


@template(TRAPEZOID, 1, 2, 3)
def median(s: Scene) -> None:
    p, q = s.rng.randint(6, 24 * s.level), s.rng.randint(4, 20 * s.level)
    require(0.35 * p <= q <= 0.8 * p and (p + q) % 2 == 0)
    h, shift = s.rng.uniform(0.55, 0.85) * p, s.rng.uniform(0.2, 0.8) * (p - q)
    a, b, c, d, e, f = s.names(6)
    for name, at in ((a, 0), (b, p), (c, shift + q + 1j * h), (d, shift + 1j * h)):
        s.put(name, at)
    s.between(e, a, d, 0.5)
    s.between(f, b, c, 0.5)
    for names in ((a, b), (c, d), (a, e, d), (b, f, c), (e, f)):
        s.line(*names)
    s.parallel((a, b), (c, d))
    s.equal((a, e), (d, e))
    s.equal((b, f), (c, f))
    m = (p + q) // 2
    if s.level == 1:
        k, j = s.side(a, b, p), s.side(c, d, q)
        got = s.seek_length(e, f, m)
        s.steps, s.program = [*add(p, q), over(p + q, 2)], f"Median {k} {got} {j} Get {got}"
    elif s.level == 2:
        k, j = s.side(a, b, p), s.side(e, f, m)
        got = s.seek_length(c, d, q)
        s.steps, s.program = [times(2, m), minus(2 * m, p)], f"Median {k} {j} {got} Get {got}"
    else:
        var, x = unknown_for(s, (q, m))
        u, w = linear(s.rng, q, x, var), linear(s.rng, m, x, var)
        require(2 * w.a != u.a)
        s.side(a, b, p)
        s.side(c, d, u)
        s.side(e, f, w)
        s.steps = [
            f"2({w}) = {w * 2}",
            f"{u} + {p} = {u + constant(p)}",
            *solve(w * 2, u + constant(p)),
        ]
        s.ask_unknown(var)


@template(TRAPEZOID, 1, 2)
def isosceles_trapezoid_angle(s: Scene) -> None:
    g = s.rng.randint(52, 78)
    h = s.rng.uniform(0.8, 1.2)
    top = s.rng.uniform(0.7, 1.1)
    a, b, c, d = s.names(4)
    foot = h / abs(cmath.rect(1, radians(g)).imag) * cmath.rect(1, radians(g)).real
    for name, at in ((a, 0), (b, top + 2 * foot), (c, foot + top + 1j * h), (d, foot + 1j * h)):
        s.put(name, at)
    s.polygon(a, b, c, d)
    s.parallel((a, b), (c, d))
    s.equal((a, d), (b, c))
    value = s.rng.choice((g, 180 - g))
    given, across, near = (
        ((d, a, b), (b, c, d), (a, b, c)) if value == g else ((a, d, c), (a, b, c), (b, c, d))
    )
    n = s.angle(*given, value)
    if s.level == 1:
        got = s.seek_angle(*across, 180 - value)
        s.steps, s.program = [minus(180, value)], f"Sum {n} {got} C180 Get {got}"
    else:
        var, x = unknown_for(s, (value,))
        term = linear(s.rng, value, x, var)
        s.angle(*near, term)
        s.steps = solve(term, constant(value))
        s.ask_unknown(var)
