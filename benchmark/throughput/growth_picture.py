"""A picture of growth: time and memory of every part over its size, on logarithmic axes.

A dashed line through the first point shows what linear growth would be. All lengths are pixels of
the finished PNG; it is drawn twice as large and reduced, for smooth lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmark.files import atomic_path
from benchmark.throughput.growth import Grown

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Point = tuple[float, float]

_FINER = 2
_PANEL_WIDTH, _PANEL_HEIGHT = 300, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 46, 40
_HEADER, _MARGIN = 64, 20
_LINE = 14

_PAPER: Colour = (255, 255, 255)
_INK: Colour = (28, 32, 38)
_SOFT: Colour = (108, 116, 128)
_RULE: Colour = (226, 229, 234)
_BLUE: Colour = (36, 98, 178)
_ORANGE: Colour = (204, 108, 28)


@dataclass(frozen=True)
class _Panel:
    """One curve: its title, colour, points (size, value) and how values are written."""

    title: str
    colour: Colour
    points: tuple[Point, ...]
    written: Callable[[float], str]


def draw_growth(path: Path, grown: Sequence[Grown], title: str) -> None:
    """Write the PNG: a column for each part, time above and memory below."""
    columns = [_panels(part) for part in grown]
    size = (2 * _MARGIN + _PANEL_WIDTH * len(columns), _HEADER + 2 * _PANEL_HEIGHT + _MARGIN)
    canvas = Image.new("RGB", (size[0] * _FINER, size[1] * _FINER), _PAPER)
    draw = ImageDraw.Draw(canvas)
    fitting = next((s for s in (20, 17, 14) if _font(s).getlength(title) <= (size[0] - 2 * _MARGIN) * _FINER), 11)
    draw.text(_scaled(_MARGIN, 14), title, font=_font(fitting), fill=_INK)
    draw.text(_scaled(_MARGIN, 42), "dashed: linear", font=_font(13), fill=_SOFT)
    for column, panels in enumerate(columns):
        for row, panel in enumerate(panels):
            _draw_panel(draw, panel, _MARGIN + column * _PANEL_WIDTH, _HEADER + row * _PANEL_HEIGHT)
    with atomic_path(path) as temporary:
        canvas.resize(size, Image.Resampling.LANCZOS).save(temporary, optimize=True)


def _panels(grown: Grown) -> tuple[_Panel, _Panel]:
    time, memory = grown.exponents
    seconds = tuple(zip(map(float, grown.sizes), grown.seconds, strict=True))
    megabytes = tuple((float(n), held / 1e6) for n, held in zip(grown.sizes, grown.bytes, strict=True))
    return (
        _Panel(f"{grown.part.name}: {_told(time)}", _BLUE, seconds, lambda value: f"{value:.3g} s"),
        _Panel(f"memory: {_told(memory)}", _ORANGE, megabytes, lambda value: f"{value:.3g} MB"),
    )


def _told(exponent: float | None) -> str:
    return "too little to fit" if exponent is None else f"n^{exponent:.2f}"


def _draw_panel(draw: ImageDraw.ImageDraw, panel: _Panel, left: float, top: float) -> None:
    points = [(size, value) for size, value in panel.points if value > 0]
    draw.text(_scaled(left + _LEFT, top + 22), panel.title, font=_font(15), fill=_INK, anchor="lm")
    box = (left + _LEFT, top + _TOP, left + _PANEL_WIDTH - _RIGHT, top + _PANEL_HEIGHT - _BOTTOM)
    draw.rectangle((*_scaled(box[0], box[1]), *_scaled(box[2], box[3])), outline=_RULE, width=_FINER)
    if not points:
        return
    place = _placing(points, box)
    for size, value in points:
        x, y = place((size, value))
        draw.line((*_scaled(x, box[3]), *_scaled(x, box[3] + 4)), fill=_SOFT, width=_FINER)
        draw.text(_scaled(x, box[3] + 14), _short(size), font=_font(12), fill=_SOFT, anchor="mm")
    heights = {place(point)[1]: point[1] for point in (points[0], points[-1])}
    if max(heights) - min(heights) < _LINE:
        heights = dict(list(heights.items())[:1])
    for y, value in heights.items():
        draw.text(_scaled(box[0] - 6, y), panel.written(value), font=_font(12), fill=_SOFT, anchor="rm")
    first, last = points[0], points[-1]
    _dashed(draw, place(first), place((last[0], first[1] * last[0] / first[0])))
    line = [_scaled(*place(point)) for point in points]
    draw.line(line, fill=panel.colour, width=2 * _FINER, joint="curve")
    for x, y in line:
        draw.ellipse((x - 4 * _FINER, y - 4 * _FINER, x + 4 * _FINER, y + 4 * _FINER), fill=panel.colour)


def _placing(points: Sequence[Point], box: tuple[float, float, float, float]) -> Callable[[Point], Point]:
    """From (size, value) to pixels; the linear line fits into the box as well."""
    sizes = [math.log(size) for size, _ in points]
    growth = math.log(points[-1][0] / points[0][0])
    values = [math.log(value) for _, value in points]
    values.append(values[0] + growth)
    low, high = min(values), max(values)
    left, top, right, bottom = (edge + inset for edge, inset in zip(box, (14, 14, -14, -14), strict=True))

    def place(point: Point) -> Point:
        x = (math.log(point[0]) - sizes[0]) / max(sizes[-1] - sizes[0], 1e-9)
        y = (math.log(point[1]) - low) / max(high - low, 1e-9)
        return left + x * (right - left), bottom - y * (bottom - top)

    return place


def _dashed(draw: ImageDraw.ImageDraw, start: Point, end: Point) -> None:
    length = math.dist(start, end)
    steps = max(int(length / 5), 1)
    for step in range(0, steps, 2):
        part = [_between(start, end, share / steps) for share in (step, min(step + 1, steps))]
        draw.line([_scaled(*point) for point in part], fill=_SOFT, width=_FINER)


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _scaled(x: float, y: float) -> Point:
    return x * _FINER, y * _FINER


def _short(size: float) -> str:
    """ "64", "8k", "1M" """
    for unit, mark in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:.3g}{mark}"
    return f"{size:.0f}"


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size * _FINER)
