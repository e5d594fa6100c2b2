"""MathVerse for tests: files in its real schema with images embedded, made from synthetic problems
and odd golds.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from modgap.datasets.synthetic import make_problem

VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
# Gold answers as MathVerse writes them, with a wrong one that a rule can tell.
ODD_GOLDS = (
    r"Area $=\frac{147 \pi}{4} \mathrm{~cm}^{2}$",
    "(2,-2)",
    "$x=0$",
    "(x+3)^2+(y+3)^2=9",
    "domain: [-4, 0) and range: (-3, 1]",
    r"270 ^\circ T",
)
SUBJECTS = (
    ("Plane Geometry", "Angle"),
    ("Plane Geometry", "Length"),
    ("Solid Geometry", "Volume"),
    ("Functions", "Property"),
)


def rows(
    problems: int, seed: int = 0, versions: Sequence[str] = (*VERSIONS, "Text Only")
) -> list[dict[str, Any]]:
    """Rows in the schema of `testmini` (Text Only: of `testmini_text_only`, without
    `question_for_eval`).

    Every second problem is multiple choice; of the others every third has an odd gold.
    """
    found: list[dict[str, Any]] = []
    for number in range(1, problems + 1):
        made = make_problem(seed, number, "test")
        record: dict[str, Any] = dict(made.record)
        conditions, question, picture = (
            ", ".join(record["parsing_sem_seqs"]),
            record["text"],
            made.png,
        )
        choices, answer, kind = "", record["answer"], "free-form"
        if number % 2:
            right = Random(number).randrange(4)
            value = float(answer)
            texts = [f"{value + 10 * (place - right):g}°" for place in range(4)]
            choices = "\nChoices:\n" + "\n".join(
                f"{'ABCD'[place]}:{text}" for place, text in enumerate(texts)
            )
            answer, kind = "ABCD"[right], "multi-choice"
        elif number % 3 == 0:
            answer = ODD_GOLDS[number // 6 % len(ODD_GOLDS)]
        whole = f"As shown in the figure, {conditions}. {question}{choices}"
        lite = f"{conditions}. {question}{choices}"
        bare = f"{question}{choices}"
        own = dict(zip((*VERSIONS, "Text Only"), (whole, lite, lite, bare, "", whole), strict=True))
        written = _with_words(picture, bare)
        subject, subfield = SUBJECTS[number % len(SUBJECTS)]
        for version in versions:
            index = len(found) + 1
            row = {
                "sample_index": str(index),
                "problem_index": str(number),
                "problem_version": version,
                "question": own[version],
                "image": {
                    "bytes": written if version == "Vision Only" else picture,
                    "path": f"image_{index}.png",
                },
                "answer": answer,
                "question_type": kind,
                "metadata": {
                    "split": "testmini",
                    "source": "Ours",
                    "subject": subject,
                    "subfield": subfield,
                },
                "query_wo": f"Please directly answer the question.\nQuestion: {own[version]}",
                "query_cot": f"Please first conduct reasoning.\nQuestion: {own[version]}",
                "question_for_eval": whole if version == "Vision Only" else own[version],
            }
            if version == "Text Only":
                row["image"] = ""
                del row["question_for_eval"]
            found.append(row)
    return found


def _with_words(picture: bytes, words: str) -> bytes:
    """The diagram with the question under it, as Vision Only shows it."""
    with Image.open(io.BytesIO(picture)) as opened:
        diagram = opened.convert("RGB")
    sheet = Image.new("RGB", (diagram.width, diagram.height + 60), "white")
    sheet.paste(diagram)
    ImageDraw.Draw(sheet).multiline_text((2, diagram.height + 2), words, fill="black")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(file: Path, of: Iterable[dict[str, Any]]) -> Path:
    """A parquet file as Hugging Face writes it; small row groups, as large files have several."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(of)), file, row_group_size=50)
    return file


def write_set(folder: Path, problems: int, seed: int = 0) -> Path:
    """Both files of the data set, as the hub has them."""
    whole = rows(problems, seed)
    write_parquet(
        folder / "testmini.parquet", (row for row in whole if row["problem_version"] != "Text Only")
    )
    write_parquet(
        folder / "testmini_text_only.parquet",
        (row for row in whole if row["problem_version"] == "Text Only"),
    )
    return folder


def write_json(file: Path, of: Iterable[dict[str, Any]]) -> Path:
    """The JSON form: images are files in `images/` beside it."""
    found: list[dict[str, Any]] = []
    for row in of:
        if image := row["image"]:
            path = file.parent / "images" / image["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image["bytes"])
        found.append(row | {"image": image and image["path"]})
    file.write_text(json.dumps(found))
    return file
