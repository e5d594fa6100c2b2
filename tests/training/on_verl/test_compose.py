"""The configuration through verl's own classes and validation: every recipe, every preset, every
fault.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl has an environment of its own: make test-verl")

import torch

from modgap.cli.main import main
from modgap.core import registry
from modgap.core.assign import apply_settings
from modgap.core.errors import UserError
from modgap.core.options import TrainOptions
from modgap.core.problem import Problem
from modgap.core.recipe import Recipe
from modgap.datasets.parquet import write_parquet
from modgap.recipes.presets import value_of
from modgap.training.shape import SHAPES
from modgap.training.verl.config import Files, Model, stage_overrides
from modgap.training.verl.log import metrics_line
from modgap.training.verl.plan import VERSION, compose
from modgap.workflows.train import resolve_recipe

MODEL = Model("Qwen/Qwen2.5-VL-7B-Instruct", SHAPES["Qwen/Qwen2.5-VL-7B-Instruct"])
FILES = Files(
    ("/data/a b/train.parquet",),
    ("/data/v.parquet",),
    "/out/verl",
    "/out/metrics.jsonl",
    "/out/tensorboard",
)
SIX = ("full-text", "no-text", "mix", "curriculum", "kl", "kl-curriculum")


def load(name: str, *settings: str) -> Recipe:
    return apply_settings(registry.RECIPES.load(name)(), settings)


def composed(*settings: str, name: str = "full-text", stage: int = 0, **arguments: Any) -> Any:
    return compose(stage_overrides(load(name, *settings).stages[stage], MODEL, FILES, **arguments))


def test_this_is_the_verl_that_the_plugin_is_for() -> None:
    from importlib import metadata

    assert metadata.version("verl") == VERSION


@pytest.mark.parametrize("gpus", [1, 2, 8])
@pytest.mark.parametrize("name", SIX)
def test_all_six_recipes_are_valid_on_every_preset(name: str, gpus: int) -> None:
    for stage in load(name).stages:
        config = compose(stage_overrides(stage, MODEL, FILES, gpus=gpus))
        assert config.trainer.n_gpus_per_node == gpus and list(config.data.train_files) == list(
            FILES.train
        )


@pytest.mark.parametrize("size", ["2B", "4B", "8B"])
def test_a_qwen3_vl_is_valid_in_both_stages_of_kl(size: str) -> None:
    name = f"Qwen/Qwen3-VL-{size}-Instruct"
    for stage in load("kl").stages:
        config = compose(stage_overrides(stage, Model(name, SHAPES[name]), FILES, gpus=2))
        assert config.actor_rollout_ref.model.path == name


@pytest.mark.parametrize("preset", ["paper-7b", "paper-3b"])
@pytest.mark.parametrize("name", [*SIX, "kl-from-base", "reverse-curriculum"])
def test_the_papers_presets_are_valid_with_every_recipe(name: str, preset: str) -> None:
    options = TrainOptions(engine="verl", preset=preset)
    for stage in resolve_recipe(name, (), {}, options).stages:
        config = compose(stage_overrides(stage, MODEL, FILES, gpus=8))
        actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
        assert not actor.use_dynamic_bsz
        assert actor.ppo_micro_batch_size_per_gpu == stage.settings.micro_batch
        assert rollout.log_prob_micro_batch_size_per_gpu == stage.settings.micro_batch
        parallel = value_of(stage, "verl.actor_rollout_ref.rollout.tensor_model_parallel_size")
        assert rollout.tensor_model_parallel_size == int(parallel)
        assert config.trainer.val_before_train and not rollout.free_cache_engine


def test_verl_reads_several_validation_files_and_its_metrics_tell_the_views_apart(
    tmp_path: Path,
) -> None:
    """The files through verl's own reader, its metrics through ours."""
    import io

    from PIL import Image
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    import datasets

    picture = io.BytesIO()
    Image.new("RGB", (56, 56)).save(picture, "PNG")
    problems = [
        Problem(id=f"p{n}", question="Find x.", answer="1.000", image=picture.getvalue())
        for n in range(4)
    ]
    sources: list[str] = []
    frames: list[Any] = []
    for variant, view in (("full-text", "full-text"), ("no-text", "image-only")):
        path = tmp_path / f"{view}.parquet"
        write_parquet(problems, path, variant, "paper", source=view)
        frames.append(datasets.load_dataset("parquet", data_files=str(path))["train"])
    rows = datasets.concatenate_datasets(frames)  # as RLHFDataset does
    sources = list(rows["data_source"])
    assert sources == ["full-text"] * 4 + ["image-only"] * 4
    right = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    ids = [f"u{n}" for n in range(8)]
    metrics = PPOTrainer._val_metrics_update(
        None, sources, ids, {"reward": right, "acc": right}, [],
        dict.fromkeys(zip(sources, ids, strict=True), 1),
    )  # fmt: skip
    line = metrics_line(0, metrics, 1, 100, 16)
    assert line == {
        "step": 0, "stage": 1, "validation_accuracy": 0.25,
        "validation_accuracy/full-text": 0.75, "validation_accuracy/image-only": 0.25,
    }  # fmt: skip


