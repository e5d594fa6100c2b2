"""The figures that the original's `eval.py` prints, from a run that is graded in mode `paper`.

They are counted as it counts: every file is one trial, so a missing attempt shrinks the total (our
own numbers say what is missing instead), and `Pass@1` over pooled files is the accuracy again, up
to rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from modgap.analysis.results import OriginalFigures, Summary
from modgap.core.progress import show
from modgap.core.rows import GradeRow, ProblemRow, Response


def original_figures(
    responses: Iterable[Response],
    grades: Iterable[GradeRow],
    other_files: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, OriginalFigures]:
    """What the original prints, for each view.

    Args:
        responses: The responses; those where the engine failed are left out.
        grades: Their grades in mode `paper`, in the same order.
        other_files: View -> `total`, `correct`, `none` and `characters` of files that are not
            responses of the run but that the original counts; see `importing`.
    """
    counts = {view: Counter(dict(other)) for view, other in (other_files or {}).items()}
    for response, grade in zip(responses, grades, strict=True):
        if response.finish_reason == "error":
            continue
        of_view = counts.setdefault(response.view, Counter())
        of_view["total"] += 1
        of_view["characters"] += len(response.response)
        of_view["correct"] += grade.outcome == "correct"
        of_view["none"] += grade.outcome == "no_answer"
    return {view: _figures(of_view) for view, of_view in counts.items()}


def with_figures(
    summary: Summary,
    problems: Mapping[str, ProblemRow],
    responses: Iterable[Response],
    grades: Iterable[GradeRow],
    other_files: Mapping[str, Mapping[str, int]] | None = None,
) -> Summary:
    """The summary with these figures, as `original`; they do not depend on the problems."""
    return summary.model_copy(update={"original": original_figures(responses, grades, other_files)})


def _figures(counts: Counter[str]) -> OriginalFigures:
    total, correct = counts["total"], counts["correct"]
    trials = np.arange(total - correct + 1, total + 1)
    return OriginalFigures(
        total=total,
        correct=correct,
        none=counts["none"],
        accuracy=correct / total if total else None,
        average_length=counts["characters"] / total if total else None,
        pass_at_1=float(1 - np.prod(1 - 1 / trials)) if total else None,
    )


def print_original(figures: Mapping[str, OriginalFigures]) -> None:
    """Print them in the original's own words, digits and order, one block for each view."""
    for view, row in figures.items():
        show(f"\n=== {view}, as the original's eval.py prints it ===")
        show("\n".join(original_lines(row)[1:]).rstrip())


def original_lines(row: OriginalFigures) -> list[str]:
    """The figures of a folder in the original's own words, digits and order, its blank line too."""
    if not row.total:
        return ["=== Overall ===", "No data.", ""]
    return [
        "=== Overall ===",
        f"Accuracy: {row.accuracy:.4f}",
        f"Total   : {row.total}",
        f"Correct : {row.correct}",
        f"None    : {row.none}",
        f"avg len: {row.average_length}",
        f"Pass@1  : {row.pass_at_1:.4f}",
        "",
    ]


def scan_text(summaries: Mapping[str, Sequence[str]]) -> str:
    """What the original's `eval.py --scan-all-results --scan-output FILE` writes of folders.

    Args:
        summaries: Folder -> the lines of its figures, see `original_lines`.
    """
    blocks = ["\n".join([f"Directory: {name}", *summaries[name], ""]) for name in sorted(summaries)]
    return "\n".join(blocks)
