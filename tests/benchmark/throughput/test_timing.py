"""Measuring: calls in alternation, memory that forgets what was before."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmark.throughput import timing
from benchmark.throughput.timing import in_turn, peak_memory, peak_resident_bytes, reset_peak_memory, resident_bytes

MIB = 2**20


class Scripted:
    """In the clock's place: makes the call and says a prepared time for it."""

    def __init__(self, seconds: dict[str, list[float]], made: list[str]) -> None:
        self.seconds_of, self.made = seconds, made

    def __call__(self, call, device):
        before = len(self.made)
        call()
        return sum(self.seconds_of[name].pop(0) for name in self.made[before:])


def test_calls_are_made_in_turn_after_a_warm_up_and_every_other_round_backwards(monkeypatch):
    made: list[str] = []
    scripted = Scripted({"a": [0.9, 0.9, 1, 2, 3], "b": [9.0, 4, 5, 6]}, made)
    monkeypatch.setattr(timing, "seconds_of", scripted)
    rounds = in_turn({"a": lambda: made.append("a"), "b": lambda: made.append("b")}, seconds=0, least=3)
    assert made == ["a", "a", "b", "a", "b", "b", "a", "a", "b"]
    assert rounds.seconds["a"].tolist() == [1, 2, 3] and rounds.seconds["b"].tolist() == [4, 5, 6]


def test_a_short_call_is_repeated_within_a_sample(monkeypatch):
    made: list[str] = []
    scripted = Scripted({"a": [0.004] * 100}, made)
    monkeypatch.setattr(timing, "seconds_of", scripted)
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
    timing.seconds_of(lambda: a @ a, device)
    one, many = (timing.seconds_of(lambda n=n: [a @ a for _ in range(n)], device) for n in (1, 20))
    assert many > 8 * one > 0
    reset_peak_memory(device)
    product = a @ a
    assert (peak_memory(device) or 0) >= 2 * product.nbytes
