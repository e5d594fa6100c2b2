"""FlashAttention over sequences of any length in one kernel, on a GPU in half precision.

It is the kernel built into torch: no padding, no mask, no extra package.
`torch.nn.attention.varlen` is the same kernel behind a Python call.

Legend: N queries of all sequences, M keys, n sequences, H heads, K key heads, D head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from modgap.models.casts import moved

_kernel: Any = torch.ops.aten._flash_attention_forward


@dataclass(frozen=True, slots=True)
class Ends:
    """Where concatenated sequences end.

    Attributes:
        queries: `[n + 1]` int32, from 0.
        keys: The same for keys.
        most_queries: The longest sequence's.
        most_keys: The same for keys.
    """

    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int], device: torch.device) -> Ends:
        """The ends of n sequences with these numbers of queries and keys."""
        ends = torch.tensor([[0, *accumulate(queries)], [0, *accumulate(keys)]], dtype=torch.int32)
        of_queries, of_keys = moved(ends, device)
        return cls(of_queries, of_keys, max(queries), max(keys))


def fits(x: Tensor, head: int) -> bool:
    """Whether the kernel can attend on tensors computed from `x` with heads of this width."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    half = dtype in (torch.bfloat16, torch.float16)
    return (
        kind == "cuda"
        and half
        and head % 8 == 0
        and torch.cuda.get_device_capability(x.device) >= (8, 0)
    )


def attend(
    q_NHD: Tensor, k_MKD: Tensor, v_MKD: Tensor, ends: Ends, scale: float, causal: bool
) -> Tensor:
    """Attention of each sequence's queries on its keys, `[N, H, D]`.

    Causal means that the last query of a sequence sees all of its keys.
    """
    sizes = (ends.queries, ends.keys, ends.most_queries, ends.most_keys)
    return _kernel(q_NHD, k_MKD, v_MKD, *sizes, 0.0, causal, False, scale=scale)[0]
