"""The views `rendered-text`: the conditions as words in the image, below the diagram."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.prompt import evaluation_prompt, rendered_words
from modgap.core.rendering import LEAST_WIDTH, with_words
from modgap.core.view import Rendering, View, get_view, parse_views
from modgap.reporting.tables import meaning
from modgap.workflows.problems import check_views
from modgap.workflows.requests import make_requests

WORDS = "In this problem, C is on line AB, AB = 7."


def font_file() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def problem(semantic: Sequence[str] = ("AB = 7",), color: str = "red") -> Problem:
    file = io.BytesIO()
    Image.new("RGB", (300, 200), color).save(file, "PNG")
    return Problem("p", "Find x.", "7.000", file.getvalue(), ("line A C B",), tuple(semantic))


def shown(view: View, of: Problem) -> Image.Image:
    (request,) = make_requests([of], [view], 1, "aligned")
    assert request.image is not None
    return request.image()


def ink(image: Image.Image, top: int) -> int:
    """Dark pixels below a line."""
    return int((np.asarray(image.convert("L"))[top:] < 128).sum())


def test_the_diagram_stays_and_the_conditions_are_drawn_below_it() -> None:
    image = shown(get_view("rendered-text"), problem())
    assert rendered_words(problem()) == WORDS
    assert image.width == LEAST_WIDTH and image.height > 200
    assert np.array_equal(np.asarray(image)[:200, :300], np.full((200, 300, 3), (255, 0, 0)))
    assert ink(image, 200) > 200
    # Other conditions are other pixels; the prompt has none of them.
    other = shown(get_view("rendered-text"), problem(["AB = 8"]))
    assert np.asarray(other).shape == np.asarray(image).shape
    assert not np.array_equal(np.asarray(other), np.asarray(image))
    prompt = evaluation_prompt(problem(), get_view("rendered-text"))
    assert prompt == evaluation_prompt(problem(), "image-only") and "AB = 7" not in prompt.text


def test_the_size_and_the_font_are_parts_of_the_name(tmp_path: Path) -> None:
    small, large = get_view("rendered-text-12"), get_view("rendered-text-48")
    assert ink(shown(large, problem()), 200) > 3 * ink(shown(small, problem()), 200)
    assert get_view("rendered-text-24") is get_view("rendered-text")
    own = get_view(f"rendered-text-24:{font_file()}")
    assert own.name.startswith("rendered-text-24-DejaVuSans-") and own.side == "control"
    assert get_view(own.name) is own
    assert not np.array_equal(
        np.asarray(shown(own, problem())), np.asarray(shown(get_view("rendered-text"), problem()))
    )
    # Another file of the same name is another view.
    changed = tmp_path / "DejaVuSans.ttf"
    shutil.copy(font_file(), changed)
    with changed.open("ab") as file:
        file.write(b"\0")
    assert get_view(f"rendered-text-24:{changed}").name != own.name
    names = [view.name for view in parse_views("full-text,rendered-text,rendered-text-32")]
    assert names == ["full-text", "rendered-text", "rendered-text-32"]
    assert meaning("rendered-text-32") == meaning("rendered-text") != ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rendered-text-5", "the size is 6 to 200 pixels, not 5"),
        ("rendered-text-x", "give rendered-text, rendered-text-SIZE"),
        ("rendered-text-24:none.ttf", "cannot be read"),
    ],
)
def test_bad_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_view(name)


def test_a_character_that_the_font_lacks_is_refused_before_a_model_is_loaded() -> None:
    problems = [problem(), problem(["AB = 2π"])]
    with pytest.raises(UserError, match=r"problem p, view rendered-text: .*has no 'π'"):
        check_views(problems, [get_view("rendered-text")])
    check_views(problems, [get_view(f"rendered-text-24:{font_file()}")])


def test_long_words_are_broken_and_nothing_is_lost() -> None:
    font = Rendering(24)
    one = with_words("x" * 10, font)
    long = with_words("x" * 400, font)
    assert long.width == LEAST_WIDTH
    # Every letter is drawn: ink grows with the letters.
    assert ink(long, 0) == pytest.approx(40 * ink(one, 0), rel=0.02)


def test_without_conditions_the_diagram_is_as_it_is_and_without_both_it_is_refused() -> None:
    bare = Problem("p", "Find x.", "7.000", problem().image)
    assert shown(get_view("rendered-text"), bare).size == (300, 200)
    with pytest.raises(UserError, match="neither a diagram nor a condition"):
        shown(get_view("rendered-text"), Problem("p", "Find x.", "7.000"))
    words_only = Problem("p", "Find x.", "7.000", None, (), ("AB = 7",))
    assert shown(get_view("rendered-text"), words_only).height < 120
