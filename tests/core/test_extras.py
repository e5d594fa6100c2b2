"""The remedy for a package that is missing fits the way in which modgap was installed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from modgap.core import extras, registry
from modgap.core.errors import UserError


def command(direct_url: object, tree: Path = Path("/nowhere"), extra: str = "vllm") -> str:
    return extras._command(extra, json.dumps(direct_url) if direct_url else "", tree)


@pytest.mark.parametrize("name", ["modgap", "my folder"])
def test_a_checkout_is_installed_from_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    url = folder.as_uri()
    place = f"cd {shlex.quote(str(folder))} && pip install"
    assert command({"url": url, "dir_info": {"editable": True}}) == f"{place} -e '.[vllm]'"
    assert command({"url": url, "dir_info": {}}) == f"{place} '.[vllm]'"
    assert command(None, folder) == f"{place} -e '.[vllm]'", "run from the source tree"
    assert command({"url": url, "dir_info": {}}, extra="") == f"{place} '.'"


def test_other_origins_are_named_in_the_requirement() -> None:
    git = {"url": "https://host/m.git", "vcs_info": {"vcs": "git", "commit_id": "1a2b"}}
    assert command(git) == "pip install 'modgap[vllm] @ git+https://host/m.git@1a2b'"
    wheel = {"url": "file:///w/modgap-1.whl", "archive_info": {}}
    assert command(wheel) == "pip install 'modgap[vllm] @ file:///w/modgap-1.whl'"
    assert command(None) == "pip install 'modgap[vllm]'"


def test_no_message_names_the_package_index_by_itself() -> None:
    source = Path(extras.__file__).parents[1]
    for path in source.rglob("*.py"):
        if path.name != "extras.py":
            assert "pip install 'modgap" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("installer", "marker", "active", "tool"),
    [
        ("pip", "", True, "pip install"),
        ("uv", "", True, "uv pip install"),
        ("pip", "", False, "{venv}/bin/pip install"),
        ("uv", "", False, "uv pip install --python {venv}"),
        ("uv", "uv-receipt.toml", False, "uv tool install --force"),
        ("pip", "pipx_metadata.json", False, "pipx install --force"),
    ],
)
def test_the_tool_is_the_one_that_installed_it(
    installer: str,
    marker: str,
    active: bool,
    tool: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    if marker:
        (venv / marker).touch()
    monkeypatch.setattr(extras, "_metadata", lambda _: f"{installer}\n")
    monkeypatch.setattr(sys, "prefix", str(venv))
    monkeypatch.setenv("VIRTUAL_ENV", str(venv) if active else "")
    assert extras._tool() == tool.format(venv=venv)
    named = extras._command("hf", "", Path("/nowhere"), extras._tool())
    assert named == f"{tool.format(venv=venv)} 'modgap[hf]'"


def test_a_missing_package_is_one_line_with_its_extra_and_its_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not extras.installed("torch") and extras.installed("")
    with pytest.raises(UserError, match=r"^torch is not installed: .*\[hf\]', for models"):
        extras.require("torch")
    with pytest.raises(UserError, match=r"\[train\]'\.$"):
        extras.require("torch", "train")
    error = ModuleNotFoundError("no math", name="math_verify.parser")
    assert extras.absent_package(error) == "math-verify"
    assert not extras.absent_package(ModuleNotFoundError("x", name="nonsense"))
    assert not extras.absent_package(ImportError("torch", name="torch"))


@pytest.mark.parametrize("table", [registry.INFERENCE_ENGINES, registry.TRAINING_ENGINES])
def test_what_an_engine_needs_has_an_extra(table: registry.Registry[registry.Entry]) -> None:
    assert {entry.package for entry in table.values()} <= extras.OPTIONAL.keys()
    assert all(entry.extra for entry in table.values())
