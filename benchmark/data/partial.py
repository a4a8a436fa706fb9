"""`--allow-missing`: any dataset without the pictures that are not there, scored under names of its own.

A smaller gallery gives better numbers. So the tasks of a protocol that lost anything, or whose split
has other counts than published, are called `<protocol>-partial` and never share a column with whole ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from benchmark.data.folders import picture_problem
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
from benchmark.files import digest_of

SUFFIX = "-partial"


@runtime_checkable
class LeavesOut(Protocol):
    """A dataset that some pictures were left out of."""

    @property
    def missing(self) -> tuple[str, ...]: ...


def missing_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the pictures that a dataset does without; empty for a whole one."""
    return dataset.missing if isinstance(dataset, LeavesOut) else ()


def missing_pictures(dataset: Dataset, splits: Sequence[str]) -> IntArray:
    """Indices of the pictures that these splits may need and that are missing or empty, sorted."""
    needed = np.unique(np.concatenate([dataset.split_pictures(split) for split in splits]))
    gone = [i for i in needed.tolist() if picture_problem(dataset.pictures.paths[i]) is not None]
    return np.asarray(gone, dtype=np.int64)


def without_missing(dataset: Dataset, splits: Sequence[str]) -> Dataset:
    """The dataset itself where these splits are whole, else what is left of it."""
    missing = missing_pictures(dataset, splits)
    wrong = any(c.expected is not None and c.found != c.expected for c in dataset.counts())
    return PartialDataset(dataset, missing) if len(missing) or wrong else dataset


class PartialDataset:
    """A dataset without the pictures of ``missing`` (indices), and without all that needs one of them.

    ``missing`` (names) is for the record. ``protocols`` are the names to ask for; what they give is
    called ``-partial`` where it is.
    """

    def __init__(self, dataset: Dataset, missing: IntArray) -> None:
        self._dataset = dataset
        self._gone = np.zeros(len(dataset.pictures), dtype=bool)
        self._gone[missing] = True
        self.missing: tuple[str, ...] = tuple(dataset.pictures.names[i] for i in np.flatnonzero(self._gone))
        self.info: DatasetInfo = dataset.info
        self.root: Path = dataset.root
        self.label: str = dataset.label
        self.is_demo: bool = dataset.is_demo
        self.is_official: bool = dataset.is_official
        self.fingerprint = f"{dataset.fingerprint}{SUFFIX}-{digest_of(sorted(self.missing))[:16]}"
        self.pictures: Pictures = dataset.pictures
        self.protocols: tuple[ProtocolInfo, ...] = dataset.protocols

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        triplets = self._dataset.train_triplets(epoch, seed, pair_sampling)
        gone = self._gone[triplets.reference_picture] | self._gone[triplets.target_picture]
        return triplets.take(np.flatnonzero(~gone))

    def split_pictures(self, split: str) -> IntArray:
        pictures = self._dataset.split_pictures(split)
        return pictures[~self._gone[pictures]]

    def training_texts(self) -> tuple[Captions, ...]:
        """All captions of the training split: they are there, whatever pictures are not."""
        return self._dataset.training_texts()

    def side_texts(self) -> dict[str, tuple[str, ...]]:
        return self._dataset.side_texts()

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        """What is left of the tasks; one that lost anything renames all of its split and protocol."""
        whole = self._dataset.tasks(split, protocol, text_rule)
        left = tuple(remaining_task(task, self._gone) for task in whole)
        notes = [*self._count_notes(split), *(_loss(a, b) for a, b in zip(whole, left, strict=True) if _lost(a, b))]
        if not notes:
            return whole
        return tuple(
            replace(task, key=replace(task.key, protocol=task.key.protocol + SUFFIX), notes=(*task.notes, *notes))
            for task in left
        )

    def counts(self) -> tuple[Counts, ...]:
        return self._dataset.counts()

    def criterion(self, metrics: dict[str, dict[str, float]]) -> tuple[str, float]:
        return self._dataset.criterion(metrics)

    def _count_notes(self, split: str) -> list[str]:
        return [
            f"{c.split} has {c.found:,} {c.what}, {c.expected:,} are expected"
            for c in self._dataset.counts()
            if c.split == split and c.expected is not None and c.found != c.expected
        ]


def remaining_task(task: Task, gone: NDArray[np.bool_]) -> Task:
    """A task without the pictures marked in ``gone`` (P,).

    Queries go with their reference, with the picture that stands in for it, and with the last of their
    positives. Members of a subset that are gone become -1: no candidates.
    """
    kept = np.flatnonzero(~gone[task.gallery])
    position = np.full(len(task.gallery) + 1, -1, dtype=np.int64)
    position[kept] = np.arange(len(kept))
    queries = task.queries
    usable = ~gone[queries.reference_picture]
    if queries.feature_picture is not None:
        usable &= ~gone[queries.feature_picture]
    positives = _remaining(queries.positives, position)
    usable &= (positives.sizes() > 0) | (queries.positives.sizes() == 0)
    renumbered = replace(
        queries,
        reference_in_gallery=position[queries.reference_in_gallery],
        positives=positives,
        subset=None if queries.subset is None else position[queries.subset],
    )
    return replace(task, queries=_taken(renumbered, usable), gallery=task.gallery[kept])


def _taken(queries: Queries, usable: NDArray[np.bool_]) -> Queries:
    return queries if usable.all() else queries.take(np.flatnonzero(usable))


def _remaining(sets: Ragged, position: IntArray) -> Ragged:
    """The sets renumbered by ``position``, without the values that it maps to -1."""
    values = position[sets.values]
    before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(values >= 0)])
    return Ragged(before[sets.offsets], values[values >= 0])


def _lost(whole: Task, left: Task) -> bool:
    same_positives = len(whole.queries.positives.values) == len(left.queries.positives.values)
    return len(whole.gallery) != len(left.gallery) or len(whole.queries) != len(left.queries) or not same_positives


def _loss(whole: Task, left: Task) -> str:
    where = f"{whole.key.category}: " if whole.key.category else ""
    return (
        f"{where}pictures are missing: {len(left.queries):,} of {len(whole.queries):,} queries and "
        f"{len(left.gallery):,} of {len(whole.gallery):,} gallery pictures are scored"
    )
