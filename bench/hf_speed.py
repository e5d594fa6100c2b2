r"""Responses a second of the `hf` engine, of a plain transformers loop, and of the engine with its
tricks off.

python bench/hf_speed.py [--device cuda] [--model tiny] [--data DIR] [--json FILE]
    prints Markdown

All of them answer the same problems in the same two views with batches of the same size. The plain
loop is what one writes first: each sample is a row of its own with its prompt and its image,
prepared for that row, left-padded, through `model.generate`. Rounds are interleaved, so that what
else the machine does falls on all alike. The ratio is the median over the rounds of time in the
plain loop over time in the variant, per response; on a CPU the time is process time (all threads),
on a GPU it is the clock's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from made import MODELS, make_policy

from modgap.core.engine import Request, Sampling
from modgap.core.prompt import evaluation_prompt
from modgap.core.view import get_view
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.engines.hf import HfEngine
from modgap.models.folder import quiet
from modgap.models.load import load_policy
from modgap.models.policy import Policy

VIEWS = ("full-text", "image-only")
Variant = Callable[[], list[int]]
"""Answers everything; returns each response's tokens."""


def requests(data: Path, count: int, samples: int) -> list[Request]:
    return [
        Request(
            p.id,
            v,
            evaluation_prompt(p, get_view(v), "aligned"),
            p.open_image,
            tuple(range(samples)),
        )
        for p in pgps9k.read(data, limit=count)
        for v in VIEWS
    ]


@contextlib.contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def engine(
    policy: Policy, asked: Sequence[Request], sampling: Sampling, batch: int, **options: Any
) -> Variant:
    """The engine; `graphs` and `ahead` as they say, `prepare` "each" runs the image processor for
    every request.
    """

    def run() -> list[int]:
        policy._encoder._images.clear()
        plain, cutter = policy.generate, policy._encoder._patches
        graphs = options.get("graphs")
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                swapped(policy, "generate", lambda *a, **k: plain(*a, **k, graphs=graphs))
            )
            if options.get("prepare") == "each":
                stack.enter_context(swapped(policy._encoder, "keep_images", 0))
                stack.enter_context(swapped(policy._encoder, "_patches", cutter._long))
                stack.enter_context(swapped(policy._encoder, "image", _forgetting(policy)))
            if not options.get("features", True):
                stack.enter_context(swapped(policy, "keeping_features", contextlib.nullcontext))
            made = HfEngine(policy, batch, ahead=options.get("ahead", True)).generate(
                asked, sampling
            )
            return [completion.completion_tokens for completion in made]

    return run


def _forgetting(policy: Policy) -> Any:
    whole = type(policy._encoder).image

    def image(shown: Any) -> Any:
        policy._encoder.keep_images = 1
        policy._encoder._images.clear()
        return whole(policy._encoder, shown)

    return image


def plain_loop(policy: Policy, asked: Sequence[Request], sampling: Sampling, batch: int) -> Variant:
    """Each sample a row of its own, image and all; left-padded batches through transformers'
    `generate`.
    """
    rows = [request for request in asked for _ in request.samples]
    model, tokenizer, processor = policy.model, policy.tokenizer, policy.processor
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def run() -> list[int]:
        lengths: list[int] = []
        for start in range(0, len(rows), batch):
            part, ids, pixels, grids = rows[start : start + batch], [], [], []
            for request in part:
                assert request.image is not None
                out = processor(images=[request.image()], return_tensors="pt")
                merged = int(out["image_grid_thw"][0].prod()) // processor.merge_size**2
                ids.append(torch.tensor(policy._encoder.tokens(request.prompt, merged)))
                pixels.append(out["pixel_values"])
                grids.append(out["image_grid_thw"])
            width = max(map(len, ids))
            input_ids = torch.stack(
                [torch.nn.functional.pad(row, (width - len(row), 0), value=pad) for row in ids]
            )
            mask = torch.stack(
                [
                    torch.nn.functional.pad(torch.ones_like(row), (width - len(row), 0))
                    for row in ids
                ]
            )
            how = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
            with torch.no_grad(), quiet():
                made = model.generate(
                    input_ids=input_ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    pixel_values=torch.cat(pixels).to(model.device, model.dtype),
                    image_grid_thw=torch.cat(grids).to(model.device),
                    mm_token_type_ids=(input_ids == model.config.image_token_id)
                    .int()
                    .to(model.device),
                    max_new_tokens=sampling.max_tokens,
                    pad_token_id=pad,
                    eos_token_id=policy.eos_token_ids,
                    suppress_tokens=policy.banned_token_ids,
                    **(how if sampling.temperature > 0 else {"do_sample": False}),
                )[:, width:].cpu()
            ended = torch.isin(made, torch.tensor(policy.eos_token_ids))
            lengths += torch.where(ended.any(1), ended.int().argmax(1) + 1, made.shape[1]).tolist()
            tokenizer.batch_decode(made, skip_special_tokens=True)
        return lengths

    return run


