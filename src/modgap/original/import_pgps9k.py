"""Imports the original repository's answer folders as runs.

Each model becomes one run; its two kinds of folder are the two views.

Differs from the original's `eval.py`, which sums up whatever a folder holds: models are never
pooled, the problems are those of the gold file whether they have answers or not, and whatever is
missing, unreadable or matches no problem is reported: in short in the summary's warnings, in full
in the run's `import.json`.

Answer folders do not record why a response ended (`finish_reason` is `stop`, so nothing counts as
truncated), its tokens (0) or its seed. The prompt is the original's, built again in paper style.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from modgap.analysis.original import original_lines, print_original
from modgap.analysis.results import Summary
from modgap.core.errors import UserError, command_line, part
from modgap.core.files import Root, read_bytes
from modgap.core.problem import Problem
from modgap.core.record import RunFolder
from modgap.core.rows import Response
from modgap.core.text import counted
from modgap.datasets.faults import Fault
from modgap.datasets.json_file import decode, entries
from modgap.datasets.pgps9k import DIAGRAMS, leads_out
from modgap.original.importing import Imported, Source, import_runs, response, some_of
from modgap.original.pgps9k import (
    AnswerFolder,
    Answers,
    Progress,
    by_model,
    describe,
    file_name,
    folders_below,
    read_answers,
    with_answers,
)


def import_answers(
    folders: Sequence[Path | str],
    gt: Path,
    out: Path,
    *,
    view: str | None = None,
    results_root: Path | None = None,
    given: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    allow_outside: bool = False,
) -> list[Imported]:
    """Make runs from answer folders, and grade them in mode `paper`, then `strict`.

    Args:
        folders: Folders that hold `qprob_N_attemptJ.txt`.
        gt: The gold answers, PGPS9K's test.json; diagrams beside it are included.
        out: The run folder; with several models a folder of run folders, `OUT/MODEL`.
        view: The view of all folders; otherwise each folder's name says it (`full_cond` is
            full-text, else image-only).
        results_root: Also every folder below this one that holds answers.
        given: The arguments as the user gave them, for the manifest.
        progress: Called as the import advances.
        allow_outside: Links in the folders may lead out of them.

    Returns:
        The runs, by the models' names.

    Raises:
        UserError: A folder is missing or holds no answer, two folders are of the same model and
            view, no answer is to a problem of `gt`, or `out` holds another run: one of other
            answers, too.
    """
    paths = [*map(Path, folders), *(folders_below(results_root) if results_root else [])]
    if not paths:
        raise UserError(
            "no folder given: name folders that hold qprob_N_attemptJ.txt, or --results-root."
        )
    problems, outside = read_gold(gt, allow_outside=allow_outside)
    by_place = {path.resolve(): describe(with_answers(path), view) for path in paths}
    runs = by_model(by_place.values())

    def read(
        model: str, folders: Sequence[AnswerFolder], progress: Progress | None
    ) -> AnswerSource:
        return AnswerSource(
            model, folders, problems, outside, progress, allow_outside=allow_outside
        )

    options = {
        "folders": [str(path) for path in paths],
        "gt": str(gt),
        "out": str(out),
        "view": view,
        "results_root": None if results_root is None else str(results_root),
    }
    return import_runs(runs, out, read, options, given, progress)


class FolderNote(TypedDict):
    """What `import.json` holds of answer folders.

    Attributes:
        folders: View -> folder.
        files: View -> what is odd -> the names of all such files.
        other_files: View -> counts of files that only the original counts.
        diagrams_outside: Problems whose diagram is outside the folder of diagrams.
        warnings: What a reader must know; each names some of the files.
    """

    folders: dict[str, str]
    files: dict[str, dict[str, list[str]]]
    other_files: dict[str, dict[str, int]]
    diagrams_outside: list[str]
    warnings: list[str]


class AnswerSource(Source):
    """The answer folders of one model, one for each view.

    Args:
        model: Whose answers they hold; empty where no folder's name says.
        folders: The folders.
        problems: Those of the gold file.
        outside: Ids of problems whose diagram is outside the folder of diagrams.
        progress: Called as the import advances.
        allow_outside: Links in the folders may lead out of them.
    """

    script = "eval.py"
    tolerance = ", within 0.005"

    def __init__(
        self,
        model: str,
        folders: Sequence[AnswerFolder],
        problems: Sequence[Problem],
        outside: Sequence[str],
        progress: Progress | None,
        *,
        allow_outside: bool = False,
    ) -> None:
        golds = {problem.id: problem.answer for problem in problems}
        self._read = [
            read_answers(folder, golds, progress, allow_outside=allow_outside) for folder in folders
        ]
        self._outside = outside
        self.digests = {
            f"{x.folder.view.replace('-', '_')}_answers": _digest(x) for x in self._read
        }
        self._samples = min(answers.attempts for answers in self._read)
        for answers in self._read:
            answers.keep(self._samples, golds)
        self.places = tuple(f"{folder.view} from {folder.path}" for folder in folders)
        self.problems = problems
        self.resolved = {
            "model": model,
            "views": [folder.view for folder in folders],
            "samples": self._samples,
            "temperature": _shared([folder.temperature for folder in folders]),
            "max_tokens": _shared([folder.max_tokens for folder in folders]),
            "style": "paper",
            "problems": len(problems),
        }

    def responses(self) -> Iterator[Response]:
        """The responses, problem by problem."""
        for problem in self.problems:
            for answers in self._read:
                for attempt in range(self._samples):
                    text = answers.texts.get((problem.id, attempt))
                    if text is not None:
                        yield response(problem, answers.folder.view, attempt, text)

    def note(self, run: RunFolder) -> FolderNote:
        """All irregular files by name, and the warnings that name some of them."""
        return _notes(self._read, self.problems, self._samples, self._outside)

    def with_original(self, strict: Summary, paper: Summary) -> Summary:
        """The summary itself has the original's figures, for each view."""
        return strict.model_copy(update={"original": paper.original})

    def figures(self, summary: Summary) -> dict[Path, list[str]]:
        """A block of figures for each folder."""
        figures = summary.original or {}
        return {
            answers.folder.path: original_lines(figures[answers.folder.view])
            for answers in self._read
            if answers.folder.view in figures
        }

    def print_original(self, summary: Summary) -> None:
        """Print them as `eval.py` does."""
        print_original(summary.original or {})


