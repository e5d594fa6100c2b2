"""Synthetic geometry and charts as benchmarks: fixed problems under a version number, for any VLM.

No licence has to be requested.

The problems are made on this machine when they are first needed, and kept in the user's cache.
Their text does not depend on the machine; their pixels may differ in rounding between versions of
Pillow, so a run records the fingerprint of the images it showed. A change of the generator that
changes a problem needs a new `VERSION`, and results are reported with it:
`synthetic v1`, `charts v2`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from modgap.core.errors import UserError
from modgap.core.files import locked
from modgap.datasets.synthetic.families import FAMILIES
from modgap.datasets.synthetic.write import write_dataset

TRAIN, TEST = 8000, 1000
"""The sizes of a benchmark.

The testbed models were pretrained on other seeds and have seen none of them.
"""


def charts_folder(progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder of `charts v2`, see `benchmark_folder`."""
    return benchmark_folder(progress, "charts")


def benchmark_folder(
    progress: Callable[[int, int], None] | None = None, family: str = "geometry"
) -> Path:
    """The folder of a benchmark's problems, in PGPS9K's layout; created if it does not exist.

    `MODGAP_CACHE` says where the cache is (default: `modgap` in `XDG_CACHE_HOME` or `~/.cache`).

    Args:
        progress: Called with (done, total) as problems are drawn.
        family: Of the problems.

    Raises:
        UserError: The cache cannot be written.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("MODGAP_CACHE") or home / "modgap")
    made = FAMILIES[family]
    folder = cache / f"{made.benchmark}-v{made.version}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # A concurrent run may be making it.
        with locked(cache / f".{folder.name}.lock", wait=True):
            if not (folder / "train.json").exists():  # written last
                write_dataset(folder, TRAIN, TEST, made.seed, progress=progress, family=family)
    except OSError as error:
        raise UserError(
            f"cannot draw the benchmark {made.benchmark} into {cache} ({error}): MODGAP_CACHE"
            " chooses another place."
        ) from error
    return folder
