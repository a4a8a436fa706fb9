"""Charts as SVG text: lines with bands, grouped bars, points. Colours are classes, which the page's style sheet gives.

All text passes through an escape; a number becomes text here alone. Lengths are units of the view box, 560 wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 46
COLOURS = 8
"""How many the style sheet has; the ninth series has the first one's again, dashed."""

Place = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A named line, set of points or of bars. ``colour``: its number on the whole page. ``band``: low and high by x."""

    label: str
    colour: int
    points: tuple[Place, ...]
    band: tuple[Place, ...] = ()

    @property
    def classes(self) -> str:
        return f"s{self.colour % COLOURS}" + (" dashed" if self.colour >= COLOURS else "")


@dataclass(frozen=True)
class _Frame:
    """Where a value lies: x and y of the view box, and the ticks of both axes."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]


def line_chart(series: Sequence[Series], x_name: str, y_name: str, *, log_x: bool = False) -> Markup:
    """Lines, each with its band behind it."""
    frame = _frame(series, log_x)
    parts = [_axes(frame, x_name, y_name)]
    for each in series:
        if each.band:
            xs = [frame.x(x) for x, _ in each.points]
            upper = [f"{x:.1f},{frame.y(high):.1f}" for x, (_, high) in zip(xs, each.band, strict=True)]
            lower = [f"{x:.1f},{frame.y(low):.1f}" for x, (low, _) in zip(xs, each.band, strict=True)]
            parts.append(f'<polygon class="band {each.classes}" points="{" ".join([*upper, *reversed(lower)])}"/>')
    for each in series:
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in each.points)
        parts.append(f'<polyline class="line {each.classes}" points="{path}"/>')
        parts += [_dot(frame, each, x, y, x_name, y_name, 2.4) for x, y in each.points]
    return _svg(parts, f"{y_name} by {x_name}")


def point_chart(series: Sequence[Series], x_name: str, y_name: str) -> Markup:
    """Points on a logarithmic x axis, named by their labels."""
    frame = _frame(series, log_x=True)
    parts = [_axes(frame, x_name, y_name)]
    parts += [_dot(frame, each, x, y, x_name, y_name, 6) for each in series for x, y in each.points]
    return _svg(parts, f"{y_name} by {x_name}")


def bar_chart(series: Sequence[Series], names: Sequence[str], x_name: str, y_name: str) -> Markup:
    """Groups of bars, one group for each name; a series' points are (number of the name, height)."""
    top = max([y for each in series for _, y in each.points], default=1.0) or 1.0
    ticks = _round_ticks(0.0, top)
    y = _scale(0.0, max(ticks[-1], top), _HEIGHT - _BOTTOM, _TOP)
    room = (_WIDTH - _LEFT - _RIGHT) / max(len(names), 1)
    wide = 0.8 * room / max(len(series), 1)
    parts = [_grid(y, ticks)]
    for nth, name in enumerate(names):
        middle = _LEFT + (nth + 0.5) * room
        parts.append(_text("tick", name, middle, _HEIGHT - _BOTTOM + 16))
    for place, each in enumerate(series):
        for number, height in each.points:
            x = _LEFT + (number + 0.1) * room + place * wide
            told = f"{each.label}: {names[int(number)]}, {height:.1f}"
            parts.append(
                f'<rect class="bar {each.classes}" x="{x:.1f}" y="{y(height):.1f}" width="{max(wide - 1, 0.5):.1f}" '
                f'height="{max(y(0) - y(height), 0):.1f}"><title>{escape(told)}</title></rect>'
            )
    parts.append(_names(x_name, y_name))
    return _svg(parts, f"{y_name} by {x_name}")


def _svg(parts: Sequence[str], label: str) -> Markup:
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(parts) + "</svg>")


def _frame(series: Sequence[Series], log_x: bool) -> _Frame:
    xs = [x for each in series for x, _ in each.points]
    ys = [y for each in series for _, y in each.points]
    ys += [end for each in series for pair in each.band for end in pair]
    low_y, high_y = _room(ys)
    y_ticks = _round_ticks(low_y, high_y)
    y = _scale(min(y_ticks[0], low_y), max(y_ticks[-1], high_y), _HEIGHT - _BOTTOM, _TOP)
    if not log_x:
        low_x, high_x = _room(xs)
        x_ticks = tuple(tick for tick in _round_ticks(low_x, high_x) if low_x <= tick <= high_x)
        return _Frame(_scale(low_x, high_x, _LEFT, _WIDTH - _RIGHT), y, x_ticks, y_ticks)
    low, high = math.log10(min(xs, default=1)), math.log10(max(xs, default=10))
    if high - low < 0.3:
        low, high = low - 0.3, high + 0.3
    inner = _scale(low, high, _LEFT + 8, _WIDTH - _RIGHT - 8)
    steps = (1, 2, 5) if high - low < 2 else (1,)
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = tuple(s * 10.0**d for d in decades for s in steps if low - 1e-9 <= math.log10(s * 10.0**d) <= high + 1e-9)
    return _Frame(lambda x: inner(math.log10(x)), y, ticks, y_ticks)


def _room(values: Sequence[float]) -> Place:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _round_ticks(low: float, high: float) -> tuple[float, ...]:
    """About five round numbers around a range."""
    size = 10.0 ** math.floor(math.log10(max(high - low, 1e-9) / 4))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (size * factor) <= 5)
    first = math.floor(low / step + 1e-9)
    count = math.ceil(high / step - 1e-9) - first
    return tuple(round((first + i) * step, 10) for i in range(count + 1))


def _axes(frame: _Frame, x_name: str, y_name: str) -> str:
    ticks = [
        _text("tick", _short(tick), frame.x(tick), _HEIGHT - _BOTTOM + 16)
        for tick in frame.x_ticks
    ]
    return _grid(frame.y, frame.y_ticks) + "".join(ticks) + _names(x_name, y_name)


def _grid(y: Callable[[float], float], ticks: Sequence[float]) -> str:
    lines = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
        for tick in ticks
    ]
    return "".join(lines)


def _text(kind: str, text: str, x: float, y: float) -> str:
    """Centred at x."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>'


def _names(x_name: str, y_name: str) -> str:
    return (
        _text("name", x_name, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8)
        + f'<text class="name" transform="translate(13 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_name)}</text>'
    )


def _dot(frame: _Frame, each: Series, x: float, y: float, x_name: str, y_name: str, radius: float) -> str:
    told = f"{each.label}: {x_name} {_short(x)}, {y_name} {y:.2f}"
    return (
        f'<circle class="dot {each.classes}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="{radius}">'
        f"<title>{escape(told)}</title></circle>"
    )


def _short(value: float) -> str:
    """Such as 0.25, 40, 12k, 3.4M, 2e-05."""
    if value and abs(value) < 0.01:
        return f"{value:.0e}"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:.4g}"
