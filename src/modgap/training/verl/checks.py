"""Refuses what cannot work on verl 0.9.1 before Ray starts: keys, settings, and their values.

verl reports some of it after minutes, in a worker, and silently ignores the rest.
"""

from __future__ import annotations

from typing import Any

from modgap.core.errors import UserError
from modgap.core.recipe import Stage
from modgap.core.text import counted
from modgap.training.known_model import Model

ACTOR, ROLLOUT, MODEL = (
    "actor_rollout_ref.actor",
    "actor_rollout_ref.rollout",
    "actor_rollout_ref.model",
)

REF = "actor_rollout_ref.ref"

Overrides = dict[str, Any]
"""Key of verl's configuration -> value. A key that is not in verl's files starts with `+`."""


MOVED = {
    "reward_model.": (
        "verl 0.9.1 ignores it: the reward manager is reward.reward_manager.name, the overlong"
        " buffer is set by overlong_buffer and overlong_penalty"
    ),
    "custom_reward_function.": "verl 0.9.1 ignores it: use reward.function=module:function",
    "data.sampler": "verl 0.9.1 ignores it: leave it out",
    "algorithm.filter_groups.max_num_gen_batches": (
        "verl 0.9.1 ignores it, refills have no bound: leave it out"
    ),
    f"{ACTOR}.freeze_vision_tower": (
        "verl 0.9.1 ignores it: use --engine local with freeze_vision=true"
    ),
    f"{ACTOR}.grad_clip": f"verl 0.9.1 ignores it: use grad_clip, or {ACTOR}.optim.clip_grad",
    "trainer.use_v1": "the plugin is for verl's V1 trainer only: leave it out",
    "trainer.v1.trainer_mode": (
        "the recipes are strictly on policy, as the sync trainer is: leave it out"
    ),
    f"{ROLLOUT}.mode": "verl 0.9.1 has async rollouts only: leave it out",
    "trainer.save_freq": "a run resumes from its checkpoints: use save_every",
    "trainer.test_freq": "use eval_every",
    "trainer.total_training_steps": "use steps",
    "trainer.total_epochs": "use steps",
    "trainer.default_local_dir": "use --out",
    "data.train_batch_size": "use prompts_per_step",
    "data.max_prompt_length": "use max_prompt_tokens",
    "data.max_response_length": "use max_response_tokens",
    f"{ACTOR}.ppo_mini_batch_size": "use mini_batch",
    f"{ROLLOUT}.n": "use samples_per_prompt",
    f"{MODEL}.path": "each stage starts where the one before ended: use --model",
}
"""Key -> remedy, for keys that verl accepts but ignores or fails on later, or that we set."""


FIXED = {
    f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size": (
        "1",
        "the engine does not split sequences over GPUs: leave it out",
    ),
    f"{ACTOR}.ulysses_sequence_parallel_size": (
        "1",
        "the engine does not split sequences over GPUs: leave it out",
    ),
    f"{MODEL}.use_remove_padding": ("False", "the engine has no padding in any case: leave it out"),
    f"{MODEL}.use_fused_kernels": (
        "False",
        "the engine computes log-probabilities in chunks in any case: leave it out",
    ),
    f"{MODEL}.enable_activation_offload": (
        "False",
        "the vision tower is computed again instead: leave it out",
    ),
    f"{ACTOR}.calculate_sum_pi_squared": ("False", "the engine does not compute it: leave it out"),
    "distillation.enabled": ("False", "the engine has no distillation: leave it out"),
}
"""Key -> the one value that the engine's own forward pass is for, and the remedy."""


