"""Answers to MathVerse questions with their verdicts, for the tests and for bench/grading.py."""

from __future__ import annotations

import re

from hypothesis import settings

from modgap.grading.judge import Undecided
from modgap.grading.mathverse import Case, grade_by_rule

QUESTION = "Then angle CED is ()\nChoices:\nA:40°\nB:60°\nC:120°\nD:2\\sqrt{3}"

# gold: answers that state it !! answers that do not ?? answers that only a judge can tell from it
FREE_FORM = r"""
28 :: 28 ;; 28^\circ ;; x = 28 ;; 28.0 ;; \text{28 degrees} ;; $28$ ;; \frac{56}{2} !! 2 ;; 27 ;; 28x ;; (28, 2) ;; 28, 2 ;; x > 28 ;; 28 < x < 30 ?? none of them ;; 28 cakes
270 ^\circ T :: 270 ;; 270^\circ ;; 270°T ;; 270^\circ \text{T} ;; 270^{\circ} \mathrm{T} !! 2 ;; 90 ;; 27 ;; 7
Area $=\frac{147 \pi}{4} \mathrm{~cm}^{2}$ :: \frac{147\pi}{4} ;; 115.45 ;; A = \frac{147}{4}\pi \text{ cm}^2 ;; 36.75\pi\ \mathrm{cm}^2 !! 2 ;; 2 cm^2 ;; 4 ;; 147 ;; \frac{147}{4}
Volume $=904.78 \mathrm{~cm}^{3}$ :: 904.78 ;; 288\pi ;; V = 904.78 \text{ cm}^3 ;; V = 288\pi \approx 904.78 \text{ cm}^3 !! 3 ;; 904 ;; 905 cm^3
577.0 \mathrm{cm}^2 :: 577 ;; 577 \text{ cm}^2 ;; 577.0 ;; 577\,\mathrm{cm^2} !! 2 ;; 57.7
\frac{\sqrt{30}}{2} :: \frac{\sqrt{30}}{2} ;; \sqrt{7.5} ;; \frac{1}{2}\sqrt{30} ;; x=\frac{\sqrt{30}}{2} ;; 2.7386 !! 2 ;; 30 ;; \sqrt{30}
$x=0$ :: x = 0 ;; x=0.0 ;; 0 = x ;; 0 ;; 2x = 0 !! y=0 ;; x=1 ;; x > 0 ;; y = x ;; 2y = 0
(2,-2) :: (2,-2) ;; \left(2, -2\right) ;; (2.0, -2) ;; M(2,-2) ;; M = (2,-2) ;; 2, -2 ;; (\frac{4}{2}, -2) !! (-2,2) ;; -2, 2 ;; (2,2) ;; 2 ;; [2,-2] ;; (2,-2] ;; (2,-2,0) ;; x = 2
Center $=(20,10)$ :: (20,10) ;; (20, 10) ;; C = (20,10) ;; \text{Center} = (20, 10) ;; \text{Center: } (20,10) !! (10,20) ;; 20 ;; (20,10,0)
(-2,1] :: (-2,1] ;; (-2, 1] ;; \left(-2,1\right] ;; x \in (-2,1] ;; (-2, 1.0] !! (-2,1) ;; [-2,1] ;; [-2,1) ;; (-2,2] ;; (-1,2] ;; 1 ;; -2 ;; x = 1 ?? -2 < x \le 1
(-\infty, 3) :: (-\infty,3) ;; (-\infty, 3.0) ;; (-∞, 3) !! (-\infty,3] ;; (\infty,3) ;; (3,\infty) ;; 3 ;; (-3, 3) ?? x < 3
[0,\infty) :: [0, \infty) ;; [0,+\infty) ;; \left[0, \infty\right) !! (0,\infty) ;; [0, 5) ;; 0 ;; [0,-\infty)
(-\infty,1)\cup(2,3] :: (-\infty, 1) \cup (2, 3] ;; (2,3]\cup(-\infty,1) ;; (-∞,1) ∪ (2,3] !! (-\infty,1)\cup(2,3) ;; (-\infty,1) ;; (2,3]
domain: [-4, 0) and range: (-3, 1] :: Domain: [-4,0), Range: (-3,1] ;; \text{Range: } (-3,1], \text{Domain: } [-4,0) ;; [-4,0) \text{ and } (-3,1] ;; \text{Domain: } [-4, 0); \text{Range: } (-3, 1] !! (-3,1], [-4,0) ;; [-4,0) ;; Domain: [-4,0], Range: (-3,1] ;; Domain: (-3,1], Range: [-4,0) ;; 1 ;; -4
$y \leq 2 x+3$ :: y \le 2x+3 ;; 2x+3 \ge y ;; y \leq 3 + 2x ;; y - 2x \le 3 ;; 2x - y + 3 \geq 0 ;; y ≤ 2x+3 ;; y <= 2x + 3 ;; 2y \leq 4x+6 !! y < 2x+3 ;; y \geq 2x+3 ;; y = 2x+3 ;; y \le 2x+4 ;; 2 ;; 3 ;; 2x+3 ;; y \le -2x+3
-2 < x \le 1 :: 1 \ge x > -2 ;; -2<x\leq 1 ;; x > -2 \text{ and } x \le 1 !! -2 \le x \le 1 ;; -2 < x < 1 ;; x \le 1 ;; x > -2 \text{ or } x \le 1 ;; 1 ;; 2 < x \le 1 ?? (-2, 1]
x < 2 or x > 5 :: x<2 \text{ or } x>5 ;; x > 5 or x < 2 !! 2 < x < 5 ;; x<2 ;; 2 ;; x < 5 or x > 2
(x+3)^2+(y+3)^2=9 :: (x+3)^2 + (y+3)^2 = 9 ;; \left(x+3\right)^{2}+\left(y+3\right)^{2}=9 ;; 9=(x+3)^2+(y+3)^2 ;; (x+3)^2+(y+3)^2=3^2 ;; x^2+y^2+6x+6y+9=0 !! (x-3)^2+(y-3)^2=9 ;; (x+3)^2+(y+3)^2=3 ;; 9 ;; 3 ;; 2 ;; (x+3)^2+(y+3)^2 \le 9
y = 2x+3 :: 2x+3 = y ;; y=3+2x ;; y = 2x + 3.0 ;; f(x) = 2x+3 ;; 2x+3 ;; y - 2x = 3 ;; 2x - y + 3 = 0 ;; y = 2\left(x+\frac{3}{2}\right) !! y = 3x+2 ;; y = 2x-3 ;; y = -2x+3 ;; 2 ;; 3 ;; x = 2y+3 ;; y > 2x+3 ;; (2,3) ;; y = 2x
$-\frac{3}{2}x+3$ :: -\frac{3}{2}x+3 ;; f(x) = -\frac{3}{2}x+3 ;; y = -1.5x+3 ;; 3 - \frac{3x}{2} ;; f(x)=3-1.5x !! \frac{3}{2}x+3 ;; -\frac{3}{2} ;; 3 ;; 2 ;; y = -\frac{2}{3}x+3
1 - \sin^2 x :: \cos^2 x ;; \cos^{2}(x) ;; 1 - \sin^{2} x !! \cos x ;; 2 ?? \sin^{-1} x ;; \sin^x y
f(x)=3\sin(2x)+1 :: f(x) = 1+3\sin(2x) ;; y = 3\sin 2x + 1 ;; 3\sin(2x)+1 ;; 6\sin(x)\cos(x)+1 !! 3\cos(2x)+1 ;; 3\sin(x)+1 ;; 2 ;; 3\sin(2x)
y = 2^x :: y=2^{x} ;; f(x)=2^x ;; y = e^{x\ln 2} !! y=x^2 ;; y=2x ;; 2
12x^2+144x+384 \mathrm{m}^3 :: 12x^2+144x+384 ;; 12(x+4)(x+8) ;; (12x^2 + 144x + 384)\text{ m}^3 ;; 12x^2+144x+384 \text{ m}^3 ;; V = 12x^2+144x+384 !! 12x^2+144x+380 ;; 3 ;; 12 ;; 2
y = |x-1|+2 :: y=2+|x-1| ;; y = |1-x|+2 ;; f(x)=|x-1|+2 !! y = x-1+2 ;; y = |x+1|+2 ;; 2
\frac{1}{x} :: x^{-1} ;; 1/x ;; \dfrac{1}{x} !! x ;; 1 ;; \frac{1}{y} ;; -\frac{1}{x}
x=\pm 3 :: x = 3, x = -3 ;; x=-3 \text{ or } x=3 ;; \pm 3 ;; 3, -3 ;; \{-3, 3\} !! 3 ;; -3 ;; x=3 ;; 3, 3 ;; (1, 3, -3)
2 and 5 :: 2, 5 ;; 5, 2 ;; x=2, x=5 ;; 2 \text{ and } 5 ;; \{2,5\} !! 2 ;; 5 ;; 2, 6 ;; 2, 5, 7
x = 2, y = 3 :: y=3, x=2 ;; x=2 \text{ and } y=3 ;; x = 2; y = 3 !! x=3, y=2 ;; 2 ;; x = 2
V(t)=200(0.9)^t :: V = 200(0.9)^t ;; 200(0.9)^t ;; V(t) = 200 \cdot 0.9^t !! V = 200(0.8)^t ;; 2 ;; V = 200t
45^\circ :: 45 !! 2 ;; \frac{\pi}{3} ?? \frac{\pi}{4}
\mathbb{R} :: \mathbb{R} ;; all real numbers ?? (-\infty, \infty) ;; 2
range: $y \leq 4$ :: y \le 4 ;; \text{Range: } 4 \ge y !! y < 4 ;; 4 ;; 2 ?? (-\infty, 4]
2:3 :: 2:3 ;; 4:6 ;; \frac{2}{3} !! 3:2 ;; 2 ;; 3
Yes :: yes ;; \text{Yes} ;; Yes. !! No ;; \text{no} ?? 2
\text{no solution} :: no solution ;; \text{No solution} ?? 2 ;; \emptyset
a square :: A square ;; \text{a square} ?? a rhombus ;; 4 ;; square
\text{square} :: square ;; \text{Square} ?? \text{rhombus} ;; \text{minute}
AB :: AB ;; \text{AB} ;; \overline{AB} ?? CD ;; 2
seven :: 7 ;; \text{seven} ;; Seven !! 8 ;; 2
y=0.33x+1 :: y = 0.33x+1 ?? y = \frac{1}{3}x + 1
10 m :: 10 ;; 10 m ;; 10.0 \text{ meters} ;; 10 \mathrm{~m} ;; x = 10\,m ;; 10 units !! 11 ;; 11 m ;; 2 ;; 11 cm ;; 2 kg ?? 10 cm ;; 10 \text{ cm} ;; 10 m^2 ;; 1000 cm ;; 10^\circ ;; 10 kg
12 \mathrm{~cm}^{2} :: 12 \text{ square centimeters} ;; 12 cm² ;; 12.0 sq cm ;; 12 ;; 12 square units !! 2 ;; 13 cm^2 ;; 13 m^2 ;; 3 cm ?? 0.0012 m^2 ;; 12 cm ;; 12 m^2 ;; 12 \text{cm}^3
10 m, 5 m :: 5, 10 ;; 5 m and 10 m ;; 10, 5 m ?? 10 cm, 5 cm !! 10, 6 ;; 10
3x+1 \text{ m} :: 1+3x ;; 3x+1 \text{ m} ?? 1+3x \text{ cm} !! 3x
\frac{\pi}{4} \text{ rad} :: \pi/4 ?? 45^\circ !! \pi/3
\$5 :: 5 ;; 5 dollars ;; \$5.0 ?? 5 cents ;; 500 \text{ cents} !! 6 ;; 6 dollars
θ :: \theta ;; \vartheta ;; theta ;; \text{theta} ;; 𝜃 ;; $\theta$ ;; \mathrm{\theta} !! \Theta ;; \alpha ;; 2\theta ;; 5
180^\circ - 2\alpha :: 180°-2α ;; 180 - 2α ;; 180^{\circ}-2alpha ;; -2\alpha + 180^\circ ;; 2(90°-α) !! 180°-2β ;; 90°-α ;; 180°+2α ?? \pi - 2\alpha
a/sinα :: \frac{a}{\sin\alpha} ;; \frac{a}{\sin(\alpha)} ;; a / \sin α ;; a\csc\alpha ;; \frac{a}{\operatorname{sin} \alpha} !! a\sin\alpha ;; \frac{a}{\cos\alpha} ;; \frac{a}{\sin\beta} ;; 180°-2α
φ :: \varphi ;; \phi ;; ϕ ;; phi !! \psi
\varepsilon :: ε ;; ϵ ;; \epsilon ;; epsilon !! \eta
△ABC :: \triangle ABC ;; \Delta ABC ;; ΔABC ;; ∆ABC ?? \triangle ABD ;; ABC
\Delta :: Δ ;; Delta !! δ ;; \delta
4:00 :: 4:00 ;; 04:00 ;; \text{4:00} ;; 4{:}00 ;; 4 : 00 ;; 4:00:00 !! 3:00 ;; 5:00 ;; \infty ;; 4:30 ;; 12:00 ;; 5 ;; 4s ;; 4:00:30 ;; 4:0 ?? 4 ;; 4:00 pm ;; 16:00 ;; 4 o'clock
3:30 pm :: 3:30 PM ;; 3:30 \text{ p.m.} ;; 15:30 !! 3:30 am ;; 3:30:15 pm ;; 4:30 pm ?? 3:30
4:30 :: 4:30 ;; 4:30:00 !! 4:00 ;; 9:45 ;; 5:30 ?? 2:15 ;; 16:30
\infty :: \infty ;; ∞ !! 5:0 ;; 4:00 ;; 0:0 ;; -\infty ;; 5
0 :: 0 !! 0:5 ;; 0:0 ;; 5:0
5:0 :: 5:0 !! \infty ;; 5 ;; 0 ?? 10:0
V_1:V_2 = 11:21 :: 11:21 ;; \frac{11}{21} ;; V_{1}:V_{2}=22:42 !! 21:11
1000 :: 1 000 ;; 1,000 ;; 1000.0 !! 100 ;; 1, 000
1:2:3 :: 1:2:3 ;; 1 : 2 : 3 ;; 2:4:6 !! 12:3 ;; 123 ;; 1:2:4 ;; 1:2
\sqrt{3}:2 :: √3 : 2 ;; 3 : 2\sqrt{3} !! 2:\sqrt{3} ;; 3:2 ;; 2 ?? \frac{\sqrt{3}}{2}
18.97 :: 18.97 !! 18.96:2 ?? 6\sqrt{10}:1 ;; 6\sqrt{10} \approx 18.97:1
\sin A = \frac{3}{5} :: \frac35 ;; \sin A = 0.6 ;; 0.6 !! \frac45 ?? \cos A = \frac35 ;; \sin B = \frac35
\alpha = 30^\circ :: α = 30 ;; 30 ;; x = 30 !! 40 ?? \beta = 30^\circ
AB = 5 :: AB = 5 ;; 5 ;; BA = 5 ;; x = 5 ;; \overline{AB} = 5 !! 6 ;; CD = 6 ?? CD = 5
\sin(A) :: \sin(\pi - A) ;; \sin A !! \cos A ?? \sin(180 - A) ;; \sin(180^\circ - A)
f(x) :: f(x) ;; f( x ) ;; y = f(x) !! f(y) ;; g(x) ;; f(2x) ;; -f(x) ;; f(x)+1 ;; f^{-1}(x) ;; 2 ?? y
y = f(-x) :: y=f(-x) ;; f(-x) ;; f(-x) = y !! y = -f(x) ;; y = f(x) ;; y = g(-x) ;; -f(x)
f(x+1) :: f(1+x) ;; y = f(x + 1) !! f(x)+1 ;; f(x-1) ;; f(x)+f(1) ;; g(x+1)
g(f(x)) :: g(f(x)) !! f(g(x)) ;; f(x) ;; g(x)
f \circ g :: f \circ g ;; f\circ g ?? g \circ f
f(x) = 2x :: y = 2x ;; 2x ;; f(x)=x+x !! f(x) = 3x ;; g(x) = 3x ?? g(x) = 2x ;; f(t) = 2t ;; f(y) = 2x
y = 2x + 1 :: f(x) = 1 + 2x ;; 2x + 1 ?? f(y) = 1 + 2x
45^\circ :: 45° ;; 45 ?? 45' ;; 45''
5 ft :: 5' ;; 5 feet ?? 5'' ;; 5 in
(1, 2) :: (x, y) = (1, 2) ;; 1, 2 ;; x = 1, y = 2 ?? \{1, 2\} ;; (y, x) = (1, 2) ;; y = 1, x = 2
f^{-1}(x) = \frac{x-3}{2} :: \frac{x-3}{2} ;; y = \frac{x-3}{2} ;; f^{-1}(x) = \frac{x}{2} - 1.5 !! 2x+3 ;; f^{-1}(x) = 2x+3 ?? f(x) = \frac{x-3}{2}
A' :: A' ;; A^{\prime} ;; A′ !! B' ;; A ;; A''
\tan^{-1}(\frac{a}{b}) :: \arctan\frac{a}{b} ;; \operatorname{arctan}(a/b) ?? \arctan\frac{b}{a} ;; \frac{b}{a}
\arctan\frac{a}{b} :: \arctan(\frac{2a}{2b}) !! \arctan\frac{b}{a} ;; \tan\frac{a}{b}
\frac{a}{2} :: a\sin 30^\circ ;; a \cos 60° ;; a\sin(30^{\circ}) ;; \frac{a}{4\sin 30^\circ} !! a\sin 45^\circ ;; a\cos 30°
\sin(x+30^\circ) :: \cos(60^\circ - x) ;; \sin(30°+x) !! \sin(x - 30^\circ) ?? \sin(x+\frac{\pi}{6})
\cot x :: \frac{1}{\tan x} ;; ctg x ;; \frac{\cos x}{\sin x} !! \tan x
2x = 26 :: 2x = 20 + 6 = 26 ;; x = 13 !! 26 ;; 2x = 13 + 12 = 25
26 :: x = 20 + 6 = 26 ;; 20 + 6 = 26 !! 2x = 20 + 6 = 26 ;; x^2 = 20 + 6 = 26 ;; -x = 20+6 = 26 ;; 5 = 6 = 26
75% :: \frac34 ;; 0.75 ;; 75\% ;; 75 ;; 75 \text{ percent} ;; \frac{3}{4} ;; 3/4 !! 0.7 ;; 7.5 ;; \frac{4}{3} ;; 25\% ;; 750 ?? 0.7501
\frac{3}{4} :: 75\% ;; 75% ;; 0.75 ;; 75 percent !! 70\% ;; 75 ;; 7.5% ?? 75.2\%
33.3% :: 0.333 ;; 33.3 !! 0.3 ?? \frac13
25%, 75% :: 0.25, 0.75 ;; 75\%, 25\% !! 0.25, 0.7 ;; 25%
5 :: 5 !! x \ne 5 ;; x ≠ 5 ;; x != 5 ;; x \neq 5 ;; x \not= 5 ;; \neq 5 ;; x <> 5 ;; 5 \ne x ;; \text{not } 5 ;; x \not< 5 ;; x \not\approx 5 ;; \lnot 5 ?? x \nleq 5
x \ne 5 :: x \neq 5 ;; x ≠ 5 ;; x != 5 ;; 5 \ne x ;; 2x \ne 10 ;; \neq 5 ;; x \not= 5 !! 5 ;; x = 5 ;; x \ne 4 ;; x > 5 ;; x < 5
x > 5 :: x > 5 !! x \ne 5 ?? x \not> 5 ;; x \ngtr 5
3.5 :: 3.5 !! 3,6 ;; 3, 5 ;; 5,3 ;; 35 ?? 3,5 ;; 3{,}5 ;; x = 3,5 ;; (3,5) ;; 3,50 ;; \approx 3,5
3.5 cm :: 3.5 !! 4,5 cm ?? 3,5 cm ;; 3,5 \text{ cm} ;; 3{,}5\,\mathrm{cm}
y = 0.5x :: y = \frac{x}{2} !! y = 0,6x ?? y = 0,5x
2, 5 :: 2,5 ;; 5, 2 !! 2.6 ;; 2
(2, 5) :: (2,5) !! 2.5 ;; (2.5)
(p, q) = (3, 2) :: (3,2) ;; (p,q)=(3, 2) ;; p = 3, q = 2 !! (2,3) ;; 3
(5, 2), (7, 2) :: (7,2), (5,2) ;; (x, y) = (5, 2) \text{ and } (7, 2) !! (5,2) ;; (5,2), (7,3) ?? p=5, q=2; p=7, q=2
1\leq |z| \leq \frac{3}{2} :: \frac32 \ge |z| \ge 1 ?? z \in [-\frac{3}{2}, -1] \cup [1, \frac{3}{2}]
x \in [-2, 7] :: [-2,7] !! (-2,7) ?? -2 \\le x \\le 7 ;; -2 \le x \le 7
20 \text{ m/s} :: 20 ;; 20 \text{ meters per second} ;; 20 m/s ?? 20 km/h ;; 20 \text{ m}
"""  # noqa: E501 - one gold a line


