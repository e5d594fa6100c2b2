"""MathVerse as a benchmark: what is read, asked, summed up and imported.

The last part holds prompts and figures against the original's scripts, where `MODGAP_ORIGINAL`
names a checkout of it; one test reads the real records that `MODGAP_MATHVERSE` names.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mathverse_data as made
import pytest
from asking import evaluate, evaluate_model
from folders import png
from PIL import Image

from modgap.analysis.original_mathverse import mathverse_lines
from modgap.cli.main import main
from modgap.core.engine import Request
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.problem import Problem, split_grader
from modgap.core.prompt import INSTRUCTION, SYSTEM, evaluation_prompt
from modgap.core.record import RunFolder
from modgap.core.view import VERSION_VIEWS, VERSIONS, parse_versions
from modgap.datasets import mathverse
from modgap.datasets.mathverse_rows import files_of
from modgap.engines.scripted import ScriptedEngine
from modgap.original.import_mathverse import JUDGE, import_generations
from modgap.original.mathverse import generation_files
from modgap.reporting.collect import collect
from modgap.reporting.mathverse import mathverse_tables
from modgap.reporting.page import build_report, numbers_of
from modgap.reporting.viewer import read_picture, viewer_data
from modgap.workflows.evaluate import fingerprint, read_problems
from modgap.workflows.grade import grade_run

FIVE = tuple(VERSION_VIEWS)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return made.rows(8)


@pytest.fixture
def data(tmp_path: Path, rows: Rows) -> Path:
    made.write_parquet(tmp_path / "data" / "testmini-00000-of-00001.parquet", with_images(rows))
    made.write_parquet(
        tmp_path / "data" / "testmini_text_only-00000-of-00001.parquet", text_only(rows)
    )
    return tmp_path / "data"


def with_images(rows: Rows) -> Rows:
    return [row for row in rows if row["problem_version"] != "Text Only"]


def text_only(rows: Rows) -> Rows:
    return [row for row in rows if row["problem_version"] == "Text Only"]


def changed(rows: Rows, number: int, **changes: Any) -> Rows:
    """The rows with one of them changed; a value of `...` takes the key away."""
    row = {key: value for key, value in (rows[number] | changes).items() if value is not ...}
    return [*rows[:number], row, *rows[number + 1 :]]


# ---- reading -------------------------------------------------------------------------------------


def test_a_problem_has_the_words_and_the_image_of_each_version(data: Path, rows: Rows) -> None:
    problems = read_problems("mathverse", data)
    assert [problem.id for problem in problems] == [str(number) for number in range(1, 9)]
    by_key = {(row["problem_index"], VERSIONS[row["problem_version"]]): row for row in rows}
    for problem in problems:
        assert list(problem.own_words) == [*FIVE, "text-only"] and list(problem.own_images) == list(
            FIVE
        )
        assert problem.views == (*FIVE, "text-only") and problem.image_of("text-only") is None
        for view, words in problem.own_words.items():
            row = by_key[problem.id, view]
            assert words == row["question"]
            assert problem.question_of(view) == row.get("question_for_eval", row["question"])
            assert problem.gold_of(view) == row["answer"]
            assert problem.grader == f"mathverse:{row['question_type']}"
            assert problem.labels == {"subject": row["metadata"]["subject"]}
            if view != "text-only":
                assert problem.image_bytes(view) == row["image"]["bytes"]
        assert problem.words_of("vision-only") == "" and not problem.leaky
        # Versions that show the same image share its bytes.
        assert problem.image_of("text-dominant") is problem.image_of("vision-dominant")


def test_every_layout_gives_the_same_problems(data: Path, rows: Rows, tmp_path: Path) -> None:
    wanted = fingerprint(read_problems("mathverse", data))
    whole = made.write_json(tmp_path / "json" / "testmini.json", rows)
    assert fingerprint(mathverse.read(whole)) == fingerprint(mathverse.read(whole.parent)) == wanted
    lines = tmp_path / "lines" / "mathverse.jsonl"
    made.write_json(lines, rows)
    lines.write_text("".join(json.dumps(row) + "\n" for row in json.loads(lines.read_text())))
    assert fingerprint(mathverse.read(lines)) == wanted
    bare = [row | {"image": row["image"] and row["image"]["bytes"]} for row in with_images(rows)]
    split = tmp_path / "split"
    for part, start in enumerate(range(0, len(bare), 13)):
        made.write_parquet(split / "testmini" / f"{part}.parquet", bare[start : start + 13])
    made.write_parquet(split / "text_only.parquet", text_only(rows))
    (split / "train.parquet").write_bytes((split / "text_only.parquet").read_bytes()[:50])
    (split / "train.parquet").unlink()
    made.write_parquet(split / "other.parquet", [{"question": "of another data set"}])
    assert fingerprint(mathverse.read(split)) == wanted


def test_a_limit_counts_problems_and_opens_only_their_images(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    take = mathverse.take_images
    monkeypatch.setattr(
        mathverse,
        "take_images",
        lambda rows: (taken.extend(row.problem for row in rows), take(rows)),
    )
    opened = Counter[str]()
    monkeypatch.setattr(Image, "open", lambda *a, **k: opened.update(["image"]))
    problems = read_problems("mathverse", data, limit=2)
    assert (
        [problem.id for problem in problems] == ["1", "2"]
        and set(taken) == {"1", "2"}
        and len(taken) == 12
    )
    assert not opened


def test_the_fingerprint_sees_each_version(rows: Rows, tmp_path: Path) -> None:
    def of(name: str, changed_rows: Rows) -> str:
        return fingerprint(
            mathverse.read(
                made.write_parquet(tmp_path / f"{name}.parquet", with_images(changed_rows))
            )
        )

    first = of("first", rows)
    other = {"bytes": png("red"), "path": "x.png"}
    for number, change in enumerate(
        [
            {"image": other},
            {"question": "Another."},
            {"question_for_eval": "Another."},
            {"answer": "7"},
        ]
    ):
        assert of(str(number), changed(rows, 3, **change)) != first
    assert of("again", rows) == first


def test_images_in_files_are_read_once_and_an_absent_one_is_named(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = [
        row | {"image": row["image"] | {"path": f"{row['problem_index']}.png"}}
        for row in with_images(rows)[:4]
    ]
    problems = list(mathverse.read(made.write_json(tmp_path / "testmini.json", shared)))
    file = tmp_path / "images" / "1.png"
    assert list(problems[0].own_images.values()) == [file] * 4
    opened: list[Path] = []
    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *a, **k: (opened.append(path), real(path, *a, **k))[1]
    )
    before = fingerprint(problems)
    assert opened == [file]
    shown = {
        view: replace(of_view, image=file.read_bytes())
        for view, of_view in problems[0].shown.items()
    }
    assert before == fingerprint([replace(problems[0], shown=shown)])
    file.unlink()
    with pytest.raises(
        UserError, match=r"^problem 1: the diagram .*1\.png cannot be read .*`modgap data check`.*$"
    ):
        fingerprint(problems)


def test_golds_and_questions_may_differ_by_version(rows: Rows, tmp_path: Path) -> None:
    odd = changed(
        with_images(rows), 4, answer="C", question_for_eval="Pick.\nChoices:\nA:1\nB:2\nC:3"
    )
    problem = next(mathverse.read(made.write_parquet(tmp_path / "x.parquet", odd)))
    assert problem.own_answers == {"vision-only": "C"} and problem.answer != "C"
    summary = evaluate(
        [problem], ScriptedEngine(lambda *_: "\\boxed{C}"), tmp_path / "run", views=FIVE, samples=1
    )
    gold = rows[0]["answer"]
    right = {view: row.correct for view, row in summary.views.items()}
    assert right == {view: int(gold == "C" or view == "vision-only") for view in FIVE}


@pytest.mark.parametrize(
    "words",
    ["multi_choice", "multi choice", "Multiple-Choice", "multiple_choice", "MULTI-CHOICE", " mcq "],
)
@pytest.mark.parametrize("free", ["free_form", "free form", "Free-Form", "freeform", "open-ended"])
def test_a_question_type_is_read_however_it_is_spelled(
    rows: Rows, tmp_path: Path, words: str, free: str
) -> None:
    spelled = [
        row | {"question_type": words if row["question_type"] == "multi-choice" else free}
        for row in rows
    ]
    file = made.write_json(tmp_path / "testmini.json", [row | {"image": None} for row in spelled])
    types = {problem.id: split_grader(problem.grader)[1] for problem in mathverse.read(file)}
    assert types == {row["problem_index"]: row["question_type"] for row in rows}
    assert set(types.values()) == {"multi-choice", "free-form"}


@pytest.mark.parametrize("word", ["choice", "", "multi-choise", "numeric", None])
def test_an_unknown_question_type_ends_an_evaluation_before_it_begins(
    rows: Rows, tmp_path: Path, word: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = made.write_parquet(
        tmp_path / "x.parquet", changed(with_images(rows), 1, question_type=word)
    )
    command = [
        "eval",
        "--benchmark",
        "mathverse",
        "--data",
        str(file),
        "--model",
        "tiny",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(command) != 0
    assert (
        f"the question type {word or ''!r} is not known: make it multi-choice or free-form"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


FAULTS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"answer": ""}, "gold-missing", "error", "text-lite has no answer"),
    ({"answer": "all of them"}, "gold-unreadable", "error", "names no choice"),
    ({"answer": "D "}, "", "", ""),
    (
        {"problem_version": "Text Light"},
        "version",
        "error",
        "'Text Light' is not known; known are Text Dominant",
    ),
    (
        {"problem_version": "Text Dominant"},
        "duplicate-version",
        "error",
        "stands in x.parquet row 1 already",
    ),
    ({"problem_index": None}, "missing-key", "error", "problem_index is missing"),
    (
        {"question": "", "question_for_eval": ""},
        "empty",
        "error",
        "neither question nor question_for_eval",
    ),
    ({"question": ""}, "empty", "warning", "Text Lite has no question of its own"),
    (
        {"question_type": "choice"},
        "question-type",
        "error",
        "'choice' is not known: make it multi-choice or free-form",
    ),
    ({"question_type": ""}, "question-type", "error", "'' is not known"),
    ({"image": None}, "image-absent", "error", "text-lite has no image"),
    (
        {"image": {"bytes": b"no image", "path": "x.png"}},
        "image-broken",
        "error",
        "is no image that can be read",
    ),
    (
        {"image": {"bytes": None, "path": "gone.png"}},
        "image-absent",
        "error",
        "gone.png of text-lite is absent",
    ),
]


@pytest.mark.parametrize(("change", "kind", "severity", "words"), FAULTS)
def test_what_is_wrong_with_a_row_is_named(
    rows: Rows, tmp_path: Path, change: dict[str, Any], kind: str, severity: str, words: str
) -> None:
    whole = with_images(rows)
    everywhere = {"D ": {"answer": "D"}, "choice": change}.get(
        change.get("answer", change.get("question_type")), {}
    )
    whole = [row | everywhere if row["problem_index"] == "1" else row for row in whole]
    file = made.write_parquet(tmp_path / "x.parquet", changed(whole, 1, **change))
    report = mathverse.check(file)
    found = [fault for fault in report.faults if fault.kind == kind]
    if not kind:
        assert report.faults == []
        return
    assert (
        found
        and found[0].severity == severity
        and words in found[0].message
        and found[-1].line in (1, 2, 5)
    )
    assert report.ok == (severity == "warning")
    assert main(["data", "check", str(file), "--benchmark", "mathverse"]) == (
        0 if severity == "warning" else 1
    )


def test_a_check_counts_versions_and_says_what_has_no_pair(
    data: Path, rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(data), "--benchmark", "mathverse"]) == 0
    out = capsys.readouterr().out
    assert "testmini: 8 sound problems, 16 diagrams" in out and "0 errors, 0 warnings" in out
    assert f"versions: {', '.join(f'{view} 8' for view in (*FIVE, 'text-only'))}" in out
    alone = made.write_parquet(tmp_path / "alone.parquet", text_only(rows))
    assert "8 problems lack one side of the gap (1, 2, 3 ...)" in str(
        mathverse.check(alone).faults[0]
    )
    differ = changed(rows, 1, answer="B" if rows[0]["answer"] != "B" else "C")
    [fault] = mathverse.check(
        made.write_parquet(tmp_path / "differ.parquet", with_images(differ))
    ).faults
    assert (
        fault.kind == "golds-differ"
        and fault.severity == "warning"
        and "each is graded by its own" in fault.message
    )


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda at: at / "absent", "does not exist: give a parquet or JSON file"),
        (lambda at: at, "holds no MathVerse"),
        (lambda at: write(at / "x.csv", b"a,b"), "neither parquet nor JSON"),
        (lambda at: write(at / "x.parquet", b"PAR1 torn"), "no parquet that can be read"),
        (
            lambda at: write(at / "x.json", b'[{"problem_index": "1",'),
            "is no JSON that can be read",
        ),
        (
            lambda at: write(at / "x.json", b'{"problem_index": "1"}'),
            "is an object, not a list of rows",
        ),
        (
            lambda at: write(at / "x.json", b'[{"problem_index": "1"}]'),
            "problem_version is missing",
        ),
        (
            lambda at: made.write_parquet(at / "y.parquet", [{"question": "of another"}]),
            "has no column problem_index",
        ),
        (
            lambda at: Path("AI4Math/MathVerse-absent"),
            "could not be fetched from the Hugging Face hub",
        ),
    ],
)
def test_data_that_cannot_be_read_is_one_line(
    tmp_path: Path, prepare: Callable[[Path], Path], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read_problems("mathverse", prepare(tmp_path))
    assert "\n" not in str(caught.value)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_the_hub_is_asked_for_parquet_only(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def snapshot(name: str, **how: Any) -> str:
        asked.update(how, name=name)
        return str(data)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    assert len(files_of("AI4Math/MathVerse")) == 2
    assert asked == {
        "name": "AI4Math/MathVerse",
        "repo_type": "dataset",
        "allow_patterns": ["*.parquet"],
    }


def test_there_is_nothing_to_train_on(data: Path) -> None:
    with pytest.raises(UserError, match="no train split"):
        read_problems("mathverse", data, "train")


def test_real_records() -> None:
    if not (name := os.environ.get("MODGAP_MATHVERSE")):
        pytest.skip("MODGAP_MATHVERSE names no folder with real MathVerse records")
    [file] = files_of(name)
    records = json.loads(file.read_text())
    problems = list(mathverse.read(name))
    assert len(problems) == len(records) == 50 and mathverse.check(name).errors == []
    for problem, record in zip(problems, records, strict=True):
        assert (problem.id, problem.answer, problem.own_words) == (
            record["problem_index"], record["answer"], {"text-only": record["question"]},
        )  # fmt: skip
        assert (
            problem.question == record["question"]
            and problem.grader == f"mathverse:{record['question_type']}"
        )
        assert (
            problem.labels == {"subject": record["metadata"]["subject"]} and not problem.own_images
        )


# ---- asking --------------------------------------------------------------------------------------


def test_paper_style_asks_the_whole_question_and_aligned_the_versions_own(data: Path) -> None:
    for problem in read_problems("mathverse", data, limit=3):
        for view in (*FIVE, "text-only"):
            paper, aligned = (
                evaluation_prompt(problem, view, style) for style in ("paper", "aligned")
            )
            whole = problem.question_of(view)
            assert (
                paper.text == f"{whole}\nYou FIRST think step-by-step inside <think></think>, "
                "then wrap the final answer in \\boxed{}."
            )
            assert (paper.system, paper.prefill) == (None, "<think>")
            own = problem.words_of(view)
            assert aligned.text == (f"{own}\n{INSTRUCTION}" if own else INSTRUCTION)
            assert (aligned.system, aligned.prefill) == (SYSTEM, "")
            assert paper.has_image == aligned.has_image == (view != "text-only")


def answers(rows: Rows, how: Callable[[dict[str, Any], int], str]) -> ScriptedEngine:
    by_key = {(row["problem_index"], VERSIONS[row["problem_version"]]): row for row in rows}
    return ScriptedEngine(
        lambda request, sample: how(by_key[request.problem_id, request.view], sample)
    )


def test_each_version_is_asked_with_its_own_image(data: Path, rows: Rows, tmp_path: Path) -> None:
    seen: dict[tuple[str, str], bytes | None] = {}

    def look(request: Request, sample: int) -> str:
        seen[request.problem_id, request.view] = (
            request.image().tobytes() if request.image else None
        )
        return ""

    evaluate(
        read_problems("mathverse", data, limit=2),
        ScriptedEngine(look),
        tmp_path / "run",
        views=[*FIVE, "text-only"],
    )
    for row in rows[:12]:
        shown = seen[row["problem_index"], VERSIONS[row["problem_version"]]]
        if row["image"]:
            with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
                assert shown == image.convert("RGB").tobytes()
        else:
            assert shown is None
    assert len(seen) == 12


@pytest.mark.parametrize(
    ("names", "views"),
    [
        ("text", ("text-dominant", "text-lite")),
        ("vision", ("vision-intensive", "vision-dominant", "vision-only")),
        ("vision,text", (*FIVE[2:], *FIVE[:2])),
        ("Text Lite, vision-only", ("text-lite", "vision-only")),
        ("text_only", ("text-only",)),
    ],
)
def test_versions_by_name(names: str, views: tuple[str, ...]) -> None:
    assert parse_versions(names) == views


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--problem-versions", "visual"],
            "unknown problem version 'visual': choose from text, text-dominant",
        ),
        (["--problem-versions", ","], "no problem version given"),
        (["--problem-versions", "text", "--views", "text-only"], "give one of them"),
        (
            ["--views", "full-text"],
            "no problem has the version 'full-text': the data has text-dominant",
        ),
        (["--views", "text-only"], "no problem has the version 'text-only'"),
        (
            ["--problem-versions", "text", "--benchmark", "pgps9k"],
            "only --benchmark mathverse has versions",
        ),
    ],
)
def test_bad_versions_are_one_line(
    rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    file = made.write_parquet(tmp_path / "x.parquet", with_images(rows))
    benchmark = [] if "--benchmark" in arguments else ["--benchmark", "mathverse"]
    done = main(
        [
            "eval",
            "--data",
            str(file),
            "--model",
            "tiny",
            "--out",
            str(tmp_path / "r"),
            *benchmark,
            *arguments,
        ]
    )
    assert done == 1 and words in capsys.readouterr().err and not (tmp_path / "r").exists()


def test_a_version_of_mathverses_is_no_view_of_other_problems(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'vision-only' is a version of MathVerse's"):
        evaluate(
            [Problem("p", "Find x.", "1", png())],
            answers([], lambda *_: ""),
            tmp_path / "r",
            views="vision-only",
        )


def test_the_defaults_are_the_originals(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "modgap.engines.hf.load_engine", lambda *_: ScriptedEngine(lambda *_: "\\boxed{A}")
    )
    problems = read_problems("mathverse", data, limit=2)
    evaluate_model(problems, "tiny", tmp_path / "run", EvalOptions(style="paper"))
    resolved = RunFolder(tmp_path / "run").manifest()["resolved"]
    assert resolved["views"] == list(FIVE)
    assert {
        key: resolved[key] for key in ("samples", "temperature", "max_tokens", "seed", "style")
    } == {
        "samples": 4, "temperature": 0.8, "max_tokens": 4096, "seed": 42, "style": "paper",
    }  # fmt: skip


# ---- the numbers ---------------------------------------------------------------------------------


def right_in(*views: str) -> Callable[[dict[str, Any], int], str]:
    """Right in some views; elsewhere right for the first sample of every third problem."""

    def how(row: dict[str, Any], sample: int) -> str:
        lucky = sample == 0 and int(row["problem_index"]) % 3 == 0
        right = VERSIONS[row["problem_version"]] in views or lucky
        return f"\\boxed{{{row['answer']}}}" if right else "\\boxed{E}"

    return how


def test_the_summary_is_the_arithmetic_of_the_answers(
    data: Path, rows: Rows, tmp_path: Path
) -> None:
    how = right_in("text-dominant", "text-lite", "vision-intensive")
    problems = read_problems("mathverse", data)
    summary = evaluate(
        problems, answers(rows, how), tmp_path / "run", views=[*FIVE, "text-only"], samples=2
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary.model_dump(
        mode="json"
    )
    parts = summary.mathverse
    # Problems 3 and 6 of 8 are lucky once in two samples in the views that are not all right.
    lucky = 2 * 0.5 / 8
    expected = {
        "text-dominant": 1,
        "text-lite": 1,
        "vision-intensive": 1,
        "vision-dominant": lucky,
        "vision-only": lucky,
    }
    assert {view: parts.versions[view].accuracy for view in FIVE} == pytest.approx(expected)
    assert parts.text.accuracy == 1 and parts.text.n_samples == 32 and parts.text.n_problems == 8
    assert parts.vision.accuracy == pytest.approx((1 + 2 * lucky) / 3)
    assert (
        parts.overall.accuracy == pytest.approx((3 + 2 * lucky) / 5)
        and parts.overall.n_samples == 80
    )
    assert summary.gap.points == pytest.approx(100 * (1 - parts.vision.accuracy))
    assert summary.gap.n_problems == 8 and summary.gap.vision_views == list(FIVE[2:])
    kinds = parts.question_types
    assert kinds["multi-choice"].text.n_problems == kinds["free-form"].text.n_problems == 4
    for by_name in (parts.question_types, parts.subjects):
        assert sum(part.overall.correct for part in by_name.values()) == parts.overall.correct
        assert sum(part.gap.n_problems for part in by_name.values()) == 8
    # Five versions of a problem are one cluster: all right or all wrong together says no more than
    # one version does.
    together = evaluate(
        problems,
        answers(
            rows, lambda row, _: right_in(*(FIVE if int(row["problem_index"]) % 2 else ()))(row, 1),
        ),
        tmp_path / "together", views=FIVE, samples=1,
    ).mathverse  # fmt: skip
    alone, all_five = together.versions["text-lite"], together.overall
    assert alone.accuracy == all_five.accuracy == 0.5
    assert all_five.ci_low == pytest.approx(alone.ci_low, abs=1e-9)


def test_a_version_that_some_problems_lack_is_left_out_and_said(rows: Rows, tmp_path: Path) -> None:
    some = [
        r
        for r in with_images(rows)
        if r["problem_version"] != "Text Lite" or int(r["problem_index"]) > 3
    ]
    problems = read_problems("mathverse", made.write_parquet(tmp_path / "x.parquet", some))
    summary = evaluate(problems, answers(some, right_in()), tmp_path / "run", views=FIVE, samples=1)
    assert (
        summary.views["text-lite"].n_problems == 5
        and summary.views["text-lite"].missing_samples == 0
    )
    assert summary.gap.n_problems == 5
    said = " ".join(summary.warnings)
    assert "text-lite is over 5 of 8 problems: the data has no such version of the others." in said
    assert "not finished" not in said and "gap is over the 5 of 8 problems" in said


def test_what_only_a_judge_can_tell_is_an_error_that_says_so(
    rows: Rows, data: Path, tmp_path: Path
) -> None:
    engine = answers(rows, lambda row, _: "\\boxed{the domain is all that}")
    summary = evaluate(
        read_problems("mathverse", data), engine, tmp_path / "run", views=FIVE, samples=1
    )
    grades = RunFolder(tmp_path / "run").grades()
    waiting = [row for row in grades if row.stage == "judge"]
    assert (
        waiting
        and {row.outcome for row in waiting} == {"error"}
        and all("judge" in row.reason for row in waiting)
    )
    assert any(
        f"{len(waiting)} samples wait for a judge" in w and "--judge" in w for w in summary.warnings
    )
    assert sum(row.error for row in summary.views.values()) == len(waiting)


def test_a_text_only_run_has_no_empty_table(rows: Rows, data: Path, tmp_path: Path) -> None:
    summary = evaluate(
        read_problems("mathverse", data, limit=2), answers(rows, right_in("text-only")),
        tmp_path / "run", views="text-only", samples=1,
    )  # fmt: skip
    for narrow in (False, True):
        found = mathverse_tables({"run": summary}, narrow=narrow)
        assert found and all(table.rows for table in found)


def test_the_viewer_shows_each_picture_with_the_views_that_saw_it(
    rows: Rows, data: Path, tmp_path: Path
) -> None:
    problems = read_problems("mathverse", data, limit=2)
    evaluate(
        problems, answers(rows, right_in("text-lite")), tmp_path / "run", views=FIVE, samples=1
    )
    found = collect([tmp_path / "run"])
    [block] = viewer_data(found.evals, numbers_of(found)[1], 10)[1]
    for problem, detail in zip(problems, json.loads(block), strict=True):
        captions = [caption for _, caption in detail["m"]]
        assert captions == [
            "text-dominant, text-lite, vision-intensive, vision-dominant",
            "vision-only",
        ]
        sizes = [
            Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size
            for uri, _ in detail["m"]
        ]
        images = [
            Image.open(io.BytesIO(problem.image_bytes(view)))
            for view in ("text-lite", "vision-only")
        ]
        assert [width / height for width, height in sizes] == pytest.approx(
            [image.width / image.height for image in images], rel=0.02
        )
    # Of a file there is one picture only: the caption says whose.
    place = tmp_path / "diagram.png"
    images[1].save(place)
    run = RunFolder(tmp_path / "run")
    run.write_problems(
        row.model_copy(update={"image": str(place)}) for row in run.problems().values()
    )
    found = collect([run.path])
    [block] = viewer_data(found.evals, numbers_of(found)[1], 10)[1]
    assert [caption for _, caption in json.loads(block)[0]["m"]] == ["vision-only"]


def test_the_report_has_the_tables(rows: Rows, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "qwen2_5_vl_7b"
    evaluate(
        read_problems("mathverse", data), answers(rows, right_in("text-lite")), run, views=FIVE,
        samples=1, identity={"model": "Qwen/Qwen2.5-VL-7B-Instruct"},
    )  # fmt: skip
    numbers = build_report([run], tmp_path / "r.html", template="paper", figures=True)
    page = (tmp_path / "r.html").read_text()
    assert "MathVerse by side, question type and subject" in page and "Solid Geometry" in page
    [table] = numbers.paper  # nothing of PGPS9K, no table of it
    assert table.caption.startswith("MathVerse") and table.rows[0][:4] == (
        "7B",
        "no training",
        "25.0",
        "100.0",
    )
    assert (tmp_path / "r_figures" / "table-mathverse-1.csv").exists()
    # The page shows what Vision Only shows, read again out of the parquet file.
    places = [row.image or "" for row in RunFolder(run).problems().values()]
    shown = [row["image"]["bytes"] for row in rows if row["problem_version"] == "Vision Only"]
    assert [read_picture(place) for place in places] == shown
    with pytest.raises(OSError, match="holds no image"):
        read_picture(places[0].partition("#")[0] + "#999")
    assert numbers.runs["qwen2_5_vl_7b"].mathverse.text.accuracy == 0.625


def test_end_to_end_with_a_real_model(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = str(tmp_path / "run"), str(data / "testmini-00000-of-00001.parquet")
    command = [
        "eval",
        "--benchmark",
        "mathverse",
        "--data",
        file,
        "--model",
        "tiny",
        "--limit",
        "1",
        "--samples",
        "1",
    ]
    assert main([*command, "--max-tokens", "4", "--out", run]) == 0
    out = capsys.readouterr().out
    assert "vision-only" in out and "MathVerse by version" in out
    assert len(list(RunFolder(run).responses())) == 5
    assert main(["grade", run, "--mode", "paper"]) == 0
    assert "Overall ACC: 0/5 = 0.00%" in capsys.readouterr().out


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
    assert len(odd["of 48 are missing"]) == 4
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
        (lambda lines: [*lines[:1], "{torn", *lines[1:]], "line 2: is no JSON"),
        (
            lambda lines: [json.dumps({"prediction": "x"}), *lines],
            "line 1: problem_index is missing",
        ),
        (
            lambda lines: [lines[0].replace('"sample_id": 0', '"sample_id": "a"'), *lines[1:]],
            "sample_id 'a' is no number",
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


def test_prompts_are_the_originals_but_for_two_named_slips(original: Path, data: Path) -> None:
    """Ours follow the specification: no "should", and `\\boxed{}` without a space in it."""
    tree = ast.parse((original / "inference.py").read_text())
    parts = [
        node
        for node in tree.body
        if (isinstance(node, ast.FunctionDef) and node.name == "build_prompt")
        or (isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant))
    ]
    space: dict[str, Any] = {}
    exec(compile(ast.Module(parts, []), "inference.py", "exec"), space)
    for problem in read_problems("mathverse", data):
        for view in FIVE:
            ours = evaluation_prompt(problem, view, "paper")
            chat = (
                f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{ours.text}<|im_end|>\n"
                f"<|im_start|>assistant\n{ours.prefill}"
            )
            theirs = space["build_prompt"](problem.question_of(view))
            assert chat == theirs.replace("You should FIRST", "You FIRST").replace(
                "\\boxed{ }", "\\boxed{}"
            )


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
