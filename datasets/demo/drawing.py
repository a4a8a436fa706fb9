"""Draws a garment or a shoe as a shop would show it: no wearer, soft light, a calm wall.

What it looks like is data: `pictures/KIND.svg` holds every part that its kind can have. Classes such as
`neck-v`, `belt` or `no-platform` say when a part is there, and `cloth`, `second`, `rib`, ... what colours
it. The parts that are there are dressed by a style sheet and rendered flat, on the bare wall. As each
colour stands for one material, pattern, relief, folds, light and shadow are then laid on by material.
"""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from .subjects import Garment, Shoe, facets

Colour = tuple[int, int, int]
Layer = NDArray[np.float32]

PICTURES = Path(__file__).parent / "pictures"
# Blues are multiples of four: sleeves have their cloth's colour but for the last two bits.
PALETTE: dict[str, Colour] = {
    "black": (52, 51, 56), "white": (243, 240, 232), "red": (196, 44, 52), "pink": (240, 150, 176),
    "orange": (234, 124, 44), "yellow": (243, 203, 72), "green": (58, 138, 84), "blue": (52, 98, 176),
    "purple": (126, 78, 160), "brown": (124, 82, 56),
}  # fmt: skip
_SLEEVE_BITS = 3
_WALLS: tuple[Colour, ...] = (
    (222, 216, 208), (212, 219, 226), (228, 214, 210), (214, 222, 212), (224, 220, 228), (230, 224, 208),
)  # fmt: skip
_CREAM: Colour = (240, 228, 200)
# Of materials that lie above the cloth (0.5), and below it.
_HEIGHTS = {
    "second": 0.9, "rib": 0.9, "flap": 0.9, "contrast": 0.9, "sole": 0.9, "gold": 0.9,
    "limb": 0.4, "inside": 0.25, "lining": 0.25,
}  # fmt: skip

ElementTree.register_namespace("", "http://www.w3.org/2000/svg")


@dataclass(frozen=True)
class Nuisance:
    """All that varies between pictures of one subject.

    Angles in radians, shifts in units: a picture is 120 units wide.
    """

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

    @property
    def pose(self) -> NDArray[np.float64]:
        """Where a point of the template comes to lie, in units from the picture's centre; (3, 3)."""
        cos, sin = self.scale * math.cos(self.rotation), self.scale * math.sin(self.rotation)
        lean = self.sway / 100
        x, y = self.shift
        return np.array([[cos, lean * cos - sin, x], [sin, lean * sin + cos, y], [0, 0, 1]])


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


def draw(subject: Garment | Shoe, nuisance: Nuisance) -> Image.Image:
    """One RGB picture of a garment, 120 × 160, or a shoe, 144 × 144; the same arguments give the same pixels."""
    looks = _looks(subject.colour, subject.second or subject.colour, getattr(subject, "sole", "") or "black")
    wall = _WALLS[nuisance.wall]
    flat = _render(_shown(subject), looks.style + _pose_style(nuisance), wall)
    picture = flat.convert("RGB")
    # (H, W), one number a colour.
    materials = np.asarray(flat).view("<u4")[..., 0]
    if subject.pattern != "plain":
        # Sleeves, too; but no edge, where colours mix.
        cloth = (materials | _SLEEVE_BITS << 16) == looks.codes["limb"]
        woven = _weave(subject.pattern, nuisance.pose, picture.size)
        mask = ImageChops.multiply(woven, Image.fromarray(cloth.view(np.uint8) * np.uint8(255)))
        picture.paste(PALETTE[subject.second], mask=mask)
    outside = materials == _code(wall)
    light = _light(outside, _heights(materials[::2, ::2], looks, isinstance(subject, Shoe), nuisance), nuisance)
    grey = Image.fromarray(light).resize(picture.size, Image.Resampling.BILINEAR)
    return ImageChops.hard_light(picture, Image.merge("RGB", (grey, grey, grey)))


def _render(svg: str, style: str = "", background: Colour = (0, 0, 0)) -> Image.Image:
    png = resvg_py.svg_to_bytes(
        svg_string=svg, style_sheet=style, background=_hex(background), skip_system_fonts=True
    )
    return Image.open(io.BytesIO(png), formats=("PNG",))


