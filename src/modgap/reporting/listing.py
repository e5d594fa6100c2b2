"""Which runs are below a folder, and how far they are: `modgap ls`.

Only manifests, summaries and the number of lines of a run's files are read, so that a folder with
hundreds of runs is listed at once.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from modgap.analysis.results import GapSummary, read_summary
from modgap.core.errors import UserError
from modgap.core.files import open_regular
from modgap.core.text import counted, percent, signed
from modgap.core.view import samples_of
from modgap.reporting.manifests import Manifest, read_manifest
from modgap.reporting.tables import Table

State = Literal["running", "finished", "interrupted", "damaged"]
DEPTH = 5
"""How many folders down runs are looked for: OUT/seedN/RECIPE/eval is three below its parent."""
_STAGE = re.compile(r"stage\d+")


@dataclass(frozen=True, slots=True)
class Listed:
    """A run folder.

    Attributes:
        path: Where it is.
        kind: `eval`, `import`, `train` or `study`.
        model: What is measured or trained.
        data: The data set as it was given, or the benchmark.
        done: How far it is, in words.
        state: `running` while a process holds its lock. `damaged`: it cannot be read.
        gap: Of an evaluation that is graded.
    """

    path: Path
    kind: str
    model: str
    data: str
    done: str
    state: State
    gap: GapSummary | None = None


def list_runs(folder: Path) -> list[Listed]:
    """The runs in and below a folder, in the order of their paths.

    Raises:
        UserError: There is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name one that runs are in.")
    found = list(_runs(folder, Listed(folder, "", "", "", "", "finished"), DEPTH))
    if not found:
        raise UserError(
            f"no run is in {folder}: name the --out of modgap eval, train or study, or a folder"
            " above it."
        )
    return found


def listing(runs: list[Listed], folder: Path) -> Table:
    """The runs as a table, their paths relative to the folder."""
    rows: list[tuple[str, ...]] = []
    for run in runs:
        gap = run.gap
        numbers = ("", "", "")
        if gap:
            numbers = (percent(gap.text_accuracy), percent(gap.vision_accuracy), signed(gap.points))
        name = os.path.relpath(run.path, folder)
        rows.append((name, run.model, run.data, run.kind, run.state, run.done, *numbers))
    head = ("run", "model", "data", "kind", "state", "done", "text", "image", "gap")
    return Table(f"Runs in {folder}", head, tuple(rows), left=3)


def _runs(folder: Path, above: Listed, depth: int) -> Iterator[Listed]:
    """The runs in a folder; `above` has the model and the data of the study that it is in."""
    if (folder / "manifest.json").is_file():
        run = _listed(folder, above)
        if run.kind in _KINDS or run.state == "damaged":
            yield run
            if run.kind == "study":
                above = run
    if depth == 0:
        return
    for part in sorted(folder.iterdir()):
        if part.is_dir() and not part.is_symlink() and not _STAGE.fullmatch(part.name):
            yield from _runs(part, above, depth - 1)


def _listed(folder: Path, above: Listed) -> Listed:
    """What a folder with a manifest is."""
    try:
        manifest = read_manifest(folder)
        run = Listed(
            folder,
            manifest.kind,
            above.model or _name(manifest.model or _stage_model(folder)),
            above.data or data_of(manifest),
            "",
            "interrupted",
        )
        run = _KINDS[manifest.kind](run, manifest) if manifest.kind in _KINDS else run
    except UserError:
        return Listed(folder, "", above.model, above.data, "", "damaged")
    return replace(run, state="running") if _is_held(folder) else run


def _evaluation(run: Listed, manifest: Manifest) -> Listed:
    responses, grades = (_lines(run.path / f"{name}.jsonl") for name in ("responses", "grades"))
    views = manifest.resolved.get("views") or ()
    samples = _number(manifest, "samples")
    each = sum(samples_of(str(view), samples) for view in views)
    asked = each * _lines(run.path / "problems.jsonl")
    done = f"{responses:,} of {asked:,}" if asked else counted(responses, "sample")
    is_graded = responses > 0 and grades == responses and (run.path / "summary.json").is_file()
    if not is_graded:
        return replace(run, done=done)
    return replace(run, done=done, state="finished", gap=read_summary(run.path).gap)


def _training(run: Listed, manifest: Manifest) -> Listed:
    stages = len(manifest.resolved.get("stages") or ()) or 1
    folders = [run.path / f"stage{number}" for number in range(1, stages + 1)]
    finished = [(folder / "result.json").is_file() for folder in folders]
    if all(finished):
        steps = sum(_lines(folder / "train_log.jsonl") for folder in folders)
        return replace(run, done=counted(steps, "step"), state="finished")
    at = finished.index(False)
    steps = _lines(folders[at] / "train_log.jsonl")
    of = _number(read_manifest(folders[at]), "steps")
    stage = f"stage {at + 1} of {stages}, " if stages > 1 else ""
    done = f"{steps:,} of {counted(of, 'step')}" if of else "not begun"
    return replace(run, done=f"{stage}{done}")


def _study(run: Listed, manifest: Manifest) -> Listed:
    parts = [part for part in run.path.glob("*/eval") if (part / "summary.json").is_file()]
    is_done = (run.path / "summary.json").is_file()
    return replace(
        run, done=f"{len(parts):,} measured", state="finished" if is_done else "interrupted"
    )


_KINDS = {"eval": _evaluation, "import": _evaluation, "train": _training, "study": _study}


def _is_held(folder: Path) -> bool:
    """Whether a process writes the run, or the training or study that it is part of."""
    lock = folder / ".lock"
    if not lock.is_file() or lock.is_symlink():
        return False
    with open_regular(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back when the file is closed
        except BlockingIOError:
            return True
    return False


def _stage_model(folder: Path) -> str:
    """The model of a training, which its first stage names."""
    return read_manifest(folder / "stage1").model


def data_of(manifest: Manifest) -> str:
    """The data set as it was given, or the benchmark; empty where neither is recorded."""
    options = manifest.whole.get("options")
    named = [manifest.given, options if isinstance(options, dict) else {}, manifest.resolved]
    for place in named:
        for key in ("data", "benchmark"):
            if place.get(key):
                return _name(str(place[key]))
    return ""


def _name(text: str) -> str:
    """A path by its last part; the id of a hub as it is."""
    return Path(text).name if Path(text).is_absolute() or text.count("/") > 1 else text


def _number(manifest: Manifest, key: str) -> int:
    value = manifest.resolved.get(key)
    return value if isinstance(value, int) else 0


def _lines(path: Path) -> int:
    """Complete lines of a file; 0 if it does not exist."""
    if not path.is_file():
        return 0
    count = 0
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            count += block.count(b"\n")
    return count
