"""A report in words: its answer, and what a reader must know before the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from modgap.analysis.causal import IMAGE, LEAST_IMAGE, MOST_WIDTH, PARTS
from modgap.analysis.gap import GapChange
from modgap.analysis.results import (
    CausalPart,
    CausalSummary,
    GapPart,
    GapSummary,
    Headline,
    LoggedStage,
    ReadingSummary,
    SeedRow,
    SeedTable,
    Summary,
)
from modgap.analysis.scores import CUT_OPEN, LEFT_OUT, USER_TURN, Scores
from modgap.analysis.warnings import seen
from modgap.core.engine import CONTINUED
from modgap.core.text import counted, degenerate, interval, percent, points, signed
from modgap.core.thinking import CUT_THINKING
from modgap.reporting import tables as t
from modgap.reporting.same_data import groups
from modgap.reporting.seed_tables import seed_words

if TYPE_CHECKING:
    from modgap.analysis.scores import Scores
    from modgap.reporting.collect import Collection

_LEFT_OUT = {
    "system": "the system turn, which the server or the chat template does not take",
    "seed": "a seed, which the server does not take: they cannot be repeated",
    CONTINUED: (
        "the started turn being continued, which the server cannot: it began a new one, and the "
        "prompt is not quite the paper's"
    ),
}
_USER_TURN = (
    "the transcription in the user turn, as the engine does not continue an answer: what these"
    " words change is then no pure reading"
)
Pieces = list[tuple[str, str]]
"""A sentence in pieces, each with the side that it is about: `t`, `v`, `g` (the gap), `i` (its
interval) or none.
"""


def headline(
    runs: Mapping[str, Summary],
    changes: Mapping[str, GapChange],
    seeds: Sequence[SeedTable],
    found: Collection,
) -> Headline:
    """The answer in words.

    Args:
        runs: Name -> summary.
        changes: Name -> change of the gap against the first run's.
        seeds: The tables over seeds.
        found: What the report is about.
    """
    with_gap = {name: summary.gap for name, summary in runs.items() if summary.gap}
    if with_gap:
        pieces, lede = _answer_of_runs(runs, with_gap, changes, seeds, found)
    elif over_seeds := _over_seeds(seeds):
        first_row = seeds[0].rows[0]
        pieces, lede = (
            [(f"{first_row.recipe}: ", ""), *gap_words(_as_gap(first_row))],
            over_seeds,
        )
    elif runs:
        pieces, lede = _answer_without_gap(runs)
    else:
        steps = sum(len(stage.log) for stage in found.stages)
        recipes = ", ".join(dict.fromkeys(stage.recipe for stage in found.stages))
        pieces = [(f"Training of {recipes}: {counted(steps, 'step')} logged", "")]
        lede = ["Evaluate the checkpoints, and give that run, too, to see the gap."]
    return Headline(
        title="".join(words for words, _ in pieces),
        kicker=_kicker(seeds, found),
        answer=pieces,
        lede=lede,
    )


def _over_seeds(seeds: Sequence[SeedTable]) -> list[str]:
    return [words for table in seeds for words in seed_words(table)]


def _answer_of_runs(
    runs: Mapping[str, Summary],
    gaps: Mapping[str, GapSummary],
    changes: Mapping[str, GapChange],
    seeds: Sequence[SeedTable],
    found: Collection,
) -> tuple[Pieces, list[str]]:
    """The first run's gap, and how the others compare with it."""
    first, gap = next(iter(gaps.items()))
    summary = runs[first]
    pieces = gap_words(gap)
    lede = [_over(gap, summary), *causal_words(summary.causal), *reading_words(summary.reading)]
    if len(gaps) > 1:
        pieces.insert(0, (f"{first}: ", ""))
        # The best of several seeds is the luckiest one: with seeds, recipes are compared and not
        # runs.
        alike = next((names for names in groups(found.evals) if first in names), [first])
        compared = {name: gap for name, gap in gaps.items() if name in alike}
        lede += _over_seeds(seeds) or _comparison(compared, changes, first)
    return pieces, lede


def _answer_without_gap(runs: Mapping[str, Summary]) -> tuple[Pieces, list[str]]:
    """The accuracy of each view of the first run."""
    name, summary = next(iter(runs.items()))
    shares = [
        f"{view} {percent(row.accuracy)}" for view, row in summary.views.items() if row.n_samples
    ]
    words = f"{', '.join(shares)} percent correct" if shares else f"{name}: nothing to measure yet"
    return [(words, "")], [
        "A gap needs the same problems in a view on the side of the text and in one on the side of"
        " the image: full-text and image-only are."
    ]


