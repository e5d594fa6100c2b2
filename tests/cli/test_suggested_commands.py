"""Every command that a message, a report or a page of documentation suggests can be pasted."""

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
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")))
    if path.name not in ("cli.md", "LOG.md")
]
SUBCOMMANDS = {name for name in app if not name.startswith("-")}
# What stands for a value in a suggestion: any word is a value to the parser, but some are checked.
VALUES = {"$SLURM_GPUS_ON_NODE": "8"}


def suggested(text: str) -> Iterator[str]:
    """Commands in a text: in backticks, or from `modgap` to the end of a line of a code block."""
    for found in re.findall(r"`(modgap [^`]+)`", text):
        yield found
    for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:^|exec |; ?|^\s+)(modgap\s.*)", line):
                yield found[1]


def parsed(command: str) -> None:
    """Parses a command as the command line does, without running it."""
    words = shlex.split(command.split(" #")[0].replace("...", ""), comments=True)[1:]
    words = [word for word in words if word not in (";", "&&", "do", "done", "\\")]
    app.parse_args(
        [VALUES.get(word, word) for word in words], exit_on_error=False, print_error=False
    )


def is_name(command: str) -> bool:
    """Whether a command is only named, not suggested: its name without an option or argument."""
    words = command.split()
    return len(words) <= (3 if words[1] in ("data", "model") else 2)


def in_the_pages() -> list[tuple[str, str]]:
    found: dict[tuple[str, str], None] = {}
    for page in PAGES:
        for command in suggested(page.read_text(encoding="utf-8")):
            if not is_name(command):
                found[page.name, " ".join(command.split())] = None
    return list(found)


# Prose that names an option of a command, or leaves out what the sentence before says.
SHORT = re.compile(r"\.\.\.|\$ARGS|\[--")


@pytest.mark.parametrize("page, command", in_the_pages())
def test_a_command_of_the_documentation_parses(page: str, command: str) -> None:
    if SHORT.search(command):
        pytest.skip("an extract")
    try:
        parsed(command)
    except cyclopts.CycloptsError as error:
        pytest.fail(f"{page}: {command}: {' '.join(str(error).split())}")


def messages() -> list[tuple[str, str]]:
    """Commands in the strings of the source that are not docstrings; values are one word each."""
    found: dict[tuple[str, str], None] = {}
    for path in sorted((ROOT / "src/modgap").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
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


@pytest.mark.parametrize("path, command", messages())
def test_a_command_of_a_message_parses(path: str, command: str) -> None:
    try:
        parsed(command)
    except cyclopts.CycloptsError as error:
        pytest.fail(f"{path}: `{command}`: {' '.join(str(error).split())}")


def test_there_are_commands_to_check() -> None:
    assert len(in_the_pages()) > 40 and len(messages()) > 3


@pytest.mark.parametrize("name", ["my data", "it's", "--out", "a;b"])
def test_a_suggested_path_is_quoted(name: str) -> None:
    command = command_line("data", "check", f"runs/{name}", "--benchmark", "pairs")
    words = shlex.split(command)
    assert words[3] == f"runs/{name}"
    assert app.parse_args(words[1:])[1].arguments["folder"] == Path(f"runs/{name}")
