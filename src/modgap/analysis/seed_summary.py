"""The table over seeds.

Per recipe: the accuracy of both views, the gap and its change against the base model.

Everything is paired by problem: the change of a recipe is, seed by seed, what it gets on a problem
minus what the base model gets on the same problem. Intervals and p-values hold for other problems
and other seeds (`analysis.seeds`); p-values are corrected over the recipes (Holm), separately for
each question.

Where a sweep has a recipe and the same one without its terms beside the policy loss, they are
compared as well, seed by seed: that difference is what the terms do. So are recipes that differ in
nothing but those terms, each with the first of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modgap.analysis import gap
from modgap.analysis.cells import SeedRun, Sweep, Variant
from modgap.analysis.resampling import SEED, Floats
from modgap.analysis.results import Seed, SeedChanges, SeedControl, SeedRow, SeedTable, Settings
from modgap.analysis.seeds import SeedsChange, SeedsEstimate, over_seeds, pooled_p_values

_OF_TERMS = ("contrastive", "kl_coef", "kl_estimator", "kl_clamp", "terms")
Kind = Literal["without", "other"]


@dataclass(frozen=True, slots=True)
class _Change:
    """What is right in both views minus what it is compared with, `[seeds, problems]`."""

    text_SP: Floats
    vision_SP: Floats

    def points(self, question: str) -> Floats:
        """The values of one question: `gap`, `text` or `vision`."""
        parts = {
            "gap": self.text_SP - self.vision_SP,
            "text": self.text_SP,
            "vision": self.vision_SP,
        }
        return 100 * parts[question]


@dataclass(frozen=True, slots=True)
class _Pair:
    """A recipe with further terms, its control, and the seeds that both have."""

    recipe: str
    control: str
    kind: Kind
    seeds: list[Seed]
    change: _Change


def seed_numbers(sweep: Sweep) -> SeedTable:
    """The numbers of one table over seeds.

    Corrected p-values are over the recipes, and over the controls of one kind; `p_pooled` takes the
    seeds of all of them to spread alike.
    """
    base = _repeated(sweep) if sweep.untrained else None
    labels = _labels(sweep.recipes)
    rows = [_row(sweep, base.name, [base], None)] if base else []
    changes: list[SeedChanges | None] = [None] * len(sweep.recipes)
    if base:
        changes = [*_corrected([_against(sweep, variant.runs, base) for variant in sweep.recipes])]
    for label, variant, change in zip(labels, sweep.recipes, changes, strict=True):
        rows.append(_row(sweep, label, variant.runs, change))
    return SeedTable(
        model=sweep.model,
        n_problems=len(sweep.problems),
        samples=sweep.samples,
        mode=str(sweep.evaluation.get("mode") or ""),
        text_views=sweep.sides["text"],
        vision_views=sweep.sides["vision"],
        rows=rows,
        controls=_controls(sweep, labels),
        notes=sweep.notes,
    )


def _repeated(sweep: Sweep) -> SeedRun:
    """The base model. If it was evaluated in each of several studies, its samples are pooled."""
    right: dict[str, Any] = {
        view: np.mean([run.right[view] for run in sweep.untrained], axis=0)
        for view in (*sweep.sides["text"], *sweep.sides["vision"])
    }
    return SeedRun("base", None, 0, 0.0, right)


def _row(sweep: Sweep, label: str, runs: Sequence[SeedRun], change: SeedChanges | None) -> SeedRow:
    text_SP, vision_SP = (
        np.stack([sweep.rates(run, side) for run in runs]) for side in ("text", "vision")
    )
    trained = runs[0].seed is not None
    return SeedRow(
        recipe=label,
        seeds=[run.seed for run in runs] if trained else [],
        runs=[run.name for run in runs] if trained else [],
        steps=float(np.mean([run.steps for run in runs])) if trained else None,
        seconds=round(float(np.mean([run.seconds for run in runs])), 1) if trained else None,
        text=_accuracy(text_SP, sweep.samples * len(sweep.sides["text"])),
        vision=_accuracy(vision_SP, sweep.samples * len(sweep.sides["vision"])),
        gap=over_seeds(100 * (text_SP - vision_SP), (-100.0, 100.0), SEED),
        change=change,
    )


def _accuracy(rates_SP: NDArray[np.float64], samples: int) -> SeedsEstimate:
    found = over_seeds(rates_SP, (0.0, 1.0), SEED)
    if len(rates_SP) > 1:
        return found
    one = gap.accuracy(rates_SP[0] * samples, samples)  # as everywhere else in a report
    return dataclasses.replace(found, ci_low=one.ci_low, ci_high=one.ci_high)


def _against(sweep: Sweep, runs: Sequence[SeedRun], base: SeedRun) -> _Change:
    """Each seed of a recipe minus the base model."""
    text_SP, vision_SP = (
        np.stack([sweep.rates(run, side) for run in runs]) - sweep.rates(base, side)[None]
        for side in ("text", "vision")
    )
    return _Change(text_SP, vision_SP)


def _corrected(changes: Sequence[_Change]) -> list[SeedChanges]:
    """The changes of several recipes with their intervals; p-values are corrected over recipes."""
    gaps = _question([change.points("gap") for change in changes], 200.0)
    texts = _question([change.points("text") for change in changes], 100.0)
    visions = _question([change.points("vision") for change in changes], 100.0)
    return [
        SeedChanges(gap=of_gap, text=of_text, vision=of_vision)
        for of_gap, of_text, of_vision in zip(gaps, texts, visions, strict=True)
    ]


def _question(values: Sequence[Floats], limit: float) -> list[SeedsChange]:
    """One comparison over several recipes, each given as `[seeds, problems]`.

    `limit` is the largest change that is possible.
    """
    estimates = [over_seeds(x_SP, (-limit, limit), SEED) for x_SP in values]
    own = gap.holm([estimate.p_value for estimate in estimates])
    pooled = gap.holm(pooled_p_values(values))
    return [
        SeedsChange(
            value=estimate.value,
            ci_low=estimate.ci_low,
            ci_high=estimate.ci_high,
            p_value=estimate.p_value,
            seeds=estimate.seeds,
            sd=estimate.sd,
            n_problems=estimate.n_problems,
            p_holm=p_holm,
            p_pooled=p_pooled,
        )
        for estimate, p_holm, p_pooled in zip(estimates, own, pooled, strict=True)
    ]


# Recipes and their controls


def _labels(variants: Sequence[Variant]) -> list[str]:
    """The recipes' names, with the settings in which several variants of a recipe differ."""
    labels: list[str] = []
    for variant in variants:
        alike = [other for other in variants if other.recipe == variant.recipe]
        differing = _differing(variant, alike)
        labels.append(f"{variant.recipe} ({differing})" if differing else variant.recipe)
    return labels


