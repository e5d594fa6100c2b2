"""`--preset`: what the original's scripts and checkpoints say, value for value.

The tables here are transcribed from the scripts by hand. Where `MODGAP_ORIGINAL` names a checkout
of the original repository, every value and every line that a preset names is looked up in it.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.options import TrainOptions
from modgap.core.recipe import Recipe, Settings, Stage
from modgap.recipes.presets import PRESETS, SCRIPTS, Value, find_preset, value_of
from modgap.workflows.train import other_size, resolve_recipe

ROLLOUT = "verl.actor_rollout_ref.rollout"
FSDP = "verl.actor_rollout_ref.actor.fsdp_config"

# Script -> micro-batch, vLLM's tensor parallel and share, offloading of weights, longest response,
# save interval.
TABLE = {
    "dapo_full-text.sh": ("4", "2", "0.4", "False", "4096", "40"),
    "dapo_no-text.sh": ("4", "2", "0.4", "False", "4096", "40"),
    "dapo-mix.sh": ("16", "2", "0.4", "False", "4096", "40"),
    "dapo-curriculum.sh": ("4", "1", "0.5", "False", "4096", "40"),
    "dapo_kl.sh": ("2", "4", "0.2", "True", "4000", "50"),
    "dapo-kl-curriculum.sh": ("4", "1", "0.5", "False", "4096", "40"),
}
# Recipe -> the scripts of its stages, steps at 7B, steps at 3B.
RECIPES = {
    "full-text": (["dapo_full-text.sh"], [200], [240]),
    "no-text": (["dapo_no-text.sh"], [200], [240]),
    "mix": (["dapo-mix.sh"], [400], [480]),
    "curriculum": (["dapo_full-text.sh", "dapo-curriculum.sh"], [200, 200], [240, 200]),
    "kl": (["dapo_full-text.sh", "dapo_kl.sh"], [200, 100], [240, 280]),
    "kl-curriculum": (
        ["dapo_full-text.sh", "dapo_kl.sh", "dapo-kl-curriculum.sh"],
        [200, 100, 200],
        [240, 280, 160],
    ),
    "kl-from-base": (["dapo_kl.sh"], [200], [320]),
    "reverse-curriculum": (["dapo_no-text.sh", "dapo_full-text.sh"], [280, 200], [280, 200]),
    "full-text-continued": (["dapo_full-text.sh", "dapo_kl.sh"], [200, 100], [240, 280]),
    "kl-strong": (["dapo_full-text.sh", "dapo_kl.sh"], [200, 100], [240, 280]),
}


def shipped(name: str) -> Recipe:
    return registry.RECIPES.load(name)()


def resolved(name: str | Recipe, preset: str, *settings: str, engine: str = "verl") -> Recipe:
    tiny = {"training": {"steps": 3, "max_response_tokens": 256, "prompts_per_step": 32}}
    return resolve_recipe(name, settings, tiny, TrainOptions(engine=engine, preset=preset))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", RECIPES)
def test_every_stage_has_the_values_of_its_script(name: str, preset: str) -> None:
    scripts, *steps = RECIPES[name]
    recipe = resolved(name, preset)
    assert [stage.settings.steps for stage in recipe.stages] == steps[preset == "paper-3b"]
    for stage, script in zip(recipe.stages, scripts, strict=True):
        micro, parallel, share, offload, response, save = TABLE[script]
        s = stage.settings
        assert (s.micro_batch, s.max_response_tokens, s.save_every) == (
            int(micro), int(response), int(save),
        )  # fmt: skip
        assert (s.prompts_per_step, s.samples_per_prompt, s.mini_batch) == (512, 5, 128)
        assert (s.temperature, s.lr, s.max_prompt_tokens, s.eval_every) == (0.8, 1e-6, 1024, 10)
        assert (s.clip_low, s.clip_high, s.dual_clip) == (0.2, 0.28, 10.0)
        assert (s.overlong_buffer, s.overlong_penalty, s.max_refills) == (1024, 1.0, float("inf"))
        assert (s.reward_tolerance, s.loss_mean) == ("exact", "micro_batch")
        assert recipe.held_out == 0 and recipe.validates_on_test and s.validate_before
        assert stage.validation_views == stage.views
        assert {key: value_of(stage, key) for key in (
            f"{ROLLOUT}.tensor_model_parallel_size", f"{ROLLOUT}.gpu_memory_utilization",
            f"{ROLLOUT}.free_cache_engine", f"{FSDP}.param_offload", f"{FSDP}.optimizer_offload",
            "verl.trainer.n_gpus_per_node",
        )} == {
            f"{ROLLOUT}.tensor_model_parallel_size": parallel,
            f"{ROLLOUT}.gpu_memory_utilization": share, f"{ROLLOUT}.free_cache_engine": "False",
            f"{FSDP}.param_offload": offload, f"{FSDP}.optimizer_offload": "True",
            "verl.trainer.n_gpus_per_node": "8",
        }  # fmt: skip


@pytest.mark.parametrize("name", registry.RECIPES)
def test_a_preset_leaves_a_recipe_what_makes_it_another_one(name: str) -> None:
    """What it sets apart from the paper's defaults is its own; a shared stage stays shared."""
    recipe, kl = resolved(name, "paper-7b"), resolved("kl", "paper-7b")
    for stage, plain in zip(recipe.stages, shipped(name).stages, strict=True):
        for key in ("kl_coef", "kl_estimator", "kl_clamp"):
            assert value_of(stage, key) == value_of(plain, key)
    if len(recipe.stages) > 1 and recipe.stages[0].views == ("full-text",):
        own = recipe.stages[0]
        assert replace(own, settings=replace(own.settings, steps=1)) == replace(
            kl.stages[0], settings=replace(kl.stages[0].settings, steps=1)
        )


