r"""What `modgap train --dry-run` expects of a step on the testbed against what a training then takes, phase by phase.

python bench/plan.py [--steps 2]      prints Markdown; three sizes of each thing that a step grows with

Both for plain DAPO on full text; processor time (the dry run's speed of this CPU is the best of many short timings, so
that both tell what a quiet machine takes). Expected lengths are the dry run's own, those of the training are beside.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path

from modgap.core.recipe import Recipe, apply_settings
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.models.load import load_policy
from modgap.study import known_model, resolve_recipe
from modgap.training.local import train
from modgap.training.local_plan import cost, lengths_of, this_cpu
from modgap.training.protocol import Event

SMALL = ("prompts_per_step=4", "mini_batch=4", "eval_every=0", "overlong_buffer=0", "dynamic_sampling=false")
SIZES = ("samples_per_prompt=2", "samples_per_prompt=5", "samples_per_prompt=10", "max_response_tokens=32",
         "max_response_tokens=64", "prompts_per_step=8 mini_batch=8", "prompts_per_step=16 mini_batch=8")  # fmt: skip


class Enough(BaseException):
    """Ends a training before it writes a checkpoint."""


def measured(recipe: Recipe, problems: list, steps: int) -> tuple[dict[str, float], float]:
    """Processor seconds of each phase, the median over steps after the first, and mean tokens of a response."""
    rows: list[dict[str, float]] = []
    now: dict[str, float] = {}
    tokens: list[float] = []
    phase, began = "", time.process_time()

    def watch(event: Event) -> None:
        nonlocal phase, began, now
        if event.kind in ("phase", "step"):
            if phase:
                now[phase] = now.get(phase, 0.0) + time.process_time() - began
            phase, began = (event.text, time.process_time()) if event.kind == "phase" else ("", 0.0)
        if event.kind == "step":
            rows.append(now)
            now = {}
            settings = recipe.stages[0].settings
            tokens.append(event.metrics["tokens"] / settings.prompts_per_step / settings.samples_per_prompt)
            if len(rows) > steps:
                raise Enough

    with tempfile.TemporaryDirectory() as out, contextlib.suppress(Enough):
        train(recipe, problems, "tiny", out, load_policy=lambda ref, **how: load_policy(ref, "cpu", **how),
              validation=[], progress=watch)  # fmt: skip
    named = {name: statistics.median(row.get(name, 0.0) for row in rows[1:]) for name in rows[-1]}
    return named, statistics.mean(tokens[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--only", type=int, help="the first so many sizes")
    given = parser.parse_args()
    model = known_model("tiny")
    assert model.shape is not None
    from modgap.measure import model_notes
    from modgap.models.load import tiny_folder

    heads = "settings,expected: rollout,update,a step,measured: rollout,update,a step,measured / expected,tokens"
    print(f"| {heads.replace(',', ' | ')} |")
    print("|" + " --- |" * 9, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        write_dataset(Path(scratch), 64, 0, seed=1, workers=1)
        problems = list(pgps9k.read(scratch, "train"))
        for size in SIZES[: given.only]:
            recipe = resolve_recipe("full-text", (), model_notes(tiny_folder()))
            recipe = apply_settings(recipe, [*SMALL, *size.split(), f"steps={given.steps + 2}"])
            stage = recipe.stages[0]
            expected = cost(
                stage, model.shape, lengths_of(stage, model.min_pixels, model.max_pixels), this_cpu(model.shape)
            )
            took, tokens = measured(recipe, problems, given.steps)
            update = took.get("update", 0) + took.get("logprobs", 0)
            total, rest = sum(took.values()), sum(expected.seconds.values())
            rolled = expected.seconds["rollout"]
            print(
                f"| {size} | {rolled:.2f} | {rest - rolled:.2f} | {rest:.2f} | {took['rollout']:.2f} | {update:.2f} "
                f"| {total:.2f} | {total / rest:.2f} | {tokens:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
