"""The testbed's processor for verl on a CPU.

AutoProcessor needs torchvision for videos, of which there is no CPU build.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers.models.qwen2_5_vl.processing_qwen2_5_vl as original
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin


class Qwen2_5_VLProcessor(original.Qwen2_5_VLProcessor):
    """transformers' own, without videos; of the same name, for verl goes by it."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(
            [self.image_token, self.video_token]
        )
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


def processor_of(folder: str | Path) -> Any:
    """The processor of a model's folder."""
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessorPil.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        (Path(folder) / "chat_template.jinja").read_text(),
    )
