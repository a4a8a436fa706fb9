"""What a frozen backbone says of pictures and texts, computed once and kept on disk.

A feature is the encoder's raw output in float32, not normalised. The same bits come out however
the work is split over processes and runs and whatever was computed before: every forward pass has
one fixed shape (:mod:`benchmark.encoders.frozen_encoder`), a block is PICTURES_PER_BLOCK pictures of the list
in its order, each view of a block is encoded on its own, and a text's place in its pass is its own.

Folders: ``ENCODER-digest/`` holds the texts, and in it ``DATASET-LIST-digest/`` for each list of
pictures one file per view (:mod:`benchmark.features.block_file`). The digests cover everything that
changes a feature: weights, architecture, activation, precision, preprocessing, grids, and each picture's
name and content (:mod:`benchmark.features.picture_digests` says how far that is proved). A digest never
stands for two contents, so nothing served is out of date; the features of pictures that were replaced
since lie idle until somebody deletes their folder.

Notation: n pictures of a list, P patches (13), d width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmark.backbone import GLOBAL, Backbone
from benchmark.data.pictures import cores
from benchmark.dataset import IntArray, Pictures
from benchmark.distributed.job import Job
from benchmark.encoders.frozen_encoder import HALVES, FrozenEncoder, Precision
from benchmark.features.block_file import BlockFile, writing
from benchmark.features.computed import ComputedView, OpenedPictures
from benchmark.features.picture_digests import PictureDigests
from benchmark.features.picture_filling import PATCHES, PICTURES_PER_BLOCK, PictureFilling, Progress
from benchmark.features.room import GRIDS, bytes_needed, free_bytes, has_room, is_kept, view_output
from benchmark.features.text_features import TextFeatures, TextFile
from benchmark.files import atomic_write_json, digest_of, disk_bytes
from benchmark.progress import counting, say
from benchmark.settings import KeepFeatures

VIEWS = (GLOBAL, PATCHES)
"""What every backbone's pictures have; the other outputs of one are further views, by their names."""

_FORMAT, _HALF_FORMAT = 3, 4

Table = Tensor | ComputedView
"""Rows of a view: mapped from its file, or computed when they are asked for."""


class PictureFeatures:
    """Features of a list of pictures.

    ``views``: "global" (n, d), "patches" (n, P, d), float32, or another output of the backbone
    (n, *its shape) as its type, mapped from their files or computed as they are asked for; row i is the picture
    ``indices[i]``.
    """

    def __init__(self, views: Mapping[str, Table], indices: IntArray) -> None:
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
        description = backbone.description
        # The form that half precision is computed in changes last digits; what float32 gives is of every version.
        written = _HALF_FORMAT if precision in HALVES else _FORMAT
        self._key: dict[str, Any] = {
            "format": written,
            "weights": encoder_digest,
            "architecture": description.name,
            "width": description.width,
            "activation": description.activation,
            "context_length": description.context_length,
            "precision": precision,
            **({"compiled": True} if compiled else {}),
        }
        self.folder, self._earlier = (
            folder / f"{_readable(description.name)}-{digest_of({**self._key, 'format': form})[:16]}"
            for form in (written, written - 1)
        )
        self._workers = workers or cores()
        self._texts = TextFile(self.folder, description.width, precision)
        self._digests = PictureDigests(folder / "pictures.digests")

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
        tell = progress or _say_nothing
        folder, identity, digests = self._list(dataset_label, list_name, pictures, indices, tell)
        with ExitStack() as stack:
            files = {
                view: stack.enter_context(closing(self._file(folder, identity, view, len(indices), grids)))
                for view in views
            }
            for file in files.values():
                if damaged := file.check():
                    tell(0, len(indices), f"{file.path}: {damaged} blocks are damaged and are computed again")
            if not all(file.is_complete() for file in files.values()):
                self._begin(folder, tell, len(indices))
                filling = PictureFilling(self._encoder, files, paths, digests, grids, tell)
                filling.run(folder / "blocks.lock", self._workers, shard)
            return PictureFeatures({view: file.read() for view, file in files.items()}, indices)

    def computed(self, pictures: Pictures, indices: IntArray, views: tuple[str, ...], grids: tuple[int, ...]) -> (
        PictureFeatures
    ):
        """Features of these pictures that are encoded anew whenever they are asked for; nothing is kept."""
        opened = OpenedPictures([pictures.paths[i] for i in indices], self._workers)
        tables = {
            view: ComputedView(self._encoder, view, view_output(view, self._encoder.outputs, grids), opened, grids)
            for view in views
        }
        return PictureFeatures(tables, np.asarray(indices, dtype=np.int64))

    def fits(
        self,
        dataset_label: str,
        list_name: str,
        pictures: Pictures,
        indices: IntArray,
        views: tuple[str, ...],
        grids: tuple[int, ...] = GRIDS,
    ) -> bool:
        """Whether the disk of the cache has room for what is not there yet of these features."""
        needed = {view: bytes_needed(self._encoder.outputs, pictures=len(indices), views=(view,), grids=grids)
                  for view in views}  # fmt: skip
        if has_room(sum(needed.values()), free_bytes(self.folder)):
            return True
        # Names and contents of the pictures need be looked at only where it is close.
        folder, identity, _ = self._list(dataset_label, list_name, pictures, indices, _say_nothing)
        for view in views:
            with closing(self._file(folder, identity, view, len(indices), grids)) as file:
                if file.path.is_file():
                    # What is filled so far: the file has its whole length from the first block on.
                    needed[view] -= min(needed[view], disk_bytes(file.path))
        return has_room(sum(needed.values()), free_bytes(self.folder))

    def _list(
        self, dataset_label: str, list_name: str, pictures: Pictures, indices: IntArray, tell: Progress
    ) -> tuple[Path, str, list[str]]:
        """Folder and identity of a list of pictures, and the digest of each."""
        paths = [pictures.paths[i] for i in indices]
        digests = self._digests.of(paths, lambda line: tell(0, len(indices), line))
        identity = digest_of([[pictures.names[i], content] for i, content in zip(indices, digests, strict=True)])
        return self.folder / f"{_readable(dataset_label)}-{_readable(list_name)}-{identity[:16]}", identity, digests

    def texts(
        self, strings: Sequence[str], progress: Progress | None = None, shard: tuple[int, int] = (0, 1)
    ) -> TextFeatures:
        """Features of texts, by the exact string; the missing ones are computed and kept.

        Processes that ask for the same strings at once share the work by ``shard`` (rank, world
        size). Raises UserError for a full disk and for features that are not finite.
        """
        tell = progress or _say_nothing
        if missing := self._texts.missing(strings):
            self._begin(self.folder, tell, len(missing))
            self._texts.encode(missing, self._encoder.texts, tell, shard)
        return self._texts.serve()

    def _file(self, folder: Path, identity: str, view: str, rows: int, grids: tuple[int, ...]) -> BlockFile:
        preprocessing, kept = self._encoder.backbone.preprocessing, view_output(view, self._encoder.outputs, grids)
        key = {
            **self._key,
            "view": view,
            "preprocessing": preprocessing.patch_key(grids) if view == PATCHES else preprocessing.key(),
            "pictures": identity,
        }
        name = "-".join([view, *map(str, grids)]) if view == PATCHES else view
        path = folder / f"{_readable(name)}-{digest_of(key)[:12]}.safetensors"
        return BlockFile(path, (rows, *kept.shape), kept.dtype, PICTURES_PER_BLOCK, key)

    def _begin(self, folder: Path, tell: Progress, total: int) -> None:
        """Make the folder, with a note for people of what it holds (nothing reads it), before the first feature."""
        if (self._earlier / "encoder.json").is_file() and not self.folder.exists():
            tell(0, total, f"{self._earlier}: in an earlier version's form, and not read; delete it to free its space")
        path = self.folder / "encoder.json"
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                atomic_write_json(path, self._key)


