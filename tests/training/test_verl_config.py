"""Recipe -> verl's configuration, its checks and the estimate; nothing here needs verl (see
tests/on_verl for that).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_families import build_family

from modgap.cli.main import main
from modgap.core import registry
from modgap.core.assign import apply_settings
from modgap.core.errors import UserError
from modgap.core.recipe import Recipe, Settings, Stage
from modgap.core.terms import Term
from modgap.datasets.synthetic.write import write_dataset
from modgap.models.load import tiny_folder
from modgap.training.plan import gpu, lengths_of, trained_parameters
from modgap.training.shape import GIB, SHAPES, shape_of
from modgap.training.verl.config import (
    Files,
    Model,
    layout,
    read_terms,
    stage_overrides,
    to_hydra,
)
from modgap.training.verl.cost import (
    Layout,
    flops,
    longest_row,
    resident,
    seconds,
    update_memory,
)
from modgap.training.verl.plan import disk, plan, stage_files

SEVEN = SHAPES["Qwen/Qwen2.5-VL-7B-Instruct"]
MODEL = Model("Qwen/Qwen2.5-VL-7B-Instruct", SEVEN)
FILES = Files(("train.parquet",), ("validation.parquet",), "verl", "metrics.jsonl", "tensorboard")
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
SIX = ("full-text", "no-text", "mix", "curriculum", "kl", "kl-curriculum")


def load(name: str, *settings: str) -> Recipe:
    return apply_settings(registry.RECIPES.load(name)(), settings)


def overrides(
    *settings: str, name: str = "full-text", stage: int = 0, **arguments: Any
) -> dict[str, Any]:
    return stage_overrides(
        load(name, *settings).stages[stage], arguments.pop("model", MODEL), FILES, **arguments
    )


# The paper's settings


@pytest.mark.parametrize("name", SIX)
def test_every_setting_of_the_papers_scripts_is_there(name: str) -> None:
    for stage in load(name).stages:
        got = stage_overrides(stage, MODEL, FILES)
        assert read_terms(got[f"+{ACTOR}.fsdp_config.terms"]) == stage.all_terms
        response = 4000 if stage.contrastive else 4096
        assert got | {
            "algorithm.adv_estimator": "grpo", "algorithm.filter_groups.enable": True,
            "algorithm.filter_groups.metric": "reward", "data.train_batch_size": 512,
            "data.max_prompt_length": 1024, "data.max_response_length": response,
            f"{ACTOR}.optim.lr": 1e-6, f"{ACTOR}.ppo_mini_batch_size": 128,
            f"{ACTOR}.clip_ratio_low": 0.2, f"{ACTOR}.clip_ratio_high": 0.28,
            f"{ACTOR}.clip_ratio_c": 10.0, f"{ACTOR}.loss_agg_mode": "token-mean",
            f"{ACTOR}.entropy_coeff": 0, f"{ACTOR}.use_kl_loss": False, f"{ROLLOUT}.n": 5,
            f"{ROLLOUT}.temperature": 0.8, "reward.reward_manager.name": "dapo",
            "+reward.reward_kwargs.overlong_buffer_cfg.enable": True,
            "+reward.reward_kwargs.overlong_buffer_cfg.len": 1024,
            "+reward.reward_kwargs.overlong_buffer_cfg.penalty_factor": 1.0,
            "+reward.reward_kwargs.max_resp_len": response, "trainer.save_freq": 40,
            "trainer.test_freq": 10, "trainer.n_gpus_per_node": 8, "trainer.nnodes": 1,
            "trainer.total_training_steps": stage.settings.steps,
            f"{ACTOR}.ppo_micro_batch_size_per_gpu": 2 if stage.contrastive else 4,
        } == got  # fmt: skip


# What may be passed on as it is, so that the two tests below can demand every setting of
# `Settings`.
_NOT_VERLS = {
    "max_refills", "micro_batch", "kl_coef", "reward_function", "freeze",
    "freeze_vision",
    "gradient_checkpointing", "lora_rank", "validation_problems", "prompts_per_step",
    "dynamic_sampling", "validation_views", "validation_split",
}  # fmt: skip
_OTHER: dict[str, Any] = {
    "kl_estimator": "forward", "kl_clamp": "none", "loss_mean": "micro_batch",
    "reward_tolerance": "exact",
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in Settings.__dataclass_fields__ if n not in _NOT_VERLS])
def test_no_setting_is_lost_on_the_way(name: str) -> None:
    plain = Settings()
    value = getattr(plain, name)
    other = _OTHER.get(name) or (value // 2 or 3 if isinstance(value, int) else value / 2)
    changed = Stage(("full-text",), contrastive=True, settings=replace(plain, **{name: other}))
    before = stage_overrides(Stage(("full-text",), contrastive=True), MODEL, FILES)
    after = stage_overrides(changed, MODEL, FILES)
    if name.startswith("kl_"):
        terms = [overrides[f"+{ACTOR}.fsdp_config.terms"] for overrides in (before, after)]
        assert read_terms(terms[1]) == changed.all_terms != read_terms(terms[0])
        return
    follow = r"gpu_memory_utilization|max_token_len|use_dynamic_bsz|offload|gradient_checkpointing"
    different = {
        key: value
        for key, value in after.items()
        if value != before[key] and not re.search(follow, key)
    }
    assert different and all(
        value in (other, other + 1 if isinstance(other, int) else other)
        for value in different.values()
    )


def test_a_plain_stage_has_no_contrastive_term_and_a_stage_without_sampling_again_says_so() -> None:
    key = f"+{ACTOR}.fsdp_config.terms"
    assert overrides("kl_coef=0.5")[key] == ""
    assert overrides("kl_coef=0", name="kl", stage=1)[key] == ""
    (term,) = read_terms(overrides("kl_coef=0.5", name="kl", stage=1)[key])
    assert term.contrastive and term.coef == 0.5
    assert overrides("dynamic_sampling=false")["algorithm.filter_groups.enable"] is False


def test_zero_means_never_or_at_the_end() -> None:
    got = overrides("save_every=0", "eval_every=0", "overlong_buffer=0", "steps=7")
    assert (got["trainer.save_freq"], got["trainer.test_freq"]) == (7, -1)
    assert got["+reward.reward_kwargs.overlong_buffer_cfg.enable"] is False


def test_the_reward_is_the_built_in_one_or_the_users() -> None:
    path, function = (
        "reward.custom_reward_function.path",
        "+reward.custom_reward_function.reward_kwargs.function",
    )
    assert overrides()[path] == "pkg://modgap.rewards"
    own = overrides("reward.function=mine:score")
    assert own[path] == "pkg://modgap.training.verl.reward" and own[function] == "mine:score"


def test_a_reward_of_the_users_is_scored_as_in_the_local_engine() -> None:
    from modgap.training.verl.reward import compute_score

    got = compute_score(
        "9k", "<think>a</think>\\boxed{2}", "2", function="modgap.grading.answer:reward", ignored=1
    )
    assert got == {"score": 1.0, "acc": 1.0, "format": 1.0}
    assert compute_score("9k", None, "2", function="modgap.grading.answer:reward")["acc"] == 0.0


# Passing on


def test_any_key_of_verl_can_be_set_and_the_last_value_counts() -> None:
    got = overrides(
        f"verl.{ACTOR}.optim.lr=2e-6", "verl.trainer.logger=[file]",
        "verl.reward.reward_kwargs.max_resp_len=9", "verl.+data.extra=a=b", "verl.trainer.nnodes=1",
        "stage1.verl.trainer.nnodes=2",
    )  # fmt: skip
    assert (
        got[f"{ACTOR}.optim.lr"] == 2e-6
        and got["+data.extra"] == "a=b"
        and got["trainer.nnodes"] == 2
    )
    assert (
        got["+reward.reward_kwargs.max_resp_len"] == 9
        and "reward.reward_kwargs.max_resp_len" not in got
    )
    assert "trainer.logger=[file]" in to_hydra(got)


@pytest.mark.parametrize(
    "text",
    [
        "[console,file]",
        "null",
        "{a:1,b:[x,y]}",
        "[1,2]",
        "true",
        "1e-6",
        "a b",
        "${x.y}",
        "[[1],[]]",
    ],
)
def test_a_value_survives_the_file_that_verl_is_started_with(text: str) -> None:
    out = overrides(f"verl.+data.extra={text}")
    line = next(line for line in to_hydra(out) if line.startswith("+data.extra"))
    again = to_hydra(json.loads(json.dumps(out)))
    assert line in again
    assert line == f"+data.extra={text}" or text in ("true", "1e-6", "a b", "${x.y}")


def test_a_key_for_one_stage_stays_there() -> None:
    recipe = load("kl", f"stage2.verl.{ROLLOUT}.gpu_memory_utilization=0.5")
    assert [dict(stage.passed) for stage in recipe.stages] == [
        {},
        {f"{ROLLOUT}.gpu_memory_utilization": "0.5"},
    ]


@pytest.mark.parametrize("key", ["verl.", "verl.a b", "verl.a..b", "verl.+++a"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=r"write it as verl\.KEY=VALUE"):
        load("full-text", f"{key}=1")


def test_paths_survive_hydras_grammar() -> None:
    lines = to_hydra(
        {"a": "/data/x y, {z}'s=[1]", "b": ["/p/q.parquet"], "c": None, "d": True, "e": "pkg://m.n"}
    )
    assert lines == [
        r"a='/data/x y, {z}\'s=[1]'",
        "b=[/p/q.parquet]",
        "c=null",
        "d=True",
        "e='pkg://m.n'",
    ]


# GPUs


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
@pytest.mark.parametrize("name", SIX)
def test_every_recipe_fits_every_number_of_gpus(name: str, gpus: int) -> None:
    for stage in load(name).stages:
        got = stage_overrides(stage, MODEL, FILES, gpus=gpus)
        assert got[f"{ROLLOUT}.tensor_model_parallel_size"] <= gpus == layout(got).gpus
        assert got[f"{ACTOR}.use_dynamic_bsz"] is True
        fixed = stage_overrides(
            replace(stage, settings=replace(stage.settings, loss_mean="micro_batch")),
            MODEL, FILES, gpus=gpus,
        )  # fmt: skip
        assert fixed[f"{ACTOR}.use_dynamic_bsz"] is False
        assert 512 * 5 % (gpus * fixed[f"{ACTOR}.ppo_micro_batch_size_per_gpu"]) == 0


def test_the_layout_follows_the_gpus_that_are_asked_for() -> None:
    assert overrides("verl.trainer.n_gpus_per_node=2") == {
        **overrides(gpus=2),
        "trainer.n_gpus_per_node": 2,
    }
    assert layout(overrides("verl.trainer.nnodes=4")).gpus == 32


SHORT = ("max_response_tokens=400", "overlong_buffer=0", "max_prompt_tokens=512")


@pytest.mark.parametrize(
    ("name", "gpus", "gpu_gib", "moved"),
    [
        ("3B", 1, 140, (False, False)),
        ("3B", 1, 80, (False, False)),
        ("3B", 1, 48, (False, True)),
        ("7B", 1, 140, (False, False)),
        ("7B", 1, 80, (False, True)),
        ("7B", 1, 48, (True, True)),
        ("7B", 8, 80, (False, False)),
    ],
)
def test_weights_and_optimizer_stay_on_gpus_that_hold_them(
    name: str, gpus: int, gpu_gib: int, moved: tuple[bool, bool]
) -> None:
    model = Model(name, SHAPES[f"Qwen/Qwen2.5-VL-{name}-Instruct"])
    got = overrides(*SHORT, name="kl", stage=1, model=model, gpus=gpus, gpu_gib=gpu_gib)
    spread = layout(got)
    assert (spread.params_offload, spread.optimizer_offload) == moved


@pytest.mark.parametrize("name", ["3B", "7B"])
@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
@pytest.mark.parametrize("gib", [80, 139])
@pytest.mark.parametrize("lengths", [SHORT, ()])
def test_a_pass_fits_a_gpu_and_the_longest_row_fits_a_pass(
    name: str, gpus: int, gib: int, lengths: tuple[str, ...]
) -> None:
    shape = SHAPES[f"Qwen/Qwen2.5-VL-{name}-Instruct"]
    for number, stage in enumerate(load("kl", *lengths).stages):
        got = overrides(
            *lengths, name="kl", stage=number, model=Model(name, shape), gpus=gpus, gpu_gib=gib
        )
        spread = layout(got)
        assert spread.tokens >= longest_row(stage)
        needed = sum(update_memory(stage, shape, spread).values()) / GIB
        state = 16 * shape.parameters / gpus / GIB
        assert needed <= 0.9 * gib + 0.1 or state > 0.6 * gib
        rollout = resident(stage, shape, spread) / GIB + spread.gpu_memory * gib
        assert rollout <= 0.95 * gib or state > 0.6 * gib


def test_activations_are_computed_again_only_where_memory_asks_for_it() -> None:
    three = Model("3B", SHAPES["Qwen/Qwen2.5-VL-3B-Instruct"])
    roomy = layout(overrides(*SHORT, model=three, gpus=1, gpu_gib=139))
    narrow = layout(overrides(*SHORT, model=three, gpus=1, gpu_gib=80))
    assert not roomy.checkpointing and roomy.tokens > 8192
    assert narrow.checkpointing


@pytest.mark.parametrize(
    "setting",
    [f"{ACTOR}.fsdp_config.optimizer_offload=True", f"{ROLLOUT}.gpu_memory_utilization=0.8"],
)
def test_what_is_passed_on_counts_for_what_a_gpu_holds(setting: str) -> None:
    given = {"model": Model("3B", SHAPES["Qwen/Qwen2.5-VL-3B-Instruct"]), "gpus": 1}
    assert not layout(overrides(**given, gpu_gib=140)).optimizer_offload
    assert layout(overrides(f"verl.{setting}", **given, gpu_gib=140)).optimizer_offload


def test_what_the_user_says_of_a_pass_is_kept_and_the_rest_follows() -> None:
    given = {"model": Model("3B", SHAPES["Qwen/Qwen2.5-VL-3B-Instruct"]), "gpus": 1}
    again = "verl.actor_rollout_ref.model.enable_gradient_checkpointing"
    plain = layout(overrides(*SHORT, **given, gpu_gib=139))
    forced = layout(overrides(*SHORT, f"{again}=True", **given, gpu_gib=139))
    assert forced.checkpointing and forced.tokens > plain.tokens
    kept = layout(overrides(*SHORT, f"{again}=False", **given, gpu_gib=80))
    assert not kept.checkpointing and kept.tokens < 8192
    small = f"verl.{ACTOR}.ppo_max_token_len_per_gpu=2000"
    asked = layout(overrides(*SHORT, small, **given, gpu_gib=139))
    assert asked.tokens == 2000 and not asked.checkpointing
    halves = layout(overrides(f"verl.{ACTOR}.fsdp_config.fsdp_size=4", "verl.trainer.nnodes=2"))
    assert (halves.gpus, halves.shards) == (16, 4)


def test_small_passes_take_longer_by_the_plan() -> None:
    stage = load("kl", *SHORT).stages[1]

    def total(**changes: Any) -> float:
        spread = Layout(8, **changes)
        return sum(seconds(stage, SEVEN, lengths_of(stage), spread, gpu("H200")).values())

    assert total(rows=1) > total(rows=4) > 1.1 * total(tokens=32_768)
    assert total(tokens=2_000) > 1.1 * total(tokens=32_768)


def test_a_vllm_that_keeps_its_memory_leaves_less_for_a_pass() -> None:
    given = {"model": Model("3B", SHAPES["Qwen/Qwen2.5-VL-3B-Instruct"]), "gpus": 1}
    kept = overrides(f"verl.{ROLLOUT}.free_cache_engine=False", *SHORT, **given, gpu_gib=140)
    freed = overrides(*SHORT, **given, gpu_gib=140)
    assert layout(kept).tokens < layout(freed).tokens


def test_a_micro_batch_of_the_users_is_one_gpus_and_is_taken_for_both_passes() -> None:
    got = overrides("micro_batch=8")
    assert got[f"{ACTOR}.use_dynamic_bsz"] is False
    assert (
        got[f"{ACTOR}.ppo_micro_batch_size_per_gpu"]
        == got[f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu"]
        == 8
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ("mini_batch=128", "samples_per_prompt=5", "verl.trainer.n_gpus_per_node=7"),
            "640 rows cannot be shared by 7",
        ),
        (
            (f"verl.{ROLLOUT}.gpu_memory_utilization=abc",),
            "gpu_memory_utilization=abc: give vLLM's share",
        ),
        (("verl.data.max_response_length=9",), "use max_response_tokens"),
        ((f"verl.{ROLLOUT}.n=8",), "use samples_per_prompt"),
        ((f"verl.{ACTOR}.entropy_coeff=0.01",), "entropies are for the log"),
        ((f"verl.{ACTOR}.calculate_sum_pi_squared=True",), "does not compute it"),
        (("verl.actor_rollout_ref.model.enable_activation_offload=True",), "computed again"),
        ((f"verl.{ACTOR}.ulysses_sequence_parallel_size=2",), "does not split sequences"),
        (
            ("micro_batch=3",),
            "80 rows of a mini-batch on each GPU cannot be cut into micro-batches of 3",
        ),
        (
            (f"verl.{ROLLOUT}.tensor_model_parallel_size=16",),
            "tensor_model_parallel_size=16 does not fit 8 GPUs",
        ),
        (
            (f"verl.{ROLLOUT}.tensor_model_parallel_size=8",),
            "does not divide the model's 28 attention heads",
        ),
        (
            ("micro_batch=4", f"verl.{ROLLOUT}.log_prob_micro_batch_size_per_gpu=8"),
            "is not ppo_micro_batch_size_per_gpu=4.*micro_batch",
        ),
        (("max_prompt_tokens=4",), r"the smallest image has 4 tokens.*min_pixels"),
        (
            ("verl.+data.mm_processor_kwargs.max_pixels=1003520",),
            "images of 1280 tokens.*max_prompt_tokens above 1280",
        ),
        (
            ("loss_mean=micro_batch", f"verl.{ACTOR}.use_dynamic_bsz=True"),
            "loss_mean=micro_batch needs",
        ),
        (("verl.trainer.n_gpus_per_node=0",), "verl needs a GPU"),
        (("verl.trainer.n_gpus_per_node=two",), "n_gpus_per_node=two.*give whole numbers"),
        (("verl.trainer.nnodes=1.5",), "nnodes=1.5; give whole numbers"),
        (("verl.+data.mm_processor_kwargs.max_pixels=abc",), "max_pixels=abc: give a whole number"),
        (("verl.trainer.save_freq=-1",), "use save_every"),
        (("verl.trainer.total_training_steps=5",), "use steps"),
        (("verl.trainer.default_local_dir=/elsewhere",), "use --out"),
        (("verl.actor_rollout_ref.model.path=/my/model",), "use --model"),
        (("verl.trainer.logger=[console,wandb]",), r"logger=\[console,wandb\]: keep file in it"),
        ((f"verl.{ACTOR}.checkpoint.save_contents=[hf_model]",), "keep model in it"),
        ((f"verl.{ACTOR}.ppo_micro_batch_size_per_gpu=null",), "give a whole number"),
        (
            (f"verl.{ACTOR}.strategy=megatron",),
            "strategy=megatron: the terms' engine is for fsdp and fsdp2",
        ),
        (("freeze_vision=true",), "freeze_vision=true: .*--engine local"),
        (("freeze=merger",), "freeze=merger: .*--engine local"),
        (("verl.reward_model.reward_manager=dapo",), "ignores it"),
        (("verl.custom_reward_function.path=x.py",), "reward.function=module:function"),
        (("verl.algorithm.filter_groups.max_num_gen_batches=3",), "leave it out"),
        ((f"verl.{ACTOR}.freeze_vision_tower=True",), "--engine local"),
        ((f"verl.{ACTOR}.ppo_max_token_len_per_gpu=many",), "ppo_max_token_len_per_gpu=many: give"),
        (("verl.actor_rollout_ref.model.use_remove_padding=True",), "no padding in any case"),
        (("verl.actor_rollout_ref.model.use_fused_kernels=True",), "in chunks in any case"),
        (
            (f"verl.{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=2",),
            "does not split sequences over GPUs",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_work_is_refused_with_a_remedy(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        overrides(*settings)


@pytest.mark.parametrize(
    ("term", "words"),
    [
        (Term("image-only", "twin", "k3", teacher="ema", decay=0.9), "keeps no average"),
        (Term(picture="swapped"), "no other problem's picture"),
        (Term("image-only", estimator="full_vocab"), "needs the logits"),
    ],
)
def test_terms_that_verl_cannot_have_are_refused(term: Term, words: str) -> None:
    stage = Stage(("full-text",), terms=(term,))
    with pytest.raises(UserError) as caught:
        stage_overrides(stage, MODEL, FILES)
    assert words in str(caught.value) and "--engine local" in str(caught.value)


def test_a_frozen_teacher_is_verls_reference_policy() -> None:
    term = Term("image-only", "twin", "reverse", teacher="frozen")
    got = stage_overrides(Stage(("full-text",), terms=(term,)), MODEL, FILES)
    ref = "actor_rollout_ref.ref"
    assert got[f"{ACTOR}.use_kl_loss"] and got[f"{ACTOR}.kl_loss_coef"] == 0.0
    assert got[f"+{ref}.fsdp_config.reference"] is True
    assert read_terms(got[f"+{ref}.fsdp_config.terms"]) == (term,)
    other = replace(term, twin="text-only")
    for stage, words in (
        (Stage(("full-text",), terms=(term, other)), "scores one"),
        (Stage(("full-text",), terms=(term,), settings=Settings(lora_rank=8)), "without its"),
    ):
        with pytest.raises(UserError, match=words):
            stage_overrides(stage, MODEL, FILES)


@pytest.mark.parametrize("name", registry.RECIPES)
def test_every_recipe_has_a_plan_on_verl_or_is_refused_with_a_reason(
    name: str, tmp_path: Path
) -> None:
    recipe = load(name)
    if name in ("kl-full-vocab", "distill-ema"):
        with pytest.raises(UserError, match="--engine local"):
            plan(recipe, MODEL, tmp_path)
        return
    lines, overrides = plan(recipe, MODEL, tmp_path)
    assert len(overrides) == len(recipe.stages)
    for stage, given in zip(recipe.stages, overrides, strict=True):
        assert stage.title in "\n".join(lines)
        assert read_terms(given[f"+{ACTOR}.fsdp_config.terms"]) == stage.objective
        reading = given.get("+reward.custom_reward_function.reward_kwargs.reading", 0.0)
        assert reading == stage.reward.reading


def test_full_vocab_is_refused_where_it_counts_only() -> None:
    overrides("kl_estimator=full_vocab")
    with pytest.raises(UserError, match=r"full_vocab.*--engine local"):
        overrides("kl_estimator=full_vocab", name="kl", stage=1)


def test_a_data_set_smaller_than_a_step_is_refused() -> None:
    overrides(train_rows=512)
    with pytest.raises(UserError, match="too few training prompts: 511, and a step has 512"):
        overrides(train_rows=511)


# The estimate


def test_parameters_are_counted_exactly() -> None:
    """The published figures of the two models, and the tensors of the testbed's own file."""
    assert SEVEN.parameters == 8_292_166_656
    assert SHAPES["Qwen/Qwen2.5-VL-3B-Instruct"].parameters == 3_754_622_976
    folder = tiny_folder()
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    sizes = [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
    count = sum(math.prod(shape) for shape in sizes)
    assert shape_of(json.loads((folder / "config.json").read_text())).parameters == count


def test_parameters_of_qwen3_vl_are_counted_exactly(tmp_path: Path) -> None:
    """A small model's own tensors, and the published sizes (2.13, 4.44 and 8.77 B)."""
    folder = build_family("qwen3_vl", tmp_path / "small")
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    sizes = [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
    count = sum(math.prod(shape) for shape in sizes)
    assert shape_of(json.loads((folder / "config.json").read_text())).parameters == count
    published = {"2B": 2.13, "4B": 4.44, "8B": 8.77}
    for name, billions in published.items():
        count = SHAPES[f"Qwen/Qwen3-VL-{name}-Instruct"].parameters
        assert round(count / 1e9, 2) == billions


def test_costs_grow_as_they_should() -> None:
    plain, contrastive = load("kl").stages
    contrastive = replace(contrastive, settings=plain.settings)
    lengths = lengths_of(plain)
    one, eight = (update_memory(plain, SEVEN, Layout(gpus=n)) for n in (1, 8))
    state = "weights, gradients, AdamW"
    assert one[state] == 16 * SEVEN.parameters == 8 * eight[state]
    assert longest_row(contrastive) == 2 * longest_row(plain)
    work, twins = (flops(stage, SEVEN, lengths) for stage in (plain, contrastive))
    assert work["update"] == twins["update"] == 3 * work["old log-probs"]
    assert 0 < twins["twins"] < twins["update"] and "twins" not in work
    offloaded = Layout(params_offload=True, optimizer_offload=True)
    assert resident(plain, SEVEN, offloaded) < 0.1 * resident(plain, SEVEN, Layout())
    lora = replace(plain, settings=replace(plain.settings, lora_rank=8))
    adapter = trained_parameters(lora, SEVEN)
    assert update_memory(lora, SEVEN, Layout())[state] == one[state] / 4 + 12 * adapter

    def total(gpus: int, checkpointing: bool = False) -> float:
        spread = Layout(gpus, checkpointing=checkpointing)
        return sum(seconds(plain, SEVEN, lengths, spread, gpu("H200")).values())

    assert total(1) > 1.5 * total(2) > 2 * total(4) > 2.5 * total(8)
    assert total(1, True) > 1.05 * total(1)


def test_image_tokens_are_the_processors() -> None:
    assert MODEL.image_tokens(1280 * 28 * 28) == 1280 and MODEL.image_tokens(56 * 56) == 4
    deep = Model("8B", SHAPES["Qwen/Qwen3-VL-8B-Instruct"])
    assert deep.image_tokens(1024 * 32 * 32) == 1024


# The plan


@pytest.mark.parametrize(
    ("engine", "kind", "remedy"),
    [
        *((engine, kind, "modgap eval --engine hf or vllm")
          for engine in ("verl", "local") for kind in ("internvl", "gemma3", None)),
        *(("verl", kind, "--engine local trains it") for kind in ("qwen2_vl", "llava")),
    ],
)  # fmt: skip
def test_a_model_of_another_type_is_refused_in_one_line(
    tmp_path: Path,
    engine: str,
    kind: str | None,
    remedy: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": kind, "vision_config": {}}))
    write_dataset(tmp_path / "data", 8, 2, seed=1)
    for planned in (["--dry-run"], []):
        status = main([
            "train", "no-text", "--data", str(tmp_path / "data"), "--model", str(model),
            "--engine", engine, "--out", str(tmp_path / "out"), *planned,
        ])  # fmt: skip
        said = capsys.readouterr().err.strip()
        assert status != 0 and "\n" not in said, said
        assert planned == [] or (repr(kind) in said and remedy in said)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_where_its_problems_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["train", "kl", "--engine", "verl", "--model", "qwen2_5_vl_3b", "--dry-run"]
    for more, words in (
        (["--benchmark", "synthetic"], "synthetic draws its problems when training begins:"),
        (["--data", str(tmp_path / "none")], "the data set is not here:"),
    ):
        assert main([*asked, *more]) == 0
        assert f"{words} whether it has enough of them" in capsys.readouterr().out


def test_a_plan_says_what_a_training_would_not_get_by_with(tmp_path: Path) -> None:
    recipe = load("mix", "verl.trainer.n_gpus_per_node=1")
    lines = "\n".join(plan(recipe, MODEL, tmp_path, problems=200)[0])
    assert (
        "too few training prompts: 400, and a step has 512" in lines
        and "GiB are more than 90% of a GPU of 79 GiB" in lines
    )
    recipe = load(
        "kl", "verl.trainer.n_gpus_per_node=1", f"verl.{ROLLOUT}.gpu_memory_utilization=0.97"
    )
    assert "vLLM's share included" in "\n".join(plan(recipe, MODEL, tmp_path)[0])
    lines = "\n".join(plan(load("mix"), MODEL, tmp_path, problems=256)[0])
    assert "are fewer than" not in lines and "more than a GPU" not in lines


def test_a_plan_chains_its_stages(tmp_path: Path) -> None:
    lines, stages = plan(load("kl-curriculum"), MODEL, tmp_path)
    paths = [stage["actor_rollout_ref.model.path"] for stage in stages]
    assert paths == [
        MODEL.path,
        *(str(tmp_path / f"stage{n}/checkpoints/step_{s}") for n, s in ((1, 200), (2, 100))),
    ]
    assert [Path(stage["data.train_files"][0]).name for stage in stages] == [
        "train-full-text.parquet", "train-contrastive.parquet", "train-no-text.parquet",
    ]  # fmt: skip
    text = "\n".join(lines)
    assert text.count("memory a GPU, update") == text.count("FLOPs a step:") == 3
    assert re.search(r"verl.*(accepts every stage|validation was skipped)", lines[-1])


def test_mix_trains_on_two_files_and_a_view_without_a_file_is_refused(tmp_path: Path) -> None:
    (stage,) = load("mix").stages
    assert len(stage_files(tmp_path, 1, stage).train) == 2
    with pytest.raises(UserError, match="'text-only' cannot be trained on with verl"):
        stage_files(tmp_path, 1, Stage(("text-only",)))


def test_a_faulty_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stage 2 \(full-text \+ contrastive KL\): .*full_vocab"):
        plan(load("kl", "kl_estimator=full_vocab"), MODEL, tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["save_every=0"], "(1 checkpoint of verl's 93, the merged model 15)"),
        (["save_every=100"], "(2 checkpoints of verl's 185, the merged model 15); verl."),
        (["save_every=9", "verl.trainer.max_actor_ckpt_to_keep=1"], "(2 checkpoints of verl's 185"),
    ],
)
def test_the_disk_of_a_stage_is_that_of_the_checkpoints_it_keeps(
    settings: list[str], words: str
) -> None:
    said = str(disk(load("no-text", *settings).stages[0], SEVEN))
    assert words in said and ("keeps the newest only" in said) == words.endswith("verl.")
