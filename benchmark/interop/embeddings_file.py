"""Files of embeddings from outside: what they hold, read and checked on its own.

Four entries: ``queries`` (Q, d) and ``gallery`` (G, d) of any floating type, ``query_ids`` (Q,) and
``gallery_ids`` (G,). Any of them may stand under a category, ``dress/queries``, where categories
were embedded separately; one without a category serves all. In npz the ids are arrays of text or
whole numbers. Safetensors holds no text: there the ids are JSON lists under the same names in the
file's metadata, or in a JSON object in the file ``<name>.ids.json`` beside it.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.data.annotations import Problems
from benchmark.errors import UserError, first_of, unknown_name
from benchmark.files import file_digest
from benchmark.structured_files import NotWellFormed, parse_json, read_json

QUERIES, GALLERY = "queries", "gallery"
_IDS_OF = {QUERIES: "query_ids", GALLERY: "gallery_ids"}
_ENTRIES = (*_IDS_OF, *_IDS_OF.values())


@dataclass(frozen=True)
class Embeddings:
    """One matrix of a file: ``values`` (n, d) float32, and the id of each row."""

    key: str
    values: Tensor
    ids: tuple[str, ...]


@dataclass(frozen=True)
class EmbeddingsFile:
    """``matrices`` by entry ("queries", "dress/gallery"); ``digests`` of the files read, by name."""

    path: Path
    matrices: Mapping[str, Embeddings]
    digests: Mapping[str, str]

    def serving(self, entry: str, category: str) -> Embeddings | None:
        """The category's own matrix, or the one for all."""
        return self.matrices.get(f"{category}/{entry}") or self.matrices.get(entry)


@dataclass(frozen=True)
class _Content:
    """A file as it stands: matrices of any type and id lists, by entry; ``side`` is the file of ids."""

    matrices: Mapping[str, Tensor]
    ids: Mapping[str, list[str]]
    side: Path | None = None


def read_embeddings(path: Path) -> EmbeddingsFile:
    """Read a file and check each matrix: type, shape, finite values, one id per row, none twice.

    Raises UserError with all problems of the file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of embeddings")
    problems = Problems("the README says what a file of embeddings holds")
    with path.open("rb") as stream:
        is_npz = stream.read(2) == b"PK"
    content = _read_npz(path, problems) if is_npz else _read_safetensors(path, problems)
    matrices = {}
    for key, values in content.matrices.items():
        if (matrix := _checked(path, key, values, content.ids, problems)) is not None:
            matrices[key] = matrix
    for key in content.ids:
        if _matrix_of(key) not in content.matrices:
            problems.add(path, f"'{key}' stands without '{_matrix_of(key)}'")
    problems.raise_all()
    files = [path] if content.side is None else [path, content.side]
    return EmbeddingsFile(path, matrices, {file.name: file_digest(file) for file in files})


def _base(key: str) -> str:
    return key.rpartition("/")[2]


def _ids_of(key: str) -> str:
    return key[: len(key) - len(_base(key))] + _IDS_OF[_base(key)]


def _matrix_of(key: str) -> str:
    return key[: len(key) - len(_base(key))] + next(m for m, ids in _IDS_OF.items() if ids == _base(key))


def _read_npz(path: Path, problems: Problems) -> _Content:
    matrices: dict[str, Tensor] = {}
    ids: dict[str, list[str]] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                if _base(key) in _IDS_OF:
                    if (matrix := _tensor(path, key, archive[key], problems)) is not None:
                        matrices[key] = matrix
                elif _base(key) in _ENTRIES:
                    ids[key] = _texts(path, key, _readable_ids(archive, key), problems)
                else:
                    problems.add(path, str(unknown_name("array", key, _ENTRIES)))
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a readable npz file ({error}); write it again with numpy.savez") from None
    return _Content(matrices, ids)


def _readable_ids(archive: Mapping[str, Any], key: str) -> Any:
    """The array of ids; None where it holds Python objects, which are never unpickled."""
    try:
        return archive[key]
    except ValueError:
        return None


def _tensor(path: Path, key: str, values: Any, problems: Problems) -> Tensor | None:
    if values.dtype.kind != "f":
        problems.add(path, f"'{key}' has type {values.dtype}, not a floating one; store float16, float32 or float64")
        return None
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _texts(path: Path, key: str, values: Any, problems: Problems) -> list[str]:
    """Ids as text from an array of text, bytes or whole numbers, or from a JSON list."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "S":
            values = np.char.decode(values, "utf-8")
        values = values.tolist() if values.ndim == 1 and values.dtype.kind in "Uiu" else None
    good = isinstance(values, list) and all(type(value) in (str, int) for value in values)
    if not good:
        problems.add(path, f"'{key}' is no list of texts or whole numbers; write np.array([...]) of them, or JSON")
    return [str(value) for value in values] if good else []


