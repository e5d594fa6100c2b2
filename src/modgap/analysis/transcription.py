r"""Whether a model read a diagram, and the gap in two parts by that.

The clauses that it wrote down are compared with the conditions of the problem (`compare`).

`AB = 7, m \angle CBA = 35` is taken apart into facts that do not depend on how they are written:
`BA` is `AB`, `\angle ABC` is `\angle CBA`, `15 = AC = ED` says `AC = 15` and `DE = 15`, `\perp` and
`\parallel` are symmetric, degrees and units are dropped, values are compared as numbers or, where
they have letters, as formulas (`12+x` is `x + 12`).

What the answer needs are the conditions with a value, a number or an expression, that the question
does not state. Two readings of "read":

* `read_right`: each of them is written, at the right name. One that is missing or has another value
  is a misreading.
* `values_right`: the values are written, at any names: for models that see the numbers and mix up
the points.

More than is needed may be written: a model also derives facts, and these cannot be distinguished
from invented ones. So a quantity that gets its right value and, later, another one (`AB = 2x+4`,
`AB = 10`) is read right.

Some lost problems were misread in the image; others were read right (`decompose`). Of the problems
that are solved from text and missed from the image, what the model wrote down is compared with the
conditions. The problems solved in both views go through the same comparison and are reported
beside them: a model that mixes up the points of a diagram does so in problems that it solves, too,
and only the difference is what misreading costs.

Transcriptions come from the view `own-transcription` or `transcribe` if the run has it. Else they
are what the image-only responses state before they answer: of a lost problem its wrong samples, of
a solved one its right samples. The paper has no such analysis.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Final, Literal

import numpy as np

from modgap.analysis import gap
from modgap.analysis.results import Clauses, ReadingPart, ReadingShares, ReadingSummary
from modgap.analysis.scores import Scores
from modgap.grading.formula import evaluate
from modgap.grading.number import UNITS, clean

ReadingVerdict = Literal["read_right", "misread", "unreadable", "nothing_to_read"]
Fact = tuple[str, str, str]
"""A relation (`=` value, `~` equal quantities, `perp`, `parallel`) and its two sides."""

MAX_CHARS: Final = 6_000
"""Characters of a response that are searched: conditions are asked for first."""
MAX_CLAUSE: Final = 400
SOURCES = ("own-transcription", "transcribe")
"""The views that ask for a transcription; the first one that a run has is compared."""

_NAME = (
    r"(?:m ?)?\\angle ?(?:(?:[A-Z]'?){1,3}|[0-9]{1,2})(?![A-Za-z0-9])"
    r"|(?:[ml] ?)?(?:(?:major|minor) ?)?\\widehat ?(?:[A-Z]'?){2,3}(?![A-Za-z0-9])"
    r"|line [A-Za-z](?![A-Za-z0-9])|(?<![A-Za-z0-9\\])(?:[A-Z]'?){2}(?![A-Za-z0-9])"
)
_POINT, _NUMBER = re.compile(r"[A-Z]'?"), re.compile(r"[0-9]+")
_QUANTITY = re.compile(_NAME)
_LAST_QUANTITY = re.compile(rf"(?:^|(?<![0-9+*/^(}}-])(?<![0-9+*/^(}}-] ))(?<![0-9\\])({_NAME})$")
_FIRST_QUANTITY = re.compile(rf"({_NAME})(?= *$| +[a-z]{{2}})")
_SPELLINGS = (
    (re.compile(r"\*\*|__|`|\$|\\[()\[\]]|</?think>"), " "),
    (re.compile(r"(?:∠|\\measuredangle(?![A-Za-z])|(?<![\\A-Za-z])[Aa]ngle\b) *"), r"\\angle "),
    (
        re.compile(
            r"(?:\\(?:overarc|wideparen|overparen)(?![A-Za-z])|(?<![\\A-Za-z])[Aa]rc\b|⌒) *"
        ),
        r"\\widehat ",
    ),
    (re.compile(r"⟂|⊥|\b(?:is |are )?perpendicular to\b"), r" \\perp "),
    (re.compile(r"∥|\b(?:is |are )?parallel to\b"), r" \\parallel "),
    (re.compile(r"\\cong(?![A-Za-z])|≅|\b(?:is|are) congruent to\b"), " = "),
    (
        re.compile(r"\\(?:overline|overleftrightarrow|overrightarrow|bar|mathrm|text)(?![A-Za-z])"),
        " ",
    ),
    (re.compile(r"(\\angle|\\widehat) *\{ *([A-Z0-9 ]{1,8}?) *\}|\{ *([A-Z]{2}) *\}"), r"\1 \2\3 "),
    (re.compile(r"\|([A-Z]{2})\|"), r"\1"),
    (re.compile(r"(?<![A-Za-z])([A-Z]) (?=[A-Z](?![A-Za-z]))"), r"\1"),
    (
        re.compile(
            rf"({_NAME})(?: *:| +(?:is equal to|equals?|measures"
            r"|has (?:a )?(?:length|measure)(?: of)?|is))"
            r" *(?=[-0-9.(\\]|[a-z](?![A-Za-z]))"
        ),
        r"\1 = ",
    ),
)
_SEPARATOR = re.compile(
    r",(?![0-9]{3}(?![0-9]))|[;\n]|\.(?![0-9])|\\(?:implies|Rightarrow|to|quad|\\)(?![A-Za-z])|=>|⇒|→"
    r"|\b(?:and|where|so|with|while|since|because|then|thus|therefore|hence|but|if)\b"
)
_PROMISING = re.compile(r"[=:≅∥⊥⟂]|\\(?:perp|parallel|cong)|\b(?:is|are|equals?|measures|has) ")
_SIGN = re.compile(r"=|\\perp(?![A-Za-z])|\\parallel(?![A-Za-z])")
_AFTER_VALUE = re.compile(r"\(?(?:^|(?<=[ 0-9}(]))[A-Za-z]{2,}(?![A-Za-z]).*|°")
_UNIT = re.compile(
    r"(?<=[0-9}) ])[ {]+(?:" + "|".join(sorted(UNITS, key=len, reverse=True)) + r")\b.*"
)


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause: its facts, and the value that it gives to a quantity, if it gives one."""

    facts: frozenset[Fact]
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """How a transcription compares with the conditions.

    Attributes:
        verdict: `read_right`, `misread`, `unreadable` (no clause found in it) or `nothing_to_read`
            (no condition has a value that the question does not state).
        values_right: Whether all needed values are written, at any names; as often as they are
            needed.
        clauses: Conditions, those without a value among them.
        clauses_read: Those that are written.
        needed: Conditions with a value, those left out that the question states.
        contradicted: Needed ones that are missing while their quantity is given another value.
    """

    verdict: ReadingVerdict
    values_right: bool
    clauses: int
    clauses_read: int
    needed: int
    contradicted: int


