"""95 % intervals of a metric by bootstrap over groups of queries.

Queries that share a picture set, a reference or a product fail and succeed together; resampling
them one by one gives intervals that are too narrow. So whole groups are drawn with replacement, as
many as there are, and the mean over all drawn queries is one replicate (Davison and Hinkley 1997,
section 3.8: the cluster bootstrap).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.dataset import IntArray, Task
from benchmark.evaluation.metrics import query_values
from benchmark.evaluation.ranking import Ranks

LEVEL = 0.95
REPLICATES = 2000
_CELLS = 2**22


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
    means = _replicates(np.bincount(member, values).astype(np.float64), sizes, seed, replicates)
    low, high = 100.0 * np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def task_intervals(
    ranks: Ranks, task: Task, seed: int = 0, replicates: int = REPLICATES
) -> dict[str, tuple[float, float]]:
    """The interval of every metric of a task, by the names of ``task_metrics``."""
    group = task.queries.group[ranks.rank > 0]
    values = query_values(ranks, task)
    return {name: interval(value, group, seed, replicates) for name, value in values.items()}


def _replicates(sums: NDArray[np.float64], sizes: IntArray, seed: int, replicates: int) -> NDArray[np.float64]:
    """Means of resampled groups, (replicates,).

    Groups of equal sum and size are exchangeable, so that only how often each kind is drawn
    matters: a multinomial draw over the kinds.
    """
    kinds, count = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    generator = np.random.default_rng(seed)
    step = max(1, _CELLS // len(count))
    means = np.empty(replicates)
    for start in range(0, replicates, step):
        stop = min(start + step, replicates)
        drawn = generator.multinomial(len(sums), count / len(sums), size=stop - start)
        total, weight = (drawn @ kinds.T).T
        means[start:stop] = total / weight
    return means
