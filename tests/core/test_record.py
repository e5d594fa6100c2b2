"""The run folder: nothing is lost, nothing is twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.core.rows import GradeRow, ProblemRow, Response, iter_rows, line_of


def response(problem: str, sample: int, **changes: object) -> Response:
    fields = {
        "problem_id": problem,
        "view": "full-text",
        "sample": sample,
        "prompt": "p",
        "response": "r\nline",
    }
    return Response.model_validate({"finish_reason": "stop", **fields, **changes})


def test_a_torn_last_line_is_dropped_and_made_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.appending() as writer:
        writer.write(response("a", 0))
        writer.write(response("a", 1))
    whole = run.responses_path.read_bytes()
    for cut in range(1, len(whole)):
        run.responses_path.write_bytes(whole[:cut])
        answered = run.answered()
        assert run.responses_path.read_bytes() == whole[:cut], "only looked at"
        done = run.resume()
        assert answered == done
        assert done == {("a", "full-text", n) for n in range(whole[:cut].count(b"\n"))}
        with run.appending() as writer:
            for sample in (0, 1):
                if ("a", "full-text", sample) not in done:
                    writer.write(response("a", sample))
        assert run.responses_path.read_bytes() == whole


def test_failed_samples_are_made_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.appending() as writer:
        writer.write(response("a", 0))
        writer.write(response("a", 1, finish_reason="error", error="timeout"))
    assert run.answered() == run.resume() == {("a", "full-text", 0)}
    assert [row.sample for row in run.responses()] == [0]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.responses_path.write_text('{"problem_id": 1}\n' + response("a", 0).model_dump_json() + "\n")
    with pytest.raises(
        UserError, match=r"responses\.jsonl line 1.*remove that line and give the same command"
    ):
        run.resume()
    run.responses_path.write_text(run.responses_path.read_text().split("\n", 1)[1])
    assert run.resume() == {("a", "full-text", 0)}, "the remedy helps"


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_damaged_manifest_is_named_with_its_remedy(tmp_path: Path, content: str) -> None:
    run = RunFolder(tmp_path)
    run.manifest_path.write_bytes(content.encode("latin-1"))
    for act in (run.manifest, lambda: run.start("eval", {"samples": 1})):
        with pytest.raises(UserError, match=r"manifest\.json is damaged.*another --out"):
            act()


@pytest.mark.parametrize("responses", [None, ""])
def test_an_evaluation_that_said_nothing_yet_does_not_pin_its_arguments(
    tmp_path: Path, responses: str | None
) -> None:
    run = RunFolder(tmp_path)
    run.start("eval", {"samples": 4}, {"device": "cuda"})
    if responses is not None:
        run.responses_path.write_text(responses)
    assert run.start("eval", {"samples": 5}, {"device": "cpu"}) is False
    assert run.manifest()["resolved"] == {"samples": 5} and run.manifest()["given"] == {
        "device": "cpu"
    }
    for kind in ("train", "study", "import"):
        with pytest.raises(UserError, match=f"kind was 'eval', now '{kind}'"):
            run.start(kind, {"samples": 5})


def test_training_has_no_responses_and_keeps_its_arguments(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.start("train", {"steps": 4})
    with pytest.raises(UserError, match="steps was 4, now 5"):
        run.start("train", {"steps": 5})


def test_a_run_with_other_arguments_is_refused_by_name(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert (
        run.start("eval", {"samples": 4, "views": ["full-text"]}, model_fingerprint="abc") is False
    )
    assert (
        run.start("eval", {"samples": 4, "views": ["full-text"]}, model_fingerprint="abc") is True
    )
    with run.appending() as writer:
        writer.write(response("a", 0))
    with pytest.raises(UserError, match="samples was 4, now 5"):
        run.start("eval", {"samples": 5, "views": ["full-text"]}, model_fingerprint="abc")
    with pytest.raises(UserError, match="the model's weights have changed \\(--model\\)"):
        run.start("eval", {"samples": 4, "views": ["full-text"]}, model_fingerprint="abd")
    manifest = run.manifest()
    assert manifest["resolved"]["samples"] == 4
    assert manifest["versions"]["modgap"]


def test_two_writers_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with (
        run.lock(),
        pytest.raises(UserError, match="another process is writing"),
        RunFolder(tmp_path).lock(),
    ):
        pass
    with run.lock():
        pass  # released


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    rows = [
        ProblemRow(
            id="a", answer="5.000", question="x \\angle\u2028 1", leaky=True, conditions=("AB = 5",)
        )
    ]
    run.write_problems(rows)
    assert run.problems() == {"a": rows[0]}
    grade = GradeRow(
        problem_id="a",
        view="v",
        sample=0,
        outcome="correct",
        answer="5",
        gold="5.000",
        stage="number",
        mode="paper",
    )
    run.write_grades([grade], "paper")
    assert run.grades() == run.grades("paper") == [grade]
    assert run.grades("strict") == []


def test_rows_share_what_repeats_and_stay_equal_to_what_was_written(tmp_path: Path) -> None:
    rows = [
        Response(
            problem_id="p", view="full-text", sample=n, prompt="a long prompt", response=f"r{n}",
            finish_reason="stop", error="x" if n else None,
        )
        for n in range(3)
    ]  # fmt: skip
    (tmp_path / "responses.jsonl").write_text("".join(map(line_of, rows)))
    read = list(iter_rows(tmp_path / "responses.jsonl", Response))
    assert read == rows
    assert read[0].prompt is read[2].prompt
    changed = read[0].model_copy(update={"seed": 7})
    assert changed.seed == 7 and read[1].seed == 0 and read[0].model_dump() == rows[0].model_dump()


@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "image_tokens"])
@pytest.mark.parametrize("count", [-1, 2**63, 10**400])
def test_a_number_of_tokens_that_no_table_holds_is_named(
    tmp_path: Path, name: str, count: int
) -> None:
    row = Response(
        problem_id="p", view="full-text", sample=0, prompt="p", response="r", finish_reason="stop"
    )
    odd = row.model_dump() | {name: count}
    (tmp_path / "responses.jsonl").write_text(json.dumps(odd) + "\n")
    with pytest.raises(UserError, match=rf"responses\.jsonl line 1: {name}"):
        list(iter_rows(tmp_path / "responses.jsonl", Response))
