"""Decode an image file to the pixels that a model sees: upright, opaque, 8-bit RGB.

* EXIF orientation is applied, as browsers and viewers apply it.
* Transparent pixels (an alpha channel, a palette with alpha, a colour key) are put on white.
  Pillow's `convert("RGB")` drops the alpha, which turns most transparent drawings black on black.
* Grey values of 16 or 32 bits and floating-point values keep their contrast, see `_scaled`. Pillow
  cuts them at 255.
* Of several frames the first one is taken.

Evaluation, training, parquet files, reports and replicas all use this module. The original calls
`convert("RGB")`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import os
import re
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageOps, UnidentifiedImageError
from PIL import Image as images
from PIL.Image import Image

from modgap.core.errors import UserError
from modgap.core.files import MOST_IMAGE_BYTES, read_bytes

MOST_ASPECT = 200
"""The largest ratio of the longer to the shorter side.

The image processors of Qwen's models refuse images beyond it.
"""
CONVERTED = "+converted"
"""Appended to the digest of an image that is not plain: older releases decoded it differently."""

TRANSPARENT, INVISIBLE, ROTATED = "image-transparent", "image-invisible", "image-rotated"
DEEP, FRAMES, SHAPE = "image-depth", "image-frames", "image-shape"

LIMIT = "MODGAP_MAX_MEGAPIXELS"
"""The environment variable with the most megapixels of an image that is decoded.

