"""A report on paper, in the terminal and from folders: tables, figures, unfinished runs."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from reported_runs import MORE_LOST, MORE_SAID, printed, report_numbers, summary_of
from rich.console import Console
from written_runs import CONDITIONS, HOSTILE, both, write_run, write_stage

from modgap.analysis.scores import Scores
from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.reporting import tables
from modgap.reporting.collect import collect
from modgap.reporting.page import build_report, csv_text, latex
from modgap.reporting.paper import RECIPES, paper_tables
from modgap.reporting.terminal import print_numbers, print_summary
from modgap.reporting.viewer import embed_json

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


def test_a_study_is_read_whole_and_stages_follow_each_other(study: Path, tmp_path: Path) -> None:
    numbers = report_numbers([study])
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
    assert report_numbers([tmp_path / "one", tmp_path / "two"]).changes == {}


def test_what_is_not_evaluated_or_graded_yet_is_said(study: Path, tmp_path: Path) -> None:
    write_stage(study / "mix" / "stage1")
    (study / "kl" / "eval" / "grades.jsonl").unlink()
    warnings = "\n".join(report_numbers([study]).warnings)
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
    found = [words for words in report_numbers([study]).warnings if "no update" in words]
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
    assert hint in report_numbers([run]).warnings
    assert len(report_numbers([run, run / "eval-hard"]).runs) == 3
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
    with pytest.raises(UserError, match=r"is not a run.*give the runs in it: .*first"):
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
    numbers = report_numbers([study])
    console = Console(file=io.StringIO(), width=80)
    print_numbers(numbers, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert numbers.headline.title in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert "\x1b" not in printed
    assert "…" not in printed


def test_the_terminal_says_of_one_run_how_problems_were_read(tmp_path: Path) -> None:
    summary = summary_of(write_run(tmp_path, MORE_LOST, said=MORE_SAID, conditions=CONDITIONS))
    for known, words in (
        (summary, "\nOf the 16 problems lost in the image, 8 were misread"),
        (summary.model_copy(update={"reading": None}), ""),
    ):
        console = Console(file=io.StringIO(), width=200)
        print_summary(known, console=console)
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert printed.startswith("Text 100.0, image 0.0: gap 100.0 points, 95% interval ")
        assert words in printed
        assert ("misread" in printed) == bool(words)


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


def test_a_study_on_several_sets_is_shown_side_by_side(tmp_path: Path) -> None:
    study = tmp_path / "study"
    RunFolder(study).start("study", {"model": "Qwen/Qwen2.5-VL-7B-Instruct"})
    versions = {"base": ("cc", "ww"), "kl": ("cc", "cw")}
    for name, (text, vision) in versions.items():
        write_run(study / name / "eval", {"a": both("cc", "ww"), "b": both("cw", "ww")})
        verdicts = {"m": {"text-dominant": text, "vision-only": vision}}
        write_run(study / name / "eval-on-mathverse", verdicts, data="m")
    write_run(tmp_path / "seen", {"a": both("cc", "cc"), "b": both("cc", "cc")}, model="other-3B")
    write_run(tmp_path / "elsewhere", {"z": both("cc", "cc")}, model="other-3B")
    paths = [study, tmp_path / "seen", tmp_path / "elsewhere"]
    numbers = build_report(paths, tmp_path / "r.html", template="paper", figures=True)
    assert numbers.sets == {
        "base": {"main": "base", "mathverse": "base on mathverse"},
        "kl": {"main": "kl", "mathverse": "kl on mathverse"},
        "other-3B": {"main": "seen"},
    }
    assert numbers.changes["kl"].points == 0
    assert numbers.changes["kl on mathverse"].points == -50
    rows = list(csv.DictReader((tmp_path / "r_figures" / "table-sets.csv").open()))
    assert [row["mathverse: gap"] for row in rows] == ["100.0", "50.0", ""]
    console = Console(file=io.StringIO(), width=100)
    print_numbers(numbers, console)
    assert "The same models on every set" in console.file.getvalue()  # type: ignore[attr-defined]
    views, mathverse = paper_tables(numbers)
    shown = [row[:2] for row in mathverse.rows if set(row[2:]) != {"—"}]
    assert shown == [("7B", "no training"), ("7B", "KL")]
    assert ("other-3B", "seen") in [row[:2] for row in views.rows]


def test_a_report_on_one_set_has_no_table_of_sets(study: Path, tmp_path: Path) -> None:
    numbers = report_numbers([study])
    assert numbers.sets is None and tables.sets_table(numbers) is None
