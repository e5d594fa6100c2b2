"""The cost of a training stage from a model's shape alone: tokens, FLOPs, memory.

Needs no torch, no network and no GPU. Parameter counts are exact. FLOPs are 2 for each parameter
and token plus attention, without the recomputation of gradient checkpointing. Memory is an
estimate with named parts. Tokens and FLOPs are upper bounds: every prompt and every response is at
its limit, and dynamic sampling drops no group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modgap.core.recipe import Stage

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Qwen2.5-VL, as in its config.json.

    Attributes:
        hidden: Width of the language model.
        layers: Its layers.
        heads: Attention heads.
        kv_heads: Heads of keys and values.
        intermediate: Width of its MLP.
        vocab: Tokens.
        tied: Whether the head is the embedding.
        vision_hidden: Width of the vision tower.
        vision_layers: Its layers.
        vision_intermediate: Width of its MLP.
        patch: Side of a patch, in pixels.
        merge: Side of a merged token, in patches.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool
    vision_hidden: int = 1280
    vision_layers: int = 32
    vision_intermediate: int = 3420
    patch: int = 14
    merge: int = 2

    @property
    def layer(self) -> int:
        """Parameters of one layer of the language model."""
        kv = self.hidden // self.heads * self.kv_heads
        attention = 2 * self.hidden**2 + 2 * self.hidden * kv + self.hidden + 2 * kv
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def language(self) -> int:
        """Parameters that every token passes: the layers, the last norm and the head."""
        return self.layers * self.layer + self.hidden + self.vocab * self.hidden

    @property
    def vision(self) -> int:
        """Parameters of the vision tower, merger included."""
        wide = self.vision_hidden
        block = (
            4 * wide**2
            + 4 * wide
            + 3 * wide * self.vision_intermediate
            + 2 * self.vision_intermediate
            + 3 * wide
        )
        merged = wide * self.merge**2
        merger = wide + merged**2 + merged + merged * self.hidden + self.hidden
        return 3 * 2 * self.patch**2 * wide + self.vision_layers * block + merger

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return self.language + self.vision + (0 if self.tied else self.vocab * self.hidden)

    def forward(self, tokens: int) -> float:
        """FLOPs of one sequence through the language model (causal attention)."""
        return 2.0 * self.language * tokens + 2.0 * self.layers * self.hidden * tokens**2

    def see(self, image_tokens: int) -> float:
        """FLOPs of one image through the vision tower, without its small windowed attention."""
        return 2.0 * self.vision * image_tokens * self.merge**2


SHAPES: dict[str, Shape] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": Shape(2048, 36, 16, 2, 11008, 151936, tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": Shape(3584, 28, 28, 4, 18944, 152064, tied=False),
}
"""Shapes of models that are on a hub, so that an estimate needs no network."""
SHAPES["yaogy/qwen2_5_vl_3b_kl_curriculum"] = SHAPES["Qwen/Qwen2.5-VL-3B-Instruct"]
SHAPES["yaogy/qwen2_5_vl_7b_kl_curriculum"] = SHAPES["Qwen/Qwen2.5-VL-7B-Instruct"]


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape in a model folder's config.json.

    The hub's own files have the language model's sizes at the top level.
    """
    text, vision = config.get("text_config") or config, config["vision_config"]
    return Shape(
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        intermediate=text["intermediate_size"],
        vocab=text["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        vision_hidden=vision["hidden_size"],
        vision_layers=vision["depth"],
        vision_intermediate=vision["intermediate_size"],
        patch=vision.get("patch_size", 14),
        merge=vision.get("spatial_merge_size", 2),
    )


def image_tokens(pixels: int, patch: int = 14, merge: int = 2) -> int:
    """Tokens of an image with the given number of pixels."""
    return pixels // (patch * merge) ** 2


@dataclass(frozen=True, slots=True)
class Layout:
    """How a stage is distributed over GPUs.

    Attributes:
        gpus: GPUs that share weights, gradients and optimizer.
        micro_batch: Rows of one forward pass on one GPU.
        tensor_parallel: GPUs that share the rollout's weights.
        gpu_memory: The share of a GPU's memory that the rollout takes (vLLM).
        params_offload: Whether weights leave the GPU during the rollout.
        optimizer_offload: Whether the optimizer's moments do.
        checkpointing: Whether activations are computed again in the backward pass.
    """

    gpus: int = 1
    micro_batch: int = 1
    tensor_parallel: int = 1
    gpu_memory: float = 0.0
    params_offload: bool = False
    optimizer_offload: bool = False
    checkpointing: bool = True


@dataclass(frozen=True, slots=True)
class Estimate:
    """Upper bounds of the cost of one stage.

    Attributes:
        rows: Responses of a step.
        prompt_tokens: Prompt tokens of a step; a prompt counts once for each of its responses.
        response_tokens: Response tokens of a step.
        flops: Phase (`rollout`, `old log-probs`, `update`, `contrastive`) to FLOPs of a step.
        state_bytes: fp32 weights, gradients and AdamW's moments on each GPU.
        activation_bytes: Activations and logits of one micro-batch.
        gathered_bytes: bf16 copies of the weights that one GPU holds at a time.
        rollout_bytes: What the trainer leaves on a GPU during the rollout.
        rollout_weights: bf16 weights of the rollout engine on each GPU, within its share.
    """

    rows: int
    prompt_tokens: int
    response_tokens: int
    flops: dict[str, float]
    state_bytes: float
    activation_bytes: float
    gathered_bytes: float
    rollout_bytes: float
    rollout_weights: float

    @property
    def update_bytes(self) -> float:
        """The peak of an update on each GPU."""
        return self.state_bytes + self.activation_bytes + self.gathered_bytes

    @property
    def total_flops(self) -> float:
        """FLOPs of all phases of a step."""
        return sum(self.flops.values())


def estimate(stage: Stage, shape: Shape, layout: Layout, image: int = 256) -> Estimate:
    """Upper bounds of the cost of a stage.

    Args:
        stage: The stage, its settings resolved.
        shape: Of the model.
        layout: How the stage is distributed over GPUs.
        image: Tokens of an image, part of the prompt.
    """
    s = stage.settings
    rows = s.prompts_per_step * s.samples_per_prompt
    prompt, response = s.max_prompt_tokens, s.max_response_tokens
    image = min(image, prompt)
    row = shape.forward(prompt + response)
    forward = rows * (row + shape.see(image))
    flops = {
        # A group's prompt is computed once, each response on top of it.
        "rollout": (
            s.prompts_per_step * (shape.forward(prompt) + shape.see(image))
            + rows * (row - shape.forward(prompt))
        ),
        "old log-probs": forward,
        "update": 3 * forward,
    }
    contrastive = stage.contrastive and s.kl_coef > 0
    if contrastive:
        # As if every row were eligible; twins share the images of the update.
        flops["contrastive"] = 3 * rows * row
    trained = shape.parameters - (shape.vision if s.freeze_vision else 0)
    if s.lora_rank:
        trained = 0  # adapters are less than one percent
    weights, optimizer = 4.0 * shape.parameters / layout.gpus, 8.0 * trained / layout.gpus
    state = weights + 4.0 * trained / layout.gpus + optimizer
    tokens = layout.micro_batch * (prompt + response) * (2 if contrastive else 1)
    working = 2.0 * tokens * (16 * shape.hidden + 6 * shape.intermediate)  # one layer, bf16
    kept = working * shape.layers
    if layout.checkpointing:
        kept = 2.0 * tokens * shape.hidden * shape.layers
    logits = 8.0 * tokens * shape.vocab  # bf16 and fp32 copies, and the gradient
    gathered = 2.0 * (2 * shape.layer + (1 if shape.tied else 2) * shape.vocab * shape.hidden)
    resident_weights = 0 if layout.params_offload else weights
    resident_optimizer = 0 if layout.optimizer_offload else optimizer
    rollout_weights = 2.0 * shape.parameters / layout.tensor_parallel
    return Estimate(
        rows=rows,
        prompt_tokens=rows * prompt,
        response_tokens=rows * response,
        flops=flops,
        state_bytes=state,
        activation_bytes=working + kept + logits,
        gathered_bytes=gathered if layout.gpus > 1 else 2.0 * shape.parameters,
        rollout_bytes=resident_weights + resident_optimizer,
        rollout_weights=rollout_weights if layout.gpu_memory else 0.0,
    )
