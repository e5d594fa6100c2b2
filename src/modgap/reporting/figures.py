"""The charts of a report as PNG and SVG files for papers and slides, drawn with matplotlib (loaded here only)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.reporting.charts import line
from modgap.reporting.curves import MAIN, averaged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT, VISION, INK = "#0a5c9e", "#b84500", "#15202a"
PALETTE = ("#6b5a8e", "#14703f", "#a62a78", "#7a5200", "#00707a", "#50606d", "#a5201a", INK)
_STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#8c9ba7", "axes.grid": True,
    "axes.axisbelow": True, "grid.color": "#d0d9df", "font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "modgap",
}  # fmt: skip


def write_figures(numbers: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every chart that the numbers have as `NAME.png` (200 dpi) and `NAME.svg`.

    Args:
        numbers: As `build_report` returns them.
        folder: Made if need be.

    Returns:
        The files.
    """
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with mpl.rc_context(_STYLE):
        for name, figure in draw(numbers).items():
            for ending in ("png", "svg"):
                path = folder / f"{name}.{ending}"
                metadata = {"Date": None} if ending == "svg" else None
                figure.savefig(path, dpi=200, bbox_inches="tight", metadata=metadata)
                written.append(path)
    return written


def draw(numbers: Mapping[str, Any]) -> dict[str, Figure]:
    """Name -> figure: `accuracy`, `gap`, `types-RUN`, `seeds-accuracy`, `seeds-change`, `training-METRIC`; if there.

    Of a run that is one of several seeds there is no `types-RUN`: it would be a figure for each seed.
    """
    figures: dict[str, Figure] = {}
    runs = {name: summary for name, summary in numbers["runs"].items() if summary["gap"]}
    if runs:
        figures["accuracy"] = _accuracy(runs)
        figures["gap"] = _forest({name: s["gap"] for name, s in runs.items()}, "Gap, text minus image (points)")
    of_seeds = {run for part in numbers["seeds"] for row in part["rows"] if len(row["runs"]) > 1 for run in row["runs"]}
    for name, summary in runs.items():
        if len(summary["types"]) > 1 and name not in of_seeds:
            rows = {f"{row['type'] or '(none)'} ({row['n_problems']})": row for row in summary["types"]}
            figures[f"types-{_file_name(name)}"] = _forest(rows, f"{name}: gap by type (points)")
    for number, part in enumerate(numbers["seeds"], start=1):
        several = f"-{number}" if len(numbers["seeds"]) > 1 else ""
        figures[f"seeds-accuracy{several}"] = _seeds(part["rows"])
        changes = {row["recipe"]: row["change"]["gap"] for row in part["rows"] if row["change"]}
        if changes:
            rows = {name: {**change, "points": change["value"]} for name, change in changes.items()}
            figures[f"seeds-change{several}"] = _forest(rows, "Change of the gap against the base model (points)")
    recipes = averaged(numbers["training"], numbers["seeds"])
    for metric, (title, _) in MAIN.items():
        if any(metric in part["metrics"] for parts in recipes.values() for part in parts):
            figures[f"training-{_file_name(metric)}"] = _curves(recipes, metric, title)
    return figures


def _figure(height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height))  # not pyplot: no display, no global state
    return figure, figure.add_subplot()


def _accuracy(runs: Mapping[str, Any]) -> Figure:
    figure, axes = _figure(1.2 + 0.42 * len(runs))
    for row, summary in enumerate(runs.values()):
        gap = summary["gap"]
        axes.plot([100 * gap["vision_accuracy"], 100 * gap["text_accuracy"]], [row, row], color="#8c9ba7", lw=2)
        for side, colour, marker in (("text", TEXT, "o"), ("vision", VISION, "D")):
            ends = [100 * gap[f"{side}_ci_low"], 100 * gap[f"{side}_ci_high"]]
            axes.plot(ends, [row, row], color=colour, lw=7, alpha=0.25, solid_capstyle="round")
            label = {"text": "text-centric", "vision": "vision-centric"}[side] if row == 0 else None
            axes.plot(100 * gap[f"{side}_accuracy"], row, marker, color=colour, ms=8, ls="", label=label, zorder=3)
    _name_rows(axes, list(runs))
    axes.set_xlim(left=0)
    axes.set_xlabel("Accuracy (%), with 95% intervals")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def _seeds(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Both sides of each recipe: the mean with its interval, and a tick for each seed."""
    figure, axes = _figure(1.2 + 0.42 * len(rows))
    for at, row in enumerate(rows):
        axes.plot([100 * row["vision"]["value"], 100 * row["text"]["value"]], [at, at], color="#8c9ba7", lw=2)
        for side, colour, marker in (("text", TEXT, "o"), ("vision", VISION, "D")):
            value, seeds = row[side], [100 * seed for seed in row[side]["seeds"]]
            ends = [100 * value["ci_low"], 100 * value["ci_high"]]
            axes.plot(ends, [at, at], color=colour, lw=7, alpha=0.25, solid_capstyle="round")
            if len(seeds) > 1:
                axes.plot(seeds, [at] * len(seeds), "|", color=colour, ms=15)
            label = {"text": "text-centric", "vision": "vision-centric"}[side] if at == 0 else None
            axes.plot(100 * value["value"], at, marker, color=colour, ms=8, ls="", label=label, zorder=3)
    _name_rows(axes, [row["recipe"] for row in rows])
    axes.set_xlim(left=0)
    axes.set_xlabel("Accuracy (%), mean over seeds with 95% interval; a tick for each seed")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def _forest(rows: Mapping[str, Any], title: str) -> Figure:
    figure, axes = _figure(1.0 + 0.36 * len(rows))
    for row, value in enumerate(rows.values()):
        axes.plot([value["ci_low"], value["ci_high"]], [row, row], color=INK, lw=2)
        axes.plot(value["points"], row, "o", color=INK, ms=7)
        axes.plot(value.get("seeds", []), [row] * len(value.get("seeds", [])), "|", color=INK, ms=12)
    axes.axvline(0, color="#8c9ba7", lw=1)
    _name_rows(axes, list(rows))
    axes.set_xlabel(f"{title}, with 95% intervals")
    return figure


def _curves(recipes: Mapping[str, Any], metric: str, title: str) -> Figure:
    figure, axes = _figure(3.2)
    for number, (recipe, parts) in enumerate(recipes.items()):
        style = {"color": PALETTE[number % len(PALETTE)], "ls": ("-", "--", ":", "-.")[number // len(PALETTE) % 4]}
        drawn = [line(recipe, number, part["metrics"].get(metric, [])) for part in parts]
        label: str | None = recipe
        for part in (part for part in drawn if part.points):
            if part.smooth != part.points:
                axes.plot(*zip(*part.points, strict=True), color=style["color"], lw=0.8, alpha=0.3)
            marker = "o" if len(part.points) == 1 else ""
            axes.plot(*zip(*part.smooth, strict=True), marker=marker, label=label, **style)
            label = None
    axes.set_xlabel("Step")
    axes.set_ylabel(title)
    axes.legend(frameon=False)
    return figure


def _name_rows(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
