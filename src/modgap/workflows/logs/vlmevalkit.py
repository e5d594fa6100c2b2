"""Reads VLMEvalKit's files of one model and data set, as xlsx, tsv or json.

```
MODEL_DATASET.xlsx                  predictions, as the model wrote them
MODEL_DATASET_JUDGE_extract.xlsx    and the answer that the judge extracted
MODEL_DATASET_JUDGE_score.xlsx      and its verdict
status.json                         the model's name, beside them
```

Source: VLMEvalKit 0.2rc1, `inference.py`, `smp/file.py`, `dataset/utils/mathverse.py`. What they
hide:

* `score` is False for a wrong answer and for a verdict that could not be read; `log_score` shows
  which.
* A cell of xlsx holds at most 32,767 characters; what is longer is cut.
* Each stage reads the file of the one before with pandas, which takes `null`, `None`, `NA` and the
  like for empty cells, and a column of numbers for numbers. So the predictions are taken from the
  file of predictions where it is given; of the other files only texts that pandas leaves alone are.
* Nothing says how the responses were sampled, how long they are, or what exactly was asked.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.files import read_bytes
from modgap.core.installation import require
from modgap.workflows.logs.samples import Log, Sample, Verdict, outcome_of, text_of

MOST_CHARACTERS = 32_767
CUT = f"fills its cell of {MOST_CHARACTERS:,} characters: xlsx cuts what is longer"
EMPTY_CELL = "is an empty cell of a file that pandas read before: it may have been null, None or NA"
NUMBER_CELL = "is a number in the file, as pandas makes of a text: its digits may be others"
NOT_TEXT = "is not a text in the file"
NO_WORDS = "is the word nan or None, which the tool writes where it has no response"
FAILED = "is the tool's message that the model did not answer"
UNREAD = "is False since the judge's verdict could not be read"
UNEXTRACTED = "is False since the judge extracted no answer in five tries"
UNLOGGED = "is False, and the log of the judge does not say whether its verdict was read"
STALE = "is of another response than the file of predictions has: was the model asked again?"
_FAIL_MESSAGE = "Failed to obtain answer"
_FIVE_TRIES = "All 5 retries failed."
_SUFFIXES = (".xlsx", ".tsv", ".json")
_CONTROL = re.compile(r"_x00([01][0-9A-Fa-f])_")
_UNPRINTED = re.compile(r"[\x00-\x1f]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Table:
    """One file.

    Attributes:
        path: Where it is.
        rows: Its rows.
    """

    path: Path
    rows: list[dict[str, Any]]

    def has(self, column: str) -> bool:
        """Whether it has a column."""
        return column in self.rows[0]

    @property
    def read_before(self) -> bool:
        """Whether pandas read its predictions from another file before it was written."""
        return self.has("extract") or self.has("score")

    def all_numbers(self, column: str) -> bool:
        """Whether pandas may have read a column as numbers: nothing else is in it."""
        values = [value for row in self.rows if text_of(value := row.get(column)) != ""]
        return bool(values) and all(
            isinstance(value, int | float) or _NUMBER.fullmatch(str(value).strip())
            for value in values
        )


def read(paths: Sequence[Path], scorer: str | None = None) -> Log:
    """Read the files of one model and one data set, or of several data sets.

    Args:
        paths: The files, or folders that hold them.
        scorer: There is only one, `score`.

    Raises:
        UserError: A file is not VLMEvalKit's, or is damaged; openpyxl is not installed; or the
            files are of several models.
    """
    if scorer not in (None, "score"):
        raise UserError(f"--scorer {scorer}: VLMEvalKit's files have one, score.")
    files = list(_files(paths))
    tables: list[_Table] = []
    digest = hashlib.sha256()
    for path in files:
        data = read_bytes(path)
        digest.update(data)
        table = _Table(path, _rows(path, data))
        if not table.rows:
            raise UserError(f"{path} holds no row.")
        if "prediction" in table.rows[0] and "index" in table.rows[0]:
            tables.append(table)
        elif len(files) == 1 or "Overall" not in table.rows[0]:
            raise UserError(
                f"{path} has no columns index and prediction: give the file of predictions,"
                " *_extract and *_score."
            )
    if not tables:
        raise UserError(
            f"{', '.join(map(str, paths))}: no file of predictions, *_extract or *_score among"
            " these, and only those hold responses."
        )
    groups = _groups(tables)
    models = dict.fromkeys(_model(name, group) for name, group in groups.items())
    if len(models) > 1:
        raise UserError(
            f"the files are of several models: {', '.join(models)}; import each into its own --out."
        )
    log = Log("vlmevalkit", files, next(iter(models)), digest=digest.hexdigest()[:16])
    for name, group in groups.items():
        _read_group(log, name, group)
    log.remarks.append(
        "VLMEvalKit's files do not say how the responses were sampled, how many tokens they have,"
        " whether they were cut, and what exactly was asked: the column question is the data"
        " set's."
    )
    return log


# ---- files ---------------------------------------------------------------------------------------


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            found = [
                file
                for file in sorted(path.iterdir())
                if file.suffix in _SUFFIXES and file.name != "status.json"
            ]
            if not found:
                raise UserError(f"{path} holds no {', '.join(_SUFFIXES)}: is it VLMEvalKit's?")
            yield from found
        elif path.suffix == ".pkl":
            raise UserError(
                f"{path} is a pickle, which may run anything when it is read: let VLMEvalKit write"
                " the file again with PRED_FORMAT=tsv."
            )
        elif path.suffix in _SUFFIXES or path.suffix == ".csv":
            if path.name != "status.json":
                yield path
        else:
            raise UserError(
                f"{path} is not a file of VLMEvalKit: give {', '.join(_SUFFIXES)}, or their folder."
            )


def _rows(path: Path, data: bytes) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".xlsx":
            return _sheet(data)
        text = data.decode("utf-8-sig")
        if path.suffix == ".json":
            found = json.loads(text)
            if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
                raise ValueError("it is not a list of rows")
            return found
        # A response may be longer than the csv module's own limit of 131,072 characters.
        csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
        delimiter = "\t" if path.suffix == ".tsv" else ","
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [dict(row) for row in reader]
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("a row has another number of cells than the header")
        return rows
    except (ValueError, csv.Error, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as {path.suffix[1:]} ({error}): copy it again."
        ) from None


def _sheet(data: bytes) -> list[dict[str, Any]]:
    """The rows of the first sheet; cells that are not there are `None`."""
    require("openpyxl")
    import zipfile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, OSError) as error:
        raise ValueError(str(error)) from None
    sheet = book.worksheets[0]
    lines = sheet.iter_rows(values_only=True)
    header = [str(cell) for cell in next(lines, ())]
    return [
        {name: _cell(value) for name, value in zip(header, line, strict=False)}
        for line in lines
        if any(value is not None for value in line)
    ]


def _cell(value: Any) -> Any:
    """A cell with the control characters that xlsx writes as `_x000D_` put back."""
    if isinstance(value, str):
        return _CONTROL.sub(lambda match: chr(int(match[1], 16)), value)
    return value


def _groups(tables: Iterable[_Table]) -> dict[str, list[_Table]]:
    """Name of the predictions' file -> the tables of its stages, predictions first."""
    ordered = sorted(
        tables, key=lambda table: (table.has("score"), table.has("extract"), table.path.stem)
    )
    groups: dict[str, list[_Table]] = {}
    for table in ordered:
        stem = table.path.stem
        # One data set's name may begin with another's: MathVerse_MINI, MathVerse_MINI_Text_Lite.
        name = max((known for known in groups if stem.startswith(f"{known}_")), key=len, default="")
        if not name or not table.read_before:
            name = stem
            for ending in ("_extract", "_score"):
                if table.read_before:
                    name = name.removesuffix(ending)
        same = groups.setdefault(name, [])
        columns = [(other.has("extract"), other.has("score")) for other in same]
        if (table.has("extract"), table.has("score")) in columns:
            raise UserError(
                f"{table.path} and {same[-1].path} are the same stage of one data set (two judges,"
                " or two formats): give one of them."
            )
        same.append(table)
    return groups


