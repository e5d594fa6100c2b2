"""Reference results: the files in `docs/results/` that anyone can add a row to.

A row says what was measured and how; `measured` is `null` until somebody has done it. Unlike the
files of a run, people send these, so unknown keys and numbers that contradict each other are
faults.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modgap.core.errors import UserError
from modgap.core.files import read_text

FORMAT = "modgap results 1"
_ROUNDING = 0.02
"""The gap may differ by this from the difference of two rounded accuracies."""
Percent = Annotated[float, Field(ge=0, le=100)]
Points = Annotated[float, Field(ge=-100, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


T = TypeVar("T", "Accuracy", "Gap")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Accuracy(_Strict):
    """Percent of samples that are right, mean over problems, and its 95% interval."""

    value: Percent
    low: Percent | None
    high: Percent | None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        return _checked(self)


class Gap(_Strict):
    """Text minus image in percentage points, paired by problem, with its 95% interval.

    `low` and `high` are `null` where the data give no interval.
    """

    value: Points
    low: Points | None
    high: Points | None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        return _checked(self)


class Measured(_Strict):
    """What was measured.

    Attributes:
        problems: Problems that count in the gap.
        samples: Of each problem and view.
        seeds: Trainings that the numbers are the mean of; 0 for a model that was not trained.
        text: Of the text-centric views.
        image: Of the vision-centric views.
        gap: Their difference.
        text_views: The views on the side of the text.
        image_views: The views on the side of the image.
        mode: How it was graded.
        style: Wording of the prompts.
        engine: What answered.
        temperature: `null` for the server's or the model's own.
        max_tokens: Of a response; `null` where it is not recorded, as in imports.
        error_rate: Share of samples that could not be graded; `null` where it is not recorded.
        truncation_rate: Share of samples that were cut at the token limit.
        data: Fingerprint of the problems.
        weights: Fingerprint of the model; empty for a served one.
        version: Of modgap; empty where it is not recorded.
        date: When it was measured, `2026-11-30`; empty where it is not recorded.
        source: Where the records are: a page of this repository, or a link.
    """

    problems: Count
    samples: Count
    seeds: Annotated[int, Field(ge=0)] = 0
    text: Accuracy
    image: Accuracy
    gap: Gap
    text_views: Annotated[list[str], Field(min_length=1)]
    image_views: Annotated[list[str], Field(min_length=1)]
    mode: Annotated[str, Field(min_length=1)]
    style: Literal["paper", "aligned"]
    engine: Annotated[str, Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0)] | None
    max_tokens: Count | None
    error_rate: Share | None = None
    truncation_rate: Share | None = None
    data: str = ""
    weights: str = ""
    version: str = ""
    date: Annotated[str, Field(pattern=r"^(\d{4}-\d\d-\d\d)?$")] = ""
    source: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        difference = self.text.value - self.image.value
        if abs(difference - self.gap.value) > _ROUNDING:
            raise ValueError(f"the gap {self.gap.value} is not text minus image ({difference:.2f})")
        return self


class Row(_Strict):
    """One model on one benchmark.

    Attributes:
        model: As `--model` takes it.
        recipe: What it was trained with; empty for the model as it is.
        benchmark: As `--benchmark` takes it.
        command: How to measure it.
        note: What a reader must know.
        measured: `null` until somebody has measured it.
    """

    model: Annotated[str, Field(min_length=1)]
    recipe: str = ""
    benchmark: Annotated[str, Field(min_length=1)]
    command: str = ""
    note: str = ""
    measured: Measured | None = None

    @model_validator(mode="after")
    def _fillable(self) -> Self:
        if self.measured is None and not self.command:
            raise ValueError("an empty row needs the command that fills it")
        return self


class ResultsFile(_Strict):
    """A file of `docs/results/`."""

    format: Literal["modgap results 1"] = FORMAT
    rows: Annotated[list[Row], Field(min_length=1)]

    @model_validator(mode="after")
    def _unlike(self) -> Self:
        kinds = Counter((row.model, row.recipe, row.benchmark, _kind(row)) for row in self.rows)
        (model, recipe, *_), count = kinds.most_common(1)[0]
        if count > 1:
            raise ValueError(f"{count} rows are of {model} {recipe} measured alike: keep one")
        return self


def read_results(path: Path) -> ResultsFile:
    """Read and validate a file of results.

    Raises:
        UserError: It cannot be read, or is faulty: one line with every fault.
    """
    try:
        return ResultsFile.model_validate(json.loads(read_text(path)))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a file.") from None
    except ValidationError as error:
        raise UserError(f"{path}: {_faults(error)}.") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): fix it.") from None


def _checked(estimate: T) -> T:
    low, high = estimate.low, estimate.high
    if low is None or high is None:
        if low is high:
            return estimate
        raise ValueError("an interval has two ends: give both of low and high, or null for both")
    if not low <= estimate.value <= high:
        raise ValueError(f"the interval {low} to {high} does not hold {estimate.value}")
    return estimate


def _kind(row: Row) -> tuple[str, ...]:
    done = row.measured
    return (done.mode, done.style, done.engine) if done else ()


def _faults(error: ValidationError) -> str:
    found: list[str] = []
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"])
        words = fault["msg"].removeprefix("Value error, ")
        found.append(f"{where}: {words}" if where else words)
    return "; ".join(found)
