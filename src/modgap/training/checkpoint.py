"""Checkpoints of a stage, written so that a kill at any moment loses nothing and makes nothing
twice.

```
stageN/checkpoints/step_N/   Hugging Face folder
stageN/checkpoints/best      link to the one with the highest validation accuracy (the last one, without validation)
stageN/state.pt              trained weights, optimizer, RNG, place in the data, length of the logs; gone at the end
stageN/result.json           the stage is done
manifest.json                which recipe the stages belong to, and how many it has
```

`state.pt` and `result.json` carry the stage's mark (`RunFolder.mark`): beside another run's
manifest they are refused.

A checkpoint is first the folder, then `state.pt`, each moved into place when it is whole. What
happened after the last `state.pt` is forgotten: the logs are cut back to it, and the steps are done
again. Ctrl-C and `kill` write one of the last step; `kill -9` cannot.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from modgap.core.errors import UserError
from modgap.core.recipe import Recipe
from modgap.core.record import RESTORE, RunFolder, read_json, write_json
from modgap.training.events import TrainablePolicy

Pointer = str
"""`last` or `best`."""


def step_folder(stage: Path, step: int) -> Path:
    """The checkpoint of a step."""
    return stage / "checkpoints" / f"step_{step}"


def save_weights(policy: TrainablePolicy, stage: Path, step: int) -> Path:
    """Write the checkpoint of a step; one that is there already is replaced."""
    final = step_folder(stage, step)
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    policy.save(temporary)
    if final.exists():  # written just before a kill; the state is older, so nothing refers to it
        shutil.rmtree(final)
    os.replace(temporary, final)
    return final


def point_best(stage: Path, step: int) -> None:
    """Let `checkpoints/best` name the checkpoint of a step."""
    link = stage / "checkpoints" / "best"
    temporary = link.with_name(".best.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(f"step_{step}", target_is_directory=True)
    os.replace(temporary, link)


def save_state(
    path: Path, policy: TrainablePolicy, optimizer: torch.optim.Optimizer, **numbers: Any
) -> None:
    """Write everything that going on bit-equal needs.

    Args:
        path: `state.pt`.
        policy: Its trained weights, in the type they are trained in (the frozen ones come from the
            stage's start).
        optimizer: Its moments.
        **numbers: Step, place in the data, lengths of the logs, best validation.
    """
    state = {
        "weights": {
            name: p.detach() for name, p in policy.model.named_parameters() if p.requires_grad
        },
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "run": RunFolder(path.parent).mark(),
        **numbers,
    }
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class LastStep:
    """The state after the last step: written when the step says so, and when the run is
    interrupted.

    Not if that happens while an optimizer changes the weights, or before the step that it belongs
    to is done: then they are those of no step, and what was written before counts. Use it as a
    context.

    Args:
        path: `state.pt`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: Callable[[], None] | None = None

    def changing(self) -> None:
        """Weights and moments change from here on."""
        self._pending = None

    def done(
        self, write: bool, policy: TrainablePolicy, optimizer: torch.optim.Optimizer, **numbers: Any
    ) -> None:
        """A step is done; see `save_state`."""
        self._pending = lambda: save_state(self._path, policy, optimizer, **numbers)
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
    path: Path, policy: TrainablePolicy, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put back what `save_state` wrote; the numbers are returned.

    Raises:
        UserError: It is another run's.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    _check_mark(path, state.pop("run", ""))
    weights = state.pop("weights")
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])
    optimizer.load_state_dict(state.pop("optimizer"))
    torch.set_rng_state(state.pop("rng"))
    if cuda := state.pop("cuda_rng"):
        torch.cuda.set_rng_state_all(cuda)
    return state


def finish(stage: Path, result: dict[str, Any]) -> None:
    """Mark the stage as done; its optimizer is needed no more."""
    write_json(stage / "result.json", result | {"run": RunFolder(stage).mark()})
    (stage / "state.pt").unlink(missing_ok=True)


def finished(stage: Path) -> dict[str, Any] | None:
    """What `finish` wrote, or `None` for a stage that is not done.

    Raises:
        UserError: It is another run's.
    """
    path = stage / "result.json"
    if not path.exists():
        return None
    result: dict[str, Any] = read_json(path)
    _check_mark(path, result.get("run", ""))
    return result


def _check_mark(path: Path, mark: str) -> None:
    """Refuse a stage's file that was written under another manifest; older ones have no mark.

    A stage without a manifest is refused where it is begun.
    """
    there = RunFolder(path.parent).mark()
    if mark and there and mark != there:
        raise UserError(
            f"{path} is of another run than the manifest.json beside it. Remedy: {RESTORE}."
        )


def checkpoint(stage: Path, which: Pointer = "last") -> Path:
    """The last or the best checkpoint of a stage.

    Raises:
        UserError: It has none.
    """
    folder = stage / "checkpoints"
    if which == "best" and (folder / "best").exists():
        return (folder / "best").resolve()
    steps = [
        int(m[1]) for path in folder.glob("step_*") if (m := re.fullmatch(r"step_(\d+)", path.name))
    ]
    if not steps:
        raise UserError(
            f"{stage} has no checkpoint: train it first, or give the folder of a training run."
        )
    return step_folder(stage, max(steps))


def start_run(out: Path, recipe: Recipe, given: Mapping[str, Any] | None = None) -> None:
    """Begin a training run, or go on with it.

    The number of stages is kept here and not in the stages, which other recipes may share.

    Raises:
        UserError: The folder holds another recipe's stages, or another kind of run.
    """
    RunFolder(out).start(
        "train", {"recipe": recipe.name, "stages": [stage.title for stage in recipe.stages]}, given
    )


def final_checkpoint(run: Path | str, which: Pointer = "last") -> Path:
    """The checkpoint that a training run ends with: of its last stage, or of the run itself if it
    is one stage.

    Args:
        run: The `--out` of `modgap train`, or one `stageN` of it.
        which: `last` or `best`.

    Raises:
        UserError: It is no training run, or it is not finished.
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
