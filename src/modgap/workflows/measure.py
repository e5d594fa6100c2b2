"""From a model's name to its measured gap: which engine answers, with which sampling. What `modgap eval` does."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from modgap.analysis.results import Summary
from modgap.core import registry
from modgap.core.engine import Completion, Engine, Request, Sampling
from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.prompt import Style, check_style
from modgap.core.record import read_json
from modgap.core.view import parse_views
from modgap.engines.vllm_start import parse_engine_args, telling_args
from modgap.workflows.evaluate import Progress, check_views, default_views, evaluate

# The original's pixel limits: 256 to 1280 image tokens.
_PAPER_PIXELS = (256 * 28 * 28, 1280 * 28 * 28)
_PAPER_SAMPLING = Sampling(temperature=0.6, max_tokens=4096)
_PAPER_MATHVERSE_TEMPERATURE = 0.8

# Options that only a server has.
_SERVED = ("base_url", "api_key_env", "concurrency", "timeout", "max_retries")


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """How to evaluate; the options of `modgap eval`.

    Attributes:
        views: Comma-separated names of views; `None` takes full-text,image-only, and of MathVerse its five versions.
        samples: Responses per problem and view.
        temperature: `None` takes the model's own (paper style: 0.6, MathVerse 0.8).
        max_tokens: `None` takes the model's own (paper style: 4096).
        seed: Each sample's seed is derived from it.
        style: Wording of the prompts.
        engine: What answers.
        engine_args: `key=value` for the engine's own constructor (`vllm`: any argument of `vllm.LLM`); those that can
            change answers are a part of what makes the run.
        replicas: Engines that share the work, one an accelerator (`hf`, `vllm`); more than one needs Ray.
        ray_address: An existing Ray cluster (`auto`, `ray://...`); one of our own on this machine if `None`.
        batch_size: Responses sampled together (`hf`).
        device: `None` takes the best there is (`hf`).
        base_url: Where the server is (`openai`); the client's own default if `None`.
        api_key_env: The environment variable that holds the key (`openai`).
        concurrency: Most requests under way at once (`openai`).
        timeout: Seconds that one request may take (`openai`).
        max_retries: Most retries of one request (`openai`).
    """

    views: str | None = None
    samples: int = 4
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int = 42
    style: Style = "aligned"
    engine: str = "hf"
    batch_size: int = 64
    device: str | None = None
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 32
    timeout: float = 600.0
    max_retries: int = 8
    engine_args: tuple[str, ...] = ()
    replicas: int = 1
    ray_address: str | None = None

    def check(self) -> None:
        """Refuse what cannot work before a model is loaded. Raises `UserError`."""
        if self.views is not None:
            parse_views(self.views)
        check_style(self.style)
        registry.INFERENCE_ENGINES.load(self.engine)
        if self.engine_args and self.engine != "vllm":
            raise UserError(f"--engine-arg {self.engine_args[0]}: only --engine vllm takes these, not {self.engine}.")
        parse_engine_args(self.engine_args)
        for option in fields(self):
            if option.name in _SERVED and self.engine != "openai" and getattr(self, option.name) != option.default:
                given = f"--{option.name.replace('_', '-')} {getattr(self, option.name)}"
                raise UserError(f"{given}: only --engine openai asks a server, and the engine is {self.engine}.")
        if self.samples < 1:
            raise UserError(f"--samples {self.samples}: must be at least 1.")
        for name in ("batch_size", "concurrency", "replicas"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1.")
        several = "--ray-address" if self.ray_address is not None else "--replicas" if self.replicas > 1 else ""
        if several and self.engine == "openai":
            raise UserError(f"{several} is for the engines hf and vllm: the server of openai has --concurrency.")
        if several and self.device is not None and ":" in self.device:
            raise UserError(f"--device {self.device} and {several} exclude each other: each replica has its own.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UserError(f"--max-tokens {self.max_tokens}: must be at least 1.")
        if self.temperature is not None and not self.temperature >= 0:
            raise UserError(f"--temperature {self.temperature}: must not be negative; 0 is greedy.")


def model_notes(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself to modgap (`modgap.json`): the testbed brings training defaults of its own."""
    path = folder / "modgap.json"
    return read_json(path) if path.exists() else {}


class _Late:
    """An engine that is made when the first prompt comes: a run that is complete loads no model."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._make = make

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        engine = self._make()
        try:
            yield from engine.generate(requests, sampling)
        finally:
            if close := getattr(engine, "close", None):
                close()  # what holds a GPU or processes gives them back


def _own_sampling(folder: Path) -> Sampling:
    """What a model's generation config asks for; temperature 1 and 4096 tokens where it is silent."""
    path = folder / "generation_config.json"
    config = read_json(path) if path.exists() else {}
    temperature = config.get("temperature") if config.get("do_sample", True) else 0.0
    return Sampling(
        temperature=1.0 if temperature is None else float(temperature),
        max_tokens=config.get("max_new_tokens") or _PAPER_SAMPLING.max_tokens,
    )


