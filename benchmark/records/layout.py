"""How rows are laid out as text: markdown tables no wider than a terminal, paragraphs, lists.

Numbers stand alone in the cells. Rows of one name stand below it; below a row's numbers stand half their 95 %
intervals (±) and their standard deviation over seeds (sd).
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from benchmark.evaluation.metrics import components
from benchmark.records.rows import AVERAGE, Cell, Place, Row

WIDTH = 100
"""Columns that a table takes at most where no terminal says otherwise; bold cells add their marks."""

_METRIC_ORDER = ("R@", "R_subset@", "mAP@")
_NARROWEST_LABEL = 12


def paragraph(sentences: Iterable[str], width: int = WIDTH) -> str:
    text = " ".join(f"{' '.join(sentence.split()).rstrip('.')}." for sentence in sentences)
    return "".join(f"{line}\n" for line in _wrapped(text, width))


def listed(sentences: Iterable[str], width: int = WIDTH) -> str:
    """A list of sentences, each without its full stop."""
    lines: list[str] = []
    for sentence in sentences:
        lines += _wrapped(f"- {' '.join(sentence.split()).rstrip('.')}.", width, "  ")
    return "".join(f"{line}\n" for line in lines)


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def metric_order(names: Iterable[str]) -> list[str]:
    """Recalls by cut-off, then subset recalls, then mAP, then means, each name once."""

    def order(name: str) -> tuple[int, int, str]:
        match = re.fullmatch(r"(\w+@)(\d+)", name)
        if match and match[1] in _METRIC_ORDER:
            return _METRIC_ORDER.index(match[1]), int(match[2]), name
        return len(_METRIC_ORDER), 0, name

    return sorted(set(names), key=order)


def short_name(metric: str) -> str:
    """What stands over a column: "Rs@1" for R_subset@1, "mean" for the average that papers print."""
    return "mean" if components(metric) else metric.replace("R_subset@", "Rs@")


def places_of(rows: Iterable[Row]) -> list[Place]:
    """The columns of a table: categories by name, their average last, each with its metrics in order.

    As papers print it, a mean over metrics stands under the average alone, where there is one.
    """
    metrics: dict[str, list[str]] = {}
    for row in rows:
        for category, metric in row.cells:
            metrics.setdefault(category, []).append(metric)
    if AVERAGE in metrics:
        for category in metrics.keys() - {AVERAGE}:
            metrics[category] = [name for name in metrics[category] if not components(name)]
    categories = sorted(metrics, key=lambda name: (name == AVERAGE, name))
    return [(category, metric) for category in categories for metric in metric_order(metrics[category])]


def table_of_rows(
    rows: Sequence[Row], width: int = WIDTH, ticks: Mapping[str, Sequence[str]] | None = None, bold: bool = False
) -> str:
    """Rows as a markdown table; ``ticks``: columns of one word per row in front of the numbers.

    Rows of one name stand below it. A name or label that finds no room goes on in the next line.
    """
    places, leads = places_of(rows), dict(ticks or {})
    best = _best(rows, places) if bold else {}
    texts = [[_text(row.cells.get(place), best.get(place)) for place in places] for row in rows]
    heads = [[""] * len(leads) + _category_heads(places)] if any(category for category, _ in places) else []
    heads.append([*leads, *(short_name(metric) for _, metric in places)])
    numbers = [[*(lead[i] for lead in leads.values()), *texts[i]] for i in range(len(rows))]
    sizes = [max(len(text.replace("**", "")) for text in column) for column in zip(*heads, *numbers, strict=True)]
    room = max(width - sum(max(size, 3) + 3 for size in sizes) - len("|  |"), _NARROWEST_LABEL)
    lines: list[list[str]] = []
    numbered = list(enumerate(rows))
    for name, group in groupby(numbered, key=lambda member: member[1].name):
        members = list(group)
        alone = len(members) == 1 and len(f"{name}, {members[0][1].label}") <= room
        if not alone and any(row.label for _, row in members):
            lines += [[text] for text in _wrapped(name, room, "  ")]
        for i, row in members:
            label = ", ".join(filter(None, (name, row.label))) if alone or not row.label else f"  {row.label}"
            indent = "  " if alone or not row.label else "   "
            first, *rest = _wrapped(label, room, indent) or [""]
            lines.append([first, *numbers[i]])
            lines += [[text] for text in rest]
            lines += _spreads(row, places, len(leads))
    heads = [["method" if n == 0 else "", *head] for n, head in enumerate(heads)]
    return pipe_table(heads, lines, ["left", *["center"] * len(leads), *["right"] * len(places)])


def _category_heads(places: Sequence[Place]) -> list[str]:
    """Each category over the first of its columns."""
    before = ["", *(category for category, _ in places)]
    return [category if category != left else "" for (category, _), left in zip(places, before, strict=False)]


def _text(cell: Cell | None, best: float | None) -> str:
    if cell is None:
        return ""
    return f"**{cell.text}**" if cell.value == best else cell.text


def _best(rows: Sequence[Row], places: Iterable[Place]) -> dict[Place, float]:
    """The best measured value of each column that has several."""
    found = {place: [row.cells[place].value for row in rows if row.records and place in row.cells] for place in places}
    return {place: max(values) for place, values in found.items() if len(values) > 1}


def _spreads(row: Row, places: Sequence[Place], leads: int) -> Iterator[list[str]]:
    """The lines below a row's numbers: half intervals, deviations over seeds."""
    for mark, values in (
        ("±", [row.cells[place].half if place in row.cells else math.nan for place in places]),
        ("sd", [row.cells[place].sd if place in row.cells else math.nan for place in places]),
    ):
        if not all(map(math.isnan, values)):
            yield [f"    {mark}", *[""] * leads, *("" if math.isnan(value) else f"{value:.1f}" for value in values)]


def pipe_table(heads: Sequence[Sequence[str]], lines: Iterable[Sequence[str]], align: Sequence[str]) -> str:
    """A markdown table, padded; further heads are its first lines. Short lines are filled with empty cells.

    tabulate would strip the blanks that indent a label.
    """
    body = [*heads, *lines]
    cells = [[_escaped(text) for text in [*line, *[""] * (len(align) - len(line))]] for line in body]
    sizes = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    pad = {"left": str.ljust, "center": str.center, "right": str.rjust}
    rules = {"left": ":{}-", "center": ":{}:", "right": "-{}:"}
    shown = [
        "| " + " | ".join(pad[a](text, size) for a, text, size in zip(align, line, sizes, strict=True)) + " |"
        for line in cells
    ]
    rule = "|" + "|".join(rules[a].format("-" * size) for a, size in zip(align, sizes, strict=True)) + "|"
    return "\n".join([shown[0], rule, *shown[1:]]) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r"(?<=\S)\s+", " ", text.rstrip()).replace("|", "\\|")
