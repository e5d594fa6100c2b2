"""An annotated example of a `pairs` data set, which `modgap data init` writes."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

from modgap.core.disk import replacing
from modgap.core.errors import UserError, command_line
from modgap.core.places import check_writable
from modgap.datasets.pairs import FILE, SCHEMA

IMAGES = "images"
_NOTES = """\
# Problems for `--benchmark pairs`

`{file}` has one problem a line. Replace these lines with your own; the `comment` of each says what
it shows, and is not read. `{schema}` is the format as a JSON schema: editors complete and check
lines with it.

| key | |
| --- | --- |
| `id` | unique in the file |
| `text`, `conditions` | the question; what full-text writes and image-only leaves to the image |
| `prompts` | instead of these two: view -> its words, used as they are |
| `image` | a path or a data URI; a list, shown side by side; an object, view -> image |
| `answer` | a number, or with `choices` a letter or the text of a choice |
| `choices` | the texts of the choices, shown in every view |
| `answers`, `tolerance` | several right numbers; how far an answer may be off, `0.5` or `"1%"` |
| `type`, `subject` | optional, for breakdowns |

```
{check}
{measure}
```
"""


def example_lines() -> list[dict[str, Any]]:
    """The problems of the example."""
    uri = base64.b64encode(_triangle("AB = 5", "BC = 12")).decode()
    return [
        {
            "comment": "the usual form: full-text writes the conditions, image-only does not",
            "id": "text-and-conditions", "image": f"{IMAGES}/triangle.png",
            "text": "Find the length of AC.",
            "conditions": ["AB = 3", "BC = 4", "AB is perpendicular to BC"],
            "answer": 5, "type": "right triangle", "subject": "length",
        },
        {
            "comment": "the words of each view as they are asked",
            "id": "prompts", "image": f"{IMAGES}/triangle.png",
            "prompts": {
                "full-text": "In a right triangle ABC, AB = 3 and BC = 4. Find its area.",
                "image-only": "Find the area of triangle ABC.",
            },
            "answer": "6", "type": "right triangle", "subject": "area",
        },
        {
            "comment": "multiple choice: the answer is a letter, or the text of a choice",
            "id": "choices", "image": f"{IMAGES}/triangle.png",
            "text": "Which is the longest side of the triangle?",
            "conditions": ["AB = 3", "BC = 4", "AB is perpendicular to BC"],
            "choices": ["AB", "BC", "AC"], "answer": "C", "type": "right triangle",
        },
        {
            "comment": "two images, shown side by side; several right answers, each to 1%",
            "id": "several", "image": [f"{IMAGES}/triangle.png", f"{IMAGES}/larger.png"],
            "text": "The two triangles are similar. Find the ratio of their areas.",
            "conditions": ["AB = 3 in the left one", "AB = 6 in the right one"],
            "answers": ["4", "0.25"], "tolerance": "1%", "type": "similar triangles",
        },
        {
            "comment": "an image for each view, here the second as a data URI",
            "id": "image-of-each-view",
            "image": {
                "full-text": f"{IMAGES}/plain.png",
                "image-only": f"data:image/png;base64,{uri}",
            },
            "text": "Find the length of AC.",
            "conditions": ["AB = 5", "BC = 12", "AB is perpendicular to BC"],
            "answer": 13, "type": "right triangle", "subject": "length",
        },
    ]  # fmt: skip


def write_example(out: Path, *, force: bool = False) -> Path:
    """Write the example, its images, the schema and a page of notes.

    Args:
        out: The folder; made if it does not exist.
        force: Replace a file of problems that is there.

    Returns:
        The file of problems.

    Raises:
        UserError: The folder cannot be written, or holds problems already.
    """
    check_writable(out)
    file = out / FILE
    if file.exists() and not force:
        raise UserError(f"{file} exists: give another --out, or --force to replace it.")
    (out / IMAGES).mkdir(parents=True, exist_ok=True)
    (out / IMAGES / "triangle.png").write_bytes(_triangle("AB = 3", "BC = 4"))
    (out / IMAGES / "larger.png").write_bytes(_triangle("AB = 6", "BC = 8"))
    (out / IMAGES / "plain.png").write_bytes(_triangle("", ""))
    shutil.copyfile(SCHEMA, out / SCHEMA.name)
    asked = ("--benchmark", "pairs")
    check = command_line("data", "check", out, *asked)
    measure = command_line("eval", *asked, "--data", out, "--model", "tiny", "--out", "runs/mine")
    notes = _NOTES.format(file=FILE, schema=SCHEMA.name, check=check, measure=measure)
    (out / "README.md").write_text(notes, encoding="utf-8")
    with replacing(file) as part:
        lines = (json.dumps(line, ensure_ascii=False) for line in example_lines())
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def _triangle(leg: str, base: str) -> bytes:
    """A right triangle ABC with its legs labelled."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (240, 200), "white")
    draw = ImageDraw.Draw(image)
    draw.polygon([(60, 40), (60, 160), (200, 160)], outline="black", width=2)
    draw.rectangle((60, 148, 72, 160), outline="black")
    for place, words in (
        ((45, 25), "A"), ((45, 160), "B"), ((205, 160), "C"), ((8, 95), leg), ((105, 168), base),
    ):  # fmt: skip
        draw.text(place, words, fill="black", font_size=15)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
