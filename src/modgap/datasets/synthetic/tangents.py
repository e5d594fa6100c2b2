"""Tangents and secants of a circle: their angles and segments."""

# ruff: noqa: D103  A template's name, type and figure say what it is.

from __future__ import annotations

import cmath
from math import acos, cos, degrees, gcd, isqrt, radians, sin, sqrt

from modgap.datasets.synthetic.arcs import ring
from modgap.datasets.synthetic.numbers import (
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
from modgap.datasets.synthetic.registry import equated, require, template, unknown_for
from modgap.datasets.synthetic.scene import Scene, segment
from modgap.datasets.synthetic.triangles import triple

TANGENT = "Tangent"
SECANT_ANGLE = "Secant Angle"
SECANT = "Secant Segment"


def _touching(s: Scene, r: float, far: float) -> tuple[str, str, str, str]:
    """A circle and the tangents from P at distance `far` of its centre.

    Gives O, P and the points of contact A, B.
    """
    side = degrees(acos(r / far))
    o, (a, b) = ring(s, r, side, -side)
    (p,) = s.names(1)
    s.put(p, far)
    return o, p, a, b


def _tangents(s: Scene, o: str, *ends: tuple[str, str]) -> str:
    r"""`PA and PB are tangent to \odot O. `."""
    names = [segment(*pair) for pair in ends]
    s.rng.shuffle(names)
    verb = "are" if len(names) > 1 else "is"
    return rf"{' and '.join(names)} {verb} tangent to \odot {o}. "


@template(TANGENT, 2, 3)
def two_tangents(s: Scene) -> None:
    t = s.rng.randint(8, 20 * s.level)
    r = t * s.rng.uniform(0.5, 0.9)
    o, p, a, b = _touching(s, r, sqrt(r * r + t * t))
    s.line(p, a)
    s.line(p, b)
    before = _tangents(s, o, (p, a), (p, b))
    var, x, term = equated(s, lambda k: s.side(p, a, k), lambda k: s.side(p, b, k), t)
    if s.level == 2:
        s.ask_unknown(var, before)
    else:
        s.steps += evaluate(term, x)
        s.ask_length(p, s.rng.choice((a, b)), t, before)


@template(TANGENT, 1, 2, 3)
def tangent_radius(s: Scene) -> None:
    r, t, far = triple(s, 25 * s.level)
    require(0.4 * t < r < 1.6 * t)
    o, p, a, b = _touching(s, r, far)
    del s.points[b]
    s.circles[o] = (a,)
    s.line(p, a)
    s.line(o, a)
    s.line(o, p)
    s.perp((p, a), (o, a), a)
    if s.level == 1:
        m, n = s.side(o, a, r), s.side(p, a, t)
        got = s.seek_length(o, p, far)
        s.steps, s.program = legs_to_hypotenuse(r, t), f"Gougu {m} {n} {got} Get {got}"
    elif s.level == 2:
        m, n = s.side(o, a, r), s.side(o, p, far)
        got = s.seek_length(p, a, t)
        s.steps, s.program = hypotenuse_to_leg(far, r), f"Gougu {m} {got} {n} Get {got}"
    else:
        m, n = s.side(o, p, far), s.side(p, a, t)
        s.ask(
            rf"Find the diameter of \odot {o}.",
            rf"What is the diameter of \odot {o}?",
            answer=2 * r,
        )
        s.steps = [*hypotenuse_to_leg(far, t), times(2, r)]
        s.program = f"Gougu {n} V0 {m} Multiple V0 C2 V1 Get V1"


@template(TANGENT, 1, 2)
def tangent_angle(s: Scene) -> None:
    g = s.rng.randint(32, 58)
    require(g != 45)
    if s.level == 1:
        o, p, a, b = _touching(s, sin(radians(g)), 1)
        del s.points[b]
        s.circles[o] = (a,)
        s.line(p, a)
        s.line(o, a)
        s.line(o, p)
        n = s.angle(o, p, a, g)
        got = s.seek_angle(a, o, p, 90 - g, _tangents(s, o, (p, a)))
        s.steps, s.program = [minus(90, g)], f"Sum {n} {got} C90 Get {got}"
    else:
        o, p, a, b = _touching(s, sin(radians(g)), 1)
        for end in (a, b):
            s.line(o, end)
            s.line(p, end)
        s.perp((p, a), (o, a), a)
        s.perp((p, b), (o, b), b)
        whole = 2 * g
        if s.rng.random() < 0.5:
            n = s.angle(a, p, b, whole)
            got = s.seek_angle(a, o, b, 180 - whole)
            s.steps = [minus(180, whole)]
        else:
            n = s.angle(a, o, b, 180 - whole)
            got = s.seek_angle(a, p, b, whole)
            s.steps = [minus(180, 180 - whole)]
        s.program = f"Sum {n} {got} C180 Get {got}"


@template(TANGENT, 2, 3)
def incircle(s: Scene) -> None:
    """A triangle about a circle: tangents from one corner are equal."""
    u, v, w = (s.rng.randint(4, 10 * s.level) for _ in range(3))
    require(len({u, v, w}) == 3 and max(u, v, w) <= 2.6 * min(u, v, w))
    ab, bc, ca = u + v, v + w, w + u
    r = sqrt(u * v * w / (u + v + w))
    o = s.center()
    a, b, c, d, e, f = s.names(6)
    x = (ab * ab + ca * ca - bc * bc) / (2 * ab)
    s.put(a, 0)
    s.put(b, ab)
    s.put(c, x, sqrt(ca * ca - x * x))
    s.between(d, a, b, u / ab)
    s.between(e, b, c, v / bc)
    s.between(f, c, a, w / ca)
    s.put(o, u, r)
    s.line(a, d, b)
    s.line(b, e, c)
    s.line(c, f, a)
    s.circle(o, d, e, f)
    before = rf"\odot {o} is inscribed in \triangle {a}{b}{c}. "
    if s.level == 2:
        k, j, m = s.side(a, d, u), s.side(b, e, v), s.side(c, f, w)
        s.ask(before + rf"Find the perimeter of \triangle {a}{b}{c}.", answer=2 * (u + v + w))
        s.steps, s.program = (
            [*add(u, v, w), times(2, u + v + w)],
            f"Sum {k} {j} {m} V0 Multiple V0 C2 V1 Get V1",
        )
    else:
        k, j = s.side(a, d, u), s.side(b, d, v)
        m = s.side(c, f, w)
        s.ask_length(b, c, v + w, before)
        s.steps, s.program = add(v, w), f"Sum {j} {m} V0 Get V0"
        _ = k


@template(SECANT_ANGLE, 1, 2, 3)
def crossing_chords(s: Scene) -> None:
    """Two chords cross: the angle is half the sum of its arcs."""
    p, q = s.rng.randint(40, 130), s.rng.randint(40, 130)
    rest = 360 - p - q
    first = round(rest * s.rng.uniform(0.42, 0.58))
    require((p + q) % 2 == 0 and p != q and 80 < p + q < 240 and first >= 50)
    g = (p + q) // 2
    o, (a, b, c, d) = ring(s, 1, 0, p, p + first, p + first + q)
    (e,) = s.names(1)
    u, w = s.points[c] - s.points[a], s.points[d] - s.points[b]
    t = ((s.points[b] - s.points[a]) * w.conjugate()).imag / (u * w.conjugate()).imag
    s.between(e, a, c, t)
    require(abs(s.points[e]) > 0.2)
    s.line(a, e, c)
    s.line(b, e, d)
    if s.level == 1:
        m, n = s.arc(o, a, b, p), s.arc(o, c, d, q)
        got = s.seek_angle(a, e, b, g)
        s.steps, s.program = [*add(p, q), over(p + q, 2)], f"Chord2_Ang {got} {m} {n} Get {got}"
    elif s.level == 2:
        m, n = s.arc(o, a, b, p), s.angle(a, e, b, g)
        s.ask_arc(c, d, q)
        s.steps, s.program = [times(2, g), minus(2 * g, p)], f"Chord2_Ang {n} {m} V0 Get V0"
    else:
        var, x = unknown_for(s, (p, q))
        term, other = linear(s.rng, p, x, var), linear(s.rng, q, x, var)
        s.arc(o, a, b, term)
        s.arc(o, c, d, other)
        s.angle(a, e, b, g)
        s.steps = [
            times(2, g),
            f"{term} + {other} = {term + other}",
            *solve(term + other, constant(2 * g)),
        ]
        s.ask_unknown(var)


@template(SECANT_ANGLE, 2, 3)
def outer_secants(s: Scene) -> None:
    """Two secants from a point outside: the angle is half the difference of its arcs."""
    big, small = s.rng.randint(95, 160), s.rng.randint(30, 70)
    require((big - small) % 2 == 0 and big - small >= 56)
    g = (big - small) // 2
    rest = (360 - big - small) / 2
    lean = s.rng.uniform(-0.08, 0.08) * rest
    o, (a, b, c, d) = ring(s, 1, 0, big, big + rest + lean, big + rest + lean + small)
    (p,) = s.names(1)
    u, w = s.points[d] - s.points[a], s.points[c] - s.points[b]
    t = ((s.points[b] - s.points[a]) * w.conjugate()).imag / (u * w.conjugate()).imag
    s.between(p, a, d, t)
    require(t > 1 and abs(s.points[p]) < 3)
    s.line(a, d, p)
    s.line(b, c, p)
    if s.level == 2:
        m, n = s.arc(o, a, b, big), s.arc(o, c, d, small, inside=True)
        got = s.seek_angle(d, p, c, g)
        s.steps, s.program = (
            [minus(big, small), over(big - small, 2)],
            f"TanSec_Ang {got} {n} {m} Get {got}",
        )
    else:
        m, n = s.arc(o, a, b, big), s.angle(d, p, c, g)
        s.ask_arc(c, d, small)
        s.steps, s.program = [times(2, g), minus(big, 2 * g)], f"TanSec_Ang {n} V0 {m} Get V0"


@template(SECANT, 1, 2, 3)
def chord_products(s: Scene) -> None:
    """AE * EC = BE * ED."""
    product = s.rng.randint(12, 80 + 60 * s.level)
    pairs = [
        (k, product // k)
        for k in range(2, isqrt(product) + 1)
        if product % k == 0 and product <= 3.2 * k * k
    ]
    require(len(pairs) >= 2)
    (a1, a2), (b1, b2) = s.rng.sample(pairs, 2)
    if s.rng.random() < 0.5:
        b1, b2 = b2, b1
    # Chords of these parts at an angle; the circle goes through their four ends.
    g = radians(s.rng.uniform(65, 115))
    a, b, c, d, e = s.names(5)
    s.put(e, 0)
    s.put(a, -a1)
    s.put(c, a2)
    s.put(b, -b1 * cmath.rect(1, g))
    s.put(d, b2 * cmath.rect(1, g))
    o = s.center()
    x = (a2 - a1) / 2
    y = ((b2 - b1) / 2 - x * cos(g)) / sin(g)
    s.put(o, x, y)
    s.line(a, e, c)
    s.line(b, e, d)
    s.circle(o, a, b, c, d)
    k, j, m = s.side(a, e, a1), s.side(c, e, a2), s.side(b, e, b1)
    if s.level < 3:
        got = s.seek_length(d, e, b2)
        s.steps, s.program = (
            [times(a1, a2), over(product, b1)],
            f"Proportion {k} {m} {got} {j} Get {got}",
        )
    else:
        var, x_ = unknown_for(s, (b2,))
        term = linear(s.rng, b2, x_, var)
        s.side(d, e, term)
        s.steps = [times(a1, a2), over(product, b1), *solve(term, constant(b2))]
        s.ask_unknown(var)


@template(SECANT, 2, 3)
def tangent_secant(s: Scene) -> None:
    """PA * PA = PB * PC for a tangent PA."""
    near, k = s.rng.randint(2, 24), 2
    if s.rng.random() < 0.5:
        base, u, v = s.rng.randint(1, 7), s.rng.randint(2, 7), s.rng.randint(3, 11)
        require(u < v and gcd(u, v) == 1)
        near, far, t = base * u * u, base * v * v, base * u * v
    else:
        far = near * k * k
        t = near * k
    require(1.7 * near <= far <= 6.5 * near and far <= 150)
    half = (far - near) / 2
    r = half * s.rng.uniform(1.1, 1.5)
    o = s.center()
    p, a, b, c = s.names(4)
    s.put(o, 0)
    drop = sqrt(r * r - half * half)
    s.put(b, half, drop)
    s.put(c, -half, drop)
    s.put(p, half + near, drop)
    reach = abs(s.points[p])
    below = cmath.phase(s.points[p]) - acos(r / reach)
    s.put(a, cmath.rect(r, below))
    s.line(p, a)
    s.line(p, b, c)
    s.circle(o, a, b, c)
    before = _tangents(s, o, (p, a))
    if s.level == 2:
        m, n = s.side(p, b, near), s.side(p, c, far, span=True)
        got = s.seek_length(p, a, t, before)
        s.steps, s.program = (
            [times(near, far), rf"\sqrt{{{near * far}}} = {t}"],
            f"Geo_Mean {m} {got} {n} Get {got}",
        )
    elif s.rng.random() < 0.5:
        m, n = s.side(p, b, near), s.side(b, c, far - near)
        got = s.seek_length(p, a, t, before)
        s.steps = [*add(near, far - near), times(near, far), rf"\sqrt{{{near * far}}} = {t}"]
        s.program = f"Sum {m} {n} V0 Geo_Mean {m} {got} V0 Get {got}"
    else:
        m, n = s.side(p, b, near), s.side(p, a, t)
        s.ask_length(b, c, far - near, before)
        s.steps = [times(t, t), over(t * t, near), minus(far, near)]
        s.program = f"Geo_Mean {m} {n} V0 Sum {m} V1 V0 Get V1"
