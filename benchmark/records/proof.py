"""Whether a record's numbers follow from the ranks beside it: every metric, average, interval and count is made again.

What a test server measured, and what older records kept no ranks of, cannot be derived again; that is told, and is
no fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.dataset import IntArray, Ragged
from benchmark.evaluation.metrics import (
    ASPECT_METRIC,
    FloatArray,
    interval,
    mean_over_categories,
    metric_values,
    values_by_aspect,
)
from benchmark.evaluation.per_query import PerQuery
from benchmark.records.record import Record, Result, read_per_query, schema_version_of
from benchmark.records.rows import AVERAGE

_EXACT = 1e-6
"""Percent by which sums in another order may differ."""
_FIRST_WITH_PROOF = 4
"""The first version whose ranks prove all metrics; a record of it without ranks is a fault."""


@dataclass(frozen=True)
class Proof:
    """``faults``: numbers that do not fit the ranks; ``measured_elsewhere``, ``without_ranks``: those that no ranks
    can prove, a test server's and an older record's. All in words. ``ranks``: by the index of the result."""

    faults: tuple[str, ...]
    measured_elsewhere: tuple[str, ...]
    without_ranks: tuple[str, ...]
    ranks: Mapping[int, PerQuery]


def prove(folder: Path, record: Record, with_intervals: bool = True) -> Proof:
    """Hold the record of a folder against the ranks in it.

    Intervals are drawn again 2,000 times each; whoever has proved them once can leave them out. Raises UserError
    where the ranks' file is missing, or is not the one that the record was written with.
    """
    ranks = read_per_query(folder, record)
    faults: list[str] = []
    elsewhere: list[str] = []
    unproved: list[str] = []
    for index, result in enumerate(record.results):
        where = f"{result.key}, {result.weights_from}"
        if result.measured_by == "server":
            elsewhere.append(f"{where}: measured by the test server")
        elif result.metrics and result.category == AVERAGE:
            faults += (f"{where}: {fault}" for fault in _average_faults(record, result))
        elif index in ranks:
            for name, reason in _result_faults(result, ranks[index], with_intervals):
                missing_places = name.startswith("mAP@") and ranks[index].positive_ranks is None
                (unproved if missing_places else faults).append(f"{where}: {reason}")
        elif result.metrics and schema_version_of(folder) < _FIRST_WITH_PROOF and not record.files:
            unproved.append(f"{where}: an older record, kept without its ranks")
        elif result.metrics:
            faults.append(f"{where}: no ranks of it lie beside the record")
    return Proof(tuple(faults), tuple(elsewhere), tuple(unproved), ranks)


def _result_faults(result: Result, ranks: PerQuery, with_intervals: bool) -> Iterator[tuple[str, str]]:
    """What does not fit, each with the name of its metric ("" for counts)."""
    for reason in _count_faults(result, ranks):
        yield "", reason
        return  # nothing else can be held against ranks of other queries
    scored = ranks.rank > 0
    if result.metrics and not scored.any():
        yield "", "no query of its ranks has a right answer"
        return
    for name, value in result.metrics.items():
        values = metric_values(name, ranks.rank, ranks.subset_rank, ranks.positive_ranks, ranks.target_rank)
        if values is None:
            yield name, f"{name} does not follow from its ranks"
            continue
        ends = result.intervals.get(name) if with_intervals else None
        yield from ((name, fault) for fault in _number_faults(name, value, ends, values, ranks.group[scored]))
    yield from ((ASPECT_METRIC, fault) for fault in _aspect_faults(result, ranks, with_intervals))


def _number_faults(
    name: str, value: float, ends: tuple[float, float] | None, values: FloatArray, group: IntArray
) -> Iterator[str]:
    """A number, and the ends of its interval where they are to be proved, against its queries' values."""
    if abs(100 * float(values.mean()) - value) > _EXACT:
        yield f"{name} is {value:.2f}, its ranks give {100 * float(values.mean()):.2f}"
    elif ends is not None:
        low, high = interval(values, group)
        # Another version of NumPy may draw other groups.
        slack = 0.1 * (high - low) + 0.01
        if max(abs(low - ends[0]), abs(high - ends[1])) > slack:
            told = "{:.2f} to {:.2f}".format(*ends)
            yield f"the interval of {name} is {told}, its ranks give {low:.2f} to {high:.2f}"


