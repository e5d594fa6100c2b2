"""Data -> training -> evaluation -> report, for one model and several recipes, resumable at every step.

`train_recipe` is what `modgap train` does; `run_study` trains and measures several recipes from one base model and
reports them side by side. What can be refused is refused by `prepare_study`, before anything runs.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.progress import Bars, progress_bars, say
from modgap.core.prompt import Style
from modgap.core.recipe import Recipe, apply_settings, with_defaults
from modgap.core.record import RunFolder, write_json
from modgap.core.view import parse_views
from modgap.models.folder import image_processor
from modgap.workflows.evaluate import check_views, default_views, fingerprint, read_problems, warn_about_images
from modgap.workflows.measure import EvalOptions, as_in, evaluate_model, model_notes

if TYPE_CHECKING:
    from modgap.training.events import Event


def resolve_recipe(name: str, settings: Iterable[str], notes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe with its settings: the paper's, then the model's own defaults, then the user's."""
    recipe: Recipe = registry.find("recipe", name, registry.RECIPES)()
    return apply_settings(with_defaults(recipe, (notes or {}).get("training", {})), settings)


def resolve_recipes(
    names: Iterable[str], settings: Sequence[str], notes: Mapping[str, Any] | None = None
) -> dict[str, Recipe]:
    """Several recipes with the same settings; `stageN.key=value` goes to those that have a stage N.

    Raises:
        UserError: As `resolve_recipe`; or no recipe has that stage.
    """
    plain = {name: resolve_recipe(name, (), notes) for name in dict.fromkeys(names)}
    apply_settings(max(plain.values(), key=lambda recipe: len(recipe.stages)), settings)
    return {name: apply_settings(recipe, settings_for(recipe, plain, settings)) for name, recipe in plain.items()}


def settings_for(recipe: Recipe, recipes: Mapping[str, Recipe], settings: Sequence[str]) -> list[str]:
    """The settings without those of stages that only other recipes have."""
    most = max(len(other.stages) for other in recipes.values())
    absent = {f"stage{number}" for number in range(len(recipe.stages) + 1, most + 1)}
    return [setting for setting in settings if setting.partition(".")[0].strip() not in absent]


def dry_notes(model: str) -> dict[str, Any]:
    """What a model that is at hand says of itself; nothing of one that would have to be downloaded."""
    from modgap.models.load import resolve

    return model_notes(resolve(model)) if model == "tiny" or Path(model).exists() else {}


def known_model(name: str) -> Any:
    """A model as `training.verl_plan` needs it, from what is at hand: its path, shape and pixel limits."""
    from modgap.models.load import ALIASES, check_files, check_name, tiny_folder
    from modgap.training.shape import SHAPES, shape_of
    from modgap.training.verl.config import Model

    folder = tiny_folder() if name == "tiny" else Path(name)
    if not (folder / "config.json").is_file():
        if folder.is_dir():
            check_files(folder)  # says what is missing
        name = ALIASES.get(name, name)
        check_name(name)
        return Model(name, SHAPES.get(name.removeprefix("modelscope:")))
    size = {}
    if processor := image_processor(folder):
        least, most = processor.get("min_pixels"), processor.get("max_pixels")
        size = processor.get("size") or {"shortest_edge": least, "longest_edge": most}
        size = {"min_pixels": size.get("shortest_edge") or 56 * 56, "max_pixels": size.get("longest_edge") or 12845056}
    return Model(str(folder.absolute()), shape_of(json.loads((folder / "config.json").read_text())), **size)


def check_engine(recipe: Recipe, engine: str) -> None:
    """Refuse settings of another engine's own. Raises `UserError`."""
    if engine != "verl" and (passed := [key for stage in recipe.stages for key, _ in stage.passed]):
        raise UserError(f"--set verl.{passed[0]}: only --engine verl takes verl's own settings.")


