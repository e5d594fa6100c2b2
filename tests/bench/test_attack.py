"""The attack of bench/attack.py: what it counts as a fault, and a few tries of it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from attacks import trial  # noqa: E402
from attacks.damage import DAMAGES, damaged  # noqa: E402
from attacks.data_folders import mutated_data  # noqa: E402
from attacks.material import Material  # noqa: E402
from attacks.servers import behaviours  # noqa: E402
from attacks.trial import KEY, Bench, Outcome  # noqa: E402


@pytest.mark.parametrize(
    ("status", "err", "fault"),
    [
        (None, "", "hung"),
        (1, "Traceback (most recent call last)", "a traceback"),
        (1, "modgap: KeyError: 'x' (--debug shows where)", "--debug"),
        (1, f"modgap: {'k' * 600}: give another one.", "a message of"),
        (1, "modgap: TypeError: give another one.", "the name of an exception"),
        (1, "modgap: x is bad.", "no remedy"),
        (1, "modgap: x\x1b[2J is bad: give another one.", "a control character"),
        (1, f"modgap: {KEY} is bad: give another one.", "printed the key"),
        (-9, "", "exit status -9"),
        (1, "modgap: x is bad: give another one.", ""),
        (0, "", ""),
    ],
)
def test_what_counts_as_a_fault(status: int | None, err: str, fault: str) -> None:
    found = trial.against(Outcome(status, "", err, 1.0, 0.0))
    assert fault in found and bool(fault) == bool(found)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_each_damage_changes_a_file_of_lines(damage: object) -> None:
    data = b"".join(b'{"a": %d, "b": {"c": "x"}}\n' % n for n in range(9))
    made = {damaged(damage, data, random.Random(seed)) for seed in range(9)}  # type: ignore[arg-type]
    assert made != {data}


def test_there_are_enough_behaviours_of_a_server() -> None:
    assert len(behaviours()) >= 40


def test_a_try_that_hangs_is_ended_and_what_it_leaves_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()

    outcome = trial.attempt(lambda: time.sleep(60) or 0, tmp_path, limit=0.5)
    assert outcome.status is None and "hung" in trial.against(outcome)

    def leaves() -> int:
        subprocess.Popen(["sleep", "60"], start_new_session=True)
        return 0

    monkeypatch.setattr(trial, "_PATIENCE_S", 0.2)
    assert "sleep 60" in trial.against(trial.attempt(leaves, tmp_path))


def test_a_few_tries_hold(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "tries", seed=0, share=0.003)
    tried = list(mutated_data(bench, Material(tmp_path / "sound")))
    assert len(tried) == 3 and not [fault for _, fault in tried if fault]
