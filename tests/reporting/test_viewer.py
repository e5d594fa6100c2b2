"""The problem viewer in a real browser: what it opens on, LaTeX, and what was misread."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from written_runs import CONDITIONS, both, write_run

from modgap.analysis.transcription import misread_parts
from modgap.reporting.page import build_report

LATEX = (
    r"It is $x^2 = \frac{1}{2}$, and \(\sqrt{3}\) < <b>4</b>. $\nosuchthing{$ costs $5. \boxed{5}"
)
needs_katex = pytest.mark.skipif(
    not importlib.util.find_spec("sphinxcontrib")
    or not importlib.util.find_spec("sphinxcontrib.katex"),
    reason="no KaTeX here: pip install 'modgap[latex]'",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with Browser() as one:
        yield one


def test_it_opens_on_what_the_picture_costs(tmp_path: Path, browser: Browser) -> None:
    write_run(tmp_path / "run", {"a": both("cc", "cc"), "b": both("cc", "ww")})
    build_report([tmp_path / "run"], tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    browser.wait("document.querySelectorAll('#list button').length === 1")
    assert browser.run("document.querySelector('#detail h3').textContent") == "b"
    chosen = browser.run("document.getElementById('f-group').selectedOptions[0].textContent")
    assert chosen == "Right from text, wrong from the image"
    # Nothing is lost: all are shown.
    write_run(tmp_path / "even", {"a": both("cc", "cc"), "b": both("cc", "cc")})
    build_report([tmp_path / "even"], tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    browser.wait("document.querySelectorAll('#list button').length === 2")


@needs_katex
def test_latex_is_rendered_and_can_be_shown_as_written(tmp_path: Path, browser: Browser) -> None:
    write_run(tmp_path / "run", {"a": both("cc", "ww")}, text=LATEX, question="Find $x_1$.")
    build_report([tmp_path / "run"], tmp_path / "r.html")
    browser.problems.clear()
    browser.requests.clear()
    browser.open(tmp_path / "r.html")
    browser.wait("document.querySelectorAll('#detail .sample math').length")
    assert browser.run("document.querySelectorAll('#detail .sample mfrac').length") == 4
    assert browser.run("document.querySelectorAll('#detail .sample msqrt').length") == 4
    assert browser.run("document.querySelectorAll('#detail dd msub').length") == 1
    # What is no LaTeX, and what KaTeX refuses, stays as it is.
    text = browser.run("document.querySelector('#detail .sample pre').textContent")
    assert "< <b>4</b>." in text and "costs $5" in text
    browser.run("document.getElementById('f-raw').click()")
    browser.wait("!document.querySelector('#detail math')")
    assert browser.run("document.querySelector('#detail .sample pre').textContent") == LATEX
    assert browser.problems == []
    assert [r for r in browser.requests if not r.startswith(("data:", "about:", "file:"))] == []


GEOMETRY = (
    r"\odot O, \parallelogram ABCD, \angle{A} = 30^\circ, \wideparen{AB} \perp CD, \unknown{x}, $1,"
    r" the \angle and the \triangle DEF with \angle 1"
)


@pytest.mark.parametrize("installed", [False, pytest.param(True, marks=needs_katex)])
def test_marks_of_geometry_are_symbols(
    tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    if not installed:
        monkeypatch.setattr("modgap.reporting.page.katex", str)
    write_run(tmp_path / "run", {"a": both("cc", "ww")}, text=GEOMETRY, question=r"\widehat AB?")
    build_report([tmp_path / "run"], tmp_path / "r.html")
    browser.problems.clear()
    browser.open(tmp_path / "r.html")
    browser.wait("document.querySelectorAll('#detail .sample').length")
    text = browser.run("document.querySelector('#detail .sample pre').textContent")
    if installed:
        shown = "[...document.querySelectorAll('#detail .sample pre')[0].querySelectorAll('mrow')]"
        marks = "".join(browser.run(f"{shown}.map(one => one.textContent)"))
        assert all(mark in marks for mark in "⊙▱∠⏠⊥")
        assert browser.run("document.querySelector('#detail dd mover mrow').textContent") == "AB"
    else:
        shown = r"⊙O, ▱ABCD, ∠A = 30°, ⌒AB ⊥ CD, \unknown{x}, $1, the ∠ and the △DEF with ∠1"
        assert text == shown
        assert browser.run("document.querySelector('#detail dd').textContent") == "⌒AB?"
    assert r"\unknown{x}, $1" in text and browser.problems == []
    browser.run("document.getElementById('f-raw').click()")
    raw = "document.querySelector('#detail .sample pre').textContent"
    browser.wait(f"!{raw}.includes('▱')")
    assert browser.run(raw) == GEOMETRY


def test_katex_is_embedded_only_for_latex(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"a": both("cc", "ww")}, text="so \\boxed{5}")
    build_report([tmp_path / "run"], tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < 150_000


def test_misread_clauses_are_marked(tmp_path: Path, browser: Browser) -> None:
    # A character of two UTF-16 units comes first: marks must not shift.
    said = "😀 AB = 7, BC = 9, and CD = 5. So \\boxed{3}"
    conditions = ("AB = 7", "BC = 8", "DE = 4")
    run = {"a": both("cc", "ww") | {"transcribe": "ww"}}
    write_run(tmp_path / "run", run, text=said, conditions=conditions)
    build_report([tmp_path / "run"], tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    browser.wait("document.querySelectorAll('#detail mark').length")
    marks = browser.run("[...document.querySelectorAll('#detail mark')].map(m => m.textContent)")
    assert set(marks) == {"BC = 9"} and len(marks) == 2
    note = browser.run("document.querySelector('#detail .misread').textContent")
    assert note.startswith("Not read: BC = 8; DE = 4.")
    browser.run("document.getElementById('f-group').value = 't:m'")
    browser.run("document.getElementById('f-group').dispatchEvent(new Event('change'))")
    browser.wait("document.querySelectorAll('#list button').length === 1")


def test_what_is_marked_is_what_counts() -> None:
    found = misread_parts("m \\angle ABC = 30; BC = 8", ("\\angle CBA = 35", "BC = 8"))
    assert found.missing == ("\\angle CBA = 35",)
    assert found.spans == ((0, 17),)
    assert misread_parts("BC = 9", ("BC = 8",), "In it BC = 8 holds.").missing == ()
    assert misread_parts("", CONDITIONS).spans == ()
    assert json.dumps(misread_parts("AB = 7", ("AB = 7",)).missing) == "[]"
