"""What a model folder says of itself: its image processor, adapter, sampling and notes.

`quiet` switches off transformers' progress bars while a folder is read or written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from modgap.core.errors import UserError
from modgap.core.files import read_text
from modgap.core.json_files import read_json
from modgap.core.progress import say

FAST = ("qwen2_5_vl", "qwen3_vl")
"""The types with a forward pass of our own, see `policy.Policy`."""
BUNDLED = {"tiny": "", "tiny-charts": " --family charts --arch qwen3-vl --seed 2"}
"""Testbed models of an installation -> the options of `modgap model pretrain` that make them."""
ADAPTER = "adapter"
"""Where a checkpoint keeps the LoRA adapter that was merged into its weights, see `lora.py`."""
_PAPER_PIXELS = (256 * 28 * 28, 1280 * 28 * 28)
"""The original's pixel limits: 256 to 1280 image tokens."""
IMAGE_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
"""The files that may hold the image processor's settings, in the order of hubs and of earlier
releases of transformers."""
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


def model_notes(folder: Path) -> dict[str, Any]:
    """What a model's `modgap.json` says: the testbed model brings training defaults of its own."""
    path = folder / "modgap.json"
    return read_json(path) if path.exists() else {}


def paper_pixels(folder: Path) -> tuple[int, int] | None:
    """Least and most pixels of an image in paper style; `None` for the testbed model's own."""
    return None if model_notes(folder).get("testbed") else _PAPER_PIXELS


def _generation_config(folder: Path) -> dict[str, Any]:
    """A model's generation_config.json; empty where it has none.

    Raises `UserError` where it cannot be used.
    """
    path = folder / "generation_config.json"
    remedy = "correct it, or download the model again"
    return read_json(path, remedy) if path.exists() else {}


def own_temperature(folder: Path) -> float:
    """The temperature of a model's generation config.

    As in transformers it is greedy where the config names none.
    """
    config = _generation_config(folder)
    said, samples = config.get("temperature"), config.get("do_sample")
    if samples is False:
        return 0.0
    if said is None:
        value = 1.0 if samples else 0.0
        meaning = f"{value:g}" if samples else f"{value:g}, greedy"
        say(
            f"--temperature model: {folder} names none in generation_config.json, which means"
            f" {meaning}"
        )
        return value
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said < math.inf:
        raise UserError(
            f"--temperature model: {folder / 'generation_config.json'} has the temperature"
            f" {said!r}: correct it, or give a number."
        )
    return float(said)


def own_max_tokens(folder: Path) -> int | None:
    """The longest response of a model's generation config; `None` where it does not say."""
    said = _generation_config(folder).get("max_new_tokens")
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int) or said < 1:
        raise UserError(
            f"{folder / 'generation_config.json'} has max_new_tokens {said!r}: correct it, or give"
            " --max-tokens."
        )
    return said


def _read(path: Path) -> dict[str, Any]:
    try:
        return _as_object(json.loads(read_text(path)))
    except (OSError, ValueError, RecursionError):
        return {}


def _as_object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


@contextmanager
def quiet(warnings: bool = False) -> Iterator[None]:
    """Inside, loading and saving show no bars; afterwards bars are as they were.

    Args:
        warnings: Suppress warnings, too, for problems that we report ourselves.
    """
    from transformers.utils import logging

    enabled, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    if warnings:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if enabled:
            logging.enable_progress_bar()
