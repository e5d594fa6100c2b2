"""The data of the page's problem viewer: a small index of all problems, and blocks of details read on demand.

Both travel as JSON inside the page. Nothing in them can end the element that holds them or start another one: `<`, `>`,
`&` and the two line separators that old JavaScript takes for line ends are written as escapes.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Sequence
from typing import Any

from modgap.analysis.reading import KINDS, lost_problems
from modgap.analysis.scores import Scores
from modgap.core.record import ProblemRow
from modgap.core.view import ALL_VIEWS
from modgap.reporting.collect import EvalRun
from modgap.reporting.pictures import pictures_of_views, read_picture

BLOCK = 50
"""Problems in one block."""
PACK_ABOVE = 24_000_000
"""Characters of details from which on blocks are compressed (the browser unpacks them when they are looked at)."""
IMAGE_SIDE = 512
"""Larger diagrams are embedded at this size (pixels of the longer side)."""
GROUPS = "tvbn"
"""Text right and image wrong, the reverse, both right, both wrong; `-` where a problem is not paired."""
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ABSENT = ("no diagram recorded", "image not found", "image not embedded: the report holds {limit} at most")


def embed_json(value: Any) -> str:
    """JSON that is safe as the text of a `<script>` element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    # Half of a surrogate pair cannot be written as UTF-8; as an escape it can.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def viewer_data(
    runs: Sequence[EvalRun], scores: Sequence[Scores], images: int
) -> tuple[dict[str, Any], list[str], bool]:
    """What the viewer shows.

    Args:
        runs: The evaluations.
        scores: Of each of them.
        images: Of how many problems to embed the diagrams, balanced over the outcomes of the first run.

    Returns:
        The index, the blocks as text for `<script>` elements, and whether the blocks are packed (gzip and base64).
    """
    problems = _merge(runs)
    groups = [score.groups() for score in scores]
    chosen = _choose(problems, groups, images)
    readings = [lost_problems(score) for score in scores]
    samples = [_samples(run) for run in runs]
    types = sorted({row.type for row, _ in problems.values()})
    number_of = {name: number for number, name in enumerate(types)}
    views = [score.views for score in scores]
    every = dict.fromkeys(view for of_run in views for view in of_run)
    asked = [view for view in ALL_VIEWS if view in every] + [view for view in every if view not in ALL_VIEWS]
    index: list[dict[str, Any]] = []
    details: list[dict[str, Any]] = []
    for slug, (row, members) in problems.items():
        prompts: dict[str, int] = {}
        entries: list[Any] = []
        marks: list[Any] = []
        for number, member in enumerate(members):
            if not member:
                entries.append(None)
                marks.append(None)
                continue
            shown = [_view(samples[number].get((row.id, view), []), prompts) for view in views[number]]
            entries.append({"v": shown})
            marks.append(["".join(_mark(sample) for sample in view["s"]) for view in shown])
        pictures, absent = (_pictures(row, asked) if slug in chosen else ([], 2)) if row.image else ([], 0)
        index.append(
            {
                "i": slug,
                "q": row.question,
                "a": row.answer,
                "t": number_of[row.type],
                "l": int(row.leaky),
                "g": [group.get(row.id, "-") if member else "-" for group, member in zip(groups, members, strict=True)],
                "o": marks,
                "d": [found.get(row.id, "") if member else "" for found, member in zip(readings, members, strict=True)],
                "m": absent,
            }
        )
        details.append({"c": ", ".join(row.conditions), "m": pictures, "p": list(prompts), "r": entries})
    head = {
        "block": BLOCK,
        "types": types,
        "kinds": KINDS,
        "images": [words.format(limit=images) for words in _ABSENT],
        "runs": [
            {
                "name": run.name,
                "views": list(names),
                "sides": [ALL_VIEWS[v].side if v in ALL_VIEWS else "control" for v in names],
            }
            for run, names in zip(runs, views, strict=True)
        ],
        "problems": index,
    }
    blocks = [embed_json(details[start : start + BLOCK]) for start in range(0, len(details), BLOCK)]
    packed = sum(map(len, blocks)) > PACK_ABOVE
    return head, [_pack(block) for block in blocks] if packed else blocks, packed


