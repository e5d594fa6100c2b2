"""From a model and the options to what answers prompts: an engine, or several replicas of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from modgap.core import registry
from modgap.core.engine import Completion, Engine, Request, Sampling, Start
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.record import RunFolder


def engine_of(
    model: str | Path | Engine, options: EvalOptions, run: RunFolder
) -> tuple[Start, Engine, dict[str, object]]:
    """How a model or an engine object starts, what answers, and what identifies it in a run.

    Raises:
        UserError: See `engine_start`; or an engine object is to have replicas.
    """
    if isinstance(model, str | Path):
        start = engine_start(model, options)
        continues = continues_turn(registry.INFERENCE_ENGINES.load(options.engine))
        late = _LateEngine(start.make, continues=continues)
        return start, late, {"engine": options.engine, **start.identity}
    if options.replicas > 1 or options.ray_address is not None:
        raise UserError(
            "an engine object answers alone: leave out replicas and ray_address, or name an engine."
        )
    return Start(lambda: model), model, _identity_of(model, run)


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


class _LateEngine:
    """An engine that is made when the first prompt comes: a run that is complete loads no model."""

    def __init__(self, make: Callable[[], Engine], *, continues: bool) -> None:
        self._make = make
        self.continues = continues
        self._made: Engine | None = None

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """See `modgap.core.engine.Engine`."""
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