def test_settings_of_the_user_come_last_and_the_local_engine_gets_none_of_verls() -> None:
    recipe = resolved("kl", "paper-7b", "steps=7", "stage2.lr=1e-5", f"{ROLLOUT}.seed=1")
    assert [stage.settings.steps for stage in recipe.stages] == [7, 7]
    assert [stage.settings.lr for stage in recipe.stages] == [1e-6, 1e-5]
    local = resolved("kl", "paper-7b", engine="local")
    assert all(not stage.passed for stage in local.stages)
    assert local.stages[1].settings.micro_batch == 2


@pytest.mark.parametrize(
    ("stages", "steps"),
    [
        ([("full-text",), ("image-only",), ("full-text", "image-only")], [240, 200, 480]),
        ([("image-only",), ("full-text", "image-only")], [240, 480]),
        ([("text-only",)], [200]),  # nothing like it was run: the recipe's own
    ],
)
def test_other_recipes_take_the_budgets_of_the_stages_that_they_share(
    stages: list[tuple[str, ...]], steps: list[int]
) -> None:
    recipe = Recipe("own", tuple(Stage(views) for views in stages))
    options = TrainOptions(preset="paper-3b")
    chosen = resolve_recipe(recipe, (), {}, options)
    assert [stage.settings.steps for stage in chosen.stages] == steps


def test_a_dry_run_names_every_difference_with_its_source_and_what_overrides_it() -> None:
    preset, default = find_preset("paper-3b"), shipped("kl")
    values = preset.values(default)
    lines = preset.lines(values, default, resolved("kl", "paper-3b", "stage2.steps=9"), "aligned")
    text = "\n".join(lines)
    assert "style=paper (aligned; overridden: aligned): verl/data/geo9k.py:38" in text
    assert "stage 1: steps=240 (200): eval/mathverse/__pycache__/inference" in text
    assert "stage 2: steps=280 (100; overridden: 9): eval/" in text
    assert "stage 2: micro_batch=2 (32): verl/dapo_kl.sh:34" in text
    assert f"stage 2: {ROLLOUT}.tensor_model_parallel_size=4 (the engine's choice): " in text
    assert "lr=" not in text and "kl_coef" not in text  # as the default
    with pytest.raises(UserError, match=r"preset 'paper-72b'.*paper-3b, paper-7b"):
        find_preset("paper-72b")


# Against the original

