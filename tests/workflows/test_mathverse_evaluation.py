"""MathVerse as a benchmark: what is asked of each version and how the answers sum up."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mathverse_data as made
import pytest
from asking import evaluate, evaluate_model
from folders import png
from mathverse_rows import FIVE, Rows, with_images
from PIL import Image

from modgap.cli.main import main
from modgap.core.engine import Request
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.problem import Problem
from modgap.core.prompt import INSTRUCTION, SYSTEM, Style, evaluation_prompt
from modgap.core.record import RunFolder
from modgap.core.view import VERSIONS, parse_versions
from modgap.engines.scripted import ScriptedEngine
from modgap.reporting.collect import collect
from modgap.reporting.diagrams import found_in, pictures_of_views, read_picture
from modgap.reporting.mathverse import mathverse_tables
from modgap.reporting.page import build_report, numbers_of
from modgap.reporting.viewer import viewer_data
from modgap.workflows.problems import read_problems

# ---- asking --------------------------------------------------------------------------------------


def test_paper_style_asks_the_whole_question_and_aligned_the_versions_own(data: Path) -> None:
    for problem in read_problems("mathverse", data, limit=3):
        for view in (*FIVE, "text-only"):
            paper, aligned = (
                evaluation_prompt(problem, view, style) for style in ("paper", "aligned")
            )
            whole = problem.question_of(view)
            assert (
                paper.text == f"{whole}\nYou FIRST think step-by-step inside <think></think>, "
                "then wrap the final answer in \\boxed{}."
            )
            assert (paper.system, paper.prefill) == (None, "<think>")
            author = evaluation_prompt(problem, view, "paper-author")
            assert author == replace(
                paper, text=f"{whole}\nYou should FIRST think step-by-step inside <think></think>, "
                "then wrap the final answer in \\boxed{ }."
            )  # fmt: skip
            own = problem.words_of(view)
            assert aligned.text == (f"{own}\n{INSTRUCTION}" if own else INSTRUCTION)
            assert (aligned.system, aligned.prefill) == (SYSTEM, "")
            assert paper.has_image == aligned.has_image == (view != "text-only")


def answers(rows: Rows, how: Callable[[dict[str, Any], int], str]) -> ScriptedEngine:
    by_key = {(row["problem_index"], VERSIONS[row["problem_version"]]): row for row in rows}
    return ScriptedEngine(
        lambda request, sample: how(by_key[request.problem_id, request.view], sample)
    )


def test_each_version_is_asked_with_its_own_image(data: Path, rows: Rows, tmp_path: Path) -> None:
    seen: dict[tuple[str, str], bytes | None] = {}

    def look(request: Request, sample: int) -> str:
        seen[request.problem_id, request.view] = (
            request.image().tobytes() if request.image else None
        )
        return ""

    evaluate(
        read_problems("mathverse", data, limit=2),
        ScriptedEngine(look),
        tmp_path / "run",
        views=[*FIVE, "text-only"],
    )
    for row in rows[:12]:
        shown = seen[row["problem_index"], VERSIONS[row["problem_version"]]]
        if row["image"]:
            with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
                assert shown == image.convert("RGB").tobytes()
        else:
            assert shown is None
    assert len(seen) == 12


@pytest.mark.parametrize(
    ("names", "views"),
    [
        ("text", ("text-dominant", "text-lite")),
        ("vision", ("vision-intensive", "vision-dominant", "vision-only")),
        ("vision,text", (*FIVE[2:], *FIVE[:2])),
        ("Text Lite, vision-only", ("text-lite", "vision-only")),
        ("text_only", ("text-only",)),
    ],
)
def test_versions_by_name(names: str, views: tuple[str, ...]) -> None:
    assert parse_versions(names) == views


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--problem-versions", "visual"],
            "unknown problem version 'visual': choose from text, text-dominant",
        ),
        (["--problem-versions", ","], "no problem version given"),
        (["--problem-versions", "text", "--views", "text-only"], "give one of them"),
        (
            ["--views", "full-text"],
            "no problem has the version 'full-text': the data has text-dominant",
        ),
        (["--views", "text-only"], "no problem has the version 'text-only'"),
        (
            ["--problem-versions", "text", "--benchmark", "pgps9k"],
            "only --benchmark mathverse has versions",
        ),
    ],
)
def test_bad_versions_are_one_line(
    rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    file = made.write_parquet(tmp_path / "x.parquet", with_images(rows))
    benchmark = [] if "--benchmark" in arguments else ["--benchmark", "mathverse"]
    done = main(
        [
            "eval",
            "--data",
            str(file),
            "--model",
            "tiny",
            "--out",
            str(tmp_path / "r"),
            *benchmark,
            *arguments,
        ]
    )
    assert done == 1 and words in capsys.readouterr().err and not (tmp_path / "r").exists()


def test_a_version_of_mathverses_is_no_view_of_other_problems(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'vision-only' is a version of MathVerse's"):
        evaluate(
            [Problem("p", "Find x.", "1", png())],
            answers([], lambda *_: ""),
            tmp_path / "r",
            views="vision-only",
        )


@pytest.mark.parametrize("style", ["paper", "paper-author"])
def test_the_defaults_are_the_originals(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: Style
) -> None:
    monkeypatch.setattr(
        "modgap.engines.hf.load_engine", lambda *_: ScriptedEngine(lambda *_: "\\boxed{A}")
    )
    problems = read_problems("mathverse", data, limit=2)
    evaluate_model(problems, "tiny", tmp_path / "run", EvalOptions(style=style))
    resolved = RunFolder(tmp_path / "run").manifest()["resolved"]
    assert resolved["views"] == list(FIVE)
    assert {
        key: resolved[key] for key in ("samples", "temperature", "max_tokens", "seed", "style")
    } == {
        "samples": 4, "temperature": 0.8, "max_tokens": 4096, "seed": 42, "style": style,
    }  # fmt: skip


# ---- the numbers ---------------------------------------------------------------------------------


def right_in(*views: str) -> Callable[[dict[str, Any], int], str]:
    """Right in some views; elsewhere right for the first sample of every third problem."""

    def how(row: dict[str, Any], sample: int) -> str:
        lucky = sample == 0 and int(row["problem_index"]) % 3 == 0
        right = VERSIONS[row["problem_version"]] in views or lucky
        return f"\\boxed{{{row['answer']}}}" if right else "\\boxed{E}"

    return how


def test_the_summary_is_the_arithmetic_of_the_answers(
    data: Path, rows: Rows, tmp_path: Path
) -> None:
    how = right_in("text-dominant", "text-lite", "vision-intensive")
    problems = read_problems("mathverse", data)
    summary = evaluate(
        problems, answers(rows, how), tmp_path / "run", views=[*FIVE, "text-only"], samples=2
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary.model_dump(
        mode="json"
    )
    parts = summary.mathverse
    # Problems 3 and 6 of 8 are lucky once in two samples in the views that are not all right.
    lucky = 2 * 0.5 / 8
    expected = {
        "text-dominant": 1,
        "text-lite": 1,
        "vision-intensive": 1,
        "vision-dominant": lucky,
        "vision-only": lucky,
    }
    assert {view: parts.versions[view].accuracy for view in FIVE} == pytest.approx(expected)
    assert parts.text.accuracy == 1 and parts.text.n_samples == 32 and parts.text.n_problems == 8
    assert parts.vision.accuracy == pytest.approx((1 + 2 * lucky) / 3)
    assert (
        parts.overall.accuracy == pytest.approx((3 + 2 * lucky) / 5)
        and parts.overall.n_samples == 80
    )
    assert summary.gap.points == pytest.approx(100 * (1 - parts.vision.accuracy))
    assert summary.gap.n_problems == 8 and summary.gap.vision_views == list(FIVE[2:])
    kinds = parts.question_types
    assert kinds["multi-choice"].text.n_problems == kinds["free-form"].text.n_problems == 4
    for by_name in (parts.question_types, parts.subjects):
        assert sum(part.overall.correct for part in by_name.values()) == parts.overall.correct
        assert sum(part.gap.n_problems for part in by_name.values()) == 8
    # Five versions of a problem are one cluster: all right or all wrong together says no more than
    # one version does.
    together = evaluate(
        problems,
        answers(
            rows, lambda row, _: right_in(*(FIVE if int(row["problem_index"]) % 2 else ()))(row, 1),
        ),
        tmp_path / "together", views=FIVE, samples=1,
    ).mathverse  # fmt: skip
    alone, all_five = together.versions["text-lite"], together.overall
    assert alone.accuracy == all_five.accuracy == 0.5
    assert all_five.ci_low == pytest.approx(alone.ci_low, abs=1e-9)


def test_a_version_that_some_problems_lack_is_left_out_and_said(rows: Rows, tmp_path: Path) -> None:
    some = [
        r
        for r in with_images(rows)
        if r["problem_version"] != "Text Lite" or int(r["problem_index"]) > 3
    ]
    problems = read_problems("mathverse", made.write_parquet(tmp_path / "x.parquet", some))
    summary = evaluate(problems, answers(some, right_in()), tmp_path / "run", views=FIVE, samples=1)
    assert (
        summary.views["text-lite"].n_problems == 5
        and summary.views["text-lite"].missing_samples == 0
    )
    assert summary.gap.n_problems == 5
    said = " ".join(summary.warnings)
    assert "text-lite is over 5 of 8 problems: the data has no such version of the rest." in said
    assert "not finished" not in said and "gap is over 5 problems of 8, complete" in said


def test_what_only_a_judge_can_tell_is_an_error_that_says_so(
    rows: Rows, data: Path, tmp_path: Path
) -> None:
    engine = answers(rows, lambda row, _: "\\boxed{the domain is all that}")
    summary = evaluate(
        read_problems("mathverse", data), engine, tmp_path / "run", views=FIVE, samples=1
    )
    grades = RunFolder(tmp_path / "run").grades()
    waiting = [row for row in grades if row.stage == "judge"]
    assert (
        waiting
        and {row.outcome for row in waiting} == {"error"}
        and all("judge" in row.reason for row in waiting)
    )
    assert any(
        f"{len(waiting)} samples wait for a judge" in w and "--judge" in w for w in summary.warnings
    )
    assert sum(row.error for row in summary.views.values()) == len(waiting)


def test_a_text_only_run_has_no_empty_table(rows: Rows, data: Path, tmp_path: Path) -> None:
    summary = evaluate(
        read_problems("mathverse", data, limit=2), answers(rows, right_in("text-only")),
        tmp_path / "run", views="text-only", samples=1,
    )  # fmt: skip
    for narrow in (False, True):
        found = mathverse_tables({"run": summary}, narrow=narrow)
        assert found and all(table.rows for table in found)


def test_the_viewer_shows_each_picture_with_the_views_that_saw_it(
    rows: Rows, data: Path, tmp_path: Path
) -> None:
    problems = read_problems("mathverse", data, limit=2)
    evaluate(
        problems, answers(rows, right_in("text-lite")), tmp_path / "run", views=FIVE, samples=1
    )
    found = collect([tmp_path / "run"])
    [block] = viewer_data(found.evals, numbers_of(found)[1], 10)[1]
    for problem, detail in zip(problems, json.loads(block), strict=True):
        captions = [caption for _, caption in detail["m"]]
        assert captions == [
            "text-dominant, text-lite, vision-intensive, vision-dominant",
            "vision-only",
        ]
        sizes = [
            Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size
            for uri, _ in detail["m"]
        ]
        images = [
            Image.open(io.BytesIO(problem.image_bytes(view)))
            for view in ("text-lite", "vision-only")
        ]
        assert [width / height for width, height in sizes] == pytest.approx(
            [image.width / image.height for image in images], rel=0.02
        )
    # Of a file there is one picture only: the caption says whose.
    place = tmp_path / "diagram.png"
    images[1].save(place)
    run = RunFolder(tmp_path / "run")
    run.write_problems(
        row.model_copy(update={"image": str(place)}) for row in run.problems().values()
    )
    found = collect([run.path])
    [block] = viewer_data(found.evals, numbers_of(found)[1], 10)[1]
    assert [caption for _, caption in json.loads(block)[0]["m"]] == ["vision-only"]


def test_the_rows_of_a_moved_file_are_found_by_their_digests(
    rows: Rows, data: Path, tmp_path: Path
) -> None:
    problems = read_problems("mathverse", data, limit=2)
    evaluate(
        problems, answers(rows, right_in("text-lite")), tmp_path / "run", views=FIVE, samples=1
    )
    shutil.copytree(data if data.is_dir() else data.parent, tmp_path / "elsewhere")
    run = collect([tmp_path / "run"]).evals[0]
    [moved], notes = found_in([run], tmp_path / "elsewhere")
    assert notes == []
    for before, after in zip(run.problems.values(), moved.problems.values(), strict=True):
        assert before.image and after.image and after.image != before.image
        assert str(tmp_path / "elsewhere") in after.image
        views = pictures_of_views(before.image, before.views)
        there = pictures_of_views(after.image, before.views)
        assert {view: read_picture(place) for view, place in there.items()} == {
            view: read_picture(place) for view, place in views.items()
        }


def test_the_report_has_the_tables(rows: Rows, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "qwen2_5_vl_7b"
    evaluate(
        read_problems("mathverse", data), answers(rows, right_in("text-lite")), run, views=FIVE,
        samples=1, identity={"model": "Qwen/Qwen2.5-VL-7B-Instruct"},
    )  # fmt: skip
    numbers = build_report([run], tmp_path / "r.html", template="paper", figures=True)
    page = (tmp_path / "r.html").read_text()
    assert "MathVerse by side, question type and subject" in page and "Solid Geometry" in page
    [table] = numbers.paper  # nothing of PGPS9K, no table of it
    assert table.caption.startswith("MathVerse") and table.rows[0][:4] == (
        "7B",
        "no training",
        "25.0",
        "100.0",
    )
    assert (tmp_path / "r_figures" / "table-mathverse-1.csv").exists()
    # The page shows what Vision Only shows, read again out of the parquet file.
    places = [row.image or "" for row in RunFolder(run).problems().values()]
    shown = [row["image"]["bytes"] for row in rows if row["problem_version"] == "Vision Only"]
    assert [read_picture(place) for place in places] == shown
    with pytest.raises(OSError, match="holds no image"):
        read_picture(places[0].partition("#")[0] + "#999")
    assert numbers.runs["qwen2_5_vl_7b"].mathverse.text.accuracy == 0.625


def test_end_to_end_with_a_real_model(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = str(tmp_path / "run"), str(data / "testmini-00000-of-00001.parquet")
    command = [
        "eval",
        "--benchmark",
        "mathverse",
        "--data",
        file,
        "--model",
        "tiny",
        "--limit",
        "1",
        "--samples",
        "1",
    ]
    assert main([*command, "--max-tokens", "4", "--out", run]) == 0
    out = capsys.readouterr().out
    assert "vision-only" in out and "MathVerse by version" in out
    assert len(list(RunFolder(run).responses())) == 5
    assert main(["grade", run, "--mode", "paper"]) == 0
    assert "Overall ACC: 0/5 = 0.00%" in capsys.readouterr().out
