"""How each type of shoe is made: soles, uppers, shafts, heels and fastenings, seen from the side.

Shapes are in units as in `demo_drawing`; the toe points to the left and the ground is y = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .demo_drawing import PALETTE, Colour, Nuisance, Points, Stage, curve, ellipse, light_up, shaded, weave
from .demo_shoes import Shoe

SHOE_PICTURE_SIZE = (144, 144)
_LINING: Colour = (196, 170, 138)
_GOLD: Colour = (226, 182, 84)
_RUBBER: Colour = (236, 234, 228)
_WOOD: Colour = (188, 138, 88)


@dataclass(frozen=True)
class Last:
    """Where the foot stands: ``rise`` of the heel above the ball, ``lift`` of the ball above the ground."""

    rise: float
    lift: float
    tip: float = -49.0

    @property
    def back(self) -> float:
        """The heel's x: a raised foot is shorter, seen from the side."""
        return 45.0 - 0.2 * self.rise

    @property
    def seat(self) -> float:
        """The heel's y."""
        return -self.lift - self.rise

    def bed(self) -> Points:
        """The line that the foot stands on, from the tip of the toe to the back of the heel."""
        ball, back = -self.lift, self.back
        return curve(
            (self.tip, ball - 4), ((self.tip + 6, ball), (-22, ball)),
            ((-6, ball), (6, ball - 0.5 * self.rise)), ((18, self.seat), (back - 14, self.seat)),
            ((back, self.seat - 1.5),),
        )  # fmt: skip

    def level(self, x: float) -> float:
        """y of the bed at x."""
        line = self.bed()
        return float(np.interp(x, line[:, 0], line[:, 1]))


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
    last = Last(3, lift)
    bed, back, sole = last.bed(), last.back, PALETTE[shoe.sole]
    upper = curve(
        (last.tip, -lift - 4), ((-51, -lift - 15), (-36, -lift - 19)), ((-22, -lift - 23), (-6, -lift - 38)),
        ((0, -lift - 43), (6, -lift - 42)), ((14, -lift - 30), (30, -lift - 33)),
        ((42, -lift - 38), (back + 2, -lift - 42)), ((back - 3, -lift - 18), (back + 1, last.seat)),
    )  # fmt: skip
    _inside(stage, [(4, -lift - 40), (18, -lift - 41), (38, -lift - 39), (34, -lift - 30), (16, -lift - 29)])
    _tongue(stage, [(-2, -lift - 36), (-3, -lift - 48), (5, -lift - 51), (11, -lift - 40)])
    _cut(stage, upper, bed)
    _trim(stage, curve((-36, -lift - 19), ((-24, -lift - 12), (-22, -lift - 1))))
    _trim(stage, curve((back - 14, -lift - 34), ((back - 18, -lift - 18), (back - 10, -lift - 2))))
    thick = curve(
        (-50, -lift - 7), ((-57, -3), (-40, 0)), ((back, 0),), ((back + 7, -2), (back + 4, -lift - 8)),
        ((20, -lift - 1), (-10, -lift)), ((-40, -lift), (-50, -lift - 7)),
    )  # fmt: skip
    _sole(stage, thick, sole)
    stage.seam(curve((-48, -lift * 0.5), ((0, -lift * 0.35), (back + 3, -lift * 0.6))), shaded(sole, 0.75), 1.2)
    if shoe.fastening == "laces":
        _laces(stage, (-27, -lift - 22), (0, -lift - 39), 4, second)
    else:
        _straps(stage, ((-22, -lift - 24), (-9, -lift - 33)), second, 16)


