"""Recipes as data: stages, each with its views, its objective and its budget.

The defaults of `Settings` are the paper's. A recipe is written as its difference from another one,
with `dataclasses.replace`. Both training engines read these objects. What belongs to one engine
alone (`--set verl.KEY=VALUE`) is passed on to it as it is, beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from modgap.core.errors import UserError, unknown
from modgap.core.terms import PAPER_CLAMP, Reward, Term, Twin
from modgap.core.view import get_view

Tolerance = Literal["exact", "strict", "relative"]
KlEstimator = Literal["k3", "forward", "full_vocab"]
KlClamp = Literal["paper", "none"]
LossMean = Literal["mini_batch", "micro_batch"]
ValidationSplit = Literal["held_out", "test"]

PARTS = ("tower", "merger", "language")
"""What a model consists of: the vision encoder, what brings its features to the language model, and
the rest. See `models/parts.py`."""

NOT_IN_OLDER = ("freeze", "validation_views", "validation_split", "validate_before")
"""Settings that a manifest omits at their default: older ones lack them and must still resume."""

OF_THE_KL = ("kl_coef", "kl_estimator", "kl_clamp")
"""Settings of the paper's contrastive KL."""
_OF_THE_POLICY_LOSS = ("clip_low", "clip_high", "dual_clip")

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
        kl_coef: Coefficient of the contrastive KL (stages that are `contrastive`). `termN.coef`
            sets that of any term, see `core/terms.py`.
        kl_estimator: `k3` (paper), `forward` or `full_vocab`.
        kl_clamp: `paper` clamps k3 to [-10, 10], `none` does not.
        reward_tolerance: Tolerance of the training reward; `exact` is the paper's.
        reward_function: A reward of your own, `module:function`, instead of the built-in one.
        freeze: Comma-separated parts that are not trained: `tower` (the vision encoder), `merger`
            (what brings its features to the language model), `language`.
        freeze_vision: Train the language model only; the same as `freeze=tower,merger`.
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
    freeze: str = ""
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

    @property
    def frozen(self) -> frozenset[str]:
        """The parts that are not trained."""
        named = {part.strip() for part in self.freeze.split(",") if part.strip()}
        return frozenset(named | ({"tower", "merger"} if self.freeze_vision else set()))

    @property
    def sees_frozen(self) -> bool:
        """Whether no part of the vision side is trained, so that its features need no gradient."""
        return {"tower", "merger"} <= self.frozen

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
        for part in self.frozen:
            if part not in PARTS:
                raise unknown("part to freeze", part, PARTS)
        if not set(PARTS) - self.frozen or ("language" in self.frozen and self.lora_rank):
            also = f" with lora_rank={self.lora_rank}" if self.lora_rank else ""
            raise UserError(f"freeze={self.freeze}{also}: nothing is left to train.")
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
        contrastive: The paper's contrastive KL between the full-text prompt and its text-free twin,
            with the numbers of `settings`: the same as `terms=(Term(twin="image-only",
            detach="rollout", estimator="k3", clamp=10, coef=0.01, rows="right"),)`.
        settings: Its budget and numbers.
        passed: Settings of one engine's own as (key, value), in the order given; the last of a key
            counts.
        terms: What is added to the policy loss.
        reward: What responses are rewarded for.
        policy_loss: Whether the policy loss is part of the objective; without it the terms are all.
    """

    views: tuple[str, ...]
    contrastive: bool = False
    settings: Settings = Settings()
    passed: tuple[tuple[str, str], ...] = ()
    terms: tuple[Term, ...] = ()
    reward: Reward = field(default_factory=Reward)
    policy_loss: bool = True

    def __post_init__(self) -> None:
        """Take one term, or any sequence of terms or views, as tuples."""
        for name, one in (("terms", Term), ("views", str)):
            given: Any = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, one) else tuple(given))

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
    def all_terms(self) -> tuple[Term, ...]:
        """Its terms, as they are numbered from 1: first that of `contrastive`."""
        if not self.contrastive:
            return self.terms
        s = self.settings
        clamped = s.kl_estimator == "k3" and s.kl_clamp == "paper"
        own = Term(
            twin="image-only",
            detach="rollout",
            estimator=s.kl_estimator,
            clamp=PAPER_CLAMP if clamped else None,
            coef=s.kl_coef,
            rows="right",
        )
        return (own, *self.terms)

    def setting(self, name: str) -> Any:
        """The value of a setting; those of the paper's KL are its term's, where it is in `terms`.

        Args:
            name: Attribute of `Settings`.
        """
        term = next((term for term in self.all_terms if term.contrastive), None)
        if term is not None and name == "kl_coef":
            return term.coef
        if term is not None and name == "kl_estimator":
            return term.estimator
        if term is not None and name == "kl_clamp" and term.estimator == "k3":
            return "none" if term.clamp is None else "paper"
        return getattr(self.settings, name)

    @property
    def in_force(self) -> dict[str, Any]:
        """Its settings by attribute, without those that nothing in it uses.

        These are those of a loss that its objective does not have, or of what is turned off.
        """
        unused: list[str] = []
        kl = next((term for term in self.all_terms if term.contrastive), None)
        if kl is None:
            unused += OF_THE_KL
        elif kl.estimator != "k3":
            unused.append("kl_clamp")
        if not self.policy_loss:
            unused += _OF_THE_POLICY_LOSS
        if not self.settings.dynamic_sampling:
            unused.append("max_refills")
        if not self.validates:
            unused.append("validation_views")
        names = (field.name for field in fields(self.settings))
        return {name: self.setting(name) for name in names if name not in unused}

    @property
    def objective(self) -> tuple[Term, ...]:
        """Its terms that have a coefficient."""
        return tuple(term for term in self.all_terms if term.coef)

    @property
    def twins(self) -> tuple[Twin, ...]:
        """The distinct twins of its objective, in the order of the terms."""
        found = (term.scored for term in self.objective)
        return tuple(dict.fromkeys(twin for twin in found if twin is not None))

    @property
    def scores_rollouts(self) -> bool:
        """Whether its loss needs the log-probabilities after the prompt that was rolled out."""
        alone = [term.estimator == "nll" and not term.of_itself for term in self.objective]
        return self.policy_loss or not all(alone)

    @property
    def paired(self) -> bool:
        """Whether its problems come with their text-free twin, as the paper's KL needs them."""
        return any(term.text_free for term in self.all_terms)

    @property
    def title(self) -> str:
        """What it trains on, for a reader."""
        parts = [" + ".join(self.views), *(term.title for term in self.all_terms)]
        if self.reward.reading:
            parts.append("reading reward")
        return " + ".join(parts) + ("" if self.policy_loss else ", no policy loss")

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        self.settings.check()
        if not self.validation_views:
            raise UserError(
                f"validation_views={self.settings.validation_views!r} names no view: give"
                f" views, comma-separated, or {OWN_VIEWS}; eval_every=0 turns validation off."
            )
        self.reward.check()
        for number, term in enumerate(self.all_terms, start=1):
            if not isinstance(term, Term):  # pyright: ignore[reportUnnecessaryIsInstance] - a user's
                raise UserError(f"term{number} is a {type(term).__name__}: give a `Term`.")
            term.check(f"term{number}", self.views, self.policy_loss)
        bare = [view for view in self.views if get_view(view).picture == "none"]
        if bare and "language" in self.settings.frozen:
            raise UserError(
                f"freeze={self.settings.freeze}: the view {bare[0]!r} has no picture, so that"
                " nothing would be trained: leave the view or the freezing out."
            )
        objective = self.objective
        advantages = any(term.role == "advantage" for term in objective)
        rewarded = self.policy_loss and (self.reward.answer or self.reward.reading or advantages)
        if not rewarded and all(term.role != "loss" for term in objective):
            what = "has no reward" if self.policy_loss else "has no policy loss"
            raise UserError(
                f"the stage {self.title} {what} and no term that is a loss, so that nothing would"
                " be trained: give it one."
            )
        dropped = self.settings.dynamic_sampling and not (self.reward.answer or self.reward.reading)
        if dropped:
            raise UserError(
                "reward.answer=0: all rewards would be equal, and dynamic_sampling drops groups of"
                " equal rewards: set dynamic_sampling=false."
            )


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
            stage.check()
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
STAGE_NAMES: dict[str, type] = {
    "reward.answer": float,
    "reward.reading": float,
    "policy_loss": bool,
}
"""The names that `--set` takes beside those and `termN.NAME`, with their types."""


def parse_value(name: str, text: str) -> Any:
    """One value of `--set name=text`, in the type of that setting.

    Raises:
        UserError: No such setting, or not of its type; the message says what it takes.
    """
    attribute = NAMES.get(name, name)
    if attribute not in _TYPES:
        remedy = "docs/reference/settings.md has all of them."
        raise unknown("setting", name, [*NAMES, *STAGE_NAMES, "term1.coef"], remedy)
    return typed(name, _TYPES[attribute], text)


def typed(name: str, kind: Any, text: str) -> Any:
    """The value of a text in a type. Raises `UserError`: it is not of that type."""
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
