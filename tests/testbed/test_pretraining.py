"""Pretraining: the fast path on tensors is the slow path of `Policy`; a run that was stopped goes
on bit-equal.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from modgap.core.errors import UserError
from modgap.core.prompt import Prompt
from modgap.datasets.synthetic.chart_scene import KINDS, new_chart
from modgap.models.folder import BUNDLED, model_notes
from modgap.models.load import load_policy, resolve
from modgap.models.policy import Policy
from modgap.testbed import __main__ as command
from modgap.testbed.build import (
    SIZES,
    SPECIAL_TOKENS,
    Size,
    deep_config,
    tiny_config,
    train_tokenizer,
)
from modgap.testbed.data import (
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
from modgap.testbed.run import Exams, fitness, pretrain
from modgap.testbed.train import Schedule, Trainer, new_head, patchify

PLANS = {
    "geometry": Plan(problems=12, seed=3, batch=8),
    "charts": Plan(family="charts", arch="qwen3-vl", problems=12, seed=3, batch=8),
}
SMALL = Size(
    text_width=128, text_layers=1, text_mlp=128, vision_width=64, vision_layers=1, vision_mlp=64
)


@pytest.fixture(scope="module", params=PLANS)
def plan(request: pytest.FixtureRequest) -> Plan:
    return PLANS[request.param]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> Path:
    folder = tmp_path_factory.mktemp("pretraining")
    make_data(folder, plan, workers=1, size=SMALL)
    return folder


def test_the_data_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    one, two = (tmp_path / str(workers) for workers in (1, 2))
    for workers, folder in enumerate((one, two), start=1):
        make_data(folder, PLANS["geometry"], workers, SMALL)
    assert (one / "images.npy").read_bytes() == (two / "images.npy").read_bytes()
    first, second = np.load(one / "corpus.npz"), np.load(two / "corpus.npz")
    assert all((first[name] == second[name]).all() for name in first.files)


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


def test_the_loss_is_that_of_the_policy(out: Path, plan: Plan) -> None:
    """Tokens, targets, positions and images of every task, against prompts encoded one by one."""
    t = trainer(out, batch=24)
    problems, tasks = t._rows()
    shown = sum(TASKS[task][2] for task in tasks)
    assert {"labels", "full-text", "image-only", "text-only"} <= set(tasks) and shown < len(tasks)
    prompts, targets = [], []
    for index, task in zip(problems.tolist(), tasks, strict=True):
        made = plan.make(plan.seed, index)
        texts = texts_of(made, plan.cell)
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


@pytest.mark.parametrize(
    ("plan", "phase", "steps"),
    [("geometry", "glyphs", 12), ("charts", "mixture", 8)],
    indirect=["plan"],
)
def test_training_learns_and_goes_on_bit_equal(
    out: Path, tmp_path: Path, phase: str, steps: int
) -> None:
    losses: list[float] = []
    whole = trainer(out, phase, steps)
    assert whole.run(report=lambda _, numbers: losses.append(numbers["loss"]), report_every=1)
    assert losses[-1] < 0.9 * losses[0]

    first = trainer(out, phase, steps)
    for _ in range(3):
        first.update()
    first.save(tmp_path / "state.pt")
    second = trainer(out, phase, steps)
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


def test_marks_lie_where_the_labels_are(plan: Plan) -> None:
    cell = plan.cell
    for index in range(20):
        made = plan.make(0, index)
        wanted = sorted(c for label in made.labels for c in label.text if c in CHARACTERS)
        found: list[str] = []
        for code in marks_of(made, cell):
            token, feature = divmod(code, N_MARKS)
            if feature >= SLOTS * len(CHARACTERS):
                continue
            slot, character = divmod(feature, len(CHARACTERS))
            across = SIDE // cell
            x = (token % across + (slot % 4 + 0.5) / 4) * cell
            y = (token // across + (slot // 4 + 0.5) / 2) * cell
            found.append(CHARACTERS[character])
            assert any(
                CHARACTERS[character] in label.text
                and label.x - 4 <= x <= label.x + label.w + 4
                and label.y - cell / 4 <= y <= label.y + label.h + cell / 4
                for label in made.labels
            )
        assert set(found) == set(wanted) and len(found) >= 0.9 * len(wanted)


def test_no_loss_is_put_on_what_is_not_there(out: Path, plan: Plan) -> None:
    """A head that starts from "no marks" pays for the true marks only, about 7 nats each."""
    t = trainer(out, "glyphs")
    problems = torch.arange(4)
    t.head = new_head(128, N_MARKS, torch.device("cpu"))
    loss, _ = t.marks_loss(t._features(problems) * 0, problems)
    marks = sum(len(marks_of(plan.make(plan.seed, i), plan.cell)) for i in range(4))
    silence = 4 * (SIDE // plan.cell) ** 2 * N_MARKS * torch.tensor(-7.0).exp().log1p().item()
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


def test_bad_plans_are_refused(out: Path, plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="glyphs"):
        pretrain(tmp_path, plan, phases=["glyph"])
    with pytest.raises(UserError, match="image-only"):
        pretrain(tmp_path, Plan(mixture={"images-only": 1.0}), phases=["data"])
    with pytest.raises(UserError, match="unknown family 'chart'"):
        pretrain(tmp_path, Plan(family="chart"), phases=["data"])
    with pytest.raises(UserError, match="unknown architecture 'qwen3'"):
        pretrain(tmp_path, Plan(arch="qwen3"), phases=["data"])
    pretrain(out, plan, phases=["data"])
    with pytest.raises(UserError, match="problems 12 -> 13"):
        pretrain(out, replace(plan, problems=13), phases=["data"])
    other = "charts" if plan.family == "geometry" else "geometry"
    with pytest.raises(UserError, match=f"family {plan.family} -> {other}"):
        pretrain(out, replace(plan, family=other), phases=["data"])


def test_a_plan_of_before_families_is_one_of_geometry(tmp_path: Path) -> None:
    plan = PLANS["geometry"]
    older = {k: v for k, v in asdict(plan).items() if k not in ("family", "arch")}
    (tmp_path / "plan.json").write_text(json.dumps(older))
    (tmp_path / "corpus.npz").touch()  # complete
    pretrain(tmp_path, plan, phases=["data"])
    with pytest.raises(UserError, match=r"arch qwen2\.5-vl -> qwen3-vl"):
        pretrain(tmp_path, replace(plan, arch="qwen3-vl"), phases=["data"])


@pytest.mark.parametrize("plan", ["charts"], indirect=True)
def test_all_phases_make_a_model_with_its_card(plan: Plan, tmp_path: Path) -> None:
    """In miniature: what is written can be loaded, asked and trained."""
    small = replace(SMALL, max_new_tokens=6)
    made = replace(plan, glyph_steps=2, mixture_steps=2, warmup=1)
    exams = Exams(every=2, problems=2, final_problems=2)
    pretrain(tmp_path, made, workers=1, exams=exams, size=small)
    card = (tmp_path / "tiny" / "README.md").read_text()
    assert plan.family in card and "| question-only |" in card
    notes = model_notes(tmp_path / "tiny")
    assert notes["testbed"] and notes["training"]["max_response_tokens"] == 128
    policy = load_policy(tmp_path / "tiny", device="cpu")
    assert isinstance(policy, Policy)
    kinds = {"qwen2.5-vl": "qwen2_5_vl", "qwen3-vl": "qwen3_vl"}
    assert policy.model.config.model_type == kinds[plan.arch]


def test_a_number_stands_beside_its_name_in_tokens() -> None:
    """Else a small model does not learn to look it up."""
    rng = Random(0)
    charts = [new_chart(rng, KINDS[n % 4]) for n in range(200)]
    clauses = [clause for chart in charts for clause in chart.clauses()]
    tokenizer = train_tokenizer(clauses, SIZES["qwen3-vl"].vocabulary)
    named = [item for chart in charts for item in chart.items.items()]
    for clause, (name, number) in zip(clauses, named, strict=True):
        assert tokenizer.tokenize(clause) == [*tokenizer.tokenize(f"{name} "), *str(number)]


@pytest.mark.parametrize("arch", SIZES)
def test_a_checkpoint_has_less_than_20_mb(arch: str) -> None:
    ids = {name: number for number, name in enumerate(SPECIAL_TOKENS)}
    size = SIZES[arch]
    config = (deep_config if arch == "qwen3-vl" else tiny_config)(ids, size.vocabulary, size)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert sum(p.numel() for p in model.parameters()) * 2 < 19.5e6


def test_a_bundled_model_is_there_or_the_message_says_how_to_make_it() -> None:
    for name, options in BUNDLED.items():
        try:
            assert (resolve(name) / "config.json").exists()
        except UserError as error:
            assert f"modgap model pretrain --out DIR{options}" in str(error)


def test_the_command_takes_the_defaults_of_pretrain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(
        command, "pretrain", lambda out, plan, phases, **more: asked.update(more, plan=plan)
    )
    assert command.main(["--out", str(tmp_path), "--eval-every", "250"]) == 0
    assert asked["exams"] == Exams(every=250) and asked["plan"] == Plan()
