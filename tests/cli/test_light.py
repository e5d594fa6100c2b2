"""What a plain `pip install modgap` does: everything but loading a model here.

The packages of the extras are blocked in a process of its own; the slow test has an environment
without them, made from the wheel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_server import KEY, Server

from modgap.core.installation import OPTIONAL, module_of

ROOT = Path(__file__).parents[2]
ABSENT = sorted({module_of(name) for name in OPTIONAL if name != "openai"} | {"pandas", "datasets"})
BLOCKED = f"""
import contextlib, io, json, sys
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: (
    None if name.partition(".")[0] in {ABSENT} else find_spec(name, *more)
)
from modgap.cli.main import main
for command in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(None):
        status = main(command)
    print(json.dumps([status, errors.getvalue()]))
"""


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    yield served
    served.close()


def light(*commands: list[str]) -> list[tuple[int, str]]:
    """The exit code and the messages of commands in one process without the extras' packages."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], input=json.dumps(commands), text=True, check=True,
        capture_output=True, env={**os.environ, "OPENAI_API_KEY": KEY}, timeout=150,
    )  # fmt: skip
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_everything_but_loading_a_model_works(server: Server, tmp_path: Path) -> None:
    data, run, page, parquet, imported, gt, answers = (
        str(tmp_path / name)
        for name in ("geo", "run", "p.html", "parquet", "imported", "test.json", "x_full_cond")
    )
    Path(gt).write_text(json.dumps({"prob_1": {"answer": "25.000"}}))
    Path(answers).mkdir()
    (Path(answers) / "qprob_1_attempt1.txt").write_text("\\boxed{25}")
    served = ["--model", "geo-vl", "--engine", "openai", "--base-url", server.url]
    commands = (
        ["data", "synth", "--out", data, "--train", "1", "--test", "2"],
        ["data", "check", data],
        ["data", "prepare", data, "--out", parquet, "--variant", "full-text"],
        ["eval", "--data", data, *served, "--samples", "2", "--out", run],
        ["grade", run, "--mode", "relative"],
        ["report", run, "--out", page, "--figures"],
        ["power", "--gap", "5", "--text-accuracy", "0.6", "--run", run],
        ["import", answers, "--gt", gt, "--out", imported],
        ["doctor"],
    )
    for command, (status, said) in zip(commands, light(*commands), strict=True):
        assert status == 0, (command, said)
    assert Path(page).stat().st_size > 10_000
    assert json.loads((Path(run) / "summary.json").read_text())["n_problems"] == 2


def test_what_needs_a_model_here_says_what_to_install(tmp_path: Path) -> None:
    data, out = str(tmp_path / "geo"), str(tmp_path / "out")
    torch, training = "torch is not installed: ", "[train]', for training."
    refused = {
        f"eval --data {data} --model tiny --out {out}": torch,
        f"eval --data {data} --model a/b --engine vllm --out {out}": "vllm is not installed: ",
        f"train kl --data {data} --model tiny --out {out}": training,
        f"train kl --data {data} --model tiny --dry-run": training,
        f"study --data {data} --model tiny --recipes kl --out {out}": torch,
        f"demo --out {out}": training,
        f"model pretrain --out {out}": training,
        f"convert {data} --out {out}": torch,
    }
    make = ["data", "synth", "--out", data, "--train", "1", "--test", "1"]
    _, *results = light(make, *(command.split() for command in refused))
    for (command, words), (status, said) in zip(refused.items(), results, strict=True):
        assert status == 1 and words in said and said.count("\n") == 1, (command, said)
    assert not Path(out).exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_wheel_measures_a_served_model_where_there_is_no_torch(
    server: Server, tmp_path: Path
) -> None:
    """The sdist is built, the wheel from it, and that is installed in a new environment."""

    def run(*command: str | Path) -> str:
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH",)
        }
        done = subprocess.run(
            [str(part) for part in command], cwd=tmp_path, text=True, check=False,
            capture_output=True, env={**environment, "OPENAI_API_KEY": KEY},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    builder, plain, dist = tmp_path / "builder", tmp_path / "plain", tmp_path / "dist"
    run(sys.executable, "-m", "venv", builder)
    run(builder / "bin/pip", "install", "-q", "build")
    run(builder / "bin/python", "-m", "build", "-o", dist, ROOT)
    (wheel,) = dist.glob("*.whl")
    run(sys.executable, "-m", "venv", plain)
    run(plain / "bin/pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[openai]")
    found = {line.partition("=")[0].lower() for line in run(plain / "bin/pip", "freeze").split()}
    assert not found & (OPTIONAL.keys() - {"openai"})
    modgap = plain / "bin/modgap"
    served = ["--model", "geo-vl", "--engine", "openai", "--base-url", server.url]
    run(modgap, "eval", "--benchmark", "synthetic", "--limit", "3", *served, "--out", "run")
    run(modgap, "report", "run", "--out", "page.html", "--figures")
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert "engines that can be used here: openai" in run(modgap, "doctor")
