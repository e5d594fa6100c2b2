"""Memory and time of a LoRA training on one GPU of 80 GB: README's recipe, some steps of it.

python bench/lora.py --out DIR [--model 3b] [--gib 79] [--steps 2] [--part 4] [--set KEY=VALUE ...]
    prints Markdown, and README's line; writes DIR/lora.json and .md after every step

The shape of a real model with random weights, in `modgap train`'s own loop. torch may take no more
than --gib of the GPU's memory. As the dry run assumes of a training, half of the groups have
different rewards and a response has half of the limit's tokens in the mean: any of some token ids
ends a response, so that its length is as long-tailed as under a constant chance to end. Hours are
those of the steps that were timed times the recipe's steps; validation and checkpoints are not
counted. With --part N a step has 1/N of the recipe's prompts and its updates 1/N of their rows, and
seconds are multiplied by N: rows are updated in as large batches, only in fewer of them. That says
too much of sampling where a small draw takes as long as a large one. What the dry run expects of an
H100 is printed beside.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from made import SHAPES_MADE, machine, write, write_model

from modgap.core.assign import apply_settings
from modgap.core.recipe import Recipe
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.models.load import load_policy
from modgap.training.events import Event, Job
from modgap.training.local import train
from modgap.training.plan import cost, gpu, lengths_of
from modgap.training.shape import GIB
from modgap.workflows.train import find_recipe

README = (
    "lora_rank=64", "micro_batch=4", "steps=60", "prompts_per_step=64", "mini_batch=32", "lr=1e-5",
    "max_response_tokens=2048",
)  # fmt: skip
"""Settings of README's command."""
MIXED, WRONG = "1", "0"
"""Gold answers: whether the responses to a problem have different rewards."""


class Enough(BaseException):
    """Ends a training before it writes a checkpoint."""


def ending(vocabulary: int, limit: int) -> list[int]:
    """Token ids that end a response; their number makes the mean length half of the limit.

    With a chance p a token the mean is (1 - (1 - p)^limit) / p, half of the limit at p = 1.594 /
    limit.
    """
    count = max(1, round(1.594 / limit * vocabulary))
    return random.Random(0).sample(range(vocabulary), count)


def half_mixed(response: str, gold: str) -> float:
    """Responses right by their bytes, or all wrong, by problem."""
    return float(gold == MIXED and zlib.crc32(response.encode()) % 2)


def limit_memory(limit: float) -> None:
    """Let torch take no more than this of the GPU, and report no more as free."""
    total = torch.cuda.get_device_properties().total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    real = torch.cuda.mem_get_info

    def limited(*device: Any) -> tuple[int, int]:
        free, total = real(*device)
        return max(0, int(free - (total - limit))), int(limit)

    torch.cuda.mem_get_info = limited


def recipe_of(given: argparse.Namespace) -> Recipe:
    """README's recipe without checkpoints, validation and the penalty for long responses, by which
    rewards would differ in every group.
    """
    off = ["save_every=0", "eval_every=0", "overlong_buffer=0"]
    recipe = apply_settings(find_recipe("no-text"), [*README, *off, *given.set])
    (stage,) = recipe.stages
    fewer = [
        f"{name}={max(1, getattr(stage.settings, name) // given.part)}"
        for name in ("prompts_per_step", "mini_batch")
    ]
    return apply_settings(recipe, fewer)


