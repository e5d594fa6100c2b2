"""Images as a model sees them: transparent, turned, of 16 bits."""

from __future__ import annotations

import base64
import functools
import io
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from asking import evaluate
from drawn_images import (
    DEEP,
    SIZE,
    TRANSPARENT,
    TURNS,
    VALUES,
    WHITE,
    answers,
    bands,
    chunk,
    close,
    drawing,
    encoded,
    grey,
    pixels,
    problem_of,
    raw_png,
    samples,
    see_through,
    turned,
)
from folders import png
from PIL import Image

from modgap.analysis.results import read_summary
from modgap.core.engine import Request, Sampling
from modgap.core.errors import UserError
from modgap.core.files import Root
from modgap.core.images import decode, inspect, is_plain, plain_bytes, to_rgb
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt
from modgap.core.record import RunFolder
from modgap.core.view import VIEWS
from modgap.datasets.parquet import write_parquet
from modgap.engines.chat import to_messages
from modgap.engines.hf import HfEngine
from modgap.engines.ray import Cluster
from modgap.models.policy import Policy
from modgap.reporting.diagrams import embed as _embed
from modgap.training.setup import digest
from modgap.workflows.fingerprints import fingerprint
from modgap.workflows.pictures import picture_of

# pytest puts its own filters in front of those that `core.images` sets.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning"
)


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


@pytest.fixture(
    params=["RGBA", "P with an index", "L with a key", "16 bits", "float to 1", "turned"],
    scope="module",
)
def unusual(request: pytest.FixtureRequest) -> bytes:
    return turned(6) if request.param == "turned" else (TRANSPARENT | DEEP)[request.param]()


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
        uri, _ = _embed(str(tmp_path / name), Root(tmp_path))
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
    blank, _ = picture_of(VIEWS["blank-image"], problems[0], problems, 0, "aligned")
    swapped, name = picture_of(VIEWS["swapped-image"], problems[0], problems, 0, "aligned")
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
