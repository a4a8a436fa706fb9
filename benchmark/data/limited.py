"""`--limit N`: any dataset cut to N triplets and N queries per task, to try a run in seconds.

Numbers of a limited run are named so in every output and are kept out of leaderboards.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmark.data.partial import missing_names
from benchmark.dataset import (
    Captions,
    Counts,
    Dataset,
    DatasetInfo,
    IntArray,
    Pictures,
    ProtocolInfo,
    Queries,
    Ragged,
    Task,
    Triplets,
)


class LimitedDataset:
    """A dataset's first N triplets, and each task's first N queries against the pictures they name."""

    def __init__(self, dataset: Dataset, limit: int, evaluated: tuple[Task, ...]) -> None:
        self._dataset, self._limit = dataset, limit
        self._evaluated = tuple(limited_task(task, limit) for task in evaluated)

    @property
    def info(self) -> DatasetInfo:
        return self._dataset.info

    @property
    def root(self) -> Path:
        return self._dataset.root

    @property
    def label(self) -> str:
        return self._dataset.label

    @property
    def is_demo(self) -> bool:
        return self._dataset.is_demo

    @property
    def is_official(self) -> bool:
        return self._dataset.is_official

    @property
    def fingerprint(self) -> str:
        return f"{self._dataset.fingerprint}-limit-{self._limit}"

    @property
    def missing(self) -> tuple[str, ...]:
        return missing_names(self._dataset)

    @property
    def pictures(self) -> Pictures:
        return self._dataset.pictures

    @property
    def protocols(self) -> tuple[ProtocolInfo, ...]:
        return self._dataset.protocols

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        # One draw for all epochs and schemes: no epoch may show a picture that was not encoded before.
        triplets = self._dataset.train_triplets(0, 0)
        return triplets.take(np.arange(min(self._limit, len(triplets)), dtype=np.int64))

    def split_pictures(self, split: str) -> IntArray:
        named = [
            pictures
            for task in self._evaluated
            if task.key.split == split
            for pictures in (task.gallery, task.queries.reference_picture, task.queries.feature_picture)
            if pictures is not None
        ]
        if split == "train":
            triplets = self.train_triplets(0, 0)
            named += [triplets.reference_picture, triplets.target_picture]
        return np.unique(np.concatenate(named)) if named else self._dataset.split_pictures(split)

    def training_texts(self) -> tuple[Captions, ...]:
        return self._dataset.training_texts()[: self._limit]

    def side_texts(self) -> dict[str, tuple[str, ...]]:
        return self._dataset.side_texts()

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        return tuple(limited_task(task, self._limit) for task in self._dataset.tasks(split, protocol, text_rule))

    def counts(self) -> tuple[Counts, ...]:
        return self._dataset.counts()

    def criterion(self, metrics: dict[str, dict[str, float]]) -> tuple[str, float]:
        return self._dataset.criterion(metrics)


def limited_task(task: Task, limit: int) -> Task:
    """The first ``limit`` queries against those gallery pictures that they name, and ``limit`` more."""
    queries = task.queries.take(np.arange(min(limit, len(task.queries)), dtype=np.int64))
    references = queries.reference_in_gallery[queries.reference_in_gallery >= 0]
    named = [queries.positives.values, references, np.arange(limit)]
    if queries.subset is not None:
        named.append(queries.subset[queries.subset >= 0])
    kept = np.unique(np.concatenate(named))
    kept = kept[kept < len(task.gallery)]
    return replace(task, queries=_renumbered(queries, kept, len(task.gallery)), gallery=task.gallery[kept])


def _renumbered(queries: Queries, kept: IntArray, gallery_size: int) -> Queries:
    position = np.full(gallery_size + 1, -1, dtype=np.int64)
    position[kept] = np.arange(len(kept))
    return replace(
        queries,
        reference_in_gallery=position[queries.reference_in_gallery],
        positives=Ragged(queries.positives.offsets, position[queries.positives.values]),
        subset=None if queries.subset is None else position[queries.subset],
    )
