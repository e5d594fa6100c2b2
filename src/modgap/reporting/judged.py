"""What a judge did in each run, as tables and in words.

Its verdicts, and how far they agree with the rules'.

The numbers are those of `judge_stage`. The rules are the better grader where they decide, so a
judge that hardly agrees with them there, or that gives every answer the same verdict, cannot be
trusted with the rest: both cause a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modgap.analysis.results import JudgeCheck, JudgeSummary, JudgeTable, Summary, read_summary
from modgap.analysis.scores import OPEN, SKIPPED_OPEN, Scores
from modgap.core.installation import install
from modgap.core.text import counted, percent
from modgap.grading.symbolic import SKIPPED
from modgap.reporting import tables as t
from modgap.reporting.collect import EvalRun

POOR_KAPPA = 0.4
"""Agreement with the rules below it draws a warning: fair at best by the usual reading (Landis and
Koch, 1977).
"""
ENOUGH = 20
"""The fewest verdicts from which a judge is assessed."""


def judged(run: EvalRun) -> JudgeSummary | None:
    """The judge part of a run's summary.json; `None` if it is from another grading, or absent.

    Raises:
        UserError: The file is damaged, or another program's.
    """
    if not (run.path / "summary.json").is_file():
        return None
    summary = read_summary(run.path)
    return summary.judge if summary.mode == run.mode else None


def judge_tables(runs: Mapping[str, Summary]) -> list[t.Table]:
    """The verdicts on what rules leave open, and the judge against the rules.

    Empty where no judge was used.
    """
    verdicts: list[tuple[str, ...]] = []
    checks: list[tuple[str, ...]] = []
    for name, summary in runs.items():
        judge = summary.judge
        if not judge or not judge.judge:
            continue
        counts = (
            judge.samples,
            judge.consistent,
            judge.different,
            judge.unreadable,
            judge.failed + judge.waiting,
        )
        verdicts.append((name, judge.judge, *(f"{count:,}" for count in counts)))
        if check := judge.check:
            counts = (*check.table.cells(), check.unreadable + check.failed)
            kappa = "–" if check.kappa is None else f"{check.kappa:.2f}"
            checks.append(
                (name, *(f"{count:,}" for count in counts), percent(check.agreement), kappa)
            )
    tables: list[t.Table] = []
    if verdicts:
        head = ("run", "judge", "left open by rules", "right", "wrong", "unreadable", "no verdict")
        caption = "What the judge made of the samples that rules cannot compare"
        tables.append(t.Table(caption, head, tuple(verdicts), left=2))
    if checks:
        head = (
            "run",
            "both right",
            "only the rules",
            "only the judge",
            "both wrong",
            "no verdict",
            "agree %",
            "kappa",
        )
        tables.append(
            t.Table(
                "The judge against the rules, on answers that the rules decided",
                head,
                tuple(checks),
            )
        )
    return tables


def open_words(scores: Iterable[Scores]) -> list[str]:
    """What waits for a judge, and how to settle it: one line; empty where nothing waits."""
    counts = [(one.marked(OPEN), one.marked(SKIPPED_OPEN)) for one in scores]
    waiting, skipped = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    if not waiting:
        return []
    words = (
        f"{counted(waiting, 'sample')} {'wait' if waiting != 1 else 'waits'} for a judge"
        f" and {'count as errors' if waiting != 1 else 'counts as an error'}: modgap grade RUN"
        f" --judge MODEL_OR_URL settles {'them' if waiting != 1 else 'it'}."
    )
    if not skipped:
        return [words]
    remedy = f"as {SKIPPED}: {install('mathverse')}, then grade again"
    return [f"{words} {skipped:,} of them may need none, {remedy}."]


def judge_words(judged: JudgeSummary | None) -> list[str]:
    """What a judge did; empty where no judge was used."""
    if not judged or not judged.judge:
        return []
    words = (
        f"Judge {judged.judge}: of {counted(judged.samples, 'sample')} that rules leave open "
        f"{judged.consistent:,} right and {judged.different:,} wrong"
    )
    others = (
        (judged.unreadable, "with a verdict that cannot be read"),
        (judged.failed, "failed, which the same command asks again"),
        (judged.waiting, "not asked about"),
    )
    parts = [f"{count:,} {what}" for count, what in others if count]
    return [f"{'; '.join([words, *parts])}.", *_check_words(judged.check)]


def _check_words(check: JudgeCheck | None) -> list[str]:
    if not check:
        return []
    table = check.table
    if not table.count:
        asked = counted(check.samples, "answer")
        return [f"Of {asked} that the rules decided the judge gave no verdict that can be read."]
    kappa = "not defined" if check.kappa is None else f"{check.kappa:.2f}"
    left = check.unreadable + check.failed
    return [
        f"On {counted(table.count, 'answer')} that the rules decided it agrees with them in"
        f" {percent(check.agreement)}% (Cohen's kappa {kappa}): both right {table.both_right:,},"
        f" only the rules {table.rules_only:,}, only the judge {table.judge_only:,}, both wrong"
        f" {table.both_wrong:,}{f'; {left:,} without a verdict' if left else ''}."
    ]


def doubt_words(judged: JudgeSummary | None, of: str = "") -> list[str]:
    """A warning where a judge's verdicts are not to be trusted.

    One line; empty where nothing speaks against it.

    Args:
        judged: As for `judge_words`.
        of: The run, where there are several.
    """
    if not judged or not judged.judge:
        return []
    check = judged.check
    table = check.table if check else JudgeTable()
    right = judged.consistent + table.both_right + table.judge_only
    wrong = judged.different + table.both_wrong + table.rules_only
    who = f"{of}: the judge" if of else "The judge"
    settled = judged.consistent + judged.different
    rest = "another --judge may do better."
    if settled:
        rest = f"do not trust the {counted(settled, 'verdict')} on what rules leave open; {rest}"
    if right + wrong >= ENOUGH and not (right and wrong):
        only = "right" if right else "wrong"
        return [
            f"{who} called all {right + wrong:,} answers {only}, so nothing shows that it can tell:"
            f" {rest}"
        ]
    kappa = check.kappa if check else None
    if kappa is None or kappa >= POOR_KAPPA or table.count < ENOUGH:
        return []
    return [
        f"{who} hardly agrees with the rules on {table.count:,} answers that these decided (Cohen's"
        f" kappa {kappa:.2f}; 0 is chance): {rest}"
    ]
