"""The original repository's answer folders become runs: one run for each model, its two folder kinds as the two views.

Differs from the original's `eval.py`, which sums up whatever a folder holds: models are never pooled, the problems are
those of the gold file whether they have answers or not, and whatever is missing, unreadable or matches no problem is
named: in the summary's warnings in short, in the run's `import.json` in full.

What answer folders do not say: why a response ended (`finish_reason` is `stop`, so nothing counts as truncated), its
tokens (0) and its seed. The prompt is the original's, built again in paper style.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modgap.analysis.original import print_original
from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.prompt import evaluation_prompt
from modgap.core.record import Response, RunFolder, holding_place, write_json
from modgap.datasets.faults import Fault
from modgap.datasets.json_file import decode, entries
from modgap.datasets.pgps9k import DIAGRAMS, leads_out
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
from modgap.workflows.evaluate import fingerprint, problem_row
from modgap.workflows.grade import IMPORT_NOTE, grade_held

NAMED = 5
"""Most files that a warning names; `import.json` names all."""


@dataclass(frozen=True, slots=True)
class Imported:
    """One run that an import made.

    Attributes:
        path: The run folder.
        model: Whose answers it holds; empty where no folder's name says.
        folders: Where they came from, one for each view.
        strict: Its summary, also in summary.json; `original` has the original's figures for each view.
        paper: Its summary as the original grades.
    """

    path: Path
    model: str
    folders: tuple[AnswerFolder, ...]
    strict: dict[str, Any]
    paper: dict[str, Any]


def import_answers(
    folders: Sequence[Path | str],
    gt: Path,
    out: Path,
    *,
    view: str | None = None,
    results_root: Path | None = None,
    given: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[Imported]:
    """Make runs from answer folders, and grade them in mode `paper`, then `strict`.

    Args:
        folders: Folders that hold `qprob_N_attemptJ.txt`.
        gt: The gold answers, PGPS9K's test.json; diagrams are taken along where they lie beside it.
        out: The run folder; with several models a folder of run folders, `OUT/MODEL`.
        view: The view of all folders; otherwise each folder's name says it (`full_cond` is full-text, else image-only).
        results_root: Also every folder below this one that holds answers.
        given: The arguments as the user gave them, for the manifest.
        progress: Told as it goes.

    Returns:
        The runs, by the models' names.

    Raises:
        UserError: A folder is missing or holds no answer, two folders are of the same model and view, no answer is to
            a problem of `gt`, or `out` holds another run: one of other answers, too.
    """
    paths = [*map(Path, folders), *(folders_below(results_root) if results_root else [])]
    if not paths:
        raise UserError("no folder given: name folders that hold qprob_N_attemptJ.txt, or --results-root.")
    problems, outside = read_gold(gt)
    by_place = {path.resolve(): describe(with_answers(path), view) for path in paths}
    runs = by_model(by_place.values())
    done: list[Imported] = []
    with holding_place(out, runs):
        for model, of_model in runs.items():
            place = out / model.strip("/.").replace("/", "--") if len(runs) > 1 else out
            name = f"{model}: " if len(runs) > 1 else ""
            named = (lambda what, n, of, name=name: progress(f"{name}{what}", n, of)) if progress else None
            done.append(_import_model(model, of_model, problems, outside, place, given, named))
    return done


def print_imported(run: Imported) -> None:
    """Where the answers came from, then their numbers in both gradings and the original's figures."""
    from modgap.reporting.terminal import print_summary

    print(f"{run.path}: {run.model or 'model not named'}")
    for folder in run.folders:
        print(f"  {folder.view} from {folder.path}")
    print("\nGraded strict, within 0.005 (the run's grades and summary):")
    print_summary(run.strict, run.path.name)
    print("\nGraded as the original's eval.py does (modgap grade --mode paper):")
    print_summary(run.paper | {"warnings": []}, run.path.name)
    print_original(run.strict["original"])
    print()


# ---- one run -------------------------------------------------------------------------------------------------------


def _import_model(
    model: str,
    folders: Sequence[AnswerFolder],
    problems: Sequence[Problem],
    outside: Sequence[str],
    out: Path,
    given: Mapping[str, Any] | None,
    progress: Progress | None,
) -> Imported:
    golds = {problem.id: problem.answer for problem in problems}
    read = [read_answers(folder, golds, progress) for folder in folders]
    held = {f"{answers.folder.view.replace('-', '_')}_answers": _digest(answers) for answers in read}
    samples = min(answers.attempts for answers in read)
    for answers in read:
        answers.keep(samples, golds)
    resolved = {
        "model": model,
        "views": [folder.view for folder in folders],
        "samples": samples,
        "temperature": _shared([folder.temperature for folder in folders]),
        "max_tokens": _shared([folder.max_tokens for folder in folders]),
        "style": "paper",
        "problems": len(problems),
    }
    run = RunFolder(out)
    with run.lock():
        run.start("import", resolved, given, data_fingerprint=fingerprint(problems), **held)
        run.check_responses(golds)
        run.write_problems(problem_row(problem, "paper") for problem in problems)
        rows = (row for problem in problems for answers in read for row in _responses(problem, answers, samples))
        run.write_responses(rows)
        write_json(run.path / IMPORT_NOTE, _notes(read, problems, samples, outside))
        paper = grade_held(run, "paper", progress)
        strict = grade_held(run, "strict", progress)
        strict["original"] = paper["original"]
        run.write_summary(strict)
    return Imported(out, model, tuple(folders), strict, paper)


