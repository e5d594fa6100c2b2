"""The memory and the time of a step on verl, from the model's shape and the layout over GPUs.

The configuration takes its budgets from here: how many tokens a forward pass may hold, whether
activations are computed again, what stays on a GPU during the rollout and vLLM's share of it. The
plan prints the same numbers. FLOPs and expected lengths are those of the local engine's plan
(`training/plan.py`); `bench/verl_speed.py` compares both with a training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from modgap.core.recipe import Stage
from modgap.core.terms import Term, places_of
from modgap.training.plan import (
    Lengths,
    Machine,
    branch,
    trained_parameters,
    twin_works,
)
from modgap.training.shape import GIB, Shape

MOST_TOKENS = 32_768
"""Most tokens of a pass: a GPU is busy long before."""
ENOUGH_TOKENS = 8_192
"""Below this many tokens a pass is bound by launches: gradient checkpointing is cheaper."""
ROOM = 0.9
"""Share of a GPU's memory that an update may take by the estimate."""
UNKNOWN_TOKENS = 16_384
"""Tokens of a pass where the model's shape or the GPU's memory is not known."""
SEQUENCES = 256
"""Most sequences that vLLM works on at a time (verl's default)."""
_CUDA = 4 * GIB
"""CUDA's contexts and what vLLM keeps while it sleeps."""
_VLLM = 6 * GIB
"""vLLM's activations and graphs."""
_LOGITS = 16.0 * 2**28
"""Logits, log-probabilities and their gradients of one chunk of responses (`models/scoring.py`)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a stage is distributed over GPUs.

    Attributes:
        gpus: GPUs that share weights, gradients and optimizer.
        tokens: Most tokens of one forward pass on one GPU.
        tensor_parallel: GPUs that share the rollout's weights.
        gpu_memory: The share of a GPU's memory that vLLM takes.
        cache_freed: Whether vLLM frees it while the model is updated.
        params_offload: Whether weights leave the GPU during the rollout.
        optimizer_offload: Whether the optimizer's moments do.
        checkpointing: Whether activations are computed again in the backward pass.
        rows: Rows of a pass where their number is fixed; 0 where the budget decides.
        fsdp_size: GPUs that share one copy of the state; 0 for all.
    """

    gpus: int = 1
    tokens: int = UNKNOWN_TOKENS
    tensor_parallel: int = 1
    gpu_memory: float = 0.4
    cache_freed: bool = True
    params_offload: bool = False
    optimizer_offload: bool = False
    checkpointing: bool = False
    rows: int = 0
    fsdp_size: int = 0

    @property
    def shards(self) -> int:
        """GPUs over which weights, gradients and optimizer are divided."""
        return min(self.fsdp_size, self.gpus) if self.fsdp_size > 0 else self.gpus


def live_twins(terms: Sequence[Term]) -> int:
    """Twins that are rows of the update's passes."""
    objective = [term for term in terms if term.coef]
    return sum("live" in places for places in places_of(objective).values())


def token_bytes(shape: Shape, checkpointing: bool) -> float:
    """Bytes that the backward pass needs of a token, its share of the image included.

    The vision tower is computed again in any case; as if all tokens were of an image. Fitted to the
    3B shape: 2.95 MB a token on one H200 (`bench/verl_update.py`, two budgets), 3.1 on two
    (`bench/verl_whole.py`).
    """
    layer = 2.0 * (4 * (shape.hidden + shape.wide) + 2 * shape.intermediate)
    seen = 2.0 * shape.merge**2 * shape.vision_hidden * shape.vision_layers
    if checkpointing:
        return 2.0 * shape.hidden * shape.layers + layer + seen
    return layer * shape.layers + seen


def update_memory(stage: Stage, shape: Shape, layout: Layout) -> dict[str, float]:
    """Bytes of each part of an update's peak on each GPU."""
    trained = trained_parameters(stage, shape)
    ends = (1 if shape.tied else 2) * shape.vocab * shape.hidden
    return {
        "weights, gradients, AdamW": (4.0 * shape.parameters + 12.0 * trained) / layout.shards,
        # In bf16: two layers, and embedding and head with their gradients.
        "gathered weights": 4.0 * shape.layer + 4.0 * ends,
        f"activations of {layout.tokens:,} tokens": (
            layout.tokens * token_bytes(shape, layout.checkpointing)
        ),
        "logits": _LOGITS,
        "CUDA and vLLM asleep": _CUDA,
    }


def resident(stage: Stage, shape: Shape, layout: Layout) -> float:
    """Bytes that the trainer leaves on a GPU during the rollout."""
    moments = 0.0 if layout.optimizer_offload else 8.0 * trained_parameters(stage, shape)
    weights = 0.0 if layout.params_offload else 4.0 * shape.parameters
    return (weights + moments) / layout.shards + _CUDA


