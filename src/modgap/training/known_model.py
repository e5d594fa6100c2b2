"""What is known of a model before it is loaded: for plans, and for verl, which loads it itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.files import read_text
from modgap.core.json_files import read_json
from modgap.models.folder import BUNDLED, image_processor
from modgap.training.shape import SHAPED, SHAPES, DeepShape, Shape, shape_of

_OPENS = re.compile(r"assistant(?:\\+n)+<think>")


@dataclass(frozen=True, slots=True)
class Model:
    """The model of a stage, as far as it is known without loading it.

    Attributes:
        path: A folder or a Hugging Face id.
        shape: Its sizes; none for a model that would have to be downloaded, or of a family without
            an estimate.
        min_pixels: The smallest image that its processor makes.
        max_pixels: The largest.
    """

    path: str
    shape: Shape | None = None
    min_pixels: int = 56 * 56
    max_pixels: int = 12845056

    @property
    def side(self) -> int:
        """Pixels of an image token's side."""
        return 28 if self.shape is None else self.shape.patch * self.shape.merge

    def image_tokens(self, pixels: int) -> int:
        """Tokens of an image with the given number of pixels."""
        return pixels // self.side**2


def known_model(name: str, engine: str = "local") -> Model:
    """What is known of a model without a download: its path, shape and pixel limits.

    Args:
        name: The model.
        engine: What is to train it.

    Raises:
        UserError: It is no model, or one that the engine does not train.
    """
    from modgap.models.load import ALIASES, check_files, check_name, check_type, tiny_folder

    folder = tiny_folder(name) if name in BUNDLED else Path(name)
    if not (folder / "config.json").is_file():
        if folder.is_dir():
            check_files(folder)  # says what is missing
        name = ALIASES.get(name, name)
        check_name(name)
        return Model(name, SHAPES.get(name.removeprefix("modelscope:")))
    size: dict[str, Any] = {}
    if processor := image_processor(folder):
        least, most = processor.get("min_pixels"), processor.get("max_pixels")
        size = processor.get("size") or {"shortest_edge": least, "longest_edge": most}
        size = {
            "min_pixels": size.get("shortest_edge") or 56 * 56,
            "max_pixels": size.get("longest_edge") or 12845056,
        }
    config = read_json(folder / "config.json", "copy the model again")
    check_type(name, config.get("model_type"), engine)
    try:
        shape = shape_of(config) if config.get("model_type") in SHAPED else None
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / 'config.json'} does not describe a model that can be trained ({error!r}):"
            " copy the model again."
        ) from None
    if isinstance(shape, DeepShape) and engine == "local" and _opens_thinking(folder):
        shape = replace(shape, shared=False)
    return Model(str(folder.absolute()), shape, **size)


def _opens_thinking(folder: Path) -> bool:
    """Whether a chat template opens each answer with `<think>`: then the plain path trains it."""
    files = (folder / name for name in ("chat_template.jinja", "chat_template.json"))
    return any(file.is_file() and _OPENS.search(read_text(file)) for file in files)
