"""The study that the tests of reports share."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_runs import both, write_run, write_stage


@pytest.fixture
def study(tmp_path: Path) -> Path:
    out = tmp_path / "study"
    write_run(
        out / "base" / "eval", {"a": both("cc", "ww"), "b": both("cc", "ww"), "c": both("cc", "cc")}
    )
    write_run(
        out / "kl" / "eval", {"a": both("cc", "cc"), "b": both("cc", "ww"), "c": both("cc", "cc")}
    )
    write_stage(out / "kl" / "stage1", 3)
    write_stage(out / "kl" / "stage2", 2, contrastive_kl=0.5)
    return out
