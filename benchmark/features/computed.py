"""Features that are computed whenever they are asked for, where they would not fit on the disk.

The same numbers as the store's, up to the last digits, which change with a picture's place in its pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.backbone import GLOBAL, Output
from benchmark.data.pictures import open_picture
from benchmark.encoders.frozen_encoder import FrozenEncoder, require_finite
from benchmark.features.picture_filling import PATCHES


class ComputedView:
    """A view of n pictures as a table that is indexed by rows like a stored one, (n, *its shape)."""

    def __init__(
        self,
        encoder: FrozenEncoder,
        view: str,
        output: Output,
        paths: Sequence[Path],
        grids: tuple[int, ...],
        workers: int,
    ) -> None:
        self._encoder, self._view, self._output = encoder, view, output
        self._paths, self._grids = paths, grids
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Of each row (B,), on the host: (B, *shape). Raises UserError as filling the store does."""
        # A batch shows many a picture twice, as a reference and as a target.
        distinct, places = torch.unique(rows, return_inverse=True)
        paths = [self._paths[row] for row in distinct.tolist()]
        decoded = np.concatenate(list(self._pool.map(self._pixels, paths)))
        features = self._encoder.pictures(decoded, GLOBAL if self._view == PATCHES else self._view)
        require_finite(features.reshape(len(paths), -1), [str(path) for path in paths], self._encoder.precision)
        return torch.from_numpy(features).reshape(len(paths), *self._output.shape)[places]

    def _pixels(self, path: Path) -> NDArray[np.uint8]:
        preprocessing, image = self._encoder.backbone.preprocessing, open_picture(path)
        if self._view == PATCHES:
            return preprocessing.patches(image, self._grids)
        return preprocessing.picture(image)[None]
