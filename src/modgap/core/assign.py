"""`--set key=value`: what it changes in a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from modgap.core.errors import UserError
from modgap.core.recipe import ENGINE_PREFIX, NAMES, STAGE_NAMES, Recipe, Stage, parse_value, typed
from modgap.core.terms import PAPER_CLAMP, set_field

_OF_TERM = re.compile(r"(?:stage(\d+)\.)?term(\d+)\.(\w+)")


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
        key, sign, text = assignment.partition("=")
        key, text = key.strip(), text.strip()
        if not sign:
            raise UserError(f"--set {assignment}: write it as key=value.")
        chosen = range(len(recipe.stages))
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
        change = _change(key, text)
        stages = tuple(
            change(stage) if i in chosen else stage for i, stage in enumerate(recipe.stages)
        )
        recipe = replace(recipe, stages=stages)
    recipe.check()
    return recipe


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
