"""One replica: an engine in its own process that takes orders and returns completions.

See `replicas`. The engine works in a thread; the actor's one method, `exchange`, gives it requests
and takes what has been finished since.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modgap.core.engine import Completion, Engine, Request, Sampling
from modgap.core.errors import UserError

Sample = tuple[str, str, int]
"""Problem, view and sample: the name of one completion."""
Order = tuple[int, Sampling, Sequence[Request], bool]
"""The number of the call of `generate`, how to sample, the requests, and whether they are the last
ones for now.
"""

# Replaces the request of a completion: requests are not sent back.
_NOBODY = Request("", "", None, None, ())  # pyright: ignore[reportArgumentType]
# How long an exchange waits for a result: short enough that an order never waits long behind it.
_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine has started.

    Attributes:
        streams: Whether it takes requests while it works.
        in_flight: Samples that it works on together; 0 if it does not report that.
        pid: Its process, on its machine.
    """

    streams: bool
    in_flight: int
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """The engine could not be made, or broke.

    Attributes:
        words: What happened, in one line.
        users: Whether it is a `UserError`, whose message needs no addition.
        died: Whether the whole process is gone.
    """

    words: str
    users: bool = False
    died: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion, without its request, which the asking process has."""

    epoch: int
    sample: Sample
    completion: Completion


@dataclass(frozen=True, slots=True)
class Missing:
    """The engine has finished its orders without an answer to these samples."""

    epoch: int
    samples: tuple[Sample, ...]


Event = Ready | Failure | Reply | Missing


class Worker:
    """Runs an engine inside an actor.

    Args:
        make: Makes the engine.
        folder: The working folder of the process that asks: paths may be relative to it.
        threads: CPU threads of the engine.
        elsewhere: Whether this may be another machine; messages then name it.
    """

    def __init__(
        self, make: Callable[[], Engine], folder: str, threads: int, elsewhere: bool
    ) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)
        # Ray sets it to 1; torch reads it when it is loaded.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._where = socket.gethostname() if elsewhere else ""
        self._engine: Any = None
        self._next: Order | None = None
        threading.Thread(target=self._work, args=(make,), daemon=True).start()

    def exchange(self, order: Order) -> list[Event]:
        """Take requests and return what is finished.

        It returns at least one event, unless nothing is finished for some seconds.
        """
        if order[2] or order[3]:
            self._orders.put(order)
        events: list[Any] = []
        try:
            events.append(self._events.get(timeout=_WAIT_S))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            return events

    def close(self) -> None:
        """Let the engine free its resources."""
        if close := getattr(self._engine, "close", None):
            close()

    def _work(self, make: Callable[[], Engine]) -> None:
        try:
            self._engine = make()
            stream = getattr(self._engine, "stream", None)
            self._events.put(
                Ready(stream is not None, int(getattr(self._engine, "in_flight", 0)), os.getpid())
            )
            while True:
                order = self._order()
                epoch, sampling, *_ = order
                take = _Take(self, order)
                completions = (
                    stream(take, sampling)
                    if stream
                    else self._engine.generate(take.all(), sampling)
                )
                for done in completions:
                    sample = (done.request.problem_id, done.request.view, done.sample)
                    take.owed.discard(sample)
                    self._events.put(Reply(epoch, sample, replace(done, request=_NOBODY)))
                if take.owed:
                    self._events.put(Missing(epoch, tuple(sorted(take.owed))))
        except BaseException as error:  # the process that asks decides what to do
            self._events.put(self._failure(error))

    def _failure(self, error: BaseException) -> Failure:
        words = " ".join(str(error).split()) or type(error).__name__
        users = isinstance(error, UserError)
        if not users and words != type(error).__name__:
            words = f"{type(error).__name__}: {words}"
        return Failure(f"{words} (on {self._where})" if self._where else words, users)

    def _order(self, wait: bool = True) -> Order:
        """The next order. Raises `queue.Empty`."""
        if self._next is not None:
            order, self._next = self._next, None
            return order
        return self._orders.get(block=wait)

    def push_back(self, order: Order) -> None:
        """Put an order back, so that it is the next one again."""
        assert self._next is None
        self._next = order


class _Take:
    """What a streaming engine calls for requests; `all` collects those that have arrived.

    Attributes:
        owed: Samples that were handed out and not answered yet; the worker removes answered ones.
    """

    def __init__(self, worker: Worker, first: Order) -> None:
        self._worker, self._what, self._over = worker, first[:2], first[3]
        self._first = list(first[2])
        self.owed: set[Sample] = set()

    def __call__(self, wait: bool) -> list[Request]:
        """More requests of the same call of `generate`.

        Args:
            wait: The engine is idle: wait for more. An empty answer then means that there will be
                no more.
        """
        requests, self._first = self._first, []
        while not self._over:
            try:
                order = self._worker._order(wait=wait and not requests)
            except queue.Empty:
                break
            if order[:2] != self._what:
                self._worker.push_back(order)
                self._over = True
            else:
                requests += order[2]
                self._over = order[3]
        self.owed.update((r.problem_id, r.view, sample) for r in requests for sample in r.samples)
        return requests

    def all(self) -> list[Request]:
        return self(wait=False)
