"""Published numbers as rows of tables, with their sources numbered.

A number stands as its source prints it, with as many decimals. Marks, each explained below the table: an average
that the row's own numbers do not give, one that the source does not print, a number that is in doubt; what is known to
be wrong is struck through. Its error is binomial, as if its queries were independent: nothing else is known of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal

from benchmark.comparison.statistics import STANDARD_ERRORS
from benchmark.dataset import TaskKey
from benchmark.leaderboards.published import DOUBTFUL, SOURCE_KINDS, WRONG, PublishedNumber, schema_of
from benchmark.leaderboards.published_averages import Recomputed, recomputed
from benchmark.leaderboards.reproductions import Reproduction
from benchmark.records.layout import listed, pipe_table, short_name
from benchmark.records.rows import AVERAGE, Cell, Place, Row, plain
from benchmark.records.tables import Printed

_DIFFERS, _NOT_PRINTED, _DOUBTFUL = "†", "‡", "?"


@dataclass(frozen=True)
class PrintedNumbers:
    """The numbers of a method with a backbone in one block, and the averages made from them.

    ``wrong``: what is known to be. ``found``: what others found.
    """

    first: PublishedNumber
    printed: Mapping[Place, PublishedNumber]
    wrong: Mapping[Place, PublishedNumber]
    averages: Mapping[Place, Recomputed]
    found: Sequence[Reproduction] = ()

    @classmethod
    def of(cls, numbers: Sequence[PublishedNumber], found: Sequence[Reproduction] = ()) -> PrintedNumbers:
        of_place = [((n.key.category, n.metric), n) for n in numbers]
        right = {place: n for place, n in of_place if not n.is_wrong}
        wrong = {place: n for place, n in of_place if n.is_wrong}
        return cls(numbers[0], right, wrong, recomputed(numbers), [r for r in found if r.is_of(numbers[0])])

    @property
    def order(self) -> tuple[int, str, str, str]:
        return self.first.year, self.first.method.lower(), self.first.backbone, self.first.rerun_by

    @property
    def name(self) -> str:
        again = f", re-run by {self.first.rerun_by}" if self.first.rerun_by else ""
        return f"{plain(self.first.method)} [{plain(self.first.backbone)}{plain(again)}]"

    def mark(self, place: Place) -> str:
        made = self.averages.get(place)
        doubt = _DOUBTFUL * (place in self.printed and bool(self.printed[place].erratum))
        if made is None or (made.printed is not None and not made.differs):
            return doubt
        return (_DIFFERS if made.differs else "" if place in self.wrong else _NOT_PRINTED) + doubt

    def cell(self, place: Place) -> Cell | None:
        """The number as it is printed, be it wrong, else the average made from the others; None without either."""
        if place in self.printed:
            value = self.printed[place].value
        elif place in self.wrong:
            value = self.wrong[place].value
            return Cell(str(value), float(value), wrong=True)
        elif place in self.averages:
            value = _rounded(self.averages[place].value)
        else:
            return None
        return Cell(f"{value}{self.mark(place)}", float(value), half=self._half(place, float(value)))

    def _half(self, place: Place, value: float) -> float:
        """Half the interval; of a mean over metrics that of one query's hit, which is the widest it can be."""
        schema = schema_of(self.first.key.dataset)
        counts = schema.queries_of(replace(self.first.key, category=place[0])) if schema else ()
        return STANDARD_ERRORS * binomial_error(value, counts)

    def row(self, places: Iterable[Place], sources: Mapping[str, int]) -> Row:
        cells = {place: cell for place in places if (cell := self.cell(place)) is not None}
        by_kind: dict[str, list[str]] = {}
        cited = self._cited(cells, sources)
        for kind, source in cited:
            by_kind.setdefault(kind, []).append(str(sources[source]))
        first = self.first
        told = "; ".join(f"{kind} [{', '.join(numbers)}]" for kind, numbers in by_kind.items())
        again = f", re-run by {plain(first.rerun_by)}" if first.rerun_by else ""
        by: dict[str, dict[Place, str]] = {}
        for reproduction in self.found:
            by.setdefault(reproduction.by, {})[reproduction.place] = f"{reproduction.gap:+}"
        facts = {
            "encoder": first.backbone,
            "year": str(first.year),
            "venue": first.venue,
            "paper": first.paper,
            "source kind": "; ".join(by_kind),
            "source": "; ".join(source for _, source in cited),
            **{name.replace("_", " "): getattr(first, name) for name in ("rerun_by", "extra_data", "language_model")},
            "reproduced": "; ".join(r.told() for r in self.found),
        }
        return Row(
            plain(first.method),
            f"{plain(first.backbone)}{again}, {first.year}, {told}",
            cells,
            below=tuple((f"reproduced, {plain(name)}", gaps) for name, gaps in by.items()),
            published={name: value for name, value in facts.items() if value},
        )

    def _cited(self, places: Iterable[Place], sources: Mapping[str, int]) -> dict[tuple[str, str], list[Place]]:
        """What is read in each source, by its kind and name, the one of most numbers first."""
        cited: dict[tuple[str, str], list[Place]] = {}
        for place in places:
            number = self.printed.get(place) or self.wrong.get(place)
            if number is not None:
                cited.setdefault((number.source_kind, number.source), []).append(place)
        return dict(sorted(cited.items(), key=lambda c: (-len(c[1]), sources[c[0][1]])))

    def other_sources(self, places: Iterable[Place], sources: Mapping[str, int]) -> str:
        """Which numbers are not of the first source that the row names, "" where all are."""
        _, *others = self._cited(places, sources).items()
        told = "; ".join(f"{', '.join(map(_format_place, at))}: [{sources[source]}]" for (_, source), at in others)
        return f"{self.name} {told}" if told else ""


