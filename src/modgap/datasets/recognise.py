"""What a path seems to hold, by names and first bytes: hints where another data set is meant."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import cast

from modgap.core.errors import command_line
from modgap.core.files import open_regular, read_start

MATHVERSE = ("problem_index", "problem_version", "question", "answer", "question_type")
"""The columns that a row of MathVerse needs."""
_HEAD = 65_536
_MOST_FILES = 50
_SPLITS = ("train.json", "test.json")


def hint(path: str | Path, asked: str) -> str:
    """A sentence about what a path seems to hold instead, with a space before it; else empty.

    Args:
        path: What was given as a data set.
        asked: The benchmark that could not read it; `synthetic` has the layout of `pgps9k`.
    """
    path = Path(path)
    found, place = _found(path)
    if not found or (found == asked and place == path):
        return ""
    what = "PGPS9K's layout (leave --benchmark out)"
    if found != "pgps9k":
        what = f"the layout of --benchmark {found}"
    elif asked == found:
        what = "PGPS9K's layout"
    if place == path:
        return f" It seems to have {what}."
    return f" It seems that {place} has {what}: give that."


def benchmark_of(path: str | Path) -> str:
    """The benchmark that reads what is at a path; empty if none is known."""
    found, place = _found(Path(path))
    return found if place == Path(path) else ""


def needs_no_conversion(path: Path, *, mapped: bool = False) -> str:
    """Which benchmark reads a place that is not a table; empty if it may be a table.

    Args:
        path: The place.
        mapped: Whether columns are named, as they are of a table.
    """
    found, place = _found(path)
    if found in ("geometry3k", "pgps9k"):
        if not place.is_dir() or any(place.rglob("*.parquet")):
            return ""
        if found == "pgps9k" and not (place / "Diagram_Visual").is_dir():
            return ""  # train.json may be a list of rows
    elif mapped or found not in ("mathverse", "pairs") or place != path:
        return ""  # of a folder, one below it does not decide
    elif found == "pairs" and not _is_pairs(place):
        return ""
    check = command_line("data", "check", place, "--benchmark", found)
    anyway = " To convert it nevertheless, name its columns: --column text=COLUMN."
    return (
        f"{place} has the layout of --benchmark {found}, which modgap reads as it is: give it as"
        f" --data with that benchmark (`{check}`)."
        f"{anyway if found in ('mathverse', 'pairs') else ''}"
    )


def _is_pairs(place: Path) -> bool:
    """Whether the first line has no key but those of `pairs`; other rows may have some of them."""
    from modgap.core.view import VIEWS
    from modgap.datasets.pairs_line import KEYS, view_of

    file = place / "problems.jsonl" if place.is_dir() else place
    try:
        line = json.loads(read_start(file, _HEAD).decode("utf-8-sig").lstrip().partition("\n")[0])
    except ValueError:
        return False
    keys = cast("dict[str, object]", line) if isinstance(line, dict) else {"": None}
    return all(key in KEYS or view_of(key) in VIEWS for key in keys)


def _found(path: Path) -> tuple[str, Path]:
    """The benchmark that reads what is at a path, and the path to give; empty if none is known."""
    with contextlib.suppress(OSError):
        if path.is_file():
            if path.name in _SPLITS and (path.parent / "Diagram_Visual").is_dir():
                return "pgps9k", path.parent
            return _file(path), path
        if path.is_dir():
            if found := _folder(path):
                return found, path
            for below in islice((at for at in sorted(path.iterdir()) if at.is_dir()), _MOST_FILES):
                if found := _folder(below):
                    return found, below
    return "", path


def _folder(path: Path) -> str:
    splits = [path, *(path / name for name in ("train", "val", "test"))]
    folders = (at for split in splits if split.is_dir() for at in islice(split.iterdir(), 3))
    if any((at / "data.json").is_file() and (at / "img_diagram.png").is_file() for at in folders):
        return "geometry3k"
    if any((path / name).is_file() for name in _SPLITS):
        return "pgps9k"
    if (path / "problems.jsonl").is_file() and not (path / "manifest.json").exists():
        return "pairs"
    return next((found for file in _data_files(path) if (found := _file(file))), "")


def _data_files(path: Path) -> Iterator[Path]:
    files = (at for at in sorted(path.iterdir()) if at.suffix in (".parquet", ".json", ".jsonl"))
    return islice((at for at in files if at.is_file()), _MOST_FILES)


def _file(path: Path) -> str:
    if path.suffix == ".parquet":
        columns = _ends(path)
        if all(name.encode() in columns for name in MATHVERSE):
            return "mathverse"
        hub = all(name in columns for name in (b"images", b"problem", b"answer"))
        return "geometry3k" if hub else ""
    head = read_start(path, _HEAD)
    if all(f'"{name}"'.encode() in head for name in MATHVERSE):
        return "mathverse"
    line = head.lstrip().partition(b"\n")[0]
    keys = (b'"prompts"', b'"full-text"', b'"full_text"', b'"conditions"')
    is_pair = any(key in line for key in keys)
    return "pairs" if line.startswith(b"{") and is_pair else ""


def _ends(path: Path) -> bytes:
    """The end of a parquet file, which names its columns."""
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _HEAD))
        return file.read()
