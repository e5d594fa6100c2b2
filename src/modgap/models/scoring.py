"""Log-probabilities of chosen tokens from hidden states, without the logits of a whole pass.

Logits of 152,000 words are computed in chunks; where gradients are on, again in the backward pass.

Legend: N tokens, C channels, V vocabulary, B rows, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from modgap.models.casts import moved

# Numbers in the logits of a chunk: 1 GB in fp32.
_CHUNK = 2**28


def chosen_logps(
    logps: Callable[[Tensor], Tensor], hidden_NC: Tensor, targets_N: Tensor, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the target tokens, and entropies.

    Args:
        logps: From hidden states `[n, C]` to log-probabilities `[n, V]` in fp32.
        hidden_NC: The hidden states that predict the targets.
        targets_N: The targets' ids.
        vocabulary: V.

    Returns:
        Log-probabilities `[N]` with gradient and entropies `[N]` without, in fp32.
    """

    def score(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        all_logps = logps(hidden)
        chosen = all_logps.gather(-1, targets[:, None])[:, 0]
        # Only for the log. Last, so that recomputing a chunk stops before it.
        with torch.no_grad():
            entropy = torch.special.entr(all_logps.exp()).sum(-1)
        return chosen, entropy

    size = max(1, _CHUNK // vocabulary)
    if hidden_NC.shape[0] <= size:
        return score(hidden_NC, targets_N)
    chosen: list[Tensor] = []
    entropies: list[Tensor] = []
    for hidden, targets in zip(hidden_NC.split(size), targets_N.split(size), strict=True):
        if torch.is_grad_enabled():
            one, entropy = checkpoint(score, hidden, targets, use_reentrant=False)
        else:
            one, entropy = score(hidden, targets)
        chosen.append(one)
        entropies.append(entropy)
    return torch.cat(chosen), torch.cat(entropies)


def padded(
    responses: Sequence[Tensor], device: torch.device, *values_N: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Values of the N response tokens as `[B, T, ...]`, zero on padding, and the mask `[B, T]`."""
    lengths = torch.tensor([r.numel() for r in responses])
    mask_BT = torch.arange(int(lengths.max())) < lengths[:, None]
    at = moved(mask_BT.flatten().nonzero()[:, 0], device)
    out = [
        values.new_zeros(mask_BT.numel(), *values.shape[1:])
        .index_copy(0, at, values)
        .unflatten(0, mask_BT.shape)
        for values in values_N
    ]
    return out, moved(mask_BT, device)
