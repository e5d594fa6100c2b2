"""The run folder: what was asked, what the model said, how it was graded.

```
manifest.json    versions, git commit, arguments as given and as resolved, fingerprints
problems.jsonl   one line per problem: what a grader or a report needs when the data set is gone
fingerprints.json  for each problem digests of its words and of its diagrams: what a mended data set
                 changed
responses.jsonl  one line per sample, flushed as it is made
grades.jsonl     one line per sample, of the last grading; other modes in grades.MODE.jsonl
summary.json     the numbers
```

A run that was killed resumes with the same command: an incomplete last line is dropped and its
sample made again, nothing is made twice, and a run whose arguments differ is refused. So is a
folder whose files do not belong together: one that has lost its manifest, and one whose responses
are not those that the manifest describes. Each response carries the digest of its run's arguments
and fingerprints (`RunFolder.mark`); older responses have none and are recognised by their seeds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import (
    Callable,
    Collection,
    Container,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypedDict, TypeVar, cast, get_args

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

from modgap.core.disk import replacing, sweep, writing
from modgap.core.engine import CONTINUED, sample_seed
from modgap.core.errors import UserError
from modgap.core.files import (
    check_local,
    locked,
    open_lines,
    open_own,
    open_regular,
    read_text,
)
from modgap.core.text import as_utf8
from modgap.core.transcripts import WHOSE, writable
from modgap.core.version import __version__

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

# Files that only a started run holds, by the kind of the run: without a manifest it is not known
# which run they belong to. A stage, an evaluation or a base model that is a link belongs to another
# run.
_OF_AN_EVALUATION = ("responses.jsonl", "grades.jsonl", "grades.*.jsonl", "judge.jsonl")
_OF_A_TRAINING = (
    "train_log.jsonl", "rollouts.jsonl", "state.pt", "result.json", "checkpoints/step_*",
    "verl/global_step_*",
)  # fmt: skip
_TRACES = (*_OF_AN_EVALUATION, *_OF_A_TRAINING)
_TRACES_BELOW = {
    "train": tuple(f"stage*/{name}" for name in _OF_A_TRAINING),
    "study": (
        *(f"*/eval/{name}" for name in _OF_AN_EVALUATION),
        *(f"*/stage*/{name}" for name in _OF_A_TRAINING),
    ),
    "demo": ("data/*.json", "study/manifest.json"),
}
IMAGE_FOLDERS = "image_folders"
"""The key of a manifest under which are the folders of the diagrams: a report reads no others.

`problems.jsonl` names a diagram from the folder that all of these are in, so that the run can be
moved; files of older versions have absolute paths.
"""
_EARLIER = ("created", "versions", "git", "given", "resolved", "fingerprints")
_MORE = "more --views, --samples or --limit to extend it (`modgap cut` makes a run of fewer), "
_PROBLEMS = "problems_digest"
"""The key of a manifest under which is the digest of the problems."""
_GRADED_BY = ("id", "answer", "answers", "question", "questions", "grader", "views")
_MOST_FOLDERS = 50
DATA_FILES = ("train.json", "test.json", "Diagram_Visual")
"""What a data set in PGPS9K's layout holds: no run is put into such a folder."""
_WRITTEN = {
    "eval": ("problems.jsonl", "fingerprints.json", "summary.json"),
    "import": ("problems.jsonl", "summary.json", "import.json"),
    "study": ("summary.json", "report.html"),
}
"""Further files that a run of a kind writes. One that is there without a manifest is not ours."""
RESTORE = "put back the manifest.json that belongs to it, or give another --out"
"""What helps where files and manifest do not belong together."""

# What helps where a line of a file cannot be read, by the file's name up to its first dot.
_REMEDIES = {
    "responses": "remove that line and give the same command again: its sample is made again",
    "grades": "`modgap grade RUN` writes the file again",
    "problems": "give the command that made the run again: it writes the file again",
    "judge": "remove that line: its question is asked again",
}


