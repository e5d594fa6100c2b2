"""Pretraining: the fast path on tensors is the slow path of `Policy`; a run that was stopped goes
on bit-equal.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from modgap.core.errors import UserError
from modgap.core.prompt import Prompt
from modgap.datasets.synthetic import make_problem
from modgap.models.load import load_policy
from modgap.testbed.build import Size
from modgap.testbed.data import (
    CELL,
    CHARACTERS,
    MIXTURE,
    N_MARKS,
    SIDE,
    SLOTS,
    TASKS,
    Plan,
    load_data,
    make_data,
    marks_of,
    texts_of,
)
from modgap.testbed.run import fitness, pretrain
from modgap.testbed.train import Schedule, Trainer, new_head, patchify

PLAN = Plan(problems=12, seed=3, batch=8)
SMALL = Size(
    text_width=128, text_layers=1, text_mlp=128, vision_width=64, vision_layers=1, vision_mlp=64
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretraining")
    make_data(folder, PLAN, workers=1, size=SMALL)
    return folder


def trainer(out: Path, phase: str = "mixture", steps: int = 12, batch: int = 8) -> Trainer:
    policy = load_policy(out / "base", device="cpu")
    schedule = Schedule(steps, batch, 3e-3, warmup=2, mixture={**MIXTURE, "text-only": 0.4}, seed=5)
    return Trainer(policy, load_data(out, policy), phase, schedule)  # pyright: ignore[reportArgumentType]


def test_patches_are_the_processors(out: Path) -> None:
    policy = load_policy(out / "base", device="cpu")
    images = load_data(out, policy).images[:3]
    expected = policy.processor(
        images=[Image.fromarray(i.numpy()).convert("RGB") for i in images], return_tensors="pt"
    )["pixel_values"]
    assert torch.allclose(patchify(images, policy.processor), expected, atol=1e-6)


def test_the_loss_is_that_of_the_policy(out: Path) -> None:
    """Tokens, targets, positions and images of every task, against prompts encoded one by one."""
    t = trainer(out, batch=24)
    problems, tasks = t._rows()
    shown = sum(TASKS[task][2] for task in tasks)
    assert {"labels", "full-text", "image-only", "text-only"} <= set(tasks) and shown < len(tasks)
    prompts, targets = [], []
    for index, task in zip(problems.tolist(), tasks, strict=True):
        made = make_problem(PLAN.seed, index, "train", PLAN.levels)
        texts = texts_of(made)
        prompt, target = texts[TASKS[task][0]], texts[TASKS[task][1]]
        assert isinstance(prompt, Prompt) and isinstance(target, str)
        prompts.append(t.policy.encode(prompt, Image.open(io.BytesIO(made.png)).convert("RGB")))
        ids = t.policy.tokenizer(target, add_special_tokens=False)["input_ids"]
        targets.append(torch.tensor([*ids, t.policy.tokenizer.eos_token_id]))
    t.policy.banned_token_ids = []
    with torch.no_grad():
        ours = t._language_loss(problems, tasks, t._features(problems[:shown]))
        logps, _, mask = t.policy.logprobs(prompts, targets, t.policy.image_features(prompts))
    assert ours.item() == pytest.approx(-logps[mask].mean().item(), abs=1e-4)


@pytest.mark.parametrize("phase", ["glyphs", "mixture"])
def test_training_learns_and_goes_on_bit_equal(out: Path, tmp_path: Path, phase: str) -> None:
    losses: list[float] = []
    whole = trainer(out, phase)
    assert whole.run(report=lambda _, numbers: losses.append(numbers["loss"]), report_every=1)
    assert losses[-1] < 0.9 * losses[0]

    first = trainer(out, phase)
    for _ in range(5):
        first.update()
    first.save(tmp_path / "state.pt")
    second = trainer(out, phase)
    second.load(tmp_path / "state.pt")
    assert second.run()
    for a, b in zip(whole.policy.model.parameters(), second.policy.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_first_phase_leaves_the_language_model(out: Path) -> None:
    t = trainer(out, "glyphs")
    before = {n: p.clone() for n, p in t.policy.model.named_parameters()}
    t.update()
    changed = {n for n, p in t.policy.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all("visual" in n for n in changed)


def test_marks_lie_where_the_labels_are() -> None:
    for index in range(20):
        made = make_problem(0, index)
        wanted = sorted(c for label in made.labels for c in label.text if c in CHARACTERS)
        found: list[str] = []
        for code in marks_of(made):
            token, feature = divmod(code, N_MARKS)
            if feature >= SLOTS * len(CHARACTERS):
                continue
            slot, character = divmod(feature, len(CHARACTERS))
            across = SIDE // CELL
            x = (token % across + (slot % 4 + 0.5) / 4) * CELL
            y = (token // across + (slot // 4 + 0.5) / 2) * CELL
            found.append(CHARACTERS[character])
            assert any(
                CHARACTERS[character] in label.text
                and label.x - 4 <= x <= label.x + label.w + 4
                and label.y - 7 <= y <= label.y + label.h + 7
                for label in made.labels
            )
        assert set(found) == set(wanted) and len(found) >= 0.9 * len(wanted)


def test_no_loss_is_put_on_what_is_not_there(out: Path) -> None:
    """A head that starts from "no marks" pays for the true marks only, about 7 nats each."""
    t = trainer(out, "glyphs")
    problems = torch.arange(4)
    t.head = new_head(128, N_MARKS, torch.device("cpu"))
    loss, _ = t.marks_loss(t._features(problems) * 0, problems)
    marks = sum(len(marks_of(make_problem(PLAN.seed, i, "train", PLAN.levels))) for i in range(4))
    silence = 4 * 64 * N_MARKS * torch.tensor(-7.0).exp().log1p().item()
    assert loss.item() == pytest.approx(7 + silence / marks, rel=1e-3)


def test_the_middle_of_the_bands_fits_best() -> None:
    def views(text: float, image: float) -> dict[str, dict[str, float]]:
        return {
            "full-text": {"greedy": text, "sampled": text},
            "image-only": {"greedy": image, "sampled": image},
        }

    assert fitness(views(0.735, 0.425)) == pytest.approx(0)
    assert fitness(views(0.82, 0.425)) == pytest.approx(1)
    assert fitness(views(0.735, 0.2)) > 1 < fitness(views(0.9, 0.425))


def test_bad_plans_are_refused(out: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="glyphs"):
        pretrain(tmp_path, PLAN, phases=["glyph"])
    with pytest.raises(UserError, match="image-only"):
        pretrain(tmp_path, Plan(mixture={"images-only": 1.0}), phases=["data"])
    pretrain(out, PLAN, phases=["data"])
    with pytest.raises(UserError, match="problems 12 -> 13"):
        pretrain(out, Plan(problems=13, seed=3), phases=["data"])
