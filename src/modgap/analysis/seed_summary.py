"""The table over seeds: per recipe the accuracy of both views, the gap and its change against the base model.

Everything is paired by problem: the change of a recipe is, seed by seed, what it gets on a problem minus what the base
model gets on the same one. Intervals and p-values hold for other problems and other seeds (`core.seeds`); p-values are
corrected over the recipes (Holm), for each question by itself.

Where a sweep has a recipe and the same recipe without its contrastive term, the two are compared as well, seed by seed:
that difference is what the term does. So are recipes that differ in nothing but that term (its estimator, clamp or
coefficient), each with the first of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modgap.analysis import gap
from modgap.analysis.cells import SeedRun, Settings, Sweep, Variant
from modgap.analysis.seeds import SeedsEstimate, over_seeds, pooled_p_values

SEED = 42
"""Of the bootstrap, where there is no second seed."""
_CONTRASTIVE = ("contrastive", "kl_coef", "kl_estimator", "kl_clamp")
_QUESTIONS = ("gap", "text", "vision")


def seed_numbers(sweep: Sweep) -> dict[str, Any]:
    """The numbers of one table over seeds.

    Returns:
        `model`, `n_problems`, `samples`, `mode`, `text_views`, `vision_views`, `notes`; `rows`, the base model first,
        each with `recipe` (its label), `seeds`, `runs` (their names), `steps`, `seconds` (means over seeds; `None` for
        the base model), `text` and `vision` (accuracies), `gap` and `change` (of each of the three against the base
        model, in points; `None` where there is none); and `controls`, the same change against the recipe without the
        contrastive term. An estimate is `core.seeds.SeedsEstimate` as a mapping; changes have `p_holm`, too, and
        `p_pooled` (corrected as well), for which the seeds of all recipes are taken to spread alike.
    """
    base = _repeated(sweep) if sweep.untrained else None
    labels = _labels(sweep.recipes)
    rows = [_row(sweep, base.name, [base], None)] if base else []
    rows += [_row(sweep, label, v.runs, base) for label, v in zip(labels, sweep.recipes, strict=True)]
    controls = _controls(sweep, labels)
    _correct([row["change"] for row in rows if row["change"]])
    for kind in ("without", "other"):  # two questions
        _correct([row["change"] for row in controls if row["kind"] == kind])
    return {
        "model": sweep.model,
        "n_problems": len(sweep.problems),
        "samples": sweep.samples,
        "mode": sweep.evaluation.get("mode", ""),
        "text_views": sweep.sides["text"],
        "vision_views": sweep.sides["vision"],
        "rows": rows,
        "controls": controls,
        "notes": sweep.notes,
    }


def _repeated(sweep: Sweep) -> SeedRun:
    """The base model; evaluated several times (once in each study), its samples are taken together."""
    right: dict[str, Any] = {
        view: np.mean([run.right[view] for run in sweep.untrained], axis=0)
        for view in (*sweep.sides["text"], *sweep.sides["vision"])
    }
    return SeedRun("base", None, 0, 0.0, right)


def _row(sweep: Sweep, label: str, runs: Sequence[SeedRun], base: SeedRun | None) -> dict[str, Any]:
    text_SP, vision_SP = (np.stack([sweep.rates(run, side) for run in runs]) for side in ("text", "vision"))
    trained = runs[0].seed is not None
    change = None
    if base:
        before = {side: sweep.rates(base, side)[None] for side in ("text", "vision")}
        change = _change(text_SP - before["text"], vision_SP - before["vision"])
    return {
        "recipe": label,
        "seeds": [run.seed for run in runs] if trained else [],
        "runs": [run.name for run in runs] if trained else [],
        "steps": float(np.mean([run.steps for run in runs])) if trained else None,
        "seconds": round(float(np.mean([run.seconds for run in runs])), 1) if trained else None,
        "text": _accuracy(text_SP, sweep.samples * len(sweep.sides["text"])),
        "vision": _accuracy(vision_SP, sweep.samples * len(sweep.sides["vision"])),
        "gap": _told(over_seeds(100 * (text_SP - vision_SP), (-100.0, 100.0), SEED)),
        "change": change,
    }


def _accuracy(rates_SP: NDArray[np.float64], samples: int) -> dict[str, Any]:
    found = _told(over_seeds(rates_SP, (0.0, 1.0), SEED))
    if len(rates_SP) == 1:  # as everywhere else in a report
        one = gap.accuracy(rates_SP[0] * samples, samples)
        found |= {"ci_low": one.ci_low, "ci_high": one.ci_high}
    return found


def _change(text_SP: NDArray[np.float64], vision_SP: NDArray[np.float64]) -> dict[str, Any]:
    """Changes of both accuracies and of the gap, in points."""
    values = {"gap": text_SP - vision_SP, "text": text_SP, "vision": vision_SP}
    limits = {"gap": 200.0, "text": 100.0, "vision": 100.0}
    return {
        name: _told(over_seeds(100 * x_SP, (-limits[name], limits[name]), SEED)) | {"values": 100 * x_SP}
        for name, x_SP in values.items()
    }


def _told(estimate: SeedsEstimate) -> dict[str, Any]:
    return dataclasses.asdict(estimate) | {"seeds": list(estimate.seeds)}


def _correct(changes: Sequence[dict[str, Any]]) -> None:
    """Add the corrected p-values; the values that they are computed from go."""
    for question in _QUESTIONS:
        asked = [change[question] for change in changes]
        own = gap.holm([change["p_value"] for change in asked])
        pooled = gap.holm(pooled_p_values([change.pop("values") for change in asked]))
        for change, p_holm, p_pooled in zip(asked, own, pooled, strict=True):
            change |= {"p_holm": p_holm, "p_pooled": p_pooled}


# Recipes and their controls


def _labels(variants: Sequence[Variant]) -> list[str]:
    """The recipes' names; with what sets them apart where a recipe comes with several settings."""
    labels: list[str] = []
    for variant in variants:
        alike = [other for other in variants if other.recipe == variant.recipe]
        told = _differing(variant, alike)
        labels.append(f"{variant.recipe} ({told})" if told else variant.recipe)
    return labels