def _sneakers(stage: Stage, shoe: Shoe, second: Colour) -> None:
    lift, high = 8.0, shoe.shaft == "ankle"
    last, sole = Last(0, lift), PALETTE[shoe.sole]
    back, top = last.back, -62.0 if high else -38.0
    throat = (10.0, top + 1) if high else (-2.0, -40.0)
    upper = curve(
        (last.tip, -lift - 4), ((-51, -lift - 16), (-36, -lift - 17)), ((-20, -lift - 20), throat),
        ((throat[0] + 6, top - 3), (throat[0] + 9, top)), ((26, top + (4 if high else 10)), (back - 2, top - 2)),
        ((back - 3, -24), (back + 1, -lift)),
    )  # fmt: skip
    _inside(stage, [(throat[0] + 4, top), (throat[0] + 14, top - 6), (back - 2, top - 4), (back - 6, top + 5),
                    (throat[0] + 14, top + 6)])  # fmt: skip
    _tongue(stage, [(throat[0] - 6, top + 6), (throat[0] - 6, top - 9), (throat[0] + 4, top - 11),
                    (throat[0] + 9, top)])  # fmt: skip
    _cut(stage, upper, last.bed())
    cap = curve((-50, -lift), ((-52, -lift - 16), (-36, -lift - 17)), ((-29, -lift - 10), (-30, -lift)))
    stage.paint(cap, shaded(_RUBBER, 0.96), raised=True)
    _trim(stage, curve((back - 2, top), ((back - 10, -26), (back - 12, -lift))))
    _sole(stage, [(-50, -lift - 1), (-50, -3), (-46, 0), (back, 0), (back + 3, -3), (back + 3, -lift - 1)], sole)
    stage.seam([(-50, -lift * 0.6), (back + 3, -lift * 0.6)], shaded(sole, 0.6) if sum(sole) > 300 else _RUBBER, 1.2)
    if shoe.fastening == "laces":
        _laces(stage, (-27, -lift - 18), throat, 5 if high else 4, second)
    else:
        _straps(stage, ((-24, -lift - 20), throat if not high else (0, -48)), second, 18)


def _boots(stage: Stage, shoe: Shoe, second: Colour) -> None:
    last = Last(20 if shoe.heel == "high" else 8, 2, -55 if shoe.toe == "pointed" else -48)
    top = -98.0 if shoe.shaft == "knee" else last.seat - 46
    _shaft(stage, last, top, shoe.toe, slack=0.0)
    _block_heel(stage, last, 16, shaded(stage.base, 0.4))
    _thin_sole(stage, last, shaded(stage.base, 0.4), 3)
    back, instep = last.back, last.level(-8) - 24
    _trim(stage, curve((back - 1, last.seat - 30), ((back - 14, last.seat - 22), (back - 18, last.seat))))
    if shoe.fastening == "laces":
        _laces(stage, (-24, instep + 4), (4, max(top + 10, last.seat - 64)), 6, second)
    elif shoe.fastening == "buckle":
        _band(stage, [(-2, last.seat - 27), (back + 2, last.seat - 21)], 9, second)
        _buckle(stage, 16, last.seat - 24, 8)


def _rain_boots(stage: Stage, shoe: Shoe, second: Colour) -> None:
    lift, sole = 13.0 if shoe.platform else 6.0, PALETTE[shoe.sole]
    last = Last(3, lift)
    top = -97.0 if shoe.shaft == "knee" else last.seat - 44
    _shaft(stage, last, top, "round", slack=4.0)
    back = last.back
    tread = [(-50, -lift - 4), (-52, -2), (-46, 0), (-8, 0), (-4, -lift * 0.45), (16, -lift * 0.45), (18, 0),
             (back + 2, 0), (back + 4, -lift - 5), (-10, -lift - 2)]  # fmt: skip
    _sole(stage, tread, sole)
    rim = [(0, top - 2), (back + 6, top - 3), (back + 6, top + 4), (0, top + 5)]
    stage.paint(rim, sole, raised=True)
    if shoe.fastening == "buckle":
        _band(stage, [(1, top + 15), (back + 6, top + 14)], 8, second)
        _buckle(stage, 30, top + 14.5, 7)
    elif shoe.fastening == "bow":
        _bow(stage, 20, top + 16, 13, second)


