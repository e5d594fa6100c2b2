"""A folder to write to that is a link to nothing, or lies behind one."""

from __future__ import annotations

from pathlib import Path

import pytest

from modgap.core.errors import UserError
from modgap.core.places import check_writable
from modgap.core.record import RunFolder


@pytest.mark.parametrize("place", ["named", "named/below"])
def test_a_link_to_nothing_is_refused_before_anything_is_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "named").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="is a link to nothing: remove it"):
        check_writable(tmp_path / place)
    with pytest.raises(UserError, match="is a link to nothing"), RunFolder(tmp_path / place).lock():
        pass
    assert not (tmp_path / "gone").exists()
