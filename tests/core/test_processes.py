"""Processes are found by their mark, whatever they made of their environment; work is spread over
several.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes_left import left_of

from modgap.core import processes
from modgap.core.errors import UserError

# As `setproctitle` leaves it in vLLM's processes: the beginning of the environment is overwritten.
TITLED = """\
import ctypes, sys
mark = ("MODGAP_RUN=outer " + sys.argv[1]).encode()
argv = (ctypes.c_char_p * 3)(b"sleep", b"60", None)
envp = (ctypes.c_char_p * 5)(b"VLLM::EngineCore", b"", b"", mark, None)
ctypes.CDLL(None).execve(b"/bin/sleep", argv, envp)
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc")
def test_a_process_with_a_title_is_found_and_ended() -> None:
    mark = processes.new_mark()
    child = subprocess.Popen([sys.executable, "-I", "-c", TITLED, mark])
    try:
        until = time.monotonic() + 20
        # It has its new name before its new environment.
        while not (found := processes.marked([mark])):
            assert child.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        assert Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n"
        assert {process.pid for process in found} == {child.pid}
        assert processes.marked([processes.new_mark()]) == set()
        guard = processes.start_guard(mark)
        assert guard.stdin is not None
        guard.stdin.close()  # as when the process that started the guard is gone
        assert guard.wait(20) == 0
        assert child.wait(20) == -9
    finally:
        child.kill()
        child.wait()


def test_work_is_spread_in_order_and_not_all_given_out_at_once() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(200):
            taken.append(number)
            yield -number

    most = 0
    for done, result in enumerate(processes.spread(abs, items(), 2)):
        assert result == done
        most = max(most, len(taken) - done)
    assert len(taken) == 200 and most < 20, "what is taken slowly does not pile up"


def test_an_error_of_the_work_is_raised_as_it_is() -> None:
    with pytest.raises(FileNotFoundError):
        list(processes.spread(os.stat, ["/no/such/file"], 2))


def test_a_worker_that_ends_early_is_one_line_with_the_remedies() -> None:
    with pytest.raises(UserError, match=r"one of 2 worker processes ended .*__main__.*workers=1"):
        list(processes.spread(os._exit, [3, 3, 3], 2))


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc")
def test_workers_end_with_a_parent_that_is_killed() -> None:
    mark = f"spread-{os.getpid()}-{time.monotonic_ns()}"
    program = (
        "import time; from modgap.core.processes import spread\n"
        "for _ in spread(abs, range(100), 2): print('begun', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "MODGAP_TEST_MARK": mark},
    )
    assert parent.stdout is not None and parent.stdout.readline() == b"begun\n"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert not left_of(mark)