def read_clauses(text: str) -> list[Clause]:
    """The clauses that a text states, in its order; words around them are ignored."""
    return [clause for _, _, clause in _located(text)]


@lru_cache(maxsize=256)  # samples of one problem often say the same; long texts are not kept
def _located(text: str) -> tuple[tuple[int, int, Clause], ...]:
    """The clauses of a text with where they start and end."""
    found: list[tuple[int, int, Clause]] = []
    # Nothing is stated without a sign: most texts of reasoning have few of them.
    if not _PROMISING.search(text):
        return ()
    start = 0
    for end, after in [*(m.span() for m in _SEPARATOR.finditer(text)), (len(text), len(text))]:
        part = text[start:end]
        clause = _clause(part.strip()) if _PROMISING.search(part) else None
        if clause:
            first = start + len(part) - len(part.lstrip())
            found.append((first, start + len(part.rstrip()), clause))
        start = after
    return tuple(found)


def transcription(response: str) -> str:
    r"""The part of a response that may hold conditions.

    Everything before the last box, at most `MAX_CHARS` characters.
    """
    return response[: response.rfind("\\boxed") % (len(response) + 1)][:MAX_CHARS]


def compare(response: str, conditions: Sequence[str], question: str = "") -> Reading:
    """Compare what a response states with the conditions of its problem.

    Args:
        response: As the model wrote it.
        conditions: Clauses in PGPS9K's grammar; structural ones in words state nothing here.
        question: What it states need not be transcribed.
    """
    clauses, needed = _to_compare(tuple(conditions), question)
    said = read_clauses(transcription(response)) if clauses else []
    facts = {fact for clause in said for fact in clause.facts}
    missing = [clause for clause in needed if not _holds(facts, clause)]
    named = {side for relation, side, _ in facts if relation == "="}
    wanted = Counter(value for clause in needed if (value := clause.value))
    lacking = wanted - Counter(value for sign, _, value in facts if sign == "=")
    verdict: ReadingVerdict = (
        "nothing_to_read"
        if not needed
        else "unreadable"
        if not said
        else "misread"
        if missing
        else "read_right"
    )
    return Reading(
        verdict=verdict,
        values_right=verdict in ("read_right", "misread") and not lacking,
        clauses=len(clauses),
        clauses_read=sum(_holds(facts, clause) for clause in clauses),
        needed=len(needed),
        contradicted=sum(any(side in named for _, side, _ in clause.facts) for clause in missing),
    )


