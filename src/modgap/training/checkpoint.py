"""Checkpoints of a stage; a kill at any moment loses no saved step and duplicates nothing.

```
stageN/checkpoints/step_N/   Hugging Face folder
stageN/checkpoints/best      link to the one with the highest validation accuracy (without
                             validation: the last one)
stageN/state.pt              trained weights, optimizer, RNG, position in the data, length of the
                             logs; removed at the end
stageN/result.json           marks the stage as done
manifest.json                which recipe the stages belong to, and how many it has
```

`state.pt` and `result.json` contain the stage's mark (`RunFolder.mark`): beside another run's
manifest they are refused.

First the checkpoint's folder is written, then `state.pt`; each is moved into place when it is
complete. Steps after the last `state.pt` are discarded: the logs are cut back to it, and the steps
run again. Ctrl-C and `kill` write a `state.pt` of the last step; `kill -9` cannot.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modgap.core.disk import replacing
from modgap.core.errors import UserError
from modgap.core.json_files import read_json, write_json
from modgap.core.places import RESTORE
from modgap.core.recipe import Recipe
from modgap.core.record import RunFolder
from modgap.training.events import TrainablePolicy
from modgap.training.teachers import Teachers

Pointer = str
"""`last` or `best`."""


def step_folder(stage: Path, step: int) -> Path:
    """The checkpoint of a step."""
    return stage / "checkpoints" / f"step_{step}"


def save_weights(policy: TrainablePolicy, stage: Path, step: int) -> Path:
    """Write the checkpoint of a step; an existing one is replaced."""
    final = step_folder(stage, step)
    # An existing one was written just before a kill; the state is older, so nothing refers to it.
    with replacing(final) as temporary:
        temporary.mkdir(parents=True)
        policy.save(temporary)
    return final


def point_best(stage: Path, step: int) -> None:
    """Link `checkpoints/best` to the checkpoint of a step."""
    link = stage / "checkpoints" / "best"
    with replacing(link) as temporary:
        temporary.symlink_to(f"step_{step}", target_is_directory=True)


def save_state(
    path: Path,
    policy: TrainablePolicy,
    optimizer: torch.optim.Optimizer,
    teachers: Teachers,
    **numbers: Any,
) -> None:
    """Write everything that a bit-equal resume needs.

    Args:
        path: `state.pt`.
        policy: The policy; its trained weights are saved in the type they are trained in. The
            frozen ones come from the stage's start.
        optimizer: The optimizer; its moments are saved.
        teachers: Their averages are saved.
        **numbers: Step, position in the data, lengths of the logs, best validation.
    """
    parameters, device = policy.model.named_parameters(), policy.device
    state = {
        "weights": {name: p.detach() for name, p in parameters if p.requires_grad},
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
        "run": RunFolder(path.parent).mark(),
        **numbers,
    }
    if averages := teachers.state():
        state["teachers"] = averages
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


class LastStep:
    """The state after the last step, written when a save is due and on an interrupt.

    It is not written if the interrupt comes while an optimizer changes the weights, or before the
    step of these changes is done. The weights then belong to no step, and the earlier `state.pt`
    stays. Use it as a context.

    Args:
        path: `state.pt`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: Callable[[], None] | None = None

    def changing(self) -> None:
        """Weights and moments are about to change: the pending state is no longer valid."""
        self._pending = None

    def done(
        self,
        write: bool,
        policy: TrainablePolicy,
        optimizer: torch.optim.Optimizer,
        teachers: Teachers,
        **numbers: Any,
    ) -> None:
        """A step is done: write its state now, or keep it for an interrupt; see `save_state`."""
        self._pending = lambda: save_state(self._path, policy, optimizer, teachers, **numbers)
        if write:
            self._pending()
            self._pending = None

    def __enter__(self) -> LastStep:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pending, self._pending = self._pending, None
        if pending and kind is KeyboardInterrupt:
            pending()