def _aspect_faults(result: Result, ranks: PerQuery, with_intervals: bool) -> Iterator[str]:
    values = metric_values(ASPECT_METRIC, ranks.rank, None, ranks.positive_ranks)
    known = {} if ranks.aspects is None or values is None else values_by_aspect(values, ranks.rank, ranks.aspects)
    for aspect in sorted(known.keys() ^ result.aspects.keys()):
        yield f"{ASPECT_METRIC} of {aspect} stands in the record or follows from its ranks, not both"
    for aspect in known.keys() & result.aspects.keys():
        told, (own, queries) = result.aspects[aspect], known[aspect]
        if told.queries != len(own):
            yield f"{aspect} has {told.queries:,} queries, its ranks {len(own):,}"
        else:
            ends, group = told.interval if with_intervals else None, ranks.group[queries]
            yield from _number_faults(f"{ASPECT_METRIC} of {aspect}", told.value, ends, own, group)


def _count_faults(result: Result, ranks: PerQuery) -> Iterator[str]:
    if len(set(ranks.ids)) != ranks.queries:
        yield "its ranks name a query twice"
    if result.ties > result.queries:
        yield f"ties in {result.ties:,} of {result.queries:,} queries"
    for name, found in (
        ("rank", ranks.rank), ("subset rank", ranks.subset_rank), ("target rank", ranks.target_rank),
        ("rank by picture", ranks.picture_rank), ("rank by text", ranks.text_rank),
        ("rank by prompt", ranks.prompt_rank),
    ):  # fmt: skip
        if found is not None and not _within(found, result.gallery):
            yield f"a {name} lies outside of 0 to {result.gallery:,}, the gallery's size"
    for rank, places, by in (
        (ranks.rank, ranks.positive_ranks, ""),
        (ranks.picture_rank, ranks.picture_positive_ranks, " by picture"),
        (ranks.text_rank, ranks.text_positive_ranks, " by text"),
    ):
        if rank is not None and places is not None and not _best_are(rank, places, result.gallery):
            yield f"the best of its positives' places{by} are not its ranks{by}"
    if ranks.target_rank is not None and not _are_among(ranks.target_rank, ranks.positive_ranks):
        yield "a target's rank is none of its query's positives"


def _best_are(rank: IntArray, places: Ragged, gallery: int) -> bool:
    """Whether a query's rank is the best place of its positives, and 0 where it has none."""
    some = places.sizes() > 0
    if not _within(places.values, gallery) or not np.array_equal(rank > 0, some):
        return False
    best = np.minimum.reduceat(places.values, places.offsets[:-1][some]) if some.any() else rank[:0]
    return np.array_equal(best, rank[some])


def _are_among(ranks: IntArray, places: Ragged | None) -> bool:
    """Whether each query's rank is that of one of its positives, and 0 where it has none."""
    if places is None:
        return False
    sizes = places.sizes()
    found = np.repeat(ranks, sizes) == places.values
    owners = np.repeat(np.arange(len(sizes)), sizes)[found]
    return np.array_equal(np.unique(owners), np.flatnonzero(ranks > 0)) and not ranks[sizes == 0].any()


def _within(ranks: IntArray, gallery: int) -> bool:
    return bool(ranks.min(initial=0) >= 0 and ranks.max(initial=0) <= gallery)


def _average_faults(record: Record, average: Result) -> Iterator[str]:
    """A mean over categories against the categories of the same column and weights."""
    parts = {
        other.category: other
        for other in record.results
        if other is not average and other.category not in ("", AVERAGE) and _column(other) == _column(average)
    }
    if not parts:
        yield "a mean over categories that the record does not hold"
        return
    means = mean_over_categories({name: dict(part.metrics) for name, part in parts.items()})
    for name, value in average.metrics.items():
        if abs(means.get(name, np.inf) - value) > _EXACT:
            told = f"{means[name]:.2f}" if name in means else "nothing"
            yield f"{name} is {value:.2f}, its categories give {told}"
    for name in ("queries", "gallery", "ties", "texts_cut"):
        found, wanted = getattr(average, name), sum(getattr(part, name) for part in parts.values())
        if found != wanted:
            yield f"{name} is {found:,}, its categories have {wanted:,}"


def _column(result: Result) -> tuple[str, ...]:
    return result.split, result.protocol, result.text_mode, result.weights_from, result.measured_by
