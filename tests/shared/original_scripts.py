"""The original's own `eval.py`, where `MODGAP_ORIGINAL` names a checkout, and answers to ask it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Box contents for a gold of 25.000, harmless to run: plain, LaTeX, units, degrees, braces, words,
# code that is but arithmetic. The original evaluates them.
FORMS = (
    "25", "25.0", "25.2", "24.76", "24.75", "24.74", "25.25", "25.26", "-25", "+25", " 25 ", "25.",
    "2.5e1", "25,000", "25%", "25°", "25 °", "25^\\circ", "25^{\\circ}", "\\text{25}",
    "25\\text{ cm}", "25 cm", "25\\,\\mathrm{cm}^2", "x = 25", "x=25", "\\angle A = 25",
    "\\frac{50}{2}", "\\dfrac{50}{2}", "\\frac{100}{4}", "50/2", "5*5", "5**2", "5 + 20",
    "(20 + 5)", "5(5)", "(5)(5)", "(5)5", "5 (5)", "\\sqrt{625}", "5\\sqrt{25}",
    "\\sqrt{25}\\sqrt{25}", "\\sqrt{25}*5", "(5)\\sqrt{25}", "5 \\times 5", "5 \\cdot 5",
    "\\boxed{25}", "{25}", "{{25}}", "$25$", "\\$25", "", "None", "none", "twenty-five", "25 or 26",
    "25 and 26", "25, 26", "(25, 26)", "[25]", "25 if 1 else 2", "\\approx 25", "24 < 25", "1 == 1",
    "25;", "25j", "\\pi", "8\\pi", "7.957747\\pi", "25 \\quad", "2 5", "25\n", "25\\%", "0.25",
    "2\\frac{1}{2}", "22\\frac{6}{2}", "2 1/2", "25/0", "1e400", "nan", "inf", "٢٥", "２５", "25′",
    "√625", "25²", "二十五", "50//2", "51%26", "-(-25)", "--25", "5*-5", "25 # x", "'25'", "x", "e",
    "abs(-25)", "int(25)", "print(25)", "math.sqrt(625)", "5*math.sqrt(25)", "\\sqrt{(625)}",
    "\\sqrt[2]{625}", "3\\sqrt{69.4}", "25.000000000001",
)  # fmt: skip
# Where the original runs what the model wrote: cause -> boxes that it takes for 25 and we do not.
CAUSES = {
    "`^` is XOR in eval": ("26^3", "5^28"),
    "hexadecimal, octal, binary, underscores": ("0x19", "0b11001", "0o31", "2_5.2"),
    "code is run": ("25 if 1 else 2", "math.sqrt(625)*1.0 if 1 else 0", "math.pi*8", "[25][0]"),
}
OUTSIDE = (
    "no box at all", "", "\\boxed{25", "\\boxed{1} \\boxed{25}", "\\boxed{25} \\boxed{1}",
    "</think>\\boxed{25}", "\\boxed{25}</think>", "\\boxed 25", "\\fbox{25}", "\\\\boxed{25}",
    "text \\boxed{\\text{a}} {", "\\boxed{}", "line\r\nend \\boxed{25}\r\n",
    "\u2028\\boxed{25}\u2029", "\ufeff\\boxed{25}", "ünïcode 🙂 \\boxed{25}", "x" * 9000,
)  # fmt: skip
GOLDS = ("25.000", "0.000", "7.070", "25", "-25.000")


def original_eval() -> Path:
    """The original's `eval.py`, below the checkout that `MODGAP_ORIGINAL` names."""
    if not (name := os.environ.get("MODGAP_ORIGINAL")):
        pytest.skip("MODGAP_ORIGINAL names no checkout of the original repository")
    return next(
        path
        for path in (Path(name) / "eval" / "pgps9k" / "eval.py", Path(name) / "eval.py")
        if path.is_file()
    )


# Runs the original's file as it is, and says its verdict on each file, too.
SPY = """
import json, sys
sys.path.insert(0, sys.argv[1])
import eval as original
verdicts, seen = {}, []
opened, graded, close = open, original.grade_answer, original.is_close_enough
def spy_open(path, *rest):
    seen[:] = [path.rpartition("/")[2]]
    return opened(path, *rest)
def spy_graded(answer, gold):
    verdicts[seen[0]] = bool(graded(answer, gold))
    return verdicts[seen[0]]
def spy_close(answer, gold):
    verdicts[seen[0]] = bool(close(answer, gold))
    return verdicts[seen[0]]
original.open, original.grade_answer, original.is_close_enough = spy_open, spy_graded, spy_close
original.evaluate_directory(sys.argv[2], json.load(opened(sys.argv[3])))
print(json.dumps(verdicts), file=sys.stderr)
"""


def ask_the_original(tmp_path: Path, folder: Path, gt: Path) -> tuple[dict[str, bool], str]:
    """File -> verdict, and what it prints."""
    home = tmp_path / "original"
    home.mkdir(exist_ok=True)
    shutil.copy(original_eval(), home)
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", SPY, str(home), str(folder), str(gt)],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    return json.loads(done.stderr.splitlines()[-1]), done.stdout
