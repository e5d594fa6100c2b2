"""The feed of the `vllm` engine and its order, and (slow) real answers of vLLM.

The slow ones run where vLLM is installed and starts, the testbed model through it against `hf`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from modgap.core.engine import Completion, Request, Sampling, sample_seed
from modgap.core.errors import UserError
from modgap.core.prompt import Prompt, evaluation_prompt
from modgap.engines import vllm as vllm_engine
from modgap.engines.vllm import VllmEngine, _Feed, _Prepared


def request(number: int, samples: tuple[int, ...] = (0,), **changes: Any) -> Request:
    return replace(
        Request(f"p{number}", "full-text", Prompt(f"question {number}"), None, samples), **changes
    )


# The feed, and the loop around vLLM's engine, on a stand-in for it


def test_the_feed_keeps_order_and_is_bounded_and_ends() -> None:
    seen: list[str] = []

    def prepare(one: Request, image: Image.Image | None) -> _Prepared:
        seen.append(one.problem_id)
        return _Prepared(one)

    parts = iter([[request(n) for n in range(100)]])
    feed = _Feed(lambda wait: next(parts, ()), prepare)
    time.sleep(0.1)
    assert len(seen) <= 34  # 32 that wait, one in hand, one being put
    got = [prepared.request.problem_id for _ in range(100) if (prepared := feed.get(wait=True))]
    assert got == [f"p{n}" for n in range(100)]
    assert feed.get(wait=True) is None
    assert feed.get(wait=False) is None


def test_an_image_is_decoded_once_for_views_side_by_side_and_a_bad_one_costs_only_itself() -> None:
    opened: list[int] = []

    def opener(number: int) -> Any:
        def open_image() -> Image.Image:
            opened.append(number)
            if number == 1:
                raise UserError("problem p1: its diagram cannot be decoded")
            return Image.new("RGB", (4, 4))

        return open_image

    asked = [
        replace(one, view=view)
        for n in range(3)
        for one in [request(n, image=opener(n))]
        for view in "ab"
    ]
    parts = iter([asked])
    feed = _Feed(lambda wait: next(parts, ()), lambda one, image: _Prepared(one, [image]))
    prepared = [feed.get(wait=True) for _ in asked]
    assert opened == [0, 1, 1, 2]
    assert [one.error is not None for one in prepared if one] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    feed.stop()


class Core:
    """A stand-in for vLLM's engine: two samples finish at each step; prompts that say so are too
    long.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Any]] = []
        self.most, self.added, self.aborted = 0, 0, list[str]()

    def add_request(self, name: str, prompt: Any, parameters: Any) -> None:
        if "long" in prompt:
            raise ValueError("The prompt is\nlonger than the maximum model length")
        self.waiting.append((name, parameters))
        self.added += 1
        self.most = max(self.most, len(self.waiting))

    def step(self) -> list[Any]:
        done, self.waiting = self.waiting[:2], self.waiting[2:]

        def best(seed: Any) -> SimpleNamespace:
            return SimpleNamespace(text=f"seed {seed}", token_ids=[1, 2], finish_reason="stop")

        return [
            SimpleNamespace(
                finished=True, request_id=name, outputs=[best(seed)], prompt_token_ids=[1] * 5
            )
            for name, seed in done
        ]

    def abort_request(self, names: list[str]) -> None:
        self.aborted += names


def engine_on(core: Any, in_flight: int = 8) -> VllmEngine:
    engine = object.__new__(VllmEngine)
    engine.llm, engine.in_flight = SimpleNamespace(llm_engine=core), in_flight
    engine._asked = engine._refused = 0
    engine._running = SimpleNamespace(dead=lambda: False, failure=lambda error: error)  # type: ignore[assignment]
    engine._prepare = lambda one, image: _Prepared(one, [one.prompt.text] * len(one.samples))  # type: ignore[method-assign]
    engine.parameters = lambda one, sample, sampling: sample_seed(  # type: ignore[method-assign]
        sampling.seed, one.problem_id, one.view, sample
    )
    return engine