def _clogs(stage: Stage, shoe: Shoe, second: Colour) -> None:
    high = shoe.heel == "high"
    last, sole = Last(16 if high else 3, 11), PALETTE[shoe.sole]
    throat = last.level(0) - 34
    upper = curve(
        (-48, -15), ((-53, -34), (-34, -36)), ((-18, -40), (0, throat)), ((14, throat + 2), (16, throat + 12)),
        ((14, last.level(16) - 6), (18, last.level(18))),
    )  # fmt: skip
    back = last.back
    _inside(stage, curve((2, throat), ((16, throat - 5), (17, throat + 8)), ((12, throat + 8), (2, throat))))
    _cut(stage, upper, last.bed())
    wedge = np.concatenate([
        curve((-52, -14), ((-56, -3), (-44, 0)), ((-8, 0),), ((6, -last.rise * 0.5), (12, -last.rise * 0.5)),
              ((14, 0),), ((back + 1, 0),), ((back + 4, last.seat - 3),)),
        last.bed()[::-1],
    ])  # fmt: skip
    _sole(stage, wedge, sole)
    stage.seam(last.bed() - (0, 1), shaded(sole, 1.3 if sum(sole) < 300 else 0.6), 1.3)
    for x in np.linspace(-44, 12, 8):
        stage.dot(float(x), last.level(float(x)) - 4, 1.5, _GOLD)
    if shoe.fastening == "strap":
        y = throat + 12
        loop = curve((8, y), ((back - 6, y - 3), (back + 3, y - 1)), ((back + 5, y + 4), (back + 2, y + 8)),
                     ((back - 8, y + 8), (8, y + 9)))  # fmt: skip
        stage.cut(stage.limbs, loop)
        stage.paint(loop, second, raised=True)
        stage.dot(9, y + 4.5, 4, _GOLD, raised=True)
    elif shoe.fastening == "buckle":
        _band(stage, [(-20, -38), (-8, -12)], 10, second)
        _buckle(stage, -14, -25, 8)


def _flats(stage: Stage, shoe: Shoe, second: Colour) -> None:
    last = Last(2, 3, _tip(shoe.toe))
    _court(stage, last, shoe.toe, throat=-21, depth=21, collar=27)
    _thin_sole(stage, last, shaded(stage.base, 0.4), 3)
    _block_heel(stage, last, 14, shaded(stage.base, 0.4))
    if shoe.fastening == "strap":
        _instep_strap(stage, last, 4, second)
    _ornament(stage, shoe, (-25, -25), second)


def _pumps(stage: Stage, shoe: Shoe, second: Colour) -> None:
    last = Last(27 if shoe.heel == "high" else 11, 2, _tip(shoe.toe))
    _court(stage, last, shoe.toe, throat=-16, depth=20, collar=25)
    _taper_heel(stage, last, 15, 7, shaded(stage.base, 0.72))
    _thin_sole(stage, last, shaded(stage.base, 0.45), 2.4)
    _ornament(stage, shoe, (-20, -24), second)


def _stiletto(stage: Stage, shoe: Shoe, second: Colour) -> None:
    last = Last(40, 1, _tip(shoe.toe))
    _court(stage, last, shoe.toe, throat=-20, depth=17, collar=24)
    _taper_heel(stage, last, 11, 2.6, shaded(stage.base, 0.8))
    _thin_sole(stage, last, (188, 40, 48) if sum(stage.base) < 240 else shaded(stage.base, 0.45), 2.2)
    if shoe.fastening == "strap":
        _ankle_strap(stage, last, second)
    elif shoe.fastening == "bow":
        _bow(stage, last.back + 1, last.seat - 22, 12, second)


def _high_heels(stage: Stage, shoe: Shoe, second: Colour) -> None:
    lift = 12.0 if shoe.platform else 2.0
    last = Last(28, lift, _tip(shoe.toe))
    closed = shoe.toe == "round"
    front = [(-49, -lift - 3), (-46, -lift - 16), (-32, -lift - 19), (-12, -lift - 25), (-8, last.level(-8))]
    if not closed:
        front = [(-37, -lift), (-35, -lift - 17), (-28, -lift - 20), (-12, -lift - 25), (-8, last.level(-8))]
    _cut(stage, curve(front[0], (front[1], front[2]), (front[3],), ((-7, -lift - 14), front[4])), last.bed())
    back = last.back
    counter = curve((14, last.level(14)), ((20, last.seat - 6), (28, last.seat - 22)), ((back + 2, last.seat - 26),),
                    ((back - 2, last.seat - 10), (back, last.seat)))  # fmt: skip
    stage.cut(stage.body, counter)
    _insole(stage, last)
    _block_heel(stage, last, 17, shaded(stage.base, 0.75))
    if shoe.platform:
        bed = last.bed()
        under = curve((-51, -lift - 4), ((-54, -2), (-44, 0)), ((-12, 0),), ((0, -2), (8, last.level(8))))
        _sole(stage, np.concatenate([under, bed[bed[:, 0] < 8][::-1]]), shaded(stage.base, 0.75))
    else:
        _thin_sole(stage, last, shaded(stage.base, 0.45), 2.4)
    if shoe.fastening == "strap":
        _ankle_strap(stage, last, second)
    _ornament(stage, shoe, (-24, -lift - 20), second)


