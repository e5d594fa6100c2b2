"""Damaged run folders: whatever a file holds, no number changes in silence, and one line says why.

Files of every kind of run are damaged in every way, and given to every command that reads them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from attacks import trial
from attacks.damage import DAMAGES, Damage, damaged
from attacks.material import Material
from attacks.trial import Bench, Outcome, Tried, modgap

_BINARY = (".pt", ".safetensors", ".png", ".svg", ".parquet")
_NAMED_ELSEWHERE = ("manifest", "damaged", "run", "--out")


@dataclass(frozen=True)
class Kind:
    """A kind of run, and what reads it.

    Attributes:
        name: Of it.
        folder: A sound one.
        commands: Name -> the command, given the copy and the folder around it.
        weight: How often it is tried.
        other: Another run of its kind, whose files are swapped in.
    """

    name: str
    folder: Path
    commands: dict[str, Callable[[Path, Path], list[str]]]
    weight: int = 2
    other: Path | None = None


def kinds(material: Material) -> list[Kind]:
    """Every kind of run folder."""

    def report(run: Path, place: Path) -> list[str]:
        return ["report", str(run), "--out", str(place / "r.html")]

    def grade(run: Path, _: Path) -> list[str]:
        return ["grade", str(run)]

    def resume(run: Path, _: Path) -> list[str]:
        return material.evaluation(run)

    def reimport(run: Path, _: Path) -> list[str]:
        return material.importing(run)

    def retrain(run: Path, _: Path) -> list[str]:
        return material.training(run)

    def cells(run: Path, place: Path) -> list[str]:
        return ["report", str(run / "cells.json"), "--out", str(place / "r.html")]

    def power(run: Path, _: Path) -> list[str]:
        return ["power", "--gap", "5", "--run", str(run)]

    return [
        Kind("evaluation", material.run,
             {"grade": grade, "report": report, "eval": resume, "power": power},
             8, material.other_run),
        Kind("import", material.imported,
             {"grade": grade, "report": report, "import": reimport}, 3),
        Kind("judged", material.judged, {"grade": grade, "report": report}),
        Kind("training", material.trained, {"report": report, "train": retrain}),
        Kind("study", material.study, {"report": report}, 1),
        Kind("cells", material.cells, {"report": cells}, 1),
    ]  # fmt: skip


def damaged_runs(bench: Bench, material: Material) -> Tried:
    """A file of a run, a damage, and a command that reads it."""
    kinds_of_runs, rng = kinds(material), bench.rng
    weights = [kind.weight for kind in kinds_of_runs]
    baseline: dict[tuple[str, str], str] = {}
    for _ in range(bench.count(1500)):
        (kind,) = rng.choices(kinds_of_runs, weights)
        path = rng.choice(_files(kind.folder))
        damage = rng.choice((*DAMAGES, *_swaps(kind, path)))
        name = rng.choice(list(kind.commands))
        sound = baseline.get((kind.name, name))
        if sound is None:
            sound = baseline[kind.name, name] = _sound(bench, kind, name)
        place = bench.place()
        copy = place / "run"
        shutil.copytree(kind.folder, copy, symlinks=True)
        file = copy / path.relative_to(kind.folder)
        before = file.read_bytes()
        file.write_bytes(damaged(damage, before, bench.rng))
        same = file.read_bytes() == before
        outcome = trial.attempt(modgap(*kind.commands[name](copy, place)), place)
        tried = f"{kind.name}: {path.relative_to(kind.folder)} {damage.name}, {name}"
        yield tried, _judge(outcome, place, file, damage, sound, same)
        bench.clear(place)


def _files(folder: Path) -> list[Path]:
    """What can be damaged; of a study's equal folders the first two."""
    return [path for path in trial.files_below(folder) if path.name not in (".lock", "report.html")]


def _swaps(kind: Kind, path: Path) -> Iterator[Damage]:
    """Files of another run instead of the run's own."""
    if kind.other and (other := kind.other / path.relative_to(kind.folder)).exists():
        content = other.read_bytes()
        yield Damage("that of another run", lambda data, rng, c=content: c)
    for near in _files(path.parent)[:6]:
        if near.parent == path.parent and near != path and near.suffix == path.suffix:
            content = near.read_bytes()
            yield Damage(f"{near.name} in its place", lambda data, rng, c=content: c)


def _sound(bench: Bench, kind: Kind, name: str) -> str:
    """What a command prints about the sound run."""
    place = bench.place()
    shutil.copytree(kind.folder, place / "run", symlinks=True)
    outcome = trial.attempt(modgap(*kind.commands[name](place / "run", place)), place)
    if outcome.status:
        raise RuntimeError(f"{kind.name}, {name}: {outcome.err}")
    bench.clear(place)
    return numbers(outcome)


def numbers(outcome: Outcome) -> str:
    """The figures on the terminal, without times and places."""
    kept = [
        line
        for line in outcome.out.splitlines()
        if not re.search(r"/|\d s\b|sampling:|tokens", line)
    ]
    return "\n".join(" ".join(line.split()) for line in kept)


def _judge(
    outcome: Outcome, place: Path, file: Path, damage: Damage, sound: str, same: bool
) -> str:
    inside = file.relative_to(place / "run").parts
    names = (file.name, *inside, *_NAMED_ELSEWHERE)
    if fault := trial.against(outcome, names=names) or trial.temporaries(place):
        return fault
    made = sorted(path.name for path in place.iterdir())
    if extra := set(made) - {"run", "tmp", "r.html"}:
        return f"made {', '.join(extra)}"
    binary = file.suffix in _BINARY
    plain = damage.plain and not same and not binary
    if plain and not outcome.warned and (now := numbers(outcome)) != sound:
        return f"other numbers and no warning: {difference(sound, now)}"
    return ""


def difference(old: str, new: str) -> str:
    """The first lines in which two texts differ."""
    before, after = old.splitlines(), new.splitlines()
    lost = [line for line in before if line not in after][:3]
    more = [line for line in after if line not in before][:3]
    return f"was {lost}, is {more}"
