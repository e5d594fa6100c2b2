"""The pages: links lead somewhere, generated parts are fresh, and there are not too many words."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pages import PAGES, ROOT, blocks, name_of, without_code
from PIL import Image

from modgap.core.rows import GradeRow, ProblemRow, Response
from modgap.datasets.synthetic import benchmark
from modgap.workflows.train import dry_run_lines, resolve_recipe

DOCS = ROOT / "docs"
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")


def module(name: str) -> ModuleType:
    """A script of docs/."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    found: dict[str, int] = {}
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    for heading in re.findall(r"(?m)^#{1,6} (.+)$", text):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.replace("`", "").strip().lower()).replace(" ", "-")
        found[re.sub(r"-+", "-", slug)] = 1
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target} does not exist"
        inside = DOCS in page.parents
        assert not inside or DOCS in file.parents, f"{name_of(page)}: {target} is not in the site"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{name_of(page)}: {target} has no such heading"


def test_every_page_of_the_site_is_in_the_navigation() -> None:
    words = module("words")
    sections = words.sections((ROOT / "mkdocs.yml").read_text())
    listed = {page for pages in sections.values() for page in pages}
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    apart = {page for page in there if page.startswith(("lab/", "experiments/"))}
    assert listed == there - apart


def test_there_are_not_too_many_words() -> None:
    words = module("words")
    counts: dict[str, int] = words.counts()
    outside = sum(count for name, count in counts.items() if name != words.REFERENCE)
    assert 8_000 < outside <= words.BUDGET
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


def test_the_caption_has_the_numbers_of_the_picture() -> None:
    demo = module("from_demo")
    picture = DOCS / "report.png"
    assert picture.stat().st_size < 300_000
    with Image.open(picture) as image:
        words = image.info["caption"]
    assert re.search(r"gap is \d", words)
    for page in demo.CAPTIONED:
        (found,) = demo.CAPTION.finditer(page.read_text(encoding="utf-8"))
        assert found[0].splitlines()[1:-1] == [words]


@pytest.mark.parametrize("gpu", ["H200", "H100"])
def test_the_readme_has_the_hours_of_the_dry_run(gpu: str) -> None:
    said = re.search(rf"(\d+) h on {gpu}s", (ROOT / "README.md").read_text(encoding="utf-8"))
    lines = dry_run_lines(
        resolve_recipe("kl", []), "verl", "Qwen/Qwen2.5-VL-7B-Instruct", Path("OUT"), gpu=gpu
    )
    hours = [float(hours) for hours in re.findall(r"steps ([\d.]+) h", "\n".join(lines))]
    assert said and len(hours) == 2
    assert abs(int(said[1]) - sum(hours)) <= 1


def test_the_examples_of_files_are_rows_and_every_key_is_explained() -> None:
    page = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    demo = module("from_demo")
    shown = {
        found[2]: json.loads(found[0].split("```json\n")[1].split("```")[0])
        for found in demo.EXAMPLE.finditer(page)
    }
    for name, kind in (("problem", ProblemRow), ("response", Response), ("grade", GradeRow)):
        kind.model_validate(shown[name])
        dumped = kind.model_validate(shown[name]).model_dump(by_alias=True)
        assert set(shown[name]) == set(dumped)
    for row in shown.values():
        missing = [key for key in row if f"`{key}`" not in page]
        assert not missing


def test_every_setting_is_listed_with_its_meaning() -> None:
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    from modgap.core.recipe import NAMES

    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert {row[0].strip("| `") for row in rows} == set(NAMES)
    assert all(len(row) == 4 and len(row[3]) > 10 for row in rows)


def test_python_names_of_the_reference_exist() -> None:
    import modgap

    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    named = re.findall(r"(?m)^::: (\S+)\.(\w+)$", page)
    for place, name in named:
        assert hasattr(importlib.import_module(place), name), f"{place} has no {name}"
    public = {name for name in modgap.__all__ if not name.startswith("_")}
    assert public <= {name for _, name in named}


def test_the_example_of_the_python_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setenv("MODGAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(benchmark, "TRAIN", 32)
    monkeypatch.setattr(benchmark, "TEST", 2)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    code = blocks(DOCS / "reference" / "python.md", "python")[0]
    assert code.count(": 8,") == 2  # prompts a step, and of an update: fewer are as good here
    exec(code.replace(": 8,", ": 2,").replace('"steps": 2', '"steps": 1'), names)
    assert (tmp_path / "report.html").exists() and names["trained"].final.is_dir()


def results(measured: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    row = {"model": "a|b", "recipe": "kl", "benchmark": "synthetic", "command": "modgap eval"}
    return {"rows": [row | {"note": "", "measured": measured} | more]}


def test_results_are_rendered(tmp_path: Path) -> None:
    hooks = module("hooks")
    assert "No results" in hooks.results_tables(tmp_path)
    value = {"value": 70.2, "low": 68.0, "high": 72.1}
    measured = {
        "problems": 1000, "samples": 4, "seeds": 6, "text": value, "image": value, "gap": value,
        "mode": "strict", "engine": "hf", "temperature": 0.6, "source": "https://example.org",
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(results(measured)))
    (tmp_path / "b.json").write_text(json.dumps(results(None, model="<b>7B", recipe="")))
    table = hooks.results_tables(tmp_path)
    assert "| a\\|b | kl | 1,000 | 70.2 (68.0 to 72.1) |" in table
    assert "+70.2" in table and "[link](https://example.org)" in table
    assert "- &lt;b>7B: `modgap eval`" in table
    page = hooks.on_page_markdown((DOCS / "results.md").read_text(encoding="utf-8"))
    assert hooks.MARK not in page


def test_the_hooks_import_nothing_that_the_builder_lacks() -> None:
    """`make docs` runs hooks.py in an environment without modgap."""
    imports = re.findall(r"(?m)^(?:from|import) (\w+)", (DOCS / "hooks.py").read_text())
    assert set(imports) == {"__future__", "json", "pathlib", "typing"}
