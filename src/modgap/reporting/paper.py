"""A report's numbers in the shape of the paper's tables.

Accuracy of each view and the gap, by model size and recipe.

There is a row for each recipe of the paper; a cell that no run of this report fills is an em dash.
The recipe and the size of a run are taken from its name and from the model's name, never from its
numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from modgap.analysis.results import ReportSummary, Summary, ViewSummary
from modgap.core import registry
from modgap.core.text import interval, percent, signed
from modgap.reporting import tables as t

RECIPES = {
    "base": "no training",
    "full-text": "full-text",
    "no-text": "no-text",
    "mix": "mix",
    "curriculum": "curriculum",
    "kl": "KL",
    "kl-curriculum": "KL + curriculum",
}
"""The paper's recipes in its order."""
VERSIONS = {
    "text-dominant": "Text Dominant",
    "text-lite": "Text Lite",
    "vision-intensive": "Vision Intensive",
    "vision-dominant": "Vision Dominant",
    "vision-only": "Vision Only",
}
"""MathVerse's versions, text-centric first."""
EMPTY = "—"
Place = tuple[str, str, str]
"""The place of a run in a table: model, recipe, and its own name."""
_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d{1,3}(?:\.\d+)?)\s?[bB](?![A-Za-z0-9])")


def model_size(model: str) -> str | None:
    """The size in a model's name.

    For example, `7B` of `Qwen/Qwen2.5-VL-7B-Instruct` and of `qwen2_5_vl_7b_kl`.
    """
    sizes = _SIZE.findall(re.sub(r"[_/-]", " ", model))
    return f"{sizes[-1]}B" if sizes else None


def told_recipe(name: str, model: str) -> str | None:
    """The recipe named in a run's or a model's name; `None` if there is none.

    Where a name holds several, it is the longest.

    Recipes that are not the paper's are recognised, too: `kl-forward` is not `kl`.
    """
    for text in (name, model):
        words = re.sub(r"[^a-z]+", "-", text.lower())
        known = [*RECIPES, *(recipe for recipe in registry.RECIPES if recipe not in RECIPES)]
        found = [recipe for recipe in known if re.search(rf"(?:^|-){recipe}(?:-|$)", words)]
        if found:
            return max(found, key=len)
    return None


def paper_tables(numbers: ReportSummary) -> list[t.Table]:
    """The paper's tables, filled with what the runs have.

    Args:
        numbers: Of the report.

    Returns:
        PGPS9K (text-centric and vision-centric view, gap and relative gap) and MathVerse by
        version: each if a run is of its kind, the first also if there is no run at all.
    """
    runs = _placed(numbers)
    mathverse = {key: summary for key, summary in runs.items() if _versions(summary)}
    others = {key: summary for key, summary in runs.items() if key not in mathverse}
    tables = [_views(others)] if others or not mathverse else []
    return [*tables, _mathverse(mathverse)] if mathverse else tables


def _placed(numbers: ReportSummary) -> dict[Place, Summary]:
    """Model, recipe and run -> summary.

    A run whose names hold no recipe is the base of its model if that has no other.
    """
    placed: dict[Place, Summary] = {}
    taken = {
        (
            _model(numbers, name),
            told_recipe(name, numbers.models.get(name, "")),
            bool(_versions(summary)),
        )
        for name, summary in numbers.runs.items()
    }
    for name, summary in numbers.runs.items():
        model = _model(numbers, name)
        recipe = told_recipe(name, numbers.models.get(name, ""))
        base = (model, "base", bool(_versions(summary)))  # of each benchmark one
        if recipe is None and base not in taken:
            recipe = "base"
            taken.add(base)
        placed[model, recipe or name, name] = summary
    return placed


def _model(numbers: ReportSummary, name: str) -> str:
    model = numbers.models.get(name, "")
    return model_size(model) or model_size(name) or model.rstrip("/").rsplit("/", 1)[-1] or "model"


def _rows(
    runs: Mapping[Place, Summary], cells: Callable[[Summary | None], tuple[str, ...]]
) -> tuple[tuple[str, ...], ...]:
    """A row for each of the paper's recipes and then for each other run.

    Models are in order of size, the smallest first.
    """
    models = sorted(dict.fromkeys(model for model, _, _ in runs), key=_order)
    rows: list[tuple[str, ...]] = []
    for model in models:
        of_model: dict[str, list[tuple[str, Summary]]] = {}
        for (other, recipe, name), summary in runs.items():
            if other == model:
                of_model.setdefault(recipe, []).append((name, summary))
        for recipe in [*RECIPES, *(recipe for recipe in of_model if recipe not in RECIPES)]:
            found = of_model.get(recipe, [])
            words = RECIPES.get(recipe, recipe)
            for name, summary in found:
                rows.append(
                    (model, f"{words} ({name})" if len(found) > 1 else words, *cells(summary))
                )
            if not found:
                rows.append((model, words, *cells(None)))
    return tuple(rows)


def _order(model: str) -> tuple[float, str]:
    return (float(model[:-1]) if model_size(model) == model else 0.0, model)


def _views(runs: Mapping[Place, Summary]) -> t.Table:
    def cells(summary: Summary | None) -> tuple[str, ...]:
        gap = summary.gap if summary else None
        if not gap:
            return (EMPTY,) * 5
        return (
            percent(gap.text_accuracy),
            percent(gap.vision_accuracy),
            signed(gap.points),
            interval(gap.ci_low, gap.ci_high),
            _known(percent(gap.relative)),
        )

    head = (
        "model",
        "recipe",
        "text-centric %",
        "vision-centric %",
        "gap",
        "95% interval",
        "relative gap %",
    )
    return t.Table(
        "Accuracy of both views and the gap, by model and recipe", head, _rows(runs, cells), left=2
    )


def _versions(summary: Summary) -> dict[str, ViewSummary]:
    """MathVerse's versions among the views of a run."""
    named = {re.sub(r"[ _]", "-", view.lower()): row for view, row in summary.views.items()}
    return {version: named[version] for version in VERSIONS if version in named}


def _mathverse(runs: Mapping[Place, Summary]) -> t.Table:
    def cells(summary: Summary | None) -> tuple[str, ...]:
        rows = _versions(summary) if summary else {}
        gap = summary.gap if summary and rows else None
        return (
            *(
                _known(percent(rows[version].accuracy)) if version in rows else EMPTY
                for version in VERSIONS
            ),
            signed(gap.points) if gap else EMPTY,
        )

    head = ("model", "recipe", *VERSIONS.values(), "gap")
    return t.Table("MathVerse, accuracy by version in percent", head, _rows(runs, cells), left=2)


def _known(text: str) -> str:
    return EMPTY if text == "–" else text
