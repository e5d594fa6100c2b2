"""Files that appear whole or not at all; a full disk that is named."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from modgap.core import record
from modgap.core.disk import full_disk, replacing, sweep, writing
from modgap.core.errors import UserError
from modgap.core.json_files import read_json, write_json, write_text
from modgap.core.record import RunFolder
from modgap.core.rows import Response
from modgap.grading import judge

ROW = Response(
    problem_id="p", view="full-text", sample=0, prompt="x", response="y", finish_reason="stop"
)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Any:
    """/dev/full in the place of a new file: everything can be opened and nothing written."""

    def link(path: Path, data: str, **_: Any) -> None:
        path.symlink_to("/dev/full")
        with path.open("w") as file:
            file.write(data)

    monkeypatch.setattr(Path, "write_text", link)


def test_a_full_disk_names_the_file_and_leaves_nothing_behind(tmp_path: Path, full: Any) -> None:
    with pytest.raises(UserError, match=r"a\.json cannot be written: the disk is full\. Make room"):
        write_json(tmp_path / "a.json", {"a": 1})
    assert not list(tmp_path.iterdir())


def test_responses_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    number = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(record, "open_own", lambda path, flags: os.fdopen(number, "ab"))
    with (
        pytest.raises(UserError, match=r"responses\.jsonl cannot be written: the disk is full"),
        run.appending() as writer,
    ):
        writer.write(ROW)


def test_verdicts_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the file fails once more, without its name."""
    (tmp_path / "judge.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr(
        judge, "open_own", lambda path, flags: os.fdopen(os.open(path, os.O_WRONLY), "wb")
    )
    monkeypatch.setattr(judge, "drop_torn_line", lambda path: None)
    row = judge.VerdictRow.model_construct(question="q", judge="j", mode="strict", said="1")
    with (
        pytest.raises(UserError, match=r"judge\.jsonl cannot be written: the disk is full"),
        judge.VerdictFile(RunFolder(tmp_path)).appending() as write,
    ):
        write(row)


def test_torch_names_no_error_number(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    with (
        pytest.raises(UserError, match=r"state\.pt cannot be written: the disk is full"),
        writing(path),
        Path("/dev/full").open("wb") as file,
    ):
        torch.save({"a": torch.zeros(100_000)}, file)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "x"), OSError(errno.EDQUOT, "x"), OSError(errno.EFBIG, "x"),
     RuntimeError("I/O error: No space left on device (os error 28)"),
     RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")],
)  # fmt: skip
def test_what_a_full_disk_looks_like(error: Exception) -> None:
    outer = ValueError("other words")
    outer.__cause__ = error
    assert full_disk(error) and full_disk(outer)
    assert not full_disk(OSError(errno.EACCES, "x")) and not full_disk(ValueError("full"))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_whatever_ends_the_writing_removes_what_was_written(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    (tmp_path / "file").write_text("old")
    for name in ("file", "folder"):
        with pytest.raises(kind), replacing(tmp_path / name) as temporary:
            if name == "file":
                temporary.write_text("half")
            else:
                temporary.mkdir()
                (temporary / "half").touch()
            raise kind
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_what_a_killed_process_left_of_a_file_goes_when_it_is_written(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    stale, of_another = tmp_path / f".r.html.{ended.pid}.tmp", tmp_path / f".s.{ended.pid}.tmp"
    alive, words = tmp_path / f".r.html.{os.getppid()}.tmp", tmp_path / ".r.html.x.tmp"
    for path in (stale, of_another, alive, words):
        path.touch()
    write_text(tmp_path / "r.html", "x")
    assert not stale.exists() and of_another.exists() and alive.exists() and words.exists()


def test_what_a_killed_process_left_is_swept_under_the_lock(tmp_path: Path) -> None:
    other = tmp_path / "other" / "stage1"
    out = tmp_path / "run"
    left = [out / ".summary.json.7.tmp", out / "stage1" / ".state.pt.7.tmp",
            out / "stage1" / "checkpoints" / ".step_2.7.tmp" / "model.safetensors"]  # fmt: skip
    kept = [other / ".state.pt.7.tmp", out / "stage1" / "state.pt", out / ".notes"]
    for path in (*left, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (out / "stage2").symlink_to(other, target_is_directory=True)  # which may be writing
    with RunFolder(out).lock():
        assert not any(path.exists() for path in left) and all(path.exists() for path in kept)
    sweep(tmp_path / "absent")


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_a_surrogate_pair_is_written_so_that_it_can_be_read(tmp_path: Path, text: str) -> None:
    write_json(tmp_path / "a.json", {"name": text})
    assert read_json(tmp_path / "a.json") == {"name": text}
    run = RunFolder(tmp_path)
    with run.appending() as writer:
        writer.write(ROW.model_copy(update={"prompt": text, "response": text}))
    assert [row.response for row in run.responses()] == [text.encode("utf-8", "replace").decode()]


def test_write_text_replaces_whole_files(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b", "x")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert os.stat(tmp_path / "a" / "b").st_size == 1


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    rows = ({"b": math.inf}, -math.inf, 1.5)
    write_json(tmp_path / "a.json", {"a": math.nan, "rows": rows, "n": 1, "path": Path("x")})
    written = (tmp_path / "a.json").read_text()
    assert "NaN" not in written and "Infinity" not in written
    assert json.loads(written) == {"a": None, "rows": [{"b": None}, None, 1.5], "n": 1, "path": "x"}
