"""Only regular files of bounded size are read, links lead nowhere else, and locks harm nothing."""

from __future__ import annotations

import ast
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from asking import evaluate
from folders import png, record, write_folder

import modgap
from modgap.cli.main import main
from modgap.core import files
from modgap.core.errors import UserError
from modgap.core.files import Root
from modgap.core.record import RunFolder
from modgap.datasets import mathverse, pairs, pgps9k
from modgap.engines.scripted import ScriptedEngine
from modgap.original.mathverse import generation_files
from modgap.reporting.page import build_report
from modgap.workflows.jobs import Process
from modgap.workflows.problems import load_problems


def pipe(path: Path) -> None:
    os.mkfifo(path)


def sock(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


ODD: dict[str, Callable[[Path], None]] = {
    "is a named pipe": pipe, "is a socket": sock, "is a device": device, "is a folder": Path.mkdir,
    "has 1,099,512 MB": huge,
}  # fmt: skip


@pytest.mark.parametrize("name", ["a\x00b", "\ud800.png"])
def test_a_name_that_no_file_can_have_is_absent(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        files.read_bytes(tmp_path / name)


@pytest.mark.parametrize(("words", "make"), ODD.items(), ids=ODD)
def test_what_is_not_a_regular_file_of_bounded_size_is_refused_at_once(
    tmp_path: Path, words: str, make: Callable[[Path], None]
) -> None:
    odd = tmp_path / "problems.jsonl"
    make(odd)
    with pytest.raises(UserError, match=f"^[^\n]*problems.jsonl {words}"):
        files.read_bytes(odd)
    if make is not huge:
        with pytest.raises(UserError, match=words), files.open_lines(odd) as lines:
            next(lines)


def test_a_line_has_a_bounded_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_LINE_BYTES", 10)
    (tmp_path / "f").write_bytes(b"short\n0123456789\n")
    with files.open_lines(tmp_path / "f") as lines:
        assert next(lines) == b"short\n"
        with pytest.raises(UserError, match="f line 2 has more than"):
            next(lines)


def test_locks_and_appending_go_through_no_link_and_keep_what_is_there(tmp_path: Path) -> None:
    precious, run = tmp_path / "precious", RunFolder(tmp_path / "run")
    precious.write_text("words\n")
    run.path.mkdir()
    for name in (".lock", "responses.jsonl", "judge.jsonl"):
        (run.path / name).symlink_to(precious)
    with pytest.raises(UserError, match=r"\.lock is a symbolic link"), run.lock():
        pass
    with pytest.raises(UserError, match=r"responses\.jsonl is a symbolic link"), run.appending():
        pass
    assert precious.read_text() == "words\n"
    (run.path / ".lock").unlink()
    (run.path / ".lock").write_text("somebody's\n")
    with run.lock(), pytest.raises(UserError, match="another process is writing"), run.lock():
        pass
    assert (run.path / ".lock").read_text() == "somebody's\n"


# ---- what leads out of a data set ----------------------------------------------------------------


def pairs_at(folder: Path, image: str) -> Path:
    prompts = {"full-text": "a", "image-only": "b"}
    row = {"id": "p1", "answer": "1", "prompts": prompts, "image": image}
    (folder / "problems.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def mathverse_at(folder: Path, image: str) -> Path:
    row = {
        "problem_index": "1", "problem_version": "Text Dominant", "question": "q", "answer": "1",
        "question_type": "free-form", "image": image,
    }  # fmt: skip
    (folder / "testmini.json").write_text(json.dumps([row]))
    return folder


def pgps9k_at(folder: Path, image: str) -> Path:
    (folder / "Diagram_Visual").mkdir()
    (folder / "Diagram_Visual" / "d.png").symlink_to(Path(folder, image).absolute())
    for split in ("train", "test"):
        (folder / f"{split}.json").write_text(json.dumps({f"{split}_1": record(diagram="d.png")}))
    return folder


def own_at(folder: Path, image: str) -> Path:
    (folder / "own.py").write_text(
        "from pathlib import Path\nfrom modgap import Problem\n\n\n"
        "def read(path, split='test', limit=None):\n"
        f"    yield Problem('p1', 'q', '1', Path(path) / {image!r})\n"
    )
    return folder


SETS = {"pairs": pairs_at, "mathverse": mathverse_at, "pgps9k": pgps9k_at, "own": own_at}


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("image", ["../secret.png", "absolute", "a/../../secret.png", "link"])
def test_an_image_outside_the_data_set_is_refused_unless_allowed(
    tmp_path: Path, kind: str, image: str
) -> None:
    secret, folder = tmp_path / "secret.png", tmp_path / "data"
    secret.write_bytes(png())
    (folder / "a").mkdir(parents=True)
    if image == "link":
        (folder / "link").symlink_to(secret)
    data = SETS[kind](folder, str(secret) if image == "absolute" else image)
    name = f"{folder}/own.py:read" if kind == "own" else kind
    problem = "1" if kind == "mathverse" else "p1" if kind in ("pairs", "own") else "test_1"
    with pytest.raises(UserError, match=f"{problem}.*leads out of .*secret.png.*--allow-outside"):
        load_problems(data, name)
    [found] = load_problems(data, name, allow_outside=True)
    assert next(iter(found.own_images.values()), found.image)
    check = {"pairs": pairs.check, "mathverse": mathverse.check, "pgps9k": pgps9k.check}.get(kind)
    if check:
        assert "image-outside" in [fault.kind for fault in check(data).errors]
        assert not [
            fault for fault in check(data, allow_outside=True).errors if "image" in fault.kind
        ]


@pytest.mark.parametrize("kind", ["pairs", "mathverse", "pgps9k"])
def test_a_file_of_a_data_set_that_links_out_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    real = SETS[kind](tmp_path / "elsewhere", "x.png")
    (tmp_path / "data").mkdir()
    for file in real.iterdir():
        (tmp_path / "data" / file.name).symlink_to(file)
    with pytest.raises(UserError, match="leads out of"):
        load_problems(tmp_path / "data", kind)


@pytest.mark.parametrize("kind", SETS)
def test_images_inside_are_read_whichever_way_the_user_names_the_folder(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "1.png").write_bytes(png())
    SETS[kind](folder, "images/1.png")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    name = f"{folder}/own.py:read" if kind == "own" else kind
    for place in (folder, tmp_path / "link", Path(), Path("../link")):
        assert len(load_problems(place, name)) == 1


def test_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "datasets--a--b"
    snapshot, blobs = repository / "snapshots" / "0123", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (tmp_path / "made").mkdir()
    pairs_at(tmp_path / "made", "1.png")
    (blobs / "b1").write_bytes((tmp_path / "made" / "problems.jsonl").read_bytes())
    (blobs / "b2").write_bytes(png())
    (snapshot / "problems.jsonl").symlink_to("../../blobs/b1")
    (snapshot / "1.png").symlink_to("../../blobs/b2")
    assert load_problems(snapshot, "pairs")[0].image_bytes() == png()
    (snapshot / "1.png").unlink()
    (snapshot / "1.png").symlink_to("../../refs")
    (repository / "refs").write_bytes(png())
    with pytest.raises(UserError, match="leads out of"):
        load_problems(snapshot, "pairs")


def test_blobs_that_are_a_link_are_not_a_hub_cache(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "x").write_bytes(png())
    snapshot = tmp_path / "d" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "d" / "blobs").symlink_to(tmp_path / "secrets")
    assert Root(snapshot).target(snapshot / "../../blobs/x")


# ---- the commands --------------------------------------------------------------------------------


def test_prepare_writes_no_file_of_the_users_into_the_parquet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0")
    (tmp_path / "data").mkdir()
    data = pgps9k_at(tmp_path / "data", str(secret))
    command = ["data", "prepare", str(data), "--out", str(tmp_path / "out"), "--variant", "no-text"]
    assert main(command) == 1
    assert "leads out of" in capsys.readouterr().err and not (tmp_path / "out").exists()
    secret.write_bytes(png())
    assert main([*command, "--allow-outside"]) == 0


def test_an_import_reads_no_linked_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt = write_folder(tmp_path / "data", test={"prob_1": record()}) / "test.json"
    answers = tmp_path / "new_9k_m_4096_tmp_0.6"
    answers.mkdir()
    (tmp_path / "secret").write_text("root:x:0:0")
    (answers / "qprob_1_attempt0.txt").symlink_to(tmp_path / "secret")
    command = ["import", str(answers), "--gt", str(gt), "--out", str(tmp_path / "run")]
    assert main(command) == 1
    assert "qprob_1_attempt0.txt leads out of" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*command, "--allow-outside"]) == 0
    (answers / "qprob_1_attempt0.txt").unlink()
    pipe(answers / "qprob_1_attempt0.txt")
    assert main(command) == 1
    assert "is a named pipe" in capsys.readouterr().err


