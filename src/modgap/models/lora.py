"""LoRA adapters on the language model, and checkpoints that keep all of what they learned.

An adapter often changes a weight by less than a step of bf16, so that merging it into bf16 keeps
half of it. So the checkpoint of a LoRA training is

```
model.safetensors   the whole model with the adapters merged, in fp32: loading it in fp32 loses
                    nothing
adapter/            the same adapters in PEFT's format
```

Code that computes in a lower type subtracts the adapter from the merged weights, casts the result
(the weights that training started from) and applies the adapter beside them, as in training:
`bf16(W) x + B (A x)`, `W = merged - B A`. Both ways are the same model, whatever `adapter/` holds;
without it only precision is lost.

Names of layers here are those within the language model (`layers.0.self_attn.q_proj`), which all
layouts share.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modgap.core.errors import UserError
from modgap.core.files import read_text
from modgap.models.folder import ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS, has_adapter
from modgap.models.weights import INDEX, find_weights

_LINEAR = r"layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)"
_TARGETS = rf".*language_model\.{_LINEAR}"
_TRAINED, _EARLIER = "default", "earlier"

Adapter = Mapping[str, tuple[Tensor, Tensor]]
"""By layer: A `[rank, in]` and B `[out, rank]`, multiplied by its scaling."""


def layer_of(name: str) -> str:
    """The layer that a weight belongs to (not its bias); empty if LoRA does not adapt it."""
    found = re.search(rf"(?:^|\.)({_LINEAR})(?:\.base_layer)?\.weight$", name)
    return found[1] if found else ""


def added(name: str, weight: Tensor, adapter: Adapter, sign: int = 1) -> Tensor:
    """A weight with its part of an adapter added in fp32, or subtracted with `sign=-1`.

    A weight that the adapter does not change is returned as it is.
    """
    if (layer := layer_of(name)) not in adapter:
        return weight
    a, b = adapter[layer]
    return weight.float() + sign * (b.float() @ a.float())


def check_adapter(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Refuse an adapter that does not belong to a model.

    Args:
        adapter: The adapter.
        shapes: Of the model's weights, by name.
        folder: The model, for the message.

    Raises:
        UserError: A layer is absent, or of another shape.
    """
    of_layers = {layer_of(name): shape for name, shape in shapes.items()}
    for layer, (a, b) in adapter.items():
        if of_layers.get(layer) != (b.shape[0], a.shape[1]):
            raise UserError(
                f"the adapter does not fit the model in {folder}: its {layer} is {b.shape[0]} x"
                f" {a.shape[1]}, the model's"
                f" {' x '.join(map(str, of_layers.get(layer, ()))) or 'absent'}: give the adapter's"
                " own model"
            )


# ------------------------------------------------------------------ in a model


def add_lora(model: Any, rank: int) -> None:
    """Inject LoRA adapters (alpha = 2 x rank) into the language model; everything else is frozen.

    An adapter that the model already has is still applied.
    """
    if rank < 1:
        raise UserError(f"lora rank {rank} is out of range: give a whole number from 1")
    _inject(model, rank, 2 * rank, _TRAINED)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f".{_TRAINED}." in name)


def apply(model: Any, adapter: Adapter) -> None:
    """Apply an adapter beside the weights, frozen and in fp32."""
    rank = len(next(iter(adapter.values()))[0])
    _inject(model, rank, rank, _EARLIER)
    for name, layer in _adapted(model).items():
        if name in adapter:  # the others add zero
            a, b = adapter[name]
            layer.lora_A[_EARLIER].weight.data = a.float().to(layer.weight.device)
            layer.lora_B[_EARLIER].weight.data = b.float().to(layer.weight.device)
    for name, parameter in model.named_parameters():
        if f".{_EARLIER}." in name:
            parameter.requires_grad_(False)


def _inject(model: Any, rank: int, alpha: int, name: str) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=_TARGETS)
    with warnings.catch_warnings():
        # A second adapter is intended.
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        inject_adapter_in_model(config, model, adapter_name=name)
    for layer in _adapted(model).values():
        layer.set_adapter(list(layer.lora_A))


def _adapted(model: Any) -> dict[str, Any]:
    """PEFT's layers by name."""
    layers: dict[str, Any] = {}
    for name, module in model.named_modules():
        found = re.search(rf"{_LINEAR}$", name)
        if found and hasattr(module, "lora_A"):
            layers[found[0]] = module
    return layers


