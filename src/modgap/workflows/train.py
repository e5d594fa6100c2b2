"""Train a model with a recipe: its settings resolved, its plan printed, the engine started."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core import registry
from modgap.core.assign import apply_settings, check_once, has_term, without_effect
from modgap.core.errors import UserError, raised
from modgap.core.installation import require, require_training
from modgap.core.options import TrainOptions, as_json
from modgap.core.problem import Problem, check_texts
from modgap.core.progress import SILENT, Bars, doing, say, warn
from modgap.core.prompt import Style, check_style
from modgap.core.recipe import Recipe, Settings, Stage, with_defaults
from modgap.core.record import RunFolder
from modgap.core.terms import Reward
from modgap.models.folder import BUNDLED, model_notes
from modgap.recipes.presets import Value, find_preset
from modgap.workflows.checkpoints import find_checkpoint
from modgap.workflows.problems import warn_about_images

if TYPE_CHECKING:
    from modgap.training.events import Event, Job, TrainResult


_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def find_recipe(name: str) -> Recipe:
    """The recipe of a name in the registry, or at `module:object` or `path/to/file.py:object`.

    Raises:
        UserError: The name is unknown, the object is not a `Recipe` (or a function that returns
            one), or its name cannot name a folder.
    """
    found = registry.RECIPES.load(name)
    try:
        recipe = found() if callable(found) else found
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"the recipe {name!r} raises {raised(error)}: correct it.") from error
    if not isinstance(recipe, Recipe):
        raise UserError(
            f"the recipe {name!r} is a {type(recipe).__name__}: give a `Recipe` or a function that"
            " returns one."
        )
    _check_parts(recipe, name)
    if not _FOLDER_NAME.fullmatch(recipe.name):
        raise UserError(
            f"the recipe {name!r} is named {recipe.name!r}, and its runs go to a folder of that"
            " name: use letters, digits, '.', '_' and '-' only."
        )
    return recipe


def _check_parts(recipe: Recipe, name: str) -> None:
    """Refuse parts of another type: a user's file is not type-checked."""
    stages: Any = recipe.stages
    if not isinstance(stages, tuple | list) or not stages:
        raise UserError(f"the recipe {name!r}: give its stages as a tuple of at least one `Stage`.")
    for number, stage in enumerate(stages, start=1):
        if not isinstance(stage, Stage):
            kind = type(stage).__name__
            raise UserError(f"stage {number} of the recipe {name!r} is a {kind}: give a `Stage`.")
        for key, wanted in (("settings", Settings), ("reward", Reward)):
            value = getattr(stage, key)
            if not isinstance(value, wanted):
                raise UserError(
                    f"{key} of stage {number} of the recipe {name!r} is a {type(value).__name__}:"
                    f" give `{wanted.__name__}(...)`."
                )


def resolve_recipe(
    recipe: str | Recipe,
    settings: Iterable[str],
    notes: Mapping[str, Any] | None = None,
    options: TrainOptions | None = None,
) -> Recipe:
    """A recipe with its settings.

    They are the paper's, then the model's own defaults, then the preset's, then the user's.
    """
    plain, preset = _without_settings(recipe, notes, options)
    given = list(settings)
    resolved = apply_settings(plain, [*preset, *given])
    check_once(plain, given)
    return resolved


def _without_settings(
    recipe: str | Recipe, notes: Mapping[str, Any] | None, options: TrainOptions | None
) -> tuple[Recipe, list[str]]:
    """A recipe with the model's own defaults, and what the preset sets."""
    found = find_recipe(recipe) if isinstance(recipe, str) else recipe
    preset = [value.assignment for value in preset_values(found, options or TrainOptions())]
    return with_defaults(found, (notes or {}).get("training", {})), preset


def preset_values(recipe: Recipe, options: TrainOptions) -> list[Value]:
    """What the preset sets for a recipe; nothing without one.

    Raises `UserError`: there is no such preset.
    """
    if options.preset is None:
        return []
    passed = registry.TRAINING_ENGINES.entry(options.engine).passed
    return find_preset(options.preset).values(recipe, passed)


def wording(options: TrainOptions) -> Style:
    """The style in force: as given, else the preset's, else `aligned`."""
    of_preset: Style = "aligned" if options.preset is None else find_preset(options.preset).style
    return check_style(options.style or of_preset)


