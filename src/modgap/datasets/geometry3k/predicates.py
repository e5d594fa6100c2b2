"""The predicates of Geometry3K's logic forms: how many arguments each takes, and its words.

The names are those of `predicates.md` in the InterGPS repository, and the few more that its
annotations use (`IsOrthocenterOf`, `Minor`, `Major`). A name that is in no table is read by its
parts where these are known words: `IsCircumcenterOf` is the circumcenter of something,
`RegularPolygon` is `Regular(Polygon(...))`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal

Kind = Literal["shape", "adjective", "attribute", "pair", "relation", "is-of", "number", "goal"]
MANY: Final = 99
_NEAR: Final = 0.85
"""How alike a misspelt name and the one that is meant are, at least (`difflib`)."""


@dataclass(frozen=True, slots=True)
class Predicate:
    r"""One predicate.

    Attributes:
        kind: What its sentence is built like, see `sentences`.
        word: Its noun, adjective, verb or operator.
        least: The fewest arguments that it takes.
        most: The most arguments.
        mark: Of a shape: what stands before its points (`\angle ABC`).
    """

    kind: Kind
    word: str
    least: int = 1
    most: int = 1
    mark: str = ""


def _shapes() -> dict[str, Predicate]:
    found = {
        "Point": Predicate("shape", "point"),
        "Line": Predicate("shape", "line", 1, 2),
        "Angle": Predicate("shape", "angle", 1, 3, "\\angle"),
        "Triangle": Predicate("shape", "triangle", 1, 3, "\\triangle"),
        "Circle": Predicate("shape", "circle", 1, 2, "\\odot"),
        "Arc": Predicate("shape", "arc", 1, 3, "\\widehat"),
        "Sector": Predicate("shape", "sector", 1, 3),
        "Polygon": Predicate("shape", "polygon", 1, MANY),
        "Shape": Predicate("shape", "shape", 1, MANY),
    }
    sides = {
        "Quadrilateral": 4, "Parallelogram": 4, "Square": 4, "Rectangle": 4, "Rhombus": 4,
        "Trapezoid": 4, "Kite": 4, "Pentagon": 5, "Hexagon": 6, "Heptagon": 7, "Octagon": 8,
    }  # fmt: skip
    for name, number in sides.items():
        found[name] = Predicate("shape", name.lower(), 1, number)
    return {
        name: Predicate(one.kind, one.word, one.least, one.most, one.mark or one.word)
        for name, one in found.items()
    }


def _adjectives() -> dict[str, Predicate]:
    names = ("Right", "Isosceles", "Equilateral", "Regular", "Red", "Blue", "Green", "Shaded",
             "Minor", "Major")  # fmt: skip
    return {name: Predicate("adjective", name.lower()) for name in names}


def _attributes() -> dict[str, Predicate]:
    names = (
        "Area", "Perimeter", "Radius", "Diameter", "Circumference", "Altitude", "Hypotenuse",
        "Side", "Width", "Height", "Leg", "Base", "Median", "Measure", "Length",
    )  # fmt: skip
    return {f"{name}Of": Predicate("attribute", f"the {name.lower()} of") for name in names}


def _is_of() -> dict[str, Predicate]:
    unique = ("Midpoint", "Centroid", "Incenter", "Midsegment", "Hypotenuse",
              "PerpendicularBisector", "Orthocenter")  # fmt: skip
    others = ("Radius", "Diameter", "Chord", "Side", "Altitude", "Median", "Base", "Diagonal",
              "Leg")  # fmt: skip
    found: dict[str, Predicate] = {}
    for name in (*unique, *others):
        article = "the" if name in unique else "an" if name[0] in "AEIO" else "a"
        found[f"Is{name}Of"] = Predicate("is-of", f"is {article} {words_of(name)} of", 2, MANY)
    return found


def words_of(name: str) -> str:
    """The words that a name is made of: `PerpendicularBisector` -> `perpendicular bisector`."""
    return " ".join(part.lower() for part in _PARTS.findall(name))


_PARTS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")

PREDICATES: Final[dict[str, Predicate]] = {
    **_shapes(),
    "RightAngle": Predicate("adjective", "right"),
    **_adjectives(),
    **_attributes(),
    "IntersectionOf": Predicate("pair", "the intersection of", 2, MANY, "and"),
    "ScaleFactorOf": Predicate("pair", "the scale factor of", 2, 2, "to"),
    "RatioOf": Predicate("pair", "the ratio of", 1, 2, "to"),
    "SumOf": Predicate("pair", "the sum of", 1, MANY, "and"),
    "AverageOf": Predicate("pair", "the average of", 1, MANY, "and"),
    "PointLiesOnLine": Predicate("relation", "is on", 2, 2),
    "PointLiesOnCircle": Predicate("relation", "lies on", 2, 2),
    "Parallel": Predicate("relation", "\\parallel", 2, MANY),
    "Perpendicular": Predicate("relation", "\\perp", 2, MANY),
    "IntersectAt": Predicate("relation", "intersect at", 2, MANY),
    "BisectsAngle": Predicate("relation", "bisects", 2, MANY),
    "Congruent": Predicate("relation", "is congruent to", 2, MANY),
    "Similar": Predicate("relation", "is similar to", 2, MANY),
    "Tangent": Predicate("relation", "is tangent to", 2, MANY),
    "Secant": Predicate("relation", "is a secant of", 2, MANY),
    "CircumscribedTo": Predicate("relation", "is circumscribed about", 2, MANY),
    "InscribedIn": Predicate("relation", "is inscribed in", 2, MANY),
    **_is_of(),
    "SinOf": Predicate("number", "\\sin"),
    "CosOf": Predicate("number", "\\cos"),
    "TanOf": Predicate("number", "\\tan"),
    "CotOf": Predicate("number", "\\cot"),
    "HalfOf": Predicate("number", "half of"),
    "SquareOf": Predicate("number", "the square of"),
    "SqrtOf": Predicate("number", "the square root of"),
    "Add": Predicate("number", "+", 2, MANY),
    "Sub": Predicate("number", "-", 2, MANY),
    "Mul": Predicate("number", "\\times", 2, MANY),
    "Div": Predicate("number", "/", 2, MANY),
    "Pow": Predicate("number", "^", 2, 2),
    "Equals": Predicate("relation", "=", 2, MANY),
    "Find": Predicate("goal", "find", 1, MANY),
    "UseTheorem": Predicate("goal", "use the"),
}
"""Every known predicate, by name."""

AT_A_POINT: Final = ("Tangent", "Secant", "Perpendicular")
"""Relations whose last argument may be the point where they hold, after two others."""
TRIGONOMETRIC: Final = ("SinOf", "CosOf", "TanOf", "CotOf")
SHAPES: Final = tuple(name for name, one in PREDICATES.items() if one.kind == "shape")
ADJECTIVES: Final = tuple(name for name, one in PREDICATES.items() if one.kind == "adjective")


def meant(name: str, arguments: int) -> str:
    """The known predicate that a misspelt name means; empty if none is near enough.

    Args:
        name: The name as it is written.
        arguments: How many arguments it has: a predicate that does not take them is not meant.
    """
    taking = [known for known, one in PREDICATES.items() if one.least <= arguments <= one.most]
    folded = {known.casefold(): known for known in taking}
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=_NEAR)
    return folded[near[0]] if near else ""


def by_parts(name: str, arguments: int) -> Predicate | None:
    """A predicate in no table, read by the parts of its name; `None` where that gives no words.

    `IsXOf(a, b)` says that a is the x of b, and `XOf(a)` is the x of a.
    """
    if match := _IS_OF.fullmatch(name):
        return (
            Predicate("is-of", f"is the {words_of(match[1])} of", 2, 2) if arguments == 2 else None
        )
    if (match := _OF.fullmatch(name)) and arguments == 1:
        return Predicate("attribute", f"the {words_of(match[1])} of")
    return None


_IS_OF = re.compile(r"Is([A-Z]\w*)Of")
_OF = re.compile(r"([A-Z]\w*)Of")


def described(name: str) -> tuple[str, str] | None:
    """Adjective and shape of a compound name, `RegularPolygon`; `None` if it is none."""
    for adjective in ADJECTIVES:
        shape = name.removeprefix(adjective)
        if shape != name and shape in SHAPES:
            return adjective, shape
    return None
