r"""A whole training on verl with Qwen2.5-VL of a real shape, as a user runs it: train, kill, go on,
merge, next stage, evaluation with vLLM, report.

python bench/verl_whole.py --out DIR --model 3b --gpus 2 [--tensor-parallel 2] [--steps 2]
[--prompts 16] [--image-tokens 256,1024] [--keep 1] [--set KEY=VALUE ...] [--eval-arg KEY=VALUE ...]

`modgap train kl --engine verl` on made problems, half of them with an image of each size, random
weights, responses as long as they may be, every second one right. `kill -9` of `modgap train` in
the second step of the first stage; the same command resumes from the checkpoint. Then `modgap eval
--engine vllm` of the last checkpoint and `modgap report`. This script itself also resumes where it
stopped.

OUT/verl_whole.json and .md get, as the run goes: when each thing was done, the phases of each step
as verl logs them, the memory of hosts and GPUs at its peak, the disk, what was left after a kill
and at the end, and beside it what the dry run expects. With `--device cpu` it is a rehearsal in
verl's environment for tests (tests/training/on_verl).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from made import SHAPES_MADE, write_model
from PIL import Image
from verl_speed import PHASES, expected
from watch import Watch, gpu_memory, of_run

from modgap.core.assign import apply_settings
from modgap.core.registry import RECIPES
from modgap.datasets.synthetic.write import write_dataset
from modgap.training.plan import Lengths

HERE = Path(__file__).resolve().parent
MODGAP = (sys.executable, "-m", "modgap")


def every_second(response: str, gold: str) -> float:
    """About half of the responses are right, by their bytes."""
    return float(zlib.crc32(f"{gold} {response}".encode()) % 2)


def make_data(folder: Path, train: int, test: int, sizes: Sequence[int]) -> None:
    """A data set whose images have these numbers of tokens in turn."""
    if (folder / "made").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    write_dataset(folder, train, test, seed=1)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        side = 28 * round(sizes[number % len(sizes)] ** 0.5)
        file = BytesIO()
        with Image.open(path) as image:
            image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(file, "PNG")
        path.write_bytes(file.getvalue())
    (folder / "made").touch()


class Record:
    """What was done and measured, written after every change."""

    def __init__(self, folder: Path, given: dict[str, Any]) -> None:
        self.path = folder / "verl_whole.json"
        self.content: dict[str, Any] = {"given": given, "done": {}, "peaks_gib": {}}
        if self.path.exists():
            self.content |= json.loads(self.path.read_text())
        self.started = time.monotonic()

    def note(self, name: str, value: Any = None) -> None:
        """Write down that something was done, and what it told."""
        told = {"s": round(time.monotonic() - self.started, 1), "told": value}
        self.content["done"][name] = told
        print(f"{told['s']:7.1f} s  {name}" + ("" if value is None else f": {value}"), flush=True)
        self.write()

    def done(self, name: str) -> bool:
        return name in self.content["done"]

    def write(self) -> None:
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")


def modgap(given: argparse.Namespace, *arguments: str) -> list[str]:
    """Run the command line; returns what it printed. It must succeed."""
    with (given.out / "output.log").open("a") as log:
        log.write(f"$ modgap {' '.join(arguments)}\n")
        log.flush()
        done = subprocess.run(
            [*MODGAP, *arguments], stdout=subprocess.PIPE, stderr=log, text=True, cwd=given.out
        )
        log.write(done.stdout)
    if done.returncode:
        raise SystemExit(f"modgap {arguments[0]} failed: {given.out}/output.log")
    return done.stdout.splitlines()


def train_command(given: argparse.Namespace) -> list[str]:
    """`modgap train kl`, at full size."""
    limit = max(given.image_tokens) + 256
    settings = {
        "steps": given.steps, "prompts_per_step": given.prompts, "mini_batch": given.prompts // 2,
        "samples_per_prompt": 5, "max_prompt_tokens": limit, "max_response_tokens": given.response,
        "overlong_buffer": 0, "stage1.save_every": 1, "stage2.save_every": given.steps,
        "eval_every": 0, "validation_problems": 0,
        "reward.function": "verl_whole:every_second",
        "verl.trainer.n_gpus_per_node": given.gpus,
        "verl.trainer.max_actor_ckpt_to_keep": given.keep,
        "verl.actor_rollout_ref.rollout.tensor_model_parallel_size": given.tensor_parallel,
    }  # fmt: skip
    words = [word for pair in settings.items() for word in ("--set", f"{pair[0]}={pair[1]}")]
    words += [word for pair in given.set for word in ("--set", pair)]
    return [
        "train", "kl", "--engine", "verl", "--data", "data", "--model", given.folder,
        "--out", "runs/kl", *words,
    ]  # fmt: skip


def steps_of(stage: Path) -> list[dict[str, Any]]:
    """The steps that verl has logged, of all launches."""
    found: dict[int, dict[str, Any]] = {}
    for path in sorted(stage.glob("verl_metrics.*.jsonl")):
        text = path.read_text()
        for line in text[: text.rfind("\n") + 1].splitlines():
            row = json.loads(line)
            found[row["step"]] = row | {"launch": path.name.split(".")[1]}
    return [found[step] for step in sorted(found)]


def wait_for(what: str, until: Callable[[], bool], process: Any, limit: float) -> bool:
    """Wait until something is so; whether it came in time and the process lived."""
    end = time.monotonic() + limit
    while not until():
        if process is not None and process.poll() is not None:
            return until()
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def kill_in_a_step(given: argparse.Namespace, record: Record) -> None:
    """Start the training, kill it by SIGKILL after its first step, and see what is left."""
    stage = given.out / "runs/kl/stage1"
    free = gpu_memory()
    with (given.out / "output.log").open("a") as log:
        process = subprocess.Popen(
            [*MODGAP, *train_command(given)], stdout=log, stderr=log, cwd=given.out
        )
        if not wait_for("a step", lambda: bool(steps_of(stage)), process, given.limit):
            process.kill()
            raise SystemExit(f"no first step: {given.out}/output.log and {stage}/verl.log")
        record.note("stage1, step 1, launch 1", phases(steps_of(stage)[0]))
        time.sleep(2.0)
        process.kill()
        process.wait()
    killed = time.monotonic()
    gone = wait_for("end", lambda: not list(of_run(given.out)), None, 120.0)
    took = time.monotonic() - killed
    time.sleep(1.0)
    left = [round(used - before, 1) for used, before in zip(gpu_memory(), free, strict=True)]
    record.note("kill -9 in step 2", {
        "all processes gone": gone, "after s": round(took, 1), "GiB left on GPUs": left,
    })  # fmt: skip


def phases(row: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a step's phases, and its tokens a second."""
    data = row["data"]
    told: dict[str, Any] = {
        name: round(data.get(f"timing_s/{key}", 0.0), 2) for name, key in PHASES.items()
    }
    told["save"] = round(data.get("timing_s/save_checkpoint", 0.0), 1)
    told["tokens/s a GPU"] = round(data.get("perf/throughput", 0.0))
    told["twins an update"] = data.get("actor/eligible_rows", 0.0)
    told["peak GiB"] = round(data.get("actor/perf/max_memory_allocated_gb", 0.0), 1)
    return told


