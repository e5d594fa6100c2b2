"""What a model folder in Hugging Face form says about its image processor and LoRA adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

ADAPTER = "adapter"
"""The folder of a checkpoint with the adapter merged into its weights, see `models/lora.py`."""
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def has_adapter(folder: Path) -> bool:
    """Whether a model folder keeps the adapter that was merged into it."""
    return (folder / ADAPTER / ADAPTER_CONFIG).is_file()


def image_processor(folder: Path) -> dict[str, Any]:
    """The image processor's settings; empty if missing or invalid, which the model loader reports.

    Transformers 5 (and the trainers that use it) write them into `processor_config.json`, which it
    also reads first; hubs and earlier versions have `preprocessor_config.json`.
    """
    found = _as_object(_read(folder / "processor_config.json").get("image_processor"))
    return found or _read(folder / "preprocessor_config.json")


def pixel_limits(processor: Mapping[str, Any]) -> tuple[int, int] | None:
    """The least and the most pixels of an image after processing; `None` if no limits are given."""
    size = _as_object(processor.get("size"))
    least = size.get("shortest_edge", processor.get("min_pixels"))
    most = size.get("longest_edge", processor.get("max_pixels"))
    return (least, most) if isinstance(least, int) and isinstance(most, int) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return _as_object(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _as_object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
