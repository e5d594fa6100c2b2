"""Scoring in packs: rows of one prompt are one sequence, the prompt and then the responses, under a mask.

A response sees the prompt and itself. Packs are padded to the longest, and the mask hides pairs of tokens without
saving them; but attention is a single kernel a layer however many groups there are. That is what a small model on a GPU
needs, which waits for launches: there the tree (`tree.py`) took two to three times as long (docs/speed.md).

Legend: P packs, S tokens of the longest, C channels, N response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modgap.models.casts import moved

if TYPE_CHECKING:
    from modgap.models.encode import EncodedPrompt
    from modgap.models.policy import Features, Policy

# Rows of one prompt share its tokens in one masked sequence up to this length; beyond it the mask costs more.
_PACK_TOKENS = 2048


def packed_hidden(
    policy: Policy, prompts: Sequence[EncodedPrompt], responses: Sequence[Tensor], features: Features
) -> Tensor:
    """Hidden states `[N, C]` that predict the response tokens, row by row; rows with one prompt object share it."""
    packs = _packs(policy, prompts, responses)
    heads = [prompts[pack[0]] for pack in packs]
    # A response's last token predicts nothing that is asked for.
    tails = [[responses[row][:-1] for row in pack] for pack in packs]
    embeds, positions = policy.embed(heads, [features[pack[0]] for pack in packs], tails)
    mask = None
    if any(len(pack) > 1 for pack in packs):
        allowed = moved(_pack_mask(heads, tails, embeds.shape[1]), policy.device)
        mask = {"full_attention": allowed, "sliding_attention": allowed}
    hidden = policy.decoder(
        inputs_embeds=embeds, position_ids=positions, attention_mask=mask, use_cache=False
    ).last_hidden_state
    at: dict[int, Tensor] = {}
    for p, (pack, head, tail) in enumerate(zip(packs, heads, tails, strict=True)):
        offset = p * embeds.shape[1] + len(head)
        first = torch.tensor([offset - 1])
        for row, tokens in zip(pack, tail, strict=True):
            at[row] = torch.cat((first, torch.arange(tokens.numel()) + offset))
            offset += tokens.numel()
    index = moved(torch.cat([at[row] for row in range(len(prompts))]), policy.device)
    return hidden.reshape(-1, hidden.shape[-1])[index]


def _packs(policy: Policy, prompts: Sequence[EncodedPrompt], responses: Sequence[Tensor]) -> list[list[int]]:
    """Rows that share a sequence: those of the same prompt, as far as the sequence stays short enough to pay."""
    if policy.model.config._attn_implementation != "sdpa":
        return [[row] for row in range(len(prompts))]
    packs: list[list[int]] = []
    open_packs: dict[int, tuple[list[int], int]] = {}
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        pack, tokens = open_packs.get(id(prompt), ([], len(prompt)))
        if pack and tokens + response.numel() > _PACK_TOKENS:
            pack, tokens = [], len(prompt)
        if not pack:
            packs.append(pack)
        pack.append(row)
        open_packs[id(prompt)] = (pack, tokens + response.numel())
    return packs


def _pack_mask(heads: Sequence[EncodedPrompt], tails: Sequence[Sequence[Tensor]], width: int) -> Tensor:
    """Who may see whom, `[P, 1, S, S]`: what came before, in the prompt or in the same tail."""
    part = torch.full((len(heads), width), -1)
    for i, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        sizes = torch.tensor([len(head), *(t.numel() for t in tail)])
        part[i, : int(sizes.sum())] = torch.arange(len(sizes)).repeat_interleave(sizes)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same = part[:, :, None] == part[:, None, :]
    return (causal & (same | (part == 0)[:, None, :]))[:, None]