def resolve_recipes(
    names: Iterable[str],
    settings: Sequence[str],
    notes: Mapping[str, Any] | None = None,
    options: TrainOptions | None = None,
) -> dict[str, Recipe]:
    """Several recipes with the same settings.

    `stageN.key=value` goes to those that have a stage N, `termN.key=value` to those with such a
    term.

    Raises:
        UserError: As `resolve_recipe`; or no recipe has that stage or term.
    """
    plain: dict[str, Recipe] = {}
    for name in dict.fromkeys(names):
        recipe = resolve_recipe(name, (), notes, options)
        if recipe.name in plain:
            raise UserError(
                f"two recipes are named {recipe.name!r}, which names their folder: rename one of"
                " them."
            )
        plain[recipe.name] = recipe
    longest = max(plain.values(), key=lambda recipe: len(recipe.stages))
    of_others: set[str] = set()
    for setting in settings:
        if not has_term(longest, setting) and any(has_term(r, setting) for r in plain.values()):
            of_others.add(setting)
    apply_settings(longest, [setting for setting in settings if setting not in of_others])
    resolved: dict[str, Recipe] = {}
    for name, recipe in plain.items():
        own = settings_for(recipe, plain, settings)
        resolved[name] = apply_settings(recipe, own)
        check_once(recipe, own)
    return resolved


def idle_settings(
    recipes: Iterable[str | Recipe],
    settings: Sequence[str],
    notes: Mapping[str, Any] | None = None,
    options: TrainOptions | None = None,
) -> list[str]:
    """What to say of settings that change nothing in any of the recipes, a line each.

    All of them have been resolved with these settings.
    """
    found = [_without_settings(recipe, notes, options) for recipe in recipes]
    plain = {recipe.name: recipe for recipe, _ in found}
    said = without_effect(
        [(recipe, [*preset, *settings_for(recipe, plain, settings)]) for recipe, preset in found]
    )
    return [said[setting] for setting in dict.fromkeys(settings) if setting in said]


def settings_for(
    recipe: Recipe, recipes: Mapping[str, Recipe], settings: Sequence[str]
) -> list[str]:
    """The settings without those of stages and terms that only other recipes have."""
    most = max(len(other.stages) for other in recipes.values())
    absent = {f"stage{number}" for number in range(len(recipe.stages) + 1, most + 1)}
    return [
        setting
        for setting in settings
        if setting.partition(".")[0].strip() not in absent and has_term(recipe, setting)
    ]


def preset_lines(
    recipe: str, resolved: Recipe, notes: Mapping[str, Any], options: TrainOptions
) -> list[str]:
    """What the preset changes for a recipe, and where the original says so; nothing without one.

    Args:
        recipe: As the user named it.
        resolved: With the preset and the user's settings.
        notes: What the model says of itself.
        options: With the preset.
    """
    if options.preset is None:
        return []
    values = preset_values(find_recipe(recipe), options)
    default = resolve_recipe(recipe, (), notes)
    return find_preset(options.preset).lines(values, default, resolved, wording(options))


def other_size(options: TrainOptions, model: str) -> str:
    """What to say of a preset for models of another size; empty without one, or if it fits."""
    from modgap.training.known_model import known_model
    from modgap.training.shape import SHAPES

    if options.preset is None:
        return ""
    size = find_preset(options.preset).size.upper()
    shape, meant = known_model(model).shape, SHAPES[f"Qwen/Qwen2.5-VL-{size}-Instruct"]
    if shape is None or shape.hidden == meant.hidden:
        return ""
    return (
        f"preset {options.preset} holds the values for Qwen2.5-VL {size}; {model} has"
        f" {shape.parameters / 1e9:.2g}B parameters"
    )


def starting_model(
    model: str | Path | None, options: TrainOptions, *, dry: bool = False
) -> str | Path:
    """The model that training starts from: `start_from`'s checkpoint, else the model.

    With `dry` nothing is written.

    Raises:
        UserError: There is neither, or no such checkpoint.
    """
    if options.start_from is not None:
        found = find_checkpoint(options.start_from, merging=not dry)
        if model is not None:
            say(f"--model {model} is not used: training starts from {found}")
        return found
    if model is None:
        raise UserError("no model given: give --model, or --start-from RUN:stage1:step_N.")
    return model


def dry_notes(model: str) -> dict[str, Any]:
    """What a local model says of itself; nothing of one that would have to be downloaded."""
    from modgap.models.load import resolve

    return model_notes(resolve(model)) if model in BUNDLED or Path(model).exists() else {}


