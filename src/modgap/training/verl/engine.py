"""The verl engine: a recipe's stages on many GPUs, each stage in a process of its own.

Each stage starts from the merged checkpoint of the previous one.

```
stageN/data/*.parquet          the input of verl
stageN/verl.json               the configuration, as differences from verl's
stageN/verl.log                the output of verl and its workers
stageN/verl_metrics.K.jsonl    all of verl's metrics, of the K-th launch
stageN/verl/global_step_S/     verl's checkpoints: a killed stage resumes from them
stageN/checkpoints/step_S/     the last one and the best, merged to Hugging Face folders
```

The same problems, prompts, held-out validation, reward and objective as the local engine; the loop
is verl's V1 trainer.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from modgap.core.errors import UserError
from modgap.core.json_files import write_json, write_text
from modgap.core.problem import Problem
from modgap.core.processes import watched
from modgap.core.prompt import Style
from modgap.core.recipe import Recipe, Stage
from modgap.core.record import RunFolder
from modgap.core.text import counted
from modgap.datasets.parquet import SOURCE, Beside
from modgap.training.checkpoint import (
    all_finished,
    checkpoint,
    finish,
    finished,
    point_best,
    start_run,
    step_folder,
)
from modgap.training.events import Job, Progress, TrainResult
from modgap.training.known_model import known_model
from modgap.training.log import Teller
from modgap.training.setup import (
    VALIDATION,
    check_prompts,
    identities,
    marks,
    reward_of,
    split_validation,
)
from modgap.training.shape import GIB
from modgap.training.verl import merge as verl_merge
from modgap.training.verl.checks import KEPT, Model
from modgap.training.verl.config import notes, stage_overrides
from modgap.training.verl.log import Follower, read_log, why
from modgap.training.verl.plan import (
    compose,
    stage_files,
    twin_views,
    validation_variants,
    variants,
)
from modgap.training.verl.sections import Files


class WriteParquet(Protocol):
    """Writes a parquet file; `modgap.datasets.parquet.write_parquet`."""

    def __call__(
        self,
        problems: Sequence[Problem],
        path: Path,
        variant: str,
        style: Style,
        *,
        source: str,
        beside: Beside | None = None,
    ) -> int:
        """Write the problems, and return the number of rows."""
        ...


_SPEED = re.compile(
    r"gpu_memory_utilization|tensor_model_parallel_size|offload|enforce_eager|free_cache_engine"
    r"|max_num_|num_workers|micro_batch_size|max_token_len|gradient_checkpointing"
    r"|use_dynamic_bsz|use_remove_padding|use_fused_kernels|ulysses|ray_kwargs|transfer_queue|logger|_data_dir"
    r"|max_actor_ckpt_to_keep"
)
"""verl's keys that change only speed, memory or logging: a run may resume with other values. The
number of GPUs must not change, because verl's checkpoints are sharded by it."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Functions and programs that the engine calls; tests replace them.

    Attributes:
        write_parquet: Writes a stage's data.
        runner: The command that trains, given the path of `verl.json`.
        merge: (verl checkpoint, folder, start) -> a Hugging Face folder.
        validate: Runs verl's own checks on a configuration.
    """

    write_parquet: WriteParquet
    runner: tuple[str, ...] = (sys.executable, "-P", "-m", "modgap.training.verl.run")
    merge: Callable[[Path, Path, Path], Path] = verl_merge.merge
    validate: Callable[[Mapping[str, Any]], Any] = compose


def train(
    recipe: Recipe,
    problems: Sequence[Problem],
    model: Model,
    out: Path | str,
    *,
    tools: Tools,
    progress: Progress | None = None,
    job: Job | None = None,
) -> TrainResult:
    """Train a model by a recipe; the same call resumes a run that was killed.

    Args:
        recipe: The recipe, its settings resolved.
        problems: The train split.
        model: Where the first stage starts, a local folder.
        out: Gets `stage1/`, `stage2/`, ...
        tools: What it calls outside of itself.
        progress: Called with every event.
        job: Style of the prompts, validation problems and the like.

    Raises:
        UserError: The configuration cannot work (reported before Ray starts), or verl failed: one
            line with the path of its log.
    """
    recipe.check()
    job = job or Job()
    out, style = Path(out).absolute(), job.style
    train_on, validation = split_validation(recipe, problems, job.validation)
    check_prompts(recipe, train_on, validation, style)
    folders = tuple(out / f"stage{number}" for number in range(1, len(recipe.stages) + 1))
    staged = list(zip(recipe.stages, folders, strict=True))
    gpus = _gpus([stage for stage, folder in staged if finished(folder) is None])
    configure = functools.partial(_overrides, recipe, out, gpus, _gpu_gib())
    _check_stages(staged, model, len(train_on), configure, tools)
    fingerprints = marks(job, train_on, validation)
    identified = _identities(recipe, model.path, job)
    with RunFolder(out).lock():
        start_run(out, recipe, job.given)
        for number, (stage, folder) in enumerate(staged, start=1):
            RunFolder(folder).start("train", identified[number - 1], job.given, **fingerprints)
            teller = Teller(progress, number, len(recipe.stages), stage.settings.steps)
            if finished(folder) is None:
                data = _write_data(
                    stage, stage_files(out, number, stage), train_on, validation, style, tools
                )
                overrides = configure(number, model, data)
                for note in notes(stage, model, overrides):
                    teller.note(note)
                _run_stage(stage, folder, Path(model.path), overrides, teller, tools)
            else:
                teller.step = stage.settings.steps
                teller("stage", f"{stage.title}: done already")
            model = replace(model, path=str(checkpoint(folder, job.start_from)))
    return TrainResult(out, folders, checkpoint(folders[-1]), checkpoint(folders[-1], "best"))


def run(
    recipe: Recipe,
    problems: Sequence[Problem],
    folder: Path,
    out: Path,
    job: Job,
    progress: Progress | None = None,
) -> TrainResult:
    """`train` with the tools of this package, as `modgap.train` calls every engine."""
    from modgap.datasets.parquet import write_parquet
    from modgap.models.lora import merge_adapter

    tools = Tools(
        write_parquet, merge=functools.partial(verl_merge.merge, merge_adapter=merge_adapter)
    )
    return train(
        recipe,
        problems,
        known_model(str(folder), "verl"),
        out,
        tools=tools,
        progress=progress,
        job=job,
    )


def is_complete(
    recipe: Recipe, problems: Sequence[Problem], folder: Path, out: Path, job: Job
) -> bool:
    """Whether `run` would find every stage done; nothing is written.

    Raises:
        UserError: `run` would refuse the folder: it holds another training.
    """
    stages = _identities(recipe, folder, job)
    train_on, validation = split_validation(recipe, problems, job.validation)
    return all_finished(out, recipe, stages, marks(job, train_on, validation))


def _gpus(stages: Sequence[Stage]) -> int:
    """GPUs of this machine, or 8 if every stage that is to train sets its own number.

    Raises:
        UserError: This machine has fewer than a stage asks for, and no cluster is set up.
    """
    import torch

    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    key = "trainer.n_gpus_per_node"
    every: list[dict[str, str]] = []
    for stage in stages:
        every.append({name.lstrip("+"): value for name, value in stage.passed})
    for passed in every:
        joins = (
            _cluster()
            or "ray_kwargs.ray_init.address" in passed
            or passed.get("trainer.device", "cuda") != "cuda"
        )
        each, nodes = passed.get(key, ""), passed.get("trainer.nnodes", "1")
        if not joins and each.isdecimal() and nodes.isdecimal() and int(each) * int(nodes) > here:
            on_nodes = "" if nodes == "1" else f" on {nodes} nodes"
            raise UserError(
                f"verl.{key}={each}{on_nodes}, but this machine has {counted(here, 'GPU')}: give at"
                " most as many, use --engine local, or set RAY_ADDRESS to the Ray cluster that has"
                " them."
            )
    if all(key in passed for passed in every):
        return 8
    if not here:
        raise UserError(
            "verl trains on GPUs and this machine has none: use --engine local, or name the GPUs of"
            " a Ray cluster (RAY_ADDRESS) with --set verl.trainer.n_gpus_per_node=N."
        )
    return here


def _cluster() -> bool:
    """Whether verl joins a Ray cluster: a named one, or one started here with `ray start`."""
    named = os.environ.get("RAY_ADDRESS", "")
    return named not in ("", "local") or _listens(_started_here() or "")


def _started_here() -> str | None:
    """The address that `ray start` has written on this machine, if any; empty if unreadable."""
    file = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "ray", "ray_current_cluster")
    try:
        return file.read_text(errors="replace").strip() if file.is_file() else None
    except OSError:  # another user's: no cluster of ours
        return ""


def _listens(address: str) -> bool:
    """Whether something listens at HOST:PORT: a cluster that was killed leaves its address."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return False
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError):
        return False
    return True


