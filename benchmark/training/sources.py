"""Where a training step's tensors come from: stored features of a frozen encoder, or decoded pictures.

Both are a `benchmark.training.batches.TrainingSource`; a method never knows which store or loader is behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmark.backbone import GLOBAL
from benchmark.data.pixels import PixelSource
from benchmark.dataset import Triplets
from benchmark.encoders.frozen_encoder import FrozenEncoder
from benchmark.features.loader import Column, FeatureLoader, RowTable, feature_loader
from benchmark.features.store import PictureFeatures, SharedStore
from benchmark.method import REVERSED, FeatureInputs, Method, PixelInputs, TrainingRows, Views
from benchmark.prefetching import handed_over
from benchmark.text_rules import TextRule, side_texts_of
from benchmark.training.batches import Batch, EpochTable, Share, epoch_table

TripletsOfEpoch = Callable[[int], Triplets]

_REFERENCE, _TARGET, _TEXTS = 0, 1, 2


def tokenized(method: Method, table: EpochTable, share: Share, device: torch.device) -> Views:
    """Of a whole group's texts the own ones: what they are padded to is the longest of all."""
    views: Views = {}
    for before, texts in (("", table.texts), (REVERSED, table.reversed_texts)):
        tokens = method.tokenize([texts[i] for i in share.group]) if texts else {}
        views |= {f"{before}{name}": handed_over(tensor[share.own], device) for name, tensor in tokens.items()}
    return views


class FeatureTraining:
    """Batches of stored features; before an epoch, strings without a feature are encoded."""

    def __init__(
        self,
        triplets: TripletsOfEpoch,
        rule: TextRule,
        inputs: FeatureInputs,
        pictures: PictureFeatures,
        store: SharedStore,
        method: Method,
        seed: int,
        device: torch.device,
    ) -> None:
        self._triplets, self._rule, self._inputs = triplets, rule, inputs
        self._pictures, self._store, self._method = pictures, store, method
        self._seed, self._device = seed, device
        self._loader: FeatureLoader | None = None
        self._columns: list[Column] = []
        self._table: EpochTable | None = None

    def start_epoch(self, epoch: int) -> int:
        table = epoch_table(self._triplets(epoch), self._rule, self._seed, epoch)
        if self._loader is None:
            views = {name: self._pictures.views[name] for name in self._inputs.views}
            self._loader = feature_loader(views, self._device)
        text_columns: list[Column] = []
        if self._inputs.text == "features":
            # Rules may draw other strings every epoch; all ranks fill the store together, before any reads it.
            texts = self._store.fill_texts([*table.texts, *table.reversed_texts])
            self._loader.put("text", texts.view)
            text_columns = [("text", texts.rows(shown)) for shown in (table.texts, table.reversed_texts) if shown]
        self._table = table
        reference_rows = self._pictures.rows(table.reference_picture)
        target_rows = self._pictures.rows(table.target_picture)
        self._columns = [
            *((name, reference_rows) for name in self._inputs.reference),
            *((name, target_rows) for name in self._inputs.target),
            *text_columns,
        ]
        return len(table)

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        assert self._loader is not None, "start_epoch comes before batches"
        plan = list(plan)
        first, end = len(self._inputs.reference), len(self._inputs.reference) + len(self._inputs.target)
        rows = self._loader.batches(self._columns, [share.rows for share in plan])
        for share, columns in zip(plan, rows, strict=True):
            yield Batch(
                reference=dict(zip(self._inputs.reference, columns[:first], strict=True)),
                target=dict(zip(self._inputs.target, columns[first:end], strict=True)),
                text=self._text(columns[end:], share),
            )

    def _text(self, stored: Sequence[Tensor], share: Share) -> Views:
        if not stored:
            assert self._table is not None
            return tokenized(self._method, self._table, share, self._device)
        return dict(zip(("global", f"{REVERSED}global"), stored, strict=False))


class RowFeatures(Protocol):
    """Features of the rows that are trained on in place of triplets."""

    def batches(self, epoch: int, plan: Sequence[Share]) -> Iterator[Views]:
        """Views of the own rows of each share, in order."""
        ...


