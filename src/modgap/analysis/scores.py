"""The verdicts of a run as arrays, from which every number of its summary is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modgap.core.record import OUTCOMES, GradeRow, ProblemRow, Response
from modgap.core.view import ALL_VIEWS, samples_of


@dataclass(frozen=True, slots=True)
class Scores:
    """All verdicts of a run as arrays; axes P problems, V views, S samples.

    Attributes:
        problems: The problems, in the run's order.
        views: Names, text-centric first, then vision-centric, then controls.
        codes_PVS: Position in `OUTCOMES`; -1 where there is no graded response.
        tokens_PVS: Completion tokens.
        prompt_tokens_PVS: Prompt tokens.
        cut_PVS: Whether the response was cut at the token limit.
        said_PVS: The response; `None` where there is no graded one.
        votes_PVS: The sample's vote (the parsed value, else the words of the answer); `None`
            without an answer.
        in_user_turn: Whether a transcription stood in the user turn: its engine continues no turn.
    """

    problems: tuple[ProblemRow, ...]
    views: tuple[str, ...]
    codes_PVS: NDArray[np.int8]
    tokens_PVS: NDArray[np.int64]
    cut_PVS: NDArray[np.bool_]
    said_PVS: NDArray[np.object_]
    votes_PVS: NDArray[np.object_]
    prompt_tokens_PVS: NDArray[np.int64]
    in_user_turn: bool = False

    @classmethod
    def of(
        cls,
        problems: Mapping[str, ProblemRow],
        responses: Iterable[Response],
        grades: Iterable[GradeRow],
        expected_samples: int | None = None,
    ) -> Scores:
        """Arrange the records of a run; of a repeated sample only the last record counts."""
        said = {row.key: row for row in responses}
        graded = {row.key: row for row in grades if row.key in said and row.problem_id in problems}
        order = {name: position for position, name in enumerate(ALL_VIEWS)}
        views = sorted(
            {view for _, view, _ in said}, key=lambda view: (order.get(view, len(order)), view)
        )
        samples = sorted({sample for _, _, sample in said})
        samples += [-1] * ((expected_samples or 0) - len(samples))  # samples that do not exist yet
        row_of = {name: p for p, name in enumerate(problems)}
        view_of = {name: v for v, name in enumerate(views)}
        sample_of = {number: s for s, number in enumerate(samples)}
        shape = (len(problems), len(views), len(samples))
        codes, tokens = np.full(shape, -1, np.int8), np.zeros(shape, np.int64)
        asked = np.zeros(shape, np.int64)
        cut, texts, votes = (
            np.zeros(shape, np.bool_),
            np.full(shape, None, object),
            np.full(shape, None, object),
        )
        for key, grade in graded.items():
            at = row_of[key[0]], view_of[key[1]], sample_of[key[2]]
            codes[at] = OUTCOMES.index(grade.outcome)
            tokens[at] = said[key].completion_tokens
            asked[at] = said[key].prompt_tokens
            cut[at] = said[key].finish_reason == "length"
            texts[at] = said[key].response
            votes[at] = grade.value if grade.value is not None else grade.answer
        return cls(
            problems=tuple(problems.values()),
            views=tuple(views),
            codes_PVS=codes,
            tokens_PVS=tokens,
            cut_PVS=cut,
            said_PVS=texts,
            votes_PVS=votes,
            prompt_tokens_PVS=asked,
            in_user_turn=any(row.in_user_turn for row in said.values()),
        )

    @property
    def correct_PVS(self) -> NDArray[np.bool_]:
        """Whether each sample is right; meaningful where the problem is complete."""
        return self.codes_PVS == 0

    @property
    def complete_PV(self) -> NDArray[np.bool_]:
        """Whether all samples that a view is asked for of a problem exist and are graded."""
        return ((self.codes_PVS >= 0) | ~self.asked_VS).all(axis=2) & (self.codes_PVS.shape[2] > 0)

    @property
    def asked_VS(self) -> NDArray[np.bool_]:
        """Which samples each view is asked for (`core.view.samples_of`)."""
        samples = self.codes_PVS.shape[2]
        asked_V = np.array([samples_of(view, samples) for view in self.views], np.int64)
        return np.arange(samples) < asked_V[:, None]

    @property
    def absent_PV(self) -> NDArray[np.bool_]:
        """Which views of a problem the data set lacks.

        For example, a MathVerse version that the file lacks.
        """
        return np.array(
            [[not row.has_view(view) for view in self.views] for row in self.problems], np.bool_
        ).reshape(len(self.problems), len(self.views))

    def side(self, name: str) -> list[int]:
        """Positions of the views on one side of the gap."""
        return [
            v
            for v, view in enumerate(self.views)
            if view in ALL_VIEWS and ALL_VIEWS[view].side == name
        ]

    @property
    def paired_P(self) -> NDArray[np.bool_]:
        """Which problems are complete in every view of both sides.

        None are where all samples of a side failed.
        """
        text, vision = self.side("text"), self.side("vision")
        failed = OUTCOMES.index("error")
        graded_V = ((self.codes_PVS >= 0) & (self.codes_PVS != failed)).any(axis=(0, 2))
        if not graded_V[text].any() or not graded_V[vision].any():
            return np.zeros(len(self.problems), np.bool_)
        return np.logical_and.reduce(self.complete_PV[:, text + vision], axis=1)

    def rates(self, name: str) -> NDArray[np.float64]:
        """Share of right samples of each problem on a side, over all its views.

        Meaningful only where the problem is complete.
        """
        return self.correct_PVS[:, self.side(name)].mean(axis=(1, 2), dtype=np.float64)

    def groups(self) -> dict[str, str]:
        """Paired problem -> `b` (both views right), `t` (text only), `v` (vision only) or `n`.

        A view is right when over half of its samples are.
        """
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
