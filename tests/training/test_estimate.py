"""What the local engine's dry run expects: it grows with what a step grows with, and counts what
the update does.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.recipe import Settings, Stage
from modgap.core.terms import Term
from modgap.models.load import tiny_folder
from modgap.training import plan, update
from modgap.training.dry_run import objective_lines
from modgap.training.known_model import known_model
from modgap.training.plan import (
    BEGINNING,
    WAITING,
    Cost,
    Lengths,
    Machine,
    assumed,
    branch,
    cost,
    costs,
    fitting,
    gpu,
    lengths_of,
    machine_here,
    rows_at_most,
    rows_sampled,
    trained_parameters,
    twin_works,
    with_rows,
)
from modgap.training.rollout import Batch
from modgap.training.shape import GIB, SHAPES, Shape
from modgap.training.terms import Terms
from modgap.training.update import twins_together
from modgap.workflows.train import dry_run_lines, resolve_recipe

QWEN = SHAPES["Qwen/Qwen2.5-VL-3B-Instruct"]
LENGTHS = Lengths(image=256, prompt=396, twin=356, response=400, longest=800)
MACHINE = gpu("NVIDIA H200")


def of(
    stage: Stage | None = None,
    lengths: Lengths = LENGTHS,
    machine: Machine = MACHINE,
    **changes: object,
) -> Cost:
    stage = stage or Stage(("full-text",))
    return cost(replace(stage, settings=replace(stage.settings, **changes)), QWEN, lengths, machine)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "more",
    [
        {"samples_per_prompt": 10}, {"prompts_per_step": 1024}, {"max_response_tokens": 8192},
        {"gradient_checkpointing": True}, {"dynamic_sampling": True},
    ],
    ids=str,
)  # fmt: skip
def test_more_work_takes_longer(more: dict[str, object]) -> None:
    less, stage = {"dynamic_sampling": False}, Stage(("full-text",))
    settings = replace(stage.settings, **less, **{k: v for k, v in more.items() if k not in less})  # type: ignore[arg-type]
    settings = replace(settings, **more)  # type: ignore[arg-type]
    before, after = (
        cost(replace(stage, settings=s), QWEN, lengths_of(replace(stage, settings=s)), MACHINE)
        for s in (replace(stage.settings, **less), settings)  # type: ignore[arg-type]
    )
    # Sampling is most of a step, and recomputing concerns it not.
    apart = {"rollout"} if "gradient_checkpointing" in more else set[str]()
    now, then = (
        sum(x for phase, x in c.seconds.items() if phase not in apart) for c in (after, before)
    )
    assert now > 1.1 * then


def test_responses_are_as_long_as_the_model_says_but_for_the_limit() -> None:
    def of_limit(limit: int, said: float | None) -> float:
        stage = Stage(("full-text",), settings=replace(Settings(), max_response_tokens=limit))
        lengths = lengths_of(stage, response=said)
        assert lengths.response < lengths.longest <= limit
        return lengths.response

    assert of_limit(4096, None) == 2048
    assert of_limit(4096, 58) == of_limit(128, 58) == 58
    assert 25 < of_limit(32, 58) < 32


def test_the_contrastive_pass_costs_less_than_half_of_the_policys_own() -> None:
    contrastive = Stage(("full-text",), contrastive=True)
    plain, kl = of(), of(contrastive)
    assert "twins" not in plain.flops and kl.flops["update"] == plain.flops["update"]
    assert 0.3 < kl.flops["twins"] / kl.flops["update"] < 0.5
    assert "twins" not in of(contrastive, kl_coef=0.0).flops
    # Twins go through the policy's pass: beside their group if it is the only one, in the place of
    # other groups if not.
    wide, narrow = (
        {"micro_batch": 40, "samples_per_prompt": 5},
        {"micro_batch": 5, "samples_per_prompt": 5},
    )
    assert of(contrastive, **wide).memory["activations"] < 1.05 * of(**wide).memory["activations"]
    assert (
        1.1
        < of(contrastive, **narrow).memory["activations"] / of(**narrow).memory["activations"]
        < 1.5
    )


def with_term(**values: object) -> Stage:
    return Stage(("full-text",), terms=(Term(twin="image-only", **values),))  # type: ignore[arg-type]


def test_twins_in_passes_of_their_own_cost_a_prompt_more_and_whole_distributions_twice() -> None:
    shared, apart = of(with_term()), of(with_term(estimator="full_vocab"))
    n, right = Settings().samples_per_prompt, 0.5
    rollout = 512 * branch(QWEN, 0, 396, 400, n * right)
    beginning = 512 * 3 * branch(QWEN, 0, 256 + BEGINNING, 0, 0)
    assert apart.flops["twins"] - shared.flops["twins"] == pytest.approx(
        beginning + rollout, rel=1e-6
    )


def test_the_plan_counts_every_twin_and_every_teacher() -> None:
    one = of(with_term(rows="all"))
    still = of(with_term(rows="all", detach="twin", estimator="reverse"))
    frozen = of(with_term(rows="all", detach="twin", estimator="reverse", teacher="frozen"))
    assert still.flops["twins"] < 0.45 * one.flops["twins"]  # no backward pass
    assert frozen.flops == still.flops
    assert "teachers' weights" not in still.memory
    assert frozen.memory["teachers' weights"] == 4 * QWEN.parameters
    masked = of(with_term(rows="all", picture="masked", ratio=0.6))
    assert masked.flops["twins"] > one.flops["twins"] + 512 * 3 * QWEN.see(256) * 0.9
    terms = (Term(twin="image-only", rows="all"), Term(twin="text-only", rows="all"))
    both = of(replace(with_term(), terms=terms))
    assert 1.5 < both.flops["twins"] / one.flops["twins"] < 2.0
    shared = (*terms[:1], Term(twin="image-only", estimator="jsd", rows="all"))
    assert of(replace(with_term(), terms=shared)).flops == one.flops  # one twin for two terms


def test_twins_are_placed_as_the_update_places_them() -> None:
    cases = {
        "live": Term("image-only"),
        "still": Term("image-only", "twin", "reverse"),
        "whole": Term("image-only", estimator="full_vocab"),
    }
    rows = torch.tensor([True, False])
    prompts, responses = [object()] * 2, [torch.zeros(3, dtype=torch.long)] * 2
    batch = Batch(prompts, [(object(),)] * 2, ["full-text"] * 2, responses, rows * 1.0, rows)
    for (place, term), micro in itertools.product(cases.items(), (1, 5)):
        stage = Stage(
            ("full-text",), terms=(term,), settings=replace(Settings(), micro_batch=micro)
        )
        found = Terms(stage, batch, twins_together(micro), torch.device("cpu"))
        placed = {name for name in ("live", "later", "still", "whole") if getattr(found, name)}
        works = twin_works(stage, lengths_of(stage), rows_at_most(stage) > 1)
        assert {work.place for work in works} == placed
        assert placed == {"later" if place == "live" and micro == 1 else place}


def test_passes_of_few_rows_leave_a_gpu_waiting_for_launches() -> None:
    settings = {"samples_per_prompt": 5, "prompts_per_step": 64, "mini_batch": 64}
    narrow, wide = (of(micro_batch=rows, **settings) for rows in (5, 40))
    assert narrow.flops == wide.flops and narrow.seconds["update"] == wide.seconds["update"]
    assert narrow.seconds[WAITING] > 0 and WAITING not in wide.seconds
    cpu = replace(MACHINE, bytes=4, pass_seconds=0.0)
    assert WAITING not in of(machine=cpu, micro_batch=5, **settings).seconds


def test_the_dry_run_names_rows_that_fit_and_what_they_save() -> None:
    lengths = Lengths(image=256, prompt=396, twin=356, response=200, longest=200, mixed=1.0)

    def said(**changes: object) -> str:
        settings = {
            "samples_per_prompt": 5,
            "prompts_per_step": 64,
            "mini_batch": 64,
            "micro_batch": 5,
        } | changes
        stage = Stage(("full-text",), settings=replace(Settings(), **settings))  # type: ignore[arg-type]
        return "\n".join(costs(stage, QWEN, lengths, MACHINE).lines())

    rows = int(said().split("less with micro_batch=")[1].split(",")[0])
    assert 5 < rows < 320 and "too much" not in said(micro_batch=rows)
    assert "less with" not in said(micro_batch=rows) and "less with" not in said(
        loss_mean="micro_batch"
    )
    assert f"too much for 139 GiB (NVIDIA H200): a pass of {rows} rows fits" in said(micro_batch=0)
    assert "which changes the loss" in said(micro_batch=0, loss_mean="micro_batch")
    assert "less with" not in said(micro_batch=0, mini_batch=1, prompts_per_step=1), (
        "there are no more rows"
    )
    stage = Stage(("full-text",))
    large = SHAPES["Qwen/Qwen2.5-VL-7B-Instruct"]
    small = replace(gpu("L4"), memory=14 * 2**30)  # less than 7B weights in bf16
    assert "not even one row a pass fits, whatever" in "\n".join(
        costs(stage, large, lengths, small).lines()
    )
    assert "try lora_rank=16" in "\n".join(costs(stage, large, lengths, gpu("A100")).lines())
    for rows in (5, 20, 63):  # groups are taken whole
        assert fitting(with_rows(stage, rows), QWEN, lengths, MACHINE) % 5 == 0


def test_graphs_save_a_small_rollout_most_of_its_time() -> None:
    few = {"prompts_per_step": 8, "mini_batch": 8}
    without = replace(MACHINE, replayed_seconds=None)
    assert of(**few).seconds["rollout"] < 0.3 * of(machine=without, **few).seconds["rollout"]


def test_graphs_of_sampling_take_memory_unless_they_are_too_large_to_keep() -> None:
    few, many = (
        of(prompts_per_step=n, mini_batch=n).memory["graphs of sampling"] for n in (2, 512)
    )
    assert 0 < few < many < MACHINE.memory / 12
    assert (
        "graphs of sampling"
        not in of(lengths=replace(LENGTHS, longest=8192), prompts_per_step=512).memory
    )
    assert (
        "graphs of sampling"
        not in of(machine=replace(MACHINE, replayed_seconds=None), prompts_per_step=8).memory
    )


def test_batches_of_a_rollout_are_as_large_as_sampling_makes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A policy of the 3B's shape; free is what its weights, their copies and moments leave."""
    from modgap.models import decode

    stage = Stage(("full-text",))
    config = SimpleNamespace(
        num_hidden_layers=QWEN.layers, num_key_value_heads=QWEN.kv_heads, hidden_size=QWEN.hidden,
        num_attention_heads=QWEN.heads, vocab_size=QWEN.vocab,
    )  # fmt: skip
    policy: Any = SimpleNamespace(
        device=torch.device("cuda"), dtype=torch.bfloat16,
        model=SimpleNamespace(config=SimpleNamespace(text_config=config)),
    )  # fmt: skip
    for memory in (MACHINE.memory, MACHINE.memory / 1.7, 2 * MACHINE.memory, 50 * MACHINE.memory):
        monkeypatch.setattr(decode, "free_memory", lambda _, m=memory: m - 14.0 * QWEN.parameters)
        expected = decode.rows_at_once(policy, LENGTHS.prompt, stage.settings.max_response_tokens)
        assert rows_sampled(stage, QWEN, LENGTHS, replace(MACHINE, memory=memory)) == expected
    assert expected == decode.MOST_ROWS


