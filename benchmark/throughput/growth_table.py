"""What grows, and the table of it; read from records without anything heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from benchmark.records.record import Record

METHOD = "growth"
FACTORS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Part:
    """``smallest``: the size at factor 1; ``unit``: what is counted; ``work`` says what is done."""

    name: str
    smallest: int
    unit: str
    work: str


PARTS = {
    part.name: part
    for part in (
        Part("store", 64, "pictures", "features of whole pictures and 13 patches"),
        Part("training", 1024, "triplets", "an epoch on stored features"),
        Part("evaluator", 125_000, "gallery pictures", "64 queries, width 64, from features to metrics"),
        Part("leaderboard", 100, "records", "pages from records"),
    )
}


def growth_table(record: Record) -> str:
    """Times and memory by size with the exponents, markdown, from a record of kind throughput."""
    lines = []
    for name in PARTS:
        found = [record.throughput.get(f"{name} x {factor}") for factor in FACTORS]
        points = [point for point in found if point is not None]
        if len(points) < len(FACTORS):
            continue
        sizes = [int((point.work or "").split(" ")[0].replace(",", "")) for point in points]
        unit = (points[0].work or "").split(" ", 1)[1].partition(":")
        seconds = [point.value for point in points]
        megabytes = [(point.peak_bytes or 0) / 1e6 for point in points]
        first = f"{name}: {unit[2].strip()}"
        lines.append([first, "time, s", *map(_number, seconds), _exponent(record, name, "time"),
                      f"{_number(1e3 * _slope(sizes, seconds))} ms"])  # fmt: skip
        lines.append([f"{sizes[0]:,} to {sizes[-1]:,} {unit[0]}", "memory, MB", *map(_number, megabytes),
                      _exponent(record, name, "memory"), f"{1e3 * _slope(sizes, megabytes):,.2f} kB"])  # fmt: skip
    headers = ["part", "", *(f"x {factor}" for factor in FACTORS), "exponent", "each one more"]
    return tabulate(
        lines, headers=headers, tablefmt="pipe", colalign=["left"] * 2 + ["right"] * (len(headers) - 2),
        disable_numparse=True,
    )  # fmt: skip


def _exponent(record: Record, name: str, quantity: str) -> str:
    found = record.throughput.get(f"{name}, exponent of {quantity}")
    return "" if found is None else f"{found.value:.2f}"


def _slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """What one more costs, between the smallest and the largest."""
    return (values[-1] - values[0]) / max(sizes[-1] - sizes[0], 1)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
