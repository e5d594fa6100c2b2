"""Counts the words of the site by section, and fails above the budget: `python docs/words.py`.

The budget is for what a reader reads: all pages of the navigation outside the reference. Code
blocks count; the lab notebook is not in the navigation.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
BUDGET = 15_000
REFERENCE = "Reference"


def sections(navigation: str) -> dict[str, list[str]]:
    """Section -> its pages, from the `nav:` of mkdocs.yml."""
    _, _, listed = navigation.partition("\nnav:\n")
    found: dict[str, list[str]] = {}
    section = ""
    for line in listed.splitlines():
        if match := re.fullmatch(r"  - ([^:]+):\s*(\S+\.md)?", line):
            section = match[1]
            found[section] = [match[2]] if match[2] else []
        elif match := re.fullmatch(r"      - .+: (\S+\.md)", line):
            found[section].append(match[1])
    return found


def counts() -> dict[str, int]:
    """Section -> the number of its words."""
    navigation = (HERE.parent / "mkdocs.yml").read_text(encoding="utf-8")
    return {
        name: sum(len((HERE / page).read_text(encoding="utf-8").split()) for page in pages)
        for name, pages in sections(navigation).items()
    }


if __name__ == "__main__":
    words = counts()
    outside = sum(count for name, count in words.items() if name != REFERENCE)
    print(", ".join(f"{name} {count:,}" for name, count in words.items()))
    print(f"{outside:,} words outside the reference, of at most {BUDGET:,}")
    sys.exit(outside > BUDGET)