def check_folder(path: Path) -> None:
    """Refuse a file where a folder is to be. Raises `UserError`."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: give a folder as --out.")
    for there in (path, *path.parents):
        if there.is_symlink() and not there.exists():
            raise UserError(f"{there} is a link to nothing: remove it, or give another --out.")


def check_writable(path: Path) -> None:
    """Refuse a folder that cannot be made or written to, without making it. Raises `UserError`."""
    check_folder(path)
    there = path.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise UserError(f"--out {path}: {there} is a file, not a folder; give another --out.")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"--out {path}: {there} cannot be written to ({error.strerror}); give another --out."
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one, never half of it.

    JSON has no NaN and no infinity: what is not a number is written as null.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        value = _finite(value)
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=False)
    if as_utf8(text) != text:  # half of a surrogate pair: the name of a file may hold it
        text = json.dumps(value, indent=2, default=str, allow_nan=False)
    write_text(path, text + "\n")


def _finite(value: Any) -> Any:
    """A value with `None` for NaN and infinity, at any depth."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in cast("Sequence[Any]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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


def read_json(path: Path, remedy: str = "put the file back from a copy") -> dict[str, Any]:
    """Read a JSON object; a `UserError` names the file when it is absent, broken or another value.

    Args:
        path: The file.
        remedy: What helps where it is broken.
    """
    try:
        found = json.loads(read_text(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): {remedy}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it is not an object): {remedy}.")
    return cast("dict[str, Any]", found)


def iter_rows(path: Path, kind: type[R]) -> Iterator[R]:
    """The rows of a JSONL file.

    An incomplete last line is left out; any other broken line is an error that names it.
    """
    return (row for _, _, row in _placed_rows(path, kind))


def _placed_rows(path: Path, kind: type[R]) -> Iterator[tuple[int, int, R]]:
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


class RunManifest(TypedDict, total=False):
    """What `manifest.json` holds; a file of an earlier version lacks some of it.

    Attributes:
        kind: `eval`, `train`, `study`, `import`, `demo`, `prepare`.
        created: When, with the time zone.
        versions: Of Python, modgap and the libraries that decide results.
        git: Commit and dirty flag of the source tree.
        given: The arguments as the user gave them.
        resolved: The arguments that make the run what it is.
        fingerprints: Of the model and the data.
        options: The values in force of every option; those of `modgap grade` under `grade`.
        sampling: How the samples are drawn, parts that the engine decides included.
        history: What the run was before it was extended, the oldest first: `given`, `resolved`,
            `fingerprints`, `versions`, `git`, and `until` when.
        transcriptions_in: Where transcriptions stood: `assistant turn`, `user turn`, or both.
        threads: Of a training on a CPU, by which its numbers resume to the last bit.
    """

    kind: str
    created: str
    versions: dict[str, str]
    git: dict[str, object]
    given: dict[str, Any]
    resolved: dict[str, Any]
    fingerprints: dict[str, str | None]
    options: dict[str, Any]
    sampling: dict[str, Any]
    history: list[dict[str, Any]]
    transcriptions_in: list[str]
    threads: int


