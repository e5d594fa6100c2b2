"""Our data sets as a task of inspect_ai, with paired views: `inspect eval modgap/gap`.

inspect_ai finds the task by its entry point (group `inspect_ai`). The log holds what a run folder
needs, so that `modgap import --from inspect LOG` makes a run of it (`workflows.import_inspect`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from inspect_ai import Task, task  # pyright: ignore[reportMissingImports]
from inspect_ai.dataset import (  # pyright: ignore[reportMissingImports]
    MemoryDataset,
    Sample,
)
from inspect_ai.model import (  # pyright: ignore[reportMissingImports]
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
)
from inspect_ai.scorer import (  # pyright: ignore[reportMissingImports]
    Metric,
    SampleScore,
    Score,
    Scorer,
    Target,
    accuracy,
    grouped,
    metric,
    scorer,
)
from inspect_ai.solver import (  # pyright: ignore[reportMissingImports]
    TaskState,
    generate,
)

from modgap.core.engine import Request
from modgap.core.problem import split_grader
from modgap.core.prompt import check_style
from modgap.core.rows import ProblemRow
from modgap.core.thinking import message_text
from modgap.core.view import get_view, parse_views
from modgap.engines.chat import png_data_uri
from modgap.grading.graders import grade_one
from modgap.grading.mathverse import Case
from modgap.workflows.fingerprints import fingerprint
from modgap.workflows.problems import check_views, default_views, load_problems
from modgap.workflows.requests import make_requests, problem_row

KEY = "modgap"
"""Under which the metadata of the task and of its samples have what a run records."""
_LIMIT = 4096


@task
def gap(
    benchmark: str = "synthetic",
    data: str | None = None,
    views: str | None = None,
    samples: int = 4,
    limit: int | None = None,
    style: str = "aligned",
    temperature: float = 0.6,
) -> Task:
    """Every problem in every view; each sample of inspect_ai is one problem in one view.

    Args:
        benchmark: Layout of the data set, as of `modgap eval`.
        data: Its folder or file; `synthetic` needs none.
        views: Comma-separated; those of the data set if not given.
        samples: Responses for each problem and view (inspect_ai's epochs).
        limit: Only this number of problems, from the first. inspect_ai's own `--limit` counts
            samples, of which a problem has one for each view.
        style: Wording of the prompts.
        temperature: Of the sampling.
    """
    wording = check_style(style)
    problems = load_problems(data, benchmark, limit=limit)
    chosen = parse_views(views or default_views(problems))
    check_views(problems, chosen)
    rows = {problem.id: problem_row(problem, wording) for problem in problems}
    asked = [
        Sample(
            id=f"{request.problem_id}--{request.view}",
            input=_messages(request),
            target=rows[request.problem_id].gold_of(request.view),
            metadata={
                "view": request.view,
                KEY: {
                    "view": request.view,
                    "prompt": request.prompt.text,
                    "problem": rows[request.problem_id].model_dump(mode="json", by_alias=True),
                },
            },
        )
        for request in make_requests(problems, chosen, samples, wording, continues=False)
    ]
    recorded = {
        "views": [view.name for view in chosen],
        "samples": samples,
        "style": wording,
        "problems": len(problems),
        "benchmark": benchmark,
        "fingerprint": fingerprint(problems),
    }
    return Task(
        dataset=MemoryDataset(asked, name=benchmark),
        solver=generate(),
        scorer=graded(),
        epochs=samples,
        config=GenerateConfig(temperature=temperature, top_p=1.0, max_tokens=_LIMIT),
        metadata={KEY: recorded},
    )


def _messages(request: Request) -> list[ChatMessage]:
    """The turns of a request: system, image before text, and what opens the answer."""
    prompt = request.prompt
    turns: list[ChatMessage] = []
    if prompt.system is not None:
        turns.append(ChatMessageSystem(content=prompt.system))
    words = ContentText(text=prompt.text)
    if request.image is None:
        turns.append(ChatMessageUser(content=[words]))
    else:
        picture = ContentImage(image=png_data_uri(request.image()))
        turns.append(ChatMessageUser(content=[picture, words]))
    if prompt.prefill:
        turns.append(ChatMessageAssistant(content=prompt.prefill))
    return turns


@metric
def modality_gap() -> Metric:
    """Accuracy of the text side minus that of the image side, in points, paired by problem."""

    def compute(scores: list[SampleScore]) -> float:
        sides: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for score in scores:
            of_sample = (score.sample_metadata or {})[KEY]
            value = score.score.as_float()
            if not math.isnan(value):
                side = get_view(of_sample["view"]).side
                sides[of_sample["problem"]["id"]][side].append(value)
        paired = [
            _mean(of_problem["text"]) - _mean(of_problem["vision"])
            for of_problem in sides.values()
            if of_problem["text"] and of_problem["vision"]
        ]
        return 100 * _mean(paired) if paired else float("nan")

    return compute


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@scorer(metrics=[grouped(accuracy(), "view"), modality_gap()])
def graded() -> Scorer:
    """The strict grade of modgap; what it cannot decide is not scored, and so never wrong."""

    async def score(state: TaskState, target: Target) -> Score:
        problem = ProblemRow.model_validate(state.metadata[KEY]["problem"])
        view: str = state.metadata[KEY]["view"]
        message = state.output.message
        parts = message.content if isinstance(message.content, str) else [
            part.model_dump() for part in message.content
        ]  # fmt: skip
        _, kind = split_grader(problem.grader)
        cut = state.output.stop_reason in ("max_tokens", "model_length")
        text = message_text(parts, cut=cut)
        case = Case(text, target.text, problem.question_of(view), kind)
        grade = grade_one(problem.grader, case)
        explanation = f"{grade.outcome} ({grade.stage})"
        if grade.outcome == "error":
            return Score(value=math.nan, explanation=f"{explanation}: {grade.reason}")
        return Score(value=float(grade.correct), answer=grade.answer, explanation=explanation)

    return score
