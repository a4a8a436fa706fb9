"""Fashion200k with the queries of TIRG: garments whose descriptions differ by one word.

Sources: X. Han et al., "Automatic Spatially-Aware Fashion Concept Discovery", ICCV 2017 (pictures
and descriptions); N. Vo et al., "Composing Text and Image for Image Retrieval - An Empirical
Odyssey" (TIRG), CVPR 2019 (queries, texts, pairs). The pictures are the release's cropped
detections. A description, once cleaned, is an identity: right answers of a query are all gallery
pictures with the target's. Papers select nothing here, they test once after training; the
criterion of this file, (R@10 + R@50)/2, is for runs that ask for a selection all the same.

A picture that the labels name twice is two entries of the gallery and may be drawn twice, as in the
released codes, whose published counts are of lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from benchmark.data.protocols import fitting_rule
from benchmark.data.released_files import LabelledSide
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
from benchmark.text_rules import TextRule

from .readers.fashion200k import LAYOUTS as LAYOUTS
from .readers.fashion200k import PUBLISHED, SPLITS, Fashion200kFiles, Fashion200kSplit, read_split
from .readers.fashion200k_pairs import PairSource, grouped, modification_texts, pair_sampling_named

INFO = dataset_info(__file__)


class Fashion200k(AnnotatedDataset[Fashion200kSplit]):
    """Fashion200k, or other data in its layout, as a :class:`benchmark.dataset.Dataset`."""

    info, published = INFO, PUBLISHED
    protocols = (
        ProtocolInfo("tirg", "all pictures of the split but the reference", ("test",), ("template",)),
        ProtocolInfo(
            "spirit",
            "all pictures of the split; the reference's whole-picture feature is looked up by its caption",
            ("test",),
            ("template",),
        ),
    )

    def __init__(
        self, files: Fashion200kFiles, splits: Mapping[str, Fashion200kSplit], manifest: Manifest | None
    ) -> None:
        super().__init__(files.root, files, splits, manifest)
        names = tuple(dict.fromkeys(name for split in splits.values() for name in split.names))
        self.pictures = Pictures(names, tuple(self.root / name for name in names))
        position = {name: i for i, name in enumerate(names)}
        self._position = {
            split.name: integers(position[n] for n in split.names) for split in splits.values()
        }
        self._sources: dict[int, PairSource] = {}

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        """Pairs drawn by the scheme of that name, see `PAIR_SAMPLINGS`; "" is TIRG's.

        The same for the same arguments; raises UserError where no picture can be changed.
        """
        train, position, scheme = self._split("train"), self._position["train"], pair_sampling_named(pair_sampling)
        reference, target = self._source(scheme.blanks).draw(scheme, seed, epoch)
        own = train.caption[reference]
        texts = modification_texts(train.captions, own, train.caption[target])
        return Triplets(position[reference], position[target], _with_side(texts, train.captions, own))

    def split_pictures(self, split: str) -> IntArray:
        """Indices of the split's pictures in order of the label lines; in training, those that any
        drawing can draw. A picture that is labelled twice stands here once."""
        rows: IntArray = np.arange(len(self._split(split).names))
        if split == "train":
            # Few captions are siblings by four blanks only, and those are drawn as well.
            rows = np.union1d(self._source(2).modifiable, self._source(4).modifiable)
        pictures = self._position[split][rows]
        return pictures[np.sort(np.unique(pictures, return_index=True)[1])]

    def training_texts(self) -> tuple[Captions, ...]:
        """The two words of the template, then the description of every training picture."""
        train = self._split("train")
        descriptions = tuple((caption,) for caption in train.captions)
        return (("replace with",), *(descriptions[c] for c in train.caption.tolist()))

    def side_texts(self) -> dict[str, tuple[str, ...]]:
        """The cleaned description of every training picture."""
        train = self._split("train")
        captions = (train.captions[c] for c in train.caption.tolist())
        return {name: (caption,) for name, caption in zip(train.names, captions, strict=True)}

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        """The one task of the test split; raises UserError for unknown names and other text modes."""
        rule = fitting_rule(self.info.name, self.protocols, SPLITS, split, protocol, text_rule)
        test, gallery = self._split(split), self._position[split]
        repeated = len(test.names) - len(set(test.names))
        notes = [f"{repeated} gallery entries repeat a picture that is labelled before"] if repeated else []
        queries = _queries(test, gallery, rule)
        if protocol == "spirit":
            last = np.zeros(len(test.captions), dtype=np.int64)
            np.maximum.at(last, test.caption, np.arange(len(test.names)))
            queries = replace(queries, feature_picture=gallery[last[test.caption[test.reference]]])
            notes.append("the reference's whole-picture feature is that of the last picture with its caption")
        return (
            Task(
                key=TaskKey(self.label, split, protocol, rule.mode),
                queries=queries,
                gallery=gallery,
                exclude_reference=protocol == "tirg",
                cutoffs=(1, 10, 50) if protocol == "tirg" else (10, 50),
                notes=tuple(notes),
            ),
        )

    def criterion(self, metrics: dict[str, dict[str, float]]) -> tuple[str, float]:
        """(R@10 + R@50)/2, in percent; no paper selects on this dataset."""
        (values,) = metrics.values()
        return "(R@10 + R@50)/2", (values["R@10"] + values["R@50"]) / 2

    def _count(self, name: str, split: Fashion200kSplit) -> dict[str, int]:
        if name == "test":
            return {"queries": len(split.reference), "gallery": len(split.names)}
        modifiable = len(self._source(2).modifiable)
        return {"pictures": len(split.names), "captions": len(split.captions), "modifiable": modifiable}

    def _source(self, blanks: int) -> PairSource:
        train = self._split("train")
        if blanks not in self._sources:
            self._sources[blanks] = PairSource.of(train.captions, train.caption, blanks)
        return self._sources[blanks]


def _queries(test: Fashion200kSplit, gallery: IntArray, rule: TextRule) -> Queries:
    """Query ids are line numbers from 0; queries of one reference product share a group."""
    own, wanted = test.caption[test.reference], test.caption[test.target]
    products = [test.names[line].rpartition("/")[0] for line in test.reference.tolist()]
    asked = _with_side(modification_texts(test.captions, own, wanted), test.captions, own)
    return Queries(
        ids=tuple(map(str, range(len(own)))),
        reference_picture=gallery[test.reference],
        reference_in_gallery=test.reference,
        texts=tuple(rule.queries(captions)[0] for captions in asked),
        positives=_sets(grouped(test.caption, np.arange(len(test.names)), len(test.captions)), wanted),
        group=np.unique(np.asarray(products, dtype=str), return_inverse=True)[1].astype(np.int64),
        captions=asked,
    )


def _with_side(texts: Sequence[str], descriptions: Sequence[str], reference: IntArray) -> tuple[Captions, ...]:
    """The text of each pair, knowing the reference's description and the word that is asked for, its last."""
    rows = zip(texts, reference.tolist(), strict=True)
    return tuple(
        CategoryCaptions((text,), side=LabelledSide(descriptions[own], text.rpartition(" ")[2])) for text, own in rows
    )


