"""A stage of a recipe -> the configuration of verl 0.9.1: one pure function.

Does not import verl, so a plan can be printed anywhere. `checks.py` has the checks that verl does
not make, `plan.py` runs verl's own checks on the result.

Differences from the original's scripts (a patched verl 0.5): renamed keys
(`reward.reward_manager`, `reward.custom_reward_function`,
`reward.reward_kwargs.overlong_buffer_cfg`; 0.9.1 silently ignores the old ones, so they are
refused here); FSDP2; the weights of the rollout engine are freed while the model is updated
(`free_cache_engine`); validation on problems held out of train. Refills have no bound, as in the
original.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modgap.core.errors import UserError
from modgap.core.recipe import Settings, Stage
from modgap.training.shape import GIB, Layout, Shape, estimate, image_tokens
from modgap.training.verl.checks import (
    ACTOR,
    MODEL,
    ROLLOUT,
    Model,
    Overrides,
    check_overrides,
    check_supported,
)

PLUGIN = "modgap.training.verl.plugin"
VENDOR = "modgap"
"""The name of our engine in verl's registry."""


@dataclass(frozen=True, slots=True)
class Preset:
    """Settings that depend on the number of GPUs.

    Attributes:
        tensor_parallel: GPUs of one vLLM engine.
        gpu_memory: Its share of a GPU's memory.
        micro_batch: Rows of one forward pass on one GPU.
        params_offload: Whether weights go to host memory while they are not needed.
        optimizer_offload: Whether the optimizer's moments do.
        workers: The number of agent loops, of reward workers and of storage units. Each takes a CPU
            core, and verl's default of 8 waits forever on a machine that has too few.
        offload_if_needed: Whether both stay on the GPU if they fit by the estimate.
    """

    tensor_parallel: int
    gpu_memory: float
    micro_batch: int
    params_offload: bool = False
    optimizer_offload: bool = True
    workers: int = 4
    offload_if_needed: bool = True


PRESETS: dict[int, tuple[Preset, Preset]] = {
    1: (Preset(1, 0.4, 4), Preset(1, 0.3, 2, params_offload=True)),
    2: (Preset(1, 0.4, 4), Preset(1, 0.3, 2, params_offload=True)),
    # The paper's scripts.
    8: (
        Preset(2, 0.4, 4, workers=8, offload_if_needed=False),
        Preset(4, 0.2, 2, params_offload=True, workers=8, offload_if_needed=False),
    ),
}
"""GPUs of a node -> the preset of a plain stage and of a contrastive one.

For a number of GPUs that is not here, the next smaller one is used.
"""


@dataclass(frozen=True, slots=True)
class Files:
    """Where a stage reads and writes.

    Attributes:
        train: Parquet files, one for each view.
        validation: One file, image-only.
        checkpoints: Folder of verl's checkpoints.
        metrics: File of verl's metrics, one JSON line a step.
        tensorboard: Folder.
    """

    train: tuple[str, ...]
    validation: str
    checkpoints: str
    metrics: str
    tensorboard: str


def preset_for(stage: Stage, gpus: int) -> Preset:
    """The preset of a stage on the given number of GPUs a node."""
    size = max((n for n in PRESETS if n <= gpus), default=1)
    return PRESETS[size][int(stage.contrastive)]


GPU_GIB = 80.0
"""Memory of a GPU in a plan."""
OFFLOADS = (f"{ACTOR}.fsdp_config.param_offload", f"{ACTOR}.fsdp_config.optimizer_offload")


