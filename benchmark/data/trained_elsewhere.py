"""A dataset that is trained on the triplets of another one: CIRCO, which has none, on CIRR's, say.

Weights are then trained, and an epoch picked, as in a run on the other dataset alone: by its triplets, its recipe, its
own queries and its criterion. What was computed for such a run (features, encoders) serves this one, too.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from benchmark.data.wrapped import WrappedDataset, missing_names, noise_of
from benchmark.dataset import Captions, Counts, Dataset, IntArray, Pictures, Task, Triplets

_OTHER = "training-"
"""Before a split's name: it is the other dataset's."""


class TrainedElsewhere(WrappedDataset):
    """``dataset`` is evaluated, ``training`` trained on; one table holds the pictures of both, the former's first.
    Dictionaries and side texts are those of the former; ``training`` has its own."""

    def __init__(self, dataset: Dataset, training: Dataset) -> None:
        missing = (*missing_names(dataset), *missing_names(training))
        super().__init__(dataset, missing=missing, noise=noise_of(training))
        self.training = training
        self._before = len(dataset.pictures)
        both = (dataset.pictures, training.pictures)
        names, paths = (tuple(x for pictures in both for x in getattr(pictures, part)) for part in ("names", "paths"))
        self.pictures = Pictures(names, paths)

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        found = self.training.train_triplets(epoch, seed, pair_sampling)
        before = self._before
        return Triplets(found.reference_picture + before, found.target_picture + before, found.captions)

    def split_pictures(self, split: str) -> IntArray:
        if split == "train" or split.startswith(_OTHER):
            return self.training.split_pictures(split.removeprefix(_OTHER)) + self._before
        return self._dataset.split_pictures(split)

    def training_texts(self) -> tuple[Captions, ...]:
        return self.training.training_texts()

    def side_texts(self) -> dict[str, tuple[str, ...]]:
        return {**self.training.side_texts(), **self._dataset.side_texts()}

    def counts(self) -> tuple[Counts, ...]:
        """Those of the training split are the other dataset's."""
        return (*(c for c in self.training.counts() if c.split == "train"), *self._dataset.counts())

    def criterion(self, metrics: dict[str, dict[str, float]]) -> tuple[str, float]:
        return self.training.criterion(metrics)

    def selection_tasks(self, text_rule: str) -> tuple[Task, ...]:
        """The other dataset's queries that pick an epoch: those of its default protocol."""
        info = self.training.info
        tasks = self.training.tasks(info.evaluation_split, info.default_protocol, text_rule)
        return tuple(self._moved(task) for task in tasks)

    def _moved(self, task: Task) -> Task:
        """With pictures of the common table, under a split of its own."""
        queries, before = task.queries, self._before
        stand_in = queries.feature_picture
        return replace(
            task,
            key=replace(task.key, split=_OTHER + task.key.split),
            gallery=task.gallery + before,
            queries=replace(
                queries,
                reference_picture=queries.reference_picture + before,
                feature_picture=None if stand_in is None else stand_in + before,
            ),
        )


def training_of(dataset: Dataset) -> Dataset:
    """The dataset whose triplets are trained on: another one, or itself."""
    return dataset.training if isinstance(dataset, TrainedElsewhere) else dataset


def column_selected_on(task: Task) -> str:
    """The column of a task that picks an epoch, as a run on its own dataset calls it."""
    return str(replace(task.key, split=task.key.split.removeprefix(_OTHER)))


def stored_as(dataset: Dataset, split: str) -> tuple[Dataset, str]:
    """By which label and which split's name the features of a split are kept: those of the dataset that it is of."""
    if isinstance(dataset, TrainedElsewhere) and (split == "train" or split.startswith(_OTHER)):
        labelled = copy.copy(dataset)
        labelled.label = dataset.training.label
        return labelled, split.removeprefix(_OTHER)
    return dataset, split
