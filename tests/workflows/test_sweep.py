"""Several seeds and several jobs at a time: the same studies as one by one, and a failure that
takes nothing along.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from asking import spec
from mathverse_data import rows, write_parquet
from mathverse_rows import with_images
from written_studies import write_studies

import modgap
from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions, parse_seeds
from modgap.core.record import RunFolder
from modgap.datasets.synthetic import write_dataset
from modgap.models.load import tiny_folder
from modgap.workflows import jobs, sweep
from modgap.workflows.jobs import Scheduler, Step, eval_arguments, visible_accelerators
from modgap.workflows.problems import read_problems
from modgap.workflows.study import prepare_study
from modgap.workflows.sweep import _begins_as, run_sweep
from modgap.workflows.train import resolve_recipes

QUICK = ("steps=1", "prompts_per_step=2", "mini_batch=2", "max_refills=1", "eval_every=0",
         "validation_problems=0", "max_response_tokens=16", "overlong_buffer=8")  # fmt: skip


@pytest.mark.slow
def test_a_sweep_of_parallel_jobs_leaves_the_studies_that_one_process_would(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", 20, 2, seed=3)
    asked = {
        "benchmark": "synthetic",
        "settings": QUICK,
        "options": EvalOptions(samples=1, max_tokens=16),
    }
    several = run_sweep(
        spec(
            tmp_path / "data",
            "tiny",
            ["full-text", "curriculum"],
            tmp_path / "several",
            seeds=(1,),
            jobs=2,
            **asked,
        )
    )
    alone = run_sweep(
        spec(
            tmp_path / "data",
            "tiny",
            ["full-text", "curriculum"],
            tmp_path / "alone",
            seeds=(1,),
            **asked,
        )
    )
    [study], [other] = several, alone
    assert study.name == other.name == "seed1"
    for name in ("base", "full-text", "curriculum"):
        mine, theirs = (
            {r.key: r.response for r in RunFolder(f / name / "eval").responses()}
            for f in (study, other)
        )
        assert mine == theirs
    assert (study / "curriculum" / "stage1").is_symlink(), (
        "the stage that both begin with is trained once"
    )
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
    def synth(out: Path) -> list[Step]:
        return [
            Step(1, lambda: ["data", "synth", "--out", str(out), "--train", "0", "--test", "1"])
        ]

    def no_checkpoint() -> list[str]:
        raise UserError("there is no checkpoint")

    scheduler = Scheduler(2)
    scheduler.add("child", synth(tmp_path / "never"), tmp_path / "child.log", after="bad")
    bad = [Step(1, lambda: ["data", "synth", "--out", "/dev/null/x", "--test", "1"])]
    scheduler.add("bad", bad, tmp_path / "logs" / "bad.log")
    scheduler.add("raises", [Step(1, no_checkpoint)], tmp_path / "raises.log")
    scheduler.add(
        "grandchild", synth(tmp_path / "never"), tmp_path / "grandchild.log", after="child"
    )
    scheduler.add("good", synth(tmp_path / "good"), tmp_path / "good.log")
    errors = {job.name: job.error for job in scheduler.run()}
    assert list(errors) == ["child", "bad", "raises", "grandchild"]
    assert (tmp_path / "good" / "test.json").exists() and not (tmp_path / "never").exists()
    assert errors["child"] == "not begun, it waits for bad"
    assert "/dev/null" in errors["bad"] and errors["bad"].endswith("bad.log)")
    assert errors["raises"] == "there is no checkpoint" and errors["grandchild"].endswith(
        "waits for child"
    )


class Ran:
    """In the place of a process: runs for some polls, and says what it was given."""

    seen: ClassVar[list[Ran]] = []

    def __init__(
        self, arguments: list[str], log: Path, *, mask: str | None = None, at_once: int = 1
    ) -> None:
        self.arguments, self.mask, self.left = arguments, mask, 3
        now = [ran for ran in self.seen if ran.left > 0]
        self.with_it = [
            device for ran in [*now, self] if ran.mask for device in ran.mask.split(",")
        ]
        self.at_once = len(now) + 1
        self.seen.append(self)

    def poll(self) -> int | None:
        self.left -= 1
        return None if self.left > 0 else 0

    @staticmethod
    def end(processes: Iterable[object]) -> None:
        assert not list(processes)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Ran]:
    monkeypatch.setattr(jobs, "Process", Ran)
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    monkeypatch.setattr(Ran, "seen", [])
    return Ran.seen


def test_jobs_share_accelerators_only_when_there_are_more_jobs(
    tmp_path: Path, ran: list[Ran]
) -> None:
    for at_once, most in ((3, 1), (6, 2)):
        ran.clear()
        scheduler = Scheduler(at_once, ["4", "7", "GPU-a"])
        for number, width in enumerate((1, 2, 1, 3, 1, 0, 2, 1)):
            steps = [Step(width, lambda width=width: [str(width)]), Step(1, lambda: ["1"])]
            scheduler.add(f"job {number}", steps, tmp_path / f"{number}.log")
        assert scheduler.run() == []
        assert len(ran) == 16 and max(one.at_once for one in ran) <= at_once
        assert max(Counter(one.with_it).most_common(1)[0][1] for one in ran if one.with_it) == most
        for one in ran:
            assert len(set(one.mask.split(",")) if one.mask else ()) == int(one.arguments[0])
        assert {one.mask for one in ran[:3]} >= {"4", "7,GPU-a"}


@pytest.mark.parametrize(("at_once", "runs", "said"), [(3, False, 1), (1, False, 0), (3, True, 0)])
def test_jobs_that_take_turns_on_a_gpu_name_mps_where_it_is_installed(
    tmp_path: Path, ran: list[Ran], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], at_once: int, runs: bool, said: int,
) -> None:  # fmt: skip
    program = tmp_path / "bin" / "nvidia-cuda-mps-control"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    if runs:
        (tmp_path / "control").touch()
    scheduler = Scheduler(at_once, ["0"])
    for number in range(3):
        scheduler.add(f"job {number}", [Step(1, lambda: ["1"])], tmp_path / f"{number}.log")
    assert scheduler.run() == [] and len(ran) == 3
    assert capsys.readouterr().err.count("nvidia-cuda-mps-control -d") == said


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", 6, 2, seed=3)
    return tmp_path / "data"


def commands_of(
    data: Path, ran: list[Ran], monkeypatch: pytest.MonkeyPatch, options: EvalOptions, **asked: Any
) -> dict[str, Ran]:
    """What a sweep on four accelerators would run, by the folder that it writes."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(sweep.Study, "run", lambda study: {})
    monkeypatch.setattr("modgap.training.checkpoint.final_checkpoint", lambda folder: folder)
    out = data.parent / "out"
    run_sweep(
        spec(data, "tiny", ["kl"], out, jobs=4, benchmark="synthetic", options=options, **asked)
    )
    return {
        str(Path(one.arguments[one.arguments.index("--out") + 1]).relative_to(out)): one
        for one in ran
    }


