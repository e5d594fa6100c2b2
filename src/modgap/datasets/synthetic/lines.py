"""Angles at a point, parallel lines, segments of a line, angles of a polygon."""

# ruff: noqa: D103  A template's name, type and figure say what it is.

from __future__ import annotations

import cmath
from functools import partial
from itertools import pairwise
from math import pi, radians

from modgap.datasets.synthetic.numbers import add, evaluate, minus, times
from modgap.datasets.synthetic.registry import equated, finish, require, summed, template
from modgap.datasets.synthetic.scene import Scene

ANGLE = "Angle"
PARALLEL = "Parallel Lines"
SEGMENT = "Line Segment"
POLYGON = "Polygon Angle"
Corner = tuple[str, str, str]


def fan(s: Scene, *degrees: float) -> tuple[str, list[str]]:
    """A vertex and rays at these directions; no lines yet."""
    v, *ends = s.names(len(degrees) + 1)
    s.put(v, 0)
    for end, direction in zip(ends, degrees, strict=True):
        s.around(end, v, s.rng.uniform(0.85, 1.1), direction)
    return v, ends


@template(ANGLE, 1, 2)
def linear_pair(s: Scene) -> None:
    p = s.rng.randint(31, 149)
    require(p != 90)
    if s.level == 1:
        v, (a, b, c) = fan(s, 0, 180, p)
        s.line(a, v, b)
        s.line(v, c)
        n = s.angle(a, v, c, p)
        got = s.seek_angle(c, v, b, 180 - p)
        s.steps, s.program = [minus(180, p)], f"Sum {n} {got} C180 Get {got}"
        return
    q = s.rng.randint(31, 149)
    require(p + q < 150)
    v, (a, b, c, d) = fan(s, 0, 180, p, p + q)
    s.line(a, v, b)
    s.line(v, c)
    s.line(v, d)
    m, n = s.angle(a, v, c, p), s.angle(c, v, d, q)
    got = s.seek_angle(d, v, b, 180 - p - q)
    s.steps, s.program = [*add(p, q), minus(180, p + q)], f"Sum {m} {n} {got} C180 Get {got}"


@template(ANGLE, 1)
def complement(s: Scene) -> None:
    p = s.rng.randint(24, 66)
    require(p != 45)
    v, (a, b, c) = fan(s, 0, 90, p)
    for end in (a, b, c):
        s.line(v, end)
    s.perp((a, v), (b, v), v)
    n = s.angle(a, v, c, p)
    got = s.seek_angle(c, v, b, 90 - p)
    s.steps, s.program = [minus(90, p)], f"Sum {n} {got} C90 Get {got}"


@template(ANGLE, 2, 3)
def linear_pair_algebra(s: Scene) -> None:
    parts = (
        [s.rng.randint(35, 145)] if s.level == 2 else [s.rng.randint(40, 90), s.rng.randint(40, 90)]
    )
    parts.append(180 - sum(parts))
    require(parts[-1] >= 35)
    directions = [sum(parts[:k]) for k in range(len(parts))]
    v, ends = fan(s, *directions, 180)
    s.line(ends[0], v, ends[-1])
    for end in ends[1:-1]:
        s.line(v, end)
    corners = [(a, v, b) for a, b in pairwise(ends)]
    var, x, terms = summed(s, [partial(s.angle, *corner) for corner in corners], parts, 180)
    k = s.rng.randrange(len(parts))
    finish(s, var, x, terms[k], lambda value: s.ask_angle(*corners[k], value, number=False))


@template(ANGLE, 2, 3)
def vertical_algebra(s: Scene) -> None:
    p = s.rng.randint(38, 142)
    require(p != 90)
    v, (a, b, c, d) = fan(s, 0, p, 180, 180 + p)
    s.line(a, v, c)
    s.line(b, v, d)
    var, x, term = equated(s, lambda t: s.angle(a, v, b, t), lambda t: s.angle(c, v, d, t), p)
    if s.level == 2:
        finish(s, var, x, term, lambda value: s.ask_angle(a, v, b, value, number=False))
        return
    s.steps += [*evaluate(term, x), minus(180, p)]
    s.ask_angle(b, v, c, 180 - p)


@template(ANGLE, 2)
def around_a_point(s: Scene) -> None:
    p, q = s.rng.randint(60, 150), s.rng.randint(60, 150)
    r = 360 - p - q
    require(60 <= r < 165 and len({p, q, r}) == 3)
    v, (a, b, c) = fan(s, 0, p, p + q)
    for end in (a, b, c):
        s.line(v, end)
    m, n = s.angle(a, v, b, p), s.angle(b, v, c, q)
    got = s.seek_angle(a, v, c, r)
    s.steps, s.program = [*add(p, q), minus(360, p + q)], f"Sum {m} {n} {got} C360 Get {got}"


