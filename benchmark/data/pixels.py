"""Pictures as pixels for stages that train on them: decoded on threads, kept where nothing is drawn.

Notation: B pictures of a batch, S side of a picture after the transform.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.pictures import cores, open_picture
from benchmark.dataset import IntArray, Pictures
from benchmark.method import Transform
from benchmark.prefetching import made_ahead

KEPT_BYTES = 2 << 30
"""What a source keeps unless told otherwise: 8,600 pictures of 288 pixels, all of the demo data."""

RandomKey = tuple[int, ...]
"""What a picture's draws are made of, all 0 or more: (seed, epoch, position, role), say."""

BatchRequest = tuple[IntArray, Sequence[RandomKey]]
"""Picture indices (B,) and a key for each."""


class PixelSource:
    """Gives batches of transformed pictures, (B, S, S, 3) uint8.

    Without chance in the transform, a picture's pixels are kept in memory once computed, up to
    ``budget_bytes`` in all, and later epochs do not decode it again; what is full stays as it is,
    since an epoch asks for every picture equally often. With chance, a picture is decoded anew and
    its draws come from its key alone, so that they do not depend on threads or on other pictures.

    ``workers``: threads that decode; 0: one per core. A context manager: leaving it ends them.
    """

    def __init__(
        self,
        pictures: Pictures,
        transform: Transform,
        *,
        workers: int = 0,
        budget_bytes: int = KEPT_BYTES,
    ) -> None:
        self._pictures, self._transform = pictures, transform
        self._left = 0 if transform.random else budget_bytes
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(workers or cores(), thread_name_prefix="pixels")

    def __enter__(self) -> PixelSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def batch(self, picture_indices: IntArray, rng_keys: Sequence[RandomKey]) -> Tensor:
        """Pixels (B, S, S, 3), uint8, of the pictures (B,). Raises UserError for one unreadable."""
        indices = [int(index) for index in picture_indices]
        if self._transform.random:
            drawn = zip(indices, rng_keys, strict=True)
            pending = [self._pool.submit(self._draw, index, key) for index, key in drawn]
            return torch.from_numpy(np.stack(_results(pending)))
        distinct = list(dict.fromkeys(indices))
        pixels = dict(zip(distinct, _results([self._look_up(index) for index in distinct]), strict=True))
        return torch.from_numpy(np.stack([pixels[index] for index in indices]))

    def prefetch(
        self, requests: Iterable[BatchRequest], ahead: int = 2, pinned: bool = False
    ) -> Iterator[Tensor]:
        """Batches in the order of the requests, of which ``ahead`` (1 or more) are made in advance.

        ``pinned`` ones can be copied to a GPU while the host goes on.
        """

        def make(request: BatchRequest) -> Tensor:
            pixels = self.batch(*request)
            return pixels.pin_memory() if pinned else pixels

        return made_ahead(make, requests, "batches", ahead)

    def _look_up(self, index: int) -> Future[NDArray[np.uint8]]:
        kept = self._kept.get(index)
        if kept is None:
            return self._pool.submit(self._compute, index)
        known: Future[NDArray[np.uint8]] = Future()
        known.set_result(kept)
        return known

    def _compute(self, index: int) -> NDArray[np.uint8]:
        pixels = self._draw(index, (0,))
        with self._lock:
            if index not in self._kept and pixels.nbytes <= self._left:
                self._left -= pixels.nbytes
                self._kept[index] = pixels
        return pixels

    def _draw(self, index: int, key: RandomKey) -> NDArray[np.uint8]:
        image = open_picture(self._pictures.paths[index])
        return self._transform.picture(image, np.random.default_rng(key))


def _results(pending: Sequence[Future[NDArray[np.uint8]]]) -> list[NDArray[np.uint8]]:
    """All results; after a failure nothing that has not begun is begun."""
    try:
        return [future.result() for future in pending]
    finally:
        for future in pending:
            future.cancel()
