"""The original repository's answer folders.

What their names mean, which of them belong together, and what they hold.

```
results/new_9k_MODEL_full_cond_max4096_n4_tmp_0.6_bs16/qprob_N_attemptJ.txt    full-text
results/new_9k_MODEL_4096_tmp_0.6/qprob_N_attemptJ.txt                         image-only
```

The original's `eval.py` takes a folder as it is; here every file that is not an answer to a problem
is reported.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modgap.core.errors import UserError
from modgap.core.files import Root
from modgap.core.view import get_view
from modgap.grading.answer import grade

Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the number of items done, and their total."""

_ANSWER = re.compile(r"q(.+)_attempt(0|[1-9][0-9]{0,3})\.txt", re.DOTALL)
_PREFIX = "new_9k_"
_FULL_TEXT = re.compile(
    r"(.*?)_?full_cond(?:_max([0-9]+))?(?:_n[0-9]+)?(?:_tmp_([^_]+))?(?:_bs[0-9]+)?", re.DOTALL
)
_IMAGE_ONLY = re.compile(r"(.+)_([0-9]+)_tmp_([^_]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class AnswerFolder:
    """A folder of answers, and what its name says.

    Attributes:
        path: Where it is.
        view: The view that its answers are to.
        model: The model's name as the original wrote it; empty where the folder's name has none.
        max_tokens: The token limit; None where the name does not say.
        temperature: The temperature; None where the name does not say.
    """

    path: Path
    view: str
    model: str
    max_tokens: int | None = None
    temperature: float | None = None


def describe(path: Path, view: str | None = None) -> AnswerFolder:
    """What the name of an answer folder says.

    A model with slashes in its name (`yaogy/qwen...`, `/ckpt/step_200`) made nested folders; their
    names are joined again.
    """
    name = path.name
    for number, part in enumerate(reversed(parts := path.absolute().parts), start=1):
        if part.startswith(_PREFIX):
            name = "/".join(parts[-number:])
            break
    name = name.removeprefix(_PREFIX)
    match = _FULL_TEXT.fullmatch(name)
    guessed = "full-text" if "full_cond" in name else "image-only"
    if match is None and guessed == "image-only":
        match = _IMAGE_ONLY.fullmatch(name)
    chosen = get_view(view).name if view else guessed
    if match is None:
        return AnswerFolder(path, chosen, name.partition("_full_cond")[0])
    model, tokens, temperature = match.groups()
    try:
        return AnswerFolder(
            path,
            chosen,
            model,
            int(tokens) if tokens else None,
            float(temperature) if temperature else None,
        )
    except ValueError:
        return AnswerFolder(path, chosen, model)


def with_answers(path: Path) -> Path:
    """The folder itself, if it holds an answer."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: name one that holds qprob_N_attemptJ.txt.")
    if not any(_ANSWER.fullmatch(name) for name in os.listdir(path)):
        raise UserError(
            f"{path} holds no qprob_N_attemptJ.txt: name the folders below it, or --results-root"
            f" {path}."
        )
    return path


def folders_below(root: Path) -> list[Path]:
    """Every folder below that holds answers; links to folders are followed, but not back up."""
    if not root.is_dir():
        raise UserError(
            f"--results-root {root} is not a folder: give the one that holds the answer folders."
        )
    found: list[Path] = []
    for place, names, files in os.walk(root, followlinks=True):
        here = os.path.realpath(place)
        names[:] = sorted(
            name
            for name in names
            if not f"{here}/".startswith(f"{os.path.realpath(os.path.join(place, name))}/")
        )
        if place != str(root) and any(_ANSWER.fullmatch(name) for name in files):
            found.append(Path(place))
    if not found:
        raise UserError(f"--results-root {root} has no folder with qprob_N_attemptJ.txt below it.")
    return found


def by_model(folders: Iterable[AnswerFolder]) -> dict[str, list[AnswerFolder]]:
    """Model -> its folders, one for each view.

    Folders whose names have no model belong to the only model that is named.
    """
    folders = list(folders)
    models = sorted({folder.model for folder in folders if folder.model})
    runs: dict[str, list[AnswerFolder]] = {}
    for folder in sorted(folders, key=lambda folder: (folder.model, folder.view, folder.path)):
        if not folder.model and len(models) > 1:
            raise UserError(
                f"{folder.path} does not say whose answers it holds, and there are {len(models)}"
                f" models ({', '.join(models)}): rename it like the original's folders,"
                " new_9k_MODEL_4096_tmp_0.6."
            )
        of_model = runs.setdefault(folder.model or (models[0] if models else ""), [])
        twin = next((other for other in of_model if other.view == folder.view), None)
        if twin:
            who = f"of {folder.model}" if folder.model else "of one model (their names have none)"
            raise UserError(
                f"{twin.path} and {folder.path} are both {folder.view} answers {who}, and are not"
                " pooled into one number: import one of them, or each into a run of its own."
            )
        of_model.append(folder)
    return runs


# ---- what they hold ------------------------------------------------------------------------------

NO_PROBLEM = "match no problem of the gold file and are left out"
BAD_NAME = "are not named like an answer (qprob_N_attemptJ.txt) and are left out"
NOT_UTF8 = (
    "hold bytes that are not UTF-8, read as \N{REPLACEMENT CHARACTER}; the original stops at them"
)


@dataclass(slots=True)
class Answers:
    """What an answer folder holds.

    Attributes:
        folder: Which one.
        texts: (problem id, attempt) -> the response.
        odd: Irregularity -> names of files.
        other: `total`, `correct`, `none` and `characters` of files that are not responses but that
            `eval.py` counts.
    """

    folder: AnswerFolder
    texts: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    odd: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    other: Counter[str] = field(default_factory=Counter[str])

    @property
    def attempts(self) -> int:
        """Answers that each problem should have: the largest attempt of all, plus 1."""
        return 1 + max(attempt for _, attempt in self.texts)

    def keep(self, samples: int, golds: Mapping[str, str]) -> None:
        """Leave out the attempts that some view of the run lacks: `samples` and later ones."""
        for key in [key for key in self.texts if key[1] >= samples]:
            name, text = file_name(*key), self.texts.pop(key)
            self.odd.setdefault(
                f"are left out, as the other view has only {samples} of a problem", []
            ).append(name)
            self.leave_out(name, text, golds)

    def leave_out(self, name: str, text: str, golds: Mapping[str, str]) -> None:
        """Count a file for the original's figures only.

        The text between its first two `_` is the problem there.
        """
        parts = name.split("_")
        if len(parts) < 2:
            return
        self.other["characters"] += len(text)
        gold = golds.get(f"prob_{parts[1]}")
        if gold is not None:
            outcome = grade(text, gold, "paper").outcome
            self.other["total"] += 1
            self.other["correct"] += outcome == "correct"
            self.other["none"] += outcome == "no_answer"


def file_name(problem_id: str, attempt: int) -> str:
    """The name that the original gives an answer."""
    return f"q{problem_id}_attempt{attempt}.txt"


def read_answers(
    folder: AnswerFolder,
    golds: Mapping[str, str],
    progress: Progress | None = None,
    *,
    allow_outside: bool = False,
) -> Answers:
    """Read the answers in a folder.

    Args:
        folder: The folder.
        golds: Problem id -> gold answer.
        progress: Called as files are read.
        allow_outside: Links in the folder may lead out of it.

    Raises:
        UserError: None of them answers one of the problems, or one leads out of the folder.
    """
    answers = Answers(folder)
    root = Root(folder.path, allow_outside=allow_outside)
    names = sorted(name for name in os.listdir(folder.path) if not (folder.path / name).is_dir())
    for number, name in enumerate(names, start=1):
        data = root.read_bytes(folder.path / name)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            answers.odd.setdefault(NOT_UTF8, []).append(name)
            text = data.decode(errors="replace")
        # As `read_text` of the original's scripts reads line ends.
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        match = _ANSWER.fullmatch(name)
        if match and match[1] in golds:
            answers.texts[match[1], int(match[2])] = text
        else:
            answers.odd.setdefault(NO_PROBLEM if match else BAD_NAME, []).append(name)
            answers.leave_out(name, text, golds)
        if progress and (number % 100 == 0 or number == len(names)):
            progress(f"reading {folder.view}", number, len(names))
    if not answers.texts:
        raise UserError(
            f"no answer in {folder.path} is to a problem of --gt: is it the same data set and"
            " split?"
        )
    return answers
