"""The verdicts of a run as arrays, from which every number of its summary is made.

A run may have a million responses, so no text is kept: of each response the arrays hold about 25
bytes, among them where its line is in `responses.jsonl`. A text that is needed is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modgap.core.engine import CONTINUED
from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.core.rows import OUTCOMES, GradeRow, Key, Outcome, ProblemRow, Response
from modgap.core.thinking import CUT_THINKING
from modgap.core.view import ALL_VIEWS, samples_of
from modgap.grading.judge import is_open
from modgap.grading.symbolic import SKIPPED

FINISHES = ("stop", "length", "error")
"""How a response ended, by its number in `Scores.finish_PVS`."""
_MOST_TOKENS = 2**31 - 1

LEFT_OUT = {"system": 1, "seed": 2, CONTINUED: 4}
"""What a model was not given -> its bit in `Scores.marks_PVS`."""
USER_TURN, OPEN, SKIPPED_OPEN, CUT_OPEN = 8, 16, 32, 64
"""Bits of `Scores.marks_PVS`: the transcription stood in the user turn; the verdict waits for a
judge; so it does because a package is missing; the reply was cut inside thinking that its chat
template opened."""
_OF_GRADE = OPEN | SKIPPED_OPEN | CUT_OPEN


class Answer(NamedTuple):
    """What a grader read: the answer in words, its value if it is a number, the deciding stage."""

    words: str | None
    value: float | None
    stage: str

    @property
    def vote(self) -> float | str | None:
        """What a sample votes for: the value, else the words; `None` without an answer."""
        return self.words if self.value is None else self.value


@dataclass(frozen=True, slots=True)
class Scores:
    """All verdicts of a run as arrays; axes P problems, V views, S samples.

    Of a repeated sample only the last record counts.

    Attributes:
        problems: The problems, in the run's order.
        views: Names, text-centric first, then vision-centric, then controls.
        samples: Their numbers; -1 for those that do not exist yet.
        codes_PVS: Position in `OUTCOMES`; -1 where there is no graded response.
        tokens_PVS: Completion tokens.
        prompt_tokens_PVS: Prompt tokens.
        finish_PVS: Position in `FINISHES`.
        marks_PVS: What a reader must know of a sample, in bits: `LEFT_OUT`, `USER_TURN` and so on.
        answers_PVS: Position in `answers`; meaningful where there is a graded response.
        lines_PVS: Where the response is, for `responses`; -1 where there is none.
        answers: The different answers.
        modes: How the samples were graded, in the order of the grades; empty without a grade.
        read: Lines -> responses.
    """

    problems: tuple[ProblemRow, ...]
    views: tuple[str, ...]
    samples: tuple[int, ...]
    codes_PVS: NDArray[np.int8]
    tokens_PVS: NDArray[np.int32]
    prompt_tokens_PVS: NDArray[np.int32]
    finish_PVS: NDArray[np.int8]
    marks_PVS: NDArray[np.uint8]
    answers_PVS: NDArray[np.int32]
    lines_PVS: NDArray[np.int64]
    answers: Sequence[Answer]
    modes: tuple[str, ...]
    read: Callable[[Iterable[int]], list[Response]]

    @classmethod
    def of(
        cls,
        problems: Mapping[str, ProblemRow],
        responses: Iterable[Response],
        grades: Iterable[GradeRow],
        expected_samples: int | None = None,
    ) -> Scores:
        """Arrange records that are in memory."""
        held = list(responses)
        arranged = Arrangement(problems, expected_samples)
        for number, row in enumerate(held):
            arranged.add_response(row, number)
        for row in grades:
            arranged.add_grade(row)
        return arranged.scores(lambda lines: [held[line] for line in lines])

    @classmethod
    def stored(
        cls,
        run: RunFolder,
        problems: Mapping[str, ProblemRow],
        expected_samples: int | None = None,
    ) -> Scores:
        """Arrange the records of a run folder; problems that it has not recorded are rebuilt.

        Raises:
            UserError: A line that is not the last cannot be read, or a response belongs to another
                run than the manifest.
        """
        known = dict(problems)
        if not known or not run.manifest_path.exists():
            for row in run.iter_grades():
                if row.problem_id not in known:
                    known[row.problem_id] = ProblemRow(id=row.problem_id, answer=row.gold)
        arranged = Arrangement(known, expected_samples, add=True)
        for start, row in run.placed_responses(problems or None):
            arranged.add_response(row, start)
        for row in run.iter_grades():
            arranged.add_grade(row)
        return arranged.scores(run.responses_at)

    def responses(self, p: int, keep_VS: NDArray[np.bool_]) -> list[Response]:
        """The chosen responses to a problem, by view and sample; read again.

        Raises:
            UserError: The file is not the one that was arranged.
        """
        places = np.argwhere(keep_VS & (self.lines_PVS[p] >= 0)).tolist()
        rows = self.read([int(self.lines_PVS[p, v, s]) for v, s in places])
        name = self.problems[p].id
        if [row.key for row in rows] != [(name, self.views[v], self.samples[s]) for v, s in places]:
            raise UserError(
                "the responses were changed while they were read: give the same command again."
            )
        return rows

    def graded(self) -> list[Response]:
        """All graded responses, in the order of the arrays; read again."""
        problems = range(len(self.problems))
        return [row for p in problems for row in self.responses(p, self.codes_PVS[p] >= 0)]

    def marked(self, mark: int) -> int:
        """Number of samples with a bit of `marks_PVS`."""
        return int(np.count_nonzero(self.marks_PVS & mark))

    def votes(self, p: int, v: int, asked_S: NDArray[np.bool_]) -> list[float | str | None]:
        """The votes of the samples of a complete problem and view, see `Answer.vote`."""
        return [self.answers[number].vote for number in self.answers_PVS[p, v][asked_S].tolist()]

    @property
    def n_responses(self) -> int:
        """Samples that have a response, graded or not."""
        return int(np.count_nonzero(self.lines_PVS >= 0))

    @property
    def in_user_turn(self) -> bool:
        """Whether a transcription stood in the user turn: its engine continues no turn."""
        return self.marked(USER_TURN) > 0

    @property
    def cut_PVS(self) -> NDArray[np.bool_]:
        """Whether a graded response was cut at the token limit."""
        return (self.finish_PVS == FINISHES.index("length")) & (self.codes_PVS >= 0)

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


_COLUMNS: Mapping[str, tuple[type[np.generic], int]] = {
    "codes_PVS": (np.int8, -1), "tokens_PVS": (np.int32, 0), "prompt_tokens_PVS": (np.int32, 0),
    "finish_PVS": (np.int8, 0), "marks_PVS": (np.uint8, 0), "answers_PVS": (np.int32, 0),
    "lines_PVS": (np.int64, -1),
}  # fmt: skip
"""Array of `Scores` -> its type, and its value where there is no response."""


class Arrangement:
    """Arranges the records of a run as they come: the responses first, then the grades.

    Args:
        problems: By id, in order.
        expected_samples: Samples that were asked of each problem and view.
        add: Add a problem that is only known by a response; else such a response is left out.
    """

    def __init__(
        self,
        problems: Mapping[str, ProblemRow],
        expected_samples: int | None = None,
        *,
        add: bool = False,
    ) -> None:
        self._problems, self._add = dict(problems), add
        self._expected = expected_samples or 0
        self._p = {name: p for p, name in enumerate(problems)}
        self._v: dict[str, int] = {}
        self._s = {number: number for number in range(self._expected)}
        self._seen: set[int] = set()
        shape = (len(problems), 2, max(1, self._expected))
        self._of = {name: np.full(shape, none, kind) for name, (kind, none) in _COLUMNS.items()}
        self._answers: dict[Answer, int] = {}
        self._modes: dict[str, None] = {}

    def add_response(self, row: Response, line: int) -> None:
        """Arrange a response.

        Args:
            row: The response.
            line: Where it is, for `Scores.responses`.
        """
        v = self._v.setdefault(row.view, len(self._v))
        s = self._s.setdefault(row.sample, len(self._s))
        self._seen.add(s)
        p = self._p.get(row.problem_id)
        if p is None:
            if not self._add:
                return
            p = self._p[row.problem_id] = len(self._p)
            self._problems[row.problem_id] = ProblemRow(id=row.problem_id, answer="")
        at, of = (p, v, s), self._of
        shape = of["codes_PVS"].shape
        if p >= shape[0] or v >= shape[1] or s >= shape[2]:
            self._grow(at)
            of = self._of
        of["lines_PVS"][at] = line
        of["tokens_PVS"][at] = min(row.completion_tokens, _MOST_TOKENS)
        of["prompt_tokens_PVS"][at] = min(row.prompt_tokens, _MOST_TOKENS)
        of["finish_PVS"][at] = FINISHES.index(row.finish_reason)
        if row.left_out or of["marks_PVS"][at]:
            in_user_turn = row.in_user_turn
            marks = USER_TURN if in_user_turn else 0
            for name in row.left_out:
                if not in_user_turn or name != CONTINUED:
                    marks |= LEFT_OUT.get(name, 0)
            of["marks_PVS"][at] = marks

    def is_last(self, row: Response, line: int) -> bool:
        """Whether no later record of this sample was arranged."""
        return int(self._of["lines_PVS"][self._at(row.key)]) == line

    def add_grade(self, row: GradeRow) -> None:
        """Arrange the grade of a response; without one it only counts for the mode."""
        self._modes.setdefault(row.mode)
        at = self._place(row.key)
        if at is None:
            return
        answer = Answer(row.answer, row.value, row.stage)
        self._of["codes_PVS"][at] = OUTCOMES.index(row.outcome)
        self._of["answers_PVS"][at] = self._answers.setdefault(answer, len(self._answers))
        before = int(self._of["marks_PVS"][at])
        if row.reason or before:
            marks = CUT_OPEN if row.reason == CUT_THINKING else 0
            if is_open(row.stage, row.reason):
                marks |= OPEN | (SKIPPED_OPEN if SKIPPED in row.reason else 0)
            self._of["marks_PVS"][at] = (before & ~_OF_GRADE) | marks

    def outcome(self, key: Key) -> Outcome:
        """The outcome of a graded sample."""
        return OUTCOMES[int(self._of["codes_PVS"][self._at(key)])]

    def scores(self, read: Callable[[Iterable[int]], list[Response]]) -> Scores:
        """What was arranged. The arrays are handed over: nothing can be added any more.

        Args:
            read: Lines -> responses.
        """
        of, self._of = self._of, {}
        order = {name: position for position, name in enumerate(ALL_VIEWS)}
        views = sorted(self._v, key=lambda view: (order.get(view, len(order)), view))
        number_of = {s: number for number, s in self._s.items()}
        seen = sorted(self._seen, key=lambda s: number_of[s])
        missing = max(0, self._expected - len(seen))
        samples = (*(number_of[s] for s in seen), *[-1] * missing)
        for name in list(of):
            column_PVS = of.pop(name)[: len(self._p)]
            column_PVS = _taken(column_PVS, [self._v[view] for view in views], axis=1)
            of[name] = _padded(_taken(column_PVS, seen, axis=2), missing, _COLUMNS[name][1])
        ungraded_PVS = np.equal(of["codes_PVS"], -1)
        for name in ("tokens_PVS", "prompt_tokens_PVS"):
            of[name][ungraded_PVS] = 0
        return Scores(
            problems=tuple(self._problems.values()),
            views=tuple(views),
            samples=samples,
            answers=tuple(self._answers),
            modes=tuple(self._modes),
            read=read,
            **of,  # pyright: ignore[reportArgumentType] - by the names of `_COLUMNS`
        )

    def _place(self, key: Key) -> tuple[int, int, int] | None:
        """Where a sample is; `None` where it has no response."""
        p, v, s = self._p.get(key[0]), self._v.get(key[1]), self._s.get(key[2])
        if p is None or v is None or s is None:
            return None
        lines_PVS = self._of["lines_PVS"]
        sizes = lines_PVS.shape
        if p >= sizes[0] or v >= sizes[1] or s >= sizes[2] or lines_PVS[p, v, s] < 0:
            return None
        return p, v, s

    def _at(self, key: Key) -> tuple[int, int, int]:
        return self._p[key[0]], self._v[key[1]], self._s[key[2]]

    def _grow(self, at: tuple[int, int, int]) -> None:
        """Make room for a place: an axis that is too short is doubled at least."""
        before = self._of["codes_PVS"].shape
        size = [max(n, 2 * n if a >= n else n, a + 1) for n, a in zip(before, at, strict=True)]
        for name, (kind, none) in _COLUMNS.items():
            larger = np.full(size, none, kind)
            larger[tuple(slice(n) for n in before)] = self._of[name]
            self._of[name] = larger


def _taken(column_PVS: NDArray[np.generic], places: list[int], axis: int) -> NDArray[np.generic]:
    """Some places of an axis in order; not copied where they are the first ones."""
    if places == list(range(len(places))):
        return column_PVS[:, : len(places)] if axis == 1 else column_PVS[..., : len(places)]
    return np.take(column_PVS, places, axis=axis)


def _padded(column_PVS: NDArray[np.generic], missing: int, none: int) -> NDArray[np.generic]:
    if not missing:
        return column_PVS
    return np.pad(column_PVS, ((0, 0), (0, 0), (0, missing)), constant_values=none)
