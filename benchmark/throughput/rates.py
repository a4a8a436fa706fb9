"""From rounds in alternation to a record's measurement: rates, latencies, ratios to the limit, utilisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmark.records.measurement import Measurement, Precision
from benchmark.throughput.device_peaks import promised_flops
from benchmark.throughput.timing import Call, Rounds, Spread, in_turn


@dataclass(frozen=True)
class Setting:
    """What all measurements of one command share: device, precision, and about how many ``seconds``
    each of them may take where a few rounds do not take longer."""

    device: torch.device
    precision: Precision
    seconds: float

    def rounds(self, calls: Mapping[str, Call]) -> Rounds:
        return in_turn(calls, self.device, seconds=self.seconds)

    def single_rounds(self, calls: Mapping[str, Call], least: int) -> Rounds:
        """Every sample is one call, so that the slow ones show."""
        return in_turn(calls, self.device, seconds=self.seconds, least=least, sample_seconds=0)

    def utilisation(self, flops_per_second: float, precision: Precision | None = None) -> float | None:
        """Share of what the data sheet promises of the GPU; None on a CPU or an unlisted device."""
        if self.device.type != "cuda":
            return None
        promised = promised_flops(torch.cuda.get_device_name(self.device), precision or self.precision)
        return None if promised is None else flops_per_second / promised


@dataclass(frozen=True)
class Limit:
    """What a call is held against: its name among the rounds' calls, and what it is in words."""

    call: str
    words: str


def rate(
    rounds: Rounds,
    call: str,
    amount: float,
    unit: str,
    limit: Limit | None,
    work: str,
    *,
    flops: int = 0,
    setting: Setting | None = None,
    precision: Precision | None = None,
) -> Measurement:
    """``amount`` of ``unit`` a second, of a call that does so many at once.

    ``flops``: floating-point operations of one call; with the ``setting`` they give the utilisation.
    """
    found = rounds.spread(call).per(amount)
    per_second = flops / rounds.spread(call).median if flops else None
    held = {} if limit is None else _beside(rounds, call, limit, rounds.spread(limit.call).per(amount).median)
    return Measurement(
        value=found.median,
        unit=f"{unit}/s",
        low=found.low,
        high=found.high,
        repeats=found.repeats,
        work=work,
        flops=per_second,
        utilisation=setting.utilisation(per_second, precision) if setting is not None and per_second else None,
        peak_bytes=rounds.peak_bytes.get(call),
        **held,
    )


def latencies(rounds: Rounds, call: str, limit: Limit, work: str) -> dict[str, Measurement]:
    """The median and the 95th percentile of a call's time, in milliseconds, by "p50" and "p95"."""
    found = rounds.spread(call)
    middle = Measurement(
        value=1e3 * found.median,
        unit="ms",
        low=1e3 * found.low,
        high=1e3 * found.high,
        repeats=found.repeats,
        work=work,
        peak_bytes=rounds.peak_bytes.get(call),
        **_beside(rounds, call, limit, 1e3 * rounds.spread(limit.call).median),
    )
    slow, slow_limit = (float(np.quantile(rounds.seconds[name], 0.95)) for name in (call, limit.call))
    tail = Measurement(
        value=1e3 * slow,
        unit="ms",
        limit=1e3 * slow_limit,
        limit_of=limit.words,
        repeats=found.repeats,
        ratio=slow_limit / slow,
        work=work,
    )
    return {"p50": middle, "p95": tail}


def _beside(rounds: Rounds, call: str, limit: Limit, value: float) -> dict[str, Any]:
    ratio: Spread = rounds.ratio(call, limit.call)
    return {
        "limit": value,
        "limit_of": limit.words,
        "ratio": ratio.median,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "limit_peak_bytes": rounds.peak_bytes.get(limit.call),
    }
