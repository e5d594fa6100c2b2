"""MathVerse as a data set: what is read, what is refused, and what a check counts.

One test reads the real records that `MODGAP_MATHVERSE` names.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mathverse_data as made
import pytest
from asking import evaluate
from folders import png
from mathverse_rows import FIVE, Rows, text_only, with_images
from PIL import Image

from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.files import Root
from modgap.core.problem import split_grader
from modgap.core.view import VERSIONS
from modgap.datasets import mathverse
from modgap.datasets.mathverse_rows import files_of, place_of
from modgap.engines.scripted import ScriptedEngine
from modgap.workflows.fingerprints import fingerprint
from modgap.workflows.problems import read_problems


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
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *a, **k: (opened.append(path), real(path, *a, **k))[1]
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
        UserError, match=r"^problem 1: the diagram .*1\.png cannot be read .*`modgap data check .*$"
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
        "cannot be read as an image",
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
    assert "8 problems without one side of the gap (1, 2, 3 ...)" in str(
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
        (lambda at: write(at / "x.parquet", b"PAR1 torn"), "cannot be read as parquet"),
        (
            lambda at: write(at / "x.json", b'[{"problem_index": "1",'),
            "cannot be read as JSON",
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
    assert place_of("AI4Math/MathVerse") == data
    assert len(files_of(data, Root(data))) == 2
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
    [file] = files_of(Path(name), Root(name))
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


@pytest.mark.parametrize("key", ["question", "question_for_eval", "answer", "problem_index"])
def test_a_check_names_half_of_a_surrogate_pair(rows: Rows, tmp_path: Path, key: str) -> None:
    """`eval` refuses it, so `data check` must not find it sound."""
    file = made.write_json(tmp_path / "x.json", changed(with_images(rows), 1, **{key: "a\ud800"}))
    assert "encoding" in {fault.kind for fault in mathverse.check(file).faults}
