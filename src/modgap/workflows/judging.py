"""From `--judge MODEL_OR_URL` to a judge: which engine asks it, and what tells it from others.

A URL is an OpenAI-compatible server; anything else a model that is loaded here, by vLLM where that
is installed, else by transformers. The original loads Qwen3-8B with vLLM and sends raw completions;
so does paper mode here, while the other modes use the chat template, with thinking switched off.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modgap.core import registry
from modgap.core.engine import Completion, Engine, Request, Sampling
from modgap.core.errors import ServerError, TemperatureRefusedError, UserError
from modgap.engines.judge import Judge
from modgap.engines.vllm_start import telling_args
from modgap.grading.judge import JudgeMode
from modgap.workflows.judge_stage import CHECK, SEED

JudgeEngine = Literal["hf", "vllm", "openai"]


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """How to judge; the options of `modgap grade`.

    Attributes:
        judge: A model (folder, hub id) or the URL of a server, up to `/v1`.
        engine: `openai` for a URL; else `vllm` where it is installed and `hf` where not, if not
            given.
        model: The model's name on the server; the only one that it serves if not given.
        max_tokens: How many tokens the judge may write: 16 if not given, and 2 in paper mode in any
            case. A judge whose thinking cannot be switched off needs thousands.
        check: How many of the answers that the rules decided it is asked about as well; 0 for none.
        seed: Which of them.
        api_key_env: The environment variable that holds the key (`openai`).
        concurrency: Most requests under way at once (`openai`).
        timeout: Seconds that one request may take (`openai`).
        max_retries: Most retries of one request (`openai`).
        engine_args: `key=value` for `vllm.LLM`; those that can change answers make it another
            judge.
        batch_size: Questions answered together (`hf`).
        device: `None` takes the best there is (`hf`).
    """

    judge: str
    engine: JudgeEngine | None = None
    model: str | None = None
    max_tokens: int | None = None
    check: int = CHECK
    seed: int = SEED
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 32
    timeout: float = 600.0
    max_retries: int = 8
    engine_args: tuple[str, ...] = ()
    batch_size: int = 16
    device: str | None = None

    @property
    def is_url(self) -> bool:
        """Whether the judge is behind a server."""
        return self.judge.lower().startswith(("http://", "https://"))

    def check_them(self) -> None:
        """Refuse what cannot work before anything is graded. Raises `UserError`."""
        if not self.judge.strip():
            raise UserError(
                "--judge '': give a model (Qwen/Qwen3-8B, a folder) or the URL of a server."
            )
        if self.engine == "openai" and not self.is_url:
            raise UserError(
                f"--judge {self.judge!r} with --judge-engine openai: give the server's URL,"
                " http://localhost:8000/v1, and the model as --judge-model."
            )
        if self.engine in ("hf", "vllm") and self.is_url:
            raise UserError(
                f"--judge-engine {self.engine} with the URL {self.judge}: a URL is asked by openai;"
                " leave it out."
            )
        if self.model is not None and not self.is_url:
            raise UserError(
                f"--judge-model {self.model!r} names a model on a server: give its URL as --judge."
            )
        for name, least in (("check", 0), ("max_tokens", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise UserError(
                    f"--judge-{name.replace('_', '-')} {value}: must be at least {least}."
                )
        for name in ("concurrency", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1."
                )


def make_judge(options: JudgeOptions) -> Judge:
    """The judge that the options name; a model is loaded when the first question comes.

    Raises:
        UserError: An option is bad, the server does not answer, or there is no such model.
    """
    options.check_them()
    if options.is_url:
        url = options.judge.rstrip("/")
        model = options.model or _only_model(url, options)
        return Judge(
            f"openai:{model} at {url}",
            functools.partial(_served, model, options),
            options.max_tokens,
        )
    if options.engine == "vllm" and not importlib.util.find_spec("vllm"):
        raise UserError(
            "vllm is not installed: pip install 'modgap[vllm]', or give --judge-engine hf, or a"
            " URL."
        )
    from modgap.models.load import model_fingerprint, resolve

    folder = resolve(options.judge)
    engine = options.engine or ("vllm" if importlib.util.find_spec("vllm") else "hf")
    args = telling_args(options.engine_args) if engine == "vllm" else {}
    told = ", ".join(
        [model_fingerprint(folder), *(f"{key}={json.dumps(value)}" for key, value in args.items())]
    )
    name = f"{engine}:{options.judge} ({told})"
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
        words = "{server}: {said}. Remedy: {model} cannot be asked greedily: give another judge.".format(
            **error.values
        )
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
