"""Draws a scene with Pillow: pose, strokes, then labels where there is room for them.

The figure is exactly to scale. Labels are placed greedily, those with the least room first, at the
candidate position with the least ink under it; where a label would touch another label or much of a
stroke, the pose is drawn again, and after some poses the scene is given up (`None`), so that the
caller makes another one. Strokes are antialiased by supersampling; text is set at the final
resolution, where FreeType's own rendering is crisper.
"""

from __future__ import annotations

import cmath
import functools
import importlib.util
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from modgap.core.installation import install
from modgap.datasets.synthetic.scene import SIZE, Mark, Scene

FONT_SIZE = 14
_SUPER = 3
_POSES = 8
_GAP = 24.0  # least distance of two points, in pixels


@dataclass(frozen=True, slots=True)
class Label:
    """A text and its box in pixels (left, top, width, height).

    `kind` is point, length, angle, arc or name.
    """

    text: str
    x: int
    y: int
    w: int
    h: int
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A PNG file, its labels, and where each point or bar's end is in it (pixels, y down)."""

    png: bytes
    labels: list[Label]
    pixels: dict[str, tuple[float, float]]


@functools.cache
def font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib; found without importing it.

    Raises:
        ValueError: Without matplotlib.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ValueError(
            f"the font DejaVuSans.ttf comes with matplotlib, which is not installed: {install()}"
        )
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=4096)
def extent(text: str) -> tuple[int, int, int, int]:
    """The tight box of a text set at (0, 0): left, top, width, height."""
    left, top, right, bottom = font().getbbox(text)
    return math.floor(left), math.floor(top), math.ceil(right - left), math.ceil(bottom - top)


def draw(scene: Scene, rng: Random) -> Drawing | None:
    """Draw in a random pose; `None` if no pose was legible."""
    for _ in range(_POSES):
        canvas = _Canvas(scene, rng)
        if canvas.cramped():
            continue
        if canvas.place():
            return canvas.render()
    return None


