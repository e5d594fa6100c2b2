"""Images as a model sees them: transparent, turned, of 16 bits; and images that no model can be
shown.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from asking import evaluate
from folders import png, record, write_folder
from PIL import Image, ImageDraw

from modgap.analysis.results import read_summary
from modgap.cli.main import main
from modgap.core.engine import Request, Sampling
from modgap.core.errors import UserError
from modgap.core.images import MOST_ASPECT, decode, inspect, is_plain, plain_bytes, to_rgb
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt
from modgap.core.record import RunFolder
from modgap.core.view import VIEWS, parse_views
from modgap.datasets import pgps9k
from modgap.datasets.parquet import write_parquet
from modgap.datasets.synthetic.write import write_dataset
from modgap.engines.chat import to_messages
from modgap.engines.hf import HfEngine
from modgap.engines.ray import Cluster
from modgap.engines.scripted import ScriptedEngine
from modgap.models.load import load_policy
from modgap.models.policy import Policy
from modgap.recipes.paper import full_text
from modgap.reporting.viewer import _embed
from modgap.training.setup import check_prompts, digest
from modgap.workflows.evaluate import _image, fingerprint, warn_about_images

# pytest puts its own filters in front of those that `core.images` sets.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning"
)
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
ORDINARY: dict[str, Callable[[], bytes]] = {
    "L": lambda: encoded(drawing()),
    "RGB": lambda: encoded(drawing().convert("RGB")),
    "RGB of 16 bits": lambda: raw_png(samples((0, 65535), (0, 65535), (0, 65535)), 16, 2),
    "1": lambda: encoded(drawing().convert("1")),
    "P": lambda: encoded(drawing().convert("P")),
    "gif": lambda: encoded(drawing(), "GIF"),
    "bmp": lambda: encoded(drawing(), "BMP"),
    "jpeg": lambda: encoded(drawing(), "JPEG", quality=100),
    "CMYK": lambda: encoded(drawing().convert("RGB").convert("CMYK"), "JPEG", quality=100),
    "LAB": lambda: encoded(
        Image.merge("LAB", (drawing(), *(2 * [Image.new("L", SIZE, 128)]))), "TIFF"
    ),
    "opaque RGBA": lambda: encoded(drawing().convert("RGBA")),
    "opaque LA": lambda: encoded(drawing().convert("LA")),
    "a key that no pixel has": lambda: encoded(drawing(), transparency=9),
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


# ---------------------------------------------------------------------- the one function


@pytest.mark.parametrize("name", [*TRANSPARENT, *DEEP, *ORDINARY])
def test_every_kind_of_file_shows_what_the_white_one_shows(name: str) -> None:
    data = (TRANSPARENT | DEEP | ORDINARY)[name]()
    shown = decode(data)
    assert shown.mode == "RGB" and close(pixels(shown))
    assert to_rgb(shown).tobytes() == shown.tobytes(), "twice is once"
    assert close(pixels(plain_bytes(data)), pixels(shown), 0), "any other decoder sees the same"
    assert (plain_bytes(data) == data) == (name in ORDINARY)
    for thorough in (False, True):
        kinds = set(inspect(data, thorough).kinds)
        assert ("image-transparent" in kinds) == (name in TRANSPARENT)
        assert ("image-depth" in kinds) == (name in DEEP or name == "16 bits with a key")
        assert not kinds - {"image-transparent", "image-depth"}


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La"])
def test_an_image_in_memory_is_put_on_white_too(mode: str) -> None:
    assert close(
        pixels(to_rgb(see_through("LA").convert(mode) if mode == "La" else see_through(mode)))
    )


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(0, 0, 0, 128), (255, 0, 0, 51), (0, 0, 0, 0)])
    assert close(
        pixels(decode(encoded(image))),
        np.array([[(127, 127, 127), (255, 204, 204), (255, 255, 255)]]),
        1,
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_each_orientation_is_turned_upright_once(orientation: int, kind: str) -> None:
    data = turned(orientation, kind)
    shown = decode(data)
    assert close(pixels(shown)) and close(pixels(to_rgb(shown)))
    assert close(pixels(plain_bytes(data)), pixels(shown), 0)
    assert (plain_bytes(data) == data) == (orientation == 1)
    assert inspect(data).kinds == (() if orientation == 1 else ("image-rotated",))


def test_orientation_and_transparency_together() -> None:
    for orientation in TURNS:
        assert close(pixels(decode(turned(orientation, image=see_through("RGBA")))))
        assert close(pixels(decode(turned(orientation, image=grey(VALUES * 257, np.uint16)))))


def test_an_orientation_behind_the_pixels_and_one_that_is_none() -> None:
    def late(value: int) -> bytes:
        tag = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, value, 0, 0)
        return raw_png(VALUES, 8, 0, behind=chunk(b"eXIf", tag))

    assert close(pixels(decode(late(3))), WHITE[::-1, ::-1])
    assert inspect(late(3)).kinds == ("image-rotated",) and plain_bytes(late(3)) != late(3)
    for value in (0, 9, 500):
        assert close(pixels(decode(late(value)))) and plain_bytes(late(value)) == late(value)
    broken = encoded(drawing(), "JPEG", quality=100, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\0\0")
    assert close(pixels(decode(broken))) and plain_bytes(broken) == broken


def test_the_first_frame_of_several_is_shown_by_all() -> None:
    frames = [drawing(), Image.new("L", SIZE, 0)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        how = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **how)
        assert close(pixels(decode(data))) and inspect(data).kinds == ("image-frames",)
        assert not getattr(Image.open(io.BytesIO(plain_bytes(data))), "is_animated", False)
        assert is_plain(data), "what was shown before was the same"


def test_a_dark_file_of_16_bits_stays_dark_and_one_value_is_no_error() -> None:
    assert close(pixels(decode(encoded(grey(VALUES * 129 + 1, np.uint16)))).max(), np.array(129), 1)
    for value, shown in ((0, 0), (65535, 255)):
        assert close(
            pixels(decode(encoded(grey(np.full((4, 4), value), np.uint16)))),
            np.full((4, 4, 3), shown),
            0,
        )
    for value, shown in ((-3.0, 255), (0.0, 0), (1.0, 255), (np.nan, 255)):
        image = encoded(grey(np.full((4, 4), value), np.float32), "TIFF")
        assert set(pixels(decode(image)).flatten()) <= {0, shown}


# ---------------------------------------------------------------------- everybody who shows an imag


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("tiny", device="cpu")


@pytest.fixture(
    params=["RGBA", "P with an index", "L with a key", "16 bits", "float to 1", "turned"],
    scope="module",
)
def unusual(request: pytest.FixtureRequest) -> bytes:
    return turned(6) if request.param == "turned" else (TRANSPARENT | DEEP)[request.param]()


def problem_of(image: bytes | Path) -> Problem:
    return Problem("p", "Find x.", "7.000", image, semantic=("AB = 7",))


def test_the_hf_engine_is_shown_what_the_white_image_shows(policy: Policy, unusual: bytes) -> None:
    white = policy.encode(Prompt("Find x."), problem_of(encoded(drawing())).open_image())
    for image in (problem_of(unusual).open_image(), Image.open(io.BytesIO(unusual))):
        seen = policy.encode(Prompt("Find x."), image)
        assert seen.image_key == white.image_key
        assert seen.pixels and white.pixels and seen.pixels.data.equal(white.pixels.data)


def test_a_server_is_sent_what_the_white_image_shows(unusual: bytes) -> None:
    for opener in (problem_of(unusual).open_image, lambda: Image.open(io.BytesIO(unusual))):
        request = Request("p", "full-text", Prompt("Find x."), opener, (0,))
        url = to_messages(request)[1]["content"][0]["image_url"]["url"]
        assert close(pixels(base64.b64decode(url.partition(",")[2])))


def test_parquet_holds_what_the_white_image_shows(unusual: bytes, tmp_path: Path) -> None:
    for variant in ("full-text", "contrastive"):
        write_parquet([problem_of(unusual)], tmp_path / "f.parquet", variant, "aligned")
        (row,) = pq.read_table(tmp_path / "f.parquet").to_pylist()
        assert close(pixels(row["images"][0]["bytes"]))


@pytest.mark.parametrize("name", ORDINARY)
def test_parquet_holds_ordinary_files_as_they_are(name: str, tmp_path: Path) -> None:
    data = ORDINARY[name]()
    write_parquet([problem_of(data)], tmp_path / "f.parquet", "full-text", "aligned")
    assert pq.read_table(tmp_path / "f.parquet").to_pylist()[0]["images"][0]["bytes"] == data


def test_the_viewer_shows_what_the_model_saw(unusual: bytes, tmp_path: Path) -> None:
    large = decode(unusual).resize((600, 400)).convert("RGBA")
    large.putalpha(Image.new("L", large.size, 0))
    for name, data, wanted in (
        ("a", unusual, WHITE),
        ("b", encoded(large), np.full((341, 512, 3), 255)),
    ):
        (tmp_path / name).write_bytes(data)
        uri, _ = _embed(str(tmp_path / name))
        assert uri and uri.startswith("data:image/png;base64,")
        embedded = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        assert close(pixels(embedded), wanted) and not embedded.has_transparency_data


def test_a_replica_elsewhere_gets_what_the_white_image_shows(unusual: bytes) -> None:
    away = Cluster.__new__(Cluster)
    away._address, away._last = "auto", (None, None)  # type: ignore[attr-defined]
    sent = away.portable(
        Request("p", "full-text", Prompt("x"), problem_of(unusual).open_image, (0,))
    )
    assert sent.image and close(pixels(sent.image()))
    lost = away.portable(
        Request("q", "full-text", Prompt("x"), problem_of(b"nothing").open_image, (0,))
    )
    with pytest.raises(UserError, match="problem p: its diagram cannot be decoded"):
        assert lost.image and lost.image()


def test_controls_have_the_size_and_the_pixels_of_upright_images() -> None:
    problems = [problem_of(turned(6)), replace(problem_of(encoded(see_through("RGBA"))), id="q")]
    blank, _ = _image(VIEWS["blank-image"], problems[0], problems, 0)
    swapped, name = _image(VIEWS["swapped-image"], problems[0], problems, 0)
    assert blank and blank().size == SIZE
    assert swapped and close(pixels(swapped())) and name.endswith("of problem q")


# ---------------------------------------------------------------------- fingerprints


def test_only_images_that_were_shown_otherwise_have_another_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def both(data: bytes) -> tuple[str, str]:
        return fingerprint([problem_of(data)]), digest([problem_of(data)])

    made = {name: make() for name, make in (TRANSPARENT | DEEP | ORDINARY).items()} | {
        "turned": turned(3)
    }
    seen = {name: both(data) for name, data in made.items()}
    monkeypatch.setattr("modgap.core.images.is_plain", lambda data: True)
    monkeypatch.setattr("modgap.training.setup.is_plain", lambda data: True)
    shown_alike = {
        name: close(pixels(data), pixels(decode(data)), 0) for name, data in made.items()
    }
    assert (
        all(shown_alike[name] for name in ORDINARY)
        and not shown_alike["RGBA"]
        and not shown_alike["turned"]
    )
    for name, data in made.items():
        assert [new == old for new, old in zip(seen[name], both(data), strict=True)] == 2 * [
            shown_alike[name]
        ], name


# ---------------------------------------------------------------------- images that cannot be shown


def bands(width: int, height: int) -> bytes:
    return png("white", (width, height))


def test_the_limit_of_the_aspect_ratio_is_the_processors(policy: Policy) -> None:
    """And a small image is enlarged, whatever its size."""
    for size in ((MOST_ASPECT, 1), (3, 3 * MOST_ASPECT), (1, 1), (2, 5), (13, 2000)):
        assert inspect(bands(*size)).unusable is None
        policy.encode(Prompt("x"), decode(bands(*size)))
    for size in ((MOST_ASPECT + 1, 1), (3, 3 * MOST_ASPECT + 1)):
        assert "has an aspect ratio of 20" in str(inspect(bands(*size)).unusable)
        with pytest.raises(ValueError, match="aspect ratio"):
            policy.encode(Prompt("x"), decode(bands(*size)))


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_file_that_is_cut_off_is_found_without_decoding_whole_ones(
    kind: str, thorough: bool
) -> None:
    whole = encoded(Image.effect_noise((90, 60), 90), kind)
    assert inspect(whole, thorough).error is None
    for cut in (len(whole) // 2, 9 * len(whole) // 10):
        assert inspect(whole[:cut], thorough).error
    assert inspect(b"", thorough).error == "is empty"
    assert inspect(b"words", thorough).error == "is no image that can be read"


def test_what_pillow_takes_for_a_bomb_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert inspect(bands(50, 50)).kinds == ("image-large",)
    assert "exceeds limit of 4000 pixels" in str(inspect(bands(70, 70)).error)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set with one of each kind in `test`; `train` has two that are sound."""
    images = {
        "sound.png": png(), "clear.png": TRANSPARENT["RGBA"](), "turned.jpg": turned(8, "JPEG"),
        "deep.png": DEEP["16 bits"](), "long.png": bands(900, 3),
        "gone.png": encoded(Image.new("LA", SIZE, (255, 0))),
    }  # fmt: skip
    test = {f"prob_{name.partition('.')[0]}": record(diagram=name) for name in images}
    train = {
        f"train_{n}": record(diagram=name) for n, name in enumerate(("sound.png", "clear.png"))
    }
    return write_folder(tmp_path / "data", train, test, images)


