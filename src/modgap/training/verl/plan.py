"""The plan of a recipe on verl: `modgap train --engine verl --dry-run`.

Uses neither network nor GPU and loads no model. If verl is installed, its own validation is part of
the plan; otherwise the plan says that it was skipped. `compose` has verl 0.9.1 compose and validate
our overrides.
"""

# verl has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.installation import is_installed, not_installed
from modgap.core.problem import Problem
from modgap.core.recipe import Recipe, Stage
from modgap.core.text import counted
from modgap.training.dry_run import Amount, Costs, StagePlan, plan_lines, short
from modgap.training.known_model import known_model
from modgap.training.plan import (
    Lengths,
    Machine,
    assumed,
    duration,
    gpu_asked,
    lengths_of,
    trained_parameters,
)
from modgap.training.shape import GIB, Shape
from modgap.training.verl.checks import KEPT, MODEL, ROLLOUT, Model, Overrides
from modgap.training.verl.config import GPU_GIB, layout, notes, stage_overrides, to_hydra
from modgap.training.verl.cost import (
    ROOM,
    Layout,
    flops,
    longest_row,
    resident,
    seconds,
    update_memory,
)
from modgap.training.verl.sections import Files

VERSION = "0.9.1"
VARIANTS = {"full-text": "full-text", "image-only": "no-text", "transcribe": "transcribe"}
"""View -> the variant of `datasets.parquet` that a stage without a text-free twin trains on."""


def variants(stage: Stage) -> list[str]:
    """The parquet variants that a stage trains on.

    Raises:
        UserError: A view has no parquet variant.
    """
    for views, use in ((stage.views, "trained on"), (stage.validation_views, "validated in")):
        if absent := [view for view in views if view not in VARIANTS]:
            raise UserError(
                f"view {absent[0]!r} cannot be {use} with verl: choose from {', '.join(VARIANTS)}."
            )
    if stage.paired and stage.views == ("full-text",):
        return ["contrastive"]
    return [VARIANTS[view] for view in stage.views]


def twin_views(stage: Stage) -> tuple[str, ...]:
    """The views whose words a stage's files hold for its twins, beside the contrastive variant."""
    views = dict.fromkeys(twin.view for twin in stage.twins if twin.view)
    if variants(stage) == ["contrastive"]:
        views.pop("image-only", None)
    return tuple(views)


def validation_variants(stage: Stage) -> list[str]:
    """The parquet variants that a stage is validated on, one for each view.

    A contrastive stage alone in its own view has the contrastive script's words, which differ on
    problems without a condition. With a second view the files must have the same columns.
    """
    if variants(stage) == ["contrastive"] and stage.validation_views == ("full-text",):
        return ["contrastive"]
    return [VARIANTS[view] for view in stage.validation_views]


def stage_files(out: Path, number: int, stage: Stage) -> Files:
    """The files of stage `number` of a run; absolute, since Ray's workers run in other folders."""
    folder = out.absolute() / f"stage{number}"
    return Files(
        tuple(str(folder / "data" / f"train-{name}.parquet") for name in variants(stage)),
        tuple(str(folder / "data" / f"validation-{v}.parquet") for v in stage.validation_views),
        str(folder / "verl"),
        str(folder / "verl_metrics.jsonl"),
        str(folder / "tensorboard"),
    )


