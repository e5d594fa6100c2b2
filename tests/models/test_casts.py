"""Weights cast once: the values and gradients of autocast's own casts, bit for bit."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modgap.core.prompt import Prompt
from modgap.core.recipe import Settings, Stage
from modgap.models import scoring
from modgap.models.casts import Casts
from modgap.models.load import load_policy
from modgap.models.policy import Policy
from modgap.training import update
from modgap.training.rollout import Batch

KINDS = ("weight", "bias")
# Of an image: bf16 is slow on a CPU.
SMALL = (56 * 56, 56 * 56)


@contextlib.contextmanager
def autocast(casts: Casts | None) -> Iterator[None]:
    with (
        torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
        casts.shown("cpu") if casts else contextlib.nullcontext(),
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
    for casts in (None, Casts(model)):
        model.zero_grad(set_to_none=True)
        with autocast(casts):
            for seed in range(3):
                ids = torch.randint(50, (20,), generator=torch.Generator().manual_seed(seed))
                (model(ids, again) * torch.linspace(-1, 1, 50)).sum().backward()
        assert all(
            p.grad is not None and p.grad.dtype == torch.float32
            for p in model.parameters()
            if p.requires_grad
        )
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == 5
    tied, *others = zip(*found, strict=True)
    assert torch.allclose(*tied, rtol=1e-6, atol=1e-6)  # the sum of three parts, in another order
    assert all(torch.equal(a, b) for a, b in others)
    assert model.frozen.weight.grad is None


class Gated(nn.Module):
    """A gated MLP, as transformers writes it."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate_proj, self.up_proj = nn.Linear(16, wide), nn.Linear(16, wide)
        self.down_proj, self.act_fn = nn.Linear(wide, 16), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def test_a_gated_mlp_of_an_odd_width_is_padded_and_its_results_stay() -> None:
    model = Gated(12)
    casts = Casts(model)
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    found: list[list[Tensor]] = []
    for given in (None, casts, casts):  # the third time the copies are there
        model.zero_grad(set_to_none=True)
        with autocast(given):
            out = model(x)
            assert model.down_proj.weight.shape == (16, 16 if given else 12)
            for _ in range(2):
                out.float().square().sum().backward(retain_graph=True)
        grads = {name: p.grad for name, p in model.named_parameters()}
        assert all(grads[name].shape == p.shape for name, p in model.named_parameters())
        found.append([out.detach(), *(grad.clone() for grad in grads.values())])
    for own, first, again in zip(*found, strict=True):
        assert torch.equal(first, again)
        assert torch.allclose(own, first, rtol=2e-2, atol=2e-2 * float(own.abs().max()))
    with autocast(casts):
        inner = model.gate_proj(x)
    assert not inner[:, 12:].any() and inner[:, :12].any()


def test_without_autocast_and_where_nothing_is_to_be_cast_nothing_happens() -> None:
    model = Tied()
    casts = Casts(model)
    with casts.shown("cpu"):
        assert model.head.weight is model.embed.weight
    with autocast(casts):
        half = model.head.weight
        assert half.dtype == torch.bfloat16
        with casts.shown("cpu"):
            assert model.head.weight is half, "they are cast already"
        assert model.head.weight is half
    model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16), casts.shown("cpu"):
        assert model.head.weight is model.embed.weight


def test_copies_stay_in_their_place_and_have_the_weights_of_now() -> None:
    """Whichever way these change: an optimizer's steps in place, `.data`, which no version counts,
    a layer left out.
    """
    model = Tied()
    casts = Casts(model)
    places: list[dict[str, int]] = []

    def look() -> None:
        layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
        with torch.no_grad(), autocast(casts):
            shown = {
                f"{name}.{kind}": x
                for name, m in layers.items()
                for kind, x in m.__dict__.items()
                if kind in KINDS
            }
            own = {
                f"{name}.{kind}": p
                for name, m in layers.items()
                for kind, p in m.named_parameters()
            }
            assert shown.keys() == own.keys()
            assert all(torch.equal(x, own[name].bfloat16()) for name, x in shown.items())
            places.append({name: x.data_ptr() for name, x in shown.items()})

    look()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with autocast(casts):
        model(torch.arange(20))[:, 0].sum().backward()
    optimizer.step()
    look()
    model.inner.weight.data.mul_(3)
    look()
    with autocast(None), casts.shown("cpu", leave=model.head):
        assert (
            model.head.weight is model.embed.weight and model.inner.weight.dtype == torch.bfloat16
        )
    look()
    assert places[0] == places[1] == places[2] == places[3]
    model.inner.requires_grad_(False)  # now a copy of another kind: without gradients
    with autocast(casts):
        assert not model.inner.weight.requires_grad
        model(torch.arange(20))[:, 0].sum().backward()


