"""Sampling with fixed shapes, so that a GPU replays a step as a CUDA graph.

A step is dozens of short kernels a layer, and launching them takes longer than running them. Here
everything that a step reads and writes lies at fixed addresses: numbers of prompts, prefix lengths
and room for new tokens are rounded up to a few sizes, entries that do not exist (yet) are masked,
and the index of the step is a tensor. The step is that of `decode.py`. A size is run twice without
a graph, then captured, then replayed; on a CPU it is only run, which the tests do.

Memory is bounded. There are at most `most_graphs` graphs; the least recently used is dropped first.
All states share one buffer. A batch that would need more than the GPU's free memory is left to
`decode.py`. All of it is freed when the samples are drawn if it is more than a twelfth of the
GPU's memory (`Policy.generate`), and in any case before an update uses fewer rows.

Weights are read at their own addresses, so that an optimizer's steps are seen, or at those of their
copies in autocast's type (`casts.py`), which are updated before each rollout; if the addresses
change (another dtype, another device), the graphs are dropped. Keeping graphs pays off: a capture
empties the allocator's cache, and later work has to ask the driver for all its memory again. If a
capture fails, one message says so and sampling continues without graphs.

Legend: P prompts, G samples of each, K key heads, S prefix, D head, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from modgap.core.errors import UserError
from modgap.core.progress import show
from modgap.models.decode import (
    KeysValues,
    Start,
    begin,
    bytes_of_token,
    cut,
    decode_step,
    doing_token,
    flat_seeds,
    free_memory,
    padding_bias,
    pick,
    uniforms,
)
from modgap.models.decoder import DecoderModel

if TYPE_CHECKING:
    from modgap.models.encode import EncodedPrompt

SWITCH = "MODGAP_CUDA_GRAPHS"
# The first room for new tokens is at most _ROOM; prefix lengths are multiples of _PREFIX.
_ROOM = 128
_PREFIX = 128
_ALIGN = 256
_PICKING = 40
"""Bytes for each row and word while tokens are picked, which a graph keeps."""
_SHARE = 0.9
"""The part of the free memory that a batch may take; the rest is lost between blocks."""


def replays() -> bool:
    """Whether GPUs should replay graphs: unless MODGAP_CUDA_GRAPHS is 0 in the environment.

    Raises:
        UserError: It is neither 0 nor 1.
    """
    value = os.environ.get(SWITCH) or "1"
    if value not in ("0", "1"):
        raise UserError(
            f"{SWITCH}={value}: give 0 (launch each kernel of sampling) or 1 (replay CUDA graphs)."
        )
    return value == "1"


def wanted(device: torch.device) -> bool:
    """Whether sampling on a device replays graphs. Raises `UserError` as `replays` does."""
    return replays() and device.type == "cuda"


def rounded(n: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ..."""
    power = 1 << max(0, n - 1).bit_length()
    return power * 3 // 4 if power >= 4 and n <= power * 3 // 4 else power


