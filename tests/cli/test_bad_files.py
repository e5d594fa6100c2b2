"""Files that hold something else: one line of at most 500 characters, and no word of a bug."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from folders import record, write_folder

from modgap.cli.main import main
from modgap.core.record import RunFolder
from modgap.core.text import shortened
from modgap.engines.scripted import ScriptedEngine
from modgap.workflows.evaluate import evaluate
from modgap.workflows.problems import read_problems

BAD = {
    "empty": b"", "deep": b"[" * 20_000, "deep object": b'{"a":' * 20_000, "null": b"null",
    "list": b"[]", "not UTF-8": b"\xff\xfe\x00", "digits": b'{"a":' + b"9" * 5000 + b"}\n",
    "surrogates": b'{"id": "\\ud800", "answer": "\\udfff"}\n', "no newline": b'{"id": "x"}',
    "types": b'{"kind": "eval", "resolved": {"views": 5}, "given": [], "versions": 3}',
    "more types": b'{"kind": "eval", "resolved": {"samples": "x"}, "sampling": 7, "git": []}',
    "options": b'{"kind": "eval", "resolved": {}, "options": "x"}',
    "long": b'{"' + b"k" * 3000 + b'": 1}\n',
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    data = write_folder(place / "data", test={f"prob_{n}": record() for n in range(2)})
    engine = ScriptedEngine(lambda request, sample: "\\boxed{25}")
    evaluate(read_problems("pgps9k", data), engine, place / "run")
    return place / "run"


def says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    said = capsys.readouterr().err
    assert "--debug" not in said and "Traceback" not in said
    assert all(len(line) <= 500 for line in said.splitlines())


@pytest.mark.parametrize("kind", BAD)
def test_a_run_folder_with_a_damaged_file(
    run: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["judge.jsonl", "judge.json", "import.json", *(path.name for path in run.iterdir())]
    for name in names:
        damaged = tmp_path / name
        shutil.copytree(run, damaged)
        (damaged / name).write_bytes(BAD[kind])
        main(["grade", str(damaged)])
        says_what_is_wrong(capsys)
        if name in ("manifest.json", "summary.json", "import.json"):
            (damaged / name).write_bytes(BAD[kind])  # grading may have repaired it
            main(["report", str(damaged), "--out", str(tmp_path / "r.html")])
            says_what_is_wrong(capsys)


@pytest.mark.parametrize("kind", BAD)
def test_data_that_is_none(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test.json").write_bytes(BAD[kind])
    (tmp_path / "train.json").write_text("{}")
    commands = [["data", "check", str(tmp_path)],
                ["import", str(tmp_path / "test.json"), "--gt", str(tmp_path / "test.json"),
                 "--out", str(tmp_path / "imported")]]  # fmt: skip
    ask = ["eval", "--model", "tiny", "--out", str(tmp_path / "run"), "--data"]
    commands.append([*ask, str(tmp_path)])
    for ending in ("jsonl", "json", "parquet"):
        file = tmp_path / f"problems.{ending}"
        file.write_bytes(BAD[kind])
        for benchmark in ("pairs", "mathverse"):
            commands.append([*ask, str(file), "--benchmark", benchmark])
            commands.append(["data", "check", str(file), "--benchmark", benchmark])
    for ending in ("toml", "yaml"):
        (tmp_path / f"c.{ending}").write_bytes(BAD[kind])
        commands.append([*ask, "x", "--config", str(tmp_path / f"c.{ending}")])
    for command in commands:
        assert main(command) != 0
        says_what_is_wrong(capsys)


def test_a_response_to_an_unknown_problem_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = RunFolder(tmp_path / "run").responses_path
    path.write_text(path.read_text().replace("prob_1", "prob_9"))
    assert main(["grade", str(tmp_path / "run")]) == 1
    assert "prob_9" in (said := capsys.readouterr().err) and "--debug" not in said


def test_a_long_message_keeps_its_beginning_and_its_remedy() -> None:
    assert shortened("a\n b") == "a b"
    short = shortened(f"start {'x' * 3000} remedy.")
    assert len(short) <= 480 and short.startswith("start x") and short.endswith("x remedy.")
