"""What has to hold for the answers of a vision-language model of any family.

Used by the tests, and by `bench/families.py` for other releases of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
from tiny_models import picture
from torch import Tensor

from modgap.core.prompt import Prompt
from modgap.models.generic import Asked, GenericModel, _copied
from modgap.models.policy import Policy

SEEDS = [[1, 2], [3, 4], [5, 6], [7]]
WORDS = "Find the length of AC given AB = 3 and m \\angle CAB = 20."


def asked(model: Any) -> list[Any]:
    """Prompts of several lengths: three shapes of images, one prompt without, two without a system
    turn."""
    return [
        model.encode(Prompt(WORDS), picture(150, 90, 0)),
        model.encode(Prompt("Find AB."), picture(64, 128, 1)),
        model.encode(Prompt("Find AB, then AC.", has_image=False)),
        model.encode(Prompt("Find AC.", system=None, prefill="<think>"), picture(100, 100, 2)),
    ]


def check_batches(model: GenericModel) -> None:
    """Samples in one padded batch are those of each prompt alone."""
    prompts = asked(model)
    assert len({len(prompt) for prompt in prompts}) > 2
    assert [prompt.image_tokens > 0 for prompt in prompts] == [True, True, False, True]
    together = model.generate(prompts, SEEDS, 0.8, 6)
    for prompt, seeds, samples in zip(prompts, SEEDS, together, strict=True):
        (alone,) = model.generate([prompt], [seeds], 0.8, 6)
        assert len(alone) == len(samples) == len(seeds)
        for one, other in zip(alone, samples, strict=True):
            assert one.token_ids.tolist() == other.token_ids.tolist()
            assert torch.allclose(one.logps, other.logps, atol=1e-3)
    chosen = {sample.token_ids[0].item() for samples in together for sample in samples}
    assert len(chosen) > 1 and not chosen & set(model.banned_token_ids)


def check_copies(model: GenericModel) -> None:
    """Copies of the processor's output are its output for the repeated prompts."""
    pictured = [prompt for prompt in asked(model) if prompt.image is not None]
    once, twice = model._inputs(pictured), model._inputs([*pictured, *pictured])
    assert once.keys() == twice.keys() and len(once) > 2
    for name, value in once.items():
        copied = _copied(value, 2)
        if isinstance(value, Tensor):
            assert torch.equal(copied, twice[name]), name
        else:
            assert copied == twice[name], name


def check_greedy(model: GenericModel) -> None:
    """Tokens of a prompt and greedy answers are transformers' own, one prompt at a time.

    The oracle is the processor's `apply_chat_template` and the model's `generate`, until two tokens
    are so close that rounding may choose between them.
    """
    compared = 0
    if getattr(model.processor, "video_processor", ...) is None:  # SmolVLM's asks it for a number
        model.processor.video_processor = SimpleNamespace(num_frames=1, fps=1)
    for words, image in ((WORDS, picture(150, 90, 0)), ("Find AB.", picture(64, 128, 1))):
        prompt = model.encode(Prompt(words, system=None), image)
        shown = [{"type": "image", "image": image}, {"type": "text", "text": words}]
        theirs = model.processor.apply_chat_template(
            [{"role": "user", "content": shown}], tokenize=True, return_dict=True,
            return_tensors="pt", add_generation_prompt=True,
        )  # fmt: skip
        if not prompt.left_out and "You are a helpful assistant" not in decoded(model, theirs):
            assert len(prompt) == theirs["input_ids"].shape[1]
            out = model.model.generate(
                **theirs, do_sample=False, max_new_tokens=8, output_logits=True,
                return_dict_in_generate=True, suppress_tokens=model.banned_token_ids,
            )  # fmt: skip
            compared += _agree(model, prompt, out.logits)
    assert compared > 4 or model.model.config.model_type in ("qwen2_vl", "qwen2_5_vl")


def odd(model: Any) -> list[Any]:
    """Prompts with images of odd sizes: narrow, flat, tiny, large."""
    sizes = [(37, 211), (301, 17), (57, 28), (333, 250)]
    if model.model.config.model_type != "mistral3":  # whose own forward fails on one image token
        sizes.append((8, 8))
    return [
        model.encode(Prompt(WORDS if n % 2 else "Find AB."), picture(*size, n))
        for n, size in enumerate(sizes)
    ]


def check_odd_images(model: GenericModel) -> None:
    """Images of odd sizes are answered in a batch as alone."""
    prompts = odd(model)
    together = model.generate(prompts, [[n] for n in range(len(prompts))], 0.8, 6)
    for n, (prompt, (sample,)) in enumerate(zip(prompts, together, strict=True)):
        ((alone,),) = model.generate([prompt], [[n]], 0.8, 6)
        assert alone.token_ids.tolist() == sample.token_ids.tolist()


def check_fast(policy: Policy, model: GenericModel) -> None:
    """The fast path of a family draws transformers' own samples."""
    for make in (asked, odd):
        seeds = SEEDS if make is asked else [[n] for n in range(len(odd(model)))]
        theirs = model.generate(make(model), seeds, 0.9, 8)
        for graphs in (False, True):
            ours = policy.generate(make(policy), seeds, 0.9, 8, graphs=graphs)
            for a, b in zip(chain(*ours), chain(*theirs), strict=True):
                assert a.token_ids.tolist() == b.token_ids.tolist() and a.text == b.text
                assert (a.logps - b.logps).abs().max() < 1e-4


def decoded(model: GenericModel, inputs: Any) -> str:
    """The words of a processor's output."""
    return str(model.tokenizer.decode(inputs["input_ids"][0]))


def _agree(model: GenericModel, prompt: Asked, logits: Sequence[Tensor]) -> int:
    ((sample,),) = model.generate([prompt], [[0]], 0.0, 8)
    ours = sample.token_ids.tolist()
    for t, row in enumerate(logits):
        scores = row[0].float().index_fill(0, torch.tensor(model.banned_token_ids), -torch.inf)
        first, second = scores.topk(2).values.tolist()
        if first - second < 1e-3 or t >= len(ours):
            return t
        assert ours[t] == int(scores.argmax())
        assert abs(float(sample.logps[t]) - float(scores.log_softmax(-1).max())) < 1e-3
    return len(logits)
