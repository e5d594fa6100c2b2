"""Scoring over a tree of tokens equals transformers' plain forward, row by row, whatever the rows
share.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flash_on_cpu
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from modgap.core.prompt import Prompt
from modgap.models import layers
from modgap.models.encode import EncodedPrompt
from modgap.models.load import load_policy
from modgap.models.policy import Policy
from modgap.models.tree import plant

Rows = tuple[list[EncodedPrompt], list[torch.Tensor]]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("tiny", device="cpu")


def picture(seed: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    )


@pytest.fixture(scope="module")
def rows(policy: Policy) -> Rows:
    """A group and rows of its twin, mixed; a prompt of its own; one without an image; one that
    begins otherwise.
    """
    full = policy.encode(Prompt("In this problem, AB = 3, BC = 4. Find AC."), picture(0))
    twin = policy.encode(Prompt("Based on the image, find AC."), picture(0))
    alone = policy.encode(Prompt("Find x."), picture(1))
    blind = policy.encode(Prompt("Find the length of AC, given that AB = 3.", has_image=False))
    otherwise = policy.encode(Prompt("Find AC.", system=None, prefill="<think>"), picture(0))
    prompts = [full, twin, full, alone, full, blind, twin, otherwise, blind]
    rng = torch.Generator().manual_seed(0)
    responses = [torch.randint(7, 500, (n,), generator=rng) for n in (7, 3, 12, 1, 4, 5, 9, 6, 1)]
    return prompts, responses


def plain(policy: Policy, prompt: EncodedPrompt, response: torch.Tensor) -> torch.Tensor:
    """`[T]` from one call of transformers' model on one row."""
    ids = torch.cat((prompt.input_ids, response))[None]
    image = {"pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid_thw}
    logits = policy.model(
        input_ids=ids, mm_token_type_ids=(ids == policy.model.config.image_token_id).int(),
        **(image if prompt.image_key else {}),
    ).logits  # fmt: skip
    return policy.token_logps(logits[0, len(prompt) - 1 : -1], 1.0).gather(-1, response[:, None])[
        :, 0
    ]


def scored(policy: Policy, rows: Rows) -> list[torch.Tensor]:
    prompts, responses = rows
    logps_BT, _, _ = policy.logprobs(prompts, responses, policy.image_features(prompts))
    return [logps[: len(y)] for logps, y in zip(logps_BT, responses, strict=True)]


def gradients(policy: Policy, logps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a sum in which no two rows weigh the same, so that rows that are mixed up show."""
    policy.model.zero_grad(set_to_none=True)
    torch.stack([(1 + i) * row.sum() for i, row in enumerate(logps)]).sum().backward()
    return {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys() and got
    for name, gradient in expected.items():
        torch.testing.assert_close(
            got[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=name
        )


def test_scores_and_gradients_equal_transformers_plain_forward(
    policy: Policy, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Span by span, and as a GPU does it: all sequences in one call."""
    monkeypatch.setattr(layers, "_kernel", flash_on_cpu.kernel)
    expected = [plain(policy, prompt, response) for prompt, response in zip(*rows, strict=True)]
    theirs = gradients(policy, expected)
    for at_once in (False, True):
        monkeypatch.setattr(layers, "fits", lambda *_, at_once=at_once: at_once)
        got = scored(policy, rows)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
        assert_same(gradients(policy, got), theirs)


class Summed(TorchDispatchMode):
    """Counts the sums over repeated indices that a CPU's threads make in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.in_any_order = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        if func is torch.ops.aten.index_put.default and len(args) > 3 and args[3]:  # accumulates
            (at,) = args[1]
            self.in_any_order += len(at.unique()) < at.numel()
        return func(*args, **(kwargs or {}))


def test_no_gradient_depends_on_the_order_of_threads(policy: Policy, rows: Rows) -> None:
    x = torch.zeros(2, requires_grad=True)
    with Summed() as seen:
        x[torch.tensor([0, 0])].sum().backward()
        assert seen.in_any_order == 1, "this torch calls the sum by another name"
        gradients(policy, scored(policy, rows))
    assert seen.in_any_order == 1


def test_what_prompts_begin_with_is_in_the_tree_once(policy: Policy, rows: Rows) -> None:
    prompts, responses = rows
    full, twin = prompts[:2]
    token = policy.model.config.image_token_id
    tree = plant([full, twin, full], [responses[i] for i in (0, 1, 2)], token)
    assert int((tree.ids == token).sum()) == full.image_tokens and tree.pictured == [(0, 0)]
    common = next(
        n for n, (a, b) in enumerate(zip(full.input_ids, twin.input_ids, strict=False)) if a != b
    )
    # A response's last token predicts nothing.
    assert len(tree.ids) == len(full) + len(twin) - common + (7 - 1) + (3 - 1) + (12 - 1)


def test_a_twin_that_shares_nothing_has_its_own_image(policy: Policy, rows: Rows) -> None:
    full, otherwise = rows[0][0], rows[0][7]
    assert full.image_key == otherwise.image_key
    pair = ([full, otherwise], [rows[1][0], rows[1][7]])
    token = policy.model.config.image_token_id
    tree = plant(*pair, token)
    assert (
        tree.pictured == [(0, 0), (1, 0)]
        and int((tree.ids == token).sum()) == 2 * full.image_tokens
    )
    for got, row in zip(scored(policy, pair), zip(*pair, strict=True), strict=True):
        torch.testing.assert_close(got, plain(policy, *row), rtol=0, atol=1e-4)


def test_a_prompt_that_is_the_beginning_of_another_keeps_a_token_of_its_own(
    policy: Policy, rows: Rows
) -> None:
    full = rows[0][0]
    longer = replace(
        full, input_ids=torch.cat((full.input_ids, torch.tensor([9, 8]))),
        next_position=full.next_position + 2,
        position_ids=torch.cat(
            (full.position_ids, full.next_position + torch.arange(2).expand(3, -1)), dim=1
        ),
    )  # fmt: skip
    pair = ([full, longer], [rows[1][0], rows[1][2]])
    for got, row in zip(scored(policy, pair), zip(*pair, strict=True), strict=True):
        torch.testing.assert_close(got, plain(policy, *row), rtol=0, atol=1e-4)


def test_recomputing_layers_changes_no_gradient(policy: Policy, rows: Rows) -> None:
    expected = {name: g.clone() for name, g in gradients(policy, scored(policy, rows)).items()}
    saving = load_policy("tiny", device="cpu", gradient_checkpointing=True)
    saving.model.train()
    assert_same(gradients(saving, scored(saving, rows)), expected)


def test_adapters_have_the_gradients_of_the_plain_forward(rows: Rows) -> None:
    lora = load_policy("tiny", device="cpu", lora=4)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_(std=0.05)
    expected = [plain(lora, prompt, response) for prompt, response in zip(*rows, strict=True)]
    got = scored(lora, rows)
    assert_same(gradients(lora, got), gradients(lora, expected))


def test_bf16_is_close_to_fp32(policy: Policy, rows: Rows) -> None:
    with torch.no_grad():
        expected = torch.cat(scored(policy, rows))
        with torch.autocast("cpu", torch.bfloat16):
            got = torch.cat(scored(policy, rows))
            naive = torch.cat(
                [plain(policy, prompt, response) for prompt, response in zip(*rows, strict=True)]
            )
    error, plains = (got - expected).abs().mean(), (naive - expected).abs().mean()
    assert (
        got.dtype == torch.float32 and 0 < error < 1.5 * plains
    )  # rounding, as transformers' own has it


@pytest.mark.gpu
def test_one_kernel_for_all_sequences_is_as_close_to_fp32_as_some_for_each_span(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 by autocast; the errors of log-probabilities and of gradients, a tenth more allowed."""
    on_gpu = load_policy("tiny", device="cuda", dtype=torch.float32)

    def found(half: bool, flashes: bool) -> tuple[torch.Tensor, torch.Tensor]:
        if half:
            monkeypatch.setattr(layers, "fits", lambda *_: flashes)
        with torch.autocast("cuda", torch.bfloat16, enabled=half, cache_enabled=False):
            logps_BT, _, mask_BT = on_gpu.logprobs(*rows, on_gpu.image_features(rows[0]))
        logps = [row[mask] for row, mask in zip(logps_BT, mask_BT, strict=True)]
        grads = gradients(on_gpu, logps)
        return torch.cat(logps).detach(), torch.cat(
            [g.flatten() / g.norm() for g in grads.values()]
        )

    assert not layers.fits(torch.zeros(1, device="cuda"), 64), "fp32 goes by spans"
    exact = found(False, False)
    errors = [
        [float((a - b).norm()) for a, b in zip(found(True, f), exact, strict=True)]
        for f in (False, True)
    ]
    assert all(0 < once <= 1.1 * spans for spans, once in zip(*errors, strict=True)), errors
