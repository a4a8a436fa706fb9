"""How each kind of garment is cut: outlines, folds, seams and details, in units of a 120 × 160 picture."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .drawing import Colour, Points, Stage, curve, ellipse, mirrored, shaded
from .subjects import Garment

_FITS = {
    ("dress", "short"): (12.0, 1.05), ("dress", "long"): (0.0, 1.02),
    ("t-shirt", "short"): (14.0, 1.08), ("t-shirt", "long"): (0.0, 1.08),
    ("shirt", ""): (0.0, 1.08), ("jacket", "short"): (13.0, 1.06), ("jacket", "long"): (2.0, 1.02),
    ("skirt", "short"): (10.0, 1.2), ("skirt", "long"): (-7.0, 1.14),
    ("trousers", "short"): (26.0, 1.2), ("trousers", "long"): (-1.0, 1.04),
}  # fmt: skip


def fit_of(garment: Garment) -> tuple[float, float]:
    """How far down a garment hangs, in units, and its size: so that it fills its picture."""
    return _FITS[(garment.kind, garment.length)]


def _dress(stage: Stage, garment: Garment, second: Colour) -> None:
    hem, spread = (58.0, 37.0) if garment.length == "long" else (28.0, 33.0)
    half = curve(
        (0, -52), ((9, -52), (12, -57)), ((25, -53),), ((19, -42), (22, -27)), ((19, -12), (16, -4)),
        ((20, 6), (spread, hem - 3)), ((spread * 0.5, hem + 2), (0, hem + 2)),
    )  # fmt: skip
    _sleeves(stage, garment, (24, -53), (21, -28), 19, cuffed=False)
    stage.cut(stage.body, mirrored(half))
    rng = np.random.default_rng(stage.nuisance.folds)
    for x in (-22, -11, 1, 12, 23):
        end = x * spread / 27 + rng.uniform(-3, 3)
        stage.fold((x * 0.45, 0), (x * 0.6, hem * 0.4), (end, hem), -rng.uniform(26, 46), 4)
    stage.fold((-18, -26), (-8, -18), (-7, -6), -18)
    stage.fold((18, -26), (8, -18), (7, -6), 18)
    stage.seam(curve((-17, -3), ((0, 0), (17, -3))), shaded(stage.base, 0.75))
    _neckline(stage, garment, -57, 12)
    if garment.belt:
        _belt(stage, -3, 17.5)
    if garment.print:
        place = (0.0, -20.5) if garment.place == "top" else (0.0, 19.0 if garment.length == "short" else 30.0)
        _print(stage, garment.print, place, 10.5 if garment.place == "top" else 13, second)


def _tshirt(stage: Stage, garment: Garment, second: Colour) -> None:
    hem = 46.0 if garment.length == "long" else 14.0
    half = curve(
        (0, -39), ((10, -39), (14, -45)), ((24, -43), (32, -38)), ((27, -28), (28, -14)),
        ((26, 6), (28, hem)), ((14, hem + 3), (0, hem + 3)),
    )  # fmt: skip
    _sleeves(stage, garment, (31, -38.5), (27, -13), 25, cuffed=False)
    stage.cut(stage.body, mirrored(half))
    _torso_folds(stage, 26, hem)
    stage.seam(curve((-28, hem - 4), ((0, hem - 1), (28, hem - 4))), shaded(stage.base, 0.8), 0.7)
    _neckline(stage, garment, -45, 14)
    if garment.pocket:
        _pocket(stage, 12, -16, 12, 14, second)
    if garment.print:
        low = garment.place == "bottom"
        x, y = (0.0, -13.0) if not low else (-12.0, hem - 16.0)
        _print(stage, garment.print, (x, y), 10.5 if low else 15.0, second)


def _shirt(stage: Stage, garment: Garment, second: Colour) -> None:
    half = curve(
        (0, -42), ((8, -42), (12, -46)), ((22, -44), (31, -39)), ((26, -28), (27, -14)),
        ((22, 8), (28, 38)), ((24, 42), (16, 46)), ((8, 48), (0, 48)),
    )  # fmt: skip
    _sleeves(stage, garment, (30, -39.5), (26, -13), 23, cuffed=True)
    stage.cut(stage.body, mirrored(half))
    _torso_folds(stage, 24, 44)
    line = shaded(stage.base, 0.7)
    stage.seam([(-3.6, -38), (-3.6, 48)], line, 0.8)
    if garment.buttons:
        placket = [(-4.5, -38), (4.5, -38), (4.5, 48.5), (-4.5, 48.5)]
        stage.paint(placket, shaded(stage.base, 0.8), raised=True)
        _buttons(stage, 0, -24, 42, 5)
    stage.paint(curve((-12, -46), ((0, -50), (12, -46)), ((0, -36), (-12, -46))), shaded(stage.base, 0.5))
    if garment.neck == "collar":
        for side in (-1.0, 1.0):
            flap = np.asarray([(11.5, -48), (15, -42), (11, -27), (0.5, -38)]) * (side, 1.0)
            stage.paint(flap, shaded(stage.base, 1.18), raised=True)
            stage.seam(np.concatenate([flap, flap[:1]]), line, 0.8)
    else:
        _bow(stage, -36, second)
    if garment.pocket:
        for side in (-1, 1):
            _pocket(stage, 15 * side, -14, 11, 13, second)


def _jacket(stage: Stage, garment: Garment, second: Colour) -> None:
    hem = 56.0 if garment.length == "long" else 24.0
    half = curve(
        (0, -48), ((8, -48), (13, -51)), ((24, -50), (33, -44)), ((29, -30), (29, -14)),
        ((24, 0), (31 if hem > 40 else 28, hem)), ((16, hem + 3), (0, hem + 3)),
    )  # fmt: skip
    if garment.neck == "hood":
        hood = curve((0, -62), ((18, -62), (18, -48)), ((16, -42), (10, -40)), ((0, -38),))
        stage.cut(stage.body, mirrored(hood))
    _sleeves(stage, garment, (32, -45), (28, -12), 26, cuffed=False)
    stage.cut(stage.body, mirrored(half))
    _torso_folds(stage, 26, hem)
    line = shaded(stage.base, 0.62)
    opening = curve((-11, -51), ((0, -46), (11, -51)), ((6, -28), (0, -8)), ((-6, -28), (-11, -51)))
    stage.paint(opening, (226, 222, 216) if stage.base[0] < 225 else (120, 124, 132))
    stage.seam([(0, -8), (0, hem + 3)], line, 1.2)
    if garment.neck == "hood":
        stage.paint(curve((-15, -46), ((-15, -59), (0, -59)), ((15, -59), (15, -46)), ((0, -38), (-15, -46))),
                    shaded(stage.base, 0.42))  # fmt: skip
        for side in (-1.0, 1.0):
            edge = curve((17, -50), ((17, -42), (3, -30)), ((12, -46), (14, -52))) * (side, 1.0)
            stage.paint(edge, shaded(stage.base, 1.1), raised=True)
            stage.seam(curve((5, -33), ((6, -24), (5, -14))) * (side, 1.0), (238, 234, 226), 1.3)
    else:
        for side in (-1.0, 1.0):
            lapel = np.asarray([(10, -52), (16, -46), (19, -33), (13, -31), (15, -27), (0.3, -7)])
            lapel = lapel * (side, 1.0)
            stage.paint(lapel, shaded(stage.base, 1.15), raised=True)
            stage.seam(np.concatenate([lapel, lapel[:1]]), line, 0.8)
    if garment.buttons:
        for x in (-6.5, 6.5):
            _buttons(stage, x, 0 if not garment.belt else -4, hem - 8, 4 if hem > 40 else 3)
    if garment.belt:
        _belt(stage, 4, 29)
    if garment.pocket:
        for side in (-1, 1):
            _pocket(stage, 17 * side, 20 if hem > 40 else 11, 13, 14 if hem > 40 else 10, second)


def _skirt(stage: Stage, garment: Garment, second: Colour) -> None:
    hem, spread = (58.0, 39.0) if garment.length == "long" else (22.0, 35.0)
    half = curve(
        (0, -42), ((19, -43),), ((24, -20), (spread, hem - 4)), ((spread * 0.5, hem + 3), (0, hem + 3)),
    )  # fmt: skip
    stage.cut(stage.body, mirrored(half))
    rng = np.random.default_rng(stage.nuisance.folds)
    for x in (-17, -10, -3, 4, 11, 17):
        end = x * spread / 20 + rng.uniform(-2.5, 2.5)
        stage.fold((x, -34), (x * 1.15, hem * 0.3), (end, hem + 2), -rng.uniform(30, 52), 4)
    band = curve((-19.5, -43), ((0, -41), (19.5, -43)), ((20.5, -34),), ((0, -32), (-20.5, -34)))
    stage.paint(band, shaded(stage.base, 0.82), raised=True)
    if garment.buttons:
        stage.paint([(-5, -33), (5, -33), (6, hem + 3), (-6, hem + 3)], shaded(stage.base, 0.8), raised=True)
        _buttons(stage, 0, -26, hem - 5, 4 if hem < 40 else 6)
    if garment.pocket:
        for side in (-1, 1):
            _pocket(stage, 17 * side, -14, 13, 15, second)
    if garment.belt:
        _belt(stage, -39, 20.5)


def _trousers(stage: Stage, garment: Garment, second: Colour) -> None:
    hem = 60.0 if garment.length == "long" else 4.0
    foot = 14.0 if garment.length == "long" else 20.0
    half = curve(
        (0, -56), ((20, -57),), ((27, -40), (28, -20)),
        ((29, 20 if hem > 40 else -8), (18 + foot / 1.6, hem)), ((18, hem + 2), (18 - foot / 1.5, hem)),
        ((6, -4), (1.2, -16)), ((0, -18),),
    )  # fmt: skip
    stage.cut(stage.body, mirrored(half))
    rng = np.random.default_rng(stage.nuisance.folds)
    for side in (-1, 1):
        stage.fold((12 * side, -44), (16 * side, 0), (18 * side, hem - 2), -rng.uniform(24, 40), 3)
        stage.fold((2 * side, -19), (9 * side, -20), (20 * side, -26), -rng.uniform(22, 36), 3)
        stage.fold((6 * side, -10), (10 * side, hem * 0.3), (11 * side, hem * 0.6), -20, 4)
        cuff = np.asarray([(17.5 - foot / 1.5, hem - 5), (18.5 + foot / 1.6, hem - 5)]) * (side, 1.0)
        stage.seam(cuff, shaded(stage.base, 0.75), 0.9)
    line = shaded(stage.base, 0.65)
    stage.paint(curve((-20.5, -57), ((0, -55), (20.5, -57)), ((22, -48),), ((0, -46), (-22, -48))),
                shaded(stage.base, 0.82), raised=True)  # fmt: skip
    stage.seam(curve((0, -47), ((1, -30), (0, -17))), line, 1.0)
    stage.seam(curve((4.5, -47), ((5, -30), (0.5, -24))), line, 0.8)
    if garment.pocket:
        for side in (-1, 1):
            _pocket(stage, 18 * side, -32, 13, 16, second)
    if garment.belt:
        _belt(stage, -52, 21.5)


def _sleeves(stage: Stage, garment: Garment, shoulder: tuple[float, float], pit: tuple[float, float],
             width: float, cuffed: bool) -> None:  # fmt: skip
    """Both sleeves, hanging at the nuisance's angle, and the seams where they are set in."""
    if garment.sleeves in ("", "none"):
        return
    long = garment.sleeves == "long"
    angle = stage.nuisance.arms + (0.0 if long else 0.3)
    reach, cuff = (76.0, width * 0.5) if long else (26.0, width * 0.86)
    along = np.asarray((math.sin(angle), math.cos(angle)))
    across = np.asarray((-math.cos(angle), math.sin(angle)))
    top, low = np.asarray(shoulder), np.asarray(pit)
    outer = top + reach * along + (1.5, 0)
    inner = outer + cuff * across
    bulge = top + 0.38 * reach * along + (5.0 if long else 3.5, 0)
    sleeve = curve(top - (5, 0.5), (top,), (bulge, outer), (outer + along * 1.5, inner),
                   (0.5 * (low + inner) + (0.5, 0), low), (low - (5, 0),))  # fmt: skip
    for side in (-1.0, 1.0):
        flip = np.asarray((side, 1.0))
        stage.cut(stage.limbs, sleeve * flip)
        band = 8.0 if cuffed and long else 3.0
        edge = np.stack([outer - band * along, inner - band * along]) * flip
        if cuffed and long:
            cuff_ends = [outer + along * 2 + (1, 0), inner + along * 2 - (1, 0)]
            cuff_starts = [inner - band * along - (1, 0), outer - band * along + (1, 0)]
            stage.paint(np.stack(cuff_ends + cuff_starts) * flip, shaded(stage.base, 0.84))
        stage.seam(edge, shaded(stage.base, 0.72), 0.8)
        stage.seam(curve(top, (top - (4, -12), low)) * flip, shaded(stage.base, 0.72), 0.9)
        if long:
            elbow = top + 0.52 * reach * along
            start, end = elbow * flip, (elbow + across * cuff * 1.1 + along * 5) * flip
            stage.fold(tuple(start), tuple((start + end) / 2), tuple(end), -24, 2)


