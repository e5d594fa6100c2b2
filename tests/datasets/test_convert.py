"""`data init` and `data convert`: what they write is what the reader of `pairs` takes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from folders import png
from geometry3k_data import write_parquet, write_splits
from mathverse_data import rows, write_json

from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.prompt import training_question
from modgap.datasets import pairs
from modgap.datasets.convert import convert
from modgap.datasets.pairs_example import write_example
from modgap.datasets.recognise import benchmark_of, needs_no_conversion
from modgap.datasets.synthetic import write_dataset


def test_the_example_has_every_key_and_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "init", "--out", str(tmp_path / "mine")]) == 0
    assert main(["data", "check", str(tmp_path / "mine"), "--benchmark", "pairs"]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    lines = [json.loads(text) for text in (tmp_path / "mine" / pairs.FILE).read_text().splitlines()]
    used = {key for line in lines for key in line}
    assert used == {*pairs.KEYS} - {"question"}
    problems = list(pairs.read(tmp_path / "mine"))
    assert {problem.grader for problem in problems} == {"", "choices:multi-choice", "answers:1%"}
    for problem in problems:
        full, free = (training_question(problem, view) for view in ("full-text", "image-only"))
        assert full != free and not problem.leaky
        assert problem.open_image("image-only").size[1] == 200
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((tmp_path / "mine" / pairs.SCHEMA.name).read_text())
    assert all(jsonschema.Draft202012Validator(schema).is_valid(line) for line in lines)
    with pytest.raises(UserError, match="exists: give another --out"):
        write_example(tmp_path / "mine")


def row(**changes: Any) -> dict[str, Any]:
    whole = {
        "qid": "q1", "problem": "<image>Find x.", "given": ["AB = 7", "BC = x"], "label": "25",
        "images": [{"bytes": png(), "path": None}], "meta": {"topic": "Chord"},
    }  # fmt: skip
    return whole | changes


MAP = {
    "id": "qid", "text": "problem", "conditions": "given", "answer": "label", "type": "meta.topic",
}  # fmt: skip


def one(file: Path) -> Problem:
    (problem,) = pairs.read(file)
    return problem


def check_first(problem: Problem) -> None:
    assert (problem.id, problem.answer, problem.type) == ("q1", "25", "Chord")
    assert problem.question == "Find x." and problem.semantic == ("AB = 7", "BC = x")
    assert problem.image_bytes() == png()


def test_parquet_with_a_column_map(tmp_path: Path) -> None:
    done = convert(write_parquet(tmp_path / "t.parquet", [row()]), tmp_path / "out", MAP)
    assert (done.rows, done.report.faults) == (1, [])
    assert done.columns == MAP | {"image": "images"}
    check_first(one(done.file))


def test_json_lines_with_images_beside_them(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png("red"))
    value = row(images=["a.png", "b.png"], label="so \\boxed{25}")
    (tmp_path / "t.jsonl").write_text(json.dumps(value) + "\n")
    problem = one(convert(tmp_path / "t.jsonl", tmp_path / "out", MAP).file)
    assert problem.answer == "25" and problem.open_image().size == (40 + 24 + 40, 30)


def test_a_row_of_json_lines_may_hold_other_separators_of_lines(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    value = row(images="a.png", problem="Find x.\u2028Round to 2 \x85digits.")
    (tmp_path / "t.jsonl").write_text(json.dumps(value, ensure_ascii=False) + "\n", "utf-8")
    assert "Round to 2" in one(convert(tmp_path / "t.jsonl", tmp_path / "out", MAP).file).question


def test_csv_and_columns_of_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "full_text", "image-only", "answer"])
        writer.writerow(["1", "a.png", "AB = 7. Find x.", "Find x.", "25"])
    problem = one(convert(tmp_path / "t.csv", tmp_path / "out", {}).file)
    assert training_question(problem, "full-text") == "AB = 7. Find x."


def test_csv_with_empty_cells_and_lists_as_python_writes_them(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "conditions", "answer", "choices", "image", "tolerance"])
        writer.writerow(["Find x.", "['AB = 3', 'BC = 4']", "5", "['3', '5']", "", ""])
        writer.writerow(["Find x.", "[AB] = 3", "5", "", "", "0.1"])
    first, second = pairs.read(convert(tmp_path / "t.csv", tmp_path / "out", {}).file)
    assert first.semantic == ("AB = 3", "BC = 4") and first.answer == "B"
    assert first.image is None and second.semantic == ("[AB] = 3",) and second.answer == "5"


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "a.png").write_bytes(png())
    rows = [row(images=str(tmp_path / "a.png"))]
    table = datasets.Dataset.from_list(rows).cast_column("images", datasets.Image())
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match=r"several splits \(test, train\): choose one with --split"):
        convert(tmp_path / "saved", tmp_path / "out", MAP)
    done = convert(tmp_path / "saved", tmp_path / "out", MAP, split="test", allow_outside=True)
    check_first(one(done.file))


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    write_parquet(tmp_path / "hub" / "data" / "train-00000-of-00002.parquet", [row()])
    write_parquet(tmp_path / "hub" / "data" / "train-00001-of-00002.parquet", [row(qid="q2")])
    write_parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet", [row(qid="q3")])
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path / "hub")
    )
    monkeypatch.chdir(tmp_path)
    done = convert("mine/geometry", tmp_path / "out", MAP, split="train")
    assert [problem.id for problem in pairs.read(done.file)] == ["q1", "q2"]
    done = convert("mine/geometry", tmp_path / "one", MAP, split="train", limit=1)
    assert done.rows == 1


def test_choices_of_the_hubs_form_and_a_letter(tmp_path: Path) -> None:
    value = row(choices={"label": ["A", "B"], "text": ["7", "25"]}, label="B")
    done = convert(write_parquet(tmp_path / "t.parquet", [value]), tmp_path / "out", MAP)
    assert one(done.file).answer == "B" and "B. 25" in one(done.file).question


def test_what_cannot_be_used_is_said_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_parquet(tmp_path / "t.parquet", [row(), row(qid="q2", label="a triangle")])
    command = ["data", "convert", str(source), "--out", str(tmp_path / "out"), "--column"]
    assert main([*command, *(f"{key}={value}" for key, value in MAP.items())]) == 1
    said = capsys.readouterr().out
    assert "2 rows in" in said and "text from problem" in said
    assert "line 2, q2: answer 'a triangle' is not a number" in said


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"txt": "problem"}, "unknown column of pairs 'txt'"),
        ({"text": "problm"}, "t.parquet row 1 has no column 'problm': it has qid, problem"),
        ({"text": "meta.name"}, "has no column 'meta.name'"),
        ({"image": "label"}, "row 1: its image cannot be read"),
    ],
)
def test_a_map_that_does_not_fit_is_one_line(
    tmp_path: Path, columns: dict[str, str], words: str
) -> None:
    source = write_parquet(tmp_path / "t.parquet", [row()])
    with pytest.raises(UserError, match=words):
        convert(source, tmp_path / "out", columns)
    assert [*tmp_path.iterdir()] == [source]


def test_a_file_of_another_kind_is_no_table(tmp_path: Path) -> None:
    source = tmp_path / "x.txt"
    source.write_text("Find x.")
    with pytest.raises(UserError, match=r"x.txt is not a table that is read \(.*\.csv.*: give a"):
        convert(source, tmp_path / "out", {})


def test_every_field_that_a_row_lacks_is_named(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(UserError) as error:
        convert(source, tmp_path / "out", {})
    said = str(error.value)
    assert said.count("answer is missing") == 1 and said.count("or text and conditions") == 1


def test_a_table_without_a_usable_row_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "t.parquet", [row(), row(qid="q2")])
    words = r"no row can be used \(row 1: .*Its columns are qid, problem, .*--column TARGET=COLUMN"
    with pytest.raises(UserError, match=words):
        convert(source, tmp_path / "made" / "out", {})
    assert [*tmp_path.iterdir()] == [source]


def test_what_is_refused_on_the_way_leaves_an_earlier_set_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(write_parquet(tmp_path / "t.parquet", [row()]), out, MAP)
    (out / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = row(images=[{"bytes": png("red"), "path": None}])
    broken = row(qid="q2", images=[{"bytes": b"no image", "path": None}])
    source = write_parquet(tmp_path / "broken.parquet", [other, broken])
    with pytest.raises(UserError, match="row 2: its image cannot be read"):
        convert(source, out, MAP, force=True)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    convert(write_parquet(tmp_path / "t.parquet", [other]), out, MAP, force=True)
    assert one(out / pairs.FILE).image_bytes() == png("red")


@pytest.mark.parametrize("source", ["t.csv", "data/t.parquet", "data/t.JSONL"])
def test_a_source_that_does_not_exist_is_named_with_its_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(UserError, match=rf"^{source} does not exist: give .* as SOURCE\.$"):
        convert(source, tmp_path / "out", {})
    assert not [*tmp_path.iterdir()]


def test_a_source_that_the_hub_does_not_have_is_named_with_its_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object, **__: object) -> None:
        raise OSError("404")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", absent)
    with pytest.raises(UserError, match=r"mine/geometry is not a local path .* as SOURCE\.$"):
        convert("mine/geometry", tmp_path / "out", {})


def test_an_image_outside_of_the_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "t.jsonl").write_text(json.dumps(row(images="../a.png")) + "\n")
    with pytest.raises(UserError, match="leads out of"):
        convert(tmp_path / "in" / "t.jsonl", tmp_path / "out", MAP)


def test_a_layout_of_its_own_is_not_converted(tmp_path: Path) -> None:
    """The benchmark that reads it is named, not the files in it that are no tables."""
    write_splits(tmp_path / "g3k")
    for source in (tmp_path / "g3k", tmp_path):
        with pytest.raises(UserError, match=r"--benchmark geometry3k, which modgap reads") as error:
            convert(source, tmp_path / "out", {})
        assert str(tmp_path / "g3k") in str(error.value)
    assert not (tmp_path / "out").exists()
    write_dataset(tmp_path / "nine", 2, 2, seed=1)
    with pytest.raises(UserError, match=r"--benchmark pgps9k, which modgap reads"):
        convert(tmp_path / "nine", tmp_path / "out", {})
    write_example(tmp_path / "mine")
    write_json(tmp_path / "verse.json", rows(1))
    for source, name in (
        (tmp_path / "mine", "pairs"),
        (tmp_path / "mine" / pairs.FILE, "pairs"),
        (tmp_path / "verse.json", "mathverse"),
    ):
        take = rf"`modgap data check \S*{source.name} --benchmark {name}`"
        with pytest.raises(UserError, match=f"layout of --benchmark {name}, which .*{take}"):
            convert(source, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()
    named = write_parquet(tmp_path / "verse.parquet", rows(1)[:2])
    chosen = {"text": "question", "answer": "problem_index"}  # a number
    assert convert(named, tmp_path / "named", chosen).rows == 2
    table = tmp_path / "table"
    table.mkdir()
    (table / "train.json").write_text(json.dumps([{"text": "Find x. AB = 7", "answer": 7}]))
    assert convert(table, tmp_path / "out", {}).rows == 1


def test_a_table_that_only_resembles_mathverse_is_converted(tmp_path: Path) -> None:
    """Of a folder, one of its tables does not decide about the others."""
    like = {"question": "Find x.", "answer": "7", "problem_version": "Text Lite"}
    like["text"] = "Find x. AB = 7"
    tables = tmp_path / "tables"
    (tables / "a").mkdir(parents=True)
    (tables / "a" / "t.json").write_text(json.dumps([like]))
    for table in (tables / "a" / "t.json", write_parquet(tmp_path / "t.parquet", [like])):
        assert benchmark_of(table) == ""
        assert convert(table, tmp_path / "out", {}).rows == 1
        (tmp_path / "out" / pairs.FILE).unlink()
    write_json(tables / "a" / "t.json", rows(1))
    assert benchmark_of(tables / "a") == "mathverse"
    (tables / "b").mkdir()
    (tables / "b" / "t.json").write_text(json.dumps([{"text": "Find x. AB = 7", "answer": 7}]))
    assert needs_no_conversion(tables) == ""
    anyway = "To convert it nevertheless, name its columns: --column text=COLUMN."
    assert needs_no_conversion(tables / "a").endswith(anyway)
