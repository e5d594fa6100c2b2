"""What a recipe would do on verl, stage by stage, before anything is loaded: `modgap train --engine verl --dry-run`.

Touches neither network nor GPU. With verl installed its own validation is part of it; without it the plan says so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modgap.core.errors import UserError
from modgap.core.recipe import Recipe, Stage
from modgap.training.shape import GIB, describe, estimate
from modgap.training.verl import compose
from modgap.training.verl.checks import Model, Overrides
from modgap.training.verl.config import GPU_GIB, Files, layout, notes, stage_overrides, to_hydra

VARIANTS = {"full-text": "full-text", "image-only": "no-text"}
"""View -> the variant of the parquet file (`modgap data prepare`) that a plain stage trains on."""


def variants(stage: Stage) -> list[str]:
    """The parquet variants that a stage trains on.

    Raises:
        UserError: A view that is not written to parquet.
    """
    if absent := [view for view in stage.views if view not in VARIANTS]:
        raise UserError(f"view {absent[0]!r} cannot be trained on with verl: choose from {', '.join(VARIANTS)}.")
    return ["contrastive"] if stage.contrastive else [VARIANTS[view] for view in stage.views]


def stage_files(out: Path, number: int, stage: Stage) -> Files:
    """Where stage `number` of a run reads and writes; absolute, for Ray's workers run elsewhere."""
    folder = out.absolute() / f"stage{number}"
    return Files(
        tuple(str(folder / "data" / f"train-{name}.parquet") for name in variants(stage)),
        str(folder / "data" / "validation.parquet"),
        str(folder / "verl"),
        str(folder / "verl_metrics.jsonl"),
        str(folder / "tensorboard"),
    )


def plan(
    recipe: Recipe, model: Model, out: Path, gpus: int = 8, problems: int | None = None
) -> tuple[list[str], list[Overrides]]:
    """The plan in lines for a reader, and each stage's configuration.

    Args:
        recipe: Its settings resolved.
        model: The base model, as far as it is known.
        out: The run's folder.
        gpus: GPUs of a node, unless `verl.trainer.n_gpus_per_node` says so.
        problems: How many there are to train on, held-out ones not counted; none if that is not known.

    Raises:
        UserError: A stage cannot work; the message names it.
    """
    lines, configurations = [f"{recipe.name}: {recipe.summary}"], list[Overrides]()
    checked = compose.installed()
    for number, stage in enumerate(recipe.stages, start=1):
        try:
            name = f"{recipe.name}-stage{number}"
            files = stage_files(out, number, stage)
            overrides = stage_overrides(stage, model, files, name=name, gpus=gpus)
            if checked:
                compose.compose(overrides)
        except UserError as error:
            raise UserError(f"stage {number} ({stage.title}): {error}") from error
        spread = layout(overrides)
        configurations.append(overrides)
        lines += [
            f"stage {number}: {stage.title}, {stage.settings.steps} steps on {spread.gpus} GPUs of {GPU_GIB:.0f} GiB",
            *(f"  {line}" for line in to_hydra(overrides)),
        ]
        if model.shape is None:
            lines.append(f"  no estimate: the shape of {model.path} is not known here; give a folder")
        else:
            cost = estimate(stage, model.shape, spread)
            lines += [f"  {line}" for line in describe(cost, spread, stage.settings.steps)]
            if (most := cost.update_bytes / GIB) > GPU_GIB:
                lines.append(
                    f"  note: an update's {most:.0f} GiB are more than a GPU of {GPU_GIB:.0f} GiB has: more GPUs, or "
                    "such that have as much; of the part for rows, a smaller micro_batch or max_response_tokens"
                )
            if (most := cost.rollout_bytes / GIB + spread.gpu_memory * GPU_GIB) > GPU_GIB:
                lines.append(
                    f"  note: a rollout's {most:.0f} GiB, vLLM's share included, are more than a GPU of {GPU_GIB:.0f} "
                    "GiB has: a smaller gpu_memory_utilization, or more GPUs"
                )
        if problems is not None and (rows := problems * len(files.train)) < overrides["data.train_batch_size"]:
            lines.append(
                f"  note: {rows} training prompts are fewer than the {overrides['data.train_batch_size']} of a step: a "
                "training is refused with them"
            )
        lines += [f"  note: {note}" for note in notes(stage, model)]
        model = replace(model, path=str(out.absolute() / f"stage{number}/checkpoints/step_{stage.settings.steps}"))
    if checked:
        lines.append(f"verl {compose.VERSION} accepts every stage's configuration")
    else:
        lines.append("verl is not installed here: its own validation was skipped (docs/engines/verl.md says how to)")
    return lines, configurations