def _torso_folds(stage: Stage, width: float, hem: float) -> None:
    rng = np.random.default_rng(stage.nuisance.folds)
    for side in (-1, 1):
        y = rng.uniform(-2, 12)
        stage.fold((width * side, -12), (width * 0.6 * side, y - 8), (width * 0.3 * side, y + 4),
                   -rng.uniform(20, 36))  # fmt: skip
        x = rng.uniform(10, 20) * side
        start = (x * 0.8, hem - rng.uniform(22, 32))
        stage.fold(start, (x, hem - 12), (x * 1.1, hem), -rng.uniform(22, 38), 4)
    stage.fold((rng.uniform(-5, 5), -2), (rng.uniform(-8, 8), hem * 0.5), (rng.uniform(-8, 8), hem), -16, 4)


def _neckline(stage: Stage, garment: Garment, y: float, half: float) -> None:
    """Round, v or high; the inside of the back shows as a darker crescent."""
    rib, inside = shaded(stage.base, 0.8), shaded(stage.base, 0.45)
    if garment.neck == "high":
        roll = curve((-half + 2, y - 9), ((0, y - 12), (half - 2, y - 9)), ((half + 1, y + 2),),
                     ((0, y + 9), (-half - 1, y + 2)))  # fmt: skip
        stage.cut(stage.body, roll)
        stage.paint(roll, shaded(stage.base, 0.86), raised=True)
        stage.seam(curve((-half, y - 3), ((0, y + 2), (half, y - 3))), shaded(stage.base, 0.68), 0.9)
        return
    dip = y + (28 if garment.neck == "v" else 13)
    sides: tuple[Points, Points]
    if garment.neck == "v":
        front = curve((-half, y), ((-half * 0.6, y + 12), (0, dip)), ((half * 0.6, y + 12), (half, y)))
    else:
        front = curve((-half, y), ((-half * 0.95, dip), (0, dip)), ((half * 0.95, dip), (half, y)))
    sides = (front, curve((half, y), ((0, y + 8), (-half, y))))
    stage.paint(np.concatenate(sides), inside)
    stage.seam(front, rib, 2.2)
    stage.seam(curve((-half, y), ((0, y + 8), (half, y))), shaded(stage.base, 0.7), 1.4)


