"""Geometry3K (Lu et al., 2021): plane geometry with its conditions as annotated logic forms.

`read` gives problems with a free-form answer, `read_choices` the same with their four choices.
What the files may be is in `records`; every fault is found by `check`.

Views: a problem's `question` is its text without what the diagram states, and its conditions are
the sentences of `diagram_logic_form`. So `image-only` leaves to the picture what the picture says,
`full-text` has the whole text and the diagram in words, and `as-published` is the set's own text.
Without logic forms nothing says what the picture shows: `full-text` is then the text alone, and
such problems are counted as without conditions.

A problem whose diagram cannot be put into words, because a predicate is not known or its form is
beyond repair, cannot be used: its full text would lack a condition. What can be repaired is, and is
a warning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError, command_line, part, unknown
from modgap.core.files import Root
from modgap.core.problem import CHOICES, Problem, Shown
from modgap.core.view import AS_PUBLISHED, VIEWS
from modgap.datasets.faults import (
    Fault,
    json_type,
    text_fault,
)
from modgap.datasets.geometry3k.facts import clauses, contradictions, question
from modgap.datasets.geometry3k.forms import Form, FormError, parse
from modgap.datasets.geometry3k.records import (
    SPLITS,
    Record,
    Sources,
    annotated,
    place_of,
    records,
    sources_of,
)
from modgap.grading.choices import LETTERS, parse_choices
from modgap.grading.graders import CHOICE_GRADER
from modgap.grading.number import parse_number

_TEXTS = ("compact_text", "problem_text", "problem", "question", "text", "annotat_text")
_PUBLISHED = ("problem_text", *_TEXTS)
_ANSWERS = ("answer", "ground_truth")
_CHOICES = ("compact_choices", "choices", "options")
_BLOCK = re.compile(r"\s*\b(?:Choices|Options)\s*:.*", re.DOTALL | re.IGNORECASE)
_CLOSE = 0.01
"""How far a choice and its `precise_value` may differ, as a share."""


def read(
    path: str | Path, split: str = "test", limit: int | None = None, allow_outside: bool = False
) -> Iterator[Problem]:
    """The problems of a split, with the value of the right choice as their answer.

    Args:
        path: A folder or file, see `records`.
        split: `train`, `val` or `test`.
        limit: The most problems to read, from the first.
        allow_outside: Links in the folder may lead out of it.

    Raises:
        UserError: There is no such split, or a problem cannot be used; the message names it. Raised
            when the fault is reached.
    """
    return _read(path, split, limit, allow_outside, choices=False)


def read_choices(
    path: str | Path, split: str = "test", limit: int | None = None, allow_outside: bool = False
) -> Iterator[Problem]:
    """As `read`, with the choices in the question and the letter as the answer."""
    return _read(path, split, limit, allow_outside, choices=True)


# ---- reading -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Found:
    """A problem, if it can be used, and what is wrong with it."""

    problem: Problem | None
    faults: list[Fault] = field(default_factory=list[Fault])
    has_forms: bool = False
    empty_forms: int = 0


def _read(
    path: str | Path, split: str, limit: int | None, allow_outside: bool, *, choices: bool
) -> Iterator[Problem]:
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1.")
    place = place_of(path)
    root = Root(place, allow_outside=allow_outside)
    sources = sources_of(place, root)
    there = sources.splits
    if there and split not in there and not any(not source.split for source in sources.found):
        raise UserError(
            f"{path} has no {split} split: it has {', '.join(there)}; copy the folder of that split"
            " beside them, or give the folder of one split, which is then measured on as it is."
        )
    return _problems(sources, split, limit, root, choices=choices)


def _problems(
    sources: Sources, split: str, limit: int | None, root: Root, *, choices: bool
) -> Iterator[Problem]:
    benchmark = "geometry3k-choices" if choices else "geometry3k"
    every = command_line("data", "check", sources.place, "--benchmark", benchmark)
    forms = annotated(sources.annotated, root)
    index, seen = 0, set[str]()
    for item in records(sources, split, root):
        if isinstance(item, Record) and item.split not in ("", split):
            continue
        found = Found(None, [item]) if isinstance(item, Fault) else (
            problem_of(item, index, forms, choices=choices)
        )  # fmt: skip
        faults = found.faults
        if (
            found.problem
            and not errors_of(faults)
            and (fault := image_fault(found.problem, item, root))
        ):
            faults = [fault]
        if found.problem and found.problem.id in seen:
            faults = [twice(item, found.problem.id)]
        for fault in errors_of(faults):
            raise UserError(f"{sources.place}/{part(fault)}. `{every}` names every fault.")
        if found.problem:
            seen.add(found.problem.id)
            yield found.problem
            index += 1
        if index == limit:
            return


def errors_of(faults: Iterable[Fault]) -> list[Fault]:
    """Those that make a problem unfit."""
    return [fault for fault in faults if fault.severity == "error"]


def twice(record: Record | Fault, name: str) -> Fault:
    """The fault of an id that another problem has."""
    line = record.number if isinstance(record, Record) else record.line
    return Fault(record.file, name, "duplicate-id", "this id is there twice: rename one", line=line)


def image_fault(problem: Problem, record: Record | Fault, root: Root) -> Fault | None:
    """What is wrong with the place of a problem's diagram."""
    line = record.number if isinstance(record, Record) else record.line
    if problem.image is None:
        return Fault(record.file, problem.id, "image-absent", "has no diagram", line=line)
    if isinstance(problem.image, Path) and (wrong := root.fault(problem.image)):
        kind, message = wrong
        words = f"the diagram {problem.image.name} {message}"
        return Fault(record.file, problem.id, kind, words, line=line)
    return None


