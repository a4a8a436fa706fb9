"""Metrics against values worked out by hand and against loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmark.dataset import Queries, Ragged, Task, TaskKey
from benchmark.evaluation.metrics import average_precision_at, mean_over_categories, task_metrics
from benchmark.evaluation.ranking import Ranks


def make_task(positives, subset=None, cutoffs=(1, 5), subset_cutoffs=(1, 2, 3)):
    count = len(positives)
    numbers = np.arange(count)
    queries = Queries(("q",) * count, numbers, numbers, ("",) * count, Ragged.of(positives), numbers, subset)
    return Task(TaskKey("toy", "val", "official", "single"), queries, np.arange(9), True, cutoffs, subset_cutoffs)


def test_recall_leaves_unranked_queries_out():
    rank = np.array([1, 0, 5, 6, 0, 2])
    positives = [[r] if r else [] for r in rank.tolist()]
    ranks = Ranks(rank, np.zeros(6, dtype=np.int64), None, Ragged.of(positives))
    assert task_metrics(ranks, make_task(positives)) == {"R@1": 25.0, "R@5": 75.0}


def test_average_precision_by_hand():
    ranks = Ragged.of([[3, 1], [2], [7, 2, 4], []])
    # (1/1 + 2/3) / 2; (1/2) / 1; (1/2 + 2/4) / 3; nothing
    assert average_precision_at(ranks, 5) == pytest.approx([5 / 6, 1 / 2, 1 / 3, 0.0])
    # Three positives cannot all be among the first two: divided by min(k, 3) = 2.
    assert average_precision_at(ranks, 2) == pytest.approx([1 / 2, 1 / 2, 1 / 4, 0.0])


def test_average_precision_against_loops():
    generator = np.random.default_rng(0)
    sets = [generator.permutation(30)[: generator.integers(1, 9)] + 1 for _ in range(50)]
    for k in (1, 3, 10, 50):
        expected = []
        for places in sets:
            precisions = [sum(q <= p for q in places) / p for p in places if p <= k]
            expected.append(sum(precisions) / min(k, len(places)))
        assert average_precision_at(Ragged.of([s.tolist() for s in sets]), k) == pytest.approx(expected)


def test_metrics_of_a_task_with_subsets():
    rank, subset = np.array([1, 4, 9, 0]), np.array([1, 3, 2, 0])
    ranks = Ranks(rank, np.zeros(4, dtype=np.int64), subset, Ragged.of([[1], [4], [9], []]))
    metrics = task_metrics(ranks, make_task([[0], [1], [2], []], subset=np.zeros((4, 6), dtype=np.int64)))
    assert list(metrics) == ["R@1", "R@5", "R_subset@1", "R_subset@2", "R_subset@3"]
    assert list(metrics.values()) == pytest.approx([100 / 3, 200 / 3, 100 / 3, 200 / 3, 100])


def test_map_is_reported_only_for_several_positives():
    ranks = Ranks(np.array([1, 2]), np.zeros(2, dtype=np.int64), None, Ragged.of([[1, 3], [2]]))
    metrics = task_metrics(ranks, make_task([[0, 1], [2]]))
    assert list(metrics) == ["R@1", "R@5", "mAP@1", "mAP@5"]
    assert metrics["mAP@5"] == pytest.approx(100 * (5 / 6 + 1 / 2) / 2)


def test_hidden_labels_give_no_metrics():
    ranks = Ranks(np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64), None, Ragged.of([[], []]))
    assert task_metrics(ranks, make_task([[], []])) == {}


def test_averages_of_papers():
    """Two queries: R@5 is 50 %, R_subset@1 is 100 %, so CIRR's average is 75 %."""
    ranks = Ranks(np.array([1, 9]), np.zeros(2, np.int64), np.array([1, 1]), Ragged.single(np.array([1, 9])))
    task = replace(make_task([[0], [1]], cutoffs=(5,), subset_cutoffs=(1,)), average="(R@5+R_subset@1)/2")
    assert task_metrics(ranks, task) == {"R@5": 50.0, "R_subset@1": 100.0, "(R@5+R_subset@1)/2": 75.0}
    categories = {"dress": {"R@10": 30.0, "R@50": 50.0}, "shirt": {"R@10": 40.0, "R@50": 70.0, "R@1": 3.0}}
    assert mean_over_categories(categories) == {"R@10": 35.0, "R@50": 60.0}
    assert mean_over_categories({}) == {}
