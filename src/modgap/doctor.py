"""`modgap doctor`: what is installed, which engines work here, how much GPU memory there is."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from modgap.core import registry

_NEEDED = ("torch", "transformers", "accelerate", "peft", "pyarrow", "pillow", "mathruler", "matplotlib", "jinja2")
_OPTIONAL = {
    "openai": "evaluation on a served model (--engine openai)",
    "modelscope": "models from ModelScope (--model modelscope:ORG/NAME)",
    "vllm": "",
    "verl": "",
    "ray": "evaluation on several accelerators or machines (--replicas)",
}
"""Package, which is also the name of its extra -> what this version does with it beyond an engine of its name."""


def diagnose() -> int:
    """Print what works here.

    Returns:
        0 if the engines of a plain installation work, else 1.
    """
    from modgap import __version__

    print(f"modgap {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"{os.cpu_count()} CPU cores, {shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB free here")
    missing = [name for name in _NEEDED if not _installed(name)]
    for name in _NEEDED:
        print(f"  {name:14} {_version(name)}")
    for name in _OPTIONAL:
        print(f"  {name:14} {_optional(name)}")
    print(f"training engines: {', '.join(registry.TRAINING_ENGINES)}")
    print(f"inference engines: {', '.join(registry.INFERENCE_ENGINES)}")
    _devices()
    if missing:
        print(f"missing: {', '.join(missing)}. Remedy: pip install modgap")
        return 1
    return 0


def _optional(name: str) -> str:
    """What is to say of a package that not everybody needs; what has no engine yet is recommended to nobody."""
    found = _version(name) if _installed(name) else "not installed"
    engine = {**registry.TRAINING_ENGINES, **registry.INFERENCE_ENGINES}.get(name)
    use = _OPTIONAL[name] or (f"--engine {name}" if engine else "")
    if not use:
        return f"{found}; not used by this version yet"
    return found if _installed(name) else f"{found}: pip install 'modgap[{name}]', for {use}"


def _installed(name: str) -> bool:
    return importlib.util.find_spec({"pillow": "PIL"}.get(name, name)) is not None


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
        print(f"no GPU: models run on the CPU in fp32, {torch.get_num_threads()} threads")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        print(f"cuda:{index} {name}: {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
