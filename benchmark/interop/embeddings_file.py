"""Files of embeddings from outside: what they hold, read and checked on its own.

Four entries: ``queries`` (Q, d) and ``gallery`` (G, d) of any floating type, ``query_ids`` (Q,) and
``gallery_ids`` (G,). Any of them may stand under a category, ``dress/queries``, where categories
were embedded separately; one without a category serves all. In npz the ids are arrays of text or
whole numbers. Safetensors holds no text: there the ids are JSON lists under the same names in the
file's metadata, or in a JSON object in the file ``<name>.ids.json`` beside it.

``queries_digest``, as `data export-queries` gives it in every line, says which queries were embedded:
a single text in npz, an entry of the metadata in safetensors. It may be left out; then nothing is claimed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.array_files import open_arrays, require_memory
from benchmark.data.annotations import Problems
from benchmark.errors import UserError, first_of, unknown_name
from benchmark.files import file_digest, require_regular_file
from benchmark.progress import say
from benchmark.structured_files import NotWellFormed, parse_json, read_json

QUERIES, GALLERY, DIGEST = "queries", "gallery", "queries_digest"
_IDS_OF = {QUERIES: "query_ids", GALLERY: "gallery_ids"}
_ENTRIES = (*_IDS_OF, *_IDS_OF.values())
_KNOWN = (*_ENTRIES, DIGEST)
_LONG_BYTES = 1 << 29
"""From this size on, what takes its time is told before it begins."""


@dataclass(frozen=True)
class Embeddings:
    """One matrix of a file: ``values`` (n, d) float32, the id of each row, and the type that is stored."""

    key: str
    values: Tensor
    ids: tuple[str, ...]
    dtype: str


@dataclass(frozen=True)
class EmbeddingsFile:
    """``matrices`` by entry ("queries", "dress/gallery"); ``digests`` of the files read, by name.

    ``queries_digest``: of the queries that were embedded, "" where the file does not say.
    """

    path: Path
    matrices: Mapping[str, Embeddings]
    digests: Mapping[str, str]
    queries_digest: str = ""

    def serving(self, entry: str, category: str) -> Embeddings | None:
        """The category's own matrix, or the one for all."""
        return self.matrices.get(f"{category}/{entry}") or self.matrices.get(entry)


@dataclass
class _Content:
    """A file as it stands: matrices in float32 and the types they had, id lists (None: told as faulty);
    ``side``: the file of ids."""

    matrices: dict[str, Tensor] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    ids: dict[str, list[str] | None] = field(default_factory=dict)
    queries_digest: str = ""
    side: Path | None = None


