"""What the benchmarks of training share: models of a given shape, images of a given size, memory,
files of results.

A model of a real shape has random weights and the testbed's tokenizer: what a step costs depends on
the sizes alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import platform
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from modgap.core.problem import Problem
from modgap.models.load import load_policy, tiny_folder
from modgap.models.policy import Policy
from modgap.training.shape import SHAPES, DeepShape, Shape

QWEN_3B = SHAPES["Qwen/Qwen2.5-VL-3B-Instruct"]
# As the 3B has it, windows, grouped keys, a vocabulary beyond the tokenizer's and all, but small:
# for trying scripts.
NANO = Shape(
    256, 2, 4, 2, 512, 2000, True, vision_hidden=160, vision_layers=4, vision_intermediate=320
)
NANO3 = DeepShape(
    256, 2, 4, 2, 512, 2000, True, vision_hidden=128, vision_layers=4, vision_intermediate=256,
    head_dim=64, positions=64, levels=1,
)  # fmt: skip
# What Qwen2.5's smaller language models would be with the 3B's vision tower: for growth with the
# model's size.
SHAPES_MADE = {
    "nano": NANO, "0.5b": Shape(896, 24, 14, 2, 4864, 151936, tied=True),
    "1.5b": Shape(1536, 28, 12, 2, 8960, 151936, tied=True), "3b": QWEN_3B,
    "7b": SHAPES["Qwen/Qwen2.5-VL-7B-Instruct"], "nano3": NANO3,
    **{f"qwen3-{n}b": SHAPES[f"Qwen/Qwen3-VL-{n}B-Instruct"] for n in (2, 4, 8)},
}  # fmt: skip
MODELS = ("tiny", *SHAPES_MADE)
MADE = "made"
"""Empty file in a model's folder: it is whole."""


def make_policy(
    model: str, device: str, image_tokens: int | None = None, checkpointing: bool = False
) -> Policy:
    """A policy ready for training, fp32 weights.

    Args:
        model: `tiny` is the testbed model; the others, of `SHAPES_MADE`, have random weights.
        device: Where.
        image_tokens: Merged tokens of an image, a square number; the testbed's own (64) by default.
        checkpointing: Compute layers again in the backward pass.
    """
    deep = isinstance(SHAPES_MADE.get(model), DeepShape)
    side = None if image_tokens is None else (32 if deep else 28) * round(image_tokens**0.5)
    loaded = load_policy(
        "tiny",
        "cpu",
        "float32",
        gradient_checkpointing=checkpointing,
        pixels=None if side is None else (side**2,) * 2,
    )
    if model == "tiny":
        made = loaded.model.to(device)
    else:
        from transformers import AutoModelForImageTextToText, GenerationConfig

        torch.manual_seed(0)
        with torch.device(device):
            made: Any = AutoModelForImageTextToText.from_config(
                config_of(SHAPES_MADE[model], loaded)
            )
        made.generation_config = GenerationConfig(**loaded.model.generation_config.to_dict())
        if checkpointing:
            made.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
    if deep:
        loaded.processor.patch_size = 16
    policy = Policy(made, loaded.tokenizer, loaded.processor, source=tiny_folder())
    policy.model.train()
    return policy


def write_model(name: str, folder: Path, image_tokens: Sequence[int], device: str) -> Path:
    """A Hugging Face folder with random weights in bf16 and a tokenizer that knows every id, unless
    it is there. Its images have at least the smallest and at most the largest of these tokens.
    """
    if (folder / MADE).exists():
        return folder
    policy = make_policy(name, device, image_tokens[0])
    policy.save(folder, torch.bfloat16)
    with _edited(folder / "tokenizer.json") as tokenizer:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary |= {f"~{i}~": i for i in range(len(vocabulary), SHAPES_MADE[name].vocab)}
    with _edited(folder / "preprocessor_config.json") as processor:  # saved as the testbed has it
        processor["size"] = {
            "shortest_edge": min(image_tokens) * 28 * 28,
            "longest_edge": max(image_tokens) * 28 * 28,
        }
    (folder / MADE).touch()
    del policy
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # this process lives as long as the training
    return folder


@contextlib.contextmanager
def _edited(path: Path) -> Iterator[dict[str, Any]]:
    """A JSON file's content, written back afterwards."""
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content, ensure_ascii=False))


