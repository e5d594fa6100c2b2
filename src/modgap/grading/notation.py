r"""One notation for many: LaTeX markup, Unicode, spacing, units of other scripts, Greek letters.

`clean` changes how a text is written, not what it says: `\textcolor{blue}{25\,\text{㎝}}` becomes
`{25 { cm }}`. It is pure and its time is bounded by the length of the text. `number` reads the
result as a number, `forms` and `choices` as whatever else an answer may be.

`canonical` also gives a Greek letter one name, however it is written: `α`, `𝛼`, `\alpha` and
`alpha` are `\alpha`. Variants are one letter (`φ`, `ϕ`, `\varphi`, `\phi`); upper and lower case
are two letters. `π` is the number, as in `number`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

FUNCTIONS: Final = "arcsin|arccos|arctan|arccot|asin|acos|atan|sin|cos|tan|cot|sec|csc"

_FRACTIONS = "½12 ⅓13 ⅔23 ¼14 ¾34 ⅕15 ⅖25 ⅗35 ⅘45 ⅙16 ⅚56 ⅛18 ⅜38 ⅝58 ⅞78"
_UNIT_SIGNS = """
    ㎜ mm; ㎝ cm; ㎞ km; ㎚ nm; ㎟ mm^{2}; ㎠ cm^{2}; ㎡ m^{2}; ㎢ km^{2};
    ㎣ mm^{3}; ㎤ cm^{3}; ㎥ m^{3}; ㎦ km^{3}; ㎏ kg; ㎎ mg; ㎖ ml; ㎗ dl; ㎘ kl;
    ㏄ cm^{3}; ℓ l; ㎧ m/s; ㎭ rad; ㏊ ha
"""
_UNICODE: dict[int, str] = {
    **{ord(c): "-" for c in "−–—‒‐‑﹣"},
    **{ord(c): "*" for c in "×·∙⋅∗✕•"},
    **{ord(c): " " for c in "\u200a\u2002\u2003\u3000\t\n\r"},
    # Spaces without a line break may group the digits of one number.
    **{ord(c): "~" for c in "\u00a0\u2009\u202f"},
    **{ord(c): "" for c in "\u200b\u200c\u200d\u2060\ufeff\u2061\u2062"},
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width forms of ASCII
    **{ord(c): rf"\frac{{{n}}}{{{d}}}" for c, n, d in _FRACTIONS.split()},
    **{ord(sign): f" {name} " for sign, name in (pair.split() for pair in _UNIT_SIGNS.split(";"))},
    **{ord(c): r"\degree " for c in "°º˚ᵒ"},
    **{ord(c): r"\ldots " for c in "…⋯"},
    **{ord(c): "'" for c in "′’"},
    **{ord(c): "''" for c in "″”"},
    ord("÷"): "/", ord("∕"): "/", ord("⁄"): "/", ord("√"): r"\sqrt ", ord("∛"): r"\sqrt[3] ",
    ord("π"): r"\pi ", ord("𝜋"): r"\pi ", ord("∠"): r"\angle ", ord("△"): r"\triangle ",
    ord("±"): r"\pm ", ord("。"): ".", ord("﹪"): "%",
}  # fmt: skip
_SUPERSCRIPT = re.compile("⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_CHINESE_NAMES: Final = """
    毫米 mm; 厘米 cm; 釐米 cm; 公分 cm; 分米 dm; 千米 km; 公里 km; 米 m; 公尺 m;
    英寸 inches; 英尺 feet; 英里 miles; 单位 units; 單位 units; 度 \\degree;
    弧度 radians; 公顷 hectares; 毫升 ml; 升 l; 千克 kg; 公斤 kg; 克 g; 吨 tons;
    吋 inches; 英吋 inches; 呎 feet; 英呎 feet; 秒 seconds; 分钟 minutes;
    小时 hours; 天 days; 元 yuan