@cache
def _template(kind: str) -> tuple[str, tuple[str, ...]]:
    """A kind's SVG text, and the classes in it that say when a part is there."""
    text = (PICTURES / f"{kind}.svg").read_text(encoding="utf-8")
    named = {name for found in re.findall(r'class="([^"]+)"', text) for name in found.split()}
    # Sole and second colour are materials: they are coloured, never hidden.
    conditions = {*facets(Garment), *facets(Shoe), "no"} - {"sole", "second"}
    return text, tuple(sorted(name for name in named if name.partition("-")[0] in conditions))


def _shown(subject: Garment | Shoe) -> str:
    """The SVG of a subject: its kind's, without the parts that it lacks."""

    def lacks(part: str) -> bool:
        facet, _, value = part.partition("-")
        if facet == "no":
            return bool(getattr(subject, value))
        return bool(getattr(subject, facet) != value if value else not getattr(subject, facet))

    return _without(subject.kind, frozenset(part for part in _template(subject.kind)[1] if lacks(part)))


@lru_cache(maxsize=4096)
def _without(kind: str, hidden: frozenset[str]) -> str:
    root = ElementTree.fromstring(_template(kind)[0])
    for parent in list(root.iter()):
        for child in list(parent):
            if hidden.isdisjoint(child.get("class", "").split()):
                # A browser that is shown the template sees one part of each choice.
                child.attrib.pop("display", None)
            else:
                parent.remove(child)
    return ElementTree.tostring(root, encoding="unicode")


@dataclass(frozen=True)
class _Looks:
    """The colours of a subject's materials: what fills them, what outlines them."""

    fills: dict[str, Colour]
    strokes: dict[str, Colour]

    @cached_property
    def style(self) -> str:
        fills = [f".{name}{{fill:{_hex(colour)}}}" for name, colour in self.fills.items()]
        return " ".join(fills + [f".{name}{{stroke:{_hex(colour)}}}" for name, colour in self.strokes.items()])

    @cached_property
    def codes(self) -> dict[str, int]:
        return {name: _code(colour) for name, colour in self.fills.items()}


@lru_cache(maxsize=4096)
def _looks(colour: str, second_colour: str, sole_colour: str) -> _Looks:
    base, second, sole = PALETTE[colour], PALETTE[second_colour], PALETTE[sole_colour]
    red, green, blue = base
    is_dark = sum(base) < 330
    fills = {
        "cloth": base, "limb": (red, green, blue | _SLEEVE_BITS), "rib": shaded(base, 0.82), "flap": shaded(base, 1.17),
        "inside": shaded(base, 0.45), "dark": shaded(base, 0.4), "second": second, "far": shaded(second, 0.65),
        "sole": sole, "contrast": _CREAM if is_dark else (64, 46, 40), "gold": (222, 176, 82), "lining": (141, 122, 99),
        "shirt": (226, 222, 216) if red < 225 else (120, 124, 132),
        "underside": (188, 40, 48) if sum(base) < 240 else shaded(base, 0.45),
    }  # fmt: skip
    strokes = {
        "rib": shaded(base, 0.62), "flap": shaded(base, 0.7), "line": shaded(base, 0.7), "trim": shaded(base, 0.8),
        "second": shaded(second, 0.6), "second-line": shaded(second, 0.6), "lace": second,
        "sole-line": shaded(sole, 0.6) if sum(sole) > 300 else (214, 212, 208),
    }  # fmt: skip
    return _Looks(fills, strokes)


def _pose_style(nuisance: Nuisance) -> str:
    (a, c, e), (b, d, f), _ = nuisance.pose.tolist()
    # The templates' arms hang at 0.15 radians.
    arms = math.degrees(0.15 - nuisance.arms)
    matrix = f"matrix({a:.5f} {b:.5f} {c:.5f} {d:.5f} {e:.3f} {f:.3f})"
    return f" .subject{{transform:{matrix}}} .arm{{transform:rotate({arms:.3f})}}"


