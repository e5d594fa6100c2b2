"""The original's MathVerse generations become runs: one run a model, its text and vision files together.

The rows carry question and gold answer, so that nothing else is needed; with `--gt`, MathVerse's own files, the
problems are all of theirs, with subjects and images, and rows that disagree with them are named.

Of scored rows the original's verdicts are both compared and kept. Where its rules decide, they are compared with ours
in mode `paper`, and each that differs is named in `import.json`. Where it asked its judge, its verdict is kept as that
judge's (`judge.jsonl`), and mode `paper` goes by it until another judge is asked; the other modes do not, since that
judge saw only the last 10 characters of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modgap.analysis.original_mathverse import print_mathverse
from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.prompt import evaluation_prompt
from modgap.core.record import Response, RunFolder, holding_place, iter_rows, write_json, write_text
from modgap.core.view import ALL_VIEWS
from modgap.datasets import mathverse
from modgap.grading.judge import PAPER_MAX_TOKENS, Undecided
from modgap.grading.mathverse import Case, grade_by_rule
from modgap.grading.verdicts import VerdictFile, VerdictRow, question_id
from modgap.original.mathverse import GenerationFile, GenerationRow, Generations, by_model, read_generations
from modgap.workflows.evaluate import fingerprint, problem_row
from modgap.workflows.grade import IMPORT_NOTE, Progress, grade_held

JUDGE = "the original's judge (from its scored file)"
NAMED = 5
"""Most rows that a warning names; `import.json` names all."""

Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class ImportedGenerations:
    """One run that an import made.

    Attributes:
        path: The run folder.
        model: Whose answers it holds.
        files: Where they came from.
        strict: Its summary, also in summary.json.
        paper: Its summary as the original grades; `mathverse.original` has the figures that the original prints.
        note: What `import.json` holds.
    """

    path: Path
    model: str
    files: tuple[GenerationFile, ...]
    strict: dict[str, Any]
    paper: dict[str, Any]
    note: dict[str, Any]


def import_generations(
    files: Sequence[GenerationFile],
    out: Path,
    *,
    gt: Path | None = None,
    given: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[ImportedGenerations]:
    """Make runs from generations, and grade them in mode `paper`, then `strict`.

    Args:
        files: See `generation_files.generation_files`.
        out: The run folder; with several models a folder of run folders, `OUT/MODEL`.
        gt: MathVerse's files, for subjects, images, the versions' own questions and problems without an answer.
        given: The arguments as the user gave them, for the manifest.
        progress: Told as it goes.

    Returns:
        The runs, in the order of the files.

    Raises:
        UserError: A file is broken, two files hold answers of one model to the same versions, no answer is to a
            problem of `gt`, or `out` holds another run: one of other files, too.
    """
    runs = by_model(files)
    golds = None if gt is None else list(mathverse.read(gt))
    done: list[ImportedGenerations] = []
    with holding_place(out, runs):
        for name, of_run in runs.items():
            place = out / name.strip("/.").replace("/", "--") if len(runs) > 1 else out
            done.append(_import_run(name, of_run, golds, place, given, progress))
    return done


def print_generations(run: ImportedGenerations) -> None:
    """Where the answers came from, then their numbers in both gradings and the original's figures."""
    from modgap.reporting.terminal import print_summary

    print(f"{run.path}: {run.model}")
    for file in run.files:
        print(f"  from {file.path}")
    if scored := run.note["scored"]:
        print(
            f"The original's verdicts on {scored['rows']:,} rows: its rules and ours agree on {scored['agree']:,} of "
            f"{scored['by_rule']:,}; {scored['by_judge']:,} are its judge's, which mode paper goes by."
        )
    print("\nGraded strict (the run's grades and summary):")
    print_summary(run.strict, run.path.name)
    print("\nGraded as the original's eval-qwen.py does (modgap grade --mode paper):")
    said = run.strict["warnings"]
    print_summary(run.paper | {"warnings": [w for w in run.paper["warnings"] if w not in said]}, run.path.name)
    print_mathverse(run.paper["mathverse"]["original"])
    print()


# ---- one run -------------------------------------------------------------------------------------------------------


