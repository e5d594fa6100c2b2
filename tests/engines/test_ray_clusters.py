"""Replicas on a real Ray cluster: killed actors, one line of cause, and no process left behind."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from processes_left import left_of
from threaded_replicas import SAMPLING, Threads

from modgap.core.engine import Completion, Engine, Request
from modgap.core.errors import UserError
from modgap.core.prompt import Prompt
from modgap.datasets.synthetic import write_dataset
from modgap.engines import replicas, scripted
from modgap.engines.hf import load_engine
from modgap.engines.ray import Cluster
from modgap.engines.replicas import ReplicaEngine
from modgap.models.load import tiny_folder
from modgap.workflows.problems import read_problems


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(replicas, "Cluster", Threads)


# With Ray


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replicas") / "data"
    write_dataset(folder, 0, 6, seed=2)
    return folder


def real_requests(data: Path, samples: int = 2) -> list[Request]:
    return [
        Request(p.id, "image-only", Prompt(p.question), p.open_image, tuple(range(samples)))
        for p in read_problems("synthetic", data)
    ]


def kill_one_in_the_middle(
    make: Callable[[], Engine], asked: Sequence[Request], batch: int
) -> dict[Any, Completion]:
    """Everything that two replicas answer, one of which is killed while it works on a batch."""
    engine = ReplicaEngine(make, 2, ray_address=None, batch=batch)
    try:
        got: dict[Any, Completion] = {}
        killed = False
        for done in engine.generate(asked, SAMPLING):
            assert got.setdefault((done.request.problem_id, done.sample), done) is done, (
                "a sample came twice"
            )
            busy = [slot.ready.pid for slot in engine._slots if slot.ready and slot.in_hand]
            if not killed and busy:
                os.kill(busy[0], signal.SIGKILL)
                killed = True
    finally:
        engine.close()
    assert killed
    return got


def test_a_killed_actor_costs_only_what_it_had_in_hand(
    data: Path, mark: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not importlib.util.find_spec(
        "ray"
    ):  # not imported here: Ray reads at its import what keeps it quiet
        pytest.skip("needs the extra `ray`")
    monkeypatch.setattr(replicas, "Cluster", Cluster)

    def answer(request: Request, sample: int) -> str:  # local, so that it travels whole
        assert request.image is not None
        time.sleep(0.02)
        return f"{request.problem_id} {sample} {request.image().size}"

    asked = real_requests(data, samples=6)
    make = functools.partial(scripted.ScriptedEngine, answer)
    alone = {(c.request.problem_id, c.sample): c for c in make().generate(asked, SAMPLING)}
    assert kill_one_in_the_middle(make, asked, 6) == alone
    captured = capsys.readouterr()
    assert "its process died" in captured.err and "done again" in captured.err
    assert captured.out == "" and len(captured.err.splitlines()) == 1, "nothing of Ray's own words"
    assert not left_of(mark)


@pytest.mark.slow
def test_a_killed_replica_with_a_real_model_changes_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "Cluster", Cluster)
    make = functools.partial(load_engine, tiny_folder(), None, "cpu", 2)
    asked = real_requests(data)
    alone = {(c.request.problem_id, c.sample): c for c in make().generate(asked, SAMPLING)}
    assert kill_one_in_the_middle(make, asked, 2) == alone


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """A mark in the environment of everything that a test starts."""
    words = f"replicas-{os.getpid()}-{time.monotonic_ns()}"
    monkeypatch.setenv("MODGAP_TEST_MARK", words)
    return words


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A model whose files are there and whose weights cannot be read."""
    folder = tmp_path / "broken"
    shutil.copytree(tiny_folder(), folder)
    for weights in folder.glob("*.safetensors"):
        weights.write_bytes(b"no weights at all")
    return folder


def command(data: Path, out: Path, *arguments: str, model: str = "tiny") -> list[str]:
    words = [
        "eval",
        "--data",
        str(data),
        "--benchmark",
        "synthetic",
        "--model",
        model,
        "--out",
        str(out),
    ]
    return [sys.executable, "-m", "modgap", *words, "--max-tokens", "40", *arguments]


@pytest.mark.slow
def test_replicas_that_all_fail_at_the_start_say_why_in_one_line(
    data: Path, mark: str, tmp_path: Path, broken: Path
) -> None:
    argv = command(data, tmp_path / "run", "--replicas", "2", model=str(broken))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert (
        last.startswith("modgap: all 2 replicas could not be started: ")
        and "Traceback" not in done.stderr
    )
    assert not left_of(mark)


