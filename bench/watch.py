"""What a training on verl takes of memory and disk, seen from outside of its processes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from modgap.training.shape import GIB


class Watch:
    """What memory, disk and processes a run takes, sampled every few seconds.

    Attributes:
        peaks: Name -> the most that was seen; GiB.
        series: (seconds, GiB of the host, of a GPU, kinds of processes): where a start takes its
            time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.peaks = folder, dict[str, float]()
        self.series: list[tuple[int, float, float, int]] = []
        self._started = time.monotonic()
        self.base = self._host()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(3.0):
            host, gpus = self._host() - self.base, gpu_memory()
            self._see("host, beyond what was in use before", host)
            for number, used in enumerate(gpus):
                self._see(f"GPU {number}", used)
            found = by_process(self.folder)
            for name, used in found.items():
                self._see(f"processes: {name}", used)
            now = round(time.monotonic() - self._started)
            self.series.append((now, round(host, 1), round(max(gpus, default=0.0), 1), len(found)))
            self._see("disk", folder_size(self.folder))

    def _see(self, name: str, value: float) -> None:
        self.peaks[name] = max(value, self.peaks.get(name, 0.0))

    @staticmethod
    def _host() -> float:
        """GiB of the host that are in use, shared memory included, page cache not."""
        words = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        known = {name: int(value) for name, value, *_ in words}
        free = known["MemFree:"] + known["Cached:"] + known["Buffers:"] - known["Shmem:"]
        return (known["MemTotal:"] - free) / 2**20


def gpu_memory() -> list[float]:
    """GiB in use on each GPU."""
    if not shutil.which("nvidia-smi"):
        return []
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True)
    return [int(line) / 1024 for line in done.stdout.split()]


def of_run(folder: Path) -> Iterator[Path]:
    """The /proc folders of the processes that verl started for a run in this folder."""
    mark = f"VERL_FILE_LOGGER_PATH={folder}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (path / "environ").read_bytes():
                yield path


def by_process(folder: Path) -> dict[str, float]:
    """GiB of each kind of process of a run, shared pages counted once."""
    out: dict[str, float] = {}
    for path in of_run(folder):
        with contextlib.suppress(OSError, IndexError):
            name = (path / "cmdline").read_bytes().split(b"\0")[0].decode()
            if name.startswith("ray::"):  # ray::NAME:CLASS.METHOD
                name = "ray " + name.removeprefix("ray::").split(".")[0].split(":")[-1]
            else:
                name = Path(name).name
            out[name] = out.get(name, 0.0) + pss(path)
    return out


def pss(path: Path) -> float:
    """GiB of one process by its /proc folder; of a page that n share, it has an nth."""
    rollup = (path / "smaps_rollup").read_text().split()
    return int(rollup[rollup.index("Pss:") + 1]) / 2**20


def called(words: str) -> list[Path]:
    """The /proc folders of processes whose command line has these words."""
    out: list[Path] = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if words.encode() in (path / "cmdline").read_bytes():
                out.append(path)
    return out


def folder_size(folder: Path) -> float:
    """GiB of all files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += 0 if path.is_symlink() else path.stat().st_size
    return total / GIB
