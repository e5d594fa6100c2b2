"""PGPS9K and data sets with its layout, such as the synthetic problems.

The layout is `train.json`, `test.json` and `Diagram_Visual/`.

`read` gives problems and stops at the first fault that makes a record unusable; `check` reports
every fault. Both use `_scan`, which reads one record after another, so that the message on a
truncated file names the record and the line.

Differs from the original, which uses plain `json.load`: a repeated id is a fault (there the first
record is lost without a message), a diagram must be inside the folder, and a byte-order mark is
ignored.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from modgap.core.errors import UserError, command_line, part, unknown
from modgap.core.files import Root
from modgap.core.problem import Problem
from modgap.core.prompt import conditions, structural_condition
from modgap.core.text import counted
from modgap.datasets.faults import (
    Counts,
    Fault,
    Progress,
    Report,
    inspections,
    json_type,
    missing,
    text_fault,
    unusual_images,
)
from modgap.datasets.json_file import JsonObject, decode, entries
from modgap.datasets.recognise import hint

SPLITS = ("train", "test")
DIAGRAMS = "Diagram_Visual"
SOLUTIONS = "solutions.json"
"""Worked answers of synthetic problems: one object, `split/id` -> words."""

_DECIMAL = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_SEVERAL_PARTS = re.compile(r"[/\\:]")  # of a path, on any system
_LAYOUT = f"give the folder that holds train.json, test.json and {DIAGRAMS}/"


def _every(folder: Path) -> str:
    """Where to see every fault."""
    return f"`{command_line('data', 'check', folder)}` names every fault."


Complaint = tuple[str, str] | None  # kind and message of a fault


def read(
    folder: str | Path,
    split: str = "test",
    limit: int | None = None,
    need_images: bool = True,
    allow_outside: bool = False,
) -> Iterator[Problem]:
    """The problems of a split, in the order of the file.

    Args:
        folder: A folder in PGPS9K's layout.
        split: `train` or `test`.
        limit: The most problems to read, from the first.
        need_images: Whether an absent diagram is an error; otherwise such a problem has no image.
        allow_outside: Links in the folder may lead out of it.

    Raises:
        UserError: A file or a record is faulty; the message names it. Raised when the fault is
            reached.
    """
    folder = _folder(folder)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1.")
    return _problems(folder, split, limit, need_images, Root(folder, allow_outside=allow_outside))


def check(
    folder: str | Path, progress: Progress | None = None, allow_outside: bool = False
) -> Report:
    """Everything that is wrong with a folder, and what it holds; each diagram is decoded once.

    Args:
        folder: A folder in PGPS9K's layout.
        progress: Called with the number of decoded diagrams.
        allow_outside: Links in the folder may lead out of it.

    Raises:
        UserError: The folder does not exist, or one of its JSON files leads out of it.
    """
    folder = _folder(folder)
    root = Root(folder, allow_outside=allow_outside)
    report = Report(folder)
    first_file: dict[str, str] = {}  # id -> the file it was first seen in
    uses: list[tuple[str, _Record]] = []  # which record of which file shows which diagram
    for split in SPLITS:
        file, counts, images = f"{split}.json", Counts(), set[str]()
        unknown_clauses: list[str] = []
        for item in _scan(folder / file, _FIELDS, root):
            if isinstance(item, Fault):
                report.faults.append(item)
                continue
            if first_file.setdefault(item.id, file) != file:
                message = f"this id stands in {first_file[item.id]} already: rename one of the two"
                report.faults.append(Fault(file, item.id, "duplicate-id", message, line=item.line))
            uses.append((file, item))
            images.add(item.value["diagram"])
            problem = _problem(folder / DIAGRAMS, split, counts.problems, item)
            counts.add(problem, bare=not conditions(problem))
            unknown_clauses += [
                f"{clause!r} in {item.id}" for clause in problem.structural if _is_unknown(clause)
            ]
        counts.images = len(images)
        report.splits[split] = counts
        if unknown_clauses:
            message = (
                f"{counted(len(unknown_clauses), 'structural clause')} of a form that is not known,"
                " without words in prompts:"
                f" {', '.join(unknown_clauses[:3])}{' ...' if len(unknown_clauses) > 3 else ''}"
            )
            report.faults.append(Fault(file, "", "unknown-clause", message, "warning"))
    if not uses and report.ok:
        report.faults.append(Fault("train.json", "", "empty", "no split holds a problem"))
    report.shared_images = _shared(uses)
    report.faults += _image_faults(folder, uses, root, progress)
    report.faults += _solution_faults(folder, root)
    order = {name: place for place, name in enumerate(("train.json", "test.json", DIAGRAMS))}
    report.faults.sort(key=lambda fault: (order.get(fault.file, len(order)), fault.line))
    return report


# ---- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Record:
    """One sound entry of a file: its id, the line of its id, and its value."""

    id: str
    line: int
    value: Mapping[str, Any]


def _folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}: {_LAYOUT}.{hint(folder, 'pgps9k')}")
    return folder


def _problems(
    folder: Path, split: str, limit: int | None, need_images: bool, root: Root
) -> Iterator[Problem]:
    solutions = _solutions(folder, root)
    diagrams = folder / DIAGRAMS
    present = set[str]() if not need_images or root.target(diagrams) else _files(diagrams)
    index = 0
    for item in _scan(folder / f"{split}.json", {key: _FIELDS[key] for key in _NEEDED}, root):
        if isinstance(item, Fault):
            if item.severity == "error":
                raise UserError(f"{folder}/{part(item)}. {_every(folder)}")
            continue
        problem = _problem(diagrams, split, index, item, solutions.get(f"{split}/{item.id}"))
        if item.value["diagram"] not in present and (wrong := root.fault(str(problem.image))):
            if need_images:
                fault = _image_fault(f"{split}.json", item, *wrong)
                raise UserError(f"{folder}/{part(fault)}. {_every(folder)}")
            problem = replace(problem, image=None)
        yield problem
        index += 1
        if index == limit:
            return


def _problem(
    diagrams: Path,
    split: str,
    index: int,
    record: _Record,
    solution: str | None = None,
) -> Problem:
    value = record.value
    kind, choices = value.get("type"), value.get("choices")
    return Problem(
        id=record.id,
        question=value["text"],
        answer=value["answer"],
        image=diagrams / value["diagram"],
        structural=tuple(value["parsing_stru_seqs"]),
        semantic=tuple(value["parsing_sem_seqs"]),
        type=kind.strip() if isinstance(kind, str) else "",  # some of PGPS9K's own end in a space
        split=split,
        index=index,
        choices=() if _choices(choices) else tuple(map(float, choices or ())),
        solution=solution,
    )


def _solutions(folder: Path, root: Root) -> dict[str, str]:
    if not (folder / SOLUTIONS).exists():
        return {}
    for fault in _solution_faults(folder, root):
        raise UserError(f"{folder}/{part(fault)}.")
    return json.loads(root.read_bytes(folder / SOLUTIONS))


def _solution_faults(folder: Path, root: Root) -> Iterator[Fault]:
    if not (folder / SOLUTIONS).exists():
        return
    try:
        solutions = json.loads(root.read_bytes(folder / SOLUTIONS))
    except (ValueError, RecursionError) as error:
        yield Fault(
            SOLUTIONS, "", "malformed", f"is not valid JSON ({error}): make the problems again"
        )
        return
    if not isinstance(solutions, dict) or not all(
        isinstance(words, str) for words in solutions.values()
    ):
        yield Fault(SOLUTIONS, "", "wrong-type", "must be one object, `split/id` -> a string")


# ---- the file, record by record ------------------------------------------------------------------


def _scan(
    path: Path, fields: Mapping[str, Callable[[Any], Complaint]], root: Root
) -> Iterator[_Record | Fault]:
    """Every sound record of a file, and every fault, in the order of the file."""
    file = path.name
    if not path.exists():
        also = hint(path.parent, "pgps9k").removesuffix(".")
        yield Fault(
            file, "", "missing-file", f"there is no such file: {_LAYOUT}{'.' if also else ''}{also}"
        )
        return
    text, faults = decode(file, root.read_bytes(path))
    yield from faults
    lines: dict[str, int] = {}  # id -> line
    for item in entries(file, text):
        if isinstance(item, Fault):
            yield item
            continue
        name, line, value = item
        found = [*_complaints(name, value, fields)]
        if name in lines:
            found.append(
                (
                    "duplicate-id",
                    f"this id stands in line {lines[name]} already: rename one of the two",
                )
            )
        lines.setdefault(name, line)
        yield from (Fault(file, name, kind, message, line=line) for kind, message in found)
        if not found:
            yield _Record(name, line, value)
    if not lines and text.strip().endswith("}"):
        yield Fault(file, "", "empty", "holds no problem", "warning")


# ---- the fields of a record ----------------------------------------------------------------------


def _complaints(
    name: str, value: Any, fields: Mapping[str, Callable[[Any], Complaint]]
) -> Iterator[tuple[str, str]]:
    if complaint := text_fault(name):
        yield complaint[0], f"the id {complaint[1]}"
    if not isinstance(value, JsonObject):
        yield "wrong-type", f"is {json_type(value)}, not an object"
        return
    for key in dict.fromkeys(value.repeated):
        yield "duplicate-key", f"{key} is given twice: keep one"
    for key, find in fields.items():
        if key not in value:
            yield "missing-key", missing(key, value)
        elif complaint := find(value[key]):
            yield complaint[0], f"{key} {complaint[1]}"


def _diagram(value: Any) -> Complaint:
    if complaint := text_fault(value):
        return complaint
    if leads_out(value):
        return "image-path", f"{value!r} leads out of {DIAGRAMS}/: name a file in it"
    return None


def leads_out(diagram: str) -> bool:
    """Whether the name of a diagram leads out of the folder of diagrams."""
    if not _SEVERAL_PARTS.search(diagram):
        return diagram == ".."
    return PurePath(diagram).is_absolute() or ".." in PurePath(diagram).parts


def _clauses(value: Any) -> Complaint:
    if not isinstance(value, list):
        return "wrong-type", f"is {json_type(value)}, not a list of strings"
    with contextlib.suppress(TypeError):  # raised for an item that is not a string
        if "".join(value).isascii():
            return None  # the common case, checked fast
    complaints = (text_fault(clause, may_be_empty=True) for clause in value)
    return next(
        ((kind, f"has an item that {message}") for kind, message in filter(None, complaints)), None
    )


def _answer(value: Any) -> Complaint:
    if complaint := text_fault(value):
        return complaint
    if not _DECIMAL.fullmatch(value) or not math.isfinite(float(value)):
        return "not-a-number", f"{value!r} is not a finite number: write a decimal such as '25.000'"
    return None


def _note(value: Any) -> Complaint:
    """Where a record comes from: not used further."""
    return (
        None
        if isinstance(value, str | int | None)
        else ("wrong-type", f"is {json_type(value)}, not a string")
    )


def _choices(value: Any) -> Complaint:
    if not isinstance(value, list):
        return "wrong-type", f"is {json_type(value)}, not a list of numbers"
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | float):
            return "wrong-type", f"has an item that is {json_type(item)}, not a number"
        if not -1e300 < item < 1e300:
            return "not-a-number", f"has an item that is not a finite number ({item})"
    return None


_FIELDS: dict[str, Callable[[Any], Complaint]] = {
    "diagram": _diagram,
    "text": text_fault,
    "parsing_stru_seqs": _clauses,
    "parsing_sem_seqs": _clauses,
    "expression": _note,
    "answer": _answer,
    "type": functools.partial(text_fault, may_be_empty=True),
    "book": _note,
    "page": _note,
    "choices": _choices,
}
# The fields that prompts and grades need; `read` requires only these.
_NEEDED = ("diagram", "text", "parsing_stru_seqs", "parsing_sem_seqs", "answer")


def _is_unknown(clause: str) -> bool:
    tokens = clause.split()
    return not structural_condition(clause) and not (len(tokens) == 3 and tokens[0] == "line")


# ---- the diagrams --------------------------------------------------------------------------------


def _files(folder: Path) -> set[str]:
    """The names of the files in a folder; links are left out.

    Listing them takes less than half the time of checking each file.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        return {entry.name for entry in found if entry.is_file(follow_symlinks=False)}
    return set()


