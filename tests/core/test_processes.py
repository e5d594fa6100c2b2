"""Processes are found by their mark, whatever they made of their environment."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from modgap.core import processes

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
