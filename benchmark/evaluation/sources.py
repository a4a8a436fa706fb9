"""Where an evaluation's tensors come from: views of pictures and texts for a task.

From stored features, decoded pictures, or an encoder that is being trained; a method never knows which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmark.backbone import Backbone
from benchmark.data.pixels import PixelSource
from benchmark.dataset import IntArray, Queries, Task
from benchmark.distributed.job import Job
from benchmark.distributed.shards import gather_encoding, own_span, shard_spans
from benchmark.features.store import PictureFeatures, SharedStore
from benchmark.method import FeatureInputs, Method, PixelInputs, Views
from benchmark.text_rules import side_texts_of

PicturesOfSplit = Callable[[str], PictureFeatures]

_EVALUATION_KEY = 0
ENCODING_BLOCK = 64
ALL = slice(None)


class EvaluationSource(Protocol):
    """Views of a task's pictures and texts. ``split`` names the list that the pictures are of."""

    def prepare(self, tasks: Sequence[Task]) -> None:
        """Do what the ranks of a job do together, before each asks for the rows that it encodes."""
        ...

    def reference(self, split: str, queries: Queries, rows: slice = ALL) -> Views:
        """Of the references of those rows' queries."""
        ...

    def target(self, split: str, pictures: IntArray) -> Views: ...

    def texts(self, strings: Sequence[str]) -> Views: ...


class FeatureEvaluation:
    """Looks everything up in the feature store: a reference's features are those of the gallery."""

    def __init__(
        self,
        inputs: FeatureInputs,
        pictures: PicturesOfSplit,
        store: SharedStore,
        method: Method,
        device: torch.device,
    ) -> None:
        self._inputs, self._pictures, self._store = inputs, pictures, store
        self._method, self._device = method, device

    def prepare(self, tasks: Sequence[Task]) -> None:
        for split in dict.fromkeys(task.key.split for task in tasks):
            self._pictures(split)
        if self._inputs.text == "features":
            self._store.fill_texts([text for task in tasks for text in task.queries.texts])

    def reference(self, split: str, queries: Queries, rows: slice = ALL) -> Views:
        views = self._views(split, self._inputs.reference, queries.reference_picture[rows])
        if queries.feature_picture is not None and "global" in views:
            views["global"] = self._views(split, ("global",), queries.feature_picture[rows])["global"]
        return views

    def target(self, split: str, pictures: IntArray) -> Views:
        return self._views(split, self._inputs.target, pictures)

    def texts(self, strings: Sequence[str]) -> Views:
        if self._inputs.text == "tokenized":
            return {name: tensor.to(self._device) for name, tensor in self._method.tokenize(strings).items()}
        features = self._store.texts(strings)
        return {"global": features.view[features.rows(strings)].to(self._device)}

    def _views(self, split: str, names: tuple[str, ...], pictures: IntArray) -> Views:
        features = self._pictures(split)
        rows = features.rows(pictures)
        return {name: features.views[name][rows].to(self._device) for name in names}


