r"""What a diagram states, as PGPS9K's clauses: lines and circles with their points, then the rest.

The annotation lists every point between every two points of a line. These facts are joined into
one clause for each line, its points in order (`line A B C D`), and only points that something else
mentions are kept: that B is on line AC matters where A, B and C occur in an angle, a length,
another line, a circle or the question.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from modgap.datasets.geometry3k.forms import POINT, Form, Term, meaning
from modgap.datasets.geometry3k.predicates import SHAPES
from modgap.datasets.geometry3k.sentences import sentence

_MOST_POINTS = 12
"""Longest line whose points are put in order."""
_WORDS = re.compile(r"\\[A-Za-z]+")
_NAMES = re.compile(rf"(?<![A-Za-z])(?:{POINT.pattern}\s?)+(?![a-z])")

_ANSWER_FORM = re.compile(
    r"\b(?:to\s+the\s+nearest\s+[a-z-]+|in\s+simplest\s+(?:radical\s+)?form"
    r"|to\s+\w+\s+(?:decimal\s+places?|significant\s+(?:digits|figures)))",
    re.IGNORECASE,
)
"""What a text says of the form of the answer."""
_PLAIN = re.compile(r"\d+(?:\.\d+)?")

Between = tuple[str, str, str]
"""A point and the two points of a line between which it is."""


@dataclass(frozen=True, slots=True)
class Clauses:
    """The conditions of a problem in PGPS9K's grammar: `Problem.structural` and `.semantic`."""

    structural: tuple[str, ...]
    semantic: tuple[str, ...]


def clauses(diagram: Sequence[Form], text: Sequence[Form], words: str) -> Clauses:
    """What a diagram states.

    Args:
        diagram: The forms of the diagram.
        text: The forms of the text: the points that they name matter.
        words: The text itself, likewise.
    """
    facts, circles, others = list[Between](), dict[str, list[str]](), dict[Term, Form]()
    for form in diagram:
        if fact := _between(form):
            facts.append(fact)
        elif on := _on_circle(form):
            points = circles.setdefault(on[1], [])
            points += [on[0]] if on[0] not in points else []
        else:
            others.setdefault(meaning(form), form)
    named = {name for form in (*others.values(), *text) for name in _names(form)}
    named |= {name for points in circles.values() for name in points} | circles.keys()
    named |= points_in(words)
    lines = [f"line {' '.join(line)}" for line in mattering(lines_of(facts), named)]
    rings = [f"\\odot {circle} lieson {' '.join(points)}" for circle, points in circles.items()]
    return Clauses((*lines, *rings), tuple(sentence(form) for form in others.values()))


def contradictions(forms: Iterable[Form]) -> list[str]:
    """The quantities that have two different numbers: `AB = 10, AB = 60`."""
    found: dict[Term, dict[float, str]] = {}
    for form in forms:
        if form.predicate == "Equals" and len(form.arguments) == 2:
            for quantity, number in (form.arguments, form.arguments[::-1]):
                if (
                    isinstance(quantity, Form)
                    and isinstance(number, str)
                    and _PLAIN.fullmatch(number)
                ):
                    said = found.setdefault(meaning(quantity), {})
                    said.setdefault(float(number), sentence(form))
    return [", ".join(said.values()) for said in found.values() if len(said) > 1]


def points_in(words: str) -> set[str]:
    """The points that a text names: `AB` and `A B` name A and B."""
    return {
        name for found in _NAMES.findall(_WORDS.sub(" ", words)) for name in POINT.findall(found)
    }


def _names(term: Term) -> Iterator[str]:
    """The names that stand in shapes."""
    if isinstance(term, Form):
        for argument in term.arguments:
            if isinstance(argument, Form):
                yield from _names(argument)
            elif term.predicate in SHAPES:
                yield argument


def _between(form: Form) -> Between | None:
    """A point between two named points."""
    names = _point_on(form, "Line")
    return names if names is not None and len(names) == 3 else None


def _on_circle(form: Form) -> tuple[str, str] | None:
    """A point on a named circle."""
    names = _point_on(form, "Circle")
    return names if names is not None and len(names) == 2 else None


