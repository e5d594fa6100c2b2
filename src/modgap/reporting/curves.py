"""Training logs as panels of curves, which `figures.py` draws, and sampled rollouts as words.

Every number in a log is drawn: the main ones first, by name, and the others folded away below them,
so that a metric that a recipe adds needs no line here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from modgap.analysis.results import LoggedStage, SeedTable, Summary
from modgap.reporting.collect import EvalRun, Rollout, TrainStage

_STEP = re.compile(r"stage(\d+)_step_(\d+)")

MAX_POINTS = 300
"""Longer curves are drawn as the means of this many bins."""

VALIDATION = "validation_accuracy"
"""Of what chooses the best checkpoint; `VALIDATION/VIEW` is that of a view."""
VALIDATION_GAP = "validation_gap"
"""The panel that shows full-text minus image-only."""
MEASURED = "measured_accuracy"
"""`MEASURED/VIEW`: of the evaluations of saved steps (`modgap eval --checkpoints`)."""
MEASURED_GAP = "measured_gap"
"""The gap of these evaluations."""
_OLD_VIEW = "image-only"
"""The view of logs that name none."""
_COLOURS = 8
"""A line whose index is this much larger has the same colour and other dashes."""

MAIN: dict[str, tuple[str, str]] = {
    "reward": ("Reward", "mean over all sampled responses, penalties included"),
    "accuracy": (
        "Accuracy of rollouts",
        "share of sampled responses that were right, on the stage's own views",
    ),
    VALIDATION: ("Validation accuracy", "one greedy response to each problem"),
    VALIDATION_GAP: (
        "Validation gap",
        "points: accuracy full-text minus image-only, on the same problems",
    ),
    MEASURED: ("Measured accuracy", "of evaluated checkpoints, on the problems of the evaluation"),
    MEASURED_GAP: (
        "Gap over steps",
        "points, of evaluated checkpoints: from text minus from the image",
    ),
    "format": ("Format", "share of responses with thoughts and one boxed answer"),
    "kept_groups": ("Kept groups", "groups with mixed rewards, which alone give a gradient"),
    "refills": ("Refills", "how often a step sampled again to fill up"),
    "contrastive_kl": (
        "Contrastive KL",
        "per token, between the full-text prompt and its text-free twin",
    ),
    "kl_clamped": ("Clamped KL tokens", "share of tokens whose gradient the clamp made zero"),
    "entropy": ("Entropy", "per token, in nats"),
    "length_mean": ("Response length", "mean tokens"),
    "truncated": ("Truncated", "share of responses cut at the token limit"),
    "grad_norm": ("Gradient norm", "before clipping"),
}
"""Metric -> title and what it is; in the order of the page."""
SHARES = frozenset({"accuracy", VALIDATION, MEASURED, "format", "kl_clamped", "truncated"})
"""Metrics whose axis goes from 0 to 100%."""
_NOT_DRAWN = {"step", "stage", "epoch"}


def logged(stages: Sequence[TrainStage]) -> dict[str, list[LoggedStage]]:
    """The numbers of all logs: recipe -> its stages in order."""
    recipes: dict[str, list[LoggedStage]] = {}
    done: dict[str, int] = {}
    for stage in stages:
        if not stage.log:
            continue
        after = done.get(stage.recipe, 0)
        metrics: dict[str, list[tuple[int, float]]] = {}
        for row in stage.log:
            for name, value in row.numbers.items():
                if name not in _NOT_DRAWN:
                    metrics.setdefault(name, []).append((after + row.step, value))
        recipes.setdefault(stage.recipe, []).append(
            LoggedStage(stage=stage.title, after=after, metrics=metrics)
        )
        done[stage.recipe] = after + max(row.step for row in stage.log)
    return recipes


def measured(evals: Sequence[EvalRun], runs: Mapping[str, Summary]) -> dict[str, list[LoggedStage]]:
    """The numbers of evaluations of saved steps, as if they were logged: name of the run -> stages.

    Such an evaluation's folder is `stageN_step_M`, beside those of the other steps.

    Args:
        evals: All evaluations.
        runs: Their summaries.
    """
    found: dict[Path, dict[int, list[tuple[int, EvalRun]]]] = {}
    for run in evals:
        if match := _STEP.fullmatch(run.path.name):
            of_stage = found.setdefault(run.path.absolute().parent, {})
            of_stage.setdefault(int(match[1]), []).append((int(match[2]), run))
    recipes: dict[str, list[LoggedStage]] = {}
    for folder, stages in found.items():
        after = 0
        for number, steps in sorted(stages.items()):
            metrics: dict[str, list[tuple[int, float]]] = {}
            for step, run in sorted(steps, key=lambda pair: pair[0]):
                summary = runs[run.name]
                for view, row in summary.views.items():
                    if row.accuracy is not None:
                        points = metrics.setdefault(f"{MEASURED}/{view}", [])
                        points.append((after + step, row.accuracy))
                if summary.gap is not None and summary.gap.points is not None:
                    points = metrics.setdefault(MEASURED_GAP, [])
                    points.append((after + step, summary.gap.points))
            stage = LoggedStage(stage=f"stage{number}", after=after, metrics=metrics)
            recipes.setdefault(folder.name, []).append(stage)
            after += max(step for step, _ in steps)
    return recipes


def averaged(
    recipes: Mapping[str, list[LoggedStage]], seeds: Sequence[SeedTable]
) -> dict[str, list[LoggedStage]]:
    """The numbers of all logs, with the seeds of a recipe pooled.

    The value at a step is the mean over the seeds that have this step.

    Args:
        recipes: As `logged` returns them.
        seeds: The tables over seeds.
    """
    label_of: dict[str, str] = {}
    for table in seeds:
        for row in table.rows:
            label_of.update(dict.fromkeys(row.runs, row.recipe))
    together: dict[str, list[list[LoggedStage]]] = {}
    for name, parts in recipes.items():
        together.setdefault(label_of.get(name, name), []).append(parts)
    pooled: dict[str, list[LoggedStage]] = {}
    for label, runs in together.items():
        # A seed that is still training has fewer stages.
        of_stages = zip(*runs, strict=False)
        pooled[label] = runs[0] if len(runs) == 1 else [_mean(stages) for stages in of_stages]
    return pooled


def _mean(stages: Sequence[LoggedStage]) -> LoggedStage:
    """One stage of several seeds."""
    metrics: dict[str, list[tuple[int, float]]] = {}
    for name in dict.fromkeys(name for stage in stages for name in stage.metrics):
        values: dict[int, list[float]] = {}
        for stage in stages:
            for step, value in stage.metrics.get(name, []):
                values.setdefault(step, []).append(value)
        metrics[name] = [(step, fmean(values[step])) for step in sorted(values)]
    return stages[0].model_copy(update={"metrics": metrics})


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its name, its colour (an index) and its points, as measured and smoothed."""

    name: str
    colour: int
    points: tuple[tuple[float, float], ...]

    @property
    def smooth(self) -> tuple[tuple[float, float], ...]:
        """A centred moving average over a twentieth of the curve; short curves as they are."""
        reach = len(self.points) // 40
        if not reach:
            return self.points
        ys = [y for _, y in self.points]
        return tuple(
            (x, fmean(ys[max(0, i - reach) : i + reach + 1]))
            for i, (x, _) in enumerate(self.points)
        )


