r"""A figure as its author thinks of it.

Points, lines, circles, and the conditions that are both said and shown.

Each method that states a condition writes the clause in PGPS9K's grammar *and* the mark that shows
it (a label, a square, ticks, arrows), so that the text and the diagram cannot differ. Names inside
a clause and clauses of one kind are in alphabetical order: there is one right transcription of a
diagram (the real data has several).
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass, field
from random import Random

from modgap.datasets.synthetic.numbers import Exact, Linear

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # no I and O: too like 1 and 0
SIZE = 224
Side = tuple[str, str]
_KINDS = ("perp", "parallel", "length", "angle", "same angle", "arc")


@dataclass(frozen=True, slots=True)
class Mark:
    """Something to draw.

    `kind` is length, span, name, angle, equal, right, tick, arrow or arc; the other fields are its
    points, and its text or count.
    """

    kind: str
    at: tuple[str, ...]
    text: str = ""
    count: int = 0


@dataclass
class Scene:
    """A problem under construction. Points are complex numbers in the units of the problem."""

    rng: Random
    level: int
    points: dict[str, complex] = field(default_factory=dict)
    lines: list[tuple[str, ...]] = field(default_factory=list)
    line_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    circles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    clauses: list[tuple[int, str, str]] = field(default_factory=list)  # (kind, clause, reference)
    dots: set[str] = field(default_factory=set)
    unknowns: dict[str, float] = field(default_factory=dict)
    question: str = ""
    answer: Exact = field(default_factory=lambda: Exact.of(0))
    steps: list[str] = field(default_factory=list)
    program: str = ""
    _ticks: int = 0
    _arrows: int = 0
    _equal_angles: int = 0
    _numbers: int = 0

    # --- the figure -------------------------------------------------------------------------------
    def names(self, count: int) -> list[str]:
        """Fresh point letters: often a run of the alphabet, as in textbooks, otherwise any."""
        free = [c for c in LETTERS if c not in self.points and c not in self._taken]
        start = self.rng.randrange(len(free) - count + 1)
        chosen = (
            free[start : start + count] if self.rng.random() < 0.5 else self.rng.sample(free, count)
        )
        if self.rng.random() < 0.5:
            self.rng.shuffle(chosen)
        self._taken.update(chosen)
        return chosen

    def center(self) -> str:
        """A letter for the centre of a circle."""
        name = "O" if self.rng.random() < 0.5 and "O" not in self._taken else self.names(1)[0]
        self._taken.add(name)
        return name

    def __post_init__(self) -> None:
        self._taken: set[str] = set()

    def put(self, name: str, x: float | complex, y: float = 0.0) -> complex:
        """Place a point."""
        self.points[name] = complex(x) + 1j * y
        return self.points[name]

    def between(self, name: str, a: str, b: str, t: float) -> complex:
        """Place a point on segment AB, at share `t` of the way."""
        return self.put(name, self.points[a] + t * (self.points[b] - self.points[a]))

    def around(self, name: str, center: str, radius: float, degrees: float) -> complex:
        """Place a point on a circle about `center`."""
        return self.put(name, self.points[center] + cmath.rect(radius, math.radians(degrees)))

    def triangle(
        self, a: str, b: str, c: str, angle_a: float, angle_b: float, ab: float = 10.0
    ) -> None:
        """Place a triangle by two angles (degrees) and the side between them; draw its sides."""
        angle_c = 180 - angle_a - angle_b
        ac = ab * math.sin(math.radians(angle_b)) / math.sin(math.radians(angle_c))
        self.put(a, 0)
        self.put(b, ab)
        self.put(c, cmath.rect(ac, math.radians(angle_a)))
        self.polygon(a, b, c)

    def polygon(self, *names: str) -> None:
        """Draw the sides of a polygon."""
        for a, b in zip(names, (*names[1:], names[0]), strict=True):
            self.line(a, b)

    def line(self, *names: str) -> None:
        """Draw a line through points that lie on it in this order."""
        self.lines.append(names if self.rng.random() < 0.5 else names[::-1])

    def name_line(self, name: str, a: str, b: str) -> None:
        """`line m lieson A B C`: a small letter beside the line whose ends are A and B."""
        self.line_names[name] = next(
            names for names in self.lines if {names[0], names[-1]} == {a, b}
        )
        self.marks.append(Mark("name", (a, b), name))

    def circle(self, center: str, *on: str, dot: bool = True) -> None:
        """Draw a circle through the given points."""
        order = sorted(on, key=lambda name: cmath.phase(self.points[name] - self.points[center]))
        self.circles[center] = tuple(order)
        if dot:
            self.dots.add(center)

    # --- conditions: a clause and its mark --------------------------------------------------------
    def _say(self, kind: str, clause: str) -> str:
        reference = f"<{len(self.clauses)}>"
        self.clauses.append((_KINDS.index(kind), clause, reference))
        return reference

    def side(self, a: str, b: str, value: int | Linear | Exact | str, span: bool = False) -> str:
        """`AB = value`, as a label at the segment's middle.

        Where other points lie between, the label is beside a dimension line.
        """
        self.marks.append(Mark("span" if span else "length", (a, b), shown(value)))
        return self._say("length", f"{segment(a, b)} = {value}")

    def equal(self, *sides: Side, value: int | Linear | str | None = None) -> str:
        """`AB = CD = value`: ticks on each and the value, if any, on one of them."""
        self._ticks += 1
        self.marks += [Mark("tick", (s[0], s[1]), count=self._ticks) for s in sides]
        if value is not None:
            s = self.rng.choice(sides)
            self.marks.append(Mark("length", (s[0], s[1]), shown(value)))
        names = sorted(segment(*s) for s in sides)
        return self._say("length", " = ".join(names if value is None else [*names, str(value)]))

    def angle(self, a: str, v: str, b: str, value: int | Linear | str) -> str:
        r"""`m \angle AVB = value`, an arc and a label."""
        self.marks.append(Mark("angle", (a, v, b), _degrees(value)))
        return self._say("angle", rf"m \angle {corner(a, v, b)} = {value}")

    def number(self, a: str, v: str, b: str) -> int:
        r"""`m \angle AVB = m \angle 1`: the next number in that angle."""
        self._numbers += 1
        self.marks.append(Mark("angle", (a, v, b), str(self._numbers)))
        self._say("same angle", rf"m \angle {corner(a, v, b)} = m \angle {self._numbers}")
        return self._numbers

    def same_angle(self, first: tuple[str, str, str], second: tuple[str, str, str]) -> None:
        r"""`m \angle ABC = m \angle DEF`: arcs with as many ticks."""
        self._equal_angles += 1
        self.marks += [
            Mark("equal", first, count=self._equal_angles),
            Mark("equal", second, count=self._equal_angles),
        ]
        names = sorted((corner(*first), corner(*second)))
        self._say("same angle", rf"m \angle {names[0]} = m \angle {names[1]}")

    def perp(self, first: Side, second: Side, at: str) -> None:
        r"""`AC \perp EB on B`: a small square. The names are the ends of the two lines."""
        a = first[0] if first[0] != at else first[1]
        b = second[0] if second[0] != at else second[1]
        self.marks.append(Mark("right", (a, at, b)))
        names = sorted((segment(*first), segment(*second)))
        self._say("perp", rf"{names[0]} \perp {names[1]} on {at}")

    def parallel(self, *sides: Side) -> None:
        r"""`AB \parallel CD`: arrows. The names are the ends of the lines."""
        self._arrows += 1
        base = self.points[sides[0][1]] - self.points[sides[0][0]]
        for s in sides:
            along = (self.points[s[1]] - self.points[s[0]]) * base.conjugate()
            self.marks.append(
                Mark("arrow", (s[0], s[1]) if along.real > 0 else (s[1], s[0]), count=self._arrows)
            )
        known = {
            segment(names[0], names[-1]): f"line {name}" for name, names in self.line_names.items()
        }
        self._say(
            "parallel",
            r" \parallel ".join(sorted(known.get(segment(*s), segment(*s)) for s in sides)),
        )

    def arc(self, o: str, a: str, b: str, value: int | Linear | str, inside: bool = False) -> str:
        r"""`m \widehat AB = value`, a label outside the minor arc or inside."""
        self.marks.append(Mark("arc", (o, a, b), _degrees(value), int(inside)))
        return self._say("arc", rf"m \widehat {segment(a, b)} = {value}")

    # --- the question -----------------------------------------------------------------------------
    def unknown(self, value: float) -> str:
        """Name the unknown; it is mostly x."""
        name = self.rng.choice("xxxxxyyzab")
        self.unknowns[name] = value
        return name

    def ask(self, *wordings: str, answer: int | float | Exact) -> None:
        """Ask in one of these wordings."""
        self.question = self.rng.choice(wordings)
        self.answer = answer if isinstance(answer, Exact) else Exact.of(answer)

    def ask_unknown(
        self, name: str, before: str = "", answer: int | float | Exact | None = None
    ) -> None:
        """`Find x.`; `answer` where its exact form is known."""
        forms = (
            "Find {}.",
            "Find {}.",
            "Solve for {}.",
            "Find the value of {}.",
            "What is the value of {}?",
        )
        value = self.unknowns[name] if answer is None else answer
        self.ask(*(before + form.format(name) for form in forms), answer=value)

    def ask_length(self, a: str, b: str, answer: int | float | Exact, before: str = "") -> None:
        """`Find the length of AB.`."""
        forms = ("Find {}.", "Find the length of {}.", "What is the length of {}?", "Solve for {}.")
        self.ask(*(before + form.format(segment(a, b)) for form in forms), answer=answer)

    def ask_angle(
        self, a: str, v: str, b: str, answer: int | float, before: str = "", number: bool = True
    ) -> None:
        r"""`Find m \angle ABC.`, or by a number in the angle."""
        name = corner(a, v, b)
        if number and self.rng.random() < 0.35:
            name = str(self.number(a, v, b))
        forms = (
            r"Find m \angle {}.",
            r"Find the measure of \angle {}.",
            r"What is the measure of \angle {}?",
        )
        self.ask(*(before + form.format(name) for form in forms), answer=answer)

    def ask_arc(self, a: str, b: str, answer: int | float) -> None:
        r"""`Find m \widehat AB.`."""
        forms = (
            r"Find m \widehat {}.",
            r"What is m \widehat {}?",
            r"Find the measure of \widehat {}.",
        )
        self.ask(*(form.format(segment(a, b)) for form in forms), answer=answer)

    def seek_angle(self, a: str, v: str, b: str, value: int, before: str = "") -> str:
        """Ask for an angle by its name, its number or the unknown written in it.

        Gives what the program gets.
        """
        if self.rng.random() < 0.35:
            name = self.unknown(value)
            self.angle(a, v, b, name)
            self.ask_unknown(name, before)
            return name
        self.ask_angle(a, v, b, value, before)
        return "V0"

    def seek_length(self, a: str, b: str, value: int | float | Exact, before: str = "") -> str:
        """Ask for a length by its name or by the unknown beside it; gives what the program gets."""
        if self.rng.random() < 0.5:
            name = self.unknown(float(value))
            self.side(a, b, name)
            self.ask_unknown(name, before, value)
            return name
        self.ask_length(a, b, value, before)
        return "V0"

    # --- what comes out ---------------------------------------------------------------------------
    def structural(self) -> list[str]:
        """The structural clauses, in the record's order."""
        named = {names: f"{name} lieson " for name, names in self.line_names.items()}
        clauses = [f"line {named.get(names, '')}" + " ".join(names) for names in self.lines]
        clauses += [
            rf"\odot {center} lieson " + " ".join(on) for center, on in self.circles.items()
        ]
        return clauses

    def semantic(self) -> list[str]:
        """The semantic clauses, in the record's order: by kind, then by name."""
        return [clause for _, clause, _ in sorted(self.clauses)]

    def expression(self) -> str:
        """The program with each reference replaced by a position.

        This is the place of its clause among those with a value.
        """
        valued: list[str] = []
        for kind, clause, reference in sorted(self.clauses):
            # `AB = CD` without a number has no value.
            only_names = all(len(part) == 2 and part.isupper() for part in clause.split(" = "))
            if _KINDS[kind] in ("length", "angle", "arc") and not only_names:
                valued.append(reference)
        program = self.program
        for place, reference in enumerate(valued):
            program = program.replace(reference, f"N{place}")
        assert "<" not in program, program
        return program


def segment(a: str, b: str) -> str:
    """The name of segment AB, letters in order."""
    return min(a, b) + max(a, b)


def corner(a: str, v: str, b: str) -> str:
    """The name of the angle at `v`, its arms in order."""
    return min(a, b) + v + max(a, b)


def shown(value: object) -> str:
    """An expression as it is printed in a diagram."""
    return str(value).replace(r"\sqrt{", "√").replace("}", "").replace(r"\pi", "π")


def _degrees(value: object) -> str:
    """`35°`, `(3x-5)°`."""
    text = shown(value)
    return f"({text})°" if "+" in text or "-" in text else f"{text}°"
