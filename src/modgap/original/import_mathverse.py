"""Imports the original's MathVerse generations as runs.

Each model becomes one run, made of its text file and its vision file.

The rows hold question and gold answer, so that no other file is needed; with `--gt`, MathVerse's
own files, the problems are all of theirs, with subjects and images, and rows that disagree with
them are reported.

Of scored rows the original's verdicts are both compared and kept. Where its rules decide, they are
compared with ours in mode `paper`, and each that differs is named in `import.json`. Where it asked
its judge, its verdict is kept as that judge's (`judge.jsonl`), and mode `paper` uses it until
another judge is asked; the other modes do not, since that judge saw only the last 10 characters of
an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from modgap.analysis.original_mathverse import mathverse_lines, print_mathverse
from modgap.analysis.results import Summary
from modgap.core.errors import UserError
from modgap.core.json_files import write_text
from modgap.core.problem import Problem, Shown, split_grader
from modgap.core.record import RunFolder
from modgap.core.rows import Response, iter_rows, line_of
from modgap.core.text import counted
from modgap.core.view import ALL_VIEWS
from modgap.datasets import mathverse
from modgap.grading.judge import PAPER_MAX_TOKENS, Undecided, VerdictFile, VerdictRow, question_id
from modgap.grading.mathverse import Case, grade_by_rule, grader_of
from modgap.original.importing import Imported, Source, import_runs, response, some_of
from modgap.original.mathverse import (
    GenerationFile,
    GenerationRow,
    Generations,
    by_model,
    read_generations,
)
from modgap.workflows.grade import Progress

JUDGE = "the original's judge (from its scored file)"

Key = tuple[str, str, int]


def import_generations(
    files: Sequence[GenerationFile],
    out: Path,
    *,
    gt: Path | None = None,
    given: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    allow_outside: bool = False,
) -> list[Imported]:
    """Make runs from generations, and grade them in mode `paper`, then `strict`.

    Args:
        files: See `mathverse.generation_files`.
        out: The run folder; with several models a folder of run folders, `OUT/MODEL`.
        gt: MathVerse's files, for subjects, images, the versions' own questions and problems
            without an answer.
        given: The arguments as the user gave them, for the manifest.
        progress: Called as the import advances.
        allow_outside: The files of `gt` may lead out of their folder.

    Returns:
        The runs, in the order of the files.

    Raises:
        UserError: A file is broken, two files hold answers of one model to the same versions, no
            answer is to a problem of `gt`, or `out` holds another run: one of other files, too.
    """
    golds = None if gt is None else list(mathverse.read(gt, allow_outside=allow_outside))

    def read(
        name: str, files: Sequence[GenerationFile], progress: Progress | None
    ) -> GenerationSource:
        return GenerationSource(files, golds)

    options = {
        "folders": [str(file.path) for file in files],
        "gt": None if gt is None else str(gt),
        "out": str(out),
    }
    return import_runs(by_model(files), out, read, options, given, progress)


# ---- one run -------------------------------------------------------------------------------------


class Scored(TypedDict):
    """How the original's verdicts compare with our rules'.

    Attributes:
        rows: Scored rows.
        by_rule: Those that our rules decide.
        agree: Those of them on which both agree.
        differ: The others, each in words.
        by_judge: Those that our rules leave to a judge.
        judged_both_ways: Those whose answer the original's judge saw otherwise elsewhere.
    """

    rows: int
    by_rule: int
    agree: int
    differ: list[str]
    by_judge: int
    judged_both_ways: list[str]


class GenerationNote(TypedDict):
    """What `import.json` holds of generations.

    Attributes:
        files: The files.
        odd: What is odd -> the names of all such samples.
        scored: `None` where no row is scored.
        warnings: What a reader must know; each names some of the samples.
    """

    files: list[str]
    odd: dict[str, Sequence[str]]
    scored: Scored | None
    warnings: list[str]


class GenerationSource(Source):
    """The generations of one model.

    Args:
        files: Its files.
        golds: The problems of MathVerse's own files, where they are given.
    """

    script = "eval-qwen.py"

    def __init__(self, files: Sequence[GenerationFile], golds: Sequence[Problem] | None) -> None:
        read = [read_generations(file) for file in files]
        samples = min(generations.samples for generations in read)
        rows, odd = _rows(read, samples)
        problems = _problems_of_rows(rows.values()) if golds is None else list(golds)
        if golds is not None:
            odd |= _against_gold(rows, golds)
            known = {(problem.id, view) for problem in golds for view in problem.views}
            rows = {key: row for key, row in rows.items() if key[:2] in known}
            if not rows:
                raise UserError(
                    f"no row of {files[0].path} is to a problem of --gt: is it the same data set?"
                )
        self._files, self._rows, self._odd, self._samples = files, rows, odd, samples
        self._with_gold = golds is not None
        self._scored: Scored | None = None
        shown = {view for _, view, _ in rows}
        self._views = [view for view in ALL_VIEWS if view in shown]
        self.places = tuple(f"from {file.path}" for file in files)
        self.problems = problems
        self.digests = {f"{x.file.versions}_answers".lstrip("_"): x.digest for x in read}
        self.resolved = {
            "model": files[0].model,
            "views": self._views,
            "samples": samples,
            "style": "paper",
            "problems": len(problems),
            "benchmark": "mathverse",
        }

    def _wanted(self) -> Iterator[tuple[Problem, Key]]:
        """Every sample that the run should have."""
        for problem in self.problems:
            for view in (view for view in self._views if view in problem.views):
                for sample in range(self._samples):
                    yield problem, (problem.id, view, sample)

    def responses(self) -> Iterator[Response]:
        """The responses, problem by problem."""
        for problem, key in self._wanted():
            if row := self._rows.get(key):
                yield response(
                    problem, key[1], key[2], row.prediction.encode("utf-8", "replace").decode()
                )

    def note(self, run: RunFolder) -> GenerationNote:
        """Keep the original's verdicts, and say what is odd."""
        self._scored = scored = _keep_verdicts(run, self.problems, self._rows)
        wanted = [key for _, key in self._wanted()]
        odd = dict(self._odd)
        if missing := [_named(key) for key in wanted if key not in self._rows]:
            odd[f"are missing, of {len(wanted):,}"] = missing
        return _note(self._files, odd, scored, self._views, with_gold=self._with_gold)

    def with_original(self, strict: Summary, paper: Summary) -> Summary:
        """The breakdown by version has the original's figures."""
        if not strict.mathverse or not paper.mathverse:
            return strict
        breakdown = strict.mathverse.model_copy(update={"original": paper.mathverse.original})
        return strict.model_copy(update={"mathverse": breakdown})

    def figures(self, summary: Summary) -> dict[Path, list[str]]:
        """The figures of all files of the model together, under the first one's name."""
        figures = summary.mathverse.original if summary.mathverse else None
        return {self._files[0].path: mathverse_lines(figures)} if figures else {}

    def print_original(self, summary: Summary) -> None:
        """Print them as `eval-results.py` does."""
        if summary.mathverse and summary.mathverse.original:
            print_mathverse(summary.mathverse.original)

    def remarks(self) -> list[str]:
        """How far the original's verdicts agree with ours."""
        scored = self._scored
        if not scored:
            return []
        return [
            f"The original's verdicts on {counted(scored['rows'], 'row')}: its rules and ours agree"
            f" on {scored['agree']:,} of {scored['by_rule']:,}; {scored['by_judge']:,} are its"
            " judge's, which mode paper goes by."
        ]


