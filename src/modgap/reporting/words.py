"""A report in words: its answer, and what a reader must know before the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modgap.core.record import GradeRow, Response
from modgap.core.thinking import CUT_THINKING
from modgap.reporting import tables as t
from modgap.reporting.same_data import groups
from modgap.reporting.seed_tables import seed_words

if TYPE_CHECKING:
    from modgap.reporting.collect import Collection

MUCH_CUT = 0.05
"""The share of truncated responses from which a report warns."""
_LEFT_OUT = {
    "system": "the system turn, which the server or the chat template does not take",
    "seed": "a seed, which the server does not take: they cannot be repeated",
    "continue_final_message": "the started turn being continued, which the server cannot: it began a new one, and the "
    "prompt is not quite the paper's",
}
FEW_LOST = 10
"""Of fewer lost problems that could be read a headline gives no share."""


def headline(numbers: Mapping[str, Any], found: Collection) -> dict[str, Any]:
    """The answer in words: `title`, `kicker`, `answer` (pieces of a sentence, each with its side), `lede`."""
    with_gap = {name: s["gap"] for name, s in numbers["runs"].items() if s["gap"]}
    over_seeds = [words for table in numbers["seeds"] for words in seed_words(table)]
    if with_gap:
        first, gap = next(iter(with_gap.items()))
        summary = numbers["runs"][first]
        pieces = gap_words(gap, summary["reading"])
        lede = [_over(gap, summary), *reading_words(summary["reading"])]
        if len(with_gap) > 1:
            pieces.insert(0, (f"{first}: ", ""))
        if len(with_gap) > 1:
            # The best of several seeds is the luckiest one: with seeds, recipes are compared and not runs.
            alike = next((names for names in groups(found.evals) if first in names), [first])
            compared = {name: gap for name, gap in with_gap.items() if name in alike}
            lede += over_seeds or _comparison(compared, numbers["changes"], first)
    elif over_seeds:
        first_row = numbers["seeds"][0]["rows"][0]
        pieces = [(f"{first_row['recipe']}: ", ""), *gap_words(_as_gap(first_row), None)]
        lede = over_seeds
    elif numbers["runs"]:
        name, summary = next(iter(numbers["runs"].items()))
        shares = [f"{view} {t.percent(row['accuracy'])}" for view, row in summary["views"].items() if row["n_samples"]]
        pieces = [(f"{', '.join(shares)} percent correct" if shares else f"{name}: nothing to measure yet", "")]
        lede = ["A gap needs the same problems in a text-centric and in a vision-centric view."]
    else:
        steps = sum(len(stage.log) for stage in found.stages)
        recipes = ", ".join(dict.fromkeys(stage.recipe for stage in found.stages))
        pieces = [(f"Training of {recipes}: {t.counted(steps, 'step')} logged", "")]
        lede = ["Evaluate the checkpoints with modgap eval, and give that run, too, to see the gap."]
    modes = ", ".join(dict.fromkeys(run.mode for run in found.evals))
    named = ", ".join([run.name for run in found.evals] or list(dict.fromkeys(s.recipe for s in found.stages)))
    if numbers["seeds"]:
        named = ", ".join(dict.fromkeys(row["recipe"] for table in numbers["seeds"] for row in table["rows"]))
        modes = modes or ", ".join(dict.fromkeys(table["mode"] for table in numbers["seeds"]))
    return {
        "title": "".join(words for words, _ in pieces),
        "kicker": f"Modality gap report · {named}" + (f" · graded {modes}" if modes else ""),
        "answer": pieces,
        "lede": lede,
    }


def _as_gap(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table over seeds as `gap_words` takes it."""
    gap = row["gap"]
    sides = {f"{side}_accuracy": row[side]["value"] for side in ("text", "vision")}
    return {**sides, "points": gap["value"], "ci_low": gap["ci_low"], "ci_high": gap["ci_high"]}