def free_form_rows() -> list[tuple[str, str, bool | None]]:
    rows: list[tuple[str, str, bool | None]] = []
    for line in FREE_FORM.strip().splitlines():
        gold, _, rest = line.partition(" :: ")
        for group, label in zip(re.split(r" (?:!!|\?\?) ", rest), labels_of(rest), strict=True):
            rows += [(gold, answer.strip(), label) for answer in group.split(" ;; ")]
    return rows


def labels_of(rest: str) -> list[bool | None]:
    return [True, *({"!!": False, "??": None}[mark] for mark in re.findall(r" (!!|\?\?) ", rest))]


# A letter beside its own value, C: 120°.
LETTER_AND_VALUE = r"""
C, 120^\circ ;; C - 120^\circ ;; 120^\circ, C ;; C = 120 ;; C (120°) ;; 120° (C) ;; (C) 120
\text{C}\ 120^\circ ;; C\\120 ;; C \\ 120^\circ ;; C; 120° ;; C — 120° ;; C \quad 120^\circ
\mathbf{C},\ 120^\circ ;; \text{C, }120^\circ ;; \text{C (120°)} ;; 120^\circ \text{ (C)}
120^\circ \text{(Option C)} ;; C \Rightarrow 120^\circ ;; C → 120° ;; C -> 120 ;; C and 120 ;; C/120
C, x = 120^\circ ;; x = 120^\circ, C ;; 120 - C ;; 120^\circ = C ;; \text{C} = 120^\circ ;; c, 120
(C), 120 ;; C [120] ;; C|120 ;; 120^\circ \; C ;; 120 C ;; C,120 ;; C - 120.0 ;; C, \frac{240}{2}
\boxed{C}, 120 ;; C, \angle CED = 120^\circ ;; \textcolor{red}{C}, 120
""".strip().replace("\n", " ;; ").split(" ;; ")  # fmt: skip

