"""What two or more sides differ by, task by task and metric by metric, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmark.comparison.sides import Comparable, Side, comparables, read_sides
from benchmark.comparison.statistics import (
    REPLICATES,
    Stratum,
    bootstrap,
    group_differences,
    holm,
    means,
    percentile_interval,
    sign_flip_test,
)
from benchmark.dataset import TaskKey
from benchmark.errors import unknown_name
from benchmark.evaluation.metrics import FloatArray
from benchmark.records.layout import metric_order

MOST_DIFFERENT = 10


@dataclass(frozen=True)
class MetricDifference:
    """``first`` minus ``second`` in one metric of one task, in points (percent of the queries).

    ``low, high``: 95 % interval by bootstrap over groups of queries and over seeds, pairwise where both sides have
    the same ones. ``p``: of a sign-flip test over groups, for these seeds, averaged; ``p_holm``: corrected for
    all differences of the comparison.
    ``wins, ties, losses``: queries on which the first side is better, equal, worse (seeds averaged); what
    is no tie decides.
    """

    key: TaskKey
    metric: str
    first: str
    second: str
    first_value: float
    second_value: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    wins: int
    ties: int
    losses: int
    queries: int
    groups: int


@dataclass(frozen=True)
class QueryDifference:
    """A query on which two sides differ much: the rank of its best positive, the geometric mean over seeds."""

    key: TaskKey
    query: str
    first: str
    second: str
    first_rank: float
    second_rank: float


@dataclass(frozen=True)
class Comparison:
    """``seeds``: per side its label and how many runs it has. ``left_out``: tasks that only some sides have."""

    seeds: tuple[tuple[str, int], ...]
    differences: tuple[MetricDifference, ...]
    queries: tuple[QueryDifference, ...]
    left_out: tuple[TaskKey, ...] = ()


def compare(*runs: str | Path, metrics: Sequence[str] = (), seed: int = 0, replicates: int = REPLICATES) -> Comparison:
    """Compare runs (folders or records) on the same queries; seeds of one configuration are one side.

    ``metrics`` restricts what is compared, and with it what Holm's correction counts; ``seed`` is of the
    random draws. Raises UserError where the runs cannot be compared: other data, protocol, text mode or
    split, or no results per query.
    """
    sides = read_sides(map(Path, runs))
    found = comparables(sides)
    known = metric_order({metric for comparable in found for metric in comparable.metrics})
    for metric in metrics:
        if metric not in known:
            raise unknown_name("metric", metric, known)
    differences = [
        difference
        for comparable in found
        for difference in differences_of(comparable, metrics or known, sides, seed, replicates)
    ]
    corrected = holm([difference.p for difference in differences])
    keys = [side.keys() for side in sides]
    shared: set[TaskKey] = set.intersection(*keys)
    return Comparison(
        seeds=tuple((side.label, len(side.records)) for side in sides),
        differences=tuple(replace(d, p_holm=p) for d, p in zip(differences, corrected, strict=True)),
        queries=tuple(query for comparable in found for query in _most_different(comparable, sides)),
        left_out=tuple(sorted(set.union(*keys) - shared, key=str)),
    )


def differences_of(
    comparable: Comparable, metrics: Sequence[str], sides: Sequence[Side], seed: int, replicates: int
) -> Iterator[MetricDifference]:
    """Of every two sides in each of these metrics that they have, not corrected for their number."""
    strata = {metric: comparable.strata(metric) for metric in metric_order(comparable.metrics) if metric in metrics}
    values = {metric: 100 * means(found) for metric, found in strata.items()}
    drawn = {metric: 100 * bootstrap(found, seed, replicates, comparable.seeds) for metric, found in strata.items()}
    for first, second in combinations(range(len(sides)), 2):
        for metric, found in strata.items():
            gains = _gains(found, first, second)
            by_group = group_differences(found, first, second)
            low, high = percentile_interval(drawn[metric][:, first] - drawn[metric][:, second])
            one, other = float(values[metric][first]), float(values[metric][second])
            p = sign_flip_test(by_group, seed)
            yield MetricDifference(
                comparable.key, metric, sides[first].label, sides[second].label, one, other, one - other, low, high,
                p, p_holm=p, wins=int((gains > 0).sum()), ties=int((gains == 0).sum()),
                losses=int((gains < 0).sum()), queries=len(gains), groups=len(by_group),
            )  # fmt: skip


def _gains(strata: Sequence[Stratum], first: int, second: int) -> FloatArray:
    """By how much the first side is better on each query, seeds averaged, (Q,) of all strata."""
    parts = [stratum.values[first].mean(axis=0) - stratum.values[second].mean(axis=0) for stratum in strata]
    # Means of different numbers of seeds are equal up to a rounding.
    return np.concatenate(parts).round(9)


def _most_different(comparable: Comparable, sides: Sequence[Side]) -> Iterator[QueryDifference]:
    """Of each pair of sides, the queries with the largest ratio of ranks; an average repeats its categories'."""
    if len(comparable.ids) > 1:
        return
    (ids,), logs = comparable.ids, comparable.log_ranks()
    for first, second in combinations(range(len(sides)), 2):
        ratio = np.abs(logs[first] - logs[second])
        for i in np.argsort(-ratio, kind="stable")[:MOST_DIFFERENT]:
            if ratio[i] > 0:
                yield QueryDifference(
                    comparable.key, ids[i], sides[first].label, sides[second].label,
                    float(np.exp(logs[first][i])), float(np.exp(logs[second][i])),
                )  # fmt: skip
