"""Run folders, stages and studies with made-up verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modgap.core.record import RunFolder
from modgap.core.rows import GradeRow, ProblemRow, Response

HOSTILE = (
    "</script><script>document.title='broken'</script><!-- <img src=x"
    " onerror=\"document.title='broken'\">\u202e evil \u2066rtl \u2028 line \x00 nul {{ 7 * 7 }}"
    " ${7*7} &lt;b&gt; <style>*{display:none}</style>"
)


# One letter a sample, as the viewer shows them; capital: cut at the token limit.
OUTCOME = {"c": "correct", "w": "wrong", "n": "no_answer", "e": "error"}


Verdicts = dict[str, dict[str, str]]
"""Problem -> view -> letters."""


def write_run(
    path: Path,
    verdicts: Verdicts,
    *,
    samples: int | None = None,
    text: str = "so \\boxed{5}",
    said: Mapping[str, str] | None = None,
    model: str = "m",
    mode: Any = "strict",
    data: str | None = None,
    resolved: Mapping[str, Any] | None = None,
    **fields: Any,
) -> RunFolder:
    """A run folder, by the API that writes real ones; `said` holds the texts of some problems, and
    `resolved` more of the manifest's arguments.
    """
    run = RunFolder(path)
    asked = samples or len(next(iter(next(iter(verdicts.values())).values())))
    marks = {"data_fingerprint": data} if data else {}
    arguments = {"model_fingerprint": "f", "samples": asked, **(resolved or {})}
    run.start("eval", arguments, {"model": model}, **marks)
    defaults = {"answer": "5.000", "type": "Angle"}
    run.write_problems(
        ProblemRow(id=name, **({"question": f"Find {name}."} | defaults | fields))
        for name in verdicts
    )
    grades: list[GradeRow] = []
    with run.appending() as writer:
        for name, views in verdicts.items():
            for view, letters in views.items():
                for sample, letter in enumerate(letters):
                    writer.write(
                        Response(
                            problem_id=name,
                            view=view,
                            sample=sample,
                            prompt=f"{view} of {name}",
                            response=(said or {}).get(name, text),
                            finish_reason="length" if letter.isupper() else "stop",
                            completion_tokens=10 + sample,
                        )
                    )
                    outcome: Any = OUTCOME[letter.lower()]
                    answered = outcome in ("correct", "wrong")
                    value = {"correct": 5.0, "wrong": 7.0 + sample}.get(outcome)
                    grades.append(
                        GradeRow(problem_id=name, view=view, sample=sample, outcome=outcome,
                                 gold="5.000", answer=str(value) if answered else None, value=value,
                                 stage="number", mode=mode)
                    )  # fmt: skip
    run.write_grades(grades, mode)
    return run


def both(text: str, vision: str) -> dict[str, str]:
    return {"full-text": text, "image-only": vision}


CONDITIONS = ("C is on line AB", "AB = 7", r"m \angle ABC = 35")


SAID = {
    "right": r"<think>BA = 7, \angle CBA = 35. 7*35 = 245</think>\boxed{245}",
    "names": r"<think>AC = 7, \angle CBA = 35.</think>\boxed{2}",
    "numbers": r"<think>AB = 1, \angle CBA = 35.</think>\boxed{2}",
    "none": r"\boxed{5}",
}


def write_stage(path: Path, steps: int = 3, **metrics: float) -> None:
    path.mkdir(parents=True)
    rows = [
        {"step": k, "reward": k / 10, "time": {"rollout": 1.0}, "grad_norm": None, **metrics}
        for k in range(1, steps + 1)
    ]
    (path / "train_log.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "rew'
    )
    rollout = {
        "step": 1,
        "problem_id": "a",
        "prompt": "p",
        "response": HOSTILE + "\ud800",
        "reward": 1.0,
        "used": True,
    }
    (path / "rollouts.jsonl").write_text(
        "".join(json.dumps(rollout | {"step": k}) + "\n" for k in range(500))
    )