def evaluate_model(
    problems: Sequence[Problem],
    model: str | Path,
    out: Path,
    options: EvalOptions,
    *,
    given: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Measure a model on problems.

    Args:
        problems: What to ask.
        model: See `modgap.models.load.resolve`.
        out: Run folder.
        options: How.
        given: The arguments as the user gave them.
        progress: Told after each response.

    Returns:
        The summary.
    """
    options.check()
    views = options.views or default_views(problems)
    check_views(problems, parse_views(views))  # before the model is looked at
    start = _served(model, options) if options.engine == "openai" else _local(model, options)
    own = start.sampling
    if options.style == "paper" and any(problem.question_type for problem in problems):
        own = dataclasses.replace(own, temperature=_PAPER_MATHVERSE_TEMPERATURE)
    sampling = Sampling(
        temperature=own.temperature if options.temperature is None else options.temperature,
        max_tokens=own.max_tokens if options.max_tokens is None else options.max_tokens,
        seed=options.seed,
    )
    return evaluate(
        problems,
        _Late(start.make),
        out,
        views=views,
        samples=options.samples,
        sampling=sampling,
        style=options.style,
        identity={"engine": options.engine, **start.identity},
        given={"model": str(model), **(given or {})},
        progress=progress,
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """How an engine starts: what makes it (picklable, for other processes), the model's sampling, and its identity."""

    make: Callable[[], Engine]
    sampling: Sampling
    identity: dict[str, Any]


def _local(model: str | Path, options: EvalOptions) -> _Start:
    """An engine that loads the model itself, on one accelerator or as several replicas."""
    from modgap.models.load import check_files, model_fingerprint, resolve

    if options.engine == "vllm" and not importlib.util.find_spec("vllm"):
        raise UserError("vllm is not installed: pip install 'modgap[vllm]', or give --engine hf.")
    folder, args = resolve(model), telling_args(options.engine_args)
    if "tokenizer" not in args:
        check_files(folder)
    paper = options.style == "paper"
    pixels = _PAPER_PIXELS if paper and not model_notes(folder).get("testbed") else None
    if options.engine == "vllm":
        make = functools.partial(_make_vllm, folder, pixels, options.engine_args)
    else:
        make = functools.partial(_make_hf, folder, pixels, options.device, options.batch_size)
    if options.replicas > 1 or options.ray_address is not None:
        make = functools.partial(_make_replicas, make, options)
    sampling = _PAPER_SAMPLING if paper else _own_sampling(folder)
    # Named only where there are some, so that runs from before they were recorded can be gone on with.
    return _Start(
        make, sampling, {"model_fingerprint": model_fingerprint(folder), **({"engine_args": args} if args else {})}
    )


def _make_hf(folder: Path, pixels: tuple[int, int] | None, device: str | None, batch_size: int) -> Engine:
    from modgap.models.load import load_policy

    policy = load_policy(folder, device=device, pixels=pixels)
    return registry.INFERENCE_ENGINES.load("hf")(policy, batch_size=batch_size)


def _make_vllm(folder: Path, pixels: tuple[int, int] | None, args: Sequence[str]) -> Engine:
    return registry.INFERENCE_ENGINES.load("vllm")(folder, pixels=pixels, args=args)


def _make_replicas(make: Callable[[], Engine], options: EvalOptions) -> Engine:
    return registry.load("modgap.engines.replicas:ReplicaEngine")(
        make,
        options.replicas,
        ray_address=options.ray_address,
        accelerators_each=accelerators_each(options),
        batch=options.batch_size,
    )


def accelerators_each(options: EvalOptions) -> int:
    """How many accelerators one engine takes: vLLM's tensor parallel times pipeline parallel size."""
    if options.engine != "vllm":
        return 1
    given = registry.load("modgap.engines.vllm_start:parse_engine_args")(options.engine_args)
    sizes = (given.get(name, 1) for name in ("tensor_parallel_size", "pipeline_parallel_size"))
    return math.prod(size for size in sizes if isinstance(size, int) and size > 0)


def _served(model: str | Path, options: EvalOptions) -> _Start:
    """A model behind a server, which is named and not looked into."""

    def make() -> Engine:
        return registry.INFERENCE_ENGINES.load(options.engine)(
            str(model),
            options.base_url,
            options.api_key_env,
            concurrency=options.concurrency,
            timeout=options.timeout,
            max_retries=options.max_retries,
        )

    return _Start(make, _PAPER_SAMPLING, {"model": str(model)})
