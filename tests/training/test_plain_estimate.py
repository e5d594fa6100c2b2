"""The dry run's estimate of the plain path: parameters, image tokens and FLOPs as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_families import Sizes, build_family
from tiny_models import picture

from modgap.core.prompt import Prompt
from modgap.core.recipe import Settings, Stage
from modgap.models.load import load_policy
from modgap.training import plan
from modgap.training.known_model import known_model
from modgap.training.plan import Lengths, cost, gpu, largest_pass
from modgap.training.rollout import Batch
from modgap.training.shape import PLAIN, PlainShape
from modgap.workflows.train import dry_run_lines, resolve_recipe

OTHER = Sizes(
    192, layers=2, vision_width=96, vision_layers=4, vocabulary=600, seed=1, sharing=3, tied=True
)


@pytest.fixture(scope="module", params=PLAIN)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family(request.param, tmp_path_factory.mktemp("plain") / request.param)


def shape_of(folder: Path) -> PlainShape:
    shape = known_model(str(folder)).shape
    assert isinstance(shape, PlainShape) and not shape.shared
    return shape


def test_parameters_are_counted_exactly(built: Path, tmp_path: Path) -> None:
    for folder in (built, build_family(built.name, tmp_path / built.name, OTHER)):
        model = load_policy(folder, device="cpu").model
        shape = shape_of(folder)
        assert shape.parameters == sum(p.numel() for p in model.parameters())
        config = json.loads((folder / "config.json").read_text())
        assert shape.tied == config["tie_word_embeddings"]


def test_an_image_takes_the_tokens_that_the_processor_gives_it(built: Path) -> None:
    shape = shape_of(built)
    policy = load_policy(built, device="cpu")
    prompt = policy.encode(Prompt("Find AB."), picture(448, 448, 0))
    if shape.kind == "qwen2_vl":
        assert shape.image_tokens == 0  # by its size
    else:
        assert shape.image_tokens == prompt.image_tokens


def test_flops_of_the_update_are_what_torch_counts(built: Path) -> None:
    """Two groups of four rows, each with its own image, through the update itself."""
    from torch.utils.flop_counter import FlopCounterMode

    from modgap.training.update import gradients

    shape, policy = shape_of(built), load_policy(built, device="cpu")
    policy.model.train()
    prompts = [policy.encode(Prompt(f"Find AB, then {n}."), picture(90, 90, n)) for n in (1, 2)]
    rows = [prompt for prompt in prompts for _ in range(4)]
    tokens = 24
    batch = Batch(
        rows, [()] * 8, ["full-text"] * 8, [torch.arange(20, 20 + tokens)] * 8,
        torch.tensor([1.0, -1, 1, -1] * 2), torch.ones(8).bool(),
    )  # fmt: skip
    settings = Settings(prompts_per_step=2, mini_batch=2, samples_per_prompt=4, micro_batch=0)
    stage = Stage(("full-text",), settings=settings)
    with FlopCounterMode(display=False) as counted:
        gradients(policy, batch, stage, 4)
    lengths = Lengths(
        prompts[0].image_tokens, len(prompts[0]), len(prompts[0]), tokens, tokens, mixed=1.0
    )
    expected = cost(stage, shape, lengths, gpu("H200")).flops["update"]
    # As for the fast path; embeddings and norms are counted as products, which they are not.
    assert 0.75 < counted.get_total_flops() / expected < 1.25


def test_a_row_of_its_own_costs_more_than_a_shared_prompt(built: Path) -> None:
    shape, lengths = shape_of(built), Lengths(256, 396, 356, 400, 800)
    stage = Stage(("full-text",), contrastive=True)
    plain, fast = (
        cost(stage, replace(shape, shared=shared), lengths, gpu("H200")) for shared in (False, True)
    )
    for phase in ("update", "twins", "rollout"):
        assert plain.flops[phase] > fast.flops[phase]
    rows, tokens, images = largest_pass(stage, lengths, shared=False)
    assert (rows, tokens, images) == (32, 32 * (396 + 800), 32)


@pytest.fixture
def timed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests look at words: how fast this processor is says nothing to them."""
    monkeypatch.setattr(plan, "this_cpu", lambda shape: gpu("H200"))


@pytest.mark.usefixtures("timed_at_once")
def test_the_dry_run_says_that_it_is_rough(built: Path) -> None:
    lines = "\n".join(dry_run_lines(resolve_recipe("kl", ()), model=str(built)))
    assert "no estimate" not in lines and "memory: about" in lines
    assert "rough: this model takes the plain path" in lines


@pytest.mark.usefixtures("timed_at_once")
def test_an_image_that_does_not_fit_the_prompt_is_noted(tmp_path: Path) -> None:
    folder = build_family("llava", tmp_path / "llava")
    lines = dry_run_lines(resolve_recipe("kl", ("max_prompt_tokens=64",)), model=str(folder))
    assert "an image takes about 16 tokens: prompts longer than max_prompt_tokens=64" in str(lines)


def test_a_qwen3_vl_that_always_thinks_is_estimated_on_the_plain_path(tmp_path: Path) -> None:
    folder = build_family("qwen3_vl", tmp_path / "thinking")
    usual = known_model(str(folder)).shape
    file = folder / "chat_template.json"
    file.write_text(file.read_text().replace("assistant\\\\n", "assistant\\\\n<think>\\\\n"))
    thinking = known_model(str(folder)).shape
    assert usual is not None and usual.shared and thinking == replace(usual, shared=False)
