"""Problems -> the parquet files that verl trains on, one for each split, written as they are read.

Style `paper` equals the original's `geo9k.py` (`full-text`; `no-text` is its `--no-text`) and
`geo9k-contrastive.py` value for value, in the same order of rows, columns and fields, with the same
types. Style `aligned` has the same columns and the words of evaluation.

Diagrams are written with their bytes on disk, except those that verl, which decodes them itself,
would show differently (transparent, rotated by EXIF, 16-bit): these become a PNG of the pixels that
`core.images` gives.

Differs from the original: diagrams are written in groups of some megabytes instead of being in
memory all at once; files appear whole or not at all; a faulty record stops the command and is
reported; and the metadata that `datasets` adds (it ties a file to its version) is replaced by the
variant and the style.
"""

from __future__ import annotations

import contextlib
import gc
import json
from array import array
from collections.abc import (
    Callable,
    Container,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Sized,
)
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core.disk import replacing
from modgap.core.errors import UserError, command_line, unknown
from modgap.core.files import open_regular
from modgap.core.places import check_writable
from modgap.core.problem import Problem
from modgap.core.prompt import (
    INSTRUCTION,
    TRANSCRIBE_INSTRUCTION,
    Style,
    check_style,
    contrastive_question,
    structural_conditions,
    training_question,
    twin_prompt,
)
from modgap.core.record import RunFolder
from modgap.core.text import counted
from modgap.datasets import pgps9k
from modgap.datasets.faults import Progress, glance, unusual_images

if TYPE_CHECKING:
    import pyarrow as pa

VARIANTS = ("full-text", "no-text", "contrastive")
SOURCE = "9k"
"""`data_source` of the original's rows."""
ROW_GROUP_BYTES = 4 << 20
"""A row group is written when its words and diagrams reach this size, so that memory is bounded."""

_DIAGRAM = "images.list.element.bytes"
TRANSCRIBE = "transcribe"
"""A variant of our own engine alone."""
_VIEWS = {"full-text": "full-text", "no-text": "image-only", TRANSCRIBE: "transcribe"}


@dataclass(frozen=True, slots=True)
class PrepareSummary:
    """What was written.

    Attributes:
        out: The folder.
        variant: One of `VARIANTS`.
        style: `paper`, `paper-author` (the same words) or `aligned`.
        rows: Split to the rows of its file.
        size: Split to the bytes of its file.
    """

    out: Path
    variant: str
    style: Style
    rows: dict[str, int]
    size: dict[str, int]

    def __str__(self) -> str:
        files = ", ".join(
            f"{self.out / split}.parquet ({counted(rows, 'row')}, {self.size[split] / 1e6:.1f} MB)"
            for split, rows in self.rows.items()
        )
        return f"{self.variant}, {self.style} style: {files}"


def prepare(
    folder: str | Path,
    out: str | Path,
    variant: str,
    style: str = "aligned",
    splits: Sequence[str] = pgps9k.SPLITS,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
    *,
    allow_outside: bool = False,
    force: bool = False,
) -> PrepareSummary:
    """Write `train.parquet` and `test.parquet` of a folder in PGPS9K's layout.

    Files of the same variant and style are replaced when all of the new ones are complete.

    Args:
        folder: The data set.
        out: Folder for the files; created if it does not exist.
        variant: `full-text`, `no-text` (conditions in the image only) or `contrastive` (both, for
            the contrastive KL).
        style: `paper`, `paper-author` (the same words) or `aligned`.
        splits: Which splits.
        progress: Called with the number of written rows of all splits.
        warn: Called with each line on unusual images, before anything is written.
        allow_outside: Links in the folder may lead out of it.
        force: Also replace files of another variant or style.

    Raises:
        UserError: An argument, a file or a record is faulty; nothing is written then.
    """
    folder, out, chosen = Path(folder), Path(out), check_style(style)
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    if out.resolve() in (folder.resolve(), (folder / pgps9k.DIAGRAMS).resolve()):
        raise UserError(f"--out {out} is the data set itself: give another folder as --out.")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder as --out.")
    check_writable(out)
    for split in splits:
        _check_replaced(out / f"{split}.parquet", variant, chosen, force)
    with _no_search_for_cycles():
        # Every record is checked before anything is written, so that a faulty one stops the command
        # early. Without the bytes of their diagrams, problems are small: they are kept for the
        # second pass.
        found = {
            split: list(pgps9k.read(folder, split, allow_outside=allow_outside)) for split in splits
        }
        return _prepare(folder, out, variant, chosen, found, progress, warn)