def _merge(runs: Sequence[EvalRun]) -> dict[str, tuple[Any, list[bool]]]:
    """Slug -> the problem and which runs have it; problems of one id but other words are kept apart."""
    found: dict[tuple[str, str, str], tuple[Any, list[bool]]] = {}
    for number, run in enumerate(runs):
        for row in run.problems.values():
            key = (row.id, row.question, row.answer)
            if key not in found:
                found[key] = (row, [False] * len(runs))
            found[key][1][number] = True
    merged: dict[str, tuple[Any, list[bool]]] = {}
    for (name, _, _), entry in found.items():
        slug, number = name, 1
        while slug in merged:
            number += 1
            slug = f"{name}~{number}"
        merged[slug] = entry
    return merged


def _choose(problems: dict[str, tuple[Any, list[bool]]], groups: Sequence[dict[str, str]], limit: int) -> set[str]:
    """Which problems get their diagram embedded: in turn from each outcome, in the order of the problems."""
    queues: dict[str, list[str]] = {}
    for slug, (row, members) in problems.items():
        if row.image:
            group = groups[0].get(row.id, "-") if members[0] else "-"
            queues.setdefault(group, []).append(slug)
    chosen: list[str] = []
    for rank in range(max(map(len, queues.values()), default=0)):
        chosen += [queues[group][rank] for group in (*GROUPS, "-") if rank < len(queues.get(group, []))]
        if len(chosen) >= limit:
            break
    return set(chosen[:limit])


def _samples(run: EvalRun) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    found: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for row in sorted(run.responses, key=lambda row: row.sample):
        grade = run.grades.get(row.key)
        if grade is not None:
            found.setdefault((row.problem_id, row.view), []).append((row, grade))
    return found


def _view(samples: list[tuple[Any, ...]], prompts: dict[str, int]) -> dict[str, Any]:
    shown: list[list[Any]] = []
    number = -1
    for row, grade in samples:
        number = prompts.setdefault(row.prompt, len(prompts))
        shown.append(
            [
                row.response,
                grade.outcome[0],
                grade.answer,
                grade.stage,
                row.finish_reason,
                row.completion_tokens,
                *([row.error] if row.error else []),
            ]
        )
    return {"p": number, "s": shown}


def _mark(sample: list[Any]) -> str:
    """The outcome's first letter, capital if the response was cut at the limit."""
    return sample[1].upper() if sample[4] == "length" else sample[1]


def _pictures(row: ProblemRow, asked: Sequence[str]) -> tuple[list[tuple[str, str]], int]:
    """The distinct diagrams of a problem, each with the views that show it (empty: all), or why there is none.

    Where only one place is known of a problem whose views have images of their own, the caption says whose it is.
    """
    assert row.image is not None
    of_views: dict[str, str] = {}
    if row.question_type:
        try:
            of_views = pictures_of_views(row.image, asked)
        except (OSError, ValueError, KeyError):
            of_views = {}
        if not of_views:
            whose = "vision-only" if "vision-only" in row.views else next(iter(row.views), "")
            of_views = {whose: row.image}
    shown: dict[str, list[str]] = {}
    absent = 1
    for view, place in of_views.items() or {"": row.image}.items():
        picture, absent_here = _embed(place)
        absent = min(absent, absent_here)
        if picture:
            shown.setdefault(picture, []).append(view)
    return [(picture, ", ".join(filter(None, of))) for picture, of in shown.items()], absent


def _embed(path: str) -> tuple[str | None, int]:
    """A diagram as the model saw it, as a data URI, or why there is none (a position in `_ABSENT`)."""
    from PIL import Image

    from modgap.core.images import plain_bytes, to_rgb

    try:
        data = plain_bytes(read_picture(path))
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format
            if kind not in ("PNG", "JPEG", "GIF", "WEBP") or max(image.size) > IMAGE_SIDE:
                small = to_rgb(image)
                small.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
                buffer = io.BytesIO()
                small.save(buffer, "PNG", optimize=True)
                data, kind = buffer.getvalue(), "PNG"
    except Exception:  # Pillow raises a dozen kinds on a broken file; pyarrow and the system have others
        return None, 1
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}", 0


def _pack(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
