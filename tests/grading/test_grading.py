r"""Properties of the grader: what a number is, which box counts, and that no text can hang or break
it.
"""

from __future__ import annotations

import math
import multiprocessing
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modgap.grading.answer import extract_answer, grade, reward, well_formatted
from modgap.grading.number import MAX_CHARS, decimal_comma_readings, parse_number, readings
from modgap.grading.paper import extract_boxed_content

# gold: boxes that state it (to 5e-3) | after `!`, boxes that do not | after `?`, boxes that do in
# one of two readings
TABLE = r"""
5.000: 5 ; 5.0 ; 5.000 ; 05 ; +5 ; 5. ; $5$ ; \$5 ; {5} ; {{5}} ; (5) ; \left(5\right) ; \text{5} ; \mathrm{5} ; \mathbf{5}
5.000: x=5 ; x = 5 ; AB = 5 ; BC = 5 \text{ cm} ; x_1 = 5 ; \theta = 5^\circ ; 5 = x ; \overline{AB} = 5 ; r = \frac{10}{2} = 5
5.000: 5 cm ; 5\text{ cm} ; 5 \text{ cm}^2 ; 5\text{ cm}^{2} ; 5\,\text{cm}^2 ; 5~cm² ; 5\ \mathrm{m} ; 5 units ; 5\text{ square units}
5.000: 5 \text{ sq. in.} ; 5 (units) ; 5\text{ units}^2 ; 5 ft ; 5 \text{ feet} ; 5\text{ inches} ; 5\text{ m/s} ; 5\quad\text{cm} ; {5\text{ cm}}
5.000: \approx 5 ; x \approx 5 ; ≈ 5.001 ; about 5 ; 10/2 ; \frac{10}{2} ; \dfrac{10}{2} ; \tfrac{15}{3} ; \frac{10}2 ; 10 \div 2 ; 10÷2
5.000: 2+3 ; 8 - 3 ; 8 − 3 ; 2(1+1.5) ; (1)(5) ; 2 \cdot 2.5 ; 2 \times 2.5 ; 2×2.5 ; 2*2.5 ; \sqrt{25} ; \sqrt[3]{125} ; \sqrt 25 ; √25
5.000: 5\sqrt{1} ; 5^1 ; 5^{1} ; 25^{1/2} ; 25^{0.5} ; 5e0 ; 0.5 \times 10^{1} ; 50 × 10⁻¹ ; 500\times10^{-2} ; 5.0E0 ; \boxed{5} ; 5\%
5.000: \displaystyle 5 ; 5\; ; \;5 ; 5.004 ; 4.996 ; - -5 ; 10 - 5 ; --5 ; 5^{\circ} ; 5^\circ ; 5° ; 5 degrees ; 5\text{ degrees} ; \(5\)
5.000: \ 5 ; \hspace{1em}5 ; 5^o ; 5^{\text{o}} ; \num{5} ; \underline{5} ; (x = 5) ; (5\text{ cm}) ; 5 (approximately) ; 5\text{ approx}
5.000! 6 ; 4 ; -5 ; 5.1 ; 4.99 ; 5.006 ; 50 ; 0.5 ; 5x ; 5 + x ; 2x = 5 ; x^2 = 5 ; -x = 5 ; 5, 6 ; 5,5 ; 5 or 6 ; 5 \text{ or } 6 ; 6 \text{ or } 5
5.000! 5 and 6 ; \pm 5 ; ±5 ; 5 \pm 1 ; x > 5 ; x \geq 5 ; 5 < x ; 5 \le 6 ; (5, 6) ; [5, 6] ; \{5, 6\} ; 5:1 ; 5 = 6 ; 5 \approx 6 ; 5 6 ; 5!
5.000! 5\sqrt{2} ; 5\pi ; 5^2 ; 5² ; \frac{5}{2} ; 5/2 ; A ; \text{five} ; \text{B} ; ? ; x ; 5 apples ; 5) ; (5 ; 5 + ; + ; 5^
5.000! \frac{5}{0} ; 5/0 ; \sqrt{-25} ; 0^{-1} ; 9**9**9 ; 10^{99999} ; nan ; inf ; \infty ; 1e999 ; 0x5 ; 5_0 ; 5j ; __import__('os') ; 5;5 ; 5\\6
45.000: 45 ; 45^\circ ; 45^{\circ} ; 45° ; 45^\circ{} ; 45.0^\circ ; 45\degree ; \angle ABC = 45^\circ ; m\angle 1 = 45^\circ ; ∠A = 45° ; m∠ABC=45°
45.000: 180^\circ - 135^\circ ; 180 - 135 = 45 ; 90^\circ/2 ; \angle 1 = 180^\circ - 135^\circ = 45^\circ ; 45 \text{ degrees} ; 45 deg ; \theta = 45
45.000! 46^\circ ; 44^\circ ; 45^2 ; 45^\circ, 135^\circ ; 45^\circ \text{ or } 135^\circ ; 45^\circ 30' ; 135 ; 0.785 ; \pi/4 ; \frac{\pi}{4} ; -45 ; 4.5e2
3.464: 2\sqrt{3} ; 2 \sqrt{3} ; 2\sqrt3 ; 2√3 ; \sqrt{12} ; \sqrt12 ; 2\cdot\sqrt{3} ; 2*sqrt(3) ; 2 \times \sqrt{3} ; \frac{6}{\sqrt{3}} ; \frac{6\sqrt{3}}{3}
3.464: 3.464 ; 3.46 ; 3.4641 ; 2\sqrt{3} \approx 3.46 ; x = 2\sqrt{3} \text{ cm} ; 2{\sqrt{3}} ; \sqrt{3} + \sqrt{3} ; 2(3)^{1/2} ; 2\sqrt{\frac{9}{3}} ; \sqrt{4}\sqrt{3}
3.464! 3.5 ; 2\sqrt{2} ; 3\sqrt{2} ; \sqrt{3} ; 23 ; 2 + \sqrt{3} ; 2\sqrt{3}, 4 ; \pm 2\sqrt{3} ; 2\sqrt{3}x ; \sqrt[3]{12} ; 12 ; 2\sqrt{-3}
3.750: 3\frac{3}{4} ; 3 \frac{3}{4} ; 3\frac34 ; 3 3/4 ; 3¾ ; \frac{15}{4} ; 15/4 ; 3.75 ; 3\dfrac{3}{4} ; 3\,\frac{3}{4} ; 3\frac{3}{4}\text{ cm} ; 3 + \frac{3}{4}
3.750: 3 \tfrac{3}{4} ; \frac{7.5}{2} ; 2.5 \cdot 1.5 ; 2.5\frac{3}{2} ; -(-3\frac{3}{4}) ; {,}3.75!
-3.500: -3.5 ; −3.5 ; -3\frac{1}{2} ; -\frac{7}{2} ; \frac{-7}{2} ; -3½ ; - 3.5 ; x = -3.5 ; -7/2 ; 7 \cdot -0.5
-3.500! 3.5 ; -2.5 ; 3\frac{1}{2} ; -35 ; 7 - 2
1234.000: 1234 ; 1,234 ; 1{,}234 ; 1\,234 ; 1,234.0 ; 1.234 \times 10^3 ; 1.234e3 ; 1.234 \cdot 10^{3} ; 1,234 \text{ cm}^2 ; 1\,234\,\text{m} ; 12.34\times10^2
1234.000! 1, 234 ; 1 234 ; 1.234 ; 12,34 ; 123 ; 1235 ; 1,234,0
78.540: 25\pi ; 25 \pi ; 25π ; 25*pi ; 25\cdot\pi ; \pi 25 ; 25\pi \text{ cm}^2 ; \pi \cdot 5^2 ; \pi(5)^2 ; \pi 5^{2} ; 78.54 ; 78.54 cm² ; A = 25\pi \approx 78.54
78.540! 25 ; 78.5 ; 79 ; 25\pi^2 ; 50\pi ; \pi ; 25\pi, 10\pi
0.500: 1/2 ; \frac12 ; \frac{1}2 ; ½ ; .5 ; 0.5 ; 0.50 ; 1÷2 ; 2^{-1} ; 10^{0}/2 ; \frac{\frac{1}{2}}{1} ; 5\times 10^{-1} ; 4^{-1/2} ; \sqrt{\frac14}
0.500! 1:2 ; 1\2 ; 2 ; 50 ; 50\% ; 5 ; \frac{2}{1} ; -1/2
25.000: \text{x = } 25 ; \text{Answer: } 25 ; \text{Area} = 25 ; \mathrm{AB}=25 ; \text{the answer is } 25 ; \textbf{x =} 25 ; \text{The answer is 25} ; \text{Ans.: } 25
25.000: \text{Area = 25 cm}^2 ; \textbf{\text{x = } 25} ; \text{Area of }\triangle ABC\text{ is }25\text{ cm}^2 ; x \text{ is equal to } 25 ; x \text{ equals } 25 ; \textit{x = }25
25.000: \text{The length of AB is } 25 \text{ cm} ; \text{Answer: } 20 + 5 = 25 ; \text{Answer is } 25^\circ ; The answer is: 25 ; \text{length and width} = 25 ; \text{No. of sides} = 25
25.000: \textcolor{blue}{25} ; \color{red}25 ; {\color{red} 25} ; \textcolor[rgb]{1,0,0}{25} ; \colorbox{yellow}{25} ; \textcolor{red}{\text{x = }} 25 ; \bf 25 ; {\Large 25} ; \mathbf{25} ; \pmb{25}
25.000: \{25\} ; \left\{25\right\} ; \lbrace 25 \rbrace ; x = \{25\} ; **25** ; x = **25** ; **Answer:** 25 ; *25* ; `25` ; __25__ ; \phantom{0}25 ; \hspace{2mm}25 ; \mathop{25} ; 25\tag{1}
25.000: \begin{aligned}x &= 25\end{aligned} ; \begin{align*}x &= 25\end{align*} ; \begin{array}{rl} x &= 30 - 5 \\ &= 25 \end{array} ; \begin{gathered} x = 25 \end{gathered} ; x = \begin{aligned} 25 \end{aligned} ; \begin{array}{rcl} x & = & 25 \end{array} ; \begin{cases} x = 25 \end{cases} ; \begin{array}{l} AB = 25 \end{array}
25.000: \begin{aligned}2x &= 50 \\[2pt] x &= 25 \\ \end{aligned} ; \begin{equation} x = 25 \end{equation} ; \begin{alignedat}{2} x &= 25 \end{alignedat}
25.000: 25^{\,\circ} ; |AB| = 25 ; 25\textdegree ; 25^{\text{°}} ; 25\text{°} ; \ang{25} ; 25\deg ; \SI{25}{cm} ; 25\,\mathrm{cm}\textsuperscript{2} ; 25{}^{\circ} ; 25˚ ; |-25| ; \left|-25\right| ; \lvert -25 \rvert ; |20 - 45| ; 5|{-5}| ; \abs{-25}
25.000: 25'' ; 25' ; 25^{\prime} ; 25" ; 25′ ; 25″ ; x = 25'' ; A'B' = 25 ; A^{\prime}B^{\prime} = 25 ; 25 (cm) ; 25 [cm] ; 25\,[\mathrm{cm}^2] ; 25 \text{ cms} ; 25 \text{ kms} ; 25 sq. cm ; 25 units^2 ; 25 unit squared
25.000: 25度 ; 25厘米 ; 25平方厘米 ; 25 平方米 ; 25\text{立方厘米} ; 25米 ; 25千米 ; 25毫米 ; 25分米 ; 25公里 ; 25个单位 ; 面积 = 25平方厘米 ; 面积是25平方米 ; 25㎝ ; 25㎠ ; 25㎡ ; 25㎞ ; 25㎤ ; 25。 ; 25厘米。 ; ２５ ; 5\sqrt{25}米 ; 25（厘米）
25.000! x \not= 25 ; x \ne 25 ; x \neq 25 ; x ≠ 25 ; x \not\approx 25 ; x != 25 ; not 25 ; x ≉ 25 ; x \text{ is not } 25 ; \lnot 25 ; x <> 25 ; \not=25 ; x \not\equiv 25 ; x \not \cong 25 ; \text{x is not equal to } 25 ; x = \not 25
25.000! x \text{ cannot be } = 25 ; x \text{ isn't } = 25 ; x =/= 25 ; x ≠ 25 ; x不是25 ; \text{The answer is not } 25 ; \cancel{25} ; 25 \text{ is wrong} ; \pm \approx 25 ; x \ge \approx 25 ; \text{other than } 25
25.000! |x| = 25 ; \lvert x \rvert = 25 ; 25 \text{ squared} ; 25 cubed ; \{25, 30\} ; \{24\} ; |25 ; |25, 30| ; -|25| ; 25^\circ 30' ; 25'6'' ; 25 \over 2 ; \textcolor{blue}{24} ; 25.0\ldots 30 ; 25, \ldots ; 25度30 ; \text{x = 25 or } 30 ; x = 25 = 30 ; \text{Answer: } 25 : 5 ; 25:00 ; 25²\text{度}
25.000! \begin{aligned} x &= 25 \\ y &= 30 \end{aligned} ; \begin{aligned} x &= 30 \\ x &= 25 \end{aligned} ; \begin{aligned} x &> 3 \\ x &= 25 \end{aligned} ; \begin{array}{cc} 25 & 30 \end{array} ; \begin{array}{cc} 2 & 5 \end{array} ; \begin{array}{cc} \sqrt{25} & 5 \end{array} ; \begin{cases} 25 & x > 0 \\ 25 & x < 0 \end{cases}
2.500: {5 \over 2} ; 5 \over 2 ; x = {10 \over 4} ; {{5} \over {2}} ; \nicefrac{5}{2} ; \sfrac{5}{2} ; \tfrac{5}{2} ; \cfrac{5}{2} ; 2{\frac{1}{2}} ; 2{\frac12} ; 2{1 \over 2} ; 2\nicefrac12 ; 2\frac{{1}}{{2}} ; 2.4\overline{9} ; 2{.}5
2.500: 2.500\ldots ; 2.5\dots ; 2.5... ; 2.5… ; 2.500\cdots\text{ cm} ; \frac{5}{2} = 2.5\ldots ; 1.\overline{6} + \frac{5}{6} ; 2.49\bar{9}
32349.000: 32,\! 349 ; 32{,}349 ; 32\,349 ; 32,\!349 ; 32\ 349 ; 32~349 ; 32 349 ; 32 349 ; 32,349.0 ; 32{,}349\text{ cm}^2 ; 32{\,}349
32349.000! 32, 349 ; 32 349 ; 32,34 ; 32.349
1234.500: 1,234.5 ; 1{,}234.5 ; 1\,234.50
7.002: 10\tan(35^\circ) \approx 7.00 ; 10 \tan 35^\circ ; 10\tan{35^{\circ}} ; 10\cdot\tan\left(35°\right) = 7.00 ; 10\tan(35) \approx 7.00 ; 10 tan(35°) ; \frac{10}{\tan 55^\circ} ; \frac{10\sin 35^\circ}{\cos 35^\circ}
7.002: 10\cot 55^\circ ; x = 10\operatorname{tan}(35^\circ) \text{ cm} ; 10\mathrm{tan}35^\circ ; 10\tan(90^\circ - 55^\circ) ; \tan 35^\circ \cdot 10 ; 10\tan(35)^\circ ; 7.002 = 10\tan 35
0.500: \sin 30^\circ = 0.5 ; \sin 30° ; \cos(60^\circ) ; \sin\frac{\pi}{6} ; \sin(\pi/6) = \frac12 ; \sin 30 = 0.5 ; \sin A = 0.5 ; \sin^2 45^\circ ; 1 - \sin{30}^\circ ; \cos 90^\circ + 0.5 ; \sin(\arctan(1/\sqrt{3}))
0.364: \tan 20^\circ \approx 0.36 ; \tan 20° ; \tan(20) \approx 0.364
53.130: \cos^{-1}(0.6) \approx 53.13^\circ ; \arccos(0.6) \approx 53.13 ; \tan^{-1}\left(\frac{4}{3}\right) \approx 53.1^\circ ; \theta = \tan^{-1}\frac{4}{3} = 53.13° ; \arcsin(0.8)^\circ ; \arccos 0.6 \text{ degrees} ; cos⁻¹(0.6) ≈ 53.13°
53.130: arctan(4/3) = 53.13° ; 90^\circ - \arctan(0.75) ; \operatorname{arccos}(0.6) \approx 53.13 ; \cos^{-1} 0.6 \approx 53^\circ
0.600! \sin 30^\circ = 0.6 ; \sin 30° \approx 0.6 ; \tan 35 = 0.6 ; \sin^{-1}(0.5) = 0.6 ; \sin 30^\circ = 0.5 = 0.6 ; \cos 60 = 0.6
53.130! \cos^{-1}(0.6) \approx 0.927 ; \arccos(0.6) = 53.13 = 50 ; \arccos(0.6) \text{ rad} ; \arccos(2) \approx 53.13 ; \sin^{-2}(53.13)
0.000: \cos 90^\circ = 0 ; \sin 0 ; \tan 180° ; \sin\pi
75.000: 75\% ; 75% ; 75 percent
75.000! 0.75 ; \frac{3}{4}
7.070? 7,07 ; x = 7,07 ; 7,07 \text{ cm} ; 7{,}07 ; \approx 7,07 ; (7,07) ; 7,\!07
0.500? 0,5 ; 0,50 ; \sin 30 ; \cos(60)
2.500? 2,5 ; 2,500 ; 2,50^\circ
1234.000? 1.234,0 ; 1234,0 ; 1.234,00
53.130? \arccos(0.6) ; \tan^{-1}(4/3) ; \theta = \cos^{-1}\left(\frac{3}{5}\right)
7.070! 7, 07 ; 7,08 ; 7,07,1 ; 70,7
"""  # noqa: E501 - one row a line


