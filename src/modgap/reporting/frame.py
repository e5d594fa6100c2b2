"""What every page of ours has: style, script, provenance, and how one is known as ours."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import re
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core.files import read_start
from modgap.core.text import percent, signed
from modgap.core.version import __version__

if TYPE_CHECKING:
    from jinja2 import Template

Parts = dict[str, Any]
"""The template's values, by the names that it uses."""
_OURS, _HEAD = b'<meta name="generator" content="modgap ', 4096
"""By what a page of ours is known, and the bytes in which it stands."""


def is_a_report(path: Path) -> bool:
    """Whether a file is a page that modgap made."""
    return path.is_file() and _OURS in read_start(path, _HEAD)


@functools.cache
def page_template(name: str) -> Template:
    """A page's template, compiled once in a process."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("modgap.reporting", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        points=lambda value: percent(value),
        signed=lambda value: signed(value),
        short=lambda value: f"{value:.4g}",
    )
    return environment.get_template(f"{name}.html.jinja")


def frame() -> Parts:
    """What every page has: style, script and provenance."""
    from markupsafe import Markup

    folder = files("modgap.reporting") / "templates"
    script = (folder / "viewer.js").read_text(encoding="utf-8")
    return {
        "version": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "css": Markup((folder / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": script_hash(script),
    }


LATEX = re.compile(r"\\(?!boxed\b)[A-Za-z]{2,}|\\[(\[]|\$[^$\n]+\$")
"""What KaTeX is embedded for; the box of an answer alone needs none."""


def katex() -> str:
    """KaTeX's script, from the package sphinxcontrib-katex; empty where it is not installed.

    Only its MathML output is used, which needs neither its style sheet nor its fonts.
    """
    try:
        found = importlib.util.find_spec("sphinxcontrib.katex")
    except ModuleNotFoundError:
        return ""
    script = Path(found.origin or "").with_name("katex.min.js") if found else None
    if script is None or not script.is_file():
        return ""
    return script.read_text(encoding="utf-8").replace("</script", "<\\/script")


def script_hash(script: str) -> str:
    """The source by which the content security policy lets a script run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