class StoredRows:
    """Rows of the store: of pictures, or of sentences where there are none."""

    def __init__(
        self, rows: TrainingRows, pictures: PictureFeatures | None, views: Sequence[str], store: SharedStore,
        device: torch.device,
    ) -> None:  # fmt: skip
        if pictures is None:
            texts = store.fill_texts(rows.sentences)
            tables: dict[str, RowTable] = {GLOBAL: texts.view}
            index = texts.rows(rows.sentences)
        else:
            tables = {name: pictures.views[name] for name in views}
            index = pictures.rows(pictures.indices)
        self._loader = feature_loader(tables, device)
        self._columns = [(name, index) for name in tables]

    def batches(self, epoch: int, plan: Sequence[Share]) -> Iterator[Views]:
        for columns in self._loader.batches(self._columns, [share.rows for share in plan]):
            yield {name: rows for (name, _), rows in zip(self._columns, columns, strict=True)}


class EncodedRows:
    """Pictures opened and encoded anew in every epoch; a transform's chance depends on (seed, epoch, row) only."""

    def __init__(self, pixels: PixelSource, encoder: FrozenEncoder, views: Sequence[str], seed: int) -> None:
        self._pixels, self._encoder, self._views, self._seed = pixels, encoder, views, seed

    def batches(self, epoch: int, plan: Sequence[Share]) -> Iterator[Views]:
        wanted = [
            (share.rows, [(self._seed, epoch, int(row), _REFERENCE) for row in share.rows], ()) for share in plan
        ]
        for pixels in self._pixels.prefetch(wanted, pinned=self._encoder.on_gpu):
            yield {name: self._encoder.encode(pixels, name) for name in self._views}


class RowTraining:
    """Batches of unlabelled rows: features of pictures or of sentences are reference and target alike."""

    def __init__(
        self, rows: TrainingRows, features: RowFeatures, method: Method, seed: int, device: torch.device
    ) -> None:
        self._rows, self._features, self._method = rows, features, method
        self._seed, self._device = seed, device
        self._epoch = 0

    def start_epoch(self, epoch: int) -> int:
        self._epoch = epoch
        return len(self._rows)

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        plan = list(plan)
        for share, features in zip(plan, self._features.batches(self._epoch, plan), strict=True):
            # Drawn for the whole group, whichever process has a part of it; its first row stands in no other one.
            rng = np.random.default_rng([self._seed, self._epoch, _TEXTS, int(share.group[0])])
            text = self._rows.text(self._method, share.group, rng)
            yield Batch(
                reference=features,
                target=features,
                text={name: handed_over(tensor[share.own], self._device) for name, tensor in text.items()},
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
        self._notes: list[str] | None = None

    def start_epoch(self, epoch: int) -> int:
        self._epoch = epoch
        self._table = epoch_table(self._triplets(epoch), self._rule, self._seed, epoch)
        if self._inputs.annotator is not None:
            self._notes = [side_texts_of(captions).note for captions in self._table.captions]
        return len(self._table)

    def batches(self, plan: Iterable[Share]) -> Iterator[Batch]:
        table = self._table
        assert table is not None, "start_epoch comes before batches"
        plan = list(plan)
        wanted = []
        for share in plan:
            keys = [(self._seed, self._epoch, int(row), role) for role in (_REFERENCE, _TARGET) for row in share.rows]
            pictures = (table.reference_picture[share.rows], table.target_picture[share.rows])
            notes: list[str | None] = []
            if self._notes is not None:
                notes = [*(self._notes[row] for row in share.rows.tolist()), *[None] * len(share.rows)]
            wanted.append((np.concatenate(pictures), keys, notes))
        for share, pixels in zip(plan, self._pixels.prefetch(wanted, pinned=self._device.type == "cuda"), strict=True):
            views = self._inputs.train.normalise(handed_over(pixels, self._device))
            yield Batch(
                reference={"pixels": views[: len(share.rows)]},
                target={"pixels": views[len(share.rows) :]},
                text=tokenized(self._method, table, share, self._device),
            )
