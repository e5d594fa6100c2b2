"""Layers of Qwen2.5 and Qwen3 as scoring, sampling and the towers call them, same weights.

The norm and the gated MLP need less memory for the backward pass than transformers' modules: they
give the same results from the same modules and weights (LoRA's included) and recompute what is
cheap.

`attend` is FlashAttention over sequences of any length in one kernel, on a GPU in half precision
(`fits`). It is the kernel built into torch: no padding, no mask, no extra package.
`torch.nn.attention.varlen` is the same kernel behind a Python call.

Legend: N queries of all sequences, M keys, n sequences, H heads, K key heads, D head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2FN

from modgap.models.casts import moved

_kernel: Any = torch.ops.aten._flash_attention_forward
_flash_attn: Any = None
_SILU = (torch.nn.SiLU, type(ACT2FN["silu"]))


Step = Callable[[Any, Tensor], Tensor]
"""The work of one layer: (layer, hidden states) -> hidden states."""
Call = Callable[[Any, Step, Tensor], Tensor]
"""How a layer's step is run: (layer, step, hidden states) -> hidden states."""


def directly(layer: Any, step: Step, x: Tensor) -> Tensor:
    """Run a layer's step; with gradient checkpointing, again in the backward pass."""
    checkpointed = getattr(layer, "gradient_checkpointing", False)
    if checkpointed and layer.training and torch.is_grad_enabled():
        return checkpoint(step, layer, x, use_reentrant=False)
    return step(layer, x)


def normed(norm: Any, x: Tensor) -> Tensor:
    """RMS or layer norm of `x` in fp32; under autocast cast once to the type of the next products.

    A GPU's kernel keeps nothing but `x`. With weights in bf16 (in evaluation, and below LoRA) the
    module itself is called, as in sampling: it decides where to round.
    """
    if norm.weight.dtype != torch.float32:
        return norm(x)
    if isinstance(norm, torch.nn.LayerNorm):
        out = norm(x.float())
    else:
        out = F.rms_norm(x.float(), norm.weight.shape, norm.weight, norm.variance_epsilon)
    kind = x.device.type
    return out.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else out


def head_norms(attention: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys `[..., heads, D]` after the norms that Qwen3 has for each head."""
    if not hasattr(attention, "q_norm"):
        return q, k
    return normed(attention.q_norm, q), normed(attention.k_norm, k)


def gated_mlp(mlp: Any, x: Tensor) -> Tensor:
    """`mlp(x)` without keeping the activated gate for the backward pass."""
    if not isinstance(mlp.act_fn, _SILU):
        return mlp(x)
    return mlp.down_proj(_Gated.apply(mlp.gate_proj(x), mlp.up_proj(x)))


def turned(sin: Tensor) -> Tensor:
    """The sines of a rotary embedding as `rotated` takes them: the first half negative."""
    first, second = sin.chunk(2, dim=-1)
    return torch.cat((-first, second), dim=-1)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of the last dimension.

    `sin` is `turned`: it holds the sign of the rotated half, computed once for many uses.
    """
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


class _Gated(torch.autograd.Function):
    """`silu(gate) * up`, keeping only these two."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grads[0] * up, gate), grads[0] * F.silu(gate)


@dataclass(frozen=True, slots=True)
class Ends:
    """Where concatenated sequences end.

    Attributes:
        queries: `[n + 1]` int32, from 0.
        keys: The same for keys.
        most_queries: The longest sequence's.
        most_keys: The same for keys.
    """

    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int], device: torch.device) -> Ends:
        """The ends of n sequences with these numbers of queries and keys."""
        ends = torch.tensor([[0, *accumulate(queries)], [0, *accumulate(keys)]], dtype=torch.int32)
        of_queries, of_keys = moved(ends, device)
        return cls(of_queries, of_keys, max(queries), max(keys))


def fits(x: Tensor, head: int) -> bool:
    """Whether the kernel can attend on tensors computed from `x` with heads of this width."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    half = dtype in (torch.bfloat16, torch.float16)
    return (
        kind == "cuda"
        and half
        and head % 8 == 0
        and torch.cuda.get_device_capability(x.device) >= (8, 0)
    )


def use_flash_attn() -> None:
    """From now on attend with the flash-attn package's kernel instead of torch's."""
    global _flash_attn
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    _flash_attn = flash_attn_varlen_func


def attend(
    q_NHD: Tensor, k_MKD: Tensor, v_MKD: Tensor, ends: Ends, scale: float, causal: bool
) -> Tensor:
    """Attention of each sequence's queries on its keys, `[N, H, D]`.

    Causal means that the last query of a sequence sees all of its keys.
    """
    sizes = (ends.queries, ends.keys, ends.most_queries, ends.most_keys)
    if _flash_attn is not None:
        return _flash_attn(q_NHD, k_MKD, v_MKD, *sizes, softmax_scale=scale, causal=causal)
    return _kernel(q_NHD, k_MKD, v_MKD, *sizes, 0.0, causal, False, scale=scale)[0]
