"""Problems x views x engine -> responses, then grades and a summary (`workflows.grade`).

It can be resumed at every step.

```
problems = load_problems("PGPS9K")
run = evaluate(problems, "tiny", Path("runs/base"), options=EvalOptions(samples=4))
run.summary.gap
```

`evaluate` chooses the engine and resolves the sampling; `evaluate_with` asks an existing engine.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.analysis.results import Summary
from modgap.analysis.run import Run
from modgap.core import registry
from modgap.core.engine import CONTINUED, PLAIN, Completion, Engine, Request, Sampling, Start
from modgap.core.errors import UsageError, UserError, command_line
from modgap.core.files import MOST_IMAGE_BYTES, Root, read_bytes
from modgap.core.options import EvalOptions, as_json
from modgap.core.problem import Problem, check_texts
from modgap.core.progress import SILENT, Progress, progress_bars, say, warn
from modgap.core.prompt import (
    Prompt,
    Style,
    evaluation_prompt,
    of_paper,
    structural_conditions,
)
from modgap.core.record import (
    Key,
    ProblemRow,
    Response,
    RunFolder,
    recorded_grader,
    short_digest,
)
from modgap.core.transcripts import WHOSE
from modgap.core.view import (
    ALL_VIEWS,
    DEFAULT_VIEWS,
    VERSION_VIEWS,
    VIEWS,
    View,
    parse_views,
    samples_of,
)
from modgap.grading.answer import Mode
from modgap.models.folder import own_max_tokens, own_temperature
from modgap.reporting.sampling import greedy_words, sampling_of, sampling_words
from modgap.workflows.extension import as_begun, as_mended, extended
from modgap.workflows.grade import grade_held, graded_in
from modgap.workflows.pictures import check_characters_of, picture_of

if TYPE_CHECKING:
    pass

SAMPLING = ("samples", "temperature", "max_tokens", "seed")
"""Options of the sampling; an existing run keeps those that are not given."""
_DEFAULT = Sampling(temperature=0.6, max_tokens=4096, seed=42)
"""The original's sampling, and the default of every model and engine."""
_SAMPLES = 4


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
    benchmark: str,
    data: Path,
    split: str = "test",
    limit: int | None = None,
    *,
    allow_outside: bool = False,
) -> list[Problem]:
    """The problems of a benchmark.

    Args:
        benchmark: A name of `core.registry.DATASETS`.
        data: Its folder or file.
        split: `train` or `test`.
        limit: Only this number of problems, from the first.
        allow_outside: Its files may name, or link to, images outside its folder.

    Raises:
        UserError: The benchmark is unknown, its files are faulty or lead out of its folder, or it
            has no problem.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: must be at least 1.")
    read = registry.DATASETS.load(benchmark)
    more: dict[str, Any] = {"allow_outside": True} if allow_outside and _takes_outside(read) else {}
    problems: list[Problem] = list(read(data, split=split, limit=limit, **more))
    if data.exists():  # a hub's id has no folder of the user's
        root = Root(data, allow_outside=allow_outside)
        for problem in problems:
            for image in (problem.image, *problem.own_images.values()):
                if isinstance(image, Path):
                    root.check(image, f"problem {problem.id}: the image {image}")
    if not problems:
        check = command_line("data", "check", data, "--benchmark", benchmark)
        raise UserError(
            f"{data} has no problems in the split {split!r}: add some, or give another --data "
            f"(`{check}` counts what it holds)."
        )
    check_texts(problems)
    return problems


def _takes_outside(read: Callable[..., Any]) -> bool:
    """Whether a reader checks itself where images are."""
    return "allow_outside" in inspect.signature(read).parameters


def load_problems(
    data: Path | str | None = None,
    benchmark: str = "pgps9k",
    *,
    split: str = "test",
    limit: int | None = None,
    allow_outside: bool = False,
) -> list[Problem]:
    """The problems of a data set.

    Args:
        data: Its folder or file; of MathVerse also its Hugging Face id. `None` takes the
            benchmark's own problems, if it has any (`synthetic`).
        benchmark: `pgps9k`, `synthetic`, `charts`, `pairs`, `mathverse`, `geometry3k`,
            `geometry3k-choices`, or one of your own, `module:object` or `path/to/file.py:object`.
        split: `train` or `test`.
        limit: Only this number of problems, from the first.
        allow_outside: Its files may name, or link to, images outside its folder.

    Raises:
        UserError: The benchmark is unknown, its files are faulty or lead out of its folder, or it
            has no problem.
    """
    place = locate(benchmark, None if data is None else Path(data))
    return read_problems(benchmark, place, split, limit, allow_outside=allow_outside)


def warn_about_words(problems: Sequence[Problem], views: Iterable[View]) -> None:
    """Say so where a view that writes conditions has none to write, whatever the problem."""
    worded = any(p.own_words or p.structural or p.semantic for p in problems)
    full = next((view.name for view in views if view.conditions and view.side == "text"), "")
    if problems and full and not worded:
        warn(
            f"no problem has a condition in words: {full} shows what image-only shows, so that the"
            " difference between them is no gap (ask --views image-only, or give data with"
            " conditions)"
        )


def warn_about_images(problems: Sequence[Problem], views: Iterable[View] = ()) -> None:
    """Name the images that cannot be shown, or not as they are stored; one line for each kind.

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

    See `fingerprints`.
    """
    return fingerprints(problems)[0]


def fingerprints(problems: Iterable[Problem]) -> tuple[str, dict[str, list[str]]]:
    """The fingerprint of a data set, and of each problem by its id that of its words and diagrams.

    Older versions ignored transparency, orientation and depth (see `core.images`). A diagram that
    they showed differently has another digest, so that responses of both kinds do not mix in a run.
    """
    digest, seen = hashlib.sha256(), dict[tuple[Path, int], str]()
    each: dict[str, list[str]] = {}
    for problem in problems:
        words: list[Any] = [problem.question, problem.answer, problem.structural, problem.semantic,
                            problem.own_words]  # fmt: skip
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
        views: dict[str, str] = {}
        if own_images or own_questions or own_answers or problem.grader:
            views = {
                view: _image_digest(problem, image, seen) for view, image in own_images.items()
            }
            more = (views, own_questions, own_answers, recorded_grader(problem.grader))
            digest.update(json.dumps(more, sort_keys=True).encode())
            words += more[1:]
        each[problem.id] = [short_digest(words), short_digest([image, views])]
    return digest.hexdigest()[:16], each


def _image_digest(
    problem: Problem, image: Path | bytes, seen: dict[tuple[Path, int], str], size: int = 16
) -> str:
    """Digest of an encoded diagram of `size` bytes.

    A file that several problems or versions show is read once.

    Raises:
        UserError: The file cannot be read.
    """
    from modgap.core.images import content_digest

    if isinstance(image, bytes):
        return content_digest(image, size)
    key = (image, size)
    if key not in seen:
        try:
            seen[key] = content_digest(read_bytes(image, MOST_IMAGE_BYTES), size)
        except OSError as error:
            raise UserError(
                f"problem {problem.id}: the diagram {image} cannot be read ({error.strerror}): "
                "`modgap data check DATA --benchmark NAME` names every fault."
            ) from None
    return seen[key]


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """An evaluation with every value resolved.

    Attributes:
        views: Names of views.
        samples: Responses per problem and view.
        sampling: Temperature, token limit, seed.
        kept: Those of `temperature`, `max_tokens`, `seed` and `samples` that were not given: an
            existing run keeps its own.
        pixels: Least and most pixels of an image that the engine takes, for the record.
        style: Wording of the prompts.
        mode: Grading mode. If not given, `strict`; but a run that was complete already and was
            graded in another mode since (`modgap grade`) keeps that one.
        identity: What else identifies the run: the model and its fingerprint.
        given: The arguments as the user gave them, for the manifest.
        options: The options in force, for the manifest.
    """

    views: str | Iterable[str] = DEFAULT_VIEWS
    samples: int = _SAMPLES
    sampling: Sampling = field(default_factory=Sampling)
    kept: Collection[str] = ()
    pixels: Sequence[int] | None = None
    style: Style = "aligned"
    mode: Mode | None = None
    identity: Mapping[str, object] = field(default_factory=dict[str, object])
    given: Mapping[str, object] = field(default_factory=dict[str, object])
    options: Mapping[str, object] = field(default_factory=dict[str, object])


def evaluate(
    problems: Sequence[Problem],
    model: str | Path | Engine,
    out: Path | str,
    *,
    options: EvalOptions | None = None,
    progress: Progress = SILENT,
    given: Mapping[str, object] | None = None,
    warn_of_images: bool = True,
) -> Run:
    """Ask a model every problem in every view, grade the answers and summarise them.

    Args:
        problems: What to ask; ids are unique.
        model: `tiny`, a folder, a hub's id, an alias, a name that the engine knows; or an engine
            object, see `modgap.core.engine.Engine`. Where an engine object has `identity`, a
            mapping, it is a part of the run's identity: with another one the run is refused.
        out: Run folder; a run with the same arguments resumes.
        options: How. An engine object answers instead of `options.engine`.
        progress: Called after each response.
        given: The arguments as the user gave them, for the manifest.
        warn_of_images: Whether to look for unusual images first, and to name them.

    Returns:
        The run: problems, responses, grades and summary.

    Raises:
        UserError: The model or an option cannot be used, the folder holds another run or a data
            set, or every sample failed; the samples made so far are in `out`.
    """
    options = options or EvalOptions()
    options = replace(options, style=options.wording)
    options.check()
    chosen = options.chosen(default_views(problems))
    check_views(problems, chosen)  # before the model is looked at
    warn_about_words(problems, chosen)
    if warn_of_images:
        warn_about_images(problems, chosen)
    if isinstance(model, str | Path):
        start = engine_start(model, options)
        known = registry.INFERENCE_ENGINES.load(options.engine)
        engine: Engine = _Late(start.make, continues=continues_turn(known))
        identity = {"engine": options.engine, **start.identity}
        given = {"model": str(model), **(given or {})}
    else:
        if options.replicas > 1 or options.ray_address is not None:
            raise UserError(
                "an engine object answers alone: leave out replicas and ray_address, or name an"
                " engine."
            )
        start, engine = Start(lambda: model), model
        identity = _identity_of(model, RunFolder(out))
    sampling = _sampling(problems, options, start.folder)
    plan = EvalPlan(
        views=[view.name for view in chosen],
        samples=_SAMPLES if options.samples is None else options.samples,
        sampling=sampling,
        kept=[name for name in SAMPLING if getattr(options, name) is None],
        pixels=start.pixels,
        style=options.wording,
        identity=identity,
        given=given or {},
        options=as_json(options) | {"engine": identity.get("engine")},
    )
    run = Run(out)
    summary = evaluate_with(problems, engine, run.path, plan, progress)
    check_not_all_failed(run.folder, summary)
    return run


def _identity_of(engine: object, run: RunFolder) -> dict[str, object]:
    """The identity of an engine object: its class, and what it says of itself."""
    identity = {
        "engine": f"{type(engine).__module__}:{type(engine).__qualname__}",
        **getattr(engine, "identity", {}),
    }
    before = run.manifest().get("resolved", {}) if run.manifest_path.exists() else {}
    if before and "engine" not in before:
        del identity["engine"]  # older manifests lack this key and must still resume
    return identity


def _sampling(problems: Sequence[Problem], options: EvalOptions, folder: Path | None) -> Sampling:
    """The sampling of the options, with the defaults of the problems, the model and the style."""
    temperature = _DEFAULT.temperature
    if of_paper(options.wording):
        own = registry.data_set_of(problem.grader for problem in problems).paper_temperature
        temperature = temperature if own is None else own
    if options.temperature == "model":
        temperature = None if folder is None else own_temperature(folder)
    elif options.temperature is not None:
        temperature = options.temperature
    limit = options.max_tokens
    if limit is None and folder is not None and not of_paper(options.wording):
        limit = own_max_tokens(folder)
    return Sampling(
        temperature,
        limit or _DEFAULT.max_tokens,
        _DEFAULT.seed if options.seed is None else options.seed,
    )


def engine_start(model: str | Path, options: EvalOptions) -> Start:
    """How the engine of the options starts with a model, or its replicas if there are several.

    Raises:
        UserError: The engine is unknown or cannot be made so, or the model cannot be used.
    """
    engine = registry.INFERENCE_ENGINES.load(options.engine)
    if options.replicas > 1 or options.ray_address is not None:
        registry.load("modgap.engines.ray:require")()
    if hasattr(engine, "start"):
        start: Start = engine.start(model, options)
    else:
        # One from outside the package, which knows its models by name.
        start = Start(
            functools.partial(_make_other, options.engine, str(model), options),
            None,
            {"model": str(model)},
        )
    if options.replicas > 1 or options.ray_address is not None:
        return replace(start, make=functools.partial(_make_replicas, start.make, options))
    return start


def _make_other(name: str, model: str, options: EvalOptions) -> Engine:
    """An engine from outside the package.

    An object is used as it is; a class is made by `from_options`, else without arguments.
    """
    engine = registry.INFERENCE_ENGINES.load(name)
    if hasattr(engine, "from_options"):
        engine = engine.from_options(model, options)
    elif isinstance(engine, type):
        try:
            engine = engine()
        except TypeError as error:
            raise UserError(
                f"the engine {name!r} cannot be made without arguments ({error}): give it a class"
                " method `from_options(model, options)`."
            ) from error
    if not callable(getattr(engine, "generate", None)):
        raise UserError(
            f"the engine {name!r} is a {type(engine).__name__} without `generate(requests,"
            " sampling)`: see `modgap.core.engine.Engine`."
        )
    return engine


def _make_replicas(make: Callable[[], Engine], options: EvalOptions) -> Engine:
    from modgap.engines.replicas import ReplicaEngine

    return ReplicaEngine(
        make,
        options.replicas,
        ray_address=options.ray_address,
        accelerators_each=accelerators_each(options),
        batch=options.batch_size,
    )


def accelerators_each(options: EvalOptions) -> int:
    """How many accelerators one engine takes."""
    engine = registry.INFERENCE_ENGINES.load(options.engine)
    return engine.accelerators(options) if hasattr(engine, "accelerators") else 1


def continues_turn(engine: object) -> bool:
    """Whether an engine, or its class, says that it continues a started turn of the assistant's."""
    return bool(getattr(engine, "continues", False))


