r"""Where a reply's thinking begins and ends.

A reply is one text everywhere in modgap, its thinking in `<think>...</think>`, so that one grader
reads every engine's replies. Two cases need care:

* servers may send thinking apart from the answer, as a field of its own or as parts of the content
  (`message_text`);
* the prompt may open the thinking: a prefill does (MathVerse, paper style), and so do the chat
  templates of models that always think. The reply then holds no `<think>` of its own, and one that
  was cut off holds no tag at all (`graded_text`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

OPEN: Final = "<think>"
CLOSE: Final = "</think>"
CUT_THINKING: Final = "cut at the token limit inside thinking that the chat template opened"
"""Why a reply with a box and without a tag has no answer."""

_TEXT = ("text", "output_text", "refusal")
_THINKING = ("thinking", "reasoning", "reasoning_content", "reasoning_text", "redacted_thinking")
_APART = ("reasoning_content", "reasoning", "thinking")
# Where a part keeps its words; of a thinking part they may be parts again.
_WORDS = (
    "text", "thinking", "reasoning", "reasoning_content", "refusal", "content", "summary", "value",
)  # fmt: skip

_Segment = tuple[bool, str]
"""Whether it is thinking, and its words."""


class UnknownPart(ValueError):
    """A part of a message's content that is not text (an image, audio); it names the kind."""


def message_text(content: Any, reasoning: Any = None, *, cut: bool = False) -> str:
    r"""The text of a message: its content, with the thinking in `<think>...</think>` before it.

    Args:
        content: A string, `None`, or parts: strings, `{"type": "text", "text": ...}`, `{"type":
            "thinking", ...}`.
        reasoning: What a server sent apart as the model's thinking; a string, or parts.
        cut: Whether the reply was cut at the token limit: thinking at its end then stays open.

    Raises:
        UnknownPart: A part is of a kind that has no words.
        TypeError: The content is neither text nor parts.
    """
    segments = _merged([(True, _words(reasoning)), *_segments(content)])
    text = ""
    for number, (thinking, words) in enumerate(segments):
        following = segments[number + 1][1] if number + 1 < len(segments) else ""
        text += _tagged(words, following, cut) if thinking else words
    return text


def reasoning_of(message: Mapping[str, Any]) -> Any:
    """The thinking that a message holds apart from its content; `None` where it has none."""
    return next((found for name in _APART if (found := message.get(name))), None)


def _segments(content: Any) -> Iterable[_Segment]:
    if content is None:
        return
    if isinstance(content, str):
        yield False, content
        return
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        raise TypeError("the content is neither text nor parts")
    for part in cast("Sequence[Any]", content):
        if isinstance(part, str):
            yield False, part
        elif isinstance(part, Mapping):
            yield _segment(cast("Mapping[str, Any]", part))
        else:
            raise TypeError("a part of the content is neither text nor an object")


def _segment(part: Mapping[str, Any]) -> _Segment:
    kind = part.get("type")
    if kind in _THINKING or (kind in (None, "text") and part.get("thought") is True):
        return True, _words(part)
    if kind in _TEXT or (kind is None and "text" in part):
        return False, _words(part)
    raise UnknownPart(f"a part of kind {kind!r}, which is not text")


def _words(value: Any) -> str:
    """The words of a string, of a part or of nested parts; nothing where it has none."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, Mapping):
        part = cast("Mapping[str, Any]", value)
        return next((words for name in _WORDS if (words := _words(part.get(name)))), "")
    if isinstance(value, Sequence):
        return "".join(_words(part) for part in cast("Sequence[Any]", value))
    raise TypeError("the words of a part are not text")


def _merged(segments: Iterable[_Segment]) -> list[_Segment]:
    """Join adjacent segments of one kind; leave out those without words."""
    merged: list[_Segment] = []
    for thinking, words in segments:
        if not words:
            continue
        if merged and merged[-1][0] == thinking:
            merged[-1] = (thinking, merged[-1][1] + words)
        else:
            merged.append((thinking, words))
    return merged


def _tagged(thought: str, following: str, cut: bool) -> str:
    """Thinking in its tags, each of them once.

    Some servers leave tags in the thinking, or in what follows.
    """
    thought = thought.strip() if OPEN in thought or CLOSE in thought else thought
    inner = thought.removeprefix(OPEN).removesuffix(CLOSE)
    if following.lstrip().startswith(OPEN):
        return ""  # the content repeats the thinking
    before, closes, _ = following.partition(CLOSE)
    if closes and OPEN not in before:
        return OPEN if inner.strip() in before else OPEN + inner
    is_open = cut and not following.strip() and not thought.endswith(CLOSE)
    return OPEN + inner + ("" if is_open else CLOSE)


def opened_by(prompt: str) -> str:
    """The tag, with the white space after it, at the end of a prompt that opens thinking.

    Empty for any other rendered prompt.
    """
    return prompt[prompt.rindex(OPEN) :] if prompt.rstrip().endswith(OPEN) else ""


def closes_unopened(text: str) -> bool:
    """Whether a reply closes thinking that it did not open: its prompt must have opened it."""
    before, closes, _ = text.partition(CLOSE)
    return bool(closes) and OPEN not in before


def graded_text(text: str, *, cut: bool, opened: bool) -> str:
    r"""The text that a grader reads; for it, `<think>` without `</think>` holds no answer.

    Thinking that the prompt opened and the reply never closes is open if the reply was cut off. If
    the reply ended by itself, the model did not think as the prompt suggested, and its `\boxed{}`
    is its answer.

    Args:
        text: The reply, with or without the prompt's own opening before it.
        cut: Whether it was cut at the token limit.
        opened: Whether the prompt opened the thinking.
    """
    if not opened or CLOSE in text:
        return text
    own = text.lstrip().removeprefix(OPEN)
    return OPEN + own if cut else own
