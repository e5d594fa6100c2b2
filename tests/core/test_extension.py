"""Recipes, data sets and engines from outside the package: by module, file and entry point."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modgap.cli.main import main
from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.options import JudgeOptions
from modgap.workflows.judging import make_judge
from modgap.workflows.problems import read_problems
from modgap.workflows.train import find_recipe, resolve_recipes

RECIPE = """
from dataclasses import replace
from modgap.core.recipe import Recipe, Stage
from modgap.recipes.paper import no_text

def patient():
    stage = no_text().stages[0]
    return Recipe("patient", (replace(stage, settings=replace(stage.settings, lr=5e-7)),), "slower")

def misspelt():
    return Recipe("misspelt", (Stage(("image-only",), coeff=1),))

READY = patient()
BARE = Recipe("bare", ())
LOOSE = Recipe("loose", READY.stages[0])
NESTED = Recipe("nested", (READY,))
PLAIN = Recipe("plain", (Stage(("image-only",), settings={"lr": 1}),))
WRONG = 7
BADLY_NAMED = replace(READY, name="a/b")
"""
DATASET = """
from modgap.core.problem import Problem
from modgap.core.registry import DatasetEntry

def read(path, split="test", limit=None):
    problems = [Problem(id=f"{split}{n}", question=f"What is {n} + 1?", answer=str(n + 1)) \
for n in range(5)]
    yield from problems[:limit]

ENTRY = DatasetEntry(f"{__file__}:read", splits=False)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(RECIPE + DATASET)
    return path


@pytest.mark.parametrize("name", ["patient", "READY"])
def test_a_recipe_in_a_file(file: Path, name: str) -> None:
    recipe = find_recipe(f"{file}:{name}")
    assert (recipe.name, recipe.stages[0].settings.lr) == ("patient", 5e-7)


def test_a_recipe_in_a_module(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(file.parent)
    assert find_recipe("mine:patient").name == "patient"
    sys.modules.pop("mine")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{file}:WRONG", "is a int: give a `Recipe`"),
        ("{file}:BADLY_NAMED", "is named 'a/b'"),
        ("{file}:BARE", "as a tuple of at least one `Stage`"),
        ("{file}:LOOSE", "as a tuple of at least one `Stage`"),
        ("{file}:NESTED", "stage 1 of .* is a Recipe"),
        ("{file}:PLAIN", r"settings of stage 1 of .* is a dict: give `Settings\(\.\.\.\)`"),
        ("{file}:absent", "has no 'absent'"),
        ("{file}:misspelt", r"raises TypeError: .*'coeff' \(.* line \d+\): correct it"),
        ("{file}.py:patient", "does not exist"),
        ("klx", r"unknown recipe 'klx'.*path/to/file.py:object"),
    ],
)
def test_what_is_no_recipe_is_one_clear_line(file: Path, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        find_recipe(name.format(file=file))


def test_recipes_of_a_study_have_folders_of_their_own(file: Path) -> None:
    assert list(resolve_recipes([f"{file}:patient", "kl"], ())) == ["patient", "kl"]
    with pytest.raises(UserError, match="two recipes are named 'patient'"):
        resolve_recipes([f"{file}:patient", f"{file}:READY"], ())


@pytest.mark.parametrize("name", ["read", "ENTRY"])
def test_a_data_set_in_a_file(file: Path, tmp_path: Path, name: str) -> None:
    problems = read_problems(f"{file}:{name}", tmp_path, limit=3)
    assert [problem.id for problem in problems] == ["test0", "test1", "test2"]
    assert registry.DATASETS.entry(f"{file}:{name}").splits is (name == "read")


def test_an_entry_point_is_a_name_like_any_other(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an installed package registers it: the metadata of a distribution on the path."""
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[modgap.recipes]\npatient = mine:patient\n[modgap.datasets]\ncounting = mine:ENTRY\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert find_recipe("patient").name == "patient"
    assert len(read_problems("counting", tmp_path)) == 5
    with pytest.raises(UserError, match=r"choose from .*patient"):
        find_recipe("patiently")
    sys.modules.pop("mine")


def test_an_engine_from_outside_judges_if_its_entry_says_how(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        """
from modgap.core.registry import EngineEntry
from modgap.engines.judge import Judge

class Engine: ...
def judge(options):
    return Judge(f"mine:{options.judge}", lambda mode: Engine())

JUDGES = EngineEntry(f"{__file__}:Engine", judge=f"{__file__}:judge")
SERVES = EngineEntry(f"{__file__}:Engine", judge=f"{__file__}:judge", served=True)
"""
    )
    assert make_judge(JudgeOptions("x", f"{file}:JUDGES")).name == "mine:x"
    assert make_judge(JudgeOptions("http://x/v1", f"{file}:SERVES")).name == "mine:http://x/v1"
    for judge, name, words in (
        ("http://x/v1", "JUDGES", "a URL is asked by openai"),
        ("x", "SERVES", "give the server's URL"),
        ("x", "Engine", "cannot judge; choose from hf, vllm, openai"),
    ):
        with pytest.raises(UserError, match=words):
            make_judge(JudgeOptions(judge, f"{file}:{name}"))
    with pytest.raises(UserError, match=r"unknown engine 'hff': .*Did you mean 'hf'"):
        make_judge(JudgeOptions("x", "hff"))


def test_the_command_line_takes_them(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"{file}:patient", "--model", "tiny", "--dry-run"]) == 0
    assert "patient: slower" in capsys.readouterr().out


def test_a_bug_in_the_users_file_shows_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "bug.py").write_text("import math\nmath.no_such_thing\n")
    for _ in range(2):  # a half-made module is not kept
        with pytest.raises(UserError, match=r"no_such_thing.*bug\.py line 2\)"):
            registry.load(f"{tmp_path / 'bug.py'}:recipe")
