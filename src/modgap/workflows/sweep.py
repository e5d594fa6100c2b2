"""Studies with several jobs at a time and for several seeds: `modgap study --seeds 0,1 --jobs 8`.

With seeds, `OUT/seedN/` is a study like any other. All of them are checked and locked first; then
the jobs are `modgap train` and `modgap eval` for what is missing, in processes of their own, which
share the visible accelerators; at the end the studies are gone through one by one, which finds
everything there and writes what is still missing: the reports. A recipe that begins as another one
does waits for it and takes its stages; the base model is measured in the first study.

```
study(StudySpec(
    data=Path("PGPS9K"), model="tiny", recipes=("full-text", "kl"), out=Path("runs/sweep"),
    seeds=(0, 1, 2), jobs=6,
))
```
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from modgap.analysis.results import ReportSummary
from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.json_files import write_json
from modgap.core.options import StudySpec
from modgap.core.progress import say
from modgap.core.recipe import Recipe
from modgap.core.record import RunFolder
from modgap.workflows.jobs import Scheduler, Step, accelerators_for, eval_arguments
from modgap.workflows.problems import locate
from modgap.workflows.study import (
    Study,
    also_sets,
    eval_folder,
    prepare_study,
    run_study,
    seeds_in,
    share_stages,
    spec_training,
)
from modgap.workflows.train import settings_for, wording


def study(spec: StudySpec, *, given: Mapping[str, object] | None = None) -> ReportSummary:
    """Measure a model, train it with several recipes, measure each, and report them side by side.

    Writes `report.html` and `summary.json` into `spec.out`; with `seeds` one report of all their
    studies. An interrupted study resumes.

    Args:
        spec: What to do.
        given: The arguments as the user gave them, for the manifests.

    Returns:
        The numbers of the report.

    Raises:
        UserError: A recipe or setting is unknown, the data is faulty, the folder holds another
            study, or a job failed.
    """
    from modgap.reporting.page import build_report

    if spec.seeds is None and spec.jobs == 1:
        return run_study(spec, given=given)
    studies = run_sweep(spec, given=given)
    if spec.out in studies:
        numbers = studies[spec.out]
    else:
        every = [*studies, *_finished_before(spec.out, studies), *spec.reference]
        numbers = build_report(every, spec.out / "report.html")
    write_json(spec.out / "summary.json", numbers.model_dump(mode="json"))
    return numbers


def _finished_before(out: Path, studies: Collection[Path]) -> list[Path]:
    """The studies of other seeds in the folder, which its report keeps; others are named."""
    found = {seed: folder for seed, folder in seeds_in(out).items() if folder not in studies}
    ready = {seed: at for seed, at in found.items() if (at / "summary.json").exists()}
    if ready:
        say(f"the report also has the other finished seeds of {out}: {', '.join(map(str, ready))}")
    if left := found.keys() - ready.keys():
        say(f"not in the report, since not finished: seeds {', '.join(map(str, sorted(left)))}")
    return list(ready.values())


def run_sweep(
    spec: StudySpec, *, given: Mapping[str, object] | None = None
) -> dict[Path, ReportSummary]:
    """Run a study, or one for each training seed, several jobs at a time.

    Args:
        spec: What to do. With `seeds` its folder gets a study for each, `seedN/`; `jobs` processes
            share the visible accelerators.
        given: The arguments as the user gave them.

    Returns:
        The numbers of each study's report, by its folder.

    Raises:
        UserError: As `run_study`, before anything runs; or a job failed, which the message names
            with its log.
    """
    spec.options.check()
    if spec.seeds == ():
        raise UserError("--seeds '': give whole numbers, comma-separated, such as 0,1,2.")
    if spec.seeds is not None and not seeds_in(spec.out):
        run = RunFolder(spec.out)
        run.check_place("study")
        if run.manifest_path.exists():
            raise UserError(
                f"--out {spec.out} holds a study made without --seeds: leave --seeds out, or give"
                " another --out."
            )
    if spec.jobs < 1:
        raise UserError(f"--jobs {spec.jobs}: must be at least 1.")
    if spec.jobs > 1 and registry.TRAINING_ENGINES.entry(spec.engine).exclusive:
        raise UserError(
            f"--jobs {spec.jobs}: a training of --engine {spec.engine} takes all visible GPUs:"
            " leave --jobs out."
        )
    devices, each = accelerators_for(spec.options) if spec.jobs > 1 else ([], 0)
    spec = replace(spec, data=locate(spec.benchmark, spec.data))
    specs = _by_seed(spec)
    with contextlib.ExitStack() as held:
        prepared: dict[Path, Study] = {}
        for one in specs:
            like = prepared.get(specs[0].out)
            prepared[one.out] = held.enter_context(prepare_study(one, given=given, like=like))
        _share_base([folder / "base" for folder in prepared])
        if spec.jobs > 1:
            scheduler = _planned(spec, prepared, devices, each)
            if failed := scheduler.run():
                raise UserError(
                    f"{len(failed)} of {len(scheduler.jobs)} jobs failed, the first is"
                    f" {failed[0].name}: {failed[0].error}; finished work is kept: give the command"
                    " again once the cause is gone."
                )
            prepared = {at: replace(one, complete=one.parts) for at, one in prepared.items()}
        return {folder: study.run() for folder, study in prepared.items()}


def _by_seed(spec: StudySpec) -> list[StudySpec]:
    """The study of each training seed; without seeds the study itself."""
    seeds = spec.seeds
    if seeds is None:
        return [spec]
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds {','.join(map(str, seeds))}: give each seed once.")
    if clash := [
        s for s in spec.settings if s.partition("=")[0].strip().rpartition(".")[2] == "seed"
    ]:
        raise UserError(f"--set {clash[0]} and --seeds exclude each other: leave one of them out.")
    found: list[StudySpec] = []
    for seed in seeds:
        settings = (*spec.settings, f"seed={seed}")
        found.append(replace(spec, out=spec.out / f"seed{seed}", settings=settings, seeds=None))
    return found


def _planned(
    spec: StudySpec, prepared: Mapping[Path, Study], devices: Sequence[str], each: int
) -> Scheduler:
    """The jobs of all studies: one for each base model's evaluation, one for each recipe."""
    style = wording(spec_training(spec))
    fixed = ["--data", str(spec.data), "--benchmark", spec.benchmark, "--style", style]
    scheduler = Scheduler(spec.jobs, devices)
    for folder, study in prepared.items():
        if not (folder / "base").is_symlink():
            name = f"{folder.name} base"
            steps = _measured("base", study, fixed, each, lambda: spec.model)
            scheduler.add(name, steps, _log(spec.out, name))
        for recipe in study.recipes.values():
            name, first = f"{folder.name} {recipe.name}", _begins_as(recipe, study.recipes)
            steps = _recipe_steps(recipe, study, fixed, each)
            scheduler.add(name, steps, _log(spec.out, name), first and f"{folder.name} {first}")
    return scheduler


