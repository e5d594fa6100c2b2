"""The update and the old log-probabilities of verl's actor alone, in one process: no Ray, no vLLM.

python bench/verl_update.py --out DIR [--model 3b] [--groups 8] [--tokens 16384,32768] [--twins]
[--checkpointing] [--profile]

or `torchrun --nproc-per-node N`. Random weights, groups of 5 responses. For each budget of tokens:
seconds of the second and third update and of the log-probabilities, tokens a second (of rows),
the share of the GPU's arithmetic that the update reaches (FLOPs that are needed, prompts and images
once, without what is computed again), and the peak of memory. `--profile` prints the kernels and
the waits of one update. The engine is built by `tests/training/on_verl/ranks.py`.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests/training/on_verl")]
ONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
       "MASTER_PORT": "29511"}  # fmt: skip
for name, one in ONE.items():
    os.environ.setdefault(name, one)
os.environ["VERL_ENGINE_VENDOR"] = "modgap"
RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
SAMPLES = 5


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="gets the model, if it is not there"
    )
    parser.add_argument("--model", default="3b")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--image-tokens", type=int, default=256)
    parser.add_argument("--groups", type=int, default=8, help="of a mini-batch, on each GPU")
    parser.add_argument("--response", type=int, default=400)
    parser.add_argument("--tokens", default="16384", help="budgets of a pass, separated by commas")
    parser.add_argument("--twins", action="store_true", help="every second row has a twin")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args()


def made_rows(args: argparse.Namespace) -> tuple[list[dict[str, Any]], Any]:
    """Rows as verl's agent loop leaves them, and a prompt."""
    import torch
    import verl_speed

    from modgap.core.prompt import contrastive_prompt, training_prompt
    from modgap.models.load import load_policy

    side = 28 * round(args.image_tokens**0.5)
    policy = load_policy("tiny", "cpu", "float32", pixels=(side**2,) * 2)
    with tempfile.TemporaryDirectory() as folder:
        problems = verl_speed.make_problems(1, args.groups, args.image_tokens, Path(folder) / "d")
    vocabulary = verl_speed.SHAPES_MADE[args.model].vocab
    rows: list[dict[str, Any]] = []
    for number, problem in enumerate(problems):
        prompt = policy.encode(training_prompt(problem, "full-text"), problem.open_image())
        twin = policy.encode(contrastive_prompt(problem), problem.open_image())
        for sample in range(SAMPLES):
            generator = torch.Generator().manual_seed(SAMPLES * number + sample)
            response = torch.randint(20, 600, (args.response,), generator=generator)
            tail = torch.arange(len(response)).expand(3, -1) + prompt.next_position
            rope = torch.cat([prompt.position_ids, tail], 1)
            ones = torch.ones(len(response), dtype=torch.int64)
            right = args.twins and sample % 2
            rows.append({
                "prompts": prompt.input_ids, "responses": response,
                "input_ids": torch.cat([prompt.input_ids, response]),
                "position_ids": torch.cat([torch.arange(rope.shape[1])[None], rope]),
                "response_mask": ones, "loss_mask": ones,
                "old_log_probs": torch.full((len(response),), -math.log(vocabulary)),
                "advantages": torch.full((len(response),), 1.0 if sample % 2 else -1.0),
                "extra_fields": {
                    "twin_prompt_ids": {"image-only": twin.input_ids.tolist()},
                    "reward_extra_info": {"score": float(right)},
                },
                "multi_modal_inputs": {"pixel_values": prompt.pixel_values,
                                       "image_grid_thw": prompt.image_grid_thw},
            })  # fmt: skip
    return rows, prompt