def stage_overrides(
    stage: Stage,
    model: Model,
    files: Files,
    *,
    name: str = "stage",
    gpus: int = 8,
    flash_attention: bool = True,
    train_rows: int | None = None,
    gpu_gib: float | None = GPU_GIB,
) -> Overrides:
    """The configuration of one stage, as differences from verl's `ppo_trainer`.

    Args:
        stage: The stage, its settings resolved.
        model: The model that it starts from.
        files: Where it reads and writes.
        name: The experiment's name in logs.
        gpus: GPUs of a node, unless `verl.trainer.n_gpus_per_node` says so.
        flash_attention: Whether flash-attn is installed; without it padding is kept and attention
            is torch's.
        train_rows: Rows of the training files, if known.
        gpu_gib: Memory of a GPU; `None` if it is not known.

    Returns:
        Key to value, `stage.passed` applied last.

    Raises:
        UserError: The configuration cannot work; one line with the remedy.
    """
    s = stage.settings
    check_supported(stage)
    passed = {key.lstrip("+"): (key, _parse(value)) for key, value in stage.passed}
    _, gpus = passed.get("trainer.n_gpus_per_node", ("", gpus))
    _, nodes = passed.get("trainer.nnodes", ("", 1))
    if not all(isinstance(count, int) and count >= 1 for count in (gpus, nodes)):
        raise UserError(
            f"verl needs a GPU: trainer.n_gpus_per_node={gpus}, trainer.nnodes={nodes}; give whole"
            " numbers of at least 1."
        )
    preset = preset_for(stage, gpus)
    rows_a_gpu = s.mini_batch * s.samples_per_prompt // (gpus * nodes)
    # The default of 32 rows, and 0 for all rows, are for the local engine.
    own = s.micro_batch not in (0, Settings().micro_batch)
    micro = s.micro_batch if own else math.gcd(preset.micro_batch, max(rows_a_gpu, 1))
    parallel = preset.tensor_parallel
    if model.shape:
        parallel = math.gcd(parallel, model.shape.heads)
    custom = bool(s.reward_function)
    out: Overrides = {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": True,
        "algorithm.use_kl_in_reward": False,
        "algorithm.filter_groups.enable": s.dynamic_sampling,
        "algorithm.filter_groups.metric": "reward",
        "data.train_files": list(files.train),
        "data.val_files": [files.validation],
        "data.train_batch_size": s.prompts_per_step,
        "data.max_prompt_length": s.max_prompt_tokens,
        "data.max_response_length": s.max_response_tokens,
        "data.filter_overlong_prompts": True,
        "data.truncation": "right",
        "data.image_key": "images",
        "data.shuffle": True,
        "data.seed": s.seed,
        f"{MODEL}.path": model.path,
        f"{MODEL}.external_lib": PLUGIN,
        f"{MODEL}.use_remove_padding": flash_attention,
        f"{MODEL}.enable_gradient_checkpointing": True,
        f"{ACTOR}.strategy": "fsdp2",
        f"{ACTOR}.optim.lr": s.lr,
        f"{ACTOR}.optim.lr_warmup_steps": s.warmup_steps,
        f"{ACTOR}.optim.lr_scheduler_type": "constant",
        f"{ACTOR}.optim.weight_decay": s.weight_decay,
        f"{ACTOR}.optim.clip_grad": s.grad_clip,
        f"{ACTOR}.ppo_mini_batch_size": s.mini_batch,
        f"{ACTOR}.ppo_micro_batch_size_per_gpu": micro,
        f"{ACTOR}.use_dynamic_bsz": False,
        f"{ACTOR}.ppo_epochs": 1,
        f"{ACTOR}.use_kl_loss": False,
        f"{ACTOR}.clip_ratio_low": s.clip_low,
        f"{ACTOR}.clip_ratio_high": s.clip_high,
        f"{ACTOR}.clip_ratio_c": s.dual_clip,
        f"{ACTOR}.loss_agg_mode": "token-mean",
        f"{ACTOR}.entropy_coeff": 0,
        f"{ACTOR}.data_loader_seed": s.seed,
        f"{ACTOR}.checkpoint.save_contents": ["model", "optimizer", "extra"],
        f"{ACTOR}.fsdp_config._target_": f"{PLUGIN}.ContrastiveEngineConfig",
        f"+{ACTOR}.fsdp_config.kl_coef": s.kl_coef if stage.contrastive else 0.0,
        f"+{ACTOR}.fsdp_config.kl_estimator": s.kl_estimator,
        f"+{ACTOR}.fsdp_config.kl_clamp": s.kl_clamp,
        f"+{ACTOR}.fsdp_config.loss_mean": s.loss_mean,
        f"{ACTOR}.fsdp_config.seed": s.seed,
        f"{ACTOR}.fsdp_config.param_offload": preset.params_offload,
        f"{ACTOR}.fsdp_config.optimizer_offload": preset.optimizer_offload,
        f"{ROLLOUT}.name": "vllm",
        f"{ROLLOUT}.n": s.samples_per_prompt,
        f"{ROLLOUT}.temperature": s.temperature,
        f"{ROLLOUT}.seed": s.seed,
        f"{ROLLOUT}.tensor_model_parallel_size": parallel,
        f"{ROLLOUT}.gpu_memory_utilization": preset.gpu_memory,
        f"{ROLLOUT}.free_cache_engine": True,
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": micro,
        f"{ROLLOUT}.agent.default_agent_loop": "modgap",
        f"{ROLLOUT}.agent.num_workers": preset.workers,
        "reward.num_workers": preset.workers,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": preset.workers,
        "reward.reward_manager.name": "dapo",
        "reward.custom_reward_function.path": (
            f"pkg://{'modgap.training.verl.reward' if custom else 'modgap.rewards'}"
        ),
        "reward.custom_reward_function.name": "compute_score",
        **(
            {"+reward.custom_reward_function.reward_kwargs.function": s.reward_function}
            if custom
            else {"+reward.custom_reward_function.reward_kwargs.tolerance": s.reward_tolerance}
        ),
        "+reward.reward_kwargs.max_resp_len": s.max_response_tokens,
        "+reward.reward_kwargs.overlong_buffer_cfg.enable": s.overlong_buffer > 0,
        "+reward.reward_kwargs.overlong_buffer_cfg.len": s.overlong_buffer,
        "+reward.reward_kwargs.overlong_buffer_cfg.penalty_factor": s.overlong_penalty,
        "+reward.reward_kwargs.overlong_buffer_cfg.log": False,
        "trainer.use_v1": True,
        "trainer.v1.trainer_mode": "sync",
        "trainer.critic_warmup": 0,
        "trainer.n_gpus_per_node": gpus,
        "trainer.nnodes": nodes,
        "trainer.total_training_steps": s.steps,
        # A step is at most one epoch, so this bound is never reached before the last step.
        "trainer.total_epochs": s.steps + 1,
        "trainer.save_freq": s.save_every or s.steps,
        "trainer.test_freq": s.eval_every or -1,
        "trainer.val_before_train": False,
        "trainer.resume_mode": "auto",
        "trainer.default_local_dir": files.checkpoints,
        "trainer.project_name": "modgap",
        "trainer.experiment_name": name,
        "trainer.logger": ["console", "file", "tensorboard"],
        "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR": VENDOR,
        "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH": files.metrics,
        "+ray_kwargs.ray_init.runtime_env.env_vars.TENSORBOARD_DIR": files.tensorboard,
    }
    if not flash_attention:
        out[f"+{MODEL}.override_config.attn_implementation"] = "sdpa"
    if s.lora_rank:
        out |= {
            f"{MODEL}.lora_rank": s.lora_rank,
            f"{MODEL}.lora_alpha": 2 * s.lora_rank,
            f"{MODEL}.target_modules": "all-linear",
            f"{MODEL}.exclude_modules": ".*visual.*",
            f"{ROLLOUT}.load_format": "safetensors",
        }
    names = {key.lstrip("+"): key for key in out}
    for key, (written, value) in passed.items():
        out[names.get(key, written)] = value
    check_overrides(model, out, train_rows)
    fits = False
    if preset.offload_if_needed and model.shape and gpu_gib:
        fits = holds_all(stage, model.shape, out, gpu_gib)
    if fits:
        out |= {key: False for key in OFFLOADS if key not in passed}
    return out


