"""Text features on disk: keyed by the exact string, growing, safe against a kill at any moment.

The last digits of a feature may depend on the place of a text in a pass of the encoder, so the text
itself decides its place: its feature depends on nothing but the text and the encoder, whatever else
was asked for and in whatever order.

``texts.f32`` holds one row per text, ``texts.log`` a line of JSON per row with its number, a checksum
over string and row, and the string. Rows are flushed before their lines are written; a row without a
sound line does not exist and is written over. Processes encode side by side and take a lock only to
append, when each first looks at what the others appended.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.encoders.frozen_encoder import TEXTS_PER_PASS, Precision, require_finite
from benchmark.features.block_file import FileLocks, map_rows, write_at, writing
from benchmark.features.picture_filling import Progress

_COMMIT_SECONDS = 2.0
_APPENDING = 0

EncodeTexts = Callable[[Sequence[str]], NDArray[np.float32]]
"""TEXTS_PER_PASS strings to features (B, d)."""


@dataclass(frozen=True)
class TextFeatures:
    """``view`` (n, d): every text of the store so far, mapped from its file; :meth:`rows` finds them."""

    view: Tensor
    row_of: Mapping[str, int]

    def rows(self, strings: Sequence[str]) -> Tensor:
        """Row of each string, int64 (B,). Raises ValueError for one that was not asked for."""
        try:
            rows = [self.row_of[string] for string in strings]
        except KeyError as error:
            raise ValueError(f"no feature was asked for of the text {error.args[0]!r}") from None
        if max(rows, default=-1) >= len(self.view):
            raise ValueError("a text was asked for later than this view was given")
        return torch.tensor(rows, dtype=torch.int64)


class TextFile:
    """The store of one encoder's text features of width ``width``, computed in ``precision``."""

    def __init__(self, folder: Path, width: int, precision: Precision) -> None:
        self._precision: Precision = precision
        self._folder, self._width, self._row_bytes = folder, width, width * np.dtype("<f4").itemsize
        self._rows_path, self._log_path = folder / "texts.f32", folder / "texts.log"
        self._row_of: dict[str, int] = {}
        self._next_row = self._sound_rows = 0
        self._position = 0
        self._served = TextFeatures(torch.empty(0, width), self._row_of)

    def missing(self, strings: Sequence[str]) -> list[str]:
        """Those without a feature on disk, each once."""
        self._refresh()
        return [string for string in dict.fromkeys(strings) if string not in self._row_of]

    def serve(self) -> TextFeatures:
        """All features so far."""
        if len(self._served.view) < self._sound_rows:
            view = map_rows(self._rows_path, (self._sound_rows, self._width))
            self._served = TextFeatures(view, self._row_of)
        return self._served

    def encode(self, missing: Sequence[str], encode: EncodeTexts, progress: Progress, shard: tuple[int, int]) -> None:
        """Encode and keep texts.

        Processes that are asked for the same ones at the same time start at different places of the
        list by ``shard`` (rank, world size) and skip what another has appended meanwhile.
        """
        start = shard[0] * len(missing) // shard[1]
        places: list[deque[str]] = [deque() for _ in range(TEXTS_PER_PASS)]
        for text in (*missing[start:], *missing[:start]):
            places[zlib.crc32(_utf8(text)) % TEXTS_PER_PASS].append(text)
        fresh: dict[str, NDArray[np.float32]] = {}
        committed = time.monotonic()
        try:
            while any(places):
                texts = [waiting.popleft() if waiting else None for waiting in places]
                features = encode([text or "" for text in texts])
                rows = {text: row for text, row in zip(texts, features, strict=True) if text is not None}
                require_finite(np.stack(list(rows.values())), [f"the text {text!r}" for text in rows], self._precision)
                fresh |= rows
                if time.monotonic() - committed > _COMMIT_SECONDS:
                    self._append(fresh)
                    fresh, committed = {}, time.monotonic()
                    places = [deque(t for t in waiting if t not in self._row_of) for waiting in places]
                progress(len(missing) - sum(map(len, places)), len(missing), "")
        finally:
            self._append(fresh)

    def _append(self, fresh: Mapping[str, NDArray[np.float32]]) -> None:
        """Append the features that no other process has appended meanwhile."""
        if not fresh:
            return
        with writing(self._rows_path):
            self._folder.mkdir(parents=True, exist_ok=True)
            with closing(FileLocks(self._folder / "texts.lock")) as locks:
                locks.acquire(_APPENDING, wait=True)
                self._refresh()
                rows = {t: np.ascontiguousarray(r, "<f4").tobytes() for t, r in fresh.items() if t not in self._row_of}
                lines = [
                    json.dumps([self._next_row + i, _checksum(text, row), text])
                    for i, (text, row) in enumerate(rows.items())
                ]
                _write_flushed(self._rows_path, b"".join(rows.values()), self._next_row * self._row_bytes)
                # A line that a crash cut short may stand at the end: the log goes on with a line of its own.
                content = "".join(f"\n{line}" for line in lines) + "\n"
                _write_flushed(self._log_path, content.encode("ascii"), _size(self._log_path))
                self._refresh()

    def _refresh(self) -> None:
        """Read the lines appended since, and count those whose row is what it was when written."""
        if not self._rows_path.exists() or not self._log_path.exists():
            return
        with self._log_path.open("rb") as log, self._rows_path.open("rb") as rows:
            log.seek(self._position)
            content = log.read()
            end = content.rfind(b"\n") + 1
            self._position += end
            for row, checksum, text in filter(None, map(_parse, content[:end].split(b"\n"))):
                self._next_row = max(self._next_row, row + 1)
                rows.seek(row * self._row_bytes)
                found = rows.read(self._row_bytes)
                if len(found) == self._row_bytes and _checksum(text, found) == checksum:
                    self._row_of[text] = row
                    self._sound_rows = max(self._sound_rows, row + 1)


def _write_flushed(path: Path, content: bytes, offset: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        write_at(descriptor, content, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _checksum(text: str, row: bytes) -> int:
    return zlib.crc32(row, zlib.crc32(_utf8(text)))


def _utf8(text: str) -> bytes:
    """Any string as bytes, also one with half a surrogate pair."""
    return text.encode("utf-8", "surrogatepass")


def _parse(line: bytes) -> tuple[int, int, str] | None:
    """Row, checksum and text of a line of the log; None where it is empty, damaged or cut short."""
    try:
        row, checksum, text = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    if isinstance(row, int) and isinstance(checksum, int) and isinstance(text, str) and row >= 0:
        return row, checksum, text
    return None
