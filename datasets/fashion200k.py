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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from benchmark.annotations import (
    MANIFEST,
    AnnotationFile,
    Layouts,
    Manifest,
    Problems,
    compare_counts,
    read_manifest,
    read_names,
    safe_relative,
)
from benchmark.dataset import (
    Captions,
    Counts,
    DatasetInfo,
    IntArray,
    Pictures,
    ProtocolInfo,
    Queries,
    Ragged,
    Task,
    TaskKey,
    Triplets,
)
from benchmark.errors import UserError, unknown_name
from benchmark.files import digest_of, file_digest
from benchmark.text_rules import TextRule, punctuation_words, text_rule

from .fashion200k_pairs import PairSource, drawing_named, grouped, modification_texts

INFO = DatasetInfo(
    name="fashion200k",
    title="Fashion200k",
    summary="201,838 cropped shop pictures; queries replace one word of a picture's description",
    licence="none stated; released for research, the pictures belong to the shops",
    obtain=(
        "labels/ and women/ (the cropped detections, women.tar.gz): https://github.com/xthan/fashion-200k; "
        "test_queries.txt: https://github.com/google/tirg"
    ),
    citation="""@inproceedings{han2017automatic,
  title     = {Automatic Spatially-Aware Fashion Concept Discovery},
  author    = {Han, Xintong and Wu, Zuxuan and Huang, Phoenix X. and Zhang, Xiao and Zhu, Menglong and Li, Yuan
               and Zhao, Yang and Davis, Larry S.},
  booktitle = {Proceedings of the IEEE International Conference on Computer Vision (ICCV)},
  pages     = {1463--1471},
  year      = {2017}
}""",
    folders=("fashion200k", "Fashion200k", "Fashion200K", "fashion-200k", "fashion_200k"),
    default_protocol="tirg",
    text_rule="template",
    evaluation_split="test",
)

SPLITS = ("train", "test")
CATEGORIES = ("dress", "jacket", "pants", "skirt", "top")
PUBLISHED: Mapping[str, Mapping[str, int]] = {
    "train": {"pictures": 172_049, "captions": 53_099, "modifiable": 106_464},
    "test": {"queries": 33_480, "gallery": 29_789},
}
"""As a public log of TIRG's code prints them; lines of the label files, not files of pictures."""

_QUERIES = "test_queries.txt"
_LABEL_FORM = "must be a path, a detection score and a description, separated by tabs"
_NO_PICTURES: IntArray = np.empty(0, dtype=np.int64)

LAYOUTS = Layouts(
    marks=tuple(f"labels/{category}_{split}_detect_all.txt" for split in SPLITS for category in CATEGORIES),
    told=(f"labels/ + women/ (official), with {_QUERIES} beside them or in labels/",),
)


@dataclass(frozen=True)
class _Files:
    """Where the annotation files lie. Somebody's own data need not have all five categories."""

    root: Path
    is_own: bool

    @classmethod
    def find(cls, root: Path) -> _Files:
        return cls(root, (root / MANIFEST).is_file())

    def labels(self, split: str) -> list[Path]:
        """The label files of a split by name, those that are missing among them."""
        folder, ending = self.root / "labels", f"_{split}_detect_all.txt"
        found = {path for path in folder.glob(f"*{ending}") if not path.name.startswith(".")}
        expected = {folder / f"{category}{ending}" for category in CATEGORIES}
        return sorted(found if self.is_own and found else found | expected)

    @property
    def queries(self) -> Path:
        places = [self.root / _QUERIES, self.root / "labels" / _QUERIES]
        return next((path for path in places if path.is_file()), places[0])

    def of(self, split: str) -> tuple[AnnotationFile, ...]:
        paths = [*self.labels(split), *([self.queries] if split == "test" else [])]
        return tuple(AnnotationFile(split, path) for path in paths)


@dataclass(frozen=True)
class _Split:
    """One split as columns: its label lines in order of the sorted files, and its queries.

    ``names`` (N,) are paths; ``caption`` (N,) indices into the different cleaned ``captions``
    (C,). ``reference`` and ``target`` (Q,) are label lines; none in training.
    """

    name: str
    names: tuple[str, ...]
    captions: tuple[str, ...]
    caption: IntArray
    reference: IntArray = _NO_PICTURES
    target: IntArray = _NO_PICTURES

    @cache  # noqa: B019 - a dataset lives as long as its splits
    def pairs(self, blanks: int) -> PairSource:
        """What training pairs are drawn from; ``blanks`` as in :class:`Drawing`."""
        return PairSource.of(self.captions, self.caption, blanks)

    def count(self) -> dict[str, int]:
        if self.name == "test":
            return {"queries": len(self.reference), "gallery": len(self.names)}
        return {
            "pictures": len(self.names),
            "captions": len(self.captions),
            "modifiable": len(self.pairs(2).modifiable),
        }