class _Canvas:
    """One pose of a scene."""

    def __init__(self, scene: Scene, rng: Random) -> None:
        self.scene = scene
        self.rng = rng
        upright = rng.random() < 0.5
        turn = math.radians(rng.choice((0, 0, 0, 90, 180, 270)) if upright else rng.uniform(0, 360))
        flip = rng.random() < 0.5
        spin = cmath.rect(1, turn)
        posed = {n: (p.conjugate() if flip else p) * spin for n, p in scene.points.items()}
        radii = {c: abs(scene.points[on[0]] - scene.points[c]) for c, on in scene.circles.items()}
        boxes = [(p.real, p.imag, p.real, p.imag) for p in posed.values()]
        boxes += [
            (posed[c].real - r, posed[c].imag - r, posed[c].real + r, posed[c].imag + r)
            for c, r in radii.items()
        ]
        left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
        right, bottom = max(b[2] for b in boxes), max(b[3] for b in boxes)
        kinds = {mark.kind for mark in scene.marks}
        margin = 24 + 12 * ("span" in kinds) + 6 * ("arc" in kinds)
        room = SIZE - 2 * margin
        scale = room / max(right - left, bottom - top, 1e-9) * rng.uniform(0.93, 1.0)
        dx = margin + rng.uniform(0.2, 0.8) * (room - scale * (right - left)) - scale * left
        dy = margin + rng.uniform(0.2, 0.8) * (room - scale * (bottom - top)) - scale * top
        self.at = {n: complex(scale * p.real + dx, scale * p.imag + dy) for n, p in posed.items()}
        self.radii = {c: r * scale for c, r in radii.items()}
        self.middle = sum(self.at.values()) / len(self.at)
        self.strokes: list[tuple] = list(self._strokes())
        self.labels: list[Label] = []

    def cramped(self) -> bool:
        """Whether two things are too close to tell apart.

        These are two points, or a point and a line that does not pass through it.
        """
        points = list(self.at.items())
        for i, (_, p) in enumerate(points):
            if any(abs(p - q) < _GAP for _, q in points[:i]):
                return True
        for names in self.scene.lines:
            a, b = self.at[names[0]], self.at[names[-1]]
            for name, p in points:
                if name not in names and _distance(p, a, b) < 7:
                    return True
        angles = (_opening(self.at, m) for m in self.scene.marks if m.kind in ("angle", "equal"))
        return any(opening < math.radians(20) for opening in angles)

    # --- strokes ----------------------------------------------------------------------------------
    def _strokes(self) -> Iterator[tuple]:
        """Primitives in pixels.

        These are ("line", p, q, width), ("arc", center, radius, start, end, width) and ("dot", p).
        """
        at, scene = self.at, self.scene
        for names in scene.lines:
            yield "line", at[names[0]], at[names[-1]], 1.5
        for center, radius in self.radii.items():
            yield "arc", at[center], radius, 0.0, 360.0, 1.5
        for name in sorted(scene.dots):
            yield "dot", at[name]
        seen: dict[str, int] = {}
        squares = {mark.at[1] for mark in scene.marks if mark.kind == "right"}
        for mark in scene.marks:
            if mark.kind in ("angle", "equal"):
                nth = seen[mark.at[1]] = seen.get(mark.at[1], 0) + 1
                wide = (
                    16.0
                    if mark.at[1] in squares or mark.kind == "equal"
                    else 10.0 + 4.0 * (nth % 2)
                )
                yield from self._angle(mark, wide)
            elif mark.kind == "right":
                a, v, b = (at[name] for name in mark.at)
                u, w = 9 * (a - v) / abs(a - v), 9 * (b - v) / abs(b - v)
                yield "line", v + u, v + u + w, 1.0
                yield "line", v + u + w, v + w, 1.0
            elif mark.kind == "tick":
                a, b = at[mark.at[0]], at[mark.at[1]]
                u = (b - a) / abs(b - a)
                for k in range(mark.count):
                    middle = (a + b) / 2 + u * 4 * (k - (mark.count - 1) / 2)
                    yield "line", middle - 5j * u, middle + 5j * u, 1.2
            elif mark.kind == "arrow":
                yield from self._arrow(mark)
            elif mark.kind == "span":
                a, b, off = self._span(mark)
                yield "line", a + off, b + off, 1.0
                for end in (a, b):
                    yield "line", end + 0.7 * off, end + 1.3 * off, 1.0

    def _angle(self, mark: Mark, radius: float) -> Iterator[tuple]:
        a, v, b = (self.at[name] for name in mark.at)
        start, sweep = _sweep(a - v, b - v)
        radius += 8 * max(0.0, 1 - sweep / 60)
        yield "arc", v, radius, start, start + sweep, 1.0
        for k in range(mark.count if mark.kind == "equal" else 0):
            u = cmath.rect(1, math.radians(start + sweep / 2 + 9 * (k - (mark.count - 1) / 2)))
            yield "line", v + (radius - 3) * u, v + (radius + 3) * u, 1.0

    def _arrow(self, mark: Mark) -> Iterator[tuple]:
        """Chevrons in the longest free stretch of the segment."""
        a, b = self.at[mark.at[0]], self.at[mark.at[1]]
        u = (b - a) / abs(b - a)
        stops = sorted(
            ((p - a) * u.conjugate()).real for p in self.at.values() if _distance(p, a, b) < 1
        )
        gap, left = max((q - p, p) for p, q in pairwise(stops))
        labelled = any(m.kind == "tick" and set(m.at) == set(mark.at) for m in self.scene.marks)
        for k in range(mark.count):
            tip = a + u * (
                left + gap * (0.72 if labelled else 0.5) + 3 + 5 * (k - (mark.count - 1) / 2)
            )
            yield "line", tip, tip - 6 * u + 4.5j * u, 1.2
            yield "line", tip, tip - 6 * u - 4.5j * u, 1.2

    def _span(self, mark: Mark) -> tuple[complex, complex, complex]:
        """The ends of a dimension line and its offset, away from the figure."""
        a, b = self.at[mark.at[0]], self.at[mark.at[1]]
        normal = 1j * (b - a) / abs(b - a)
        side = ((self.middle - a) * normal.conjugate()).real
        far = 24 if abs(side) > 1 else 22
        return a, b, -far * normal if side > 0 else far * normal

    def _paint(self, scale: int) -> Image.Image:
        image = Image.new("L", (SIZE * scale, SIZE * scale), 255)
        pen = ImageDraw.Draw(image)
        for kind, *args in self.strokes:
            if kind == "line":
                p, q, width = args
                ends = (p.real * scale, p.imag * scale, q.real * scale, q.imag * scale)
                pen.line(ends, fill=0, width=max(1, round(width * scale)))
            elif kind == "arc":
                c, r, start, end, width = args
                r = (r + width / 2) * scale
                box = (
                    c.real * scale - r,
                    c.imag * scale - r,
                    c.real * scale + r,
                    c.imag * scale + r,
                )
                pen.arc(box, start, end, fill=0, width=max(1, round(width * scale)))
            else:
                (p,) = args
                r = 2.2 * scale
                pen.ellipse(
                    (
                        p.real * scale - r,
                        p.imag * scale - r,
                        p.real * scale + r,
                        p.imag * scale + r,
                    ),
                    fill=0,
                )
        return image

    # --- labels -----------------------------------------------------------------------------------
    def place(self) -> bool:
        """Find a place for every label; whether all of them are legible."""
        self.ink = np.asarray(self._paint(1)) < 128
        rank = {"angle": 0, "span": 1, "length": 2, "arc": 3, "name": 4}
        marks = [m for m in self.scene.marks if m.kind in rank]
        marks.sort(
            key=lambda m: (
                rank[m.kind],
                _opening(self.at, m) if m.kind == "angle" else -len(m.text),
            )
        )
        for mark in marks:
            place = {"angle": self._in_angle, "arc": self._at_arc, "name": self._at_end}.get(
                mark.kind, self._at_side
            )
            candidates = place(mark)
            if not self._best(
                mark.text, candidates, "length" if mark.kind == "span" else mark.kind
            ):
                return False
        return all(self._best(name, self._at_point(p), "point") for name, p in self.at.items())

    def _best(self, text: str, candidates: Iterator[tuple[complex, float]], kind: str) -> bool:
        """Put the label at the cheapest candidate (centre, cost); whether it was cheap enough."""
        _, _, w, h = extent(text)
        best, best_cost = None, 12.0
        for middle, cost in candidates:
            if cost >= best_cost:
                continue
            x, y = round(middle.real - w / 2), round(middle.imag - h / 2)
            if x < 2 or y < 2 or x + w > SIZE - 2 or y + h > SIZE - 2:
                continue
            if any(
                x < o.x + o.w + 3 and o.x < x + w + 3 and y < o.y + o.h + 3 and o.y < y + h + 3
                for o in self.labels
            ):
                continue
            cost += 4.0 * np.count_nonzero(self.ink[y - 1 : y + h + 1, x - 1 : x + w + 1])
            if cost < best_cost:
                best, best_cost = Label(text, x, y, w, h, kind), cost
        if best is None:
            return False
        self.labels.append(best)
        return True

    def _in_angle(self, mark: Mark) -> Iterator[tuple[complex, float]]:
        """Along the bisector, as near to the vertex as the arms allow."""
        a, v, b = (self.at[name] for name in mark.at)
        others = [
            self.at[m.at[1]]
            for m in self.scene.marks
            if m.kind == "angle" and m.at[1] != mark.at[1]
        ]
        start, sweep = _sweep(a - v, b - v)
        limit = min(64.0, 0.8 * min(abs(a - v), abs(b - v)))
        for step in range(16, int(limit) + 1, 3):
            for lean in (0.0, 0.12, -0.12):
                u = cmath.rect(step, math.radians(start + sweep * (0.5 + lean)))
                if all(step < 0.75 * abs(v + u - other) for other in others):
                    yield v + u, step / 8 + 4 * abs(lean)

    def _at_side(self, mark: Mark) -> Iterator[tuple[complex, float]]:
        """Beside the middle of the segment, rather outside the figure."""
        _, _, w, h = extent(mark.text)
        a, b = self.at[mark.at[0]], self.at[mark.at[1]]
        u = (b - a) / abs(b - a)
        outward = 1j * u if ((self.middle - a) * (1j * u).conjugate()).real < 0 else -1j * u
        if mark.kind == "span":
            _, _, off = self._span(mark)
            a, b = a + off, b + off
        for side in (outward, -outward):
            reach = abs(side.real) * w / 2 + abs(side.imag) * h / 2
            for share in (0.5, 0.43, 0.57, 0.36, 0.64):
                for extra in (4.0, 7.0, 10.0):
                    cost = (side != outward) * 2 + 20 * abs(share - 0.5) + (extra - 4) / 2
                    yield a + share * (b - a) + side * (reach + extra), cost

    def _at_end(self, mark: Mark) -> Iterator[tuple[complex, float]]:
        """Beside a line, near one of its ends."""
        a, b = self.at[mark.at[0]], self.at[mark.at[1]]
        u = (b - a) / abs(b - a)
        for share in (0.9, 0.1, 0.85, 0.15, 0.8, 0.2):
            for side in (1j * u, -1j * u):
                yield a + share * (b - a) + 10 * side, 20 * abs(0.1 - min(share, 1 - share))

    def _at_arc(self, mark: Mark) -> Iterator[tuple[complex, float]]:
        """Outside the circle at the middle of the arc, or inside (count 1)."""
        _, _, w, h = extent(mark.text)
        o, a, b = (self.at[name] for name in mark.at)
        start, sweep = _sweep(a - o, b - o)
        for share in (0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74):
            u = cmath.rect(1, math.radians(start + sweep * share))
            for extra in (0.0, 3.0, 6.0):
                reach = abs(u.real) * w / 2 + abs(u.imag) * h / 2 + extra
                cost = 20 * abs(share - 0.5) + extra / 3
                yield o + u * (abs(a - o) + reach), cost + 20 * mark.count
                yield o + u * (abs(a - o) - reach - 3), cost + 20 * (1 - mark.count)

    def _at_point(self, p: complex) -> Iterator[tuple[complex, float]]:
        """Around the point, rather away from the figure."""
        away = p - self.middle
        away = away / abs(away) if abs(away) > 4 else -1j
        for k in range(16):
            u = cmath.rect(1, math.tau * k / 16)
            lean = 1 - (u * away.conjugate()).real
            for reach in (9.5, 12.0, 14.5):
                yield p + u * reach, 1.5 * lean + (reach - 9.5)

    # --- out --------------------------------------------------------------------------------------
    def render(self) -> Drawing:
        """The finished diagram."""
        image = self._paint(_SUPER).reduce(_SUPER)
        pen = ImageDraw.Draw(image)
        for label in self.labels:
            left, top, _, _ = extent(label.text)
            pen.text((label.x - left, label.y - top), label.text, fill=0, font=font())
            if "√" in label.text:
                start = label.x + extent(label.text[: label.text.index("√") + 1])[2]
                pen.line((start - 1, label.y, label.x + label.w - 1, label.y), fill=0)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=3)
        return Drawing(
            buffer.getvalue(), self.labels, {n: (p.real, p.imag) for n, p in self.at.items()}
        )


def _sweep(u: complex, w: complex) -> tuple[float, float]:
    """Start and size, in degrees of the canvas, of the smaller angle between two directions."""
    start, end = math.degrees(cmath.phase(u)), math.degrees(cmath.phase(w))
    sweep = (end - start) % 360
    return (start, sweep) if sweep <= 180 else (end, 360 - sweep)


def _opening(at: dict[str, complex], mark: Mark) -> float:
    """The size of a marked angle in radians."""
    a, v, b = (at[name] for name in mark.at)
    return abs(cmath.phase((a - v) / (b - v)))


def _distance(p: complex, a: complex, b: complex) -> float:
    """From a point to a segment."""
    t = ((p - a) * (b - a).conjugate()).real / abs(b - a) ** 2
    return abs(p - (a + min(1.0, max(0.0, t)) * (b - a)))
