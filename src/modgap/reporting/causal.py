"""The causal split of the gap in a report: its words, its table and the rows of its chart."""

from __future__ import annotations

from collections.abc import Mapping

from modgap.analysis.causal import PARTS, VIEWS, WITHOUT_IMAGE
from modgap.analysis.results import CausalSummary, Summary
from modgap.core.text import interval, percent, signed
from modgap.reporting import tables as t
from modgap.reporting.panels import Mark, Part, Row
from modgap.reporting.words import causal_words, shown_parts

LETTERS = dict(zip((*VIEWS, WITHOUT_IMAGE), "TIOCXPN", strict=True))
"""View -> the letter of its accuracy in the formulas of the parts."""
ASSUMES = (
    "The parts add up to the gap. Reading: what the true conditions in the place of those that the"
    " model writes down would change. Writing down first: what the request for that changes."
    " Integration: answers from the picture in spite of the words. Reasoning: answers that follow"
    " the right words and are wrong more often than with the words in the prompt. What words"
    " in the answer change by themselves is measured where the prompt has them, too, and is in none"
    " of the parts. The last two also rest on what a changed number in the words does:"
    " docs/reference/causal.md."
)
MEANINGS = {
    "gap": "T − I: text minus image, over these problems",
    "writing": "O − I: what writing the conditions down first changes",
    "reading": "(C − O) − (P − T): true conditions instead of those that it writes down",
    "integration": "(X / I) × (T − I): answers from the picture in spite of the right words; X / I"
    " is at most 1",
    "reasoning": "P − C − (X / I) × (T − I): follows the right words, and solves less than with the"
    " prompt's",
    "use": "P − C: the right words in its answer, and less solved than with the prompt's",
}


def causal_rows(causal: CausalSummary) -> list[Row]:
    """The gap and its parts in points, with their intervals."""
    rows: list[Row] = []
    for key, part in {"gap": causal.gap, **shown_parts(causal)}.items():
        spread = interval(part.ci_low, part.ci_high)
        label = f"{signed(part.points)} points, 95% interval {spread}"
        share = (
            "" if part.share is None else f"{100 * part.share:.0f}% of the gap".replace("-", "−")
        )
        mark = Mark(part.points, part.ci_low, part.ci_high, label)
        name = "gap" if key == "gap" else PARTS[key]
        rows.append(Row(name, (mark,), signed(part.points), spread, share if key != "gap" else ""))
    return rows


def causal_panels(runs: Mapping[str, Summary]) -> list[Part]:
    """The split of each run in words, and the accuracies that its formulas take."""
    return [
        Part(name, " ".join([*causal_words(summary.causal), _accuracies(summary.causal)]))
        for name, summary in runs.items()
        if summary.causal
    ]


def _accuracies(causal: CausalSummary) -> str:
    """The accuracies over the problems of the split, with their letters."""
    shown = (
        f"{LETTERS[view]} {percent(share)} ({view})" for view, share in causal.accuracies.items()
    )
    return f"Accuracies in percent over these problems: {', '.join(shown)}."


def causal_table(runs: Mapping[str, Summary], *, narrow: bool = False) -> t.Table | None:
    """The parts of each run that has them.

    Args:
        runs: Name -> summary.
        narrow: For a terminal: without what a part tells.
    """
    rows: list[tuple[str, ...]] = []
    for name, summary in runs.items():
        if summary.causal is None:
            continue
        named = {"gap": "gap"} | PARTS
        parts = {"gap": summary.causal.gap, **shown_parts(summary.causal)}
        # The sum of the last two rests on fewer assumptions.
        parts |= {} if "use" in parts or summary.causal.too_few else {"use": summary.causal.use}
        for key, part in parts.items():
            shares = (
                ("–", "–")
                if part.share is None
                else (percent(part.share), interval(part.share_low, part.share_high, 100))
            )
            meaning = () if narrow else (MEANINGS[key],)
            cells = (signed(part.points), interval(part.ci_low, part.ci_high), *shares)
            rows.append((name, named[key], *meaning, *cells))
    if not rows:
        return None
    told = () if narrow else ("what it tells",)
    head = ("run", "part", *told, "points", "95% interval", "% of the gap", "95% interval")
    return t.Table("The gap in parts", head, tuple(rows), left=len(head) - 4)
