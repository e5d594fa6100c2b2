"""Where a run may be put: which folders are refused, so that nothing foreign is written over."""

from __future__ import annotations

import tempfile
from pathlib import Path

from modgap.core.errors import UserError
from modgap.core.files import open_regular

# Files that only a started run holds, by the kind of the run: without a manifest it is not known
# which run they belong to. A stage, an evaluation or a base model that is a link belongs to another
# run.
_OF_AN_EVALUATION = ("responses.jsonl", "grades.jsonl", "grades.*.jsonl", "judge.jsonl")
_OF_A_TRAINING = (
    "train_log.jsonl", "rollouts.jsonl", "state.pt", "result.json", "checkpoints/step_*",
    "verl/global_step_*",
)  # fmt: skip
_TRACES = (*_OF_AN_EVALUATION, *_OF_A_TRAINING)
_TRACES_BELOW = {
    "train": tuple(f"stage*/{name}" for name in _OF_A_TRAINING),
    "study": (
        *(f"*/eval/{name}" for name in _OF_AN_EVALUATION),
        *(f"*/stage*/{name}" for name in _OF_A_TRAINING),
    ),
    "demo": ("data/*.json", "study/manifest.json"),
}
DATA_FILES = ("train.json", "test.json", "Diagram_Visual")
"""What a data set in PGPS9K's layout holds: no run is put into such a folder."""
_WRITTEN = {
    "eval": ("problems.jsonl", "fingerprints.json", "summary.json"),
    "import": ("problems.jsonl", "summary.json", "import.json"),
    "study": ("summary.json", "report.html"),
}
"""Further files that a run of a kind writes. One that is there without a manifest is not ours."""
RESTORE = "put back the manifest.json that belongs to it, or give another --out"
"""What helps where files and manifest do not belong together."""


def check_folder(path: Path) -> None:
    """Refuse a file where a folder is to be. Raises `UserError`."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: give a folder as --out.")
    for there in (path, *path.parents):
        if there.is_symlink() and not there.exists():
            raise UserError(f"{there} is a link to nothing: remove it, or give another --out.")


def check_writable(path: Path) -> None:
    """Refuse a folder that cannot be made or written to, without making it. Raises `UserError`."""
    check_folder(path)
    there = existing(path)
    if not there.is_dir():
        raise UserError(f"--out {path}: {there} is a file, not a folder; give another --out.")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"--out {path}: {there} cannot be written to ({error.strerror}); give another --out."
        ) from None


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return there


def check_unused(folder: Path, kind: str) -> None:
    """Refuse a folder without a manifest that holds what a run of this kind would write over.

    Args:
        folder: The folder.
        kind: As for `RunFolder.start`.

    Raises:
        UserError: It holds a data set, files of a run, or files that a run would replace.
    """
    out = f"--out {folder}"
    if trace := find_trace(folder, kind):
        raise lost_manifest(folder, trace)
    if any((folder / name).exists() for name in DATA_FILES):
        raise UserError(f"{out}: that is a data set; give another --out.")
    for name in () if _has_own_problems(folder) else _WRITTEN.get(kind, ()):
        if (folder / name).exists():
            raise UserError(
                f"{out}: {folder / name} is not a file of a run, and the run would replace"
                " it; give another --out."
            )


def _has_own_problems(folder: Path) -> bool:
    """Whether problems.jsonl is a run's, such as one that was cleared by hand to begin anew."""
    path = folder / "problems.jsonl"
    if not path.is_file():
        return False
    with open_regular(path) as file:
        line = file.readline(1 << 20)
    return b'"leaky":' in line and b'"question_type":' in line


def find_trace(folder: Path, kind: str | None = None) -> str:
    """The name of a file that only a started run holds; empty where there is none."""
    for pattern in (*_TRACES, *_TRACES_BELOW.get(kind or "", ())):
        for path in sorted(folder.glob(pattern)):
            parts = path.relative_to(folder).parts
            above = [folder.joinpath(*parts[: n + 1]) for n in range(len(parts) - 1)]
            linked = any(place.is_symlink() for place in above)
            if path.exists() and path.stat().st_size and not linked:
                return str(path.relative_to(folder))
    return ""


def lost_manifest(folder: Path, trace: str) -> UserError:
    """The error where a folder holds `trace`, and no manifest."""
    return UserError(
        f"{folder} has lost its manifest.json: it holds {trace}, and of which run is not"
        f" known. Remedy: {RESTORE}."
    )
