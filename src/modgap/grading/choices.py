r"""Multiple choice: the choices of a question, and which of them an answer names.

An answer names a choice by its letter (`C`, `(C)`, `C. 5`, `C: 120^\circ`, `\text{C}`, `The answer
is C`) or by its value (`120^\circ`, `Zero`). A lettered choice (`C. 5`, `C: 5`, `(C) 5`) is that
letter whatever value follows: the official judge decides so. A letter and a value beside each other
(`C, 120^\circ`, `120^\circ (C)`, `C = 120`) are a choice if they agree. A lower-case letter that is
the text of one choice is that choice (`B:a`); otherwise it is the letter. A gold answer may be
malformed: `(C)` is C, and `C\nD` names two letters, either of which is right.

The original recognises only a single letter `a` to `e`, and compares it with the gold's characters;
it reads anything else as free-form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from modgap.grading.notation import canonical

MAX_CHARS = 2000
LETTERS = "ABCDEFGH"

_BLOCK = re.compile(r"(?:choices|options)\s*[:：]", re.IGNORECASE)
_LINE = re.compile(r"[ \t]*(?:\(([A-H])\)|([A-H])(?:[.:：、)]|(?=[ \t]*(?:\n|$))))")
_INLINE = r"(?:^|(?<=[\s.,;)\]]))(?:\({0}\)|{0}\s*[.:)])"

_ALONE = re.compile(r"[(\[{]*\s*([A-Ha-h])\s*[)\]}]*\s*[.:]?")
_LEADING = re.compile(r"[{(\[]*\s*([A-H])\s*[)\]}]*\s*[.:)]|[{]*\s*[(\[]\s*([A-H])\s*[)\]]")
_SEVERAL = re.compile(  # possessive, since both sides of a letter take the same spaces
    r"[(\[{]*+\s*+[A-H]\s*+[)\]}]*+(?:\s*+(?:,|;|/|&|\band\b|\bor\b"
    r"|\n)\s*+[(\[{]*+\s*+[A-H]\s*+[)\]}]*+)++[.]?"
)
_LEADING_LETTER = re.compile(r"[(\[]?\s*([A-Ha-h])(?:\s*[)\]])?(?![A-Za-z0-9'])")
_TRAILING_LETTER = re.compile(r"(?<![A-Za-z0-9\\])(?:[(\[]\s*)?([A-Ha-h])(?:\s*[)\]])?[.:]?$")
_SEPARATOR = re.compile(
    r"\s*(?:->|=>|[,;:=|/→⇒-]|\\(?:to|rightarrow|Rightarrow|implies)(?![a-z])"
    r"|\b(?:and|or|i\.e\.|which is|is)(?![a-z]))\s*"
)
_JOINING = re.compile(r"\{\s*(and|or|is|i\.e\.)\s*\}")
_WORDS_IN_BRACES = re.compile(r"(?<![\\A-Za-z^_])\{\s*([A-H]\)?[,.;]?\s+[A-Za-z ,]{1,40})\s*\}")
_LETTER_IN_BRACES = re.compile(r"\{\s*([(\[]?\s*[A-Ha-h]\s*[)\]]?\s*[.,;:=-]?)\s*\}")
_MARKED_LETTER = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|bf|rm)\*?\s*\{\s*(\(?[A-H]\)?[.:]?)\s*\}"
    r"|\*\*(\(?[A-H]\)?[.:]?)\*\*"
)
# `not B`, `option B is not correct`: a statement about another letter stays.
_DENIED_LETTER = re.compile(
    r"(?:\bnot|n't|\bneither|\bnor|\bexcept|\bexcluding|\bbut|\bother\s+than)\s+(?:(?:the|an?"
    r"|option|choice|answer)\s+)*\(?[A-H]\b"
    r"|(?:\b(?:the|option|choice|answer)\s+)*\b[A-H]\)?\s+(?:is|was)?\s*(?:clearly|definitely)?\s*"
    r"(?:not|n't|isn't|wrong|incorrect|false|impossible|invalid|out|rejected|cannot"
    r"|can't)\b(?:\s+(?:correct|right|true|be))*",
    re.IGNORECASE,
)
# With one of these words a letter in a sentence may not be the answer: only a judge can decide.
_DENIED = re.compile(
    r"\\(?:not|neg|lnot|neq?)(?![a-z])|[≠¬✗✘]|n't\b|\b(?:not|no|nor|never|neither|none|cannot"
    r"|except|excep?ting|but|without"
    r"|exclud\w+|eliminat\w+|reject\w*|discard\w*|rul(?:e|ed|ing)\s+out|fail\w*|other\s+than"
    r"|rather\s+than|instead|unlike"
    r"|wrong|incorrect|false|impossible|invalid|untrue|out|between)\b",
    re.IGNORECASE,
)
_VERDICT = re.compile(
    r"[\s(:{-]*(?:is\s+)?(?:false|wrong|incorrect|impossible|invalid|rejected|no|not|x)[\s).}!]*",
    re.IGNORECASE,
)
_NEXT = re.compile(
    r"\s*(?:,|;|/|&|\||\n|\b(?:and|or)\b)+\s*(?:(?:option|choice"
    r"|answer)\s+)?[({\[]*\s*([A-H])(?![A-Za-z0-9'=])",
    re.IGNORECASE,
)
_NEXT_LEADING = re.compile(r"(?:,|;|\n|\b(?:and|or)\b)\s*[({\[]*\s*([A-H])\s*[)\]}]*\s*[.:)]")
_BRACES = re.compile(r"[{}]")
_NAMED = re.compile(
    r"\b(?:answer|option|choice)\b\s*(?:is|would be|should be)?\s*(?:option|choice)?"
    r"\s*[:=]?\s*[({\[]*\s*([A-H])(?![A-Za-z0-9'])",
    re.IGNORECASE,
)


def parse_choices(question: str) -> dict[str, str]:
    """Return the choices of a question, letter to text, in order; empty if it has none.

    After `Choices:` each line that starts with the next letter opens a choice (`A:40°`, `A.3/8`,
    `(A) 5`, a bare `A`); without such a block, `A. ... B. ...` within the text does.
    """
    question = _MARKED_LETTER.sub(
        lambda match: f" {match[1] or match[2]} ", question[-MAX_CHARS * 4 :]
    )
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
        following = LETTERS[len(choices)] if len(choices) < len(LETTERS) else ""
        if match and (match[1] or match[2]) == following:
            letter = following
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
    return {
        LETTERS[n]: text[mark.end() : end].strip()
        for n, (mark, end) in enumerate(zip(marks, ends, strict=True))
    }


Same = Callable[[str, str], bool | None]
"""Whether two answers are the same, None if that cannot be decided."""


@dataclass(frozen=True, slots=True)
class Named:
    """What an answer names.

    Attributes:
        stage: `letter` or `choice-value`.
        readings: The letters that it names, empty for none of the choices; several where it can be
            read in several ways, None for a reading that cannot be decided.
    """

    stage: str
    readings: tuple[frozenset[str] | None, ...]


def read_choice(answer: str, choices: Mapping[str, str], same: Same) -> Named:
    """Which choice an answer names, by its letter, its value or both.

    Args:
        answer: The content of the box.
        choices: The question's choices.
        same: Compares an answer with a choice's text.
    """
    text = answer[:MAX_CHARS]
    if exact := _exact(text, choices):
        return Named("choice-value", (frozenset(exact),))
    letters = named_letters(text, choices)
    # `(a)` is the choice A, or the choice whose text is `a`.
    if (
        letters
        and text.strip(" ()[]{}.$").islower()
        and (other := _exact(text.strip("()[] "), choices))
    ):
        return Named("letter", (letters, frozenset(other)))
    if letters:
        return Named("letter", (letters,))
    whole = _letters_of_value(named_by_value(text, choices, same))
    if any(_alike(text, choice) for choice in choices.values()):
        return Named("choice-value", (whole,))
    if _NAMED.search(text) and _DENIED.search(text):
        return Named("letter", (None,))
    for letter, values, firm in sorted(
        _letters_beside(text), key=lambda beside: beside[0].islower()
    ):
        if letter.upper() not in choices:
            continue
        if any(
            same(value, choices[letter.upper()]) or _alike(value, choices[letter.upper()])
            for value in values
        ):
            return Named("letter", (frozenset(letter.upper()),))
        of_values = [_letters_of_value(named_by_value(value, choices, same)) for value in values]
        of_value = next(filter(None, of_values), of_values[0])
        divided = whole in (None, frozenset(), of_value) if firm else of_value and not whole
        if letter.isupper() and divided:
            return Named("letter", (frozenset(letter), of_value))
    return Named("choice-value", (whole,))


def _exact(answer: str, choices: Mapping[str, str]) -> str:
    """The choice whose text is the answer's one lower-case letter; empty unless exactly one is."""
    given = re.sub(r"[\s{}$.]+", "", canonical(answer))
    found = [
        letter
        for letter, text in choices.items()
        if re.sub(r"[\s{}$.]+", "", canonical(text)) == given
    ]
    return found[0] if len(found) == 1 and len(given) == 1 and given.islower() else ""


