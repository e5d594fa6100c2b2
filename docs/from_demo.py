"""Writes what the pages show of `make demo`: the picture, its caption, and examples of files.

    make demo && .venv/bin/python docs/from_demo.py demo

The caption has the numbers of the run that is in the picture; it is stored in the PNG, too, and a
test compares them. Needs Chromium.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from modgap.analysis.results import read_summary

HERE = Path(__file__).parent
ROOT = HERE.parent
PICTURE = HERE / "report.png"
CAPTIONED = (ROOT / "README.md", HERE / "index.md")
FILES = HERE / "reference" / "files.md"
CAPTION = re.compile(r"(<!-- caption -->\n).*?(<!-- end of caption -->)", re.DOTALL)
EXAMPLE = re.compile(r"(<!-- example: (\w+) -->\n).*?(<!-- end of example -->)", re.DOTALL)
_SIZE = (1280, 960)
_SHOWN = 3
"""Keys of a nested object that an example shows."""


def caption(study: Path) -> str:
    """The gaps of the study's runs in words."""
    gaps: dict[str, str] = {}
    for name in ("base", "full-text", "no-text"):
        gap = read_summary(study / name / "eval").gap
        assert gap is not None, f"{name} has no gap"
        gaps[name] = f"{gap.points:.1f} points ({gap.ci_low:.1f} to {gap.ci_high:.1f})"
    problems = read_summary(study / "base" / "eval").n_problems
    return (
        f"The report of `make demo`: the testbed model's gap is {gaps['base']} on {problems}"
        f" problems; after 8 steps of training on the text it is {gaps['full-text']}, on the image"
        f" {gaps['no-text']}. More problems make the intervals narrower."
    )


def picture(page: Path, words: str) -> None:
    """The first screen of a report as a PNG of few colours that holds its caption."""
    sys.path.insert(0, str(ROOT / "tests" / "shared"))
    from browser import Browser

    with Browser(*_SIZE) as browser:
        browser.open(page)
        browser.screenshot(PICTURE)
    about = PngInfo()
    about.add_text("caption", words)
    with Image.open(PICTURE) as image:
        few = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(PICTURE, optimize=True, pnginfo=about)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """A row with long objects cut to some of their keys, and folders of this machine left out."""
    short: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict) and len(value) > _SHOWN:
            value = {name: value[name] for name in list(value)[:_SHOWN]} | {"...": "..."}
        short[key] = value
    return short


def examples(run: Path) -> dict[str, str]:
    """An example of each file of a run, as JSON in a block."""
    found: dict[str, Any] = {"manifest": json.loads((run / "manifest.json").read_text())}
    grades = map(json.loads, (run / "grades.jsonl").read_text().splitlines())
    grade = next(row for row in grades if row["outcome"] == "correct")
    key = (grade["problem_id"], grade["view"], grade["sample"])
    for line in (run / "responses.jsonl").read_text().splitlines():
        row = json.loads(line)
        if (row["problem_id"], row["view"], row["sample"]) == key:
            found["response"] = row
    for line in (run / "problems.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["id"] == grade["problem_id"]:
            found["problem"] = row
    found["manifest"]["given"]["model"] = "tiny"
    found["manifest"]["image_folders"] = ["data/Diagram_Visual"]
    found["grade"] = grade
    return {
        name: f"```json\n{json.dumps(_short(row), indent=1, ensure_ascii=False)}\n```\n"
        for name, row in found.items()
    }


def main(demo: Path) -> None:
    """Write the picture and fill the pages."""
    words = caption(demo / "study")
    picture(demo / "study" / "report.html", words)
    for page in CAPTIONED:
        text = page.read_text(encoding="utf-8")
        filled = CAPTION.sub(lambda m: f"{m[1]}{words}\n{m[2]}", text)
        page.write_text(filled, encoding="utf-8")
    shown = examples(demo / "study" / "base" / "eval")
    text = FILES.read_text(encoding="utf-8")
    FILES.write_text(EXAMPLE.sub(lambda m: m[1] + shown[m[2]] + m[3], text), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
