"""The data of the page's problem viewer.

A small index of all problems, and blocks of details that are read on demand.

Both travel as JSON inside the page. Nothing in them can end the element that holds them or start
another one: `<`, `>`, `&` and the two line separators that old JavaScript treats as line ends are
written as escapes.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modgap.analysis.scores import Scores
from modgap.analysis.transcription import KINDS, lost_problems, misread_parts, read_in
from modgap.core.files import Root
from modgap.core.record import GradeRow, ProblemRow, Response
from modgap.core.view import ALL_VIEWS
from modgap.reporting.collect import EvalRun
from modgap.reporting.diagrams import image_folders, pictures

BLOCK = 50
"""Problems in one block."""
PACK_ABOVE = 24_000_000
"""Characters of details from which on blocks are compressed (the browser unpacks them when they are
looked at).
"""
GROUPS = "tvbn"
"""Text right and image wrong, the reverse, both right, both wrong; `-` where a problem is not
paired.
"""
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}
_ABSENT = (
    "no diagram recorded",
    "image not found",
    "image not embedded: the report holds {limit} at most",
    "image not embedded: it is outside the run's data set (modgap report --allow-outside)",
)


def embed_json(value: object) -> str:
    """JSON that is safe as the text of a `<script>` element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    # Half of a surrogate pair cannot be written as UTF-8; as an escape it can.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


Json = dict[str, object]
"""An object for viewer.js, which documents its keys."""
Sample = tuple[Response, GradeRow]