NAMED = {
    "transparent parts, which are shown on white": "prob_clear (clear.png)",
    "shows nothing on white": "prob_gone (gone.png)",
    "EXIF orientation": "prob_turned (turned.jpg)",
    "16-bit, 32-bit or floating-point values": "prob_deep (deep.png)",
    "aspect ratio above 200": "prob_long (long.png)",
}


def test_a_check_warns_and_the_folder_is_sound(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(folder)]) == 0
    said = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("warning: Diagram_Visual: ")
    ]
    assert len(said) == len(NAMED)
    for words, name in NAMED.items():
        assert any(words in line and name in line for line in said), words
    assert any("3 problems whose image has transparent parts" in line for line in said), (
        "train's, and gone.png"
    )
    (folder / "Diagram_Visual" / "sound.png").write_bytes(png()[:50])
    assert main(["data", "check", str(folder)]) == 1


def test_pairs_are_checked_alike(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clear = "data:image/png;base64," + base64.b64encode(TRANSPARENT["LA"]()).decode()
    prompts = {"full-text": "AB = 7. Find x.", "image-only": "Find x."}
    lines = [
        {"id": f"pair_{n}", "image": image, "answer": "7", "prompts": prompts}
        for n, image in enumerate(
            (clear, "data/Diagram_Visual/long.png", "data/Diagram_Visual/sound.png")
        )
    ]
    (folder.parent / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["data", "check", str(folder.parent / "p.jsonl"), "--benchmark", "pairs"]) == 0
    said = capsys.readouterr().out
    assert "1 problem whose image has transparent parts, which are shown on white: pair_0\n" in said
    assert "pair_1 (long.png)" in said and "pair_2" not in said


def test_commands_name_unusual_images_before_they_start(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.parent
    common = ["--data", str(folder), "--model", "tiny"]
    commands = {
        "eval": ["eval", *common, "--out", str(out / "e"), "--device", "none", "--samples", "1"],
        "train": ["train", "full-text", *common, "--out", str(out / "t"), "--device", "none"],
        "study": [
            "study",
            *common,
            "--recipes",
            "full-text",
            "--out",
            str(out / "s"),
            "--device",
            "none",
        ],
        "prepare": [
            "data",
            "prepare",
            str(folder),
            "--out",
            str(out / "parquet"),
            "--variant",
            "no-text",
        ],
    }
    for name, argv in commands.items():
        assert main(argv) == (name != "prepare"), "there is no such device"
        said = capsys.readouterr().err.splitlines()
        told = [line for line in said if line.startswith("warning: ")]
        assert told == said[: len(told)] and len(told) == (1 if name == "train" else len(NAMED)), (
            name
        )
        for words, problem in NAMED.items() if name != "train" else ():
            assert sum(words in line and problem in line for line in told) == 1
    assert "train_1 (clear.png)" in "".join(told)
    rows = pq.read_table(out / "parquet" / "test.parquet").to_pylist()
    assert close(pixels(rows[1]["images"][0]["bytes"])) and rows[0]["images"][0]["bytes"] == png()


def test_a_view_without_an_image_warns_of_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = list(pgps9k.read(folder))
    warn_about_images(problems, parse_views("image-only"))
    assert len(capsys.readouterr().err.splitlines()) == len(NAMED)
    evaluate(
        problems,
        ScriptedEngine(lambda request, sample: "7"),
        folder.parent / "r",
        views="text-only",
        samples=1,
    )
    assert "warning" not in capsys.readouterr().err


def test_prepare_refuses_what_no_training_can_use(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "Diagram_Visual" / "deep.png").write_bytes(DEEP["16 bits"]()[:90])
    argv = [
        "data",
        "prepare",
        str(folder),
        "--out",
        str(folder.parent / "out"),
        "--variant",
        "full-text",
    ]
    assert main(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "prob_deep (deep.png) cannot be decoded" in line and "modgap data check" in line
    assert not (folder.parent / "out").exists()


@pytest.mark.parametrize(
    ("image", "words"), [(bands(900, 3), "aspect ratio of 300"), (png()[:60], "cannot be decoded")]
)
def test_a_training_refuses_at_its_start_what_would_end_it(
    image: bytes, words: str, tmp_path: Path
) -> None:
    sound = [replace(problem_of(png()), id=f"sound_{n}") for n in range(4)]
    (tmp_path / "bad.png").write_bytes(image)
    recipe = full_text()
    check_prompts(recipe, sound, sound, "aligned")
    bad = [replace(problem_of(tmp_path / "bad.png"), id=f"bad_{n}") for n in range(2)]
    for problems, validation in (([*sound, *bad], sound), (sound, bad)):
        with pytest.raises(
            UserError,
            match=rf"problem bad_0: .*bad\.png .*{words}.*data check.*\(1 more .*: bad_1\)",
        ):
            check_prompts(recipe, problems, validation, "aligned")


def test_a_study_refuses_them_before_anything_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "Diagram_Visual" / "clear.png").write_bytes(bands(5, 1500))
    out = folder.parent / "study"
    argv = [
        "study",
        "--data",
        str(folder),
        "--model",
        "tiny",
        "--recipes",
        "no-text",
        "--out",
        str(out),
    ]
    assert main(argv) == 1
    assert "problem train_1: the diagram" in capsys.readouterr().err.splitlines()[-1]
    assert not (out / "base").exists()


# ---------------------------------------------------------------------- a real model


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    folder = tmp_path_factory.mktemp("synthetic")
    write_dataset(folder, 0, 4, seed=5, workers=1)
    return [
        replace(p, image=p.image.read_bytes())
        for p in pgps9k.read(folder)
        if isinstance(p.image, Path)
    ]


def answers(
    policy: Policy, problems: list[Problem], out: Path
) -> dict[Any, tuple[str, str | None]]:
    evaluate(
        problems, HfEngine(policy, batch_size=4), out, views="full-text,image-only", samples=1,
        sampling=Sampling(0.7, 24, 3),
    )  # fmt: skip
    return {row.key: (row.response, row.error) for row in RunFolder(out).responses()}


@pytest.fixture(scope="module")
def white(
    policy: Policy, asked: list[Problem], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Any, Any]]:
    yield answers(policy, asked, tmp_path_factory.mktemp("white") / "run")


def _clear(image: Image.Image) -> bytes:
    ink = image.convert("L").point([255 - level for level in range(256)])
    clear = Image.new("RGBA", image.size, (0, 0, 0, 0))
    clear.putalpha(ink)
    return encoded(clear)


@pytest.mark.parametrize(
    "change",
    [
        _clear,
        functools.partial(turned, 6, "PNG"),
        lambda i: encoded(grey(np.uint16(257) * i.convert("L"), np.uint16)),
    ],
    ids=["transparent", "turned", "16 bits"],
)
def test_a_model_says_the_same_of_unusual_files(
    policy: Policy, asked: list[Problem], white: dict[Any, Any], tmp_path: Path, change: Any
) -> None:
    changed = [replace(p, image=change(Image.open(io.BytesIO(p.image_bytes())))) for p in asked]
    assert answers(policy, changed, tmp_path / "run") == white


def test_images_that_cannot_be_used_cost_only_their_own_samples(
    policy: Policy, asked: list[Problem], white: dict[Any, Any], tmp_path: Path
) -> None:
    """Too long, cut off, no image, absent; each is recorded with its problem and its file, and made
    again.
    """
    bad = [bands(900, 3), asked[0].image_bytes()[:300], b"words", None]
    problems = list(asked)
    for n, image in enumerate(bad):
        path = tmp_path / f"bad_{n}.png"
        if image is not None:
            path.write_bytes(image)
        problems.insert(2 * n + 1, replace(asked[0], id=f"bad_{n}", image=path))
    (tmp_path / "bad_3.png").write_bytes(png())
    made = None
    for _ in range(2):
        made = _with_absent(policy, problems, tmp_path)
        assert {
            key: answer for key, answer in made.items() if not key[0].startswith("bad")
        } == white
        refused = {key: error for key, (_, error) in made.items() if key[0].startswith("bad")}
        assert len(refused) == 2 * len(bad)
        for (name, _, _), error in refused.items():
            assert (
                error
                and f"problem {name}" in error
                and f"{name}.png" in error
                and "\n" not in error
            )
    assert made and "aspect ratio" in str(made["bad_0", "image-only", 0][1])
    counts = read_summary(tmp_path / "run").views["image-only"]
    assert (counts.error, counts.n_samples) == (4, 8)


def _with_absent(
    policy: Policy, problems: list[Problem], folder: Path
) -> dict[Any, tuple[str, str | None]]:
    """Answers, where one file is removed once the run has begun."""

    class Engine(HfEngine):
        def generate(self, requests: Any, sampling: Sampling) -> Any:
            (folder / "bad_3.png").unlink(missing_ok=True)
            return super().generate(requests, sampling)

    (folder / "bad_3.png").write_bytes(png())
    evaluate(
        problems, Engine(policy, batch_size=4), folder / "run", views="full-text,image-only",
        samples=1, sampling=Sampling(0.7, 24, 3),
    )  # fmt: skip
    return {row.key: (row.response, row.error) for row in RunFolder(folder / "run").responses()}
