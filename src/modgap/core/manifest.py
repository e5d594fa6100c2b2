"""`manifest.json`: what a run is, and whether the problems and responses beside it are its own.

It also has the folders of the diagrams, so that a run can be moved.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Container, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict, cast

from modgap.core.engine import sample_seed
from modgap.core.errors import UserError
from modgap.core.files import read_text
from modgap.core.json_files import short_digest
from modgap.core.places import find_trace, lost_manifest
from modgap.core.rows import ProblemRow, Response
from modgap.core.version import __version__

MANIFEST = "manifest.json"
IMAGE_FOLDERS = "image_folders"
"""The key of a manifest under which are the folders of the diagrams: a report reads no others.

`problems.jsonl` names a diagram from the folder that all of these are in, so that the run can be
moved; files of older versions have absolute paths.
"""
PROBLEMS_DIGEST = "problems_digest"
"""The key of a manifest under which is the digest of the problems."""
_GRADED_BY = ("id", "answer", "answers", "question", "questions", "grader", "views")
_MOST_FOLDERS = 50


class RunManifest(TypedDict, total=False):
    """What `manifest.json` holds; a file of an earlier version lacks some of it.

    Attributes:
        kind: `eval`, `train`, `study`, `import`, `demo`, `prepare`.
        created: When, with the time zone.
        versions: Of Python, modgap and the libraries that decide results.
        git: Commit and dirty flag of the source tree.
        given: The arguments as the user gave them.
        resolved: The arguments that make the run what it is.
        fingerprints: Of the model and the data.
        options: The values in force of every option; those of `modgap grade` under `grade`.
        sampling: How the samples are drawn, parts that the engine decides included.
        history: What the run was before it was extended, the oldest first: `given`, `resolved`,
            `fingerprints`, `versions`, `git`, and `until` when.
        transcriptions_in: Where transcriptions stood: `assistant turn`, `user turn`, or both.
        threads: Of a training on a CPU, by which its numbers resume to the last bit.
    """

    kind: str
    created: str
    versions: dict[str, str]
    git: dict[str, object]
    given: dict[str, Any]
    resolved: dict[str, Any]
    fingerprints: dict[str, str | None]
    options: dict[str, Any]
    sampling: dict[str, Any]
    history: list[dict[str, Any]]
    transcriptions_in: list[str]
    threads: int


def read_manifest(folder: Path) -> RunManifest:
    """The manifest; a `UserError` if this is not a run folder, or the manifest is damaged."""
    path = folder / MANIFEST
    if not path.exists():
        if trace := find_trace(folder):
            raise lost_manifest(folder, trace)
        runs = sorted(at.parent for at in folder.glob(f"*/{MANIFEST}"))[:3]
        near = f" Did you mean {' or '.join(map(str, runs))}?" if runs else ""
        raise UserError(
            f"{folder} is not a run folder (it has no manifest.json): give the --out of an"
            f" earlier run.{near}"
        )
    remedy = "put the file back from a copy, or give another --out"
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it is not an object): {remedy}.")
    fields = cast("dict[str, object]", found)
    for name in ("given", "resolved", "fingerprints", "options"):
        if not isinstance(fields.get(name, {}), dict):
            raise UserError(f"{path} is damaged ({name} is not an object): {remedy}.")
    return cast("RunManifest", found)


def origin(kind: str, given: Mapping[str, object] | None) -> RunManifest:
    """The part of a manifest that says where the files come from."""
    return {
        "kind": kind,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "git": git_state(),
        "given": dict(given or {}),
    }


def versions() -> dict[str, str]:
    """Versions of Python, of modgap and of the libraries that decide results, as installed."""
    found = {"python": platform.python_version(), "modgap": __version__}
    libraries = (
        "torch", "transformers", "accelerate", "peft", "vllm", "verl", "openai", "ray", "numpy",
        "pillow",
    )  # fmt: skip
    for name in libraries:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_state() -> dict[str, object]:
    """Commit and dirty flag of the source tree that modgap runs from.

    Empty where modgap is installed from a package.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return {}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}


def identity_of(manifest: Mapping[str, Any]) -> dict[str, object]:
    """What makes a run what it is."""
    return {
        "kind": manifest.get("kind"),
        **manifest.get("resolved", {}),
        **manifest.get("fingerprints", {}),
    }


_MEANT: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "eval": {
        "data_fingerprint": ("the problems", ("limit", "data")),
        "model_fingerprint": ("the model's weights", ("model",)),
    },
    "import": {"data_fingerprint": ("the problems", ("gt",))},
    "study": {
        "model_fingerprint": ("the model's weights", ("model",)),
        "start": ("the weights to start from", ("start_from",)),
        "train_fingerprint": ("the problems to train on", ("data",)),
        "test_fingerprint": ("the test problems", ("limit", "data")),
    },
    "train": {
        "model": ("the model's weights", ("model",)),
        "data": ("the problems to train on", ("data",)),
        "validation": ("the problems to validate on", ("data",)),
    },
}
"""Kind of a run -> name of a fingerprint -> what it is of, and the options that decide it."""

