"""Scoring over a tree of tokens: common prefixes are computed once, and nothing is padded.

The responses of a group follow one prompt, and a prompt and its text-free twin begin with the same
tokens, image included: in a causal model a token does not depend on what follows. All tokens of a
pass lie one after the other in spans, each of which follows leading tokens of earlier spans (its
context): a prompt, its responses, the rest of its twin, the twin's responses. Products, norms and
the head see one long row. In attention a query sees its context and what came before it in its own
sequence: no mask, and no pair of tokens that do not see each other. On a GPU in bf16 that is one
kernel over sequences of any length (`layers.py`), elsewhere a few kernels a span.

It walks the decoder's own modules, as `decode.py` does, so LoRA, autocast and checkpointing apply.

Legend: N tokens of a pass, C channels, H heads, K key heads, D head, n sequences of a span, T
tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from modgap.models import layers
from modgap.models.casts import moved
from modgap.models.decoder import DecoderModel, Features
from modgap.models.layers import gated_mlp, head_norms, normed, rotated, turned

if TYPE_CHECKING:
    from modgap.models.encode import EncodedPrompt

# Prompts with fewer leading tokens in common do not share a span.
_SHORTEST = 16


def tree_hidden(
    policy: DecoderModel,
    prompts: Sequence[EncodedPrompt],
    responses: Sequence[Tensor],
    features: Features,
) -> Tensor:
    """Hidden states `[N, C]` that predict the response tokens, row by row.

    Rows with the same prompt object share its computation.
    """
    tree = plant(prompts, responses, policy.model.config.image_token_id)
    return hidden_of(tree, policy.decoder, features, policy.device)


def hidden_of(
    tree: Tree,
    decoder: Any,
    features: Features,
    device: torch.device,
    call: layers.Call = layers.directly,
) -> Tensor:
    """Hidden states `[N, C]` that predict the response tokens of a tree, row by row.

    Args:
        tree: The tokens of the pass.
        decoder: The language model without its head.
        features: Of each row's image.
        device: Where the decoder is.
        call: How a layer is run.
    """
    embeds = decoder.embed_tokens(moved(tree.ids, device))
    seen: list[Tensor] = []
    for row, first in tree.pictured:
        image = features[row]
        assert image is not None, "a prompt with placeholders has an image"
        seen.append(image[first:])
    deep: Sequence[Tensor] = ()
    at = moved(tree.image, device)
    if seen:
        image, *deep = torch.cat(seen).to(embeds.dtype).split(embeds.shape[-1], dim=-1)
        embeds = embeds.index_copy(0, at, image)
    positions = moved(tree.positions, device)
    hidden = run(decoder, embeds, positions, tree.spans, call, deep, at)
    # Rows of a prompt all take its last token. The gradient of `hidden[...]` would add to it from
    # several threads of a CPU, in an order that differs from run to run; that of a lookup does not.
    return F.embedding(moved(torch.cat(tree.scored), device), hidden)


@dataclass(frozen=True, slots=True)
class Span:
    """Sequences that follow the same tokens.

    Attributes:
        context: What they follow, in order: the index of an earlier span (of one sequence) and how
            many of its first tokens.
        lengths: Tokens of each sequence.
    """

    context: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """The tokens of one pass.

    Attributes:
        ids: `[N]`.
        positions: `[3, N]`, M-RoPE.
        image: Where the prompts' image placeholders lie.
        pictured: Whose images the placeholders show, in their order: (row, the first of the image's
            tokens); what lies before it was shown earlier in the pass.
        spans: In the order of the tokens.
        scored: For each row where the hidden states lie that predict its response.
    """

    ids: Tensor
    positions: Tensor
    image: Tensor
    pictured: list[tuple[int, int]]
    spans: list[Span]
    scored: list[Tensor]


def plant(prompts: Sequence[EncodedPrompt], responses: Sequence[Tensor], image_token: int) -> Tree:
    """Lay out prompts, each followed by its response; rows with the same prompt object share it.

    Prompts of the same image also share their common beginning; at least one token of each prompt
    is left out of it.
    """
    families: dict[Any, dict[int, list[int]]] = {}
    for row, prompt in enumerate(prompts):
        family = families.setdefault(prompt.image_key or id(prompt), {})
        family.setdefault(id(prompt), []).append(row)
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    spans: list[Span] = []
    placeholders: list[Tensor] = []
    pictured: list[tuple[int, int]] = []
    scored: dict[int, Tensor] = {}
    n = 0

    def add(
        tokens: Tensor, places: Tensor, context: Sequence[tuple[int, int]], lengths: Sequence[int]
    ) -> int:
        nonlocal n
        ids.append(tokens)
        positions.append(places)
        spans.append(Span(tuple(context), tuple(lengths)))
        n += tokens.numel()
        return len(spans) - 1

    for family in families.values():
        heads = [prompts[rows[0]] for rows in family.values()]
        common = common_beginning([head.input_ids for head in heads]) if len(heads) > 1 else 0
        beginning: list[tuple[int, int]] = []  # of all but the first prompt of a family
        for head, rows in zip(heads, family.values(), strict=True):
            shared = sum(tokens for _, tokens in beginning)
            image = head.input_ids == image_token
            placeholders.append(image[shared:].nonzero()[:, 0] + n)
            if len(placeholders[-1]):
                pictured.append((rows[0], int(image[:shared].sum())))
            own = add(
                head.input_ids[shared:],
                head.position_ids[:, shared:],
                beginning,
                [len(head) - shared],
            )
            whole = [*beginning, (own, len(head) - shared)]
            last = torch.tensor([n - 1])
            # What a response's last token predicts is not scored.
            tails = [(row, responses[row][:-1].cpu()) for row in rows]
            at = n
            for row, tail in tails:
                scored[row] = torch.cat((last, torch.arange(at, at + tail.numel())))
                at += tail.numel()
            tails = [(row, tail) for row, tail in tails if tail.numel()]
            if tails:
                places = (
                    torch.cat([torch.arange(tail.numel()) for _, tail in tails])
                    + head.next_position
                )
                tokens = torch.cat([tail for _, tail in tails])
                add(tokens, places.expand(3, -1), whole, [tail.numel() for _, tail in tails])
            if common and not beginning:
                beginning = [(own, common)]
    rows = [scored[row] for row in range(len(prompts))]
    return Tree(
        torch.cat(ids), torch.cat(positions, dim=1), torch.cat(placeholders), pictured, spans, rows
    )


def common_beginning(ids: Sequence[Tensor]) -> int:
    """How many leading tokens all have in common, at least one of each left out; 0 if too few."""
    least = min(len(x) for x in ids) - 1
    same = torch.stack([x[:least] == ids[0][:least] for x in ids[1:]]).all(0)
    common = int(same.int().cumprod(0).sum())
    return common if common >= _SHORTEST else 0


def run(
    decoder: Any,
    x: Tensor,
    positions: Tensor,
    spans: Sequence[Span],
    call: layers.Call,
    deep: Sequence[Tensor],
    at: Tensor,
) -> Tensor:
    """Hidden states `[N, C]` of embeddings `[N, C]` at positions `[3, N]`.

    Args:
        decoder: The language model without its head.
        x: The embeddings.
        positions: Their positions.
        spans: Who sees whom.
        call: How a layer is run.
        deep: What is added to the image tokens after each of the first layers (DeepStack).
        at: Where these lie, in x.
    """
    cos, sin = (
        _merged(table, decoder.config)[0][:, None]
        for table in decoder.rotary_emb(x[None], positions[:, None])
    )
    sin = turned(sin)
    plan = _attend_at_once if layers.fits(x, cos.shape[-1]) else _attend_by_spans
    attend = plan(spans, x.device)

    def step(layer: Any, x: Tensor) -> Tensor:
        q, kv = _before_attention(layer, x, cos, sin)
        return _after_attention(layer, x, attend(q, kv, layer.self_attn.scaling))

    for number, layer in enumerate(decoder.layers):
        x = call(layer, step, x)
        if number < len(deep):
            x = x.index_add(0, at, deep[number].to(x.dtype))
    return decoder.norm(x)


def _merged(table: Tensor, config: Any) -> Tensor:
    """`[1, N, D]`: each channel's own axis of M-RoPE.

    Older transformers (5.10) leave that to the attention.
    """
    if table.ndim == 3:
        return table
    sections = config.rope_parameters["mrope_section"] * 2
    return torch.cat([part[i % 3] for i, part in enumerate(table.split(sections, dim=-1))], dim=-1)


# From queries `[N, H, D]`, keys and values `[N, 2, K, D]` and the scale to the output `[N, H, D]`.
Attend = Callable[[Tensor, Tensor, float], Tensor]


def _before_attention(layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries `[N, H, D]`, and keys with values `[N, 2, K, D]`."""
    attention, x = layer.self_attn, normed(layer.input_layernorm, x)
    q, k, v = (
        project(x).unflatten(-1, (-1, attention.head_dim))
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    q, k = head_norms(attention, q, k)
    heads = [q.shape[1], k.shape[1]]
    q, k = rotated(torch.cat((q, k), dim=1), cos, sin).to(v.dtype).split(heads, dim=1)
    return q, torch.stack((k, v), dim=1)


def _after_attention(layer: Any, x: Tensor, seen_NHD: Tensor) -> Tensor:
    """Hidden states `[N, C]` from those before the layer and what its attention saw."""
    x = x + layer.self_attn.o_proj(seen_NHD.flatten(1))
    return x + gated_mlp(layer.mlp, normed(layer.post_attention_layernorm, x))


def _attend_at_once(spans: Sequence[Span], device: torch.device) -> Attend:
    """All sequences of all spans in one kernel.

    Each sequence has its own copy of the few keys and values that it sees.
    """
    starts = [0, *accumulate(sum(span.lengths) for span in spans)]
    seen: list[Tensor] = []
    queries: list[int] = []
    for span, start in zip(spans, starts, strict=False):
        before = [torch.arange(tokens) + starts[at] for at, tokens in span.context]
        for length in span.lengths:
            seen.append(torch.cat((*before, torch.arange(start, start + length))))
            queries.append(length)
            start += length
    at = moved(torch.cat(seen), device)
    ends = layers.Ends.of(queries, [x.numel() for x in seen], device)

    def attend(q: Tensor, kv: Tensor, scale: float) -> Tensor:
        k, v = kv.index_select(0, at).unbind(1)
        return layers.attend(q, k, v, ends, scale, causal=True)

    return attend


def _attend_by_spans(spans: Sequence[Span], device: torch.device) -> Attend:
    """Span by span, sequences padded to the longest of their span."""
    sizes = [sum(span.lengths) for span in spans]
    paddings = [_Padding.of(span.lengths, device) for span in spans]

    def attend(q: Tensor, kv: Tensor, scale: float) -> Tensor:
        # Heads before tokens from here on.
        qs, kvs = q.transpose(0, 1).split(sizes, dim=1), kv.permute(1, 2, 0, 3).split(sizes, dim=2)
        out: list[Tensor] = []
        for i, (span, padding) in enumerate(zip(spans, paddings, strict=True)):
            own_q, own_kv = padding.padded(qs[i]), padding.padded(kvs[i])
            mask = None
            if span.context:
                before = [kvs[at][:, :, :tokens] for at, tokens in span.context]
                seen = before[0] if len(before) == 1 else torch.cat(before, dim=2)
                own_kv = torch.cat(
                    (seen[:, None].expand(-1, len(span.lengths), -1, -1, -1), own_kv), dim=3
                )
                mask = _ending(own_q.shape[2], own_kv.shape[3], q.device)
            own_k, own_v = own_kv.unbind()
            seen = F.scaled_dot_product_attention(
                own_q,
                own_k,
                own_v,
                attn_mask=mask,
                is_causal=mask is None,
                scale=scale,
                enable_gqa=True,
            )
            out.append(padding.flat(seen))
        return torch.cat(out, dim=1).transpose(0, 1)

    return attend


@dataclass(frozen=True, slots=True)
class _Padding:
    """Sequences of one span, padded to the longest and back.

    Attributes:
        count: How many sequences.
        into: Where padded to the longest each token comes from, `[n * T]`; `None` where all are
            equally long.
        back: Where each token lies once padded, `[sum of lengths]`.
    """

    count: int
    into: Tensor | None = None
    back: Tensor | None = None

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> _Padding:
        """The padding of sequences of these lengths."""
        if len(set(lengths)) == 1:
            return cls(len(lengths))
        sizes = torch.tensor(lengths)
        real = torch.arange(int(sizes.max())) < sizes[:, None]
        back = real.flatten().nonzero()[:, 0]
        into = torch.zeros(real.numel(), dtype=torch.long).index_put(
            (back,), torch.arange(back.numel())
        )
        return cls(len(lengths), moved(into, device), moved(back, device))

    def padded(self, x: Tensor) -> Tensor:
        """`[..., H, sum of lengths, D]` as `[..., n, H, T, D]`."""
        x = x if self.into is None else x.index_select(-2, self.into)
        return x.unflatten(-2, (self.count, -1)).transpose(-4, -3)

    def flat(self, x: Tensor) -> Tensor:
        """`[n, H, T, D]` as `[H, sum of lengths, D]`."""
        x = x.transpose(0, 1).flatten(1, 2)
        return x if self.back is None else x.index_select(1, self.back)


def _ending(tokens: int, seen: int, device: torch.device) -> Any:
    """The mask for the last `tokens` of a sequence of `seen` tokens.

    On a GPU it is a description instead of a tensor, which allows the fast kernel.
    """
    if device.type == "cuda":
        return causal_lower_right(tokens, seen)
    return torch.ones(tokens, seen, dtype=torch.bool, device=device).tril(seen - tokens)
