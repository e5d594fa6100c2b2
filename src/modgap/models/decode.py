"""Sampling: each prompt is prefilled once, its samples share the prefix, finished ones leave.

A step walks the decoder's own modules (so LoRA applies) with a cache in two parts: the prefix, kept
once for each prompt, and what each sample has added, written in place. transformers' caches would
copy the whole cache at every step and keep a copy of the prefix for each sample; on two cores that
copying is most of the time.

A sample depends only on its seed and on the logits. Its uniform numbers are drawn from its own
generator before the first step, one for each token, and pick the token by the inverse of the
distribution function in fp32. (What else is in the batch can only change the logits' last bits.)

Two loops call the same step: `sample_batch` here, whose shapes grow with the responses and shrink
as they end, and the one in `static.py`, whose shapes are fixed, so that a GPU can replay the step
as a CUDA graph.

Legend: P prompts, G samples of each, K key heads, R query heads for each of them, S prefix, T
tokens so far, D head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from modgap.core.errors import UserError
from modgap.core.progress import doing
from modgap.core.text import counted
from modgap.models.decoder import DecoderModel, Placed
from modgap.models.layers import head_norms, normed, rotated, turned

if TYPE_CHECKING:
    from modgap.models.encode import EncodedPrompt


MOST_ROWS = 2048
"""Most samples of a batch."""


@dataclass(frozen=True, slots=True)
class Generated:
    """One sample.

    Attributes:
        token_ids: `[T]` int64 on the CPU, with the token that ended it.
        text: Its words, without special tokens.
        finish_reason: `stop`: it ended by itself; `length`: it was cut off.
        logps: `[T]` float32, log-probability of each token at the temperature it was sampled at
            (greedy: at 1); NaN where the model gave NaN, and then the token is meaningless.
    """

    token_ids: Tensor
    text: str
    finish_reason: Literal["stop", "length"]
    logps: Tensor


def uniforms(seeds: Sequence[int], n: int) -> Tensor:
    """`[len(seeds), n]` float32 in [0, 1), row by row from a generator of that seed."""
    rows = [torch.rand(n, generator=torch.Generator().manual_seed(seed % 2**63)) for seed in seeds]
    return torch.stack(rows) if rows else torch.empty(0, n)


def pick(logps_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Tokens by the inverse distribution function; one of probability zero is never picked."""
    cdf = logps_BV.double().exp().cumsum(-1)
    target = uniform_B.to(cdf)[:, None] * cdf[:, -1:]
    # With NaN any index will do, but it must be a valid token.
    return torch.searchsorted(cdf, target, right=True)[:, 0].clamp(max=cdf.shape[-1] - 1)


def doing_token(t: int, most: int) -> None:
    """Say which token of a batch's responses comes now."""
    doing(f"token {t + 1:,} of at most {most:,}")


KeysValues = list[tuple[Tensor, Tensor]]


def padding_bias(lengths_P: Tensor, width: int) -> Tensor:
    """`[P, 1, 1, 1, width]` fp32, minus infinity from each length on."""
    padding = torch.arange(width, device=lengths_P.device) >= lengths_P[:, None]
    return torch.zeros(padding.shape, device=padding.device).masked_fill(padding, -torch.inf)[
        :, None, None, None
    ]


class Cache(Protocol):
    """What a step needs of a cache; see `_Cache` and `static.py`.

    Attributes:
        prefix: For each layer keys and values of the prompts `[P, K, S, D]`.
        bias: `[P, 1, 1, 1, S + T]` fp32, minus infinity on padding and on tokens that do not exist
            yet.
    """

    prefix: KeysValues
    bias: Tensor

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write one token's keys and values `[P, K, G, D]`; returns those that the step sees."""
        ...


