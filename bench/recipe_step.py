"""The update of each recipe over that of plain DAPO in the same view, beside the ratio of FLOPs.

`bench/step.py --recipes` runs this. The last stage of each recipe computes the gradients of one
mini-batch: groups of 5 random responses, every second one right, in passes of a group. The variants
are interleaved round by round, and the ratio is the median over rounds. The FLOPs are those that
the dry run counts (`training/plan.py`); the target is at most 1.15 times their ratio.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from made import SHAPES_MADE, Memory, machine, noise, write

from modgap.core.prompt import training_prompt, twin_prompt
from modgap.core.recipe import Stage
from modgap.core.registry import RECIPES
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.models.policy import Policy
from modgap.training.known_model import known_model
from modgap.training.pictures import pictured
from modgap.training.plan import Lengths, cost, gpu
from modgap.training.rollout import Batch
from modgap.training.teachers import Teachers
from modgap.training.update import gradients

TARGET = 1.15


def batch_of(policy: Policy, stage: Stage, groups: int, samples: int, tokens: int) -> Batch:
    """Groups of random responses in the stage's first view, with its twins."""
    torch.manual_seed(0)
    size: Any = policy.processor.size
    side = int(size["longest_edge"] ** 0.5) // 28 * 28
    view = stage.views[0]
    prompts, twins = [], []
    with tempfile.TemporaryDirectory() as scratch:
        write_dataset(Path(scratch), 0, groups, seed=1, workers=1)
        for number, problem in enumerate(pgps9k.read(Path(scratch))):
            image = noise(side, number)
            prompt = policy.encode(training_prompt(problem, view), image)
            own: list[Any] = []
            for twin in stage.twins:
                shown = prompt
                if twin.view and twin.view != view:
                    words = twin_prompt(problem, view, twin.view)
                    shown = policy.encode(words, image if words.has_image else None)
                if twin.picture != "own":
                    shown = pictured(shown, twin, policy.bytes_seen)
                own.append(shown)
            prompts += [prompt] * samples
            twins += [tuple(own)] * samples
    rows = groups * samples
    responses = [torch.randint(10, 600, (tokens,)) for _ in range(rows)]
    advantages = torch.tensor([0.9 if row % 2 == 0 else -0.9 for row in range(rows)])
    return Batch(prompts, twins, [view] * rows, responses, advantages, advantages > 0)


def flops_of(model: str, stage: Stage, batch: Batch, samples: int) -> float:
    """FLOPs of an update, as the dry run counts them."""
    shape = known_model("tiny").shape if model == "tiny" else SHAPES_MADE[model]
    assert shape is not None
    prompt, tokens = batch.prompts[0], len(batch.responses[0])
    image = prompt.image_tokens
    lengths = Lengths(image, len(prompt), image + 100, tokens, tokens)
    groups = len(batch) // samples
    settings = replace(
        stage.settings, samples_per_prompt=samples, prompts_per_step=groups, mini_batch=groups
    )
    flops = cost(replace(stage, settings=settings), shape, lengths, gpu("H200")).flops
    return flops["update"] + flops.get("twins", 0.0)


def compare(given: Any, policy: Policy, tokens: int, micro: int, began: float) -> None:
    """Time the recipes, and print a table."""
    chosen = given.recipes or [name for name in RECIPES if RECIPES.load(name)().stages[-1].terms]
    stages: dict[str, Stage] = {}
    for name in chosen:
        stages[name] = RECIPES.load(name)().stages[-1]
    plain = {name: f"plain {stage.views[0]}" for name, stage in stages.items()}
    for name, stage in list(stages.items()):
        stages.setdefault(plain[name], Stage(stage.views))
    work: dict[str, Callable[[], Any]] = {}
    flops: dict[str, float] = {}
    for name, stage in stages.items():
        settings = replace(stage.settings, micro_batch=micro, max_response_tokens=tokens)
        stage = replace(stage, settings=settings)
        batch = batch_of(policy, stage, given.groups, given.samples, tokens)
        teachers = Teachers.of(stage, policy)
        flops[name] = flops_of(given.model, stage, batch, given.samples)

        def run(stage: Stage = stage, batch: Batch = batch, teachers: Teachers = teachers) -> None:
            gradients(policy, batch, stage, micro, teachers)

        work[name] = run
    on_gpu = policy.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    memory = Memory(given.device)
    times: dict[str, list[float]] = {name: [] for name in work}
    peaks = dict.fromkeys(work, 0.0)
    for number in range(-1, given.rounds):  # the first one warms up
        for name, run in work.items():
            if time.monotonic() - began > 60 * given.minutes and number > 0:
                break
            policy.model.zero_grad(set_to_none=True)
            with memory.watching():
                start = clock()
                run()
                if on_gpu:
                    torch.cuda.synchronize()
                took = clock() - start
            print(f"[{time.monotonic() - began:.0f} s] round {number}: {name} {took:.3f} s")
            if number >= 0:
                times[name].append(took)
                peaks[name] = max(peaks[name], memory.peak)
    about = machine(given.device) | {
        "model": given.model, "response_tokens": tokens, "groups": given.groups,
        "samples": given.samples, "micro_batch": micro,
    }  # fmt: skip
    rows: dict[str, dict[str, Any]] = {}
    lines = [
        ", ".join(f"{key} {value}" for key, value in about.items()),
        "",
        "| recipe | s | over plain | by FLOPs | the one over the other | peak GiB |",
        "|" + " --- |" * 6,
    ]
    for name, base in plain.items():
        pairs = zip(times[name], times[base], strict=False)
        ratio = statistics.median(a / b for a, b in pairs)
        counted = flops[name] / flops[base]
        met = "" if ratio <= TARGET * counted else f", above {TARGET}"
        seconds = statistics.median(times[name])
        rows[name] = {
            "seconds": seconds, "rounds": len(times[name]), "over_plain": ratio,
            "by_flops": counted, "peak_gib": peaks[name],
        }  # fmt: skip
        lines.append(
            f"| {name} | {seconds:.3f} | {ratio:.2f}x | {counted:.2f}x |"
            f" {ratio / counted:.2f}{met} | {peaks[name]:.1f} |"
        )
    for base in dict.fromkeys(plain.values()):
        seconds = statistics.median(times[base])
        rows[base] = {"seconds": seconds, "peak_gib": peaks[base]}
        lines.append(f"| {base} | {seconds:.3f} | | | | {peaks[base]:.1f} |")
    write(given.json, about, rows, lines)
    print("\n" + "\n".join(lines))
