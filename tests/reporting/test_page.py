"""The page of a report in a real browser."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from PIL import Image
from reported_runs import LOST
from written_runs import CONDITIONS, HOSTILE, SAID, both, write_run, write_stage

from modgap.reporting.figures import COLOURS
from modgap.reporting.page import build_report

pytestmark = pytest.mark.usefixtures("rendered")

# In the browser


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three problems, one with a diagram, all responses hostile; a training stage beside them."""
    folder = tmp_path_factory.mktemp("hostile")
    Image.new("RGB", (900, 300), "white").save(folder / "diagram.png")
    fields = {
        "image": str(folder / "diagram.png"),
        "type": HOSTILE,
        "question": HOSTILE,
        "answer": HOSTILE,
    }
    names = {"<img src=x>": both("cc", "wE"), "two": both("Cw", "cc"), "three": both("cc", "cc")}
    write_run(folder / "run", names, text=HOSTILE, **fields)
    write_stage(folder / "trained")
    build_report([folder / "run", folder / "trained"], folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with Browser() as one:
        yield one


def shown(browser: Browser) -> str:
    return browser.run("document.querySelector('#detail h3').textContent")


def test_hostile_words_show_as_text_and_nothing_complains(
    hostile_page: Path, browser: Browser
) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(hostile_page)
    browser.wait("document.querySelectorAll('#detail .sample').length === 4")
    assert browser.run("document.querySelector('#detail .sample pre').textContent") == HOSTILE
    assert shown(browser) == "<img src=x>"
    assert browser.run("document.querySelectorAll('#rollouts pre')[1].textContent").startswith(
        "</script><script>"
    )
    assert browser.run("document.title").startswith("Text ")
    assert (
        browser.run("document.querySelectorAll('script, style, #detail img').length")
        == 1 + 1 + 2 + 1
    )
    assert browser.run("getComputedStyle(document.body).display") == "block"
    assert browser.run("document.querySelector('#detail img').naturalWidth") == 512  # made smaller
    assert [
        r for r in browser.requests if not r.startswith(("data:", "about:", hostile_page.as_uri()))
    ] == []
    assert browser.problems == []


def test_a_link_opens_its_problem_and_keys_move_on(hostile_page: Path, browser: Browser) -> None:
    browser.open(hostile_page, "#problem=two")
    browser.wait("document.querySelector('#detail h3')?.textContent === 'two'")
    browser.press("j")
    browser.wait("document.querySelector('#detail h3').textContent === 'three'")
    assert browser.run("location.hash") == "#problem=three"
    browser.press("k")
    browser.press("k")
    browser.wait("document.querySelector('#detail h3').textContent === '<img src=x>'")
    browser.open(hostile_page, "#problem=" + "%3Cimg%20src%3Dx%3E")
    browser.wait("document.querySelector('#detail h3')?.textContent === '<img src=x>'")


@pytest.mark.parametrize(
    ("control", "value", "left"),
    [("f-group", "t", 1), ("f-group", "b", 1), ("f-outcome", "e", 1), ("f-outcome", "cut", 2),
     ("f-search", "three", 1),
     ("f-type", "0", 3)],
)  # fmt: skip
def test_filters_keep_what_they_say(
    hostile_page: Path, browser: Browser, control: str, value: str, left: int
) -> None:
    browser.open(hostile_page)
    browser.run("document.getElementById('f-group').value = ''")
    event = "input" if control == "f-search" else "change"
    browser.run(f"document.getElementById({control!r}).value = {value!r}")
    browser.run(f"document.getElementById({control!r}).dispatchEvent(new Event({event!r}))")
    browser.wait(f"document.querySelectorAll('#list button').length === {left}")
    assert browser.run("document.getElementById('count').textContent").startswith(
        f"{left} of" if left < 3 else "3 "
    )


def test_the_page_fits_a_phone_and_the_theme_can_be_switched(
    hostile_page: Path, browser: Browser
) -> None:
    browser.resize(390, 844)
    browser.open(hostile_page)
    browser.wait("document.querySelectorAll('#detail .sample').length")
    assert browser.run("document.documentElement.scrollWidth") == 390
    browser.resize(1280, 900)
    before = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.run("document.getElementById('theme').click()")
    assert browser.run("getComputedStyle(document.body).backgroundColor") != before
    browser.run("localStorage.clear()")


def test_two_thousand_problems_open_packed_and_stay_usable(
    tmp_path: Path, browser: Browser
) -> None:
    verdicts = {f"prob_{i}": both("cwcw", "wwcn") for i in range(2000)}
    write_run(
        tmp_path / "run",
        verdicts,
        text="By the theorem, the angle is half of its arc. " * 40 + "\\boxed{5}",
    )
    build_report([tmp_path / "run"], tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < 10_000_000  # 30 MB of responses, packed
    browser.problems.clear()
    browser.open(tmp_path / "r.html", "#problem=prob_1777")
    browser.wait("document.querySelector('#detail h3')?.textContent === 'prob_1777'")
    assert browser.run("document.querySelector('#detail .sample pre').textContent").endswith(
        "\\boxed{5}"
    )
    assert browser.run("document.querySelectorAll('#list button').length") < 60
    assert browser.problems == []


# Everybody can read it


PALETTE = re.compile(r"--([a-z-]+): light-dark\((#\w+), (#\w+)\)")
ON = {
    "paper": ("ink", "muted", "text", "vision", "control", "good", "bad", "warn", "pink", "teal"),
    "panel": ("ink", "muted", "text", "vision", "control", "good", "bad", "warn"),
    "sunk": ("ink", "muted"),
    "warn-soft": ("ink",),
    "names": ("ink",),
    "text": ("paper",),
    "vision": ("paper",),
}
"""Ground -> the inks that words have on it."""


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, as WCAG 2 defines it."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, two: str) -> float:
    bright, dim = sorted((luminance(one), luminance(two)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("theme", [1, 2], ids=["light", "dark"])
def test_words_stand_out_from_their_ground(theme: int) -> None:
    css = (files("modgap.reporting") / "templates" / "report.css").read_text()
    colours = {match[1]: match[theme + 1] for match in PALETTE.finditer(css)}
    weak = {
        f"{ink} on {ground}": round(value, 2)
        for ground, inks in ON.items()
        for ink in inks
        if (value := contrast(colours[ink], colours[ground])) < 4.5
    }
    assert weak == {}
    assert contrast(colours["strong"], colours["panel"]) >= 3  # borders of controls


def test_charts_have_the_colours_of_the_page() -> None:
    css = (files("modgap.reporting") / "templates" / "report.css").read_text()
    by_day = {match[1]: match[2] for match in PALETTE.finditer(css)}
    assert {name: by_day.get(name) for name in COLOURS} == COLOURS


CHARTS = """
[...document.querySelectorAll('svg.chart')].filter(e => e.getClientRects().length).map(e => ({
    label: e.getAttribute('aria-label'), \
words: [...e.querySelectorAll('title')].map(t => t.textContent),
    sizes: [...e.querySelectorAll('text')].map(t => t.getBoundingClientRect().height),
    inks: [...e.querySelectorAll('text')].map(t => getComputedStyle(t).fill),
    right: Math.max(...[...e.querySelectorAll('text')].map(t => t.getBoundingClientRect().right)),
    strangers: [...e.querySelectorAll('use')].filter(\
u => !e.querySelector(u.getAttribute('href'))).length}))"""


def test_charts_on_a_phone_are_readable_by_day_and_night(
    study: Path, tmp_path: Path, browser: Browser
) -> None:
    build_report([study], tmp_path / "r.html")
    browser.resize(390, 844)
    browser.open(tmp_path / "r.html")
    charts = browser.run(CHARTS)
    browser.run("document.getElementById('theme').click()")
    by_night = browser.run(CHARTS)
    browser.run("localStorage.clear()")
    browser.resize(1280, 900)
    assert len(charts) >= 4
    assert all(
        min(chart["sizes"]) > 9 and chart["right"] <= 390 and chart["strangers"] == 0
        for chart in charts
    )
    assert any(
        "from text" in chart["label"] and "95% interval" in chart["label"] for chart in charts
    )
    assert all(words in chart["label"] for chart in charts for words in chart["words"])
    assert not any(
        set(day["inks"]) & set(night["inks"]) for day, night in zip(charts, by_night, strict=True)
    )


def test_a_run_of_any_name_has_its_chart(tmp_path: Path) -> None:
    names = ["$x$ 100%", "a\x1bb\x01", "<b>&'\"", "模型", "a_b\\alpha", "w" * 80, "-", "😀"]
    for run in names:
        write_run(tmp_path / "runs" / run, {"a": both("cc", "ww"), "b": both("cw", "cc")})
    numbers = build_report([tmp_path / "runs"], tmp_path / "r.html")
    assert set(numbers.runs) == set(names)
    page = html.unescape((tmp_path / "r.html").read_text())
    assert [name for name in names if f"{name}: from text 75.0 percent" not in page] == []


OUTLINE = "[...document.querySelectorAll('h1, h2, h3, h4, h5')].map(h => Number(h.tagName[1]))"
NAMELESS = """
[...document.querySelectorAll(\
'button, select, input, a[href], [role=img], [role=group], img, [tabindex]')].filter(e =>
    e.getClientRects().length && !e.getAttribute('aria-label') && !e.getAttribute('alt') \
&& !e.textContent.trim()
    && ![...(e.labels || [])].some(l => l.textContent.trim())
).map(e => e.outerHTML)"""
LOOSE = """
[...document.querySelectorAll('body *')].filter(e =>
    e.textContent.trim() && e.getClientRects().length && !e.querySelector('main, header, footer')
    && !e.closest('main, header, footer, nav, .skip, script, style')
).length"""


def test_headings_labels_and_landmarks_are_in_order(
    study: Path, tmp_path: Path, browser: Browser
) -> None:
    hard = {
        "a": both("cc", "ww") | {"transcribe": "ww"},
        "b": both("cc", "cc") | {"transcribe": "ww"},
    }
    write_run(tmp_path / "read", hard, text=SAID["names"], conditions=CONDITIONS)
    for runs in ([tmp_path / "read"], [study, tmp_path / "read"]):
        build_report(runs, tmp_path / "r.html", template="paper")
        browser.open(tmp_path / "r.html")
        browser.wait("document.querySelectorAll('#detail .sample').length")
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        levels = browser.run(OUTLINE)
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert browser.run(NAMELESS) == []
        assert browser.run(LOOSE) == 0
        ids = browser.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(set(ids)) == len(ids)
        assert (
            browser.run(
                "[...document.querySelectorAll('th')].filter(e => !e.textContent.trim()).length"
            )
            == 0
        )
        assert browser.run("document.documentElement.lang") == "en"


def test_lost_problems_can_be_filtered_by_how_they_were_read(
    tmp_path: Path, browser: Browser
) -> None:
    write_run(tmp_path / "run", LOST, said=SAID, conditions=CONDITIONS)
    build_report([tmp_path / "run"], tmp_path / "r.html")
    for kind in SAID:
        browser.open(tmp_path / "r.html")
        browser.run(f"document.getElementById('f-group').value = 't:{kind}'")
        browser.run("document.getElementById('f-group').dispatchEvent(new Event('change'))")
        browser.wait("document.querySelectorAll('#list button').length === 1")
        assert shown(browser) == kind