@lru_cache(maxsize=1024)  # the samples of a problem are compared one after the other
def _to_compare(
    conditions: tuple[str, ...], question: str
) -> tuple[tuple[Clause, ...], tuple[Clause, ...]]:
    """The clauses of the conditions, and those with a value that the question does not state."""
    clauses = tuple(clause for words in conditions for clause in _stated(words))
    given = {fact for clause in _stated(question) for fact in clause.facts}
    needed = (c for c in clauses if c.value is not None and not _holds(given, c))
    return clauses, tuple(needed)


@lru_cache(
    maxsize=16384
)  # conditions and questions are short, and the same in all runs of a report
def _stated(words: str) -> tuple[Clause, ...]:
    """The clauses of a condition or of a question."""
    return tuple(read_clauses(words))


@dataclass(frozen=True, slots=True)
class Misread:
    """What of a transcription is wrong, for a reader.

    Attributes:
        spans: Start and end, in characters of the response, of each clause that gives a quantity of
            a condition another value.
        missing: The conditions that are not written, in the data set's words.
    """

    spans: tuple[tuple[int, int], ...]
    missing: tuple[str, ...]


def misread_parts(response: str, conditions: Sequence[str], question: str = "") -> Misread:
    """Where a response misreads the conditions that `compare` counts; arguments as there."""
    given = {fact for clause in _stated(question) for fact in clause.facts}
    said = _located(transcription(response))
    facts = {fact for _, _, clause in said for fact in clause.facts}
    missing: list[str] = []
    wanted: set[str] = set()
    for words in conditions:
        for clause in _stated(words):
            if clause.value is not None and not _holds(given, clause) and not _holds(facts, clause):
                missing.append(words)
                wanted |= {side for _, side, _ in clause.facts}
    spans = tuple(
        (start, end)
        for start, end, clause in said
        if clause.value is not None and any(side in wanted for _, side, _ in clause.facts)
    )
    return Misread(spans, tuple(dict.fromkeys(missing)))


def share_read(response: str, conditions: Sequence[str], question: str = "") -> float | None:
    """The share of a problem's conditions that a response states first, from 0 to 1.

    Of n conditions with a value that the question does not state, those that are among the first n
    different values that the response states (again without what the question states). What a
    model derives after it wrote the conditions down does not count against it, and writing down
    everything that could be does not help. None where there is nothing to read.

    Args:
        response: As the model wrote it.
        conditions: As of `compare`.
        question: As of `compare`.
    """
    needed = to_read(conditions, question)
    if not needed:
        return None
    first = to_read([transcription(response)], question)[: len(needed)]
    facts = {fact for clause in first for fact in clause.facts}
    return sum(_holds(facts, clause) for clause in needed) / len(needed)


def to_read(conditions: Iterable[str], question: str = "") -> list[Clause]:
    """The different clauses with a value that the question does not state."""
    given = {fact for clause in read_clauses(question) for fact in clause.facts}
    every = (clause for words in conditions for clause in read_clauses(words))
    found = (c for c in every if c.value is not None and not _holds(given, c))
    return list(dict.fromkeys(found))


