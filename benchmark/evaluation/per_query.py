"""Per-query results beside a record: ``per_query.npz``, plain arrays and no pickles.

For the result at index i of the record the archive holds

- ``i/ids`` (Q,): the queries' ids as text; ``i/group`` (Q,): queries that are not independent
  share a number; ``i/rank`` (Q,): rank of the best positive, from 1; ``i/subset_rank`` (Q,): the
  same among the subset's candidates, where there is one;
- where some query has several positives, ``i/positives`` (Q,): how many each has, and ``i/positive_rank`` (P,):
  the place of every one in the whole list, one query's after the other's; ``i/target_rank`` (Q,): that of the one which
  the text was written for, where one of them is;
- where queries are told apart by what they ask for, ``i/aspects`` (Q,): the names of each one's, with blanks between;
- where they were looked for, ``i/picture_rank``, ``i/text_rank`` (Q,): the rank that the reference picture alone, and
  the text alone, give on the same encoder; where a target is told as well, so that mAP is the main number, also
  ``i/picture_positive_rank``, ``i/text_positive_rank`` (P,), the places of all positives;
- of a method which puts a picture's word into a sentence, ``i/prompt_rank`` (Q,): the rank when the sentence is asked
  without it;
- ``i/top`` (Q, K): gallery indices of the best K pictures, best first, K = 50 or the gallery's
  size; -1 where fewer are ranked; ``i/gallery`` (G,): the names that the indices stand for. Both are left out in the
  book of results, which keeps what proves a record's numbers.

Notation: Q queries, P positives, K top results, G gallery pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.array_files import ArrayHeader, open_arrays
from benchmark.dataset import IntArray, Ragged
from benchmark.errors import UserError
from benchmark.files import atomic_path, file_digest

FILE_NAME = "per_query.npz"
TOP = 50
_COLUMNS = ("group", "rank", "subset_rank", "target_rank", "picture_rank", "text_rank", "prompt_rank")
"""One number a query; the first two are always there."""
_PLACES = ("positive_ranks", "picture_positive_ranks", "text_positive_ranks")
"""One number a positive; stored without the last letter."""


@dataclass(frozen=True)
class PerQuery:
    """Per-query results of one task; shapes as in the module's text. ``gallery`` is empty where ``top`` is None."""

    ids: tuple[str, ...]
    group: IntArray
    rank: IntArray
    top: IntArray | None = None
    gallery: tuple[str, ...] = ()
    subset_rank: IntArray | None = None
    positive_ranks: Ragged | None = None
    target_rank: IntArray | None = None
    aspects: tuple[tuple[str, ...], ...] | None = None
    picture_rank: IntArray | None = None
    text_rank: IntArray | None = None
    prompt_rank: IntArray | None = None
    picture_positive_ranks: Ragged | None = None
    text_positive_ranks: Ragged | None = None

    @property
    def queries(self) -> int:
        return len(self.ids)

    def without_lists(self) -> PerQuery:
        """The ranks alone."""
        return replace(self, top=None, gallery=())

    def take(self, index: IntArray) -> PerQuery:
        """The queries of these places, in that order."""
        taken: dict[str, Any] = {name: places.take(index) for name, places in self._places().items()}
        taken |= {name: array[index] for name in (*_COLUMNS, "top") if (array := getattr(self, name)) is not None}
        return replace(
            self,
            ids=tuple(self.ids[i] for i in index),
            aspects=None if self.aspects is None else tuple(self.aspects[i] for i in index),
            **taken,
        )

    def _places(self) -> dict[str, Ragged]:
        """The places of several positives, by the fields' names."""
        return {name: places for name in _PLACES if (places := getattr(self, name)) is not None}

    def check(self, where: str) -> None:
        """Raises ValueError where shapes or indices do not belong together."""
        shapes = {name: array.shape for name in _COLUMNS if (array := getattr(self, name)) is not None}
        shapes |= {name: places.sizes().shape for name, places in self._places().items()}
        if self.aspects is not None:
            shapes["aspects"] = (len(self.aspects),)
        for name, shape in shapes.items():
            if shape != (self.queries,):
                raise ValueError(f"{where}: {name} has shape {shape}, not ({self.queries},)")
        if self.top is None:
            return
        if self.top.ndim != 2 or len(self.top) != self.queries:
            raise ValueError(f"{where}: top has shape {self.top.shape}, not ({self.queries}, K)")
        if self.top.size and not (-1 <= self.top.min() and self.top.max() < len(self.gallery)):
            raise ValueError(f"{where}: top names pictures outside the gallery of {len(self.gallery)}")

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What is stored, in the smallest integers that hold it."""
        found: dict[str, NDArray[np.generic]] = {"ids": np.asarray(self.ids, dtype=np.str_)}
        found |= {name: _small(array) for name in _COLUMNS if (array := getattr(self, name)) is not None}
        if self.top is not None:
            found |= {"top": _small(self.top), "gallery": np.asarray(self.gallery, dtype=np.str_)}
        if self.positive_ranks is not None:
            found["positives"] = _small(self.positive_ranks.sizes())
            found |= {name.removesuffix("s"): _small(places.values) for name, places in self._places().items()}
        if self.aspects is not None:
            found["aspects"] = np.asarray([" ".join(names) for names in self.aspects], dtype=np.str_)
        return found


def _small(values: IntArray) -> NDArray[np.generic]:
    fits = values.size == 0 or (values.min() >= -(2**31) and values.max() < 2**31)
    return values.astype(np.int32 if fits else np.int64)


def write_per_query_file(path: Path, per_query: Mapping[int, PerQuery]) -> tuple[int, str]:
    """Write the archive atomically; gives its size in bytes and its sha256."""
    arrays = {f"{i}/{name}": a for i, results in per_query.items() for name, a in results.arrays().items()}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
    return path.stat().st_size, file_digest(path)


def read_per_query_file(
    path: Path, size: int, sha256: str, expected: Sequence[tuple[int, int]]
) -> dict[int, PerQuery]:
    """Read what `write_per_query_file` wrote; ``expected``: queries and gallery pictures of each result of the record.

    Raises UserError where the file is missing or another one, or where its headers declare arrays of other sizes,
    before anything of these is allocated.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing beside its record; copy it there, or run again")
    if path.stat().st_size != size or file_digest(path) != sha256:
        raise UserError(f"{path}: not the file that its record was written with; run again")
    found = {}
    with open_arrays(path) as archive:
        for key, header in archive.headers.items():
            index, _, name = key.partition("/")
            if not index.isdecimal() or int(index) >= len(expected) or not _fits(name, header, *expected[int(index)]):
                declared = f"{'x'.join(map(str, header.shape)) or 'one value'} of {header.dtype}"
                raise UserError(f"{path}: '{key}', {declared}, is nothing that its record has; run again")
        for number in sorted({int(key.partition("/")[0]) for key in archive.headers}):
            own = {k.partition("/")[2]: archive.read(k) for k in archive.headers if k.startswith(f"{number}/")}
            try:
                found[number] = _from_arrays(own)
                found[number].check(f"result {number}")
            except (KeyError, ValueError) as error:
                raise UserError(f"{path}: not a file of per-query results ({error}); run again") from None
    return found


