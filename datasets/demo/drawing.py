"""Draws a garment of the demo data as a shop would show it: no wearer, soft light, a calm wall.

Flat shapes are drawn three times too large and reduced (smooth edges); light, folds and shadows
are computed at the final size. Shapes are given in units of a 120 × 160 picture, x to the right
and y down from its centre; `Stage.place` puts them where the nuisance wants them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from .subjects import Garment

Colour = tuple[int, int, int]
Points = NDArray[np.float64]
Point = Sequence[float] | Points
Shape = Sequence[Sequence[float]]

PICTURE_SIZE = (120, 160)
_OVERSAMPLING = 3
PALETTE: dict[str, Colour] = {
    "black": (52, 51, 58), "white": (243, 240, 233), "red": (196, 44, 52), "pink": (240, 150, 178),
    "orange": (234, 124, 44), "yellow": (243, 203, 74), "green": (58, 138, 86), "blue": (52, 98, 178),
    "purple": (126, 78, 160), "brown": (124, 82, 56),
}  # fmt: skip
_WALLS: tuple[Colour, ...] = (
    (222, 216, 208), (212, 219, 226), (228, 214, 210), (214, 222, 212), (224, 220, 228), (230, 224, 208),
)  # fmt: skip
_STEPS = np.linspace(0, 1, 9)[1:]
_BEZIER = np.stack([(1 - _STEPS) ** 2, 2 * _STEPS * (1 - _STEPS), _STEPS**2], axis=1)


@dataclass(frozen=True)
class Nuisance:
    """All that varies between pictures of one garment. Angles in radians, shifts in units."""

    scale: float
    rotation: float
    shift: tuple[float, float]
    sway: float
    arms: float
    wall: int
    horizon: float
    light: float
    side: float
    folds: int


def draw_nuisance(rng: np.random.Generator) -> Nuisance:
    return Nuisance(
        scale=float(rng.uniform(0.92, 1.04)),
        rotation=float(rng.normal(0.0, 0.035)),
        shift=(float(rng.uniform(-3, 3)), float(rng.uniform(-3, 3))),
        sway=float(rng.uniform(-5, 5)),
        arms=float(rng.uniform(0.1, 0.2)),
        wall=int(rng.integers(len(_WALLS))),
        horizon=float(rng.uniform(0.72, 0.84)),
        light=float(rng.uniform(0.93, 1.05)),
        side=float(rng.choice((-1.0, 1.0))),
        folds=int(rng.integers(2**31)),
    )


class Layer:
    """An image and the pen that draws on it."""

    def __init__(self, mode: str, size: tuple[int, int], fill: Colour | int = 0) -> None:
        self.image = Image.new(mode, size, fill)
        self.pen = ImageDraw.Draw(self.image)


class Stage:
    """The layers of one picture while it is drawn.

    ``cloth`` holds colours; ``body`` and ``limbs`` together are the silhouette, apart because
    sleeves catch light of their own; ``relief`` marks what stands out, ``folds`` is grey at rest.
    ``drop`` and ``fit`` place and size the garment in its picture.
    """

    def __init__(
        self, nuisance: Nuisance, size: tuple[int, int], base: Colour, drop: float, fit: float
    ) -> None:
        self.nuisance, self.size, self.base, self.drop, self.fit = nuisance, size, base, drop, fit
        large = (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING)
        self.cloth = Layer("RGB", large, base)
        self.body, self.limbs = Layer("L", large), Layer("L", large)
        self.relief, self.folds = Layer("L", size), Layer("L", size, 128)

    def place(self, shape: Shape | Points, oversampling: int = _OVERSAMPLING) -> list[float]:
        """Units to pixels: sway, scale, rotation, shift; as x, y, x, y, ..."""
        n = self.nuisance
        points = np.asarray(shape, dtype=np.float64)
        x, y = points[:, 0], points[:, 1] * self.fit + self.drop
        depth = np.maximum(y + 60, 0) / 120
        x = (x * self.fit + n.sway * depth * depth) * n.scale
        y = y * n.scale
        unit = self.size[0] / PICTURE_SIZE[0] * oversampling
        cos, sin = math.cos(n.rotation) * unit, math.sin(n.rotation) * unit
        placed = np.empty((len(points), 2))
        placed[:, 0] = x * cos - y * sin + (n.shift[0] * unit + self.size[0] * oversampling / 2)
        placed[:, 1] = x * sin + y * cos + (n.shift[1] * unit + self.size[1] * oversampling / 2)
        flat: list[float] = placed.ravel().tolist()
        return flat

    def print_all(self, shapes: Points, colour: Colour) -> None:
        """Fill many shapes of equally many corners, (shapes, corners, 2), without relief."""
        flat = self.place(shapes.reshape(-1, 2))
        step = 2 * shapes.shape[1]
        for start in range(0, len(flat), step):
            self.cloth.pen.polygon(flat[start : start + step], fill=colour)

    def paint(self, shape: Shape | Points, colour: Colour, raised: bool = False) -> None:
        """Fill a shape on the cloth; a raised one catches the light at its edges."""
        placed = self.place(shape)
        self.cloth.pen.polygon(placed, fill=colour)
        if raised:
            self.relief.pen.polygon([value / _OVERSAMPLING for value in placed], fill=255)

    def seam(self, shape: Shape | Points, colour: Colour, width: float = 0.9) -> None:
        pixels = max(1, round(width * _OVERSAMPLING * self.size[0] / PICTURE_SIZE[0]))
        self.cloth.pen.line(self.place(shape), fill=colour, width=pixels)

    def dot(self, x: float, y: float, radius: float, colour: Colour, raised: bool = False) -> None:
        self.paint(ellipse(x, y, radius, radius), colour, raised)

    def cut(self, layer: Layer, shape: Shape | Points) -> None:
        """Add a shape to a layer of the silhouette (the body or the limbs)."""
        layer.pen.polygon(self.place(shape), fill=255)

    def fold(self, start: tuple[float, float], bend: tuple[float, float], end: tuple[float, float],
             depth: float, width: int = 3) -> None:  # fmt: skip
        """A valley (negative depth) or ridge along a curve; its counterpart lies beside it."""
        line = curve(start, (bend, end))
        pen = self.folds.pen
        pen.line(self.place(line, 1), fill=int(128 + depth), width=width)
        pen.line(self.place(line + (width * 0.9, 0.0), 1), fill=int(128 - 0.7 * depth), width=width)


def curve(start: Point, *segments: tuple[Point, ...]) -> Points:
    """A path of straight (end,) and quadratic Bézier (control, end) segments, sampled; (n, 2)."""
    points = [np.asarray([start], dtype=np.float64)]
    for segment in segments:
        end = np.asarray(segment[-1], dtype=np.float64)
        if len(segment) == 1:
            points.append(end[None])
            continue
        points.append(_BEZIER @ np.stack([points[-1][-1], np.asarray(segment[0]), end]))
    return np.concatenate(points)


def mirrored(half: Points) -> Points:
    """The whole outline from its right half, given from the top middle to the bottom middle."""
    return np.concatenate([half, half[::-1] * (-1.0, 1.0)])


def ellipse(x: float, y: float, width: float, height: float, corners: int = 16) -> Points:
    angles = np.arange(corners) * (2 * math.pi / corners)
    return np.stack([x + width * np.cos(angles), y + height * np.sin(angles)], axis=1)


def shaded(colour: Colour, factor: float) -> Colour:
    """Darker below 1; above 1, nearer to white."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)  # type: ignore[return-value]
    return tuple(int(c + (255 - c) * (factor - 1)) for c in colour)  # type: ignore[return-value]


