"""The sentences of Geometry3K's logic forms read back into forms: the other half of the round trip.

Written from the sentences, with words of its own: a predicate whose sentence says something else,
or that shares its sentence with another one, does not come back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

NOUNS = {
    "point": "Point", "line": "Line", "angle": "Angle", "triangle": "Triangle",
    "quadrilateral": "Quadrilateral", "parallelogram": "Parallelogram", "square": "Square",
    "rectangle": "Rectangle", "rhombus": "Rhombus", "trapezoid": "Trapezoid", "kite": "Kite",
    "polygon": "Polygon", "pentagon": "Pentagon", "hexagon": "Hexagon", "heptagon": "Heptagon",
    "octagon": "Octagon", "circle": "Circle", "arc": "Arc", "sector": "Sector", "shape": "Shape",
}  # fmt: skip
MARKS = {
    **NOUNS, "\\angle": "Angle", "\\triangle": "Triangle", "\\odot": "Circle", "\\widehat": "Arc",
}  # fmt: skip
ADJECTIVES = {
    name.lower(): name
    for name in ("Right", "Isosceles", "Equilateral", "Regular", "Red", "Blue", "Green", "Shaded",
                 "Minor", "Major")
}  # fmt: skip
ATTRIBUTES = {
    f"the {name.lower()} of ": f"{name}Of"
    for name in ("Area", "Perimeter", "Radius", "Diameter", "Circumference", "Altitude",
                 "Hypotenuse", "Side", "Width", "Height", "Leg", "Base", "Median", "Measure",
                 "Length")
}  # fmt: skip
LISTS = {
    "the intersection of ": "IntersectionOf",
    "the sum of ": "SumOf",
    "the average of ": "AverageOf",
}
PAIRS = {"the scale factor of ": "ScaleFactorOf", "the ratio of ": "RatioOf"}
OPERATIONS = {
    "half of ": "HalfOf", "the square of ": "SquareOf", "the square root of ": "SqrtOf",
    "\\sin ": "SinOf", "\\cos ": "CosOf", "\\tan ": "TanOf", "\\cot ": "CotOf",
}  # fmt: skip
SIGNS = {" + ": "Add", " - ": "Sub", " \\times ": "Mul", " / ": "Div", " ^ ": "Pow"}
VERBS = {
    " is congruent to ": "Congruent", " is similar to ": "Similar", " is tangent to ": "Tangent",
    " is a secant of ": "Secant", " is circumscribed about ": "CircumscribedTo",
    " is inscribed in ": "InscribedIn", " bisects ": "BisectsAngle",
    " is on ": "PointLiesOnLine", " lies on ": "PointLiesOnCircle",
    " is the midpoint of ": "IsMidpointOf", " is the centroid of ": "IsCentroidOf",
    " is the incenter of ": "IsIncenterOf", " is the orthocenter of ": "IsOrthocenterOf",
    " is the midsegment of ": "IsMidsegmentOf", " is the hypotenuse of ": "IsHypotenuseOf",
    " is the perpendicular bisector of ": "IsPerpendicularBisectorOf",
    " is a radius of ": "IsRadiusOf", " is a diameter of ": "IsDiameterOf",
    " is a chord of ": "IsChordOf", " is a side of ": "IsSideOf",
    " is an altitude of ": "IsAltitudeOf", " is a median of ": "IsMedianOf",
    " is a base of ": "IsBaseOf", " is a diagonal of ": "IsDiagonalOf", " is a leg of ": "IsLegOf",
}  # fmt: skip
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
POINT = r"[A-Z](?:_?\{?\d+\}?)?'*"


def read_back(words: str) -> str:
    """The form that a sentence states, without spaces."""
    if words.startswith("find "):
        return f"Find({number(words[5:])})"
    if words.startswith("use the "):
        return f"UseTheorem({words[8:].replace(' ', '_')})"
    *before, point = split(words, " at ")
    if before and not before[0].endswith(" intersect") and point.startswith("point "):
        return f"{read_back(' at '.join(before)).removesuffix(')')},{term(point)})"
    if len(parts := split(words, " intersect at ")) == 2:
        return f"IntersectAt({','.join(listed(parts[0]))},{term(parts[1])})"
    if len(parts := split(words, " = ")) > 1:
        return f"Equals({','.join(map(number, parts))})"
    for sign, name in ((" \\parallel ", "Parallel"), (" \\perp ", "Perpendicular")):
        if len(parts := split(words, sign)) > 1:
            return f"{name}({','.join(map(segment, parts))})"
    for verb, name in VERBS.items():
        if len(parts := split(words, verb)) == 2:
            others = listed(parts[1]) if name in ("Tangent", "Secant") else [term(parts[1])]
            return f"{name}({','.join([term(parts[0]), *others])})"
    if match := re.fullmatch(r"(.*) is an? (\w+)", words):
        return statement(match[1], NOUNS[match[2]])
    if words.endswith(" is a right angle"):
        return f"RightAngle({term(words.removesuffix(' is a right angle'))})"
    if words.endswith(" is a right triangle"):
        return f"Right({term(words.removesuffix(' is a right triangle'))})"
    if (match := re.fullmatch(r"(.*) is (\w+)", words)) and match[2] in ADJECTIVES:
        return f"{ADJECTIVES[match[2]]}({term(match[1])})"
    return term(words)


def statement(subject: str, shape: str) -> str:
    """That a shape is there."""
    for mark in ("\\odot ", "\\angle ", "\\widehat ", "figure "):
        if subject.startswith(mark):
            return f"{shape}({','.join(names(subject.removeprefix(mark)))})"
    if subject.startswith("the "):
        return term(subject.replace("figure", shape.lower(), 1))
    return f"{shape}({','.join(names(subject))})"


def number(words: str) -> str:
    """A term where a number is meant: `AB` is a length."""
    if re.fullmatch(f"(?:{POINT}){{2}}", words):
        return f"LengthOf(Line({','.join(names(words))}))"
    return term(words)


def segment(words: str) -> str:
    """A term beside the sign of lines: `AB` is a line."""
    if re.fullmatch(f"(?:{POINT}){{2}}", words):
        return f"Line({','.join(names(words))})"
    return term(words)


def term(words: str) -> str:
    """A shape, a number or an expression."""
    if words.startswith("(") and closes(words):
        return number(words[1:-1])
    for sign, name in SIGNS.items():
        if len(parts := split(words, sign)) > 1:
            return f"{name}({','.join(map(number, parts))})"
    for words_of, name in OPERATIONS.items():
        if words.startswith(words_of):
            return f"{name}({number(words.removeprefix(words_of))})"
    for mark, name in (("m ", "MeasureOf"), ("l ", "LengthOf")):
        if words.startswith(mark):
            return f"{name}({shape(words.removeprefix(mark))})"
    for words_of, name in LISTS.items():
        if words.startswith(words_of):
            inner = words.removeprefix(words_of)
            parts = items(inner)
            reader = term if name == "IntersectionOf" else number
            return f"{name}({','.join(map(reader, parts))})"
    for words_of, name in PAIRS.items():
        if words.startswith(words_of):
            parts = split(words.removeprefix(words_of), " to ")
            reader = term if name == "ScaleFactorOf" else number
            return f"{name}({','.join(map(reader, parts))})"
    for words_of, name in ATTRIBUTES.items():
        if words.startswith(words_of):
            return f"{name}({term(words.removeprefix(words_of))})"
    return shape(words)


def shape(words: str) -> str:
    """A shape with its adjectives; else a name or an expression."""
    adjectives: list[str] = []
    unnamed = words.startswith("the ")
    rest = words.removeprefix("the ") if unnamed else words
    ordinal = ""
    if unnamed and rest.partition(" ")[0] in ORDINALS:
        ordinal = f"${ORDINALS.index(rest.partition(' ')[0]) + 1}"
        rest = rest.partition(" ")[2]
    while rest.partition(" ")[0] in ADJECTIVES and " " in rest:
        adjectives.append(rest.partition(" ")[0])
        rest = rest.partition(" ")[2]
    mark, _, after = rest.partition(" ")
    if mark not in MARKS or (not unnamed and not after):
        assert not adjectives, words
        return words
    name = MARKS[mark]
    points = names(after)
    if unnamed:
        points = [ordinal or "$"]
        if after.startswith("through "):
            points = [
                f"${ORDINALS.index(item.split()[1]) + 1}" if item.startswith("the ") else item
                for item in items(after.removeprefix("through "))
            ]
    found = f"{name}({','.join(points)})"
    for adjective in reversed(adjectives):
        right_angle = adjective == "right" and name == "Angle"
        found = f"{'RightAngle' if right_angle else ADJECTIVES[adjective]}({found})"
    return found


def names(words: str) -> list[str]:
    """The names of points: `ABC` or `A 1`."""
    if re.fullmatch(f"(?:{POINT})+", words):
        return re.findall(POINT, words)
    return words.split(" ")


def listed(words: str) -> list[str]:
    """The terms of `a, b and c`."""
    return [term(item) for item in items(words)]


def items(words: str) -> list[str]:
    """The parts of `a, b and c`."""
    *first, last = split(words, " and ")
    return [*(split(first[0], ", ") if first else []), last]


def split(words: str, sign: str) -> list[str]:
    """The parts of words between signs outside of brackets."""
    return list(_split(words, sign))


def _split(words: str, sign: str) -> Iterator[str]:
    start, depth, at = 0, 0, 0
    while at < len(words):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(words[at], 0)
        if depth == 0 and words.startswith(sign, at) and at >= start:
            yield words[start:at]
            at += len(sign)
            start = at
            # A sign may begin with the bracket or space that was just passed.
            continue
        at += 1
    yield words[start:]


def closes(words: str) -> bool:
    """Whether the last bracket closes the first one."""
    depth = 0
    for at, sign in enumerate(words):
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth == 0:
            return at == len(words) - 1
    return False
