"""Wrong usage as one line: what was given, what can be given, and the command whose help says more.

`cyclopts` says what is wrong in the words of a programmer ("unable to convert", "Unused Tokens").
"""

from __future__ import annotations

import inspect
import re
import typing
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import cyclopts
from cyclopts import App

from modgap.core.errors import sentence
from modgap.core.progress import brief
from modgap.core.recipe import NAMES

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


def usage_line(error: Exception, app: App, tokens: list[str]) -> str:
    """The line for wrong usage; its last sentence names the command whose help is to be read."""
    commands = app.parse_commands(tokens)[0]
    command = " ".join(("modgap", *commands))
    said = str(error)
    if isinstance(error, cyclopts.CycloptsError):
        said = _said(error, command)
    return f"{brief(sentence(said))} See {command} --help."


def _said(error: cyclopts.CycloptsError, command: str) -> str:
    """What an error of the parser means."""
    if getattr(getattr(error, "token", None), "source", "cli") != "cli":
        return str(error)  # it names the configuration file
    if isinstance(error, cyclopts.MissingArgumentError) and error.argument is not None:
        name = _name(error.argument)
        if error.keyword:
            return f"{error.keyword} is given without a value: {_help(error) or 'give one'}"
        return f"{name} is missing: {_help(error) or f'{command} needs it'}"
    if isinstance(error, cyclopts.CoercionError):
        return _conversion(error) or str(error)
    if isinstance(error, cyclopts.UnknownOptionError):
        return _unknown_option(error, command)
    if isinstance(error, cyclopts.UnusedCliTokensError):
        more = " ".join(error.unused_tokens or ())
        return f"{more!r} is too much for {command}: does an option (--NAME) belong before it?"
    if isinstance(error, cyclopts.UnknownCommandError):
        return _unknown_command(error)
    if isinstance(error, cyclopts.RepeatArgumentError):
        return f"{error.token.keyword} is given twice: give it once"
    return str(error)


def _name(argument: Any) -> str:
    """An argument as the usage line shows it: an option's name, or a word in capitals."""
    kind = argument.field_info.kind
    keyword = kind is inspect.Parameter.KEYWORD_ONLY
    name = argument.names[0]
    return name if keyword else name.lstrip("-").upper()


def _help(error: cyclopts.CycloptsError) -> str:
    """The first sentence of an argument's help."""
    assert error.argument is not None
    name = error.argument.names[0].lstrip("-").replace("-", "_")
    found = re.search(
        rf"^ *{name}: (.+?)(?=[.;:](?:\s|$)|\n *\w+: )",
        inspect.getdoc(error.target) or "",
        re.M | re.S,
    )
    return " ".join(found[1].split()) if found else ""


def _conversion(error: cyclopts.CoercionError) -> str:
    """A value of the wrong kind; empty where the parser's own words are plain (choices)."""
    if error.argument is None or error.token is None:
        return ""
    given = f"{error.token.keyword or _name(error.argument)} {error.token.value}"
    target = error.target_type
    parts = typing.get_args(target) if typing.get_origin(target) is typing.Union else (target,)
    if typing.get_origin(target) is typing.Literal:
        choices = [str(choice) for choice in typing.get_args(target)]
        near = get_close_matches(error.token.value, choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{given}: choose from {', '.join(choices)}{hint}"
    words: list[str] = []
    for part in parts:
        if typing.get_origin(part) is typing.Literal:
            words += [f"`{choice}`" for choice in typing.get_args(part)]
        elif part in _KINDS:
            words.append(_KINDS[part])
    return f"{given}: give {' or '.join(words)}" if words else ""


def _unknown_option(error: cyclopts.UnknownOptionError, command: str) -> str:
    """An option that the command does not have: the nearest one, or all."""
    given = error.token.keyword or error.token.value
    options: list[str] = []
    for argument in error.argument_collection or ():
        if _name(argument).startswith("--"):
            options += argument.names
        elif given.lstrip("-").casefold() == _name(argument).casefold():
            return f"{given} is not an option: {command} takes {_name(argument)} without it"
    near = get_close_matches(given, options, n=1)
    if "--set" in options and given.lstrip("-").replace("-", "_") in NAMES:
        return f"no option {given}: give settings of a recipe as --set {given[2:]}=VALUE"
    which = f"did you mean {near[0]}?" if near else f"it has {', '.join(options) or 'none'}"
    return f"no option {given}: {which}"


def _unknown_command(error: cyclopts.UnknownCommandError) -> str:
    given = (error.unused_tokens or [""])[0]
    names = [name for name in error.app or () if not name.startswith("-")]
    near = get_close_matches(given, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no command {given!r}: choose from {', '.join(names)}{hint}"