def config_of(shape: Shape, like: Policy) -> Any:
    """The config of a shape, with another model's special tokens; of a Qwen2.5-VL vision heads of
    80, windows but in each 8th layer.
    """
    from transformers import Qwen2_5_VLConfig

    head, config = shape.head, like.model.config
    quarter = head // 8
    if isinstance(shape, DeepShape):
        return _deep_config(shape, config)
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": shape.vocab, "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": 32768, "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6,
                "mrope_section": [quarter, (head // 2 - quarter) // 2, (head // 2 - quarter) // 2],
            },
            "tie_word_embeddings": shape.tied, "bos_token_id": None,
            "eos_token_id": config.text_config.eos_token_id,
            "pad_token_id": config.text_config.pad_token_id,
        },
        vision_config={
            "depth": shape.vision_layers, "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_intermediate, "num_heads": shape.vision_hidden // 80,
            "out_hidden_size": shape.hidden,
            "fullatt_block_indexes": list(range(7, shape.vision_layers, 8)) or [1],
        },
        **{
            name: getattr(config, name)
            for name in (
                "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id",
            )
        },
        tie_word_embeddings=shape.tied, attn_implementation="sdpa", dtype="float32",
    )  # fmt: skip


def _deep_config(shape: DeepShape, like: Any) -> Any:
    """The config of a Qwen3-VL of this shape; vision heads of 64, or 72 as the 8B has them."""
    from transformers import Qwen3VLConfig

    third = shape.head // 6
    rope = {
        "rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True,
        "mrope_section": [shape.head // 2 - 2 * third, third, third],
    }  # fmt: skip
    text = {
        "vocab_size": shape.vocab, "hidden_size": shape.hidden, "head_dim": shape.head,
        "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 32768, "rope_parameters": rope,
        "tie_word_embeddings": shape.tied, "bos_token_id": None,
        "eos_token_id": like.text_config.eos_token_id,
    }  # fmt: skip
    wide = shape.vision_hidden
    step = shape.vision_layers // (shape.levels + 1)
    return Qwen3VLConfig(
        text_config=text,
        vision_config={
            "depth": shape.vision_layers, "hidden_size": wide,
            "intermediate_size": shape.vision_intermediate,
            "num_heads": wide // (72 if wide % 72 == 0 else 64), "out_hidden_size": shape.hidden,
            "num_position_embeddings": shape.positions,
            "deepstack_visual_indexes": [step * (level + 1) for level in range(shape.levels)],
        },
        image_token_id=like.image_token_id, video_token_id=like.video_token_id,
        vision_start_token_id=like.vision_start_token_id,
        vision_end_token_id=like.vision_end_token_id, tie_word_embeddings=shape.tied,
        attn_implementation="sdpa", dtype="float32",
    )  # fmt: skip


def picture(problem: Problem, policy: Policy) -> Image.Image:
    """A problem's diagram as a square of the size that the policy's processor keeps as it is."""
    size: Any = policy.processor.size
    side = int(size["longest_edge"] ** 0.5) // 28 * 28
    return problem.open_image().resize((side, side))


def noise(side: int, seed: int) -> Image.Image:
    """An image that shows nothing."""
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    )


class Memory:
    """Peak memory of what runs inside `watching`, over what was there before.

    On a GPU the allocator's peak, weights and all; on a CPU how far the process grew (Linux), the
    allocator's habits included, so that only large differences mean something.
    """

    def __init__(self, device: str) -> None:
        self._gpu = device.startswith("cuda")
        self.peak = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Sets `peak`, in GiB."""
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()
            yield
            self.peak = torch.cuda.max_memory_allocated() / 2**30
            return
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(
                0
            )  # what was freed goes back, or nothing would seem to grow
            Path("/proc/self/clear_refs").write_text("5")
        before = self._status("VmRSS")
        yield
        self.peak = (self._status("VmHWM") - before) / 2**20

    @staticmethod
    def _status(key: str) -> float:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return float(line.split()[1])
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def machine(device: str) -> dict[str, str]:
    """What the figures depend on, for the files."""
    import transformers

    gpu = device.startswith("cuda")
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} thread"
    return {
        "machine": torch.cuda.get_device_name() if gpu else cpu,
        "torch": torch.__version__, "transformers": transformers.__version__,
        "clock": "wall" if gpu else "process",
    }  # fmt: skip


def write(
    path: Path | None, about: dict[str, Any], rows: dict[str, Any], lines: Sequence[str]
) -> None:
    """Write `path` (JSON) and its Markdown neighbour whole, at once."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, text in (
        (path, json.dumps({"about": about, "rows": rows}, indent=1) + "\n"),
        (path.with_suffix(".md"), "\n".join(lines) + "\n"),
    ):
        part = file.with_name(file.name + ".part")
        part.write_text(text)
        part.replace(file)