def short_digest(value: object) -> str:
    """16 hex digits of a value's JSON, as `fingerprints.json` has them."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class RunFolder:
    """A run on disk.

    Args:
        path: The folder. It need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        check_local(path)
        self.path = Path(path)

    def _file(self, name: str) -> Path:
        return self.path / name

    @property
    def manifest_path(self) -> Path:
        """Where the manifest is."""
        return self._file("manifest.json")

    @property
    def responses_path(self) -> Path:
        """Where the responses are."""
        return self._file("responses.jsonl")

    def start(
        self,
        kind: str,
        resolved: Mapping[str, object],
        given: Mapping[str, object] | None = None,
        **fingerprints: str | None,
    ) -> bool:
        """Begin the run, or resume it.

        The caller holds the lock (of a stage: that of its training).

        Args:
            kind: `eval`, `train`, `study`, `import`, `demo`.
            resolved: The arguments that make the run what it is; a folder that holds others is
                refused. Leave out what does not change the result (batch size, device).
            given: The arguments as the user gave them, for the record.
            **fingerprints: Of the model and the data; they must match, too.

        Returns:
            Whether the run existed already.

        Raises:
            UserError: The folder holds another run; the message names the first differences. An
                evaluation without a single response (for example, its model could not be loaded) is
                replaced instead. Or the folder has files of a run and no manifest.
        """
        new = json.loads(json.dumps({"kind": kind, **resolved, **fingerprints}, default=str))
        check_folder(self.path)
        if self.manifest_path.exists():
            before = self._identity()
            differences = [name for name in {**before, **new} if before.get(name) != new.get(name)]
            if not differences:
                return True
            if "kind" in differences or kind != "eval" or not self.unanswered():
                changes = "; ".join(
                    f"{n} was {before.get(n)!r}, now {new.get(n)!r}" for n in differences[:3]
                )
                more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
                raise UserError(
                    f"{self.path} holds a run with other arguments: {changes}{more}. "
                    f"Give the same arguments to resume it, {_MORE if kind == 'eval' else ''}or"
                    " another --out."
                )
            for stale in [*self.path.glob("grades*.jsonl"), self._file("summary.json")]:
                stale.unlink(missing_ok=True)  # of the run that is replaced
        else:
            self.check_place(kind)
        manifest = _origin(kind, given)
        manifest["resolved"] = dict(resolved)
        manifest["fingerprints"] = dict(fingerprints)
        write_json(self.manifest_path, manifest)
        return False

    def extend(
        self,
        resolved: Mapping[str, object],
        given: Mapping[str, object] | None = None,
        **fingerprints: str | None,
    ) -> None:
        """Give the run other arguments; what it had before is kept in the manifest's `history`.

        The caller holds the lock, and has checked that what was answered stays right.

        Args:
            resolved: As of `start`.
            given: As of `start`.
            **fingerprints: As of `start`.
        """
        manifest = self.manifest()
        now = _origin("eval", given)
        earlier = {name: value for name, value in manifest.items() if name in _EARLIER}
        history = [*manifest.get("history", []), {**earlier, "until": now.pop("created", "")}]
        arguments = {"resolved": dict(resolved), "fingerprints": dict(fingerprints)}
        write_json(self.manifest_path, manifest | now | arguments | {"history": history})

    def check_place(self, kind: str) -> None:
        """Refuse a folder in which a run of this kind cannot be made; called early, and by `start`.

        A run overwrites its own files only. What it would write over in a folder without a manifest
        is somebody else's.

        Args:
            kind: As for `start`.

        Raises:
            UserError: It is a file, cannot be written to, holds a data set, another kind of run, or
                files that a run would replace.
        """
        out = f"--out {self.path}"
        check_writable(self.path)
        if self.manifest_path.exists():
            before = self.manifest().get("kind")
            if before != kind:
                raise UserError(
                    f"{out}: {self.path} holds a run with other arguments: kind was {before!r}, now"
                    f" {kind!r}. Give another --out."
                )
            return
        if trace := self._trace(kind):
            raise self._lost(trace)
        if any(self._file(name).exists() for name in DATA_FILES):
            raise UserError(f"{out}: that is a data set; give another --out.")
        for name in () if self._has_own_problems() else _WRITTEN.get(kind, ()):
            if self._file(name).exists():
                raise UserError(
                    f"{out}: {self._file(name)} is not a file of a run, and the run would replace"
                    " it; give another --out."
                )

    def _has_own_problems(self) -> bool:
        """Whether problems.jsonl is a run's, such as one that was cleared by hand to begin anew."""
        path = self._file("problems.jsonl")
        if not path.is_file():
            return False
        with open_regular(path) as file:
            line = file.readline(1 << 20)
        return b'"leaky":' in line and b'"question_type":' in line

    def replace_manifest(
        self, kind: str, options: Mapping[str, object], given: Mapping[str, object] | None = None
    ) -> None:
        """Write the manifest of files that a command makes as a whole, and never resumes."""
        manifest = _origin(kind, given)
        manifest["options"] = dict(options)
        write_json(self.manifest_path, manifest)

    def note(self, name: str, value: Any) -> None:
        """Record something in the manifest that does not make the run what it is.

        The caller holds the lock.
        """
        manifest = self.manifest()
        if manifest.get(name) != value:
            write_json(self.manifest_path, manifest | {name: value})

    def note_grading(self, options: Mapping[str, object]) -> None:
        """Record the options of `modgap grade` beside those of the run.

        The caller holds the lock.
        """
        self.note("options", {**self.manifest().get("options", {}), "grade": dict(options)})

    def forget_grading(self) -> None:
        """Remove what `note_grading` recorded: the run is graded anew without these options."""
        options = dict(self.manifest().get("options", {}))
        if options.pop("grade", None) is not None:
            self.note("options", options)

    def _identity(self) -> dict[str, object]:
        """What makes the run what it is, from its manifest."""
        return _identity(self.manifest())

    def mark(self) -> str:
        """16 hex digits that identify the run's arguments and fingerprints.

        Empty without a manifest.
        """
        return _mark(self._identity()) if self.manifest_path.exists() else ""

    def _marks(self) -> set[str]:
        """The mark, and those that the run had before it was extended."""
        if not self.manifest_path.exists():
            return {""}
        manifest = self.manifest()
        before = [{"kind": manifest.get("kind"), **part} for part in manifest.get("history", [])]
        return {_mark(_identity(part)) for part in (manifest, *before)}

    def _trace(self, kind: str | None = None) -> str:
        """The name of a file that only a started run holds; empty where there is none."""
        for pattern in (*_TRACES, *_TRACES_BELOW.get(kind or "", ())):
            for path in sorted(self.path.glob(pattern)):
                parts = path.relative_to(self.path).parts
                above = [self.path.joinpath(*parts[: n + 1]) for n in range(len(parts) - 1)]
                linked = any(folder.is_symlink() for folder in above)
                if path.exists() and path.stat().st_size and not linked:
                    return str(path.relative_to(self.path))
        return ""

    def unanswered(self) -> bool:
        """Whether no response was recorded: the run did not get that far."""
        return not self.responses_path.exists() or not self.responses_path.stat().st_size

    def _lost(self, trace: str) -> UserError:
        return UserError(
            f"{self.path} has lost its manifest.json: it holds {trace}, and of which run is not"
            f" known. Remedy: {RESTORE}."
        )

    def manifest(self) -> RunManifest:
        """The manifest; a `UserError` if this is not a run folder, or the manifest is damaged."""
        if not self.manifest_path.exists():
            if trace := self._trace():
                raise self._lost(trace)
            runs = sorted(at.parent for at in self.path.glob("*/manifest.json"))[:3]
            near = f" Did you mean {' or '.join(map(str, runs))}?" if runs else ""
            raise UserError(
                f"{self.path} is not a run folder (it has no manifest.json): give the --out of an"
                f" earlier run.{near}"
            )
        remedy = "put the file back from a copy, or give another --out"
        try:
            found = json.loads(read_text(self.manifest_path))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.manifest_path} is damaged ({error}): {remedy}.") from None
        if not isinstance(found, dict):
            raise UserError(f"{self.manifest_path} is damaged (it is not an object): {remedy}.")
        fields = cast("dict[str, object]", found)
        for name in ("given", "resolved", "fingerprints", "options"):
            if not isinstance(fields.get(name, {}), dict):
                raise UserError(
                    f"{self.manifest_path} is damaged ({name} is not an object): {remedy}."
                )
        return cast("RunManifest", found)

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Hold the run for writing, so that two processes cannot make the same samples.

        Raises:
            UserError: Another process holds it.
        """
        check_folder(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(self._file(".lock")))
            except BlockingIOError:
                raise UserError(
                    f"another process is writing {self.path}: wait for it, or give another --out."
                ) from None
            sweep(self.path)
            yield

    # Problems

    def write_problems(self, rows: Iterable[ProblemRow]) -> None:
        """Record the problems of the run, and the folders that hold their diagrams.

        Args:
            rows: With the whole paths of their diagrams.
        """
        found = list(rows)
        known = self.manifest_path.exists()
        folders = _folders(row.image for row in found if row.image)
        root = _root(folders) if known else ""
        write_text(
            self._file("problems.jsonl"),
            "".join(line_of(_moved(row, root, os.path.relpath)) for row in found),
        )
        if known:
            self.note(IMAGE_FOLDERS, folders)
            self.note(_PROBLEMS, _digest(found))

    def problems(self) -> dict[str, ProblemRow]:
        """The problems of the run by id, with the whole paths of their diagrams.

        Raises:
            UserError: A line cannot be read, or other problems were written: their gold answers
                would give other grades.
        """
        path = self._file("problems.jsonl")
        known: Mapping[str, Any] = self.manifest() if self.manifest_path.exists() else {}
        root = _root(known.get(IMAGE_FOLDERS, []))
        found = {
            row.id: _moved(row, root, lambda image, at: os.path.join(at, image))
            for row in iter_rows(path, ProblemRow)
        }
        # Older manifests lack the digest.
        written = known.get(_PROBLEMS)
        if written and _digest(found.values()) != written:
            raise UserError(
                f"{path} is not the file that the manifest.json beside it was written with: put"
                " back the one of both that belongs here, or give the command that made the run"
                " again."
            )
        return found

    def write_fingerprints(self, each: Mapping[str, Sequence[str]]) -> None:
        """Record the fingerprints of each problem: that of its words and that of its diagrams."""
        write_text(self._file("fingerprints.json"), json.dumps(each) + "\n")

    def fingerprints(self) -> dict[str, list[str]]:
        """The fingerprints of each problem by id; empty in runs of older versions."""
        path, remedy = self._file("fingerprints.json"), "remove it: it is written again"
        found = read_json(path, remedy) if path.exists() else {}
        for parts in found.values():
            if not isinstance(parts, list) or len(cast("list[Any]", parts)) != 2:
                raise UserError(f"{path} is damaged: {remedy}.")
        return found

    # Responses

    def responses(self) -> Iterator[Response]:
        """All responses, in the order they were made."""
        return iter_rows(self.responses_path, Response)

    def own_responses(
        self,
        problems: Container[str] | None = None,
        prompt: Callable[[Response], str | None] | None = None,
    ) -> Iterator[Response]:
        """All responses, each checked against the manifest if there is one.

        Args:
            problems: The ids of the run's problems.
            prompt: Gives the prompt that the run asks for a response's problem and view; `None`
                where it asks none.

        Raises:
            UserError: One is of another run; the message names the first such line.
        """
        return (row for _, row in self.placed_responses(problems, prompt))

    def placed_responses(
        self,
        problems: Container[str] | None = None,
        prompt: Callable[[Response], str | None] | None = None,
    ) -> Iterator[tuple[int, Response]]:
        """`own_responses`, each with the byte of the file at which it starts (`responses_at`)."""
        known, marks = self.manifest_path.exists(), self._marks()
        manifest = self.manifest() if known else RunManifest()
        for number, start, row in _placed_rows(self.responses_path, Response):
            if known and (
                why := _foreign(row, manifest, marks, problems) or _other_words(row, prompt)
            ):
                raise UserError(
                    f"{self.responses_path} is of another run than the manifest.json beside it:"
                    f" line {number} ({row.problem_id}, {row.view}, sample {row.sample}): {why}."
                    f" Remedy: {RESTORE}."
                )
            yield start, row

    def responses_at(self, starts: Iterable[int]) -> list[Response]:
        """The responses that start at these bytes of the file.

        Raises:
            UserError: The file is not the one in which they were found.
        """
        rows: list[Response] = []
        with open_regular(self.responses_path) as file:
            for start in starts:
                file.seek(start)
                try:
                    rows.append(Response.model_validate_json(file.readline()))
                except ValidationError:
                    raise self.changed() from None
        return rows

    def changed(self) -> UserError:
        """The error where a file is not the one that was read before."""
        return UserError(
            f"{self.responses_path} was changed while it was read: give the same command again."
        )

    def check_responses(self, problems: Container[str]) -> None:
        """Refuse responses of another run, as `own_responses` does, before they are replaced."""
        for _ in self.own_responses(problems):
            pass

    def write_responses(self, rows: Iterable[Response]) -> None:
        """Replace the responses atomically."""
        mark = self.mark()
        marked = (row.model_copy(update={"run": mark}) for row in rows)
        write_rows(self.responses_path, marked)

    def resume(
        self,
        problems: Container[str] | None = None,
        prompt: Callable[[Response], str | None] | None = None,
    ) -> set[Key]:
        """Make the responses file ready for appending.

        An incomplete last line is dropped, and so are failed samples (`finish_reason` `error`),
        which are made again. Of a sample that is there twice, the last line stays.

        Args:
            problems: As in `own_responses`.
            prompt: As in `own_responses`.

        Returns:
            The samples that exist.

        Raises:
            UserError: A response is of another run; the file is then as it was.
        """
        lines, last, failed = 0, dict[Key, int](), set[Key]()
        for start, row in self.placed_responses(problems, prompt):
            lines += 1
            last[row.key] = start
            (failed.add if row.finish_reason == "error" else failed.discard)(row.key)
        drop_torn_line(self.responses_path)
        if failed or lines > len(last):
            kept = (start for key, start in last.items() if key not in failed)
            write_rows(self.responses_path, (self.responses_at([start])[0] for start in kept))
        return last.keys() - failed

    @contextlib.contextmanager
    def appending(self) -> Generator[ResponseWriter]:
        """Append responses, each flushed as it is written."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = open_own(self.responses_path, os.O_APPEND)
        try:
            yield ResponseWriter(file, self.responses_path, self.mark())
        finally:
            with writing(self.responses_path):
                file.close()

    # Grades and numbers

    def _grades_path(self, mode: str | None) -> Path:
        return self._file(f"grades.{mode}.jsonl" if mode else "grades.jsonl")

    def write_grades(self, rows: Iterable[GradeRow], mode: str) -> None:
        """Replace the grades atomically: the last of all (`grades.jsonl`) and of this mode.

        Rows are written as they come; both files stay as they were if making one fails.
        """
        write_rows(self._grades_path(mode), rows)
        with replacing(self._grades_path(None)) as last:
            shutil.copyfile(self._grades_path(mode), last)

    def drop_grades_of_modes(self) -> None:
        """Remove the grades of each mode before responses are made; those of the last grading stay.

        A sample that is made again has the key of the one that was graded: in a mode that is not
        graded again, the earlier verdict would count for it.
        """
        for path in self.path.glob("grades.*.jsonl"):
            path.unlink()

    def iter_grades(self, mode: str | None = None) -> Iterator[GradeRow]:
        """The grades of the last grading, or of the last one in a mode; none before the first."""
        return iter_rows(self._grades_path(mode), GradeRow)

    def grades(self, mode: str | None = None) -> list[GradeRow]:
        """`iter_grades` as a list."""
        return list(lean(self.iter_grades(mode)))

    def write_summary(self, summary: BaseModel) -> None:
        """Replace summary.json; `analysis.results` defines its content, and reads it."""
        write_json(self._file("summary.json"), summary.model_dump(mode="json"))


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


