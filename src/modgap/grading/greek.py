r"""One name for a Greek letter, however it is written: `α`, `𝛼`, `\alpha` and `alpha` are `\alpha`.

Variants are one letter (`φ`, `ϕ`, `\varphi`, `\phi`); upper and lower case are two letters. `π` is
the number, as in `number`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

from modgap.grading.notation import clean

LOWER: Final = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda",
    "mu", "nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi",
    "omega",
)  # fmt: skip
UPPER: Final = tuple(name.capitalize() for name in LOWER)
_VARIANTS: Final = {
    f"var{name}": name for name in ("epsilon", "theta", "kappa", "rho", "sigma", "phi")
} | {
    f"var{name}": name
    for name in ("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi")
}
_OTHERS: Final = {
    "ϵ": "epsilon",
    "ϑ": "theta",
    "ϰ": "kappa",
    "ϱ": "rho",
    "ς": "sigma",
    "ϕ": "phi",
    "ϒ": "Upsilon",
}
_OTHERS_UPPER: Final = {"∆": "Delta", "Ω": "Omega", "µ": "mu", "ϴ": "Theta"}


def _letters() -> dict[int, str]:
    """Unicode's letters, the mathematical ones included, and what they are."""
    plain = {
        unicodedata.lookup(f"GREEK SMALL LETTER {_unicode_name(name)}"): name for name in LOWER
    }
    plain |= {
        unicodedata.lookup(f"GREEK CAPITAL LETTER {_unicode_name(name)}"): name.capitalize()
        for name in LOWER
    }
    plain |= _OTHERS | _OTHERS_UPPER
    table = {ord(letter): rf"\{name} " for letter, name in plain.items()}
    for code in range(0x1D400, 0x1D800):
        letter = unicodedata.normalize("NFKC", chr(code))
        if name := plain.get(letter):
            table[code] = rf"\{name} "
        elif letter != chr(code):
            table[code] = letter
    return table


def _unicode_name(name: str) -> str:
    return "LAMDA" if name == "lambda" else name.upper()


_LETTERS: Final = _letters()
_NAMES: Final = "|".join(sorted((*LOWER, *UPPER), key=len, reverse=True))
# Spelled without a backslash: also after a digit (`2alpha`) and before a subscript (`alpha_1`).
_SPELLED = re.compile(rf"(?<![A-Za-z\\])({_NAMES})(?<!Pi)(?![A-Za-z])")
_VARIANT = re.compile(rf"\\({'|'.join(_VARIANTS)})(?![A-Za-z])")
_TRIANGLE = re.compile(r"\\Delta(?=\s*[A-Z]\s*[A-Z]\s*[A-Z])")
_SPACES = re.compile(r"  +")
COMMAND: Final = rf"\\(?!pi(?![A-Za-z]))(?:{_NAMES})(?![A-Za-z])"
"""A Greek letter as `canonical` writes it; not pi, which is a number."""


@lru_cache(maxsize=1024)
def canonical(text: str) -> str:
    r"""`notation.clean`, and each Greek letter as its LaTeX command.

    `Δ` before three points is a triangle.
    """
    text = clean(text)
    if text.isascii() and "\\" not in text:
        return _SPELLED.sub(r"\\\1 ", text) if _SPELLED.search(text) else text
    text = _SPELLED.sub(r"\\\1 ", text.translate(_LETTERS))
    text = _VARIANT.sub(lambda match: rf"\{_VARIANTS[match[1]]} ", text)
    return _SPACES.sub(" ", _TRIANGLE.sub(r"\\triangle", text)).strip()
