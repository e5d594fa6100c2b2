"""A pass of verl's actor over a tree of tokens: prompts and images once, nothing padded.

The local engine's functions (`models/tree.py`, `vision.py`, `scoring.py`) walk the model's own
modules. FSDP gathers a module's weights in hooks around its `forward`, so the walk calls each layer
as a module, and hands it what to do: `module(x, run=f)` returns `f(module, x)`. `install` teaches
that to the modules of a model.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modgap.models import layers
from modgap.models.casts import moved
from modgap.models.encode import EncodedPrompt, Pixels, pixel_values
from modgap.models.scoring import chosen_logps
from modgap.models.tree import hidden_of, plant
from modgap.models.vision import encode_images
from modgap.training.verl.rows import Row


def install(model: Any) -> None:
    """Let a Qwen2.5-VL, its layers and its head take `run`."""
    inner = model.model
    for module in (model, model.lm_head, *inner.language_model.layers, *inner.visual.blocks):
        _take_run(module)
    for module in inner.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = functools.partial(_norm, module)
    # The tower is a tenth of the arithmetic and would keep more for the backward pass than the
    # language model.
    recompute = {"use_reentrant": False}
    inner.visual.gradient_checkpointing_enable(gradient_checkpointing_kwargs=recompute)
    if model.config._attn_implementation == "flash_attention_2":
        layers.use_flash_attn()


def _take_run(module: Any) -> None:
    own = module.forward

    def forward(*args: Any, run: Any = None, **named: Any) -> Any:
        return own(*args, **named) if run is None else run(module, *args)

    module.forward = forward


def _norm(norm: Any, x: Tensor) -> Tensor:
    """RMS norm in one kernel; transformers' own takes eight, and launches limit the update."""
    return F.rms_norm(x, norm.weight.shape, norm.weight.to(x.dtype), norm.variance_epsilon)


def _inside(layer: Any, step: layers.Step, x: Tensor) -> Tensor:
    return layer(x, run=step)


def score(
    model: Any, rows: Sequence[Row], temperature: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of the responses of a pass.

    Args:
        model: The transformers model, inside its own `forward`.
        rows: The rows of the pass.
        temperature: What logits are divided by.
        device: Where the model computes.

    Returns:
        Log-probabilities with gradient and entropies without, fp32, of the rows' response tokens
        one after the other, then of each twin's rows.
    """
    prompts, responses = [row.prompt for row in rows], [row.response for row in rows]
    for k in twin_numbers(rows):
        for row in rows:
            if k in row.twins:
                prompts.append(row.twins[k])
                responses.append(row.response)
    features, blank = _features(model.model.visual, prompts, device)
    tree = plant(prompts, responses, model.config.image_token_id)
    hidden_NC = hidden_of(tree, model.model.language_model, features, device, _inside)
    if blank is not None:
        hidden_NC = hidden_NC + 0.0 * blank.sum().to(hidden_NC.dtype)
    targets_N = moved(torch.cat(responses), device)
    vocabulary = model.config.text_config.vocab_size

    def score_head(head: Any, hidden_NC: Tensor) -> tuple[Tensor, Tensor]:
        def logps(hidden: Tensor) -> Tensor:
            return (F.linear(hidden, head.weight).float() / temperature).log_softmax(-1)

        return chosen_logps(logps, hidden_NC, targets_N, vocabulary)

    return model.lm_head(hidden_NC, run=score_head)


def twin_numbers(rows: Sequence[Row]) -> list[int]:
    """The twins that are scored in a pass, in the order of their rows there."""
    return sorted({k for row in rows for k in row.twins})


def _features(
    visual: Any, prompts: Sequence[EncodedPrompt], device: torch.device
) -> tuple[list[Tensor | None], Tensor | None]:
    """Features of each prompt's image, and of a blank image if no prompt has one.

    The tower runs in any case: the other ranks wait for it, and so does their backward pass.
    """
    shown: dict[str | None, Pixels] = {}
    for prompt in prompts:
        if prompt.pixels is not None:
            shown[prompt.image_key] = prompt.pixels
    if not shown:
        side = visual.spatial_merge_size
        blank = Pixels(
            torch.zeros(side**2, visual.patch_embed.proj.weight[0].numel()), (1, side, side)
        )
        patches = pixel_values([blank], device)
        return [None] * len(prompts), encode_images(visual, patches, [blank.grid], _inside)[0]
    patches, grids = pixel_values(list(shown.values()), device), [p.grid for p in shown.values()]
    by_key = dict(zip(shown, encode_images(visual, patches, grids, _inside), strict=True))
    return [None if p.pixels is None else by_key[p.image_key] for p in prompts], None
