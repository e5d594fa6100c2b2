"""axe-core finds nothing to complain of on a report's pages, in both themes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from written_runs import CONDITIONS, SAID, both, write_run, write_stage

from modgap.core.record import RunFolder
from modgap.reporting.index import write_index
from modgap.reporting.page import build_report
from modgap.workflows.grade import grade_run

_AXE = importlib.util.find_spec("axe_core_python")
RULES = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}"

pytestmark = [
    pytest.mark.usefixtures("rendered"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.skipif(_AXE is None, reason="no axe-core here: pip install axe-core-python"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of a run with all that it can show of one, and the page over the folder."""
    folder = tmp_path_factory.mktemp("pages")
    lost, solved = both("cc", "ww"), both("cc", "cc")
    verdicts = {f"p{n}": (lost if n % 3 else solved) | {"transcribe": "ww"} for n in range(12)}
    run = write_run(folder / "run", verdicts, text=SAID["names"], conditions=CONDITIONS)
    grade_run(RunFolder(run.path))
    write_stage(folder / "trained")
    build_report([folder / "run", folder / "trained"], folder / "report.html")
    write_index(folder, folder / "index.html")
    return {"report": folder / "report.html", "index": folder / "index.html"}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", ["report", "index"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_has_no_complaint(pages: dict[str, Path], page: str, dark: bool, width: int) -> None:
    assert _AXE is not None and _AXE.origin is not None
    axe = Path(_AXE.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    with Browser(width, 900, dark) as browser:
        browser.open(pages[page])
        if page == "report":
            browser.wait("document.querySelectorAll('#detail .sample').length")
        browser.run(f"{axe}; 0")
        found = json.loads(
            browser.run(
                f"axe.run(document, {RULES}).then(done => JSON.stringify(done.violations.map("
                "v => [v.id, v.help, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200))])))"
            )
        )
    assert found == []