def _holds(facts: set[Fact], clause: Clause) -> bool:
    """Whether the facts state all of a clause; an angle may be named by its vertex alone."""
    return all(
        fact in facts or (fact[0], _vertex(fact[1]), fact[2]) in facts for fact in clause.facts
    )


def _vertex(quantity: str) -> str:
    points = _POINT.findall(quantity)
    return f"angle {points[1]}" if quantity.startswith("angle ") and len(points) == 3 else quantity


# ---- one clause ----------------------------------------------------------------------------------
@lru_cache(maxsize=16384)  # samples of one problem say the same things
def _clause(text: str) -> Clause | None:
    """A clause with one kind of sign.

    None if it has no quantity beside the sign, or if it is too long to be a clause.
    """
    if len(text) > MAX_CLAUSE:
        return None
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    if not _SIGN.search(text):
        return None
    text = clean(text).lstrip(" -*#>([")
    signs = {sign.lstrip("\\") for sign in _SIGN.findall(text)}
    if len(signs) != 1:
        return None
    sign = signs.pop()
    parts = [part.strip() for part in _SIGN.split(text)]
    quantities = list(_quantities(parts))
    names = sorted({name for name in quantities if name})
    if sign != "=":
        facts = frozenset((sign, a, b) for a, b in combinations(names, 2))
        return Clause(facts) if facts else None
    values: list[str] = []
    for part, name in zip(parts, quantities, strict=True):
        value = None if name else _value(part)
        if value:
            values.append(value)
    if names and values:
        return Clause(
            frozenset(("=", name, value) for name in names for value in values), values[0]
        )
    pairs = frozenset(("~", a, b) for a, b in combinations(names, 2))
    return Clause(pairs) if pairs else None


def _quantities(parts: Sequence[str]) -> Iterator[str | None]:
    """The quantity on each side of a relation, None for a side without one."""
    for number, part in enumerate(parts):
        match = _QUANTITY.fullmatch(part)
        if match is None and number == 0:
            match = _LAST_QUANTITY.search(part)
        elif match is None and number == len(parts) - 1:
            match = _FIRST_QUANTITY.match(part)
        yield _canonical(match[0]) if match else None


def _canonical(name: str) -> str:
    r"""One spelling: `angle ABC`, `arc AB`, `major arc AB`, `line l`, `AB`.

    Points are in the order that sorts first.
    """
    if name.startswith("line"):
        return f"line {name[-1]}"
    parts = _POINT.findall(name) or _NUMBER.findall(name)
    points = min("".join(parts), "".join(parts[::-1]))
    if "\\angle" in name:
        return f"angle {points}"
    if "\\widehat" in name:
        return (
            f"{'length of ' if name[0] == 'l' else ''}{'major ' if 'major' in name else ''}arc"
            f" {points}"
        )
    return points


def _value(text: str) -> str | None:
    """A key that two spellings of one number or expression share; None for what is neither."""
    text = _AFTER_VALUE.sub("", _UNIT.sub("", text)).strip(" .:!?")
    if ")" in text and "(" not in text:
        text = text[: text.index(")")].strip()
    if not text or _QUANTITY.search(text):
        return None
    values = evaluate(text)
    if values is None:
        return None
    numbers = values.numbers if values.letters else values.numbers[:1]
    return " ".join("-" if number is None else f"{number:.6g}" for number in numbers)


def decompose(readings: Readings) -> ReadingSummary | None:
    """How the lost problems of a run were read, and beside them those solved in both views.

    `None` where nothing was lost, no condition is recorded or no response holds a clause.
    """
    lost, solved = (_part(group) for group in (readings.lost, readings.solved))
    if not lost.n_problems or all(part.n_problems == part.unreadable for part in (lost, solved)):
        return None
    return ReadingSummary(source=", ".join(readings.views), **dict(lost), solved=solved)


KINDS = {
    "numbers": "misread in its numbers",
    "names": "misread only in the names of points",
    "right": "read right",
    "none": "no condition written down",
}
"""How a problem was read."""


