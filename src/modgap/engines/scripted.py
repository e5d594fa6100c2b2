"""An engine with scripted answers, only for tests of everything around a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from modgap.core.engine import Completion, Request, Sampling, sample_seed


class ScriptedEngine:
    """Answers each sample with what a function of it returns.

    Args:
        answer: Takes a request and the index of a sample, returns the response.
    """

    continues = True

    def __init__(self, answer: Callable[[Request, int], str]) -> None:
        self._answer = answer

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Every wanted sample, in order."""
        for request in requests:
            for sample in request.samples:
                text = self._answer(request, sample)
                yield Completion(
                    request=request,
                    sample=sample,
                    text=text,
                    finish_reason="stop",
                    prompt_tokens=len(request.prompt.text.split()),
                    completion_tokens=len(text.split()),
                    seed=sample_seed(sampling.seed, request.problem_id, request.view, sample),
                )