def holds_all(stage: Stage, shape: Shape, out: Overrides, gpu_gib: float) -> bool:
    """Whether weights and optimizer fit on a GPU during an update and beside vLLM.

    A sixth of the memory must stay free.
    """
    spread = replace(layout(out), params_offload=False, optimizer_offload=False)
    lengths = {
        "max_prompt_tokens": out["data.max_prompt_length"],
        "max_response_tokens": out["data.max_response_length"],
    }
    cost = estimate(replace(stage, settings=replace(stage.settings, **lengths)), shape, spread)
    vllm, room = spread.gpu_memory * gpu_gib * GIB, gpu_gib * GIB * 5 / 6
    if not out[f"{ROLLOUT}.free_cache_engine"]:
        return cost.update_bytes + vllm <= room
    return cost.update_bytes <= room and cost.rollout_bytes + vllm <= room


def layout(overrides: Overrides) -> Layout:
    """How a configuration distributes a stage over GPUs, for the estimate."""
    return Layout(
        gpus=overrides["trainer.n_gpus_per_node"] * overrides["trainer.nnodes"],
        micro_batch=overrides[f"{ACTOR}.ppo_micro_batch_size_per_gpu"],
        tensor_parallel=overrides[f"{ROLLOUT}.tensor_model_parallel_size"],
        gpu_memory=overrides[f"{ROLLOUT}.gpu_memory_utilization"],
        params_offload=overrides[f"{ACTOR}.fsdp_config.param_offload"],
        optimizer_offload=overrides[f"{ACTOR}.fsdp_config.optimizer_offload"],
        checkpointing=overrides[f"{MODEL}.enable_gradient_checkpointing"],
    )


def notes(stage: Stage, model: Model) -> list[str]:
    """Notes for the reader on a stage on this engine; none of them is an error."""
    s, out = stage.settings, list[str]()
    if s.dynamic_sampling and s.max_refills != math.inf:
        out.append(
            f"max_refills={s.max_refills:g} is the local engine's: verl samples again until a step"
            " is full"
        )
    if (tokens := image_tokens(model.max_pixels)) >= s.max_prompt_tokens:
        out.append(
            f"the processor makes up to {tokens} tokens of an image: problems whose prompt is"
            f" longer than max_prompt_tokens={s.max_prompt_tokens} are left out"
        )
    if stage.contrastive and s.kl_coef:
        out.append(
            "the memory of an update counts every row of a micro-batch twice, as if all were"
            " eligible"
        )
    return out


def to_hydra(overrides: Mapping[str, Any]) -> list[str]:
    """The overrides as Hydra's command line takes them."""
    return [f"{key}={_written(value)}" for key, value in overrides.items()]


def _parse(text: str) -> Any:
    """A value of `--set verl.KEY=text` for the checks.

    A value that is neither a number nor a flag stays as written.
    """
    if text in ("True", "true"):
        return True
    if text in ("False", "false"):
        return False
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return _Raw(text)


class _Raw(str):
    """Text in Hydra's own grammar (`[a,b]`, `null`), passed on unchanged."""


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(_written(item) for item in value)}]"
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_./-][\w./-]*", value):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)
