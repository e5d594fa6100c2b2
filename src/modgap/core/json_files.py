"""Small JSON and text files: written whole or not at all, read as an object or refused by name."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from modgap.core.disk import replacing
from modgap.core.errors import UserError
from modgap.core.files import read_text
from modgap.core.text import as_utf8


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one, never half of it.

    JSON has no NaN and no infinity: what is not a number is written as null.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        value = _finite(value)
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str, allow_nan=False)
    if as_utf8(text) != text:  # half of a surrogate pair: the name of a file may hold it
        text = json.dumps(value, indent=2, default=str, allow_nan=False)
    write_text(path, text + "\n")


def _finite(value: Any) -> Any:
    """A value with `None` for NaN and infinity, at any depth."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in cast("Sequence[Any]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path, remedy: str = "put the file back from a copy") -> dict[str, Any]:
    """Read a JSON object; a `UserError` names the file when it is absent, broken or another value.

    Args:
        path: The file.
        remedy: What helps where it is broken.
    """
    try:
        found = json.loads(read_text(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): {remedy}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it is not an object): {remedy}.")
    return cast("dict[str, Any]", found)


def short_digest(value: object) -> str:
    """16 hex digits of a value's JSON, as `fingerprints.json` has them."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
