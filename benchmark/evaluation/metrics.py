"""What papers report, from ranks: recalls, mean average precision, their averages, and 95 % intervals, in percent.

A query without positives (rank 0: hidden labels) takes no part.

Intervals are by bootstrap over groups of queries. Queries that share a picture set, a reference or a product
fail and succeed together; resampling them one by one gives intervals that are too narrow. So whole groups are
drawn with replacement, as many as there are, and the mean over all drawn queries is one replicate (Davison and
Hinkley 1997, section 3.8: the cluster bootstrap).

Notation: Q queries, of which N have positives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.dataset import IntArray, Ragged, Task

if TYPE_CHECKING:
    # Tables read the names of metrics, and are made without waiting for torch.
    from benchmark.evaluation.ranking import Ranks

FloatArray = NDArray[np.float64]

LEVEL = 0.95
REPLICATES = 2000
ASPECT_METRIC = "mAP@10"
"""What is told of the queries of one aspect."""
_CELLS = 2**22
_AT = re.compile(r"(R|R_subset|R_target|mAP)@(\d+)")
_AVERAGE = re.compile(r"mean\((.+)\)|\((.+)\)/2")


def components(metric: str) -> tuple[str, ...]:
    """The metrics that an average is the mean of, by its name: "(R@5+R_subset@1)/2", "mean(R@10,R@50)".

    Empty for a metric that is no average.
    """
    match = _AVERAGE.fullmatch(metric)
    return tuple(re.split(r"[,+]", match[1] or match[2])) if match else ()


def average_precision_at(positive_ranks: Ragged, k: int) -> FloatArray:
    """AP@k of every query (Q,), between 0 and 1; mAP@k is its mean over the queries with positives.

    The sum, over the positives with a rank r of at most k, of the precision at r (the share of
    positives among the first r), divided by min(k, number of positives). Without positives: 0.
    """
    sizes = positive_ranks.sizes()
    owner = np.repeat(np.arange(len(sizes)), sizes)
    ranks = positive_ranks.values[np.lexsort((positive_ranks.values, owner))]
    found = np.arange(1, len(ranks) + 1) - np.repeat(positive_ranks.offsets[:-1], sizes)
    total = np.bincount(owner, weights=np.where(ranks <= k, found / ranks, 0.0), minlength=len(sizes))
    return total / np.maximum(np.minimum(sizes, k), 1)


def target_ranks(positive_ranks: Ragged, task: Task) -> IntArray | None:
    """The place (Q,) of each query's target in the whole list, 0 without positives; None where the task names none.

    ``positive_ranks``: of the task's positives, in their order.
    """
    queries = task.queries
    if queries.target is None:
        return None
    owner = np.repeat(np.arange(len(queries)), queries.positives.sizes())
    is_target = queries.positives.values == queries.target[owner]
    ranks = np.zeros(len(queries), dtype=np.int64)
    ranks[owner[is_target]] = positive_ranks.values[is_target]
    return ranks


def metric_values(
    metric: str,
    rank: IntArray,
    subset_rank: IntArray | None,
    positive_ranks: Ragged | None,
    target_rank: IntArray | None = None,
) -> FloatArray | None:
    """A metric's value of every query with positives, (N,), between 0 and 1; the metric is their mean.

    ``rank``, ``subset_rank``, ``target_rank`` (Q,), ``positive_ranks`` of Q sets. None where the metric, told by its
    name, does not follow from the ranks that are given.
    """
    if parts := components(metric):
        every = [metric_values(part, rank, subset_rank, positive_ranks, target_rank) for part in parts]
        values = [value for value in every if value is not None]
        return np.asarray(np.mean(values, axis=0)) if len(values) == len(every) else None
    match = _AT.fullmatch(metric)
    kind, k = (match[1], int(match[2])) if match else ("", 0)
    scored = rank > 0
    if kind == "R":
        return (rank[scored] <= k).astype(np.float64)
    if kind == "R_subset" and subset_rank is not None:
        return (subset_rank[scored] <= k).astype(np.float64)
    if kind == "R_target" and target_rank is not None:
        return ((target_rank[scored] > 0) & (target_rank[scored] <= k)).astype(np.float64)
    if kind == "mAP" and positive_ranks is not None:
        return average_precision_at(positive_ranks, k)[scored]
    return None


def query_values(ranks: Ranks, task: Task) -> dict[str, FloatArray]:
    """Every metric's :func:`metric_values`, in the order of a table.

    ``R@k`` (any positive) for the task's cut-offs, for the same ``mAP@k`` where some query has several positives and
    ``R_target@k`` where one of these is its target, ``R_subset@k`` where the task has subsets, and the average that
    papers report on this task. Empty where all labels are hidden.
    """
    if not (ranks.rank > 0).any():
        return {}
    names = [f"R@{k}" for k in task.cutoffs]
    names += [f"mAP@{k}" for k in task.cutoffs] if task.queries.has_several_positives else []
    target_rank = target_ranks(ranks.positive_ranks, task)
    names += [f"R_target@{k}" for k in task.cutoffs] if target_rank is not None else []
    names += [f"R_subset@{k}" for k in task.subset_cutoffs] if ranks.subset_rank is not None else []
    parts = components(task.average)
    names += [task.average] if parts and set(parts) <= set(names) else []
    columns = (ranks.rank, ranks.subset_rank, ranks.positive_ranks, target_rank)
    values = {name: metric_values(name, *columns) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def task_metrics(ranks: Ranks, task: Task) -> dict[str, float]:
    """The metrics of a task in percent, by the names of :func:`query_values`."""
    return {name: 100.0 * float(values.mean()) for name, values in query_values(ranks, task).items()}


def task_intervals(ranks: Ranks, task: Task) -> dict[str, tuple[float, float]]:
    """The interval of every metric of a task, by the names of :func:`query_values`."""
    group = task.queries.group[ranks.rank > 0]
    return {name: interval(values, group) for name, values in query_values(ranks, task).items()}


def values_by_aspect(
    values: FloatArray, rank: IntArray, aspects: Sequence[Sequence[str]]
) -> dict[str, tuple[FloatArray, IntArray]]:
    """Of every aspect the values of the queries that have it, and their numbers among Q; those with most queries first.

    ``values`` (N,): a metric's :func:`metric_values`. A query counts under each of its ``aspects`` (Q,).
    """
    members: dict[str, list[int]] = {}
    scored = np.flatnonzero(rank > 0)
    for place, query in enumerate(scored.tolist()):
        for aspect in aspects[query]:
            members.setdefault(aspect, []).append(place)
    found = {name: np.asarray(places, dtype=np.int64) for name, places in members.items()}
    order = sorted(found, key=lambda name: (-len(found[name]), name))
    return {name: (values[found[name]], scored[found[name]]) for name in order}


def mean_over_categories(by_category: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Every metric that all categories have, averaged with equal weight (FashionIQ's mean of three)."""
    tables = list(by_category.values())
    shared = [name for name in tables[0] if all(name in table for table in tables)] if tables else []
    return {name: float(np.mean([table[name] for table in tables])) for name in shared}


