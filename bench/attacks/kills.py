"""Kills, interrupts and full disks at random moments of every command; then the same command again.

Half of the kills come at a random time, half before a random change of a file, which an audit hook
counts. What was finished stays as it was, nothing is made twice, and the end equals that of a
command that nobody disturbed.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from attacks import trial
from attacks.material import TRAINING, Material
from attacks.servers import ENVIRONMENT, Hostile, asking
from attacks.trial import Bench, Tried, modgap

_CHANGES = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.symlink",
    "os.link",
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_APPENDED = ("responses.jsonl", "judge.jsonl")


@dataclass
class Command:
    """A command that is disturbed.

    Attributes:
        name: Of it.
        argv: Its arguments, given the folder it works in.
        prepare: Puts what it needs there.
        full: Tries in a full run.
        unsteady: Files whose content no two runs share.
        environment: Set in addition.
        refuses: Whether it refuses to run again once it has finished.
        patch: Called in the process before it starts.
        server: Whom it asks.
    """

    name: str
    argv: Callable[[Path], list[str]]
    prepare: Callable[[Path], None] = lambda place: None
    full: int = 20
    unsteady: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict[str, str])
    refuses: bool = False
    patch: Callable[[], None] = lambda: None
    server: Hostile | None = None

    def work(self, place: Path) -> Callable[[], int]:
        """What the process does."""
        command = modgap(*self.argv(place))

        def run() -> int:
            self.patch()
            return command()

        return run


def commands(material: Material, server: Hostile) -> list[Command]:
    """Every command that writes, and one that only reads."""

    def copied(folder: Path) -> Callable[[Path], None]:
        return lambda place: shutil.copytree(folder, place / "run", symlinks=True) and None

    def synth(place: Path) -> list[str]:
        return ["data", "synth", "--out", str(place / "run"), "--train", "5", "--test", "4"]

    def prepare(place: Path) -> list[str]:
        return ["data", "prepare", str(material.data), "--out", str(place / "run"), "--variant",
                "contrastive"]  # fmt: skip

    def report(place: Path) -> list[str]:
        return ["report", str(material.run), "--out", str(place / "run" / "r.html"), "--figures",
                "--template", "paper"]  # fmt: skip

    def judge(place: Path) -> list[str]:
        return ["grade", str(place / "run"), "--judge", server.url, "--concurrency", "1"]

    def study(place: Path) -> list[str]:
        sets = [part for setting in TRAINING for part in ("--set", setting)]
        return ["study", "--data", str(material.data), "--model", str(material.tiny), "--recipes",
                "full-text", "--out", str(place / "run"), "--samples", "1", "--max-tokens", "4",
                "--limit", "2", "--device", "cpu", *sets]  # fmt: skip

    def hf(place: Path) -> list[str]:
        return ["eval", "--data", str(material.data), "--model", str(material.tiny), "--out",
                str(place / "run"), "--samples", "2", "--max-tokens", "4", "--batch-size", "2",
                "--device", "cpu"]  # fmt: skip

    def check(place: Path) -> list[str]:
        return ["data", "check", str(material.data)]

    def demo(place: Path) -> list[str]:
        return ["demo", "--out", str(place / "run")]

    def convert(place: Path) -> list[str]:
        return ["convert", str(place / "global_step_2"), "--out", str(place / "run")]

    page = ("r.html", "report.html", ".png", ".svg")
    return [
        Command("data synth", synth, refuses=True),
        Command("data prepare", prepare),
        Command("data check", check, full=6),
        Command("import", lambda place: material.importing(place / "run")),
        Command("grade", lambda place: ["grade", str(place / "run"), "--mode", "relative"],
                copied(material.run)),
        Command("grade --judge", judge, copied(material.judged), environment=ENVIRONMENT,
                server=server, unsteady=("judge.json",)),
        Command("report", report, unsteady=page),
        Command("eval", lambda place: material.evaluation(place / "run"), full=30),
        Command("eval, a server", lambda place: asking(material, server, place / "run"),
                environment=ENVIRONMENT, server=server, full=30),
        Command("eval, hf", hf, full=15),
        Command("train", lambda place: material.training(place / "run"), full=30,
                unsteady=(".pt",)),
        Command("convert", convert, _checkpoint(material), patch=_merger(material),
                refuses=True),
        Command("study", study, full=10, unsteady=(*page, ".pt")),
        Command("demo", demo, full=6, unsteady=(*page, ".pt"), patch=_small_demo),
    ]  # fmt: skip


def _checkpoint(material: Material) -> Callable[[Path], None]:
    """A checkpoint as verl writes it."""

    def make(place: Path) -> None:
        import torch

        actor = place / "global_step_2" / "actor"
        (actor / "huggingface").mkdir(parents=True)
        shutil.copy(material.tiny / "config.json", actor / "huggingface")
        torch.save({"w": torch.ones(3)}, actor / "model_world_size_1_rank_0.pt")

    return make


def _merger(material: Material) -> Callable[[], None]:
    """Replaces verl's merger, which needs verl: it writes the model file by file."""

    def patch() -> None:
        from modgap.training.verl import merge

        def merges(command: list[str], log: Path, *_: Any) -> int:
            target = Path(command[command.index("--target_dir") + 1])
            target.mkdir(parents=True, exist_ok=True)
            log.write_text("merging\n")
            for path in sorted(material.tiny.iterdir()):
                if path.is_file():
                    (target / path.name).write_bytes(path.read_bytes())
            return 0

        merge.watched = merges
        merge.require = lambda: None

    return patch


