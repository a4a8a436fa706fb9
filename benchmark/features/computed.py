"""Features that are computed whenever they are asked for, where they would not fit on the disk.

The same numbers as the store's, up to the last digits, which change with a picture's place in its pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from benchmark.backbone import GLOBAL, Output
from benchmark.data.pictures import open_picture
from benchmark.encoders.frozen_encoder import FrozenEncoder, require_finite
from benchmark.features.picture_filling import PATCHES


class OpenedPictures:
    """Pictures as their files hold them; the last rows that were asked for stay open for the next view of them."""

    def __init__(self, paths: Sequence[Path], workers: int) -> None:
        self.paths = paths
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._open: dict[int, Image] = {}

    def made(self, rows: Sequence[int], make: Callable[[Image], NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """What is made of each row's picture, in order; on threads."""
        before, self._open = self._open, {}

        def one(row: int) -> tuple[Image, NDArray[np.uint8]]:
            image = before[row] if row in before else open_picture(self.paths[row])
            return image, make(image)

        for row, (image, pixels) in zip(rows, self._pool.map(one, rows), strict=True):
            self._open[row] = image
            yield pixels


class ComputedView:
    """A view of n pictures as a table that is indexed by rows like a stored one, (n, *its shape).

    ``pictures`` may be shared by several views, so that a batch's are decoded once for all of them.
    """

    def __init__(
        self, encoder: FrozenEncoder, view: str, output: Output, pictures: OpenedPictures, grids: tuple[int, ...]
    ) -> None:
        self._encoder, self._view, self._output = encoder, view, output
        self._pictures, self._grids = pictures, grids

    def __len__(self) -> int:
        return len(self._pictures.paths)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Of each row (B,), on the host: (B, *shape). Raises UserError as filling the store does."""
        # A batch shows many a picture twice, as a reference and as a target.
        distinct, places = torch.unique(rows, return_inverse=True)
        paths = [self._pictures.paths[row] for row in distinct.tolist()]
        decoded = np.concatenate(list(self._pictures.made(distinct.tolist(), self._pixels)))
        features = self._encoder.pictures(decoded, GLOBAL if self._view == PATCHES else self._view)
        require_finite(features.reshape(len(paths), -1), [str(path) for path in paths], self._encoder.precision)
        return torch.from_numpy(features).reshape(len(paths), *self._output.shape)[places]

    def _pixels(self, image: Image) -> NDArray[np.uint8]:
        preprocessing = self._encoder.backbone.preprocessing
        if self._view == PATCHES:
            return preprocessing.patches(image, self._grids)
        return preprocessing.picture(image)[None]
