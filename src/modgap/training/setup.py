"""What a stage starts with: its reward function, its model, and the arguments that make the run what it is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt, Style, contrastive_prompt, training_prompt
from modgap.core.recipe import NAMES, Recipe, Settings
from modgap.core.view import get_view
from modgap.grading.answer import reward as graded_reward
from modgap.training.events import LoadPolicy, TrainablePolicy
from modgap.training.rollout import RewardFunction

VALIDATION_VIEW = "image-only"


def check_prompts(recipe: Recipe, problems: Sequence[Problem], validation: Sequence[Problem], style: Style) -> None:
    """Build every prompt that the run may need, in words, and look for its image: a fault shows now, not after hours.

    Raises:
        UserError: A view is a control; or a problem lacks the words of a view, or its diagram.
    """
    for number, stage in enumerate(recipe.stages, start=1):
        where = f"stage {number} ({stage.title})"
        for view in stage.views:
            if get_view(view).picture not in ("own", "none"):
                raise UserError(f"view {view!r} cannot be trained on: choose full-text, image-only or text-only.")
            _check(where, problems, lambda p, v=view, s=stage: training_prompt(p, v, style, contrastive=s.contrastive))
        if stage.contrastive:
            _check(where, problems, lambda p: contrastive_prompt(p, style))
        if stage.settings.eval_every:
            _check(
                f"the validation of {where}", validation, lambda p: training_prompt(p, VALIDATION_VIEW, style),
                " Or turn validation off with --set eval_every=0.",
            )  # fmt: skip


def _check(where: str, problems: Sequence[Problem], build: Callable[[Problem], Prompt], remedy: str = "") -> None:
    faults: list[str] = []
    for problem in problems:
        try:
            if build(problem).has_image and (fault := _image_fault(problem)):
                faults.append(f"problem {problem.id} {fault}: give it its diagram, or leave it out.")
        except UserError as error:
            faults.append(str(error))
    if faults:
        more = f" ({len(faults) - 1} more like it.)" if len(faults) > 1 else ""
        raise UserError(f"{where} cannot use every problem: {faults[0]}{more}{remedy}")


def _image_fault(problem: Problem) -> str:
    if problem.image is None:
        return "has no diagram"
    return f"has no file {problem.image}" if isinstance(problem.image, Path) and not problem.image.is_file() else ""


def reward_of(settings: Settings) -> RewardFunction:
    """The reward that the settings ask for: a function of the user's own, or the built-in one at its tolerance.

    Raises:
        UserError: There is no such function.
    """
    if settings.reward_function:
        function: RewardFunction = registry.load(settings.reward_function)
        if not callable(function):
            raise UserError(f"reward.function={settings.reward_function} is no function: name one as module:function.")
        return function
    return lambda response, gold: graded_reward(response, gold, settings.reward_tolerance)


def load_for_training(load_policy: LoadPolicy, start: str | Path, settings: Settings) -> TrainablePolicy:
    """Load a model whose trained weights are fp32: at the paper's learning rate, bf16 weights would not move.

    With LoRA the frozen weights keep the loader's type (bf16 on a GPU).
    """
    torch.manual_seed(settings.seed)  # adapters start at random
    policy = load_policy(
        start,
        dtype=None if settings.lora_rank else "float32",
        lora=settings.lora_rank or None,
        freeze_vision=settings.freeze_vision,
        gradient_checkpointing=settings.gradient_checkpointing,
    )
    for parameter in policy.parameters():
        parameter.data = parameter.data.float()
    policy.model.train()
    return policy


def identity(recipe: Recipe, number: int, origin: str, style: Style) -> dict[str, Any]:
    """The arguments that make a stage what it is; what only decides speed, memory or when to save is left out.

    The recipe's name is none of them: recipes that begin alike may share their first stages.
    """
    stage = recipe.stages[number - 1]
    settings = asdict(stage.settings)
    for name in ("gradient_checkpointing", "save_every"):
        del settings[name]
    if stage.settings.loss_mean == "mini_batch":
        del settings["micro_batch"]
    if math.isinf(stage.settings.max_refills):
        settings["max_refills"] = "inf"  # JSON has no such number
    names = {attribute: name for name, attribute in NAMES.items()}
    return {
        "stage": number, "views": list(stage.views), "contrastive": stage.contrastive,
        "start": origin, "style": style, **{names[key]: value for key, value in settings.items()},
    }  # fmt: skip


def digest(problems: Sequence[Problem]) -> str:
    """Changes with what the problems say and with the bytes of their images, not with where these lie."""
    told = hashlib.sha256()
    for p in problems:
        image = None if p.image is None or _image_fault(p) else hashlib.sha256(p.image_bytes()).hexdigest()
        told.update(repr((p.id, p.question, p.answer, p.structural, p.semantic, dict(p.prompts), image)).encode())
    return told.hexdigest()[:16]
