"""Files that appear whole or not at all, and a full disk that is named."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

from modgap.core.errors import UserError

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up",
         errno.EFBIG: "the largest size of a file is reached (ulimit -f)"}  # fmt: skip
# Libraries pass on no error number, only its words; torch passes on not even these.
_WORDS = {os.strerror(number): words for number, words in _FULL.items()} | {
    "PytorchStreamWriter failed": "the disk may be full",
    "unexpected pos": "the disk may be full",
}
# What a killed process leaves in a folder that its run locks.
_TEMPORARY = (
    ".*.tmp", "stage*/.*.tmp", "stage*/checkpoints/.*.tmp", "stage*/data/.*.partial",
)  # fmt: skip


def full_disk(error: BaseException) -> str:
    """Why nothing more could be written, in words; empty for any other error."""
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        if isinstance(error, OSError) and error.errno in _FULL:
            return _FULL[error.errno]
        for words, meaning in _WORDS.items():
            if not isinstance(error, UserError) and words in str(error):
                return meaning
        error = error.__cause__ or error.__context__ or error
    return ""


@contextlib.contextmanager
def writing(path: Path) -> Generator[None]:
    """Name the file, and what helps, if the disk is full.

    Raises:
        UserError: The disk is full. Any other error is raised as it is.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not (why := full_disk(error)):
            raise
        raise UserError(
            f"{path} cannot be written: {why}. Make room there; the same command then resumes."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A place for a new file or folder, which replaces `path` when it is complete.

    Whatever ends the writing before removes it. What `kill -9` leaves, `sweep` removes.

    Raises:
        UserError: The disk is full.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if _is_of_dead_process(left):  # no lock is held where a report is written
            _remove(left)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            yield temporary
        if temporary.is_dir() and not temporary.is_symlink() and path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def _is_of_dead_process(temporary: Path) -> bool:
    number = temporary.name.split(".")[-2]
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, PermissionError):
        pass
    return False


def sweep(folder: Path) -> None:
    """Remove the temporary files of a killed process; the caller holds the folder's lock."""
    for path in _temporary(folder):
        _remove(path)


def _temporary(folder: Path) -> Iterator[Path]:
    for pattern in _TEMPORARY:
        for path in folder.glob(pattern):
            # A stage that is a link belongs to another run, which may be writing it.
            below = path.relative_to(folder).parents
            if not any((folder / part).is_symlink() for part in list(below)[:-1]):
                yield path


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
