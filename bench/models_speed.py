r"""Tokens a second of `hf`, of local training and of `vllm`, for shapes of Qwen2.5-VL and Qwen3-VL.

python bench/models_speed.py --out bench_models [--models qwen3-2b,3b,qwen3-4b,7b,qwen3-8b]
    [--parts hf,train,vllm] [--minutes 7.5] [--device cuda]

Weights are random (vLLM: `load_format=dummy`): what a token costs depends on the sizes alone. Each
prompt shows a diagram of its own of 512 x 512 pixels (324 tokens of a Qwen2.5-VL, 256 of a
Qwen3-VL), two views a problem; every response is as long as it may be.

* `hf`: `Policy.generate`, bf16, `--prompts` prompts with `--samples` samples of `--tokens` tokens;
  once to capture the CUDA graphs, then timed.
* `train`: the gradients of one mini-batch, `--groups` groups of 5 responses of `--tokens` tokens, a
  contrastive step's forward and backward passes, fp32 weights with bf16 computing, layers computed
  again in the backward pass; once to warm up, then timed. Tokens are those of the responses.
* `vllm`: the same prompts and samples as `hf` through the engine of `modgap eval`. A start takes a
  minute or more, a third of it `torch.compile`: where the time that is left would not do for the
  models that are left, they start without it (CUDA graphs stay), and their rows say so. A model's
  process imports vLLM while the model before it is measured.

`hf` and `train` of a model share its weights; each model and each `vllm` has a process of its own,
so that one that fails costs only itself. Parts are done in the order that is given, every model of
one before the next, until the time is out; then what runs is ended. OUT/models_speed.json and .md
are written after each model.

To try it on a CPU: --models nano,nano3 --device cpu --prompts 2 --tokens 8 --groups 2
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from made import SHAPES_MADE, machine, make_policy, write

DEFAULT = "qwen3-2b,3b,qwen3-4b,7b,qwen3-8b"  # the smallest first
FILE = "models_speed.json"
MARK = "RESULT "
GO, EAGER_START = "go", "go without torch.compile"
# vLLM's arguments of a start without `torch.compile`: the decoding steps keep their CUDA graphs.
NOT_COMPILED = 'compilation_config={"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}'


def timed(work: Callable[[], int], device: str) -> dict[str, float]:
    """Tokens, seconds and tokens a second of the second run of some work."""
    import torch

    for _ in range(2):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        begun = time.perf_counter()
        tokens = work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
    return {"tokens": tokens, "seconds": seconds, "rate": tokens / seconds}


def sample(policy: Any, given: argparse.Namespace) -> dict[str, float]:
    """Sampling with the fast path, in bf16 on a GPU."""
    import torch
    from vllm_speed import requests

    prompts = [
        policy.encode(request.prompt, request.image() if request.image else None)
        for request in requests(given.prompts, given.samples, 0)
    ]
    seeds = [list(range(n, n + given.samples)) for n in range(len(prompts))]
    policy.eos_token_ids = []  # random weights end by chance

    def work() -> int:
        made = policy.generate(prompts, seeds, 1.0, given.tokens)
        return sum(len(one.token_ids) for row in made for one in row)

    found = timed(work, given.device)
    found["image tokens"] = prompts[0].image_tokens
    if given.device.startswith("cuda"):
        torch.cuda.empty_cache()
    return found


def rows_of(policy: Any, given: argparse.Namespace, scratch: Path) -> Any:
    """Groups of 5 random responses to synthetic problems, every second one right."""
    import torch
    from vllm_speed import draw

    from modgap.core.prompt import contrastive_prompt, training_prompt
    from modgap.datasets import pgps9k
    from modgap.datasets.synthetic.write import write_dataset
    from modgap.training.rollout import Batch

    write_dataset(scratch, 0, given.groups, seed=1, workers=1)
    torch.manual_seed(0)
    prompts: list[Any] = []
    twins: list[tuple[Any, ...]] = []
    for number, problem in enumerate(pgps9k.read(scratch)):
        shown = draw(number, given.side)
        full = policy.encode(training_prompt(problem, "full-text", contrastive=True), shown)
        prompts += [full] * 5
        twins += [(policy.encode(contrastive_prompt(problem), shown),)] * 5
    rows = len(prompts)
    responses = [torch.randint(10, 600, (given.tokens,)) for _ in range(rows)]
    advantages = torch.tensor([0.9 if row % 2 == 0 else -0.9 for row in range(rows)])
    return Batch(prompts, twins, ["full-text"] * rows, responses, advantages, advantages > 0)


def train(policy: Any, given: argparse.Namespace, scratch: Path) -> dict[str, float]:
    """The gradients of a contrastive step."""
    import torch

    from modgap.core.recipe import Settings, Stage
    from modgap.training.update import gradients

    policy.let_go()
    for parameter in policy.parameters():
        parameter.data = parameter.data.float()
    policy.model.train()
    policy.model.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    stage = Stage(("full-text",), True, Settings(kl_coef=0.01))
    batch = rows_of(policy, given, scratch)

    def work() -> int:
        gradients(policy, batch, stage, 10)
        return sum(len(response) for response in batch.responses)

    found = timed(work, given.device)
    if given.device.startswith("cuda"):
        found["GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def in_torch(model: str, parts: list[str], given: argparse.Namespace) -> None:
    """`hf` and `train` of one model; prints each as it comes."""
    import tempfile

    import torch

    side = 32 if model.startswith(("qwen3", "nano3")) else 28
    policy = make_policy(model, given.device, image_tokens=round(given.side / side) ** 2)
    policy.model.eval()
    if given.device.startswith("cuda"):
        policy.model.to(torch.bfloat16)
    for part in parts:
        try:
            with tempfile.TemporaryDirectory() as scratch:
                made = (
                    sample(policy, given) if part == "hf" else train(policy, given, Path(scratch))
                )
        except Exception as error:
            traceback.print_exc()
            made = {"error": " ".join(str(error).split())[:200] or type(error).__name__}
        print(MARK + json.dumps({"model": model, "part": part, **made}), flush=True)


def write_folder(model: str, folder: Path, side: int) -> Path:
    """A model folder without weights: the shape's config, the testbed's tokenizer and template.

    Images are at most `side` pixels wide and high: vLLM reserves memory for the largest ones.
    """
    from made import config_of

    from modgap.models.load import load_policy, tiny_folder

    config = config_of(SHAPES_MADE[model], load_policy("tiny", "cpu"))
    deep = config.model_type == "qwen3_vl"
    name = "Qwen3VL" if deep else "Qwen2_5_VL"
    config.architectures, config.dtype = [f"{name}ForConditionalGeneration"], "bfloat16"
    config.save_pretrained(folder)
    skipped = ("config.json", "figures.json", "modgap.json", "generation_config.json")
    for file in tiny_folder().iterdir():
        if file.suffix in (".json", ".jinja") and file.name not in skipped:
            text = file.read_text()
            if file.name.endswith("preprocessor_config.json"):
                said = {**json.loads(text), "processor_class": f"{name}Processor"}
                said["size"] = {"shortest_edge": 56 * 56, "longest_edge": side**2}
                if deep:
                    said["patch_size"] = 16
                if deep and "video_processor_type" in said:
                    said["video_processor_type"] = "Qwen3VLVideoProcessor"
                text = json.dumps(said)
            (folder / file.name).write_text(text)
    return folder


def in_vllm(model: str, given: argparse.Namespace) -> None:
    """The same prompts through the `vllm` engine; prints what comes, when it is told to start."""
    import tempfile

    from vllm import LLM  # noqa: F401 # pyright: ignore - takes most of a minute
    from vllm_speed import requests

    from modgap.core.engine import Request, Sampling
    from modgap.engines.vllm import VllmEngine

    class Long(VllmEngine):
        """The engine with responses as long as they may be."""

        def parameters(self, request: Request, sample: int, sampling: Sampling) -> Any:
            parameters = super().parameters(request, sample, sampling)
            parameters.ignore_eos, parameters.detokenize = True, False
            return parameters

    with tempfile.TemporaryDirectory() as place:
        folder = write_folder(model, Path(place), given.side)
        told = sys.stdin.readline().strip()
        if told not in (GO, EAGER_START):
            return
        begun = time.perf_counter()
        most = f"max_num_seqs={given.prompts * given.samples}"  # no more graphs than it needs
        args = ["load_format=dummy", "max_model_len=4096", most, *given.engine_arg]
        if told == EAGER_START:
            args.append(NOT_COMPILED)
        row: dict[str, Any] = {"model": model, "part": "vllm", "compiled": told == GO}
        try:
            engine = Long(folder, args=args)
            row["start s"] = time.perf_counter() - begun
            print(MARK + json.dumps({**row, "error": "no time after its start"}), flush=True)
            sampling = Sampling(temperature=1.0, max_tokens=given.tokens, seed=1)
            base = iter((0, 1000))

            def work() -> int:
                asked = requests(given.prompts, given.samples, next(base))
                done = list(engine.generate(asked, sampling))
                assert not any(one.error for one in done), done[0].error
                return sum(one.completion_tokens for one in done)

            row |= timed(work, "cpu")  # every response is finished when it is counted
        except Exception as error:
            traceback.print_exc()
            row["error"] = " ".join(str(error).split())[:200] or type(error).__name__
        row["took s"] = time.perf_counter() - begun
        print(MARK + json.dumps(row), flush=True)  # before the engine ends, which takes seconds
        if "rate" in row:
            engine.close()


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Models by parts, in tokens a second."""
    parts = list(dict.fromkeys(row["part"] for row in rows.values()))
    models = list(dict.fromkeys(row["model"] for row in rows.values()))
    lines = [f"| tokens/s | {' | '.join(parts)} |", "| --- " * (len(parts) + 1) + "|"]
    for model in models:
        cells = [rows.get(f"{model} {part}", {}) for part in parts]
        shown = [
            f"{cell['rate']:,.0f}{'' if cell.get('compiled', True) else ' (not compiled)'}"
            if "rate" in cell
            else cell.get("error", "")
            for cell in cells
        ]
        lines.append(f"| {model} | {' | '.join(shown)} |")
    return lines


