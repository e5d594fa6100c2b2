"""What a sampled token costs on a GPU, and what other ways of computing its layers would save.

python bench/decode_ways.py [--model 3b] [--prompts 8] [--samples 5] [--image-tokens 256]
[--ways NAME ...] [--profile FILE] [--json FILE]
    prints Markdown

Every way samples the same responses of `--tokens` tokens, none of which may end before, as
`modgap train` samples them: fp32 weights, products in bf16, steps replayed as CUDA graphs. *Same*
is the share of tokens that are those of `now`.

now        what the engine does
compiled   torch.compile of what a layer does before, between and after the products with its cache
pick       a token is looked for in blocks of the vocabulary, then in one block
flash      torch's FlashAttention on the same caches: over the prompts, over what was sampled, and
           the two merged by their log-sums; on a CPU a loop stands in for the kernel
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from made import MODELS, machine, make_policy, write
from step import made_batch, swapped
from torch import Tensor
from update_ways import compiled, profiled

from modgap.models import decode, static
from modgap.models.layers import head_norms, normed, rotated
from modgap.training.update import computing

PARTS = ("_before_attention", "_weights", "_after_attention")
WAYS = ("now", "compiled", "pick", "flash")
_BLOCK = 512


def pick_in_blocks(logps_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """As `decode.pick`, in two steps that keep more of a GPU busy."""
    rows, words = logps_BV.shape
    blocks = -(-words // _BLOCK)
    padded = torch.nn.functional.pad(logps_BV, (0, blocks * _BLOCK - words), value=-torch.inf)
    chances = padded.view(rows, blocks, _BLOCK).exp()
    below = chances.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniform_B.to(below)[:, None] * below[:, -1:]
    block = torch.searchsorted(below, target, right=True).clamp(max=blocks - 1)
    left = target - torch.where(block > 0, below.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = chances.gather(1, block[..., None].expand(-1, -1, _BLOCK))[:, 0].double().cumsum(-1)
    place = torch.searchsorted(inside, left, right=True)
    return (block * _BLOCK + place)[:, 0].clamp(max=words - 1)


def flash_step(policy: Any, tokens_PG: Tensor, cache: Any, cos: Tensor, sin: Tensor) -> Tensor:
    """As `decode.decode_step`."""
    decoder = policy.decoder
    P, G = tokens_PG.shape
    rows, device = P * G, tokens_PG.device
    (_, K, S, D), room = cache.prefix[0][0].shape, cache.added[0][0].shape[3]

    def counted(*values: int) -> Tensor:
        return torch.arange(*values, dtype=torch.int32, device=device)

    # Where each sequence begins among the tokens of the first key head, and how long it is.
    of_prefix = (counted(0, rows + 1, G), K * S * counted(P + 1),
                 (cache.bias[:, 0, 0, 0, :S] == 0).sum(-1, dtype=torch.int32))  # fmt: skip
    starts = (K * G * room * counted(P)[:, None] + room * counted(G)).flatten()
    of_added = (counted(rows + 1), torch.cat((starts, starts[-1:] + room)),
                (cache.place + 1).to(torch.int32).expand(rows).contiguous())  # fmt: skip
    cos, sin = cos[:, None, None], sin[:, None, None]
    x = decoder.embed_tokens(tokens_PG.reshape(-1))
    for number, layer in enumerate(decoder.layers):
        attention = layer.self_attn
        h = normed(layer.input_layernorm, x)
        q, k = (p(h).view(P, G, -1, D) for p in (attention.q_proj, attention.k_proj))
        qk = torch.cat(head_norms(attention, q, k), dim=2)
        v = attention.v_proj(h).view(P, G, K, D)
        qk = rotated(qk, cos, sin).to(v.dtype)
        heads = qk.shape[2] - K
        cache.write(number, qk[:, :, heads:].transpose(1, 2), v.transpose(1, 2))
        q = qk[:, :, :heads].flatten(0, 1)
        scale = attention.scaling
        first, of_first = attended(q, cache.prefix[number], of_prefix, (G, S), scale)
        second, of_second = attended(q, cache.added[number], of_added, (1, room), scale)
        share = (of_second - of_first).sigmoid().t()[..., None].to(first.dtype)
        x = x + attention.o_proj(torch.lerp(first, second, share).flatten(1))
        x = x + layer.mlp(normed(layer.post_attention_layernorm, x))
    return policy.head(decoder.norm(x))


def attended(
    q: Tensor, cached: Any, places: Any, most: tuple[int, int], scale: float
) -> tuple[Tensor, Tensor]:
    """What queries `[N, H, D]` read, and the log-sums `[H, N]` of their scores.

    Keys lie head by head within a prompt, so a token of the next sequence may be a head's width
    away: sequences are found by where they begin, not by where the one before ends.
    """
    keys, values = (
        x.as_strided((x.numel() // D - (K - 1) * n, K, D), (D, n * D, 1))
        for x in cached
        for K, n, D in [(x.shape[1], x[0, 0].numel() // x.shape[-1], x.shape[-1])]
    )
    queries_from, keys_from, lengths = places
    if q.device.type == "cpu":
        return _looped(q, keys, values, places, scale)
    out, sums, *_ = torch.ops.aten._flash_attention_forward(
        q, keys, values, queries_from, keys_from, *most, 0.0, False, False, scale=scale,
        seqused_k=lengths,
    )  # fmt: skip
    return out, sums


def _looped(
    q: Tensor, keys: Tensor, values: Tensor, places: Any, scale: float
) -> tuple[Tensor, Tensor]:
    queries_from, keys_from, lengths = (x.tolist() for x in places)
    out, sums = torch.zeros_like(q), q.new_full((q.shape[1], q.shape[0]), torch.inf)
    for i, length in enumerate(lengths):
        if not length:
            continue
        rows = slice(queries_from[i], queries_from[i + 1])
        k, v = (x[keys_from[i] : keys_from[i] + length] for x in (keys, values))
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        scores = scale * torch.einsum("nhd,mhd->hnm", q[rows], k)
        sums[:, rows] = scores.logsumexp(-1)
        out[rows] = torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v)
    return out, sums


@contextlib.contextmanager
def way(name: str) -> Iterator[None]:
    """Inside, tokens are sampled in this way."""
    with contextlib.ExitStack() as stack:
        if name == "compiled":
            for part in PARTS:
                stack.enter_context(swapped(decode, part, compiled(getattr(decode, part))))
        if name == "pick":
            stack.enter_context(swapped(static, "pick", pick_in_blocks))
        if name == "flash":
            stack.enter_context(swapped(static, "decode_step", flash_step))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--model", choices=MODELS, default="nano")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--image-tokens", type=int, default=256, help="a square number")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--json", type=Path, help="with a .md beside it")
    given = parser.parse_args()
    torch._dynamo.config.cache_size_limit = 64
    of: Any = make_policy(given.model, given.device, given.image_tokens)
    of.eos_token_ids = []
    with tempfile.TemporaryDirectory() as scratch:
        batch = made_batch(of, given.prompts, 1, 8, Path(scratch))
    prompts = batch.prompts
    seeds = [[100 * p + s for s in range(given.samples)] for p in range(given.prompts)]
    about = machine(given.device) | {
        "model": given.model, "prompts": given.prompts, "samples": given.samples,
        "tokens": given.tokens, "image tokens": given.image_tokens,
    }  # fmt: skip
    lines = [
        ", ".join(f"{k} {v}" for k, v in about.items()), "",
        "| way | ms a token | over now | first, s | same |", "|" + " --- |" * 5,
    ]  # fmt: skip
    rows: dict[str, Any] = {}
    first: list[Tensor] = []
    profiles: list[str] = []

    def run() -> list[Tensor]:
        with computing(of):
            found = of.generate(prompts, seeds, 0.8, given.tokens, graphs=True)
        return [sample.token_ids for group in found for sample in group]

    for name in given.ways:
        of._static = None  # its graphs are those of another way
        with way(name):
            start = time.perf_counter()
            tokens = run()
            begun = time.perf_counter() - start
            first = first or tokens
            times: list[float] = []
            for _ in range(given.rounds):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            if given.profile:
                profiles += [f"\n{name}", *profiled(run)]
                given.profile.write_text("\n".join(profiles) + "\n")
        same = statistics.mean(
            float((a == b).float().mean()) for a, b in zip(tokens, first, strict=True)
        )
        each = 1000 * statistics.median(times) / given.tokens
        rows[name] = {"ms_a_token": each, "all": times, "first_s": begun, "same": same}
        over = each / rows[given.ways[0]]["ms_a_token"]
        lines.append(f"| {name} | {each:.2f} | {over:.2f}x | {begun:.1f} | {100 * same:.0f}% |")
        write(given.json, about, rows, lines)
        print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
