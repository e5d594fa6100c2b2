"""One line of a `pairs` file: its fields, what is wrong with them, and the problem they make.

The format is described in `pairs`, and as a JSON schema in `pairs.schema.json` beside this file.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modgap.core.errors import part, unknown
from modgap.core.files import MOST_IMAGE_BYTES, read_bytes
from modgap.core.problem import CHOICES, Problem, Shown
from modgap.core.view import VIEWS
from modgap.datasets.faults import json_type, missing, text_fault
from modgap.datasets.json_file import JsonObject
from modgap.grading.accepted import JOINT, accepted_grader, tolerance_of
from modgap.grading.choices import LETTERS
from modgap.grading.graders import CHOICE_GRADER
from modgap.grading.number import parse_number

KEYS = (
    "id", "image", "answer", "prompts", "text", "conditions", "choices", "answers", "tolerance",
    "type", "subject", "question", "comment",
)  # fmt: skip
"""The keys of a line, beside the names of views."""
_CHOICES = f"choose from {', '.join(VIEWS)}"
_GAP = 24
"""Pixels of white between images that are shown side by side."""

Complaints = list[tuple[str, str]]  # kind and message of each fault
Picture = Path | bytes


@dataclass(frozen=True, slots=True)
class Pair:
    """A sound line.

    Attributes:
        problem: The problem, without its images.
        images: View -> its images; the key is empty where all views share them.
    """

    problem: Problem
    images: Mapping[str, tuple[Picture, ...]] = field(
        default_factory=dict[str, "tuple[Picture, ...]"]
    )

    @property
    def pictures(self) -> list[Picture]:
        """Every image, once."""
        return list(dict.fromkeys(one for images in self.images.values() for one in images))

    @property
    def has_text(self) -> bool:
        """Whether its views are made from `text` and `conditions`."""
        return not self.problem.own_words

    def whole(self) -> Problem:
        """The problem with its images; several images of a view become one, side by side.

        Raises:
            OSError: One of several images cannot be read, or decoded.
        """
        made = {view: beside(images) for view, images in self.images.items() if images}
        if not self.images.keys() - {""}:
            return replace(self.problem, image=made.get(""))
        shown = dict(self.problem.shown)
        for name, view in VIEWS.items():
            # A control has the image of the view that its words come from.
            base = "full-text" if view.conditions else "image-only"
            image = made.get(name, made.get(base)) if view.picture == "own" else None
            if image is not None:
                shown[name] = replace(shown.get(name, Shown(None)), image=image)
        image = made.get("image-only") or next(iter(made.values()), None)
        return replace(self.problem, image=image, shown=shown)


def beside(images: Sequence[Picture]) -> Picture:
    """One image as it is; several ones as one image, side by side on white."""
    if len(images) == 1:
        return images[0]
    import io

    from PIL import Image

    from modgap.core.images import decode

    parts = [
        decode(one if isinstance(one, bytes) else read_bytes(one, MOST_IMAGE_BYTES))
        for one in images
    ]
    width = sum(part.width for part in parts) + _GAP * (len(parts) - 1)
    whole = Image.new("RGB", (width, max(part.height for part in parts)), "white")
    left = 0
    for one in parts:
        whole.paste(one, (left, 0))
        left += one.width + _GAP
    buffer = io.BytesIO()
    whole.save(buffer, "PNG")
    return buffer.getvalue()


def name_of(value: Any) -> str:
    """The id as a string; empty if there is no valid one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and not text_fault(value) else ""


def view_of(key: str) -> str:
    """The view that a key names: `full_text` is `full-text`."""
    return key.replace("_", "-")


def pair_of(folder: Path, name: str, value: JsonObject) -> tuple[Pair, Complaints]:
    """A line as a pair, and what is wrong with it; only one without complaints can be used."""
    complaints: Complaints = [
        ("duplicate-key", f"{key} is given twice: keep one") for key in value.repeated
    ]
    if not name:
        bad = (
            missing("id", value)
            if "id" not in value
            else "id must be a string (not an empty one) or an integer"
        )
        complaints.append(("missing-key" if "id" not in value else "wrong-type", bad))
    choices, found = _choices(value)
    complaints += found
    of_choices = bool(found)
    answer, grader, found = _answer(value, choices)
    # Without sound choices, a letter is not what is wrong.
    complaints += [one for one in found if not (of_choices and one[0] == "not-a-number")]
    prompts, conditions, found = _words(value)
    complaints += found
    images, found = _images(folder, value.get("image"))
    complaints += found
    for key in ("type", "subject", "question"):
        if value.get(key) is not None and (complaint := text_fault(value[key], may_be_empty=True)):
            complaints.append((complaint[0], f"{key} {complaint[1]}"))
    if complaints:
        return Pair(Problem(name, "", "")), complaints
    block = "".join(f"\n{LETTERS[number]}. {choice}" for number, choice in enumerate(choices))
    block = f"{CHOICES}{block}" if choices else ""
    question = (
        value.get("text")
        or value.get("question")
        or prompts.get("image-only")
        or next(iter(prompts.values()), "")
    )
    problem = Problem(
        name,
        f"{question}{block}",
        answer,
        semantic=conditions,
        type=value.get("type") or "",
        shown={view: Shown(f"{words}{block}") for view, words in prompts.items()},
        grader=grader,
        labels={"subject": value["subject"]} if value.get("subject") else {},
    )
    return Pair(problem, images), []


