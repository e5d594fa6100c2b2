"""A new objective in ten lines: image-only, with a slow full-text teacher.

modgap study --benchmark synthetic --model tiny --recipes examples/objective.py:patient,no-text \
    --seeds 0,1,2 --out runs/patient
"""

from dataclasses import replace

from modgap import Recipe, Term
from modgap.recipes.paper import no_text


def patient() -> Recipe:
    """DAPO image-only, and each token is rewarded if a slow full-text teacher finds it likely."""
    term = Term(
        twin="full-text", detach="twin", estimator="reverse", coef=0.1, rows="all",
        role="advantage", teacher="ema", decay=0.9,
    )  # fmt: skip
    stage = replace(no_text().stages[0], terms=(term,))
    return Recipe("patient", (stage,), "image-only with a slow full-text teacher")
