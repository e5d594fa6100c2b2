"""The report: its numbers, what it says of unfinished runs, and the page in a real browser."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from PIL import Image
from rich.console import Console
from written_runs import CONDITIONS, HOSTILE, SAID, both, write_run, write_stage

from modgap.analysis.results import (
    JudgeCheck,
    JudgeSummary,
    JudgeTable,
    PairTable,
    Summary,
    read_summary,
)
from modgap.analysis.scores import Scores
from modgap.analysis.summary import summarise
from modgap.cli.data import print_check
from modgap.core.errors import UserError
from modgap.core.record import ProblemRow, RunFolder
from modgap.core.text import counted
from modgap.core.view import ALL_VIEWS
from modgap.datasets.faults import Fault, Report
from modgap.reporting import tables
from modgap.reporting.collect import collect
from modgap.reporting.figures import COLOURS
from modgap.reporting.judged import doubt_words
from modgap.reporting.page import build_report, csv_text, latex
from modgap.reporting.paper import RECIPES, model_size, paper_tables
from modgap.reporting.terminal import print_numbers, print_summary
from modgap.reporting.viewer import embed_json


def summary_of(run: RunFolder, samples: int | None = None) -> Summary:
    return summarise(run.problems(), run.responses(), run.grades(), samples)


# The numbers


def test_counts_share_one_denominator_and_an_error_is_not_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"a": both("cwnE", "wwww"), "b": both("cccc", "cwww")})
    view = summary_of(run).views["full-text"]
    assert (
        (view.correct, view.wrong, view.no_answer, view.error) == view.by_outcome() == (5, 1, 1, 1)
    )
    assert view.n_samples == sum(view.by_outcome()) == 8
    assert view.accuracy == 5 / 8
    assert view.truncated == 1
    assert any(
        "could not be graded, which count as not right: full-text 1 of 8" in words
        for words in summary_of(run).warnings
    )


def test_gap_is_text_minus_vision_and_its_table_adds_up(tmp_path: Path) -> None:
    run = write_run(
        tmp_path,
        {
            "a": both("cc", "cc"),
            "b": both("cc", "ww"),
            "c": both("cw", "cc"),
            "d": both("nn", "ww"),
        },
    )
    gap = summary_of(run).gap
    assert gap.points == pytest.approx(100 * (5 / 8 - 4 / 8))
    assert gap.table == PairTable(
        both=1, text_only=1, vision_only=1, neither=1
    )  # half right is not right
    assert gap.ci_low <= gap.points <= gap.ci_high


def test_unfinished_problems_leave_the_pair_and_the_summary_says_so(tmp_path: Path) -> None:
    run = write_run(
        tmp_path, {"a": both("cc", "ww"), "b": both("cc", "c"), "c": {"full-text": "ww"}}, samples=2
    )
    summary = summary_of(run, 2)
    assert summary.gap.n_problems == 1
    assert summary.views["full-text"].n_problems == 3
    assert summary.views["image-only"].n_problems == 1
    assert summary.views["image-only"].missing_samples == 3
    assert any("image-only is not finished: 3 of 6" in words for words in summary.warnings)
    assert any("over the 1 of 3 problems" in words for words in summary.warnings)


def test_samples_asked_but_made_for_no_problem_are_missing(tmp_path: Path) -> None:
    summary = summary_of(write_run(tmp_path, {"a": both("c", "w")}, samples=4), 4)
    assert summary.gap is None
    assert summary.views["full-text"].accuracy is None
    assert summary.views["full-text"].missing_samples == 3


def test_an_ungraded_response_is_missing_not_wrong(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"a": both("cc", "ww"), "b": both("cc", "cc")})
    kept = [row for row in run.grades() if row.key != ("b", "image-only", 1)]
    summary = summarise(run.problems(), run.responses(), kept)
    assert summary.views["image-only"].n_problems == 1
    assert summary.views["image-only"].missing_samples == 1


def test_majority_goes_with_the_most_frequent_answer_not_with_the_rate(tmp_path: Path) -> None:
    # Two agree on the right answer, the wrong ones differ: the vote is right although half the
    # samples are wrong.
    view = summary_of(write_run(tmp_path, {"a": both("wcwc", "nnnn")})).views
    assert view["full-text"].maj_at_k == 1.0
    assert view["image-only"].maj_at_k == 0.0
    assert view["full-text"].pass_at_k == {"1": 0.5, "2": pytest.approx(5 / 6), "3": 1.0, "4": 1.0}


def test_leaky_questions_are_reported_apart(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"a": both("cc", "cc"), "b": both("cc", "ww")})
    run.write_problems([ProblemRow(id="a", answer="5", leaky=True), ProblemRow(id="b", answer="5")])
    leaky = summary_of(run).leaky
    assert (leaky["leaky"].points, leaky["clean"].points) == (0.0, 100.0)


def test_types_carry_holm_corrected_p_values(tmp_path: Path) -> None:
    run = write_run(
        tmp_path,
        {f"{kind}{i}": both("c", "w" if kind == "x" else "c") for kind in "xy" for i in range(8)},
    )
    run.write_problems(
        ProblemRow(id=row.id, answer="5", type=row.id[0]) for row in run.problems().values()
    )
    types = {row.type: row for row in summary_of(run).types}
    assert types["x"].p_holm == pytest.approx(2 * types["x"].p_value)
    assert types["y"].points == 0


def test_summary_is_json_without_nan(tmp_path: Path) -> None:
    for number, verdicts in enumerate(
        ({"a": both("n", "n")}, {"a": {"image-only": "e"}}, {"a": both("c", "c")})
    ):
        json.dumps(
            summary_of(write_run(tmp_path / str(number), verdicts)).model_dump(mode="json"),
            allow_nan=False,
        )


# What a reader must know before the numbers


def printed(summary: Summary, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_summary(summary, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined]


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
    return " ".join(
        build_report([tmp_path / name for name in runs], tmp_path / "r.html").headline.lede
    )


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


def test_there_is_no_share_of_a_gap_that_may_not_be(tmp_path: Path) -> None:
    turned = {f"t{i}": both("ww", "cc") for i in range(12)}  # as many the other way round
    run = write_run(tmp_path / "run", MORE_LOST | turned, said=MORE_SAID, conditions=CONDITIONS)
    headline = build_report([run.path], tmp_path / "r.html").headline
    assert "of it is reading" not in headline.title
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
    lede = " ".join(build_report([run.path], tmp_path / "r.html").headline.lede)
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
    numbers = build_report(
        [tmp_path / name for name in ("mv", "syn", "again")], tmp_path / "r.html"
    )
    [note] = [
        words for words in numbers.warnings if words.startswith("Measured on different data: ")
    ]
    assert note.split(": ")[1].startswith("mv, again (5 problems") and "; syn (5 problems" in note
    lede = " ".join(numbers.headline.lede)
    assert "Smallest gap of the others: again," in lede and "syn" not in lede
    alike = build_report([tmp_path / name for name in ("mv", "again")], tmp_path / "r.html")
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
    assert build_report([run.path], tmp_path / "r.html").warnings == found
    assert ("Note: The judge" in printed(read_summary(run.path))) == bool(found)


# Reading or reasoning

LOST = {name: both("cc", "ww") for name in SAID}
MORE_SAID = {f"{name}-{i}": words for name, words in SAID.items() for i in range(4)}
MORE_LOST = {name: both("cc", "ww") for name in MORE_SAID}


def test_lost_problems_are_misread_or_read_right_and_what_cannot_be_read_counts_apart(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path, LOST, said=SAID, conditions=CONDITIONS)
    reading = summary_of(run).reading
    assert reading.source == "image-only"
    assert (reading.n_problems, reading.misread, reading.read_right) == (4, 2, 1)
    assert (reading.unreadable, reading.nothing_to_read) == (1, 0)
    assert reading.share_misread == pytest.approx(2 / 3)  # of the three that could be read
    assert reading.ci_low < 2 / 3 < reading.ci_high
    assert (reading.values.misread, reading.values.read_right) == (1, 2)
    assert reading.solved.n_problems == 0
    title = build_report([tmp_path], tmp_path / "r.html").headline.title
    assert "reading" not in title  # 3 problems tell too little for a share
    run = write_run(tmp_path / "more", MORE_LOST, said=MORE_SAID, conditions=CONDITIONS)
    assert build_report([run.path], tmp_path / "r.html").headline.title.endswith(
        "; 33 to 67% of it is reading"
    )


def test_problems_solved_in_both_views_are_read_by_the_same_rule(tmp_path: Path) -> None:
    solved = {f"{name} too": both("cc", "cc") for name in SAID}
    said = SAID | {f"{name} too": text for name, text in SAID.items()}
    run = write_run(tmp_path, LOST | solved, said=said, conditions=CONDITIONS)
    reading = summary_of(run).reading
    solved_part = reading.solved
    assert (
        (solved_part.misread, solved_part.read_right)
        == (reading.misread, reading.read_right)
        == (2, 1)
    )
    assert solved_part.unreadable == reading.unreadable == 1
    lede = " ".join(build_report([tmp_path], tmp_path / "r.html").headline.lede)
    assert (
        "By the same rule it misread 2 of 3 problems that it solves in both views (1 in their"
        " numbers)." in lede
    )


def test_of_a_lost_problem_only_its_wrong_samples_are_read(tmp_path: Path) -> None:
    run = write_run(
        tmp_path, {"a": both("ccc", "wwc")}, said={"a": SAID["right"]}, conditions=CONDITIONS
    )
    rows = list(run.responses())
    rows = [
        r.model_copy(update={"response": SAID["numbers"]}) if r.sample == 2 else r for r in rows
    ]
    reading = summarise(run.problems(), rows, run.grades()).reading
    assert (reading.misread, reading.read_right) == (0, 1)


def test_the_view_transcribe_is_what_tells_if_it_is_there(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"a": both("cc", "ww") | {"transcribe": "ww"}}, conditions=CONDITIONS)
    rows = [
        row.model_copy(
            update={"response": SAID["right" if row.view == "transcribe" else "numbers"]}
        )
        for row in run.responses()
    ]
    reading = summarise(run.problems(), rows, run.grades()).reading
    assert (reading.source, reading.read_right) == ("transcribe", 1)


def test_without_conditions_or_without_words_nothing_is_said_of_reading(tmp_path: Path) -> None:
    for name, fields in (("a", {"said": SAID}), ("b", {"conditions": CONDITIONS})):
        run = write_run(tmp_path / name, {"right": both("cc", "ww")}, **fields)
        assert summary_of(run).reading is None
        numbers = build_report([run.path], tmp_path / f"{name}.html")
        assert "reading" not in numbers.headline.title
        hint = "--views full-text,image-only,transcribe" in (tmp_path / f"{name}.html").read_text()
        assert hint == (
            "conditions" in fields
        )  # another view helps only where there is something to compare with


def test_controls_stand_beside_the_two_views_with_what_they_tell(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"a": both("cc", "ww") | {"blank-image": "cw", "text-only": "cc"}})
    table = tables.controls_table({"run": summary_of(run)})
    assert table is not None
    assert [row[1:4:2] for row in table.rows] == [
        ("full-text", "100.0"), ("image-only", "0.0"), ("text-only", "100.0"),
        ("blank-image", "50.0"),
    ]  # fmt: skip
    assert all(row[2] for row in table.rows)
    assert set(tables.MEANINGS) == set(ALL_VIEWS)
    assert (
        tables.controls_table({"run": summary_of(write_run(tmp_path / "x", {"a": both("c", "w")}))})
        is None
    )


# Tables for papers


def test_latex_escapes_every_cell_and_keeps_the_columns(tmp_path: Path) -> None:
    name = "a_b & 50% $x$ #1 {~^\\} <|>\nnext"
    table = tables.Table(
        "100% of_it",
        ("run", "gap", "95% interval"),
        ((name, "−2.0", "−3.0 to 1.0"), ("[2]", "–", "–")),
    )
    text = latex(table, "tab:x")
    bare = re.sub(r"\\(?:text\w+\{\}|[&%$#_{}])|\$-\$", "", text)
    lines = [line for line in bare.splitlines() if line.endswith("\\\\")]
    assert [line.count("&") for line in lines] == [2, 2, 2]
    assert not re.search(r"[%$#~^<>|]|(?<!\\)_", bare)
    assert all(
        command in text for command in ("\\toprule", "\\midrule", "\\bottomrule", "{lrr}", "{[2]}")
    )


def test_csv_holds_plain_numbers_and_intervals_in_two_columns() -> None:
    rows = (('he said "a, b"', "+2.0", "−3.0 to 1.0"), ("x", "–", "–"))
    text = csv_text(tables.Table("c", ("run", "gap", "95% interval"), rows))
    assert list(csv.reader(io.StringIO(text))) == [
        ["run", "gap", "gap low", "gap high"], ['he said "a, b"', "2.0", "-3.0", "1.0"],
        ["x", "", "", ""],
    ]  # fmt: skip


def test_the_papers_tables_have_a_row_for_each_recipe_and_dashes_for_what_was_not_run(
    tmp_path: Path,
) -> None:
    study = tmp_path / "study"
    RunFolder(study).start("study", {"model": "Qwen/Qwen2.5-VL-7B-Instruct"})
    for name, model in (("base", "m"), ("no-text", "m"), ("mine", "m")):
        write_run(
            study / name / "eval", {"a": both("cc", "cw"), "b": both("cc", "ww")}, model=model
        )
    write_run(tmp_path / "x", {"a": both("cw", "ww")}, model="yaogy/qwen2_5_vl_3b_kl_curriculum")
    versions = {"text-dominant": "cc", "Text Lite": "cw", "vision_only": "ww"}
    write_run(tmp_path / "mathverse", {"a": versions}, model="Qwen/Qwen2.5-VL-3B-Instruct")
    numbers = build_report(
        [study, tmp_path / "x", tmp_path / "mathverse"],
        tmp_path / "r.html",
        template="paper",
        figures=True,
    )
    views, mathverse = paper_tables(numbers)
    cells = {row[:2]: row[2:] for row in views.rows}
    assert list(dict.fromkeys(row[0] for row in views.rows)) == ["3B", "7B"]
    assert [row[1] for row in views.rows if row[0] == "7B"] == [*RECIPES.values(), "mine"]
    assert cells["7B", "no-text"][:3] == ("100.0", "25.0", "+75.0")
    assert cells["3B", "KL + curriculum"][:3] == ("50.0", "0.0", "+50.0")
    assert set(cells["7B", "mix"]) == {"—"}
    assert {row[:2]: row[2:] for row in mathverse.rows}["3B", "no training"] == (
        "100.0",
        "50.0",
        "—",
        "—",
        "0.0",
        "—",
    )
    assert "| 7B | no-text | 100.0 | 25.0 | +75.0 |" in (tmp_path / "r.md").read_text()
    assert 'id="paper"' in (tmp_path / "r.html").read_text()
    assert (tmp_path / "r_figures" / "table-paper-1.tex").is_file()
    json.dumps(numbers.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize(
    ("model", "size"),
    [("Qwen/Qwen2.5-VL-7B-Instruct", "7B"), ("qwen2_5_vl_3b_kl_curriculum", "3B"),
     ("/models/llava-1.5-0.5b", "0.5B"),
     ("tiny", None), ("/tmp/b/run", None), ("InternVL3-78B", "78B")],
)  # fmt: skip
def test_model_sizes_are_told_from_names(model: str, size: str | None) -> None:
    assert model_size(model) == size


def test_an_unknown_template_is_named_with_the_choices(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"papers.*full, paper"):
        build_report([study], tmp_path / "r.html", template="papers")


# Folders


def test_the_model_and_the_notes_of_an_import_are_on_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": both("c", "w")}, model="some/model")
    (run.path / "import.json").write_text(json.dumps({"warnings": ["3 files match no problem."]}))
    RunFolder(tmp_path / "old").start("eval", {"model": "older/model"})
    for name in ("responses.jsonl", "grades.jsonl", "problems.jsonl"):
        text = (
            (run.path / name).read_text().replace(run.mark(), "")
        )  # as before responses had a mark
        (tmp_path / "old" / name).write_text(text)
    numbers = build_report([run.path, tmp_path / "old"], tmp_path / "r.html")
    assert numbers.warnings[0] == "run, imported: 3 files match no problem."
    assert numbers.models == {"run": "some/model", "old": "older/model"}
    assert ">some/model<" in (tmp_path / "r.html").read_text()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    out = tmp_path / "study"
    write_run(
        out / "base" / "eval", {"a": both("cc", "ww"), "b": both("cc", "ww"), "c": both("cc", "cc")}
    )
    write_run(
        out / "kl" / "eval", {"a": both("cc", "cc"), "b": both("cc", "ww"), "c": both("cc", "cc")}
    )
    write_stage(out / "kl" / "stage1", 3)
    write_stage(out / "kl" / "stage2", 2, contrastive_kl=0.5)
    return out


def test_a_study_is_read_whole_and_stages_follow_each_other(study: Path, tmp_path: Path) -> None:
    numbers = build_report([study], tmp_path / "report.html")
    assert list(numbers.runs) == ["base", "kl"]
    first, second = numbers.training["kl"]
    assert [x for x, _ in first.metrics["reward"] + second.metrics["reward"]] == [1, 2, 3, 4, 5]
    assert second.metrics["contrastive_kl"] == [(4, 0.5), (5, 0.5)]
    assert first.metrics["time.rollout"] == [(1, 1.0), (2, 1.0), (3, 1.0)]
    change = numbers.changes["kl"]
    assert change.points == pytest.approx(-100 / 3)
    assert change.n_problems == 3
    json.dumps(numbers.model_dump(mode="json"), allow_nan=False)
    assert len(collect([study]).stages[0].rollouts) == 40  # evenly spaced, however long the file


def test_runs_of_other_problems_are_not_paired(tmp_path: Path) -> None:
    write_run(tmp_path / "one", {"a": both("cc", "ww")})
    write_run(
        tmp_path / "two", {"a": both("cc", "cc")}, question="Another question of the same id."
    )
    assert build_report([tmp_path / "one", tmp_path / "two"], tmp_path / "r.html").changes == {}


def test_what_is_not_evaluated_or_graded_yet_is_said(study: Path, tmp_path: Path) -> None:
    write_stage(study / "mix" / "stage1")
    (study / "kl" / "eval" / "grades.jsonl").unlink()
    warnings = "\n".join(build_report([study], tmp_path / "r.html").warnings)
    assert "mix is trained or in training, but not evaluated yet." in warnings
    assert "kl is not graded yet: give `modgap grade " in warnings


def test_a_recipe_that_made_no_update_is_said_to_have_learned_nothing(
    study: Path, tmp_path: Path
) -> None:
    write_stage(study / "idle" / "stage1", 3, updates=0)
    write_stage(study / "idle" / "stage2", 2, updates=0)
    write_stage(study / "half" / "stage1", 3, updates=2)
    write_stage(study / "half" / "stage2", 1, updates=0)
    write_stage(study / "mix" / "stage1", 3, updates=1)
    found = [
        words
        for words in build_report([study], tmp_path / "r.html").warnings
        if "no update" in words
    ]
    assert sorted(found) == [
        "half, stage2: no update in 1 step, so this stage changed no weights.",
        "idle: no update in 5 steps, so its weights are those of the base model.",
    ]  # `kl` logs no updates, and is not judged


def test_all_that_a_folder_holds_is_shown_or_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, {"a": both("c", "w")})
    write_stage(run / "stage1", 2)
    write_run(run / "eval", {"a": both("c", "c")})
    numbers = build_report([run], tmp_path / "r.html")
    assert [summary.gap.points for summary in numbers.runs.values()] == [100.0, 0.0]
    assert list(numbers.training) == ["run"]
    assert "Reward" in (tmp_path / "r.html").read_text()
    assert not any("not shown" in words for words in numbers.warnings)
    write_run(run / "eval-hard", {"a": both("c", "w")})
    hint = f"{run} also holds runs that are not shown here, give them, too: {run / 'eval-hard'}."
    assert hint in build_report([run], tmp_path / "r.html").warnings
    assert len(build_report([run, run / "eval-hard"], tmp_path / "r.html").runs) == 3
    assert not any("not shown" in note for note in collect([run, run / "eval-hard"]).notes)


def test_a_folder_of_evaluations_is_all_of_them(tmp_path: Path) -> None:
    for name in ("second", "first"):  # as modgap eval --models leaves them, with its logs
        write_run(tmp_path / "all" / name, {"a": both("c", "w")})
        (tmp_path / "all" / f"{name}.log").write_text("$ modgap eval\n")
    manifest = tmp_path / "all" / "second" / "manifest.json"
    manifest.write_text(
        json.dumps(json.loads(manifest.read_text()) | {"created": "2020-01-01T00:00:00+0000"})
    )
    assert [run.name for run in collect([tmp_path / "all"]).evals] == [
        "second",
        "first",
    ]  # in the order of the list


def test_a_folder_of_folders_of_runs_is_told_by_their_names(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "all" / "first", {"a": both("c", "w")})
    with pytest.raises(UserError, match=r"is no run.*give the runs in it: .*first"):
        collect([tmp_path / "runs"])


def test_runs_of_one_name_keep_apart(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_run(tmp_path / name / "base" / "eval", {"a": both("c", "w")})
    names = [run.name for run in collect([tmp_path / "x", tmp_path / "y"]).evals]
    assert names == ["x/base", "y/base"]


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_what_is_no_run_is_named_in_one_line(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "thing")
    with pytest.raises(UserError, match="thing") as caught:
        collect([tmp_path / "thing"])
    assert "\n" not in str(caught.value)


# Pieces


def test_embedded_json_survives_and_cannot_leave_its_element() -> None:
    for value in (HOSTILE, "half a pair \ud800", "<!--<script>"):
        text = embed_json([value])
        assert not set("<>&\u2028\u2029") & set(text)
        assert json.loads(text) == [value]


def test_signs_and_percents() -> None:
    assert [tables.signed(x) for x in (1.25, -2.0, 0.04, -0.04, None)] == [
        "+1.2",
        "−2.0",
        "0.0",
        "0.0",
        "–",
    ]
    assert tables.interval(0.139, 0.188, 100) == "13.9 to 18.8"
    table = tables.Table("x", ("a|b", "c"), (("1", "<b>"),))
    assert table.markdown() == "| a\\|b | c |\n| --- | ---: |\n| 1 | <b> |\n"
    assert "&lt;b&gt;" in table.html()


def test_terminal_fits_80_columns_and_is_plain_in_a_pipe(study: Path, tmp_path: Path) -> None:
    numbers = build_report([study], tmp_path / "r.html")
    console = Console(file=io.StringIO(), width=80)
    print_numbers(numbers, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert numbers.headline.title in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert "\x1b" not in printed
    assert "…" not in printed


def test_the_terminal_says_of_one_run_how_much_is_reading(tmp_path: Path) -> None:
    summary = summary_of(write_run(tmp_path, MORE_LOST, said=MORE_SAID, conditions=CONDITIONS))
    for known, words in (
        (summary, "33 to 67% of it is reading\nOf the 16 problems"),
        (summary.model_copy(update={"reading": None}), ""),
    ):
        console = Console(file=io.StringIO(), width=200)
        print_summary(known, console=console)
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert printed.startswith("Text 100.0, image 0.0: gap 100.0 points, 95% interval ")
        assert words in printed
        assert ("reading" in printed) == bool(words)


def test_a_run_ends_with_the_command_of_its_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "my run", {"a": both("c", "w")})
    console = Console(file=io.StringIO(), width=40)
    print_summary(summary_of(run), "my run", console, run=run.path)
    last = console.file.getvalue().splitlines()[-1]  # type: ignore[attr-defined]
    given = shlex.split(last.removeprefix("report it: "))
    assert given == ["modgap", "report", str(run.path), "--out", str(run.path / "report.html")]
    assert "modgap report" not in printed(summary_of(run))


def test_a_run_ends_with_its_tokens_their_cost_and_what_failed(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"a": both("c", "w")})
    rows = list(run.responses())
    with (run.path / "responses.jsonl").open("w") as file:
        for number, row in enumerate(rows):
            failed = {"finish_reason": "error", "error": "HTTP 400"} if number == 0 else {}
            numbers = {"prompt_tokens": 1000, "completion_tokens": 500}
            file.write(row.model_copy(update=numbers | failed).model_dump_json() + "\n")
    console = Console(file=io.StringIO(), width=300)
    print_summary(summary_of(run), "my run", console, run=run.path, prices=(2.0, 8.0))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    n = len(rows)
    cost = n * (1000 * 2 + 500 * 8) / 1e6
    assert (
        f"Tokens: {1000 * n:,} of prompts and {500 * n:,} of responses, which cost {cost:.4g} at 2"
        " and 8 a" in said
    )
    assert (
        f"1 of {n} requests failed for good (HTTP 400): the same command makes them again." in said
    )


def test_figures_are_written_for_papers(study: Path, tmp_path: Path) -> None:
    write_stage(study / "kl" / "stage3", lr=1e-6)
    build_report([study], tmp_path / "r.html", figures=True)
    written = {path.name for path in (tmp_path / "r_figures").iterdir()}
    assert {
        "accuracy.png",
        "accuracy.svg",
        "gap.png",
        "gap.svg",
        "lengths.svg",
        "training-reward.png",
    } <= written
    page = (tmp_path / "r.html").read_text()
    assert page.count('<svg class="chart"') + page.count("<svg viewBox") > sum(
        x.endswith(".svg") for x in written
    )
    assert (
        "<b>lr</b>" in page and "training-lr.svg" not in written
    )  # what is not a main metric is on the page only
    assert {"table-gap.tex", "table-gap.csv", "table-gap.md", "table-accuracy.tex"} <= written
    assert Image.open(tmp_path / "r_figures" / "gap.png").size[0] > 800


def test_the_page_loads_nothing_and_scores_are_its_json(study: Path, tmp_path: Path) -> None:
    build_report([study], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert "</script><script>document.title" not in page


def test_scores_count_a_repeated_sample_once(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"a": both("c", "w")})
    twice = [*run.responses(), *run.responses()]
    assert Scores.of(run.problems(), twice, run.grades()).codes_PVS.shape == (1, 2, 1)


# In the browser


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three problems, one with a diagram, all responses hostile; a training stage beside them."""
    folder = tmp_path_factory.mktemp("hostile")
    Image.new("RGB", (900, 300), "white").save(folder / "diagram.png")
    fields = {
        "image": str(folder / "diagram.png"),
        "type": HOSTILE,
        "question": HOSTILE,
        "answer": HOSTILE,
    }
    names = {"<img src=x>": both("cc", "wE"), "two": both("Cw", "cc"), "three": both("cc", "cc")}
    write_run(folder / "run", names, text=HOSTILE, **fields)
    write_stage(folder / "trained")
    build_report([folder / "run", folder / "trained"], folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with Browser() as one:
        yield one


def shown(browser: Browser) -> str:
    return browser.run("document.querySelector('#detail h3').textContent")


def test_hostile_words_show_as_text_and_nothing_complains(
    hostile_page: Path, browser: Browser
) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(hostile_page)
    browser.wait("document.querySelectorAll('#detail .sample').length === 4")
    assert browser.run("document.querySelector('#detail .sample pre').textContent") == HOSTILE
    assert shown(browser) == "<img src=x>"
    assert browser.run("document.querySelectorAll('#rollouts pre')[1].textContent").startswith(
        "</script><script>"
    )
    assert browser.run("document.title").startswith("Text ")
    assert (
        browser.run("document.querySelectorAll('script, style, #detail img').length")
        == 1 + 1 + 2 + 1
    )
    assert browser.run("getComputedStyle(document.body).display") == "block"
    assert browser.run("document.querySelector('#detail img').naturalWidth") == 512  # made smaller
    assert [
        r for r in browser.requests if not r.startswith(("data:", "about:", hostile_page.as_uri()))
    ] == []
    assert browser.problems == []


def test_a_link_opens_its_problem_and_keys_move_on(hostile_page: Path, browser: Browser) -> None:
    browser.open(hostile_page, "#problem=two")
    browser.wait("document.querySelector('#detail h3')?.textContent === 'two'")
    browser.press("j")
    browser.wait("document.querySelector('#detail h3').textContent === 'three'")
    assert browser.run("location.hash") == "#problem=three"
    browser.press("k")
    browser.press("k")
    browser.wait("document.querySelector('#detail h3').textContent === '<img src=x>'")
    browser.open(hostile_page, "#problem=" + "%3Cimg%20src%3Dx%3E")
    browser.wait("document.querySelector('#detail h3')?.textContent === '<img src=x>'")


@pytest.mark.parametrize(
    ("control", "value", "left"),
    [("f-group", "t", 1), ("f-group", "b", 1), ("f-outcome", "e", 1), ("f-outcome", "cut", 2),
     ("f-search", "three", 1),
     ("f-type", "0", 3)],
)  # fmt: skip
def test_filters_keep_what_they_say(
    hostile_page: Path, browser: Browser, control: str, value: str, left: int
) -> None:
    browser.open(hostile_page)
    event = "input" if control == "f-search" else "change"
    browser.run(f"document.getElementById({control!r}).value = {value!r}")
    browser.run(f"document.getElementById({control!r}).dispatchEvent(new Event({event!r}))")
    browser.wait(f"document.querySelectorAll('#list button').length === {left}")
    assert browser.run("document.getElementById('count').textContent").startswith(
        f"{left} of" if left < 3 else "3 "
    )


def test_the_page_fits_a_phone_and_the_theme_can_be_switched(
    hostile_page: Path, browser: Browser
) -> None:
    browser.resize(390, 844)
    browser.open(hostile_page)
    browser.wait("document.querySelectorAll('#detail .sample').length")
    assert browser.run("document.documentElement.scrollWidth") == 390
    browser.resize(1280, 900)
    before = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.run("document.getElementById('theme').click()")
    assert browser.run("getComputedStyle(document.body).backgroundColor") != before
    browser.run("localStorage.clear()")


def test_two_thousand_problems_open_packed_and_stay_usable(
    tmp_path: Path, browser: Browser
) -> None:
    verdicts = {f"prob_{i}": both("cwcw", "wwcn") for i in range(2000)}
    write_run(
        tmp_path / "run",
        verdicts,
        text="By the theorem, the angle is half of its arc. " * 40 + "\\boxed{5}",
    )
    build_report([tmp_path / "run"], tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < 10_000_000  # 30 MB of responses, packed
    browser.problems.clear()
    browser.open(tmp_path / "r.html", "#problem=prob_1777")
    browser.wait("document.querySelector('#detail h3')?.textContent === 'prob_1777'")
    assert browser.run("document.querySelector('#detail .sample pre').textContent").endswith(
        "\\boxed{5}"
    )
    assert browser.run("document.querySelectorAll('#list button').length") < 60
    assert browser.problems == []


# Everybody can read it


PALETTE = re.compile(r"--([a-z-]+): light-dark\((#\w+), (#\w+)\)")
ON = {
    "paper": ("ink", "muted", "text", "vision", "control", "good", "bad", "warn", "pink", "teal"),
    "panel": ("ink", "muted", "text", "vision", "control", "good", "bad", "warn"),
    "sunk": ("ink", "muted"),
    "warn-soft": ("ink",),
    "names": ("ink",),
    "text": ("paper",),
    "vision": ("paper",),
}
"""Ground -> the inks that words have on it."""


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, as WCAG 2 defines it."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, two: str) -> float:
    bright, dim = sorted((luminance(one), luminance(two)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("theme", [1, 2], ids=["light", "dark"])
def test_words_stand_out_from_their_ground(theme: int) -> None:
    css = (files("modgap.reporting") / "templates" / "report.css").read_text()
    colours = {match[1]: match[theme + 1] for match in PALETTE.finditer(css)}
    weak = {
        f"{ink} on {ground}": round(value, 2)
        for ground, inks in ON.items()
        for ink in inks
        if (value := contrast(colours[ink], colours[ground])) < 4.5
    }
    assert weak == {}
    assert contrast(colours["strong"], colours["panel"]) >= 3  # borders of controls


def test_charts_have_the_colours_of_the_page() -> None:
    css = (files("modgap.reporting") / "templates" / "report.css").read_text()
    by_day = {match[1]: match[2] for match in PALETTE.finditer(css)}
    assert {name: by_day.get(name) for name in COLOURS} == COLOURS


CHARTS = """
[...document.querySelectorAll('svg.chart')].filter(e => e.getClientRects().length).map(e => ({
    label: e.getAttribute('aria-label'), \
words: [...e.querySelectorAll('title')].map(t => t.textContent),
    sizes: [...e.querySelectorAll('text')].map(t => t.getBoundingClientRect().height),
    inks: [...e.querySelectorAll('text')].map(t => getComputedStyle(t).fill),
    right: Math.max(...[...e.querySelectorAll('text')].map(t => t.getBoundingClientRect().right)),
    strangers: [...e.querySelectorAll('use')].filter(\
u => !e.querySelector(u.getAttribute('href'))).length}))"""


def test_charts_on_a_phone_are_readable_by_day_and_night(
    study: Path, tmp_path: Path, browser: Browser
) -> None:
    build_report([study], tmp_path / "r.html")
    browser.resize(390, 844)
    browser.open(tmp_path / "r.html")
    charts = browser.run(CHARTS)
    browser.run("document.getElementById('theme').click()")
    by_night = browser.run(CHARTS)
    browser.run("localStorage.clear()")
    browser.resize(1280, 900)
    assert len(charts) >= 4
    assert all(
        min(chart["sizes"]) > 9 and chart["right"] <= 390 and chart["strangers"] == 0
        for chart in charts
    )
    assert any(
        "text-centric" in chart["label"] and "95% interval" in chart["label"] for chart in charts
    )
    assert all(words in chart["label"] for chart in charts for words in chart["words"])
    assert not any(
        set(day["inks"]) & set(night["inks"]) for day, night in zip(charts, by_night, strict=True)
    )


@pytest.mark.parametrize(
    "name", ["$x$ 100%", "a\x1bb\x01", "<b>&'\"", "模型", "a_b\\alpha", "w" * 80, "-", "😀"]
)
def test_a_run_of_any_name_has_its_chart(name: str, tmp_path: Path) -> None:
    for run in (name, "other"):
        write_run(tmp_path / "runs" / run, {"a": both("cc", "ww"), "b": both("cw", "cc")})
    numbers = build_report([tmp_path / "runs"], tmp_path / "r.html")
    assert set(numbers.runs) == {name, "other"}
    label = f"{name}: text-centric 75.0 percent"
    assert label in html.unescape((tmp_path / "r.html").read_text())


OUTLINE = "[...document.querySelectorAll('h1, h2, h3, h4, h5')].map(h => Number(h.tagName[1]))"
NAMELESS = """
[...document.querySelectorAll(\
'button, select, input, a[href], [role=img], [role=group], img, [tabindex]')].filter(e =>
    e.getClientRects().length && !e.getAttribute('aria-label') && !e.getAttribute('alt') \
&& !e.textContent.trim()
    && ![...(e.labels || [])].some(l => l.textContent.trim())
).map(e => e.outerHTML)"""
LOOSE = """
[...document.querySelectorAll('body *')].filter(e =>
    e.textContent.trim() && e.getClientRects().length && !e.querySelector('main, header, footer')
    && !e.closest('main, header, footer, nav, .skip, script, style')
).length"""


def test_headings_labels_and_landmarks_are_in_order(
    study: Path, tmp_path: Path, browser: Browser
) -> None:
    hard = {
        "a": both("cc", "ww") | {"transcribe": "ww"},
        "b": both("cc", "cc") | {"transcribe": "ww"},
    }
    write_run(tmp_path / "read", hard, text=SAID["names"], conditions=CONDITIONS)
    for runs in ([tmp_path / "read"], [study, tmp_path / "read"]):
        build_report(runs, tmp_path / "r.html", template="paper")
        browser.open(tmp_path / "r.html")
        browser.wait("document.querySelectorAll('#detail .sample').length")
        browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        levels = browser.run(OUTLINE)
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert browser.run(NAMELESS) == []
        assert browser.run(LOOSE) == 0
        ids = browser.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(set(ids)) == len(ids)
        assert (
            browser.run(
                "[...document.querySelectorAll('th')].filter(e => !e.textContent.trim()).length"
            )
            == 0
        )
        assert browser.run("document.documentElement.lang") == "en"


def test_lost_problems_can_be_filtered_by_how_they_were_read(
    tmp_path: Path, browser: Browser
) -> None:
    write_run(tmp_path / "run", LOST, said=SAID, conditions=CONDITIONS)
    build_report([tmp_path / "run"], tmp_path / "r.html")
    for kind in SAID:
        browser.open(tmp_path / "r.html")
        browser.run(f"document.getElementById('f-group').value = 't:{kind}'")
        browser.run("document.getElementById('f-group').dispatchEvent(new Event('change'))")
        browser.wait("document.querySelectorAll('#list button').length === 1")
        assert shown(browser) == kind
