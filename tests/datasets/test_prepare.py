"""The parquet files are streamed, whole or not there, and equal what the original writes."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from folders import CORNER_DIAGRAMS, CORNERS, png, real_folder, record, write_folder
from original_words import INSTRUCTION

from modgap.core.errors import UserError
from modgap.core.files import locked
from modgap.datasets import pgps9k
from modgap.datasets.parquet import VARIANTS, prepare


def test_pandas_is_not_imported(tmp_path: Path) -> None:
    """To load it takes longer than to write a thousand rows, and most of Arrow's constructors do so
    unasked.
    """
    code = (
        "import sys; from modgap.datasets.parquet import prepare; prepare(sys.argv[1], sys.argv[2],"
        " 'contrastive');print(sorted({'pandas', 'datasets', 'torch'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(write_folder(tmp_path / "d")), str(tmp_path / "out")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_again_afterwards(tmp_path: Path, enabled: bool) -> None:
    folder, seen = (
        write_folder(tmp_path / "d", test={"p": record(), "q": record(answer="x")}),
        set[bool](),
    )
    try:
        (gc.enable if enabled else gc.disable)()
        prepare(
            folder,
            tmp_path / "out",
            "no-text",
            splits=("train",),
            progress=lambda *_: seen.add(gc.isenabled()),
        )
        assert seen == {False} and gc.isenabled() == enabled
        with pytest.raises(UserError, match="is not a finite number"):
            prepare(folder, tmp_path / "out", "no-text")
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_ten_thousand_problems_fit_in_memory(tmp_path: Path) -> None:
    """250 MB of diagrams; measured at 116 MB, of which Python and pyarrow themselves take 67."""
    folder = write_folder(
        tmp_path / "d", train={f"p{number}": record() for number in range(10_000)}
    )
    (folder / "Diagram_Visual" / "img_1.png").write_bytes(png() + os.urandom(25_000))
    code = (
        "import sys; from modgap.datasets.parquet import prepare;"
        "print(prepare(sys.argv[1], sys.argv[2], 'contrastive').rows['train']);"
        # Not ru_maxrss: that one starts with what the parent, this test run, holds.
        "print(next(int(line.split()[1]) for line in open('/proc/self/status') if"
        " line.startswith('VmHWM')) // 1024)"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "out")]
    written, megabytes = map(
        int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    )
    assert written == 10_000
    assert (tmp_path / "out" / "train.parquet").stat().st_size > 250_000_000
    assert megabytes < 250


def test_a_faulty_record_leaves_what_was_there(tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "d"), tmp_path / "out"
    prepare(folder, out, "full-text")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == [".lock", "test.parquet", "train.parquet"]

    (folder / "test.json").write_text(json.dumps({"p": record(), "q": record(answer="x")}))
    with pytest.raises(UserError, match=r"test\.json line 1, q: answer 'x' is not a finite number"):
        prepare(folder, out, "no-text", force=True)
    (folder / "test.json").write_text(json.dumps({"p": record(diagram="img_7.png")}))
    with pytest.raises(UserError, match=r"img_7\.png is absent"):
        prepare(folder, out, "no-text", force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d", train=CORNERS, diagrams=CORNER_DIAGRAMS)
    prepare(folder, tmp_path / "out", "contrastive")
    first = (tmp_path / "out" / "train.parquet").read_bytes()
    prepare(folder, tmp_path / "out", "contrastive")
    assert (tmp_path / "out" / "train.parquet").read_bytes() == first


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d")
    with pytest.raises(
        UserError, match="unknown variant 'text': choose from contrastive, full-text, no-text"
    ):
        prepare(folder, tmp_path / "out", "text")
    with pytest.raises(UserError, match="unknown style 'old'"):
        prepare(folder, tmp_path / "out", "full-text", "old")
    with pytest.raises(UserError, match="unknown split 'val'"):
        prepare(folder, tmp_path / "out", "full-text", splits=("val",))
    with pytest.raises(UserError, match="holds no problem in train"):
        prepare(
            write_folder(tmp_path / "empty", train="{}"),
            tmp_path / "out",
            "full-text",
            splits=("train",),
        )
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file: give a folder as --out"):
        prepare(folder, tmp_path / "file", "full-text")


def test_an_empty_diagram_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d", diagrams={"img_1.png": b""})
    with pytest.raises(UserError, match=r"the diagram of prob_1 \(img_1\.png\) is empty"):
        prepare(folder, tmp_path / "out", "no-text")
    assert not (tmp_path / "out").exists()


# ---- against the original ------------------------------------------------------------------------


def original_scripts() -> Path:
    """The folder of the original's `geo9k.py`, below the checkout that `MODGAP_ORIGINAL` names."""
    if not (name := os.environ.get("MODGAP_ORIGINAL")):
        pytest.skip("MODGAP_ORIGINAL names no checkout of the original repository")
    return next(
        path for path in (Path(name) / "verl" / "data", Path(name)) if (path / "geo9k.py").is_file()
    )


