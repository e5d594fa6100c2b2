"""What docs/experiments/findings/plan.md runs, as data: parts, studies, arms, seeds, settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from modgap.analysis.cells import Sweep, Variant

HERE = Path(__file__).resolve().parent
CELLS = HERE.parent / "docs" / "experiments" / "findings"
ARMS = Path("bench") / "findings_arms.py"
SEEDS = (10, 11, 12, 13, 14)
SETTINGS = (
    "steps=60", "prompts_per_step=64", "mini_batch=16", "lr=3e-5", "eval_every=0", "save_every=10",
)  # fmt: skip
PARTS = ("tower", "merger", "language")
MIXED = [parts for count in (1, 2) for parts in combinations(PARTS, count)]
"""The swaps of a checkpoint, beside the base model (no part) and the checkpoint itself (all)."""
SWAPPED = ("full-text", "kl", "full-text-continued")
DOSES = {"full-text": (20, 40), "full-text-continued": (80, 100)}
"""Recipe -> steps whose checkpoints are measured, beside its last one."""
STEPS_OF_STAGE = 60
BEGINS = {
    "kl": ("full-text",),
    "full-text-continued": ("full-text",),
    "kl-unclamped": ("full-text",),
    "kl-curriculum": ("full-text", "kl"),
}
"""Recipe -> the recipes whose stages it begins with."""
OWN = {
    "full-text-frozen-tower": "frozen_tower",
    "full-text-frozen-merger": "frozen_merger",
    "full-text-frozen-language": "frozen_language",
    "vppo-unclamped": "vppo_unclamped",
    "distill-right": "distill_right",
    "self-trace-all": "self_trace_all",
    "kl-from-base-all": "kl_from_base_all",
    "redundancy-25": "redundancy_25",
    "redundancy-50": "redundancy_50",
    "redundancy-75": "redundancy_75",
}
"""Arm -> its function in `findings_arms.py`."""
FIRST, SECOND = "synthetic", "charts"
MODEL_OF = {FIRST: "tiny", SECOND: "tiny-charts"}
"""Benchmark -> what the cells call the model that is trained on it."""


@dataclass(frozen=True)
class Study:
    """One sweep: a testbed, its recipes, how they are trained and measured.

    Attributes:
        benchmark: `synthetic` (the first testbed) or `charts` (the second).
        recipes: By name.
        settings: Of every recipe.
        asked: Further options of the evaluation.
        seeds: Training seeds.
        at_once: Seeds that are trained together: with less time, fewer are begun.
        swaps: Whether parts of the checkpoints are swapped, and steps between measured.
    """

    benchmark: str
    recipes: tuple[str, ...]
    settings: tuple[str, ...] = SETTINGS
    asked: tuple[str, ...] = ()
    seeds: tuple[int, ...] = SEEDS
    at_once: int = len(SEEDS)
    swaps: bool = False

    def references(self, recipes: tuple[str, ...]) -> str:
        """Recipes as `modgap study --recipes` takes them."""
        return ",".join(f"{ARMS}:{OWN[name]}" if name in OWN else name for name in recipes)

    def wanted(self) -> list[tuple[str, int]]:
        """Every run, as (recipe, seed), swaps and doses included."""
        names = list(self.recipes)
        if self.swaps:
            names += further(self.recipes)
        return [(name, seed) for seed in self.seeds for name in names]


Done = set[tuple[str, object]]
"""(recipe, seed) of finished runs."""


def done(sweeps: Sequence[Sweep], study: Study) -> Done:
    """(recipe, seed) of the runs that the cells have."""
    return {
        (variant.recipe, run.seed)
        for sweep in sweeps
        if sweep.model == MODEL_OF[study.benchmark]
        for variant in sweep.recipes
        for run in variant.runs
    }


def further(recipes: tuple[str, ...]) -> list[str]:
    """The evaluations of one seed that no recipe has: swaps and steps between."""
    swaps = [swap_name(r, parts) for r in SWAPPED if r in recipes for parts in MIXED]
    return swaps + [dose_name(r, n) for r, at in DOSES.items() if r in recipes for n in at]


def whole(sweep: Sweep, studies: Sequence[Study]) -> Sweep:
    """Cells without the recipes whose swaps and steps between are not all there.

    They are measured on the recipe's checkpoint, which another machine does not have, and a second
    training is not the same to the bit.
    """
    study = next((one for one in studies if MODEL_OF[one.benchmark] == sweep.model), None)
    if study is None or not study.swaps:
        return sweep
    there = done([sweep], study)
    kept: list[Variant] = []
    for variant in sweep.recipes:
        recipe = variant.recipe.partition(": ")[0]
        needed = further((recipe,))
        runs = [run for run in variant.runs if {(name, run.seed) for name in needed} <= there]
        kept += [replace(variant, runs=runs)] if runs else []
    return replace(sweep, recipes=kept)


def swap_name(recipe: str, parts: tuple[str, ...]) -> str:
    """`full-text: tower+merger`: these parts of the recipe's checkpoint, the rest of the base."""
    return f"{recipe}: {'+'.join(parts)}"


def dose_name(recipe: str, step: int) -> str:
    """`full-text: step 20`; steps count over all stages."""
    return f"{recipe}: step {step}"


_CAUSAL = ("--controls", "causal")
_SEVEN = (
    "full-text",
    "no-text",
    "mix",
    "kl",
    "full-text-continued",
    "kl-unclamped",
    "kl-curriculum",
)
_THREE = ("distill", "self-trace", "vppo")
PLAN: dict[str, tuple[Study, ...]] = {
    "1": (Study(FIRST, _SEVEN, asked=_CAUSAL),),
    "6": (Study(SECOND, (*_SEVEN, *_THREE)), Study(FIRST, _THREE)),
    "2": (
        Study(
            FIRST,
            (
                *SWAPPED, "full-text-frozen-tower", "full-text-frozen-merger",
                "full-text-frozen-language",
            ),
            at_once=2, swaps=True,
        ),
    ),
    "4": (
        Study(
            FIRST,
            (
                "full-text", "no-text", "kl-from-base", "kl-from-base-all", "distill",
                "distill-right", "distill-frozen", "distill-ema", "self-trace", "self-trace-all",
            ),
            settings=(*SETTINGS, "dynamic_sampling=false"),
        ),
    ),
    "3": (
        Study(
            FIRST,
            ("no-text", "papo", "papo-unclamped", "vppo", "vppo-unclamped"),
            asked=("--views", "full-text,image-only,blank-image,swapped-image"),
        ),
    ),
    "5": (Study(FIRST, ("redundancy-25", "redundancy-50", "redundancy-75")),),
}  # fmt: skip
"""Part -> its studies; the parts are in the order in which they run."""


def miniature(study: Study) -> Study:
    """The same with two recipes, two seeds and two steps, to try the chain on a CPU."""
    settings = [s for s in study.settings if s.partition("=")[0] not in _SMALL]
    small = tuple(f"{name}={value}" for name, value in _SMALL.items())
    recipes = study.recipes[:1] + study.recipes[-1:]
    return replace(study, recipes=recipes, settings=(*settings, *small), seeds=SEEDS[:2])


_SMALL = {
    "steps": "2", "prompts_per_step": "2", "mini_batch": "2", "samples_per_prompt": "2",
    "max_refills": "0", "validation_problems": "2", "max_response_tokens": "40",
    "overlong_buffer": "8", "save_every": "1",
}  # fmt: skip
