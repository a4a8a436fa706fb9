"""What the ranks beside records say of a table's numbers: intervals of averages, and tie groups.

A column's *tie group* holds the rows that are not told from its best: by the paired sign-flip test over groups of
queries where both rows have ranks of the same queries, else by their binomial errors (or half intervals). p-values of
one column are corrected by Holm for all of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from benchmark.comparison.sides import Comparable, Side, comparables
from benchmark.comparison.statistics import (
    STANDARD_ERRORS,
    Stratum,
    bootstrap,
    group_differences,
    holm,
    percentile_interval,
    sign_flip_test,
)
from benchmark.dataset import TaskKey
from benchmark.errors import UserError
from benchmark.evaluation.metrics import REPLICATES, metric_values
from benchmark.evaluation.per_query import PerQuery
from benchmark.records.layout import places_of
from benchmark.records.rows import AVERAGE, BINOMIAL, PAIRED, Cell, Place, Row
from benchmark.records.tables import Table

SIGNIFICANCE = 0.05

KeptRanks = Mapping[str, Mapping[int, PerQuery]]
"""Per-query results by the digest of their file, then by the index of the record's result."""

NO_RANKS: KeptRanks = MappingProxyType({})


def with_uncertainty(table: Table, kept: KeptRanks) -> Table:
    """The table with what the ranks of its rows add."""
    sides = [side_of(row, kept) for row in table.rows]
    rows = [
        replace(row, cells={**row.cells, **dict(_average_intervals(row, side))}) if side else row
        for row, side in zip(table.rows, sides, strict=True)
    ]
    return replace(table, rows=tuple(_with_ties(rows, sides)))


def side_of(row: Row, kept: KeptRanks) -> Side | None:
    """The row's ranks, a task each; None where a record of it has none."""
    queries: list[dict[TaskKey, PerQuery]] = []
    for number, record in enumerate(row.records):
        ranks = kept.get(record.files["per_query"].sha256 if "per_query" in record.files else "", {})
        wanted = {(results[number].key, results[number].weights_from) for results in row.results.values()
                  if number < len(results)}  # fmt: skip
        queries.append(
            {r.key: ranks[i] for i, r in enumerate(record.results) if i in ranks and (r.key, r.weights_from) in wanted}
        )
    return Side(row.name, row.records, tuple(queries)) if queries and all(queries) else None


def _average_intervals(row: Row, side: Side) -> Iterator[tuple[Place, Cell]]:
    """Half intervals of averages over categories, which no record holds: groups are drawn within each category."""
    parts = sorted((key for key in side.keys() if key.category), key=str)
    for place, cell in row.cells.items():
        if place[0] != AVERAGE or not math.isnan(cell.half):
            continue
        halves = []
        for of_seed in side.queries:
            strata = [_stratum(of_seed[key], place[1]) for key in parts]
            if parts and all(strata):
                drawn = bootstrap([stratum for stratum in strata if stratum], replicates=REPLICATES)[:, 0]
                low, high = percentile_interval(100 * drawn)
                halves.append((high - low) / 2)
        if halves:
            yield place, cell._replace(half=float(np.mean(halves)))


def _stratum(queries: PerQuery, metric: str) -> Stratum | None:
    values = metric_values(metric, queries.rank, queries.subset_rank, queries.positive_ranks, queries.target_rank)
    return None if values is None else Stratum(queries.group[queries.rank > 0], (values[None],))


def _with_ties(rows: Sequence[Row], sides: Sequence[Side | None]) -> list[Row]:
    cells = [dict(row.cells) for row in rows]
    pairs: dict[tuple[int, int], dict[str, Comparable]] = {}
    for place in places_of(rows):
        shown = [i for i, row in enumerate(rows) if place in row.cells and not row.cells[place].wrong]
        if len(shown) < 2:
            continue
        best = max(shown, key=lambda i: rows[i].cells[place].value)
        found: dict[int, tuple[str, float]] = {}
        for i in shown:
            if i != best:
                found[i] = _test(place, (rows[best], sides[best]), (rows[i], sides[i]), pairs.setdefault((best, i), {}))
        known = [i for i, (test, _) in found.items() if test]
        tied = [i for i, p in zip(known, holm([found[i][1] for i in known]), strict=True) if p > SIGNIFICANCE]
        for i in tied:
            cells[i][place] = cells[i][place]._replace(tie=found[i][0])
        if tied:
            tests = {found[i][0] for i in tied}
            cells[best][place] = cells[best][place]._replace(tie=PAIRED if PAIRED in tests else BINOMIAL)
    return [replace(row, cells=own) for row, own in zip(rows, cells, strict=True)]


def _test(
    place: Place, best: tuple[Row, Side | None], other: tuple[Row, Side | None], pair: dict[str, Comparable]
) -> tuple[str, float]:
    """Which test was possible, "" for none, and its p-value."""
    if best[1] is not None and other[1] is not None:
        if not pair:
            pair.update(_comparables(best[1], other[1]))
        comparable = pair.get(place[0])
        if comparable is not None and place[1] in comparable.metrics:
            return PAIRED, sign_flip_test(group_differences(comparable.strata(place[1]), 0, 1))
    mine, theirs = best[0].cells[place], other[0].cells[place]
    error = math.hypot(mine.half, theirs.half) / STANDARD_ERRORS
    if math.isnan(error):
        return "", 1.0
    if error == 0:
        return BINOMIAL, float(mine.value == theirs.value)
    return BINOMIAL, math.erfc(abs(mine.value - theirs.value) / error / math.sqrt(2))


def _comparables(best: Side, other: Side) -> dict[str, Comparable]:
    """By category; empty where the two are not of the same queries."""
    try:
        return {comparable.key.category: comparable for comparable in comparables([best, other])}
    except UserError:
        return {}
