"""verl's log and metrics -> a run's `train_log.jsonl`, and the one line that says why it failed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modgap.training.verl.run import ERROR

FILTERED = "training/filter_groups"
METRICS = {
    "reward": "critic/score/mean", "length_mean": "response_length/mean", "length_max": "response_length/max",
    "truncated": "response_length/clip_ratio", "loss": "actor/loss", "grad_norm": "actor/grad_norm",
    "lr": "actor/lr", "entropy": "actor/entropy", "clip_dual": "actor/pg_clipfrac_lower",
    "contrastive_kl": "actor/contrastive_kl", "kl_clamped": "actor/kl_clamped",
    "eligible_rows": "actor/eligible_rows", "dropped_groups": f"{FILTERED}/evicted_samples",
    "epoch": "training/epoch", "time_total": "perf/time_per_step",
    "time_rollout": "timing_s/gen", "time_logprobs": "timing_s/old_log_prob", "time_update": "timing_s/update_actor",
    "time_validation": "timing_s/testing", "time_checkpoint": "timing_s/save_checkpoint",
}  # fmt: skip
"""Our name of a metric -> verl's. `eligible_rows` is verl's mean over the updates of a step."""
DROPPED_REWARD = f"{FILTERED}/evicted_reward/mean"
"""The plugin's: the mean reward of the groups that a step dropped."""

_CAUSES = (
    (r"out of memory|OutOfMemoryError", "a smaller --set micro_batch=N or verl.actor_rollout_ref.rollout."
     "gpu_memory_utilization=F, or param_offload=True and optimizer_offload=True in verl.actor_rollout_ref.actor."
     "fsdp_config"),
    (r"No available memory for the cache blocks|less than desired GPU memory utilization",
     "another --set verl.actor_rollout_ref.rollout.gpu_memory_utilization=F, or free the GPU"),
    (r"Total available GPUs .* is less than total desired GPUs|No available node types can fulfill",
     "--set verl.trainer.n_gpus_per_node=N and verl.trainer.nnodes=N as the cluster has them"),
)  # fmt: skip


def metrics_line(
    step: int, data: Mapping[str, Any], stage: int, limit: int, prompts: int
) -> dict[str, Any]:
    """A line of train_log.jsonl from what verl logged of a step; numbers that are not finite become
    null.

    verl's reward is that of the groups it trains on; ours is that of all that were sampled, as in
    the local engine, for the mean over groups without those that are all right hardly rises. What
    verl sampled beyond a full step counts as its kept groups do: it does not say more of those.
    verl's `clip_ratio` is the share of responses that are as long as the longest of the step,
    whatever that is: only where the longest reaches `limit` tokens are they truncated ones.

    Args:
        step: Of the stage.
        data: verl's metrics.
        stage: The stage's number.
        limit: Its `max_response_tokens`.
        prompts: Its `prompts_per_step`.
    """
    line: dict[str, Any] = {"step": step, "stage": stage}
    for ours, theirs in METRICS.items():
        if isinstance(value := data.get(theirs), int | float):
            line[ours] = value if math.isfinite(value) else None
    dropped = line.setdefault("dropped_groups", 0)
    kept = prompts + data.get(f"{FILTERED}/discarded_surplus_samples", 0)
    line["sampled_groups"] = kept + dropped
    if dropped and line.get("reward") is not None:
        other = data.get(DROPPED_REWARD)  # not told by an older launch
        line["reward"] = (
            None if other is None else (kept * line["reward"] + dropped * other) / (kept + dropped)
        )
    if line.get("length_max", limit) < limit:
        line["truncated"] = 0.0
    for key, value in data.items():
        if re.fullmatch(r"val-(core|aux)/.*/acc/mean@1", key):
            line["validation_accuracy"] = value
    return line


class Follower:
    """Turns verl's metrics file into train_log.jsonl while it grows.

    Args:
        source: verl's metrics of this launch.
        log: The run's train_log.jsonl; lines of steps that are done again are dropped.
        stage: The stage's number.
        limit: Its `max_response_tokens`.
        prompts: Its `prompts_per_step`.
        told: Is given each new line.
    """

    def __init__(
        self,
        source: Path,
        log: Path,
        stage: int,
        limit: int,
        prompts: int,
        told: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._source, self._log, self._told, self._at = source, log, told, 0
        self._numbers = stage, limit, prompts

    def __call__(self) -> None:
        """Take what is new."""
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
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"{json.dumps(line)}\n")
            if self._told:
                self._told(line)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a train_log.jsonl; none where there is none."""
    return (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    )


def why(log: Path, start: int = 0) -> str:
    """Why verl failed, in a sentence with a remedy where one is known.

    Args:
        log: What it and its workers said.
        start: Where this launch began.
    """
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    for pattern, remedy in _CAUSES:
        if found := re.search(rf"[^\n]*(?:{pattern})[^\n]*", text):
            return f"{_plain(found[0])} (try {remedy})"
    # A rollout that failed shows up late, as a batch without trajectories: its own error comes
    # first.
    if found := re.search(
        r"Error in _run_prompt.*?\n[^\n]*?(\w+(?:Error|Exception): [^\n]+)", text, re.S
    ):
        return f"a rollout failed: {_plain(found[1])}"
    told = [line for line in text.splitlines() if ERROR in line]
    if told:
        return _plain(told[-1].partition(ERROR)[2])
    lines = [line for line in text.splitlines() if line.strip()]
    return _plain(lines[-1]) if lines else "it said nothing"


def _plain(line: str) -> str:
    """Without colours and Ray's `(Worker pid=1)`."""
    line = re.sub(r"\x1b\[[0-9;]*m", "", line)
    return re.sub(r"^\s*\([^)]*pid=[^)]*\)\s*", "", line).strip()[:300]
