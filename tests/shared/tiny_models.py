"""What the tests of models ask: a corpus, a small size and a picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

from modgap.core.prompt import INSTRUCTION

CORPUS = [
    f"In this problem, AB = {n}, m \\angle CAB = {n + 20}, B is on line AC.\n"
    f"Based on these conditions, answer the question: Find the length of AC.\n{INSTRUCTION}"
    for n in range(40)
]


TEXT = CORPUS[7]


def picture(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    )
