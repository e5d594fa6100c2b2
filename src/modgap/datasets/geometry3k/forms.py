r"""Logic forms: read, repaired, and brought into one notation.

```
parse("Equals(LengthOf(Line(T, R)), x+21)").form     # Equals(LengthOf(Line(T,R)),x+21)
parse("Equals(PerimeterOf(Cirle(C)), 12").repairs    # what was wrong with the annotation
```

The annotations write the same thing in several ways, which `parse` makes one: a line, an angle or
an arc where a number is meant is its length or measure; `angle 4` is `Angle(4)`; the circle's
`radius_7_0` names no radius and is left out; `Angle(ABC)` is `Angle(A,B,C)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from modgap.datasets.geometry3k.predicates import (
    AT_A_POINT,
    MANY,
    PREDICATES,
    SHAPES,
    TRIGONOMETRIC,
    Predicate,
    by_parts,
    described,
    meant,
)

POINT = re.compile(r"[A-Z](?:_?\{?\d+\}?)?'*")
"""The name of a point that needs no space after it: `A`, `A'`, `P1`, `P_{2}`."""


@dataclass(frozen=True, slots=True)
class Form:
    """A predicate with its arguments, each a form, a name or an expression."""

    predicate: str
    arguments: tuple[Term, ...]

    def __str__(self) -> str:
        return f"{self.predicate}({','.join(map(str, self.arguments))})"


Term: TypeAlias = "Form | str"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A form, and what was repaired in its annotation, one line each."""

    form: Form
    repairs: tuple[str, ...] = ()


