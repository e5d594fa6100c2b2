"""Where thinking begins and ends: parts of a message, thinking that the prompt opened, and what a
run makes of both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asking import evaluate
from reported_runs import report_numbers

from modgap.core.engine import Completion, FinishReason, Request, Sampling
from modgap.core.problem import Problem, Shown
from modgap.core.prompt import Prompt, Style
from modgap.core.record import RunFolder
from modgap.core.thinking import CUT_THINKING, UnknownPart, graded_text, message_text, opened_by
from modgap.core.turns import refuses_system
from modgap.engines.vllm import VllmEngine
from modgap.grading.answer import Mode, grade
from modgap.workflows.grade import grade_run

BOX = "Maybe \\boxed{14}, wait"


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def thought(words: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [text(words)]}


# ---- one message as one text ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "reasoning", "cut", "said"),
    [
        ([thought("hmm 13"), text("\\boxed{14}")], None, False, "<think>hmm 13</think>\\boxed{14}"),
        ([text("\\boxed{14}")], None, False, "\\boxed{14}"),
        ([thought("a"), thought("b"), text("c"), thought("d"), text("e")], None, False,
         "<think>ab</think>c<think>d</think>e"),
        ([{"type": "thinking", "thinking": "a"}, "b", {"text": "c"}], None, False,
         "<think>a</think>bc"),
        ([{"type": "reasoning", "summary": [text("a")]}, {"type": "output_text", "text": "b"}],
         None, False, "<think>a</think>b"),
        ([{"type": "reasoning", "text": "a"}, {"type": "refusal", "refusal": "No."}], None, False,
         "<think>a</think>No."),
        ([{"text": "a", "thought": True}, {"text": "b"}], None, False, "<think>a</think>b"),
        ([{"type": "redacted_thinking", "data": "x"}, text("b")], None, False, "b"),
        ([thought(BOX)], None, True, f"<think>{BOX}"),
        ([thought("a"), text("\\boxed{1")], None, True, "<think>a</think>\\boxed{1"),
        (text("b"), [text("a")], False, "<think>a</think>b"),
        (None, BOX, True, f"<think>{BOX}"),
        ("", BOX, True, f"<think>{BOX}"),
        (None, BOX, False, f"<think>{BOX}</think>"),
        ([], None, False, ""),
        ([text("")], "", True, ""),
        ("b", "<think>a</think>", False, "<think>a</think>b"),
        ("b", "<think>\na", False, "<think>\na</think>b"),
        ("<think>a</think>b", "a", False, "<think>a</think>b"),
        ("<think>a", "a", True, "<think>a"),
        ("a</think>b", "a", False, "<think>a</think>b"),
        ("</think>b", "a", False, "<think>a</think>b"),
        ("a</think>b", None, False, "a</think>b"),
        ("b", {"content": "a"}, False, "<think>a</think>b"),
    ],
)  # fmt: skip
def test_a_message_is_one_text_with_its_thinking_in_tags_once(
    content: Any, reasoning: Any, cut: bool, said: str
) -> None:
    assert message_text(content, reasoning, cut=cut) == said


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "tool_use", None])
def test_a_part_without_words_is_named(kind: str | None) -> None:
    with pytest.raises(UnknownPart, match=repr(kind)):
        message_text([text("a"), {"type": kind, "data": "x"}])


# ---- thinking that the prompt opened -------------------------------------------------------------
def test_only_a_prompt_that_ends_inside_thinking_opens_it() -> None:
    assert opened_by("<|assistant|>\n<think>\n") == "<think>\n"
    assert opened_by("<|assistant|>\n<think>") == "<think>"
    for closed in (
        "<|assistant|>\n",
        "<|assistant|>\n<think>\n\n</think>\n\n",
        "put it in <think> tags<|assistant|>\n",
    ):
        assert opened_by(closed) == ""


@pytest.mark.parametrize("opening", ["", "<think>", "<think>\n"])
@pytest.mark.parametrize(
    ("said", "cut", "answer"),
    [
        (BOX, True, None),
        (BOX, False, "14"),
        (f"{BOX}</think>", True, None),
        (f"{BOX}</think>", False, None),
        ("so</think>\\boxed{15}", True, "15"),
        ("so</think>\\boxed{15}", False, "15"),
    ],
)
def test_opened_thinking_that_was_cut_off_holds_no_answer(
    opening: str, said: str, cut: bool, answer: str | None
) -> None:
    verdict = grade(graded_text(opening + said, cut=cut, opened=True), "14")
    assert (verdict.answer, verdict.outcome == "no_answer") == (answer, answer is None)


class Says:
    """An engine that answers each problem's id with a text, a reason to end and what the template
    opened.
    """

    def __init__(self, said: dict[str, tuple[str, FinishReason]], opened: str = "") -> None:
        self.said, self.opened = said, opened

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        for request in requests:
            words, reason = self.said[request.problem_id]
            opening = request.prompt.prefill or self.opened
            for sample in request.samples:
                yield Completion(
                    request, sample, opening + words, reason, 1, 1, 0, opened=self.opened
                )


SAID: dict[str, tuple[str, FinishReason]] = {
    "cut": (BOX, "length"),
    "ended": (BOX, "stop"),
    "closed": ("so</think>\\boxed{14}", "stop"),
    "closed too": ("so</think>\\boxed{14}", "stop"),
    "closed, cut": ("so</think>\\boxed{14}. To check,", "length"),
}
RIGHT = dict.fromkeys(SAID, "correct") | {"cut": "no_answer"}


def problems(**fields: Any) -> list[Problem]:
    shown = {"text-only": Shown("Find x.")}
    return [
        Problem(id=name, question="Find x.", answer="14", shown=shown, **fields) for name in SAID
    ]


def outcomes(run: RunFolder) -> dict[str, str]:
    return {row.problem_id: row.outcome for row in run.grades()}


@pytest.mark.parametrize("mode", ["strict", "relative"])
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("style", ["paper", "paper-author"])
def test_a_prefill_that_was_cut_off_is_no_answer_also_in_older_runs(
    tmp_path: Path, mode: Mode, recorded: bool, style: Style
) -> None:
    run = RunFolder(tmp_path / "run")
    asked = problems(grader="mathverse:free-form", views=("text-only",))
    evaluate(asked, Says(SAID), run.path, views="text-only", samples=1, style=style)
    assert {row.prefill for row in run.responses()} == {"<think>"}
    if not recorded:
        rows = [json.loads(line) for line in run.responses_path.read_text().splitlines()]
        for row in rows:
            del row["prefill"], row["left_out"]
        run.responses_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grade_run(run, mode)
    assert outcomes(run) == RIGHT
    grade_run(run, "paper")  # the original knows no thinking
    assert outcomes(run) == dict.fromkeys(SAID, "correct")


@pytest.mark.parametrize("opened", ["<think>\n", ""])
def test_the_chat_template_may_open_the_thinking(tmp_path: Path, opened: str) -> None:
    """An engine that sees the rendered prompt says so; a server's other replies of the run do."""
    asked = [Problem(id=name, question="Find x.", answer="14") for name in SAID]
    summary = evaluate(asked, Says(SAID, opened), tmp_path, views="question-only", samples=1)
    assert outcomes(RunFolder(tmp_path)) == RIGHT
    words = f"1 response was {CUT_THINKING}: a box in it does not count as an answer."
    assert (words in summary.warnings) == (not opened)
    numbers = report_numbers([tmp_path])
    assert (words in numbers.warnings) == (not opened)


