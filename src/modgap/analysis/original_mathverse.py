"""The figures that the original's `eval-results.py --full` prints, from a run of MathVerse's graded in mode `paper`.

They are counted as it counts: samples are pooled, an empty response is no sample, every version is in the overall
figure (Text Only, too), and what nobody has judged is not right. Our own numbers are in the summary's `mathverse`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modgap.core.prompt import PAPER_MATHVERSE_PREFILL
from modgap.core.record import GradeRow, ProblemRow, Response
from modgap.core.view import ALL_VIEWS, VERSIONS
from modgap.grading.mathverse import FREE_FORM, MULTI_CHOICE

_TITLES = {view: version for version, view in VERSIONS.items()}


def mathverse_figures(
    problems: Mapping[str, ProblemRow], responses: Iterable[Response], grades: Iterable[GradeRow]
) -> dict[str, Any]:
    """What the original prints.

    Args:
        problems: The run's problems, by id.
        responses: What the model said; what an engine failed to make is left out.
        grades: Their grades in mode `paper`.

    Returns:
        `overall`, `vision`, `text` and `versions` (MathVerse's name -> ...), each `correct` and `total`; and `type`
        (question type -> the same four).
    """
    outcomes = {row.key: row.outcome for row in grades}
    figures, types = _empty(), dict[str, dict[str, Any]]()
    for response in responses:
        said = response.response.removeprefix(PAPER_MATHVERSE_PREFILL)
        if response.finish_reason == "error" or not said or "[gemini error]" in said:
            continue
        right = outcomes[response.key] == "correct"
        kind = problems[response.problem_id].question_type
        of_type = types.setdefault(kind if kind == MULTI_CHOICE else FREE_FORM, _empty())
        side = ALL_VIEWS[response.view].side if response.view in ALL_VIEWS else "control"
        for part in (figures, of_type):
            version = part["versions"].setdefault(_TITLES.get(response.view, response.view), _bucket())
            for bucket in (part["overall"], version, *([part[side]] if side in ("text", "vision") else [])):
                bucket["total"] += 1
                bucket["correct"] += right
    return figures | {"type": types}


def _bucket() -> dict[str, int]:
    return {"correct": 0, "total": 0}


def _empty() -> dict[str, Any]:
    return {"overall": _bucket(), "vision": _bucket(), "text": _bucket(), "versions": {}}


def mathverse_lines(figures: Mapping[str, Any]) -> list[str]:
    """The figures in the original's own words, digits and order, as `--full` prints them."""
    lines = ["", "========== SUMMARY =========="]
    lines += [f"{part.title():<7} ACC: {_share(figures[part])}" for part in ("overall", "vision", "text")]
    lines += ["", "========== SUMMARY BY QUESTION TYPE =========="]
    for kind, of_type in sorted(figures["type"].items()):
        lines += ["", f"[{kind.upper()}] ACC: {_share(of_type['overall'])}"]
        lines += [
            f"{side.title():<7} ACC: {_share(of_type[side])}" for side in ("vision", "text") if of_type[side]["total"]
        ]
        lines += [f"Accuracy by problem_version ({kind.upper()}):", *_versions(of_type)]
    return [*lines, "", "========== ACCURACY BY PROBLEM VERSION ==========", *_versions(figures)]


def print_mathverse(figures: Mapping[str, Any]) -> None:
    """Print them."""
    print("\n=== as the original's eval-results.py --full prints it ===", end="")
    print("\n".join(mathverse_lines(figures)))


def _versions(part: Mapping[str, Any]) -> list[str]:
    return [f"  {version:<15}: {_share(bucket)}" for version, bucket in sorted(part["versions"].items())]


def _share(bucket: Mapping[str, int]) -> str:
    correct, total = bucket["correct"], bucket["total"]
    return f"{correct}/{total} = {correct / total:.2%}" if total else "n/a"
