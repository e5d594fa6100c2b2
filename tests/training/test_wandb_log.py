"""`--log`: steps of both engines go to Weights & Biases; TensorBoard is written where it can be.

wandb is replaced at its module: what is called here is its documented interface, and
`WANDB_MODE=offline` with the real package was tried by hand.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from modgap.core import installation
from modgap.core.errors import UserError
from modgap.core.options import TrainOptions
from modgap.core.record import RunFolder
from modgap.training.events import Event
from modgap.training.log import StageLog
from modgap.training.verl.log import Follower
from modgap.workflows.train import check_logs, logged, train_resolved

STEP = {"step": 1, "stage": 1, "reward": 0.5, "time_total": 2.0, "accuracy": None, "done": True}


class FakeError(Exception):
    pass


class FakeRun:
    def __init__(self, **settings: Any) -> None:
        self.settings, self.url = settings, "https://x.org/run"
        self.lines: list[dict[str, Any]] = []
        self.axes: list[tuple[str, str | None]] = []
        self.exit_code: int | None = None

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes.append((name, step_metric))

    def log(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with its runs in `runs`, `key` and `fails`."""
    fake: Any = ModuleType("wandb")
    fake.__spec__ = object()
    fake.runs, fake.key, fake.fails, fake.Error = [], True, False, FakeError

    def init(**settings: Any) -> FakeRun:
        if fake.fails:
            raise FakeError("no\nanswer")
        fake.runs.append(FakeRun(**settings))
        return fake.runs[-1]

    fake.init, fake.Settings, fake.login = init, dict, lambda prompt: fake.key
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def stages(out: Path, count: int = 2) -> Path:
    for number in range(1, count + 1):
        RunFolder(out / f"stage{number}").start("train", {"stage": number, "lr": 1e-6})
    return out


def send(out: Path, *events: Event, names: tuple[str, ...] = ("wandb",)) -> list[Event]:
    seen: list[Event] = []
    with logged(names, out, seen.append) as report:
        for event in events:
            report(event)
    return seen


def test_each_stage_is_a_run_with_its_settings_and_steps(wandb: Any, tmp_path: Path) -> None:
    out = stages(tmp_path / "kl")
    events = [
        Event("stage", 1, 2, 0, 2, "full-text"),
        Event("step", 1, 2, 1, 2, metrics=STEP),
        Event("step", 1, 2, 2, 2, metrics=STEP | {"step": 2}),
        Event("step", 2, 2, 1, 2, metrics=STEP),
    ]
    assert send(out, *events) == events
    first, second = wandb.runs
    assert first.lines == [
        {"step": n, "train/stage": 1, "train/reward": 0.5, "time/time_total": 2.0} for n in (1, 2)
    ]
    assert len(second.lines) == 1 and (first.exit_code, second.exit_code) == (0, 0)
    assert first.settings["config"] == {"stage": 1, "lr": 1e-6}
    assert (first.settings["group"], first.settings["name"]) == ("kl", "kl stage 1")
    assert first.settings["dir"] == str(out / "stage1") and first.settings["project"] == "modgap"
    assert ("*", "step") in first.axes


def test_a_stage_that_resumes_continues_its_run_and_a_copy_does_not(
    wandb: Any, tmp_path: Path
) -> None:
    out = stages(tmp_path / "a", 1)
    for _ in range(2):
        send(out, Event("step", 1, 1, 1, 2, metrics=STEP))
    send(stages(tmp_path / "b", 1), Event("step", 1, 1, 1, 2, metrics=STEP))
    ids = [run.settings["id"] for run in wandb.runs]
    assert ids[0] == ids[1] != ids[2] and wandb.runs[0].settings["resume"] == "allow"


def test_a_training_that_fails_ends_its_run_as_failed(wandb: Any, tmp_path: Path) -> None:
    out = stages(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt), logged(("wandb",), out, lambda _: None) as report:
        report(Event("step", 1, 1, 1, 2, metrics=STEP))
        raise KeyboardInterrupt
    assert wandb.runs[0].exit_code == 1


def test_a_service_that_does_not_answer_does_not_end_the_training(
    wandb: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.fails = True
    step = Event("step", 1, 1, 1, 2, metrics=STEP)
    assert send(stages(tmp_path, 1), step, step) == [step, step]
    said = capsys.readouterr().err
    assert said.count("warning: --log wandb: no answer; ") == 1


def test_the_steps_of_verl_are_sent_too(wandb: Any, tmp_path: Path) -> None:
    out = stages(tmp_path, 1)
    metrics = {"step": 1, "data": {"critic/score/mean": 0.25, "actor/loss": math.nan}}
    source = tmp_path / "metrics.jsonl"
    source.write_text(json.dumps(metrics) + "\n")
    with logged(("wandb",), out, lambda _: None) as report:
        send_line: Callable[[dict[str, Any]], None] = lambda line: report(  # noqa: E731
            Event("step", 1, 1, line["step"], 2, metrics=line)
        )
        Follower(source, out / "stage1" / "train_log.jsonl", 1, 64, 4, send_line)()
    (line,) = wandb.runs[0].lines
    assert line["train/reward"] == 0.25 and line["step"] == 1 and "train/loss" not in line


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_what_is_not_installed_is_refused_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "is_installed", lambda package: package != name)
    with pytest.raises(UserError, match=rf"{name} is not installed: .*, for train"):
        train_resolved(None, [], "tiny", tmp_path / "out", options=TrainOptions(log=(name,)))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_without_a_key_the_training_is_refused_and_offline_is_not(
    wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb.key = False
    with pytest.raises(UserError, match="give `wandb login`, or set WANDB_MODE=offline"):
        check_logs(("wandb",))
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_logs(("wandb",))


@pytest.mark.parametrize("there", [True, False])
def test_tensorboard_is_written_where_it_is_installed(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modgap.training.log.is_installed", lambda _: there)
    log = StageLog(tmp_path)
    log.step({"step": 1, "reward": 0.5})
    log.close()
    assert (tmp_path / "tensorboard").exists() == there
    assert json.loads((tmp_path / "train_log.jsonl").read_text()) == {"step": 1, "reward": 0.5}
