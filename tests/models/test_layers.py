"""The norm and the gated MLP equal transformers' in values and gradients, and keep less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm, Qwen2MLP

from modgap.models.layers import gated_mlp, normed

CONFIG = Qwen2_5_VLTextConfig(hidden_size=64, intermediate_size=160)


@pytest.fixture(params=["norm", "mlp"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Callable[[Any, Tensor], Tensor]]:
    """A module with random weights, and what computes the same."""
    torch.manual_seed(0)
    module: Any = Qwen2_5_VLRMSNorm(64) if request.param == "norm" else Qwen2MLP(CONFIG)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module, normed if request.param == "norm" else gated_mlp


def results(
    module: Any, work: Callable[[Tensor], Tensor], x: Tensor, autocast: bool
) -> tuple[list[Tensor], int]:
    """Output and gradients, and how many bytes that belong to no weight were kept between the
    passes.
    """
    weights, kept = {p.untyped_storage().data_ptr() for p in module.parameters()}, dict[int, int]()
    held: list[Tensor] = []  # a storage that went away could be taken for another one

    def pack(t: Tensor) -> Tensor:
        held.append(t)
        if (at := t.untyped_storage().data_ptr()) not in weights:
            kept[at] = t.untyped_storage().nbytes()
        return t

    x = x.clone().requires_grad_()
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
    ):
        out = work(x)
    grads = torch.autograd.grad(
        (out.float() * torch.linspace(-1, 1, 64)).sum(), [x, *module.parameters()]
    )
    return [out.detach(), *grads], sum(kept.values())


@pytest.mark.parametrize(("autocast", "bound"), [(False, 1e-6), (True, 2e-2)])
def test_values_and_gradients_equal_the_module(pair: Any, autocast: bool, bound: float) -> None:
    module, ours = pair
    x = torch.randn(3, 11, 64) * 2
    mine, _ = results(module, lambda x: ours(module, x), x, autocast)
    theirs, _ = results(module, module, x, autocast)
    for a, b in zip(mine, theirs, strict=True):
        assert float((a.float() - b.float()).abs().max()) <= bound * float(b.abs().max())


@pytest.mark.parametrize("autocast", [False, True])
def test_half_weights_are_the_modules_own_business(pair: Any, autocast: bool) -> None:
    """bf16 weights, as in evaluation and (with autocast) below LoRA: bit for bit what transformers
    gives.
    """
    module, ours = pair
    module.to(torch.bfloat16)
    x = torch.randn(3, 11, 64, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(ours(module, x), module(x))


def test_the_mlp_does_not_keep_the_activated_gate() -> None:
    module = Qwen2MLP(CONFIG)
    x = torch.randn(50, 64)
    (_, mine), (_, theirs) = (
        results(module, work, x, False) for work in (lambda x: gated_mlp(module, x), module)
    )
    assert theirs - mine == 50 * 160 * 4


def test_another_activation_is_left_to_the_module() -> None:
    module = Qwen2MLP(
        Qwen2_5_VLTextConfig(hidden_size=64, intermediate_size=160, hidden_act="gelu")
    )
    x = torch.randn(5, 64)
    assert torch.equal(gated_mlp(module, x), module(x))
