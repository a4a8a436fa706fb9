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
from benchmark.records.rows import (
    AVERAGE,
    BINOMIAL,
    COMPOSITION,
    COMPOSITION_NAMES,
    PAIRED,
    Cell,
    Place,
    Row,
    has_enough_seeds,
)

WIDTH = 100
"""Columns that a table takes at most where no terminal says otherwise; bold cells add their marks."""

TIE_MARKS = {PAIRED: "≈", BINOMIAL: "ᵇ"}
"""Behind a number that is not told from the best of its column."""

_STYLES = re.compile(r"\*\*|~~")
"""Marks of our own that a page does not show as characters."""

_METRIC_ORDER = ("R@", "R_subset@", "mAP@")
_ORDER_WITH_TARGETS = ("mAP@", "R_target@", "R@")
"""Where several pictures are right and one was asked for, the precision over all of them is the main number."""
_NARROWEST_LABEL, _NARROW_LABEL = 12, 24


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
    """Recalls by cut-off, then subset recalls, then mAP, then composition, then means, each name once; with targets mAP
    stands first."""
    names = set(names)
    kinds = _ORDER_WITH_TARGETS if any(name.startswith("R_target@") for name in names) else _METRIC_ORDER

    def order(name: str) -> tuple[int, int, str]:
        match = re.fullmatch(r"(\w+@)(\d+)", name)
        if match and match[1] in kinds:
            return kinds.index(match[1]), int(match[2]), name
        if name in COMPOSITION_NAMES:
            return len(kinds), COMPOSITION_NAMES.index(name), name
        return len(kinds) + 1, 0, name

    return sorted(names, key=order)


def short_name(metric: str) -> str:
    """What stands over a column: "Rs@1" for R_subset@1, "Rt@5" for R_target@5, "mean" for the average of papers."""
    return "mean" if components(metric) else metric.replace("R_subset@", "Rs@").replace("R_target@", "Rt@")


def places_of(rows: Iterable[Row]) -> list[Place]:
    """The columns of a table: categories by name, their average last, each with its metrics in order.

    As papers print it, a mean over metrics stands under the average alone, where there is one; and where queries have
    a target among their positives, the recall of any positive is left to the record.
    """
    metrics: dict[str, list[str]] = {}
    for row in rows:
        for category, metric in row.cells:
            metrics.setdefault(category, []).append(metric)
    if AVERAGE in metrics:
        for category in metrics.keys() - {AVERAGE}:
            metrics[category] = [name for name in metrics[category] if not components(name)]
    for category, names in metrics.items():
        if any(name.startswith("R_target@") for name in names):
            metrics[category] = [name for name in names if not name.startswith("R@")]
    categories = sorted(metrics, key=lambda name: (name == AVERAGE, name))
    return [(category, metric) for category in categories for metric in metric_order(metrics[category])]


def every_place(rows: Sequence[Row]) -> list[Place]:
    """The columns of a table, and behind them those of composition, where it is known of a row."""
    names = [name for name in COMPOSITION_NAMES if any(name in row.composition for row in rows)]
    return [*places_of(rows), *((COMPOSITION, name) for name in names)]


def table_of_rows(
    rows: Sequence[Row], width: int = WIDTH, ticks: Mapping[str, Sequence[str]] | None = None, bold: bool = False
) -> str:
    """Rows as a markdown table; ``ticks``: columns of one word per row in front of the numbers.

    Rows of one name stand below it. A name or label that finds no room goes on in the next line.
    """
    places, leads = places_of(rows), dict(ticks or {})
    best = best_measured(rows, places) if bold else {}
    texts = [[_text(row, place, best.get(place)) for place in places] for row in rows]
    heads = [[""] * len(leads) + _category_heads(places)] if any(category for category, _ in places) else []
    heads.append([*leads, *(short_name(metric) for _, metric in places)])
    numbers = [[*(lead[i] for lead in leads.values()), *texts[i]] for i in range(len(rows))]
    sizes = [max(map(_shown_length, column)) for column in zip(*heads, *numbers, strict=True)]
    taken = sum(max(size, 3) + 3 for size in sizes) + len("|  |")
    # Where names would have little room, no blank stands behind the numbers.
    is_tight = width - taken < _NARROW_LABEL
    room = max(width - taken + is_tight * (len(sizes) + 1), _NARROWEST_LABEL)
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
            lines += _spreads(row, places, len(leads), room)
    heads = [["method" if n == 0 else "", *head] for n, head in enumerate(heads)]
    return pipe_table(heads, lines, ["left", *["center"] * len(leads), *["right"] * len(places)], is_tight)