def check_supported(stage: Stage) -> None:
    """Refuse settings that verl has no counterpart for, and keys that it ignores."""
    s = stage.settings
    for number, term in enumerate(stage.all_terms, start=1):
        if not term.coef:
            continue
        if term.estimator == "full_vocab":
            raise UserError(
                f"term{number}.estimator=full_vocab (kl_estimator) needs the logits, which verl's"
                " loss does not see: choose k3 or forward, or --engine local."
            )
        if term.teacher == "ema":
            raise UserError(
                f"term{number}.teacher=ema: verl keeps no average of the weights: choose frozen or"
                " live, or --engine local."
            )
        if term.picture == "swapped":
            raise UserError(
                f"term{number}.picture=swapped: verl's workers have no other problem's picture:"
                " choose blank, masked or noised, or --engine local."
            )
    frozen = {twin for twin in stage.twins if twin.teacher == "frozen"}
    if len(frozen) > 1:
        raise UserError(
            "teacher=frozen with several twins: verl's reference policy scores one: give the terms"
            " one twin, or use --engine local."
        )
    if frozen and s.lora_rank:
        raise UserError(
            "teacher=frozen with lora_rank: verl's reference policy is then the actor without its"
            " adapters, which scores no twins: train all weights, or use --engine local."
        )
    if s.frozen:
        given = "freeze_vision=true" if s.freeze_vision else f"freeze={s.freeze}"
        raise UserError(f"{given}: verl 0.9.1 trains every part in any case; use --engine local.")
    for key, value in stage.passed:
        name = key.lstrip("+")
        if name in FIXED and value.lower() != FIXED[name][0].lower():
            raise UserError(f"--set verl.{key}={value}: {FIXED[name][1]}.")
        for start, remedy in MOVED.items():
            below = start.endswith(".") and name.startswith(start)
            if name == start or below:
                raise UserError(f"--set verl.{key}: {remedy}.")


KEPT = "trainer.max_actor_ckpt_to_keep"
"""verl's key for how many checkpoints of a stage stay."""


def check_overrides(model: Model, out: Overrides, train_rows: int | None) -> None:
    """Refuse combinations of values that cannot work.

    Raises:
        UserError: One line that names the values and the remedy.
    """
    gpus = _check_gpus(model, out)
    _check_passes(out, gpus)
    if _value(out, KEPT) is not None:
        _whole(out, KEPT)
    prompts = _whole(out, "data.train_batch_size")
    if train_rows is not None and train_rows < prompts:
        raise UserError(
            f"too few training prompts: {train_rows}, and a step has {prompts}; verl needs at"
            f" least one full step: set prompts_per_step and mini_batch to at most {train_rows}."
        )
    _check_files(out)
    _check_pixels(out, model, _whole(out, "data.max_prompt_length"))


def _value(out: Overrides, key: str) -> Any:
    return out.get(key, out.get(f"+{key}"))


def _whole(out: Overrides, key: str) -> int:
    found = _value(out, key)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        shown = "null" if found is None else found
        raise UserError(f"verl.{key}={shown}: give a whole number of at least 1.")
    return found


def _check_gpus(model: Model, out: Overrides) -> int:
    """Refuse a distribution over GPUs that cannot work; returns their number."""
    a_node = _whole(out, "trainer.n_gpus_per_node")
    gpus = a_node * _whole(out, "trainer.nnodes")
    parallel = _whole(out, f"{ROLLOUT}.tensor_model_parallel_size")
    if parallel > gpus or a_node % parallel:
        raise UserError(
            f"tensor_model_parallel_size={parallel} does not fit {a_node} GPUs a node: give a"
            f" divisor with --set verl.{ROLLOUT}.tensor_model_parallel_size=N."
        )
    if (strategy := _value(out, f"{ACTOR}.strategy")) not in ("fsdp", "fsdp2"):
        raise UserError(
            f"verl.{ACTOR}.strategy={strategy}: the terms' engine is for fsdp and fsdp2."
        )
    if model.shape and model.shape.heads % parallel:
        raise UserError(
            f"tensor_model_parallel_size={parallel} does not divide the model's {model.shape.heads}"
            " attention heads: give a divisor with --set"
            f" verl.{ROLLOUT}.tensor_model_parallel_size=N."
        )
    share = _value(out, f"{ROLLOUT}.gpu_memory_utilization")
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise UserError(
            f"verl.{ROLLOUT}.gpu_memory_utilization={share}: give vLLM's share of a GPU, above 0,"
            " at most 1."
        )
    return gpus