# ---- answers -------------------------------------------------------------------------------------


def _choices(value: JsonObject) -> tuple[list[str], Complaints]:
    """The texts of the choices: a list, or an object from letters in order."""
    given = value.get("choices")
    if given is None:
        return [], []
    if isinstance(given, dict):
        if list(given) != [*LETTERS[: len(given)]]:
            return [], [("wrong-type", "choices must have the letters A, B, C ... in order")]
        given = list(given.values())
    if not isinstance(given, list) or not 2 <= len(given) <= len(LETTERS):
        many = f"2 to {len(LETTERS)} texts or numbers"
        found = f"{len(given)}" if isinstance(given, list) else json_type(given)
        return [], [("wrong-type", f"choices must be a list of {many}, not {found}")]
    texts = [_number_or_text(choice) for choice in given]
    for text in texts:
        if complaint := text_fault(text):
            return [], [(complaint[0], f"choices has an item that {complaint[1]}")]
        if "\n" in text:
            return [], [("wrong-type", "choices has an item of several lines: make it one line")]
    if len(set(texts)) < len(texts):
        return [], [("duplicate-key", "choices has the same text twice: change one")]
    return texts, []


def _number_or_text(value: Any) -> Any:
    """A number as text; anything else as it is."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return repr(value) if number else value


def _answer(value: JsonObject, choices: Sequence[str]) -> tuple[str, str, Complaints]:
    """The gold answer and the grader."""
    given = [key for key in ("answer", "answers") if value.get(key) is not None]
    if not given:
        return "", "", [("missing-key", missing("answer", value))]
    if len(given) == 2:
        return "", "", [("duplicate-key", "answer and answers are both given: keep one")]
    key = given[0]
    several = value[key] if key == "answers" else [value[key]]
    if not isinstance(several, list) or not several:
        return "", "", [("wrong-type", f"{key} is {json_type(several)}, not a list of answers")]
    answers = [_number_or_text(answer) for answer in several]
    for answer in answers:
        if complaint := text_fault(answer):
            return "", "", [(complaint[0], f"{key} {complaint[1]}")]
    tolerance = _number_or_text(value.get("tolerance"))
    if choices:
        if key == "answers" or tolerance is not None:
            message = "choices have one answer, a letter: leave answers and tolerance out"
            return "", "", [("wrong-type", message)]
        return _letter(answers[0], choices)
    for answer in answers:
        if parse_number(answer) is None:
            message = f"answer {answer!r} is not a number that the grader can read"
            return "", "", [("not-a-number", message)]
    if tolerance is not None:
        given_as = tolerance_of(tolerance) if isinstance(tolerance, str) else None
        if given_as is None:
            message = f"tolerance {tolerance!r} is no number from 0 and no share such as '1%'"
            return "", "", [("wrong-type", message)]
        if given_as[1] and given_as[0] >= 1:
            message = f"tolerance {tolerance!r} makes 0 right: give a share below 100%"
            return "", "", [("wrong-type", message)]
    if len(answers) == 1 and tolerance is None:
        return answers[0], "", []
    return JOINT.join(answers), accepted_grader(tolerance or ""), []


def _letter(answer: str, choices: Sequence[str]) -> tuple[str, str, Complaints]:
    """The letter of the right choice."""
    letters = LETTERS[: len(choices)]
    letter = answer.strip("(). ").upper()
    if answer in choices:
        meant = letters[list(choices).index(answer)]
        if len(letter) == 1 and letter in letters and letter != meant:
            message = (
                f"answer {answer!r} is the letter of one choice and the text of another: give"
                f" ({letter}) or ({meant})"
            )
            return "", "", [("gold-unreadable", message)]
        return meant, CHOICE_GRADER, []
    if len(letter) == 1 and letter in letters:
        return letter, CHOICE_GRADER, []
    message = f"answer {answer!r} is none of the choices: give its letter ({', '.join(letters)})"
    return "", "", [("gold-unreadable", message)]


# ---- words ---------------------------------------------------------------------------------------


def _words(value: JsonObject) -> tuple[dict[str, str], tuple[str, ...], Complaints]:
    """The words of each view, or the conditions from which the views are made."""
    if value.get("text") is None and value.get("conditions") is None:
        prompts, complaints = _prompts(value)
        return prompts, (), complaints
    own = [key for key in value if key == "prompts" or (key not in KEYS and view_of(key) in VIEWS)]
    if own:
        message = f"text and {own[0]} are both given: keep text with conditions, or the views"
        return {}, (), [("duplicate-key", message)]
    if value.get("text") is None:
        return {}, (), [("missing-key", missing("text", value))]
    given = value.get("conditions")
    listed = [given] if isinstance(given, str) else [] if given is None else given
    if not isinstance(listed, list):
        what = json_type(given)
        return {}, (), [("wrong-type", f"conditions is {what}, not a text or a list of texts")]
    for what, text in (("text", value["text"]), *(("conditions", one) for one in listed)):
        if complaint := text_fault(text):
            return {}, (), [(complaint[0], f"{what} {complaint[1]}")]
        if "<image>" in text:
            return {}, (), [_placeholder(what)]
    return {}, tuple(listed), []


def _placeholder(what: str) -> tuple[str, str]:
    return (
        "placeholder",
        f"{what} holds the placeholder <image>: leave it out, the image goes before the words",
    )


def _prompts(value: JsonObject) -> tuple[dict[str, str], Complaints]:
    """The words of each view: under `prompts`, or under the views' names in the line itself."""
    inner = value.get("prompts")
    if inner is not None and not isinstance(inner, JsonObject):
        return {}, [
            ("wrong-type", f"prompts is {json_type(inner)}, not an object: view name -> words")
        ]
    prompts: dict[str, str] = {}
    complaints: Complaints = []
    given = list((inner or {}).items())
    for key, words in value.items():
        if key not in KEYS and view_of(key) in VIEWS:
            given.append((key, words))
    for key, words in given:
        view = view_of(key)
        if view not in VIEWS:
            complaints.append(("unknown-view", part(unknown("view", key, VIEWS))))
        elif complaint := text_fault(words):
            complaints.append((complaint[0], f"the prompt for {view} {complaint[1]}"))
        elif "<image>" in words:
            complaints.append(_placeholder(f"the prompt for {view}"))
        elif view in prompts:
            complaints.append(("duplicate-key", f"the prompt for {view} is given twice: keep one"))
        else:
            prompts[view] = words
    if not prompts and not complaints:
        complaints.append(
            (
                "missing-key",
                f"{missing('prompts', value)}: give the words of each view ({_CHOICES}), or text"
                " and conditions",
            )
        )
    if inner is not None:
        complaints += [
            ("duplicate-key", f"the prompt for {key} is given twice: keep one")
            for key in inner.repeated
        ]
    return prompts, complaints