def test_every_sample_is_made_once_with_its_own_seed_and_the_queue_is_bounded() -> None:
    core = Core()
    asked = [request(n, (0, 2, 3)) for n in range(40)]
    done = list(engine_on(core).generate(asked, Sampling(seed=7)))
    assert sorted((c.request.problem_id, c.sample) for c in done) == sorted(
        (r.problem_id, s) for r in asked for s in (0, 2, 3)
    )
    assert all(
        c.text
        == f"seed {c.seed}"
        == f"seed {sample_seed(7, c.request.problem_id, 'full-text', c.sample)}"
        for c in done
    )
    assert core.most == 8


def test_a_prompt_that_is_too_long_costs_only_itself() -> None:
    asked = [request(0), replace(request(1, (0, 1)), prompt=Prompt("too long")), request(2)]
    done = {
        (c.request.problem_id, c.sample): c for c in engine_on(Core()).generate(asked, Sampling())
    }
    assert {key: c.finish_reason for key, c in done.items()} == {
        ("p0", 0): "stop", ("p1", 0): "error", ("p1", 1): "error", ("p2", 0): "stop",
    }  # fmt: skip
    assert done["p1", 0].error == "The prompt is longer than the maximum model length"


def test_prompts_that_are_too_long_never_end_a_run_however_many_come_in_a_row() -> None:
    asked = [replace(request(n), prompt=Prompt("too long")) for n in range(50)]
    engine = engine_on(Core())
    for again in (asked, asked[:20]):  # the same command asks those that were refused again
        done = list(engine.generate([*again, request(99)], Sampling()))
        assert Counter(c.finish_reason for c in done) == {"error": len(again), "stop": 1}


def test_images_that_cannot_be_opened_never_end_a_run() -> None:
    def broken() -> Image.Image:
        raise UserError("its diagram cannot be decoded")

    asked = [request(n, image=broken) for n in range(50)]
    assert {c.error for c in engine_on(Core()).generate(asked, Sampling())} == {
        "its diagram cannot be decoded"
    }


def test_an_image_that_the_processor_refuses_is_named() -> None:
    engine = engine_on(Core())
    prepare = engine._prepare

    def refusing(one: Request, image: Image.Image | None) -> _Prepared:
        if image is not None:
            assert image.mode == "RGB" and image.getpixel((0, 0)) == (255, 255, 255), "put on white"
            raise ValueError("absolute aspect ratio must be smaller than 200, got 300.0")
        return prepare(one, image)

    engine._prepare = refusing  # type: ignore[method-assign]
    long = request(1, image=lambda: Image.new("LA", (300, 1)), image_name="the diagram a.png")
    asked = [request(0), long, request(2)]
    done = {c.request.problem_id: c for c in engine.generate(asked, Sampling())}
    assert [done[name].finish_reason for name in ("p0", "p1", "p2")] == ["stop", "error", "stop"]
    assert str(done["p1"].error).startswith(
        "problem p1, the diagram a.png: absolute aspect ratio must be smaller"
    )


@pytest.mark.parametrize(
    "error",
    [
        TypeError("no such argument"),
        ValueError("At most 0 image(s) may be provided."),
        UserError("no prefill"),
    ],
)
def test_where_nothing_can_be_asked_and_it_is_not_the_prompts_the_run_ends(
    error: Exception,
) -> None:
    def refuse(one: Request, image: Any) -> _Prepared:
        raise error

    engine = engine_on(Core())
    engine._prepare = refuse  # type: ignore[method-assign]
    got: list[Completion] = []
    with pytest.raises(UserError, match="not the prompts' fault"):
        got += engine.generate([request(n) for n in range(100)], Sampling())
    engine = engine_on(Core())

    def parameters(*given: Any) -> None:
        raise ValueError("temperature must be less")

    engine.parameters = parameters  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"not the prompts' fault \(temperature must be less\)"):
        list(engine.generate([request(0)], Sampling()))