@dataclass(frozen=True, slots=True)
class ProblemRead:
    """How the samples of a problem were read.

    Attributes:
        kind: A name of `KINDS`: what more than half of the samples that state a clause say; `None`
            where there is nothing to read.
        clauses: Conditions of these samples: all, written ones and contradicted ones.
    """

    kind: str | None
    clauses: Clauses


@dataclass(frozen=True, slots=True)
class Readings:
    """How the problems of a run were read, by id.

    Attributes:
        views: Those whose responses are compared with the conditions.
        lost: Problems that are solved from text and missed from the image.
        solved: Problems that are solved in both.
    """

    views: tuple[str, ...]
    lost: dict[str, ProblemRead]
    solved: dict[str, ProblemRead]

    @classmethod
    def of(cls, scores: Scores) -> Readings:
        """Compare the responses of a run with the conditions."""
        asked = [scores.views.index(view) for view in SOURCES if view in scores.views]
        views = asked[:1] or scores.side("vision")
        groups = scores.groups()
        lost, solved = (
            {
                problem.id: _read(scores, p, views, group)
                for p, problem in enumerate(scores.problems)
                if groups.get(problem.id) == group
            }
            for group in "tb"
        )
        return cls(tuple(scores.views[view] for view in views), lost, solved)


def _read(scores: Scores, p: int, views: Sequence[int], group: str) -> ProblemRead:
    """How a problem was read.

    Of a view that asks for it all samples count, of the vision-centric views those that agree with
    the group.
    """
    problem = scores.problems[p]
    if not problem.conditions:  # nothing to read, and no need to read a text
        return ProblemRead(None, Clauses(n=0, read=0, contradicted=0))
    codes_VS = scores.codes_PVS[p]
    keep_VS = np.zeros(codes_VS.shape, np.bool_)
    keep_VS[views] = codes_VS[views] >= 0
    if not set(SOURCES) & set(scores.views):
        keep_VS &= (codes_VS == 0) == (group == "b")
    said = [row.response for row in scores.responses(p, keep_VS)]
    compared = [compare(text, problem.conditions, problem.question) for text in said or [""]]
    readings = [reading for reading in compared if reading.verdict != "nothing_to_read"]
    counted = [reading for reading in readings if reading.verdict != "unreadable"]
    return ProblemRead(
        _kind(readings) if readings else None,
        Clauses(
            n=sum(x.clauses for x in counted),
            read=sum(x.clauses_read for x in counted),
            contradicted=sum(x.contradicted for x in counted),
        ),
    )


def _kind(readings: Sequence[Reading]) -> str:
    """What more than half of the samples that state a clause say."""
    readable = [reading for reading in readings if reading.verdict != "unreadable"]
    if not readable:
        return "none"
    if 2 * sum(reading.verdict == "read_right" for reading in readable) > len(readable):
        return "right"
    return (
        "names"
        if 2 * sum(reading.values_right for reading in readable) > len(readable)
        else "numbers"
    )


def _part(readings: Mapping[str, ProblemRead]) -> ReadingPart:
    """The counts and shares of some problems."""
    kinds = Counter(read.kind for read in readings.values() if read.kind)
    clauses = [read.clauses for read in readings.values()]
    return ReadingPart(
        n_problems=kinds.total(),
        nothing_to_read=len(readings) - kinds.total(),
        unreadable=kinds["none"],
        **dict(_shares(kinds["numbers"] + kinds["names"], kinds["right"])),
        values=_shares(kinds["numbers"], kinds["names"] + kinds["right"]),
        clauses=Clauses(
            n=sum(x.n for x in clauses),
            read=sum(x.read for x in clauses),
            contradicted=sum(x.contradicted for x in clauses),
        ),
    )


def _shares(misread: int, right: int) -> ReadingShares:
    """Problems misread and read right, with the share of the former.

    The interval is that of an accuracy: it keeps its width where all problems agree, as a bootstrap
    cannot.
    """
    share = gap.accuracy([1] * misread + [0] * right, 1) if misread + right else None
    return ReadingShares(
        read_right=right,
        misread=misread,
        share_misread=share.value if share else None,
        ci_low=share.ci_low if share else None,
        ci_high=share.ci_high if share else None,
    )
