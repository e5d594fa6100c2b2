r"""Time and memory of `modgap data prepare` against the original's script, on the same folder, both
as whole processes.

python bench/prepare.py ORIGINAL [--rows 10000] [--kilobytes 25] [--rounds 3] [--json FILE]
    prints Markdown

ORIGINAL is a checkout of the original repository (or the folder of its `geo9k-contrastive.py`). The
rows are synthetic problems; each diagram is filled up to the size of PGPS9K's own (bytes after a
PNG's end mean nothing). Both write the contrastive variant in paper style; the rows are compared
before anything is timed. Runs take turns; time is that of the processor (user and system) and that
of the clock, with the interpreter's start and all imports, memory the process's peak. How much
faster is the median over the rounds. Each writes into a folder that does not exist yet, for to
delete another round's files takes a fifth of a second, and both find their modules compiled, as an
installation has them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset

SCRIPT = "geo9k-contrastive.py"


def make(folder: Path, rows: int, kilobytes: int) -> Path:
    """A folder in PGPS9K's layout, a tenth of it test; only a few hundred problems are drawn, and
    repeated.
    """
    drawn = min(rows, 300)
    write_dataset(folder, drawn, 0, seed=1, workers=1)
    (folder / pgps9k.SOLUTIONS).unlink(missing_ok=True)
    records = list(json.loads((folder / "train.json").read_text()).values())
    fill = random.Random(0)
    diagrams = folder / pgps9k.DIAGRAMS
    made = [(diagrams / record["diagram"]).read_bytes() for record in records]
    split: dict[str, dict[str, Any]] = {"train": {}, "test": {}}
    for number in range(rows):
        name = f"made_{number}.png"
        data = made[number % drawn]
        (diagrams / name).write_bytes(data + fill.randbytes(max(0, kilobytes * 1000 - len(data))))
        where = "test" if number % 10 == 9 else "train"
        split[where][f"prob_{number}"] = records[number % drawn] | {"diagram": name}
    for name, found in split.items():
        (folder / f"{name}.json").write_text(json.dumps(found, indent=1))
    return folder


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Processor seconds, wall seconds and peak MB of a process."""
    os.sync()  # what the run before wrote is not this one's to wait for
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(said.decode())
    return used.ru_utime + used.ru_stime, time.perf_counter() - start, used.ru_maxrss / 1024


COMPARE = """
import sys, pyarrow.parquet as pq
for name in ("train.parquet", "test.parquet"):
    one, other = (pq.read_table(f"{folder}/{name}") for folder in sys.argv[1:])
    if not one.equals(other):
        sys.exit(f"{name}: the rows differ")
"""
# In a process of its own: a child's peak memory begins with what its parent holds.


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("original", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--kilobytes", type=int, default=25, help="of a diagram")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there, and a .md beside it")
    given = parser.parse_args()
    folders = (given.original / "verl/data", given.original)
    script = next((p / SCRIPT for p in folders if (p / SCRIPT).is_file()), None)
    if script is None:
        parser.error(
            f"{given.original} holds no {SCRIPT}: give a checkout of the original repository"
        )
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        shutil.copy(script, root)  # it reads PGPS9K/ beside itself
        data = make(root / "PGPS9K", given.rows, given.kilobytes)
        environment = os.environ | {
            "HF_DATASETS_CACHE": str(root / "cache"), "HF_HUB_OFFLINE": "1",
            "PYTHONPYCACHEPREFIX": str(root / "compiled"), "PYTHONDONTWRITEBYTECODE": "",
        }  # fmt: skip
        commands = {
            "the original's script": [
                sys.executable, str(root / SCRIPT), "--local_dir", str(root / "theirs"),
            ],
            "modgap data prepare": [
                sys.executable, "-m", "modgap", "data", "prepare", str(data), "--out",
                str(root / "ours"), "--variant", "contrastive", "--style", "paper",
            ],
        }  # fmt: skip
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
        for number in range(-1, given.rounds):  # the first one warms the disk's cache and compiles
            for written in ("theirs", "ours"):
                shutil.rmtree(root / written, ignore_errors=True)
            for name, command in commands.items():
                took = run(command, environment)
                print(
                    f"round {number}: {name} {took[0]:.2f} s (clock {took[1]:.2f}),"
                    f" {took[2]:.0f} MB",
                    flush=True,
                )
                if number >= 0:
                    found[name].append(took)
            if number < 0:
                subprocess.run(
                    [sys.executable, "-c", COMPARE, str(root / "theirs"), str(root / "ours")],
                    check=True,
                )
    about = {
        "machine": f"{platform.machine()} CPU, shared", "rows": given.rows,
        "kilobytes_a_diagram": given.kilobytes, "rounds": given.rounds,
        "python": platform.python_version(),
    }  # fmt: skip
    theirs, ours = found.values()
    rows = {
        name: dict(
            zip(
                ("processor_s", "wall_s", "peak_mb"),
                map(statistics.median, zip(*took, strict=True)),
                strict=True,
            )
        )
        for name, took in found.items()
    }
    faster, sooner = (
        statistics.median(a[i] / b[i] for a, b in zip(theirs, ours, strict=True)) for i in (0, 1)
    )
    rows["ratio"] = {
        "processor": faster,
        "clock": sooner,
        "memory": rows["the original's script"]["peak_mb"] / rows["modgap data prepare"]["peak_mb"],
    }
    lines = [
        ", ".join(f"{k} {v}" for k, v in about.items()),
        "",
        "| | processor s | wall s | peak MB |",
        "|" + " --- |" * 4,
    ]
    for name in commands:
        one = rows[name]
        lines.append(
            f"| {name} | {one['processor_s']:.2f} | {one['wall_s']:.2f} | {one['peak_mb']:.0f} |"
        )
    lines.append(
        f"\n{faster:.1f}x as fast by the processor, {sooner:.1f}x by the clock,"
        f" {rows['ratio']['memory']:.1f}x less memory; target 5x; rows equal."
    )
    print("\n" + "\n".join(lines))
    if given.json:
        given.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
        given.json.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