def rooms(limit: int) -> list[int]:
    """The rooms for new tokens of a batch as it grows, each half of the next, rounded up."""
    found = [limit]
    while found[0] > _ROOM:
        found.insert(0, -(-found[0] // 2))
    return found


class _Key(NamedTuple):
    """What a captured step depends on."""

    prompts: int
    samples: int
    prefix: int
    room: int
    temperature: float
    autocast: torch.dtype | None


@dataclass
class _State:
    """One batch that is being sampled; also a `decode.Cache`.

    Rows lie prompt by prompt; prompts from `count` on are padding.
    """

    key: _Key
    count: int
    first: int
    logits: Tensor
    place: Tensor
    tokens: Tensor
    logps: Tensor
    noise: Tensor
    done: Tensor
    cos: Tensor
    sin: Tensor
    bias: Tensor
    prefix: KeysValues
    added: KeysValues

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.added[layer]
        keys.index_copy_(3, self.place, k[:, :, :, None].to(keys.dtype))
        values.index_copy_(3, self.place, v[:, :, :, None].to(values.dtype))
        return keys, values


class _Draw(NamedTuple):
    """What stays the same while a batch is sampled; the noise has a row for each sample."""

    start: Start
    noise: Tensor
    samples: int
    temperature: float


class _Contents(NamedTuple):
    """What was sampled so far, with which a state starts, without padding."""

    added: KeysValues
    logits: Tensor
    done: Tensor


def advance(policy: DecoderModel, state: _State, eos: Tensor) -> None:
    """One step, entirely on the device.

    It picks a token for each row, records it, and runs the decoder on it.
    """
    P, G = state.key.prompts, state.key.samples
    temperature, place = state.key.temperature, state.place
    logps_BV = policy.token_logps(state.logits, temperature or 1.0)
    noise_B = state.noise.index_select(1, place)[:, 0]
    token = pick(logps_BV, noise_B) if temperature > 0 else logps_BV.argmax(-1)
    state.tokens.index_copy_(1, place, token[:, None])
    state.logps.index_copy_(1, place, logps_BV.gather(-1, token[:, None]))
    state.done.logical_or_((token[:, None] == eos).any(1))
    state.bias.index_fill_(4, place + state.key.prefix, 0.0)
    cos, sin = (table.index_select(1, place)[:, 0] for table in (state.cos, state.sin))
    state.logits.copy_(decode_step(policy, token.view(P, G), state, cos, sin))
    place.add_(1)


class StaticSampler:
    """Samples batches for one policy; keep it from one batch to the next.

    Args:
        policy: The policy.
        capture: Whether steps become CUDA graphs; by default on a GPU.
        most_graphs: How many are kept.
        compact_above: Above this number of rows a batch shrinks once half of its prompts are done.
    """

    def __init__(
        self,
        policy: DecoderModel,
        capture: bool | None = None,
        most_graphs: int = 48,
        compact_above: int = 32,
    ) -> None:
        # Weak, because the policy holds this object: a cycle would delay freeing its memory.
        self._held = weakref.ref(policy)
        self.capture = policy.device.type == "cuda" if capture is None else capture
        self._most, self._compact_above = most_graphs, compact_above
        self._graphs: OrderedDict[_Key, torch.cuda.CUDAGraph | int] = OrderedDict()
        self._pool: Any = None
        self._arena = torch.empty(0, dtype=torch.uint8, device=policy.device)
        self._eos = torch.tensor(policy.eos_token_ids, device=policy.device)
        self._weights: int | None = None
        self._most_logits = 0
        self.replays = 0

    @property
    def _policy(self) -> DecoderModel:
        policy = self._held()
        assert policy is not None, "its policy is gone"
        return policy

    @property
    def device(self) -> torch.device:
        """Where its buffer is."""
        return self._arena.device

    @property
    def held(self) -> int:
        """Bytes of its buffer."""
        return self._arena.numel()

    @property
    def spare(self) -> int:
        """Bytes that the next batch can use, less what graphs keep and the allocator calls free."""
        return self.held - _PICKING * self._most_logits

    @property
    def is_large(self) -> bool:
        """Whether its memory is too large a part of a GPU's to be kept between two batches."""
        kept = self.held + _PICKING * self._most_logits
        return (
            self.device.type == "cuda"
            and kept > torch.cuda.get_device_properties(self.device).total_memory / 12
        )

    @property
    def graphs(self) -> int:
        """How many graphs are held."""
        return sum(not isinstance(graph, int) for graph in self._graphs.values())

    def clear(self) -> None:
        """Free all graphs and the buffer."""
        self._graphs.clear()
        self._pool, self._most_logits = None, 0
        self._arena = torch.empty(0, dtype=torch.uint8, device=self._policy.device)

    def sample(
        self,
        prompts: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        temperature: float,
        max_new_tokens: int,
    ) -> list[list[tuple[Tensor, Tensor]]] | None:
        """Tokens and their log-probabilities, as `decode.sample_batch` gives them.

        `None` if the batch is too large.
        """
        model = self._policy.model
        read: list[Tensor] = []  # the copies of `Casts`, which hide the parameters
        for module in model.modules():
            copies = (module.__dict__.get("weight"), module.__dict__.get("bias"))
            read += [copy for copy in copies if copy is not None]
        weights = hash(tuple(x.data_ptr() for x in (*model.parameters(), *model.buffers(), *read)))
        if weights != self._weights:
            self.clear()
            self._weights = weights
        try:
            on = (
                contextlib.nullcontext()
                if self._arena.device.type == "cpu"
                else torch.cuda.device(self._arena.device)
            )
            with on:
                return self._sample(prompts, seeds, temperature, max_new_tokens)
        except torch.OutOfMemoryError:
            self.clear()
            raise

    def _sample(
        self,
        prompts: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        temperature: float,
        limit: int,
    ) -> list[list[tuple[Tensor, Tensor]]] | None:
        policy, device = self._policy, self._arena.device
        G = max(len(row) for row in seeds)
        if self._most_bytes(max(map(len, prompts)), len(prompts), G, limit) > _SHARE * (
            free_memory(device) + self.spare
        ):
            return None

        start = begin(policy, prompts, limit)
        noise = (
            uniforms(flat_seeds(seeds), limit)
            if temperature > 0
            else torch.zeros(len(prompts) * G, limit)
        )
        draw = _Draw(start, noise.to(device), G, temperature)
        tokens = torch.zeros(len(prompts) * G, limit, dtype=torch.long, device=device)
        logps = torch.zeros(len(prompts) * G, limit, device=device)
        kept = torch.arange(len(prompts), device=device)
        state = self._state(draw, kept, 0, rooms(limit)[0])
        t = 0
        look_every = 1 if device.type == "cpu" else 8  # reading a result makes a GPU wait

        def flush() -> None:
            rows = _rows(kept, G)
            tokens[rows, state.first : t] = state.tokens[: rows.numel(), state.first : t]
            logps[rows, state.first : t] = state.logps[: rows.numel(), state.first : t]

        while t < limit:
            room, going = state.key.room, kept.new_ones(state.count, dtype=torch.bool)
            if t and t % look_every == 0:
                going = ~state.done[: state.count * G].view(state.count, G).all(1)
            alive = int(going.sum()) if t and t % look_every == 0 else state.count
            if alive == 0:
                break
            P = state.key.prompts
            smaller = rounded(alive) <= P // 2 and self._compact_above < P * G
            if smaller or t == room:
                flush()
                chosen = going.nonzero()[:, 0]
                kept = kept[chosen]
                room = next(more for more in rooms(limit) if more > t)
                contents = _sampled(state, chosen, t)
                del state  # frees a buffer that has become too small
                state = self._state(draw, kept, t, room, contents)
                del contents
            self._step(state)
            t += 1
            doing_token(t, limit)
        flush()
        return cut(tokens, logps, t, self._eos, seeds)

    def _most_bytes(self, longest: int, count: int, samples: int, limit: int) -> float:
        """The most that a batch holds: when it grows for the last time.

        There are the prompts' own keys and values, what was sampled (half of what there is room
        for then), the new state, whose buffer replaces the old, and what picking tokens takes.
        """
        policy, rows = self._policy, rounded(count) * samples
        state = rounded(count) * math.ceil(longest / _PREFIX) * _PREFIX + rows * limit
        taken = count * (longest + samples * (limit / 2 + 1))
        vocabulary = policy.model.config.text_config.vocab_size
        return bytes_of_token(policy) * (state + taken) + _PICKING * vocabulary * rows

    # ------------------------------------------------------------------ one step

    def _step(self, state: _State) -> None:
        with _no_kept_casts(state.place.device):
            if not self.capture:
                advance(self._policy, state, self._eos)
                return
            found = self._graphs.get(state.key, 0)
            # Two plain runs load the kernels and create the workspaces before a capture.
            if isinstance(found, int) and found < 2:
                self._graphs[state.key] = found + 1
                self._graphs.move_to_end(state.key)
                advance(self._policy, state, self._eos)
                return
            if isinstance(found, int):
                found = self._captured(state)
                if found is None:
                    advance(self._policy, state, self._eos)
                    return
                self._graphs[state.key] = found
                while len(self._graphs) > self._most:
                    self._graphs.popitem(last=False)
            self._graphs.move_to_end(state.key)
            found.replay()
            self.replays += 1

    def _captured(self, state: _State) -> torch.cuda.CUDAGraph | None:
        """The step as a graph; capturing runs nothing.

        If it cannot be captured, `None`, and nothing is captured from then on.
        """
        try:
            graph = torch.cuda.CUDAGraph()
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                advance(self._policy, state, self._eos)
            self._most_logits = max(self._most_logits, state.logits.numel())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            show(
                f"modgap: sampling continues without CUDA graphs, capturing one failed: {reason}",
                error=True,
            )
            self.capture = False
            self._graphs.clear()
            return None
        return graph

    # ------------------------------------------------------------------ states

    def _state(
        self, draw: _Draw, kept: Tensor, t: int, room: int, contents: _Contents | None = None
    ) -> _State:
        """A state of these prompts of the batch, with `t` tokens and room for `room`."""
        prefix = draw.start.prefix
        keys = prefix[0][0]
        kind = keys.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        S = math.ceil(keys.shape[2] / _PREFIX) * _PREFIX
        count, rows = kept.numel(), _rows(kept, draw.samples)
        key = _Key(rounded(count), draw.samples, S, room, draw.temperature, autocast)

        contents = contents or _nothing(draw, kept)
        state = self._allocate(key, count, t, draw)
        state.logits[: rows.numel()] = contents.logits
        state.place.fill_(t)
        state.noise[: rows.numel()] = draw.noise[rows, :room]
        state.done.fill_(True)[: rows.numel()] = contents.done
        state.cos[:count] = draw.start.cos[kept, :room]
        state.sin[:count] = draw.start.sin[kept, :room]
        state.bias[:count, ..., :S] = padding_bias(draw.start.lengths[kept], S)
        state.bias[..., S + t :] = -torch.inf
        for into, pair in zip(state.prefix, prefix, strict=True):
            for x, y in zip(into, pair, strict=True):
                x[:count, :, : y.shape[2]] = y[kept]
        if t:
            for into, pair in zip(state.added, contents.added, strict=True):
                for x, y in zip(into, pair, strict=True):
                    x[:count, :, :, :t] = y
        return state

    def _allocate(self, key: _Key, count: int, t: int, draw: _Draw) -> _State:
        """A state of zeros in the buffer."""
        P, G, S, room = key.prompts, key.samples, key.prefix, key.room
        prefix, logits, angles = draw.start.prefix, draw.start.logits, draw.start.cos.dtype
        keys, layers = prefix[0][0], len(prefix)
        _, K, _, D = keys.shape
        small = {
            "logits": ((P * G, logits.shape[1]), logits.dtype),
            "place": ((1,), torch.long),
            "tokens": ((P * G, room), torch.long),
            "logps": ((P * G, room), torch.float32),
            "noise": ((P * G, room), torch.float32),
            "done": ((P * G,), torch.bool),
            "cos": ((P, room, D), angles),
            "sin": ((P, room, D), angles),
            "bias": ((P, 1, 1, 1, S + room), torch.float32),
        }
        shapes = [(P, K, S, D)] * (2 * layers) + [(P, K, G, room, D)] * (2 * layers)
        taken = self._take([*small.values(), *((shape, keys.dtype) for shape in shapes)])
        fields = dict(zip(small, taken, strict=False))
        pairs = list(zip(taken[len(small) :: 2], taken[len(small) + 1 :: 2], strict=True))
        return _State(key, count, t, prefix=pairs[:layers], added=pairs[layers:], **fields)

    def _take(self, layout: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> list[Tensor]:
        """Zeroed tensors, one after the other in the buffer.

        The same layout always has the same addresses.
        """
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in layout]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + math.ceil(size / _ALIGN) * _ALIGN)
        if starts[-1] > self._arena.numel():
            self.clear()
            self._arena = torch.empty(starts[-1], dtype=torch.uint8, device=self._arena.device)
        # Masked entries are multiplied by zero, so they must not be NaN.
        self._arena[: starts[-1]].zero_()
        return [
            self._arena[at : at + size].view(dtype).view(shape)
            for at, size, (shape, dtype) in zip(starts, sizes, layout, strict=False)
        ]


def _nothing(draw: _Draw, kept: Tensor) -> _Contents:
    """What a state without tokens starts with."""
    logits = draw.start.logits[kept].repeat_interleave(draw.samples, 0)
    return _Contents([], logits, logits.new_zeros(logits.shape[0], dtype=torch.bool))


def _sampled(state: _State, chosen: Tensor, t: int) -> _Contents:
    """What a state starts with that continues these prompts of another state.

    Copies, because the new state overwrites the other one in the buffer.
    """
    added = [(k[chosen, :, :, :t], v[chosen, :, :, :t]) for k, v in state.added]
    among = _rows(chosen, state.key.samples)
    return _Contents(added, state.logits[among], state.done[among])


def _rows(prompts: Tensor, samples: int) -> Tensor:
    return (prompts[:, None] * samples + torch.arange(samples, device=prompts.device)).view(-1)


@contextlib.contextmanager
def _no_kept_casts(device: torch.device) -> Iterator[None]:
    """Inside, autocast (if it is on) casts anew at each step what has no copy in `Casts`.

    A graph must not read the casts of earlier weights.
    """
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, torch.get_autocast_dtype(device.type), cache_enabled=False):
        yield
