r"""Anybody's problems as JSONL, to measure the gap on problems of one's own.

One object a line (the examples are wrapped here):

```
{"id": "p1", "image": "p1.png", "answer": "25", "text": "Find x.", "conditions": ["AB = 7"]}
{"id": "p2", "image": "p2.png", "answer": "25",
 "prompts": {"full-text": "AB = 7. Find x.", "image-only": "Find x."}}
```

* `id`: a string or an integer, unique in the file.
* The words: either `text`, the question, and `conditions`, a text or a list of them, from which
  every view is made as PGPS9K's are; or `prompts`, view name -> the words of that view, used as
  they are. The image goes before them and the instruction after them, so neither belongs in them.
  Without `--views`, every problem needs `full-text` and `image-only`. Also accepted: the views'
  names as keys of the line itself (`"full-text": "..."` or `"full_text": "..."`).
* `answer`: a number, or a string that the grader reads as one (`"25.000"`, `"\\frac{3}{4}"`). Or
  `answers`, a list of which each is right. `tolerance`: how far an answer may be off, a number or
  a share (`"1%"`).
* `choices`: the texts of a multiple-choice form, which every view then shows; `answer` is a letter,
  or the text of a choice.
* `image`: a path relative to the JSONL file, a data URI (`data:image/png;base64,...`), or `null` or
  no key for none. A list of several is shown as one image, side by side. An object, view name ->
  image, gives views images of their own.
* Optional: `type` and `subject`, for breakdowns, `question`, for reports, and `comment`.

A folder means the `problems.jsonl` in it. There are no splits. The paper has no such format.
`pairs.schema.json` beside this file is the same as a JSON schema.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core.errors import UserError, command_line, part
from modgap.core.files import Root, open_lines
from modgap.core.problem import Problem
from modgap.core.text import counted
from modgap.core.view import DEFAULT_VIEWS, VIEWS
from modgap.datasets.faults import (
    Counts,
    Fault,
    Progress,
    Report,
    inspections,
    json_type,
    named,
    unusual_images,
)
from modgap.datasets.json_file import JsonObject, parse, where_and_why
from modgap.datasets.pairs_line import KEYS, Pair, name_of, pair_of, view_of
from modgap.datasets.recognise import hint

if TYPE_CHECKING:
    from modgap.core.images import Inspection

FILE = "problems.jsonl"
SCHEMA = Path(__file__).with_name("pairs.schema.json")
"""The format of a line as a JSON schema."""


def read(
    path: str | Path,
    split: str = "test",
    limit: int | None = None,
    need_images: bool = True,
    allow_outside: bool = False,
) -> Iterator[Problem]:
    """The problems of a file, in its order, read lazily.

    Args:
        path: A JSONL file, or a folder with one `problems.jsonl`.
        split: Written into the problems; the file has no splits.
        limit: The most problems to read, from the first.
        need_images: Whether an image that is named but absent is an error; otherwise such a problem
            has no image.
        allow_outside: Images may be outside the file's folder.

    Raises:
        UserError: The file or a line is faulty; the message names it. Raised when the fault is
            reached.
    """
    root = Root(path, allow_outside=allow_outside)
    path = _file(path, root)
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1.")
    return _problems(path, split, limit, need_images, root)


def check(
    path: str | Path, progress: Progress | None = None, allow_outside: bool = False
) -> Report:
    """Everything that is wrong with a file, and what it holds; each image is decoded.

    Args:
        path: A JSONL file, or a folder with one `problems.jsonl`.
        progress: Called with the number of decoded images.
        allow_outside: Images may be outside the file's folder.

    Raises:
        UserError: The file does not exist.
    """
    root = Root(path, allow_outside=allow_outside)
    path = _file(path, root)
    report, counts = Report(path), Counts()
    unknown_keys, unpaired, pictureless = Counter[str](), list[str](), list[str]()
    # Image -> line and id of each problem that shows it.
    shown: dict[Path | bytes, list[tuple[int, str]]] = {}
    for item in _scan(path, unknown_keys):
        if isinstance(item, Fault):
            report.faults.append(item)
            continue
        line, pair = item
        problem, prompts = pair.problem, pair.problem.own_words
        same = len(set(prompts.values())) < len(prompts)
        counts.add(problem, bare=same if prompts else not problem.semantic)
        if prompts and not prompts.keys() >= set(DEFAULT_VIEWS):
            unpaired.append(problem.id)
        if _lacks_image(pair):
            pictureless.append(problem.id)
        for image in pair.pictures:
            shown.setdefault(image, []).append((line, problem.id))
    counts.images = len(shown)
    report.splits["test"] = counts
    report.faults += _image_faults(path, shown, root, progress)
    if not counts.problems and report.ok:
        report.faults.append(Fault(path.name, "", "empty", "holds no problem"))
    for key, number in unknown_keys.items():
        message = (
            f"the key {key!r} is not known and passed over, in {counted(number, 'line')}; known are"
            f" {', '.join(KEYS)}"
        )
        report.faults.append(Fault(path.name, "", "unknown-key", message, "warning"))
    if unpaired:
        message = (
            f"{counted(len(unpaired), 'problem')} without a prompt for one of"
            f" {', '.join(DEFAULT_VIEWS)} ({_some(unpaired)}): no gap can be measured there"
        )
        report.faults.append(Fault(path.name, "", "unpaired", message, "warning"))
    if pictureless:
        message = (
            f"{counted(len(pictureless), 'problem')} without an image ({_some(pictureless)}),"
            " which the views show: give image, or ask --views text-only"
        )
        report.faults.append(Fault(path.name, "", "no-image", message, "warning"))
    report.faults.sort(key=lambda fault: fault.line or math.inf)
    return report


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"


def _lacks_image(pair: Pair) -> bool:
    """Whether a view of the problem shows an image, and the line has none for it."""
    asked = pair.problem.own_words or DEFAULT_VIEWS
    showing = [view for view in asked if VIEWS[view].picture not in ("none", "rendered")]
    shared = any(pair.images.get("", ()))
    return any(not shared and not pair.images.get(view) for view in showing)


def _image_faults(
    path: Path,
    shown: Mapping[Path | bytes, list[tuple[int, str]]],
    root: Root,
    progress: Progress | None,
) -> Iterator[Fault]:
    present = [image for image in shown if isinstance(image, bytes) or root.fault(image) is None]
    seen = dict(zip(present, inspections(present, len(present), progress), strict=True))
    sound: list[tuple[str, Inspection]] = []
    for image, places in shown.items():
        which = f"the image {image}" if isinstance(image, Path) else "the image"
        for line, name in places:
            if image not in seen:
                assert isinstance(image, Path)
                kind, message = root.fault(image) or ("", "")
                yield Fault(path.name, name, kind, _faulty(image, kind, message), line=line)
            elif error := seen[image].error:
                yield Fault(path.name, name, "image-broken", f"{which} {error}", line=line)
            else:
                sound.append((named(name, image), seen[image]))
    yield from unusual_images(sound, path.name)


def _file(path: str | Path, root: Root) -> Path:
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if path.is_dir():
        root.check(file)
    if not file.exists():
        raise UserError(
            f"{file} does not exist: give a JSONL file, or a folder with one {FILE}."
            f"{hint(path, 'pairs')}"
        )
    return file


def _problems(
    path: Path, split: str, limit: int | None, need_images: bool, root: Root
) -> Iterator[Problem]:
    index = 0
    for item in _scan(path, Counter()):
        if isinstance(item, Fault):
            if item.severity == "error":
                raise UserError(
                    f"{path.parent}/{part(item)}."
                    f" `{command_line('data', 'check', path, '--benchmark', 'pairs')}` names every"
                    " fault."
                )
            continue
        line, pair = item
        for image in pair.pictures:
            if isinstance(image, Path) and (fault := root.fault(image)):
                if need_images:
                    words = _faulty(image, *fault)
                    raise UserError(f"{path} line {line}, {pair.problem.id}: {words}.")
                pair = replace(pair, images={})
                break
        try:
            problem = pair.whole()
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(
                f"{path} line {line}, {pair.problem.id}: one of its images cannot be decoded"
                f" ({' '.join(str(error).split())}): replace it."
            ) from error
        yield replace(problem, split=split, index=index)
        index += 1
        if index == limit:
            return


def _faulty(image: Path, kind: str, message: str) -> str:
    hint = " (a path is relative to the JSONL file)" if kind == "image-absent" else ""
    return f"the image {image} {message}{hint}"


# ---- the file, line by line ----------------------------------------------------------------------


def _scan(path: Path, unknown_keys: Counter[str]) -> Iterator[tuple[int, Pair] | Fault]:
    """Every sound pair with its line, and every fault, in the order of the file.

    Only one line is in memory at a time.
    """
    lines: dict[str, int] = {}  # id -> line
    with open_lines(path) as file:
        for number, data in enumerate(file, start=1):
            if number == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
            if not data.strip():
                continue
            value, complaint = _parse(data)
            name = ""
            if complaint:
                complaints = [complaint]
            elif not isinstance(value, JsonObject):
                complaints = [("not-an-object", f"is {json_type(value)}, not an object")]
            else:
                name = name_of(value.get("id"))
                pair, complaints = pair_of(path.parent, name, value)
                if name in lines:
                    message = f"this id stands in line {lines[name]} already: rename one of the two"
                    complaints.append(("duplicate-id", message))
                if name:
                    lines.setdefault(name, number)
                for key in value:
                    if key not in KEYS and view_of(key) not in VIEWS:
                        unknown_keys[key] += 1
                if not complaints:
                    yield number, pair
            yield from (
                Fault(path.name, name, kind, message, line=number) for kind, message in complaints
            )


def _parse(data: bytes) -> tuple[Any, tuple[str, str] | None]:
    """The value of a line, or what is wrong with it."""
    try:
        return parse(data.decode()), None
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return None, ("truncated", "the last line is torn: copy the file again")
        return None, (
            "encoding",
            f"the byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8",
        )
    except json.JSONDecodeError as error:
        if not data.endswith(b"\n"):
            return None, (
                "truncated",
                f"the last line is torn ({where_and_why(error)}): copy the file again",
            )
        return None, ("malformed", f"is not valid JSON ({where_and_why(error)}): fix it")
    except (ValueError, RecursionError) as error:
        return None, ("malformed", f"cannot be read as JSON ({error}): fix it")
