"""Arcs and their angles, chords, inscribed angles."""

# ruff: noqa: D103  A template's name, type and figure say what it is.

from __future__ import annotations

from functools import partial
from math import acos, degrees

from modgap.datasets.synthetic.numbers import (
    add,
    hypotenuse_to_leg,
    legs_to_hypotenuse,
    minus,
    over,
    times,
)
from modgap.datasets.synthetic.registry import equated, finish, require, summed, template
from modgap.datasets.synthetic.scene import Scene
from modgap.datasets.synthetic.triangles import triple

ARC = "Arc Angle"
CHORD = "Circle Chord"
INSCRIBED = "Inscribed Angle"


def ring(s: Scene, radius: float, *directions: float) -> tuple[str, list[str]]:
    """A centre and points on its circle at these directions in degrees; the circle is drawn."""
    o = s.center()
    names = s.names(len(directions))
    s.put(o, 0)
    for name, direction in zip(names, directions, strict=True):
        s.around(name, o, radius, direction)
    s.circle(o, *names)
    return o, names


@template(ARC, 1)
def central_arc(s: Scene) -> None:
    g = s.rng.randint(40, 160)
    require(g != 90)
    o, (a, b, c) = ring(s, 1, 0, g, g + s.rng.uniform(0.35, 0.65) * (360 - g))
    s.line(a, o)
    s.line(b, o)
    s.line(c, o)
    if s.rng.random() < 0.5:
        n = s.angle(a, o, b, g)
        s.ask_arc(a, b, g)
        s.steps, s.program = [f"{g} = {g}"], f"Equal {n} V0 Get V0"
    else:
        n = s.arc(o, a, b, g)
        got = s.seek_angle(a, o, b, g)
        s.steps, s.program = [f"{g} = {g}"], f"Equal {n} {got} Get {got}"


@template(ARC, 1, 2)
def diameter_arcs(s: Scene) -> None:
    p, q = s.rng.randint(32, 120), s.rng.randint(32, 110)
    if s.level == 1:
        require(p != 90)
        o, (a, b, c) = ring(s, 1, 0, 180, p)
        s.line(a, o, b)
        s.line(c, o)
        n = s.angle(a, o, c, p)
        s.ask_arc(c, b, 180 - p)
        s.steps, s.program = [minus(180, p)], f"Sum {n} V0 C180 Get V0"
        return
    require(p + q <= 148)
    o, (a, b, c, d) = ring(s, 1, 0, 180, p, p + q)
    s.line(a, o, b)
    s.line(c, o)
    s.line(d, o)
    m = s.angle(a, o, c, p)
    n = s.arc(o, c, d, q)
    s.ask_arc(d, b, 180 - p - q)
    s.steps, s.program = [*add(p, q), minus(180, p + q)], f"Sum {m} {n} V0 C180 Get V0"


@template(ARC, 2, 3)
def three_arcs(s: Scene) -> None:
    p, q = s.rng.randint(70, 150), s.rng.randint(70, 150)
    r = 360 - p - q
    require(70 <= r <= 155 and len({p, q, r}) == 3)
    o, (a, b, c) = ring(s, 1, 0, p, p + q)
    ends = [(a, b), (b, c), (c, a)]
    for name in (a, b, c):
        s.line(name, o)
    if s.level == 2:
        m, n = s.arc(o, a, b, p), s.arc(o, b, c, q)
        s.ask_arc(c, a, r)
        s.steps, s.program = [*add(p, q), minus(360, p + q)], f"Sum {m} {n} V0 C360 Get V0"
    else:
        var, x, terms = summed(s, [partial(s.arc, o, *end) for end in ends], [p, q, r], 360)
        k = s.rng.randrange(3)
        finish(s, var, x, terms[k], lambda v: s.ask_arc(*ends[k], v))


@template(CHORD, 2, 3)
def equal_arcs(s: Scene) -> None:
    """Equal chords cut equal arcs."""
    g = s.rng.randint(70, 140)
    rest = (360 - 2 * g) * s.rng.uniform(0.4, 0.6)
    o, (a, b, c, d) = ring(s, 1, 0, g, g + rest, 2 * g + rest)
    s.line(a, b)
    s.line(c, d)
    s.equal((a, b), (c, d))
    var, x, term = equated(s, lambda t: s.arc(o, a, b, t), lambda t: s.arc(o, c, d, t), g)
    if s.level == 2:
        s.ask_unknown(var)
    else:
        finish(s, var, x, term, lambda v: s.ask_arc(a, b, v))


@template(CHORD, 1, 2)
def isosceles_arcs(s: Scene) -> None:
    """Two equal chords from one point: the third arc is what remains of 360."""
    g = s.rng.randint(95, 145)
    rest = 360 - 2 * g
    require(g != 120)
    o, (a, b, c) = ring(s, 1, 0, g, 2 * g)
    s.line(a, b)
    s.line(b, c)
    s.equal((a, b), (b, c))
    if s.level == 1:
        n = s.arc(o, a, b, g)
        s.ask_arc(a, c, rest)
        s.steps, s.program = [times(2, g), minus(360, 2 * g)], f"Sum {n} {n} V0 C360 Get V0"
    else:
        n = s.arc(o, a, c, rest)
        s.ask_arc(a, b, g)
        s.steps, s.program = [minus(360, rest), over(2 * g, 2)], f"Sum V0 V0 {n} C360 Get V0"