# gold of a multiple-choice question, box, right
LETTERS = [
    *[
        ("C", box, True)
        for box in ("C", "c", "(C)", "{C}", "C.", "C. 120", "C: 120°", "C:120^\\circ", r"\text{C}")
    ],
    *[
        ("C", box, True)
        for box in (
            r"\text{(C)}",
            "C) 120",
            "(C) 120°",
            "The answer is C",
            r"\text{The answer is C}",
        )
    ],
    *[
        ("C", box, True)
        for box in ("option C", "Choice (C)", "C 120°", r"\mathbf{C}", "**C**", "$C$", "[C]")
    ],
    *[
        ("C", box, True)
        for box in ("120", "120°", "120^\\circ", r"\angle CED = 120^\circ", "120.0", "240/2")
    ],
    *[
        ("C", box, False)
        for box in ("A", "B", "(D)", "B: 120°", "D. 120", "60°", "40", "A, C", "A or C", "B and C")
    ],
    *[
        ("C", box, False)
        for box in ("121", "125", "2\\sqrt{3}", "the answer is A", "3.464", "2", "B: 2√3")
    ],
    *[
        ("D", box, True)
        for box in ("D", "2\\sqrt{3}", "2√3", "3.46", "3.464", "\\sqrt{12}", "D. 2\\sqrt{3}")
    ],
    *[("D", box, False) for box in ("3.5", "2", "3", "\\sqrt{3}", "C. 2\\sqrt{3}")],
    *[
        (gold, "C", True)
        for gold in ("(C)", "C.", "c", "C: 120°", "C\nD", " C ", "\\text{C}", "120°")
    ],
    *[
        (gold, "B", False)
        for gold in ("(C)", "C.", "c", "C: 120°", "C\nD", " C ", "\\text{C}", "120°")
    ],
    *[("C\nD", box, True) for box in ("D", "C, D", "C and D", "120°")],
    *[("C", box, True) for box in LETTER_AND_VALUE],
    *[("B", box, False) for box in LETTER_AND_VALUE],
    *[
        ("C", box, True)
        for box in (
            "Option B is not correct, the answer is C",
            "The answer is C, not B",
            "C: 60",
            "(C) 60",
        )
    ],
    *[("C", box, True) for box in (r"\{C\}", "Option B is wrong, so choose option C")],
    *[
        ("C", box, False)
        for box in ("option C or D", "The answer is C and D", "C. 120, D. 60", "The answer is C/D")
    ],
    *[
        ("A", box, False)
        for box in ("C, 60", "C = 60", "60 (C)", "C 60", "C, 61", "61, C", "C - 61")
    ],
    *[(gold, "C", True) for gold in ("C, 120°", "120° (C)", "C = 120", "\\text{C}\\ 120^\\circ")],
]