def _check_replaced(path: Path, variant: str, style: Style, force: bool) -> None:
    """Refuse a file that must not be replaced. Raises `UserError`."""
    if not path.exists():
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    made: dict[str, str] = {}
    with contextlib.suppress(pa.ArrowInvalid, OSError, ValueError), open_regular(path) as file:
        made = json.loads((pq.read_schema(file).metadata or {}).get(b"modgap", b"{}"))
    if not made:
        raise UserError(f"{path} was not made by modgap data prepare: give another --out.")
    if made != {"variant": variant, "style": style} and not force:
        raise UserError(
            f"{path} holds the variant {made.get('variant')} in {made.get('style')} style: give"
            " another --out, or --force to replace it."
        )


def _prepare(
    folder: Path,
    out: Path,
    variant: str,
    style: Style,
    found: Mapping[str, list[Problem]],
    progress: Progress | None,
    warn: Callable[[str], None] | None,
) -> PrepareSummary:
    total = sum(map(len, found.values()))
    unusual = _unusual_images(
        folder, [problem for problems in found.values() for problem in problems], warn
    )
    if not total:
        raise UserError(
            f"{folder} holds no problem in {' or '.join(found) or 'no split'}: nothing to prepare."
        )
    rows: dict[str, int] = {}
    try:
        # All are written before one is replaced; the lock removes what a killed process left.
        with RunFolder(out).lock(), contextlib.ExitStack() as replaced:
            parts = {
                split: replaced.enter_context(replacing(out / f"{split}.parquet"))
                for split in found
            }
            for split, part in parts.items():
                problems = _counted(found[split], sum(rows.values()), total, progress)
                rows[split] = write_parquet(
                    problems, part, variant, style, root=folder, unusual=unusual
                )
            size = {split: part.stat().st_size for split, part in parts.items()}
    except OSError as error:
        at_fault = error.filename and Path(error.filename).is_relative_to(folder)
        remedy = "fix that" if at_fault else "fix that, or choose another --out"
        raise UserError(f"cannot prepare {folder} in {out} ({error}): {remedy}.") from error
    return PrepareSummary(out, variant, style, rows, size)


def _unusual_images(
    folder: Path, problems: Sequence[Problem], warn: Callable[[str], None] | None
) -> set[Path | bytes | None]:
    """The images that may need a conversion; refuses those that cannot be decoded."""
    images = glance(problems)
    if broken := [f"{name} {image.error}" for name, image in images if image.error]:
        more = f" ({len(broken) - 1} more like it)" if len(broken) > 1 else ""
        raise UserError(
            f"the diagram of {broken[0]}{more}: replace it, or leave the problem out;"
            f" `{command_line('data', 'check', folder)}` names every fault."
        )
    for fault in unusual_images(images, ""):
        if warn:
            warn(fault.message)
    return {
        problem.image for problem, (_, image) in zip(problems, images, strict=True) if image.kinds
    }


