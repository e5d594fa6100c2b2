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
from typing import Any, NamedTuple, cast

import numpy as np

from modgap.analysis.scores import Answer, Scores
from modgap.analysis.transcription import KINDS, Readings, misread_parts
from modgap.core.files import Root
from modgap.core.rows import OUTCOMES, Outcome, ProblemRow, Response
from modgap.core.text import counted
from modgap.core.view import ALL_VIEWS
from modgap.reporting.collect import EvalRun
from modgap.reporting.diagrams import image_folders, pictures
from modgap.reporting.frame import LATEX

BLOCK = 50
"""Problems in one block."""
PACK_ABOVE = 24_000_000
"""Characters of details from which on blocks are compressed (the browser unpacks them when they are
looked at).
"""
MOST_RESPONSES, MOST_BYTES = 100_000, 150_000_000
"""The most responses that a page embeds, and about how many bytes of `responses.jsonl`."""
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


class ViewerData(NamedTuple):
    """What the page holds for its viewer.

    Attributes:
        index: Of all problems that it shows.
        blocks: Their details, as text for `<script>` elements.
        packed: Whether the blocks are packed (gzip and base64).
        latex: Whether they hold LaTeX.
        words: What of the responses is not embedded, in words; empty where all are.
    """

    index: Json
    blocks: list[str]
    packed: bool
    latex: bool
    words: str


@dataclass(frozen=True, slots=True)
class Member:
    """A problem, and which of the runs have it."""

    row: ProblemRow
    runs: list[bool]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the viewer shows of one run.

    Attributes:
        scores: Its verdicts and responses.
        groups: Paired problem -> its group, see `Scores.groups`.
        readings: Lost problem -> how it was read.
        read_in: The views whose responses are compared with the conditions.
        place: Problem -> its position in the scores.
    """

    scores: Scores
    groups: dict[str, str]
    readings: dict[str, str]
    read_in: set[str]
    place: dict[str, int]

    @classmethod
    def of(cls, run: EvalRun, readings: Readings) -> Shown:
        """What is shown of a run whose problems were read so."""
        return cls(
            scores=run.scores,
            groups=run.scores.groups(),
            readings={name: read.kind for name, read in readings.lost.items() if read.kind},
            read_in=set(readings.views),
            place={problem.id: p for p, problem in enumerate(run.scores.problems)},
        )


def viewer_data(
    runs: Sequence[EvalRun],
    readings: Sequence[Readings],
    images: int,
    *,
    data: Path | None = None,
    allow_outside: bool = False,
) -> ViewerData:
    """What the viewer shows.

    Args:
        runs: The evaluations.
        readings: How the problems of each of them were read.
        images: The number of problems whose diagrams are embedded, balanced over the outcomes of
            the first run.
        data: Diagrams may be in this folder, too.
        allow_outside: Diagrams may be outside the folders that the runs record.
    """
    problems = _merge(runs)
    root = Root(*image_folders(runs), *([data] if data else []), allow_outside=allow_outside)
    shown = [Shown.of(run, read) for run, read in zip(runs, readings, strict=True)]
    groups = [run.groups for run in shown]
    problems, samples, words = _bounded(problems, shown, _most(runs))
    with_image = {slug: member for slug, member in problems.items() if member.row.image}
    chosen = set(_choose(with_image, groups, images))
    types = sorted({member.row.type for member in problems.values()})
    number_of = {name: number for number, name in enumerate(types)}
    every = dict.fromkeys(view for run in shown for view in run.scores.views)
    asked = [view for view in ALL_VIEWS if view in every] + [
        view for view in every if view not in ALL_VIEWS
    ]
    index: list[Json] = []
    details = _Details()
    for slug, member in problems.items():
        row = member.row
        entries, marks, prompts = _responses(member, shown, samples)
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
        details.add(
            {"c": ", ".join(row.conditions), "m": shown_here, "p": prompts, "r": entries},
            (row.question, *row.conditions),
        )
    details.end_block()
    head: Json = {
        "block": BLOCK,
        "latex": details.latex,
        "types": types,
        "kinds": KINDS,
        "images": [text.format(limit=images) for text in _ABSENT],
        "runs": [_head(run.name, run.scores.views) for run in runs],
        "problems": index,
    }
    return ViewerData(head, details.blocks, details.packed, details.latex, words)


class _Details:
    """The details of problems, collected in blocks: these are packed once they are large."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.packed = self.latex = False
        self._size = 0
        self._block: list[Json] = []

    def add(self, detail: Json, texts: Sequence[str]) -> None:
        """Add a problem, whose question and conditions are `texts`."""
        self._block.append(detail)
        self.latex = self.latex or any(map(LATEX.search, texts))
        if len(self._block) == BLOCK:
            self.end_block()

    def end_block(self) -> None:
        """Write the block that was begun."""
        if not self._block:
            return
        said = (
            sample[0]
            for detail in self._block
            for run in cast("list[Any]", detail["r"])
            if run
            for view in run["v"]
            for sample in view["s"]
        )
        self.latex = self.latex or any(map(LATEX.search, said))
        text = embed_json(self._block)
        self._block = []
        self._size += len(text)
        if not self.packed and self._size > PACK_ABOVE:
            self.packed = True
            self.blocks = [_pack(block) for block in self.blocks]
        self.blocks.append(_pack(text) if self.packed else text)


