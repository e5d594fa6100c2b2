"""The MathVerse data that the tests of workflows share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mathverse_data as made
import pytest
from judge_server import JudgeServer
from mathverse_rows import Rows, text_only, with_images

from modgap.grading import symbolic


@pytest.fixture(scope="module")
def rows() -> Rows:
    return made.rows(8)


@pytest.fixture
def data(tmp_path: Path, rows: Rows) -> Path:
    made.write_parquet(tmp_path / "data" / "testmini-00000-of-00001.parquet", with_images(rows))
    made.write_parquet(
        tmp_path / "data" / "testmini_text_only-00000-of-00001.parquet", text_only(rows)
    )
    return tmp_path / "data"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(
        symbolic, "available", lambda: False
    )  # the pool has tests of its own, and takes a second
    server = JudgeServer()
    yield server
    server.close()
