"""Where a training step's tensors come from: stored features of a frozen encoder, or decoded pictures.

Both are a `benchmark.training.batches.TrainingSource`; a method never knows which store or loader is behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from benchmark.data.pixels import PixelSource
from benchmark.dataset import Triplets
from benchmark.features.loader import Column, FeatureLoader, feature_loader
from benchmark.features.store import PictureFeatures, SharedStore
from benchmark.method import FeatureInputs, Method, PixelInputs
from benchmark.prefetching import handed_over
from benchmark.text_rules import TextRule
from benchmark.training.batches import Batch, EpochTable, Share, epoch_table

TripletsOfEpoch = Callable[[int], Triplets]

_REFERENCE, _TARGET = 0, 1


class FeatureTraining:
    """Batches of stored features; before an epoch, strings without a feature are encoded."""

    def __init__(
        self,
        triplets: TripletsOfEpoch,
        rule: TextRule,
        inputs: FeatureInputs,
        pictures: PictureFeatures,
        store: SharedStore,
        seed: int,
        device: torch.device,
    ) -> None:
        self._triplets, self._rule, self._inputs = triplets, rule, inputs
        self._pictures, self._store = pictures, store
        self._seed, self._device = seed, device
        self._loader: FeatureLoader | None = None
        self._columns: list[Column] = []

    def start_epoch(self, epoch: int) -> int:
        table = epoch_table(self._triplets(epoch), self._rule, self._seed, epoch)
        # Rules may draw other strings every epoch; all ranks fill the store together, before any reads it.
        texts = self._store.fill_texts(table.texts)
        if self._loader is None:
            views = {name: self._pictures.views[name] for name in self._inputs.views}
            self._loader = feature_loader(views, self._device)
        self._loader.put("text", texts.view)
        reference_rows = self._pictures.rows(table.reference_picture)
        target_rows = self._pictures.rows(table.target_picture)
        self._columns = [
            *((name, reference_rows) for name in self._inputs.reference),
            *((name, target_rows) for name in self._inputs.target),
            ("text", texts.rows(table.texts)),
        ]
        return len(table)

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        assert self._loader is not None, "start_epoch comes before batches"
        count = len(self._inputs.reference)
        for *pictures, text in self._loader.batches(self._columns, (share.rows for share in plan)):
            yield Batch(
                reference=dict(zip(self._inputs.reference, pictures[:count], strict=True)),
                target=dict(zip(self._inputs.target, pictures[count:], strict=True)),
                text={"global": text},
            )


class PixelTraining:
    """Batches of decoded pictures; a transform's chance depends on (seed, epoch, row, role) only."""

    def __init__(
        self,
        triplets: TripletsOfEpoch,
        rule: TextRule,
        inputs: PixelInputs,
        pixels: PixelSource,
        method: Method,
        seed: int,
        device: torch.device,
    ) -> None:
        self._triplets, self._rule, self._inputs = triplets, rule, inputs
        self._pixels, self._method = pixels, method
        self._seed, self._device = seed, device
        self._table: EpochTable | None = None

    def start_epoch(self, epoch: int) -> int:
        self._epoch = epoch
        self._table = epoch_table(self._triplets(epoch), self._rule, self._seed, epoch)
        return len(self._table)

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        table = self._table
        assert table is not None, "start_epoch comes before batches"
        plan = list(plan)
        wanted = []
        for share in plan:
            keys = [(self._seed, self._epoch, int(row), role) for role in (_REFERENCE, _TARGET) for row in share.rows]
            pictures = (table.reference_picture[share.rows], table.target_picture[share.rows])
            wanted.append((np.concatenate(pictures), keys))
        for share, pixels in zip(plan, self._pixels.prefetch(wanted, pinned=self._device.type == "cuda"), strict=True):
            views = self._inputs.train.normalise(handed_over(pixels, self._device))
            # All of the group's texts: what they are padded to is the longest of them.
            texts = self._method.tokenize([table.texts[i] for i in share.group])
            yield Batch(
                reference={"pixels": views[: len(share.rows)]},
                target={"pixels": views[len(share.rows) :]},
                text={name: tensor[share.own].to(self._device) for name, tensor in texts.items()},
            )
