"""Data -> training -> evaluation -> report, for one model and several recipes.

It can be resumed at every step. `run_study` trains and measures several recipes from one base model
and reports them side by side. What can be refused is refused by `prepare_study`, before anything
runs.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modgap.analysis.results import ReportSummary
from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.json_files import write_json
from modgap.core.options import EvalOptions, StudySpec, TrainOptions, as_json
from modgap.core.problem import Problem
from modgap.core.progress import Bars, progress_bars, say, warn
from modgap.core.recipe import Recipe
from modgap.core.record import RunFolder
from modgap.core.text import counted
from modgap.core.view import parse_views
from modgap.models.folder import model_notes
from modgap.workflows.evaluate import as_in, evaluate
from modgap.workflows.evaluate import is_complete as is_measured
from modgap.workflows.fingerprints import fingerprint
from modgap.workflows.problems import (
    check_views,
    default_views,
    locate,
    read_problems,
    warn_about_images,
)
from modgap.workflows.train import (
    check_engine,
    check_environment,
    check_logs,
    check_training_data,
    divided,
    idle_settings,
    resolve_recipes,
    starting_model,
    train_resolved,
    wording,
)
from modgap.workflows.train import is_complete as is_trained


@dataclass(frozen=True)
class StudySets:
    """The problems of a study.

    Attributes:
        train: Those of its data set to train on.
        test: Those to measure on.
        also: Those of the other sets to measure on, by the set's name.
        trained_on: What the recipes get: `train`, with the whole test split where one validates on
            it.
    """

    train: list[Problem]
    test: list[Problem]
    also: dict[str, list[Problem]]
    trained_on: list[Problem]


@dataclass(frozen=True)
class Study:
    """A study that may begin, see `prepare_study`.

    Attributes:
        spec: What was asked for.
        folder: Where the base model is.
        start: Where every recipe starts.
        recipes: By name, their settings resolved.
        sets: The problems.
        marks: Fingerprints of the model and of the problems.
        given: The arguments as the user gave them.
        complete: What is complete, by its folder in the study's: `kl`, `base/eval`.
    """

    spec: StudySpec
    folder: Path
    start: str | Path
    recipes: dict[str, Recipe]
    sets: StudySets
    marks: Mapping[str, str]
    given: Mapping[str, object] | None
    complete: frozenset[str] = frozenset()

    @property
    def training(self) -> TrainOptions:
        """How the recipes are trained."""
        return replace(spec_training(self.spec), device=self.spec.options.device)

    @property
    def measured_on(self) -> dict[str, list[Problem]]:
        """The problems of each evaluation of a model, the study's own under an empty name."""
        return {"": self.sets.test, **self.sets.also}

    @property
    def parts(self) -> frozenset[str]:
        """All that there is to do, by its folder, as in `complete`."""
        folders = list(map(eval_folder, self.measured_on))
        return frozenset(
            [*self.recipes, *(f"{name}/{at}" for name in ("base", *self.recipes) for at in folders)]
        )

    def measured(self, name: str) -> bool:
        """Whether every evaluation of a recipe, or of the base model, was complete at the start."""
        return all(part in self.complete for part in self.parts if part.startswith(f"{name}/"))

    def options_for(self, name: str, also: str = "") -> EvalOptions:
        """How a recipe is evaluated.

        Sampling and views that are not given are those of its own evaluation, else of the base
        model's.

        Args:
            name: The recipe, or `base`.
            also: The set, for one of `--also`: it has its own views.
        """
        out, options, folder = self.spec.out, self.spec.options, eval_folder(also)
        if also:
            options = replace(options, views=None)
        if name == "base" or (out / name / folder / "manifest.json").exists():
            return options
        problems = self.sets.also[also] if also else self.sets.test
        return as_in(out / "base" / folder, options, default_views(problems))

    def measure(self, name: str, model: Path, bars: Bars) -> None:
        """Evaluate the base model or a recipe on the test problems and on each set of `--also`."""
        place = self.spec.out / name
        for also, problems in self.measured_on.items():
            evaluate(
                problems, model, place / eval_folder(also),
                given={**(self.given or {}), "benchmark": also or self.spec.benchmark},
                options=self.options_for(name, also), warn_of_images=False,  # `prepare_study` has
                progress=bars.named(f"{name} on {also}" if also else name),
            )  # fmt: skip

    def checked(self) -> Study:
        """This study, with what is complete in its folder.

        Raises:
            UserError: A training or an evaluation there was made with other arguments.
        """
        from modgap.training.checkpoint import final_checkpoint

        out, models, complete = self.spec.out, {"base": self.folder}, set[str]()
        for name, recipe in self.recipes.items():
            problems = self.sets.trained_on
            if is_trained(recipe, problems, self.start, out / name, self.training):
                complete.add(name)
                models[name] = final_checkpoint(out / name)
        for name, model in models.items():
            for also, problems in self.measured_on.items():
                part = f"{name}/{eval_folder(also)}"
                place = RunFolder(out / part)
                if place.path.exists():
                    place.check_place("eval")
                # Of one that was not begun, the options depend on the base model's.
                begun = place.manifest_path.exists()
                if begun and is_measured(problems, model, out / part, self.options_for(name, also)):
                    complete.add(part)
        return replace(self, complete=frozenset(complete))

    def run(self) -> ReportSummary:
        """Do the missing steps and report; see `run_study`."""
        from modgap.reporting.page import build_report

        spec, out, given, started = self.spec, self.spec.out, self.given, time.monotonic()
        with progress_bars() as bars:
            counts = [counted(len(self.sets.test), "problem")]
            counts += [f"{len(problems)} of {name}" for name, problems in self.sets.also.items()]
            measuring = f"measuring {spec.model} on {' and '.join(counts)}"
            say("base: finished" if self.measured("base") else measuring, started)
            self.measure("base", self.folder, bars)
            for name, recipe in self.recipes.items():
                share_stages(out, recipe, self.recipes)
                stages = " -> ".join(stage.title for stage in recipe.stages)
                count = len(divided(recipe, self.sets.trained_on)[0])
                if name not in self.complete:
                    say(f"training {name} on {counted(count, 'problem')}: {stages}", started)
                trained = train_resolved(
                    recipe, self.sets.trained_on, self.start, out / name, options=self.training,
                    given=given, progress=bars,
                )  # fmt: skip
                say(f"{name}: finished" if self.measured(name) else f"measuring {name}", started)
                self.measure(name, trained.final, bars)
            say("writing the report", started)
            numbers = build_report([out, *spec.reference], out / "report.html")
            write_json(out / "summary.json", numbers.model_dump(mode="json"))
        return numbers


