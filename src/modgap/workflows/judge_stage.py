"""The last stage of a grading with a judge: it settles what the rules leave open.

The judge itself is checked against the rules. Where rules decide, they are the better grader; so a
seeded sample of the answers that they decided goes to the judge as well, and its agreement with
them says how far its other verdicts can be trusted. The original has no such check.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from modgap.analysis.agreement import Agreement
from modgap.analysis.results import (
    Disagreement,
    JudgeCheck,
    JudgeSummary,
    JudgeTable,
    StageAgreement,
)
from modgap.core.record import RunFolder
from modgap.core.rows import Key, ProblemRow, Response
from modgap.engines.judge import Judge, Recalled, Said
from modgap.grading.answer import extract_answer
from modgap.grading.grade import Grade
from modgap.grading.graders import find_grader
from modgap.grading.judge import (
    JudgeMode,
    LastJudge,
    Undecided,
    VerdictFile,
    parse_verdict,
    settle,
    unsettled,
)

MOST_SHOWN = 50
"""Disagreements that a summary lists."""
Kind = Literal["consistent", "different", "unreadable", "failed", "waiting"]
"""The outcomes of a sample that rules leave open; `waiting`: no judge was asked about it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Which of the answers that the rules decided a judge is asked about as well.

    Attributes:
        count: How many.
        seed: Of their choice.
    """

    count: int
    seed: int


class _Candidate(NamedTuple):
    """An answer that the rules decided, as the judge is asked about it; ordered by `digest`."""

    digest: bytes
    key: Key
    case: Undecided
    rule: Grade


class JudgeStage:
    """What the rules made of a run's responses, as they come; then the judge's part.

    Only what the judge may be asked about is kept.

    Args:
        run: The run, where verdicts are kept.
        problems: By id.
        mode: The grading mode.
        judge: The judge to ask; if not given, the verdicts of the last one in this mode are used.
        checked: The answers that the rules decided and that the judge is asked about as well.
    """

    def __init__(
        self,
        run: RunFolder,
        problems: Mapping[str, ProblemRow],
        mode: JudgeMode,
        judge: Judge | None,
        checked: Checked,
    ) -> None:
        self._file, self._problems, self._judge = VerdictFile(run), problems, judge
        self._mode: JudgeMode = mode
        last = self._file.last(mode) if judge is None else None
        self._answers = judge if last is None else Recalled(last["judge"], last["tokens"])
        self._checked = checked if last is None else Checked(last["check"], last["seed"])
        self._undecided: dict[Key, Undecided] = {}
        self._decided: list[_Candidate] = []
        self._said: Mapping[Key, Said] = {}

    def add(self, response: Response, result: Grade | Undecided) -> None:
        """Take in what the rules made of a sample: of a repeated one, of its last record."""
        if isinstance(result, Undecided):
            self._undecided[response.key] = result
        elif self._answers and self._may_check(response, result):
            self._consider(response, result)

    def _may_check(self, response: Response, result: Grade) -> bool:
        decided = result.outcome in ("correct", "wrong")
        return decided and find_grader(self._problems[response.problem_id].grader).judged

    def _consider(self, response: Response, result: Grade) -> None:
        """Keep the answer if it is in the seeded sample so far.

        Which ones are does not depend on the order of the responses, and more responses change it
        little.
        """
        key = response.key
        digest = hashlib.sha256(repr((self._checked.seed, *key)).encode()).digest()
        if len(self._decided) >= self._checked.count:
            if not self._decided or digest >= self._decided[-1].digest:
                return
            self._decided.pop()
        # A grade may hold only the letter that was read in an answer; the judge sees what the
        # model wrote.
        own = self._mode == "paper"
        answer = result.answer if own else extract_answer(response.response)
        problem = self._problems[key[0]]
        case = Undecided(
            answer or "", problem.gold_of(key[1]), problem.question_of(key[1]), self._mode
        )
        bisect.insort(
            self._decided, _Candidate(digest, key, case, result), key=lambda one: one.digest
        )

    def ask(self, progress: Callable[[str, int, int], None] | None = None) -> JudgeSummary:
        """Ask the judge, and say what it did.

        Args:
            progress: Called as the work proceeds.
        """
        decided = {one.key: one.case for one in self._decided}
        if self._answers:
            cases = {**self._undecided, **decided}
            self._said = self._answers.answer(cases, self._mode, self._file, progress)
        judge = self._judge
        if judge is not None:
            asked = LastJudge(
                judge=judge.name, tokens=judge.tokens(self._mode), check=self._checked.count,
                seed=self._checked.seed,
            )  # fmt: skip
            self._file.remember(self._mode, asked)
        kinds = Counter(
            _kind(case, self._said.get(key, Said(None))) for key, case in self._undecided.items()
        )
        return JudgeSummary(
            judge=self._answers.name if self._answers else None,
            asked=judge.asked if judge else 0,
            samples=len(self._undecided),
            consistent=kinds["consistent"],
            different=kinds["different"],
            unreadable=kinds["unreadable"],
            failed=kinds["failed"],
            waiting=kinds["waiting"],
            check=_compare(self._decided, self._said, self._checked.seed) if decided else None,
        )

    def settled(self, key: Key, case: Undecided) -> Grade:
        """The grade of a case that rules leave open, after the judge was asked."""
        return _settled(case, self._said.get(key, Said(None)))


def _settled(case: Undecided, said: Said) -> Grade:
    waits = said.text is None and not said.error
    return unsettled(case) if waits else settle(case, said.text, said.error)


def _kind(case: Undecided, said: Said) -> Kind:
    if said.text is None:
        return "failed" if said.error else "waiting"
    verdict = parse_verdict(said.text, case.mode)
    return "unreadable" if verdict is None else "consistent" if verdict else "different"


def _compare(checked: Sequence[_Candidate], said: Mapping[Key, Said], seed: int) -> JudgeCheck:
    """The rules' verdicts against the judge's."""
    kinds: Counter[Kind] = Counter()
    pairs: list[tuple[bool, bool]] = []
    stages: dict[str, list[bool]] = {}
    apart: list[Disagreement] = []
    for candidate in checked:
        key, case, rule = candidate.key, candidate.case, candidate.rule
        kind = _kind(case, said.get(key, Said(None)))
        kinds[kind] += 1
        if kind not in ("consistent", "different"):
            continue
        right = kind == "consistent"
        pairs.append((rule.correct, right))
        stages.setdefault(rule.stage, []).append(rule.correct == right)
        if rule.correct != right:
            problem_id, view, sample = key
            apart.append(
                Disagreement(
                    problem_id=problem_id,
                    view=view,
                    sample=sample,
                    answer=case.answer,
                    gold=case.gold,
                    stage=rule.stage,
                    rules=rule.outcome,
                    judge="correct" if right else "wrong",
                )
            )
    agreement = Agreement.of(pairs)
    return JudgeCheck(
        samples=len(checked),
        seed=seed,
        unreadable=kinds["unreadable"],
        failed=kinds["failed"] + kinds["waiting"],
        table=JudgeTable(
            both_right=agreement.both,
            rules_only=agreement.first_only,
            judge_only=agreement.second_only,
            both_wrong=agreement.neither,
        ),
        agreement=agreement.share,
        kappa=agreement.kappa,
        stages={
            stage: StageAgreement(samples=len(same), agree=sum(same))
            for stage, same in sorted(stages.items())
        },
        disagreements=apart[:MOST_SHOWN],
    )
