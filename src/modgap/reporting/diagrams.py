"""The diagrams of a report: read again from where the data set is, as the model saw them.

A diagram's place is a file, or a row of a parquet file, `FILE.parquet#ROW` (MathVerse).
"""

from __future__ import annotations

import base64
import functools
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.files import MOST_IMAGE_BYTES, Root, open_regular, read_bytes
from modgap.core.json_files import short_digest
from modgap.core.manifest import IMAGE_FOLDERS
from modgap.core.record import RunFolder
from modgap.core.rows import ProblemRow
from modgap.core.text import counted
from modgap.core.view import VERSIONS
from modgap.reporting.collect import EvalRun

IMAGE_SIDE = 512
"""Larger diagrams are embedded at this size (pixels of the longer side)."""
_ROW = re.compile(r"(.+\.parquet)#([0-9]+)", re.DOTALL)


def image_folders(runs: Sequence[EvalRun]) -> list[str]:
    """The folders that the diagrams of runs may be in, as their manifests have them."""
    found: list[str] = []
    for run in runs:
        # Older manifests do not record the folders of the images.
        recorded = run.manifest.whole.get(IMAGE_FOLDERS, [run.manifest.given.get("data")])
        places = recorded if isinstance(recorded, list) else []
        found += [str(run.path), *(place for place in places if isinstance(place, str))]
    return found


def pictures(
    row: ProblemRow, asked: Sequence[str], root: Root
) -> tuple[list[tuple[str, str]], int]:
    """The distinct diagrams of a problem, or why there is none.

    Each has the views that show it (empty: all).

    Where a problem's views have images of their own but only one place is known, the caption says
    whose image it is.
    """
    assert row.image is not None
    of_views: dict[str, str] = {}
    if row.views and not root.target(_file(row.image)):
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
        picture, absent_here = embed(place, root)
        absent = min(absent, absent_here)
        if picture:
            shown.setdefault(picture, []).append(view)
    return [(picture, ", ".join(filter(None, of))) for picture, of in shown.items()], absent


def embed(path: str, root: Root) -> tuple[str | None, int]:
    """A diagram as the model saw it, as a data URI, or why it is absent.

    The reason is an index in `viewer._ABSENT`.
    """
    from modgap.core.images import opened, plain_bytes, to_rgb

    if root.target(_file(path)):
        return None, 3
    try:
        data = plain_bytes(read_picture(path))
        with opened(data) as image:
            kind = image.format
            if kind not in ("PNG", "JPEG", "GIF", "WEBP") or max(image.size) > IMAGE_SIDE:
                small = to_rgb(image)
                small.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
                buffer = io.BytesIO()
                small.save(buffer, "PNG", optimize=True)
                data, kind = buffer.getvalue(), "PNG"
    # Pillow raises a dozen kinds of error on a broken file; pyarrow and the system have others.
    except Exception:
        return None, 1
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}", 0


def _file(place: str) -> str:
    """The file of a place."""
    match = _ROW.fullmatch(place)
    return place if match is None or Path(place).exists() else match[1]


def read_picture(place: str) -> bytes:
    """The encoded diagram.

    Args:
        place: As `problems.jsonl` has it; rows count from 1.

    Raises:
        OSError: It does not exist (any more). ValueError: The parquet file is another one by now
            (pyarrow's errors are of this kind).
    """
    match = _ROW.fullmatch(place)
    if match is None or Path(place).exists():
        return read_bytes(place, MOST_IMAGE_BYTES)
    file, row = match[1], int(match[2]) - 1
    open_regular(file).close()
    for group, count in enumerate(_groups(file)):
        if row < count:
            value = _images(file, group)[row].as_py()
            value = value[0] if isinstance(value, list) and value else value
            found = value.get("bytes") if isinstance(value, Mapping) else value
            if not isinstance(found, bytes):
                break
            return found
        row -= count
    raise FileNotFoundError(f"{place} holds no image")


def pictures_of_views(place: str, views: Sequence[str]) -> dict[str, str]:
    """Where the image of each of MathVerse's views of a problem is.

    All are in the file that one of them came from.

    Args:
        place: Of one of the problem's images, as `problems.jsonl` has it.
        views: The views whose images are needed.

    Returns:
        View -> place; without the views that the file lacks, and empty if the place is not a row of
        MathVerse's.

    Raises:
        OSError: The file does not exist (any more).
        ValueError: It is another one by now.
    """
    match = _ROW.fullmatch(place)
    if match is None or Path(place).exists():
        return {}
    file, rows = match[1], _versions(match[1])
    problem = next(
        (problem for problem, of_views in rows.items() if int(match[2]) in of_views.values()), None
    )
    found = rows.get(problem, {}) if problem is not None else {}
    return {view: f"{file}#{found[view]}" for view in views if view in found}


