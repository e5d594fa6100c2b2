"""Validation while training: its views, its split, and before the first step."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_training import PROBLEMS, SETTINGS, log_of, no_model, recipe, rollouts_of, run

from modgap.analysis.results import LoggedStage
from modgap.core.assign import apply_settings
from modgap.core.errors import UserError
from modgap.core.recipe import NAMES, Recipe, Settings, Stage
from modgap.reporting.curves import training
from modgap.training.setup import identity
from modgap.training.verl.plan import validation_variants
from modgap.workflows.train import divided

OLD = Path(__file__).parents[1] / "fixtures/runs_before_restructuring/study/no-text/stage1"


def test_every_view_is_validated_also_before_the_first_step(tiny: Path, tmp_path: Path) -> None:
    test = PROBLEMS[:3]
    asked: dict[str, Any] = {
        "validation_views": "full-text,image-only", "validation_split": "test",
        "validate_before": True, "eval_every": 2, "steps": 3, "save_every": 0,
    }  # fmt: skip
    events = run(recipe(**asked), tiny, tmp_path, validation=test)
    log = log_of(tmp_path / "stage1")
    views = ("validation_accuracy/full-text", "validation_accuracy/image-only")
    assert [row["step"] for row in log if all(view in row for view in views)] == [0, 2, 3]
    assert set(log[0]) == {"step", "stage", "validation_accuracy", *views}
    assert all(row["validation_accuracy"] == row[views[1]] for row in log if views[1] in row)
    assert [event.step for event in events if event.kind == "step"] == [0, 1, 2, 3]
    # Nothing is held out: rollouts come from all problems.
    drawn = {row["problem_id"] for row in rollouts_of(tmp_path / "stage1")}
    assert drawn & {problem.id for problem in test}


def test_the_best_is_chosen_by_the_mean_where_image_only_is_not_validated(
    tiny: Path, tmp_path: Path
) -> None:
    run(recipe(validation_views="own", views=("full-text",)), tiny, tmp_path)
    for row in log_of(tmp_path / "stage1"):
        assert row["validation_accuracy"] == row["validation_accuracy/full-text"]
        assert "validation_accuracy/image-only" not in row


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["validation_views=swapped-image"], "swapped-image.*cannot be validated in"),
        (["validation_views=,"], "validation_views=',' names no view"),
        (["validation_views=no-such"], "no-such"),
        (["validation_split=test"], "there is no test split"),
        (["stage2.validation_split=test"], "validation_split differs between stages"),
    ],
)
def test_a_validation_that_cannot_work_is_refused(
    settings: list[str], words: str, tiny: Path, tmp_path: Path
) -> None:
    two = Recipe("two", (Stage(("full-text",), settings=SETTINGS),) * 2)
    with pytest.raises(UserError, match=words):
        run(apply_settings(two, settings), tiny, tmp_path, loader=no_model)


def test_the_test_split_is_set_apart_only_where_it_is_validated_on() -> None:
    problems = [replace(p, split="test" if n < 3 else "train") for n, p in enumerate(PROBLEMS)]
    held = recipe()
    assert divided(held, problems) == (problems, None)
    assert divided(apply_settings(held, ["validation_split=test"]), problems) == (
        problems[3:],
        problems[:3],
    )


def test_a_stage_of_an_older_run_has_the_identity_that_its_manifest_records() -> None:
    manifest = json.loads((OLD / "manifest.json").read_text())["resolved"]
    values = {NAMES[name]: value for name, value in manifest.items() if name in NAMES}
    stage = Stage(tuple(manifest["views"]), manifest["contrastive"], replace(Settings(), **values))
    old = Recipe("no-text", (stage,))
    assert identity(old, 1, manifest["start"], manifest["style"]) == manifest
    for name in ("validation_views=own", "validation_split=test", "validate_before=true"):
        changed = identity(apply_settings(old, [name]), 1, manifest["start"], manifest["style"])
        assert set(changed) - set(manifest) == {name.partition("=")[0]}


def stage(**metrics: list[tuple[int, float]]) -> LoggedStage:
    named = {name.replace("_accuracy_", "_accuracy/"): points for name, points in metrics.items()}
    return LoggedStage(stage="stage1", after=0, metrics=named)


def test_the_report_draws_accuracy_per_view_and_the_gap_over_steps() -> None:
    vision = [(0, 0.2), (10, 0.3)]
    of_views = {
        "validation_accuracy_full-text": [(0, 0.5), (10, 0.9)],
        "validation_accuracy_image-only": vision,
    }
    two = stage(validation_accuracy=vision, **of_views)
    shown = training({"mix": [two], "older": [stage(validation_accuracy=[(10, 0.4)])]})
    assert shown is not None
    accuracy, gap = (
        next(panel for panel in shown.main if panel.metric == name)
        for name in ("validation_accuracy", "validation_gap")
    )
    assert {line.name: line.points for line in accuracy.lines} == {
        "mix, full-text": ((0, 0.5), (10, 0.9)),
        "mix, image-only": ((0, 0.2), (10, 0.3)),
        "older, image-only": ((10, 0.4),),
    }
    assert len({line.colour for line in accuracy.lines}) == 3  # colour and dashes
    assert [(line.name, [round(y) for _, y in line.points]) for line in gap.lines] == [
        ("mix", [30, 60])
    ]
    assert [panel.metric for panel in shown.panels] == ["validation_accuracy", "validation_gap"]


@pytest.mark.parametrize(
    ("contrastive", "views", "variants"),
    [
        (True, "own", ["contrastive"]),  # as the original's KL script
        (True, "full-text,image-only", ["full-text", "no-text"]),
        (True, "image-only", ["no-text"]),
        (False, "own", ["full-text"]),
    ],
)
def test_verl_validates_a_stage_in_the_words_that_it_trains_on(
    contrastive: bool, views: str, variants: list[str]
) -> None:
    stage = Stage(("full-text",), contrastive, replace(SETTINGS, validation_views=views))
    assert validation_variants(stage) == variants


def test_settings_of_validation_are_texts_numbers_and_flags_of_set() -> None:
    changed = apply_settings(recipe(), ["validation_views=a, b", "validate_before=yes"])
    assert changed.stages[0].validation_views == ("a", "b")
    assert asdict(changed.stages[0].settings)["validate_before"] is True