@dataclass(frozen=True, slots=True)
class Panel:
    """The curves of one metric over steps.

    Attributes:
        metric: Its name in the log.
        title: For a reader.
        note: What it is.
        lines: The curves.
        named: Name and colour of each line in a key of its own, where recipes do not tell them
            apart.
    """

    metric: str
    title: str
    note: str
    lines: tuple[Line, ...]
    named: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Training:
    """What the logs of all recipes show.

    Attributes:
        panels: One for each metric, those of `MAIN` first.
        recipes: Name and colour of each.
        stages: Where stages begin, in words.
    """

    panels: tuple[Panel, ...]
    recipes: tuple[tuple[str, int], ...]
    stages: str

    @property
    def main(self) -> list[Panel]:
        """The panels that a reader wants first."""
        return [panel for panel in self.panels if panel.metric in MAIN]

    @property
    def more(self) -> list[Panel]:
        """All others."""
        return [panel for panel in self.panels if panel.metric not in MAIN]


def line(name: str, colour: int, points: Sequence[tuple[float, float]]) -> Line:
    """A curve of at most `MAX_POINTS` points; what is not finite is left out."""
    kept = [(x, y) for x, y in points if math.isfinite(y)]
    size = math.ceil(len(kept) / MAX_POINTS)
    if size > 1:
        bins = [kept[i : i + size] for i in range(0, len(kept), size)]
        kept = [(part[-1][0], fmean(y for _, y in part)) for part in bins]
    return Line(name, colour, tuple(kept))