def _small_demo() -> None:
    from modgap.workflows import demo

    demo._TRAIN, demo._TEST, demo._SAMPLES = 4, 2, 1
    small = ("steps=1", "prompts_per_step=2", "samples_per_prompt=2", "mini_batch=2",
             "max_response_tokens=8", "overlong_buffer=2", "max_refills=0", "validation_problems=0",
             "eval_every=0")  # fmt: skip
    demo._SETTINGS = small
    demo.RECIPES = ("full-text",)


class Straight:
    """A command that nobody disturbs: how long it takes, what it changes and what it makes."""

    def __init__(self, bench: Bench, command: Command) -> None:
        self.command = command
        place = bench.place()
        command.prepare(place)
        self.before = frozenset(path.name for path in place.iterdir())
        changes = mmap.mmap(-1, 8)
        if command.server:
            command.server.fresh(lambda _: [], lambda number: False)
        outcome = trial.attempt(
            _counted(command.work(place), place, 1 << 40, changes), place,
            environment=command.environment,
        )  # fmt: skip
        if outcome.status:
            raise RuntimeError(f"{command.name}: {outcome.said}")
        self.seconds = outcome.seconds
        self.changes = struct.unpack("q", changes[:8])[0]
        self.made = self.tree(place)
        self.values = {name: trial.json_values(place, name) for name in self.made}
        self.asked = command.server.asked.total() if command.server else 0
        bench.clear(place)

    def tree(self, place: Path) -> dict[str, str]:
        """What there is, as far as two runs share it."""
        tree = trial.same_tree(place, lambda name: name.startswith("tmp/"))
        return {
            name: "" if name.endswith(self.command.unsteady or ("\0",)) else digest
            for name, digest in tree.items()
            if not name.endswith(".lock") and "tensorboard" not in name
        }

    @cached_property
    def names(self) -> set[str]:
        """The files that it makes."""
        return set(self.made)


def _counted(
    work: Callable[[], int],
    place: Path,
    kill_at: int,
    changes: mmap.mmap,
    with_signal: int = signal.SIGKILL,
) -> Callable[[], int]:
    """`work` that counts its changes of files below a folder, and is killed before one of them."""
    prefix, pid = str(place / "run"), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and arguments[2] is not None and arguments[2] & _WRITES
        if not (opened or event in _CHANGES) or not isinstance(arguments[0], str | bytes | Path):
            return
        # A hidden file beside the folder may belong to it, too.
        where = os.fsdecode(arguments[0])
        if os.getpid() != pid or not where.startswith((prefix, str(place / ".run"))):
            return
        count = struct.unpack("q", changes[:8])[0] + 1
        changes[:8] = struct.pack("q", count)
        if count == kill_at:
            os.kill(pid, with_signal)

    def run() -> int:
        nonlocal pid
        pid = os.getpid()
        sys.addaudithook(hook)
        return work()

    return run