def _wedding(stage: Stage, shoe: Shoe, second: Colour) -> None:
    last = Last(29 if shoe.heel == "high" else 12, 4, _tip(shoe.toe))
    _court(stage, last, shoe.toe, throat=-14, depth=22, collar=27, open_side=True)
    _taper_heel(stage, last, 13, 5, shaded(stage.base, 0.85))
    _thin_sole(stage, last, shaded(stage.base, 0.6), 3.5)
    for x in np.linspace(-42, last.back - 3, 13):
        stage.dot(float(x), last.level(float(x)) - 2.6, 1.9, (252, 248, 240), raised=True)
    if shoe.fastening == "strap":
        _ankle_strap(stage, last, second)
    _ornament(stage, shoe, (-20, -27), second)


def _tip(toe: str) -> float:
    return -56.0 if toe == "pointed" else -49.0


def _cut(stage: Stage, upper: Points, bed: Points) -> None:
    """Add an upper to the silhouette: its outline from front to back, closed along the bed."""
    inner = bed[(bed[:, 0] > upper[0, 0]) & (bed[:, 0] < upper[-1, 0])]
    stage.cut(stage.body, np.concatenate([upper, inner[::-1]]))


def _court(stage: Stage, last: Last, toe: str, throat: float, depth: float, collar: float,
           open_side: bool = False) -> None:  # fmt: skip
    """The low-cut upper of flats and pumps; ``open_side`` cuts it down to the sole at the arch."""
    back, tip, ball = last.back, last.tip, -last.lift
    rim = np.asarray((throat, last.level(throat) - depth))
    heel_top = np.asarray((back + 2, last.seat - collar))
    low = np.asarray((8.0, last.level(8) - (2 if open_side else 9)))
    if toe == "open":
        front = curve((tip + 13, ball), ((tip + 9, ball - 12), (tip + 19, ball - 16)), (rim,))
    elif toe == "pointed":
        front = curve((tip, ball - 3), ((tip + 10, ball - 10), (tip + 22, ball - 14)), (rim,))
    else:
        front = curve((tip, ball - 4), ((tip, ball - 17), (tip + 16, ball - 17)), (rim,))
    line = curve(rim, (np.asarray((throat + 8, low[1])), low), (np.asarray((back - 14, last.seat - 10)), heel_top))
    far = curve(rim, (low + (2, -11), np.asarray((back - 10, last.seat - collar + 5))), (heel_top,))
    _inside(stage, np.concatenate([far, line[::-1]]))
    heel = curve(heel_top, ((back - 3, last.seat - 12), (back + 1, last.seat)))
    _cut(stage, np.concatenate([front, line[1:], heel[1:]]), last.bed())
    stage.seam(line, shaded(stage.base, 0.7), 1.1)
    if toe == "open":
        _insole(stage, last)
        stage.seam(front[:10], shaded(stage.base, 0.6), 1.2)