def train_recipe(
    recipe: Recipe,
    problems: Sequence[Problem],
    model: str | Path,
    out: Path,
    *,
    engine: str = "local",
    style: Style = "aligned",
    device: str | None = None,
    given: Mapping[str, Any] | None = None,
    bars: Bars | None = None,
    warn_of_images: bool = True,
) -> Path:
    """Train a model with a recipe.

    Args:
        recipe: Its settings resolved, see `resolve_recipe`.
        problems: The train split.
        model: The base model.
        out: Gets `stage1/`, `stage2/` and so on.
        engine: What trains.
        style: Wording of the prompts.
        device: `None` takes the best there is.
        given: The arguments as the user gave them.
        bars: Where to show progress.
        warn_of_images: Whether to look for unusual images first, and to name them.

    Returns:
        The final checkpoint, a Hugging Face folder.
    """
    train = registry.find("training engine", engine, registry.TRAINING_ENGINES)
    check_engine(recipe, engine)
    if warn_of_images:
        warn_about_images(problems)
    if any(stage.settings.reward_function for stage in recipe.stages):
        sys.path.insert(0, str(Path.cwd()))  # a reward of the user's own lies where they work
    from modgap.models.load import check_model, load_policy, model_fingerprint, resolve

    if engine == "local":
        from modgap.models.static import replays

        replays()  # a fault in what the environment says shows before anything is written
    folder = resolve(model)
    check_model(folder, as_is=engine != "local")
    start: Any = folder
    own: dict[str, Any] = {"load_policy": functools.partial(load_policy, device=device)}
    if engine == "verl":
        from modgap.datasets.parquet import write_parquet
        from modgap.models.lora import merge_adapter
        from modgap.training.verl.engine import Tools
        from modgap.training.verl.merge import merge

        tools = Tools(write_parquet, merge=functools.partial(merge, merge_adapter=merge_adapter))
        start, own = known_model(str(folder)), {"tools": tools}
    result = train(
        recipe,
        problems,
        start,
        out,
        style=style,
        progress=training_progress(bars or Bars(None), recipe.name),
        given=given,
        fingerprint=model_fingerprint(folder),
        **own,
    )
    return result.final


def training_progress(bars: Bars, name: str) -> Callable[[Event], None]:
    """Shows the training engine's events: a bar for each stage, and its notes as lines."""

    def show(event: Event) -> None:
        if event.kind == "note":
            say(f"{name}: {event.text}")
        elif event.kind in ("stage", "step"):
            reward = event.metrics.get("reward")
            note = f"reward {reward:.2f}" if isinstance(reward, float) else ""
            stage = f" stage {event.stage} of {event.stages}" if event.stages > 1 else ""
            bars(f"training {name}{stage}", event.step, event.steps, note)
            if event.kind == "step" and not bars.shown:  # a log file gets a line a step
                told = ("reward", "accuracy", "kept_groups", "validation_accuracy")
                words = ", ".join(f"{key} {event.metrics[key]:.3g}" for key in told if key in event.metrics)
                say(f"{name}{stage} step {event.step} of {event.steps}: {words}")

    return show


