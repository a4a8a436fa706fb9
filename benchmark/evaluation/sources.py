"""Where an evaluation's tensors come from: views of pictures and texts for a task.

From stored features, decoded pictures, or an encoder that is being trained; a method never knows which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmark.backbone import Backbone
from benchmark.data.pixels import PixelSource
from benchmark.dataset import IntArray, Task
from benchmark.distributed.job import Job
from benchmark.distributed.shards import gather_encoding, own_span, shard_spans
from benchmark.features.store import PictureFeatures, SharedStore
from benchmark.method import FeatureInputs, Method, PixelInputs, Views

PicturesOfSplit = Callable[[str], PictureFeatures]

_EVALUATION_KEY = 0
ENCODING_BLOCK = 64


class EvaluationSource(Protocol):
    """Views of a task's pictures and texts. ``split`` names the list that the pictures are of."""

    def prepare(self, tasks: Sequence[Task]) -> None:
        """Do what the ranks of a job do together, before each asks for the rows that it encodes."""
        ...

    def reference(self, split: str, pictures: IntArray, feature_pictures: IntArray | None) -> Views: ...

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

    def reference(self, split: str, pictures: IntArray, feature_pictures: IntArray | None) -> Views:
        views = self._views(split, self._inputs.reference, pictures)
        if feature_pictures is not None and "global" in views:
            views["global"] = self._views(split, ("global",), feature_pictures)["global"]
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
    """Decodes pictures with the evaluation transform and lets the method read strings itself."""

    def __init__(self, inputs: PixelInputs, pixels: PixelSource, method: Method, device: torch.device) -> None:
        self._inputs, self._pixels, self._method, self._device = inputs, pixels, method, device

    def prepare(self, tasks: Sequence[Task]) -> None:
        """Each rank decodes the pictures of its own blocks alone."""

    def reference(self, split: str, pictures: IntArray, feature_pictures: IntArray | None) -> Views:
        return self.target(split, pictures if feature_pictures is None else feature_pictures)

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

    def reference(self, split: str, pictures: IntArray, feature_pictures: IntArray | None) -> Views:
        return self.target(split, pictures if feature_pictures is None else feature_pictures)

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