def load_state(
    path: Path, policy: TrainablePolicy, optimizer: torch.optim.Optimizer, teachers: Teachers
) -> dict[str, Any]:
    """Restore what `save_state` wrote, and return the numbers.

    The frozen weights of `teachers` are those that the stage starts from, and stay.

    Raises:
        UserError: The state is of another run, or damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        _check_mark(path, state.pop("run", ""))
        _restore(state, policy, optimizer)
        teachers.restore(state.pop("teachers", {}))
        _check_numbers(state)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch's own words recommend to load it without its safeguard
        raise UserError(
            f"{path} is damaged ({type(error).__name__}): put it back from a copy, or remove it to"
            " train this stage again from its start."
        ) from error
    return state


def _restore(
    state: dict[str, Any], policy: TrainablePolicy, optimizer: torch.optim.Optimizer
) -> None:
    """Take weights, moments and RNG out of a state."""
    weights = state.pop("weights")
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])
    optimizer.load_state_dict(state.pop("optimizer"))
    torch.set_rng_state(state.pop("rng"))
    # Older states have the RNG of every GPU that was visible; fewer or others may be now.
    seen, device = state.pop("cuda_rng"), policy.device
    if seen and device.type == "cuda":
        torch.cuda.set_rng_state(seen[min(device.index or 0, len(seen) - 1)], device)


def _check_numbers(state: Mapping[str, Any]) -> None:
    for name in ("step", "position", "micro"):
        if not isinstance(state[name], int):
            raise TypeError(name)
    first, second = state["lengths"]
    if not (isinstance(first, int) and isinstance(second, int)):
        raise TypeError("lengths")
    if state["best"] is not None:
        accuracy, step = state["best"]
        if not (isinstance(accuracy, float) and isinstance(step, int)):
            raise TypeError("best")


def finish(stage: Path, result: dict[str, Any]) -> None:
    """Mark the stage as done; its `state.pt` is no longer needed."""
    write_json(stage / "result.json", result | {"run": RunFolder(stage).mark()})
    (stage / "state.pt").unlink(missing_ok=True)


def finished(stage: Path) -> dict[str, Any] | None:
    """What `finish` wrote, or `None` for a stage that is not done.

    Raises:
        UserError: The result is of another run.
    """
    path = stage / "result.json"
    if not path.exists():
        return None
    result: dict[str, Any] = read_json(path)
    _check_mark(path, result.get("run", ""))
    return result


def _check_mark(path: Path, mark: str) -> None:
    """Refuse a stage's file that was written under another manifest; older ones have no mark.

    A stage without a manifest is refused where it is started.
    """
    there = RunFolder(path.parent).mark()
    if mark and there and mark != there:
        raise UserError(
            f"{path} is of another run than the manifest.json beside it. Remedy: {RESTORE}."
        )


def checkpoint(stage: Path, which: Pointer = "last") -> Path:
    """The last or the best checkpoint of a stage.

    Raises:
        UserError: The stage has no checkpoint.
    """
    folder = stage / "checkpoints"
    if which == "best" and (folder / "best").exists():
        return (folder / "best").resolve()
    named = (re.fullmatch(r"step_(\d+)", path.name) for path in folder.glob("step_*"))
    steps = [int(match[1]) for match in named if match]
    if not steps:
        raise UserError(
            f"{stage} has no checkpoint: train it first, or give the folder of a training run."
        )
    return step_folder(stage, max(steps))


def start_run(out: Path, recipe: Recipe, given: Mapping[str, object] | None = None) -> None:
    """Start a training run, or resume it.

    The run's manifest has the number of stages. The stages' manifests do not, because other recipes
    may share the stages.

    Raises:
        UserError: The folder holds another recipe's stages, or another kind of run.
    """
    RunFolder(out).start("train", _identity(recipe), given)


def _identity(recipe: Recipe) -> dict[str, Any]:
    return {"recipe": recipe.name, "stages": [stage.title for stage in recipe.stages]}


def all_finished(
    out: Path,
    recipe: Recipe,
    stages: Sequence[Mapping[str, Any]],
    marks: Mapping[str, str | None],
) -> bool:
    """Whether every stage of a training is done; nothing is written.

    Args:
        out: The run's folder.
        recipe: The recipe.
        stages: What identifies each stage.
        marks: The fingerprints of all of them.

    Raises:
        UserError: As `start_run`; or a stage was begun with other arguments.
    """
    done = RunFolder(out).holds("train", _identity(recipe))
    for number, resolved in enumerate(stages, start=1):
        folder = out / f"stage{number}"
        begun = RunFolder(folder).holds("train", resolved, **marks)
        done = begun and finished(folder) is not None and done
    return done


def final_checkpoint(run: Path | str, which: Pointer = "last") -> Path:
    """The final checkpoint of a training run: of its last stage, or of the run if it is a stage.

    Args:
        run: The `--out` of `modgap train`, or one `stageN` of it.
        which: `last` or `best`.

    Raises:
        UserError: It is not a training run, or it is not finished.
    """
    run = Path(run)
    last = run
    if (run / "manifest.json").exists():
        titles = RunFolder(run).manifest().get("resolved", {}).get("stages")
        last = run / f"stage{len(titles)}" if titles else run
    if finished(last) is None:
        raise UserError(
            f"{run} holds no finished training run: give its `modgap train` command again to"
            " finish it."
        )
    return checkpoint(last, which)