def _measured(
    name: str, study: Study, fixed: Sequence[str], each: int, model: Callable[[], str]
) -> list[Step]:
    """What is missing of the evaluations of the base model or a recipe, one for each set.

    Args:
        name: `base`, or the recipe.
        study: What it is of.
        fixed: Data, benchmark and style of the study.
        each: Accelerators that an evaluation takes.
        model: Gives the model, once it is there.
    """
    spec = study.spec
    limit = [] if spec.limit is None else ["--limit", str(spec.limit)]

    def arguments(also: str, asked: Sequence[str]) -> list[str]:
        words = [*limit, *eval_arguments(study.options_for(name, also))]
        out = spec.out / name / eval_folder(also)
        return ["eval", *asked, *words, "--model", model(), "--out", str(out)]

    asked: dict[str, Sequence[str]] = {"": fixed}
    for also, path in also_sets(spec).items():
        asked[also] = ["--data", str(path), "--benchmark", also, "--style", spec.options.wording]
    return [
        Step(
            each,
            functools.partial(arguments, also, words),
            f"measuring on {also}" if also else "measuring",
        )
        for also, words in asked.items()
        if f"{name}/{eval_folder(also)}" not in study.complete
    ]


def _log(out: Path, name: str) -> Path:
    return out / "logs" / f"{name.replace(' ', '_')}.log"


def _share_base(bases: Sequence[Path]) -> None:
    """Let all studies share one evaluation of the base model: training seeds do not change it."""
    for base in bases:
        if not base.exists():
            base.unlink(missing_ok=True)  # a link to a removed one
    held = next((base for base in bases if not base.is_symlink()), None)
    for base in bases:
        if held and base != held and not base.exists():
            base.symlink_to(Path("..") / held.parent.name / "base", target_is_directory=True)


def _recipe_steps(recipe: Recipe, study: Study, fixed: Sequence[str], each: int) -> list[Step]:
    """Train a recipe, then measure its last checkpoint; what is complete needs no process."""
    spec, out = study.spec, study.spec.out / recipe.name
    # The reference as given: a recipe from a file is not found by its name.
    reference = dict(zip(study.recipes, dict.fromkeys(spec.recipes), strict=True))[recipe.name]

    def train() -> list[str]:
        share_stages(spec.out, recipe, study.recipes)
        where = [] if spec.options.device is None else ["--device", spec.options.device]
        where += ["--allow-outside"] if spec.options.allow_outside else []
        for name in spec.log:
            where += ["--log", name]
        chosen: list[str] = []
        for setting in settings_for(recipe, study.recipes, spec.settings):
            chosen += ["--set", setting]
        chosen += ["--preset", spec.preset] if spec.preset is not None else []
        chosen += ["--start-from", spec.start_from] if spec.start_from is not None else []
        words = ["--model", spec.model, "--out", str(out), "--engine", spec.engine]
        return ["train", reference, *fixed, *words, *where, *chosen]

    def final() -> str:
        from modgap.training.checkpoint import final_checkpoint

        return str(final_checkpoint(out / f"stage{len(recipe.stages)}"))

    training = [] if recipe.name in study.complete else [Step(1, train, "training")]
    return [*training, *_measured(recipe.name, study, fixed, each, final)]


def _begins_as(recipe: Recipe, plans: Mapping[str, Recipe]) -> str | None:
    """The recipe whose stages another one can begin with.

    It is the one with the most stages in common, and the least to wait for.
    """

    def common(other: Recipe) -> int:
        pairs = list(zip(recipe.stages, other.stages, strict=False))
        return next((n for n, (mine, theirs) in enumerate(pairs) if mine != theirs), len(pairs))

    order = list(plans)

    def rank(other: Recipe) -> tuple[int, int]:
        return len(other.stages), order.index(other.name)

    # Only recipes of a lower rank, so that two recipes never wait for each other.
    earlier: list[Recipe] = []
    for other in plans.values():
        if rank(other) < rank(recipe) and common(other):
            earlier.append(other)
    if not earlier:
        return None
    return max(earlier, key=lambda other: (common(other), -len(other.stages))).name
