"""`modgap doctor`: what is installed, which engines work here, how much GPU memory there is."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from modgap.core import registry
from modgap.core.installation import OPTIONAL, install, is_installed, remedy
from modgap.core.progress import show
from modgap.core.text import counted

_NEEDED = ("pydantic", "pyarrow", "pillow", "scipy", "mathruler", "matplotlib", "jinja2")
"""What every installation has."""


def diagnose() -> int:
    """Print what is installed and what works here.

    Returns:
        0 if everything is there that every installation has, else 1.
    """
    from modgap.core.version import __version__

    show(
        f"modgap {__version__}, Python {platform.python_version()}, {platform.system()}"
        f" {platform.machine()}"
    )
    show(
        f"{counted(os.cpu_count() or 1, 'CPU core')},"
        f" {shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB free here"
    )
    missing = [name for name in _NEEDED if not is_installed(name)]
    for name in _NEEDED:
        show(f"  {name:15} {_version(name)}")
    for name in OPTIONAL:
        show(f"  {name:15} {_optional(name)}")
    for kind, engines in (
        ("training", registry.TRAINING_ENGINES),
        ("inference", registry.INFERENCE_ENGINES),
    ):
        usable = [name for name, entry in engines.items() if _usable(entry)]
        show(f"{kind} engines that can be used here: {', '.join(usable) or 'none'}")
    _devices()
    if missing:
        show(f"missing: {', '.join(missing)}. Remedy: {install()}")
        return 1
    return 0


def _optional(name: str) -> str:
    """The state of an optional package."""
    return _version(name) if is_installed(name) else f"not installed: {remedy(*OPTIONAL[name])}"


def _usable(entry: registry.Entry) -> bool:
    """Whether the package that an engine needs, if any, is installed."""
    return not entry.package or is_installed(entry.package)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> None:
    if not is_installed("torch"):
        return
    import torch

    if not torch.cuda.is_available():
        show(f"no GPU: models run on the CPU in fp32, {counted(torch.get_num_threads(), 'thread')}")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        show(f"cuda:{index} {name}: {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
