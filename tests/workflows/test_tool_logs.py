"""Logs of other tools become runs: mapped by id, and what they hide is `error`, never guessed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tool_logs import (
    inspect_sample,
    kit_row,
    lmms_row,
    problem,
    write_inspect,
    write_lmms,
    write_tsv,
    write_xlsx,
)

from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.core.rows import GradeRow
from modgap.datasets.synthetic import write_dataset
from modgap.reporting.page import build_report
from modgap.workflows.logs import inspect_log, lmms_eval, vlmevalkit
from modgap.workflows.logs.importing import ImportedLog, import_logs
from modgap.workflows.logs.matching import OTHER_GOLD, OTHER_QUESTION, Data
from modgap.workflows.problems import load_problems

RIGHT, WRONG = r"so \boxed{5}", r"so \boxed{6}"
LOGS = os.environ.get("MODGAP_LOGS_SAMPLE", "")


def imported(
    tool: str, out: Path, *files: Path, scorer: str | None = None, **data: Any
) -> ImportedLog:
    return import_logs(tool, files, out, Data(**data), scorer=scorer)


def theirs(run: Path, tool: str) -> dict[tuple[str, str], GradeRow]:
    return {(row.problem_id, row.view): row for row in RunFolder(run).grades(tool)}


def ours(run: Path) -> dict[tuple[str, str], str]:
    return {(row.problem_id, row.view): row.outcome for row in RunFolder(run).grades()}


# ---- lmms-eval -----------------------------------------------------------------------------------


def test_two_tasks_of_lmms_eval_are_the_views_of_one_run(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    write_lmms(logs, [lmms_row(1, RIGHT, 1), lmms_row(2, WRONG, 0)])
    write_lmms(logs, [lmms_row(1, WRONG, 0, version="Vision Only")], task="mathverse_vision_only")
    done = imported("lmms-eval", tmp_path / "run", logs)
    assert done.log.model == "scripted"
    assert ours(tmp_path / "run") == {
        ("1", "text-dominant"): "correct",
        ("2", "text-dominant"): "wrong",
        ("1", "vision-only"): "wrong",
    }
    assert RunFolder(tmp_path / "run").manifest()["resolved"]["views"] == [
        "text-dominant", "vision-only",
    ]  # fmt: skip
    row = next(iter(RunFolder(tmp_path / "run").responses()))
    assert (row.prompt, row.completion_tokens) == ("Answer. What is x of figure 1?", 2)


@pytest.mark.parametrize(("calls", "expected"), [(3, "wrong"), (2, "error"), (0, "error")])
def test_a_score_of_0_is_a_verdict_only_if_the_judge_answered_for_every_row(
    tmp_path: Path, calls: int, expected: str
) -> None:
    rows = [lmms_row(1, RIGHT, 1), lmms_row(2, RIGHT, 0), lmms_row(3, WRONG, 0)]
    write_lmms(tmp_path / "logs", rows, calls=calls)
    done = imported("lmms-eval", tmp_path / "run", tmp_path / "logs")
    outcomes = [row.outcome for row in theirs(tmp_path / "run", "lmms-eval").values()]
    assert outcomes == ["correct", expected, expected]
    assert list(ours(tmp_path / "run").values()) == ["correct", "correct", "wrong"]
    lost = {lmms_eval.DEAD: ["2 text-dominant sample 0", "3 text-dominant sample 0"]}
    assert done.verdict_errors == (lost if expected == "error" else {})


def test_without_the_results_no_score_of_0_is_a_verdict(tmp_path: Path) -> None:
    write_lmms(tmp_path / "logs", [lmms_row(1, RIGHT, 1), lmms_row(2, RIGHT, 0)])
    (samples,) = (tmp_path / "logs").glob("*.jsonl")
    done = imported("lmms-eval", tmp_path / "run", samples)
    assert len(done.verdict_errors[lmms_eval.DEAD]) == 1
    assert any("came without 20261130_080000_results.json" in words for words in done.warnings)


def test_the_thinking_that_lmms_eval_strips_is_put_back(tmp_path: Path) -> None:
    raw = "<think>look</think>" + RIGHT
    write_lmms(tmp_path / "logs", [lmms_row(1, RIGHT, 1, resps=raw, token_counts=[None])])
    imported("lmms-eval", tmp_path / "run", tmp_path / "logs")
    assert [row.response for row in RunFolder(tmp_path / "run").responses()] == [raw]


def test_the_responses_that_repeats_lose_are_counted(tmp_path: Path) -> None:
    rows = [lmms_row(n, RIGHT, 1) for n in (1, 2, 3)]
    write_lmms(tmp_path / "logs", rows, repeats=4)
    done = imported("lmms-eval", tmp_path / "run", tmp_path / "logs")
    assert any("the file lacks 9 of 12 responses." in words for words in done.warnings)
    assert RunFolder(tmp_path / "run").manifest()["resolved"]["samples"] == 1


def test_an_empty_response_is_a_failed_request_unless_tokens_are_counted(tmp_path: Path) -> None:
    counted = lmms_row(1, "", 0, token_counts=[{"input_tokens": 3, "output_tokens": 1}])
    rows = [counted, lmms_row(2, "", 0, token_counts=[None])]
    write_lmms(tmp_path / "logs", rows)
    done = imported("lmms-eval", tmp_path / "run", tmp_path / "logs")
    assert list(ours(tmp_path / "run").values()) == ["no_answer", "error"]
    assert done.errors == {lmms_eval.EMPTY: ["2 text-dominant sample 0"]}


def test_a_response_as_long_as_the_limit_was_cut(tmp_path: Path) -> None:
    row = lmms_row(1, RIGHT, 1, token_counts=[{"input_tokens": 3, "output_tokens": 1024}])
    write_lmms(tmp_path / "logs", [row])
    imported("lmms-eval", tmp_path / "run", tmp_path / "logs")
    assert [row.finish_reason for row in RunFolder(tmp_path / "run").responses()] == ["length"]


def test_rows_without_ids_are_matched_by_position_and_checked(tmp_path: Path) -> None:
    data = tmp_path / "mathverse.json"
    data.write_text(json.dumps([problem(n, "Text Dominant", str(n)) for n in (7, 8)]))
    bare = [
        {"doc_id": n, "target": str(n + 7), "filtered_resps": rf"\boxed{{{n + 7}}}",
         "acc_score": 1.0, "input": f"Think. What is x of figure {n + 7}?"}
        for n in range(2)
    ]  # fmt: skip
    write_lmms(tmp_path / "logs", bare)
    with pytest.raises(UserError, match=r"names a problem of mathverse.*--gt"):
        imported("lmms-eval", tmp_path / "none", tmp_path / "logs")
    imported("lmms-eval", tmp_path / "run", tmp_path / "logs", gt=data)
    assert list(ours(tmp_path / "run").values()) == ["correct", "correct"]
    bare[1]["target"] = "9"
    write_lmms(tmp_path / "logs", bare)
    with pytest.raises(UserError, match=r"row 2 of --gt .*its answer is '8', the log's '9'"):
        imported("lmms-eval", tmp_path / "other", tmp_path / "logs", gt=data)


def test_one_metric_is_the_verdict_of_all_rows_and_the_others_are_named(tmp_path: Path) -> None:
    rows = [{"words": 1, **lmms_row(n, RIGHT, 1)} for n in (1, 2, 3)]
    rows[1]["gpt_eval_score"], rows[2]["gpt_eval_score"] = None, "1"
    write_lmms(tmp_path / "logs", rows, metric_list=[{"metric": "gpt_eval_score"}])
    done = imported("lmms-eval", tmp_path / "run", tmp_path / "logs")
    outcomes = [row.outcome for row in theirs(tmp_path / "run", "lmms-eval").values()]
    assert outcomes == ["correct", "error", "error"]
    assert done.log.scorer == "gpt_eval_score"
    assert any("it also has words (--scorer)" in words for words in done.warnings)


def test_of_several_metrics_none_is_guessed(tmp_path: Path) -> None:
    rows = [{**lmms_row(n, RIGHT, 1), "words": 0} for n in (1, 2)]
    both = [{"metric": "gpt_eval_score"}, {"metric": "words"}]
    write_lmms(tmp_path / "logs", rows, metric_list=both)
    with pytest.raises(UserError, match=r"--scorer: gpt_eval_score, words"):
        imported("lmms-eval", tmp_path / "run", tmp_path / "logs")
    write_lmms(tmp_path / "logs", rows)  # results that report none of them
    with pytest.raises(UserError, match=r"--scorer: gpt_eval_score, words"):
        imported("lmms-eval", tmp_path / "run", tmp_path / "logs")
    done = imported("lmms-eval", tmp_path / "run", tmp_path / "logs", scorer="words")
    assert done.log.scorer == "words"


def test_a_row_that_names_another_problem_is_an_error_and_counted(tmp_path: Path) -> None:
    data = tmp_path / "mathverse.json"
    data.write_text(json.dumps([problem(n, "Text Dominant", str(n)) for n in (7, 8, 9)]))
    rows = [lmms_row(n, RIGHT, 1) for n in (7, 8, 9)]
    for row, gold in zip(rows, ("7", "7", "9"), strict=True):
        row["submission"]["answer"] = row["target"] = gold
    rows[2]["submission"] |= {"question": "Who?", "question_for_eval": "Who?"}
    rows[2]["input"] = "Who?"
    write_lmms(tmp_path / "logs", rows)
    done = imported("lmms-eval", tmp_path / "run", tmp_path / "logs", gt=data)
    assert done.errors == {
        OTHER_GOLD: ["8 text-dominant sample 0"], OTHER_QUESTION: ["9 text-dominant sample 0"]
    }  # fmt: skip
    assert list(ours(tmp_path / "run").values()) == ["wrong", "error", "error"]
    assert [row.outcome for row in theirs(tmp_path / "run", "lmms-eval").values()] == [
        "correct", "error", "error",
    ]  # fmt: skip
    assert any("1 response is `error`, as each names a problem" in w for w in done.warnings)


def test_two_runs_of_one_task_of_lmms_eval_are_not_mixed(tmp_path: Path) -> None:
    first = write_lmms(tmp_path / "logs" / "first", [lmms_row(1, RIGHT, 1), lmms_row(2, RIGHT, 1)])
    write_lmms(tmp_path / "logs" / "again", [lmms_row(1, WRONG, 0)])
    with pytest.raises(UserError, match=r"two runs of the task mathverse_testmini_text_dominant"):
        imported("lmms-eval", tmp_path / "run", tmp_path / "logs")
    assert not (tmp_path / "run").exists()
    assert len(imported("lmms-eval", tmp_path / "run", first).log.samples) == 2


def test_a_report_reads_tasks_that_were_sampled_differently(tmp_path: Path) -> None:
    logs, greedy = tmp_path / "logs", {"temperature": 0.0, "max_new_tokens": 512}
    write_lmms(logs, [lmms_row(1, RIGHT, 1)])
    write_lmms(tmp_path / "more", [lmms_row(1, WRONG, 0, version="Vision Only")],
               task="mathverse_vision_only", generation_kwargs=greedy)  # fmt: skip
    imported("lmms-eval", tmp_path / "run", logs, tmp_path / "more")
    assert RunFolder(tmp_path / "run").manifest()["resolved"]["temperature"] == [0.0, 0.7]  # pyright: ignore[reportTypedDictNotRequiredAccess, reportGeneralTypeIssues]
    numbers = build_report([tmp_path / "run"], tmp_path / "report.html")
    assert numbers.runs["run"].gap and numbers.runs["run"].gap.points == 100


def test_a_submission_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mathverse_testmini_results.json"
    path.write_text("[]")
    with pytest.raises(UserError, match="holds the rows of the last task only"):
        imported("lmms-eval", tmp_path / "run", path)


# ---- VLMEvalKit ----------------------------------------------------------------------------------


def scored(number: int, prediction: Any, score: Any, log: str, **more: Any) -> dict[str, Any]:
    return kit_row(number, prediction, extract=more.pop("extract", "5"), log_extract="Succeed",
                   score=score, log_score=log, **more)  # fmt: skip


def test_false_is_wrong_only_if_the_judge_was_understood(tmp_path: Path) -> None:
    unread = "Try 0: output is x, res is Judge, failed to parse.\n" * 5 + "All 5 retries failed.\n"
    rows = [
        scored(1, RIGHT, "True", "Prefetch succeed"),
        scored(2, WRONG, "False", "Try 0: output is x, res is ?, failed to parse.\nSucceed"),
        scored(3, RIGHT, "False", unread),
        scored(4, RIGHT, "False", ""),
    ]
    folder = tmp_path / "kit"
    said = {1: RIGHT, 2: WRONG, 3: RIGHT, 4: RIGHT}
    write_tsv(folder / "M_MathVerse_MINI.tsv", [kit_row(n, text) for n, text in said.items()])
    write_tsv(folder / "M_MathVerse_MINI_gpt_score.tsv", rows)
    done = imported("vlmevalkit", tmp_path / "run", folder)
    outcomes = [row.outcome for row in theirs(tmp_path / "run", "vlmevalkit").values()]
    assert outcomes == ["correct", "wrong", "error", "error"]
    assert set(done.verdict_errors) == {vlmevalkit.UNREAD, vlmevalkit.UNLOGGED}
    assert done.log.model == "M"


def test_the_score_of_another_response_is_an_error(tmp_path: Path) -> None:
    long = RIGHT + "\r\n" + "x" * vlmevalkit.MOST_CHARACTERS
    said = {1: RIGHT, 2: WRONG, 3: "5.0", 4: "null", 5: long}
    scores = {1: RIGHT, 2: RIGHT, 3: "5", 4: "", 5: long[: vlmevalkit.MOST_CHARACTERS]}
    folder = tmp_path / "kit"
    write_tsv(folder / "M_MathVerse_MINI.tsv", [kit_row(n, text) for n, text in said.items()])
    write_tsv(
        folder / "M_MathVerse_MINI_gpt_score.tsv",
        [scored(n, text, "True", "Prefetch succeed") for n, text in scores.items()],
    )
    done = imported("vlmevalkit", tmp_path / "run", folder)
    outcomes = [row.outcome for row in theirs(tmp_path / "run", "vlmevalkit").values()]
    assert outcomes == ["correct", "error", "correct", "correct", "correct"]
    assert set(done.verdict_errors) == {vlmevalkit.STALE}


def test_texts_that_pandas_took_for_empty_cells_or_numbers_are_errors(tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    score = [scored(1, None, "False", "Succeed"), scored(2, RIGHT, "True", "Succeed")]
    write_tsv(folder / "M_MathVerse_MINI_gpt_score.tsv", score)
    done = imported("vlmevalkit", tmp_path / "a", folder)
    assert done.errors == {vlmevalkit.EMPTY_CELL: ["1 text-dominant sample 0"]}
    # The file of predictions still has the word.
    write_tsv(folder / "M_MathVerse_MINI.tsv", [kit_row(1, "null"), kit_row(2, RIGHT)])
    assert imported("vlmevalkit", tmp_path / "b", folder).errors == {}
    assert [row.response for row in RunFolder(tmp_path / "b").responses()] == ["null", RIGHT]
    numbers = [scored(1, "5.0", "True", "Succeed"), scored(2, "7.0", "False", "Succeed")]
    path = write_tsv(tmp_path / "n" / "M_MathVerse_MINI_gpt_score.tsv", numbers)
    done = imported("vlmevalkit", tmp_path / "c", path)
    assert {why: len(names) for why, names in done.errors.items()} == {vlmevalkit.NUMBER_CELL: 2}


@pytest.mark.parametrize(
    ("prediction", "why"),
    [
        ("Failed to obtain answer via API.", vlmevalkit.FAILED),
        ("Failed to obtain answer: <class 'RuntimeError'> out of memory", vlmevalkit.FAILED),
        ("nan", vlmevalkit.NO_WORDS),
        ("None", vlmevalkit.NO_WORDS),
    ],
)
def test_words_that_stand_for_a_failure_are_errors(
    tmp_path: Path, prediction: str, why: str
) -> None:
    path = write_tsv(tmp_path / "M_MathVerse_MINI.tsv", [kit_row(1, prediction), kit_row(2, "")])
    assert list(imported("vlmevalkit", tmp_path / "run", path).errors) == [why]
    # An empty prediction is what the model said.
    assert list(ours(tmp_path / "run").values()) == ["error", "no_answer"]


def test_a_cell_of_xlsx_that_is_full_was_cut(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl", reason="needs the extra xlsx")
    long = "x" * 32_755 + r" \boxed{5}"
    rows = [kit_row(1, f"  {long}"), kit_row(2, long), kit_row(3, "= 5"), kit_row(4, "a_x000D_\nb")]
    assert len(rows[0]["prediction"]) == 32_767
    path = write_xlsx(tmp_path / "M_MathVerse_MINI.xlsx", rows)
    done = imported("vlmevalkit", tmp_path / "run", path)
    assert done.errors == {vlmevalkit.CUT: ["1 text-dominant sample 0"]}
    said = [row.response for row in RunFolder(tmp_path / "run").responses()]
    assert said[1:] == [long, "= 5", "a\r\nb"]
    # A tsv has no such limit.
    path = write_tsv(tmp_path / "M_MathVerse_MINI.tsv", rows[:1])
    assert imported("vlmevalkit", tmp_path / "tsv", path).errors == {}


def test_split_thinking_is_put_together(tmp_path: Path) -> None:
    path = tmp_path / "M_MathVerse_MINI.json"
    path.write_text(json.dumps([kit_row(1, RIGHT, thinking="look")]))
    imported("vlmevalkit", tmp_path / "run", path)
    (row,) = RunFolder(tmp_path / "run").responses()
    assert row.response == f"<think>look</think>\n{RIGHT}" and row.prompt == ""


def test_a_prediction_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "M_MathVerse_MINI.json"
    path.write_text(json.dumps([kit_row(n, value) for n, value in enumerate((5, None, ["x"]), 1)]))
    done = imported("vlmevalkit", tmp_path / "run", path)
    assert {why: len(names) for why, names in done.errors.items()} == {
        vlmevalkit.NUMBER_CELL: 1, vlmevalkit.NOT_TEXT: 2,
    }  # fmt: skip


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "M_MathVerse_MINI.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"may run anything.*PRED_FORMAT=tsv"):
        imported("vlmevalkit", tmp_path / "run", tmp_path / "M_MathVerse_MINI.pkl")


@pytest.mark.parametrize("name", ["status.json", "M_MathVerse_MINI_acc.csv"])
def test_files_of_vlmevalkit_without_responses_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('"split","Overall"\n"all","50"\n')
    with pytest.raises(UserError, match=f"{name}.*(only those hold responses|no columns index)"):
        imported("vlmevalkit", tmp_path / "run", tmp_path / name)


# ---- inspect_ai ----------------------------------------------------------------------------------


def test_failed_samples_of_a_successful_log_are_errors(tmp_path: Path) -> None:
    unread = {"match": {"value": "I", "explanation": "Grade not found in model output: hm"}}
    samples = [
        inspect_sample(1, RIGHT),
        inspect_sample(1, "", epoch=2, error={"message": "down"}, scores=None, output={}),
        inspect_sample(2, WRONG, scores=unread),
        inspect_sample(2, RIGHT, epoch=2, scores={"match": {"value": float("nan")}}),
        inspect_sample(3, RIGHT, limit={"type": "time"}),
    ]
    log = write_inspect(tmp_path / "log.json", samples, epochs=2)
    done = imported("inspect", tmp_path / "run", log)
    assert {why: len(names) for why, names in done.errors.items()} == {
        inspect_log.FAILED: 1, inspect_log.HALTED: 1,
    }  # fmt: skip
    assert {why: len(names) for why, names in done.verdict_errors.items()} == {
        inspect_log.UNSCORED: 2, inspect_log.UNREAD: 1,
    }  # fmt: skip
    assert any("missing: 1 of 6 samples." in words for words in done.warnings)
    responses = list(RunFolder(tmp_path / "run").responses())
    assert responses[0].prompt == "Think. What is x of figure 1?"
    assert [row.finish_reason for row in responses] == ["stop", "error", "stop", "stop", "error"]


def test_a_folder_of_inspect_ai_stands_for_its_logs(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    write_inspect(tmp_path / "logs" / "log.json", [inspect_sample(1, RIGHT)])
    (tmp_path / "logs" / "logs.json").write_text("{}")
    command = ["import", "--from", "inspect", str(tmp_path / "logs")]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert ours(tmp_path / "run") == {("1", "text-dominant"): "correct"}
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none holds no \.eval or \.json file"):
        imported("inspect", tmp_path / "other", tmp_path / "none")


def test_the_prompt_is_all_that_was_said_before_the_answer(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "x?"}, {"type": "image"}]},
        {"role": "assistant", "content": "<think>"},
    ]
    log = write_inspect(tmp_path / "log.json", [inspect_sample(1, RIGHT, input=turns)])
    imported("inspect", tmp_path / "run", log)
    (row,) = RunFolder(tmp_path / "run").responses()
    assert (row.prompt, row.prefill) == ("Be brief.\n\nx?", "<think>")


def test_a_scorer_is_chosen_and_another_name_is_refused(tmp_path: Path) -> None:
    scores = {"match": {"value": "C"}, "both": {"value": {"right": 0, "neat": 1}}}
    log = write_inspect(tmp_path / "log.json", [inspect_sample(1, RIGHT, scores=scores)])
    assert imported("inspect", tmp_path / "a", log).log.scorer == "match"
    imported("inspect", tmp_path / "b", log, scorer="both.right")
    assert [row.outcome for row in RunFolder(tmp_path / "b").grades("inspect")] == ["wrong"]
    with pytest.raises(UserError, match=r"--scorer x: .* has match, both\.right, both\.neat"):
        imported("inspect", tmp_path / "c", log, scorer="x")


def test_samples_are_matched_by_their_id_where_the_metadata_are_silent(tmp_path: Path) -> None:
    data = tmp_path / "mathverse.json"
    data.write_text(json.dumps([problem(n, "Text Dominant") for n in (1, 2)]))
    sample = inspect_sample(2, RIGHT, metadata={})
    log = write_inspect(tmp_path / "log.json", [sample])
    imported("inspect", tmp_path / "run", log, gt=data)
    assert ours(tmp_path / "run") == {("2", "text-dominant"): "correct"}


# ---- other data sets -----------------------------------------------------------------------------


def test_logs_of_other_data_sets_are_matched_by_id_with_their_files(tmp_path: Path) -> None:
    data = tmp_path / "geo"
    write_dataset(data, 0, 4, seed=2, workers=1)
    problems = load_problems(data, "synthetic")
    boxed = [rf"\boxed{{{problem.answer}}}" for problem in problems]
    rows = [
        {"index": n, "id": problem.id, "question": "?", "answer": problem.answer,
         "prediction": boxed[n]}
        for n, problem in enumerate(problems)
    ]  # fmt: skip
    path = write_tsv(tmp_path / "M_geo.tsv", rows[::-1])
    with pytest.raises(UserError, match=r"does not say its view, nor does the task .*--view"):
        imported("vlmevalkit", tmp_path / "none", path, gt=data, benchmark="synthetic")
    imported("vlmevalkit", tmp_path / "a", path, gt=data, benchmark="synthetic", view="image-only")
    assert ours(tmp_path / "a") == {(p.id, "image-only"): "correct" for p in problems}
    # By position, checked against the answer; the task's name says the view.
    bare = [
        {"doc_id": n, "target": problem.answer, "filtered_resps": boxed[n], "acc": 1.0}
        for n, problem in enumerate(problems)
    ]
    write_lmms(tmp_path / "logs", bare, task="geo_full_text")
    imported("lmms-eval", tmp_path / "b", tmp_path / "logs", gt=data, benchmark="synthetic")
    assert ours(tmp_path / "b") == {(p.id, "full-text"): "correct" for p in problems}
    write_lmms(tmp_path / "logs", [{**bare[0], "doc_id": 1}], task="geo_full_text")
    with pytest.raises(UserError, match="names its problem by its position only"):
        imported("lmms-eval", tmp_path / "c", tmp_path / "logs", gt=data, benchmark="synthetic")


def test_logs_of_other_data_sets_ask_for_gt_and_cannot_do_without(tmp_path: Path) -> None:
    log = write_lmms(tmp_path / "logs", [lmms_row(1, RIGHT, 1)])
    with pytest.raises(UserError, match="--gt is missing: logs name problems of geometry3k only"):
        imported("lmms-eval", tmp_path / "run", log, benchmark="geometry3k")


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_prints_how_many_errors_of_each_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lmms(tmp_path / "logs", [lmms_row(1, RIGHT, 0), lmms_row(2, "", 0)], calls=0)
    out = str(tmp_path / "run")
    assert main(["import", "--from", "lmms-eval", str(tmp_path / "logs"), "--out", out]) == 0
    said = capsys.readouterr().out
    assert "errors: 1 response, 2 scores of lmms-eval" in said
    assert "accuracy by lmms-eval: 0.0% to 100.0% of 2 samples, with 2 scores unknown" in said
    assert f"1 response: {lmms_eval.EMPTY}" in said and f"2 scores: {lmms_eval.DEAD}" in said
    assert main(["grade", out, "--mode", "paper"]) == 0
    assert [row.outcome for row in RunFolder(out).grades("lmms-eval")] == ["error", "error"]


def test_the_command_says_how_many_right_answers_our_rules_do_not_find(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("words", "It is 5."), ("boxes", RIGHT)):
        write_lmms(tmp_path / name, [lmms_row(1, text, 1), lmms_row(2, RIGHT, 1)])
        command = ["import", "--from", "lmms-eval", str(tmp_path / name)]
        assert main([*command, "--out", str(tmp_path / f"run-{name}")]) == 0
        said = "right by lmms-eval and without an answer by our rules"
        assert (said in capsys.readouterr().out) == (name == "words")


@pytest.mark.skipif(not LOGS, reason="MODGAP_LOGS_SAMPLE names no folder of real logs")
def test_real_logs_agree_with_the_script_that_answered(tmp_path: Path) -> None:
    """The tools' own loops wrote them: every response is the scripted one, under its id."""
    root = Path(LOGS)
    script = json.loads((root / "data" / "script.json").read_text())
    rows = {row["sample_index"]: row for row in json.loads((root / "data/mini.json").read_text())}
    views = {"Text Dominant": "text-dominant", "Vision Only": "vision-only"}
    index = {
        (row["problem_index"], views[row["problem_version"]]): name for name, row in rows.items()
    }
    cases = [
        ("lmms-eval", root / "lmms-eval/two-tasks/scripted-stub", 0, 0),
        ("lmms-eval", root / "lmms-eval/judge-down/scripted-stub", 0, 1),
        ("vlmevalkit", root / "vlmevalkit/tsv", 0, 1),
        ("vlmevalkit", root / "vlmevalkit/json-splitthink", 0, 0),
        *(("inspect", log, 0, 0) for log in sorted((root / "inspect/eval-0.3.285").iterdir())),
        *(("inspect", log, 1, 1) for log in sorted((root / "inspect").glob("*error/*"))),
    ]
    for number, (tool, files, errors, lost) in enumerate(cases):
        done = imported(tool, run := tmp_path / str(number), files)
        assert sum(map(len, done.errors.values())) == errors, files
        assert sum(map(len, done.verdict_errors.values())) == lost, files
        for row in RunFolder(run).responses():
            said = script[index[row.problem_id, row.view]][row.sample]
            assert row.finish_reason == "error" or row.response.endswith(said), (files, row)