def plan(
    recipe: Recipe,
    model: Model,
    out: Path,
    *,
    gpus: int = 8,
    problems: int | None = None,
    machine: Machine | None = None,
) -> tuple[list[str], list[Overrides]]:
    """The plan in lines for a reader, and each stage's configuration.

    Args:
        recipe: Its settings resolved.
        model: The base model, as far as it is known.
        out: The run's folder.
        gpus: GPUs of a node, unless `verl.trainer.n_gpus_per_node` says so.
        problems: The number of problems to train on, without held-out ones; `None` if unknown.
        machine: The GPUs; an H100 of 80 GiB by default.

    Raises:
        UserError: A stage cannot work; the message names it.
    """
    configurations, stages = list[Overrides](), list[StagePlan]()
    checked = installed()
    machine = machine or gpu_asked("H100")
    gib = (machine.memory or GPU_GIB * GIB) / GIB
    base = model.path
    for number, stage in enumerate(recipe.stages, start=1):
        try:
            name = f"{recipe.name}-stage{number}"
            files = stage_files(out, number, stage)
            overrides = stage_overrides(stage, model, files, name=name, gpus=gpus, gpu_gib=gib)
            if checked:
                compose(overrides)
        except UserError as error:
            raise UserError(f"stage {number} ({stage.title}): {error}") from error
        spread = layout(overrides)
        configurations.append(overrides)
        expected = None
        if model.shape is not None:
            lengths = lengths_of(stage, model.min_pixels, model.max_pixels)
            expected = costs(stage, model.shape, lengths, spread, machine)
        planned = StagePlan(
            stage,
            to_hydra(overrides),
            expected,
            f", {counted(stage.settings.steps, 'step')} on {counted(spread.gpus, 'GPU')} of"
            f" {gib:.0f} GiB",
        )
        if (
            problems is not None
            and (rows := problems * len(files.train)) < overrides["data.train_batch_size"]
        ):
            planned.notes.append(
                f"too few training prompts: {rows}, and a step has"
                f" {overrides['data.train_batch_size']}: a training is refused with them"
            )
        planned.notes += notes(stage, model, overrides)
        stages.append(planned)
        model = replace(
            model,
            path=str(out.absolute() / f"stage{number}/checkpoints/step_{stage.settings.steps}"),
        )
    lines = plan_lines(recipe, base, stages)
    if model.shape is None:
        lines.append(
            f"whether {base} can be trained was not checked: only Qwen2.5-VL and Qwen3-VL can, and"
            " a name of a hub does not say"
        )
    if checked:
        lines.append(f"verl {VERSION} accepts every stage's configuration")
    else:
        lines.append(
            "verl is not installed here: its own validation was skipped (docs/engines/verl.md says"
            " how to)"
        )
    return lines, configurations


def dry_run(
    recipe: Recipe,
    model: str,
    out: Path,
    *,
    problems: Sequence[Problem] | None = None,
    gpu: str | None = None,
) -> list[str]:
    """What `modgap train --dry-run --engine verl` prints.

    Args:
        recipe: Its settings resolved.
        model: Where it would start.
        out: The run's folder.
        problems: The train split, if it is at hand.
        gpu: The kind of its GPUs; an H100 by default. Their number is
            `verl.trainer.n_gpus_per_node`.
    """
    from modgap.training.rollout import hold_out  # which imports torch

    count = None if problems is None else len(hold_out(problems, recipe.held_out)[0])
    machine = None if gpu is None else gpu_asked(gpu)
    return plan(recipe, known_model(model, "verl"), out, problems=count, machine=machine)[0]


def disk(stage: Stage, shape: Shape) -> Amount:
    """What a stage writes, at most at a time."""
    s = stage.settings
    passed = {key.lstrip("+"): value for key, value in stage.passed}
    each = (4.0 * shape.parameters + 8.0 * trained_parameters(stage, shape)) / GIB
    saved = math.ceil(s.steps / (s.save_every or s.steps))
    kept = passed.get(KEPT, "")
    if kept.isdecimal():  # an older one goes when a new one is complete
        saved = min(saved, int(kept) + 1)
    parts = {
        f"{counted(saved, 'checkpoint')} of verl's": saved * each,
        "the merged model": 2.0 * shape.parameters / GIB,
    }
    more = "" if kept or saved == 1 else f"; verl.{KEPT}=1 keeps the newest only"
    return Amount("disk of the stage", parts, "GiB", more)