def _kicker(seeds: Sequence[SeedTable], found: Collection) -> str:
    """What the report is about, and how it was graded."""
    modes = ", ".join(dict.fromkeys(run.mode for run in found.evals))
    named = ", ".join(
        [run.name for run in found.evals] or list(dict.fromkeys(s.recipe for s in found.stages))
    )
    if seeds:
        named = ", ".join(dict.fromkeys(row.recipe for table in seeds for row in table.rows))
        modes = modes or ", ".join(dict.fromkeys(table.mode for table in seeds))
    return f"Modality gap report · {named}" + (f" · graded {modes}" if modes else "")


def _as_gap(row: SeedRow) -> GapPart:
    """A row of a table over seeds as `gap_words` takes it."""
    return GapPart(
        n_problems=row.gap.n_problems,
        text_accuracy=row.text.value,
        vision_accuracy=row.vision.value,
        points=row.gap.value,
        ci_low=row.gap.ci_low,
        ci_high=row.gap.ci_high,
        p_value=row.gap.p_value,
    )


def reply_words(scores: Scores, of: str = "") -> list[str]:
    """How replies differ from what the settings ask for.

    One line for each kind, with the number of samples that it concerns.

    Args:
        scores: Of a run.
        of: The run's name, where several are shown.
    """
    of = f" of {of}" if of else ""
    words: list[str] = []
    for name, why in _LEFT_OUT.items():
        if left_out := scores.marked(LEFT_OUT[name]):
            words.append(
                f"{counted(left_out, 'sample')}{of} {_were(left_out)} asked without {why}."
            )
    if moved := scores.marked(USER_TURN):
        words.append(f"{counted(moved, 'sample')}{of} {_were(moved)} asked with {_USER_TURN}.")
    if cut := scores.marked(CUT_OPEN):
        words.append(
            f"{counted(cut, 'response')}{of} {_were(cut)} {CUT_THINKING}: a box in it does not"
            " count as an answer."
        )
    return words


MOST_IDS = 5
ANNOTATED = ("geometry3k", "geometry3k-choices")
"""Benchmarks whose conditions are annotations of the diagrams, which lack some."""


def unsolvable_words(scores: Scores, name: str) -> list[str]:
    """A line on the problems that are right from the image and never from the text; at most one.

    Args:
        scores: Of a run on one of `ANNOTATED`.
        name: The run's.
    """
    paired_P = scores.paired_P
    if not paired_P.any():
        return []
    found_P = paired_P & (scores.rates("vision") > 0.5) & (scores.rates("text") == 0)
    count, of = int(found_P.sum()), int(paired_P.sum())
    if not count:
        return []
    ids = [row.id for row, found in zip(scores.problems, found_P, strict=True) if found]
    shown = f"{', '.join(ids[:MOST_IDS])}{' ...' if count > MOST_IDS else ''}"
    return [
        f"{name}: right from the image and never from the text: {count:,} of"
        f" {counted(of, 'problem')} ({count / of:.1%}): {shown}. An annotation may lack what only"
        " the picture shows, which makes the gap smaller than it is: look there."
    ]


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def reading_words(reading: ReadingSummary | None) -> list[str]:
    """What became of the lost problems, as one sentence; empty if that is not known."""
    if not reading:
        return []
    lost = reading.n_problems + reading.nothing_to_read
    numbers = reading.values.misread
    were = "was" if reading.misread == 1 else "were"
    words = (
        f"Of the {counted(lost, 'problem')} lost in the image, {reading.misread:,} {were} misread"
    )
    if reading.misread:
        words += (
            f" ({numbers:,} in their numbers, {reading.misread - numbers:,} only in the names of"
            " points)"
        )
    words += f" and {reading.read_right:,} read right and solved wrong"
    if reading.unreadable:
        words += f"; {reading.unreadable:,} wrote no condition down"
    if reading.nothing_to_read:
        words += f"; {reading.nothing_to_read:,} had none to read"
    solved = reading.solved
    if known := solved.misread + solved.read_right:
        words += (
            f". By the same rule it misread {solved.misread:,} of {counted(known, 'problem')} that"
            f" it solves in both views ({solved.values.misread:,} in their numbers)"
        )
    return [f"{words}. This counts wrong transcriptions, not points of the gap."]


def shown_parts(causal: CausalSummary) -> dict[str, CausalPart]:
    """The parts, without their shares where these are not known well enough to be shown."""
    if not causal.too_few:
        return causal.parts
    unknown = {"share": None, "share_low": None, "share_high": None}
    return {name: part.model_copy(update=unknown) for name, part in causal.parts.items()}


