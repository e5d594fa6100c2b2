"""Any table of problems as a `pairs` data set: parquet, JSON, CSV, a saved data set, the hub.

```
convert("problems.parquet", Path("mine"), {"text": "question", "conditions": "given"})
```

A row becomes a line, its images become files. A target takes the column that is named for it, else
the column of its own name. `a.b` is the field b of the column a.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modgap.core.disk import writing
from modgap.core.errors import UserError, unknown
from modgap.core.files import MOST_IMAGE_BYTES, Root, read_bytes, read_text
from modgap.core.places import check_writable, existing
from modgap.core.view import VIEWS
from modgap.datasets.faults import Report
from modgap.datasets.hub import fetch_data_set
from modgap.datasets.pairs import FILE, check
from modgap.datasets.pairs_line import KEYS
from modgap.datasets.recognise import needs_no_conversion
from modgap.grading.answer import extract_answer
from modgap.grading.number import parse_number

IMAGES = "images"
_TARGETS = (*(key for key in KEYS if key not in ("prompts", "comment")), *VIEWS)
_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".arrow")
_BATCH = 64
_PLACES = "a parquet, JSON, CSV or Arrow file, a folder of them, or ORG/NAME of the hub"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        file: The file of problems.
        rows: Their number.
        columns: Target -> the column that it was taken from.
        report: What `modgap data check` says of it.
    """

    file: Path
    rows: int
    columns: dict[str, str]
    report: Report


