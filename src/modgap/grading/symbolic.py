"""The symbolic stage: math-verify in worker processes that can be killed.

math-verify (and sympy under it) can run for minutes or take all memory on what a model writes, and
its own time limit needs a main thread. Here each worker is an interpreter of its own that reads
pairs from a pipe and writes verdicts; one that does not answer in time is killed and replaced, and
its pair is undecided. So the pool works from threads, asyncio, daemonic processes and Ray workers
alike, and costs no import in this process.

math-verify is optional (extra `mathverse`): without it the stage is skipped, and
`note` says so. The original has no such stage.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final

from modgap.core.installation import is_installed

SECONDS: Final = 5.0
START_SECONDS: Final = 60.0
MEMORY: Final = 4 << 30
MAX_CHARS: Final = 400
SKIPPED: Final = "the symbolic stage was skipped"


def available() -> bool:
    """Whether math-verify is installed."""
    return is_installed("math-verify")


class SymbolicPool:
    """Workers that compare expressions; a context manager that leaves no process behind.

    Args:
        workers: How many processes; they start when the first pair comes.
        seconds: How long one pair may take.
    """

    def __init__(self, workers: int = 2, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        absent = "math-verify is not installed (extra mathverse)"
        self.note = "" if available() else f"{SKIPPED}: {absent}"
        self.killed = 0
        self._size = max(1, workers)
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all: list[_Worker] = []
        self._lock = threading.Lock()

    def __enter__(self) -> SymbolicPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._all:
            worker.kill()

    def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
        """For each (answer, gold) whether they are the same; None if undecided or out of time."""
        if self.note or not pairs:
            return [None] * len(pairs)
        distinct = list(dict.fromkeys(pairs))
        with self._lock:
            while len(self._all) < min(self._size, len(distinct)):
                self._all.append(_Worker())
                self._idle.put(self._all[-1])
        with ThreadPoolExecutor(len(self._all)) as threads:
            verdicts = dict(zip(distinct, threads.map(self._one, distinct), strict=True))
        return [verdicts[pair] for pair in pairs]

    def _one(self, pair: tuple[str, str]) -> bool | None:
        if max(map(len, pair)) > MAX_CHARS:
            return None
        worker = self._idle.get()
        try:
            verdict = worker.ask(pair, self.seconds)
            self.killed += worker.restarted
            return verdict
        finally:
            self._idle.put(worker)


class _Worker:
    """One interpreter at the other end of a pipe; started when needed, killed on a timeout."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.restarted = False

    def ask(self, pair: tuple[str, str], seconds: float) -> bool | None:
        self.restarted = False
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-P", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            if self._line(START_SECONDS) is None:
                self.kill()
                return None
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(pair).encode() + b"\n")
            self.process.stdin.flush()
            line = self._line(seconds)
            if line is not None:
                return json.loads(line)
        self.kill()
        self.restarted = True
        return None

    def _line(self, seconds: float) -> bytes | None:
        """One line from the worker, None if it is late or gone."""
        assert self.process is not None and self.process.stdout is not None
        end = time.monotonic() + seconds
        line = b""
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.process.stdout], [], [], left)[0]:
                return None
            part = os.read(self.process.stdout.fileno(), 65536)
            line += part
            if not part:
                return None
            if line.endswith(b"\n"):
                return line
        return None

    def kill(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


# ---- the worker: runs as a script, so that nothing of ours is imported in it ---------------------
def _serve() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # Optional, without stubs.
    import math_verify as mv  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]

    verify: Any = mv
    config = [verify.LatexExtractionConfig()]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever sympy prints is discarded
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        verdict: bool | None = None
        with contextlib.suppress(Exception):
            answer, gold = (
                verify.parse(
                    f"${text.replace('$', ' ')}$", extraction_config=config, parsing_timeout=None
                )
                for text in json.loads(line)
            )
            if answer and gold:
                verdict = bool(verify.verify(gold, answer, timeout_seconds=None))
        print(json.dumps(verdict), file=out, flush=True)


if __name__ == "__main__":
    _serve()
