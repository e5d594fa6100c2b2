"""The rows of MathVerse's files, and what is wrong with them.

The files are parquet or JSON, local or from the Hugging Face hub.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.files import Root, open_regular, read_text
from modgap.core.view import VERSIONS
from modgap.datasets.faults import Fault, json_type, missing
from modgap.datasets.hub import fetch_data_set
from modgap.datasets.recognise import MATHVERSE, hint
from modgap.grading.mathverse import FREE_FORM, MULTI_CHOICE, question_type_of

HUB_ID = "AI4Math/MathVerse"
_TAKEN = (*MATHVERSE, "question_for_eval", "metadata", "sample_index")
_JSON = (".json", ".jsonl")
_BATCH = 64
"""Rows of a parquet file whose images are in memory at once while they are assigned."""


@dataclass(slots=True)
class Row:
    """One sound row.

    Attributes:
        file: The file that it is in.
        number: The row in the file, from 1.
        problem: Its `problem_index`.
        view: The view that its version is.
        question: The version's own words.
        whole: `question_for_eval`, or `question` where the row has none.
        answer: Its gold answer.
        question_type: `multi-choice` or `free-form`.
        subject: Of the problem.
        subfield: Of the problem.
        image: Its image; for parquet files only after `take_images`.
        sample: Its `sample_index`; empty where the file has none.
    """

    file: Path
    number: int
    problem: str
    view: str
    question: str
    whole: str
    answer: str
    question_type: str
    subject: str
    subfield: str
    image: Path | bytes | str | None = None
    sample: str = ""


# ---- where it is ---------------------------------------------------------------------------------


def place_of(path: str | Path) -> Path:
    """Where the files of MathVerse are; a hub id is fetched, or found in the hub's cache.

    Raises:
        UserError: There is no such path, and no such data set on the hub.
    """
    place = Path(path)
    if place.exists():
        return place
    what = f"a parquet or JSON file of MathVerse's, a folder, or {HUB_ID}"
    return fetch_data_set(str(path), ["*.parquet"], what, "mathverse")


def files_of(place: Path, root: Root) -> list[Path]:
    """The files of MathVerse at a place.

    Raises:
        UserError: There are no such files, or one leads out of the folder.
    """
    if place.is_file():
        if place.suffix not in (".parquet", *_JSON):
            raise UserError(
                f"{place} is neither parquet nor JSON: give MathVerse's testmini.parquet or"
                f" testmini.json.{hint(place, 'mathverse')}"
            )
        return [place]
    found = [
        file
        for file in _sound(place.rglob("*.parquet"), root)
        if "problem_version" in _columns(file)
    ]
    if not found:
        others = (file for file in place.rglob("*") if file.suffix in _JSON)
        found = [file for file in _sound(others, root) if _is_mathverse(file)]
    if not found:
        raise UserError(
            f"{place} holds no MathVerse: give a folder with its parquet files (a column"
            f" problem_version), its JSON files, or {HUB_ID}.{hint(place, 'mathverse')}"
        )
    return found


def _sound(files: Iterable[Path], root: Root) -> Iterator[Path]:
    """Files in order; refuses one that is not a regular file, or leads out of the folder."""
    for file in sorted(files):
        if fault := root.fault(file):
            remedy = "" if root.target(file) else ": put the file back, or remove it"
            raise UserError(f"{file} {fault[1]}{remedy}.")
        yield file


def _columns(file: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(file).names
    except (pa.ArrowInvalid, OSError):
        return ["problem_version"]  # broken: reading says so


def _is_mathverse(file: Path) -> bool:
    with open_regular(file) as opened:
        return b'"problem_version"' in opened.read(65_536)


# ---- the rows ------------------------------------------------------------------------------------


def scan(files: Iterable[Path]) -> Iterator[Row | Fault]:
    """Every sound row and every fault of single rows, in the order of the files."""
    seen: dict[tuple[str, str], str] = {}
    for file in files:
        records = _parquet_records(file) if file.suffix == ".parquet" else _json_records(file)
        for number, record in enumerate(records, start=1):
            if isinstance(record, Fault):
                yield record
                continue
            row, faults = _row(file, number, record)
            yield from faults
            if row is None:
                continue
            key = (row.problem, row.view)
            where = f"{file.name} row {number}"
            if key in seen:
                message = (
                    f"the version {row.view} stands in {seen[key]} already: remove one of the two"
                )
                yield Fault(
                    file.name, row.problem, "duplicate-version", message, line=line_of(file, number)
                )
            else:
                seen[key] = where
                yield row


def _parquet_records(file: Path) -> Iterator[dict[str, Any] | Fault]:
    """The rows of a parquet file, without their images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        names = set(table.schema_arrow.names)
        if missing := [name for name in MATHVERSE if name not in names]:
            yield Fault(
                file.name,
                "",
                "missing-key",
                f"has no column {', '.join(missing)}: is it MathVerse's?",
            )
            return
        for batch in table.iter_batches(1024, columns=[name for name in _TAKEN if name in names]):
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        yield Fault(
            file.name, "", "malformed", f"cannot be read as parquet ({reason}): copy it again"
        )


