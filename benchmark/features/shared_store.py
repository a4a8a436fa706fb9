"""A feature store as the ranks of a job fill it.

Ranks that see the same cache folder share its blocks and texts between them; where nodes have folders
of their own, each node's ranks fill theirs. Filling takes unknown time, so that all ranks meet
behind it. Whoever computed a feature, its bits are the same (:mod:`benchmark.features.store`).
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.dataset import Dataset, IntArray
from benchmark.distributed.job import Job
from benchmark.features.store import FeatureStore, PictureFeatures
from benchmark.features.text_features import TextFeatures
from benchmark.progress import counting


class SharedStore:
    """``store`` for all ranks of ``job``; every rank must fill the same things in the same order."""

    def __init__(self, store: FeatureStore, job: Job) -> None:
        self._store, self._job = store, job

    def pictures(
        self, dataset: Dataset, split: str, indices: IntArray, views: tuple[str, ...], grids: tuple[int, ...]
    ) -> PictureFeatures:
        """Features of these pictures of a split, complete on every rank."""
        phase = f"features of {split}"
        with counting(phase, len(indices)) as progress:
            features = self._store.pictures(
                dataset.label, split, dataset.pictures, indices, views, grids, progress, self._job.cache.shard
            )
        self._job.barrier.wait(phase)
        return features

    def fill_texts(self, strings: Sequence[str]) -> TextFeatures:
        """Features of these texts, complete on every rank."""
        with counting("features of texts", len(strings)) as progress:
            features = self._store.texts(strings, progress, self._job.cache.shard)
        self._job.barrier.wait("features of texts")
        return features

    def texts(self, strings: Sequence[str]) -> TextFeatures:
        """Features of texts that were filled before; ranks may ask for different ones."""
        return self._store.texts(strings)
