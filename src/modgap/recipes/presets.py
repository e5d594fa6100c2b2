"""Everything that the original's scripts and checkpoints say, as settings: `--preset paper-7b`.

A preset is `key=value` assignments for the stages of a recipe, each with its source, a file and a
line of the original (`REPOSITORY` at `COMMIT`). The user's own settings come after them.

The scripts fix no last step: the budgets are those of the checkpoints that the authors evaluated,
by their names (`BUDGETS`). There are scripts for 7B only; at 3B everything but the budgets is
theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modgap.core.errors import unknown
from modgap.core.prompt import Style
from modgap.core.recipe import ENGINE_PREFIX, NAMES, Recipe, Settings, Stage, parse_value

REPOSITORY = "UCSB-NLP-Chang/Bridging-Modality-Gap"
COMMIT = "327f06b"
NAMED = "eval/mathverse/__pycache__/inference.cpython-312.pyc"
"""The compiled script with the names of the checkpoints that the authors evaluated."""

Kind = Literal["text", "vision", "mix", "kl", "other"]
_ROLLOUT = f"{ENGINE_PREFIX}actor_rollout_ref.rollout"
_FSDP = f"{ENGINE_PREFIX}actor_rollout_ref.actor.fsdp_config"

# Our key -> value and line in dapo_full-text.sh, from which the other scripts differ in the lines
# of `SCRIPTS`.
_LINES: dict[str, tuple[str, int]] = {
    "validation_split": ("test", 21),
    "validation_views": ("own", 21),
    "prompts_per_step": ("512", 22),
    "max_prompt_tokens": ("1024", 23),
    "max_response_tokens": ("4096", 24),
    "lr": ("1e-6", 30),
    "mini_batch": ("128", 32),
    "micro_batch": ("4", 33),
    "clip_low": ("0.2", 37),
    "clip_high": ("0.28", 38),
    "dual_clip": ("10.0", 39),
    "dynamic_sampling": ("true", 40),
    "max_refills": ("inf", 41),
    f"{ENGINE_PREFIX}actor_rollout_ref.model.enable_gradient_checkpointing": ("True", 48),
    f"{_FSDP}.param_offload": ("False", 49),
    f"{_FSDP}.optimizer_offload": ("True", 50),
    f"{_ROLLOUT}.tensor_model_parallel_size": ("2", 52),
    f"{_ROLLOUT}.gpu_memory_utilization": ("0.4", 54),
    f"{_ROLLOUT}.free_cache_engine": ("False", 57),
    "samples_per_prompt": ("5", 58),
    "temperature": ("0.8", 59),
    "overlong_buffer": ("1024", 66),
    "overlong_penalty": ("1.0", 67),
    f"{ENGINE_PREFIX}trainer.n_gpus_per_node": ("8", 71),
    f"{ENGINE_PREFIX}trainer.nnodes": ("1", 73),
    "save_every": ("40", 74),
    "eval_every": ("10", 75),
}
# Beside the scripts: key -> value and source.
_ELSEWHERE = {
    "reward.tolerance": ("exact", "verl/customized_reward_geo9k.py:70"),
    "loss_mean": ("micro_batch", "verl/verl/workers/actor/dp_actor.py:590"),
    "validate_before": ("true", "verl/verl/trainer/config/ppo_trainer.yaml:298"),
}
_STYLE_SOURCE = "verl/data/geo9k.py:38, eval/pgps9k/test-qwen-2d5-vl.py:51"


@dataclass(frozen=True, slots=True)
class Script:
    """One of the original's training scripts, as its difference from dapo_full-text.sh.

    Attributes:
        name: Below `verl/`.
        shift: How many lines later its arguments are.
        repeats: Whether it repeats `kl_loss_type` (line 44) as dapo_full-text.sh does; without that
            the lines after it are one less.
        values: The values that differ, by our keys.
    """

    name: str
    shift: int
    values: Mapping[str, str]
    repeats: bool = True

    def line(self, of_full_text: int) -> int:
        """The line of an argument, from its line in dapo_full-text.sh."""
        return of_full_text + self.shift - (not self.repeats and of_full_text > 44)

    def settings(self, contrastive: bool) -> Iterable[tuple[str, str, str]]:
        """Key, value and source of all that it says."""
        said = dict(_LINES)
        if contrastive:  # in the other scripts the coefficient is inert
            said["kl_coef"] = ("0.01", 47)
        for key, (value, line) in said.items():
            yield key, self.values.get(key, value), f"verl/{self.name}:{self.line(line)}"


_PARALLEL, _SHARE = f"{_ROLLOUT}.tensor_model_parallel_size", f"{_ROLLOUT}.gpu_memory_utilization"
FULL_TEXT = Script("dapo_full-text.sh", 0, {})
NO_TEXT = Script("dapo_no-text.sh", 2, {})
MIX = Script("dapo-mix.sh", 9, {"micro_batch": "16"})
CURRICULUM = Script("dapo-curriculum.sh", 1, {_PARALLEL: "1", _SHARE: "0.5"})
KL_CURRICULUM = Script("dapo-kl-curriculum.sh", 1, {_PARALLEL: "1", _SHARE: "0.5"})
KL = Script(
    "dapo_kl.sh",
    1,
    {
        "max_response_tokens": "4000", "micro_batch": "2", "save_every": "50", _PARALLEL: "4",
        _SHARE: "0.2", f"{_FSDP}.param_offload": "True",
    },
    repeats=False,
)  # fmt: skip
SCRIPTS = (FULL_TEXT, NO_TEXT, MIX, CURRICULUM, KL, KL_CURRICULUM)

Budget = tuple[tuple[int, ...], str]
"""Steps of each stage, and the checkpoint of that name."""
BUDGETS: dict[str, dict[tuple[Kind, ...], Budget]] = {
    "7b": {
        ("text",): ((200,), "qwen7b-with-text-200"),
        ("vision",): ((200,), "qwen7b-without-text-200"),
        ("mix",): ((400,), "qwen7b-mix-data-400"),
        ("kl",): ((200,), "qwen7b-kl-200"),
        ("text", "vision"): ((200, 200), "qwen7b-with-text-200-without-text-200"),
        ("vision", "text"): ((280, 200), "7b-without-text-280-with-text-200"),
        ("text", "kl"): ((200, 100), "qwen7b_with_text_200_kl_100"),
        ("text", "kl", "vision"): (
            (200, 100, 200),
            "qwen7b_with_text_200_kl_100_without_text_200",
        ),
    },
    "3b": {
        ("text",): ((240,), "qwen3b_with_text_240"),
        ("vision",): ((240,), "qwen3b_without_text_240"),
        ("mix",): ((480,), "qwen3b-mix-data-480"),
        ("kl",): ((320,), "qwen3b-kl-320"),
        ("text", "vision"): ((240, 200), "qwen3b-with-text-240-no-text-200"),
        # No such run at 3B.
        ("vision", "text"): ((280, 200), "7b-without-text-280-with-text-200"),
        ("text", "kl"): ((240, 280), "qwen3b_with_text_240_kl_280"),
        ("text", "kl", "vision"): ((240, 280, 160), "qwen3b-with-text-240-kl-280-without-text-160"),
    },
}
"""Size -> kinds of the stages -> budget."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value that a preset sets.

    Attributes:
        stage: Of this stage, from 1.
        key: As `--set` takes it.
        text: As `--set` takes it.
        source: Where the original says so.
    """

    stage: int
    key: str
    text: str
    source: str

    @property
    def assignment(self) -> str:
        """As `--set` takes it."""
        return f"stage{self.stage}.{self.key}={self.text}"


@dataclass(frozen=True, slots=True)
class Preset:
    """What the original sets for a model size.

    Attributes:
        name: On the command line.
        size: Key of `BUDGETS`.
        style: Of the prompts.
    """

    name: str
    size: str
    style: Style = "paper"

    def values(self, recipe: Recipe, passed: bool = True) -> list[Value]:
        """All that it sets for a recipe.

        What the recipe itself sets apart from the defaults (`kl-strong` its coefficient) stays, but
        for the steps.

        Args:
            recipe: As it is shipped, without the model's defaults.
            passed: Whether the engine takes verl's own settings.
        """
        found: list[Value] = []
        kinds: tuple[Kind, ...] = tuple(kind_of(stage) for stage in recipe.stages)
        budgets = _budgets(kinds, BUDGETS[self.size])
        for number, stage in enumerate(recipe.stages, start=1):
            script = script_of(kinds[: number - 1], kinds[number - 1])
            if (budget := budgets[number - 1]) is not None:
                steps, named = budget
                found.append(Value(number, "steps", str(steps), f"{NAMED} ({named})"))
            elsewhere = ((key, *said) for key, said in _ELSEWHERE.items())
            for key, text, source in (*elsewhere, *script.settings(kinds[number - 1] == "kl")):
                if key.startswith(ENGINE_PREFIX) and not passed:
                    continue
                own = _own(stage, key)
                if own is not None and _read(key, own) != _read(key, text):
                    text, source = own, f"the recipe {recipe.name}"
                found.append(Value(number, key, text, source))
        return found

    def lines(
        self, values: Sequence[Value], default: Recipe, resolved: Recipe, style: str
    ) -> list[str]:
        """The values as differences from the defaults, for a reader.

        Args:
            values: What it sets.
            default: The recipe without the preset and without the user's settings.
            resolved: The recipe with both.
            style: The style in force.
        """
        lines = [f"preset {self.name}, as differences from the defaults ({REPOSITORY}, {COMMIT}):"]
        in_force = "" if style == self.style else f"; overridden: {style}"
        lines.append(f"  style={self.style} (aligned{in_force}): {_STYLE_SOURCE}")
        for value in values:
            before, after = (
                value_of(r.stages[value.stage - 1], value.key) for r in (default, resolved)
            )
            said = _read(value.key, value.text)
            if said == before == after:
                continue
            shown = "the engine's choice" if before is None else _written(before)
            changed = "" if said == after else f"; overridden: {_written(after)}"
            lines.append(
                f"  stage {value.stage}: {value.key}={value.text} ({shown}{changed}):"
                f" {value.source}"
            )
        return lines


PRESETS: dict[str, Preset] = {f"paper-{size}": Preset(f"paper-{size}", size) for size in BUDGETS}


def find_preset(name: str) -> Preset:
    """The preset of that name, or an error that lists the names."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def kind_of(stage: Stage) -> Kind:
    """What the original would call a stage."""
    if any(term.contrastive for term in stage.all_terms):
        return "kl"
    views = frozenset(stage.views)
    kinds: dict[frozenset[str], Kind] = {
        frozenset({"full-text"}): "text",
        frozenset({"image-only"}): "vision",
        frozenset({"full-text", "image-only"}): "mix",
    }
    return kinds.get(views, "other")