def _parts(recipes: Mapping[str, list[LoggedStage]]) -> Iterator[tuple[int, str, LoggedStage]]:
    """Number of the recipe, name of the line, and the stage, for each stage of each recipe."""
    for number, (recipe, parts) in enumerate(recipes.items()):
        for part in parts:
            yield number, recipe if len(parts) == 1 else f"{recipe}, {part.stage}", part


def _by_view(recipes: Mapping[str, list[LoggedStage]], metric: str) -> list[Panel]:
    """The accuracy of every view over steps in one panel, and the gap where it is not logged.

    The views of a recipe have its colour and different dashes.
    """
    views: dict[str, int] = {}
    lines: list[Line] = []
    gaps: list[Line] = []
    named: dict[str, int] = {}
    of_recipe = list(recipes)
    for number, label, part in _parts(recipes):
        curves: dict[str, list[tuple[int, float]]] = {}
        for name, points in part.metrics.items():
            head, _, view = name.partition("/")
            if head == metric and view:
                curves[view] = points
        if not curves and metric in part.metrics:
            curves[_OLD_VIEW] = part.metrics[metric]
        for view, points in curves.items():
            index = number + _COLOURS * views.setdefault(view, len(views))
            lines.append(line(f"{label}, {view}", index, points))
            named[f"{of_recipe[number]}, {view}"] = index
        vision = dict(curves.get("image-only", []))
        text = curves.get("full-text", [])
        gap = [(step, 100 * (value - vision[step])) for step, value in text if step in vision]
        gaps.append(line(label, number, gap))
    title, note = MAIN[metric]
    if len(views) > 1:
        kinds = ("solid", "dashed", "dotted", "dash-dotted")
        note += "; " + ", ".join(f"{kind}: {v}" for kind, v in zip(kinds, views, strict=False))
    else:
        note += "".join(f", {view}" for view in views)
    panels: list[Panel] = []
    if drawn := tuple(line for line in lines if line.points):
        panels.append(Panel(metric, title, note, drawn, tuple(named.items())))
    drawn = tuple(line for line in gaps if line.points)
    if drawn and metric == VALIDATION:
        panels.append(Panel(VALIDATION_GAP, *MAIN[VALIDATION_GAP], drawn))
    return panels


def training(recipes: Mapping[str, list[LoggedStage]]) -> Training | None:
    """The panels of what `logged` found; `None` where nothing was logged."""
    every = dict.fromkeys(
        name for parts in recipes.values() for part in parts for name in part.metrics
    )
    by_view = [*_by_view(recipes, VALIDATION), *_by_view(recipes, MEASURED)]
    of_views = {panel.metric: panel for panel in by_view}
    others = [name for name in every if name.partition("/")[0] not in (VALIDATION, MEASURED)]
    panels: list[Panel] = []
    for name in [*MAIN, *sorted(name for name in others if name not in MAIN)]:
        if name in of_views:
            panels.append(of_views[name])
        elif name in others:
            title, note = MAIN.get(name, (name.replace("_", " ").replace(".", ": "), ""))
            lines: list[Line] = []
            for number, label, part in _parts(recipes):
                lines.append(line(label, number, part.metrics.get(name, [])))
            if drawn := tuple(line for line in lines if line.points):
                panels.append(Panel(name, title, note, drawn))
    if not panels:
        return None
    starts = [
        f"{recipe} starts {part.stage} after step {part.after}."
        for recipe, parts in recipes.items()
        for part in parts[1:]
    ]
    named = tuple((recipe, number) for number, recipe in enumerate(recipes))
    return Training(tuple(panels), named, " ".join(starts))


@dataclass(frozen=True, slots=True)
class ShownRollout:
    """A sampled rollout: a title made of its short fields, and its long ones with their names."""

    title: str
    texts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ShownStage:
    """The sampled rollouts of a stage."""

    name: str
    rows: tuple[ShownRollout, ...]


def rollouts(stages: Sequence[TrainStage]) -> list[ShownStage]:
    """The sampled rollouts of each stage that has some."""
    shown: list[ShownStage] = []
    for stage in stages:
        if stage.rollouts:
            name = stage.recipe if stage.title == stage.recipe else f"{stage.recipe}, {stage.title}"
            shown.append(ShownStage(name, tuple(map(_rollout, stage.rollouts))))
    return shown


def _rollout(row: Rollout) -> ShownRollout:
    facts = [
        f"{name.replace('_', ' ')} {_short(value)}"
        for name, value in row.facts.items()
        if value is not None
    ]
    return ShownRollout(" · ".join(facts), tuple(row.texts.items()))


def _short(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else text[:79] + "…"
