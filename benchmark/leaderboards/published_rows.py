"""Published numbers as rows of tables, with their sources numbered.

A number stands as its source prints it, with as many decimals. Two marks, each explained below the
table: an average that the row's own numbers do not give, and one that the source does not print.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal

from benchmark.dataset import TaskKey
from benchmark.leaderboards.published import SOURCE_KINDS, PublishedNumber, Recomputed, recomputed
from benchmark.records.layout import short_name
from benchmark.records.rows import AVERAGE, Cell, Place, Row
from benchmark.records.tables import Printed

_DIFFERS, _NOT_PRINTED = "†", "‡"


@dataclass(frozen=True)
class PrintedNumbers:
    """The numbers of a method with a backbone in one block, and the averages made from them."""

    first: PublishedNumber
    printed: Mapping[Place, PublishedNumber]
    averages: Mapping[Place, Recomputed]

    @classmethod
    def of(cls, numbers: Sequence[PublishedNumber]) -> PrintedNumbers:
        return cls(numbers[0], {(n.key.category, n.metric): n for n in numbers}, recomputed(numbers))

    @property
    def order(self) -> tuple[int, str, str]:
        return self.first.year, self.first.method.lower(), self.first.backbone

    @property
    def name(self) -> str:
        return f"{self.first.method} [{self.first.backbone}]"

    def mark(self, place: Place) -> str:
        made = self.averages.get(place)
        if made is None or (made.printed is not None and not made.differs):
            return ""
        return _DIFFERS if made.differs else _NOT_PRINTED

    def cell(self, place: Place) -> Cell | None:
        """The number as it is printed, else the average made from the others, behind its mark; None without either."""
        if place in self.printed:
            value = self.printed[place].value
        elif place in self.averages:
            value = _rounded(self.averages[place].value)
        else:
            return None
        return Cell(f"{value}{self.mark(place)}", float(value))

    def row(self, places: Iterable[Place], sources: Mapping[str, int]) -> Row:
        cells = {place: cell for place in places if (cell := self.cell(place)) is not None}
        by_kind: dict[str, list[str]] = {}
        for kind, source in self._cited(cells, sources):
            by_kind.setdefault(kind, []).append(str(sources[source]))
        cited = "; ".join(f"{kind} [{', '.join(numbers)}]" for kind, numbers in by_kind.items())
        return Row(self.first.method, f"{self.first.backbone}, {self.first.year}, {cited}", cells)

    def _cited(self, places: Iterable[Place], sources: Mapping[str, int]) -> dict[tuple[str, str], list[Place]]:
        """What is read in each source, by its kind and name, the one of most numbers first."""
        cited: dict[tuple[str, str], list[Place]] = {}
        for place in places:
            if place in self.printed:
                cited.setdefault((self.printed[place].source_kind, self.printed[place].source), []).append(place)
        return dict(sorted(cited.items(), key=lambda c: (-len(c[1]), sources[c[0][1]])))

    def other_sources(self, places: Iterable[Place], sources: Mapping[str, int]) -> str:
        """Which numbers are not of the first source that the row names, "" where all are."""
        _, *others = self._cited(places, sources).items()
        told = "; ".join(f"{', '.join(map(_format_place, at))}: [{sources[source]}]" for (_, source), at in others)
        return f"{self.name} {told}" if told else ""


def block_of(key: TaskKey) -> TaskKey:
    """The column without its category: what has a table of its own on a page."""
    return replace(key, category="")


def published_rows(numbers: Sequence[PublishedNumber]) -> dict[TaskKey, Printed]:
    """The rows of every block that has a printed number, the oldest first, and the notes below them."""
    sources = _numbered_sources(numbers)
    blocks: dict[TaskKey, list[PublishedNumber]] = {}
    for number in numbers:
        blocks.setdefault(block_of(number.key), []).append(number)
    found: dict[TaskKey, Printed] = {}
    for block, members in blocks.items():
        by_row: dict[tuple[str, str], list[PublishedNumber]] = {}
        for number in members:
            by_row.setdefault(number.row, []).append(number)
        printed = sorted(map(PrintedNumbers.of, by_row.values()), key=lambda row: row.order)
        # An average is made only in a column that some source prints.
        places = list(dict.fromkeys((n.key.category, n.metric) for n in members))
        found[block] = [row.row(places, sources) for row in printed], tuple(_notes(printed, places, sources))
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


def _notes(
    rows: Sequence[PrintedNumbers], places: Sequence[Place], sources: Mapping[str, int]
) -> Iterator[str]:
    differing = []
    for row in rows:
        told = [
            f"{_format_place(place)} {_rounded(row.averages[place].value)}"
            for place in places
            if row.mark(place) == _DIFFERS
        ]
        if told:
            differing.append(f"{row.name} {', '.join(told)}")
    yield "Published: percent, as the source prints it; nothing about seeds or intervals is known"
    if others := list(filter(None, (row.other_sources(places, sources) for row in rows))):
        yield f"Not from the first source that the row names: {'; '.join(others)}"
    if differing:
        yield f"{_DIFFERS} as printed, but the row's own numbers give another average: {'; '.join(differing)}"
    if any(row.mark(place) == _NOT_PRINTED for row in rows for place in places):
        yield f"{_NOT_PRINTED} not printed by the source; made here from the row's own numbers"


def _format_place(place: Place) -> str:
    """Such as "R@10", "dress R@10", or "mean" and "R@10" of the average."""
    category, metric = place
    return short_name(metric) if category in ("", AVERAGE) else f"{category} {short_name(metric)}"


def _rounded(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.01"), ROUND_HALF_UP)
