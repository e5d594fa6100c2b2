"""A recipe in ten lines: `no-text` with smaller steps, then the contrastive stage of `kl`.

modgap train examples/recipe.py:gentle --benchmark synthetic --model tiny --out runs/gentle
"""

from dataclasses import replace

from modgap import Recipe
from modgap.recipes.paper import kl, no_text


def gentle() -> Recipe:
    """First the image at half the learning rate, then the text with the contrastive KL."""
    image = no_text().stages[0]
    image = replace(image, settings=replace(image.settings, lr=5e-7))
    return Recipe("gentle", (image, kl().stages[1]), "image first, then the contrastive KL")