RIGHT = {":": True, "!": False, "?": None}


def rows() -> list[tuple[str, str, bool | None]]:
    pairs: list[tuple[str, str, bool | None]] = []
    for line in TABLE.strip().splitlines():
        gold, mark, answers = re.fullmatch(r"(-?[\d.]+)([:!?]) (.*)", line).groups()  # type: ignore[union-attr]
        pairs += [
            (gold, answer.strip(), RIGHT[mark])
            for answer in answers.split(" ; ")
            if not answer.endswith("!")
        ]
    return pairs


PAIRS = rows()
fuzz = settings(deadline=None)  # a loaded machine is not the property
numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
modes = st.sampled_from(["strict", "relative", "exact", "paper"])
# Pieces that reach every branch of the parser, so that random strings are not all rejected at the
# first character.
PIECES = (
    "\n"
    r"\boxed{ \fbox{ { } ( ) [ ] 0 1 9 12 1,234 . , + - * / ^ ** _ = : ! % $ \frac \dfrac \sqrt "
    r"\sqrt[3] \sqrt{ sqrt( \pi pi"
    "\n"
    r"\sin \arctan( ^{-1} \over | \begin{array}{c} \not is ' ** \{ \color{red} 度 ㎝ "
    r"\overline{3} \ldots 7,07"
    "\n"
    r"\text{ \times \cdot \pm \approx \left \right ^\circ ^{\circ} ° ½ ² ⁻ √ π − × cm x e E or "
    r"and < 10^ 9**9 </think>"
    "\n"
    r"""<think> \\ \{ \} {,} \, ' " __import__ None"""
    "\n"
)
pieces = st.sampled_from(PIECES.split())
hostile = st.one_of(
    st.text(max_size=60), st.lists(st.one_of(pieces, st.just(" ")), max_size=40).map("".join)
)


