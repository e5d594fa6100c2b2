"""Files as they may be opened: regular ones of bounded size, and inside the folder of their data.

A data set or a run folder may come from somebody else. A path in it may name a pipe or a device, on
which a reader hangs, or a file of the user's that has nothing to do with it. Everything that is
read by such a path, or found in such a folder, is opened here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from modgap.core.errors import UserError

MOST_BYTES = 512 << 20
"""Size of the largest file that is read at once."""
MOST_IMAGE_BYTES = 256 << 20
"""Size of the largest encoded image."""
MOST_LINE_BYTES = 256 << 20
"""Length of the longest line of a file that is read line by line."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


# ---- reading -------------------------------------------------------------------------------------


def open_regular(path: Path | str) -> BinaryIO:
    """Open a file for reading; links are followed.

    Raises:
        OSError: It does not exist, or may not be read.
        UserError: It is not a regular file.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _not_regular(path, stat.S_IFSOCK) from None
        raise
    except ValueError:  # a zero byte, or half of a surrogate pair: no file has this name
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        raise _not_regular(path, mode)
    return os.fdopen(number, "rb")


def read_bytes(path: Path | str, most: int = MOST_BYTES) -> bytes:
    """The content of a file; links are followed.

    Raises:
        OSError: It does not exist, or may not be read.
        UserError: It is not a regular file, or larger than `most`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UserError(
                f"{path} has {size / 1e6:,.0f} MB, and at most {most / 1e6:,.0f} MB are read at"
                " once: is it the right file?"
            )
        # Half of the system calls of `file.read`: there are thousands of diagrams.
        data = os.read(file.fileno(), size)
        if len(data) == size:
            return data
        file.seek(0)
        return file.read(size)  # some file systems may return less at once


def read_start(path: Path | str, size: int) -> bytes:
    """The first bytes of a file; links are followed. Raises as `open_regular`."""
    with open_regular(path) as file:
        return file.read(size)


def read_text(path: Path | str, encoding: str = "utf-8", errors: str = "strict") -> str:
    """`read_bytes` as text, with every line end as it is in the file."""
    return read_bytes(path).decode(encoding, errors)


@contextlib.contextmanager
def open_lines(path: Path | str) -> Generator[Iterator[bytes]]:
    """The lines of a file, of any number but of bounded length, while the block lasts.

    Raises:
        OSError: It does not exist, or may not be read.
        UserError: It is not a regular file, or a line is too long.
    """
    with open_regular(path) as file:
        yield _lines(path, file)


def _lines(path: Path | str, file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        if len(line) > MOST_LINE_BYTES:
            raise UserError(
                f"{path} line {number} has more than {MOST_LINE_BYTES / 1e6:,.0f} MB: is it the"
                " right file?"
            )
        yield line


def _not_regular(path: Path | str, mode: int) -> UserError:
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    return UserError(f"{path} is {kind}, not a regular file: give a regular file.")


_ELSEWHERE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def check_local(path: Path | str) -> None:
    """Refuse an address such as `s3://bucket/run`, of which `Path` would make a folder `s3:`.

    Runs need locks, appended files and links, which object stores do not have.

    Raises:
        UserError: It is an address.
    """
    if _ELSEWHERE.match(str(path)):
        raise UserError(
            f"{path} is not a local path, and modgap reads and writes local files only: give a"
            " folder here, or mount the store."
        )


# ---- writing in a folder that may be somebody else's ---------------------------------------------


def open_own(path: Path, flags: int) -> BinaryIO:
    """Open a file that is written in place, and make it if need be; a link is not followed.

    Args:
        path: The file.
        flags: Added to the opening flags, such as `os.O_APPEND`.

    Raises:
        UserError: It is a link, or not a regular file.
    """
    flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        number = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(
                f"{path} is a symbolic link, through which nothing is written: remove it, or give"
                " another --out."
            ) from None
        raise
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        raise _not_regular(path, mode)
    return os.fdopen(number, "ab" if flags & os.O_APPEND else "r+b")


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Generator[None]:
    """Hold a lock file; it stays, since removing it would let two other processes in at once.

    Args:
        path: The lock file; made if absent, its content is left alone.
        wait: Wait until no other process holds it. A spawned process that is still importing its
            parent's script ends instead: the parent may hold the lock and wait for this process.

    Raises:
        UserError: It is a link or not a regular file.
        BlockingIOError: Another process holds it.
    """
    waits = wait and not _imports_script()
    with open_own(path, 0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            if wait and not waits:
                os._exit(1)  # an exception ends in `main`, and the script would continue
            raise
        yield


def _imports_script() -> bool:
    """Whether this process was spawned and is still importing its parent's script."""
    import multiprocessing  # late: few commands need it

    return getattr(multiprocessing.current_process(), "_inheriting", False)


# ---- where files may be --------------------------------------------------------------------------


class Root:
    """The folders that the files of a data set or of a run are in.

    Paths that stand in its files, and links, must not lead out of them. Links in a snapshot of the
    Hugging Face cache lead to the `blobs` beside it, which belong to it.

    Args:
        places: The folders, as the user gave them; for a file, its folder.
        allow_outside: Files may be anywhere.
    """

    def __init__(self, *places: Path | str, allow_outside: bool = False) -> None:
        self._anywhere = allow_outside
        folders = [place if os.path.isdir(place) else os.path.dirname(place) for place in places]
        self.folder = Path(folders[0] or ".") if folders else Path()
        inside: list[str] = []
        for folder in folders:
            real = os.path.realpath(folder)
            inside += [real, *_blobs(Path(real))]
        self._inside = tuple(inside)
        self._below = tuple(folder.rstrip(os.sep) + os.sep for folder in inside)
        self._parents: dict[str, str] = {}

    def target(self, path: Path | str) -> str:
        """Where a path leads if that is outside; empty if it is inside."""
        if self._anywhere:
            return ""
        parent, name = os.path.split(path)
        try:
            if name in ("", ".", "..") or os.path.islink(path):
                real = os.path.realpath(path)
            else:
                if parent not in self._parents:
                    self._parents[parent] = os.path.realpath(parent)
                real = os.path.join(self._parents[parent], name)
        except ValueError:  # a zero byte: no file has this name
            return ""
        return "" if real.startswith(self._below) or real in self._inside else real

    def fault(self, path: Path | str) -> tuple[str, str] | None:
        """Kind and message of what is wrong with the path of an image; `None` if it can be read."""
        if target := self.target(path):
            return "image-outside", self._leads_out(target)
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError):
            return "image-absent", "is absent"
        if not stat.S_ISREG(mode):
            return "image-absent", (
                f"is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a regular file"
            )
        return None

    def check(self, path: Path | str, what: str = "") -> None:
        """Refuse a path that leads out.

        Raises:
            UserError: The message begins with `what`, or with the path.
        """
        if target := self.target(path):
            raise UserError(f"{what or path} {self._leads_out(target)}.")

    def read_bytes(self, path: Path | str) -> bytes:
        """`read_bytes` of a path that does not lead out."""
        self.check(path)
        return read_bytes(path)

    def _leads_out(self, target: str) -> str:
        return (
            f"leads out of {self.folder} (to {target}): copy the file there, or give"
            " --allow-outside if you trust these data"
        )


def _blobs(folder: Path) -> Iterable[str]:
    """The `blobs` of a repository in the Hugging Face cache, if the folder is in its snapshot."""
    for part in (folder, *folder.parents):
        blobs = part.parent.parent / "blobs"
        if part.parent.name == "snapshots" and os.path.realpath(blobs) == str(blobs):
            yield str(blobs)
