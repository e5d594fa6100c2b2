"""The update of the local engine: its loss and gradients against the naive form and TRL."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_training import PROBLEMS, SETTINGS, made_up, on_cpu

from modgap.core.prompt import Prompt, training_prompt
from modgap.core.recipe import Settings, Stage
from modgap.core.terms import Term
from modgap.models import tree
from modgap.models.load import load_policy
from modgap.models.memory import BatchSize
from modgap.models.policy import Policy
from modgap.training import local, rollout, update
from modgap.training.rollout import Batch, DataOrder
from modgap.training.teachers import Teachers
from modgap.training.update import SharedVision, TokenStats, computing, gradients, old_logprobs

# The oracle: every row forwarded twice, images and all, in one graph


def sampled_batch(
    policy: Policy, stage: Stage | None = None, *, views: tuple[str, ...] = ("full-text",)
) -> Batch:
    stage = stage or Stage(views, True, SETTINGS)
    roller = rollout.Roller(policy, DataOrder(PROBLEMS[:3], stage.views, 1), stage, 1, "aligned")
    groups = roller.draw(4)  # 4 of 3 problems: one image comes twice
    roller.sample(groups)
    roller.grade(groups, made_up)
    batch = Batch.of([group for group in groups if group.mixed])
    assert len(batch) >= 9 and batch.right_B.sum() >= 2
    # It never stops by itself: cut the responses, so that there is padding.
    return replace(
        batch, responses=[tokens[: 1 + 5 * n % 8] for n, tokens in enumerate(batch.responses)]
    )


def plain_logps(
    policy: Policy, prompt: Any, response: torch.Tensor, temperature: float
) -> torch.Tensor:
    """`[T, V]` from one plain forward of transformers' model."""
    ids = torch.cat((prompt.input_ids, response))[None]
    config = policy.model.config
    logits = policy.model(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.image_grid_thw,
        mm_token_type_ids=(ids == config.image_token_id).long(),
    ).logits[0, len(prompt.input_ids) - 1 : -1]  # fmt: skip
    logits = logits / temperature
    logits[:, [config.image_token_id, config.video_token_id]] = -torch.inf
    return logits.log_softmax(-1)


def naive_term(p: torch.Tensor, q: torch.Tensor, term: Term) -> tuple[torch.Tensor, torch.Tensor]:
    """Value of each token, and what has its gradient: `[T, V]` of both sides, gathered or whole.

    p and q require gradients where the term has them.
    """
    if term.estimator == "full_vocab":
        keep = ~p[0].isinf()
        t, s = (p, q) if term.detach == "rollout" else (q, p)
        exact = (t[:, keep].exp() * (t - s)[:, keep]).sum(-1)
        return exact.detach(), exact
    d, u = (p - q).detach(), (q - p).detach().exp()
    if term.estimator == "nll":
        value, surrogate = -q, -q
    elif term.estimator == "k3":
        x = p - q if term.detach == "rollout" else q - p
        x = x.clamp(-20, 20)
        value = surrogate = x.exp() - x - 1
    elif term.estimator == "jsd":
        m = (p.exp() + q.exp()).log().detach() - math.log(2)
        # The Jensen-Shannon divergence of the sampled token, the other side's half by u.
        value = ((p - m) + u * (q - m)) / 2
        surrogate = ((p - m).detach() * p + u * (q - m).detach() * q) / 2
    elif (term.estimator == "forward") == (term.detach == "rollout"):  # KL(p || q)
        value, surrogate = d, d * p - q
    else:  # KL(q || p)
        value, surrogate = u * -d - u + 1, (1 - u) * p + u * -d * q
    value = value.detach()
    if term.clamp is not None:
        surrogate = torch.where(value.abs() > term.clamp, surrogate.detach(), surrogate)
        value = value.clamp(-term.clamp, term.clamp)
    return value, surrogate


