"""What a person sees while a command works: progress bars on a terminal, else a line now and then.

Code anywhere may say what it does at the moment (`doing`): a word beside the bar of the command
under way. It costs nothing where no command shows progress. All that is printed goes through
`shown`: a server, an id or the name of a file may hold escapes that a terminal obeys.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from modgap.core.secrets import without_secrets, without_userinfo
from modgap.core.text import printable, shortened

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_FIRST = 1.0
"""Seconds until a log gets its first line: a command that is refused before has one line only."""
_SHARE, _SHORTEST, _LONGEST = 30, 1.8, 60.0
"""Seconds between two lines of a log: a thirtieth of the time so far, within these limits."""


class Bars:
    """Named progress bars; this class shows nothing.

    A call with a name, the amount done and the total shows that bar.
    """

    @property
    def shown(self) -> bool:
        """Whether there is a terminal to draw on."""
        return False

    def __call__(self, name: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` is done of what is called `name`."""

    def doing(self, what: str) -> None:
        """Show the current activity until the next call for any bar."""

    def said(self) -> None:
        """Told when a line was written beside the bars."""

    def close(self) -> None:
        """Remove the bars."""

    def named(self, owner: str) -> Callable[[str, int, int], None]:
        """These bars with a name in front, to tell the models of a study apart."""
        return lambda name, done, total: self(f"{owner}: {name}", done, total)

    def counter(self, name: str) -> Callable[[int, int], None]:
        """The bar of one name, as a function of done and total."""
        return lambda done, total: self(name, done, total)


SILENT = Bars()
"""Shows nothing."""
_active: Bars = SILENT
"""The bars of the command under way."""


class _Terminal(Bars):
    """Bars that move, drawn by rich from the first call on."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}
        self._last, self._note = "", ""

    @property
    def shown(self) -> bool:
        return True

    def __call__(self, name: str, done: int, total: int, note: str = "") -> None:
        self._drop_nameless()
        name, note = shown(name), shown(note)
        if name not in self._tasks:
            # A resumed run starts where it stopped; earlier work must not count as speed.
            self._tasks[name] = self._drawn().add_task(name, total=total, completed=done, note=note)
        self._last, self._note = name, note
        self._drawn().update(self._tasks[name], completed=done, total=total, note=note)

    def doing(self, what: str) -> None:
        what = shown(what)
        if not self._last:  # no bar yet: one without an end
            self._drop_nameless()
            self._tasks[""] = self._drawn().add_task(what, total=None, note="")
            return
        note = ", ".join(filter(None, (self._note, what)))
        self._drawn().update(self._tasks[self._last], note=note)

    def close(self) -> None:
        if self._progress is not None:
            self._drop_nameless()
            self._progress.stop()

    def _drop_nameless(self) -> None:
        if "" in self._tasks:
            self._progress.remove_task(self._tasks.pop(""))

    def _drawn(self) -> Any:
        if self._progress is None:
            from rich import progress as rich
            from rich.console import Console

            self._progress = rich.Progress(
                rich.TextColumn("{task.description}", markup=False),
                rich.BarColumn(bar_width=24),
                rich.MofNCompleteColumn(),
                rich.TimeElapsedColumn(),
                rich.TimeRemainingColumn(),
                rich.TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True),
            )
            self._progress.start()
        return self._progress


class _Log(Bars):
    """Lines for a log file, from a thread: also while a model is loaded there is a sign of life."""

    def __init__(self) -> None:
        self._begun = self._spoke = time.monotonic()
        self._bar = self._what = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._speak, name="modgap-progress", daemon=True)
        self._thread.start()

    def __call__(self, name: str, done: int, total: int, note: str = "") -> None:
        self._bar, self._what = f"{name}: {done:,} of {total:,}", note

    def doing(self, what: str) -> None:
        self._what = what

    def said(self) -> None:
        self._spoke = time.monotonic()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _speak(self) -> None:
        first = True
        while not self._ended.wait(0.1):
            now = time.monotonic()
            pause = min(max((now - self._begun) / _SHARE, _SHORTEST), _LONGEST)
            if now - self._spoke < (_FIRST if first else pause):
                continue
            if words := ", ".join(filter(None, (self._bar, self._what))):
                first = False
                self._spoke = now
                show(f"{brief(words)} ({now - self._begun:.0f} s)", error=True)


@contextlib.contextmanager
def progress_bars() -> Generator[Bars]:
    """Progress bars for the time of a block; inside of such a block, those of the outer one."""
    global _active
    if _active is not SILENT:
        yield _active
        return
    bars = _active = _Terminal() if sys.stderr.isatty() else _Log()
    try:
        yield bars
    finally:
        _active = SILENT
        bars.close()


def doing(what: str) -> None:
    """Say what the command under way does at the moment: shown beside its bar, not kept."""
    _active.doing(what)


def shown(text: str) -> str:
    """The text as it may be printed: without keys, and without what a terminal obeys."""
    return printable(without_userinfo(without_secrets(text)))


def brief(text: str) -> str:
    """The text as `shown`, in one line of bounded length.

    Keys are removed first: of one at the cut, half would stay.
    """
    return shortened(shown(text))


def show(*words: object, error: bool = False, end: str = "\n") -> None:
    """Print words to standard output, or to standard error; the one function that prints.

    Args:
        words: What to print, as `print` takes it.
        error: To standard error, at once.
        end: As of `print`.
    """
    stream = sys.stderr if error else sys.stdout
    # In one piece: a line of the thread of `_Log` must not end up inside of another one.
    print(shown(" ".join(map(str, words))) + end, file=stream, end="", flush=error)


def say(message: str, started: float | None = None) -> None:
    """One line on stderr about what happens now, with the seconds since `started`."""
    since = f"[{time.monotonic() - started:5.0f} s] " if started is not None else ""
    show(f"{since}{brief(message)}", error=True)
    _active.said()


def warn(message: str) -> None:
    """One line on stderr about something that may make a number misleading."""
    say(f"warning: {message}")
