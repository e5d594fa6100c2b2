"""MathVerse (`AI4Math/MathVerse`): each problem in up to six versions.

Read from Hugging Face's parquet files or from JSON.

```
--data testmini.parquet     a file, parquet or JSON, `testmini` or `testmini_text_only`
--data FOLDER               all parquet files below it that are MathVerse's; else its JSON files
--data AI4Math/MathVerse    the parquet files from the Hugging Face hub
```

One `Problem` for each `problem_index`; its versions are its views, each with the words (`question`)
and the image that its row has, so that pairing and clustering by problem need no further code.
`Problem.question` is `question_for_eval`, the whole text with its choices, which the judge reads;
rows without it (`testmini_text_only`) use their `question` instead.

Differs from the original, which asks what it finds row by row: faulty and repeated rows are
reported; a gold answer or a whole text that differs between versions is kept for each version. A
question type may be spelled in other ways (`multi_choice`, `Free Form`); an unknown one is a fault,
since it decides how an answer is graded. A row without a gold answer is reported by `modgap data
check`; it is asked, and graded `error`.

Images stay encoded until they are needed; versions that show the same image share its bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modgap.core.errors import UserError, command_line, part
from modgap.core.files import Root
from modgap.core.problem import Problem, Shown
from modgap.core.text import counted
from modgap.core.view import ALL_VIEWS, VERSION_VIEWS
from modgap.datasets.faults import (
    Counts,
    Fault,
    Progress,
    Report,
    inspections,
    named,
    text_fault,
    unusual_images,
)
from modgap.datasets.mathverse_rows import Row, files_of, line_of, place_of, scan, take_images
from modgap.grading.mathverse import Case, grade_by_rule, grader_of

if TYPE_CHECKING:
    from modgap.core.images import Inspection


def read(
    path: str | Path,
    split: str = "test",
    limit: int | None = None,
    allow_outside: bool = False,
) -> Iterator[Problem]:
    """The problems, in the order in which they first appear.

    Args:
        path: A file, a folder, or a hub id; see the module.
        split: `test`; MathVerse has no training split.
        limit: The most problems to read, from the first, with all of their versions.
        allow_outside: Files and images may be outside the data's folder.

    Raises:
        UserError: The data does not exist, the hub cannot be reached, or a row is faulty; the
            message names it.
    """
    if split != "test":
        raise UserError(
            f"MathVerse has no {split} split: it is for measuring only; train on another data set."
        )
    root = Root(place_of(path), allow_outside=allow_outside)
    rows = rows_in_order(path, allow_outside=allow_outside)
    groups = list(_by_problem(rows).items())[:limit]
    wanted = [row for _, of_problem in groups for row in of_problem]
    take_images(wanted)
    for row in wanted:
        if isinstance(row.image, Path):
            root.check(row.image, f"{row.file} row {row.number}, {row.problem}: {row.image}")
    for index, (name, of_problem) in enumerate(groups):
        yield _problem(name, of_problem, index)


def rows_in_order(path: str | Path, *, allow_outside: bool = False) -> list[Row]:
    """The rows in the order of the files, without images.

    Args:
        path: As in `read`.
        allow_outside: Files may be outside the data's folder.

    Raises:
        UserError: As `read`.
    """
    rows: list[Row] = []
    place = place_of(path)
    for item in scan(files_of(place, Root(place, allow_outside=allow_outside))):
        if isinstance(item, Row):
            rows.append(item)
        elif item.severity == "error":
            raise UserError(
                f"{part(item)}."
                f" `{command_line('data', 'check', path, '--benchmark', 'mathverse')}` names"
                " every fault."
            )
    return rows


def check(
    path: str | Path, progress: Progress | None = None, allow_outside: bool = False
) -> Report:
    """Everything that is wrong with the data, and how many problems and versions it holds.

    Each image is decoded.

    Args:
        path: As in `read`.
        progress: Called with the number of decoded images.
        allow_outside: Files and images may be outside the data's folder.

    Raises:
        UserError: The data does not exist, or a file of it is outside its folder.
    """
    report, counts = Report(Path(path)), Counts()
    rows: list[Row] = []
    place = place_of(path)
    root = Root(place, allow_outside=allow_outside)
    for item in scan(files_of(place, root)):
        report.faults.append(item) if isinstance(item, Fault) else rows.append(item)
    take_images(rows)
    groups = _by_problem(rows)
    for index, (name, of_problem) in enumerate(groups.items()):
        counts.add(_problem(name, of_problem, index), bare=False)
        counts.versions.update(row.view for row in of_problem)
        report.faults += _problem_faults(name, of_problem)
    counts.versions = Counter(
        {view: counts.versions[view] for view in ALL_VIEWS if counts.versions[view]}
    )
    report.faults += _image_faults(rows, counts, root, progress)
    unpaired: list[str] = []
    for name, of_problem in groups.items():
        sides = {ALL_VIEWS[row.view].side for row in of_problem} - {"control"}
        if len(sides) < 2:
            unpaired.append(name)
    if unpaired:
        some = f"{', '.join(unpaired[:3])}{' ...' if len(unpaired) > 3 else ''}"
        message = (
            f"{counted(len(unpaired), 'problem')} without one side of the gap ({some}): no gap can"
            " be measured there"
        )
        report.faults.append(Fault(report.path.name, "", "unpaired", message, "warning"))
    if not rows and report.ok:
        report.faults.append(Fault(report.path.name, "", "empty", "holds no problem"))
    report.splits["testmini"] = counts
    report.faults.sort(key=lambda fault: (fault.file, fault.line or math.inf))
    return report


# ---- problems ------------------------------------------------------------------------------------


def _by_problem(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.problem, []).append(row)
    order = {view: position for position, view in enumerate(ALL_VIEWS)}
    return {
        name: sorted(of_problem, key=lambda row: order[row.view])
        for name, of_problem in groups.items()
    }


def _problem(name: str, rows: list[Row], index: int) -> Problem:
    """A problem from its rows; Text Dominant is first if it exists."""
    first = rows[0]
    # The image of Vision Only shows the whole problem.
    fullest = max(rows, key=lambda row: row.view == "vision-only")
    shown: dict[str, Shown] = {}
    for row in rows:
        image = (
            row.image if isinstance(row.image, Path | bytes) and row.view in VERSION_VIEWS else None
        )
        question = row.whole if row.whole != first.whole else None
        answer = row.answer if row.answer != first.answer else None
        shown[row.view] = Shown(row.question, question, answer, image)
    return Problem(
        id=name,
        question=first.whole,
        answer=first.answer,
        image=shown[fullest.view].image,
        image_at=f"{fullest.file.absolute()}#{fullest.number}"
        if isinstance(fullest.image, bytes)
        else "",
        type=": ".join(part for part in (first.subject, first.subfield) if part),
        index=index,
        shown=shown,
        grader=grader_of(first.question_type),
        views=tuple(shown),
        labels={"subject": first.subject} if first.subject else {},
    )


def _problem_faults(name: str, rows: list[Row]) -> Iterator[Fault]:
    """What is wrong with a problem's gold answers and types.

    Each is checked with the grader that will grade the model.
    """
    file, line = rows[0].file.name, line_of(rows[0].file, rows[0].number)
    for row in rows:
        for text in (name, row.question, row.whole, row.answer):
            if complaint := text_fault(text, may_be_empty=True):
                yield Fault(row.file.name, name, *complaint, line=line_of(row.file, row.number))
                break
        if not row.answer.strip():
            yield Fault(
                row.file.name,
                name,
                "gold-missing",
                f"{row.view} has no answer",
                line=line_of(row.file, row.number),
            )
    if len(golds := dict.fromkeys(row.answer.strip() for row in rows)) > 1:
        words = (
            f"the answer differs between versions ({', '.join(map(repr, golds))}): each is graded"
            " by its own"
        )
        yield Fault(file, name, "golds-differ", words, "warning", line)
    if len(kinds := dict.fromkeys(row.question_type for row in rows)) > 1:
        yield Fault(
            file,
            name,
            "types-differ",
            f"is {' and '.join(kinds)}, by version: make it one",
            line=line,
        )
    for gold, row in {row.answer: row for row in rows if row.answer.strip()}.items():
        own = grade_by_rule(Case(f"\\boxed{{{gold}}}", gold, row.whole, row.question_type))
        if own.answer is not None and getattr(own, "stage", "") == "gold":
            message = (
                f"the answer {gold!r} names no choice of the question, so nothing can be graded"
                " by it"
            )
            yield Fault(
                row.file.name, name, "gold-unreadable", message, line=line_of(row.file, row.number)
            )


def _image_faults(
    rows: Sequence[Row], counts: Counts, root: Root, progress: Progress | None
) -> Iterator[Fault]:
    shown: dict[Path | bytes, list[Row]] = {}
    for row in rows:
        if row.view not in VERSION_VIEWS:
            continue
        if not isinstance(row.image, Path | bytes):
            yield Fault(
                row.file.name,
                row.problem,
                "image-absent",
                f"{row.view} has no image",
                line=line_of(row.file, row.number),
            )
        elif isinstance(row.image, Path) and (wrong := root.fault(row.image)):
            yield Fault(
                row.file.name,
                row.problem,
                wrong[0],
                f"the image {row.image} of {row.view} {wrong[1]}",
                line=line_of(row.file, row.number),
            )
        else:
            shown.setdefault(row.image, []).append(row)
    counts.images = len(shown)
    sound: list[tuple[str, Inspection]] = []
    for (image, of_image), inspection in zip(
        shown.items(), inspections(shown, len(shown), progress), strict=True
    ):
        for row in of_image:
            if inspection.error:
                message = f"the image of {row.view} {inspection.error}"
                yield Fault(
                    row.file.name,
                    row.problem,
                    "image-broken",
                    message,
                    line=line_of(row.file, row.number),
                )
            else:
                sound.append((named(f"{row.problem} {row.view}", image), inspection))
    yield from unusual_images(sound, rows[0].file.name if rows else "")
