"""The rows of a run folder's JSON-lines files, and how such files are read and written.

A file can be read after a kill: an incomplete last line is left out, and any other broken line is
refused by its number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypeVar, cast, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticSerializationError

from modgap.core.disk import replacing, writing
from modgap.core.engine import CONTINUED
from modgap.core.errors import UserError
from modgap.core.files import open_lines, open_own
from modgap.core.text import as_utf8
from modgap.core.transcripts import WHOSE, writable

Outcome = Literal["correct", "wrong", "no_answer", "error"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
Key = tuple[str, str, int]
"""Problem, view and sample: the name of one response."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


_FIRST_GRADER = "mathverse:"


def recorded_grader(grader: str) -> str:
    """A problem's grader as run folders and fingerprints have it.

    The first grader beside that of numbers was MathVerse's, and runs recorded only the kind of
    answer: `free-form` is `mathverse:free-form`. Any other grader is recorded with its name, and so
    with a colon.
    """
    if grader.startswith(_FIRST_GRADER):
        return grader.removeprefix(_FIRST_GRADER)
    return f"{grader}:" if grader and ":" not in grader else grader


Count = Annotated[int, Field(ge=0, le=2**53)]
"""Tokens of a sample: a number that any table can hold."""


class ProblemRow(_Row):
    """One line of problems.jsonl.

    The key of `grader` is `question_type`, and its values are those of `recorded_grader`, as in the
    first runs.
    """

    id: str
    answer: str
    question: str = ""
    type: str = ""
    leaky: bool = False
    image: str | None = None
    conditions: tuple[str, ...] = ()
    grader: Annotated[
        str,
        PlainSerializer(recorded_grader),
        Field(
            validation_alias=AliasChoices("question_type", "grader"),
            serialization_alias="question_type",
        ),
    ] = ""
    subject: str = ""
    views: tuple[str, ...] = ()
    questions: dict[str, str] = {}
    answers: dict[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _name_grader(cls, fields: Any) -> Any:
        """A record without a grader's name belongs to the first grader.

        A value that is not a string is refused by its type.
        """
        if not isinstance(fields, dict):
            return fields
        row = cast("dict[str, Any]", fields)
        kind = row.get("question_type")
        if isinstance(kind, str) and kind and ":" not in kind:
            return row | {"question_type": f"{_FIRST_GRADER}{kind}"}
        return row

    def has_view(self, view: str) -> bool:
        """Whether the data set has this view of the problem, and the problem what it shows.

        Where `views` is empty, the data set has every view.
        """
        if self.views:
            return view in self.views
        return writable(view, self.conditions, self.question)

    def question_of(self, view: str) -> str:
        """The whole question of a view: what a judge is shown."""
        return self.questions.get(view, self.question)

    def gold_of(self, view: str) -> str:
        """The gold answer of a view."""
        return self.answers.get(view, self.answer)


class Response(_Row):
    """One line of responses.jsonl: one sampled response.

    `prefill` is what the assistant's turn was opened with, by us or by the chat template, and
    `left_out` what the model was not given (see `Completion`); records of older versions have
    neither.
    """

    problem_id: str
    view: str
    sample: int
    prompt: str
    response: str
    finish_reason: Literal["stop", "length", "error"]
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    image_tokens: Count = 0
    seed: int = 0
    error: str | None = None
    prefill: str = ""
    left_out: tuple[str, ...] = ()
    run: str = ""

    @property
    def key(self) -> Key:
        """Which sample it is."""
        return self.problem_id, self.view, self.sample

    @property
    def in_user_turn(self) -> bool:
        """Whether its transcription stood in the user turn, where the engine continues none."""
        return self.view in WHOSE and CONTINUED in self.left_out


class GradeRow(_Row):
    """One line of grades.jsonl: the verdict on one response.

    With the stage of the grader that decided, and the reason for an `error`.
    """

    problem_id: str
    view: str
    sample: int
    outcome: Outcome
    answer: str | None
    gold: str
    stage: str
    mode: str
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    reason: str = ""

    @property
    def key(self) -> Key:
        """Which sample it is."""
        return self.problem_id, self.view, self.sample


class RolloutRow(_Row):
    """The fields by which a line of rollouts.jsonl is assigned to a run."""

    problem_id: str
    view: str
    sample: int
    seed: int = 0


R = TypeVar("R", bound=BaseModel)

# What helps where a line of a file cannot be read, by the file's name up to its first dot.
_REMEDIES = {
    "responses": "remove that line and give the same command again: its sample is made again",
    "grades": "`modgap grade RUN` writes the file again",
    "problems": "give the command that made the run again: it writes the file again",
    "judge": "remove that line: its question is asked again",
}


def write_rows(path: Path, rows: Iterable[BaseModel]) -> None:
    """Write a JSONL file atomically, each row as it comes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(map(line_of, rows))


def line_of(row: BaseModel) -> str:
    """A row as a line of a JSONL file that can be read again, whatever a model or server said."""
    try:
        return row.model_dump_json(by_alias=True) + "\n"
    except PydanticSerializationError:  # half of a surrogate pair, which no file can hold
        text = json.dumps(row.model_dump(mode="python", by_alias=True), ensure_ascii=False)
        return as_utf8(text) + "\n"


def iter_rows(path: Path, kind: type[R]) -> Iterator[R]:
    """The rows of a JSONL file.

    An incomplete last line is left out; any other broken line is an error that names it.
    """
    return (row for _, _, row in placed_rows(path, kind))


def placed_rows(path: Path, kind: type[R]) -> Iterator[tuple[int, int, R]]:
    """`iter_rows`, each row with the number of its line and the byte at which it starts."""
    if not path.exists():
        return
    start, end = 0, 0
    with open_lines(path) as lines:
        for number, line in enumerate(lines, start=1):
            start, end = end, end + len(line)
            if not line.endswith(b"\n"):
                return  # incomplete after a kill: its sample is made again
            if not line.strip():
                continue
            try:
                row = kind.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                remedy = _REMEDIES.get(path.name.split(".")[0], "make that file again")
                raise UserError(
                    f"{path} line {number}: {where + ': ' if where else ''}{first['msg']}:"
                    f" {remedy}."
                ) from None
            yield number, start, row


_REPEATED = ("problem_id", "view", "prompt", "prefill", "run", "gold", "stage", "mode", "answer")
"""Fields of a row with the words of other rows of its file."""


def lean(rows: Iterable[R]) -> Iterator[R]:
    """Rows that are all kept: each shares the words of earlier ones, which halves the memory."""
    strings: dict[str, str] = {}
    fields: dict[frozenset[str], set[str]] = {}
    for row in rows:
        values = cast("dict[str, Any]", row.__dict__)
        for name in _REPEATED:
            value = values.get(name)
            if type(value) is str:
                values[name] = strings.setdefault(value, value)
        # pydantic keeps a set of the given fields for each row.
        given = row.model_fields_set
        shared = fields.setdefault(frozenset(given), given)
        object.__setattr__(row, "__pydantic_fields_set__", shared)
        yield row


def drop_torn_line(path: Path) -> None:
    """Cut the file after its last complete line."""
    if not path.exists():
        return
    with open_own(path, 0) as file:
        size = file.seek(0, os.SEEK_END)
        position = size
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                if start + newline + 1 < size:
                    file.truncate(start + newline + 1)
                return
            position = start
        file.truncate(0)


class ResponseWriter:
    """Appends responses to an open file.

    Args:
        file: The file.
        path: Where it is.
        mark: The run's, see `RunFolder.mark`.
    """

    def __init__(self, file: BinaryIO, path: Path, mark: str = "") -> None:
        self._file = file
        self._path = path
        self._mark = mark

    def write(self, row: Response) -> None:
        """Append one response and flush it."""
        with writing(self._path):
            self._file.write(line_of(row.model_copy(update={"run": self._mark})).encode())
            self._file.flush()