def boxed(answer: str) -> str:
    return f"<think>some work, first \\boxed{{123456}}</think> So it is \\boxed{{{answer}}}."


@pytest.mark.parametrize(
    ("gold", "answer", "right"), PAIRS, ids=[f"{gold} | {answer}" for gold, answer, _ in PAIRS]
)
def test_labelled_pairs(gold: str, answer: str, right: bool | None) -> None:
    result = grade(boxed(answer), gold, "strict")
    assert result.outcome == {True: "correct", False: "wrong", None: "error"}[right]
    assert (result.stage == "undecided") == (right is None)


def test_what_the_documentation_calls_25_is_25() -> None:
    page = (Path(__file__).parents[2] / "docs" / "grading.md").read_text(encoding="utf-8")
    rows = page[page.index("| read as 25 |") : page.index("| thousands (of 32349) |")]
    examples = re.findall(r"`([^`]+)`", rows)
    assert len(examples) > 20
    for answer in examples:
        assert grade(boxed(answer), "25.000").correct, answer


def test_the_table_is_large() -> None:
    assert len(PAIRS) >= 600


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("no box at all: 5", None),
        (r"\boxed{5}", "5"),
        (r"<think>\boxed{4}</think>\boxed{5}", "5"),
        (r"<think>\boxed{5}</think> hm", None),
        (r"<think>a</think><think>\boxed{4}</think>\boxed{5}", "5"),
        (r"<think>Maybe \boxed{14}, wait", None),
        (r"<think>a</think><think>b \boxed{4}", None),
        (r"<think>a</think>\boxed{5}<think>b \boxed{4}", "5"),
        (r"\boxed{5}<think>or \boxed{4}, wait", "5"),
        (r"<think>a<think>b</think>\boxed{5}", "5"),
        (r"<think>a<think>b</think></think>\boxed{5}", "5"),
        (r"a \boxed{4}</think>\boxed{5}", "5"),
        (r"a \boxed{4}</think></think> hm", None),
        (r"<THINK>\boxed{4}", None),
        (r"<Think>a</THINK>\boxed{5}", "5"),
        ("< think\n>\\boxed{4}", None),
        (r"<thinking>\boxed{4}", None),
        (r"[THINK]\boxed{4}", None),
        (r"[THINK]\boxed{4}[/THINK]\boxed{5}", "5"),
        (r"◁think▷\boxed{4}", None),
        (r"<|begin_of_thought|>\boxed{4}<|end_of_thought|>\boxed{5}", "5"),
        (r"<seed:think>\boxed{4}", None),
        (r"<thinking>\boxed{4}</thinking>\boxed{5}", "5"),
        (r"<thinker>\boxed{5}", "5"),
        (r"<think>a</think>It took many `<think>` tags: \boxed{5}", "5"),
        (r'<think>a</think>\boxed{5}, said after "</think>".', "5"),
        (r"\boxed{4} then \boxed{5}", "5"),
        (r"\boxed{5} and then \boxed{\frac{1}{2", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"{ \boxed{5}", "5"),
        (r"\boxed{ 5 } }}}", "5"),
        (r"\boxed{\left\{5\right.}", r"\left\{5\right."),
        (r"\boxed 7.", "7"),
        (r"\boxed7", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{}", ""),
        (r"\boxed{", None),
        (r"\boxedx{5}", None),
        ("\\boxed{5}" + "x" * 100_000, "5"),
        ("\\boxed{4}" + "\\boxed{" * 5 + "5", "4"),
    ],
)
def test_which_box_counts(response: str, expected: str | None) -> None:
    assert extract_answer(response) == expected