def _letters_of_value(letter: str | None) -> frozenset[str] | None:
    return None if letter is None else frozenset(letter)


def _letters_beside(answer: str) -> Iterator[tuple[str, list[str], bool]]:
    """Split off a letter at either end.

    Yields:
        The letter, what the rest may be, and whether a separator or brackets divide the two.
    """
    text = canonical(answer.replace("\n", " , ").replace("\\\\", " , "))
    text = _WORDS_IN_BRACES.sub(r" \1 ", text)
    text = _JOINING.sub(r" \1 ", _LETTER_IN_BRACES.sub(r" \1 ", text)).strip()
    while text.startswith("{") and text.endswith("}") and text.count("{") == 1:
        text = text[1:-1].strip()
    if match := _LEADING_LETTER.match(text):
        rest = text[match.end() :]
        separator = _SEPARATOR.match(rest)
        values = [rest[separator.end() :].lstrip(",:= ") if separator else rest.strip()]
        values += [rest.strip()] if separator else []
        if rest[:1] in (" ", "(", "[") or separator:
            yield match[1], values, bool(separator or _in_brackets(rest))
    if match := _TRAILING_LETTER.search(text):
        rest = text[: match.start()]
        parts = [found for found in _SEPARATOR.finditer(rest) if found.end() == len(rest)]
        bracketed = match[0][:1] in ("(", "[")
        if rest[-1:].isspace() or parts or bracketed:
            value = rest[: parts[0].start()] if parts else rest.strip()
            yield match[1], [value], bool(parts or bracketed)


