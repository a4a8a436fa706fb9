"""Shoes: pairs of shoe pictures with a caption that says how the target differs.

Source: X. Guo, H. Wu, Y. Cheng, S. Rennie, G. Tesauro, R. Feris, "Dialog-based Interactive Image Retrieval",
NeurIPS 2018; pictures: T. Berg, A. Berg, J. Shih, "Automatic Attribute Discovery and Characterization from
Noisy Web Data", ECCV 2010. `ImageName` is the target.

Two evaluation lists are in circulation, told apart by their length: the official one of 4,658 names, and
that of VAL's release, the same less 37. Each has protocols of its own:

- ``official``, ``official-noref``: both pictures in the official list, which is the gallery;
- ``val``: at least one picture in VAL's list; the gallery is the list and every picture of a query;
- ``val-list``, ``val-list-noref``: both pictures in VAL's list, which is the gallery.

Captions are trimmed and capitalised in training and evaluation alike (SPIRIT's rule; FashionERN evaluates on
the caption as it stands, which is the text rule `as-is`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from benchmark.data.annotations import Problems, read_records
from benchmark.data.dictionaries import WordDictionary, dictionary_notes
from benchmark.data.folders import StemIndex, format_doubles, index_by_stem
from benchmark.data.protocols import fitting_rule
from benchmark.data.released_files import SideFiles
from benchmark.dataset import (
    Captions,
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
from benchmark.errors import UserError
from benchmark.facts_file import dataset_info
from benchmark.text_rules import CORRECTED

from .readers.shoes import LAYOUTS as LAYOUTS
from .readers.shoes import (
    OFFICIAL_NAMES,
    SPLITS,
    VAL_NAMES,
    Entry,
    Evaluation,
    Reader,
    ShoesFiles,
    ShoesSplit,
    Training,
)

INFO = dataset_info(__file__)

PUBLISHED: Mapping[str, Mapping[str, int]] = {
    "train": {"triplets": 8_990, "pictures": 10_000},
    "test": {
        "queries": 1_761,
        "gallery": OFFICIAL_NAMES,
        "val queries": 1_761,
        "val gallery": 4_642,
        "val-list queries": 1_732,
        "val-list gallery": VAL_NAMES,
    },
}
_PICTURE_PREFIX = "img_womens_"


class Shoes(AnnotatedDataset[ShoesSplit]):
    """Shoes, or other data in its layout, as a :class:`benchmark.dataset.Dataset`.

    ``protocols`` lists all five; those of VAL's list have no splits where that list is not there, so that
    nothing but a request for them asks for it.
    """

    info, published = INFO, PUBLISHED

    def __init__(self, files: ShoesFiles, splits: Mapping[str, ShoesSplit], manifest: Manifest | None) -> None:
        super().__init__(files.root, files, splits, manifest)
        self._files = files
        names = tuple(dict.fromkeys(name for split in splits.values() for name in split.names))
        index = _index(files.root)
        # A missing picture is expected in the root itself.
        paths = (index.paths.get(name.removesuffix(".jpg"), files.root / name) for name in names)
        self.pictures = Pictures(names, tuple(paths))
        doubles = {f"{stem}.jpg" for stem in index.doubles} & set(names)
        self.warnings = format_doubles(doubles, "the first in the folders' order is taken")
        self._number = {name: i for i, name in enumerate(names)}
        places = [base / folder for base in (files.base, files.root) for folder in ("captions", "")]
        self._dictionary = WordDictionary(INFO, "", places)
        self.side_files = SideFiles(INFO, places, ("all",), ("all",))
        self.dictionaries = {"": self._dictionary}
        refusals = self._evaluation("test").refusals if "test" in splits else {}
        without = tuple(name for name in ("val", "val-list") if name in refusals)
        self.protocols = tuple(_protocol(name, summary, without) for name, summary in _SUMMARIES.items())

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        """All training triplets; the same in every epoch, whatever the seed and pair sampling."""
        entries = self._training().entries
        reference = self._numbers(e.reference for e in entries)
        return Triplets(reference, self._numbers(e.target for e in entries), self.training_texts())

    def split_pictures(self, split: str) -> IntArray:
        """Every picture of a gallery, official list first; in training, those of a triplet in list order."""
        return self._numbers(self._training().used if split == "train" else self._evaluation(split).names)

    def training_texts(self) -> tuple[Captions, ...]:
        return self._captions(self._training().entries)

    def side_texts(self) -> dict[str, tuple[str, ...]]:
        """Captions of single pictures by file name, from captions_shoes.json where it is there."""
        path = self._files.base / "captions_shoes.json"
        if not path.is_file():
            return {}
        problems = Problems(f"get it again, or remove it: it is optional; {advice(INFO, self._manifest)}")
        found: dict[str, list[str]] = {}
        for _, record in read_records(path, {"ImageName": str, "Caption": str}, problems):
            found.setdefault(record["ImageName"], []).append(record["Caption"])
        problems.raise_all()
        return {name: tuple(captions) for name, captions in found.items()}

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        """The one task of a protocol; raises UserError where the list that it needs is not there."""
        base = protocol.removesuffix("-noref")
        if split == "test" and protocol in _SUMMARIES and base in (test := self._evaluation(split)).refusals:
            raise UserError(f"{INFO.name}: protocol {protocol} {test.refusals[base]}")
        rule = fitting_rule(INFO.name, self.protocols, SPLITS, split, protocol, text_rule)
        ranking = self._evaluation(split).rankings[base]
        position = {name: i for i, name in enumerate(ranking.gallery)}
        reference = integers(position[e.reference] for e in ranking.entries)
        target = integers(position[e.target] for e in ranking.entries)
        gallery = self._numbers(ranking.gallery)
        asked = self._captions(ranking.entries)
        corrections = dictionary_notes([self._dictionary]) if rule.corrects else ()
        return (
            Task(
                key=TaskKey(self.label, split, protocol, rule.mode),
                queries=Queries(
                    ids=tuple(str(e.number) for e in ranking.entries),
                    reference_picture=gallery[reference],
                    reference_in_gallery=reference,
                    texts=tuple(rule.queries(captions)[0] for captions in asked),
                    positives=Ragged.single(target),
                    group=reference,
                    captions=asked,
                ),
                gallery=gallery,
                exclude_reference=protocol == "val" or protocol.endswith("-noref"),
                cutoffs=(1, 10, 50),
                average="mean(R@1,R@10,R@50)",
                notes=(*self._notes(int(np.sum(reference == target))), *self.warnings, *corrections),
            ),
        )

    def _count(self, name: str, split: ShoesSplit) -> dict[str, int]:
        return split.count()

    def criterion(self, metrics: dict[str, dict[str, float]]) -> tuple[str, float]:
        """SPIRIT's: (R@10 + R@50)/2, in percent."""
        (values,) = metrics.values()
        return "(R@10 + R@50)/2", (values["R@10"] + values["R@50"]) / 2

    def _notes(self, own: int) -> tuple[str, ...]:
        derived = "query ids count in the derived triplet.val.json, not in the official file"
        asks = f"queries that ask for their own reference: {own:,}, a certain miss where the reference is left out"
        return (*((asks,) if own else ()), *((derived,) if self._files.derives_captions else ()))

    def _captions(self, entries: Sequence[Entry]) -> tuple[Captions, ...]:
        """The caption of each, knowing its dictionary and its side texts."""
        return tuple(
            self._dictionary.captions(
                (e.caption,), self.side_files.of("all", e.reference, "all", f"{e.reference}+{e.target}")
            )
            for e in entries
        )

    def _numbers(self, names: Iterable[str]) -> IntArray:
        return integers(self._number[name] for name in names)

    def _training(self) -> Training:
        train = self._split("train")
        assert isinstance(train, Training)
        return train

    def _evaluation(self, split: str) -> Evaluation:
        test = self._split(split)
        if not isinstance(test, Evaluation):
            raise UserError(f"{INFO.name}: split {split} is trained on; protocols are defined for test")
        return test