def test_a_rollout_takes_as_many_batches_as_memory_makes_it() -> None:
    """As `decode.rows_at_once` sizes them."""
    large, small = MACHINE, replace(MACHINE, memory=MACHINE.memory / 1.7)
    rows = [
        rows_sampled(Stage(("full-text",)), QWEN, LENGTHS, machine) for machine in (large, small)
    ]
    assert 2048 > rows[0] > 2 * rows[1] > 0
    settings = {"prompts_per_step": 64, "samples_per_prompt": 5, "mini_batch": 64}
    few, many = (of(machine=machine, **settings).seconds["rollout"] for machine in (large, small))
    assert many > 2 * few


@pytest.mark.parametrize(("prompts", "draws", "seconds"), [(64, 3, 173), (16, 2, 52), (16, 5, 117)])
def test_long_rollouts_take_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, prompts: int, draws: int, seconds: float
) -> None:
    """README's LoRA step, and quarters of it, on an H200 of 79 GiB, to which `_READING` was fitted:
    docs/lab/speed.md.
    """
    monkeypatch.setattr(plan, "_REFILLS", draws - 1)
    expected = of(
        lengths=replace(LENGTHS, prompt=356, response=1103, longest=2048, mixed=64 / 141),
        machine=replace(MACHINE, memory=79 * GIB),
        lora_rank=64, micro_batch=4, prompts_per_step=prompts, samples_per_prompt=5, mini_batch=8,
        max_response_tokens=2048, dynamic_sampling=True, max_refills=10,
    )  # fmt: skip
    assert 0.85 < expected.seconds["rollout"] / seconds < 1.15


