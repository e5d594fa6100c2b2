"""`--set key=value`: what it changes in a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from modgap.core.errors import UserError
from modgap.core.recipe import (
    ENGINE_PREFIX,
    NAMES,
    OF_THE_KL,
    STAGE_NAMES,
    Recipe,
    Stage,
    parse_value,
    typed,
)
from modgap.core.terms import PAPER_CLAMP, set_field

_OF_TERM = re.compile(r"(?:stage(\d+)\.)?term(\d+)\.(\w+)")
_OF_THE_TERM = {name: name.removeprefix("kl_") for name in OF_THE_KL}
"""Setting of the paper's KL -> the value of a term that is like it."""


def apply_settings(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """The recipe with `key=value` settings applied, in order.

    Args:
        recipe: Where to start.
        assignments: `key=value` for every stage, `stageN.key=value` for the N-th (from 1);
            `termN.key=value` for the N-th term of every stage that has one; `verl.KEY=value` is
            passed on to that engine.

    Raises:
        UserError: No such key, stage or value; or the settings do not go together.
    """
    for assignment in assignments:
        recipe = _applied(recipe, assignment)
    recipe.check()
    return recipe


def _applied(recipe: Recipe, assignment: str) -> Recipe:
    """The recipe with one setting; whether it still works is not looked at."""
    chosen, key, text = _read(recipe, assignment)
    change = _change(key, text)
    stages = tuple(change(stage) if i in chosen else stage for i, stage in enumerate(recipe.stages))
    return replace(recipe, stages=stages)


def _read(recipe: Recipe, assignment: str) -> tuple[Sequence[int], str, str]:
    """The stages (from 0) that a setting is for, its key without the stage, and its value."""
    key, sign, text = assignment.partition("=")
    key, text = key.strip(), text.strip()
    if not sign:
        raise UserError(f"--set {assignment}: write it as key=value.")
    chosen: Sequence[int] = range(len(recipe.stages))
    if key.startswith("stage") and "." in key:
        number, _, key = key.removeprefix("stage").partition(".")
        if not number.isdigit() or not 1 <= int(number) <= len(recipe.stages):
            raise UserError(
                f"--set {assignment}: recipe {recipe.name!r} has stages 1 to"
                f" {len(recipe.stages)}, no {number!r}."
            )
        chosen = range(int(number) - 1, int(number))
    if match := _OF_TERM.fullmatch(key):
        chosen = _with_term(recipe, chosen, int(match[2]), assignment)
    return chosen, key, text


def check_once(recipe: Recipe, assignments: Sequence[str]) -> None:
    """Refuse two values of one setting of the KL: `kl_coef`, and the `term1.coef` of its term.

    Args:
        recipe: Without these settings.
        assignments: As of `apply_settings`, which they have passed.

    Raises:
        UserError: Two differ; which of them is meant is not known.
    """
    for i, stage in enumerate(recipe.stages):
        number = next((n for n, term in enumerate(stage.all_terms, 1) if term.contrastive), None)
        given = dict[str, str]()
        for assignment in assignments:
            chosen, key, text = _read(recipe, assignment)
            if i in chosen:
                given[key] = text
        for key, field in _OF_THE_TERM.items():
            one, other = given.get(key), given.get(f"term{number}.{field}")
            if one is not None and other is not None and _number(one) != _number(other):
                raise UserError(
                    f"--set {key}={one} and term{number}.{field}={other} are the same setting of"
                    f" stage {i + 1} of {recipe.name}: leave one of them out."
                )


def _number(text: str) -> float | str:
    """A number, so that `10` and `10.0` are equal; other text unchanged."""
    try:
        return float(text)
    except ValueError:
        return text


def without_effect(recipes: Sequence[tuple[Recipe, Sequence[str]]]) -> dict[str, str]:
    """What to say of settings that change nothing, by the setting.

    No stage which they are for uses them, or a later setting has another value for each that does.

    Args:
        recipes: Each without its settings, and those that it gets.
    """
    used = set[str]()
    unused = dict[str, list[tuple[Recipe, Sequence[int], str]]]()
    overridden = dict[str, list[str]]()
    for recipe, assignments in recipes:
        final = recipe
        before: list[tuple[str, Recipe]] = []
        for assignment in assignments:
            before.append((assignment, final))
            final = _applied(final, assignment)
        last = dict[tuple[int, str], str]()  # stage and key -> the last setting of it
        for assignment, earlier in reversed(before):
            chosen, key, text = _read(recipe, assignment)
            name = NAMES.get(key)
            places = [
                (i, key.replace("+", ""))  # Hydra's signs of verl.+KEY
                for i in chosen
                if name is None or _uses(final, earlier, i, name)
            ]
            winners: list[str] = []
            for place in places:
                winner = last.setdefault(place, assignment)
                if _number(winner.partition("=")[2].strip().lower()) != _number(text.lower()):
                    winners.append(winner)
            if not places:
                unused.setdefault(assignment, []).append((final, chosen, key))
            elif len(winners) == len(places):
                overridden.setdefault(assignment, []).extend(winners)
            else:
                used.add(assignment)
    said = {given: _idle(given, places) for given, places in unused.items()}
    for given, winners in overridden.items():
        names = list(dict.fromkeys(winners))
        holds = "holds" if len(names) == 1 else "hold"
        said[given] = f"--set {given} changes nothing: the later {', '.join(names)} {holds}"
    return {given: words for given, words in said.items() if given not in used}


def _uses(final: Recipe, before: Recipe, number: int, name: str) -> bool:
    """Whether a stage uses a setting, or its term took it over before it became another one."""
    stage = final.stages[number]
    taken = name in OF_THE_KL and not any(term.contrastive for term in stage.all_terms)
    return name in stage.in_force or (taken and name in before.stages[number].in_force)


def _idle(assignment: str, places: Sequence[tuple[Recipe, Sequence[int], str]]) -> str:
    """That a setting changes nothing, and what it may be meant for."""
    recipes = ", ".join(recipe.name for recipe, _, _ in places)
    recipe, chosen, key = places[0]
    alone = f"stage {chosen[0] + 1} of {recipes} does not use {key}"
    some = len(chosen) < len(recipe.stages)
    words = alone if some else f"no stage of {recipes} uses {key}"
    if users := [n for n, stage in enumerate(recipe.stages, 1) if NAMES[key] in stage.in_force]:
        words += f"; stage {users[0]} does"
    like = [
        f"the term of {recipe.name} has term{number}.{_OF_THE_TERM[key]}"
        for recipe, chosen, _ in places
        for i in chosen
        for number, term in enumerate(recipe.stages[i].all_terms, start=1)
        if key in _OF_THE_TERM and not term.contrastive
    ]
    return f"--set {assignment} changes nothing: {'; '.join([words, *like[:1]])}"


def has_term(recipe: Recipe, assignment: str) -> bool:
    """Whether a recipe has the term that a setting is for; true of a setting that is for none."""
    match = _OF_TERM.fullmatch(assignment.partition("=")[0].strip())
    if match is None:
        return True
    stages = recipe.stages[int(match[1]) - 1 :][:1] if match[1] else recipe.stages
    return any(len(stage.all_terms) >= int(match[2]) > 0 for stage in stages)


def _with_term(recipe: Recipe, chosen: range, number: int, assignment: str) -> list[int]:
    """Those of the chosen stages that have a term of that number."""
    found = [i for i in chosen if len(recipe.stages[i].all_terms) >= number > 0]
    if not found:
        counts = [f"stage {i + 1} has {len(recipe.stages[i].all_terms)}" for i in chosen]
        raise UserError(
            f"--set {assignment}: recipe {recipe.name!r} has no such term ({', '.join(counts)}):"
            " terms are numbered from 1 in each stage."
        )
    return found


def _change(key: str, text: str) -> Callable[[Stage], Stage]:
    """What `key=text` does to a stage."""
    if key.startswith(ENGINE_PREFIX):
        name = key.removeprefix(ENGINE_PREFIX)
        if not re.fullmatch(r"\+{0,2}\w+(\.\w+)*", name):
            raise UserError(
                f"--set {key}={text}: write it as verl.KEY=VALUE, KEY as in verl's configuration."
            )
        return lambda stage: replace(stage, passed=(*stage.passed, (name, text)))
    if match := _OF_TERM.fullmatch(key):
        number, part = int(match[2]), match[3]
        return lambda stage: _with_field(stage, number, part, text)
    if key in STAGE_NAMES:
        given = typed(key, STAGE_NAMES[key], text)
        if key == "policy_loss":
            return lambda stage: replace(stage, policy_loss=given)
        part = key.removeprefix("reward.")
        return lambda stage: replace(stage, reward=replace(stage.reward, **{part: given}))
    attribute = NAMES.get(key, key)
    value = parse_value(key, text)
    return lambda stage: _with_setting(stage, attribute, value)


def _with_field(stage: Stage, number: int, key: str, text: str) -> Stage:
    """A stage whose term of that number has another value; its terms are then all in `terms`."""
    terms = list(stage.all_terms)
    terms[number - 1] = set_field(terms[number - 1], f"term{number}", key, text)
    return replace(stage, contrastive=False, terms=tuple(terms))


def _with_setting(stage: Stage, name: str, value: Any) -> Stage:
    """A stage with another setting; those of the paper's KL reach it where it is in `terms`."""
    settings = replace(stage.settings, **{name: value})
    terms = list(stage.terms)
    for i, term in enumerate(terms):
        if not term.contrastive:
            continue
        if name == "kl_coef":
            terms[i] = replace(term, coef=value)
        elif name == "kl_clamp" and term.estimator == "k3":
            terms[i] = replace(term, clamp=PAPER_CLAMP if value == "paper" else None)
        elif name == "kl_estimator":
            clamped = value == "k3" and settings.kl_clamp == "paper"
            terms[i] = replace(term, estimator=value, clamp=PAPER_CLAMP if clamped else None)
    return replace(stage, settings=settings, terms=tuple(terms))
