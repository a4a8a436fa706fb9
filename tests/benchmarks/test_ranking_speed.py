"""The evaluator beside the bare matrix product and beside a plain one that sorts and compares names.

A quarter of CIRR's validation queries against its whole gallery; ``CIR_BENCH_SCALE=1`` for all of them.
Run with ``pytest tests/benchmarks --benchmark-only``; the group puts the three side by side.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from benchmark.dataset import Queries, Ragged, Task, TaskKey
from benchmark.ranking import rank_queries, top_ranked

SCALE = float(os.environ.get("CIR_BENCH_SCALE", "0.25"))
QUERIES, GALLERY, WIDTH = int(4181 * SCALE), 2297, 1280


class Problem:
    """Random unit rows, one target each, subsets of six with reference and target; ``twins`` of 1 picture."""

    def __init__(self, twins: int) -> None:
        generator = torch.Generator().manual_seed(0)
        draw = np.random.default_rng(0)
        self.queries, self.gallery = (
            torch.nn.functional.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)
            for count in (QUERIES, GALLERY)
        )
        self.gallery[:twins] = self.gallery[0].clone()
        members = np.stack([draw.choice(GALLERY, 6, replace=False) for _ in range(QUERIES)])
        self.names = np.array([f"dev-{i}-0-img{i % 2}" for i in range(GALLERY)])
        numbers = np.arange(QUERIES)
        queries = Queries(
            ids=tuple(map(str, numbers)),
            picture=members[:, 0],
            reference=members[:, 0],
            texts=("",) * QUERIES,
            positives=Ragged.single(members[:, 1]),
            group=numbers,
            subset=members,
        )
        key = TaskKey("cirr", "val", "official", "single")
        self.task = Task(key, queries, np.arange(GALLERY), True, (1, 5, 10, 50), (1, 2, 3))


@pytest.fixture(scope="module", params=[0, GALLERY // 10], ids=["distinct", "tenth-alike"])
def problem(request: pytest.FixtureRequest) -> Problem:
    return Problem(request.param)


def sort_and_compare_names(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Ranks the plain way: every row sorted, the names put in order, compared as strings."""
    queries = problem.task.queries
    order = torch.argsort(problem.queries @ problem.gallery.T, dim=1, descending=True).numpy()
    ordered = problem.names[order]
    kept = ordered != problem.names[queries.reference][:, None]
    ordered = ordered[kept].reshape(len(order), -1)
    is_target = ordered == problem.names[queries.positives.values][:, None]
    is_member = (ordered[..., None] == problem.names[queries.subset][:, None, :]).any(-1)
    rank = is_target.argmax(axis=1) + 1
    subset_rank = 1 + (is_member & (np.arange(ordered.shape[1]) < rank[:, None] - 1)).sum(axis=1)
    return rank, subset_rank


@pytest.mark.benchmark(group="evaluator")
def test_bare_matrix_product(benchmark, problem):
    benchmark(torch.mm, problem.queries, problem.gallery.T)


@pytest.mark.benchmark(group="evaluator")
def test_rank_queries(benchmark, problem):
    ranks = benchmark(rank_queries, problem.queries, problem.gallery, problem.task)
    if ranks.ties.max() == 0:
        plain = sort_and_compare_names(problem)
        assert np.array_equal(ranks.rank, plain[0]) and np.array_equal(ranks.subset_rank, plain[1])


@pytest.mark.benchmark(group="evaluator")
def test_sort_and_compare_names(benchmark, problem):
    benchmark(sort_and_compare_names, problem)


@pytest.mark.benchmark(group="evaluator")
def test_top_50(benchmark, problem):
    benchmark(top_ranked, problem.queries, problem.gallery, problem.task, 50)
