"""The table over seeds as cells, sentences and a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modgap.reporting import tables as t

CERTAIN = 0.05
"""A corrected p-value below it marks a change."""
READING = (
    "Means over the seeds of a recipe. Every interval is for other problems and other seeds; p-values are corrected "
    "over the recipes (Holm), and * is below 0.05. Training time is that of the steps, all stages counted."
)
"""How to read the tables."""


def seed_tables(numbers: Mapping[str, Any]) -> dict[str, t.Table]:
    """The tables of one `seed_numbers`: `seeds`, `seeds-views` and `seeds-controls`; those that it has."""
    tables = {"seeds": _main_table(numbers), "seeds-views": _views_table(numbers), "seeds-controls": _control(numbers)}
    return {name: table for name, table in tables.items() if table.rows}


def _main_table(numbers: Mapping[str, Any]) -> t.Table:
    unit, factor = _unit(numbers["rows"])
    rows: list[tuple[str, ...]] = []
    for row in numbers["rows"]:
        change, trained = row["change"], row["seconds"] is not None
        rows.append(
            (
                row["recipe"],
                str(len(row["seeds"])) if trained else "–",
                f"{row['steps']:.0f}" if trained else "–",
                f"{row['seconds'] / factor:.{0 if unit == 's' else 1}f}" if trained else "–",
                t.percent(row["text"]["value"]),
                t.percent(row["vision"]["value"]),
                t.signed(row["gap"]["value"]),
                t.interval(row["gap"]["ci_low"], row["gap"]["ci_high"]),
                "–" if row["gap"]["sd"] is None else f"{row['gap']['sd']:.1f}",
                *(_changed(change["gap"]) if change else ("–", "–", "–")),
            )
        )
    head = (
        "recipe", "seeds", "steps", f"training {unit}", "text %", "image %", "gap", "95% interval", "sd of seeds",
        "change", "95% interval", "p (Holm)",
    )  # fmt: skip
    graded = f", graded {numbers['mode']}" if numbers["mode"] else ""
    caption = (
        f"Over seeds: mean accuracy, gap and its change against {numbers['model'] or 'the base model'}, in points; "
        f"{numbers['n_problems']:,} problems, {numbers['samples']} samples a view{graded}"
    )
    return t.Table(caption, head, tuple(rows))


def narrow_table(numbers: Mapping[str, Any]) -> t.Table:
    """The main table for a terminal of 80 columns."""
    rows: list[tuple[str, ...]] = []
    for row in numbers["rows"]:
        points, spread, p_value = _changed(row["change"]["gap"]) if row["change"] else ("–", "", "–")
        rows.append(
            (
                row["recipe"],
                str(len(row["seeds"]) or "–"),
                *(t.percent(row[side]["value"]) for side in ("text", "vision")),
                t.signed(row["gap"]["value"]),
                f"{points} ({spread})" if spread else points,
                p_value,
            )
        )
    head = ("recipe", "seeds", "text", "image", "gap", "change (95% interval)", "p")
    return t.Table(
        "Over seeds: accuracy in percent, gap and its change in points; * p (Holm) < 0.05", head, tuple(rows)
    )


def _views_table(numbers: Mapping[str, Any]) -> t.Table:
    rows = [
        (row["recipe"], *_changed(row["change"]["text"]), *_changed(row["change"]["vision"]))
        for row in numbers["rows"]
        if row["change"]
    ]
    head = ("recipe", "text", "95% interval", "p (Holm)", "image", "95% interval", "p (Holm)")
    return t.Table("Over seeds: change of accuracy in each view against the base model, in points", head, tuple(rows))


def _control(numbers: Mapping[str, Any]) -> t.Table:
    rows = [
        (
            row["recipe"],
            row["control"],
            str(len(row["seeds"])),
            *_changed(row["change"]["gap"]),
            t.signed(row["change"]["text"]["value"]),
            t.signed(row["change"]["vision"]["value"]),
        )
        for row in numbers["controls"]
    ]
    head = ("recipe", "control", "seeds", "gap", "95% interval", "p (Holm)", "text", "image")
    caption = (
        "What the contrastive term does: each recipe minus the same one without it, or minus the first one with "
        "another term, seed by seed, in points"
    )
    return t.Table(caption, head, tuple(rows), left=2)


def _changed(change: Mapping[str, Any]) -> tuple[str, str, str]:
    """Points, interval, p; a star where the corrected p-value is below 0.05."""
    star = "*" if change["p_holm"] < CERTAIN else ""
    return (
        t.signed(change["value"]),
        t.interval(change["ci_low"], change["ci_high"]),
        t.p_text(change["p_holm"]) + star,
    )


def _unit(rows: Sequence[Mapping[str, Any]]) -> tuple[str, float]:
    longest = max((row["seconds"] or 0.0 for row in rows), default=0.0)
    return ("s", 1.0) if longest < 600 else ("min", 60.0) if longest < 7200 else ("h", 3600.0)


# Words


def seed_words(numbers: Mapping[str, Any]) -> list[str]:
    """What the table says, in sentences: which changes are certain, and what is paid for them."""
    changed = [row for row in numbers["rows"] if row["change"]]
    if not changed:
        return []
    certain = [row for row in changed if row["change"]["gap"]["p_holm"] < CERTAIN]
    words: list[str] = []
    for kind, sign in (("smaller", -1), ("larger", 1)):
        rows = [row for row in certain if sign * row["change"]["gap"]["value"] > 0]
        if rows:
            named = ", ".join(_named(row) for row in rows)
            words.append(f"The gap is {kind} than the base model's beyond chance after {named}.")
    others = len(changed) - len(certain)
    if not certain:
        words.append(
            f"No change of the gap is beyond chance, over {len(changed)} recipe{'s' if len(changed) > 1 else ''}."
        )
    elif others:
        words.append(f"For the other {others} the change of the gap may be chance.")
    paid = [
        row["recipe"] for row in certain if row["change"]["gap"]["value"] < 0 and row["change"]["text"]["value"] <= -1
    ]
    if paid:
        words.append(f"Mind that text accuracy fell after {', '.join(paid)}: part of a smaller gap can be lost text.")
    pooled = [
        f"{row['recipe']} ({t.p_text(row['change']['gap']['p_pooled'])})"
        for row in changed
        if row["change"]["gap"]["p_pooled"] < CERTAIN <= row["change"]["gap"]["p_holm"]
    ]
    if pooled:
        words.append(f"If the seeds of all recipes spread alike, it is beyond chance after {', '.join(pooled)}, too.")
    for row in numbers["controls"]:
        change = row["change"]["gap"]
        verdict = "is beyond chance" if change["p_holm"] < CERTAIN else "may be chance"
        what = "The contrastive term" if row["kind"] == "without" else "What is different in that term"
        words.append(
            f"{what} of {row['recipe']} changes the gap by {t.signed(change['value'])} points against "
            f"{row['control']} ({_spread(change)}), which {verdict}."
        )
    return words


def _named(row: Mapping[str, Any]) -> str:
    change = row["change"]["gap"]
    return f"{row['recipe']} ({t.signed(change['value'])} points, {_spread(change)})"


def _spread(change: Mapping[str, Any]) -> str:
    return f"95% interval {t.interval(change['ci_low'], change['ci_high'])}"


def as_markdown(every: Sequence[Mapping[str, Any]], source: str) -> str:
    """All tables over seeds as a Markdown page, with the command that makes them.

    Args:
        every: `seed_numbers` of each.
        source: What the report is made of, as the command line has it.
    """
    command = f"modgap report {source} --out report.html --figures"
    parts = ["<!-- Generated; do not edit. -->\n", f"Made by `{command}` (it is `report_figures/seeds.md`):\n"]
    for numbers in every:
        parts.append(t.as_markdown(seed_tables(numbers).values()))
        parts.append("".join(f"- {words}\n" for words in [*seed_words(numbers), *numbers["notes"]]))
    return "\n".join([*parts, f"{READING}\n"])