def _contrast(stage: Stage) -> Colour:
    """Dark on light cloth, cream on dark."""
    return (64, 46, 40) if sum(stage.base) > 330 else (240, 228, 200)


def _belt(stage: Stage, y: float, half: float) -> None:
    leather = _contrast(stage)
    stage.paint(curve((-half, y - 4), ((0, y - 2), (half, y - 4)), ((half + 0.5, y + 4),),
                      ((0, y + 6.5), (-half - 0.5, y + 4))), leather, raised=True)  # fmt: skip
    buckle = [(-5.5, y - 4.5), (5.5, y - 4.5), (5.5, y + 6.5), (-5.5, y + 6.5)]
    stage.paint(buckle, (222, 176, 82), raised=True)
    stage.paint([(-2.8, y - 1.6), (2.8, y - 1.6), (2.8, y + 3.6), (-2.8, y + 3.6)], leather)


def _buttons(stage: Stage, x: float, first: float, last: float, count: int) -> None:
    colour = _contrast(stage)
    for y in np.linspace(first, last, count):
        stage.dot(x, float(y), 3.2, colour, raised=True)
        stage.dot(x - 0.9, float(y) - 0.9, 0.9, shaded(colour, 1.45))


def _pocket(stage: Stage, x: float, y: float, width: float, height: float, second: Colour) -> None:
    w, h = width / 2, height / 2
    tip = h * 0.6
    patch = np.asarray([(x - w, y - h), (x + w, y - h), (x + w, y + tip), (x, y + h), (x - w, y + tip)])
    stage.paint(patch, second, raised=True)
    stage.seam(np.concatenate([patch, patch[:1]]), shaded(second, 0.6), 0.8)
    stage.seam([(x - w, y - h + 3.2), (x + w, y - h + 3.2)], shaded(second, 0.6), 0.7)


