"""What the stages of one run read: the feature store of its encoder, and loaders of its pictures.

One object serves one encoder: after a stage has trained the encoder, a new one is made with it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType

import numpy as np
import torch

from benchmark.backbone import Backbone
from benchmark.data.pixels import PixelSource
from benchmark.data.trained_elsewhere import stored_as
from benchmark.dataset import Task
from benchmark.distributed.job import Job
from benchmark.encoders.frozen_encoder import FrozenEncoder
from benchmark.evaluation.evaluator import evaluate
from benchmark.evaluation.sources import EvaluationSource, FeatureEvaluation, LiveFeatures, PixelEvaluation
from benchmark.features.store import FeatureStore, PictureFeatures, SharedStore
from benchmark.files import digest_of
from benchmark.method import (
    Annotator,
    FeatureInputs,
    Inputs,
    Method,
    PixelInputs,
    Stage,
    TrainingRows,
    Transform,
)
from benchmark.pipeline.plan import Plan, PlannedStage
from benchmark.text_rules import text_rule
from benchmark.training.batches import TrainingSource
from benchmark.training.selection import Score, criterion_score, heldout_score
from benchmark.training.sources import (
    EncodedRows,
    FeatureTraining,
    PixelTraining,
    RowFeatures,
    RowTraining,
    StoredRows,
)

_PIXEL_BUDGET = 2 * 2**30


class StageSources:
    """Sources for training, validation and evaluation on one encoder; leaving the context frees them.

    ``unreadable``: training pictures to leave out. ``seconds_on_features`` counts what was spent
    on filling the store.
    """

    def __init__(
        self, plan: Plan, job: Job, backbone: Backbone | None, unreadable: frozenset[int] = frozenset()
    ) -> None:
        self.backbone = backbone
        self.seconds_on_features = 0.0
        self._plan, self._job, self._unreadable = plan, job, unreadable
        self._stored = None if backbone is None else _store_of(plan, backbone, job)
        self._open = ExitStack()
        self._loaders: dict[str, PixelSource] = {}
        self._features: dict[tuple[str, tuple[str, ...], tuple[int, ...]], PictureFeatures] = {}

    def __enter__(self) -> StageSources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def training(self, planned: PlannedStage, method: Method, inputs: Inputs) -> TrainingSource:
        """The batches that a stage trains on."""
        rule, seed = text_rule(planned.settings.text_rule), self._plan.seed_of(planned)
        device = self._job.process.device
        rows = self._plan.rows(planned)
        if rows is not None:
            if not isinstance(inputs, FeatureInputs):
                raise TypeError("rows in place of triplets are read as features")
            return RowTraining(rows, self._features_of(rows, planned, inputs), method, seed, device)
        triplets = self._plan.triplets(planned, self._unreadable)
        if isinstance(inputs, FeatureInputs):
            if inputs.train is not None:
                raise TypeError("a stage on triplets that opens pictures in every epoch reads pixels")
            pictures = self.features("train", inputs)
            return FeatureTraining(triplets, rule, inputs, pictures, self._store, method, seed, device)
        # With a gradient cache a batch may be of any size: it waits on the host, micro-batches move one by one.
        waits = torch.device("cpu") if self._plan.execution.micro_batch else device
        return PixelTraining(triplets, rule, inputs, self._pixels(inputs.train, inputs.annotator), method, seed, waits)

    def _features_of(self, rows: TrainingRows, planned: PlannedStage, inputs: FeatureInputs) -> RowFeatures:
        device = self._job.process.device
        if inputs.train is not None:
            assert self.backbone is not None
            pixels = PixelSource(rows.pictures, inputs.train, workers=self._job.cores)
            encoder = FrozenEncoder(self.backbone, device, planned.settings.precision)
            seed = self._plan.seed_of(planned)
            return EncodedRows(self._open.enter_context(pixels), encoder, inputs.views, seed)
        pictures = None
        if not rows.sentences:
            indices, keep = np.arange(len(rows)), self._plan.trainer.keep_features
            pictures = self._store.pictures(rows, "train", indices, inputs.views, inputs.grids, keep)
        return StoredRows(rows, pictures, inputs.views, self._store, device)

    def evaluation(self, method: Method, inputs: Inputs) -> EvaluationSource:
        """What tasks are evaluated on."""
        device = self._job.process.device
        if isinstance(inputs, FeatureInputs):
            return FeatureEvaluation(inputs, lambda split: self.features(split, inputs), self._store, method, device)
        own = inputs.evaluate_reference
        references = None if own is None else self._pixels(own, inputs.annotator)
        seed = self._plan.options.seed
        return PixelEvaluation(
            inputs, self._pixels(inputs.evaluate, inputs.annotator), method, device, references, seed
        )

    def single_modalities(
        self, stage: Stage, method: Method, inputs: Inputs, tasks: Sequence[Task]
    ) -> EvaluationSource:
        """What either modality alone is ranked on: of a stage that trains an encoder, that encoder's own features."""
        live = self._live(stage, inputs)
        if live is not None:
            live.prepare(tasks)
        return live or self.evaluation(method, inputs)

    def _live(self, stage: Stage, inputs: Inputs) -> LiveFeatures | None:
        """Features of the encoder as it stands, for the stage that trains it."""
        if stage.output != "encoder" or not isinstance(inputs, PixelInputs):
            return None
        assert self.backbone is not None
        return LiveFeatures(self.backbone, inputs, self._pixels(inputs.evaluate), self._job)

    def validation(
        self, planned: PlannedStage, method: Method, inputs: Inputs
    ) -> Callable[[Method], Score] | None:
        """The selection criterion as a function of the method as it stands; None selects nothing."""
        plan = self._plan
        if plan.options.selection == "last":
            return None
        tasks = plan.selection_tasks
        source = self._live(planned.stage, inputs) or self.evaluation(method, inputs)

        def validate(current: Method) -> Score:
            scores = evaluate(current, tasks, source, self._job)
            metrics = {score.task.key.category: score.metrics for score in scores}
            if plan.options.selection == "heldout":
                return heldout_score(next(iter(metrics.values())))
            return criterion_score(plan.dataset, metrics, planned.settings.criterion)

        return validate

    def features(self, split: str, inputs: FeatureInputs) -> PictureFeatures:
        """Features of a split's pictures, computed where they are not in the store yet."""
        key = (split, inputs.views, inputs.grids)
        if key not in self._features:
            dataset, started = self._plan.dataset, time.monotonic()
            indices = dataset.split_pictures(split)
            if split == "train" and self._unreadable:
                indices = indices[~np.isin(indices, list(self._unreadable))]
            named, name = stored_as(dataset, split)
            self._features[key] = self._store.pictures(
                named, name, indices, inputs.views, inputs.grids, self._plan.trainer.keep_features
            )
            self.seconds_on_features += time.monotonic() - started
        return self._features[key]

    @property
    def _store(self) -> SharedStore:
        if self._stored is None:
            raise TypeError(f"{self._plan.method.name}: reads stored features, but brings its own networks")
        return self._stored

    def fill_texts(self, strings: list[str]) -> None:
        self._store.fill_texts(strings)

    def _pixels(self, transform: Transform, annotator: Annotator | None = None) -> PixelSource:
        """A loader of this run's pictures; loaders of the same pixels share what they keep in memory."""
        key = digest_of([dict(transform.key()), dict(annotator.key()) if annotator else {}])
        if transform.random or key not in self._loaders:
            budget = _PIXEL_BUDGET // len(self._job.host_ranks)
            loader = PixelSource(
                self._plan.dataset.pictures, transform, annotator, workers=self._job.cores, budget_bytes=budget
            )
            self._loaders[key] = self._open.enter_context(loader)
        return self._loaders[key]


def _store_of(plan: Plan, backbone: Backbone, job: Job) -> SharedStore:
    store = FeatureStore(
        plan.options.cache_root / "features",
        backbone,
        encoder_digest=backbone.description.digest,
        device=job.process.device,
        precision=plan.backbone_settings.precision,
        compiled=plan.backbone_settings.compile,
        workers=job.cores,
    )
    return SharedStore(store, job)


def apart_from(method: Method, backbone: Backbone | None) -> Backbone | None:
    """The backbone, or a copy of it where the method trains it: stored features are of fixed weights."""
    if backbone is None:
        return None
    kept = set(backbone.parameters())
    shared = any(parameter in kept for parameter in method.parameters() if parameter.requires_grad)
    return copy.deepcopy(backbone) if shared else backbone
