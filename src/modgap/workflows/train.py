"""Train a model with a recipe: its settings resolved, its plan printed, the engine started."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.progress import Bars, say
from modgap.core.prompt import Style
from modgap.core.recipe import Recipe, apply_settings, with_defaults
from modgap.models.folder import image_processor
from modgap.workflows.evaluate import warn_about_images
from modgap.workflows.measure import model_notes

if TYPE_CHECKING:
    from modgap.training.events import Event


_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def find_recipe(name: str) -> Recipe:
    """The recipe of a name in the registry, or at `module:object` or `path/to/file.py:object`.

    Raises:
        UserError: There is none, it is no `Recipe` (or function that returns one), or its name is
            no folder's.
    """
    found = registry.RECIPES.load(name)
    recipe = found() if callable(found) else found
    if not isinstance(recipe, Recipe):
        raise UserError(
            f"the recipe {name!r} is a {type(recipe).__name__}: give a `Recipe` or a function that"
            " returns one."
        )
    if not _FOLDER_NAME.fullmatch(recipe.name):
        raise UserError(
            f"the recipe {name!r} is named {recipe.name!r}, and its runs go to a folder of that"
            " name: use letters, digits, '.', '_' and '-' only."
        )
    return recipe


def resolve_recipe(
    name: str, settings: Iterable[str], notes: Mapping[str, Any] | None = None
) -> Recipe:
    """A recipe with its settings: the paper's, then the model's own defaults, then the user's."""
    return apply_settings(
        with_defaults(find_recipe(name), (notes or {}).get("training", {})), settings
    )


def resolve_recipes(
    names: Iterable[str], settings: Sequence[str], notes: Mapping[str, Any] | None = None
) -> dict[str, Recipe]:
    """Several recipes with the same settings; `stageN.key=value` goes to those that have a stage N.

    Raises:
        UserError: As `resolve_recipe`; or no recipe has that stage.
    """
    plain: dict[str, Recipe] = {}
    for name in dict.fromkeys(names):
        recipe = resolve_recipe(name, (), notes)
        if recipe.name in plain:
            raise UserError(
                f"two recipes are named {recipe.name!r}, which names their folder: rename one of"
                " them."
            )
        plain[recipe.name] = recipe
    apply_settings(max(plain.values(), key=lambda recipe: len(recipe.stages)), settings)
    return {
        name: apply_settings(recipe, settings_for(recipe, plain, settings))
        for name, recipe in plain.items()
    }


def settings_for(
    recipe: Recipe, recipes: Mapping[str, Recipe], settings: Sequence[str]
) -> list[str]:
    """The settings without those of stages that only other recipes have."""
    most = max(len(other.stages) for other in recipes.values())
    absent = {f"stage{number}" for number in range(len(recipe.stages) + 1, most + 1)}
    return [setting for setting in settings if setting.partition(".")[0].strip() not in absent]


def dry_notes(model: str) -> dict[str, Any]:
    """What a model that is at hand says of itself; nothing of one that would have to be downloaded."""
    from modgap.models.load import resolve

    return model_notes(resolve(model)) if model == "tiny" or Path(model).exists() else {}


def known_model(name: str) -> Any:
    """A model as `training.verl.plan` needs it, from what is at hand: its path, shape and pixel
    limits.
    """
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
        size = {
            "min_pixels": size.get("shortest_edge") or 56 * 56,
            "max_pixels": size.get("longest_edge") or 12845056,
        }
    return Model(
        str(folder.absolute()), shape_of(json.loads((folder / "config.json").read_text())), **size
    )


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
    train = registry.TRAINING_ENGINES.load(engine)
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


def check_training_data(recipes: Iterable[Recipe], train: Sequence[Problem], style: Style) -> None:
    """Refuse problems that a recipe cannot be trained on, as each training does at its start.

    Raises `UserError`.
    """
    from modgap.training.rollout import hold_out
    from modgap.training.setup import check_prompts, unusable_images

    unusable = unusable_images(train)
    for recipe in recipes:
        held_out = max(stage.settings.validation_problems for stage in recipe.stages)
        check_prompts(recipe, *hold_out(train, held_out), style, unusable)


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
                words = ", ".join(
                    f"{key} {event.metrics[key]:.3g}" for key in told if key in event.metrics
                )
                say(f"{name}{stage} step {event.step} of {event.steps}: {words}")

    return show


def print_plan(
    recipe: Recipe,
    engine: str = "local",
    model: str = "tiny",
    out: Path = Path(),
    problems: Sequence[Problem] | None = None,
    gpu: str | None = None,
) -> None:
    """Print what a recipe would do: each stage with the settings in force, and what a step of it
    costs.

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
    from modgap.training.dry_run import StagePlan, plan_lines
    from modgap.training.plan import costs, lengths_of, machine_here

    known, graphs = known_model(model), replays()
    machine = machine_here(known.shape, gpu, graphs) if known.shape else None
    typical = dry_notes(model).get("response_tokens")
    stages: list[StagePlan] = []
    for stage in recipe.stages:
        settings = [
            f"{name.replace('reward_', 'reward.')} = {value}"
            for name, value in asdict(stage.settings).items()
        ]
        expected = None
        if known.shape is not None and machine is not None:
            lengths = lengths_of(stage, known.min_pixels, known.max_pixels, typical)
            expected = costs(stage, known.shape, lengths, machine)
        stages.append(StagePlan(stage, settings, expected))
    print("\n".join(plan_lines(recipe, model, stages)))