def script_of(before: Sequence[Kind], kind: Kind) -> Script:
    """The script of a stage, by the kinds of the stages before it and its own."""
    last = before[-1] if before else None
    if kind == "vision" and last is not None:
        return KL_CURRICULUM if last == "kl" else CURRICULUM
    if kind == "text" and last == "text":
        return KL  # the control of `kl`: everything but the contrastive term is the same
    scripts = {"vision": NO_TEXT, "mix": MIX, "kl": KL}
    return scripts.get(kind, FULL_TEXT)


def value_of(stage: Stage, key: str) -> Any:
    """The value of a key of `--set` in a stage; `None` for a key of verl's that is not set."""
    if key.startswith(ENGINE_PREFIX):
        name = key.removeprefix(ENGINE_PREFIX)
        return {passed.lstrip("+"): text for passed, text in stage.passed}.get(name)
    return stage.setting(NAMES[key])


def _budgets(
    kinds: tuple[Kind, ...], table: Mapping[tuple[Kind, ...], Budget]
) -> list[tuple[int, str] | None]:
    """Steps of each stage and their source; `None` where nothing is known.

    Of a recipe that the authors did not run, the stages that it shares with one that they ran, then
    those of each further stage by itself.
    """
    alike: list[Kind] = list(kinds)
    for n in range(1, len(kinds)):
        if kinds[n - 1 : n + 1] == ("text", "text"):  # the control of `kl`
            alike[n] = "kl"
    shared = next((n for n in range(len(alike), 0, -1) if tuple(alike[:n]) in table), 0)
    found: list[tuple[int, str] | None] = []
    for number, kind in enumerate(alike):
        ran = tuple(alike[:shared]) if number < shared else (kind,)
        steps, named = table.get(ran, ((), ""))
        at = number if number < shared else 0
        found.append((steps[at], named) if steps else None)
    return found


def _own(stage: Stage, key: str) -> str | None:
    """What the recipe itself sets, as `--set` takes it; `None` where that is the default."""
    value = value_of(stage, key)
    default = None if key.startswith(ENGINE_PREFIX) else getattr(Settings(), NAMES[key])
    return None if value == default else _written(value)


def _read(key: str, text: str) -> Any:
    return text if key.startswith(ENGINE_PREFIX) else parse_value(key, text)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
