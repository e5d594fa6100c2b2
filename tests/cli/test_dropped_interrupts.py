"""An interrupt ends a command, wherever in Python it arrives."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, signal, sys, time, weakref
from modgap.cli import main as cli

class Thing: pass

def command(argv=None):
    thing = Thing()
    # Python drops what is raised in the callback of a weak reference.
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del thing
    try:
        for _ in range(600):
            time.sleep(0.1)
    except KeyboardInterrupt:
        return 130
    return 0

cli.main = command
cli.run()
"""


def test_an_interrupt_that_python_drops_comes_again() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], timeout=30, capture_output=True)
    assert done.returncode == 130, done.stderr.decode()