def block_of(key: TaskKey) -> TaskKey:
    """The column without its category: what has a table of its own on a page."""
    return replace(key, category="")


def binomial_error(value: float, queries: Sequence[int]) -> float:
    """Standard error of a percentage, or of a mean of such with one number of queries each; NaN where unknown."""
    if not queries or not 0 <= value <= 100:
        return math.nan
    return math.sqrt(value * (100 - value) * sum(1 / number for number in queries)) / len(queries)


def published_rows(
    numbers: Sequence[PublishedNumber], found_again: Sequence[Reproduction] = ()
) -> dict[TaskKey, Printed]:
    """The rows of every block that has a printed number, the oldest first, and the notes below them."""
    sources = _numbered_sources(numbers)
    blocks: dict[TaskKey, list[PublishedNumber]] = {}
    for number in numbers:
        blocks.setdefault(block_of(number.key), []).append(number)
    found: dict[TaskKey, Printed] = {}
    for block, members in blocks.items():
        by_row: dict[tuple[str, str, str], list[PublishedNumber]] = {}
        for number in members:
            by_row.setdefault(number.row, []).append(number)
        printed = sorted((PrintedNumbers.of(row, found_again) for row in by_row.values()), key=lambda row: row.order)
        # An average is made only in a column that some source prints.
        places = list(dict.fromkeys((n.key.category, n.metric) for n in members))
        found[block] = [row.row(places, sources) for row in printed], tuple(_notes(block, printed, places, sources))
    return found