class _Cache:
    """Keys and values of the prefixes and of what has been sampled, for each layer; see `Cache`.

    Attributes:
        added: For each layer keys and values `[P, K, G, room, D]`.
        width: How many of the added tokens a step sees.
    """

    def __init__(
        self, prefix: KeysValues, lengths_P: Tensor, samples: int, room: int, limit: int
    ) -> None:
        self.prefix = prefix
        keys = prefix[0][0]
        self.bias = padding_bias(lengths_P, keys.shape[2])
        shape = (keys.shape[0], keys.shape[1], samples, room, keys.shape[3])
        self.added = [(keys.new_empty(shape), keys.new_empty(shape)) for _ in prefix]
        self.width, self._limit = 0, limit

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write one token's keys and values `[P, K, G, D]`; returns those that the step sees."""
        keys, values = self.added[layer]
        keys[:, :, :, self.width - 1], values[:, :, :, self.width - 1] = k, v
        return keys[:, :, :, : self.width], values[:, :, :, : self.width]

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens of each sample; the next step writes the last of them."""
        self.bias = torch.nn.functional.pad(self.bias, (0, tokens - self.width))
        self.width = tokens
        room = self.added[0][0].shape[3]
        if tokens > room:
            extra = max(tokens - room, min(room, self._limit - room))
            self.added = [
                (
                    torch.nn.functional.pad(k, (0, 0, 0, extra)),
                    torch.nn.functional.pad(v, (0, 0, 0, extra)),
                )
                for k, v in self.added
            ]

    def keep(self, prompts: Tensor, samples: Tensor) -> None:
        """Keep the samples `[P', G']` of the prompts `[P']`."""
        if prompts.numel() < self.bias.shape[0]:
            self.prefix = [(k[prompts], v[prompts]) for k, v in self.prefix]
            self.bias = self.bias[prompts]
        rows = prompts[:, None]

        def kept(x: Tensor) -> Tensor:
            return x.transpose(1, 2)[rows, samples].transpose(1, 2).contiguous()

        self.added = [(kept(k), kept(v)) for k, v in self.added]


def decode_step(
    policy: DecoderModel, tokens_PG: Tensor, cache: Cache, cos_PD: Tensor, sin_PD: Tensor
) -> Tensor:
    """Logits `[P*G, V]` after one more token for each sample, which the cache takes in.

    It uses as few kernels as possible: with a handful of rows the launches dominate.
    """
    decoder = policy.decoder
    P, G = tokens_PG.shape
    cos, sin = cos_PD[:, None, None], sin_PD[:, None, None]
    x = decoder.embed_tokens(tokens_PG.reshape(-1))
    for number, (layer, (prefix_k, prefix_v)) in enumerate(
        zip(decoder.layers, cache.prefix, strict=True)
    ):
        K, S, D = prefix_k.shape[1:]
        q, k, v = _before_attention(layer, x, cos, sin, (P, G, K, D))
        added_k, added_v = cache.write(number, k, v)
        R = q.shape[3]
        scores_prefix = q.view(P, K, G * R, D) @ prefix_k.transpose(-1, -2)
        weights = _weights(
            scores_prefix.view(P, K, G, R, S), q @ added_k.transpose(-1, -2), cache.bias,
            layer.self_attn.scaling,
        )  # fmt: skip
        out = (weights[..., :S].reshape(P, K, G * R, S) @ prefix_v).view(P, K, G, R, D)
        x = _after_attention(layer, x, out, weights[..., S:] @ added_v)
    return policy.head(decoder.norm(x))


def _before_attention(
    layer: Any, x: Tensor, cos: Tensor, sin: Tensor, shape: tuple[int, int, int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries `[P, K, G, R, D]`, keys and values `[P, K, G, D]` of one token of each sample."""
    P, G, K, D = shape
    attention = layer.self_attn
    h = normed(layer.input_layernorm, x)
    if hasattr(attention, "q_norm"):
        q, k = (project(h).view(P, G, -1, D) for project in (attention.q_proj, attention.k_proj))
        qk = torch.cat(head_norms(attention, q, k), dim=2)
    else:
        qk = torch.cat((attention.q_proj(h), attention.k_proj(h)), dim=-1).view(P, G, -1, D)
    v = attention.v_proj(h).view(P, G, K, D)
    qk = rotated(qk, cos, sin).to(v.dtype)
    R = qk.shape[2] // K - 1
    q = qk[:, :, : K * R].view(P, G, K, R, D).transpose(1, 2).contiguous()
    return q, qk[:, :, K * R :].transpose(1, 2), v.transpose(1, 2)


def _weights(prefix: Tensor, added: Tensor, bias: Tensor, scaling: float) -> Tensor:
    """Attention weights `[P, K, G, R, S + T]` of scores `[..., S]` and `[..., T]`.

    The softmax is in fp32, because the bias is.
    """
    scores = torch.cat((prefix, added), dim=-1)
    return torch.add(bias, scores, alpha=scaling).softmax(-1).to(scores.dtype)


def _after_attention(layer: Any, x: Tensor, prefix: Tensor, added: Tensor) -> Tensor:
    """The layer's result from what its queries read in the prefix and in the added tokens."""
    read = (prefix + added).transpose(1, 2).reshape(x.shape[0], -1)
    x = x + layer.self_attn.o_proj(read)
    return x + layer.mlp(normed(layer.post_attention_layernorm, x))


