"""Images that no model can be shown: found and named before anything runs."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from asking import evaluate
from drawn_images import DEEP, TRANSPARENT, bands, close, encoded, pixels, problem_of
from folders import png
from PIL import Image, ImageFile, UnidentifiedImageError

from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.images import MOST_ASPECT, decode, inspect
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt
from modgap.core.view import parse_views
from modgap.datasets import pgps9k
from modgap.engines.scripted import ScriptedEngine
from modgap.models.policy import Policy
from modgap.recipes.paper import full_text
from modgap.training.setup import check_prompts
from modgap.workflows.problems import warn_about_images

# pytest puts its own filters in front of those that `core.images` sets.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning"
)


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
    assert inspect(b"words", thorough).error == "cannot be read as an image"


def test_a_png_with_bytes_after_its_end_is_not_decoded_to_find_that_it_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decoding takes ten times as long, for ten thousand images more than all else of `prepare`."""
    decoded: list[Image.Image] = []
    monkeypatch.setattr("modgap.core.images.to_rgb", decoded.append)
    whole = encoded(Image.effect_noise((90, 60), 90), "PNG")
    for data in (whole, whole + b"whatever follows"):
        assert inspect(data).error is None
    assert not decoded
    inspect(whole[: len(whole) // 2] + b"whatever follows")
    assert len(decoded) == 1


BOMB = struct.pack(">II", 13_300, 13_300)


def bomb() -> bytes:
    """A PNG of 13,300 by 13,300 pixels in its header."""
    small = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    small[16:24] = BOMB
    small[29:33] = struct.pack(">I", zlib.crc32(small[12:29]))
    return bytes(small)


def webp_bomb() -> bytes:
    small = bytearray(encoded(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "WEBP"))
    assert small[12:16] == b"VP8X"
    small[24:30] = (16_000).to_bytes(3, "little") * 2
    return bytes(small)


def icon() -> bytes:
    """An icon of 16 pixels, whose only image is a PNG of many more."""
    head = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(bomb()), 22)
    return head + bomb()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bomb(), "has 176.9 megapixels, and at most 50 are decoded: .*MODGAP_MAX_MEGAPIXELS=177"),
        (webp_bomb(), "has 256.0 megapixels, and at most 50 are decoded"),
        (icon(), "cannot be read as an image"),
    ],
    ids=["PNG", "WebP", "icon"],
)
def test_too_many_pixels_are_found_before_anything_is_decoded(
    data: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    for thorough in (False, True):
        assert re.search(words, str(inspect(data, thorough).error))
    with pytest.raises((UserError, UnidentifiedImageError)):
        decode(data)
    problem = Problem("p1", "q", "1", data)
    with pytest.raises(UserError, match=r"^problem p1: its diagram"):
        problem.open_image()
    if "megapixels" in words:
        with pytest.raises(UserError, match=f"^problem p1: its diagram {words}"):
            problem.plain_image()


def test_the_limit_of_pixels_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setenv("MODGAP_MAX_MEGAPIXELS", "0.0025")
    assert inspect(bands(50, 50)).error is None  # more than Pillow itself takes
    words = "has 0.0 megapixels, and at most 0.0025 are decoded"
    assert words in str(inspect(bands(50, 51)).error)
    for bad in ("many", "0", "nan"):
        monkeypatch.setenv("MODGAP_MAX_MEGAPIXELS", bad)
        with pytest.raises(UserError, match=f"MODGAP_MAX_MEGAPIXELS='{bad}': give a number"):
            inspect(bands(50, 50))


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
        assert len(told) == (1 if name == "train" else len(NAMED)), name
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
