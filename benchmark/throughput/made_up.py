"""Stand-ins for what takes long to compute and whose values change no speed: features, encodings, a task.

Shapes, types and where things lie (memory-mapped files, as the store's are) are the real ones.

Notation: n pictures, P patches, d width, Q queries, G gallery pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.backbone import Backbone, BackbonePreprocessing, Output
from benchmark.dataset import IntArray, Queries, Ragged, Task, TaskKey
from benchmark.encoding import Encoding, map_tensors
from benchmark.facts import BackboneDescription
from benchmark.features.block_file import map_rows
from benchmark.features.store import PictureFeatures

CIRR_VALIDATION = (4181, 2297)
"""Queries and gallery pictures of CIRR's validation split."""

_SUBSET = 6
_DISTINCT_ROWS = 256
_CONTEXT = 16
_NOISE = 0.1


class MadeUpBackbone(Backbone):
    """Gives features of width d that say nothing, at once; the feature store takes it for a backbone."""

    def __init__(self, width: int, preprocessing: BackbonePreprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.register_buffer("rows", torch.randn(_DISTINCT_ROWS, width, generator=_generator()))

    @property
    def width(self) -> int:
        return self.get_buffer("rows").shape[1]

    @property
    def description(self) -> BackboneDescription:
        key, size = self.preprocessing.key(), self.preprocessing.size
        return BackboneDescription("made-up", "none", self.width, size, _CONTEXT, "none", "none", key, 0)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, d)."""
        return self.rows_of(pixels[:, :, 0, 0].sum(dim=1).mul(1000).long())

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) → (B, d)."""
        return self.rows_of(tokens.sum(dim=1))

    def rows_of(self, numbers: Tensor) -> Tensor:
        rows: Tensor = self.get_buffer("rows")[numbers.remainder(_DISTINCT_ROWS)]
        return rows

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, L) int64 of the texts' first letters."""
        codes = [[ord(letter) for letter in text[:_CONTEXT]] for text in texts]
        return torch.tensor([code + [0] * (_CONTEXT - len(code)) for code in codes])


def made_up_features(folder: Path, pictures: IntArray, views: Mapping[str, Output]) -> PictureFeatures:
    """Features of the pictures (n,), each index once, mapped from new files in ``folder``."""
    mapped, count = {}, len(pictures)
    for view, output in views.items():
        path, shape = folder / f"{view}.rows", output.shape
        block = torch.randn(_DISTINCT_ROWS, *shape, generator=_generator()).numpy().astype(output.dtype)
        with path.open("wb") as stream:
            for start in range(0, count, _DISTINCT_ROWS):
                # No two blocks alike, at the cost of one.
                stream.write(np.roll(block, start // _DISTINCT_ROWS, axis=-1)[: count - start].tobytes())
        mapped[view] = map_rows(path, (count, *shape), dtype=output.dtype)
    return PictureFeatures(mapped, pictures)


def many_rows(encoding: Encoding, count: int, seed: int) -> Encoding:
    """So many rows of an encoding's form, no two alike: its own over and over, each with noise of its own."""
    generator = _generator(seed)

    def repeated(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().float().cpu()
        rows = tensor[torch.arange(count) % len(tensor)]
        scale = _NOISE * float(tensor.std()) if tensor.numel() > 1 else _NOISE
        return rows.add_(torch.randn(rows.shape, generator=generator), alpha=scale)

    return map_tensors(repeated, encoding)


def made_up_task(queries: int, gallery: int) -> Task:
    """One target a query and subsets of six with reference and target, as on CIRR; the reference is not ranked."""
    draw = np.random.default_rng(0)
    members = draw.integers(0, gallery, size=(queries, 1)) + np.arange(_SUBSET) * max(gallery // _SUBSET, 1)
    members %= gallery
    numbers = np.arange(queries)
    return Task(
        key=TaskKey("made-up", "val", "official", "single"),
        queries=Queries(
            ids=tuple(map(str, numbers)),
            reference_picture=members[:, 0],
            reference_in_gallery=members[:, 0],
            texts=("",) * queries,
            positives=Ragged.single(members[:, 1]),
            group=numbers,
            subset=members,
        ),
        gallery=np.arange(gallery),
        exclude_reference=True,
        cutoffs=(1, 5, 10, 50),
        subset_cutoffs=(1, 2, 3),
    )


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
