"""The pages of the documentation: their code blocks, links and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "bench" / "README.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_HEREDOC = re.compile(r"<<'?(\w+)'?\n.*?^\1$", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [code for kind, code in found if kind == language]


def without_code(text: str) -> str:
    """A page without its code, in which brackets are no links."""
    return re.sub(r"`[^`\n]*`", "`code`", _BLOCK.sub("", text))


def commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a shell script, as words: enough for what our pages show."""
    joined = _HEREDOC.sub("", script).replace("\\\n", " ")
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= set(";&|") or word in ("do", "done", "then", "fi", "exec"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)
        if words:
            yield words


def modgap_commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each `modgap` command in the page's bash blocks."""
    for block in blocks(page, "bash"):
        for words in commands(block):
            if "modgap" in words:  # also behind `ray job submit ... --` and `srun ...`
                yield words[words.index("modgap") + 1 :]