def test_small_images_pass_the_tower_together() -> None:
    assert plan.TOGETHER == update.TOGETHER
    stage = Stage(("full-text",), settings=replace(Settings(), samples_per_prompt=5, micro_batch=5))
    for prompt, images in ((396, 5), (1000, 2), (3000, 1)):
        lengths = Lengths(prompt - 140, prompt, prompt - 40, response=400, longest=400)
        assert plan.largest_pass(stage, lengths)[2] == images


def test_what_is_not_trained_has_no_state_and_no_backward() -> None:
    whole, frozen, lora = of(), of(freeze_vision=True), of(lora_rank=8)
    assert lora.flops["update"] < 0.7 * whole.flops["update"]
    state = "weights, gradients, AdamW"
    assert lora.memory[state] < frozen.memory[state] < whole.memory[state]
    # Frozen weights are bf16 and need no copies; 16 bytes for each parameter of the adapter.
    stage = Stage(("full-text",), settings=Settings(lora_rank=8))
    adapter = trained_parameters(stage, QWEN)
    assert lora.memory[state] == 2 * QWEN.parameters + 16 * adapter
    assert lora.memory["bf16 copies of weights"] == 2 * adapter < QWEN.parameters / 50
    assert whole.flops["update"] - frozen.flops["update"] == pytest.approx(512 * 2 * QWEN.see(256))
    assert of(gradient_checkpointing=True).memory["activations"] < whole.memory["activations"] / 5