def _digest(answers: Answers) -> str:
    """16 hex digits that change when an answer or a counted file changes.

    A counted file is one that the original counts. Computed before `Answers.keep`.
    """
    held = [sorted(answers.texts.items()), sorted(answers.other.items())]
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()[:16]


def _notes(
    read: Sequence[Answers], problems: Sequence[Problem], samples: int, outside: Sequence[str]
) -> FolderNote:
    """What `import.json` holds: all irregular files by name, and the warnings that name some."""
    warnings: list[str] = []
    files: dict[str, dict[str, list[str]]] = {}
    for answers in read:
        view, odd = answers.folder.view, dict(answers.odd)
        wanted = [(problem.id, attempt) for problem in problems for attempt in range(samples)]
        if missing := [file_name(*key) for key in wanted if key not in answers.texts]:
            odd[f"are missing, of {len(wanted):,}"] = missing
        for what, names in odd.items():
            warnings.append(f"{view}: files ({len(names):,}) that {what}: {some_of(names)}.")
        files[view] = odd
    for name, setting in (("temperature", "temperature"), ("token limit", "max_tokens")):
        said = {answers.folder.view: getattr(answers.folder, setting) for answers in read}
        if len({value for value in said.values() if value is not None}) > 1:
            values = ", ".join(f"{view} {value}" for view, value in said.items())
            warnings.append(
                f"By the folders' names the views were sampled with different settings: {name}"
                f" {values}."
            )
    if len(read) == 1:
        warnings.append(
            f"Only {read[0].folder.view} answers: a gap needs the same model's other view, too."
        )
    if outside:
        named = some_of(outside)
        warnings.append(
            f"{counted(len(outside), 'problem')} with a diagram out of {DIAGRAMS}/, which is left"
            f" out: {named}."
        )
    warnings.append(
        "Answer folders do not say how many tokens a response has and whether it was cut: both"
        " count as 0."
    )
    return {
        "folders": {answers.folder.view: str(answers.folder.path.absolute()) for answers in read},
        "files": files,
        "other_files": {answers.folder.view: dict(answers.other) for answers in read},
        "diagrams_outside": list(outside),
        "warnings": warnings,
    }


def _shared(values: Sequence[Any]) -> Any:
    """The value that all have, or all values."""
    return values[0] if len(set(values)) == 1 else list(values)


# ---- gold answers --------------------------------------------------------------------------------


def read_gold(path: Path, *, allow_outside: bool = False) -> tuple[list[Problem], list[str]]:
    """The problems of a gold file.

    Only `answer` is required of each; its other fields are kept.

    Returns:
        The problems, and the ids of those whose diagram is outside the folder of diagrams: these
        have no diagram here.

    Raises:
        UserError: It is absent, broken, empty, or a problem in it has no answer.
    """
    if not path.is_file():
        raise UserError(f"--gt {path} is not a file: give the data set's test.json.")
    text, faults = decode(path.name, read_bytes(path))
    fault = next((fault for fault in faults if fault.severity == "error"), None)
    problems: dict[str, Problem] = {}
    outside: list[str] = []
    root = Root(path, allow_outside=allow_outside)
    for item in [fault] if fault else entries(path.name, text):
        if isinstance(item, Fault):
            raise UserError(f"{path.parent}/{part(item)}.")
        name, line, value = item
        where = f"{path} line {line}, {name}"
        if name in problems:
            raise UserError(f"{where}: this id appears twice; keep one.")
        if not isinstance(value, dict) or not isinstance(value.get("answer"), str):
            raise UserError(
                f"--gt {where}: has no answer; give the data set's test.json, where each id has"
                ' {"answer": "25.000", ...}.'
            )
        try:
            problems[name] = _problem(path, name, value, len(problems), root)
            named = value.get("diagram") or ""
            if leads_out(named) or root.target(path.parent / DIAGRAMS / named):
                outside.append(name)
        except (AttributeError, TypeError):
            raise UserError(
                f"{where}: is not PGPS9K's record;"
                f" `{command_line('data', 'check', path.parent)}` says what is wrong."
            ) from None
    if not problems:
        raise UserError(f"--gt {path} holds no problem.")
    return list(problems.values()), outside


def _problem(path: Path, name: str, value: Mapping[str, Any], index: int, root: Root) -> Problem:
    named = value.get("diagram") or "?"
    diagram = path.parent / DIAGRAMS / named
    return Problem(
        id=name,
        question="" + value.get("text", ""),
        answer=value["answer"],
        image=None if leads_out(named) or root.fault(diagram) else diagram,
        structural=tuple("" + clause for clause in value.get("parsing_stru_seqs", ())),
        semantic=tuple("" + clause for clause in value.get("parsing_sem_seqs", ())),
        type=value.get("type", "").strip(),
        index=index,
    )
