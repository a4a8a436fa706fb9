"""Tables of results, made from records; a leaderboard gives rows from elsewhere to stand beside.

A table is one column key (dataset, split, protocol, text mode, category); its rows are methods,
its columns metrics. Records that agree in all of their identity but the seed share a row; nothing
else is ever averaged. Drawn demo data is named as such in every line.

A cell of one seed reads "24.40 ± 2.1": the value and half its 95 % interval. A cell of several
reads "24.40 (sd 0.6) ± 2.1": their mean, their standard deviation, half their mean interval.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from tabulate import tabulate

from benchmark.dataset import TaskKey
from benchmark.records.cost_words import cost_line
from benchmark.records.record import DataIdentity, Record, Result
from benchmark.records.rows import Row, described, distinct_names, rows_of

DRAWN = "drawn pictures"
DRAWN_DEMO = f"demo, {DRAWN}"
_METRIC_ORDER = ("R@", "R_subset@", "mAP@")


@dataclass(frozen=True)
class Table:
    """One table as text. ``remark`` says what the data is where it is not the official one;
    ``body`` is the markdown table, ``notes`` stand below it."""

    key: TaskKey
    is_demo: bool
    remark: str
    body: str
    notes: tuple[str, ...]

    @property
    def block(self) -> str:
        """Heading of all tables that differ only in category."""
        return f"{replace(self.key, category='')}{self.remark}"

    def content(self) -> str:
        """Table and notes."""
        mark = f"{DRAWN[0].upper()}{DRAWN[1:]}: " if self.is_demo else ""
        return f"{self.body}\n\n" + "".join(
            f"- {mark}{' '.join(note.split())}\n" for note in self.notes
        )


@dataclass(frozen=True)
class Beside:
    """Rows from elsewhere that stand below the measured ones of the same column, as text.

    ``described``: columns that say what a row is, "method" first; ``metrics``: a column per metric,
    with as many rows; ``notes`` stand below the table.
    """

    described: pd.DataFrame
    metrics: pd.DataFrame
    notes: tuple[str, ...]


NUMBERS = "numbers"
"""The column that tells measured rows from others, where both stand in one table."""

MEASURED = {"this run": "measured here", "server": "measured by the server"}


def tables(
    records: Iterable[Record], bold: bool = False, beside: Mapping[TaskKey, Beside] | None = None
) -> list[Table]:
    """One table per column key, sorted; averages before their categories.

    ``bold`` marks the best measured value of each metric; demo data never has a best. ``beside``:
    rows for the tables of official data; a column that has no record is a table of these alone.
    """
    others = dict(beside or {})
    columns: dict[tuple[TaskKey, bool, bool], list[tuple[Record, Result]]] = {}
    for record in records:
        data = record.identity.data
        for result in record.results:
            if result.metrics and data is not None:
                columns.setdefault((result.key, data.is_demo, data.is_official), []).append((record, result))
    for key in others:
        columns.setdefault((key, False, True), [])
    return [
        _table(c[0], columns[c], bold, others.get(c[0]) if c[1:] == (False, True) else None)
        for c in sorted(columns, key=lambda c: (_key_order(c[0]), c[1:]))
    ]


def run_table(record: Record) -> str:
    """What `run` prints: all tables of one record, and what its method costs in use."""
    blocks = [f"{table.key}{table.remark}\n\n{table.content()}" for table in tables([record])]
    unlabelled = [
        f"{r.key}: ranked, not scored, since its labels are hidden\n" for r in record.results if not r.metrics
    ]
    mark = f"{DRAWN.capitalize()}: " if record.identity.data is not None and record.identity.data.is_demo else ""
    cost = [f"- {mark}Cost: {cost_line(record.cost)}.\n"] if record.cost is not None else []
    return "\n".join([*blocks, *unlabelled, *cost])


def metric_order(names: Iterable[str]) -> list[str]:
    """Recalls by cut-off, then subset recalls, then mAP, then means, each name once."""

    def order(name: str) -> tuple[int, int, str]:
        match = re.fullmatch(r"(\w+@)(\d+)", name)
        if match and match[1] in _METRIC_ORDER:
            return _METRIC_ORDER.index(match[1]), int(match[2]), name
        return len(_METRIC_ORDER), 0, name

    return sorted(set(names), key=order)


def summary(rows: Sequence[Row]) -> pd.DataFrame:
    """Statistics over seeds: one line per row and metric, with ``mean``, ``sd``, ``half``, ``seeds``.

    ``sd`` is the standard deviation over seeds (NaN for one), ``half`` half of the mean interval
    over queries (NaN where none was made). Values are percent.
    """
    long = pd.DataFrame(
        [
            {"row": number, "metric": metric, "value": value, "half": _half_interval(result, metric)}
            for number, row in enumerate(rows)
            for result in row.results
            for metric, value in result.metrics.items()
        ]
    )
    grouped = long.groupby(["row", "metric"])
    return pd.DataFrame(
        {
            "mean": grouped["value"].mean(),
            "sd": grouped["value"].std(),
            "half": grouped["half"].mean(),
            "seeds": grouped["value"].count(),
        }
    )


def _half_interval(result: Result, metric: str) -> float:
    low, high = result.intervals.get(metric, (float("nan"), float("nan")))
    return (high - low) / 2


def _cell(mean: float, sd: float, half: float) -> str:
    spread = "" if math.isnan(sd) else f" (sd {sd:.1f})"
    interval = "" if math.isnan(half) else f" ± {half:.1f}"
    return f"{mean:.2f}{spread}{interval}"


def _table(
    key: TaskKey, pairs: Sequence[tuple[Record, Result]], bold: bool, beside: Beside | None
) -> Table:
    """``pairs`` may be empty where rows stand beside them."""
    parts = [_measured(rows_of(pairs), bold, beside is not None)] if pairs else []
    parts += [beside] if beside is not None else []
    shown = pd.concat([part.described for part in parts], ignore_index=True).fillna("")
    values = pd.concat([part.metrics for part in parts], ignore_index=True).fillna("")
    metrics = metric_order(values.columns)
    body = tabulate(
        [[_escaped(cell) for cell in line] for line in shown.join(values[metrics]).to_numpy().tolist()],
        headers=[_escaped(name) for name in [*shown.columns, *metrics]],
        tablefmt="pipe",
        colalign=["left"] * shown.shape[1] + ["right"] * len(metrics),
        disable_numparse=True,
    )
    notes = tuple(note for part in parts for note in part.notes)
    data = pairs[0][0].identity.data if pairs else None
    return Table(key, data is not None and data.is_demo, _remark(data) if data else "", body, notes)


def _measured(rows: Sequence[Row], bold: bool, among_others: bool) -> Beside:
    """Rows made from records. ``among_others``: they are named as measured, and so are their notes."""
    data = rows[0].first.identity.data
    assert data is not None
    shown, common = described(rows)
    mark = f" ({DRAWN_DEMO})" if data.is_demo else ""
    names = [name + mark for name in distinct_names(rows, shown)]
    if among_others and "encoder" in common:
        shown.insert(0, "encoder", common.pop("encoder"))
    if among_others:
        shown.insert(0, NUMBERS, [MEASURED[row.results[0].measured_by] for row in rows])
    shown.insert(0, "method", names)
    notes = tuple(notes_of(rows, common))
    if among_others:
        notes = tuple(f"Measured: {note}" for note in notes)
    return Beside(shown, metric_cells(rows, bold and not data.is_demo), notes)


def metric_cells(rows: Sequence[Row], bold: bool = False) -> pd.DataFrame:
    """A column of text per metric, in order, one line per row; ``bold`` marks the best of each."""
    statistics = summary(rows)
    metrics = metric_order(name for row in rows for result in row.results for name in result.metrics)
    return pd.DataFrame({metric: _metric_column(statistics, metric, len(rows), bold) for metric in metrics})


def _metric_column(statistics: pd.DataFrame, metric: str, rows: int, bold: bool) -> list[str]:
    """One cell per row; rows without the metric have an empty one."""
    lines = statistics.xs(metric, level="metric").reindex(range(rows))
    best = lines["mean"].max() if bold and lines["mean"].count() > 1 else None
    cells = []
    for mean, sd, half in lines[["mean", "sd", "half"]].to_numpy(dtype=float).tolist():
        text = "" if math.isnan(mean) else _cell(mean, sd, half)
        cells.append(f"**{text}**" if mean == best else text)
    return cells


def _escaped(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _key_order(key: TaskKey) -> tuple[str, str, str, str, bool, str]:
    return (key.dataset, key.split, key.protocol, key.text_mode, key.category != "average", key.category)


def _remark(data: DataIdentity) -> str:
    if data.is_demo:
        return f" ({DRAWN_DEMO}; it shows that everything works and ranks no methods)"
    return "" if data.is_official else f" (own data, not the official {data.name})"


def notes_of(rows: Sequence[Row], common: Mapping[str, str]) -> Iterator[str]:
    """What has to be known to read these rows; ``common``: what all of them share."""
    if common:
        every = "; ".join(f"{name}: {text}" for name, text in common.items())
        yield f"{'All rows' if len(rows) > 1 else 'This row'}: {every}."
    yield from _size_notes(rows)
    yield _reading_note(rows)
    yield from _per_row(rows, _selection_note)
    yield from _per_row(rows, _tie_note)
    yield from _per_row(rows, _reduction_notes)
    yield from _per_row(rows, _result_notes)


def _size_notes(rows: Sequence[Row]) -> Iterator[str]:
    sizes = {(r.queries, r.gallery) for row in rows for r in row.results}
    if len(sizes) == 1:
        queries, gallery = sizes.pop()
        yield f"{queries:,} queries, gallery of {gallery:,} pictures."
        return
    yield from _per_row(rows, lambda row: [
        f"{row.results[0].queries:,} queries, gallery of {row.results[0].gallery:,} pictures"
    ])


def _reading_note(rows: Sequence[Row]) -> str:
    reading = "Percent; ± half the 95 % interval over queries (bootstrap over groups of queries)"
    if any(len(row.results) > 1 for row in rows):
        reading += "; several seeds: mean, standard deviation over seeds (sd), mean interval"
    return reading + "."


def _per_row(rows: Sequence[Row], notes: Callable[[Row], Iterable[str]]) -> Iterator[str]:
    """The notes of each row behind the names of the rows that have them, each text once."""
    named: dict[str, list[str]] = {}
    for row in rows:
        for note in notes(row):
            names = named.setdefault(note, [])
            if row.name not in names:
                names.append(row.name)
    everyone = {row.name for row in rows}
    for note, names in named.items():
        yield f"{'All' if set(names) == everyone and len(names) > 1 else ', '.join(names)}: {note}."


def _selection_note(row: Row) -> Iterator[str]:
    if row.results[0].weights_from == "selected":
        yield from dict.fromkeys(r.identity.selection_note for r in row.records if r.identity.selection_note)


def _tie_note(row: Row) -> Iterator[str]:
    counts = sorted({result.ties for result in row.results})
    if counts[-1]:
        span = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        yield f"the best positive ties with another picture in {span} queries; ties count against the method"


def _reduction_notes(row: Row) -> Iterator[str]:
    identity = row.first.identity
    if identity.limit:
        yield f"limited to {identity.limit} by --limit: no result to compare"
    if identity.missing_pictures:
        count = len(identity.missing_pictures)
        first = identity.missing_pictures[0]
        yield f"{count:,} pictures were missing (the first: {first}); listed in the record"
    if identity.skipped_triplets or identity.skipped_pictures:
        yield (
            f"{len(identity.skipped_pictures):,} bad pictures and {identity.skipped_triplets:,} triplets "
            "were left out of training"
        )
    if row.superseded:
        yield f"{row.superseded} earlier records of the same seed are not shown"


def _result_notes(row: Row) -> Iterator[str]:
    if row.results[0].measured_by == "server":
        yield "numbers returned by the official test server"
    yield from dict.fromkeys(note.rstrip(".") for result in row.results for note in result.notes)