def references(numbers: Sequence[PublishedNumber]) -> str:
    """The foot of a page: numbered sources, what their kinds mean, and the methods' papers."""
    if not numbers:
        return ""
    kinds = sorted({n.source_kind for n in numbers})
    papers: dict[str, dict[str, None]] = {}
    for number in sorted(numbers, key=lambda n: (n.year, n.paper, n.method.lower())):
        told = f"{number.paper}, {number.venue} {number.year}"
        papers.setdefault(plain(told), {})[plain(number.method)] = None
    sources = "".join(f"- [{i}] {plain(source)}\n" for source, i in _numbered_sources(numbers).items())
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
    block: TaskKey, rows: Sequence[PrintedNumbers], places: Sequence[Place], sources: Mapping[str, int]
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
    yield "Published: percent, as the source prints it; nothing about seeds is known"
    yield _format_errors(block, dict.fromkeys(category for category, _ in places))
    if others := list(filter(None, (row.other_sources(places, sources) for row in rows))):
        yield f"Not from the first source that the row names: {'; '.join(others)}"
    if differing:
        yield f"{_DIFFERS} as printed, but the row's own numbers give another average: {'; '.join(differing)}"
    if any(row.mark(place) == _NOT_PRINTED for row in rows for place in places):
        yield f"{_NOT_PRINTED} not printed by the source; made here from the row's own numbers"
    for kind, mark in ((WRONG, "Struck through, known to be wrong"), (DOUBTFUL, f"{_DOUBTFUL} in doubt")):
        if told := list(_errata(rows, kind)):
            yield f"{mark}: {'; '.join(told)}"
    for name in ("extra_data", "language_model"):
        said: dict[str, list[str]] = {}
        for row in rows:
            if value := getattr(row.first, name):
                said.setdefault(value, []).append(row.name)
        if said:
            told = [f"{', '.join(names)}: {plain(value)}" for value, names in said.items()]
            yield f"{_REMARKS[name]}: {'; '.join(told)}"
    if any(row.found for row in rows):
        yield "Reproduced: what others found less what is printed; by whom and from what, at the foot of the page"


_REMARKS = {
    "extra_data": "Trained on besides this dataset, where it is said",
    "language_model": "A language model takes part, where it is said",
}


def _format_errors(block: TaskKey, categories: Iterable[str]) -> str:
    schema = schema_of(block.dataset)
    told = []
    for category in categories:
        counts = schema.queries_of(replace(block, category=category)) if schema else ()
        errors = [f"{binomial_error(value, counts):.2f} at {value} %" for value in (50, 90)]
        where = "" if category in ("", AVERAGE) else f"{category}: "
        if counts:
            told.append(f"{where}{' and '.join(errors)} on n = {' + '.join(f'{n:,}' for n in counts)} queries")
    if not told:
        return "How many queries the published numbers are of is not known here, nor with it their errors"
    return f"One binomial standard error of a published recall: {'; '.join(told)}"


def _errata(rows: Iterable[PrintedNumbers], kind: str) -> Iterator[str]:
    """Which numbers of which rows have an erratum of a kind, those of one reason together."""
    for row in rows:
        reasons: dict[str, list[str]] = {}
        for place, number in [*row.printed.items(), *row.wrong.items()]:
            if number.erratum.startswith(kind):
                value = f"~~{number.value}~~" if number.is_wrong else number.value
                reasons.setdefault(number.erratum.removeprefix(kind), []).append(f"{_format_place(place)} {value}")
        yield from (f"{row.name} {', '.join(at)}: {plain(reason)}" for reason, at in reasons.items())


def reproduction_section(found_again: Sequence[Reproduction]) -> str:
    """What others found, a line each with all that is known of it; "" without one."""
    if not found_again:
        return ""
    heads = ["method", "number", "published", "found", "gap", "by", "seeds", "hardware"]
    lines = [
        [plain(f"{r.method} [{r.backbone}]"), f"{r.protocol} {_format_place(r.place)}", str(r.published), str(r.found),
         f"{r.gap:+}", plain(r.by), plain(r.seeds), plain(r.hardware)]
        for r in found_again
    ]  # fmt: skip
    remarks = dict.fromkeys(f"{r.method}: {r.source}{f'; {r.remark}' if r.remark else ''}" for r in found_again)
    table = pipe_table([heads], lines, ["left", "left", *["right"] * 3, *["left"] * 3])
    return (
        "## Reproductions\n\nFrom `reproductions.csv`: what others than the authors found; seeds and hardware are "
        f"empty where nobody says them.\n\n{table}\n{listed(map(plain, remarks))}"
    )


def _format_place(place: Place) -> str:
    """Such as "R@10", "dress R@10", or "mean" and "R@10" of the average."""
    category, metric = place
    return short_name(metric) if category in ("", AVERAGE) else f"{category} {short_name(metric)}"


def _rounded(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.01"), ROUND_HALF_UP)
