"""Whole trainings on verl without a GPU: `modgap train --engine verl` with everything but vLLM and
NCCL.

Ray, TransferQueue, the V1 trainer, the agent loops, the reward workers, the plugin in FSDP2 (gloo),
checkpoints and the merger are verl's own; `cpu_platform.py` and `cpu_rollout.py` say what stands in
for the rest. One full-text run, killed and gone on with, and the contrastive stage of `kl` on top
of it, as a study chains them: three launches of verl, seven minutes on two cores (400 s at a load
of 5).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl has an environment of its own: make test-verl")

import torch
from model_families import build_family
from safetensors.torch import load_file
from transformers import AutoTokenizer

from modgap.models.load import tiny_folder
from modgap.rewards import compute_score
from modgap.training.verl.log import DROPPED_REWARD

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU"),
]
HERE = Path(__file__).parent
STEPS, PROMPTS, SAMPLES, UPDATES, LENGTH, BUFFER = 2, 2, 4, 2, 96, 16
SETTINGS = {
    "steps": STEPS, "prompts_per_step": PROMPTS, "samples_per_prompt": SAMPLES,
    "mini_batch": PROMPTS // UPDATES, "save_every": 1, "eval_every": 2,
    "validation_problems": 4, "max_prompt_tokens": 256, "max_response_tokens": LENGTH,
    "overlong_buffer": BUFFER, "temperature": 1.0, "lr": 1e-4, "reward.tolerance": "exact",
    "verl.actor_rollout_ref.rollout.name": "generate", "verl.trainer.device": "cpu",
    "verl.trainer.n_gpus_per_node": 1,
    # One GPU is claimed, which nobody looks for; a process of each kind, for each takes seconds to
    # start.
    "verl.+ray_kwargs.ray_init.num_gpus": 1, "verl.ray_kwargs.ray_init.num_cpus": 8,
    "verl.+ray_kwargs.ray_init.include_dashboard": "false",
    "verl.actor_rollout_ref.rollout.agent.num_workers": 1, "verl.reward.num_workers": 1,
    "verl.transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
}  # fmt: skip
ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
    "VERL_USE_EXTERNAL_MODULES": "cpu_platform,cpu_rollout", "VERL_PLATFORM": "cpu_test",
}  # fmt: skip


class Study:
    """The two runs, and what was seen on the way."""

    model = "tiny"
    settings = SETTINGS

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text, self.kl = folder / "full-text", folder / "kl"
        self.modgap("data", "synth", "--out", "data", "--train", "40", "--test", "4", "--seed", "3")
        with self.start("full-text") as process:
            self.wait(process, lambda: steps(self.text / "stage1/verl_metrics.1.jsonl") == [1])
            process.kill()
        self.left = self.ends_soon()
        self.saved = (self.text / "stage1/verl/latest_checkpointed_iteration.txt").read_text()
        self.train("full-text")
        self.kl.mkdir()
        (self.kl / "stage1").symlink_to(
            "../full-text/stage1", target_is_directory=True
        )  # as `modgap study` does
        self.train("kl")
        self.after = self.ends_soon()

    def command(self, recipe: str) -> list[str]:
        given = {
            **self.settings,
            "verl.trainer.rollout_data_dir": self.folder / f"rollouts-{recipe}",
        }
        given["verl.trainer.validation_data_dir"] = self.folder / f"validation-{recipe}"
        settings = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
        return [
            "train",
            recipe,
            "--data",
            "data",
            "--model",
            self.model,
            "--out",
            recipe,
            "--engine",
            "verl",
            *settings,
        ]

    def start(self, recipe: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "modgap", *self.command(recipe)], cwd=self.folder,
            env=ENVIRONMENT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def modgap(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "modgap", *arguments], cwd=self.folder, env=ENVIRONMENT,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    def train(self, recipe: str) -> None:
        self.modgap(*self.command(recipe))

    def wait(self, process: subprocess.Popen[str], until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 600
        while not until():
            assert process.poll() is None and time.monotonic() < deadline, (
                "verl ended before it was killed, or hangs"
            )
            time.sleep(0.1)

    def ends_soon(self) -> list[int]:
        """The processes of these runs that are left some seconds after their end."""
        deadline = time.monotonic() + 30
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left

    def processes(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"VERL_FILE_LOGGER_PATH={self.folder}".encode() in path.read_bytes():
                    found.append(int(path.parent.name))
        return found


class DeepStudy(Study):
    """Both stages of `kl` on a small random Qwen3-VL, whose rewards alternate."""

    model = "qwen3-vl"
    settings = SETTINGS | {
        "steps": 1, "eval_every": 0, "validation_problems": 0, "max_response_tokens": 24,
        "overlong_buffer": 0, "reward.function": "rewards:every_second",
    }  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.folder, self.kl = folder, folder / "kl"
        with_template(build_family("qwen3_vl", folder / self.model))
        self.modgap("data", "synth", "--out", "data", "--train", "12", "--test", "4", "--seed", "3")
        self.train("kl")
        self.after = self.ends_soon()


def with_template(folder: Path) -> None:
    """Lay a family's chat template where a checkpoint of verl has it."""
    file = folder / "chat_template.json"
    template = json.loads(file.read_text())["chat_template"]
    (folder / "chat_template.jinja").write_text(template)
    file.unlink()


