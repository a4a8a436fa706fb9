"""Speed of a training stage: the trainer's own updates, beside a plain PyTorch loop and bare products.

A stage on stored features reads made-up ones from memory-mapped files, as the store's are, and the
gathering of a batch is part of its update. A stage on pictures trains on a few batches decoded
beforehand, and its loader is measured on its own: in a run the two work side by side.

Notation: B rows of a negative group, S side of a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmark.data.pictures import open_picture
from benchmark.data.pixels import PixelSource, cores
from benchmark.dataset import Pictures, Triplets
from benchmark.distributed.job import ALONE
from benchmark.distributed.process import Process
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.features.store import FeatureStore, SharedStore
from benchmark.method import FeatureInputs, Inputs, Method, PixelInputs
from benchmark.pipeline.plan import PlannedStage
from benchmark.records.measurement import Measurement, Precision
from benchmark.settings import TrainerSettings
from benchmark.text_rules import text_rule
from benchmark.throughput.limits import bare_step, computing_in, memory_copy
from benchmark.throughput.made_up import MadeUpBackbone, made_up_features
from benchmark.throughput.product_shapes import Products
from benchmark.throughput.rates import Limit, Setting, rate
from benchmark.throughput.timing import repeated
from benchmark.training.batches import Batch, GroupLayout, Share, TrainingSource, rank_shares, update_plan
from benchmark.training.execution import Execution
from benchmark.training.job import TrainingJob
from benchmark.training.sources import FeatureTraining, PixelTraining
from benchmark.training.trainer import endless_updates

_UPDATES = 8
"""Updates of the made-up epoch."""
_MOST_PICTURES = 4096
_LOADED_PICTURES = 64
_FEATURE_ROWS_ON_CPU = 256
_PIXELS_ON_CPU = 1 << 19
_STORE_SIDE = 8
_NEVER = 1e9
_BARE_LOOP = "plain PyTorch loop"
_BARE_PRODUCTS = "bare products of the same shapes"


@dataclass(frozen=True)
class StageToMeasure:
    """A stage as a run would train it, built; ``seed`` and ``execution`` are the run's."""

    planned: PlannedStage
    method: Method
    inputs: Inputs
    width: int
    triplets: Triplets
    pictures: Pictures
    seed: int
    execution: Execution


