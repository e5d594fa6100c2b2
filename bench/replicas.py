"""How much faster several replicas answer than one: responses and tokens a second of
`ReplicaEngine`, loading excluded.

python bench/replicas.py --out bench_replicas [--engine vllm|hf] [--model 3b|7b|tiny] [--replicas 2]
[--seconds 30]

All replicas are started once and warmed up; then the same amount of work is given to all of them,
and to the first one alone (the others then do nothing). The amount is chosen from the warm-up, so
that one replica has some --seconds of it: enough that the end, where the last responses are alone
in their batch, weighs little. `3b` and `7b` are Qwen2.5-VL of the true shapes with random weights
and responses of drawn lengths, see `vllm_speed.py`; `tiny` is the testbed model. Figures go to
OUT/replicas_ENGINE_MODEL.json and .md.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cards import Cards
from vllm_speed import PIXELS, Fixed, requests, write_shape

from modgap.core.engine import Engine, Request, Sampling
from modgap.engines.hf import load_engine
from modgap.engines.replicas import ReplicaEngine
from modgap.engines.vllm import VllmEngine
from modgap.models.load import tiny_folder

SAMPLING = Sampling(temperature=0.6, max_tokens=256, seed=42)


class Short(Fixed):
    """Responses a third as long as `vllm_speed`'s, 5 to 512 tokens: the end of the work comes
    sooner.
    """

    def parameters(self, request: Request, sample: int, sampling: Sampling) -> Any:
        """As the engine's, of the drawn length."""
        parameters = super().parameters(request, sample, sampling)
        parameters.max_tokens = max(5, parameters.max_tokens // 3)
        return parameters


def work(engine: ReplicaEngine, asked: list[Request]) -> dict[str, Any]:
    """Have it all answered."""
    cards, started = Cards(), time.perf_counter()
    tokens, ends, seen = 0, list[float](), Counter[tuple[str, str, int]]()
    for done in engine.generate(asked, SAMPLING):
        assert done.finish_reason != "error", done.error
        tokens += done.completion_tokens
        ends.append(time.perf_counter() - started)
        seen[done.request.problem_id, done.request.view, done.sample] += 1
    assert set(seen.values()) == {1} and len(seen) == sum(len(r.samples) for r in asked)
    seconds = ends[-1]
    return {
        "responses": len(ends), "tokens": tokens, "seconds": round(seconds, 2),
        "responses_per_s": round(len(ends) / seconds, 2), "tokens_per_s": round(tokens / seconds),
        "last_tenth_took_s": round(seconds - ends[int(0.9 * len(ends))], 2),
        "gpu_percent": cards.mean(),
    }  # fmt: skip


def maker(args: argparse.Namespace, folder: Path) -> Callable[[], Engine]:
    """What makes one engine, in its actor."""
    if args.engine == "hf":
        return functools.partial(load_engine, tiny_folder(), None, None, args.batch_size)
    given = [f"max_num_seqs={args.seqs}", *args.engine_arg]
    if args.model == "tiny":
        return functools.partial(VllmEngine, tiny_folder(), args=given)
    shape = write_shape(args.model, folder)
    return functools.partial(
        Short, shape, pixels=PIXELS, args=["load_format=dummy", "max_model_len=4096", *given]
    )


def main() -> None:
    """Measure all replicas, and one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engine", choices=("vllm", "hf"), default="vllm")
    parser.add_argument("--model", choices=("tiny", "3b", "7b"), default="3b")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0, help="work of one replica")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seqs", type=int, default=192, help="vLLM's max_num_seqs")
    parser.add_argument("--batch-size", type=int, default=128, help="of hf")
    parser.add_argument("--warm-up", type=int, default=256, help="prompts for each replica")
    parser.add_argument(
        "--engine-arg", action="append", default=[], help="key=value for vllm.LLM; repeatable"
    )
    args = parser.parse_args()
    args.model = "tiny" if args.engine == "hf" else args.model
    args.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {
        "engine": args.engine,
        "model": args.model,
        "cores": os.cpu_count(),
        "runs": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        engine = ReplicaEngine(
            maker(args, Path(folder)),
            args.replicas,
            ray_address=None,
            batch=args.batch_size if args.engine == "hf" else 64,
        )
        try:
            work(engine, requests(32 * args.replicas, 1, 0))  # loads, compiles
            figures["started_s"] = round(time.perf_counter() - started, 1)
            warm = work(engine, requests(args.warm_up * args.replicas, args.samples, 100_000))
            figures["warm_up"] = warm
            prompts = (
                2
                + int(warm["responses_per_s"] / args.replicas * args.seconds / args.samples)
                // 2
                * 2
            )
            slots = engine._slots
            for number, count in enumerate((args.replicas, 1), start=2):
                engine._slots = slots[:count]
                figures["runs"][count] = work(
                    engine, requests(prompts, args.samples, 100_000 * number)
                )
                write(args, figures)
            engine._slots = slots
        finally:
            engine.close()


def write(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Both files, anew."""
    runs, alone = figures["runs"], figures["runs"].get(1)
    rows = [
        (
            "| engine | model | replicas | responses | s | responses/s | tokens/s | GPU % | times"
            " one |"
        ),
        "|---" * 9 + "|",
    ]
    for count, run in sorted(runs.items()):
        ratio = f"{alone['seconds'] / run['seconds']:.2f}" if alone else ""
        rows.append(
            f"| {args.engine} | {args.model} | {count} | {run['responses']} | {run['seconds']} | "
            f"{run['responses_per_s']} | {run['tokens_per_s']} | {run['gpu_percent']} | {ratio} |"
        )
    if alone:
        figures["times_one"] = {
            count: round(alone["seconds"] / run["seconds"], 3) for count, run in runs.items()
        }
    name = f"replicas_{args.engine}_{args.model}"
    (args.out / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    (args.out / f"{name}.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
