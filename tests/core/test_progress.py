"""Progress without a terminal: a first line within 2 s, then one now and then, and no bars."""

from __future__ import annotations

import re
import time

import pytest

from modgap.core import progress
from modgap.core.progress import doing, progress_bars, say


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come ten times as often."""
    monkeypatch.setattr(progress, "_FIRST", 0.15)
    monkeypatch.setattr(progress, "_SHORTEST", 0.2)


@pytest.mark.usefixtures("quick")
def test_a_silent_call_shows_signs_of_life(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as bars:
        doing("loading the model x")
        time.sleep(0.7)
        bars("answering", 3, 40)
        doing("token 7 of at most 256")
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "loading the model x (0 s)"
    assert re.fullmatch(r"answering: 3 of 40, token 7 of at most 256 \(1 s\)", lines[-1])
    assert 3 <= len(lines) <= 8
    assert progress._active is progress.SILENT


def test_a_quick_command_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as bars:
        bars("answering", 1, 2)
        with progress_bars() as inner:
            assert inner is bars
    doing("nobody listens")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("quick")
def test_a_line_of_another_kind_counts_as_a_sign_of_life(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress_bars() as bars:
        bars("answering", 1, 2)
        for _ in range(8):
            say("hello")
            time.sleep(0.05)
    assert set(capsys.readouterr().err.splitlines()) == {"hello"}


def test_lines_become_rare() -> None:
    assert progress._FIRST < 2 and progress._SHORTEST < 2 and progress._LONGEST <= 60
