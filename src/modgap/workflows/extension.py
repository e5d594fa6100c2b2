"""An evaluation whose command is given again: what it keeps, and what it is given more of.

More views, samples or problems extend a run; any other difference is refused by `RunFolder.start`.
What was answered is not asked again: a sample's seed and prompt depend on nothing else than its own
problem, view and number.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.core.view import View, get_view

_GROWS = ("views", "samples", "problems")
"""The arguments of which a run can be given more."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """How a run resumes.

    Attributes:
        resolved: The arguments in force, views in the order of the run. Those of a run that cannot
            be extended are the ones asked for: `RunFolder.start` says what differs.
        data: The fingerprint of the problems in force.
        grows: Whether the run must be extended first.
        notes: What the user is to know.
    """

    resolved: dict[str, Any]
    data: str
    grows: bool
    notes: tuple[str, ...]


def resumption(
    run: RunFolder,
    resolved: Mapping[str, Any],
    data: str,
    each: Mapping[str, list[str]],
    kept: Collection[str],
) -> Resumption:
    """How a run resumes with these arguments; nothing is written.

    Args:
        run: The run.
        resolved: The arguments now.
        data: Fingerprint of the problems now.
        each: Fingerprints of each problem now.
        kept: Arguments that were not given: an existing run keeps its own.

    Raises:
        UserError: Problems that were answered have changed, or one of the run's views depends on
            the others.
    """
    notes: list[str] = []
    data = _as_corrected(run, data, each, [get_view(name) for name in resolved["views"]], notes)
    asked = {**resolved, **_as_begun(run, resolved, data, kept, notes)}
    more, grows = _extended(run, asked, data, each, notes)
    return Resumption(more, data, grows, tuple(notes))


def extend(run: RunFolder, found: Resumption, given: Mapping[str, object]) -> None:
    """Extend a run that grows; the caller holds the lock."""
    run.extend(found.resolved, given, data_fingerprint=found.data)
    if sampling := run.manifest().get("sampling"):
        run.note("sampling", sampling | {"samples": found.resolved["samples"]})


def _extended(
    run: RunFolder,
    resolved: dict[str, Any],
    data: str,
    each: Mapping[str, list[str]],
    notes: list[str],
) -> tuple[dict[str, Any], bool]:
    """The arguments in force, and whether the run has fewer views, samples or problems."""
    if run.unanswered() or not run.manifest_path.exists():
        return resolved, False
    manifest = run.manifest()
    before: dict[str, Any] = manifest.get("resolved", {})
    begun = manifest.get("fingerprints", {}).get("data_fingerprint")
    views: list[str] = before.get("views") or []
    if manifest.get("kind") != "eval" or not set(views) <= set(resolved["views"]):
        return resolved, False
    more = resolved | {"views": [*views, *(v for v in resolved["views"] if v not in views)]}
    if more["samples"] < before.get("samples", 0) or not _alike(before, more):
        return resolved, False
    if data != begun and not _more_problems(run, data, each, views):
        return resolved, False
    if data == begun and all(before.get(name) == more[name] for name in _GROWS):
        return more, False
    changes = [
        f"{name} {_shown(before.get(name))} -> {_shown(more[name])}"
        for name in _GROWS
        if before.get(name) != more[name]
    ]
    if changes:
        notes.append(f"{run.path} is extended: {'; '.join(changes)}")
    return more, True


def _alike(before: Mapping[str, Any], more: Mapping[str, Any]) -> bool:
    """Whether nothing differs but what may grow."""
    now = json.loads(json.dumps(more, default=str))
    return all(before.get(name) == now.get(name) for name in {*before, *now} - set(_GROWS))


def _more_problems(
    run: RunFolder, data: str, each: Mapping[str, list[str]], views: Sequence[str]
) -> bool:
    """Whether the problems now are those of the run and others."""
    known = run.fingerprints()
    if not known or not known.keys() <= each.keys():
        return False
    if changed := [name for name, parts in known.items() if list(parts) != list(each[name])]:
        if known.keys() == each.keys():
            return False
        raise UserError(
            f"{run.path} cannot be extended: the data set has changed since it was begun"
            f" ({some(changed)}). Put the data back as it was, or give another --out."
        )
    swapped = [view for view in views if get_view(view).picture == "swapped"]
    if swapped and known.keys() != each.keys():
        raise UserError(
            f"{run.path} cannot be extended with problems: the view {swapped[0]!r} shows the"
            " diagram of the next problem, which would be another one. Give another --out."
        )
    return True


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _as_corrected(
    run: RunFolder,
    data: str,
    each: Mapping[str, list[str]],
    views: Sequence[View],
    notes: list[str],
) -> str:
    """The fingerprint that a run was begun with, where the data set was only corrected since.

    That is so where no sample of a problem that changed was answered, and none of a view with an
    image where only its diagram did. A failed sample is no answer: it is made again.

    Raises:
        UserError: Problems that were answered have changed; the message names them.
    """
    if run.unanswered() or not run.manifest_path.exists():
        return data
    begun = run.manifest().get("fingerprints", {}).get("data_fingerprint") or data
    known = run.fingerprints()
    if begun == data or known.keys() != each.keys():
        return data  # or not the same problems, or of an older version: start says what differs
    words = {name for name, parts in each.items() if parts[0] != known[name][0]}
    diagrams = {name for name, parts in each.items() if parts[1] != known[name][1]}
    pictures = {view.name: view.picture for view in views}
    answered: set[str] = set()
    for row in run.responses() if words or diagrams else ():
        if row.finish_reason == "error":
            continue
        picture = pictures.get(row.view)
        if picture == "swapped":  # the diagram of another problem
            answered |= diagrams
        if row.problem_id in words or (picture != "none" and row.problem_id in diagrams):
            answered.add(row.problem_id)
    if answered:
        raise UserError(
            f"the data set has changed since {run.path} was begun, and problems that changed were"
            f" answered already: {some(answered)}. Put the data back as it was, or give another"
            " --out."
        )
    if changed := words | diagrams:
        notes.append(
            f"the data set was corrected: nothing was answered yet of what changed: {some(changed)}"
        )
    return begun


def some(names: Collection[str]) -> str:
    """The first of many names."""
    first = sorted(names)[:5]
    return ", ".join(first) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _as_begun(
    run: RunFolder,
    resolved: Mapping[str, object],
    data: str,
    kept: Collection[str],
    notes: list[str],
) -> dict[str, Any]:
    """The sampling and the views that a run has, where no other ones are given now.

    Its views are kept where it was extended by some and has all that are asked for.
    """
    if not kept or not run.manifest_path.exists():
        return {}
    manifest = run.manifest()
    before = manifest.get("resolved", {})
    if manifest.get("kind") != "eval":
        return {}
    same = manifest.get("fingerprints", {}).get("data_fingerprint") == data and all(
        before.get(name) == json.loads(json.dumps(value, default=str))
        for name, value in resolved.items()
        if name == "views" or name not in kept
    )
    # A run without a response may be begun anew, for example with another model.
    if not same and run.unanswered():
        return {}
    taken = {name: before[name] for name in kept if name in before}
    asked = cast("list[str]", resolved["views"])
    if run.unanswered() or not set(asked) < set(taken.get("views", ())):
        taken.pop("views", None)
    else:
        notes.append(f"{run.path} has more views than the default ones: {','.join(taken['views'])}")
    return taken
