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

from benchmark.backbone import GLOBAL
from benchmark.data.pictures import open_picture
from benchmark.encoders.frozen_encoder import FrozenEncoder, require_finite
from benchmark.errors import UserError
from benchmark.features.block_file import BlockFile, FileLocks
from benchmark.features.picture_digests import content_digest

PICTURES_PER_BLOCK = 32
PATCHES = "patches"
"""The view that is no output of a backbone: its global output for every crop of a picture's grids."""

_BLOCKS_AHEAD = 1
_COMMIT_SECONDS = 1.0
_WAIT_SECONDS = 0.1
_APPENDING = 1 << 40  # a lock's number that is no block's

Progress = Callable[[int, int, str], None]
"""(done, total, note): called on the caller's thread; a note that is not empty is a line to show."""

Pixels = dict[str, NDArray[np.uint8]]
"""One picture's pixels by view: "patches" (P, S, S, 3), any other (1, S, S, 3)."""


@dataclass(frozen=True)
class _Job:
    """A block that this process holds, the views it lacks, and its pictures being decoded."""

    block: int
    views: tuple[str, ...]
    decoding: list[Future[Pixels]]


class PictureFilling:
    """One filling of the ``files`` (by view) of the pictures ``paths`` of these content ``digests``; used once."""

    def __init__(
        self,
        encoder: FrozenEncoder,
        files: Mapping[str, BlockFile],
        paths: Sequence[Path],
        digests: Sequence[str],
        grids: tuple[int, ...],
        progress: Progress,
    ) -> None:
        self._encoder, self._files, self._paths, self._grids = encoder, files, paths, grids
        self._digests, self._progress = digests, progress
        self._any_file = next(iter(files.values()))
        self._held: set[int] = set()
        self._committed_at = 0.0

    def run(self, lock_path: Path, workers: int, shard: tuple[int, int]) -> None:
        """Fill every file; returns when all blocks are done, by whomever.

        A process begins with its own blocks by ``shard`` (rank, world size) and goes on with those
        of the others, from their ends: a slower one's blocks are taken over.
        """
        rank, world = shard
        blocks = range(self._any_file.blocks)
        order = [*blocks[rank::world], *(block for block in reversed(blocks) if block % world != rank)]
        with ExitStack() as stack:
            self._locks = FileLocks(lock_path)
            stack.callback(self._locks.close)
            self._locks.acquire(_APPENDING, wait=True)
            for file in self._files.values():
                file.open_for_writing()
            self._locks.release(_APPENDING)
            self._pool = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="decode"))
            self._report()
            elsewhere = self._compute(order)
            if elsewhere:
                self._report("waiting for another process that computes the same features")
            while elsewhere:
                time.sleep(_WAIT_SECONDS)
                elsewhere = self._compute(elsewhere)
            self._report()

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
                # It may have been finished, and let go, since the look before.
                if self._is_done(block):
                    self._release([block])
                    continue
                jobs.append(self._start(block))
                if len(jobs) > _BLOCKS_AHEAD:
                    self._encode(jobs.popleft())
                    if time.monotonic() - self._committed_at > _COMMIT_SECONDS:
                        self._commit(self._held - {job.block for job in jobs})
                        self._committed_at = time.monotonic()
                        self._report()
            while jobs:
                self._encode(jobs.popleft())
        finally:
            for future in (future for job in jobs for future in job.decoding):
                future.cancel()
            self._commit(self._held)
        return elsewhere

    def _is_done(self, block: int) -> bool:
        return all(file.has(block) for file in self._files.values())

    def _start(self, block: int) -> _Job:
        views = tuple(view for view, file in self._files.items() if not file.has(block))
        return _Job(block, views, [self._pool.submit(self._decode, row, views) for row in self._any_file.span(block)])

    def _decode(self, row: int, views: tuple[str, ...]) -> Pixels:
        path = self._paths[row]
        preprocessing, image = self._encoder.backbone.preprocessing, open_picture(path)
        # Read again after the decoding: only so is it sure that what was decoded is what the store's key names.
        if content_digest(path) != self._digests[row]:
            raise UserError(f"{path}: the picture changed while its features were computed; run again")
        return {
            view: preprocessing.patches(image, self._grids) if view == PATCHES else preprocessing.picture(image)[None]
            for view in views
        }

    def _encode(self, job: _Job) -> None:
        """Encode the views apart from each other: their bits do not depend on which were asked for."""
        decoded = [future.result() for future in job.decoding]
        sources = [str(self._paths[row]) for row in self._any_file.span(job.block)]
        for view in job.views:
            pixels = np.concatenate([picture[view] for picture in decoded])
            features = self._encoder.pictures(pixels, GLOBAL if view == PATCHES else view)
            require_finite(features, sources, self._encoder.precision)
            file = self._files[view]
            file.write(job.block, features.reshape(len(sources), *file.shape[1:]))

    def _commit(self, blocks: Iterable[int]) -> None:
        """Put everything written safely on disk, then let the other processes have the blocks."""
        try:
            # One process at a time: on network file systems, neighbouring checksums share a page.
            self._locks.acquire(_APPENDING, wait=True)
            for file in self._files.values():
                file.commit()
        finally:
            self._release([*blocks, _APPENDING])

    def _release(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._locks.release(number)
            self._held.discard(number)

    def _report(self, note: str = "") -> None:
        done = np.logical_and.reduce([file.done for file in self._files.values()])
        rows = sum(len(self._any_file.span(block)) for block in np.flatnonzero(done).tolist())
        self._progress(rows, len(self._paths), note)
