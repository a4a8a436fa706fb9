"""The pictures that are searched: a folder's, or a dataset's, encoded once by a run's method.

Features of a frozen encoder are kept in the feature store, so that the second start encodes no picture; a method that
reads pixels encodes its gallery anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmark.data.pictures import bad_pictures
from benchmark.dataset import IntArray, Pictures
from benchmark.encoding import Encoding, concatenate, map_tensors
from benchmark.errors import UserError
from benchmark.features.store import FeatureStore
from benchmark.interop.exported import Model
from benchmark.method import FeatureInputs
from benchmark.progress import counting

_BLOCK = 256


@dataclass(frozen=True)
class SearchGallery:
    """``names`` and ``paths`` of the G pictures that can be found, their encodings, and what is wrong with the rest."""

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    encodings: Encoding
    unreadable: Mapping[str, str]


def open_gallery(model: Model, pictures: Pictures, indices: IntArray, cache: Path, label: str) -> SearchGallery:
    """Encode the pictures ``indices`` as candidates; ``label`` names them in the store.

    Raises UserError where none can be read.
    """
    with counting("looking for pictures that cannot be read", len(indices)) as progress:
        bad = bad_pictures(pictures, indices.tolist(), progress=progress)
    kept = np.array([i for i in indices.tolist() if i not in bad], dtype=np.int64)
    if not len(kept):
        first = next(iter(bad.values()))
        raise UserError(f"{label}: none of {len(indices):,} pictures can be read; the first: {first}")
    paths = [pictures.paths[i] for i in kept]
    if isinstance(model.inputs, FeatureInputs):
        encodings = _from_store(model, model.inputs, pictures, kept, cache, label)
    else:
        encodings = _in_blocks(model, paths)
    return SearchGallery(
        names=tuple(pictures.names[i] for i in kept),
        paths=tuple(paths),
        encodings=encodings,
        unreadable={pictures.names[i]: problem for i, problem in bad.items()},
    )


def _from_store(
    model: Model, inputs: FeatureInputs, pictures: Pictures, indices: IntArray, cache: Path, label: str
) -> Encoding:
    assert model.encoder is not None
    backbone = model.encoder.backbone
    store = FeatureStore(
        cache / "features",
        backbone,
        encoder_digest=backbone.description.digest,
        device=model.device,
        precision=model.encoder.precision,
    )
    with counting("features of the gallery", len(indices)) as progress:
        features = store.pictures(label, "search", pictures, indices, inputs.target, inputs.grids, progress)
    blocks = []
    with torch.no_grad():
        for start in range(0, len(indices), _BLOCK):
            rows = features.rows(indices[start : start + _BLOCK])
            views = {name: view[rows].to(model.device) for name, view in features.views.items()}
            blocks.append(map_tensors(lambda tensor: tensor.float().cpu(), model.method.encode_target(views)))
    return concatenate(blocks)


def _in_blocks(model: Model, paths: Sequence[Path]) -> Encoding:
    blocks = []
    with counting("encoding the gallery", len(paths)) as progress:
        for start in range(0, len(paths), _BLOCK):
            blocks.append(model.encode_target(paths[start : start + _BLOCK]))
            progress(min(start + _BLOCK, len(paths)), len(paths), "")
    return concatenate(blocks)
