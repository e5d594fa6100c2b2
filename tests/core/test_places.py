"""A command writes over its own files only, and says so before it works."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from written_runs import both, write_run

from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.datasets.parquet import prepare
from modgap.datasets.synthetic import write_dataset
from modgap.reporting.page import build_report


@pytest.mark.parametrize(
    "kind, name",
    [
        ("eval", "problems.jsonl"),
        ("eval", "summary.json"),
        ("eval", "fingerprints.json"),
        ("eval", "Diagram_Visual"),
        ("train", "train.json"),
        ("study", "report.html"),
        ("import", "problems.jsonl"),
        ("demo", "test.json"),
    ],
)
def test_a_run_is_not_put_where_it_would_write_over_other_files(
    tmp_path: Path, kind: str, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    for refuse in (RunFolder(tmp_path).check_place, lambda k: RunFolder(tmp_path).start(k, {})):
        with pytest.raises(UserError, match="give another --out"):
            refuse(kind)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_run_beside_other_files_is_made_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    run = write_run(tmp_path, {"a": both("cc", "cw")})
    run.check_place("eval")
    assert run.start("eval", {"model_fingerprint": "f", "samples": 2})


def test_a_folder_that_cannot_be_written_is_refused_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out, words in (
        (Path("/proc/a/b"), "/proc cannot be written to"),
        (tmp_path / "file", "is a file: give a folder"),
        (tmp_path / "file" / "run", "is a file, not a folder"),
    ):
        with pytest.raises(UserError, match=words):
            RunFolder(out).check_place("eval")
    RunFolder(tmp_path / "new" / "run").check_place("eval")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_report_replaces_reports_only(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": both("cc", "cw")})
    page, table = tmp_path / "README.html", tmp_path / "README.md"
    table.write_text("# mine")
    build_report([run.path], page)
    build_report([run.path], page)
    with pytest.raises(UserError, match=r"README\.md was not written by modgap report"):
        build_report([run.path], page, template="paper")
    build_report([run.path], page, template="paper", force=True)
    build_report([run.path], page, template="paper")

    for name, content in (("data.jsonl", '{"id": "p1"}\n'), ("page.html", "<html>mine</html>")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=f"{re.escape(name)} was not written by modgap report"):
            build_report([run.path], tmp_path / name)
        assert (tmp_path / name).read_text() == content
    os.mkfifo(tmp_path / "pipe.md")  # reading it would wait for a writer
    with pytest.raises(UserError, match=r"pipe\.md was not written by modgap report"):
        build_report([run.path], tmp_path / "pipe.html", template="paper")
    (tmp_path / "new_figures").mkdir()
    (tmp_path / "new_figures" / "accuracy.png").write_text("mine")
    with pytest.raises(UserError, match="new_figures was not written by modgap report"):
        build_report([run.path], tmp_path / "new.html", figures=True)
    assert not (tmp_path / "new.html").exists()


def test_a_set_of_problems_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write_dataset(tmp_path, 2, 1, seed=0, workers=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"holds a data set already: .* --force"):
        write_dataset(tmp_path, 2, 1, seed=1, workers=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    write_dataset(tmp_path, 2, 1, seed=1, workers=1, force=True)
    assert (tmp_path / "train.json").read_bytes() != before[tmp_path / "train.json"]


def test_somebody_elses_diagrams_are_not_overwritten_even_by_force(tmp_path: Path) -> None:
    (tmp_path / "Diagram_Visual").mkdir()
    (tmp_path / "Diagram_Visual" / "img_0.png").write_text("mine")
    with pytest.raises(UserError, match="images that are not ours"):
        write_dataset(tmp_path, 2, 1, workers=1, force=True)
    assert (tmp_path / "Diagram_Visual" / "img_0.png").read_text() == "mine"


def test_parquet_of_others_is_never_replaced_and_another_variant_only_when_asked(
    tmp_path: Path,
) -> None:
    write_dataset(tmp_path / "geo", 2, 1, workers=1)
    prepare(tmp_path / "geo", tmp_path / "out", "no-text")
    prepare(tmp_path / "geo", tmp_path / "out", "no-text")
    with pytest.raises(UserError, match=r"holds the variant no-text in aligned style: .* --force"):
        prepare(tmp_path / "geo", tmp_path / "out", "full-text")
    prepare(tmp_path / "geo", tmp_path / "out", "full-text", force=True)
    about = json.loads(pq.read_schema(tmp_path / "out" / "train.parquet").metadata[b"modgap"])
    assert about["variant"] == "full-text"

    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other" / "train.parquet")
    with pytest.raises(UserError, match="was not made by modgap data prepare"):
        prepare(tmp_path / "geo", tmp_path / "other", "no-text", force=True)
