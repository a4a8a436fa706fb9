"""How time and memory grow: store, training epoch, evaluator, leaderboard at 1, 2, 4 and 8 times a size.

Every part and size runs in a process of its own, so that its peak memory is its own. Exponents are
the slope of a least-squares line through the logarithms: 1 is linear, 0 is constant.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.distributed.process import this_process
from benchmark.errors import UserError, unknown_name
from benchmark.options import RunOptions
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.reporting import command_line, data_identity
from benchmark.progress import Progress
from benchmark.records.environment import code_version, environment, load_note, utc_now
from benchmark.records.measurement import Measurement
from benchmark.records.record import EncoderIdentity, Identity, Record
from benchmark.throughput.growth_table import FACTORS, METHOD, PARTS, Part


@dataclass(frozen=True)
class Grown:
    """One part at growing ``sizes``: ``seconds``, and ``bytes`` beyond what the process began with."""

    part: Part
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    bytes: tuple[int, ...]

    @property
    def exponents(self) -> tuple[float | None, float | None]:
        """Of time and of memory."""
        return exponent(self.sizes, self.seconds), exponent(self.sizes, self.bytes)

    def measurements(self) -> dict[str, Measurement]:
        """By "store x 8", with the exponents behind them."""
        found = {
            f"{self.part.name} x {factor}": Measurement(
                value=seconds, unit="s", peak_bytes=size_bytes, work=f"{size:,} {self.part.unit}: {self.part.work}"
            )
            for factor, size, seconds, size_bytes in zip(FACTORS, self.sizes, self.seconds, self.bytes, strict=True)
        }
        for quantity, value in zip(("time", "memory"), self.exponents, strict=True):
            if value is not None:
                found[f"{self.part.name}, exponent of {quantity}"] = Measurement(value=value, unit="")
        return found


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Slope of log(value) over log(size); None where a value is not above zero."""
    if len(sizes) < 2 or min(values) <= 0:
        return None
    slope = np.polyfit(np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(values, dtype=float)), 1)[0]
    return float(slope)


def measure_growth(names: Sequence[str], smallest: int | None, chosen: RunOptions) -> list[Grown]:
    """Measure the parts; ``smallest`` stands for every part's own size at factor 1."""
    parts = [PARTS[name] for name in names]
    with Progress("growth", len(parts) * len(FACTORS)) as progress:
        grown = []
        for part in parts:
            sizes = tuple((smallest or part.smallest) * factor for factor in FACTORS)
            costs = []
            for size in sizes:
                costs.append(_cost_in_own_process(part.name, size, chosen))
                progress.advance()
            seconds, held = zip(*costs, strict=True)
            grown.append(Grown(part, sizes, seconds, held))
    return grown


def _cost_in_own_process(part: str, size: int, chosen: RunOptions) -> tuple[float, int]:
    command = [sys.executable, "-m", "benchmark.throughput.growth_work", part, str(size), chosen.model_dump_json()]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"--growth: {part} at {size:,} failed ({reason}); choose a smaller --size")
    seconds, held = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), int(held)


def growth_record(names: Sequence[str], smallest: int | None, plan: Plan) -> tuple[Record, list[Grown]]:
    """Measure, and give the record with what it holds. Raises UserError where a part cannot be measured."""
    for name in names:
        if name not in PARTS:
            raise unknown_name("part", name, PARTS)
    if "training" in names and not (plan.backbone and plan.last.stage.trains):
        raise UserError(f"--growth training: {plan.method.name} trains nothing on stored features; name another method")
    if "store" in names and not plan.backbone:
        raise UserError(f"--growth store: {plan.method.name} has no backbone; name another method")
    started = time.monotonic()
    grown = measure_growth(names, smallest, plan.options)
    measurements = {name: found for part in grown for name, found in part.measurements().items()}
    encoder = EncoderIdentity(
        name=plan.backbone,
        weights=plan.weights,
        digest=plan.weights_digest,
        start=plan.initialisation,
        state="untouched",
    )
    return Record(
        kind="throughput",
        method=METHOD,
        title="Growth",
        command=command_line(),
        created=utc_now(),
        identity=Identity(
            data=data_identity(plan.dataset),
            encoder=encoder if plan.backbone else None,
            limit=plan.options.limit,
            plugins=dict(plan.plugins),
        ),
        code=code_version(),
        environment=environment(str(this_process(plan.options.device).device), 1),
        timings={"measuring": round(time.monotonic() - started, 2)},
        throughput=measurements,
        not_fixed=load_note(),
    ), grown
