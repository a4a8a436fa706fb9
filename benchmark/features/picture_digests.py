"""What the bytes of picture files are: a digest of each, taken of the whole file once and remembered.

Reading a gallery's bytes takes minutes from a network disk, so a digest is remembered by what a short
look at the file tells: its name, size and time of change, and three pieces of 4 KiB, at its start, in its
middle and at its end. The look is taken anew at every request; inode and time of the last status change
are no part of it, since caches are shared by nodes and by copies of a folder.

What is proved, and when: a file with another size, time or piece is read whole at once, and nothing is
believed of it. One where all of them are as before is held to be the file that was read then. Of a file
of up to 12 KiB the pieces are all; a JPEG or PNG that stands for another picture differs in them, since
a PNG ends in a checksum of its pixels and all of a JPEG after a change is shifted. What passes unseen is
a larger file that somebody changes between the pieces, without moving a byte, and whose time is put back.

The file of digests is a list of records, appended under a lock; a record that a crash cut short is written
over, a damaged one is not believed, and its picture is read again.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from benchmark.errors import UserError
from benchmark.features.block_file import FileLocks, write_at

PIECE = 4096
_THREADS, _BATCH = 16, 256  # a look waits long on a network file system
_LOOK, _CONTENT, _CHECK = 12, 16, 4  # bytes of a record
_RECORD = _LOOK + _CONTENT + _CHECK
_SHOWN_PROBLEMS = 20

Made = TypeVar("Made")


class PictureDigests:
    """The digests of a cache folder's pictures, remembered in ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, paths: Sequence[Path], tell: Callable[[str], None] = lambda line: None) -> list[str]:
        """The digest of every file, hexadecimal; the unknown ones are read, and remembered where that can be written.

        Processes of one cache folder read what is new one after the other, so that the later find it known.
        ``tell`` is given a line before many files are read. Raises UserError naming the files that are missing.
        """
        looks = _on_threads(_look_at, paths)
        if None in looks:
            raise _unreadable([path for path, look in zip(paths, looks, strict=True) if look is None])
        known, new = self._remembered(), dict[Path, bytes]()
        if any(look not in known for look in looks):
            with self._held() as may_write:
                known = self._remembered()
                unknown = [path for path, look in zip(paths, looks, strict=True) if look not in known]
                if len(unknown) > _BATCH:
                    tell(f"{len(unknown):,} pictures are read once, to be known by their content")
                read = _on_threads(_read_whole, unknown)
                if may_write:
                    self._append(dict(read))
                new = {path: content for path, (_, content) in zip(unknown, read, strict=True)}
        return [(new.get(path) or known[look]).hex() for path, look in zip(paths, looks, strict=True)]

    @contextmanager
    def _held(self) -> Iterator[bool]:
        """The lock of the file; False where the cache can only be read."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            locks = FileLocks(self._path.with_suffix(".lock"))
        except (OSError, UserError):
            yield False
            return
        with closing(locks):
            locks.acquire(0, wait=True)
            yield True

    def _remembered(self) -> dict[bytes | None, bytes]:
        """Content digests by look; damaged records are passed over."""
        content = self._path.read_bytes() if self._path.is_file() else b""
        records = (content[i : i + _RECORD] for i in range(0, len(content) - _RECORD + 1, _RECORD))
        return {r[:_LOOK]: r[_LOOK:-_CHECK] for r in records if _checked(r[:-_CHECK]) == r}

    def _append(self, fresh: dict[bytes, bytes]) -> None:
        records = b"".join(_checked(look + content) for look, content in fresh.items())
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            write_at(descriptor, records, os.fstat(descriptor).st_size // _RECORD * _RECORD)
        except OSError:
            pass  # a full disk: what is not remembered is read again
        finally:
            os.close(descriptor)


def picture_digests(cache: Path) -> PictureDigests:
    """Those of a cache folder, which features and trained encoders share."""
    return PictureDigests(cache / "features" / "pictures.digests")


def content_digest(path: Path) -> str:
    """The digest of a file as it is now, read whole."""
    return _read_whole(path)[1].hex()


def _unreadable(paths: Sequence[Path]) -> UserError:
    reasons = [f"{p}: {'cannot be read' if p.exists() else 'no such picture'}" for p in paths[:_SHOWN_PROBLEMS]]
    rest = len(paths) - len(reasons)
    more = [f"and {rest} more pictures are missing"] if rest else []
    return UserError.collect([*reasons, *more, "check the data folder, or get the pictures again"])


def _checked(record: bytes) -> bytes:
    return record + zlib.crc32(record).to_bytes(_CHECK, "little")


def _look_at(path: Path) -> bytes | None:
    """What a short look at a file tells, as a digest; None where it is missing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in a file's place must not be waited for
    except OSError:
        return None
    try:
        return _look(path, descriptor)
    except OSError:  # a folder in a file's place
        return None
    finally:
        os.close(descriptor)


def _look(path: Path, descriptor: int) -> bytes:
    status = os.fstat(descriptor)
    size = status.st_size
    places = sorted({0, max(size - PIECE, 0) // 2, max(size - PIECE, 0)})
    told = blake2b(f"{size} {status.st_mtime_ns} ".encode() + os.fsencode(path.name), digest_size=_LOOK)
    for place in places:
        told.update(os.pread(descriptor, PIECE, place))
    return told.digest()


def _read_whole(path: Path) -> tuple[bytes, bytes]:
    """Look and content digest of one and the same file."""
    with path.open("rb") as stream:
        told = blake2b(digest_size=_CONTENT)
        while piece := stream.read(1 << 20):
            told.update(piece)
        return _look(path, stream.fileno()), told.digest()


def _on_threads(make: Callable[[Path], Made], paths: Sequence[Path]) -> list[Made]:
    def made(part: Iterable[Path]) -> list[Made]:
        return [make(path) for path in part]

    with ThreadPoolExecutor(_THREADS) as pool:
        parts = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
        return [found for part in pool.map(made, parts) for found in part]
