"""Published numbers as rows of tables, with their sources numbered.

A number stands as its source prints it, with as many decimals. Two marks, each explained below the
table: an average that the row's own numbers do not give, and one that the source does not print.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal

import pandas as pd

from benchmark.dataset import TaskKey
from benchmark.leaderboards.published import PublishedNumber, Recomputed, recomputed
from benchmark.leaderboards.published_schema import SOURCE_KINDS
from benchmark.records.tables import NUMBERS, Beside, metric_order

_DIFFERS, _NOT_PRINTED = "†", "‡"


@dataclass(frozen=True)
class _Row:
    """The numbers of a method with a backbone in one block, and the averages made from them."""

    first: PublishedNumber
    printed: Mapping[tuple[str, str], PublishedNumber]
    averages: Mapping[tuple[str, str], Recomputed]

    @classmethod
    def of(cls, numbers: Sequence[PublishedNumber]) -> _Row:
        return cls(numbers[0], {(n.key.category, n.metric): n for n in numbers}, recomputed(numbers))

    @property
    def order(self) -> tuple[int, str, str]:
        return self.first.year, self.first.method.lower(), self.first.backbone

    @property
    def name(self) -> str:
        return f"{self.first.method} [{self.first.backbone}]"

    def mark(self, place: tuple[str, str]) -> str:
        made = self.averages.get(place)
        if made is None or (made.printed is not None and not made.differs):
            return ""
        return _DIFFERS if made.differs else _NOT_PRINTED

    def cell(self, place: tuple[str, str]) -> str:
        if place in self.printed:
            return f"{self.printed[place].value} {self.mark(place)}".strip()
        return f"{_rounded(self.averages[place].value)} {_NOT_PRINTED}" if place in self.averages else ""


def block_of(key: TaskKey) -> TaskKey:
    """The column without its category: what has a heading of its own on a page."""
    return replace(key, category="")


def published_rows(numbers: Sequence[PublishedNumber]) -> dict[TaskKey, Beside]:
    """The rows of every column that has a printed number, the oldest first."""
    sources = _numbered_sources(numbers)
    blocks: dict[TaskKey, list[PublishedNumber]] = {}
    for number in numbers:
        blocks.setdefault(block_of(number.key), []).append(number)
    found = {}
    for block, members in blocks.items():
        by_row: dict[tuple[str, str], list[PublishedNumber]] = {}
        for number in members:
            by_row.setdefault(number.row, []).append(number)
        rows = sorted(map(_Row.of, by_row.values()), key=lambda row: row.order)
        for category in dict.fromkeys(n.key.category for n in members):
            metrics = metric_order(n.metric for n in members if n.key.category == category)
            places = [(category, metric) for metric in metrics]
            found[replace(block, category=category)] = _beside(rows, places, sources)
    return found


def references(numbers: Sequence[PublishedNumber]) -> str:
    """The foot of a page: numbered sources, what their kinds mean, and the methods' papers."""
    if not numbers:
        return ""
    kinds = sorted({n.source_kind for n in numbers})
    papers: dict[str, dict[str, None]] = {}
    for number in sorted(numbers, key=lambda n: (n.year, n.paper, n.method.lower())):
        told = f"{number.paper}, {number.venue} {number.year}"
        papers.setdefault(told, {})[number.method] = None
    sources = "".join(f"- [{i}] {source}\n" for source, i in _numbered_sources(numbers).items())
    meanings = "".join(f"- {kind}: {SOURCE_KINDS[kind]}\n" for kind in kinds)
    methods = "".join(f"- {paper}: {'; '.join(names)}\n" for paper, names in papers.items())
    return (
        "## Sources of the published numbers\n\nFrom `published.csv`, which has only numbers that were read in "
        f"the source named:\n\n{sources}\nThe word before a source's number is its kind:\n\n{meanings}\n"
        f"## Papers of the published methods\n\n{methods}"
    )


def _numbered_sources(numbers: Iterable[PublishedNumber]) -> dict[str, int]:
    """Sources in the order of the file, counted from 1."""
    return {source: i for i, source in enumerate(dict.fromkeys(n.source for n in numbers), start=1)}


def _beside(rows: Sequence[_Row], places: Sequence[tuple[str, str]], sources: Mapping[str, int]) -> Beside:
    """``places``: the category of the table with each of its metrics."""
    shown = [row for row in rows if any(map(row.cell, places))]
    described = pd.DataFrame(
        {
            "method": [row.first.method for row in shown],
            NUMBERS: [_cited(row, places, sources) for row in shown],
            "encoder": [row.first.backbone for row in shown],
            "published": [f"{row.first.venue} {row.first.year}" for row in shown],
        }
    )
    metrics = pd.DataFrame({place[1]: [row.cell(place) for row in shown] for place in places})
    return Beside(described, metrics, tuple(_notes(shown, places)))


def _cited(row: _Row, places: Sequence[tuple[str, str]], sources: Mapping[str, int]) -> str:
    """Kind and number of the source; of several, the one of most numbers first, the others with theirs."""
    cited: dict[tuple[str, str], list[str]] = {}
    for place in places:
        if place in row.printed:
            number = row.printed[place]
            cited.setdefault((number.source_kind, number.source), []).append(number.metric)
    most, *others = sorted(cited.items(), key=lambda c: (-len(c[1]), sources[c[0][1]])) or [(("", ""), [])]
    if not most[1]:
        return f"from its categories {_NOT_PRINTED}"
    told = [f"{most[0][0]} [{sources[most[0][1]]}]"]
    told += [f"{', '.join(metrics)}: {kind} [{sources[source]}]" for (kind, source), metrics in others]
    return "; ".join(told)


def _notes(rows: Sequence[_Row], places: Sequence[tuple[str, str]]) -> Iterator[str]:
    differing = []
    for row in rows:
        told = [
            f"{metric} {_rounded(row.averages[category, metric].value)}"
            for category, metric in places
            if row.mark((category, metric)) == _DIFFERS
        ]
        if told:
            differing.append(f"{row.name} {', '.join(told)}")
    yield "Published: percent, as the source prints it; nothing about seeds or intervals is known."
    if differing:
        yield f"{_DIFFERS} as printed, but the row's own numbers give another average: {'; '.join(differing)}."
    if any(row.mark(place) == _NOT_PRINTED for row in rows for place in places):
        yield f"{_NOT_PRINTED} not printed by the source; made here from the row's own numbers."


def _rounded(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.01"), ROUND_HALF_UP)
