"""Several engines that share one queue of requests: one an accelerator, as Ray actors on this machine or on a cluster.

The process that asks keeps the queue and knows who has what, so that every sample is made exactly once:

* an engine has at most a bounded number of samples in hand, and gets more as it hands completions back: large shares at
  first and small ones at the end, so that nobody idles while another has a backlog;
* an engine with `stream(take, sampling)` takes requests while it works (`vllm`: its batch never drains); any other
  one gets lists of requests, `generate` as usual;
* an engine whose process or machine dies costs what it had in hand: that goes to the front of the queue, and another
  one is started in its place.

A sample's seed is its own (`core.engine.sample_seed`), so results do not depend on who made it. The original has no
counterpart: it runs one engine, and its parallel runners start whole jobs (`modgap.fleet`).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modgap.core.engine import Completion, Engine, Request, Sampling
from modgap.core.errors import UserError
from modgap.inference.ray_cluster import Cluster
from modgap.inference.replica_worker import Failure, Ready, Sample, Worker

# An engine that fails so many times in a row without a single completion in between is given up.
MOST_FAILURES = 3
# Samples that an engine without a batch size of its own is given at least, and how many times that at most.
_BATCH, _MOST_BATCHES = 64, 8
_PATIENCE_S = 60.0


@dataclass(slots=True, eq=False)
class _Slot:
    """One replica: its actor, and what it has in hand."""

    number: int
    actor: Any
    ready: Ready | None = None
    in_hand: dict[Sample, Request] = field(default_factory=dict[Sample, Request])
    failures: int = 0
    given_up: str = ""


class ReplicaEngine:
    """Engines that share the work.

    Args:
        make: Makes one engine, in its own process; picklable (a `functools.partial` of a module's function).
        replicas: How many.
        ray_address: An existing Ray cluster: `auto`, `host:port`, `ray://host:port`. One of our own on this machine,
            which ends with this engine, if `None`.
        accelerators_each: GPUs of one engine (vLLM: its tensor parallel size).
        batch: Samples that one engine works on together, if it does not say so itself (`in_flight`).

    Raises:
        UserError: Ray is not installed or the cluster cannot be reached, or there are fewer accelerators than that.
    """

    def __init__(
        self,
        make: Callable[[], Engine],
        replicas: int,
        *,
        ray_address: str | None,
        accelerators_each: int = 1,
        batch: int = _BATCH,
    ) -> None:
        self._make, self._batch = make, batch
        self._cluster = Cluster(ray_address, replicas, accelerators_each)
        self._slots: list[_Slot] = []
        self._pending: dict[Any, _Slot] = {}
        self._epoch = 0
        try:
            self._slots = [_Slot(number, self._start()) for number in range(1, replicas + 1)]
        except BaseException:
            self.close()
            raise

    def _start(self) -> Any:
        return self._cluster.start(Worker, self._make)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Every wanted sample of every request, as the replicas finish them.

        Raises:
            UserError: No replica could be started, all of them keep failing, or one met a fault of the input.
        """
        self._epoch += 1
        work = _Queue(requests)
        for slot in self._slots:
            slot.in_hand.clear()
        said: set[str] = set()
        while work.owed:
            self._hand_out(work, sampling)
            done, _ = self._cluster.ray.wait(list(self._pending), timeout=_PATIENCE_S)
            if not done and not any(slot.ready for slot in self._slots) and "waiting" not in said:
                said.add("waiting")
                _say("still waiting for the first replica (a model that loads, or accelerators that others use)")
            for ref in done:
                slot = self._pending.pop(ref)
                try:
                    events = self._cluster.ray.get(ref)
                except self._cluster.ray.exceptions.RayError as error:
                    self._failed(slot, Failure(self._cluster.why(error), died=True), work, said)
                    continue
                for event in events:
                    if isinstance(event, Ready):
                        slot.ready = event
                    elif isinstance(event, Failure):
                        self._failed(slot, event, work, said)
                    elif event.epoch == self._epoch and (request := slot.in_hand.pop(event.sample, None)):
                        slot.failures = 0
                        work.owed -= 1
                        yield replace(event.completion, request=request)

    def _hand_out(self, work: _Queue, sampling: Sampling) -> None:
        """Give each replica that is listening its share of what is left; a problem at a time, in turns."""
        listening = [slot for slot in self._slots if not slot.given_up and slot not in self._pending.values()]
        alive = sum(not slot.given_up for slot in self._slots)
        shares: dict[int, list[Request]] = {slot.number: [] for slot in listening}
        hungry = [slot for slot in listening if slot.ready]
        while hungry and work.requests:
            hungry = [slot for slot in hungry if len(slot.in_hand) < self._most_in_hand(slot, work, alive)]
            for slot in hungry:
                if not work.requests:
                    break
                for request in work.next_problem():
                    for sample in request.samples:
                        slot.in_hand[request.problem_id, request.view, sample] = work.original(request)
                    shares[slot.number].append(self._cluster.portable(request))
        for slot in listening:
            if shares[slot.number] or slot.in_hand or not slot.ready:
                order = (self._epoch, sampling, shares[slot.number])
                self._pending[slot.actor.exchange.remote(order)] = slot

    def _most_in_hand(self, slot: _Slot, work: _Queue, alive: int) -> int:
        """Samples that a replica may have in hand now: never more than its part of all that is left."""
        share = -(-work.owed // alive)
        assert slot.ready is not None
        if slot.ready.streams:
            return max(1, min(share, slot.ready.in_flight or _BATCH * _MOST_BATCHES))
        batch = slot.ready.in_flight or self._batch
        return max(1, min(share, batch), min(share // 2, batch * _MOST_BATCHES))

    def _failed(self, slot: _Slot, failure: Failure, work: _Queue, said: set[str]) -> None:
        """Take back what a replica had in hand and start another one in its place, unless that is of no use."""
        started, lost = slot.ready is not None, len(slot.in_hand)
        again = failure.words in said and not failure.died
        said.add(failure.words)
        work.take_back(slot.in_hand)
        slot.in_hand.clear()
        slot.ready = None
        slot.failures += 1
        self._cluster.stop(slot.actor)
        name = f"replica {slot.number} of {len(self._slots)}"
        if (not started and not failure.died) or slot.failures >= MOST_FAILURES:
            slot.given_up = failure.words
        if all(other.given_up for other in self._slots):
            raise UserError(_all_failed(self._slots, started))
        if started and failure.users and again:
            raise UserError(failure.words)  # another replica met it, too: it is the input, not the machine
        if slot.given_up:
            _say(f"{name} is given up ({failure.words}); the others do its work")
            return
        _say(f"{name}: {failure.words}; its {lost} samples in hand are done again, and another one is started")
        slot.actor = self._start()

    def close(self) -> None:
        """End the replicas, and the Ray cluster if it is ours."""
        idle = [slot.actor for slot in self._slots if slot.ready and slot not in self._pending.values()]
        self._cluster.close([slot.actor for slot in self._slots], idle)
        self._slots, self._pending = [], {}


class _Queue:
    """What is still to be made: the requests that nobody has in hand, and how many samples are owed in all."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = deque(requests)
        self._originals = {(r.problem_id, r.view, sample): r for r in requests for sample in r.samples}
        self.owed = len(self._originals)
        assert self.owed == sum(len(request.samples) for request in requests), "a sample is wanted twice"

    def original(self, request: Request) -> Request:
        """The request as it was asked, of one that may want only some of its samples."""
        return self._originals[request.problem_id, request.view, request.samples[0]]

    def next_problem(self) -> list[Request]:
        """The next request and those of the same problem behind it: its image is prepared once for them."""
        requests = [self.requests.popleft()]
        while self.requests and self.requests[0].problem_id == requests[0].problem_id:
            requests.append(self.requests.popleft())
        return requests

    def take_back(self, in_hand: dict[Sample, Request]) -> None:
        """Put samples that were lost to the front, request by request."""
        lost: dict[tuple[str, str], list[int]] = {}
        for problem_id, view, sample in in_hand:
            lost.setdefault((problem_id, view), []).append(sample)
        for (problem_id, view), samples in reversed(lost.items()):
            request = self._originals[problem_id, view, samples[0]]
            self.requests.appendleft(replace(request, samples=tuple(sorted(samples))))


def _all_failed(slots: Sequence[_Slot], started: bool) -> str:
    """One line on why there is no replica left."""
    reasons = list(dict.fromkeys(slot.given_up for slot in slots))
    what = "failed again and again" if started else "could not be started"
    which = "the only replica" if len(slots) == 1 else f"all {len(slots)} replicas"
    more = f" (and {len(reasons) - 1} other reasons)" if len(reasons) > 1 else ""
    return f"{which} {what}: {reasons[0]}{more}"


def _say(words: str) -> None:
    print(f"modgap: {words}", file=sys.stderr, flush=True)
