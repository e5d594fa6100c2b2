"""`modgap init`: a configuration file to begin with. Parses first, imports late."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from modgap.core import registry
from modgap.core.disk import replacing
from modgap.core.errors import UsageError, UserError
from modgap.core.progress import show

_ASKED = "modgap init asks on a terminal only"


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a measurement needs to be told."""

    model: str
    engine: str
    base_url: str | None
    benchmark: str
    data: Path | None


def init(
    *,
    model: str | None = None,
    engine: str | None = None,
    base_url: str | None = None,
    data: Path | None = None,
    benchmark: str | None = None,
    out: Path = Path("modgap.toml"),
) -> None:
    """Write a configuration file for a first measurement, and print the command that uses it.

    What is not given as an option is asked on a terminal.

    ```
    modgap init
    modgap init --model gpt-4o-mini --engine openai --benchmark synthetic
    ```

    Args:
        model: What to measure: `tiny`, a folder, a Hugging Face id, or the name that a server has
            for it.
        engine: What answers: `hf` and `vllm` load the model here, `openai` asks a server.
        base_url: Where the server is, e.g. http://localhost:8000/v1; OpenAI's own if not given
            (openai).
        data: The data set; none for the benchmark `synthetic`, which makes its own.
        benchmark: Layout of the data set: pgps9k, synthetic, charts, pairs, mathverse, geometry3k,
            geometry3k-choices; by the looks of the
            data if not given.
        out: The file to write, which must end in .toml.
    """
    if out.suffix != ".toml":
        raise UsageError(f"--out {out}: give a file that ends in .toml.")
    if out.exists():
        raise UserError(f"{out} exists: give another --out, or remove it.")
    answers = _answers(model, engine, base_url, data, benchmark)
    out.parent.mkdir(parents=True, exist_ok=True)
    command = ["modgap", "eval", "--config", str(out)]
    with replacing(out) as part:
        part.write_text(_toml(answers, shlex.join(command)), encoding="utf-8")
    show(f"written: {out}")
    _say_missing(answers.engine)
    show(f"measure it: {shlex.join(command)}")


def _answers(
    model: str | None,
    engine: str | None,
    base_url: str | None,
    data: Path | None,
    benchmark: str | None,
) -> _Answers:
    """The options, and what is asked for the rest."""
    model = model or _ask("model", "Model: tiny, a folder, a Hugging Face id or a server's name")
    choices = ", ".join(registry.INFERENCE_ENGINES)
    # A name without a folder or an owner is more likely a server's than a model's of a hub.
    loaded = model in ("tiny", "tiny-charts") or "/" in model or Path(model).is_dir()
    engine = engine or _ask("engine", f"Engine: one of {choices}", "hf" if loaded else None)
    entry = registry.INFERENCE_ENGINES.entry(engine)
    if base_url is not None and not entry.served:
        raise UsageError(f"--base-url {base_url}: only --engine openai asks a server.")
    if entry.served and base_url is None and sys.stdin.isatty():
        base_url = _ask("base_url", "Server's address, empty for OpenAI's own", "") or None
    if data is None and benchmark is None:
        named = _ask("data", "Data set, empty for synthetic problems that are made here", "")
        data = Path(named) if named else None
    benchmark = benchmark or _looks_like(data)
    known = registry.DATASETS.entry(benchmark)
    if data is None and not known.own_data:
        raise UsageError(f"--data is missing: {benchmark} needs its folder or file.")
    return _Answers(model, engine, base_url, benchmark, data)


def _ask(option: str, question: str, default: str | None = None) -> str:
    """An answer from the terminal; the default where there is none.

    Raises:
        UsageError: Nothing can be asked, and there is no default.
    """
    if not sys.stdin.isatty():
        if default is None:
            raise UsageError(f"--{option.replace('_', '-')} is missing: {_ASKED}.")
        return default
    while True:
        show(f"{question}{f' [{default}]' if default else ''}:", end=" ", error=True)
        line = sys.stdin.readline()
        if not line:
            raise KeyboardInterrupt  # the end of the input, as Ctrl-D gives it
        if answer := line.strip():
            return answer
        if default is not None:
            return default


def _looks_like(data: Path | None) -> str:
    """The benchmark whose layout a data set has; without one, that which has its own data.

    Raises:
        UserError: The data does not exist, or is of no known layout.
    """
    from modgap.datasets.recognise import benchmark_of

    if data is None:
        return next(name for name, entry in registry.DATASETS.items() if entry.own_data)
    if not data.exists():
        raise UserError(
            f"--data {data} does not exist: name a folder or file, or give --benchmark for the id"
            " of a hub."
        )
    if found := benchmark_of(data):
        return found
    choices = ", ".join(registry.DATASETS)
    raise UserError(f"--data {data} has no layout that is known: give --benchmark ({choices}).")


def _toml(answers: _Answers, command: str) -> str:
    """The file: what several commands share at its top, the rest under [eval]."""
    shared = {"model": answers.model, "benchmark": answers.benchmark}
    if answers.data is not None:
        shared["data"] = str(answers.data)
    measured = answers.benchmark if answers.data is None else answers.data.stem
    name = re.sub(r"[^\w.-]+", "-", f"{Path(answers.model).name}-{measured}").strip("-.")
    own = {"engine": answers.engine, "out": f"runs/{name or 'model'}"}
    if answers.base_url:
        own["base-url"] = answers.base_url
    lines = [f"# Made by `modgap init`, for: {command}", "# What the command line gives wins."]
    lines += [f"{key} = {_quoted(value)}" for key, value in shared.items()]
    lines += ["", "[eval]", *(f"{key} = {_quoted(value)}" for key, value in own.items())]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A basic string of TOML, which escapes as JSON does."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _say_missing(engine: str) -> None:
    """What has to be installed before the command works."""
    from modgap.core.installation import is_installed, not_installed

    package = registry.INFERENCE_ENGINES.entry(engine).package
    if package and not is_installed(package):
        show(f"first: {not_installed(package)}")