def costs(stage: Stage, shape: Shape, lengths: Lengths, spread: Layout, machine: Machine) -> Costs:
    """The cost of a step and its assumptions, for a reader."""
    s = stage.settings
    gpu_gib = (machine.memory or GPU_GIB * GIB) / GIB
    each = seconds(stage, shape, lengths, spread, machine)
    rows = s.prompts_per_step * s.samples_per_prompt
    tokens = rows * (lengths.prompt + lengths.response)
    speed = tokens / sum(each.values()) / spread.gpus
    update = update_memory(stage, shape, spread)
    rollout = {
        "vLLM's share": spread.gpu_memory * gpu_gib,
        "what the trainer leaves there": resident(stage, shape, spread) / GIB,
    }
    updating = {name: n / GIB for name, n in update.items()}
    if not spread.cache_freed:
        updating["vLLM's share, which is not freed"] = spread.gpu_memory * gpu_gib
    amounts = (
        Amount("FLOPs a step", flops(stage, shape, lengths, spread.rows)),
        Amount("memory a GPU, update", updating, "GiB"),
        Amount("memory a GPU, rollout", rollout, "GiB"),
        Amount(
            "time a step",
            each,
            "s",
            f"; {short(speed)} tokens/s a GPU; {counted(s.steps, 'step')}"
            f" {duration(sum(each.values()) * s.steps)}, validation and checkpoints not counted",
        ),
        disk(stage, shape),
    )
    found: list[str] = []
    if (most := amounts[1].total) > ROOM * gpu_gib + 0.5:
        remedies = ["more GPUs, or GPUs with more memory", "lora_rank=16"]
        if spread.rows:
            remedies.insert(0, "a smaller micro_batch")
        elif spread.tokens > longest_row(stage):
            remedies.insert(0, "a smaller verl.actor_rollout_ref.actor.ppo_max_token_len_per_gpu")
        else:
            remedies.insert(0, "a smaller max_response_tokens")
        if not spread.cache_freed:
            remedies.insert(0, f"verl.{ROLLOUT}.free_cache_engine=True")
        if not spread.checkpointing:
            remedies.insert(0, f"verl.{MODEL}.enable_gradient_checkpointing=True")
        found.append(
            f"an update's {most:.0f} GiB are more than {ROOM:.0%} of a GPU of {gpu_gib:.0f} GiB,"
            f" and may not fit: {'; '.join(remedies)}"
        )
    if (most := amounts[2].total) > gpu_gib:
        found.append(
            f"a rollout's {most:.0f} GiB, vLLM's share included, are more than a GPU of"
            f" {gpu_gib:.0f} GiB has: a smaller gpu_memory_utilization, or more GPUs"
        )
    return Costs(
        f"a step, expected: {counted(rows, 'response')} trained on, {tokens:,.0f} tokens of prompts"
        " and responses (a prompt counted for each of its responses)",
        amounts,
        f"{assumed(stage, lengths)}; {machine.name}. Measured on"
        " one and two H200s (docs/engines/verl.md); other GPUs and more of them are extrapolated",
        tuple(found),
    )


def installed() -> bool:
    """Whether verl is installed."""
    return is_installed("verl")


def require() -> None:
    """Raise `UserError` if verl is not installed."""
    if not installed():
        raise UserError(
            f"{not_installed('verl')} (verl {VERSION}; docs/engines/verl.md), or use --engine"
            " local."
        )


def compose(overrides: Mapping[str, Any]) -> Any:
    """The complete configuration that verl would run with.

    Args:
        overrides: As `stage_overrides` gives them.

    Returns:
        An omegaconf `DictConfig`, validated by verl.

    Raises:
        UserError: verl is not installed, does not know a key, or refuses a value.
    """
    require()
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about engines that are not installed
        try:
            with initialize_config_module("verl.trainer.config", version_base=None):
                config = hydra_compose("ppo_trainer", overrides=to_hydra(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_spoken(error)) from error
        validate(config)
    return config


def validate(config: Any) -> None:
    """Verl's own checks, and the parts of its configuration that need no loaded model.

    Raises:
        UserError: verl refuses it.
    """
    from hydra.errors import HydraException
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a line on success
            validate_config(
                config,
                use_reference_policy=need_reference_policy(config),
                use_critic=need_critic(config),
            )
        for part in (config.algorithm, config.actor_rollout_ref.rollout):
            omega_conf_to_dataclass(part)
    except (AssertionError, TypeError, ValueError, RuntimeError, HydraException) as error:
        raise UserError(
            f"verl {VERSION} refuses the configuration: {' '.join(str(error).split())[:300]}"
        ) from error


def _spoken(error: Exception) -> str:
    """Hydra's message, with a remedy."""
    words = " ".join(str(error).split())
    if found := re.search(r"Could not override '\+*([^']+)'", words):
        return (
            f"verl {VERSION} has no setting {found[1]!r}: look it up in"
            " verl/trainer/config/ppo_trainer.yaml, or add a new one with --set"
            f" verl.+{found[1]}=VALUE."
        )
    return f"verl {VERSION} cannot read the configuration: {words[:300]}"