def _shaft(stage: Stage, last: Last, top: float, toe: str, slack: float) -> None:
    """A boot's upper up to ``top``; ``slack`` widens it at the ankle."""
    back, ball, tip = last.back, -last.lift, last.tip
    ankle = last.seat - 26
    toe_box = ((tip - 1, ball - 19), (tip + 15, ball - 20))
    if toe == "pointed":
        toe_box = ((tip + 10, ball - 12), (tip + 22, ball - 16))
    outline = curve(
        (tip, ball - 3), toe_box, ((-14, ball - 22), (-4 - slack, ankle)), ((3 - slack, ankle - 12), (2 - slack, top)),
        ((back + 5, top - 1),), ((back + 6, ankle - 12), (back - 1 + slack, ankle)),
        ((back - 2 + slack, last.seat - 10), (back + 1, last.seat)),
    )  # fmt: skip
    opening = ellipse((2 - slack + back + 5) / 2, top - 0.5, (back + 3 + slack) / 2, 3.2)
    _cut(stage, outline, last.bed())
    stage.cut(stage.limbs, opening)
    stage.paint(opening, shaded(stage.base, 0.42))
    stage.fold((-6, ankle + 6), (4, ankle + 4), (12, ankle - 4), -30, 3)
    stage.fold((back - 2, ankle - 4), (back - 10, ankle - 2), (back - 16, ankle + 4), -26, 3)


def _inside(stage: Stage, shape: Points | list[tuple[float, float]]) -> None:
    """The far side of the lining, seen through the opening."""
    stage.cut(stage.limbs, shape)
    stage.paint(shape, shaded(_LINING, 0.72))


def _insole(stage: Stage, last: Last) -> None:
    """A light band that the foot stands on, seen where the upper is open."""
    bed = last.bed()
    band = np.concatenate([bed - (0, 2.4), bed[::-1] + (0, 0.8)])
    stage.cut(stage.limbs, band)
    stage.paint(band[np.concatenate([bed[:, 0] < last.tip + 13, bed[::-1, 0] < last.tip + 13])], _LINING)


def _tongue(stage: Stage, shape: list[tuple[float, float]]) -> None:
    stage.cut(stage.limbs, shape)
    stage.paint(shape, shaded(stage.base, 0.8), raised=True)


def _trim(stage: Stage, line: Points) -> None:
    stage.seam(line, shaded(stage.base, 0.62), 1.1)


def _sole(stage: Stage, shape: Points | list[tuple[float, float]], colour: Colour) -> None:
    stage.cut(stage.limbs, shape)
    stage.paint(shape, colour, raised=True)


def _thin_sole(stage: Stage, last: Last, colour: Colour, thickness: float) -> None:
    bed = last.bed()
    _sole(stage, np.concatenate([bed - (0, 0.8), bed[::-1] + (0, thickness)]), colour)


def _block_heel(stage: Stage, last: Last, width: float, colour: Colour) -> None:
    back, seat = last.back, last.seat
    slant = 0.1 * (last.rise + last.lift)
    foot = [(back - slant, 0), (back - width + slant * 0.4, 0)]
    _sole(stage, [(back - width, seat), (back + 0.5, seat - 1), *foot], colour)


def _taper_heel(stage: Stage, last: Last, width: float, foot: float, colour: Colour) -> None:
    """A heel that narrows from ``width`` at the seat to ``foot`` on the ground."""
    back, seat = last.back, last.seat
    end = back - 3.0
    shape = curve((back - width, seat + 1), ((end - foot, seat * 0.6), (end - foot, 0)), ((end, 0),),
                  ((end, seat * 0.5), (back + 1, seat - 2)))  # fmt: skip
    _sole(stage, shape, colour)


def _laces(stage: Stage, low: tuple[float, float], high: tuple[float, float], rungs: int, colour: Colour) -> None:
    """Rungs across the instep from ``low`` to ``high``, and a bow at the top."""
    along = np.asarray(high) - low
    across = np.asarray((-along[1], along[0])) / np.hypot(*along)
    for share in np.linspace(0.04, 0.96, rungs):
        middle = np.asarray(low) + share * along
        rung = np.stack([middle - 2.5 * across, middle + 10 * across + 0.06 * along])
        _band(stage, [tuple(rung[0]), tuple(rung[1])], 3.6, colour)
        stage.dot(rung[1][0], rung[1][1], 1.7, shaded(stage.base, 0.4))
    for turn in (-4.0, 3.0):
        end = np.asarray(high) + (-11, turn)
        loop = curve(high, (end + (0, -6), end), (end + (0, 5), np.asarray(high)))
        stage.cut(stage.limbs, loop)
        stage.paint(loop, colour, raised=True)