class _Late:
    """An engine that is made when the first prompt comes: a run that is complete loads no model."""

    def __init__(self, make: Callable[[], Engine], *, continues: bool) -> None:
        self._make = make
        self.continues = continues
        self._made: Engine | None = None

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        engine = self._made = self._make()
        try:
            yield from engine.generate(requests, sampling)
        finally:
            if close := getattr(engine, "close", None):
                close()  # frees a GPU and ends processes

    @property
    def refused(self) -> Sequence[str]:
        """Parts of the sampling that the engine's server does not take."""
        return getattr(self._made, "refused", ())


def as_in(run: Path, options: EvalOptions) -> EvalOptions:
    """The options, with the sampling of an existing evaluation where they give none."""
    folder = RunFolder(run)
    if not folder.manifest_path.exists():
        return options
    before = folder.manifest().get("resolved", {})
    taken = {
        name: before[name] for name in SAMPLING if getattr(options, name) is None and name in before
    }
    return replace(options, **taken)


def evaluate_with(
    problems: Sequence[Problem],
    engine: Engine,
    out: Path,
    plan: EvalPlan,
    progress: Progress = SILENT,
) -> Summary:
    """`evaluate` with an engine and every value resolved.

    Args:
        problems: What to ask; ids are unique.
        engine: What answers.
        out: The run folder; a run with the same arguments resumes.
        plan: How.
        progress: Called after each response.

    Returns:
        The summary, also in `out/summary.json`.

    Raises:
        UserError: The folder holds another run or a data set, has lost its manifest or has another
            run's, a view is unknown, or two problems have the same id.
    """
    chosen = parse_views(plan.views)
    check_views(problems, chosen)
    check_texts(problems)
    if plan.samples < 1:
        raise UserError(f"--samples {plan.samples}: must be at least 1.")
    if again := [name for name, count in Counter(p.id for p in problems).items() if count > 1]:
        raise UserError(
            f"{len(again)} ids of problems are given twice or more ({', '.join(again[:3])}): rename"
            " them."
        )
    run, asked = RunFolder(out), plan.sampling
    run.check_place("eval")  # before the lock leaves a file in a data set
    resolved = {
        **plan.identity,
        "views": [view.name for view in chosen],
        "samples": plan.samples,
        "temperature": "model" if asked.temperature is None else asked.temperature,
        "max_tokens": asked.max_tokens,
        "seed": asked.seed,
        "style": plan.style,
        "problems": len(problems),
    }
    data, each = fingerprints(problems)
    with run.lock():
        data = as_mended(run, data, each, chosen)
        resolved |= as_begun(run, resolved, data, plan.kept)
        resolved = extended(run, resolved, plan.given, data, each)
        chosen = parse_views(resolved["views"])
        existed = run.start("eval", resolved, plan.given, data_fingerprint=data)
        if plan.options:
            in_force = {name: resolved[name] for name in SAMPLING}
            asked_views = plan.options.get("views") or resolved["views"]
            options = {**plan.options, **in_force, "views": asked_views}
            if of_grading := run.manifest().get("options", {}).get("grade"):
                options["grade"] = of_grading
            run.note("options", options)
        prompts = _prompts(problems, chosen, plan.style, resolved["seed"])
        done = run.resume({problem.id for problem in problems}, prompts)
        sampling = _record_sampling(run, resolved, plan.pixels, new=not existed or not done)
        run.write_problems(problem_row(problem, plan.style) for problem in problems)
        run.write_fingerprints(each)
        plan = replace(
            plan,
            views=[view.name for view in chosen],
            samples=resolved["samples"],
            sampling=sampling,
        )
        answered = _answer(run, problems, engine, plan, done, progress)
        if answered:
            run.forget_grading()
        mode = plan.mode or ("strict" if answered else graded_in(run))
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
            f"all {causes.total():,} samples failed ({cause}{more}): {run.path} has no number."
            " Remove the cause; the same command then makes them again."
        )


