"""A model as a Hugging Face folder.

It holds the weights, LoRA as `lora.py` describes, and the tokenizer's and processor's files
unchanged.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modgap.models.folder import ADAPTER, quiet
from modgap.models.lora import Adapter, adapter_of, added, name_dtype, write_adapter

# Files that are written anew or that describe only the source model: never copied.
_OWN_FILES = {"config.json", "model.safetensors.index.json", "figures.json"}


def save_folder(
    folder: Path,
    model: Any,
    tokenizer: Any,
    processor: Any,
    source: Path | None,
    dtype: torch.dtype | None,
) -> Path:
    """Write the folder; see `Policy.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    adapter = adapter_of(model)
    if adapter:
        dtype = dtype or torch.float32
        state = _merged_state(model, adapter, dtype)
    else:
        state = {name: t.to(dtype) if dtype else t for name, t in model.state_dict().items()}
    with quiet():
        model.save_pretrained(folder, state_dict=state)
    # transformers writes the model's dtype, whatever was saved.
    name_dtype(folder / "config.json", dtype or model.dtype)
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    if adapter and dtype == torch.float32:
        write_adapter(folder, adapter)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    if source is not None and source.resolve() != folder.resolve():
        for file in source.iterdir():
            if file.suffix in {".json", ".jinja", ".txt"} and file.name not in _OWN_FILES:
                shutil.copyfile(file, folder / file.name)
    return folder


def _merged_state(model: Any, adapter: Adapter, dtype: torch.dtype) -> dict[str, Tensor]:
    """The plain model's state on the CPU, with LoRA merged in fp32."""
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if ".lora_" in name:
            continue
        value = value.cpu()  # a GPU in training has no room for a copy of the model
        state[name.replace(".base_layer.", ".")] = added(name, value, adapter).to(dtype)
    return state
