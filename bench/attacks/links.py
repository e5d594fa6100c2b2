"""Links and devices instead of files: nothing outside is read or written, nothing hangs."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from attacks import trial
from attacks.data_folders import layouts
from attacks.material import Material
from attacks.run_folders import kinds
from attacks.trial import Bench, Outside, Tried, modgap


def _socket(path: Path, _: Outside) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has at most 108 characters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


KINDS: dict[str, Callable[[Path, Outside], None]] = {
    "a link to a file outside": lambda path, out: path.symlink_to(out.file),
    "a link out by ..": lambda path, out: path.symlink_to(os.path.relpath(out.file, path.parent)),
    "a link to a folder outside": lambda path, out: path.symlink_to(out.folder),
    "a link to a new file outside": lambda path, out: path.symlink_to(out.folder / "new"),
    "a link to itself": lambda path, out: path.symlink_to(path.name),
    "a link to nothing": lambda path, out: path.symlink_to("absent"),
    "a link to /dev/zero": lambda path, out: path.symlink_to("/dev/zero"),
    "a link to /dev/full": lambda path, out: path.symlink_to("/dev/full"),
    "a link to /dev/tty": lambda path, out: path.symlink_to("/dev/tty"),
    "a link to /etc/passwd": lambda path, out: path.symlink_to("/etc/passwd"),
    "a link to /proc/self/environ": lambda path, out: path.symlink_to("/proc/self/environ"),
    "a named pipe": lambda path, out: os.mkfifo(path),
    "a socket": _socket,
    "a folder": lambda path, out: path.mkdir(),
}


def links_in_runs(bench: Bench, material: Material) -> Tried:
    """A file of a run, or one that a command makes there, is a link or a device."""
    rng, every = bench.rng, kinds(material)
    more = [".lock", "summary.json", "grades.jsonl", "grades.relative.jsonl", "judge.jsonl",
            "responses.jsonl", "problems.jsonl", "manifest.json"]  # fmt: skip
    for _ in range(bench.count(300)):
        kind = rng.choice(every)
        place = bench.place()
        outside = Outside(place)
        shutil.copytree(kind.folder, place / "run", symlinks=True)
        files = [path.relative_to(kind.folder) for path in trial.files_below(kind.folder)]
        name = rng.choice([*map(str, files), *more])
        what = rng.choice(list(KINDS))
        _put(place / "run" / name, what, outside)
        command = rng.choice(list(kind.commands))
        outcome = trial.attempt(
            modgap(*kind.commands[command](place / "run", place)), place, limit=30.0
        )
        yield f"{kind.name}: {name} is {what}, {command}", _judge(outcome, place, outside)
        bench.clear(place)


def links_in_data(bench: Bench, material: Material) -> Tried:
    """A file of a data set is a link or a device."""
    rng, every = bench.rng, layouts(material)
    for _ in range(bench.count(200)):
        layout = rng.choice(every)
        place = bench.place()
        outside = Outside(place)
        shutil.copytree(layout.folder, place / "data")
        file = rng.choice([layout.file, *trial.files_below(layout.folder)])
        name = Path(file).relative_to(layout.folder) if isinstance(file, Path) else Path(file)
        what = rng.choice(list(KINDS))
        _put(place / "data" / name, what, outside)
        data = str(place / "data" / layout.place)
        argv = _reader(layout.name, data, place, rng)
        outcome = trial.attempt(modgap(*argv), place, limit=30.0)
        yield f"{layout.name}: {name} is {what}, {argv[:2]}", _judge(outcome, place, outside)
        bench.clear(place)


def _reader(benchmark: str, data: str, place: Path, rng: random.Random) -> list[str]:
    if benchmark == "pgps9k" and rng.random() < 0.6:
        if rng.random() < 0.5:
            return ["data", "prepare", data, "--out", str(place / "out"), "--variant", "no-text"]
        return ["eval", "--data", data, "--model", data, "--engine", _echo(), "--samples", "1",
                "--out", str(place / "run")]  # fmt: skip
    return ["data", "check", data, "--benchmark", benchmark]


def _echo() -> str:
    return f"{Path(__file__).with_name('echo.py')}:Echo"


def odd_places(bench: Bench, material: Material) -> Tried:
    """What the user names as input or as output is a link, a device or somebody else's."""
    commands: dict[str, Callable[[Path], list[str]]] = {
        "data synth": lambda p: ["data", "synth", "--out", str(p), "--train", "1", "--test", "1"],
        "data prepare": lambda p: ["data", "prepare", str(material.data), "--out", str(p),
                                   "--variant", "no-text"],
        "eval": lambda p: material.evaluation(p),
        "import": lambda p: material.importing(p),
        "report": lambda p: ["report", str(material.run), "--out", str(p)],
        "data of eval": lambda p: material.evaluation(p.parent / "run", p, model=material.data),
        "data of check": lambda p: ["data", "check", str(p)],
        "pairs": lambda p: ["data", "check", str(p), "--benchmark", "pairs"],
        "run of grade": lambda p: ["grade", str(p)],
        "run of report": lambda p: ["report", str(p), "--out", str(p.parent / "r.html")],
        "answers": lambda p: ["import", str(p), "--gt", str(material.golds), "--out",
                              str(p.parent / "run")],
        "golds": lambda p: ["import", *map(str, material.answers), "--gt", str(p), "--out",
                            str(p.parent / "run")],
        "config": lambda p: ["eval", "--config", str(p), "--out", str(p.parent / "run")],
        "models": lambda p: ["eval", "--models", str(p), "--data", str(material.data), "--engine",
                             _echo(), "--out", str(p.parent / "run")],
        "model": lambda p: ["eval", "--model", str(p), "--data", str(material.data), "--out",
                            str(p.parent / "run")],
        "checkpoint": lambda p: ["convert", str(p), "--out", str(p.parent / "run")],
    }  # fmt: skip
    # A link that the user names is followed: only what nobody can mean is tried.
    odd = [name for name in KINDS if not name.startswith("a link to a") and name != "a folder"
           and name != "a link out by .."]  # fmt: skip
    for name, command, what in bench.some(
        [(name, command, what) for name, command in commands.items() for what in odd]
    ):
        place = bench.place()
        outside = Outside(place)
        KINDS[what](place / "named", outside)
        outcome = trial.attempt(modgap(*command(place / "named")), place, limit=30.0)
        yield f"{name}: {what}", _judge(outcome, place, outside)
        bench.clear(place)


def _put(path: Path, what: str, outside: Outside) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    KINDS[what](path, outside)


def _judge(outcome: trial.Outcome, place: Path, outside: Outside) -> str:
    if fault := trial.against(outcome) or outside.against():
        return fault
    if fault := trial.temporaries(place):
        return fault
    if "root:x:0" in outcome.said:
        return "printed /etc/passwd"
    for path in trial.files_below(place):
        data = path.read_bytes() if path != outside.file else b""
        if b"root:x:0" in data or trial.SECRET.encode() in data:
            return f"{path.relative_to(place)} holds what is outside"
    return ""