class FormError(ValueError):
    """A text that is no logic form, or a predicate that is not known.

    Attributes:
        kind: `unknown-predicate` or `malformed-form`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def parse(text: str) -> Parsed:
    """Read one annotated form.

    Raises:
        FormError: It has no predicate, one that is not known, or brackets that cannot be repaired.
    """
    text = _plain(text)
    repairs: list[str] = []
    reader = _Reader(text, repairs)
    if len(text) > _LONGEST or max(_depths(text), default=0) > _DEEPEST:
        raise FormError("malformed-form", f"{text[:60]!r} ... is too long, or nested too deeply")
    whole = _balanced(text, repairs)
    term = reader.term(whole)
    if isinstance(term, str):
        raise FormError("malformed-form", f"{text!r} is not a logic form: it has no predicate")
    form = reader.one_notation(term)
    assert isinstance(form, Form)
    return Parsed(form, tuple(dict.fromkeys(repairs)))


_NONE = Predicate("goal", "")
_LONGEST, _DEEPEST = 2000, 40
_CALL = re.compile(r"(?<![\\A-Za-z])([A-Za-z][A-Za-z0-9_]*)\s*\(")
_RADIUS = re.compile(r"radius_\w+")
_ANGLE = re.compile(r"\\?angle[ _]?(\w+)", re.IGNORECASE)
_LENGTH = re.compile(r"[A-Z]'*[A-Z]'*")
_ODD = re.compile(r"[-+*/=^][+*/=^]|[-+]-|[-+*/=^]$|^[+*/=^]")
"""Signs that an expression cannot have so: `66--y`, `3x+`."""
_AT = re.compile(rf"((?:{'|'.join(AT_A_POINT)})\(.*)\) at (Point\([^()]+\))")
"""A relation with the point at which it holds after it: `Tangent(...) at Point(E)`."""
_COEFFICIENT = re.compile(r"(\d+(?:\.\d+)?|\\frac\{[^{}]*\}\{[^{}]*\})\s*(?=[A-Z(])")


def _plain(text: str) -> str:
    return " ".join(re.sub("[′’`]", "'", text).split())


def _depths(text: str) -> Iterator[int]:
    depth = 0
    for sign in text:
        depth += {"(": 1, ")": -1}.get(sign, 0)
        yield depth


# ---- brackets ------------------------------------------------------------------------------------


def _balanced(text: str, repairs: list[str]) -> str:
    """The text with its brackets repaired; what follows the closed form is left out."""
    if _closed(text):
        return text
    if (found := _AT.fullmatch(text)) and _closed(f"{found[1]})"):
        candidate = f"{found[1]},{found[2]})"
        repairs.append(f"{text!r} names a point after its end: read as {candidate}")
        return candidate
    for candidate in _repaired(text):
        if _fits(candidate):
            repairs.append(
                f"{text!r} has unbalanced brackets, or something after its end: read as {candidate}"
            )
            return candidate
    raise FormError("malformed-form", f"{text!r} has brackets that do not match")


def _closed(text: str) -> bool:
    """Whether the brackets match, and the last one closes the first one."""
    depths = list(_depths(text))
    if 1 not in depths:
        return set(depths) <= {0}
    after = depths[depths.index(1) :]
    return min(depths) >= 0 and after[-1] == 0 and after.index(0) == len(after) - 1


def _repaired(text: str) -> Iterator[str]:
    """Texts that may be meant: the likeliest first."""
    depths = list(_depths(text))
    opened = text.find("(")
    closed = next((n for n in range(opened, len(text)) if depths[n] == 0), None)
    if opened >= 0 and closed is not None:
        yield text[: closed + 1]
        for number, sign in enumerate(text):
            if sign == ")":
                yield text[:number] + text[number + 1 :]
    if depths[-1] > 0:
        yield text + ")" * depths[-1]
        for number, sign in enumerate(text):
            if sign == ",":
                yield f"{text[:number]}){text[number:]}" + ")" * (depths[-1] - 1)


def _fits(text: str) -> bool:
    """Whether the brackets match, and each predicate has as many arguments as it takes."""
    if not _closed(text):
        return False
    try:
        term = _Reader(text).term(text)
    except FormError as error:
        return error.kind == "unknown-predicate"
    return isinstance(term, Form) and all(
        one.predicate not in PREDICATES
        or PREDICATES[one.predicate].least <= len(one.arguments) <= PREDICATES[one.predicate].most
        for one in _nodes(term)
    )


def _nodes(term: Term) -> Iterator[Form]:
    if isinstance(term, Form):
        yield term
        for argument in term.arguments:
            yield from _nodes(argument)


def _split(text: str, signs: str) -> list[str]:
    """The parts of a text between signs that are in no bracket."""
    parts, start, depth = list[str](), 0, 0
    for number, sign in enumerate(text):
        if sign in "({[":
            depth += 1
        elif sign in ")}]":
            depth -= 1
        elif sign in signs and depth == 0:
            parts.append(text[start:number])
            start = number + 1
    return [*parts, text[start:]]


# ---- terms ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Reader:
    """Reads one form; `repairs` collects what was wrong."""

    text: str
    repairs: list[str] = field(default_factory=list[str])

    def term(self, text: str) -> Term:
        """A predicate with arguments, arithmetic over such, or a name or expression."""
        text = text.strip()
        match = _CALL.match(text)
        if match and text.endswith(")") and self._closes(text, match.end() - 1):
            inner = text[match.end() : -1]
            every = _split(inner, ",") if inner.strip() else []
            parts = [part for part in every if part.strip()]
            if len(parts) < len(every):
                self.repairs.append(f"{text!r} has an empty argument: left out")
            name, count = match[1], len(parts)
            if self._is_predicate(name, count):
                return self._form(name, tuple(self.term(part) for part in parts))
        if any(self._is_predicate(call[1], 1) for call in _CALL.finditer(text)):
            return self._arithmetic(text)
        return re.sub(r"\s*([-+*/=^()\[\]{}])\s*", r"\1", text)

    def _closes(self, text: str, opening: int) -> bool:
        """Whether the last character closes the bracket at a place."""
        depths = list(_depths(text[opening:]))
        return 0 not in depths[:-1] and depths[-1] == 0

    def _is_predicate(self, name: str, arguments: int) -> bool:
        """Whether a name before a bracket is a predicate: not `x(y+2)`, `sqrt(3)` or `AB(2)`."""
        if name in PREDICATES or (name[0].isupper() and re.search("[a-z]", name)):
            return True
        return len(name) > 3 and any(name.casefold() == known.casefold() for known in PREDICATES)

    def _form(self, name: str, arguments: tuple[Term, ...]) -> Form:
        if name in PREDICATES:
            return Form(name, arguments)
        if found := described(name):
            return Form(found[0], (Form(found[1], arguments),))
        if known := meant(name, len(arguments)):
            self.repairs.append(f"{name} in {self.text!r} is misspelt: read as {known}")
            return Form(known, arguments)
        if by_parts(name, len(arguments)) is None:
            raise FormError(
                "unknown-predicate",
                f"the predicate {name!r} of {self.text!r} is not known, so that it cannot be put"
                " into words",
            )
        self.repairs.append(
            f"the predicate {name!r} of {self.text!r} is in no list: read by the words of its name"
        )
        return Form(name, arguments)

    def _arithmetic(self, text: str) -> Term:
        """Infix arithmetic that has predicates in it: `2*LengthOf(Line(A,B))+3`."""
        for signs, names in (("+-", ("Add", "Sub")), ("*/", ("Mul", "Div")), ("^", ("Pow",))):
            parts = _split(text, signs)
            if len(parts) > 1 and all(part.strip() for part in parts):
                last = parts[-1]
                sign = text[len(text) - len(last) - 1]
                name = names[signs.index(sign)]
                return Form(name, (self.term(text[: -len(last) - 1]), self.term(last)))
        if match := _COEFFICIENT.match(text):
            return Form("Mul", (match[1], self.term(text[match.end() :])))
        if text.startswith("(") and text.endswith(")"):
            return self.term(text[1:-1])
        raise FormError("malformed-form", f"{text!r} in {self.text!r} is not understood")

    # ---- one notation ----------------------------------------------------------------------------

    def one_notation(self, term: Term, *, number: bool = False) -> Term:
        """A term as every annotation could have written it.

        Args:
            term: As it is written.
            number: Whether a number is meant in its place.
        """
        if isinstance(term, str):
            return self._atom(term) if number else term
        name = term.predicate
        if name in SHAPES:
            shape = self._shape(term)
            kinds = {"Line": "LengthOf", "Angle": "MeasureOf", "Arc": "MeasureOf"}
            return Form(kinds[name], (shape,)) if number and name in kinds else shape
        if name in ("MeasureOf", "LengthOf"):
            return self._measure(term)
        of_numbers = name in ("Equals", "Find", "HalfOf", "SquareOf", "SqrtOf", "Add", "Sub", "Mul",
                              "Div", "Pow", "SumOf", "AverageOf", "RatioOf")  # fmt: skip
        arguments = [self.one_notation(each, number=of_numbers) for each in term.arguments]
        self._check_number(name, len(arguments))
        arguments = self._in_order(name, arguments)
        if name in ("PointLiesOnLine", "PointLiesOnCircle"):
            arguments = self._incidence(name, arguments)
        elif name in ("IsMidpointOf", "IsCentroidOf", "IsIncenterOf", "IntersectAt"):
            at = -1 if name == "IntersectAt" else 0
            arguments[at] = _as("Point", arguments[at])
        elif name in AT_A_POINT and len(arguments) > 2 and POINT.fullmatch(str(arguments[-1])):
            arguments[-1] = _as("Point", arguments[-1])
        elif name in TRIGONOMETRIC:
            inner = arguments[0]
            if isinstance(inner, Form) and inner.predicate == "MeasureOf":
                arguments = [inner.arguments[0]]
        elif (
            name == "Right" and isinstance(arguments[0], Form) and arguments[0].predicate == "Angle"
        ):
            name = "RightAngle"
        return Form(name, tuple(arguments))

    def _atom(self, text: str) -> Term:
        """A name or expression where a number is meant."""
        if match := _ANGLE.fullmatch(text):
            return Form("MeasureOf", (Form("Angle", (match[1],)),))
        if _LENGTH.fullmatch(text):
            return Form("LengthOf", (Form("Line", tuple(POINT.findall(text))),))
        if _ODD.search(text) or any(text.count(a) != text.count(b) for a, b in ("()", "{}", "[]")):
            self.repairs.append(
                f"{text!r} in {self.text!r} is not a sound expression and is kept as it is"
            )
        return text

    def _measure(self, term: Form) -> Term:
        """`MeasureOf` and `LengthOf`, whose argument may be a label, or have its shape left out."""
        name, arguments = term.predicate, term.arguments
        if name == "MeasureOf" and len(arguments) == 3 and not any(map(_is_form, arguments)):
            self.repairs.append(
                f"{self.text!r} leaves the angle out: read as {Form('Angle', arguments)}"
            )
            return Form(name, (self._shape(Form("Angle", arguments)),))
        self._check_number(name, len(arguments))
        inner = arguments[0] if arguments else ""
        if isinstance(inner, str):
            if match := _ANGLE.fullmatch(inner):
                return Form("MeasureOf", (Form("Angle", (match[1],)),))
            return self._atom(inner)
        if inner.predicate == "Line" and len(inner.arguments) == 3:
            self.repairs.append(f"{inner} in {self.text!r} has three points: read as an angle")
            return Form("MeasureOf", (self._shape(Form("Angle", inner.arguments)),))
        if name == "LengthOf" and inner.predicate == "MeasureOf":
            self.repairs.append(f"{self.text!r} is the length of a measure: read as the measure")
            return self._measure(inner)
        return Form(name, (self.one_notation(inner),))

    def _shape(self, form: Form) -> Form:
        """A shape with its points one by one, and without what names no point."""
        names: list[str] = []
        for each in form.arguments:
            if isinstance(each, Form) and each.predicate == "Point":
                names += map(str, each.arguments)
            elif isinstance(each, Form):
                raise FormError("malformed-form", f"{each} in {self.text!r} stands for a point")
            elif not _RADIUS.fullmatch(each):
                names.append(each)
        known = PREDICATES[form.predicate]
        if len(names) == 1 and known.most > 1 and form.predicate not in ("Circle", "Shape"):
            points = POINT.findall(names[0])
            if len(points) > 1 and "".join(points) == names[0]:
                names = points
        if (
            known.most < MANY
            and len(names) not in (1, known.most)
            and not (form.predicate in ("Arc", "Line") and len(names) == 2)
        ):
            self.repairs.append(
                f"{form} in {self.text!r} has {len(names)} points, not 1 or {known.most}: kept so"
            )
        return Form(form.predicate, tuple(names))

    def _in_order(self, name: str, arguments: list[Term]) -> list[Term]:
        """The arguments in the order that the predicate has: what lies on, is or bisects first."""
        kinds = [one.predicate if isinstance(one, Form) else "Point" for one in arguments]
        reversed_to = list(arguments)
        if name == "IntersectAt":
            if kinds[0] == "Point" and kinds[-1] != "Point":
                reversed_to = [*arguments[1:], arguments[0]]
        elif len(arguments) == 2 and _belongs(name, kinds[1]) and not _belongs(name, kinds[0]):
            reversed_to.reverse()
        if reversed_to != arguments:
            self.repairs.append(f"{self.text!r} has its arguments in another order: put in order")
        return reversed_to

    def _incidence(self, name: str, arguments: list[Term]) -> list[Term]:
        point, place = arguments
        if isinstance(place, str):
            shape = "Line" if name == "PointLiesOnLine" else "Circle"
            self.repairs.append(
                f"{self.text!r} leaves the {shape.lower()} out: read as {shape}({place})"
            )
            place = self._shape(Form(shape, (place,)))
        return [_as("Point", point), place]

    def _check_number(self, name: str, count: int) -> None:
        known = PREDICATES.get(name)
        if known and not known.least <= count <= known.most:
            most = (
                f"{known.least} or more" if known.most == MANY else f"{known.least} to {known.most}"
            )
            takes = str(known.least) if known.least == known.most else most
            raise FormError(
                "malformed-form",
                f"{name} in {self.text!r} has {count} arguments: it takes {takes}",
            )


_OF_POINTS = ("PointLiesOnLine", "PointLiesOnCircle", "IsMidpointOf", "IsCentroidOf",
              "IsIncenterOf", "IsOrthocenterOf")  # fmt: skip


def _belongs(name: str, kind: str) -> bool:
    """Whether a kind of argument is what a predicate has first; of no other predicate it is."""
    if name in _OF_POINTS:
        return kind == "Point"
    of_lines = name in ("BisectsAngle", "Secant") or PREDICATES.get(name, _NONE).kind == "is-of"
    return of_lines and kind == "Line"


def _is_form(term: Term) -> bool:
    return isinstance(term, Form)


def _as(shape: str, term: Term) -> Term:
    return Form(shape, (term,)) if isinstance(term, str) else term


# ---- comparing -----------------------------------------------------------------------------------

_UNORDERED = ("Equals", "Parallel", "Perpendicular", "Congruent", "Similar", "Add", "Mul", "SumOf",
              "AverageOf", "IntersectionOf")  # fmt: skip


def meaning(term: Term) -> Term:
    """A term that is equal for two forms that say the same in another order.

    `Angle(A,B,C)` is `Angle(C,B,A)`, and `Equals(a,b)` is `Equals(b,a)`.
    """
    if isinstance(term, str):
        return term
    arguments = [meaning(argument) for argument in term.arguments]
    order: Callable[[Term], str] = str
    if term.predicate in ("Line", "Arc") and len(arguments) == 2:
        arguments.sort(key=order)
    elif term.predicate in ("Angle", "Arc") and len(arguments) == 3:
        arguments = [*min(arguments, arguments[::-1], key=lambda names: list(map(str, names)))]
    elif term.predicate in _UNORDERED:
        arguments.sort(key=order)
    return Form(term.predicate, tuple(arguments))
