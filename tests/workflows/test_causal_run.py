"""`--controls causal` as a whole: what is asked, what it costs and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import evaluate, evaluate_model
from chat_server import Server, completion
from reported_runs import report_numbers
from transformers import AutoTokenizer

from modgap.analysis.causal import VIEWS
from modgap.core.engine import Request
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.problem import Problem
from modgap.core.record import RunFolder
from modgap.core.transcripts import WHOSE
from modgap.core.view import CONTROLS
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.engines.scripted import ScriptedEngine
from modgap.models.load import resolve
from modgap.reporting.page import build_report

ASKED = ["full-text", "image-only", *CONTROLS["causal"]]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    folder = tmp_path_factory.mktemp("problems")
    write_dataset(folder, 0, 14, seed=5, workers=1)
    return list(pgps9k.read(folder))


def gold(problems: list[Problem], request: Request) -> str:
    return next(p.answer for p in problems if p.id == request.problem_id)


def follower(problems: list[Problem]) -> ScriptedEngine:
    """Right from words, wrong from the image; follows what stands in its answer."""
    true = {p.id: p for p in problems}

    def answer(request: Request, sample: int) -> str:
        prompt = request.prompt
        words = prompt.text + prompt.prefill
        right = all(clause in words for clause in true[request.problem_id].semantic)
        lucky = request.view == "image-only" and sample % 2 == 0
        said = gold(problems, request) if right or lucky else "0.001"
        return f"{prompt.prefill}so \\boxed{{{said}}}"

    return ScriptedEngine(answer)


def test_the_testbed_model_answers_all_of_it_for_3_1_times_the_tokens(
    problems: list[Problem], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = EvalOptions(controls="causal", samples=4, max_tokens=80, device="cpu")
    summary = evaluate_model(problems[:10], "tiny", out, options)
    causal = summary.causal
    assert causal is not None and causal.tokens is not None and 1 < causal.tokens <= 3.1
    assert summary.gap and causal.gap.points == pytest.approx(summary.gap.points)
    assert sum(p.points for p in causal.parts.values()) == pytest.approx(causal.gap.points)
    run = RunFolder(out)
    tokenizer = AutoTokenizer.from_pretrained(resolve("tiny"))
    assert run.manifest()["resolved"]["views"] == ASKED
    assert run.manifest().get("transcriptions_in") == ["assistant turn"]
    for row in run.responses():
        assert row.response.startswith(row.prefill)  # transcription and answer are one pass
        if row.prefill.endswith(". "):
            # Its tokenizer has a token for these two; a bare full stop stands in decimals only.
            prefilled, said = tokenizer.encode(row.prefill), tokenizer.encode(row.response)
            assert said[: len(prefilled)] == prefilled
        else:
            assert WHOSE.get(row.view, "own") == "own"


def test_controls_without_the_views_of_the_gap_are_refused(
    problems: list[Problem], tmp_path: Path
) -> None:
    options = EvalOptions(views="full-text", controls="causal", device="cpu")
    with pytest.raises(UserError, match="gap between full-text and image-only: add image-only,"):
        evaluate_model(problems[:2], "tiny", tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_a_model_that_only_misreads_has_a_gap_of_reading(
    problems: list[Problem], tmp_path: Path
) -> None:
    summary = evaluate(problems, follower(problems), tmp_path / "run", views=ASKED, samples=4)
    assert summary.causal is not None
    points = {name: part.points for name, part in summary.causal.parts.items()}
    assert points == pytest.approx(
        {"writing": -50, "reading": 100, "integration": 0, "reasoning": 0}
    )
    assert summary.causal.follows == 1
    build_report([tmp_path / "run"], tmp_path / "report.html", figures=True)
    page = (tmp_path / "report.html").read_text()
    assert "The gap in parts" in page and "of it is reading" not in page
    assert (tmp_path / "report_figures" / "table-causal.csv").exists()
    lede = " ".join(report_numbers([tmp_path / "run"]).headline.lede)
    assert "reading +100.0" in lede and "100.0%" in lede


def test_an_engine_that_continues_nothing_gets_the_words_in_its_question_and_that_is_said(
    problems: list[Problem], tmp_path: Path
) -> None:
    engine, seen = follower(problems), dict[str, Request]()
    engine.continues = False  # pyright: ignore[reportAttributeAccessIssue]
    answer = engine._answer

    def noted(request: Request, sample: int) -> str:
        seen[request.view] = request
        return answer(request, sample)

    engine._answer = noted
    summary = evaluate(problems, engine, tmp_path / "run", views=ASKED, samples=1)
    assert not any(request.prompt.prefill for request in seen.values())
    assert "The image shows: " in seen["true-transcription"].prompt.text
    assert summary.causal is not None and summary.causal.in_user_turn
    run = RunFolder(tmp_path / "run")
    assert run.manifest().get("transcriptions_in") == ["user turn"]
    assert any("in the user turn" in warning for warning in summary.warnings)
    warned = report_numbers([tmp_path / "run"]).warnings
    assert any("in the user turn" in warning for warning in warned)
    again = evaluate(problems, engine, tmp_path / "run", views=ASKED, samples=1)  # resumes
    assert again == summary


@pytest.mark.parametrize("continues", [True, False])
def test_a_server_is_asked_as_it_can(
    problems: list[Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, continues: bool
) -> None:
    server = Server()

    def reply(body: dict[str, object]) -> object:
        if "continue_final_message" in body and not continues:
            message = "Unrecognized request argument supplied: continue_final_message"
            return 400, {"error": {"message": message, "type": "invalid_request_error"}}
        return completion()

    server.reply = reply
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    options = EvalOptions(
        views="true-transcription", samples=1, engine="openai", base_url=server.url, concurrency=1
    )
    try:
        evaluate_model(problems[:2], "m", tmp_path / "run", options)
    finally:
        server.close()
    run = RunFolder(tmp_path / "run")
    place = "assistant turn" if continues else "user turn"
    assert run.manifest().get("transcriptions_in") == [place]
    for row in run.responses():
        assert ("The image shows: " in row.prompt) != continues
        assert (row.prefill != "") == continues and row.in_user_turn != continues
    last = server.bodies[-1]["messages"]
    assert [turn["role"] for turn in last] == ["system", "user", *["assistant"] * continues]
    assert last[1]["content"][0]["type"] == "image_url"


def test_a_problem_without_a_number_is_left_out_and_not_missing(
    problems: list[Problem], tmp_path: Path
) -> None:
    bare = Problem("bare", "Find x.", "1.000", problems[0].image, semantic=("AB \\perp CD on B",))
    asked = [*problems, bare]
    summary = evaluate(asked, follower(asked), tmp_path / "run", views=ASKED, samples=1)
    for view in (view for view, whose in WHOSE.items() if whose != "own"):
        assert (summary.views[view].absent_problems, summary.views[view].missing_samples) == (1, 0)
    assert summary.causal is not None and summary.causal.left_out == 1
    assert summary.gap is not None and summary.gap.n_problems == 15
    with pytest.raises(UserError, match="writes down the conditions of a problem, and none of"):
        evaluate([bare], follower([bare]), tmp_path / "no", views=ASKED, samples=1)
    with pytest.raises(UserError, match=r"set of controls 'casual'.*causal"):
        EvalOptions(controls="casual").check()
    assert set(VIEWS) | {"text-only"} == set(ASKED)
