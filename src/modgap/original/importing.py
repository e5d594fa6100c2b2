"""What every import of the original's answers does.

It locks the folder, writes the run, grades it twice and prints it.

A reader (`import_pgps9k.py`, `import_mathverse.py`) turns the files of one model into a `Source`;
the rest is here.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from modgap.analysis.original import scan_text
from modgap.analysis.results import IMPORT_NOTE, Summary
from modgap.core.errors import UserError
from modgap.core.json_files import write_json, write_text
from modgap.core.problem import Problem
from modgap.core.progress import show
from modgap.core.prompt import evaluation_prompt
from modgap.core.record import RunFolder
from modgap.core.rows import Response
from modgap.workflows.fingerprints import fingerprint
from modgap.workflows.grade import Progress, grade_held
from modgap.workflows.requests import problem_row

NAMED = 5
"""The most files or rows that a warning names; `import.json` names all."""

F = TypeVar("F")


class Source(ABC):
    """What a reader found of one model: everything that its run is made of.

    Attributes:
        places: The files or folders, as they are printed.
        problems: The problems, those without an answer included.
        resolved: The arguments that determine the run.
        digests: Name -> digest of the answers: a run of other answers is another run.
        script: The original's script that grades such answers.
        tolerance: What strict grading accepts here, for its heading.
    """

    places: tuple[str, ...]
    problems: Sequence[Problem]
    resolved: dict[str, Any]
    digests: dict[str, str]
    script: str
    tolerance: str = ""

    @abstractmethod
    def responses(self) -> Iterable[Response]:
        """The responses, problem by problem."""

    @abstractmethod
    def note(self, run: RunFolder) -> Mapping[str, object]:
        """What `import.json` holds: irregularities by name, and `warnings` that name some of them.

        Called once the responses are written; what else the run is to hold is written here.
        """

    @abstractmethod
    def with_original(self, strict: Summary, paper: Summary) -> Summary:
        """The strict summary with the original's figures, which the other one holds."""

    @abstractmethod
    def print_original(self, summary: Summary) -> None:
        """Print the original's figures in a summary as its script does."""

    @abstractmethod
    def figures(self, summary: Summary) -> dict[Path, list[str]]:
        """Folder or file of answers -> the lines that the original's script prints of it."""

    def remarks(self) -> list[str]:
        """What is printed before the numbers, beside the places; known once `note` was called."""
        return []


@dataclass(frozen=True, slots=True)
class Imported:
    """One run that an import made.

    Attributes:
        path: The run folder.
        model: Whose answers it holds; empty where the files' names do not say.
        source: Where they came from.
        strict: Its summary, also in summary.json, with the original's figures.
        paper: Its summary as the original grades.
        note: What `import.json` holds.
    """

    path: Path
    model: str
    source: Source
    strict: Summary
    paper: Summary
    note: Mapping[str, object]


def import_runs(
    by_model: Mapping[str, Sequence[F]],
    out: Path,
    read: Callable[[str, Sequence[F], Progress | None], Source],
    options: Mapping[str, object],
    given: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> list[Imported]:
    """Make a run for each model, and grade it in mode `paper`, then `strict`.

    Args:
        by_model: Model -> its files.
        out: The run folder; with several models a folder of run folders, `OUT/MODEL`.
        read: Makes a source of a model and its files.
        options: Every option's value, for the manifest.
        given: The arguments as the user gave them, for the manifest.
        progress: Called as the import advances.

    Returns:
        The runs, in the order of the models.

    Raises:
        UserError: `out` holds another run: one of other answers, too; or what `read` raises.
    """
    several = len(by_model) > 1
    done: list[Imported] = []
    with _holding_place(out, by_model):
        for model, files in by_model.items():
            place = out / model.strip("/.").replace("/", "--") if several else out
            report = _of_model(progress, model) if progress and several else progress
            done.append(_import(model, read(model, files, report), place, options, given, report))
    return done


@contextlib.contextmanager
def _holding_place(out: Path, names: Collection[str]) -> Generator[None]:
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


def _of_model(progress: Progress, model: str) -> Progress:
    """The progress of one of several models, by its name."""

    def report(what: str, done: int, total: int) -> None:
        progress(f"{model}: {what}", done, total)

    return report


def _import(
    model: str,
    source: Source,
    out: Path,
    options: Mapping[str, object],
    given: Mapping[str, object] | None,
    progress: Progress | None,
) -> Imported:
    run = RunFolder(out)
    with run.lock():
        run.start(
            "import",
            source.resolved,
            given,
            data_fingerprint=fingerprint(source.problems),
            **source.digests,
        )
        run.note("options", {**options, "views": source.resolved["views"]})
        run.check_responses({problem.id for problem in source.problems})
        run.write_problems(problem_row(problem, "paper") for problem in source.problems)
        run.write_responses(source.responses())
        note = source.note(run)
        write_json(run.path / IMPORT_NOTE, note)
        paper = grade_held(run, "paper", progress)
        strict = source.with_original(grade_held(run, "strict", progress), paper)
        run.write_summary(strict)
    return Imported(out, model, source, strict, paper, note)


def response(problem: Problem, view: str, sample: int, text: str) -> Response:
    """An imported response: the original's prompt, and no record of how the response ended."""
    prompt = evaluation_prompt(problem, view, "paper").text
    return Response(
        problem_id=problem.id,
        view=view,
        sample=sample,
        prompt=prompt,
        response=text,
        finish_reason="stop",
    )


def some_of(names: Sequence[str]) -> str:
    """The first of many names, for a warning."""
    return ", ".join(names[:NAMED]) + (f" ... (all in {IMPORT_NOTE})" if len(names) > NAMED else "")


def write_scan(runs: Iterable[Imported], path: Path, root: Path | None = None) -> None:
    """Write the original's figures of every folder, as its `eval.py --scan-output` does.

    Args:
        runs: What was imported.
        path: The file.
        root: Folders are named from here; by default by their last part.
    """
    figures: dict[str, list[str]] = {}
    for run in runs:
        for place, lines in run.source.figures(run.strict).items():
            below = root is not None and place.absolute().is_relative_to(root.absolute())
            name = place.absolute().relative_to(root.absolute()) if root and below else place.name
            figures[str(name)] = lines
    write_text(path, scan_text(figures))


def print_imported(run: Imported) -> None:
    """Print the answers' source, the numbers of both gradings, and the original's figures."""
    from modgap.reporting.terminal import print_summary

    show(f"{run.path}: {run.model or 'model not named'}")
    for place in run.source.places:
        show(f"  {place}")
    for remark in run.source.remarks():
        show(remark)
    show(f"\nGraded strict{run.source.tolerance} (the run's grades and summary):")
    print_summary(run.strict, run.path.name)
    show(f"\nGraded as the original's {run.source.script} does (modgap grade --mode paper):")
    new = [words for words in run.paper.warnings if words not in run.strict.warnings]
    print_summary(run.paper.model_copy(update={"warnings": new}), run.path.name)
    run.source.print_original(run.strict)
    show()