@contextlib.contextmanager
def _no_search_for_cycles() -> Generator[None]:
    """Pause the garbage collector while problems and rows are built.

    They hold no reference cycles, and scanning thousands of them repeatedly takes a tenth of the
    time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def write_parquet(
    problems: Iterable[Problem],
    path: Path,
    variant: str,
    style: Style,
    root: Path | None = None,
    unusual: Container[Path | bytes | None] | None = None,
    *,
    source: str = SOURCE,
    beside: Beside | None = None,
) -> int:
    """Write one file, holding no more than two row groups in memory.

    Args:
        problems: What to write, each with a diagram.
        path: The file.
        variant: One of `VARIANTS`.
        style: `paper`, `paper-author` (the same words) or `aligned`.
        root: Folder that `images[].path` is relative to; without it that is the file's name.
        unusual: The images that may need a conversion, if the caller knows them; else each one is
            inspected.
        source: The rows' `data_source`.
        beside: What the objective and the reward of our own engine need beside the original's
            columns.

    Returns:
        The number of rows.
    """
    import pyarrow.parquet as pq

    schema = _schema(variant, beside).with_metadata(
        {"modgap": json.dumps({"variant": variant, "style": style})}
    )
    # No dictionaries: prompts and diagrams hardly repeat, and looking them up costs more than it
    # saves. Diagrams are compressed already, and statistics of their bytes are useless. (Any:
    # pyarrow's stubs know neither a mapping nor a list here.)
    names = [name for field in schema for name in _leaves(field.name, field.type)]
    how: Any = {name: "NONE" if name == _DIAGRAM else "SNAPPY" for name in names}
    with_statistics: Any = [name for name in names if name != _DIAGRAM]
    rows = 0
    with (
        pq.ParquetWriter(
            path, schema, use_dictionary=False, compression=how, write_statistics=with_statistics
        ) as writer,
        ThreadPoolExecutor(1) as pool,  # one group is written while the next one is made
    ):
        written: Future[None] | None = None
        for group, diagrams in _groups(problems, unusual):
            columns = _columns(group, diagrams, variant, style, root)
            columns["data_source"] = [source] * len(group)
            if beside is not None:
                _add_beside(columns, group, beside, style)
            table = _table(columns, len(group), schema)
            if written:
                written.result()
            written = pool.submit(writer.write_table, table)
            rows += len(group)
        if written:
            written.result()
    return rows


@dataclass(frozen=True, slots=True)
class Beside:
    """What rows hold beside the original's columns.

    Attributes:
        rollout: The view of the rows.
        twins: Views of the twins. The column `twin_prompts` is JSON: the rollout's `view`, and
            `twins`, view -> content.
        conditions: Whether `extra_info` has the true conditions, as JSON, and the question.
    """

    rollout: str
    twins: tuple[str, ...] = ()
    conditions: bool = False


def _add_beside(
    columns: dict[str, Any], problems: Sequence[Problem], beside: Beside, style: Style
) -> None:
    columns["twin_prompts"] = []
    for problem in problems:
        words: dict[str, str] = {}
        for twin in beside.twins:
            prompt = twin_prompt(problem, beside.rollout, twin, style)
            words[twin] = ("<image>" if prompt.has_image else "") + prompt.text
        columns["twin_prompts"].append(json.dumps({"view": beside.rollout, "twins": words}))
    if beside.conditions:
        known = [(*structural_conditions(p, style), *p.semantic) for p in problems]
        columns["extra_info"]["conditions"] = [json.dumps(words) for words in known]
        columns["extra_info"]["asked"] = [problem.question for problem in problems]


def _groups(
    problems: Iterable[Problem], unusual: Container[Path | bytes | None] | None
) -> Iterator[tuple[list[Problem], list[bytes]]]:
    """Problems and their diagrams, a row group at a time."""
    group, diagrams, size = list[Problem](), list[bytes](), 0
    for problem in problems:
        group.append(problem)
        as_it_is = unusual is not None and problem.image not in unusual
        diagrams.append(problem.image_bytes() if as_it_is else problem.plain_image())
        size += len(diagrams[-1]) + 2000
        if size >= ROW_GROUP_BYTES:
            yield group, diagrams
            group, diagrams, size = [], [], 0
    if group:
        yield group, diagrams


def _columns(
    problems: Sequence[Problem],
    diagrams: Sequence[bytes],
    variant: str,
    style: Style,
    root: Path | None,
) -> dict[str, Any]:
    """Problems as verl reads them, column by column: values, or a mapping for fields.

    Of a list, its one item.
    """
    answers = [problem.answer for problem in problems]
    extra = {
        "split": [problem.split for problem in problems],
        "index": [problem.index for problem in problems],
        "answer": answers,
    }

    def always(value: Any) -> list[Any]:
        return [value] * len(problems)

    def turn(questions: list[str], instruction: str = INSTRUCTION) -> dict[str, list[str]]:
        return {
            "role": always("user"),
            "content": [f"<image>{words}\n{instruction}" for words in questions],
        }

    columns: dict[str, Any] = {
        "images": {"bytes": diagrams, "path": [_image_path(problem, root) for problem in problems]},
        "ability": always("math"),
        "reward_model": {"style": always("rule"), "ground_truth": answers},
        "extra_info": extra,
    }
    if variant == "contrastive":
        full = [
            training_question(problem, "full-text", style, contrastive=True) for problem in problems
        ]
        free = [contrastive_question(problem, style) for problem in problems]
        extra |= {"question_with_condition": full, "question_without_condition": free}
        return columns | {
            "prompt": turn(full),
            "contrastive_prompt": turn(free),
            "is_contrastive": always(True),
        }
    extra["question"] = [training_question(problem, _VIEWS[variant], style) for problem in problems]
    if variant == TRANSCRIBE:
        return columns | {"prompt": turn(extra["question"], TRANSCRIBE_INSTRUCTION)}
    return columns | {"prompt": turn(extra["question"])}


def _image_path(problem: Problem, root: Path | None) -> str | None:
    if not isinstance(problem.image, Path):
        return None
    if root is None:
        return problem.image.name
    path, above = problem.image.as_posix(), f"{root.as_posix()}/"
    return (
        path[len(above) :] if path.startswith(above) else problem.image.relative_to(root).as_posix()
    )


def _schema(variant: str, beside: Beside | None = None) -> pa.Schema:
    """Columns in the original's order."""
    import pyarrow as pa

    text = pa.string()
    turns = pa.list_(pa.struct({"role": text, "content": text}))
    extra = {"split": text, "index": pa.int64(), "answer": text}
    columns: dict[str, pa.DataType]
    if variant == "contrastive":
        columns = {
            "prompt": turns,
            "contrastive_prompt": turns,
            "is_contrastive": pa.bool_(),
            "data_source": text,
        }
        extra |= {"question_with_condition": text, "question_without_condition": text}
    else:
        columns = {"data_source": text, "prompt": turns}
        extra |= {"question": text}
    if beside is not None:
        columns["twin_prompts"] = text
    if beside is not None and beside.conditions:
        extra |= {"conditions": text, "asked": text}
    columns |= {
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": text})),
        "ability": text,
        "reward_model": pa.struct({"style": text, "ground_truth": text}),
        "extra_info": pa.struct(extra),
    }
    return pa.schema(columns)


