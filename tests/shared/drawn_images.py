"""One drawing in every kind of file: transparent, turned, of 16 bits."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from asking import evaluate
from folders import png
from PIL import Image, ImageDraw

from modgap.core.engine import Sampling
from modgap.core.problem import Problem
from modgap.core.record import RunFolder
from modgap.engines.hf import HfEngine
from modgap.models.policy import Policy

SIZE = (60, 40)


def drawing() -> Image.Image:
    """Black lines and a grey one on white, in no way symmetric."""
    image = Image.new("L", SIZE, 255)
    pen = ImageDraw.Draw(image)
    pen.line((5, 5, 50, 30), fill=0, width=3)
    pen.rectangle((30, 5, 55, 12), outline=0)
    return image


WHITE = np.asarray(drawing().convert("RGB")).astype(int)
INK = np.asarray(drawing()) < 128  # where the pen was


def encoded(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def grey(values: Any, dtype: Any) -> Image.Image:
    return Image.fromarray(np.asarray(values).astype(dtype))


def see_through(mode: str) -> Image.Image:
    """Black ink on nothing, of which the hidden colour is black, too."""
    image = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    image.putalpha(grey(np.where(INK, 255, 0), np.uint8))
    return image.convert(mode)


def palette() -> Image.Image:
    """Two entries, both black."""
    image = grey(np.where(INK, 1, 0), np.uint8).convert("P")
    image.putdata(np.where(INK, 1, 0).flatten().tolist())
    image.putpalette([0, 0, 0] * 256)
    return image


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(values: Any, depth: int, colour: int, key: bytes = b"", behind: bytes = b"") -> bytes:
    """A PNG of any depth, `[rows, samples]`; Pillow writes only some."""
    rows = b""
    for row in np.asarray(values):
        if depth == 16:
            rows += b"\0" + row.astype(">u2").tobytes()
        else:
            bits = "".join(f"{value:0{depth}b}" for value in row)
            rows += b"\0" + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(
                -(-len(bits) // 8), "big"
            )
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *SIZE, depth, colour, 0, 0, 0))
    head += chunk(b"tRNS", key) if key else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress(rows))
        + behind
        + chunk(b"IEND", b"")
    )


def keyed(depth: int, hidden: int) -> bytes:
    return raw_png(np.where(INK, 0, hidden), depth, 0, struct.pack(">H", hidden))


def samples(*channels: Any) -> Any:
    """Rows of a PNG whose channels are ink and ground, as pairs."""
    return np.stack([np.where(INK, ink, ground) for ink, ground in channels], -1).reshape(
        SIZE[1], -1
    )


def raw_tiff(values: Any, dtype: str, white: int, kind: int) -> bytes:
    """A TIFF of one channel: `white`, photometric interpretation; `kind`, sample format."""
    array = np.asarray(values).astype(dtype)
    data = array.tobytes()
    short, long = 3, 4
    tags = [
        (256, long, SIZE[0]), (257, long, SIZE[1]), (258, short, array.dtype.itemsize * 8),
        (259, short, 1), (262, short, white), (273, long, 8), (277, short, 1),
        (278, long, SIZE[1]), (279, long, len(data)), (339, short, kind),
    ]  # fmt: skip
    body = struct.pack("<4sI", b"II*\0", 8 + len(data)) + data + struct.pack("<H", len(tags))
    for tag, of, value in tags:
        body += struct.pack("<HHI", tag, of, 1) + struct.pack(
            "<HH" if of == short else "<I", *[value, 0][: 5 - of]
        )
    return body + struct.pack("<I", 0)


VALUES = np.asarray(drawing()).astype(np.int64)
TRANSPARENT: dict[str, Callable[[], bytes]] = {
    "RGBA": lambda: encoded(see_through("RGBA")),
    "RGBA webp": lambda: encoded(see_through("RGBA"), "WEBP", lossless=True),
    "RGBA tiff": lambda: encoded(see_through("RGBA"), "TIFF"),
    "LA": lambda: encoded(see_through("LA")),
    "LA tiff": lambda: encoded(see_through("LA"), "TIFF"),
    "P with an index": lambda: encoded(palette(), transparency=0),
    "P with bytes": lambda: encoded(palette(), transparency=bytes([0, 254])),
    "P gif": lambda: encoded(palette(), "GIF", transparency=0),
    "1 bit with a key": lambda: keyed(1, 1),
    "2 bits with a key": lambda: keyed(2, 2),
    "4 bits with a key": lambda: keyed(4, 9),
    "L with a key": lambda: keyed(8, 77),
    "16 bits with a key": lambda: keyed(16, 30_000),
    "RGB with a key": lambda: encoded(
        grey(np.where(INK, 0, 7), np.uint8).convert("RGB"), transparency=(7, 7, 7)
    ),
    "RGB of 16 bits with a key": lambda: raw_png(
        samples((0, 30_000), (0, 1_000), (0, 255)), 16, 2, struct.pack(">HHH", 30_000, 1_000, 255)
    ),
    "RGBA of 16 bits": lambda: raw_png(samples((0, 0), (0, 0), (0, 0), (65535, 0)), 16, 6),
    "LA of 16 bits": lambda: raw_png(samples((0, 0), (65535, 0)), 16, 4),
}
DEEP: dict[str, Callable[[], bytes]] = {
    "16 bits": lambda: encoded(grey(VALUES * 257, np.uint16)),
    "16 bits, shifted": lambda: encoded(grey(VALUES * 256, np.uint16)),
    "16 bits tiff": lambda: encoded(grey(VALUES * 257, np.uint16), "TIFF"),
    "12 bits in 16": lambda: encoded(grey(VALUES * 16 + 15 * (VALUES > 0), np.uint16)),
    "10 bits in 16": lambda: encoded(grey(VALUES * 1023 // 255, np.uint16)),
    "8 bits in 16": lambda: encoded(grey(VALUES, np.uint16)),
    "1 bit in 16": lambda: encoded(grey(VALUES > 0, np.uint16)),
    "8 bits in 32": lambda: encoded(drawing().convert("I"), "TIFF"),
    "signed 16 bits": lambda: raw_tiff(VALUES * 128, "<i2", 1, 2),
    "32 bits": lambda: raw_tiff(VALUES * 16_843_009, "<u4", 1, 1),
    "16 bits, 0 is white": lambda: raw_tiff((255 - VALUES) * 257, "<u2", 0, 1),
    "float to 1": lambda: encoded(grey(VALUES / 255, np.float32), "TIFF"),
    "float to 255": lambda: encoded(grey(VALUES, np.float32), "TIFF"),
    "float, resampled": lambda: encoded(grey(VALUES / 255 * 1.004 - 0.002, np.float32), "TIFF"),
    "float from -1": lambda: encoded(grey(VALUES / 127.5 - 1, np.float32), "TIFF"),
    "float of any size": lambda: encoded(grey(VALUES * 1e6 + 1e8, np.float32), "TIFF"),
    "float with holes": lambda: encoded(grey(np.where(INK, 0.0, np.nan), np.float32), "TIFF"),
}


TURNS = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip
"""EXIF orientation -> how a file with it stores an upright image."""


def turned(orientation: int, kind: str = "PNG", image: Image.Image | None = None) -> bytes:
    image, turn = image or drawing(), TURNS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return encoded(image if turn is None else image.transpose(turn), kind, exif=exif, **how)


def pixels(image: Image.Image | bytes) -> Any:
    """As any other decoder shows an image."""
    if isinstance(image, bytes):
        image = Image.open(io.BytesIO(image))
    return np.asarray(image.convert("RGB")).astype(int)


def close(shown: Any, wanted: Any = WHITE, tolerance: int = 2) -> bool:
    return shown.shape == wanted.shape and int(abs(shown - wanted).max()) <= tolerance


def problem_of(image: bytes | Path) -> Problem:
    return Problem("p", "Find x.", "7.000", image, semantic=("AB = 7",))


def bands(width: int, height: int) -> bytes:
    return png("white", (width, height))


def answers(
    policy: Policy, problems: list[Problem], out: Path
) -> dict[Any, tuple[str, str | None]]:
    evaluate(
        problems, HfEngine(policy, batch_size=4), out, views="full-text,image-only", samples=1,
        sampling=Sampling(0.7, 24, 3),
    )  # fmt: skip
    return {row.key: (row.response, row.error) for row in RunFolder(out).responses()}
