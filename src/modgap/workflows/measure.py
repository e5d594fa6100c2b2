"""From a model's name to its measured gap: which engine answers, with which sampling.

What `modgap eval` does.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from modgap.analysis.results import Summary
from modgap.core import registry
from modgap.core.engine import Completion, Engine, Request, Sampling
from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.progress import say
from modgap.core.prompt import Style, check_style
from modgap.core.record import RunFolder, read_json
from modgap.core.view import parse_views
from modgap.engines.vllm_start import FULL_PRECISION, parse_engine_args, telling_args
from modgap.models.folder import ADAPTER, has_adapter, image_processor, pixel_limits
from modgap.workflows.evaluate import (
    Progress,
    check_not_all_failed,
    check_views,
    default_views,
    evaluate,
    warn_about_images,
)

# The original's pixel limits: 256 to 1280 image tokens.
_PAPER_PIXELS = (256 * 28 * 28, 1280 * 28 * 28)
# The original's sampling, and that of every model and engine where nobody asks for another one.
_DEFAULT = Sampling(temperature=0.6, max_tokens=4096, seed=42)
_SAMPLES = 4

SAMPLING = ("samples", "temperature", "max_tokens", "seed")
"""Options of the sampling; a run that exists keeps those that are not given."""

# Options that only a server has.
_SERVED = ("base_url", "api_key_env", "concurrency", "timeout", "max_retries")


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """How to evaluate; the options of `modgap eval`.

    Where `samples`, `temperature`, `max_tokens` or `seed` is `None`, a run that exists keeps its
    own.

    Attributes:
        views: Comma-separated names of views; `None` takes full-text,image-only, and of MathVerse
            its five versions.
        samples: Responses per problem and view; 4 if `None`.
        temperature: 0.6 if `None`, whatever the model and the engine (MathVerse in paper style:
            0.8); `model` takes the model's own, and of a server whatever it applies by itself.
        max_tokens: `None` takes the model's own (paper style: 4096).
        seed: Each sample's seed is derived from it; 42 if `None`.
        style: Wording of the prompts.
        engine: What answers.
        engine_args: `key=value` for the engine's own constructor (`vllm`: any argument of
            `vllm.LLM`); those that can change answers are a part of what makes the run.
        replicas: Engines that share the work, one an accelerator (`hf`, `vllm`); more than one
            needs Ray.
        ray_address: An existing Ray cluster (`auto`, `ray://...`); one of our own on this machine
            if `None`.
        batch_size: Responses sampled together (`hf`).
        device: `None` takes the best there is (`hf`).
        base_url: Where the server is (`openai`); the client's own default if `None`.
        api_key_env: The environment variable that holds the key (`openai`).
        concurrency: Most requests under way at once (`openai`).
        timeout: Seconds that one request may take (`openai`).
        max_retries: Most retries of one request (`openai`).
    """

    views: str | None = None
    samples: int | None = None
    temperature: float | Literal["model"] | None = None
    max_tokens: int | None = None
    seed: int | None = None
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
            raise UserError(
                f"--engine-arg {self.engine_args[0]}: only --engine vllm takes these, not"
                f" {self.engine}."
            )
        parse_engine_args(self.engine_args)
        for option in fields(self):
            if (
                option.name in _SERVED
                and self.engine != "openai"
                and getattr(self, option.name) != option.default
            ):
                given = f"--{option.name.replace('_', '-')} {getattr(self, option.name)}"
                raise UserError(
                    f"{given}: only --engine openai asks a server, and the engine is {self.engine}."
                )
        if self.samples is not None and self.samples < 1:
            raise UserError(f"--samples {self.samples}: must be at least 1.")
        for name in ("batch_size", "concurrency", "replicas"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1."
                )
        several = (
            "--ray-address"
            if self.ray_address is not None
            else "--replicas"
            if self.replicas > 1
            else ""
        )
        if several and self.engine == "openai":
            raise UserError(
                f"{several} is for the engines hf and vllm: the server of openai has --concurrency."
            )
        if several and self.device is not None and ":" in self.device:
            raise UserError(
                f"--device {self.device} and {several} exclude each other: each replica has its"
                " own."
            )
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UserError(f"--max-tokens {self.max_tokens}: must be at least 1.")
        if self.temperature not in (None, "model") and not 0 <= float(self.temperature) < math.inf:
            raise UserError(
                f"--temperature {self.temperature}: give a finite number, not negative (0 is"
                " greedy), or `model`."
            )


def model_notes(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself to modgap (`modgap.json`): the testbed brings training
    defaults of its own.
    """
    path = folder / "modgap.json"
    return read_json(path) if path.exists() else {}


