"""Tables of recipes, data sets and engines by name; nothing is imported before it is used.

A thing from outside the package is named by `module:object` or by `path/to/file.py:object`, or its
package registers an entry point (groups `modgap.recipes`, `modgap.datasets`, `modgap.engines`).
Where such an object is an `Entry`, it also brings what the table says of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from modgap.core.errors import unknown
from modgap.core.loading import load as load
from modgap.core.view import DEFAULT_VIEWS, VERSION_VIEWS


@dataclass(frozen=True, slots=True)
class Entry:
    """What a name refers to.

    Attributes:
        path: Where the object is, `module:object`.
        package: The package of an extra that must be installed for it; empty where every
            installation has what it needs.
    """

    path: str
    package: str = ""


@dataclass(frozen=True, slots=True)
class DatasetEntry(Entry):
    """A data set; the object is `read(path, split="test", limit=None)`, which yields `Problem`s.

    Attributes:
        check: `module:function` of `modgap data check`: (path, progress=None) ->
            `datasets.faults.Report`; empty where there is none.
        own_data: `module:function` that gives the folder of problems that need no `--data`:
            (progress) -> path; empty where a data set has to be given.
        splits: Whether there is a train split beside the test split.
        grader: The name of the grader of its problems (`grading.graders`), by which `data_set_of`
            finds the entry; empty for the grader of numbers.
        views: The views that are asked unless others are named.
        paper_prompt: `module:function` of the prompts of paper style: (problem, view, style) ->
            `Prompt`; empty where `core.prompt` has the rules.
        paper_temperature: Temperature of the paper's evaluation; `None` for that of every
            evaluation.
        paper_figures: `module:function` of the original's own figures, for a run that is graded in
            mode `paper`: (summary, problems, responses, grades, other files of an import) -> the
            summary with them.
        paper_export: `module:function` that writes a run as the original's files: (what is
            exported, run, name).

    A run folder, or problems without the name of their data set, are looked up by their grader
    among our own entries (`data_set_of`). So `views` and the attributes that begin with `paper`
    have no effect in an entry without a grader of its own.
    """

    check: str = ""
    own_data: str = ""
    splits: bool = True
    grader: str = ""
    views: tuple[str, ...] = DEFAULT_VIEWS
    paper_prompt: str = ""
    paper_temperature: float | None = None
    paper_figures: str = ""
    paper_export: str = ""


@dataclass(frozen=True, slots=True)
class EngineEntry(Entry):
    """An engine that answers prompts.

    Attributes:
        options: Options of `modgap eval` that this engine takes and not every engine does.
        served: Whether a server holds the model, so that nothing is loaded here.
        as_is: Whether it reads a model folder with code of its own, so that only the content of the
            files counts.
        judge: `module:function` that makes a judge which it asks: (`JudgeOptions`) ->
            `engines.judge.Judge`; empty where it cannot judge.
    """

    options: tuple[str, ...] = ()
    served: bool = False
    as_is: bool = True
    judge: str = ""


@dataclass(frozen=True, slots=True)
class TrainEntry(Entry):
    """An engine that trains.

    The object is `run(recipe, problems, folder, out, job, progress)` -> `TrainResult`.

    Attributes:
        plan: `module:function` of `--dry-run`: (recipe, model, out, problems=, gpu=) -> lines.
        plan_takes: Which of `problems` and `gpu` that function uses.
        check: `module:function` that refuses an environment in which it cannot work, before
            anything is written.
        complete: `module:function` that says, without writing, whether a training has all stages,
            and refuses a folder with another one: (recipe, problems, folder, out, job) -> bool.
        as_is: As of an `EngineEntry`.
        passed: Whether it takes settings of its own, `verl.KEY=value`.
        exclusive: Whether one training takes all visible accelerators.
        types: `model_type`s of the models that it trains; empty where it does not say.
    """

    plan: str = ""
    plan_takes: tuple[str, ...] = ()
    check: str = ""
    complete: str = ""
    as_is: bool = False
    passed: bool = False
    exclusive: bool = False
    types: tuple[str, ...] = ()


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
        """The entry of a name.

        A name is one of ours, an entry point's, `module:object` or `path/to/file.py:object`.

        Raises:
            UserError: The name is unknown; the message lists the names.
        """
        if name in self._entries:
            return self._entries[name]
        if ":" in name:
            return self._from(name)
        installed = self._installed()
        if name in installed:
            return self._from(installed[name])
        raise unknown(
            self.kind,
            name,
            [*self._entries, *installed],
            "One of your own is module:object or path/to/file.py:object.",
        )

    def load(self, name: str) -> Any:
        """The object that a name refers to. Raises `UserError` as `entry` and `load` do."""
        return load(self.entry(name).path)

    def _from(self, path: str) -> E:
        """The entry at `module:object`: an `Entry` as it is, anything else by its path alone."""
        found = load(path)
        return found if isinstance(found, self._make) else self._make(path)

    def _installed(self) -> dict[str, str]:
        """Names that installed packages register -> `module:object`."""
        if not self._group:
            return {}
        from importlib.metadata import entry_points  # late: it reads every package's metadata

        return {point.name: point.value for point in entry_points(group=self._group)}


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
        "kl-from-base": Entry("modgap.recipes.paper:kl_from_base"),
        "reverse-curriculum": Entry("modgap.recipes.paper:reverse_curriculum"),
        "kl-forward": Entry("modgap.recipes.kl_variants:kl_forward"),
        "kl-full-vocab": Entry("modgap.recipes.kl_variants:kl_full_vocab"),
        "kl-unclamped": Entry("modgap.recipes.kl_variants:kl_unclamped"),
        "kl-strong": Entry("modgap.recipes.kl_variants:kl_strong"),
        "kl-forward-strong": Entry("modgap.recipes.kl_variants:kl_forward_strong"),
        "full-text-continued": Entry("modgap.recipes.kl_variants:full_text_continued"),
        "distill": Entry("modgap.recipes.distill:distill"),
        "distill-jsd": Entry("modgap.recipes.distill:distill_jsd"),
        "distill-advantage": Entry("modgap.recipes.distill:distill_advantage"),
        "distill-frozen": Entry("modgap.recipes.distill:distill_frozen"),
        "distill-ema": Entry("modgap.recipes.distill:distill_ema"),
        "distill-after-text": Entry("modgap.recipes.distill:distill_after_text"),
        "self-trace": Entry("modgap.recipes.distill:self_trace"),
        "papo": Entry("modgap.recipes.perception:papo"),
        "papo-unclamped": Entry("modgap.recipes.perception:papo_unclamped"),
        "vppo": Entry("modgap.recipes.perception:vppo"),
        "reading-reward": Entry("modgap.recipes.reading:reading_reward"),
    },
)
_PGPS9K = DatasetEntry(
    "modgap.datasets.pgps9k:read",
    check="modgap.datasets.pgps9k:check",
    paper_figures="modgap.analysis.original:with_figures",
    paper_export="modgap.original.export:add_pgps9k",
)
DATASETS = Registry(
    "benchmark",
    "modgap.datasets",
    DatasetEntry,
    {
        "pgps9k": _PGPS9K,
        # The generator writes PGPS9K's layout.
        "synthetic": replace(
            _PGPS9K, own_data="modgap.datasets.synthetic.benchmark:benchmark_folder"
        ),
        "charts": replace(_PGPS9K, own_data="modgap.datasets.synthetic.benchmark:charts_folder"),
        "pairs": DatasetEntry(
            "modgap.datasets.pairs:read", check="modgap.datasets.pairs:check", splits=False
        ),
        "mathverse": DatasetEntry(
            "modgap.datasets.mathverse:read",
            check="modgap.datasets.mathverse:check",
            grader="mathverse",
            views=tuple(VERSION_VIEWS),
            paper_prompt="modgap.core.prompt:paper_mathverse",
            paper_temperature=0.8,
            paper_figures="modgap.analysis.original_mathverse:with_figures",
            paper_export="modgap.original.export:add_mathverse",
        ),
        "geometry3k": DatasetEntry(
            "modgap.datasets.geometry3k.read:read",
            check="modgap.datasets.geometry3k.check:check",
        ),
        "geometry3k-choices": DatasetEntry(
            "modgap.datasets.geometry3k.read:read_choices",
            check="modgap.datasets.geometry3k.check:check_choices",
        ),
    },
)


def data_set_of(graders: Iterable[str]) -> DatasetEntry:
    """Our entry for problems without their data set's name, such as those of a run folder.

    Args:
        graders: What grades them (`Problem.grader`).

    Returns:
        The data set with a grader of its own that is among them; PGPS9K, which has the paper's
        rules, if none is.
    """
    names = {grader.partition(":")[0] for grader in graders}
    for entry in DATASETS.values():
        if entry.grader and entry.grader in names:
            return entry
    return _PGPS9K


_LOCAL = ("batch_size", "device")
_SERVED = ("base_url", "api_key_env", "concurrency", "timeout", "max_retries")
INFERENCE_ENGINES = Registry(
    "engine",
    "modgap.engines",
    EngineEntry,
    {
        "hf": EngineEntry(
            "modgap.engines.hf:HfEngine",
            package="torch",
            options=(*_LOCAL, "replicas", "ray_address"),
            as_is=False,
            judge="modgap.engines.text:hf_judge",
        ),
        "vllm": EngineEntry(
            "modgap.engines.vllm:VllmEngine",
            package="vllm",
            options=("engine_args", "replicas", "ray_address", *_LOCAL),
            judge="modgap.engines.text:vllm_judge",
        ),
        "openai": EngineEntry(
            "modgap.engines.openai:OpenAIEngine",
            package="openai",
            options=_SERVED,
            served=True,
            judge="modgap.engines.served_judge:served_judge",
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
            package="torch",
            check="modgap.training.local:check_environment",
            complete="modgap.training.local:is_complete",
            plan="modgap.training.plan:dry_run",
            plan_takes=("gpu",),
            types=("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "llava_onevision", "llava"),
        ),
        "verl": TrainEntry(
            "modgap.training.verl.engine:run",
            package="verl",
            check="modgap.training.verl.plan:require",
            complete="modgap.training.verl.engine:is_complete",
            plan="modgap.training.verl.plan:dry_run",
            plan_takes=("problems", "gpu"),
            as_is=True,
            passed=True,
            exclusive=True,
            types=("qwen2_5_vl", "qwen3_vl"),
        ),
    },
)
