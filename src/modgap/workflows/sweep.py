"""Studies with several jobs at a time, and for several training seeds: `modgap study --seeds 0,1,2
--jobs 8`.

With seeds, `OUT/seedN/` is a study like any other. All of them are checked and held first; then the
jobs are `modgap train` and `modgap eval` in processes of their own, which share the visible
accelerators; at the end the studies are gone through one by one, which finds everything there and
writes what is still missing: the reports. A recipe that begins as another one does waits for it and
takes its stages; the base model is measured in the first study.

```
run_sweep(Path("PGPS9K"), "tiny", ["full-text", "kl"], Path("runs/sweep"), seeds=(0, 1, 2), jobs=6)
```
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modgap.analysis.results import ReportSummary
from modgap.core.errors import UserError
from modgap.core.recipe import Recipe
from modgap.workflows.jobs import Scheduler, Step, accelerators_for, eval_arguments
from modgap.workflows.measure import EvalOptions
from modgap.workflows.study import Study, prepare_study, share_stages
from modgap.workflows.train import settings_for


def run_sweep(
    data: Path,
    model: str,
    recipes: Sequence[str],
    out: Path,
    *,
    seeds: Sequence[int] | None = None,
    jobs: int = 1,
    benchmark: str = "pgps9k",
    engine: str = "local",
    settings: Sequence[str] = (),
    limit: int | None = None,
    options: EvalOptions | None = None,
    given: Mapping[str, Any] | None = None,
) -> dict[Path, ReportSummary]:
    """Run a study, or one for each training seed, several jobs at a time.

    Args:
        data: As in `run_study`, and so are model, recipes, benchmark, engine, settings, limit,
            options and given.
        model: The base model.
        recipes: Names of recipes.
        out: Study folder; with seeds it gets one for each, `seedN/`.
        seeds: Training seeds; the evaluation's seed is one of the options.
        jobs: Processes at a time; they share the visible accelerators.
        benchmark: Layout of the data set.
        engine: What trains.
        settings: `key=value` for every recipe.
        limit: Only the first so many test problems.
        options: How to evaluate.
        given: The arguments as the user gave them.

    Returns:
        The numbers of each study's report, by its folder.

    Raises:
        UserError: As `run_study`, before anything runs; or a job failed, which the message names
            with its log.
    """
    options = options or EvalOptions()
    options.check()
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: must be at least 1.")
    if jobs > 1 and engine == "verl":
        raise UserError(
            f"--jobs {jobs}: a training of --engine verl takes all visible GPUs: leave --jobs out."
        )
    devices, each = accelerators_for(options) if jobs > 1 else ([], 0)
    studies = {out: list(settings)}
    if seeds is not None:
        if not seeds or len(set(seeds)) != len(seeds):
            raise UserError(f"--seeds {','.join(map(str, seeds))}: give each seed once.")
        if clash := [
            s for s in settings if s.partition("=")[0].strip().rpartition(".")[2] == "seed"
        ]:
            raise UserError(
                f"--set {clash[0]} and --seeds exclude each other: leave one of them out."
            )
        studies = {out / f"seed{seed}": [*settings, f"seed={seed}"] for seed in seeds}
    with contextlib.ExitStack() as held:
        prepared = {
            folder: held.enter_context(
                prepare_study(
                    data, model, recipes, folder, benchmark=benchmark, engine=engine, settings=chosen, limit=limit,
                    options=options, given=given, look_at_images=folder == next(iter(studies)),
                )
            )
            for folder, chosen in studies.items()
        }  # fmt: skip
        _share_base([folder / "base" for folder in prepared])
        if jobs > 1:
            fixed = ["--data", str(data), "--benchmark", benchmark, "--style", options.style]
            asked_of = [*fixed, *([] if limit is None else ["--limit", str(limit)])]
            scheduler = Scheduler(jobs, devices)
            for folder, study in prepared.items():
                if not (folder / "base").is_symlink():
                    measured = [*asked_of, *eval_arguments(options)]
                    asked = [
                        "eval",
                        *measured,
                        "--model",
                        model,
                        "--out",
                        str(folder / "base" / "eval"),
                    ]
                    name = f"{folder.name} base"
                    scheduler.add(
                        name, [Step(each, functools.partial(list, asked))], _log(out, name)
                    )
                for recipe in study.recipes.values():
                    name, first = f"{folder.name} {recipe.name}", _begins_as(recipe, study.recipes)
                    measured = [*asked_of, *eval_arguments(study.options_for(recipe.name))]
                    steps = _recipe_steps(recipe, study, fixed, measured, studies[folder], each)
                    scheduler.add(name, steps, _log(out, name), first and f"{folder.name} {first}")
            if failed := scheduler.run():
                raise UserError(
                    f"{len(failed)} of {len(scheduler.jobs)} jobs failed, the first is"
                    f" {failed[0].name}: {failed[0].error}; what is done is kept, give the same"
                    " command again."
                )
        return {folder: study.run() for folder, study in prepared.items()}


def _log(out: Path, name: str) -> Path:
    return out / "logs" / f"{name.replace(' ', '_')}.log"


def _share_base(bases: Sequence[Path]) -> None:
    """Let all studies have the base model's evaluation of one of them: training seeds do not change
    it.
    """
    for base in bases:
        if not base.exists():
            base.unlink(missing_ok=True)  # a link to one that is gone
    held = next((base for base in bases if not base.is_symlink()), None)
    for base in bases:
        if held and base != held and not base.exists():
            base.symlink_to(Path("..") / held.parent.name / "base", target_is_directory=True)


def _recipe_steps(
    recipe: Recipe,
    study: Study,
    fixed: Sequence[str],
    measured: Sequence[str],
    settings: Sequence[str],
    each: int,
) -> list[Step]:
    """Train a recipe, then measure its last checkpoint."""
    out = study.out / recipe.name

    def train() -> list[str]:
        share_stages(study.out, recipe, study.recipes)
        where = [] if study.options.device is None else ["--device", study.options.device]
        chosen = [
            part
            for setting in settings_for(recipe, study.recipes, settings)
            for part in ("--set", setting)
        ]
        words = ["--model", study.model, "--out", str(out), "--engine", study.engine]
        return ["train", recipe.name, *fixed, *words, *where, *chosen]

    def measure() -> list[str]:
        from modgap.training.checkpoint import final_checkpoint

        final = final_checkpoint(out / f"stage{len(recipe.stages)}")
        return ["eval", *measured, "--model", str(final), "--out", str(out / "eval")]

    return [Step(1, train), Step(each, measure)]


def _begins_as(recipe: Recipe, plans: Mapping[str, Recipe]) -> str | None:
    """The recipe whose stages another one can begin with: the most stages in common, and the least
    to wait for.
    """

    def common(other: Recipe) -> int:
        pairs = list(zip(recipe.stages, other.stages, strict=False))
        return next((n for n, (mine, theirs) in enumerate(pairs) if mine != theirs), len(pairs))

    order = list(plans)
    earlier = [
        other
        for other in plans.values()
        if (len(other.stages), order.index(other.name))
        < (len(recipe.stages), order.index(recipe.name))
        and common(other)
    ]
    return (
        max(earlier, key=lambda other: (common(other), -len(other.stages))).name
        if earlier
        else None
    )


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from a comma-separated list.

    Raises:
        UserError: One of them is no number.
    """
    parts: Iterable[str] = (part.strip() for part in text.split(",") if part.strip())
    try:
        return tuple(int(part) for part in parts)
    except ValueError:
        raise UserError(
            f"--seeds {text}: give whole numbers, comma-separated, e.g. 0,1,2."
        ) from None
