"""The pictures of twins, made from the patches of a prompt's own image.

A picture depends on the image's bytes, the ratio and the seed alone: it is the same in every step
and on both engines.

Differences from the published codes: PAPO and VPPO draw the masked squares of 14 x 14 pixels anew
in every step, each with the probability `ratio`, before the image is resized. Here exactly the
share `ratio` of the patches that the model sees is masked, always the same ones.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from modgap.core.terms import Twin
from modgap.models.encode import EncodedPrompt, Pixels


def pictured(prompt: EncodedPrompt, twin: Twin, table: Tensor) -> EncodedPrompt:
    """A prompt with the twin's picture: `blank`, `masked` or `noised`.

    Args:
        prompt: With an image.
        twin: Its picture, ratio and seed.
        table: What the image processor makes of each byte, for patches without a table.
    """
    assert prompt.pixels is not None, "a prompt without an image has no other picture"
    table = table if prompt.pixels.table is None else prompt.pixels.table
    data = as_bytes(prompt.pixels, table)
    if twin.picture == "blank":
        data = torch.full_like(data, 255)
    elif twin.picture == "masked":
        assert twin.ratio is not None
        chosen = torch.randperm(len(data), generator=_random(data, twin))
        data = data.index_fill(0, chosen[: round(twin.ratio * len(data))], 0)
    else:
        assert twin.picture == "noised" and twin.ratio is not None, twin.picture
        noise = torch.randn(data.shape, generator=_random(data, twin))
        data = (data.float() + 255 * twin.ratio * noise).round().clamp(0, 255).byte()
    pixels = Pixels(data, prompt.pixels.grid, table, prompt.pixels.frames)
    key = f"{prompt.image_key} {twin.picture} {twin.ratio} {twin.seed}"
    return replace(prompt, pixels=pixels, image_key=key)


def as_bytes(pixels: Pixels, table: Tensor) -> Tensor:
    """The patches of one frame as bytes, `[N, 3, patch]`."""
    if pixels.table is not None:
        return pixels.data
    numbers = pixels.data.unflatten(1, (3, pixels.frames, -1))[:, :, 0].float()
    low, high = table[:, :1], table[:, -1:]
    return ((numbers - low) / (high - low) * 255).round().clamp(0, 255).byte()


def _random(data: Tensor, twin: Twin) -> torch.Generator:
    """Random numbers that depend on the image and the twin."""
    hasher = hashlib.blake2b(f"{twin.picture} {twin.seed} ".encode(), digest_size=8)
    hasher.update(data.contiguous().numpy().tobytes())
    return torch.Generator().manual_seed(int.from_bytes(hasher.digest()) >> 1)
