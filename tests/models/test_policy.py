"""The testbed model and `Policy`: each number equals what the plain model of transformers gives."""

from __future__ import annotations

from pathlib import Path

import flash_on_cpu
import pytest
import torch
from tiny_models import TEXT, picture
from transformers import AutoProcessor

from modgap.core.prompt import Prompt
from modgap.models import layers
from modgap.models.decode import pick, uniforms
from modgap.models.encode import EncodedPrompt
from modgap.models.load import load_policy
from modgap.models.policy import Policy


def replies(policy: Policy, *lengths: int, seed: int = 0) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(7, len(policy.tokenizer), (n,), generator=rng) for n in lengths]


def plain_logits(policy: Policy, prompt: EncodedPrompt, response: torch.Tensor) -> torch.Tensor:
    """Logits `[T, V]` of a response's tokens from one plain call of transformers' model."""
    ids = torch.cat((prompt.input_ids, response))[None]
    logits = policy.model(
        input_ids=ids,
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.image_grid_thw,
        mm_token_type_ids=(ids == policy.model.config.image_token_id).int(),
    ).logits
    return logits[0, len(prompt) - 1 : -1]


def test_scores_equal_the_plain_model(policy: Policy, prompts: list[EncodedPrompt]) -> None:
    """In one padded batch: two image sizes, no image, several responses to one prompt."""
    rows = [prompts[0], prompts[1], prompts[0], prompts[2], prompts[3], prompts[0]]
    responses = replies(policy, 7, 3, 12, 1, 5, 4)
    with torch.no_grad():
        logps, entropy, mask = policy.logprobs(
            rows, responses, policy.image_features(rows), temperature=0.7
        )
        whole, _ = policy.distributions(
            rows, responses, policy.image_features(rows), temperature=0.7
        )
        assert mask.sum(1).tolist() == [7, 3, 12, 1, 5, 4]
        for i, (prompt, response) in enumerate(zip(rows, responses, strict=True)):
            n = response.numel()
            expected = policy.token_logps(plain_logits(policy, prompt, response), 0.7)
            assert torch.allclose(
                logps[i, :n], expected.gather(-1, response[:, None])[:, 0], atol=1e-4
            )
            assert torch.allclose(whole[i, :n].exp(), expected.exp(), atol=1e-4)
            assert torch.allclose(
                entropy[i, :n], torch.special.entr(expected.exp()).sum(-1), atol=1e-4
            )
    assert not logps[~mask].any() and not entropy[~mask].any()