@pytest.mark.parametrize("fails", [1, 3])
def test_a_backward_pass_that_runs_out_of_memory_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    """It is where a step's gradients are allocated; with fewer rows all begins anew."""
    model, calls = Tied(), 0
    casts, to = Casts(model), torch.Tensor.to

    def short(self: Tensor, *given: Any, **more: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == fails:
            raise torch.OutOfMemoryError
        return to(self, *given, **more)

    def gradients() -> list[Tensor]:
        model.zero_grad(set_to_none=True)
        model(torch.arange(20))[:, 0].sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    with autocast(casts):
        expected = gradients()
    with autocast(casts):
        monkeypatch.setattr(torch.Tensor, "to", short)
        with pytest.raises(torch.OutOfMemoryError):
            gradients()
        monkeypatch.undo()
        again = gradients()
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_a_copied_policy_has_casts_of_its_own() -> None:
    policy = load_policy("tiny", device="cpu", pixels=SMALL)
    for one in (policy, copy.deepcopy(policy)):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), one.weights_cast():
            logps, _, mask = one.logprobs(
                [one.encode(Prompt("Find x.", has_image=False))], [torch.arange(10, 14)], [None]
            )
            logps[mask].mean().backward()
        decoder = one.decoder.parameters()
        assert all(p.grad is not None for p in decoder)


@pytest.mark.parametrize("lora", [None, 4])
def test_a_policys_gradients_are_autocasts_own(lora: int | None) -> None:
    policy = load_policy("tiny", device="cpu", lora=lora, pixels=SMALL)
    prompts = [policy.encode(Prompt("Find x."), Image.new("RGB", (56, 56), "white"))] * 2
    found: list[dict[str, Tensor]] = []
    for casts in (None, Casts(policy.model)):
        policy.model.zero_grad(set_to_none=True)
        with autocast(casts):
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
        assert torch.allclose(
            grad, found[1][name], rtol=1e-5, atol=1e-7 * float(grad.abs().max())
        ), name


def test_a_head_in_many_chunks_sums_their_gradients_in_fp32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = load_policy("tiny", device="cpu")
    prompts = [policy.encode(Prompt("Find x.", has_image=False))]
    responses = [torch.randint(10, 600, (64,), generator=torch.Generator().manual_seed(0))]

    def head_gradient(once: bool) -> Tensor:
        policy.model.zero_grad(set_to_none=True)
        with (
            torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
            policy.weights_cast() if once else contextlib.nullcontext(),
        ):
            logps, _, _ = policy.logprobs(prompts, responses, [None])
            logps.sum().backward()
        grad = policy.model.lm_head.weight.grad
        assert grad is not None
        return grad.clone()

    monkeypatch.setattr(scoring, "_CHUNK", 2 * policy.model.config.text_config.vocab_size)
    assert torch.equal(head_gradient(True), head_gradient(False))


def test_weights_cast_where_no_gradient_is_on_are_trained_on() -> None:
    model = Tied()
    with torch.no_grad(), autocast(Casts(model)), torch.enable_grad():
        model(torch.arange(20))[:, 0].sum().backward()
    assert model.inner.weight.grad is not None and model.embed.weight.grad is not None


@pytest.mark.parametrize(
    ("micro_batch", "changes"), [(2, {}), (20, {}), (20, {"kl_estimator": "full_vocab"})], ids=str
)
def test_an_updates_gradients_are_autocasts_own(
    monkeypatch: pytest.MonkeyPatch, micro_batch: int, changes: dict[str, Any]
) -> None:
    """Groups whole and split, twins with their group and apart, old log-probabilities."""
    computing = lambda _: torch.autocast("cpu", torch.bfloat16, cache_enabled=False)  # noqa: E731
    monkeypatch.setattr(update, "computing", computing)
    policy = load_policy("tiny", device="cpu", pixels=SMALL)
    words = torch.Generator().manual_seed(0)
    prompts, twins = [], []
    for n, color in enumerate(("white", "red")):
        image = Image.new("RGB", (56, 56), color)
        prompts += [policy.encode(Prompt(f"AB = {n}. Find x."), image)] * 3
        twins += [(policy.encode(Prompt("Find x."), image),)] * 3
    responses = [torch.randint(10, 600, (n,), generator=words) for n in (4, 6, 1, 3, 2, 5)]
    advantages = torch.tensor([-1.0, 0.5, 0.5, 1.0, -0.2, -0.8])
    views = ["full-text"] * len(prompts)
    batch = Batch(prompts, twins, views, responses, advantages, advantages > 0)
    settings = replace(Settings(), kl_coef=0.5, **changes)
    stage = Stage(("full-text",), contrastive=True, settings=settings)
    found: list[list[Tensor]] = []
    for once in (False, True):
        if not once:
            monkeypatch.setattr(Policy, "weights_cast", lambda _: contextlib.nullcontext())
        else:
            monkeypatch.undo()
            monkeypatch.setattr(update, "computing", computing)
        old = update.old_logprobs(policy, batch, settings, micro_batch)
        update.gradients(policy, replace(batch, old_logps=old), stage, micro_batch)
        found.append([p.grad.clone() for p in policy.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(policy.parameters()))
    for a, b in zip(*found, strict=True):
        assert float((a - b).abs().max()) <= 1e-5 * float(a.abs().max())
