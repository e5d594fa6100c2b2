"""What a person sees while a command works: progress bars and short tables.

Bars go to stderr, and only to a terminal; a log file gets none. All that is printed goes through
`shown`: a server, an id or the name of a file may hold escapes that a terminal obeys.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from modgap.core.secrets import without_secrets, without_userinfo
from modgap.core.text import printable, shortened

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


class Bars:
    """Named progress bars.

    A call with a name, the amount done and the total shows that bar.
    """

    def __init__(self, progress: RichProgress | None) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    @property
    def shown(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self._progress is not None

    def __call__(self, name: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` is done of what is called `name`."""
        if self._progress is None:
            return
        name, note = shown(name), shown(note)
        if name not in self._tasks:
            # A resumed run starts where it stopped; earlier work must not count as speed.
            self._tasks[name] = self._progress.add_task(
                name, total=total, completed=done, note=note
            )
        self._progress.update(self._tasks[name], completed=done, total=total, note=note)

    def named(self, owner: str) -> Callable[[str, int, int], None]:
        """These bars with a name in front, to tell the models of a study apart."""
        return lambda name, done, total: self(f"{owner}: {name}", done, total)

    def counter(self, name: str) -> Callable[[int, int], None]:
        """The bar of one name, as a function of done and total."""
        return lambda done, total: self(name, done, total)


SILENT = Bars(None)
"""Shows nothing."""


@contextlib.contextmanager
def progress_bars() -> Generator[Bars]:
    """Progress bars for the time of a block."""
    if not sys.stderr.isatty():
        yield Bars(None)
        return
    from rich import progress as rich
    from rich.console import Console

    with rich.Progress(
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(bar_width=24),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
    ) as progress:
        yield Bars(progress)


def shown(text: str) -> str:
    """The text as it may be printed: without keys, and without what a terminal obeys."""
    return printable(without_userinfo(without_secrets(text)))


def show(*words: object, error: bool = False, end: str = "\n") -> None:
    """Print words to standard output, or to standard error; the one function that prints.

    Args:
        words: What to print, as `print` takes it.
        error: To standard error, at once.
        end: As of `print`.
    """
    stream = sys.stderr if error else sys.stdout
    print(shown(" ".join(map(str, words))), file=stream, end=end, flush=error)


def say(message: str, started: float | None = None) -> None:
    """One line on stderr about what happens now, with the seconds since `started`."""
    since = f"[{time.monotonic() - started:5.0f} s] " if started is not None else ""
    show(f"{since}{shortened(message)}", error=True)


def warn(message: str) -> None:
    """One line on stderr about something that may make a number misleading."""
    say(f"warning: {message}")
