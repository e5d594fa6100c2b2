"""Names to things: one table each of recipes, data sets and engines, as `module:object`, imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from modgap.core.errors import UserError, unknown

RECIPES: dict[str, str] = {
    "full-text": "modgap.recipes.paper:full_text",
    "no-text": "modgap.recipes.paper:no_text",
    "mix": "modgap.recipes.paper:mix",
    "curriculum": "modgap.recipes.paper:curriculum",
    "kl": "modgap.recipes.paper:kl",
    "kl-curriculum": "modgap.recipes.paper:kl_curriculum",
    "kl-forward": "modgap.recipes.kl_variants:kl_forward",
    "kl-full-vocab": "modgap.recipes.kl_variants:kl_full_vocab",
    "kl-unclamped": "modgap.recipes.kl_variants:kl_unclamped",
    "kl-strong": "modgap.recipes.kl_variants:kl_strong",
    "kl-forward-strong": "modgap.recipes.kl_variants:kl_forward_strong",
    "full-text-continued": "modgap.recipes.kl_variants:full_text_continued",
}
DATASETS: dict[str, str] = {
    "pgps9k": "modgap.datasets.pgps9k:read",
    "synthetic": "modgap.datasets.pgps9k:read",  # the generator writes the same layout
    "pairs": "modgap.datasets.pairs:read",
    "mathverse": "modgap.datasets.mathverse:read",
}
INFERENCE_ENGINES: dict[str, str] = {
    "hf": "modgap.engines.hf:HfEngine",
    "vllm": "modgap.engines.vllm:VllmEngine",
    "openai": "modgap.engines.openai:OpenAIEngine",
}
TRAINING_ENGINES: dict[str, str] = {
    "local": "modgap.training.local:train",
    "verl": "modgap.training.verl.engine:train",
}

# Module to the extra that brings it, for a message when it is missing.
_EXTRAS = {"vllm": "vllm", "verl": "verl", "openai": "openai", "ray": "ray", "modelscope": "modelscope"}


def load(path: str) -> Any:
    """The object at `module:object`.

    Raises:
        UserError: The module needs a package that is not installed (the message names the extra), or does not exist.
    """
    module_name, sign, name = path.partition(":")
    if not sign or not module_name or not name:
        raise UserError(f"{path!r} names no object: write it as module:object.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _EXTRAS:
            raise UserError(f"{missing} is not installed: pip install 'modgap[{_EXTRAS[missing]}]'.") from error
        raise UserError(f"cannot import {path!r}: no module named {error.name!r}.") from error
    # Outside of the handler: an AttributeError while a user's module is imported is that module's bug, and tells where.
    if not hasattr(module, name):
        raise UserError(f"cannot import {path!r}: {module_name} has no {name!r}.")
    return getattr(module, name)


def find(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """The object that a table has under a name.

    Raises:
        UserError: There is no such name; the message lists the names.
    """
    if name not in table:
        raise unknown(kind, name, table)
    return load(table[name])
