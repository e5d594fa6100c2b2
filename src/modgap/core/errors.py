"""Errors that a user caused and can mend."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input: one line that names the value, the choices and the remedy. The command line prints it and exits 1."""


class UsageError(UserError):
    """Arguments that do not go together; the command line exits 2."""


def unknown(kind: str, value: str, choices: Iterable[str], remedy: str = "") -> UserError:
    """An error for a name that is not in a table.

    Args:
        kind: What is named, in the singular ("recipe", "view").
        value: The name as given.
        choices: The names that exist.
        remedy: What to do, if choosing another name is not all.
    """
    names = sorted(choices)
    near = get_close_matches(value, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {value!r}: choose from {', '.join(names)}.{hint}{' ' + remedy if remedy else ''}")
