"""How each type of shoe is made of its parts, seen from the side.

Shapes are in units as in `drawing`; the toe points to the left and the ground is y = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from . import shoe_parts as parts
from .drawing import PALETTE, Colour, Nuisance, Stage, curve, light_up, shaded, weave
from .subjects import Shoe

SHOE_PICTURE_SIZE = (144, 144)


def draw_shoe(shoe: Shoe, nuisance: Nuisance, size: tuple[int, int] = SHOE_PICTURE_SIZE) -> Image.Image:
    """One RGB picture of a shoe; the same arguments give the same pixels."""
    stage = Stage(nuisance, size, PALETTE[shoe.colour], *_fit_of(shoe))
    weave(stage, shoe.pattern, PALETTE[shoe.second or shoe.colour])
    SHOEMAKERS[shoe.kind](stage, shoe, PALETTE[shoe.second or shoe.colour])
    return light_up(stage)


def _fit_of(shoe: Shoe) -> tuple[float, float]:
    """How far below the middle the ground lies, in units, and the shoe's size: so that it fills its picture."""
    if shoe.shaft == "knee":
        return 47.0, 0.92
    if shoe.kind in ("stiletto", "high_heels", "wedding_shoes"):
        return 37.0, 0.97
    return (36.0 if shoe.shaft == "ankle" else 26.0), 1.0


def _athletic(stage: Stage, shoe: Shoe, second: Colour) -> None:
    lift = 15.0 if shoe.platform else 8.0
    last = parts.Last(3, lift)
    bed, back, sole = last.bed(), last.back, PALETTE[shoe.sole]
    upper = curve(
        (last.tip, -lift - 4), ((-51, -lift - 15), (-36, -lift - 19)), ((-22, -lift - 23), (-6, -lift - 38)),
        ((0, -lift - 43), (6, -lift - 42)), ((14, -lift - 30), (30, -lift - 33)),
        ((42, -lift - 38), (back + 2, -lift - 42)), ((back - 3, -lift - 18), (back + 1, last.seat)),
    )  # fmt: skip
    parts.inside(stage, [(4, -lift - 40), (18, -lift - 41), (38, -lift - 39), (34, -lift - 30), (16, -lift - 29)])
    parts.tongue(stage, [(-2, -lift - 36), (-3, -lift - 48), (5, -lift - 51), (11, -lift - 40)])
    parts.cut(stage, upper, bed)
    parts.trim(stage, curve((-36, -lift - 19), ((-24, -lift - 12), (-22, -lift - 1))))
    parts.trim(stage, curve((back - 14, -lift - 34), ((back - 18, -lift - 18), (back - 10, -lift - 2))))
    thick = curve(
        (-50, -lift - 7), ((-57, -3), (-40, 0)), ((back, 0),), ((back + 7, -2), (back + 4, -lift - 8)),
        ((20, -lift - 1), (-10, -lift)), ((-40, -lift), (-50, -lift - 7)),
    )  # fmt: skip
    parts.sole(stage, thick, sole)
    stage.seam(curve((-48, -lift * 0.5), ((0, -lift * 0.35), (back + 3, -lift * 0.6))), shaded(sole, 0.75), 1.2)
    if shoe.fastening == "laces":
        parts.laces(stage, (-27, -lift - 22), (0, -lift - 39), 4, second)
    else:
        parts.straps(stage, ((-22, -lift - 24), (-9, -lift - 33)), second, 16)


def _sneakers(stage: Stage, shoe: Shoe, second: Colour) -> None:
    lift, high = 8.0, shoe.shaft == "ankle"
    last, sole = parts.Last(0, lift), PALETTE[shoe.sole]
    back, top = last.back, -62.0 if high else -38.0
    throat = (10.0, top + 1) if high else (-2.0, -40.0)
    upper = curve(
        (last.tip, -lift - 4), ((-51, -lift - 16), (-36, -lift - 17)), ((-20, -lift - 20), throat),
        ((throat[0] + 6, top - 3), (throat[0] + 9, top)), ((26, top + (4 if high else 10)), (back - 2, top - 2)),
        ((back - 3, -24), (back + 1, -lift)),
    )  # fmt: skip
    parts.inside(stage, [(throat[0] + 4, top), (throat[0] + 14, top - 6), (back - 2, top - 4), (back - 6, top + 5),
                    (throat[0] + 14, top + 6)])  # fmt: skip
    parts.tongue(stage, [(throat[0] - 6, top + 6), (throat[0] - 6, top - 9), (throat[0] + 4, top - 11),
                    (throat[0] + 9, top)])  # fmt: skip
    parts.cut(stage, upper, last.bed())
    cap = curve((-50, -lift), ((-52, -lift - 16), (-36, -lift - 17)), ((-29, -lift - 10), (-30, -lift)))
    stage.paint(cap, shaded(parts.RUBBER, 0.96), raised=True)
    parts.trim(stage, curve((back - 2, top), ((back - 10, -26), (back - 12, -lift))))
    parts.sole(stage, [(-50, -lift - 1), (-50, -3), (-46, 0), (back, 0), (back + 3, -3), (back + 3, -lift - 1)], sole)
    edge = shaded(sole, 0.6) if sum(sole) > 300 else parts.RUBBER
    stage.seam([(-50, -lift * 0.6), (back + 3, -lift * 0.6)], edge, 1.2)
    if shoe.fastening == "laces":
        parts.laces(stage, (-27, -lift - 18), throat, 5 if high else 4, second)
    else:
        parts.straps(stage, ((-24, -lift - 20), throat if not high else (0, -48)), second, 18)


