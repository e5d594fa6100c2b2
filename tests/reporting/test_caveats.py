"""What a reader must know before the numbers: what does not compare, what may be chance."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from reported_runs import MORE_LOST, MORE_SAID, printed, report_numbers, summary_of
from rich.console import Console
from written_runs import CONDITIONS, SAID, both, write_run

from modgap.analysis.results import (
    JudgeCheck,
    JudgeSummary,
    JudgeTable,
    read_summary,
)
from modgap.cli.data import print_check
from modgap.core.json_files import write_json
from modgap.core.text import counted
from modgap.datasets.faults import Fault, Report
from modgap.reporting.judged import doubt_words
from modgap.reporting.page import build_report
from modgap.reporting.terminal import print_numbers


def test_runs_graded_by_different_rules_are_not_compared_in_silence(tmp_path: Path) -> None:
    verdicts = {"a": both("c", "w"), "b": both("c", "c")}
    for name, mode in (("r1", "paper"), ("r2", "paper"), ("rp", "strict")):
        write_run(tmp_path / name, verdicts, mode=mode)
    numbers = build_report([tmp_path / name for name in ("r1", "r2", "rp")], tmp_path / "r.html")
    note = (
        "Graded by different rules: r1 and r2 paper, rp strict; modgap grade RUN --mode paper makes"
        " them alike."
    )
    assert note in numbers.warnings
    assert note in (tmp_path / "r.html").read_text()
    console = Console(file=io.StringIO(), width=200)
    print_numbers(numbers, console)
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert f"Note: {note}" in text
    assert "graded paper (r1, r2), strict (rp)" in text
    alike = build_report([tmp_path / name for name in ("r1", "r2")], tmp_path / "r.html")
    assert not any("rules" in words for words in alike.warnings)


def test_the_terminal_says_how_a_run_was_graded(tmp_path: Path) -> None:
    summary = summary_of(write_run(tmp_path, {"a": both("c", "w")}, mode="paper"))
    assert summary.mode == "paper"
    assert "samples by outcome; graded paper view" in " ".join(printed(summary).split())
    assert "graded" not in printed(summary.model_copy(update={"mode": ""}))  # an older one


@pytest.mark.parametrize(
    ("letters", "words", "of_two"),
    [
        ("nw", "No sample is right in either view", "No sample of two is right in either view"),
        ("cc", "The gap has no interval", "The gap of two has no interval"),
    ],
)
def test_problems_that_are_all_alike_give_no_certain_gap(
    tmp_path: Path, letters: str, words: str, of_two: str
) -> None:
    verdicts = {name: both(letters, letters) for name in "abcde"}
    summary = summary_of(write_run(tmp_path / "one", verdicts))
    assert summary.gap.degenerate is True
    assert (summary.gap.ci_low, summary.gap.ci_high) == (0.0, 0.0)
    assert "gap 0.0 points, 95% interval –\n" in printed(summary)
    assert words in printed(summary)
    write_run(tmp_path / "two", verdicts)
    numbers = build_report([tmp_path / "one", tmp_path / "two"], tmp_path / "r.html")
    assert "0.0 to 0.0" not in (tmp_path / "r.html").read_text()
    assert of_two in " ".join([*numbers.headline.lede, *numbers.warnings])
    assert "The change of the gap from one to two has no interval" in " ".join(numbers.warnings)
    assert numbers.changes["two"].degenerate is True


def test_an_interval_with_a_width_is_shown(tmp_path: Path) -> None:
    summary = summary_of(
        write_run(tmp_path, {"a": both("c", "w"), "b": both("c", "c"), "c": both("c", "c")})
    )
    assert summary.gap.degenerate is False
    assert "95% interval –" not in printed(summary)
    assert not summary.warnings


def gaps_report(tmp_path: Path, **runs: tuple[int, int]) -> str:
    """The words above a report of runs that solve so many of 10 problems in the two views."""
    for name, (text, vision) in runs.items():
        letters = {
            f"p{i}": both("c" if i < text else "w", "c" if i >= 10 - vision else "w")
            for i in range(10)
        }
        write_run(tmp_path / name, letters)
    return " ".join(report_numbers([tmp_path / name for name in runs]).headline.lede)


def test_the_smallest_gap_is_the_one_nearest_to_zero(tmp_path: Path) -> None:
    lede = gaps_report(tmp_path, base=(8, 4), turned=(3, 6), small=(6, 5))
    assert "Smallest gap of the others: small, 10.0 points (text 60.0, image 50.0)." in lede
    assert "Mind that small is 20.0 points less accurate from text" in lede


def test_a_negative_gap_is_put_into_words(tmp_path: Path) -> None:
    lede = gaps_report(tmp_path, base=(1, 9), turned=(1, 8), large=(10, 2))
    assert lede.count("It answers better from the image than from text.") == 1
    assert (
        "Smallest gap of the others: turned, −70.0 points (text 10.0, image 80.0, so it answers"
        " better from the image than from text)." in lede
    )


def test_a_negative_gap_that_may_be_chance_is_not_put_into_words(tmp_path: Path) -> None:
    lede = gaps_report(tmp_path, base=(4, 5), other=(4, 5), large=(9, 2))
    assert "Smallest gap of the others: other, −10.0 points (text 40.0, image 50.0)." in lede
    assert "The interval holds 0" in lede and "better from the image" not in lede


def test_counts_of_misread_problems_stay_where_the_gap_may_not_be(tmp_path: Path) -> None:
    turned = {f"t{i}": both("ww", "cc") for i in range(12)}  # as many the other way round
    run = write_run(tmp_path / "run", MORE_LOST | turned, said=MORE_SAID, conditions=CONDITIONS)
    headline = report_numbers([run.path]).headline
    assert "Of the 16 problems lost in the image" in " ".join(headline.lede)  # the counts stay


def test_one_is_no_plural(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_check(
        Report(tmp_path, {}, [Fault("train.json", "p", "odd", "is odd", severity="warning")])
    )
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 errors, 1 warning in ")
    run = write_run(
        tmp_path / "run",
        {"a": both("c", "w")},
        said=SAID | {"a": SAID["names"]},
        conditions=CONDITIONS,
    )
    lede = " ".join(report_numbers([run.path]).headline.lede)
    assert "Over 1 problem with 1 sample in each view." in lede
    assert "Of the 1 problem lost in the image, 1 was misread" in lede
    assert [counted(n, "sample") for n in (0, 1, 1200)] == [
        "0 samples",
        "1 sample",
        "1,200 samples",
    ]


def test_gaps_of_one_size_are_all_named_and_a_blank_run_has_none(tmp_path: Path) -> None:
    lede = gaps_report(tmp_path, base=(8, 4), one=(5, 4), two=(4, 5), blank=(0, 0))
    assert (
        "Smallest gaps of the others: one, 10.0 points (text 50.0, image 40.0) and two, −10.0"
        " points" in lede
    )
    assert "No sample of blank is right in either view, so there is no gap to see." in lede


@pytest.mark.parametrize("marks", [("aaaa", "bbbb"), (None, None)])
def test_runs_of_different_data_are_not_compared_in_silence(
    tmp_path: Path, marks: tuple[str | None, ...]
) -> None:
    kinds = {"syn": "s", "mv": "m", "again": "m"}  # the first and the last have the smaller gaps
    for name, kind in kinds.items():
        verdicts = {
            f"{kind}{i}": both("c", "w" if kind == "m" and i < 3 else "c") for i in range(5)
        }
        write_run(tmp_path / name, verdicts, data=marks["sm".index(kind)])
    numbers = report_numbers([tmp_path / name for name in ("mv", "syn", "again")])
    [note] = [
        words for words in numbers.warnings if words.startswith("Measured on different data: ")
    ]
    assert note.split(": ")[1].startswith("mv, again (5 problems") and "; syn (5 problems" in note
    lede = " ".join(numbers.headline.lede)
    assert "Smallest gap of the others: again," in lede and "syn" not in lede
    alike = report_numbers([tmp_path / name for name in ("mv", "again")])
    assert not any("different data" in words for words in alike.warnings)


def verdicts_of(
    open_: tuple[int, int],
    table: tuple[int, int, int, int],
    kappa: float | None,
    judge: str | None = "openai:j",
) -> JudgeSummary:
    """A summary's `judge`: right and wrong of what rules leave open, the 2x2 table and kappa."""
    both_right, rules_only, judge_only, both_wrong = table
    cells = JudgeTable(
        both_right=both_right, rules_only=rules_only, judge_only=judge_only, both_wrong=both_wrong
    )
    check = JudgeCheck(
        samples=sum(table), seed=0, unreadable=0, failed=0, table=cells, agreement=0.5, kappa=kappa,
        stages={},
    )  # fmt: skip
    return JudgeSummary(
        judge=judge, samples=sum(open_), consistent=open_[0], different=open_[1], unreadable=0,
        failed=0, waiting=0, check=check,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        (verdicts_of((60, 0), (16, 0, 84, 0), 0.0), "The judge called all 160 answers right"),
        (verdicts_of((0, 60), (0, 0, 0, 0), None), "The judge called all 60 answers wrong"),
        (
            verdicts_of((30, 30), (30, 20, 25, 25), 0.1),
            "kappa 0.10; 0 is chance): do not trust the 60 verdicts",
        ),
        (verdicts_of((30, 30), (45, 5, 5, 45), 0.8), ""),
        (verdicts_of((3, 3), (3, 3, 3, 3), 0.0), ""),  # too few to tell
        (verdicts_of((5, 0), (3, 0, 0, 0), None), ""),
        (verdicts_of((60, 0), (16, 0, 84, 0), 0.0, judge=None), ""),
        (None, ""),
    ],
)
def test_a_useless_judge_draws_a_warning(
    judged: JudgeSummary | None, words: str, tmp_path: Path
) -> None:
    found = doubt_words(judged)
    assert bool(found) == bool(words) and all(words in line for line in found)
    run = write_run(tmp_path / "one", {"a": both("c", "w")})
    run.write_summary(summary_of(run).model_copy(update={"judge": judged}))
    assert report_numbers([run.path]).warnings == found
    assert ("Note: The judge" in printed(read_summary(run.path))) == bool(found)


def test_geometry3k_problems_right_from_the_image_alone_are_counted(tmp_path: Path) -> None:
    """They hint at annotations that lack a condition; of other data sets nothing is said."""
    verdicts = {
        "lacks": both("ww", "cc"), "lucky": both("ww", "cw"), "text": both("cw", "cc"),
        "lost": both("cc", "ww"), "none": both("ww", "ww"),
    }  # fmt: skip
    run = write_run(tmp_path / "run", verdicts)

    def said(benchmark: str) -> list[str]:
        manifest = run.manifest()
        manifest["given"] = {**manifest["given"], "benchmark": benchmark}
        write_json(run.manifest_path, manifest)
        return [w for w in report_numbers([run.path]).warnings if "right from the image" in w]

    for name in ("geometry3k", "geometry3k-choices"):
        (words,) = said(name)
        assert "1 of 5 problems (20.0%)" in words and words.partition(": lacks. ")[1]
    assert said("pgps9k") == []
