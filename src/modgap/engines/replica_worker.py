"""One replica: an engine in a process of its own that takes orders and hands completions back, see
`replicas`.

The engine works in a thread; the actor's one method, `exchange`, gives it requests and takes what
is finished since.
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
"""Which call of `generate` it belongs to, how to sample, what, and whether nothing more is to be
had for now.
"""

_NOBODY = Request("", "", None, None, ())  # pyright: ignore[reportArgumentType] - requests do not travel back
# How long an exchange waits for something to be finished: short enough that an order never waits
# long behind it.
_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine is there.

    Attributes:
        streams: Whether it takes requests while it works.
        in_flight: Samples that it works on together; 0 if it does not say.
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
        users: Whether it is a `UserError`, whose words stand for themselves.
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
    """The engine has ended what it was given, and said nothing of these."""

    epoch: int
    samples: tuple[Sample, ...]


Event = Ready | Failure | Reply | Missing


class Worker:
    """Lives in an actor.

    Args:
        make: Makes the engine.
        folder: The asking process's working folder: paths may be relative to it.
        threads: CPU threads of the engine.
        elsewhere: Whether this may be another machine, which messages name.
    """

    def __init__(
        self, make: Callable[[], Engine], folder: str, threads: int, elsewhere: bool
    ) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)  # paths may be relative
        os.environ["OMP_NUM_THREADS"] = str(
            threads
        )  # Ray's own choice is 1; read when torch is loaded
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._where = socket.gethostname() if elsewhere else ""
        self._engine: Any = None
        self._next: Order | None = None
        threading.Thread(target=self._work, args=(make,), daemon=True).start()

    def exchange(self, order: Order) -> list[Event]:
        """Take requests, and give what is finished: at least one thing, unless nothing is for some
        seconds.
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
        """Let the engine give back what it holds."""
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
        except BaseException as error:  # whatever it is, the asking process decides
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
        """Give an order back, to be the next one again."""
        assert self._next is None
        self._next = order


class _Take:
    """What a streaming engine calls for requests; `all` collects those that are there now.

    Attributes:
        owed: Samples that were given out and not answered yet; the worker strikes them off.
    """

    def __init__(self, worker: Worker, first: Order) -> None:
        self._worker, self._what, self._over = worker, first[:2], first[3]
        self._first = list(first[2])
        self.owed: set[Sample] = set()

    def __call__(self, wait: bool) -> list[Request]:
        """More requests of the same call of `generate`.

        Args:
            wait: Nothing else is to be done: wait for more. Nothing at all then means that there
                will be no more.
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
