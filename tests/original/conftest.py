"""The gold file that the tests of imports share."""

from __future__ import annotations

from pathlib import Path

import pytest
from answer_folders import gold_file


@pytest.fixture
def gt(tmp_path: Path) -> Path:
    """Golds of problems 1 and 2."""
    return gold_file(tmp_path / "data", p1="25.000", p2="7.070")
