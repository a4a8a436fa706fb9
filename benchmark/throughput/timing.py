"""Measuring on a machine that does other things too: rounds in alternation, and the memory held meanwhile.

A call and what it is held against are made in turn, round after round, so that whatever else the
machine does hits both. What becomes of the rounds stands in :mod:`benchmark.throughput.rates`.

Units: seconds and bytes throughout.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Call = Callable[[], object]

LEAST_ROUNDS = 3
MOST_ROUNDS = 500
SAMPLE_SECONDS = 0.01
"""A sample lasts at least this long: a shorter call is made several times, and their mean counts."""

CPU = torch.device("cpu")

_SLOW = 1.0
_PATIENCE = 10.0
_STATUS = Path("/proc/self/status")
_CLEAR_REFERENCES = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass(frozen=True)
class Rounds:
    """What alternating calls took. ``seconds``: per call and round, by name; ``peak_bytes``: the most
    memory held during one call, by name, where the system tells it."""

    seconds: Mapping[str, FloatArray]
    peak_bytes: Mapping[str, int]


def in_turn(
    calls: Mapping[str, Call],
    device: torch.device = CPU,
    *,
    seconds: float = 2.0,
    least: int = LEAST_ROUNDS,
    sample_seconds: float = SAMPLE_SECONDS,
) -> Rounds:
    """Make the calls in turn for about so many ``seconds`` in all, at least ``least`` rounds.

    More than three rounds are not waited for where they take over ten times the ``seconds``.

    Every call is warmed up first and its peak memory taken: by two calls where the first takes less
    than a second, else by one, since what is done once is little beside it then. Every other round
    goes backwards, so that no call always comes behind the same one.
    """
    peaks, loops = {}, {}
    for name, call in calls.items():
        reset_peak_memory(device)
        took = seconds_of(call, device)
        if took < _SLOW:
            reset_peak_memory(device)
            took = seconds_of(call, device)
        peak = peak_memory(device)
        if peak is not None:
            peaks[name] = peak
        loops[name] = max(1, int(np.ceil(sample_seconds / max(took, 1e-9))))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    started, round_number = time.perf_counter(), 0
    while _goes_on(round_number, time.perf_counter() - started, seconds, least):
        for name in list(calls)[:: -1 if round_number % 2 else 1]:
            samples[name].append(seconds_of(repeated(calls[name], loops[name]), device) / loops[name])
        round_number += 1
    return Rounds({name: np.asarray(found) for name, found in samples.items()}, peaks)


def _goes_on(rounds: int, elapsed: float, seconds: float, least: int) -> bool:
    if rounds < min(least, LEAST_ROUNDS):
        return True
    return rounds < MOST_ROUNDS and elapsed < (_PATIENCE * seconds if rounds < least else seconds)


def seconds_of(call: Call, device: torch.device) -> float:
    """The time of one call: by the host's clock, or between two events of the GPU's stream around it."""
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    with torch.cuda.device(device):
        # On an idle stream the first event happens at once: what the host does before its first kernel counts, too.
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def repeated(call: Call, times: int) -> Call:
    """The call made so many times as one."""

    def repeat() -> None:
        for _ in range(times):
            call()

    return call if times == 1 else repeat


def reset_peak_memory(device: torch.device = CPU) -> bool:
    """Forget the peak so far; False where the system cannot (not Linux, or not allowed)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR_REFERENCES.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def peak_memory(device: torch.device = CPU) -> int | None:
    """The most bytes held since the last reset: resident ones of this process, or the GPU's.

    None on a system that cannot forget an earlier peak.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return peak_resident_bytes() if _CLEAR_REFERENCES.exists() else None


def peak_resident_bytes() -> int:
    """The most resident memory of this process, of its own program only."""
    # Linux counts into ru_maxrss what the parent held when it started this process; the line of /proc does not.
    found = _status_bytes("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if found is None else found


def resident_bytes() -> int:
    """What is resident now; the peak where the system does not tell it."""
    found = _status_bytes("VmRSS")
    return peak_resident_bytes() if found is None else found


def _status_bytes(field: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(found[0]) * 1024 if found else None
