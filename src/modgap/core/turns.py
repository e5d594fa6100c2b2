"""The turns of a chat: templates and servers that take no system turn, defaults and prefills."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from modgap.core.prompt import Prompt
from modgap.core.thinking import OPEN, opened_by

_LONGEST_REFUSAL = 5000
_CHATML_SYSTEM, _CHATML_END = "<|im_start|>system\n", "<|im_end|>\n"
# How servers and chat templates say that they take no system turn: it (or the role of that name) is
# not supported, roles must alternate or begin with the user's, or the roles that are allowed.
_TURN = (
    r"(?:system|developer)[\W_]{0,3}(?:role|message|prompt|turn|instruction)s?\b"
    r"|roles?\b[^.]{0,40}?\bsystem\b"
)
_REFUSED = (
    r"\b(?:not?|never|without|cannot|unsupported|incompatible|invalid|unknown|unexpected|"
    r"unrecogni[sz]ed|forbidden|disallowed|disabled|unavailable|reject(?:s|ed)?)\b|n't\b"
)
_NO_SYSTEM = re.compile(
    rf"(?:{_TURN})[^\n]{{0,60}}?(?:{_REFUSED})|(?:{_REFUSED})[^\n]{{0,60}}?(?:{_TURN})"
    r"|'?\bsystem\b'? (?:is|was) (?:not|neither)\b[^\n]{0,60}\b(?:roles?|user|assistant)\b"
    r"|\broles? (?:must|should|have to) alternate"
    r"|\bonly [^.]{0,40}\b(?:user|assistant|model)\b[^.]{0,40}\broles?\b"
    r"|\bonly [^.]{0,20}\broles?\b[^.]{0,20}\buser\b"
    r"|\b(?:must|should) (?:start|begin) with (?:an? |the )?\W?user"
    r"|\bfirst (?:message|role|turn)\b.{0,40}\buser\b"
    r"|\bshould be '(?:user|assistant)'",
    re.I,
)


def refuses_system(said: str) -> bool:
    """Whether a server's or a chat template's words say that it takes no system turn."""
    return bool(_NO_SYSTEM.search(said[:_LONGEST_REFUSAL]))


def system_words(who: str, image: bool) -> str:
    """The message that system turns are left out."""
    return (
        f"{who} takes no system turn: prompts with{'' if image else 'out'} an image are asked"
        " without it"
    )


def complete(text: str, prompt: Prompt) -> str:
    """What the chat template gave, with the prefill and without an unwanted default system turn.

    A template that opens the assistant's turn with the prefill's `<think>` gets none on top.
    """
    if prompt.system is None and text.startswith(_CHATML_SYSTEM):
        text = text[text.index(_CHATML_END) + len(_CHATML_END) :]
    if opened_by(text) and prompt.prefill.lstrip().startswith(OPEN):
        more = prompt.prefill.lstrip().removeprefix(OPEN)
        return text + more if more.strip() else text
    return text + prompt.prefill


def at_a_token(prompt: Prompt, ids: Callable[[str], Sequence[int]]) -> Prompt:
    """The prompt, its prefill ending where a token of the model's own text would end.

    A tokenizer may take a full stop and the space after it as one token. A bare full stop is then
    what stands inside a decimal number, and the model continues with its digits. There the space
    becomes part of the prefill.

    Args:
        prompt: The prompt.
        ids: The model's tokenizer, without special tokens.
    """
    words = prompt.prefill
    if not words.endswith("."):
        return prompt
    bare, spaced = list(ids(words)), list(ids(f"{words} "))
    for continued in (list(ids(f"{words} A")), list(ids(f"{words} 1"))):
        if continued[: len(bare)] == bare or continued[: len(spaced)] != spaced:
            return prompt
    return replace(prompt, prefill=f"{words} ")
