"""What all tests share.

It comes before torch: threads that spin while they wait slow a busy machine down tenfold.
"""

from __future__ import annotations

import functools
import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from modgap.core import manifest
from modgap.models import load
from modgap.models.weights import Weights
from modgap.reporting import figures

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if at_once := int(
    os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")
):  # pytest -n: each gets its part of the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A deadline measures the machine, not the code: a busy one fails what is right.
settings.register_profile("modgap", deadline=None)
settings.load_profile("modgap")


# What is imported is not garbage: collections that look for it took 2 s of each worker.
gc.set_threshold(50_000, 20, 20)

# Every run that is begun records both; git and the installed packages stay what they are.
manifest.git_state = functools.cache(manifest.git_state)
manifest.versions = functools.cache(manifest.versions)


# A model is checked each time it is loaded: of many tests once is enough.
_check_weights = load.check_weights
_sound: dict[object, Weights] = {}


def _checked(folder: Path, as_is: bool = False) -> Weights:
    stats = [(path.name, path.lstat()) for path in folder.iterdir()]
    files = sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)
    key = (folder, as_is, *files)
    if key not in _sound:
        found = _check_weights(folder, as_is)
        if found.wrappers:  # which is said each time
            return found
        _sound[key] = found
    return _sound[key]


load.check_weights = _checked

_DRAWN = figures._inline


def _undrawn(draw_chart: Callable[[], figures.Chart], prefix: str) -> str:
    """Stands for a chart: to draw it and to write it as SVG is most of a report's time."""
    return f'<svg class="chart" role="img" id="{prefix}"></svg>'


figures._inline = _undrawn


@pytest.fixture(scope="module")
def rendered() -> Iterator[None]:
    """The charts of pages as they are, for tests that look at them."""
    figures._inline = _DRAWN
    yield
    figures._inline = _undrawn


@pytest.fixture(autouse=True, scope="module")
def _spare_the_collector() -> None:
    """What was imported until here is never garbage: no later collection has to look at it.

    Where memory runs out, everything is collected each time, and most of a test's time went there.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal() -> Iterator[None]:
    """Signals end a test's processes, whatever the suite inherited (`nohup make test &`)."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in before.items():
        signal.signal(number, handler)
