"""The update of the local engine: its loss and gradients against the naive form and TRL."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_training import PROBLEMS, SETTINGS, made_up, on_cpu

from modgap.core.prompt import Prompt, training_prompt
from modgap.core.recipe import Settings, Stage
from modgap.models import tree
from modgap.models.load import load_policy
from modgap.models.memory import BatchSize
from modgap.models.policy import Policy
from modgap.training import local, rollout, update
from modgap.training.rollout import Batch, DataOrder
from modgap.training.update import SharedVision, TokenStats, computing, gradients, old_logprobs

# The oracle: every row forwarded twice, images and all, in one graph


def sampled_batch(
    policy: Policy, *, contrastive: bool = True, views: tuple[str, ...] = ("full-text",)
) -> Batch:
    stage = Stage(views, contrastive, SETTINGS)
    roller = rollout.Roller(policy, DataOrder(PROBLEMS[:3], views, 1), stage, 1, "aligned")
    groups = roller.draw(4)  # 4 of 3 problems: one image comes twice
    roller.sample(groups)
    roller.grade(groups, made_up)
    batch = Batch.of([group for group in groups if group.mixed])
    assert len(batch) >= 9 and batch.eligible_B.sum() >= 2
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


def naive_loss(policy: Policy, batch: Batch, settings: Settings) -> torch.Tensor:
    policy_terms, kl_terms = [], []
    size = settings.micro_batch if settings.loss_mean == "micro_batch" else len(batch)
    for start in range(0, len(batch), size):
        losses, kls = [], []
        for i in range(start, min(start + size, len(batch))):
            y = batch.responses[i]
            full = plain_logps(policy, batch.prompts[i], y, settings.temperature)
            free = plain_logps(policy, batch.twins[i], y, settings.temperature)
            full_t, free_t = full.gather(1, y[:, None])[:, 0], free.gather(1, y[:, None])[:, 0]
            old = full_t.detach() if batch.old_logps is None else batch.old_logps[i]
            a, rho = batch.advantages_B[i], (full_t - old).clamp(-20, 20).exp()
            surrogate = torch.min(
                rho * a, rho.clamp(1 - settings.clip_low, 1 + settings.clip_high) * a
            )
            losses.append(-(torch.max(surrogate, settings.dual_clip * a) if a < 0 else surrogate))
            if batch.eligible_B[i]:
                d = full_t.detach() - free_t
                if settings.kl_estimator == "forward":
                    kls.append(d)
                elif settings.kl_estimator == "full_vocab":
                    keep = ~full[0].isinf()
                    p, q = full[:, keep].detach(), free[:, keep]
                    kls.append((p.exp() * (p - q)).sum(-1))
                else:
                    k3 = d.clamp(-20, 20).exp() - d.clamp(-20, 20) - 1
                    kls.append(k3.clamp(-10, 10) if settings.kl_clamp == "paper" else k3)
        policy_terms.append(torch.cat(losses).mean())
        kl_terms.append(torch.cat(kls).mean() if kls else torch.zeros(()))
    return torch.stack(policy_terms).mean() + settings.kl_coef * torch.stack(kl_terms).mean()


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


@pytest.fixture(params=["together", "apart"])
def twins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Beside their prompts as far as the settings allow, or in passes of their own."""
    if request.param == "apart":
        monkeypatch.setattr(update, "twins_together", lambda *_: False)
    return request.param


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"kl_clamp": "none"}, {"kl_estimator": "forward"}, {"kl_estimator": "full_vocab"},
        {"loss_mean": "micro_batch"},
    ],
    ids=str,
)  # fmt: skip
def test_loss_and_gradients_equal_the_naive_form(
    policy: Policy, twins: str, changes: dict[str, Any]
) -> None:
    settings = replace(SETTINGS, kl_coef=0.5, **changes)
    batch = sampled_batch(policy)
    torch.manual_seed(0)
    old = [
        logps + 0.4 * torch.randn_like(logps)
        for logps in old_logprobs(policy, batch, settings, 100)
    ]
    batch = replace(batch, old_logps=old)
    loss = naive_loss(policy, batch, settings)
    loss.backward()
    expected = gradients_of(policy)
    for micro_batch in (2, 100):
        stats = gradients(policy, batch, settings, True, micro_batch)
        assert_same_gradients(gradients_of(policy), expected, 1e-5)
        assert stats.loss == pytest.approx(loss.item(), rel=1e-5)
        means = stats.means()
        assert means["clip_low"] + means["clip_high"] > 0 and means["contrastive_kl"] > 0.1
        if settings.kl_estimator == "k3" and settings.kl_clamp == "paper":
            assert 0 < means["kl_clamped"] < 1  # the oracle saw both sides of the clamp