@dataclass(frozen=True, slots=True)
class Start:
    """A batch of prompts after their prefill.

    Attributes:
        prefix: Keys and values of the prompts for each layer, `[P, K, S, D]`.
        logits: `[P, V]`, after the last token.
        lengths: `[P]`.
        cos: Cosines `[P, n, D]` of the n positions that follow.
        sin: Their sines, `turned`.
    """

    prefix: KeysValues
    logits: Tensor
    lengths: Tensor
    cos: Tensor
    sin: Tensor


def begin(policy: DecoderModel, prompts: Sequence[EncodedPrompt], n: int) -> Start:
    """Run each prompt once and prepare for n new tokens.

    Raises:
        UserError: The model gives NaN for all of several prompts.
    """
    from transformers import DynamicCache

    doing(f"reading {counted(len(prompts), 'prompt')}")
    features = policy.image_features(prompts)
    inputs = policy.embed(prompts, features)
    cache: Any = DynamicCache()
    hidden = policy.decoder(
        **inputs, attention_mask=None, past_key_values=cache, use_cache=True
    ).last_hidden_state
    device = hidden.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    logits = policy.head(hidden[torch.arange(len(prompts), device=device), lengths - 1])
    # A single prompt may itself be the cause.
    if len(prompts) > 1 and not bool(logits.amax(-1).isfinite().any()):
        raise UserError(
            f"the model gives NaN, or numbers too large for {policy.dtype}, for each of"
            f" {len(prompts)} prompts: its weights are broken, or it was made for another type"
            " (float16 overflows where bfloat16 does not)"
        )
    prefix = [(layer.keys, layer.values) for layer in cache.layers]
    start = torch.tensor([prompt.next_position for prompt in prompts], device=device)
    cos, sin = _rotary_table(
        policy, start, n, inputs["inputs_embeds"]
    )  # in the type that scoring uses
    cos, sin = cos.to(prefix[0][0].dtype), turned(sin).to(prefix[0][0].dtype)
    # Cast once here: the products of each step would cast them to the same bits.
    if torch.is_autocast_enabled(device.type):
        half = torch.get_autocast_dtype(device.type)
        prefix = [(k.to(half), v.to(half)) for k, v in prefix]
    return Start(prefix, logits, lengths, cos, sin)


