"""Names to things: one table each of recipes, data sets and engines. Nothing is imported before it is asked for.

A thing from outside the package is named by `module:object` or by `path/to/file.py:object`, or its package registers an
entry point (groups `modgap.recipes`, `modgap.datasets`, `modgap.engines`). Where such an object is an `Entry`, it also
brings what the table says of ours.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from modgap.core.errors import UserError, unknown


@dataclass(frozen=True, slots=True)
class Entry:
    """What a name stands for.

    Attributes:
        path: Where the object is, `module:object`.
        extra: The extra of modgap that installs what it needs; empty where every installation has it.
    """

    path: str
    extra: str = ""


@dataclass(frozen=True, slots=True)
class DatasetEntry(Entry):
    """A data set; the object is `read(path, split="test", limit=None)`, which yields `Problem`s.

    Attributes:
        check: `module:function` of `modgap data check`: (path, progress=None) -> `datasets.faults.Report`; empty
            where there is none.
        own_data: `module:function` that gives the folder of problems that need no `--data`: (progress) -> path; empty
            where a data set has to be given.
        splits: Whether there is a train split beside the test split.
        paper_temperature: Temperature of the paper's evaluation, where it is not 0.6.
    """

    check: str = ""
    own_data: str = ""
    splits: bool = True
    paper_temperature: float | None = None


@dataclass(frozen=True, slots=True)
class EngineEntry(Entry):
    """An engine that answers prompts.

    Attributes:
        package: The package that must be installed for it; empty where every installation has what it needs.
        options: Options of `modgap eval` that this engine takes and not every engine does.
        served: Whether a server holds the model, so that nothing is loaded here.
        as_is: Whether it reads a model folder with code of its own, so that only what lies in the files counts.
    """

    package: str = ""
    options: tuple[str, ...] = ()
    served: bool = False
    as_is: bool = True


@dataclass(frozen=True, slots=True)
class TrainEntry(Entry):
    """An engine that trains; the object is `run(recipe, problems, folder, out, job, progress)` -> `TrainResult`.

    Attributes:
        plan: `module:function` of `--dry-run`: (recipe, model, out, problems=, gpu=) -> lines.
        plan_takes: Which of `problems` and `gpu` that function uses.
        check: `module:function` that refuses an environment in which it cannot work, before anything is written.
        as_is: As of an `EngineEntry`.
        passed: Whether it takes settings of its own, `verl.KEY=value`.
        exclusive: Whether one training takes all visible accelerators.
    """

    plan: str = ""
    plan_takes: tuple[str, ...] = ()
    check: str = ""
    as_is: bool = False
    passed: bool = False
    exclusive: bool = False


E = TypeVar("E", bound=Entry)


class Registry(Mapping[str, E], Generic[E]):
    """One table of names.

    Args:
        kind: What is named, in the singular, for messages.
        group: The group of entry points; empty where others cannot add to the table.
        make: The kind of entry.
        entries: Name -> entry.
    """

    def __init__(self, kind: str, group: str, make: type[E], entries: Mapping[str, E]) -> None:
        self.kind = kind
        self._group = group
        self._make = make
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> E:
        """The entry of our own of that name."""
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Our own names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """How many names of our own there are."""
        return len(self._entries)

    def entry(self, name: str) -> E:
        """What a name stands for: one of ours, an entry point's, `module:object` or `path/to/file.py:object`.

        Raises:
            UserError: There is no such thing; the message lists the names.
        """
        if name in self._entries:
            return self._entries[name]
        if ":" in name:
            return self._from(name)
        installed = self._installed()
        if name in installed:
            return self._from(installed[name])
        raise unknown(
            self.kind, name, [*self._entries, *installed], "One of your own is module:object or path/to/file.py:object."
        )

    def load(self, name: str) -> Any:
        """The object that a name stands for. Raises `UserError` as `entry` and `load` do."""
        return load(self.entry(name).path)

    def _from(self, path: str) -> E:
        """The entry at `module:object`: an `Entry` as it is, anything else by its path alone."""
        found = load(path)
        return found if isinstance(found, self._make) else self._make(path)

    def _installed(self) -> dict[str, str]:
        """Names that installed packages register -> `module:object`."""
        from importlib.metadata import entry_points  # late: it reads every package's metadata

        return {point.name: point.value for point in entry_points(group=self._group)} if self._group else {}


RECIPES = Registry(
    "recipe",
    "modgap.recipes",
    Entry,
    {
        "full-text": Entry("modgap.recipes.paper:full_text"),
        "no-text": Entry("modgap.recipes.paper:no_text"),
        "mix": Entry("modgap.recipes.paper:mix"),
        "curriculum": Entry("modgap.recipes.paper:curriculum"),
        "kl": Entry("modgap.recipes.paper:kl"),
        "kl-curriculum": Entry("modgap.recipes.paper:kl_curriculum"),
        "kl-forward": Entry("modgap.recipes.kl_variants:kl_forward"),
        "kl-full-vocab": Entry("modgap.recipes.kl_variants:kl_full_vocab"),
        "kl-unclamped": Entry("modgap.recipes.kl_variants:kl_unclamped"),
        "kl-strong": Entry("modgap.recipes.kl_variants:kl_strong"),
        "kl-forward-strong": Entry("modgap.recipes.kl_variants:kl_forward_strong"),
        "full-text-continued": Entry("modgap.recipes.kl_variants:full_text_continued"),
    },
)
_PGPS9K = DatasetEntry("modgap.datasets.pgps9k:read", check="modgap.datasets.pgps9k:check")
DATASETS = Registry(
    "benchmark",
    "modgap.datasets",
    DatasetEntry,
    {
        "pgps9k": _PGPS9K,
        # The generator writes PGPS9K's layout.
        "synthetic": replace(_PGPS9K, own_data="modgap.datasets.synthetic.benchmark:benchmark_folder"),
        "pairs": DatasetEntry("modgap.datasets.pairs:read", check="modgap.datasets.pairs:check", splits=False),
        "mathverse": DatasetEntry(
            "modgap.datasets.mathverse:read", check="modgap.datasets.mathverse:check", paper_temperature=0.8
        ),
    },
)
_LOCAL = ("batch_size", "device")
_SERVED = ("base_url", "api_key_env", "concurrency", "timeout", "max_retries")
INFERENCE_ENGINES = Registry(
    "engine",
    "modgap.engines",
    EngineEntry,
    {
        "hf": EngineEntry("modgap.engines.hf:HfEngine", options=(*_LOCAL, "replicas", "ray_address"), as_is=False),
        "vllm": EngineEntry(
            "modgap.engines.vllm:VllmEngine",
            extra="vllm",
            package="vllm",
            options=("engine_args", "replicas", "ray_address", *_LOCAL),
        ),
        "openai": EngineEntry(
            "modgap.engines.openai:OpenAIEngine", extra="openai", package="openai", options=_SERVED, served=True
        ),
    },
)
TRAINING_ENGINES = Registry(
    "training engine",
    "",
    TrainEntry,
    {
        "local": TrainEntry(
            "modgap.training.local:run",
            check="modgap.training.local:check_environment",
            plan="modgap.training.plan:dry_run",
            plan_takes=("gpu",),
        ),
        "verl": TrainEntry(
            "modgap.training.verl.engine:run",
            extra="verl",
            plan="modgap.training.verl.plan:dry_run",
            plan_takes=("problems",),
            as_is=True,
            passed=True,
            exclusive=True,
        ),
    },
)

# Package to the extra that brings it, for a message when it is missing.
_EXTRAS = {"vllm": "vllm", "verl": "verl", "openai": "openai", "ray": "ray", "modelscope": "modelscope"}


def load(path: str) -> Any:
    """The object at `module:object` or `path/to/file.py:object`.

    Raises:
        UserError: The module needs a package that is not installed (the message names the extra), or does not exist.
    """
    module_name, sign, name = path.rpartition(":")
    if not sign or not module_name or not name:
        raise UserError(f"{path!r} names no object: write it as module:object or path/to/file.py:object.")
    module = _from_file(path, module_name) if module_name.endswith(".py") else _imported(path, module_name)
    # Outside of the handler: an AttributeError while a user's module is imported is that module's bug, and tells where.
    if not hasattr(module, name):
        raise UserError(f"cannot import {path!r}: {module_name} has no {name!r}.")
    return getattr(module, name)


def _imported(path: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _EXTRAS:
            raise UserError(f"{missing} is not installed: pip install 'modgap[{_EXTRAS[missing]}]'.") from error
        raise UserError(f"cannot import {path!r}: no module named {error.name!r}.") from error


def _from_file(path: str, file_name: str) -> ModuleType:
    """The module in a file, executed once in a process."""
    file = Path(file_name).resolve()
    if not file.is_file():
        raise UserError(f"cannot import {path!r}: the file {file_name} does not exist.")
    name = f"modgap_file_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, "a name that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