@contextlib.contextmanager
def prepare_study(
    spec: StudySpec, *, given: Mapping[str, object] | None = None, like: Study | None = None
) -> Generator[Study]:
    """Check a study, and hold its folder until the block ends. The errors of `run_study`.

    Refused is also what is in the folder already and was made with other arguments.

    Unusual images are named, and all that are trained on are decoded, unless the study is `like`
    one that is ready: the same model and problems, another training seed.
    """
    from modgap.models.fingerprint import model_fingerprint
    from modgap.models.load import check_folder, check_model, resolve

    options = replace(spec.options, style=wording(spec_training(spec)))
    spec = replace(spec, options=options)
    trains = registry.TRAINING_ENGINES.entry(spec.engine)
    answers = registry.INFERENCE_ENGINES.entry(options.engine)
    _check_asked(spec)
    run = RunFolder(spec.out)
    folder = resolve(spec.model)
    check_folder(folder, trains=spec.engine)
    start = starting_model(folder, spec_training(spec))
    notes, training = model_notes(resolve(start)), spec_training(spec)
    resolved = resolve_recipes(spec.recipes, spec.settings, notes, training)
    for recipe in resolved.values():
        check_engine(recipe, spec.engine)
    sets = like.sets if like else _read_sets(spec, resolved.values())
    _check_references(spec.reference)
    if like is None:
        for line in idle_settings(spec.recipes, spec.settings, notes, training):
            warn(line)
        warn_about_images([*sets.train, *sets.test])
        for problems in sets.also.values():
            warn_about_images(problems, parse_views(default_views(problems)))
        check_training_data(resolved.values(), sets.trained_on, options.wording)
    # Of several jobs each finds its device itself.
    device = options.device if spec.jobs == 1 else None
    check_environment(TrainOptions(engine=spec.engine, device=device))
    check_model(folder, as_is=trains.as_is or answers.as_is)
    identity = {name: getattr(spec, name) for name in ("model", "benchmark", "engine")}
    identity["style"] = options.style
    if spec.start_from is not None:  # omitted when empty: older manifests lack this key
        identity["start"] = model_fingerprint(resolve(start))
    marks = like.marks if like else {
        "model_fingerprint": model_fingerprint(folder),
        "train_fingerprint": fingerprint(sets.train),
        "test_fingerprint": fingerprint(sets.test),
    }  # fmt: skip
    with run.lock():
        run.start("study", identity, given, as_json(spec), **marks)
        study = Study(spec, folder, start, resolved, sets, marks, given).checked()
        run.note("options", as_json(spec))
        yield study


def seeds_in(out: Path) -> dict[int, Path]:
    """The studies of single training seeds in a folder, by seed."""
    found: dict[int, Path] = {}
    for manifest in out.glob("seed*/manifest.json"):
        folder = manifest.parent
        if re.fullmatch(r"-?\d+", seed := folder.name.removeprefix("seed")):
            found[int(seed)] = folder
    return dict(sorted(found.items()))


def _check_asked(spec: StudySpec) -> None:
    """Refuse options that do not go together, logs that cannot be written, another folder."""
    spec.options.check()
    if registry.INFERENCE_ENGINES.entry(spec.options.engine).served:
        raise UserError(
            f"--eval-engine {spec.options.engine}: a study measures models that it trains here; use"
            " hf or vllm."
        )
    if not spec.recipes:
        raise UserError(f"no recipe given: choose from {', '.join(registry.RECIPES)}.")
    check_logs(spec.log)
    run = RunFolder(spec.out)
    if (seeds := seeds_in(spec.out)) and not run.manifest_path.exists():
        raise UserError(
            f"--out {spec.out} holds a study made with --seeds {','.join(map(str, seeds))}: give"
            " them, or another --out."
        )
    run.check_place("study")


