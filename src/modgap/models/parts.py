"""The parts of a vision-language model: tower, merger and language model; freezing and swapping.

The tower is the vision encoder, the merger what brings its features to the language model
(DeepStack's mergers among them, LLaVA's projector), and the language model all the rest, embeddings
and head included. Which part a weight belongs to follows from its name.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError, unknown
from modgap.core.recipe import PARTS
from modgap.core.record import check_writable

_MERGER = re.compile(r"(?:^|\.)(?:multi_modal_projector|visual\.(?:deepstack_)?merger(?:_list)?)\.")
_TOWER = re.compile(r"(?:^|\.)(?:visual|vision_tower)\.")


def part_of(name: str) -> str:
    """The part that a weight belongs to.

    Args:
        name: Of the parameter, with or without the prefixes of releases and wrappers.
    """
    if _MERGER.search(name):
        return "merger"
    return "tower" if _TOWER.search(name) else "language"


def freeze(model: Any, parts: Collection[str]) -> None:
    """Take parts out of training: their weights get no gradient."""
    for name, parameter in model.named_parameters():
        if part_of(name) in parts:
            parameter.requires_grad_(False)


def swap(base: str | Path, other: str | Path, parts: Collection[str], out: Path) -> Path:
    """Write a model that has some parts of another one, in fp32.

    Args:
        base: The model whose other parts, tokenizer and processor are kept.
        other: A model of the same shape, such as a checkpoint trained from `base`.
        parts: What to take from `other`: tower, merger, language.
        out: The folder to write; it must not exist, or be empty.

    Returns:
        `out`.

    Raises:
        UserError: A part is unknown, the models differ in shape, or `out` cannot be written.
    """
    import torch

    from modgap.models.load import load_policy

    for part in parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    if not parts:
        raise UserError(f"--parts '': give some of {', '.join(PARTS)}.")
    check_writable(out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out {out} holds files: give a new folder.")
    kept, taken = (load_policy(model, "cpu", "float32") for model in (base, other))
    given = dict(taken.model.named_parameters())
    own = dict(kept.model.named_parameters())
    if different := [
        name
        for name in own.keys() | given.keys()
        if name not in own or name not in given or own[name].shape != given[name].shape
    ]:
        raise UserError(
            f"{base} and {other} differ in shape ({min(different)} for one): give two checkpoints"
            " of one model."
        )
    with torch.no_grad():
        for name, parameter in own.items():
            if part_of(name) in parts:
                parameter.copy_(given[name])
    # Whole or not at all.
    partial = out.with_name(f".{out.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    kept.save(partial, torch.float32)
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return out