def causal_words(causal: CausalSummary | None) -> list[str]:
    """The split as sentences; empty without one."""
    if causal is None:
        return []
    parts = [f"{PARTS[name]} {_points(part)}" for name, part in shown_parts(causal).items()]
    over = counted(causal.n_problems, "problem")
    words = [f"Of the gap of {points(causal.gap.points)} points over {over}: {'; '.join(parts)}."]
    if causal.too_few:
        known = f"Estimates of the parts of {points(causal.gap.points)} points over {over}"
        words[0] = f"{_too_few(causal)} {known}: {'; '.join(parts)}."
    if causal.follows is not None:
        spread = interval(causal.follows_low, causal.follows_high, 100)
        words.append(
            f"{percent(causal.follows)}% ({spread}) of its answers follow the words before them"
            " when these contradict the picture."
        )
    else:
        words.append(f"Integration cannot be told from reasoning: {_why_one_part(causal)}.")
    words.append(_prefilling(causal))
    if causal.left_out:
        words.append(
            f"{counted(causal.left_out, 'problem')} of the gap lacked a view of the split, had a"
            " sample that failed in one, or had no number to read."
        )
    return words


def _prefilling(causal: CausalSummary) -> str:
    """What words in the answer change by themselves, in words."""
    where = "the question" if causal.in_user_turn else "the answer"
    part = causal.prefilling
    plain = causal.parts["reading"].points + part.points
    return (
        f"With the conditions in the prompt, asking for them and putting them into {where}, too,"
        f" changes accuracy by {signed(part.points)} points"
        f" ({interval(part.ci_low, part.ci_high)}). Reading and what follows it are corrected for"
        f" that (reading uncorrected: {signed(plain)})."
    )


def _why_one_part(causal: CausalSummary) -> str:
    """Why X / I of `analysis.causal` is not known, with the accuracies."""
    image, changed = (
        f"{percent(causal.accuracies[view])}%" for view in (IMAGE, "corrupted-transcription")
    )
    if causal.image_too_low:
        return f"image-only accuracy, {image}, is not above {100 * LEAST_IMAGE:g}% for certain"
    return (
        f"accuracy with a changed number in the words, {changed}, is above that from the image"
        f" only, {image}, for certain"
    )


def _too_few(causal: CausalSummary) -> str:
    """Why the gap is not split into shares, in words, and how many problems may do."""
    head = f"There are too few problems to split the gap ({causal.n_problems:,}):"
    known = {
        name: (part.share_low, part.share_high)
        for name, part in causal.parts.items()
        if part.share_low is not None and part.share_high is not None
    }
    if not known and causal.gap.ci_high < 0:
        return "The image side is better, so there is no gap to split."
    if not known:
        return "No gap is clear enough to be split: its interval holds 0."
    name, (low, high) = max(known.items(), key=lambda item: item[1][1] - item[1][0])
    # An interval is narrower with the square root of the number of problems.
    needed = causal.n_problems * ((high - low) / MOST_WIDTH) ** 2
    tens = 10 ** max(0, len(str(int(needed))) - 2)
    return (
        f"{head} the interval of the share of {PARTS[name]} is {interval(low, high, 100)}% of the"
        f" gap, wider than the gap itself. It takes roughly {math.ceil(needed / tens) * tens:,}"
        " problems."
    )


def _points(part: CausalPart) -> str:
    words = f"{signed(part.points)} ({interval(part.ci_low, part.ci_high)}"
    if part.share is None:
        return f"{words})"
    return f"{words}; {100 * part.share:.0f}%)".replace("-", "−")


def gap_words(gap: GapSummary | GapPart) -> Pieces:
    """The answer as pieces of a sentence, each with the side that it is about."""
    return [
        (f"Text {percent(gap.text_accuracy)}", "t"),
        (", ", ""),
        (f"image {percent(gap.vision_accuracy)}", "v"),
        (": ", ""),
        (f"gap {points(gap.points)} points", "g"),
        (", ", ""),
        (f"95% interval {interval(gap.ci_low, gap.ci_high)}", "i"),
    ]


def _over(gap: GapSummary, summary: Summary) -> str:
    lost = gap.table.text_only
    right = lost + gap.table.both
    samples = counted(summary.samples_per_problem, "sample")
    words = f"Over {counted(gap.n_problems, 'problem')} with {samples} in each view."
    if right:
        words += (
            f" Of the {right:,} it solves from text, it loses {lost:,} when the conditions are only"
            " in the image."
        )
    return " ".join([words, *meaning_words(gap)])


