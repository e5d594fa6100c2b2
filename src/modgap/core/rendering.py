"""Draw words into an image, as the views `rendered-text` show a problem's conditions.

Black on white, below the diagram, in lines that are broken at spaces. A character that the font
lacks is refused: the box that is drawn in its place would look like a condition that nobody can
read.
"""

from __future__ import annotations

from functools import cache

from PIL import Image as images
from PIL import ImageDraw, ImageFont
from PIL.Image import Image

from modgap.core.errors import UserError
from modgap.core.view import Rendering

LEAST_WIDTH = 448
"""Of the image, in pixels: narrower diagrams get white space at their right."""
_MARGIN = 0.6
"""Around the words, in line heights."""
_LINE = 1.35
"""Distance of two lines, in letter heights."""
_ABSENT = "\U0010fffd"
"""A character that no font has."""
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def with_words(words: str, rendering: Rendering, diagram: Image | None = None) -> Image:
    """The diagram with words below it, RGB.

    Args:
        words: What to draw; with nothing to draw the diagram stays as it is.
        rendering: Size and font.
        diagram: RGB; without one there are only the words.

    Raises:
        UserError: The font cannot be read, or lacks a character of the words; or there is neither
            a word nor a diagram.
    """
    if not words.strip():
        if diagram is None:
            raise UserError("there is neither a diagram nor a condition to show.")
        return diagram
    font = _font(rendering)
    check_characters(words, rendering)
    width = max(LEAST_WIDTH, diagram.width if diagram else 0)
    step = round(rendering.size * _LINE)
    margin = round(step * _MARGIN)
    lines = _broken(words, font, width - 2 * margin)
    top = diagram.height if diagram else 0
    image = images.new("RGB", (width, top + 2 * margin + step * len(lines)), "white")
    if diagram is not None:
        image.paste(diagram, (0, 0))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((margin, top + margin + step * number), line, fill="black", font=font)
    return image


def check_characters(words: str, rendering: Rendering) -> None:
    """Refuse characters that the font lacks.

    Raises:
        UserError: The message names them.
    """
    absent = [
        character
        for character in dict.fromkeys(words)
        if not character.isspace() and not _has(character, rendering)
    ]
    if absent:
        named = rendering.font or "Pillow's own font"
        raise UserError(
            f"{named} has no {', '.join(map(repr, absent[:5]))}: give a font that has, as"
            " rendered-text-SIZE:path/to/font.ttf."
        )


@cache
def _has(character: str, rendering: Rendering) -> bool:
    """Whether a font has a character: what it lacks is drawn as an unknown one is."""
    font = _font(Rendering(32, rendering.font))
    return _drawn(font, character) != _drawn(font, _ABSENT)


def _drawn(font: _Font, character: str) -> tuple[float, bytes]:
    image = images.new("L", (128, 128))
    ImageDraw.Draw(image).text((32, 32), character, fill=255, font=font)
    return font.getlength(character), image.tobytes()


@cache
def _font(rendering: Rendering) -> _Font:
    if rendering.font is None:
        return ImageFont.load_default(rendering.size)
    try:
        return ImageFont.truetype(str(rendering.font), rendering.size)
    except OSError as error:
        raise UserError(
            f"the font {rendering.font} cannot be read ({error}): give a .ttf or .otf file."
        ) from None


def _broken(words: str, font: _Font, width: int) -> list[str]:
    """The words in lines of at most a width, in pixels; a word that is wider is cut in pieces."""
    lines: list[str] = []
    for paragraph in words.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            line = word
            while font.getlength(line) > width and len(line) > 1:
                kept = next(
                    n for n in range(len(line) - 1, 0, -1)
                    if n == 1 or font.getlength(line[:n]) <= width
                )  # fmt: skip
                lines.append(line[:kept])
                line = line[kept:]
        lines.append(line)
    return lines
