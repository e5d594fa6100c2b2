"""`kill -9` of a real evaluation, of a replica of it, or of a vLLM process, while it works.

python bench/attack.py engines --out bench_kill --kill run@500 --kill run@2000 [--engine vllm|hf]
[--problems 500] [--samples 8]
python bench/attack.py engines --out bench_kill --kill replica@1000 --kill engine@8000 --replicas 2

`WHAT@N` kills, once N responses are written: `run`, the process of `modgap eval`; `replica`, one
actor; `engine`, one process of vLLM. What comes after `--` goes to `modgap eval`. Where the run has
ended, its processes must be gone and the GPUs' memory free within --patience seconds, and the same
command is given again, until it is done.

At the end: every (problem, view, sample) once and none an error; what was complete at a kill is
there byte for byte; no process is left. OUT/kill.json has it all after each kill; the exit code is
1 if any of this is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from cards import memory_used

_POLL_S = 0.05
# MiB: what a driver keeps differs a little from one look to the next.
_NOISE = 200
# Of Ray, which notice within a minute that their cluster is gone; they hold nothing that anybody
# else needs.
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


@dataclass
class Run:
    """One `modgap eval` in a process of its own, and what it wrote.

    Attributes:
        command: It.
        responses: The file.
        log: What it says.
        process: It, once started.
        seen: All of its descendants so far; a process that has a new title or parent is still
            known.
        count: Responses that are complete.
        pause: The longest time without one, after the first of this start.
    """

    command: list[str]
    responses: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None
    seen: set[psutil.Process] = field(default_factory=set[psutil.Process])
    count: int = 0
    pause: float = 0.0
    _at: int = 0
    _last: float = 0.0

    def start(self) -> None:
        """Give the command, anew or again."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        self._last = self.pause = 0.0

    def look(self) -> int | None:
        """Wait a little; the exit status if it has ended."""
        time.sleep(_POLL_S)
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            run = psutil.Process(self.process.pid)
            self.seen |= {run, *run.children(recursive=True)}
        if self.responses.exists():
            with self.responses.open("rb") as file:
                file.seek(self._at)
                new = file.read()
            self._at += new.rfind(b"\n") + 1
            if more := new.count(b"\n"):
                now = time.monotonic()
                self.pause = max(self.pause, now - self._last) if self._last else 0.0
                self.count, self._last = self.count + more, now
        return self.process.poll()

    def complete(self) -> bytes:
        """The complete lines."""
        whole = self.responses.read_bytes() if self.responses.exists() else b""
        return whole[: whole.rfind(b"\n") + 1]

    def left(self) -> list[str]:
        """Its processes that are still there, but for Ray's agents."""
        there = [
            (p, _title(p))
            for p in self.seen
            if p.is_running() and _status(p) != psutil.STATUS_ZOMBIE
        ]
        return [
            f"{process.pid} {title}" for process, title in there if not title.startswith(_AGENTS)
        ]

    def victim(self, what: str) -> psutil.Process | None:
        """Whom to kill: the oldest such process, which is at work; `None` if there is none yet."""
        assert self.process is not None
        run = psutil.Process(self.process.pid)
        if what == "run":
            return run
        below = [
            process
            for process in run.children(recursive=True)
            if _status(process) != psutil.STATUS_ZOMBIE
        ]
        if what == "replica":
            found = [process for process in below if _title(process).startswith("ray::Worker")]
        else:
            found = [
                p for p in below if "VLLM" in _title(p) or "multiprocessing.spawn" in _title(p)
            ]
        return min(found, key=psutil.Process.create_time, default=None)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()[:120]
    except psutil.Error:
        return "?"


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.Error:
        return psutil.STATUS_ZOMBIE


def gone(run: Run, before: list[int] | None, patience: float) -> dict[str, Any]:
    """How long until the processes are gone and the memory is free; what is left after a while.

    Without `before` the memory is not looked at.
    """
    started, found = time.monotonic(), dict[str, Any]()
    while len(found) < 1 + (before is not None) and time.monotonic() - started < patience:
        if "processes_gone_s" not in found and not run.left():
            found["processes_gone_s"] = round(time.monotonic() - started, 2)
        if before is not None and "memory_free_s" not in found and _free(before):
            found["memory_free_s"] = round(time.monotonic() - started, 2)
        time.sleep(_POLL_S)
    return {**found, "processes_left": run.left(), "memory_mib": memory_used()}


def _free(before: list[int]) -> bool:
    return all(now <= then + _NOISE for now, then in zip(memory_used(), before, strict=True))


