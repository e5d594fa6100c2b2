r"""Anybody's problems as JSONL, to measure the gap on problems of one's own.

One object a line (the example is wrapped here):

```
{"id": "p1", "image": "p1.png", "answer": "25",
 "prompts": {"full-text": "AB = 7. Find x.", "image-only": "Find x."}}
```

* `id`: a string or an integer, unique in the file. `answer`: a number, or a string that the grader
  reads as one (`"25.000"`, `"\\frac{3}{4}"`).
* `prompts`: view name -> the words of that view, used as they are. The image goes before them and
  the instruction after them, so neither belongs in them. Without `--views`, every problem needs
  `full-text` and `image-only`.
* `image`: a path relative to the JSONL file, a data URI (`data:image/png;base64,...`), or `null` or
  no key for none.
* Optional: `type`, for the breakdown, and `question`, for reports.

Also accepted: the views' names as keys of the line itself (`"full-text": "..."` or
`"full_text": "..."`). A folder means the `problems.jsonl` in it. There are no splits. The paper has
no such format.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core.errors import UserError, command_line, part, unknown
from modgap.core.files import Root, open_lines
from modgap.core.problem import Problem, Shown
from modgap.core.view import DEFAULT_VIEWS, VIEWS
from modgap.datasets.faults import (
    Counts,
    Fault,
    Progress,
    Report,
    inspections,
    json_type,
    missing,
    named,
    text_fault,
    unusual_images,
)
from modgap.datasets.json_file import JsonObject, parse, where_and_why
from modgap.datasets.recognise import hint
from modgap.grading.number import parse_number

if TYPE_CHECKING:
    from modgap.core.images import Inspection

FILE = "problems.jsonl"
_KEYS = ("id", "image", "answer", "prompts", "type", "question")
_CHOICES = f"choose from {', '.join(VIEWS)}"

Complaints = list[tuple[str, str]]  # kind and message of each fault


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
    unknown_keys, unpaired = Counter[str](), list[str]()
    # Image -> line and id of each problem that shows it.
    shown: dict[Path | bytes, list[tuple[int, str]]] = {}
    for item in _scan(path, unknown_keys):
        if isinstance(item, Fault):
            report.faults.append(item)
            continue
        line, problem = item
        prompts = problem.own_words
        counts.add(problem, bare=len(set(prompts.values())) < len(prompts))
        if not prompts.keys() >= set(DEFAULT_VIEWS):
            unpaired.append(problem.id)
        if problem.image is not None:
            shown.setdefault(problem.image, []).append((line, problem.id))
    counts.images = len(shown)
    report.splits["test"] = counts
    report.faults += _image_faults(path, shown, root, progress)
    if not counts.problems and report.ok:
        report.faults.append(Fault(path.name, "", "empty", "holds no problem"))
    for key, number in unknown_keys.items():
        message = (
            f"the key {key!r} is not known and passed over, in {number} lines; known are"
            f" {', '.join(_KEYS)}"
        )
        report.faults.append(Fault(path.name, "", "unknown-key", message, "warning"))
    if unpaired:
        message = (
            f"{len(unpaired)} problems have no prompt for one of {', '.join(DEFAULT_VIEWS)}"
            f" ({', '.join(unpaired[:3])}{' ...' if len(unpaired) > 3 else ''}): without it there"
            " is no gap to measure"
        )
        report.faults.append(Fault(path.name, "", "unpaired", message, "warning"))
    report.faults.sort(key=lambda fault: fault.line or math.inf)
    return report


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
        line, problem = item
        image = problem.image
        if isinstance(image, Path) and (fault := root.fault(image)):
            if need_images:
                words = _faulty(image, *fault)
                raise UserError(f"{path} line {line}, {problem.id}: {words}.")
            image = None
        yield replace(problem, split=split, index=index, image=image)
        index += 1
        if index == limit:
            return


def _faulty(image: Path, kind: str, message: str) -> str:
    hint = " (a path is relative to the JSONL file)" if kind == "image-absent" else ""
    return f"the image {image} {message}{hint}"


# ---- the file, line by line ----------------------------------------------------------------------


def _scan(path: Path, unknown_keys: Counter[str]) -> Iterator[tuple[int, Problem] | Fault]:
    """Every sound problem with its line, and every fault, in the order of the file.

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
                name = _name(value.get("id"))
                problem, complaints = _problem(path.parent, name, value)
                if name in lines:
                    message = f"this id stands in line {lines[name]} already: rename one of the two"
                    complaints.append(("duplicate-id", message))
                if name:
                    lines.setdefault(name, number)
                for key in value:
                    if key not in _KEYS and _view(key) not in VIEWS:
                        unknown_keys[key] += 1
                if not complaints:
                    yield number, problem
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


def _name(value: Any) -> str:
    """The id as a string; empty if there is no valid one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and not text_fault(value) else ""


def _view(key: str) -> str:
    return key.replace("_", "-")


def _problem(folder: Path, name: str, value: JsonObject) -> tuple[Problem, Complaints]:
    """A problem, and what is wrong with it; only a problem without complaints can be used."""
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
    answer, found = _answer(value)
    complaints += found
    prompts, found = _prompts(value)
    complaints += found
    image, found = _image(folder, value.get("image"))
    complaints += found
    for key in ("type", "question"):
        if value.get(key) is not None and (complaint := text_fault(value[key], may_be_empty=True)):
            complaints.append((complaint[0], f"{key} {complaint[1]}"))
    question = (
        value.get("question") or prompts.get("image-only") or next(iter(prompts.values()), "")
    )
    shown = {view: Shown(words) for view, words in prompts.items()}
    return (
        Problem(name, question, answer, image, type=value.get("type") or "", shown=shown),
        complaints,
    )


def _answer(value: JsonObject) -> tuple[str, Complaints]:
    if value.get("answer") is None:
        return "", [("missing-key", missing("answer", value))]
    number = isinstance(value["answer"], int | float) and not isinstance(value["answer"], bool)
    answer = repr(value["answer"]) if number else value["answer"]
    if complaint := text_fault(answer):
        return "", [(complaint[0], f"answer {complaint[1]}")]
    if parse_number(answer) is None:
        return "", [("not-a-number", f"answer {answer!r} is not a number that the grader can read")]
    return answer, []


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
        if key not in _KEYS and _view(key) in VIEWS:
            given.append((key, words))
    for key, words in given:
        view = _view(key)
        if view not in VIEWS:
            complaints.append(("unknown-view", part(unknown("view", key, VIEWS))))
        elif complaint := text_fault(words):
            complaints.append((complaint[0], f"the prompt for {view} {complaint[1]}"))
        elif "<image>" in words:
            message = (
                f"the prompt for {view} holds the placeholder <image>: leave it out, the image goes"
                " before the words"
            )
            complaints.append(("placeholder", message))
        elif view in prompts:
            complaints.append(("duplicate-key", f"the prompt for {view} is given twice: keep one"))
        else:
            prompts[view] = words
    if not prompts and not complaints:
        complaints.append(
            (
                "missing-key",
                f"{missing('prompts', value)}: give the words of each view ({_CHOICES})",
            )
        )
    if inner is not None:
        complaints += [
            ("duplicate-key", f"the prompt for {key} is given twice: keep one")
            for key in inner.repeated
        ]
    return prompts, complaints


def _image(folder: Path, value: Any) -> tuple[Path | bytes | None, Complaints]:
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
