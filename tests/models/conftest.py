"""The small model that the tests of models share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import CORPUS, TEXT, picture

from modgap.core.prompt import Prompt
from modgap.models.encode import EncodedPrompt
from modgap.models.load import load_policy
from modgap.models.policy import Policy
from modgap.testbed.build import Size, build_tiny

SMALL = Size(
    text_width=128, text_layers=2, text_mlp=192, vision_width=128, vision_layers=3, vision_mlp=160
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("models") / "tiny", CORPUS, seed=1, size=SMALL)


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    policy = load_policy(folder, device="cpu")
    with (
        torch.no_grad()
    ):  # random weights at their usual scale answer nearly the same whatever they are shown
        for parameter in policy.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return policy


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[EncodedPrompt]:
    """Two image sizes, no image, and a system-less prompt with a prefill."""
    return [
        policy.encode(Prompt(TEXT), picture(224, 224, 0)),
        policy.encode(Prompt(TEXT[60:]), picture(336, 150, 1)),
        policy.encode(Prompt("Find the length of AC.", has_image=False)),
        policy.encode(Prompt("Find AB.", system=None, prefill="<think>"), picture(224, 224, 0)),
    ]