class _Late:
    """An engine that is made when the first prompt comes: a run that is complete loads no model."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._make = make
        self._made: Engine | None = None

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        engine = self._made = self._make()
        try:
            yield from engine.generate(requests, sampling)
        finally:
            if close := getattr(engine, "close", None):
                close()  # what holds a GPU or processes gives them back

    @property
    def refused(self) -> Sequence[str]:
        """Parts of the sampling that the engine's server does not take."""
        return getattr(self._made, "refused", ())


def _generation_config(folder: Path) -> dict[str, Any]:
    """A model's generation_config.json; empty where it has none.

    Raises `UserError` where it cannot be used.
    """
    path = folder / "generation_config.json"
    config = read_json(path) if path.exists() else {}
    if not isinstance(config, dict):
        raise UserError(
            f"{path} is damaged (it is no object): correct it, or download the model again."
        )
    return config


def _own_temperature(folder: Path) -> float:
    """The temperature that a model's generation config asks for; greedy where it asks for none, as
    in transformers.
    """
    config = _generation_config(folder)
    said, samples = config.get("temperature"), config.get("do_sample")
    if samples is False:
        return 0.0
    if said is None:
        value = 1.0 if samples else 0.0
        say(f"--temperature model: {folder} names none in generation_config.json, which means {value:g}"
            f"{'' if samples else ', greedy'}")  # fmt: skip
        return value
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said < math.inf:
        raise UserError(
            f"--temperature model: {folder / 'generation_config.json'} has the temperature"
            f" {said!r}: correct it, or give a number."
        )
    return float(said)


def _own_max_tokens(folder: Path) -> int:
    """The longest response that a model's generation config allows."""
    said = _generation_config(folder).get("max_new_tokens")
    if said is None:
        return _DEFAULT.max_tokens
    if isinstance(said, bool) or not isinstance(said, int) or said < 1:
        raise UserError(
            f"{folder / 'generation_config.json'} has max_new_tokens {said!r}: correct it, or give"
            " --max-tokens."
        )
    return said


def evaluate_model(
    problems: Sequence[Problem],
    model: str | Path,
    out: Path,
    options: EvalOptions,
    *,
    given: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    warn_of_images: bool = True,
) -> Summary:
    """Measure a model on problems.

    Args:
        problems: What to ask.
        model: See `modgap.models.load.resolve`.
        out: Run folder.
        options: How.
        given: The arguments as the user gave them.
        progress: Told after each response.
        warn_of_images: Whether to look for unusual images first, and to name them.

    Returns:
        The summary.

    Raises:
        UserError: The model or an option cannot be used, or every sample failed; what was made is
            in `out`.
    """
    options.check()
    views = options.views or default_views(problems)
    chosen = parse_views(views)
    check_views(problems, chosen)  # before the model is looked at
    if warn_of_images:
        warn_about_images(problems, chosen)
    start = _served(model, options) if options.engine == "openai" else _local(model, options)
    of_paper = registry.data_set_of(problem.grader for problem in problems).paper_temperature
    temperature = (
        of_paper if options.style == "paper" and of_paper is not None else _DEFAULT.temperature
    )
    if options.temperature == "model":
        temperature = None if start.folder is None else _own_temperature(start.folder)
    elif options.temperature is not None:
        temperature = options.temperature
    own_limit = start.folder is not None and options.style != "paper" and options.max_tokens is None
    limit = (
        _own_max_tokens(start.folder)
        if own_limit and start.folder
        else options.max_tokens or _DEFAULT.max_tokens
    )
    summary = evaluate(
        problems,
        _Late(start.make),
        out,
        views=views,
        samples=_SAMPLES if options.samples is None else options.samples,
        sampling=Sampling(
            temperature, limit, _DEFAULT.seed if options.seed is None else options.seed
        ),
        kept=[name for name in SAMPLING if getattr(options, name) is None],
        pixels=start.pixels,
        style=options.style,
        identity={"engine": options.engine, **start.identity},
        given={"model": str(model), **(given or {})},
        progress=progress,
    )
    check_not_all_failed(RunFolder(out), summary)
    return summary


