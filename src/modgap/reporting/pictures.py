"""Where a report finds a diagram again.

The place is a file, or a row of a parquet file, `FILE.parquet#ROW` (MathVerse).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modgap.core.view import VERSIONS

_ROW = re.compile(r"(.+\.parquet)#([0-9]+)", re.DOTALL)


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
        return Path(place).read_bytes()
    file, row = match[1], int(match[2]) - 1
    for group, count in enumerate(_groups(file)):
        if row < count:
            value = _images(file, group)[row].as_py()
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

    return pq.ParquetFile(file).read_row_group(group, columns=["image"]).column("image")
