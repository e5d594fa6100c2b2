r"""Time and memory of `modgap report` on made runs of 80,000 responses, and of the page in a
browser; and of `modgap grade` and `modgap report` on one run of a million.

python bench/report.py [--runs 10] [--problems 1000] [--samples 4] [--profile]
    prints Markdown; targets 20 s, 3 s for 80,000; 10 s and 600 MB for 100,000 (`--problems 1250`)
python bench/report.py --million [--problems 5000]
    one run of 100,000 responses and one of 1,000,000, of the same problems; target: grading takes
    at most 1.3 times the memory

Each run has the problems in both views, answered by a script in words of the length that a model
takes, graded and summarised as ever. The report is timed as a whole process (processor time, wall,
peak memory), the page from opening it to the end of its script in headless Chromium, if there is
one. `--profile` prints where the report's time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import platform
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "shared"))

import browser

from modgap.core.engine import Request, Sampling, sample_seed
from modgap.core.record import RunFolder
from modgap.core.rows import Response
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.engines.scripted import ScriptedEngine
from modgap.workflows.evaluate import EvalPlan, evaluate_with

WORDS = (
    "In the triangle the side AB is 7 and the angle ABC is 90 degrees, so that by Pythagoras the"
    " other one follows. "
)


def said(number: int, gold: str, problem: str, view: str, sample: int) -> str:
    """The response of model `number`: right more often from text, and the larger the number."""
    luck = sample_seed(number, problem, view, sample) % 1000 / 1000
    right = luck < (0.5 if view == "full-text" else 0.3) + 0.03 * number
    value = gold if right else str(round(luck * 40, 2))
    words = WORDS * (1 + int(luck * 12))
    return f"<think>{words}</think> \\boxed{{{value}}}" if luck < 0.97 else words


def make(root: Path, runs: int, problems: int, samples: int) -> list[Path]:
    """Runs of models that get better one after the other."""
    write_dataset(root / "data", 0, problems, seed=1, workers=1)
    asked = list(pgps9k.read(root / "data", "test"))
    gold = {problem.id: problem.answer for problem in asked}
    out = []
    for number in range(runs):

        def answer(request: Request, sample: int, number: int = number) -> str:
            name = request.problem_id
            return said(number, gold[name], name, request.view, sample)

        folder = root / f"model{number}"
        evaluate_with(
            asked,
            ScriptedEngine(answer),
            folder,
            EvalPlan(samples=samples, sampling=Sampling(0.6, 256, 42)),
        )
        out.append(folder)
    return out


def make_large(root: Path, problems: int, samples: int) -> Path:
    """A run as `make` makes it, of many samples: written at once and not graded."""
    [folder] = make(root, 1, problems, 1)
    run = RunFolder(folder)
    first = list(run.responses())
    golds = {name: row.answer for name, row in run.problems().items()}
    large = RunFolder(root / f"samples{samples}")
    large.start("eval", run.manifest().get("resolved", {}) | {"samples": samples})
    large.write_problems(run.problems().values())

    def rows() -> Iterator[Response]:
        for row in first:
            key = row.problem_id, row.view
            for sample in range(samples):
                text = said(0, golds[row.problem_id], *key, sample)
                seed = sample_seed(42, *key, sample)
                yield row.model_copy(update={"sample": sample, "response": text, "seed": seed})

    large.write_responses(rows())
    return large.path


def timed(*arguments: object) -> tuple[float, float, float]:
    """Processor seconds, wall seconds and peak MB of a command of modgap."""
    command = [sys.executable, "-m", "modgap", *map(str, arguments)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    wall = time.perf_counter() - start
    return used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024


def million(root: Path, problems: int, totals: Sequence[int] = (100_000, 1_000_000)) -> None:
    """Print what grading and reporting cost on runs of that many responses."""
    print("| responses | command | processor s | peak MB | page MB |\n|" + " --- |" * 5)
    for total in totals:
        run = make_large(root / str(total), problems, total // (2 * problems))
        page = root / "report.html"
        for name, more in (("grade", ()), ("report", ("--out", page))):
            seconds, _, peak = timed(name, run, *more)
            size = f"{page.stat().st_size / 1e6:.1f}" if more else ""
            print(f"| {total:,} | {name} | {seconds:.1f} | {peak:.0f} | {size} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--problems", type=int)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--million", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        if given.million:
            million(root, given.problems or 5000)
            return
        given.problems = given.problems or 1000
        start = time.process_time()
        folders = make(root, given.runs, given.problems, given.samples)
        print(f"made in {time.process_time() - start:.1f} s", file=sys.stderr)
        page = root / "report.html"
        if given.profile:
            from modgap.reporting.page import build_report

            profile = cProfile.Profile()
            profile.runcall(build_report, folders, page)
            pstats.Stats(profile).sort_stats("cumtime").print_stats(45)
            return
        seconds, wall, peak = timed("report", *folders, "--out", page)
        opened = "no Chromium"
        if browser.CHROMIUM:
            with browser.Browser() as chromium:
                start = time.perf_counter()
                chromium.open(page)
                opened = f"{time.perf_counter() - start:.1f}"
        print(
            f"{platform.machine()} CPU, shared; {given.runs} runs, {given.problems} problems,"
            f" {given.samples} samples\n"
        )
        print(
            "| responses | report, processor s | wall s | peak MB | page MB | page in Chromium, s"
            " |\n|" + " --- |" * 6
        )
        print(
            f"| {given.runs * given.problems * given.samples * 2:,} |"
            f" {seconds:.1f} | {wall:.1f} | {peak:.0f} |"
            f" {page.stat().st_size / 1e6:.1f} | {opened} |"
        )


if __name__ == "__main__":
    main()