@pytest.mark.parametrize("mode", ["strict", "relative"])
def test_outcomes_and_stages(mode: str) -> None:
    def verdict(response: str, gold: str = "5.000") -> tuple[str, str]:
        result = grade(response, gold, mode)  # type: ignore[arg-type]
        return result.outcome, result.stage

    assert verdict("I do not know.") == ("no_answer", "no-box")
    assert verdict(r"\boxed{}") == ("no_answer", "empty")
    assert verdict(r"\boxed{ }") == ("no_answer", "empty")
    assert verdict(r"\boxed{5\text{ cm}\ }") == ("correct", "strict")
    assert verdict(r"\boxed{two}") == ("wrong", "not-a-number")
    assert verdict(r"\boxed{" + "5" * (MAX_CHARS + 1) + "}") == ("wrong", "length")
    assert verdict(r"\boxed{6}")[0] == "wrong"
    assert verdict(r"\boxed{5}", "") == ("error", "gold")
    assert verdict("nothing", "a triangle") == ("error", "gold")
    assert "a triangle" in grade(r"\boxed{5}", "a triangle").reason


@pytest.mark.parametrize("mode", ["strict", "relative"])
def test_a_box_in_thinking_that_was_cut_off_is_no_answer(mode: str) -> None:
    for text in (
        r"<think>Maybe \boxed{5}, wait",
        r"<think>a</think> No. <think>\boxed{5}",
        r"<THINKING> \boxed{5}",
    ):
        result = grade(text, "5.000", mode)  # type: ignore[arg-type]
        assert (result.outcome, result.stage) == ("no_answer", "no-box")
        assert reward(text, "5.000", mode).acc == 0.0  # type: ignore[arg-type]
        assert grade(text, "5.000", "exact").correct  # the original's modes know no thinking


