"""verl's log and metrics -> a run's `train_log.jsonl`, and the one line that says why it failed."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.files import open_own
from modgap.training.setup import VALIDATION_VIEW, validation_metrics
from modgap.training.verl.plan import VARIANTS
from modgap.training.verl.run import ERROR

FILTERED = "training/filter_groups"
METRICS = {
    "reward": "critic/score/mean",
    "length_mean": "response_length/mean",
    "length_max": "response_length/max",
    "truncated": "response_length/clip_ratio",
    "loss": "actor/loss",
    "grad_norm": "actor/grad_norm",
    "lr": "actor/lr",
    "entropy": "actor/entropy",
    "clip_dual": "actor/pg_clipfrac_lower",
    "contrastive_kl": "actor/contrastive_kl",
    "kl_clamped": "actor/kl_clamped",
    "eligible_rows": "actor/eligible_rows",
    "dropped_groups": f"{FILTERED}/evicted_samples",
    "epoch": "training/epoch",
    "time_total": "perf/time_per_step",
    "time_rollout": "timing_s/gen",
    "time_logprobs": "timing_s/old_log_prob",
    "time_update": "timing_s/update_actor",
    "time_validation": "timing_s/testing",
    "time_checkpoint": "timing_s/save_checkpoint",
}
"""Our name of a metric -> verl's. `eligible_rows` is verl's mean over the updates of a step."""
_TERM = re.compile(r"actor/(term\d+(?:_clamped|_rows)?)")
DROPPED_REWARD = f"{FILTERED}/evicted_reward/mean"
"""Set by the plugin: the mean reward of the groups that a step dropped."""

# A pattern in the log -> what to try.
_CAUSES = (
    (
        r"out of memory|OutOfMemoryError",
        "in the update a smaller --set verl.actor_rollout_ref.actor.ppo_max_token_len_per_gpu=N"
        " (or micro_batch=N, if you gave one), or"
        " verl.actor_rollout_ref.model.enable_gradient_checkpointing=True; when vLLM wakes up a"
        " smaller verl.actor_rollout_ref.rollout.gpu_memory_utilization=F",
    ),
    (
        r"No available memory for the cache blocks|less than desired GPU memory utilization",
        "another --set verl.actor_rollout_ref.rollout.gpu_memory_utilization=F, or free the GPU",
    ),
    (
        r"Total available GPUs .* is less than total desired GPUs"
        r"|No available node types can fulfill",
        "--set verl.trainer.n_gpus_per_node=N and verl.trainer.nnodes=N as the cluster has them",
    ),
)


def metrics_line(
    step: int, data: Mapping[str, Any], stage: int, limit: int, prompts: int
) -> dict[str, Any]:
    """A line of train_log.jsonl from verl's metrics of a step.

    Numbers that are not finite become null. verl's reward is the mean over the groups it trains on.
    Ours is the mean over all sampled groups, as in the local engine: without the groups that are
    all right the mean hardly rises. Groups that verl sampled beyond a full step are counted with
    the reward of the kept ones, because verl does not report their own. verl's `clip_ratio` is the
    share of responses that are as long as the longest of the step. They are truncated only if the
    longest has `limit` tokens.

    Args:
        step: The step of the stage.
        data: verl's metrics.
        stage: The stage's number.
        limit: Its `max_response_tokens`.
        prompts: Its `prompts_per_step`.
    """
    line: dict[str, Any] = {"step": step, "stage": stage}
    accuracies: dict[str, float] = {}
    for key, value in data.items():
        if found := re.fullmatch(r"val-(?:core|aux)/(.*)/acc/mean@1", key):
            # The files of older runs, all image-only, name another source.
            view = found[1] if found[1] in VARIANTS else VALIDATION_VIEW
            accuracies[view] = value
    validated = validation_metrics(accuracies)
    if step == 0:  # the validation before the first step: nothing was sampled
        return line | validated
    for ours, theirs in METRICS.items():
        if isinstance(value := data.get(theirs), int | float):
            line[ours] = value if math.isfinite(value) else None
    for key, value in data.items():
        if (term := _TERM.fullmatch(key)) and isinstance(value, int | float):
            line[term[1]] = value if math.isfinite(value) else None
    dropped = line.setdefault("dropped_groups", 0)
    kept = prompts + data.get(f"{FILTERED}/discarded_surplus_samples", 0)
    line["sampled_groups"] = kept + dropped
    if dropped and line.get("reward") is not None:
        other = data.get(DROPPED_REWARD)  # absent in the metrics of older launches
        if other is None:
            line["reward"] = None
        else:
            line["reward"] = (kept * line["reward"] + dropped * other) / (kept + dropped)
    if line.get("length_max", limit) < limit:
        line["truncated"] = 0.0
    return line | validated


class Follower:
    """Turns verl's metrics file into train_log.jsonl while it grows.

    Args:
        source: verl's metrics of this launch.
        log: The run's train_log.jsonl; lines of repeated steps are dropped.
        stage: The stage's number.
        limit: Its `max_response_tokens`.
        prompts: Its `prompts_per_step`.
        report: Called with each new line.
    """

    def __init__(
        self,
        source: Path,
        log: Path,
        stage: int,
        limit: int,
        prompts: int,
        report: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._source, self._log, self._report, self._at = source, log, report, 0
        self._numbers = stage, limit, prompts

    def __call__(self) -> None:
        """Read the new lines of the source."""
        if not self._source.exists():
            return
        with self._source.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        for text in whole.splitlines():
            entry = json.loads(text)
            line = metrics_line(entry["step"], entry["data"], *self._numbers)
            if not self._at:
                kept = [old for old in read_log(self._log) if old["step"] < line["step"]]
                self._log.write_text(
                    "".join(f"{json.dumps(old)}\n" for old in kept), encoding="utf-8"
                )
            self._at += len(text) + 1
            with open_own(self._log, os.O_APPEND) as log:
                log.write(f"{json.dumps(line)}\n".encode())
            if self._report:
                self._report(line)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a train_log.jsonl; none if there is no file. An incomplete last one is left out.

    Raises:
        UserError: Another line is broken.
    """
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    *whole, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, start=1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("step"), int):
            raise UserError(f"{path} line {number}: is not a step of a training: remove that line.")
        lines.append(found)
    return lines


def why(log: Path, start: int = 0) -> str:
    """Why verl failed, in one sentence, with a remedy if one is known.

    Args:
        log: The output of verl and its workers.
        start: The byte at which this launch starts.
    """
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    for pattern, remedy in _CAUSES:
        if found := re.search(rf"[^\n]*(?:{pattern})[^\n]*", text):
            return f"{_plain(found[0])} (try {remedy})"
    # A failed rollout is reported late, as a batch without trajectories, so look for its own error
    # first.
    if found := re.search(
        r"Error in _run_prompt.*?\n[^\n]*?(\w+(?:Error|Exception): [^\n]+)", text, re.S
    ):
        return f"a rollout failed: {_plain(found[1])}"
    reported = [line for line in text.splitlines() if ERROR in line]
    if reported:
        return _plain(reported[-1].partition(ERROR)[2])
    lines = [line for line in text.splitlines() if line.strip()]
    return _plain(lines[-1]) if lines else "it said nothing"


def _plain(line: str) -> str:
    """A line without colours and without Ray's `(Worker pid=1)`."""
    line = re.sub(r"\x1b\[[0-9;]*m", "", line)
    return re.sub(r"^\s*\([^)]*pid=[^)]*\)\s*", "", line).strip()[:300]
