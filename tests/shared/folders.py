"""Folders in PGPS9K's layout for tests: records written by hand in its grammar, and the corner
cases of its clauses.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


def png(colour: str = "white", size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def record(**changes: Any) -> dict[str, Any]:
    """A sound record; a value of `...` takes the key away."""
    whole = {
        "diagram": "img_1.png",
        "text": "Find x.",
        "parsing_stru_seqs": ["line A B C", "line B D"],
        "parsing_sem_seqs": ["AB = 7", "BC = x"],
        "expression": "Get V0",
        "answer": "25.000",
        "type": "Line Segment",
        "book": "Own",
        "page": "1",
        "choices": [1.0, 2.0, 25.0, 4.0],
    }
    return {key: value for key, value in (whole | changes).items() if value is not ...}


def write_folder(
    folder: Path,
    train: Mapping[str, Any] | str | bytes | None = None,
    test: Mapping[str, Any] | str | bytes | None = None,
    diagrams: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a data set; a file given as a string or bytes is written as it is."""
    (folder / "Diagram_Visual").mkdir(parents=True)
    for name, data in ({"img_1.png": png()} if diagrams is None else diagrams).items():
        path = folder / "Diagram_Visual" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    whole = {"train": {"prob_1": record()} if train is None else train}
    whole["test"] = {"prob_2": record()} if test is None else test
    for split, content in whole.items():
        data = content if isinstance(content, str | bytes) else json.dumps(content, indent=4)
        (folder / f"{split}.json").write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


# Name -> what is unusual about the record. The grammar's corners, as the original's scripts see
# them.
CORNERS: dict[str, dict[str, Any]] = {
    "plain": record(),
    "no_semantic": record(parsing_sem_seqs=[]),
    "nothing": record(parsing_stru_seqs=[], parsing_sem_seqs=[]),
    "nothing_said": record(
        parsing_stru_seqs=["line A B", "polygon A B C", "", "   "], parsing_sem_seqs=["", ""]
    ),
    "unknown": record(
        parsing_stru_seqs=[
            "polygon A B C D",
            "line",
            "line A",
            "\\odot O",
            "\\odot O lieson",
            "\\odot O A lieson B",
        ]
    ),
    "long_lines": record(
        parsing_stru_seqs=["line A B C D", "line A B C D E", "line P Q R S T U V"]
    ),
    "lieson": record(
        parsing_stru_seqs=[
            "line m lieson A",
            "line m lieson A B",
            "line k lieson A B C D",
            "line m lieson",
        ]
    ),
    "circles": record(
        parsing_stru_seqs=["\\odot O lieson A", "\\odot O lieson A B", "\\odot P lieson C D E F"]
    ),
    "spaces": record(
        parsing_stru_seqs=["  line   A  B   C ", "\tline A B C D\n"],
        parsing_sem_seqs=[" AB = 7 ", "x", " "],
    ),
    "characters": record(
        text="Find m \\angle é “x” \u2028 & <b>\nnow", parsing_sem_seqs=["m \\angle ABC = 90"]
    ),
    "integer": record(answer="25"),
    "negative": record(answer="-0.500", type="Angle ", diagram="more//./img_2.png"),
}
CORNER_DIAGRAMS = {"img_1.png": png(), "more/img_2.png": png("black")}


def real_folder() -> Path:
    """The real data set that `MODGAP_PGPS9K` names; without it the test is skipped."""
    if not (name := os.environ.get("MODGAP_PGPS9K")):
        pytest.skip("MODGAP_PGPS9K names no folder with real PGPS9K records")
    return Path(name)