def read_embeddings(path: Path) -> EmbeddingsFile:
    """Read a file and check each matrix: type, shape, finite values, one id per row, none twice.

    Raises UserError with all problems of the file. Types and shapes are checked before anything is loaded.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file of embeddings")
    require_regular_file(path)
    announce(path, "reading")
    problems = Problems("the README says what a file of embeddings holds")
    with path.open("rb") as stream:
        head = stream.read(6)
    if head == b"\x93NUMPY":
        raise UserError(f"{path}: one array alone; put {', '.join(_ENTRIES)} into one file with numpy.savez")
    if head[:1] == b"\x80":
        raise UserError(f"{path}: a pickle (torch.save writes such files), never read; write it with numpy.savez")
    content = (_read_npz if head[:2] == b"PK" else _read_safetensors)(path, problems)
    matrices = {}
    for key, values in content.matrices.items():
        if (ids := _checked_ids(path, key, values, content.ids, problems)) is not None:
            matrices[key] = Embeddings(key, values, ids, content.dtypes[key])
    for key in content.ids:
        if _matrix_of(key) not in content.dtypes:
            problems.add(path, f"'{key}' stands without '{_matrix_of(key)}'")
    problems.raise_all()
    files = [path] if content.side is None else [path, content.side]
    return EmbeddingsFile(path, matrices, {file.name: file_digest(file) for file in files}, content.queries_digest)


def announce(path: Path, work: str) -> None:
    """Say what is done with a large file, since it takes a while."""
    size = path.stat().st_size
    if size >= _LONG_BYTES:
        say(f"{path.name}: {work} {size / 1e9:,.1f} GB")


def _base(key: str) -> str:
    return key.rpartition("/")[2]


def _ids_of(key: str) -> str:
    return key[: len(key) - len(_base(key))] + _IDS_OF[_base(key)]


def _matrix_of(key: str) -> str:
    return key[: len(key) - len(_base(key))] + next(m for m, ids in _IDS_OF.items() if ids == _base(key))


def _fault(key: str, dtype: str, shape: tuple[int, ...]) -> str | None:
    """What is wrong with a matrix by its type and shape, in words."""
    if "complex" in dtype:
        return (
            f"'{key}' has type {dtype}, not a floating one; store real and imaginary parts side by side, whose dot "
            "product is the real part of the complex one"
        )
    if not dtype.removeprefix("torch.").startswith(("float", "bfloat16")):
        scaled = "; scale quantised ones back first" if "int" in dtype.lower() else ""
        return f"'{key}' has type {dtype}, not a floating one; store float16, float32 or float64{scaled}"
    if len(shape) > 2:
        return (
            f"'{key}' has shape {shape}: several vectors a row; the score here is one dot product, so pool them, "
            "or rank with a score of your own and give the lists with --rankings"
        )
    if len(shape) != 2 or 0 in shape:
        return f"'{key}' has shape {shape}, not (rows, width) with at least one of each"
    return None


def _tell_unknown(path: Path, kind: str, keys: list[str], problems: Problems) -> None:
    """One line, however many there are."""
    if len(keys) == 1:
        problems.add(path, str(unknown_name(kind, keys[0], _KNOWN)))
    elif keys:
        problems.add(path, f"{len(keys):,} unknown {kind}s: {first_of(keys)}; known: {', '.join(_KNOWN)}")


def _read_npz(path: Path, problems: Problems) -> _Content:
    content = _Content()
    with open_arrays(path) as file:
        _tell_unknown(path, "array", [k for k in file.headers if k != DIGEST and _base(k) not in _ENTRIES], problems)
        for key, header in file.headers.items():
            if _base(key) in _IDS_OF:
                content.dtypes[key] = str(header.dtype)
                if fault := _fault(key, header.dtype.name, header.shape):
                    problems.add(path, fault)
                    continue
                with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is told as such
                    content.matrices[key] = torch.from_numpy(np.ascontiguousarray(file.read(key), dtype=np.float32))
            elif _base(key) in _IDS_OF.values():
                if header.dtype.kind in "USiu" and len(header.shape) == 1:
                    content.ids[key] = _texts(path, key, file.read(key), problems)
                else:
                    content.ids[key] = None
                    asked = ".astype(int).astype(str)" if header.dtype.kind == "f" else ".astype(str)"
                    problems.add(
                        path,
                        f"'{key}' is no list of texts or whole numbers but of type {header.dtype} and shape "
                        f"{header.shape}; store numpy.asarray(ids){asked}",
                    )
            elif key == DIGEST and header.dtype.kind == "U" and header.size_bytes < 1000:
                content.queries_digest = "".join(map(str, file.read(key).reshape(-1)[:1]))
            elif key == DIGEST:
                problems.add(path, f"'{DIGEST}' is no text; store the one of the exported queries' lines")
    return content


def _texts(path: Path, key: str, values: Any, problems: Problems) -> list[str] | None:
    """Ids as text from an array of text, bytes or whole numbers, or from a JSON list; None where they are told."""
    if isinstance(values, np.ndarray):
        try:
            values = (np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values).tolist()
        except UnicodeDecodeError:
            values = None
    good = isinstance(values, list) and all(type(value) in (str, int) for value in values)
    if not good:
        problems.add(path, f"'{key}' is no list of texts or whole numbers; write np.array([...]) of them, or JSON")
    return [str(value) for value in values] if good else None


def _read_safetensors(path: Path, problems: Problems) -> _Content:
    from safetensors import SafetensorError, safe_open

    content = _Content()
    require_memory(path, path.stat().st_size)
    try:
        with safe_open(path, framework="pt") as stream:
            metadata: Mapping[str, str] = stream.metadata() or {}
            keys = list(stream.keys())
            for key in (key for key in keys if _base(key) in _IDS_OF):
                view = stream.get_slice(key)
                shape = tuple(view.get_shape())
                dtype = (view[:0] if shape else stream.get_tensor(key)).dtype
                content.dtypes[key] = str(dtype).removeprefix("torch.")
                if fault := _fault(key, str(dtype), shape):
                    problems.add(path, fault)
                else:
                    content.matrices[key] = stream.get_tensor(key).float()
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: neither an npz nor a safetensors file ({error}); write it again with numpy.savez"
        ) from None
    for key in (key for key in keys if key == DIGEST or _base(key) in _IDS_OF.values()):
        problems.add(path, f"unknown tensor '{key}'; ids belong into the metadata, and so does '{DIGEST}'")
    _tell_unknown(path, "tensor", [k for k in keys if k != DIGEST and _base(k) not in _ENTRIES], problems)
    content.queries_digest = metadata.get(DIGEST, "")
    content.ids = dict(_metadata_ids(path, metadata, problems))
    side = path.with_name(f"{path.name}.ids.json")
    if side.is_file():
        if content.ids:
            problems.add(path, f"ids stand in its metadata and in {side.name}; keep one of them")
        content.ids, content.side = dict(_side_ids(side, problems)), side
    return content


_Ids = Iterator[tuple[str, list[str] | None]]


def _metadata_ids(path: Path, metadata: Mapping[str, str], problems: Problems) -> _Ids:
    for key, text in metadata.items():
        if _base(key) not in _IDS_OF.values():
            continue
        try:
            values = parse_json(text)
        except NotWellFormed:
            values = None
        yield key, _texts(path, key, values, problems)


def _side_ids(side: Path, problems: Problems) -> _Ids:
    content = read_json(side)
    if not isinstance(content, dict):
        raise UserError(f"{side}: must be a JSON object with the lists {' and '.join(_IDS_OF.values())}")
    for key, values in content.items():
        if _base(key) in _IDS_OF.values():
            yield key, _texts(side, key, values, problems)
        else:
            problems.add(side, str(unknown_name("list", key, _IDS_OF.values())))


def _checked_ids(
    path: Path, key: str, values: Tensor, all_ids: Mapping[str, list[str] | None], problems: Problems
) -> tuple[str, ...] | None:
    """The ids of a matrix's rows, or None where there are none to check it further."""
    if _ids_of(key) not in all_ids:
        problems.add(path, f"'{key}' has no '{_ids_of(key)}': one id per row")
    ids = all_ids.get(_ids_of(key))
    if ids is None:
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
    return tuple(ids)
