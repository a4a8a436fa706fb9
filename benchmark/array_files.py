"""NumPy's npz files, whoever wrote them: headers are read, and held against what is there, before a byte is allocated.

Objects are never unpickled. Every fault is one line that names the file and the array.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UserError
from benchmark.files import require_regular_file

_ENDING = ".npy"
_FAULTS = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile and numpy raise over bytes that are no archive: damaged, encrypted, packed in another way."""


@dataclass(frozen=True)
class ArrayHeader:
    """What an array's header declares."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayFile:
    """An open npz file; ``headers`` by the array's name."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        self.headers: Mapping[str, ArrayHeader] = dict(self._read_headers())

    def read(self, key: str) -> NDArray[Any]:
        """An array; raises UserError where it holds Python objects or its bytes are damaged."""
        if self.headers[key].dtype.hasobject:
            raise UserError(f"{self._path}: '{key}' holds Python objects, which are never read; store plain values")
        with self._archive.open(self._member(key)) as stream:
            array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        return array

    def _member(self, key: str) -> str:
        names = self._archive.namelist()
        return key + _ENDING if key + _ENDING in names else key

    def _read_headers(self) -> Iterator[tuple[str, ArrayHeader]]:
        members = [member for member in self._archive.infolist() if not member.is_dir()]
        names = [member.filename.removesuffix(_ENDING) for member in members]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"{self._path}: '{twice}' stands twice; write the file again with numpy.savez")
        for member, name in zip(members, names, strict=True):
            with self._archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
                header, begins = ArrayHeader(shape, dtype), stream.tell()
            there = member.file_size - begins
            # The size of objects is that of a pickle, which no header tells.
            if min(shape, default=0) < 0 or (header.size_bytes != there and not dtype.hasobject):
                raise UserError(
                    f"{self._path}: '{name}' declares {_shape(shape)} of {dtype}, {header.size_bytes:,} bytes, and "
                    f"{there:,} are there; write the file again with numpy.savez"
                )
            yield name, header


@contextmanager
def open_arrays(path: Path) -> Iterator[ArrayFile]:
    """An npz file to read from; raises UserError where it is none, is damaged, or is larger than the memory at hand.

    Errors of reading inside the block are told in the same way.
    """
    require_regular_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("data.pkl") for name in archive.namelist()):
                raise UserError(f"{path}: a file of torch.save, not of numpy; write it with numpy.savez")
            file = ArrayFile(path, archive)
            require_memory(path, sum(header.size_bytes for header in file.headers.values()))
            yield file
    except MemoryError:
        raise UserError(f"{path}: larger than the memory at hand; write a smaller file") from None
    except _FAULTS as error:
        raise UserError(f"{path}: not a readable npz file ({error}); write it again with numpy.savez") from None


def require_memory(path: Path, size_bytes: int) -> None:
    """Raise UserError where what a file declares does not fit into the memory at hand."""
    import psutil

    available = psutil.virtual_memory().available
    if size_bytes > available:
        raise UserError(
            f"{path}: declares {size_bytes / 1e9:,.1f} GB, and {available / 1e9:,.1f} GB of memory are free; "
            "write a smaller file, or use a larger machine"
        )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one value"