def _model(name: str, group: Sequence[_Table]) -> str:
    """The model's name, from status.json beside the files, else the files' own name."""
    status = group[0].path.parent / "status.json"
    if status.is_file():
        try:
            found = json.loads(read_bytes(status))
        except ValueError:
            found = None
        model = found.get("model_name") if isinstance(found, dict) else None
        if isinstance(model, str) and name.startswith(model):
            return model
    # MODEL_DATASET: where one ends and the other begins is not marked.
    return re.sub(r"_MathVerse.*", "", name)


# ---- rows ----------------------------------------------------------------------------------------


def _read_group(log: Log, name: str, group: Sequence[_Table]) -> None:
    """The samples of one data set, each stage's column from the file that wrote it."""
    first = group[0]
    extracted = next((table for table in group if table.has("extract")), None)
    scored = next((table for table in group if table.has("score")), None)
    if first.read_before:
        log.remarks.append(
            f"{first.path.name} was written from a file that pandas had read; the file of"
            " predictions has every response as it was written."
        )
    if scored is None:
        log.remarks.append(f"{name}: no *_score file is given, so that the tool's verdicts lack.")
    else:
        log.scorer = "score"
    by_index = {id(table): {text_of(row["index"]): row for row in table.rows} for table in group}
    for table in group:
        if len(by_index[id(table)]) < len(table.rows):
            raise UserError(f"{table.path}: an index appears twice; which row counts is not known.")
    for table in group[1:]:
        if missing := by_index[id(table)].keys() ^ by_index[id(first)].keys():
            log.odd.setdefault(f"are in only one of {first.path.name} and {table.path.name}",
                               []).extend(sorted(missing))  # fmt: skip
    # Cells of xlsx show by their type that pandas took a text for a number; those of tsv do not.
    numbers = first.path.suffix != ".xlsx" and first.all_numbers("prediction")
    _say_empty_extracts(log, extracted)
    for number, row in enumerate(first.rows, start=2):
        index = text_of(row["index"])
        of_extract = by_index[id(extracted)].get(index) if extracted else None
        of_score = by_index[id(scored)].get(index) if scored else None
        response, fault = _response(row, first, numbers=numbers)
        log.samples.append(
            Sample(
                where=f"{first.path.name} row {number} (index {index})",
                about=_about(row),
                task=name,
                position=int(index) if index.isdecimal() else -1,
                number=0,
                response=response,
                fault=fault,
                verdict=_verdict(row, of_extract, of_score, extracted),
            )
        )


