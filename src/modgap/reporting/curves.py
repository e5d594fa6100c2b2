"""Training logs as panels of curves, and sampled rollouts as words.

Whatever number a log carries is drawn: the ones a reader wants first by name, the rest folded away below them, so that
a metric that a recipe adds needs no line here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from modgap.reporting.charts import Curve, curve, line
from modgap.reporting.collect import TrainStage

MAIN: dict[str, tuple[str, str]] = {
    "reward": ("Reward", "mean over all sampled responses, penalties included"),
    "accuracy": ("Accuracy of rollouts", "share of sampled responses that were right, on the stage's own views"),
    "validation_accuracy": ("Validation accuracy", "on the vision-centric view of held-out problems"),
    "format": ("Format", "share of responses with thoughts and one boxed answer"),
    "kept_groups": ("Kept groups", "groups with mixed rewards, which alone give a gradient"),
    "refills": ("Refills", "how often a step sampled again to fill up"),
    "contrastive_kl": ("Contrastive KL", "per token, between the full-text prompt and its text-free twin"),
    "kl_clamped": ("Clamped KL tokens", "share of tokens whose gradient the clamp made zero"),
    "entropy": ("Entropy", "per token, in nats"),
    "length_mean": ("Response length", "mean tokens"),
    "truncated": ("Truncated", "share of responses cut at the token limit"),
    "grad_norm": ("Gradient norm", "before clipping"),
}
"""Metric -> title and what it is; in the order of the page."""
_NOT_DRAWN = {"step", "stage", "epoch"}
_TEXTS = ("prompt", "response")


def logged(stages: Sequence[TrainStage]) -> dict[str, list[dict[str, Any]]]:
    """The numbers of all logs.

    Returns:
        Recipe -> its stages in order, each with `stage` (its title), `after` (steps of the stages before it) and
        `metrics` (name -> `[step, value]` pairs, steps counted over the stages).
    """
    recipes: dict[str, list[dict[str, Any]]] = {}
    done: dict[str, int] = {}
    for stage in stages:
        if not stage.log:
            continue
        after = done.get(stage.recipe, 0)
        metrics: dict[str, list[tuple[float, float]]] = {}
        for row in stage.log:
            for name, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and name not in _NOT_DRAWN:
                    metrics.setdefault(name, []).append((after + row["step"], float(value)))
        recipes.setdefault(stage.recipe, []).append({"stage": stage.title, "after": after, "metrics": metrics})
        done[stage.recipe] = after + max(int(row["step"]) for row in stage.log)
    return recipes


def averaged(
    recipes: Mapping[str, list[dict[str, Any]]], seeds: Sequence[Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """The numbers of all logs with the seeds of a recipe taken together: at each step the mean of those that have it.

    Args:
        recipes: As `logged` returns them.
        seeds: The tables over seeds, see `seeds.seed_numbers`.
    """
    label_of = {run: row["recipe"] for table in seeds for row in table["rows"] for run in row["runs"]}
    together: dict[str, list[list[dict[str, Any]]]] = {}
    for name, parts in recipes.items():
        together.setdefault(label_of.get(name, name), []).append(parts)
    return {
        label: runs[0] if len(runs) == 1 else [_mean(stages) for stages in zip(*runs, strict=False)]
        for label, runs in together.items()
    }


def _mean(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One stage of several seeds."""
    metrics: dict[str, list[tuple[float, float]]] = {}
    for name in dict.fromkeys(name for stage in stages for name in stage["metrics"]):
        values: dict[float, list[float]] = {}
        for stage in stages:
            for step, value in stage["metrics"].get(name, []):
                values.setdefault(step, []).append(value)
        metrics[name] = [(step, fmean(values[step])) for step in sorted(values)]
    return {**stages[0], "metrics": metrics}


def training(recipes: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
    """The panels of what `logged` found.

    Returns:
        `main` and `more` (panels), `recipes` (name and colour) and `stages` (where stages begin, in words); `None`
        where nothing was logged.
    """
    every = dict.fromkeys(name for parts in recipes.values() for part in parts for name in part["metrics"])
    panels: dict[str, Curve | None] = {}
    for name in [*(name for name in MAIN if name in every), *sorted(name for name in every if name not in MAIN)]:
        lines = [
            line(recipe if len(parts) == 1 else f"{recipe}, {part['stage']}", number, part["metrics"].get(name, []))
            for number, (recipe, parts) in enumerate(recipes.items())
            for part in parts
        ]
        title, note = MAIN.get(name, (name.replace("_", " ").replace(".", ": "), ""))
        panels[name] = curve(title, lines, note)
    if not any(panels.values()):
        return None
    starts = [
        f"{recipe} starts {part['stage']} after step {part['after']}."
        for recipe, parts in recipes.items()
        for part in parts[1:]
    ]
    return {
        "main": [panel for name, panel in panels.items() if panel and name in MAIN],
        "more": [panel for name, panel in panels.items() if panel and name not in MAIN],
        "recipes": [(recipe, number) for number, recipe in enumerate(recipes)],
        "stages": " ".join(starts),
    }


def rollouts(stages: Sequence[TrainStage]) -> list[dict[str, Any]]:
    """The sampled rollouts of each stage: a title made of its short fields, and its long ones as texts."""
    shown: list[dict[str, Any]] = []
    for stage in stages:
        rows = [
            {
                "title": " · ".join(
                    f"{name.replace('_', ' ')} {_short(value)}"
                    for name, value in row.items()
                    if name not in (*_TEXTS, "seed") and value is not None
                ),
                "texts": [(name, str(row[name])) for name in _TEXTS if row.get(name)],
            }
            for row in stage.rollouts
        ]
        if rows:
            name = stage.recipe if stage.title == stage.recipe else f"{stage.recipe}, {stage.title}"
            shown.append({"name": name, "rows": rows})
    return shown


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else text[:79] + "…"
