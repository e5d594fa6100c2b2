"""A whole study with the bundled testbed model: real problems made here, real updates, one report;
and kill -9.
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import mathverse_data as made
import pytest
from asking import spec
from geometry3k_data import write_splits
from mathverse_rows import with_images

from modgap.analysis.results import ReportSummary
from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.recipe import Settings
from modgap.core.record import RunFolder
from modgap.core.view import VERSION_VIEWS
from modgap.datasets.synthetic import benchmark, write_dataset
from modgap.workflows import jobs
from modgap.workflows.study import also_sets, prepare_study, run_study
from modgap.workflows.sweep import study as run_again
from modgap.workflows.train import resolve_recipe, resolve_recipes

# At this temperature most groups are mixed, so that two are soon found.
SETTINGS = (
    "steps=1", "prompts_per_step=2", "mini_batch=2", "temperature=1.3", "validation_problems=2",
    "lr=1e-4",
)  # fmt: skip
TEST = 2  # problems
OPTIONS = EvalOptions(samples=2, max_tokens=24)  # as short as an answer can be cut


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, 24, TEST, seed=3, workers=1)
    return folder


@pytest.fixture(scope="module")
def study(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "study"
    run_study(
        spec(
            data,
            "tiny",
            ("kl", "full-text"),
            out,
            benchmark="synthetic",
            settings=SETTINGS,
            options=OPTIONS,
        )
    )
    return out


def exactly_once(folder: Path, samples: int, problems: int) -> bool:
    counts = Counter(row.key for row in RunFolder(folder).responses())
    return set(counts.values()) == {1} and len(counts) == 2 * samples * problems


def test_a_study_leaves_what_its_contract_says(study: Path) -> None:
    for run in ("base", "full-text", "kl"):
        assert exactly_once(study / run / "eval", 2, TEST)
        summary = json.loads((study / run / "eval" / "summary.json").read_text())
        assert {"points", "ci_low", "ci_high", "p_value", "table"} <= set(summary["gap"])
    assert [path.parent.parent.name for path in sorted(study.glob("**/responses.jsonl"))] == [
        "base",
        "full-text",
        "kl",
    ]
    assert (study / "kl" / "stage2" / "checkpoints" / "step_1" / "model.safetensors").exists()
    numbers = json.loads((study / "summary.json").read_text())
    assert set(numbers["runs"]) == {"base", "full-text", "kl"}
    assert "<script" in (study / "report.html").read_text()


def test_the_updates_are_real(study: Path) -> None:
    """The testbed model solves some samples of a problem and not others, so groups are kept and
    gradients flow.
    """
    for stage in ("full-text/stage1", "kl/stage2"):
        (row,) = map(json.loads, (study / stage / "train_log.jsonl").read_text().splitlines())
        assert row["kept_groups"] > 0 and row["grad_norm"] > 0
    assert row["eligible_rows"] > 0 and row["contrastive_kl"] > 0
    weights = [
        study / name / "checkpoints/step_1/model.safetensors"
        for name in ("full-text/stage1", "kl/stage2")
    ]
    assert weights[0].read_bytes() != weights[1].read_bytes()


def test_recipes_that_begin_alike_share_that_stage(study: Path) -> None:
    shared = study / "full-text" / "stage1"
    assert shared.is_symlink() and shared.resolve() == (study / "kl" / "stage1").resolve()
    assert not os.path.isabs(os.readlink(shared)), "a study can be moved"


def test_other_arguments_are_refused(
    study: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "study",
        "--data",
        str(data),
        "--model",
        "tiny",
        "--out",
        str(study),
        "--benchmark",
        "synthetic",
    ]
    assert main([*arguments, "--recipes", "full-text", "--samples", "1", "--set", *SETTINGS]) == 1
    assert re.search(r"samples was 2, now 1", capsys.readouterr().err)
    assert main([*arguments, "--recipes", "fulltext"]) == 1
    assert "Did you mean 'full-text'" in capsys.readouterr().err


def again(study: Path, data: Path, **changes: Any) -> ReportSummary:
    """The study's command, given again with changes."""
    asked: dict[str, Any] = {"benchmark": "synthetic", "settings": SETTINGS, "options": OPTIONS}
    return run_again(spec(data, "tiny", ("kl", "full-text"), study, **(asked | changes)))