@cache
def _pattern(name: str) -> Image.Image:
    return _render((PICTURES / f"{name}.svg").read_text(encoding="utf-8")).convert("L")


def _weave(name: str, pose: NDArray[np.float64], size: tuple[int, int]) -> Image.Image:
    """How much of the second colour a pattern shows at each pixel of a picture in this pose."""
    tile, unit = _pattern(name), size[0] / 120
    to_pixels = np.array([[unit, 0, size[0] / 2], [0, unit, size[1] / 2], [0, 0, 1]])
    to_tile = np.array([[2, 0, tile.width / 2], [0, 2, tile.height / 2], [0, 0, 1]])
    back = (to_tile @ np.linalg.inv(to_pixels @ pose)).ravel()[:6].tolist()
    return tile.transform(size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)


def _heights(materials: NDArray[np.uint32], looks: _Looks, is_stiff: bool, nuisance: Nuisance) -> Layer:
    """How far each point stands out, 0…1, folds included; (H, W) like ``materials``."""
    heights = np.full(materials.shape, 0.5, dtype=np.float32)
    for name, height in _HEIGHTS.items():
        heights[materials == looks.codes[name]] = height
    # Folds run downwards: noise that is finer across than along.
    noise = np.random.default_rng(nuisance.folds).normal(0, 0.15 if is_stiff else 0.3, (4, 17))
    folds = Image.fromarray(noise.astype(np.float32)).resize(materials.shape[::-1], Image.Resampling.BICUBIC)
    heights += np.asarray(folds)
    return heights


def _light(outside: NDArray[np.bool_], heights: Layer, nuisance: Nuisance) -> NDArray[np.uint8]:
    """Light and shadow of a lamp above to one side, at half the picture's size; 128 leaves a pixel as it is."""
    whole = Image.fromarray(~outside * np.uint8(255)).reduce(2)
    # Light must not spill over an edge on to the wall: what is covered only in part counts as wall.
    inside = np.maximum(2 * _floats(whole) - 1, 0)
    soft = _floats(whole.filter(ImageFilter.GaussianBlur(3)))
    grey = np.clip(heights * 255, 0, 255).astype(np.uint8)
    near = _floats(Image.fromarray(grey).filter(ImageFilter.GaussianBlur(0.8)))
    side = round(nuisance.side)
    shadow = _shifted(soft, 2, 2 * side)
    relief = 0.36 * (soft - shadow) + 0.12 * (soft - 0.8) + 0.85 * (near - _shifted(near, 1, side))
    y, x, glow = _wall_light(whole.size)
    floor = 0.07 / (1 + np.exp((nuisance.horizon - y) * 60))
    wall = glow - floor - 0.04 * side * x - 0.34 * shadow
    shade = nuisance.light * (1 + wall + (relief - wall) * inside)
    lit: NDArray[np.uint8] = np.clip(128 * shade, 0, 255).astype(np.uint8)
    return lit


@cache
def _wall_light(size: tuple[int, int]) -> tuple[Layer, Layer, Layer]:
    """The heights on a wall, its breadths, and the light on it without lamp, floor and shadow."""
    y = np.linspace(0, 1, size[1], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[0], dtype=np.float32)[None]
    return y, x, 0.06 - 0.1 * y - 0.05 * x**2


def _shifted(layer: Layer, down: int, right: int) -> Layer:
    """The layer moved, zeros where nothing moved in."""
    moved = np.zeros_like(layer)
    if right > 0:
        moved[down:, right:] = layer[:-down, :-right]
    else:
        moved[down:, :right] = layer[:-down, -right:]
    return moved


def _floats(layer: Image.Image) -> Layer:
    return np.asarray(layer, dtype=np.float32) * np.float32(1 / 255)


def shaded(colour: Colour, factor: float) -> Colour:
    """Darker below 1; above 1, nearer to white."""
    white = max(factor - 1, 0)
    red, green, blue = (int(min(factor, 1) * value + white * (255 - value)) for value in colour)
    return red, green, blue


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _code(colour: Colour) -> int:
    """A colour as an opaque pixel of four bytes reads."""
    return int.from_bytes((*colour, 255), "little")