def check_engine(recipe: Recipe, engine: str) -> None:
    """Refuse settings of another engine's own. Raises `UserError`."""
    passed = [key for stage in recipe.stages for key, _ in stage.passed]
    if passed and not registry.TRAINING_ENGINES.entry(engine).passed:
        raise UserError(f"--set verl.{passed[0]}: only --engine verl takes verl's own settings.")


def train(
    recipe: Recipe | str,
    problems: Sequence[Problem],
    model: str | Path,
    out: Path | str,
    *,
    settings: Iterable[str] | Mapping[str, Any] | None = None,
    options: TrainOptions | None = None,
    progress: Bars = SILENT,
    given: Mapping[str, object] | None = None,
) -> TrainResult:
    """Train a model with a recipe; the same call resumes where an interrupted one stopped.

    Args:
        recipe: A recipe or its name; its settings are the paper's, then the model's own defaults,
            then `settings`.
        problems: The train split; with `validation_split=test` the test split as well.
        model: `tiny`, a folder, a hub's id or an alias.
        out: Gets `stage1/`, `stage2/` and so on.
        settings: `key=value` or `stageN.key=value`, or a mapping of such keys to values.
        options: Which engine trains, and how.
        progress: Where to show progress.
        given: The arguments as the user gave them, for the manifests.

    Returns:
        The stages' folders, and the final and the best checkpoint (Hugging Face folders).

    Raises:
        UserError: A setting or an option is bad, the model cannot be used, or nothing can be
            trained on.
    """
    from modgap.models.load import resolve

    given_settings = settings or ()
    if isinstance(given_settings, Mapping):
        given_settings = [f"{key}={value}" for key, value in given_settings.items()]
    assignments = list(given_settings)
    options = options or TrainOptions()
    start = starting_model(model, options)
    notes = model_notes(resolve(start))
    plan = resolve_recipe(recipe, assignments, notes, options)
    for line in idle_settings([recipe], assignments, notes, options):
        warn(line)
    warn_about_images(problems)
    if noted := other_size(options, str(start)):
        say(noted)
    return train_resolved(
        plan, problems, start, Path(out), options=options, given=given, progress=progress
    )


def train_resolved(
    recipe: Recipe,
    problems: Sequence[Problem],
    model: str | Path,
    out: Path,
    *,
    options: TrainOptions | None = None,
    given: Mapping[str, object] | None = None,
    progress: Bars = SILENT,
) -> TrainResult:
    """`train` with a recipe whose settings are resolved, see `resolve_recipe`."""
    options = options or TrainOptions()
    options = replace(options, style=wording(options))
    check_texts(problems)
    check_logs(options.log)
    entry = registry.TRAINING_ENGINES.entry(options.engine)
    require_training()  # whatever trains
    run = registry.load(entry.path)
    check_engine(recipe, options.engine)
    if any(stage.settings.reward_function for stage in recipe.stages):
        # For a reward function in the user's working folder; last, so that nothing there stands in
        # for a module of ours or of a library.
        sys.path.append(str(Path.cwd()))
    from modgap.models.load import check_model, resolve

    check_environment(options)
    folder = resolve(model)
    check_model(folder, as_is=entry.as_is)
    problems, test = divided(recipe, problems)
    job = _job(folder, test, options, given)
    with logged(options.log, out, training_progress(progress, recipe.name)) as report:
        result = run(recipe, problems, folder, out, job, report)
    RunFolder(out).note("options", as_json(options))
    return result


def is_complete(
    recipe: Recipe, problems: Sequence[Problem], model: str | Path, out: Path, options: TrainOptions
) -> bool:
    """Whether `train_resolved` would find every stage done; nothing is written.

    Raises:
        UserError: `train_resolved` would refuse the folder: it holds another training.
    """
    from modgap.models.load import resolve

    entry = registry.TRAINING_ENGINES.entry(options.engine)
    if not entry.complete or not RunFolder(out).manifest_path.exists():
        return False
    folder = resolve(model)
    problems, test = divided(recipe, problems)
    return registry.load(entry.complete)(recipe, problems, folder, out, _job(folder, test, options))


def _job(
    folder: Path,
    test: Sequence[Problem] | None,
    options: TrainOptions,
    given: Mapping[str, object] | None = None,
) -> Job:
    from modgap.models.fingerprint import model_fingerprint
    from modgap.training.events import Job

    return Job(
        style=wording(options),
        validation=test,
        given=given,
        fingerprint=model_fingerprint(folder),
        device=options.device,
    )


