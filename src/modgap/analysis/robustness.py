"""Does the conclusion survive? The gap of a run under other gradings and on fewer problems.

Stored responses are graded again where that is quick, without MathVerse's symbolic stage and
without asking a judge: where rules decide nothing, the run's own verdict stays. A mode that was
graded before (`grades.MODE.jsonl`) is taken from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from modgap.analysis.results import GapPart, Robustness, Variant
from modgap.analysis.scores import Scores
from modgap.analysis.summary import gap_part, vote_is_right
from modgap.analysis.swaps import Grader, JudgeOf, Stored
from modgap.core.prompt import of_paper
from modgap.core.record import GradeRow, Key, ProblemRow, Response, RunFolder, iter_rows
from modgap.core.text import counted, points
from modgap.grading.answer import Mode
from modgap.grading.graders import find_grader
from modgap.grading.judge import VerdictFile, VerdictRow

MOST_REGRADED: Final[Mapping[str, int]] = {
    "strict": 50_000, "relative": 50_000, "paper": 5_000, "exact": 5_000,
}  # fmt: skip
"""Mode -> the most responses of a report that are graded again in it: about half a second."""
_WORDS: Final[Mapping[str, str]] = {
    "strict": "within 0.005 (strict)",
    "relative": "or within 1% (relative)",
    "exact": "no tolerance (exact)",
    "paper": "the original's grader (paper)",
}


def robustness(
    run: RunFolder,
    problems: Mapping[str, ProblemRow],
    responses: Sequence[Response],
    grades: Mapping[Key, GradeRow],
    scores: Scores,
    resolved: Mapping[str, Any],
    shown: int,
) -> Robustness | None:
    """The gap of a run under each variant; `None` where the run has no gap.

    Args:
        run: The run folder, for the grades of other modes and a judge's verdicts.
        problems: By id.
        responses: The last response of each sample.
        grades: Of the last grading, in one mode.
        scores: The same as arrays.
        resolved: The arguments that made the run.
        shown: Responses of all runs of the report: of many, none is graded again.
    """
    modes = {row.mode for row in grades.values()}
    keep_P = scores.paired_P
    base = gap_part(scores, keep_P)
    if base is None or len(modes) != 1:
        return None
    (mode,) = modes
    run_variants = _Variants(run, problems, responses, grades, scores, resolved, mode)
    found = [
        Variant(name=f"as graded: {_WORDS.get(mode, mode)}", kind="base", gap=base),
        *run_variants.other_gradings(shown),
        *run_variants.other_judges(),
        *_vote(scores),
        *_without_leaky(scores),
    ]
    return Robustness(
        variants=found,
        survives=_survives(found),
        sentence=_sentence(found),
        not_graded=run_variants.skipped,
    )


class _Variants:
    """The variants that change verdicts.

    Args:
        run: The run folder.
        problems: By id.
        responses: The last response of each sample.
        grades: Of the last grading.
        scores: The same as arrays.
        resolved: The arguments that made the run.
        mode: Of the grades.
    """

    def __init__(
        self,
        run: RunFolder,
        problems: Mapping[str, ProblemRow],
        responses: Sequence[Response],
        grades: Mapping[Key, GradeRow],
        scores: Scores,
        resolved: Mapping[str, Any],
        mode: str,
    ) -> None:
        self._run, self._scores, self._mode = run, scores, mode
        self.skipped: list[str] = []
        self._rows = [row for row in responses if row.key in grades and row.problem_id in problems]
        self._tool = str(resolved.get("tool") or "")
        self._graders = [
            find_grader(name) for name in sorted({row.grader for row in problems.values()})
        ]
        judged = any(grader.judged for grader in self._graders)
        self._own = Grader.of_run(run, mode, judged=judged)
        self._stored = Stored(
            self._rows, grades, problems, self._own,
            paper_style=of_paper(str(resolved.get("style") or "")), symbolic=False,
        )  # fmt: skip
        self._at = _places(self._rows, scores)
        failed = [grades[row.key].stage in ("engine", "gold") for row in self._rows]
        self._failed = np.array(failed, np.bool_)
        self._by_judge = np.array([grades[row.key].stage == "judge" for row in self._rows])

    def other_gradings(self, shown: int) -> Iterator[Variant]:
        """The other modes that all graders of the run know, and another tool's own verdicts.

        Args:
            shown: Responses of all runs of the report.
        """
        for mode in get_args(Mode):
            known = all(mode in grader.modes for grader in self._graders)
            if mode == self._mode or not known:
                continue
            kind = "mode" if mode == "paper" else "tolerance"
            right = self._graded_before(mode)
            if right is None and shown <= MOST_REGRADED[mode]:
                judge = self._own.judge
                reference = Grader.of_run(self._run, mode, judged=False)
                right = self._stored.graded(
                    Grader(reference.extraction, reference.tolerance, judge)
                )
            if right is None:
                self.skipped.append(mode)
            else:
                yield self._variant(_WORDS[mode], kind, right)
        if self._tool and (right := self._graded_before(self._tool)) is not None:
            yield self._variant(f"{self._tool}'s own verdicts", "mode", right)

    def other_judges(self) -> Iterator[Variant]:
        """Other judges that were asked in this mode, and the most that any judge can change."""
        if not self._by_judge.any():
            return
        file = VerdictFile(self._run)
        names = {row.judge for row in iter_rows(file.path, VerdictRow) if row.mode == self._mode}
        for name in sorted(names - {self._own.judge.name}):
            judge = JudgeOf(name, self._mode, self._tokens(file), file.said(name, self._mode))
            before = self._stored.unswapped
            right = self._stored.graded(Grader(self._own.extraction, self._own.tolerance, judge))
            missing = self._stored.unswapped - before
            words = f"judge {name}{f' (not asked about {missing:,} samples)' if missing else ''}"
            yield self._variant(words, "judge", right)
        own = self._stored.own
        count = f"{int(self._by_judge.sum()):,} samples"
        yield self._variant(
            f"what only a judge can decide is wrong ({count})", "judge",
            np.where(self._by_judge, 0.0, own),
        )  # fmt: skip
        yield self._variant(
            f"what only a judge can decide is right ({count})", "judge",
            np.where(self._by_judge, 1.0, own),
        )  # fmt: skip

    def _tokens(self, file: VerdictFile) -> int:
        last = file.last(self._mode)
        return last["tokens"] if last else 0

    def _graded_before(self, mode: str) -> NDArray[np.float64] | None:
        """The verdicts of an earlier grading, if it covers every sample."""
        rows = {row.key: row.outcome for row in self._run.grades(mode)}
        if not rows or any(row.key not in rows for row in self._rows):
            return None
        return np.array([rows[row.key] == "correct" for row in self._rows], np.float64)

    def _variant(self, name: str, kind: Any, right: NDArray[Any]) -> Variant:
        changed = replace(self._scores, codes_PVS=self._codes(right > 0.5))
        return Variant(name=name, kind=kind, gap=gap_part(changed, self._scores.paired_P))

    def _codes(self, right: NDArray[np.bool_]) -> NDArray[np.int8]:
        """The outcomes with other verdicts: 0 where right, else what they were, or 1 (wrong)."""
        codes = self._scores.codes_PVS.copy()
        before = codes[self._at]
        wrong = np.where(before == 0, 1, before)
        codes[self._at] = np.where(right & ~self._failed, 0, wrong).astype(np.int8)
        return codes


def _places(rows: Sequence[Response], scores: Scores) -> tuple[NDArray[np.intp], ...]:
    """Where each response stands in the arrays of the scores."""
    row_of = {problem.id: p for p, problem in enumerate(scores.problems)}
    view_of = {view: v for v, view in enumerate(scores.views)}
    samples = sorted({row.sample for row in rows})
    sample_of = {number: s for s, number in enumerate(samples)}
    at = [(row_of[row.problem_id], view_of[row.view], sample_of[row.sample]) for row in rows]
    p, v, s = np.array(at, np.intp).reshape(-1, 3).T
    return p, v, s


def _vote(scores: Scores) -> Iterator[Variant]:
    """The gap of majority votes; only where there are several samples."""
    if scores.codes_PVS.shape[2] < 2:
        return
    codes = np.full((*scores.codes_PVS.shape[:2], 1), -1, np.int8)
    complete_PV = scores.complete_PV
    for p, v in zip(*np.nonzero(complete_PV), strict=True):
        right = vote_is_right(scores.votes_PVS[p, v], scores.codes_PVS[p, v])
        codes[p, v, 0] = 0 if right else 1
    voted = replace(
        scores,
        codes_PVS=codes,
        tokens_PVS=scores.tokens_PVS[:, :, :1],
        cut_PVS=scores.cut_PVS[:, :, :1],
        said_PVS=scores.said_PVS[:, :, :1],
        votes_PVS=scores.votes_PVS[:, :, :1],
    )
    count = scores.codes_PVS.shape[2]
    yield Variant(
        name=f"majority vote of {count} samples", kind="vote",
        gap=gap_part(voted, scores.paired_P),
    )  # fmt: skip


def _without_leaky(scores: Scores) -> Iterator[Variant]:
    leaky_P = np.array([problem.leaky for problem in scores.problems], np.bool_)
    paired_P = scores.paired_P
    dropped = int((leaky_P & paired_P).sum())
    if dropped and (left := gap_part(scores, paired_P & ~leaky_P)):
        yield Variant(
            name=f"without the {counted(dropped, 'problem')} whose question states a condition",
            kind="leaky", gap=left,
        )  # fmt: skip


# ---- the conclusion ------------------------------------------------------------------------------


def _sign(part: GapPart | None) -> int:
    """1 or -1 where the whole interval is above or below 0, else 0.

    Where all problems have the same difference, which leaves no interval, that of the difference.
    """
    if part is None:
        return 0
    if part.degenerate:
        return (part.points > 0) - (part.points < 0)
    return 1 if part.ci_low > 0 else -1 if part.ci_high < 0 else 0


def _survives(variants: Sequence[Variant]) -> bool:
    return len({_sign(variant.gap) for variant in variants}) == 1


def _sentence(variants: Sequence[Variant]) -> str:
    others = variants[1:]
    signs = [_sign(variant.gap) for variant in variants]
    values = [variant.gap.points for variant in variants if variant.gap]
    low, high = points(min(values)), points(max(values))
    spread = f"{low} points" if low == high else f"{low} to {high} points"
    conclusion = {
        1: "there is a gap: its whole interval is above 0",
        -1: "the image side is better: the gap's whole interval is below 0",
        0: "no gap for certain: its interval holds 0",
    }
    if (base := variants[0].gap) is not None and base.degenerate:
        conclusion = dict.fromkeys(
            conclusion, f"a gap of {points(base.points)} points in every problem, so no interval"
        )
    if not others:
        return f"Only one variant could be computed: {conclusion[signs[0]]}."
    differ = [v.name for v, sign in zip(variants, signs, strict=True) if sign != signs[0]]
    if not differ:
        return (
            f"The conclusion survives all {len(others)} other variants: {conclusion[signs[0]]}"
            f" ({spread})."
        )
    return (
        f"The conclusion ({conclusion[signs[0]]}) does not survive {len(differ)} of {len(others)}"
        f" other variants: {'; '.join(differ)}. The gap is {spread}."
    )
