"""Judges that are loaded here: a tiny Qwen3 through transformers, and (where there is vLLM) the
same through vLLM.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from judged_runs import many
from tiny_judge import make_judge_model

from modgap.analysis.results import read_summary
from modgap.cli.main import main
from modgap.core.engine import Completion, Request, Sampling
from modgap.core.errors import UserError
from modgap.core.options import JudgeOptions
from modgap.core.prompt import Prompt, judge_prompt
from modgap.engines.text import HfTextEngine, VllmTextEngine, token_ids
from modgap.workflows.grade import grade_run
from modgap.workflows.judging import make_judge

GREEDY = Sampling(temperature=0.0, max_tokens=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_judge_model(tmp_path_factory.mktemp("judge"))


def requests(count: int = 7) -> list[Request]:
    """Prompts of different lengths, on which the model says more than one thing."""
    prompts = [
        judge_prompt("What?" * (1 + 5 * n), "a square", "kite " * (7 - n)) for n in range(count - 2)
    ]
    prompts += [
        Prompt("\\", system=None, has_image=False),
        Prompt("a kite " * 9, system="Be kind.", has_image=False),
    ]
    return [Request(f"p{n}", "full-text", prompt, None, (n,)) for n, prompt in enumerate(prompts)]


def said(completions: Any) -> dict[str, Completion]:
    return {completion.request.problem_id: completion for completion in completions}


@pytest.mark.parametrize("raw", [False, True])
def test_answers_do_not_depend_on_the_batch_and_are_the_models_own(model: Path, raw: bool) -> None:
    import torch

    one, all_at_once = (
        said(HfTextEngine(model, size, "cpu", raw=raw).generate(requests(), GREEDY))
        for size in (1, 64)
    )
    engine = HfTextEngine(model, 3, "cpu", raw=raw)
    assert len(one) == 7
    for request in requests():
        ids = token_ids(engine._tokenizer, request.prompt, raw)
        row, new = list(ids), []
        with torch.no_grad():
            for _ in range(GREEDY.max_tokens):  # no cache, no padding, no generate
                new.append(int(engine._model(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
                row.append(new[-1])
                if new[-1] == engine._tokenizer.eos_token_id:
                    break
        ended = new[-1] == engine._tokenizer.eos_token_id
        wanted = engine._tokenizer.decode(new, skip_special_tokens=True)
        for found in (one[request.problem_id], all_at_once[request.problem_id]):
            assert found.text == wanted and found.sample == request.samples[0]
            assert found.finish_reason == ("stop" if ended else "length")
            assert (found.prompt_tokens, found.completion_tokens) == (len(ids), len(new) - ended)


def test_out_of_memory_halves_the_judges_batch_and_loses_no_answer(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = HfTextEngine(model, 64, "cpu")
    whole = said(engine.generate(requests(), GREEDY))
    generate, asked = engine._model.generate, list[int]()

    def cramped(most: int, **given: Any) -> Any:
        asked.append(len(given["input_ids"]))
        if asked[-1] > most:
            raise torch.OutOfMemoryError("made up")
        return generate(**given)

    monkeypatch.setattr(engine._model, "generate", functools.partial(cramped, 1))
    assert said(engine.generate(requests(), GREEDY)) == whole
    assert asked[0] == len(whole) > 1 and max(asked[-len(whole) :]) == 1
    assert "modgap: out of memory, the judge's batch size lowered to 1" in capsys.readouterr().err
    monkeypatch.setattr(engine._model, "generate", functools.partial(cramped, 0))
    with pytest.raises(UserError, match="does not fit"):
        list(engine.generate(requests(), GREEDY))


def test_thinking_is_switched_off_and_raw_is_raw(model: Path) -> None:
    tokenizer = HfTextEngine(model, device="cpu")._tokenizer
    prompt = judge_prompt("What?", "a square", "a kite")
    chat, raw = (tokenizer.decode(token_ids(tokenizer, prompt, raw)) for raw in (False, True))
    assert (
        chat == f"<|im_start|>user\n{prompt.text}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert raw == prompt.text
    tokenizer.chat_template = None
    assert token_ids(tokenizer, prompt, False) == token_ids(tokenizer, prompt, True)


def test_a_run_is_judged_by_a_model_that_is_loaded_here(model: Path, tmp_path: Path) -> None:
    run = many(tmp_path / "run", 9)
    assert (
        main(
            [
                "grade",
                str(run.path),
                "--judge",
                str(model),
                "--judge-engine",
                "hf",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    judged = read_summary(run.path).judge
    assert (judged.samples, judged.consistent, judged.asked) == (9, 9, 9)
    assert judged.judge.startswith(f"hf:{model} (")
    # Complete: the model is not even loaded again.
    other = make_judge(JudgeOptions(str(model), "hf", device="no such device"))
    assert grade_run(run, judge=other).judge == judged.model_copy(update={"asked": 0})
    paper = grade_run(run, "paper", judge=make_judge(JudgeOptions(str(model), "hf", device="cpu")))
    assert paper.judge.consistent == 9
    rows = [json.loads(line) for line in (run.path / "judge.jsonl").read_text().splitlines()]
    assert {(row["mode"], row["said"]) for row in rows} == {("strict", "1"), ("paper", "1")}


def test_a_folder_that_holds_no_language_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(
        UserError, match=r"cannot be loaded as a language model on cpu .*Qwen/Qwen3-8B"
    ) as caught:
        HfTextEngine(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(UserError, match="vllm is not installed"):
            make_judge(JudgeOptions(str(tmp_path), "vllm"))


def test_another_way_to_run_a_judge_is_another_judge(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "vllm" or find(name))

    def name(*args: str, engine: Any = "vllm") -> str:
        return make_judge(JudgeOptions(str(model), engine, engine_args=args)).name

    plain = name()
    assert (
        plain == name("gpu_memory_utilization=0.5", "max_num_seqs=8")
        and plain.endswith(")")
        and "," not in plain
    )
    others = {name("quantization=fp8"), name("chat_template=x.jinja"), name("max_model_len=64")}
    assert len(others | {plain}) == 4
    assert name("dtype=half", "quantization=fp8") == name(
        "quantization=fp8", "dtype=half", "seed=1"
    )


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM")
@pytest.mark.timeout(600)
def test_vllm_judges_as_transformers_does(model: Path, tmp_path: Path) -> None:
    run = many(tmp_path / "run", 40)
    arguments = ("gpu_memory_utilization=0.3", "max_model_len=2048", "dtype=float32")
    for mode in ("strict", "paper"):
        judge = make_judge(JudgeOptions(str(model), "vllm", engine_args=arguments))
        judged = grade_run(run, mode, judge=judge).judge  # type: ignore[arg-type]
        assert (judged.samples, judged.consistent, judged.asked) == (40, 40, 40)
    for raw in (False, True):
        engine = VllmTextEngine(model, arguments, raw=raw)
        ours, theirs = (
            said(engine.generate(requests(), GREEDY)),
            said(HfTextEngine(model, raw=raw).generate(requests(), GREEDY)),
        )
        engine.close()
        for name, found in ours.items():
            assert (found.text, found.prompt_tokens) == (
                theirs[name].text,
                theirs[name].prompt_tokens,
            )
