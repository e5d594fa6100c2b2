"""The `vllm` engine without vLLM: arguments, prompts, failures and its log."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asking import evaluate_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modgap.core.engine import Completion, Sampling
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt
from modgap.core.record import RunFolder
from modgap.core.turns import at_a_token, complete
from modgap.engines import vllm as vllm_engine
from modgap.engines import vllm_start
from modgap.engines.vllm import VllmEngine, image_name, messages
from modgap.engines.vllm_start import (
    check_names,
    explain,
    parse_engine_args,
    pixel_arguments,
    telling_args,
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
    written = Prompt("Find AC.", prefill="<think>AB = 7.")
    assert complete(user + "<think>\n", written) == user + "<think>\nAB = 7."
    assert complete(user, written) == user + "<think>AB = 7."
    written = Prompt("Find AC.", prefill="<think>AB = 7. ")
    assert complete(user + "<think>\n", written) == user + "<think>\nAB = 7. "
    assert (
        complete("USER: Find AC. ASSISTANT:", Prompt("Find AC.", system=None))
        == "USER: Find AC. ASSISTANT:"
    )


@pytest.mark.parametrize(
    ("tokens", "more"),
    [(r"\. |.", " "), (r" ?\w| ?[^\s\w]|\s", ""), (r"\. (?=\d)|.", ""), (r".", "")],
)
def test_a_prefill_ends_where_a_token_of_the_whole_text_ends(tokens: str, more: str) -> None:
    """Some tokenizers take a full stop with the space after it, most the space with the word."""
    prompt = Prompt("Find AC.", prefill="<think>AB = 7.")

    def ids(text: str) -> list[Any]:
        return re.findall(tokens, text, re.S)

    whole = at_a_token(prompt, ids)
    assert whole.prefill == f"<think>AB = 7.{more}" and whole.text == prompt.text
    for opening in ("<think>", "<think>AB = 7. "):
        assert at_a_token(Prompt("", prefill=opening), ids).prefill == opening


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
    with pytest.raises(UserError, match=r"install .*\[vllm\]|import of vllm"):
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
