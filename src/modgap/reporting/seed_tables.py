"""The table over seeds as cells, sentences and a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence

from modgap.analysis.results import SeedRow, SeedTable
from modgap.analysis.seeds import SeedsChange
from modgap.core.text import counted, interval, percent, signed
from modgap.reporting import tables as t

CERTAIN = 0.05
"""A corrected p-value below it marks a change."""
READING = (
    "Means over the seeds of a recipe. Every interval is for other problems and other seeds;"
    " p-values are corrected over the recipes (Holm), and * is below 0.05. Training time is that of"
    " the steps, all stages counted."
)
"""How to read the tables."""


def seed_tables(table: SeedTable) -> dict[str, t.Table]:
    """The tables of one table over seeds: `seeds`, `seeds-views` and `seeds-controls`.

    Those without rows are left out.
    """
    tables = {
        "seeds": _main_table(table),
        "seeds-views": _views_table(table),
        "seeds-controls": _control(table),
    }
    return {name: table for name, table in tables.items() if table.rows}


def _main_table(table: SeedTable) -> t.Table:
    unit, factor = _unit(table.rows)
    rows: list[tuple[str, ...]] = []
    for row in table.rows:
        # What the base model does not have is a dash.
        seeds, steps, seconds = "–", "–", "–"
        if row.steps is not None and row.seconds is not None:
            digits = 0 if unit == "s" else 1
            seeds, steps, seconds = (
                str(len(row.seeds)),
                f"{row.steps:.0f}",
                f"{row.seconds / factor:.{digits}f}",
            )
        rows.append(
            (
                row.recipe,
                seeds,
                steps,
                seconds,
                percent(row.text.value),
                percent(row.vision.value),
                signed(row.gap.value),
                interval(row.gap.ci_low, row.gap.ci_high),
                "–" if row.gap.sd is None else f"{row.gap.sd:.1f}",
                *(_changed(row.change.gap) if row.change else ("–", "–", "–")),
            )
        )
    head = (
        "recipe", "seeds", "steps", f"training {unit}", "text %", "image %", "gap",
        "95% interval", "sd of seeds", "change", "95% interval", "p (Holm)",
    )  # fmt: skip
    graded = f", graded {table.mode}" if table.mode else ""
    caption = (
        f"Over seeds: mean accuracy, gap and its change against {table.model or 'the base model'},"
        f" in points; {counted(table.n_problems, 'problem')}, {counted(table.samples, 'sample')} a"
        f" view{graded}"
    )
    return t.Table(caption, head, tuple(rows))


def narrow_table(table: SeedTable) -> t.Table:
    """The main table for a terminal of 80 columns."""
    rows: list[tuple[str, ...]] = []
    for row in table.rows:
        points, spread, p_value = _changed(row.change.gap) if row.change else ("–", "", "–")
        rows.append(
            (
                row.recipe,
                str(len(row.seeds) or "–"),
                percent(row.text.value),
                percent(row.vision.value),
                signed(row.gap.value),
                f"{points} ({spread})" if spread else points,
                p_value,
            )
        )
    head = ("recipe", "seeds", "text", "image", "gap", "change (95% interval)", "p")
    return t.Table(
        "Over seeds: accuracy in percent, gap and its change in points; * p (Holm) < 0.05",
        head,
        tuple(rows),
    )


def _views_table(table: SeedTable) -> t.Table:
    rows = [
        (row.recipe, *_changed(row.change.text), *_changed(row.change.vision))
        for row in table.rows
        if row.change
    ]
    head = ("recipe", "text", "95% interval", "p (Holm)", "image", "95% interval", "p (Holm)")
    return t.Table(
        "Over seeds: change of accuracy in each view against the base model, in points",
        head,
        tuple(rows),
    )


def _control(table: SeedTable) -> t.Table:
    rows = [
        (
            row.recipe,
            row.control,
            str(len(row.seeds)),
            *_changed(row.change.gap),
            signed(row.change.text.value),
            signed(row.change.vision.value),
        )
        for row in table.controls
    ]
    head = ("recipe", "control", "seeds", "gap", "95% interval", "p (Holm)", "text", "image")
    caption = (
        "What the terms beside the policy loss do: each recipe minus the same one without them, or"
        " minus the first one with other terms, seed by seed, in points"
    )
    return t.Table(caption, head, tuple(rows), left=2)


def _changed(change: SeedsChange) -> tuple[str, str, str]:
    """Points, interval, p; a star where the corrected p-value is below 0.05."""
    star = "*" if change.p_holm < CERTAIN else ""
    return (
        signed(change.value),
        interval(change.ci_low, change.ci_high),
        t.p_text(change.p_holm) + star,
    )


def _unit(rows: Sequence[SeedRow]) -> tuple[str, float]:
    longest = max((row.seconds or 0.0 for row in rows), default=0.0)
    return ("s", 1.0) if longest < 600 else ("min", 60.0) if longest < 7200 else ("h", 3600.0)


# Words


def seed_words(table: SeedTable) -> list[str]:
    """What the table says, in sentences: which changes are certain, and what they cost."""
    changed = [(row, row.change) for row in table.rows if row.change]
    if not changed:
        return []
    certain = [(row, change) for row, change in changed if change.gap.p_holm < CERTAIN]
    words: list[str] = []
    for kind, sign in (("smaller", -1), ("larger", 1)):
        named = [_named(row, change.gap) for row, change in certain if sign * change.gap.value > 0]
        if named:
            words.append(
                f"The gap is {kind} than the base model's beyond chance after {', '.join(named)}."
            )
    others = len(changed) - len(certain)
    if not certain:
        words.append(
            f"No change of the gap is beyond chance, over {len(changed)}"
            f" recipe{'s' if len(changed) > 1 else ''}."
        )
    elif others:
        words.append(f"For the other {others} the change of the gap may be chance.")
    paid = [
        row.recipe for row, change in certain if change.gap.value < 0 and change.text.value <= -1
    ]
    if paid:
        words.append(
            f"Mind that text accuracy fell after {', '.join(paid)}: part of a smaller gap can be"
            " lost text."
        )
    pooled = [
        f"{row.recipe} ({t.p_text(change.gap.p_pooled)})"
        for row, change in changed
        if change.gap.p_pooled < CERTAIN <= change.gap.p_holm
    ]
    if pooled:
        words.append(
            "If the seeds of all recipes spread alike, it is beyond chance after"
            f" {', '.join(pooled)}, too."
        )
    for row in table.controls:
        change = row.change.gap
        verdict = "is beyond chance" if change.p_holm < CERTAIN else "may be chance"
        what = "The further term" if row.kind == "without" else "What is different in that term"
        words.append(
            f"{what} of {row.recipe} changes the gap by {signed(change.value)} points against "
            f"{row.control} ({_spread(change)}), which {verdict}."
        )
    return words


def _named(row: SeedRow, change: SeedsChange) -> str:
    return f"{row.recipe} ({signed(change.value)} points, {_spread(change)})"


def _spread(change: SeedsChange) -> str:
    return f"95% interval {interval(change.ci_low, change.ci_high)}"


def as_markdown(every: Sequence[SeedTable], source: str) -> str:
    """All tables over seeds as a Markdown page, with the command that makes them.

    Args:
        every: The tables over seeds.
        source: What the report is made of, as the command line has it.
    """
    command = f"modgap report {t.one_cell(source)} --out report.html --figures"
    parts = [
        "<!-- Generated; do not edit. -->\n",
        f"Made by `{command}` (it is `report_figures/seeds.md`):\n",
    ]
    for table in every:
        parts.append(t.as_markdown(seed_tables(table).values()))
        parts.append(
            "".join(f"- {t.one_cell(words)}\n" for words in [*seed_words(table), *table.notes])
        )
    return "\n".join([*parts, f"{READING}\n"])
