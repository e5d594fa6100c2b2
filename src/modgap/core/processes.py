"""Watch child processes, and end them with everything that they started.

Ray's daemons and vLLM's engines leave their parent's session, so a process group is not enough:
every descendant inherits a mark in its environment and is found by that mark. Ray's agents
overwrite their environment with their title: they are found as children of a marked process, as
long as it runs. A marked process that marks its own children adds to the mark, so that ending the
outer process also finds the inner ones.

`spread` is the `map` of several processes.

As a script (`python -P processes.py MARK`) it is a guard: see `start_guard`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

if TYPE_CHECKING:
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 4
"""Items a worker that are given out before the first result is taken."""

MARK = "MODGAP_RUN"
"""The environment variable that holds the marks of a process, the innermost last."""


def new_mark() -> str:
    """A mark that no other process has."""
    return uuid.uuid4().hex


def with_mark(mark: str) -> dict[str, str]:
    """What to add to the environment of a child that has this mark."""
    return {MARK: f"{os.environ.get(MARK, '')} {mark}".strip()}


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
        look: Called repeatedly while it runs, and once when it has ended.
        every: Seconds between two calls of `look`.

    Returns:
        Its exit status. Whatever ends this function (Ctrl-C, SIGTERM, an error in `look`) ends the
        child and all that it started, too.
    """
    from modgap.core.files import open_own  # late: the guard needs nothing of this package

    mark = new_mark()
    log.parent.mkdir(parents=True, exist_ok=True)
    with open_own(log, os.O_APPEND) as out, _termination():
        child = None
        try:  # a signal may come while it is being started
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment, **with_mark(mark)},
            )
            while child.poll() is None:
                look()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(every)
            look()
            return child.returncode
        finally:
            end({mark: child})


def end(children: Mapping[str, subprocess.Popen[Any] | None], patience: float = 10.0) -> None:
    """End children and all that they have started.

    Args:
        children: Mark -> the child that was started with it; `None` where a signal came in between.
        patience: Seconds that the children have to shut down what they started, and then the same
            for the processes that are left.
    """
    started = [child for child in children.values() if child is not None]
    for child in started:
        child.terminate()  # not SIGINT, which a shell may make it ignore
    deadline = time.monotonic() + patience
    for child in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
    _end_marked(children.keys(), patience)
    for child in started:
        child.kill()
        child.wait()


def _end_marked(marks: Collection[str], patience: float) -> None:
    """End every process that carries one of the marks: SIGTERM first, then SIGKILL."""
    known: set[psutil.Process] = set()  # a process whose marked parent has ended is not found again
    for number in (signal.SIGTERM, signal.SIGKILL):
        sent: set[psutil.Process] = set()
        deadline = time.monotonic() + patience
        # Look twice: a process that is starting another program has no environment for a moment.
        empty = 0
        while time.monotonic() < deadline:
            known = {process for process in known | marked(marks) if _lives(process)}
            for process in known - sent:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)
            sent |= known
            empty = 0 if known else empty + 1
            if empty == 2:
                return
            time.sleep(0.05)


def marked(marks: Collection[str]) -> set[psutil.Process]:
    """Processes with one of the marks in their initial environment, and what they have started."""
    wanted = set(marks)
    found: set[psutil.Process] = set()
    children: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            children.setdefault(process.ppid(), []).append(process)
            if wanted & _marks_of(process):
                found.add(process)
    waiting = list(found)
    while waiting:
        new = set(children.get(waiting.pop().pid, ())) - found
        found |= new
        waiting += new
    return {process for process in found if _lives(process)}


def _marks_of(process: psutil.Process) -> set[str]:
    """The marks in a process's initial environment.

    On Linux read as it is: `psutil` stops at an empty entry, and vLLM's processes overwrite the
    beginning of theirs with a title and zeros.
    """
    path = Path(f"/proc/{process.pid}/environ")
    try:
        entries = path.read_bytes().split(b"\0")
    except OSError:
        return set() if path.parent.is_dir() else set(process.environ().get(MARK, "").split())
    own = f"{MARK}=".encode()
    found = [entry.removeprefix(own) for entry in entries if entry.startswith(own)]
    return set(found[-1].decode(errors="replace").split()) if found else set()


def _lives(process: psutil.Process) -> bool:
    """Whether a process runs: not a zombie, not gone, and its number is not reused."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _kill_marked(mark: str) -> None:
    """Kill everything that carries a mark, but not this process."""
    # Look again: a process that is starting another program has no environment for a moment.
    for _ in range(3):
        for process in marked([mark]):
            if process.pid != os.getpid():
                with contextlib.suppress(psutil.Error):
                    process.kill()
        time.sleep(0.05)


def end_with_parent(every: float = 2.0) -> None:
    """In the child: if the parent is killed, end everything that carries its mark.

    That includes this process.
    """
    parent, marks = os.getppid(), os.environ.get(MARK, "").split()

    def guard() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        _kill_marked(marks[-1])
        os._exit(1)

    if marks:  # not started by hand
        threading.Thread(target=guard, daemon=True).start()


def spread(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    start: Callable[..., None] | None = None,
    given: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """`map` in spawned processes: the results in order, of which only a few wait at a time.

    Args:
        function: Importable from its module, as are `start` and what they are given.
        items: Each is worth sending to a process.
        workers: Processes.
        start: Called first in each of them.
        given: Its arguments.

    Raises:
        UserError: A process ended before its work was done. An error of `function` is raised as it
            is.
    """
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    from modgap.core.errors import UserError

    spawned = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawned, _begin_worker, (start, given))
    waiting = deque["Future[Result]"]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            f"one of {workers} worker processes ended before its work was done. In a script of your"
            ' own, put what it does under `if __name__ == "__main__":`, for each process imports'
            " the script; or (in Python) give workers=1. If memory ran out, give fewer workers."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(start: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_follow_parent, daemon=True).start()
    if start is not None:
        start(*given)


def _follow_parent() -> None:
    """End this worker if its parent is killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def start_guard(mark: str) -> subprocess.Popen[bytes]:
    """Start a process that kills everything with a mark once this one is gone, however it ended.

    Kill the guard when everything has ended in order.
    """
    return subprocess.Popen(
        [sys.executable, "-P", __file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt from the terminal must not reach it
    )


@contextlib.contextmanager
def _termination() -> Generator[None]:
    """Make SIGTERM end this process as Ctrl-C does, so that the child does not outlive it."""

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


if __name__ == "__main__":
    sys.stdin.read()  # ends when the process that started this one ends
    _kill_marked(sys.argv[1])
