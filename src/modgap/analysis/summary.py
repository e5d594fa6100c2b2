"""Records -> the numbers of a run: what summary.json holds and every page, terminal and figure shows.

Units: accuracies and rates are shares from 0 to 1, and so are their intervals; gaps (`points` and its interval) are
percentage points.

Denominators: accuracy is over all samples of a problem, with those that have no answer or could not be graded among
them and counted beside it. A problem counts in a view when all of its samples are there and graded, and in the gap when
it is complete in every view of both sides; what is left out is said in `warnings`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modgap.analysis import gap as stats
from modgap.analysis import mathverse
from modgap.analysis.reading import decompose
from modgap.core.record import GradeRow, ProblemRow, Response
from modgap.core.view import ALL_VIEWS
from modgap.reporting.tables import degenerate
from modgap.reporting.words import warnings

OUTCOMES = ("correct", "wrong", "no_answer", "error")
SEED = 42
"""Of the bootstrap: the same records give the same interval."""


@dataclass(frozen=True, slots=True)
class Scores:
    """All verdicts of a run as arrays; axes P problems, V views, S samples.

    Attributes:
        problems: The problems, in the run's order.
        views: Names, text-centric first, then vision-centric, then controls.
        codes_PVS: Position in `OUTCOMES`; -1 where there is no graded response.
        tokens_PVS: Completion tokens.
        cut_PVS: Whether the response was cut at the token limit.
        said_PVS: The response; `None` where there is no graded one.
        votes_PVS: What the sample votes for (the parsed value, else the words of the answer); `None` without an answer.
    """

    problems: tuple[ProblemRow, ...]
    views: tuple[str, ...]
    codes_PVS: NDArray[np.int8]
    tokens_PVS: NDArray[np.int64]
    cut_PVS: NDArray[np.bool_]
    said_PVS: NDArray[np.object_]
    votes_PVS: NDArray[np.object_]

    @classmethod
    def of(
        cls,
        problems: Mapping[str, ProblemRow],
        responses: Iterable[Response],
        grades: Iterable[GradeRow],
        expected_samples: int | None = None,
    ) -> Scores:
        """Arrange the records of a run; a sample that comes twice counts once, the last one."""
        said = {row.key: row for row in responses}
        graded = {row.key: row for row in grades if row.key in said and row.problem_id in problems}
        order = {name: position for position, name in enumerate(ALL_VIEWS)}
        views = sorted({view for _, view, _ in said}, key=lambda view: (order.get(view, len(order)), view))
        samples = sorted({sample for _, _, sample in said})
        samples += [-1] * ((expected_samples or 0) - len(samples))  # samples that nobody has made yet
        row_of = {name: p for p, name in enumerate(problems)}
        view_of = {name: v for v, name in enumerate(views)}
        sample_of = {number: s for s, number in enumerate(samples)}
        shape = (len(problems), len(views), len(samples))
        codes, tokens = np.full(shape, -1, np.int8), np.zeros(shape, np.int64)
        cut, texts, votes = np.zeros(shape, np.bool_), np.full(shape, None, object), np.full(shape, None, object)
        for key, grade in graded.items():
            at = row_of[key[0]], view_of[key[1]], sample_of[key[2]]
            codes[at] = OUTCOMES.index(grade.outcome)
            tokens[at] = said[key].completion_tokens
            cut[at] = said[key].finish_reason == "length"
            texts[at] = said[key].response
            votes[at] = grade.value if grade.value is not None else grade.answer
        return cls(tuple(problems.values()), tuple(views), codes, tokens, cut, texts, votes)

    @property
    def correct_PVS(self) -> NDArray[np.bool_]:
        """Whether each sample is right; meaningful where the problem is complete."""
        return self.codes_PVS == 0

    @property
    def complete_PV(self) -> NDArray[np.bool_]:
        """Whether all samples of a problem in a view are there and graded."""
        return np.logical_and.reduce(self.codes_PVS >= 0, axis=2) & (self.codes_PVS.shape[2] > 0)

    @property
    def absent_PV(self) -> NDArray[np.bool_]:
        """Which views the data set does not have of a problem (a version of MathVerse's that its file lacks)."""
        return np.array([[not row.has_view(view) for view in self.views] for row in self.problems], np.bool_).reshape(
            len(self.problems), len(self.views)
        )

    def side(self, name: str) -> list[int]:
        """Positions of the views on one side of the gap."""
        return [v for v, view in enumerate(self.views) if view in ALL_VIEWS and ALL_VIEWS[view].side == name]

    @property
    def paired_P(self) -> NDArray[np.bool_]:
        """Which problems are complete in every view of both sides; none where all samples of a side failed."""
        text, vision = self.side("text"), self.side("vision")
        failed = OUTCOMES.index("error")
        graded_V = ((self.codes_PVS >= 0) & (self.codes_PVS != failed)).any(axis=(0, 2))
        if not graded_V[text].any() or not graded_V[vision].any():
            return np.zeros(len(self.problems), np.bool_)
        return np.logical_and.reduce(self.complete_PV[:, text + vision], axis=1)

    def rates(self, name: str) -> NDArray[np.float64]:
        """Share of right samples of each problem on a side, over all its views; meaningful where it is complete."""
        return self.correct_PVS[:, self.side(name)].mean(axis=(1, 2), dtype=np.float64)

    def groups(self) -> dict[str, str]:
        """Paired problem -> `b` (both views right), `t` (text only), `v` (vision only) or `n`; right is over a half."""
        paired_P = self.paired_P
        if not paired_P.any():
            return {}
        text_P, vision_P = (self.rates(side) > 0.5 for side in ("text", "vision"))
        names = {(True, True): "b", (True, False): "t", (False, True): "v", (False, False): "n"}
        return {
            problem.id: names[bool(text_P[p]), bool(vision_P[p])]
            for p, problem in enumerate(self.problems)
            if paired_P[p]
        }


def summarise(
    problems: Mapping[str, ProblemRow],
    responses: Iterable[Response],
    grades: Iterable[GradeRow],
    expected_samples: int | None = None,
) -> dict[str, Any]:
    """The summary of a run from its records.

    Args:
        problems: All problems that were asked, by id.
        responses: What the model said.
        grades: One for each response.
        expected_samples: Samples asked of each problem and view; by default the most that any has.

    Returns:
        `mode` (how it was graded), `views`, `gap` (`None` unless both sides are there), `leaky`, `types`, `mathverse`
        (of its problems only, see `mathverse.breakdown`), `reading` (see `reading.decompose`), `warnings`,
        `n_problems`, `samples_per_problem`; see the module for units and denominators.
    """
    grades = list(grades)
    return summarise_run(Scores.of(problems, responses, grades, expected_samples), mode_of(grades))


def mode_of(grades: Iterable[GradeRow]) -> str:
    """How the samples were graded; empty where none is."""
    return " and ".join(dict.fromkeys(row.mode for row in grades))


def summarise_run(scores: Scores, mode: str = "") -> dict[str, Any]:
    """The summary of arranged scores; see `summarise`."""
    views = {name: _view(scores, v) for v, name in enumerate(scores.views)}
    paired_P = scores.paired_P
    gap = _gap(scores, paired_P) if paired_P.any() else None
    summary: dict[str, Any] = {
        "mode": mode,
        "n_problems": len(scores.problems),
        "samples_per_problem": scores.codes_PVS.shape[2],
        "views": views,
        "gap": gap,
        "leaky": _leaky(scores, paired_P) if gap else {},
        "types": _types(scores, paired_P) if gap else [],
        "reading": decompose(scores) if gap else None,
        "pairable": bool(scores.side("text") and scores.side("vision")),
    }
    if parts := mathverse.breakdown(scores, lambda keep_P: _part(scores, keep_P)):
        summary["mathverse"] = parts
    return summary | {"warnings": warnings({"": summary})}


def _view(scores: Scores, v: int) -> dict[str, Any]:
    """One view, over the problems that are complete in it."""
    name, complete_P = scores.views[v], scores.complete_PV[:, v]
    codes_PS, tokens_PS, cut_PS = (x[complete_P, v] for x in (scores.codes_PVS, scores.tokens_PVS, scores.cut_PVS))
    count = codes_PS.size
    row: dict[str, Any] = {
        "side": ALL_VIEWS[name].side if name in ALL_VIEWS else "control",
        "n_problems": int(complete_P.sum()),
        "n_samples": count,
        **{outcome: int((codes_PS == code).sum()) for code, outcome in enumerate(OUTCOMES)},
        "accuracy": None, "ci_low": None, "ci_high": None,
        "truncated": int(cut_PS.sum()),
        "truncation_rate": None, "no_answer_rate": None, "error_rate": None,
        "mean_completion_tokens": 0.0,
        "completion_tokens": {"p10": 0.0, "p50": 0.0, "p90": 0.0},
        "pass_at_k": {}, "maj_at_k": None,
        "missing_samples": int((scores.codes_PVS[:, v] < 0)[~scores.absent_PV[:, v]].sum()),
        "absent_problems": int(scores.absent_PV[:, v].sum()),
    }  # fmt: skip
    if count == 0:
        return row
    samples = codes_PS.shape[1]
    right_P = (codes_PS == 0).sum(axis=1)
    accuracy = stats.accuracy(right_P, samples)
    row |= {"accuracy": accuracy.value, "ci_low": accuracy.ci_low, "ci_high": accuracy.ci_high}
    row |= {f"{key}_rate": row[outcome] / count for key, outcome in _RATES.items()}
    row["mean_completion_tokens"] = float(tokens_PS.mean())
    row["completion_tokens"] = {f"p{q}": float(np.percentile(tokens_PS, q)) for q in (10, 50, 90)}
    row["pass_at_k"] = {str(k): stats.pass_at_k(samples, right_P, k) for k in range(1, samples + 1)}
    voted = zip(scores.votes_PVS[complete_P, v], codes_PS, strict=True)
    row["maj_at_k"] = float(np.mean([_vote_is_right(votes_S, codes_S) for votes_S, codes_S in voted]))
    return row


def _vote_is_right(votes_S: NDArray[np.object_], codes_S: NDArray[np.int8]) -> bool:
    """Whether the answer that most samples give is right; words vote where no sample gives a number."""
    winner: Any = stats.majority_vote([vote if isinstance(vote, float) else None for vote in votes_S])
    if winner is None:
        words = Counter(vote for vote in votes_S if vote is not None)
        if not words:
            return False
        winner = words.most_common(1)[0][0]
    first = next(s for s, vote in enumerate(votes_S) if vote == winner)
    return bool(codes_S[first] == 0)


_RATES = {"truncation": "truncated", "no_answer": "no_answer", "error": "error"}


def _gap(scores: Scores, keep_P: NDArray[np.bool_]) -> dict[str, Any]:
    """The gap over some problems that are complete on both sides."""
    text_P, vision_P = (scores.rates(side)[keep_P] for side in ("text", "vision"))
    gap = stats.paired_gap(text_P, vision_P, seed=SEED)
    sides: dict[str, Any] = {}
    for side, rates_P in (("text", text_P), ("vision", vision_P)):
        samples = scores.codes_PVS.shape[2] * len(scores.side(side))
        accuracy = stats.accuracy(np.rint(rates_P * samples), samples)
        ends = {f"{side}_ci_low": accuracy.ci_low, f"{side}_ci_high": accuracy.ci_high}
        sides |= {f"{side}_accuracy": accuracy.value, **ends}
    (both, text_only), (vision_only, neither) = gap.table
    return {
        "text_views": [scores.views[v] for v in scores.side("text")],
        "vision_views": [scores.views[v] for v in scores.side("vision")],
        "n_problems": gap.n_problems,
        **sides,
        "points": gap.points,
        "ci_low": gap.ci_low,
        "ci_high": gap.ci_high,
        "degenerate": degenerate(gap.ci_low, gap.ci_high),
        "p_value": gap.p_value,
        "relative": gap.relative,
        "table": {"both": both, "text_only": text_only, "vision_only": vision_only, "neither": neither},
        "p_vision_given_text": gap.p_vision_given_text,
        "p_text_given_vision": gap.p_text_given_vision,
    }


_PART = ("n_problems", "text_accuracy", "vision_accuracy", "points", "ci_low", "ci_high", "degenerate", "p_value")


def _part(scores: Scores, keep_P: NDArray[np.bool_]) -> dict[str, Any] | None:
    """The gap of a part of the problems, in short; `None` for an empty part."""
    if not keep_P.any():
        return None
    gap = _gap(scores, keep_P)
    return {key: gap[key] for key in _PART}


def _leaky(scores: Scores, paired_P: NDArray[np.bool_]) -> dict[str, Any]:
    leaky_P = np.array([problem.leaky for problem in scores.problems])
    return {"leaky": _part(scores, paired_P & leaky_P), "clean": _part(scores, paired_P & ~leaky_P)}


def _types(scores: Scores, paired_P: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """The gap of each problem type, largest types first, with Holm's correction over the types."""
    types_P = np.array([problem.type for problem in scores.problems], object)
    rows = [{"type": name, **(_part(scores, paired_P & (types_P == name)) or {})} for name in sorted(set(types_P))]
    rows = sorted((row for row in rows if "points" in row), key=lambda row: -row["n_problems"])
    for row, corrected in zip(rows, stats.holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = float(corrected)
    return rows


def changes(runs: Mapping[str, Scores]) -> dict[str, dict[str, Any]]:
    """Change of the gap of each run against the first one, over the problems that are complete in both.

    Returns:
        Name -> the fields of `stats.GapChange` (points; negative is a smaller gap) and `degenerate` (an interval of no
        width); only for runs that share problems (the same id, question and gold answer) with the first one.
    """
    names: Sequence[str] = list(runs)
    found: dict[str, dict[str, Any]] = {}
    if len(names) < 2:
        return found
    before = runs[names[0]]
    before_at = _paired_at(before)
    for name in names[1:]:
        after = runs[name]
        after_at = _paired_at(after)
        shared = [key for key in before_at if key in after_at]
        if shared:
            old, new = [before_at[key] for key in shared], [after_at[key] for key in shared]
            change = stats.gap_change(
                before.rates("text")[old],
                before.rates("vision")[old],
                after.rates("text")[new],
                after.rates("vision")[new],
                seed=SEED,
            )
            found[name] = dataclasses.asdict(change) | {"degenerate": degenerate(change.ci_low, change.ci_high)}
    return found


def _paired_at(scores: Scores) -> dict[tuple[str, str, str], int]:
    """Where each paired problem stands."""
    paired_P = scores.paired_P
    return {(row.id, row.question, row.answer): p for p, row in enumerate(scores.problems) if paired_P[p]}
