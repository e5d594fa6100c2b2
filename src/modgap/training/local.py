"""The local engine: DAPO, with or without the contrastive KL, in one process. The loop is `run_stage`, on one page.

    rollout   draw prompts, sample a group of responses to each
    reward    grade them; drop groups whose rewards are all equal, and sample others in their place
    advantage relative to the group
    update    one optimizer step for each mini-batch of groups

A recipe's stages run one after the other; each starts from the checkpoint of the one before, with a fresh optimizer.

Differences from the original: one process in the place of verl's Ray workers; refills are bounded and draw what is
missing; validation problems are held out of train (the original validates on the test split); sampling and training
use the same forward pass, so there is no mismatch between two engines to correct.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.prompt import Style, training_prompt
from modgap.core.recipe import Recipe, Settings, Stage
from modgap.core.record import RunFolder
from modgap.training.checkpoint import (
    LastStep,
    checkpoint,
    final_checkpoint,
    finish,
    finished,
    load_state,
    point_best,
    save_weights,
    start_run,
    step_folder,
)
from modgap.training.events import LoadPolicy, Progress, TrainablePolicy, TrainResult
from modgap.training.log import Clock, StageLog, Teller, group_metrics
from modgap.training.rollout import (
    MOST_DRAWN,
    Batch,
    DataOrder,
    Group,
    RewardFunction,
    Roller,
    check_rollouts,
    draw_size,
    hold_out,
    score,
)
from modgap.training.setup import VALIDATION_VIEW, check_prompts, digest, identity, load_for_training, reward_of
from modgap.training.update import MicroBatch, TokenStats, computing, gradients, old_logprobs

__all__ = ["TrainResult", "checkpoint", "final_checkpoint", "train"]


def train(
    recipe: Recipe,
    problems: Sequence[Problem],
    model: str | Path,
    out: Path | str,
    *,
    load_policy: LoadPolicy,
    style: Style = "aligned",
    reward: RewardFunction | None = None,
    validation: Sequence[Problem] | None = None,
    start_from: Literal["last", "best"] = "last",
    progress: Progress | None = None,
    given: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
) -> TrainResult:
    """Train a model by a recipe; the same call goes on where a killed one stopped.

    Args:
        recipe: What to do, its settings resolved.
        problems: The train split.
        model: Where the first stage starts: whatever `load_policy` takes.
        out: Gets `stage1/`, `stage2/`, ...; each is a training run of its own. A folder is for one recipe.
        load_policy: Loads a model, e.g. `modgap.models.load.load_policy`.
        style: Of the prompts.
        reward: (response, gold) to a reward; by default what the settings say.
        validation: Problems to validate on; by default `validation_problems` are held out of `problems`.
        start_from: Which checkpoint of a stage the next one starts from.
        progress: Is told of everything.
        given: The arguments as the user gave them, for the manifests.
        fingerprint: Of the base model, for the manifests.

    Raises:
        UserError: The settings do not go together, the folder holds another run, or nothing can be trained on.
    """
    recipe.check()
    out = Path(out)
    train_on = list(problems)
    asked = 0
    if validation is None:
        asked = max(stage.settings.validation_problems for stage in recipe.stages)
        train_on, validation = hold_out(problems, asked)
    if not train_on:
        raise UserError("there is no problem to train on: give a data set with a train split.")
    check_prompts(recipe, train_on, validation, style)
    folders = tuple(out / f"stage{number}" for number in range(1, len(recipe.stages) + 1))
    # All of them before the first model is loaded: the last stage's may be what cannot be imported.
    rewards = {
        folder: reward or reward_of(stage.settings)
        for stage, folder in zip(recipe.stages, folders, strict=True)
        if finished(folder) is None
    }
    fingerprints = {"model": fingerprint, "data": digest(train_on), "validation": digest(validation)}
    start: str | Path = model
    with RunFolder(out).lock():
        start_run(out, recipe, given)
        for number, (stage, folder) in enumerate(zip(recipe.stages, folders, strict=True), start=1):
            # A base model is known by its fingerprint, wherever it lies.
            base = str(model) if fingerprint is None else "the base model"
            origin = base if number == 1 else f"{start_from} of stage{number - 1}"
            if RunFolder(folder).start("train", identity(recipe, number, origin, style), given, **fingerprints):
                check_rollouts(folder, number, stage, train_on)
            teller = Teller(progress, number, len(recipe.stages), stage.settings.steps)
            if folder in rewards:
                if asked > len(validation):
                    many = f"{len(validation)} of them are" if validation else "none of them is"
                    teller.note(
                        f"validation_problems={asked}: train has {len(problems)} problems and at most a fifth of them "
                        f"is held out, so {many}"
                    )
                    asked = 0  # said
                policy = load_for_training(load_policy, start, stage.settings)
                with LastStep(folder / "state.pt") as last:
                    run_stage(stage, folder, DataOrder(train_on, stage.views, stage.settings.seed), policy,
                              style=style, reward=rewards[folder], validation=validation, teller=teller,
                              last=last)  # fmt: skip
                del policy, last  # before the next one is loaded
            else:
                teller.step = stage.settings.steps
                teller("stage", f"{stage.title}: done already")
            start = checkpoint(folder, start_from)
    return TrainResult(out, folders, checkpoint(folders[-1]), checkpoint(folders[-1], "best"))


def run_stage(
    stage: Stage,
    folder: Path,
    order: DataOrder,
    policy: TrainablePolicy,
    *,
    style: Style,
    reward: RewardFunction,
    validation: Sequence[Problem],
    teller: Teller,
    last: LastStep,
) -> None:
    """Train one stage, from its start or from `state.pt`."""
    settings = stage.settings
    roller = Roller(policy, order, stage, teller.stage, style)
    optimizer = torch.optim.AdamW(
        list(policy.parameters()), lr=settings.lr, betas=(0.9, 0.999), weight_decay=settings.weight_decay,
        fused=policy.device.type == "cuda" or None,  # no copies of the moments, which a large model has no room for
    )  # fmt: skip
    rows = settings.mini_batch * settings.samples_per_prompt
    micro = MicroBatch(min(settings.micro_batch or rows, rows), teller.note, policy.let_go)
    sampling = MicroBatch(MOST_DRAWN * settings.prompts_per_step * settings.samples_per_prompt, teller.note)
    state: dict[str, Any] = {"step": 0, "position": 0, "lengths": (0, 0), "best": None, "micro": micro.size}
    if (folder / "state.pt").exists():
        state = load_state(folder / "state.pt", policy, optimizer)
        # A later one may have been named before the kill. (An interrupted step has no checkpoint.)
        if state["best"] or step_folder(folder, state["step"]).exists():
            point_best(folder, state["best"][1] if state["best"] else state["step"])
    roller.position, best = state["position"], state["best"]
    kept_before = state.get("kept", 1.0)  # share of the groups of the step before
    micro.size = min(micro.size, state["micro"])  # halved before, or made smaller by the user since
    log = StageLog(folder, state["step"], state["lengths"])
    teller.step = state["step"]
    teller("stage", stage.title)

    for step in range(state["step"] + 1, settings.steps + 1):
        clock = teller.clock = Clock()
        roller.too_long = 0

        # Rollout and reward, until there are enough groups whose rewards differ.
        groups: list[Group] = []
        kept: list[Group] = []
        refills = -1
        most_refills = settings.max_refills if settings.dynamic_sampling else 0
        while len(kept) < settings.prompts_per_step and refills < most_refills:
            refills += 1
            with teller.phase("rollout"), computing(policy):
                drawn = roller.draw(draw_size(settings, len(kept), len(groups), kept_before))
                sampling.run("rollout", lambda m, drawn=drawn: roller.sample(drawn, sampling.limit))
            with teller.phase("reward"):
                roller.grade(drawn, reward)
            groups += drawn
            for group in drawn:
                if len(kept) < settings.prompts_per_step and (group.mixed or not settings.dynamic_sampling):
                    kept.append(group)
                else:
                    group.forget()
        if most_refills:
            kept_before = sum(group.mixed for group in groups) / len(groups)
        log.rollouts(step, groups, kept)

        # Advantages, and the log-probabilities before the first update, for the updates after it.
        batches = [Batch.of(kept[i : i + settings.mini_batch]) for i in range(0, len(kept), settings.mini_batch)]
        with teller.phase("logprobs"):
            batches[1:] = [
                replace(batch, old_logps=micro.run("logprobs", lambda m, b=batch: old_logprobs(policy, b, settings, m)))
                for batch in batches[1:]
            ]

        # One update for each mini-batch.
        lr = settings.lr * min(1.0, step / settings.warmup_steps) if settings.warmup_steps else settings.lr
        optimizer.param_groups[0]["lr"] = lr
        stats, norms = TokenStats(), []
        with teller.phase("update"):
            for batch in batches:
                stats.merge(
                    micro.run("update", lambda m, b=batch: gradients(policy, b, settings, stage.contrastive, m))
                )
                norm = float(torch.nn.utils.clip_grad_norm_(list(policy.parameters()), settings.grad_clip))
                norms.append(norm)
                if math.isfinite(norm):
                    last.changing()
                    optimizer.step()
                else:
                    teller.note(f"step {step}: the gradient's norm is {norm}; this update is left out")
                optimizer.zero_grad(set_to_none=True)
        if not batches:
            teller.once(f"step {step} makes no update: no mixed rewards in {len(groups)} groups (said once a stage)")

        # Validation, checkpoint, log.
        saving = step == settings.steps or bool(settings.save_every and step % settings.save_every == 0)
        metrics: dict[str, Any] = {}
        if validation and settings.eval_every and (saving or step % settings.eval_every == 0):
            with teller.phase("validation"), computing(policy):
                metrics["validation_accuracy"] = sampling.run(
                    "validation", lambda m: validate(policy, validation, settings, style, reward, sampling.limit)
                )
        if saving:
            with teller.phase("checkpoint"):
                save_weights(policy, folder, step)
                accuracy = metrics.get("validation_accuracy")  # None without validation: then the last one is `best`
                if accuracy is None or best is None or accuracy >= best[0]:
                    best = None if accuracy is None else (accuracy, step)
                    point_best(folder, step)
        eligible = sum(int(batch.eligible_B.sum()) for batch in batches) if stage.contrastive else 0
        tokens = sum(len(response.token_ids) for group in groups for response in group.responses)
        metrics = {
            "step": step, "stage": teller.stage, "epoch": roller.epoch, **group_metrics(groups),
            "kept_groups": len(kept), "sampled_groups": len(groups), "refills": refills,
            "too_long_prompts": roller.too_long, "updates": len(batches), "lr": lr, "loss": float(stats.loss),
            "grad_norm": sum(norms) / len(norms) if norms else 0.0, **stats.means(), "eligible_rows": eligible,
            "micro_batch": micro.size, **metrics, "tokens": tokens, **clock.metrics(),
            "tokens_per_s": tokens / sum(clock.seconds.values()),
        }  # fmt: skip
        log.step(metrics)
        last.done(
            saving, policy, optimizer,
            step=step, position=roller.position, kept=kept_before, micro=micro.size, best=best, lengths=log.lengths,
        )  # fmt: skip
        teller.step = step
        teller("step", metrics=metrics)

    log.close()
    finish(folder, {"stage": teller.stage, "steps": settings.steps, "best": best})


@torch.no_grad()
def validate(
    policy: TrainablePolicy,
    problems: Sequence[Problem],
    settings: Settings,
    style: Style,
    reward: RewardFunction,
    max_rows: int | None = None,
) -> float:
    """Accuracy of one greedy response to each problem's image-only view."""
    words = [training_prompt(problem, VALIDATION_VIEW, style) for problem in problems]
    prompts = [policy.encode(w, p.open_image()) for w, p in zip(words, problems, strict=True)]
    sampled = policy.generate(prompts, [[0]] * len(prompts), 0.0, settings.max_response_tokens, max_rows)
    verdicts = [score(reward, row[0].text, p.answer)[1] for row, p in zip(sampled, problems, strict=True)]
    return sum(verdicts) / len(verdicts)
