"""What papers report, from ranks: recalls, mean average precision, and their averages. All in percent.

A query without positives (rank 0: hidden labels) takes no part. Notation: Q queries, of which N
have positives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmark.dataset import IntArray, Ragged, Task

if TYPE_CHECKING:
    # Tables read the names of metrics, and are made without waiting for torch.
    from benchmark.evaluation.ranking import Ranks

FloatArray = NDArray[np.float64]

_AVERAGE = re.compile(r"mean\((.+)\)|\((.+)\)/2")


def components(metric: str) -> tuple[str, ...]:
    """The metrics that an average is the mean of, by its name: "(R@5+R_subset@1)/2", "mean(R@10,R@50)".

    Empty for a metric that is no average.
    """
    match = _AVERAGE.fullmatch(metric)
    return tuple(re.split(r"[,+]", match[1] or match[2])) if match else ()


def recall_at(rank: IntArray, k: int) -> float:
    """Share of the ranked queries, in percent, with a rank of at most k; ``rank`` is (Q,)."""
    return _percent(rank[rank > 0] <= k)


def mean_average_precision_at(positive_ranks: Ragged, k: int) -> float:
    """mAP@k in percent: the mean over queries of :func:`average_precision_at`."""
    return _percent(average_precision_at(positive_ranks, k)[positive_ranks.sizes() > 0])


def average_precision_at(positive_ranks: Ragged, k: int) -> FloatArray:
    """AP@k of every query (Q,), between 0 and 1.

    The sum, over the positives with a rank r of at most k, of the precision at r (the share of
    positives among the first r), divided by min(k, number of positives). Without positives: 0.
    """
    sizes = positive_ranks.sizes()
    owner = np.repeat(np.arange(len(sizes)), sizes)
    ranks = positive_ranks.values[np.lexsort((positive_ranks.values, owner))]
    found = np.arange(1, len(ranks) + 1) - np.repeat(positive_ranks.offsets[:-1], sizes)
    total = np.bincount(owner, weights=np.where(ranks <= k, found / ranks, 0.0), minlength=len(sizes))
    return total / np.maximum(np.minimum(sizes, k), 1)


def query_values(ranks: Ranks, task: Task) -> dict[str, FloatArray]:
    """Every metric's value of every query with positives, (N,), between 0 and 1; a metric is their mean.

    ``R@k`` for the task's cut-offs, ``mAP@k`` for the same where some query has several positives,
    ``R_subset@k`` where the task has subsets, and the average that papers report on this task.
    Empty where all labels are hidden.
    """
    scored = ranks.rank > 0
    if not scored.any():
        return {}
    values = {f"R@{k}": (ranks.rank[scored] <= k).astype(np.float64) for k in task.cutoffs}
    if task.queries.positives.sizes().max() > 1:
        precision = {f"mAP@{k}": average_precision_at(ranks.positive_ranks, k)[scored] for k in task.cutoffs}
        values.update(precision)
    if ranks.subset_rank is not None:
        subset = ranks.subset_rank[scored]
        values.update({f"R_subset@{k}": (subset <= k).astype(np.float64) for k in task.subset_cutoffs})
    parts = components(task.average)
    if parts and all(name in values for name in parts):
        values[task.average] = np.mean([values[name] for name in parts], axis=0)
    return values


def task_metrics(ranks: Ranks, task: Task) -> dict[str, float]:
    """The metrics of a task in percent, by the names of :func:`query_values`."""
    return {name: _percent(values) for name, values in query_values(ranks, task).items()}


def mean_over_categories(by_category: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Every metric that all categories have, averaged with equal weight (FashionIQ's mean of three)."""
    tables = list(by_category.values())
    shared = [name for name in tables[0] if all(name in table for table in tables)] if tables else []
    return {name: _mean(table[name] for table in tables) for name in shared}


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _percent(values: NDArray[np.bool_] | FloatArray) -> float:
    if not len(values):
        raise ValueError("no query has positives, so that nothing can be scored")
    return 100.0 * float(values.mean())
