"""float32 rows on disk, computed block by block, that a kill at any moment leaves usable.

Three files share a stem: ``.f32`` holds the rows, ``.log`` a line with a checksum for every block
that is safely in it, ``.json`` (the manifest, written last) says what the rows are. A block is
written and flushed before its line is, and a line that was cut short fails its own check, so the
log never claims what the rows do not hold. What is read back is compared with the checksums.

Any number of processes may fill the same file: each block is locked by the one that computes it,
and the operating system drops the lock of a process that dies.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.errors import UserError
from benchmark.files import atomic_write_json, digest_of, flush_to_disk, read_json

DTYPE = "<f4"


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


def append_lines(descriptor: int, lines: list[str]) -> None:
    """Append lines to a log and flush it; begins anew after a line that a crash cut short."""
    content = ("\n" + "\n".join(lines) + "\n").encode("ascii")
    while content:
        content = content[os.write(descriptor, content) :]
    os.fsync(descriptor)


def new_lines(path: Path, position: int) -> tuple[list[str], int]:
    """The whole lines of a log from a byte position on, and the position after them."""
    try:
        with path.open("rb") as stream:
            stream.seek(position)
            content = stream.read()
    except FileNotFoundError:
        return [], 0
    end = content.rfind(b"\n") + 1
    return content[:end].decode("ascii", "replace").split("\n"), position + end


class FileLocks:
    """Numbered locks between processes, kept as byte ranges of one file.

    They hold between processes, not between the threads of one. Raises UserError where the file
    system knows no locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def __enter__(self) -> FileLocks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def acquire(self, number: int, wait: bool = False) -> bool:
        """Take a lock; False where another process holds it and ``wait`` is not asked for."""
        import fcntl

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
        import fcntl

        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)


@dataclass(frozen=True)
class BlockShape:
    """``rows`` rows of shape ``row_shape``, cut into blocks of ``rows_per_block``, the last shorter."""

    rows: int
    row_shape: tuple[int, ...]
    rows_per_block: int

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.rows_per_block)

    @property
    def row_bytes(self) -> int:
        return prod(self.row_shape) * np.dtype(DTYPE).itemsize

    @property
    def total_bytes(self) -> int:
        return self.rows * self.row_bytes

    def span(self, block: int) -> range:
        """Rows of a block."""
        start = block * self.rows_per_block
        return range(start, min(start + self.rows_per_block, self.rows))


