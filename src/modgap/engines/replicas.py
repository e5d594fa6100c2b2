"""Several engines that share one queue of requests, as Ray actors, one for each accelerator.

The actors are on this machine or on a cluster.
The process that asks keeps the queue and knows who has what, so that every sample is made exactly
once:

* an engine has at most a bounded number of samples in hand, and gets more as it hands completions
  back: large shares at first and small ones at the end, so that none idles while another has a
  backlog;
* an engine with `stream(take, sampling)` takes requests while it works (`vllm`: its batch never
  drains); any other one gets lists of requests, `generate` as usual;
* an engine whose process or machine dies costs what it had in hand: that goes to the front of the
  queue, and another one is started;
* a sample that kills every engine it is given to is found and becomes an error;
  so does one that engines leave unanswered several times.

A sample whose engine died twice while working on it may be the cause. Such suspects are asked last
and in ever smaller groups, on an engine that is known to work, until one dies with a single sample
in hand: that sample is an error, with the cause; all others are made.

A sample's seed is its own (`core.engine.sample_seed`), so results do not depend on who made it. The
original has no counterpart: it runs one engine, and its parallel runners start whole jobs
(`modgap.workflows.models`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from modgap.core.engine import Completion, Engine, Request, Sampling, sample_seed
from modgap.core.errors import UserError
from modgap.core.progress import show
from modgap.core.text import counted
from modgap.engines.ray import Cluster
from modgap.engines.replica_worker import Failure, Missing, Ready, Reply, Sample, Worker

# After _ACCIDENTS deaths of engines the samples they had in hand are suspects; a group of suspects
# is cut into _PARTS parts.
_ACCIDENTS, _PARTS = 2, 8
# How often an engine may end an order without an answer to a sample.
MOST_SILENCES = 3
# An engine that fails this number of times in a row without any completion is given up.
MOST_FAILURES = 3
# Before anything is made, a broken machine looks like samples that kill an engine. This number of
# deaths in a row is put down to the samples.
MOST_BLIND = 16
# The batch of an engine without a batch size of its own, and the most batches that it has in hand.
_BATCH, _MOST_BATCHES = 64, 8
_LOOK_S, _PATIENCE_S = 5.0, 60.0


class Queue:
    """The samples still to be made.

    Args:
        requests: All requests.

    Attributes:
        requests: Those that no engine has in hand, in order.
        suspects: Groups of samples that may kill an engine, each to be asked with nothing else in
            hand.
        owed: How many samples are not made yet.
        made: A sample that was made: asking an engine for it again shows whether the engine works.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = deque(requests)
        self.suspects: deque[tuple[Sample, ...]] = deque()
        self._originals: dict[Sample, Request] = {}
        for request in requests:
            for sample in request.samples:
                self._originals[request.problem_id, request.view, sample] = request
        self.owed = len(self._originals)
        self.made: Sample | None = None
        self._deaths, self._silences = Counter[Sample](), Counter[Sample]()
        assert self.owed == sum(len(request.samples) for request in requests), (
            "a sample is wanted twice"
        )

    def original(self, sample: Sample) -> Request:
        """The original request of a sample."""
        return self._originals[sample]

    def only(self, samples: Collection[Sample]) -> list[Request]:
        """Requests for these samples alone."""
        wanted: dict[tuple[str, str], list[int]] = {}
        for problem_id, view, sample in samples:
            wanted.setdefault((problem_id, view), []).append(sample)
        return [
            replace(self._originals[problem_id, view, numbers[0]], samples=tuple(sorted(numbers)))
            for (problem_id, view), numbers in wanted.items()
        ]

    def next_problem(self) -> list[Request]:
        """The next request and those of the same problem behind it.

        Together, because the problem's image is prepared once for all of them.
        """
        requests = [self.requests.popleft()]
        while self.requests and self.requests[0].problem_id == requests[0].problem_id:
            requests.append(self.requests.popleft())
        return requests

    def take_back(self, samples: Collection[Sample]) -> None:
        """Put lost samples back to the front, request by request."""
        self.requests.extendleft(reversed(self.only(samples)))

    def died(self, samples: Collection[Sample], *, together: bool) -> Sample | None:
        """Take back what an engine had in hand when it died.

        Args:
            samples: What it had in hand.
            together: Whether they were a group of suspects, so that one of them is likely to have
                killed it.

        Returns:
            The sample that killed it, which is not taken back; `None` if it is not known.
        """
        if together and len(samples) == 1:
            return next(iter(samples))
        self._deaths.update(list(samples))  # a list, because values of a mapping would be added
        self.take_back([sample for sample in samples if self._deaths[sample] < _ACCIDENTS])
        suspects = [sample for sample in samples if self._deaths[sample] >= _ACCIDENTS]
        size = max(1, len(suspects) // _PARTS)
        self.suspects.extend(
            tuple(suspects[start : start + size]) for start in range(0, len(suspects), size)
        )
        return None

    def passed_over(self, samples: Collection[Sample]) -> list[Sample]:
        """Take back samples without an answer; returns those that were asked too often."""
        self._silences.update(list(samples))
        self.take_back([sample for sample in samples if self._silences[sample] < MOST_SILENCES])
        return [sample for sample in samples if self._silences[sample] >= MOST_SILENCES]


@dataclass(slots=True, eq=False)
class _Slot:
    """One replica: its actor, and what it has in hand.

    Attributes:
        alone: Whether what it has in hand are suspects, or a sample that was made already, which
            shows that it works; it gets nothing else meanwhile.
        drains: Whether it knows that there is no more, so that a stream ends.
        failures: In a row, without a single completion in between.
        given_up: Why.
    """

    number: int
    actor: Any
    ready: Ready | None = None
    in_hand: dict[Sample, Request] = field(default_factory=dict[Sample, Request])
    alone: Literal["", "suspects", "trial"] = ""
    drains: bool = False
    failures: int = 0
    given_up: str = ""

    def empty(self) -> dict[Sample, Request]:
        """Take all that it has in hand."""
        lost, self.in_hand = self.in_hand, {}
        self.alone, self.drains = "", False
        return lost


class ReplicaEngine:
    """Engines that share the work.

    Args:
        make: Makes one engine, in its own process; picklable (a `functools.partial` of a module's
            function).
        replicas: How many.
        ray_address: An existing Ray cluster: `auto`, `host:port`, `ray://host:port`. One of our own
            on this machine, which ends with this engine, if `None`.
        accelerators_each: GPUs of one engine (vLLM: its tensor parallel size).
        batch: Samples that one engine works on together, if it does not say so itself
            (`in_flight`).

    Raises:
        UserError: Ray is not installed or the cluster cannot be reached, or there are fewer
            accelerators than that.
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
        self._epoch = self._blind = 0
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
            UserError: No replica could be started, all of them keep failing, one met a fault of the
                input, or Ray has ended.
        """
        self._epoch += 1
        self._blind = 0
        work = Queue(requests)
        for slot in self._slots:
            slot.empty()
            slot.failures = 0
        said: set[str] = set()
        waited = 0.0
        while work.owed:
            self._hand_out(work, sampling)
            done, _ = self._cluster.ray.wait(list(self._pending), timeout=_LOOK_S)
            waited = 0.0 if done else waited + _LOOK_S
            if not done:
                self._cluster.check()
            if (
                waited >= _PATIENCE_S
                and not any(slot.ready for slot in self._slots)
                and "waiting" not in said
            ):
                said.add("waiting")
                _say(
                    "still waiting for the first replica (a model that loads, or accelerators that"
                    " others use)"
                )
            for ref in done:
                slot = self._pending.pop(ref)
                try:
                    events = self._cluster.ray.get(ref)
                except self._cluster.ray.exceptions.RayError as error:
                    events = [Failure(self._cluster.why(error), died=True)]
                for event in events:
                    if isinstance(event, Ready):
                        slot.ready = event
                    elif isinstance(event, Failure):
                        lost, killer = self._lost(slot, work)
                        if killer:
                            yield self._error(
                                killer, f"the engine died of it: {event.words}", work, sampling
                            )
                        self._failed(slot, event, work, said, lost)
                    elif event.epoch == self._epoch:
                        for made in self._made(slot, event, work, sampling):
                            slot.failures = 0
                            yield made

    def _made(
        self, slot: _Slot, event: Reply | Missing, work: Queue, sampling: Sampling
    ) -> Iterator[Completion]:
        """The completions to hand over.

        None for a sample that the replica does not have in hand, or that was made only to show that
        it works.
        """
        samples = event.samples if isinstance(event, Missing) else (event.sample,)
        had = {sample: slot.in_hand.pop(sample) for sample in samples if sample in slot.in_hand}
        if slot.alone == "trial":
            slot.failures = 0
        elif isinstance(event, Missing):
            for sample in work.passed_over(had):
                yield self._error(
                    sample, f"the engine gave no answer, {MOST_SILENCES} times", work, sampling
                )
        elif had:
            work.owed -= 1
            self._blind = 0
            work.made = event.sample if event.completion.finish_reason != "error" else work.made
            yield replace(event.completion, request=had[event.sample])

    def _error(self, sample: Sample, words: str, work: Queue, sampling: Sampling) -> Completion:
        """The record of a sample that is given up."""
        work.owed -= 1
        request = work.original(sample)
        return Completion(
            request, sample[2], "", "error", 0, 0, sample_seed(sampling.seed, *sample), error=words
        )

    def _hand_out(self, work: Queue, sampling: Sampling) -> None:
        """Give each listening replica its share of what is left, a problem at a time, in turns."""
        listening = [
            slot for slot in self._slots if not slot.given_up and slot not in self._pending.values()
        ]
        alive = sum(not slot.given_up for slot in self._slots)
        shares: dict[int, list[Request]] = {slot.number: [] for slot in listening}
        for slot in listening:
            slot.alone = slot.alone if slot.in_hand else ""
        hungry = [slot for slot in listening if slot.ready and not slot.alone]
        while hungry and work.requests:
            hungry = [
                slot for slot in hungry if len(slot.in_hand) < self._most_in_hand(slot, work, alive)
            ]
            for slot in hungry:
                if not work.requests:
                    break
                self._give(slot, work.next_problem(), work, shares)
        for slot in listening:
            if slot.ready and not slot.in_hand and work.suspects:
                slot.alone = "trial" if slot.failures and work.made else "suspects"
                samples = (work.made,) if slot.failures and work.made else work.suspects.popleft()
                self._give(slot, work.only(samples), work, shares)
        for slot in listening:
            streams = slot.ready is not None and slot.ready.streams
            last = streams and bool(slot.in_hand) and (not work.requests or bool(slot.alone))
            if shares[slot.number] or slot.in_hand or not slot.ready:
                announced = last and (bool(shares[slot.number]) or not slot.drains)
                slot.drains = last
                order = (self._epoch, sampling, shares[slot.number], announced)
                self._pending[slot.actor.exchange.remote(order)] = slot

    def _give(
        self, slot: _Slot, requests: list[Request], work: Queue, shares: dict[int, list[Request]]
    ) -> None:
        for request in requests:
            for sample in request.samples:
                key = (request.problem_id, request.view, sample)
                slot.in_hand[key] = work.original(key)
            shares[slot.number].append(self._cluster.portable(request))

    def _most_in_hand(self, slot: _Slot, work: Queue, alive: int) -> int:
        """Samples that a replica may have in hand now: at most its part of all that is left."""
        if slot.failures == MOST_FAILURES - 1:
            # A single sample before it is given up: if it was killed by two samples, it can still
            # make others.
            return 1
        share = -(-work.owed // alive)
        assert slot.ready is not None
        if slot.ready.streams:
            return max(1, min(share, slot.ready.in_flight or _BATCH * _MOST_BATCHES))
        batch = slot.ready.in_flight or self._batch
        return max(1, min(share, batch), min(share // 2, batch * _MOST_BATCHES))

    def _lost(self, slot: _Slot, work: Queue) -> tuple[int, Sample | None]:
        """Take back what a replica that failed had in hand.

        Returns:
            How many samples are to be made again, and the one that made it fail, if that is known.
        """
        alone, lost = slot.alone, slot.empty()
        blind = alone == "suspects" and work.made is None and self._blind < MOST_BLIND
        self._blind += blind
        slot.failures += not blind
        if alone == "trial":
            return 0, None
        killer = work.died(lost, together=alone == "suspects")
        return len(lost) - (killer is not None), killer

    def _failed(
        self, slot: _Slot, failure: Failure, work: Queue, said: set[str], lost: int
    ) -> None:
        """Start another replica instead of one that failed, unless that is of no use."""
        started = slot.ready is not None
        again = failure.words in said and not failure.died
        said.add(failure.words)
        slot.ready = None
        self._cluster.stop(slot.actor)
        name = f"replica {slot.number} of {len(self._slots)}"
        if (not started and not failure.died) or slot.failures >= MOST_FAILURES:
            slot.given_up = failure.words
        if all(other.given_up for other in self._slots) and work.owed:
            raise UserError(_all_failed(self._slots, started))
        if started and failure.users and again:
            # Another replica failed in the same way: the input is the cause, not the machine.
            raise UserError(failure.words)
        if slot.given_up:
            _say(f"{name} is given up ({failure.words}); the others do its work")
            return
        back = f"{counted(lost, 'sample')} in hand made again, and " if lost else ""
        _say(f"{name}: {failure.words}; {back}another one is started")
        slot.actor = self._start()

    def close(self) -> None:
        """End the replicas, and the Ray cluster if it is ours."""
        idle = [
            slot.actor for slot in self._slots if slot.ready and slot not in self._pending.values()
        ]
        self._cluster.close([slot.actor for slot in self._slots], idle)
        self._slots, self._pending = [], {}


def _all_failed(slots: Sequence[_Slot], started: bool) -> str:
    """One line on why all replicas failed."""
    reasons = list(dict.fromkeys(slot.given_up for slot in slots))
    what = "failed again and again" if started else "could not be started"
    which = "the only replica" if len(slots) == 1 else f"all {len(slots)} replicas"
    more = f" (and {counted(len(reasons) - 1, 'other reason')})" if len(reasons) > 1 else ""
    return f"{which} {what}: {reasons[0]}{more}"


def _say(words: str) -> None:
    show(f"modgap: {words}", error=True)