def main() -> None:
    args = arguments()
    import torch

    cuda = args.device == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        os.environ |= {"VERL_USE_EXTERNAL_MODULES": "cpu_platform", "VERL_PLATFORM": "cpu_test"}
    torch.distributed.init_process_group("nccl" if cuda else "gloo", rank=RANK, world_size=WORLD)
    import made
    import ranks

    from modgap.core.recipe import Settings, Stage
    from modgap.training.known_model import known_model
    from modgap.training.plan import Lengths
    from modgap.training.verl.cost import flops

    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.out / f"{args.model}-{args.image_tokens}"
    if RANK == 0:
        made.write_model(args.model, folder, [args.image_tokens], args.device)
    torch.distributed.barrier()
    rows, prompt = made_rows(args)
    passed = [("actor_rollout_ref.model.enable_gradient_checkpointing", str(args.checkpointing))]
    for part in ("param_offload", "optimizer_offload"):
        passed.append((f"actor_rollout_ref.actor.fsdp_config.{part}", "False"))
    settings = Settings(
        prompts_per_step=args.groups * WORLD, samples_per_prompt=SAMPLES,
        mini_batch=args.groups * WORLD, max_prompt_tokens=4096,
        max_response_tokens=args.response, overlong_buffer=0, dynamic_sampling=False,
    )  # fmt: skip
    stage = Stage(("full-text",), contrastive=True, settings=settings, passed=tuple(passed))
    engine, loss = ranks.build({"model": str(folder), "stage": stage, "world": WORLD})
    engine.module.train()  # as verl's workers do; recomputing needs it
    shape = known_model(str(folder)).shape
    assert shape is not None
    right = 0.4 if args.twins else 0.0
    lengths = Lengths(args.image_tokens, len(prompt), len(prompt) - 28, args.response,
                      args.response, mixed=1.0, right=right)  # fmt: skip
    work = flops(stage, shape, lengths)
    needed = (work["update"] + work["twins"] * bool(right)) / WORLD
    count = sum(len(row["input_ids"]) for row in rows)

    def measured(budget: int, forward_only: bool) -> float:
        common = {
            "use_dynamic_bsz": True, "max_token_len_per_gpu": budget, "use_remove_padding": False,
            "use_fused_kernels": False, "temperature": 0.8, "pad_token_id": 0,
            "global_batch_size": len(rows) * WORLD, "calculate_entropy": forward_only,
        }  # fmt: skip
        data = ranks.batch(rows, common)
        torch.distributed.barrier()
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        if forward_only:
            with torch.no_grad():
                engine.infer_batch(data)
        else:
            engine.train_batch(data, loss)
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    out: list[dict[str, Any]] = []
    for budget in map(int, args.tokens.split(",")):
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        updates = [measured(budget, False) for _ in range(3)][1:]
        peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
        old = [measured(2 * budget, True) for _ in range(2)][1:]
        line: dict[str, Any] = {
            "budget": budget, "update_s": updates, "old_log_probs_s": old,
            "tokens_per_s": count / min(updates), "peak_gib": peak,
            "share_of_989_tflops": needed / min(updates) / 989e12,
        }  # fmt: skip
        out.append(line)
        if RANK == 0:
            print(json.dumps(line), flush=True)
            (args.out / "verl_update.json").write_text(json.dumps(out, indent=1) + "\n")
    if args.profile and RANK == 0 and WORLD == 1:
        profiled(lambda: measured(int(args.tokens.split(",")[-1]), False), cuda)
    torch.distributed.destroy_process_group()


def profiled(work: Any, cuda: bool) -> None:
    """Print where the time of one update goes."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as found:
        wall = work()
    averages = found.key_averages()

    def device(event: Any) -> float:
        return getattr(event, "self_device_time_total", 0.0) / 1e3

    print(f"update {1e3 * wall:.0f} ms, kernels {sum(map(device, averages)):.0f} ms")
    for event in sorted(averages, key=device, reverse=True)[:25]:
        print(f"  GPU {device(event):8.1f} ms x{event.count:6d} {event.key[:110]}")
    for event in sorted(averages, key=lambda e: -e.self_cpu_time_total)[:12]:
        print(
            f"  CPU {event.self_cpu_time_total / 1e3:8.1f} ms x{event.count:6d} {event.key[:110]}"
        )


if __name__ == "__main__":
    main()