def _identity(manifest: Mapping[str, Any]) -> dict[str, object]:
    """What makes a run what it is."""
    return {
        "kind": manifest.get("kind"),
        **manifest.get("resolved", {}),
        **manifest.get("fingerprints", {}),
    }


def _mark(identity: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _digest(rows: Iterable[ProblemRow]) -> str:
    """16 hex digits of what decides the grades of problems, in any order."""
    parts = sorted(json.dumps([getattr(row, name) for name in _GRADED_BY]) for row in rows)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _folders(files: Iterable[str]) -> list[str]:
    """The folders of files; the one that holds all of them where there are many."""
    found = sorted({os.path.dirname(file) for file in files})
    return found if len(found) <= _MOST_FOLDERS else [os.path.commonpath(found)]


def _root(folders: object) -> str:
    """The folder that all folders of diagrams are in; empty where it is not known."""
    named = cast("list[object]", folders) if isinstance(folders, list) else []
    places = [place for place in named if isinstance(place, str) and os.path.isabs(place)]
    return os.path.commonpath(places) if places else ""


def _moved(row: ProblemRow, root: str, move: Callable[[str, str], str]) -> ProblemRow:
    """The row with the place of its diagram moved: made relative to `root`, or whole again."""
    if not root or not row.image:
        return row
    return row.model_copy(update={"image": move(row.image, root)})


def _foreign(
    row: Response, manifest: RunManifest, marks: Container[str], problems: Container[str] | None
) -> str:
    """Why a response is not one that the manifest describes; empty where it may be."""
    resolved = manifest.get("resolved", {})
    if (kind := manifest.get("kind")) not in ("eval", "import"):
        return f"the manifest is that of another kind of run, {kind!r}"
    views, samples, seed = (resolved.get(name) for name in ("views", "samples", "seed"))
    if problems is not None and row.problem_id not in problems:
        return "the run has no such problem"
    if isinstance(views, list) and row.view not in views:
        return f"the run's views are {', '.join(map(str, cast('list[Any]', views)))}"
    if isinstance(samples, int) and not 0 <= row.sample < samples:
        return f"the run has samples 0 to {samples - 1}"
    if row.run and row.run not in marks:
        return "it was made with other arguments, or by another model"
    if isinstance(seed, int) and row.seed and row.seed != sample_seed(seed, *row.key):
        return f"its seed does not follow from the run's seed {seed}"
    return ""


def _other_words(row: Response, prompt: Callable[[Response], str | None] | None) -> str:
    asked = None if prompt is None else prompt(row)
    if prompt is None or asked == row.prompt:
        return ""
    if asked is None:
        return "the run does not ask this view of this problem"
    return "the run asks in other words"


@contextlib.contextmanager
def holding_place(out: Path, names: Collection[str]) -> Generator[None]:
    """Lock the folder that gets a run for each of several models.

    For one model the folder is the run, which locks itself.

    Raises:
        UserError: The folder is a run, or another process is writing it.
    """
    if len(names) < 2:
        yield
        return
    folder = RunFolder(out)
    with folder.lock():
        if folder.manifest_path.exists():
            raise UserError(
                f"{out} is a run, and {len(names)} models need a folder of runs"
                f" ({', '.join(names)}): give another --out."
            )
        yield


def _origin(kind: str, given: Mapping[str, object] | None) -> RunManifest:
    """The part of a manifest that says where the files come from."""
    return {
        "kind": kind,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "git": git_state(),
        "given": dict(given or {}),
    }


def versions() -> dict[str, str]:
    """Versions of Python, of modgap and of the libraries that decide results, as installed."""
    found = {"python": platform.python_version(), "modgap": __version__}
    libraries = (
        "torch", "transformers", "accelerate", "peft", "vllm", "verl", "openai", "ray", "numpy",
        "pillow",
    )  # fmt: skip
    for name in libraries:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_state() -> dict[str, object]:
    """Commit and dirty flag of the source tree that modgap runs from.

    Empty where modgap is installed from a package.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return {}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
