"""What a stage starts with: checked prompts, its reward function, its model and its identity."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from modgap.analysis.transcription import to_read
from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.images import CONVERTED, inspect_all, is_plain
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt, Style, structural_conditions, training_prompt, twin_prompt
from modgap.core.recipe import NAMES, NOT_IN_OLDER, OF_THE_KL, Recipe, Settings, Stage
from modgap.core.view import get_view
from modgap.grading.answer import reward as graded_reward
from modgap.grading.number import parse_number
from modgap.training.events import Job, LoadPolicy, TrainablePolicy
from modgap.training.rollout import RewardFunction, hold_out, with_other_pictures

VALIDATION_VIEW = "image-only"
"""The view whose accuracy chooses the best checkpoint, where it is validated."""
VALIDATION = "validation_accuracy"
"""Metric of train_log.jsonl: the accuracy that chooses the best checkpoint; `VALIDATION/VIEW` is
that of a view."""


def check_prompts(
    recipe: Recipe,
    problems: Sequence[Problem],
    validation: Sequence[Problem],
    style: Style,
    unusable: Mapping[Path | bytes, str] | None = None,
) -> None:
    """Build the text of every prompt that the run may need, and decode its image.

    A fault is then reported at the start of the run, not after hours.

    Args:
        recipe: The recipe.
        problems: The problems it trains on.
        validation: The problems it is validated on.
        style: Of the prompts.
        unusable: `unusable_images` of all these problems, if the caller has it.

    Raises:
        UserError: A view is a control, or a problem lacks the words of a view or a usable diagram.
    """
    unusable = unusable_images([*problems, *validation]) if unusable is None else unusable
    _check_graders(recipe, [*problems, *validation])
    for number, stage in enumerate(recipe.stages, start=1):
        where = f"stage {number} ({stage.title})"
        for view in stage.views:
            _check_view(view, "trained on")
            build = functools.partial(
                training_prompt, view=view, style=style, contrastive=stage.paired
            )
            _check(where, problems, unusable, build)
            for twin in dict.fromkeys(twin.view for twin in stage.twins if twin.view):
                _check_view(twin, "a twin")
                paired = functools.partial(twin_prompt, rollout=view, twin=twin, style=style)
                _check(where, problems, unusable, paired)
        if any(twin.picture == "swapped" for twin in stage.twins):
            with_other_pictures(problems)
        if stage.reward.reading and not any(
            to_read((*structural_conditions(problem, style), *problem.semantic), problem.question)
            for problem in problems
        ):
            raise UserError(
                f"{where}: reward.reading={stage.reward.reading}: no problem has a condition with"
                " a value that could be read: train on a data set with such clauses, or set"
                " reward.reading=0."
            )
        for view in stage.validation_views if stage.validates else ():
            _check_view(view, "validated in")
            build = functools.partial(
                training_prompt, view=view, style=style, contrastive=stage.paired
            )
            remedy = " Or turn validation off with --set eval_every=0."
            _check(f"the validation of {where}", validation, unusable, build, remedy)


def _check_graders(recipe: Recipe, problems: Sequence[Problem]) -> None:
    """Refuse answers that the built-in reward cannot grade: it reads numbers."""
    if all(stage.settings.reward_function for stage in recipe.stages):
        return
    for problem in problems:
        if problem.grader and parse_number(problem.answer) is None:
            raise UserError(
                f"the answer {problem.answer!r} of problem {problem.id} is no number, and the"
                " reward grades numbers: train on free-form problems (--benchmark geometry3k"
                " instead of geometry3k-choices), or give --set reward.function=module:function."
            )


def _check_view(view: str, use: str) -> None:
    if get_view(view).picture not in ("own", "none"):
        raise UserError(
            f"view {view!r} cannot be {use}: choose full-text, image-only or text-only."
        )


def unusable_images(problems: Sequence[Problem]) -> dict[Path | bytes, str]:
    """The images of problems that cannot be used, and why; each image is decoded."""
    found: dict[Path | bytes, None] = {}  # without duplicates, in order
    for problem in problems:
        if problem.image is not None and not _absence(problem):
            found[problem.image] = None
    images = list(found)
    seen = zip(images, inspect_all(images, thorough=True), strict=True)
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
            elif problem.own_images:  # the problem's image may show what the view omits
                faults[problem.id] = (
                    f"problem {problem.id} has images of its own for some views, and training shows"
                    " one image in every view: train on another data set."
                )
            elif problem.image is not None and (fault := unusable.get(problem.image)):
                faults[problem.id] = (
                    f"problem {problem.id}: {problem.image_name()} {fault}: replace it, or leave"
                    " the problem out; `modgap data check DATA --benchmark NAME` names every one."
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
    if isinstance(problem.image, Path) and not problem.image.is_file():
        return f"has no file {problem.image}"
    return ""


def validation_metrics(accuracies: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a validation, `VALIDATION` first; none where nothing was validated.

    Args:
        accuracies: View -> accuracy.
    """
    if not accuracies:
        return {}
    of_views = {f"{VALIDATION}/{view}": accuracy for view, accuracy in accuracies.items()}
    mean = sum(accuracies.values()) / len(accuracies)
    return {VALIDATION: accuracies.get(VALIDATION_VIEW, mean), **of_views}


