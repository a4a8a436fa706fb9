"""Measuring: calls in alternation, medians and paired ratios, memory that forgets what was before."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmark.throughput import timing
from benchmark.throughput.timing import (
    Rounds,
    Spread,
    in_turn,
    peak_memory,
    peak_resident_bytes,
    reset_peak_memory,
    resident_bytes,
)

MIB = 2**20


class Scripted:
    """A clock that makes the call and says a prepared time for it."""

    def __init__(self, seconds: dict[str, list[float]], made: list[str]) -> None:
        self.seconds_of, self.made = seconds, made

    def seconds(self, call):
        before = len(self.made)
        call()
        return sum(self.seconds_of[name].pop(0) for name in self.made[before:])


def test_a_spread_is_the_median_and_the_quartiles():
    spread = Spread.of(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    assert (spread.median, spread.low, spread.high, spread.repeats) == (3.0, 2.0, 4.0, 5)
    rate = spread.per(12)
    assert (rate.median, rate.low, rate.high) == (4.0, 3.0, 6.0)


def test_the_ratio_is_taken_round_by_round():
    """The machine was three times slower in the second round: the ratio does not see it."""
    rounds = Rounds({"ours": np.array([2.0, 6.0, 2.0]), "bare": np.array([1.0, 3.0, 1.0])}, {})
    ratio = rounds.ratio("ours", "bare")
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.5, 0.5)


def test_calls_are_made_in_turn_after_a_warm_up_and_every_other_round_backwards(monkeypatch):
    made: list[str] = []
    scripted = Scripted({"a": [0.9, 0.9, 1, 2, 3], "b": [9.0, 4, 5, 6]}, made)
    monkeypatch.setattr(timing, "clock_of", lambda device: scripted)
    rounds = in_turn({"a": lambda: made.append("a"), "b": lambda: made.append("b")}, seconds=0, least=3)
    assert made == ["a", "a", "b", "a", "b", "b", "a", "a", "b"]
    assert rounds.seconds["a"].tolist() == [1, 2, 3] and rounds.seconds["b"].tolist() == [4, 5, 6]


def test_a_short_call_is_repeated_within_a_sample(monkeypatch):
    made: list[str] = []
    scripted = Scripted({"a": [0.004] * 100}, made)
    monkeypatch.setattr(timing, "clock_of", lambda device: scripted)
    rounds = in_turn({"a": lambda: made.append("a")}, seconds=0, least=3, sample_seconds=0.01)
    assert len(made) == 2 + 3 * 3
    np.testing.assert_allclose(rounds.seconds["a"], 0.004)


def test_many_rounds_are_not_waited_for_where_each_takes_long():
    assert timing._goes_on(2, 1e9, seconds=2, least=20)
    assert timing._goes_on(10, 19, seconds=2, least=20)
    assert not timing._goes_on(3, 21, seconds=2, least=20)
    assert not timing._goes_on(20, 3, seconds=2, least=20)
    assert not timing._goes_on(timing.MOST_ROUNDS, 1, seconds=2, least=20)


@pytest.mark.skipif(not reset_peak_memory(), reason="this system cannot forget a peak")
def test_a_peak_belongs_to_its_own_call():
    """In a process of its own: what earlier tests have freed would be handed out again."""
    size = 64 * MIB
    code = f"""
import numpy as np
from benchmark.throughput.timing import in_turn
work = {{"much": lambda: np.ones({size}, dtype=np.uint8).sum(), "little": lambda: None}}
peaks = in_turn(work, seconds=0, sample_seconds=0).peak_bytes
print(peaks["much"] - peaks["little"])
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(told) > size // 2


def test_a_started_process_does_not_inherit_the_peak_of_this_one():
    kept = np.ones(600 * MIB, dtype=np.uint8)
    code = "from benchmark.throughput.timing import peak_resident_bytes; print(peak_resident_bytes())"
    told = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert told < len(kept) < resident_bytes() <= peak_resident_bytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_events_see_the_work_behind_the_host():
    device = torch.device("cuda")
    a = torch.randn(4096, 4096, device=device)
    clock = timing.clock_of(device)
    clock.seconds(lambda: a @ a)
    one, many = clock.seconds(lambda: a @ a), clock.seconds(lambda: [a @ a for _ in range(20)])
    assert many > 8 * one > 0
    reset_peak_memory(device)
    product = a @ a
    assert (peak_memory(device) or 0) >= 2 * product.nbytes
