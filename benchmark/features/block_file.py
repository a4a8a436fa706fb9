"""Rows on disk, computed block by block, that a kill at any moment leaves usable.

One safetensors file has its whole size from the start: a header that says what the rows are,
``checksums`` with an entry per block (0: not there yet), and ``rows``. A block's rows are flushed
before its checksum is written, and a block counts only where the two agree, so that neither a kill
nor a damaged disk is ever believed.

Any number of processes may fill the same file: each block is locked by the one that computes it,
and the operating system drops the lock of a process that dies.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows; the message is FileLocks'
    fcntl = None  # type: ignore[assignment]

from benchmark.errors import UserError
from benchmark.files import flush_to_disk

_SLOT = np.dtype("<u8")
_WRITTEN = 1 << 32  # set in every checksum, so that none is 0
_TYPES = {"float32": "F32", "float16": "F16"}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a disk refuses into UserError: full, over quota, read-only."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{path}: the disk is full; what is computed so far is kept: free some space or move "
                "the cache with --cache, then run again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); choose another folder with --cache"
            ) from error
        raise


def write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of ``content`` at a position of a file; a full disk is an OSError, never a signal."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def map_rows(path: Path, shape: tuple[int, ...], offset: int = 0, dtype: DTypeLike = "<f4") -> Tensor:
    """Rows of a file, memory-mapped: pages are read when first used, writing to them never reaches the file."""
    if not prod(shape):
        return torch.from_numpy(np.empty(shape, dtype))
    return torch.from_numpy(np.memmap(path, dtype=dtype, mode="c", offset=offset, shape=shape))


class FileLocks:
    """Numbered locks between processes, kept as byte ranges of one file; closing it drops them.

    They hold between processes, not between the threads of one. Raises UserError where the file
    system knows no locks.
    """

    def __init__(self, path: Path) -> None:
        if fcntl is None:
            raise UserError(
                "the feature store needs file locks that this system does not have (Python's fcntl); "
                "use Linux or macOS, on Windows its subsystem for Linux (WSL)"
            )
        self._path = path
        with writing(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def close(self) -> None:
        os.close(self._descriptor)

    def acquire(self, number: int, wait: bool = False) -> bool:
        """Take a lock; False where another process holds it and ``wait`` is not asked for."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, number)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise UserError(
                f"{self._path}: this file system has no file locks ({error.strerror}); "
                "choose a folder on another one with --cache"
            ) from error
        return True

    def release(self, number: int) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)


class BlockFile:
    """One such file: ``shape`` (n, ...) of all rows, cut into blocks of ``rows_per_block``, the last shorter.

    ``key`` is a JSON-like description of what the rows are, kept in the header.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: str, rows_per_block: int, key: Mapping[str, Any]
    ) -> None:
        self.path, self.shape, self._per_block = path, shape, rows_per_block
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self.blocks = -(-shape[0] // rows_per_block)
        self._row_bytes = prod(shape[1:]) * self._dtype.itemsize
        slots, rows = self.blocks * _SLOT.itemsize, shape[0] * self._row_bytes
        self._header = _header(
            {
                "__metadata__": {"key": json.dumps(key), "rows_per_block": str(rows_per_block)},
                "checksums": {"dtype": "U64", "shape": [self.blocks], "data_offsets": [0, slots]},
                "rows": {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [slots, slots + rows]},
            }
        )
        self._rows_at = len(self._header) + slots
        self._size = self._rows_at + rows
        self._sound = np.zeros(self.blocks, dtype=bool)
        self._uncommitted: dict[int, int] = {}
        self._descriptor = os.open(path, os.O_RDONLY) if path.is_file() else -1

    def span(self, block: int) -> range:
        """Rows of a block."""
        return range(block * self._per_block, min((block + 1) * self._per_block, self.shape[0]))

    @property
    def done(self) -> NDArray[np.bool_]:
        """The blocks known to be safely on disk."""
        return self._sound

    def check(self) -> int:
        """Read every block back; the number of those that are not what was once written."""
        return sum(self._claims(block) and not self.has(block) for block in range(self.blocks))

    def has(self, block: int) -> bool:
        """Whether a block is on disk; what other processes wrote is held against its checksum, too."""
        if not self._sound[block] and (claimed := self._claims(block)):
            content = os.pread(self._descriptor, len(self.span(block)) * self._row_bytes, self._place(block))
            self._sound[block] = claimed == zlib.crc32(content) | _WRITTEN
        return bool(self._sound[block])

    def _claims(self, block: int) -> int:
        """The checksum of a block as it stands in the file, 0 for none."""
        if self._descriptor < 0:
            return 0
        return int.from_bytes(os.pread(self._descriptor, _SLOT.itemsize, self._slot(block)), "little")

    def _slot(self, block: int) -> int:
        return len(self._header) + block * _SLOT.itemsize

    def _place(self, block: int) -> int:
        return self._rows_at + block * self._per_block * self._row_bytes

    def is_complete(self) -> bool:
        """All blocks are there, and the file is what it should be. Needs no lock."""
        if self._descriptor < 0 or not self._sound.all() or os.fstat(self._descriptor).st_size != self._size:
            return False
        return os.pread(self._descriptor, len(self._header), 0) == self._header

    def open_for_writing(self) -> None:
        """Give the file its size and header, in place; nobody who fills it already is disturbed.

        For one process at a time. Raises UserError where the disk has no room for the missing blocks.
        """
        missing = sum(len(self.span(block)) for block in np.flatnonzero(~self._sound).tolist()) * self._row_bytes
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise UserError(
                f"{self.path}: {missing / 1e6:,.1f} MB are to be stored and {free / 1e6:,.1f} MB are free; "
                "free some space or move the cache with --cache"
            )
        self.close()
        with writing(self.path):
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            size, head = os.fstat(self._descriptor).st_size, self._header
            if size < self._rows_at:
                # Written now, so that a disk that fills up later has room for the checksums of what it took.
                head += bytes(self._rows_at - len(head))
            if size != self._size:
                os.ftruncate(self._descriptor, self._size)
            write_at(self._descriptor, head, 0)
            flush_to_disk(self.path.parent)

    def write(self, block: int, rows: NDArray[np.generic]) -> None:
        """Write the rows of a block, (n, ...); it counts only after :meth:`commit`."""
        expected = (len(self.span(block)), *self.shape[1:])
        if rows.shape != expected:
            raise ValueError(f"block {block} of {self.path.name} has shape {expected}, not {rows.shape}")
        content = np.ascontiguousarray(rows, dtype=self._dtype).tobytes()
        with writing(self.path):
            write_at(self._descriptor, content, self._place(block))
        self._uncommitted[block] = zlib.crc32(content) | _WRITTEN

    def commit(self) -> None:
        """Flush what was written, then say so, then flush that."""
        if not self._uncommitted:
            return
        with writing(self.path):
            os.fsync(self._descriptor)
            for block, checksum in self._uncommitted.items():
                write_at(self._descriptor, checksum.to_bytes(_SLOT.itemsize, "little"), self._slot(block))
            os.fsync(self._descriptor)
        self._sound[list(self._uncommitted)] = True
        self._uncommitted = {}

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def read(self) -> Tensor:
        """All rows, mapped from the file."""
        return map_rows(self.path, self.shape, self._rows_at, self._dtype)


def _header(entries: Mapping[str, Any]) -> bytes:
    """A safetensors header: its length, then JSON, filled up so that what follows is aligned."""
    content = json.dumps(entries).encode()
    content += b" " * (-(8 + len(content)) % 64)
    return len(content).to_bytes(8, "little") + content
