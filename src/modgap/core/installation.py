"""What is installed, and the command that installs more, as this installation was made.

modgap itself is light. Packages that only some commands need come with extras; what is missing is
reported in one line with its remedy.
"""

from __future__ import annotations

import contextlib
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
    "ray": ("ray", "evaluation on several accelerators or machines (--replicas, --ray-address)"),
    "math-verify": ("mathverse", "the symbolic stage of MathVerse grading"),
    "huggingface-hub": ("hf", "models and data sets of the Hugging Face hub"),
    "wandb": ("wandb", "trainings logged to Weights & Biases (--log wandb)"),
    "inspect-ai": ("inspect", "the task modgap/gap of inspect_ai"),
    "openpyxl": ("xlsx", "VLMEvalKit's xlsx files (modgap import --from vlmevalkit)"),
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
    module = module_of(package)
    if sys.modules.get(module):  # one without a spec, too
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ValueError, ModuleNotFoundError):
        return False  # blocked: `sys.modules` holds None, or a finder refuses it


def require(package: str, instead: str = "") -> None:
    """Refuse to continue without a package of an extra.

    Args:
        package: One of `OPTIONAL`.
        instead: What else the user can do, as an imperative.

    Raises:
        UserError: It is not installed; the message has the command that installs it.
    """
    if not is_installed(package):
        other = f", or {instead}" if instead else ""
        raise UserError(f"{not_installed(package)}{other}.")


def require_training() -> None:
    """Refuse to continue without what every training needs. Raises `UserError`."""
    if not is_installed("torch"):
        raise UserError(f"{not_installed('torch', ('train', 'training'))}.")


def not_installed(package: str, brought: tuple[str, str] | None = None) -> str:
    """That a package of an extra is missing, how to install it, and what it is for.

    Args:
        package: One of `OPTIONAL`.
        brought: The extra and the use, where they are not those of `OPTIONAL`.
    """
    return f"{package} is not installed: {remedy(*(brought or OPTIONAL[package]))}"


def remedy(extra: str, use: str) -> str:
    """How to install an extra, and what it is for."""
    return f"{install(extra)}, for {use}"


def missing_package(error: BaseException) -> str | None:
    """The package of an extra whose absence an error reports; `None` for every other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.partition(".")[0]
    return next((name for name in OPTIONAL if module_of(name) == module), None)


def install(extra: str = "") -> str:
    """The command that installs modgap with an extra, or modgap alone, to be pasted into a shell.

    It is given by the tool that installed modgap, from where this installation came from: the name
    alone is enough only for an installation from a package index.
    """
    extras = f"[{extra}]" if extra else ""
    installer, origin = "", {}
    with contextlib.suppress(metadata.PackageNotFoundError):
        found = metadata.distribution("modgap")
        installer = (found.read_text("INSTALLER") or "").strip()
        origin = json.loads(found.read_text("direct_url.json") or "{}")
    source = Path(__file__).resolve().parents[3]
    if not origin and (source / "pyproject.toml").is_file():  # run from its source
        origin = {"url": source.as_uri(), "dir_info": {"editable": True}}
    return f"{_tool(installer)} {_what(origin, extras)}"


def _tool(installer: str) -> str:
    """The command that installs into this environment, whether that is activated or not."""
    prefix = Path(sys.prefix)
    if (prefix / "uv-receipt.toml").exists():
        return "uv tool install --force"
    if (prefix / "pipx_metadata.json").exists():
        return "pipx install --force"
    is_other = sys.prefix != sys.base_prefix and os.environ.get("VIRTUAL_ENV") != sys.prefix
    if installer == "uv":
        return f"uv pip install --python {_quoted(prefix)}" if is_other else "uv pip install"
    return f"{_quoted(prefix / 'bin' / 'pip')} install" if is_other else "pip install"


def _what(origin: Mapping[str, Any], extras: str) -> str:
    """What is to be installed, by what `direct_url.json` (PEP 610) says of this installation."""
    url = str(origin.get("url", ""))
    path = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
    if not url or (path is not None and not path.exists()):
        return shlex.quote(f"modgap{extras}")
    if path is not None and path.is_dir():
        return _folder(path, extras, origin.get("dir_info", {}).get("editable", False))
    if vcs := origin.get("vcs_info"):
        url = f"{vcs.get('vcs', 'git')}+{url}@{vcs.get('commit_id', '')}".rstrip("@")
    return shlex.quote(f"modgap{extras} @ {url}")


def _folder(path: Path, extras: str, editable: bool) -> str:
    """A folder of source as pip takes it; `.` where the command is given in it."""
    return f"{'-e ' if editable else ''}{_quoted(path, extras)}"


def _quoted(path: Path, extras: str = "") -> str:
    """A path for a shell, relative to the working folder if it lies inside that.

    It has a slash, or is `.`: pip would look a bare name up on the package index.
    """
    here = Path.cwd()
    inside = path.relative_to(here) if path.is_relative_to(here) else path
    name = str(inside)
    if len(inside.parts) == 1:
        name = f"./{name}"
    return shlex.quote(f"{name}{extras}")
