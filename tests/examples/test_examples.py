"""The examples run: a reader copies them."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from modgap.cli.main import main
from modgap.core import registry
from modgap.core.loading import load
from modgap.datasets.synthetic import benchmark

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def small_benchmark(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`synthetic` with some of its problems: to draw all 9,000 takes too long."""
    monkeypatch.setenv("MODGAP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(benchmark, "TRAIN", 16)
    monkeypatch.setattr(benchmark, "TEST", 24)


def test_the_readme_lists_every_example() -> None:
    words = (EXAMPLES / "README.md").read_text()
    names = [path.name for path in EXAMPLES.iterdir() if path.name not in ("README.md", "runs")]
    assert [name for name in names if f"({name})" not in words and name != "__pycache__"] == []


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in one namespace, as a kernel does; a last expression is evaluated, too."""
    pytest.importorskip("pandas")
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    notebook = json.loads((EXAMPLES / "gap.ipynb").read_text())
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            source = "".join(cell["source"]).replace("limit=20", "limit=3")
            exec(compile(source, f"cell {number}", "exec"), names)
    assert (tmp_path / "runs/notebook/gap.png").stat().st_size > 1000
    assert names["by_problem"].shape == (3, 3)


def test_the_recipe_is_one() -> None:
    recipe = registry.RECIPES.load(f"{EXAMPLES / 'recipe.py'}:gentle")()
    recipe.check()
    assert [stage.views for stage in recipe.stages] == [("image-only",), ("full-text",)]
    assert recipe.stages[0].settings.lr == 5e-7 and recipe.stages[1].contrastive


def test_the_objective_is_one_and_the_page_has_the_same(tmp_path: Path) -> None:
    recipe = registry.RECIPES.load(f"{EXAMPLES / 'objective.py'}:patient")()
    recipe.check()
    page = (EXAMPLES.parent / "docs" / "how-to" / "new-objective.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "mine.py").write_text(code)
    assert registry.RECIPES.load(f"{tmp_path / 'mine.py'}:patient")() == recipe
    assert recipe.stages[0].title == "image-only + reverse KL to full-text (advantage, ema)"


def test_the_recipe_trains_in_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = f"{EXAMPLES / 'recipe.py'}:gentle"
    assert main(["train", recipe, "--model", "tiny", "--dry-run"]) == 0
    assert "stage 2: full-text + contrastive KL" in capsys.readouterr().out


def test_the_data_set_gives_views_and_answers(tmp_path: Path) -> None:
    read = load(f"{EXAMPLES / 'dataset.py'}:read")
    train, test = list(read(tmp_path, split="train")), list(read(tmp_path))
    assert not {problem.question + problem.answer for problem in train} & {
        problem.question + problem.answer for problem in test
    }
    for problem in (*train, *test):
        sides = [float(clause.rpartition("=")[2]) for clause in problem.semantic]
        assert math.prod(sides) == float(problem.answer)
        assert not problem.leaky and problem.open_image().size == (224, 224)
    assert len(list(read(tmp_path, limit=2))) == 2


def test_problems_of_ones_own_are_sound_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(EXAMPLES / "problems.jsonl")
    assert main(["data", "check", file, "--benchmark", "pairs"]) == 0
    arguments = ["--benchmark", "pairs", "--data", file, "--model", "tiny", "--samples", "1"]
    assert main(["eval", *arguments, "--max-tokens", "8", "--out", str(tmp_path / "run")]) == 0
    assert "full-text" in capsys.readouterr().out


def test_trl_trains_with_our_reward(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    train = load(f"{EXAMPLES / 'trl_grpo.py'}:train")
    log = train(tmp_path / "out", steps=1, problems=2)
    rewards = [entry["reward"] for entry in log if "reward" in entry]
    assert len(rewards) == 1 and max(rewards) > 0
    from modgap.models.load import check_model

    check_model(tmp_path / "out")  # modgap takes what TRL saved


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    assert script.read_text().startswith(("#!/bin/bash\n", "#!/usr/bin/env bash\n"))
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_tutorial_shows_the_configuration_file() -> None:
    page = (EXAMPLES.parent / "docs" / "tutorial" / "first-recipe.md").read_text()
    file = (EXAMPLES / "study.toml").read_text()
    assert file.partition("\n")[2].partition("\n")[2] in page