def test_a_device_is_for_all_jobs_and_found_by_them(
    data: Path, ran: list[Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = commands_of(data, ran, monkeypatch, EvalOptions(device="cuda:1"))
    assert found.keys() == {"base/eval", "kl", "kl/eval"}
    for one in found.values():
        assert one.mask is None, "with one GPU in the mask there would be no cuda:1"
        assert one.arguments[one.arguments.index("--device") + 1] == "cuda:1"


def test_jobs_get_the_preset_its_style_and_the_checkpoint_to_start_from(
    data: Path, ran: list[Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkpoints = tmp_path / "run/stage1/checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "step_9").symlink_to(tiny_folder(), target_is_directory=True)
    start = f"{tmp_path / 'run'}:stage1:step_9"
    found = commands_of(
        data, ran, monkeypatch, EvalOptions(), preset="paper-3b", start_from=start,
        settings=["steps=2"],
    )  # fmt: skip
    for one in found.values():
        assert one.arguments[one.arguments.index("--style") + 1] == "paper"
    words = found["kl"].arguments
    assert words[words.index("--preset") + 1] == "paper-3b"
    assert words[words.index("--start-from") + 1] == start
    assert words[words.index("--set") + 1] == "steps=2"


def test_a_study_with_a_preset_validates_on_the_whole_test_split(data: Path) -> None:
    asked = spec(
        data, "tiny", ["kl"], data.parent / "out", preset="paper-7b", limit=1,
        benchmark="synthetic", settings=["stage2.steps=3"], options=EvalOptions(style="aligned"),
    )  # fmt: skip
    with prepare_study(asked) as study:
        assert study.spec.options.style == "aligned"  # an option overrides the preset
        assert [stage.settings.steps for stage in study.recipes["kl"].stages] == [200, 3]
        assert [p.split for p in study.sets.trained_on] == ["train"] * 6 + ["test"] * 2
        assert len(study.sets.test) == 1


@pytest.mark.parametrize(
    ("options", "width"),
    [
        (EvalOptions(replicas=2), 2),
        (EvalOptions(engine="vllm", engine_args=("tensor_parallel_size=2",), replicas=2), 4),
        (EvalOptions(device="cuda"), 1),
        (EvalOptions(ray_address="auto"), 0),
    ],
)
def test_an_evaluation_gets_as_many_accelerators_as_it_needs(
    data: Path, ran: list[Ran], monkeypatch: pytest.MonkeyPatch, options: EvalOptions, width: int
) -> None:
    monkeypatch.setattr("modgap.core.options.require", lambda *_: None)
    found = commands_of(data, ran, monkeypatch, options)
    widths = {name: len(one.mask.split(",")) if one.mask else 0 for name, one in found.items()}
    assert widths == {"base/eval": width, "kl": 1, "kl/eval": width}


def test_the_base_model_is_measured_once_for_all_seeds(
    data: Path, ran: list[Ran], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = commands_of(data, ran, monkeypatch, EvalOptions(), seeds=(0, 1, 2))
    started = re.findall(r"\] (seed0 .*) started on", capsys.readouterr().err)
    assert sorted(started) == ["seed0 base: measuring", "seed0 kl: measuring", "seed0 kl: training"]
    assert [name for name in found if "base" in name] == ["seed0/base/eval"]
    out = data.parent / "out"
    assert all(
        (out / f"seed{seed}" / "base").resolve() == out / "seed0" / "base" for seed in (1, 2)
    )
    ran.clear()  # nothing was measured, and the next command leaves out the study that was to do it
    assert "seed2/base/eval" in commands_of(data, ran, monkeypatch, EvalOptions(), seeds=(2, 1))


def test_every_model_is_measured_on_the_other_sets_too(
    data: Path, ran: list[Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_parquet(data.parent / "mathverse.parquet", with_images(rows(1)))
    options = EvalOptions(views="full-text", samples=2)
    also = (f"mathverse={other}",)
    found = commands_of(data, ran, monkeypatch, options, also=also, seeds=(0, 1), limit=1)
    on = {name: one.arguments for name, one in found.items() if "mathverse" in name}
    assert set(on) == {f"seed{n}/kl/eval-on-mathverse" for n in (0, 1)} | {
        "seed0/base/eval-on-mathverse"
    }
    for words in on.values():
        assert words[words.index("--data") + 1] == str(other)
        assert words[words.index("--benchmark") + 1] == "mathverse"
        assert (
            words[words.index("--limit") + 1] == "1" and words[words.index("--samples") + 1] == "2"
        )
        assert "--views" not in words, "the views are those of the set"
    model = on["seed1/kl/eval-on-mathverse"]
    assert model[model.index("--model") + 1].endswith("seed1/kl/stage2")


def test_what_cannot_be_run_is_refused_before_anything_is(
    data: Path, ran: list[Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(words: str, options: EvalOptions | None = None, **asked: Any) -> None:
        with pytest.raises(UserError, match=words):
            commands_of(data, ran, monkeypatch, options or EvalOptions(), **asked)
        assert not ran

    refused(r"needs 6 accelerators .* there are 4", EvalOptions(replicas=6))
    refused(r"--jobs 4: a training of --engine verl takes all visible GPUs", engine="verl")
    refused(r"--set verl\.x: only --engine verl", settings=["verl.x=1"])
    refused(r"version of MathVerse's", EvalOptions(views="text-lite"))
    out = data.parent / "out"
    with prepare_study(
        spec(data, "tiny", ["kl"], out / "seed1", benchmark="synthetic", options=EvalOptions())
    ):
        refused(r"another process is writing .*seed1", seeds=(0, 1))
    refused(r"holds a study made with --seeds 0,1: give them, or another --out")
    shutil.rmtree(out)
    with prepare_study(
        spec(data, "tiny", ["kl"], out, benchmark="synthetic", options=EvalOptions())
    ):
        pass
    refused(r"style was 'aligned', now 'paper'", EvalOptions(style="paper"))
    refused(r"holds a study made without --seeds: leave --seeds out", seeds=(0,))
    train, test = (json.loads((data / f"{split}.json").read_text()) for split in ("train", "test"))
    (data / "test.json").write_text(json.dumps({**test, **dict([next(iter(train.items()))])}))
    refused(r"1 test problem in train, too")
    (data / "train.json").unlink()
    refused(r"train\.json")


def test_a_setting_that_nothing_uses_is_said_once_before_anything_runs(
    data: Path, ran: list[Ran], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "warning: --set max_refills=3 changes nothing"
    settings = ("dynamic_sampling=false", "max_refills=3", "kl_coef=1")
    commands_of(data, ran, monkeypatch, EvalOptions(), settings=settings, seeds=(0, 1))
    said = capsys.readouterr().err
    assert said.count("changes nothing") == 1 and words in said  # `kl` uses kl_coef

    def refused(*_: object, **__: object) -> None:
        raise UserError("not here")

    monkeypatch.setattr("modgap.workflows.train.train_resolved", refused)
    out = data.parent / "alone"
    with pytest.raises(UserError, match="not here"):
        modgap.train(
            "kl", read_problems("synthetic", data, "train"), "tiny", out, settings=settings
        )
    assert words in capsys.readouterr().err
    asked = ["train", "kl", "--data", str(data), "--model", "tiny", "--out", str(out), "--set"]
    assert main([*asked, *settings]) == 1 and words in capsys.readouterr().err


def test_the_studies_are_held_while_their_jobs_run(
    data: Path, ran: list[Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []

    def poll(self: Ran) -> int:
        with (
            pytest.raises(UserError, match="another process is writing"),
            RunFolder(data.parent / "out").lock(),
        ):
            pass
        held.append(True)
        return 0

    monkeypatch.setattr(Ran, "poll", poll)
    commands_of(data, ran, monkeypatch, EvalOptions())
    assert len(held) == 3
    with RunFolder(data.parent / "out").lock():
        pass


def test_a_killed_scheduler_takes_its_jobs_along_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With jobs that load no model; the slow test below kills a whole study."""
    from processes_left import left_of

    mark = f"jobs-{os.getpid()}-{time.monotonic_ns()}"
    monkeypatch.setenv("MODGAP_TEST_MARK", mark)
    outs, logs = ([tmp_path / f"{name}{end}" for name in "ab"] for end in ("", ".log"))
    program = (
        "import sys; from pathlib import Path; from modgap.workflows.jobs import Scheduler, Step\n"
        "scheduler = Scheduler(2)\n"
        "for out in sys.argv[1:]:\n"
        "    words = ['data', 'synth', '--train', '100000', '--out', out]\n"
        "    scheduler.add(out, [Step(1, lambda words=words: words)], Path(out + '.log'))\n"
        "scheduler.run()"
    )
    told = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, outs)], stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 100
        while time.monotonic() < until and not all(any(out.rglob("*.png")) for out in outs):
            time.sleep(0.02)
        assert all(any(out.rglob("*.png")) for out in outs), "the jobs were at work"
    finally:
        told.kill()
        told.wait()
    assert not left_of(mark, patience=90.0)
    assert all("interrupted" in log.read_text() for log in logs), (
        "they were asked to end, not killed"
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_whatever_ends_a_sweep_ends_its_jobs_in_order(
    tmp_path: Path, kind: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    from processes_left import left_of

    write_dataset(tmp_path / "data", 20, 2, seed=3)
    mark = f"sweep-{os.getpid()}-{time.monotonic_ns()}"
    monkeypatch.setenv("MODGAP_TEST_MARK", mark)
    command = [sys.executable, "-m", "modgap", "study", "--data", "data", "--benchmark",
               "synthetic", "--model", "tiny", "--recipes", "full-text", "--out", "out", "--seeds",
               "0,1", "--jobs", "2", "--samples", "2000"]  # fmt: skip
    # SIGTERM comes to one that ignores SIGINT, as after nohup or in a shell's background, and so do
    # its jobs
    handler = signal.default_int_handler if kind is signal.SIGINT else signal.SIG_IGN
    before = signal.signal(signal.SIGINT, handler)
    try:
        told = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    logs = [tmp_path / "out" / "logs" / f"seed0_{name}.log" for name in ("base", "full-text")]
    runs = [
        tmp_path / "out" / "seed0" / name / "manifest.json" for name in ("base/eval", "full-text")
    ]
    try:
        until = time.monotonic() + 150  # a busy machine takes a minute to load torch four times
        while time.monotonic() < until and not all(run.exists() for run in runs):
            time.sleep(0.1)
        assert all(run.exists() for run in runs), "the jobs were at work"
        told.send_signal(kind)
        _, said = told.communicate(timeout=60)
    finally:
        told.kill()  # and with it the jobs, if the test failed before
    assert told.returncode == (-9 if kind is signal.SIGKILL else 130)
    assert kind is signal.SIGKILL or "interrupted" in said
    # A killed parent waits for nobody: its jobs still end, which takes a busy machine longer.
    assert not left_of(mark, patience=90.0)
    assert all("interrupted" in log.read_text() for log in logs), (
        "they were asked to end, not killed"
    )


def test_options_become_the_arguments_that_give_them() -> None:
    from modgap.cli.main import app

    options = EvalOptions(
        views="image-only", samples=2, temperature=0.0, engine_args=("a=1", "b=2"), batch_size=7
    )
    words = ["eval", "--data", "d", "--model", "m", "--out", "o", *eval_arguments(options)]
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert bound.arguments["options"] == options
    assert eval_arguments(EvalOptions()) == []


@pytest.mark.parametrize("given", ["0,x", "1.5"])
def test_seeds_that_are_no_numbers_are_refused(given: str) -> None:
    with pytest.raises(UserError, match=f"--seeds {given}: give whole numbers"):
        parse_seeds(given)


def test_the_report_keeps_the_seeds_of_an_earlier_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = write_studies(tmp_path, seeds=3)
    for study in studies[:2]:
        (study / "summary.json").write_text("{}")  # it is finished
    monkeypatch.setattr(sweep, "run_sweep", lambda *_, **__: {studies[0]: None})
    numbers = sweep.study(spec(tmp_path, "tiny", ["kl"], tmp_path, seeds=(0,)))
    assert {seed for seed in range(3) if f"seed{seed}" in " ".join(numbers.runs)} == {0, 1}
    assert numbers.seeds, "a table over both"
    said = capsys.readouterr().err
    assert f"seeds of {tmp_path}: 1\n" in said and "not finished: seeds 2\n" in said


def test_seeds_and_a_seed_setting_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--set stage2\.seed=4 and --seeds exclude each other"):
        run_sweep(spec(tmp_path, "tiny", ["kl"], tmp_path, seeds=(0,), settings=("stage2.seed=4",)))
    with pytest.raises(UserError, match="give each seed once"):
        run_sweep(spec(tmp_path, "tiny", ["kl"], tmp_path, seeds=(0, 0)))


def test_the_mask_of_visible_accelerators_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-abc")
    assert visible_accelerators() == ["3", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_accelerators() == []
