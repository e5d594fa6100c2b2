"""Ways to damage a file: of any kind, of JSON, of lines."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Damager = Callable[[bytes, random.Random], bytes]
DIGITS = "9" * 5000
"""A number that Python refuses to parse, or to print."""
WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, "", "x", [], {}, [[]], {"a": None}, "\ud800", "a\udfffb",
    "\x1b[2J\u202eevil", "\x00", "k" * 3000, 10**400, "/etc/passwd", "../../outside/secret.txt",
    "=1+1", float("nan"), float("inf"), -float("inf"),
)  # fmt: skip


@dataclass(frozen=True)
class Damage:
    """One way.

    Attributes:
        name: What the damage is called.
        apply: Does it.
        plain: Whether the content can be told to be damaged: a number that it changes without a
            warning is a fault. (Nothing can tell another word in an answer from the model's own.)
    """

    name: str
    apply: Damager
    plain: bool = True


def _truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(1, max(2, len(data)))]


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        changed[rng.randrange(len(data))] ^= 0x80  # never valid UTF-8 in ASCII
    return bytes(changed)


def _bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(7)
    return bytes(changed)


def _zeroed(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :]


def _values(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = (
        value.items()
        if isinstance(value, dict)
        else (enumerate(value) if isinstance(value, list) else ())
    )
    return [path, *(found for key, item in below for found in _values(item, (*path, key)))]


def _changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _changed(copy[path[0]], path[1:], new)
    return copy


def _in_json(change: Callable[[Any, random.Random], Any]) -> Damager:
    """A change of the whole document, or of one line that is a document."""

    def apply(data: bytes, rng: random.Random) -> bytes:
        try:
            return _dump(change(json.loads(data), rng))
        except ValueError:
            lines = data.splitlines(keepends=True)
            number = rng.randrange(len(lines)) if lines else 0
            try:
                lines[number] = _dump(change(json.loads(lines[number]), rng)) + b"\n"
            except (ValueError, IndexError):
                return data + b"\n[]\n"
            return b"".join(lines)

    return apply


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _wrong_value(value: Any, rng: random.Random) -> Any:
    path = rng.choice(_values(value))
    new = rng.choice([item for item in WRONG if type(item) is not type(_at(value, path))])
    return _changed(value, path, new)


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _other_text(value: Any, rng: random.Random) -> Any:
    paths = [path for path in _values(value) if isinstance(_at(value, path), str)]
    texts = [item for item in WRONG if isinstance(item, str)]
    return _changed(value, rng.choice(paths), rng.choice(texts)) if paths else value


def _other_number(value: Any, rng: random.Random) -> Any:
    paths = [
        path
        for path in _values(value)
        if isinstance(_at(value, path), int | float) and not isinstance(_at(value, path), bool)
    ]
    odd = (float("nan"), float("inf"), -1, 10**400, 10**20, -0.0, 2**63)
    return _changed(value, rng.choice(paths), rng.choice(odd)) if paths else value


def _dropped_key(value: Any, rng: random.Random) -> Any:
    paths = [path for path in _values(value) if path and isinstance(path[-1], str)]
    if not paths:
        return []
    *above, key = rng.choice(paths)
    holder = dict(_at(value, tuple(above)))
    del holder[key]
    return _changed(value, tuple(above), holder)


def _deeper(value: Any, rng: random.Random) -> Any:
    for _ in range(rng.choice((50, 300, 900))):
        value = [value]
    return value


def _lines(change: Callable[[list[bytes], random.Random], list[bytes]]) -> Damager:
    return lambda data, rng: b"".join(change(data.splitlines(keepends=True), rng))


def _removed(lines: list[bytes], rng: random.Random) -> list[bytes]:
    at = rng.randrange(len(lines))
    return lines[:at] + lines[at + rng.choice((1, 1, 3)) :]


def _repeated(lines: list[bytes], rng: random.Random) -> list[bytes]:
    at = rng.randrange(len(lines))
    return [*lines, lines[at]] if rng.random() < 0.5 else [*lines[:at], lines[at], *lines[at:]]


def _shuffled(lines: list[bytes], rng: random.Random) -> list[bytes]:
    return rng.sample(lines, len(lines))


def _joined(lines: list[bytes], rng: random.Random) -> list[bytes]:
    at = rng.randrange(len(lines))
    return [*lines[:at], lines[at].rstrip(b"\n"), *lines[at + 1 :]]


def _huge_number(data: bytes, rng: random.Random) -> bytes:
    import re

    found = list(re.finditer(rb": -?\d+(\.\d+)?", data)) or list(re.finditer(rb"\d+", data))
    if not found:
        return DIGITS.encode()
    at = rng.choice(found)
    return data[: at.start()] + b": " + DIGITS.encode() + data[at.end() :]


DAMAGES = (
    Damage("empty", lambda data, rng: b""),
    Damage("one newline", lambda data, rng: b"\n"),
    Damage("truncated", _truncated),
    Damage("without the last newline", lambda data, rng: data.rstrip(b"\n")),
    Damage("without its last line", lambda data, rng: data[: data.rstrip(b"\n").rfind(b"\n") + 1]),
    Damage("bytes flipped", _flipped),
    Damage("a bit flipped", _bits, plain=False),
    Damage("a block of zeros", _zeroed),
    Damage("all zeros", lambda data, rng: bytes(len(data))),
    Damage("UTF-16", lambda data, rng: data.decode("utf-8", "replace").encode("utf-16")),
    Damage("a byte-order mark", lambda data, rng: b"\xef\xbb\xbf" + data, plain=False),
    Damage("CRLF", lambda data, rng: data.replace(b"\n", b"\r\n"), plain=False),
    Damage("garbage after it", lambda data, rng: data + rng.randbytes(300)),
    Damage("garbage before it", lambda data, rng: rng.randbytes(300) + data),
    Damage("twice", lambda data, rng: data + data),
    Damage("null", lambda data, rng: b"null\n"),
    Damage("a list", lambda data, rng: b"[]\n"),
    Damage("an object", lambda data, rng: b"{}\n"),
    Damage("a number", lambda data, rng: b"5\n"),
    Damage("a string", lambda data, rng: b'"x"\n'),
    Damage("NaN", lambda data, rng: b"NaN\n"),
    Damage("deep lists", lambda data, rng: b"[" * 200_000 + b"]" * 200_000 + b"\n"),
    Damage("deep objects", lambda data, rng: b'{"a":' * 100_000 + b"\n"),
    Damage("deep inside", _in_json(_deeper)),
    Damage("5,000 digits", _huge_number, plain=False),
    Damage("a value of another type", _in_json(_wrong_value)),
    Damage("a value of another type (2)", _in_json(_wrong_value)),
    Damage("a value of another type (3)", _in_json(_wrong_value)),
    Damage("an odd text", _in_json(_other_text), plain=False),
    Damage("an odd number", _in_json(_other_number), plain=False),
    Damage("a key less", _in_json(_dropped_key)),
    Damage("a line less", _lines(_removed)),
    Damage("a line twice", _lines(_repeated)),
    # Permutation tests and bootstraps draw problems by their order.
    Damage("lines in another order", _lines(_shuffled), plain=False),
    Damage("two lines joined", _lines(_joined)),
    Damage("a long line", lambda data, rng: data + b'{"' + b"k" * 3_000_000 + b'": 1}\n'),
)


def damaged(damage: Damage, data: bytes, rng: random.Random) -> bytes:
    """The content after the damage; that of an empty file is some bytes."""
    return damage.apply(data, rng) if data else b"\x00"