def _differing(variant: Variant, alike: Sequence[Variant]) -> str:
    """`kl_coef=0.1, stage2.lr=0.0001`: the settings in which runs of one recipe differ."""
    differing: dict[str, dict[int, Any]] = {}
    for number, settings in enumerate(variant.stages):
        for name, value in settings.items():
            if any(number >= len(v.stages) or v.stages[number].get(name) != value for v in alike):
                differing.setdefault(name, {})[number] = value
    words: list[str] = []
    for name, values in differing.items():
        if len(set(map(repr, values.values()))) == 1 and len(values) == len(variant.stages):
            words.append(f"{name}={next(iter(values.values()))}")
        else:
            words += [f"stage{number + 1}.{name}={value}" for number, value in values.items()]
    if any(v.data != variant.data for v in alike):
        words.append(f"data {next(iter(variant.data.values()), '')}")
    return ", ".join(words)


def _controls(sweep: Sweep, labels: Sequence[str]) -> list[SeedControl]:
    """Each recipe with further terms against the same one without them or with others.

    Compared over the seeds that both have.
    """
    pairs: list[_Pair] = []
    for label, variant in zip(labels, sweep.recipes, strict=True):
        for other_label, other, kind in _controls_of(variant, labels, sweep.recipes):
            of_seed = {run.seed: run for run in other.runs}
            both = [(run, of_seed[run.seed]) for run in variant.runs if run.seed in of_seed]
            if both:
                seeds: list[Seed] = [run.seed for run, _ in both]
                pairs.append(_Pair(label, other_label, kind, seeds, _difference(sweep, both)))
    # Without the term and with another one are two questions, corrected apart.
    changes: dict[int, SeedChanges] = {}
    for kind in ("without", "other"):
        asked = [number for number, pair in enumerate(pairs) if pair.kind == kind]
        changes |= zip(asked, _corrected([pairs[number].change for number in asked]), strict=True)
    return [
        SeedControl(
            recipe=pair.recipe,
            control=pair.control,
            kind=pair.kind,
            seeds=pair.seeds,
            change=changes[number],
        )
        for number, pair in enumerate(pairs)
    ]


def _difference(sweep: Sweep, pairs: Sequence[tuple[SeedRun, SeedRun]]) -> _Change:
    """Each run minus its control."""
    text_SP, vision_SP = (
        np.stack([sweep.rates(run, side) - sweep.rates(control, side) for run, control in pairs])
        for side in ("text", "vision")
    )
    return _Change(text_SP, vision_SP)


def _controls_of(
    variant: Variant, labels: Sequence[str], recipes: Sequence[Variant]
) -> Iterator[tuple[str, Variant, Kind]]:
    """What a recipe with further terms is compared with.

    These are the same recipe without the terms, and the first one with other terms.
    """
    if not _has_terms(variant):
        return
    plain = [_plain(stage) for stage in variant.stages]
    alike: list[tuple[str, Variant]] = []
    for label, other in zip(labels, recipes, strict=True):
        if other.data == variant.data and [_plain(stage) for stage in other.stages] == plain:
            alike.append((label, other))
    for label, other in alike:
        if not _has_terms(other):
            yield label, other, "without"
    label, first = next(pair for pair in alike if _has_terms(pair[1]))
    if first is not variant:
        yield label, first, "other"


def _has_terms(variant: Variant) -> bool:
    return any(stage.get("contrastive") or stage.get("terms") for stage in variant.stages)


def _plain(stage: Settings) -> Settings:
    return {name: value for name, value in stage.items() if name not in _OF_TERMS}