def _bow(stage: Stage, y: float, second: Colour) -> None:
    line = shaded(second, 0.6)
    for side in (-1.0, 1.0):
        flip = (side, 1.0)
        tail = np.asarray([(1, y), (5, y + 1), (11, y + 21), (4, y + 23)]) * flip
        loop = curve((0, y), ((8, y - 11), (17, y - 8)), ((19, y), (17, y + 7)), ((8, y + 9), (0, y))) * flip
        for part in (tail, loop):
            stage.paint(part, second, raised=True)
            stage.seam(np.concatenate([part, part[:1]]), line, 0.8)
    stage.paint(ellipse(0, y, 3.8, 4.4), shaded(second, 0.86), raised=True)


def _print(stage: Stage, shape: str, centre: tuple[float, float], radius: float, second: Colour) -> None:
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    if shape == "heart":
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        outline = np.stack([x, y], axis=1) / 16
    else:
        spokes = np.arange(10)
        lengths = np.where(spokes % 2 == 0, 1.15, 0.5)
        angles = spokes * math.pi / 5
        outline = np.stack([lengths * np.sin(angles), -lengths * np.cos(angles)], axis=1)
    stage.paint(outline * radius + centre, second)


TAILORS: dict[str, Callable[[Stage, Garment, Colour], None]] = {
    "dress": _dress,
    "t-shirt": _tshirt,
    "shirt": _shirt,
    "jacket": _jacket,
    "skirt": _skirt,
    "trousers": _trousers,
}
