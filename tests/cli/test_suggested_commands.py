"""Every command that a message or a report suggests can be pasted; pages: tests/docs."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import cyclopts
import pytest

from modgap.cli.main import app
from modgap.core.errors import command_line

ROOT = Path(__file__).parents[2]
SUBCOMMANDS = {name for name in app if not name.startswith("-")}


def suggested(text: str) -> Iterator[str]:
    """The commands of a text, in backticks."""
    yield from re.findall(r"`(modgap [^`]+)`", text)


def parsed(command: str) -> None:
    """Parses a command as the command line does, without running it."""
    words = shlex.split(command.replace("...", ""))[1:]
    app.parse_args(words, exit_on_error=False, print_error=False)


def is_name(command: str) -> bool:
    """Whether a command is only named, not suggested: its name without an option or argument."""
    words = command.split()
    return len(words) <= (3 if words[1] in ("data", "model") else 2)


def messages() -> list[tuple[str, str]]:
    """Commands in the strings of the source that are not docstrings; values are one word each."""
    found: dict[tuple[str, str], None] = {}
    for path in sorted((ROOT / "src/modgap").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if not re.search(
            r"`\W*f?\W*modgap\b", text
        ):  # also where a string continues in the next line
            continue
        nodes = list(ast.walk(ast.parse(text)))
        docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if id(node) in docs or not isinstance(node, ast.Constant | ast.JoinedStr):
                continue
            for command in suggested(_text(node)):
                if command.split()[1] in SUBCOMMANDS and not is_name(command):
                    found[str(path.relative_to(ROOT)), command] = None
    return list(found)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    parts = node.values if isinstance(node, ast.JoinedStr) else []
    return "".join(_text(part) if isinstance(part, ast.Constant) else "VALUE" for part in parts)


MESSAGES = messages()


@pytest.mark.parametrize("path, command", MESSAGES)
def test_a_command_of_a_message_parses(path: str, command: str) -> None:
    try:
        parsed(command)
    except cyclopts.CycloptsError as error:
        pytest.fail(f"{path}: `{command}`: {' '.join(str(error).split())}")


def test_there_are_commands_to_check() -> None:
    assert len(MESSAGES) > 3


@pytest.mark.parametrize("name", ["my data", "it's", "--out", "a;b"])
def test_a_suggested_path_is_quoted(name: str) -> None:
    command = command_line("data", "check", f"runs/{name}", "--benchmark", "pairs")
    words = shlex.split(command)
    assert words[3] == f"runs/{name}"
    assert app.parse_args(words[1:])[1].arguments["folder"] == Path(f"runs/{name}")