class BlockFile:
    """One such file. ``key`` is a JSON-like description of what the rows are, kept in the manifest.

    ``done`` is the set of blocks known to be safely on disk. :meth:`check` fills it from the disk,
    :meth:`refresh` adds what other processes finished since.
    """

    def __init__(self, stem: Path, shape: BlockShape, key: dict[str, Any]) -> None:
        self.path = stem.with_name(stem.name + ".f32")
        self.shape = shape
        self._key = key
        self._log = stem.with_name(stem.name + ".log")
        self._manifest = stem.with_name(stem.name + ".json")
        self._checksums: dict[int, int] = {}
        self._uncommitted: dict[int, int] = {}
        self._position = 0
        self._rows_file = self._log_file = -1

    @property
    def done(self) -> frozenset[int]:
        return frozenset(self._checksums)

    def has(self, block: int) -> bool:
        return block in self._checksums

    def check(self) -> int:
        """Compare everything that the log claims with the rows on disk; the number of damaged blocks."""
        self._checksums, self._position = {}, 0
        self.refresh()
        claimed = len(self._checksums)
        self._checksums = dict(self._sound_blocks())
        return claimed - len(self._checksums)

    def _sound_blocks(self) -> Iterator[tuple[int, int]]:
        if not self._checksums or not self.path.is_file():
            return
        with self.path.open("rb") as stream:
            for block, checksum in sorted(self._checksums.items()):
                span = self.shape.span(block)
                stream.seek(span.start * self.shape.row_bytes)
                content = stream.read(len(span) * self.shape.row_bytes)
                if len(content) == len(span) * self.shape.row_bytes and zlib.crc32(content) == checksum:
                    yield block, checksum

    def refresh(self) -> None:
        """Take note of the blocks that other processes finished."""
        lines, self._position = new_lines(self._log, self._position)
        for line in lines:
            record = _parse(line)
            if record is not None and record[0] < self.shape.blocks:
                self._checksums[record[0]] = record[1]

    def is_complete(self) -> bool:
        """All blocks are there, and file and manifest are what they should be. Needs no lock."""
        if len(self._checksums) < self.shape.blocks or not self.path.is_file():
            return False
        if self.path.stat().st_size != self.shape.total_bytes:
            return False
        try:
            return bool(read_json(self._manifest) == self._description())
        except UserError:
            return False

    def open_for_writing(self) -> None:
        """Create the files; raises UserError where the disk has no room for the missing blocks."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._require_room()
            self._rows_file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            self._log_file = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            if os.fstat(self._rows_file).st_size != self.shape.total_bytes:
                os.ftruncate(self._rows_file, self.shape.total_bytes)
            flush_to_disk(self.path.parent)

    def _require_room(self) -> None:
        rows = sum(len(self.shape.span(block)) for block in range(self.shape.blocks) if not self.has(block))
        missing = rows * self.shape.row_bytes
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise UserError(
                f"{self.path}: {missing / 1e6:,.1f} MB are to be stored and {free / 1e6:,.1f} MB are free; "
                "free some space or move the cache with --cache"
            )

    def write(self, block: int, rows: NDArray[np.float32]) -> None:
        """Write the rows of a block, (n, *row_shape); it counts only after :meth:`commit`."""
        expected = (len(self.shape.span(block)), *self.shape.row_shape)
        if rows.shape != expected:
            raise ValueError(f"block {block} of {self.path.name} has shape {expected}, not {rows.shape}")
        content = np.ascontiguousarray(rows, dtype=DTYPE).tobytes()
        with writing(self.path):
            write_at(self._rows_file, content, self.shape.span(block).start * self.shape.row_bytes)
        self._uncommitted[block] = zlib.crc32(content)

    def commit(self) -> None:
        """Flush what was written, then say so in the log, then flush the log."""
        if not self._uncommitted:
            return
        with writing(self.path):
            os.fsync(self._rows_file)
            append_lines(self._log_file, [_record(b, c) for b, c in self._uncommitted.items()])
        self._checksums.update(self._uncommitted)
        self._uncommitted = {}

    def finish(self) -> None:
        """Write the manifest of a file that has all its blocks."""
        if len(self._checksums) < self.shape.blocks:
            raise ValueError(f"{self.path.name} lacks {self.shape.blocks - len(self._checksums)} blocks")
        with writing(self._manifest):
            atomic_write_json(self._manifest, self._description())

    def close(self) -> None:
        for descriptor in (self._rows_file, self._log_file):
            if descriptor >= 0:
                os.close(descriptor)
        self._rows_file = self._log_file = -1

    def read(self) -> Tensor:
        """All rows, (rows, *row_shape), mapped from the file; writing to them never reaches the file."""
        return map_rows(self.path, self.shape.rows, self.shape.row_shape)

    def _description(self) -> dict[str, Any]:
        checksums = [self._checksums[block] for block in range(self.shape.blocks)]
        return {
            "format": 1,
            "key": self._key,
            "shape": [self.shape.rows, *self.shape.row_shape],
            "dtype": DTYPE,
            "rows_per_block": self.shape.rows_per_block,
            "digest": digest_of(checksums),
        }


def map_rows(path: Path, rows: int, row_shape: tuple[int, ...]) -> Tensor:
    """The first rows of a file of float32 rows, memory-mapped; pages are read when first used."""
    if rows == 0:
        return torch.empty((0, *row_shape))
    return torch.from_numpy(np.memmap(path, dtype=DTYPE, mode="c", shape=(rows, *row_shape)))


def _record(block: int, checksum: int) -> str:
    content = f"{block} {checksum:08x}"
    return f"{content} {zlib.crc32(content.encode()):08x}"


def _parse(line: str) -> tuple[int, int] | None:
    """Block and checksum of a line of the log; None where the line is empty, damaged or cut short."""
    content, _, check = line.rpartition(" ")
    if not content or check != f"{zlib.crc32(content.encode()):08x}":
        return None
    block, checksum = content.split(" ")
    return int(block), int(checksum, 16)