_TEXT_BYTES = 4 * 4096
"""The longest id or name that is read."""


def _fits(name: str, header: ArrayHeader, queries: int, gallery: int) -> bool:
    """Whether an array is of a kind, shape and size that a result of so many queries and pictures can have."""
    shape, kind = header.shape, header.dtype.kind
    if name in ("ids", "gallery", "aspects"):
        length = gallery if name == "gallery" else queries
        return kind == "U" and shape == (length,) and header.dtype.itemsize <= _TEXT_BYTES
    if kind not in "iu":
        return False
    if name == "top":
        return len(shape) == 2 and shape[0] == queries and shape[1] <= TOP
    if f"{name}s" in _PLACES:
        return len(shape) == 1 and shape[0] <= queries * gallery
    return name in (*_COLUMNS, "positives") and shape == (queries,)


def _from_arrays(own: Mapping[str, NDArray[Any]]) -> PerQuery:
    """One result's arrays, by their names without its number."""
    numbers = {name: array.astype(np.int64) for name, array in own.items() if array.dtype.kind in "iu"}
    places: dict[str, Ragged] = {}
    if "positives" in numbers:
        sizes = numbers["positives"]
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
        for field in _PLACES[:1] + tuple(name for name in _PLACES[1:] if name.removesuffix("s") in numbers):
            values = numbers[field.removesuffix("s")]
            if sizes.min(initial=0) < 0 or sizes.sum() != len(values):
                raise ValueError(f"{len(values):,} places of {sizes.sum():,} positives")
            places[field] = Ragged(offsets, values)
    return PerQuery(
        ids=tuple(own["ids"].tolist()),
        gallery=tuple(own["gallery"].tolist()) if "gallery" in own else (),
        positive_ranks=places.get("positive_ranks"),
        picture_positive_ranks=places.get("picture_positive_ranks"),
        text_positive_ranks=places.get("text_positive_ranks"),
        aspects=tuple(tuple(names.split()) for names in own["aspects"].tolist()) if "aspects" in own else None,
        group=numbers["group"],
        rank=numbers["rank"],
        **{name: numbers[name] for name in ("top", *_COLUMNS[2:]) if name in numbers},
    )