def variants(
    policy: Policy, asked: list[Request], sampling: Sampling, batch: int
) -> dict[str, Variant]:
    apart = [replace(request, samples=(sample,)) for request in asked for sample in request.samples]
    found: dict[str, Variant] = {
        "transformers, plain loop": plain_loop(policy, asked, sampling, batch),
        "modgap hf": engine(policy, asked, sampling, batch),
    }
    if policy.device.type == "cuda":
        found["without: CUDA graphs"] = engine(policy, asked, sampling, batch, graphs=False)
    return found | {
        "without: the next prompts encoded in a thread": engine(
            policy, asked, sampling, batch, ahead=False
        ),
        "without: images prepared once, from bytes": engine(
            policy, asked, sampling, batch, prepare="each"
        ),
        "without: vision features shared by the views": engine(
            policy, asked, sampling, batch, features=False
        ),
        "without: one prefill for a prompt's samples": engine(policy, apart, sampling, batch),
    }


def measure(found: dict[str, Variant], rounds: int, gpu: bool) -> dict[str, dict[str, float]]:
    """For each variant seconds a response (median), its responses a second, tokens, and the ratio
    to the first one.
    """
    clock = time.perf_counter if gpu else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in found}
    tokens: dict[str, list[int]] = {name: [] for name in found}
    for number in range(-1, rounds):  # the first one warms up
        for name, run in found.items():
            if number < 0 and not gpu and "hf" not in name:
                continue
            start = clock()
            lengths = run()
            if gpu:
                torch.cuda.synchronize()
            if number >= 0:
                seconds[name].append((clock() - start) / len(lengths))
                tokens[name] += lengths
    first, ours = seconds[next(iter(found))], seconds["modgap hf"]
    return {
        name: {
            "responses_per_s": 1 / statistics.median(times),
            "tokens": statistics.mean(tokens[name]),
            "times_the_plain_loop": statistics.median(
                a / b for a, b in zip(first, times, strict=True)
            ),
            "times_modgap_hf": statistics.median(a / b for a, b in zip(ours, times, strict=True)),
        }
        for name, times in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument(
        "--model",
        default="tiny",
        help=f"tiny, a folder, or a shape with random weights: {MODELS[1:]}",
    )
    parser.add_argument(
        "--data", type=Path, help="a PGPS9K folder; synthetic problems are made by default"
    )
    parser.add_argument("--problems", type=int, help="8 on a CPU, 128 on a GPU by default")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument(
        "--batch", type=int, help="responses together: 32 on a CPU, 256 on a GPU by default"
    )
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    given = parser.parse_args()
    gpu = given.device.startswith("cuda")
    count, batch = given.problems or (128 if gpu else 8), given.batch or (256 if gpu else 32)
    sampling = Sampling(given.temperature, given.max_tokens, 0)
    with tempfile.TemporaryDirectory() as scratch:
        data = given.data or Path(scratch)
        if given.data is None:
            write_dataset(data, 0, count, seed=1, workers=1)
        if given.model in MODELS[1:]:
            policy = make_policy(given.model, given.device, 256)
            policy.model.to(torch.bfloat16 if gpu else torch.float32)
        else:
            policy = load_policy(given.model, device=given.device)
        asked = requests(data, count, given.samples)
        rows = measure(variants(policy, asked, sampling, batch), given.rounds, gpu)
    about = {
        "machine": torch.cuda.get_device_name() if gpu
        else f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__, "transformers": transformers.__version__, "model": given.model,
        "dtype": str(policy.dtype), "responses": len(asked) * given.samples,
        "samples": given.samples, "batch": batch, "max_tokens": given.max_tokens,
        "temperature": given.temperature, "rounds": given.rounds,
        "clock": "wall" if gpu else "process",
    }  # fmt: skip
    print(", ".join(f"{key} {value}" for key, value in about.items()) + "\n")
    print(
        "| | responses/s | tokens each | against the plain loop | against modgap hf |\n| --- | ---"
        " | --- | --- | --- |"
    )
    for name, row in rows.items():
        print(
            f"| {name} | {row['responses_per_s']:.1f} | {row['tokens']:.0f} |"
            f" {row['times_the_plain_loop']:.2f}x | {row['times_modgap_hf']:.2f}x |"
        )
    if given.json:
        given.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
