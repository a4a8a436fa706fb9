"""Speed of a training stage: the trainer's own updates, beside a plain PyTorch loop and bare products.

A stage on stored features reads made-up ones from memory-mapped files, as the store's are, and the
gathering of a batch is part of its update (so does one that encodes its pictures in every epoch: the encoder
is measured on its own). A stage on pictures trains on a few batches decoded beforehand, and its loader is
measured on its own: in a run the two work side by side.

Notation: B rows of a negative group, S side of a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmark.backbone import GLOBAL, Output
from benchmark.data.pictures import cores, open_picture
from benchmark.data.pixels import PixelSource
from benchmark.dataset import Pictures, Triplets
from benchmark.distributed.job import ALONE
from benchmark.distributed.process import Process
from benchmark.encoders.preprocessing import Preprocessing
from benchmark.features.room import view_output
from benchmark.features.store import FeatureStore, PictureFeatures, SharedStore
from benchmark.method import FeatureInputs, Inputs, Method, PixelInputs, TrainingRows
from benchmark.pipeline.plan import Plan, PlannedStage
from benchmark.records.measurement import Measurement, Precision
from benchmark.settings import TrainerSettings
from benchmark.text_rules import text_rule
from benchmark.throughput.limits import (
    BARE_PRODUCTS,
    BareStep,
    Products,
    computing_in,
    memory_copy,
    with_bytes_moved,
)
from benchmark.throughput.made_up import MadeUpBackbone, made_up_features
from benchmark.throughput.timing import Setting, repeated
from benchmark.training.batches import Batch, GroupLayout, Share, TrainingSource, rank_shares, update_plan
from benchmark.training.job import TrainingJob
from benchmark.training.sources import FeatureTraining, PixelTraining, RowTraining, StoredRows
from benchmark.training.trainer import endless_updates

_UPDATES = 8
"""Updates of the made-up epoch."""
_MOST_PICTURES = 4096
_LOADED_PICTURES = 64
_FEATURE_ROWS_ON_CPU = 256
_PIXELS_ON_CPU = 1 << 19
_STORE_SIDE = 8
_NEVER = 1e9


@dataclass(frozen=True)
class StageToMeasure:
    """A stage as the plan would train it, built; ``outputs``: what its backbone gives of a picture."""

    plan: Plan
    planned: PlannedStage
    method: Method
    inputs: Inputs
    outputs: Mapping[str, Output]

    @cached_property
    def triplets(self) -> Triplets:
        return self.plan.triplets(self.planned, frozenset())(0)


def cut_to_machine(planned: PlannedStage, side: int | None, on_cpu: bool) -> PlannedStage:
    """On a CPU, a stage with a batch that takes not minutes: 256 rows of features, 2^19 pixels a side.

    ``side``: S of a stage that reads pictures, None where it reads features. The batch is one
    negative group then; smaller batches and a GPU's stay as the recipe has them.
    """
    batch, group = planned.settings.batch_size, planned.settings.group
    most = _FEATURE_ROWS_ON_CPU if side is None else max(2, _PIXELS_ON_CPU // side**2)
    if not on_cpu or batch == group <= most:
        return planned
    cut = planned.settings.model_copy(update={"batch_size": min(group, most), "negative_group": 0})
    return replace(planned, settings=cut)


@contextmanager
def ready_stage(stage: StageToMeasure, process: Process) -> Iterator[ReadyStage]:
    """What a stage trains on, made up or decoded; its folder is removed at the end."""
    entries = _UPDATES * stage.planned.settings.batch_size
    with TemporaryDirectory(prefix="throughput-") as name, ExitStack() as stack:
        source = training_source(stage, entries, Path(name), process, stack)
        plan = _shares(source, stage.planned)
        ready = list(source.batches([share for update in plan[:2] for share in update]))
        trained_on = source if isinstance(stage.inputs, FeatureInputs) else _Ready(ready, entries)
        yield ReadyStage(source, trained_on, plan, ready[: len(plan[0])], Path(name))


@dataclass(frozen=True)
class ReadyStage:
    """``source``: as in a run. ``trained_on``: the same for features; of pictures a few decoded batches, over and
    over. ``plan``: the negative groups of every update of an epoch, ``first``: the batches of one update."""

    source: TrainingSource
    trained_on: TrainingSource
    plan: list[list[Share]]
    first: Sequence[Batch]
    folder: Path


def stage_speeds(stage: StageToMeasure, process: Process, setting: Setting) -> dict[str, Measurement]:
    """Updates and triplets a second of one stage, and how fast what it reads is read."""
    with ready_stage(stage, process) as ready:
        if isinstance(stage.inputs, FeatureInputs):
            read = _gathering(stage, ready.source, [update[0] for update in ready.plan], setting)
        else:
            read = _loading(stage, stage.inputs, setting)
        return {**_updates(stage, ready, process, setting), **read}


def updates_alone(stage: StageToMeasure, process: Process, setting: Setting) -> Measurement:
    """Triplets a second with nothing measured beside: the peak memory is that of training alone."""
    rows = stage.planned.settings.batch_size
    with ready_stage(stage, process) as ready, computing_in(_outside_autocast(setting), process.device):
        with closing(endless_updates(training_job(stage, ready.trained_on, ready.folder, process))) as updates:
            rounds = setting.rounds({"trainer": lambda: next(updates)})
    return setting.rate(rounds, "trainer", rows, "triplets", f"batch {rows}, {setting.precision}")


def _shares(source: TrainingSource, planned: PlannedStage) -> list[list[Share]]:
    """The negative groups of every update of an epoch."""
    settings = planned.settings
    layout = GroupLayout.of(settings, 1)
    return [rank_shares(rows, settings, layout, 0) for rows in update_plan(source.start_epoch(0), settings, 0, 0)]


def _outside_autocast(setting: Setting) -> Precision:
    """Half precision is the step's own autocast."""
    return "tf32" if setting.precision == "tf32" else "fp32"


