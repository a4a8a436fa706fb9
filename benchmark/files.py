"""Writing files so that a crash leaves the old one or the new one, never a part; digests; locks."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, full_disk_advice

_SURROGATE = re.compile("[\ud800-\udfff]")

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success flush it to disk and rename it into place.

    The temporary name ends like ``path``, since some writers look at the ending. A full disk
    raises UserError and leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that their owner alone can read
        flush_to_disk(temporary)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    except Exception as error:
        advice = full_disk_advice(error)
        if advice:
            raise UserError(f"{path}: the disk is full or a limit is reached; {advice}, then run again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left of :func:`atomic_path`; for the one who holds the folder."""
    for path in folder.rglob(".*.partial.*"):
        path.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _as_it_came(error: UnicodeError) -> tuple[bytes, int]:
    """Of a name that is no UTF-8 its own bytes, of other characters that cannot be written a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = map(ord, error.object[error.start : error.end])
    return b"".join(bytes([c - 0xDC00]) if 0xDC80 <= c <= 0xDCFF else b"?" for c in characters), error.end


SHOWN = "cir-benchmark"
"""How text is encoded for people, as `errors=` of a stream: it never fails."""
codecs.register_error(SHOWN, _as_it_came)


def atomic_write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=SHOWN)


def atomic_write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def atomic_write_json(path: Path, value: Any) -> None:
    """Write a JSON file that reads back to the same value, see `format_json`."""
    atomic_write_text(path, format_json(value, indent=1) + "\n")


def format_json(value: Any, indent: int | None = None) -> str:
    """JSON that reads back to the same value, lone surrogates (names that are no UTF-8, captions) included.

    Raises ValueError for numbers that JSON does not have, which other readers would refuse.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@contextmanager
def name_in_utf8(path: Path) -> Iterator[Path]:
    """A file's name for libraries that take UTF-8 alone: its own, else one of the system's for the open file."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        with path.open("rb") as stream:
            yield Path(f"/dev/fd/{stream.fileno()}")
        return
    yield path


def require_regular_file(path: Path) -> None:
    """Raise UserError where a path is no file that can be read to its end: missing, a folder, a pipe, a device."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file") from None
    except OSError as error:  # a name too long, a loop of links
        raise UserError(f"{path}: cannot be read ({error.strerror}); name another file, or mend this one") from None
    except ValueError as error:  # a zero byte in the name
        raise UserError(f"{str(path)!r}: no name of a file ({error}); name another") from None
    if not stat.S_ISREG(mode):
        kind = next((word for is_kind, word in _KINDS if is_kind(mode)), "a device")
        raise UserError(f"{path}: {kind}, not a file; name a regular file")


def disk_bytes(file: Path) -> int:
    """What a file takes on the disk, which is less than its length while it is filled."""
    return file.stat().st_blocks * 512


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """sha256 of a JSON-like value, independent of the order of keys."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextmanager
def folder_lock(folder: Path, purpose: str) -> Iterator[None]:
    """Hold a folder for one process; raises UserError at once where another one holds it."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder}: in use by another run ({purpose}); wait for it or choose another --output"
        ) from None
    try:
        yield
    finally:
        lock.release()
