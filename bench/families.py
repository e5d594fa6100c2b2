r"""Which families of models the `hf` engine answers with the installed transformers.

python bench/families.py [NAME ...] [--device cuda] [--out families.json] [--minutes 2.4] [--jobs 8]
    [--page docs/reference/models.md]
    prints Markdown; with --page its column of the table there is written anew

Small random models are written to a temporary folder as their hub checkpoints are laid out
(`tests/shared/model_families.py`), in the sizes of `SIZES`: other widths, heads that share keys and
values in twos, fives, eights or not at all, heads of 64, other patches, tied and untied embeddings.
The first two are measured by `modgap eval --engine hf` on synthetic problems. All are compared with
transformers' own answers (`tests/shared/family_checks.py`; on a CPU, where rounding is small), with
images of odd sizes, too; where `hf` has a fast path, that path as well.
With --engine vllm they are only measured: on a GPU, a minute a family.

Each family has a process of its own; --jobs of them run at a time. --out and --page are written as
soon as a family is done; families that are not done after --minutes are `no time`.
The column is named after the releases of transformers, torchvision and vLLM. To try another
release, put it in front:

    pip install --no-deps --target /tmp/tf transformers==5.17.0 'huggingface_hub<2'
    PYTHONPATH=/tmp/tf python bench/families.py --page docs/reference/models.md
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "shared"))

import transformers
from family_checks import check_batches, check_copies, check_fast, check_greedy, check_odd_images
from model_families import FAMILIES, Sizes, build_family

from modgap.core.errors import UserError
from modgap.datasets.synthetic import write_dataset
from modgap.models.folder import FAST, quiet
from modgap.models.load import load_generic, load_policy

BEGIN, END = "<!-- families -->", "<!-- end of families -->"
MARK = "CELL "
MEASURED = 2
"""How many of the sizes are measured by `modgap eval`, too."""
SIZES = {
    "usual": Sizes(),
    "wide": Sizes(192, layers=2, vision_width=96, vision_layers=4, vocabulary=600, seed=1),
    "one head of keys": Sizes(
        160, layers=2, vision_width=32, vision_layers=2, vocabulary=530, seed=2, sharing=5,
        tied=True, patch=12,
    ),
    "as many heads of keys": Sizes(
        128, layers=6, vision_layers=5, seed=3, head=64, heads=4, sharing=1, tied=False, patch=18,
    ),
    "shared by eight": Sizes(
        256, vision_width=128, seed=4, heads=16, sharing=8, tied=True, patch=8
    ),
}  # fmt: skip


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


def compared(folder: Path, name: str) -> str:
    """Whether a model's answers are transformers' own: `yes`, perhaps with a remark, or why not."""
    try:
        model = load_generic(folder, device="cpu")
        check_batches(model)
        check_copies(model)
        check_greedy(model)
        check_odd_images(model)
        if name in FAST:
            check_fast(load_policy(folder, device="cpu"), model)
    except (UserError, AssertionError, ValueError, RuntimeError) as error:
        traceback.print_exc()
        said = str(error).strip().partition("\n")[0][:120]
        return f"FAILED: {type(error).__name__} {said}"
    return "yes" if model._pads == {True: True} else "yes, by length"


def answer(name: str, device: str, engine: str) -> str:
    """The cell of a family."""
    said = "yes"
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        write_dataset(data, train=4, test=3, seed=5)
        for number, (label, size) in enumerate(SIZES.items()):
            folder = Path(place) / f"{name}-{number}"
            try:
                with quiet(warnings=True):
                    build_family(name, folder, size)
            except Exception as error:
                return f"no: this release cannot make it ({type(error).__name__})"
            if number < MEASURED:
                said = measured(folder, data, folder.with_name(f"run-{number}"), device, engine)
            if said.startswith("yes") and engine == "hf":
                said = compared(folder, name)
            if not said.startswith("yes"):
                print(f"{name}, {label}: {said}", file=sys.stderr)
            if engine != "hf" or not said.startswith("yes"):
                return said
    return said


def in_process(name: str, given: argparse.Namespace, until: float) -> tuple[str, float]:
    """The cell of a family from a process of its own, and its seconds."""
    begun = time.monotonic()
    left = until - begun
    if left < 1:
        return "no time", 0.0
    command = [sys.executable, __file__, name, "--alone", "--device", given.device]
    command += ["--engine", given.engine]
    threads = str(max(1, (os.cpu_count() or 1) // given.jobs))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": threads},
    ) as child:  # fmt: skip
        try:
            said = child.communicate(timeout=left if left < 1e9 else None)[0]
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # the measurement that it started, too
            return "no time", time.monotonic() - begun
    cells = [x.removeprefix(MARK) for x in said.splitlines() if x.startswith(MARK)]
    cell = cells[-1] if cells else f"FAILED: its process ended with {child.returncode}"
    return cell, time.monotonic() - begun


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


def write_json(path: Path | None, given: argparse.Namespace, done: dict[str, Any]) -> None:
    """Write what is known so far, whole."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    content = {"column": column(given.engine), "device": given.device, "families": done}
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def main() -> None:
    """Measure each family, and print or write the table."""
    cpus = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FAMILIES)}; all by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engine", default="hf", choices=("hf", "vllm"))
    parser.add_argument("--page", type=Path, help="a page with a table to be kept")
    parser.add_argument("--out", type=Path, help="a JSON file of the cells")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="most, for all")
    parser.add_argument("--jobs", type=int, default=max(1, cpus // 2), help="families at a time")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        print(MARK + answer(given.names[0], given.device, given.engine), flush=True)
        return
    names = given.names or list(FAMILIES)
    if unknown := sorted(set(names) - set(FAMILIES)):
        parser.error(f"{unknown[0]!r} is none of {', '.join(FAMILIES)}")
    until = time.monotonic() + 60 * given.minutes
    done: dict[str, Any] = {}
    with ThreadPoolExecutor(given.jobs if given.engine == "hf" else 1) as pool:
        asked = {pool.submit(in_process, name, given, until): name for name in names}
        for future in as_completed(asked):
            name, (cell, seconds) = asked[future], future.result()
            done[name] = {"cell": cell, "seconds": round(seconds, 1)}
            print(f"{name}: {cell} ({seconds:.0f} s)", file=sys.stderr, flush=True)
            write_json(given.out, given, done)
            if given.page and cell != "no time":
                keep(given.page, column(given.engine), name, cell)
    cells = {name: done[name]["cell"] for name in names}
    print(table({column(given.engine): cells}))
    sys.exit(any(cell.startswith(("FAILED", "no time")) for cell in cells.values()))


if __name__ == "__main__":
    main()