def _record_sampling(
    run: RunFolder, resolved: Mapping[str, Any], pixels: Sequence[int] | None, *, new: bool
) -> Sampling:
    """Say and record how responses are sampled.

    Returns:
        What the engine is given.
    """
    entry = registry.INFERENCE_ENGINES.get(resolved.get("engine", ""))
    served = entry is not None and entry.served
    plain = new or not served or "sampling" in run.manifest()
    if plain and "sampling" not in run.manifest():
        names = ("temperature", "max_tokens", "samples", "seed")
        note = {name: resolved[name] for name in names} | PLAIN
        run.note("sampling", note | ({"pixels": list(pixels)} if pixels else {}))
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


def default_views(problems: Sequence[Problem]) -> str:
    """The views that are asked unless others are named: those of the problems' data set."""
    return ",".join(registry.data_set_of(problem.grader for problem in problems).views)


def check_views(problems: Sequence[Problem], views: Sequence[View]) -> None:
    """Refuse views that no problem has; the summary handles those that only some problems have.

    Raises:
        UserError: A view is a version of MathVerse's and the problems are others, no problem has
            it, or its font lacks a character of the conditions.
    """
    versions = any(problem.views for problem in problems)
    for view in views:
        if view.transcription and not any(
            not problem.views and problem.has_view(view.name) for problem in problems
        ):
            raise UserError(
                f"the view {view.name!r} writes down the conditions of a problem, and none of these"
                " problems has its conditions, with a number to read, in its data: leave out"
                " --controls causal and this view."
            )
    known: set[str] = set()
    for problem in problems:
        known.update(problem.views, problem.own_words)
    there = [name for name in ALL_VIEWS if name in known]
    for view in views:
        if view.rendering is not None and not versions:
            check_characters_of(problems, view)
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
    engine: Engine,
    plan: EvalPlan,
    done: Collection[Key],
    progress: Progress,
) -> int:
    """Make the missing responses; returns how many were made."""
    views, samples = parse_views(plan.views), plan.samples
    continues = continues_turn(engine)
    requests = make_requests(
        problems, views, samples, plan.style, done, plan.sampling.seed, continues=continues
    )
    total = sum(
        samples_of(view.name, samples)
        for problem in problems
        for view in views
        if problem.has_view(view.name)
    )
    count = total - sum(len(request.samples) for request in requests)
    progress("answering", count, total)
    if not requests:
        return 0
    before = count
    places: set[str] = set()
    try:
        with run.appending() as writer:
            for completion in engine.generate(requests, plan.sampling):
                row = _response(completion)
                writer.write(row)
                if row.view in WHOSE:
                    places.add("user turn" if row.in_user_turn else "assistant turn")
                count += 1
                progress("answering", count, total)
    finally:
        _record_refused(run, getattr(engine, "refused", ()))
        _record_places(run, places)
    return count - before


def make_requests(
    problems: Sequence[Problem],
    views: Sequence[View],
    samples: int,
    style: Style,
    done: Collection[Key] = (),
    seed: int = _DEFAULT.seed,
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


def _record_refused(run: RunFolder, refused: Iterable[str]) -> None:
    """Record which parts of the sampling the engine's server refuses; it applies its own there."""
    before = run.manifest().get("sampling", {})
    if left := sorted({*before.get("left_to_server", ()), *refused}):
        run.note("sampling", before | {"left_to_server": left})


def _record_places(run: RunFolder, places: Iterable[str]) -> None:
    """Record where transcriptions stood: in the assistant's turn, or in the user's."""
    if both := sorted({*run.manifest().get("transcriptions_in", ()), *places}):
        run.note("transcriptions_in", both)


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