@template(SEGMENT, 1, 2)
def segment_sum(s: Scene) -> None:
    parts = [s.rng.randint(3, 14 * s.level) for _ in range(1 + s.level)]
    require(min(parts) * 5 > sum(parts))
    names = _row(s, parts)
    refs = [s.side(a, b, p) for a, b, p in zip(names, names[1:], parts, strict=False)]
    s.ask_length(names[0], names[-1], sum(parts))
    s.steps, s.program = add(*parts), f"Sum {' '.join(refs)} V0 Get V0"


def _row(s: Scene, parts: list[int]) -> list[str]:
    """Points on a line at these distances."""
    names = s.names(len(parts) + 1)
    for k, name in enumerate(names):
        s.put(name, sum(parts[:k]))
    s.line(*names)
    s.dots.update(names)
    return names


@template(SEGMENT, 1, 2)
def segment_rest(s: Scene) -> None:
    p, q = s.rng.randint(3, 25 * s.level), s.rng.randint(3, 25 * s.level)
    require(p < 3 * q and q < 3 * p and p != q)
    a, b, c = _row(s, [p, q])
    m, n = s.side(a, c, p + q, span=True), s.side(a, b, p)
    got = s.seek_length(b, c, q)
    s.steps, s.program = [minus(p + q, p)], f"Sum {n} {got} {m} Get {got}"


@template(SEGMENT, 3)
def segment_algebra(s: Scene) -> None:
    p, q = s.rng.randint(6, 50), s.rng.randint(6, 50)
    require(p < 3 * q and q < 3 * p)
    a, b, c = _row(s, [p, q])
    s.side(a, c, p + q, span=True)
    ends = [(a, b), (b, c)]
    var, x, terms = summed(s, [partial(s.side, *end) for end in ends], [p, q], p + q)
    k = s.rng.randrange(2)
    finish(s, var, x, terms[k], lambda value: s.ask_length(*ends[k], value))


@template(SEGMENT, 2, 3)
def midpoint_algebra(s: Scene) -> None:
    p = s.rng.randint(6, 30 * s.level)
    a, b, c = _row(s, [p, p])
    s.equal((a, b), (b, c))
    var, x, term = equated(s, lambda t: s.side(a, b, t), lambda t: s.side(b, c, t), p)
    if s.level == 2:
        finish(s, var, x, term, lambda value: s.ask_length(a, b, value))
        return
    s.steps += [*evaluate(term, x), times(2, p)]
    s.ask_length(a, c, 2 * p)


def _transversal(s: Scene, p: int) -> tuple[list[Corner], list[Corner]]:
    """Two parallel lines cut by a third.

    Gives the corners equal to `p` degrees and those equal to its supplement.
    """
    a, b, c, d, e, f, v, w = s.names(8)
    gap, reach = s.rng.uniform(1.1, 1.4), s.rng.uniform(0.9, 1.1)
    lean = cmath.rect(1, radians(p))
    length = gap / lean.imag
    require(length < 2.2)
    s.put(v, 0)
    s.put(w, length * lean)
    for name, at in ((a, -reach), (b, reach)):
        s.put(name, at)
    for name, at in ((c, -reach), (d, reach)):
        s.put(name, s.points[w] + at)
    s.put(e, -0.75 * lean)
    s.put(f, s.points[w] + 0.75 * lean)
    s.line(a, v, b)
    s.line(c, w, d)
    s.line(e, v, w, f)
    if s.rng.random() < 0.4:  # small letters for the parallels, as in half of the textbooks
        one, two = s.rng.choice((("m", "n"), ("p", "q"), ("r", "s"), ("s", "t"), ("k", "m")))
        s.name_line(one, a, b)
        s.name_line(two, c, d)
    s.parallel((a, b), (c, d))
    same = [(b, v, w), (a, v, e), (d, w, f), (c, w, v)]
    rest = [(a, v, w), (b, v, e), (c, w, f), (d, w, v)]
    return same, rest


def _pair(s: Scene, first: list[Corner], second: list[Corner]) -> tuple[Corner, Corner]:
    """A corner at each of the two crossings."""
    a = s.rng.choice(first)
    b = s.rng.choice([corner for corner in second if corner[1] != a[1]])
    return a, b


@template(PARALLEL, 1)
def transversal_equal(s: Scene) -> None:
    p = s.rng.randint(42, 138)
    require(p != 90)
    same, _ = _transversal(s, p)
    given, asked = _pair(s, same, same)
    n = s.angle(*given, p)
    got = s.seek_angle(*asked, p)
    s.steps, s.program = [f"{p} = {p}"], f"Equal {n} {got} Get {got}"


