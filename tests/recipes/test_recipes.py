from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from modgap.core import registry
from modgap.core.assign import apply_settings
from modgap.core.errors import UserError
from modgap.core.recipe import Recipe, Settings, Stage

PAPER = {
    "full-text": [(("full-text",), False, 200, 4096)],
    "no-text": [(("image-only",), False, 200, 4096)],
    "mix": [(("full-text", "image-only"), False, 200, 4096)],
    "curriculum": [(("full-text",), False, 200, 4096), (("image-only",), False, 200, 4096)],
    "kl": [(("full-text",), False, 200, 4096), (("full-text",), True, 100, 4000)],
    "kl-curriculum": [
        (("full-text",), False, 200, 4096),
        (("full-text",), True, 100, 4000),
        (("image-only",), False, 200, 4096),
    ],
}


def load(name: str) -> Recipe:
    return registry.RECIPES.load(name)()


def test_every_shipped_recipe_loads_and_has_its_own_name() -> None:
    for name in registry.RECIPES:
        recipe = load(name)
        recipe.check()
        assert recipe.name == name and recipe.summary


@pytest.mark.parametrize("name", PAPER)
def test_stages_are_the_papers(name: str) -> None:
    stages = load(name).stages
    got = [
        (s.views, s.contrastive, s.settings.steps, s.settings.max_response_tokens) for s in stages
    ]
    assert got == PAPER[name]


@pytest.mark.parametrize("name", PAPER)
def test_settings_of_every_stage_are_the_papers(name: str) -> None:
    for stage in load(name).stages:
        s = stage.settings
        assert (s.prompts_per_step, s.samples_per_prompt, s.mini_batch) == (512, 5, 128)
        assert (s.temperature, s.lr, s.warmup_steps, s.max_prompt_tokens) == (0.8, 1e-6, 0, 1024)
        assert (s.clip_low, s.clip_high, s.dual_clip) == (0.2, 0.28, 10.0)
        assert (s.overlong_buffer, s.overlong_penalty) == (1024, 1.0)
        assert (s.kl_coef, s.kl_estimator, s.kl_clamp) == (0.01, "k3", "paper")
        assert (s.save_every, s.eval_every, s.dynamic_sampling) == (40, 10, True)
        assert (
            s.max_refills == 10 and s.reward_tolerance == "relative"
        )  # deliberate: bounded, and with a tolerance


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("kl-forward", {"settings.kl_estimator": "forward"}),
        ("kl-full-vocab", {"settings.kl_estimator": "full_vocab"}),
        ("kl-unclamped", {"settings.kl_clamp": "none"}),
        ("kl-strong", {"settings.kl_coef": 0.1}),
        ("full-text-continued", {"contrastive": False}),
    ],
)
@pytest.mark.parametrize(
    "assignments", [(), ("steps=7", "lr=1e-4", "stage2.dual_clip=5")], ids=["paper", "set"]
)
def test_a_kl_variant_is_kl_but_for_one_thing_in_its_second_stage(
    name: str, change: dict[str, Any], assignments: tuple[str, ...]
) -> None:
    kl, variant = (apply_settings(load(each), assignments) for each in ("kl", name))
    assert variant.stages[0] == kl.stages[0]  # so a study trains it once
    assert _flat(variant.stages[1]) == _flat(kl.stages[1]) | change != _flat(kl.stages[1])


def _flat(stage: Stage) -> dict[str, Any]:
    settings = {f"settings.{key}": value for key, value in asdict(stage.settings).items()}
    return {"views": stage.views, "contrastive": stage.contrastive, **settings}


def test_the_further_recipes_have_the_defaults_of_their_sources() -> None:
    (papo,) = load("papo").stages
    kl, masked, own = papo.terms
    assert papo.views == ("image-only",) and papo.policy_loss
    assert (kl.coef, kl.clamp, kl.estimator, kl.ratio, kl.rows) == (-0.01, 10, "k3", 0.6, "all")
    assert masked.scored == kl.scored and masked.coef == own.coef == 0.03 and own.of_itself
    (free,) = load("papo-unclamped").stages
    assert free.terms == (replace(kl, clamp=None), masked, own)
    (vppo,) = load("vppo").stages
    weight, penalty = vppo.terms
    assert (weight.role, weight.top, weight.trajectory) == ("weight", 0.4, 0.9)
    assert penalty.coef == 0.06 and weight.scored == kl.scored
    (distill,) = load("distill").stages
    (term,) = distill.terms
    assert (term.twin, term.detach, term.estimator, term.teacher) == (
        "full-text", "twin", "reverse", "live",
    )  # fmt: skip
    for name, change in (
        ("distill-jsd", {"estimator": "jsd"}),
        ("distill-advantage", {"role": "advantage"}),
        ("distill-frozen", {"teacher": "frozen"}),
        ("distill-ema", {"teacher": "ema", "decay": 0.99}),
    ):
        assert load(name).stages == (replace(distill, terms=(replace(term, **change),)),)  # type: ignore[arg-type]
    assert load("distill-after-text").stages == (load("full-text").stages[0], distill)
    (trace,) = load("self-trace").stages
    assert not trace.policy_loss and trace.terms[0].estimator == "nll"
    first, second = load("reading-reward").stages
    assert first.reward.answer == 0 and second.reward.answer == 1 and second.reward.reading > 0


def test_every_further_recipe_but_its_terms_is_one_of_the_papers() -> None:
    """So that the paper's is its control."""
    for name in ("distill", "distill-jsd", "distill-advantage", "papo", "vppo"):
        assert replace(load(name).stages[0], terms=()) == load("no-text").stages[0]


def test_a_stage_can_be_set_on_its_own() -> None:
    recipe = apply_settings(
        load("kl-curriculum"), ["steps=3", "stage2.kl_estimator=forward", "stage2.steps=1"]
    )
    assert [stage.settings.steps for stage in recipe.stages] == [3, 1, 3]
    assert [stage.settings.kl_estimator for stage in recipe.stages] == ["k3", "forward", "k3"]
    assert load("kl-curriculum").stages[0].settings == Settings()  # nothing shared was changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[({name: math.inf}, f"{name}=inf: must be a finite")
          for name in ("lr", "temperature", "clip_high")],
        ({"dual_clip": math.nan}, "dual_clip=nan: must be a finite"),
        ({"max_refills": math.nan}, "max_refills=nan"),
        ({"max_refills": -math.inf}, "max_refills=-inf"),
        ({"clip_low": 1.0}, "clip_low=1.0: must be below 1"),
        ({"seed": -1}, "seed=-1: must be from 0"), ({"seed": 2**63}, "must be from 0"),
        ({"steps": 0}, "steps=0: must be at least 1"),
        ({"warmup_steps": -1}, "must not be negative"),
        ({"prompts_per_step": 4}, "4 is not a multiple of mini_batch=128.*divides them"),
    ],
    ids=str,
)  # fmt: skip
def test_values_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(Settings(), **change).check()
    replace(Settings(), max_refills=math.inf).check()  # the paper's


def test_a_bug_in_a_users_module_is_not_taken_for_a_missing_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reward_with_a_bug.py").write_text(
        "import math\nmath.no_such_thing\ndef reward(a, b): return 0.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"no_such_thing.*reward_with_a_bug\.py line 2\)"):
        registry.load("reward_with_a_bug:reward")
    with pytest.raises(UserError, match="math has no 'sine'"):
        registry.load("math:sine")
