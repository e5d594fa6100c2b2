"""Several seeds of the same studies: statistics, the runs of one table, `cells.json`, trainings."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import spec
from reported_runs import report_numbers
from rich.console import Console
from written_studies import write_recipe, write_studies

from modgap.analysis.cells import Sweep, read_cells, write_cells
from modgap.analysis.gap import paired_gap
from modgap.analysis.resampling import student_critical
from modgap.analysis.results import ReportSummary, SeedRow, SeedTable
from modgap.analysis.seed_summary import seed_numbers
from modgap.analysis.seeds import over_seeds, pooled_p_values
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.record import RunFolder
from modgap.datasets.synthetic import write_dataset
from modgap.reporting.collect import collect
from modgap.reporting.curves import averaged
from modgap.reporting.figures import draw
from modgap.reporting.page import build_report, numbers_of, write_seeds, write_tables
from modgap.reporting.sweeps import find_sweeps
from modgap.reporting.terminal import print_numbers
from modgap.workflows.study import run_study

ROOT = Path(__file__).parents[2]
POINTS = (-200.0, 200.0)


# The statistics


def crossed(
    rng: np.random.Generator, seeds: int, problems: int, sd: float, mean: float = 0.0
) -> Any:
    """Normal values with a share of each seed, of each problem, and of each pair."""
    of_seed, of_problem = rng.normal(0, sd, (seeds, 1)), rng.normal(0, 30, problems)
    return mean + of_seed + of_problem + rng.normal(0, 30, (seeds, problems))


@pytest.mark.parametrize(("seeds", "sd"), [(3, 0.0), (3, 3.0), (3, 9.0), (5, 3.0)])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds: int, sd: float) -> None:
    """However far the seeds are apart. Four standard errors of 400 simulations are 4.4 points."""
    rng = np.random.default_rng(seeds + round(sd))
    found = [over_seeds(crossed(rng, seeds, 200, sd, mean=5.0), POINTS) for _ in range(400)]
    held = np.mean([estimate.ci_low <= 5.0 <= estimate.ci_high for estimate in found])
    assert 0.905 <= held <= 0.99
    if sd == 9.0:  # what problems alone say would be far too narrow
        assert np.mean([abs(estimate.value - 5.0) <= 5.6 for estimate in found]) < 0.85


@pytest.mark.parametrize(
    ("seeds", "problems", "sds"), [(3, 200, (10.0, 5.0, 40.0)), (2, 200, (5.0, 5.0, 30.0))]
)
def test_the_interval_holds_where_problems_spread_little(
    seeds: int, problems: int, sds: tuple[float, float, float]
) -> None:
    """The noise of pairs is then much of what seeds spread; 4 standard errors of 1,000 simulations
    are 2.8 points.
    """
    rng = np.random.default_rng(seeds)
    of_problems, of_seeds, rest = sds
    held: list[bool] = []
    for _ in range(1000):
        x_SP = rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_problems, problems)
        estimate = over_seeds(x_SP + rng.normal(0, rest, (seeds, problems)), POINTS)
        held.append(estimate.ci_low <= 0 <= estimate.ci_high)
        assert (estimate.p_value < 0.05) == (not held[-1])
    assert 0.93 <= np.mean(held) <= 0.99


def test_seeds_that_agree_by_luck_leave_what_the_problems_say() -> None:
    """The noise of three seeds cancels out, so that their means are equal: still no certainty."""
    rng = np.random.default_rng(5)
    rest_SP = rng.normal(0, 30, (3, 50))
    values = 3.0 + rest_SP - rest_SP.mean(axis=1, keepdims=True)
    of_problems = student_critical(0.05, 49) * values.mean(axis=0).std(ddof=1) / 50**0.5
    estimate = over_seeds(values, POINTS)
    assert estimate.sd == pytest.approx(0)
    assert estimate.ci_high - estimate.value == pytest.approx(of_problems)
    assert over_seeds(values, POINTS, level=1 - estimate.p_value).ci_low == pytest.approx(
        0, abs=1e-4
    )


def test_the_p_value_is_the_level_at_which_the_interval_reaches_zero() -> None:
    rng = np.random.default_rng(1)
    for sd in (0.0, 4.0):
        estimate = over_seeds(values := crossed(rng, 3, 100, sd, mean=12.0), POINTS)
        assert over_seeds(values, POINTS, level=1 - estimate.p_value).ci_low == pytest.approx(
            0, abs=1e-4
        )
        assert over_seeds(-values, POINTS).p_value == pytest.approx(estimate.p_value)


def test_one_seed_is_the_bootstrap_over_problems_as_everywhere_else() -> None:
    rng = np.random.default_rng(2)
    text, vision = (rng.integers(0, 5, 40) / 4 for _ in range(2))
    one = over_seeds([100 * (text - vision)], (-100, 100), seed=42)
    gap = paired_gap(text, vision, seed=42)
    assert (one.value, one.ci_low, one.ci_high) == pytest.approx(
        (gap.points, gap.ci_low, gap.ci_high)
    )
    assert one.sd is None


def test_values_without_a_spread_do_not_break() -> None:
    same = over_seeds(np.full((3, 20), 4.0), POINTS)
    assert (same.ci_low, same.ci_high) == (4.0, 4.0) and same.p_value < 0.001
    assert over_seeds(np.zeros((3, 20)), POINTS).p_value == 1.0
    assert over_seeds([[1.0], [2.0]], POINTS).ci_low == -200
    for bad in ([], [[]], [[np.nan]]):
        with pytest.raises(ValueError, match=r"seed|finite"):
            over_seeds(bad, POINTS)


def test_a_shared_spread_of_seeds_is_ones_own_for_one_and_sees_more_for_many() -> None:
    rng = np.random.default_rng(3)
    many = [crossed(rng, 3, 200, 4.0, mean=9.0) for _ in range(6)]
    assert pooled_p_values(many[:1]) == pytest.approx([over_seeds(many[0], POINTS).p_value])
    own = [over_seeds(values, POINTS).p_value for values in many]
    assert np.median(pooled_p_values(many)) < np.median(own) / 2
    alone = [values[:1, :40] for values in many[:2]]
    assert pooled_p_values(alone) == [over_seeds(values, POINTS).p_value for values in alone]


# Runs in folders, as a study leaves them


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three studies that no test changes."""
    return write_studies(tmp_path_factory.mktemp("sweep"))