@template(PARALLEL, 1, 2)
def transversal_supplement(s: Scene) -> None:
    p = s.rng.randint(42, 138)
    require(p != 90)
    same, rest = _transversal(s, p)
    given, asked = _pair(s, same, rest)
    n = s.angle(*given, p)
    got = s.seek_angle(*asked, 180 - p)
    s.steps, s.program = [minus(180, p)], f"Sum {n} {got} C180 Get {got}"


@template(PARALLEL, 2, 3)
def transversal_algebra(s: Scene) -> None:
    p = s.rng.randint(45, 135)
    require(p != 90)
    same, rest = _transversal(s, p)
    if s.rng.random() < 0.5:
        one, two = _pair(s, same, same)
        var, x, term = equated(s, lambda t: s.angle(*one, t), lambda t: s.angle(*two, t), p)
    else:
        one, two = _pair(s, same, rest)
        puts = [lambda t: s.angle(*one, t), lambda t: s.angle(*two, t)]
        var, x, terms = summed(s, puts, [p, 180 - p], 180)
        term = terms[0]
    if s.level == 2:
        s.ask_unknown(var)
    else:
        finish(s, var, x, term, lambda value: s.ask_angle(*one, value, number=False))


@template(PARALLEL, 3)
def zigzag(s: Scene) -> None:
    """A point between two parallels, joined to both: its angle is the sum."""
    p, q = s.rng.randint(32, 70), s.rng.randint(32, 70)
    require(p != q and p + q != 90)
    a, b, c, d, e = s.names(5)
    s.put(e, 0)
    s.put(b, cmath.rect(1.0, radians(p)))
    s.put(d, cmath.rect(s.rng.uniform(0.85, 1.15), -radians(q)))
    s.put(a, s.points[b] - 1.3)
    s.put(c, s.points[d] - 1.3)
    s.line(a, b)
    s.line(c, d)
    s.line(b, e)
    s.line(d, e)
    s.parallel((a, b), (c, d))
    m, n = s.angle(a, b, e, p), s.angle(c, d, e, q)
    s.ask_angle(b, e, d, p + q)
    s.steps, s.program = add(p, q), f"Sum {m} {n} V0 Get V0"


@template(POLYGON, 1, 2, 3)
def quadrangle_angles(s: Scene) -> None:
    a, b, c, d = s.names(4)
    turn = [s.rng.uniform(-18, 18) + 90 * k for k in range(4)]
    for name, direction in zip((a, b, c, d), turn, strict=True):
        s.put(name, cmath.rect(s.rng.uniform(0.8, 1.2), radians(direction)))
    order = [a, b, c, d]
    values = [round(_measure(s, order[k - 1], order[k], order[(k + 1) % 4])) for k in range(3)]
    values.append(360 - sum(values))
    require(all(55 <= v <= 130 and v != 90 for v in values) and len(set(values)) == 4)
    # Redraw with whole degrees: D, A fixed, B on its ray, C where the last two rays meet.
    ad, ab = 1.0, s.rng.uniform(0.85, 1.2)
    s.put(a, 0)
    s.put(b, ab)
    s.put(d, cmath.rect(ad, radians(values[0])))
    u, w = (
        cmath.rect(1, radians(180 - values[1])),
        cmath.rect(1, radians(values[0] + 180 + values[3])),
    )
    gap = s.points[d] - s.points[b]
    t = (gap * w.conjugate()).imag / (u * w.conjugate()).imag
    s.put(c, s.points[b] + t * u)
    require(0.4 < t < 2 and abs(s.points[c] - s.points[d]) > 0.4)
    s.polygon(*order)
    corners = [(order[k - 1], order[k], order[(k + 1) % 4]) for k in range(4)]
    hidden = s.rng.randrange(4)
    if s.level == 3:
        var, x, terms = summed(s, [partial(s.angle, *corner) for corner in corners], values, 360)
        finish(
            s,
            var,
            x,
            terms[hidden],
            lambda value: s.ask_angle(*corners[hidden], value, number=False),
        )
        return
    refs = [s.angle(*corners[k], values[k]) for k in range(4) if k != hidden]
    got = s.seek_angle(*corners[hidden], values[hidden])
    given = [values[k] for k in range(4) if k != hidden]
    s.steps = [*add(*given), minus(360, sum(given))]
    s.program = f"Sum {' '.join(refs)} {got} C360 Get {got}"


def _measure(s: Scene, a: str, v: str, b: str) -> float:
    u, w = s.points[a] - s.points[v], s.points[b] - s.points[v]
    return abs(cmath.phase(u / w)) * 180 / pi
