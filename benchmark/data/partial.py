"""Any dataset in part: `--limit N` to try a run in seconds, `--allow-missing` without the pictures that are not there.

Numbers of a limited run are named so in every output and are kept out of leaderboards. A gallery without its
missing pictures gives better numbers: the tasks of a protocol that lost anything, or whose split has other
counts than published, are called `<protocol>-partial` and never share a column with whole ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmark.data.pictures import bad_pictures
from benchmark.data.wrapped import WrappedDataset
from benchmark.dataset import (
    Captions,
    Dataset,
    IntArray,
    Queries,
    Ragged,
    Task,
    Triplets,
)
from benchmark.files import digest_of
from benchmark.progress import counting

SUFFIX = "-partial"


class LimitedDataset(WrappedDataset):
    """A dataset's first N triplets, and each task's first N queries against the pictures they name."""

    def __init__(self, dataset: Dataset, limit: int, evaluated: tuple[Task, ...]) -> None:
        super().__init__(dataset, f"limit-{limit}")
        self._limit = limit
        self._evaluated = tuple(limited_task(task, limit) for task in evaluated)

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

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        return tuple(limited_task(task, self._limit) for task in self._dataset.tasks(split, protocol, text_rule))


def limited_task(task: Task, limit: int) -> Task:
    """The first ``limit`` queries against those gallery pictures that they name, and ``limit`` more."""
    queries = task.queries.take(np.arange(min(limit, len(task.queries)), dtype=np.int64))
    references = queries.reference_in_gallery[queries.reference_in_gallery >= 0]
    named = [queries.positives.values, references, np.arange(min(limit, len(task.gallery)))]
    if queries.subset is not None:
        named.append(queries.subset[queries.subset >= 0])
    kept = np.unique(np.concatenate(named))
    kept = kept[kept < len(task.gallery)]
    return replace(task, queries=_renumbered(queries, kept, len(task.gallery)), gallery=task.gallery[kept])


def missing_pictures(dataset: Dataset, splits: Sequence[str]) -> IntArray:
    """Indices of the pictures that these splits may need and that are missing or cannot be read, sorted.

    Every one is decoded, which takes about a second for a hundred of them on a core.
    """
    needed = np.unique(np.concatenate([dataset.split_pictures(split) for split in splits]))
    with counting("looking for pictures that cannot be read", len(needed)) as progress:
        gone = bad_pictures(dataset.pictures, needed.tolist(), progress=progress)
    return np.asarray(sorted(gone), dtype=np.int64)


def without_missing(dataset: Dataset, splits: Sequence[str]) -> Dataset:
    """The dataset itself where these splits are whole, else what is left of it."""
    missing = missing_pictures(dataset, splits)
    wrong = any(c.expected is not None and c.found != c.expected for c in dataset.counts())
    return PartialDataset(dataset, missing) if len(missing) or wrong else dataset


class PartialDataset(WrappedDataset):
    """A dataset without the pictures ``missing`` (indices), and without all that needs one of them.

    ``protocols`` are the names to ask for; what they give is called ``-partial`` where it is.
    """

    def __init__(self, dataset: Dataset, missing: IntArray) -> None:
        self._gone = np.zeros(len(dataset.pictures), dtype=bool)
        self._gone[missing] = True
        names = tuple(dataset.pictures.names[i] for i in np.flatnonzero(self._gone))
        super().__init__(dataset, f"partial-{digest_of(sorted(names))[:16]}", names)

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        triplets = self._dataset.train_triplets(epoch, seed, pair_sampling)
        gone = self._gone[triplets.reference_picture] | self._gone[triplets.target_picture]
        return triplets.take(np.flatnonzero(~gone))

    def split_pictures(self, split: str) -> IntArray:
        pictures = self._dataset.split_pictures(split)
        return pictures[~self._gone[pictures]]

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        """What is left of the tasks; one that lost anything renames all of its split and protocol."""
        whole = self._dataset.tasks(split, protocol, text_rule)
        left = tuple(remaining_task(task, self._gone) for task in whole)
        notes = [
            f"{c.split} has {c.found:,} {c.what}, {c.expected:,} are expected"
            for c in self._dataset.counts()
            if c.split == split and c.expected is not None and c.found != c.expected
        ]
        notes += [_loss(a, b) for a, b in zip(whole, left, strict=True) if _sizes(a) != _sizes(b)]
        if not notes:
            return whole
        return tuple(
            replace(task, key=replace(task.key, protocol=task.key.protocol + SUFFIX), notes=(*task.notes, *notes))
            for task in left
        )


def remaining_task(task: Task, gone: NDArray[np.bool_]) -> Task:
    """A task without the pictures marked in ``gone`` (P,).

    Queries go with their reference, with the picture that stands in for it, with their target, and with the last of
    their positives. Members of a subset that are gone become -1: no candidates.
    """
    kept = np.flatnonzero(~gone[task.gallery])
    queries = _renumbered(task.queries, kept, len(task.gallery))
    usable = ~gone[queries.reference_picture]
    if queries.feature_picture is not None:
        usable &= ~gone[queries.feature_picture]
    usable &= (queries.positives.sizes() > 0) | (task.queries.positives.sizes() == 0)
    if queries.target is not None:
        usable &= queries.target >= 0
    left = queries if usable.all() else queries.take(np.flatnonzero(usable))
    return replace(task, queries=left, gallery=task.gallery[kept])


def _renumbered(queries: Queries, kept: IntArray, gallery_size: int) -> Queries:
    """The queries against the gallery entries ``kept``; positives that are not among them go, others become -1."""
    # One entry more than the gallery has, so that -1, "not in the gallery", stays -1.
    position = np.full(gallery_size + 1, -1, dtype=np.int64)
    position[kept] = np.arange(len(kept))
    values = position[queries.positives.values]
    before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(values >= 0)])
    return replace(
        queries,
        reference_in_gallery=position[queries.reference_in_gallery],
        positives=Ragged(before[queries.positives.offsets], values[values >= 0]),
        subset=None if queries.subset is None else position[queries.subset],
        target=None if queries.target is None else position[queries.target],
    )


def _sizes(task: Task) -> tuple[int, int, int]:
    return len(task.gallery), len(task.queries), len(task.queries.positives.values)


def _loss(whole: Task, left: Task) -> str:
    where = f"{whole.key.category}: " if whole.key.category else ""
    return (
        f"{where}pictures are missing: {len(left.queries):,} of {len(whole.queries):,} queries and "
        f"{len(left.gallery):,} of {len(whole.gallery):,} gallery pictures are scored"
    )