def _boots(stage: Stage, shoe: Shoe, second: Colour) -> None:
    last = parts.Last(20 if shoe.heel == "high" else 8, 2, -55 if shoe.toe == "pointed" else -48)
    top = -98.0 if shoe.shaft == "knee" else last.seat - 46
    parts.shaft(stage, last, top, shoe.toe, slack=0.0)
    parts.block_heel(stage, last, 16, shaded(stage.base, 0.4))
    parts.thin_sole(stage, last, shaded(stage.base, 0.4), 3)
    back, instep = last.back, last.level(-8) - 24
    parts.trim(stage, curve((back - 1, last.seat - 30), ((back - 14, last.seat - 22), (back - 18, last.seat))))
    if shoe.fastening == "laces":
        parts.laces(stage, (-24, instep + 4), (4, max(top + 10, last.seat - 64)), 6, second)
    elif shoe.fastening == "buckle":
        parts.band(stage, [(-2, last.seat - 27), (back + 2, last.seat - 21)], 9, second)
        parts.buckle(stage, 16, last.seat - 24, 8)


def _rain_boots(stage: Stage, shoe: Shoe, second: Colour) -> None:
    lift, sole = 13.0 if shoe.platform else 6.0, PALETTE[shoe.sole]
    last = parts.Last(3, lift)
    top = -97.0 if shoe.shaft == "knee" else last.seat - 44
    parts.shaft(stage, last, top, "round", slack=4.0)
    back = last.back
    tread = [(-50, -lift - 4), (-52, -2), (-46, 0), (-8, 0), (-4, -lift * 0.45), (16, -lift * 0.45), (18, 0),
             (back + 2, 0), (back + 4, -lift - 5), (-10, -lift - 2)]  # fmt: skip
    parts.sole(stage, tread, sole)
    rim = [(0, top - 2), (back + 6, top - 3), (back + 6, top + 4), (0, top + 5)]
    stage.paint(rim, sole, raised=True)
    if shoe.fastening == "buckle":
        parts.band(stage, [(1, top + 15), (back + 6, top + 14)], 8, second)
        parts.buckle(stage, 30, top + 14.5, 7)
    elif shoe.fastening == "bow":
        parts.bow(stage, 20, top + 16, 13, second)


def _clogs(stage: Stage, shoe: Shoe, second: Colour) -> None:
    high = shoe.heel == "high"
    last, sole = parts.Last(16 if high else 3, 11), PALETTE[shoe.sole]
    throat = last.level(0) - 34
    upper = curve(
        (-48, -15), ((-53, -34), (-34, -36)), ((-18, -40), (0, throat)), ((14, throat + 2), (16, throat + 12)),
        ((14, last.level(16) - 6), (18, last.level(18))),
    )  # fmt: skip
    back = last.back
    parts.inside(stage, curve((2, throat), ((16, throat - 5), (17, throat + 8)), ((12, throat + 8), (2, throat))))
    parts.cut(stage, upper, last.bed())
    wedge = np.concatenate([
        curve((-52, -14), ((-56, -3), (-44, 0)), ((-8, 0),), ((6, -last.rise * 0.5), (12, -last.rise * 0.5)),
              ((14, 0),), ((back + 1, 0),), ((back + 4, last.seat - 3),)),
        last.bed()[::-1],
    ])  # fmt: skip
    parts.sole(stage, wedge, sole)
    stage.seam(last.bed() - (0, 1), shaded(sole, 1.3 if sum(sole) < 300 else 0.6), 1.3)
    for x in np.linspace(-44, 12, 8):
        stage.dot(float(x), last.level(float(x)) - 4, 1.5, parts.GOLD)
    if shoe.fastening == "strap":
        y = throat + 12
        loop = curve((8, y), ((back - 6, y - 3), (back + 3, y - 1)), ((back + 5, y + 4), (back + 2, y + 8)),
                     ((back - 8, y + 8), (8, y + 9)))  # fmt: skip
        stage.cut(stage.limbs, loop)
        stage.paint(loop, second, raised=True)
        stage.dot(9, y + 4.5, 4, parts.GOLD, raised=True)
    elif shoe.fastening == "buckle":
        parts.band(stage, [(-20, -38), (-8, -12)], 10, second)
        parts.buckle(stage, -14, -25, 8)