@pytest.mark.parametrize("records", ["corner cases", "real"])
def test_paper_style_equals_the_original(tmp_path: Path, records: str) -> None:
    scripts = original_scripts()
    datasets = pytest.importorskip("datasets", reason="the original writes with datasets")
    home = tmp_path / "PGPS9K"  # the scripts look for it beside themselves
    if records == "real":
        home.symlink_to(real_folder().resolve())
    else:
        write_folder(
            home, train=CORNERS, test=dict(reversed(CORNERS.items())), diagrams=CORNER_DIAGRAMS
        )
    quiet = {
        **os.environ,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    for variant, script, options in (
        ("full-text", "geo9k.py", []),
        ("no-text", "geo9k.py", ["--no-text"]),
        ("contrastive", "geo9k-contrastive.py", []),
    ):
        shutil.copy(scripts / script, tmp_path)
        command = [
            sys.executable,
            str(tmp_path / script),
            "--local_dir",
            f"theirs-{variant}",
            *options,
        ]
        subprocess.run(command, check=True, capture_output=True, env=quiet)
        prepare(home, tmp_path / f"ours-{variant}", variant, "paper")
        for split in pgps9k.SPLITS:
            theirs, ours = (
                tmp_path / f"{whose}-{variant}" / f"{split}.parquet" for whose in ("theirs", "ours")
            )
            assert pq.ParquetFile(ours).schema.equals(pq.ParquetFile(theirs).schema)
            assert (
                pq.read_table(ours).equals(pq.read_table(theirs))
                and pq.read_table(ours).num_rows > 10
            )
            loaded = [
                datasets.load_dataset(
                    "parquet", data_files=str(path), cache_dir=str(tmp_path / "hf"), split="train"
                )
                for path in (theirs, ours)
            ]
            assert (
                loaded[0].features == loaded[1].features
                and loaded[0].column_names == loaded[1].column_names
            )
            assert loaded[0][:] == loaded[1][:]


def test_every_real_row_is_there(tmp_path: Path) -> None:
    folder = real_folder()
    for variant in VARIANTS:
        prepare(folder, tmp_path / variant, variant, "paper")
        for split in pgps9k.SPLITS:
            raw = json.loads((folder / f"{split}.json").read_text())
            table = pq.read_table(tmp_path / variant / f"{split}.parquet").to_pylist()
            for index, (row, value) in enumerate(zip(table, raw.values(), strict=True)):
                content = row["prompt"][0]["content"]
                assert content.startswith("<image>") and content.endswith(
                    f"{value['text']}\n{INSTRUCTION}"
                )
                says_all = all(clause in content for clause in value["parsing_sem_seqs"])
                assert (
                    says_all
                    if variant != "no-text"
                    else content.startswith("<image>Based on the information in")
                )
                assert row["extra_info"]["index"] == index and row["extra_info"]["split"] == split
                assert (
                    row["reward_model"]["ground_truth"]
                    == row["extra_info"]["answer"]
                    == value["answer"]
                )
                (image,) = row["images"]
                assert image["path"] == f"Diagram_Visual/{value['diagram']}"
                assert image["bytes"] == (folder / image["path"]).read_bytes()


def test_an_out_that_is_the_data_set_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d")
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="is the data set itself: give another folder"):
        prepare(folder, folder / "Diagram_Visual" / "..", "full-text")
    assert sorted(folder.rglob("*")) == before


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    folder, out = write_folder(tmp_path / "d"), tmp_path / "out"
    out.mkdir()
    (out / ".train.parquet.7.tmp").touch()
    prepare(folder, out, "full-text")
    assert not list(out.glob(".*.tmp"))
    with locked(out / ".lock"), pytest.raises(UserError, match="another process is writing"):
        prepare(folder, out, "full-text")
