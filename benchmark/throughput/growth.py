"""How time and memory grow: store, training epoch, evaluator, leaderboard at 1, 2, 4 and 8 times a size.

Every part and size runs in a process of its own (`python -m benchmark.throughput.growth PART SIZE OPTIONS`),
so that its peak memory is its own. Such a process does the work once at a small size, so that what is
loaded and allocated once is there; then at the size asked for, a few times, and prints the fewest seconds
and the most bytes held beyond what it began with.

Notation: n the size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, redirect_stderr
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from benchmark.dataset import IntArray, Pictures, Queries, Ragged, Task
from benchmark.distributed.process import this_process
from benchmark.errors import UserError, unknown_name
from benchmark.evaluation.evaluator import evaluate
from benchmark.evaluation.per_query import PerQuery
from benchmark.evaluation.sources import ALL
from benchmark.features.store import VIEWS, FeatureStore
from benchmark.leaderboards.book import RECORDS_FOLDER
from benchmark.leaderboards.leaderboard import pages
from benchmark.method import FeatureInputs, Method, Views
from benchmark.options import RunOptions
from benchmark.pipeline.plan import Plan
from benchmark.pipeline.planning import make_plan
from benchmark.pipeline.preparation import backbone_of, build_planned
from benchmark.progress import Progress
from benchmark.records.environment import code_version, environment, load_note, utc_now
from benchmark.records.identity import DataIdentity, Identity
from benchmark.records.measurement import Measurement
from benchmark.records.record import Record, Result, write_record
from benchmark.registry import discover
from benchmark.throughput.growth_curves import FACTORS, METHOD, PARTS, Curve
from benchmark.throughput.made_up import made_up_task
from benchmark.throughput.measure import speed_identity, speed_record
from benchmark.throughput.timing import peak_resident_bytes, reset_peak_memory, resident_bytes
from benchmark.throughput.training_speed import StageToMeasure, cut_to_machine, training_job, training_source
from benchmark.training.trainer import endless_updates

Work = Callable[[int, RunOptions, Path], Callable[[], object]]
"""(n, options, an empty folder) to the work, prepared."""

QUERIES, WIDTH = 64, 64
"""Of the evaluator's work: queries, and width of the encodings."""

_LEAST_ROUNDS, _MOST_ROUNDS, _ROUND_SECONDS = 2, 6, 3.0
_SMALL = 8


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
    command = [sys.executable, "-m", "benchmark.throughput.growth", part, str(size), chosen.model_dump_json()]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UserError(f"--growth: {part} at {size:,} failed ({reason}); choose a smaller --size")
    seconds, held = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), int(held)


