"""A model as a Hugging Face folder: merged weights, and the tokenizer's and processor's files as they came."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modgap.models.quiet import quiet

# Files of a model folder that are written anew, or that tell of the one model only: never copied.
_OWN_FILES = {"config.json", "model.safetensors.index.json", "figures.json"}


def save_folder(
    folder: Path, model: Any, tokenizer: Any, processor: Any, source: Path | None, dtype: torch.dtype | None
) -> Path:
    """Write the folder; see `Policy.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: t.to(dtype) if dtype else t for name, t in _merged_state(model).items()}
    with quiet():
        model.save_pretrained(folder, state_dict=state)
    _name_dtype(folder / "config.json", dtype or model.dtype)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    if source is not None and source.resolve() != folder.resolve():
        for file in source.iterdir():
            if file.suffix in {".json", ".jinja", ".txt"} and file.name not in _OWN_FILES:
                shutil.copyfile(file, folder / file.name)
    return folder


def _name_dtype(path: Path, dtype: torch.dtype) -> None:
    """Write the weights' type into a config and its parts: transformers writes the model's, whatever was saved."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _merged_state(model: Any) -> dict[str, Tensor]:
    """The model's state with LoRA merged into a copy of the layers it changes, under the names of the plain model."""
    state: dict[str, Tensor] = {}
    lora: dict[str, Any] = {n: m for n, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    for name, value in model.state_dict().items():
        owner = next((prefix for prefix in lora if name.startswith(f"{prefix}.")), None)
        if owner is None:
            state[name] = value
            continue
        inner = name.removeprefix(f"{owner}.")
        if not inner.startswith("base_layer."):
            continue  # an adapter's own weight
        plain = inner.removeprefix("base_layer.")
        if plain == "weight":
            for adapter in lora[owner].active_adapters:
                value = value + lora[owner].get_delta_weight(adapter).to(value.dtype)
        state[f"{owner}.{plain}"] = value
    return state
