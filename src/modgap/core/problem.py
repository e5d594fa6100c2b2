"""A problem: one question with its diagram, its conditions and its gold answer.

All views of a problem share its id, so that statistics can pair them (the gap is measured within
problems).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from modgap.core.errors import UserError
from modgap.core.files import MOST_IMAGE_BYTES, read_bytes
from modgap.core.transcripts import writable

if TYPE_CHECKING:
    from PIL.Image import Image

_T = TypeVar("_T")

CHOICES = "\nChoices:"
"""What stands between a question and its choices, one a line: `A. 5`."""

# A number or an equation in the question itself: the image-only view of such a problem still states
# a condition.
_STATED = re.compile(r"=|(?<![A-Za-z\\])\d+(?:\.\d+)?(?![A-Za-z])")
# `\angle 1` and `line 2` name things by number; they state nothing.
_NAMED_BY_NUMBER = re.compile(
    r"(?:\\angle|\\triangle|angle|line|triangle|figure)s?\s*\d+(?:\s*(?:,"
    r"|and)\s*(?:\\angle\s*)?\d+)*"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """What one view shows of a problem, where the data set itself says so.

    Attributes:
        words: Its words, verbatim; they override the rules of `core.prompt`, also where they are
            empty (the image of MathVerse's Vision Only holds the whole text). `None` leaves them to
            the rules, if no view of the problem has words of its own.
        question: Its whole question, with its choices, which the rules of `core.prompt` word and a
            judge reads; `None` for the problem's.
        answer: Its gold answer; `None` for the problem's.
        image: Its image. Where one view of a problem has an image of its own, `None` means that
            this view has no image: the problem's would show what the view leaves out.
    """

    words: str | None
    question: str | None = None
    answer: str | None = None
    image: Path | bytes | None = None


def split_grader(grader: str) -> tuple[str, str]:
    """The name of a grader, and the kind of answer that it grades: `mathverse` and `free-form`."""
    name, _, kind = grader.partition(":")
    return name, kind


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a data set.

    Attributes:
        id: Its name, unique in the data set and shared by all of its views.
        question: The question as the data set words it.
        answer: The gold answer as the data set has it, e.g. `"25.000"`.
        image: The diagram, as a file or as encoded bytes; `None` where a data set or an import has
            none.
        structural: Structural clauses (`line A B C`), in PGPS9K's grammar.
        semantic: Semantic clauses (`AB = 7`), in PGPS9K's grammar.
        type: Problem type, for breakdowns.
        split: The split it was read from.
        index: Its position in the split, from 0.
        choices: The choices of a multiple-choice form, unused in free-form evaluation.
        shown: View name to what that view shows, where the data set says so (`pairs`, `mathverse`).
        solution: A worked answer for supervised warm-up; synthetic problems have one.
        grader: What grades it, a name of `grading.graders` and after a colon the kind of answer
            (`mathverse:free-form`); empty for a number.
        views: The views that the data set has of it; empty where every view can be made of it.
        labels: The groups that breakdowns count it in, e.g. `subject`; records keep that one.
        image_at: For reports, the place of an `image` that was read from a table:
            `FILE.parquet#ROW`.
    """

    id: str
    question: str
    answer: str
    image: Path | bytes | None = None
    structural: tuple[str, ...] = ()
    semantic: tuple[str, ...] = ()
    type: str = ""
    split: str = "test"
    index: int = 0
    choices: tuple[float, ...] = ()
    shown: Mapping[str, Shown] = field(default_factory=dict[str, Shown])
    solution: str | None = None
    grader: str = ""
    views: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    image_at: str = ""

    @property
    def leaky(self) -> bool:
        """Whether the question itself has a number or an equation, which every view then shows."""
        # With `views`, `question` is the whole text; each view shows what the data set chose of it.
        if self.views:
            return False
        asked, _, _ = self.question.partition(CHOICES)  # the choices are no conditions
        return bool(_STATED.search(_NAMED_BY_NUMBER.sub("", asked)))

    @property
    def own_words(self) -> dict[str, str]:
        """View -> its words, of the views that have words of their own; they may be empty."""
        return {view: shown.words for view, shown in self.shown.items() if shown.words is not None}

    @property
    def own_images(self) -> dict[str, Path | bytes]:
        """View -> its image, of the views that have an image of their own.

        Empty where the views share one.
        """
        return {view: shown.image for view, shown in self.shown.items() if shown.image is not None}

    @property
    def own_questions(self) -> dict[str, str]:
        """View -> its whole question, where that is not the problem's."""
        return {
            view: self.question_of(view)
            for view in self.shown
            if self.question_of(view) != self.question
        }

    @property
    def own_answers(self) -> dict[str, str]:
        """View -> its gold answer, where that is not the problem's."""
        return {
            view: self.gold_of(view) for view in self.shown if self.gold_of(view) != self.answer
        }

    def has_view(self, view: str) -> bool:
        """Whether the data set has this view of the problem, and the problem what it shows."""
        if self.views:
            return view in self.views
        return writable(view, self.semantic, self.question)

    def words_of(self, view: str) -> str | None:
        """The words that the data set has for a view.

        `None` where the rules of `core.prompt` make them.
        """
        shown = self.shown.get(view)
        return shown.words if shown else None

    def question_of(self, view: str) -> str:
        """The whole question of a view: its own, or the problem's."""
        shown = self.shown.get(view)
        return self.question if shown is None or shown.question is None else shown.question

    def gold_of(self, view: str) -> str:
        """The gold answer of a view: its own, or the problem's."""
        shown = self.shown.get(view)
        return self.answer if shown is None or shown.answer is None else shown.answer

    def image_of(self, view: str = "") -> Path | bytes | None:
        """The image of a view: its own, or the problem's where the views share one."""
        if not view or not self.own_images:
            return self.image
        shown = self.shown.get(view)
        return shown.image if shown else None

    def image_bytes(self, view: str = "") -> bytes:
        """The encoded diagram as it lies on disk.

        Raises:
            UserError: The problem has no diagram.
        """
        image = self.image_of(view)
        if image is None:
            raise UserError(
                f"problem {self.id} has no diagram{f' for the view {view}' if view else ''}"
            )
        return image if isinstance(image, bytes) else read_bytes(image, MOST_IMAGE_BYTES)

    def open_image(self, view: str = "") -> Image:
        """The decoded diagram as a model sees it, RGB, see `core.images`.

        Args:
            view: Whose diagram, where views have images of their own.

        Raises:
            UserError: There is none, or it cannot be decoded.
        """
        from modgap.core.images import decode

        return self._with_image(view, decode)

    def plain_image(self, view: str = "") -> bytes:
        """The encoded diagram, converted where other decoders would show it wrongly.

        See `core.images`.

        Raises:
            UserError: There is none, or it must be converted and cannot be decoded.
        """
        from modgap.core.images import plain_bytes

        return self._with_image(view, plain_bytes)

    def image_name(self, view: str = "") -> str:
        """What messages call the diagram."""
        image = self.image_of(view)
        file = image if isinstance(image, Path) else self.image_at if image is self.image else ""
        return f"the diagram {file}" if file else "its diagram"

    def _with_image(self, view: str, use: Callable[[bytes], _T]) -> _T:
        from modgap.core.images import TooLargeError, reason

        try:
            return use(self.image_bytes(view))
        except TooLargeError as error:
            raise UserError(f"problem {self.id}: {self.image_name(view)} {error}.") from None
        except UserError:
            raise
        # Pillow raises a dozen kinds: OSError, SyntaxError, struct.error ...
        except Exception as error:
            raise UserError(
                f"problem {self.id}: {self.image_name(view)} cannot be decoded ({reason(error)});"
                " `modgap data check DATA --benchmark NAME` names every fault."
            ) from error


def check_texts(problems: Iterable[Problem]) -> None:
    """Refuse problems whose texts no file can hold.

    Raises:
        UserError: A text has half of a surrogate pair; the message names its problem.
    """
    for problem in problems:
        shown = [(view.words, view.question, view.answer) for view in problem.shown.values()]
        texts = (problem.id, problem.question, problem.answer, problem.structural, problem.semantic,
                 problem.type, shown)  # fmt: skip
        try:
            json.dumps(texts, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"problem {problem.id!a} holds half of a surrogate pair"
                f" ({error.object[error.start]!a}), which is not a character: correct it"
                " (`modgap data check` names every fault)."
            ) from None
