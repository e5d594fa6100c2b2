"""The remedy for a package that is missing fits the way in which modgap was installed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from modgap.core import extras


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