def _sets(sets: Ragged, index: IntArray) -> Ragged:
    """The sets of these numbers, in this order, as sets of their own."""
    sizes = sets.sizes()[index]
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    rows = np.arange(offsets[-1]) + np.repeat(sets.offsets[index] - offsets[:-1], sizes)
    return Ragged(offsets, sets.values[rows])


def present_splits(root: Path) -> tuple[str, ...]:
    """The splits whose files are all there."""
    return whole_splits(_files(root), SPLITS)


def _files(root: Path) -> Fashion200kFiles:
    return Fashion200kFiles(root, is_own=manifest_path(INFO, LAYOUTS, root, root) is not None)


def load(root: Path, *, splits: tuple[str, ...]) -> Fashion200k:
    """Read the splits asked for, training first; ``root`` is what `locate_root` found.

    Raises UserError with all problems of all their files. Counts are compared by
    `annotated.require_counts`, the pictures' existence by `folders.require_pictures`.
    """
    require_known(INFO, PUBLISHED, splits)
    files = _files(root)
    manifest = read_manifest(manifest_path(INFO, LAYOUTS, root, root), INFO.name, PUBLISHED)
    problems = Problems(advice(INFO, manifest))
    read = {split: read_split(files, split, problems) for split in SPLITS if split in splits}
    problems.raise_all()
    return Fashion200k(files, read, manifest)
