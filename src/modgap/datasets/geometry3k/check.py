"""What is wrong with Geometry3K's files, and what they hold.

Repaired annotations, missing splits, and problems that more than one split holds are warnings; an
error is a problem that cannot be used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from modgap.core.files import Root
from modgap.core.problem import Problem
from modgap.core.text import counted
from modgap.datasets.faults import (
    Counts,
    Fault,
    Progress,
    Report,
    inspections,
    named,
    unusual_images,
)
from modgap.datasets.geometry3k.read import Found, forms_read, image_fault, problem_of, twice
from modgap.datasets.geometry3k.records import (
    SPLITS,
    Record,
    Sources,
    annotated,
    place_of,
    records,
    sources_of,
)

_SOME = 3
"""How many problems a message about several names."""
_NO_SPLIT = "problems"
"""What a report calls problems that are in no split."""


def check(
    path: str | Path, progress: Progress | None = None, allow_outside: bool = False
) -> Report:
    """Everything that is wrong with the data, and what they hold; each diagram is decoded.

    Args:
        path: As in `read`.
        progress: Called with the number of decoded diagrams.
        allow_outside: Links in the folder may lead out of it.

    Raises:
        UserError: The data do not exist, or a file of them leads out of their folder.
    """
    return _check(path, progress, allow_outside, choices=False)


def check_choices(
    path: str | Path, progress: Progress | None = None, allow_outside: bool = False
) -> Report:
    """As `check`, for `read_choices`."""
    return _check(path, progress, allow_outside, choices=True)


def _check(
    path: str | Path, progress: Progress | None, allow_outside: bool, *, choices: bool
) -> Report:
    place = place_of(path)
    root = Root(place, allow_outside=allow_outside)
    sources = sources_of(place, root)
    forms = annotated(sources.annotated, root)
    report = Report(Path(path))
    kept: list[tuple[Record, Problem]] = []
    bare, empty, seen = list[str](), 0, set[str]()
    for item in records(sources, "", root):
        if isinstance(item, Fault):
            report.faults.append(item)
            continue
        found = problem_of(item, len(kept), forms, choices=choices)
        report.faults += found.faults
        empty += found.empty_forms
        problem = found.problem
        if problem is None:
            continue
        if problem.id in seen:
            report.faults.append(twice(item, problem.id))
        seen.add(problem.id)
        if fault := image_fault(problem, item, root):
            report.faults.append(fault)
        counts = report.splits.setdefault(item.split or _NO_SPLIT, Counts())
        is_bare = not problem.structural and not problem.semantic
        counts.add(problem, bare=is_bare)
        bare += [problem.id] if not found.has_forms else []
        kept.append((item, problem))
    report.faults += _form_faults(forms, seen, sources)
    report.faults += _set_faults(sources, kept, bare, empty, report)
    report.faults += _image_faults(kept, report, root, progress)
    return report


def _form_faults(
    forms: Mapping[str, Mapping[str, list[str]]], seen: set[str], sources: Sources
) -> Iterator[Fault]:
    """Faults of annotated forms whose problems are not there: nothing else reads these."""
    others = {name: kinds for name, kinds in forms.items() if name not in seen}
    count = 0
    for name, kinds in others.items():
        for kind, texts in kinds.items():
            found = Found(None)
            file = next(f.name for f in sources.annotated if f.name.startswith(kind))

            def fault(what: str, message: str, *, fatal: bool = True) -> None:
                found.faults.append(Fault(file, name, what, message, "warning"))  # noqa: B023

            count += len(forms_read(texts, found, fault, fatal=False))
            yield from found.faults
    if others:
        message = (
            f"{counted(count, 'logic form')} read of {counted(len(others), 'problem')} that the set"
            " lacks"
        )
        yield Fault(sources.annotated[0].name, "", "forms-only", message, "warning")


def _set_faults(
    sources: Sources, kept: Sequence[tuple[Record, Problem]], bare: Sequence[str], empty: int,
    report: Report,
) -> Iterator[Fault]:  # fmt: skip
    """What is wrong with the set as a whole."""
    name = sources.place.name
    if not kept and not sources.annotated and report.ok:
        yield Fault(name, "", "empty", "holds no problem")
    if bare:
        message = (
            f"{counted(len(bare), 'problem')} without logic forms of the diagram ({_some(bare)}):"
            " full-text shows the text alone, so that no gap can be measured there"
        )
        yield Fault(name, "", "no-logic-forms", message, "warning")
    if empty:
        yield Fault(
            name, "", "empty-form", f"{counted(empty, 'empty logic form')} left out", "warning"
        )
    if missing := [split for split in SPLITS if kept and split not in report.splits]:
        there = ", ".join(split for split in SPLITS if split in report.splits)
        has = f"it has {there}" if there else "its problems are in none, and are read for each"
        yield Fault(name, "", "missing-split", f"no {' or '.join(missing)} split: {has}", "warning")
    places: dict[tuple[str, bytes], dict[str, str]] = {}
    for record, problem in kept:
        key = (problem.question, _digest(problem.image))
        places.setdefault(key, {}).setdefault(record.split, problem.id)
    leaks = [ids for ids in places.values() if len(ids) > 1]
    if leaks:
        some = _some([" = ".join(ids.values()) for ids in leaks])
        message = (
            f"{counted(len(leaks), 'problem')} in more than one split, with text and diagram:"
            f" {some}"
        )
        yield Fault(name, "", "leak", message, "warning")


def _digest(image: Path | bytes | None) -> bytes:
    try:
        data = image if isinstance(image, bytes) else image.read_bytes() if image else b""
    except OSError:
        data = b""
    return hashlib.blake2b(data, digest_size=16).digest()


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_SOME])}{' ...' if len(names) > _SOME else ''}"


def _image_faults(
    kept: Sequence[tuple[Record, Problem]], report: Report, root: Root, progress: Progress | None
) -> Iterator[Fault]:
    """Diagrams that do not decode, what is unusual about the others, and how many there are."""
    shown: dict[Path | bytes, list[tuple[Record, Problem]]] = {}
    for record, problem in kept:
        image = problem.image
        if image is not None and not (isinstance(image, Path) and root.fault(image)):
            shown.setdefault(image, []).append((record, problem))
    places: dict[bytes, set[str]] = {}
    for image, of_image in shown.items():
        places.setdefault(_digest(image), set()).update(record.split for record, _ in of_image)
    report.shared_images = sum(len(splits) > 1 for splits in places.values())
    for split, counts in report.splits.items():
        counts.images = sum((split if split != _NO_SPLIT else "") in of for of in places.values())
    sound = []
    for (image, of_image), seen in zip(
        shown.items(), inspections(shown, len(shown), progress), strict=True
    ):
        for record, problem in of_image:
            if seen.error:
                message = f"the diagram {seen.error}"
                yield Fault(record.file, problem.id, "image-broken", message, line=record.number)
            else:
                sound.append((named(problem.id, image), seen))
    yield from unusual_images(sound, report.path.name)
