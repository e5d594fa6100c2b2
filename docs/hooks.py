"""mkdocs hooks: the table of results is rendered from `docs/results/*.json` at every build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MARK = "<!-- results -->"
FOLDER = Path(__file__).parent / "results"
_HEAD = (
    "| model | recipe | problems | text % | image % | gap, points | seeds | sampling | source |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |\n"
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables where a page asks for them."""
    return markdown.replace(MARK, results_tables(FOLDER)) if MARK in markdown else markdown


def results_tables(folder: Path) -> str:
    """One table for each benchmark, then the rows that nobody has measured yet.

    Args:
        folder: Holds files of the format `modgap results 1`.

    Returns:
        Markdown.
    """
    rows: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*.json")):
        rows += json.loads(file.read_text(encoding="utf-8"))["rows"]
    parts: list[str] = []
    rows.sort(key=lambda row: not row["measured"])  # benchmarks with a number first
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        of_it = [row for row in rows if row["benchmark"] == benchmark]
        parts.append(f"## {benchmark}\n")
        if measured := [row for row in of_it if row["measured"]]:
            parts.append(_HEAD + "".join(_line(row) for row in measured))
        if empty := [row for row in of_it if not row["measured"]]:
            todo = "\n".join(_todo(row) for row in empty)
            parts.append(f"Not measured yet. The command fills a row:\n\n{todo}\n")
    return "\n".join(parts) or "No results are recorded yet."


def _line(row: dict[str, Any]) -> str:
    got = row["measured"]
    cells = (
        _cell(row["model"]),
        _cell(row["recipe"] or "–"),
        f"{got['problems']:,}",
        _estimate(got["text"]),
        _estimate(got["image"]),
        _estimate(got["gap"], sign="+"),
        str(got["seeds"]),
        f"{got['samples']} at {got['temperature']}, {got['engine']}, {got['mode']}",
        _source(got.get("source") or ""),
    )
    return f"| {' | '.join(cells)} |\n"


def _estimate(value: dict[str, float], sign: str = "") -> str:
    """A value with its interval."""
    return f"{value['value']:{sign}.1f} ({value['low']:.1f} to {value['high']:.1f})"


def _source(text: str) -> str:
    """A source as a link, if it is an address."""
    return f"[link]({text})" if text.startswith("https://") else _cell(text)


def _todo(row: dict[str, Any]) -> str:
    name = f"{row['model']}, {row['recipe']}" if row["recipe"] else row["model"]
    note = f" {row['note']}" if row.get("note") else ""
    return f"- {_cell(name)}: `{row['command']}`{_cell(note)}"


def _cell(text: str) -> str:
    """Text that keeps a Markdown table whole and is no HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