def _differing(variant: Variant, alike: Sequence[Variant]) -> str:
    """`kl_coef=0.1, stage2.lr=0.0001`: the settings of a recipe that other runs of it do not share."""
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


def _controls(sweep: Sweep, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Each contrastive recipe against the same one without that term or with another, over the seeds that both have."""
    rows: list[dict[str, Any]] = []
    for label, variant in zip(labels, sweep.recipes, strict=True):
        for other_label, other, kind in _controls_of(variant, labels, sweep.recipes):
            of_seed = {run.seed: run for run in other.runs}
            pairs = [(run, of_seed[run.seed]) for run in variant.runs if run.seed in of_seed]
            if pairs:
                text_SP, vision_SP = (
                    np.stack([sweep.rates(run, side) - sweep.rates(control, side) for run, control in pairs])
                    for side in ("text", "vision")
                )
                rows.append(
                    {
                        "recipe": label,
                        "control": other_label,
                        "kind": kind,
                        "seeds": [run.seed for run, _ in pairs],
                        "change": _change(text_SP, vision_SP),
                    }
                )
    return rows


def _controls_of(
    variant: Variant, labels: Sequence[str], recipes: Sequence[Variant]
) -> Iterator[tuple[str, Variant, str]]:
    """What a contrastive recipe is compared with: all without the term, and the first with another one."""
    if not _contrastive(variant):
        return
    alike = [
        (label, other)
        for label, other in zip(labels, recipes, strict=True)
        if other.data == variant.data and [*map(_plain, other.stages)] == [*map(_plain, variant.stages)]
    ]
    yield from ((label, other, "without") for label, other in alike if not _contrastive(other))
    label, first = next(pair for pair in alike if _contrastive(pair[1]))
    if first is not variant:
        yield label, first, "other"


def _contrastive(variant: Variant) -> bool:
    return any(stage.get("contrastive") for stage in variant.stages)


def _plain(stage: Settings) -> Settings:
    return {name: value for name, value in stage.items() if name not in _CONTRASTIVE}
