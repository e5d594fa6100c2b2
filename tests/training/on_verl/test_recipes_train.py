"""Two steps of every further recipe on verl without a GPU, as `test_training.py` trains others.

Each is a launch of verl a stage, one to two minutes on two idle cores.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl has an environment of its own: make test-verl")

import torch
from test_training import ENVIRONMENT, SETTINGS

from modgap.core import registry
from modgap.core.recipe import Recipe
from modgap.training.terms import metrics_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU"),
]
NAMES = (
    "distill", "distill-jsd", "distill-advantage", "distill-frozen", "distill-after-text",
    "self-trace", "papo", "papo-unclamped", "vppo", "reading-reward",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    made = ["data", "synth", "--out", str(folder / "data"), "--train", "40", "--test", "4"]
    modgap(made, folder)
    return folder / "data"


def modgap(arguments: list[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modgap", *arguments], cwd=folder, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def finite(row: dict[str, Any], name: str) -> float:
    assert math.isfinite(row[name]), (name, row)
    return row[name]


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_on_a_cpu(name: str, data: Path, tmp_path: Path) -> None:
    given = SETTINGS | {"eval_every": 0, "save_every": 2, "dynamic_sampling": "false"}
    words = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    command = ["train", name, "--data", str(data), "--model", "tiny", "--out", "run"]
    modgap([*command, "--engine", "verl", *words], tmp_path)
    recipe: Recipe = registry.RECIPES.load(name)()
    for number, stage in enumerate(recipe.stages, start=1):
        lines = (tmp_path / f"run/stage{number}/train_log.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["step"] for row in rows] == [1, 2]
        for row in rows:
            assert finite(row, "grad_norm") >= 0
            for value, clamped, used in metrics_of(stage.all_terms):
                assert 0 <= finite(row, clamped) <= 1 and finite(row, used) >= 0
                assert row[used] == 0 or finite(row, value) != 0
        assert (tmp_path / f"run/stage{number}/checkpoints/step_2/config.json").exists()