def as_in(run: Path, options: EvalOptions) -> EvalOptions:
    """The options with the sampling of an evaluation that exists, as far as they ask for none
    themselves.
    """
    folder = RunFolder(run)
    if not folder.manifest_path.exists():
        return options
    before: dict[str, Any] = folder.manifest().get("resolved", {})
    taken = {
        name: before[name] for name in SAMPLING if getattr(options, name) is None and name in before
    }
    return replace(options, **taken)


@dataclass(frozen=True, slots=True)
class _Start:
    """How an engine starts.

    Attributes:
        make: Makes it (picklable, for other processes).
        folder: The model; `None` where a server has it.
        identity: What makes the run what it is.
        pixels: Least and most pixels of an image, where they are known.
    """

    make: Callable[[], Engine]
    folder: Path | None
    identity: dict[str, Any]
    pixels: tuple[int, int] | None = None


def _local(model: str | Path, options: EvalOptions) -> _Start:
    """An engine that loads the model itself, on one accelerator or as several replicas."""
    from modgap.models.load import check_for_vllm, check_model, model_fingerprint, resolve

    if options.engine == "vllm" and not importlib.util.find_spec("vllm"):
        raise UserError("vllm is not installed: pip install 'modgap[vllm]', or give --engine hf.")
    folder, args = resolve(model), telling_args(options.engine_args)
    if options.engine == "vllm":
        check_for_vllm(folder, args)
    else:
        check_model(folder)
    paper = options.style == "paper"
    pixels = _PAPER_PIXELS if paper and not model_notes(folder).get("testbed") else None
    if options.engine == "vllm":
        make = functools.partial(_make_vllm, folder, pixels, options.engine_args)
    else:
        make = functools.partial(_make_hf, folder, pixels, options.device, options.batch_size)
    if options.replicas > 1 or options.ray_address is not None:
        make = functools.partial(_make_replicas, make, options)
    # Named only where there are some, so that runs from before they were recorded can be gone on
    # with.
    identity = {
        "model_fingerprint": model_fingerprint(folder),
        **({"engine_args": args} if args else {}),
    }
    known = (
        None if "mm_processor_kwargs" in args else pixels or pixel_limits(image_processor(folder))
    )
    return _Start(make, folder, identity, known)


def _make_hf(
    folder: Path, pixels: tuple[int, int] | None, device: str | None, batch_size: int
) -> Engine:
    from modgap.models.load import load_policy

    policy = load_policy(folder, device=device, pixels=pixels)
    return registry.INFERENCE_ENGINES.load("hf")(policy, batch_size=batch_size)


def _make_vllm(folder: Path, pixels: tuple[int, int] | None, args: Sequence[str]) -> Engine:
    return vllm_engine(folder, pixels, args)


def vllm_engine(
    folder: Path, pixels: tuple[int, int] | None = None, args: Sequence[str] = ()
) -> Engine:
    """The `vllm` engine; an adapter that the folder keeps is applied beside the weights, see
    `models/lora.py`.

    Args:
        folder: The model.
        pixels: Least and most pixels of an image.
        args: Arguments of `vllm.LLM` as `key=value`.

    Raises:
        UserError: vLLM cannot start.
    """
    make = registry.INFERENCE_ENGINES.load("vllm")
    dtype = parse_engine_args(args).get("dtype", "auto")
    if not has_adapter(folder) or dtype in FULL_PRECISION:
        return make(folder, pixels=pixels, args=args)
    import torch

    from modgap.models.lora import write_without_adapter

    say(f"the adapter of {folder} is applied beside its weights, as in training")
    base = tempfile.TemporaryDirectory(prefix="modgap-base-")
    try:
        half = torch.float16 if dtype in ("half", "float16") else torch.bfloat16
        write_without_adapter(folder, Path(base.name), half)
    except OSError as error:
        raise UserError(
            f"the weights without their adapter cannot be written to {base.name} ({error}): set"
            " TMPDIR to a folder with room for them, or give --engine-arg dtype=float32."
        ) from error
    engine = make(Path(base.name), pixels=pixels, args=args, adapter=folder / ADAPTER)
    for weights in Path(base.name).glob("*.safetensors"):
        weights.unlink()  # they are loaded; the other files may still be read
    weakref.finalize(engine, base.cleanup)
    return engine


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

    return _Start(make, None, {"model": str(model)})
