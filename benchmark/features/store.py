"""What a frozen backbone says of pictures and texts, computed once and kept on disk.

A feature is the encoder's raw output in float32, not normalised. The same bits come out however
the work is split over processes and runs and whatever was computed before: every forward pass has
one fixed shape (:mod:`benchmark.encoders.frozen_encoder`), a block is PICTURES_PER_BLOCK pictures of the list
in its order, each view of a block is encoded on its own, and a text's place in its pass is its own.

Folders: ``ENCODER-digest/`` holds the texts, and in it ``DATASET-LIST-digest/`` for each list of
pictures one file of rows per view. The digests cover everything that changes a feature: weights,
architecture, activation, precision, preprocessing, grids, and each picture's name, size and time of
change. A digest never stands for two contents, so nothing served is out of date; the features of
pictures that were replaced since lie idle until somebody deletes their folder.

Notation: n pictures of a list, P patches (13), d width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.backbone import Backbone
from benchmark.data.pixels import cores
from benchmark.dataset import IntArray, Pictures
from benchmark.encoders.frozen_encoder import FrozenEncoder, Precision
from benchmark.errors import UserError, unknown_name
from benchmark.features.block_file import BlockFile, BlockShape, writing
from benchmark.features.picture_filling import PICTURES_PER_BLOCK, PictureFilling, Progress
from benchmark.features.text_features import TextFeatures, TextFile
from benchmark.files import atomic_write_json, digest_of

VIEWS = ("global", "patches")
GRIDS = (2, 3)
_FORMAT = 1
_STAT_THREADS = 16
_SHOWN_PROBLEMS = 20


class PictureFeatures:
    """Features of a list of pictures.

    ``views``: "global" (n, d), "patches" (n, P, d), float32, mapped from their files; row i is the
    picture ``indices[i]``.
    """

    def __init__(self, views: dict[str, Tensor], indices: IntArray) -> None:
        self.views = views
        self.indices = indices
        self._row_of = np.full(int(indices.max(initial=-1)) + 2, -1, dtype=np.int64)
        self._row_of[indices] = np.arange(len(indices))

    def rows(self, picture_indices: IntArray) -> Tensor:
        """Row of each picture, int64, of the same shape. Raises ValueError for one not in the list."""
        wanted = np.asarray(picture_indices, dtype=np.int64)
        rows = self._row_of[np.clip(wanted, -1, len(self._row_of) - 1)]
        if (rows < 0).any():
            raise ValueError(f"picture {int(wanted[rows < 0][0])} is not in this list of features")
        return torch.from_numpy(rows)


def bytes_needed(
    width: int,
    *,
    pictures: int = 0,
    texts: int = 0,
    views: Sequence[str] = ("global",),
    grids: tuple[int, ...] = GRIDS,
) -> int:
    """Bytes on disk of the features of so many pictures and texts of an encoder of this width."""
    rows = sum(_rows_per_picture(view, grids) for view in views)
    return 4 * width * (pictures * rows + texts)


class FeatureStore:
    """Features of one encoder under a cache folder.

    ``backbone`` must be on ``device``; it is used without gradients in evaluation mode, and its
    modules' modes are put back after each use. ``encoder_digest`` stands for its weights.
    ``precision`` is that of the forward pass, ``compiled`` whether torch.compile makes it; see
    :class:`benchmark.encoders.frozen_encoder.FrozenEncoder`.
    ``workers``: threads that decode pictures; 0: one per core.

    Memory: the pixels of two blocks (14 views of 64 pictures: 220 MB at 288 pixels) and one pass.
    """

    def __init__(
        self,
        folder: Path,
        backbone: Backbone,
        *,
        encoder_digest: str,
        device: torch.device,
        precision: Precision = "fp32",
        compiled: bool = False,
        workers: int = 0,
    ) -> None:
        self._encoder = FrozenEncoder(backbone, device, precision, compiled)
        self._key: dict[str, Any] = {
            "format": _FORMAT,
            "weights": encoder_digest,
            "architecture": backbone.description.name,
            "width": backbone.description.width,
            "activation": backbone.description.activation,
            "context_length": backbone.description.context_length,
            "precision": precision,
            **({"compiled": True} if compiled else {}),
        }
        self.folder = folder / f"{_readable(backbone.description.name)}-{digest_of(self._key)[:16]}"
        self._workers = workers or cores()
        self._texts = TextFile(self.folder, backbone.description.width)

    def pictures(
        self,
        dataset_label: str,
        list_name: str,
        pictures: Pictures,
        indices: IntArray,
        views: tuple[str, ...],
        grids: tuple[int, ...] = GRIDS,
        progress: Progress | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> PictureFeatures:
        """Features of the pictures ``indices`` (n,); what is not on disk yet is computed.

        Any number of processes may ask for the same list at once: they share the blocks between
        them, each beginning with its own by ``shard`` (rank, world size), and each returns when all
        blocks are done. A finished list takes no lock and needs no right to write.

        Raises UserError for pictures that are missing or cannot be read (naming the file), for a
        full disk, and for features that are not finite; what was done until then is kept.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if len(np.unique(indices)) != len(indices):
            raise ValueError(f"the list {list_name} of {dataset_label} names a picture twice")
        paths = [pictures.paths[i] for i in indices]
        identity = _identity([pictures.names[i] for i in indices], paths)
        folder = self.folder / f"{_readable(dataset_label)}-{_readable(list_name)}-{identity[:16]}"
        files = {view: self._file(folder, identity, view, len(indices), grids) for view in views}
        tell = progress or _say_nothing
        for file in files.values():
            if damaged := file.check():
                tell(0, len(indices), f"{file.path}: {damaged} blocks are damaged and are computed again")
        if not all(file.is_complete() for file in files.values()):
            self._describe()
            filling = PictureFilling(self._encoder, files, paths, grids, tell)
            filling.run(folder / "blocks.lock", self._workers, shard)
        return PictureFeatures({view: file.read() for view, file in files.items()}, indices)

    def texts(
        self, strings: Sequence[str], progress: Progress | None = None, shard: tuple[int, int] = (0, 1)
    ) -> TextFeatures:
        """Features of texts, by the exact string; the missing ones are computed and kept.

        Processes that ask for the same strings at once share the work by ``shard`` (rank, world
        size). Raises UserError for a full disk and for features that are not finite.
        """
        tell = progress or _say_nothing
        self._describe()
        return self._texts.ensure(
            strings, self._encoder.texts, lambda done, total: tell(done, total, ""), shard
        )

    def _file(self, folder: Path, identity: str, view: str, rows: int, grids: tuple[int, ...]) -> BlockFile:
        preprocessing = self._encoder.backbone.preprocessing
        key = {
            **self._key,
            "view": view,
            "preprocessing": preprocessing.key() if view == "global" else preprocessing.patch_key(grids),
            "pictures": identity,
        }
        per_picture = _rows_per_picture(view, grids)
        row_shape = (self._encoder.width,) if view == "global" else (per_picture, self._encoder.width)
        name = view if view == "global" else "-".join([view, *map(str, grids)])
        shape = BlockShape(rows, row_shape, PICTURES_PER_BLOCK)
        return BlockFile(folder / f"{name}-{digest_of(key)[:12]}", shape, key)

    def _describe(self) -> None:
        """Leave a note for people of what the folder holds; nothing reads it."""
        path = self.folder / "encoder.json"
        if not path.exists():
            with writing(path):
                atomic_write_json(path, self._key)