It is a variable, and no option, so that every process that decodes has the same limit: replicas,
workers of verl, the children of a study.
"""
_MOST_MEGAPIXELS = 50.0
# Formats that Pillow decodes itself, whose header has the size of what is decoded. An icon holds
# images of other sizes; EPS runs Ghostscript.
_FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "TGA", "DIB", "PCX",
    "SGI", "PSD", "QOI",
    *(["AVIF"] if importlib.util.find_spec("PIL.AvifImagePlugin") else []),  # Pillow 11.3
)  # fmt: skip

_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_BITS = (1, 2, 4, 8, 10, 12, 14, 15, 16)  # 15: of signed ones
_FULL = (1.0, 255.0, 65535.0)
_OVERSHOOT = 0.05
_PNG_END, _JPEG_END = b"IEND\xaeB`\x82", b"\xff\xd9"
# PNG stores a colour key at the depth of the file; Pillow scales the pixels to 8 bits and leaves
# the key as it is.
_KEY_FACTORS = {"L;2": 85, "L;4": 17}
_PHOTOMETRIC, _SAMPLE_FORMAT, _UNSIGNED = 262, 339, 1  # tags of TIFF

# `opened` has a limit of its own. (Ignoring the warning only temporarily is not safe in threads.)
warnings.filterwarnings("ignore", category=images.DecompressionBombWarning)
# `_orientation` does without broken EXIF data.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)
# `is_plain` checks what would be lost.
warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)


class TooLargeError(UserError):
    """An image has more pixels than are decoded."""


def decode(data: bytes) -> Image:
    """The pixels of an encoded image as a model sees them, RGB.

    Raises whatever Pillow raises, see `reason`.
    """
    with opened(data) as image:
        return to_rgb(image)


def to_rgb(image: Image) -> Image:
    """An image as a model sees it: a new RGB image; of such an image a copy."""
    image.load()
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP_MODES:
        return _eight_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = images.new("RGBA", image.size, "white")
    white.alpha_composite(_rgba(image))
    return white.convert("RGB")


def plain_bytes(data: bytes) -> bytes:
    """An encoded image that every decoder shows as `decode` does.

    The same bytes if that is so already, else a PNG. What Pillow does not recognise is returned as
    it is.

    Raises:
        Exception: It must be converted and cannot be decoded, see `reason`.
    """
    try:
        with opened(data) as image:
            if not any(_kinds(image)):
                return data
            shown = to_rgb(image)
    except UnidentifiedImageError:
        return data
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return buffer.getvalue()


def content_digest(data: bytes, size: int) -> str:
    """The digest of an encoded image, of `size` bytes; of one that is not plain it says so."""
    digest = hashlib.blake2b(data, digest_size=size).hexdigest()
    return digest if is_plain(data) else digest + CONVERTED


def is_plain(data: bytes) -> bool:
    """Whether Pillow's `convert("RGB")` alone gives the pixels that `decode` gives.

    True for an image that cannot be decoded.
    """
    try:
        with opened(data) as image:
            changed = set(_kinds(image)) - {FRAMES}
            return not changed or to_rgb(image).tobytes() == image.convert("RGB").tobytes()
    except Exception:  # Pillow raises a dozen kinds
        return True


def reason(error: Exception) -> str:
    """Why an image could not be decoded, in a few words."""
    # The exception's own text names a buffer, which does not help.
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image"
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True, slots=True)
class Inspection:
    """What must be known about an image before it is used.

    Attributes:
        error: Why it cannot be decoded; `None` if it can.
        aspect: Its longer side divided by the shorter one.
        kinds: What is unusual about it: `TRANSPARENT`, `ROTATED` and so on.
    """

    error: str | None = None
    aspect: float = 1.0
    kinds: tuple[str, ...] = ()

    @property
    def unusable(self) -> str | None:
        """Why no model can be shown the image; `None` if it can be."""
        if self.error is None and self.aspect > MOST_ASPECT:
            return (
                f"has an aspect ratio of {self.aspect:.1f}, and image processors refuse more than"
                f" {MOST_ASPECT}"
            )
        return self.error


def inspect(place: Path | bytes, thorough: bool = False) -> Inspection:
    """Look at an image.

    Args:
        place: A file, or encoded bytes.
        thorough: Decode every image. Otherwise a PNG or JPEG file with a complete end is only
            opened, which takes a fiftieth of the time: a truncated file is found, broken pixels are
            not.
    """
    most_pixels()  # a bad setting is an error of its own, not the image's
    try:
        data = place if isinstance(place, bytes) else read_bytes(place, MOST_IMAGE_BYTES)
        if not data:
            return Inspection("is empty")
        with opened(data) as image:
            return _inspected(image, data, thorough)
    except UnidentifiedImageError:
        return Inspection("cannot be read as an image")
    except UserError as error:
        return Inspection(str(error))
    # Pillow raises a dozen kinds on a broken file: OSError, SyntaxError, struct.error ...
    except Exception as error:
        return Inspection(f"cannot be decoded ({reason(error)})")


def inspect_all(found: Iterable[Path | bytes], thorough: bool = False) -> Iterator[Inspection]:
    """`inspect` each, in order, in threads (Pillow releases the interpreter's lock).

    Few images are held at once.
    """
    found = iter(found)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while batch := list(islice(found, 64)):
            # Eight a task: handing out a task takes as long as looking at an ordinary image.
            parts = [batch[start : start + 8] for start in range(0, len(batch), 8)]
            for inspections in pool.map(partial(_inspect_each, thorough=thorough), parts):
                yield from inspections


def _inspect_each(part: Sequence[Path | bytes], thorough: bool) -> list[Inspection]:
    return [inspect(image, thorough) for image in part]


def _inspected(image: Image, data: bytes, thorough: bool) -> Inspection:
    width, height = image.size
    kinds = list(_kinds(image))
    aspect = max(width, height) / min(width, height)
    if aspect > MOST_ASPECT:
        kinds.append(SHAPE)
    if thorough or TRANSPARENT in kinds or not _is_whole(image, data):
        shown = to_rgb(image)
        if TRANSPARENT in kinds and _is_one_colour(shown):
            kinds.append(INVISIBLE)
    return Inspection(None, aspect, tuple(kinds))


def _is_whole(image: Image, data: bytes) -> bool:
    """Whether a file has its end; `False` where the format does not show it."""
    if image.format == "PNG":
        return _PNG_END in data  # what comes after it means nothing
    return image.format in ("JPEG", "MPO") and data.endswith(_JPEG_END)


def _is_one_colour(image: Image) -> bool:
    lows_and_highs: Any = image.getextrema()
    return all(low == high for low, high in lows_and_highs)


@contextmanager
def opened(data: bytes) -> Generator[Image]:
    """Open an image, with everything read that decides its appearance.

    For almost all images the header is enough.

    Raises:
        TooLargeError: It has too many pixels; nothing was decoded.
    """
    most = most_pixels()
    if images.MAX_IMAGE_PIXELS is not None and most > images.MAX_IMAGE_PIXELS:
        images.MAX_IMAGE_PIXELS = most  # else Pillow refuses what the user has allowed
    try:
        file = images.open(io.BytesIO(data), formats=_FORMATS)
    except images.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        _check_pixels(int(found[1]) if found else most + 1, most)
        raise
    with file as image:
        _check_pixels(image.width * image.height, most)
        if image.format == "PNG":
            _scale_colour_key(image)
            if b"eXIf" in data:
                image.load()  # the chunk may come after the pixels
        yield image


def most_pixels() -> int:
    """The most pixels of an image that is decoded.

    Raises:
        UserError: The variable's value is not a positive number.
    """
    text = os.environ.get(LIMIT, "").strip()
    try:
        megapixels = float(text) if text else _MOST_MEGAPIXELS
        if not 0 < megapixels < 1e6:
            raise ValueError
    except ValueError:
        raise UserError(
            f"{LIMIT}={text!r}: give a number of megapixels, such as {_MOST_MEGAPIXELS:g}."
        ) from None
    return int(megapixels * 1e6)


def _check_pixels(pixels: int, most: int) -> None:
    if pixels > most:
        raise TooLargeError(
            f"has {pixels / 1e6:,.1f} megapixels, and at most {most / 1e6:g} are decoded: make it"
            f" smaller, or export {LIMIT}={math.ceil(pixels / 1e6)}"
        )


def _scale_colour_key(image: Any) -> None:
    key: Any = image.info.get("transparency")
    stored = str(image.tile[0][3]) if image.tile else ""
    if isinstance(key, int) and stored in _KEY_FACTORS:
        image.info["transparency"] = key * _KEY_FACTORS[stored]
    elif isinstance(key, tuple) and stored == "RGB;16B":
        red, green, blue = cast("tuple[int, int, int]", key)
        image.info["transparency"] = (red >> 8, green >> 8, blue >> 8)


def _kinds(image: Image) -> Iterator[str]:
    """The properties that other decoders may show differently from `to_rgb`."""
    if _orientation(image) != 1:
        yield ROTATED
    if image.mode in _DEEP_MODES:
        yield DEEP
    # MPO is a photo and its preview, not an animation.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        yield FRAMES
    if image.has_transparency_data and _is_transparent(image):
        yield TRANSPARENT


def _orientation(image: Image) -> int:
    """The EXIF orientation, 1 to 8."""
    try:
        # Not PNG's own method, which decodes the pixels to find the tag: `opened` has done so
        # where needed.
        found = Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken metadata, which nothing else depends on
        return 1
    return found if found in range(1, 9) else 1


def _rgba(image: Image) -> Image:
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")


def _is_transparent(image: Image) -> bool:
    if image.mode in _DEEP_MODES:
        return bool((np.asarray(image) == image.info["transparency"]).any())
    low_and_high: Any = _rgba(image).getchannel("A").getextrema()
    return bool(low_and_high[0] < 255)


def _eight_bits(image: Image) -> Image:
    """A grey image of more than 8 bits, or of floating-point values, with 8 bits."""
    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(_SAMPLE_FORMAT, (0,))[0] == _UNSIGNED:
        values = values.view(np.uint32)  # Pillow has signed integers only
    grey = _scaled(values)
    if tags.get(_PHOTOMETRIC) == 0:
        grey = 255 - grey  # in this file 0 is white, which Pillow applies only up to 8 bits
    if isinstance(key := image.info.get("transparency"), int):
        grey = np.where(values == key, np.uint8(255), grey)
    return images.fromarray(grey)


def _scaled(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values as 0 to 255.

    Integers are scaled by the smallest usual depth (`_BITS`) that holds the largest of them: a file
    of 16 bits may hold the values of a camera of 12 or of an ordinary image of 8. Floating-point
    values are scaled by 1, 255 or 65535, whichever is near the largest. All others (negative ones,
    larger ones) are stretched from the smallest to the largest. NaN is white.
    """
    numbers = values.astype(np.float64)
    finite = np.isfinite(numbers)
    if not finite.any():
        return np.full(numbers.shape, 255, np.uint8)
    low, high = float(numbers[finite].min()), float(numbers[finite].max())
    find_full = _full_of_floats if values.dtype.kind == "f" else _full_of_integers
    full = find_full(low, high)
    if full is None and low < high:
        numbers, full = numbers - low, high - low
    elif full is None:
        full = abs(high) or 1.0  # of one value: white, or black where it is not above zero
    numbers = np.nan_to_num(numbers, nan=full, posinf=full, neginf=0.0)
    return np.clip(np.rint(numbers * (255 / full)), 0, 255).astype(np.uint8)


def _full_of_floats(low: float, high: float) -> float | None:
    """The white value near the largest value; `None` where there is no such value."""
    for full in _FULL:
        near = full / 2 < high <= full * (1 + _OVERSHOOT)
        if near and low >= -full * _OVERSHOOT:
            return full
    return None


def _full_of_integers(low: float, high: float) -> float | None:
    """The white value of the smallest usual depth that holds the values; `None` if none does."""
    if low < 0:
        return None
    for bits in _BITS:
        if high < 2**bits:
            return float(2**bits - 1)
    return None
