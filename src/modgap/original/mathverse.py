"""The original's MathVerse files.

What their names mean, which of them belong together, and what their rows hold.

```
results_mathverse/MODEL_vision_tries_4_generations.jsonl              one line a sample
results_mathverse/MODEL_vision_tries_4_generations_scored_qwen.jsonl  the same and `correct` (0, 1)
```

`vision`, `text` or `full` says which versions. The original's `eval-results.py` pools whatever
files it is given.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.files import Root, open_lines, read_bytes
from modgap.core.view import VERSIONS
from modgap.grading.mathverse import FREE_FORM, MULTI_CHOICE, question_type_of

_NAME = re.compile(r"(.+?)_(vision|text|full)_tries_([0-9]+)_generations(_scored_qwen)?", re.DOTALL)
_SCORED = "_scored_qwen"
_STRINGS = ("problem_index", "problem_version", "question", "answer", "prediction")


@dataclass(frozen=True, slots=True)
class GenerationFile:
    """A file, and what its name says.

    Attributes:
        path: Where it is.
        model: The model's name as the original wrote it; the file's name where it is another one.
        versions: `vision`, `text` or `full`; empty where the name does not say.
        tries: Samples of each question; 0 where the name does not say.
    """

    path: Path
    model: str
    versions: str = ""
    tries: int = 0


@dataclass(frozen=True, slots=True)
class GenerationRow:
    """One line: a sample, with its question and the gold answer that it was scored against.

    Attributes:
        problem_id: `problem_index`.
        view: The view that its version is.
        sample: `sample_id`.
        question: `question_for_eval`.
        answer: The gold answer.
        question_type: `multi-choice` or `free-form`.
        prediction: What the model said.
        correct: The original's verdict; `None` in a file that is not scored.
    """

    problem_id: str
    view: str
    sample: int
    question: str
    answer: str
    question_type: str
    prediction: str
    correct: bool | None


@dataclass(slots=True)
class Generations:
    """What a file holds.

    Attributes:
        file: Which one.
        rows: Its sound lines, in order.
        odd: Irregularity -> where it is (`line 5`).
        digest: 16 hex digits that change with any byte of the file.
    """

    file: GenerationFile
    rows: list[GenerationRow] = field(default_factory=list[GenerationRow])
    odd: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    digest: str = ""

    @property
    def samples(self) -> int:
        """The number of samples that each question should have."""
        return max(self.file.tries, 1 + max(row.sample for row in self.rows))


def generation_files(
    paths: Iterable[Path], results_root: Path | None = None, *, allow_outside: bool = False
) -> list[GenerationFile]:
    """The files among paths and in folders among them; empty where these hold something else.

    A file with a scored copy beside it is left out: the copy has the same lines.

    Args:
        paths: As they were given.
        results_root: Files anywhere below it are taken, too.
        allow_outside: Links in folders may lead out of them.

    Raises:
        UserError: A path does not exist, a link leads out of its folder, or some paths hold
            generations and others do not.
    """
    found: list[Path] = []
    without: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(
                f"{path} does not exist: name answer folders, or files *_generations.jsonl."
            )
        here = (
            [path]
            if path.is_file()
            else _with_predictions(path.glob("*.jsonl"), Root(path, allow_outside=allow_outside))
        )
        found += here
        if not here:
            without.append(path)
    if results_root is not None and results_root.is_dir():
        root = Root(results_root, allow_outside=allow_outside)
        found += _with_predictions(results_root.rglob("*.jsonl"), root)
    if found and without:
        raise UserError(
            f"{found[0]} holds MathVerse's answers and {without[0]} does not: import them one by"
            " one."
        )
    whole = {path.resolve(): path for path in found}
    return [
        _describe(path)
        for place, path in whole.items()
        if place.with_name(f"{place.stem}{_SCORED}.jsonl") not in whole
    ]


def _with_predictions(paths: Iterable[Path], root: Root) -> list[Path]:
    found: list[Path] = []
    for path in sorted(paths):
        root.check(path)
        with open_lines(path) as lines:
            if b'"prediction"' in next(lines, b""):
                found.append(path)
    return found


def _describe(path: Path) -> GenerationFile:
    match = _NAME.fullmatch(path.stem)
    if match is None:
        return GenerationFile(path, path.stem.removesuffix(_SCORED).removesuffix("_generations"))
    return GenerationFile(path, match[1], match[2], int(match[3]))


def by_model(files: Sequence[GenerationFile]) -> dict[str, list[GenerationFile]]:
    """Name of a run -> its files.

    A model's text and vision files make one run; files of one kind in two folders make two runs.
    """
    models: dict[str, list[GenerationFile]] = {}
    for file in files:
        models.setdefault(file.model, []).append(file)
    runs: dict[str, list[GenerationFile]] = {}
    for model, of_model in models.items():
        apart = len({file.versions for file in of_model}) < len(of_model)
        for file in of_model:
            runs.setdefault(
                f"{file.path.absolute().parent.name}/{model}" if apart else model, []
            ).append(file)
    for name, of_run in runs.items():
        kinds = [file.versions for file in of_run]
        if len(set(kinds)) < len(kinds) or ("full" in kinds and len(kinds) > 1):
            raise UserError(
                f"{of_run[0].path} and {of_run[1].path} both hold answers of {name} to the same"
                " versions, and are not pooled into one number: import one of them, or each into a"
                " run of its own."
            )
    return runs


def read_generations(file: GenerationFile) -> Generations:
    """Read a file; an incomplete last line and lines of unknown versions are left out and reported.

    Raises:
        UserError: Another line is broken, or lacks what the original writes; or there is no sound
            line.
    """
    whole = read_bytes(file.path)
    read = Generations(file, digest=hashlib.sha256(whole).hexdigest()[:16])
    lines = whole.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                read.odd["torn, as by a kill, and left out"] = [f"line {number}"]
                continue
            raise UserError(
                f"{file.path} line {number} is not valid JSON ({error}): fix or remove it."
            ) from None
        row = _row(file.path, number, value)
        if row is None:
            version = value["problem_version"]
            read.odd.setdefault(f"of the unknown version {version!r} and left out", []).append(
                f"line {number}"
            )
        else:
            read.rows.append(row)
    if not read.rows:
        raise UserError(f"{file.path} holds no answer to MathVerse.")
    return read


def _row(path: Path, number: int, value: Any) -> GenerationRow | None:
    if not isinstance(value, dict):
        raise UserError(
            f"{path} line {number} is not an object: the original's inference.py writes one a line."
        )
    for key in _STRINGS:
        if not isinstance(value.get(key), str):
            raise UserError(
                f"{path} line {number}: {key} is missing or not a string: is it a file of"
                " inference.py's?"
            )
    view = VERSIONS.get(value["problem_version"])
    sample, correct = value.get("sample_id", 0), value.get("correct")
    if not isinstance(sample, int) or sample < 0:
        raise UserError(f"{path} line {number}: sample_id {sample!r} is not a whole number from 0.")
    if correct not in (None, 0, 1):
        raise UserError(f"{path} line {number}: correct {correct!r} is neither 0 nor 1.")
    if view is None:
        return None
    kind = question_type_of(str(value.get("question_type") or FREE_FORM))
    if kind is None:
        known = f"make it {MULTI_CHOICE} or {FREE_FORM}"
        raise UserError(
            f"{path} line {number}: the question type {value['question_type']!r} is not known:"
            f" {known}."
        )
    return GenerationRow(
        value["problem_index"],
        view,
        sample,
        value["question"],
        value["answer"],
        kind,
        value["prediction"],
        None if correct is None else bool(correct),
    )
