"""Midsegments, similarity, angle bisectors, geometric means, trigonometry of 30, 45 and 60."""

# ruff: noqa: D103  A template's name, type and figure say what it is.

from __future__ import annotations

from fractions import Fraction
from math import cos, gcd, radians, sqrt

from modgap.datasets.synthetic.numbers import (
    Exact,
    add,
    constant,
    linear,
    minus,
    over,
    solve,
    times,
)
from modgap.datasets.synthetic.registry import equated, finish, require, template, unknown_for
from modgap.datasets.synthetic.scene import Scene

MIDSEGMENT = "Midsegment of Triangle "
PARALLEL = "Similarity in Parallel Line"
SIMILAR = "Polygon Similarity"
BISECTOR = "Angle Bisector of Triangle"
MEAN = "Geometric Mean"
TRIG = "Trigonometry"


def sides(s: Scene, p: float, q: float, r: float) -> tuple[str, str, str]:
    """Place a triangle by AB = p, BC = q, AC = r; no lines yet."""
    require(max(p, q, r) < 0.88 * (p + q + r - max(p, q, r)) and min(p, q, r) > 0.42 * max(p, q, r))
    a, b, c = s.names(3)
    x = (p * p + r * r - q * q) / (2 * p)
    s.put(a, 0)
    s.put(b, p)
    s.put(c, x, sqrt(r * r - x * x))
    return a, b, c


@template(MIDSEGMENT, 1, 2, 3)
def midsegment(s: Scene) -> None:
    half = s.rng.randint(4, 18 * s.level)
    base = 2 * half
    a, b, c = sides(s, base, s.rng.uniform(0.8, 1.3) * base, s.rng.uniform(0.8, 1.3) * base)
    d, e = s.names(2)
    s.between(d, a, c, 0.5)
    s.between(e, b, c, 0.5)
    for names in ((a, b), (a, d, c), (b, e, c), (d, e)):
        s.line(*names)
    s.equal((a, d), (c, d))
    s.equal((b, e), (c, e))
    if s.level == 1 or (s.level == 2 and s.rng.random() < 0.3):
        if s.rng.random() < 0.5:
            n = s.side(a, b, base)
            got = s.seek_length(d, e, half)
            s.steps, s.program = [over(base, 2)], f"Multiple {got} C2 {n} Get {got}"
        else:
            n = s.side(d, e, half)
            got = s.seek_length(a, b, base)
            s.steps, s.program = [times(2, half)], f"Multiple {n} C2 {got} Get {got}"
    else:
        var, x, term = equated(
            s, lambda t: s.side(a, b, t), lambda t: s.side(d, e, t), base, factor=2
        )
        if s.level == 2:
            s.ask_unknown(var)
        else:
            finish(s, var, x, term, lambda v: s.ask_length(a, b, v))


@template(MIDSEGMENT, 1, 2)
def midsegment_angle(s: Scene) -> None:
    p, q = s.rng.randint(40, 80), s.rng.randint(40, 80)
    r = 180 - p - q
    require(r >= 38 and len({p, q, r}) == 3)
    a, b, c, d, e = s.names(5)
    s.triangle(a, b, c, p, q)
    s.lines = [line for line in s.lines if set(line) == {a, b}]
    s.between(d, a, c, 0.5)
    s.between(e, b, c, 0.5)
    for names in ((a, d, c), (b, e, c), (d, e)):
        s.line(*names)
    s.equal((a, d), (c, d))
    s.equal((b, e), (c, e))
    n = s.angle(b, a, c, p)
    if s.level == 1:
        got = s.seek_angle(a, d, e, 180 - p)
        s.steps, s.program = [minus(180, p)], f"Sum {n} {got} C180 Get {got}"
    else:
        m = s.angle(a, c, b, r)
        got = s.seek_angle(c, e, d, q)
        s.steps, s.program = [*add(p, r), minus(180, p + r)], f"Sum {n} {m} {got} C180 Get {got}"