def _read_safetensors(path: Path, problems: Problems) -> _Content:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: neither an npz nor a safetensors file ({error}); write it again") from None
    matrices = {}
    for key, tensor in tensors.items():
        if _base(key) not in _IDS_OF:
            hint = "ids belong into the metadata" if _base(key) in _ENTRIES else f"known: {', '.join(_IDS_OF)}"
            problems.add(path, f"unknown tensor '{key}'; {hint}")
        elif not tensor.is_floating_point():
            problems.add(path, f"'{key}' has type {tensor.dtype}, not a floating one; store float16 or float32")
        else:
            matrices[key] = tensor.float()
    side = path.with_name(f"{path.name}.ids.json")
    ids = dict(_metadata_ids(path, metadata, problems))
    if not side.is_file():
        return _Content(matrices, ids)
    if ids:
        problems.add(path, f"ids stand in its metadata and in {side.name}; keep one of them")
    return _Content(matrices, dict(_side_ids(side, problems)), side)


def _metadata_ids(path: Path, metadata: Mapping[str, str], problems: Problems) -> Iterator[tuple[str, list[str]]]:
    for key, text in metadata.items():
        if _base(key) not in _IDS_OF.values():
            continue
        try:
            values = parse_json(text)
        except NotWellFormed:
            values = None
        yield key, _texts(path, key, values, problems)


def _side_ids(side: Path, problems: Problems) -> Iterator[tuple[str, list[str]]]:
    content = read_json(side)
    if not isinstance(content, dict):
        raise UserError(f"{side}: must be a JSON object with the lists {' and '.join(_IDS_OF.values())}")
    for key, values in content.items():
        if _base(key) in _IDS_OF.values():
            yield key, _texts(side, key, values, problems)
        else:
            problems.add(side, str(unknown_name("list", key, _IDS_OF.values())))


def _checked(
    path: Path, key: str, values: Tensor, all_ids: Mapping[str, list[str]], problems: Problems
) -> Embeddings | None:
    """A matrix with its ids, or None where it has neither the shape nor the ids to check it further."""
    if values.ndim != 2 or 0 in values.shape:
        problems.add(path, f"'{key}' has shape {tuple(values.shape)}, not (rows, width) with at least one of each")
        return None
    ids = all_ids.get(_ids_of(key))
    if ids is None:
        problems.add(path, f"'{key}' has no '{_ids_of(key)}': one id per row")
        return None
    if len(ids) != len(values):
        problems.add(path, f"'{key}' has {len(values):,} rows and '{_ids_of(key)}' {len(ids):,} ids")
        return None
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        problems.add(path, f"'{_ids_of(key)}' names {len(twice):,} ids more than once: {first_of(twice)}")
    bad = torch.nonzero(~torch.isfinite(values).all(dim=1))[:, 0].tolist()
    if bad:
        named = first_of([ids[row] for row in bad])
        problems.add(path, f"'{key}' has {len(bad):,} rows that are not finite in float32, of the ids {named}")
    return Embeddings(key, values, tuple(ids))
