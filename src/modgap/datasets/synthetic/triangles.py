"""Angles of triangles, isosceles triangles, the Pythagorean theorem."""

# ruff: noqa: D103  A template's name, type and figure say what it is.

from __future__ import annotations

from functools import partial
from math import radians, sin

from modgap.datasets.synthetic.numbers import (
    TRIPLES,
    Exact,
    add,
    constant,
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

ANGLES = "Angle Relation in Triangle"
ISOSCELES = "Isosceles (Equilateral) Triangle"
PYTHAGORAS = "Pythagorean Theorem"


def angles(s: Scene, least: int = 30) -> tuple[int, int, int]:
    """The angles of a triangle that draws well."""
    a, b = s.rng.randint(least, 100), s.rng.randint(least, 100)
    require(
        least <= 180 - a - b <= 115
        and len({a, b, 180 - a - b}) == 3
        and 90 not in (a, b, 180 - a - b)
    )
    return a, b, 180 - a - b


def triple(s: Scene, largest: int = 100) -> tuple[int, int, int]:
    """A Pythagorean triple, scaled, legs in random order."""
    a, b, c = s.rng.choice(TRIPLES[: 4 + 2 * (s.level - 1)])
    k = s.rng.randint(1, max(1, largest // c))
    require(b <= 2.5 * a)
    return (a * k, b * k, c * k) if s.rng.random() < 0.5 else (b * k, a * k, c * k)


@template(ANGLES, 1)
def third_angle(s: Scene) -> None:
    a, b, c = s.names(3)
    p, q, r = angles(s)
    s.triangle(a, b, c, p, q)
    m, n = s.angle(b, a, c, p), s.angle(a, b, c, q)
    got = s.seek_angle(a, c, b, r)
    s.steps = [*add(p, q), minus(180, p + q)]
    s.program = f"Sum {m} {n} {got} C180 Get {got}"


@template(ANGLES, 1, 2)
def exterior_angle(s: Scene) -> None:
    a, b, c, d = s.names(4)
    p, q, _r = angles(s)
    s.triangle(a, b, c, p, q)
    s.lines.remove(next(line for line in s.lines if set(line) == {b, c}))
    s.between(d, b, c, 1.5)
    s.line(b, c, d)
    if s.level == 1:
        m, n = s.angle(b, a, c, p), s.angle(a, b, c, q)
        got = s.seek_angle(a, c, d, p + q)
        s.steps, s.program = add(p, q), f"Sum {m} {n} {got} Get {got}"
    else:
        m, n = s.angle(a, c, d, p + q), s.angle(b, a, c, p)
        got = s.seek_angle(a, b, c, q)
        s.steps, s.program = [minus(p + q, p)], f"Sum {n} {got} {m} Get {got}"


@template(ANGLES, 3)
def exterior_algebra(s: Scene) -> None:
    a, b, c, d = s.names(4)
    p, q, _ = angles(s, 36)
    s.triangle(a, b, c, p, q)
    s.lines.remove(next(line for line in s.lines if set(line) == {b, c}))
    s.between(d, b, c, 1.6)
    s.line(b, c, d)
    var, x = unknown_for(s, (p, q))
    outer, inner = linear(s.rng, p + q, x, var), linear(s.rng, p, x, var)
    require(outer.a > inner.a)
    s.angle(a, c, d, outer)
    s.angle(b, a, c, inner)
    s.angle(a, b, c, q)
    plus = inner + constant(q)
    s.steps = [f"{inner} + {q} = {plus}", *solve(outer, plus)]
    finish(s, var, x, outer, lambda v: s.ask_angle(a, c, d, v, number=False))


@template(ANGLES, 2, 3)
def angle_algebra(s: Scene) -> None:
    a, b, c = s.names(3)
    values = angles(s, 36)
    s.triangle(a, b, c, values[0], values[1])
    corners = [(b, a, c), (a, b, c), (a, c, b)]
    var, x, terms = summed(s, [partial(s.angle, *corner) for corner in corners], values, 180)
    k = s.rng.randrange(3)
    if s.level == 2:
        s.ask_unknown(var)
    else:
        finish(s, var, x, terms[k], lambda v: s.ask_angle(*corners[k], v, number=False))


@template(ANGLES, 2, 3)
def bow_tie(s: Scene) -> None:
    a, b, c, d, e = s.names(5)
    p, q, r = angles(s)
    t = s.rng.randint(32, 115)
    u = 180 - r - t
    require(u >= 30 and u != p and t != q)
    s.triangle(a, b, c, p, q)
    ab = abs(s.points[a] - s.points[b])
    # Triangle CDE is on the other side of C: angle at E is t, at D is u.
    size = ab * s.rng.uniform(0.7, 1.1)
    ce, cd = size * sin(radians(u)) / sin(radians(r)), size * sin(radians(t)) / sin(radians(r))
    s.lines = [line for line in s.lines if set(line) == {a, b}]
    s.between(e, a, c, 1 + ce / abs(s.points[c] - s.points[a]))
    s.between(d, b, c, 1 + cd / abs(s.points[c] - s.points[b]))
    s.line(a, c, e)
    s.line(b, c, d)
    s.line(d, e)
    if s.level == 2:
        m = s.angle(a, c, b, r)
        n = s.angle(c, e, d, t)
        got = s.seek_angle(c, d, e, u)
        s.steps, s.program = [*add(r, t), minus(180, r + t)], f"Sum {m} {n} {got} C180 Get {got}"
    else:
        j, m, n = s.angle(c, a, b, p), s.angle(a, b, c, q), s.angle(c, e, d, t)
        s.ask_angle(c, d, e, u)
        s.steps = [*add(p, q), minus(180, p + q), *add(r, t), minus(180, r + t)]
        s.program = f"Sum {j} {m} V0 C180 Sum V0 {n} V1 C180 Get V1"


def _isosceles(s: Scene, apex: int) -> tuple[str, str, str]:
    a, b, c = s.names(3)
    base = (180 - apex) / 2
    s.triangle(b, c, a, base, base)
    return a, b, c


@template(ISOSCELES, 1, 2)
def isosceles_angle(s: Scene) -> None:
    apex = 2 * s.rng.randint(16, 62)
    base = (180 - apex) // 2
    require(base != apex and apex != 90)
    a, b, c = _isosceles(s, apex)
    s.equal((a, b), (a, c))
    end, other = s.rng.sample((b, c), 2)
    if s.level == 1:
        n = s.angle(a, end, other, base)
        got = s.seek_angle(b, a, c, apex)
        s.steps = [times(2, base), minus(180, 2 * base)]
        s.program = f"Iso_Tri_Ang {got} {n} Get {got}"
    else:
        n = s.angle(b, a, c, apex)
        got = s.seek_angle(a, end, other, base)
        s.steps = [minus(180, apex), over(180 - apex, 2)]
        s.program = f"Iso_Tri_Ang {n} {got} Get {got}"


@template(ISOSCELES, 2, 3)
def isosceles_sides(s: Scene) -> None:
    leg = s.rng.randint(8, 20 * s.level)
    a, b, c = s.names(3)
    base = s.rng.randint(leg // 2 + 1, int(1.6 * leg))
    require(base != leg)
    height = (leg**2 - base**2 / 4) ** 0.5
    s.put(b, 0)
    s.put(c, base)
    s.put(a, base / 2, height)
    s.polygon(a, b, c)
    s.equal((a, b), (a, c))
    var, x, term = equated(s, lambda t: s.side(a, b, t), lambda t: s.side(a, c, t), leg)
    if s.rng.random() < 0.5:
        s.side(b, c, base)
    finish(s, var, x, term, lambda v: s.ask_length(a, s.rng.choice((b, c)), v))


@template(ISOSCELES, 2, 3)
def isosceles_exterior(s: Scene) -> None:
    base = s.rng.randint(30, 74)
    apex = 180 - 2 * base
    require(base not in (45, 60))
    a, b, c = _isosceles(s, apex)
    (d,) = s.names(1)
    s.lines.remove(next(line for line in s.lines if set(line) == {b, c}))
    s.between(d, b, c, 1.5)
    s.line(b, c, d)
    s.equal((a, b), (a, c))
    if s.level == 2:
        n = s.angle(a, b, c, base)
        got = s.seek_angle(a, c, d, 180 - base)
        s.steps, s.program = [minus(180, base)], f"Sum {n} {got} C180 Get {got}"
    elif s.rng.random() < 0.5:
        n = s.angle(b, a, c, apex)
        got = s.seek_angle(a, c, d, 180 - base)
        s.steps = [minus(180, apex), over(180 - apex, 2), minus(180, base)]
        s.program = f"Iso_Tri_Ang {n} V1 Sum V1 {got} C180 Get {got}"
    else:
        n = s.angle(a, c, d, 180 - base)
        got = s.seek_angle(b, a, c, apex)
        s.steps = [minus(180, 180 - base), times(2, base), minus(180, 2 * base)]
        s.program = f"Sum {n} V1 C180 Iso_Tri_Ang {got} V1 Get {got}"


@template(ISOSCELES, 1, 2)
def equilateral(s: Scene) -> None:
    side = s.rng.randint(6, 15 + 20 * s.level)
    a, b, c = s.names(3)
    s.triangle(a, b, c, 60, 60, side)
    var, x = unknown_for(s, (side,))
    term = linear(s.rng, side, x, var)
    s.equal((a, b), (b, c), (a, c))
    s.side(a, b, side)
    s.side(b, c, term)
    s.steps = solve(term, constant(side))
    s.ask_unknown(var)


def right(s: Scene, p: int | float, q: int | float) -> tuple[str, str, str]:
    a, b, c = s.names(3)
    s.put(c, 0)
    s.put(a, p)
    s.put(b, 0, q)
    s.polygon(a, b, c)
    s.perp((a, c), (b, c), c)
    return a, b, c


@template(PYTHAGORAS, 1, 2)
def hypotenuse(s: Scene) -> None:
    p, q, r = triple(s, 30 * s.level)
    a, b, c = right(s, p, q)
    m, n = s.side(a, c, p), s.side(b, c, q)
    got = s.seek_length(a, b, r)
    s.steps, s.program = legs_to_hypotenuse(p, q), f"Gougu {m} {n} {got} Get {got}"


@template(PYTHAGORAS, 1, 2)
def leg(s: Scene) -> None:
    p, q, r = triple(s, 30 * s.level)
    a, b, c = right(s, p, q)
    m, n = s.side(a, c, p), s.side(a, b, r)
    got = s.seek_length(b, c, q)
    s.steps, s.program = hypotenuse_to_leg(r, p), f"Gougu {m} {got} {n} Get {got}"


@template(PYTHAGORAS, 2, 3)
def root_side(s: Scene) -> None:
    p, q = s.rng.randint(2, 6 * s.level), s.rng.randint(2, 6 * s.level)
    require(2 * p >= q and 2 * q >= p and p != q)
    a, b, c = right(s, p, q)
    m, n = s.side(a, c, p), s.side(b, c, q)
    got = s.seek_length(a, b, Exact.sqrt(p * p + q * q))
    s.steps, s.program = legs_to_hypotenuse(p, q), f"Gougu {m} {n} {got} Get {got}"


@template(PYTHAGORAS, 3)
def root_leg(s: Scene) -> None:
    p, r = s.rng.randint(4, 18), s.rng.randint(6, 24)
    require(1.15 * p <= r <= 2.2 * p)
    a, b, c = right(s, p, (r * r - p * p) ** 0.5)
    m, n = s.side(a, c, p), s.side(a, b, r)
    got = s.seek_length(b, c, Exact.sqrt(r * r - p * p))
    s.steps, s.program = hypotenuse_to_leg(r, p), f"Gougu {m} {got} {n} Get {got}"


@template(PYTHAGORAS, 3)
def two_right_triangles(s: Scene) -> None:
    p, h, r = triple(s, 60)
    # Other triples, scaled, that have h as a leg: (the other leg, the hypotenuse).
    others: list[tuple[int, int]] = []
    for legs in TRIPLES:
        for i in (0, 1):
            for scale in range(1, 40):
                if legs[1 - i] * scale == h:
                    others.append((legs[i] * scale, legs[2] * scale))
    q, t = s.rng.choice(others)
    require(h / 3 < q < 2.5 * h and q != p and p + q < 3 * h)
    a, b, c, d = s.names(4)
    s.put(d, 0)
    s.put(a, -p)
    s.put(b, q)
    s.put(c, 0, h)
    s.line(a, d, b)
    for end in (a, b, d):
        s.line(c, end)
    s.perp((a, b), (c, d), d)
    m, n, o = s.side(a, c, r), s.side(a, d, p), s.side(d, b, q)
    got = s.seek_length(b, c, t)
    s.steps = [*hypotenuse_to_leg(r, p), *[x for x in legs_to_hypotenuse(h, q) if x != times(h, h)]]
    s.program = f"Gougu {n} V9 {m} Gougu V9 {o} {got} Get {got}"
