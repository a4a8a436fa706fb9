"""Waits through a store, with threads for ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from benchmark.distributed.barrier import Barrier, difference
from benchmark.distributed.process import Process
from benchmark.errors import UserError


class OneStore:
    """A store that all threads share."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.kept[key] = value

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.kept[key].encode() for key in keys]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.kept for key in keys)


def ranks(world: int, work: Callable[[Barrier], Any], said_after: float = 60.0) -> list[Any]:
    """What ``work`` gave, or the error that it raised, by rank."""
    store = OneStore()

    def one(rank: int) -> Any:
        process = Process(rank, world, rank, torch.device("cpu"))
        try:
            return work(Barrier(process, store, "toy", said_after))
        except UserError as error:
            return error

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world)))


def test_nobody_leaves_before_all_have_come() -> None:
    def work(barrier: Barrier) -> tuple[float, float]:
        time.sleep(0.1 * barrier.process.rank)
        came = time.monotonic()
        barrier.wait("coming")
        return came, time.monotonic()

    times = ranks(3, work)
    assert min(left for _, left in times) >= max(came for came, _ in times)


def test_values_of_all_ranks_in_their_order_again_and_again() -> None:
    def work(barrier: Barrier) -> list[Any]:
        return [barrier.share("telling", [turn, barrier.process.rank]) for turn in range(3)]

    assert ranks(4, work) == [[[[turn, rank] for rank in range(4)] for turn in range(3)]] * 4


def test_rank_0_works_for_all() -> None:
    worked: list[int] = []

    def work(barrier: Barrier) -> Any:
        return barrier.from_main("reading", lambda: worked.append(barrier.process.rank) or {"a": 1})

    assert ranks(3, work) == [{"a": 1}] * 3
    assert worked == [0]


def test_what_a_user_can_mend_reaches_all_ranks() -> None:
    def work(barrier: Barrier) -> Any:
        def fail() -> None:
            raise UserError("folder: in use by another run")

        return barrier.from_main("taking the folder", fail)

    assert [str(error) for error in ranks(3, work)] == ["folder: in use by another run"] * 3


@pytest.mark.parametrize("late", [0, 1, 2])
def test_one_of_those_who_wait_says_for_whom(late: int, capsys: pytest.CaptureFixture[str]) -> None:
    def work(barrier: Barrier) -> None:
        if barrier.process.rank == late:
            time.sleep(1.0)
        barrier.wait("features of train")

    ranks(3, work, said_after=0.2)
    lines = [line for line in capsys.readouterr().err.splitlines() if "waiting" in line]
    assert lines == [f"waiting for rank {late}: features of train"]


def test_who_is_alone_waits_for_nobody() -> None:
    alone = Barrier(Process(0, 1, 0, torch.device("cpu")), None)
    alone.wait("nothing")
    assert alone.share("telling", 3) == [3]
    assert alone.from_main("reading", lambda: "text") == "text"


def test_a_difference_names_the_fact_and_both_values() -> None:
    first = ["the start", {"--seed": "0", "torch": "2.9"}]
    assert difference(first, ["the start", {"--seed": "0", "torch": "2.9"}]) == ""
    other = ["the start", {"--seed": "1", "torch": "2.9", "plug-in a.py": "ab…"}]
    assert difference(first, other) == (
        "--seed is 0 on rank 0 and 1 on rank RANKS, plug-in a.py is unknown on rank 0 and ab… on rank RANKS"
    )
    assert difference(first, ["the end", {}]) == "rank 0 is at the start, RANKS at the end"
    many = ["the start", {str(n): "x" for n in range(9)}]
    assert difference(["the start", {}], many).endswith(", and 4 more")


def test_ranks_that_differ_alike_are_told_together_and_on_all() -> None:
    def agree(*values: str) -> list[Any]:
        return ranks(3, lambda barrier: barrier.agree("start", {"a": values[barrier.process.rank]}))

    assert agree("1", "1", "1") == [None] * 3
    told = "the processes of this job disagree: a is 1 on rank 0 and 2 on rank 1, 2; "
    assert all(str(error).startswith(told) for error in agree("1", "2", "2"))
