"""Waits through a store, with threads for ranks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from benchmark.distributed.process import Process
from benchmark.distributed.rendezvous import Rendezvous
from benchmark.errors import UserError


class OneStore:
    """A store that all threads share."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self._lock = threading.Lock()

    def set(self, key: str, value: str) -> None:
        self.kept[key] = value

    def get(self, key: str) -> bytes:
        return self.kept[key].encode()

    def add(self, key: str, amount: int) -> int:
        with self._lock:
            self.kept[key] = str(int(self.kept.get(key, "0")) + amount)
            return int(self.kept[key])

    def check(self, keys: list[str]) -> bool:
        return all(key in self.kept for key in keys)


def ranks(world: int, work: Callable[[Rendezvous], Any], told_after: float = 60.0) -> list[Any]:
    """What ``work`` gave, or the error that it raised, by rank."""
    store = OneStore()

    def one(rank: int) -> Any:
        process = Process(rank, world, rank, torch.device("cpu"))
        try:
            return work(Rendezvous(process, store, "toy", told_after))
        except UserError as error:
            return error

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world)))


def test_nobody_leaves_before_all_have_come() -> None:
    def work(rendezvous: Rendezvous) -> tuple[float, float]:
        time.sleep(0.1 * rendezvous.process.rank)
        came = time.monotonic()
        rendezvous.meet("coming")
        return came, time.monotonic()

    times = ranks(3, work)
    assert min(left for _, left in times) >= max(came for came, _ in times)


def test_values_of_all_ranks_in_their_order_again_and_again() -> None:
    def work(rendezvous: Rendezvous) -> list[Any]:
        return [rendezvous.share("telling", [turn, rendezvous.process.rank]) for turn in range(3)]

    assert ranks(4, work) == [[[[turn, rank] for rank in range(4)] for turn in range(3)]] * 4


def test_rank_0_works_for_all() -> None:
    worked: list[int] = []

    def work(rendezvous: Rendezvous) -> Any:
        return rendezvous.from_main("reading", lambda: worked.append(rendezvous.process.rank) or {"a": 1})

    assert ranks(3, work) == [{"a": 1}] * 3
    assert worked == [0]


def test_what_a_user_can_mend_reaches_all_ranks() -> None:
    def work(rendezvous: Rendezvous) -> Any:
        def fail() -> None:
            raise UserError("folder: in use by another run")

        return rendezvous.from_main("taking the folder", fail)

    assert [str(error) for error in ranks(3, work)] == ["folder: in use by another run"] * 3


@pytest.mark.parametrize("late", [0, 1, 2])
def test_one_of_those_who_wait_says_for_whom(late: int, capsys: pytest.CaptureFixture[str]) -> None:
    def work(rendezvous: Rendezvous) -> None:
        if rendezvous.process.rank == late:
            time.sleep(1.0)
        rendezvous.meet("features of train")

    ranks(3, work, told_after=0.2)
    lines = [line for line in capsys.readouterr().err.splitlines() if "waiting" in line]
    assert lines == [f"waiting for rank {late}: features of train"]


def test_who_is_alone_waits_for_nobody() -> None:
    alone = Rendezvous(Process(0, 1, 0, torch.device("cpu")), None)
    alone.meet("nothing")
    assert alone.share("telling", 3) == [3]
    assert alone.from_main("reading", lambda: "text") == "text"