def test_what_is_right_in_one_reading_is_an_error_that_names_it_and_no_gap_in_the_reward() -> None:
    for answer, gold, words in (
        ("7,07", "7.070", "'7,07'.* its comma is a decimal point"),
        (r"\sin 30", "0.500", "its angle is in degrees"),
        (r"\arctan(1)", "0.785", "its angle is in radians"),
    ):
        result = grade(boxed(answer), gold)
        assert (result.outcome, result.stage, result.value) == ("error", "undecided", None)
        assert re.search(words, result.reason)
        given = reward(boxed(answer), gold, "strict")
        assert (given.score, given.acc, given.ungraded) == (pytest.approx(0.1), 0.0, False)
    assert reward(boxed("5"), "a square").ungraded
    assert grade(boxed("7,1"), "7.071").outcome == "wrong"
    assert grade(boxed("7,1"), "7.071", "relative").stage == "undecided"


def test_a_gold_in_percent_is_also_the_share() -> None:
    for gold in ("75%", r"75\%", "75 percent"):
        for answer in ("75", r"75\%", "0.75", r"\frac{3}{4}", "3/4"):
            assert grade(boxed(answer), gold).correct
        for answer in (r"0.75\%", "0.7", r"\frac{4}{3}", "7500"):
            assert grade(boxed(answer), gold).outcome == "wrong"


