"""A judge behind an OpenAI-compatible server, with errors worded for `modgap grade`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modgap.core.engine import Completion, Engine, Request, Sampling
from modgap.core.errors import ServerError, TemperatureRefusedError, UserError
from modgap.core.options import JudgeOptions
from modgap.engines.judge import Judge
from modgap.engines.openai import OpenAIEngine, Server, check_server, served_models
from modgap.grading.judge import JudgeMode


def served_judge(options: JudgeOptions) -> Judge:
    """The judge at the URL that the options name.

    Raises:
        UserError: The server does not answer, or has several models and none is chosen.
    """
    server = Server.of(options, (options.judge or "").rstrip("/"))
    try:
        check_server(server.base_url, server.api_key_env)
    except UserError as error:
        raise _about_the_judge(error) from None
    model = options.model or _only_model(server)
    name = f"openai:{model} at {server.base_url}"
    return Judge(name, functools.partial(_start, model, server), options.max_tokens)


def _start(model: str, server: Server, mode: JudgeMode) -> Engine:
    from modgap.engines.text import NO_THINKING

    raw = mode == "paper"
    body = None if raw else {"chat_template_kwargs": NO_THINKING}
    try:
        engine = OpenAIEngine(model, server, raw=raw, extra_body=body)
    except UserError as error:
        raise _about_the_judge(error) from None
    return _Served(engine)


@dataclass(frozen=True, slots=True)
class _Served:
    """The openai engine of a judge: its errors are worded for `modgap grade`."""

    engine: Engine

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        try:
            yield from self.engine.generate(requests, sampling)
        except UserError as error:
            raise _about_the_judge(error) from None


def _about_the_judge(error: UserError) -> UserError:
    """What a server's failure means for a judge, whose options have other names."""
    if isinstance(error, TemperatureRefusedError):
        words = (
            "{server}: {said}. Remedy: {model} cannot be asked greedily: give another judge."
        ).format(**error.values)
    elif isinstance(error, ServerError):
        words = error.worded("--judge", "--judge-model")
    else:
        words = str(error)
    return UserError(f"the judge: {words}")


def _only_model(server: Server) -> str:
    """The one model of a server.

    Raises:
        UserError: It does not say, or there are several.
    """
    try:
        names = served_models(server)
    except UserError as error:
        raise _about_the_judge(error) from None
    if len(names) != 1:
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        raise UserError(
            f"{server.base_url} serves {shown or 'no model that it names'}: choose one with"
            " --judge-model."
        )
    return names[0]