@dataclass(frozen=True)
class Study:
    """A study that may begin, see `prepare_study`.

    Attributes:
        out: Its folder.
        model: The base model, as it was given.
        folder: Where the base model is.
        recipes: By name, their settings resolved.
        train: The problems to train on.
        test: The problems to measure on.
        engine: What trains.
        options: How to evaluate.
        given: The arguments as the user gave them.
    """

    out: Path
    model: str
    folder: Path
    recipes: dict[str, Recipe]
    train: Sequence[Problem]
    test: Sequence[Problem]
    engine: str
    options: EvalOptions
    given: Mapping[str, Any] | None

    def options_for(self, name: str) -> EvalOptions:
        """How a recipe is evaluated: what nobody asks for is as in its own evaluation, else as in the base model's."""
        if (self.out / name / "eval" / "manifest.json").exists():
            return self.options
        return as_in(self.out / "base" / "eval", self.options)

    def run(self) -> dict[str, Any]:
        """Do what is not done yet, and report; see `run_study`."""
        from modgap.reporting.page import build_report

        out, options, given, started = self.out, self.options, self.given, time.monotonic()
        with progress_bars() as bars:
            say(f"measuring {self.model} on {len(self.test)} problems", started)
            evaluate_model(
                self.test, self.folder, out / "base" / "eval", options, given=given, progress=bars.named("base"),
                warn_of_images=False,  # `prepare_study` has
            )  # fmt: skip
            for name, recipe in self.recipes.items():
                share_stages(out, recipe, self.recipes)
                stages = " -> ".join(stage.title for stage in recipe.stages)
                say(f"training {name} on {len(self.train)} problems: {stages}", started)
                final = train_recipe(
                    recipe, self.train, self.folder, out / name, engine=self.engine, style=options.style,
                    device=options.device, given=given, bars=bars, warn_of_images=False,
                )  # fmt: skip
                say(f"measuring {name}", started)
                evaluate_model(
                    self.test, final, out / name / "eval", self.options_for(name), given=given,
                    progress=bars.named(name), warn_of_images=False,
                )  # fmt: skip
            say("writing the report", started)
            numbers = build_report([out], out / "report.html")
            write_json(out / "summary.json", numbers)
        return numbers


@contextlib.contextmanager
def prepare_study(
    data: Path,
    model: str,
    recipes: Sequence[str],
    out: Path,
    *,
    benchmark: str = "pgps9k",
    engine: str = "local",
    settings: Sequence[str] = (),
    limit: int | None = None,
    options: EvalOptions | None = None,
    given: Mapping[str, Any] | None = None,
    look_at_images: bool = True,
) -> Generator[Study]:
    """Check a study, and hold its folder until the block ends. The arguments and errors of `run_study`.

    With `look_at_images`, unusual images are named, and all that are trained on are decoded.
    """
    from modgap.models.load import check_model, model_fingerprint, resolve

    options = options or EvalOptions()
    options.check()
    registry.find("training engine", engine, registry.TRAINING_ENGINES)
    if not recipes:
        raise UserError(f"no recipe given: choose from {', '.join(registry.RECIPES)}.")
    folder = resolve(model)
    resolved = resolve_recipes(recipes, settings, model_notes(folder))
    for recipe in resolved.values():
        check_engine(recipe, engine)
    train = read_problems(benchmark, data, "train")
    test = read_problems(benchmark, data, "test", limit)
    if shared := {problem.id for problem in train} & {problem.id for problem in test}:
        raise UserError(
            f"{len(shared)} test problems are in train, too ({min(shared)} for one), and a study must not measure on "
            "what it trained on: give a data set with two splits, or use modgap train and modgap eval."
        )
    check_views(test, parse_views(options.views or default_views(test)))
    if look_at_images:
        warn_about_images([*train, *test])
        check_training_data(resolved.values(), train, options.style)
    check_model(folder, as_is=engine != "local" or options.engine != "hf")
    run = RunFolder(out)
    identity = {"model": model, "benchmark": benchmark, "engine": engine, "style": options.style}
    marks = {
        "model_fingerprint": model_fingerprint(folder),
        "train_fingerprint": fingerprint(train),
        "test_fingerprint": fingerprint(test),
    }
    with run.lock():
        run.start("study", identity, given, **marks)
        yield Study(out, model, folder, resolved, train, test, engine, options, given)


def check_training_data(recipes: Iterable[Recipe], train: Sequence[Problem], style: Style) -> None:
    """Refuse problems that a recipe cannot be trained on, as each training does at its start. Raises `UserError`."""
    from modgap.training.rollout import hold_out
    from modgap.training.setup import check_prompts, unusable_images

    unusable = unusable_images(train)
    for recipe in recipes:
        held_out = max(stage.settings.validation_problems for stage in recipe.stages)
        check_prompts(recipe, *hold_out(train, held_out), style, unusable)


