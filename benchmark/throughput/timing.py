"""Measuring on a machine that does other things too: rounds in alternation, and what a record holds of them.

A call and what it is held against are made in turn, round after round, so that whatever else the
machine does hits both. The ratio of two calls is the median of the rounds' ratios, which moves far
less than either time.

Units: seconds and bytes throughout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.records.environment import largest_resident_bytes
from benchmark.records.measurement import Measurement, Precision

FloatArray = NDArray[np.float64]
Call = Callable[[], object]

CPU = torch.device("cpu")
LEAST_ROUNDS, MOST_ROUNDS = 3, 500
SAMPLE_SECONDS = 0.01
"""A sample lasts at least this long: a shorter call is made several times, and their mean counts."""

_SLOW = 1.0
_PATIENCE = 10.0
_STATUS = Path("/proc/self/status")
_CLEAR_REFERENCES = Path("/proc/self/clear_refs")

_PROMISED_TERAFLOPS: dict[str, tuple[float, float, float, float]] = {
    "H200": (67, 494.7, 989.4, 989.4),
    "H100 NVL": (60, 417.5, 835.5, 835.5),
    "H100 PCIe": (51.2, 378, 756, 756),
    "H100": (66.9, 494.7, 989.4, 989.4),
    "A100": (19.5, 156, 312, 312),
    "A40": (37.4, 74.8, 149.7, 149.7),
    "A10": (31.2, 62.5, 125, 125),
    "L40S": (91.6, 183, 362, 362),
    "L4": (30.3, 60, 121, 121),
    "V100-SXM2": (15.7, 0, 0, 125),
    "V100-PCIE": (14, 0, 0, 112),
    "T4": (8.1, 0, 0, 65),
    "RTX 4090": (82.6, 82.6, 165.2, 165.2),
    "RTX 3090": (35.6, 35.6, 71, 71),
}
"""Dense operations in fp32, tf32, bf16 and fp16 (0 where the device lacks it), by a part of torch's name
of the device; the first that fits holds.

Sources: NVIDIA's data sheets of each product, without sparsity, half precision accumulating in float32
where the sheet tells both.
"""


def promised_flops(device_name: str, precision: Precision) -> float | None:
    """FLOP/s that the data sheet promises, None for a CPU, an unlisted device or a precision it lacks."""
    words = device_name.replace("-", " ").split()
    for name, promised in _PROMISED_TERAFLOPS.items():
        wanted = name.replace("-", " ").split()
        # By whole words: an A1000 is no A10.
        if any(words[i : i + len(wanted)] == wanted for i in range(len(words))):
            return 1e12 * promised[get_args(Precision).index(precision)] or None
    return None


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
    """
    peaks, loops = {}, {}
    for name, call in calls.items():
        reset_peak_memory(device)
        took = seconds_of(call, device)
        # What is done once (allocating, compiling) is little beside a slow call, but not beside a short one.
        if took < _SLOW:
            reset_peak_memory(device)
            took = seconds_of(call, device)
        peak = peak_memory(device)
        if peak is not None:
            peaks[name] = peak
        loops[name] = max(1, int(np.ceil(sample_seconds / max(took, 1e-9))))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    started, done = time.perf_counter(), 0
    while _goes_on(done, time.perf_counter() - started, seconds, least):
        # Every other round goes backwards, so that no call always comes behind the same one.
        for name in list(calls)[:: -1 if done % 2 else 1]:
            samples[name].append(seconds_of(repeated(calls[name], loops[name]), device) / loops[name])
        done += 1
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
        _CLEAR_REFERENCES.write_text("5", encoding="ascii")  # proc(5): 5 resets the peak, and nothing else
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
    return largest_resident_bytes() if found is None else found


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


@dataclass(frozen=True)
class Setting:
    """What all measurements of one command share: device, precision, and about how many ``seconds``
    each of them may take where a few rounds do not take longer."""

    device: torch.device
    precision: Precision
    seconds: float

    def rounds(
        self, calls: Mapping[str, Call], least: int = LEAST_ROUNDS, sample_seconds: float = SAMPLE_SECONDS
    ) -> Rounds:
        return in_turn(calls, self.device, seconds=self.seconds, least=least, sample_seconds=sample_seconds)

    def rate(
        self, rounds: Rounds, call: str, amount: float, unit: str, work: str, limit: str = "", flops: int = 0
    ) -> Measurement:
        """``amount`` of ``unit`` a second, of a call that does so many at once.

        ``limit``: the name among the rounds of what it is held against, "" for nothing. ``flops``:
        floating-point operations of one call; they give the utilisation of a GPU whose data sheet is known.
        """
        per_second = flops / float(np.median(rounds.seconds[call])) if flops else None
        promised = None
        if per_second and self.device.type == "cuda":
            promised = promised_flops(torch.cuda.get_device_name(self.device), self.precision)
        return Measurement(
            unit=f"{unit}/s",
            flops=per_second,
            utilisation=per_second / promised if per_second and promised else None,
            **_beside(rounds, call, limit, work, lambda seconds: amount / seconds),
        )


def latencies(rounds: Rounds, call: str, limit: str, work: str) -> dict[str, Measurement]:
    """The median and the 95th percentile of a call's time, in milliseconds, by "p50" and "p95"."""
    middle = Measurement(unit="ms", **_beside(rounds, call, limit, work, lambda seconds: 1e3 * seconds))
    slow, slow_limit = (1e3 * float(np.quantile(rounds.seconds[name], 0.95)) for name in (call, limit))
    tail = {"value": slow, "limit": slow_limit, "ratio": slow_limit / slow, "repeats": middle.repeats}
    return {"p50": middle, "p95": Measurement(unit="ms", limit_of=limit, work=work, **tail)}


def _beside(rounds: Rounds, call: str, limit: str, work: str, value: Callable[[float], float]) -> dict[str, Any]:
    """What a measurement of either kind says of a call; ``value`` makes it of the call's seconds."""
    seconds = rounds.seconds[call]
    low, middle, high = quartiles(seconds)
    first, last = sorted((value(low), value(high)))
    found = {
        "value": value(middle),
        "low": first,
        "high": last,
        "repeats": len(seconds),
        "work": work,
        "peak_bytes": rounds.peak_bytes.get(call),
    }
    if limit:
        ratio_low, ratio, ratio_high = quartiles(rounds.seconds[limit] / seconds)
        found |= {"limit": value(float(np.median(rounds.seconds[limit]))), "limit_of": limit}
        found |= {"ratio": ratio, "ratio_low": ratio_low, "ratio_high": ratio_high}
        found |= {"limit_peak_bytes": rounds.peak_bytes.get(limit)}
    return found


def quartiles(samples: FloatArray) -> tuple[float, float, float]:
    """The median between the lower and the upper quartile."""
    low, median, high = np.quantile(samples, (0.25, 0.5, 0.75)).tolist()
    return low, median, high