ARGUMENTS = {
    "validation_split": "data.val_files", "validation_views": "data.val_files",
    "prompts_per_step": "data.train_batch_size", "max_prompt_tokens": "data.max_prompt_length",
    "max_response_tokens": "data.max_response_length", "lr": "actor.optim.lr",
    "mini_batch": "ppo_mini_batch_size", "micro_batch": "actor.ppo_micro_batch_size_per_gpu",
    "clip_low": "clip_ratio_low", "clip_high": "clip_ratio_high", "dual_clip": "clip_ratio_c",
    "dynamic_sampling": "filter_groups.enable", "max_refills": "max_num_gen_batches",
    "samples_per_prompt": "rollout.n", "temperature": "rollout.temperature",
    "overlong_buffer": "overlong_buffer.len", "overlong_penalty": "penalty_factor",
    "save_every": "save_freq", "eval_every": "test_freq", "kl_coef": "contrastive_kl_coef",
}  # fmt: skip
SAME = {"test": "test.parquet", "own": "test.parquet", "inf": "0"}


@pytest.fixture
def original() -> Path:
    """A checkout of the original that `MODGAP_ORIGINAL` names."""
    if not (name := os.environ.get("MODGAP_ORIGINAL")):
        pytest.skip("MODGAP_ORIGINAL names no checkout of the original repository")
    return Path(name)


def said(path: Path, line: int, key: str) -> str:
    """The value of an argument in a line of a script, its variables resolved."""
    lines = path.read_text().splitlines()
    name, _, value = lines[line - 1].strip().removesuffix("\\").strip().partition("=")
    assert name.endswith(ARGUMENTS.get(key, key.removeprefix("verl."))), (name, key)
    variables = dict(re.findall(r"^(\w+)=(.*)$", "\n".join(lines), re.M))
    while found := re.search(r"\$\{?(\w+)\}?", value):
        value = value.replace(found[0], variables[found[1]].strip('"'))
    return value.split()[0] if "[" not in value else value


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", RECIPES)
def test_every_value_is_in_the_line_of_the_original_that_it_names(
    name: str, preset: str, original: Path
) -> None:
    values: list[Value] = PRESETS[preset].values(shipped(name))
    for value in values:
        place, _, where = value.source.partition(":")
        if value.key == "steps":
            named = re.search(r"\((.*)\)", value.source)
            assert named and named[1].encode() in (original / place.split()[0]).read_bytes()
            assert value.text in named[1]
        elif place.startswith("verl/dapo"):
            expected = SAME.get(value.text, value.text)
            got = said(original / place, int(where), value.key)
            assert expected in got if ".parquet" in expected else _equal(got, expected), value
    elsewhere = {value.key: value.source for value in values}
    for key, words in (
        ("reward.tolerance", "grade_answer(answer, ground_truth)"),
        ("loss_mean", "policy_loss / self.gradient_accumulation"),
        ("validate_before", "val_before_train: True"),
    ):
        place, _, where = elsewhere[key].partition(":")
        assert words in (original / place).read_text().splitlines()[int(where) - 1]


def _equal(got: str, expected: str) -> bool:
    if re.fullmatch(r"[\d.e-]+", expected):
        return float(got) == float(expected)
    return got.lower() == expected.lower()


def test_all_six_scripts_are_there(original: Path) -> None:
    found = {path.name for path in (original / "verl").glob("dapo*.sh")}
    assert found == {script.name for script in SCRIPTS} == set(TABLE)


def test_the_settings_that_a_preset_sets_exist() -> None:
    for preset in PRESETS.values():
        for value in preset.values(shipped("kl"), passed=False):
            assert value_of(Stage(("full-text",), settings=Settings()), value.key) is not None


def test_a_preset_for_another_size_is_said() -> None:
    options = TrainOptions(engine="verl", preset="paper-7b")
    assert "Qwen2.5-VL 7B" in other_size(options, "tiny")
    assert "3.8B parameters" in other_size(options, "qwen2_5_vl_3b")
    assert not other_size(options, "qwen2_5_vl_7b") and not other_size(TrainOptions(), "tiny")
