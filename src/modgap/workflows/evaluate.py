"""Problems x views x engine -> responses; resumable at every step. Grades and summary are `grade`'
part.

```
problems = read_problems("pgps9k", Path("PGPS9K"))
summary = evaluate(problems, engine, Path("runs/base"), views=("full-text", "image-only"), samples=4)
```
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from modgap.analysis.results import Summary
from modgap.core import registry
from modgap.core.engine import PLAIN, Completion, Engine, Request, Sampling
from modgap.core.errors import UsageError, UserError
from modgap.core.problem import Problem
from modgap.core.progress import progress_bars, say, warn
from modgap.core.prompt import Style, evaluation_prompt, structural_conditions
from modgap.core.record import Key, ProblemRow, Response, RunFolder, recorded_grader
from modgap.core.view import ALL_VIEWS, DEFAULT_VIEWS, VERSION_VIEWS, VIEWS, View, parse_views
from modgap.grading.answer import Mode
from modgap.reporting.sampling import greedy_words, sampling_of, sampling_words
from modgap.workflows.grade import Progress, grade_held

if TYPE_CHECKING:
    from PIL.Image import Image


def locate(benchmark: str, data: Path | None) -> Path:
    """Where the problems are; without a data set the benchmark's own, if it has any (`synthetic`).

    Raises:
        UserError: The benchmark is unknown.
        UsageError: The benchmark needs a data set, and none is given.
    """
    entry = registry.DATASETS.entry(benchmark)
    if data is not None:
        return data
    if not entry.own_data:
        raise UsageError(
            f"--data is missing: {benchmark} needs its folder or file; --benchmark synthetic needs"
            " none."
        )
    with progress_bars() as bars:
        return registry.load(entry.own_data)(bars.counter(f"drawing the {benchmark} benchmark"))


def read_problems(
    benchmark: str, data: Path, split: str = "test", limit: int | None = None
) -> list[Problem]:
    """The problems of a benchmark.

    Args:
        benchmark: A name of `core.registry.DATASETS`.
        data: Where it lies.
        split: `train` or `test`.
        limit: Only the first so many.

    Raises:
        UserError: The benchmark is unknown, its files are faulty, or there is no problem in it.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: must be at least 1.")
    problems: list[Problem] = list(
        registry.DATASETS.load(benchmark)(data, split=split, limit=limit)
    )
    if not problems:
        raise UserError(
            f"{data} has no problems in the split {split!r}: add some, or give another --data "
            f"(`modgap data check {data}` counts what it holds)."
        )
    return problems


def warn_about_images(problems: Sequence[Problem], views: Iterable[View] = ()) -> None:
    """Name the images that are shown otherwise than they are stored, or that cannot be shown, one
    line for each kind.

    Args:
        problems: Whose images.
        views: Of which views; the problems' own images if none are given.
    """
    from modgap.datasets.faults import image_warnings

    names = tuple(view.name for view in views if view.picture != "none")
    for line in image_warnings(problems, names or ("",)):
        warn(line)


