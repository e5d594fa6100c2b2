"""The processors of the testbed and of a small Qwen3-VL for verl on a CPU.

AutoProcessor needs torchvision for videos, of which there is no CPU build.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers.models.qwen2_5_vl.processing_qwen2_5_vl as qwen2_5
import transformers.models.qwen3_vl.processing_qwen3_vl as qwen3
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin


class _WithoutVideos:
    """A processor of transformers', without videos; of the same name, for verl goes by it."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.vision_start_token, self.vision_end_token = "<|vision_start|>", "<|vision_end|>"
        for name in ("image", "video", "vision_start", "vision_end"):
            token = tokenizer.convert_tokens_to_ids(getattr(self, f"{name}_token"))
            setattr(self, f"{name}_token_id", token)
        ProcessorMixin.__init__(  # type: ignore[arg-type]
            self, image_processor, tokenizer, chat_template=chat_template
        )

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


class Qwen2_5_VLProcessor(_WithoutVideos, qwen2_5.Qwen2_5_VLProcessor):
    """That of the testbed."""


class Qwen3VLProcessor(_WithoutVideos, qwen3.Qwen3VLProcessor):
    """That of a Qwen3-VL."""


def processor_of(folder: str | Path) -> Any:
    """The processor of a model's folder."""
    folder = Path(folder)
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    made = Qwen3VLProcessor if kind == "qwen3_vl" else Qwen2_5_VLProcessor
    return made(
        Qwen2VLImageProcessorPil.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        (folder / "chat_template.jinja").read_text(),
    )
