"""Hot paths and what each is held against, in one run: calls in turn, ratios beside their targets.

Every path is measured once per module, its calls in turn, round after round. Its ratios are those of
the best rounds, of the time that passed and of the processor's time (all threads and child processes),
which a busy machine disturbs less. The rounds are then played back to pytest-benchmark, one test per
call, so that its table, its saved baselines and its comparisons hold the numbers that the ratios come from.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from benchmark.throughput.timing import Rounds

Call = Callable[[], object]


@dataclass(frozen=True)
class Target:
    """What a ratio may be at most, or has to be at least."""

    bound: float
    least: bool = False

    def met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.least else ratio <= self.bound

    def __str__(self) -> str:
        return f"{'at least' if self.least else 'at most'} {self.bound:g}"


def at_most(bound: float) -> Target:
    return Target(bound)


def at_least(bound: float) -> Target:
    return Target(bound, least=True)


@dataclass(frozen=True)
class Line:
    """A line of the closing table; ``processor`` is the same ratio in processor time, where that says something."""

    path: str
    ratio: str
    measured: float
    processor: float | None
    target: Target | None


class Replay:
    """A clock for pytest-benchmark that moves only by what was measured before."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def play(self, seconds: float) -> None:
        self._now += seconds


REPLAY = Replay()

played_back = pytest.mark.benchmark(timer=REPLAY)
"""For a test that gives pytest-benchmark the rounds of :class:`Compared`."""


@dataclass(frozen=True)
class Compared:
    """The rounds of one path, in seconds that passed and in the processor's seconds."""

    path: str
    wall: Rounds
    processor: Rounds

    def ratio(self, name: str, reference: str) -> tuple[float, float]:
        """Time of a call over the reference's: passed, processor's."""
        wall, processor = (
            float(rounds[name].min() / rounds[reference].min()) for rounds in (self.wall.seconds, self.processor.seconds)
        )
        return wall, processor

    def play(self, benchmark: Any, name: str, **extra: object) -> None:
        """Give pytest-benchmark the rounds of one call."""
        rounds = self.wall.seconds[name].tolist()
        recorded = iter(rounds)
        benchmark.group = self.path
        benchmark.extra_info.update({"processor seconds": float(self.processor.seconds[name].min()), **extra})
        benchmark.pedantic(lambda: REPLAY.play(next(recorded)), rounds=len(rounds), iterations=1)


def compared(path: str, calls: Mapping[str, Call], rounds: int, warm_ups: int = 1) -> Compared:
    """Make the calls in turn; every other round goes backwards."""
    for call in calls.values():
        for _ in range(warm_ups):
            call()
    stopwatch = Stopwatch()
    for number in range(rounds):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            stopwatch.time(name, calls[name])
    return stopwatch.compared(path)


class Stopwatch:
    """Collects rounds where one call cannot be made without the other's surroundings."""

    def __init__(self) -> None:
        self._wall: dict[str, list[float]] = {}
        self._processor: dict[str, list[float]] = {}
        self._started = (0.0, 0.0)

    def start(self) -> None:
        self._started = (time.perf_counter(), processor_seconds())

    def stop(self, name: str) -> None:
        wall, processor = time.perf_counter(), processor_seconds()
        self._wall.setdefault(name, []).append(wall - self._started[0])
        self._processor.setdefault(name, []).append(processor - self._started[1])

    def time(self, name: str, call: Call) -> None:
        self.start()
        call()
        self.stop(name)

    def compared(self, path: str, skip: int = 0) -> Compared:
        """All rounds but the first ``skip``."""
        kept = [
            Rounds({name: np.asarray(found[skip:]) for name, found in times.items()}, {})
            for times in (self._wall, self._processor)
        ]
        return Compared(path, *kept)


def processor_seconds() -> float:
    """Of this process and of the children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