def _import_run(
    name: str,
    files: Sequence[GenerationFile],
    golds: Sequence[Problem] | None,
    out: Path,
    given: Mapping[str, Any] | None,
    progress: Progress | None,
) -> ImportedGenerations:
    read = [read_generations(file) for file in files]
    samples = min(generations.samples for generations in read)
    rows, odd = _rows(read, samples)
    problems = _problems_of_rows(rows.values()) if golds is None else list(golds)
    if golds is not None:
        odd |= _against_gold(rows, golds)
        known = {problem.id: problem for problem in golds}
        rows = {key: row for key, row in rows.items() if key[0] in known and key[1] in known[key[0]].prompts}
        if not rows:
            raise UserError(f"no row of {files[0].path} is to a problem of --gt: is it the same data set?")
    views = [view for view in ALL_VIEWS if any(key[1] == view for key in rows)]
    resolved = {
        "model": files[0].model,
        "views": views,
        "samples": samples,
        "style": "paper",
        "problems": len(problems),
        "benchmark": "mathverse",
    }
    run = RunFolder(out)
    answers = {f"{x.file.versions}_answers".lstrip("_"): x.digest for x in read}
    with run.lock():
        run.start("import", resolved, given, data_fingerprint=fingerprint(problems), **answers)
        run.check_responses({problem.id for problem in problems})
        run.write_problems(problem_row(problem, "paper") for problem in problems)
        run.write_responses(_responses(problems, views, samples, rows))
        scored = _keep_verdicts(run, problems, rows)
        wanted = [(p.id, v, s) for p in problems for v in views if v in p.prompts for s in range(samples)]
        if missing := [_named(key) for key in wanted if key not in rows]:
            odd[f"of {len(wanted):,} are missing"] = missing
        note = _note(files, odd, scored, views, with_gold=golds is not None)
        write_json(run.path / IMPORT_NOTE, note)
        paper = grade_held(run, "paper", progress)
        strict = grade_held(run, "strict", progress)
        strict["mathverse"]["original"] = paper["mathverse"]["original"]
        run.write_summary(strict)
    return ImportedGenerations(out, name, tuple(files), strict, paper, note)


def _rows(read: Sequence[Generations], samples: int) -> tuple[dict[Key, GenerationRow], dict[str, list[str]]]:
    """The samples of all files; what is left out or odd, by name."""
    rows: dict[Key, GenerationRow] = {}
    odd: dict[str, list[str]] = {}
    for generations in read:
        for what, where in generations.odd.items():
            odd.setdefault(f"are {what}", []).extend(f"{generations.file.path.name} {line}" for line in where)
        for row in generations.rows:
            key = (row.problem_id, row.view, row.sample)
            if row.sample >= samples:
                odd.setdefault(f"are left out, as the other file has only {samples} of a question", []).append(
                    _named(key)
                )
            elif key in rows:
                odd.setdefault("stand there twice, of which the first is taken", []).append(_named(key))
            else:
                rows[key] = row
    return rows, odd


def _named(key: Key) -> str:
    return f"{key[0]} {key[1]} sample {key[2]}"


def _problems_of_rows(rows: Any) -> list[Problem]:
    """The problems that rows tell of: each version's question, answer and type."""
    first: dict[str, dict[str, GenerationRow]] = {}
    for row in rows:
        first.setdefault(row.problem_id, {}).setdefault(row.view, row)
    found: list[Problem] = []
    for index, (name, unsorted) in enumerate(first.items()):
        by_view = {view: unsorted[view] for view in ALL_VIEWS if view in unsorted}
        whole = next(iter(by_view.values()))
        found.append(
            Problem(
                id=name,
                question=whole.question,
                answer=whole.answer,
                index=index,
                prompts={view: row.question for view, row in by_view.items()},
                question_type=whole.question_type,
                questions={view: row.question for view, row in by_view.items() if row.question != whole.question},
                answers={view: row.answer for view, row in by_view.items() if row.answer != whole.answer},
            )
        )
    return found


def _against_gold(rows: Mapping[Key, GenerationRow], golds: Sequence[Problem]) -> dict[str, list[str]]:
    """What the rows say otherwise than the data set."""
    odd: dict[str, list[str]] = {}
    problems = {problem.id: problem for problem in golds}
    for key, row in rows.items():
        problem = problems.get(row.problem_id)
        if problem is None or row.view not in problem.prompts:
            odd.setdefault("match no problem and version of --gt and are left out", []).append(_named(key))
            continue
        if row.answer != problem.answers.get(row.view, problem.answer):
            odd.setdefault("have another gold answer than --gt, by which they are graded", []).append(_named(key))
        if row.question != problem.questions.get(row.view, problem.question):
            odd.setdefault("have another question than --gt", []).append(_named(key))
    return odd


