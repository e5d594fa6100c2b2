"""What a step of `--engine verl` takes, and a contrastive one beside a plain one, with Qwen2.5-VL
of a real shape.

python bench/verl_speed.py --out bench_verl [--model 3b] [--gpus 1] [--nodes 1]
[--image-tokens 256] [--stock] [--set KEY=VALUE ...]

Tokens a second are those of the rows that are trained on (prompt, image and response; twins
excluded) over a whole step, a GPU. `--stock` is the baseline: the same stage without the plugin, in
verl's own engine as it comes without flash-attn (padding, torch's attention, 4 rows a pass as in
the paper's script). The step that the dry run expects is printed beside what was measured, and the
memory of each kind of process.

`--nodes 2` starts two Ray nodes on this host, each with its part of the GPUs and ports of its own,
and trains on the cluster, as one would on two machines.

One contrastive stage on made problems, random weights, responses as long as they may be. Steps take
turns: in every second one half of the responses are right, and have a text-free twin; in the others
the better half is worth 0.5, so that the same engine takes a plain DAPO step. The first step of
each kind is left out. Of every step OUT/verl_speed.json and .md have the seconds of each phase as
verl logs them, tokens a second of a GPU; and the memory at its peak. The model stays in OUT.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from made import SHAPES_MADE, write_model
from PIL import Image
from watch import Watch

from modgap.core.assign import apply_settings
from modgap.core.options import TrainOptions
from modgap.core.progress import Bars
from modgap.core.recipe import Recipe, Settings, Stage
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.training.known_model import known_model
from modgap.training.plan import Lengths, gpu
from modgap.training.shape import GIB
from modgap.training.verl import engine
from modgap.training.verl.checks import ACTOR, MODEL, ROLLOUT
from modgap.training.verl.config import layout, stage_overrides
from modgap.training.verl.cost import seconds, update_memory
from modgap.training.verl.sections import Files
from modgap.workflows.train import train_resolved

TWINS, PLAIN = "1", "2"
"""Gold answers: they tell the reward whether a problem's right responses have twins."""
PORT = 6390
PHASES = {"rollout": "gen", "old log-probs": "old_log_prob", "update": "update_actor",
          "weights": "update_weights", "step": "step"}  # fmt: skip


def half_right(response: str, gold: str) -> float:
    """About half of the responses are right (by their bytes): 1.0, or 0.5 without twins."""
    return zlib.crc32(response.encode()) % 2 * (1.0 if gold == TWINS else 0.5)


def make_problems(steps: int, prompts: int, image_tokens: int, folder: Path) -> list[Any]:
    """Problems in the order in which they are trained on, diagrams drawn as large as `image_tokens`
    are.
    """
    write_dataset(folder, steps * prompts, 0, seed=1)
    side, made = 28 * round(image_tokens**0.5), []
    for number, problem in enumerate(pgps9k.read(folder, "train")):
        file = BytesIO()
        problem.open_image().resize((side, side), Image.Resampling.BICUBIC).save(file, "PNG")
        gold = TWINS if number // prompts % 2 else PLAIN
        made.append(replace(problem, image=file.getvalue(), answer=gold))
    return made


class Enough(Exception):
    """All steps are measured."""