Child = subprocess.Popen[str]


def start_child(model: str, part: str) -> Child:
    """A process for some parts of a model."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", model, part]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(child: Child, told: str, until: float) -> list[dict[str, Any]]:
    """What a process found until the time was out, when it is ended."""
    try:
        said = child.communicate(told + "\n", timeout=max(0.0, until - time.monotonic()))[0]
    except subprocess.TimeoutExpired:
        child.kill()  # the guard of vLLM's processes ends those
        said = child.communicate()[0]
    return [json.loads(x.removeprefix(MARK)) for x in said.splitlines() if x.startswith(MARK)]


def take_turns(models: Sequence[str], part: str, until: float) -> Iterator[list[dict[str, Any]]]:
    """The rows of each model, one after the other; a `vllm` imports while another works."""
    slow = 0.0  # seconds of the slowest compiled start and its measurement
    waiting: dict[str, Child] = {}
    ahead = 2 if part == "vllm" else 1
    try:
        for number, model in enumerate(models):
            for name in models[number : number + ahead]:
                if name not in waiting and until - time.monotonic() > 5:
                    waiting[name] = start_child(name, part)
            child = waiting.pop(model, None)
            if child is None:
                yield [{"model": model, "part": one, "error": "no time"} for one in part.split(",")]
                continue
            share = (until - time.monotonic()) / (len(models) - number)
            # A larger model takes longer than the one before.
            rows = finish(child, GO if 1.3 * slow < share else EAGER_START, until)
            late = "no time" if time.monotonic() >= until else "failed"
            found = {row["part"]: row for row in rows}
            yield [
                found.get(one, {"model": model, "part": one, "error": late})
                for one in part.split(",")
            ]
            slow = max([slow, *(row.get("took s", 0.0) for row in rows if row.get("compiled"))])
    finally:
        for child in waiting.values():
            child.kill()
            child.communicate()


def main() -> None:
    """Run each part of each model in a process, until the time is out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench_models"))
    parser.add_argument("--models", default=DEFAULT, help=f"of {', '.join(SHAPES_MADE)}")
    parser.add_argument("--parts", default="hf,train,vllm")
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--side", type=int, default=512, help="of an image, in pixels")
    parser.add_argument("--engine-arg", action="append", default=[], help="of vLLM, key=value")
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "PARTS"), help="in this process")
    given = parser.parse_args()
    if given.child:
        model, parts = given.child
        in_vllm(model, given) if parts == "vllm" else in_torch(model, parts.split(","), given)
        return
    until = time.monotonic() + 60 * given.minutes
    rows: dict[str, dict[str, Any]] = {}
    about = {**machine(given.device), "given": {k: str(v) for k, v in vars(given).items()}}
    asked = given.parts.split(",")
    inside = [part for part in asked if part != "vllm"]
    for part in dict.fromkeys("vllm" if p == "vllm" else ",".join(inside) for p in asked):
        for found in take_turns(given.models.split(","), part, until):
            for row in found:
                rows[f"{row['model']} {row['part']}"] = row
                print(json.dumps(row), flush=True)
            write(given.out / FILE, about, rows, table(rows))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
