"""Labelled answers and hostile texts, for the tests of grading and for bench/grading.py."""

from __future__ import annotations

import math
import re

from hypothesis import settings
from hypothesis import strategies as st

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
