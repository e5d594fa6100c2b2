"""Synthetic data sets: the same for any number of workers, whole or not there."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modgap.core.errors import UserError
from modgap.datasets.synthetic import write_dataset


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_data_set_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_dataset(
        tmp_path / "one", 240, 40, seed=5, workers=1, progress=lambda *at: seen.append(at)
    )
    write_dataset(tmp_path / "two", 240, 40, seed=5, workers=2)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    assert seen == [(k + 1, 280) for k in range(280)]
    train, test, solutions = (
        json.loads(one[f"{name}.json"]) for name in ("train", "test", "solutions")
    )
    assert len(train) == 240 and len(test) == 40 and not set(train) & set(test)
    assert set(solutions) == {f"train/{key}" for key in train} | {f"test/{key}" for key in test}
    for record in [*train.values(), *test.values()]:
        assert f"Diagram_Visual/{record['diagram']}" in one
    assert len(one) == 284, "280 diagrams, three files, and the lock"


def test_a_script_without_a_guard_ends_with_the_remedy(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from modgap.datasets.synthetic import write_dataset\n"
        f"write_dataset(Path({str(tmp_path / 'out')!r}), 300, 0, workers=2)\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and '`if __name__ == "__main__":`' in last and "workers=1" in last
    assert not list((tmp_path / "out").glob("*.json"))


def test_a_command_in_a_script_without_a_guard_ends_with_the_remedy(tmp_path: Path) -> None:
    asked = ["train", "no-text", "--benchmark", "synthetic", "--model", "tiny"]
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from modgap.cli.main import main\n"
        "from modgap.datasets.synthetic import benchmark\n"
        "benchmark.TRAIN, benchmark.TEST = 300, 0\n"
        "os.sched_getaffinity = lambda _: {0, 1}  # two workers on any machine\n"
        f"print(main({[*asked, '--out', str(tmp_path / 'run')]}))\n"
    )
    # In a session of its own: workers that hang are ended with it.
    child = subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, "MODGAP_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        status, said = child.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    last = said.splitlines()[-1]
    assert '`if __name__ == "__main__":`' in last and "workers=1" in last
    assert status == "1\n", "a worker ran the rest of the script"
    assert not list((tmp_path / "cache").glob("*/train.json"))
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_cut_short_leaves_no_data_set(tmp_path: Path) -> None:
    write_dataset(tmp_path, 8, 2, workers=1)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, 12, 2, workers=1, progress=stop, force=True)
    assert not list(tmp_path.glob("*.json")) and not list(tmp_path.glob(".*.part"))
    (tmp_path / ".train.json.12345.part").write_text("of a process that was killed")
    write_dataset(tmp_path, 4, 2, workers=1)
    assert len(list((tmp_path / "Diagram_Visual").iterdir())) == 6
    assert not list(tmp_path.glob(".*.part"))


def test_two_writers_of_one_folder_are_refused_and_the_first_one_is_not_disturbed(
    tmp_path: Path,
) -> None:
    refused: list[str] = []

    def intrude(done: int, total: int) -> None:
        if done == 3:
            with pytest.raises(UserError, match="another process is writing") as error:
                write_dataset(tmp_path / "a", 5, 1, seed=9, workers=1)
            refused.append(str(error.value))

    write_dataset(tmp_path / "a", 8, 2, workers=1, progress=intrude)
    write_dataset(tmp_path / "b", 8, 2, workers=1)
    assert len(refused) == 1 and contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("fails", range(3))
def test_train_json_is_the_last_to_come_and_the_first_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    write_dataset(tmp_path, 2, 1, workers=1)
    count = itertools.count()

    def replace(source: Path, target: Path) -> None:
        if next(count) == fails:
            raise KeyboardInterrupt
        source.rename(target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, 2, 1, workers=1, force=True)
    assert (
        sorted(path.name for path in tmp_path.glob("*.json"))
        == ["solutions.json", "test.json"][:fails]
    )


def test_an_out_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for out, words in (
        (file, "is a file: give a folder"),
        (file / "below", "cannot write problems to"),
    ):
        with pytest.raises(UserError, match=words) as error:
            write_dataset(out, 1, 1)
        assert "\n" not in str(error.value)
    assert file.read_text() == "mine"


def test_somebody_elses_data_set_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(ValueError, match="not one of ours: give another --out"):
        write_dataset(tmp_path, 1, 1)
    assert (tmp_path / "train.json").read_text() == "{}"


def test_no_torch_and_no_matplotlib_is_imported() -> None:
    code = (
        "import sys, modgap.datasets.synthetic as s; s.make_problem(0, 0);"
        "print([m for m in ('torch', 'matplotlib', 'transformers') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "[]"
    )
