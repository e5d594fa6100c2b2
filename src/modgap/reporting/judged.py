"""What a judge did in each run, as tables and in words: its verdicts, and how far they agree with the rules'.

The numbers are those of `judge_stage`. The rules are the better grader where they decide, so a judge that hardly agrees
with them there, or that says the same of everything, is no judge of the rest: both draw a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modgap.core.record import GradeRow, read_json
from modgap.grading.judge import is_open
from modgap.grading.symbolic import SKIPPED
from modgap.reporting import tables as t
from modgap.reporting.collect import EvalRun

POOR_KAPPA = 0.4
"""Agreement with the rules below it draws a warning: fair at best by the usual reading (Landis and Koch, 1977)."""
ENOUGH = 20
"""From so many verdicts on a judge is judged."""
_CELLS = ("both_right", "rules_only", "judge_only", "both_wrong")


def judged(run: EvalRun) -> dict[str, Any] | None:
    """What a run's summary.json says of a judge; `None` where it is of another grading, or of none."""
    path = run.path / "summary.json"
    summary: dict[str, Any] = read_json(path) if path.is_file() else {}
    return summary.get("judge") if summary.get("mode") == run.mode else None


def judge_tables(runs: Mapping[str, Mapping[str, Any]]) -> list[t.Table]:
    """The verdicts on what rules leave open, and the judge against the rules; none where no judge was asked."""
    told = {name: run["judge"] for name, run in runs.items() if run.get("judge") and run["judge"]["judge"]}
    if not told:
        return []
    verdicts = tuple(
        (name, row["judge"], *(f"{row[key]:,}" for key in ("samples", "consistent", "different", "unreadable")),
         f"{row['failed'] + row['waiting']:,}")
        for name, row in told.items()
    )  # fmt: skip
    head = ("run", "judge", "left open by rules", "right", "wrong", "unreadable", "no verdict")
    tables = [t.Table("What the judge made of the samples that rules cannot compare", head, verdicts, left=2)]
    checks = {name: row["check"] for name, row in told.items() if row["check"]}
    rows = tuple(
        (name, *(f"{check['table'][cell]:,}" for cell in _CELLS), f"{check['unreadable'] + check['failed']:,}",
         t.percent(check["agreement"]), "–" if check["kappa"] is None else f"{check['kappa']:.2f}")
        for name, check in checks.items()
    )  # fmt: skip
    if rows:
        head = ("run", "both right", "only the rules", "only the judge", "both wrong", "no verdict", "agree %", "kappa")
        tables.append(t.Table("The judge against the rules, on answers that the rules decided", head, rows))
    return tables


def open_words(grades: Iterable[GradeRow]) -> list[str]:
    """What waits for a judge, and how to settle it: one line, none where nothing waits."""
    waiting = [row.reason for row in grades if is_open(row.stage, row.reason)]
    if not waiting:
        return []
    words = (
        f"{t.counted(len(waiting), 'sample')} {'wait' if len(waiting) != 1 else 'waits'} for a judge and "
        f"{'count as errors' if len(waiting) != 1 else 'counts as an error'}: modgap grade RUN --judge MODEL_OR_URL "
        f"settles {'them' if len(waiting) != 1 else 'it'}."
    )
    skipped = sum(SKIPPED in reason for reason in waiting)
    return [f"{words} {skipped:,} of them may need none: {SKIPPED} first." if skipped else words]


def judge_words(judged: Mapping[str, Any] | None) -> list[str]:
    """What a judge did, from summary.json's `judge`; none where no judge was asked."""
    if not judged or not judged["judge"]:
        return []
    words = (
        f"Judge {judged['judge']}: of {t.counted(judged['samples'], 'sample')} that rules leave open "
        f"{judged['consistent']:,} right and {judged['different']:,} wrong"
    )
    parts = [
        f"{judged[kind]:,} {what}"
        for kind, what in (
            ("unreadable", "with a verdict that cannot be read"),
            ("failed", "failed, which the same command asks again"),
            ("waiting", "not asked about"),
        )
        if judged[kind]
    ]
    return [f"{'; '.join([words, *parts])}.", *_check_words(judged["check"])]


def _check_words(check: Mapping[str, Any] | None) -> list[str]:
    if not check:
        return []
    table = check["table"]
    count = sum(table.values())
    if not count:
        asked = t.counted(check["samples"], "answer")
        return [f"Of {asked} that the rules decided the judge gave no verdict that can be read."]
    kappa = "not defined" if check["kappa"] is None else f"{check['kappa']:.2f}"
    left = check["unreadable"] + check["failed"]
    return [
        f"On {t.counted(count, 'answer')} that the rules decided it agrees with them in "
        f"{t.percent(check['agreement'])}% (Cohen's kappa {kappa}): both right {table['both_right']:,}, only the rules "
        f"{table['rules_only']:,}, only the judge {table['judge_only']:,}, both wrong {table['both_wrong']:,}"
        f"{f'; {left:,} without a verdict' if left else ''}."
    ]


def doubt_words(judged: Mapping[str, Any] | None, of: str = "") -> list[str]:
    """A warning where a judge's verdicts are not to be trusted: one line, none where nothing speaks against it.

    Args:
        judged: As for `judge_words`.
        of: The run, where there are several.
    """
    if not judged or not judged["judge"]:
        return []
    table = (judged["check"] or {}).get("table") or dict.fromkeys(_CELLS, 0)
    right = judged["consistent"] + table["both_right"] + table["judge_only"]
    wrong = judged["different"] + table["both_wrong"] + table["rules_only"]
    who = f"{of}: the judge" if of else "The judge"
    settled = judged["consistent"] + judged["different"]
    rest = f"do not trust the {settled:,} verdicts on what rules leave open; " if settled else ""
    rest += "another --judge may do better."
    if right + wrong >= ENOUGH and not (right and wrong):
        only = "right" if right else "wrong"
        return [f"{who} called all {right + wrong:,} answers {only}, so nothing shows that it can tell: {rest}"]
    kappa, count = (judged["check"] or {}).get("kappa"), sum(table.values())
    if kappa is None or kappa >= POOR_KAPPA or count < ENOUGH:
        return []
    return [
        f"{who} hardly agrees with the rules on {count:,} answers that these decided (Cohen's kappa {kappa:.2f}; 0 is "
        f"chance): {rest}"
    ]
