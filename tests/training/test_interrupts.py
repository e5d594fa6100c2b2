"""A training that was killed or interrupted goes on with equal bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import (
    LONG,
    PROBLEMS,
    SETTINGS,
    log_of,
    made_up,
    on_cpu,
    recipe,
    rollouts_of,
    run,
    weights_of,
)

from modgap.core.errors import UserError
from modgap.core.prompt import training_prompt
from modgap.core.recipe import Recipe, Stage
from modgap.core.record import RunFolder
from modgap.models.policy import Policy
from modgap.training import checkpoint as checkpoint_module
from modgap.training.checkpoint import LastStep
from modgap.training.events import Event
from modgap.training.local import final_checkpoint, train
from modgap.training.rollout import hold_out
from modgap.training.setup import digest, identity
from modgap.training.teachers import Teachers


@pytest.fixture(scope="session")
def straight(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight")
    run(recipe(True, **LONG), tiny, out)
    return out / "stage1"


def assert_same_run(stage: Path, straight: Path) -> None:
    assert log_of(stage) == log_of(straight)
    assert rollouts_of(stage) == rollouts_of(straight)
    for step in (2, 4):
        got, expected = (weights_of(s / "checkpoints" / f"step_{step}") for s in (stage, straight))
        assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert json.loads((stage / "result.json").read_text()) == json.loads(
        (straight / "result.json").read_text()
    )
    assert sorted(p.name for p in (stage / "checkpoints").iterdir()) == ["best", "step_2", "step_4"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "where", ["in step 1", "in step 4", "between weights and state", "while saving weights"]
)
def test_a_run_that_was_killed_goes_on_bit_equal(
    where: str, tiny: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def dies(*_: Any, **__: Any) -> Any:
        raise Killed

    def progress(event: Event) -> None:
        nonlocal calls
        calls += event.kind == "phase" and event.text == "update"
        if where.startswith("in step") and calls == int(where[-1]):
            raise Killed
        if calls == 4 and where == "between weights and state":
            monkeypatch.setattr(checkpoint_module, "save_state", dies)
        if calls == 4 and where == "while saving weights":
            monkeypatch.setattr(
                Policy, "save", lambda self, folder: (folder / "half").touch() or dies()
            )

    with pytest.raises(Killed):
        train(
            recipe(True, **LONG),
            PROBLEMS,
            tiny,
            tmp_path,
            load_policy=on_cpu,
            reward=made_up,
            progress=progress,
        )
    monkeypatch.undo()
    if where == "in step 4":  # as SIGKILL leaves a line that was being written
        with (tmp_path / "stage1" / "train_log.jsonl").open("a") as file:
            file.write('{"step": 4, "torn')
    run(recipe(True, **LONG), tiny, tmp_path)
    assert_same_run(tmp_path / "stage1", straight)


@pytest.mark.parametrize("phase", ["rollout", "update"])
def test_a_run_that_was_interrupted_loses_no_finished_step(
    phase: str, tiny: Path, straight: Path, tmp_path: Path
) -> None:
    """Ctrl-C in step 4, two steps after the last checkpoint: it resumes at step 3, bit for bit."""
    begun: list[int] = []

    def progress(event: Event) -> None:
        begun.append(event.step)
        if event.kind == "phase" and event.text == phase and event.step == 3:
            raise KeyboardInterrupt

    plan = recipe(True, **LONG | {"save_every": 0})
    with pytest.raises(KeyboardInterrupt):
        train(plan, PROBLEMS, tiny, tmp_path, load_policy=on_cpu, reward=made_up, progress=progress)
    begun.clear()
    train(
        plan,
        PROBLEMS,
        tiny,
        tmp_path,
        load_policy=on_cpu,
        reward=made_up,
        progress=lambda e: begun.append(e.step),
    )
    assert min(begun) == 3
    stage = tmp_path / "stage1"
    assert log_of(stage) == log_of(straight) and rollouts_of(stage) == rollouts_of(straight)
    got, expected = (weights_of(s / "checkpoints" / "step_4") for s in (stage, straight))
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["result.json", "state.pt", "rollouts.jsonl"])
def test_a_stage_adopts_nothing_of_another_run(
    tiny: Path, straight: Path, tmp_path: Path, name: str
) -> None:
    """Its manifest is that of a run with another seed, or it has none."""
    other = recipe(True, **LONG, seed=9)
    shutil.copytree(straight.parent, tmp_path / "run", symlinks=True)
    stage = tmp_path / "run" / "stage1"
    if name != "result.json":
        (stage / "result.json").unlink()
    if name == "state.pt":
        (stage / "rollouts.jsonl").unlink()
        torch.save({"run": RunFolder(stage).mark(), "weights": {}, "step": 1}, stage / "state.pt")
    train_on, held_out = hold_out(PROBLEMS, SETTINGS.validation_problems)
    marks = {"model": "m", "data": digest(train_on), "validation": digest(held_out)}
    told = json.loads((stage / "manifest.json").read_text())
    told |= {"resolved": identity(other, 1, "the base model", "aligned"), "fingerprints": marks}
    (stage / "manifest.json").write_text(json.dumps(told))
    before = {path: path.stat().st_mtime_ns for path in stage.rglob("*")}
    with pytest.raises(
        UserError,
        match=rf"{name} is of another run than the manifest\.json beside it.*another --out",
    ):
        run(other, tiny, tmp_path / "run", fingerprint="m")
    assert {path: path.stat().st_mtime_ns for path in stage.rglob("*")} == before
    (stage / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"stage1 has lost its manifest\.json: it holds"):
        run(other, tiny, tmp_path / "run", fingerprint="m")


def test_weights_that_are_changing_are_not_a_steps(tmp_path: Path, policy: Policy) -> None:
    optimizer = torch.optim.AdamW(policy.parameters())
    for changing in (False, True):
        path = tmp_path / f"{changing}.pt"
        with pytest.raises(KeyboardInterrupt), LastStep(path) as last:
            last.done(False, policy, optimizer, Teachers(), step=1)
            if changing:
                last.changing()
            raise KeyboardInterrupt
        assert path.exists() != changing


@pytest.mark.slow  # quick: the kills above, in this process, one of them with a torn line
def test_kill_9_and_the_same_command(tiny: Path, straight: Path, tmp_path: Path) -> None:
    script = (
        "import sys, os, signal, tiny_training as t\ndef watch(e):\n    if e.kind == 'phase'"
        " and e.text == 'update' and e.step == 2: os.kill(os.getpid(),"
        " signal.SIGKILL)\nt.train(t.recipe(True, **t.LONG), t.PROBLEMS, sys.argv[1], sys.argv[2],"
        " load_policy=t.on_cpu, reward=t.made_up, progress=watch)\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny), str(tmp_path)],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(log_of(tmp_path / "stage1")) == 2
    with pytest.raises(UserError, match="no finished training run"):
        final_checkpoint(tmp_path)
    with (tmp_path / "stage1" / "train_log.jsonl").open("a") as file:
        file.write('{"step": 3, "torn')
    run(recipe(True, **LONG), tiny, tmp_path)
    assert_same_run(tmp_path / "stage1", straight)


def test_lora_goes_on_after_a_kill_and_is_merged_into_a_plain_checkpoint(
    tiny: Path, tmp_path: Path
) -> None:
    with_lora = recipe(lora_rank=2, steps=2, eval_every=0, lr=1e-2)
    run(with_lora, tiny, tmp_path / "straight")

    def dies_in_step_2(event: Event) -> None:
        if event.kind == "phase" and event.step == 1:
            raise Killed

    with pytest.raises(Killed):
        train(
            with_lora,
            PROBLEMS,
            tiny,
            tmp_path / "run",
            load_policy=on_cpu,
            reward=made_up,
            progress=dies_in_step_2,
        )
    run(with_lora, tiny, tmp_path / "run")
    before = weights_of(tiny)
    after, straight = (
        weights_of(tmp_path / d / "stage1" / "checkpoints" / "step_2") for d in ("run", "straight")
    )
    assert before.keys() == after.keys() and all(
        torch.equal(after[name], straight[name]) for name in after
    )
    changed = {
        name for name in before if not torch.equal(after[name], before[name].to(after[name].dtype))
    }
    assert changed and all("layers" in name and "visual" not in name for name in changed)


def in_bf16(ref: Any, *, dtype: Any, **more: Any) -> Policy:
    """As on a GPU: bf16, but for what is trained whole."""
    return on_cpu(ref, dtype=dtype or "bfloat16", **more)


def test_a_chain_with_lora_loses_nothing_between_stages(tiny: Path, tmp_path: Path) -> None:
    """Each stage starts from the model that the last one ended with, killed or not; to the bit, as
    long as it is one adapter, and in fp32 the sum of two."""
    starts: list[torch.Tensor] = []
    ends: list[torch.Tensor] = []
    policies: list[Policy] = []

    def logps(policy: Policy) -> torch.Tensor:
        prompts = [
            policy.encode(training_prompt(p, "full-text"), p.open_image()) for p in PROBLEMS[:3]
        ]
        with torch.no_grad():
            return policy.logprobs(
                prompts, [torch.arange(20, 40)] * 3, policy.image_features(prompts)
            )[0]

    def loading(ref: Any, **more: Any) -> Policy:
        policies.append(in_bf16(ref, **more))
        starts.append(logps(policies[-1]))
        return policies[-1]

    def watching(event: Event) -> None:
        if event.kind == "step" and event.step == event.steps:
            ends.append(logps(policies[-1]))
        if event.kind == "phase" and event.stage == 2 and event.step == 1 and len(policies) == 2:
            raise Killed

    one = replace(SETTINGS, lora_rank=2, lr=1e-4, eval_every=0)
    settings = (one, replace(one, lora_rank=3), replace(one, lora_rank=0))
    stages = Recipe("test", tuple(Stage(("full-text",), False, each) for each in settings))
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(stages, PROBLEMS, tiny, out, load_policy=loading, reward=made_up, progress=watching)
    train(stages, PROBLEMS, tiny, out, load_policy=loading, reward=made_up, progress=watching)
    assert (
        torch.equal(starts[1], ends[0])
        and torch.equal(starts[2], ends[0])
        and not torch.equal(starts[0], ends[0])
    )
    first, second = (out / f"stage{number}" / "checkpoints" / "step_2" for number in (1, 2))
    assert torch.equal(logps(in_bf16(first, dtype=None)), ends[0])
    # In fp32: of two adapters and of their sum, bf16 rounds activations differently.
    by_adapters = logps(
        Policy(policies[2].model.float(), policies[2].tokenizer, policies[2].processor)
    )
    moved = by_adapters - logps(on_cpu(tiny, dtype="bfloat16")).float()
    assert moved.abs().max() > 1e-4
    assert (logps(on_cpu(second)) - by_adapters).norm() < 1e-3 * moved.norm()
    assert torch.equal(starts[3], logps(on_cpu(second)))

    straight = tmp_path / "straight"
    train(stages, PROBLEMS, tiny, straight, load_policy=in_bf16, reward=made_up)
    for number in (1, 2, 3):
        a, b = (
            weights_of(root / f"stage{number}" / "checkpoints" / "step_2")
            for root in (out, straight)
        )
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_smaller_micro_batch_holds_when_a_run_goes_on(tiny: Path, tmp_path: Path) -> None:
    def dies(event: Event) -> None:
        if event.kind == "phase" and event.step == 1:
            raise Killed

    with pytest.raises(Killed):
        train(recipe(), PROBLEMS, tiny, tmp_path, load_policy=on_cpu, reward=made_up, progress=dies)
    run(recipe(micro_batch=1), tiny, tmp_path)
    assert [row["micro_batch"] for row in log_of(tmp_path / "stage1")] == [4, 1]
