"""The parts of a vision-language model: tower, merger and language model; freezing them.

The tower is the vision encoder, the merger what brings its features to the language model
(DeepStack's mergers among them, LLaVA's projector), and the language model all the rest, embeddings
and head included. Which part a weight belongs to follows from its name. `swap.py` exchanges them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

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
