"""The samples that replicas still have to make, and those that an engine lost; see `replicas`.

A sample whose engine died twice while working on it may be the cause. Such suspects are asked last
and in ever smaller groups, on an engine that is known to work, until one dies with a single sample
in hand: that sample is an error, with the cause; all others are made.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import replace

from modgap.core.engine import Request
from modgap.engines.replica_worker import Sample

# After _ACCIDENTS deaths of engines the samples they had in hand are suspects; a group of suspects
# is cut into _PARTS parts.
_ACCIDENTS, _PARTS = 2, 8
# How often an engine may end an order without an answer to a sample.
MOST_SILENCES = 3


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