def _most(runs: Sequence[EvalRun]) -> int:
    """The most responses that are embedded: fewer where they are long."""
    files = [run.path / "responses.jsonl" for run in runs]
    size = sum(file.stat().st_size for file in files if file.exists())
    count = sum(run.scores.n_responses for run in runs)
    return min(MOST_RESPONSES, int(MOST_BYTES * count / size)) if size else MOST_RESPONSES


def _bounded(
    problems: dict[str, Member], shown: Sequence[Shown], most: int
) -> tuple[dict[str, Member], int, str]:
    """The problems and the number of samples of each view that the page can hold, and words.

    The first samples of all problems are kept; where even one of each is too many, fewer problems,
    balanced over the outcomes of the first run.
    """
    graded = [(run.scores.codes_PVS >= 0).sum(axis=2) for run in shown]
    total = sum(int(count_PV.sum()) for count_PV in graded)
    largest = max((int(count_PV.max(initial=0)) for count_PV in graded), default=0)
    if total <= most:
        return problems, largest, ""
    samples = largest
    while samples > 1 and sum(int(np.minimum(n_PV, samples).sum()) for n_PV in graded) > most:
        samples -= 1
    kept, left = dict[str, Member](), most
    for slug in _choose(problems, [run.groups for run in shown], len(problems)):
        member = problems[slug]
        size = sum(
            int(np.minimum(n_PV[run.place[member.row.id]], samples).sum())
            for n_PV, run, has_it in zip(graded, shown, member.runs, strict=True)
            if has_it
        )
        if size > left:
            break
        kept[slug], left = member, left - size
    of_problems = (
        f" of {len(kept):,} of {len(problems):,} problems" if len(kept) < len(problems) else ""
    )
    words = (
        f"The viewer holds {most - left:,} of {total:,} responses, so that a browser can open the"
        f" page: the first {counted(samples, 'sample')} of each view{of_problems}. All numbers"
        " above are of all responses. A report on a part of the run (modgap cut) shows that part."
    )
    return {slug: member for slug, member in problems.items() if slug in kept}, samples, words


def _head(name: str, views: Sequence[str]) -> Json:
    sides = [ALL_VIEWS[view].side if view in ALL_VIEWS else "control" for view in views]
    return {"name": name, "views": list(views), "sides": sides}


def _responses(
    member: Member, shown: Sequence[Shown], samples: int
) -> tuple[list[Json | None], list[list[str] | None], list[str]]:
    """The responses of each run to a problem, with their outcomes and prompts.

    Outcomes are letters; a response refers to its prompt by number. At most `samples` of a view.
    """
    prompts: dict[str, int] = {}
    entries: list[Json | None] = []
    marks: list[list[str] | None] = []
    for run, has_it in zip(shown, member.runs, strict=True):
        if not has_it:
            entries.append(None)
            marks.append(None)
            continue
        scores, p = run.scores, run.place[member.row.id]
        graded_VS = scores.codes_PVS[p] >= 0
        keep_VS = graded_VS & (graded_VS.cumsum(axis=1) <= samples)
        rows = iter(scores.responses(p, keep_VS))
        # What a lost problem's transcription has wrong is marked.
        is_lost = run.readings.get(member.row.id)
        views: list[Json] = []
        letters: list[str] = []
        for v, view in enumerate(scores.views):
            graded = [
                (next(rows), scores.answers[scores.answers_PVS[p, v, s]],
                 OUTCOMES[scores.codes_PVS[p, v, s]])
                for s in np.flatnonzero(keep_VS[v])
            ]  # fmt: skip
            compared = member.row if is_lost and view in run.read_in else None
            views.append(_view(graded, prompts, compared))
            letters.append("".join(_mark(row, outcome) for row, _, outcome in graded))
        entries.append({"v": views})
        marks.append(letters)
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
) -> list[str]:
    """Some problems, taken from each outcome of the first run in turn, in their order."""
    queues: dict[str, list[str]] = {}
    for slug, member in problems.items():
        group = groups[0].get(member.row.id, "-") if member.runs[0] else "-"
        queues.setdefault(group, []).append(slug)
    chosen: list[str] = []
    for rank in range(max(map(len, queues.values()), default=0)):
        chosen += [
            queues[group][rank] for group in (*GROUPS, "-") if rank < len(queues.get(group, []))
        ]
        if len(chosen) >= limit:
            break
    return chosen[:limit]


def _view(
    samples: Sequence[tuple[Response, Answer, Outcome]],
    prompts: dict[str, int],
    read: ProblemRow | None,
) -> Json:
    """The samples of a view, and the number of their prompt; new prompts get the next number.

    Args:
        samples: In order.
        prompts: The numbers of all prompts.
        read: The problem whose conditions the samples transcribe, if they are compared.
    """
    shown: list[list[object]] = []
    number = -1
    for row, answer, outcome in samples:
        number = prompts.setdefault(row.prompt, len(prompts))
        fields = [
            row.response,
            outcome[0],
            answer.words,
            answer.stage,
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


def _mark(row: Response, outcome: Outcome) -> str:
    """The outcome's first letter, capital if the response was cut at the limit."""
    return outcome[0].upper() if row.finish_reason == "length" else outcome[0]


def _pack(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
