"""The small model that the tests of images share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawn_images import DEEP, SIZE, TRANSPARENT, answers, bands, encoded, turned
from folders import png, record, write_folder
from PIL import Image

from modgap.core.problem import Problem
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.models.load import load_policy
from modgap.models.policy import Policy


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("tiny", device="cpu")


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


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    folder = tmp_path_factory.mktemp("synthetic")
    write_dataset(folder, 0, 4, seed=5, workers=1)
    return [
        replace(p, image=p.image.read_bytes())
        for p in pgps9k.read(folder)
        if isinstance(p.image, Path)
    ]


@pytest.fixture(scope="module")
def white(
    policy: Policy, asked: list[Problem], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Any, Any]]:
    yield answers(policy, asked, tmp_path_factory.mktemp("white") / "run")