def adapter_of(model: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """All adapters of a model as one, on the CPU; empty if it has none."""
    merged: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in _adapted(model).items():
        # Concatenated along the rank: the product of the two is the sum of the adapters.
        a = [layer.lora_A[one].weight.detach() for one in layer.lora_A]
        b = [layer.lora_B[one].weight.detach() * layer.scaling[one] for one in layer.lora_A]
        merged[name] = (torch.cat(a).float().cpu(), torch.cat(b, 1).float().cpu())
    return merged


# ------------------------------------------------------------------ in a folder


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Write a model folder's `adapter/`, which PEFT and vLLM can load."""
    at = folder / ADAPTER
    at.mkdir(exist_ok=True)
    rank = len(next(iter(adapter.values()))[0])
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": _TARGETS,
        "bias": "none",
    }
    (at / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors: dict[str, Tensor] = {}
    for layer, pair in adapter.items():
        for side, weight in zip("AB", pair, strict=True):
            tensors[f"base_model.model.model.language_model.{layer}.lora_{side}.weight"] = (
                weight.float().contiguous()
            )
    save_file(tensors, at / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def read_adapter(at: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Read a LoRA adapter in PEFT's format.

    Args:
        at: Its folder.

    Raises:
        UserError: It is damaged, or changes more than the language model's linear layers.
    """
    try:
        config = json.loads(read_text(at / ADAPTER_CONFIG))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        tensors = load_file(at / ADAPTER_WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise UserError(
            f"the adapter {at} cannot be read ({error!r}): copy the checkpoint again"
        ) from error
    odd = [
        key
        for key in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern")
        if config.get(key)
    ]
    if odd or not alpha or not tensors:
        if odd:
            why = f"{odd[0]}={config[odd[0]]}"
        else:
            why = f"lora_alpha={alpha:g}" if tensors else "no weights"
        raise UserError(
            f"the adapter {at} cannot be merged here ({why}): merge it with PEFT, then give the"
            " result"
        )
    scaling = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    sides: dict[str, dict[str, Tensor]] = {}
    for name, weight in tensors.items():
        found = re.search(rf"({_LINEAR})\.lora_([AB])(?:\.\w+)?\.weight$", name)
        if not found or "visual" in name:
            raise UserError(
                f"the adapter {at} changes {name}: only those of the language model's linear layers"
                " can be merged here"
            )
        sides.setdefault(found[1], {})[found[2]] = weight.float()
    if broken := [layer for layer, pair in sides.items() if set(pair) != {"A", "B"}]:
        raise UserError(f"the adapter {at} lacks half of {broken[0]}: copy the checkpoint again")
    return {layer: (pair["A"], pair["B"] * scaling) for layer, pair in sides.items()}


def taken_out(slices: Mapping[str, Any], adapter: Adapter, dtype: torch.dtype) -> dict[str, Any]:
    """Weights without an adapter that was merged into them, in the type used for computing.

    Args:
        slices: Of the merged weights, by name.
        adapter: The adapter.
        dtype: Of what is returned for the layers that it adapts; the others are unchanged.
    """
    return {
        name: added(name, slice_[:], adapter, -1).to(dtype) if layer_of(name) in adapter else slice_
        for name, slice_ in slices.items()
    }


def write_without_adapter(folder: Path, out: Path, dtype: torch.dtype) -> None:
    """Write the model that a folder's adapter belongs to, for tools that apply adapters."""
    _rewrite(folder, out, read_adapter(folder / ADAPTER), -1, dtype)


def merge_adapter(folder: Path, at: Path, out: Path) -> None:
    """Write a checkpoint of a model and its adapter, as this module's docstring describes.

    Args:
        folder: The model without the adapter.
        at: The adapter, in PEFT's format.
        out: Gets the checkpoint.

    Raises:
        UserError: The adapter cannot be read, or does not belong to this model.
    """
    adapter = read_adapter(at)
    if has_adapter(folder):
        raise UserError(
            f"{folder} keeps an adapter already, to which {at} cannot be added: merge it with PEFT,"
            " in fp32"
        )
    _rewrite(folder, out, adapter, 1, torch.float32)
    write_adapter(out, adapter)


def _rewrite(folder: Path, out: Path, adapter: Adapter, sign: int, dtype: torch.dtype) -> None:
    """Copy a model with an adapter added or taken out, file by file."""
    out.mkdir(parents=True, exist_ok=True)
    weights = find_weights(folder)
    check_adapter(adapter, weights.shapes, folder)
    with weights.opened() as slices:
        for path in sorted({path for path, _ in weights.places.values()}):
            part: dict[str, Tensor] = {}
            for name, (at, _) in weights.places.items():
                if at == path:
                    part[name] = added(name, slices[name][:], adapter, sign).to(dtype).contiguous()
            save_file(part, out / path.name, metadata={"format": "pt"})
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".jinja", ".txt"} and not file.name.endswith(".index.json"):
            shutil.copyfile(file, out / file.name)
    index = {
        "metadata": {},
        "weight_map": {name: path.name for name, (path, _) in weights.places.items()},
    }
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    name_dtype(out / "config.json", dtype)


def name_dtype(path: Path, dtype: torch.dtype) -> None:
    """Write the weights' type into a config and its parts."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config"), config.get("vision_config")):
        if part is not None:
            part.pop("torch_dtype", None)
            part["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
