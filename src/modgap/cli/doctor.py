"""`modgap doctor`: what is installed, which engines work here, how much GPU memory there is."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from modgap.core import registry
from modgap.core.extras import install
from modgap.core.progress import show

_NEEDED = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "pyarrow",
    "pillow",
    "mathruler",
    "matplotlib",
    "jinja2",
)
_OPTIONAL = {
    "vllm": ("vllm", "--engine vllm"),
    "openai": ("openai", "evaluation on a served model (--engine openai)"),
    "verl": ("verl", "training on many GPUs (--engine verl), in an environment of its own"),
    "ray": ("ray", "evaluation on several accelerators or machines (--replicas)"),
    "math-verify": ("mathverse", "the symbolic stage of MathVerse grading"),
    "modelscope": ("modelscope", "models from ModelScope (--model modelscope:ORG/NAME)"),
}
"""Package -> the extra that brings it, and what it is for."""


def diagnose() -> int:
    """Print what is installed and what works here.

    Returns:
        0 if the engines of a plain installation work, else 1.
    """
    from modgap.core.version import __version__

    show(
        f"modgap {__version__}, Python {platform.python_version()}, {platform.system()}"
        f" {platform.machine()}"
    )
    show(
        f"{os.cpu_count()} CPU cores, {shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB free"
        " here"
    )
    missing = [name for name in _NEEDED if not _installed(name)]
    for name in _NEEDED:
        show(f"  {name:14} {_version(name)}")
    for name in _OPTIONAL:
        show(f"  {name:14} {_optional(name)}")
    for kind, engines in (
        ("training", registry.TRAINING_ENGINES),
        ("inference", registry.INFERENCE_ENGINES),
    ):
        show(f"{kind} engines that can be used here: {', '.join(filter(_usable, engines))}")
    _devices()
    if missing:
        show(f"missing: {', '.join(missing)}. Remedy: {install()}")
        return 1
    return 0


def _optional(name: str) -> str:
    """The state of an optional package."""
    if _installed(name):
        return _version(name)
    extra, use = _OPTIONAL[name]
    return f"not installed: {install(extra)}, for {use}"


def _usable(engine: str) -> bool:
    """Whether the package that an engine needs, if any, is installed."""
    return engine not in _OPTIONAL or _installed(engine)


def _installed(name: str) -> bool:
    return (
        importlib.util.find_spec({"pillow": "PIL", "math-verify": "math_verify"}.get(name, name))
        is not None
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> None:
    if not _installed("torch"):
        return
    import torch

    if not torch.cuda.is_available():
        show(f"no GPU: models run on the CPU in fp32, {torch.get_num_threads()} threads")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        show(f"cuda:{index} {name}: {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
