"""A model with some parts (`parts.py`) of another checkpoint: which of them carries a change?"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import torch

from modgap.core.errors import UserError, unknown
from modgap.core.places import check_writable
from modgap.core.recipe import PARTS
from modgap.models.load import load_policy
from modgap.models.parts import part_of


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