def _gpu_gib() -> float | None:
    """Memory of the smallest visible GPU, or `None` if this machine has none.

    The other nodes of a cluster are taken to have the same. A separate process reads it: in this
    one a CUDA context would stay and use some of the memory.
    """
    code = (
        "import torch.cuda as c; print(min(c.get_device_properties(i).total_memory for i in"
        " range(c.device_count())))"
    )
    import torch

    if not torch.cuda.device_count():
        return None
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )  # fmt: skip
        return float(done.stdout) / GIB
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _overrides(
    recipe: Recipe,
    out: Path,
    gpus: int,
    gpu_gib: float | None,
    number: int,
    model: Model,
    rows: int,
) -> dict[str, Any]:
    stage = recipe.stages[number - 1]
    return stage_overrides(
        stage,
        model,
        stage_files(out, number, stage),
        name=f"{recipe.name}-stage{number}",
        gpus=gpus,
        train_rows=rows,
        gpu_gib=gpu_gib,
    )


def _check_stages(
    staged: Sequence[tuple[Stage, Path]],
    model: Model,
    problems: int,
    configure: Callable[[int, Model, int], dict[str, Any]],
    tools: Tools,
) -> None:
    """Check all stages before the first one trains; the message names the stage.

    Args:
        staged: Each stage with its folder; one that is finished is not configured again.
        model: Where the first stage starts.
        problems: How many are trained on.
        configure: `_overrides` of a stage's number, a model and the rows of its files.
        tools: What validates.
    """
    for number, (stage, folder) in enumerate(staged, start=1):
        reward_of(stage.settings)
        if finished(folder) is None:
            try:
                tools.validate(configure(number, model, problems * len(variants(stage))))
            except UserError as error:
                raise UserError(f"stage {number} ({stage.title}): {error}") from error


