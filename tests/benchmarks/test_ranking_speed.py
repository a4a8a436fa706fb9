"""The evaluator beside the bare matrix product and beside a plain one that sorts and compares names.

A quarter of CIRR's validation queries against its whole gallery; ``CIR_BENCH_SCALE=1`` for all of them.
Run with ``pytest tests/benchmarks/test_ranking_speed.py --benchmark-only``: a group puts one problem's
calls on one number of threads side by side. The ratios printed, and kept in ``extra_info``, come from
calls in alternation, the best of each, so that what else runs on the machine hits all alike.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmark.dataset import Queries, Ragged, Task, TaskKey
from benchmark.ranking import Ranks, rank_queries, top_ranked
from benchmark.top_lists import top_pictures

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


@pytest.fixture(scope="module", params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


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


def bare_product(problem: Problem) -> torch.Tensor:
    return torch.mm(problem.queries, problem.gallery.T)


def rank(problem: Problem) -> Ranks:
    return rank_queries(problem.queries, problem.gallery, problem.task)


def names_of_50(problem: Problem) -> np.ndarray:
    return top_pictures(problem.queries, problem.gallery, problem.task, 50)


def names_and_scores_of_50(problem: Problem) -> np.ndarray:
    return top_ranked(problem.queries, problem.gallery, problem.task, 50)[0]


CALLS = [bare_product, rank, names_of_50, names_and_scores_of_50, sort_and_compare_names]


@pytest.fixture(scope="module")
def best_seconds(problem: Problem, threads: int) -> dict[str, float]:
    """The best of three of every call, in alternation."""
    found = {call.__name__: np.inf for call in CALLS}
    for _ in range(3):
        for call in CALLS:
            start = time.perf_counter()
            call(problem)
            found[call.__name__] = min(found[call.__name__], time.perf_counter() - start)
    return found


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_evaluator(benchmark, capsys, request, problem, threads, best_seconds, call):
    setting = request.node.callspec.id.removesuffix(f"-{call.__name__}")
    benchmark.group = f"evaluator {QUERIES} x {GALLERY} x {WIDTH}, {setting}"
    benchmark.pedantic(call, (problem,), rounds=1 if call is sort_and_compare_names else 2)
    mine = best_seconds[call.__name__]
    benchmark.extra_info["times the bare product"] = round(mine / best_seconds["bare_product"], 2)
    benchmark.extra_info["times faster than plain"] = round(best_seconds["sort_and_compare_names"] / mine, 1)
    with capsys.disabled():
        print(f"\n{setting}, {call.__name__}: {benchmark.extra_info}")


def test_the_plain_evaluator_gives_the_same_ranks(benchmark):
    """Where nothing ties, so that the references measure the same work."""
    problem = Problem(0)
    found = rank(problem)
    plain = benchmark.pedantic(sort_and_compare_names, (problem,), rounds=1)
    assert np.array_equal(found.rank, plain[0]) and np.array_equal(found.subset_rank, plain[1])
