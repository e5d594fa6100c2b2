"""`python -m modgap.testbed`: the options of `run.pretrain`, parsed with argparse."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from modgap.core.progress import show
from modgap.testbed.data import Plan
from modgap.testbed.run import PHASES, Exams, pretrain


def _mixture(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        weights[name.strip()] = float(weight)
    return weights


def main(arguments: list[str] | None = None) -> int:
    """Parse and run; returns 0 when done, 1 for bad input."""
    parser = argparse.ArgumentParser(
        "python -m modgap.testbed", description="Make the testbed checkpoint."
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--phase", default=",".join(PHASES), help=f"comma-separated, of {', '.join(PHASES)}"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--eval-every", type=int, default=Exams().every)
    parser.add_argument("--eval-problems", type=int, default=Exams().problems)
    parser.add_argument("--final-problems", type=int, default=Exams().final_problems)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--pick")
    kinds: dict[str, Any] = {
        "mixture": _mixture,
        "levels": lambda text: tuple(int(level) for level in text.split(",")),
    }
    plan = Plan()
    for field in fields(Plan):
        default = getattr(plan, field.name)
        assert field.default is not MISSING or field.default_factory is not MISSING
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=kinds.get(field.name, type(default)), default=default)
    given = vars(parser.parse_args(arguments))
    plan = replace(plan, **{field.name: given.pop(field.name) for field in fields(Plan)})
    phases = [name.strip() for name in given.pop("phase").split(",")]
    exams = Exams(*(given.pop(name) for name in ("eval_every", "eval_problems", "final_problems")))
    try:
        pretrain(given.pop("out"), plan, phases, exams=exams, **given)
    except ValueError as error:
        show(error, error=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