def studied(made: Study, folder: Path) -> Iterator[Any]:
    """A study, whose processes end with it."""
    made.folder = folder
    try:
        made.__init__(folder)
        yield made
    finally:
        for pid in made.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    yield from studied(Study.__new__(Study), tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeepStudy]:
    yield from studied(DeepStudy.__new__(DeepStudy), tmp_path_factory.mktemp("deep"))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps(metrics: Path) -> list[int]:
    """The steps that were logged whole."""
    text = metrics.read_text() if metrics.exists() else ""
    return [json.loads(line)["step"] for line in text[: text.rfind("\n") + 1].splitlines()]


def verl_metrics(stage: Path) -> list[dict[str, float]]:
    """verl's own metrics of each step, of all launches."""
    lines = [line for path in sorted(stage.glob("verl_metrics.*.jsonl")) for line in read(path)]
    return list({line["step"]: line["data"] for line in lines}.values())


def groups(folder: Path, step: int) -> list[list[dict[str, Any]]]:
    """The rollouts of a step, by prompt."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in read(folder / f"{step}.jsonl"):
        found.setdefault(row["uid"].rsplit("_", 2)[0], []).append(row)
    return list(found.values())


def own_score(row: dict[str, Any]) -> dict[str, float]:
    return compute_score("9k", row["output"], row["gts"], tolerance="exact")


RECIPES = pytest.mark.parametrize("recipe", ["full-text", "kl"])


@RECIPES
def test_rewards_are_the_packages_own_with_the_overlong_penalty(study: Study, recipe: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    rows = [
        row
        for n in range(STEPS)
        for group in groups(study.folder / f"rollouts-{recipe}", n + 1)
        for row in group
    ]
    assert len(rows) == STEPS * PROMPTS * SAMPLES and len({row["score"] for row in rows}) > 1
    for row in rows:
        over = len(tokenizer(row["output"])["input_ids"]) + 1 - (LENGTH - BUFFER)
        penalty = min(1.0, max(0.0, over / BUFFER))
        # Sampled tokens may be more than the fewest for the same words.
        assert row["score"] == pytest.approx(
            own_score(row)["score"] - penalty, abs=0.2 if over > -5 else 1e-6
        )


@RECIPES
def test_acc_is_the_papers(study: Study, recipe: str) -> None:
    """1.0 only if right, without tolerance, and well formatted; its mean is the validation's
    accuracy.
    """
    rows = read(study.folder / f"validation-{recipe}" / f"{STEPS}.jsonl")
    assert [row["acc"] for row in rows] == [
        float(own_score(row)["score"] == 1.0) for row in rows
    ] and len(rows) == 4
    stage = study.text / "stage1" if recipe == "full-text" else study.kl / "stage2"
    accuracy = read(stage / "train_log.jsonl")[-1]["validation_accuracy"]
    assert accuracy == pytest.approx(sum(row["acc"] for row in rows) / 4)


@RECIPES
def test_groups_without_a_difference_are_sampled_again(study: Study, recipe: str) -> None:
    stage = study.text / "stage1" if recipe == "full-text" else study.kl / "stage2"
    log = read(stage / "train_log.jsonl")
    assert sum(line.get("dropped_groups", 0) for line in log) > 0
    for n in range(STEPS):
        kept = groups(study.folder / f"rollouts-{recipe}", n + 1)
        assert [len(group) for group in kept] == [SAMPLES] * PROMPTS
        assert all(len({row["score"] for row in group}) > 1 for group in kept)
        scores = [row["score"] for group in kept for row in group]
        told = verl_metrics(stage)[n]
        assert told["critic/score/mean"] == pytest.approx(sum(scores) / len(scores), abs=1e-5)
        dropped = log[n].get("dropped_groups", 0)
        if dropped:  # all that were sampled count in our reward, as in the local engine's
            assert -1 <= told[DROPPED_REWARD] <= 1
            share = dropped / log[n]["sampled_groups"]
            mean = (1 - share) * told["critic/score/mean"] + share * told[DROPPED_REWARD]
            assert log[n]["reward"] == pytest.approx(mean, abs=1e-5)


def test_the_contrastive_term_enters_in_its_stage_only(study: Study) -> None:
    assert not [
        key for line in verl_metrics(study.text / "stage1") for key in line if "contrastive" in key
    ]
    for n, line in enumerate(verl_metrics(study.kl / "stage2")):
        right = [row for group in groups(study.folder / "rollouts-kl", n + 1) for row in group
                 if own_score(row)["score"] == 1.0]  # fmt: skip
        assert line["actor/eligible_rows"] * UPDATES == len(
            right
        )  # verl tells the mean over a step's updates
        assert (line["actor/contrastive_kl"] > 0) == bool(right) and 0 <= line[
            "actor/kl_clamped"
        ] < 1
        assert line["actor/contrastive_kl_coef"] == 0.01
        added = 0.01 * line["actor/contrastive_kl"]
        assert line["actor/loss"] - line["actor/pg_loss"] == pytest.approx(
            added, rel=1e-3, abs=1e-6
        )
    log = read(study.kl / "stage2/train_log.jsonl")
    assert max(line["contrastive_kl"] for line in log) > 0 and {
        "kl_clamped",
        "eligible_rows",
    } <= set(log[0])


def test_the_rollout_has_the_actors_weights(study: Study) -> None:
    """Before and after updates both give a token the same probability, up to bf16; what was sampled
    is not stale.
    """
    for line in [*verl_metrics(study.text / "stage1"), *verl_metrics(study.kl / "stage2")]:
        assert line["training/rollout_probs_diff_mean"] < 0.005
        assert line["training/off_policy/trajectory_staleness_worst/max"] == 0


def test_a_killed_run_leaves_no_process_and_goes_on_after_its_last_checkpoint(study: Study) -> None:
    assert study.saved == "1" and study.left == []
    assert steps(study.text / "stage1/verl_metrics.1.jsonl") == [1]
    assert steps(study.text / "stage1/verl_metrics.2.jsonl") == [2]
    assert [line["step"] for line in read(study.text / "stage1/train_log.jsonl")] == [1, 2]


def changed_names(before: Path, after: Path) -> tuple[list[str], int]:
    """The parameters that differ in bf16 between two models, and how many they have."""
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert set(old) == set(new)
    changed = [name for name in old if not torch.equal(old[name].bfloat16(), new[name].bfloat16())]
    return changed, len(old)


def test_the_second_stage_starts_from_the_firsts_merged_model(study: Study) -> None:
    first = (study.kl / "stage1/checkpoints" / f"step_{STEPS}").absolute()
    overrides = json.loads((study.kl / "stage2/verl.json").read_text())
    assert overrides["actor_rollout_ref.model.path"] == str(first)
    assert steps(study.kl / "stage2/verl_metrics.1.jsonl") == [1, 2] and study.after == []
    models = [tiny_folder(), first, study.kl / "stage2/checkpoints" / f"step_{STEPS}"]
    for before, after in pairwise(models):
        changed, count = changed_names(before, after)
        assert any("visual" in name for name in changed) and len(changed) > count / 2


def test_the_final_model_is_measured_as_it_is(study: Study) -> None:
    measured(study, study.kl / "stage2/checkpoints" / f"step_{STEPS}")


def measured(study: Study, model: Path) -> None:
    """Measure a model with `hf` as it is."""
    study.modgap(
        "eval", "--data", "data", "--model", str(model), "--out", "eval", "--engine", "hf",
        "--limit", "2", "--samples", "1", "--max-tokens", str(LENGTH),
    )  # fmt: skip
    summary = json.loads((study.folder / "eval/summary.json").read_text())
    assert [summary["views"][view]["n_problems"] for view in ("full-text", "image-only")] == [2, 2]


def test_a_qwen3_vl_is_rolled_out_updated_merged_trained_on_and_measured(deep: DeepStudy) -> None:
    assert deep.after == []
    stages = [deep.kl / "stage1", deep.kl / "stage2"]
    for stage in stages:
        (line,) = verl_metrics(stage)
        assert line["training/rollout_probs_diff_mean"] < 0.005 and line["actor/grad_norm"] > 0
    assert "actor/contrastive_kl" in verl_metrics(stages[1])[0]
    models = [deep.folder / deep.model, *(stage / "checkpoints/step_1" for stage in stages)]
    for before, after in pairwise(models):
        changed, count = changed_names(before, after)
        assert any("visual" in name for name in changed) and len(changed) > count / 2
        assert any("deepstack" in name for name in changed)
    measured(deep, models[-1])
