"""The original's generations on MathVerse as runs, and its own prompts and figures.

Prompts and figures are held against the original's scripts where `MODGAP_ORIGINAL` names a
checkout of it.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mathverse_rows import FIVE, Rows

from modgap.analysis.original_mathverse import mathverse_lines
from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.prompt import evaluation_prompt
from modgap.core.record import RunFolder
from modgap.core.view import VERSIONS
from modgap.original.import_mathverse import JUDGE, import_generations
from modgap.original.mathverse import generation_files
from modgap.workflows.grade import grade_run
from modgap.workflows.problems import read_problems

# ---- the original's generations ------------------------------------------------------------------

SIDES = {
    "vision": ("Vision Intensive", "Vision Dominant", "Vision Only"),
    "text": ("Text Dominant", "Text Lite"),
}
TRIES = 2


def generations(rows: Rows, of: str, how: Callable[[dict[str, Any], int], str]) -> Rows:
    """Lines as the original's `inference.py` writes them."""
    keys = ("sample_index", "problem_index", "problem_version", "question_type", "answer")
    return [
        {key: row[key] for key in keys}
        | {
            "question": row.get("question_for_eval", row["question"]),
            "prediction": how(row, sample),
            "sample_id": sample,
        }
        for row in rows
        if of == "full" or row["problem_version"] in SIDES[of]
        for sample in range(TRIES)
    ]


def write_lines(
    folder: Path, of: str, lines: Rows, *, scored: bool = False, model: str = "qwen2_5_vl_7b"
) -> Path:
    folder.mkdir(exist_ok=True)
    path = (
        folder / f"{model}_{of}_tries_{TRIES}_generations{'_scored_qwen' if scored else ''}.jsonl"
    )
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def varied(row: dict[str, Any], sample: int) -> str:
    """Answers of every kind: right, a choice by its letter, a number, words for a judge, no box,
    nothing at all.
    """
    number = int(row["problem_index"]) + 2 * sample + len(row["problem_version"])
    said = [
        f"\\boxed{{{row['answer']}}}",
        "\\boxed{B}",
        "\\boxed{12}",
        "\\boxed{x+y}",
        "no idea",
        "",
        "[gemini error]",
    ]
    return f"First.</think> {said[number % 7]}" if said[number % 7] else ""


def score(lines: Rows, flag: Callable[[dict[str, Any]], int]) -> Rows:
    return [line | {"correct": flag(line)} for line in lines]


def test_text_and_vision_files_are_one_run(rows: Rows, tmp_path: Path) -> None:
    for of in SIDES:
        write_lines(tmp_path / "g", of, generations(rows, of, varied))
    [run] = import_generations(generation_files([tmp_path / "g"]), tmp_path / "run")
    manifest = RunFolder(tmp_path / "run").manifest()
    assert manifest["resolved"]["model"] == "qwen2_5_vl_7b" and manifest["resolved"][
        "views"
    ] == list(FIVE)
    lines = [line for of in SIDES for line in generations(rows, of, varied)]
    wanted = {
        (x["problem_index"], VERSIONS[x["problem_version"]], x["sample_id"]): x["prediction"]
        for x in lines
    }
    assert {row.key: row.response for row in RunFolder(tmp_path / "run").responses()} == wanted
    assert run.strict.gap.n_problems == 8 and run.strict.mathverse.text.n_samples == 8 * 2 * TRIES
    problem = RunFolder(tmp_path / "run").problems()["2"]
    row = next(
        row
        for row in rows
        if row["problem_index"] == "2" and row["problem_version"] == "Vision Only"
    )
    assert (
        problem.gold_of("vision-only") == row["answer"]
        and problem.grader == f"mathverse:{row['question_type']}"
    )
    assert problem.question_of("vision-only") == row["question_for_eval"]


def test_the_same_files_again_change_nothing_and_other_ones_are_refused(
    rows: Rows, tmp_path: Path
) -> None:
    def held() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}

    lines = generations(rows, "text", varied)
    no = score(lines, lambda line: 0)
    for folder, of in (("g", no), ("judged", score(lines, lambda line: 1)), ("plain", lines)):
        write_lines(tmp_path / folder, "text", of, scored=folder != "plain")
    write_lines(
        tmp_path / "said",
        "text",
        [line | {"prediction": "\\boxed{another}"} for line in no],
        scored=True,
    )
    import_generations(generation_files([tmp_path / "g"]), tmp_path / "run")
    before = held()
    import_generations(generation_files([tmp_path / "g"]), tmp_path / "run")
    assert held() == before
    for folder in ("judged", "plain", "said"):
        with pytest.raises(UserError, match=r"other arguments: text_answers was .*another --out"):
            import_generations(generation_files([tmp_path / folder]), tmp_path / "run")
        assert held() == before
    # The verdicts are those of the very rows, even where a folder holds others.
    manifest = tmp_path / "run" / "manifest.json"
    manifest.unlink()
    with pytest.raises(UserError, match=r"lost its manifest\.json: it holds responses\.jsonl"):
        import_generations(generation_files([tmp_path / "judged"]), tmp_path / "run")
    for name in ("responses.jsonl", "grades.jsonl", "grades.paper.jsonl", "grades.strict.jsonl"):
        (tmp_path / "run" / name).unlink()
    judge = tmp_path / "run" / "judge.jsonl"
    kept = judge.read_bytes()
    judge.unlink()
    import_generations(generation_files([tmp_path / "judged"]), tmp_path / "run")
    judge.write_bytes(kept)
    [run] = import_generations(generation_files([tmp_path / "judged"]), tmp_path / "run")
    assert run.note["scored"]["judged_both_ways"] == []
    judged = [row for row in RunFolder(tmp_path / "run").grades("paper") if row.stage == "judge"]
    assert judged and all(row.outcome == "correct" for row in judged)


