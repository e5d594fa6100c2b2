"""Where the time of an update of the local engine goes on a GPU, and what other ways of computing
its layers would save.

python bench/update_ways.py [--model 3b] [--micro 5 20] [--image-tokens 256 1024] [--ways NAME ...]
[--profile FILE] [--json FILE]
    prints Markdown

The mini-batch is that of `step.py`. Each way computes the same gradients, plain and contrastive,
interleaved round by round, to the end of the backward passes (the optimizer is left out). *Share*
is the FLOPs that a step needs (what rows share counted once, nothing recomputed, as the dry run
counts them) over what the GPU could compute in that time. *Off* is the gradient's relative
difference from that of `now`, over a sample of the parameters.

now          what the engine does
pointwise    torch.compile of the norms, the rotary embedding and the gate, each by itself
layers       torch.compile of the two halves of a layer, before and after its attention
layers+head  the same, and of what is done with a chunk of logits

`--profile` adds, for every way, the kernels of one plain step by kind, their number, and how long
the GPU waited.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from made import MODELS, Memory, machine, make_policy, write
from step import flops_of, made_batch, swapped
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from modgap.core.recipe import Settings, Stage
from modgap.models import layers, policy, scoring, tree, vision
from modgap.models.policy import Policy
from modgap.training.plan import gpu
from modgap.training.update import gradients

WAYS = ("now", "pointwise", "layers", "layers+head")
KINDS = (
    ("attention", ("flash", "fmha", "attention")),
    ("matrix products", ("gemm", "cutlass", "nvjet", "cublas", "splitk")),
    ("norms", ("norm",)),
    ("softmax", ("softmax",)),
    ("compiled", ("triton",)),
    ("copies and casts", ("copy", "memcpy", "memset", "cat", "index", "gather", "scatter")),
    ("reductions", ("reduce",)),
    ("pointwise", ("elementwise", "roll", "vectorized")),
)
"""Kinds of kernels, by the first that has a word in the kernel's name."""


_backend = "inductor"


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled for any number of tokens."""
    return torch.compile(function, dynamic=True, backend=_backend)


def gate(gate: Tensor, up: Tensor) -> Tensor:
    """The gate of an MLP."""
    return F.silu(gate) * up


def gated_mlp(mlp: Any, x: Tensor) -> Tensor:
    """An MLP whose gate is one kernel."""
    return mlp.down_proj(compiled(gate)(mlp.gate_proj(x), mlp.up_proj(x)))


def picked(logits: Tensor, ban: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets, and entropies, without those of all words in memory."""
    scaled = logits.float() * scale + ban
    total = scaled.logsumexp(-1)
    chosen = scaled.gather(-1, targets[:, None])[:, 0] - total
    with torch.no_grad():
        logps = scaled - total[:, None]
        entropy = -torch.where(logps > -1e30, logps.exp() * logps, 0.0).sum(-1)
    return chosen, entropy


