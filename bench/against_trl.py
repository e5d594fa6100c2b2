r"""Samples a second of the local engine and of TRL's GRPOTrainer, rollout and update, on the same
work.

python bench/against_trl.py [--model tiny|3b] [--prompts N] [--samples N] [--tokens N] [--json FILE]
    prints Markdown

Plain DAPO in both: `loss_type="dapo"`, clip 0.2 / 0.28, no KL, no dynamic sampling, one update a
step, AdamW at the same learning rate, the same problems (full text and image), samples,
temperature, response limit, rows of a forward pass, reward function and types (fp32 on a CPU; fp32
weights and bf16 autocast on a GPU), generation by transformers in TRL and by `models/decode.py` in
ours. Each side's first step of a block is not timed; blocks of both take turns. On a CPU the time
is process time, on a GPU the clock's. The ratio is the median over blocks.

TRL checkpoints activations by default; here both sides do so only with --checkpointing. (TRL's dapo
loss has no dual clip; on policy that does nothing.)
"""

from __future__ import annotations

import argparse
import functools
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from made import MODELS, machine, make_policy, picture, write
from transformers import ProcessorMixin, TrainerCallback

from modgap.core.problem import Problem
from modgap.core.prompt import training_prompt
from modgap.core.recipe import Recipe, Settings, Stage
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.grading.answer import reward
from modgap.models.policy import Policy
from modgap.training.events import Event, Job
from modgap.training.local import train

CLIP = {"clip_low": 0.2, "clip_high": 0.28}


class Processor(ProcessorMixin):
    """Qwen2.5-VL's processor without its video part, which needs torchvision; images and chat."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        self.image_token = "<|image_pad|>"
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
        texts = [text] if isinstance(text, str) else list(text)
        flat: list[Any] = []
        for item in images or []:
            flat += item if isinstance(item, list | tuple) else [item]
        extra: dict[str, Any] = {}
        if flat:
            extra = dict(self.image_processor(images=flat, return_tensors="pt"))
            counts = iter(
                (extra["image_grid_thw"].prod(1) // self.image_processor.merge_size**2).tolist()
            )
            parts = [words.split(self.image_token) for words in texts]
            texts = [
                "".join([part[0], *(self.image_token * next(counts) + rest for rest in part[1:])])
                for part in parts
            ]
        kept = {
            k: v for k, v in options.items() if k in ("return_tensors", "padding", "padding_side")
        }
        out = self.tokenizer(texts, add_special_tokens=False, **kept)
        image = self.tokenizer.convert_tokens_to_ids(self.image_token)
        ids = out["input_ids"]
        types = (
            (ids == image).long()
            if torch.is_tensor(ids)
            else [[int(i == image) for i in row] for row in ids]
        )
        return transformers.BatchFeature({**out, **extra, "mm_token_type_ids": types})

    @property
    def model_input_names(self) -> list[str]:
        return [
            "input_ids",
            "attention_mask",
            "pixel_values",
            "image_grid_thw",
            "mm_token_type_ids",
        ]


class Enough(BaseException):
    """Ends a training before it writes a checkpoint."""


class Block:
    """What one block of steps took."""

    def __init__(self, steps: int, clock: Callable[[], float], gpu: bool) -> None:
        self.steps, self._clock, self._gpu = steps, clock, gpu
        self.marks: list[float] = []
        self.tokens: list[int] = []

    def mark(self) -> None:
        if self._gpu:
            torch.cuda.synchronize()
        self.marks.append(self._clock())

    @property
    def seconds(self) -> float:
        """A step, without the first one."""
        return (self.marks[-1] - self.marks[0]) / (len(self.marks) - 1)


def ours(
    policy: Policy, problems: Sequence[Problem], given: argparse.Namespace, block: Block
) -> None:
    """Steps of `modgap train`'s own loop; its last step, with the checkpoint, is not reached."""
    settings = Settings(
        steps=block.steps + 2, prompts_per_step=given.prompts, samples_per_prompt=given.samples,
        mini_batch=given.prompts, micro_batch=given.micro, temperature=given.temperature,
        lr=given.lr, max_response_tokens=given.tokens, max_prompt_tokens=8192,
        dynamic_sampling=False, overlong_buffer=0, save_every=0, eval_every=0,
        seed=len(block.tokens), **CLIP,
    )  # fmt: skip

    def watch(event: Event) -> None:
        if event.kind == "step":
            block.tokens.append(int(event.metrics["tokens"]))
            block.mark()
            if event.step == block.steps + 1:
                raise Enough

    with tempfile.TemporaryDirectory() as out:
        try:
            train(
                Recipe("plain", (Stage(("full-text",), False, settings),)), problems, "made", out,
                load_policy=lambda *_, **__: policy, job=Job(validation=[]), progress=watch,
            )  # fmt: skip
        except Enough:
            return


