"""The commands that make a `pairs` data set: `data init` and `data convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from modgap.cli.data import data_app, print_check
from modgap.core.errors import UsageError, command_line
from modgap.core.options import AllowOutside
from modgap.core.progress import show
from modgap.core.text import counted


@data_app.command
def init(*, out: Path, force: bool = False) -> None:
    """Write an annotated example of problems of one's own: JSONL, images, a JSON schema, notes.

    ```
    modgap data init --out mine
    ```

    Args:
        out: Folder to write.
        force: Replace a problems.jsonl that is there.
    """
    from modgap.datasets.pairs_example import example_lines, write_example

    file = write_example(out, force=force)
    count = counted(len(example_lines()), "problem")
    show(f"{count} in {file}; {out / 'README.md'} explains the keys")
    show(f"check it: {command_line('data', 'check', out, '--benchmark', 'pairs')}")


@data_app.command
def convert(
    source: str,
    *,
    out: Path,
    columns: Annotated[
        tuple[str, ...], Parameter(name="--column", negative=(), consume_multiple=True)
    ] = (),
    split: str | None = None,
    limit: int | None = None,
    allow_outside: AllowOutside = False,
    force: bool = False,
) -> int:
    """Turn a table of problems into the JSONL of --benchmark pairs, and check it.

    The exit code is 1 if a problem cannot be used as it is.


    ```
    modgap data convert train.parquet --out mine --column text=problem conditions=premises
    modgap data convert ORG/NAME --split test --out mine --column full-text=long image-only=short
    ```

    Args:
        source: A parquet, JSON, CSV or Arrow file, a folder of them (such as `datasets` saves), or
            a data set of the Hugging Face hub, ORG/NAME.
        out: Folder for problems.jsonl and images/.
        columns: TARGET=COLUMN, repeatable. Targets: id, image, text, conditions, answer, answers,
            tolerance, choices, type, subject, question, and the views; without it the column of the
            same name is taken. COLUMN may be a field, metadata.subject.
        split: Which split, where there are several.
        limit: Only this number of rows, from the first.
        allow_outside: Images may be outside the source's folder.
        force: Replace a problems.jsonl that is there.
    """
    from modgap.core.progress import progress_bars
    from modgap.datasets.convert import convert as write

    chosen: dict[str, str] = {}
    for text in columns:
        target, equals, column = text.partition("=")
        if not (target and equals and column):
            raise UsageError(f"--column {text}: give TARGET=COLUMN, e.g. text=question.")
        if chosen.setdefault(target, column) != column:
            raise UsageError(f"--column {text}: {target} is {chosen[target]} already; keep one.")
    with progress_bars() as bars:
        bars.doing(f"reading {source}")
        done = write(
            source, out, chosen, split=split, limit=limit, allow_outside=allow_outside, force=force,
            progress=bars.counter("converting"),
        )  # fmt: skip
    taken = ", ".join(f"{target} from {column}" for target, column in done.columns.items())
    show(f"{counted(done.rows, 'row')} in {done.file}: {taken or 'no column was taken'}")
    print_check(done.report)
    return 0 if done.report.ok else 1
