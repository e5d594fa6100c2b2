"""Handling of a GPU's memory running out: cached memory is freed, then batches are halved.

All parts of the package use this one policy. Importing this module is cheap: torch is loaded when
work is done.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import TypeVar

from modgap.core.errors import UserError

R = TypeVar("R")


class OutOfMemory(Exception):
    """Memory ran out, and all that the work held is free: repeat it with fewer rows."""


class BatchSize:
    """How many rows go through a model together; halved when memory runs out.

    Args:
        size: Where it starts.
        note: Called with a message when it is halved.
        free: Frees memory that is kept for later and returns whether there was any; called
            before rows are halved.

    Attributes:
        size: Rows now.
        limit: The same, but `None` until memory ran out: then a caller with a better estimate may
            choose the number of rows.
    """

    def __init__(
        self, size: int, note: Callable[[str], None], free: Callable[[], bool] = lambda: False
    ) -> None:
        self.size = size
        self.limit: int | None = None
        self._note, self._free = note, free

    def attempt(self, work: Callable[[], R]) -> R:
        """The result of the work.

        Raises:
            OutOfMemory: It did not fit.
        """
        import torch

        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                pass
            # Outside the handler: the exception holds the frames, and with them the memory.
            found = self._free()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if not found:
                raise OutOfMemory

    def halve(self, rows: int, words: str, alone: str) -> None:
        """From now on use half of a number of rows that did not fit.

        Args:
            rows: The number of rows that did not fit.
            words: The note; `{rows}` in it is the new size.
            alone: The error if a single row did not fit.

        Raises:
            UserError: One row is too many.
        """
        if rows <= 1:
            raise UserError(alone)
        self.size = self.limit = rows // 2
        self._note(words.replace("{rows}", str(self.size)))

    def run(self, what: str, work: Callable[[int], R]) -> R:
        """Do the work with rows of this size.

        When memory runs out it starts again, with half of the rows if freeing memory did not help.

        Args:
            what: The work, for messages.
            work: Takes the rows of a pass.

        Raises:
            UserError: One row is too many.
        """
        while True:
            with contextlib.suppress(OutOfMemory):
                return self.attempt(lambda: work(self.size))
            self.halve(
                self.size,
                f"out of memory in the {what}: halved to {{rows}} rows at a time",
                f"out of memory in the {what} with one row at a time: give a smaller"
                " max_response_tokens, gradient_checkpointing=true, lora_rank=16 or"
                " freeze_vision=true with --set.",
            )