def _disturbed(bench: Bench, material: Material, disturb: Any, part: float = 1.0) -> Tried:
    """Each command, disturbed and given again until it is done."""
    server = Hostile()
    server.good = verdict_or_answer
    try:
        every = commands(material, server)
        if bench.quick:
            every = bench.rng.sample([each for each in every if each.full > 10], 4)
        for command in every:
            straight = Straight(bench, command)
            for _ in range(bench.count(max(1, round(command.full * part)))):
                yield command.name, disturb(bench, command, straight)
    finally:
        server.close()


def verdict_or_answer(asked: dict[str, Any]) -> Any:
    """A model, and a judge, whose word follows from what it is asked."""
    import judge_server

    from attacks.servers import body

    if "prompt" not in asked and "[Question]" not in json.dumps(asked["messages"]):
        return body(f"<think>t</think>\\boxed{{{asked['seed'] % 7}}}")
    prompt = asked["prompt"] if "prompt" in asked else asked["messages"][-1]["content"]
    said = judge_server.by_characters(prompt)
    choice = {"index": 0, "finish_reason": "stop", "text": said,
              "message": {"role": "assistant", "content": said}}  # fmt: skip
    return body() | {"choices": [choice]}


def kills(bench: Bench, material: Material) -> Tried:
    """`kill -9`, up to three times, then to the end."""
    yield from _disturbed(bench, material, _killed)


def interrupts(bench: Bench, material: Material) -> Tried:
    """Ctrl-C, or SIGTERM, then to the end."""
    yield from _disturbed(bench, material, _interrupted, 0.4)


def full_disks(bench: Bench, material: Material) -> Tried:
    """No file may grow beyond a random size; then to the end."""
    yield from _disturbed(bench, material, _without_room, 0.4)


def _killed(bench: Bench, command: Command, straight: Straight) -> str:
    place = _begun(bench, command)
    held: list[dict[str, list[bytes]]] = []
    for _ in range(bench.rng.choice((1, 1, 2, 3))):
        outcome = _hit(bench, command, straight, place, signal.SIGKILL)
        if outcome.left:
            return f"killed: left processes: {outcome.left}"
        if command.refuses and "already" in outcome.err:
            break
        if outcome.status != -signal.SIGKILL:
            if fault := trial.against(outcome, statuses=(0,)):
                return f"before the kill: {fault}"
            held.append(_complete(place))
            break
        held.append(_complete(place))
    return _finish(bench, command, straight, place, held)


def _hit(
    bench: Bench, command: Command, straight: Straight, place: Path, with_signal: int
) -> trial.Outcome:
    """Run a command and kill it, at a time or at a change of a file."""
    if bench.rng.random() < 0.5 or not straight.changes:
        after = bench.rng.uniform(0.0, straight.seconds)
        return trial.attempt(
            command.work(place), place, kill_after=after, with_signal=with_signal,
            environment=command.environment,
        )  # fmt: skip
    at = bench.rng.randint(1, straight.changes)
    work = _counted(command.work(place), place, at, mmap.mmap(-1, 8), with_signal)
    return trial.attempt(work, place, environment=command.environment)


def _interrupted(bench: Bench, command: Command, straight: Straight) -> str:
    place = _begun(bench, command)
    with_signal, before = bench.rng.choice((signal.SIGINT, signal.SIGTERM)), _complete(place)
    outcome = _hit(bench, command, straight, place, with_signal)
    early = outcome.status == -with_signal and _complete(place) == before
    if not early:
        # A signal before the command line takes over ends the process as it ends any.
        if fault := trial.against(outcome, statuses=(0, 130)):
            return f"interrupted: {fault}"
        if outcome.status == 130 and "interrupted" not in outcome.err:
            return f"interrupted without a word: {outcome.said[-200:]}"
        if fault := trial.temporaries(place):
            return f"interrupted: {fault}"
    return _finish(bench, command, straight, place, [_complete(place)])


