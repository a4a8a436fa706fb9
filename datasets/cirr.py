"""CIRR (Composed Image Retrieval on Real-life images), annotation version rc2.

Source: Z. Liu, C. Rodriguez-Opazo, D. Teney, S. Gould, "Image Retrieval on Real-life Images with
Pre-trained Vision-and-Language Models", ICCV 2021. Pictures are NLVR2's. Queries rank all pictures
of their split without the reference; in the subset ranking, the five other members of the query's
image set. The labels of `test1` are hidden: it is ranked for the official server, not scored here.
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
from benchmark.data.folders import PictureFolder, format_doubles
from benchmark.data.protocols import fitting_rule
from benchmark.data.released_files import SideFiles
from benchmark.dataset import (
    Captions,
    CategoryCaptions,
    IntArray,
    Pictures,
    ProtocolInfo,
    Queries,
    Ragged,
    Task,
    TaskKey,
    Triplets,
    integers,
)
from benchmark.facts_file import dataset_info

from .readers.cirr import LAYOUTS as LAYOUTS
from .readers.cirr import PUBLISHED, SPLITS, CirrFiles, CirrSplit, read_split, require_one_path

INFO = dataset_info(__file__)


class CIRR(AnnotatedDataset[CirrSplit]):
    """CIRR, or other data in its layout, as a :class:`benchmark.dataset.Dataset`."""

    info, published = INFO, PUBLISHED
    protocols = (
        ProtocolInfo(
            "official",
            "all pictures of the split but the reference; the set's five others for the subset ranking",
            ("val", "test1"),
            ("single",),
        ),
    )

    def __init__(self, root: Path, files: CirrFiles, splits: dict[str, CirrSplit], manifest: Manifest | None) -> None:
        super().__init__(root, files, splits, manifest)
        table = {name: path for split in splits.values() for name, path in split.paths.items()}
        folder = PictureFolder(files.picture_roots(), files.searched())
        self.pictures = Pictures(tuple(table), tuple(folder.resolve(path) for path in table.values()))
        self.warnings = format_doubles(folder.doubles, "the first in the folders' order is taken")
        position = {name: i for i, name in enumerate(table)}
        places = [base / folder for base in (files.base, files.root) for folder in ("captions", "")]
        self.side_files = SideFiles(INFO, [files.captions, *places], splits, splits)
        self._position = {split.name: integers(position[n] for n in split.paths) for split in splits.values()}

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        """All training triplets; the same in every epoch, whatever the seed and pair sampling."""
        train, position = self._split("train"), self._position["train"]
        return Triplets(position[train.reference], position[train.target], self._captions(train))

    def split_pictures(self, split: str) -> IntArray:
        """Indices of the split's pictures in the order of its image list; in training, those of a triplet."""
        columns = self._split(split)
        if split == "train":
            return self._position[split][np.union1d(columns.reference, columns.target)]
        return self._position[split]

    def training_texts(self) -> tuple[Captions, ...]:
        return self._captions(self._split("train"))

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        """The one task of a split; raises UserError for unknown names and rules of other text modes."""
        rule = fitting_rule(self.info.name, self.protocols, SPLITS, split, protocol, text_rule)
        columns = self._split(split)
        assert columns.members is not None
        assert columns.sets is not None
        labelled = split != "test1"
        empty: list[list[int]] = [[] for _ in columns.ids]
        gallery = self.split_pictures(split)
        asked = self._captions(columns)
        queries = Queries(
            ids=columns.ids,
            reference_picture=gallery[columns.reference],
            reference_in_gallery=columns.reference,
            texts=tuple(rule.queries(captions)[0] for captions in asked),
            positives=Ragged.single(columns.target) if labelled else Ragged.of(empty),
            group=columns.sets,
            subset=columns.members,
            captions=asked,
        )
        return (
            Task(
                key=TaskKey(self.label, split, protocol, rule.mode),
                queries=queries,
                gallery=gallery,
                exclude_reference=True,
                cutoffs=(1, 5, 10, 50),
                subset_cutoffs=(1, 2, 3),
                average="(R@5+R_subset@1)/2",
                labelled=labelled,
                notes=self.warnings,
            ),
        )

    def _captions(self, split: CirrSplit) -> tuple[Captions, ...]:
        """The split's, each knowing its side texts: words of test1 go by the pair's id, its targets are hidden."""
        names, side = list(split.paths), self.side_files
        rows = zip(split.captions, split.ids, split.reference.tolist(), split.target.tolist(), strict=True)
        keyed = (
            (captions, names[own], f"{pair_id}+{names[own]}" if target < 0 else f"{names[own]}+{names[target]}")
            for captions, pair_id, own, target in rows
        )
        return tuple(
            CategoryCaptions(captions, side=side.of(split.name, own, split.name, pair)) for captions, own, pair in keyed
        )

    def _count(self, name: str, split: CirrSplit) -> dict[str, int]:
        return split.count()

    def criterion(self, metrics: dict[str, dict[str, float]]) -> tuple[str, float]:
        """SPIRIT's: (R@5 + R_subset@1)/2, in percent."""
        (values,) = metrics.values()
        return "(R@5 + R_subset@1)/2", (values["R@5"] + values["R_subset@1"]) / 2


def present_splits(root: Path) -> tuple[str, ...]:
    """The splits whose captions and image list are both there."""
    return whole_splits(CirrFiles.find(root), SPLITS)


def load(root: Path, *, splits: tuple[str, ...]) -> CIRR:
    """Read the splits asked for, training first; ``root`` is what `locate_root` found.

    Raises UserError with all problems of all their files. Counts are compared by
    `annotated.require_counts`, the pictures' existence by `folders.require_pictures`.
    """
    require_known(INFO, PUBLISHED, splits)
    files = CirrFiles.find(root)
    manifest = read_manifest(manifest_path(INFO, LAYOUTS, files.base, root), INFO.name, PUBLISHED)
    problems = Problems(advice(INFO, manifest))
    read = {split: read_split(files, split, problems) for split in SPLITS if split in splits}
    require_one_path(files, read, problems)
    problems.raise_all()
    return CIRR(root, files, read, manifest)
