"""Several seeds and several jobs at a time: the same studies as one by one, and a failure that takes nothing along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.datasets.synthetic import write_dataset
from modgap.measure import EvalOptions
from modgap.study import resolve_recipes
from modgap.sweep import Jobs, _begins_as, eval_arguments, parse_seeds, run_sweep, visible_accelerators

QUICK = ("steps=1", "prompts_per_step=2", "mini_batch=2", "max_refills=1", "eval_every=0", "validation_problems=0",
         "max_response_tokens=16", "overlong_buffer=8")  # fmt: skip


@pytest.mark.slow
def test_a_sweep_of_parallel_jobs_leaves_the_studies_that_one_process_would(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", 20, 2, seed=3)
    asked = {"benchmark": "synthetic", "settings": QUICK, "options": EvalOptions(samples=1, max_tokens=16)}
    several = run_sweep(
        tmp_path / "data", "tiny", ["full-text", "curriculum"], tmp_path / "several", seeds=(1,), jobs=2, **asked
    )
    alone = run_sweep(tmp_path / "data", "tiny", ["full-text", "curriculum"], tmp_path / "alone", seeds=(1,), **asked)
    [study], [other] = several, alone
    assert study.name == other.name == "seed1"
    for name in ("base", "full-text", "curriculum"):
        mine, theirs = ({r.key: r.response for r in RunFolder(f / name / "eval").responses()} for f in (study, other))
        assert mine == theirs
    assert (study / "curriculum" / "stage1").is_symlink(), "the stage that both begin with is trained once"
    assert {path.name for path in (tmp_path / "several" / "logs").iterdir()} >= {
        "seed1_base.log",
        "seed1_full-text.log",
    }


def test_a_recipe_waits_for_the_one_that_it_shares_the_most_stages_with() -> None:
    plans = resolve_recipes(["kl-curriculum", "curriculum", "kl", "no-text", "full-text"], ())
    waits = {name: _begins_as(recipe, plans) for name, recipe in plans.items()}
    assert waits["full-text"] is None and waits["no-text"] is None
    assert waits["curriculum"] == waits["kl"] == "full-text"
    assert waits["kl-curriculum"] == "kl"


def test_a_failing_job_takes_only_those_along_that_wait_for_it(tmp_path: Path) -> None:
    good = tmp_path / "good"

    def synth(out: Path) -> list[str]:
        return ["data", "synth", "--out", str(out), "--train", "0", "--test", "1"]

    with Jobs(2, tmp_path / "logs") as jobs:
        jobs.add("bad", (lambda: ["data", "synth", "--out", "/dev/null/x", "--test", "1"],))
        jobs.add("child", (lambda: synth(tmp_path / "never"),), after="bad")
        jobs.add("good", (lambda: synth(good),))
        with pytest.raises(UserError, match=r"2 of 3 jobs failed, the first is bad: exit 1, .*bad\.log"):
            jobs.run()
    assert (good / "test.json").exists() and not (tmp_path / "never").exists()


def test_the_accelerator_with_the_least_to_do_is_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    jobs = Jobs(4, tmp_path)

    def device(slot: object) -> str:
        return slot.__enter__()["CUDA_VISIBLE_DEVICES"]  # type: ignore[attr-defined]

    first, second, third, fourth = (jobs._slot() for _ in range(4))
    assert [device(first), device(second), device(third)] == ["4", "7", "4"]
    second.__exit__(None, None, None)  # two jobs on 4, none on 7
    assert device(fourth) == "7"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_leaves_no_process(tmp_path: Path, kind: signal.Signals) -> None:
    write_dataset(tmp_path / "data", 20, 2, seed=3)
    mark = f"kl_coef=0.{os.getpid()}"  # of no use to the recipe, but in the command line of every training
    command = [sys.executable, "-m", "modgap", "study", "--data", "data", "--benchmark", "synthetic", "--model", "tiny",
               "--recipes", "full-text", "--out", "out", "--seeds", "0,1", "--jobs", "2", "--set", mark]  # fmt: skip
    told = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not _running(mark, told.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert _running(mark, told.pid), "the sweep started its jobs"
    told.send_signal(kind)
    _, said = told.communicate(timeout=60)
    assert told.returncode == 130 and "interrupted" in said
    assert not _running(mark, told.pid)


def _running(mark: str, parent: int) -> list[int]:
    """Processes below a parent, zombies left out, whose command line has a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (parent, os.getpid()):
            try:
                words = (entry / "cmdline").read_text()
            except OSError:
                continue
            if mark in words and "seed=" in words:  # the jobs, not the sweep itself
                found.append(int(entry.name))
    return found


def test_options_become_the_arguments_that_give_them() -> None:
    from modgap.cli import app

    options = EvalOptions(views="image-only", samples=2, temperature=0.0, engine_args=("a=1", "b=2"), batch_size=7)
    words = ["eval", "--data", "d", "--model", "m", "--out", "o", *eval_arguments(options)]
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    told = bound.arguments
    assert (told["views"], told["samples"], told["temperature"]) == ("image-only", 2, 0.0)
    assert (told["engine_args"], told["batch_size"]) == (("a=1", "b=2"), 7)
    assert eval_arguments(EvalOptions()) == []


@pytest.mark.parametrize("given", ["0,x", "1.5"])
def test_seeds_that_are_no_numbers_are_refused(given: str) -> None:
    with pytest.raises(UserError, match=f"--seeds {given}: give whole numbers"):
        parse_seeds(given)


def test_seeds_and_a_seed_setting_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--set stage2\.seed=4 and --seeds exclude each other"):
        run_sweep(tmp_path, "tiny", ["kl"], tmp_path, seeds=(0,), settings=("stage2.seed=4",))
    with pytest.raises(UserError, match="give each seed once"):
        run_sweep(tmp_path, "tiny", ["kl"], tmp_path, seeds=(0, 0))


def test_the_mask_of_visible_accelerators_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-abc")
    assert visible_accelerators() == ["3", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_accelerators() == []