@pytest.mark.slow
def test_more_replicas_than_accelerators_are_refused(data: Path, mark: str, tmp_path: Path) -> None:
    done = subprocess.run(
        command(data, tmp_path / "run", "--replicas", "999"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("modgap: --replicas 999: this machine has")
    assert not left_of(mark)


@pytest.mark.slow
def test_where_ray_itself_ends_nobody_waits_for_it(
    data: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not importlib.util.find_spec("ray"):
        pytest.skip("needs the extra `ray`")
    monkeypatch.setattr(replicas, "Cluster", Cluster)

    def answer(request: Request, sample: int) -> str:
        time.sleep(1.0)
        return ""

    engine = ReplicaEngine(
        functools.partial(scripted.ScriptedEngine, answer), 2, ray_address=None, batch=6
    )
    with (
        contextlib.closing(engine),
        pytest.raises(UserError, match=r"^Ray on this machine has ended, .* same command"),
    ):
        for made, _ in enumerate(engine.generate(real_requests(data, samples=50), SAMPLING)):
            if not made:
                kill_raylet(mark)
    assert not left_of(mark)


def kill_raylet(mark: str) -> None:
    """Kill the process without which a machine's actors end and none can be started."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            program = (entry / "cmdline").read_text().split("\0")[0]
            if program.endswith("/raylet") and mark in (entry / "environ").read_text():
                os.kill(int(entry.name), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_command_leaves_no_process(
    data: Path, mark: str, tmp_path: Path, kind: signal.Signals
) -> None:
    out = tmp_path / "run"
    argv = command(data, out, "--replicas", "2", "--samples", "100", "--batch-size", "2")
    told = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 150
    while time.monotonic() < until and not (
        (out / "responses.jsonl").exists() and (out / "responses.jsonl").stat().st_size
    ):
        time.sleep(0.1)
    told.send_signal(kind)
    _, said = told.communicate(timeout=60)
    if kind is not signal.SIGKILL:
        assert told.returncode == 130
        assert said.splitlines() == [
            "modgap: interrupted; finished work is kept, give the same command again."
        ]
    assert (out / "responses.jsonl").stat().st_size, "it was at work"
    # Nobody cleans up after a kill -9: Ray's two helpers see by themselves that they are alone.
    assert not left_of(mark, patience=120.0 if kind is signal.SIGKILL else 15.0)


@pytest.mark.slow
def test_a_process_may_have_one_cluster_after_the_other_each_with_a_token_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    from ray._raylet import (
        AuthenticationTokenLoader,
    )  # pyright: ignore[reportAttributeAccessIssue] - before the mode is set

    tokens: list[str] = []
    for _ in range(2):
        cluster = Cluster(None, 1)
        tokens.append(os.environ["RAY_AUTH_TOKEN"])
        cluster.close([], [])
    sent = str(AuthenticationTokenLoader.instance().get_token_for_http_header())
    assert tokens[0] != tokens[1] and not any(token in sent for token in tokens)


@pytest.mark.slow
def test_an_existing_cluster_is_used_and_left_alone(data: Path, tmp_path: Path) -> None:
    ray = str(Path(sys.executable).parent / "ray")
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "5" * 64,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    head = [
        ray,
        "start",
        "--head",
        "--port",
        "6397",
        "--num-cpus",
        "2",
        "--include-dashboard",
        "false",
        "--block",
    ]
    cluster = subprocess.Popen(
        head,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        argv = command(
            data,
            tmp_path / "run",
            "--samples",
            "1",
            "--replicas",
            "2",
            "--ray-address",
            "127.0.0.1:6397",
        )
        until = time.monotonic() + 60
        while True:
            done = subprocess.run(
                argv, capture_output=True, text=True, check=False, env=environment
            )
            if done.returncode == 0 or time.monotonic() > until:
                break
        assert done.returncode == 0, done.stderr
        assert cluster.poll() is None
        assert len((tmp_path / "run" / "responses.jsonl").read_text().splitlines()) == 12
    finally:
        cluster.terminate()
        cluster.wait(30)
    argv = command(data, tmp_path / "other", "--ray-address", "127.0.0.1:6397")
    wrong = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and "no Ray cluster can be used there" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