def draw(garment: Garment, nuisance: Nuisance, size: tuple[int, int] = PICTURE_SIZE) -> Image.Image:
    """One RGB picture of a garment; the same arguments give the same pixels."""
    from .tailoring import TAILORS, fit_of

    stage = Stage(nuisance, size, PALETTE[garment.colour], *fit_of(garment))
    second = PALETTE[garment.second or garment.colour]
    weave(stage, garment.pattern, second)
    TAILORS[garment.kind](stage, garment, second)
    return light_up(stage)


def weave(stage: Stage, pattern: str, second: Colour) -> None:
    """Cover the cloth with the pattern."""
    if pattern == "striped":
        stage.print_all(_stripes(), second)
    elif pattern == "dotted":
        stage.print_all(_dots(), second)
    elif pattern == "checked":
        mixed: Colour = tuple((a + b) // 2 for a, b in zip(stage.base, second, strict=True))  # type: ignore[assignment]
        rows, columns, crossings = _checks()
        stage.print_all(rows, mixed)
        stage.print_all(columns, mixed)
        stage.print_all(crossings, second)


@cache
def _stripes() -> Points:
    x = np.linspace(-60, 60, 9)
    upper = np.stack([x, 2 * np.sin(x / 20)], axis=1)
    stripe = np.concatenate([upper, upper[::-1] + (0, 6)])
    return np.stack([stripe + (0, y) for y in range(-78, 84, 13)])


@cache
def _dots() -> Points:
    centres = [(x + 7 * (row % 2), y) for row, y in enumerate(range(-78, 84, 12)) for x in range(-63, 64, 14)]
    return np.stack([ellipse(x, y, 3.7, 3.7, 10) for x, y in centres])


@cache
def _checks() -> tuple[Points, Points, Points]:
    """Rows, columns and the squares where they cross."""
    xs, ys = range(-62, 63, 18), range(-81, 82, 18)
    return (
        np.stack([_box(-66, y, 132, 9) for y in ys]),
        np.stack([_box(x, -90, 9, 180) for x in xs]),
        np.stack([_box(x, y, 9, 9) for x in xs for y in ys]),
    )


def _box(x: float, y: float, width: float, height: float) -> Points:
    return np.asarray([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], dtype=np.float64)


def light_up(stage: Stage) -> Image.Image:
    """Put cloth, light, folds, shadow and wall together."""
    n = stage.nuisance
    cloth = np.asarray(stage.cloth.image.reduce(_OVERSAMPLING), dtype=np.float32)
    body, limbs = stage.body.image.reduce(_OVERSAMPLING), stage.limbs.image.reduce(_OVERSAMPLING)
    body_mask, limb_mask = _floats(body), _floats(limbs)
    covered = np.maximum(body_mask, limb_mask)
    soft_body = _soft(body, 6.0)
    shade = (0.36 * _bevel(soft_body, 5, n.side) + 0.12 * (soft_body - 0.8)) * body_mask
    if limbs.getbbox():
        shade += 0.42 * _bevel(_soft(limbs, 3.5), 3, n.side) * (limb_mask * (1 - body_mask))
    shade += 0.2 * _bevel(_floats(stage.relief.image.filter(ImageFilter.GaussianBlur(0.8))), 1, n.side)
    shade += 0.95 * (_floats(stage.folds.image.filter(ImageFilter.GaussianBlur(1.7))) - 128 / 255)
    # Dark cloth hardly shows a factor: its highlights are added as well.
    cloth *= (n.light * (1 + shade))[..., None]
    cloth += 46 * np.maximum(shade, 0)[..., None]
    picture = _wall(stage, covered)
    picture += (cloth - picture) * covered[..., None]
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def _soft(layer: Image.Image, radius: float) -> NDArray[np.float32]:
    """A layer of 0…1, widely blurred (at half the size: the eye cannot tell)."""
    small = layer.reduce(2).filter(ImageFilter.GaussianBlur(radius / 2))
    return _floats(small.resize(layer.size, Image.Resampling.BILINEAR))


def _bevel(soft: NDArray[np.float32], reach: int, side: float) -> NDArray[np.float32]:
    """Bright where a layer's edge faces the lamp (above, to one side), dark where it turns away."""
    difference: NDArray[np.float32] = soft - _shifted(soft, reach, round(side * reach))
    return difference


def _wall(stage: Stage, covered: NDArray[np.float32]) -> NDArray[np.float32]:
    """A wall lit from one side, a floor, and the garment's soft shadow on them; (H, W, 3)."""
    width, height = stage.size
    n = stage.nuisance
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    floor = 0.07 / (1 + np.exp((n.horizon - y) * 60))
    glow = (1.06 - 0.1 * y - floor) - (0.04 * n.side * x + 0.05 * x**2)
    shadow = _soft(Image.fromarray((covered * 255).astype(np.uint8)), 5.0)
    glow *= n.light * (1 - 0.34 * _shifted(shadow, 4, round(4 * n.side)))
    lit: NDArray[np.float32] = glow[..., None] * np.asarray(_WALLS[n.wall], dtype=np.float32)
    return lit


def _shifted(layer: NDArray[np.float32], down: int, right: int) -> NDArray[np.float32]:
    """The layer moved, zeros where nothing moved in."""
    moved = np.roll(layer, (down, right), (0, 1))
    moved[:down] = 0
    moved[:, slice(0, right) if right > 0 else slice(right, None)] = 0
    return moved


def _floats(layer: Image.Image) -> NDArray[np.float32]:
    return np.asarray(layer, dtype=np.float32) * np.float32(1 / 255)