@pytest.fixture
def studies(written: list[Path], tmp_path: Path) -> list[Path]:
    """The same, for a test to change."""
    return [shutil.copytree(study, tmp_path / "sweep" / study.name) for study in written]


@pytest.fixture(scope="module")
def numbers(written: list[Path]) -> ReportSummary:
    """Of the three studies as they were written."""
    return report_numbers(written)


@pytest.fixture(scope="module")
def cells_text(written: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """`cells.json` of two seeds."""
    path = tmp_path_factory.mktemp("cells") / "cells.json"
    table_of(written[:2], path)
    return path.read_text()


def sweeps_of(paths: Sequence[Path]) -> list[Sweep]:
    """What a report puts into its tables over seeds."""
    return find_sweeps(collect(paths))


def table_of(paths: Sequence[Path], cells: Path) -> SeedTable:
    """The table over seeds as a report has it; and its `cells.json`."""
    (sweep,) = sweeps = sweeps_of(paths)
    write_cells(sweeps, cells)
    return seed_numbers(sweep)


def rows_at(paths: Sequence[Path]) -> dict[str, SeedRow]:
    """The rows of that table."""
    (sweep,) = sweeps_of(paths)
    return {row.recipe: row for row in seed_numbers(sweep).rows}


def rows_of(numbers: ReportSummary) -> dict[str, SeedRow]:
    (table,) = numbers.seeds
    return {row.recipe: row for row in table.rows}


def test_studies_that_differ_in_the_seed_make_one_table(numbers: ReportSummary) -> None:
    rows = rows_of(numbers)
    assert list(rows) == [
        "base",
        "full-text",
        "kl",
        "full-text-continued",
    ]  # in the order of the registry
    assert rows["base"].seeds == [] and rows["base"].change is None
    for name, steps, seconds in (("full-text", 2, 2), ("kl", 4, 6), ("full-text-continued", 4, 6)):
        row = rows[name]
        assert (row.seeds, row.steps, row.seconds) == ([0, 1, 2], steps, seconds)
        runs = [numbers.runs[f"seed{seed}/{name}"].gap for seed in range(3)]
        assert list(row.gap.seeds) == pytest.approx([gap.points for gap in runs])
        assert row.text.value == pytest.approx(np.mean([gap.text_accuracy for gap in runs]))
        changes = [numbers.changes[f"seed{seed}/{name}"].points for seed in range(3)]
        assert row.change.gap.value == pytest.approx(np.mean(changes))
        assert row.change.gap.p_value <= row.change.gap.p_holm
    (control,) = numbers.seeds[0].controls
    assert (control.recipe, control.control, control.seeds) == (
        "kl",
        "full-text-continued",
        [0, 1, 2],
    )
    difference = rows["kl"].gap.value - rows["full-text-continued"].gap.value
    assert control.change.gap.value == pytest.approx(difference)
    json.dumps(numbers.model_dump(mode="json"), allow_nan=False)


def test_the_best_of_several_seeds_is_not_the_headline(written: list[Path], tmp_path: Path) -> None:
    numbers = build_report(written, tmp_path / "r.html")
    said = " ".join(numbers.headline.lede)
    assert "Smallest gap" not in said and "seed1" not in said
    assert "The gap is smaller than the base model's beyond chance after kl (−" in said
    assert "has no interval" not in " ".join(numbers.warnings)  # the base model again is no change
    page = (tmp_path / "r.html").read_text()
    assert 'id="seeds"' in page
    charts = draw(numbers)
    lines = [
        line
        for name in ("seeds-accuracy", "seeds-change")
        for line in charts[name].figure.axes[0].lines
    ]
    assert sum(len(line.get_xydata()) for line in lines if line.get_marker() == "|") == 3 * 3 * 3
    shown = io.StringIO()
    print_numbers(numbers, Console(width=80, file=shown))
    said = shown.getvalue()
    assert (
        all(len(line) <= 80 for line in said.splitlines())
        and "The 12 runs one by one are on the page." in said
    )
    assert "\nfull-text-continued  " in said


def test_one_seed_makes_no_table_over_seeds(tmp_path: Path) -> None:
    numbers = build_report(write_studies(tmp_path / "s", 1), tmp_path / "r.html")
    assert numbers.seeds == [] and 'id="seeds"' not in (tmp_path / "r.html").read_text()


def test_a_folder_of_studies_is_all_of_them(written: list[Path]) -> None:
    assert rows_at([written[0].parent])["kl"].seeds == [0, 1, 2]


def test_no_seed_of_several_has_figures_of_its_own(studies: list[Path], tmp_path: Path) -> None:
    for path in tmp_path.rglob("problems.jsonl"):
        rows = RunFolder(path.parent).problems().values()
        RunFolder(path.parent).write_problems(
            row.model_copy(update={"type": "xy"[n % 2]}) for n, row in enumerate(rows)
        )
    assert any(name.startswith("types-") for name in draw(numbers_of(collect(studies[:1]))[0]))
    figures = draw(numbers_of(collect(studies))[0], written=True)
    assert "seeds-accuracy" in figures and not any(
        name.startswith("types-") and "kl" in name for name in figures
    )


def test_cells_make_the_same_table_again_without_the_runs(
    written: list[Path], tmp_path: Path
) -> None:
    found = collect(written)
    numbers, _ = numbers_of(found)
    write_tables(numbers, tmp_path / "r_figures")
    write_seeds(numbers, found.sweeps, tmp_path / "r_figures", "modgap report")
    kept = tmp_path / "kept" / "cells.json"
    kept.parent.mkdir()
    (tmp_path / "r_figures" / "cells.json").rename(kept)
    again = build_report([kept], tmp_path / "again.html", figures=True)
    assert again.seeds == numbers.seeds and again.runs == {}
    assert (tmp_path / "again_figures" / "cells.json").read_text() == kept.read_text()
    for name in (
        "table-seeds.md",
        "table-seeds.tex",
        "table-seeds-views.csv",
        "table-seeds-controls.md",
    ):
        assert (tmp_path / "again_figures" / name).read_text() == (
            tmp_path / "r_figures" / name
        ).read_text()
    first, second = (
        (tmp_path / f"{name}_figures" / "seeds.md").read_text() for name in ("r", "again")
    )
    assert (
        first.splitlines()[4:] == second.splitlines()[4:]
        and f"`modgap report {kept} --out" in second
    )
    assert (tmp_path / "again_figures" / "seeds-accuracy.svg").exists()
    page = (tmp_path / "again.html").read_text()
    assert (
        "base: Text 68.8, image 43.8: gap 25.0" in again.headline.title
        and 'id="seeds"' in page
        and 'id="accuracy"' not in page
    )
    assert '"p0", "p1"' in kept.read_text() and "response" not in kept.read_text().replace(
        "response_tokens", ""
    )


def test_recipes_that_differ_in_their_term_are_compared_with_the_first(
    studies: list[Path], tmp_path: Path
) -> None:
    for seed in (1, 2):
        write_recipe(studies[seed], "kl-unclamped", seed, (0.85, 0.6))
    numbers = build_report(studies, tmp_path / "r.html")  # the changed studies
    rows = {(row.recipe, row.control): row for row in numbers.seeds[0].controls}
    assert {pair: (row.kind, row.seeds) for pair, row in rows.items()} == {
        ("kl", "full-text-continued"): ("without", [0, 1, 2]),
        ("kl-unclamped", "full-text-continued"): ("without", [1, 2]),
        ("kl-unclamped", "kl"): ("other", [1, 2]),
    }
    other, gaps = (
        rows["kl-unclamped", "kl"],
        {row.recipe: row.gap.seeds for row in numbers.seeds[0].rows},
    )
    mean = np.mean(np.subtract(gaps["kl-unclamped"], gaps["kl"][1:]))
    assert other.change.gap.value == pytest.approx(mean)
    assert (
        "What is different in that term of kl-unclamped changes the gap by +"
        in (tmp_path / "r.html").read_text()
    )


def test_a_kept_table_goes_on_with_further_seeds(studies: list[Path], tmp_path: Path) -> None:
    def table(*paths: Path) -> SeedTable:
        found = table_of(paths, tmp_path / "grown.json")
        # A study by itself names its runs without its own name.
        rows = [row.model_copy(update={"runs": []}) for row in found.rows]
        return found.model_copy(update={"rows": rows})

    whole = table(*studies)
    table_of(studies[:2], cells := tmp_path / "cells.json")
    assert table(cells, studies[2]) == whole
    assert table(tmp_path / "grown.json") == whole
    twice = table(cells, *studies)
    assert [row.seeds for row in twice.rows[1:]] == [[0, 1, 2]] * 3
    assert sum("is there twice" in note for note in twice.notes) == 6
    rows = rows_at([cells, studies[2]]).values()
    assert [row.seeds for row in rows] == [row.seeds for row in whole.rows]


def test_the_csv_has_no_stars(numbers: ReportSummary, tmp_path: Path) -> None:
    write_tables(numbers, tmp_path / "r_figures")
    assert "*" in (tmp_path / "r_figures" / "table-seeds.md").read_text()
    assert "*" not in (tmp_path / "r_figures" / "table-seeds.csv").read_text()


def test_other_settings_are_another_row_that_says_what_differs(
    studies: list[Path], tmp_path: Path
) -> None:
    for seed in range(2):
        write_recipe(
            tmp_path / f"strong{seed}", "kl", seed, (0.9, 0.8), "kl_coef=0.1", "stage2.lr=0.5"
        )
    rows = rows_at([*studies, tmp_path / "strong0", tmp_path / "strong1"])
    assert rows["kl (kl_coef=0.01, stage2.lr=1e-06)"].seeds == [0, 1, 2]
    assert rows["kl (kl_coef=0.1, stage2.lr=0.5)"].seeds == [0, 1]


def test_what_was_evaluated_otherwise_is_no_seed(studies: list[Path], tmp_path: Path) -> None:
    write_recipe(tmp_path / "other", "kl", 5, (0.9, 0.4), temperature=0.1)
    assert rows_at([*studies, tmp_path / "other"])["kl"].seeds == [0, 1, 2]


def test_an_unfinished_run_and_a_seed_that_comes_twice_are_left_out_and_named(
    studies: list[Path], tmp_path: Path
) -> None:
    responses = studies[1] / "kl" / "eval" / "responses.jsonl"
    responses.write_text("".join(responses.read_text().splitlines(keepends=True)[:-2]))
    write_recipe(tmp_path / "again", "full-text", 2, (0.9, 0.4))
    numbers = report_numbers([*studies, tmp_path / "again"])
    assert rows_of(numbers)["kl"].seeds == [0, 2] and rows_of(numbers)["full-text"].seeds == [
        0,
        1,
        2,
    ]
    said = "\n".join(numbers.warnings)
    assert "seed1/kl is not in the table over seeds: it has 23 of its 24 problems complete" in said
    assert (
        "Seed 2 of full-text is there twice: seed2/full-text counts, again/full-text does not."
        in said
    )
    assert numbers.seeds[0].controls[0].seeds == [0, 2]


def test_curves_are_means_over_seeds(numbers: ReportSummary) -> None:
    assert len(numbers.training) == 9
    curves = averaged(numbers.training, numbers.seeds)
    assert sorted(curves) == ["full-text", "full-text-continued", "kl"]
    assert [part.metrics["reward"] for part in curves["kl"]] == [
        [(1, 1.0), (2, 1.0)],
        [(3, 1.0), (4, 1.0)],
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "[", "cannot be read as JSON"),
        (
            lambda text: text.replace("modgap cells 1", "modgap cells 9"),
            "is not a file of 'modgap cells 1'",
        ),
        (lambda text: "{}", "is not a file of"),
        (lambda text: text.replace('"p0", ', ""), "not the counts of 23 problems"),
        (
            lambda text: text.replace('"samples": 2', '"samples": 1'),
            "not the counts of 24 problems with 1 sample",
        ),
        (lambda text: text.replace('"untrained"', '"x"'), "is damaged"),
        (lambda text: text.replace('"steps": ', '"steps": 1'), "was changed after"),
        (lambda text: text.replace('"image-only": "', '"other": "'), "has no view image-only"),
    ],
)
def test_a_damaged_file_of_cells_is_named(
    cells_text: str, tmp_path: Path, change: Any, words: str
) -> None:
    cells = tmp_path / "cells.json"
    cells.write_text(change(cells_text))
    with pytest.raises(UserError, match=words) as error:
        read_cells(cells)
    assert "\n" not in str(
        error.value
    ) and "cells.json that modgap report RUNS --figures wrote" in str(error.value)


