"""The `vllm` engine: what needs no vLLM (arguments, prompts, failures, the feed and its order),
and, where vLLM is installed and runs, the testbed model through it against `hf` (marked slow: it
starts in a minute or two)."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asking import evaluate_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modgap.core.engine import Completion, Request, Sampling, sample_seed
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt, evaluation_prompt
from modgap.core.record import RunFolder
from modgap.engines import vllm as vllm_engine
from modgap.engines import vllm_start
from modgap.engines.vllm import VllmEngine, _Feed, _Prepared, complete, image_name, messages
from modgap.engines.vllm_start import (
    check_names,
    explain,
    parse_engine_args,
    pixel_arguments,
    telling_args,
)


def request(number: int, samples: tuple[int, ...] = (0,), **changes: Any) -> Request:
    return replace(
        Request(f"p{number}", "full-text", Prompt(f"question {number}"), None, samples), **changes
    )


# Arguments


def test_values_are_json_where_they_are_and_strings_otherwise() -> None:
    args = ["gpu_memory_utilization=0.8", "enforce-eager=true", "dtype=float32",
            'limit_mm_per_prompt={"image": 2}', "quantization=None", "revision=a=b",
            "enable_prefix_caching=False"]  # fmt: skip
    assert parse_engine_args(args) == {
        "gpu_memory_utilization": 0.8, "enforce_eager": True, "dtype": "float32",
        "limit_mm_per_prompt": {"image": 2}, "quantization": None, "revision": "a=b",
        "enable_prefix_caching": False,
    }  # fmt: skip


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z_]{0,15}", fullmatch=True).filter(lambda k: k != "model"),
        st.one_of(st.integers(), st.booleans(), st.lists(st.integers()), st.text()),
    )
)
def test_what_is_written_as_json_comes_back(values: dict[str, Any]) -> None:
    assert (
        parse_engine_args([f"{key}={json.dumps(value)}" for key, value in values.items()]) == values
    )


SPEED = ("gpu_memory_utilization=0.5", "max-num-seqs=4", "max_num_batched_tokens=99",
         "enforce_eager=true", "tensor_parallel_size=2", "seed=3")  # fmt: skip


def test_what_can_change_answers_tells_runs_apart_and_nothing_else_does() -> None:
    assert telling_args(SPEED) == {}
    told = (
        "quantization=fp8",
        "dtype=float16",
        "max_model_len=512",
        "hf_overrides={}",
        "kv_cache_dtype=fp8",
    )
    assert list(telling_args([*told, *SPEED])) == sorted(arg.partition("=")[0] for arg in told)
    assert (
        telling_args(["max-model-len=512"])
        == telling_args(["max_model_len=512"])
        == {"max_model_len": 512}
    )


def test_a_run_goes_on_under_the_same_answers_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [Problem(id=f"p{n}", question="What is 1?", answer="1") for n in range(3)]
    made: list[tuple[str, ...]] = []

    class Engine:
        def __init__(self, *given: Any) -> None:
            made.append(given[2])

        def generate(self, requests: Any, sampling: Sampling) -> Any:
            yield Completion(requests[0], 0, "1", "stop", 1, 1, 0)
            raise KeyboardInterrupt

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: name == "vllm" or find(name, *more)
    )
    monkeypatch.setattr(vllm_engine, "load_engine", Engine)

    def ask(*args: str, out: Path) -> None:
        options = EvalOptions(
            engine="vllm", samples=1, max_tokens=8, views="question-only", engine_args=args
        )
        with pytest.raises(KeyboardInterrupt):
            evaluate_model(problems, "tiny", out, options)

    ask("quantization=fp8", out=tmp_path / "run")
    with pytest.raises(
        UserError, match=r"engine_args was \{'quantization': 'fp8'\}, now \{'dtype': 'float16'\}"
    ):
        ask("dtype=float16", out=tmp_path / "run")
    ask("quantization=fp8", *SPEED, out=tmp_path / "run")
    assert made == [("quantization=fp8",), ("quantization=fp8", *SPEED)]
    ask(out=tmp_path / "plain")
    assert "engine_args" not in RunFolder(tmp_path / "plain").manifest()["resolved"], (
        "as before they were recorded"
    )
    ask(*SPEED, out=tmp_path / "plain")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["enforce_eager"], "key=value"),
        (["=3"], "key=value"),
        (["seed=1", "seed=2"], "twice"),
        (["model=x"], "--model"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(args: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        parse_engine_args(args)
    assert "\n" not in str(caught.value)


def test_an_unknown_argument_is_told_its_neighbours_only() -> None:
    known = [
        "max_model_len",
        "max_num_seqs",
        "gpu_memory_utilization",
        *(f"other_{n}" for n in range(200)),
    ]
    check_names(["max_num_seqs"], known)
    with pytest.raises(UserError, match="max_model_len") as caught:
        check_names(["max_model_length"], known)
    assert "other_1" not in str(caught.value)


def test_pixel_limits_go_to_processors_that_have_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "preprocessor_config.json"
    limits = (200_704, 1_003_520)
    assert pixel_arguments(tmp_path, None) == {}
    for config in (
        {"min_pixels": 1, "max_pixels": 2},
        {"size": {"shortest_edge": 1, "longest_edge": 2}},
    ):
        path.write_text(json.dumps(config))
        assert pixel_arguments(tmp_path, limits) == {
            "min_pixels": limits[0],
            "max_pixels": limits[1],
        }
    path.write_text(json.dumps({"size": {"height": 336, "width": 336}}))
    assert pixel_arguments(tmp_path, limits) == {}
    path.unlink()
    whole = {
        "image_processor": {"size": {"shortest_edge": 1, "longest_edge": 2}},
        "processor_class": "x",
    }
    (tmp_path / "processor_config.json").write_text(json.dumps(whole))  # what transformers 5 saves
    assert pixel_arguments(tmp_path, limits) == {"min_pixels": limits[0], "max_pixels": limits[1]}
    assert "no pixel limits" in capsys.readouterr().err


# Prompts


def test_a_prompt_is_a_chat_with_the_image_before_the_text() -> None:
    image = Image.new("RGB", (8, 6), "white")
    system, user = messages(Prompt("Find AC.", system="Be brief."), image)
    assert system == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in user["content"]] == ["image_pil", "text"]
    assert user["content"][0]["image_pil"] is image
    assert [
        m["role"] for m in messages(Prompt("Find AC.", system=None, has_image=False), None)
    ] == ["user"]


def test_an_image_is_named_by_its_pixels() -> None:
    image = Image.new("RGB", (8, 6), "white")
    other = image.copy()
    other.putpixel((3, 3), (0, 0, 0))
    names = {
        image_name(image),
        image_name(image.copy()),
        image_name(other),
        image_name(image.resize((6, 8))),
    }
    assert len(names) == 3


def test_no_system_turn_means_none_and_a_prefill_follows_the_opening() -> None:
    user = "<|im_start|>user\nFind AC.<|im_end|>\n<|im_start|>assistant\n"
    default = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert (
        complete(default + user, Prompt("Find AC.", system=None, prefill="<think>"))
        == user + "<think>"
    )
    assert complete(default + user, Prompt("Find AC.")) == default + user
    assert complete(user + "<think>\n", Prompt("Find AC.", prefill="<think>")) == user + "<think>\n"
    assert (
        complete("USER: Find AC. ASSISTANT:", Prompt("Find AC.", system=None))
        == "USER: Find AC. ASSISTANT:"
    )


# Failures


FREE = (
    "ValueError: Free memory on device cuda:0 (12.5/139.8 GiB) on startup is less than desired GPU"
    " memory utilization"
)
KV = (
    "ValueError: To serve at least one request with the model's max seq len (128000), (7.0 GiB KV"
    " cache is needed, which is larger than the available KV cache memory (3.1 GiB). Based on the"
    " available memory, the estimated maximum model length is 58144. Try increasing"
    " `gpu_memory_utilization`"
)


# Among what it writes when all is well.
USUAL = (
    "INFO Free memory on device (138.0/139.8 GiB) on startup. Desired GPU memory utilization is"
    " (0.92, 128.6 GiB).\nINFO Lower max_num_seqs should you run out of memory."
)


@pytest.mark.parametrize(
    ("log", "running", "says"),
    [
        (FREE, False, ["12.5 of 139.8", "gpu_memory_utilization=0.06", "nvidia-smi"]),
        (KV, False, ["max_model_len 128000", "max_model_len=58144"]),
        (
            "ValueError: No available memory for the cache blocks.",
            False,
            ["KV cache", "gpu_memory_utilization"],
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB",
            False,
            ["out of memory at the start", "max_num_seqs"],
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB",
            True,
            ["while it ran", "Finished work is kept"],
        ),
        (
            "RuntimeError: Failed to infer device type, please set",
            False,
            ["no accelerator", "--engine hf"],
        ),
        (
            (
                "x KeyError: 'vision'\nRuntimeError: Engine core initialization failed. See root"
                " cause above"
            ),
            False,
            ["KeyError"],
        ),
        ("", True, ["Finished work is kept", "give the command again"]),
    ],
)
def test_a_failure_is_one_line_with_the_remedy(log: str, running: bool, says: list[str]) -> None:
    raised = RuntimeError("Engine core initialization failed. See root cause above.")
    line = explain(raised, f"{USUAL}\n(EngineCore pid=3) ERROR {log}\n", running=running)
    assert "\n" not in line
    for words in says:
        assert words in line
    assert ("12.5 of" in line) == ("12.5/" in log)
    assert ("out of memory" in line) == ("OutOfMemory" in log)


def test_without_vllm_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr(vllm_start.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match=r"modgap\[vllm\]|import of vllm"):
        VllmEngine(tmp_path)


def test_the_log_stays_where_a_message_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_start.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(vllm_start.Running, "_start", lambda *args: SimpleNamespace())
    fine = vllm_start.Running(tmp_path, None, {})
    fine.close()
    assert not list(tmp_path.glob("*.log"))
    broken = vllm_start.Running(tmp_path, None, {})
    said = str(broken.failure(RuntimeError("no\nsuch kernel")))
    broken.close()
    (log,) = tmp_path.glob("*.log")
    assert str(log) in said and "no such kernel" in said


def test_the_guard_ends_what_was_started_with_its_mark_when_our_process_is_killed(
    tmp_path: Path,
) -> None:
    program = (
        "import subprocess, sys, time\nfrom modgap.core.processes import start_guard\nfrom"
        " modgap.engines.vllm_start import _marking\nguard = start_guard('m' * 32)\nwith"
        " _marking('m' * 32): child = subprocess.Popen(['sleep', '60'],"
        " start_new_session=True)\nprint(child.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    state = Path(f"/proc/{child}/stat")
    for _ in range(100):
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the process outlived its parent")


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
    import torch

    if torch.cuda.is_available():
        args.append("gpu_memory_utilization=0.2")
    engine = VllmEngine(tiny_folder(), args=args)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    from modgap.datasets.synthetic import write_dataset
    from modgap.workflows.evaluate import read_problems

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
@pytest.mark.parametrize("changes", [{}, {"system": None}, {"system": None, "prefill": "<think>"}])
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