def problem_of(
    record: Record, index: int, forms: Mapping[str, Mapping[str, list[str]]], *, choices: bool
) -> Found:
    """A problem from its record."""
    value, split = record.value, record.split or "test"
    name = record.name or f"{split}-{record.number}"
    found = Found(None)

    def fault(kind: str, message: str, *, fatal: bool = True) -> None:
        severity = "error" if fatal else "warning"
        found.faults.append(Fault(record.file, name, kind, message, severity, record.number))

    words = _first_text(value, _TEXTS)
    published = _first_text(value, _PUBLISHED)
    if words and (complaint := text_fault(words)):
        fault(*complaint)
    if isinstance(diagrams := value.get("images"), list) and len(diagrams) > 1:
        fault("several-images", f"has {len(diagrams)} diagrams: the first is shown", fatal=False)
    options = _options(value, published)
    if options and not _list(value, _CHOICES):
        words, published = _BLOCK.sub("", words), _BLOCK.sub("", published)
    diagram, text = _forms_of(value, forms.get(name, {}))
    found.has_forms = diagram is not None
    shown = forms_read(diagram or [], found, fault, fatal=True)
    stated = forms_read(text or [], found, fault, fatal=not words)
    for said in contradictions([*shown, *stated]):
        fault("contradiction", f"the forms contradict each other: {said}", fatal=False)
    asked = question(stated, shown, words)
    if not asked.strip():
        fault("missing-key", "has no text (problem_text or problem) and no logic form of one")
    gold = _gold(value, options, fault, choices=choices)
    if errors_of(found.faults):
        return found
    said = clauses(shown, stated, words)
    block = "".join(f"\n{LETTERS[n]}. {option}" for n, option in enumerate(options))
    ending = f"{CHOICES}{block}" if choices else ""
    whole = f"{words or asked}{ending}"
    own = {view.name: Shown(None, question=whole) for view in VIEWS.values() if view.conditions}
    own[AS_PUBLISHED] = Shown(None, question=f"{published or words or asked}{ending}")
    image = record.image
    found.problem = Problem(
        id=name,
        question=f"{asked}{ending}",
        answer=gold,
        image=image,
        image_at=f"{record.path.absolute()}#{record.number}" if isinstance(image, bytes) else "",
        structural=said.structural,
        semantic=said.semantic,
        type=", ".join(map(str, _list(value, ("problem_type_graph",)))),
        split=split,
        index=index,
        shown={view: one for view, one in own.items() if one.question != f"{asked}{ending}"},
        grader=CHOICE_GRADER if choices else "",
        labels=_labels(value),
    )
    return found


def _labels(value: Mapping[str, Any]) -> dict[str, str]:
    goal = ", ".join(map(str, _list(value, ("problem_type_goal",))))
    return {"subject": goal} if goal else {}