def _without_room(bench: Bench, command: Command, straight: Straight) -> str:
    place = _begun(bench, command)
    most = bench.rng.choice((0, 100, 1000, 3000, 10_000, 100_000, 400_000))

    run = command.work(place)

    def work() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        return run()

    outcome = trial.attempt(work, place, environment=command.environment)
    if fault := trial.against(outcome):
        return f"at most {most} bytes a file: {fault}"
    named = str(place) in outcome.err and "largest size of a file" in outcome.err
    if outcome.status and not named:
        return f"at most {most} bytes a file: {outcome.err.strip()[-300:]}"
    if fault := trial.temporaries(place):
        return f"at most {most} bytes a file: {fault}"
    return _finish(bench, command, straight, place, [_complete(place)])


def _begun(bench: Bench, command: Command) -> Path:
    place = bench.place()
    command.prepare(place)
    if command.server:
        command.server.fresh(lambda _: [], lambda number: False)
    return place


def _finish(
    bench: Bench,
    command: Command,
    straight: Straight,
    place: Path,
    held: list[dict[str, list[bytes]]],
) -> str:
    """Give the command again, and compare the end with that of one that nobody disturbed."""
    done = {name: rows for each in held for name, rows in each.items()}
    if command.server:
        command.server.fresh(lambda _: [], lambda number: False)
    outcome = trial.attempt(command.work(place), place, environment=command.environment)
    done_before = command.refuses and "already" in outcome.err
    if fault := trial.against(outcome, statuses=(0, 1) if done_before else (0,)):
        return f"the same command again: {fault}"
    if command.server and "eval" in command.name:
        finished = len(done.get("run/responses.jsonl", []))
        if command.server.asked.total() != straight.asked - finished:
            return (f"{finished} samples of {straight.asked} were finished, and"
                    f" {command.server.asked.total()} were asked for again")  # fmt: skip
    for each in held:
        for name, lines in each.items():
            after = (place / name).read_bytes().splitlines(keepends=True)
            if lost := [line for line in lines if line not in after]:
                return f"{name} lost {len(lost)} of {len(lines)} finished lines"
    if fault := _temporaries(place, straight):
        return fault
    now = straight.tree(place)
    for name in sorted(straight.names ^ set(now)):
        return f"{name} is {'absent' if name in straight.names else 'too many'} at the end"
    for name, digest in now.items():
        if digest != straight.made[name]:
            return f"{name} is not that of an undisturbed run: {_differing(straight, place, name)}"
    bench.clear(place)
    return ""


def _differing(straight: Straight, place: Path, name: str) -> str:
    """The keys of a JSON file in which it differs from that of an undisturbed run."""
    was, now = straight.values[name], trial.json_values(place, name)
    keys = [key for key in {**was, **now} if was.get(key, ...) != now.get(key, ...)]
    return "; ".join(f"{key} was {was.get(key)}, is {now.get(key)}" for key in keys[:5])


def _temporaries(place: Path, straight: Straight) -> str:
    """Files that stay; those of the killed process in its TMPDIR are the system's to clear."""
    for path in sorted(place.iterdir()):
        if path.name not in {"run", "tmp", *straight.before}:
            return f"{path.name} stays beside the run"
    return trial.temporaries(place / "run") if (place / "run").is_dir() else ""


def _complete(place: Path) -> dict[str, list[bytes]]:
    """The complete lines of the files that samples and verdicts are appended to."""
    found: dict[str, list[bytes]] = {}
    for path in trial.files_below(place):
        if path.name in _APPENDED:
            lines = path.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            found[str(path.relative_to(place))] = whole
    return found