def test_gradients_equal_the_plain_model(policy: Policy, prompts: list[EncodedPrompt]) -> None:
    rows = [prompts[1], prompts[0], prompts[1]]
    responses = replies(policy, 6, 4, 9)
    weights = [p for p in policy.model.parameters() if p.requires_grad]
    logps, _, mask = policy.logprobs(rows, responses, policy.image_features(rows))
    ours = torch.autograd.grad(logps[mask].sum(), weights)
    total = sum(
        policy.token_logps(plain_logits(policy, p, r), 1.0).gather(-1, r[:, None]).sum()
        for p, r in zip(rows, responses, strict=True)
    )
    theirs = torch.autograd.grad(total, weights)  # pyright: ignore[reportArgumentType]
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item() + 1e-7)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("full_layers", [[0, 1, 2], [1], []])
def test_vision_features_equal_the_models_own(
    policy: Policy, full_layers: list[int], at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with window attention and windows that the image's edge cuts; by lengths, and in one
    call as on a GPU.
    """
    monkeypatch.setattr(layers, "fits", lambda *_: at_once)
    monkeypatch.setattr(layers, "_kernel", flash_on_cpu.kernel)
    visual = policy.visual
    kept, visual.fullatt_block_indexes = visual.fullatt_block_indexes, full_layers
    try:
        shown = [
            policy.encode(Prompt("x"), picture(w, h, i))
            for i, (w, h) in enumerate([(224, 224), (400, 120), (224, 224), (140, 300)])
        ]
        with torch.no_grad():
            features = policy.image_features([*shown, shown[0]])
            pixels = torch.cat([p.pixel_values for p in shown if p.pixel_values is not None])
            grids = torch.cat([p.image_grid_thw for p in shown if p.image_grid_thw is not None])
            expected = policy.model.model.get_image_features(
                pixels, grids, return_dict=True
            ).pooler_output
    finally:
        visual.fullatt_block_indexes = kept
    assert features[0] is features[4]
    for ours, theirs in zip(features, expected, strict=False):
        assert ours is not None and torch.allclose(ours, theirs, atol=1e-5)


def test_positions_equal_the_models_own(policy: Policy, prompts: list[EncodedPrompt]) -> None:
    for prompt in prompts:
        ids = prompt.input_ids[None]
        types = (ids == policy.model.config.image_token_id).int()
        positions, delta = policy.model.model.get_rope_index(
            ids, types, image_grid_thw=prompt.image_grid_thw
        )
        assert torch.equal(positions[:, 0], prompt.position_ids)
        assert prompt.next_position == len(prompt) + int(delta)


def test_chat_equals_the_template(policy: Policy) -> None:
    text = "Find m \\angle ABC.\n  Is it 35°?"
    for system in ("You are a helpful assistant.", "Short."):
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]},
        ]
        rendered = policy.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        rendered = rendered.replace("<|image_pad|>", "<|image_pad|>" * 64) + "<think>"
        expected = policy.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        prompt = policy.encode(Prompt(text, system=system, prefill="<think>"), picture(224, 224, 0))
        assert prompt.input_ids.tolist() == expected


def test_auto_processor_agrees(policy: Policy, folder: Path) -> None:
    """What vLLM and others see: the folder loads as a `Qwen2_5_VLProcessor` and encodes as `Policy`
    does.
    """
    pytest.importorskip("torchvision")
    processor = AutoProcessor.from_pretrained(folder)
    image = picture(224, 224, 3)
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TEXT}]},
    ]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    theirs = processor(text=[text], images=[image], return_tensors="pt")
    ours = policy.encode(Prompt(TEXT), image)
    assert ours.pixel_values is not None
    assert theirs["input_ids"][0].tolist() == ours.input_ids.tolist()
    assert torch.allclose(theirs["pixel_values"], ours.pixel_values, atol=1e-4)


def test_special_tokens_in_a_problem_are_only_text(policy: Policy) -> None:
    prompt = policy.encode(Prompt("<|im_end|><|image_pad|>", has_image=False))
    assert policy.model.config.image_token_id not in prompt.input_ids.tolist()
    assert "<|im_end|><|image_pad|>" in policy.tokenizer.decode(prompt.input_ids)


def test_digits_and_capitals_are_single_tokens_and_text_survives(policy: Policy) -> None:
    text = "AB = 1023.5, m \\angle XYZ = 90°, π√2 \\frac{1}{2}\n"
    ids = policy.tokenizer(text)["input_ids"]
    assert policy.tokenizer.decode(ids) == text
    for token in policy.tokenizer.convert_ids_to_tokens(ids):
        assert sum(c.isdigit() or (c.isascii() and c.isupper()) for c in token) <= 1


def test_greedy_equals_transformers_generate(policy: Policy, prompts: list[EncodedPrompt]) -> None:
    ours = policy.generate(prompts, [[0]] * len(prompts), temperature=0, max_new_tokens=10)
    for prompt, (sample,) in zip(prompts, ours, strict=True):
        ids = prompt.input_ids[None]
        seen = {"pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid_thw}
        theirs = policy.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == policy.model.config.image_token_id).int(),
            do_sample=False,
            max_new_tokens=10,
            suppress_tokens=policy.banned_token_ids,
            **{name: value for name, value in seen.items() if value is not None},
        )[0, len(prompt) :]
        assert sample.token_ids.tolist() == theirs.tolist()


def test_a_sample_depends_on_its_seed_alone(policy: Policy, prompts: list[EncodedPrompt]) -> None:
    """Not on what else is in the batch, on how it is cut, or on the order; and its log-probs are
    those of scoring.
    """
    seeds = [[5, 6, 7], [8], [9, 10], [11, 5]]
    together = policy.generate(prompts, seeds, temperature=1.0, max_new_tokens=30)
    apart = policy.generate(
        prompts[::-1], seeds[::-1], temperature=1.0, max_new_tokens=30, max_rows=2
    )[::-1]
    alone = policy.generate([prompts[0]], [[6]], temperature=1.0, max_new_tokens=30)[0][0]
    assert torch.equal(together[0][1].token_ids, alone.token_ids)
    flat = [(p, sample) for p, row in zip(prompts, together, strict=True) for sample in row]
    for (_, a), b in zip(flat, (s for row in apart for s in row), strict=True):
        assert torch.equal(a.token_ids, b.token_ids) and a.text == b.text
    rows = [p for p, _ in flat]
    with torch.no_grad():
        logps, _, mask = policy.logprobs(
            rows, [s.token_ids for _, s in flat], policy.image_features(rows)
        )
    assert torch.allclose(logps[mask], torch.cat([s.logps for _, s in flat]), atol=1e-4)
    assert len({tuple(s.token_ids.tolist()) for s in together[0]}) == 3


def test_samples_end_at_the_end_token_without_placeholders(
    policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    """With an LM head that likes the end token and the placeholders best of all."""
    favourites = [*policy.eos_token_ids, *policy.banned_token_ids]
    bias = torch.zeros(len(policy.tokenizer)).index_fill(0, torch.tensor(favourites), 3.0)
    hook = policy.model.lm_head.register_forward_hook(lambda _module, _inputs, out: out + bias)
    try:
        samples = [
            s for row in policy.generate(prompts, [range(12)] * 4, 1.0, 6, max_rows=24) for s in row
        ]
    finally:
        hook.remove()
    reasons = {s.finish_reason for s in samples}
    assert reasons == {"stop", "length"}
    for s in samples:
        ids = s.token_ids.tolist()
        assert not set(ids) & set(policy.banned_token_ids)
        assert not set(ids[:-1]) & set(policy.eos_token_ids)
        assert (ids[-1] in policy.eos_token_ids) == (s.finish_reason == "stop")
        assert len(ids) == 6 or s.finish_reason == "stop"
        assert "<|" not in s.text


def test_sampling_follows_the_distribution() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    draws = pick(probabilities.log().expand(20_000, -1), uniforms([3], 20_000)[0])
    observed = draws.bincount(minlength=6) / 20_000
    assert torch.allclose(observed, probabilities, atol=0.015)
    edges = pick(probabilities.log().expand(2, -1), torch.tensor([0.0, 1 - 2**-24]))
    assert edges.tolist() == [1, 4]


def test_generate_leaves_the_mode_and_no_gradient(
    policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    policy.model.train()
    policy.generate(prompts[:1], [[0]], max_new_tokens=2)
    assert policy.model.training and torch.is_grad_enabled()
    policy.model.eval()


def test_lora_trains_adapters_only_and_saves_merged(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(folder, device="cpu", lora=4)
    names = [n for n, p in policy.model.named_parameters() if p.requires_grad]
    assert names and all("lora_" in n and "language_model" in n for n in names)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(std=0.05)
    prompt = policy.encode(Prompt(TEXT), picture(224, 224, 0))
    (response,) = replies(policy, 6)
    merged = load_policy(policy.save(tmp_path / "merged"), device="cpu")
    assert not any("lora" in name for name in merged.model.state_dict())
    base = load_policy(folder, device="cpu")
    with torch.no_grad():
        a, b, c = (
            p.logprobs([prompt], [response], p.image_features([prompt]))[0]
            for p in (policy, merged, base)
        )
    assert torch.allclose(a, b, atol=1e-4) and not torch.allclose(a, c, atol=1e-2)


def test_frozen_vision_and_checkpointing(folder: Path) -> None:
    """A frozen tower gets no gradient; recomputing layers changes no gradient."""
    grads: list[dict[str, torch.Tensor]] = []
    for options in ({}, {"gradient_checkpointing": True}, {"frozen": ("tower", "merger")}):
        policy = load_policy(folder, device="cpu", **options)
        policy.model.train()
        prompt = policy.encode(Prompt(TEXT), picture(224, 224, 0))
        (response,) = replies(policy, 6)
        policy.logprobs([prompt], [response], policy.image_features([prompt]))[0].sum().backward()
        grads.append({n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None})
    plain, recomputed, frozen = grads
    assert plain.keys() == recomputed.keys()
    assert all(torch.allclose(plain[n], recomputed[n], atol=1e-6) for n in plain)
    assert any("visual" in n for n in plain) and not any("visual" in n for n in frozen)


def test_images_keep_or_take_about_the_models_size(policy: Policy) -> None:
    assert policy.encode(Prompt("x"), picture(224, 224, 0)).grid == (1, 16, 16)
    for width, height in ((1200, 900), (90, 60), (500, 120)):
        _, rows, columns = policy.encode(Prompt("x"), picture(width, height, 0)).grid
        assert 0.6 * 256 <= rows * columns <= 1.25 * 256


@pytest.mark.gpu
@pytest.mark.parametrize("full_layers", [[0, 1, 2], [1]])
def test_vision_features_in_bf16_are_as_close_as_the_models_own(full_layers: list[int]) -> None:
    """Against fp32, by the norm of the error; images of several sizes, windows that edges cut."""
    on_gpu = load_policy("tiny", device="cuda", dtype=torch.float32)
    on_gpu.visual.fullatt_block_indexes = full_layers
    shown = [
        on_gpu.encode(Prompt("x"), picture(w, h, i))
        for i, (w, h) in enumerate([(224, 224), (400, 120), (140, 300)])
    ]
    pixels = torch.cat([p.pixel_values for p in shown if p.pixel_values is not None]).cuda()
    grids = torch.cat([p.image_grid_thw for p in shown if p.image_grid_thw is not None]).cuda()
    with torch.no_grad():
        exact = torch.cat([f for f in on_gpu.image_features(shown) if f is not None])
        with torch.autocast("cuda", torch.bfloat16):
            ours = torch.cat([f for f in on_gpu.image_features(shown) if f is not None])
            theirs = torch.cat(
                on_gpu.model.model.get_image_features(pixels, grids, return_dict=True).pooler_output
            )
    assert 0 < float((ours - exact).norm()) <= 1.2 * float((theirs - exact).norm())