@pytest.fixture
def copied(study: Path, tmp_path: Path) -> Path:
    return shutil.copytree(study, tmp_path / "study", symlinks=True)


class Started:
    """Replaces a process: succeeds at once and does nothing."""

    out: ClassVar[list[str]] = []

    def __init__(self, arguments: list[str], *_: object, **__: object) -> None:
        self.out.append(arguments[arguments.index("--out") + 1])

    def poll(self) -> int:
        return 0

    @staticmethod
    def end(processes: Iterable[object]) -> None:
        assert not list(processes)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders for which a job started a process."""
    monkeypatch.setattr(jobs, "Process", Started)
    monkeypatch.setattr(Started, "out", [])
    return Started.out


@pytest.fixture
def nothing_starts(started: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither a process of a job nor a model."""
    for loads in ("modgap.models.load.load_policy", "modgap.engines.hf.load_engine"):
        monkeypatch.setattr(loads, lambda *_, **__: pytest.fail("a model was loaded"))
    yield
    assert not started


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"settings": (*SETTINGS, "lr=2e-4")},
            r"kl/stage1 holds .*: lr was 0\.0001, now 0\.0002\.",
        ),
        ({"settings": (*SETTINGS, "stage2.kl_coef=1")}, r"kl/stage2 .*: kl_coef was 0\.01, now 1"),
        ({"options": replace(OPTIONS, samples=1)}, r"eval holds .*: samples was 2, now 1\."),
        ({"options": replace(OPTIONS, max_tokens=9)}, r"eval holds .*: max_tokens was 24, now 9"),
        (
            {"limit": 1},
            r"(?=.*--limit cannot\.$)study holds .*: --limit was not given, now 1\.",
        ),
        (
            {"settings": (*SETTINGS, "validation_problems=3")},
            r"kl/stage1 holds .*: validation_problems was 2, now 3\. Give",
        ),
    ],
)
def test_a_changed_setting_is_refused_before_anything_starts(
    copied: Path, data: Path, jobs: int, changes: dict[str, Any], words: str
) -> None:
    if "settings" in changes:
        shutil.rmtree(copied / "base")  # what is missing is not made first
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=words + r".*(Give the same arguments|another --out)"):
        again(copied, data, jobs=jobs, **changes)
    after = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert {path.name for path in after.keys() - before.keys()} <= {".lock"}
    assert before.items() <= after.items()


@pytest.mark.usefixtures("nothing_starts")
def test_other_problems_are_refused_by_the_options_that_choose_them(
    copied: Path, data: Path, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "other", 24, TEST, seed=4, workers=1)
    words = f"--data was {data}, now {tmp_path / 'other'}. Give the same"
    with pytest.raises(UserError, match=re.escape(words)) as refused:
        again(copied, tmp_path / "other")
    assert "fingerprint" not in str(refused.value)
    shutil.copytree(data, tmp_path / "changed")
    manifest = copied / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(data), str(tmp_path / "changed")))
    test = tmp_path / "changed" / "test.json"
    test.write_text(test.read_text().replace('"answer": "', '"answer": "1'))
    with pytest.raises(UserError, match=r"the test problems have changed \(--limit, --data\)"):
        again(copied, tmp_path / "changed")


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_evaluation_without_its_manifest_is_refused_before_anything_starts(
    copied: Path, data: Path, jobs: int
) -> None:
    (copied / "full-text" / "eval" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"full-text/eval has lost its manifest\.json: it holds"):
        again(copied, data, jobs=jobs)


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_finished_study_starts_nothing_and_says_so(
    copied: Path, data: Path, jobs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied / "summary.json").read_bytes()
    again(copied, data, jobs=jobs)
    said = capsys.readouterr().err
    assert all(f"{name}: finished" in said for name in ("base", "kl", "full-text"))
    assert "training" not in said and "measuring" not in said
    assert (copied / "summary.json").read_bytes() == before


