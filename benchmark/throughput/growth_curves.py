"""Curves of growth: time and memory of a part over its size, read from records and drawn.

Exponents are the slope of a least-squares line through the logarithms: 1 is linear, 0 is constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.files import atomic_path
from benchmark.records.measurement import Measurement
from benchmark.records.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHOD = "growth"
FACTORS = (1, 2, 4, 8)
_BLUE, _ORANGE, _SOFT = "#2462b2", "#cc6c1c", "#6c7480"


@dataclass(frozen=True)
class GrowingPart:
    """``smallest``: the size at factor 1; ``unit``: what is counted; ``work`` says what is done."""

    name: str
    smallest: int
    unit: str
    work: str


PARTS = {
    part.name: part
    for part in (
        GrowingPart("store", 64, "pictures", "features of whole pictures and 13 patches"),
        GrowingPart("training", 1024, "triplets", "an epoch on stored features"),
        GrowingPart("evaluator", 125_000, "gallery pictures", "64 queries, width 64, from features to metrics"),
        GrowingPart("leaderboard", 100, "records", "pages from records"),
    )
}


@dataclass(frozen=True)
class Curve:
    """One part at growing ``sizes``: ``seconds``, and ``bytes`` beyond what the process began with."""

    part: GrowingPart
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    bytes: tuple[int, ...]

    @property
    def exponents(self) -> tuple[float | None, float | None]:
        """Of time and of memory."""
        return exponent(self.sizes, self.seconds), exponent(self.sizes, self.bytes)

    def measurements(self) -> dict[str, Measurement]:
        """As a record has them: by "store x 8", with the exponents behind them."""
        found = {
            f"{self.part.name} x {factor}": Measurement(
                value=seconds, unit="s", peak_bytes=size_bytes, work=f"{size:,} {self.part.unit}: {self.part.work}"
            )
            for factor, size, seconds, size_bytes in zip(FACTORS, self.sizes, self.seconds, self.bytes, strict=True)
        }
        for quantity, value in zip(("time", "memory"), self.exponents, strict=True):
            if value is not None:
                found[f"{self.part.name}, exponent of {quantity}"] = Measurement(value=value, unit="")
        return found


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Slope of log(value) over log(size); None where a value is not above zero."""
    if len(sizes) < 2 or min(values) <= 0:
        return None
    slope = np.polyfit(np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(values, dtype=float)), 1)[0]
    return float(slope)


def curves(record: Record) -> list[Curve]:
    """The parts that a record of kind throughput holds at every size, in the words that it has for them."""
    found = []
    for name in PARTS:
        points = [record.throughput.get(f"{name} x {factor}") for factor in FACTORS]
        measured = [(point, point.work or "") for point in points if point is not None]
        if len(measured) < len(FACTORS):
            continue
        sizes = tuple(int(work.split(" ")[0].replace(",", "")) for _, work in measured)
        unit, _, work = measured[0][1].split(" ", 1)[1].partition(": ")
        seconds, held = zip(*((point.value, point.peak_bytes or 0) for point, _ in measured), strict=True)
        found.append(Curve(GrowingPart(name, sizes[0], unit, work), sizes, seconds, held))
    return found


def draw_growth(path: Path, record: Record, title: str) -> None:
    """Write a PNG: a column for each part, time above and memory below, logarithmic axes.

    A dashed line through the first point shows what linear growth would be.
    """
    from matplotlib.figure import Figure  # no pyplot: it would keep the figure, and look for a screen

    found = curves(record)
    figure = Figure(figsize=(max(3.1 * len(found), 7), 5.8), dpi=100, layout="constrained")
    figure.suptitle(f"{title}\ndashed: linear", x=0.01, ha="left", fontsize="medium")
    panels = figure.subplots(2, len(found), squeeze=False)
    for (above, below), curve in zip(panels.T, found, strict=True):
        of_time, of_memory = curve.exponents
        _draw_panel(above, f"{curve.part.name}: {_power(of_time)}", _BLUE, curve.sizes, curve.seconds, "s")
        megabytes = [held / 1e6 for held in curve.bytes]
        _draw_panel(below, f"memory: {_power(of_memory)}", _ORANGE, curve.sizes, megabytes, "MB")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_panel(
    axes: Axes, title: str, colour: str, sizes: Sequence[int], values: Sequence[float], unit: str
) -> None:
    axes.set_title(title, loc="left", fontsize="medium")
    axes.loglog()
    points = [(size, value) for size, value in zip(sizes, values, strict=True) if value > 0]
    if not points:
        return
    (first, least), (last, most) = points[0], points[-1]
    axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=5)
    axes.plot((first, last), (least, least * last / first), "--", color=_SOFT, linewidth=0.8)
    axes.set_xticks([size for size, _ in points], [f"{size:,}" for size, _ in points], fontsize="small")
    # Two labels at one height could not be read.
    ends = (least, most) if abs(most / least - 1) > 0.1 else (least,)
    axes.set_yticks(ends, [f"{value:.3g} {unit}" for value in ends], fontsize="small")
    axes.minorticks_off()


def _power(exponent: float | None) -> str:
    return "too little to fit" if exponent is None else f"n^{exponent:.2f}"
