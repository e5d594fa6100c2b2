"""Perimeters and areas of triangles, quadrangles and circles."""

# ruff: noqa: D103  A template's name, type and figure say what it is.

from __future__ import annotations

from fractions import Fraction
from math import acos, degrees

from modgap.datasets.synthetic.arcs import ring
from modgap.datasets.synthetic.numbers import (
    Exact,
    add,
    decimal,
    evaluate,
    hypotenuse_to_leg,
    legs_to_hypotenuse,
    minus,
    over,
    times,
)
from modgap.datasets.synthetic.quadrilaterals import parallelogram, square_corners, two_sides
from modgap.datasets.synthetic.registry import equated, require, template
from modgap.datasets.synthetic.scene import Scene, segment
from modgap.datasets.synthetic.triangles import right, triple

TRIANGLE = "Perimeter and Area of Triangle"
QUADRANGLE = "Perimeter and Area of Quadrangle"
CIRCLE = "Circumference and Area of Circle"


@template(TRIANGLE, 1, 2)
def triangle_area(s: Scene) -> None:
    base, height = s.rng.randint(4, 16 * s.level), s.rng.randint(4, 14 * s.level)
    require(0.45 * base <= height <= 1.8 * base and (s.level > 1 or base * height % 2 == 0))
    foot = s.rng.uniform(0.25, 0.75)
    a, b, c, d = s.names(4)
    s.put(a, 0)
    s.put(b, base)
    s.put(d, foot * base)
    s.put(c, foot * base, height)
    s.line(a, d, b)
    for end in (a, b, d):
        s.line(c, end)
    s.perp((a, b), (c, d), d)
    m, n = s.side(a, b, base, span=True), s.side(c, d, height)
    s.ask(
        "Find the area of the triangle.",
        rf"Find the area of \triangle {a}{b}{c}.",
        "What is the area of the triangle?",
        answer=Exact.of(Fraction(base * height, 2)),
    )
    s.steps = [times(base, height), over(base * height, 2)]
    s.program = f"Tria_BH_Area {m} {n} V0 Get V0"


@template(TRIANGLE, 1, 2)
def right_triangle_area(s: Scene) -> None:
    p, q = s.rng.randint(3, 14 * s.level), s.rng.randint(3, 14 * s.level)
    require(p <= 2 * q and q <= 2 * p and p * q % 2 == 0)
    a, b, c = right(s, p, q)
    m, n = s.side(a, c, p), s.side(b, c, q)
    s.ask(
        "Find the area of the triangle.",
        rf"Find the area of \triangle {a}{b}{c}.",
        "Find the area of the figure.",
        answer=p * q // 2,
    )
    s.steps, s.program = [times(p, q), over(p * q, 2)], f"Tria_BH_Area {m} {n} V0 Get V0"