def cost_of(work: Work, size: int, chosen: RunOptions) -> tuple[float, int]:
    """The fewest seconds, and the most bytes held beyond what the process held before."""

    def once(size: int) -> tuple[float, int]:
        with TemporaryDirectory(prefix="growth-") as folder:
            call = work(size, chosen, Path(folder))
            reset_peak_memory()
            before, started = resident_bytes(), time.perf_counter()
            call()
            return time.perf_counter() - started, max(peak_resident_bytes() - before, 0)

    once(max(size // _SMALL, 1))
    seconds: list[float] = []
    held: list[int] = []
    while len(seconds) < _LEAST_ROUNDS or (len(seconds) < _MOST_ROUNDS and sum(seconds) < _ROUND_SECONDS):
        took, most = once(size)
        seconds.append(took)
        held.append(most)
    return min(seconds), max(held)


def fill_store(size: int, chosen: RunOptions, folder: Path) -> Callable[[], object]:
    """The store of n pictures, whole and patches; the dataset's pictures under as many names."""
    plan = make_plan(chosen, discover())
    backbone, process = backbone_of(plan), this_process(chosen.device)
    assert backbone is not None
    shown = plan.dataset.split_pictures(plan.dataset.info.evaluation_split)
    paths = tuple(plan.dataset.pictures.paths[shown[i % len(shown)]] for i in range(size))
    pictures = Pictures(tuple(map(str, range(size))), paths)
    store = FeatureStore(folder, backbone, encoder_digest="growth", device=process.device)
    return lambda: store.pictures("growth", "all", pictures, np.arange(size), VIEWS)


def train_an_epoch(size: int, chosen: RunOptions, folder: Path) -> Callable[[], object]:
    """An epoch of n triplets of the method's own stage, on made-up features."""
    plan, process = make_plan(chosen, discover()), this_process(chosen.device)
    planned, backbone = plan.last, backbone_of(plan)
    built = build_planned(plan, planned, backbone)
    inputs = built.inputs
    assert isinstance(inputs, FeatureInputs) and backbone is not None
    planned = cut_to_machine(planned, None, process.device.type == "cpu")
    stage = StageToMeasure(plan, planned, built.method, inputs, backbone.picture_outputs)
    updates = max(size // planned.settings.batch_size, 1)
    entries = updates * planned.settings.batch_size

    def epoch() -> None:
        with ExitStack() as stack:
            source = training_source(stage, entries, folder, process, stack)
            with closing(endless_updates(training_job(stage, source, folder, process))) as steps:
                for _ in islice(steps, updates):
                    pass

    return epoch


class _Sum(Method):
    """Query I + T, target I, neither normalised: the evaluator's own work is what counts."""

    def encode_query(self, reference: Views, text: Views) -> Tensor:
        return reference["global"] + text["global"]

    def encode_target(self, target: Views) -> Tensor:
        return target["global"]


class _Features:
    """Whole-picture features as a memory-mapped file would give them, computed from the picture's number."""

    def prepare(self, tasks: Sequence[Task]) -> None:
        """Nothing is computed ahead."""

    def reference(self, split: str, queries: Queries, rows: slice = ALL) -> Views:
        return self.target(split, queries.reference_picture[rows])

    def target(self, split: str, pictures: IntArray) -> Views:
        numbers = torch.from_numpy(pictures).double()[:, None]
        return {"global": torch.sin(numbers * torch.arange(1, WIDTH + 1) * 0.37).float()}

    def texts(self, strings: Sequence[str]) -> Views:
        return {"global": torch.full((len(strings), WIDTH), 0.1)}


def evaluate_gallery(size: int, chosen: RunOptions, folder: Path) -> Callable[[], object]:
    """64 queries against n gallery pictures, of width 64, from features to metrics."""
    task: Task = made_up_task(QUERIES, size)
    positives = Ragged.single(task.queries.subset[:, 1] if task.queries.subset is not None else task.gallery)
    task = replace(task, queries=replace(task.queries, positives=positives))
    return lambda: evaluate(_Sum().eval(), (task,), _Features())


def make_leaderboard(size: int, chosen: RunOptions, folder: Path) -> Callable[[], object]:
    """The pages of n made-up records of one dataset."""
    name, datasets = chosen.dataset, discover().datasets()
    queries, gallery = np.arange(4181), 2297
    rank = 1 + queries % gallery
    ranks = PerQuery(ids=tuple(map(str, queries)), group=queries, rank=rank)
    metrics = {f"R@{k}": 100 * float((rank <= k).mean()) for k in (1, 5, 10, 50)}
    result = Result(
        dataset=name,
        split="val",
        protocol="official",
        text_mode="single",
        weights_from="selected",
        metrics=metrics,
        intervals={metric: (value, value + 1) for metric, value in metrics.items()},
        queries=len(queries),
        gallery=gallery,
    )
    data = DataIdentity(name=name, label=name, fingerprint="", is_demo=False, is_official=True)
    code, place, created = code_version(), environment("cpu", 1), utc_now()
    for number in range(size):
        method, seed = f"method-{number // 3}", number % 3
        record = Record(
            kind="run",
            method=method,
            title=method,
            command="",
            created=created,
            results=(result,),
            identity=Identity(data=data, seed=seed),
            code=code,
            environment=place,
        )
        write_record(folder / RECORDS_FOLDER / name / method / f"seed-{seed}", record, {0: ranks})
    return lambda: pages(folder, {name: datasets[name]})


WORKS: dict[str, Work] = {
    "store": fill_store,
    "training": train_an_epoch,
    "evaluator": evaluate_gallery,
    "leaderboard": make_leaderboard,
}


def main(arguments: Sequence[str]) -> None:
    """Part, size and a run's options as JSON; prints the cost as JSON."""
    part, size, options = arguments
    with Path(os.devnull).open("w") as silence, redirect_stderr(silence):
        cost = cost_of(WORKS[part], int(size), RunOptions.model_validate_json(options))
    print(json.dumps(cost))


if __name__ == "__main__":
    main(sys.argv[1:])