def survive(
    run: Run, kills: list[tuple[str, int]], args: argparse.Namespace, note: Any
) -> dict[str, Any]:
    """Run it to its end through all kills."""
    before = None if args.shared else memory_used()
    figures: dict[str, Any] = {"kills": [], "ends": [], "memory_before_mib": before}
    held: list[bytes] = []
    started = time.monotonic()
    run.start()
    while True:
        status = run.look()
        if (
            status is None
            and kills
            and run.count >= kills[0][1]
            and (victim := run.victim(kills[0][0]))
        ):
            what = kills.pop(0)[0]
            kill = {
                "what": what,
                "process": f"{victim.pid} {_title(victim)}",
                "memory_mib": memory_used(),
            }
            victim.kill()
            held.append(run.complete())
            figures["kills"].append(
                kill
                | {
                    "responses": held[-1].count(b"\n"),
                    "at_s": round(time.monotonic() - started, 1),
                }
            )
            note(figures)
        if status is not None:
            end: dict[str, Any] = {
                "status": status,
                "at_s": round(time.monotonic() - started, 1),
                "responses": run.count,
                "longest_pause_s": round(run.pause, 1),
            }
            figures["ends"].append(end | gone(run, before, args.patience))
            note(figures)
            if status == 0 or len(figures["ends"]) > len(figures["kills"]):
                break
            run.start()
    whole = run.complete()
    return figures | {
        "not_done": [what for what, _ in kills],
        "seconds": round(time.monotonic() - started, 1),
        "untouched": all(whole.startswith(lines) for lines in held),
    }


def check(folder: Path, samples: int, figures: dict[str, Any]) -> dict[str, bool]:
    """What must hold at the end."""
    rows = [json.loads(line) for line in (folder / "responses.jsonl").read_bytes().splitlines()]
    views = {row["view"] for row in rows}
    problems = [json.loads(line) for line in (folder / "problems.jsonl").read_bytes().splitlines()]
    keys = Counter((row["problem_id"], row["view"], row["sample"]) for row in rows)
    return {
        "ended_well": figures["ends"][-1]["status"] == 0 and not figures["not_done"],
        "each_once": (
            set(keys.values()) == {1} and len(keys) == len(problems) * len(views) * samples
        ),
        "no_errors": all(row["finish_reason"] != "error" for row in rows),
        "untouched": figures["untouched"],
        "nothing_left": all(
            "processes_gone_s" in end
            and (figures["memory_before_mib"] is None or "memory_free_s" in end)
            for end in figures["ends"]
        ),
    }


def kill_engines(argv: list[str]) -> int:
    """Kill, resume, and say whether all is as it should be."""
    parser = argparse.ArgumentParser(
        "attack.py engines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--kill", action="append", required=True, metavar="WHAT@N", help="repeatable, in order"
    )
    parser.add_argument("--engine", choices=("vllm", "hf"), default="vllm")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--patience", type=float, default=30.0)
    parser.add_argument(
        "--shared",
        action="store_true",
        help="others use the GPUs, too: do not look at their memory",
    )
    parser.add_argument("--run", type=Path, help="the run's folder, if not in OUT")
    parser.add_argument("more", nargs="*", help="further arguments of modgap eval, after --")
    args = parser.parse_args(argv)
    kills = [(what, int(number)) for what, _, number in (kill.partition("@") for kill in args.kill)]
    if unknown := {what for what, _ in kills} - {"run", "replica", "engine"}:
        parser.error(
            f"--kill {', '.join(sorted(unknown))}: it is run, replica or engine, @, and a number"
        )
    folder = args.run or args.out / "run"
    if folder.exists():
        parser.error(f"{folder} is there already: give another folder")
    args.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "modgap", "eval", "--benchmark", "synthetic", "--model",
               args.model, "--engine", args.engine, "--limit", str(args.problems), "--samples",
               str(args.samples), "--replicas", str(args.replicas), "--out", str(folder),
               *args.more]  # fmt: skip
    asked = {"command": command[1:], "cores": os.cpu_count()}

    def note(figures: dict[str, Any]) -> None:
        (args.out / "kill.json").write_text(json.dumps(asked | figures, indent=1) + "\n")

    run = Run(command, folder / "responses.jsonl", args.out / "eval.log")
    figures = survive(run, kills, args, note)
    holds = check(folder, args.samples, figures)
    note(figures | {"holds": holds})
    print(json.dumps({key: figures[key] for key in ("kills", "ends", "seconds")}, indent=1))
    print(json.dumps(holds))
    return 0 if all(holds.values()) else 1
