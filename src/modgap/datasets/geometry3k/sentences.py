r"""Logic forms in words, in the style of PGPS9K's conditions.

```
sentence(parse("Equals(LengthOf(Line(T, R)), x+21)").form)      # TR = x+21
sentence(parse("Perpendicular(Line(A, C), Line(D, C))").form)   # AC \perp DC
sentence(parse("IsMidpointOf(Point(R),Line(A,B))").form)        # point R is the midpoint of line AB
```

Each predicate has one form of its own, and no two forms have the same sentence (apart from
notation, see `forms`): a test reads the sentences back. So what has several parts stands in
brackets inside something else, and arithmetic over predicates has spaces around its signs, unlike
the expressions of the annotation (`4y-10`), which are kept as they are.
"""

from __future__ import annotations

from modgap.datasets.geometry3k.forms import POINT, Form, Term
from modgap.datasets.geometry3k.predicates import AT_A_POINT, PREDICATES, Predicate, by_parts

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_JOINTS = (" and ", ", ", " to ", " = ", *(f" {sign} " for sign in ("+", "-", "\\times", "/", "^")))


def sentence(form: Form) -> str:
    """A form in words, without a capital letter or a full stop."""
    known, arguments = _known(form), form.arguments
    if known.kind == "shape":
        return _statement(form, known)
    if known.kind == "adjective":
        return f"{phrase(arguments[0])} {_ADJECTIVES.get(form.predicate, f'is {known.word}')}"
    if form.predicate == "Find":
        return f"find {_all(arguments)}"
    if form.predicate == "UseTheorem":
        return f"use the {str(arguments[0]).replace('_', ' ')}"
    if form.predicate == "Equals":
        return " = ".join(phrase(argument) for argument in arguments)
    if (point := _where(form)) is not None:
        return f"{sentence(Form(form.predicate, arguments[:-1]))} at {phrase(point)}"
    if form.predicate in ("Parallel", "Perpendicular"):
        return f" {known.word} ".join(_segment(argument) for argument in arguments)
    if form.predicate == "IntersectAt":
        return f"{_listed(arguments[:-1])} intersect at {phrase(arguments[-1])}"
    if known.kind in ("relation", "is-of"):
        return f"{phrase(arguments[0])} {known.word} {_all(arguments[1:])}"
    return phrase(form)


def phrase(term: Term) -> str:
    """A term inside a sentence: a shape, a number or an expression."""
    if isinstance(term, str):
        return term
    known, arguments = _known(term), term.arguments
    if known.kind == "shape":
        return _shape(term, known, "")
    if known.kind == "adjective":
        return _described(term)
    if term.predicate in ("MeasureOf", "LengthOf") and (short := _measure(term)):
        return short
    if known.kind == "attribute":
        return f"{known.word} {phrase(arguments[0])}"
    if known.kind == "pair":
        return _pair(term, known)
    if known.kind == "number":
        if known.most == 1:
            return f"{known.word} {_grouped(arguments[0])}"
        return f" {known.word} ".join(map(_operand, arguments))
    return f"({sentence(term)})"


_ADJECTIVES = {"RightAngle": "is a right angle", "Right": "is a right triangle"}


def _where(form: Form) -> Form | None:
    """The point at which a relation of lines and circles holds, if the form names one."""
    last = form.arguments[-1] if form.arguments else None
    named = form.predicate in AT_A_POINT and len(form.arguments) > 2
    return last if named and isinstance(last, Form) and last.predicate == "Point" else None


def _known(form: Form) -> Predicate:
    known = PREDICATES.get(form.predicate) or by_parts(form.predicate, len(form.arguments))
    assert known is not None, form  # `parse` refuses others
    return known


def _pair(term: Form, known: Predicate) -> str:
    if known.most > 2:
        return f"{known.word} {_listed(term.arguments)}"
    return f"{known.word} {' to '.join(_grouped(argument) for argument in term.arguments)}"


def _all(terms: tuple[Term, ...]) -> str:
    """One term as it is, or several."""
    return phrase(terms[0]) if len(terms) == 1 else _listed(terms)


def _listed(terms: tuple[Term, ...]) -> str:
    """Several terms: `a, b and c`."""
    parts = [_grouped(term) for term in terms]
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def _grouped(term: Term) -> str:
    """A term in brackets, if what is around it could be taken for a part of it."""
    words = phrase(term)
    if isinstance(term, str):
        return f"({words})" if any(sign in words[1:] for sign in "+-*/=^ ") else words
    return f"({words})" if any(joint in _outside(words) for joint in _JOINTS) else words