def test_models_that_open_their_thinking_themselves_are_graded_as_before(tmp_path: Path) -> None:
    """One reply in four without its opening tag says nothing of the others; a cut one may answer
    without thinking.
    """
    said = dict.fromkeys(SAID, ("<think>so</think>\\boxed{14}", "stop"))
    said |= {"cut": (BOX, "length"), "ended": ("so</think>\\boxed{14}", "stop")}
    asked = [Problem(id=name, question="Find x.", answer="14") for name in SAID]
    evaluate(asked, Says(said), tmp_path, views="question-only", samples=1)  # type: ignore[arg-type]
    assert outcomes(RunFolder(tmp_path)) == dict.fromkeys(SAID, "correct")


# ---- no system turn ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "said",
    [
        "System role not supported",
        "system messages are not supported",
        "Prompting with images is incompatible with system messages.",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        (
            "After the optional system message, conversation roles must alternate"
            " user/assistant/user/assistant/..."
        ),
        "Only user and assistant roles are supported!",
        "Only roles 'user' and 'assistant' are allowed",
        "Developer instruction is not enabled for models/gemma-3-27b-it",
        "This model does not support system messages",
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
        "Unsupported role: system",
        "Template error: invalid operation: System role not supported (in <string>:1)",
        "Conversation must start with a user message",
        "The first message must be a user message",
        (
            "[{'loc': ['messages', 0, 'role'], 'msg': \"Input should be 'user' or 'assistant'\","
            " 'input': 'system'}]"
        ),
        "'system' is not one of ['user', 'assistant'] - 'messages.0.role'",
        "systemInstruction is not enabled for this model",
    ],
)
def test_words_that_refuse_a_system_turn(said: str) -> None:
    assert refuses_system(said)


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 2048 tokens. However, you requested 5000 tokens",
        "seed: Extra inputs are not permitted",
        "Internal system error: cannot process",
        "model is overloaded, no system capacity",
        "At most 0 image(s) may be provided in one prompt.",
        "the user is not allowed to use this model",
        "image_url is only supported by certain models",
    ],
)
def test_words_that_refuse_something_else(said: str) -> None:
    assert not refuses_system(said)


def test_vllm_asks_a_template_that_takes_no_system_turn_without_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The template is tried with it once; one that opens the thinking has its tag put before the
    reply.
    """
    seen: list[list[str]] = []

    def render(prompt: Prompt, image: Any) -> dict[str, Any]:
        seen.append(["system"] * (prompt.system is not None))
        if prompt.system is not None:
            raise ValueError("System role not supported")
        return {"prompt": f"<start>{prompt.text}<model>\n<think>\n"}

    renderer = SimpleNamespace(
        render_cmpl=lambda prompts, params: prompts, default_chat_tok_params=None
    )
    engine = VllmEngine.__new__(VllmEngine)
    engine.llm = SimpleNamespace(llm_engine=SimpleNamespace(renderer=renderer))
    engine._takes_system = {True: True, False: True}
    engine._render = render  # type: ignore[method-assign]
    for number in range(3):
        prepared = engine._prepare(
            Request(f"p{number}", "full-text", Prompt("Find x."), None, (0, 1)), None
        )
        assert (prepared.opened, prepared.left_out) == ("<think>\n", ("system",))
        assert [prompt["prompt"] for prompt in prepared.prompts] == [
            "<start>Find x.<model>\n<think>\n"
        ] * 2
    assert seen == [["system"], [], [], []]
    assert capsys.readouterr().err.count("takes no system turn") == 1