def go_on(given: argparse.Namespace, record: Record) -> None:
    """The same command again, to its end."""
    run = given.out / "runs/kl"
    watched = {
        "launch of stage 1, again": run / "stage1/verl_metrics.2.jsonl",
        "stage 1 merged": run / f"stage1/checkpoints/step_{given.steps}/config.json",
        "launch of stage 2": run / "stage2/verl.json",
        "stage 2 merged": run / f"stage2/checkpoints/step_{given.steps}/config.json",
    }
    free = gpu_memory()

    def look() -> None:
        for name, path in watched.items():
            if not record.done(name) and path.exists():
                record.note(name)
        for stage in ("stage1", "stage2"):
            for row in steps_of(run / stage):
                name = f"{stage}, step {row['step']}, launch {row['launch']}"
                if not record.done(name):
                    record.note(name, phases(row))

    with (given.out / "output.log").open("a") as log:
        process = subprocess.Popen(
            [*MODGAP, *train_command(given)], stdout=log, stderr=log, cwd=given.out
        )
        while process.poll() is None:
            look()
            time.sleep(0.5)
        look()
    if process.returncode:
        raise SystemExit(f"the training failed: {given.out}/output.log")
    gone = wait_for("end", lambda: not list(of_run(given.out)), None, 60.0)
    time.sleep(1.0)
    left = [round(used - before, 1) for used, before in zip(gpu_memory(), free, strict=True)]
    record.note("trained", {"all processes gone": gone, "GiB left on GPUs": left})