def meaning_words(gap: GapSummary) -> list[str]:
    """What a gap does not say by itself, as sentences; empty if nothing needs to be added."""
    if not seen(gap):
        return ["No sample is right in either view, so there is no gap to see."]
    words: list[str] = []
    if _turned(gap):
        words.append("It answers better from the image than from text.")
    if not degenerate(gap.ci_low, gap.ci_high) and gap.ci_low <= 0 <= gap.ci_high:
        words.append("The interval holds 0: these problems do not show a gap for certain.")
    return words


def _turned(gap: GapSummary) -> bool:
    """Whether the image is the better side beyond chance."""
    return gap.ci_high < 0 and points(gap.points).startswith("−")


def _comparison(
    gaps: Mapping[str, GapSummary], change: Mapping[str, GapChange], first: str
) -> list[str]:
    """The smallest gap among the others by its size, and whether it cost text accuracy."""
    others = {name: gap for name, gap in gaps.items() if name != first and seen(gap)}
    blank = [name for name in gaps if name != first and name not in others]
    nothing = (
        [f"No sample of {_and(blank)} is right in either view, so there is no gap to see."]
        if blank
        else []
    )
    if not others:
        return nothing
    sizes = {name: round(abs(gap.points), 1) for name, gap in others.items()}  # as they are shown
    best = [name for name, size in sizes.items() if size == min(sizes.values())]
    named = _and([_gap_of(name, others[name]) for name in best])
    smallest = f"Smallest gap{'s' if len(best) > 1 else ''} of the others: {named}."
    return [
        " ".join([smallest, *(words for name in best if (words := _moved(name, change, first)))]),
        *(words for name in best if (words := _paid(name, others[name], gaps[first]))),
        *nothing,
    ]


def _gap_of(name: str, gap: GapSummary) -> str:
    shown = points(gap.points)
    meaning = ", so it answers better from the image than from text" if _turned(gap) else ""
    sides = f"text {percent(gap.text_accuracy)}, image {percent(gap.vision_accuracy)}"
    return f"{name}, {shown} points ({sides}{meaning})"


def _moved(name: str, change: Mapping[str, GapChange], first: str) -> str:
    """How a run's gap differs from the first one's; empty where they share no problem."""
    moved = change.get(name)
    if not moved:
        return ""
    words = (
        f"Against {first} the gap of {name} changes by {signed(moved.points)} points, 95% interval"
        f" {interval(moved.ci_low, moved.ci_high)}, over"
        f" {counted(moved.n_problems, 'shared problem')}."
    )
    if not moved.degenerate and moved.ci_low <= 0 <= moved.ci_high:
        words += " That interval holds 0: it may be chance."
    return words


def _paid(name: str, gap: GapSummary, base: GapSummary) -> str:
    """A warning where a run has the smaller gap and the lower text accuracy; else empty."""
    fall = 100 * (base.text_accuracy - gap.text_accuracy)
    if gap.points >= base.points or fall < 1:
        return ""
    return (
        f"Mind that {name} is {points(fall)} points less accurate from text: part of a smaller gap"
        " can be lost text accuracy."
    )


def _and(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def graded_words(runs: Mapping[str, Summary]) -> list[str]:
    """A warning where runs that are shown together were graded by different rules."""
    modes = t.modes(runs)
    if len({rule for mode in modes for rule in mode.split(" and ")}) < 2:
        return []
    said = ", ".join(f"{_and(names)} {mode}" for mode, names in modes.items())
    return [
        f"Graded by different rules: {said}; modgap grade RUN --mode {next(iter(modes)).split()[0]}"
        " makes them alike."
    ]


def change_words(changes: Mapping[str, GapChange], first: str) -> list[str]:
    """Why a change of the gap has no interval."""
    alike = [name for name, change in changes.items() if change.degenerate]
    if not alike:
        return []
    return [
        f"The change of the gap from {first} to {_and(alike)} has no interval (–): it is the same"
        " for all shared problems; too few are distinct for resampling to show a spread."
    ]


def training_words(training: Mapping[str, Sequence[LoggedStage]]) -> list[str]:
    """Recipes and stages that learned nothing.

    Args:
        training: As `curves.logged` returns it; a log without `updates` is not judged.
    """
    words: list[str] = []
    for recipe, stages in training.items():
        idle: list[tuple[str, int]] = []
        for stage in stages:
            updates = stage.metrics.get("updates")
            if updates is not None and not sum(value for _, value in updates):
                idle.append((stage.stage, len(updates)))
        if len(idle) == len(stages):
            steps = sum(count for _, count in idle)
            words.append(
                f"{recipe}: no update in {counted(steps, 'step')}, so its weights are those of the"
                " base model."
            )
        else:
            words += [
                f"{recipe}, {title}: no update in {counted(count, 'step')}, so this stage changed"
                " no weights."
                for title, count in idle
            ]
    return words