def _json_records(file: Path) -> Iterator[dict[str, Any] | Fault]:
    try:
        text = read_text(file, "utf-8-sig")
        found = (
            [json.loads(line) for line in text.split("\n") if line.strip()]
            if file.suffix == ".jsonl"
            else json.loads(text)
        )
    except (ValueError, RecursionError) as error:
        yield Fault(file.name, "", "malformed", f"cannot be read as JSON ({error}): copy it again")
        return
    if not isinstance(found, list):
        yield Fault(file.name, "", "wrong-type", f"is {json_type(found)}, not a list of rows")
        return
    for number, record in enumerate(found, start=1):
        if isinstance(record, dict):
            yield record
        else:
            yield Fault(
                file.name,
                "",
                "not-an-object",
                f"is {json_type(record)}, not an object",
                line=line_of(file, number),
            )


def _row(file: Path, number: int, record: Mapping[str, Any]) -> tuple[Row | None, list[Fault]]:
    """A row, if it can be used, and what is wrong with it."""
    faults: list[Fault] = []
    name = _name(record.get("problem_index"))

    def fault(kind: str, message: str, *, fatal: bool = True) -> None:
        faults.append(
            Fault(
                file.name,
                name,
                kind,
                message,
                "error" if fatal else "warning",
                line_of(file, number),
            )
        )

    texts: dict[str, str] = {}
    for key in ("problem_version", "question", "answer", "question_type", "question_for_eval"):
        value = record.get(key)
        if key in MATHVERSE and key not in record:
            fault("missing-key", missing(key, record))
        elif isinstance(value, str) or (value is None and key != "problem_version"):
            texts[key] = value or ""
        else:
            fault("wrong-type", f"{key} is {json_type(value)}, not a string")
    if not name:
        fault("missing-key", missing("problem_index", record))
    if faults:
        return None, faults
    version = next(
        (v for v in VERSIONS if v.lower() == texts["problem_version"].strip().lower()), None
    )
    if version is None:
        fault(
            "version",
            f"the version {texts['problem_version']!r} is not known; known are"
            f" {', '.join(VERSIONS)}",
        )
        return None, faults
    if not (whole := texts["question_for_eval"] or texts["question"]).strip():
        fault("empty", "has neither question nor question_for_eval")
        return None, faults
    if not texts["question"].strip() and version != "Vision Only":
        fault(
            "empty",
            f"{version} has no question of its own; only Vision Only may leave it to the image",
            fatal=False,
        )
    question_type = question_type_of(texts["question_type"])
    if question_type is None:
        known = f"make it {MULTI_CHOICE} or {FREE_FORM}"
        fault(
            "question-type", f"the question type {texts['question_type']!r} is not known: {known}"
        )
        return None, faults
    metadata = record.get("metadata")
    about = metadata if isinstance(metadata, dict) else {}
    return Row(
        file, number, name, VERSIONS[version], texts["question"], whole, texts["answer"],
        question_type,
        str(about.get("subject") or ""), str(about.get("subfield") or ""), record.get("image"),
        _name(record.get("sample_index")),
    ), faults  # fmt: skip


def line_of(file: Path, number: int) -> int:
    """Where a row is, for a `Fault`: the line of a row of a JSON list is not known."""
    return 0 if file.suffix == ".json" else number


def _name(value: Any) -> str:
    return (
        str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    )


# ---- images --------------------------------------------------------------------------------------


def take_images(rows: Iterable[Row]) -> None:
    """Give rows their images, encoded.

    Images in parquet files are read a few rows at a time, and equal ones are shared.
    """
    kept: dict[bytes, bytes] = {}
    wanted: dict[Path, dict[int, Row]] = {}
    for row in rows:
        if row.file.suffix == ".parquet":
            wanted.setdefault(row.file, {})[row.number] = row
        else:
            row.image = _image(row.file.parent, row.image)
    for file, by_number in wanted.items():
        for number, value in _parquet_images(file, by_number):
            image = _image(file.parent, value)
            if isinstance(image, bytes):
                image = kept.setdefault(hashlib.blake2b(image, digest_size=16).digest(), image)
            by_number[number].image = image


def _parquet_images(file: Path, wanted: Mapping[int, Row]) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    if "image" not in table.schema_arrow.names:
        return
    number, last = 0, max(wanted)
    for batch in table.iter_batches(_BATCH, columns=["image"]):
        for value in batch.column(0):
            number += 1
            if number in wanted:
                yield number, value.as_py()
        if number >= last:
            return


def _image(folder: Path, value: Any) -> Path | bytes | None:
    """An image in one of the forms that parquet and JSON files use.

    Bytes, `{bytes, path}`, or a path beside the file or in `images/` there.
    """
    if isinstance(value, Mapping):
        return value.get("bytes") or _image(folder, value.get("path"))
    if isinstance(value, bytes):
        return value or None
    if not isinstance(value, str) or not value.strip():
        return None
    beside = folder / value
    return (
        folder / "images" / value
        if not beside.is_file() and (folder / "images" / value).is_file()
        else beside
    )
