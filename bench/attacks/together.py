"""Several processes give one command for one folder at once: one of them works, or all agree."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from attacks import trial
from attacks.kills import Command, Straight, commands, verdict_or_answer
from attacks.material import Material
from attacks.servers import Hostile
from attacks.trial import Bench, Tried

_AT_ONCE = 4
_LEFT_OUT = ("study", "demo", "data check")
"""Too slow for the many tries; the parts of both are tried by themselves."""


def concurrent_runs(bench: Bench, material: Material) -> Tried:
    """Four at once; then once more, and the end equals that of one alone."""
    server = Hostile()
    server.good = verdict_or_answer
    try:
        every = commands(material, server)
        if bench.quick:
            every = bench.rng.sample(every, 4)
        for command in every:
            if command.name in _LEFT_OUT:
                continue
            straight = Straight(bench, command)
            for _ in range(bench.count(max(1, command.full // 4))):
                yield command.name, _together(bench, command, straight)
    finally:
        server.close()


def _together(bench: Bench, command: Command, straight: Straight) -> str:
    place = bench.place()
    command.prepare(place)
    if command.server:
        command.server.fresh(lambda _: [], lambda number: False)
    outs = [bench.place() for _ in range(_AT_ONCE)]
    outcomes = _at_once(bench, command, place, outs)
    for outcome in outcomes:
        if fault := trial.against(outcome):
            return fault
        if outcome.status and not any(
            word in outcome.err for word in ("another process", "already", "wait")
        ):
            return f"a loser says: {outcome.err.strip()[-300:]}"
    if all(outcome.status for outcome in outcomes):
        return f"none of {_AT_ONCE} did it: {outcomes[0].err.strip()[-300:]}"
    if command.server and command.server.asked.total() > straight.asked:
        return f"{command.server.asked.total()} requests, not {straight.asked}"
    now = straight.tree(place)
    for name in sorted(straight.names ^ set(now)):
        return f"{name} is {'absent' if name in straight.names else 'too many'} at the end"
    for name, digest in now.items():
        if digest != straight.made[name]:
            return f"{name} is not that of one alone"
    for folder in (place, *outs):
        bench.clear(folder)
    return ""


def _at_once(bench: Bench, command: Command, place: Path, outs: list[Path]) -> list[trial.Outcome]:
    """Start all, in processes that each make an attempt, and collect how they ended."""
    import pickle

    started: list[tuple[int, Path]] = []
    for number, out in enumerate(outs):
        pid = os.fork()
        if not pid:
            # Each has a pause of its own, so that they meet at different places.
            time.sleep(bench.rng.random() * number * 0.02)
            outcome = trial.attempt(command.work(place), place, environment=command.environment)
            (out / "outcome").write_bytes(pickle.dumps(outcome))
            os.kill(os.getpid(), signal.SIGKILL)  # nothing of the parent's runs at its end
        started.append((pid, out))
    for pid, _ in started:
        os.waitpid(pid, 0)
    return [pickle.loads((out / "outcome").read_bytes()) for _, out in started]