def test_an_import_reads_no_linked_generations(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"prediction": "x"}\n')
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "m_generations.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="leads out of"):
        generation_files([tmp_path / "results"])
    assert generation_files([tmp_path / "results"], allow_outside=True)
    assert generation_files([tmp_path / "results" / "m_generations.jsonl"])  # named by the user


@pytest.mark.parametrize("name", ["manifest.json", "problems.jsonl", "grades.jsonl"])
@pytest.mark.parametrize("make", [pipe, device])
def test_a_report_waits_for_no_pipe_and_reads_no_device(
    name: str, make: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path)
    (run / name).unlink()
    make(run / name)
    assert main(["report", str(run), "--out", str(tmp_path / "r.html")]) == 1
    assert f"{name} is a" in capsys.readouterr().err


def a_run(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    (data / "1.png").write_bytes(png())
    problems = load_problems(pairs_at(data, "1.png"), "pairs")
    evaluate(problems, ScriptedEngine(lambda *_: "\\boxed{1}"), tmp_path / "run", samples=1)
    return tmp_path / "run"


@pytest.mark.parametrize("odd", [None, pipe, device, huge])
def test_a_report_embeds_no_picture_outside_the_data_set_of_its_run(
    tmp_path: Path, odd: Callable[[Path], None] | None
) -> None:
    run, page, secret = a_run(tmp_path), tmp_path / "r.html", tmp_path / "secret.png"
    if odd is None:
        build_report([run], page)
        assert page.read_text().count("data:image/png;base64,") == 1
    odd(secret) if odd else secret.write_bytes(png("red"))
    [line] = (run / "problems.jsonl").read_text().splitlines()
    (run / "problems.jsonl").write_text(
        json.dumps(json.loads(line) | {"image": str(secret)}) + "\n"
    )
    build_report([run], page)
    assert "data:image" not in page.read_text() and "--allow-outside" in page.read_text()
    build_report([run], page, allow_outside=True)
    assert page.read_text().count("data:image/png;base64,") == (0 if odd else 1)


@pytest.mark.parametrize("module", ["modgap", "torch", "json"])
def test_a_child_runs_no_module_of_the_working_folder(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{module}.py").write_text("open('ran', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    child = Process(["--version"], tmp_path / "log")
    child._child.wait(60)
    assert child.poll() == 0 and not (tmp_path / "ran").exists()


def test_every_child_that_runs_python_has_the_option() -> None:
    """Else Python puts the working folder before everything else."""
    root = Path(modgap.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List | ast.Tuple):
                words = [ast.unparse(item) for item in node.elts]
                if "sys.executable" in words:
                    assert words[words.index("sys.executable") + 1] == "'-P'", path


@pytest.mark.parametrize("path", ["s3://bucket/run", "gs:/bucket/run", "hf://datasets/a/b"])
def test_an_address_is_no_path(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is not a local path"):
        RunFolder(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["runs/a:b", "C:/runs", "a b/c", "/tmp/x:/y", "run:1"])
def test_paths_with_colons_are_paths(path: str) -> None:
    RunFolder(path)


@pytest.mark.parametrize(
    "command",
    [
        "eval --benchmark synthetic --model tiny --out s3://bucket/run",
        "report runs --out=s3://bucket/page.html",
        "report s3://bucket/run",
        "data synth --out s3://bucket/geo",
        "eval --model tiny --out x --data s3://bucket/geo",
    ],
)
def test_every_command_says_so_in_one_line(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert "local files only" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
