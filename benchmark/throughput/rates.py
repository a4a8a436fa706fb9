"""From rounds in alternation to a record's measurement: rates, latencies, ratios to the limit, utilisation.

The ratio of two calls is the median of the rounds' ratios, which moves far less than either time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch

from benchmark.records.measurement import Measurement, Precision
from benchmark.throughput.timing import LEAST_ROUNDS, SAMPLE_SECONDS, Call, FloatArray, Rounds, in_turn

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
    slow, slow_limit = (float(np.quantile(rounds.seconds[name], 0.95)) for name in (call, limit))
    tail = Measurement(
        value=1e3 * slow,
        unit="ms",
        limit=1e3 * slow_limit,
        limit_of=limit,
        repeats=middle.repeats,
        ratio=slow_limit / slow,
        work=work,
    )
    return {"p50": middle, "p95": tail}


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
