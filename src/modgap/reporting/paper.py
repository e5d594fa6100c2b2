"""A report's numbers in the shape of the paper's tables.

Accuracy of each view and the gap, by model size and recipe.

There is a row for each recipe of the paper; a cell that no run of this report fills is an em dash.
The recipe and the size of a run are taken from its name and from the model's name (`run_names`),
never from its numbers. A run whose names are not understood, or contradict each other, is a row of
its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from modgap.analysis.results import ReportSummary, Summary, ViewSummary
from modgap.core.text import interval, percent, signed
from modgap.reporting import tables as t
from modgap.reporting.run_names import BASE, read_name

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
NOT_NAMED = "model not named"
OWN = ""
"""Instead of a recipe: the run is a row of its own, under its own name."""
_MORE_RECIPES = {
    "kl-from-base": "KL from the base model",
    "reverse-curriculum": "reverse curriculum",
}
"""Recipes that the authors trained and the paper's tables have no row for."""
Place = tuple[str, str, str]
"""The place of a run in a table: model, recipe, and its own name."""


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
    differs = numbers.differs or {}
    tables = [_views(others, differs)] if others or not mathverse else []
    return [*tables, _mathverse(mathverse, differs)] if mathverse else tables


def _placed(numbers: ReportSummary) -> dict[Place, Summary]:
    """Model, recipe and run -> summary; the recipe is `OWN` where it is not known."""
    read = {name: _read(name, numbers.models.get(name, "")) for name in numbers.runs}
    based = {
        (model, bool(_versions(numbers.runs[name])))
        for name, (model, recipe, sure) in read.items()
        if recipe == BASE and sure
    }
    placed: dict[Place, Summary] = {}
    for name, summary in numbers.runs.items():
        model, recipe, sure = read[name]
        # A recipe of one's own in a study: the model is the one that its training began with.
        if recipe == BASE and not sure and (model, bool(_versions(summary))) in based:
            recipe = None
        placed[model, recipe or OWN, name] = summary
    return placed


def _read(name: str, model: str) -> tuple[str, str | None, bool]:
    """Model, recipe and whether the run's own name leaves no doubt; see `run_names`.

    The recipe is `None` where the names do not say it, or contradict each other.
    """
    run, of_model = read_name(name), read_name(model)
    if run.recipe is None and not run.silent and _made_of(name, model):
        run = of_model  # `eval --models` names its runs after the models
    sizes = {named.size for named in (run, of_model) if named.size}
    label = sizes.pop() if len(sizes) == 1 else of_model.model
    if of_model.model and of_model.silent and run.recipe in (None, BASE):
        label = of_model.model  # another model, whatever its size
    label = label or NOT_NAMED
    unclear = len(sizes) > 0 or (run.recipe is None and not run.silent)
    if unclear or (of_model.recipe is None and not of_model.silent and run.recipe in (None, BASE)):
        return label, None, False
    if run.recipe in (None, BASE):
        return label, of_model.recipe or run.recipe, run.recipe == BASE or not run.model
    if of_model.recipe in (None, BASE, run.recipe):
        return label, run.recipe, True
    return label, None, False


def _made_of(name: str, model: str) -> bool:
    """Whether a run's name is its model's with other separators, or the end of it."""
    bare_name, bare_model = (
        re.sub(r"checkpoints|[^a-z0-9]", "", text.lower()) for text in (name, model)
    )
    return bool(bare_name) and bare_model.endswith(bare_name)


def _table(
    caption: str,
    head: tuple[str, ...],
    runs: Mapping[Place, Summary],
    cells: Callable[[Summary | None], tuple[str, ...]],
    differs: Mapping[str, Sequence[str]],
) -> t.Table:
    """A row for each of the paper's recipes and then for each other run.

    Models are in order of size, the smallest first. A model without a run of the paper's recipes is
    there for reference: it has rows only for what it has.
    """
    noted = {name: "; ".join(differs[name]) for _, _, name in runs if differs.get(name)}
    models = sorted(dict.fromkeys(model for model, _, _ in runs), key=_order)
    rows: list[tuple[str, ...]] = []
    for model in models:
        of_model: dict[str, list[tuple[str, Summary | None]]] = {}
        for (other, recipe, name), summary in runs.items():
            if other == model:
                of_model.setdefault(recipe, []).append((name, summary))
        wanted = RECIPES if runs and not RECIPES.keys().isdisjoint(of_model) else {}
        more = [recipe for recipe in of_model if recipe not in (*RECIPES, OWN)]
        own = [OWN] if OWN in of_model else []
        for recipe in [*wanted, *more, *own]:
            found = of_model.get(recipe, [("", None)])
            for name, summary in found:
                label = _label(recipe, name, several=len(found) > 1)
                note = (noted.get(name, "") if summary else EMPTY,) if noted else ()
                rows.append((model, label, *cells(summary), *note))
    return t.Table(caption, (*head, *((t.NOT_COMPARABLE,) if noted else ())), tuple(rows), left=2)


def _label(recipe: str, name: str, *, several: bool) -> str:
    """What a row is called: its recipe; its run where the recipe has several, or is not known."""
    if recipe == OWN:
        return f"{name} (its model is another)" if read_name(name).recipe else name
    words = (RECIPES | _MORE_RECIPES).get(recipe, recipe)
    return f"{words} ({name})" if several else words


def _order(model: str) -> tuple[float, str]:
    sized = re.fullmatch(r"[0-9.]+B", model)
    return (float(model[:-1]) if sized else math.inf, model)


def _views(runs: Mapping[Place, Summary], differs: Mapping[str, Sequence[str]]) -> t.Table:
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
    caption = "Accuracy of both views and the gap, by model and recipe"
    return _table(caption, head, runs, cells, differs)


def _versions(summary: Summary) -> dict[str, ViewSummary]:
    """MathVerse's versions among the views of a run."""
    named = {re.sub(r"[ _]", "-", view.lower()): row for view, row in summary.views.items()}
    return {version: named[version] for version in VERSIONS if version in named}


def _mathverse(runs: Mapping[Place, Summary], differs: Mapping[str, Sequence[str]]) -> t.Table:
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
    return _table("MathVerse, accuracy by version in percent", head, runs, cells, differs)


def _known(text: str) -> str:
    return EMPTY if text == "–" else text
