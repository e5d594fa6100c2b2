r"""Host memory of a step's images on verl: what a sample takes until its update, and a batch.

python bench/verl_memory.py [--image-tokens 256,1024] [--prompts 12] [--json FILE]
    in verl's environment for tests: PYTHONPATH=tests/training/on_verl .venv-verl/bin/python ...

verl's own agent worker writes made samples into its TransferQueue, with images as the plugin keeps
them and as verl does; then what a rank reads for its update is read back. Printed are the MB a
sample in the queue's processes and in the reader, each from two sizes of a batch, and what 512
prompts x 5 samples take by that, half of the groups dropped.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import tempfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("VERL_USE_EXTERNAL_MODULES", "cpu_platform")
os.environ.setdefault("VERL_PLATFORM", "cpu_test")

from types import MethodType

import pyarrow.parquet as pq
import ray
import transfer_queue as tq
from cpu_processor import processor_of
from made import noise
from transformers import AutoConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ
from verl.utils.dataset.rl_dataset import RLHFDataset
from watch import called, pss

from modgap.core.problem import Problem
from modgap.datasets.parquet import write_parquet
from modgap.models.load import tiny_folder
from modgap.training.verl.agent_loop import StoredOutput
from modgap.training.verl.rows import byte_table

SAMPLES, RESPONSE = 5, 400
READ = ["input_ids", "position_ids", "response_mask", "multi_modal_inputs", "extra_fields"]
"""What our engine reads of a row, images included."""


def worker_of(processor: Any) -> Any:
    """An agent worker of verl's that has sampled and graded already."""

    async def nothing(*args: Any, **named: Any) -> None:
        return None

    made = object.__new__(AgentLoopWorkerTQ.__ray_metadata__.modified_class)
    made.processor, made.tokenizer, made.mm_processor_kwargs = processor, processor.tokenizer, {}
    made._compute_score = made._compute_teacher_logprobs = nothing
    return made


def row_of(image_tokens: int, number: int) -> dict[str, Any]:
    """What verl's data set gives of a prompt: its messages with the image, and the rest."""
    file = BytesIO()
    noise(28 * round(image_tokens**0.5), number).save(file, "PNG")
    problem = Problem(
        id=f"p{number}", question="Find AB.", answer="1.000", image=file.getvalue(),
        semantic=("AB = 1",),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        write_parquet([problem], path, "full-text", "aligned")
        (row,) = pq.read_table(path).to_pylist()
    keys = SimpleNamespace(
        processor=True, image_key="images", video_key="videos", audio_key="audios"
    )
    row["raw_prompt"] = RLHFDataset._build_messages(keys, row, "prompt")
    return {key: value for key, value in row.items() if key not in ("prompt", "images")}


def put(worker: Any, image_tokens: int, prompts: int, ours: bool) -> list[str]:
    """Write the samples of some prompts into the queue, as verl or as ours; returns their keys."""
    loop, keys = asyncio.new_event_loop(), list[str]()
    token = worker.processor.image_token_id
    for number in range(prompts):
        row = row_of(image_tokens, number)
        content = row["raw_prompt"][-1]["content"]
        image = next(part["image"] for part in content if part["type"] == "image")
        for session in range(SAMPLES):
            output = AgentLoopOutput(
                prompt_ids=[100] * 50 + [token] * image_tokens + [100] * 50,
                response_ids=[100] * RESPONSE, response_mask=[1] * RESPONSE,
                multi_modal_data={"images": [image]}, reward_score=1.0, metrics={},
                extra_fields={"reward_extra_info": {"score": 1.0}},
            )  # fmt: skip
            if ours:
                output = StoredOutput.model_construct(output.model_fields_set, **dict(output))
                output._table = byte_table(worker.processor.image_processor)
            named = {**row, "uid": str(number), "session_id": session, "global_steps": 1}
            loop.run_until_complete(worker._agent_loop_postprocess(output, False, **named))
            keys.append(f"{number}_{session}_0")
    return keys


def measured(worker: Any, image_tokens: int, prompts: int, ours: bool) -> tuple[float, float]:
    """MiB that the queue and a reader hold of some prompts' samples."""
    gc.collect()
    here, before = Path("/proc/self"), in_storage()
    keys = put(worker, image_tokens, prompts, ours)
    gc.collect()
    in_queue, own = in_storage() - before, pss(here)
    read = tq.kv_batch_get(keys=keys, partition_id="train", select_fields=READ)
    in_reader = pss(here) - own
    del read
    tq.kv_clear(keys=keys, partition_id="train")
    return 1024 * in_queue, 1024 * in_reader


def in_storage() -> float:
    """GiB of the queue's processes."""
    return sum(map(pss, called("SimpleStorageUnit")))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-tokens", default="256,1024")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    processor = processor_of(tiny_folder())
    processor.config = AutoConfig.from_pretrained(tiny_folder())
    for name in ("get_rope_index", "get_vision_position_ids"):
        if hasattr(Qwen2_5_VLModel, name):
            setattr(processor, name, MethodType(getattr(Qwen2_5_VLModel, name), processor))
    worker = worker_of(processor)
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    tq.init()
    found: list[dict[str, Any]] = []
    for tokens in map(int, args.image_tokens.split(",")):
        side = tokens * 28 * 28
        processor.image_processor.size = {"shortest_edge": side, "longest_edge": side}
        for ours, name in ((True, "modgap"), (False, "verl")):
            measured(worker, tokens, 1, ours)  # what a first use takes
            small = measured(worker, tokens, args.prompts // 3, ours)
            large = measured(worker, tokens, args.prompts, ours)
            more = (args.prompts - args.prompts // 3) * SAMPLES
            queue, reader = ((b - a) / more for a, b in zip(small, large, strict=True))
            found.append(
                {
                    "image tokens": tokens, "kept": name, "queue, MiB a sample": queue,
                    "reader, MiB a sample": reader,
                    "512 x 5, all sampled in the queue, GiB": 2 * 2560 * queue / 1024,
                    "and the readers, GiB": 2560 * reader / 1024,
                }
            )  # fmt: skip
    print("|", " | ".join(found[0]), "|")
    print("| --- " * len(found[0]) + "|")
    for row in found:
        cells = [f"{value:.2f}" if isinstance(value, float) else value for value in row.values()]
        print("|", " | ".join(map(str, cells)), "|")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
