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

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modgap.analysis.results import Summary
from modgap.analysis.run import Run
from modgap.core import registry
from modgap.core.engine import PLAIN, Engine, Sampling
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions, as_json
from modgap.core.problem import Problem, check_texts
from modgap.core.progress import SILENT, Progress, say
from modgap.core.prompt import Style, of_paper
from modgap.core.record import RunFolder
from modgap.core.rows import Key
from modgap.core.text import counted
from modgap.core.transcripts import WHOSE
from modgap.core.view import DEFAULT_VIEWS, View, parse_views, samples_of
from modgap.grading.answer import Mode
from modgap.models.folder import own_max_tokens, own_temperature
from modgap.reporting.sampling import greedy_words, sampling_of, sampling_words
from modgap.workflows.engine_start import continues_turn, engine_of
from modgap.workflows.extension import extend, resumption
from modgap.workflows.fingerprints import fingerprints
from modgap.workflows.grade import grade_held, graded_in
from modgap.workflows.problems import (
    check_views,
    default_views,
    warn_about_images,
    warn_about_words,
)
from modgap.workflows.requests import expected_prompts, make_requests, problem_row, response_row

SAMPLING = ("samples", "temperature", "max_tokens", "seed")
"""Options of the sampling; an existing run keeps those that are not given."""
_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """An evaluation with every value resolved.

    Attributes:
        views: Names of views.
        samples: Responses per problem and view.
        sampling: Temperature, token limit, seed.
        kept: Those of `temperature`, `max_tokens`, `seed`, `samples` and `views` that were not
            given: an existing run keeps its own.
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
    run = Run(out)
    if isinstance(model, str | Path):
        given = {"model": str(model), **(given or {})}
    engine, plan = _planned(problems, model, run.folder, options, chosen, given or {})
    summary = evaluate_with(problems, engine, run.path, plan, progress)
    check_not_all_failed(run.folder, summary)
    return run


def is_complete(
    problems: Sequence[Problem], model: str | Path, out: Path, options: EvalOptions
) -> bool:
    """Whether `evaluate` would find every answer there, graded and summarised.

    Nothing is written, no model is loaded.

    Raises:
        UserError: `evaluate` would refuse the folder: it holds another run.
    """
    run = RunFolder(out)
    if not run.manifest_path.exists():
        return False
    options = replace(options, style=options.wording)
    chosen = options.chosen(default_views(problems))
    _, plan = _planned(problems, model, run, options, chosen, {})
    data, each = fingerprints(problems)
    found = resumption(run, _resolved(plan, chosen, len(problems)), data, each, plan.kept)
    if found.grows or not run.holds("eval", found.resolved, data_fingerprint=found.data):
        return False
    views, seed = parse_views(found.resolved["views"]), found.resolved["seed"]
    prompts = expected_prompts(problems, views, plan.style, seed)
    done = run.answered({problem.id for problem in problems}, prompts)
    if make_requests(problems, views, found.resolved["samples"], plan.style, done, seed):
        return False
    if not (run.path / "summary.json").exists():
        return False
    # The grade of a sample that failed is of before it was made again.
    return done <= {row.key for row in run.iter_grades() if row.stage != "engine"}


def _planned(
    problems: Sequence[Problem],
    model: str | Path | Engine,
    run: RunFolder,
    options: EvalOptions,
    chosen: Sequence[View],
    given: Mapping[str, object],
) -> tuple[Engine, EvalPlan]:
    """What answers, and every value resolved; the model is looked at, not loaded."""
    start, engine, identity = engine_of(model, options, run)
    plan = EvalPlan(
        views=[view.name for view in chosen],
        samples=_SAMPLES if options.samples is None else options.samples,
        sampling=_sampling(problems, options, start.folder),
        kept=_not_given(options),
        pixels=start.pixels,
        style=options.wording,
        identity=identity,
        given=given,
        options=as_json(options) | {"engine": identity.get("engine")},
    )
    return engine, plan


def _not_given(options: EvalOptions) -> list[str]:
    """What an existing run keeps its own of."""
    names = [name for name in SAMPLING if getattr(options, name) is None]
    return names if options.views or options.controls else [*names, "views"]


def _sampling(problems: Sequence[Problem], options: EvalOptions, folder: Path | None) -> Sampling:
    """The sampling of the options, with the defaults of the problems, the model and the style."""
    default = Sampling()
    temperature = default.temperature
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
        limit or default.max_tokens,
        default.seed if options.seed is None else options.seed,
    )


def as_in(run: Path, options: EvalOptions, default: str) -> EvalOptions:
    """The options, with the sampling and more views of an existing evaluation if not given.

    Args:
        run: The evaluation.
        options: What is given.
        default: The default views; others are taken where these are among them.
    """
    folder = RunFolder(run)
    if not folder.manifest_path.exists():
        return options
    before = folder.manifest().get("resolved", {})
    absent = _not_given(options)
    taken = {name: before[name] for name in SAMPLING if name in absent and name in before}
    views: list[str] = before.get("views", [])
    if "views" in absent and {view.name for view in parse_views(default)} < set(views):
        taken["views"] = ",".join(views)
        say(f"the views are those of {run}: {taken['views']}")
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
    _check_asked(problems, chosen, plan.samples)
    run = RunFolder(out)
    run.check_place("eval")  # before the lock leaves a file in a data set
    resolved = _resolved(plan, chosen, len(problems))
    data, each = fingerprints(problems)
    with run.lock():
        found = resumption(run, resolved, data, each, plan.kept)
        if found.grows:
            extend(run, found, plan.given)
        for note in found.notes:
            say(note)
        resolved, chosen = found.resolved, parse_views(found.resolved["views"])
        existed = run.start("eval", resolved, plan.given, data_fingerprint=found.data)
        if plan.options:
            _record_options(run, plan.options, resolved)
        prompts = expected_prompts(problems, chosen, plan.style, resolved["seed"])
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


def _resolved(plan: EvalPlan, chosen: Sequence[View], problems: int) -> dict[str, Any]:
    """The arguments that a run is recognised by when it is resumed."""
    asked = plan.sampling
    return {
        **plan.identity,
        "views": [view.name for view in chosen],
        "samples": plan.samples,
        "temperature": "model" if asked.temperature is None else asked.temperature,
        "max_tokens": asked.max_tokens,
        "seed": asked.seed,
        "style": plan.style,
        "problems": problems,
    }


def _check_asked(problems: Sequence[Problem], chosen: Sequence[View], samples: int) -> None:
    check_views(problems, chosen)
    check_texts(problems)
    if samples < 1:
        raise UserError(f"--samples {samples}: must be at least 1.")
    if again := [name for name, count in Counter(p.id for p in problems).items() if count > 1]:
        raise UserError(
            f"{counted(len(again), 'problem id')} given twice or more ({', '.join(again[:3])}):"
            " give each problem its own."
        )


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


def _record_options(
    run: RunFolder, given: Mapping[str, object], resolved: Mapping[str, Any]
) -> None:
    """Record the options in force; those of the last grading stay."""
    in_force = {name: resolved[name] for name in SAMPLING}
    options = {**given, **in_force, "views": given.get("views") or resolved["views"]}
    if of_grading := run.manifest().get("options", {}).get("grade"):
        options["grade"] = of_grading
    run.note("options", options)


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
    run.drop_grades_of_modes()
    before = count
    places: set[str] = set()
    try:
        with run.appending() as writer:
            for completion in engine.generate(requests, plan.sampling):
                row = response_row(completion)
                writer.write(row)
                if row.view in WHOSE:
                    places.add("user turn" if row.in_user_turn else "assistant turn")
                count += 1
                progress("answering", count, total)
    finally:
        _record_refused(run, getattr(engine, "refused", ()))
        _record_places(run, places)
    return count - before


def _record_refused(run: RunFolder, refused: Iterable[str]) -> None:
    """Record which parts of the sampling the engine's server refuses; it applies its own there."""
    before = run.manifest().get("sampling", {})
    if left := sorted({*before.get("left_to_server", ()), *refused}):
        run.note("sampling", before | {"left_to_server": left})


def _record_places(run: RunFolder, places: Iterable[str]) -> None:
    """Record where transcriptions stood: in the assistant's turn, or in the user's."""
    if both := sorted({*run.manifest().get("transcriptions_in", ()), *places}):
        run.note("transcriptions_in", both)
