"""The command that installs an extra, for the way in which modgap itself was installed."""

from __future__ import annotations

import functools
import importlib.util
import json
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


def install(extra: str = "") -> str:
    """The command that installs an extra (or modgap alone), to be pasted into a shell.

    `modgap` is on no package index, so that its name alone would not be found: the command installs
    from where this installation came from.
    """
    return _command(extra, *_origin())


def installed(package: str) -> bool:
    """Whether a package can be imported; true where none is named."""
    return not package or package in sys.modules or importlib.util.find_spec(package) is not None


def missing(package: str, extra: str) -> str:
    """What a message says of a package that is not installed: its name and the remedy."""
    return f"{package} is not installed: {install(extra)}"


@functools.cache
def _origin() -> tuple[str, Path]:
    """The installation's `direct_url.json`, empty where there is none; and the source tree."""
    try:
        said = metadata.distribution("modgap").read_text("direct_url.json") or ""
    except metadata.PackageNotFoundError:
        said = ""
    return said, Path(__file__).resolve().parents[3]


def _command(extra: str, direct_url: str, tree: Path) -> str:
    """`install` of an origin, see `_origin`."""
    extra = f"[{extra}]" if extra else ""
    origin: dict[str, Any] = json.loads(direct_url) if direct_url else {}
    url = str(origin.get("url", ""))
    folder = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
    editable = bool(origin.get("dir_info", {}).get("editable"))
    if not origin and (tree / "pyproject.toml").is_file():  # run from a checkout
        folder, editable = tree, True
    if folder is not None and (folder / "pyproject.toml").is_file():
        how = "-e " if editable else ""
        return f"cd {shlex.quote(str(folder))} && pip install {how}'.{extra}'"
    if version := origin.get("vcs_info"):
        url = f"{version.get('vcs', 'git')}+{url}@{version.get('commit_id', '')}".rstrip("@")
    return f"pip install 'modgap{extra}{' @ ' + url if url else ''}'"