def _rows(
    read: Sequence[Generations], samples: int
) -> tuple[dict[Key, GenerationRow], dict[str, list[str]]]:
    """The samples of all files, and by name what is left out or irregular."""
    rows: dict[Key, GenerationRow] = {}
    odd: dict[str, list[str]] = {}
    for generations in read:
        for what, where in generations.odd.items():
            odd.setdefault(f"are {what}", []).extend(
                f"{generations.file.path.name} {line}" for line in where
            )
        for row in generations.rows:
            key = (row.problem_id, row.view, row.sample)
            if row.sample >= samples:
                odd.setdefault(
                    f"are left out, as the other file has only {samples} of a question", []
                ).append(_named(key))
            elif key in rows:
                odd.setdefault("stand there twice, of which the first is taken", []).append(
                    _named(key)
                )
            else:
                rows[key] = row
    return rows, odd


def _named(key: Key) -> str:
    return f"{key[0]} {key[1]} sample {key[2]}"


def _problems_of_rows(rows: Any) -> list[Problem]:
    """The problems that the rows describe: each version's question, answer and type."""
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
                shown={
                    view: Shown(row.question, row.question, row.answer)
                    for view, row in by_view.items()
                },
                grader=grader_of(whole.question_type),
                views=tuple(by_view),
            )
        )
    return found