_SUMMARIES = {
    "official": "the official list of 4,658 pictures, the reference ranked",
    "official-noref": "the official list but the reference",
    "val": "VAL's list of 4,621 pictures and every picture of a query, but the reference",
    "val-list": "VAL's list, queries with both pictures in it, the reference ranked",
    "val-list-noref": "VAL's list but the reference, queries with both pictures in it",
}


def _protocol(name: str, summary: str, without: Sequence[str]) -> ProtocolInfo:
    splits = () if name.removesuffix("-noref") in without else ("test",)
    return ProtocolInfo(name, summary, splits, ("single", CORRECTED))


def _index(root: Path) -> StemIndex:
    """Every .jpg of women's shoes below the root; the archive has other goods too."""
    index = index_by_stem([root], (".jpg",))
    kept = {stem: path for stem, path in index.paths.items() if stem.startswith(_PICTURE_PREFIX)}
    return StemIndex(kept, index.doubles)


def present_splits(root: Path) -> tuple[str, ...]:
    """The splits whose captions and image list are both there."""
    return whole_splits(ShoesFiles.find(root), SPLITS)


def load(root: Path, *, splits: tuple[str, ...]) -> Shoes:
    """Read the splits asked for; ``root`` is what `locate_root` found.

    Raises UserError with all problems of all files. Counts are compared by `annotated.require_counts`,
    the pictures' existence by `folders.require_pictures`.
    """
    require_known(INFO, PUBLISHED, splits)
    files = ShoesFiles.find(root)
    manifest = read_manifest(manifest_path(INFO, LAYOUTS, files.base, root), INFO.name, PUBLISHED)
    return Shoes(files, Reader(files, manifest, advice(INFO, manifest)).read(splits), manifest)
