"""`modgap init`, the completion of shells, and what help shows."""

from __future__ import annotations

import io
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from cyclopts import App
from folders import write_folder

from modgap.cli import start
from modgap.cli.config import with_config
from modgap.cli.main import app, main
from modgap.core.errors import UserError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def commands(at: App = app, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command that does something, by its words."""
    found: list[tuple[str, ...]] = []
    for name in at:
        if not name.startswith("-"):
            found += commands(at[name], (*above, name)) or [(*above, name)]
    return found


def written(*arguments: str, out: Path) -> dict[str, object]:
    assert main(["init", *arguments, "--out", str(out)]) == 0
    return tomllib.loads(out.read_text())


def test_options_alone_write_a_file_that_eval_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = tmp_path / "my config.toml", tmp_path / 'a "b".jsonl'
    data.write_text('{"id": "1", "full-text": "Find x."}\n')
    options = ["--model", "org/name", "--engine", "openai", "--base-url", "http://localhost:1/v1"]
    found = written(*options, "--data", str(data), out=out)
    assert found == {
        "model": "org/name",
        "benchmark": "pairs",
        "data": str(data),
        "eval": {"engine": "openai", "out": "runs/name-a-b", "base-url": "http://localhost:1/v1"},
    }
    (command,) = re.findall(r"measure it: modgap (.*)", capsys.readouterr().out)
    words = shlex.split(command)
    _, bound, _ = app.parse_args(with_config(app, words), exit_on_error=False, print_error=False)
    app.config = ()
    chosen = bound.arguments["options"]
    assert (bound.arguments["model"], bound.arguments["data"]) == ("org/name", data)
    assert (chosen.engine, chosen.base_url) == ("openai", "http://localhost:1/v1")


def test_a_servers_name_is_not_taken_for_a_model_to_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.toml"
    assert main(["init", "--model", "gpt-4o-mini", "--benchmark", "synthetic", "--out", str(out)])
    assert "--engine is missing" in capsys.readouterr().err and not out.exists()
    assert "eval" in written("--model", "org/name", "--benchmark", "synthetic", out=out)


def test_what_is_not_given_is_asked_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("\ntiny\n\n\n"))
    found = written(out=tmp_path / "a.toml")
    asked = capsys.readouterr().err
    assert asked.count("Model") == 2 and "Engine" in asked and "Data set" in asked
    assert found == {
        "model": "tiny", "benchmark": "synthetic",
        "eval": {"engine": "hf", "out": "runs/tiny-synthetic"},
    }  # fmt: skip
    monkeypatch.setattr(sys, "stdin", Terminal("gpt\nopenai\nhttp://localhost:8000/v1\n\n"))
    served = written(out=tmp_path / "b.toml")
    assert served["eval"] == {
        "engine": "openai", "out": "runs/gpt-synthetic", "base-url": "http://localhost:8000/v1"
    }  # fmt: skip
    monkeypatch.setattr(sys, "stdin", Terminal("tiny\n"))
    assert main(["init", "--out", str(tmp_path / "c.toml")]) == 130
    assert not (tmp_path / "c.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "--model is missing"),
        (["--model", "org/m", "--engine", "vlm"], 1, "unknown engine 'vlm'"),
        (["--model", "org/m", "--base-url", "http://x"], 2, "only --engine openai"),
        (["--model", "org/m", "--data", "/nowhere"], 1, "--data /nowhere does not exist"),
        (["--model", "org/m", "--benchmark", "pgps9k"], 2, "--data is missing"),
        (["--model", "org/m", "--out", "x.yaml"], 2, "ends in .toml"),
        (["--model", "org/m", "--out", "{there}"], 1, "exists: give another --out"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    arguments: list[str],
    status: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = tmp_path / "there.toml"
    there.write_text("kept = true\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["init", *(part.format(there=there) for part in arguments)]) == status
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert there.read_text() == "kept = true\n" and list(tmp_path.iterdir()) == [there]


def test_what_has_to_be_installed_first_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("modgap.core.installation.is_installed", lambda name: False)
    written("--model", "org/m", "--benchmark", "synthetic", out=tmp_path / "a.toml")
    assert "first: torch is not installed: " in capsys.readouterr().out


def test_the_benchmark_follows_from_the_data(tmp_path: Path) -> None:
    assert start._looks_like(None) == "synthetic"
    assert start._looks_like(write_folder(tmp_path / "a")) == "pgps9k"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no layout that is known: give --benchmark"):
        start._looks_like(tmp_path / "empty")
    hub = written(
        "--model", "org/m", "--data", "A/B", "--benchmark", "mathverse", out=tmp_path / "h.toml"
    )
    assert hub["data"] == "A/B"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_and_knows_the_commands(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    assert main(["--install-completion", "--shell", shell, "--output", str(script)]) == 0
    text = script.read_text()
    assert {name for name, *_ in commands()} <= set(re.findall(r"\w+", text))
    assert "--max-tokens" in text or "max-tokens" in text


def test_help_groups_the_commands_by_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    titles = re.findall(r"─ (\w[\w ]*) ─", said)
    assert titles == ["Measure", "Train", "Data", "Results", "Set up"]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_s_help_has_an_example_that_parses(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    at = app
    for name in command:
        at = at[name]
    docstring = at.default_command.__doc__ or ""
    examples = re.findall(r"^\s*(modgap .*)$", docstring.partition("```")[2], re.MULTILINE)
    assert 1 <= len(examples) <= 2
    for example in examples:
        words = shlex.split(example)[1:]
        assert tuple(words[: len(command)]) == command
        app.parse_args(words, exit_on_error=False, print_error=False)
