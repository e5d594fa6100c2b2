"""What is missing is said with the command that installs it, as this installation was made."""

from __future__ import annotations

import json
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from modgap.core import installation, registry
from modgap.core.errors import UserError

HASH = "0" * 40


def install_with(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    installer: str = "pip",
    origin: dict[str, Any] | None = None,
    marker: str = "",
    active: bool = True,
) -> str:
    """The command for an installation of that kind, in an environment at `tmp_path/venv`."""

    class Distribution:
        def read_text(self, name: str) -> str | None:
            texts = {
                "INSTALLER": f"{installer}\n",
                "direct_url.json": origin and json.dumps(origin),
            }
            return texts[name]

    venv = tmp_path / "venv"
    venv.mkdir()
    if marker:
        (venv / marker).touch()
    monkeypatch.setattr(metadata, "distribution", lambda _: Distribution())
    module = tmp_path / "lib" / "python3" / "modgap" / "core" / "installation.py"
    monkeypatch.setattr(installation, "__file__", str(module))  # no source tree
    monkeypatch.setattr(sys, "prefix", str(venv))
    monkeypatch.chdir(tmp_path)
    if active:
        monkeypatch.setenv("VIRTUAL_ENV", str(venv))
    else:
        monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    return installation.install("hf")


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        ({}, "pip install 'modgap[hf]'"),
        ({"installer": "uv"}, "uv pip install 'modgap[hf]'"),
        ({"active": False}, "venv/bin/pip install 'modgap[hf]'"),
        ({"installer": "uv", "active": False}, "uv pip install --python ./venv 'modgap[hf]'"),
        ({"marker": "uv-receipt.toml"}, "uv tool install --force 'modgap[hf]'"),
        ({"marker": "pipx_metadata.json"}, "pipx install --force 'modgap[hf]'"),
    ],
)
def test_the_tool_is_the_one_that_installed_it(
    settings: dict[str, Any], command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert install_with(monkeypatch, tmp_path, **settings) == command


@pytest.mark.parametrize(
    ("place", "origin", "what"),
    [
        ("", {"dir_info": {"editable": True}}, "-e '.[hf]'"),
        ("my code", {"dir_info": {"editable": True}}, "-e './my code[hf]'"),
        ("source", {"dir_info": {}}, "'./source[hf]'"),
        ("it's", {"dir_info": {}}, "'./it'\"'\"'s[hf]'"),
        ("dist/modgap.whl", {"archive_info": {}}, "'modgap[hf] @ {url}'"),
        ("gone", {"dir_info": {"editable": True}}, "'modgap[hf]'"),
    ],
)
def test_what_is_installed_is_where_it_came_from(
    place: str,
    origin: dict[str, Any],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = tmp_path / place
    if path.suffix:
        path.parent.mkdir()
        path.touch()
    elif place != "gone":
        path.mkdir(exist_ok=True)
    origin["url"] = path.as_uri()
    command = install_with(monkeypatch, tmp_path, origin=origin)
    assert command == "pip install " + what.format(url=path.as_uri())


def test_a_commit_of_a_repository_is_installed_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    origin = {"url": "https://example.org/modgap", "vcs_info": {"vcs": "git", "commit_id": HASH}}
    command = install_with(monkeypatch, tmp_path, origin=origin)
    assert command == f"pip install 'modgap[hf] @ git+https://example.org/modgap@{HASH}'"


def test_source_that_was_never_installed_is_installed_from_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    root = Path(__file__).parents[2]
    monkeypatch.setattr(metadata, "distribution", absent)
    monkeypatch.chdir(root)
    assert installation.install("openai").endswith("pip install -e '.[openai]'")
    assert installation.install().endswith("pip install -e .")
    monkeypatch.chdir(tmp_path)
    there = shlex.quote(f"{root}[openai]")
    assert installation.install("openai").endswith(f"pip install -e {there}")


def test_no_other_file_words_the_remedy() -> None:
    source = Path(installation.__file__).parents[1]
    for path in source.rglob("*.py"):
        if path.name != "installation.py":
            assert "install 'modgap" not in path.read_text(encoding="utf-8"), path


def test_a_missing_package_is_one_line_with_its_extra_and_its_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not installation.is_installed("torch")
    with pytest.raises(UserError, match=r"^torch is not installed: .*\[hf\]', for models"):
        installation.require("torch")
    with pytest.raises(UserError, match=r"for models .*, or give another engine\.$"):
        installation.require("torch", "give another engine")
    with pytest.raises(UserError, match=r"\[train\]', for training"):
        installation.require_training()
    error = ModuleNotFoundError("no math", name="math_verify.parser")
    assert installation.missing_package(error) == "math-verify"
    assert installation.missing_package(ModuleNotFoundError("x", name="nonsense")) is None
    assert installation.missing_package(ImportError("torch", name="torch")) is None


@pytest.mark.parametrize("table", [registry.INFERENCE_ENGINES, registry.TRAINING_ENGINES])
def test_what_an_engine_needs_has_an_extra(table: registry.Registry[registry.Entry]) -> None:
    assert {entry.package for entry in table.values()} <= installation.OPTIONAL.keys()