def _image_fault(file: str, record: _Record, kind: str, message: str) -> Fault:
    message = f"the diagram {DIAGRAMS}/{record.value['diagram']} {message}"
    return Fault(file, record.id, kind, message, line=record.line)


def _shared(uses: Iterable[tuple[str, _Record]]) -> int:
    files: dict[str, set[str]] = {}
    for file, record in uses:
        files.setdefault(record.value["diagram"], set()).add(file)
    return sum(len(found) > 1 for found in files.values())


def _image_faults(
    folder: Path, uses: list[tuple[str, _Record]], root: Root, progress: Progress | None
) -> Iterator[Fault]:
    """One fault for each problem whose diagram is absent or does not decode.

    Also reports what is unusual about the other diagrams.
    """
    diagrams = folder / DIAGRAMS
    if not diagrams.is_dir():
        yield Fault(DIAGRAMS, "", "missing-file", f"there is no such folder: {_LAYOUT}")
        return
    names = sorted({record.value["diagram"] for _, record in uses})
    wrong = {name: root.fault(diagrams / name) for name in names}
    present = [name for name in names if wrong[name] is None]
    found = inspections((diagrams / name for name in present), len(present), progress)
    seen = dict(zip(present, found, strict=True))
    for file, record in uses:
        name = record.value["diagram"]
        if fault := wrong[name]:
            yield _image_fault(file, record, *fault)
        elif reason := seen[name].error:
            yield _image_fault(file, record, "image-broken", reason)
    sound = [(record.id, record.value["diagram"]) for _, record in uses]
    good = [(f"{name} ({diagram})", seen[diagram]) for name, diagram in sound if diagram in seen]
    yield from unusual_images([pair for pair in good if not pair[1].error], DIAGRAMS)
