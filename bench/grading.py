r"""Ours against mathruler, math-verify and the original's rules: verdicts and time on the labelled
pairs of the tests.

python bench/grading.py [--repeat N] [--floods]
        prints Markdown; docs/lab/grading.md shows a run of it
    [--math-verify DIR] [--mathruler DIR] [--easyr1 DIR]
        checkouts of other graders: also the pairs that they publish
    [--oracles-only] [--details]
        only those; and each pair that is not accepted

The pairs are ours, the labels state what a reader would say under the strict rule (5e-3 for
numbers), so that the figures for our own graders say that they do what they are meant to, and those
for the others what they miss and why. The original's rules are our mode `paper`, which gives its
verdicts (see docs/lab/grading.md). Pairs that never come back from sympy (`9**9**9`) are left out
for all. math-verify runs in this process's main thread, as it has to.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "shared"))

import graded_answers
import grading_oracles
import mathverse_answers
from mathruler.grader import extract_boxed_content, grade_answer

from modgap.grading.answer import Mode, grade
from modgap.grading.forms import read_form
from modgap.grading.formula import evaluate
from modgap.grading.judge import JudgeMode, Undecided
from modgap.grading.mathverse import Case, grade_by_rule
from modgap.grading.notation import canonical

Verdict = bool | None
Grader = Callable[[Case], Verdict]
Pair = tuple[Case, Verdict]

HANGS = ("9**9", "99999", "9^{9")


def pgps9k_pairs() -> list[Pair]:
    rows = [
        row
        for row in graded_answers.PAIRS
        if row[2] is not None and not any(hang in row[1] for hang in HANGS)
    ]
    return [
        (Case(graded_answers.boxed(answer), gold, "", "free-form"), right)
        for gold, answer, right in rows
    ]


def mathverse_pairs() -> list[Pair]:
    case = mathverse_answers.case
    free = [
        (case(answer, gold), right) for gold, answer, right in mathverse_answers.free_form_rows()
    ]
    letters = [
        (case(box, gold, "multi-choice"), right) for gold, box, right in mathverse_answers.LETTERS
    ]
    return [pair for pair in free + letters if pair[1] is not None]


def reward_grader(mode: Mode) -> Grader:
    return lambda case: grade(case.response, case.gold, mode).correct


def mathverse_rules(mode: JudgeMode) -> Grader:
    def decide(case: Case) -> Verdict:
        result = grade_by_rule(case, mode)
        return None if isinstance(result, Undecided) else result.correct

    return decide


def mathruler(case: Case) -> Verdict:
    with contextlib.suppress(Exception):  # it raises on some answers; its users lose the run
        return grade_answer(extract_boxed_content(case.response), case.gold)
    return None


def math_verify() -> Grader:
    import math_verify as library  # pyright: ignore[reportMissingImports]

    verify: Any = library
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def decide(case: Case) -> Verdict:
        return verify.verify(
            verify.parse(f"${case.gold.replace('$', ' ')}$"), verify.parse(case.response)
        )

    return decide


def row(
    name: str, grader: Grader, pairs: Sequence[Pair], repeat: int
) -> tuple[str, list[Verdict], float, float]:
    verdicts = [grader(case) for case, _ in pairs]  # warm
    times = []
    for case, _ in pairs:
        best = float("inf")
        for _ in range(repeat):
            for cached in (canonical, evaluate, read_form):
                cached.cache_clear()  # a run meets an answer once
            start = time.perf_counter()
            grader(case)
            best = min(best, time.perf_counter() - start)
        times.append(best * 1e3)
    return name, verdicts, statistics.mean(times), max(times)


def table(title: str, pairs: Sequence[Pair], graders: dict[str, Grader], repeat: int) -> None:
    rows = [
        row(name, grader, pairs, repeat if "math-verify" not in name else 1)
        for name, grader in graders.items()
    ]
    reference = rows[0][2]
    right = sum(label is True for _, label in pairs)
    print(f"### {title}: {right} right answers, {len(pairs) - right} wrong ones\n")
    heads = (
        "grader,agrees with the labels,right for what is wrong,wrong for what is"
        " right,undecided,time,mean ms,worst ms"
    )
    print(f"| {heads.replace(',', ' | ')} |\n|{' --- |' * 8}")
    for name, verdicts, mean, worst in rows:
        labels = [label for _, label in pairs]
        agree = sum(v == label for v, label in zip(verdicts, labels, strict=True)) / len(labels)
        false_right = sum(
            v is True and label is False for v, label in zip(verdicts, labels, strict=True)
        )
        false_wrong = sum(
            v is False and label is True for v, label in zip(verdicts, labels, strict=True)
        )
        undecided = sum(v is None for v in verdicts)
        print(
            f"| {name} | {agree:.1%} | {false_right} | {false_wrong} | {undecided} "
            f"| {mean / reference:.1f}x | {mean:.3f} | {worst:.2f} |"
        )
    print()


def floods() -> None:
    print("### Floods: hostile responses of up to 100 kB, the slowest of each grader\n")
    print("| grader | slowest flood | ms |\n| --- | --- | --- |")
    for mode in ("strict", "relative", "exact", "paper"):
        worst = max(
            (_best(reward_grader(mode), text, "5.250"), name)
            for name, text in graded_answers.FLOODS.items()
        )
        print(f"| reward, {mode} | {worst[1]} | {worst[0]:.2f} |")
    for rules in ("strict", "paper"):
        texts = {name: f"\\boxed{{{text}}}" for name, text in mathverse_answers.FLOODS.items()}
        worst = max(
            (_best(mathverse_rules(rules), text, "x^2 + 2"), name) for name, text in texts.items()
        )
        print(f"| MathVerse, {rules} | {worst[1]} | {worst[0]:.2f} |")
    print(
        "\nmathruler and math-verify are not in this table: `9^{9^{9^{9}}}` and the like do not"
        " come back from sympy."
    )


def oracles(checkouts: dict[str, Path | None], details: bool) -> None:
    """The pairs that other graders publish; a checkout that was not given is named."""
    readers = {
        "Math-Verify": ("--math-verify", grading_oracles.math_verify_pairs),
        "MathRuler": ("--mathruler", grading_oracles.mathruler_pairs),
        "EasyR1": ("--easyr1", grading_oracles.easyr1_pairs),
    }
    if not any(checkouts.values()):
        print(
            "No public pairs: give checkouts with --math-verify DIR, --mathruler DIR, --easyr1"
            " DIR.\n"
        )
        return
    print("### Pairs that other graders publish, MathVerse rules, strict\n")
    heads = "pairs of,equal,accepted,open,rejected,unequal,accepted (false positives),open"
    print(f"| {heads.replace(',', ' | ')} |\n|{' --- |' * 8}")
    found = {
        name: read(folder) for name, (_, read) in readers.items() if (folder := checkouts[name])
    }
    for name, pairs in found.items():
        grading_oracles.print_oracle(name, pairs)
    print()
    for name, (option, _) in readers.items():
        if name not in found:
            print(f"No pairs of {name}: give a checkout of its repository with {option} DIR.\n")
        elif details:
            grading_oracles.print_disagreements(name, found[name])


def _best(grader: Grader, text: str, gold: str) -> float:
    times = []
    for _ in range(3):
        for cached in (canonical, evaluate, read_form):
            cached.cache_clear()
        start = time.perf_counter()
        grader(Case(text, gold, "", "free-form"))
        times.append((time.perf_counter() - start) * 1e3)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeat", type=int, default=5, help="the best of this number of counts, for each pair"
    )
    parser.add_argument("--floods", action="store_true", help="also time hostile responses")
    parser.add_argument(
        "--math-verify", type=Path, metavar="DIR", help="a checkout of huggingface/Math-Verify"
    )
    parser.add_argument(
        "--mathruler", type=Path, metavar="DIR", help="a checkout of hiyouga/MathRuler"
    )
    parser.add_argument("--easyr1", type=Path, metavar="DIR", help="a checkout of hiyouga/EasyR1")
    parser.add_argument(
        "--oracles-only", action="store_true", help="only the pairs of those checkouts"
    )
    parser.add_argument(
        "--details", action="store_true", help="also each of their pairs that is not accepted"
    )
    arguments = parser.parse_args()
    checkouts = {
        "Math-Verify": arguments.math_verify, "MathRuler": arguments.mathruler,
        "EasyR1": arguments.easyr1,
    }  # fmt: skip
    try:
        oracles(checkouts, arguments.details)
    except grading_oracles.OracleError as error:
        parser.error(str(error))
    if arguments.oracles_only:
        return
    others: dict[str, Grader] = {"mathruler": mathruler}
    if importlib.util.find_spec("math_verify"):
        others["math-verify"] = math_verify()
    ours = {f"modgap, {mode}": reward_grader(mode) for mode in ("strict", "relative", "exact")}
    original = {"the original's evaluation (`paper`)": reward_grader("paper")}
    table("PGPS9K, numbers", pgps9k_pairs(), ours | original | others, arguments.repeat)
    ours = {f"modgap, {mode}": mathverse_rules(mode) for mode in ("strict", "relative")}
    original = {"the original's rules (`paper`)": mathverse_rules("paper")}
    table(
        "MathVerse, letters and free form",
        mathverse_pairs(),
        ours | original | others,
        arguments.repeat,
    )
    if arguments.floods:
        floods()


if __name__ == "__main__":
    main()
