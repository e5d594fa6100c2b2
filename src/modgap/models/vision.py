"""The vision towers of Qwen2.5-VL and Qwen3-VL over many images at once.

transformers runs attention image by image (and window by window) outside flash attention, and
computes rotary positions and window indices in Python for each image; with many small images that
is most of the time. Here what depends on the grid alone is cached, and attention is one kernel over
all images or windows on a GPU in bf16 (`layers.py`); elsewhere the segments of equal length are one
batch of scaled-dot-product attention. Results equal the model's own `get_image_features` (see
`tests/models/test_policy.py`). It walks the tower's own modules, so LoRA and autocast apply as
they do there.

Qwen2.5-VL attends in windows in most of its blocks. Qwen3-VL attends to the whole image in all of
them, adds a learned position to each patch, and has features of some inner blocks, too (DeepStack),
which its language model adds after its first layers: here they lie beside the last ones, in the
same rows.

Legend: N patches of all images, M merged tokens (4 patches each), C channels, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modgap.models import layers
from modgap.models.casts import moved
from modgap.models.layers import gated_mlp, normed, rotated, turned

Grid = tuple[int, int, int]


class _GridPlan(NamedTuple):
    positions_N2: Tensor
    window_M: Tensor
    windows: list[int]
    merged: int


@lru_cache(maxsize=256)
def _grid_plan(grid: Grid, merge: int, window: int, patch: int, windowed: bool) -> _GridPlan:
    """Patch coordinates, the window order, and the windows' lengths.

    The coordinates are in window order if there are windows.
    """
    from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

    thw = torch.tensor([grid])
    positions = get_vision_position_ids(thw, merge)
    merged = positions.shape[0] // merge**2
    if not windowed:
        return _GridPlan(positions, torch.arange(merged), [], merged)
    index, bounds = get_vision_window_index(
        thw, spatial_merge_size=merge, window_size=window, patch_size=patch
    )
    positions = positions.view(-1, merge * merge, 2)[index].view(-1, 2)
    return _GridPlan(positions, index, bounds.diff().tolist(), merged)


@lru_cache(maxsize=64)
def _interpolation(
    grids: tuple[Grid, ...], side: int, merge: int, mode: str, aligned: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rows of the table of learned positions, and their weights, for each patch: `[N, taps]`."""
    from transformers import vision_utils

    thw = torch.tensor(grids)
    if hasattr(vision_utils, "get_vision_interpolation_indices_and_weights"):
        indices, weights = vision_utils.get_vision_interpolation_indices_and_weights(
            thw, num_grid_per_side=side, mode=mode, align_corners=aligned, spatial_merge_size=merge
        )
    else:  # older releases, where it is bilinear with aligned corners
        found = vision_utils.get_vision_bilinear_indices_and_weights(thw, side, merge)
        indices, weights = (x.transpose(0, 1) for x in found)
    return moved(indices, device), moved(weights, device)


def _learned(visual: Any, grids: Sequence[Grid], device: torch.device) -> Tensor:
    """The learned position of each patch, `[N, C]`."""
    indices, weights = _interpolation(
        tuple(tuple(grid) for grid in grids),
        visual.num_grid_per_side,
        visual.spatial_merge_size,
        getattr(visual, "interpolation_mode", "bilinear"),
        getattr(visual, "interpolation_align_corners", True),
        device,
    )
    return (visual.pos_embed(indices) * weights[:, :, None]).sum(1)


Segments = layers.Ends | list[Tensor]


def _segments(lengths: Sequence[int], device: torch.device, flashes: bool) -> Segments:
    """Where segments end, or for each distinct length L the positions of its segments.

    The positions are `[k, L]` for the k segments of length L.
    """
    if flashes and lengths:
        return layers.Ends.of(lengths, lengths, device)
    starts: dict[int, list[int]] = {}
    offset = 0
    for length in lengths:
        starts.setdefault(length, []).append(offset)
        offset += length
    return [
        moved(torch.tensor(at)[:, None] + torch.arange(length)[None, :], device)
        for length, at in sorted(starts.items())
    ]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What depends only on the grids.

    Coordinates, window order (if any), and the segments of full and of window attention.
    """

    positions_N2: Tensor
    window_M: Tensor | None
    full: Segments
    windows: Segments
    merged: list[int]


@lru_cache(maxsize=16)
def _plan(
    grids: tuple[Grid, ...],
    shape: tuple[int, int, int],
    windowed: bool,
    device: torch.device,
    flashes: bool,
) -> _Plan:
    plans = [_grid_plan(grid, *shape, windowed) for grid in grids]
    merged = [plan.merged for plan in plans]
    window = None
    if windowed:
        offsets = accumulate(merged, initial=0)
        parts = [plan.window_M + offset for plan, offset in zip(plans, offsets, strict=False)]
        window = moved(torch.cat(parts), device)
    return _Plan(
        moved(torch.cat([plan.positions_N2 for plan in plans]), device),
        window,
        _segments([h * w for t, h, w in grids for _ in range(t)], device, flashes),
        _segments([length for plan in plans for length in plan.windows], device, flashes),
        merged,
    )


def _rotate(x_N2HD: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> Tensor:
    """Rotary embedding in fp32, as transformers does it for the vision tower; `sin` is `turned`."""
    return rotated(x_N2HD.float(), cos_ND[:, None, None], sin_ND[:, None, None]).to(x_N2HD.dtype)


def _before_attention(
    block: Any, x_NC: Tensor, cos_ND: Tensor, sin_ND: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, `[N, H, D]` each."""
    attention, n = block.attn, x_NC.shape[0]
    qkv = attention.qkv(normed(block.norm1, x_NC)).view(n, 3, attention.num_heads, -1)
    qk, v = qkv.split((2, 1), dim=1)
    q, k = _rotate(qk, cos_ND, sin_ND).unbind(1)
    return q, k, v[:, 0]