def case(
    answer: str, gold: str, question_type: str = "free-form", question: str = QUESTION
) -> Case:
    return Case(
        f"some \\boxed{{1}} work</think> So it is \\boxed{{{answer}}}.",
        gold,
        question,
        question_type,
    )


def verdict(
    answer: str, gold: str, question_type: str = "free-form", question: str = QUESTION
) -> bool | None:
    result = grade_by_rule(case(answer, gold, question_type, question))
    return None if isinstance(result, Undecided) else result.correct


fuzz = settings(deadline=None, max_examples=60)


FLOODS = {
    "parentheses": "(" * 390,
    "brackets": "(1," * 120 + "1" + ")" * 120,
    "bars": "|x" * 190,
    "labels": "A:" * 190 + "5",
    "names": "Area = " * 50 + "5",
    "words": "a" * 399,
    "spaced": "a " * 190 + "= 5",
    "commas": "x=1," * 90,
    "unions": "(1,2)\\cup" * 40 + "(1,2)",
    "relations": "x<" * 190 + "x",
    "powers": "x^" * 190 + "x",
    "towers": "x^{9^{9^{9^{9}}}}",
    "functions": "\\sin " * 70 + "x",
    "boxes": "\\boxed{" * 10_000,
    "closed on no line": "</think>" + "boxed{" * 15_000,
    "digits": "9" * 100_000,
    "numbers": "1 " * 50_000,
}  # fmt: skip