def _rotary_table(
    policy: DecoderModel, start_P: Tensor, n: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[P, n, D]` of the n positions from each start.

    Text has the same position on all three axes.
    """
    positions = (start_P[:, None] + torch.arange(n, device=start_P.device)).expand(3, -1, -1)
    cos, sin = policy.decoder.rotary_emb(like, positions)
    return (cos[0], sin[0]) if cos.ndim == 4 else (cos, sin)


def flat_seeds(seeds: Sequence[Sequence[int]]) -> list[int]:
    """The seeds of all rows, equally many for each prompt.

    A prompt with fewer samples repeats its last seed.
    """
    widest = max(len(row) for row in seeds)
    return [row[min(g, len(row) - 1)] for row in seeds for g in range(widest)]


def sample_batch(
    policy: DecoderModel,
    prompts: Sequence[EncodedPrompt],
    seeds: Sequence[Sequence[int]],
    temperature: float,
    max_new_tokens: int,
) -> list[list[tuple[Tensor, Tensor]]]:
    """Tokens and their log-probabilities for one batch of prompts; see `Policy.generate`."""
    P, G = len(prompts), max(len(row) for row in seeds)
    device = policy.device
    noise = uniforms(flat_seeds(seeds), max_new_tokens).to(device) if temperature > 0 else None
    eos = torch.tensor(policy.eos_token_ids, device=device)
    tokens = torch.zeros(P * G, max_new_tokens, dtype=torch.long, device=device)
    logps = torch.zeros(P * G, max_new_tokens, device=device)

    start = begin(policy, prompts, max_new_tokens)
    cos, sin = start.cos, start.sin
    cache = _Cache(start.prefix, start.lengths, G, min(64, max_new_tokens), max_new_tokens)
    logits = start.logits[:, None].expand(P, G, -1).reshape(P * G, -1)
    slot = torch.arange(P * G, device=device).view(P, G)
    done = torch.zeros(P, G, dtype=torch.bool, device=device)
    look_every = 1 if device.type == "cpu" else 8  # reading a result makes a GPU wait

    t = 0
    for t in range(max_new_tokens):
        doing_token(t, max_new_tokens)
        logps_BV = policy.token_logps(logits, temperature or 1.0)
        rows = slot.view(-1)
        token = logps_BV.argmax(-1) if noise is None else pick(logps_BV, noise[rows, t])
        tokens[rows, t] = token
        logps[rows, t] = logps_BV.gather(-1, token[:, None])[:, 0]
        done |= torch.isin(token, eos).view(done.shape)
        if t + 1 == max_new_tokens:
            break
        token = token.view(done.shape)
        if t % look_every == look_every - 1:
            going = (~done).sum(1)
            alive, widest = int((going > 0).sum()), int(going.max())
            if alive == 0:
                break
            if alive * widest <= 0.8 * done.numel():
                kept = (going > 0).nonzero()[:, 0]
                chosen = done[kept].int().argsort(dim=1, stable=True)[:, :widest]
                cache.keep(kept, chosen)
                token, slot, done = (x[kept].gather(1, chosen) for x in (token, slot, done))
                cos, sin = cos[kept], sin[kept]
        cache.reserve(t + 1)
        logits = decode_step(policy, token, cache, cos[:, t], sin[:, t])
    return cut(tokens, logps, t + 1, eos, seeds)


def cut(
    tokens: Tensor, logps: Tensor, n: int, eos: Tensor, seeds: Sequence[Sequence[int]]
) -> list[list[tuple[Tensor, Tensor]]]:
    """Each sample up to the token that ended it.

    Args:
        tokens: `[P*G, max new tokens]`.
        logps: Their log-probabilities.
        n: How many tokens of the longest sample exist.
        eos: The ids that end a sample.
        seeds: For each prompt the seeds of its samples; their number is the number of samples.

    Returns:
        For each prompt its samples' tokens and log-probabilities, on the CPU.
    """
    tokens, logps = tokens[:, :n].cpu(), logps[:, :n].cpu()
    ended = torch.isin(tokens, eos.cpu())
    first = torch.where(ended.any(1), ended.int().argmax(1) + 1, n).tolist()
    samples = [
        (ids[:m].clone(), scores[:m].clone())
        for ids, scores, m in zip(tokens, logps, first, strict=True)
    ]
    widest = len(samples) // len(seeds)
    return [samples[p * widest : p * widest + len(row)] for p, row in enumerate(seeds)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, no gradients and no dropout; afterwards the earlier mode is restored."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def batches(
    lengths: Sequence[int], seeds: Sequence[Sequence[int]], rows: int
) -> Iterator[list[tuple[int, int]]]:
    """Batches of at most `rows` samples, of prompts of similar length.

    A prompt with many samples is part of several batches.

    Args:
        lengths: Tokens of each prompt.
        seeds: The seeds of its samples.
        rows: Most samples of a batch; prompts with fewer samples than the widest of a batch count
            as many.

    Yields:
        (prompt, its first sample), each with at most `rows` samples from there on.
    """
    work = [(i, at) for i, row in enumerate(seeds) for at in range(0, len(row), rows)]
    work.sort(key=lambda item: lengths[item[0]])
    while work:
        batch: list[tuple[int, int]] = []
        widest = 0
        while work:
            i, at = work[0]
            widest = max(widest, len(seeds[i][at : at + rows]))
            if batch and (len(batch) + 1) * widest > rows:
                break
            batch.append(work.pop(0))
        yield batch


def free_memory(device: torch.device) -> float:
    """Bytes that can still be allocated on a GPU; infinite on other devices.

    What torch's allocator has reserved but does not use is included.
    """
    if device.type != "cuda":
        return math.inf
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def rows_at_once(policy: Placed, prompt_tokens: int, max_new_tokens: int, held: int = 0) -> int:
    """How many samples fit into one batch.

    On a CPU 64; on a GPU what fits into a third of the free memory plus `held`. A third, because a
    batch that grows holds what it had beside what it gets, and `static.py` rounds numbers of
    prompts up by as much as a half.
    """
    if policy.device.type != "cuda":
        return 64
    vocabulary = policy.model.config.text_config.vocab_size
    each = bytes_of_token(policy) * (prompt_tokens + max_new_tokens) + 40 * vocabulary
    return max(1, min(MOST_ROWS, int((free_memory(policy.device) + held) / 3) // each))


def bytes_of_token(policy: Placed) -> int:
    """Bytes of one token's keys and values, in autocast's type where autocast is on."""
    config, kind = policy.model.config.text_config, policy.device.type
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else policy.dtype
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head * dtype.itemsize
