"""What processes a test left behind."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


def left_of(mark: str, patience: float = 15.0) -> list[str]:
    """Processes with a mark in their environment that are still there after so many seconds."""
    until = time.monotonic() + patience
    # Look twice: a process that is starting another program has no environment for a moment.
    empty = 0
    while True:
        found = _marked(mark.encode())
        empty = 0 if found else empty + 1
        if empty == 2 or time.monotonic() > until:
            return found
        time.sleep(0.3)


def _marked(mark: bytes) -> list[str]:
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes():
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                found.append(words[:200].decode(errors="replace"))
    return found
