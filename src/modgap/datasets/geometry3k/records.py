"""Where Geometry3K's problems are: its folders, parquet or JSON files, and annotated logic forms.

```
FOLDER/train|val|test/ID/       data.json, logic_form.json, img_diagram.png: the original layout
FOLDER/ID/                      the same without splits: every problem is in every split
FOLDER/**/train-00000.parquet   the hub's files, with or without logic forms; also .json, .jsonl
ORG/NAME                        the same from the Hugging Face hub, e.g. hiyouga/geometry3k
FOLDER/diagram_logic_forms_annot.json, text_logic_forms_annot.json     forms of problems by id
```

The split of a file is the word in its name. Columns may have the names of `data.json` or those of
the hub (`images`, `problem`, `answer`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.files import Root, open_regular
from modgap.datasets.faults import Fault, json_type
from modgap.datasets.hub import fetch_data_set, is_hub_id
from modgap.datasets.json_file import parse
from modgap.datasets.recognise import hint

SPLITS = ("train", "val", "test")
DATA, FORMS, DIAGRAM = "data.json", "logic_form.json", "img_diagram.png"
_SPLIT = re.compile(r"(?<![a-z])(train|val|validation|dev|test)(?![a-z])", re.IGNORECASE)
_SPLIT_NAMES = {"validation": "val", "dev": "val"}
_ANNOTATED = re.compile(r"(diagram|text)_logic_forms?.*\.json")
_BATCH = 64
"""Rows of a parquet file that are read at a time."""
_MOST_FOLDERS = 50
"""Folders that are looked into for one that holds problems."""
_LAYOUT = (
    "give the folder that holds train/, val/ and test/ with a folder for each problem"
    f" ({DATA}, {FORMS}, {DIAGRAM}), or the hub's parquet files"
)


@dataclass(frozen=True, slots=True)
class Source:
    """A folder of problem folders, or a file of rows.

    Attributes:
        path: The folder or file.
        split: `train`, `val` or `test`; empty where the problems are in no split.
    """

    path: Path
    split: str


@dataclass(frozen=True, slots=True)
class Record:
    """One problem as it is stored.

    Attributes:
        path: Its file.
        file: The same for messages, relative to the data set.
        number: Its line or row in the file, from 1; 0 where a file holds one problem.
        split: The split of its source.
        name: Its id; empty where the file has none.
        value: Its fields.
        image: Its diagram, not looked at yet.
    """

    path: Path
    file: str
    number: int
    split: str
    name: str
    value: Mapping[str, Any]
    image: Path | bytes | None


@dataclass(slots=True)
class Sources:
    """What a place holds.

    Attributes:
        place: The folder or file, as it was given.
        found: The folders and files of problems.
        annotated: Files of logic forms by problem id.
    """

    place: Path
    found: list[Source] = field(default_factory=list[Source])
    annotated: list[Path] = field(default_factory=list[Path])

    @property
    def splits(self) -> list[str]:
        """The splits that there are, in order."""
        there = {source.split for source in self.found}
        return [split for split in SPLITS if split in there]


def place_of(path: str | Path) -> Path:
    """Where the files are; a hub id is fetched, or found in the hub's cache.

    Raises:
        UserError: The data set cannot be fetched.
    """
    place = Path(path)
    if place.exists() or not is_hub_id(str(path)):
        return place
    return fetch_data_set(str(path), ["*.parquet"], _LAYOUT)


def sources_of(place: Path, root: Root) -> Sources:
    """The folders and files of problems at a place.

    Raises:
        UserError: There are none, or one leads out of the folder.
    """
    sources = Sources(place)
    if place.is_file():
        if place.suffix in (".parquet", ".json", ".jsonl"):
            sources.found = [Source(place, split_of(place.name))]
    elif place.is_dir():
        sources.annotated = sorted(
            file
            for folder in (place, place / "logic_forms")
            if folder.is_dir()
            for file in folder.iterdir()
            if _ANNOTATED.fullmatch(file.name)
        )
        sources.found = _folders(place) or _files(place)
    for source in sources.found:
        root.check(source.path)
    if not sources.found and not sources.annotated:
        what = "holds no problem of Geometry3K" if place.exists() else "does not exist"
        raise UserError(f"{place} {what}: {_LAYOUT}.{hint(place, 'geometry3k')}")
    return sources


def split_of(name: str) -> str:
    """The split that a file's name says; empty if it says none."""
    match = _SPLIT.search(name)
    if match is None:
        return ""
    return _SPLIT_NAMES.get(match[1].lower(), match[1].lower())


def _folders(place: Path) -> list[Source]:
    """Folders of problem folders: a split each, or one without splits; also one level below."""
    if (place / DATA).is_file():
        return [Source(place, "")]
    splits = [
        Source(folder, split_of(folder.name))
        for folder in _below(place)
        if split_of(folder.name) in SPLITS and _holds_problems(folder)
    ]
    if splits:
        return sorted(splits, key=lambda source: SPLITS.index(source.split))
    if _holds_problems(place):
        return [Source(place, "")]
    for folder in islice(_below(place), _MOST_FOLDERS):
        if (_holds_problems(folder) or any(map(_holds_problems, _below(folder)))) and (
            found := _folders(folder)
        ):
            return found
    return []


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _holds_problems(folder: Path) -> bool:
    return any((path / DATA).is_file() for path in folder.iterdir() if path.is_dir())


def _files(place: Path) -> list[Source]:
    """Parquet files below a folder; else its JSON files with problems."""
    files = sorted(place.rglob("*.parquet")) or [
        file
        for file in sorted(place.iterdir())
        if file.suffix in (".json", ".jsonl") and not _ANNOTATED.fullmatch(file.name)
    ]
    return [Source(file, split_of(file.relative_to(place).as_posix())) for file in files]


