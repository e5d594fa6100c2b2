"""`modgap` commands in processes of their own, for what runs many of them: `eval --models` and `study --jobs`.

A process ends with the thread that started it, however that ends (Linux), and its own processes end with it.

```
process = Process(["eval", "--model", "tiny", ...], Path("runs/tiny.log"), mask="0,1")
while process.poll() is None:
    time.sleep(POLL_S)
```
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from modgap.core.errors import UserError
from modgap.workflows.measure import EvalOptions, accelerators_each

POLL_S = 0.2
_PATIENCE_S = 20.0


class Process:
    """A `modgap` command, from its start on.

    Args:
        arguments: What comes after `modgap`.
        log: What it says is appended there.
        mask: Its `CUDA_VISIBLE_DEVICES`; `None` leaves it as it is.
        at_once: Processes that share this machine's cores; each gets its part, unless `OMP_NUM_THREADS` is set.
    """

    def __init__(self, arguments: Sequence[str], log: Path, *, mask: str | None = None, at_once: int = 1) -> None:
        environment = dict(os.environ)
        if mask is not None:
            environment["CUDA_VISIBLE_DEVICES"] = mask
        if at_once > 1 and not environment.get("OMP_NUM_THREADS"):
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // at_once))
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(f"\n$ modgap {shlex.join(arguments)}\n".encode())
            file.flush()
            self._start = file.tell()
            self._child = subprocess.Popen(
                [sys.executable, "-m", "modgap", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                start_new_session=True,
                preexec_fn=_with_parent(),
            )

    def poll(self) -> int | None:
        """Its exit status once it has ended, and whatever it left behind with it."""
        status = self._child.poll()
        if status is not None:
            _end_group(self._child)
        return status

    def last_words(self) -> str:
        """The last line that it said, or how it ended."""
        with self._log.open("rb") as file:
            file.seek(self._start)
            text = file.read().decode("utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        last = lines[-1].removeprefix("modgap: ") if lines else ""
        status = self._child.returncode
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
            return f"ended by {name}{'; last words: ' + last if last else ''}"
        return last or f"exit code {status}"

    @staticmethod
    def end(processes: Iterable[Process]) -> None:
        """End processes: each is asked to, and ends its own in order; what is left of them after a while is killed."""
        children = [process._child for process in processes]
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)  # a shell may have it ignore SIGINT
        until = time.monotonic() + _PATIENCE_S
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, until - time.monotonic()))
        for child in children:
            _end_group(child)
            child.wait()


def _end_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _with_parent() -> Callable[[], None] | None:
    """What makes a child get SIGTERM when the thread that starts it is gone; only Linux can."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # before the fork
    return lambda: libc.prctl(1, signal.SIGTERM) and None


def visible_accelerators() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may be set to for one GPU each: the mask's entries, or all; empty without a GPU."""
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    if mask is not None:
        return [entry.strip() for entry in mask.split(",") if entry.strip() and entry.strip() != "-1"]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return listed.stdout.split()


def accelerators_for(options: EvalOptions) -> tuple[list[str], int]:
    """The accelerators that jobs divide among them, and how many of them one evaluation takes.

    Returns:
        None of them where one is named (`cuda:1`): a job finds it in the mask that is in force. 0 for an evaluation
        that does not run on this machine's, or where there are none.

    Raises:
        UserError: An evaluation takes more than there are.
    """
    devices = visible_accelerators() if options.device in (None, "cuda") else []
    if not devices or options.engine == "openai" or options.ray_address is not None:
        return devices, 0
    each = options.replicas * accelerators_each(options)
    if each > len(devices):
        raise UserError(
            f"a model needs {each} accelerators (--replicas, tensor_parallel_size) and there are {len(devices)}: "
            "give fewer, or more accelerators."
        )
    return devices, each


def eval_arguments(options: EvalOptions) -> list[str]:
    """The options of `modgap eval` that differ from the defaults, as arguments; the style goes with the data."""
    names = {"engine_args": "--engine-arg"}
    out: list[str] = []
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name == "style" or value == option.default:
            continue
        name = names.get(option.name, "--" + option.name.replace("_", "-"))
        out += [part for one in (value if isinstance(value, tuple) else (value,)) for part in (name, str(one))]
    return out
