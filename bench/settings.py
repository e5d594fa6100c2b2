"""Which training settings move the testbed: trains a grid of settings side by side on one GPU and
measures each.

    python bench/settings.py OUT --minutes 8 --jobs 10 "full-text lr=1e-5" "no-text lr=1e-5
    prompts_per_step=64"

Each job is `modgap train` and `modgap eval` on fresh synthetic problems; the table is written as
jobs finish. Choosing settings uses this data's seed; no table in the docs is measured on it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MODGAP = [sys.executable, "-m", "modgap"]


def run_job(out: Path, job: str, test: int, deadline: float) -> str:
    """Train and measure one setting; a line of the table."""
    recipe, *settings = job.split()
    folder = out / job.replace(" ", "_").replace("=", "")
    log = (out / f"{folder.name}.log").open("a")
    begun = time.monotonic()
    train = [
        "train",
        recipe,
        "--data",
        str(out / "data"),
        "--model",
        "tiny",
        "--out",
        str(folder),
        "--benchmark",
        "synthetic",
    ]
    commands = [] if recipe == "base" else [[*train, "--set", *settings]]
    try:
        for command in commands:
            left = max(1.0, deadline - time.monotonic())
            subprocess.run([*MODGAP, *command], stdout=log, stderr=log, check=True, timeout=left)
        trained = time.monotonic() - begun
        stage = max((int(p.name[5:]) for p in folder.glob("stage*")), default=1)
        best = sorted(
            (folder / f"stage{stage}" / "checkpoints").glob("step_*"), key=lambda p: int(p.name[5:])
        )
        model = "tiny" if recipe == "base" else str(best[-1])
        measure = [
            "eval",
            "--data",
            str(out / "data"),
            "--model",
            model,
            "--out",
            str(folder / "eval"),
            "--samples",
            "4",
        ]
        left = max(1.0, deadline - time.monotonic())
        command = [
            *MODGAP,
            *measure,
            "--benchmark",
            "synthetic",
            "--limit",
            str(test),
            "--batch-size",
            "1024",
        ]
        subprocess.run(command, stdout=log, stderr=log, check=True, timeout=left)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return f"| {job} | {type(error).__name__}, see {folder.name}.log | | | | |"
    views = json.loads((folder / "eval" / "summary.json").read_text())
    text, image = (views["views"][name]["accuracy"] * 100 for name in ("full-text", "image-only"))
    steps = [
        json.loads(line) for p in sorted(folder.glob("stage*/train_log.jsonl")) for line in p.open()
    ]
    third = max(1, len(steps) // 3)
    rise = (
        " -> ".join(
            f"{sum(s['reward'] for s in part) / len(part):.3f}"
            for part in (steps[:third], steps[-third:])
        )
        if steps
        else ""
    )
    return f"| {job} | {text:.1f} | {image:.1f} | {text - image:.1f} | {rise} | {trained:.0f} |"


def main() -> None:
    """Make the data, run the jobs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "jobs", nargs="+", help="RECIPE key=value ...; `base` is the model as it is"
    )
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--parallel", type=int, default=10)
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--seed", type=int, default=77)
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    given.out.mkdir(parents=True, exist_ok=True)
    sizes = ["--train", str(given.train), "--test", str(given.test), "--seed", str(given.seed)]
    subprocess.run([*MODGAP, "data", "synth", "--out", str(given.out / "data"), *sizes], check=True)
    table = [
        "| settings | text % | image % | gap | reward, first to last third | training s |",
        "|---|---|---|---|---|---|",
    ]
    print(*table, sep="\n", flush=True)
    with ThreadPoolExecutor(given.parallel) as pool:
        for line in pool.map(lambda job: run_job(given.out, job, given.test, deadline), given.jobs):
            print(line, flush=True)
            table.append(line)
            (given.out / "table.md").write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
