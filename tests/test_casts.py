"""Weights cast once: the values and gradients of autocast's own casts, bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modgap.core.prompt import Prompt
from modgap.models.casts import halved
from modgap.models.load import load_policy


@contextlib.contextmanager
def autocast(cast_once: bool, model: nn.Module) -> Iterator[None]:
    with (
        torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
        halved(model, "cpu") if cast_once else contextlib.nullcontext(),
    ):
        yield


class Tied(nn.Module):
    """An embedding whose weight is the head's, too; a norm; a layer with a bias, one frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm = nn.Embedding(50, 16), nn.LayerNorm(16)
        self.inner, self.frozen = nn.Linear(16, 16), nn.Linear(16, 16).requires_grad_(False)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, again: bool = False) -> Tensor:
        x = self.norm(self.embed(ids))
        x = checkpoint(self.inner, x, use_reentrant=False) if again else self.inner(x)
        return self.head(self.frozen(x)).float().log_softmax(-1)


@pytest.mark.parametrize("again", [False, True])
def test_gradients_of_several_passes_are_autocasts_own(again: bool) -> None:
    model = Tied()
    found: list[list[Tensor]] = []
    for cast_once in (False, True):
        model.zero_grad(set_to_none=True)
        with autocast(cast_once, model):
            for seed in range(3):
                ids = torch.randint(50, (20,), generator=torch.Generator().manual_seed(seed))
                (model(ids, again) * torch.linspace(-1, 1, 50)).sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == 5
    tied, *others = zip(*found, strict=True)
    assert torch.allclose(*tied, rtol=1e-6, atol=1e-6)  # the sum of three parts, in another order
    assert all(torch.equal(a, b) for a, b in others)
    assert model.frozen.weight.grad is None


def test_without_autocast_and_where_nothing_is_to_be_cast_nothing_happens() -> None:
    model = Tied()
    with halved(model, "cpu") as cast:
        assert not cast and model.head.weight is model.embed.weight
    with autocast(True, model), halved(model, "cpu") as cast:
        assert not cast, "they are cast already"
    with torch.autocast("cpu", torch.bfloat16), halved(model.bfloat16(), "cpu") as cast:
        assert not cast


@pytest.mark.parametrize("lora", [None, 4])
def test_a_policys_gradients_are_autocasts_own(lora: int | None) -> None:
    policy = load_policy("tiny", device="cpu", lora=lora)
    prompts = [policy.encode(Prompt("Find x."), Image.new("RGB", (224, 224), "white"))] * 2
    found: list[dict[str, Tensor]] = []
    for cast_once in (False, True):
        policy.model.zero_grad(set_to_none=True)
        with autocast(cast_once, policy.model):
            for seed in range(2):
                words = torch.Generator().manual_seed(seed)
                responses = [torch.randint(10, 600, (n,), generator=words) for n in (4, 6)]
                logps, _, mask = policy.logprobs(prompts, responses, policy.image_features(prompts))
                logps[mask].mean().backward()
        grads = {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}
        found.append({name: grad.clone() for name, grad in grads.items()})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == len([p for p in policy.model.parameters() if p.requires_grad])
    for name, grad in found[0].items():
        assert torch.allclose(grad, found[1][name], rtol=1e-5, atol=1e-7 * float(grad.abs().max())), name
