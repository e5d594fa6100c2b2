r"""Tables for papers, and the files that a report writes of them.

LaTeX (booktabs) and CSV beside Markdown.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from modgap.analysis.cells import Sweep, write_cells
from modgap.analysis.results import ReportSummary
from modgap.core.record import write_text
from modgap.core.text import as_utf8
from modgap.reporting import tables as t
from modgap.reporting.seed_tables import as_markdown, seed_tables

_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%",
        "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
        "−": "$-$", "–": "--", "—": "---", "\x00": "",
    }
)  # fmt: skip
_INTERVAL = "95% interval"


def latex(table: t.Table, label: str = "") -> str:
    r"""A `table` with a booktabs `tabular`, every cell escaped; needs `\usepackage{booktabs}`.

    Args:
        table: The cells.
        label: For `\ref`; none by default.
    """
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{_cell(table.caption)}}}",
        *([rf"\label{{{label}}}"] if label else []),
        rf"\begin{{tabular}}{{{'l' * table.left}{'r' * (len(table.head) - table.left)}}}",
        r"\toprule",
        _line(table.head),
        r"\midrule",
    ]
    for number, row in enumerate(table.rows):
        same = number > 0 and table.left > 1 and table.rows[number - 1][0] == row[0]
        if number and table.left > 1 and not same:
            lines.append(r"\addlinespace")
        lines.append(_line(("", *row[1:]) if same else row))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _line(cells: tuple[str, ...]) -> str:
    return f"{' & '.join(map(_cell, cells))} \\\\"


def _cell(text: str) -> str:
    # Braces keep `[` from being read as the length of the `\\` before it.
    escaped = " ".join(text.split()).translate(_ESCAPES)
    return f"{{{escaped}}}" if escaped.startswith(("[", "*")) else escaped


def csv_text(table: t.Table) -> str:
    """The table as CSV.

    Plain minus signs, empty cells for unknown values, an interval in two columns.
    """
    low_high = [number for number, name in enumerate(table.head) if name == _INTERVAL]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head: list[str] = []
    for number, name in enumerate(table.head):
        head += (
            [f"{table.head[number - 1]} low", f"{table.head[number - 1]} high"]
            if number in low_high
            else [name]
        )
    writer.writerow(head)
    for row in table.rows:
        cells: list[str] = []
        for number, cell in enumerate(row):
            plain = cell if number < table.left else _plain(cell)
            cells += ([*plain.split(" to "), ""][:2]) if number in low_high else [plain]
        writer.writerow(cells)
    return buffer.getvalue()


def _plain(cell: str) -> str:
    return "" if cell in ("–", "—") else cell.replace("−", "-").removeprefix("+").removesuffix("*")


def write_seeds(
    numbers: ReportSummary, sweeps: Sequence[Sweep], folder: Path, source: str
) -> list[Path]:
    """Write the tables over seeds as one Markdown page, and `cells.json`.

    `modgap report` makes the page again from `cells.json`.

    Args:
        numbers: As `build_report` returns them.
        sweeps: What they were made from.
        folder: Made if need be.
        source: What the report was made of, as the command line has it; the page names the command.

    Returns:
        The files.
    """
    pages = folder / "cells.json", folder / "seeds.md"
    write_cells(sweeps, pages[0])
    write_text(pages[1], as_utf8(as_markdown(numbers.seeds, source)))
    return list(pages)


def write_tables(numbers: ReportSummary, folder: Path) -> list[Path]:
    """Write every table of a report as `table-NAME.tex`, `.csv` and `.md`.

    Args:
        numbers: As `build_report` returns them.
        folder: Made if need be.

    Returns:
        The files.
    """
    from modgap.reporting.mathverse import mathverse_tables
    from modgap.reporting.paper import paper_tables

    named = t.every_table(numbers)
    for number, part in enumerate(numbers.seeds, start=1):
        several = f"-{number}" if len(numbers.seeds) > 1 else ""
        named |= {f"{name}{several}": table for name, table in seed_tables(part).items()}
    named |= {
        f"mathverse-{number}": table
        for number, table in enumerate(mathverse_tables(numbers.runs), start=1)
    }
    if numbers.paper is not None:
        named |= {
            f"paper-{number}": table for number, table in enumerate(paper_tables(numbers), start=1)
        }
    written: list[Path] = []
    for name, table in named.items():
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        texts = {
            "tex": latex(table, f"tab:{stem}"),
            "csv": csv_text(table),
            "md": t.as_markdown([table]),
        }
        for ending, text in texts.items():
            path = folder / f"table-{stem}.{ending}"
            write_text(path, as_utf8(text))
            written.append(path)
    return written