def test_twins_take_no_time_of_the_rollout() -> None:
    """The same prompts are sampled with a term as without it."""
    plain, contrastive = (of(Stage(("full-text",), contrastive=c)) for c in (False, True))
    assert contrastive.seconds["rollout"] == plain.seconds["rollout"]
    assert contrastive.flops["rollout"] == plain.flops["rollout"]
    assert contrastive.seconds["twins"] > 0


def test_updates_after_the_first_need_old_log_probs() -> None:
    assert "old log-probs" not in of(mini_batch=512).flops
    assert of(mini_batch=256).flops["old log-probs"] < of(mini_batch=128).flops["old log-probs"]


def test_flops_of_the_update_are_what_torch_counts() -> None:
    """One group through the testbed's own update, counted product by product."""
    from torch.utils.flop_counter import FlopCounterMode

    from modgap.models.encode import EncodedPrompt, Pixels
    from modgap.models.load import load_policy
    from modgap.training.rollout import Batch
    from modgap.training.update import gradients

    policy = load_policy("tiny", "cpu", "float32")
    policy.model.train()
    config, words, tokens = policy.model.config, 60, 24
    ids = torch.cat((torch.full((64,), config.image_token_id), torch.arange(10, 10 + words)))
    pixels = Pixels(torch.zeros(256, 1176), (1, 16, 16))
    prompt = EncodedPrompt(
        ids, torch.arange(len(ids)).expand(3, -1), len(ids), pixels, "an image", 64
    )
    responses = [torch.arange(20, 20 + tokens)] * 4
    batch = Batch(
        [prompt] * 4, [()] * 4, ["full-text"] * 4, responses, torch.tensor([1.0, -1, 1, -1]),
        torch.ones(4).bool(),
    )  # fmt: skip
    settings = Settings(prompts_per_step=1, mini_batch=1, samples_per_prompt=4, micro_batch=0)
    with FlopCounterMode(display=False) as counted:
        gradients(policy, batch, Stage(("full-text",), settings=settings), 4)
    shape = known_model("tiny").shape
    assert isinstance(shape, Shape)
    lengths = Lengths(64, len(prompt), len(prompt), tokens, tokens, mixed=1.0)
    expected = cost(Stage(("full-text",), False, settings), shape, lengths, MACHINE).flops["update"]
    # torch counts attention less on some CPUs (a fused kernel); the dry run leaves the tower's
    # attention out.
    assert 0.8 < counted.get_total_flops() / expected < 1.2


