"""Answers prompts with transformers, in this process.

Prompts are encoded a window at a time and batched by length, so that padding is small and memory
does not grow with the data set; a thread encodes the next window while the model works on this one.
A problem's views share its image, which is decoded once. A model with a forward pass of our own
(`Policy`) cuts it into patches once and sends it through the vision tower once, and a prompt's
samples share its prefill; all others are answered by transformers' own `generate`
(`GenericModel`). Each sample is drawn with a seed of its own, so that batching does not change its
random numbers. A prompt whose image cannot be decoded, or that the image processor refuses, is
recorded as an error and costs only itself.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from modgap.core.engine import Completion, Engine, Request, Sampling, Start, sample_seed
from modgap.core.progress import show
from modgap.core.prompt import of_paper
from modgap.core.turns import at_a_token
from modgap.models.folder import image_processor, paper_pixels, pixel_limits
from modgap.models.memory import BatchSize, OutOfMemory

if TYPE_CHECKING:
    from PIL.Image import Image

    from modgap.core.options import EvalOptions
    from modgap.core.prompt import Prompt

# Prompts encoded (image decoded and resized) ahead of the model, in batches.
_WINDOW = 8
_NAN = "the model gives NaN for this prompt"


class _Policy(Protocol):
    """What this engine needs of a model; `Policy` and `GenericModel` have it."""

    tokenizer: Any

    def encode(self, prompt: Prompt, image: Image | None) -> Any: ...

    def keeping_features(self) -> AbstractContextManager[None]: ...

    def generate(
        self,
        prompts: Sequence[Any],
        seeds: Sequence[Sequence[int]],
        temperature: float | None,
        max_new_tokens: int,
    ) -> list[list[Any]]: ...


def load_engine(
    folder: Path, pixels: tuple[int, int] | None, device: str | None, batch_size: int
) -> Engine:
    """The `hf` engine of a model folder.

    Args:
        folder: The model.
        pixels: Least and most pixels of an image; the processor's own if not given.
        device: `None` takes the best there is.
        batch_size: Responses sampled together.
    """
    from modgap.models.load import is_fast, load_generic, load_policy

    if is_fast(folder):
        return HfEngine(load_policy(folder, device=device, pixels=pixels), batch_size=batch_size)
    return HfEngine(load_generic(folder, pixels, device), batch_size=batch_size)


class HfEngine:
    """The `hf` engine.

    Args:
        policy: The model and its processor: `modgap.models.load.load_policy` for a type with a
            forward pass of our own, `modgap.models.load.load_generic` for all others.
        batch_size: Responses sampled together; lowered automatically when memory runs out.
        ahead: Encode the next window in a thread while the model works.
    """

    continues = True  # a started turn of the assistant's

    def __init__(self, policy: _Policy, batch_size: int = 64, ahead: bool = True) -> None:
        self._policy = policy
        self._rows = BatchSize(batch_size, functools.partial(show, "modgap:", error=True))
        self._ahead = ahead

    @classmethod
    def start(cls, model: str | Path, options: EvalOptions) -> Start:
        """How it starts; the model is found and checked, not loaded. Raises `UserError`."""
        from modgap.models.fingerprint import model_fingerprint
        from modgap.models.load import (
            check_device,
            check_folder,
            check_model,
            is_fast,
            model_type,
            resolve,
        )

        folder = resolve(model)
        check_folder(folder)
        if options.device is not None and options.replicas == 1 and options.ray_address is None:
            check_device(options.device)
        check_model(folder)
        if not is_fast(folder):
            from modgap.models.processor import load_processor

            load_processor(folder, model_type(folder))
        pixels = paper_pixels(folder) if of_paper(options.wording) else None
        make = functools.partial(load_engine, folder, pixels, options.device, options.batch_size)
        known = pixels or pixel_limits(image_processor(folder))
        return Start(make, folder, {"model_fingerprint": model_fingerprint(folder)}, known)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Every wanted sample of every request, batch by batch."""

        def ids(text: str) -> list[int]:
            return self._policy.tokenizer.encode(text, add_special_tokens=False)

        requests = [replace(r, prompt=at_a_token(r.prompt, ids)) for r in requests]
        window = max(
            1, self._rows.size * _WINDOW // max((len(r.samples) for r in requests), default=1)
        )
        first = max(1, window // _WINDOW)  # the model waits for the first prompts alone
        cuts = [0, *range(first, len(requests), window), len(requests)]
        parts = [requests[start:end] for start, end in pairwise(cuts) if start < end]
        for encoded, refused in _encoded(self._policy, parts, self._ahead):
            for request, error in refused:
                yield from _errors(request, error, sampling)
            encoded.sort(key=lambda pair: len(pair[1]))
            with self._policy.keeping_features():
                while encoded:
                    count, rows = 0, 0
                    while count < len(encoded) and (
                        not count or rows + len(encoded[count][0].samples) <= self._rows.size
                    ):
                        rows += len(encoded[count][0].samples)
                        count += 1
                    batch, encoded = encoded[:count], encoded[count:]
                    yield from self._batch(batch, sampling)

    def _batch(self, batch: list[tuple[Request, Any]], sampling: Sampling) -> Iterator[Completion]:
        seeds = [
            [
                sample_seed(sampling.seed, request.problem_id, request.view, sample)
                for sample in request.samples
            ]
            for request, _ in batch
        ]
        prompts = [prompt for _, prompt in batch]
        groups: list[list[Any]] | None = None
        with contextlib.suppress(OutOfMemory):
            groups = self._rows.attempt(
                lambda: self._policy.generate(
                    prompts, seeds, sampling.temperature, sampling.max_tokens
                )
            )
        if groups is None:
            request, prompt = batch[0]
            self._rows.halve(
                sum(len(group) for group in seeds),
                "out of memory, batch size lowered to {rows}",
                f"out of memory with a single response (problem {request.problem_id}, view"
                f" {request.view}, {len(prompt)} prompt tokens, {prompt.image_tokens} of them the"
                " image's): lower --max-tokens, make the images smaller, or use another device.",
            )
            for half in _halves(batch):
                yield from self._batch(half, sampling)
            return
        for (request, prompt), group, group_seeds in zip(batch, groups, seeds, strict=True):
            opening = request.prompt.prefill or prompt.opened
            for sample, generated, seed in zip(request.samples, group, group_seeds, strict=True):
                broken = bool(generated.logps.isnan().any())
                yield Completion(
                    request=request,
                    sample=sample,
                    text="" if broken else opening + generated.text,
                    finish_reason="error" if broken else generated.finish_reason,
                    error=_NAN if broken else None,
                    prompt_tokens=len(prompt),
                    completion_tokens=len(generated.token_ids),
                    image_tokens=prompt.image_tokens,
                    seed=seed,
                    opened=prompt.opened,
                    left_out=prompt.left_out,
                )


_Batch = list[tuple[Request, Any]]
_Refused = list[tuple[Request, str]]


def _errors(request: Request, error: str, sampling: Sampling) -> Iterator[Completion]:
    """The records of the samples of a prompt that cannot be asked."""
    for sample in request.samples:
        seed = sample_seed(sampling.seed, request.problem_id, request.view, sample)
        yield Completion(request, sample, "", "error", 0, 0, seed, error=error)


def _encoded(
    policy: _Policy, parts: Sequence[Sequence[Request]], ahead: bool
) -> Iterator[tuple[_Batch, _Refused]]:
    """Each part's requests with their prompts encoded, one part ahead in a thread.

    Those that cannot be encoded come with the reason. An error that is not one prompt's own is
    raised when its part is due: what comes before it is answered first.
    """
    stop = threading.Event()

    def encode(part: Sequence[Request]) -> tuple[_Batch, _Refused]:
        done: _Batch = []
        refused: _Refused = []
        opener: Callable[[], Image] | None = None
        image: Image | None = None
        for request in part:
            if stop.is_set():
                break
            try:
                # The views of a problem come side by side and share its image.
                if request.image is None or request.image != opener:
                    image = request.image() if request.image else None
                    opener = request.image
            except Exception as error:
                refused.append((request, request.refusal(error)))
                continue
            try:
                done.append((request, policy.encode(request.prompt, image)))
            except ValueError as error:  # the prompt's own; others are bugs or the machine's
                refused.append((request, request.refusal(error)))
        return done, refused

    if not ahead or len(parts) < 2:
        yield from map(encode, parts)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="modgap-encode") as thread:
        try:
            coming = thread.submit(encode, parts[0])
            for following in parts[1:]:
                encoded = coming.result()
                coming = thread.submit(encode, following)
                yield encoded
            yield coming.result()
        # Also on Ctrl-C, an error or a consumer that stops early.
        finally:
            stop.set()  # the thread ends after its current prompt


def _halves(batch: _Batch) -> tuple[_Batch, _Batch]:
    """A batch in two: its prompts, or the samples of its only one."""
    if len(batch) > 1:
        return batch[: len(batch) // 2], batch[len(batch) // 2 :]
    request, prompt = batch[0]
    middle = len(request.samples) // 2
    first, second = request.samples[:middle], request.samples[middle:]
    return [(replace(request, samples=first), prompt)], [(replace(request, samples=second), prompt)]
