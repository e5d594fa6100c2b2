"""Prompts as the `hf` engine encodes them, in every view."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from modgap.core.problem import Problem
from modgap.core.prompt import Prompt, evaluation_prompt
from modgap.core.view import get_view
from modgap.models.encode import EncodedPrompt
from modgap.models.policy import Policy

VIEWS = ("full-text", "image-only", "text-only")


def encode(policy: Policy, problems: Sequence[Problem]) -> list[EncodedPrompt]:
    """Each problem in every view: with and without an image, long and short, and an image of
    another size.
    """
    prompts = [
        policy.encode(evaluation_prompt(problem, get_view(view), "aligned"), problem.open_image())
        for problem in problems
        for view in VIEWS
    ]
    return [*prompts, policy.encode(Prompt("Find AB."), Image.new("RGB", (300, 200), "white"))]