@template(CHORD, 1, 2, 3)
def chord_distance(s: Scene) -> None:
    """The perpendicular from the centre halves a chord."""
    half, d, r = triple(s, 20 * s.level)
    require(0.35 * r < d < 0.85 * r)
    side = degrees(acos(d / r))
    o, (a, b) = ring(s, r, 90 - side, 90 + side)
    (m,) = s.names(1)
    s.put(m, 0, d)
    s.line(a, m, b)
    s.line(o, m)
    s.perp((a, b), (o, m), m)
    if s.level == 1:
        n = s.side(a, m, half)
        s.ask_length(a, b, 2 * half)
        s.steps, s.program = [times(2, half)], f"Multiple {n} C2 V0 Get V0"
        return
    s.line(a, o)
    if s.level == 2:
        k, j = s.side(o, m, d), s.side(a, m, half)
        got = s.seek_length(a, o, r)
        s.steps, s.program = legs_to_hypotenuse(half, d), f"Gougu {k} {j} {got} Get {got}"
    else:
        k, j = s.side(o, m, d), s.side(a, o, r)
        s.ask_length(a, b, 2 * half)
        s.steps = [*hypotenuse_to_leg(r, d), times(2, half)]
        s.program = f"Gougu {k} V0 {j} Multiple V0 C2 V1 Get V1"


@template(INSCRIBED, 1, 2)
def inscribed_arc(s: Scene) -> None:
    half = s.rng.randint(26, 75)
    o, (a, b, c) = ring(s, 1, -half, half, s.rng.uniform(max(half + 50, 130), min(310 - half, 230)))
    s.line(a, c)
    s.line(b, c)
    if s.level == 1:
        n = s.angle(a, c, b, half)
        s.ask_arc(a, b, 2 * half)
        s.steps, s.program = [times(2, half)], f"Multiple {n} C2 V0 Get V0"
    else:
        n = s.arc(o, a, b, 2 * half)
        got = s.seek_angle(a, c, b, half)
        s.steps, s.program = [over(2 * half, 2)], f"Multiple {got} C2 {n} Get {got}"


@template(INSCRIBED, 1, 2, 3)
def inscribed_central(s: Scene) -> None:
    half = s.rng.randint(32, 72)
    require(half not in (45, 60))
    o, (a, b, c) = ring(s, 1, -half, half, s.rng.uniform(155, 205))
    for end in (o, c) if s.level < 3 else (c,):
        s.line(a, end)
        s.line(b, end)
    if s.level == 1:
        n = s.angle(a, c, b, half)
        got = s.seek_angle(a, o, b, 2 * half)
        s.steps, s.program = [times(2, half)], f"Multiple {n} C2 {got} Get {got}"
    elif s.level == 2:
        n = s.angle(a, o, b, 2 * half)
        got = s.seek_angle(a, c, b, half)
        s.steps, s.program = [over(2 * half, 2)], f"Multiple {got} C2 {n} Get {got}"
    else:
        var, x, term = equated(
            s, lambda t: s.arc(o, a, b, t), lambda t: s.angle(a, c, b, t), 2 * half, factor=2
        )
        finish(s, var, x, term, lambda v: s.ask_arc(a, b, v))


@template(INSCRIBED, 1, 2)
def semicircle(s: Scene) -> None:
    g = s.rng.randint(30, 60)
    require(g != 45)
    o, (a, b, c) = ring(s, 1, 0, 180, 2 * g)
    s.line(a, o, b)
    s.line(a, c)
    s.line(b, c)
    if s.level == 1:
        n = s.angle(o, b, c, g)
        got = s.seek_angle(o, a, c, 90 - g)
        s.steps, s.program = [minus(90, g)], f"Sum {n} {got} C90 Get {got}"
    else:
        n = s.arc(o, b, c, 180 - 2 * g)
        got = s.seek_angle(o, b, c, g)
        s.steps, s.program = (
            [minus(180, 180 - 2 * g), over(2 * g, 2)],
            f"Sum {n} V0 C180 Multiple {got} C2 V0 Get {got}",
        )


@template(INSCRIBED, 2, 3)
def cyclic_quadrangle(s: Scene) -> None:
    arcs = [s.rng.randint(50, 130) for _ in range(3)]
    arcs.append(360 - sum(arcs))
    require(50 <= arcs[3] <= 130)
    p, odd = divmod(arcs[1] + arcs[2], 2)  # the angle at A sees the arc BCD
    require(odd == 0 and p != 90)
    _o, (a, b, c, d) = ring(s, 1, 0, arcs[0], arcs[0] + arcs[1], arcs[0] + arcs[1] + arcs[2])
    s.polygon(a, b, c, d)
    if s.level == 2:
        n = s.angle(d, a, b, p)
        got = s.seek_angle(b, c, d, 180 - p)
        s.steps, s.program = [minus(180, p)], f"Sum {n} {got} C180 Get {got}"
    else:
        puts = [lambda t: s.angle(d, a, b, t), lambda t: s.angle(b, c, d, t)]
        var, x, terms = summed(s, puts, [p, 180 - p], 180)
        finish(s, var, x, terms[0], lambda v: s.ask_angle(d, a, b, v, number=False))


@template(INSCRIBED, 2, 3)
def inscribed_triangle(s: Scene) -> None:
    """Two arcs are known; an angle sees the third."""
    p, q = 2 * s.rng.randint(40, 70), 2 * s.rng.randint(40, 70)
    r = 360 - p - q
    require(80 <= r <= 150 and len({p, q, r}) == 3)
    o, (a, b, c) = ring(s, 1, 0, p, p + q)
    s.polygon(a, b, c)
    m, n = s.arc(o, a, b, p), s.arc(o, b, c, q)
    if s.level == 2:
        s.ask_angle(a, c, b, p // 2)
        s.steps, s.program = [over(p, 2)], f"Multiple V0 C2 {m} Get V0"
    else:
        s.ask_angle(a, b, c, r // 2)
        s.steps = [*add(p, q), minus(360, p + q), over(r, 2)]
        s.program = f"Sum {m} {n} V0 C360 Multiple V1 C2 V0 Get V1"
