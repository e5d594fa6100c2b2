"""Data sets in Geometry3K's layouts: a few problems with logic forms written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from folders import png

LOGIC = {
    "text_logic_form": ["Equals(LengthOf(Line(A,D)),27)", "Find(LengthOf(Line(B,C)))"],
    "diagram_logic_form": [
        "PointLiesOnLine(E, Line(D, A))",
        "PointLiesOnLine(B, Line(A, C))",
        "Parallel(Line(E, B), Line(D, C))",
        "Equals(LengthOf(Line(A, B)), 4y-10)",
    ],
    "circle_instances": [""],
}
PROBLEM = {
    "problem_text": "If A D = 27, find B C.",
    "compact_text": "If AD = 27, find BC.",
    "choices": ["8", "10", "6 \\sqrt { 3 }", "13.5"],
    "compact_choices": ["8", "10", "6\\sqrt{3}", "13.5"],
    "precise_value": [8.0, 10.0, 10.392304845413264, 13.5],
    "answer": "B",
    "problem_type_graph": ["Line", "Triangle"],
    "problem_type_goal": ["Length"],
    "data_type": "train",
}


def write_problem(
    folder: Path, logic: dict[str, Any] | None = None, image: bytes | None = None, **changes: Any
) -> Path:
    """One problem's folder; a value of `...` takes the key away, `logic={}` the forms."""
    folder.mkdir(parents=True)
    value = {k: v for k, v in (PROBLEM | changes).items() if v is not ...}
    (folder / "data.json").write_text(json.dumps(value))
    if logic != {}:
        (folder / "logic_form.json").write_text(json.dumps(LOGIC | (logic or {})))
    (folder / "img_diagram.png").write_bytes(png() if image is None else image)
    return folder


def write_splits(folder: Path) -> Path:
    """Two train, one validation and two test problems, each with a diagram of its own."""
    places = ("train/1", "train/2", "val/3", "test/4", "test/10")
    for number, place in enumerate(places):
        write_problem(folder / place, image=png(size=(40 + number, 30)), data_type=place[:-2])
    return folder


def write_parquet(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows of the hub's form."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def hub_row(**changes: Any) -> dict[str, Any]:
    """A row of the hub's parquet: image, text and answer, no logic forms."""
    image = {"bytes": png(), "path": None}
    return {"images": [image], "problem": "<image>Find x.", "answer": "25"} | changes
