"""Tables for reading, made of rows: what stands in one table, and what has to be known to read it.

A table holds one dataset, split, protocol and text mode; its columns are metrics, under their
categories where a task has some (FashionIQ's dress, shirt, toptee and average). What keeps a number from
being taken for another (demo, published, which epoch) is said in the heading and in the label; everything else that
has to be known stands once below the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmark.dataset import TaskKey
from benchmark.errors import first_of
from benchmark.evaluation.metrics import components
from benchmark.records.identity import DataIdentity
from benchmark.records.layout import TIE_MARKS, WIDTH, listed, paragraph, places_of, short_name, table_of_rows
from benchmark.records.measurement import format_cost
from benchmark.records.record import Record, Result
from benchmark.records.rows import (
    AVERAGE,
    BINOMIAL,
    COMPOSITION,
    COMPOSITION_PRECISION,
    PAIRED,
    PRECISION_GAP,
    Row,
    format_facts,
    plain,
    rows_of,
)

SYNTHETIC = "synthetic pictures"
DEMO = f"demo, {SYNTHETIC}"
DEMO_CAPTION = f"{DEMO}, ranks no methods"

_MEASURED = "measured here"

_COMPOSITION_TITLE = f"{COMPOSITION[0].upper()}{COMPOSITION[1:]}"
COMPOSITION_READING = (
    f"{_COMPOSITION_TITLE} (of the average, where there are categories; of rows with ranks of one modality alone on "
    "their own encoder): picture, text: either alone; gap: method - max(picture, text); one: queries that one modality "
    "solves; hard: the method's recall on the others"
)
"""What its columns are, a sentence without its full stop."""
_PRECISION_READING = f"; {PRECISION_GAP}: the gap of {COMPOSITION_PRECISION}, of all positives, not of the best one"

Printed = tuple[Sequence[Row], Sequence[str]]
"""Published rows of one table, and the notes below it that are theirs."""


@dataclass(frozen=True)
class Table:
    """Rows of one ``key`` (its category left out). ``remark`` says what the data is where it is not the official
    one; ``notes`` are those of published rows; ``bold`` marks the best measured value of each column."""

    key: TaskKey
    remark: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    bold: bool = False

    @property
    def heading(self) -> str:
        return f"{self.key}{self.remark}"

    def body(self, width: int = WIDTH) -> str:
        """The table alone, markdown."""
        return table_of_rows(self.rows, width, bold=self.bold)

    @property
    def composed(self) -> tuple[Row, ...]:
        """The rows whose composition is known, with that alone: one table of all columns would be wider than a page."""
        return tuple(
            replace(row, cells={("", name): cell for name, cell in row.composition.items()}, below=(), composition={})
            for row in self.rows
            if row.composition
        )

    @property
    def composition_reading(self) -> str:
        """What the columns of its composition are."""
        is_precise = any(PRECISION_GAP in row.composition for row in self.rows)
        return COMPOSITION_READING + _PRECISION_READING * is_precise

    def composition(self, width: int = WIDTH, reading: str = "") -> str:
        """Of the rows of which it is known, under how it reads; "" where there are none."""
        composed, told = self.composed, reading or self.composition_reading
        return f"{paragraph([told], width)}\n{table_of_rows(composed, width)}" if composed else ""

    def caption(self) -> list[str]:
        """What makes the numbers readable, a sentence each: how many queries, what ± and short names mean."""
        measured = [row for row in self.rows if row.records]
        return [*_sizes(measured), *([_reading(self.rows)] if self.rows else [])]

    def all_notes(self) -> list[str]:
        """What has to be known beyond the caption, a sentence each."""
        measured = [row for row in self.rows if row.records]
        mark = "Measured: " if len(measured) < len(self.rows) else ""
        return [*(f"{mark}{note}" for note in notes_of(measured)), *self.notes]

    def content(self, width: int = WIDTH) -> str:
        """Caption, table and notes."""
        parts = [paragraph(self.caption(), width), self.body(width), self.composition(width)]
        return "\n".join([*filter(None, parts), listed(self.all_notes(), width)])


def format_demo_end(dataset: str) -> str:
    """The last line of what prints numbers of demo data."""
    return f"Demo, {SYNTHETIC}: these numbers say nothing about {dataset} and rank no methods."


def tables(
    records: Iterable[Record], bold: bool = False, published: Mapping[TaskKey, Printed] | None = None
) -> list[Table]:
    """One table per dataset, split, protocol, text mode and share of noisy training triplets, sorted.

    ``bold`` marks the best measured value of each metric; demo data never has a best. ``published``:
    rows that stand below the measured ones of official data, by key without a category; what has no record
    is a table of these alone.
    """
    printed = dict(published or {})
    found: dict[_Block, list[tuple[Record, Result]]] = {(key, False, True, 0.0): [] for key in printed}
    for record in records:
        data = record.identity.data
        for result in record.results:
            if result.metrics and data is not None:
                noise = record.identity.noise
                share = noise.share if noise is not None else 0.0
                block = replace(result.key, category=""), data.is_demo, data.is_official and not data.different, share
                found.setdefault(block, []).append((record, result))
    made = []
    for (key, is_demo, is_official, share), pairs in sorted(found.items(), key=lambda block: _order(*block[0])):
        rows, notes = printed.get(key, ((), ())) if is_official and not share else ((), ())
        measured = rows_of(pairs)
        if rows:
            measured = [replace(row, label=_among_published(row)) for row in measured]
        data = pairs[0][0].identity.data if pairs else None
        told = [pair[0].identity.noise for pair in pairs[:1]]
        remark = "".join(f" · {noise.words}" for noise in told if noise is not None)
        remark += _remark(data) if data else ""
        made.append(Table(key, remark, (*measured, *rows), tuple(notes), bold and not is_demo))
    return made


_Block = tuple[TaskKey, bool, bool, float]
"""What stands in one table: a column, whether demo and official, the share of training triplets that are noisy."""


def _order(key: TaskKey, is_demo: bool, is_official: bool, share: float) -> tuple[str | bool | float, ...]:
    return (key.dataset, key.split, key.protocol, key.text_mode, is_demo, is_official, share)


def _among_published(row: Row) -> str:
    return row.label if row.result.measured_by == "server" else f"{row.label}, {_MEASURED}"


def _remark(data: DataIdentity) -> str:
    if data.is_demo:
        return f": {DEMO_CAPTION}"
    if not data.is_official:
        return f": own data, not the official {data.name}"
    return f": annotations not the official ones ({plain(first_of(data.different))})" if data.different else ""


def run_table(record: Record, width: int = WIDTH) -> str:
    """What `run` prints: all tables of one record, what they have in common once, and what its method costs."""
    unlabelled = [f"{r.key}: ranked, not scored, since its labels are hidden" for r in record.results if not r.metrics]
    cost = [f"Cost: {format_cost(record.cost)}"] if record.cost is not None else []
    parts = [format_tables(tables([record]), width, more=cost)] if len(unlabelled) < len(record.results) else []
    return "\n".join([*parts, *(f"{line}\n" for line in unlabelled)]).rstrip("\n")


def format_tables(found: Sequence[Table], width: int = WIDTH, mark: str = "", more: Sequence[str] = ()) -> str:
    """Tables under their headings, which ``mark`` begins; what is true of all is said once.

    ``more``: sentences that follow the notes.
    """
    everywhere = [note for note in found[0].all_notes() if all(note in table.all_notes() for table in found)]
    parts, said = [], set[str]()
    for table in found:
        caption = [sentence for sentence in table.caption() if sentence not in said]
        said.update(caption)
        own = [note for note in table.all_notes() if note not in everywhere]
        parts.append(f"{mark}{table.heading}\n")
        parts += [paragraph(caption, width)] if caption else []
        reading = table.composition_reading
        shown = table.composition(width, _COMPOSITION_TITLE if reading in said else reading)
        parts += filter(None, [table.body(width), shown])
        said.update([reading] if table.composed else [])
        parts += [listed(own, width)] if own else []
    if everywhere or more:
        parts += ["Of all tables:\n"] if everywhere and len(found) > 1 else []
        parts.append(listed([*everywhere, *more], width))
    return "\n".join(parts)


def _sizes(rows: Sequence[Row]) -> Iterator[str]:
    """How many queries and pictures, where that is the same for all rows."""
    found = {_format_sizes(row) for row in rows}
    if len(found) == 1:
        yield found.pop()


def _format_sizes(row: Row) -> str:
    sizes = {category: results[0] for category, results in row.results.items()}
    if len(sizes) > 1:
        sizes.pop(AVERAGE, None)
    if len({(result.queries, result.gallery) for result in sizes.values()}) == 1 and "" in sizes:
        return f"{sizes[''].queries:,} queries, gallery of {sizes[''].gallery:,} pictures"
    told = ", ".join(f"{name} {result.queries:,} and {result.gallery:,}" for name, result in sorted(sizes.items()))
    return f"Queries and gallery pictures: {told}"


TIES = {
    PAIRED: f"{TIE_MARKS[PAIRED]}: tie group, not told from the column's best by the paired sign-flip test over groups "
    "of queries (p > .05 after Holm's correction in the column)",
    BINOMIAL: f"{TIE_MARKS[BINOMIAL]}: tie group by binomial errors alone, for want of ranks to pair",
}


def _reading(rows: Sequence[Row]) -> str:
    """What the numbers are, and what short names stand for."""
    cells = [cell for row in rows for cell in row.cells.values()]
    several = any(len(row.records) > 1 for row in rows)
    deviation = " (sd: their standard deviation)" * any(not math.isnan(cell.sd) for cell in cells)
    parts = ["Percent" + (f", means over records{deviation}" if several else "")]
    if any(not math.isnan(cell.half) for row in rows if row.records for cell in row.cells.values()):
        parts.append("±: half the 95 % interval over queries (bootstrap over groups of queries)")
    parts += [text for test, text in TIES.items() if any(cell.tie == test for cell in cells)]
    places = places_of(rows)
    if any(metric.startswith("R_subset@") for _, metric in places):
        parts.append("Rs: R_subset")
    if any(metric.startswith("R_target@") for _, metric in places):
        parts.append("Rt: R_target, of the one right picture that the text was written for")
    if categories := sorted({category for category, _ in places} - {AVERAGE, ""}):
        parts += [f"average: over {', '.join(categories)}"] if (AVERAGE in dict(places)) else []
    for parts_of_mean in dict.fromkeys(components(metric) for _, metric in places if components(metric)):
        parts.append(f"mean: ({'+'.join(map(short_name, parts_of_mean))})/{len(parts_of_mean)}")
    return "; ".join(parts)


def notes_of(rows: Sequence[Row], leave_out: Iterable[str] = ()) -> Iterator[str]:
    """What has to be known to read these measured rows, a sentence each; ``leave_out``: facts said elsewhere."""
    if not rows:
        return
    yield from format_facts(rows, leave_out)
    if len({_format_sizes(row) for row in rows}) > 1:
        yield from _per_row(rows, lambda row: [_format_sizes(row)])
    yield from _per_row(rows, _selection_note)
    yield from _leads(rows)
    yield from _per_row(rows, _tie_note)
    yield from _per_row(rows, _reduction_notes)
    yield from _per_row(rows, _result_notes)


def _per_row(rows: Sequence[Row], notes: Callable[[Row], Iterable[str]]) -> Iterator[str]:
    """The notes of each row behind the names of the rows that have them, each text once."""
    yield from (f"{who}: {note}" for note, who in _named(rows, notes).items())


def _named(rows: Sequence[Row], notes: Callable[[Row], Iterable[str]]) -> dict[str, str]:
    """Each note of rows, with the names of those that have it."""
    named: dict[str, list[str]] = {}
    for row in rows:
        for note in notes(row):
            names = named.setdefault(note, [])
            if row.name not in names:
                names.append(row.name)
    everyone = list(dict.fromkeys(row.name for row in rows))
    found = {}
    for note, names in named.items():
        others = [name for name in everyone if name not in names]
        if len(names) == 1 or len(others) >= len(names):
            found[note] = ", ".join(names)
        else:
            found[note] = f"All but {', '.join(others)}" if others else "All"
    return found


def _selection_note(row: Row) -> Iterator[str]:
    if row.result.weights_from == "selected":
        yield from dict.fromkeys(r.identity.selection_note for r in row.records if r.identity.selection_note)


def _leads(rows: Sequence[Row]) -> Iterator[str]:
    """By how much selected epochs lead, in one sentence for all rows."""
    found = _named(rows, _lead)
    if len(found) == 1:
        yield from (f"{who}: selected epochs lead the next best by {lead}" for lead, who in found.items())
    elif found:
        yield "Selected epochs lead the next best " + "; ".join(f"by {lead}: {who}" for lead, who in found.items())


def _lead(row: Row) -> Iterator[str]:
    """Of a row's stages, the least over its seeds."""
    margins: dict[str, list[float]] = {}
    for chosen in (chosen for record in row.records for chosen in record.selected):
        if chosen.margin is not None and row.result.weights_from == "selected":
            margins.setdefault(chosen.stage, []).append(chosen.margin)
    if margins:
        told = ", ".join(f"{min(of_seeds):.2f} ({stage})" for stage, of_seeds in margins.items())
        yield f"{'at least ' * (len(row.records) > 1)}{told}"


