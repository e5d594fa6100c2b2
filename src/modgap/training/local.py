"""The local engine: DAPO and further objective terms, in one process.

The loop is `run_stage`:

    rollout   draw prompts, sample a group of responses to each
    reward    grade them; replace groups whose rewards are all equal by new ones
    advantage relative to the group
    update    one optimizer step for each mini-batch of groups

A recipe's stages run one after the other. Each starts from the checkpoint of the previous one, with
a new optimizer.

Differences from the original: one process instead of verl's Ray workers; refills are bounded and
draw only what is missing; validation problems are held out of train (the original validates on the
test split); sampling and training use the same forward pass, so there is no mismatch between two
engines to correct.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from modgap.core.problem import Problem
from modgap.core.progress import doing
from modgap.core.prompt import Style, training_prompt
from modgap.core.recipe import Recipe, Stage
from modgap.core.record import RunFolder
from modgap.core.text import counted
from modgap.models.memory import BatchSize
from modgap.training.checkpoint import (
    LastStep,
    all_finished,
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
from modgap.training.events import Job, LoadPolicy, Progress, TrainablePolicy, TrainResult
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
    score,
)
from modgap.training.setup import (
    VALIDATION,
    VALIDATION_VIEW,
    check_prompts,
    identities,
    load_for_training,
    marks,
    reward_of,
    split_validation,
    validation_metrics,
)
from modgap.training.teachers import Teachers
from modgap.training.terms import metrics_of, rows_of_term
from modgap.training.update import TokenStats, computing, gradients, old_logprobs

__all__ = ["Job", "TrainResult", "checkpoint", "final_checkpoint", "train"]


def train(
    recipe: Recipe,
    problems: Sequence[Problem],
    model: str | Path,
    out: Path | str,
    *,
    load_policy: LoadPolicy,
    reward: RewardFunction | None = None,
    progress: Progress | None = None,
    job: Job | None = None,
) -> TrainResult:
    """Train a model by a recipe; the same call resumes a run that was killed.

    Args:
        recipe: The recipe, its settings resolved.
        problems: The train split.
        model: The model that the first stage starts from: anything that `load_policy` accepts.
        out: The run's folder, for one recipe. `stage1/`, `stage2/`, ... are created in it; each is
            a training run of its own.
        load_policy: Loads a model, e.g. `modgap.models.load.load_policy`.
        reward: (response, gold) to a reward; by default what the settings say.
        progress: Called with every event.
        job: Style of the prompts, validation problems and the like.

    Raises:
        UserError: The settings contradict each other, the folder holds another run, or there is no
            problem to train on.
    """
    recipe.check()
    job, out = job or Job(), Path(out)
    data = _split(recipe, problems, job)
    check_prompts(recipe, data.train, data.validation, job.style)
    folders = tuple(out / f"stage{number}" for number in range(1, len(recipe.stages) + 1))
    # Resolve all rewards before the first model is loaded: an import error then shows at once.
    rewards = {
        folder: reward or reward_of(stage.settings)
        for stage, folder in zip(recipe.stages, folders, strict=True)
        if finished(folder) is None
    }
    fingerprints = marks(job, data.train, data.validation)
    identified = identities(recipe, model, job)
    start: str | Path = model
    note = data.note
    with RunFolder(out).lock():
        start_run(out, recipe, job.given)
        keep_threads(RunFolder(out), job, progress)
        for number, (stage, folder) in enumerate(zip(recipe.stages, folders, strict=True), start=1):
            resolved = identified[number - 1]
            if RunFolder(folder).start("train", resolved, job.given, **fingerprints):
                check_rollouts(folder, number, stage, data.train)
            teller = Teller(progress, number, len(recipe.stages), stage.settings.steps)
            if folder in rewards:
                if note:
                    teller.note(note)
                    note = ""  # one note is enough
                policy = load_for_training(load_policy, start, stage.settings)
                with LastStep(folder / "state.pt") as last:
                    task = Task(stage, data, job.style, rewards[folder])
                    run = StageRun(task, folder, policy, teller, last)
                    run_stage(run)
                del policy, last, run  # free the model before the next one is loaded
            else:
                teller.step = stage.settings.steps
                teller("stage", f"{stage.title}: done already")
            start = checkpoint(folder, job.start_from)
    return TrainResult(out, folders, checkpoint(folders[-1]), checkpoint(folders[-1], "best"))


@dataclass(frozen=True, slots=True)
class Data:
    """The problems of a run.

    Attributes:
        train: Those that are trained on.
        validation: Those that are held out; none for no validation.
        note: That fewer are held out than the settings ask for; empty if that is not so.
    """

    train: Sequence[Problem]
    validation: Sequence[Problem]
    note: str = ""


def _split(recipe: Recipe, problems: Sequence[Problem], job: Job) -> Data:
    """Hold out what the recipe validates on, unless the job brings problems for that."""
    train, held = split_validation(recipe, problems, job.validation)
    asked, note = recipe.held_out, ""
    if job.validation is None and asked > len(held):
        many = f"{len(held)} of them are" if held else "none of them is"
        note = (
            f"validation_problems={asked}: train has {counted(len(problems), 'problem')} and at"
            f" most a fifth of them is held out, so {many}"
        )
    return Data(train, held, note)


def keep_threads(run: RunFolder, job: Job, progress: Progress | None) -> None:
    """On a CPU compute with as many threads as the run was begun with.

    Sums are split among threads, so that another number of them gives other last bits.
    """
    if torch.cuda.is_available() and job.device != "cpu":
        return
    begun, now = run.manifest().get("threads"), torch.get_num_threads()
    if not isinstance(begun, int) or begun < 1:
        run.note("threads", now)
    elif begun > max(now, os.cpu_count() or 1):
        Teller(progress, 1, 1, 0).note(
            f"the run was begun with {counted(begun, 'thread')} and this machine has fewer"
            " processors: its numbers continue with other last digits"
        )
    elif begun != now:
        torch.set_num_threads(begun)


def run(
    recipe: Recipe,
    problems: Sequence[Problem],
    folder: Path,
    out: Path,
    job: Job,
    progress: Progress | None = None,
) -> TrainResult:
    """`train` from a model folder, as `modgap.train` calls every engine."""
    from modgap.models.load import load_policy

    load = functools.partial(load_policy, device=job.device)
    return train(recipe, problems, folder, out, load_policy=load, progress=progress, job=job)


def is_complete(
    recipe: Recipe, problems: Sequence[Problem], folder: Path, out: Path, job: Job
) -> bool:
    """Whether `run` would find every stage done; nothing is written.

    Raises:
        UserError: `run` would refuse the folder: it holds another training.
    """
    data = _split(recipe, problems, job)
    stages = identities(recipe, folder, job)
    return all_finished(out, recipe, stages, marks(job, data.train, data.validation))


def check_environment() -> None:
    """Refuse environment variables that cannot be used, before anything is written.

    Raises `UserError`.
    """
    from modgap.models.static import replays

    replays()


def run_stage(run: StageRun) -> None:
    """Train one stage, from its start or from where it was interrupted."""
    run.validate_before()
    for step in run.remaining():
        rollout = run.fill_step(step)  # sample, grade, drop groups without a difference
        batches = run.mini_batches(rollout.kept)  # advantages, log-probabilities before updates
        updates = run.update(step, batches)  # one optimizer step for each mini-batch
        accuracies = run.validate(step)
        run.save(step, accuracies)
        run.log(step, rollout, batches, updates, accuracies)
    run.finish()


@dataclass(frozen=True, slots=True)
class Rollout:
    """The samples of a step.

    Attributes:
        groups: All groups, in the order they were sampled.
        kept: The groups that are trained on, at most `prompts_per_step`.
        refills: How many times more groups were sampled because there were too few.
    """

    groups: list[Group]
    kept: list[Group]
    refills: int


@dataclass(frozen=True, slots=True)
class Updates:
    """Measurements of the updates of a step.

    Attributes:
        stats: Sums over the tokens of all updates.
        norms: The gradient's norm before clipping, of each update.
        lr: The learning rate.
    """

    stats: TokenStats
    norms: list[float]
    lr: float


@dataclass(frozen=True, slots=True)
class Task:
    """What a stage learns.

    Attributes:
        stage: The stage of the recipe.
        data: The problems.
        style: Of the prompts.
        reward: (response, gold) -> a reward.
    """

    stage: Stage
    data: Data
    style: Style
    reward: RewardFunction


class StageRun:
    """A running stage: the policy, its optimizer, its position in the data, and its logs.

    Args:
        task: What it learns.
        folder: The stage's folder; if it has a `state.pt`, the stage resumes from it.
        policy: The policy to train.
        teller: Reports progress.
        last: Keeps the state of the last step, for an interrupt.
    """

    def __init__(
        self,
        task: Task,
        folder: Path,
        policy: TrainablePolicy,
        teller: Teller,
        last: LastStep,
    ) -> None:
        stage, settings = task.stage, task.stage.settings
        self.task, self.stage, self.settings = task, stage, settings
        self.folder, self.policy, self.teller, self.last = folder, policy, teller, last
        order = DataOrder(task.data.train, stage.views, settings.seed)
        self.roller = Roller(policy, order, stage, teller.stage, task.style)
        self.optimizer = torch.optim.AdamW(
            list(policy.parameters()),
            lr=settings.lr,
            betas=(0.9, 0.999),
            weight_decay=settings.weight_decay,
            # Fused AdamW makes no copies of the moments; for a large model they would not fit.
            fused=policy.device.type == "cuda" or None,
        )
        rows = settings.mini_batch * settings.samples_per_prompt
        self.micro = BatchSize(min(settings.micro_batch or rows, rows), teller.note, policy.let_go)
        drawn = MOST_DRAWN * settings.prompts_per_step * settings.samples_per_prompt
        self.sampling = BatchSize(drawn, teller.note, policy.let_go)
        self.teachers = Teachers.of(stage, policy)  # before the weights of a saved step are loaded
        state = self._resume()
        self._first = state["step"] + 1
        self._saving = False
        self.roller.position = state["position"]
        self.best: tuple[float, int] | None = state["best"]
        # Share of the previous step's groups that were mixed; older states do not have it.
        self.kept_before: float = state.get("kept", 1.0)
        # Out-of-memory errors may have halved it before, or the user may have made it smaller.
        self.micro.size = min(self.micro.size, state["micro"])
        self.log_files = StageLog(folder, state["step"], state["lengths"])
        teller.step = state["step"]
        teller("stage", stage.title)

    def _resume(self) -> dict[str, Any]:
        """Restore weights and moments from `state.pt`, and return its numbers.

        Without a `state.pt` they are the numbers of a new stage.
        """
        path = self.folder / "state.pt"
        if not path.exists():
            numbers = {"step": 0, "position": 0, "lengths": (0, 0), "best": None}
            return numbers | {"micro": self.micro.size}
        state = load_state(path, self.policy, self.optimizer, self.teachers)
        # The link `best` may point to a later checkpoint, written before a kill. An interrupted
        # step has no checkpoint.
        if state["best"] or step_folder(self.folder, state["step"]).exists():
            point_best(self.folder, state["best"][1] if state["best"] else state["step"])
        return state

    def remaining(self) -> Iterator[int]:
        """The remaining steps; each starts with a new clock."""
        for step in range(self._first, self.settings.steps + 1):
            self.teller.clock = Clock()
            self.roller.too_long = 0
            self._saving = step == self.settings.steps or bool(
                self.settings.save_every and step % self.settings.save_every == 0
            )
            yield step

    def fill_step(self, step: int) -> Rollout:
        """Sample and grade groups until enough have different rewards, with bounded refills."""
        settings = self.settings
        groups: list[Group] = []
        kept: list[Group] = []
        refills = -1
        most_refills = settings.max_refills if settings.dynamic_sampling else 0
        while len(kept) < settings.prompts_per_step and refills < most_refills:
            refills += 1
            with self.teller.phase("rollout"), computing(self.policy):
                count = draw_size(settings, len(kept), len(groups), self.kept_before)
                drawn = self.roller.draw(count)
                self.sampling.run("rollout", functools.partial(self._sample, drawn))
            with self.teller.phase("reward"):
                self.roller.grade(drawn, self.task.reward)
            groups += drawn
            for group in drawn:
                usable = group.mixed or not settings.dynamic_sampling
                if usable and len(kept) < settings.prompts_per_step:
                    kept.append(group)
                else:
                    group.forget()
        if most_refills:
            self.kept_before = sum(group.mixed for group in groups) / len(groups)
        self.log_files.rollouts(step, groups, kept)
        return Rollout(groups, kept, refills)

    def _sample(self, drawn: list[Group], rows: int) -> None:
        self.roller.sample(drawn, self.sampling.limit)

    def mini_batches(self, kept: Sequence[Group]) -> list[Batch]:
        """The kept groups with their advantages, in mini-batches.

        From the second mini-batch on, with the log-probabilities before any update.
        """
        size = self.settings.mini_batch
        batches = [Batch.of(kept[i : i + size]) for i in range(0, len(kept), size)]
        later = batches[1:] if self.stage.policy_loss else []
        with self.teller.phase("logprobs"):
            for number, batch in enumerate(later, start=1):
                logps = self.micro.run(
                    "logprobs", functools.partial(old_logprobs, self.policy, batch, self.settings)
                )
                batches[number] = replace(batch, old_logps=logps)
        return batches

    def update(self, step: int, batches: Sequence[Batch]) -> Updates:
        """One optimizer step for each mini-batch.

        If the gradient is not finite, the optimizer step is skipped with a note.
        """
        settings = self.settings
        warm = min(1.0, step / settings.warmup_steps) if settings.warmup_steps else 1.0
        updates = Updates(TokenStats(), [], settings.lr * warm)
        self.optimizer.param_groups[0]["lr"] = updates.lr
        with self.teller.phase("update"):
            for batch in batches:
                passes = functools.partial(
                    gradients, self.policy, batch, self.stage, teachers=self.teachers
                )
                updates.stats.merge(self.micro.run("update", passes))
                doing("optimizer step")
                parameters = list(self.policy.parameters())
                norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip))
                updates.norms.append(norm)
                if math.isfinite(norm):
                    self.last.changing()
                    self.optimizer.step()
                    self.teachers.follow(self.policy)
                else:
                    self.teller.note(
                        f"step {step}: the gradient's norm is {norm}; this update is left out"
                    )
                self.optimizer.zero_grad(set_to_none=True)
        return updates

    def validate_before(self) -> None:
        """Validate before the first step, if that is asked for, and log it as step 0."""
        if self._first > 1 or not self.settings.validate_before or not self.task.data.validation:
            return
        with self.teller.phase("validation"), computing(self.policy):
            accuracies = self.sampling.run("validation", self._validate)
        metrics = {"step": 0, "stage": self.teller.stage, **validation_metrics(accuracies)}
        self.log_files.step(metrics)
        self.teller("step", metrics=metrics)

    def validate(self, step: int) -> dict[str, float]:
        """View -> accuracy on the validation problems; empty if no validation is due."""
        every = self.settings.eval_every
        if not self.task.data.validation or not every or not (self._saving or step % every == 0):
            return {}
        with self.teller.phase("validation"), computing(self.policy):
            return self.sampling.run("validation", self._validate)

    def _validate(self, rows: int) -> dict[str, float]:
        limit = self.sampling.limit
        views = self.stage.validation_views
        return {view: validate(self.policy, self.task, view, limit) for view in views}

    def save(self, step: int, accuracies: Mapping[str, float]) -> None:
        """Write the checkpoint, if it is due; without validation the last one is `best`."""
        if not self._saving:
            return
        accuracy = validation_metrics(accuracies).get(VALIDATION)
        with self.teller.phase("checkpoint"):
            save_weights(self.policy, self.folder, step)
            if accuracy is None or self.best is None or accuracy >= self.best[0]:
                self.best = None if accuracy is None else (accuracy, step)
                point_best(self.folder, step)

    def log(
        self,
        step: int,
        rollout: Rollout,
        batches: Sequence[Batch],
        updates: Updates,
        accuracies: Mapping[str, float],
    ) -> None:
        """Log the step, and write the state after it or keep it for an interrupt."""
        groups, kept, norms, clock = rollout.groups, rollout.kept, updates.norms, self.teller.clock
        if not batches:
            self.teller.once(
                f"step {step} makes no update: no mixed rewards in {counted(len(groups), 'group')}"
                " (said once a stage)"
            )
        rows = {"eligible_rows": 0}  # in every line, as in older logs
        for names, term in zip(metrics_of(self.stage.all_terms), self.stage.all_terms, strict=True):
            used = [rows_of_term(term, batch.right_B, batch.views) for batch in batches]
            rows[names[-1]] = sum(int(used_B.sum()) for used_B in used)
        tokens = sum(len(response.token_ids) for group in groups for response in group.responses)
        metrics: dict[str, Any] = {
            "step": step,
            "stage": self.teller.stage,
            "epoch": self.roller.epoch,
            **group_metrics(groups),
            "kept_groups": len(kept),
            "sampled_groups": len(groups),
            "refills": rollout.refills,
            "too_long_prompts": self.roller.too_long,
            "updates": len(batches),
            "lr": updates.lr,
            "loss": float(updates.stats.loss),
            "grad_norm": sum(norms) / len(norms) if norms else 0.0,
            **updates.stats.means(),
            **rows,
            "micro_batch": self.micro.size,
            **validation_metrics(accuracies),
            "tokens": tokens,
            **clock.metrics(),
            "tokens_per_s": tokens / sum(clock.seconds.values()),
        }
        self.log_files.step(metrics)
        self.last.done(
            self._saving,
            self.policy,
            self.optimizer,
            self.teachers,
            step=step,
            position=self.roller.position,
            kept=self.kept_before,
            micro=self.micro.size,
            best=self.best,
            lengths=self.log_files.lengths,
        )
        self.teller.step = step
        self.teller("step", metrics=metrics)

    def finish(self) -> None:
        """Close the logs and mark the stage as done."""
        self.log_files.close()
        stage, steps = self.teller.stage, self.settings.steps
        finish(self.folder, {"stage": stage, "steps": steps, "best": self.best})


@torch.no_grad()
def validate(
    policy: TrainablePolicy, task: Task, view: str = VALIDATION_VIEW, max_rows: int | None = None
) -> float:
    """Accuracy of one greedy response to a view of each validation problem."""
    problems, most_tokens = task.data.validation, task.stage.settings.max_response_tokens
    prompts: list[Any] = []
    for problem in problems:
        words = training_prompt(problem, view, task.style, contrastive=task.stage.paired)
        image = problem.open_image() if words.has_image else None
        prompts.append(policy.encode(words, image))
    sampled = policy.generate(prompts, [[0]] * len(prompts), 0.0, most_tokens, max_rows)
    accuracies: list[float] = []
    for responses, problem in zip(sampled, problems, strict=True):
        _, accuracy, _ = score(task.reward, responses[0].text, problem.answer)
        accuracies.append(accuracy)
    return sum(accuracies) / len(accuracies)
