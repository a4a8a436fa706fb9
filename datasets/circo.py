"""CIRCO (Composed Image Retrieval on Common Objects in context): several right answers in a large gallery.

Source: A. Baldrati, L. Agnolucci, M. Bertini, A. Del Bimbo, "Zero-Shot Composed Image Retrieval with Textual
Inversion", ICCV 2023. Pictures are those of COCO's unlabelled set. All of them are ranked, the reference too, which is
never right (`official`); some code takes it out (`official-noref`). mAP@k counts all positives, R_target@k the one
picture that the text was written for. There are no training triplets. The labels of `test` are hidden: it is ranked for
the official server, not scored here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.data.annotated import (
    AnnotatedDataset,
    Manifest,
    advice,
    manifest_path,
    read_manifest,
    require_known,
    whole_splits,
)
from benchmark.data.annotations import Problems
from benchmark.data.folders import PictureFolder
from benchmark.data.protocols import fitting_rule
from benchmark.dataset import Captions, IntArray, Pictures, ProtocolInfo, Queries, Task, TaskKey, Triplets
from benchmark.errors import UserError
from benchmark.facts_file import dataset_info

from .readers.circo import LAYOUTS as LAYOUTS
from .readers.circo import PUBLISHED, SPLITS, CircoFiles, CircoSplit, read_gallery, read_split

INFO = dataset_info(__file__)
_TEXT_MODES = ("single", "with-concept-magiclens", "with-concept-bge-vl")


class CIRCO(AnnotatedDataset[CircoSplit]):
    """CIRCO, or other data in its layout, as a :class:`benchmark.dataset.Dataset`."""

    info, published = INFO, PUBLISHED
    protocols = (
        ProtocolInfo("official", "all pictures of the gallery, the reference too", SPLITS, _TEXT_MODES),
        ProtocolInfo("official-noref", "all pictures of the gallery but the reference", SPLITS, _TEXT_MODES),
    )

    def __init__(
        self, root: Path, files: CircoFiles, splits: dict[str, CircoSplit], gallery: dict[int, int],
        manifest: Manifest | None,
    ) -> None:  # fmt: skip
        super().__init__(root, files, splits, manifest)
        folder = PictureFolder(files.picture_roots())
        paths = (folder.resolve(f"{picture:012d}.jpg") for picture in gallery)
        self.pictures = Pictures(tuple(map(str, gallery)), tuple(paths))

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        raise UserError(f"{self.label}: has no training triplets; train on those of another one by --train-dataset")

    def split_pictures(self, split: str) -> IntArray:
        """The gallery: both splits rank the same."""
        self._split(split)
        return np.arange(len(self.pictures))

    def training_texts(self) -> tuple[Captions, ...]:
        return ()

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        """The one task of a split; raises UserError for unknown names and rules of other text modes."""
        rule = fitting_rule(self.info.name, self.protocols, SPLITS, split, protocol, text_rule)
        columns, labelled = self._split(split), split != "test"
        queries = Queries(
            ids=columns.ids,
            reference_picture=columns.reference,
            reference_in_gallery=columns.reference,
            texts=tuple(rule.queries(captions)[0] for captions in columns.captions),
            positives=columns.positives,
            group=columns.reference,
            target=columns.target if labelled else None,
            aspects=columns.aspects if labelled else None,
        )
        return (
            Task(
                key=TaskKey(self.label, split, protocol, rule.mode),
                queries=queries,
                gallery=self.split_pictures(split),
                exclude_reference=protocol == "official-noref",
                cutoffs=(5, 10, 25, 50),
                labelled=labelled,
            ),
        )

    def _count(self, name: str, split: CircoSplit) -> dict[str, int]:
        return split.count()

    def criterion(self, metrics: dict[str, dict[str, float]]) -> tuple[str, float]:
        """mAP@5, in percent."""
        (values,) = metrics.values()
        return "mAP@5", values["mAP@5"]


def present_splits(root: Path) -> tuple[str, ...]:
    """The splits whose queries are there, and the list of the gallery's pictures."""
    return whole_splits(CircoFiles.find(root), SPLITS)


def load(root: Path, *, splits: tuple[str, ...]) -> CIRCO:
    """Read the splits asked for; ``root`` is what `locate_root` found.

    Raises UserError with all problems of all their files. Counts are compared by `annotated.require_counts`, the
    pictures' existence by `folders.require_pictures`.
    """
    require_known(INFO, PUBLISHED, splits)
    files = CircoFiles.find(root)
    manifest = read_manifest(manifest_path(INFO, LAYOUTS, files.base, root), INFO.name, PUBLISHED)
    problems = Problems(advice(INFO, manifest))
    gallery = read_gallery(files, splits[0] if splits else SPLITS[0], problems)
    read = {split: read_split(files, split, gallery, problems) for split in SPLITS if split in splits}
    problems.raise_all()
    return CIRCO(root, files, read, gallery, manifest)
