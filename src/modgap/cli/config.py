"""`--config FILE`: the options of a command from a TOML or YAML file. The command line wins.

The file has the command's own options at its top, or in a table for each command, so that one file
serves several:

```
model = "tiny"

[eval]
data = "PGPS9K"
views = ["full-text", "image-only"]

[data.prepare]
variant = "no-text"
```

The values go through `cyclopts`, which names an unknown key and the file that it is in.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclopts import App
from cyclopts.config import Dict

from modgap.core.errors import UsageError, UserError
from modgap.core.files import read_text

OPTION = "--config"


def with_config(app: App, tokens: Sequence[str]) -> list[str]:
    """The arguments without `--config FILE`; its values are set on the application.

    Raises:
        UserError: The file cannot be read, or does not hold a table of options.
        UsageError: The option has no file, is given twice, or is given without a command.
    """
    app.config = ()
    rest, files = _split(tokens)
    if not files:
        return rest
    if len(files) > 1:
        raise UsageError(f"{OPTION} is given {len(files)} times: give one file.")
    commands, command_app = _command(app, rest)
    if not commands or command_app.default_command is None:
        raise UsageError(f"{OPTION} {files[0]}: give a command that its options are for.")
    path = Path(files[0])
    values = _options_of(read(path), commands, _tables(app), path)
    values = _as_given(values, command_app)
    for name in reversed(commands):
        values = {name: values}
    app.config = (Dict(values, source=str(path)),)
    return rest


def _split(tokens: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without the option, and its files. What follows `--` is left as it is."""
    rest: list[str] = []
    files: list[str] = []
    waiting = False
    for number, token in enumerate(tokens):
        if waiting:
            files.append(token)
            waiting = False
        elif token == "--":
            return [*rest, *tokens[number:]], files
        elif token == OPTION:
            waiting = True
        elif token.startswith(f"{OPTION}="):
            files.append(token.removeprefix(f"{OPTION}="))
        else:
            rest.append(token)
    if waiting or "" in files:
        raise UsageError(f"{OPTION} is given without a file: name a TOML or YAML file.")
    return rest, files


def _command(app: App, tokens: Sequence[str]) -> tuple[tuple[str, ...], App]:
    """The command that the arguments begin with, and its application."""
    commands, apps, _ = app.parse_commands(list(tokens))
    return tuple(commands), apps[-1]


def read(path: Path) -> dict[str, Any]:
    """The values of a configuration file.

    Raises:
        UserError: It cannot be read, or is not a table of options.
    """
    try:
        text = read_text(path, "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(
            f"{OPTION} {path} cannot be read ({why}): give a TOML or YAML file."
        ) from None
    ending = path.suffix.lower()
    if ending == ".toml":
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{OPTION} {path} is not TOML ({error}).") from None
    if ending not in (".yaml", ".yml"):
        raise UserError(f"{OPTION} {path}: name a file that ends in .toml, .yaml or .yml.")
    import yaml

    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{OPTION} {path} is not YAML ({' '.join(str(error).split())}).") from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UserError(
            f"{OPTION} {path} is not a table of options: write one `option: value` a line."
        )
    return found


def _tables(app: App) -> dict[str, Any]:
    """The names of all commands, nested as they are."""
    found: dict[str, Any] = {}
    for name in app:
        if not name.startswith("-"):
            found[name] = _tables(app[name])
    return found


def _options_of(
    values: Mapping[str, Any], commands: Sequence[str], known: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """The options that a file has for a command.

    They are those outside of every table, then those of the command's own table.

    Raises:
        UsageError: A table is not named after a command.
    """
    found: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in values.items():
        if key in known and isinstance(value, dict):
            inside = _options_of(value, commands[1:], known[key], path)
            own = inside if commands and key == commands[0] else own
        elif isinstance(value, dict) and key not in _PAIRS:
            names = ", ".join(known) if known else "none"
            raise UsageError(
                f"{OPTION} {path}: [{key}] is not named after a command (commands: {names})."
            )
        else:
            found[key] = value
    return {**found, **own}


_PAIRS = ("set", "engine-arg")
"""Options that take key=value, which a file may write as a table."""


def _as_given(values: Mapping[str, Any], command: App) -> dict[str, Any]:
    """The values as `cyclopts` takes them.

    Tables become key=value pairs, lists of options that take one text become comma-separated, and
    nulls are left out.
    """
    several: set[str] = set()
    for argument in command.assemble_argument_collection():
        if argument.parse and argument.token_count()[1]:
            several.update(name.lstrip("-") for name in argument.names)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found[key] = _pairs(value)
        elif isinstance(value, list) and key not in several:
            found[key] = ",".join(str(part) for part in value)
        elif value is not None:
            found[key] = value
    return found


def _pairs(values: Mapping[str, Any], above: str = "") -> list[str]:
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _pairs(value, f"{above}{key}.")
        else:
            found.append(f"{above}{key}={str(value).lower() if isinstance(value, bool) else value}")
    return found
