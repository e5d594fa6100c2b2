"""The rows of the parquet files: the original's columns, types and values."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folders import CORNER_DIAGRAMS, CORNERS, png, record, write_folder
from hypothesis import given
from hypothesis import strategies as st
from original_words import INSTRUCTION

from modgap.core.problem import Problem
from modgap.core.prompt import contrastive_prompt, evaluation_prompt, training_prompt
from modgap.datasets import parquet as module
from modgap.datasets import pgps9k
from modgap.datasets.parquet import VARIANTS, prepare, write_parquet

FULL = (
    "In this problem, B is on line AC, AB = 7, BC = x.\nBased on these conditions, answer the"
    " question: Find x."
)
IMAGE_ONLY = "Based on the information in the image, answer the question: Find x."
TWIN = "Based on these conditions in the image, answer the question: Find x."


def rows(
    folder: Path, variant: str, style: str, out: Path, split: str = "train"
) -> list[dict[str, Any]]:
    prepare(folder, out, variant, style)
    return pq.read_table(out / f"{split}.parquet").to_pylist()


def turn(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"<image>{question}\n{INSTRUCTION}"}]


# ---- values, written by hand ---------------------------------------------------------------------


def expected(variant: str, question: str, twin: str) -> dict[str, Any]:
    extra: dict[str, Any] = {"split": "train", "index": 0, "answer": "25.000"}
    if variant == "contrastive":
        extra |= {"question_with_condition": question, "question_without_condition": twin}
        row = {
            "prompt": turn(question),
            "contrastive_prompt": turn(twin),
            "is_contrastive": True,
            "data_source": "9k",
        }
    else:
        extra["question"] = question
        row = {"data_source": "9k", "prompt": turn(question)}
    return row | {
        "images": [{"bytes": png(), "path": "Diagram_Visual/img_1.png"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "25.000"},
        "extra_info": extra,
    }


@pytest.mark.parametrize(
    ("variant", "style", "question", "twin"),
    [
        ("full-text", "paper", FULL, ""),
        ("no-text", "paper", IMAGE_ONLY, ""),
        ("contrastive", "paper", FULL, TWIN),
        ("full-text", "aligned", FULL, ""),
        ("no-text", "aligned", IMAGE_ONLY, ""),
        ("contrastive", "aligned", FULL, IMAGE_ONLY),
    ],
)
def test_a_row_value_for_value(
    tmp_path: Path, variant: str, style: str, question: str, twin: str
) -> None:
    (row,) = rows(write_folder(tmp_path / "d"), variant, style, tmp_path / "out")
    # As text, so that the order of columns and fields counts.
    assert json.dumps(row, default=repr) == json.dumps(
        expected(variant, question, twin), default=repr
    )


@pytest.mark.parametrize(
    ("name", "full", "contrastive"),
    [
        ("nothing", f"In this problem, .\n{FULL.splitlines()[1]}", IMAGE_ONLY),
        ("nothing_said", f"In this problem, .\n{FULL.splitlines()[1]}", IMAGE_ONLY),
        ("no_semantic", f"In this problem, B is on line AC.\n{FULL.splitlines()[1]}", None),
        ("unknown", f"In this problem, AB = 7, BC = x.\n{FULL.splitlines()[1]}", None),
        (
            "long_lines",
            "In this problem, A, B are on line CD, A, B, C are on line DE, P, Q, R, S, T are on"
            " line UV, AB = 7, BC = x.\n" + FULL.splitlines()[1],
            None,
        ),
    ],
)
def test_corner_cases_in_paper_style(
    tmp_path: Path, name: str, full: str, contrastive: str | None
) -> None:
    folder = write_folder(tmp_path / "d", train={name: CORNERS[name]})
    (row,) = rows(folder, "full-text", "paper", tmp_path / "full")
    assert row["extra_info"]["question"] == full
    (row,) = rows(folder, "contrastive", "paper", tmp_path / "contrastive")
    assert row["extra_info"]["question_with_condition"] == (
        full if contrastive is None else contrastive
    )
    assert row["extra_info"]["question_without_condition"] == TWIN


def test_aligned_rows_say_what_evaluation_says(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d", train=CORNERS, diagrams=CORNER_DIAGRAMS)
    problems = list(pgps9k.read(folder, "train"))
    full = rows(folder, "full-text", "aligned", tmp_path / "full")
    free = rows(folder, "no-text", "aligned", tmp_path / "free")
    both = rows(folder, "contrastive", "aligned", tmp_path / "both")
    for problem, a, b, c in zip(problems, full, free, both, strict=True):
        words = evaluation_prompt(problem, "full-text").text
        assert a["prompt"][0]["content"] == c["prompt"][0]["content"] == "<image>" + words
        words = evaluation_prompt(problem, "image-only").text
        assert (
            b["prompt"][0]["content"] == c["contrastive_prompt"][0]["content"] == "<image>" + words
        )
        assert words == contrastive_prompt(problem).text


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_schema(tmp_path: Path, variant: str) -> None:
    prepare(write_folder(tmp_path / "d", test="{}"), tmp_path / "out", variant)
    text = pa.string()
    turns = pa.list_(pa.field("element", pa.struct([("role", text), ("content", text)])))
    images = pa.list_(pa.field("element", pa.struct([("bytes", pa.binary()), ("path", text)])))
    reward = pa.struct([("style", text), ("ground_truth", text)])
    extra = [("split", text), ("index", pa.int64()), ("answer", text)]
    tail = [("images", images), ("ability", text), ("reward_model", reward)]
    if variant == "contrastive":
        extra += [("question_with_condition", text), ("question_without_condition", text)]
        head = [
            ("prompt", turns),
            ("contrastive_prompt", turns),
            ("is_contrastive", pa.bool_()),
            ("data_source", text),
        ]
    else:
        extra += [("question", text)]
        head = [("data_source", text), ("prompt", turns)]
    for split, number in (("train", 1), ("test", 0)):
        table = pq.read_table(tmp_path / "out" / f"{split}.parquet")
        assert table.schema.equals(pa.schema([*head, *tail, ("extra_info", pa.struct(extra))]))
        assert table.num_rows == number
        assert json.loads(table.schema.metadata[b"modgap"]) == {
            "variant": variant,
            "style": "aligned",
        }


def test_index_counts_within_the_split_and_no_row_is_lost(tmp_path: Path) -> None:
    train = {f"p{number}": record(answer=str(number)) for number in range(7)}
    folder, out = write_folder(tmp_path / "d", train=train, test={"q": record()}), tmp_path / "out"
    told: list[tuple[int, int]] = []
    summary = prepare(
        folder, out, "no-text", progress=lambda done, total: told.append((done, total))
    )
    assert (
        summary.rows == {"train": 7, "test": 1}
        and summary.size["train"] == (out / "train.parquet").stat().st_size
    )
    assert "7 rows" in str(summary) and told == [(number, 8) for number in range(1, 9)]
    table = pq.read_table(out / "train.parquet").to_pylist()
    assert [(row["extra_info"]["index"], row["reward_model"]["ground_truth"]) for row in table] == [
        (number, str(number)) for number in range(7)
    ]
    assert [
        row["extra_info"]["index"] for row in pq.read_table(out / "test.parquet").to_pylist()
    ] == [0]


# ---- streaming, all or nothing -------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 4])
def test_a_group_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever it is, the last one too: they are written in a thread."""
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 50_000)
    original, count = pq.ParquetWriter.write_table, 0

    def write_table(self: pq.ParquetWriter, *given: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise OSError(28, "No space left on device")
        original(self, *given)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_table)
    problems = (
        Problem(f"p{n}", "Find x.", "1", image=os.urandom(10_000), index=n) for n in range(20)
    )
    with pytest.raises(OSError, match="No space left"):
        write_parquet(problems, tmp_path / "f.parquet", "contrastive", "aligned")
    assert count == number


