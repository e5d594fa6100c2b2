"""Responses -> grades -> summary, as often as needed, without the model that answered.

Each problem names its grader (`grading.graders`): rules, and for MathVerse then the symbolic pool
and a judge. Grades are replaced atomically when all are there, and a judge's verdicts are kept as
they come (`grading.judge`), so that an interrupted grading asks only what is missing. Responses are
read line by line, twice, so that a million of them need little more memory than a thousand.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from modgap.analysis.results import JudgeSummary, Summary, read_import_note
from modgap.analysis.run import Run
from modgap.analysis.scores import Arrangement, Scores
from modgap.analysis.summary import summarise_run
from modgap.core import registry
from modgap.core.disk import writing
from modgap.core.errors import UserError, unknown
from modgap.core.manifest import RunManifest
from modgap.core.options import JUDGE_CHECK, JUDGE_SEED, JudgeOptions, as_json
from modgap.core.problem import split_grader
from modgap.core.progress import SILENT, Progress
from modgap.core.prompt import of_paper
from modgap.core.record import RunFolder
from modgap.core.rows import GradeRow, Key, ProblemRow, Response, line_of
from modgap.core.thinking import CUT_THINKING
from modgap.engines.judge import Judge
from modgap.grading.answer import Mode, extract_answer
from modgap.grading.grade import Grade
from modgap.grading.graders import find_grader, opened_by_template, text_for_rules
from modgap.grading.judge import JudgeMode, Undecided
from modgap.grading.mathverse import Case
from modgap.grading.symbolic import SymbolicPool
from modgap.reporting.judged import open_words
from modgap.reporting.manifests import read_manifest
from modgap.reporting.sampling import greedy_words, sampling_of
from modgap.reporting.words import reply_words
from modgap.workflows.judge_stage import Checked, JudgeStage
from modgap.workflows.judging import make_judge

BATCH = 256


def grade(
    run: Run | Path | str,
    *,
    mode: Mode = "strict",
    judge: JudgeOptions | str | None = None,
    progress: Progress = SILENT,
) -> Run:
    """Grade the responses of a run again; the model is not needed.

    Args:
        run: The run or its folder.
        mode: `strict` (within 0.005), `relative` (or 1%), `paper` (the original's verdicts),
            `exact` (no tolerance).
        judge: What settles the MathVerse answers that rules cannot compare: a model, the URL of a
            server, or options. Without one the verdicts of the judge that this mode was last graded
            with are used.
        progress: Called after each part.

    Returns:
        The run, with its new grades and summary.

    Raises:
        UserError: As `grade_run`; or the judge cannot be used.
    """
    modes = get_args(Mode)
    if mode not in modes:
        raise unknown("mode", mode, modes)
    graded = run if isinstance(run, Run) else Run(run)
    graded.folder.manifest()  # before the judge is looked for
    options = JudgeOptions(judge) if isinstance(judge, str) else judge or JudgeOptions()
    asked = None if options.judge is None else make_judge(options)
    with graded.folder.lock():
        grade_held(graded.folder, mode, progress, asked, options.check, options.seed)
        in_force = {"mode": mode, **as_json(options)}
        if asked is not None:
            in_force["max_tokens"] = asked.tokens(cast("JudgeMode", mode))
        graded.folder.note_grading(in_force)
    return graded


def grade_run(
    run: RunFolder,
    mode: Mode = "strict",
    progress: Progress | None = None,
    judge: Judge | None = None,
    check: int = JUDGE_CHECK,
    seed: int = JUDGE_SEED,
) -> Summary:
    """Grade the responses of a run and summarise them; the model is not needed.

    Args:
        run: The run folder.
        mode: `strict`, `relative`, `exact` or `paper`.
        progress: Called as the work proceeds.
        judge: Settles what the rules leave open (MathVerse); see `judging.make_judge`. Without one,
            the verdicts of the judge that this mode was last graded with are used, and what it was
            not asked waits for a judge.
        check: How many of the answers that the rules decided the judge is asked about as well.
        seed: Which of them.

    Returns:
        The summary, also written to the run folder.

    Raises:
        UserError: It is not an evaluation run, its responses are of another run than its manifest,
            another process is writing it, its problems have no rules in that mode, or the judge
            fails. The grades are then unchanged.
    """
    run.manifest()  # before the lock, which would make the folder
    with run.lock():
        return grade_held(run, mode, progress, judge, check, seed)


def grade_held(
    run: RunFolder,
    mode: Mode,
    progress: Progress | None = None,
    judge: Judge | None = None,
    check: int = JUDGE_CHECK,
    seed: int = JUDGE_SEED,
) -> Summary:
    """`grade_run` for a caller that holds the run's lock."""
    manifest = run.manifest()
    if manifest.get("kind") in ("eval", "import"):  # responses of others are refused below
        read_manifest(run.path)  # the types of what is used of it
    problems = run.problems()
    if not problems:
        raise UserError(f"{run.path} has no problems.jsonl: it is not an evaluation run.")
    graders = [
        find_grader(name) for name in sorted({problem.grader for problem in problems.values()})
    ]
    for grader in graders:
        grader.check_mode(mode, f"--mode {mode}")
    grading = _Grading(run, problems, manifest, mode, progress)
    judged = None
    if any(grader.judged for grader in graders):
        asked = cast("JudgeMode", mode)  # the graders have refused others
        stage = JudgeStage(run, problems, asked, judge, Checked(check, seed))
        judged = grading.write_with_judge(stage)
    else:
        run.write_grades(grading.rows(), mode)
    scores = grading.scores()
    imported = read_import_note(run.path)
    summary = summarise_run(scores)
    summary = summary.model_copy(
        update={
            "mode": mode,  # also where there is nothing to grade
            "judge": judged,
            "sampling": sampling_of(manifest),
            "warnings": [
                *greedy_words(manifest),
                *summary.warnings,
                *imported.warnings,
                *open_words([scores]),
                *reply_words(scores),
            ],
        }
    )
    if mode == "paper":
        for with_figures in _paper_figures(problems):
            summary = with_figures(
                summary, problems, run.responses(), run.iter_grades(), imported.other_files
            )
    run.write_summary(summary)
    return summary


def graded_in(run: RunFolder) -> Mode:
    """The mode of the run's grades; `strict` where it has none."""
    modes = {row.mode for row in run.iter_grades()}
    return next((mode for mode in get_args(Mode) if {mode} == modes), "strict")


def _paper_figures(problems: Mapping[str, ProblemRow]) -> list[Callable[..., Summary]]:
    """What adds the original's figures to a summary, for each data set that the problems are of."""
    graders = sorted({problem.grader for problem in problems.values()})
    paths = dict.fromkeys(registry.data_set_of([grader]).paper_figures for grader in graders)
    return [registry.load(path) for path in paths if path]


class _Grading:
    """One pass over a run's responses that grades them, after one that checks and counts them.

    No text is kept: what a pass needs is read again.

    Args:
        run: The run; the caller holds its lock.
        problems: By id.
        manifest: Of the run.
        mode: The grading mode.
        progress: Called as the work proceeds.
    """

    def __init__(
        self,
        run: RunFolder,
        problems: Mapping[str, ProblemRow],
        manifest: RunManifest,
        mode: Mode,
        progress: Progress | None,
    ) -> None:
        self._run, self._problems, self._progress = run, problems, progress
        self._mode: Mode = mode
        resolved = manifest.get("resolved", {})
        self._paper_style = of_paper(resolved.get("style", ""))
        self._arranged = Arrangement(problems, resolved.get("samples"))
        self._lines = 0
        self._by_template = opened_by_template(self._first_pass())

    def _first_pass(self) -> Iterator[Response]:
        for start, row in self._run.placed_responses(self._problems):
            self._arranged.add_response(row, start)
            self._lines += 1
            yield row

    def rows(self) -> Iterator[GradeRow]:
        """The grades of all responses, in the order of the file, where no judge is needed."""
        for _, row, result in self._results():
            assert isinstance(result, Grade), "a grader without a judge decides"
            graded = self._row(row.key, result)
            self._arranged.add_grade(graded)
            yield graded

    def write_with_judge(self, stage: JudgeStage) -> JudgeSummary:
        """Write the grades of all responses, those that rules leave open after a judge was asked.

        What the rules decided waits in a file without a name.
        """
        place = self._run.path
        with writing(place), tempfile.TemporaryFile("w+", encoding="utf-8", dir=place) as decided:
            waiting: deque[tuple[Key, Undecided]] = deque()
            for start, row, result in self._results():
                if self._arranged.is_last(row, start):
                    stage.add(row, result)
                if isinstance(result, Undecided):
                    waiting.append((row.key, result))
                    decided.write("\n")
                else:
                    decided.write(line_of(self._row(row.key, result)))
            judged = stage.ask(self._progress)
            decided.seek(0)

            def rows() -> Iterator[GradeRow]:
                for line in decided:
                    if line.strip():
                        row = GradeRow.model_validate_json(line)
                    else:
                        key, case = waiting.popleft()
                        row = self._row(key, stage.settled(key, case))
                    self._arranged.add_grade(row)
                    yield row

            self._run.write_grades(rows(), self._mode)
        return judged

    def scores(self) -> Scores:
        """The verdicts that were written, as arrays."""
        return self._arranged.scores(self._run.responses_at)

    def _results(self) -> Iterator[tuple[int, Response, Grade | Undecided]]:
        """Each response with its line, and its grade as far as it is known without a judge."""
        done = 0
        with SymbolicPool(workers=min(4, os.cpu_count() or 1)) as symbolic:
            placed = self._run.placed_responses(self._problems)
            while part := list(itertools.islice(placed, BATCH)):
                responses = [row for _, row in part]
                results = _grade_batch(
                    responses, self._texts(responses), self._problems, self._mode, symbolic
                )
                done += len(part)
                if self._progress:
                    self._progress("grading", done, self._lines)
                for (start, row), result in zip(part, results, strict=True):
                    yield start, row, result

    def _texts(self, responses: Sequence[Response]) -> list[str]:
        if self._mode in ("paper", "exact"):  # they reproduce the original, without rules on this
            return [row.response for row in responses]
        return [
            text_for_rules(
                row, self._problems[row.problem_id], paper_style=self._paper_style,
                by_template=self._by_template,
            )
            for row in responses
        ]  # fmt: skip

    def _row(self, key: Key, verdict: Grade) -> GradeRow:
        problem_id, view, sample = key
        value = verdict.value  # JSON has no infinity
        return GradeRow(
            problem_id=problem_id,
            view=view,
            sample=sample,
            outcome=verdict.outcome,
            answer=verdict.answer,
            gold=self._problems[problem_id].gold_of(view),
            stage=verdict.stage,
            mode=self._mode,
            value=None if value is None or not math.isfinite(value) else value,
            reason=verdict.reason,
        )


def _grade_batch(
    responses: Sequence[Response],
    texts: Sequence[str],
    problems: Mapping[str, ProblemRow],
    mode: Mode,
    symbolic: SymbolicPool,
) -> list[Grade | Undecided]:
    results: dict[int, Grade | Undecided] = {}
    cases: dict[int, Case] = {}
    by_grader: dict[str, list[int]] = {}
    for number, (response, text) in enumerate(zip(responses, texts, strict=True)):
        problem = problems[response.problem_id]
        if response.finish_reason == "error":
            results[number] = Grade("error", None, None, "engine", response.error or "")
            continue
        grader, kind = split_grader(problem.grader)
        gold, question = problem.gold_of(response.view), problem.question_of(response.view)
        cases[number] = Case(text, gold, question, kind)
        by_grader.setdefault(grader, []).append(number)
    for grader, numbers in by_grader.items():
        found = find_grader(grader).grade([cases[number] for number in numbers], mode, symbolic)
        results |= zip(numbers, found, strict=True)
    for number, (response, text) in enumerate(zip(responses, texts, strict=True)):
        result = results[number]
        if (
            text == response.response
            or not isinstance(result, Grade)
            or result.outcome != "no_answer"
        ):
            continue
        if response.finish_reason == "length" and extract_answer(response.response) is not None:
            results[number] = replace(result, reason=CUT_THINKING)
    return [results[number] for number in range(len(responses))]
