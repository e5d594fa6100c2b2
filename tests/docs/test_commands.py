"""Every command of README and the documentation: parsed by the real parser, some of them run."""

from __future__ import annotations

import ast
import importlib
import itertools
import shlex
import subprocess
from pathlib import Path

import cyclopts
import pytest
from pages import PAGES, ROOT, blocks, modgap_commands, name_of

from modgap.cli.config import with_config
from modgap.cli.main import app, main
from modgap.core import registry, view
from modgap.datasets.synthetic import benchmark

PAGES_OF_USERS = [page for page in PAGES if "/lab/" not in name_of(page)]
FOUND = [(name_of(page), words) for page in PAGES_OF_USERS for words in modgap_commands(page)]

RUN = r"""
modgap doctor
modgap data check examples/problems.jsonl --benchmark pairs
modgap eval --benchmark pairs --data examples/problems.jsonl --model tiny --samples 1 \
 --out runs/mine
modgap eval --benchmark examples/dataset.py:read --data runs/rectangles --model tiny --samples 1 \
 --out runs/area
modgap eval --benchmark synthetic --limit 20 --samples 1 --model tiny --out runs/tiny
modgap report runs/tiny --out report.html
modgap eval --benchmark synthetic --views full-text,mine.py:hint --engine mine.py:Echo \
 --model none --out runs/echo
modgap data synth --out data/geo --train 40 --test 20 --seed 7
modgap train examples/recipe.py:gentle --model tiny --dry-run
modgap train examples/recipe.py:gentle --model Qwen/Qwen2.5-VL-7B-Instruct --engine verl --dry-run \
 --gpu H100
modgap train kl --model Qwen/Qwen2.5-VL-3B-Instruct --dry-run --gpu H100
"""
"""Commands of the pages that are run as they stand there, in this order, in one folder."""


@pytest.mark.parametrize(
    ("page", "words"),
    FOUND,
    ids=lambda value: value if isinstance(value, str) else shlex.join(value),
)
def test_a_command_parses(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # A placeholder of a shell is a word like any other, except where a number is expected.
    given = ["8" if word.startswith("$SLURM") else word for word in words]
    monkeypatch.chdir(ROOT)  # where `--config examples/study.toml` is
    try:
        given = with_config(app, given)
        app.parse_args(given, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        pytest.fail(f"{page}: {' '.join(str(error).split())}")
    options = dict(itertools.pairwise(words))
    engines = registry.TRAINING_ENGINES if words[0] in ("train", "study") else None
    engine = options.get("--engine")
    if engine and ":" not in engine:
        (engines or registry.INFERENCE_ENGINES).entry(engine)
    if words[0] == "train" and not words[1].startswith("$") and ":" not in words[1]:
        registry.RECIPES.entry(words[1])


def test_there_are_commands_to_check() -> None:
    assert len(FOUND) > 50 and {page for page, _ in FOUND} >= {"README.md", "docs/engines/verl.md"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_a_page_are_shell_and_python(page: Path) -> None:
    for script in blocks(page, "bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modgap"):
                place = importlib.import_module(node.module or "")
                missing = [alias.name for alias in node.names if not hasattr(place, alias.name)]
                assert not missing, f"{node.module} has no {missing}"


def test_commands_run_as_the_pages_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [words for _, words in FOUND]
    monkeypatch.setenv("MODGAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(benchmark, "TRAIN", 16)
    monkeypatch.setattr(benchmark, "TEST", 3)
    monkeypatch.setattr(view, "_FROM_OUTSIDE", {})  # a view of ours stays known in this process
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (code,) = blocks(ROOT / "docs" / "how-to" / "extend.md", "python")
    (tmp_path / "mine.py").write_text(code)
    for line in RUN.replace("\\\n", "").strip().splitlines():
        words = shlex.split(line)[1:]
        assert words in shown, f"no page shows: {line}"
        assert main(words) == 0, f"{line}: {capsys.readouterr().err}"
    assert (tmp_path / "report.html").stat().st_size > 10_000