def _say_empty_extracts(log: Log, table: _Table | None) -> None:
    if table is None:
        return
    empty = [text_of(row["index"]) for row in table.rows if text_of(row["extract"]) == ""]
    if empty and table.has("score"):
        log.odd.setdefault(
            "have no extracted answer: the judge found none, or pandas took its null or None for an"
            " empty cell (the *_extract file shows which)", []
        ).extend(f"index {index}" for index in empty)  # fmt: skip


def _response(row: Mapping[str, Any], table: _Table, *, numbers: bool) -> tuple[str, str]:
    """The response, and what is wrong with it."""
    value = row.get("prediction")
    text = text_of(value)
    if table.read_before:
        if text == "":
            return "", EMPTY_CELL
        if numbers:
            return text, NUMBER_CELL
    if value is not None and not isinstance(value, str):
        return text, NUMBER_CELL if isinstance(value, int | float) else NOT_TEXT
    if value is None and table.path.suffix == ".json":
        return text, NOT_TEXT
    if text in ("nan", "None"):
        return text, NO_WORDS
    if _FAIL_MESSAGE in text:
        return text, FAILED
    if table.path.suffix == ".xlsx" and len(text) >= MOST_CHARACTERS:
        return text, CUT
    thinking = text_of(row.get("thinking"))
    if thinking and table.path.suffix == ".xlsx" and len(thinking) >= MOST_CHARACTERS:
        return text, CUT
    if not thinking:
        return text, ""
    # The tool could not split thinking that it keeps with its closing tag.
    whole = thinking if thinking.endswith("</think>") else f"<think>{thinking}</think>"
    return f"{whole}\n{text}", ""


def _same_response(row: Mapping[str, Any], later: Mapping[str, Any] | None) -> bool:
    """Whether a later stage's file has the same response, as far as pandas and xlsx keep texts."""
    if later is None:
        return True
    texts = [_UNPRINTED.sub(" ", text_of(each.get("prediction"))) for each in (row, later)]
    mine, theirs = (" ".join(text.split())[: MOST_CHARACTERS // 2] for text in texts)
    if not theirs or mine == theirs:
        return True
    try:
        return float(mine) == float(theirs)
    except ValueError:
        return False


def _verdict(
    first: Mapping[str, Any],
    of_extract: Mapping[str, Any] | None,
    of_score: Mapping[str, Any] | None,
    table: _Table | None,
) -> Verdict:
    """The tool's verdict: False is wrong only where its log shows that the judge was understood."""
    row = of_score or of_extract
    answer = None
    if of_extract is not None and table is not None:
        answer = text_of(of_extract["extract"]) or None
        if answer and table.path.suffix == ".xlsx" and len(answer) >= MOST_CHARACTERS:
            answer = None
    if of_score is None:
        return Verdict(None, answer)
    if not (_same_response(first, of_score) and _same_response(first, of_extract)):
        return Verdict("error", None, STALE)
    outcome, reason = outcome_of(_truth(of_score["score"]))
    if outcome is None:
        return Verdict("error", answer, "is empty")
    if outcome != "wrong":
        by = "equal-text" if "Prefetch" in text_of(of_score.get("log_score")) else "judge"
        return Verdict(outcome, answer, reason, by)
    if text_of((row or {}).get("log_extract")).rstrip().endswith(_FIVE_TRIES):
        return Verdict("error", answer, UNEXTRACTED)
    log_score = text_of(of_score.get("log_score")).rstrip()
    if log_score.endswith(_FIVE_TRIES):
        return Verdict("error", answer, UNREAD)
    if not log_score.casefold().endswith("succeed"):
        return Verdict("error", answer, UNLOGGED)
    return Verdict("wrong", answer, by="judge")


def _truth(value: Any) -> Any:
    if isinstance(value, str):
        words = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
        return words.get(value.strip().casefold(), value if value.strip() else None)
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def _about(row: Mapping[str, Any]) -> dict[str, Any]:
    written = ("prediction", "thinking", "extract", "log_extract", "score", "log_score")
    about: dict[str, Any] = {
        name: text_of(value) for name, value in row.items() if name not in written
    }
    metadata = row.get("metadata")
    if isinstance(metadata, str):
        try:
            metadata = ast.literal_eval(metadata)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            metadata = None
    about["metadata"] = metadata if isinstance(metadata, dict) else {}
    return about