def _first_text(value: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The first text under one of these keys, without the hub's image placeholder."""
    for key in keys:
        text = value.get(key)
        if isinstance(text, str) and text.replace("<image>", "").strip():
            return text.replace("<image>", "").strip()
    return ""


def _list(value: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
    """The first list under one of these keys; a text that holds a JSON list counts."""
    for key in keys:
        found = _decoded(value.get(key))
        if isinstance(found, list) and found:
            return found
        if isinstance(found, str) and found.strip():
            return [found]
    return []


def _decoded(value: Any) -> Any:
    """A value, or what a text of JSON holds."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


# ---- logic forms ---------------------------------------------------------------------------------


def _forms_of(
    value: Mapping[str, Any], annotations: Mapping[str, list[str]]
) -> tuple[list[Any] | None, list[Any] | None]:
    """The forms of the diagram and of the text; `None` where there are none at all."""
    nested = _decoded(value.get("logic_form", value.get("logic_forms")))
    places = [value, nested if isinstance(nested, dict) else {}]

    def forms(kind: str) -> list[Any] | None:
        for place in places:
            for key in (f"{kind}_logic_form", f"{kind}_logic_forms"):
                if isinstance(found := _decoded(place.get(key)), list):
                    return found
        return annotations.get(kind)

    return forms("diagram"), forms("text")


def forms_read(texts: Sequence[Any], found: Found, fault: Any, *, fatal: bool) -> list[Form]:
    """The forms that can be read; what is wrong with the others becomes faults."""
    forms: list[Form] = []
    for text in texts:
        if not isinstance(text, str):
            fault("malformed-form", f"a logic form is {json_type(text)}, not a string", fatal=fatal)
        elif not text.strip():
            found.empty_forms += 1
        else:
            try:
                read = parse(text)
            except FormError as error:
                fault(error.kind, str(error), fatal=fatal)
                continue
            forms.append(read.form)
            for repair in read.repairs:
                fault("repaired-form", repair, fatal=False)
    return forms


# ---- answers -------------------------------------------------------------------------------------


def _options(value: Mapping[str, Any], words: str) -> list[str]:
    """The choices: a list, or a block at the end of the text."""
    if given := _list(value, _CHOICES):
        return [str(option).strip() for option in given][: len(LETTERS)]
    return list(parse_choices(words).values()) if _BLOCK.search(words) else []


def _gold(value: Mapping[str, Any], options: Sequence[str], fault: Any, *, choices: bool) -> str:
    """The gold answer; empty after a fault."""
    given = next((value[key] for key in _ANSWERS if value.get(key) is not None), None)
    answer = str(given).strip() if isinstance(given, str | int | float) else ""
    if not answer:
        fault("missing-key", "has no answer")
        return ""
    letters = LETTERS[: len(options)]
    letter = answer.strip("().").upper() if answer.strip("().").upper() in [*letters] else ""
    if not choices:
        return _value(value, options, letter, answer, fault)
    if len(options) < 2:
        fault("no-choices", "has no choices: give --benchmark geometry3k for free-form answers")
        return ""
    if letter:
        return letter
    right = [letters[n] for n, option in enumerate(options) if option == answer]
    if len(right) != 1:
        fault("gold-unreadable", f"the answer {answer!r} names none of the choices {options}")
        return ""
    return right[0]


def _value(
    value: Mapping[str, Any], options: Sequence[str], letter: str, answer: str, fault: Any
) -> str:
    """The answer as a number that the grader can read."""
    at = LETTERS.index(letter) if letter else -1
    text = options[at] if letter else answer
    precise = _list(value, ("precise_value",))
    exact = precise[at] if letter and at < len(precise) else None
    exact = float(exact) if isinstance(exact, int | float) else None
    number = parse_number(text)
    if number is None and exact is None:
        fault("not-a-number", f"the answer {text!r} is not a number that the grader can read")
        return ""
    if number is None:
        return repr(exact)
    if exact is not None and abs(number - exact) > _CLOSE * max(abs(number), abs(exact)):
        message = f"the answer {text!r} is not its precise_value {exact:g}: {text!r} is graded by"
        fault("golds-differ", message, fatal=False)
    return text