def _updates(
    stage: StageToMeasure, ready: ReadyStage, process: Process, setting: Setting
) -> dict[str, Measurement]:
    """The limits make the first update over and over."""
    name, settings = stage.planned.stage.name, stage.planned.settings
    loop, device = "plain PyTorch loop", process.device
    with computing_in(_outside_autocast(setting), device):
        step = BareStep(stage.method, stage.planned.stage, settings, ready.first)
        products = Products.recorded(step)
        bare = with_bytes_moved(products.replay(), step.moved_bytes, device)
        with closing(endless_updates(training_job(stage, ready.trained_on, ready.folder, process))) as updates:
            rounds = setting.rounds({"trainer": lambda: next(updates), loop: step, BARE_PRODUCTS: bare})
    rows, group = settings.batch_size, settings.group
    work = f"batch {rows}" + (f" in groups of {group}" if group < rows else "") + f", {setting.precision}"
    return {
        f"{name}: updates": setting.rate(rounds, "trainer", 1, "updates", work, loop),
        f"{name}: triplets": setting.rate(rounds, "trainer", rows, "triplets", work, BARE_PRODUCTS, products.flops),
    }


def training_job(stage: StageToMeasure, source: TrainingSource, folder: Path, process: Process) -> TrainingJob:
    """A job that validates and saves nothing."""
    execution = stage.plan.execution
    if isinstance(stage.inputs, FeatureInputs):
        # Only a stage that reads pictures knows micro-batches.
        execution = replace(execution, micro_batch=0)
    return TrainingJob(
        method=stage.method,
        stage=stage.planned.stage,
        settings=stage.planned.settings,
        source=source,
        process=process,
        seed=stage.plan.options.seed,
        folder=folder,
        identity={},
        validate=None,
        trainer=TrainerSettings(checkpoint_seconds=_NEVER),
        execution=execution,
    )


def training_source(
    stage: StageToMeasure, entries: int, folder: Path, process: Process, stack: ExitStack
) -> TrainingSource:
    """An epoch of so many of the stage's own triplets, over and over where they are fewer.

    Features are made up for at most 4,096 pictures (or one for each entry) and lie in ``folder``.
    """
    rule, seed, device = text_rule(stage.planned.settings.text_rule), stage.plan.options.seed, process.device
    rows = stage.plan.rows(stage.planned)
    if rows is not None and isinstance(stage.inputs, FeatureInputs):
        rows, features = _made_up_rows(stage, rows, entries, folder)
        stored = StoredRows(rows, features, stage.inputs.views, _store_in(folder, stage, device), device)
        return RowTraining(rows, stored, stage.method, seed, device)
    triplets = stage.triplets.take(np.arange(entries, dtype=np.int64) % len(stage.triplets))
    if isinstance(stage.inputs, PixelInputs):
        pictures = stage.plan.dataset.pictures
        pixels = stack.enter_context(PixelSource(pictures, stage.inputs.train, stage.inputs.annotator, workers=cores()))
        return PixelTraining(lambda epoch: triplets, rule, stage.inputs, pixels, stage.method, seed, device)
    shown = np.arange(min(entries, _MOST_PICTURES), dtype=np.int64)
    count = len(shown)
    triplets = Triplets(triplets.reference_picture % count, triplets.target_picture % count, triplets.captions)
    store = _store_in(folder, stage, device)
    views = {view: view_output(view, stage.outputs, stage.inputs.grids) for view in stage.inputs.views}
    features = made_up_features(folder, shown, views)
    return FeatureTraining(lambda epoch: triplets, rule, stage.inputs, features, store, stage.method, seed, device)


