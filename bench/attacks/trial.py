"""One try of an attack: a command in a forked process, and what can be said against its end.

A fork takes milliseconds where a new interpreter takes seconds, and it can be killed, run out of
time or crash without harm.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import fcntl
import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from modgap.cli import main as cli

LIMIT_S = 60.0
"""A try that takes longer counts as hung; no command here has work for more than a few seconds."""
KEY = "sk-att\"ack'%2F+/=?&-0123456789"
"""The key of the hostile servers: every character that some form of quoting changes."""
SECRET = "top-secret-canary-7361"
"""Content of the file outside that nothing may read or change."""
_MARK = "MODGAP_ATTACK"
_PATIENCE_S = 15.0
_NEVER_SAID = {
    "Traceback": "a traceback",
    "--debug": "called a bug (--debug)",
    "[Errno": "an error number",
    "object at 0x": "an object's address",
}
_TYPE_NAMES = re.compile(
    r"\b(Type|Key|Attribute|Recursion|Index|Assertion|Value|Unicode\w*|Overflow|JSONDecode)Error\b"
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_REMEDY = re.compile(
    r"\b(give|name|remove|put|copy|make|write|writes|made|choose|check|install|add|save|rename|wait|set|"
    r"start|train|use|read|reads|has|see|is it|mend|names every fault|again|must be|replace|fix|"
    r"free|move|relative to|put back|download|correct|take|delete|one of|change|between|needs?)\b",
    re.IGNORECASE,
)

Tried = Iterator[tuple[str, str]]
"""What was tried, and what failed in it; empty where everything held."""


@dataclass
class Bench:
    """What every attack is given.

    Attributes:
        root: An empty folder of its own.
        seed: Of everything that is random.
        share: Part of the full number of tries.
    """

    root: Path
    seed: int
    share: float
    _places: int = 0

    @cached_property
    def rng(self) -> random.Random:
        """For what is tried; each attack has a bench of its own."""
        return random.Random(self.seed)

    def count(self, full: int) -> int:
        """How many of a number of tries are made."""
        return max(1, round(full * self.share))

    def some(self, of: Sequence[Any]) -> list[Any]:
        """This bench's share of a list, in its order."""
        chosen = set(self.rng.sample(range(len(of)), min(len(of), self.count(len(of)))))
        return [item for number, item in enumerate(of) if number in chosen]

    @property
    def quick(self) -> bool:
        """Whether there is no time for what is slow."""
        return self.share < 0.2

    def place(self) -> Path:
        """A new folder with a `tmp` for the temporary files of the command."""
        self._places += 1
        place = self.root / f"{self._places:05}"
        (place / "tmp").mkdir(parents=True)
        return place

    def clear(self, place: Path) -> None:
        """Remove a folder of `place`, whatever was made of it."""
        shutil.rmtree(place, ignore_errors=True)


@dataclass
class Outcome:
    """How a command ended.

    Attributes:
        status: Its exit status, negative for a signal; `None` if it ran out of time.
        out: Standard output.
        err: Standard error.
        seconds: How long it took.
        megabytes: Peak of its memory above that of the process it was forked from.
        left: Processes that it left behind; they were killed.
    """

    status: int | None
    out: str
    err: str
    seconds: float
    megabytes: float
    left: list[str] = field(default_factory=list[str])

    @property
    def said(self) -> str:
        """All that it printed."""
        return self.out + self.err

    @property
    def warned(self) -> bool:
        """Whether it failed, or said that something is not as it should be."""
        return self.status != 0 or bool(
            re.search(
                r"(?<!0 )warning|missing|incomplete|left out|Note:|not finished", self.said, re.I
            )
        )


def modgap(*argv: object) -> Callable[[], int]:
    """The command line in this process, as the console script runs it."""
    return lambda: cli.main([str(part) for part in argv])