def _check_passes(out: Overrides, gpus: int) -> None:
    """Refuse rows that cannot be divided into passes, and losses that a pass has not."""
    n = _whole(out, f"{ROLLOUT}.n")
    mini = _whole(out, f"{ACTOR}.ppo_mini_batch_size")
    micro = _whole(out, f"{ACTOR}.ppo_micro_batch_size_per_gpu")
    if mini * n % gpus:
        raise UserError(
            f"a mini-batch of {counted(mini, 'prompt')} x {counted(n, 'sample')} ="
            f" {counted(mini * n, 'row')} cannot be shared by {counted(gpus, 'GPU')}: set"
            " mini_batch or samples_per_prompt to a multiple, or use another number of GPUs."
        )
    dynamic = _value(out, f"{ACTOR}.use_dynamic_bsz")
    if dynamic and _value(out, f"{ACTOR}.fsdp_config.loss_mean") == "micro_batch":
        raise UserError(
            "loss_mean=micro_batch needs micro-batches of one size: leave use_dynamic_bsz out."
        )
    if not dynamic and mini * n // gpus % micro:
        raise UserError(
            f"{counted(mini * n // gpus, 'row')} of a mini-batch on each GPU cannot be cut into"
            f" micro-batches of {micro}: set micro_batch to a divisor."
        )
    again = _whole(out, f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu")
    if not dynamic and again != micro:
        raise UserError(
            f"log_prob_micro_batch_size_per_gpu={again} is not"
            f" ppo_micro_batch_size_per_gpu={micro}: old and new log-probabilities of a"
            " vision-language model would differ; give both the same with --set micro_batch=N."
        )
    entropy = _value(out, f"{ACTOR}.entropy_coeff")
    if entropy not in (0, None):
        raise UserError(
            f"verl.{ACTOR}.entropy_coeff={entropy}: the engine's entropies"
            " are for the log and have no gradient; leave it out."
        )
    _whole(out, f"{ACTOR}.ppo_max_token_len_per_gpu")
    _whole(out, f"{ROLLOUT}.log_prob_max_token_len_per_gpu")


def _check_files(out: Overrides) -> None:
    """Refuse loggers and checkpoints without what the engine reads of them."""
    loggers = _value(out, "trainer.logger")
    if "file" not in (loggers or ""):
        loggers = f"[{','.join(loggers)}]" if isinstance(loggers, list) else loggers
        raise UserError(
            f"verl.trainer.logger={loggers}: keep file in it, train_log.jsonl is made from that;"
            " for example [console,file,tensorboard,wandb]."
        )
    # `hf_model` is another part of a checkpoint: it does not count as `model`.
    contents = str(_value(out, f"{ACTOR}.checkpoint.save_contents")).replace("hf_model", "")
    if "model" not in contents:
        raise UserError(
            f"verl.{ACTOR}.checkpoint.save_contents={contents}: keep model in it, the next stage"
            " starts from that; a killed run also needs optimizer and extra to resume."
        )


def _check_pixels(out: Overrides, model: Model, budget: int) -> None:
    """Refuse a prompt budget that is too small for images at the pixel limits."""
    limits: dict[str, Any] = {}
    for key, value in out.items():
        if key.lstrip("+").startswith("data.mm_processor_kwargs."):
            limits[key.rpartition(".")[2]] = value
    for name in ("min_pixels", "max_pixels"):
        if not isinstance(limits.get(name, 0), int):
            raise UserError(
                f"verl.data.mm_processor_kwargs.{name}={limits[name]}: give a whole number."
            )
    least = model.image_tokens(limits.get("min_pixels", model.min_pixels))
    if least >= budget:
        raise UserError(
            f"the smallest image has {least} tokens, so that no prompt fits"
            f" max_prompt_tokens={budget}: give a larger one, or fewer pixels with --set"
            " verl.+data.mm_processor_kwargs.min_pixels=N."
        )
    if "max_pixels" in limits and (most := model.image_tokens(limits["max_pixels"])) >= budget:
        raise UserError(
            f"max_pixels={limits['max_pixels']} allows images of {most} tokens, which do not fit"
            f" max_prompt_tokens={budget}: set max_prompt_tokens above {most}, or max_pixels below"
            f" {budget * model.side**2}."
        )