def naive_gradient(
    policy: Policy, batch: Batch, stage: Stage, teachers: dict[Any, Policy] | None = None
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of every row forwarded once for each twin, in one graph."""
    settings, value = stage.settings, 0.0
    size = settings.micro_batch if settings.loss_mean == "micro_batch" else len(batch)
    parts = [range(i, min(i + size, len(batch))) for i in range(0, len(batch), size)]
    full = [
        plain_logps(policy, batch.prompts[i], batch.responses[i], settings.temperature)
        for i in range(len(batch))
    ]
    twins: dict[tuple[int, int, str], torch.Tensor] = {}
    sides: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
    rows_of: list[list[int]] = []
    for n, term in enumerate(stage.objective):
        right = batch.right_B.tolist()
        rows = [
            i for i in range(len(batch))
            if (term.rows == "all" or right[i] == (term.rows == "right"))
            and term.rollout in ("", batch.views[i])
        ]  # fmt: skip
        rows_of.append(rows)
        for i in rows:
            y = batch.responses[i]
            p = full[i]
            if term.scored is None:
                q = p
            else:
                key = (i, stage.twins.index(term.scored), term.teacher)
                if key not in twins:
                    twin = batch.twins[i][key[1]]
                    of = policy if term.teacher == "live" else (teachers or {})[term.teacher]
                    twins[key] = plain_logps(of, twin, y, settings.temperature)
                q = twins[key]
            if term.estimator != "full_vocab":
                p, q = (x.gather(1, y[:, None])[:, 0] for x in (p, q))
            learns = term.role == "loss"
            from_p = learns and (term.detach != "rollout" or term.scored is None)
            from_q = learns and (term.detach != "twin" or term.scored is None)
            sides[n, i] = (p if from_p else p.detach(), q if from_q else q.detach())
    advantages = {
        i: batch.advantages_B[i].expand(len(y)).clone() for i, y in enumerate(batch.responses)
    }
    weights = {i: torch.ones(len(y)) for i, y in enumerate(batch.responses)}
    for n, term in enumerate(stage.objective):
        values = {i: naive_term(*sides[n, i], term)[0] for i in rows_of[n]}
        if term.role == "advantage":
            for i in rows_of[n]:
                p, q = (x.detach() for x in sides[n, i])
                u = (q - p).exp()
                added = {"reverse": q - p, "jsd": ((1 + u) / 2).log() / 2}.get(
                    term.estimator, u - 1
                )
                if term.clamp is not None:
                    added = added.clamp(-term.clamp, term.clamp)
                advantages[i] += term.coef * added
        if term.role == "weight":
            means = {i: values[i].mean() for i in rows_of[n]}
            low, high = min(means.values()), max(means.values())
            x = {i: (mean - low) / (high - low) for i, mean in means.items()}
            for i in rows_of[n]:
                if term.top is None:
                    relative = values[i] / means[i]
                else:
                    kept = values[i].topk(math.ceil(term.top * len(values[i]) - 1e-6)).indices
                    relative = torch.zeros(len(values[i])).index_fill(0, kept, 1.0)
                weights[i] *= 1 + term.coef * (relative - 1)
                if (least := term.trajectory) is not None:
                    mean = sum(x.values()) / len(x)
                    weights[i] *= least + (1 - least) * x[i] / mean
    losses: list[torch.Tensor] = []
    for part in parts:
        here = []
        for i in part:
            y, a = batch.responses[i], advantages[i] * weights[i]
            now = full[i].gather(1, y[:, None])[:, 0]
            old = now.detach() if batch.old_logps is None else batch.old_logps[i]
            rho = (now - old).clamp(-20, 20).exp()
            clipped = rho.clamp(1 - settings.clip_low, 1 + settings.clip_high)
            surrogate = torch.min(rho * a, clipped * a)
            bounded = torch.max(surrogate, settings.dual_clip * a)
            here.append(-torch.where(a < 0, bounded, surrogate))
        if stage.policy_loss:
            losses.append(torch.cat(here).mean() / len(parts))
            value += float(losses[-1])
        for n, term in enumerate(stage.objective):
            used = [i for i in part if i in rows_of[n]]
            if term.role != "loss" or not used:
                continue
            found = [naive_term(*sides[n, i], term) for i in used]
            losses.append(term.coef * torch.cat([x for _, x in found]).mean() / len(parts))
            value += term.coef * float(torch.cat([x for x, _ in found]).mean()) / len(parts)
    policy.model.zero_grad(set_to_none=True)
    torch.stack(losses).sum().backward()
    return value, gradients_of(policy)


def gradients_of(policy: Policy) -> dict[str, torch.Tensor]:
    return {
        name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None
    }


def assert_same_gradients(
    got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float
) -> None:
    assert got.keys() == expected.keys()
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
    for name, gradient in expected.items():
        own = float(gradient.abs().max())
        torch.testing.assert_close(
            got[name], gradient, rtol=tolerance, atol=tolerance * own, msg=name
        )


@pytest.fixture(scope="module")
def unchanged(tiny: Path) -> Policy:
    """A policy whose gradients are computed and whose weights no test changes."""
    loaded = on_cpu(tiny, dtype="float32")
    loaded.model.train()
    return loaded


def off_policy(policy: Policy, batch: Batch, settings: Settings) -> Batch:
    torch.manual_seed(0)
    old = old_logprobs(policy, batch, settings, 100)
    return replace(batch, old_logps=[logps + 0.4 * torch.randn_like(logps) for logps in old])


def compare(policy: Policy, stage: Stage, sizes: tuple[int, ...] = (2, 100)) -> dict[str, float]:
    """Gradients and loss of a stage against the naive form; returns the last metrics.

    Twins are beside their prompts as far as the settings allow, then in passes of their own.
    """
    batch = off_policy(policy, sampled_batch(policy, stage), stage.settings)
    loss, expected = naive_gradient(policy, batch, stage)
    means: dict[str, float] = {}
    for apart in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if apart:
                patch.setattr(update, "twins_together", lambda *_: False)
            for micro_batch in sizes:
                stats = gradients(policy, batch, stage, micro_batch)
                assert_same_gradients(gradients_of(policy), expected, 2e-5)
                assert stats.loss == pytest.approx(loss, rel=1e-5, abs=1e-7)
                means = stats.means()
    return means


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, (2, 100)), ({"loss_mean": "micro_batch"}, (2, 100)),
        ({"kl_clamp": "none"}, (3,)), ({"kl_estimator": "forward"}, (3,)),
        ({"kl_estimator": "full_vocab"}, (3,)),
    ],
    ids=str,
)  # fmt: skip
def test_the_papers_kl_equals_the_naive_form(
    unchanged: Policy, changes: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    settings = replace(SETTINGS, kl_coef=0.5, **changes)
    means = compare(unchanged, Stage(("full-text",), True, settings), sizes)
    assert means["clip_low"] + means["clip_high"] > 0 and means["contrastive_kl"] > 0.1
    if settings.kl_estimator == "k3" and settings.kl_clamp == "paper":
        assert 0 < means["kl_clamped"] < 1  # the oracle saw both sides of the clamp


def test_the_papers_kl_written_as_a_term_is_the_same_to_the_last_bit(policy: Policy) -> None:
    term = Term(
        twin="image-only", detach="rollout", estimator="k3", clamp=10, coef=0.01, rows="right"
    )
    flag, written = (
        Stage(("full-text",), True, SETTINGS),
        Stage(("full-text",), settings=SETTINGS, terms=(term,)),
    )
    batch = off_policy(policy, sampled_batch(policy, flag), SETTINGS)
    found = []
    for stage in (flag, written):
        stats = gradients(policy, batch, stage, 4)
        found.append((stats.loss, stats.means(), gradients_of(policy)))
    assert found[0][:2] == found[1][:2]
    assert all(gradient.equal(found[1][2][name]) for name, gradient in found[0][2].items())


SIDES = ("rollout", "twin", "none")
ESTIMATORS = {"k3": 0.7, "forward": 0.6, "reverse": 0.5, "jsd": 0.8, "full_vocab": 0.4}
"""Estimator -> a coefficient of its own."""


@pytest.mark.parametrize("detach", SIDES)
def test_every_estimator_equals_the_naive_form_whichever_side_is_detached(
    unchanged: Policy, detach: Any
) -> None:
    """All in one stage: its gradient is their sum."""
    terms = tuple(
        Term("image-only", detach, estimator, clamp=2.0, coef=coef, rows="all")
        for estimator, coef in ESTIMATORS.items()
    )
    means = compare(unchanged, Stage(("full-text",), settings=SETTINGS, terms=terms), (3,))
    assert all(means[f"term{n}"] != 0 for n in range(1, len(terms) + 1))


@pytest.mark.parametrize(
    "terms",
    [
        (
            Term("image-only", "rollout", "nll", coef=0.4),
            Term(estimator="nll", coef=-0.3, rows="all"),
        ),
        (
            Term("image-only", "twin", "reverse", coef=0.6, rows="wrong", role="advantage"),
            Term("image-only", "twin", "k3", 1.0, 0.6, "all", "advantage"),
            Term("image-only", "twin", "forward", 1.0, 0.5, "all", "advantage"),
            Term("image-only", "twin", "jsd", coef=0.4, rows="all", role="advantage"),
        ),
        (
            Term("image-only", "twin", "k3", 10.0, 0.8, "all", "weight"),
            Term("image-only", "rollout", "jsd", None, 1.0, "right", "weight"),
        ),
        (Term("image-only", "twin", "reverse", None, 1.0, "all", "weight", top=0.4),),
        (
            Term("image-only", "twin", "k3", 10.0, 1.0, "all", "weight", top=0.4, trajectory=0.9),
            Term(estimator="nll", coef=0.06, rows="all"),
        ),
        # PAPO: one masked twin for two terms, pushed apart, with entropies on both sides.
        (
            Term("", "none", "k3", 10.0, -0.3, "all", picture="masked", ratio=0.6),
            Term("", "none", "nll", None, 0.2, "all", picture="masked", ratio=0.6),
            Term(estimator="nll", coef=0.2, rows="all"),
        ),
        (
            Term("", "none", "jsd", None, 0.5, "all", picture="noised", ratio=0.3, seed=3),
            Term("", "rollout", "forward", None, 0.5, "all", picture="blank"),
            Term("", "twin", "reverse", None, 0.5, "all", picture="swapped"),
            Term("text-only", "twin", "reverse", None, 0.5, "all"),
        ),
        # Three twins, one of them with and without gradient.
        (
            Term("image-only", "rollout", "k3", 10.0, 0.5, "right"),
            Term("image-only", "twin", "jsd", None, 0.5, "wrong"),
            Term("", "twin", "reverse", None, 0.3, "all", picture="masked", ratio=0.5),
            Term("text-only", "none", "forward", None, 0.2, "all"),
        ),
    ],
    ids=lambda terms: " + ".join(term.title for term in terms),
)  # fmt: skip
def test_roles_pictures_and_several_twins_equal_the_naive_form(
    unchanged: Policy, terms: tuple[Term, ...]
) -> None:
    compare(unchanged, Stage(("full-text",), settings=SETTINGS, terms=terms), (3,))


def test_terms_of_one_of_several_views(unchanged: Policy) -> None:
    terms = (
        Term("image-only", "rollout", "k3", 10.0, 0.5, "all", rollout="full-text"),
        Term("full-text", "twin", "reverse", None, 0.5, "all", rollout="image-only"),
    )
    stage = Stage(("full-text", "image-only"), settings=SETTINGS, terms=terms)
    stage.check()
    batch = sampled_batch(unchanged, stage)
    assert set(batch.views) == set(stage.views)
    compare(unchanged, stage, (3,))


@pytest.mark.parametrize("loss_mean", ["mini_batch", "micro_batch"])
def test_a_stage_without_policy_loss(unchanged: Policy, loss_mean: Any) -> None:
    settings = replace(SETTINGS, loss_mean=loss_mean)
    terms = (
        Term("image-only", "rollout", "nll", coef=1.0),
        Term("image-only", "twin", "reverse", coef=0.8, rows="all"),
    )
    stage = Stage(("full-text",), settings=settings, terms=terms, policy_loss=False)
    compare(unchanged, stage, (4,))


def test_a_teacher_has_weights_of_its_own(tiny: Path, policy: Policy) -> None:
    """Frozen: those of the start; ema: an average that follows them; LoRA's frozen weights too."""
    terms = (
        Term("image-only", "twin", "reverse", None, 0.5, "all", teacher="frozen"),
        Term("image-only", "twin", "k3", 10.0, 0.5, "all", teacher="ema", decay=0.75),
        Term("image-only", "twin", "jsd", None, 0.5, "all"),
        Term("", "twin", "reverse", None, 0.2, "all", teacher="frozen"),
    )
    stage = Stage(("full-text",), settings=SETTINGS, terms=terms)
    stage.check()
    batch = sampled_batch(policy, stage)
    teachers = Teachers.of(stage, policy)
    frozen, average = (on_cpu(tiny, dtype="float32") for _ in range(2))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for mean, now in zip(average.parameters(), policy.parameters(), strict=True):
            mean.lerp_(now, 0.25)
    teachers.follow(policy)
    before = [parameter.data_ptr() for parameter in policy.parameters()]
    loss, expected = naive_gradient(policy, batch, stage, {"frozen": frozen, "ema": average})
    stats = gradients(policy, batch, stage, 3, teachers)
    assert_same_gradients(gradients_of(policy), expected, 2e-5)
    assert stats.loss == pytest.approx(loss, rel=1e-5)
    assert [parameter.data_ptr() for parameter in policy.parameters()] == before
    restored = Teachers.of(stage, policy)
    restored.restore(teachers.state())
    assert all(
        a.equal(b)
        for a, b in zip(*(t.state()["ema 0.75"] for t in (teachers, restored)), strict=True)
    )


def test_a_tree_has_the_log_probabilities_of_each_row_alone(policy: Policy) -> None:
    """Prompts with and without an image, twins beside their prompts, a prompt that is there once, a
    response of one token."""
    batch = sampled_batch(policy)
    alone = policy.encode(training_prompt(PROBLEMS[5], "full-text"), PROBLEMS[5].open_image())
    words = policy.encode(replace(training_prompt(PROBLEMS[6], "full-text"), has_image=False), None)
    prompts = [*batch.prompts[:5], *(twins[0] for twins in batch.twins[:5]), alone, words, words]
    responses = [
        *batch.responses[:5],
        *batch.responses[:5],
        batch.responses[0],
        *(r[:1] for r in batch.responses[:2]),
    ]
    with torch.no_grad():
        logps_BT, _, mask_BT = policy.logprobs(
            prompts, responses, policy.image_features(prompts), 0.7
        )
    for prompt, response, logps, mask in zip(prompts, responses, logps_BT, mask_BT, strict=True):
        plain = plain_logps(policy, prompt, response, 0.7).gather(-1, response[:, None])[:, 0]
        assert int(mask.sum()) == len(response)
        torch.testing.assert_close(logps[: len(response)], plain.detach(), rtol=1e-4, atol=1e-5)


def test_a_twin_follows_the_first_tokens_of_its_prompt(policy: Policy) -> None:
    batch = sampled_batch(policy)
    image = policy.model.config.image_token_id
    first = [i for i, prompt in enumerate(batch.prompts) if prompt is batch.prompts[0]]
    prompts = [*(batch.prompts[i] for i in first), *(batch.twins[i][0] for i in first)]
    responses = [batch.responses[i] for i in first] * 2
    planted = tree.plant(prompts, responses, image)
    assert int((planted.ids == image).sum()) == int((batch.prompts[0].input_ids == image).sum())
    full, free = batch.prompts[0], batch.twins[0][0]
    prompt, answers, twin, again = planted.spans
    assert (
        prompt.context == ()
        and prompt.lengths == (len(full),)
        and answers.context == ((0, len(full)),)
    )
    ((at, shared),) = twin.context
    assert at == 0 and full.input_ids[:shared].equal(free.input_ids[:shared])
    assert full.input_ids[shared] != free.input_ids[shared]
    assert again.context == ((0, shared), (2, len(free) - shared)) and twin.lengths == (
        len(free) - shared,
    )
    assert len(planted.ids) == len(full) + twin.lengths[0] + 2 * sum(
        len(batch.responses[i]) - 1 for i in first
    )


def test_the_first_step_has_the_gradient_of_trls_grpo_trainer(
    policy: Policy, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    views = ("full-text", "image-only")
    stage = Stage(views, settings=SETTINGS)
    batch = sampled_batch(policy, stage)
    # TRL bans the image tokens in sampling only.
    policy.token_logps = lambda logits, temperature: (logits / temperature).log_softmax(-1)  # type: ignore[method-assign]
    gradients(policy, batch, stage, 4)
    ours = gradients_of(policy)
    policy.model.zero_grad(set_to_none=True)

    rows = len(batch)
    trainer = trl.GRPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=datasets.Dataset.from_dict({"prompt": ["a"] * rows}),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), loss_type="dapo", epsilon=SETTINGS.clip_low,
            epsilon_high=SETTINGS.clip_high, beta=0.0, temperature=SETTINGS.temperature,
            per_device_train_batch_size=rows, num_generations=rows, max_completion_length=8,
            use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        ),
    )  # fmt: skip
    width, longest = (max(map(len, rows)) for rows in (batch.prompts, batch.responses))
    ids = torch.full((rows, width + longest), policy.tokenizer.pad_token_id)
    real = torch.zeros_like(ids)
    for i, (prompt, response) in enumerate(zip(batch.prompts, batch.responses, strict=True)):
        ids[i, width - len(prompt) : width], real[i, width - len(prompt) : width] = (
            prompt.input_ids,
            1,
        )
        ids[i, width : width + len(response)], real[i, width : width + len(response)] = response, 1
    trainer.current_gradient_accumulation_steps = 1
    policy.model.train()
    loss = trainer.compute_loss(
        policy.model,
        {
            "prompt_ids": ids[:, :width], "prompt_mask": real[:, :width],
            "completion_ids": ids[:, width:], "completion_mask": real[:, width:],
            "advantages": batch.advantages_B, "num_items_in_batch": real[:, width:].sum(),
            "num_images": [1] * rows,
            "pixel_values": torch.cat([prompt.pixel_values for prompt in batch.prompts]),
            "image_grid_thw": torch.cat([prompt.image_grid_thw for prompt in batch.prompts]),
            "mm_token_type_ids": (ids == policy.model.config.image_token_id).long(),
        },
    )  # fmt: skip
    loss.backward()
    assert_same_gradients(ours, gradients_of(policy), 1e-4)


