"""The gap in two parts, by how the image was read.

Some lost problems were misread in the image by the model; others were read right.

Of the problems that are solved from text and missed from the image, what the model wrote down is
compared with the conditions (`analysis.transcription`). The problems solved in both views go
through the same comparison and are reported beside them: a model that mixes up the points of a
diagram does so in problems that it solves, too, and only the difference is what misreading costs.

Transcriptions come from the view `transcribe` if the run has it. Else they are what the image-only
responses state before they answer: of a lost problem its wrong samples, of a solved one its right
samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from modgap.analysis import gap
from modgap.analysis.results import Clauses, ReadingPart, ReadingShares, ReadingSummary
from modgap.analysis.scores import Scores
from modgap.analysis.transcription import Reading, compare

SOURCE = "transcribe"


def decompose(scores: Scores) -> ReadingSummary | None:
    """How the lost problems of a run were read, and beside them those solved in both views.

    `None` where nothing was lost, no condition is recorded or no response holds a clause.
    """
    lost, solved = (_part(_readings(scores, group)) for group in "tb")
    if not lost.n_problems or all(part.n_problems == part.unreadable for part in (lost, solved)):
        return None
    return ReadingSummary(
        source=", ".join(scores.views[v] for v in _sources(scores)), **dict(lost), solved=solved
    )


def lost_problems(scores: Scores) -> dict[str, str]:
    """Lost problem -> how it was read: a name of `KINDS`."""
    return {name: _kind(readings) for name, readings in _readings(scores, "t").items() if readings}


KINDS = {
    "numbers": "misread in its numbers",
    "names": "misread only in the names of points",
    "right": "read right",
    "none": "no condition written down",
}
"""How a problem was read."""


def _sources(scores: Scores) -> list[int]:
    return [scores.views.index(SOURCE)] if SOURCE in scores.views else scores.side("vision")


def _readings(scores: Scores, group: str) -> dict[str, list[Reading]]:
    """Problem of a group -> its readings; empty where there is nothing to read.

    Of the view `transcribe` all samples count, of the vision-centric views those that agree with
    the group.
    """
    groups = scores.groups()
    views = _sources(scores)
    found: dict[str, list[Reading]] = {}
    for p, problem in enumerate(scores.problems):
        if groups.get(problem.id) != group:
            continue
        keep_VS = scores.codes_PVS[p, views] >= 0
        if SOURCE not in scores.views:
            keep_VS &= scores.correct_PVS[p, views] == (group == "b")
        said = list(scores.said_PVS[p, views][keep_VS]) or [""]
        readings = [compare(text, problem.conditions, problem.question) for text in said]
        found[problem.id] = [
            reading for reading in readings if reading.verdict != "nothing_to_read"
        ]
    return found


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


def _part(readings: Mapping[str, Sequence[Reading]]) -> ReadingPart:
    """The counts and shares of some problems."""
    kinds = Counter(_kind(rows) for rows in readings.values() if rows)
    counted = [x for rows in readings.values() for x in rows if x.verdict != "unreadable"]
    return ReadingPart(
        n_problems=kinds.total(),
        nothing_to_read=len(readings) - kinds.total(),
        unreadable=kinds["none"],
        **dict(_shares(kinds["numbers"] + kinds["names"], kinds["right"])),
        values=_shares(kinds["numbers"], kinds["names"] + kinds["right"]),
        clauses=Clauses(
            n=sum(x.clauses for x in counted),
            read=sum(x.clauses_read for x in counted),
            contradicted=sum(x.contradicted for x in counted),
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
