r"""What `modgap train --dry-run` expects of a step against what a training then takes, as each
thing grows.

python bench/plan.py [--model tiny|3b] [--grow samples response rows image model] [--contrastive]
[--json FILE]

Three sizes of each thing that a step grows with, the others at their middle; prints Markdown.
Processor time on a CPU (the dry run's speed of this CPU is the best of many short timings, so that
both tell what a quiet machine takes), the clock's on a GPU. Every second response counts as right.
Models of a real shape have random weights, whose responses are as long as they may be, so that for
them the dry run gets the limit; the testbed's lengths are the dry run's own guess, those of the
training are beside.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from made import MODELS, SHAPES_MADE, machine, make_policy, write

from modgap.core.recipe import Recipe, Settings, Stage
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.models.policy import Policy
from modgap.training.events import Event, Job
from modgap.training.known_model import known_model
from modgap.training.local import train
from modgap.training.plan import cost, gpu, lengths_of, this_cpu
from modgap.training.shape import Shape
from modgap.workflows.train import dry_notes

Point = dict[str, Any]
# The second of three is where a thing stays while another grows.
SMALL: dict[str, tuple[Any, Any, Any]] = {
    "samples": (2, 5, 10), "response": (32, 64, 128), "rows": (2, 4, 8), "image": (25, 64, 144),
    "model": ("tiny",) * 3,
}  # fmt: skip
LARGE: dict[str, tuple[Any, Any, Any]] = {
    "samples": (2, 5, 10), "response": (200, 400, 800), "rows": (2, 4, 8), "image": (64, 256, 1024),
    "model": ("0.5b", "1.5b", "3b"),
}  # fmt: skip


class Enough(BaseException):
    """Ends a training before it writes a checkpoint."""


def points(given: argparse.Namespace) -> list[Point]:
    """What is measured: the middle, then the other two of each thing that grows."""
    sizes = SMALL if given.model in ("tiny", "nano") else LARGE
    middle = {name: values[1] for name, values in sizes.items()} | {"model": given.model}
    out = [middle]
    for name in given.grow:
        out += [point for value in sizes[name] if (point := middle | {name: value}) not in out]
    return out


def stage_of(point: Point, given: argparse.Namespace) -> Stage:
    settings = Settings(
        steps=given.steps + 2, prompts_per_step=point["rows"], mini_batch=point["rows"],
        samples_per_prompt=point["samples"], micro_batch=given.micro, max_prompt_tokens=8192,
        max_response_tokens=point["response"], dynamic_sampling=False, overlong_buffer=0,
        save_every=0, eval_every=0, gradient_checkpointing=given.checkpointing,
    )  # fmt: skip
    return Stage(("full-text",), given.contrastive, settings)


def measured(
    stage: Stage, problems: Sequence[Any], policy: Policy, steps: int
) -> tuple[dict[str, float], float]:
    """Median seconds of each phase over steps after the first, and mean tokens of a response."""
    on_gpu = policy.device.type == "cuda"

    def clock() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() if on_gpu else time.process_time()

    rows: list[dict[str, float]] = []
    now: dict[str, float] = {}
    tokens: list[float] = []
    phase, began = "", clock()

    def watch(event: Event) -> None:
        nonlocal phase, began, now
        if event.kind in ("phase", "step"):
            if phase:
                now[phase] = now.get(phase, 0.0) + clock() - began
            phase, began = (event.text, clock()) if event.kind == "phase" else ("", 0.0)
        if event.kind == "step":
            rows.append(now)
            now = {}
            tokens.append(
                event.metrics["tokens"]
                / stage.settings.prompts_per_step
                / stage.settings.samples_per_prompt
            )
            if len(rows) > steps:
                raise Enough

    right = itertools.cycle((1.0, 0.0))
    with tempfile.TemporaryDirectory() as out, contextlib.suppress(Enough):
        train(Recipe("made", (stage,)), problems, "made", out, load_policy=lambda *_, **__: policy,
              job=Job(validation=[]), reward=lambda response, gold: next(right),
              progress=watch)  # fmt: skip
    named = {name: statistics.median(row.get(name, 0.0) for row in rows[1:]) for name in rows[-1]}
    return named, statistics.mean(tokens[1:])


def shape_of(name: str) -> Shape:
    """The shape of a model by its name here."""
    shape = known_model("tiny").shape if name == "tiny" else SHAPES_MADE[name]
    assert shape is not None
    return shape


def line(
    point: Point, policy: Policy, problems: Sequence[Any], given: argparse.Namespace
) -> dict[str, Any]:
    """Expect and measure one point."""
    stage, shape = stage_of(point, given), shape_of(point["model"])
    pixels = point["image"] * 28 * 28
    lengths = lengths_of(stage, pixels, pixels, dry_notes("tiny")["response_tokens"])
    if point["model"] != "tiny":
        lengths = replace(lengths, response=point["response"], longest=point["response"])
    device = gpu(torch.cuda.get_device_name()) if policy.device.type == "cuda" else this_cpu(shape)
    expected = cost(stage, shape, lengths, device)
    took, tokens = measured(stage, problems, policy, given.steps)
    update, all_expected = took["update"] + took.get("logprobs", 0), sum(expected.seconds.values())
    rolled = expected.seconds["rollout"]
    total = took["rollout"] + update
    return {
        **point,
        "expected": {"rollout": rolled, "update": all_expected - rolled, "step": all_expected},
        "measured": {"rollout": took["rollout"], "update": update, "step": total},
        "ratio": total / all_expected, "rollout_ratio": took["rollout"] / rolled,
        "update_ratio": update / (all_expected - rolled), "tokens": tokens, "flops": expected.flops,
        "memory_gib": sum(expected.memory.values()) / 2**30,
        "peak_gib":
        torch.cuda.max_memory_allocated() / 2**30 if policy.device.type == "cuda" else None,
    }  # fmt: skip


HEADS = (
    "samples,response,prompts,image,model,expected: rollout,update,a step,"
    "measured: rollout,update,a step,measured / expected,tokens"
)


def shown(row: dict[str, Any]) -> str:
    parts = [str(row[name]) for name in ("samples", "response", "rows", "image", "model")]
    parts += [
        f"{row[side][what]:.2f}"
        for side in ("expected", "measured")
        for what in ("rollout", "update", "step")
    ]
    return "| " + " | ".join([*parts, f"{row['ratio']:.2f}", f"{row['tokens']:.0f}"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--grow", nargs="*", choices=list(SMALL), default=["samples", "response", "rows"]
    )
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a training")
    parser.add_argument(
        "--micro", type=int, default=0, help="rows of a forward pass; all by default"
    )
    parser.add_argument(
        "--checkpointing", action="store_true", help="compute layers again in the backward pass"
    )
    parser.add_argument(
        "--contrastive", action="store_true", help="a contrastive step, not a plain one"
    )
    parser.add_argument("--minutes", type=float, default=20, help="no training begins after that")
    parser.add_argument(
        "--json", type=Path, help="written after every training, with a .md beside it"
    )
    given = parser.parse_args()
    began = time.monotonic()
    about = machine(given.device) | {"contrastive": given.contrastive,
                                     "checkpointing": given.checkpointing,
                                     "rows_of_a_pass": given.micro or "all"}  # fmt: skip
    lines = [
        ", ".join(f"{k} {v}" for k, v in about.items()),
        "",
        f"| {HEADS.replace(',', ' | ')} |",
        "|" + " --- |" * 13,
    ]
    print("\n".join(lines), flush=True)
    rows: dict[str, Any] = {}
    policy: Policy | None = None
    make: Callable[..., Policy] = make_policy
    with tempfile.TemporaryDirectory() as scratch:
        write_dataset(Path(scratch), 64, 0, seed=1, workers=1)
        problems = list(pgps9k.read(scratch, "train"))
        for point in points(given):
            if rows and time.monotonic() - began > 60 * given.minutes:
                break
            policy = None  # before the next one is made
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            policy = make(point["model"], given.device, point["image"], given.checkpointing)
            rows[" ".join(f"{k}={v}" for k, v in point.items())] = row = line(
                point, policy, problems, given
            )
            lines.append(shown(row))
            print(lines[-1], flush=True)
            write(given.json, about, rows, lines)


if __name__ == "__main__":
    main()
