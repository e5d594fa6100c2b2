"""Recipes as data: stages, each with its views, its objective and its budget.

The defaults of `Settings` are the paper's. A recipe is written as its difference from another one,
with `dataclasses.replace`. Both training engines read these objects. What belongs to one engine
alone (`--set verl.KEY=VALUE`) is passed on to it as it is, beside them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from modgap.core.errors import UserError, unknown

Tolerance = Literal["exact", "strict", "relative"]
KlEstimator = Literal["k3", "forward", "full_vocab"]
KlClamp = Literal["paper", "none"]
LossMean = Literal["mini_batch", "micro_batch"]
ValidationSplit = Literal["held_out", "test"]

OWN_VIEWS = "own"
"""Value of `validation_views` for the views that a stage trains on."""

ENGINE_PREFIX = "verl."
"""Settings that begin with this are one engine's own: any key of verl's configuration."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that `--set` takes, with the paper's values as defaults.

    They are from section 4 and the original's scripts.

    Attributes:
        steps: Rollout steps of the stage; at least 1.
        prompts_per_step: Prompts kept for one step.
        samples_per_prompt: Responses sampled for each prompt: the size of a group.
        mini_batch: Prompts of one optimizer update; `prompts_per_step / mini_batch` updates a step.
        micro_batch: Rows of one forward pass; halved automatically when memory runs out. 0 means
            the whole mini-batch.
        temperature: Of the rollout, and of the log-probabilities.
        lr: Learning rate of AdamW, constant after the warm-up.
        warmup_steps: Steps over which the learning rate rises linearly.
        weight_decay: Of AdamW.
        grad_clip: Largest norm of the gradient; larger ones are scaled down.
        max_prompt_tokens: Longer prompts are left out (and counted).
        max_response_tokens: Longest response.
        clip_low: Lower clip of the ratio: 1 - clip_low.
        clip_high: Upper clip of the ratio: 1 + clip_high (DAPO's clip-higher).
        dual_clip: c of the dual clip, for negative advantages.
        loss_mean: Token-mean over the whole `mini_batch` (verl 0.9.1) or the mean of the means of
            each `micro_batch` (the original).
        dynamic_sampling: Drop groups whose rewards are all equal and sample others instead.
        max_refills: Most times that a step samples again to fill up; `inf` in the paper.
        overlong_buffer: Tokens before the response limit in which the penalty grows.
        overlong_penalty: The penalty at the limit.
        kl_coef: Coefficient of the contrastive KL (stages that are `contrastive`).
        kl_estimator: `k3` (paper), `forward` or `full_vocab`.
        kl_clamp: `paper` clamps k3 to [-10, 10], `none` does not.
        reward_tolerance: Tolerance of the training reward; `exact` is the paper's.
        reward_function: A reward of your own, `module:function`, instead of the built-in one.
        freeze_vision: Train the language model only.
        gradient_checkpointing: Trade compute for memory.
        lora_rank: Rank of LoRA adapters on the language model; 0 trains all weights.
        save_every: Steps between checkpoints; 0 for the last one only.
        eval_every: Steps between validations; 0 for none.
        validation_problems: Problems held out of train for validation.
        validation_views: Comma-separated views to validate in, or `own` for those of the stage.
        validation_split: `held_out` of train, or the whole `test` split (the original); then
            nothing is held out. The same in every stage.
        validate_before: Validate before the first step, too; logged as step 0.
        seed: Of data order and sampling.
    """

    steps: int = 200
    prompts_per_step: int = 512
    samples_per_prompt: int = 5
    mini_batch: int = 128
    micro_batch: int = 32
    temperature: float = 0.8
    lr: float = 1e-6
    warmup_steps: int = 0
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    max_prompt_tokens: int = 1024
    max_response_tokens: int = 4096
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 10.0
    loss_mean: LossMean = "mini_batch"
    dynamic_sampling: bool = True
    max_refills: float = 10
    overlong_buffer: int = 1024
    overlong_penalty: float = 1.0
    kl_coef: float = 0.01
    kl_estimator: KlEstimator = "k3"
    kl_clamp: KlClamp = "paper"
    reward_tolerance: Tolerance = "relative"
    reward_function: str = ""
    freeze_vision: bool = False
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    save_every: int = 40
    eval_every: int = 10
    validation_problems: int = 64
    validation_views: str = "image-only"
    validation_split: ValidationSplit = "held_out"
    validate_before: bool = False
    seed: int = 42

    def check(self) -> None:
        """Refuse what cannot work, before anything is loaded.

        Raises:
            UserError: A value is out of range, or two do not go together.
        """
        for name, value in asdict(self).items():
            unbounded = name == "max_refills" and value == math.inf
            if isinstance(value, float) and not math.isfinite(value) and not unbounded:
                raise UserError(f"{name}={value}: must be a finite number.")
        positive = (
            "steps", "prompts_per_step", "mini_batch", "max_prompt_tokens", "max_response_tokens",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1.")
        not_negative = (
            "micro_batch", "lr", "warmup_steps", "weight_decay", "clip_low", "clip_high",
            "max_refills", "overlong_buffer", "overlong_penalty", "kl_coef", "lora_rank",
            "save_every", "eval_every", "validation_problems",
        )  # fmt: skip
        for name in not_negative:
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)}: must not be negative.")
        for name in ("temperature", "grad_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)}: must be above 0.")
        if self.samples_per_prompt < 2:
            raise UserError(
                f"samples_per_prompt={self.samples_per_prompt}: advantages are relative to a group;"
                " give at least 2."
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed}: must be from 0 to 2**63 - 1.")
        if self.clip_low >= 1:
            raise UserError(
                f"clip_low={self.clip_low}: must be below 1, for a ratio is clipped to 1 -"
                " clip_low."
            )
        if self.dual_clip <= 1:
            raise UserError(f"dual_clip={self.dual_clip}: must be above 1.")
        if self.prompts_per_step % self.mini_batch:
            raise UserError(
                f"prompts_per_step={self.prompts_per_step} is not a multiple of"
                f" mini_batch={self.mini_batch}: a step's prompts are cut into mini-batches of"
                " equal size, so give a mini_batch that divides them with --set."
            )
        if self.overlong_buffer >= self.max_response_tokens:
            raise UserError(
                f"overlong_buffer={self.overlong_buffer} is as long as"
                f" max_response_tokens={self.max_response_tokens}, so that every response would be"
                " penalised: give --set overlong_buffer=N with a smaller N (0 turns the penalty"
                " off)."
            )


@dataclass(frozen=True, slots=True)
class Stage:
    """One training stage.

    Attributes:
        views: The views its prompts are drawn from; with several, each problem comes once in each,
            shuffled together.
        contrastive: Adds the contrastive KL between the full-text prompt and its text-free twin.
        settings: Its budget and numbers.
        passed: Settings of one engine's own as (key, value), in the order given; the last of a key
            counts.
    """

    views: tuple[str, ...]
    contrastive: bool = False
    settings: Settings = Settings()
    passed: tuple[tuple[str, str], ...] = ()

    @property
    def validates(self) -> bool:
        """Whether it validates at all."""
        return bool(self.settings.eval_every or self.settings.validate_before)

    @property
    def validation_views(self) -> tuple[str, ...]:
        """The views that it validates in, each once."""
        names = self.settings.validation_views.split(",")
        found = self.views if names == [OWN_VIEWS] else map(str.strip, names)
        return tuple(dict.fromkeys(name for name in found if name))

    @property
    def title(self) -> str:
        """What it trains on, for a reader."""
        return " + ".join(self.views) + (" + contrastive KL" if self.contrastive else "")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to train: stages in order, each starting from the checkpoint of the one before.

    Attributes:
        name: Its name on the command line.
        stages: At least one.
        summary: One line for a reader.
    """

    name: str
    stages: tuple[Stage, ...]
    summary: str = ""

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        for stage in self.stages:
            stage.settings.check()
            if not stage.validation_views:
                raise UserError(
                    f"validation_views={stage.settings.validation_views!r} names no view: give"
                    f" views, comma-separated, or {OWN_VIEWS}; eval_every=0 turns validation off."
                )
        if len({stage.settings.validation_split for stage in self.stages}) > 1:
            raise UserError(
                "validation_split differs between stages, and what is held out of train must not:"
                " set it for all of them."
            )

    @property
    def validates_on_test(self) -> bool:
        """Whether it is validated on the test split."""
        return self.stages[0].settings.validation_split == "test"

    @property
    def held_out(self) -> int:
        """Problems to hold out of train for validation; the same for every stage."""
        if self.validates_on_test:
            return 0
        return max(stage.settings.validation_problems for stage in self.stages)


_TYPES: dict[str, Any] = get_type_hints(Settings)
NAMES: dict[str, str] = {
    field.name.replace("reward_", "reward."): field.name for field in fields(Settings)
}
"""The names that `--set` takes, to the attributes of `Settings`."""


def parse_value(name: str, text: str) -> Any:
    """One value of `--set name=text`, in the type of that setting.

    Raises:
        UserError: No such setting, or not of its type; the message says what it takes.
    """
    attribute = NAMES.get(name, name)
    if attribute not in _TYPES:
        raise unknown("setting", name, NAMES)
    kind = _TYPES[attribute]
    try:
        if get_origin(kind) is Literal:
            if text not in get_args(kind):
                raise unknown(f"value of {name}", text, get_args(kind))
            return text
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                text.lower()
            ]
        return kind(text)
    except UserError:
        raise
    except (ValueError, KeyError):
        named = {bool: "true or false", int: "a whole number", float: "a number"}
        what = named.get(kind, kind.__name__)
        raise UserError(f"--set {name}={text}: {name} takes {what}.") from None