class Until(Bars):
    """Ends the training after a step: the last one of a training would write a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, name: str, done: int, total: int, note: str = "") -> None:
        if done >= self.step:
            raise Enough


@contextlib.contextmanager
def ray_nodes(nodes: int, gpus: int, log: Path) -> Iterator[None]:
    """A Ray cluster on this host; RAY_ADDRESS names it meanwhile.

    Args:
        nodes: Raylets.
        gpus: GPUs of each.
        log: Gets the commands and what they print.
    """
    cpus = max(12, (os.cpu_count() or 1) // nodes)
    # Ray's nodes and drivers must have the same token.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    processes: list[subprocess.Popen[bytes]] = []
    with log.open("ab") as file, contextlib.ExitStack() as stack:
        for node in range(nodes):
            visible = ",".join(str(node * gpus + n) for n in range(gpus))
            words = ["start", "--block", f"--num-gpus={gpus}", f"--num-cpus={cpus}"]
            if node == 0:
                words += ["--head", f"--port={PORT}", "--include-dashboard=false"]
            else:
                low = 20000 + 5000 * node  # two raylets of one host may not share these
                words += [
                    f"--address=127.0.0.1:{PORT}", f"--min-worker-port={low}",
                    f"--max-worker-port={low + 4999}", f"--dashboard-agent-listen-port={low - 1}",
                ]  # fmt: skip
            file.write(f"CUDA_VISIBLE_DEVICES={visible} ray {' '.join(words)}\n".encode())
            file.flush()
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "ray.scripts.scripts", *words], stdout=file, stderr=file,
                    env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
                )
            )  # fmt: skip
            stack.callback(processes[-1].wait)
            stack.callback(processes[-1].terminate)
            time.sleep(20 if node == 0 else 10)
            if processes[-1].poll() is not None:
                raise SystemExit(f"node {node} did not start: {log}")
        os.environ["RAY_ADDRESS"] = f"127.0.0.1:{PORT}"
        stack.callback(os.environ.pop, "RAY_ADDRESS")
        yield


def table(
    lines: list[dict[str, Any]], gpus: int, stock: bool = False
) -> tuple[list[str], dict[str, Any]]:
    """A Markdown row of each kind of step, and the figures, without the first step of a kind.

    verl's own engine takes plain steps only.
    """
    rows = [
        f"| step | {' | '.join(f'{name}, s' for name in PHASES)} | tokens/s a GPU | twins an"
        " update |"
    ]
    rows.append("| --- " * (len(PHASES) + 3) + "|")
    figures: dict[str, Any] = {}
    for kind, rest in (("plain", 1), ("contrastive", 0)):
        steps = [line["data"] for line in lines if line["step"] % 2 == rest][1:]
        if stock:
            steps = [line["data"] for line in lines][1:] if kind == "plain" else []
        if not steps:
            continue

        def mid(key: str, steps: list[dict[str, float]] = steps) -> float:
            return statistics.median(step.get(key, 0.0) for step in steps)

        seconds = {name: mid(f"timing_s/{key}") for name, key in PHASES.items()}
        figures[kind] = {
            "steps": len(steps), "seconds": seconds, "tokens_per_s": mid("perf/throughput"),
            "twins": mid("actor/eligible_rows"), "gpus": gpus,
        }  # fmt: skip
        cells = [f"{kind} ({len(steps)})", *(f"{value:.2f}" for value in seconds.values())]
        cells += [f"{figures[kind][name]:.0f}" for name in ("tokens_per_s", "twins")]
        rows.append(f"| {' | '.join(cells)} |")
    if lines:  # verl never starts its peak anew, so it is that of the whole training
        figures["peak_gib"] = lines[-1]["data"]["actor/perf/max_memory_allocated_gb"]
        rows += ["", f"peak of a GPU: {figures['peak_gib']:.1f} GiB"]
    if {"plain", "contrastive"} <= set(figures):
        ratio = {
            name: figures["contrastive"]["seconds"][name] / figures["plain"]["seconds"][name]
            for name in ("update", "step")
        }
        figures["contrastive_over_plain"] = ratio
        rows += [
            "",
            ", ".join(f"{name}: contrastive {value:.2f}x plain" for name, value in ratio.items()),
        ]
    return rows, figures


def stock_overrides(*args: Any, **named: Any) -> dict[str, Any]:
    """The stage's configuration without the plugin."""
    out = stage_overrides(*args, **named)
    ours = (
        "external_lib", "fsdp_config._target_", "default_agent_loop", "VERL_ENGINE_VENDOR",
        "use_no_sync_for_gradient_accumulation",
    )  # fmt: skip
    kept = {key: value for key, value in out.items() if not key.endswith(ours)}
    for name in ("kl_coef", "kl_estimator", "kl_clamp", "loss_mean"):
        del kept[f"+{ACTOR}.fsdp_config.{name}"]
    rows = {"ppo_micro_batch_size_per_gpu": 4, "use_dynamic_bsz": False}
    kept |= {f"{ACTOR}.{name}": value for name, value in rows.items()}
    kept[f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu"] = 4
    kept[f"{MODEL}.enable_gradient_checkpointing"] = True
    return kept


def expected(stage: Stage, folder: Path, lengths: Lengths, gpus: int) -> dict[str, Any]:
    """The seconds and the GiB of a step by the dry run, for these lengths."""
    model = known_model(str(folder))
    assert model.shape is not None
    machine = gpu(torch.cuda.get_device_name() if torch.cuda.is_available() else "H200")
    gib = (machine.memory or 80 * GIB) / GIB
    files = Files(("t",), "v", "c", "m", "b")
    spread = layout(stage_overrides(stage, model, files, gpus=gpus, gpu_gib=gib))
    memory = update_memory(stage, model.shape, spread)
    return {
        "seconds": seconds(stage, model.shape, lengths, spread, machine),
        "update_gib": {name: value / GIB for name, value in memory.items()},
        "tokens_a_pass": spread.tokens, "checkpointing": spread.checkpointing,
    }  # fmt: skip


def main() -> None:
    """Train, and say what verl logged."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=SHAPES_MADE, default="3b")
    parser.add_argument("--device", default="cuda", help="where the weights are made")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1, help="Ray nodes that share the GPUs")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument(
        "--prompts", type=int, default=32, help="a step, for each GPU (the paper has 64)"
    )
    parser.add_argument("--image-tokens", type=int, default=256)
    parser.add_argument("--response", type=int, default=400)
    parser.add_argument("--stock", action="store_true", help="without the plugin")
    parser.add_argument(
        "--set", action="append", default=[], help="as of `modgap train`; repeatable"
    )
    args = parser.parse_args()
    args.prompts *= args.gpus
    here = str(Path(__file__).resolve().parent)  # where verl's reward workers find `half_right`
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    settings = Settings(
        steps=args.steps + 1, prompts_per_step=args.prompts, mini_batch=args.prompts // 2,
        samples_per_prompt=5, max_prompt_tokens=args.image_tokens + 256,
        max_response_tokens=args.response, overlong_buffer=0, dynamic_sampling=False, save_every=0,
        eval_every=0, validation_problems=0, reward_function="verl_speed:half_right",
    )  # fmt: skip
    given = [
        f"verl.trainer.n_gpus_per_node={args.gpus // args.nodes}",
        f"verl.trainer.nnodes={args.nodes}", "verl.data.shuffle=False",
        "verl.actor_rollout_ref.actor.checkpoint.save_contents=[model]", *args.set,
    ]  # fmt: skip
    recipe = apply_settings(Recipe("contrastive", (Stage(("full-text",), True, settings),)), given)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model = write_model(
            args.model,
            args.out / f"{args.model}-{args.image_tokens}",
            [args.image_tokens],
            args.device,
        )
        problems = make_problems(
            args.steps + 1, args.prompts, args.image_tokens, Path(scratch) / "data"
        )
        lengths = Lengths(
            args.image_tokens, args.image_tokens + 108, args.image_tokens + 80, args.response,
            args.response, mixed=1.0,
        )  # fmt: skip
        plan = expected(recipe.stages[0], model, lengths, args.gpus)
        print(json.dumps(plan), flush=True)
        if args.stock:
            engine.stage_overrides = stock_overrides
        cluster, watch = contextlib.nullcontext(), Watch(args.out.resolve())
        if args.nodes > 1:
            cluster = ray_nodes(args.nodes, args.gpus // args.nodes, args.out / "ray.log")
        try:
            with cluster, watch:
                train_resolved(
                    recipe, problems, model, args.out, options=TrainOptions(engine="verl"),
                    progress=Until(args.steps),
                )  # fmt: skip
        except Enough:
            pass
        finally:  # what was logged counts, whatever came after it
            files = sorted(args.out.glob("stage1/verl_metrics.*.jsonl"))
            lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
            rows, figures = table(lines, args.gpus, args.stock)
            figures["peaks_gib"] = {name: round(watch.peaks[name], 2) for name in watch.peaks}
            rows += ["", f"at their peak, GiB: {figures['peaks_gib']}"]
            (args.out / "verl_speed.json").write_text(
                json.dumps(
                    {
                        "given": vars(args) | {"out": str(args.out)},
                        "expected": plan,
                        "figures": figures,
                    },
                    indent=1,
                )
                + "\n"
            )
            (args.out / "verl_speed.md").write_text("\n".join(rows) + "\n")
            print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
