"""A data set of your own in one file: rectangles whose area is asked for.

modgap eval --benchmark examples/dataset.py:read --data DIR --model tiny --out runs/rectangles

`--data` is any path that the function understands; here it is a folder for the diagrams.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

from modgap import Problem


def read(path: Path, split: str = "test", limit: int | None = None) -> Iterator[Problem]:
    """Yield problems; all views of a problem come from this one object.

    Args:
        path: Folder for the diagrams.
        split: `train` or `test`; the two share no rectangle.
        limit: Only this number of problems.
    """
    path.mkdir(parents=True, exist_ok=True)
    widths = range(3, 9) if split == "train" else range(9, 13)
    for index, width in enumerate(widths):
        if index == limit:
            return
        file = path / f"{split}_{index}.png"
        _draw(file, width, 5)
        yield Problem(
            id=f"{split}-{index}",
            question="Find the area of rectangle ABCD.",
            answer=str(width * 5),
            image=file,
            # What the image-only view leaves out of the text; the diagram shows it.
            semantic=(f"AB = {width}", "BC = 5"),
            type="rectangle",
            split=split,
            index=index,
        )


def _draw(file: Path, width: int, height: int) -> None:
    image = Image.new("RGB", (224, 224), "white")
    draw = ImageDraw.Draw(image)
    right, bottom = 30 + 13 * width, 40 + 13 * height
    draw.rectangle((30, 40, right, bottom), outline="black", width=2)
    corners = {"A": (18, 26), "B": (right + 4, 26), "C": (right + 4, bottom), "D": (18, bottom)}
    for name, place in corners.items():
        draw.text(place, name, fill="black")
    draw.text(((30 + right) // 2, 24), str(width), fill="black")
    draw.text((right + 6, (40 + bottom) // 2), str(height), fill="black")
    image.save(file)