def _identities(recipe: Recipe, model: str | Path, job: Job) -> list[dict[str, Any]]:
    """The arguments that identify each stage."""
    found: list[dict[str, Any]] = []
    for stage, identified in zip(recipe.stages, identities(recipe, model, job), strict=True):
        kept = [list(pair) for pair in stage.passed if not _SPEED.search(pair[0])]
        found.append(identified | {"engine": "verl", "verl": kept})
    return found


def _write_data(
    stage: Stage,
    files: Files,
    problems: Sequence[Problem],
    validation: Sequence[Problem],
    style: Style,
    tools: Tools,
) -> int:
    """Write the missing parquet files; returns the number of rows of the training files."""
    wanted: list[tuple[str, str, Sequence[Problem], str]] = []
    for path, name in zip(files.train, variants(stage), strict=True):
        wanted.append((path, name, problems, SOURCE))
    twins, reading = twin_views(stage), bool(stage.reward.reading)
    views = dict(zip(files.train, stage.views, strict=True))
    divided = any(term.rollout for term in stage.objective)
    # verl needs a validation file even if nothing is validated. Its metrics name the source, by
    # which `verl.log` tells the views apart.
    shown = zip(stage.validation_views, validation_variants(stage), strict=True)
    for path, (view, name) in zip(files.validation, shown, strict=True):
        wanted.append((path, name, validation or problems[:1], view))
    for name, variant, chosen, source in wanted:
        path = Path(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            more: dict[str, Any] = {}
            if reading or (name in views and (twins or divided)):
                # Nothing is compared in a validation.
                own = twins if name in views else ()
                more["beside"] = Beside(views.get(name, source), own, reading)
            tools.write_parquet(chosen, partial, variant, style, source=source, **more)
            os.replace(partial, path)
    return len(problems) * len(files.train)


def _run_stage(
    stage: Stage, folder: Path, start: Path, overrides: dict[str, Any], teller: Teller, tools: Tools
) -> None:
    """Train one stage, from its start or from verl's last checkpoint, and merge checkpoints."""
    steps, checkpoints = stage.settings.steps, folder / "verl"
    keep = overrides.get(KEPT)
    teller.step = _saved(checkpoints)
    teller("stage", stage.title)
    if teller.step < steps:
        _launch(folder, overrides, teller, tools)
    if _saved(checkpoints) < steps:
        raise UserError(
            f"verl ended after step {_saved(checkpoints)} of {steps}: its log is"
            f" {folder / 'verl.log'}."
        )
    if keep:  # of a verl that went on alone
        verl_merge.drop_older(checkpoints, keep)
    kept = verl_merge.whole_steps(checkpoints)
    accuracies: dict[int, float] = {}
    for line in read_log(folder / "train_log.jsonl"):
        accuracy = line.get(VALIDATION)
        if accuracy is not None and line["step"] in kept:
            accuracies[line["step"]] = accuracy
    best = max(accuracies, key=lambda step: (accuracies[step], step), default=steps)
    for step in sorted({best, steps}):
        if not (step_folder(folder, step) / "config.json").exists():
            with teller.phase("checkpoint"):
                tools.merge(checkpoints / f"global_step_{step}", step_folder(folder, step), start)
    point_best(folder, best)
    best_pair = [accuracies[best], best] if accuracies else None
    finish(folder, {"stage": teller.stage, "steps": steps, "best": best_pair})
    if keep:
        verl_merge.drop_optimizer(checkpoints)  # a finished stage is not resumed


def _launch(folder: Path, overrides: dict[str, Any], teller: Teller, tools: Tools) -> None:
    """Run verl to its end."""
    # Each launch has a metrics file of its own: verl overwrites an existing one.
    launch = len(list(folder.glob("verl_metrics.*.jsonl"))) + 1
    metrics, log = folder / f"verl_metrics.{launch}.jsonl", folder / "verl.log"
    variables = "ray_kwargs.ray_init.runtime_env.env_vars"
    of_launch: dict[str, Any] = {f"+{variables}.VERL_FILE_LOGGER_PATH": str(metrics)}
    if _saved(Path(overrides["trainer.default_local_dir"])):
        # A resumed verl would validate again, and log it as the step that it resumes from.
        of_launch["trainer.val_before_train"] = False
    keep = overrides.get(KEPT)
    if keep:
        # verl would forget those of earlier launches, and removes the last one before it has saved
        # the position in the data and has named the new one: a kill in between loses both.
        of_launch[KEPT] = None
    address = "ray_kwargs.ray_init.address"
    named = os.environ.get("RAY_ADDRESS") or address in {key.lstrip("+") for key in overrides}
    left = None if named else _started_here()
    if left is not None and not _listens(left):
        # Ray would join the cluster that was killed, or read the address, and fail. `++` also sets
        # a key that verl's configuration has.
        of_launch[f"++{address}"] = "local"
    write_json(folder / "verl.json", overrides | of_launch)

    def report(line: dict[str, Any]) -> None:
        if keep:
            verl_merge.drop_older(folder / "verl", keep)
        teller.step = line["step"]
        teller("step", metrics=line)

    begin = log.stat().st_size if log.exists() else 0
    environment = {
        "PYTHONUNBUFFERED": "1",
        "HYDRA_FULL_ERROR": "1",
    }
    # With -P nothing is imported from the working folder; a reward function of the user's may be
    # there.
    if any(key.endswith("reward_kwargs.function") for key in overrides):
        paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(Path.cwd())]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    for key, value in json.loads((folder / "verl.json").read_text("utf-8")).items():
        if key.lstrip("+").startswith(f"{variables}."):
            environment[key.rpartition(".")[2]] = str(value)
    limit, prompts = overrides["data.max_response_length"], overrides["data.train_batch_size"]
    numbers = teller.stage, limit, prompts
    train_log = folder / "train_log.jsonl"
    # If an earlier process was killed before its verl was, verl has logged steps that it missed.
    for earlier in range(1, launch):
        Follower(folder / f"verl_metrics.{earlier}.jsonl", train_log, *numbers)()
    follow = Follower(metrics, train_log, *numbers, report)
    status = watched([*tools.runner, str(folder / "verl.json")], log, environment, follow)
    if status:
        raise UserError(
            f"verl failed after step {teller.step}: {why(log, begin)}. Its log is {log}."
        )


def _saved(checkpoints: Path) -> int:
    """The last step that verl saved completely, and from which it resumes; 0 before the first.

    verl reads its number from a file: one that is empty or broken is written again.
    """
    step, latest = verl_merge.saved_step(checkpoints), checkpoints / verl_merge.LATEST
    if not step:
        latest.unlink(missing_ok=True)
    elif not latest.is_file() or latest.read_text(errors="replace").strip() != str(step):
        write_text(latest, str(step))
    return step