def _tie_note(row: Row) -> Iterator[str]:
    parts = [results for category, results in row.results.items() if category != AVERAGE or len(row.results) == 1]
    counts = sorted({sum(result.ties for result in seed) for seed in zip(*parts, strict=False)})
    if counts[-1]:
        span = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        yield f"the best positive ties with another picture in {span} queries; ties count against the method"


def _reduction_notes(row: Row) -> Iterator[str]:
    identity = row.first.identity
    if identity.limit:
        yield f"limited to {identity.limit} by --limit: no result to compare"
    if identity.noise is not None:
        held = "; so are those held out for the selection" if identity.selection == "heldout" else ""
        yield f"training triplets noisy by scheme {identity.noise.scheme}, its seed {identity.noise.seed}{held}"
    if identity.zero_shot:
        names = ", ".join(f"{plain(name)} ({digest[:12]})" for name, digest in (identity.training_files or {}).items())
        yield f"zero-shot: trained on {names}, and on no triplet" if names else "zero-shot: no triplet was seen"
    if identity.missing_pictures:
        count, first = len(identity.missing_pictures), plain(identity.missing_pictures[0])
        yield f"{count:,} pictures were missing (the first: {first}); listed in the record"
    if identity.skipped_triplets or identity.skipped_pictures:
        yield (
            f"{len(identity.skipped_pictures):,} bad pictures and {identity.skipped_triplets:,} triplets "
            "were left out of training"
        )
    seeds = [record.identity.seed for record in row.records]
    if len(set(seeds)) < len(seeds):
        yield f"{len(seeds)} records of {len(set(seeds))} seeds; each enters the mean"


def _result_notes(row: Row) -> Iterator[str]:
    if row.result.measured_by == "server":
        yield "numbers returned by the official test server"
    of_category: dict[str, list[str]] = {}
    for category, results in row.results.items():
        for note in dict.fromkeys(note.rstrip(".") for result in results for note in result.notes):
            of_category.setdefault(note, []).append(category)
    every = row.results.keys() - {AVERAGE}
    for note, categories in of_category.items():
        named = [category for category in categories if category not in ("", AVERAGE)]
        # An average has the notes of its first category.
        yield f"{', '.join(named)}: {note}" if named and len(named) < len(every) else note
