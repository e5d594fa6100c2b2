"""Replicas whose actors are threads here; the queue and the worker are the real ones."""

from __future__ import annotations

import functools
import os
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import SimpleNamespace
from typing import Any

from modgap.core.engine import Engine, Request, Sampling

SAMPLING = Sampling(temperature=1.0, max_tokens=40, seed=3)


class Died(Exception):
    """The fake of Ray's error for an actor whose process is gone; raised by an engine, it kills its
    actor.
    """


class Actor:
    """A worker in a thread of this process, called as Ray's actors are."""

    def __init__(self, kind: Any, *arguments: Any) -> None:
        self.dead, self.worker = threading.Event(), kind(*arguments)
        self.exchange = SimpleNamespace(remote=functools.partial(self._call, "exchange"))
        self.close = SimpleNamespace(remote=functools.partial(self._call, "close"))

    def _call(self, name: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            result = getattr(self.worker, name)(*arguments)
            died = [e for e in result or () if getattr(e, "words", "").startswith("Died")]
            if died or self.dead.is_set():
                self.dead.set()
                future.set_exception(Died("the actor died"))
            else:
                future.set_result(result)

        threading.Thread(target=work, daemon=True).start()
        return future


class Threads:
    """In the place of `Cluster`."""

    def __init__(self, address: str | None, replicas: int, each: int) -> None:
        self.actors: list[Actor] = []
        self.ray = SimpleNamespace(
            wait=lambda refs, timeout: wait(refs, timeout, FIRST_COMPLETED),
            get=lambda ref: ref.result(), exceptions=SimpleNamespace(RayError=Died),
        )  # fmt: skip

    def start(self, kind: Any, make: Callable[[], Engine]) -> Actor:
        self.actors.append(Actor(kind, make, os.getcwd(), 1, False))
        return self.actors[-1]

    def stop(self, actor: Actor) -> None:
        actor.dead.set()

    def check(self) -> None:
        pass

    def portable(self, request: Request) -> Request:
        return pickle.loads(pickle.dumps(request))

    def why(self, error: Exception) -> str:
        return str(error)

    def close(self, actors: Sequence[Actor], idle: Sequence[Actor]) -> None:
        for actor in idle:
            actor.close.remote().result()
