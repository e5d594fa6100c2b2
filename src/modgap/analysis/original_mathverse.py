"""The figures that the original's `eval-results.py --full` prints.

They are computed from a MathVerse run graded in mode `paper`.

They are counted as it counts: samples are pooled, an empty response is not a sample, every version
is in the overall figure (Text Only, too), and a sample without a verdict is not right. Our own
numbers are in the summary's `mathverse`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from modgap.analysis.results import OriginalMathverse, OriginalSets, RightOf, Summary
from modgap.core.problem import split_grader
from modgap.core.progress import show
from modgap.core.prompt import PAPER_MATHVERSE_PREFILL
from modgap.core.rows import GradeRow, ProblemRow, Response
from modgap.core.view import ALL_VIEWS, VERSIONS
from modgap.grading.mathverse import FREE_FORM, MULTI_CHOICE

_TITLES = {view: version for version, view in VERSIONS.items()}


@dataclass(slots=True)
class _Tally:
    """Right samples of all."""

    correct: int = 0
    total: int = 0

    def add(self, right: bool) -> None:
        self.total += 1
        self.correct += right

    def done(self) -> RightOf:
        return RightOf(correct=self.correct, total=self.total)


@dataclass(slots=True)
class _Tallies:
    """The counts over all samples, and over those of each question type."""

    overall: _Tally = field(default_factory=_Tally)
    vision: _Tally = field(default_factory=_Tally)
    text: _Tally = field(default_factory=_Tally)
    versions: dict[str, _Tally] = field(default_factory=lambda: defaultdict(_Tally))

    def add(self, view: str, right: bool) -> None:
        self.overall.add(right)
        self.versions[_TITLES.get(view, view)].add(right)
        side = ALL_VIEWS[view].side if view in ALL_VIEWS else "control"
        if side == "text":
            self.text.add(right)
        elif side == "vision":
            self.vision.add(right)

    def done(self) -> OriginalSets:
        return OriginalSets(
            overall=self.overall.done(),
            vision=self.vision.done(),
            text=self.text.done(),
            versions={version: tally.done() for version, tally in self.versions.items()},
        )


def mathverse_figures(
    problems: Mapping[str, ProblemRow], responses: Iterable[Response], grades: Iterable[GradeRow]
) -> OriginalMathverse:
    """What the original prints.

    Args:
        problems: The run's problems, by id.
        responses: The responses; those where the engine failed are left out.
        grades: Their grades in mode `paper`, in the same order.
    """
    everything, types = _Tallies(), defaultdict[str, _Tallies](_Tallies)
    for response, grade in zip(responses, grades, strict=True):
        said = response.response.removeprefix(PAPER_MATHVERSE_PREFILL)
        if response.finish_reason == "error" or not said or "[gemini error]" in said:
            continue
        right = grade.outcome == "correct"
        _, kind = split_grader(problems[response.problem_id].grader)
        everything.add(response.view, right)
        types[kind if kind == MULTI_CHOICE else FREE_FORM].add(response.view, right)
    return OriginalMathverse(
        **dict(everything.done()), type={kind: tallies.done() for kind, tallies in types.items()}
    )


def with_figures(
    summary: Summary,
    problems: Mapping[str, ProblemRow],
    responses: Iterable[Response],
    grades: Iterable[GradeRow],
    other_files: Mapping[str, Mapping[str, int]] | None = None,
) -> Summary:
    """The summary with these figures, as `original` of its part `mathverse`.

    An import of MathVerse's has no other files.
    """
    assert summary.mathverse is not None, "its problems are MathVerse's"
    original = mathverse_figures(problems, responses, grades)
    return summary.model_copy(
        update={"mathverse": summary.mathverse.model_copy(update={"original": original})}
    )


def mathverse_lines(figures: OriginalMathverse) -> list[str]:
    """The figures in the original's own words, digits and order, as `--full` prints them."""
    lines = ["", "========== SUMMARY =========="]
    for title, part in (
        ("Overall", figures.overall),
        ("Vision", figures.vision),
        ("Text", figures.text),
    ):
        lines.append(f"{title:<7} ACC: {_share(part)}")
    lines += ["", "========== SUMMARY BY QUESTION TYPE =========="]
    for kind, of_type in sorted(figures.type.items()):
        lines += ["", f"[{kind.upper()}] ACC: {_share(of_type.overall)}"]
        for title, part in (("Vision", of_type.vision), ("Text", of_type.text)):
            if part.total:
                lines.append(f"{title:<7} ACC: {_share(part)}")
        lines += [f"Accuracy by problem_version ({kind.upper()}):", *_versions(of_type)]
    return [*lines, "", "========== ACCURACY BY PROBLEM VERSION ==========", *_versions(figures)]


def print_mathverse(figures: OriginalMathverse) -> None:
    """Print them."""
    show("\n=== as the original's eval-results.py --full prints it ===", end="")
    show("\n".join(mathverse_lines(figures)))


def _versions(part: OriginalSets) -> list[str]:
    return [
        f"  {version:<15}: {_share(bucket)}" for version, bucket in sorted(part.versions.items())
    ]


def _share(bucket: RightOf) -> str:
    correct, total = bucket.correct, bucket.total
    return f"{correct}/{total} = {correct / total:.2%}" if total else "n/a"