def chosen_of(
    logps: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """As `scoring.chosen_logps`, each chunk's logits read by compiled kernels."""
    owner, temperature = _closure(logps)
    owner.token_logps(owner.head(hidden[:1].detach()), temperature)  # makes the bans
    ban = next(iter(owner._bans.values()))

    def score(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return compiled(picked)(owner.head(hidden), ban, targets, 1 / temperature)

    size = max(1, scoring._CHUNK // vocabulary)
    found = [
        checkpoint(score, *part, use_reentrant=False)
        for part in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return torch.cat([one for one, _ in found]), torch.cat([other for _, other in found])


def _closure(logps: Any) -> tuple[Policy, float]:
    held = dict(zip(logps.__code__.co_freevars, logps.__closure__, strict=True))
    return held["self"].cell_contents, held["temperature"].cell_contents


@contextlib.contextmanager
def way(name: str) -> Iterator[None]:
    """Inside, layers are computed in this way."""
    swaps: list[tuple[Any, str, Any]] = []
    if name == "pointwise":
        swaps += [(room, "normed", compiled(layers.normed)) for room in (tree, vision)]
        swaps += [(room, "gated_mlp", gated_mlp) for room in (tree, vision)]
        swaps += [(tree, "rotated", compiled(layers.rotated))]
        swaps += [(vision, "_rotate", compiled(vision._rotate))]
    if name.startswith("layers"):
        swaps += [
            (room, half, compiled(getattr(room, half)))
            for room in (tree, vision)
            for half in ("_before_attention", "_after_attention")
        ]
    if name.endswith("+head"):
        swaps += [(policy, "chosen_logps", chosen_of)]
    with contextlib.ExitStack() as stack:
        for swap in swaps:
            stack.enter_context(swapped(*swap))
        yield


def sample(of: Policy) -> Tensor:
    """Some numbers of every parameter's gradient, each scaled by its own largest."""
    out: list[Tensor] = []
    for parameter in of.parameters():
        if parameter.grad is not None:
            some = parameter.grad.flatten()[:: max(1, parameter.numel() // 1000)].float()
            out.append(some / parameter.grad.abs().max().clamp_min(1e-30))
    return torch.cat(out).cpu()


def profiled(work: Callable[[], Any]) -> list[str]:
    """Kernels by kind, launches and waits of one run."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = torch.cuda.is_available()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as seen:
        start = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        wall = time.perf_counter() - start
    events = seen.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    on_device = (e for e in events if "CUDA" in str(e.device_type()))
    kernels = [e for e in on_device if e.duration_ns() > 0 and not e.is_user_annotation()]
    calls = defaultdict[str, list[float]](list)
    for event in events:
        if event.name().startswith(("cuda", "cu")) and "CPU" in str(event.device_type()):
            calls[event.name()].append(event.duration_ns() / 1e6)
    spent, count = defaultdict[str, float](float), defaultdict[str, int](int)
    busy, until = 0, 0
    for kernel in sorted(kernels, key=lambda e: e.start_ns()):
        name = kernel.name().lower()
        kind = next((k for k, words in KINDS if any(w in name for w in words)), "other")
        spent[kind] += kernel.duration_ns() / 1e6
        count[kind] += 1
        end = kernel.start_ns() + kernel.duration_ns()
        busy, until = busy + max(0, end - max(until, kernel.start_ns())), max(until, end)
    lines = [
        f"wall {1000 * wall:.0f} ms under the profiler, GPU busy {busy / 1e6:.0f} ms in"
        f" {len(kernels)} kernels, waiting {1000 * wall - busy / 1e6:.0f} ms",
        *(
            f"  {kind}: {spent[kind]:.1f} ms, {count[kind]}"
            for kind in sorted(spent, key=lambda k: -spent[k])
        ),
        "calls of the driver: "
        + ", ".join(f"{name} {len(ms)} ({sum(ms):.0f} ms)" for name, ms in calls.items()),
    ]
    by = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    table = seen.key_averages().table(sort_by=by, row_limit=45, max_name_column_width=100)
    return [*lines, table]


def measure(
    of: Policy, given: argparse.Namespace, image: int, micro: int, until: float
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Time all ways with one size of images and passes."""
    with tempfile.TemporaryDirectory() as scratch:
        batch = made_batch(of, given.groups, given.samples, given.tokens, Path(scratch))
    settings = Settings(micro_batch=micro, max_response_tokens=given.tokens)
    flops = flops_of(given.model, batch, given.samples, settings)
    kinds = {"plain": flops["update"], "contrastive": flops["update"] + flops["twins"]}
    on_gpu = of.device.type == "cuda"
    peak_flops = gpu(torch.cuda.get_device_name()).flops if on_gpu else float("nan")
    memory = Memory(given.device)
    times = {(name, kind): list[float]() for name in given.ways for kind in kinds}
    first, off, gib = dict[str, Tensor](), dict[tuple[str, str], float](), dict[Any, float]()

    def run(kind: str) -> None:
        gradients(of, batch, Stage(("full-text",), kind == "contrastive", settings), micro)

    for number in range(-2, given.rounds):  # the first two compile and warm up
        for name, kind in list(times):
            if number > 0 and time.monotonic() > until:
                break
            of.model.zero_grad(set_to_none=True)
            try:
                with way(name), memory.watching():
                    start = time.perf_counter()
                    run(kind)
                    if on_gpu:
                        torch.cuda.synchronize()
                    took = time.perf_counter() - start
            except Exception as error:  # one way's failure must not cost the others' figures
                print(f"{name}, {kind}: {type(error).__name__}: {error}"[:2000], flush=True)
                del times[name, kind]
                continue
            print(f"round {number}: {name}, {kind}: {took:.3f} s", flush=True)
            if number >= 0:
                times[name, kind].append(took)
                gib[name, kind] = max(gib.get((name, kind), 0.0), memory.peak)
            elif number == -1:
                grads = sample(of)
                first.setdefault(kind, grads)
                off[name, kind] = float((grads - first[kind]).norm() / first[kind].norm())
    rows, lines = {}, list[str]()
    for (name, kind), values in times.items():
        if not values:
            continue
        middle = statistics.median(values)
        over = {}
        for what, other in (("now", ("now", kind)), ("plain", (name, "plain"))):
            pairs = list(zip(values, times.get(other, []), strict=False))
            over[what] = statistics.median(a / b for a, b in pairs) if pairs else float("nan")
        share = kinds[kind] / middle / peak_flops
        rows[f"{image} tokens, {micro} rows, {name}, {kind}"] = {
            "seconds": middle, "all": values, "over": over, "share": share,
            "off": off[name, kind], "peak_gib": gib[name, kind],
        }  # fmt: skip
        lines.append(
            f"| {image} | {micro} | {name} | {kind} | {middle:.3f} | {over['now']:.2f}x |"
            f" {over['plain']:.2f}x | {kinds[kind] / kinds['plain']:.2f}x | {100 * share:.0f}% |"
            f" {gib[name, kind]:.1f} | {off[name, kind]:.0e} |"
        )
    profiles: list[str] = []
    if given.profile:
        for name in dict.fromkeys(name for name, kind in times if kind == "plain"):
            with way(name):
                found = profiled(lambda: run("plain"))
            profiles += [f"\n{image} image tokens, {micro} rows a pass, {name}, plain", *found]
    return rows, lines, profiles


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--model", choices=MODELS, default="nano")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--image-tokens", type=int, nargs="+", default=[256], help="square numbers")
    parser.add_argument("--micro", type=int, nargs="+", default=[5, 20], help="rows of a pass")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=400, help="of a response")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=4, help="of each size, at most")
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--json", type=Path, help="written after each size, with a .md beside it")
    parser.add_argument("--backend", default="inductor", help="aot_eager tries the script on a CPU")
    given = parser.parse_args()
    global _backend
    _backend = given.backend
    torch._dynamo.config.cache_size_limit = 64
    about = machine(given.device) | {"model": given.model, "groups": given.groups,
                                     "samples": given.samples, "tokens": given.tokens}  # fmt: skip
    lines: list[str] = [
        ", ".join(f"{k} {v}" for k, v in about.items()), "",
        "| image tokens | rows a pass | way | step | s | over now | over plain | by FLOPs | share |"
        " peak GiB | off |", "|" + " --- |" * 11,
    ]  # fmt: skip
    rows: dict[str, Any] = {}
    profiles: list[str] = []
    for image in given.image_tokens:
        of = make_policy(given.model, given.device, image)
        for micro in given.micro:
            found, table, seen = measure(
                of, given, image, micro, time.monotonic() + 60 * given.minutes
            )
            rows |= found
            lines += table
            profiles += seen
            write(given.json, about, rows, lines)
            if given.profile:
                given.profile.write_text("\n".join(profiles) + "\n")
            print("\n".join(lines[-len(table) :]), flush=True)
        of = None
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