def warnings(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader must know before the numbers: one line for each kind of trouble, over all runs.

    Args:
        runs: Name -> summary; a single run is not named.
    """
    several = len(runs) > 1
    rows = [
        (f"{name} {view}" if several else view, row, summary)
        for name, summary in runs.items()
        for view, row in summary["views"].items()
    ]
    words: list[str] = []
    for what, row, summary in rows:
        has_view = summary["n_problems"] - row.get("absent_problems", 0)  # older summaries do not say
        if row["missing_samples"]:
            words.append(
                f"{what} is not finished: {row['missing_samples']:,} of "
                f"{has_view * summary['samples_per_problem']:,} samples are missing or not graded; its "
                f"numbers are over the {row['n_problems']:,} of {has_view:,} problems that are complete."
            )
        if has_view < summary["n_problems"]:
            words.append(
                f"{what} is over {has_view:,} of {summary['n_problems']:,} problems: the data has no such version of "
                "the others."
            )
    for name, summary in runs.items():
        paired = summary["gap"]["n_problems"] if summary["gap"] else 0
        if failed := _failed_sides(summary):
            of = f" of {name}" if several else ""
            words.append(f"There is no gap{of}: no sample of the {' and '.join(failed)} side could be graded.")
        elif summary["pairable"] and paired < summary["n_problems"]:
            of = f" of {name}" if several else ""
            words.append(
                f"The gap{of} is over the {paired:,} of {summary['n_problems']:,} problems that are complete in both "
                "views."
            )
        gap = summary["gap"]
        if gap and seen(gap) and t.degenerate(gap["ci_low"], gap["ci_high"]):
            of = f" of {name}" if several else ""
            words.append(
                f"The gap{of} has no interval (–): all {gap['n_problems']:,} problems have the same difference between "
                "the views; too few are distinct for resampling to show a spread."
            )
    if some := [f"{what} {row['error']:,} of {row['n_samples']:,}" for what, row, _ in rows if row["error"]]:
        words.append(f"Samples that could not be graded, which count as not right: {', '.join(some)}.")
    cut = [(what, row["truncation_rate"]) for what, row, _ in rows if (row["truncation_rate"] or 0) >= MUCH_CUT]
    if cut:
        words.append(
            f"Responses cut at the token limit, which lowers accuracy (a larger --max-tokens shows by how much): "
            f"{', '.join(f'{what} {t.percent(share)}%' for what, share in cut)}."
        )
    return words


def _failed_sides(summary: Mapping[str, Any]) -> list[str]:
    """The sides of the gap of which every sample failed."""
    sides = {side: [row for row in summary["views"].values() if row["side"] == side] for side in ("text", "vision")}
    return [
        side
        for side, rows in sides.items()
        if any(row["n_samples"] for row in rows) and all(row["error"] == row["n_samples"] for row in rows)
    ]


def reply_words(responses: Iterable[Response], grades: Iterable[GradeRow], of: str = "") -> list[str]:
    """How replies differ from what the settings ask for: one line for each way, with the samples that it concerns.

    Args:
        responses: What the model said.
        grades: Their grades.
        of: The run's name, where several are shown.
    """
    of = f" of {of}" if of else ""
    words: list[str] = []
    left_out = Counter(name for response in responses for name in response.left_out)
    for name, why in _LEFT_OUT.items():
        if left_out[name]:
            words.append(f"{t.counted(left_out[name], 'sample')}{of} {_were(left_out[name])} asked without {why}.")
    if cut := sum(row.reason == CUT_THINKING for row in grades):
        words.append(f"{t.counted(cut, 'response')}{of} {_were(cut)} {CUT_THINKING}: a box in it is no answer.")
    return words


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def reading_words(reading: Mapping[str, Any] | None) -> list[str]:
    """What became of the lost problems, as one sentence; none where that is not known."""
    if not reading:
        return []
    lost = reading["n_problems"] + reading["nothing_to_read"]
    numbers = reading["values"]["misread"]
    were = "was" if reading["misread"] == 1 else "were"
    words = f"Of the {t.counted(lost, 'problem')} lost in the image, {reading['misread']:,} {were} misread"
    if reading["misread"]:
        words += f" ({numbers:,} in their numbers, {reading['misread'] - numbers:,} only in the names of points)"
    words += f" and {reading['read_right']:,} read right and solved wrong"
    words += "".join(
        f"; {reading[key]:,} {what}"
        for key, what in (("unreadable", "wrote no condition down"), ("nothing_to_read", "had none to read"))
        if reading[key]
    )
    solved = reading["solved"]
    if known := solved["misread"] + solved["read_right"]:
        words += (
            f". By the same rule it misread {solved['misread']:,} of {t.counted(known, 'problem')} that it solves in "
            f"both views ({solved['values']['misread']:,} in their numbers)"
        )
    return [f"{words}."]


def _share_words(gap: Mapping[str, Any], reading: Mapping[str, Any] | None) -> str:
    """How much of the gap is reading: by values alone, and by values at their names.

    Empty where that is not known, where few problems tell, and where there may be no gap for it to be a share of.
    """
    if not reading or gap["ci_low"] <= 0 or 2 * reading["unreadable"] > reading["n_problems"]:
        return ""
    if reading["n_problems"] - reading["unreadable"] < FEW_LOST:
        return ""
    low, high = (f"{100 * part['share_misread']:.0f}" for part in (reading["values"], reading))
    return f"{low if low == high else f'{low} to {high}'}% of it is reading"


def gap_words(gap: Mapping[str, Any], reading: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The answer as pieces of a sentence, each with the side that it is about."""
    share = _share_words(gap, reading)
    return [
        (f"Text {t.percent(gap['text_accuracy'])}", "t"),
        (", ", ""),
        (f"image {t.percent(gap['vision_accuracy'])}", "v"),
        (": ", ""),
        (f"gap {t.points(gap['points'])} points", "g"),
        (", ", ""),
        (f"95% interval {t.interval(gap['ci_low'], gap['ci_high'])}{';' if share else ''}", "i"),
        *([(" ", ""), (share, "i")] if share else []),
    ]


def _over(gap: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    lost = gap["table"]["text_only"]
    right = lost + gap["table"]["both"]
    samples = t.counted(summary["samples_per_problem"], "sample")
    words = f"Over {t.counted(gap['n_problems'], 'problem')} with {samples} in each view."
    if right:
        words += f" Of the {right:,} it solves from text, it loses {lost:,} when the conditions are only in the image."
    return " ".join([words, *meaning_words(gap)])


def meaning_words(gap: Mapping[str, Any]) -> list[str]:
    """What a gap does not say by itself: sentences, none where it is a plain one."""
    if not seen(gap):
        return ["No sample is right in either view, so there is no gap to see."]
    words: list[str] = []
    if _turned(gap):
        words.append("It answers better from the image than from text.")
    if not t.degenerate(gap["ci_low"], gap["ci_high"]) and gap["ci_low"] <= 0 <= gap["ci_high"]:
        words.append("The interval holds 0: these problems do not show a gap for certain.")
    return words


def _turned(gap: Mapping[str, Any]) -> bool:
    """Whether the image is the better side beyond chance."""
    return gap["ci_high"] < 0 and t.points(gap["points"]).startswith("−")


def seen(gap: Mapping[str, Any]) -> bool:
    """Whether any sample is right, so that a gap could be seen."""
    return bool(gap["text_accuracy"] or gap["vision_accuracy"])


def _comparison(gaps: Mapping[str, Any], change: Mapping[str, Any], first: str) -> list[str]:
    """The smallest gap among the others by its size, and whether text accuracy was paid for it."""
    others = {name: gap for name, gap in gaps.items() if name != first and seen(gap)}
    blank = [name for name in gaps if name != first and name not in others]
    nothing = [f"No sample of {_and(blank)} is right in either view, so there is no gap to see."] if blank else []
    if not others:
        return nothing
    sizes = {name: round(abs(gap["points"]), 1) for name, gap in others.items()}  # as they are shown
    best = [name for name, size in sizes.items() if size == min(sizes.values())]
    named = _and([_gap_of(name, others[name]) for name in best])
    smallest = f"Smallest gap{'s' if len(best) > 1 else ''} of the others: {named}."
    return [
        " ".join([smallest, *(words for name in best if (words := _moved(name, change, first)))]),
        *(words for name in best if (words := _paid(name, others[name], gaps[first]))),
        *nothing,
    ]


def _gap_of(name: str, gap: Mapping[str, Any]) -> str:
    shown = t.points(gap["points"])
    meaning = ", so it answers better from the image than from text" if _turned(gap) else ""
    sides = f"text {t.percent(gap['text_accuracy'])}, image {t.percent(gap['vision_accuracy'])}"
    return f"{name}, {shown} points ({sides}{meaning})"


def _moved(name: str, change: Mapping[str, Any], first: str) -> str:
    """How a run's gap differs from the first one's; empty where they share no problem."""
    moved = change.get(name)
    if not moved:
        return ""
    words = (
        f"Against {first} the gap of {name} changes by {t.signed(moved['points'])} points, 95% interval "
        f"{t.interval(moved['ci_low'], moved['ci_high'])}, over {t.counted(moved['n_problems'], 'shared problem')}."
    )
    if not t.degenerate(moved["ci_low"], moved["ci_high"]) and moved["ci_low"] <= 0 <= moved["ci_high"]:
        words += " That interval holds 0: it may be chance."
    return words


def _paid(name: str, gap: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """A warning where a run has the smaller gap and the lower text accuracy; else empty."""
    fall = 100 * (base["text_accuracy"] - gap["text_accuracy"])
    if gap["points"] >= base["points"] or fall < 1:
        return ""
    return (
        f"Mind that {name} is {t.points(fall)} points less accurate from text: part of a smaller gap can be lost text "
        "accuracy."
    )


def _and(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def graded_words(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A warning where runs that stand side by side were graded by different rules."""
    modes = t.modes(runs)
    if len({rule for mode in modes for rule in mode.split(" and ")}) < 2:
        return []
    said = ", ".join(f"{_and(names)} {mode}" for mode, names in modes.items())
    return [
        f"Graded by different rules: {said}; modgap grade RUN --mode {next(iter(modes)).split()[0]} makes them alike."
    ]


def change_words(changes: Mapping[str, Mapping[str, Any]], first: str) -> list[str]:
    """Why a change of the gap has no interval."""
    alike = [name for name, change in changes.items() if t.degenerate(change["ci_low"], change["ci_high"])]
    if not alike:
        return []
    return [
        f"The change of the gap from {first} to {_and(alike)} has no interval (–): it is the same for all shared "
        "problems; too few are distinct for resampling to show a spread."
    ]


def training_words(training: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Recipes and stages that learned nothing.

    Args:
        training: As `curves.logged` returns it; a log without `updates` is not judged.
    """
    words: list[str] = []
    for recipe, stages in training.items():
        logged = [(stage["stage"], stage["metrics"]["updates"]) for stage in stages if "updates" in stage["metrics"]]
        idle = [(title, len(rows)) for title, rows in logged if not sum(value for _, value in rows)]
        if len(idle) == len(stages):
            steps = sum(count for _, count in idle)
            words.append(
                f"{recipe}: no update in {t.counted(steps, 'step')}, so its weights are those of the base model."
            )
        else:
            words += [
                f"{recipe}, {title}: no update in {t.counted(count, 'step')}, so this stage changed no weights."
                for title, count in idle
            ]
    return words
