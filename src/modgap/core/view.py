"""Views: the ways to show one problem, and which side of the gap each is on.

The gap is accuracy(text-centric) - accuracy(vision-centric) over the same problems. Controls are on
neither side; they separate reading from reasoning, and both from guessing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modgap.core.errors import UserError, unknown
from modgap.core.files import read_bytes
from modgap.core.loading import load
from modgap.core.transcripts import WHOSE, WITH_TEXT, Transcription

if TYPE_CHECKING:
    from modgap.core.problem import Problem

Side = Literal["text", "vision", "control"]
Picture = Literal["own", "none", "blank", "swapped", "rendered"]

DEFAULT_SIZE, LEAST_SIZE, MOST_SIZE = 24, 6, 200
"""Of rendered words, in pixels."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """How the words of a view are drawn.

    Attributes:
        size: Height of a line's letters (em), in pixels of the image.
        font: A font file; `None` for Pillow's own font.
    """

    size: int = DEFAULT_SIZE
    font: Path | None = None


@dataclass(frozen=True, slots=True)
class View:
    """One way to show a problem.

    Attributes:
        name: Its name on the command line and in records.
        side: Which side of the gap it is on.
        conditions: Whether the conditions are written in the prompt.
        share: Percent of a problem's conditions that are; see `core.prompt.some_conditions`.
        picture: Which image goes with it: the problem's own, none, a blank one of the same size,
            another problem's, or the problem's own with the conditions drawn below it.
        transcribe: Whether the model is asked to write the conditions down before it solves.
        transcription: Whose conditions its answer begins with: its own (only the opening is
            prefilled), the true ones, or the true ones with one number changed. `None` prefills
            nothing.
        words: Gives the words of a problem, before the instruction; without it they follow from
            `conditions`.
        verbatim: Whether its words are the view's question alone, as the data set has it.
        rendering: How the conditions are drawn, where `picture` is `rendered`.
    """

    name: str
    side: Side
    conditions: bool
    picture: Picture = "own"
    transcribe: bool = False
    transcription: Transcription | None = None
    words: Callable[[Problem], str] | None = None
    verbatim: bool = False
    rendering: Rendering | None = None
    share: int = 100


AS_PUBLISHED = "as-published"
"""The data set's own text, whatever it holds of the conditions."""
RENDERED = "rendered-text"
"""The view whose conditions are words in the image, and the first part of its family's names."""
PARTIAL = "partial-text"
"""The first part of the names of views with some of the conditions: `partial-text-25`."""
VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View("full-text", "text", conditions=True),
        View("image-only", "vision", conditions=False),
        View("text-only", "control", conditions=True, picture="none"),
        View("question-only", "control", conditions=False, picture="none"),
        View("blank-image", "control", conditions=False, picture="blank"),
        View("swapped-image", "control", conditions=True, picture="swapped"),
        View("transcribe", "control", conditions=False, transcribe=True),
        View(AS_PUBLISHED, "control", conditions=False, verbatim=True),
        View(RENDERED, "control", conditions=False, picture="rendered", rendering=Rendering()),
        *(
            View(name, "control", name == WITH_TEXT, transcribe=True, transcription=whose)
            for name, whose in WHOSE.items()
        ),
    )
}
DEFAULT_VIEWS = ("full-text", "image-only")
CONTROLS: dict[str, tuple[str, ...]] = {
    "causal": (*WHOSE, "text-only"),
}
"""Sets of views that `--controls` adds; `analysis.causal` splits the gap by them."""

VERSIONS: dict[str, str] = {
    "Text Dominant": "text-dominant",
    "Text Lite": "text-lite",
    "Vision Intensive": "vision-intensive",
    "Vision Dominant": "vision-dominant",
    "Vision Only": "vision-only",
    "Text Only": "text-only",
}
"""MathVerse's versions of a problem -> their views; Text Only is the control of that name."""

VERSION_VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View("text-dominant", "text", conditions=True),
        View("text-lite", "text", conditions=True),
        View("vision-intensive", "vision", conditions=False),
        View("vision-dominant", "vision", conditions=False),
        View("vision-only", "vision", conditions=False),
    )
}
"""The views that only MathVerse's problems have: each with words and an image of its own."""

ALL_VIEWS: dict[str, View] = {
    **{name: VIEWS[name] for name in DEFAULT_VIEWS},
    **VERSION_VIEWS,
    **{name: view for name, view in VIEWS.items() if name not in DEFAULT_VIEWS},
}
"""Every view, those on a side of the gap first."""
CHOICES = (*VIEWS, f"{PARTIAL}-PERCENT")
"""The views of any data set, as messages list them."""


