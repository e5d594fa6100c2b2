"""Reads the weights of a folder that was checked into a model of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from modgap.core.errors import UserError, part
from modgap.models import lora
from modgap.models.folder import ADAPTER, has_adapter, quiet
from modgap.models.weights import Weights, config_and_class, damaged, refuse_misfits


def load_weights(
    weights: Weights,
    device: torch.device,
    dtype: str | torch.dtype | None = None,
    attn: str | None = None,
    beside: bool = False,
) -> Any:
    """The model of a folder that was checked.

    Args:
        weights: Its weights.
        device: Where.
        dtype: What they are cast to; fp32 on a CPU and bf16 on a GPU by default.
        attn: Attention of transformers, which chooses it by default.
        beside: Apply the folder's adapter beside the weights in fp32, too, because another one
            will be trained.

    Raises:
        UserError: The weights are damaged, do not fit the model or are not finite.
    """
    from safetensors import SafetensorError
    from transformers import GenerationConfig

    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if isinstance(dtype, str) and not isinstance(kind, torch.dtype):
        raise UserError(f"unknown dtype {dtype!r}: choose from float32, bfloat16, float16")
    if kind is None:
        kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    folder, adapter = weights.folder, {}
    config, model_class = config_and_class(folder)
    if getattr(config, "quantization_config", None):
        return _load_quantized(folder, model_class, device)
    if has_adapter(folder) and (beside or kind != torch.float32):
        adapter = lora.read_adapter(folder / ADAPTER)
    try:
        with quiet(warnings=True), weights.opened() as slices:
            loaded: Any = model_class.from_pretrained(
                None,
                config=config,
                state_dict=lora.taken_out(slices, adapter, kind),
                dtype=kind,
                attn_implementation=attn,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise damaged(folder, error) from error
    model, report = loaded
    refuse_misfits(folder, report, len(model.state_dict()))
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    if adapter:
        lora.apply(model, adapter)
    model = model.to(device)
    _check_finite(model, folder)
    return model


def _load_quantized(folder: Path, model_class: Any, device: torch.device) -> Any:
    """A quantized model, as the library of its method reads it. Raises `UserError`."""
    try:
        with quiet(warnings=True):
            loaded: Any = model_class.from_pretrained(
                folder, device_map={"": str(device)}, dtype="auto", local_files_only=True,
                output_loading_info=True,
            )  # fmt: skip
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"the quantized weights in {folder} cannot be read here ({part(error)[:250]}): install"
            " the library of the method or use a device that it takes, or give the unquantized"
            " model."
        ) from error
    if missing := loaded[1]["missing_keys"]:
        raise UserError(
            f"{folder} lacks {len(missing)} of the weights of its model ({min(missing)}): copy the"
            " model again"
        )
    return loaded[0]


def _check_finite(model: Any, folder: Path) -> None:
    """Refuse a model that can only give NaN. Raises `UserError`."""
    if broken := [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]:
        raise UserError(
            f"{len(broken)} of the weights in {folder} hold NaN or infinity as {model.dtype}"
            f" ({broken[0]}), so that the model gives NaN: copy the model again, or take the last"
            " checkpoint before it broke"
        )
