"""A training on a very small Qwen2.5-VL with random weights; rewards are made up, so that groups
are mixed.
"""

from __future__ import annotations

import functools
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image, ImageDraw

from modgap.core.problem import Problem
from modgap.core.recipe import Recipe, Settings, Stage
from modgap.models.load import load_policy
from modgap.testbed.build import Size
from modgap.training.events import Event
from modgap.training.local import Job, train

on_cpu = functools.partial(load_policy, device="cpu")

SIZE = Size(
    vocabulary=400,
    text_width=64,
    text_layers=2,
    text_mlp=96,
    vision_width=64,
    vision_layers=2,
    vision_mlp=64,
    side=56,
)
SETTINGS = Settings(
    steps=2, prompts_per_step=4, samples_per_prompt=3, mini_batch=2, micro_batch=4, lr=1e-3,
    max_response_tokens=8, overlong_buffer=2, save_every=1, eval_every=1, validation_problems=2,
    max_refills=2,
)  # fmt: skip


def picture(n: int) -> bytes:
    image = Image.new("RGB", (56, 56), "white")
    ImageDraw.Draw(image).line([(n * 7 % 50, 3), (40, n * 11 % 50), (5, 50)], fill="black", width=3)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


PROBLEMS = [
    Problem(
        id=f"prob_{n}", question=f"Find the length of A{'BCDEFGH'[n % 7]}.", answer=f"{n}.000",
        image=picture(n), semantic=(f"AB = {n}", f"BC = {n + 2}"),
    )
    for n in range(12)
]  # fmt: skip


def made_up(response: str, gold: str) -> Any:
    """A reward that depends on nothing but the words, and takes every value."""
    kind = zlib.crc32(f"{gold} {response}".encode()) % 3
    return SimpleNamespace(
        score=[0.0, 0.1, 1.0][kind], acc=float(kind == 2), format=float(kind > 0)
    )


def recipe(
    contrastive: bool = False, views: tuple[str, ...] = ("full-text",), **changes: Any
) -> Recipe:
    return Recipe("test", (Stage(views, contrastive, replace(SETTINGS, **changes)),))


def run(
    recipe: Recipe, tiny: Path, out: Path, reward: Any = made_up, loader: Any = on_cpu, **more: Any
) -> list[Event]:
    events: list[Event] = []
    train(
        recipe,
        PROBLEMS,
        tiny,
        out,
        load_policy=loader,
        reward=reward,
        progress=events.append,
        job=Job(**more),
    )
    return events


def log_of(stage: Path, *, timing: bool = False) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (stage / "train_log.jsonl").read_text().splitlines()]
    timed = ("time_", "tokens_per_s")
    return (
        rows
        if timing
        else [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]
    )


def rollouts_of(stage: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage / "rollouts.jsonl").read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


LONG = {"steps": 4, "save_every": 2, "eval_every": 2}


def no_model(*_: Any, **__: Any) -> Any:
    raise AssertionError("no model is loaded")
