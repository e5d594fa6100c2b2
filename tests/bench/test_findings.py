"""bench/findings*.py: what the plan runs, and its statistics on cells with known effects."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import findings  # noqa: E402
import findings_arms  # noqa: E402
import findings_page  # noqa: E402
import findings_parts as plan  # noqa: E402
from findings_answers import answer  # noqa: E402
from findings_page import write_page  # noqa: E402
from findings_tests import (  # noqa: E402
    GAP,
    IMAGE,
    PARTS,
    QUESTIONS,
    TEXT,
    Book,
    agreement,
    books,
    effect_of,
    judged,
    spearman,
)

from modgap.analysis.cells import SeedRun, Sweep, Variant, write_cells  # noqa: E402
from modgap.core import registry  # noqa: E402
from modgap.core.transcripts import WITH_TEXT  # noqa: E402
from modgap.core.view import ALL_VIEWS, samples_of  # noqa: E402

N = 300
VIEWS = (
    TEXT, IMAGE, "own-transcription", "true-transcription", "corrupted-transcription", "text-only",
    "swapped-image", "full-text-transcription",
)  # fmt: skip


def sweep_of(
    accuracies: dict[str, dict[str, float]],
    model: str = "tiny",
    seeds: int = 3,
    views: tuple[str, ...] = VIEWS,
) -> Sweep:
    """Cells of recipes with these accuracies in views; 0.5 elsewhere. `base` is the base model."""

    def run(name: str, seed: int | None) -> SeedRun:
        rng = np.random.default_rng([seed or 0, len(name)])
        right = {
            view: rng.binomial(samples_of(view, 4), accuracies[name].get(view, 0.5), N).astype(
                np.int64
            )
            for view in views
        }
        return SeedRun(f"{name} seed {seed}", seed, 60, 1.0, right)

    variants = [
        Variant(name, {}, [{"views": [name]}], [run(name, 10 + number) for number in range(seeds)])
        for name in accuracies
        if name != "base"
    ]
    problems = [f"p{i}" for i in range(N)]
    sides = {"text": [TEXT], "vision": [IMAGE]}
    evaluation = {"samples": 4, "views": list(views), "mode": "strict"}
    return Sweep(model, "b", evaluation, problems, sides, [run("base", None)], variants)


def test_every_recipe_and_view_of_the_plan_exists() -> None:
    text = (plan.CELLS / "plan.md").read_text()
    assert len(plan.OWN) <= 12
    for study in (study for part in plan.PLAN.values() for study in part):
        for name in study.recipes:
            if name in plan.OWN:
                recipe = getattr(findings_arms, plan.OWN[name])()
                recipe.check()
                assert recipe.name == name
            else:
                assert name in registry.RECIPES
            assert f"`{name}`" in text or f"`{name}` (new)" in text, name
        assert len(set(study.wanted())) == len(study.wanted())
    # The budget of the plan: as many runs as it says.
    for part, runs in (("1", 35), ("6", 65), ("4", 50), ("3", 25), ("5", 15)):
        assert sum(len(study.wanted()) for study in plan.PLAN[part]) == runs
    swaps = [name for name, _ in plan.PLAN["2"][0].wanted() if ": " in name]
    assert len(swaps) == 110 and "full-text: tower+merger" in swaps


def test_what_is_done_is_not_run_again() -> None:
    (study,) = plan.PLAN["1"]
    nothing = findings.missing(study, set())
    assert nothing == {study.recipes: list(plan.SEEDS)}
    finished = {(name, seed) for name in study.recipes for seed in (10, 11)} - {("kl", 11)}
    assert findings.missing(study, finished) == {("kl",): [11], study.recipes: [12, 13, 14]}
    (study,) = plan.PLAN["2"]
    finished = {run for run in study.wanted() if run != ("kl: tower", 12)}
    assert findings.missing(study, finished) == {("kl",): [12]}


def test_parts_share_the_stages_that_they_train_the_same_way(tmp_path: Path) -> None:
    def job(part: str) -> findings.Job:
        return findings.Job(part, tmp_path, tmp_path, tmp_path, 0.0, 1, tmp_path, small=False)

    def stage(part: str, recipe: str, number: int) -> Path:
        return job(part).folder(plan.PLAN[part][0]) / "seed10" / recipe / f"stage{number}"

    for recipe, number in (("full-text", 1), ("kl", 2)):
        stage("1", recipe, number).mkdir(parents=True)
        (stage("1", recipe, number) / "result.json").write_text("{}")
    stage("1", "kl", 1).symlink_to(stage("1", "full-text", 1))
    for part in ("2", "4"):
        study = plan.PLAN[part][0]
        findings.link_stages(job(part), study, 10, study.recipes)
    for recipe, number in (("full-text", 1), ("kl", 2)):
        assert stage("2", recipe, number).resolve() == stage("1", recipe, number)
    assert stage("2", "kl", 1).resolve() == stage("1", "full-text", 1)
    # Part 4 trains without dynamic sampling: the same name is another training.
    assert not stage("4", "full-text", 1).exists()
    # With a first stage of its own, a second one of other weights is not taken.
    for recipe, number in (("full-text", 1), ("kl", 1), ("kl", 2)):
        stage("2", recipe, number).unlink()
    stage("2", "full-text", 1).mkdir()
    (stage("2", "full-text", 1) / "result.json").write_text("{}")
    findings.link_stages(job("2"), plan.PLAN["2"][0], 10, ("full-text", "kl"))
    assert stage("2", "kl", 1).resolve() == stage("2", "full-text", 1)
    assert not stage("2", "kl", 2).exists()


def test_swaps_without_their_checkpoint_are_made_again_with_it() -> None:
    study = plan.PLAN["2"][0]
    names = {name: {} for name in ("kl", *plan.further(("kl",)), "full-text-frozen-tower")}
    sweep = sweep_of({"base": {}, **names})
    (last,) = (variant for variant in sweep.recipes if variant.recipe == "kl: tower")
    last.runs.pop()
    found = plan.done([findings.whole(sweep, [study])], study)
    assert {seed for _, seed in found} == {10, 11, 12}
    assert {name for name, seed in found if seed == 12} == {"full-text-frozen-tower"}
    assert ("kl", 11) in found and ("kl: tower", 11) in found


def test_the_effects_of_parts_add_up_to_the_change_of_the_checkpoint() -> None:
    names = [plan.swap_name(TEXT, parts) for parts in plan.MIXED]
    book = Book([sweep_of({"base": {}, TEXT: {IMAGE: 0.3}, **{name: {} for name in names}})])
    seeds = book.seeds(TEXT, *names)
    every = sum(effect_of(book, TEXT, part, seeds) for part in PARTS)
    change = book.of(TEXT, IMAGE, seeds) - book.of("base", IMAGE, seeds)
    # Means over the settings of the other parts are halves of two-part effects: with three parts
    # they add up to the change but for the interaction of all three.
    ones = [book.of(plan.swap_name(TEXT, (part,)), IMAGE, seeds) for part in PARTS]
    twos = [
        book.of(plan.swap_name(TEXT, parts), IMAGE, seeds)
        for parts in plan.MIXED
        if len(parts) == 2
    ]
    base, full = book.of("base", IMAGE, seeds), book.of(TEXT, IMAGE, seeds)
    assert np.allclose(every, (3 * full + sum(twos) - sum(ones) - 3 * base) / 4)
    assert np.isfinite(change).all()


def test_one_part_that_forgets_is_found() -> None:
    """The image accuracy falls by 25 points wherever the language model is the trained one."""
    names = {plan.swap_name(TEXT, parts): {IMAGE: 0.3 if "language" in parts else 0.55}
             for parts in plan.MIXED}  # fmt: skip
    names |= {"base": {IMAGE: 0.55}, TEXT: {IMAGE: 0.3}}
    names |= {
        f"full-text-frozen-{part}": {IMAGE: 0.55 if part == "language" else 0.3} for part in PARTS
    }
    results = judged(QUESTIONS["2"][1], Book([sweep_of(names, seeds=5)]))
    verdicts = [result.verdict for result in results]
    assert verdicts[2] == verdicts[3] == verdicts[6] == "supported"
    assert "supported" not in (verdicts[0], verdicts[1], verdicts[4], verdicts[5])
    assert verdicts[7:] == ["not run"] * 2
    found = results[2].found
    assert found is not None and found.value == pytest.approx(-25, abs=3)


def test_reading_is_told_from_reasoning() -> None:
    reads = {
        TEXT: 0.7,
        IMAGE: 0.4,
        "own-transcription": 0.4,
        "true-transcription": 0.7,
        WITH_TEXT: 0.7,
    }
    worse = reads | {"own-transcription": 0.25, IMAGE: 0.25}
    book = Book([sweep_of({"base": reads, TEXT: worse, "no-text": reads}, seeds=5)])
    results = judged(QUESTIONS["1"][1], book)
    assert [result.verdict for result in results[:2]] == ["supported", "supported"]
    assert results[3].verdict == "not run" and "kl" in results[3].missing


def test_a_second_testbed_without_a_gap_is_not_used(tmp_path: Path) -> None:
    good = {"greedy": 0.75, "mixed": 0.4}
    views = {"full-text": good, "image-only": good | {"greedy": 0.5},
             "question-only": {"greedy": 0.02, "mixed": 0.1}}  # fmt: skip

    def faults(**changes: dict[str, float]) -> list[str]:
        (tmp_path / "figures.json").write_text(json.dumps({"views": views | changes}))
        return findings.unfit(tmp_path)

    assert faults() == []
    assert faults(**{"image-only": good | {"greedy": 0.68}}) == ["a gap of 7.0 points is below 10"]
    assert faults(**{"full-text": {"greedy": 0.95, "mixed": 0.1}}) == [
        "full-text 95.0% is not 50 to 90%", "full-text: 10.0% mixed groups are below 25%"
    ]  # fmt: skip


def test_an_answer_in_words_follows_the_rules_of_the_plan() -> None:
    base = {
        TEXT: 0.7,
        IMAGE: 0.4,
        "own-transcription": 0.4,
        "true-transcription": 0.7,
        WITH_TEXT: 0.7,
    }
    worse = base | {"own-transcription": 0.25, IMAGE: 0.25}
    of = {TEXT: worse, "no-text": base, "kl": base, "full-text-continued": worse}
    book = Book([sweep_of({"base": base, **of}, seeds=5)])
    results = judged(QUESTIONS["1"][1], book)
    assert answer("1", results, book).startswith("**Reading.**")
    of = {name: {**base, "true-transcription": 0.4} for name in of}
    reasons = Book([sweep_of({"base": {**base, "true-transcription": 0.4}, **of}, seeds=5)])
    results = judged(QUESTIONS["1"][1], reasons)
    assert answer("1", results, reasons).startswith("**Reasoning.**")


def test_ranks_and_their_correlation() -> None:
    a = np.array([3.0, 1.0, 2.0, 2.0])
    assert spearman(a, a) == pytest.approx(1) and spearman(a, -a) == pytest.approx(-1)
    # By hand: ranks 4, 1, 2.5, 2.5 and 1, 2, 3, 4.
    assert spearman(a, np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(-1.5 / np.sqrt(4.5 * 5))
    assert spearman(a, np.ones(4)) == 0.0


@pytest.mark.parametrize(("order", "sign"), [(1, 1), (-1, -1)])
def test_testbeds_that_agree_and_that_do_not(order: int, sign: int) -> None:
    recipes = plan.PLAN["6"][0].recipes[:6]
    rises = np.linspace(-0.3, 0.3, len(recipes))
    of = {name: {TEXT: 0.5 + rise, IMAGE: 0.5} for name, rise in zip(recipes, rises, strict=True)}
    other = {name: {TEXT: 0.5 + rise, IMAGE: 0.5}
             for name, rise in zip(recipes, rises[::order], strict=True)}  # fmt: skip
    made = {
        ("6", plan.FIRST): Book([sweep_of({"base": {}, **of})]),
        ("6", plan.SECOND): Book([sweep_of({"base": {}, **other}, "tiny-charts")]),
    }
    found = agreement(made, GAP, resamples=200)
    assert found is not None and found.rho * sign > 0.9
    assert (found.low > 0.5) if sign > 0 else (found.high < -0.5)
    assert found.p_value == pytest.approx(1 / 720, abs=0.02) if sign > 0 else found.p_value > 0.95


def test_the_page_is_made_of_cells_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = {name: {IMAGE: 0.3} if name == TEXT else {} for name in plan.PLAN["1"][0].recipes}
    write_cells([sweep_of({"base": {}, **recipes}, seeds=5)], tmp_path / "part1.json")
    write_cells([sweep_of({"base": {}, "redundancy-25": {}})], tmp_path / "part5.json")
    monkeypatch.setattr(findings_page, "SPREAD", 0.0)
    write_page(tmp_path, tmp_path / "out")
    page = (tmp_path / "out" / "index.md").read_text()
    assert "lack the five further seeds of the plan" in page and "question1" not in page
    monkeypatch.setattr(findings_page, "SPREAD", 99.0)
    write_page(tmp_path, tmp_path / "out")
    page = (tmp_path / "out" / "index.md").read_text()
    assert page.index("What this cannot say") < page.index("## 1.") < page.index("## All numbers")
    assert "| full-text | 5 |" in page and "| recipe | gap | writing | reading |" in page
    assert page.count("Not run yet") == 4
    # An answer from some of the runs would depend on when somebody looked.
    assert "Not complete: 38 of 50 runs are there." in page and "question5" not in page
    for figure in re.findall(r"\]\((figures/[^)]+)\)", page):
        assert (tmp_path / "out" / figure).stat().st_size > 1000


def test_cells_of_other_problems_are_not_paired(tmp_path: Path) -> None:
    one, two = sweep_of({"base": {}, TEXT: {}}), sweep_of({"base": {}, "no-text": {}})
    two.problems.append("another")
    with pytest.raises(ValueError, match="different problems"):
        Book([one, two])
    assert books(tmp_path)["5", plan.FIRST].sweeps == []


def test_counts_are_over_the_samples_that_a_view_is_asked_for() -> None:
    view = "corrupted-transcription"
    assert view in ALL_VIEWS and samples_of(view, 4) == 1
    sweep = sweep_of({"base": {}}, views=(TEXT, IMAGE, view))
    sweep.untrained[0].right[view][:] = 1
    assert (Book([sweep]).of("base", view, []) == 100).all()