def _leaves(name: str, kind: pa.DataType) -> Iterator[str]:
    """The names that parquet gives to a column and to its nested fields."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        yield from _leaves(f"{name}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{name}.{field.name}", field.type)
    else:
        yield name


def _table(columns: Mapping[str, Any], rows: int, schema: pa.Schema) -> pa.Table:
    """Columns as a table.

    Arrow's own constructors import pandas if it is installed: a tenth of the time and 70 MB.
    """
    import pyarrow as pa

    return pa.Table.from_arrays(
        [_column(columns[f.name], rows, f.type) for f in schema], schema=schema
    )


def _column(values: Any, rows: int, kind: pa.DataType) -> pa.Array:
    """A column built from Arrow buffers; only a string may be `None`."""
    import pyarrow as pa

    def made(*buffers: Any, children: Sequence[pa.Array] = (), known: Any = None) -> pa.Array:
        parts = [known, *(pa.py_buffer(buffer) for buffer in buffers)]
        return pa.Array.from_buffers(kind, rows, parts, children=children or None)

    if pa.types.is_struct(kind):
        return made(children=[_column(values[field.name], rows, field.type) for field in kind])
    if pa.types.is_list(kind):
        return made(array("i", range(rows + 1)), children=[_column(values, rows, kind.value_type)])
    if pa.types.is_string(kind):
        known = (
            pa.py_buffer(_bits([value is not None for value in values])) if None in values else None
        )
        words = [(value or "").encode() for value in values]
        return made(_offsets(words), b"".join(words), known=known)
    if pa.types.is_binary(kind):
        return made(_offsets(values), b"".join(values))
    return made(_bits(values) if pa.types.is_boolean(kind) else array("q", values))


def _offsets(parts: Sequence[Sized]) -> array[int]:
    """The offset of each part in the concatenation, and the end of the last one."""
    return array("i", accumulate(map(len, parts), initial=0))


def _bits(flags: Sequence[bool]) -> bytes:
    """Eight flags a byte, the first in the lowest bit."""
    return int("0" + "".join("01"[flag] for flag in reversed(flags)), 2).to_bytes(
        len(flags) // 8 + 1, "little"
    )


def _counted(
    problems: Iterable[Problem], done: int, total: int, progress: Progress | None
) -> Iterator[Problem]:
    for number, problem in enumerate(problems, start=done + 1):
        yield problem
        if progress:
            progress(number, total)
