"""A dataset that is changed somewhere, and otherwise as it was; what has to be known of the change, for the record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from benchmark.data.annotated import checked_files
from benchmark.data.dictionaries import dictionaries_of
from benchmark.data.one_category import categories_of
from benchmark.data.released_files import side_files_of
from benchmark.dataset import (
    Captions,
    Counts,
    Dataset,
    DatasetInfo,
    IntArray,
    Pictures,
    ProtocolInfo,
    Task,
    Triplets,
)


@dataclass(frozen=True)
class Noise:
    """How training triplets were made wrong (`benchmark.data.noise`): the share, the seed of its own, how entries
    were exchanged. ``digest``: of whose parts every triplet then bears."""

    share: float
    seed: int
    scheme: str
    digest: str


@runtime_checkable
class _LeavesOut(Protocol):
    @property
    def missing(self) -> tuple[str, ...]: ...


def missing_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the pictures that a dataset does without; empty for a whole one."""
    return dataset.missing if isinstance(dataset, _LeavesOut) else ()


@runtime_checkable
class _HasNoise(Protocol):
    @property
    def noise(self) -> Noise | None: ...


def noise_of(dataset: Dataset) -> Noise | None:
    """What was done to a dataset's training triplets; None for nothing."""
    return dataset.noise if isinstance(dataset, _HasNoise) else None


class WrappedDataset:
    """All of a dataset as it is. ``ending``: of the fingerprint, where the annotations are others; ``missing``: names
    of the pictures left out; ``noise``: another one than the dataset's."""

    def __init__(
        self, dataset: Dataset, ending: str = "", missing: tuple[str, ...] | None = None, noise: Noise | None = None
    ) -> None:
        self._dataset = dataset
        self.missing = missing_names(dataset) if missing is None else missing
        self.noise = noise or noise_of(dataset)
        self.fingerprint = dataset.fingerprint + (f"-{ending}" if ending else "")
        self.info: DatasetInfo = dataset.info
        self.root: Path = dataset.root
        self.label: str = dataset.label
        self.is_demo: bool = dataset.is_demo
        self.is_official: bool = dataset.is_official
        self.checked = checked_files(dataset)
        self.pictures: Pictures = dataset.pictures
        self.protocols: tuple[ProtocolInfo, ...] = dataset.protocols
        self.dictionaries = dictionaries_of(dataset)
        self.side_files = side_files_of(dataset)
        self.categories = categories_of(dataset)

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        return self._dataset.train_triplets(epoch, seed, pair_sampling)

    def split_pictures(self, split: str) -> IntArray:
        return self._dataset.split_pictures(split)

    def training_texts(self) -> tuple[Captions, ...]:
        """All captions of the training split: they are there, whatever pictures are not."""
        return self._dataset.training_texts()

    def side_texts(self) -> dict[str, tuple[str, ...]]:
        return self._dataset.side_texts()

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        return self._dataset.tasks(split, protocol, text_rule)

    def counts(self) -> tuple[Counts, ...]:
        return self._dataset.counts()

    def criterion(self, metrics: dict[str, dict[str, float]]) -> tuple[str, float]:
        return self._dataset.criterion(metrics)