"""
_CHINESE_UNITS: Final = {row.split()[0]: row.split()[1] for row in _CHINESE_NAMES.split(";")}
_HAN = "\u4e00-\u9fff"
_LONGEST_FIRST: Final = "|".join(sorted(_CHINESE_UNITS, key=len, reverse=True))
_CHINESE_UNIT = re.compile(rf"(?<=[^{_HAN}])(平方|立方)?[个個]?({_LONGEST_FIRST})(?![{_HAN}])")
_CHINESE_POWERS: Final = {"平方": "square ", "立方": "cubic "}

# Commands that are dropped with their own arguments; the text around them stays.
_MARKUP = re.compile(
    r"\\(?:textcolor|colorbox|color)\s*(?:\[[^\[\]]{0,20}\]\s*)?\{[^{}]{0,40}\}"
    r"|\\fcolorbox\s*(?:\{[^{}]{0,40}\}\s*){2}"
    r"|\\color\s+(?:red|blue|green|black|purple|orange|magenta|cyan|teal)(?![a-z])"
    r"|\\(?:style|class|cssId|href|htmlClass)\s*\{[^{}]{0,80}\}"
    r"|\\(?:[hv]?phantom|[hv]space\*?|tag\*?|label)\s*\{[^{}]{0,40}\}|\\bbox\s*\[[^\[\]]{0,40}\]"
    r"|\\(?:kern|[hm]skip|mkern)\s*-?[0-9.]{1,6}\s*(?:em|ex|pt|mu|mm|cm|in)(?![a-z])"
)
_ENVIRONMENT = re.compile(
    r"\\begin\s*\{\s*align(?:ed)?at\*?\s*\}\s*(?:\[[tcb]\]\s*)?\{[^{}]{0,40}\}"
    r"|\\(?:begin|end)\s*\{\s*(?:aligned|align|alignat|alignedat|flalign|gathered|gather|split"
    r"|equation|eqnarray"
    r"|multline|displaymath|math|center)\*?\s*\}(?:\s*\[[tcb]\])?"
)
_FUNCTION_NAME = re.compile(
    rf"\\(?:operatorname|mathrm|text|mathop|textrm)\*?\s*\{{\s*\\?({FUNCTIONS})\s*\}}"
)
_WRAPPERS = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|up|sf|tt|sc|sl|md)?|math(?:rm|bf|it|sf|tt|bb|cal|frak|scr|normal"
    r"|op|ord|inner)|boldsymbol|bold|bm"
    r"|pmb|mbox|operatorname|boxed|fbox|underline|uline|emph|ensuremath|smash|num|unit|ang|SI|si"
    r"|qty|bbox|mathstrut)"
    r"\*?(?![A-Za-z])"
)
_THIN_THOUSANDS = re.compile(
    r"(?<=[0-9])(?:\\[,!;:"
    r" ]|\{,\}|\{\\,\}|,\s?\\[,!;]\s?|,\{\}|\{,\}\\!|\\(?:text|mathrm|mathord|mathpunct)\{,\}|~"
    r"|\\thinspace\s?)(?=[0-9]{3}(?![0-9]))"
)
_SPACING = re.compile(
    r"\\(?:[,;:!>"
    r" /]|(?:left|right)\s*\.|(?:quad|qquad|(?:display|text|script|scriptscript)style|left|right"
    r"|middle"
    r"|[bB]igg?[lmr]?|(?:no)?limits|(?:neg)?(?:thin|med|thick)space|enspace|enskip|nobreakspace"
    r"|hfill|null|relax|strut|nonumber|notag|newline"
    r"|nobreak|allowbreak|noindent|centering"
    r"|rm|bf|it|sf|tt|sc|sl|em|cal|bfseries|itshape|mdseries|upshape|(?:rm|sf|tt)family|normalfont"
    r"|(?:un)?boldmath"
    r"|tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge)(?![A-Za-z]))|[~&]"
)
_DELIMITERS = re.compile(r"\\?\$|\\[()\[\]]")
_DEGREE_SIGN = r"\\(?:circ|textdegree|degrees?|deg)(?![A-Za-z])"
_DEGREES = re.compile(
    r"\^\s*(?:\{\s*\{\s*o\s*\}\s*\}|\{\s*o\s*\}|o(?![A-Za-z]))"
    r"|\^\s*\{(?:\s|\\[,;:!"
    rf" ])*(?:\{{\s*{_DEGREE_SIGN}\s*\}}|{_DEGREE_SIGN})\s*\}}|\^?\s*{_DEGREE_SIGN}"
)
_PRIMES = re.compile(
    r"(?:\^\s*)?(?:\{\s*)?((?:\\prime(?![A-Za-z])\s*)+)\}?|\^\s*(?:\{\s*('+)\s*\}|('+))"
)
_EMPHASIS = re.compile(
    r"(?:(?<![^\s=:])(\*{2,3}|__)|(?:^|(?<=[=:}]))\s*(\*))(?=[^\s*_])((?:[^*]"
    r"|\*(?!\*)){1,400}?)\s?(?:\1|\2)(?=[\s:.}]|$)"
)
_FLAT_POWER = re.compile(
    r"((?:(?<![\w.])[0-9][0-9.,]{0,30}|[)}])\s{0,3}[{(]?\s{0,3}(?:[mcdk]?m|ft|in|yd"
    r"|units?))([23])(?![0-9A-Za-z])"
)
_BARS = re.compile(r"\\[lr]?vert(?![A-Za-z])")
_FRACTION_NAMES = re.compile(r"\\(?:nice|s|x|flat)frac(?![A-Za-z])")
_OVER = re.compile(r"\{\s*([0-9.]{1,20})\s*\\over(?![A-Za-z])\s*([0-9.]{1,20})\s*\}")
_REPEATING = re.compile(
    r"(?<=[0-9])\.([0-9]{0,9})\\(?:overline|bar|dot)\s*(?:\{\s*([0-9]{1,9})\s*\}|([0-9]))"
)


def clean(text: str) -> str:
    """Write an answer in one notation.

    The result has plain signs, and no wrappers, markup, delimiters or spacing commands.
    """
    if not text.isascii():
        text = _SUPERSCRIPT.sub(
            lambda match: f"^{{{match[0].translate(_RAISED)}}}", text.translate(_UNICODE)
        )
        text = _CHINESE_UNIT.sub(_english_unit, text)
    text = text.replace("`", "")
    if "*" in text or "__" in text:
        text = _EMPHASIS.sub(r"\3", text)
    text = _THIN_THOUSANDS.sub("", text)
    text = _DELIMITERS.sub(" ", text)
    if "\\" in text:
        text = _clean_commands(text)
    text = _DEGREES.sub(" ° ", text)
    if "'" in text or "prime" in text:
        text = _PRIMES.sub(_primes, text)
    text = _SPACING.sub(" ", text)
    text = _FLAT_POWER.sub(r"\1^{\2}", text)
    return " ".join(text.replace("**", "^").replace("{.}", ".").split()).rstrip(".,; \\")


def _clean_commands(text: str) -> str:
    text = _MARKUP.sub(" ", text)
    # Several rows may be the steps of a calculation, not a list: they stay as they are.
    if "\\\\" not in text:
        text = _ENVIRONMENT.sub(" ", text)
    text = _FUNCTION_NAME.sub(r"\\\1 ", text)
    text = _WRAPPERS.sub(" ", text)
    text = _BARS.sub("|", text).replace("\\textsuperscript", "^")
    if "frac" in text:
        text = _FRACTION_NAMES.sub(r"\\frac", text)
    if "\\over" in text:
        text = _OVER.sub(r"\\frac{\1}{\2}", text)
    return _REPEATING.sub(_repeated, text)


def _english_unit(match: re.Match[str]) -> str:
    return f" {_CHINESE_POWERS.get(match[1], '')}{_CHINESE_UNITS[match[2]]} "


def _primes(match: re.Match[str]) -> str:
    return "'" * (match[1].count("prime") if match[1] else len(match[2] or match[3]))


def _repeated(match: re.Match[str]) -> str:
    r"""`0.1\overline{6}` to sixteen places."""
    return f".{match[1]}{(match[2] or match[3]) * 16}"[:17]


LOWER: Final = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda",
    "mu", "nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi",
    "omega",
)  # fmt: skip
"""Greek letters by their names."""
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
    r"""`clean`, and each Greek letter as its LaTeX command.

    `Δ` before three points is a triangle.
    """
    text = clean(text)
    if text.isascii() and "\\" not in text:
        return _SPELLED.sub(r"\\\1 ", text) if _SPELLED.search(text) else text
    text = _SPELLED.sub(r"\\\1 ", text.translate(_LETTERS))
    text = _VARIANT.sub(lambda match: rf"\{_VARIANTS[match[1]]} ", text)
    return _SPACES.sub(" ", _TRIANGLE.sub(r"\\triangle", text)).strip()
