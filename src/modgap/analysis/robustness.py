"""Does the conclusion survive? The gap of a run under other gradings and on fewer problems.

Stored responses are graded again where that is quick, without MathVerse's symbolic stage and
without asking a judge: where rules decide nothing, the run's own verdict stays. A mode that was
graded before (`grades.MODE.jsonl`) is taken from there.

The rule: the conclusion of the run is which side of 0 the interval of its gap is on, or that it
holds 0. It survives a variant whose own interval says the same. That two intervals differ in this
does not show that the gaps differ, so each variant is also compared with the run itself, paired by
problem and in the same resamples: `moved` is its gap minus the run's, with its interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from modgap.analysis.resampling import (
    RESAMPLES,
    SEED,
    Floats,
    bootstrap_interval,
    percentile_interval,
    resampled_means,
)
from modgap.analysis.results import GapPart, Robustness, Variant
from modgap.analysis.scores import CUT_OPEN, Scores
from modgap.analysis.summary import gap_part, vote_is_right
from modgap.analysis.swaps import Grader, JudgeOf, Stored
from modgap.core.prompt import of_paper
from modgap.core.record import RunFolder
from modgap.core.rows import iter_rows
from modgap.core.text import counted, degenerate, interval, points, signed
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
    run: RunFolder, scores: Scores, resolved: Mapping[str, Any], shown: int
) -> Robustness | None:
    """The gap of a run under each variant; `None` where the run has no gap.

    Args:
        run: The run folder, for the grades of other modes and a judge's verdicts.
        scores: The verdicts of the last grading.
        resolved: The arguments that made the run.
        shown: Responses of all runs of the report: of many, none is graded again.
    """
    base = gap_part(scores, scores.paired_P)
    if base is None or len(scores.modes) != 1:
        return None
    (mode,) = scores.modes
    run_variants = _Variants(run, scores, resolved, mode)
    own = Variant(name=f"as graded: {_WORDS.get(mode, mode)}", kind="base", gap=base)
    others = [
        *run_variants.other_gradings(shown),
        *run_variants.other_judges(),
        *_vote(scores),
        *_without_leaky(scores),
    ]
    found = [own, *(_compared(base, scores, other) for other in others)]
    return Robustness(
        variants=found,
        survives=all(variant.survives for variant in found),
        sentence=_sentence(found),
        not_graded=run_variants.skipped,
    )


class _Variants:
    """The variants that change verdicts.

    Args:
        run: The run folder.
        scores: The verdicts of the last grading.
        resolved: The arguments that made the run.
        mode: Of the grades.
    """

    def __init__(
        self, run: RunFolder, scores: Scores, resolved: Mapping[str, Any], mode: str
    ) -> None:
        self._run, self._scores, self._mode = run, scores, mode
        self.skipped: list[str] = []
        self._problems = {problem.id: problem for problem in scores.problems}
        self._tool = str(resolved.get("tool") or "")
        self._paper_style = of_paper(str(resolved.get("style") or ""))
        self._graders = [
            find_grader(name) for name in sorted({row.grader for row in scores.problems})
        ]
        judged = any(grader.judged for grader in self._graders)
        self._own = Grader.of_run(run, mode, judged=judged)
        # Without an answer of the engine or of the data no grading changes a verdict.
        self._open_PVS = (scores.codes_PVS >= 0) & ~self._of_stage("engine", "gold")
        self._judge_PVS = (scores.codes_PVS >= 0) & self._of_stage("judge")

    def _of_stage(self, *stages: str) -> NDArray[np.bool_]:
        """Which samples one of these stages decided."""
        of_answer = np.array([answer.stage in stages for answer in self._scores.answers], np.bool_)
        shape = self._scores.codes_PVS.shape
        return of_answer[self._scores.answers_PVS] if of_answer.size else np.zeros(shape, np.bool_)

    def other_gradings(self, shown: int) -> Iterator[_Other]:
        """The other modes that all graders of the run know, and another tool's own verdicts.

        Args:
            shown: Responses of all runs of the report.
        """
        stored: Stored | None = None
        for mode in get_args(Mode):
            known = all(mode in grader.modes for grader in self._graders)
            if mode == self._mode or not known:
                continue
            kind = "mode" if mode == "paper" else "tolerance"
            right_PVS = self._graded_before(mode)
            if right_PVS is None and shown <= MOST_REGRADED[mode]:
                stored = stored or self._stored(self._scores.codes_PVS >= 0)
                reference = Grader.of_run(self._run, mode, judged=False)
                grader = Grader(reference.extraction, reference.tolerance, self._own.judge)
                right_PVS = np.zeros(self._scores.codes_PVS.shape, np.bool_)
                right_PVS[self._scores.codes_PVS >= 0] = stored.graded(grader) > 0.5
            if right_PVS is None:
                self.skipped.append(mode)
            else:
                yield self._variant(_WORDS[mode], kind, right_PVS)
        if self._tool and (right_PVS := self._graded_before(self._tool)) is not None:
            yield self._variant(f"{self._tool}'s own verdicts", "mode", right_PVS)

    def other_judges(self) -> Iterator[_Other]:
        """Other judges that were asked in this mode, and the most that any judge can change."""
        if not self._judge_PVS.any():
            return
        own_PVS = self._scores.correct_PVS
        file = VerdictFile(self._run)
        names = {row.judge for row in iter_rows(file.path, VerdictRow) if row.mode == self._mode}
        # A judge decides what rules leave open, and nothing else.
        others = sorted(names - {self._own.judge.name})
        # These few do not say what the chat template did, but the grading in this mode has marked
        # those that it matters for.
        opened = self._scores.marked(CUT_OPEN) > 0
        stored = self._stored(self._judge_PVS, opened) if others else None
        for name in others:
            assert stored is not None
            judge = JudgeOf(name, self._mode, self._tokens(file), file.said(name, self._mode))
            before = stored.unswapped
            right_PVS = own_PVS.copy()
            grader = Grader(self._own.extraction, self._own.tolerance, judge)
            right_PVS[self._judge_PVS] = stored.graded(grader) > 0.5
            missing = stored.unswapped - before
            words = f"judge {name}"
            if missing:
                words += f" (not asked about {counted(missing, 'sample')})"
            yield self._variant(words, "judge", right_PVS)
        count = counted(int(self._judge_PVS.sum()), "sample")
        for verdict, right_PVS in (
            ("wrong", own_PVS & ~self._judge_PVS), ("right", own_PVS | self._judge_PVS)
        ):  # fmt: skip
            words = f"what only a judge can decide is {verdict} ({count})"
            yield self._variant(words, "judge", right_PVS)

    def _stored(self, keep_PVS: NDArray[np.bool_], by_template: bool | None = None) -> Stored:
        """The chosen responses, read again, with the verdicts that they have; see `Stored`."""
        scores = self._scores
        rows = [
            row for p in range(len(scores.problems)) for row in scores.responses(p, keep_PVS[p])
        ]
        own = (scores.codes_PVS[keep_PVS] == 0).astype(np.float64)
        return Stored(
            rows, {}, self._problems, self._own, paper_style=self._paper_style, symbolic=False,
            own=own, by_template=by_template,
        )  # fmt: skip

    def _tokens(self, file: VerdictFile) -> int:
        last = file.last(self._mode)
        return last["tokens"] if last else 0

    def _graded_before(self, mode: str) -> NDArray[np.bool_] | None:
        """The verdicts of an earlier grading, if it covers every sample.

        A sample that failed then and not now was made again since: it is not covered.
        """
        scores = self._scores
        failed_PVS = self._of_stage("engine")
        p_of = {problem.id: p for p, problem in enumerate(scores.problems)}
        v_of = {view: v for v, view in enumerate(scores.views)}
        s_of = {sample: s for s, sample in enumerate(scores.samples)}
        right_PVS, seen_PVS = (np.zeros(scores.codes_PVS.shape, np.bool_) for _ in range(2))
        for row in self._run.iter_grades(mode):
            if row.problem_id in p_of and row.view in v_of and row.sample in s_of:
                at = p_of[row.problem_id], v_of[row.view], s_of[row.sample]
                right_PVS[at] = row.outcome == "correct"
                seen_PVS[at] = failed_PVS[at] or row.stage != "engine"
        graded_PVS = scores.codes_PVS >= 0
        return right_PVS if seen_PVS.any() and seen_PVS[graded_PVS].all() else None

    def _variant(self, name: str, kind: Any, right_PVS: NDArray[np.bool_]) -> _Other:
        """The run with other verdicts: 0 where right, else what they were, or 1 (wrong)."""
        before_PVS = self._scores.codes_PVS
        codes_PVS = np.where(before_PVS == 0, np.int8(1), before_PVS)
        codes_PVS[right_PVS & self._open_PVS] = 0
        changed = replace(self._scores, codes_PVS=codes_PVS)
        return _Other(name, kind, changed, self._scores.paired_P)


class _Other(NamedTuple):
    """A variant before it is compared: the changed verdicts, and the problems that are kept."""

    name: str
    kind: Any
    scores: Scores
    keep_P: NDArray[np.bool_]


def _vote(scores: Scores) -> Iterator[_Other]:
    """The gap of majority votes; only where there are several samples."""
    count = scores.codes_PVS.shape[2]
    if count < 2:
        return
    codes = np.full((*scores.codes_PVS.shape[:2], 1), -1, np.int8)
    asked_VS = scores.asked_VS
    for p, v in zip(*np.nonzero(scores.complete_PV), strict=True):
        asked_S = asked_VS[v]
        right = vote_is_right(scores.votes(p, v, asked_S), scores.codes_PVS[p, v][asked_S])
        codes[p, v, 0] = 0 if right else 1
    yield _Other(
        f"majority vote of {count} samples", "vote", replace(scores, codes_PVS=codes),
        scores.paired_P,
    )  # fmt: skip


def _without_leaky(scores: Scores) -> Iterator[_Other]:
    leaky_P = np.array([problem.leaky for problem in scores.problems], np.bool_)
    paired_P = scores.paired_P
    dropped = int((leaky_P & paired_P).sum())
    if dropped and (paired_P & ~leaky_P).any():
        yield _Other(
            f"without the {counted(dropped, 'problem')} whose question states a condition",
            "leaky", scores, paired_P & ~leaky_P,
        )  # fmt: skip


# ---- the conclusion ------------------------------------------------------------------------------


def _compared(own: GapPart, scores: Scores, other: _Other) -> Variant:
    """A variant against the run as it was graded: paired by problem, in the same resamples."""
    gap = gap_part(other.scores, other.keep_P)
    assert gap is not None, "a variant keeps a problem"
    paired_P = scores.paired_P
    before_P, after_P = (
        100 * (one.rates("text") - one.rates("vision"))[paired_P] for one in (scores, other.scores)
    )
    keep_P = other.keep_P[paired_P]
    if keep_P.all():
        moved_P = after_P - before_P
        low, high = bootstrap_interval(moved_P, None, RESAMPLES, SEED, 0.95, (-200.0, 200.0))
    else:
        low, high = _moved_by_dropping(before_P, after_P, keep_P)
    return Variant(
        name=other.name, kind=other.kind, gap=gap, moved=gap.points - own.points, moved_low=low,
        moved_high=high, survives=_sign(gap) == _sign(own),
    )  # fmt: skip


def _moved_by_dropping(
    before_P: Floats, after_P: Floats, keep_P: NDArray[np.bool_]
) -> tuple[float, float]:
    """The interval of a gap over some problems minus that over all of them."""
    sums_RK = resampled_means(
        np.stack([before_P, after_P * keep_P, keep_P.astype(np.float64)], axis=1), RESAMPLES, SEED
    )
    before_R, after_R, kept_R = sums_RK[sums_RK[:, 2] > 0].T
    if len(before_P) < 2 or not len(kept_R):
        return -200.0, 200.0
    return percentile_interval(after_R / kept_R - before_R, len(before_P))


def _sign(part: GapPart) -> int:
    """1 or -1 where the whole interval is above or below 0, else 0.

    Where all problems have the same difference, which leaves no interval, that of the difference.
    """
    if part.degenerate:
        return (part.points > 0) - (part.points < 0)
    return 1 if part.ci_low > 0 else -1 if part.ci_high < 0 else 0


_CONCLUSIONS: Final = {
    1: "there is a gap: its whole interval is above 0",
    -1: "the image side is better: the gap's whole interval is below 0",
    0: "whether there is a gap is open: its interval holds 0",
}


def _sentence(variants: Sequence[Variant]) -> str:
    own, others = variants[0].gap, variants[1:]
    conclusion = _CONCLUSIONS[_sign(own)]
    if own.degenerate:
        conclusion = f"a gap of {points(own.points)} points in every problem, so no interval"
    if not others:
        return f"Only one variant could be computed: {conclusion}."
    values = [variant.gap.points for variant in variants]
    low, high = points(min(values)), points(max(values))
    spread = f"{low} points" if low == high else f"{low} to {high} points"
    fallen = [variant for variant in others if not variant.survives]
    if not fallen:
        return f"The conclusion survives all {len(others)} other variants: {conclusion} ({spread})."
    named = "; ".join(f"{variant.name} ({_moved_words(variant)})" for variant in fallen)
    return (
        f"The conclusion ({conclusion}) does not survive {len(fallen)} of {len(others)}"
        f" other variants: {named}. The gap is {spread}."
    )


def _moved_words(variant: Variant) -> str:
    """By how much a variant moves the gap, and whether that is more than chance."""
    low, high = variant.moved_low, variant.moved_high
    if low is None or high is None or degenerate(low, high):
        return f"it moves the gap by {signed(variant.moved)} points"
    chance = ", which may be chance" if low <= 0 <= high else ""
    return (
        f"it moves the gap by {signed(variant.moved)} points, 95% interval"
        f" {interval(low, high)}{chance}"
    )
