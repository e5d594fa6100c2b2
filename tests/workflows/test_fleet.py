"""Several models in one command: scheduling with fake jobs, and real `modgap eval` processes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from written_runs import both, write_run

from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.record import RunFolder
from modgap.datasets.synthetic import write_dataset
from modgap.workflows import jobs
from modgap.workflows import models as fleet
from modgap.workflows.evaluate import evaluate
from modgap.workflows.models import read_models, run_fleet, run_names
from modgap.workflows.problems import read_problems


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_a_list_has_one_model_a_line(tmp_path: Path) -> None:
    path = tmp_path / "models.txt"
    path.write_text(
        "\ufeff# ours\n\n tiny \nORG/NAME  # the base\ntiny\nruns/a#b/best\n\t#x\n",
        encoding="utf-8",
    )
    assert read_models(path) == ["tiny", "ORG/NAME", "runs/a#b/best"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), (b"\n# none\n", "names no model"), (b"\xff\xfe\x00", "not UTF-8")],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "models.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_models(path)


def test_every_model_gets_a_folder_of_its_own_with_a_safe_name() -> None:
    models = [
        "tiny",
        "Qwen/Qwen2.5-VL-3B",
        "Qwen_Qwen2.5-VL-3B",
        "../up/../x",
        "/",
        "TINY",
        "a.log",
        "é" * 300,
    ]
    models += [
        "x" * 300,
        "-rf",
        "modelscope:ORG/NAME",
        "runs/kl/stage2/checkpoints/best",
        "runs/kl/stage2/best",
    ]
    names = run_names(models)
    assert names["runs/kl/stage2/checkpoints/best"] == "runs_kl_stage2_best"
    assert names["tiny"] == "tiny" and names["Qwen/Qwen2.5-VL-3B"] == "Qwen_Qwen2.5-VL-3B"
    assert len({name.casefold() for name in names.values()}) == len(models)
    for name in names.values():
        assert (
            0 < len(name) <= 100
            and "/" not in name
            and not name.startswith((".", "-"))
            and not name.endswith(".log")
        )
    assert run_names(models[:3]).items() <= names.items(), "a longer list moves nobody"


def test_a_name_stays_with_the_model_whose_run_lies_there(tmp_path: Path) -> None:
    for first, second in (("a/b", "a_b"), ("a_b", "a/b")):
        out = tmp_path / hashlib.sha256(first.encode()).hexdigest()
        assert run_names([first, second], out)[first] == "a_b"
        RunFolder(out / "a_b").start("eval", {}, {"model": first})
        for order in ([first, second], [second, first]):
            names = run_names(order, out)
            assert names[first] == "a_b" and names[second] != "a_b" and list(names) == order


class Child:
    """In the place of a process: ends after some polls with a status."""

    def __init__(self, polls: int, status: int) -> None:
        self.pid, self.polls, self.returncode = 0, polls, status

    def poll(self) -> int | None:
        self.polls -= 1
        return None if self.polls > 0 else self.returncode


class Machine:
    """Accelerators and models, some of which do not work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, devices: list[str]) -> None:
        self.bad_devices: set[str] = set()
        self.bad_models: set[str] = set()
        self.seen: list[tuple[str, str]] = []
        self.busy: dict[str, Child] = {}
        monkeypatch.setattr(jobs, "visible_accelerators", lambda: devices)
        monkeypatch.setattr(jobs.processes, "end", lambda *_: None)
        monkeypatch.setattr(jobs, "POLL_S", 0.001)
        monkeypatch.setattr(jobs.subprocess, "Popen", self.start)

    def start(self, command: list[str], *, env: dict[str, str], stdout: Any, **_: Any) -> Child:
        model, device = command[command.index("--model") + 1], env["CUDA_VISIBLE_DEVICES"]
        assert device not in self.busy or self.busy[device].polls <= 0, (
            "one job at a time on an accelerator"
        )
        fails = device in self.bad_devices or model in self.bad_models
        if fails:
            os.write(stdout.fileno(), f"modgap: {model} met an error on {device}\n".encode())
        self.seen.append((model, device))
        self.busy[device] = Child(1 if fails else 4, int(fails))
        return self.busy[device]


def test_each_accelerator_of_the_mask_gets_a_job_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, ["3", "GPU-ab12"])
    models = [f"m{number}" for number in range(7)]
    runs, failed = run_fleet(models, tmp_path, tmp_path / "out")
    assert (
        sorted(model for model, _ in machine.seen) == models and not failed and list(runs) == models
    )
    assert {device for _, device in machine.seen} == {"3", "GPU-ab12"}


