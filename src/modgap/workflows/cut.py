"""A part of an evaluation as a run of its own: fewer views, samples or problems."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from modgap.analysis.run import Run, load_run
from modgap.analysis.scores import Arrangement
from modgap.core.errors import UsageError, UserError, unknown
from modgap.core.progress import say
from modgap.core.record import RunFolder
from modgap.core.rows import ProblemRow, Response
from modgap.core.view import samples_of
from modgap.workflows.grade import grade_held, graded_in

_KEPT = ("options", "transcriptions_in", "history")
"""What the manifest of a part takes over."""


def cut(
    source: Run | Path | str,
    out: Path | str,
    *,
    views: str | None = None,
    samples: int | None = None,
    limit: int | None = None,
) -> Run:
    """Write a part of an evaluation as a run that is graded and reported like any other.

    Its manifest says what it was cut from (`cut_from`). The command of `modgap eval` with the
    part's arguments resumes and extends it. A part that is there already is left as it is.

    Args:
        source: The run or its folder; it stays as it is.
        out: Folder of the part.
        views: Comma-separated, of the run's views; all if not given.
        samples: The first samples of each problem and view; all if not given.
        limit: The first problems; all if not given.

    Returns:
        The part.

    Raises:
        UserError: The run is not one of `modgap eval`, does not have what is asked for, or `out`
            holds something else, also a part of the run as it was before.
    """
    whole = source if isinstance(source, Run) else load_run(source)
    manifest: dict[str, Any] = dict(whole.manifest)
    before: dict[str, Any] = manifest.get("resolved", {})
    if manifest.get("kind") != "eval" or "views" not in before or "samples" not in before:
        raise UserError(f"{whole.path} cannot be cut: give a run of `modgap eval`.")
    chosen = _views(views, before["views"])
    count = _number("--samples", samples, before["samples"])
    problems = list(whole.problems.values())
    rows = list(itertools.islice(problems, _number("--limit", limit, len(problems))))
    kept = before | {"views": chosen, "samples": count, "problems": len(rows)}
    if kept == before:
        raise UsageError("nothing is cut: give fewer --views, --samples or --limit than the run's.")
    folder = RunFolder(out)
    if folder.path.resolve() == whole.path.resolve():
        raise UserError(f"--out {out} is the run itself: give another folder.")
    folder.check_place("eval")
    fingerprints = dict(manifest.get("fingerprints", {}))
    if len(rows) < len(problems):
        # That of the problems together is of all of them; each has its own in fingerprints.json.
        fingerprints.pop("data_fingerprint", None)
    responses = _chosen(whole, rows, chosen, count)
    cut_from = {name: manifest.get(name) for name in ("resolved", "fingerprints")}
    cut_from["responses"] = _digest(responses())
    with folder.lock():
        there: dict[str, Any] = dict(folder.manifest()) if folder.manifest_path.is_file() else {}
        if "cut_from" in there and not folder.unanswered():
            part_of, now = there.get("resolved", {}), json.loads(json.dumps(kept))
            if other := [name for name in now if part_of.get(name) != now[name]]:
                changes = "; ".join(f"{n} was {part_of.get(n)}, now {now[n]}" for n in other)
                raise UserError(
                    f"{out} holds another part of a run ({changes}): give another --out, or remove"
                    f" {out}."
                )
            if there["cut_from"] == cut_from and (folder.path / "summary.json").is_file():
                say(f"{out} holds this part already")
                return Run(folder.path)
        folder.start("eval", kept, manifest.get("given", {}), **fingerprints)
        part = Run(folder.path)
        if folder.unanswered():
            folder.note("cut_from", cut_from)
            _write(folder, whole, rows, count, responses())
        elif cast("dict[str, Any]", part.manifest).get("cut_from") != cut_from:
            raise UserError(
                f"{out} holds another run's part, or one from before {whole.path} was extended,"
                f" finished or had failed samples made again: give another --out, or remove {out}."
            )
        grade_held(folder, graded_in(whole.folder))
    return part


def _chosen(
    whole: Run, rows: list[ProblemRow], views: list[str], samples: int
) -> Callable[[], Iterator[Response]]:
    """What reads the responses of a part from the run, as often as it is called."""
    names = {row.id for row in rows}
    asked = {view: samples_of(view, samples) for view in views}

    def taken() -> Iterator[tuple[int, Response]]:
        for start, row in whole.folder.placed_responses():
            if row.problem_id in names and row.sample < asked.get(row.view, 0):
                yield start, row

    # Read again for each use, as no text is kept: of a sample that is there twice, the last line
    # counts.
    arranged = Arrangement(whole.problems, samples)
    for start, row in taken():
        arranged.add_response(row, start)
    return lambda: (row for start, row in taken() if arranged.is_last(row, start))


def _digest(responses: Iterable[Response]) -> str:
    """What changes where the run is finished, or failed samples of it are made again."""
    digest = hashlib.sha256()
    for row in responses:
        digest.update(json.dumps([*row.key, row.finish_reason, row.response]).encode())
    return digest.hexdigest()[:16]


def _write(
    folder: RunFolder,
    whole: Run,
    rows: list[ProblemRow],
    samples: int,
    responses: Iterator[Response],
) -> None:
    """The files of a part, without its grades."""
    manifest: dict[str, Any] = dict(whole.manifest)
    names = {row.id for row in rows}
    for name in _KEPT:
        if name in manifest:
            folder.note(name, manifest[name])
    if sampling := manifest.get("sampling"):
        folder.note("sampling", sampling | {"samples": samples})
    folder.write_problems(rows)
    if each := whole.folder.fingerprints():
        folder.write_fingerprints({name: parts for name, parts in each.items() if name in names})
    verdicts = whole.path / "judge.jsonl"
    if verdicts.is_file():
        shutil.copyfile(verdicts, folder.path / verdicts.name)
    # Written last: where there are responses, the part lacks nothing but its grades.
    folder.write_responses(responses)


def _views(asked: str | None, there: list[str]) -> list[str]:
    names = there if asked is None else [name.strip() for name in asked.split(",") if name.strip()]
    for name in names:
        if name not in there:
            raise unknown("view", name, there, "A part has views of its run.")
    if not names:
        raise UserError(f"no view given: choose from {', '.join(there)}.")
    return [view for view in there if view in names]


def _number(option: str, asked: int | None, there: int) -> int:
    if asked is None:
        return there
    if not 1 <= asked <= there:
        raise UserError(f"{option} {asked}: give 1 to {there}, what the run has.")
    return asked
