"""The logs of a stage: one line for each step, one for each rollout, and TensorBoard."""

from __future__ import annotations

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from modgap.core.disk import writing
from modgap.core.files import open_own
from modgap.core.installation import is_installed
from modgap.training.events import Event, EventKind, Progress
from modgap.training.rollout import Group

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class StageLog:
    """Appends to `train_log.jsonl`, `rollouts.jsonl` and, if it is installed, `tensorboard/`.

    Args:
        folder: The stage's folder.
        step: The step of the state that the stage resumes from; 0 at the start.
        lengths: Bytes of the two files at that step. Later bytes were logged after it and are cut
            off.
    """

    def __init__(self, folder: Path, step: int = 0, lengths: Sequence[int] = (0, 0)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._steps = _open_at(folder / "train_log.jsonl", lengths[0])
        self._rollouts = _open_at(folder / "rollouts.jsonl", lengths[1])
        self._board: SummaryWriter | None = None
        if is_installed("tensorboard"):
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    @property
    def lengths(self) -> list[int]:
        """Bytes of the two files, after they are flushed to disk."""
        for file in (self._steps, self._rollouts):
            file.flush()
            os.fsync(file.fileno())
        return [self._steps.tell(), self._rollouts.tell()]

    def step(self, metrics: Mapping[str, Any]) -> None:
        """One line of train_log.jsonl; a number that is not finite becomes null."""
        line = dict(metrics)
        for name, value in metrics.items():
            if isinstance(value, float) and not math.isfinite(value):
                line[name] = None  # JSON has neither infinities nor NaN
        _append(self._folder / "train_log.jsonl", self._steps, line)
        if self._board is None:
            return
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step":
                group = "time" if name.startswith("time_") else "train"
                self._board.add_scalar(f"{group}/{name}", value, metrics["step"])
        self._board.flush()

    def rollouts(self, step: int, groups: Sequence[Group], used: Sequence[Group]) -> None:
        """One line of rollouts.jsonl for each response."""
        chosen = {id(group) for group in used}
        for group in groups:
            for n, response in enumerate(group.responses):
                row = {
                    "step": step,
                    "problem_id": group.problem.id,
                    "view": group.view,
                    "sample": n,
                    "prompt": group.words.text,
                    "response": response.text,
                    "gold": group.problem.answer,
                    "score": float(group.scores_N[n]),
                    "accuracy": float(group.acc_N[n]),
                    "format": float(group.format_N[n]),
                    "reward": float(group.rewards_N[n]),
                    "used": id(group) in chosen,
                    "finish_reason": response.finish_reason,
                    "completion_tokens": len(response.token_ids),
                    "seed": group.seeds[n],
                }
                if len(group.reading_N) and not group.reading_N[n].isnan():
                    row["reading"] = float(group.reading_N[n])
                _append(self._folder / "rollouts.jsonl", self._rollouts, row)

    def close(self) -> None:
        """Close the files."""
        self._steps.close()
        self._rollouts.close()
        if self._board is not None:
            self._board.close()


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """`time_PHASE` for each, and `time_total`."""
        seconds = {**self.seconds, "total": sum(self.seconds.values())}
        return {f"time_{name}": round(value, 4) for name, value in seconds.items()}


class Teller:
    """Reports the run's progress and times its phases."""

    def __init__(self, progress: Progress | None, stage: int, stages: int, steps: int) -> None:
        self.stage, self.stages, self.step, self.clock = stage, stages, 0, Clock()
        self._progress, self._steps, self._said = progress, steps, False

    def __call__(
        self, kind: EventKind, text: str = "", metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Report an event."""
        if self._progress is not None:
            self._progress(
                Event(kind, self.stage, self.stages, self.step, self._steps, text, metrics or {})
            )

    def phase(self, name: str) -> Any:
        """Report that a phase of the step begins, and time it; use it as a context."""
        self("phase", name)
        return self.clock.phase(name)

    def note(self, text: str) -> None:
        """Report a message for the user."""
        self("note", text)

    def once(self, text: str) -> None:
        """Report a message only the first time that this is called."""
        if not self._said:
            self.note(text)
        self._said = True


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Metrics of the sampled groups: rewards, lengths, truncation."""
    responses = [response for group in groups for response in group.responses]
    lengths = [len(response.token_ids) for response in responses]
    count = max(1, len(responses))

    def mean(name: str) -> float:
        return sum(float(getattr(group, name).sum()) for group in groups) / count

    return {
        **_reading_metrics(groups),
        "reward": mean("rewards_N"),
        "accuracy": mean("acc_N"),
        "format": mean("format_N"),
        "mixed_share": sum(group.mixed for group in groups) / max(1, len(groups)),
        "length_mean": sum(lengths) / count,
        "length_max": max(lengths, default=0),
        "truncated": sum(response.finish_reason == "length" for response in responses) / count,
    }


def _reading_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """The mean share of the conditions read, where that is rewarded.

    Samples of problems with nothing to read are counted and left out.
    """
    if not groups or not len(groups[0].reading_N):
        return {}
    every = [float(share) for group in groups for share in group.reading_N]
    read = [share for share in every if not math.isnan(share)]
    found = {"nothing_to_read": float(len(every) - len(read))}
    return found | ({"reading": sum(read) / len(read)} if read else {})


def _append(path: Path, file: BinaryIO, row: Mapping[str, Any]) -> None:
    with writing(path):
        # A model can write half of a surrogate pair, which cannot be encoded.
        file.write(json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n")
        file.flush()


def _open_at(path: Path, length: int) -> BinaryIO:
    file = open_own(path, os.O_APPEND)
    file.truncate(min(length, os.fstat(file.fileno()).st_size))
    return file
