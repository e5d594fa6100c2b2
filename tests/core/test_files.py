"""Only regular files of bounded size are read, links lead nowhere else, and locks harm nothing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import png, record

from modgap.core import files
from modgap.core.errors import UserError
from modgap.core.files import Root
from modgap.core.record import RunFolder
from modgap.datasets import mathverse, pairs, pgps9k
from modgap.workflows.evaluate import load_problems


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