def _in_brackets(text: str) -> bool:
    return text.strip()[:1] in ("(", "[") and text.strip()[-1:] in (")", "]")


def named_letters(answer: str, choices: Mapping[str, str]) -> frozenset[str]:
    """Return the letters that an answer names; empty if it names none.

    Args:
        answer: The content of the box, or a gold answer.
        choices: The question's choices; a letter beyond them does not count (`E` is a point where
            there are four choices).
    """
    text = canonical(answer[:MAX_CHARS].replace("\n", " , ").replace("**", "")).strip()
    text = re.sub(r"\\(?=[{}])", "", text)  # `\{C\}`
    text = re.sub(r"[{]\s*([^{}]*?)\s*[}]", r"\1", text).strip()
    if match := _ALONE.fullmatch(text):
        found = {match[1].upper()}
    elif _SEVERAL.fullmatch(text):
        found = set(re.findall(r"[A-H]", text))
    elif match := _LEADING.match(text):
        found = _leading(text, match, choices)
    else:
        rest = _DENIED_LETTER.sub(" ", text)
        found = set[str]() if _DENIED.search(rest) else _in_sentence(rest)
    allowed = set(choices) or set(LETTERS)
    return frozenset(found) if found <= allowed else frozenset()


def _leading(text: str, match: re.Match[str], choices: Mapping[str, str]) -> set[str]:
    """The letter that an answer opens with, and those of further choices.

    `A. 40, C. 80` names two letters, `C: false` names none.
    """
    letter, rest = match[1] or match[2], text[match.end() :]
    if _alike(rest, choices.get(letter, "")):
        return {letter}
    return set[str]() if _VERDICT.fullmatch(rest) else {letter, *_NEXT_LEADING.findall(rest)}


def _in_sentence(text: str) -> set[str]:
    """The letters of `the answer is C`, or of `option C or D`."""
    found: set[str] = set()
    for match in _NAMED.finditer(text):
        if match[1].islower() and match[1] in "ah":
            continue
        found.add(match[1].upper())
        at = match.end()
        while other := _NEXT.match(text, at):
            found.add(other[1].upper())
            at = other.end()
    return found


def named_by_value(answer: str, choices: Mapping[str, str], same: Same) -> str | None:
    """Return the one choice that has the answer's value.

    Args:
        answer: The content of the box.
        choices: The question's choices.
        same: Compares an answer with a choice's text.

    Returns:
        Its letter; "" if certainly no choice has the value, None if that cannot be decided.
    """
    if literal := [letter for letter, text in choices.items() if _alike(answer, text)]:
        return literal[0] if len(literal) == 1 else None
    verdicts = {letter: same(answer, text) for letter, text in choices.items()}
    right = [letter for letter, verdict in verdicts.items() if verdict]
    if len(right) == 1:
        return right[0]
    return "" if verdicts and all(verdict is False for verdict in verdicts.values()) else None


def _alike(answer: str, choice: str) -> bool:
    return _plain(answer) == _plain(choice)


def _plain(text: str) -> str:
    r"""Remove spaces and punctuation that mean nothing, unlike those of `1 1/2` and `3.5`."""
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)|\$", "", canonical(text)).casefold()
    if not any(character.isdigit() for character in text):
        text = _BRACES.sub("", text)
    return re.sub(r"[.,](?!\d)", "", text)
