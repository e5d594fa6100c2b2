"""Training through transformers' own forward pass: the same numbers, for more families."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_families import FAMILIES, Sizes, build_family
from tiny_training import PROBLEMS, SETTINGS, made_up, on_cpu, recipe, run

from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.recipe import Stage
from modgap.core.terms import Term
from modgap.models.folder import FAST
from modgap.models.plain import PlainPolicy
from modgap.models.policy import Policy
from modgap.training import rollout
from modgap.training.known_model import known_model
from modgap.training.rollout import Batch, DataOrder
from modgap.training.update import gradients, old_logprobs

OTHER = Sizes(width=96, layers=4, vision_width=96, vision_layers=3, vocabulary=520, seed=5)
TRAINED = registry.TRAINING_ENGINES["local"].types


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def made(folders: Path, name: str) -> Path:
    folder = folders / name
    return folder if folder.exists() else build_family(name, folder)


def sampled(policy: Any, stage: Stage) -> Batch:
    """A mini-batch of a stage whose responses have several lengths."""
    roller = rollout.Roller(policy, DataOrder(PROBLEMS[:3], stage.views, 1), stage, 1, "aligned")
    groups = roller.draw(3)
    roller.sample(groups)
    roller.grade(groups, made_up)
    batch = Batch.of(groups)
    assert len(batch) == 9
    batch.responses[:] = [tokens[: 1 + 5 * n % 8] for n, tokens in enumerate(batch.responses)]
    return batch


def stage_of(views: str = "full-text text-only", contrastive: bool = True, **changes: Any) -> Stage:
    return Stage(tuple(views.split()), contrastive, replace(SETTINGS, **changes))


def gradients_of(policy: Any) -> dict[str, torch.Tensor]:
    named = policy.model.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def same_gradients(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """All within 1e-4 of the largest, so that a lost or doubled part of a layer shows."""
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, gradient in ours.items():
        scale = float(theirs[name].abs().max())
        assert (gradient - theirs[name]).abs().max() <= 1e-3 * scale + 1e-7, name


@pytest.mark.parametrize(
    ("contrastive", "name"), [(True, name) for name in FAST] + [(False, FAST[0])]
)
def test_both_paths_have_the_same_loss_and_gradient(
    folders: Path, contrastive: bool, name: str
) -> None:
    folder = made(folders, name)
    fast, plain = on_cpu(folder, dtype="float32"), on_cpu(folder, dtype="float32", plain=True)
    assert isinstance(fast, Policy) and isinstance(plain, PlainPolicy)
    stage = stage_of(contrastive=contrastive)
    batches = [sampled(policy, stage) for policy in (fast, plain)]
    for a, b in zip(batches[0].responses, batches[1].responses, strict=True):
        assert a.tolist() == b.tolist()  # sampled alike, too
    assert batches[0].right_B.tolist() == batches[1].right_B.tolist()
    scores = [old_logprobs(p, b, SETTINGS, 4) for p, b in zip((fast, plain), batches, strict=True)]
    for a, b in zip(*scores, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    stats = [
        gradients(policy, batch, stage, 4)
        for policy, batch in zip((fast, plain), batches, strict=True)
    ]
    assert abs(stats[0].loss - stats[1].loss) < 1e-5
    same_gradients(gradients_of(fast), gradients_of(plain))
    for part in ("visual.patch_embed", "visual.merger", "self_attn.q_proj"):
        found = [g for name, g in gradients_of(fast).items() if part in name]
        assert found and max(float(g.abs().max()) for g in found) > 0, part
    assert name != "qwen3_vl" or any("deepstack" in key for key in gradients_of(fast))


@pytest.mark.parametrize("name", FAST)
def test_full_vocabulary_and_a_frozen_tower_are_the_same_too(folders: Path, name: str) -> None:
    folder = made(folders, name)
    made_of = [
        on_cpu(folder, dtype="float32", plain=plain, frozen=("tower", "merger"))
        for plain in (False, True)
    ]
    stage = stage_of("full-text", kl_estimator="full_vocab")
    for policy in made_of:
        gradients(policy, sampled(policy, stage), stage, 4)
    same_gradients(*map(gradients_of, made_of))
    assert not any("visual" in name for name in gradients_of(made_of[1]))


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"lora": 4}])
@pytest.mark.parametrize("name", FAST)
def test_recomputed_layers_and_adapters_are_the_same_too(
    tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    """On a model of other sizes, more layers with features among them."""
    folder = build_family(name, tmp_path / name, OTHER)
    policies = []
    for plain in (False, True):
        torch.manual_seed(0)  # adapters are initialized at random
        policy = on_cpu(folder, dtype="float32", plain=plain, **changes)
        for key, parameter in policy.model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.1)
        policy.model.train()
        policies.append(policy)
    for policy in policies:
        gradients(policy, sampled(policy, stage_of()), stage_of(), 4)
    same_gradients(*map(gradients_of, policies))


@pytest.mark.parametrize("name", FAST)
def test_the_fast_path_sends_an_image_through_the_tower_once(folders: Path, name: str) -> None:
    policy = on_cpu(made(folders, name), dtype="float32")
    batch = sampled(policy, stage_of("full-text image-only"))
    twins = [twin for row in batch.twins for twin in row if twin is not None]
    shown = {prompt.image_key for prompt in (*batch.prompts, *twins)}
    seen: list[int] = []
    policy.visual.merger.register_forward_hook(lambda _, inputs, out: seen.append(out.shape[0]))
    gradients(policy, batch, stage_of("full-text image-only"), len(batch) * 2)
    tokens = {prompt.image_key: prompt.image_tokens for prompt in batch.prompts}
    assert len(shown) > 1 and sum(seen) == sum(tokens[key] for key in shown)


@pytest.mark.parametrize("name", TRAINED)
def test_a_row_is_scored_as_transformers_scores_it_alone(folders: Path, name: str) -> None:
    policy = on_cpu(made(folders, name), dtype="float32", plain=True)
    batch = sampled(policy, stage_of())
    logps, _, mask = policy.logprobs(batch.prompts, batch.responses, [], 0.8)
    for i, (prompt, response) in enumerate(zip(batch.prompts, batch.responses, strict=True)):
        inputs = policy._inputs([prompt])
        ids = torch.cat((inputs["input_ids"][0], response))[None]
        given = {k: v for k, v in inputs.items() if k not in ("attention_mask",)}
        for kind in ("mm_token_type_ids", "token_type_ids"):
            if kind in given:
                given[kind] = torch.nn.functional.pad(given[kind], (0, response.numel()))
        given |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        logits = policy.model(**given).logits[0, len(prompt) - 1 : -1]
        expected = policy.token_logps(logits, 0.8).gather(1, response[:, None])[:, 0]
        assert torch.allclose(logps[i][mask[i]], expected, atol=1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_a_family_trains_saves_and_resumes(folders: Path, tmp_path: Path, name: str) -> None:
    tiny = made(folders, name)
    plan = recipe(steps=1, samples_per_prompt=2, max_response_tokens=4, overlong_buffer=0)
    events = run(plan, tiny, tmp_path / "out")
    assert [event.kind for event in events].count("step") == 1
    last = tmp_path / "out" / "stage1" / "checkpoints" / "step_1"
    again, before = on_cpu(last, dtype="float32"), on_cpu(tiny, dtype="float32")
    state, old = again.model.state_dict(), before.model.state_dict()
    assert state.keys() == old.keys()
    assert any(not torch.equal(state[key], old[key]) for key in state)
    seen = [p.encode(*prompt_of(p)) for p in (again, before)]
    assert seen[0].input_ids.tolist() == seen[1].input_ids.tolist()


def test_twins_with_changed_pictures_need_the_fast_path(folders: Path, tmp_path: Path) -> None:
    masked = Term(picture="masked", ratio=0.5, rows="all")
    plan = recipe(steps=1, samples_per_prompt=2, max_response_tokens=4, overlong_buffer=0)
    plan = replace(plan, stages=(replace(plan.stages[0], terms=(masked,)),))
    with pytest.raises(UserError, match=r"patches.*qwen2_5_vl, qwen3_vl"):
        run(plan, made(folders, "llava"), tmp_path / "plain")
    run(plan, made(folders, "qwen3_vl"), tmp_path / "fast")


def prompt_of(policy: Any) -> tuple[Any, Any]:
    from modgap.core.prompt import training_prompt

    return training_prompt(PROBLEMS[0], "image-only"), PROBLEMS[0].open_image()


def test_other_families_are_refused_with_what_is_trained(folders: Path) -> None:
    for name in FAMILIES:
        if name not in TRAINED:
            folder = folders / name
            folder.mkdir(exist_ok=True)
            for file in ("config.json", "tokenizer.json", "preprocessor_config.json"):
                (folder / file).write_text(json.dumps({"model_type": name}))
            for engine in ("local", "verl"):
                with pytest.raises(UserError, match=f"'{name}', which --engine {engine}") as error:
                    known_model(str(folder), engine)
                assert "qwen2_5_vl" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="--engine local trains it"):
        known_model(str(made(folders, "qwen2_vl")), "verl")