class LabelledPictures(Protocol):
    """A dataset, or another list of pictures with a name."""

    @property
    def label(self) -> str: ...

    @property
    def pictures(self) -> Pictures: ...


class SharedStore:
    """A store as the ranks of a job fill it; every rank must fill the same things in the same order.

    Ranks that see the same cache folder share its blocks and texts between them; where nodes have
    folders of their own, each node's ranks fill theirs. Filling takes unknown time, so that all ranks
    meet behind it.
    """

    def __init__(self, store: FeatureStore, job: Job) -> None:
        self._store, self._job = store, job

    def pictures(
        self,
        dataset: LabelledPictures,
        split: str,
        indices: IntArray,
        views: tuple[str, ...],
        grids: tuple[int, ...],
        keep: KeepFeatures = "as fits",
    ) -> PictureFeatures:
        """Features of these pictures of a split, complete on every rank, or computed as they are asked for.

        ``keep``: whether they go to the disk.
        """
        phase = f"features of {split}"
        kept = is_kept(keep, lambda: self._store.fits(dataset.label, split, dataset.pictures, indices, views, grids))
        if not all(self._job.barrier.share(f"room for {phase}", kept)):
            if keep != "never":
                say(f"{phase}: do not fit on the disk of {self._store.folder}, and are computed as they are needed")
            return self._store.computed(dataset.pictures, indices, views, grids)
        with counting(phase, len(indices)) as progress:
            features = self._store.pictures(
                dataset.label, split, dataset.pictures, indices, views, grids, progress, self._job.cache.shard
            )
        self._job.barrier.wait(phase)
        return features

    def fill_texts(self, strings: Sequence[str]) -> TextFeatures:
        """Features of these texts, complete on every rank."""
        with counting("features of texts", len(strings)) as progress:
            features = self._store.texts(strings, progress, self._job.cache.shard)
        self._job.barrier.wait("features of texts")
        return features

    def texts(self, strings: Sequence[str]) -> TextFeatures:
        """Features of texts that were filled before; ranks may ask for different ones."""
        return self._store.texts(strings)


def _readable(name: str) -> str:
    """A name as part of a folder's name; digests tell apart what this makes equal."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._") or "unnamed"


def _say_nothing(done: int, total: int, note: str) -> None:
    """Progress that nobody asked for."""
