"""Studies of several seeds with made-up verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from modgap.core.record import RunFolder
from modgap.core.rows import GradeRow, ProblemRow, Response
from modgap.training.setup import identity
from modgap.workflows.train import resolve_recipe

SMALL = {
    "steps": 2,
    "prompts_per_step": 4,
    "mini_batch": 4,
    "max_response_tokens": 64,
    "overlong_buffer": 8,
}


PROBLEMS = 24


def write_eval(
    path: Path, rates: tuple[float, float], seed: int, model: str, **resolved: Any
) -> None:
    """An evaluation whose samples are right by chance, the same for the same seed."""
    rng = np.random.default_rng(seed)
    views = {"full-text": rates[0], "image-only": rates[1]}
    asked = {"model_fingerprint": model, "views": list(views), "samples": 2, "seed": 42, **resolved}
    run = RunFolder(path)
    run.start("eval", asked, {"model": "m"}, data_fingerprint="d")
    run.write_problems(ProblemRow(id=f"p{n}", answer="5") for n in range(PROBLEMS))
    grades: list[GradeRow] = []
    with run.appending() as writer:
        for n in range(PROBLEMS):
            for view, rate in views.items():
                for sample in range(2):
                    right = bool(rng.random() < rate)
                    row: dict[str, Any] = {"problem_id": f"p{n}", "view": view, "sample": sample}
                    writer.write(Response(**row, prompt="p", response="r", finish_reason="stop"))
                    outcome: Any = "correct" if right else "wrong"
                    grades.append(
                        GradeRow(
                            **row, outcome=outcome, answer="5", gold="5", stage="n", mode="strict"
                        )
                    )
    run.write_grades(grades, "strict")


def write_recipe(
    study: Path, name: str, seed: int, rates: tuple[float, float], *settings: str, **resolved: Any
) -> None:
    """A trained and evaluated recipe, its manifests made as training makes them; a step of stage N
    took N seconds.
    """
    recipe = resolve_recipe(name, [f"seed={seed}", *settings], {"training": SMALL})
    folder = study / name
    RunFolder(folder).start(
        "train", {"recipe": name, "stages": [stage.title for stage in recipe.stages]}
    )
    for number, stage in enumerate(recipe.stages, start=1):
        part = folder / f"stage{number}"
        marks = {"model": "base", "data": "t", "validation": "v"}
        RunFolder(part).start(
            "train", identity(recipe, number, "x", "aligned"), {"model": "m"}, **marks
        )
        rows = [
            {"step": n, "reward": seed, "time_total": number}
            for n in range(1, stage.settings.steps + 1)
        ]
        (part / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_eval(folder / "eval", rates, seed + 100, f"{name}{seed}", **resolved)


def write_studies(folder: Path, seeds: int = 3) -> list[Path]:
    studies = [folder / f"seed{seed}" for seed in range(seeds)]
    for seed, study in enumerate(studies):
        RunFolder(study).start("study", {"model": "m"}, {"model": "m"})
        write_eval(study / "base" / "eval", (0.7, 0.4), 7, "base")
        write_recipe(study, "full-text", seed, (0.9, 0.4))
        write_recipe(study, "kl", seed, (0.85, 0.95))
        write_recipe(study, "full-text-continued", seed, (0.9, 0.4))
    return studies