def _read_sets(spec: StudySpec, recipes: Collection[Recipe]) -> StudySets:
    """Read the problems of a study, and refuse those that it must not measure on."""
    data = locate(spec.benchmark, spec.data)
    anywhere = spec.options.allow_outside
    train = read_problems(spec.benchmark, data, "train", allow_outside=anywhere)
    test = read_problems(spec.benchmark, data, "test", spec.limit, allow_outside=anywhere)
    if shared := {problem.id for problem in train} & {problem.id for problem in test}:
        raise UserError(
            f"{counted(len(shared), 'test problem')} in train, too ({min(shared)} for one), and a"
            " study must not measure on what it trained on: give a data set with two splits, or use"
            " modgap train and modgap eval."
        )
    check_views(test, spec.options.chosen(default_views(test)))
    also = {
        name: read_problems(name, path, "test", spec.limit, allow_outside=anywhere)
        for name, path in also_sets(spec).items()
    }
    trained_on = train
    if any(recipe.validates_on_test for recipe in recipes):
        # The whole split, whatever is measured.
        every = test
        if spec.limit is not None:
            every = read_problems(spec.benchmark, data, "test", allow_outside=anywhere)
        trained_on = [*train, *every]
    return StudySets(train, test, also, trained_on)


def eval_folder(also: str) -> str:
    """The folder of an evaluation in that of its model: `eval`, `eval-on-mathverse`."""
    return f"eval-on-{re.sub(r'[^A-Za-z0-9_.]+', '-', also)}" if also else "eval"


def also_sets(spec: StudySpec) -> dict[str, Path]:
    """The sets of `--also`, by name.

    Raises:
        UserError: One is not NAME=PATH (or NAME alone, of a benchmark with problems of its own), or
            its benchmark is not known or twice there.
    """
    sets: dict[str, Path] = {}
    for text in spec.also:
        name, equals, path = text.partition("=")
        own = not equals and name in registry.DATASETS and registry.DATASETS[name].own_data
        if not own and not (name and equals and path):
            known = ", ".join(registry.DATASETS)
            raise UserError(
                f"--also {text}: give NAME=PATH with a benchmark as NAME ({known}), e.g."
                " mathverse=MathVerse."
            )
        registry.DATASETS.entry(name)
        if eval_folder(name) in map(eval_folder, sets):
            raise UserError(f"--also {name} is given twice: give each benchmark once.")
        sets[name] = locate(name, None) if own else Path(path)
    return sets


def _check_references(references: Sequence[Path]) -> None:
    """Refuse a reference that the report could not show. Raises `UserError`."""
    from modgap.reporting.collect import collect

    for path in references:
        collect([path])


def spec_training(spec: StudySpec) -> TrainOptions:
    """How the recipes of a study are trained."""
    return TrainOptions(
        engine=spec.engine,
        style=spec.options.style,
        preset=spec.preset,
        start_from=spec.start_from,
        log=spec.log,
    )


def run_study(spec: StudySpec, *, given: Mapping[str, object] | None = None) -> ReportSummary:
    """Measure a base model, train it with each recipe, measure each result, and report them.

    Writes `base/eval/`, `RECIPE/stageN/`, `RECIPE/eval/`, `summary.json` and `report.html` into
    `spec.out`; with `also` an `eval-on-NAME/` beside each `eval/`. Neither `seeds` nor `jobs` of
    the spec is looked at, see `workflows.sweep.study`.

    Returns:
        The numbers of the report, also in `out/summary.json`.

    Raises:
        UserError: A recipe or setting is unknown, the data is faulty, or the folder holds another
            study.
    """
    with prepare_study(spec, given=given) as study:
        return study.run()


def share_stages(out: Path, recipe: Recipe, recipes: Mapping[str, Recipe]) -> None:
    """Let a recipe begin with the finished stages of another one that began alike.

    For example, `kl` begins with the stage of `full-text`. The same model, problems, seed and
    settings give the same stage, on a CPU to the bit: training it again would only cost time. The
    shared stage is a relative link.
    """
    if len({other.held_out for other in recipes.values()}) > 1:
        return  # the held-out problems depend on the whole recipe
    for number in range(1, len(recipe.stages) + 1):
        mine = out / recipe.name / f"stage{number}"
        if mine.exists():
            continue
        mine.unlink(missing_ok=True)  # a link to a removed stage
        for other in recipes.values():
            theirs = out / other.name / f"stage{number}"
            alike = other.stages[:number] == recipe.stages[:number]
            if alike and other is not recipe and (theirs / "result.json").exists():
                mine.parent.mkdir(parents=True, exist_ok=True)
                mine.symlink_to(
                    Path("..") / other.name / f"stage{number}", target_is_directory=True
                )
                say(f"{recipe.name} begins with stage {number} of {other.name}")
                break
        else:
            return