def fingerprint(problems: Iterable[Problem]) -> str:
    """16 hex digits that change when a problem's words, its answer or its diagram change.

    A diagram that was shown otherwise before transparency, orientation and depth were heeded (see
    `core.images`) has a digest of its own, so that responses from before and after are not taken
    for those of one run.
    """
    digest, seen = hashlib.sha256(), dict[tuple[Path, int], str]()
    for problem in problems:
        image = None
        own_images = problem.own_images
        if problem.image is not None and not own_images:
            # A file has the longer digest that it has had since the first runs.
            image = _image_digest(
                problem, problem.image, seen, 64 if isinstance(problem.image, Path) else 16
            )
        fields = (
            problem.id,
            problem.question,
            problem.answer,
            problem.structural,
            problem.semantic,
            image,
        )
        digest.update(json.dumps([*fields, problem.own_words], sort_keys=True).encode())
        own_questions, own_answers = problem.own_questions, problem.own_answers
        if own_images or own_questions or own_answers or problem.grader:
            views = {
                view: _image_digest(problem, image, seen) for view, image in own_images.items()
            }
            more = (views, own_questions, own_answers, recorded_grader(problem.grader))
            digest.update(json.dumps(more, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _image_digest(
    problem: Problem, image: Path | bytes, seen: dict[tuple[Path, int], str], size: int = 16
) -> str:
    """Digest of an encoded diagram, of `size` bytes; a file that several problems or versions show
    is read once.

    Raises:
        UserError: The file cannot be read.
    """
    if isinstance(image, bytes):
        return _content_digest(image, size)
    key = (image, size)
    if key not in seen:
        try:
            seen[key] = _content_digest(image.read_bytes(), size)
        except OSError as error:
            raise UserError(
                f"problem {problem.id}: the diagram {image} cannot be read ({error.strerror}): "
                "`modgap data check` names every fault."
            ) from None
    return seen[key]


def _content_digest(data: bytes, size: int) -> str:
    from modgap.core.images import CONVERTED, is_plain

    return hashlib.blake2b(data, digest_size=size).hexdigest() + (
        "" if is_plain(data) else CONVERTED
    )


def evaluate(
    problems: Sequence[Problem],
    engine: Engine,
    out: Path,
    *,
    views: str | Iterable[str] = DEFAULT_VIEWS,
    samples: int = 4,
    sampling: Sampling | None = None,
    kept: Collection[str] = (),
    pixels: Sequence[int] | None = None,
    style: Style = "aligned",
    mode: Mode | None = None,
    identity: Mapping[str, Any] | None = None,
    given: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Ask a model every problem in every view, grade the answers and summarise them.

    Args:
        problems: What to ask; ids are unique.
        engine: What answers.
        out: The run folder; a run with the same arguments is gone on with.
        views: Names of views.
        samples: Responses per problem and view.
        sampling: Temperature, token limit, seed.
        kept: Those of `temperature`, `max_tokens`, `seed` and `samples` that nobody asked for: a
            run that exists keeps its own.
        pixels: Least and most pixels of an image that the engine takes, for the record.
        style: Wording of the prompts.
        mode: Grading mode. If not given, `strict`; but a run that was complete already and was
            graded in another mode since (`modgap grade`) keeps that one.
        identity: What else makes the run what it is: the model and its fingerprint.
        given: The arguments as the user gave them, for the manifest.
        progress: Told after each response.

    Returns:
        The summary, also in `out/summary.json`.

    Raises:
        UserError: The folder holds another run or a data set, has lost its manifest or has another
            run's, a view is unknown, or two problems have the same id.
    """
    chosen = parse_views(views)
    check_views(problems, chosen)
    sampling = sampling or Sampling()
    if samples < 1:
        raise UserError(f"--samples {samples}: must be at least 1.")
    if again := [name for name, count in Counter(p.id for p in problems).items() if count > 1]:
        raise UserError(
            f"{len(again)} ids of problems are given twice or more ({', '.join(again[:3])}): rename"
            " them."
        )
    if any((out / name).exists() for name in ("train.json", "test.json")):
        raise UserError(f"--out {out}: that is a data set; give another --out.")
    run = RunFolder(out)
    resolved = {
        **(identity or {}),
        "views": [view.name for view in chosen],
        "samples": samples,
        "temperature": "model" if sampling.temperature is None else sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "style": style,
        "problems": len(problems),
    }
    data = fingerprint(problems)
    with run.lock():
        resolved |= _as_begun(run, resolved, data, kept)
        existed = run.start("eval", resolved, given, data_fingerprint=data)
        samples = resolved["samples"]
        done = run.resume({problem.id for problem in problems}, _prompts(problems, chosen, style))
        sampling = _record_sampling(run, resolved, pixels, new=not existed or not done)
        run.write_problems(problem_row(problem, style) for problem in problems)
        answered = _answer(run, problems, chosen, engine, samples, sampling, style, progress, done)
        if mode is None:
            mode = "strict" if answered else _graded_in(run)
        return grade_held(run, mode, progress=progress)


def check_not_all_failed(run: RunFolder, summary: Summary) -> None:
    """End with the cause where there is not one response: such a run has no numbers.

    Raises:
        UserError: Every sample failed.
    """
    if any(row.error < row.n_samples for row in summary.views.values()):
        return
    causes: Counter[str] = Counter()
    for response in run.responses():
        if response.finish_reason != "error":
            return
        causes[" ".join((response.error or "no reason given").split())] += 1
    if causes:
        (cause, _), others = causes.most_common(1)[0], len(causes) - 1
        more = f", and {others} other reason{'s' if others > 1 else ''}" if others else ""
        raise UserError(
            f"all {causes.total():,} samples failed ({cause}{more}): {run.path} has no number. See"
            " to the cause; the same command then makes them again."
        )


def _as_begun(
    run: RunFolder, resolved: Mapping[str, Any], data: str, kept: Collection[str]
) -> dict[str, Any]:
    """The sampling with which a run was begun, as far as nobody asks for another one now."""
    if not kept or not run.manifest_path.exists():
        return {}
    manifest = run.manifest()
    before: dict[str, Any] = manifest.get("resolved", {})
    if manifest.get("kind") != "eval":
        return {}
    same = manifest.get("fingerprints", {}).get("data_fingerprint") == data and all(
        before.get(name) == json.loads(json.dumps(value, default=str))
        for name, value in resolved.items()
        if name not in kept
    )
    # What has no response yet and is of another model, say, is begun anew.
    return (
        {name: before[name] for name in kept if name in before}
        if same or not run.unanswered()
        else {}
    )


def _record_sampling(
    run: RunFolder, resolved: Mapping[str, Any], pixels: Sequence[int] | None, *, new: bool
) -> Sampling:
    """Say and record how responses are sampled.

    Returns:
        What the engine is given.
    """
    plain = new or resolved.get("engine") != "openai" or "sampling" in run.manifest()
    if plain and "sampling" not in run.manifest():
        names = ("temperature", "max_tokens", "samples", "seed")
        told = {name: resolved[name] for name in names} | PLAIN
        run.note("sampling", told | ({"pixels": list(pixels)} if pixels else {}))
    manifest = run.manifest()
    say(f"sampling: {sampling_words(sampling_of(manifest))}")
    for warning in greedy_words(manifest):
        say(f"warning: {warning}")
    temperature = resolved["temperature"]
    return Sampling(
        temperature=None if temperature == "model" else temperature,
        max_tokens=resolved["max_tokens"],
        seed=resolved["seed"],
        plain=plain,
    )


def _prompts(
    problems: Sequence[Problem], views: Sequence[View], style: Style
) -> Callable[[Response], str | None]:
    """What gives the prompt that a response must have; `None` where the data set has no such view
    of the problem.
    """
    by_id = {problem.id: problem for problem in problems}

    @functools.cache
    def words(problem_id: str, view: str) -> str | None:
        problem = by_id[problem_id]
        return evaluation_prompt(problem, view, style).text if problem.has_view(view) else None

    return lambda response: words(response.problem_id, response.view)


def _graded_in(run: RunFolder) -> Mode:
    """The mode of the run's grades; `strict` where it has none."""
    modes = {row.mode for row in run.grades()}
    return next((mode for mode in get_args(Mode) if {mode} == modes), "strict")


def default_views(problems: Sequence[Problem]) -> str:
    """The views that are asked unless others are named: those of the problems' data set."""
    return ",".join(registry.data_set_of(problem.grader for problem in problems).views)


def check_views(problems: Sequence[Problem], views: Sequence[View]) -> None:
    """Refuse views that the data set does not have at all; those that only some problems have are
    the summary's matter.

    Raises:
        UserError: A view is a version of MathVerse's and the problems are others, or no problem has
            it.
    """
    versions = any(problem.views for problem in problems)
    known = {name for problem in problems for name in (*problem.views, *problem.own_words)}
    there = [name for name in ALL_VIEWS if name in known]
    for view in views:
        if not versions and view.name in VERSION_VIEWS and view.name not in there:
            raise UserError(
                f"the view {view.name!r} is a version of MathVerse's, and these problems have none:"
                f" choose from {', '.join(VIEWS)}, or give --benchmark mathverse."
            )
        if versions and view.name not in there:
            raise UserError(
                f"no problem has the version {view.name!r}: the data has {', '.join(there)}; choose"
                " from these with --problem-versions (or --views), or give --data with a file that"
                " has it."
            )


def _answer(
    run: RunFolder,
    problems: Sequence[Problem],
    views: Sequence[View],
    engine: Engine,
    samples: int,
    sampling: Sampling,
    style: Style,
    progress: Progress | None,
    done: Collection[Key],
) -> int:
    """Make the responses that are not there yet; returns how many were made."""
    requests: list[Request] = []
    for number, problem in enumerate(
        problems
    ):  # views of a problem side by side: its image is prepared once
        for view in views:
            if not problem.has_view(view.name):
                continue
            wanted = tuple(s for s in range(samples) if (problem.id, view.name, s) not in done)
            if wanted:
                image, name = _image(view, problem, problems, number)
                prompt = evaluation_prompt(problem, view, style)
                requests.append(Request(problem.id, view.name, prompt, image, wanted, name))
    total = samples * sum(problem.has_view(view.name) for problem in problems for view in views)
    count = total - sum(len(request.samples) for request in requests)
    if progress:
        progress("answering", count, total)
    if not requests:
        return 0
    before = count
    try:
        with run.appending() as writer:
            for completion in engine.generate(requests, sampling):
                writer.write(_response(completion))
                count += 1
                if progress:
                    progress("answering", count, total)
    finally:
        _record_refused(run, getattr(engine, "refused", ()))
    return count - before


def _record_refused(run: RunFolder, refused: Iterable[str]) -> None:
    """Record which parts of the sampling the engine's server does not take, and so applies its own
    of.
    """
    told: dict[str, Any] = run.manifest().get("sampling", {})
    if left := sorted({*told.get("left_to_server", ()), *refused}):
        run.note("sampling", told | {"left_to_server": left})


def _image(
    view: View, problem: Problem, problems: Sequence[Problem], number: int
) -> tuple[Callable[[], Image] | None, str]:
    """What opens the picture that a view shows with a problem, and what messages call it."""
    if view.picture == "none":
        return None, ""
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


def _response(completion: Completion) -> Response:
    request = completion.request
    return Response(
        problem_id=request.problem_id,
        view=request.view,
        sample=completion.sample,
        prompt=request.prompt.text,
        response=_sound(completion.text),
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        image_tokens=completion.image_tokens,
        seed=completion.seed,
        error=None if completion.error is None else _sound(completion.error),
        prefill=request.prompt.prefill or completion.opened,
        left_out=completion.left_out,
    )


def _sound(text: str) -> str:
    """Text that UTF-8 can hold: a server may send half of a surrogate pair, which becomes a
    question mark.
    """
    return text.encode("utf-8", "replace").decode()
