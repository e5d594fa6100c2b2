"""The `hf` engine: what makes its steps fast changes no answer.

The bundled testbed model on synthetic problems, with transformers' own model as the oracle.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from encoded_prompts import encode
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.models.decode import Generated, begin, decode_step, sample_batch
from modgap.models.encode import EncodedPrompt
from modgap.models.load import load_policy
from modgap.models.policy import Policy
from modgap.models.static import StaticSampler, _Draw, _Key, _State, rooms, rounded, wanted
from modgap.training.update import computing

Sampled = list[list[tuple[Tensor, Tensor]]]


def same(ours: Sampled, theirs: Sampled, tolerance: float = 1e-4) -> None:
    """The same tokens, at the same log-probabilities."""
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    for a, b in zip(
        (s for row in ours for s in row), (s for row in theirs for s in row), strict=True
    ):
        assert a[0].tolist() == b[0].tolist()
        assert torch.allclose(a[1], b[1], atol=tolerance)


# ---------------------------------------------------------------------- batches


def test_logits_do_not_depend_on_the_batch(policy: Policy, prompts: list[EncodedPrompt]) -> None:
    """Alone, and beside shorter and longer ones with and without images: after the prompt and at
    each step after.
    """
    assert len({len(p) for p in prompts}) > 3 and any(p.pixels is None for p in prompts)
    with policy.evaluating():
        together = begin(policy, prompts, 1)
        whole = sample_batch(policy, prompts, [[0]] * len(prompts), 0.7, 8)
        for i, prompt in enumerate(prompts):
            alone = begin(policy, [prompt], 1)
            assert torch.allclose(alone.logits[0], together.logits[i], atol=3e-4)
            same(sample_batch(policy, [prompt], [[0]], 0.7, 8), [whole[i]])


def test_greedy_equals_transformers_one_by_one(
    policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    """With graphs and without, until two tokens are so close that rounding may choose between
    them.
    """
    ours = [
        policy.generate(prompts, [[0]] * len(prompts), 0.0, 20, graphs=graphs)
        for graphs in (False, True)
    ]
    compared = 0
    for prompt, (growing,), (static,) in zip(prompts, *ours, strict=True):
        ids = prompt.input_ids[None]
        seen = {"pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid_thw}
        out = policy.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == policy.model.config.image_token_id).int(),
            do_sample=False,
            max_new_tokens=20,
            suppress_tokens=policy.banned_token_ids,
            output_logits=True,
            return_dict_in_generate=True,
            **{name: value for name, value in seen.items() if value is not None},
        )
        theirs = out.sequences[0, len(prompt) :]
        for t, logits in enumerate(out.logits):
            first, second = logits[0].topk(2).values.tolist()
            if first - second < 1e-3:
                break
            assert growing.token_ids[t] == static.token_ids[t] == theirs[t]
            compared += 1
        else:
            assert growing.token_ids.tolist() == static.token_ids.tolist() == theirs.tolist()
    assert compared > 12 * len(prompts)


# ---------------------------------------------------------------------- shapes that stay


@pytest.mark.parametrize(("temperature", "room"), [(0.9, 16), (0.0, 4)])
def test_shapes_that_stay_give_what_growing_ones_give(
    policy: Policy,
    prompts: list[EncodedPrompt],
    temperature: float,
    room: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Padding to the next size, growing room, prompts that are done and leave, fewer samples for
    some prompts.
    """
    monkeypatch.setattr("modgap.models.static._ROOM", room)
    keys: list[_Key] = []
    made = StaticSampler._state

    def watched(self: StaticSampler, *args: Any) -> _State:
        keys.append((state := made(self, *args)).key)
        return state

    monkeypatch.setattr(StaticSampler, "_state", watched)
    limit = 72 if room == 16 else 20  # after which some prompts are done, or none
    seeds = [[1, 2], [3], [4, 5], [6, 7], [8], [9, 9], [2, 3]]
    with policy.evaluating():
        growing = sample_batch(policy, prompts, seeds, temperature, limit)
        static = StaticSampler(policy, compact_above=1).sample(prompts, seeds, temperature, limit)
    assert static is not None
    same(static, growing, 2e-5)
    assert keys[0].prompts == 8, "padded"
    assert (keys[-1].prompts < 8) == (limit == 72), "then smaller"
    assert rooms(limit)[0] <= room and rooms(limit)[-1] == limit
    assert [*dict.fromkeys(key.room for key in keys)][:3] == rooms(limit)[:3]