def check_start(model: str | Path, out: Path | str, options: TrainOptions) -> Path:
    """Refuse what cannot be trained, as far as that is known without importing torch.

    Returns:
        The model's folder, downloaded if it is on a hub.

    Raises:
        UserError: The folder of the run cannot be used, or the model is not a Qwen2.5-VL.
    """
    from modgap.models.load import check_folder, resolve

    wording(options)
    RunFolder(out).check_place("train")
    folder = resolve(model)
    check_folder(folder, trains=options.engine)
    return folder


def check_environment(options: TrainOptions) -> None:
    """Refuse an environment in which the engine cannot train, or a device that is not there.

    Raises `UserError`.
    """
    from modgap.models.load import check_device

    if check := registry.TRAINING_ENGINES.entry(options.engine).check:
        registry.load(check)()
    if options.device is not None:
        check_device(options.device)


def check_logs(names: Sequence[str]) -> None:
    """Refuse logs that cannot be written, before anything else is.

    Raises:
        UserError: What one needs is not installed or has no key.
    """
    for name in names:
        require(name)
    if "wandb" in names:
        from modgap.training.wandb_log import check_key

        check_key()


@contextlib.contextmanager
def logged(
    names: Sequence[str], out: Path, report: Callable[[Event], None]
) -> Generator[Callable[[Event], None]]:
    """A receiver of a training's events that also sends its steps to what `--log` names."""
    if "wandb" not in names:  # the engines write TensorBoard's files themselves
        yield report
        return
    from modgap.training.wandb_log import WandbLog

    log = WandbLog(out, report)
    try:
        yield log
    except BaseException:
        log.close(failed=True)
        raise
    log.close()


def divided(
    recipe: Recipe, problems: Sequence[Problem]
) -> tuple[Sequence[Problem], Sequence[Problem] | None]:
    """The problems to train on, and the test split if the recipe is validated on it and has one."""
    if not recipe.validates_on_test:
        return problems, None
    test = [problem for problem in problems if problem.split == "test"]
    return [problem for problem in problems if problem.split != "test"], test or None


def check_training_data(
    recipes: Iterable[Recipe], problems: Sequence[Problem], style: Style
) -> None:
    """Refuse problems that a recipe cannot be trained on, as each training does at its start.

    Raises `UserError`.
    """
    from modgap.training.setup import check_prompts, split_validation, unusable_images

    unusable = unusable_images(problems)
    for recipe in recipes:
        train, test = divided(recipe, problems)
        check_prompts(recipe, *split_validation(recipe, train, test), style, unusable)


def training_progress(bars: Bars, name: str) -> Callable[[Event], None]:
    """Shows the training engine's events: a bar for each stage, and its notes as lines."""

    def show(event: Event) -> None:
        if event.kind == "note":
            say(f"{name}: {event.text}")
        elif event.kind == "phase":
            doing(event.text)
        elif event.kind in ("stage", "step"):
            reward = event.metrics.get("reward")
            note = f"reward {reward:.2f}" if isinstance(reward, float) else ""
            stage = f" stage {event.stage} of {event.stages}" if event.stages > 1 else ""
            bars(f"training {name}{stage}", event.step, event.steps, note)
            if event.kind == "step" and not bars.shown:  # a log file gets a line a step
                logged = ("reward", "accuracy", "kept_groups", "validation_accuracy")
                words = ", ".join(
                    f"{key} {event.metrics[key]:.3g}" for key in logged if key in event.metrics
                )
                say(f"{name}{stage} step {event.step} of {event.steps}: {words}")

    return show


def dry_run_lines(
    recipe: Recipe,
    engine: str = "local",
    model: str = "tiny",
    out: Path = Path(),
    problems: Sequence[Problem] | None = None,
    gpu: str | None = None,
) -> list[str]:
    """Each stage of a recipe with its settings, and what a step of it costs, as lines.

    Args:
        recipe: Its settings resolved.
        engine: What would train.
        model: Where it would start.
        out: The run's folder.
        problems: The train split, if the data is given.
        gpu: What the local engine is to run on; by default what is here.

    Raises:
        UserError: It cannot work.
    """
    check_engine(recipe, engine)
    entry = registry.TRAINING_ENGINES.entry(engine)
    require_training()
    if not entry.plan:
        raise UserError(f"--dry-run: the engine {engine} has no plan: its `TrainEntry` names none.")
    return list(registry.load(entry.plan)(recipe, model, out, problems=problems, gpu=gpu))
