r"""Conditions with one number changed: what the view `corrupted-transcription` writes down.

The changed number is one that a reader of the image needs: it stands in a condition with a value
(`AB = 7`, `m \angle 1 = 2x+4`, `Kim 24`) and the question does not state it. Numbers that name
something (`\angle 1`) and exponents stay. The new value is 10% to 90% off, so that no tolerance of
a grader accepts it, and differs from every number in the conditions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal, get_args

Transcription = Literal["own", "true", "corrupted"]
WITH_TEXT = "full-text-transcription"
"""The view with the conditions in the prompt and in the answer."""
WHOSE: dict[str, Transcription] = {
    **{f"{whose}-transcription": whose for whose in get_args(Transcription)},
    WITH_TEXT: "true",
}
"""View -> whose conditions its answer begins with."""

_NUMBER = re.compile(r"(?<![A-Za-z\\0-9.^])\d+(?:\.\d+)?")
# What looks like a number to change and is none: names by number, exponents, the index of a root.
_NO_VALUE = re.compile(
    r"\\?(?:angle|triangle|line|odot|widehat|point|circle|ray|side|segment|arc|chord|sector|figure)s?"
    r" *\{? *\d+(?: *\})?|\^ *(?:\{[^{}]*\}|\d+)|\[\d+\]"
)
# `Kim 24`, `Kim in May 24`
_NAMED_NUMBER = re.compile(r"[^\W\d_]+(?: in [^\W\d_]+)? \d+(?:\.\d+)?")
_FACTORS = tuple(Decimal(percent) / 100 for percent in (*range(50, 86, 5), *range(115, 191, 5)))


def corrupted(
    conditions: Sequence[str], question: str, problem_id: str, seed: int
) -> tuple[str, ...] | None:
    """The conditions with one number changed; `None` where there is no number to change.

    Args:
        conditions: All of them, in words or in PGPS9K's grammar.
        question: Its numbers need not be read from the image, and stay.
        problem_id: With the seed it decides which number is changed, and into which.
        seed: Of the run.
    """
    places = _places(conditions, question)
    if not places:
        return None
    digest = hashlib.sha256(f"{seed}\x1f{problem_id}\x1fcorrupted".encode()).digest()
    draw = int.from_bytes(digest[:8], "big")
    clause, start, end = places[draw % len(places)]
    old = conditions[clause][start:end]
    taken = {Decimal(number) for words in conditions for number in _NUMBER.findall(words)}
    changed = list(conditions)
    changed[clause] = (
        conditions[clause][:start]
        + _other(old, taken, draw // len(places))
        + conditions[clause][end:]
    )
    return tuple(changed)


def writable(view: str, conditions: Sequence[str], question: str) -> bool:
    """Whether a problem has what a view's transcription states; any other view can be shown.

    The true conditions and the changed ones are written for the same problems: those with a number
    that must be read.
    """
    return WHOSE.get(view, "own") == "own" or bool(_places(conditions, question))


def _places(conditions: Sequence[str], question: str) -> list[tuple[int, int, int]]:
    """The numbers that can be changed: clause, start, end."""
    stated = {Decimal(number) for number in _NUMBER.findall(question)}
    places: list[tuple[int, int, int]] = []
    for clause, words in enumerate(conditions):
        plain = _NO_VALUE.sub(lambda name: " " * len(name[0]), words)
        if "=" not in plain and not _NAMED_NUMBER.fullmatch(plain):
            continue
        for number in _NUMBER.finditer(plain):
            if Decimal(number[0]) not in stated and Decimal(number[0]) != 0:
                places.append((clause, *number.span()))
    return places


def _other(number: str, taken: set[Decimal], draw: int) -> str:
    """Another number with as many decimals, which is not taken."""
    old = Decimal(number)
    unit = Decimal(1).scaleb(int(old.as_tuple().exponent))
    for step in range(len(_FACTORS)):
        new = (old * _FACTORS[(draw + step) % len(_FACTORS)]).quantize(unit)
        if new > 0 and new not in taken:
            return str(new)
    new = old + unit
    while new in taken:
        new += unit
    return str(new)
