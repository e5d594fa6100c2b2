"""Errors that a user caused and can fix.

Engines raise them with the values they know; a command formats the message.
"""

from __future__ import annotations

import importlib
import os
import shlex
import traceback
from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 400
"""Most characters of a list of choices; of a longer one the closest names are listed."""
_CLOSEST = 8


class UserError(ValueError):
    """Bad input: one line that names the value, the choices and the remedy.

    The command line prints it and exits 1.
    """


class UsageError(UserError):
    """Arguments that do not go together; the command line exits 2."""


class ServerError(UserError):
    """A server does not answer as asked; the message names the options of `modgap eval`.

    Args:
        template: The message, with `{url_option}` and `{model_option}` for the options that name
            the server and the model, and the names of the values.
        values: What the message says.
    """

    def __init__(self, template: str, **values: object) -> None:
        super().__init__(template)
        self.template = template
        self.values = values

    def __str__(self) -> str:
        return self.worded("--base-url", "--model")

    def worded(self, url_option: str, model_option: str) -> str:
        """The message for a command whose options have other names."""
        values = {k: part(v) if isinstance(v, str) else v for k, v in self.values.items()}
        return self.template.format(url_option=url_option, model_option=model_option, **values)


class TemperatureRefusedError(ServerError):
    """A server does not take a temperature.

    The values are `server`, `said`, `model` and `temperature`.
    """


def raised(error: BaseException) -> str:
    """What a user's code raised, with the line of it that was called."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    passed = (package, os.path.dirname(importlib.__file__), "<frozen ")
    words = " ".join(str(error).split())
    said = f"{type(error).__name__}{words and ': ' + words[:200]}"
    if isinstance(error, SyntaxError):
        return f"{said[:200]} ({error.filename} line {error.lineno})"
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith(passed):
            return f"{said} ({frame.filename} line {frame.lineno})"
    return said


def unknown(
    kind: str, value: str, choices: Iterable[str], remedy: str = "", near: Iterable[str] = ()
) -> UserError:
    """An error for a name that is not in a table.

    Args:
        kind: What is named, in the singular ("recipe", "view").
        value: The name as given.
        choices: The names that exist.
        remedy: What to do, if choosing another name is not all.
        near: Further names that it may be a misspelling of; the remedy tells of them.
    """
    names = sorted(choices)
    plain = {_plain(name): name for name in (*names, *near)}
    close = [plain[name] for name in get_close_matches(_plain(value), plain, n=1)]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(names)
    if len(listed) > _LISTED:  # the line would be cut in its middle
        own = {_plain(name): name for name in names}
        closest = get_close_matches(_plain(value), own, _CLOSEST, 0)
        some = ", ".join(own[name] for name in closest)
        listed = f"{some} and {len(names) - _CLOSEST} others"
    return UserError(
        f"unknown {kind} {value!r}: choose from {listed}.{hint}{' ' + remedy if remedy else ''}"
    )


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")


def command_line(*arguments: object) -> str:
    """A `modgap` command that a message suggests, quoted for a shell."""
    return shlex.join(["modgap", *map(str, arguments)])


def sentence(text: str) -> str:
    """A message in one line, ended by one mark: as it is shown."""
    line = " ".join(text.split())
    return line if line.endswith((".", "?", "!")) else f"{line.rstrip(';:,')}."


def part(error: object) -> str:
    """A message, or what another library said, as a part of a longer message: without its stop.

    Three dots at its end stay.
    """
    line = " ".join(str(error).split())
    return line if line.endswith("...") else line.rstrip(".;:, ")
