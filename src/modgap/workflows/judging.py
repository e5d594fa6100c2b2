"""From `--judge MODEL_OR_URL` to a judge: which engine asks it.

A URL is asked by an engine of served models; anything else is a model that is loaded here, by an
engine with a package of its own (vLLM) where that is installed, else by transformers. Each engine's
entry of the registry names the function that makes its judge. The original loads Qwen3-8B with vLLM
and sends raw completions; so does paper mode here, while the other modes use the chat template,
with thinking switched off.
"""

from __future__ import annotations

from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.installation import is_installed
from modgap.core.options import JudgeOptions, flag
from modgap.core.registry import EngineEntry
from modgap.core.secrets import check_name
from modgap.engines.judge import Judge


def make_judge(options: JudgeOptions) -> Judge:
    """The judge that the options name; a model is loaded when the first question comes.

    Raises:
        UserError: An option is bad, the server does not answer, or the model does not exist.
    """
    _check(options)
    return registry.load(_engine(options).judge)(options)


def _check(options: JudgeOptions) -> None:
    """Refuse what cannot work before anything is graded. Raises `UserError`."""
    judge = options.judge or ""
    check_name(options.api_key_env)
    if not judge.strip():
        raise UserError(
            "--judge '': give a model (Qwen/Qwen3-8B, a folder) or the URL of a server."
        )
    engine = _engine(options)
    if engine.served and not options.is_url:
        raise UserError(
            f"--judge {options.judge!r} with --judge-engine {options.engine}: give the server's"
            " URL, http://localhost:8000/v1, and the model as --judge-model."
        )
    if options.is_url and not engine.served:
        served = [name for name, entry in _judging().items() if entry.served]
        raise UserError(
            f"--judge-engine {options.engine} with the URL {options.judge}: a URL is asked by"
            f" {' or '.join(served)}; leave it out."
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


def _judging() -> dict[str, EngineEntry]:
    """Our engines that can ask a judge."""
    return {name: entry for name, entry in registry.INFERENCE_ENGINES.items() if entry.judge}


def _engine(options: JudgeOptions) -> EngineEntry:
    """The engine that the options name, or the one that suits the judge.

    Raises:
        UserError: The engine is unknown or cannot judge.
    """
    if options.engine is not None:
        entry = registry.INFERENCE_ENGINES.entry(options.engine)
        if not entry.judge:
            raise UserError(
                f"--judge-engine {options.engine}: this engine cannot judge; choose from"
                f" {', '.join(_judging())}."
            )
        return entry
    suitable = [entry for entry in _judging().values() if entry.served == options.is_url]
    # Of those that load a model the last that is installed: vLLM, if it is there.
    for entry in reversed(suitable):
        if not entry.served and is_installed(entry.package):
            return entry
    # None is installed, or it is a URL: loading the first one reports what is missing.
    return suitable[0]
