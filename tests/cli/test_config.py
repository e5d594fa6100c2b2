"""`--config FILE`, and the options that commands and functions share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App
from folders import write_folder

from modgap.cli.main import app, main

TOML = """
model = "any"

[eval]
data = "{data}"
samples = 1
engine = "{engine}:Echo"
views = ["full-text", "question-only"]
temperature = 0.5

[data.check]
benchmark = "pgps9k"
"""
YAML = """
model: any
data: {data}
samples: 1
engine: "{engine}:Echo"
views: [full-text, question-only]
temperature: 0.5
seed:
"""
ENGINE = r"""
from modgap.core.engine import Completion, sample_seed

class Echo:
    def generate(self, requests, sampling):
        for request in requests:
            for sample in request.samples:
                seed = sample_seed(sampling.seed, request.problem_id, request.view, sample)
                yield Completion(request, sample, "\\boxed{25}", "stop", 1, 1, seed)
"""


@pytest.fixture
def where(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "mine.py").write_text(ENGINE)
    data = write_folder(tmp_path / "data")
    return {"data": str(data), "engine": str(tmp_path / "mine.py")}


def written(path: Path, text: str, where: dict[str, str]) -> str:
    path.write_text(text.format(**where))
    return str(path)


@pytest.mark.parametrize(("name", "text"), [("c.toml", TOML), ("c.yaml", YAML), ("c.yml", YAML)])
@pytest.mark.parametrize("first", [True, False])
def test_a_file_gives_options_and_the_command_line_wins(
    tmp_path: Path,
    where: dict[str, str],
    name: str,
    text: str,
    first: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = ["--config", written(tmp_path / name, text, where)]
    words = ["eval", "--out", str(tmp_path / "run"), "--samples", "2"]
    assert main([*config, *words] if first else [*words, *config]) == 0, capsys.readouterr().err
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    resolved = manifest["resolved"]
    assert resolved["views"] == ["full-text", "question-only"]
    assert (resolved["samples"], resolved["temperature"], resolved["seed"]) == (2, 0.5, 42)
    assert "options" not in resolved and manifest["options"]["samples"] == 2
    assert manifest["given"]["data"] == where["data"] and manifest["given"]["benchmark"] == "pgps9k"


def test_a_grading_is_recorded_beside_the_options_of_its_run_until_new_answers_come(
    tmp_path: Path, where: dict[str, str]
) -> None:
    engine, run = f"{where['engine']}:Echo", tmp_path / "run"
    asked = ["eval", "--model", "any", "--data", where["data"], "--engine", engine, "--out"]
    asked += [str(run), "--views", "full-text", "--samples", "1"]
    assert main(asked) == 0
    before = options_of(run)
    config = tmp_path / "c.toml"
    config.write_text('[grade]\nmode = "relative"\nconcurrency = 3\n')
    assert main(["grade", str(run), "--config", str(config), "--concurrency", "5"]) == 0
    graded = options_of(run)
    assert (
        graded.pop("grade").items() >= {"mode": "relative", "concurrency": 5, "judge": None}.items()
    )
    assert graded == before
    assert main(asked) == 0  # nothing is asked: the grades stay as they are
    assert options_of(run)["grade"]["mode"] == "relative"
    (run / "responses.jsonl").unlink()
    assert main(asked) == 0
    assert options_of(run) == before


def test_prepared_files_say_how_they_were_made(tmp_path: Path, where: dict[str, str]) -> None:
    words = ["data", "prepare", where["data"], "--variant", "no-text", "--out"]
    assert main([*words, str(tmp_path / "p")]) == 0
    assert options_of(tmp_path / "p") == {
        "folder": where["data"], "out": str(tmp_path / "p"), "variant": "no-text",
        "style": "aligned",
    }  # fmt: skip
    assert main([*words, str(tmp_path / "p"), "--style", "paper", "--force"]) == 0
    assert options_of(tmp_path / "p")["style"] == "paper"


def test_prepare_replaces_no_run(
    tmp_path: Path, where: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text('{"kind": "eval"}')
    words = ["data", "prepare", where["data"], "--variant", "no-text", "--out"]
    assert main([*words, str(tmp_path / "run")]) == 1
    assert "kind was 'eval', now 'prepare'. Give another --out" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["manifest.json"]


def options_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())["options"]


def test_a_file_leaves_nothing_behind_for_the_next_command(
    tmp_path: Path, where: dict[str, str]
) -> None:
    config = written(tmp_path / "c.toml", TOML, where)
    assert main(["eval", f"--config={config}", "--out", str(tmp_path / "run")]) == 0
    assert main(["eval", "--out", str(tmp_path / "other")]) == 2


def test_the_table_of_another_command_is_not_looked_at(
    tmp_path: Path, where: dict[str, str]
) -> None:
    config = written(
        tmp_path / "c.toml", '[data.check]\nbenchmark = "pgps9k"\n[eval]\nsamples = 3\n', where
    )
    assert main(["data", "check", where["data"], "--config", config]) == 0


def test_settings_are_a_table_or_a_list(
    tmp_path: Path, where: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, text in enumerate(
        (
            "set = ['lr=3e-5', 'stage2.steps=7']",
            "[train.set]\nlr = 3e-5\nstage2.steps = 7",
            "[set]\nlr = 3e-5\n[set.stage2]\nsteps = 7",
        )
    ):
        config = written(tmp_path / f"{number}.toml", text, where)
        assert (
            main(["train", "curriculum", "--model", "tiny", "--dry-run", "--config", config]) == 0
        )
        printed = capsys.readouterr().out
        assert printed.count("lr = 3e-05") == 2 and printed.count("  steps = 7\n") == 1


def test_recipes_and_seeds_are_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path / "c.toml", 'recipes = ["full-text", "klx"]\nseeds = [0, 1]\n', {})
    command = [
        "study",
        "--data",
        str(tmp_path),
        "--model",
        "tiny",
        "--out",
        str(tmp_path / "o"),
        "--config",
        config,
    ]
    assert main(command) == 1
    assert "unknown recipe 'klx'" in capsys.readouterr().err, "the second name is read"
    assert main([*command, "--recipes", "full-text", "--seeds", "0,x"]) == 1
    assert "--seeds 0,x: give whole numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "c.toml",
            "sampels = 3",
            'Unknown option: "[sampels]" from {file}. Did you mean --samples?',
        ),
        (
            "c.yaml",
            "sampels: 3",
            'Unknown option: "[sampels]" from {file}. Did you mean --samples?',
        ),
        ("c.toml", "[evla]\nsamples = 3", "{file}: [evla] is not named after a command"),
        ("c.yaml", "evla:\n  samples: 3", "{file}: [evla] is not named after a command"),
        (
            "c.toml",
            "[data.chekc]\nx = 3",
            "{file}: [chekc] is not named after a command (commands: ",
        ),
        ("c.toml", "[eval]\n[eval.options]\nsamples = 3", "[options] is not named after a command"),
        ("c.toml", 'samples = "many"', "samples"),
        ("c.toml", "samples = [1, 2]", "samples"),
        ("c.toml", "samples = ", "is not TOML"),
        ("c.yaml", "samples: [", "is not YAML"),
        ("c.yaml", "- samples", "is not a table of options"),
        ("c.yaml", "3: samples", "is not a table of options"),
        ("c.json", "{{}}", "ends in .toml, .yaml or .yml"),
        ("absent.toml", None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(
    tmp_path: Path, name: str, text: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    if text is not None:
        written(file, text, {})
    assert main(
        ["eval", "--data", "x", "--model", "m", "--out", str(tmp_path / "o"), "--config", str(file)]
    ) in (1, 2)
    err = capsys.readouterr().err
    assert (
        words.format(file=file) in err and err.startswith("modgap: ") and len(err.splitlines()) == 1
    )
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "--config"], "without a file"),
        (["eval", "--config="], "without a file"),
        (["eval", "--config", "a.toml", "--config", "b.toml"], "given 2 times"),
        (["--config", "a.toml"], "give a command"),
        (["data", "--config", "a.toml"], "give a command"),
    ],
)
def test_the_option_itself(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def commands(of: App, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    for name in of:
        if not name.startswith("-"):
            yield (*above, name), of[name]
            yield from commands(of[name], (*above, name))


def test_no_command_has_an_option_twice() -> None:
    """Of two dataclasses with the same option only the first would get its value."""
    for name, command in commands(app):
        if command.default_command is None:
            continue
        flags: Counter[str] = Counter()
        for argument in command.assemble_argument_collection():
            flags.update({name for name in argument.names if argument.parse and name != "*"})
        assert not [flag for flag, count in flags.items() if count > 1], name


def test_the_same_values_come_from_the_command_line_and_from_python() -> None:
    from modgap.core.options import EvalOptions, JudgeOptions, StudyEvalOptions, TrainOptions

    def parsed(*words: str) -> dict[str, Any]:
        _, bound, _ = app.parse_args(list(words), exit_on_error=False, print_error=False)
        return dict(bound.arguments)

    found = parsed(
        "eval", "--out", "o", "--model", "m", "--engine-arg", "a=1", "b=2", "--temperature", "model"
    )
    assert found["options"] == EvalOptions(engine_args=("a=1", "b=2"), temperature="model")
    found = parsed("train", "kl", "--model", "m", "--device", "cpu")
    assert found["options"] == TrainOptions(device="cpu")
    found = parsed(
        "grade", "r", "--judge", "j", "--judge-engine", "hf", "--judge-check", "3", "--seed", "1"
    )
    assert found["options"] == JudgeOptions("j", "hf", check=3, seed=1)
    words = [
        "--model",
        "m",
        "--recipes",
        "kl,mix",
        "--out",
        "o",
        "--eval-engine",
        "vllm",
        "--engine",
        "verl",
    ]
    spec = parsed("study", *words)["spec"]
    assert (spec.recipes, spec.engine, spec.options) == (
        ("kl", "mix"),
        "verl",
        StudyEvalOptions(engine="vllm"),
    )