def _after_attention(block: Any, x_NC: Tensor, seen_NC: Tensor) -> Tensor:
    """Hidden states from those before the block and what its attention saw."""
    x = x_NC + block.attn.proj(seen_NC)
    return x + gated_mlp(block.mlp, normed(block.norm2, x))


def _attend(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """What each segment's attention sees, `[N, C]`."""
    n = q.shape[0]
    if isinstance(segments, layers.Ends):
        return layers.attend(q, k, v, segments, scale, causal=False).flatten(1)
    if len(segments) == 1:  # segments of equal length are contiguous: no gathering needed
        shape = (*segments[0].shape, *q.shape[1:])
        q, k, v = (t.view(shape).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return out.transpose(1, 2).reshape(n, -1)
    parts: list[Tensor] = []
    for at in segments:
        of_q, of_k, of_v = (t[at].transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(of_q, of_k, of_v, scale=scale)
        parts.append(out.transpose(1, 2))
    order = torch.cat([at.flatten() for at in segments]).argsort()
    return torch.cat([part.reshape(-1, part.shape[2] * part.shape[3]) for part in parts])[order]


def encode_images(
    visual: Any, pixels_NP: Tensor, grids: Sequence[Grid], call: layers.Call = layers.directly
) -> list[Tensor]:
    """Features of each image.

    Args:
        visual: The model's `visual` module.
        pixels_NP: Patches of all images, one image after the other, `[N, 1176]`, on the tower's
            device.
        grids: Each image's (frames, rows, columns) in patches.
        call: How a block is run.

    Returns:
        For each image its merged tokens `[M_i, hidden]`, in the order of the placeholders; with
        DeepStack `[M_i, (1 + levels) * hidden]`.
    """
    shape = (visual.spatial_merge_size, getattr(visual, "window_size", 0), visual.patch_size)
    whole_image = getattr(visual, "fullatt_block_indexes", range(len(visual.blocks)))
    windowed = len(whole_image) < len(visual.blocks)
    levels: list[int] = list(getattr(visual, "deepstack_visual_indexes", ()))
    kernel = visual.patch_embed.proj.weight
    heads = visual.blocks[0].attn
    flashes = layers.fits(kernel, heads.qkv.in_features // heads.num_heads)
    plan = _plan(tuple(tuple(grid) for grid in grids), shape, windowed, pixels_NP.device, flashes)
    angles = (
        plan.positions_N2[..., None].float() * visual.rotary_pos_emb.inv_freq.float()
    ).flatten(1)
    angles = torch.cat((angles, angles), dim=-1)
    cos, sin = angles.cos(), turned(angles.sin())

    # The patch embedding is a convolution whose stride equals its kernel size: it is a matrix
    # product, which is much faster.
    x = F.linear(pixels_NP.to(kernel.dtype), kernel.flatten(1), visual.patch_embed.proj.bias)
    if hasattr(visual, "pos_embed"):
        x = x + _learned(visual, grids, x.device).to(x.dtype)
    if plan.window_M is not None:
        x = x.view(plan.window_M.numel(), -1, x.shape[-1])[plan.window_M].view(x.shape)

    def over(segments: Segments) -> layers.Step:
        def step(block: Any, x: Tensor) -> Tensor:
            q, k, v = _before_attention(block, x, cos, sin)
            seen = _attend(q, k, v, segments, block.attn.scaling)
            return _after_attention(block, x, seen)

        return step

    whole, windows = over(plan.full), over(plan.windows)
    deep: list[Tensor] = []
    for number, block in enumerate(visual.blocks):
        x = call(block, whole if number in whole_image else windows, x)
        if number in levels:
            deep.append(visual.deepstack_merger_list[levels.index(number)](x))
    features = visual.merger(x)
    if deep:
        features = torch.cat((features, *deep), dim=-1)
    if plan.window_M is not None:
        features = features[plan.window_M.argsort()]
    return list(features.split(plan.merged))
