"""`modgap power`: how many problems show a gap, by `analysis.power`.

A pilot run can replace its assumptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from modgap.analysis import power as planning
from modgap.analysis.scores import Scores
from modgap.core.errors import UserError
from modgap.core.progress import warn
from modgap.core.record import RunFolder
from modgap.core.text import counted

SAMPLES = (1, 2, 4, 8)
GUESSES = {"text_accuracy": 0.6, "consistency": 0.6, "correlation": 0.6}


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is known beforehand; what is not given comes from a run, or is a guess.

    Attributes:
        text_accuracy: In the text-centric view.
        consistency: Intraclass correlation of a problem's samples.
        correlation: Between a problem's chances in the two views.
    """

    text_accuracy: float | None = None
    consistency: float | None = None
    correlation: float | None = None

    def check(self) -> None:
        """Refuse a number outside its range, by its option. Raises `UserError`."""
        for field in fields(self):
            low = -1 if field.name == "correlation" else 0
            value: float | None = getattr(self, field.name)
            if value is not None and not low <= value <= 1:
                option = "--" + field.name.replace("_", "-")
                raise UserError(
                    f"{option} {value:g}: give a number from {low} to 1{_meant(value) or '.'}"
                )


@dataclass(frozen=True, slots=True)
class Plan:
    """How many problems show a gap.

    Attributes:
        points: The gap to find.
        target: The chance to find it, from 0 to 1.
        alpha: The size of the two-sided test.
        assumptions: `text_accuracy`, `consistency`, `correlation`; see
            `analysis.power.difference_sd`.
        sources: Where each of them is from: `given`, `guess` or the run's path.
        needed: Samples in each view -> problems needed.
        power: Samples in each view -> the chance with `problems` problems; empty if no number was
            given.
        problems: The problems that there are.
    """

    points: float
    target: float
    alpha: float
    assumptions: dict[str, float]
    sources: dict[str, str]
    needed: dict[int, int]
    power: dict[int, float]
    problems: int | None = None


def plan(
    points: float,
    given: Assumptions | None = None,
    *,
    problems: int | None = None,
    samples: int | None = None,
    target: float = 0.8,
    alpha: float = 0.05,
    run: Path | None = None,
) -> Plan:
    """How many problems show a gap, and how surely a given number does.

    Args:
        points: The gap, in percentage points; negative if the image-only side is the better one.
        given: The assumptions that are known.
        problems: Problems that there are.
        samples: Samples of each problem in each view, beside 1, 2, 4 and 8.
        target: The chance to find it.
        alpha: The size of the test.
        run: An evaluation whose values replace what is not given.

    Raises:
        UserError: A number is out of range, or the run does not determine the assumptions.
    """
    _check_options(points, problems, samples, target, alpha)
    given = given or Assumptions()
    given.check()
    from_run = measure(run) if run else {}
    assumptions, sources = dict(GUESSES), dict.fromkeys(GUESSES, "guess")
    for name, value in from_run.items():
        assumptions[name], sources[name] = value, str(run)
    for name, value in asdict(given).items():
        if value is not None:
            assumptions[name], sources[name] = value, "given"
    _check_together(points, assumptions["text_accuracy"], sources["text_accuracy"])
    counts: Sequence[int] = sorted({*SAMPLES, *([] if samples is None else [samples])})
    level = 1 - alpha
    needed = {n: planning.problems_needed(points, n, target, level, **assumptions) for n in counts}
    power: dict[int, float] = {}
    if problems is not None:
        power = {n: planning.power(points, problems, n, level, **assumptions) for n in counts}
    return Plan(points, target, alpha, assumptions, sources, needed, power, problems)


def _check_options(
    points: float, problems: int | None, samples: int | None, target: float, alpha: float
) -> None:
    """Each option of the design by its own name and range."""
    if not 0 < abs(points) <= 100:
        none = " no number of problems can show a gap of 0;" if points == 0 else ""
        raise UserError(
            f"--gap {points:g}:{none} give percentage points between 0 and 100 (negative if the"
            " image side is better)."
        )
    if abs(points) < 1:
        warn(
            f"--gap {points:g} means {points:g} percentage points: for {100 * points:g} points give"
            f" --gap {100 * points:g}"
        )
    for name, count in (("problems", problems), ("samples", samples)):
        if count is not None and count < 1:
            raise UserError(f"--{name} {count}: give at least 1.")
    for name, share, such in (("power", target, 0.8), ("alpha", alpha, 0.05)):
        if not 0 < share < 1:
            raise UserError(
                f"--{name} {share:g}: give a share between 0 and 1"
                f"{_meant(share) or f', such as {such}.'}"
            )


def _meant(share: float) -> str:
    """A guess at a share that was given in percent."""
    return f"; did you mean {share / 100:g}?" if 2 <= share <= 100 else ""


def _check_together(points: float, text_accuracy: float, source: str) -> None:
    """The accuracy that follows for the image side must lie between 0 and 1."""
    image = 100 * text_accuracy - points
    if not -1e-9 <= image <= 100 + 1e-9:
        raise UserError(
            f"--gap {points:g}: with a text accuracy of {100 * text_accuracy:g}% ({source}) the"
            f" image accuracy would be {image:g}%, {'below 0' if image < 0 else 'above 100%'};"
            " change --gap or --text-accuracy."
        )


def measure(path: Path) -> dict[str, float]:
    """The assumptions of `analysis.power.difference_sd`, estimated from an evaluation.

    It needs two samples or more. By the analysis of variance: with S samples the rates of a view
    vary by `tau^2 + within / S`, where `within` is the mean of `r (1 - r) S / (S - 1)`. Consistency
    is `tau^2 / (tau^2 + within)` over both views together; the rates' covariance is that of the
    chances. Estimates outside their range are moved to its end.

    Returns:
        `text_accuracy`, `consistency` and `correlation`.

    Raises:
        UserError: It is not a graded evaluation of both sides of the gap, or has one sample or one
            problem.
    """
    folder = RunFolder(path)
    expected = folder.manifest().get("resolved", {}).get("samples")
    scores = Scores.stored(folder, folder.problems(), expected)
    paired_P = scores.paired_P
    samples = scores.codes_PVS.shape[2]
    sides = {side: scores.side(side) for side in ("text", "vision")}
    if paired_P.sum() < 2 or samples < 2 or any(len(views) != 1 for views in sides.values()):
        raise UserError(
            f"--run {path}: needs at least 2 problems with at least 2 graded samples in one"
            " text-centric and one vision-centric view; it has"
            f" {counted(int(paired_P.sum()), 'problem')} with {counted(samples, 'sample')} in"
            f" {', '.join(scores.views) or 'no view'}."
        )
    rates = {side: scores.rates(side)[paired_P] for side in sides}
    within = sum(float(np.mean(r * (1 - r))) * samples / (samples - 1) for r in rates.values())
    total = sum(float(np.var(r, ddof=1)) for r in rates.values())
    between = max(0.0, total - within / samples)
    consistency = between / (between + within) if between + within else 0.0
    spreads = [float(r.mean() * (1 - r.mean())) for r in rates.values()]
    shared = consistency * float(np.sqrt(spreads[0] * spreads[1]))
    covariance = float(np.cov(rates["text"], rates["vision"])[0, 1])
    correlation = float(np.clip(covariance / shared, -1, 1)) if shared else 0.0
    return {
        "text_accuracy": float(rates["text"].mean()),
        "consistency": consistency,
        "correlation": correlation,
    }
