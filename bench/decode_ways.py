"""Where the time of a sampled token goes on a GPU, and what compiling its layers would save.

python bench/decode_ways.py [--model 3b] [--prompts 8] [--samples 5] [--image-tokens 256]
[--ways NAME ...] [--profile FILE] [--json FILE]
    prints Markdown

Every way samples the same responses of `--tokens` tokens, none of which may end before, as
`modgap train` samples them: fp32 weights, products in bf16, steps replayed as CUDA graphs. *Same*
is the share of tokens that are those of `now`.

now        what the engine does
compiled   torch.compile of what a layer does before, between and after the products with its cache
pick       a token is looked for in blocks of the vocabulary, then in one block
both       these two
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
from modgap.training.update import computing

PARTS = ("_before_attention", "_weights", "_after_attention")
WAYS = ("now", "compiled", "pick", "both")
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


@contextlib.contextmanager
def way(name: str) -> Iterator[None]:
    """Inside, tokens are sampled in this way."""
    with contextlib.ExitStack() as stack:
        if name in ("compiled", "both"):
            for part in PARTS:
                stack.enter_context(swapped(decode, part, compiled(getattr(decode, part))))
        if name in ("pick", "both"):
            stack.enter_context(swapped(static, "pick", pick_in_blocks))
            stack.enter_context(swapped(decode, "pick", pick_in_blocks))
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
            found = of.generate(prompts, seeds, 0.8, given.tokens)
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