def _operand(term: Term) -> str:
    r"""A term beside a sign: `(half of AB) + 3` is not half of the sum."""
    words = _grouped(term)
    if isinstance(term, str):
        return f"({words})" if words.startswith("-") else words
    known = _known(term)
    of_one = known.kind == "number" and known.most == 1
    return f"({words})" if of_one and not words.startswith("(") else words


def _outside(words: str) -> str:
    """The words outside of brackets."""
    kept, depth = list[str](), 0
    for sign in words:
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth == 0:
            kept.append(sign)
    return "".join(kept)


# ---- shapes --------------------------------------------------------------------------------------


def _shape(form: Form, known: Predicate, adjectives: str) -> str:
    r"""`\triangle ABC`, `line m`, `the circle`, `the second shape`; with adjectives before it."""
    names = [str(argument) for argument in form.arguments]
    if names in ([], ["$"]):
        return f"the {adjectives}{known.word}"
    if any(name.startswith("$") for name in names):
        if len(names) == 1:
            return f"the {_ordinal(names[0])} {adjectives}{known.word}"
        return f"the {adjectives}{known.word} through {_through(names)}"
    return f"{adjectives}{known.mark} {_joined(names)}"


def _joined(names: list[str]) -> str:
    """Names of points in one word where that is clear: `ABC`, `AA'`; else `AB C`."""
    return ("" if all(POINT.fullmatch(name) for name in names) else " ").join(names)


def _ordinal(name: str) -> str:
    number = name.removeprefix("$")
    if number.isdigit() and 0 < int(number) <= len(_ORDINALS):
        return _ORDINALS[int(number) - 1]
    return f"{number}th" if number else "other"


def _through(names: list[str]) -> str:
    parts = [f"the {_ordinal(name)} point" if name.startswith("$") else name for name in names]
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def _statement(form: Form, known: Predicate) -> str:
    """A shape as a sentence: that it is there."""
    names = [str(argument) for argument in form.arguments]
    article = "an" if known.word[0] in "aeo" else "a"
    unnamed = not names or names[0].startswith("$")
    if form.predicate in ("Circle", "Angle", "Arc") and not unnamed:
        subject = _shape(form, known, "")
    elif form.predicate in ("Point", "Line") and not unnamed:
        subject = _joined(names)
    else:
        single = len(names) == 1
        subject = _shape(form, Predicate("shape", "figure", mark="figure" if single else ""), "")
    return f"{subject.strip()} is {article} {known.word}"


def _described(form: Form) -> str:
    r"""A shape with its adjectives: `right \triangle ABC`, `the shaded shape`."""
    adjectives, inner = "", form
    while _known(inner).kind == "adjective":
        adjectives += f"{_known(inner).word} "
        (below,) = inner.arguments
        if isinstance(below, str):
            return f"{adjectives}{below}"
        inner = below
    known = _known(inner)
    return _shape(inner, known, adjectives) if known.kind == "shape" else adjectives + phrase(inner)


def _segment(term: Term) -> str:
    """A line beside a sign: `AB`, `line m`."""
    if isinstance(term, Form) and term.predicate == "Line" and _is_segment(term):
        return _joined([str(name) for name in term.arguments])
    return _grouped(term)


def _is_segment(line: Form) -> bool:
    """Whether the names of a line make one word."""
    return len(line.arguments) == 2 and all(POINT.fullmatch(str(name)) for name in line.arguments)


def _measure(form: Form) -> str:
    """The short way to write a length or a measure; empty if there is none."""
    (inner,) = form.arguments
    if isinstance(inner, str):
        return ""
    if form.predicate == "LengthOf" and inner.predicate == "Line":
        return _segment(inner) if _is_segment(inner) else ""
    base = inner
    while _known(base).kind == "adjective" and isinstance(base.arguments[0], Form):
        base = base.arguments[0]
    words = phrase(inner)
    wanted = ("Angle", "Arc") if form.predicate == "MeasureOf" else ("Arc",)
    if base.predicate not in wanted or words.startswith("the "):
        return ""
    return f"{'m' if form.predicate == 'MeasureOf' else 'l'} {words}"