def test_parse_number_knows_no_doubtful_number() -> None:
    assert parse_number(r"\sin 30") is None
    assert readings(r"\sin 30") == pytest.approx((0.5, math.sin(30)))
    assert readings(r"\sin 30°") == pytest.approx((0.5,))
    assert readings("7,07") == () and decimal_comma_readings("7,07") == (7.07,)
    assert readings("2,500") == (2500.0,) and decimal_comma_readings("2,500") == (2.5,)


def test_an_unknown_mode_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'lenient'.*strict, relative"):
        grade("x", "5", "lenient")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'paper'.*exact, strict, relative"):
        reward("x", "5", "paper")  # type: ignore[arg-type]


# ---- tolerance -----------------------------------------------------------------------------------
@fuzz
@given(
    st.integers(-100_000, 100_000),
    st.sampled_from([-1, 1]),
    st.sampled_from(["{}", "{}.0", "{}.000"]),
    modes,
)
def test_off_by_one_is_never_right_for_an_integer(
    gold: int, step: int, form: str, mode: str
) -> None:
    if mode == "paper" and abs(gold) >= 100:
        return  # the original's 1% has no such rule: this is why it is not the default
    assert grade(boxed(str(gold + step)), form.format(gold), mode).outcome == "wrong"  # type: ignore[arg-type]


@fuzz
@given(numbers, numbers)
def test_a_verdict_is_the_distance_to_the_gold(value: float, gold: float) -> None:
    distance = abs(value - gold)
    allowed = max(5e-3, 0.0 if gold == round(gold) else 0.01 * abs(gold))
    if abs(distance - 5e-3) > 1e-6:
        assert grade(boxed(f"{value:.3f}"), f"{gold:.3f}", "strict").correct == (distance < 5e-3)
    if abs(distance - allowed) > 1e-6:
        assert grade(boxed(f"{value:.3f}"), f"{gold:.3f}", "relative").correct == (
            distance < allowed
        )


@fuzz
@given(st.integers(-50_000, 50_000), st.sampled_from([-5, 5]))
def test_the_boundary_itself_is_right_in_spite_of_binary_floats(
    hundredths: int, thousandths: int
) -> None:
    gold = f"{hundredths / 100:.3f}"
    value = f"{(hundredths * 10 + thousandths) / 1000:.3f}"
    assert grade(boxed(value), gold, "strict").correct


@fuzz
@given(numbers, numbers, numbers)
def test_two_answers_further_apart_than_twice_the_tolerance_are_never_both_right(
    a: float, b: float, gold: float
) -> None:
    if abs(a - b) > 0.0101:
        assert not (
            grade(boxed(str(a)), str(gold)).correct and grade(boxed(str(b)), str(gold)).correct
        )


