"""Do the two training engines learn the same? One recipe on both: the same data, prompts, reward
and settings.

python bench/verl_pair.py --out DIR [--recipe full-text] [--steps 6] [--seeds 3] [--set K=V]
[--verl-set verl.K=V]

The testbed model learns a small pool of problems, by `--engine local` with several seeds, by
`--engine verl` with the first of them (or with several). Both log the mean reward of all that a
step sampled. What seeds do to it says what chance may do: the means over all steps are compared
with that spread (of verl's one seed it is taken to be the local engine's; of several its own, by
Welch's t), and every final model is evaluated on other problems. A table goes to OUT/verl_pair.md
after each part; the same command resumes where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from modgap.core.options import EvalOptions, TrainOptions
from modgap.core.recipe import Recipe
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.models.load import tiny_folder
from modgap.workflows.evaluate import evaluate
from modgap.workflows.problems import read_problems
from modgap.workflows.train import dry_notes, resolve_recipe, train_resolved

VIEWS = ("full-text", "image-only")


def rewards(run: Path) -> dict[str, float]:
    """Stage and step -> reward."""
    lines = [
        json.loads(line)
        for log in sorted(run.glob("stage*/train_log.jsonl"))
        for line in log.read_text().splitlines()
    ]
    return {
        f"{line['stage']}.{line['step']}": line["reward"]
        for line in lines
        if line.get("reward") is not None
    }


def table(out: Path, locals_: list[Path], verls: list[Path]) -> list[str]:
    """What is known so far, in Markdown."""
    ours, theirs = ([found for run in runs if (found := rewards(run))] for runs in (locals_, verls))
    lines = [
        f"| stage.step | local, {len(ours)} seeds: mean | least | most | verl |",
        "| --- | --- | --- | --- | --- |",
    ]
    common = [
        step
        for step in (ours[0] if ours else {})
        if all(step in found for found in [*ours, *theirs])
    ]
    for step in common:
        values = [found[step] for found in ours]
        verl = " ".join(f"{found[step]:.3f}" for found in theirs)
        lines.append(
            f"| {step} | {statistics.mean(values):.3f} | {min(values):.3f} | {max(values):.3f} |"
            f" {verl} |"
        )
    if len(ours) > 1 and theirs and common:
        means = [
            [statistics.mean(found[step] for step in common) for found in side]
            for side in (ours, theirs)
        ]
        spreads = [statistics.stdev(side) if len(side) > 1 else None for side in means]
        known = statistics.stdev(means[0])
        of_mean = [
            (known if spread is None else spread) ** 2 / len(side)
            for spread, side in zip(spreads, means, strict=True)
        ]
        apart = (statistics.mean(means[1]) - statistics.mean(means[0])) / max(
            sum(of_mean), 1e-12
        ) ** 0.5
        freedom = len(ours) - 1.0
        if len(theirs) > 1 and sum(of_mean):
            freedom = sum(of_mean) ** 2 / sum(
                v**2 / (len(m) - 1) for v, m in zip(of_mean, means, strict=True)
            )
        shown = [
            f"{name} {statistics.mean(side):.3f}"
            + ("" if spread is None else f" (standard deviation of a seed {spread:.3f})")
            for name, side, spread in zip(("local", "verl"), means, spreads, strict=True)
        ]
        lines += [
            "",
            (
                f"Over these steps: {', '.join(shown)}: t = {apart:+.1f} with {freedom:.1f} degrees"
                " of freedom."
            ),
        ]
    lines += ["", "| final model | full-text % (95%) | image-only % (95%) |", "| --- | --- | --- |"]
    for run in [*locals_, *verls]:
        if (summary := run / "eval" / "summary.json").exists():
            views = [json.loads(summary.read_text())["views"][name] for name in VIEWS]
            numbers = [
                [100 * view[key] for key in ("accuracy", "ci_low", "ci_high")] for view in views
            ]
            cells = [f"{mean:.1f} ({low:.1f} to {high:.1f})" for mean, low, high in numbers]
            lines.append(f"| {run.name} | {' | '.join(cells)} |")
    (out / "verl_pair.md").write_text("\n".join(lines) + "\n")
    return lines


def main() -> None:
    """Train on both, evaluate, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="full-text")
    parser.add_argument("--steps", type=int, default=6, help="of each stage")
    parser.add_argument("--seeds", type=int, default=3, help="of the local engine")
    parser.add_argument("--verl-seeds", type=int, default=1)
    parser.add_argument("--pool", type=int, default=32, help="problems that are trained on")
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--eval-engine", choices=("hf", "vllm"), default="hf")
    parser.add_argument(
        "--set", action="append", default=[], help="as of `modgap train`, for both; repeatable"
    )
    parser.add_argument(
        "--verl-set", action="append", default=[], help="for verl alone; repeatable"
    )
    args = parser.parse_args()
    data: Path = args.out / "data"
    if not (data / "train.json").exists():
        write_dataset(data, args.pool, args.test, seed=7)
    problems, test = list(pgps9k.read(data, "train")), read_problems("synthetic", data)
    given = [f"steps={args.steps}", "prompts_per_step=16", "mini_batch=8", "samples_per_prompt=5",
             "lr=5e-5", "max_refills=20", "validation_problems=0", "eval_every=0", "save_every=0",
             *args.set]  # fmt: skip

    def recipe(seed: int, *more: str) -> Recipe:
        return resolve_recipe(args.recipe, [*given, f"seed={seed}", *more], dry_notes("tiny"))

    locals_ = [args.out / f"local{seed}" for seed in range(args.seeds)]
    verls = [args.out / f"verl{seed}" for seed in range(args.verl_seeds)]
    jobs: list[tuple[Path, str, Recipe]] = [
        (run, "local", recipe(seed)) for seed, run in enumerate(locals_)
    ]
    jobs += [(run, "verl", recipe(seed, *args.verl_set)) for seed, run in enumerate(verls)]
    options: dict[str, Any] = {"engine": args.eval_engine, "samples": 4}
    for run, engine, chosen in jobs:
        training = TrainOptions(engine=engine)
        final = train_resolved(chosen, problems, tiny_folder(), run, options=training).final
        table(args.out, locals_, verls)
        evaluate(test, final, run / "eval", options=EvalOptions(**options))
        print("\n".join(table(args.out, locals_, verls)), flush=True)


if __name__ == "__main__":
    main()
