"""Writes runs back as the original repository's files, for the original's own scripts.

```
OUT/new_9k_NAME_full_cond_max4096_n4_tmp_0.6/qprob_N_attemptJ.txt    PGPS9K, full-text: eval.py
OUT/new_9k_NAME_4096_tmp_0.6/qprob_N_attemptJ.txt                    PGPS9K, image-only: eval.py
OUT/gold.json                                                        for eval.py --gt-file
OUT/NAME_full_tries_4_generations.jsonl                              MathVerse: eval-qwen.py
OUT/NAME_full_tries_4_generations_scored_qwen.jsonl                  MathVerse: eval-results.py
OUT/summary.txt                                                      as eval.py --scan-output
```

Only what the original has a place for is written, and all else is named: other views, samples on
which the engine failed. A scored file is written of a run that is graded in mode `paper`, whose
verdicts it holds; `sample_index`, which no script reads, is not recorded by runs and left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modgap.analysis.original import original_figures, original_lines, scan_text
from modgap.analysis.original_mathverse import mathverse_figures, mathverse_lines
from modgap.analysis.run import Run
from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.problem import split_grader
from modgap.core.progress import show
from modgap.core.prompt import of_paper
from modgap.core.record import RunFolder
from modgap.core.rows import GradeRow, ProblemRow, Response
from modgap.core.text import counted
from modgap.core.view import DEFAULT_VIEWS, VERSIONS, versions_named
from modgap.grading.answer import grade
from modgap.grading.graders import find_grader
from modgap.grading.mathverse import FREE_FORM
from modgap.original.pgps9k import file_name
from modgap.reporting.collect import EvalRun, collect
from modgap.reporting.comparable import style_of

GOLD = "gold.json"
SUMMARY = "summary.txt"
_TITLES = {view: version for version, view in VERSIONS.items()}
_ID = re.compile(r"prob_[^_/\\.]+")


@dataclass(slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        files: Relative path -> its text.
        golds: Id -> the record of a PGPS9K problem.
        summaries: Folder or file -> the lines that the original's script prints of it.
        notes: What was left out and why, in words.
    """

    files: dict[str, str] = field(default_factory=dict[str, str])
    golds: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    summaries: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    notes: list[str] = field(default_factory=list[str])


def export_runs(runs: Sequence[Path | str], out: Path, name: str | None = None) -> Exported:
    """Write runs as the original's files; see the head of this module.

    Args:
        runs: Evaluations, or studies, whose evaluations are all taken.
        out: The folder. An interrupted export is finished by the same call.
        name: What the model is called in the files' names, of a single model; otherwise an import
            has the original's name of it, and another run its own name in a report.

    Returns:
        What was written.

    Raises:
        UserError: There is no evaluation, or one that the original has no files for; two runs would
            have the same files; or the folder holds answers that are not of these runs.
    """
    found = collect(runs).evals
    if not found:
        raise UserError("no evaluation in what was given: name the --out of modgap eval or study.")
    names = {run.name: _model_name(run) for run in found}
    if name is not None:
        if len(set(names.values())) > 1:
            raise UserError(
                f"--name {name}: there are {len(set(names.values()))} models"
                f" ({', '.join(dict.fromkeys(names.values()))}): export them one by one."
            )
        names = dict.fromkeys(names, _safe(name))
    exported = Exported()
    for run in found:
        data_set = registry.data_set_of(problem.grader for problem in run.problems.values())
        registry.load(data_set.paper_export)(exported, run, names[run.name])
    if not exported.files:
        raise UserError(f"nothing to export: {' '.join(exported.notes)}")
    _write(exported, out)
    return exported


def add_pgps9k(exported: Exported, run: EvalRun, name: str) -> None:
    """The answer folders of a run, one for each of the original's two views."""
    if odd := next((problem for problem in run.problems if not _ID.fullmatch(problem)), None):
        raise UserError(
            f"{run.path}: the problem {odd!r} has no place in the original's files, which are"
            " PGPS9K's (prob_N) and MathVerse's: leave this run out."
        )
    responses = _kept(exported, run, DEFAULT_VIEWS)
    for problem in run.problems.values():
        record = {"answer": problem.answer, "text": problem.question, "type": problem.type}
        if exported.golds.setdefault(problem.id, record) != record:
            raise UserError(
                f"{run.path}: {problem.id} is another problem here than in the runs before it:"
                " export runs of different data into different folders."
            )
    for at, view in enumerate(run.manifest.resolved.get("views") or DEFAULT_VIEWS):
        of_view = [row for row in responses if row.view == view]
        if not of_view:
            continue
        folder = _folder_name(run, name, view, at)
        for row in of_view:
            _add(exported, f"{folder}/{file_name(row.problem_id, row.sample)}", row.response, run)
        read = [_as_read(row) for row in of_view]
        grades = [_paper_grade(row, run.problems[row.problem_id]) for row in read]
        figures = original_figures(read, grades)[view]
        exported.summaries[folder] = original_lines(figures)


