"""What a judge did in each run, as tables: its verdicts, and how far they agree with the rules' (see `judge_stage`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modgap.core.record import read_json
from modgap.report import tables as t
from modgap.report.collect import EvalRun

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
