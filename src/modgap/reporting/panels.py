"""What the charts of a page show: rows of numbers and words, with their scale, for the macros of charts.html.jinja."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modgap.analysis.reading import KINDS
from modgap.analysis.results import GapSummary, SeedTable, Summary, TypeGap
from modgap.analysis.seeds import SeedsChange
from modgap.core.text import interval, percent, signed
from modgap.reporting import tables as t
from modgap.reporting.charts import scale
from modgap.reporting.words import reading_words


def accuracies(runs: Mapping[str, Summary]) -> dict[str, Any]:
    """Both sides of each run on one line."""
    rows: list[dict[str, Any]] = []
    for name, summary in runs.items():
        gap = summary.gap
        if gap:
            text = _side("text-centric", gap.text_accuracy, gap.text_ci_low, gap.text_ci_high)
            vision = _side("vision-centric", gap.vision_accuracy, gap.vision_ci_low, gap.vision_ci_high)
            rows.append({"name": name, "text": text, "vision": vision})
    highs = [row[side]["high"] for row in rows for side in ("text", "vision")]
    return {"rows": rows, "scale": scale(highs, hi=100.0)}


def _side(words: str, value: float, low: float, high: float) -> dict[str, Any]:
    """The mark of one side: `value` is a share, the places on the axis are in percent."""
    label = f"{words} {percent(value)} percent, 95% interval {interval(low, high, 100)}"
    return {"value": value, "at": 100 * value, "low": 100 * low, "high": 100 * high, "label": label}


def seeds(table: SeedTable) -> dict[str, Any]:
    """A table over seeds: both sides of each recipe, and the change of its gap, with a dot for each seed."""
    sides: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    for row in table.rows:
        marks: dict[str, Any] = {"name": row.recipe}
        for side, words, of_side in (("text", "text-centric", row.text), ("vision", "vision-centric", row.vision)):
            dots = [100 * value for value in of_side.seeds] if len(row.seeds) > 1 else []
            marks[side] = _side(words, of_side.value, of_side.ci_low, of_side.ci_high) | {"dots": dots}
        sides.append(marks)
        if row.change:
            change = row.change.gap
            dots = list(change.seeds) if len(change.seeds) > 1 else []
            changes.append(_forest_row(row.recipe, change.value, change) | {"dots": dots})
    highs = [high for row in sides for side in ("text", "vision") for high in (row[side]["high"], *row[side]["dots"])]
    ends = [end for row in changes for end in (row["low"], row["high"], *row["dots"])]
    return {
        "sides": {"rows": sides, "scale": scale(highs, hi=100.0)},
        "changes": {"rows": changes, "scale": scale(ends)} if changes else None,
    }


def _forest_row(name: str, value: float, ends: GapSummary | TypeGap | SeedsChange, note: str = "") -> dict[str, Any]:
    """A value in points with the interval that it has in `ends`."""
    spread = interval(ends.ci_low, ends.ci_high)
    return {
        "name": name,
        "note": note,
        "value": value,
        "low": ends.ci_low,
        "high": ends.ci_high,
        "shown": signed(value),
        "range": spread,
        "label": f"{signed(value)} points, 95% interval {spread}",
    }


def _forest(rows: list[dict[str, Any]], **axis: Any) -> dict[str, Any]:
    return {"rows": rows, "scale": scale((row[key] for row in rows for key in ("low", "high")), **axis)}


def gaps(runs: Mapping[str, Summary]) -> dict[str, Any]:
    """The gap of each run."""
    gaps = {name: summary.gap for name, summary in runs.items() if summary.gap}
    return _forest([_forest_row(name, gap.points, gap) for name, gap in gaps.items()])


def types(runs: Mapping[str, Summary]) -> list[dict[str, Any]]:
    """The gap of each problem type, run by run."""
    parts = []
    for name, summary in runs.items():
        if len(summary.types) > 1:
            rows = [_forest_row(row.type or "(none)", row.points, row, _type_note(row)) for row in summary.types]
            parts.append({"name": name, "table": t.type_table(summary).html(), **_forest(rows)})
    return parts


def _type_note(row: TypeGap) -> str:
    many = f"{row.n_problems} problem{'s' if row.n_problems > 1 else ''}"
    return f"{many}, text {percent(row.text_accuracy)}, image {percent(row.vision_accuracy)}"


def pairs(runs: Mapping[str, Summary]) -> list[dict[str, Any]]:
    """Problems by outcome in both views, with the rates that follow, run by run."""
    parts = []
    for name, summary in runs.items():
        gap = summary.gap
        if gap:
            rates: list[str] = []
            for a, b, rate in (
                ("image", "text", gap.p_vision_given_text), ("text", "image", gap.p_text_given_vision),
            ):  # fmt: skip
                if rate is not None:
                    rates.append(f"P({a} right | {b} right) = {percent(rate)}%")
            relative = [f"relative gap {percent(gap.relative)}%"] if gap.relative is not None else []
            sentence = "; ".join([*rates, *relative, f"McNemar p {t.p_text(gap.p_value)}"]) + "."
            parts.append({"name": name, "table": gap.table, "sentence": sentence})
    return parts


def lengths(runs: Mapping[str, Summary]) -> dict[str, Any] | None:
    """Lengths and truncation of each view of each run; `None` where there is no response."""
    rows: list[dict[str, Any]] = []
    cut: list[dict[str, Any]] = []
    for name, summary in runs.items():
        for view, row in summary.views.items():
            if not row.n_samples:
                continue
            colour = {"text": "c0", "vision": "c1"}.get(row.side, "c2")
            tokens = row.completion_tokens
            low, middle, high = tokens.p10, tokens.p50, tokens.p90
            base = {"name": name, "note": f"{view} view", "colour": colour}
            words = f"{low:.0f} to {high:.0f}"
            rows.append(
                base
                | {"value": middle, "low": low, "high": high, "shown": f"{middle:.0f}", "range": words}
                | {"label": f"median {middle:.0f} tokens, 10th to 90th percentile {words}"}
            )
            share = 100 * (row.truncation_rate or 0.0)
            cut.append(
                base
                | {"value": share, "low": 0.0, "high": share, "shown": f"{share:.1f}"}
                | {"range": f"{row.truncated} of {row.n_samples}", "label": f"{share:.1f} percent cut"}
            )
    if not rows:
        return None
    ends = _forest(cut, hi=100.0)
    return {**_forest(rows), "cut": ends["rows"], "cut_scale": ends["scale"]}


def readings(runs: Mapping[str, Summary]) -> list[dict[str, Any]]:
    """How problems were read, as bars of 100 percent, run by run."""
    parts: list[dict[str, Any]] = []
    for name, summary in runs.items():
        reading = summary.reading
        if not reading:
            continue
        rows: list[dict[str, Any]] = []
        for part, words in ((reading, "lost in the image"), (reading.solved, "solved in both views")):
            if not part.n_problems:
                continue
            numbers = part.values.misread
            counts = (numbers, part.misread - numbers, part.read_right, part.unreadable)
            pieces: list[dict[str, Any]] = []
            start = 0.0
            for (kind, label), count in zip(KINDS.items(), counts, strict=True):
                share = 100 * count / part.n_problems
                pieces.append(
                    {"kind": kind, "count": count, "start": start, "share": share, "label": f"{count} {label}"}
                )
                start += share
            label = "; ".join(piece["label"] for piece in pieces)
            rows.append({"name": words, "n": part.n_problems, "pieces": pieces, "label": label})
        parts.append({"name": name, "source": reading.source, "rows": rows, "sentence": reading_words(reading)[0]})
    return parts
