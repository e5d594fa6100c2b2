"""What identifies a data set: a run is refused when its problems are no longer the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.files import MOST_IMAGE_BYTES, read_bytes
from modgap.core.json_files import short_digest
from modgap.core.problem import Problem
from modgap.core.rows import recorded_grader


def fingerprint(problems: Iterable[Problem]) -> str:
    """16 hex digits that change when a problem's words, its answer or its diagram change.

    See `fingerprints`.
    """
    return fingerprints(problems)[0]


def fingerprints(problems: Iterable[Problem]) -> tuple[str, dict[str, list[str]]]:
    """The fingerprint of a data set, and of each problem by its id that of its words and diagrams.

    Older versions ignored transparency, orientation and depth (see `core.images`). A diagram that
    they showed differently has another digest, so that responses of both kinds do not mix in a run.
    """
    digest, seen = hashlib.sha256(), dict[tuple[Path, int], str]()
    each: dict[str, list[str]] = {}
    for problem in problems:
        words: list[Any] = [problem.question, problem.answer, problem.structural, problem.semantic,
                            problem.own_words]  # fmt: skip
        image = None
        own_images = problem.own_images
        if problem.image is not None and not own_images:
            # A file has the longer digest that it has had since the first runs.
            image = _image_digest(
                problem, problem.image, seen, 64 if isinstance(problem.image, Path) else 16
            )
        fields = (
            problem.id,
            problem.question,
            problem.answer,
            problem.structural,
            problem.semantic,
            image,
        )
        digest.update(json.dumps([*fields, problem.own_words], sort_keys=True).encode())
        own_questions, own_answers = problem.own_questions, problem.own_answers
        views: dict[str, str] = {}
        if own_images or own_questions or own_answers or problem.grader:
            views = {
                view: _image_digest(problem, image, seen) for view, image in own_images.items()
            }
            more = (views, own_questions, own_answers, recorded_grader(problem.grader))
            digest.update(json.dumps(more, sort_keys=True).encode())
            words += more[1:]
        each[problem.id] = [short_digest(words), short_digest([image, views])]
    return digest.hexdigest()[:16], each


def _image_digest(
    problem: Problem, image: Path | bytes, seen: dict[tuple[Path, int], str], size: int = 16
) -> str:
    """Digest of an encoded diagram of `size` bytes.

    A file that several problems or versions show is read once.

    Raises:
        UserError: The file cannot be read.
    """
    from modgap.core.images import content_digest

    if isinstance(image, bytes):
        return content_digest(image, size)
    key = (image, size)
    if key not in seen:
        try:
            seen[key] = content_digest(read_bytes(image, MOST_IMAGE_BYTES), size)
        except OSError as error:
            raise UserError(
                f"problem {problem.id}: the diagram {image} cannot be read ({error.strerror}): "
                "`modgap data check DATA --benchmark NAME` names every fault."
            ) from None
    return seen[key]
