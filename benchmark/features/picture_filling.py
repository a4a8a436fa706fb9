"""Computes the missing blocks of a list of pictures, alone or together with other processes.

Pictures are decoded on threads, one block ahead of the encoder. A block is locked by the process
that computes it, from before its decoding until it is safely on disk; one that another process
holds is passed over and looked at again later. So processes that want the same list share it, and
the blocks of one that died are computed by the others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.pictures import open_picture
from benchmark.encoders.frozen_encoder import FrozenEncoder, require_finite
from benchmark.features.block_file import BlockFile, FileLocks

PICTURES_PER_BLOCK = 32
_BLOCKS_AHEAD = 1
_COMMIT_SECONDS = 1.0
_WAIT_SECONDS = 0.1
_APPENDING = 1 << 40

Progress = Callable[[int, int, str], None]
"""(done, total, note): called on the caller's thread; a note that is not empty is a line to show."""

Pixels = dict[str, NDArray[np.uint8]]
"""One picture's pixels by view: "global" (1, S, S, 3), "patches" (P, S, S, 3)."""


@dataclass(frozen=True)
class _Job:
    """A block that this process holds, the views it lacks, and its pictures being decoded."""

    block: int
    views: tuple[str, ...]
    decoding: list[Future[Pixels]]


class PictureFilling:
    """One filling of the ``files`` (by view) of the pictures ``paths``; used once."""

    def __init__(
        self,
        encoder: FrozenEncoder,
        files: Mapping[str, BlockFile],
        paths: Sequence[Path],
        grids: tuple[int, ...],
        progress: Progress,
    ) -> None:
        self._encoder, self._files, self._paths, self._grids = encoder, files, paths, grids
        self._progress = progress
        self._shape = next(iter(files.values())).shape
        self._held: set[int] = set()
        self._committed_at = 0.0

    def run(self, lock_path: Path, workers: int, shard: tuple[int, int]) -> None:
        """Fill every file and write the manifests; returns when all blocks are done, by whomever."""
        with ExitStack() as stack:
            for file in self._files.values():
                stack.callback(file.close)
                file.open_for_writing()
            self._locks = stack.enter_context(FileLocks(lock_path))
            self._pool = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="decode"))
            self._report()
            elsewhere = self._compute(_order(self._shape.blocks, shard))
            if elsewhere:
                self._report("waiting for another process that computes the same features")
            while elsewhere:
                time.sleep(_WAIT_SECONDS)
                elsewhere = self._compute(elsewhere)
            self._report()
            for file in self._files.values():
                file.finish()

    def _compute(self, blocks: Iterable[int]) -> list[int]:
        """Compute the blocks that are missing and free; gives those that other processes hold."""
        elsewhere: list[int] = []
        jobs: deque[_Job] = deque()
        self._committed_at = time.monotonic()
        try:
            for block in blocks:
                if self._is_done(block):
                    continue
                if not self._locks.acquire(block):
                    elsewhere.append(block)
                    continue
                self._held.add(block)
                if self._is_done(block):
                    self._release([block])
                    continue
                jobs.append(self._start(block))
                if len(jobs) > _BLOCKS_AHEAD:
                    self._encode(jobs.popleft())
                    self._commit_now_and_then([job.block for job in jobs])
            while jobs:
                self._encode(jobs.popleft())
        finally:
            for future in (future for job in jobs for future in job.decoding):
                future.cancel()
            self._commit(list(self._held))
        return elsewhere

    def _is_done(self, block: int) -> bool:
        for file in self._files.values():
            if not file.has(block):
                file.refresh()
        return all(file.has(block) for file in self._files.values())

    def _start(self, block: int) -> _Job:
        views = tuple(view for view, file in self._files.items() if not file.has(block))
        paths = [self._paths[row] for row in self._shape.span(block)]
        return _Job(block, views, [self._pool.submit(self._decode, path, views) for path in paths])

    def _decode(self, path: Path, views: tuple[str, ...]) -> Pixels:
        preprocessing = self._encoder.backbone.preprocessing
        image = open_picture(path)
        pixels: Pixels = {}
        if "global" in views:
            pixels["global"] = preprocessing.picture(image)[None]
        if "patches" in views:
            pixels["patches"] = preprocessing.patches(image, self._grids)
        return pixels

    def _encode(self, job: _Job) -> None:
        """Encode the views apart from each other: their bits do not depend on which were asked for."""
        decoded = [future.result() for future in job.decoding]
        sources = [str(self._paths[row]) for row in self._shape.span(job.block)]
        for view in job.views:
            features = self._encoder.pictures(np.concatenate([pixels[view] for pixels in decoded]))
            require_finite(features.reshape(len(sources), -1), sources)
            file = self._files[view]
            file.write(job.block, features.reshape(len(sources), *file.shape.row_shape))

    def _commit_now_and_then(self, unfinished: list[int]) -> None:
        if time.monotonic() - self._committed_at > _COMMIT_SECONDS:
            self._commit([block for block in self._held if block not in unfinished])
            self._committed_at = time.monotonic()
            self._report()

    def _commit(self, blocks: list[int]) -> None:
        """Put everything written safely on disk, then let the other processes have the blocks."""
        try:
            self._locks.acquire(_APPENDING, wait=True)
            for file in self._files.values():
                file.commit()
        finally:
            self._release([*blocks, _APPENDING])

    def _release(self, numbers: list[int]) -> None:
        for number in numbers:
            self._locks.release(number)
        self._held.difference_update(numbers)

    def _report(self, note: str = "") -> None:
        done = frozenset.intersection(*(file.done for file in self._files.values()))
        self._progress(sum(len(self._shape.span(block)) for block in done), self._shape.rows, note)


def _order(blocks: int, shard: tuple[int, int]) -> list[int]:
    """A process's own blocks first, then those of the others from their ends."""
    rank, world = shard
    own = list(range(rank, blocks, world))
    others = [block for block in reversed(range(blocks)) if block % world != rank]
    return own + others