def longest_row(stage: Stage) -> int:
    """Tokens of the longest row, with its twin."""
    s = stage.settings
    return (s.max_prompt_tokens + s.max_response_tokens) * (1 + live_twins(stage.all_terms))


def with_budget(
    stage: Stage,
    shape: Shape,
    layout: Layout,
    gpu_gib: float,
    tokens: int | None = None,
    checkpointing: bool | None = None,
) -> Layout:
    """The layout with the tokens of a pass that fit, activations computed again only if needed.

    A pass holds at least the longest row with its twin; the plan says if that does not fit.

    Args:
        stage: The stage, its settings resolved.
        shape: Of the model.
        layout: The rest of the layout.
        gpu_gib: Memory of a GPU that is left for the trainer.
        tokens: The budget, if the user gave one.
        checkpointing: Whether to compute again, if the user said.
    """
    least = longest_row(stage)

    def fitting(again: bool) -> int:
        empty = replace(layout, tokens=0, checkpointing=again)
        room = ROOM * gpu_gib * GIB - sum(update_memory(stage, shape, empty).values())
        return int(room / token_bytes(shape, again))

    if checkpointing is None:
        checkpointing = fitting(False) < (tokens or max(least, ENOUGH_TOKENS))
    if tokens is None:
        tokens = max(least, min(fitting(checkpointing), MOST_TOKENS))
    return replace(layout, tokens=tokens, checkpointing=checkpointing)