def test_a_job_takes_as_many_accelerators_as_its_replicas(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, ["0", "1", "2", "5", "7"])
    run_fleet(["a", "b", "c"], tmp_path, tmp_path / "out", EvalOptions(replicas=2))
    assert {device for _, device in machine.seen} == {"0,1", "2,5"}
    with pytest.raises(UserError, match=r"needs 6 accelerators .* there are 5"):
        run_fleet(["a"], tmp_path, tmp_path / "out", EvalOptions(replicas=6))


def test_an_accelerator_that_fails_does_not_drain_the_queue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, ["0", "1"])
    machine.bad_devices = {"1"}
    models = [f"m{number}" for number in range(6)]
    runs, failed = run_fleet(models, tmp_path, tmp_path / "out")
    assert list(runs) == models and not failed
    assert "accelerator 1 is used no more" in capsys.readouterr().err


def test_a_model_that_fails_is_tried_once_more_elsewhere_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, ["0", "1", "2"])
    machine.bad_models = {"m1", "m4"}
    models = [f"m{number}" for number in range(6)]
    runs, failed = run_fleet(models, tmp_path, tmp_path / "out")
    assert list(runs) == ["m0", "m2", "m3", "m5"] and list(failed) == ["m1", "m4"]
    assert failed["m1"].startswith("m1 met an error on ") and failed["m1"].endswith("m1.log)")
    for model in failed:
        assert len({device for name, device in machine.seen if name == model}) == 2
    assert len(machine.seen) == 8


def test_a_machine_whose_every_accelerator_fails_ends_with_all_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, ["0", "1"])
    machine.bad_devices = {"0", "1"}
    runs, failed = run_fleet(["a", "b", "c"], tmp_path, tmp_path / "out")
    assert not runs and list(failed) == ["a", "b", "c"]


def test_a_process_is_started_only_for_a_model_whose_evaluation_is_not_complete(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, ["0"])
    models, out = tmp_path / "models.txt", tmp_path / "out"
    models.write_text("tiny\n")
    options = EvalOptions(samples=1, max_tokens=4)
    evaluate(
        read_problems("synthetic", data, limit=2), "tiny", out / "tiny",
        options=replace(options, device="cpu"),
    )  # fmt: skip
    asked = ["--data", str(data), "--benchmark", "synthetic", "--limit", "2", "--out", str(out)]
    capsys.readouterr()
    assert main(["eval", "--models", str(models), *asked, "--samples=1", "--max-tokens=4"]) == 0
    said = capsys.readouterr()
    assert not machine.seen and "tiny: done (1 of 1)" in said.err
    assert "Gap in points" in said.out, "its numbers are printed as before"

    def started(options: EvalOptions, limit: int = 2) -> list[str]:
        machine.seen.clear()
        both = ["tiny", "other"]
        runs, failed = run_fleet(both, data, out, options, benchmark="synthetic", limit=limit)
        assert list(runs) == both and not failed
        return [model for model, _ in machine.seen]

    assert started(options) == ["other"]
    assert started(replace(options, samples=2)) == ["tiny", "other"], "it is extended"
    assert started(options, limit=1) == ["tiny", "other"], "its own process refuses it"
    run = RunFolder(out / "tiny")
    run.write_grades(run.grades()[:-1], "strict")
    assert started(options) == ["tiny", "other"], "as after an end before it was graded"


@pytest.mark.parametrize("name", ["manifest.json", "test.json"])
def test_a_run_or_a_data_set_is_no_place_for_a_fleet(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="is a run or a data set"):
        run_fleet(["tiny"], tmp_path, tmp_path)


# Real processes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "data"
    write_dataset(folder, 0, 3, seed=2)
    return folder


def command(data: Path, models: Path, out: Path, *more: str) -> list[str]:
    words = [
        "--data",
        str(data),
        "--benchmark",
        "synthetic",
        "--models",
        str(models),
        "--out",
        str(out),
    ]
    return [
        sys.executable,
        "-m",
        "modgap",
        "eval",
        *words,
        "--samples",
        "1",
        "--limit",
        "2",
        "--max-tokens",
        "20",
        *more,
    ]


