"""The first screen of a report: what was measured, and the causal split of the gap as one bar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from modgap.analysis.causal import PARTS
from modgap.analysis.results import CausalSummary, Summary
from modgap.core.text import counted, interval, percent, signed
from modgap.core.view import ALL_VIEWS
from modgap.reporting.collect import EvalRun
from modgap.reporting.listing import data_of
from modgap.reporting.sampling import sampling_of, value_words

_MOST = 4
"""The most names of one fact; more are counted."""
_SAMPLED = {"temperature": "temperature", "max_tokens": "token limit", "top_p": "top_p"}
"""Parts of the sampling that the first screen names; provenance has all of them."""
_SHOWN = {"text": "the conditions are text", "vision": "they are only in the image"}


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the gap in the bar.

    Attributes:
        name: The part.
        words: Its points with their interval, and its share.
        points: As it is written in the bar.
        kind: A key of `PARTS`; its pattern.
        width: Of the bar, in percent; 0 for a part that does not widen the gap.
    """

    name: str
    words: str
    points: str
    kind: str
    width: float


@dataclass(frozen=True, slots=True)
class Split:
    """The gap of a run as one bar, its parts in words for who cannot see it."""

    name: str
    segments: tuple[Segment, ...]
    label: str


def facts(runs: Sequence[EvalRun], summaries: Mapping[str, Summary]) -> list[tuple[str, str]]:
    """Model, data set, sampling, grading, and what the gap is; empty without an evaluation."""
    if not runs:
        return []
    models = _named(run.model or "not recorded" for run in runs)
    sets = _named(
        f"{data_of(run.manifest) or 'not recorded'}, {counted(len(run.problems), 'problem')}"
        for run in runs
    )
    found = [("Model", models), ("Data set", sets), ("Sampling", _named(map(_sampling, runs)))]
    found.append(("Graded", _named(run.mode for run in runs)))
    sides = _views(summaries)
    if all(sides.values()):
        views = {side: ", ".join(names) for side, names in sides.items()}
        found.append(
            (
                "Gap",
                f"percent correct where {_SHOWN['text']} ({views['text']}) minus percent correct"
                f" where {_SHOWN['vision']} ({views['vision']}), on the same problems, in points",
            )
        )
    return found


def _views(summaries: Mapping[str, Summary]) -> dict[str, list[str]]:
    """Side -> the views of it that some run has."""
    asked = dict.fromkeys(view for summary in summaries.values() for view in summary.views)
    return {
        side: [view for view in asked if view in ALL_VIEWS and ALL_VIEWS[view].side == side]
        for side in _SHOWN
    }


def _sampling(run: EvalRun) -> str:
    sampling = sampling_of(run.manifest.whole)
    samples = sampling.get("samples")
    parts = [counted(samples, "sample")] if isinstance(samples, int) else []
    parts += [
        f"{words} {value_words(name, sampling[name])}"
        for name, words in _SAMPLED.items()
        if sampling.get(name) is not None
    ]
    return ", ".join(parts) or "not recorded"


def _named(words: Iterable[str]) -> str:
    """Each different one once."""
    each = list(dict.fromkeys(words))
    more = f"; and {len(each) - _MOST} more" if len(each) > _MOST else ""
    return "; ".join(each[:_MOST]) + more


def splits(runs: Mapping[str, Summary]) -> list[Split]:
    """The gap of each run that has a causal split, as one bar; none where problems are too few."""
    return [
        _split(name, run.causal)
        for name, run in runs.items()
        if run.causal and not run.causal.too_few
    ]


def _split(name: str, causal: CausalSummary) -> Split:
    """Parts that widen the gap share the bar; one that narrows it is named beside them.

    Beside one that narrows it, the shares of the gap are left out: they are not those of the bar.
    """
    narrowed = any(part.points < 0 for part in causal.parts.values())
    widening = sum(max(0.0, part.points) for part in causal.parts.values())
    segments: list[Segment] = []
    for kind, part in causal.parts.items():
        width = 100 * max(0.0, part.points) / widening if widening else 0.0
        known = part.share is not None and not narrowed
        share = f", {percent(part.share)}% of the gap" if known else ""
        words = f"{signed(part.points)} points ({interval(part.ci_low, part.ci_high)}){share}"
        segments.append(Segment(PARTS[kind], words, signed(part.points), kind, width))
    label = "; ".join(f"{segment.name} {segment.words}" for segment in segments)
    return Split(name, tuple(segments), f"{name}: the gap in parts. {label}.")
