"""What is installed, and the command that installs more, as this installation was made.

modgap itself is light. Packages that only some commands need come with extras; what is missing is
reported in one line with its remedy.
"""

from __future__ import annotations

import importlib.util
import json
import os
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


def module_of(package: str) -> str:
    """The module that a package is imported as."""
    return _MODULES.get(package, package.replace("-", "_"))


def is_installed(package: str) -> bool:
    """Whether a package can be imported; nothing is imported to find that out."""
    try:
        return importlib.util.find_spec(module_of(package)) is not None
    except (ValueError, ModuleNotFoundError):
        return False  # blocked: `sys.modules` holds None, or a finder refuses it


def require(package: str) -> None:
    """Refuse to go on without a package of an extra. Raises `UserError`, which names the extra."""
    if not is_installed(package):
        raise UserError(f"{not_installed(package)}.")


def require_training() -> None:
    """Refuse to go on without what every training needs. Raises `UserError`."""
    if not is_installed("torch"):
        raise UserError(f"torch is not installed: {install('train')}, for training.")


def not_installed(package: str) -> str:
    """That a package of an extra is missing, how to install it, and what it is for."""
    extra, use = OPTIONAL[package]
    return f"{package} is not installed: {install(extra)}, for {use}"


def missing_package(error: BaseException) -> str | None:
    """The package of an extra whose absence an error reports; `None` for every other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.partition(".")[0]
    return next((name for name in OPTIONAL if module_of(name) == module), None)


def install(extra: str = "") -> str:
    """The command that installs modgap with an extra, by the tool that installed it."""
    extras = f"[{extra}]" if extra else ""
    try:
        found = metadata.distribution("modgap")
    except metadata.PackageNotFoundError:  # run from its source
        source = Path(__file__).parents[3]
        origin = {"url": source.as_uri(), "dir_info": {"editable": True}}
        is_source = (source / "pyproject.toml").is_file()
        return f"{_tool('')} {_what(origin if is_source else {}, extras)}"
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    return f"{_tool((found.read_text('INSTALLER') or '').strip())} {_what(origin, extras)}"


def _tool(installer: str) -> str:
    """The command that installs into this environment, whether that is activated or not."""
    prefix = Path(sys.prefix)
    if (prefix / "uv-receipt.toml").exists():
        return "uv tool install --force"
    if (prefix / "pipx_metadata.json").exists():
        return "pipx install --force"
    is_other = sys.prefix != sys.base_prefix and os.environ.get("VIRTUAL_ENV") != sys.prefix
    if installer == "uv":
        return f"uv pip install --python {_short(prefix)}" if is_other else "uv pip install"
    return f"{_short(prefix / 'bin' / 'pip')} install" if is_other else "pip install"


def _what(origin: Mapping[str, Any], extras: str) -> str:
    """What is to be installed, by what `direct_url.json` (PEP 610) says of this installation."""
    url = str(origin.get("url", ""))
    path = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
    if not url or (path is not None and not path.exists()):
        return f"'modgap{extras}'"
    if path is not None and path.is_dir():
        return _folder(path, extras, origin.get("dir_info", {}).get("editable", False))
    vcs = origin.get("vcs_info")
    place = f"{vcs['vcs']}+{url}@{vcs['commit_id']}" if vcs else url
    return f"'modgap{extras} @ {place}'"


def _folder(path: Path, extras: str, editable: bool) -> str:
    """A folder of source as pip takes it; `.` where the command is given in it."""
    return f"{'-e ' if editable else ''}'{_short(path)}{extras}'"


def _short(path: Path) -> str:
    """A path, relative to the working folder if it lies inside that."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
