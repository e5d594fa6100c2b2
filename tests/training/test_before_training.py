"""What the local engine refuses before the model is loaded."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import PROBLEMS, SETTINGS, made_up, no_model, picture, recipe, run

from modgap.core.errors import UserError
from modgap.core.problem import Shown
from modgap.core.recipe import Recipe, Stage
from modgap.core.record import RunFolder
from modgap.training.local import Job, train
from modgap.training.rollout import score
from modgap.training.setup import check_prompts, digest, identity


@pytest.mark.parametrize(
    ("change", "views", "message"),
    [
        (
            {"shown": {"full-text": Shown("AB = 3. Find AB.")}},
            ("full-text",),
            "validation .*no prompt.*'image-only'.*eval_ev",
        ),
        (
            {"shown": {"image-only": Shown("Find AB.")}},
            ("image-only", "full-text"),
            "stage 2 .*no prompt.*'full-text'",
        ),
        ({"image": None}, ("full-text",), r"stage 1 .*problem prob_0 has no diagram.*\(7 more"),
        ({"image": None}, ("text-only",), "validation .*no diagram.*eval_every=0"),
        ({"image": Path("nowhere.png")}, ("image-only",), "no file nowhere.png"),
        ({}, ("blank-image",), "'blank-image' cannot be trained on"),
    ],
    ids=str,
)
def test_words_and_diagrams_are_looked_for_first(
    change: dict[str, Any], views: tuple[str, ...], message: str, tiny: Path, tmp_path: Path
) -> None:
    faulty = [replace(problem, **change) for problem in PROBLEMS[:8]]
    stages = tuple(Stage((view,), False, SETTINGS) for view in views)
    with pytest.raises(UserError, match=message):
        train(
            Recipe("r", stages), faulty, tiny, tmp_path, load_policy=no_model, reward=made_up,
            job=Job(validation=faulty if "validation" in message else []),
        )  # fmt: skip
    assert not any(tmp_path.iterdir())  # nothing that would refuse another recipe


def test_what_is_not_shown_need_not_be_there() -> None:
    faulty = [replace(problem, image=None) for problem in PROBLEMS]
    check_prompts(recipe(views=("text-only",), eval_every=0), faulty, faulty, "aligned")
    own = [replace(problem, shown={"full-text": Shown("AB = 3. Find AB.")}) for problem in PROBLEMS]
    check_prompts(recipe(eval_every=0), own, own, "aligned")
    apart = [
        replace(problem, shown={"full-text": Shown(None, image=problem.image)})
        for problem in PROBLEMS
    ]
    with pytest.raises(
        UserError, match="images of its own for some views, and training shows one image"
    ):
        check_prompts(recipe(eval_every=0), apart, [], "aligned")
    with pytest.raises(UserError, match="no prompt for the view 'image-only'"):
        check_prompts(recipe(True, eval_every=0), own, [], "aligned")  # the twin


def test_every_stages_reward_is_found_first(tiny: Path, tmp_path: Path) -> None:
    stages = tuple(
        Stage(("full-text",), False, replace(SETTINGS, reward_function=name))
        for name in ("", "no_such_module:reward")
    )
    with pytest.raises(UserError, match="no_such_module"):
        run(Recipe("r", stages), tiny, tmp_path, reward=None, loader=no_model)
    with pytest.raises(UserError, match="SIZE is not a function"):
        run(
            recipe(reward_function="tiny_training:SIZE"),
            tiny,
            tmp_path,
            reward=None,
            loader=no_model,
        )


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (0.5, (0.5, 0, 0)), (1, (1, 1, 1)), (True, (1, 1, 1)), (np.float32(1), (1, 1, 1)),
        (torch.tensor(0.25), (0.25, 0, 0)), (np.array(0.25), (0.25, 0, 0)),
        ({"score": 0.9, "acc": 1.0, "format": 0.0, "ungraded": 0.0}, (0.9, 1, 0)),
        ({"score": np.int64(1)}, (1, 1, 1)),
        (SimpleNamespace(score=0.1, acc=0.0, format=1.0), (0.1, 0, 1)),
    ],
    ids=str,
)  # fmt: skip
def test_a_reward_may_have_any_form_that_is_a_number(given: Any, parts: tuple[float, ...]) -> None:
    assert score(lambda response, gold: given, "r", "g") == pytest.approx(parts)


@pytest.mark.parametrize(
    "given",
    [None, "1", {}, {"acc": 1.0}, math.nan, torch.ones(2), [1.0], {"score": math.inf}],
    ids=str,
)
def test_any_other_reward_is_named_with_its_function(given: Any) -> None:
    def my_reward(response: str, gold: str) -> Any:
        return given

    with pytest.raises(
        UserError, match=r"test_before_training:.*my_reward gave .*finite number"
    ) as caught:
        score(my_reward, "r", "g")
    assert repr(given)[:20] in str(caught.value)


def test_a_digest_sees_the_images_and_not_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(picture(0))
    moved = [replace(PROBLEMS[0], image=tmp_path / "0.png"), *PROBLEMS[1:]]
    assert digest(moved) == digest(PROBLEMS)
    (tmp_path / "0.png").write_bytes(picture(1))
    assert digest(moved) != digest(PROBLEMS)


def test_unbounded_refills_are_written_in_json(tmp_path: Path) -> None:
    unbounded = recipe(max_refills=math.inf)
    unbounded.check()
    RunFolder(tmp_path).start("train", identity(unbounded, 1, "model", "aligned"))

    def no_constant(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    manifest = json.loads((tmp_path / "manifest.json").read_text(), parse_constant=no_constant)
    assert manifest["resolved"]["max_refills"] == "inf"
    assert RunFolder(tmp_path).start("train", identity(unbounded, 1, "model", "aligned"))
