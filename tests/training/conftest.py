"""The very small model that the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import PROBLEMS, SIZE, on_cpu

from modgap.core.prompt import training_prompt
from modgap.models.policy import Policy
from modgap.testbed.build import build_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [
        training_prompt(problem, view).text
        for problem in PROBLEMS
        for view in ("full-text", "image-only")
    ]
    folder = build_tiny(tmp_path_factory.mktemp("tiny") / "model", words, seed=3, size=SIZE)
    policy = on_cpu(folder, dtype="float32")
    with torch.no_grad():  # opinionated, so that the two prompts differ and the clamps have work
        policy.model.lm_head.weight.mul_(18)
        for layer in policy.decoder.layers:
            for linear in (layer.mlp.down_proj, layer.self_attn.o_proj, layer.self_attn.v_proj):
                linear.weight.mul_(20)
        policy.visual.merger.mlp[-1].weight.mul_(10)
    policy.save(folder)
    return folder


@pytest.fixture
def policy(tiny: Path) -> Policy:
    loaded = on_cpu(tiny, dtype="float32")
    loaded.model.train()
    return loaded