@pytest.mark.slow
def test_models_of_a_list_become_runs_side_by_side(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    models = tmp_path / "models.txt"
    models.write_text(f"no-such-model\ntiny\n{copy}\n")
    out = tmp_path / "out"
    first = subprocess.run(command(data, models, out), capture_output=True, text=True, check=False)
    assert first.returncode == 1
    *_, named, _, total = first.stderr.splitlines()
    assert named.startswith("modgap: no-such-model failed: no model 'no-such-model'")
    assert (
        total == "modgap: 2 of 3 models failed; finished work is kept: give the command again once"
        " the cause is gone."
    )
    responses = (out / "tiny" / "responses.jsonl").read_bytes()
    assert responses.count(b"\n") == 4

    from modgap.models.load import tiny_folder

    copy.symlink_to(tiny_folder())
    models.write_text(f"tiny\n{copy}\n")
    second = subprocess.run(command(data, models, out), capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert (out / "tiny" / "responses.jsonl").read_bytes() == responses, (
        "what is complete is left alone"
    )
    other = out / run_names([str(copy)])[str(copy)]
    assert len(list(RunFolder(other).responses())) == 4
    assert (
        "Gap in points" in second.stdout
        and f"modgap report {out / 'tiny'} {other}" in second.stdout
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_fleet_ends_its_jobs(
    data: Path, tmp_path: Path, kind: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processes_left import left_of

    mark = f"fleet-{os.getpid()}-{time.monotonic_ns()}"
    monkeypatch.setenv("MODGAP_TEST_MARK", mark)
    models, out = tmp_path / "models.txt", tmp_path / "out"
    models.write_text("tiny\n./other\n")
    words = command(data, models, out)
    words[words.index("--samples") + 1] = "2000"
    told = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 100
    while time.monotonic() < until and not (out / "tiny" / "manifest.json").exists():
        time.sleep(0.1)
    told.send_signal(kind)
    told.communicate(timeout=60)
    assert told.returncode == (-9 if kind is signal.SIGKILL else 130)
    assert (out / "tiny" / "manifest.json").exists(), "it was at work"
    assert not left_of(mark)


def test_a_model_or_a_list_but_not_both(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["eval", "--data", str(data), "--out", str(tmp_path / "x")]
    for more in ([], ["--model", "tiny", "--models", "list.txt"]):
        assert main([*asked, *more]) == 2
        assert capsys.readouterr().err.startswith("modgap: give one of --model and --models")


def test_problems_are_read_to_check_them_and_let_go_before_the_models_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modgap.workflows import problems

    read: list[Any] = []
    held: list[int] = []
    original = problems.read_problems

    def reading(*given: Any, **more: Any) -> Any:
        read.append(original(*given, **more))
        held.append(len(read[0]))
        return read[0]

    def run(*given: Any, **more: Any) -> int:
        held.append(len(read[0]))
        return 0

    monkeypatch.setattr(problems, "read_problems", reading)
    monkeypatch.setattr(fleet, "evaluate_models", run)
    asked = ["eval", "--data", str(data), "--benchmark", "synthetic", "--out", str(tmp_path / "x")]
    assert main([*asked, "--models", "list.txt"]) == 0
    assert held == [3, 0]


def test_a_dry_run_prints_the_jobs_and_writes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")
    models, out = tmp_path / "models.txt", tmp_path / "out"
    models.write_text("tiny\nqwen2_5_vl_7b\n")
    command = ["eval", "--models", str(models), "--data", str(data), "--benchmark", "synthetic",
               "--out", str(out), "--limit", "2", "--samples", "3"]  # fmt: skip
    more = ["--engine", "hf", "--replicas", "2"]
    assert main([*command, *more, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 jobs, 2 at a time on accelerators 4, 5, 6, 7, 2 each" in said
    planned = fleet.plan_fleet(
        ["tiny", "qwen2_5_vl_7b"], data, out, EvalOptions(samples=3, replicas=2),
        benchmark="synthetic", limit=2,
    )  # fmt: skip
    for model, words in planned.commands.items():
        assert f"{model} -> {out / model}" in said
        assert f"modgap {' '.join(words)}" in said and f"log: {out / model}.log" in said
    assert not out.exists()
    write_run(out / "tiny", {"a": both("c", "w")}, model="tiny")
    assert main([*command, "--dry-run"]) == 0
    assert f"tiny -> {out / 'tiny'} (resumes the run there)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        (["--model", "tiny"], 2, "--dry-run prints the jobs of --models FILE"),
        (["--models", "no-such-list"], 1, "no-such-list cannot be read"),
        (["--models", "LIST", "--views", "vision-only"], 1, "vision-only"),
        (["--models", "LIST", "--replicas", "3"], 1, "needs 3 accelerators"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[str],
    status: int,
    words: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    (tmp_path / "list").write_text("tiny\n")
    asked = [str(tmp_path / "list") if word == "LIST" else word for word in asked]
    command = ["eval", "--data", str(data), "--benchmark", "synthetic", "--dry-run"]
    assert main([*command, *asked, "--out", str(tmp_path / "out")]) == status
    assert words in capsys.readouterr().err
