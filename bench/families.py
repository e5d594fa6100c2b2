r"""Which families of models the `hf` engine answers with the installed transformers.

python bench/families.py [NAME ...] [--device cuda] [--page docs/reference/models.md]
    prints Markdown; with --page its column of the table there is written anew

Small random models are written to a temporary folder as their hub checkpoints are laid out
(`tests/shared/model_families.py`, in two sizes), measured by `modgap eval --engine hf` on synthetic
problems, and compared with transformers' own answers (`tests/shared/family_checks.py`; on a CPU,
where rounding is small). With --engine vllm they are only measured: on a GPU, a minute a family.
The column is named after the releases of transformers, torchvision and vLLM. To try another
release, put it in front:

    pip install --no-deps --target /tmp/tf transformers==5.17.0
    PYTHONPATH=/tmp/tf python bench/families.py --page docs/reference/models.md
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "shared"))

import transformers
from family_checks import check_batches, check_copies, check_greedy
from model_families import FAMILIES, Sizes, build_family

from modgap.core.errors import UserError
from modgap.models.folder import quiet
from modgap.models.load import load_generic

BEGIN, END = "<!-- families -->", "<!-- end of families -->"
OTHER = Sizes(width=192, layers=2, vision_width=96, vision_layers=4, vocabulary=600, seed=1)


def column(engine: str = "hf") -> str:
    """The name of this environment's column."""
    name = transformers.__version__
    if engine == "vllm":
        name += f", vllm {importlib.metadata.version('vllm').split('+')[0]}"
        return name
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        name += f" and torchvision {importlib.metadata.version('torchvision').split('+')[0]}"
    return name


def measured(folder: Path, data: Path, out: Path, device: str, engine: str) -> str:
    """What `modgap eval` says of a model: `yes`, or why it does not measure it."""
    command = [
        sys.executable, "-m", "modgap", "eval", "--benchmark", "synthetic", "--data", str(data),
        "--model", str(folder), "--out", str(out), "--samples", "2", "--max-tokens", "8",
        "--device", device, "--engine", engine,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr + done.stdout).strip().splitlines()
        last = said[-1] if said else f"exit {done.returncode}"
        return "no: needs torchvision" if "needs torchvision" in last else f"FAILED: {last[-200:]}"
    rows = [json.loads(line) for line in (out / "responses.jsonl").read_text().splitlines()]
    if any(row["finish_reason"] == "error" for row in rows):
        return "FAILED: " + next(str(row.get("error")) for row in rows if row.get("error"))
    return "yes" if all(row.get("image_tokens") for row in rows) else "FAILED: no image tokens"


def answer(name: str, data: Path, place: Path, device: str, engine: str) -> str:
    """The cell of a family."""
    for size in (Sizes(), OTHER):
        folder = place / f"{name}-{size.width}"
        try:
            with quiet(warnings=True):
                build_family(name, folder, size)
        except Exception as error:
            return f"no: this release cannot make it ({type(error).__name__})"
        said = measured(folder, data, place / f"{folder.name}-run", device, engine)
        if said != "yes" or engine != "hf":
            return said
        try:
            model = load_generic(folder, device="cpu")
            check_batches(model)
            check_copies(model)
            check_greedy(model)
        except (UserError, AssertionError, ValueError, RuntimeError) as error:
            traceback.print_exc()
            return f"FAILED: {type(error).__name__} {str(error).splitlines()[0][:120]}"
        if model._pads != {True: True}:
            return "yes, by length"
    return "yes"


def read_table(text: str) -> dict[str, dict[str, str]]:
    """Column -> family -> cell, of a page's table."""
    inside = text.partition(BEGIN)[2].partition(END)[0]
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in inside.splitlines()
        if line.startswith("|")
    ]
    if not rows:
        return {}
    head, *body = rows
    return {
        name: {row[0].strip("`"): row[number] for row in body[1:]}
        for number, name in enumerate(head)
        if number
    }


def table(columns: dict[str, dict[str, str]]) -> str:
    """The table in Markdown, releases in order."""

    def order(name: str) -> tuple[int, ...]:
        return (*(int(part) for part in re.split(r"[ ,]", name)[0].split(".")), len(name))

    names = sorted(columns, key=order)
    lines = [f"| `model_type` | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    families = dict.fromkeys([*FAMILIES, *(f for c in columns.values() for f in c)])
    for family in families:
        cells = " | ".join(columns[name].get(family, "") for name in names)
        lines.append(f"| `{family}` | {cells} |")
    return "\n".join(lines)


def keep(page: Path, name: str, family: str, cell: str) -> None:
    """Write one cell into a page's table, as soon as it is known."""
    text = page.read_text(encoding="utf-8")
    columns = read_table(text)
    columns.setdefault(name, {})[family] = cell
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{table(columns)}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measure each family, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FAMILIES)}; all by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engine", default="hf", choices=("hf", "vllm"))
    parser.add_argument("--page", type=Path, help="a page with a table to be kept")
    given = parser.parse_args()
    cells: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        synth = ["data", "synth", "--out", str(data), "--train", "4", "--test", "3", "--seed", "5"]
        subprocess.run(
            [sys.executable, "-m", "modgap", *synth], check=True, stdout=subprocess.DEVNULL
        )
        for name in given.names or FAMILIES:
            begun = time.monotonic()
            cells[name] = answer(name, data, Path(place), given.device, given.engine)
            print(f"{name}: {cells[name]} ({time.monotonic() - begun:.0f} s)", file=sys.stderr)
            if given.page:
                keep(given.page, column(given.engine), name, cells[name])
    print(table({column(given.engine): cells}))
    sys.exit(any(cell.startswith("FAILED") for cell in cells.values()))


if __name__ == "__main__":
    main()