def _rows_per_picture(view: str, grids: tuple[int, ...]) -> int:
    if view not in VIEWS:
        raise unknown_name("view", view, VIEWS)
    return 1 if view == "global" else sum(grid * grid for grid in grids)


def _identity(names: Sequence[str], paths: Sequence[Path]) -> str:
    """Digest of a list of pictures: every name with its file's size and time of change.

    Raises UserError naming the files that are missing.
    """
    size = max(-(-len(paths) // _STAT_THREADS), 1)
    parts = [paths[start : start + size] for start in range(0, len(paths), size)]
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        stamps = [stamp for part in pool.map(_stamps, parts) for stamp in part]
    missing = [str(path) for path, stamp in zip(paths, stamps, strict=True) if stamp is None]
    if missing:
        problems = [f"{path}: no such picture" for path in missing[:_SHOWN_PROBLEMS]]
        rest = len(missing) - len(problems)
        more = [f"and {rest} more pictures are missing"] if rest else []
        raise UserError.collect([*problems, *more, "check the data folder, or get the pictures again"])
    return digest_of([[name, *stamp] for name, stamp in zip(names, stamps, strict=True) if stamp])


def _stamps(paths: Sequence[Path]) -> list[tuple[int, int] | None]:
    return [_stamp(path) for path in paths]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _readable(name: str) -> str:
    """A name as part of a folder's name; digests tell apart what this makes equal."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._") or "unnamed"


def _say_nothing(done: int, total: int, note: str) -> None:
    """Progress that nobody asked for."""
