"""What is wrong with a data set, as plain data: the fault, the report, and the check that diagrams really decode.

The original checks nothing: a torn file ends in a traceback, and of two records with one id the first is lost unseen.
"""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from modgap.core.problem import Problem

Severity = Literal["error", "warning"]
Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        file: Name of the file, relative to the data set.
        record: Id of the problem; empty where the fault is the file's.
        kind: What sort of fault, a short fixed name (`missing-key`, `truncated`, `image-broken`).
        message: What is wrong and what to do, one line.
        severity: An `error` makes the data set unfit; a `warning` is worth knowing.
        line: Where it is, from 1 (of parquet the row); 0 where no line is to blame.
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
        return f"{where}, {self.record}: {self.message}" if self.record else f"{where}: {self.message}"


@dataclass(slots=True)
class Counts:
    """What a split holds; only sound problems are counted.

    Attributes:
        problems: Their number.
        leaky: Those whose question itself states a number or an equation, which no view can hide.
        bare: Those without any condition in words: full-text and image-only show the same of them.
        images: The different diagrams.
        types: Problems of each type; those without one are not in it.
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
    names: dict[type, str] = {str: "a string", bool: "a truth value", list: "a list", dict: "an object"}
    if value is None:
        return "null"
    return names.get(type(value)) or ("an object" if isinstance(value, dict) else "a number")


def text_fault(value: Any, *, may_be_empty: bool = False) -> tuple[str, str] | None:
    """Kind and message of what is wrong with a value that should be a string; `None` if it is sound."""
    if not isinstance(value, str):
        return "wrong-type", f"is {json_type(value)}, not a string"
    if not may_be_empty and not value.strip():
        return "empty", "is empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "encoding", "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
    return None


def image_fault(image: Path | bytes) -> str | None:
    """Why a diagram cannot be used, by really decoding it; `None` if it can."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a large diagram is no fault; a bomb raises
            with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
                opened.convert("RGB")
    except UnidentifiedImageError:
        return "is no image that can be read"
    except Exception as error:  # Pillow raises a dozen kinds on a broken file: OSError, SyntaxError, struct.error ...
        return f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})"
    return None


def image_faults(images: Iterable[Path | bytes], total: int, progress: Progress | None = None) -> Iterator[str | None]:
    """`image_fault` of each, in order, decoded in threads (Pillow lets go of the interpreter); few are held at once."""
    images = iter(images)
    done = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while batch := list(islice(images, 64)):
            yield from pool.map(image_fault, batch)
            done += len(batch)
            if progress:
                progress(done, total)