def test_the_dry_run_prints_cost_and_assumptions(capsys: pytest.CaptureFixture[str]) -> None:
    print(*dry_run_lines(resolve_recipe("kl", ("prompts_per_step=8", "mini_batch=8"))), sep="\n")
    out = capsys.readouterr().out
    for words in (
        "FLOPs a step",
        "memory: about",
        "time a step: about",
        "assumed: prompts of",
        "twins",
    ):
        assert words in out
    print(
        *dry_run_lines(resolve_recipe("full-text", ()), model="Qwen/Qwen2.5-VL-3B-Instruct"),
        sep="\n",
    )
    assert ("H200" in capsys.readouterr().out) or torch.cuda.is_available()
    print(*dry_run_lines(resolve_recipe("full-text", ()), model="some/model"), sep="\n")
    assert "no estimate" in capsys.readouterr().out


def settings_listed(recipe: str, *settings: str) -> set[str]:
    """`name = value` of every setting that a dry run lists."""
    lines = dry_run_lines(resolve_recipe(recipe, settings), model="some/model")
    return {line.strip() for line in lines if " = " in line}


def test_the_dry_run_lists_the_settings_that_the_objective_uses_and_no_others() -> None:
    def names(recipe: str) -> set[str]:
        return {line.partition(" =")[0] for line in settings_listed(recipe)}

    kl, clips = {"kl_coef", "kl_estimator", "kl_clamp"}, {"clip_low", "clip_high", "dual_clip"}
    assert clips < names("kl") and not kl & names("kl")  # with their term
    for recipe in ("full-text", "no-text", "curriculum", "distill", "reading-reward"):
        assert not kl & names(recipe) and clips < names(recipe)
    # It has no policy loss, and does not sample again.
    assert not (kl | clips | {"max_refills"}) & names("self-trace")
    every = {name.replace("reward_", "reward.") for name in asdict(Settings())}
    assert every - names("full-text") == kl


@pytest.mark.parametrize(
    ("recipe", "settings", "terms"),
    [
        ("kl", ["kl_coef=0.5", "kl_clamp=none"], [r" \(kl_coef, .*: twin=image-only, .*coef=0\.5"]),
        ("distill", [], ["twin=full-text, .*picture=own$"]),  # no seed: nothing is drawn
        ("papo", [], ["twin=image-only, .*masked, ratio=0.6, seed=0"] * 2 + ["twin=image-only"]),
        ("mix", [], []),
    ],
)
def test_the_dry_run_lists_each_term_once_with_its_twin(
    recipe: str, settings: list[str], terms: list[str]
) -> None:
    lines = dry_run_lines(resolve_recipe(recipe, settings), model="some/model")
    found = [line.strip() for line in lines if line.startswith("  term")]
    assert len(found) == len(terms)
    for number, (line, words) in enumerate(zip(found, terms, strict=True), start=1):
        assert re.search(f"^term{number}.*{words}", line) and "clamp=None" not in line
    own = replace(Term(picture="masked", ratio=0.6), estimator="nll")
    (line,) = objective_lines(Stage(("full-text", "image-only"), terms=(own,)))
    assert "twin=the rollout's" in line


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("full-text", r"prompts of 204 tokens \(64 of them the image\), responses"),
        ("kl-from-base", "prompts of 204 .* twins of 164, .* 50% of groups with mixed rewards"),
        ("distill", "prompts of 164 .* twins of 204,"),
        ("self-trace", "prompts of 204 .* twins of 164, .* every group kept, 50% of their resp"),
    ],
)
def test_the_dry_run_assumes_what_the_stage_has(recipe: str, words: str) -> None:
    (stage,) = resolve_recipe(recipe, ()).stages
    assert re.search(words, assumed(stage, lengths_of(stage, image=64)))


