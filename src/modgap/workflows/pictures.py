"""The picture that a view shows with a problem."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.prompt import Style, rendered_words
from modgap.core.view import View

if TYPE_CHECKING:
    from PIL.Image import Image


def picture_of(
    view: View, problem: Problem, problems: Sequence[Problem], number: int, style: Style
) -> tuple[Callable[[], Image] | None, str]:
    """What opens the picture that a view shows with a problem, and its name in messages.

    Args:
        view: The view.
        problem: The problem.
        problems: All of them, one of which lends its diagram to `swapped-image`.
        number: Position of the problem among them.
        style: Wording of the conditions that are drawn.

    Raises:
        UserError: The problem has no diagram, which the view needs.
    """
    if view.picture == "none":
        return None, ""
    if view.rendering is not None:
        opener = functools.partial(_rendered, problem, view, rendered_words(problem, style))
        return opener, f"{problem.image_name()} with its conditions"
    if problem.image_of(view.name) is None:
        raise UserError(
            f"problem {problem.id} has no diagram, which the view {view.name!r} needs: choose other"
            " --views."
        )
    if view.picture == "blank":
        return functools.partial(_blank, problem), problem.image_name()
    if view.picture == "swapped":
        others = (problems[(number + step) % len(problems)] for step in range(1, len(problems)))
        other = next((p for p in others if p.image is not None and p.image != problem.image), None)
        if other is None:
            raise UserError(
                "the view 'swapped-image' needs at least two problems with different diagrams."
            )
        return other.open_image, f"{other.image_name()} of problem {other.id}"
    opener = (
        functools.partial(problem.open_image, view.name)
        if problem.own_images
        else problem.open_image
    )
    return opener, problem.image_name(view.name)


def _blank(problem: Problem) -> Image:
    from PIL import Image

    return Image.new("RGB", problem.open_image().size, "white")


def _rendered(problem: Problem, view: View, words: str) -> Image:
    """The problem's diagram, if it has one, with its conditions drawn below."""
    from modgap.core.rendering import with_words

    assert view.rendering is not None
    has_image = problem.image_of("full-text") is not None
    diagram = problem.open_image("full-text") if has_image else None
    try:
        return with_words(words, view.rendering, diagram)
    except UserError as error:
        raise UserError(f"problem {problem.id}, view {view.name}: {error}") from None


def check_characters_of(problems: Sequence[Problem], view: View) -> None:
    """Refuse a font that cannot show all conditions, before a model is loaded.

    Raises:
        UserError: The message names the problem and the characters.
    """
    from modgap.core.rendering import check_characters

    assert view.rendering is not None
    for problem in problems:
        try:
            check_characters(rendered_words(problem), view.rendering)
        except UserError as error:
            raise UserError(f"problem {problem.id}, view {view.name}: {error}") from None
