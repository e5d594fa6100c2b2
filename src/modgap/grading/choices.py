r"""Multiple choice: the choices of a question, and which of them an answer names.

An answer names a choice by its letter (`C`, `(C)`, `C. 5`, `C: 120^\circ`, `\text{C}`, `The answer is C`) or by its
value (`120^\circ`, `Zero`). A letter that comes with another choice's value is that letter: the official judge says so.
A gold answer may be malformed: `(C)` is C, and `C\nD` names two letters, either of which is right.

The original knows a single letter `a` to `e` only, and compares it with the gold's characters; it reads anything else
as free-form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from modgap.grading.number import clean

MAX_CHARS = 2000
LETTERS = "ABCDEFGH"

_BLOCK = re.compile(r"(?:choices|options)\s*[:：]", re.IGNORECASE)
_LINE = re.compile(r"[ \t]*(?:\(([A-H])\)|([A-H])(?:[.:：、)]|(?=[ \t]*(?:\n|$))))")
_INLINE = r"(?:^|(?<=[\s.,;)\]]))(?:\({0}\)|{0}\s*[.:)])"

_ALONE = re.compile(r"[(\[{]*\s*([A-Ha-h])\s*[)\]}]*\s*[.:]?")
_LEADING = re.compile(r"[{(\[]*\s*([A-H])\s*[)\]}]*\s*[.:)]|[{]*\s*[(\[]\s*([A-H])\s*[)\]]")
_SEVERAL = re.compile(r"[(\[{]*\s*[A-H]\s*[)\]}]*(?:\s*(?:,|;|/|&|\band\b|\bor\b|\n)\s*[(\[{]*\s*[A-H]\s*[)\]}]*)+[.]?")
_NAMED = re.compile(
    r"\b(?:answer|option|choice)\b\s*(?:is|would be|should be)?\s*(?:option|choice)?"
    r"\s*[:=]?\s*[({\[]*\s*([A-H])(?![A-Za-z0-9'])",
    re.IGNORECASE,
)


def parse_choices(question: str) -> dict[str, str]:
    """The choices of a question, letter to text, in order; empty if it has none.

    After `Choices:` each line that starts with the next letter opens a choice (`A:40°`, `A.3/8`, `(A) 5`, a bare `A`);
    without such a block, `A. ... B. ...` within the text does.
    """
    question = question[-MAX_CHARS * 4 :]
    blocks = list(_BLOCK.finditer(question))
    if blocks:
        text = question[blocks[-1].end() :]
        found = _by_line(text)
        if len(found) >= 2:
            return found
        question = text
    return _inline(question)


def _by_line(text: str) -> dict[str, str]:
    choices: dict[str, str] = {}
    letter = ""
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and len(choices) < len(LETTERS) and (match[1] or match[2]) == LETTERS[len(choices)]:
            letter = LETTERS[len(choices)]
            choices[letter] = line[match.end() :].strip()
        elif letter:
            choices[letter] = f"{choices[letter]}\n{line}".strip()
    return choices


def _inline(text: str) -> dict[str, str]:
    marks: list[re.Match[str]] = []
    for letter in LETTERS:
        match = re.compile(_INLINE.format(letter)).search(text, marks[-1].end() if marks else 0)
        if match is None:
            break
        marks.append(match)
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    if len(marks) < 2:
        return {}
    return {LETTERS[n]: text[mark.end() : end].strip() for n, (mark, end) in enumerate(zip(marks, ends, strict=True))}


def named_letters(answer: str, choices: Mapping[str, str]) -> frozenset[str]:
    """The letters that an answer names; empty if it names none.

    Args:
        answer: The content of the box, or a gold answer.
        choices: The question's choices; a letter beyond them is none (`E` is a point where there are four choices).
    """
    text = clean(answer[:MAX_CHARS].replace("\n", " , ").replace("**", "")).strip()
    text = re.sub(r"[{]\s*([^{}]*?)\s*[}]", r"\1", text).strip()
    if match := _ALONE.fullmatch(text):
        found = {match[1].upper()}
    elif _SEVERAL.fullmatch(text):
        found = set(re.findall(r"[A-H]", text))
    elif match := _LEADING.match(text):
        found = {match[1] or match[2]}
    else:
        found = {match[1].upper() for match in _NAMED.finditer(text) if match[1].isupper() or match[1] not in "ah"}
        first, _, rest = text.partition(" ")
        if not found and first in choices and rest and _plain(rest) == _plain(choices[first]):
            found = {first}
    allowed = set(choices) or set(LETTERS)
    return frozenset(found) if found <= allowed else frozenset()


def named_by_value(answer: str, choices: Mapping[str, str], same: Callable[[str, str], bool | None]) -> str | None:
    """The one choice that has the answer's value; "" if surely none has it, None if that cannot be told.

    Args:
        answer: The content of the box.
        choices: The question's choices.
        same: Whether two answers are the same, None if that cannot be told.
    """
    given = _plain(answer)
    if literal := [letter for letter, text in choices.items() if _plain(text) == given]:
        return literal[0] if len(literal) == 1 else None
    verdicts = {letter: same(answer, text) for letter, text in choices.items()}
    right = [letter for letter, verdict in verdicts.items() if verdict]
    if len(right) == 1:
        return right[0]
    return "" if verdicts and all(verdict is False for verdict in verdicts.values()) else None


def _plain(text: str) -> str:
    return re.sub(r"[\s{}$.,*]+", "", clean(text)).casefold()