@template(TRIANGLE, 3)
def right_triangle_from_hypotenuse(s: Scene) -> None:
    p, q, r = triple(s, 50)
    a, b, c = right(s, p, q)
    m, n = s.side(a, c, p), s.side(a, b, r)
    if s.rng.random() < 0.5:
        s.ask("Find the area of the triangle.", "Find the area of the figure.", answer=p * q // 2)
        s.steps = [*hypotenuse_to_leg(r, p), times(p, q), over(p * q, 2)]
        s.program = f"Gougu {m} V0 {n} Tria_BH_Area {m} V0 V1 Get V1"
    else:
        s.ask(
            "Find the perimeter of the triangle.",
            "Find the perimeter of the figure.",
            answer=p + q + r,
        )
        s.steps = [*hypotenuse_to_leg(r, p), *add(p, q, r)]
        s.program = f"Gougu {m} V0 {n} Sum {m} V0 {n} V1 Get V1"


@template(TRIANGLE, 1, 2)
def triangle_perimeter(s: Scene) -> None:
    p, q, r = (s.rng.randint(4, 20 * s.level) for _ in range(3))
    require(max(p, q, r) < 0.85 * (p + q + r - max(p, q, r)) and min(p, q, r) > 0.4 * max(p, q, r))
    a, b, c = s.names(3)
    x = (p * p + r * r - q * q) / (2 * p)
    s.put(a, 0)
    s.put(b, p)
    s.put(c, x, (r * r - x * x) ** 0.5)
    s.polygon(a, b, c)
    refs = [s.side(a, b, p), s.side(b, c, q), s.side(a, c, r)]
    s.ask(
        "Find the perimeter of the triangle.",
        rf"What is the perimeter of \triangle {a}{b}{c}?",
        "Find the perimeter of the figure.",
        answer=p + q + r,
    )
    s.steps, s.program = add(p, q, r), f"Sum {' '.join(refs)} V0 Get V0"


@template(TRIANGLE, 3)
def isosceles_perimeter(s: Scene) -> None:
    leg_, base = s.rng.randint(8, 40), s.rng.randint(8, 40)
    require(0.6 * leg_ < base < 1.6 * leg_ and base != leg_)
    a, b, c = s.names(3)
    s.put(b, 0)
    s.put(c, base)
    s.put(a, base / 2, (leg_**2 - base**2 / 4) ** 0.5)
    s.polygon(a, b, c)
    s.equal((a, b), (a, c))
    _, x, term = equated(s, lambda t: s.side(a, b, t), lambda t: s.side(a, c, t), leg_)
    s.side(b, c, base)
    s.steps += [*evaluate(term, x), times(2, leg_), *add(2 * leg_, base)]
    s.ask(
        "Find the perimeter of the triangle.",
        "What is the perimeter of the triangle?",
        answer=2 * leg_ + base,
    )


@template(QUADRANGLE, 1, 2)
def rectangle_measure(s: Scene) -> None:
    p, q = two_sides(s, 4, 12 * s.level)
    a, b, c, d = parallelogram(s, p, q, 90)
    square_corners(s, a, b, c, d)
    m, n = s.side(a, b, p), s.side(b, c, q)
    if s.rng.random() < 0.6:
        s.ask(
            "Find the area of the rectangle.",
            f"Find the area of rectangle {a}{b}{c}{d}.",
            answer=p * q,
        )
        s.steps, s.program = [times(p, q)], f"Rect_Area {m} {n} V0 Get V0"
    else:
        s.ask(
            "Find the perimeter of the rectangle.",
            f"What is the perimeter of rectangle {a}{b}{c}{d}?",
            answer=2 * (p + q),
        )
        s.steps, s.program = [*add(p, q), times(2, p + q)], f"PRK_Perim {m} {n} V0 Get V0"


@template(QUADRANGLE, 3)
def rectangle_area_by_diagonal(s: Scene) -> None:
    p, q, r = triple(s, 50)
    require(p < 2.2 * q and q < 2.2 * p)
    a, b, c, d = parallelogram(s, p, q, 90)
    s.line(a, c)
    square_corners(s, a, b, c, d)
    m, n = s.side(a, b, p), s.side(a, c, r)
    if s.rng.random() < 0.5:
        s.ask(
            "Find the area of the rectangle.",
            f"Find the area of rectangle {a}{b}{c}{d}.",
            answer=p * q,
        )
        s.steps = [*hypotenuse_to_leg(r, p), times(p, q)]
        s.program = f"Gougu {m} V0 {n} Rect_Area {m} V0 V1 Get V1"
    else:
        s.ask(
            "Find the perimeter of the rectangle.",
            f"Find the perimeter of rectangle {a}{b}{c}{d}.",
            answer=2 * (p + q),
        )
        s.steps = [*hypotenuse_to_leg(r, p), *add(p, q), times(2, p + q)]
        s.program = f"Gougu {m} V0 {n} PRK_Perim {m} V0 V1 Get V1"


@template(QUADRANGLE, 1, 2, 3)
def parallelogram_area(s: Scene) -> None:
    base, height = s.rng.randint(6, 14 * s.level), s.rng.randint(4, 10 * s.level)
    lean = s.rng.randint(2, 8 * s.level)
    if s.level == 3:
        lean, height, slant = triple(s, 40)
    require(0.4 * base < height < 1.2 * base and 0.25 * base <= lean <= 0.65 * base)
    a, b, c, d, e = s.names(5)
    s.put(a, 0)
    s.put(b, base)
    s.put(d, lean, height)
    s.put(c, base + lean, height)
    s.put(e, lean)
    s.line(a, e, b)
    for ends in ((b, c), (c, d), (d, a), (d, e)):
        s.line(*ends)
    s.parallel((a, b), (c, d))
    s.parallel((a, d), (b, c))
    s.perp((a, b), (d, e), e)
    n = s.side(c, d, base)
    s.ask(
        "Find the area of the parallelogram.",
        rf"Find the area of \parallelogram {a}{b}{c}{d}.",
        "What is the area of the parallelogram?",
        answer=base * height,
    )
    if s.level < 3:
        m = s.side(d, e, height)
        s.steps, s.program = [times(base, height)], f"Para_Area {m} {n} V0 Get V0"
    else:
        j, m = s.side(a, d, slant), s.side(a, e, lean)
        s.steps = [*hypotenuse_to_leg(slant, lean), times(base, height)]
        s.program = f"Gougu {m} V0 {j} Para_Area V0 {n} V1 Get V1"


@template(QUADRANGLE, 1, 2)
def parallelogram_perimeter(s: Scene) -> None:
    p, q = two_sides(s, 5, 18 * s.level)
    a, b, c, d = parallelogram(s, p, q, s.rng.uniform(55, 75))
    s.parallel((a, b), (c, d))
    s.parallel((a, d), (b, c))
    m, n = s.side(a, b, p), s.side(b, c, q)
    s.ask(
        "Find the perimeter of the parallelogram.",
        "Find the perimeter of the figure.",
        "What is the perimeter of the parallelogram?",
        answer=2 * (p + q),
    )
    s.steps, s.program = [*add(p, q), times(2, p + q)], f"PRK_Perim {m} {n} V0 Get V0"


@template(QUADRANGLE, 2, 3)
def trapezoid_area(s: Scene) -> None:
    p, q, h = s.rng.randint(6, 24), s.rng.randint(4, 20), s.rng.randint(4, 20)
    slant = 0
    if s.level == 3:
        u, h, slant = triple(s, 30)
        q = p + u
        p, q = q, p
    require(0.35 * p <= q <= 0.85 * p and 0.4 * p <= h <= 1.2 * p)
    a, b, c, d = s.names(4)
    for name, at in ((a, 0), (b, p), (c, q + 1j * h), (d, 1j * h)):
        s.put(name, at)
    s.polygon(a, b, c, d)
    s.perp((a, b), (a, d), a)
    s.perp((a, d), (c, d), d)
    j, m = s.side(a, b, p), s.side(c, d, q)
    s.ask(
        "Find the area of the trapezoid.",
        f"Find the area of trapezoid {a}{b}{c}{d}.",
        "What is the area of the trapezoid?",
        answer=Exact.of(Fraction((p + q) * h, 2)),
    )
    area = [*add(p, q), times(p + q, h), over((p + q) * h, 2)]
    if s.level == 2:
        n = s.side(a, d, h)
        s.steps, s.program = area, f"Trap_Area {j} {m} {n} V0 Get V0"
    else:
        s.side(b, c, slant)
        s.steps = [minus(p, q), *hypotenuse_to_leg(slant, p - q), *area]


@template(CIRCLE, 1, 2, 3)
def whole_circle(s: Scene) -> None:
    r = s.rng.randint(2, 12 + 6 * s.level)
    area = s.rng.random() < 0.5
    value = Exact(Fraction(r * r if area else 2 * r), pi=True)
    s_steps = [times(r, r)] if area else [times(2, r)]
    if s.level == 1:
        o, (a,) = ring(s, r, s.rng.uniform(0, 360))
        s.line(o, a)
        n = s.side(o, a, r)
        program = f"{'Circle_R_Area' if area else 'Circle_R_Circum'} {n} V0 Get V0"
    elif s.level == 2:
        o, (a, b) = ring(s, r, 0, 180)
        s.line(a, o, b)
        n = s.side(a, b, 2 * r, span=True)
        s_steps = [over(2 * r, 2), times(r, r)] if area else []
        program = f"{'Circle_D_Area' if area else 'Circle_D_Circum'} {n} V0 Get V0"
    else:  # an inscribed right triangle: its hypotenuse is a diameter
        p, q, d = triple(s, 40)
        turn = degrees(acos((p * p - q * q) / (d * d)))
        o, (a, b, c) = ring(s, d / 2, 0, 180, 180 - turn)
        s.line(a, o, b)
        s.line(a, c)
        s.line(b, c)
        s.perp((a, c), (b, c), c)
        u, w = abs(s.points[a] - s.points[c]), abs(s.points[b] - s.points[c])
        m, n = s.side(a, c, round(u)), s.side(b, c, round(w))
        value = Exact(Fraction(d * d, 4) if area else Fraction(d), pi=True)
        s_steps = legs_to_hypotenuse(round(u), round(w))
        if area:
            s_steps += [times(d, d), f"{d * d}/4 = {decimal(value.factor)}"]
        program = f"Gougu {m} {n} V0 {'Circle_D_Area' if area else 'Circle_D_Circum'} V0 V1 Get V1"
    s.program = program
    s.steps = [*s_steps, f"{decimal(value.factor)}*\\pi = {value}"]
    what = "area" if area else "circumference"
    s.ask(
        f"Find the {what} of the circle.",
        rf"Find the {what} of \odot {o}.",
        f"What is the {what} of the circle?",
        answer=value,
    )


@template(CIRCLE, 2, 3)
def sector(s: Scene) -> None:
    r = s.rng.randint(3, 30)
    g = s.rng.choice((40, 45, 60, 72, 80, 100, 108, 120, 135, 140, 144, 150))
    area = s.rng.random() < 0.5
    o, (a, b) = ring(s, r, 0, g)
    s.line(o, a)
    s.line(o, b)
    share = Fraction(g, 360)
    value = Exact(share * (r * r if area else 2 * r), pi=True)
    require(
        1000 % value.factor.denominator == 0 and (s.level == 3 or value.factor.denominator == 1)
    )
    n, m = s.side(o, a, r), s.angle(a, o, b, g)
    whole = r * r if area else 2 * r
    s.steps = [
        times(r, r) if area else times(2, r),
        f"{g}/360 = {share.numerator}/{share.denominator}",
        (
            over(whole * share.numerator, share.denominator)
            if share.numerator == 1
            else times(whole, share.numerator)
        ),
    ]
    if share.numerator > 1:
        s.steps.append(over(whole * share.numerator, share.denominator))
    s.steps.append(f"{decimal(value.factor)}*\\pi = {value}")
    if area:
        s.ask(
            f"Find the area of sector {a}{o}{b}.",
            f"What is the area of sector {a}{o}{b}?",
            answer=value,
        )
        s.program = f"Circle_R_Area {n} {m} V0 Get V0"
    else:
        s.ask(
            rf"Find the length of \widehat {segment(a, b)}.",
            rf"What is the length of \widehat {segment(a, b)}?",
            answer=value,
        )
        s.program = f"Circle_R_Circum {n} {m} V0 Get V0"
