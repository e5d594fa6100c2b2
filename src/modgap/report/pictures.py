"""Where a report finds a diagram again: a file, or a row of a parquet file, `FILE.parquet#ROW` (MathVerse)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROW = re.compile(r"(.+\.parquet)#([0-9]+)", re.DOTALL)


def read_picture(place: str) -> bytes:
    """The encoded diagram.

    Args:
        place: As `problems.jsonl` has it; rows count from 1.

    Raises:
        OSError: It is not there (any more).
        ValueError: The parquet file is another one by now (pyarrow's errors are of this kind).
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


@functools.lru_cache(maxsize=16)
def _groups(file: str) -> tuple[int, ...]:
    """Rows of each row group."""
    import pyarrow.parquet as pq

    about = pq.read_metadata(file)
    return tuple(about.row_group(group).num_rows for group in range(about.num_row_groups))


@functools.lru_cache(maxsize=2)
def _images(file: str, group: int) -> Any:
    """The images of one row group; problems in order ask the same one again and again."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(file).read_row_group(group, columns=["image"]).column("image")
