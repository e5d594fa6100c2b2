"""From `--judge MODEL_OR_URL` to a judge: which engine asks it, and what identifies it.

A URL is an OpenAI-compatible server; anything else a model that is loaded here, by vLLM where that
is installed, else by transformers. The original loads Qwen3-8B with vLLM and sends raw completions;
so does paper mode here, while the other modes use the chat template, with thinking switched off.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modgap.core import registry
from modgap.core.engine import Completion, Engine, Request, Sampling
from modgap.core.errors import ServerError, TemperatureRefusedError, UserError
from modgap.core.installation import install, is_installed, require
from modgap.core.options import JudgeOptions, flag
from modgap.core.secrets import check_name
from modgap.engines.judge import Judge
from modgap.engines.vllm_start import telling_args
from modgap.grading.judge import JudgeMode


def check_options(options: JudgeOptions) -> None:
    """Refuse what cannot work before anything is graded. Raises `UserError`."""
    judge = options.judge or ""
    check_name(options.api_key_env)
    if options.is_url:
        try:
            registry.load("modgap.engines.openai:check_server")(judge, options.api_key_env)
        except UserError as error:
            raise _about_the_judge(error) from None
    if not judge.strip():
        raise UserError(
            "--judge '': give a model (Qwen/Qwen3-8B, a folder) or the URL of a server."
        )
    if options.engine == "openai" and not options.is_url:
        raise UserError(
            f"--judge {options.judge!r} with --judge-engine openai: give the server's URL,"
            " http://localhost:8000/v1, and the model as --judge-model."
        )
    if options.engine in ("hf", "vllm") and options.is_url:
        raise UserError(
            f"--judge-engine {options.engine} with the URL {options.judge}: a URL is asked by"
            " openai; leave it out."
        )
    if options.model is not None and not options.is_url:
        raise UserError(
            f"--judge-model {options.model!r} names a model on a server: give its URL as --judge."
        )
    for name, least in (("check", 0), ("max_tokens", 1)):
        if (value := getattr(options, name)) is not None and value < least:
            raise UserError(f"--judge-{name.replace('_', '-')} {value}: must be at least {least}.")
    for name in ("concurrency", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"{flag(name)} {getattr(options, name)}: must be at least 1.")


def make_judge(options: JudgeOptions) -> Judge:
    """The judge that the options name; a model is loaded when the first question comes.

    Raises:
        UserError: An option is bad, the server does not answer, or the model does not exist.
    """
    check_options(options)
    judge = options.judge or ""
    if options.is_url:
        url = judge.rstrip("/")
        model = options.model or _only_model(url, options)
        return Judge(
            f"openai:{model} at {url}",
            functools.partial(_served, model, options),
            options.max_tokens,
        )
    if options.engine == "vllm" and not is_installed("vllm"):
        raise UserError(
            f"vllm is not installed: {install('vllm')}, or give --judge-engine hf, or a URL."
        )
    engine = options.engine or ("vllm" if is_installed("vllm") else "hf")
    if engine == "hf":
        require("torch")
    from modgap.models.load import model_fingerprint, resolve

    folder = resolve(judge)
    args = telling_args(options.engine_args) if engine == "vllm" else {}
    details = ", ".join(
        [model_fingerprint(folder), *(f"{key}={json.dumps(value)}" for key, value in args.items())]
    )
    name = f"{engine}:{options.judge} ({details})"
    make = _with_vllm if engine == "vllm" else _with_hf
    return Judge(name, functools.partial(make, folder, options), options.max_tokens)


def _with_hf(folder: Path, options: JudgeOptions, mode: JudgeMode) -> Engine:
    from modgap.engines.text import HfTextEngine

    return HfTextEngine(folder, options.batch_size, options.device, raw=mode == "paper")


def _with_vllm(folder: Path, options: JudgeOptions, mode: JudgeMode) -> Engine:
    from modgap.engines.text import VllmTextEngine

    return VllmTextEngine(folder, options.engine_args, raw=mode == "paper")


def _served(model: str, options: JudgeOptions, mode: JudgeMode) -> Engine:
    from modgap.engines.text import NO_THINKING

    make = registry.INFERENCE_ENGINES.load("openai")
    raw = mode == "paper"
    try:
        engine = make(
            model,
            options.judge,
            options.api_key_env,
            concurrency=options.concurrency,
            timeout=options.timeout,
            max_retries=options.max_retries,
            raw=raw,
            extra_body=None if raw else {"chat_template_kwargs": NO_THINKING},
        )
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


def _only_model(url: str, options: JudgeOptions) -> str:
    """The one model of a server.

    Raises:
        UserError: It does not say, or there are several.
    """
    load = registry.load("modgap.engines.openai:served_models")
    try:
        names: list[str] = load(url, options.api_key_env, min(options.timeout, 10.0))
    except UserError as error:
        raise _about_the_judge(error) from None
    if len(names) != 1:
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        raise UserError(
            f"{url} serves {shown or 'no model that it names'}: choose one with --judge-model."
        )
    return names[0]