# ---- problems ------------------------------------------------------------------------------------


def records(sources: Sources, split: str, root: Root) -> Iterator[Record | Fault]:
    """Every problem of a split as it is stored, and every file that cannot be read.

    Args:
        sources: Where they are.
        split: The split; empty for all. Problems that are in no split are in each.
        root: The folder that files must not lead out of.
    """
    for source in sources.found:
        if split and source.split not in ("", split):
            continue
        if source.path.is_dir():
            yield from _of_folder(sources.place, source, root)
        elif source.path.suffix == ".parquet":
            yield from _of_parquet(sources.place, source)
        else:
            yield from _of_json(sources.place, source)


def shown_path(place: Path, path: Path) -> str:
    """A path for messages: relative to the data set."""
    return path.relative_to(place).as_posix() if path != place else path.name


def _of_folder(place: Path, source: Source, root: Root) -> Iterator[Record | Fault]:
    folders = _below(source.path) if not (source.path / DATA).is_file() else [source.path]
    for folder in sorted(folders, key=_in_numbers):
        file = shown_path(place, folder / DATA)
        if not (folder / DATA).is_file():
            yield Fault(file, folder.name, "missing-file", f"there is no {DATA}: copy it again")
            continue
        try:
            value = json.loads(root.read_bytes(folder / DATA))
            forms = root.read_bytes(folder / FORMS) if (folder / FORMS).exists() else b"{}"
            logic = json.loads(forms)
        except (ValueError, RecursionError) as error:
            message = f"cannot be read ({' '.join(str(error).split())}): copy the folder again"
            yield Fault(file, folder.name, "malformed", message)
            continue
        if not isinstance(value, dict) or not isinstance(logic, dict):
            what = json_type(logic if isinstance(value, dict) else value)
            yield Fault(file, folder.name, "not-an-object", f"holds {what}, not an object")
            continue
        image = folder / DIAGRAM
        yield Record(folder / DATA, file, 0, source.split, folder.name, {**logic, **value}, image)


def _in_numbers(folder: Path) -> tuple[int, str]:
    return int(folder.name) if folder.name.isdecimal() else 1 << 62, folder.name


def _of_parquet(place: Path, source: Source) -> Iterator[Record | Fault]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, number = shown_path(place, source.path), 0
    try:
        table = pq.ParquetFile(source.path)
        for batch in table.iter_batches(_BATCH):
            for value in batch.to_pylist():
                number += 1
                yield _row(source, file, number, value)
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        message = f"cannot be read as parquet ({reason}): copy it again"
        yield Fault(file, "", "malformed", message)


def _of_json(place: Path, source: Source) -> Iterator[Record | Fault]:
    file = shown_path(place, source.path)
    try:
        with open_regular(source.path) as opened:
            text = opened.read().decode("utf-8-sig")
        lines = source.path.suffix == ".jsonl"
        rows = [parse(line) for line in text.split("\n") if line.strip()] if lines else parse(text)
    except (ValueError, RecursionError) as error:
        message = f"cannot be read as JSON ({' '.join(str(error).split())}): copy it again"
        yield Fault(file, "", "malformed", message)
        return
    if isinstance(rows, dict):
        rows = [{"id": name, **value} for name, value in rows.items() if isinstance(value, dict)]
    if not isinstance(rows, list):
        yield Fault(file, "", "wrong-type", f"is {json_type(rows)}, not a list of problems")
        return
    for number, value in enumerate(rows, start=1):
        if isinstance(value, dict):
            yield _row(source, file, number, value)
        else:
            message = f"is {json_type(value)}, not an object"
            yield Fault(file, "", "not-an-object", message, line=number)


def _row(source: Source, file: str, number: int, value: Mapping[str, Any]) -> Record:
    """A row of a table; its image is in one of the forms that the hub has."""
    split = source.split or split_of(str(value.get("split") or value.get("data_type") or ""))
    name = next((str(value[key]) for key in _IDS if value.get(key) is not None), "")
    image = next((value[key] for key in _IMAGES if value.get(key) is not None), None)
    picture = _image(source.path.parent, image)
    return Record(source.path, file, number, split, name, value, picture)


_IDS = ("id", "problem_id", "question_id")
_IMAGES = ("images", "image", "img_diagram", "diagram")


def _image(folder: Path, value: Any) -> Path | bytes | None:
    """The first of a list, `{bytes, path}`, bytes, or a path beside the file."""
    if isinstance(value, list):
        return _image(folder, value[0]) if value else None
    if isinstance(value, Mapping):
        return value.get("bytes") or _image(folder, value.get("path"))
    if isinstance(value, str) and value.strip():
        return folder / value
    return value if isinstance(value, bytes) and value else None


# ---- logic forms ---------------------------------------------------------------------------------


def annotated(files: Iterable[Path], root: Root) -> dict[str, dict[str, list[str]]]:
    """Problem id -> `diagram` and `text` -> its forms, of files of annotated forms.

    Raises:
        UserError: A file cannot be read.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for file in files:
        kind = file.name.partition("_")[0]
        try:
            entries = json.loads(root.read_bytes(file))
            for name, entry in entries.items():
                forms = entry.get(f"{kind}_logic_forms", entry.get(f"{kind}_logic_form"))
                found.setdefault(name, {})[kind] = [str(form) for form in forms]
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise UserError(
                f"{file} cannot be read as logic forms ({' '.join(str(error).split())}): it must"
                f" hold one object, id -> {{{kind}_logic_forms: [...]}}."
            ) from None
    return found
