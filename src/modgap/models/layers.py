"""Qwen2.5's norm and gated MLP with less memory for the backward pass than transformers' modules.

They give the same results from the same modules and weights (LoRA's included) and recompute what is
cheap. The rotary embedding of scoring, sampling and the vision tower is here, too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.activations import ACT2FN

_SILU = (torch.nn.SiLU, type(ACT2FN["silu"]))


def normed(norm: Any, x: Tensor) -> Tensor:
    """RMS norm of `x` in fp32; under autocast cast once to the type of the products that read it.

    A GPU's kernel keeps nothing but `x`. With weights in bf16 (in evaluation, and below LoRA) the
    module itself is called, as in sampling: it decides where to round.
    """
    if norm.weight.dtype != torch.float32:
        return norm(x)
    out = F.rms_norm(x.float(), norm.weight.shape, norm.weight, norm.variance_epsilon)
    kind = x.device.type
    return out.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else out


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
