"""Intervals against a plain bootstrap, against the normal approximation, and at their edges."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.dataset import Queries, Ragged, Task, TaskKey
from benchmark.evaluation.metrics import interval, task_intervals, task_metrics
from benchmark.evaluation.ranking import Ranks


def clustered(groups=200, size=6, seed=0):
    """Hits of queries that succeed and fail together, in shuffled order."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size) * 7
    hits = generator.random(groups * size) < np.repeat(generator.choice([0.1, 0.9], groups), size)
    order = generator.permutation(len(hits))
    return hits[order], group[order]


def plain_bootstrap(values, group, replicates, seed):
    """Draw groups with replacement and average over their queries, one replicate at a time."""
    generator = np.random.default_rng(seed)
    names = np.unique(group)
    members = [values[group == name] for name in names]
    means = [
        np.concatenate([members[i] for i in generator.integers(0, len(names), len(names))]).mean()
        for _ in range(replicates)
    ]
    return 100 * np.quantile(means, 0.025), 100 * np.quantile(means, 0.975)


@pytest.mark.parametrize("fractional", [False, True])
def test_as_a_plain_bootstrap_of_unequal_groups(fractional):
    generator = np.random.default_rng(1)
    group = generator.integers(0, 40, 300)
    values = generator.random(300) if fractional else (generator.random(300) < 0.2 + 0.015 * group).astype(float)
    expected = plain_bootstrap(values, group, 4000, seed=2)
    assert interval(values, group, seed=3, replicates=20_000) == pytest.approx(expected, abs=0.5)


def test_queries_of_one_group_widen_the_interval():
    hits, group = clustered()
    low, high = interval(hits, group)
    alone_low, alone_high = interval(hits, np.arange(len(hits)))
    assert low < 100 * hits.mean() < high
    assert high - low > 1.7 * (alone_high - alone_low)


def test_independent_queries_give_the_normal_interval():
    hits = np.arange(2000) % 4 == 0
    half = 196 * np.sqrt(0.25 * 0.75 / 2000)
    assert interval(hits, np.arange(2000), replicates=20_000) == pytest.approx((25 - half, 25 + half), abs=0.15)


def test_the_seed_decides_and_the_names_and_order_of_groups_do_not():
    hits, group = clustered()
    assert interval(hits, group, seed=5) == interval(hits, group, seed=5)
    assert interval(hits, group, seed=5) != interval(hits, group, seed=6)
    order = np.random.default_rng(0).permutation(len(hits))
    assert interval(hits[order], 10_000 - group[order], seed=5) == interval(hits, group, seed=5)


def test_certain_outcomes_have_the_exact_binomial_interval():
    ten = np.arange(10)
    assert interval(np.ones(10), ten) == pytest.approx((69.15, 100.0), abs=0.01)
    assert interval(np.zeros(10), ten) == pytest.approx((0.0, 30.85), abs=0.01)
    # The trials are the groups, however many queries they have.
    assert interval(np.ones(60), np.repeat(ten, 6)) == interval(np.ones(10), ten)
    assert interval([True], np.zeros(1, dtype=np.int64)) == pytest.approx((2.5, 100.0))


def test_one_group_says_nothing():
    assert interval([1, 0, 1], np.zeros(3, dtype=np.int64)) == (0.0, 100.0)


def test_bad_input_is_refused():
    for hits, group in (([], []), ([1, 0], [0]), ([50.0, 1], [0, 1]), ([np.nan, 1], [0, 1])):
        with pytest.raises(ValueError, match="one value between 0 and 1"):
            interval(hits, np.asarray(group, dtype=np.int64))


def test_every_metric_of_a_task_has_its_interval():
    """Queries with hidden labels take no part, here as in the metrics."""
    count = 400
    generator = np.random.default_rng(0)
    rank = generator.integers(1, 20, count)
    rank[::10] = 0
    positives = Ragged.of([[] if r == 0 else [0] for r in rank])
    numbers = np.arange(count)
    queries = Queries(("q",) * count, numbers, numbers, ("",) * count, positives, numbers // 4, np.zeros((count, 6)))
    task = Task(TaskKey("toy", "val", "official", "single"), queries, np.arange(30), True, (1, 5), (1,))
    subset = np.minimum(rank, 5)
    ranks = Ranks(rank, np.zeros(count), subset, Ragged.of([[r] if r else [] for r in rank.tolist()]))
    metrics, intervals = task_metrics(ranks, task), task_intervals(ranks, task)
    assert list(metrics) == list(intervals) == ["R@1", "R@5", "R_subset@1"]
    for name, value in metrics.items():
        low, high = intervals[name]
        assert 0 < low < value < high < 100
