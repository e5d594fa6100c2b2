"""What is wrong with a data set, as plain data.

The fault, the report, and what is unusual about images.

The original checks nothing: a truncated file ends in a traceback, and of two records with the same
id the first is lost without a message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modgap.core.problem import Problem
from modgap.core.text import counted, one_line

if TYPE_CHECKING:
    from modgap.core.images import Inspection

Severity = Literal["error", "warning"]
Progress = Callable[[int, int], None]
"""Called with the number of items done and their total."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        file: Name of the file, relative to the data set.
        record: Id of the problem; empty where the fault is the file's.
        kind: The kind of fault, a short fixed name (`missing-key`, `truncated`, `image-broken`).
        message: What is wrong and what to do, one line.
        severity: An `error` makes the data set unfit; a `warning` is worth knowing.
        line: Its line, from 1 (in parquet the row); 0 if the fault has no line.
    """

    file: str
    record: str
    kind: str
    message: str
    severity: Severity = "error"
    line: int = 0

    def __str__(self) -> str:
        unit = "row" if self.file.endswith(".parquet") else "line"
        where = f"{self.file} {unit} {self.line}" if self.line else self.file
        words = f"{where}, {self.record}" if self.record else where
        return one_line(f"{words}: {self.message}")


@dataclass(slots=True)
class Counts:
    """What a split holds; only sound problems are counted.

    Attributes:
        problems: Their number.
        leaky: Those whose question itself states a number or an equation, which no view can hide.
        bare: Those without any condition in words: full-text and image-only show the same.
        images: The different diagrams.
        types: Problems of each type; those without a type are not counted.
        versions: Problems that have each version; MathVerse only.
    """

    problems: int = 0
    leaky: int = 0
    bare: int = 0
    images: int = 0
    types: Counter[str] = field(default_factory=Counter[str])
    versions: Counter[str] = field(default_factory=Counter[str])

    def add(self, problem: Problem, *, bare: bool) -> None:
        """Count one problem."""
        self.problems += 1
        self.leaky += problem.leaky
        self.bare += bare
        if problem.type:
            self.types[problem.type] += 1


@dataclass(slots=True)
class Report:
    """What a check found.

    Attributes:
        path: The data set.
        splits: Split name to what it holds.
        faults: Everything that is wrong, in the order of the files.
        shared_images: Diagrams that more than one split uses.
    """

    path: Path
    splits: dict[str, Counts] = field(default_factory=dict[str, Counts])
    faults: list[Fault] = field(default_factory=list[Fault])
    shared_images: int = 0

    @property
    def errors(self) -> list[Fault]:
        """The faults that make the data set unfit."""
        return [fault for fault in self.faults if fault.severity == "error"]

    @property
    def warnings(self) -> list[Fault]:
        """The faults that are worth knowing."""
        return [fault for fault in self.faults if fault.severity == "warning"]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors


def json_type(value: Any) -> str:
    """What JSON calls a value, with an article."""
    names: dict[type, str] = {
        str: "a string",
        bool: "a truth value",
        list: "a list",
        dict: "an object",
    }
    if value is None:
        return "null"
    return names.get(type(value)) or ("an object" if isinstance(value, dict) else "a number")


def missing(key: str, present: Iterable[str]) -> str:
    """What is wrong where a key is missing; a key that may be meant is named."""
    keys = {name.casefold(): name for name in present}
    near = get_close_matches(key.casefold(), keys, n=1, cutoff=0.75)
    return f"{key} is missing" + (f": rename {keys[near[0]]!r} to {key!r}" if near else "")


def text_fault(value: Any, *, may_be_empty: bool = False) -> tuple[str, str] | None:
    """Kind and message of the fault of a value that should be a string; `None` if it is sound."""
    if not isinstance(value, str):
        return "wrong-type", f"is {json_type(value)}, not a string"
    if not may_be_empty and not value.strip():
        return "empty", "is empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return (
            "encoding",
            "holds half of a surrogate pair (\\ud800 to \\udfff), which is not a character",
        )
    return None


def inspections(
    images: Iterable[Path | bytes], total: int, progress: Progress | None = None
) -> Iterator[Inspection]:
    """The properties of each image, in order; each one is decoded."""
    from modgap.core.images import inspect_all

    for done, inspection in enumerate(inspect_all(images, thorough=True), start=1):
        yield inspection
        if progress and (done % 64 == 0 or done == total):
            progress(done, total)


UNUSUAL = {
    "image-broken": "cannot be decoded: an `error` in evaluation, refused in training",
    "image-shape": (
        "has an aspect ratio above 200, which image processors refuse: an `error` in evaluation,"
        " refused in training"
    ),
    "image-invisible": (
        "shows nothing on white, on which transparent images are put: give it an opaque background"
    ),
    "image-transparent": "has transparent parts, which are shown on white",
    "image-rotated": "has an EXIF orientation, which is applied",
    "image-depth": "has 16-bit, 32-bit or floating-point values, which are scaled to 8 bits",
    "image-frames": "has several frames, of which the first is shown",
}
"""What is unusual about images -> its consequence."""


def unusual_images(found: Iterable[tuple[str, Inspection]], file: str) -> Iterator[Fault]:
    """One warning for each thing that is unusual about the images of some problems.

    Args:
        found: The problem with its image, as messages name the two, and what the image is like.
        file: Where the problems are.
    """
    by_kind: dict[str, list[str]] = {}
    for name, inspection in found:
        for kind in ("image-broken",) if inspection.error else inspection.kinds:
            by_kind.setdefault(kind, []).append(name)
    for kind, words in UNUSUAL.items():
        if names := list(dict.fromkeys(by_kind.get(kind, ()))):
            some = (
                f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
            )
            count = f"{counted(len(names), 'problem')} whose image"
            yield Fault(file, "", kind, f"{count} {words}: {some}", "warning")


def image_warnings(problems: Iterable[Problem], views: Sequence[str] = ("",)) -> list[str]:
    """What is unusual about the images that views of problems show, one line for each kind."""
    return [fault.message for fault in unusual_images(glance(problems, views), "")]


def glance(
    problems: Iterable[Problem], views: Sequence[str] = ("",)
) -> list[tuple[str, Inspection]]:
    """The properties of the problems' images, in order, each with its name in messages.

    Made for the start of a command: most images are only opened, which takes a second for about ten
    thousand.
    """
    from modgap.core.images import inspect_all

    shown: list[tuple[str, Path | bytes]] = []
    for problem in problems:
        for view in views:
            image = problem.image_of(view)
            if image is not None:
                shown.append((problem.id, image))
    images = dict.fromkeys(image for _, image in shown)
    seen = dict(zip(images, inspect_all(images), strict=True))
    return [(named(name, image), seen[image]) for name, image in shown]


def named(problem: str, image: Path | bytes) -> str:
    """A problem and the file of its image."""
    return f"{problem} ({image.name})" if isinstance(image, Path) else problem
