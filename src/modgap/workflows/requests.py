"""What a model is asked, and what a run records of it: requests, prompts, and the rows of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from modgap.core.engine import CONTINUED, Completion, Request, Sampling
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt, Style, evaluation_prompt, structural_conditions
from modgap.core.rows import Key, ProblemRow, Response
from modgap.core.transcripts import WHOSE
from modgap.core.view import View, samples_of
from modgap.workflows.pictures import picture_of

_SEED = Sampling().seed


def make_requests(
    problems: Sequence[Problem],
    views: Sequence[View],
    samples: int,
    style: Style,
    done: Collection[Key] = (),
    seed: int = _SEED,
    *,
    continues: bool = True,
) -> list[Request]:
    """What a model is asked: each problem in each view that it has.

    The views of a problem are side by side, so that its image is prepared once.

    Args:
        problems: The problems.
        views: The views.
        samples: Responses for each of them.
        style: Wording of the prompts.
        done: The samples that exist.
        seed: Of the run.
        continues: Whether the engine continues a started turn of the assistant's; a transcription
            stands in the user turn otherwise.
    """
    requests: list[Request] = []
    for number, problem in enumerate(problems):
        for view in views:
            if not problem.has_view(view.name):
                continue
            asked = range(samples_of(view.name, samples))
            wanted = tuple(s for s in asked if (problem.id, view.name, s) not in done)
            if wanted:
                image, name = picture_of(view, problem, problems, number, style)
                prompt = evaluation_prompt(problem, view, style, seed)
                if prompt.without_prefill and not continues:
                    prompt = prompt.in_user_turn()
                requests.append(Request(problem.id, view.name, prompt, image, wanted, name))
    return requests


def expected_prompts(
    problems: Sequence[Problem], views: Sequence[View], style: Style, seed: int
) -> Callable[[Response], str | None]:
    """A function of a response to the prompt that it must have.

    It gives `None` where the data set has no such view of the problem.
    """
    by_id = {problem.id: problem for problem in problems}

    @functools.cache
    def asked(problem_id: str, view: str) -> Prompt | None:
        problem = by_id[problem_id]
        if not problem.has_view(view):
            return None
        return evaluation_prompt(problem, view, style, seed)

    def words(response: Response) -> str | None:
        prompt = asked(response.problem_id, response.view)
        if prompt is not None and prompt.without_prefill and not response.prefill:
            return prompt.without_prefill
        return prompt and prompt.text

    return words


def problem_row(problem: Problem, style: Style) -> ProblemRow:
    """What a run records of a problem."""
    return ProblemRow(
        id=problem.id,
        answer=problem.answer,
        question=problem.question,
        type=problem.type,
        leaky=problem.leaky,
        image=(
            str(problem.image.resolve())
            if isinstance(problem.image, Path)
            else problem.image_at or None
        ),
        conditions=(*structural_conditions(problem, style), *problem.semantic),
        grader=problem.grader,
        subject=problem.labels.get("subject", ""),
        views=problem.views,
        questions=problem.own_questions,
        answers=problem.own_answers,
    )


def response_row(completion: Completion) -> Response:
    """What a run records of a response."""
    request, left_out = completion.request, completion.left_out
    moved = request.view in WHOSE and not request.prompt.prefill
    if moved and CONTINUED not in left_out:
        left_out = (*left_out, CONTINUED)
    return Response(
        problem_id=request.problem_id,
        view=request.view,
        sample=completion.sample,
        prompt=request.prompt.text,
        response=completion.text,
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        image_tokens=completion.image_tokens,
        seed=completion.seed,
        error=completion.error,
        prefill=request.prompt.prefill or completion.opened,
        left_out=left_out,
    )