def run_study(
    data: Path,
    model: str,
    recipes: Sequence[str],
    out: Path,
    *,
    benchmark: str = "pgps9k",
    engine: str = "local",
    settings: Sequence[str] = (),
    limit: int | None = None,
    options: EvalOptions | None = None,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a base model, train it with each recipe, measure each result, and report them side by side.

    Args:
        data: The data set: its train split is trained on, its test split measured on.
        model: The base model of every recipe.
        recipes: Names of recipes.
        out: Study folder: `base/eval/`, `RECIPE/stageN/`, `RECIPE/eval/`, `summary.json`, `report.html`.
        benchmark: Layout of the data set.
        engine: What trains.
        settings: `key=value` for every recipe.
        limit: Only the first so many test problems.
        options: How to evaluate.
        given: The arguments as the user gave them.

    Returns:
        The numbers of the report, also in `out/summary.json`.

    Raises:
        UserError: A recipe or setting is unknown, the data is faulty, or the folder holds another study.
    """
    with prepare_study(
        data, model, recipes, out, benchmark=benchmark, engine=engine, settings=settings, limit=limit, options=options,
        given=given,
    ) as study:  # fmt: skip
        return study.run()


def share_stages(out: Path, recipe: Recipe, recipes: Mapping[str, Recipe]) -> None:
    """Let a recipe begin with the finished stages of another one that began alike (`kl` with that of `full-text`).

    The same model, problems, seed and settings give the same stage, on a CPU to the bit: training it again would only
    cost time. The shared stage is a relative link.
    """
    validation = {max(stage.settings.validation_problems for stage in r.stages) for r in recipes.values()}
    if len(validation) > 1:
        return  # what is held out of train depends on the whole recipe
    for number in range(1, len(recipe.stages) + 1):
        mine = out / recipe.name / f"stage{number}"
        if mine.exists():
            continue
        mine.unlink(missing_ok=True)  # a link to a stage that is gone
        for other in recipes.values():
            theirs = out / other.name / f"stage{number}"
            alike = other.stages[:number] == recipe.stages[:number]
            if alike and other is not recipe and (theirs / "result.json").exists():
                mine.parent.mkdir(parents=True, exist_ok=True)
                mine.symlink_to(Path("..") / other.name / f"stage{number}", target_is_directory=True)
                say(f"{recipe.name} begins with stage {number} of {other.name}")
                break
        else:
            return


def print_plan(
    recipe: Recipe,
    engine: str = "local",
    model: str = "tiny",
    out: Path = Path(),
    problems: Sequence[Problem] | None = None,
    gpu: str | None = None,
) -> None:
    """Print what a recipe would do: each stage with the settings in force, and what a step of it costs.

    Args:
        recipe: Its settings resolved.
        engine: What would train.
        model: Where it would start.
        out: The run's folder.
        problems: The train split, if it is at hand.
        gpu: What the local engine is to run on; by default what is here.

    Raises:
        UserError: It cannot work.
    """
    if engine == "verl":
        from modgap.training.rollout import hold_out
        from modgap.training.verl.plan import plan

        held_out = max(stage.settings.validation_problems for stage in recipe.stages)
        count = None if problems is None else len(hold_out(problems, held_out)[0])
        print("\n".join(plan(recipe, known_model(model), out, problems=count)[0]))
        if problems is None:
            print("the data set is not here: whether it has enough problems was not looked at")
        return
    check_engine(recipe, engine)
    from modgap.models.static import replays
    from modgap.training.plan import describe, lengths_of, machine_here

    known, graphs = known_model(model), replays()
    machine = machine_here(known.shape, gpu, graphs) if known.shape else None
    print(f"{recipe.name}: {recipe.summary}")
    for number, stage in enumerate(recipe.stages, start=1):
        print(f"stage {number}: {stage.title}")
        for name, value in asdict(stage.settings).items():
            print(f"  {name.replace('reward_', 'reward.')} = {value}")
        if known.shape is None or machine is None:
            print(f"  no estimate: the shape of {model} is not known here; give a folder")
        else:
            typical = dry_notes(model).get("response_tokens")
            lengths = lengths_of(stage, known.min_pixels, known.max_pixels, typical)
            print("\n".join(f"  {line}" for line in describe(stage, known.shape, lengths, machine)))