def with_defaults(recipe: Recipe, defaults: Mapping[str, Any]) -> Recipe:
    """The recipe with some settings of every stage replaced, as a small model requires.

    Raises:
        UserError: A name is not a setting.
    """
    for name in defaults:
        if NAMES.get(name, name) not in _TYPES:
            raise unknown("setting", name, NAMES)
    values = {NAMES.get(name, name): value for name, value in defaults.items()}
    return replace(
        recipe,
        stages=tuple(
            replace(stage, settings=replace(stage.settings, **values)) for stage in recipe.stages
        ),
    )


def apply_settings(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """The recipe with `key=value` settings applied, in order.

    Args:
        recipe: Where to start.
        assignments: `key=value` for every stage, `stageN.key=value` for the N-th (from 1);
            `verl.KEY=value` is passed on to that engine.

    Raises:
        UserError: No such key, stage or value; or the settings do not go together.
    """
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        key, text = key.strip(), text.strip()
        if not sign:
            raise UserError(f"--set {assignment}: write it as key=value.")
        chosen = range(len(recipe.stages))
        if key.startswith("stage") and "." in key:
            number, _, key = key.removeprefix("stage").partition(".")
            if not number.isdigit() or not 1 <= int(number) <= len(recipe.stages):
                raise UserError(
                    f"--set {assignment}: recipe {recipe.name!r} has stages 1 to"
                    f" {len(recipe.stages)}, no {number!r}."
                )
            chosen = range(int(number) - 1, int(number))
        change = _change(key, text)
        stages = tuple(
            change(stage) if i in chosen else stage for i, stage in enumerate(recipe.stages)
        )
        recipe = replace(recipe, stages=stages)
    recipe.check()
    return recipe


def _change(key: str, text: str) -> Callable[[Stage], Stage]:
    """What `key=text` does to a stage."""
    if key.startswith(ENGINE_PREFIX):
        name = key.removeprefix(ENGINE_PREFIX)
        if not re.fullmatch(r"\+{0,2}\w+(\.\w+)*", name):
            raise UserError(
                f"--set {key}={text}: write it as verl.KEY=VALUE, KEY as in verl's configuration."
            )
        return lambda stage: replace(stage, passed=(*stage.passed, (name, text)))
    attribute = NAMES.get(key, key)
    value = parse_value(key, text)
    return lambda stage: replace(stage, settings=replace(stage.settings, **{attribute: value}))