def _against_gold(
    rows: Mapping[Key, GenerationRow], golds: Sequence[Problem]
) -> dict[str, list[str]]:
    """Where the rows differ from the data set."""
    odd: dict[str, list[str]] = {}
    problems = {problem.id: problem for problem in golds}
    for key, row in rows.items():
        problem = problems.get(row.problem_id)
        if problem is None or row.view not in problem.views:
            odd.setdefault("match no problem and version of --gt and are left out", []).append(
                _named(key)
            )
            continue
        if row.answer != problem.gold_of(row.view):
            odd.setdefault(
                "have another gold answer than --gt, by which they are graded", []
            ).append(_named(key))
        if row.question != problem.question_of(row.view):
            odd.setdefault("have another question than --gt", []).append(_named(key))
    return odd


# ---- the original's verdicts ---------------------------------------------------------------------


def _keep_verdicts(
    run: RunFolder, problems: Sequence[Problem], rows: Mapping[Key, GenerationRow]
) -> Scored | None:
    """Compare the original's verdicts with our rules, and keep those of its judge.

    `None` where no row is scored.

    The verdicts of the original's judge are replaced by those of these rows; other judges' verdicts
    are kept.
    """
    scored = {key: row for key, row in rows.items() if row.correct is not None}
    by_id = {problem.id: problem for problem in problems}
    file = VerdictFile(run)
    others = [row for row in iter_rows(file.path, VerdictRow) if row.judge != JUDGE]
    known: dict[str, VerdictRow] = {}
    agree, differ, apart, judged = 0, list[str](), list[str](), 0
    for key, row in scored.items():
        problem = by_id[row.problem_id]
        gold, question = problem.gold_of(row.view), problem.question_of(row.view)
        result = grade_by_rule(
            Case(row.prediction, gold, question, split_grader(problem.grader)[1]), "paper"
        )
        if not isinstance(result, Undecided):
            if result.correct == row.correct:
                agree += 1
            else:
                differ.append(
                    f"{_named(key)}: the original {int(bool(row.correct))}, our rules"
                    f" {result.outcome}"
                )
            continue
        judged += 1
        verdict = VerdictRow(
            judge=JUDGE,
            mode="paper",
            question=question_id(result.prompt(), PAPER_MAX_TOKENS),
            problem_id=key[0],
            view=key[1],
            sample=key[2],
            answer=result.answer,
            gold=gold,
            said=str(int(bool(row.correct))),
        )
        if known.setdefault(verdict.question, verdict).said != verdict.said:
            apart.append(_named(key))
    if known or file.path.exists():
        write_text(file.path, "".join(line_of(row) for row in [*known.values(), *others]))
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
    scored: Scored | None,
    views: Sequence[str],
    *,
    with_gold: bool,
) -> GenerationNote:
    """What `import.json` holds: irregularities by name, and the warnings that name some of them."""
    odd = dict(odd)
    if scored and scored["differ"]:
        odd["have another verdict by our rules than by the original's"] = scored["differ"]
    if scored and scored["judged_both_ways"]:
        odd[
            "have the same answer as a sample that the original's judge saw otherwise; the first"
            " counts"
        ] = scored["judged_both_ways"]
    warnings = [
        f"Samples ({len(names):,}) that {what}: {some_of(names)}." for what, names in odd.items()
    ]
    sides = {ALL_VIEWS[view].side for view in views} - {"control"}
    if len(sides) == 1:
        warnings.append(
            f"Only {sides.pop()} versions: a gap needs the same model's other file, too."
        )
    if not with_gold:
        warnings.append("The rows do not say subjects; --gt with MathVerse's own files does.")
    warnings.append(
        "The rows do not say how many tokens a response has and whether it was cut: both count"
        " as 0."
    )
    return {
        "files": [str(file.path.absolute()) for file in files],
        "odd": odd,
        "scored": scored,
        "warnings": warnings,
    }
