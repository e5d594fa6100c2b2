"""The run folder: what was asked, what the model said, how it was graded.

```
manifest.json    versions, git commit, arguments as given and as resolved, fingerprints
problems.jsonl   one line per problem: what a grader or a report needs when the data set is gone
fingerprints.json  for each problem digests of its words and of its diagrams: what a corrected set
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
import json
import os
import shutil
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
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from modgap.core.disk import replacing, sweep, writing
from modgap.core.errors import UserError
from modgap.core.files import check_local, locked, open_own, open_regular
from modgap.core.json_files import read_json, write_json, write_text
from modgap.core.manifest import (
    IMAGE_FOLDERS,
    MANIFEST,
    PROBLEMS_DIGEST,
    RunManifest,
    changes,
    differing,
    image_folders,
    image_root,
    mark_of,
    marks_of,
    origin,
    problems_digest,
    read_manifest,
    why_foreign,
    with_image_moved,
)
from modgap.core.places import RESTORE, check_folder, check_unused, check_writable
from modgap.core.rows import (
    GradeRow,
    Key,
    ProblemRow,
    Response,
    ResponseWriter,
    drop_torn_line,
    iter_rows,
    lean,
    line_of,
    placed_rows,
    write_rows,
)

_EARLIER = ("created", "versions", "git", "given", "resolved", "fingerprints")
_GROWS = frozenset({"views", "samples", "problems", "data_fingerprint"})
"""The arguments of an evaluation that can be given more of."""


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
        return self._file(MANIFEST)

    @property
    def responses_path(self) -> Path:
        """Where the responses are."""
        return self._file("responses.jsonl")

    def start(
        self,
        kind: str,
        resolved: Mapping[str, object],
        given: Mapping[str, object] | None = None,
        options: Mapping[str, object] | None = None,
        /,
        **fingerprints: str | None,
    ) -> bool:
        """Begin the run, or resume it.

        The caller holds the lock (of a stage: that of its training).

        Args:
            kind: `eval`, `train`, `study`, `import`, `demo`.
            resolved: The arguments that make the run what it is; a folder that holds others is
                refused. Leave out what does not change the result (batch size, device).
            given: The arguments as the user gave them, for the record.
            options: As of `holds`.
            **fingerprints: Of the model and the data; they must match, too.

        Returns:
            Whether the run existed already.

        Raises:
            UserError: The folder holds another run; the message names the first differences. An
                evaluation without a single response (for example, its model could not be loaded) is
                replaced instead. Or the folder has files of a run and no manifest.
        """
        if self.holds(kind, resolved, options, **fingerprints):
            return True
        if self.manifest_path.exists():
            for stale in [*self.path.glob("grades*.jsonl"), self._file("summary.json")]:
                stale.unlink(missing_ok=True)  # of the run that is replaced
        manifest = origin(kind, given)
        manifest["resolved"] = dict(resolved)
        manifest["fingerprints"] = dict(fingerprints)
        write_json(self.manifest_path, manifest)
        return False

    def holds(
        self,
        kind: str,
        resolved: Mapping[str, object],
        options: Mapping[str, object] | None = None,
        /,
        **fingerprints: str | None,
    ) -> bool:
        """Whether the folder holds this run already; called early, and by `start`.

        Nothing is written.

        Args:
            kind: As of `start`.
            resolved: As of `start`.
            options: The options in force. Where a fingerprint differs, those that it depends on are
                named with the values that the manifest has of them.
            **fingerprints: As of `start`.

        Raises:
            UserError: As `start`.
        """
        new = json.loads(json.dumps({"kind": kind, **resolved, **fingerprints}, default=str))
        check_folder(self.path)
        if not self.manifest_path.exists():
            self.check_place(kind)
            return False
        before = self.manifest()
        differences = changes(before, new, options or {})
        if not differences:
            return True
        if before.get("kind") == kind == "eval" and self.unanswered():
            return False
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise UserError(
            f"{self.path} holds a run with other arguments: {'; '.join(differences[:3])}{more}. "
            + _remedy(kind, differing(before, new), differences)
        )

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
        now = origin("eval", given)
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
        check_unused(self.path, kind)

    def replace_manifest(
        self, kind: str, options: Mapping[str, object], given: Mapping[str, object] | None = None
    ) -> None:
        """Write the manifest of files that a command makes as a whole, and never resumes."""
        manifest = origin(kind, given)
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

    def mark(self) -> str:
        """16 hex digits that identify the run's arguments and fingerprints.

        Empty without a manifest.
        """
        return mark_of(self.manifest()) if self.manifest_path.exists() else ""

    def unanswered(self) -> bool:
        """Whether no response was recorded: the run did not get that far."""
        return not self.responses_path.exists() or not self.responses_path.stat().st_size

    def manifest(self) -> RunManifest:
        """The manifest; a `UserError` if this is not a run folder, or the manifest is damaged."""
        return read_manifest(self.path)

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
        folders = image_folders(row.image for row in found if row.image)
        root = image_root(folders) if known else ""
        write_text(
            self._file("problems.jsonl"),
            "".join(line_of(with_image_moved(row, root, os.path.relpath)) for row in found),
        )
        if known:
            self.note(IMAGE_FOLDERS, folders)
            self.note(PROBLEMS_DIGEST, problems_digest(found))

    def problems(self) -> dict[str, ProblemRow]:
        """The problems of the run by id, with the whole paths of their diagrams.

        Raises:
            UserError: A line cannot be read, or other problems were written: their gold answers
                would give other grades.
        """
        path = self._file("problems.jsonl")
        known: Mapping[str, Any] = self.manifest() if self.manifest_path.exists() else {}
        root = image_root(known.get(IMAGE_FOLDERS, []))
        found = {
            row.id: with_image_moved(row, root, lambda image, at: os.path.join(at, image))
            for row in iter_rows(path, ProblemRow)
        }
        # Older manifests lack the digest.
        written = known.get(PROBLEMS_DIGEST)
        if written and problems_digest(found.values()) != written:
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
        known = self.manifest_path.exists()
        manifest = self.manifest() if known else RunManifest()
        own = marks_of(manifest)
        for number, start, row in placed_rows(self.responses_path, Response):
            if known and (why := why_foreign(row, manifest, own, problems, prompt)):
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
        lines, last, failed = self._last_of_each(problems, prompt)
        drop_torn_line(self.responses_path)
        if failed or lines > len(last):
            kept = (start for key, start in last.items() if key not in failed)
            write_rows(self.responses_path, (self.responses_at([start])[0] for start in kept))
        return last.keys() - failed

    def answered(
        self,
        problems: Container[str] | None = None,
        prompt: Callable[[Response], str | None] | None = None,
    ) -> set[Key]:
        """The samples that `resume` would return; the file stays as it is."""
        _, last, failed = self._last_of_each(problems, prompt)
        return last.keys() - failed

    def _last_of_each(
        self,
        problems: Container[str] | None,
        prompt: Callable[[Response], str | None] | None,
    ) -> tuple[int, dict[Key, int], set[Key]]:
        """The number of lines, where each sample's last one starts, and the samples that failed."""
        lines, last, failed = 0, dict[Key, int](), set[Key]()
        for start, row in self.placed_responses(problems, prompt):
            lines += 1
            last[row.key] = start
            (failed.add if row.finish_reason == "error" else failed.discard)(row.key)
        return lines, last, failed

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


def _remedy(kind: str, names: Collection[str], differences: Collection[str]) -> str:
    """What to give instead of arguments that a folder's run does not have.

    Args:
        kind: Of the run.
        names: Of what differs.
        differences: The same in words.
    """
    same, other = "Give the same arguments to resume it,", "or another --out"
    if kind == "eval" and _GROWS.issuperset(names):
        more = "more --views, --samples or --limit to extend it (`modgap cut` makes a run of fewer)"
        return f"{same} {more}, {other}."
    if kind == "eval":
        return f"{same} {other}: only --views, --samples and --limit extend a run."
    if kind == "study" and any(words.startswith("--limit was") for words in differences):
        return f"{same} {other}: --samples and --controls extend a study, --limit cannot."
    return f"{same} {other}."