@template(PARALLEL, 1, 2, 3)
def side_splitter(s: Scene) -> None:
    """AD : DB = AE : EC for DE parallel to BC."""
    u, v = s.rng.randint(1, 7), s.rng.randint(1, 7)
    k, m = s.rng.randint(2, 6 + 3 * s.level), s.rng.randint(2, 6 + 3 * s.level)
    require(gcd(u, v) == 1 and u + v > 2 and max(u, v) <= 2.5 * min(u, v) and k != m)
    require(max(u, v) * max(k, m) <= 25 * s.level)
    ad, db, ae, ec = u * k, v * k, u * m, v * m
    b_c = s.rng.uniform(0.75, 1.2) * (ad + db)
    b, a, c = sides(s, ad + db, ae + ec, b_c)
    d, e = s.names(2)
    s.between(d, a, b, u / (u + v))
    s.between(e, a, c, u / (u + v))
    for names in ((a, d, b), (a, e, c), (b, c), (d, e)):
        s.line(*names)
    s.parallel((d, e), (b, c))
    if s.level < 3:
        x, y, z = s.side(a, d, ad), s.side(b, d, db), s.side(a, e, ae)
        if s.level == 1:
            got = s.seek_length(c, e, ec)
            s.steps, s.program = (
                [times(db, ae), over(db * ae, ad)],
                f"Proportion {x} {y} {z} {got} Get {got}",
            )
        else:
            s.ask_length(a, c, ae + ec)
            s.steps = [times(db, ae), over(db * ae, ad), *add(ae, ec)]
            s.program = f"Proportion {x} {y} {z} V0 Sum {z} V0 V1 Get V1"
    else:
        s.side(a, d, ad)
        s.side(b, d, db)
        s.side(a, e, ae)
        var, x = unknown_for(s, (ec,))
        term = linear(s.rng, ec, x, var)
        s.side(c, e, term)
        s.steps = [times(db, ae), over(db * ae, ad), *solve(term, constant(ec))]
        s.ask_unknown(var)


@template(PARALLEL, 2, 3)
def parallel_base(s: Scene) -> None:
    """DE : BC = AD : AB."""
    u, w = s.rng.randint(2, 7), s.rng.randint(3, 11)
    k, m = s.rng.randint(2, 4 + 3 * s.level), s.rng.randint(2, 4 + 3 * s.level)
    require(gcd(u, w) == 1 and 0.35 * w <= u <= 0.72 * w and k != m)
    ad, ab, de, bc = u * k, w * k, u * m, w * m
    b, a, c = sides(s, ab, s.rng.uniform(0.85, 1.2) * ab, bc)
    d, e = s.names(2)
    s.between(d, a, b, u / w)
    s.between(e, a, c, u / w)
    for names in ((a, d, b), (a, e, c), (b, c), (d, e)):
        s.line(*names)
    s.parallel((d, e), (b, c))
    x, z = s.side(a, d, ad), s.side(d, e, de)
    if s.level == 2:
        y = s.side(a, b, ab, span=True)
        got = s.seek_length(b, c, bc)
        s.steps, s.program = (
            [times(ab, de), over(ab * de, ad)],
            f"Proportion {x} {y} {z} {got} Get {got}",
        )
    else:
        y = s.side(b, d, ab - ad)
        got = s.seek_length(b, c, bc)
        s.steps = [*add(ad, ab - ad), times(ab, de), over(ab * de, ad)]
        s.program = f"Sum {x} {y} V9 Proportion {x} V9 {z} {got} Get {got}"


def _width(points: list[complex]) -> float:
    """The longer side of the box about some points."""
    xs, ys = [z.real for z in points], [z.imag for z in points]
    return max(max(xs) - min(xs), max(ys) - min(ys))