@functools.lru_cache(maxsize=4)
def _versions(file: str) -> dict[str, dict[str, int]]:
    """Problem -> view -> row, from 1; empty for a file without MathVerse's columns."""
    import pyarrow.parquet as pq

    columns = ("problem_index", "problem_version")
    if not set(columns) <= set(pq.read_schema(file).names):
        return {}
    table = pq.read_table(file, columns=list(columns)).to_pydict()
    found: dict[str, dict[str, int]] = {}
    for number, (problem, version) in enumerate(
        zip(*(table[name] for name in columns), strict=True), start=1
    ):
        if version in VERSIONS:
            found.setdefault(str(problem), {}).setdefault(VERSIONS[version], number)
    return found


@functools.lru_cache(maxsize=16)
def _groups(file: str) -> tuple[int, ...]:
    """Rows of each row group."""
    import pyarrow.parquet as pq

    about = pq.read_metadata(file)
    return tuple(about.row_group(group).num_rows for group in range(about.num_row_groups))


@functools.lru_cache(maxsize=2)
def _images(file: str, group: int) -> Any:
    """The images of one row group; problems in order use the same group repeatedly."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    column = next(name for name in ("image", "images") if name in table.schema_arrow.names)
    return table.read_row_group(group, columns=[column]).column(column)


# A run that was moved: its diagrams are looked for in another folder


_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")


def found_in(runs: Sequence[EvalRun], data: Path) -> tuple[list[EvalRun], list[str]]:
    """The runs with their diagrams in another folder, and what a reader must know of it.

    A diagram is known by the digest that the run recorded. Where it recorded none that one image
    can be compared with (older runs; problems whose views have images of their own in files), the
    end of its path is looked for instead, and that is noted. One that is not found stays away.

    Args:
        runs: The evaluations.
        data: The folder, searched with all below it.

    Raises:
        UserError: There is no such folder.
    """
    if not data.is_dir():
        raise UserError(f"--data {data} is not a folder: give the one that the diagrams are in.")
    files = [
        os.path.join(folder, name) for folder, _, names in os.walk(data) for name in sorted(names)
    ]
    of_digest = dict(_digests(files))
    by_name: dict[str, list[str]] = {}
    for file in files:
        by_name.setdefault(os.path.basename(file), []).append(file)
    moved: list[EvalRun] = []
    notes: list[str] = []
    for run in runs:
        recorded = RunFolder(run.path).fingerprints()
        rows: dict[str, ProblemRow] = {}
        named = absent = 0
        for name, row in run.problems.items():
            place = None
            if row.image:
                place = of_digest.get(recorded[name][1]) if name in recorded else None
                if place is None and (row.views or name not in recorded):
                    place = _same_end(row.image, by_name)
                    named += place is not None
                absent += place is None
            rows[name] = row.model_copy(update={"image": place}) if place else row
        moved.append(replace(run, problems=rows))
        if named:
            notes.append(
                f"{run.name}: {counted(named, 'diagram')} found in {data} by name alone; the run"
                " records no digest to compare them with."
            )
        if absent:
            notes.append(
                f"{run.name}: {counted(absent, 'diagram')} not in {data}, or changed since: give"
                " the data set that the run was made with."
            )
    return moved, notes


def _digests(files: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What `fingerprints.json` has of each image, and its place."""
    from modgap.core.images import content_digest

    for file in files:
        if file.lower().endswith(_SUFFIXES):
            try:
                content = read_bytes(file, MOST_IMAGE_BYTES)
            except (OSError, ValueError):
                continue
            yield short_digest([content_digest(content, 64), {}]), file
        elif file.endswith(".parquet"):
            yield from _rows_of(file)


def _rows_of(file: str) -> Iterator[tuple[str, str]]:
    """`_digests` of the rows of a parquet file, those of a problem's views together."""
    from modgap.core.images import content_digest

    digest_of: dict[int, str] = {}
    try:
        for row in range(1, sum(_groups(file)) + 1):
            digest_of[row] = content_digest(read_picture(f"{file}#{row}"), 16)
            yield short_digest([digest_of[row], {}]), f"{file}#{row}"
        for rows in _versions(file).values():
            # Text Only has an image in the file, and none as a view.
            of_views = {view: digest_of[row] for view, row in rows.items() if view != "text-only"}
            yield short_digest([None, of_views]), f"{file}#{min(rows.values())}"
    # A file of something else, which holds no images: pyarrow's errors are of these kinds.
    except (OSError, ValueError, KeyError, StopIteration):
        return


def _same_end(image: str, by_name: Mapping[str, Sequence[str]]) -> str | None:
    """The one file whose path ends most like that of an image; `None` where several do."""
    file, mark, number = image.partition(".parquet#")
    wanted = (file + ".parquet" if mark else image).split(os.sep)

    def alike(found: str) -> int:
        parts = found.split(os.sep)
        count = 0
        while count < min(len(parts), len(wanted)) and parts[-1 - count] == wanted[-1 - count]:
            count += 1
        return count

    ranked = sorted(by_name.get(wanted[-1], ()), key=alike, reverse=True)
    if not ranked or (len(ranked) > 1 and alike(ranked[0]) == alike(ranked[1])):
        return None
    return f"{ranked[0]}#{number}" if mark else ranked[0]