def problems_of(count: int) -> list[Any]:
    """Synthetic problems, every second one with all responses wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        write_dataset(Path(scratch), count, 0, seed=1, workers=1)
        return [
            replace(p, image=p.image_bytes(), answer=(MIXED, WRONG)[number % 2])
            for number, p in enumerate(pgps9k.read(scratch, "train"))
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="of the figures and the model")
    parser.add_argument("--model", choices=SHAPES_MADE, default="3b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--image-tokens", type=int, default=256, help="a square number")
    parser.add_argument("--gib", type=float, default=79, help="what an H100 of 80 GB has")
    parser.add_argument("--steps", type=int, default=2, help="timed, after a first one")
    parser.add_argument("--part", type=int, default=1, help="time 1/N of a step")
    parser.add_argument("--minutes", type=float, default=8, help="no step is waited for after that")
    parser.add_argument("--set", nargs="*", default=[], help="as of `modgap train`")
    given = parser.parse_args()
    began = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    folder = given.out / f"{given.model}-{given.image_tokens}"
    write_model(given.model, folder, [given.image_tokens], given.device)
    recipe = recipe_of(given)
    (stage,) = recipe.stages
    settings = stage.settings
    on_gpu = given.device == "cuda"
    if on_gpu:
        limit_memory(given.gib * GIB)
    (full,) = recipe_of(argparse.Namespace(set=given.set, part=1)).stages
    expected = cost(full, SHAPES_MADE[given.model], lengths_of(full), gpu("H100"))
    rows: list[dict[str, float]] = []
    last = time.perf_counter()

    def load(*args: Any, **named: Any) -> Any:
        policy = load_policy(folder, given.device, **{k: v for k, v in named.items() if k != "ref"})
        policy.eos_token_ids = ending(
            policy.model.config.text_config.vocab_size, settings.max_response_tokens
        )
        return policy

    def watch(event: Event) -> None:
        nonlocal last
        if event.kind != "step":
            return
        now, peak = time.perf_counter(), 0.0
        if on_gpu:
            peak = torch.cuda.max_memory_allocated() / GIB
        rows.append({"seconds": now - last, "peak_gib": peak, **_numbers(event.metrics)})
        print(json.dumps(rows[-1]), flush=True)
        last = now
        report(given, settings, rows, expected)
        if len(rows) > given.steps or time.monotonic() - began > 60 * given.minutes:
            raise Enough

    problems = problems_of(settings.prompts_per_step * 4 * (given.steps + 1))
    with tempfile.TemporaryDirectory() as out, suppress(Enough):
        train(
            recipe, problems, folder, out, load_policy=load, job=Job(validation=[]),
            reward=half_mixed, progress=watch,
        )  # fmt: skip


def _numbers(metrics: Any) -> dict[str, float]:
    return {
        k: v for k, v in metrics.items() if isinstance(v, int | float) and not k.startswith("_")
    }


def report(
    given: argparse.Namespace, settings: Any, rows: list[dict[str, float]], expected: Any
) -> None:
    """Write and print what is known so far."""
    timed = rows[1:] or rows
    seconds = given.part * statistics.median(row["seconds"] for row in timed)
    peak = max(row["peak_gib"] for row in rows)
    hours = seconds * settings.steps / 3600
    about = machine(given.device) | {
        name: getattr(given, name) for name in ("model", "gib", "image_tokens", "part", "set")
    }
    lines = [
        ", ".join(f"{k} {v}" for k, v in about.items()), "",
        "| | s a step | hours | GiB |", "| --- | --- | --- | --- |",
        f"| measured, {len(timed)} steps{' (the first)' if len(rows) == 1 else ''}"
        f"{f', 1/{given.part} of each' if given.part > 1 else ''} |"
        f" {seconds:.1f} | {hours:.1f} | {peak:.0f} |",
        f"| the dry run's, for an H100 | {sum(expected.seconds.values()):.1f} |"
        f" {sum(expected.seconds.values()) * settings.steps / 3600:.1f} |"
        f" {sum(expected.memory.values()) / GIB:.0f} |",
        "", f"expected: { {k: round(v / GIB, 1) for k, v in expected.memory.items()} } GiB,"
        f" { {k: round(v, 1) for k, v in expected.seconds.items()} } s", "",
        f"The {given.model.upper()} model with LoRA on one GPU of which {given.gib:.0f} GiB may be"
        f" used: {peak:.0f} GiB, {hours:.1f} h for {settings.steps} steps, extrapolated from"
        f" {len(timed)} steps.",
    ]  # fmt: skip
    write(given.out / "lora.json", about, {"steps": rows}, lines)
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