def test_recomputing_layers_and_the_size_of_the_micro_batch_change_no_gradient(
    tiny: Path, policy: Policy
) -> None:
    batch = sampled_batch(policy)
    settings = replace(SETTINGS, kl_coef=0.5)
    stage = Stage(("full-text",), True, settings)
    gradients(policy, batch, stage, 100)
    expected = gradients_of(policy)
    saving = on_cpu(tiny, dtype="float32", gradient_checkpointing=True)
    saving.model.train()
    for micro_batch in (1, 5):
        gradients(saving, batch, stage, micro_batch)
        assert_same_gradients(gradients_of(saving), expected, 1e-5)


def test_the_vision_tower_sees_each_image_once(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = sampled_batch(policy)
    seen: list[int] = []
    forward = policy.image_features

    def counted(prompts: Any) -> Any:
        seen.append(len({prompt.image_key for prompt in prompts}))
        return forward(prompts)

    monkeypatch.setattr(policy, "image_features", counted)
    gradients(policy, batch, Stage(("full-text",), True, SETTINGS), 100)
    assert seen == [3]
    own = [twins[0] for twins in batch.twins]
    vision = SharedVision(policy, [*batch.prompts, *own], 100)
    assert len({id(leaf) for leaf in vision.of([*batch.prompts, *own])}) == 3

    # Passes of one group each share a pass of the tower, as long as their prompts are short.
    expected = gradients_of(policy)
    rows = SETTINGS.samples_per_prompt
    seen.clear()
    gradients(policy, batch, Stage(("full-text",), True, SETTINGS), 2 * rows - 1)
    assert seen == [3]
    assert_same_gradients(gradients_of(policy), expected, 1e-5)
    monkeypatch.setattr(update, "TOGETHER", 1)
    seen.clear()
    gradients(policy, batch, Stage(("full-text",), True, SETTINGS), 2 * rows - 1)
    assert len(seen) > 2 and set(seen) == {1}
    assert_same_gradients(gradients_of(policy), expected, 1e-5)


# On a GPU: pytest -m gpu


def cosine(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    one, other = (
        torch.cat([g[name].flatten().double().cpu() for name in sorted(g)]) for g in (a, b)
    )
    return float(one @ other / one.norm() / other.norm())


@pytest.mark.gpu
def test_bf16_on_a_gpu_has_the_direction_of_fp32_and_trains_fp32_weights(
    tiny: Path, policy: Policy
) -> None:
    batch = sampled_batch(policy)
    settings = replace(SETTINGS, kl_coef=0.5)
    stage = Stage(("full-text",), True, settings)
    gradients(policy, batch, stage, 100)
    for micro_batch in (100, 2):
        on_gpu = local.load_for_training(load_policy, tiny, settings)
        assert on_gpu.device.type == "cuda" and {p.dtype for p in on_gpu.parameters()} == {
            torch.float32
        }
        gradients(on_gpu, batch, stage, micro_batch)
        got = gradients_of(on_gpu)  # type: ignore[arg-type]
        expected = gradients_of(policy)
        assert got.keys() == expected.keys() and cosine(got, expected) > 0.99


@pytest.mark.gpu
def test_real_out_of_memory_halves_the_micro_batch(tiny: Path, policy: Policy) -> None:
    batch = sampled_batch(policy)
    long = replace(
        batch,
        responses=[
            torch.randint(5, 300, (1500,), generator=torch.Generator().manual_seed(n))
            for n in range(len(batch))
        ],
    )
    stage = Stage(("full-text",), True, SETTINGS)
    on_gpu = local.load_for_training(load_policy, tiny, SETTINGS)
    torch.cuda.reset_peak_memory_stats()  # of the tests before
    gradients(on_gpu, long, stage, 100)
    expected, peak = gradients_of(on_gpu), torch.cuda.max_memory_allocated()  # type: ignore[arg-type]
    torch.cuda.empty_cache()
    notes: list[str] = []
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(0.6 * peak / total)
        BatchSize(16, notes.append).run("update", lambda size: gradients(on_gpu, long, stage, size))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert notes and "halved to 8 rows" in notes[0]
    assert cosine(gradients_of(on_gpu), expected) > 0.99  # type: ignore[arg-type]


@pytest.mark.gpu
def test_no_pass_of_an_update_waits_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first pass to the end of the last, images of several sizes and twins included: torch
    would raise.
    """
    on_gpu = load_policy("tiny", device="cuda", dtype=torch.float32, pixels=(56 * 56, 140 * 140))
    words = torch.Generator().manual_seed(0)
    prompts, twins = [], []
    for n, size in enumerate([(56, 56), (112, 84), (140, 140)]):
        image = Image.new("RGB", size, "white")
        prompts += [on_gpu.encode(Prompt(f"AB = {n}. Find x."), image)] * 3
        twins += [(on_gpu.encode(Prompt("Find x."), image),)] * 3
    advantages = torch.tensor([1.0, -0.5, -0.5] * 3)
    responses = [torch.randint(10, 600, (n,), generator=words) for n in (4, 6, 1, 3, 2, 5, 7, 7, 2)]
    batch = Batch(prompts, twins, ["full-text"] * 9, responses, advantages, advantages > 0)
    scored_first, read = Policy.logprobs, TokenStats.read

    def logprobs(self: Policy, *given: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        return scored_first(self, *given)

    def at_the_end(self: TokenStats) -> TokenStats:
        torch.cuda.set_sync_debug_mode("default")
        return read(self)

    settings = replace(SETTINGS, kl_coef=0.5)
    stage = Stage(("full-text",), True, settings)
    gradients(on_gpu, batch, stage, 4)  # what is made once and kept
    monkeypatch.setattr(Policy, "logprobs", logprobs)
    monkeypatch.setattr(TokenStats, "read", at_the_end)
    try:
        assert gradients(on_gpu, batch, stage, 4).means()["contrastive_kl"] > 0
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_steps_of_equal_sizes_take_no_new_memory() -> None:
    """Rollouts keep their graphs and the copies that these read, so that nothing is given back and
    asked for again.
    """
    on_gpu = load_policy("tiny", device="cuda", dtype=torch.float32)
    prompts = [on_gpu.encode(Prompt(f"AB = {n}. Find x.", has_image=False)) for n in range(4)]
    optimizer = torch.optim.AdamW(on_gpu.parameters(), lr=0.0)
    seen: list[tuple[int, int]] = []
    for _ in range(6):
        with computing(on_gpu):
            rolled = on_gpu.generate(prompts, [list(range(5))] * 4, 1.0, 60)
        rows = [prompt for prompt in prompts for _ in range(5)]
        responses = [sample.token_ids for row in rolled for sample in row]
        advantages = torch.tensor([1.0, -0.25, -0.25, -0.25, -0.25] * 4)
        batch = Batch(rows, [()] * 20, ["full-text"] * 20, responses, advantages, advantages > 0)
        gradients(on_gpu, batch, Stage(("full-text",), settings=SETTINGS), 10)
        optimizer.step()
        stats = torch.cuda.memory_stats()
        seen.append((stats["num_device_alloc"], stats["reserved_bytes.all.current"]))
    assert on_gpu._static is not None and on_gpu._static.graphs
    assert seen[3] == seen[4] == seen[5], seen