def _digest(answers: Answers) -> str:
    """16 hex digits that change when an answer does, or a file that the original counts; before `Answers.keep`."""
    held = [sorted(answers.texts.items()), sorted(answers.other.items())]
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()[:16]


def _responses(problem: Problem, answers: Answers, samples: int) -> list[Response]:
    view = answers.folder.view
    prompt = evaluation_prompt(problem, view, "paper").text
    return [
        Response(
            problem_id=problem.id,
            view=view,
            sample=attempt,
            prompt=prompt,
            response=answers.texts[problem.id, attempt],
            finish_reason="stop",
        )
        for attempt in range(samples)
        if (problem.id, attempt) in answers.texts
    ]


def _notes(
    read: Sequence[Answers], problems: Sequence[Problem], samples: int, outside: Sequence[str]
) -> dict[str, Any]:
    """What `import.json` holds: all odd files by name, and the warnings that name some of them."""
    warnings: list[str] = []
    files: dict[str, dict[str, list[str]]] = {}
    for answers in read:
        view, odd = answers.folder.view, dict(answers.odd)
        wanted = [(problem.id, attempt) for problem in problems for attempt in range(samples)]
        if missing := [file_name(*key) for key in wanted if key not in answers.texts]:
            odd[f"of {len(wanted):,} are missing"] = missing
        for what, names in odd.items():
            some = ", ".join(names[:NAMED]) + (f" ... (all in {IMPORT_NOTE})" if len(names) > NAMED else "")
            warnings.append(f"{view}: {len(names):,} files {what}: {some}.")
        files[view] = odd
    for name, setting in (("temperature", "temperature"), ("token limit", "max_tokens")):
        said = {answers.folder.view: getattr(answers.folder, setting) for answers in read}
        if len({value for value in said.values() if value is not None}) > 1:
            values = ", ".join(f"{view} {value}" for view, value in said.items())
            warnings.append(f"By the folders' names the views were sampled with different settings: {name} {values}.")
    if len(read) == 1:
        warnings.append(f"Only {read[0].folder.view} answers: a gap needs the same model's other view, too.")
    if outside:
        some = ", ".join(outside[:NAMED]) + (f" ... (all in {IMPORT_NOTE})" if len(outside) > NAMED else "")
        warnings.append(f"{len(outside):,} problems name a diagram out of {DIAGRAMS}/, which is left out: {some}.")
    warnings.append("Answer folders do not say how many tokens a response has and whether it was cut: both count as 0.")
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


# ---- gold answers --------------------------------------------------------------------------------------------------


def read_gold(path: Path) -> tuple[list[Problem], list[str]]:
    """The problems of a gold file; only `answer` is needed of each, what else it says is taken along.

    Returns:
        The problems, and the ids of those whose diagram lies out of the folder of diagrams: they have none here.

    Raises:
        UserError: It is absent, broken, empty, or a problem in it has no answer.
    """
    if not path.is_file():
        raise UserError(f"--gt {path} is no file: give the data set's test.json.")
    text, faults = decode(path.name, path.read_bytes())
    fault = next((fault for fault in faults if fault.severity == "error"), None)
    problems: dict[str, Problem] = {}
    outside: list[str] = []
    for item in [fault] if fault else entries(path.name, text):
        if isinstance(item, Fault):
            raise UserError(f"{path.parent}/{item}.")
        name, line, value = item
        where = f"{path} line {line}, {name}"
        if name in problems:
            raise UserError(f"{where}: this id stands there twice; keep one.")
        if not isinstance(value, dict) or not isinstance(value.get("answer"), str):
            raise UserError(f'{where}: has no answer; write {{"answer": "25.000", ...}}.')
        try:
            problems[name] = _problem(path, name, value, len(problems))
            if leads_out(value.get("diagram") or ""):
                outside.append(name)
        except (AttributeError, TypeError):
            raise UserError(f"{where}: is not PGPS9K's record; `modgap data check` says what is wrong.") from None
    if not problems:
        raise UserError(f"--gt {path} holds no problem.")
    return list(problems.values()), outside


def _problem(path: Path, name: str, value: Mapping[str, Any], index: int) -> Problem:
    named = value.get("diagram") or "?"
    diagram = path.parent / DIAGRAMS / named
    return Problem(
        id=name,
        question="" + value.get("text", ""),
        answer=value["answer"],
        image=diagram if not leads_out(named) and diagram.is_file() else None,
        structural=tuple("" + clause for clause in value.get("parsing_stru_seqs", ())),
        semantic=tuple("" + clause for clause in value.get("parsing_sem_seqs", ())),
        type=value.get("type", "").strip(),
        index=index,
    )
