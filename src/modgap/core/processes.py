"""A child process and everything that it starts: watched, and ended with all of its children, whoever adopted them.

Ray's daemons and vLLM's engines leave their parent's session, so a process group is not enough: every descendant
inherits a mark in its environment, and by that mark it is found (Linux). Ray's agents write their title over their
environment: they are found as children of one that is marked, while it lives.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

MARK = "MODGAP_RUN"


def watched(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    look: Callable[[], None] = lambda: None,
    every: float = 1.0,
) -> int:
    """Run a command to its end, its output appended to a log.

    Args:
        command: What to run.
        log: Gets what it says.
        environment: Added to this process's own.
        look: Called again and again while it runs, and once when it has ended.
        every: Seconds between two looks.

    Returns:
        Its exit status. Whatever ends this function (Ctrl-C, SIGTERM, an error in `look`) ends the child and all that
        it started, too.
    """
    mark = uuid.uuid4().hex
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out, _termination():
        child = None
        try:  # a signal may come while it is being started
            child = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **environment, MARK: mark},
            )  # fmt: skip
            while child.poll() is None:
                look()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(every)
            look()
            return child.returncode
        finally:
            end_all(mark, child)


def end_all(mark: str, child: subprocess.Popen[bytes] | None, patience: float = 10.0) -> None:
    """End every process that carries a mark: first asked, then killed."""
    known: set[int] = set()  # one whose marked parent has ended is not found again
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + patience
        empty = 0  # a process that is just starting another program has no environment for a moment: look twice
        while empty < 2 and time.monotonic() < deadline:
            known = {pid for pid in known | set(marked(mark)) if _parent(pid) is not None}
            for pid in known:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            empty = 0 if known or (child and child.poll() is None) else empty + 1
            time.sleep(0.05)
    if child:
        child.wait()


def marked(mark: str) -> list[int]:
    """Processes with this mark in the environment that they were started with, and what they have started."""
    wanted = f"{MARK}={mark}".encode()
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if (parent := _parent(pid)) is None:
            continue
        children.setdefault(parent, []).append(pid)
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.add(pid)
    waiting = list(found)
    while waiting:
        new = set(children.get(waiting.pop(), ())) - found
        found |= new
        waiting += new
    return sorted(found)


def _parent(pid: int) -> int | None:
    """The parent of a process that lives; `None` of a zombie, and of one that is gone."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else int(parent)


def end_with_parent(every: float = 2.0) -> None:
    """In the child: should the parent be killed outright, end everything that carries its mark, and this process."""
    parent, mark = os.getppid(), os.environ.get(MARK)

    def guard() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        for pid in set(marked(mark or "")) - {os.getpid()}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        os._exit(1)

    if mark:  # not started by hand
        threading.Thread(target=guard, daemon=True).start()


@contextlib.contextmanager
def _termination() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does, so that the child does not outlive it."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
