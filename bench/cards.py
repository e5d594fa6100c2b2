"""The GPUs that this process may use, as NVML knows them; none where there is no NVML.

For the other scripts here.
"""

from __future__ import annotations

import os
import statistics
import threading
from typing import Any


def visible_cards() -> tuple[Any, list[Any]]:
    """NVML and its handles of the visible GPUs; NVML itself counts those that
    `CUDA_VISIBLE_DEVICES` masks, too.
    """
    try:
        import pynvml  # pyright: ignore[reportMissingImports] - optional

        pynvml.nvmlInit()
        mask = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = (
            range(pynvml.nvmlDeviceGetCount())
            if mask is None
            else filter(None, map(str.strip, mask.split(",")))
        )
        return pynvml, [
            (
                pynvml.nvmlDeviceGetHandleByIndex(int(name))
                if str(name).isdigit()
                else pynvml.nvmlDeviceGetHandleByUUID(name)
            )
            for name in names
        ]
    except Exception:  # NVML has a class of its own for each, and the package may be absent
        return None, []


def memory_used() -> list[int]:
    """Of each visible GPU, in MiB, by whichever process."""
    nvml, cards = visible_cards()
    return [nvml.nvmlDeviceGetMemoryInfo(card).used >> 20 for card in cards]


class Cards:
    """Utilisation of every visible GPU, twice a second, from its making on."""

    def __init__(self) -> None:
        self._stop, self.seen = threading.Event(), list[list[int]]()
        self._thread: threading.Thread | None = None
        nvml, cards = visible_cards()
        if not cards:
            return

        def look() -> None:
            while not self._stop.wait(0.5):
                self.seen.append([nvml.nvmlDeviceGetUtilizationRates(card).gpu for card in cards])

        self._thread = threading.Thread(target=look, daemon=True)
        self._thread.start()

    def mean(self) -> list[int]:
        """Stop; the mean of each card in percent."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        return [round(statistics.mean(column)) for column in zip(*self.seen, strict=True)]
