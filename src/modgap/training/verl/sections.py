"""The sections of verl's configuration, one function for each: what `config.py` puts together."""

from __future__ import annotations

import json
from dataclasses import dataclass

from modgap.core.recipe import Stage
from modgap.core.terms import Term
from modgap.training.verl.checks import ACTOR, MODEL, REF, ROLLOUT, Model, Overrides
from modgap.training.verl.cost import MOST_TOKENS, Layout

PLUGIN = "modgap.training.verl.plugin"
VENDOR = "modgap"
"""The name of our engine in verl's registry."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where a stage reads and writes.

    Attributes:
        train: Parquet files, one for each view.
        validation: Parquet files, one for each view that is validated.
        checkpoints: Folder of verl's checkpoints.
        metrics: File of verl's metrics, one JSON line a step.
        tensorboard: Folder.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    checkpoints: str
    metrics: str
    tensorboard: str


def algorithm(stage: Stage) -> Overrides:
    """GRPO, its advantages, and whether groups without a difference are dropped."""
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": True,
        "algorithm.use_kl_in_reward": False,
        "algorithm.filter_groups.enable": stage.settings.dynamic_sampling,
        "algorithm.filter_groups.metric": "reward",
    }


def data(stage: Stage, files: Files) -> Overrides:
    """The problems of a step, and how long a prompt and a response may be."""
    s = stage.settings
    return {
        "data.train_files": list(files.train),
        "data.val_files": list(files.validation),
        "data.train_batch_size": s.prompts_per_step,
        "data.max_prompt_length": s.max_prompt_tokens,
        "data.max_response_length": s.max_response_tokens,
        "data.filter_overlong_prompts": True,
        "data.truncation": "right",
        "data.image_key": "images",
        "data.shuffle": True,
        "data.seed": s.seed,
    }


def model(start: Model, spread: Layout) -> Overrides:
    """The model that the stage starts from, and its forward pass."""
    return {
        f"{MODEL}.path": start.path,
        f"{MODEL}.external_lib": PLUGIN,
        # Its forward pass, attention included, is replaced by ours, which has no padding.
        f"{MODEL}.use_remove_padding": False,
        f"+{MODEL}.override_config.attn_implementation": "sdpa",
        f"{MODEL}.enable_gradient_checkpointing": spread.checkpointing,
    }


def lora(rank: int) -> Overrides:
    """Adapters of the language model instead of its weights; none for a rank of 0."""
    if not rank:
        return {}
    return {
        f"{MODEL}.lora_rank": rank,
        f"{MODEL}.lora_alpha": 2 * rank,
        f"{MODEL}.target_modules": "all-linear",
        f"{MODEL}.exclude_modules": ".*visual.*",
        f"{ROLLOUT}.load_format": "safetensors",
    }


def actor(stage: Stage, spread: Layout, micro: int, dynamic: bool) -> Overrides:
    """The update: optimizer, passes, objective, and what leaves the GPU.

    Args:
        stage: The stage.
        spread: How it is distributed over GPUs.
        micro: Rows of a pass of a fixed number of rows.
        dynamic: Whether passes are filled by tokens instead.
    """
    s = stage.settings
    return {
        f"{ACTOR}.strategy": "fsdp2",
        f"{ACTOR}.optim.lr": s.lr,
        f"{ACTOR}.optim.lr_warmup_steps": s.warmup_steps,
        f"{ACTOR}.optim.lr_scheduler_type": "constant",
        f"{ACTOR}.optim.weight_decay": s.weight_decay,
        f"{ACTOR}.optim.clip_grad": s.grad_clip,
        f"{ACTOR}.ppo_mini_batch_size": s.mini_batch,
        f"{ACTOR}.ppo_micro_batch_size_per_gpu": micro,
        f"{ACTOR}.use_dynamic_bsz": dynamic,
        f"{ACTOR}.ppo_max_token_len_per_gpu": spread.tokens,
        f"{ACTOR}.ppo_epochs": 1,
        f"{ACTOR}.use_kl_loss": False,
        f"{ACTOR}.clip_ratio_low": s.clip_low,
        f"{ACTOR}.clip_ratio_high": s.clip_high,
        f"{ACTOR}.clip_ratio_c": s.dual_clip,
        f"{ACTOR}.loss_agg_mode": "token-mean",
        f"{ACTOR}.entropy_coeff": 0,
        f"{ACTOR}.data_loader_seed": s.seed,
        f"{ACTOR}.checkpoint.save_contents": ["model", "optimizer", "extra"],
        f"{ACTOR}.fsdp_config._target_": f"{PLUGIN}.TermsEngineConfig",
        f"+{ACTOR}.fsdp_config.terms": written_terms(stage),
        f"+{ACTOR}.fsdp_config.policy_loss": stage.policy_loss,
        f"+{ACTOR}.fsdp_config.loss_mean": s.loss_mean,
        f"{ACTOR}.fsdp_config.seed": s.seed,
        f"{ACTOR}.fsdp_config.param_offload": spread.params_offload,
        f"{ACTOR}.fsdp_config.optimizer_offload": spread.optimizer_offload,
        # As in verl's files. With True every GPU holds the gradients of all weights until the last
        # pass.
        f"{ACTOR}.fsdp_config.use_no_sync_for_gradient_accumulation": False,
    }


def written_terms(stage: Stage) -> str:
    """A stage's terms as the engine's configuration holds them: JSON, empty without any."""
    changes = [term.changes() for term in stage.all_terms]
    if len(stage.views) == 1:  # rows need not be told apart
        for own in changes:
            own.pop("rollout", None)
    return json.dumps(changes) if stage.objective else ""


def read_terms(text: str) -> tuple[Term, ...]:
    """The terms that `written_terms` wrote."""
    return tuple(Term(**changes) for changes in json.loads(text or "[]"))


def rollout(stage: Stage, spread: Layout, micro: int) -> Overrides:
    """How responses are sampled, and their log-probabilities computed."""
    s = stage.settings
    return {
        f"{ROLLOUT}.name": "vllm",
        f"{ROLLOUT}.n": s.samples_per_prompt,
        f"{ROLLOUT}.temperature": s.temperature,
        f"{ROLLOUT}.seed": s.seed,
        f"{ROLLOUT}.tensor_model_parallel_size": spread.tensor_parallel,
        f"{ROLLOUT}.gpu_memory_utilization": spread.gpu_memory,
        f"{ROLLOUT}.free_cache_engine": True,
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": micro,
        # Nothing is kept for a backward pass.
        f"{ROLLOUT}.log_prob_max_token_len_per_gpu": max(spread.tokens, MOST_TOKENS),
        f"{ROLLOUT}.agent.default_agent_loop": "modgap",
    }


def workers(gpus: int) -> Overrides:
    """Processes beside those of the GPUs of a node."""
    count = 8 if gpus >= 8 else 4
    return {
        f"{ROLLOUT}.agent.num_workers": count,
        "reward.num_workers": count,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": count,
    }


def reward(stage: Stage) -> Overrides:
    """The reward of a response, and the penalty of a long one."""
    s = stage.settings
    return {
        "reward.reward_manager.name": "dapo",
        "reward.custom_reward_function.name": "compute_score",
        **_function(stage),
        "+reward.reward_kwargs.max_resp_len": s.max_response_tokens,
        "+reward.reward_kwargs.overlong_buffer_cfg.enable": s.overlong_buffer > 0,
        "+reward.reward_kwargs.overlong_buffer_cfg.len": s.overlong_buffer,
        "+reward.reward_kwargs.overlong_buffer_cfg.penalty_factor": s.overlong_penalty,
        "+reward.reward_kwargs.overlong_buffer_cfg.log": False,
    }


def _function(stage: Stage) -> Overrides:
    """Where verl finds the reward, and what it passes on."""
    s, key = stage.settings, "reward.custom_reward_function"
    own = bool(s.reward_function) or not stage.reward.plain
    module = "modgap.training.verl.reward" if own else "modgap.rewards"
    out: Overrides = {f"{key}.path": f"pkg://{module}"}
    if s.reward_function:
        out[f"+{key}.reward_kwargs.function"] = s.reward_function
    else:
        out[f"+{key}.reward_kwargs.tolerance"] = s.reward_tolerance
    if not stage.reward.plain:
        out[f"+{key}.reward_kwargs.answer"] = float(stage.reward.answer)
        out[f"+{key}.reward_kwargs.reading"] = float(stage.reward.reading)
    return out


def trainer(stage: Stage, files: Files, name: str, gpus: int, nodes: int) -> Overrides:
    """Steps, checkpoints, validation and logs.

    Args:
        stage: The stage.
        files: Where it writes.
        name: The experiment's name in logs.
        gpus: GPUs of a node.
        nodes: Nodes.
    """
    s = stage.settings
    return {
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
        "trainer.val_before_train": s.validate_before,
        "trainer.resume_mode": "auto",
        "trainer.default_local_dir": files.checkpoints,
        "trainer.project_name": "modgap",
        "trainer.experiment_name": name,
        "trainer.logger": ["console", "file", "tensorboard"],
        "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR": VENDOR,
        "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH": files.metrics,
        "+ray_kwargs.ray_init.runtime_env.env_vars.TENSORBOARD_DIR": files.tensorboard,
    }


def reference(stage: Stage, spread: Layout, micro: int, dynamic: bool) -> Overrides:
    """Verl's reference policy as the frozen teacher: its engine scores the twins."""
    fsdp = f"{REF}.fsdp_config"
    return {
        # Without this verl has no reference policy; its own KL is not wanted.
        f"{ACTOR}.use_kl_loss": True,
        f"{ACTOR}.kl_loss_coef": 0.0,
        f"{REF}.log_prob_use_dynamic_bsz": dynamic,
        f"{REF}.log_prob_max_token_len_per_gpu": max(spread.tokens, MOST_TOKENS),
        f"{REF}.log_prob_micro_batch_size_per_gpu": micro,
        f"{fsdp}._target_": f"{PLUGIN}.TermsEngineConfig",
        f"+{fsdp}.terms": written_terms(stage),
        f"+{fsdp}.reference": True,
        f"{fsdp}.model_dtype": "fp32",
    }