def _category_heads(places: Sequence[Place]) -> list[str]:
    """Each category over the first of its columns."""
    before = ["", *(category for category, _ in places)]
    return [category if category != left else "" for (category, _), left in zip(places, before, strict=False)]


def _text(row: Row, place: Place, best: float | None) -> str:
    cell = row.cells.get(place)
    if cell is None:
        return ""
    if cell.wrong:
        return f"~~{cell.text}~~"
    is_bold = cell.value == best and has_enough_seeds(row.records)
    return (f"**{cell.text}**" if is_bold else cell.text) + TIE_MARKS.get(cell.tie, "")


def best_measured(rows: Sequence[Row], places: Iterable[Place]) -> dict[Place, float]:
    """The best measured value of each column that has several."""
    found = {place: [row.cells[place].value for row in rows if row.records and place in row.cells] for place in places}
    return {place: max(values) for place, values in found.items() if len(values) > 1}


def _spreads(row: Row, places: Sequence[Place], leads: int, room: int) -> Iterator[list[str]]:
    """The lines below a row's numbers: half intervals, deviations over seeds, and its own further ones.

    Half intervals of published numbers are binomial, and follow from the number and n: they take no line.
    """
    cells: list[Cell | None] = [row.cells.get(place) for place in places]
    for mark, values in (
        ("±", [cell.half if cell and row.records else math.nan for cell in cells]),
        ("sd", [cell.sd if cell else math.nan for cell in cells]),
    ):
        if not all(map(math.isnan, values)):
            yield [f"    {mark}", *[""] * leads, *("" if math.isnan(value) else f"{value:.1f}" for value in values)]
    for label, texts in row.below:
        first, *rest = _wrapped(f"    {label}", room, "     ")
        yield [first, *[""] * leads, *(texts.get(place, "") for place in places)]
        yield from ([text] for text in rest)


def pipe_table(
    heads: Sequence[Sequence[str]], lines: Iterable[Sequence[str]], align: Sequence[str], is_tight: bool = False
) -> str:
    """A markdown table, padded; further heads are its first lines. Short lines are filled with empty cells.

    ``is_tight``: without a blank behind each cell.

    tabulate would strip the blanks that indent a label.
    """
    body = [*heads, *lines]
    cells = [[_escaped(text) for text in [*line, *[""] * (len(align) - len(line))]] for line in body]
    sizes = [max(3, *map(_shown_length, column)) for column in zip(*cells, strict=True)]
    pad = {"left": str.ljust, "center": str.center, "right": str.rjust}
    behind = "" if is_tight else " "
    rules = {"left": ":{}" + "-" * len(behind), "center": ":{}:"[: 3 + len(behind)], "right": "-" * len(behind) + "{}:"}
    shown = []
    for line in cells:
        padded = [pad[a](text, size + len(text) - _shown_length(text))
                  for a, text, size in zip(align, line, sizes, strict=True)]  # fmt: skip
        shown.append("".join(f"| {text}{behind}" for text in padded) + "|")
    rule = "|" + "|".join(rules[a].format("-" * size) for a, size in zip(align, sizes, strict=True)) + "|"
    return "\n".join([shown[0], rule, *shown[1:]]) + "\n"


def _shown_length(text: str) -> int:
    return len(_STYLES.sub("", text))


def _escaped(text: str) -> str:
    return re.sub(r"(?<=\S)\s+", " ", text.rstrip()).replace("|", "\\|")