def test_the_originals_verdicts_are_compared_and_kept(rows: Rows, tmp_path: Path) -> None:
    lines = generations(rows, "text", varied)
    write_lines(tmp_path / "g", "text", lines)
    import_generations(generation_files([tmp_path / "g"]), tmp_path / "plain")
    grades = {row.key: row for row in RunFolder(tmp_path / "plain").grades("paper")}
    of = {(x["problem_index"], VERSIONS[x["problem_version"]], x["sample_id"]): x for x in lines}
    waiting = [key for key, row in grades.items() if row.outcome == "error"]
    decided = [key for key in grades if key not in waiting]
    assert waiting and decided and all(grades[key].stage == "judge" for key in waiting)
    # The scored file: the rules' verdicts but one, and a judge that says yes to `x+y` alone.
    turned = next(key for key in decided if grades[key].outcome == "correct")
    for key, line in of.items():
        right = (
            "x+y" in line["prediction"]
            if key in waiting
            else grades[key].outcome == "correct" and key != turned
        )
        line["correct"] = int(right)
    scored = list(of.values())
    write_lines(tmp_path / "g", "text", scored, scored=True)
    files = generation_files([tmp_path / "g"])
    assert [file.path.name for file in files] == [
        "qwen2_5_vl_7b_text_tries_2_generations_scored_qwen.jsonl"
    ]
    [run] = import_generations(files, tmp_path / "run")
    note = json.loads((tmp_path / "run" / "import.json").read_text())["scored"]
    assert (note["rows"], note["by_rule"], note["agree"]) == (
        len(lines),
        len(decided),
        len(decided) - 1,
    )
    assert note["by_judge"] == len(waiting)
    assert note["differ"] == [
        f"{turned[0]} {turned[1]} sample {turned[2]}: the original 0, our rules correct"
    ]
    assert any("another verdict by our rules" in warning for warning in run.strict.warnings)
    for row in RunFolder(tmp_path / "run").grades("paper"):
        if row.key in waiting:
            assert (row.outcome, row.stage) == (
                "correct" if of[row.key]["correct"] else "wrong",
                "judge",
            )
        else:
            assert row.outcome == grades[row.key].outcome
    # A later grading in that mode goes by them, too; strict does not, and says what waits.
    again = grade_run(RunFolder(tmp_path / "run"), "paper")
    assert again.mathverse == run.paper.mathverse and again.judge.judge == JUDGE
    strict = RunFolder(tmp_path / "run").grades("strict")
    assert all(row.outcome == "error" for row in strict if row.stage == "judge")


def test_with_gold_problems_are_the_data_sets(rows: Rows, data: Path, tmp_path: Path) -> None:
    lines = generations(rows, "vision", varied)[:-4]
    lines[0] |= {"answer": "99"}
    lines[1] |= {"question": "Another."}
    lines.append(lines[2] | {"problem_index": "77"})
    write_lines(tmp_path / "g", "vision", lines)
    [run] = import_generations(generation_files([tmp_path / "g"]), tmp_path / "run", gt=data)
    odd = run.note["odd"]
    assert odd["have another gold answer than --gt, by which they are graded"] == [
        "1 vision-intensive sample 0"
    ]
    assert odd["have another question than --gt"] == ["1 vision-intensive sample 1"]
    assert odd["match no problem and version of --gt and are left out"] == [
        "77 vision-dominant sample 0"
    ]
    assert len(odd["are missing, of 48"]) == 4
    assert set(run.strict.mathverse.subjects) == {row["metadata"]["subject"] for row in rows}
    assert run.strict.gap is None and "Only vision versions" in " ".join(run.strict.warnings)
    row = RunFolder(tmp_path / "run").problems()["1"]
    assert row.gold_of("vision-intensive") == rows[2]["answer"]


