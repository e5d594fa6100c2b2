"""A JSON file of one object, read entry by entry.

The entries before a syntax error are read, and the error is reported with its place.

`json.load` gives all or nothing, keeps the last of two equal keys without a message, and has no
notion of a record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from modgap.core.text import counted
from modgap.datasets.faults import Fault

_SPACE = re.compile(r"[ \t\r\n]*")


class JsonObject(dict[str, Any]):
    """A JSON object that remembers which keys were given more than once."""

    __slots__ = ("repeated",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated: list[str] = []
        if len(self) == len(pairs):
            return
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                self.repeated.append(key)
            seen.add(key)


_DECODER = json.JSONDecoder(object_pairs_hook=JsonObject)


def parse(text: str) -> Any:
    """The value of a whole text; objects are `JsonObject`.

    Raises:
        ValueError: The text is not JSON (`json.JSONDecodeError`), or holds a number of more than
            4,300 digits.
        RecursionError: It is nested too deeply.
    """
    return _DECODER.decode(text)


def where_and_why(error: json.JSONDecodeError) -> str:
    """The parser's message, and the column of its line."""
    return f"{error.msg.removesuffix(' at').removesuffix(' starting')}, column {error.colno}"


def decode(file: str, data: bytes) -> tuple[str, list[Fault]]:
    """The text of a file, whatever its encoding, and the fault of the encoding."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        fault = Fault(file, "", "encoding", "is UTF-16: save it as UTF-8")
        return data.decode("utf-16", errors="replace"), [fault]
    faults = []
    if data.startswith(b"\xef\xbb\xbf"):
        message = "starts with a byte-order mark, which the original's scripts cannot read"
        faults.append(Fault(file, "", "byte-order-mark", message, "warning", line=1))
    try:
        return data.decode("utf-8-sig"), faults
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        return data.decode("utf-8-sig", errors="replace"), [
            *faults,
            Fault(file, "", "encoding", message, line=line),
        ]


def entries(file: str, text: str) -> Iterator[tuple[str, int, Any] | Fault]:
    """Id, line and value of each entry of one JSON object.

    If the object is broken, the last item is a fault that says where.
    """
    position = _skip(text, 0)
    if text[position : position + 1] != "{":
        if position == len(text):
            yield Fault(file, "", "truncated", "is an empty file: copy it again")
        else:
            message = f"starts with {text[position]!r}: give a file with one object, id -> record"
            yield Fault(file, "", "not-an-object", message, line=text.count("\n", 0, position) + 1)
        return
    record, number, line, counted = "", 0, 1, 0
    try:
        position = _skip(text, position + 1)
        closed = text[position : position + 1] == "}"
        while not closed:
            if text[position : position + 1] != '"':
                raise json.JSONDecodeError("Expecting an id in double quotes", text, position)
            line, counted = line + text.count("\n", counted, position), position
            name, position = _DECODER.raw_decode(text, position)
            record = name
            position = _skip(text, _expect(text, _skip(text, position), ":"))
            value, position = _DECODER.raw_decode(text, position)
            yield name, line, value
            record, number = "", number + 1
            position = _skip(text, position)
            closed = text[position : position + 1] == "}"
            if not closed:
                position = _skip(text, _expect(text, position, ","))
        if (rest := _skip(text, position + 1)) < len(text):
            raise json.JSONDecodeError("Something follows the object", text, rest)
    # A number of more than 4,300 digits is a ValueError, too.
    except (ValueError, RecursionError) as error:
        yield _broken(file, text, error, record, number, line)


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match
    return match.end()


def _expect(text: str, position: int, sign: str) -> int:
    if text[position : position + 1] != sign:
        raise json.JSONDecodeError(f"Expecting {sign!r}", text, position)
    return position + 1


def _broken(file: str, text: str, error: Exception, record: str, number: int, line: int) -> Fault:
    """The fault of a file that cannot be parsed further."""
    where = "in this record" if record else "between records"
    reason = str(error) or "nested too deeply"
    truncated = False
    if isinstance(error, json.JSONDecodeError):
        line, reason = error.lineno, where_and_why(error)
        end = text.rstrip()
        last_line = not end.endswith("}") and "\n" not in end[error.pos :]
        truncated = (
            error.pos >= len(end) or error.msg.startswith("Unterminated string") or last_line
        )
    kind, remedy = ("truncated", "copy it again") if truncated else ("malformed", "fix it")
    verb = "is truncated" if truncated else "is not valid JSON"
    message = (
        f"the file {verb} {where} ({reason}): {remedy}; read before it: {counted(number, 'record')}"
    )
    return Fault(file, record, kind, message, line=line)
