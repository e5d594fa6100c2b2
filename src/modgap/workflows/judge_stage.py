"""The last stage of a grading with a judge: it settles what the rules leave open.

The judge itself is checked against the rules. Where rules decide, they are the better grader; so a
seeded sample of the answers that they decided goes to the judge as well, and its agreement with
them says how far its other verdicts can be trusted. The original has no such check.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from modgap.analysis.agreement import Agreement
from modgap.analysis.results import (
    Disagreement,
    JudgeCheck,
    JudgeSummary,
    JudgeTable,
    StageAgreement,
)
from modgap.core.record import Key, ProblemRow, Response, RunFolder
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


def settle_all(
    run: RunFolder,
    problems: Mapping[str, ProblemRow],
    responses: Sequence[Response],
    results: Sequence[Grade | Undecided],
    mode: JudgeMode,
    judge: Judge | None,
    checked: Checked,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Grade], JudgeSummary]:
    """Settle what is undecided, and say what the judge did.

    Args:
        run: The run, where verdicts are kept.
        problems: By id.
        responses: What the model said.
        results: What the rules made of each.
        mode: The grading mode.
        judge: The judge to ask; if not given, the verdicts of the last one in this mode are used.
        checked: The answers that the rules decided and that the judge is asked about as well.
        progress: Called as the work proceeds.

    Returns:
        One grade for each response, and what the judge did.
    """
    file = VerdictFile(run)
    by_key = {
        response.key: (response, result)
        for response, result in zip(responses, results, strict=True)
    }  # of a repeated sample, the last one
    undecided = {
        key: result for key, (_, result) in by_key.items() if isinstance(result, Undecided)
    }
    last = file.last(mode) if judge is None else None
    answers = judge if last is None else Recalled(last["judge"], last["tokens"])
    if last is not None:
        checked = Checked(last["check"], last["seed"])
    decided = _to_check(by_key, problems, mode, checked) if answers else {}
    said = answers.answer({**undecided, **decided}, mode, file, progress) if answers else {}
    if judge is not None:
        asked = LastJudge(
            judge=judge.name, tokens=judge.tokens(mode), check=checked.count, seed=checked.seed
        )
        file.remember(mode, asked)
    grades: list[Grade] = []
    for response, result in zip(responses, results, strict=True):
        if isinstance(result, Undecided):
            result = _settled(result, said.get(response.key, Said(None)))
        grades.append(result)
    kinds = Counter(_kind(case, said.get(key, Said(None))) for key, case in undecided.items())
    return grades, JudgeSummary(
        judge=answers.name if answers else None,
        asked=judge.asked if judge else 0,
        samples=len(undecided),
        consistent=kinds["consistent"],
        different=kinds["different"],
        unreadable=kinds["unreadable"],
        failed=kinds["failed"],
        waiting=kinds["waiting"],
        check=_compare(by_key, decided, said, checked.seed) if decided else None,
    )


def _settled(case: Undecided, said: Said) -> Grade:
    waits = said.text is None and not said.error
    return unsettled(case) if waits else settle(case, said.text, said.error)


def _kind(case: Undecided, said: Said) -> Kind:
    if said.text is None:
        return "failed" if said.error else "waiting"
    verdict = parse_verdict(said.text, case.mode)
    return "unreadable" if verdict is None else "consistent" if verdict else "different"


def _to_check(
    by_key: Mapping[Key, tuple[Response, Grade | Undecided]],
    problems: Mapping[str, ProblemRow],
    mode: JudgeMode,
    checked: Checked,
) -> dict[Key, Undecided]:
    """A seeded sample of the answers that the rules decided, as the judge is asked about them.

    Which ones does not depend on the order of the responses, and more responses change it little.
    """
    decided = [
        key
        for key, (_, result) in by_key.items()
        if isinstance(result, Grade)
        and result.outcome in ("correct", "wrong")
        and find_grader(problems[key[0]].grader).judged
    ]
    decided.sort(key=lambda key: hashlib.sha256(repr((checked.seed, *key)).encode()).digest())
    cases: dict[Key, Undecided] = {}
    for key in decided[: checked.count]:
        response, result = by_key[key]
        assert isinstance(result, Grade)
        # A grade may hold only the letter that was read in an answer; the judge sees what the model
        # wrote.
        answer = result.answer if mode == "paper" else extract_answer(response.response)
        problem = problems[key[0]]
        cases[key] = Undecided(
            answer or "", problem.gold_of(key[1]), problem.question_of(key[1]), mode
        )
    return cases


def _compare(
    by_key: Mapping[Key, tuple[Response, Grade | Undecided]],
    checked: Mapping[Key, Undecided],
    said: Mapping[Key, Said],
    seed: int,
) -> JudgeCheck:
    """The rules' verdicts against the judge's."""
    kinds: Counter[Kind] = Counter()
    pairs: list[tuple[bool, bool]] = []
    stages: dict[str, list[bool]] = {}
    apart: list[Disagreement] = []
    for key, case in checked.items():
        kind = _kind(case, said.get(key, Said(None)))
        kinds[kind] += 1
        rule = by_key[key][1]
        assert isinstance(rule, Grade)
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