@fuzz
@given(
    st.integers(0, 99_999),
    st.sampled_from(
        [
            "{}",
            "${}$",
            " {} ",
            "{}\\text{{ cm}}",
            "{} \\mathrm{{ m}}^2",
            "{}^\\circ",
            "x = {}",
            "{{{}}}",
            "\\text{{{}}}",
        ]
    ),
    st.sampled_from(["{}", "\\;{}", "{}\\,", "\\left({}\\right)"]),
    st.sampled_from(["strict", "relative"]),
)
def test_wrapping_does_not_change_the_verdict(
    thousandths: int, outer: str, inner: str, mode: str
) -> None:
    number = f"{thousandths / 1000:.3f}"
    for gold in (number, "12.345"):
        bare, wrapped = (
            grade(boxed(text), gold, mode) for text in (number, outer.format(inner.format(number)))
        )  # type: ignore[arg-type]
        assert (bare.outcome, bare.value) == (wrapped.outcome, wrapped.value)


expressions = st.recursive(
    st.integers(1, 40).map(lambda n: (str(n), float(n))),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(
            lambda p: (rf"\frac{{{p[0][0]}}}{{{p[1][0]}}}", p[0][1] / p[1][1])
        ),
        st.tuples(inner, inner).map(
            lambda p: (rf"({p[0][0]}) \cdot ({p[1][0]})", p[0][1] * p[1][1])
        ),
        st.tuples(inner, inner).map(lambda p: (rf"({p[0][0]} + {p[1][0]})", p[0][1] + p[1][1])),
        st.tuples(st.integers(2, 9), inner).map(
            lambda p: (rf"{p[0]}\sqrt{{{p[1][0]}}}", p[0] * math.sqrt(p[1][1]))
        ),
        st.tuples(st.integers(2, 9), inner).map(
            lambda p: (rf"{p[0]}\pi({p[1][0]})", p[0] * math.pi * p[1][1])
        ),
        inner.map(lambda p: (rf"{{({p[0]})}}^{{2}}", p[1] ** 2)),
    ),
    max_leaves=5,
)


@fuzz
@given(expressions)
def test_the_parser_computes_what_was_printed(expression: tuple[str, float]) -> None:
    text, value = expression
    assert parse_number(text) == pytest.approx(value, rel=1e-9)


# ---- hostile text --------------------------------------------------------------------------------
def robust(response: str, gold: str, mode: str) -> None:
    start = time.perf_counter()
    for text in (response, boxed(response), "\\boxed{" + response):
        result = grade(text, gold, mode)  # type: ignore[arg-type]
        assert result.outcome in ("correct", "wrong", "no_answer", "error")
        assert result.value is None or math.isfinite(result.value)
    assert time.perf_counter() - start < 2


@settings(max_examples=400, deadline=None)
@given(hostile, hostile, modes)
def test_no_text_breaks_or_hangs_the_grader(response: str, gold: str, mode: str) -> None:
    robust(response, gold, mode)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None)
@given(hostile, hostile, modes)
def test_no_text_breaks_or_hangs_the_grader_longer(response: str, gold: str, mode: str) -> None:
    robust(response, gold, mode)


FLOODS = {
    "open boxes": "\\boxed{" * 14_000,
    "braces": "\\boxed{5}" + "{" * 100_000,
    "pairs in a box": "\\boxed{" + "{}" * 50_000 + "}",
    "nested": "\\boxed{" + "{" * 50_000 + "5" + "}" * 50_001,
    "backslashes": "\\boxed{5}" + "\\" * 100_000,
    "digits": "\\boxed{" + "9" * 100_000 + "}",
    "powers": "\\boxed{" + "9**" * 130 + "9}",
    "towers": "\\boxed{9^{9^{9^{9^{9}}}}}",
    "factorial": "\\boxed{99999999!}",
    "roots": "\\boxed{" + "\\sqrt{" * 60 + "2" + "}" * 61,
    "parentheses": "\\boxed{" + "(" * 390 + "}",
    "relations": "\\boxed{" + "5=" * 190 + "5}",
    "expanding": "\\boxed{" + "½" * 390 + "}",
    "thinking": "<think></think>" * 7_000 + "\\boxed",
    "format": "<think>" + "</think>\\boxed{" * 6_000,
    "spaces": "\\boxed{" + " " * 100_000 + "}",
    "minus": "\\boxed{" + "-" * 390 + "5}",
}


@pytest.mark.parametrize("mode", ["strict", "relative", "exact", "paper"])
def test_floods_of_100_kb_take_no_time(mode: str) -> None:
    grade(r"\boxed{\frac{1}{2}}", "5.000", mode)  # type: ignore[arg-type]  # mathruler's import is not the flood's
    for name, text in FLOODS.items():
        best = math.inf
        for _ in range(3):
            start = time.perf_counter()
            grade(text, "5.000", mode)  # type: ignore[arg-type]
            well_formatted(text)
            best = min(best, time.perf_counter() - start)
        assert best < 0.1, (
            f"{name} took {best:.3f} s"
        )  # measured: under 5 ms; a loaded machine is not the property


def _verdicts(mode: str) -> list[str]:
    return [f"{grade(boxed(answer), gold, mode)}" for gold, answer, _ in PAIRS[::4]]  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["relative", "paper"])
def test_threads_and_processes_give_the_same_verdicts(mode: str) -> None:
    expected = _verdicts(mode)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_verdicts, [mode] * 4)) == [expected] * 4
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_verdicts, [mode]) == [expected]


