"""Tower, merger and language model: which weights they are, freezing them, swapping them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from model_families import build_family
from safetensors.torch import load_file
from tiny_models import CORPUS, TEXT, picture

from modgap.core.errors import UserError
from modgap.core.prompt import Prompt
from modgap.core.recipe import PARTS
from modgap.models.load import load_policy
from modgap.models.parts import part_of
from modgap.models.swap import swap
from modgap.testbed.build import Size, build_tiny

SIZE = Size(
    text_width=128, text_layers=2, text_mlp=64, vision_width=64, vision_layers=2, vision_mlp=64
)
COMBINATIONS = [parts for count in (1, 2) for parts in itertools.combinations(PARTS, count)]


@pytest.fixture(scope="module", params=["qwen2.5-vl", "qwen3-vl"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one shape with other weights everywhere."""
    folder = tmp_path_factory.mktemp("parts")
    made: list[Path] = []
    for seed in (1, 2):
        made.append(build_tiny(folder / str(seed), CORPUS, seed, SIZE, request.param))
        policy = load_policy(made[-1], "cpu")
        torch.manual_seed(seed)
        with torch.no_grad():  # norms and biases begin alike
            for parameter in policy.model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        policy.save(made[-1])
    return made


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.visual.blocks.0.attn.qkv.weight", "tower"),
        ("visual.patch_embed.proj.weight", "tower"),
        ("model.visual.pos_embed.weight", "tower"),
        ("model.visual.merger.mlp.0.weight", "merger"),
        ("model.visual.deepstack_merger_list.0.norm.bias", "merger"),
        ("model.vision_tower.encoder.layers.1.mlp.fc1.weight", "tower"),
        ("model.multi_modal_projector.linear_1.weight", "merger"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "language"),
        ("model.language_model.embed_tokens.weight", "language"),
        ("lm_head.weight", "language"),
    ],
)
def test_a_weights_part_follows_from_its_name(name: str, part: str) -> None:
    assert part_of(name) == part


def test_a_llava_has_all_parts(tmp_path: Path) -> None:
    policy = load_policy(build_family("llava", tmp_path / "llava"), "cpu")
    assert {part_of(name) for name, _ in policy.model.named_parameters()} == set(PARTS)


def gradients(folder: Path, frozen: tuple[str, ...]) -> dict[str, torch.Tensor]:
    policy = load_policy(folder, device="cpu", frozen=frozen)
    policy.model.train()
    prompt = policy.encode(Prompt(TEXT), picture(224, 224, 0))
    response = torch.arange(10, 16)
    policy.logprobs([prompt], [response], policy.image_features([prompt]))[0].sum().backward()
    return {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def every(pair: list[Path]) -> dict[str, torch.Tensor]:
    """The gradients where nothing is frozen."""
    return gradients(pair[0], ())


@pytest.mark.parametrize("frozen", COMBINATIONS)
def test_frozen_parts_get_no_gradient_and_the_others_the_same(
    pair: list[Path], every: dict[str, torch.Tensor], frozen: tuple[str, ...]
) -> None:
    some = gradients(pair[0], frozen)
    assert {part_of(name) for name in every} == set(PARTS)
    assert some.keys() == {name for name in every if part_of(name) not in frozen}
    assert all(torch.allclose(some[name], every[name], atol=1e-6) for name in some)


@pytest.mark.parametrize("parts", [("tower",), ("merger",), ("language",), PARTS])
def test_swapped_parts_are_the_others_and_the_rest_is_kept(
    pair: list[Path], parts: tuple[str, ...], tmp_path: Path
) -> None:
    base, other = pair
    out = swap(base, other, parts, tmp_path / "swapped")
    one, two, mixed = (load_file(folder / "model.safetensors") for folder in (base, other, out))
    assert mixed.keys() == one.keys()
    for name, weight in mixed.items():
        source = two if part_of(name) in parts else one
        assert torch.equal(weight, source[name].float()), name
        assert not torch.equal(one[name], two[name])
    assert load_policy(out, "cpu").count_parameters() == load_policy(base, "cpu").count_parameters()


def test_a_swap_of_two_shapes_an_unknown_part_or_a_full_folder_is_refused(
    pair: list[Path], tmp_path: Path
) -> None:
    base, other = pair
    with pytest.raises(UserError, match="unknown part 'vision': choose from language"):
        swap(base, other, ["vision"], tmp_path / "out")
    with pytest.raises(UserError, match="differ in shape"):
        swap(base, "tiny", ["tower"], tmp_path / "out")
    with pytest.raises(UserError, match="holds files"):
        swap(base, other, ["tower"], base)
