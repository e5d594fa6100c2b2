"""What a stage starts with: its reward function, its model, and the arguments that make the run
what it is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.images import CONVERTED, inspect_all, is_plain
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt, Style, contrastive_prompt, training_prompt
from modgap.core.recipe import NAMES, Recipe, Settings
from modgap.core.view import get_view
from modgap.grading.answer import reward as graded_reward
from modgap.training.events import LoadPolicy, TrainablePolicy
from modgap.training.rollout import RewardFunction

VALIDATION_VIEW = "image-only"


def check_prompts(
    recipe: Recipe,
    problems: Sequence[Problem],
    validation: Sequence[Problem],
    style: Style,
    unusable: Mapping[Path | bytes, str] | None = None,
) -> None:
    """Build every prompt that the run may need, in words, and decode its image: a fault shows now,
    not after hours.

    Args:
        recipe: What is to be trained.
        problems: What it is trained on.
        validation: What it is validated on.
        style: Of the prompts.
        unusable: `unusable_images` of all these problems, where the caller has it.

    Raises:
        UserError: A view is a control; or a problem lacks the words of a view, or a diagram that
            can be used.
    """
    unusable = unusable_images([*problems, *validation]) if unusable is None else unusable
    for number, stage in enumerate(recipe.stages, start=1):
        where = f"stage {number} ({stage.title})"
        for view in stage.views:
            if get_view(view).picture not in ("own", "none"):
                raise UserError(
                    f"view {view!r} cannot be trained on: choose full-text, image-only or"
                    " text-only."
                )
            _check(
                where, problems, unusable,
                lambda p, v=view, s=stage: training_prompt(p, v, style, contrastive=s.contrastive),
            )  # fmt: skip
        if stage.contrastive:
            _check(where, problems, unusable, lambda p: contrastive_prompt(p, style))
        if stage.settings.eval_every:
            _check(
                f"the validation of {where}", validation, unusable,
                lambda p: training_prompt(p, VALIDATION_VIEW, style),
                " Or turn validation off with --set eval_every=0.",
            )  # fmt: skip


def unusable_images(problems: Sequence[Problem]) -> dict[Path | bytes, str]:
    """The images of problems that no model can be shown, and why; each one is decoded."""
    found = list(
        dict.fromkeys(p.image for p in problems if p.image is not None and not _absence(p))
    )
    seen = zip(found, inspect_all(found, thorough=True), strict=True)
    return {image: inspection.unusable for image, inspection in seen if inspection.unusable}


def _check(
    where: str,
    problems: Sequence[Problem],
    unusable: Mapping[Path | bytes, str],
    build: Callable[[Problem], Prompt],
    remedy: str = "",
) -> None:
    faults: dict[str, str] = {}
    for problem in problems:
        try:
            if not build(problem).has_image:
                continue
            if absence := _absence(problem):
                faults[problem.id] = (
                    f"problem {problem.id} {absence}: give it its diagram, or leave it out."
                )
            elif problem.own_images:  # the problem's image may show what the view leaves out
                faults[problem.id] = (
                    f"problem {problem.id} has images of its own for some views, and training shows"
                    " one image in every view: train on another data set."
                )
            elif problem.image is not None and (fault := unusable.get(problem.image)):
                faults[problem.id] = (
                    f"problem {problem.id}: {problem.image_name()} {fault}: replace it, or leave"
                    " the problem out; `modgap data check` names every one."
                )
        except UserError as error:
            faults[problem.id] = str(error)
    if faults:
        first, *others = faults
        names = f"{', '.join(others[:3])}{' ...' if len(others) > 3 else ''}"
        more = f" ({len(others)} more like it: {names})" if others else ""
        raise UserError(f"{where} cannot use every problem: {faults[first]}{more}{remedy}")


def _absence(problem: Problem) -> str:
    if problem.image is None:
        return "has no diagram"
    return (
        f"has no file {problem.image}"
        if isinstance(problem.image, Path) and not problem.image.is_file()
        else ""
    )


def reward_of(settings: Settings) -> RewardFunction:
    """The reward that the settings ask for: a function of the user's own, or the built-in one at
    its tolerance.

    Raises:
        UserError: There is no such function.
    """
    if settings.reward_function:
        function: RewardFunction = registry.load(settings.reward_function)
        if not callable(function):
            raise UserError(
                f"reward.function={settings.reward_function} is no function: name one as"
                " module:function."
            )
        return function
    return lambda response, gold: graded_reward(response, gold, settings.reward_tolerance)


def load_for_training(
    load_policy: LoadPolicy, start: str | Path, settings: Settings
) -> TrainablePolicy:
    """Load a model whose trained weights are fp32: at the paper's learning rate, bf16 weights would
    not move.

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
    """The arguments that make a stage what it is; what only decides speed, memory or when to save
    is left out.

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
    """Changes with what the problems say and with what their images show, not with where these lie."""
    told = hashlib.sha256()
    for p in problems:
        image = None if p.image is None or _absence(p) else _image_digest(p.image_bytes())
        told.update(
            repr(
                (p.id, p.question, p.answer, p.structural, p.semantic, p.own_words, image)
            ).encode()
        )
    return told.hexdigest()[:16]


def _image_digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() + ("" if is_plain(data) else CONVERTED)