@template(SIMILAR, 1, 2, 3)
def similar_triangles(s: Scene) -> None:
    k = s.rng.choice((Fraction(2), Fraction(3, 2), Fraction(5, 2), Fraction(4, 3), Fraction(5, 3)))
    n = k.denominator
    p, q, r = (n * s.rng.randint(3, 8 + 8 * s.level // n) for _ in range(3))
    require(len({p, q, r}) == 3)
    a, b, c = sides(s, p, q, r)
    d, e, f = s.names(3)
    spin = s.rng.choice((1, 1, 1j, -1))
    turned = {large: float(k) * spin * s.points[small] for large, small in ((d, a), (e, b), (f, c))}
    # Side by side or one above the other, whichever makes the squarer picture.
    old, new, room = [s.points[name] for name in (a, b, c)], turned.values(), 0.4 * p * float(k)
    shifts = []
    for axis in (1, 1j):  # along the axis past the first, and across it middle to middle
        ahead, across = [[(z / turn).real for z in old] for turn in (axis, axis * 1j)]
        ahead_new, across_new = [[(z / turn).real for z in new] for turn in (axis, axis * 1j)]
        level = (max(across) + min(across) - max(across_new) - min(across_new)) / 2
        shifts.append(axis * (max(ahead) - min(ahead_new) + room + 1j * level))
    shift = min(shifts, key=lambda shift: _width([*old, *(z + shift for z in new)]))
    for name, z in turned.items():
        s.put(name, z + shift)
    s.polygon(a, b, c)
    s.polygon(d, e, f)
    before = rf"\triangle {a}{b}{c} \sim \triangle {d}{e}{f}. "
    big = [int(k * side) for side in (p, q, r)]
    order = [((a, b), (d, e), p, big[0]), ((b, c), (e, f), q, big[1]), ((a, c), (d, f), r, big[2])]
    s.rng.shuffle(order)
    (one, one_big, v, v_big), (two, two_big, w, w_big), (three, _, t, _) = order
    j, m = s.side(*one, v), s.side(*one_big, v_big)
    if s.level == 1:
        o = s.side(*two, w)
        got = s.seek_length(*two_big, w_big, before)
        s.steps, s.program = (
            [times(w, v_big), over(w * v_big, v)],
            f"Proportion {j} {m} {o} {got} Get {got}",
        )
    elif s.level == 2:
        o = s.side(*two_big, w_big)
        got = s.seek_length(*two, w, before)
        s.steps, s.program = (
            [times(w_big, v), over(w_big * v, v_big)],
            f"Proportion {m} {j} {o} {got} Get {got}",
        )
    elif s.rng.random() < 0.5:
        s.side(*two, w)
        var, x = unknown_for(s, (w_big,))
        term = linear(s.rng, w_big, x, var)
        s.side(*two_big, term)
        s.steps = [times(w, v_big), over(w * v_big, v), *solve(term, constant(w_big))]
        s.ask_unknown(var, before)
    else:
        s.side(*two, w)
        s.side(*three, t)
        total = p + q + r
        s.ask(before + rf"Find the perimeter of \triangle {d}{e}{f}.", answer=sum(big))
        s.steps = [*add(v, w, t), times(total, v_big), over(total * v_big, v)]


@template(BISECTOR, 1, 2, 3)
def bisector(s: Scene) -> None:
    """AD bisects the angle at A: BD : DC = AB : AC."""
    u, v = s.rng.randint(2, 9), s.rng.randint(2, 9)
    k, m = s.rng.randint(2, 4 + 2 * s.level), s.rng.randint(2, 4 + 2 * s.level)
    require(gcd(u, v) == 1 and u + v > 2 and max(u, v) <= 2 * min(u, v) and k != m)
    ab, ac, bd, dc = u * m, v * m, u * k, v * k
    b, c, a = sides(s, bd + dc, ac, ab)
    (d,) = s.names(1)
    s.between(d, b, c, u / (u + v))
    for names in ((a, b), (a, c), (a, d), (b, d, c)):
        s.line(*names)
    s.same_angle((b, a, d), (c, a, d))
    j, n, o = s.side(a, b, ab), s.side(a, c, ac), s.side(b, d, bd)
    if s.level == 1:
        got = s.seek_length(c, d, dc)
        s.steps, s.program = (
            [times(ac, bd), over(ac * bd, ab)],
            f"Proportion {j} {o} {n} {got} Get {got}",
        )
    elif s.level == 2:
        s.ask_length(b, c, bd + dc)
        s.steps = [times(ac, bd), over(ac * bd, ab), *add(bd, dc)]
        s.program = f"Proportion {j} {o} {n} V0 Sum {o} V0 V1 Get V1"
    else:
        var, x = unknown_for(s, (dc,))
        term = linear(s.rng, dc, x, var)
        s.side(c, d, term)
        s.steps = [times(ac, bd), over(ac * bd, ab), *solve(term, constant(dc))]
        s.ask_unknown(var)


@template(MEAN, 2, 3)
def altitude_mean(s: Scene) -> None:
    """The altitude to the hypotenuse: CD^2 = AD * DB, and AC^2 = AD * AB."""
    p, q = s.rng.randint(2, 8 * s.level), s.rng.randint(2, 8 * s.level)
    require(p != q and p <= 3.2 * q and q <= 3.2 * p)
    a, b, c, d = s.names(4)
    s.put(d, 0)
    s.put(a, -p)
    s.put(b, q)
    s.put(c, 0, sqrt(p * q))
    s.line(a, d, b)
    for end in (a, b, d):
        s.line(c, end)
    s.perp((a, c), (b, c), c)
    s.perp((a, b), (c, d), d)
    if s.rng.random() < 0.6:
        m, n = s.side(a, d, p), s.side(b, d, q)
        got = s.seek_length(c, d, Exact.sqrt(p * q))
        s.steps = [times(p, q), rf"\sqrt{{{p * q}}} = {Exact.sqrt(p * q)}"]
        s.program = f"Geo_Mean {m} {got} {n} Get {got}"
    else:
        m, n = s.side(a, d, p), s.side(b, d, q)
        got = s.seek_length(a, c, Exact.sqrt(p * (p + q)))
        s.steps = [
            *add(p, q),
            times(p, p + q),
            rf"\sqrt{{{p * (p + q)}}} = {Exact.sqrt(p * (p + q))}",
        ]
        s.program = f"Sum {m} {n} V9 Geo_Mean {m} {got} V9 Get {got}"


def _right_at_c(s: Scene, degrees: int, hyp: float) -> tuple[str, str, str]:
    a, b, c = s.names(3)
    s.put(c, 0)
    s.put(a, hyp * cos(radians(degrees)))
    s.put(b, 0, hyp * cos(radians(90 - degrees)))
    s.polygon(a, b, c)
    s.perp((a, c), (b, c), c)
    return a, b, c


@template(TRIG, 1, 2, 3)
def special_triangle(s: Scene) -> None:
    """A right triangle of 30, 45 or 60 degrees at A; one side is given and one is sought."""
    g = s.rng.choice((30, 45, 60))
    n = s.rng.randint(2, 15 * s.level)
    half = Fraction(1, 2)
    # The sides opposite A, next to A and across, in units of the hypotenuse.
    shares = {30: ((half, 1), (half, 3)), 45: ((half, 2), (half, 2)), 60: ((half, 3), (half, 1))}[g]
    parts = {"opposite": shares[0], "adjacent": shares[1], "hypotenuse": (Fraction(1), 1)}
    given, sought = s.rng.sample(sorted(parts), 2)
    require(not (g == 45 and "hypotenuse" not in (given, sought)))
    if s.level == 1:  # only the rational ratios and the simplest roots
        require(given == "hypotenuse" or parts[given][1] == 1)
        require(given != "hypotenuse" or n % 2 == 0)
    root = 1
    if s.level == 3 and s.rng.random() < 0.5:  # the given side is itself a root: 6\sqrt{3}
        root = parts[given][1]
        require(root > 1)
    factor, under = parts[sought][0] / parts[given][0], Fraction(parts[sought][1], parts[given][1])
    # sqrt(a/b) = sqrt(ab)/b
    whole = under.numerator * under.denominator * root
    simple = Exact.sqrt(whole)
    value = Exact(n * factor * simple.factor / under.denominator, simple.root)
    require(value.factor.denominator == 1)
    hyp = float(n) * sqrt(root) / float(parts[given][0]) / sqrt(parts[given][1])
    a, b, c = _right_at_c(s, g, hyp)
    ends = {"opposite": (b, c), "adjacent": (a, c), "hypotenuse": (a, b)}
    m = s.side(*ends[given], Exact(Fraction(n), root))
    o = s.angle(b, a, c, g)
    got = s.seek_length(*ends[sought], value)
    ratio = Exact(
        factor * Exact.sqrt(under.numerator * under.denominator).factor / under.denominator,
        Exact.sqrt(under.numerator * under.denominator).root,
    )
    s.steps = [_ratio_step(Exact(Fraction(n), root), ratio, value)]
    function = {
        frozenset(("opposite", "hypotenuse")): "Gsin",
        frozenset(("adjacent", "hypotenuse")): "Gcos",
    }
    name = function.get(frozenset((given, sought)), "Gtan")
    first, second = {
        "Gsin": ("opposite", "hypotenuse"),
        "Gcos": ("adjacent", "hypotenuse"),
        "Gtan": ("opposite", "adjacent"),
    }[name]
    s.program = (
        f"{name} {m if given == first else got} {m if given == second else got} {o} Get {got}"
    )


def _ratio_step(given: Exact, ratio: Exact, value: Exact) -> str:
    r"""`14/2 = 7`, `7*\sqrt{3} = 7\sqrt{3}`, `12\sqrt{3}/3 = 4\sqrt{3}`."""
    top = Exact(Fraction(ratio.factor.numerator), ratio.root)
    if float(top) == 1:
        return f"{given}/{ratio.factor.denominator} = {value}"
    tail = f"/{ratio.factor.denominator}" if ratio.factor.denominator > 1 else ""
    return f"{given}*{top}{tail} = {value}"