def test_rows_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than two row groups are held: while one is written, problems beyond the next have not
    been asked for.
    """
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 50_000)
    written: list[int] = []
    asked = 0
    original = pq.ParquetWriter.write_table

    def write_table(self: pq.ParquetWriter, table: pa.Table, *rest: Any, **more: Any) -> None:
        written.append(asked)
        original(self, table, *rest, **more)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_table)

    def problems() -> Iterator[Problem]:
        nonlocal asked
        for number in range(40):
            asked += 1
            yield Problem(
                f"p{number}", "Find x.", "1", image=os.urandom(10_000), split="train", index=number
            )

    assert write_parquet(problems(), tmp_path / "f.parquet", "contrastive", "aligned") == 40
    assert len(written) == 8 and all(
        5 * n <= asked <= 5 * (n + 1) for n, asked in enumerate(written, start=1)
    )
    file = pq.ParquetFile(tmp_path / "f.parquet")
    assert file.metadata.num_row_groups == 8
    indices = file.read().column("extra_info").to_pylist()
    assert [extra["index"] for extra in indices] == list(range(40))


texts = st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)  # no half of a pair: reading refuses those
problems = st.builds(
    Problem,
    id=texts,
    question=texts,
    answer=texts,
    image=st.binary(min_size=1, max_size=40)
    | st.just(Path(__file__)),  # encoded bytes have no path
    structural=st.lists(st.just("line A B C") | texts, max_size=3).map(tuple),
    semantic=st.lists(texts, max_size=3).map(tuple),
    split=texts,
    index=st.integers(-(2**63), 2**63 - 1),
)


def to_row(problem: Problem, variant: str, style: Any) -> dict[str, Any]:
    """What one row of a file must hold; it is written column by column."""
    view = "image-only" if variant == "no-text" else "full-text"
    prompt = training_prompt(problem, view, style, contrastive=variant == "contrastive")
    twin = contrastive_prompt(problem, style)
    question, free = (words.text.removesuffix(f"\n{INSTRUCTION}") for words in (prompt, twin))
    row = expected(variant, question, free)
    path = problem.image.name if isinstance(problem.image, Path) else None
    row["extra_info"] |= {"split": problem.split, "index": problem.index, "answer": problem.answer}
    row["images"] = [{"bytes": problem.image_bytes(), "path": path}]
    row["reward_model"]["ground_truth"] = problem.answer
    return row


@given(
    st.lists(problems, max_size=20),
    st.sampled_from(VARIANTS),
    st.sampled_from(["paper", "aligned"]),
    st.data(),
)
def test_a_file_holds_the_rows_that_went_in(
    found: list[Problem], variant: str, style: Any, data: Any
) -> None:
    """Value for value and in order, in row groups of any size, and as Arrow itself would make them
    of the rows.
    """
    size = data.draw(st.integers(1, 100_000))
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(module, "ROW_GROUP_BYTES", size),
    ):
        assert write_parquet(found, Path(folder) / "f.parquet", variant, style) == len(found)
        table = pq.read_table(Path(folder) / "f.parquet")
    table.validate(full=True)
    rows = [to_row(problem, variant, style) for problem in found]
    assert table.to_pylist() == rows
    assert table.equals(pa.Table.from_pylist(rows, schema=table.schema))
