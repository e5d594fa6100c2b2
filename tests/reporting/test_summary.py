"""The numbers of a report: one denominator, gaps that add up, lost problems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reported_runs import LOST, MORE_LOST, MORE_SAID, report_numbers, summary_of
from written_runs import CONDITIONS, SAID, both, write_run

from modgap.analysis.results import (
    PairTable,
)
from modgap.analysis.summary import summarise
from modgap.core.rows import ProblemRow
from modgap.core.view import ALL_VIEWS, PARTIAL
from modgap.reporting import tables
from modgap.reporting.page import build_report

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
    assert any("over 1 complete problem of 3." in words for words in summary.warnings)
    assert any("The gap is over 1 problem of 3, complete" in words for words in summary.warnings)


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
    run = write_run(tmp_path / "more", MORE_LOST, said=MORE_SAID, conditions=CONDITIONS)
    # A count of lost problems is no share of the gap: the headline has none.
    assert "reading" not in report_numbers([run.path]).headline.title


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
    lede = " ".join(report_numbers([tmp_path]).headline.lede)
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
    assert set(tables.MEANINGS) == {*ALL_VIEWS, PARTIAL}
    # The row above may be of any view.
    assert not [words for words in tables.MEANINGS.values() if "the same" in words]
    assert (
        tables.controls_table({"run": summary_of(write_run(tmp_path / "x", {"a": both("c", "w")}))})
        is None
    )
