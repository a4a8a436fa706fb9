"""What shoes are made of: uppers, shafts, soles, heels, fastenings and ornaments, seen from the side.

Shapes are in units as in `drawing`; the toe points to the left and the ground is y = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .drawing import Colour, Points, Stage, curve, ellipse, shaded
from .subjects import Shoe

_LINING: Colour = (196, 170, 138)
GOLD: Colour = (226, 182, 84)
RUBBER: Colour = (236, 234, 228)
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


def tip(toe: str) -> float:
    return -56.0 if toe == "pointed" else -49.0


def cut(stage: Stage, upper: Points, bed: Points) -> None:
    """Add an upper to the silhouette: its outline from front to back, closed along the bed."""
    inner = bed[(bed[:, 0] > upper[0, 0]) & (bed[:, 0] < upper[-1, 0])]
    stage.cut(stage.body, np.concatenate([upper, inner[::-1]]))


def court(stage: Stage, last: Last, toe: str, throat: float, depth: float, collar: float,
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
    inside(stage, np.concatenate([far, line[::-1]]))
    heel = curve(heel_top, ((back - 3, last.seat - 12), (back + 1, last.seat)))
    cut(stage, np.concatenate([front, line[1:], heel[1:]]), last.bed())
    stage.seam(line, shaded(stage.base, 0.7), 1.1)
    if toe == "open":
        insole(stage, last)
        stage.seam(front[:10], shaded(stage.base, 0.6), 1.2)


def shaft(stage: Stage, last: Last, top: float, toe: str, slack: float) -> None:
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
    cut(stage, outline, last.bed())
    stage.cut(stage.limbs, opening)
    stage.paint(opening, shaded(stage.base, 0.42))
    stage.fold((-6, ankle + 6), (4, ankle + 4), (12, ankle - 4), -30, 3)
    stage.fold((back - 2, ankle - 4), (back - 10, ankle - 2), (back - 16, ankle + 4), -26, 3)


def inside(stage: Stage, shape: Points | list[tuple[float, float]]) -> None:
    """The far side of the lining, seen through the opening."""
    stage.cut(stage.limbs, shape)
    stage.paint(shape, shaded(_LINING, 0.72))


def insole(stage: Stage, last: Last) -> None:
    """A light band that the foot stands on, seen where the upper is open."""
    bed = last.bed()
    band = np.concatenate([bed - (0, 2.4), bed[::-1] + (0, 0.8)])
    stage.cut(stage.limbs, band)
    stage.paint(band[np.concatenate([bed[:, 0] < last.tip + 13, bed[::-1, 0] < last.tip + 13])], _LINING)


def tongue(stage: Stage, shape: list[tuple[float, float]]) -> None:
    stage.cut(stage.limbs, shape)
    stage.paint(shape, shaded(stage.base, 0.8), raised=True)


def trim(stage: Stage, line: Points) -> None:
    stage.seam(line, shaded(stage.base, 0.62), 1.1)


def sole(stage: Stage, shape: Points | list[tuple[float, float]], colour: Colour) -> None:
    stage.cut(stage.limbs, shape)
    stage.paint(shape, colour, raised=True)


def thin_sole(stage: Stage, last: Last, colour: Colour, thickness: float) -> None:
    bed = last.bed()
    sole(stage, np.concatenate([bed - (0, 0.8), bed[::-1] + (0, thickness)]), colour)


def block_heel(stage: Stage, last: Last, width: float, colour: Colour) -> None:
    back, seat = last.back, last.seat
    slant = 0.1 * (last.rise + last.lift)
    foot = [(back - slant, 0), (back - width + slant * 0.4, 0)]
    sole(stage, [(back - width, seat), (back + 0.5, seat - 1), *foot], colour)


def taper_heel(stage: Stage, last: Last, width: float, foot: float, colour: Colour) -> None:
    """A heel that narrows from ``width`` at the seat to ``foot`` on the ground."""
    back, seat = last.back, last.seat
    end = back - 3.0
    shape = curve((back - width, seat + 1), ((end - foot, seat * 0.6), (end - foot, 0)), ((end, 0),),
                  ((end, seat * 0.5), (back + 1, seat - 2)))  # fmt: skip
    sole(stage, shape, colour)


def laces(stage: Stage, low: tuple[float, float], high: tuple[float, float], rungs: int, colour: Colour) -> None:
    """Rungs across the instep from ``low`` to ``high``, and a bow at the top."""
    along = np.asarray(high) - low
    across = np.asarray((-along[1], along[0])) / np.hypot(*along)
    for share in np.linspace(0.04, 0.96, rungs):
        middle = np.asarray(low) + share * along
        rung = np.stack([middle - 2.5 * across, middle + 10 * across + 0.06 * along])
        band(stage, [tuple(rung[0]), tuple(rung[1])], 3.6, colour)
        stage.dot(rung[1][0], rung[1][1], 1.7, shaded(stage.base, 0.4))
    for turn in (-4.0, 3.0):
        end = np.asarray(high) + (-11, turn)
        loop = curve(high, (end + (0, -6), end), (end + (0, 5), np.asarray(high)))
        stage.cut(stage.limbs, loop)
        stage.paint(loop, colour, raised=True)


def straps(stage: Stage, places: Sequence[tuple[float, float]], colour: Colour, length: float) -> None:
    """Two broad straps across the instep."""
    for x, y in places:
        band(stage, [(x - 3, y - 4), (x + 8, y + length)], 9.5, colour)


def instep_strap(stage: Stage, last: Last, x: float, colour: Colour) -> None:
    y = last.level(x)
    band(stage, [(x - 3, y - 22), (x + 3, y - 2)], 7, colour)
    stage.dot(x + 1, y - 7, 3, GOLD, raised=True)


def ankle_strap(stage: Stage, last: Last, colour: Colour) -> None:
    """A loop around the ankle, held by a strip at the back of the heel."""
    back, y = last.back, last.seat - 35
    band(stage, [(back, last.seat - 20), (back + 2, y)], 6, colour)
    bend = back - 14
    near = curve((back + 4, y - 5), ((bend, y + 7), (12, y - 1)), ((12, y + 7),), ((bend, y + 16), (back + 4, y + 4)))
    far = curve((back + 3, y - 5), ((bend, y - 13), (12, y - 2)), ((14, y + 2),), ((bend, y - 7), (back + 3, y)))
    for part, shade in ((far, 0.65), (near, 1.0)):
        stage.cut(stage.limbs, part)
        stage.paint(part, shaded(colour, shade), raised=shade == 1.0)
    buckle(stage, 22, y + 6, 4.5)


def ornament(stage: Stage, shoe: Shoe, place: tuple[float, float], second: Colour) -> None:
    """A bow or a buckled band on the vamp."""
    x, y = place
    if shoe.fastening == "bow":
        bow(stage, x, y, 14, second)
    elif shoe.fastening == "buckle":
        band(stage, [(x - 2, y - 1), (x + 3, y + 18)], 11, second)
        buckle(stage, x, y + 7, 8)


def band(stage: Stage, ends: list[tuple[float, float]], width: float, colour: Colour) -> None:
    """A straight strip between two points, raised, with darker edges."""
    (x, y), (u, v) = ends
    across = np.asarray((v - y, x - u)) / max(np.hypot(u - x, v - y), 1e-9) * (width / 2)
    strip = np.stack([(x, y) + across, (u, v) + across, (u, v) - across, (x, y) - across])
    stage.cut(stage.limbs, strip)
    stage.paint(strip, colour, raised=True)
    if width > 5:
        stage.seam(strip[:2], shaded(colour, 0.6), 0.8)
        stage.seam(strip[2:], shaded(colour, 0.6), 0.8)


def buckle(stage: Stage, x: float, y: float, half: float) -> None:
    frame = np.asarray([(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)])
    stage.cut(stage.limbs, frame)
    stage.paint(frame, GOLD, raised=True)
    stage.paint((frame - (x, y)) * 0.5 + (x, y), shaded(GOLD, 0.4))
    stage.seam([(x - half, y), (x + half * 0.6, y)], shaded(GOLD, 1.3), 1.4)


def bow(stage: Stage, x: float, y: float, reach: float, colour: Colour) -> None:
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