def _straps(stage: Stage, places: Sequence[tuple[float, float]], colour: Colour, length: float) -> None:
    """Two broad straps across the instep."""
    for x, y in places:
        _band(stage, [(x - 3, y - 4), (x + 8, y + length)], 9.5, colour)


def _instep_strap(stage: Stage, last: Last, x: float, colour: Colour) -> None:
    y = last.level(x)
    _band(stage, [(x - 3, y - 22), (x + 3, y - 2)], 7, colour)
    stage.dot(x + 1, y - 7, 3, _GOLD, raised=True)


def _ankle_strap(stage: Stage, last: Last, colour: Colour) -> None:
    """A loop around the ankle, held by a strip at the back of the heel."""
    back, y = last.back, last.seat - 35
    _band(stage, [(back, last.seat - 20), (back + 2, y)], 6, colour)
    bend = back - 14
    near = curve((back + 4, y - 5), ((bend, y + 7), (12, y - 1)), ((12, y + 7),), ((bend, y + 16), (back + 4, y + 4)))
    far = curve((back + 3, y - 5), ((bend, y - 13), (12, y - 2)), ((14, y + 2),), ((bend, y - 7), (back + 3, y)))
    for part, shade in ((far, 0.65), (near, 1.0)):
        stage.cut(stage.limbs, part)
        stage.paint(part, shaded(colour, shade), raised=shade == 1.0)
    _buckle(stage, 22, y + 6, 4.5)


def _ornament(stage: Stage, shoe: Shoe, place: tuple[float, float], second: Colour) -> None:
    """A bow or a buckled band on the vamp."""
    x, y = place
    if shoe.fastening == "bow":
        _bow(stage, x, y, 14, second)
    elif shoe.fastening == "buckle":
        _band(stage, [(x - 2, y - 1), (x + 3, y + 18)], 11, second)
        _buckle(stage, x, y + 7, 8)


def _band(stage: Stage, ends: list[tuple[float, float]], width: float, colour: Colour) -> None:
    """A straight strip between two points, raised, with darker edges."""
    (x, y), (u, v) = ends
    across = np.asarray((v - y, x - u)) / max(np.hypot(u - x, v - y), 1e-9) * (width / 2)
    strip = np.stack([(x, y) + across, (u, v) + across, (u, v) - across, (x, y) - across])
    stage.cut(stage.limbs, strip)
    stage.paint(strip, colour, raised=True)
    if width > 5:
        stage.seam(strip[:2], shaded(colour, 0.6), 0.8)
        stage.seam(strip[2:], shaded(colour, 0.6), 0.8)


def _buckle(stage: Stage, x: float, y: float, half: float) -> None:
    frame = np.asarray([(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)])
    stage.cut(stage.limbs, frame)
    stage.paint(frame, _GOLD, raised=True)
    stage.paint((frame - (x, y)) * 0.5 + (x, y), shaded(_GOLD, 0.4))
    stage.seam([(x - half, y), (x + half * 0.6, y)], shaded(_GOLD, 1.3), 1.4)


def _bow(stage: Stage, x: float, y: float, reach: float, colour: Colour) -> None:
    line = shaded(colour, 0.55)
    for side in (-1.0, 1.0):
        tail = np.asarray([(0, 0), (0.35, 0.1), (0.7, 1.15), (0.25, 1.25)])
        loop = curve((0, 0), ((0.5, -0.75), (1, -0.55)), ((1.15, 0), (1, 0.45)), ((0.5, 0.6), (0, 0)))
        for part in (tail * reach * (side, 1.0) + (x, y), loop * reach * (side, 1.0) + (x, y)):
            stage.cut(stage.limbs, part)
            stage.paint(part, colour, raised=True)
            stage.seam(np.concatenate([part, part[:1]]), line, 0.8)
    knot = ellipse(x, y, reach * 0.24, reach * 0.3)
    stage.cut(stage.limbs, knot)
    stage.paint(knot, shaded(colour, 0.85), raised=True)


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