def test_values_arrive_where_verl_reads_them() -> None:
    from verl.trainer.ppo.reward import get_custom_reward_fn
    from verl.utils.config import omega_conf_to_dataclass

    config = composed(name="kl", stage=1)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert actor.engine.stage.objective == load("kl").stages[1].objective
    assert actor.engine.policy_loss and not actor.engine.reference
    assert (
        actor.engine.loss_mean == "mini_batch"
        and actor.engine.strategy == actor.strategy == "fsdp2"
    )
    assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.clip_ratio_c) == (0.2, 0.28, 10.0)
    assert (actor.optim.lr, actor.optim.clip_grad, actor.optim.weight_decay) == (1e-6, 1.0, 0.01)
    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    assert (rollout.n, rollout.temperature, rollout.agent.default_agent_loop) == (5, 0.8, "modgap")
    algorithm = omega_conf_to_dataclass(config.algorithm)
    assert algorithm.filter_groups.enable and algorithm.filter_groups.metric == "reward"
    reward = get_custom_reward_fn(config)
    assert reward is not None
    right = reward("9k", "<think>a</think>\\boxed{4.02}", "4.000")
    assert right == {
        "score": 0.1,
        "acc": 0.0,
        "format": 1.0,
        "ungraded": 0.0,
    }  # a whole gold has no tolerance of 1%
    assert reward("9k", "<think>a</think>\\boxed{4.53}", "4.500")["acc"] == 1.0


def test_the_rewards_tolerance_and_a_users_own_arrive(tmp_path: Path) -> None:
    from verl.trainer.ppo.reward import get_custom_reward_fn

    exact: Any = get_custom_reward_fn(composed("reward.tolerance=exact"))
    assert exact("9k", "<think>a</think>\\boxed{4.53}", "4.500")["acc"] == 0.0
    own: Any = get_custom_reward_fn(composed("reward.function=modgap.grading.answer:reward"))
    assert own("9k", "<think>a</think>\\boxed{4.5}", "4.500")["acc"] == 1.0


def test_dapos_reward_manager_takes_the_overlong_buffer() -> None:
    config = composed("max_response_tokens=100", "overlong_buffer=20")
    buffer = config.reward.reward_kwargs.overlong_buffer_cfg
    assert (
        config.reward.reward_kwargs.max_resp_len, buffer.enable, buffer.len, buffer.penalty_factor,
    ) == (100, True, 20, 1.0)  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "verl.actor_rollout_ref.rollout.temperatur=1",
            r"no setting 'actor_rollout_ref.rollout.temperatur'.*verl\.\+",
        ),
        ("verl.+actor_rollout_ref.actor.temperatur=1", "refuses.*temperatur"),
        ("verl.actor_rollout_ref.actor.loss_agg_mode=mean", "refuses.*Invalid loss_agg_mode"),
        ("verl.trainer.logger=[file", "cannot read"),
    ],
)
def test_what_verl_refuses_is_one_line_with_a_remedy(setting: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        composed(setting)


def test_a_dry_run_says_that_verl_accepts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "train",
        "kl",
        "--data",
        "x",
        "--model",
        "qwen2_5_vl_3b",
        "--out",
        str(tmp_path),
        "--engine",
        "verl",
    ]
    assert main([*arguments, "--dry-run"]) == 0
    assert f"verl {VERSION} accepts every stage's configuration" in capsys.readouterr().out
    assert main([*arguments, "--dry-run", "--set", "verl.trainer.stepps=1"]) == 1
    assert "no setting 'trainer.stepps'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_plugin_is_registered_as_verls_engine_and_agent_loop() -> None:
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp import transformer_impl

    from modgap.training.verl import plugin

    assert _agent_loop_registry["modgap"]["_target_"] == (
        "modgap.training.verl.agent_loop.TwinAgentLoop"
    )
    for backend in ("fsdp", "fsdp2"):
        assert (
            EngineRegistry._engines["language_model"][backend]["cuda", "modgap"]
            is plugin.TermsEngine
        )
    assert transformer_impl.prepare_micro_batches is plugin.micro_batches
    assert PPOTrainer._balance_batch is plugin.balance_batch


def test_a_cluster_of_ones_own_is_set_whether_or_not_verl_has_the_key() -> None:
    """As a launch sets it, on a machine where a killed cluster has left its address."""
    address, stage = "ray_kwargs.ray_init.address", load("full-text").stages[0]
    for more in ({}, {f"+{address}": "auto"}):
        overrides = stage_overrides(stage, MODEL, FILES) | more | {f"++{address}": "local"}
        assert compose(overrides).ray_kwargs.ray_init.address == "local"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_verl_itself_fails_in_one_line_and_leaves_no_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray, TransferQueue and the V1 trainer start, read the data, and find no GPU."""
    assert (
        main(["data", "synth", "--out", str(tmp_path / "data"), "--train", "40", "--test", "2"])
        == 0
    )
    given = [
        "--data",
        str(tmp_path / "data"),
        "--model",
        "tiny",
        "--out",
        str(tmp_path / "run"),
        "--engine",
        "verl",
    ]
    settings = [
        "steps=1",
        "verl.trainer.n_gpus_per_node=1",
        "verl.ray_kwargs.ray_init.num_cpus=32",
        # A named cluster is not checked for GPUs beforehand; `local` starts one here.
        "verl.+ray_kwargs.ray_init.address=local",
    ]
    before = running()
    assert (
        main(
            ["train", "full-text", *given, *(word for each in settings for word in ("--set", each))]
        )
        == 1
    )
    assert (
        "Total available GPUs 0 is less than total desired GPUs 1 (try --set"
        in capsys.readouterr().err
    )
    assert "dataset len: 32" in (tmp_path / "run/stage1/verl.log").read_text(errors="replace")
    assert running() <= before


def running() -> set[str]:
    """Processes that a training started, whoever adopted them."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if b"MODGAP_RUN=" in path.read_bytes():
                found.add(path.parent.name)
    return found
