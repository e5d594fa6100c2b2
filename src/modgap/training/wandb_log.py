"""Sends the steps of a training to Weights & Biases, whichever engine trains.

Both engines report the line of train_log.jsonl with each step (`events.Event`), so the metrics have
the same names. Each stage is a run of its own in a group of the training's name: its steps begin at
1. A stage that resumes continues its run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core.errors import UserError
from modgap.core.progress import say, warn
from modgap.core.record import RunFolder

if TYPE_CHECKING:
    from modgap.training.events import Event

PROJECT = "modgap"
"""The project; `WANDB_PROJECT` names another one."""


def check_key() -> None:
    """Refuse an installation of wandb that has no key, unless it is offline. Raises `UserError`."""
    import wandb  # pyright: ignore[reportMissingImports] - an extra

    if _mode() == "online" and not wandb.login(prompt=False):
        raise UserError(
            "--log wandb: no key of Weights & Biases is configured: give `wandb login`, or set"
            " WANDB_MODE=offline."
        )


class WandbLog:
    """Receives the events of a training, sends its steps and passes the events on.

    What Weights & Biases cannot take never ends a training: train_log.jsonl has every step.

    Args:
        out: The training's folder.
        passed: What receives the events, too.
    """

    def __init__(self, out: Path, passed: Callable[[Event], None]) -> None:
        import wandb  # pyright: ignore[reportMissingImports] - an extra

        self._wandb: Any = wandb
        self._out, self._passed = out, passed
        self._run: Any = None
        self._stage = 0

    def __call__(self, event: Event) -> None:
        """Send a step; pass every event on."""
        if event.kind == "step":
            self._step(event)
        self._passed(event)

    def close(self, failed: bool = False) -> None:
        """End the run of the stage."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
        self._run = None

    def _step(self, event: Event) -> None:
        if event.stage != self._stage:
            self.close()
            self._stage = event.stage
            self._begin(event)
        if self._run is None:
            return
        line = {name: value for name, value in event.metrics.items() if _is_number(value)}
        step = line.pop("step", event.step)
        self._run.log({"step": step, **{_grouped(name): value for name, value in line.items()}})

    def _begin(self, event: Event) -> None:
        """Begin or resume the run of a stage."""
        folder = self._out / f"stage{event.stage}"
        manifest = RunFolder(folder).manifest()
        name = self._out.resolve().name
        # The same stage in the same folder is the same run; a copy elsewhere is another one.
        mark = f"{RunFolder(folder).mark()} {manifest.get('created')} {folder.resolve()}"
        try:
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                group=name,
                name=f"{name} stage {event.stage}" if event.stages > 1 else name,
                id=hashlib.sha256(mark.encode()).hexdigest()[:16],
                resume="allow",
                dir=str(folder),
                config=manifest.get("resolved", {}),
                settings=self._wandb.Settings(silent=True, console="off"),
            )
            # A stage that resumes may repeat steps, which wandb's own step counter does not allow.
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
        except self._wandb.Error as error:
            why = " ".join(str(error).split())
            warn(f"--log wandb: {why}; this stage is in train_log.jsonl only")
            self._run = None
            return
        if _mode() == "online":
            say(f"Weights & Biases: {self._run.url}")
        else:
            say(f"Weights & Biases, {_mode()}: {folder / 'wandb'}")


def _mode() -> str:
    return os.environ.get("WANDB_MODE", "online")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _grouped(name: str) -> str:
    """The name of a metric in its panel, as TensorBoard has it."""
    return f"{'time' if name.startswith('time_') else 'train'}/{name}"