class PixelEvaluation:
    """Decodes pictures with the evaluation transforms and lets the method read strings itself.

    ``references``: of the transform that references alone go through, where there is one; ``seed``: of its draws.
    """

    def __init__(
        self,
        inputs: PixelInputs,
        pixels: PixelSource,
        method: Method,
        device: torch.device,
        references: PixelSource | None = None,
        seed: int = 0,
    ) -> None:
        self._inputs, self._pixels, self._method, self._device = inputs, pixels, method, device
        self._references, self._seed = references, seed

    def prepare(self, tasks: Sequence[Task]) -> None:
        """Each rank decodes the pictures of its own blocks alone."""

    def reference(self, split: str, queries: Queries, rows: slice = ALL) -> Views:
        if self._inputs.annotator is None:
            return self._references_of(split, queries, rows, ())
        asked = queries.captions[rows] or ((),) * len(queries.ids[rows])
        return self._references_of(split, queries, rows, [side_texts_of(captions).note for captions in asked])

    def bare_reference(self, split: str, queries: Queries, rows: slice) -> Views:
        """The references without a note, which says what the text says."""
        notes = () if self._inputs.annotator is None else [""] * len(queries.ids[rows])
        return self._references_of(split, queries, rows, notes)

    def _references_of(self, split: str, queries: Queries, rows: slice, notes: Sequence[str]) -> Views:
        pictures, names = _shown(queries, rows), queries.ids[rows]
        source, transform = self._pixels, self._inputs.evaluate
        keys: list[tuple[int, ...]] = [(_EVALUATION_KEY,)] * len(names)
        if self._references is not None and self._inputs.evaluate_reference is not None:
            source, transform = self._references, self._inputs.evaluate_reference
            # By the query's name, not its place: the same draw under every protocol, in parts of a task, on any rank.
            keys = [(self._seed, _number(split, name)) for name in names]
        return {"pixels": transform.normalise(source.batch(pictures, keys, notes).to(self._device))}

    def target(self, split: str, pictures: IntArray) -> Views:
        keys = [(_EVALUATION_KEY,)] * len(pictures)
        pixels = self._pixels.batch(pictures, keys).to(self._device)
        return {"pixels": self._inputs.evaluate.normalise(pixels)}

    def black(self, like: Views, rows: int) -> Views:
        """So many black pictures of the same size."""
        _, _, height, width = like["pixels"].shape
        pixels = torch.zeros(rows, height, width, 3, dtype=torch.uint8, device=self._device)
        return {"pixels": self._inputs.evaluate.normalise(pixels)}

    def texts(self, strings: Sequence[str]) -> Views:
        return {name: tensor.to(self._device) for name, tensor in self._method.tokenize(strings).items()}


def _shown(queries: Queries, rows: slice) -> IntArray:
    """The pictures that stand for the references of those rows."""
    return (queries.reference_picture if queries.feature_picture is None else queries.feature_picture)[rows]


def _number(split: str, query: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{split} {query}".encode()).digest()[:8], "big")


class LiveFeatures:
    """Whole-picture features of an encoder that is being trained, computed once per validation.

    The reference's feature is looked up among the pictures', not computed again.
    """

    def __init__(self, backbone: Backbone, inputs: PixelInputs, pixels: PixelSource, job: Job) -> None:
        self._backbone, self._inputs, self._pixels, self._job = backbone, inputs, pixels, job
        self._device = job.process.device
        self._known: dict[int, int] = {}
        self._features = torch.empty(0)

    @torch.no_grad()
    def prepare(self, tasks: Sequence[Task]) -> None:
        """Encode every picture that the tasks show, in fixed blocks, which go to the ranks of the job."""
        pictures = np.unique(np.concatenate([part for t in tasks for part in (t.gallery, t.queries.reference_picture)]))
        start, stop = own_span(len(pictures), self._job, ENCODING_BLOCK)
        parts = []
        for first in range(start, stop, ENCODING_BLOCK):
            block = pictures[first : min(first + ENCODING_BLOCK, stop)]
            pixels = self._pixels.batch(block, [(_EVALUATION_KEY,)] * len(block)).to(self._device)
            parts.append(self._backbone.encode_image(self._inputs.evaluate.normalise(pixels)).float())
        spans = shard_spans(len(pictures), self._job.process.world_size, ENCODING_BLOCK)
        phase = "encoding the pictures of a validation"
        features = gather_encoding(torch.cat(parts) if parts else None, spans, self._job, phase)
        assert isinstance(features, Tensor)
        self._features = features.to(self._device)
        self._known = {int(picture): row for row, picture in enumerate(pictures)}

    def reference(self, split: str, queries: Queries, rows: slice = ALL) -> Views:
        return self.target(split, _shown(queries, rows))

    def target(self, split: str, pictures: IntArray) -> Views:
        rows = torch.as_tensor([self._known[int(picture)] for picture in pictures], device=self._device)
        return {"global": self._features[rows]}

    @torch.no_grad()
    def texts(self, strings: Sequence[str]) -> Views:
        parts = []
        for start in range(0, len(strings), ENCODING_BLOCK):
            tokens = self._backbone.tokenize(strings[start : start + ENCODING_BLOCK]).to(self._device)
            parts.append(self._backbone.encode_text(tokens).float())
        return {"global": torch.cat(parts)}