def _vllm_bytes(stage: Stage, shape: Shape, layout: Layout, most: int) -> float:
    """What vLLM needs on a GPU for at most so many sequences at a time."""
    s = stage.settings
    engines = max(1, layout.gpus // layout.tensor_parallel)
    rows = min(most, math.ceil(s.prompts_per_step * s.samples_per_prompt / engines))
    token = 4.0 * shape.layers * shape.kv_heads * shape.head
    cache = rows * (s.max_prompt_tokens + s.max_response_tokens) * token
    return (2.0 * shape.parameters + cache) / layout.tensor_parallel + _VLLM


def _left_for_vllm(stage: Stage, shape: Shape, layout: Layout, gpu_gib: float) -> float:
    return 0.95 * gpu_gib * GIB - resident(stage, shape, layout)


def vllm_fits(
    stage: Stage, shape: Shape, layout: Layout, gpu_gib: float, share: float | None = None
) -> bool:
    """Whether vLLM has room beside what the trainer leaves.

    For the share of memory that it is given, or for enough sequences.
    """
    needed = _vllm_bytes(stage, shape, layout, SEQUENCES // 4)
    if share is not None:
        needed = share * gpu_gib * GIB
    return needed <= _left_for_vllm(stage, shape, layout, gpu_gib)


def vllm_share(stage: Stage, shape: Shape, layout: Layout, gpu_gib: float) -> float:
    """The share of vLLM in a GPU's memory: what it needs, or what the trainer leaves."""
    needed = _vllm_bytes(stage, shape, layout, SEQUENCES)
    share = min(needed, _left_for_vllm(stage, shape, layout, gpu_gib)) / (gpu_gib * GIB)
    return max(0.1, math.floor(100 * share) / 100)


def flops(stage: Stage, shape: Shape, lengths: Lengths, rows: int = 0) -> dict[str, float]:
    """Phase -> FLOPs of a step over all GPUs, without what is computed again.

    Args:
        stage: The stage, its settings resolved.
        shape: Of the model.
        lengths: The expected lengths.
        rows: Rows of a pass, which may cut groups; 0 if groups are whole.
    """
    s, n = stage.settings, stage.settings.samples_per_prompt
    groups, see = s.prompts_per_step, shape.see(lengths.image)
    parts = math.ceil(n / rows) if rows else 1
    group = parts * branch(shape, 0, lengths.prompt, lengths.response, n / parts)
    see *= parts
    drawn = groups / lengths.mixed
    out = {
        "rollout": drawn * (group + see),
        "old log-probs": groups * (group + see),
        "update": groups * 3.0 * (group + see),
    }
    for work in twin_works(stage, lengths):
        if work.teacher != "live":  # the reference policy scores every row, before the update
            alone = parts * branch(shape, 0, work.tokens, lengths.response, n / parts)
            out["frozen teacher"] = groups * (alone + see)
            continue
        times = 1.0 if work.place == "still" else 3.0
        own = work.tokens - work.before
        twins = branch(shape, work.before, own, lengths.response, n * work.share / parts)
        twins += shape.see(lengths.image) if work.sees else 0.0
        out["twins"] = out.get("twins", 0.0) + groups * times * parts * twins
    if any(term.trajectory is not None for term in stage.objective):
        out["twins"] = out.get("twins", 0.0) + groups * (group + see)
    return out


def passes(stage: Stage, lengths: Lengths, layout: Layout) -> int:
    """Passes of one mini-batch on one GPU."""
    s, n = stage.settings, stage.settings.samples_per_prompt
    groups = s.mini_batch / layout.gpus
    if layout.rows:
        return max(1, math.ceil(groups * n / layout.rows))
    group = lengths.prompt + n * lengths.response
    for work in twin_works(stage, lengths):
        if work.place == "live":
            group += work.tokens - work.before + n * work.share * lengths.response
    return max(1, math.ceil(groups * group / layout.tokens))


# Fitted to `bench/verl_speed.py` with the 3B shape on an H200, and to `bench/verl_update.py` with
# the 7B shape on two.
_REACH = 0.285
"""Share of a GPU's FLOP/s that passes reach at a width of 2,048, launches apart; it grows with the
root of the width."""
_PASS_SECONDS = 6e-3
"""Time to launch a layer's kernels in a forward and backward pass."""
_GATHERED = 8.0 / 150e9
"""Seconds a parameter and pass to gather weights from other GPUs and to reduce gradients."""
_DECODE_SECONDS = 5e-3
"""Least time of a decode step of vLLM with CUDA graphs, but for reading the weights."""
_SEQUENCE_SECONDS = 0.12e-3
"""Time of a sequence in a decode step: 80 of the 3B took 10 ms, 160 of the 7B 30."""
_PARALLEL_SECONDS = 14e-3
"""What a decode step takes longer where GPUs share the weights: the 3B on two, once."""
_ROLLOUT_SECONDS = 0.3
"""Time of a rollout beside its steps: prompts to vLLM, rewards, vLLM to sleep."""
_STEP_SECONDS = 0.65
"""Time of a step beside its phases: data between processes."""
_SYNC = 16.5e9
"""Bytes/s of weights from the trainer to vLLM."""
_HOST = 25e9
"""Bytes/s between a GPU and its host."""


def seconds(
    stage: Stage, shape: Shape, lengths: Lengths, layout: Layout, machine: Machine
) -> dict[str, float]:
    """Phase -> expected seconds of a step."""
    s, work = stage.settings, flops(stage, shape, lengths, layout.rows)
    reach = _REACH * math.sqrt(shape.hidden / 2048)
    speed = layout.gpus * machine.flops * reach
    again = 4.0 / 3.0 if layout.checkpointing else 1.0
    trained = trained_parameters(stage, shape)
    batches = s.prompts_per_step // s.mini_batch
    others = (layout.shards - 1) / layout.shards
    each_pass = shape.layers * _PASS_SECONDS + shape.parameters * others * _GATHERED
    waiting = batches * passes(stage, lengths, layout) * each_pass
    scored = s.prompts_per_step * s.samples_per_prompt / layout.gpus
    tokens = scored * (lengths.prompt / s.samples_per_prompt + lengths.response)
    forward = math.ceil(scored / layout.rows if layout.rows else tokens / MOST_TOKENS)
    out = {
        "old log-probs": work["old log-probs"] / speed + forward * each_pass / 3,
        "update": again * (work["update"] / speed + waiting),
    }
    if "twins" in work:
        out["twins"] = again * work["twins"] / speed
    if "frozen teacher" in work:
        out["frozen teacher"] = work["frozen teacher"] / speed + forward * each_pass / 3
    out["optimizer"] = batches * 36.0 * trained / layout.shards / machine.bandwidth
    moved = (
        8.0 * trained * layout.optimizer_offload + 4.0 * shape.parameters * layout.params_offload
    )
    out["optimizer"] += 2.0 * moved / layout.shards / _HOST
    engines = max(1, layout.gpus // layout.tensor_parallel)
    rows = s.prompts_per_step / lengths.mixed * s.samples_per_prompt / engines
    at_once = min(rows, SEQUENCES)
    # vLLM starts a waiting sequence where one has ended, and the longest one is waited for.
    steps = max(lengths.longest, rows * lengths.response / at_once)
    read = 2.0 * shape.language / layout.tensor_parallel / machine.bandwidth
    each = at_once * shape.forward(1) / layout.tensor_parallel / machine.flops / reach
    step = max(_DECODE_SECONDS, at_once * _SEQUENCE_SECONDS, each) + read
    step += _PARALLEL_SECONDS * (layout.tensor_parallel > 1)
    prompts = s.prompts_per_step / lengths.mixed
    prefill = prompts * (shape.forward(lengths.prompt) + shape.see(lengths.image)) / speed
    out["rollout"] = _ROLLOUT_SECONDS + prefill + steps * step
    out["weights to vLLM"] = 2.0 * shape.parameters / _SYNC
    out["between"] = _STEP_SECONDS
    return out
