"""Does modgap keep what docs/reference/promises.md promises, whatever happens to it?

python bench/attack.py [--quick] [--seed 0] [--only kills,data_folders] [--json FILE] [--keep DIR]
python bench/attack.py engines --out DIR --kill run@500 [...]

Each attack makes many tries: kills, interrupts and full disks at random moments of every command;
damaged run folders; mutated data sets; a hostile server and a hostile judge; several processes in
one folder; links and devices. What may not happen in any of them: a finished sample is lost or made
twice; a number changes without an error or a warning; a message is a traceback, longer than 500
characters or without a remedy; a command hangs or takes the memory; a process or a temporary file
stays; a key is written down or printed; anything outside of the run is read or written.

It prints attack, tries, held and failed, with the first example of what failed; the exit status
is 1 if anything did. `--quick` makes a thirtieth of the tries, in under 3 minutes on 2 busy cores.
Each attack draws from `--seed` by itself. `engines` kills real engines, on a GPU: see its --help.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not survive a fork
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

from attacks.data_folders import mutated_data
from attacks.kills import full_disks, interrupts, kills
from attacks.links import links_in_data, links_in_runs, odd_places
from attacks.material import Material
from attacks.run_folders import damaged_runs
from attacks.servers import hostile_judge, hostile_server
from attacks.together import concurrent_runs
from attacks.trial import Bench, Tried

ATTACKS: dict[str, Callable[[Bench, Material], Tried]] = {
    "kills": kills,
    "interrupts": interrupts,
    "full_disks": full_disks,
    "damaged_runs": damaged_runs,
    "mutated_data": mutated_data,
    "hostile_server": hostile_server,
    "hostile_judge": hostile_judge,
    "concurrent_runs": concurrent_runs,
    "links_in_runs": links_in_runs,
    "links_in_data": links_in_data,
    "odd_places": odd_places,
}
QUICK = 1 / 30


def attack(
    root: Path,
    names: list[str],
    seed: int,
    share: float,
    note: Callable[[str, int, list[tuple[str, str]], float], None],
) -> bool:
    """Make the attacks; calls `note` with name, tries, faults and seconds; whether all held."""
    material, held = Material(root / "sound"), True
    for name in names:
        bench = Bench(root / name, seed, share)
        started, tries = time.monotonic(), 0
        faults: list[tuple[str, str]] = []
        for tried, fault in ATTACKS[name](bench, material):
            tries += 1
            if fault:
                faults.append((tried, fault))
        note(name, tries, faults, time.monotonic() - started)
        held = held and not faults
    return held


def main(argv: list[str]) -> int:
    """Attack, print the table, and say whether everything held."""
    if argv[:1] == ["engines"]:
        from attacks.engines import kill_engines

        return kill_engines(argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--share", type=float, default=1.0, help="part of the tries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(ATTACKS), help=", ".join(ATTACKS))
    parser.add_argument("--json", type=Path, help="all tries that failed")
    parser.add_argument("--keep", type=Path, help="a new folder, where those that failed stay")
    args = parser.parse_args(argv)
    names = [name.strip() for name in args.only.split(",")]
    if unknown := set(names) - set(ATTACKS):
        parser.error(f"--only {', '.join(sorted(unknown))}: choose from {', '.join(ATTACKS)}")
    found: dict[str, list[tuple[str, str]]] = {}

    def note(name: str, tries: int, faults: list[tuple[str, str]], seconds: float) -> None:
        first = f"{faults[0][0]}: {faults[0][1]}"[:300].replace("|", "/") if faults else ""
        held = tries - len(faults)
        row = (name, tries, held, len(faults), round(seconds), first)
        print(f"| {' | '.join(map(str, row))} |", flush=True)
        if args.json:
            found[name] = faults
            args.json.write_text(json.dumps(found, indent=1) + "\n")

    print("| attack | tries | held | failed | s | first failure |", "| --- " * 6 + "|", sep="\n")
    with tempfile.TemporaryDirectory(prefix="attack") as temporary:
        root = (args.keep or Path(temporary)).resolve()
        share = QUICK if args.quick else args.share
        return 0 if attack(root, names, args.seed, share, note) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
