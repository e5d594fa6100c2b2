"""The problems of an evaluation, and what is said of them before a model is asked.

`check_views` refuses views that the problems do not have; `warn_about_words` and
`warn_about_images` name what makes a gap smaller or a picture another.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from modgap.core import registry
from modgap.core.errors import UsageError, UserError, command_line
from modgap.core.files import Root
from modgap.core.problem import Problem, check_texts
from modgap.core.progress import progress_bars, warn
from modgap.core.view import ALL_VIEWS, CHOICES, VERSION_VIEWS, View
from modgap.workflows.pictures import check_characters_of


def load_problems(
    data: Path | str | None = None,
    benchmark: str = "pgps9k",
    *,
    split: str = "test",
    limit: int | None = None,
    allow_outside: bool = False,
) -> list[Problem]:
    """The problems of a data set.

    Args:
        data: Its folder or file; of MathVerse also its Hugging Face id. `None` takes the
            benchmark's own problems, if it has any (`synthetic`).
        benchmark: `pgps9k`, `synthetic`, `charts`, `pairs`, `mathverse`, `geometry3k`,
            `geometry3k-choices`, or one of your own, `module:object` or `path/to/file.py:object`.
        split: `train` or `test`.
        limit: Only this number of problems, from the first.
        allow_outside: Its files may name, or link to, images outside its folder.

    Raises:
        UserError: The benchmark is unknown, its files are faulty or lead out of its folder, or it
            has no problem.
    """
    place = locate(benchmark, None if data is None else Path(data))
    return read_problems(benchmark, place, split, limit, allow_outside=allow_outside)


def locate(benchmark: str, data: Path | None) -> Path:
    """Where the problems are; without a data set the benchmark's own, if it has any (`synthetic`).

    Raises:
        UserError: The benchmark is unknown.
        UsageError: The benchmark needs a data set, and none is given.
    """
    entry = registry.DATASETS.entry(benchmark)
    if data is not None:
        return data
    if not entry.own_data:
        raise UsageError(
            f"--data is missing: {benchmark} needs its folder or file; --benchmark synthetic needs"
            " none."
        )
    with progress_bars() as bars:
        return registry.load(entry.own_data)(bars.counter(f"drawing the {benchmark} benchmark"))


def read_problems(
    benchmark: str,
    data: Path,
    split: str = "test",
    limit: int | None = None,
    *,
    allow_outside: bool = False,
) -> list[Problem]:
    """The problems of a benchmark.

    Args:
        benchmark: A name of `core.registry.DATASETS`.
        data: Its folder or file.
        split: `train` or `test`.
        limit: Only this number of problems, from the first.
        allow_outside: Its files may name, or link to, images outside its folder.

    Raises:
        UserError: The benchmark is unknown, its files are faulty or lead out of its folder, or it
            has no problem.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: must be at least 1.")
    read = registry.DATASETS.load(benchmark)
    more: dict[str, Any] = {"allow_outside": True} if allow_outside and _takes_outside(read) else {}
    problems: list[Problem] = list(read(data, split=split, limit=limit, **more))
    if data.exists():  # a hub's id has no folder of the user's
        root = Root(data, allow_outside=allow_outside)
        for problem in problems:
            for image in (problem.image, *problem.own_images.values()):
                if isinstance(image, Path):
                    root.check(image, f"problem {problem.id}: the image {image}")
    if not problems:
        check = command_line("data", "check", data, "--benchmark", benchmark)
        raise UserError(
            f"{data} has no problems in the split {split!r}: add some, or give another --data "
            f"(`{check}` counts what it holds)."
        )
    check_texts(problems)
    return problems


def _takes_outside(read: Callable[..., Any]) -> bool:
    """Whether a reader checks itself where images are."""
    return "allow_outside" in inspect.signature(read).parameters


def default_views(problems: Sequence[Problem]) -> str:
    """The views that are asked unless others are named: those of the problems' data set."""
    return ",".join(registry.data_set_of(problem.grader for problem in problems).views)


def check_views(problems: Sequence[Problem], views: Sequence[View]) -> None:
    """Refuse views that no problem has; the summary handles those that only some problems have.

    Raises:
        UserError: A view is a version of MathVerse's and the problems are others, no problem has
            it, or its font lacks a character of the conditions.
    """
    versions = any(problem.views for problem in problems)
    for view in views:
        if view.transcription and not any(
            not problem.views and problem.has_view(view.name) for problem in problems
        ):
            raise UserError(
                f"the view {view.name!r} writes down the conditions of a problem, and none of these"
                " problems has its conditions, with a number to read, in its data: leave out"
                " --controls causal and this view."
            )
    known: set[str] = set()
    for problem in problems:
        known.update(problem.views, problem.own_words)
    there = [name for name in ALL_VIEWS if name in known]
    for view in views:
        if view.rendering is not None and not versions:
            check_characters_of(problems, view)
        if not versions and view.name in VERSION_VIEWS and view.name not in there:
            raise UserError(
                f"the view {view.name!r} is a version of MathVerse's, and these problems have none:"
                f" choose from {', '.join(CHOICES)}, or give --benchmark mathverse."
            )
        if versions and view.name not in there:
            raise UserError(
                f"no problem has the version {view.name!r}: the data has {', '.join(there)}; choose"
                " from these with --problem-versions (or --views), or give --data with a file that"
                " has it."
            )


def warn_about_words(problems: Sequence[Problem], views: Iterable[View]) -> None:
    """Say so where a view that writes conditions has none to write, whatever the problem."""
    worded = any(p.own_words or p.structural or p.semantic for p in problems)
    full = next((view.name for view in views if view.conditions and view.side == "text"), "")
    if problems and full and not worded:
        warn(
            f"no problem has a condition in words: {full} shows what image-only shows, so that the"
            " difference between them is no gap (ask --views image-only, or give data with"
            " conditions)"
        )


def warn_about_images(problems: Sequence[Problem], views: Iterable[View] = ()) -> None:
    """Name the images that cannot be shown, or not as they are stored; one line for each kind.

    Args:
        problems: Whose images.
        views: Of which views; the problems' own images if none are given.
    """
    from modgap.datasets.faults import image_warnings

    names = tuple(view.name for view in views if view.picture != "none")
    for line in image_warnings(problems, names or ("",)):
        warn(line)
