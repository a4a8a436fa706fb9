"""Per-query results beside a record: ``per_query.npz``, plain arrays and no pickles.

For the result at index i of the record the archive holds

- ``i/ids`` (Q,): the queries' ids as text; ``i/group`` (Q,): queries that are not independent
  share a number; ``i/rank`` (Q,): rank of the best positive, from 1; ``i/subset_rank`` (Q,): the
  same among the subset's candidates, where there is one;
- where some query has several positives, ``i/positives`` (Q,): how many each has, and ``i/positive_rank`` (P,):
  the place of every one in the whole list, one query's after the other's;
- ``i/top`` (Q, K): gallery indices of the best K pictures, best first, K = 50 or the gallery's
  size; -1 where fewer are ranked; ``i/gallery`` (G,): the names that the indices stand for. Both are left out in the
  book of results, which keeps what proves a record's numbers.

Notation: Q queries, P positives, K top results, G gallery pictures.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.dataset import IntArray, Ragged
from benchmark.errors import UserError
from benchmark.files import atomic_path, file_digest

FILE_NAME = "per_query.npz"
TOP = 50


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

    @property
    def queries(self) -> int:
        return len(self.ids)

    def without_lists(self) -> PerQuery:
        """The ranks alone."""
        return replace(self, top=None, gallery=())

    def check(self, where: str) -> None:
        """Raises ValueError where shapes or indices do not belong together."""
        shapes = {"group": self.group.shape, "rank": self.rank.shape}
        if self.subset_rank is not None:
            shapes["subset_rank"] = self.subset_rank.shape
        if self.positive_ranks is not None:
            shapes["positives"] = self.positive_ranks.sizes().shape
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
        found: dict[str, NDArray[np.generic]] = {
            "ids": np.asarray(self.ids, dtype=np.str_), "group": _small(self.group), "rank": _small(self.rank)
        }  # fmt: skip
        if self.top is not None:
            found |= {"top": _small(self.top), "gallery": np.asarray(self.gallery, dtype=np.str_)}
        if self.subset_rank is not None:
            found["subset_rank"] = _small(self.subset_rank)
        if self.positive_ranks is not None:
            found["positives"] = _small(self.positive_ranks.sizes())
            found["positive_rank"] = _small(self.positive_ranks.values)
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


def read_per_query_file(path: Path, size: int, sha256: str) -> dict[int, PerQuery]:
    """Read what `write_per_query_file` wrote; raises UserError where it is missing or another file."""
    if not path.is_file():
        raise UserError(f"{path}: missing beside its record; copy it there, or run again")
    if path.stat().st_size != size or file_digest(path) != sha256:
        raise UserError(f"{path}: not the file that its record was written with; run again")
    try:
        with np.load(path, allow_pickle=False) as archive:
            indices = sorted({int(name.split("/")[0]) for name in archive.files})
            return {i: _from_archive(archive, i) for i in indices}
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a file of per-query results ({error}); run again") from None


def _from_archive(archive: Mapping[str, NDArray[np.generic]], index: int) -> PerQuery:
    def numbers(name: str) -> IntArray | None:
        return archive[f"{index}/{name}"].astype(np.int64) if f"{index}/{name}" in archive else None

    positive_ranks = None
    sizes, values = numbers("positives"), numbers("positive_rank")
    if sizes is not None and values is not None:
        if sizes.ndim != 1 or sizes.min(initial=0) < 0 or values.shape != (sizes.sum(),):
            raise ValueError(f"result {index}: positive_rank has shape {values.shape}, positives count {sizes.sum()}")
        positive_ranks = Ragged(np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)]), values)
    results = PerQuery(
        ids=tuple(archive[f"{index}/ids"].tolist()),
        group=archive[f"{index}/group"].astype(np.int64),
        rank=archive[f"{index}/rank"].astype(np.int64),
        top=numbers("top"),
        gallery=tuple(archive[f"{index}/gallery"].tolist()) if f"{index}/gallery" in archive else (),
        subset_rank=numbers("subset_rank"),
        positive_ranks=positive_ranks,
    )
    results.check(f"result {index}")
    return results