def split_validation(
    recipe: Recipe, problems: Sequence[Problem], validation: Sequence[Problem] | None
) -> tuple[list[Problem], Sequence[Problem]]:
    """The problems to train on, and those to validate on.

    Args:
        recipe: The recipe.
        problems: The train split.
        validation: The problems to validate on, if the caller has them.

    Raises:
        UserError: The recipe is validated on the test split, and the caller has none; or there is
            no problem to train on.
    """
    if not problems:
        raise UserError("there is no problem to train on: give a data set with a train split.")
    if validation is not None:
        return list(problems), validation
    if recipe.validates_on_test:
        raise UserError(
            "validation_split=test: there is no test split: give a data set that has one, or leave"
            " validation_split out."
        )
    return hold_out(problems, recipe.held_out)


def reward_of(settings: Settings) -> RewardFunction:
    """The reward that the settings name: the user's function, or the built-in one.

    Raises:
        UserError: There is no such function.
    """
    if settings.reward_function:
        function: RewardFunction = registry.load(settings.reward_function)
        if not callable(function):
            raise UserError(
                f"reward.function={settings.reward_function} is not a function: name one as"
                " module:function."
            )
        return function
    return lambda response, gold: graded_reward(response, gold, settings.reward_tolerance)


def load_for_training(
    load_policy: LoadPolicy, start: str | Path, settings: Settings
) -> TrainablePolicy:
    """Load a model whose trained weights are fp32.

    At the paper's learning rate, updates of bf16 weights would be rounded away. With LoRA the
    frozen weights keep the loader's type (bf16 on a GPU).
    """
    torch.manual_seed(settings.seed)  # adapters are initialized at random
    policy = load_policy(
        start,
        dtype=None if settings.lora_rank else "float32",
        lora=settings.lora_rank or None,
        frozen=settings.frozen,
        gradient_checkpointing=settings.gradient_checkpointing,
    )
    for parameter in policy.parameters():
        parameter.data = parameter.data.float()
    policy.model.train()
    return policy


def identity(recipe: Recipe, number: int, origin: str, style: Style) -> dict[str, Any]:
    """The arguments that identify a stage.

    Settings that only change speed, memory or the saving interval are left out. So is the recipe's
    name: recipes with the same first stages may share them.
    """
    stage = recipe.stages[number - 1]
    settings = asdict(stage.settings)
    for name in ("gradient_checkpointing", "save_every"):
        del settings[name]
    for name in NOT_IN_OLDER:
        if settings[name] == getattr(Settings(), name):
            del settings[name]
    if stage.settings.loss_mean == "mini_batch":
        del settings["micro_batch"]
    for name in OF_THE_KL:
        settings[name] = stage.setting(name)
    if math.isinf(stage.settings.max_refills):
        settings["max_refills"] = "inf"  # JSON has no infinity
    names = {attribute: name for name, attribute in NAMES.items()}
    return {
        "stage": number,
        "views": list(stage.views),
        "contrastive": any(term.contrastive for term in stage.all_terms),
        "start": origin,
        "style": style,
        **{names[key]: value for key, value in settings.items()},
        **_further(stage),
    }


def identities(recipe: Recipe, model: str | Path, job: Job) -> list[dict[str, Any]]:
    """The arguments that identify each stage of a training that starts from a model."""
    # A base model is known by its fingerprint, wherever it lies.
    origins = [str(model) if job.fingerprint is None else "the base model"]
    origins += [f"{job.start_from} of stage{number}" for number in range(1, len(recipe.stages))]
    return [identity(recipe, n, origin, job.style) for n, origin in enumerate(origins, start=1)]


def marks(
    job: Job, train: Sequence[Problem], validation: Sequence[Problem]
) -> dict[str, str | None]:
    """The fingerprints of a training: of the base model and of the problems."""
    return {
        "model": job.fingerprint,
        "data": digest(train),
        "validation": digest(validation),
    }


def _further(stage: Stage) -> dict[str, Any]:
    """What identifies a stage beyond the paper's objective; nothing for the paper's stages.

    The paper's KL is identified by the settings of that name, also where it is written as a term.
    """
    out: dict[str, Any] = {}
    terms = list(stage.all_terms)
    kl = next((term for term in terms if term.contrastive), None)
    if kl is not None:
        terms.remove(kl)
    if terms:
        out["terms"] = [term.changes() for term in terms]
    if not stage.reward.plain:
        out["reward"] = {key: float(value) for key, value in asdict(stage.reward).items()}
    if not stage.policy_loss:
        out["policy_loss"] = False
    return out


def digest(problems: Sequence[Problem]) -> str:
    """A digest of the problems' texts and of their images' contents, not of the images' paths."""
    hasher = hashlib.sha256()
    for p in problems:
        image = None if p.image is None or _absence(p) else _image_digest(p.image_bytes())
        # Manifests record this digest: the order and the types of these fields must not change.
        fields = (p.id, p.question, p.answer, p.structural, p.semantic, p.own_words, image)
        hasher.update(repr(fields).encode())
        # Left out where the words of views are given: older data sets keep their digest.
        if p.own_questions and not p.own_words:
            hasher.update(repr(p.own_questions).encode())
    return hasher.hexdigest()[:16]


def _image_digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() + ("" if is_plain(data) else CONVERTED)
