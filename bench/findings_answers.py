"""The answers of docs/experiments/findings/index.md in words, by the rules of its plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from findings_parts import PARTS
from findings_tests import READING, SMALL, USE, Book, MissingError, Tested, outcome

from modgap.core.text import interval, signed

INTRODUCTIONS = {
    "1": (
        "*Reading* is what true conditions in the answer change, against those that the model"
        " writes down itself, and *use* what is lost although the true ones stand there:"
        " integration and reasoning ([the gap in parts](../../reference/causal.md)). What words in"
        " the answer change where the prompt has them, too, is in neither; it is the last column."
    ),
    "2": (
        "Tower, merger and language model are swapped between the base model and a checkpoint. The"
        " *effect* of a part on image accuracy is its mean over the settings of the others."
    ),
    "3": "*Dependence* is what another problem's picture takes away with all conditions in words.",
}
"""Question -> what its words mean."""


def _points(result: Tested) -> str:
    """An estimate with its interval."""
    found = result.found
    if found is None:
        return "not run"
    return f"{signed(found.value)} points ({interval(found.ci_low, found.ci_high)})"


def _supported(results: Sequence[Tested], *numbers: int) -> bool:
    return all(results[number - 1].verdict == "supported" for number in numbers)


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _first(results: Sequence[Tested], book: Book) -> str:
    if _supported(results, 1, 2):
        answer = "Reading"
    elif (
        results[0].verdict == "against"
        and results[0].found is not None
        and results[0].found.value < -SMALL
        and results[1].verdict != "supported"
    ):
        answer = "Reasoning"
    else:
        answer = "Neither alone"
    reading, use = (float(outcome(book, "base", part, []).mean()) for part in (READING, USE))
    return (
        f"**{answer}.** Of the base model's gap {signed(reading)} points are reading and"
        f" {signed(use)} are use. Training on text changes reading by {_points(results[1])} and"
        f" use by {_points(results[4])}, training on pictures changes reading by"
        f" {_points(results[2])}. The contrastive KL changes reading by {_points(results[3])},"
        " compared with as many further steps on text."
    )


def _second(results: Sequence[Tested], book: Book) -> str:
    of_part = {part: (results[i], results[i + 4]) for i, part in enumerate(PARTS)}
    broken = [part for part, pair in of_part.items() if all(r.verdict == "supported" for r in pair)]
    answer = f"In the {_listed(broken)}" if broken else "In no part alone, by the plan's rule"
    effects = "; ".join(
        f"{part} {_points(swapped)}, frozen {_points(frozen)}"
        for part, (swapped, frozen) in of_part.items()
    )
    return (
        f"**{answer}.** Effects on image accuracy, and what freezing the part keeps: {effects}."
        f" The KL changes the effect of the language model by {_points(results[7])} and that of"
        f" tower and merger by {_points(results[8])}."
    )


def _third(results: Sequence[Tested], book: Book) -> str:
    half = len(results) // 2
    pairs = [
        (result.claim.words.split(": ")[1].split(" minus ")[0], result, other)
        for result, other in zip(results[:half], results[half:], strict=True)
    ]
    closes = [name for name, gap, _ in pairs if gap.verdict == "supported"]
    only = [
        name
        for name, gap, dependence in pairs
        if dependence.verdict == "supported" and gap.verdict != "supported"
    ]
    answer = f"{_listed(closes)} close the gap" if closes else "None of them closes the gap"
    if only:
        answer += f"; {_listed(only)} only raise dependence"
    each = "; ".join(
        f"`{name}` gap {_points(gap)}, dependence {_points(dependence)}"
        for name, gap, dependence in pairs
    )
    return f"**{answer}.** Against the same steps without the terms: {each}."


def _fourth(results: Sequence[Tested], book: Book) -> str:
    said = ("a difference", "supported", "against")
    clear = [result for result in results if result.verdict in said]
    each = "; ".join(f"{result.claim.words} {_points(result)}" for result in clear)
    return f"**{len(clear)} of {len(results)} comparisons are clear.** {each or 'All are open'}."


def _fifth(results: Sequence[Tested], book: Book) -> str:
    harmful = [
        result.claim.words.split(": ")[1].split(" minus ")[0]
        for result in results[1:]
        if result.verdict == "supported"
    ]
    answer = f"The gap is larger after {_listed(harmful)}" if harmful else "No share by itself"
    return (
        f"**{answer}.** Every further 25% of the conditions in the words changes it by"
        f" {_points(results[0])}."
    )


_ANSWERS: Mapping[str, Callable[[Sequence[Tested], Book], str]] = {
    "1": _first, "2": _second, "3": _third, "4": _fourth, "5": _fifth,
}  # fmt: skip


def answer(name: str, results: Sequence[Tested], book: Book) -> str:
    """The answer to a question, with how many of its hypotheses hold.

    Args:
        name: The question, `1` to `5`.
        results: Its hypotheses, tested.
        book: Its runs.
    """
    lacking = [str(i) for i, result in enumerate(results, start=1) if result.found is None]
    if lacking:
        return f"**Not complete: not run are the hypotheses {_listed(lacking)}.**"
    try:
        return _ANSWERS[name](results, book)
    except MissingError as error:
        return f"**Not complete: {error}.**"
