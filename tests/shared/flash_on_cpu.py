"""What torch's kernel for sequences of any length does, on a CPU, sequence by sequence: an oracle
for its callers.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F


def kernel(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, query_ends: torch.Tensor,
    key_ends: torch.Tensor, most_q: int, most_k: int, dropout: float, causal: bool, debug: bool, *,
    scale: float,
) -> tuple[torch.Tensor]:  # fmt: skip
    """As `torch.ops.aten._flash_attention_forward`; causal is from the end."""
    assert not dropout and not debug and query_ends.dtype == key_ends.dtype == torch.int32
    assert (
        query_ends[0] == key_ends[0] == 0
        and query_ends[-1] == len(q)
        and key_ends[-1] == len(k) == len(v)
    )
    out: list[torch.Tensor] = []
    for (a, b), (c, d) in zip(
        pairwise(query_ends.tolist()), pairwise(key_ends.tolist()), strict=True
    ):
        assert 0 < b - a <= most_q and b - a <= d - c <= most_k
        mask = torch.ones(b - a, d - c).tril(d - c - (b - a)).bool() if causal else None
        one, seen, values = (x.transpose(0, 1) for x in (q[a:b], k[c:d], v[c:d]))
        seen = F.scaled_dot_product_attention(
            one, seen, values, attn_mask=mask, scale=scale, enable_gqa=True
        )
        out.append(seen.transpose(0, 1))
    return (torch.cat(out),)
