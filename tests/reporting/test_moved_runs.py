"""Run folders and data sets that were moved: diagrams, and the page over a folder of runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from written_runs import both, write_run

from modgap.cli.main import main
from modgap.core.engine import Sampling
from modgap.core.record import RunFolder
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.engines.scripted import ScriptedEngine
from modgap.reporting.page import build_report
from modgap.workflows.evaluate import EvalPlan, evaluate_with
from modgap.workflows.grade import grade_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", 0, 4, seed=1, workers=1)
    asked = list(pgps9k.read(tmp_path / "data", "test"))
    engine = ScriptedEngine(lambda request, sample: "\\boxed{1}")
    evaluate_with(
        asked, engine, tmp_path / "run", EvalPlan(samples=1, sampling=Sampling(0.6, 256, 42))
    )
    return tmp_path / "run"


def embedded(page: Path) -> int:
    return page.read_text().count("data:image/png;base64,")


def test_the_problems_name_no_absolute_path_and_are_read_whole(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "problems.jsonl").read_text().splitlines()]
    assert all(row["image"] and not Path(row["image"]).is_absolute() for row in rows)
    assert all(Path(row.image or "").is_file() for row in RunFolder(run).problems().values())
    # A rewrite, such as that of `modgap cut`, keeps the places.
    folder = RunFolder(run)
    before = (run / "problems.jsonl").read_text()
    folder.write_problems(folder.problems().values())
    assert (run / "problems.jsonl").read_text() == before


@pytest.mark.parametrize("older", [False, True])
def test_a_moved_diagram_is_found_by_its_digest(run: Path, tmp_path: Path, older: bool) -> None:
    folder = RunFolder(run)
    if older:  # with absolute paths
        rows = [row.model_dump_json(by_alias=True) for row in folder.problems().values()]
        (run / "problems.jsonl").write_text("".join(f"{row}\n" for row in rows))
    # Elsewhere, under other names; one of them is another drawing of the same name.
    names = [Path(row.image or "") for row in folder.problems().values()]
    there = tmp_path / "elsewhere" / "deep"
    there.mkdir(parents=True)
    for number, file in enumerate(names[1:]):
        shutil.copyfile(file, there / f"other{number}.png")
    Image.new("RGB", (40, 40), "red").save(there / names[0].name)
    shutil.rmtree(tmp_path / "data")
    shutil.move(run, tmp_path / "moved")
    page = tmp_path / "report.html"
    build_report([tmp_path / "moved"], page)
    assert embedded(page) == 0
    numbers = build_report([tmp_path / "moved"], page, data=tmp_path / "elsewhere")
    assert embedded(page) == len(names) - 1
    assert any("1 diagram not in" in words for words in numbers.warnings)


def test_without_digests_the_name_decides_and_that_is_noted(run: Path, tmp_path: Path) -> None:
    (run / "fingerprints.json").unlink()
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    numbers = build_report([run], tmp_path / "r.html", data=tmp_path / "elsewhere")
    assert embedded(tmp_path / "r.html") == 4
    assert any("4 diagrams found in" in words for words in numbers.warnings)


def test_data_that_is_no_folder_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run), "--data", str(tmp_path / "none")]) != 0
    assert "--data" in capsys.readouterr().err


def test_the_index_lists_runs_and_links_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, image in {"<b>a": "ww", "b": "cc"}.items():
        write_run(tmp_path / "runs" / name, {p: both("cc", image) for p in "xyz"}, model="M&M")
    for name in ("<b>a", "b"):
        grade_run(RunFolder(tmp_path / "runs" / name))
    build_report([tmp_path / "runs" / "b"], tmp_path / "runs" / "b" / "the report.html")
    out = tmp_path / "runs" / "index.html"
    assert main(["report", "--index", str(tmp_path / "runs"), "--out", str(out)]) == 0
    page = out.read_text()
    assert "&lt;b&gt;a" in page and "M&amp;M" in page and "<b>a" not in page
    assert 'href="b/the%20report.html"' in page
    # It is ours, and is written again; it does not list itself.
    assert main(["report", "--index", str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert out.read_text().count("href=") == page.count("href=")
    assert main(["report", "--index", str(tmp_path / "runs"), "--json"]) == 2
    assert "--index" in capsys.readouterr().err
