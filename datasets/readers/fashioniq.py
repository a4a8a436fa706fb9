"""Reading FashionIQ's annotation files in every layout in circulation, and finding its pictures by stem."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.annotations import AnnotationFile, Problems, list_faults, read_records, type_problem
from benchmark.data.folders import Layouts, StemIndex, index_by_stem
from benchmark.dataset import Captions, IntArray, integers
from benchmark.errors import UserError
from benchmark.structured_files import read_json
from benchmark.text_rules import text_rule

SPLITS = ("train", "val", "test")
CATEGORIES = ("dress", "shirt", "toptee")
_CAPTIONS = 2

# (folder of the captions, folders the image lists may lie in), relative to the root; the first that fits
_PLACES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("captions", ("image_splits", "captions")),
    ("json", ("image_splits", "json")),
    ("annotation/fashion-iq", ("annotation/fashion-iq", "annotation/fashion-iq/image_splits")),
    (".", (".", "image_splits")),
)
_PICTURE_FOLDERS = ("images", "image", "img", "image_data", "resized_images", "resized_image")
_PICTURE_BASES = (".", "datasets/fashion-iq", "../../datasets/fashion-iq")

LAYOUTS = Layouts(
    marks=tuple(
        f"{captions}/cap.{category}.{split}.json"
        for captions, _ in _PLACES
        for split in ("val", "train", "test")
        for category in CATEGORIES
    ),
    told=(
        "captions/ + image_splits/ + images/ (official, CLIP4Cir, SPRC, CoVR)",
        "json/ + image_splits/ + images/ (Pic2Word)",
        "captions/ + image_splits/ + image_data/<category>/ or resized_image/<category>/ (VAL, DQU-CIR)",
        "annotation/fashion-iq/ + datasets/fashion-iq/images/ (CoVR)",
        "all annotation files in one folder",
    ),
)


@dataclass(frozen=True)
class FashionIQFiles:
    """Where the annotation files lie: the first known place that has any captions file.

    ``categories``: those that are read; () for all three, or in own data (``is_own``) those with a file.
    """

    root: Path
    captions: Path
    lists: tuple[Path, ...]
    categories: tuple[str, ...] = ()
    is_own: bool = False

    @classmethod
    def find(cls, root: Path, categories: tuple[str, ...] = ()) -> FashionIQFiles:
        names = [f"cap.{category}.{split}.json" for split in SPLITS for category in CATEGORIES]
        there = (place for place in _PLACES if any((root / place[0] / name).is_file() for name in names))
        captions, lists = next(there, ("captions", ("image_splits",)))
        return cls(root, root / captions, tuple(root / folder for folder in lists), categories)

    @property
    def base(self) -> Path:
        return self.captions.parent if self.captions.name in ("captions", "json") else self.captions

    def of(self, split: str) -> tuple[AnnotationFile, ...]:
        return tuple(file for category in self.there(split) for file in self.of_category(split, category))

    def of_category(self, split: str, category: str) -> tuple[AnnotationFile, AnnotationFile]:
        """The captions file and the image list of a category in a split."""
        candidates = [folder / f"split.{category}.{split}.json" for folder in self.lists]
        found = next((path for path in candidates if path.is_file()), candidates[0])
        captions = self.captions / f"cap.{category}.{split}.json"
        return AnnotationFile(split, captions), AnnotationFile(split, found)

    def there(self, split: str) -> tuple[str, ...]:
        """The categories that a split is to have."""
        if self.categories or not self.is_own:
            return self.categories or CATEGORIES
        return tuple(c for c in CATEGORIES if any(file.found for file in self.of_category(split, c))) or CATEGORIES

    def picture_folder(self) -> tuple[Path, StemIndex]:
        """The first usual folder that holds pictures, else the annotations' own folder, by stem.

        One folder alone serves all pictures: full-size ones and squashed copies are never mixed.
        """
        bases = [root / folder for root in (self.base, self.root) for folder in _PICTURE_BASES]
        for place in dict.fromkeys(base / name for base in bases for name in _PICTURE_FOLDERS):
            folder = Path(os.path.normpath(place))
            if folder.is_dir() and (index := index_by_stem([folder])).paths:
                return folder, index
        return self.base / _PICTURE_FOLDERS[0], index_by_stem([self.base])


@dataclass(frozen=True)
class Category:
    """A category of a split as columns; indices (N,) count in ``names``, its image list in file order.

    ``target`` is -1 where hidden.
    """

    names: tuple[str, ...]
    reference: IntArray
    target: IntArray
    captions: tuple[Captions, ...]

    @property
    def used(self) -> IntArray:
        """Pictures that are a reference or a target, in list order."""
        used = np.union1d(self.reference, self.target)
        return used[used >= 0]

    def count(self, split: str) -> dict[str, int]:
        if split == "test":
            return {"queries": len(self.captions), "gallery": len(self.names)}
        each = sum(len(text_rule("per-caption").entries(captions)) for captions in self.captions)
        if split == "train":
            return {"triplets": len(self.captions), "pictures": len(self.names), "per-caption triplets": each}
        return {
            "queries": len(self.captions),
            "gallery": len(self.names),
            "VAL gallery": len(self.used),
            "per-caption queries": each,
        }


FashionIQSplit = Mapping[str, Category]


def _read_names(path: Path, problems: Problems) -> list[str]:
    """The image list: names that stay texts, whatever they look like."""
    try:
        content = read_json(path)
    except UserError as error:
        problems.add_error(path, error)
        return []
    if not isinstance(content, list) or not content:
        problems.add(path, "must be a JSON list of picture names, with at least one")
        return []
    faults = [f"entry {i}: the name {fault}" for i, name in enumerate(content) if (fault := type_problem(name, str))]
    if not faults:
        faults = list_faults(content, "entry", 0)
    for fault in faults:
        problems.add(path, fault)
    return [] if faults else content


def _required(split: str) -> dict[str, type]:
    required: dict[str, type] = {"candidate": str, "captions": list}
    if split != "test":
        required["target"] = str
    return required


def _faults(entry: Mapping[str, Any], split: str, known: Mapping[str, int]) -> Iterator[str]:
    """What the release rules out in an entry whose keys and types are right. Empty captions are in it."""
    captions = entry["captions"]
    if len(captions) != _CAPTIONS or not all(isinstance(caption, str) for caption in captions):
        yield f"'captions' is {str(captions)[:60]}, not a list of {_CAPTIONS} texts"
    for key in ("candidate", "target")[: len(_required(split)) - 1]:
        if entry[key] not in known:
            yield f"{key} '{entry[key]}' is not in the image list"
    if split != "test" and entry["candidate"] == entry["target"]:
        yield f"candidate and target are both '{entry['target']}'"


def read_category(files: tuple[AnnotationFile, AnnotationFile], category: str, problems: Problems) -> Category:
    captions, images = files
    split = captions.split
    for file in files:
        if not file.found:
            problems.add(file.path, f"no such file; category {category} of split {split} is read from it")
    names = _read_names(images.path, problems) if images.found else []
    records = read_records(captions.path, _required(split), problems) if captions.found else []
    known = {name: i for i, name in enumerate(names)}
    entries: list[dict[str, Any]] = []
    first: dict[tuple[str, str], int] = {}
    for number, entry in records if names else []:
        faults = list(_faults(entry, split, known))
        # A candidate may be asked about twice in `test`: without targets nothing tells its entries apart.
        pair = (entry["candidate"], entry.get("target", str(number)))
        if first.setdefault(pair, number) != number:
            faults.append(f"the same candidate and target as entry {first[pair]}")
        for fault in faults:
            problems.add(captions.path, f"entry {number}: {fault}")
        if not faults:
            entries.append(entry)
    return Category(
        names=tuple(names),
        reference=integers(known[e["candidate"]] for e in entries),
        target=integers(-1 if split == "test" else known[e["target"]] for e in entries),
        captions=tuple(tuple(e["captions"]) for e in entries),
    )