# ---- images --------------------------------------------------------------------------------------


def _images(folder: Path, value: Any) -> tuple[dict[str, tuple[Picture, ...]], Complaints]:
    """The images of each view; under an empty key those that all views share."""
    if not isinstance(value, JsonObject):
        images, complaints = _several(folder, value)
        return ({"": images} if images else {}), complaints
    found: dict[str, tuple[Picture, ...]] = {}
    complaints: Complaints = []
    for key, given in value.items():
        if view_of(key) not in VIEWS:
            complaints.append(("unknown-view", part(unknown("view", key, VIEWS))))
            continue
        found[view_of(key)], faults = _several(folder, given)
        complaints += faults
    return found, complaints


def _several(folder: Path, value: Any) -> tuple[tuple[Picture, ...], Complaints]:
    """One image or a list of images."""
    each: Iterable[Any] = value if isinstance(value, list) else [value]
    images, complaints = list[Picture](), Complaints()
    for one in each:
        image, faults = _image(folder, one)
        complaints += faults
        images += [] if image is None else [image]
    return tuple(images), complaints


def _image(folder: Path, value: Any) -> tuple[Picture | None, Complaints]:
    """One image: a path beside the file, or a data URI."""
    if value is None:
        return None, []
    if complaint := text_fault(value):
        return None, [
            (complaint[0], f"image {complaint[1]} (leave it out, or give null, if there is none)")
        ]
    if value.startswith("data:"):
        head, _, body = value.partition(",")
        try:
            if not head.endswith(";base64"):
                raise ValueError("it is not base64")
            return base64.b64decode(body, validate=True), []
        except (ValueError, binascii.Error) as error:
            return None, [("image-broken", f"the data URI cannot be decoded ({error})")]
    if value.startswith(("http://", "https://")):
        return None, [
            (
                "image-path",
                f"{value} is an address: save the image beside the file and give its path",
            )
        ]
    return folder / value, []