def test_leaving_early_aborts_what_is_under_way() -> None:
    core, before = Core(), set(threading.enumerate())
    step = core.step
    core.step = lambda: time.sleep(0.005) or step()  # type: ignore[method-assign] - else all is done before we leave
    completions = engine_on(core).generate([request(n) for n in range(1000)], Sampling())
    next(completions)
    completions.close()  # type: ignore[attr-defined]
    assert core.added < 1000
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def test_requests_are_taken_while_it_works() -> None:
    orders: queue.Queue[list[Request]] = queue.Queue()
    orders.put([request(0)])
    stream = engine_on(Core()).stream(lambda wait: orders.get(block=wait), Sampling())
    assert next(stream).request.problem_id == "p0"
    orders.put([request(1)])
    assert next(stream).request.problem_id == "p1"
    orders.put([])
    assert list(stream) == []


def test_a_killed_process_ends_the_run_though_vllm_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm_engine, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(vllm_engine, "_POLL_S", 0.05)
    core = Core()
    core.step = lambda: time.sleep(30) or []  # type: ignore[method-assign]
    engine = engine_on(core)
    engine._running.dead = lambda: True  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="killed"):
        list(engine.generate([request(0)], Sampling()))


# With vLLM


@pytest.fixture(scope="module")
def real() -> Any:
    pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'modgap[vllm]'")
    from modgap.models.load import tiny_folder

    args = ["dtype=float32", "enforce_eager=true", "max_num_seqs=32", "max_model_len=2048"]
    args.append("gpu_memory_utilization=0.2")  # of a CPU's memory, too
    engine = VllmEngine(tiny_folder(), args=args)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    from modgap.datasets.synthetic import write_dataset
    from modgap.workflows.problems import read_problems

    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, train=2, test=24, seed=3)
    return [
        Request(p.id, view, evaluation_prompt(p, view), p.open_image, (0,))
        for p in read_problems("synthetic", folder)
        for view in ("full-text", "image-only")
    ]


def by_key(completions: Any) -> dict[tuple[str, str, int], Completion]:
    return {(c.request.problem_id, c.request.view, c.sample): c for c in completions}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "changes",
    [{}, {"system": None}, {"system": None, "prefill": "<think>"}, {"prefill": "<think>AB = 7."}],
)
def test_vllm_says_what_transformers_says(
    real: VllmEngine, asked: list[Request], changes: dict[str, Any]
) -> None:
    from modgap.engines.hf import HfEngine
    from modgap.models.load import load_policy

    prompts = [replace(one, prompt=replace(one.prompt, **changes)) for one in asked]
    greedy = Sampling(temperature=0.0, max_tokens=80)
    ours = by_key(real.generate(prompts, greedy))
    theirs = by_key(HfEngine(load_policy("tiny", device="cpu")).generate(prompts, greedy))
    assert ours.keys() == theirs.keys()
    for key, one in ours.items():
        assert (one.prompt_tokens, one.image_tokens) == (
            theirs[key].prompt_tokens,
            theirs[key].image_tokens,
        )
    assert sum(ours[key].text == theirs[key].text for key in ours) >= 0.95 * len(ours)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sample_does_not_depend_on_its_company(real: VllmEngine, asked: list[Request]) -> None:
    four = [replace(one, samples=(0, 1, 2, 3)) for one in asked]
    hot = Sampling(temperature=0.8, max_tokens=60, seed=5)
    whole = by_key(real.generate(four, hot))
    part = by_key(real.generate([replace(one, samples=(2,)) for one in reversed(four[:10])], hot))
    assert len(whole) == 4 * len(asked)
    assert len({one.text for one in whole.values()}) > len(asked)
    assert sum(whole[key].text == part[key].text for key in part) >= 0.9 * len(part)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_overlong_prompt_and_a_missing_image_cost_only_themselves(
    real: VllmEngine, asked: list[Request]
) -> None:
    def missing() -> Image.Image:
        raise UserError("problem x has no diagram")

    bad = [
        replace(asked[0], prompt=Prompt("AB = 7, " * 3000), problem_id="long"),
        replace(asked[2], image=missing),
    ]
    done = by_key(real.generate([*bad, asked[4]], Sampling(temperature=0.0, max_tokens=20)))
    assert sorted(one.finish_reason for one in done.values()) == ["error", "error", "length"]
    assert all(one.error for one in done.values() if one.finish_reason == "error")