def _point_on(form: Form, shape: str) -> tuple[str, ...] | None:
    """Of `PointLiesOnLine(A,Line(B,C))` and the like: A, B and C, if all are names of points."""
    if form.predicate != f"PointLiesOn{shape}":
        return None
    point, on = form.arguments
    if not (isinstance(point, Form) and isinstance(on, Form) and on.predicate == shape):
        return None
    names = (*map(str, point.arguments), *map(str, on.arguments))
    return names if all(map(POINT.fullmatch, names)) else None


# ---- lines ---------------------------------------------------------------------------------------


def lines_of(facts: Iterable[Between]) -> list[tuple[str, ...]]:
    """The lines that these facts describe, each with its points in order.

    Facts whose points have no order, or several, stay lines of three points.
    """
    groups: list[tuple[set[str], list[Between]]] = []
    for fact in dict.fromkeys(facts):
        points, together = set(fact), [fact]
        joined = True
        while joined:
            joined = False
            for group in groups:
                if len(group[0] & points) >= 2:
                    points, together = points | group[0], [*group[1], *together]
                    groups.remove(group)
                    joined = True
                    break
        groups.append((points, together))
    lines: list[tuple[str, ...]] = []
    for points, together in groups:
        order = _order(points, together)
        lines += [order] if order else [(a, p, b) for p, a, b in together]
    return lines


def _order(points: Collection[str], facts: Sequence[Between]) -> tuple[str, ...] | None:
    """The one order of the points in which all facts hold; `None` if there is none or several."""
    first, start, end = facts[0]
    rest = [name for name in dict.fromkeys(n for f in facts for n in f) if name not in facts[0]]
    if len(points) > _MOST_POINTS or len({first, start, end}) < 3:
        return None
    found: list[tuple[str, ...]] = []

    def place(order: tuple[str, ...], left: Sequence[str]) -> None:
        at = {name: number for number, name in enumerate(order)}
        for p, a, b in facts:
            if {p, a, b} <= at.keys() and not min(at[a], at[b]) < at[p] < max(at[a], at[b]):
                return
        if not left:
            found.append(order)
            return
        for number in range(len(order) + 1):
            if len(found) > 1:
                return
            place((*order[:number], left[0], *order[number:]), left[1:])

    place((start, first, end), rest)
    return found[0] if len(found) == 1 else None


def mattering(lines: Sequence[tuple[str, ...]], named: Collection[str]) -> list[tuple[str, ...]]:
    """The lines without the points that nothing else names; of three points at least."""
    kept: list[tuple[str, ...]] = []
    for number, line in enumerate(lines):
        elsewhere = {name for other, of in enumerate(lines) if other != number for name in of}
        points = tuple(name for name in line if name in named or name in elsewhere)
        if len(points) >= 3:
            kept.append(points)
    return kept


# ---- the text ------------------------------------------------------------------------------------


def question(text: Sequence[Form], diagram: Sequence[Form], words: str) -> str:
    """The question without what the diagram states: the words, if they state nothing of it.

    What the words say of the answer's form is kept, since no logic form says it, and an answer that
    is not rounded as asked is graded as wrong.
    """
    shown = {meaning(form) for form in diagram}
    left = [form for form in text if meaning(form) not in shown]
    asks = any(form.predicate == "Find" for form in left)
    if words and (len(left) == len(text) or not asks):
        return words
    forms = dict.fromkeys(" ".join(found.split()).lower() for found in _ANSWER_FORM.findall(words))
    return " ".join([worded(left), *([f"Give the answer {' and '.join(forms)}."] if forms else [])])


def worded(forms: Iterable[Form]) -> str:
    """Forms as a text: the conditions, then what is asked."""
    said, asked = list[str](), list[str]()
    for form in forms:
        words = sentence(form)
        if form.predicate in ("Find", "UseTheorem"):
            asked.append(f"{words[0].upper()}{words[1:]}.")
        else:
            said.append(words)
    return " ".join([*([f"{', '.join(said)}."] if said else []), *asked])