def evaluate(given: argparse.Namespace, record: Record) -> None:
    """The last checkpoint in both views, and the report."""
    last = f"runs/kl/stage2/checkpoints/step_{given.steps}"
    extra = [word for pair in given.eval_arg for word in ("--engine-arg", pair)]
    modgap(
        given, "eval", "--engine", given.eval_engine, "--data", "data", "--model", last, "--out",
        "runs/kl/eval", "--samples", "2", "--max-tokens", str(given.response), *extra,
    )  # fmt: skip
    responses = given.out / "runs/kl/eval/responses.jsonl"
    record.note("evaluated", {"responses": len(responses.read_text().splitlines())})
    told = modgap(given, "report", "runs/kl/eval", "--out", "report.html")
    record.note("reported", told[-3:])


def plan_of(given: argparse.Namespace, model: Path) -> list[dict[str, Any]]:
    """What the dry run expects of each stage."""
    words = train_command(given)
    pairs = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    recipe = apply_settings(RECIPES.load("kl")(), pairs)
    image = sum(given.image_tokens) // len(given.image_tokens)
    lengths = Lengths(
        image, image + 108, image + 80, given.response, given.response, mixed=15 / 16
    )  # fmt: skip
    return [expected(stage, model, lengths, given.gpus) for stage in recipe.stages]


def page(record: Record) -> str:
    """The record as Markdown."""
    lines = ["| s | what | |", "| ---: | --- | --- |"]
    for name, told in record.content["done"].items():
        shown = told["told"]
        if isinstance(shown, dict):
            shown = ", ".join(f"{key} {value}" for key, value in shown.items())
        lines.append(f"| {told['s']:.0f} | {name} | {'' if shown is None else shown} |")
    lines += ["", "| peak | GiB |", "| --- | ---: |"]
    lines += [f"| {name} | {value:.1f} |" for name, value in record.content["peaks_gib"].items()]
    lines += ["", f"expected: `{json.dumps(record.content.get('expected'))}`"]
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=lambda text: Path(text).absolute(), required=True)
    parser.add_argument("--model", choices=SHAPES_MADE, default="3b")
    parser.add_argument("--device", default="cuda", help="where the weights are made")
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--tensor-parallel", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="of each stage; at least 2")
    parser.add_argument("--prompts", type=int, default=16, help="a step, over all GPUs")
    parser.add_argument(
        "--image-tokens", type=lambda text: [int(n) for n in text.split(",")], default=[256, 1024]
    )
    parser.add_argument("--response", type=int, default=400)
    parser.add_argument("--test", type=int, default=32, help="problems to evaluate")
    parser.add_argument("--keep", type=int, default=1, help="whole checkpoints of a stage")
    parser.add_argument("--limit", type=float, default=480, help="seconds to the first step")
    parser.add_argument("--set", action="append", default=[], help="as of `modgap train`")
    parser.add_argument("--eval-engine", default="vllm")
    parser.add_argument("--eval-arg", action="append", default=[], help="as --engine-arg of eval")
    return parser.parse_args()


def main() -> None:
    """Run what is not done yet."""
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    path = os.environ.get("PYTHONPATH")  # the reward function is in this file
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), path]))
    told = {key: value for key, value in vars(given).items() if key != "out"}
    record = Record(given.out, told)
    sizes = given.image_tokens
    model = write_model(given.model, given.out / f"{given.model}-model", sizes, given.device)
    given.folder = str(model)
    make_data(given.out / "data", given.steps * given.prompts * 2, given.test, sizes)
    record.content["expected"] = plan_of(given, model)
    record.note("model and data made")
    watch = Watch(given.out)
    try:
        with watch:
            if not record.done("kill -9 in step 2"):
                kill_in_a_step(given, record)
            if not record.done("trained"):
                go_on(given, record)
            if not record.done("reported"):
                evaluate(given, record)
    finally:
        peaks = record.content["peaks_gib"]
        for name, value in watch.peaks.items():
            peaks[name] = max(value, peaks.get(name, 0.0))
        record.content.setdefault("series", []).append(watch.series)
        record.content["peaks_gib"] = {name: round(peaks[name], 2) for name in sorted(peaks)}
        record.write()
        text = page(record)
        (given.out / "verl_whole.md").write_text(text)
        print(text, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    main()
