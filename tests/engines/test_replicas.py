"""Replicas: every sample once whatever dies, and results that do not depend on who made them.

The real queue and the real worker run with actors that are threads here.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from threaded_replicas import SAMPLING, Died, Threads

from modgap.core.engine import Completion, Engine, Request, Sampling, sample_seed
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt
from modgap.engines import replicas
from modgap.engines.ray import Cluster
from modgap.engines.replicas import MOST_FAILURES, MOST_SILENCES, ReplicaEngine
from modgap.workflows.engine_start import accelerators_each


def requests(problems: int, samples: int = 3) -> list[Request]:
    return [
        Request(f"p{number}", view, Prompt(f"{number}?"), None, tuple(range(samples)))
        for number in range(problems)
        for view in ("full-text", "image-only")
    ]


def completion(request: Request, sample: int, sampling: Sampling) -> Completion:
    seed = sample_seed(sampling.seed, request.problem_id, request.view, sample)
    return Completion(request, sample, f"{request.prompt.text} {seed}", "stop", 1, 1, seed)


class Batches:
    """An engine without a stream.

    Args:
        fault: Called before each completion; what it raises, the engine raises.
        seconds: For one completion.
    """

    def __init__(
        self, fault: Callable[[Request], None] | None = None, seconds: float = 0.0
    ) -> None:
        self.fault, self.seconds, self.closed = fault, seconds, False
        self.sizes: list[int] = []

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        self.sizes.append(sum(len(request.samples) for request in requests))
        for request in requests:
            for sample in request.samples:
                time.sleep(self.seconds)
                if self.fault:
                    self.fault(request)
                yield completion(request, sample, sampling)

    def close(self) -> None:
        self.closed = True


class Stream(Batches):
    """An engine that takes requests while it works, and is never asked to drain."""

    in_flight = 12

    def stream(
        self, take: Callable[[bool], Sequence[Request]], sampling: Sampling
    ) -> Iterator[Completion]:
        batch: list[tuple[Request, int]] = []
        while True:
            batch += [(r, s) for r in take(not batch) for s in r.samples]
            if not batch:
                return
            self.sizes.append(len(batch))
            request, sample = batch.pop(0)
            time.sleep(self.seconds)
            if self.fault:
                self.fault(request)
            yield completion(request, sample, sampling)


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(replicas, "Cluster", Threads)


def answered(engine: ReplicaEngine, asked: Sequence[Request]) -> dict[tuple[str, str, int], str]:
    """Every sample exactly once, each with the request that was asked for it."""
    got: dict[tuple[str, str, int], str] = {}
    mine = {id(request) for request in asked}
    for done in engine.generate(asked, SAMPLING):
        assert id(done.request) in mine
        key = (done.request.problem_id, done.request.view, done.sample)
        assert key not in got, "a sample came twice"
        got[key] = done.text
    return got


def expected(asked: Sequence[Request]) -> dict[tuple[str, str, int], str]:
    return {
        (r.problem_id, r.view, s): completion(r, s, SAMPLING).text for r in asked for s in r.samples
    }


@pytest.mark.parametrize("kind", [Batches, Stream])
def test_replicas_share_the_work_and_their_number_changes_nothing(kind: type[Batches]) -> None:
    made: list[Batches] = []

    def make() -> Engine:
        made.append(kind(seconds=0.001))
        return made[-1]

    asked = requests(20)
    engine = ReplicaEngine(make, 3, ray_address=None, batch=6)
    assert answered(engine, asked) == expected(asked)
    assert answered(engine, asked[:5]) == expected(asked[:5]), "the same engines answer again"
    engine.close()
    assert len(made) == 3 and all(engine.sizes and engine.closed for engine in made)


@pytest.mark.parametrize("kind", [Batches, Stream])
def test_nobody_has_more_in_hand_than_is_its_part(kind: type[Batches]) -> None:
    slow, fast = kind(seconds=0.02), kind(seconds=0.0005)
    engines = [slow, fast]
    engine = ReplicaEngine(engines.pop, 2, ray_address=None, batch=6)
    asked = requests(40, samples=2)
    assert len(answered(engine, asked)) == 160
    assert 2 * sum(slow.sizes) < sum(fast.sizes), "the slow one is not handed half of the work"
    assert max(slow.sizes) <= (Stream.in_flight + 4 if kind is Stream else 160 // 4 + 4)
    if kind is Stream:  # topped up while it works, not drained
        assert sum(size > 4 for size in fast.sizes) > len(fast.sizes) / 2


@pytest.mark.parametrize("kind", [Batches, Stream])
@pytest.mark.parametrize(
    "error", [Died("gone"), RuntimeError("CUDA error"), UserError("out of memory")]
)
def test_what_breaks_costs_only_what_it_had_in_hand(
    kind: type[Batches], error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    count, lock = Counter[str](), threading.Lock()

    def fault(request: Request) -> None:
        with lock:
            count["asked"] += 1
            if count["asked"] == 25:
                raise error

    made: list[Batches] = []

    def make() -> Engine:
        made.append(kind(fault, 0.002))
        return made[-1]

    asked = requests(12)
    engine = ReplicaEngine(make, 2, ray_address=None, batch=6)
    assert answered(engine, asked) == expected(asked)
    assert len(made) == 3, "one was started in its place"
    assert count["asked"] <= 72 + 1 + 36, "not everything again"
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "samples in hand made again" in said


def test_if_none_can_be_started_the_reason_is_the_error() -> None:
    def make() -> Engine:
        raise UserError("/models/x holds no weights: copy it again")

    engine = ReplicaEngine(make, 3, ray_address=None)
    with pytest.raises(
        UserError,
        match=r"^all 3 replicas could not be started: /models/x holds no weights: copy it again$",
    ):
        list(engine.generate(requests(2), SAMPLING))


def test_one_that_cannot_be_started_leaves_its_work_to_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lock, first = threading.Lock(), [True]

    def make() -> Engine:
        with lock:
            if first:
                first.clear()
                raise OSError("no memory on this GPU")
        time.sleep(0.05)
        return Batches()

    asked = requests(5)
    assert answered(ReplicaEngine(make, 2, ray_address=None), asked) == expected(asked)
    assert (
        "is given up (OSError: no memory on this GPU); the others do its work"
        in capsys.readouterr().err
    )


def test_a_fault_of_the_input_is_raised_when_a_second_replica_meets_it() -> None:
    def fault(request: Request) -> None:
        if request.problem_id == "p3":
            raise UserError("problem p3: its diagram cannot be decoded")

    engine = ReplicaEngine(functools.partial(Batches, fault), 2, ray_address=None)
    with pytest.raises(UserError, match=r"^problem p3: its diagram cannot be decoded$"):
        list(engine.generate(requests(5), SAMPLING))


def test_replicas_that_keep_dying_are_given_up_one_by_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    deaths = Counter[str]()

    def fault(request: Request) -> None:
        deaths["all"] += 1
        raise Died("no kernel for this GPU")

    engine = ReplicaEngine(functools.partial(Batches, fault), 2, ray_address=None, batch=1)
    got: list[Completion] = []
    with pytest.raises(UserError, match=r"^all 2 replicas failed again and again: the actor died$"):
        got += engine.generate(requests(20), SAMPLING)
    assert deaths["all"] <= 2 * MOST_FAILURES and not got
    capsys.readouterr()


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("kind", [Batches, Stream])
@pytest.mark.parametrize("first", [True, False])
def test_a_sample_that_kills_is_found_and_all_others_are_made(
    kind: type[Batches], replicas: int, first: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    deaths = Counter[str]()

    def fault(request: Request) -> None:
        if request.problem_id in ("p3", "p17") and request.view == "image-only":
            deaths[request.problem_id] += 1
            raise Died("poison")

    class Whole(kind):  # type: ignore[misc, valid-type]
        """Dies before anything that it was given with the poison is finished, as in one forward
        pass.
        """

        def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
            for request in requests if first else ():
                fault(request)
            yield from super().generate(requests, sampling)

    asked = requests(20)
    poisoned = {(p, "image-only", n) for p in ("p3", "p17") for n in range(3)}
    wanted = {key: "" if key in poisoned else text for key, text in expected(asked).items()}
    engine = ReplicaEngine(functools.partial(Whole, fault), replicas, ray_address=None, batch=12)
    done: dict[Any, Completion] = {(c.request.problem_id, c.request.view, c.sample): c
                                   for c in engine.generate(asked, SAMPLING)}  # fmt: skip
    assert {key: c.text for key, c in done.items()} == wanted
    for key in poisoned:
        assert (done[key].finish_reason, done[key].error) == (
            "error",
            "the engine died of it: the actor died",
        )
        assert done[key].seed == sample_seed(SAMPLING.seed, *key)
    assert deaths.total() <= 40
    # The same command asks those again, and nothing else.
    again = [request for request in asked if (request.problem_id, request.view, 0) in poisoned]
    assert {c.finish_reason for c in engine.generate(again, SAMPLING)} == {"error"}
    capsys.readouterr()


def test_a_machine_that_breaks_is_not_taken_for_samples_that_kill(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked, count = requests(20), Counter[str]()

    def fault(request: Request) -> None:
        count["asked"] += 1
        if count["asked"] > 90:
            raise Died("off the bus")

    engine = ReplicaEngine(functools.partial(Batches, fault), 1, ray_address=None, batch=64)
    got: list[Completion] = []
    with pytest.raises(UserError, match="the only replica failed again and again"):
        for done in engine.generate(asked, SAMPLING):
            got.append(done)
    assert 0 < len(got) <= 90 and {done.finish_reason for done in got} == {"stop"}
    capsys.readouterr()


@pytest.mark.parametrize("kind", [Batches, Stream])
def test_a_sample_without_an_answer_is_asked_again_and_then_an_error(kind: type[Batches]) -> None:
    seen = Counter[tuple[str, str, int]]()

    def silent(done: Completion) -> bool:
        key = (done.request.problem_id, done.request.view, done.sample)
        seen[key] += 1
        return key == ("p3", "full-text", 0) or (key == ("p5", "full-text", 1) and seen[key] == 1)

    class Silent(kind):  # type: ignore[misc, valid-type]
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
            yield from (done for done in super().generate(requests, sampling) if not silent(done))

        if kind is Stream:

            def stream(self, take: Any, sampling: Sampling) -> Iterator[Completion]:
                of_kind: Any = super()
                yield from (done for done in of_kind.stream(take, sampling) if not silent(done))

    engine = ReplicaEngine(Silent, 2, ray_address=None, batch=6)
    asked = requests(10)
    got = answered(engine, asked)
    assert got == expected(asked) | {("p3", "full-text", 0): ""}
    assert seen["p3", "full-text", 0] == MOST_SILENCES
    assert seen.total() == len(got) + MOST_SILENCES - 1 + 1


def test_what_was_left_behind_is_not_taken_for_an_answer() -> None:
    engine = ReplicaEngine(functools.partial(Batches, seconds=0.002), 2, ray_address=None)
    asked = requests(10)
    next(iter(engine.generate(asked, Sampling(seed=99))))
    assert answered(engine, asked) == expected(asked)


def test_requests_travel_small_and_on_a_cluster_with_their_pixels(tmp_path: Path) -> None:
    Image.effect_noise((90, 70), 90).convert("RGB").save(tmp_path / "a.png")
    problem = Problem("p", "Find x.", "1", tmp_path / "a.png", solution="words " * 20)
    request = Request("p", "full-text", Prompt("Find x."), problem.open_image, (0, 1))
    here, away = Cluster.__new__(Cluster), Cluster.__new__(Cluster)
    here._address, away._address, away._last = None, "auto", (None, None)
    assert len(pickle.dumps(here.portable(request))) < 1500
    sent = pickle.dumps(away.portable(request))
    (tmp_path / "a.png").unlink()
    received = pickle.loads(sent)
    assert received.image().size == (90, 70) and received.samples == (0, 1)
    problem_again = Problem("p", "", "1", received.image.args[0])
    assert list(problem_again.open_image().getdata()) == list(received.image().getdata())
    textual = Request("p", "text-only", Prompt("Find x."), None, (0,))
    assert away.portable(textual) is textual


@pytest.mark.parametrize("resources", [{"CPU": 4.0}, {"CPU": 0.0}])
def test_the_token_of_our_own_cluster_is_not_left_for_the_next(
    resources: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: list[str | None] = []

    def init(address: str, **options: Any) -> Any:
        tokens.append(os.environ.get("RAY_AUTH_TOKEN"))
        return SimpleNamespace(address_info={"session_dir": str(tmp_path / "none")})

    ray = SimpleNamespace(
        init=init, is_initialized=lambda: False, cluster_resources=lambda: resources
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    before = dict(os.environ)
    for address in (None, "auto"):
        with contextlib.suppress(UserError):  # no room
            Cluster(address, 2).close([], [])
        assert dict(os.environ) == before
    assert tokens[0] and tokens[1] is None
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the user's")
    with contextlib.suppress(UserError):
        Cluster(None, 2).close([], [])
    assert (
        tokens[2] == os.environ["RAY_AUTH_TOKEN"] == "the user's"
        and "RAY_AUTH_MODE" not in os.environ
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EvalOptions(replicas=0), "--replicas 0: must be at least 1"),
        (EvalOptions(replicas=2, engine="openai"), "--replicas is for the engines hf and vllm"),
        (
            EvalOptions(ray_address="auto", engine="openai"),
            "--ray-address is for the engines hf and vllm",
        ),
        (
            EvalOptions(replicas=2, device="cuda:1"),
            "--device cuda:1 and --replicas exclude each other",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(
    options: EvalOptions, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        options.check()


def test_an_engine_takes_as_many_accelerators_as_it_is_parallel() -> None:
    args = ("tensor_parallel_size=2", "pipeline_parallel_size=3", "max_num_seqs=4")
    assert accelerators_each(EvalOptions(engine="vllm", engine_args=args)) == 6
    assert accelerators_each(EvalOptions(engine="vllm")) == accelerators_each(EvalOptions()) == 1