# Real trainings


@pytest.mark.slow  # quick: written studies have the manifests that `training.setup.identity` makes
def test_real_studies_of_two_seeds_make_a_table(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", 8, 2, seed=3, workers=1)
    settings = (
        "steps=1", "prompts_per_step=1", "mini_batch=1", "samples_per_prompt=2",
        "max_response_tokens=24", "overlong_buffer=0", "eval_every=0", "max_refills=0",
    )  # fmt: skip
    for seed in (0, 1):
        run_study(spec(
            tmp_path / "data", "tiny", ["full-text"], tmp_path / f"seed{seed}",
            benchmark="synthetic", settings=(*settings, f"seed={seed}"),
            options=EvalOptions(samples=1, max_tokens=24)))  # fmt: skip
    found = collect([tmp_path / "seed0", tmp_path / "seed1"])
    numbers, _ = numbers_of(found)
    rows = rows_of(numbers)
    assert list(rows) == ["base", "full-text"]
    assert rows["full-text"].seeds == [0, 1] and rows["full-text"].steps == 1
    assert rows["full-text"].seconds > 0
    write_cells(found.sweeps, tmp_path / "cells.json")
    assert numbers_of(collect([tmp_path / "cells.json"]))[0].seeds == numbers.seeds


# What is committed


def test_committed_tables_are_what_the_command_makes_today(tmp_path: Path) -> None:
    experiments = sorted((ROOT / "docs" / "experiments").glob("*/cells.json"))
    if not experiments:
        pytest.skip("no docs/experiments/*/cells.json is committed yet")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for cells in experiments:
        table = cells.with_name("table.md")
        assert table.read_text() == generate.experiment_page(cells), (
            f"{table} is out of date: make docs"
        )
        found = collect([cells])
        write_seeds(numbers_of(found)[0], found.sweeps, tmp_path, str(cells))
        made = (tmp_path / "seeds.md").read_text()
        assert made.splitlines()[3:] == table.read_text().splitlines()[3:]