def _responses(
    problems: Sequence[Problem], views: Sequence[str], samples: int, rows: Mapping[Key, GenerationRow]
) -> list[Response]:
    responses: list[Response] = []
    for problem in problems:
        for view in (view for view in views if view in problem.prompts):
            prompt = evaluation_prompt(problem, view, "paper").text
            for sample in range(samples):
                if row := rows.get((problem.id, view, sample)):
                    responses.append(
                        Response(
                            problem_id=problem.id,
                            view=view,
                            sample=sample,
                            prompt=prompt,
                            response=row.prediction.encode("utf-8", "replace").decode(),
                            finish_reason="stop",
                        )
                    )
    return responses


# ---- the original's verdicts ---------------------------------------------------------------------------------------


def _keep_verdicts(
    run: RunFolder, problems: Sequence[Problem], rows: Mapping[Key, GenerationRow]
) -> dict[str, Any] | None:
    """Compare the original's verdicts with our rules, and keep those of its judge; `None` where no row is scored.

    They are those of these rows alone, whatever the run's files held before; other judges' stay.
    """
    scored = {key: row for key, row in rows.items() if row.correct is not None}
    by_id = {problem.id: problem for problem in problems}
    file = VerdictFile(run)
    others = [row for row in iter_rows(file.path, VerdictRow) if row.judge != JUDGE]
    known: dict[str, VerdictRow] = {}
    agree, differ, apart, judged = 0, list[str](), list[str](), 0
    for key, row in scored.items():
        problem = by_id[row.problem_id]
        gold = problem.answers.get(row.view, problem.answer)
        question = problem.questions.get(row.view, problem.question)
        result = grade_by_rule(Case(row.prediction, gold, question, problem.question_type), "paper")
        if not isinstance(result, Undecided):
            if result.correct == row.correct:
                agree += 1
            else:
                differ.append(f"{_named(key)}: the original {int(bool(row.correct))}, our rules {result.outcome}")
            continue
        judged += 1
        verdict = VerdictRow(
            judge=JUDGE, mode="paper", question=question_id(result.prompt(), PAPER_MAX_TOKENS), problem_id=key[0],
            view=key[1], sample=key[2], answer=result.answer, gold=gold, said=str(int(bool(row.correct))),
        )  # fmt: skip
        if known.setdefault(verdict.question, verdict).said != verdict.said:
            apart.append(_named(key))
    if known or file.path.exists():
        write_text(file.path, "".join(row.model_dump_json() + "\n" for row in [*known.values(), *others]))
    if not scored:
        return None
    if judged and file.last("paper") is None:
        file.remember("paper", {"judge": JUDGE, "tokens": PAPER_MAX_TOKENS, "check": 0, "seed": 0})
    return {
        "rows": len(scored),
        "by_rule": agree + len(differ),
        "agree": agree,
        "differ": differ,
        "by_judge": judged,
        "judged_both_ways": apart,
    }


def _note(
    files: Sequence[GenerationFile],
    odd: Mapping[str, Sequence[str]],
    scored: Mapping[str, Any] | None,
    views: Sequence[str],
    *,
    with_gold: bool,
) -> dict[str, Any]:
    """What `import.json` holds: all that is odd by name, and the warnings that name some of it."""
    odd = dict(odd)
    if scored and scored["differ"]:
        odd["have another verdict by our rules than by the original's"] = scored["differ"]
    if scored and scored["judged_both_ways"]:
        odd["have the same answer as a sample that the original's judge saw otherwise; the first counts"] = scored[
            "judged_both_ways"
        ]
    warnings = [
        f"{len(names):,} samples {what}: {', '.join(names[:NAMED])}"
        + (f" ... (all in {IMPORT_NOTE})." if len(names) > NAMED else ".")
        for what, names in odd.items()
    ]
    sides = {ALL_VIEWS[view].side for view in views} - {"control"}
    if len(sides) == 1:
        warnings.append(f"Only {sides.pop()} versions: a gap needs the same model's other file, too.")
    if not with_gold:
        warnings.append("The rows do not say subjects; --gt with MathVerse's own files does.")
    warnings.append("The rows do not say how many tokens a response has and whether it was cut: both count as 0.")
    return {
        "files": [str(file.path.absolute()) for file in files],
        "odd": odd,
        "scored": None if scored is None else dict(scored),
        "warnings": warnings,
    }