def _flats(stage: Stage, shoe: Shoe, second: Colour) -> None:
    last = parts.Last(2, 3, parts.tip(shoe.toe))
    parts.court(stage, last, shoe.toe, throat=-21, depth=21, collar=27)
    parts.thin_sole(stage, last, shaded(stage.base, 0.4), 3)
    parts.block_heel(stage, last, 14, shaded(stage.base, 0.4))
    if shoe.fastening == "strap":
        parts.instep_strap(stage, last, 4, second)
    parts.ornament(stage, shoe, (-25, -25), second)


def _pumps(stage: Stage, shoe: Shoe, second: Colour) -> None:
    last = parts.Last(27 if shoe.heel == "high" else 11, 2, parts.tip(shoe.toe))
    parts.court(stage, last, shoe.toe, throat=-16, depth=20, collar=25)
    parts.taper_heel(stage, last, 15, 7, shaded(stage.base, 0.72))
    parts.thin_sole(stage, last, shaded(stage.base, 0.45), 2.4)
    parts.ornament(stage, shoe, (-20, -24), second)


def _stiletto(stage: Stage, shoe: Shoe, second: Colour) -> None:
    last = parts.Last(40, 1, parts.tip(shoe.toe))
    parts.court(stage, last, shoe.toe, throat=-20, depth=17, collar=24)
    parts.taper_heel(stage, last, 11, 2.6, shaded(stage.base, 0.8))
    parts.thin_sole(stage, last, (188, 40, 48) if sum(stage.base) < 240 else shaded(stage.base, 0.45), 2.2)
    if shoe.fastening == "strap":
        parts.ankle_strap(stage, last, second)
    elif shoe.fastening == "bow":
        parts.bow(stage, last.back + 1, last.seat - 22, 12, second)


def _high_heels(stage: Stage, shoe: Shoe, second: Colour) -> None:
    lift = 12.0 if shoe.platform else 2.0
    last = parts.Last(28, lift, parts.tip(shoe.toe))
    closed = shoe.toe == "round"
    front = [(-49, -lift - 3), (-46, -lift - 16), (-32, -lift - 19), (-12, -lift - 25), (-8, last.level(-8))]
    if not closed:
        front = [(-37, -lift), (-35, -lift - 17), (-28, -lift - 20), (-12, -lift - 25), (-8, last.level(-8))]
    parts.cut(stage, curve(front[0], (front[1], front[2]), (front[3],), ((-7, -lift - 14), front[4])), last.bed())
    back = last.back
    counter = curve((14, last.level(14)), ((20, last.seat - 6), (28, last.seat - 22)), ((back + 2, last.seat - 26),),
                    ((back - 2, last.seat - 10), (back, last.seat)))  # fmt: skip
    stage.cut(stage.body, counter)
    parts.insole(stage, last)
    parts.block_heel(stage, last, 17, shaded(stage.base, 0.75))
    if shoe.platform:
        bed = last.bed()
        under = curve((-51, -lift - 4), ((-54, -2), (-44, 0)), ((-12, 0),), ((0, -2), (8, last.level(8))))
        parts.sole(stage, np.concatenate([under, bed[bed[:, 0] < 8][::-1]]), shaded(stage.base, 0.75))
    else:
        parts.thin_sole(stage, last, shaded(stage.base, 0.45), 2.4)
    if shoe.fastening == "strap":
        parts.ankle_strap(stage, last, second)
    parts.ornament(stage, shoe, (-24, -lift - 20), second)


def _wedding(stage: Stage, shoe: Shoe, second: Colour) -> None:
    last = parts.Last(29 if shoe.heel == "high" else 12, 4, parts.tip(shoe.toe))
    parts.court(stage, last, shoe.toe, throat=-14, depth=22, collar=27, open_side=True)
    parts.taper_heel(stage, last, 13, 5, shaded(stage.base, 0.85))
    parts.thin_sole(stage, last, shaded(stage.base, 0.6), 3.5)
    for x in np.linspace(-42, last.back - 3, 13):
        stage.dot(float(x), last.level(float(x)) - 2.6, 1.9, (252, 248, 240), raised=True)
    if shoe.fastening == "strap":
        parts.ankle_strap(stage, last, second)
    parts.ornament(stage, shoe, (-20, -27), second)


SHOEMAKERS: dict[str, Callable[[Stage, Shoe, Colour], None]] = {
    "athletic_shoes": _athletic,
    "boots": _boots,
    "clogs": _clogs,
    "flats": _flats,
    "high_heels": _high_heels,
    "pumps": _pumps,
    "rain_boots": _rain_boots,
    "sneakers": _sneakers,
    "stiletto": _stiletto,
    "wedding_shoes": _wedding,
}