def samples_of(view: str, samples: int) -> int:
    """The samples of a problem that a view is asked for, of those that a run has.

    `corrupted-transcription` tells only how often the words are followed, for which a quarter of
    the samples is enough.
    """
    return -(-samples // 4) if WHOSE.get(view) == "corrupted" else samples


def get_view(name: str) -> View:
    """The view of a name.

    A name is one of ours, or `module:object` or `path/to/file.py:object` outside the package.
    A view from outside is a control: which views the gap compares is the same for every run, or
    runs could not be compared. It is known by its own name afterwards.

    Raises:
        UserError: The name is unknown, and the message lists the names; or the object cannot be a
            view.
    """
    if name in ALL_VIEWS:
        return ALL_VIEWS[name]
    if name in _FROM_OUTSIDE:
        return _FROM_OUTSIDE[name]
    if name.startswith(RENDERED):
        return _rendered(name)
    if name.startswith(PARTIAL):
        return _partial(name)
    if ":" not in name:
        raise unknown(
            "view",
            name,
            CHOICES,
            f"MathVerse also has {', '.join(VERSION_VIEWS)}. One of your own is module:object or"
            " path/to/file.py:object.",
            near=VERSION_VIEWS,
        )
    view = load(name)
    if not isinstance(view, View):
        raise UserError(f"the view {name!r} is a {type(view).__name__}: give a `modgap.View`.")
    if not _PLAIN_NAME.fullmatch(view.name) or view.name in ALL_VIEWS:
        raise UserError(
            f"the view {name!r} is named {view.name!r}: give it another name, of letters, digits,"
            " '.', '_' and '-'."
        )
    if view.side != "control":
        raise UserError(
            f"the view {name!r} is on the side {view.side!r}: a view of your own must be a"
            " 'control'."
        )
    if _FROM_OUTSIDE.setdefault(view.name, view) != view:
        raise UserError(f"two views are named {view.name!r}: rename one of them.")
    return view


def _rendered(name: str) -> View:
    """A view of the family `rendered-text`: `rendered-text-32`, `rendered-text-32:Font.ttf`.

    Its recorded name has the size, the font's name and six digits of the digest of its file, so
    that responses to two fonts never mix.

    Raises:
        UserError: The name is not of this family, the size is out of bounds, or there is no such
            font.
    """
    match = _RENDERED.fullmatch(name)
    if match is None:
        raise UserError(
            f"the view {name!r}: give {RENDERED}, {RENDERED}-SIZE with a size in pixels, or"
            f" {RENDERED}-SIZE:path/to/font.ttf."
        )
    size, file = int(match[1] or DEFAULT_SIZE), match[2]
    if not LEAST_SIZE <= size <= MOST_SIZE:
        raise UserError(
            f"the view {name!r}: the size is {LEAST_SIZE} to {MOST_SIZE} pixels, not {size}."
        )
    if file is None:
        if size == DEFAULT_SIZE:
            return VIEWS[RENDERED]
        return View(f"{RENDERED}-{size}", "control", conditions=False, picture="rendered",
                    rendering=Rendering(size))  # fmt: skip
    font = Path(file)
    try:
        digest = hashlib.sha256(read_bytes(font)).hexdigest()[:6]
    except OSError as error:
        raise UserError(
            f"the view {name!r}: the font {font} cannot be read ({error.strerror}): give a .ttf or"
            " .otf file."
        ) from None
    plain = re.sub(r"[^A-Za-z0-9._]+", "_", font.stem)
    view = View(f"{RENDERED}-{size}-{plain}-{digest}", "control", conditions=False,
                picture="rendered", rendering=Rendering(size, font))  # fmt: skip
    return _FROM_OUTSIDE.setdefault(view.name, view)


def _partial(name: str) -> View:
    """A view of the family `partial-text-PERCENT`. Raises `UserError` for another percentage."""
    match = re.fullmatch(rf"{PARTIAL}-([1-9][0-9]?)", name)
    if match is None:
        raise UserError(
            f"the view {name!r}: give {PARTIAL}-PERCENT with 1 to 99 percent of the conditions;"
            " image-only has none and full-text all of them."
        )
    return View(name, "control", conditions=True, share=int(match[1]))


_RENDERED = re.compile(rf"{RENDERED}(?:-([0-9]{{1,4}}))?(?::(.+))?")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FROM_OUTSIDE: dict[str, View] = {}
"""Views from outside the package that this process has loaded, by their names."""


def parse_views(names: str | Iterable[str]) -> tuple[View, ...]:
    """Views from a comma-separated list or from names, each once, in the order given."""
    parts = names.split(",") if isinstance(names, str) else names
    views = tuple(dict.fromkeys(get_view(part.strip()) for part in parts if part.strip()))
    if not views:
        raise UserError(f"no view given: choose from {', '.join(CHOICES)}.")
    return views


def parse_versions(names: str) -> tuple[str, ...]:
    """The views of MathVerse's versions.

    Args:
        names: `text` or `vision` (a side), or names such as `Text Lite` or `text-lite`.

    Raises:
        UserError: A version is unknown; the message lists the choices.
    """
    found: list[str] = []
    for part in map(str.strip, names.split(",")):
        view = re.sub(r"[\s_]+", "-", part.lower())
        if view in ("text", "vision"):
            found += [name for name, of_side in VERSION_VIEWS.items() if of_side.side == view]
        elif view in VERSIONS.values():
            found.append(view)
        elif part:
            raise unknown("problem version", part, ("text", "vision", *VERSIONS.values()))
    if not found:
        raise UserError(
            f"no problem version given: choose from text, vision, {', '.join(VERSIONS.values())}."
        )
    return tuple(dict.fromkeys(found))


def versions_named(views: Iterable[str]) -> str:
    """What the original calls a set of MathVerse's views: `text`, `vision`, else `full`."""
    asked = set(views)
    sides = ("text", "vision")
    return next((side for side in sides if set(parse_versions(side)) == asked), "full")
