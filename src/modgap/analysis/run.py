"""A finished evaluation: its problems, responses, grades and summary, each read at first use."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.analysis.results import Summary, read_summary
from modgap.core.errors import UserError
from modgap.core.manifest import RunManifest
from modgap.core.record import RunFolder
from modgap.core.rows import GradeRow, ProblemRow, Response, lean

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports, reportMissingTypeStubs] - optional


class Run:
    """An evaluation on disk, as `evaluate` and `load_run` give it.

    Args:
        path: The run folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.folder = RunFolder(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @functools.cached_property
    def manifest(self) -> RunManifest:
        """What the run is: arguments given and resolved, fingerprints, versions."""
        return self.folder.manifest()

    @functools.cached_property
    def problems(self) -> dict[str, ProblemRow]:
        """The problems by id."""
        return self.folder.problems()

    @functools.cached_property
    def responses(self) -> list[Response]:
        """The responses in the order they were made; of a repeated sample, the last one."""
        return list({row.key: row for row in lean(self.folder.own_responses())}.values())

    @property
    def grades(self) -> list[GradeRow]:
        """The grades of the last grading; one for each response."""
        return self.folder.grades()

    @property
    def summary(self) -> Summary:
        """The numbers of the last grading, as in `summary.json`."""
        return read_summary(self.path)

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each sample: problem, view, sample, outcome, answer, gold, response, tokens.

        A sample that was not graded yet has no outcome.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            # An optional dependency.
            import pandas  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
        except ModuleNotFoundError:
            raise UserError(
                "to_pandas needs pandas, which is not installed: pip install pandas."
            ) from None
        grades = {(grade.problem_id, grade.view, grade.sample): grade for grade in self.grades}
        rows: list[dict[str, Any]] = []
        for response in self.responses:
            grade = grades.get(response.key)
            rows.append(
                {
                    "problem": response.problem_id,
                    "view": response.view,
                    "sample": response.sample,
                    "outcome": grade and grade.outcome,
                    "answer": grade and grade.answer,
                    "gold": grade and grade.gold,
                    "response": response.response,
                    "tokens": response.completion_tokens,
                }
            )
        names = ["problem", "view", "sample", "outcome", "answer", "gold", "response", "tokens"]
        return pandas.DataFrame(rows, columns=names)


def load_run(path: Path | str) -> Run:
    """An evaluation that exists.

    Args:
        path: Its run folder: the `--out` of `modgap eval` or `modgap import`; of a study
            `OUT/base/eval` or `OUT/RECIPE/eval`.

    Raises:
        UserError: There is no evaluation.
    """
    run = Run(path)
    kind = run.manifest.get("kind")
    if kind not in ("eval", "import"):
        below = sorted(str(found.parent) for found in run.path.glob("*/eval/manifest.json"))
        remedy = (
            f"give one of its evaluations: {', '.join(below[:5])}"
            if below
            else "give the --out of `modgap eval`"
        )
        raise UserError(f"{path} is a run of another kind ({kind}): {remedy}.")
    return run
