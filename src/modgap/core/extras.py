"""What is installed, and the command that installs more, in the way in which modgap was installed.

modgap itself is light. Packages that only some commands need come with extras; what is missing is
reported in one line with its remedy.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from modgap.core.errors import UserError

_HERE = ("hf", "models that are loaded here (--engine hf)")
OPTIONAL: Mapping[str, tuple[str, str]] = {
    "torch": _HERE,
    "transformers": _HERE,
    "accelerate": _HERE,
    "peft": _HERE,
    "safetensors": _HERE,
    "tokenizers": _HERE,
    "tensorboard": ("train", "training in one process (--engine local)"),
    "vllm": ("vllm", "--engine vllm"),
    "openai": ("openai", "evaluation on a served model (--engine openai)"),
    "verl": ("verl", "training on many GPUs (--engine verl), in an environment of its own"),
    "ray": ("ray", "evaluation on several accelerators or machines (--replicas)"),
    "math-verify": ("mathverse", "the symbolic stage of MathVerse grading"),
    "huggingface-hub": ("hf", "models and data sets of the Hugging Face hub"),
    "wandb": ("wandb", "trainings logged to Weights & Biases (--log wandb)"),
    "modelscope": ("modelscope", "models from ModelScope (--model modelscope:ORG/NAME)"),
}
"""Package -> the extra that brings it, and what it is for."""
_MODULES = {"pillow": "PIL"}
"""Package -> its module, where that is not the package's name with underscores."""


def install(extra: str = "") -> str:
    """The command that installs an extra (or modgap alone), to be pasted into a shell.

    `modgap` is on no package index, so that its name alone would not be found: the command installs
    from where this installation came from.
    """
    return _command(extra, *_origin(), _tool())


def module_of(package: str) -> str:
    """The module that a package is imported as."""
    return _MODULES.get(package, package.replace("-", "_"))


def installed(package: str) -> bool:
    """Whether a package can be imported, found without importing it; true where none is named."""
    name = module_of(package)
    try:
        return not name or bool(sys.modules.get(name)) or bool(importlib.util.find_spec(name))
    except (ValueError, ModuleNotFoundError):
        return False  # blocked: `sys.modules` holds None, or a finder refuses it


def missing(package: str, extra: str = "") -> str:
    """What a message says of a package that is not installed: its name and the remedy."""
    return f"{package} is not installed: {install(extra or OPTIONAL[package][0])}"


def require(package: str, extra: str = "") -> None:
    """Refuse to go on without a package of an extra. Raises `UserError`, which names the extra."""
    if not installed(package):
        use = "" if extra else f", for {OPTIONAL[package][1]}"
        raise UserError(f"{missing(package, extra)}{use}.")


def absent_package(error: BaseException) -> str:
    """The package of an extra whose absence an error reports; empty for every other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    module = error.name.partition(".")[0]
    return next((name for name in OPTIONAL if module_of(name) == module), "")


@functools.cache
def _origin() -> tuple[str, Path]:
    """The installation's `direct_url.json`, empty where there is none; and the source tree."""
    return _metadata("direct_url.json"), Path(__file__).resolve().parents[3]


def _metadata(name: str) -> str:
    """A file of the installed distribution; empty where there is none."""
    try:
        return metadata.distribution("modgap").read_text(name) or ""
    except metadata.PackageNotFoundError:
        return ""


def _tool() -> str:
    """The command that installs into this environment, whether that is activated or not."""
    prefix = Path(sys.prefix)
    if (prefix / "uv-receipt.toml").exists():
        return "uv tool install --force"
    if (prefix / "pipx_metadata.json").exists():
        return "pipx install --force"
    is_other = sys.prefix != sys.base_prefix and os.environ.get("VIRTUAL_ENV") != sys.prefix
    if _metadata("INSTALLER").strip() == "uv":
        return (
            f"uv pip install --python {shlex.quote(str(prefix))}" if is_other else "uv pip install"
        )
    return f"{shlex.quote(str(prefix / 'bin' / 'pip'))} install" if is_other else "pip install"


def _command(extra: str, direct_url: str, tree: Path, tool: str = "pip install") -> str:
    """`install` of an origin, see `_origin`, with a tool."""
    extra = f"[{extra}]" if extra else ""
    origin: dict[str, Any] = json.loads(direct_url) if direct_url else {}
    url = str(origin.get("url", ""))
    folder = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
    editable = bool(origin.get("dir_info", {}).get("editable"))
    if not origin and (tree / "pyproject.toml").is_file():  # run from a checkout
        folder, editable = tree, True
    if folder is not None and (folder / "pyproject.toml").is_file():
        how = "-e " if editable else ""
        return f"cd {shlex.quote(str(folder))} && {tool} {how}'.{extra}'"
    if version := origin.get("vcs_info"):
        url = f"{version.get('vcs', 'git')}+{url}@{version.get('commit_id', '')}".rstrip("@")
    return f"{tool} 'modgap{extra}{' @ ' + url if url else ''}'"