def trls(
    policy: Policy, problems: Sequence[Problem], given: argparse.Namespace, block: Block
) -> None:
    """Steps of TRL's trainer."""
    import trl

    import datasets

    rows = given.prompts * given.samples
    policy.tokenizer.padding_side = "left"  # as TRL loads one itself
    processor = Processor(
        policy.processor, policy.tokenizer, chat_template=policy.tokenizer.chat_template
    )

    def graded(completions: Any, answer: Any, completion_ids: Any, **_: Any) -> list[float]:
        block.tokens.append(sum(map(len, completion_ids)))
        return [
            reward(c[0]["content"], a, "relative").score
            for c, a in zip(completions, answer, strict=True)
        ]

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            block.mark()

    data = {
        "prompt": [
            [{"role": "user", "content": training_prompt(p, "full-text").text}] for p in problems
        ],
        "image": [picture(p, policy) for p in problems],
        "answer": [p.answer for p in problems],
    }
    with tempfile.TemporaryDirectory() as out:
        trainer = trl.GRPOTrainer(
            model=policy.model, processing_class=processor, reward_funcs=graded,
            train_dataset=datasets.Dataset.from_dict(data), callbacks=[Watch()],
            args=trl.GRPOConfig(
                output_dir=out, loss_type="dapo", epsilon=CLIP["clip_low"],
                epsilon_high=CLIP["clip_high"], beta=0.0, temperature=given.temperature, top_k=0,
                top_p=1.0, learning_rate=given.lr, weight_decay=0.01, lr_scheduler_type="constant",
                max_grad_norm=1.0, per_device_train_batch_size=given.micro or rows,
                gradient_accumulation_steps=rows // (given.micro or rows),
                num_generations=given.samples, max_completion_length=given.tokens,
                max_steps=block.steps + 1, use_cpu=policy.device.type == "cpu",
                bf16=policy.device.type == "cuda", gradient_checkpointing=given.checkpointing,
                report_to=[], save_strategy="no", logging_steps=10**6, disable_tqdm=True,
                seed=len(block.tokens),
                optim="adamw_torch_fused" if policy.device.type == "cuda" else "adamw_torch",
            ),
        )  # fmt: skip
        trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument("--model", "--shape", choices=MODELS, default="tiny")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument(
        "--image-tokens", type=int, help="a square number; 64 for tiny, 256 for others by default"
    )
    parser.add_argument("--prompts", type=int, default=8, help="of a step")
    parser.add_argument("--samples", type=int, default=5, help="of a prompt")
    parser.add_argument(
        "--tokens", type=int, help="response limit; 128 for tiny, 400 for others by default"
    )
    parser.add_argument(
        "--micro",
        type=int,
        help="rows of a forward pass; all for tiny, a group for others by default",
    )
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=1, help="timed steps of a block")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each side")
    parser.add_argument("--minutes", type=float, default=6, help="no block begins after that")
    parser.add_argument("--json", type=Path, help="written after every round, with a .md beside it")
    given = parser.parse_args()
    import trl

    began = time.monotonic()
    small = given.model == "tiny"
    image = given.image_tokens or (64 if small else 256)
    given.tokens = given.tokens or (128 if small else 400)
    given.micro = given.micro if given.micro is not None else (0 if small else given.samples)
    on_gpu = given.device.startswith("cuda")
    clock = time.perf_counter if on_gpu else time.process_time
    make = functools.partial(make_policy, given.model, given.device, image, given.checkpointing)
    rows = given.prompts * given.samples
    about = machine(given.device) | {
        "trl": trl.__version__, "model": given.model, "image_tokens": image,
        "prompts": given.prompts, "samples": given.samples, "response_limit": given.tokens,
        "rows_of_a_pass": given.micro or rows, "checkpointing": given.checkpointing,
        "temperature": given.temperature, "steps_of_a_block": given.steps,
    }  # fmt: skip
    sides: dict[str, Callable[..., None]] = {"modgap local": ours, f"TRL {trl.__version__}": trls}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    tokens: dict[str, list[float]] = {name: [] for name in sides}
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        write_dataset(Path(scratch), given.prompts * (given.steps + 2), 0, seed=1, workers=1)
        problems = list(pgps9k.read(scratch, "train"))
        for number in range(given.rounds):
            for name, side in sides.items():
                if number and time.monotonic() - began > 60 * given.minutes:
                    continue
                policy = make()
                block = Block(given.steps, clock, on_gpu)
                side(policy, problems, given, block)
                seconds[name].append(block.seconds)
                tokens[name].append(statistics.mean(block.tokens[1:]) / rows)
                policy = None  # before the next one is made
                gc.collect()
                if on_gpu:
                    torch.cuda.empty_cache()
                print(
                    f"[{time.monotonic() - began:.0f} s] round {number}: {name}"
                    f" {seconds[name][-1]:.2f} s",
                    flush=True,
                )
            lines = report(given.json, about, seconds, tokens, rows)
    print("\n" + "\n".join(lines))


def report(
    path: Path | None,
    about: dict[str, Any],
    seconds: dict[str, list[float]],
    tokens: dict[str, list[float]],
    rows: int,
) -> list[str]:
    """Write and return the table so far."""
    mine = next(iter(seconds))
    found: dict[str, Any] = {}
    lines = [", ".join(f"{k} {v}" for k, v in about.items()), ""]
    lines += ["| | samples/s | s a step | tokens a response | ours over it |", "|" + " --- |" * 5]
    for name, values in seconds.items():
        if values:
            ratio = statistics.median(b / a for a, b in zip(seconds[mine], values, strict=False))
            found[name] = {
                "samples_per_s": rows / statistics.median(values),
                "seconds": statistics.median(values), "rounds": len(values), "all_seconds": values,
                "tokens": statistics.mean(tokens[name]), "ratio": ratio,
            }  # fmt: skip
            lines.append(
                f"| {name} | {rows / statistics.median(values):.2f} |"
                f" {statistics.median(values):.2f} | {statistics.mean(tokens[name]):.0f} |"
                f" {ratio:.2f}x |"
            )
    write(path, about, found, lines)
    return lines


if __name__ == "__main__":
    main()
