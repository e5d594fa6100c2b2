"""Nothing that a terminal obeys is printed, wherever it comes from, and no key."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import modgap
from modgap.cli.main import main
from modgap.core import secrets
from modgap.core.progress import say, show
from modgap.core.text import printable
from modgap.core.view import ALL_VIEWS
from modgap.datasets.faults import Fault
from modgap.reporting.page import csv_text
from modgap.reporting.tables import Table, as_markdown
from modgap.reporting.terminal import as_rich, print_line

ESCAPES = ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\r", "\b", "\u202e", "\u2066", "\u200f",
           "\u2028", "\x00", "\ud800", "\U000e0041"]  # fmt: skip


@pytest.mark.parametrize("escape", ESCAPES, ids=ascii)
def test_escapes_are_spelled_out_wherever_words_are_printed(
    escape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show("a", f"b{escape}c")
    say(f"b{escape}c")
    file = io.StringIO()
    console = Console(file=file, width=80)
    print_line(console, f"b{escape}c")
    console.print(as_rich(Table(f"b{escape}c", (f"b{escape}c",), ((f"b{escape}c",),))))
    main(["report", f"b{escape}c".replace("\0", "")])
    main([f"b{escape}c"])
    row = {"id": f"b{escape}c", "answer": "?", "prompts": {"full-text": "x", f"b{escape}c": "y"}}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    main(["data", "check", str(tmp_path / "p.jsonl"), "--benchmark", "pairs"])
    for text in (*capsys.readouterr(), file.getvalue()):
        assert escape not in text and "b" in text
        assert not any(character in text for character in escape if not character.isprintable())


@pytest.mark.parametrize("run", ["a", "qwen2.5-vl-3b-instruct/seed0"])
@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("plain", [True, False])
def test_the_name_of_a_view_breaks_at_hyphens_only(run: str, width: int, plain: bool) -> None:
    cells = ("99.9 (98.2 to 100.0)", "1,600", "1,600", "0", "0", "1,600")
    head = ("run", "view", "accuracy %", "right", "wrong", "none", "error", "of")
    for view in (*ALL_VIEWS, "partial-text-25", "rendered-text-32"):
        file = io.StringIO()
        table = Table("x", head, ((run, view, *cells),), left=2)
        Console(file=file, width=width).print(as_rich(table, plain=plain))
        words = set(file.getvalue().split())
        cuts = [at for at, letter in enumerate(view, start=1) if letter == "-"]
        assert view in words or any({view[:at], view[at:]} <= words for at in cuts), view


def test_what_a_reader_needs_is_printed_as_it_is() -> None:
    text = "tab\t, line\n, \u6f22, \u05d0, e\u0301, \U0001f468\u200d\U0001f469, −1 \\frac"
    assert printable(text) == text


def test_keys_are_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(secrets, "_known", {})
    show("at http://me:sk-abcdefgh@host/v1")
    main(["eval", "--api-key", "sk-abcdefgh", "--model", "m"])
    main(["eval", "--api-key-env", "sk-abcdefgh", "--engine", "openai", "--model", "m",
          "--data", "x", "--out", "y"])  # fmt: skip
    main(["grade", "x", "--judge", "http://u:sk-abcdefgh@h/v1", "--api-key-env", "sk-ijklmnop"])
    out, err = capsys.readouterr()
    assert out == "at http://[key]@host/v1\n"
    assert "sk-abcdefgh" not in err and "sk-ijklmnop" not in err
    assert err.count("modgap: ") == 3


@pytest.mark.parametrize("before", range(256, 288, 4))
def test_no_half_of_a_key_stays_where_a_long_line_is_cut(
    before: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(secrets, "_known", {})
    secrets.keep_out("sk-abcdefghijklmnopqrstuvwxyz")
    say(f"{'x ' * (before // 2)}sk-abcdefghijklmnopqrstuvwxyz {'y ' * 200}")
    err = capsys.readouterr().err
    assert " ... " in err and "sk-" not in err and "wxyz" not in err


def test_one_function_prints() -> None:
    """Two programs talk to the process that started them: they do not print for a person."""
    root = Path(modgap.__file__).parent
    found: set[str] = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name) and node.id == "print":
                found.add(str(path.relative_to(root)))
    assert found == {"core/progress.py", "grading/symbolic.py", "training/verl/run.py"}


def test_a_fault_is_one_line() -> None:
    assert "\n" not in str(Fault("f", "id\nerror: forged", "kind", "words\r\nmore"))


@pytest.mark.parametrize(
    "cell", ["=1+1", "+A1", "-A1", "@sum", "\t=1", "\r=1", "-0.5-A1", "\uff1d1"]
)
def test_a_spreadsheet_takes_no_cell_for_a_formula(cell: str) -> None:
    text = csv_text(Table("", (cell,), ((cell,),)))
    assert text.count(f"'{cell.rstrip()}") == 2


@pytest.mark.parametrize(
    "cell", ["-0.5", "+3.1", "-1,200", "-1e-05", "-12.5%", "0.5", "a-b", "-.5"]
)
def test_numbers_and_plain_words_stay_as_they_are(cell: str) -> None:
    assert csv_text(Table("", ("x", "y"), (("n", cell),), left=2)).splitlines()[1] in (
        f"n,{cell}", f'n,"{cell}"',
    )  # fmt: skip


def test_names_do_not_break_a_table_of_markdown() -> None:
    name = "a\nb|c\\|d\r\ne\u2028f"
    lines = as_markdown([Table(name, (name, "x"), ((name, "1"),))]).splitlines()
    assert lines[0] == "**a b|c\\|d e f**" and len(lines) == 5
    assert lines[2] == "| a b\\|c\\\\\\|d e f | x |"