def test_counting_needs_no_torch() -> None:
    code = "import sys, modgap.training.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_pixel_limits_are_found_where_transformers_5_saves_them(tmp_path: Path) -> None:
    before = known_model("tiny")
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((tiny_folder() / name).read_text())
    processor = (tmp_path / "preprocessor_config.json").rename(tmp_path / "processor_config.json")
    processor.write_text(json.dumps({"image_processor": json.loads(processor.read_text())}))
    (tmp_path / "preprocessor_config.json").write_text(
        '{"min_pixels": 784, "max_pixels": 784}'
    )  # it reads the other
    after = known_model(str(tmp_path))
    assert (after.min_pixels, after.max_pixels) == (before.min_pixels, before.max_pixels)


def test_a_gpu_is_known_by_a_word_of_its_name() -> None:
    names = (
        "NVIDIA L40",
        "NVIDIA L40S",
        "NVIDIA L4",
        "NVIDIA A100-SXM4-80GB",
        "NVIDIA GeForce RTX 4090",
        "h100",
    )
    speeds = [gpu(name).flops for name in names]
    assert speeds == [181e12, 362e12, 121e12, 312e12, 165e12, 989e12]
    assert "not in the table" in gpu("NVIDIA L400").name
    assert machine_here(QWEN, "4090").memory == 23 * 2**30
    with pytest.raises(UserError, match=r"--gpu 5090 is not known here: give one of H200, H100"):
        machine_here(QWEN, "5090")


def test_a_gpu_that_is_not_known_is_refused_before_torch_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "modgap.models.static", None)  # an import of it fails
    with pytest.raises(UserError, match="--gpu H999 is not known here"):
        plan.dry_run(resolve_recipe("no-text", []), "tiny", Path(), gpu="H999")


def test_a_dry_run_asks_for_no_folder_and_refuses_what_a_training_would(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "kl", "--model", "qwen2_5_vl_7b", "--dry-run", "--gpu", "H100"]) == 0
    assert "too much for 79 GiB (H100)" in capsys.readouterr().out
    assert main(["train", "kl", "--model", "tiny", "--dry-run", "--set", "stage1.kl_coef=1"]) == 0
    assert "warning: --set stage1.kl_coef=1 changes nothing: stage 1" in capsys.readouterr().out
    for more, status, words in (
        (["--model", "tinyy", "--dry-run"], 1, "no model 'tinyy': give 'tiny'"),
        (["--model", "tiny"], 2, "--out is missing"),
        (["--model", "tiny", "--out", "x", "--gpu", "H100"], 2, "--gpu is for --dry-run"),
    ):
        assert main(["train", "kl", *more]) == status
        assert words in capsys.readouterr().err


def test_graphs_are_on_or_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["train", "kl", "--model", "qwen2_5_vl_7b", "--dry-run", "--gpu", "H200"]
    said = dict[str, str]()
    for told in ("0", "1"):
        monkeypatch.setenv("MODGAP_CUDA_GRAPHS", told)
        assert main(asked) == 0
        said[told] = capsys.readouterr().out
    assert said["0"] != said["1"]
    monkeypatch.setenv("MODGAP_CUDA_GRAPHS", "off")
    assert main(asked) == 1 and "MODGAP_CUDA_GRAPHS=off: give 0" in capsys.readouterr().err