@dataclass(frozen=True, slots=True)
class Member:
    """A problem, and which of the runs have it."""

    row: ProblemRow
    runs: list[bool]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the viewer shows of one run.

    Attributes:
        views: Names, in order.
        groups: Paired problem -> its group, see `Scores.groups`.
        readings: Lost problem -> how it was read.
        samples: Problem and view -> its graded responses.
        read_in: The views whose responses are compared with the conditions.
    """

    views: tuple[str, ...]
    groups: dict[str, str]
    readings: dict[str, str]
    samples: dict[tuple[str, str], list[Sample]]
    read_in: set[str]


def viewer_data(
    runs: Sequence[EvalRun],
    scores: Sequence[Scores],
    images: int,
    *,
    data: Path | None = None,
    allow_outside: bool = False,
) -> tuple[Json, list[str], bool]:
    """What the viewer shows.

    Args:
        runs: The evaluations.
        scores: Of each of them.
        images: The number of problems whose diagrams are embedded, balanced over the outcomes of
            the first run.
        data: Diagrams may be in this folder, too.
        allow_outside: Diagrams may be outside the folders that the runs record.

    Returns:
        The index, the blocks as text for `<script>` elements, and whether the blocks are packed
        (gzip and base64).
    """
    problems = _merge(runs)
    root = Root(*image_folders(runs), *([data] if data else []), allow_outside=allow_outside)
    shown = [
        Shown(
            score.views,
            score.groups(),
            lost_problems(score),
            _samples(run),
            read_in(score),
        )
        for run, score in zip(runs, scores, strict=True)
    ]
    chosen = _choose(problems, [run.groups for run in shown], images)
    types = sorted({member.row.type for member in problems.values()})
    number_of = {name: number for number, name in enumerate(types)}
    every = dict.fromkeys(view for run in shown for view in run.views)
    asked = [view for view in ALL_VIEWS if view in every] + [
        view for view in every if view not in ALL_VIEWS
    ]
    index: list[Json] = []
    details: list[Json] = []
    for slug, member in problems.items():
        row = member.row
        entries, marks, prompts = _responses(member, shown)
        shown_here, absent = (
            (pictures(row, asked, root) if slug in chosen else ([], 2)) if row.image else ([], 0)
        )
        entry: Json = {
            "i": slug,
            "q": row.question,
            "a": row.answer,
            "t": number_of[row.type],
            "l": int(row.leaky),
        }
        has_it = [*zip(shown, member.runs, strict=True)]
        entry["g"] = [run.groups.get(row.id, "-") if has else "-" for run, has in has_it]
        entry["o"] = marks
        entry["d"] = [run.readings.get(row.id, "") if has else "" for run, has in has_it]
        entry["m"] = absent
        index.append(entry)
        details.append(
            {"c": ", ".join(row.conditions), "m": shown_here, "p": prompts, "r": entries}
        )
    head: Json = {
        "block": BLOCK,
        "types": types,
        "kinds": KINDS,
        "images": [words.format(limit=images) for words in _ABSENT],
        "runs": [_head(run.name, of_run.views) for run, of_run in zip(runs, shown, strict=True)],
        "problems": index,
    }
    blocks = [embed_json(details[start : start + BLOCK]) for start in range(0, len(details), BLOCK)]
    packed = sum(map(len, blocks)) > PACK_ABOVE
    return head, [_pack(block) for block in blocks] if packed else blocks, packed


def _head(name: str, views: Sequence[str]) -> Json:
    sides = [ALL_VIEWS[view].side if view in ALL_VIEWS else "control" for view in views]
    return {"name": name, "views": list(views), "sides": sides}


def _responses(
    member: Member, shown: Sequence[Shown]
) -> tuple[list[Json | None], list[list[str] | None], list[str]]:
    """The responses of each run to a problem, with their outcomes and prompts.

    Outcomes are letters; a response refers to its prompt by number.
    """
    prompts: dict[str, int] = {}
    entries: list[Json | None] = []
    marks: list[list[str] | None] = []
    for run, has_it in zip(shown, member.runs, strict=True):
        if not has_it:
            entries.append(None)
            marks.append(None)
            continue
        of_views = [run.samples.get((member.row.id, view), []) for view in run.views]
        # What a lost problem's transcription has wrong is marked.
        is_lost = run.readings.get(member.row.id)
        entries.append(
            {
                "v": [
                    _view(samples, prompts, member.row if is_lost and view in run.read_in else None)
                    for view, samples in zip(run.views, of_views, strict=True)
                ]
            }
        )
        marks.append(["".join(_mark(sample) for sample in samples) for samples in of_views])
    return entries, marks, list(prompts)


def _merge(runs: Sequence[EvalRun]) -> dict[str, Member]:
    """Slug -> the problem and which runs have it.

    Problems that share an id but differ in their words are kept apart.
    """
    found: dict[tuple[str, str, str], Member] = {}
    for number, run in enumerate(runs):
        for row in run.problems.values():
            key = (row.id, row.question, row.answer)
            if key not in found:
                found[key] = Member(row, [False] * len(runs))
            found[key].runs[number] = True
    merged: dict[str, Member] = {}
    for (name, _, _), member in found.items():
        slug, number = name, 1
        while slug in merged:
            number += 1
            slug = f"{name}~{number}"
        merged[slug] = member
    return merged


def _choose(
    problems: Mapping[str, Member], groups: Sequence[dict[str, str]], limit: int
) -> set[str]:
    """Which problems get their diagram embedded.

    Taken from each outcome in turn, in the order of the problems.
    """
    queues: dict[str, list[str]] = {}
    for slug, member in problems.items():
        if member.row.image:
            group = groups[0].get(member.row.id, "-") if member.runs[0] else "-"
            queues.setdefault(group, []).append(slug)
    chosen: list[str] = []
    for rank in range(max(map(len, queues.values()), default=0)):
        chosen += [
            queues[group][rank] for group in (*GROUPS, "-") if rank < len(queues.get(group, []))
        ]
        if len(chosen) >= limit:
            break
    return set(chosen[:limit])


def _samples(run: EvalRun) -> dict[tuple[str, str], list[Sample]]:
    found: dict[tuple[str, str], list[Sample]] = {}
    for row in sorted(run.responses, key=lambda row: row.sample):
        grade = run.grades.get(row.key)
        if grade is not None:
            found.setdefault((row.problem_id, row.view), []).append((row, grade))
    return found


def _view(samples: Sequence[Sample], prompts: dict[str, int], read: ProblemRow | None) -> Json:
    """The samples of a view, and the number of their prompt; new prompts get the next number.

    Args:
        samples: In order.
        prompts: The numbers of all prompts.
        read: The problem whose conditions the samples transcribe, if they are compared.
    """
    shown: list[list[object]] = []
    number = -1
    for row, grade in samples:
        number = prompts.setdefault(row.prompt, len(prompts))
        fields = [
            row.response,
            grade.outcome[0],
            grade.answer,
            grade.stage,
            row.finish_reason,
            row.completion_tokens,
        ]
        marks = _misread(row.response, read) if read else None
        shown.append([*fields, row.error, marks] if row.error or marks else fields)
    return {"p": number, "s": shown}


def _misread(response: str, problem: ProblemRow) -> Json | None:
    """The clauses that are misread, in UTF-16 units as JavaScript counts, and what is missing."""
    found = misread_parts(response, problem.conditions, problem.question)
    if not found.missing:
        return None
    spans = [[_units(response[:start]), _units(response[:end])] for start, end in found.spans]
    return {"w": spans, "m": list(found.missing)}


def _units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


def _mark(sample: Sample) -> str:
    """The outcome's first letter, capital if the response was cut at the limit."""
    row, grade = sample
    return grade.outcome[0].upper() if row.finish_reason == "length" else grade.outcome[0]


def _pack(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
