"""What processes a test left behind."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


def left_of(mark: str, patience: float = 15.0) -> list[str]:
    """Processes with a mark in their environment that are still there after so many seconds."""
    until = time.monotonic() + patience
    while True:
        found: list[str] = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    entry.name.isdigit()
                    and int(entry.name) != os.getpid()
                    and mark in (entry / "environ").read_text()
                ):
                    found.append((entry / "cmdline").read_text().replace("\0", " ")[:200])
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.3)