def test_a_tree_has_the_log_probabilities_of_each_row_alone(policy: Policy) -> None:
    """Prompts with and without an image, twins beside their prompts, a prompt that is there once, a
    response of one token."""
    batch = sampled_batch(policy)
    alone = policy.encode(training_prompt(PROBLEMS[5], "full-text"), PROBLEMS[5].open_image())
    words = policy.encode(replace(training_prompt(PROBLEMS[6], "full-text"), has_image=False), None)
    prompts = [*batch.prompts[:5], *batch.twins[:5], alone, words, words]
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
    prompts = [*(batch.prompts[i] for i in first), *(batch.twins[i] for i in first)]
    responses = [batch.responses[i] for i in first] * 2
    planted = tree.plant(prompts, responses, image)
    assert int((planted.ids == image).sum()) == int((batch.prompts[0].input_ids == image).sum())
    full, free = batch.prompts[0], batch.twins[0]
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
    batch = sampled_batch(policy, contrastive=False, views=("full-text", "image-only"))
    # TRL bans the image tokens in sampling only.
    policy.token_logps = lambda logits, temperature: (logits / temperature).log_softmax(-1)  # type: ignore[method-assign]
    gradients(policy, batch, SETTINGS, False, 4)
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
    gradients(policy, batch, settings, True, 100)
    expected = gradients_of(policy)
    saving = on_cpu(tiny, dtype="float32", gradient_checkpointing=True)
    saving.model.train()
    for micro_batch in (1, 5):
        gradients(saving, batch, settings, True, micro_batch)
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
    gradients(policy, batch, SETTINGS, True, 100)
    assert seen == [3]
    vision = SharedVision(policy, [*batch.prompts, *batch.twins], 100)
    assert len({id(leaf) for leaf in vision.of([*batch.prompts, *batch.twins])}) == 3


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
    gradients(policy, batch, settings, True, 100)
    for micro_batch in (100, 2):
        on_gpu = local.load_for_training(load_policy, tiny, settings)
        assert on_gpu.device.type == "cuda" and {p.dtype for p in on_gpu.parameters()} == {
            torch.float32
        }
        gradients(on_gpu, batch, settings, True, micro_batch)
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
    on_gpu = local.load_for_training(load_policy, tiny, SETTINGS)
    torch.cuda.reset_peak_memory_stats()  # of the tests before
    gradients(on_gpu, long, SETTINGS, True, 100)
    expected, peak = gradients_of(on_gpu), torch.cuda.max_memory_allocated()  # type: ignore[arg-type]
    torch.cuda.empty_cache()
    notes: list[str] = []
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(0.6 * peak / total)
        BatchSize(16, notes.append).run(
            "update", lambda size: gradients(on_gpu, long, SETTINGS, True, size)
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert notes and "halved to 8 rows" in notes[0]
    assert cosine(gradients_of(on_gpu), expected) > 0.99  # type: ignore[arg-type]


@pytest.mark.gpu
def test_no_pass_of_an_update_waits_for_the_gpu(
    twins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first pass to the end of the last, images of several sizes and twins included: torch
    would raise.
    """
    on_gpu = load_policy("tiny", device="cuda", dtype=torch.float32, pixels=(56 * 56, 140 * 140))
    words = torch.Generator().manual_seed(0)
    prompts, twins = [], []
    for n, size in enumerate([(56, 56), (112, 84), (140, 140)]):
        image = Image.new("RGB", size, "white")
        prompts += [on_gpu.encode(Prompt(f"AB = {n}. Find x."), image)] * 3
        twins += [on_gpu.encode(Prompt("Find x."), image)] * 3
    advantages = torch.tensor([1.0, -0.5, -0.5] * 3)
    responses = [torch.randint(10, 600, (n,), generator=words) for n in (4, 6, 1, 3, 2, 5, 7, 7, 2)]
    batch = Batch(prompts, twins, responses, advantages, advantages > 0)
    scored_first, read = Policy.logprobs, TokenStats.read

    def logprobs(self: Policy, *given: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        return scored_first(self, *given)

    def at_the_end(self: TokenStats) -> TokenStats:
        torch.cuda.set_sync_debug_mode("default")
        return read(self)

    settings = replace(SETTINGS, kl_coef=0.5)
    gradients(on_gpu, batch, settings, True, 4)  # what is made once and kept
    monkeypatch.setattr(Policy, "logprobs", logprobs)
    monkeypatch.setattr(TokenStats, "read", at_the_end)
    try:
        assert gradients(on_gpu, batch, settings, True, 4).means()["contrastive_kl"] > 0
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
        batch = Batch(rows, rows, responses, advantages, advantages > 0)
        gradients(on_gpu, batch, SETTINGS, False, 10)
        optimizer.step()
        stats = torch.cuda.memory_stats()
        seen.append((stats["num_device_alloc"], stats["reserved_bytes.all.current"]))
    assert on_gpu._static is not None and on_gpu._static.graphs
    assert seen[3] == seen[4] == seen[5], seen
