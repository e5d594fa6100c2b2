"""examples/verl_stock.sh: verl composes and validates it, and scores with our rule."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl has an environment of its own: make test-verl")

from modgap.training.verl.plan import validate

SCRIPT = Path(__file__).parents[3] / "examples" / "verl_stock.sh"


def given_to_verl(tmp_path: Path) -> list[str]:
    """What the script gives verl, by a `python3` that writes its arguments down."""
    stand_in = tmp_path / "python3"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(SCRIPT)], env=paths, capture_output=True, text=True, check=True
    )
    module, name, *overrides = done.stdout.splitlines()
    assert (module, name) == ("-m", "verl.trainer.main_ppo")
    return overrides


def test_verl_takes_it_and_scores_with_our_reward(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_module
    from verl.trainer.ppo.reward import get_custom_reward_fn

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=given_to_verl(tmp_path))
    validate(config)
    assert config.trainer.total_training_steps == 200
    score = get_custom_reward_fn(config)
    right = score("x", "<think>so</think> \\boxed{25}", "25.000", {})
    assert right["score"] == 1.0 and score("x", "\\boxed{24}", "25.000", {})["acc"] == 0.0