def attempt(
    work: Callable[[], int],
    place: Path,
    *,
    limit: float = LIMIT_S,
    kill_after: float | None = None,
    with_signal: int = signal.SIGKILL,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run `work` in a forked process whose working folder is `place`.

    Args:
        work: Gives the exit status.
        place: Its working folder.
        limit: Seconds after which it counts as hung.
        kill_after: Seconds after which it gets `with_signal`.
        with_signal: The signal.
        environment: Set in addition.
    """
    readers, writers = zip(os.pipe(), os.pipe(), strict=True)
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    before, started = _resident(), time.monotonic()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        _child(work, place, writers, limit, {_MARK: mark, **(environment or {})})
    for number in writers:
        os.close(number)
    texts = _watch(pid, readers, started, limit, kill_after, with_signal)
    seconds = time.monotonic() - started
    if hung := seconds >= limit:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    return Outcome(
        None if hung else os.waitstatus_to_exitcode(status),
        *(bytes(text).decode("utf-8", "backslashreplace") for text in texts),
        seconds,
        max(0.0, used.ru_maxrss / 1024 - before),
        leftovers(pid, mark),
    )


def _child(
    work: Callable[[], int],
    place: Path,
    writers: Sequence[int],
    limit: float,
    environment: Mapping[str, str],
) -> None:
    """What the forked process does; it never returns."""
    status = 99
    try:
        os.setsid()
        os.chdir(place)
        for number, stream in zip((0, 1, 2), (os.open(os.devnull, os.O_RDONLY), *writers),
                                  strict=True):  # fmt: skip
            os.dup2(stream, number)
        # pytest, for one, has put others in their place.
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.environ.update(environment, TMPDIR=str(place / "tmp"))
        tempfile.tempdir = None
        # What a hung try was doing; far less than the limit, so that it is in the example.
        faulthandler.dump_traceback_later(limit * 0.9, file=2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, cli._interrupt)
        sys.unraisablehook = cli._repeat_interrupt
        atexit._clear()  # pyright: ignore[reportAttributeAccessIssue]  # of the parent
        status = work()
        atexit._run_exitfuncs()  # pyright: ignore[reportAttributeAccessIssue]
        from multiprocessing import util

        util._exit_function()  # pyright: ignore[reportAttributeAccessIssue]
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _watch(
    pid: int,
    readers: Sequence[int],
    started: float,
    limit: float,
    kill_after: float | None,
    with_signal: int,
) -> tuple[bytearray, bytearray]:
    """Read what a process prints until it ends or its time is up."""
    texts = (bytearray(), bytearray())
    ended = os.pidfd_open(pid)
    poll = select.poll()
    for number in (*readers, ended):
        poll.register(number, select.POLLIN)
    for number in readers:
        fcntl.fcntl(number, fcntl.F_SETFL, os.O_NONBLOCK)
    over = False
    while not over and time.monotonic() - started < limit:
        events = poll.poll(10 if kill_after is not None else 200)
        if kill_after is not None and time.monotonic() - started >= kill_after:
            os.kill(pid, with_signal)
            kill_after = None
        over = any(number == ended for number, _ in events)
        for number, text in zip(readers, texts, strict=True):
            with contextlib.suppress(BlockingIOError):
                while data := os.read(number, 1 << 16):
                    text += data
                with contextlib.suppress(KeyError):
                    poll.unregister(number)  # its writers are gone
    for number in (*readers, ended):
        os.close(number)
    return texts


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def leftovers(session: int, mark: str, patience: float | None = None) -> list[str]:
    """Processes of a session, or with the mark, that do not end within `patience` seconds."""
    until = time.monotonic() + (_PATIENCE_S if patience is None else patience)
    while found := list(_of(session, mark)):
        if time.monotonic() > until:
            titles = [
                (Path("/proc") / str(pid) / "cmdline").read_text().replace("\0", " ")[:100]
                for pid in found
            ]
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return titles
        time.sleep(0.1)
    return []


def _of(session: int, mark: str) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            state = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            marked = f"{_MARK}={mark}".encode() in Path("/proc", name, "environ").read_bytes()
            if state[0] != "Z" and (marked or int(state[3]) == session):
                yield int(name)


# ---- judgements ----------------------------------------------------------------------------------


def against(
    outcome: Outcome,
    *,
    names: Iterable[str] = (),
    statuses: Iterable[int] = (0, 1, 2),
    most_megabytes: float = 700.0,
) -> str:
    """What is wrong with how a command ended; empty where nothing is.

    Args:
        outcome: How it ended.
        names: Where it failed, its message has one of these.
        statuses: Exit statuses that may be.
        most_megabytes: The most memory that it may take.
    """
    if outcome.status is None:
        return f"hung for {outcome.seconds:.0f} s: {_last(outcome.err, 12)}"
    for word, what in _NEVER_SAID.items():
        if word in outcome.said:
            return f"{what}: {_around(outcome.said, word)}"
    if outcome.status not in statuses:
        return f"exit status {outcome.status}: {_last(outcome.said)}"
    if outcome.left:
        return f"left processes: {outcome.left}"
    if found := _CONTROLS.search(outcome.said):
        return f"a control character {found[0]!a}: {_around(outcome.said, found[0])}"
    if outcome.megabytes > most_megabytes:
        return f"took {outcome.megabytes:.0f} MB"
    if told := secret_in(outcome.said.encode()):
        return f"printed {told}"
    if outcome.status in (1, 2):
        return _against_message(outcome, tuple(names))
    return ""


def _against_message(outcome: Outcome, names: Sequence[str]) -> str:
    message = "".join(outcome.err.strip().splitlines()[-1:])
    if not message.startswith("modgap: "):
        # `data check` lists faults on standard output.
        return "" if outcome.out.strip() else f"no message: {_last(outcome.said)}"
    if long := [line for line in outcome.err.splitlines() if len(line) > 500]:
        return f"a message of {len(long[0])} characters: {long[0][:200]}"
    if found := _TYPE_NAMES.search(message):
        return f"the name of an exception ({found[0]}): {message}"
    if names and not any(name in message for name in names):
        return f"names none of {', '.join(names)}: {message}"
    if not _REMEDY.search(message):
        return f"no remedy: {message}"
    return ""


def secret_in(data: bytes) -> str:
    """Which secret some bytes hold."""
    from urllib.parse import quote, quote_plus

    forms = {KEY, json.dumps(KEY)[1:-1], quote(KEY), quote(KEY, ""), quote_plus(KEY)}
    if any(form.encode() in data for form in forms):
        return "the key"
    return "a file from outside" if SECRET.encode() in data else ""


def secrets_below(place: Path, but: Iterable[Path] = ()) -> str:
    """The first file below a folder that holds a secret."""
    left_out = set(but)
    for path in files_below(place):
        if path not in left_out and (told := secret_in(path.read_bytes())):
            return f"{path.relative_to(place)} holds {told}"
    return ""


def files_below(place: Path) -> list[Path]:
    """The regular files below a folder; links are not followed."""
    found = (Path(folder, name) for folder, _, names in os.walk(place) for name in names)
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def temporaries(place: Path) -> str:
    """The first temporary file or folder below a folder."""
    for path in sorted(place.rglob("*")):
        inside = path.relative_to(place).parts
        if path.name.endswith((".tmp", ".partial")) or (inside[0] == "tmp" and len(inside) > 1):
            return f"a temporary file stays: {path.relative_to(place)}"
    return ""


class Outside:
    """A file and a folder that belong to somebody else, which no command may read or change."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "outside"
        self.folder.mkdir()
        self.file = self.folder / "secret.txt"
        self.file.write_text(f"{SECRET}\n" * 3)

    def against(self) -> str:
        """What was changed in it."""
        names = sorted(path.name for path in self.folder.iterdir())
        if names != ["secret.txt"] or self.file.read_text() != f"{SECRET}\n" * 3:
            return f"written outside of the run: {names}"
        return ""


def same_tree(place: Path, drop: Callable[[str], bool] = lambda name: False) -> dict[str, str]:
    """Relative path of each file below a folder -> digest of what does not change by chance."""
    found: dict[str, str] = {}
    for path in files_below(place):
        name = str(path.relative_to(place))
        if not drop(name):
            # Files name the folder that they are in.
            content = _steady(path).replace(str(place).encode(), b"PLACE")
            found[name] = hashlib.sha256(content).hexdigest()[:16]
    return found


def json_values(place: Path, name: str) -> dict[str, Any]:
    """The values of a JSON file of one document, by their keys; empty for any other file.

    Without those that change by chance: what `same_tree` compares.
    """
    path = place / name
    if path.suffix != ".json":
        return {}
    try:
        content = json.loads(path.read_bytes().replace(str(place).encode(), b"PLACE"))
    except (ValueError, RecursionError):
        return {}
    return dict(_leaves(_timeless(content)))


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else name)
    else:
        yield key, value


_TIMES = re.compile(r"time|second|created|per_s|versions|git|duration|commit|asked", re.I)


def _steady(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix not in (".json", ".jsonl"):
        return data
    try:
        rows = [_timeless(json.loads(line)) for line in data.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        try:
            rows = [_timeless(json.loads(data))]
        except (ValueError, RecursionError):
            return data
    return "\n".join(sorted(json.dumps(row, sort_keys=True) for row in rows)).encode()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not _TIMES.search(k)}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _last(text: str, lines: int = 3) -> str:
    return " | ".join(text.strip().splitlines()[-lines:])[-1500:]


def _around(text: str, word: str) -> str:
    at = text.index(word)
    return _last(text, 7) if word == "Traceback" else ascii(text[max(0, at - 250) : at + 100])