def add_mathverse(exported: Exported, run: EvalRun, name: str) -> None:
    """The generations of a run, and the scored file where it is graded in mode `paper`."""
    responses = _kept(exported, run, list(_TITLES))
    if not responses:
        return
    asked = [view for view in run.manifest.resolved.get("views", ()) if view in _TITLES]
    tries = 1 + max(row.sample for row in responses)
    stem = f"{name}_{versions_named(asked)}_tries_{tries}_generations"
    order = {problem: number for number, problem in enumerate(run.problems)}
    views = list(_TITLES)
    responses.sort(key=lambda row: (order[row.problem_id], views.index(row.view), row.sample))
    rows = [_generation(row, run.problems[row.problem_id]) for row in responses]
    _add(exported, f"{stem}.jsonl", _lines(rows), run)
    grades = {row.key: row for row in _paper_grades(run)}
    if any(row.key not in grades for row in responses):
        exported.notes.append(
            f"{run.name}: no scored file, for it is not graded in mode paper: give `modgap grade"
            f" {run.path} --mode paper` (with --judge as the original has one) and export again."
        )
        return
    if waiting := sum(grades[row.key].outcome == "error" for row in responses):
        exported.notes.append(
            f"{run.name}: {counted(waiting, 'sample')} could not be graded and count 0 in the"
            " scored file, as a failure of the original's judge does."
        )
    right = [int(grades[row.key].outcome == "correct") for row in responses]
    scored = [row | {"correct": flag} for row, flag in zip(rows, right, strict=True)]
    _add(exported, f"{stem}_scored_qwen.jsonl", _lines(scored), run)
    figures = mathverse_figures(run.problems, responses, [grades[row.key] for row in responses])
    exported.summaries[f"{stem}_scored_qwen.jsonl"] = mathverse_lines(figures)


def _generation(row: Response, problem: ProblemRow) -> dict[str, Any]:
    """A line of `inference.py`'s, with its keys in their order."""
    return {
        "problem_index": problem.id,
        "problem_version": _TITLES[row.view],
        "question": problem.question_of(row.view),
        "question_type": split_grader(problem.grader)[1] or FREE_FORM,
        "answer": problem.gold_of(row.view),
        "prediction": row.response,
        "sample_id": row.sample,
    }


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _kept(exported: Exported, run: EvalRun, views: Sequence[str]) -> list[Response]:
    """The responses that the original has a place for; the others are noted."""
    responses = Run(run.path).responses
    other = [row.view for row in responses if row.view not in views]
    for view in dict.fromkeys(other):
        exported.notes.append(
            f"{run.name}: the view {view} ({counted(other.count(view), 'sample')}) is left out: the"
            " original has no such files."
        )
    shown = [row for row in responses if row.view in views]
    kept = [_as_said(row, run) for row in shown if row.finish_reason != "error"]
    if failed := len(shown) - len(kept):
        exported.notes.append(
            f"{run.name}: {counted(failed, 'sample')} left out, on which the engine failed: the"
            " original would count an empty file as wrong."
        )
    samples = run.manifest.resolved.get("samples")
    for view in dict.fromkeys(row.view for row in shown):
        there = len({row.key for row in shown if row.view == view})
        if isinstance(samples, int) and there < len(run.problems) * samples:
            exported.notes.append(
                f"{run.name}: {view} has {there} of {len(run.problems) * samples} samples: the"
                " figures are over these alone."
            )
    return kept


def _as_said(row: Response, run: EvalRun) -> Response:
    """A response as vLLM gave it to the original: without what the prompt had opened it with."""
    opened = row.prefill
    if not opened and of_paper(style_of(run)):  # older runs do not record it
        opened = find_grader(run.problems[row.problem_id].grader).paper_prefill
    return row.model_copy(update={"response": row.response.removeprefix(opened)})


def _as_read(row: Response) -> Response:
    """A response as the original reads it from a file: with one kind of line end."""
    text = row.response.replace("\r\n", "\n").replace("\r", "\n")
    return row.model_copy(update={"response": text})