def _store_in(folder: Path, stage: StageToMeasure, device: torch.device) -> SharedStore:
    width = stage.outputs[GLOBAL].shape[0] if GLOBAL in stage.outputs else 1
    backbone = MadeUpBackbone(width, Preprocessing("clip", _STORE_SIDE)).to(device)
    return SharedStore(FeatureStore(folder, backbone, encoder_digest="made-up", device=device), ALONE)


def _made_up_rows(
    stage: StageToMeasure, rows: TrainingRows, entries: int, folder: Path
) -> tuple[TrainingRows, PictureFeatures]:
    """So many rows with the texts of a stage's own, over and over, and features for each."""
    assert isinstance(stage.inputs, FeatureInputs)
    count, places = len(rows), np.arange(entries, dtype=np.int64)
    pictures = Pictures(tuple(map(str, places)), (folder,) * entries)
    views = {view: view_output(view, stage.outputs, stage.inputs.grids) for view in stage.inputs.views}
    repeated_rows = replace(
        rows, text=lambda method, part, rng: rows.text(method, part % count, rng), pictures=pictures, sentences=()
    )
    return repeated_rows, made_up_features(folder, places, views)


def _gathering(
    stage: StageToMeasure, source: TrainingSource, shares: Sequence[Share], setting: Setting
) -> dict[str, Measurement]:
    """How fast the first groups of an epoch's updates are gathered from the stored rows."""

    def gather() -> list[Batch]:
        return list(source.batches(shares))

    batch, limit = gather()[0], "copy of as many bytes in memory"
    moved = sum(t.nbytes for views in (batch.reference, batch.target, batch.text) for t in views.values())
    copied = repeated(memory_copy(setting.device, moved), len(shares))
    rounds = setting.rounds({"source": gather, limit: copied})
    work = f"{len(shares)} batches of {stage.planned.settings.group}, {moved / 1e6:.1f} MB each"
    speed = setting.rate(rounds, "source", len(shares) * moved / 1e9, "GB", work, limit)
    return {f"{stage.planned.stage.name}: gathering": speed}


def _loading(stage: StageToMeasure, inputs: PixelInputs, setting: Setting) -> dict[str, Measurement]:
    """How fast the stage's pictures are decoded and transformed on one core."""
    pictures, transform, limit = stage.plan.dataset.pictures, inputs.train, "plain loop of the same transform"
    asked = np.concatenate([stage.triplets.reference_picture, stage.triplets.target_picture])
    shown = np.unique(asked)[:_LOADED_PICTURES]
    keys = [(0, 0, int(index), 0) for index in shown]

    def plain() -> list[object]:
        rngs = (np.random.default_rng(key) for key in keys)
        return [transform.picture(open_picture(pictures.paths[i]), g) for i, g in zip(shown, rngs, strict=True)]

    on_cpu = replace(setting, device=torch.device("cpu"))
    with PixelSource(pictures, transform, workers=1, budget_bytes=0) as loader:
        rounds = on_cpu.rounds({"loader": lambda: loader.batch(shown, keys), limit: plain})
    work = f"{len(shown)} pictures, 1 core"
    speed = on_cpu.rate(rounds, "loader", len(shown), "pictures/core", work, limit)
    return {f"{stage.planned.stage.name}: loading": speed}


class _Ready:
    """A training source of batches that are in memory already, over and over."""

    def __init__(self, batches: Sequence[Batch], entries: int) -> None:
        self._batches, self._entries = cycle(batches), entries

    def start_epoch(self, epoch: int) -> int:
        return self._entries

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        for _ in plan:
            yield next(self._batches)
