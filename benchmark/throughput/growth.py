"""How time and memory grow: store, training epoch, evaluator, leaderboard at 1, 2, 4 and 8 times a size.

Every part and size runs in a process of its own, so that its peak memory is its own; what such a
process does stands in :mod:`benchmark.throughput.growth_work`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmark.distributed.process import this_process
from benchmark.errors import UserError, unknown_name
from benchmark.options import RunOptions
from benchmark.pipeline.plan import Plan
from benchmark.progress import Progress
from benchmark.records.environment import load_note
from benchmark.records.measurement import Measurement
from benchmark.records.record import Record
from benchmark.throughput.growth_curves import FACTORS, METHOD, PARTS, Curve
from benchmark.throughput.measure import speed_identity, speed_record


def growth_record(names: Sequence[str], smallest: int | None, plan: Plan) -> Record:
    """Measure, and give the record. Raises UserError where a part cannot be measured."""
    for name in names:
        if name not in PARTS:
            raise unknown_name("part", name, PARTS)
    if "training" in names and not (plan.backbone and plan.last.stage.trains):
        raise UserError(f"--growth training: {plan.method.name} trains nothing on stored features; name another method")
    if "store" in names and not plan.backbone:
        raise UserError(f"--growth store: {plan.method.name} has no backbone; name another method")
    busy, started = load_note(), time.monotonic()
    found: dict[str, Measurement] = {}
    for curve in measure_growth(names, smallest, plan.options):
        found |= curve.measurements()
    identity = speed_identity(plan, plan.weights_digest)
    return speed_record(METHOD, "Growth", identity, found, this_process(plan.options.device), busy, started)


def measure_growth(names: Sequence[str], smallest: int | None, chosen: RunOptions) -> list[Curve]:
    """Measure the parts; ``smallest`` stands for every part's own size at factor 1."""
    parts = [PARTS[name] for name in names]
    found = []
    with Progress("growth", len(parts) * len(FACTORS)) as progress:
        for part in parts:
            sizes = tuple((smallest or part.smallest) * factor for factor in FACTORS)
            costs = []
            for size in sizes:
                costs.append(_cost_in_own_process(part.name, size, chosen))
                progress.advance()
            seconds, held = zip(*costs, strict=True)
            found.append(Curve(part, sizes, seconds, held))
    return found


def _cost_in_own_process(part: str, size: int, chosen: RunOptions) -> tuple[float, int]:
    """Seconds, and bytes held beyond what the process began with."""
    command = [sys.executable, "-m", "benchmark.throughput.growth_work", part, str(size), chosen.model_dump_json()]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"--growth: {part} at {size:,} failed ({reason}); choose a smaller --size")
    seconds, held = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), int(held)
