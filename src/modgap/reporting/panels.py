"""What the charts of a page show: rows of numbers and words, with their scale, for the macros of charts.html.jinja."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modgap.analysis.reading import KINDS
from modgap.reporting import tables as t
from modgap.reporting.charts import scale
from modgap.reporting.words import reading_words


def accuracies(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Both sides of each run on one line."""
    rows: list[dict[str, Any]] = []
    for name, summary in runs.items():
        gap = summary["gap"]
        if gap:
            sides = {
                side: {
                    "value": gap[f"{side}_accuracy"],
                    "low": gap[f"{side}_ci_low"],
                    "high": gap[f"{side}_ci_high"],
                    "label": f"{words} {t.percent(gap[f'{side}_accuracy'])} percent, 95% interval "
                    f"{t.interval(gap[f'{side}_ci_low'], gap[f'{side}_ci_high'], 100)}",
                }
                for side, words in (("text", "text-centric"), ("vision", "vision-centric"))
            }
            rows.append({"name": name, **sides})
    for row in rows:  # the axis is in percent, the summary in shares
        for side in ("text", "vision"):
            row[side] |= {key: 100 * row[side][key] for key in ("low", "high")} | {"at": 100 * row[side]["value"]}
    highs = [row[side]["high"] for row in rows for side in ("text", "vision")]
    return {"rows": rows, "scale": scale(highs, hi=100.0)}


def seeds(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """A table over seeds: both sides of each recipe, and the change of its gap, with a dot for each seed."""
    sides: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    for row in numbers["rows"]:
        marks = {
            side: {
                "value": row[side]["value"],
                "at": 100 * row[side]["value"],
                "low": 100 * row[side]["ci_low"],
                "high": 100 * row[side]["ci_high"],
                "dots": [100 * value for value in row[side]["seeds"]] if len(row["seeds"]) > 1 else [],
                "label": f"{words} {t.percent(row[side]['value'])} percent, 95% interval "
                f"{t.interval(row[side]['ci_low'], row[side]['ci_high'], 100)}",
            }
            for side, words in (("text", "text-centric"), ("vision", "vision-centric"))
        }
        sides.append({"name": row["recipe"], **marks})
        if row["change"]:
            change = row["change"]["gap"]
            value = {"points": change["value"], "ci_low": change["ci_low"], "ci_high": change["ci_high"]}
            dots = change["seeds"] if len(change["seeds"]) > 1 else []
            changes.append(_forest_row(row["recipe"], value) | {"dots": dots})
    highs = [high for row in sides for side in ("text", "vision") for high in (row[side]["high"], *row[side]["dots"])]
    ends = [end for row in changes for end in (row["low"], row["high"], *row["dots"])]
    return {
        "sides": {"rows": sides, "scale": scale(highs, hi=100.0)},
        "changes": {"rows": changes, "scale": scale(ends)} if changes else None,
    }


def _forest_row(name: str, value: Mapping[str, Any], note: str = "") -> dict[str, Any]:
    spread = t.interval(value["ci_low"], value["ci_high"])
    return {
        "name": name,
        "note": note,
        "value": value["points"],
        "low": value["ci_low"],
        "high": value["ci_high"],
        "shown": t.signed(value["points"]),
        "range": spread,
        "label": f"{t.signed(value['points'])} points, 95% interval {spread}",
    }


def _forest(rows: list[dict[str, Any]], **axis: Any) -> dict[str, Any]:
    return {"rows": rows, "scale": scale((row[key] for row in rows for key in ("low", "high")), **axis)}


def gaps(runs: Mapping[str, Any]) -> dict[str, Any]:
    """The gap of each run."""
    return _forest([_forest_row(name, summary["gap"]) for name, summary in runs.items() if summary["gap"]])


def types(runs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The gap of each problem type, run by run."""
    parts = []
    for name, summary in runs.items():
        if len(summary["types"]) > 1:
            rows = [_forest_row(row["type"] or "(none)", row, _type_note(row)) for row in summary["types"]]
            parts.append({"name": name, "table": t.type_table(summary).html(), **_forest(rows)})
    return parts


def _type_note(row: Mapping[str, Any]) -> str:
    many = f"{row['n_problems']} problem{'s' if row['n_problems'] > 1 else ''}"
    return f"{many}, text {t.percent(row['text_accuracy'])}, image {t.percent(row['vision_accuracy'])}"


def pairs(runs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Problems by outcome in both views, with the rates that follow, run by run."""
    parts = []
    for name, summary in runs.items():
        gap = summary["gap"]
        if gap:
            rates = [
                f"P({a} right | {b} right) = {t.percent(gap[key])}%"
                for a, b, key in (("image", "text", "p_vision_given_text"), ("text", "image", "p_text_given_vision"))
                if gap[key] is not None
            ]
            relative = [f"relative gap {t.percent(gap['relative'])}%"] if gap["relative"] is not None else []
            sentence = "; ".join([*rates, *relative, f"McNemar p {t.p_text(gap['p_value'])}"]) + "."
            parts.append({"name": name, "table": gap["table"], "sentence": sentence})
    return parts


def lengths(runs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lengths and truncation of each view of each run; `None` where there is no response."""
    rows: list[dict[str, Any]] = []
    cut: list[dict[str, Any]] = []
    for name, summary in runs.items():
        for view, row in summary["views"].items():
            if not row["n_samples"]:
                continue
            colour = {"text": "c0", "vision": "c1"}.get(row["side"], "c2")
            low, middle, high = (row["completion_tokens"][key] for key in ("p10", "p50", "p90"))
            base = {"name": name, "note": f"{view} view", "colour": colour}
            words = f"{low:.0f} to {high:.0f}"
            rows.append(
                base
                | {"value": middle, "low": low, "high": high, "shown": f"{middle:.0f}", "range": words}
                | {"label": f"median {middle:.0f} tokens, 10th to 90th percentile {words}"}
            )
            share = 100 * row["truncation_rate"]
            cut.append(
                base
                | {"value": share, "low": 0.0, "high": share, "shown": f"{share:.1f}"}
                | {"range": f"{row['truncated']} of {row['n_samples']}", "label": f"{share:.1f} percent cut"}
            )
    if not rows:
        return None
    ends = _forest(cut, hi=100.0)
    return {**_forest(rows), "cut": ends["rows"], "cut_scale": ends["scale"]}


def readings(runs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How problems were read, as bars of 100 percent, run by run."""
    parts: list[dict[str, Any]] = []
    for name, summary in runs.items():
        reading = summary["reading"]
        if not reading:
            continue
        rows: list[dict[str, Any]] = []
        for part, words in ((reading, "lost in the image"), (reading["solved"], "solved in both views")):
            if not part["n_problems"]:
                continue
            numbers = part["values"]["misread"]
            counts = (numbers, part["misread"] - numbers, part["read_right"], part["unreadable"])
            pieces: list[dict[str, Any]] = []
            start = 0.0
            for (kind, label), count in zip(KINDS.items(), counts, strict=True):
                share = 100 * count / part["n_problems"]
                pieces.append(
                    {"kind": kind, "count": count, "start": start, "share": share, "label": f"{count} {label}"}
                )
                start += share
            label = "; ".join(piece["label"] for piece in pieces)
            rows.append({"name": words, "n": part["n_problems"], "pieces": pieces, "label": label})
        parts.append({"name": name, "source": reading["source"], "rows": rows, "sentence": reading_words(reading)[0]})
    return parts