@pytest.mark.parametrize("tokens", [40, 64, 65])
def test_a_batch_holds_at_most_what_it_is_sized_by(
    policy: Policy, prompts: list[EncodedPrompt], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    """While states grow, for any limit: a GPU's batches are sized by this."""
    monkeypatch.setattr("modgap.models.static._ROOM", 16)
    monkeypatch.setattr("modgap.models.static._PREFIX", 16)
    monkeypatch.setattr(policy, "eos_token_ids", [])
    some, samples = prompts[:2], 8
    sampler = StaticSampler(policy)
    most = sampler._most_bytes(max(map(len, some)), 2, samples, tokens)

    def begun(*args: Any) -> Any:
        with _disable_current_modes():  # what reading prompts takes beside is counted by nobody
            return begin(*args)

    monkeypatch.setattr("modgap.models.static.begin", begun)
    # A small model's tables of positions, noise and results are not small beside its keys.
    tables = 2 * samples * tokens * (8 * 128 + 40)
    with policy.evaluating(), Live(policy.model) as live:
        sampler.sample(some, [list(range(samples))] * 2, 1.0, tokens)
    assert 0.6 * most < live.peak < most + tables


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations inside have made and that still exist.

    Args:
        model: Its parameters, of which operations make views, do not count.

    Attributes:
        peak: The most at a time.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.peak = self._now = 0
        tensors = (*model.parameters(), *model.buffers())
        self._storages = {tensor.untyped_storage()._cdata for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in (x for x in pytree.tree_leaves(out) if isinstance(x, torch.Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._storages:
                self._storages.add(storage._cdata)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self._now)
        return out

    def _freed(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self._now -= size


def test_a_step_is_the_same_through_either_cache(
    policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    """Logits within 1e-5 after one step, whatever lies in the buffer that is not there yet."""
    with policy.evaluating():
        sampler = StaticSampler(policy)
        start = begin(policy, prompts, 40)
        sampler._arena = torch.full((2**26,), 255, dtype=torch.uint8)  # every number in it is a NaN
        state = sampler._state(_Draw(start, torch.zeros(14, 40), 2, 0.0), torch.arange(7), 0, 40)
        sampler._step(state)
        tokens = state.tokens[:14, :1].view(7, 2)
        cache = _growing(start, 2)
        expected = decode_step(policy, tokens, cache, start.cos[:, 0], start.sin[:, 0])
    assert torch.allclose(state.logits[:14], expected, atol=1e-5)


def _growing(start: Any, samples: int) -> Any:
    from modgap.models.decode import _Cache

    cache = _Cache(start.prefix, start.lengths, samples, 4, 40)
    cache.reserve(1)
    return cache


def test_the_same_sizes_lie_at_the_same_addresses(
    policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    """What a graph has captured is where the next batch of that size is put; a larger one takes a
    new buffer.
    """
    sampler = StaticSampler(policy)
    states: list[_State] = []
    with policy.evaluating():
        for chosen in (prompts[:2], prompts[:1], prompts[:2], prompts, prompts[:2]):
            start = begin(policy, chosen, 8)
            draw = _Draw(start, torch.zeros(14, 8), 1, 1.0)
            states.append(sampler._state(draw, torch.arange(len(chosen)), 0, 8))

    def places(state: _State) -> list[int]:
        pairs = [tensor for pair in (*state.prefix, *state.added) for tensor in pair]
        return [
            tensor.data_ptr()
            for tensor in (state.logits, state.place, state.tokens, state.bias, *pairs)
        ]

    assert states[0].key == states[2].key and places(states[0]) == places(states[2])
    assert places(states[2]) != places(states[4]), "the larger batch moved the buffer"


def test_new_weights_are_seen(problems: list[Problem]) -> None:
    policy = load_policy("tiny", device="cpu")
    prompts = encode(policy, problems[:1])
    seeds = [[0]] * len(prompts)
    before = policy.generate(prompts, seeds, 0.8, 8, graphs=True)
    with torch.no_grad():
        policy.model.lm_head.weight.add_(torch.randn(policy.model.lm_head.weight.shape) * 0.3)
    after = policy.generate(prompts, seeds, 0.8, 8, graphs=True)
    growing = policy.generate(prompts, seeds, 0.8, 8, graphs=False)
    ids = [[s.token_ids.tolist() for row in rows for s in row] for rows in (before, after, growing)]
    assert ids[0] != ids[1] == ids[2]
    model = weakref.ref(policy.model)
    gc.disable()
    try:
        del policy
        assert model() is None, "its memory is free for the next stage's model at once"
    finally:
        gc.enable()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here captures work")
def test_a_capture_that_fails_is_said_once_and_costs_nothing(
    policy: Policy, prompts: list[EncodedPrompt], capsys: pytest.CaptureFixture[str]
) -> None:
    sampler = StaticSampler(policy, capture=True)  # on a CPU it must fail
    seeds = [[0], [1]]
    with policy.evaluating():
        made = [sampler.sample(prompts[:2], seeds, 0.8, 6) for _ in range(2)]
        expected = sample_batch(policy, prompts[:2], seeds, 0.8, 6)
    for sampled in made:
        assert sampled is not None
        same(sampled, expected)
    (line,) = capsys.readouterr().err.splitlines()
    assert "without CUDA graphs" in line and not sampler.capture and sampler.graphs == 0


def test_weights_cast_once_give_the_same_bits_and_leave_no_trace(
    policy: Policy, prompts: list[EncodedPrompt]
) -> None:
    """What steps read under autocast; the embedding, which the LM head may share, is unchanged."""
    prompts = prompts[:3]
    seeds = [[0, 1]] * len(prompts)
    before = {name: p.data_ptr() for name, p in policy.model.named_parameters()}
    embedding = policy.model.get_input_embeddings().weight
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), policy.evaluating():
        expected = sample_batch(policy, prompts, seeds, 0.8, 4)
        with pytest.raises(KeyError), policy.weights_cast():
            sampler = StaticSampler(policy, capture=False)
            for sampled in (
                sample_batch(policy, prompts, seeds, 0.8, 4),
                sampler.sample(prompts, seeds, 0.8, 4),
            ):
                assert sampled is not None
                same(sampled, expected)
            assert policy.model.lm_head.weight.dtype == torch.bfloat16
            assert policy.model.get_input_embeddings().weight is embedding
            raise KeyError
    assert {name: p.data_ptr() for name, p in policy.model.named_parameters()} == before
    assert all(
        "weight" not in m.__dict__ and "bias" not in m.__dict__ for m in policy.model.modules()
    )


def test_graphs_stay_from_rollout_to_rollout_and_go_with_what_they_read(
    problems: list[Problem],
) -> None:
    """Under autocast, too: an optimizer's step changes no address.

    Without it other weights are read: other graphs.
    """
    policy = load_policy("tiny", device="cpu")
    prompts, seen = encode(policy, problems[:1])[:2], list[tuple[torch.dtype, int | None]]()
    sample = StaticSampler.sample

    def watched(sampler: StaticSampler, *given: Any) -> Any:
        out = sample(sampler, *given)
        seen.append((policy.model.lm_head.weight.dtype, sampler._weights))
        return out

    def update() -> None:
        with policy.weights_cast():
            logps, _, mask = policy.logprobs(
                prompts, [torch.arange(10, 14)] * 2, policy.image_features(prompts)
            )
            logps[mask].mean().backward()
        optimizer.step()

    optimizer = torch.optim.AdamW(policy.parameters())
    held: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StaticSampler, "sample", watched)
        for cast in (True, True, False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=cast, cache_enabled=False):
                policy.generate(prompts, [[0]] * 2, 0.8, 4, graphs=True)
                held.append(policy._static)
                update()
    assert held[0] is not None and all(sampler is held[0] for sampler in held)
    first, second, whole, third = seen
    assert first == second == third and first[0] == torch.bfloat16
    assert whole[0] == torch.float32 and whole[1] != first[1], (
        "graphs of the one are never replayed for the other"
    )


def test_a_large_buffer_goes_with_its_rollout(
    problems: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy("tiny", device="cpu")
    prompts = encode(policy, problems[:1])[:1]
    policy.generate(prompts, [[0]], 0.8, 4, graphs=True)
    assert policy._static is not None and policy._static.held and not policy._static.is_large
    monkeypatch.setattr(StaticSampler, "is_large", True)
    policy.generate(prompts, [[0]], 0.8, 4, graphs=True)
    assert policy._static is None and not policy.let_go()


def test_attention_does_not_plan_each_size(policy: Policy) -> None:
    assert (
        policy.model.config._attn_implementation == "sdpa"
        and not torch.backends.cuda.cudnn_sdp_enabled()
    )


def test_a_gpu_replays_graphs_unless_one_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in ((None, True), ("", True), ("1", True), ("0", False)):
        monkeypatch.delenv("MODGAP_CUDA_GRAPHS", raising=False)
        if value is not None:
            monkeypatch.setenv("MODGAP_CUDA_GRAPHS", value)
        assert wanted(torch.device("cuda")) == expected
        assert not wanted(torch.device("cpu"))
    monkeypatch.setenv("MODGAP_CUDA_GRAPHS", "off")
    with pytest.raises(UserError, match="MODGAP_CUDA_GRAPHS=off: give 0"):
        wanted(torch.device("cuda"))


def test_sizes_are_few_and_waste_at_most_half() -> None:
    sizes = [rounded(n) for n in range(1, 1025)]
    assert all(n <= size <= 1.5 * n for n, size in enumerate(sizes, start=1))
    assert len(set(sizes)) == 20 and sizes[:8] == [1, 2, 3, 4, 6, 6, 8, 8]


# ---------------------------------------------------------------------- on a GPU


@pytest.fixture(scope="module")
def on_gpu() -> Iterator[Policy]:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield load_policy("tiny", device="cuda", dtype=torch.float32)
    torch.set_float32_matmul_precision(precision)


def _ids(rows: list[list[Generated]]) -> list[list[int]]:
    return [sample.token_ids.tolist() for row in rows for sample in row]


@pytest.mark.gpu
@pytest.mark.parametrize("temperature", [0.8, 0.0])
def test_graphs_give_what_growing_shapes_give(
    on_gpu: Policy, problems: list[Problem], temperature: float
) -> None:
    prompts = encode(on_gpu, problems)
    seeds = [list(range(8))] * len(prompts)
    growing = on_gpu.generate(prompts, seeds, temperature, 160, graphs=False)
    for _ in range(2):  # once captured on the way, once replayed from the start
        replayed = on_gpu.generate(prompts, seeds, temperature, 160, graphs=True)
        assert _ids(replayed) == _ids(growing)
        for a, b in zip(
            (s for row in replayed for s in row), (s for row in growing for s in row), strict=True
        ):
            assert torch.allclose(a.logps, b.logps, atol=1e-4)
    assert on_gpu._static is not None and on_gpu._static.capture
    assert on_gpu._static.graphs and on_gpu._static.replays > 50


@pytest.mark.gpu
def test_a_replayed_step_equals_the_step_itself(on_gpu: Policy, problems: list[Problem]) -> None:
    """Logits of the same state: bit for bit, or within 1e-5 where the library chooses another
    product.
    """
    prompts = encode(on_gpu, problems)
    logits: list[Tensor] = []
    with on_gpu.evaluating():
        start = begin(on_gpu, prompts, 32)
        noise = torch.rand(len(prompts) * 4, 32, generator=torch.Generator().manual_seed(0)).cuda()
        for capture in (False, True):
            sampler = StaticSampler(on_gpu, capture=capture)
            kept = torch.arange(len(prompts), device=on_gpu.device)
            state = sampler._state(_Draw(start, noise, 4, 0.8), kept, 0, 32)
            for _ in range(20):
                sampler._step(state)
            logits.append(state.logits.clone())
            assert sampler.replays == (18 if capture else 0)
    assert torch.allclose(logits[0], logits[1], atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True])
def test_graphs_see_the_optimizers_steps(
    on_gpu: Policy, problems: list[Problem], autocast: bool
) -> None:
    """Weights change in place between rollouts; under autocast their copies do."""
    policy = load_policy("tiny", device="cuda", dtype=torch.float32)
    prompts = encode(policy, problems[:2])
    seeds = [list(range(4))] * len(prompts)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    seen: list[list[list[int]]] = []
    for step in range(3):
        with computing(policy) if autocast else contextlib.nullcontext():
            rolled = policy.generate(prompts, seeds, 1.0, 40, graphs=True)
        seen.append(_ids(rolled))
        assert policy._static is not None and (policy._static.graphs > 0)
        replays, policy._static.capture = policy._static.replays, False
        held, policy._static._graphs = policy._static._graphs, type(policy._static._graphs)()
        with (
            computing(policy) if autocast else contextlib.nullcontext()
        ):  # the same steps without graphs
            plain = policy.generate(prompts, seeds, 1.0, 40, graphs=True)
        assert policy._static.replays == replays
        policy._static.capture, policy._static._graphs = True, held
        same_tokens = sum(a == b for a, b in zip(_ids(plain), seen[-1], strict=True))
        assert same_tokens >= (len(plain) * 4 if not autocast else 0.9 * len(plain) * 4), step
        rows = [prompt for prompt, row in zip(prompts, rolled, strict=True) for _ in row]
        responses = [sample.token_ids for row in rolled for sample in row]
        logps, _, mask = policy.logprobs(rows, responses, policy.image_features(rows), 1.0)
        logps[mask].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert seen[0] != seen[1] != seen[2]


@pytest.mark.gpu
def test_graphs_and_their_memory_are_bounded(on_gpu: Policy, problems: list[Problem]) -> None:
    prompts = encode(on_gpu, problems)
    sampler = StaticSampler(on_gpu, most_graphs=3)
    torch.cuda.synchronize()
    used: list[int] = []
    with on_gpu.evaluating():
        for _ in range(3):
            for count in (12, 1, 2, 3, 4, 6, 8):
                assert sampler.sample(prompts[:count], [[0, 1]] * count, 1.0, 12) is not None
                assert sampler.graphs <= 3
            used.append(torch.cuda.memory_allocated())
    assert sampler.replays and used[2] <= 1.05 * used[0] + 2**20


@pytest.mark.gpu
def test_weights_that_move_drop_the_graphs(on_gpu: Policy, problems: list[Problem]) -> None:
    policy = load_policy("tiny", device="cuda", dtype=torch.float32)
    prompts = encode(policy, problems[:1])
    seeds = [[0, 1]] * len(prompts)
    policy.generate(prompts, seeds, 0.0, 24, graphs=True)
    for parameter in policy.model.parameters():
        parameter.data = parameter.data + torch.randn_like(parameter) * 0.02
    moved = policy.generate(prompts, seeds, 0.0, 24, graphs=True)
    assert _ids(moved) == _ids(policy.generate(prompts, seeds, 0.0, 24, graphs=False))