_DIVIDED_BY = ("validation_problems", "validation_split")
_PLAINER: dict[str, tuple[str, ...]] = {
    "data_fingerprint": ("problems",),
    "model_fingerprint": ("model",),
    "data": _DIVIDED_BY,
    "validation": _DIVIDED_BY,
}
"""Fingerprint -> the arguments that already say what is another one."""


def differing(manifest: RunManifest, now: Mapping[str, object]) -> list[str]:
    """The names of what makes a run another one than its manifest says; see `changes`."""
    before = identity_of(manifest)
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


def changes(
    manifest: RunManifest, now: Mapping[str, object], options: Mapping[str, object]
) -> list[str]:
    """What makes a run another one than its manifest says, in words; empty for the same run.

    Args:
        manifest: Of the run.
        now: `identity_of` the run that is asked for.
        options: Its options, as far as they are known.
    """
    before, kind = identity_of(manifest), str(now["kind"])
    names = differing(manifest, now)
    if "kind" in names:
        return [f"kind was {before['kind']!r}, now {kind!r}"]
    found: list[str] = []
    for name in names:
        if name not in (meant := _MEANT.get(kind, {})):
            flags = " (--limit, --data)" if (kind, name) == ("eval", "problems") else ""
            found.append(f"{name} was {before.get(name)!r}, now {now.get(name)!r}{flags}")
        elif not any(cause in names for cause in _PLAINER.get(name, ())):
            found += _changed_options(*meant[name], manifest.get("options", {}), options)
    return list(dict.fromkeys(found))


def _changed_options(
    what: str, names: Iterable[str], before: Mapping[str, object], now: Mapping[str, object]
) -> list[str]:
    """Which of the options that decide a fingerprint changed, with both values where known."""
    flags = {name: f"--{name.replace('_', '-')}" for name in names}
    known = [name for name in flags if name in before and name in now]
    changed = [
        f"{flags[name]} was {_given(before[name])}, now {_given(now[name])}"
        for name in known
        if before[name] != now[name]
    ]
    return changed or [f"{what} have changed ({', '.join(flags.values())})"]


def _given(value: object) -> str:
    return "not given" if value is None else str(value)


def mark_of(manifest: Mapping[str, Any]) -> str:
    """16 hex digits that identify a run's arguments and fingerprints."""
    return short_digest(identity_of(manifest))


def marks_of(manifest: RunManifest) -> set[str]:
    """The mark, and those that the run had before it was extended."""
    before = [{"kind": manifest.get("kind"), **part} for part in manifest.get("history", [])]
    return {mark_of(part) for part in (manifest, *before)}


def problems_digest(rows: Iterable[ProblemRow]) -> str:
    """16 hex digits of what decides the grades of problems, in any order."""
    parts = sorted(json.dumps([getattr(row, name) for name in _GRADED_BY]) for row in rows)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def image_folders(files: Iterable[str]) -> list[str]:
    """The folders of files; the one that holds all of them where there are many."""
    found = sorted({os.path.dirname(file) for file in files})
    return found if len(found) <= _MOST_FOLDERS else [os.path.commonpath(found)]


def image_root(folders: object) -> str:
    """The folder that all folders of diagrams are in; empty where it is not known."""
    named = cast("list[object]", folders) if isinstance(folders, list) else []
    places = [place for place in named if isinstance(place, str) and os.path.isabs(place)]
    return os.path.commonpath(places) if places else ""


def with_image_moved(row: ProblemRow, root: str, move: Callable[[str, str], str]) -> ProblemRow:
    """The row with the place of its diagram moved: made relative to `root`, or whole again."""
    if not root or not row.image:
        return row
    return row.model_copy(update={"image": move(row.image, root)})


def why_foreign(
    row: Response,
    manifest: RunManifest,
    own: Container[str],
    problems: Container[str] | None,
    prompt: Callable[[Response], str | None] | None,
) -> str:
    """Why a response is not one that the manifest describes; empty where it may be.

    Args:
        row: The response.
        manifest: The run's.
        own: What `marks_of` gives for it.
        problems: As in `RunFolder.own_responses`.
        prompt: As in `RunFolder.own_responses`.
    """
    resolved = manifest.get("resolved", {})
    if (kind := manifest.get("kind")) not in ("eval", "import"):
        return f"the manifest is that of another kind of run, {kind!r}"
    views, samples, seed = (resolved.get(name) for name in ("views", "samples", "seed"))
    if problems is not None and row.problem_id not in problems:
        return "the run has no such problem"
    if isinstance(views, list) and row.view not in views:
        return f"the run's views are {', '.join(map(str, cast('list[Any]', views)))}"
    if isinstance(samples, int) and not 0 <= row.sample < samples:
        return f"the run has samples 0 to {samples - 1}"
    if row.run and row.run not in own:
        return "it was made with other arguments, or by another model"
    if isinstance(seed, int) and row.seed and row.seed != sample_seed(seed, *row.key):
        return f"its seed does not follow from the run's seed {seed}"
    return _other_words(row, prompt)


def _other_words(row: Response, prompt: Callable[[Response], str | None] | None) -> str:
    asked = None if prompt is None else prompt(row)
    if prompt is None or asked == row.prompt:
        return ""
    if asked is None:
        return "the run does not ask this view of this problem"
    return "the run asks in other words"