def test_a_process_is_started_only_for_what_is_missing(
    copied: Path, data: Path, started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    responses = copied / "kl" / "eval" / "responses.jsonl"
    lines = responses.read_text().splitlines(keepends=True)
    responses.write_text("".join(lines[:-1]) + lines[-1][:20])  # as after kill -9
    shutil.rmtree(copied / "full-text" / "eval")
    again(copied, data, jobs=2)
    assert sorted(started) == [str(copied / "full-text" / "eval"), str(copied / "kl" / "eval")]
    assert "full-text: measuring started on" in capsys.readouterr().err
    assert exactly_once(copied / "kl" / "eval", 2, TEST)


def test_what_was_interrupted_is_not_complete(copied: Path, data: Path) -> None:
    asked = spec(
        data, "tiny", ("kl", "full-text"), copied, benchmark="synthetic", settings=SETTINGS,
        options=OPTIONS,
    )  # fmt: skip
    with prepare_study(asked) as study:
        every = {"base/eval", "kl", "kl/eval", "full-text", "full-text/eval"}
        assert study.complete == every
    (copied / "kl" / "stage2" / "result.json").unlink()
    with prepare_study(asked) as study:
        assert study.complete == every - {"kl", "kl/eval"}
    more = replace(asked, options=replace(OPTIONS, samples=3))  # extends the evaluations
    with prepare_study(more) as study:
        assert study.complete == {"full-text"}


def test_settings_come_from_the_paper_then_the_model_then_the_user() -> None:
    paper = resolve_recipe("kl", [])
    assert paper.stages[0].settings == Settings(steps=200) and paper.stages[1].settings.steps == 100
    small = resolve_recipe("kl", ["stage2.lr=1"], {"training": {"steps": 7, "lr": 1e-3}})
    assert [stage.settings.steps for stage in small.stages] == [7, 7]
    assert [stage.settings.lr for stage in small.stages] == [1e-3, 1.0]


def test_a_setting_of_a_stage_goes_to_the_recipes_that_have_it() -> None:
    recipes = resolve_recipes(("full-text", "kl"), ["stage2.kl_coef=0.1", "lr=1e-5"])
    assert recipes["kl"].stages[1].settings.kl_coef == 0.1
    assert recipes["full-text"].stages[0].settings.lr == 1e-5
    with pytest.raises(UserError, match="stages 1 to 2"):
        resolve_recipes(("full-text", "kl"), ["stage3.lr=1"])


def test_a_study_does_not_measure_on_what_it_trained_on(tmp_path: Path) -> None:
    line = (
        '{"id": "a", "answer": "3", "prompts": {"full-text": "AB = 3. Find AB.", "image-only":'
        ' "Find AB."}}\n'
    )
    (tmp_path / "problems.jsonl").write_text(line.replace('"answer"', '"image": null, "answer"'))
    with pytest.raises(UserError):
        run_study(spec(tmp_path, "tiny", ["full-text"], tmp_path / "out", benchmark="pairs"))


def some_line(path: Path) -> bool:
    return path.exists() and b"\n" in path.read_bytes()


@pytest.mark.slow
def test_kill_9_in_any_phase_and_the_same_command_finishes(
    study: Path, data: Path, tmp_path: Path
) -> None:
    """Killed at the first sign of each phase; then the same command gets through and all is there
    exactly once.
    """
    out = tmp_path / "s"
    command = [sys.executable, "-m", "modgap", "study", "--data", str(data), "--model", "tiny"]
    command += ["--recipes", "full-text,kl", "--benchmark", "synthetic", "--out", str(out)]
    command += ["--samples", "2", "--max-tokens", "24", "--set", *SETTINGS]
    phases: dict[str, Callable[[], bool]] = {
        "measuring the base": lambda: some_line(out / "base/eval/responses.jsonl"),
        "sampling": lambda: some_line(out / "full-text/stage1/rollouts.jsonl"),
        "a checkpoint": lambda: any((out / "full-text/stage1/checkpoints").glob("*step_1*")),
        "a logged step": lambda: some_line(out / "full-text/stage1/train_log.jsonl"),
        "measuring a recipe": lambda: some_line(out / "full-text/eval/responses.jsonl"),
        "the next stage": lambda: any((out / "kl/stage2/checkpoints").glob("*step_1*")),
    }
    killed: list[str] = []
    for phase, begun in phases.items():
        if begun():  # as soon as the one before it
            continue
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not begun():
            time.sleep(0.005)
        process.kill()
        if process.wait() == -signal.SIGKILL:
            killed.append(phase)
    assert len(killed) >= 2, killed
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    for run in ("base", "full-text", "kl"):
        assert exactly_once(out / run / "eval", 2, TEST)
    weights = "kl/stage2/checkpoints/step_1/model.safetensors"
    assert (out / weights).read_bytes() == (study / weights).read_bytes()


# ---- other sets ----------------------------------------------------------------------------------


def test_a_finished_study_does_only_what_is_new_on_another_set_and_shows_both(
    study: Path, data: Path, tmp_path: Path
) -> None:
    place = tmp_path / "study"
    shutil.copytree(study, place, symlinks=True)
    other = made.write_parquet(tmp_path / "mathverse.parquet", with_images(made.rows(1)))
    third = write_splits(tmp_path / "geometry3k")
    reference = tmp_path / "reference"
    main(["eval", "--data", str(data), "--benchmark", "synthetic", "--model", "tiny", "--out",
          str(reference), "--samples", "1", "--max-tokens", "16"])  # fmt: skip
    asked = spec(
        data, "tiny", ("full-text", "kl"), place, benchmark="synthetic", settings=SETTINGS,
        options=OPTIONS, also=(f"mathverse={other}", f"geometry3k={third}"), reference=(reference,),
    )  # fmt: skip
    weights = {path: path.stat().st_mtime_ns for path in place.glob("**/*.safetensors")}
    responses = {path: path.read_bytes() for path in place.glob("**/responses.jsonl")}
    assert len(weights) >= 2 and len(responses) == 3
    numbers = run_study(asked)

    def on_each(model: str) -> dict[str, str]:
        others = ("geometry3k", "mathverse")
        return {"synthetic": model} | {name: f"{model} on {name}" for name in others}

    assert weights == {path: path.stat().st_mtime_ns for path in place.glob("**/*.safetensors")}
    assert all(path.read_bytes() == before for path, before in responses.items())
    assert numbers.sets == {
        "base": on_each("base"),
        "kl": on_each("kl"),
        "full-text": on_each("full-text"),
        "tiny": {"synthetic": "reference"},
    }
    on = RunFolder(place / "kl" / "eval-on-mathverse").manifest()
    assert on["resolved"]["views"] == list(VERSION_VIEWS)
    assert {row.view for row in RunFolder(place / "kl" / "eval-on-mathverse").responses()} == set(
        VERSION_VIEWS
    )
    # Both other sets are pooled with the study's own, except where all samples of one are errors.
    assert numbers.pooled is not None and {"base", "kl", "full-text"} == set(numbers.pooled)
    assert {"synthetic", "geometry3k"} <= set(numbers.pooled["kl"].sets)
    assert numbers.pooled["kl"].n_problems >= TEST + 2
    # A change on the other set is against the base model on the other set.
    assert {"kl", "kl on mathverse"} <= set(numbers.changes)
    assert "base on mathverse" not in numbers.changes
    assert not any("different data" in words for words in numbers.warnings)


@pytest.mark.parametrize(
    ("also", "words"),
    [
        ("mathverse", "--also mathverse: give NAME=PATH"),
        ("=x", "--also =x: give NAME=PATH"),
        ("mathvers=x", "Did you mean 'mathverse'"),
        ("synthetic=/nowhere", "/nowhere"),
    ],
)
def test_a_set_that_cannot_be_measured_is_refused_before_anything_runs(
    data: Path, tmp_path: Path, also: str, words: str
) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        run_study(spec(data, "tiny", ("kl",), tmp_path / "s", benchmark="synthetic", also=(also,)))
    assert not (tmp_path / "s").exists()


def test_a_benchmark_with_problems_of_its_own_needs_no_path(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "benchmark_folder", lambda progress: data)
    asked = spec(data, "tiny", ("kl",), tmp_path / "s", also=("synthetic", "pairs=mine.jsonl"))
    assert also_sets(asked) == {"synthetic": data, "pairs": Path("mine.jsonl")}


def test_a_benchmark_is_measured_once(data: Path, tmp_path: Path) -> None:
    twice = (f"synthetic={data}", f"synthetic={tmp_path}")
    with pytest.raises(UserError, match="--also synthetic is given twice"):
        also_sets(spec(data, "tiny", ("kl",), tmp_path / "s", also=twice))


def test_a_reference_that_is_no_run_is_refused_before_anything_runs(
    data: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    asked = spec(
        data,
        "tiny",
        ("kl",),
        tmp_path / "s",
        benchmark="synthetic",
        reference=(tmp_path / "empty",),
    )
    with pytest.raises(UserError, match="is not a run"):
        run_study(asked)
    assert not (tmp_path / "s").exists()
