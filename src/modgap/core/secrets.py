"""Keys: where they are read from, which are refused, and how they are kept out of text.

A key is named by an environment variable and known to this module from then on: `without_secrets`
removes it from replies before they are recorded, and from every line that is printed.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from modgap.core.errors import UserError

REMOVED = "[key]"
"""Stands in a text for a key."""

_SHORTEST = 8  # `EMPTY` and its like are words, not keys
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USUAL_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_KEY_OPTION = re.compile(r"--[a-z-]*(?:api|key|token|secret|password)[a-z-]*")
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/?#\s@'\"]+@")
_AS_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;", '"': "&quot;", "'": "&apos;"}

_CONTROLS = {"\n": "n", "\r": "r", "\t": "t"}


@dataclass(frozen=True, slots=True)
class _Forms:
    """How a text may hold a secret.

    Attributes:
        anchor: Its longest run of letters and digits, which every form but base64 keeps as it is.
        written: Any form but base64.
        encoded: In base64, of both alphabets.
    """

    anchor: str
    written: re.Pattern[str]
    encoded: tuple[str, ...]


_known: dict[str, _Forms] = {}


def check_name(name: str, option: str = "--api-key-env") -> None:
    """Refuse what is not the name of an environment variable, without repeating it.

    Some keys (`gsk_...`, `hf_...`) read like names: a name that is not in capitals must be set.

    Raises:
        UserError: It is not a name, or may be the key itself.
    """
    if _USUAL_NAME.fullmatch(name) or (_NAME.fullmatch(name) and name in os.environ):
        return
    keep_out(name)
    raise UserError(
        f"{option} is not the name of an environment variable that is set (it is not repeated here,"
        f" since it may be a key): export KEY_OF_SERVER=..., and give {option} KEY_OF_SERVER."
    )


def read_key(name: str) -> str:
    """The key in an environment variable; empty if there is none.

    Raises:
        UserError: The name or the key cannot be one; the message repeats neither.
    """
    check_name(name)
    key = os.environ.get(name, "").strip()
    keep_out(key)
    if not key.isascii() or not key.isprintable():
        raise UserError(
            f"the key in {name} has a line break or another character that is not printable ASCII:"
            f" export {name} again with the key alone."
        )
    return key


def keep_out(secret: str) -> None:
    """Remove this secret from every text from now on; too short ones are words."""
    if len(secret) < _SHORTEST or secret in _known:
        return
    runs: list[str] = re.findall(r"[A-Za-z0-9]+", secret)
    encoded = base64.b64encode(secret.encode("utf-8", "replace")).decode().rstrip("=")
    _known[secret] = _Forms(
        max(runs, key=len, default=""),
        re.compile(("" if secret[0].isalnum() else r"(?<!\\)") + "".join(map(_any_form, secret))),
        tuple({encoded, encoded.replace("+", "-").replace("/", "_")}),
    )


def keep_out_of_url(url: str) -> None:
    """Remove the user's name and password in an address from every text."""
    parts = urlsplit(url)
    name, password = unquote(parts.username or ""), unquote(parts.password or "")
    for secret in (f"{name}:{password}" if password else "", password or name):
        keep_out(secret)


def keep_out_of_arguments(arguments: Sequence[str]) -> None:
    """Remove what was given to an option of keys and is not a variable's name."""
    for number, argument in enumerate(arguments):
        option, sign, value = argument.partition("=")
        if not _KEY_OPTION.fullmatch(option):
            continue
        if not sign:
            value = arguments[number + 1] if number + 1 < len(arguments) else ""
        if not _USUAL_NAME.fullmatch(value) and value not in os.environ:
            keep_out(value)


def without_secrets(text: str) -> str:
    """The text without the secrets that are known.

    They are found as they are, in JSON or `repr`, percent-encoded, in HTML and in base64.
    """
    for forms in tuple(_known.values()):  # lines are printed from a thread, too
        if forms.anchor in text:
            text = forms.written.sub(REMOVED, text)
        for encoded in forms.encoded:
            text = text.replace(encoded, REMOVED)
    return text


def without_userinfo(text: str) -> str:
    """The text without names and passwords in addresses; for messages and command lines."""
    return _USERINFO.sub(rf"\1{REMOVED}@", text)


def safe_arguments(arguments: Iterable[str]) -> list[str]:
    """A command line as it may be recorded."""
    return [without_userinfo(without_secrets(argument)) for argument in arguments]


def _any_form(character: str) -> str:
    """A pattern of one character in every encoding that a text may hold it in."""
    if character.isalnum() and character.isascii():
        return character
    code = ord(character)
    forms = [re.escape(character), rf"(?<=\\)(?:u00|x)(?i:{code:02x})"]
    # Encoded twice is `%252F`.
    escaped = "".join(f"%(?:25)*(?i:{byte:02x})" for byte in character.encode("utf-8", "replace"))
    forms += [escaped, f"&#(?:{code}|[xX](?i:{code:x}));"]
    if character in _AS_HTML:
        forms.append(re.escape(_AS_HTML[character]))
    if character == " ":
        forms.append(r"\+")
    if character in _CONTROLS:
        forms.append(rf"(?<=\\){_CONTROLS[character]}")
    if character == "\\":
        return rf"(?:\\++|{'|'.join(forms[1:])})"
    # Possessive: a reply of many backslashes must not be searched from each of them again.
    return rf"\\*+(?:{'|'.join(forms)})"