def _paper_grade(row: Response, problem: ProblemRow) -> GradeRow:
    """The original's verdict, whatever the run's last grading was."""
    verdict = grade(row.response, problem.answer, "paper")
    return GradeRow(
        problem_id=row.problem_id, view=row.view, sample=row.sample, outcome=verdict.outcome,
        answer=verdict.answer, gold=problem.answer, stage=verdict.stage, mode="paper",
    )  # fmt: skip


def _paper_grades(run: EvalRun) -> list[GradeRow]:
    folder = RunFolder(run.path)
    held = [row for row in folder.grades() if row.mode == "paper"]
    return held or folder.grades("paper")


# ---- names and files -----------------------------------------------------------------------------


def _model_name(run: EvalRun) -> str:
    imported = run.manifest.resolved.get("model") if run.manifest.kind == "import" else None
    return _safe(str(imported or run.name.removesuffix(f" on {run.also}")))


def _safe(name: str) -> str:
    """A name as a part of a file's name; an import reads `--` as the original's `/`."""
    safe = re.sub(r"[^\w.+=@-]+", "_", name.strip("/.").replace("/", "--"), flags=re.ASCII)
    if not safe:
        raise UserError(f"--name {name!r} makes no file's name: give letters and digits.")
    return safe


def _folder_name(run: EvalRun, name: str, view: str, at: int) -> str:
    """A folder of answers as the original names it.

    What is not recorded, as in some imports, is left out; so is the original's batch size, which no
    answer depends on.
    """
    resolved = run.manifest.resolved
    values = (resolved.get(key) for key in ("max_tokens", "temperature"))
    tokens, temperature = (
        value[at] if isinstance(value, list) and at < len(value) else value for value in values
    )
    if view == "full-text":
        parts = ["full_cond", *([f"max{tokens}"] if tokens else [])]
        parts += [f"n{resolved['samples']}"] if resolved.get("samples") else []
        parts += [] if temperature is None else [f"tmp_{temperature}"]
    else:
        known = bool(tokens) and temperature is not None
        parts = [f"{tokens}", f"tmp_{temperature}"] if known else []
    return "_".join(["new_9k", name, *parts])


def _add(exported: Exported, path: str, text: str, run: EvalRun) -> None:
    if path in exported.files:
        raise UserError(
            f"{run.path}: another run has {path}, too: export them into different folders, or give"
            " --name."
        )
    exported.files[path] = text


def _write(exported: Exported, out: Path) -> None:
    """Write all files; nothing is written beside answers of other runs, which eval.py would count.

    Raises:
        UserError: There are such answers, or `out` is a run or no folder.
    """
    if (out.exists() and not out.is_dir()) or (out / "manifest.json").exists():
        raise UserError(f"--out {out} is a run or a file: give a folder for the exported files.")
    folders = {path.rpartition("/")[0] for path in exported.files} - {""}
    for folder in sorted(folders):
        for path in (out / folder).glob("*"):
            if f"{folder}/{path.name}" not in exported.files:
                raise UserError(
                    f"{path} is not of this export, and eval.py would count it: give another --out,"
                    " or remove it."
                )
    texts = {**exported.files, SUMMARY: scan_text(exported.summaries)}
    if exported.golds:
        texts[GOLD] = json.dumps(exported.golds, indent=1, ensure_ascii=False)
    # As bytes: line ends stay as they are.
    contents = {out / path: text.encode("utf-8", "replace") for path, text in texts.items()}
    for path, content in contents.items():
        other = path.is_symlink() or (path.exists() and path.read_bytes() != content)
        if other:
            raise UserError(
                f"{path} is there and is not of this export: give another --out, or remove it."
            )
    for folder in ("", *folders):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        path.write_bytes(content)


def print_exported(exported: Exported, out: Path) -> None:
    """Print what was written, what was left out, and how the original's scripts are run on it."""
    for note in exported.notes:
        show(f"Note: {note}")
    place = out.resolve()
    folders = sorted({path.partition("/")[0] for path in exported.files if "/" in path})
    for name in [*folders, *sorted(path for path in exported.files if "/" not in path)]:
        show(f"{place / name}")
    show(f"{place / SUMMARY}: the original's figures")
    if folders:
        show(
            f"python eval.py --scan-all-results --results-root {place} --answer-dir {place}"
            f" --gt-file {place / GOLD}"
        )
    for path in exported.files:
        if path.endswith("_scored_qwen.jsonl"):
            show(f"python eval-results.py --full {place / path}")
        elif path.endswith(".jsonl"):
            show(f"python eval-qwen.py {place / path}")
