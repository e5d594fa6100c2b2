"""`write_dataset`: a folder of synthetic problems in PGPS9K's layout.

`solutions.json` is written beside them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from modgap.core.disk import full_disk
from modgap.core.errors import UserError
from modgap.core.files import locked
from modgap.core.processes import spread
from modgap.datasets.synthetic.families import family as family_of

_CHUNK = 32
# The files appear in this order and are removed in the reverse order.
_ORDER = ("solutions", "test", "train")
_SERIAL = 256  # below this number of problems, starting processes does not pay


def write_dataset(
    out: Path,
    train: int,
    test: int,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    force: bool = False,
    family: str = "geometry",
) -> None:
    """Write `train.json`, `test.json`, `solutions.json` and `Diagram_Visual/img_N.png`.

    Problem N is `prob_N` with diagram `img_N.png`; train has 0 to `train` - 1 and test the numbers
    after them, so that ids do not repeat. The three JSON files appear at the very end, whole,
    `train.json` as the last: a folder without it is unfinished, and a run that was killed leaves
    none. One process writes a folder at a time. The bytes written depend on `train`, `test`,
    `seed` and `family` only. Memory does not grow with the number of problems. Processes are
    started by spawning: a script that calls this with `workers` above 1 keeps its own work under
    `if __name__ == "__main__":`.

    Args:
        out: The folder; made if absent. An unfinished set in it is made anew.
        train: How many training problems.
        test: How many test problems.
        seed: The seed of both streams.
        workers: Processes (default: the CPUs that this process may use).
        progress: Called with (done, total) as problems are written.
        force: Replace an earlier synthetic data set.
        family: Of the problems: `geometry` or `charts`.

    Raises:
        UserError: Negative counts, an unknown family, or a folder that cannot be written, that
            another process is writing, or that holds a data set (ours without `force`; somebody
            else's in any case); or a process ended early, as without that guard.
    """
    if train < 0 or test < 0:
        raise UserError(f"the numbers of problems must not be negative: train={train}, test={test}")
    family_of(family)
    if workers is not None and workers < 1:
        raise UserError(f"workers must be at least 1, not {workers}")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder as --out.")
    _check_ours(out)
    try:
        (out / "Diagram_Visual").mkdir(parents=True, exist_ok=True)
        with _lock(out):
            if (out / "train.json").exists() and not force:  # the last file of a set
                raise UserError(
                    f"{out} holds a data set already: give another --out, or --force to replace it."
                )
            _write(out, train, test, seed, family, workers, progress)
    except OSError as error:
        if why := full_disk(error):
            raise UserError(f"{out} cannot be written: {why}. Make room there.") from error
        raise UserError(
            f"cannot write problems to {out} ({error.strerror}): fix that, or give another --out."
        ) from error


def _check_ours(out: Path) -> None:
    """Refuse a data set that was not made here: it is never replaced. Raises `UserError`."""
    there = any((out / f"{name}.json").exists() for name in ("train", "test"))
    if there and not (out / "solutions.json").exists():
        raise UserError(
            f"{out} holds a data set without solutions.json, so not one of ours: give another"
            " --out."
        )
    diagrams = out / "Diagram_Visual"
    # Each set of ours has the lock since before its first diagram.
    if not there and not (out / ".lock").exists() and diagrams.is_dir() and any(diagrams.iterdir()):
        raise UserError(f"{diagrams} holds images that are not ours: give another --out.")


@contextlib.contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Hold the folder for writing."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(out / ".lock"))
        except BlockingIOError:
            raise UserError(
                f"another process is writing {out}: wait for it, or give another --out."
            ) from None
        yield


def _write(
    out: Path,
    train: int,
    test: int,
    seed: int,
    family: str,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    finals = {name: out / f"{name}.json" for name in _ORDER}
    diagrams = out / "Diagram_Visual"
    for name in reversed(_ORDER):
        finals[name].unlink(missing_ok=True)
    for stale in out.glob(".*.json.*.part"):  # of a run that was killed
        stale.unlink()
    total = train + test
    parts = {name: out / f".{name}.json.{os.getpid()}.part" for name in _ORDER}
    with contextlib.ExitStack() as stack:
        for part in parts.values():
            stack.callback(part.unlink, missing_ok=True)
        files = {
            name: stack.enter_context(path.open("w", encoding="utf-8"))
            for name, path in parts.items()
        }
        started: set[str] = set()
        for done, (number, record, solution) in enumerate(
            _made(diagrams, train, total, seed, family, workers), 1
        ):
            split = "train" if number < train else "test"
            _append(files[split], split in started, f"prob_{number}", record)
            _append(files["solutions"], "solutions" in started, f"{split}/prob_{number}", solution)
            started |= {split, "solutions"}
            if progress is not None:
                progress(done, total)
        for name, file in files.items():
            file.write("\n}\n" if name in started else "{}\n")
            file.close()
        for stale in diagrams.glob("img_*.png"):
            if stale.stem[4:].isdigit() and int(stale.stem[4:]) >= total:
                stale.unlink()
        for name in _ORDER:
            os.replace(parts[name], finals[name])


def _append(file: IO[str], more: bool, key: str, value: object) -> None:
    """One more entry of a JSON object, on a line of its own."""
    file.write(
        f"{',' if more else '{'}\n{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
    )


Made = tuple[int, dict[str, object], str]


def _made(
    diagrams: Path, train: int, total: int, seed: int, family: str, workers: int | None
) -> Iterator[Made]:
    """Number, record and solution of each problem, in order; the diagrams are written meanwhile."""
    count = (
        workers or len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else workers or os.cpu_count()
    )
    if count == 1 or total < _SERIAL:
        yield from (_make(diagrams, train, seed, family, number) for number in range(total))
        return
    spans = (range(at, min(at + _CHUNK, total)) for at in range(0, total, _CHUNK))
    make = partial(_make_span, diagrams, train, seed, family)
    for made in spread(make, spans, count or 1):
        yield from made


def _make_span(diagrams: Path, train: int, seed: int, family: str, span: range) -> list[Made]:
    return [_make(diagrams, train, seed, family, number) for number in span]


def _make(diagrams: Path, train: int, seed: int, family: str, number: int) -> Made:
    """Make one problem and write its diagram."""
    split, index = ("train", number) if number < train else ("test", number - train)
    problem = family_of(family).make(seed, index, split)
    name = f"img_{number}.png"
    (diagrams / name).write_bytes(problem.png)
    return number, {**problem.record, "diagram": name}, problem.solution
