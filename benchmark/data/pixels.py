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
from benchmark.method import Annotator, Transform
from benchmark.prefetching import made_ahead

KEPT_BYTES = 2 << 30
"""What a source keeps unless told otherwise: 8,600 pictures of 288 pixels, all of the demo data."""

RandomKey = tuple[int, ...]
"""What a picture's draws are made of, all 0 or more: (seed, epoch, position, role), say."""

BatchRequest = tuple[IntArray, Sequence[RandomKey], Sequence[str | None]]
"""Picture indices (B,), a key for each, and the notes that are shown on them, None on a picture as it is."""


_Shown = tuple[int, str | None]
"""A picture's index and the note on it."""


class PixelSource:
    """Gives batches of transformed pictures, (B, S, S, 3) uint8.

    Without chance in the transform, a picture's pixels are kept in memory once computed, up to
    ``budget_bytes`` in all, and later epochs do not decode it again; what is full stays as it is,
    since an epoch asks for every picture equally often. With chance, a picture is decoded anew and
    its draws come from its key alone, so that they do not depend on threads or on other pictures.

    ``annotator``: shows notes on pictures; a picture with a note is another one, kept for that note alone.
    ``workers``: threads that decode; 0: one per core. A context manager: leaving it ends them.
    """

    def __init__(
        self,
        pictures: Pictures,
        transform: Transform,
        annotator: Annotator | None = None,
        *,
        workers: int = 0,
        budget_bytes: int = KEPT_BYTES,
    ) -> None:
        self._pictures, self._transform, self._annotator = pictures, transform, annotator
        self._left = 0 if transform.random else budget_bytes
        self._kept: dict[_Shown, NDArray[np.uint8]] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(workers or cores(), thread_name_prefix="pixels")

    def __enter__(self) -> PixelSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def batch(
        self, picture_indices: IntArray, rng_keys: Sequence[RandomKey], notes: Sequence[str | None] = ()
    ) -> Tensor:
        """Pixels (B, S, S, 3), uint8, of the pictures (B,), with their notes on them where there are any.

        Raises UserError for one unreadable.
        """
        indices = [int(index) for index in picture_indices]
        shown = list(zip(indices, notes or [None] * len(indices), strict=True))
        if self._transform.random:
            drawn = zip(shown, rng_keys, strict=True)
            pending = [self._pool.submit(self._draw, one, key) for one, key in drawn]
            return torch.from_numpy(np.stack(_results(pending)))
        distinct = list(dict.fromkeys(shown))
        pixels = dict(zip(distinct, _results([self._look_up(one) for one in distinct]), strict=True))
        return torch.from_numpy(np.stack([pixels[one] for one in shown]))

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

    def _look_up(self, shown: _Shown) -> Future[NDArray[np.uint8]]:
        kept = self._kept.get(shown)
        if kept is None:
            return self._pool.submit(self._compute, shown)
        known: Future[NDArray[np.uint8]] = Future()
        known.set_result(kept)
        return known

    def _compute(self, shown: _Shown) -> NDArray[np.uint8]:
        pixels = self._draw(shown, (0,))
        with self._lock:
            if shown not in self._kept and pixels.nbytes <= self._left:
                self._left -= pixels.nbytes
                self._kept[shown] = pixels
        return pixels

    def _draw(self, shown: _Shown, key: RandomKey) -> NDArray[np.uint8]:
        index, note = shown
        image = open_picture(self._pictures.paths[index])
        if note is not None:
            if self._annotator is None:
                raise TypeError("a note is to be shown, and this source has nothing that shows it")
            image = self._annotator.draw(image, note)
        return self._transform.picture(image, np.random.default_rng(key))


def _results(pending: Sequence[Future[NDArray[np.uint8]]]) -> list[NDArray[np.uint8]]:
    """All results; after a failure nothing that has not begun is begun."""
    try:
        return [future.result() for future in pending]
    finally:
        for future in pending:
            future.cancel()
