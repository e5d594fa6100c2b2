"""What a view shows of a problem: its own words, question, answer and image, and never another
view's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import evaluate
from folders import png

from modgap.core import registry
from modgap.core.errors import UserError
from modgap.core.problem import Problem, Shown
from modgap.core.prompt import INSTRUCTION, evaluation_prompt
from modgap.core.record import RunFolder
from modgap.core.view import DEFAULT_VIEWS, VERSION_VIEWS
from modgap.engines.scripted import ScriptedEngine
from modgap.workflows.fingerprints import fingerprint
from modgap.workflows.problems import default_views
from modgap.workflows.requests import problem_row

WHOLE = Problem("p", "AB = 7. Find x.", "7", png("red"))


def test_what_a_view_does_not_say_is_the_problems() -> None:
    problem = replace(
        WHOLE, shown={"text-lite": Shown(""), "text-only": Shown(None, "Find x.", "8")}
    )
    assert (
        problem.words_of("text-lite"),
        problem.words_of("text-only"),
        problem.words_of("full-text"),
    ) == (
        "",
        None,
        None,
    )
    assert problem.own_words == {"text-lite": ""}
    assert [problem.question_of(view) for view in ("text-lite", "text-only", "full-text")] == [
        WHOLE.question, "Find x.", WHOLE.question,
    ]  # fmt: skip
    assert [problem.gold_of(view) for view in ("text-lite", "text-only", "full-text")] == [
        "7",
        "8",
        "7",
    ]
    assert all(
        problem.image_of(view) is WHOLE.image
        for view in ("", "text-lite", "text-only", "full-text")
    )


def test_no_view_falls_back_to_the_problems_image_once_one_has_its_own(tmp_path: Path) -> None:
    """The problem's image may be that of Vision Only, which holds the text: no other view may show
    it.
    """
    problem = replace(
        WHOLE,
        shown={"vision-only": Shown("", image=WHOLE.image), "text-lite": Shown("AB = 7. Find x.")},
    )
    assert problem.image_of("vision-only") is problem.image_of() is WHOLE.image
    assert problem.image_of("text-lite") is None is problem.image_of("full-text")
    with pytest.raises(UserError, match="problem p has no diagram for the view text-lite"):
        problem.open_image("text-lite")
    with pytest.raises(UserError, match="no diagram, which the view 'text-lite' needs"):
        evaluate([problem], ScriptedEngine(lambda *_: ""), tmp_path, views="text-lite")


def test_empty_words_are_words() -> None:
    problem = replace(WHOLE, shown={"vision-only": Shown("")})
    assert evaluation_prompt(problem, "vision-only").text == INSTRUCTION


@pytest.mark.parametrize("own", [{"question": WHOLE.question}, {"answer": WHOLE.answer}, {}])
def test_what_is_the_problems_anyway_changes_neither_record_nor_fingerprint(
    own: dict[str, Any],
) -> None:
    plain, same = (
        replace(WHOLE, shown={"full-text": Shown("x", **fields)}) for fields in ({}, own)
    )
    assert fingerprint([same]) == fingerprint([plain])
    assert problem_row(same, "aligned") == problem_row(plain, "aligned")


@pytest.mark.parametrize(
    "own", [{"question": "Find y."}, {"answer": "8"}, {"image": png("blue")}, {"words": "y"}]
)
def test_whatever_a_view_shows_is_a_part_of_the_fingerprint(own: dict[str, Any]) -> None:
    before, after = (
        replace(WHOLE, shown={"full-text": Shown(**({"words": "x"} | fields))})
        for fields in ({}, own)
    )
    assert fingerprint([before]) != fingerprint([after])


def test_each_view_is_graded_by_its_own_answer(tmp_path: Path) -> None:
    problem = replace(WHOLE, shown={"image-only": Shown(None, answer="8")})
    summary = evaluate([problem], ScriptedEngine(lambda *_: "\\boxed{8}"), tmp_path, samples=1)
    assert {view: row.correct for view, row in summary.views.items()} == {
        "full-text": 0,
        "image-only": 1,
    }
    assert RunFolder(tmp_path).problems()["p"].answers == {"image-only": "8"}


def test_the_views_of_a_data_set_are_the_only_ones(tmp_path: Path) -> None:
    problem = replace(WHOLE, views=("full-text",))
    assert (
        problem.has_view("full-text")
        and not problem.has_view("image-only")
        and WHOLE.has_view("image-only")
    )
    assert WHOLE.leaky and not problem.leaky, (
        "a view shows of the whole text what the data set chose"
    )
    with pytest.raises(UserError, match="'image-only'"):
        evaluate([problem], ScriptedEngine(lambda *_: ""), tmp_path)


def test_a_data_set_is_found_by_the_grader_of_its_problems() -> None:
    mathverse = replace(WHOLE, grader="mathverse:free-form")
    assert registry.data_set_of([mathverse.grader]) is registry.DATASETS["mathverse"]
    assert registry.data_set_of(["", "mathverse"]) is registry.DATASETS["mathverse"]
    assert registry.data_set_of([]) is registry.data_set_of([""]) is registry.DATASETS["pgps9k"]
    assert default_views([WHOLE]) == ",".join(DEFAULT_VIEWS)
    assert default_views([WHOLE, mathverse]) == ",".join(VERSION_VIEWS)


def test_every_path_in_the_registry_of_data_sets_can_be_loaded() -> None:
    for entry in registry.DATASETS.values():
        for path in (
            entry.path,
            entry.check,
            entry.own_data,
            entry.paper_prompt,
            entry.paper_figures,
        ):
            assert not path or callable(registry.load(path))