# ---- format --------------------------------------------------------------------------------------
ORIGINAL_FORMAT = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)
format_pieces = st.sampled_from(
    ["<think>", "</think>", "\\boxed{", "\\boxed", "{", "}", "\n", "a", " ", "<think", "\\"]
)


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.lists(format_pieces, max_size=9).map("".join),
        st.text("<think>/\\boxed{}\n", max_size=30),
    )
)
def test_the_format_check_is_the_original_pattern(text: str) -> None:
    for response in (
        text,
        "<think>" + text,
        "<think></think>" + text,
        "<think>" + text + "</think>\\boxed{1}",
    ):
        assert well_formatted(response) == (ORIGINAL_FORMAT.fullmatch(response) is not None)


# ---- the original's modes ------------------------------------------------------------------------
@fuzz
@given(hostile)
def test_extraction_is_mathrulers(response: str) -> None:
    from mathruler.grader import extract_boxed_content as original

    assert extract_boxed_content(response) == original(response)


# One row for each rule: answer, gold, what the original's reward and its eval.py say.
@pytest.mark.parametrize(
    ("answer", "gold", "exact", "paper"),
    [
        ("25", "25.000", True, True),
        ("25^\\circ", "25.000", True, True),
        ("25°", "25.000", False, True),
        ("25 \\text{ cm}", "25.000", True, True),
        ("x = 25", "25.000", False, False),
        ("24.9", "25.000", False, True),
        ("24", "25.000", False, False),
        ("2\\sqrt{3}", "3.464", False, True),
        ("2(3+1)", "8.000", False, True),
        ("5(2)", "10.000", False, True),
        ("\\frac{7}{2}", "3.500", True, True),
        ("\\frac{22}{7}", "3.142", False, False),
        ("7/2", "3.500", True, True),
        ("3.50", "3.500", True, True),
        ("2 + 1.5", "3.500", True, True),
        ("10**2", "100.000", False, True),
        ("2^2", "4.000", False, False),
        ("5^2", "7.000", False, False),
        ("0x10", "16.000", False, False),
        ("1_0", "10.050", False, False),
        ("6 or 12", "6.000", False, True),
        ("3.5+x-x", "3.500", True, True),
        ("3.5x", "3.500", False, False),
        ("25, 30", "25.000", False, False),
        ("2\\pi", "6.283", False, False),
        ("9**9**9**9", "25.500", False, False),
        ("99999999!", "25.500", False, False),
        ("__import__('os').getpid()", "25.500", False, False),
        ("math.factorial(5)", "120.000", False, False),
        ("().__class__", "25.500", False, False),
    ],
)
def test_the_original_modes(answer: str, gold: str, exact: bool, paper: bool) -> None:
    assert grade(rf"\boxed{{{answer}}}", gold, "exact").correct == exact
    assert grade(rf"\boxed{{{answer}}}", gold, "paper").correct == paper


def test_the_original_modes_know_no_think_rule_and_count_none() -> None:
    for mode in ("exact", "paper"):
        assert grade(r"<think>\boxed{5}</think>", "5.000", mode).correct
        assert grade("5", "5.000", mode).outcome == "no_answer"
        assert grade(r"\boxed{None}", "5.000", mode).outcome == "no_answer"
        assert grade(r"\boxed{}", "5.000", mode).outcome == "wrong"
        assert grade(r"\boxed{5}", "unknown", mode).outcome == "error"


@settings(max_examples=150, deadline=None)
@given(expressions, numbers)
def test_exact_is_mathruler_on_plain_arithmetic(
    expression: tuple[str, float], other: float
) -> None:
    from mathruler.grader import grade_answer as original

    assume(expression[1] < 1e6)
    for gold in (f"{expression[1]:.3f}", str(other)):
        assert grade(rf"\boxed{{{expression[0]}}}", gold, "exact").correct == original(
            expression[0], gold
        )


def test_sympy_is_loaded_for_the_original_modes_only() -> None:
    code = (
        "import sys; from modgap.grading.answer import grade; import modgap.rewards;"
        " grade(r'\\boxed{5}', '5');assert not {'sympy', 'mathruler', 'torch', 'numpy'} &"
        " set(sys.modules); grade(r'\\boxed{5}', '5', 'paper');assert 'mathruler' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        hostile,
        st.lists(
            st.sampled_from(
                ["\\title{a}", "\\maketitle", "\\frac", "{1}", "\\pi", "\\text{cm}", "5"]
            )
        ),
    )
)
def test_shared_tables_do_not_change_what_mathruler_normalises(text: str | list[str]) -> None:
    from mathruler.grader import _normalize as original

    from modgap.grading.paper import _safe_grade_answer

    def outcome(normalise: object) -> object:
        try:
            return normalise("".join(text))  # type: ignore[operator]
        except Exception as error:
            return type(error)

    assert outcome(_safe_grade_answer().__globals__["_normalize"]) == outcome(original)  # type: ignore[attr-defined]
