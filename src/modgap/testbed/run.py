"""The pipeline that makes the testbed checkpoint, phase by phase; each phase can be resumed.

    data      OUT/base, images.npy, corpus.npz    the model with random weights, problems, tokens
    glyphs    OUT/glyphs                          the vision tower learns characters and points
    mixture   OUT/steps/step_N, eval.jsonl        the whole model learns to read and to solve, and
                                                  is examined at regular steps
    final     OUT/tiny                            the checkpoint nearest to the middle of the bands,
                                                  examined again

A resumed run is bit-equal on a CPU; on another machine `mixture` can start from any checkpoint
(`init`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core.errors import UserError, unknown
from modgap.testbed.data import TASKS, Plan, load_data, make_data, say
from modgap.testbed.exam import BANDS, Examiner, fitness, line

if TYPE_CHECKING:
    from modgap.models.policy import Policy
    from modgap.testbed.train import Schedule, Trainer

PHASES = ("data", "glyphs", "mixture", "final")
# Streams of held-out problems; no plan trains on the test split.
VALIDATION_SEED, FINAL_SEED = 900_001, 900_002
FINAL_VIEWS = (
    "full-text",
    "image-only",
    "text-only",
    "question-only",
    "transcribe",
    "paper full-text",
    "paper image-only",
)


def pretrain(
    out: Path,
    plan: Plan | None = None,
    phases: Sequence[str] = PHASES,
    workers: int = 2,
    minutes: float = float("inf"),
    eval_every: int = 500,
    eval_problems: int = 300,
    final_problems: int = 1000,
    init: Path | None = None,
    pick: str | None = None,
) -> None:
    """Run phases.

    Args:
        out: The folder; what is complete in it is kept.
        plan: What is made.
        phases: Of `PHASES`, in that order.
        workers: Processes that make the data.
        minutes: Most minutes of training in this call; the next call resumes.
        eval_every: Steps of the mixture between checkpoints with their figures.
        eval_problems: Problems for these.
        final_problems: Problems for the model card.
        init: Checkpoint from which the mixture starts, instead of OUT/glyphs.
        pick: Which of OUT/steps becomes the testbed model (`step_3000`), instead of the best one.

    Raises:
        UserError: The plan is invalid, or not the one that the folder was made with.
    """
    plan = plan or Plan()
    _check(plan, phases)
    out.mkdir(parents=True, exist_ok=True)
    _same_plan(out / "plan.json", plan)
    if "data" in phases:
        make_data(out, plan, workers)
    if not {"glyphs", "mixture", "final"} & set(phases):
        return

    import torch

    torch.set_float32_matmul_precision("high")
    deadline = time.monotonic() + 60 * minutes
    paused = "stopped for now; give the same command again to resume"
    has_glyphs = (out / "glyphs" / "config.json").exists()
    if "glyphs" in phases and not has_glyphs and not _glyphs(out, plan, deadline):
        return say(paused)
    if "mixture" in phases and not _mixture(out, plan, deadline, eval_every, eval_problems, init):
        return say(paused)
    if "final" in phases:
        _final(out, plan, final_problems, pick)
    return None


def _check(plan: Plan, phases: Sequence[str]) -> None:
    for name in phases:
        if name not in PHASES:
            raise unknown("phase", name, PHASES)
    for name in plan.mixture:
        if name not in TASKS:
            raise unknown("task", name, TASKS)
    if min(plan.problems, plan.batch, plan.glyph_steps, plan.mixture_steps) < 1:
        raise UserError("problems, batch and steps must be at least 1")


def _same_plan(path: Path, plan: Plan) -> None:
    """Refuse a folder that holds the data of another plan.

    The settings of the training itself may change between runs.
    """
    now = json.loads(json.dumps(asdict(plan)))
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        fixed = ("problems", "seed", "levels")
        different = [f"{k} {before[k]} -> {now[k]}" for k in fixed if before[k] != now[k]]
        if different:
            raise UserError(
                f"{path.parent} was made with another plan ({', '.join(different)}): choose another"
                " --out"
            )
    path.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")


def _trainer(policy: Policy, out: Path, phase: Any, schedule: Schedule) -> Trainer:
    import torch

    from modgap.testbed.train import Trainer, new_head

    corpus = load_data(out, policy)
    head = new_head(policy.model.config.text_config.hidden_size, corpus.n_marks, policy.device)
    if phase == "mixture" and (out / "head.pt").exists():
        head.load_state_dict(
            torch.load(out / "head.pt", map_location=policy.device, weights_only=True)
        )
    trainer = Trainer(policy, corpus, phase, schedule, head)
    if (out / f"{phase}.pt").exists():
        trainer.load(out / f"{phase}.pt")
        say(f"{phase}: resuming from step {trainer.step}")
    return trainer


def _reporter(phase: str, steps: int) -> Any:
    begun, first = time.monotonic(), [0]

    def report(step: int, numbers: dict[str, float]) -> None:
        first[0] = first[0] or step
        seconds = time.monotonic() - begun
        words = "  ".join(f"{name} {value:.3f}" for name, value in numbers.items())
        say(f"{phase} {step}/{steps}  {seconds:.0f} s  {words}")

    return report


def _glyphs(out: Path, plan: Plan, deadline: float) -> bool:
    import torch

    from modgap.models.load import load_policy
    from modgap.testbed.train import Schedule

    policy = load_policy(out / "base")
    schedule = Schedule(plan.glyph_steps, plan.batch, plan.glyph_lr, plan.warmup, seed=plan.seed)
    trainer = _trainer(policy, out, "glyphs", schedule)
    complete = trainer.run(
        (deadline - time.monotonic()) / 60, _reporter("glyphs", plan.glyph_steps), 50
    )
    trainer.save(out / "glyphs.pt")
    if complete:
        torch.save(trainer.head.state_dict(), out / "head.pt")
        policy.save(out / "glyphs")
    return complete


def _mixture(
    out: Path, plan: Plan, deadline: float, eval_every: int, eval_problems: int, init: Path | None
) -> bool:
    import torch

    from modgap.models.load import load_policy
    from modgap.testbed.train import Schedule

    policy = load_policy(init or out / "glyphs")
    schedule = Schedule(
        plan.mixture_steps,
        plan.batch,
        plan.mixture_lr,
        plan.warmup,
        mixture=plan.mixture,
        listing=("labels", 0.5, 0.04, plan.fade),
        marks_weight=plan.marks_weight,
        seed=plan.seed,
    )
    examiner = Examiner(policy, eval_problems, VALIDATION_SEED, plan.levels, tuple(BANDS))
    trainer = _trainer(policy, out, "mixture", schedule)

    def visit(step: int) -> None:
        figures = examiner.examine(policy)
        policy.save(out / "steps" / f"step_{step}", torch.bfloat16)
        trainer.save(out / "mixture.pt")
        torch.save(trainer.head.state_dict(), out / "head.pt")
        with (out / "eval.jsonl").open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"step": step, "fitness": fitness(figures), "views": figures}) + "\n"
            )
        say(f"step {step}: fitness {fitness(figures):.2f} (up to 1 is inside the bands)")
        for view, numbers in figures.items():
            say(line(view, numbers))

    minutes = (deadline - time.monotonic()) / 60
    complete = trainer.run(minutes, _reporter("mixture", plan.mixture_steps), 50, visit, eval_every)
    trainer.save(out / "mixture.pt")
    return complete


def _final(out: Path, plan: Plan, n: int, pick: str | None) -> None:
    import torch

    from modgap.models.load import load_policy
    from modgap.testbed.card import write_card

    path = out / "eval.jsonl"
    if pick is None:
        if not path.exists():
            raise UserError(f"{path} is missing: run the phase 'mixture' first, or give --pick")
        rows = [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]
        pick = f"step_{min(rows, key=lambda row: row['fitness'])['step']}"
    folder = out / "steps" / pick
    if not folder.is_dir():
        raise UserError(
            f"there is no checkpoint {folder}: choose from"
            f" {', '.join(p.name for p in folder.parent.iterdir())}"
        )
    policy = load_policy(folder)
    figures = Examiner(policy, n, FINAL_SEED, plan.levels, FINAL_VIEWS).examine(policy)
    say(f"{pick} on {n} fresh problems:")
    for view, numbers in figures.items():
        say(line(view, numbers))
    policy.save(out / "tiny", torch.bfloat16)
    write_card(out / "tiny", plan, pick, n, figures, policy.count_parameters())