def test_several_models_are_never_pooled(
    rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("qwen2_5_vl_3b", "qwen2_5_vl_7b"):
        write_lines(tmp_path / "g", "text", generations(rows[:6], "text", varied), model=model)
    assert main(["import", "--results-root", str(tmp_path), "--out", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert "3b_text_tries_2_generations.jsonl" in out and "Overall ACC:" in out
    assert {path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()} == {
        "qwen2_5_vl_3b",
        "qwen2_5_vl_7b",
    }


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda lines: [*lines[:1], "{torn", *lines[1:]], "line 2 is not valid JSON"),
        (
            lambda lines: [json.dumps({"prediction": "x"}), *lines],
            "line 1: problem_index is missing",
        ),
        (
            lambda lines: [lines[0].replace('"sample_id": 0', '"sample_id": "a"'), *lines[1:]],
            "sample_id 'a' is not a whole number",
        ),
        (
            lambda lines: [
                line.replace("Text Dominant", "V7").replace("Text Lite", "V8") for line in lines
            ],
            "holds no answer",
        ),
    ],
)
def test_broken_generations_are_one_line(
    rows: Rows, tmp_path: Path, spoil: Callable[[list[str]], list[str]], words: str
) -> None:
    path = write_lines(tmp_path / "g", "text", generations(rows[:6], "text", varied))
    path.write_text("\n".join(spoil(path.read_text().splitlines())) + "\n")
    with pytest.raises(UserError, match=words) as caught:
        import_generations(generation_files([path]), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_torn_last_line_is_left_out_and_named(rows: Rows, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "g", "text", generations(rows[:6], "text", varied))
    path.write_text(path.read_text()[:-20])
    [run] = import_generations(generation_files([path]), tmp_path / "run")
    assert len(list(RunFolder(tmp_path / "run").responses())) == 3
    assert any("torn" in warning for warning in run.strict.warnings)


def test_imports_of_two_kinds_and_answer_folders_without_gold(
    rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_lines(tmp_path / "g", "text", generations(rows[:6], "text", varied))
    other = tmp_path / "new_9k_m_4096_tmp_0.6"
    other.mkdir()
    (other / "qprob_1_attempt0.txt").write_text("\\boxed{1}")
    assert main(["import", str(path), str(other), "--out", str(tmp_path / "r")]) == 1
    assert "import them one by one" in capsys.readouterr().err
    assert main(["import", str(other), "--out", str(tmp_path / "r")]) == 1
    assert "--gt is missing" in capsys.readouterr().err


# ---- the original's scripts ----------------------------------------------------------------------


@pytest.fixture
def original() -> Path:
    """The original's MathVerse scripts, below the checkout that `MODGAP_ORIGINAL` names."""
    if not (name := os.environ.get("MODGAP_ORIGINAL")):
        pytest.skip("MODGAP_ORIGINAL names no checkout of the original repository")
    return Path(name) / "eval" / "mathverse"


def test_prompts_are_the_originals(original: Path, data: Path) -> None:
    """`paper` for one of the two public originals, `paper-author` for the other."""
    tree = ast.parse((original / "inference.py").read_text())
    parts = [
        node
        for node in tree.body
        if (isinstance(node, ast.FunctionDef) and node.name == "build_prompt")
        or (isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant))
    ]
    space: dict[str, Any] = {}
    exec(compile(ast.Module(parts, []), "inference.py", "exec"), space)
    style = "paper-author" if "should" in space["build_prompt"]("") else "paper"
    for problem in read_problems("mathverse", data):
        for view in FIVE:
            ours = evaluation_prompt(problem, view, style)
            chat = (
                f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{ours.text}<|im_end|>\n"
                f"<|im_start|>assistant\n{ours.prefill}"
            )
            assert chat == space["build_prompt"](problem.question_of(view))


@pytest.mark.parametrize("of", ["full", "text", "vision"])
def test_figures_equal_what_the_original_prints(
    original: Path, rows: Rows, tmp_path: Path, of: str
) -> None:
    lines = generations(
        rows, of, varied
    )  # `full` has Text Only, too, which counts in the overall figure there
    write_lines(tmp_path / "g", of, lines)
    [plain] = import_generations(generation_files([tmp_path / "g"]), tmp_path / "plain")
    right = {
        row.key for row in RunFolder(tmp_path / "plain").grades("paper") if row.outcome == "correct"
    }

    def flag(line: dict[str, Any]) -> int:
        key = (line["problem_index"], VERSIONS[line["problem_version"]], line["sample_id"])
        return int(key in right or "x+y" in line["prediction"])

    scored = write_lines(tmp_path / "scored", of, score(lines, flag), scored=True)
    [run] = import_generations(generation_files([scored]), tmp_path / "run")
    printed = subprocess.run(
        [sys.executable, str(original / "eval-results.py"), "--full", str(scored)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert (
        printed.partition("\n")[2]
        == "\n".join(mathverse_lines(run.paper.mathverse.original)) + "\n"
    )
    assert ("text-only" in run.paper.views) == (of == "full")
    assert plain.paper.mathverse.original.overall.total < len(
        lines
    )  # empty predictions do not count there