def interval(hits: ArrayLike, group: IntArray, seed: int = 0, replicates: int = REPLICATES) -> tuple[float, float]:
    """Low and high end, in percent, of the 95 % interval of the mean of ``hits``.

    ``hits`` (Q,): hit or miss, or any value of a query between 0 and 1. ``group`` (Q,): queries of
    equal number are drawn together. Where resampling says nothing, the ends are still defined:

    - all hits, or all misses: the exact binomial interval of Clopper and Pearson with one trial a
      group, so that 10 groups of hits give 69.2 to 100 and not 100 to 100;
    - one group only, neither: 0 to 100.

    Raises ValueError without queries, or for values outside of 0 to 1.
    """
    values = np.asarray(hits, dtype=np.float64)
    if not len(values) or values.shape != np.shape(group) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("an interval needs one value between 0 and 1 and one group per query")
    _, member = np.unique(group, return_inverse=True)
    sizes = np.bincount(member)
    if values.min() == values.max() and values.min() in (0.0, 1.0):
        certain = 100.0 * ((1 - LEVEL) / 2) ** (1 / len(sizes))
        return (certain, 100.0) if values.min() == 1.0 else (0.0, 100.0 - certain)
    if len(sizes) == 1:
        return 0.0, 100.0
    sums = np.bincount(member, values).astype(np.float64)
    drawn = resampled(sums[None], sizes, np.random.default_rng(seed), replicates)
    means = np.concatenate([totals[:, 0] / weights for totals, weights in drawn])
    low, high = 100.0 * np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resampled(
    sums: NDArray[np.float64], sizes: IntArray, generator: np.random.Generator, replicates: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Sums and sizes of resampled groups, a block of replicates at a time: ``(r, N)`` and ``(r,)``.

    ``sums`` (N, G): of N values over each of G groups, which are drawn together. Groups of equal sums and
    size are exchangeable, so that only how often each kind is drawn matters: a multinomial draw over the kinds.
    """
    kinds, count = np.unique(np.vstack([sums, sizes]), axis=1, return_counts=True)
    step = max(1, _CELLS // len(count))
    for start in range(0, replicates, step):
        size = min(start + step, replicates) - start
        drawn = generator.multinomial(len(sizes), count / len(sizes), size=size) @ kinds.T
        yield drawn[:, :-1], drawn[:, -1]