def convert(
    source: str | Path,
    out: Path,
    columns: Mapping[str, str],
    *,
    split: str | None = None,
    limit: int | None = None,
    allow_outside: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Write `problems.jsonl` and its images.

    Args:
        source: A file, a folder or a data set of the hub.
        out: Folder to write.
        columns: Target (a key of `pairs`, or a view) -> column.
        split: Which split of a folder, by the name of its files or subfolders.
        limit: Only this number of rows, from the first.
        allow_outside: Images may be outside the source's folder.
        force: Replace a file of problems that is there.
        progress: Called with the number of rows done.

    Raises:
        UserError: The source or a column does not exist, a row cannot be converted, or none can be
            used. Nothing is then written.
    """
    for target in columns:
        if target not in _TARGETS:
            raise unknown("column of pairs", target, _TARGETS)
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: must be at least 1.")
    check_writable(out)
    if (out / FILE).exists() and not force:
        raise UserError(f"{out / FILE} exists: give another --out, or --force to replace it.")
    place = Path(source)
    if not place.exists():
        place = fetch_data_set(
            str(source), [f"*{suffix}" for suffix in _SUFFIXES], _PLACES, how="as SOURCE"
        )
    if said := needs_no_conversion(place, mapped=bool(columns)):
        raise UserError(said)
    root = Root(place, allow_outside=allow_outside)
    files = _files(place, split)
    count, taken, there = 0, dict[str, str](), list[str]()
    # What is refused on the way leaves nothing behind, and an earlier set as it was.
    with (
        writing(out / FILE),
        tempfile.TemporaryDirectory(dir=existing(out), prefix=".modgap-") as at,
    ):
        made = Path(at)
        (made / IMAGES).mkdir()
        with (made / FILE).open("w", encoding="utf-8") as written:
            for file, row in _all_rows(files, root, limit):
                count, there = count + 1, [str(name) for name in row]
                line = _line(row, columns, taken, f"{file.name} row {count}")
                line.setdefault("id", f"row-{count}")
                if "image" in line:
                    line["image"] = _images(line["image"], file.parent, made, count, root)
                written.write(f"{json.dumps(line, ensure_ascii=False)}\n")
                if progress and count % _BATCH == 0:
                    progress(count, count)
        if not count:
            raise UserError(f"{source} has no row: give {_PLACES}.")
        report = check(made / FILE)
        if not report.splits["test"].problems:
            first = report.errors[0].line
            wrong = "; ".join(fault.message for fault in report.errors if fault.line == first)
            raise UserError(
                f"{source}: no row can be used (row 1: {wrong}). Its columns are"
                f" {', '.join(there)}: name others with --column TARGET=COLUMN, or correct the"
                " rows."
            )
        _move(made, out)
    report.path = out / FILE
    return Converted(out / FILE, count, taken, report)


def _move(made: Path, out: Path) -> None:
    """Put a complete set into its folder; the file of problems comes last."""
    (out / IMAGES).mkdir(parents=True, exist_ok=True)
    for image in (made / IMAGES).iterdir():
        shutil.move(image, out / IMAGES / image.name)  # a linked folder may lie elsewhere
    os.replace(made / FILE, out / FILE)


# ---- rows ----------------------------------------------------------------------------------------


def _files(place: Path, split: str | None) -> list[Path]:
    """The files of a split, or of the only one."""
    if place.is_file():
        if place.suffix not in _SUFFIXES:
            raise UserError(
                f"{place} is not a table that is read ({', '.join(_SUFFIXES)}): give {_PLACES}."
            )
        return [place]
    found = [
        file
        for suffix in _SUFFIXES
        for file in sorted(place.rglob(f"*{suffix}"))
        if file.name not in ("dataset_info.json", "state.json", "dataset_dict.json")
    ]
    found = [file for file in found if file.suffix == found[0].suffix]
    by_split: dict[str, list[Path]] = {}
    for file in found:
        by_split.setdefault(_split(file.relative_to(place)), []).append(file)
    if split is not None:
        if split not in by_split:
            raise unknown("split", split, sorted(filter(None, by_split)))
        return by_split[split]
    if len(by_split) > 1:
        names = ", ".join(sorted(filter(None, by_split)))
        raise UserError(f"{place} has several splits ({names}): choose one with --split.")
    if not found:
        raise UserError(f"{place} holds no file of rows: give {_PLACES}.")
    return found


_SHARD = re.compile(r"[-_.]?\d+(?:-of-\d+)?$")


def _split(path: Path) -> str:
    """The split that a path says: the folder of a saved data set, or the name of the file."""
    stem = path.stem if path.suffix != ".arrow" else (path.parent.name or path.stem)
    return _SHARD.sub("", stem)


def _all_rows(files: Sequence[Path], root: Root, limit: int | None) -> Iterator[tuple[Path, Row]]:
    """Each row with its file, at most `limit` of them."""
    count = 0
    for file in files:
        root.check(file)
        for row in _rows(file):
            if count == limit:
                return
            count += 1
            yield file, row


def _rows(file: Path) -> Iterator[Row]:
    """The rows of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            for batch in pq.ParquetFile(file).iter_batches(_BATCH):
                yield from batch.to_pylist()
        elif file.suffix == ".arrow":
            with pa.memory_map(str(file)) as opened:
                for batch in pa.ipc.open_stream(opened):
                    yield from batch.to_pylist()
        elif file.suffix == ".csv":
            yield from csv.DictReader(io.StringIO(read_text(file, "utf-8-sig")))
        else:
            text = read_text(file, "utf-8-sig")
            lines = file.suffix == ".jsonl"
            found = [json.loads(x) for x in text.split("\n") if x.strip()] if lines else (
                json.loads(text)
            )  # fmt: skip
            found = found if isinstance(found, list) else [found]
            for row in found:
                if not isinstance(row, dict):
                    raise UserError(f"{file} has a row that is no object: give rows of columns.")
                yield row
    except (pa.ArrowInvalid, OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} cannot be read ({' '.join(str(error).split())}).") from error


# ---- lines ---------------------------------------------------------------------------------------


def _line(
    row: Row, columns: Mapping[str, str], taken: dict[str, str], where: str
) -> dict[str, Any]:
    """The line of a row; `taken` collects which column each target came from."""
    line: dict[str, Any] = {}
    for target in _TARGETS:
        column = columns.get(target, _own_column(row, target))
        if column is None:
            continue
        value = _value(row, column, where)
        if value is None or value == "":  # a CSV file has no other way to leave a cell out
            continue
        taken[target] = column
        line[target] = _cleaned(target, value)
    return line


def _own_column(row: Row, target: str) -> str | None:
    """The column of a target's own name."""
    names = [target, target.replace("-", "_"), *(["images"] if target == "image" else [])]
    return next((name for name in names if name in row), None)


def _value(row: Row, column: str, where: str) -> Any:
    """The value of a column; `a.b` is a field of one."""
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            value = json.loads(value)
        if not isinstance(value, Mapping) or name not in value:
            raise UserError(f"{where} has no column {column!r}: it has {', '.join(map(str, row))}.")
        value = value[name]
    return value


def _cleaned(target: str, value: Any) -> Any:
    """A value as `pairs` has it: no image placeholder, lists as lists, an answer out of its box."""
    if target in ("choices", "answers", "conditions", "image"):
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = _list(value)
        if target == "choices" and isinstance(value, Mapping) and "text" in value:
            return list(value["text"])  # the hub's {label: [...], text: [...]}
        return value
    if isinstance(value, str):
        value = value.replace("<image>", "").strip()
    if target == "answer" and isinstance(value, str) and parse_number(value) is None:
        return extract_answer(value) or value
    return value


def _list(text: str) -> Any:
    """The list that a text holds, of JSON or as Python writes it; else the text itself."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _images(value: Any, folder: Path, out: Path, number: int, root: Root) -> Any:
    """The paths of a row's images, which are written beside the file; one or a list."""
    given = value if isinstance(value, list) else [value]
    paths = [
        _image(one, folder, out, f"{number}-{at}" if len(given) > 1 else str(number), root)
        for at, one in enumerate(given, start=1)
    ]
    return paths if isinstance(value, list) and len(paths) != 1 else (paths or [None])[0]


def _image(value: Any, folder: Path, out: Path, name: str, root: Root) -> str:
    from modgap.core.images import opened

    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value.startswith("data:"):
        return value
    try:
        if isinstance(value, str):
            root.check(folder / value)
            value = read_bytes(folder / value, MOST_IMAGE_BYTES)
        if not isinstance(value, bytes):
            raise ValueError(f"it is {type(value).__name__}, not bytes or a path")
        with opened(value) as image:
            suffix = (image.format or "png").lower()
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, UserError):
            raise
        why = " ".join(str(error).split())
        raise UserError(
            f"row {name}: its image cannot be read ({why}): leave the row out."
        ) from error
    path = out / IMAGES / f"{name}.{suffix}"
    path.write_bytes(value)
    return f"{IMAGES}/{path.name}"