def cut_to_machine(planned: PlannedStage, side: int | None, on_cpu: bool) -> PlannedStage:
    """On a CPU, a stage with a batch that takes not minutes: 256 rows of features, 2^19 pixels a side.

    ``side``: S of a stage that reads pictures, None where it reads features. The batch is one
    negative group then; smaller batches and a GPU's stay as the recipe has them.
    """
    most = _FEATURE_ROWS_ON_CPU if side is None else max(2, _PIXELS_ON_CPU // side**2)
    if not on_cpu or planned.settings.group <= most:
        groups = planned.settings.batch_size // planned.settings.group
        if not on_cpu or groups == 1:
            return planned
        most = planned.settings.group
    cut = planned.settings.model_copy(update={"batch_size": most, "negative_group": 0})
    return replace(planned, settings=cut)


def stage_speeds(stage: StageToMeasure, process: Process, setting: Setting) -> dict[str, Measurement]:
    """Updates and triplets a second of one stage, and how fast what it reads is read."""
    entries = _UPDATES * stage.planned.settings.batch_size
    with TemporaryDirectory(prefix="throughput-") as name, ExitStack() as stack:
        source = training_source(stage, entries, Path(name), process, stack)
        ready = _ready_batches(source, stage.planned)
        read = _reading(stage, source, setting, process.device)
        if isinstance(stage.inputs, PixelInputs):
            source = _Ready(ready, stage.planned)
        return {**_updates(stage, source, ready, Path(name), process, setting), **read}


def _updates(
    stage: StageToMeasure,
    source: TrainingSource,
    ready: Sequence[Batch],
    folder: Path,
    process: Process,
    setting: Setting,
) -> dict[str, Measurement]:
    planned, settings = stage.planned, stage.planned.settings
    first = ready[: settings.batch_size // settings.group]
    precision: Precision = "tf32" if setting.precision == "tf32" else settings.precision
    with computing_in("tf32" if precision == "tf32" else "fp32", process.device):
        bare = bare_step(stage.method, planned.stage, settings, first)
        products = Products.recorded(bare)
        with closing(endless_updates(training_job(stage, source, folder, process))) as updates:
            calls = {"trainer": lambda: next(updates), "bare": bare, "products": products.replay()}
            rounds = setting.rounds(calls)
    rows, group = settings.batch_size, settings.group
    work = f"batch {rows}" + (f" in groups of {group}" if group < rows else "") + f", {precision}"
    return {
        f"{planned.stage.name}: updates": rate(rounds, "trainer", 1, "updates", Limit("bare", _BARE_LOOP), work),
        f"{planned.stage.name}: triplets": rate(
            rounds,
            "trainer",
            rows,
            "triplets",
            Limit("products", _BARE_PRODUCTS),
            work,
            flops=products.flops,
            setting=setting,
            precision=precision,
        ),
    }


def training_job(stage: StageToMeasure, source: TrainingSource, folder: Path, process: Process) -> TrainingJob:
    """A job that validates and saves nothing."""
    return TrainingJob(
        method=stage.method,
        stage=stage.planned.stage,
        settings=stage.planned.settings,
        source=source,
        process=process,
        seed=stage.seed,
        folder=folder,
        identity={},
        validate=None,
        trainer=TrainerSettings(checkpoint_seconds=_NEVER),
        execution=stage.execution,
    )


def training_source(
    stage: StageToMeasure, entries: int, folder: Path, process: Process, stack: ExitStack
) -> TrainingSource:
    """An epoch of so many of the stage's own triplets, over and over where they are fewer.

    Features are made up for at most 4,096 pictures (or one for each entry) and lie in ``folder``.
    """
    rule = text_rule(stage.planned.settings.text_rule)
    triplets = stage.triplets.take(np.arange(entries, dtype=np.int64) % len(stage.triplets))
    if isinstance(stage.inputs, PixelInputs):
        pixels = stack.enter_context(PixelSource(stage.pictures, stage.inputs.train, workers=cores()))
        return PixelTraining(
            lambda epoch: triplets, rule, stage.inputs, pixels, stage.method, stage.seed, process.device
        )
    shown = np.arange(min(entries, _MOST_PICTURES), dtype=np.int64)
    triplets = Triplets(triplets.reference % len(shown), triplets.target % len(shown), triplets.captions)
    backbone = MadeUpBackbone(stage.width, Preprocessing("clip", _STORE_SIDE)).to(process.device)
    store = SharedStore(FeatureStore(folder, backbone, encoder_digest="made-up", device=process.device), ALONE)
    patches = sum(grid * grid for grid in stage.inputs.grids)
    features = made_up_features(folder, shown, stage.width, patches, stage.inputs.views)
    return FeatureTraining(
        lambda epoch: triplets, rule, stage.inputs, features, store, stage.seed, process.device
    )


def _ready_batches(source: TrainingSource, planned: PlannedStage) -> list[Batch]:
    """The groups of the first two updates."""
    settings = planned.settings
    plan = update_plan(source.start_epoch(0), settings, 0, 0)[:2]
    layout = GroupLayout.of(settings, 1)
    return list(source.batches([share for rows in plan for share in rank_shares(rows, settings, layout, 0)]))


def _reading(
    stage: StageToMeasure, source: TrainingSource, setting: Setting, device: torch.device
) -> dict[str, Measurement]:
    """How fast the stage's inputs come: gathered feature rows, or decoded pictures on one core."""
    name, on_cpu = stage.planned.stage.name, replace(setting, device=torch.device("cpu"))
    if isinstance(stage.inputs, FeatureInputs):
        return {f"{name}: gathering": _gathering(source, stage.planned, setting, device)}
    transform = stage.inputs.train
    shown = np.unique(np.concatenate([stage.triplets.reference, stage.triplets.target]))[:_LOADED_PICTURES]
    keys = [(0, 0, int(index), 0) for index in shown]

    def plain() -> list[object]:
        rngs = (np.random.default_rng(key) for key in keys)
        return [transform.picture(open_picture(stage.pictures.paths[i]), g) for i, g in zip(shown, rngs, strict=True)]

    with PixelSource(stage.pictures, transform, workers=1, budget_bytes=0) as loader:
        rounds = on_cpu.rounds({"loader": lambda: loader.batch(shown, keys), "bare": plain})
    limit = Limit("bare", "plain loop of the same transform")
    work = f"{len(shown)} pictures, 1 core"
    return {f"{name}: loading": rate(rounds, "loader", len(shown), "pictures/core", limit, work)}


def _gathering(
    source: TrainingSource, planned: PlannedStage, setting: Setting, device: torch.device
) -> Measurement:
    entries = source.start_epoch(0)
    settings = planned.settings
    layout = GroupLayout.of(settings, 1)
    shares = [rank_shares(rows, settings, layout, 0)[0] for rows in update_plan(entries, settings, 0, 0)]

    def gather() -> list[Batch]:
        return list(source.batches(shares))

    batch = gather()[0]
    moved = sum(t.nbytes for views in (batch.reference, batch.target, batch.text) for t in views.values())
    copied = repeated(memory_copy(device, moved), len(shares))
    rounds = replace(setting, device=device).rounds({"source": gather, "copy": copied})
    limit = Limit("copy", "copy of as many bytes in memory")
    work = f"{len(shares)} batches of {settings.group}, {moved / 1e6:.1f} MB each"
    return rate(rounds, "source", len(shares) * moved / 1e9, "GB", limit, work)


class _Ready:
    """A training source of batches that are in memory already, over and over."""

    def __init__(self, batches: Sequence[Batch], planned: PlannedStage) -> None:
        self._batches, self._entries = cycle(batches), _UPDATES * planned.settings.batch_size

    def start_epoch(self, epoch: int) -> int:
        return self._entries

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        for _ in plan:
            yield next(self._batches)
