"""CIRR's annotation files, version rc2: where they lie, and how a split's entries become columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.annotations import AnnotationFile, Problems, read_records, relative_path, type_problem
from benchmark.data.folders import Layouts
from benchmark.dataset import Captions, IntArray, integers
from benchmark.errors import UserError
from benchmark.structured_files import read_json

SPLITS = ("train", "val", "test1")
PUBLISHED: Mapping[str, Mapping[str, int]] = {
    "train": {"triplets": 28_225, "pictures": 16_939},
    "val": {"queries": 4_181, "gallery": 2_297, "sets": 503},
    "test1": {"queries": 4_148, "gallery": 2_315, "sets": 503},
}
_MEMBERS = 6

# (folder of the captions, folders its image lists may lie in), relative to the root; the first that fits
_PLACES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("captions", ("image_splits",)),
    ("cirr/captions", ("cirr/image_splits",)),
    ("data/cirr/captions", ("data/cirr/image_splits",)),
    ("data/CIRR/captions", ("data/CIRR/image_splits",)),
    ("datasets/CIRR/captions", ("datasets/CIRR/image_splits",)),
    ("cirr_dataset/cirr/captions", ("cirr_dataset/cirr/image_splits",)),
    ("captions/captions", ("captions/image_splits",)),
    ("data/CIRR/captions/captions", ("data/CIRR/captions/image_splits",)),
    ("annotation/cirr", ("annotation/cirr", "annotation/cirr/image_splits", "datasets/CIRR/image_splits")),
    (".", (".", "image_splits", "../../datasets/CIRR/image_splits")),
)
_PICTURE_ROOTS = (
    ".",
    "img_raw",
    "images",
    "..",
    "../img_raw",
    "../images",
    "datasets/CIRR/images",
    "../../datasets/CIRR/images",
)

LAYOUTS = Layouts(
    marks=tuple(f"{captions}/cap.rc2.{split}.json" for captions, _ in _PLACES for split in ("val", "train", "test1")),
    told=(
        "captions/ + image_splits/ + img_raw/ (official)",
        "cirr/{captions,image_splits}/ + dev/, test1/, train/ (CLIP4Cir, SPRC)",
        "captions/{captions,image_splits}/ + dev/, test1/, images/train/ (DQU-CIR)",
        "annotation/cirr/ + datasets/CIRR/images/ (CoVR)",
    ),
)


@dataclass(frozen=True)
class CirrFiles:
    """Where the annotation files lie: the first known place that has any captions file."""

    root: Path
    captions: Path
    lists: tuple[Path, ...]

    @classmethod
    def find(cls, root: Path) -> CirrFiles:
        names = [f"cap.rc2.{split}.json" for split in SPLITS]
        there = (place for place in _PLACES if any((root / place[0] / name).is_file() for name in names))
        captions, lists = next(there, _PLACES[0])
        return cls(root, root / captions, tuple(root / folder for folder in lists))

    @property
    def base(self) -> Path:
        return self.captions.parent if self.captions.name == "captions" else self.captions

    def of(self, split: str) -> tuple[AnnotationFile, AnnotationFile]:
        """The captions file and the image list of a split."""
        candidates = [folder / f"split.rc2.{split}.json" for folder in self.lists]
        found = next((path for path in candidates if path.is_file()), candidates[0])
        return AnnotationFile(split, self.captions / f"cap.rc2.{split}.json"), AnnotationFile(split, found)

    def searched(self) -> list[Path]:
        """The folders below which pictures are looked for by name: the dataset's, and picture folders beside it."""
        inside = [folder for folder in _PICTURE_ROOTS if folder.strip("./")]
        return [self.root, *(base / folder for base in (self.base, self.root) for folder in inside)]

    def picture_roots(self) -> list[Path]:
        return [base / folder for base in (self.base, self.root) for folder in _PICTURE_ROOTS]


@dataclass(frozen=True)
class CirrSplit:
    """One split as columns; indices (N,) count in ``paths``, the split's image list in file order.

    ``target`` is -1 where hidden; ``members`` (N, 6) and ``sets`` (N,) are None for training.
    """

    name: str
    paths: Mapping[str, str]
    ids: tuple[str, ...]
    reference: IntArray
    target: IntArray
    captions: tuple[Captions, ...]
    members: IntArray | None
    sets: IntArray | None

    def count(self) -> dict[str, int]:
        if self.sets is None:
            return {"triplets": len(self.ids), "pictures": len(self.paths)}
        return {"queries": len(self.ids), "gallery": len(self.paths), "sets": len(np.unique(self.sets))}


def _read_paths(path: Path, problems: Problems) -> dict[str, str]:
    """The image list: name → path relative to an image root."""
    try:
        content = read_json(path)
    except UserError as error:
        problems.add_error(path, error)
        return {}
    if not isinstance(content, dict) or not content:
        problems.add(path, "must be a JSON object of picture names and paths, with at least one")
        return {}
    paths = {}
    for number, (name, relative) in enumerate(content.items()):
        try:
            paths[name] = relative_path(relative)
        except UserError as error:
            problems.add(path, f"entry {number} ({name}): {error}")
    return paths


def _required(split: str) -> dict[str, type]:
    required: dict[str, type] = {"pairid": int, "reference": str, "caption": str}
    if split != "test1":
        required["target_hard"] = str
    if split != "train":
        required["img_set"] = dict
    return required


def _faults(entry: dict[str, Any], split: str, known: Mapping[str, int]) -> Iterator[str]:
    """What the specification of rc2 rules out in an entry whose keys and types are right."""
    named = [key for key in ("reference", "target_hard") if key in _required(split)]
    for key in named:
        if entry[key] not in known:
            yield f"{key} '{entry[key]}' is not in the image list"
    # Members are those of the ranking within the set: training never reads them.
    if split == "train":
        return
    if split == "val" and entry["reference"] == entry["target_hard"]:
        yield f"reference and target_hard are both '{entry['reference']}'"
    members = entry["img_set"].get("members")
    if (fault := type_problem(entry["img_set"].get("id"), int)) is not None:
        yield f"img_set.id {fault}"
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        yield "img_set.members is not a list of names"
        return
    if len(members) != _MEMBERS or len(set(members)) != _MEMBERS:
        yield f"img_set.members has {len(members)} names, {len(set(members))} different, not {_MEMBERS}"
    for name in members:
        if name not in known:
            yield f"member '{name}' is not in the image list"
    for key in named:
        if entry[key] not in members:
            yield f"{key} '{entry[key]}' is not among img_set.members"


def read_split(files: CirrFiles, split: str, problems: Problems) -> CirrSplit:
    captions, images = files.of(split)
    missing = [file.path for file in (captions, images) if not file.found]
    for path in missing:
        problems.add(path, f"no such file; split {split} is read from it")
    paths = _read_paths(images.path, problems) if images.found else {}
    records = read_records(captions.path, _required(split), problems) if captions.found else []
    known = {name: i for i, name in enumerate(paths)}
    entries: list[dict[str, Any]] = []
    first: dict[int, int] = {}
    for number, entry in records:
        faults = list(_faults(entry, split, known)) if paths else []
        if first.setdefault(entry["pairid"], number) != number:
            faults.append(f"the same pairid as entry {first[entry['pairid']]}")
        for fault in faults:
            problems.add(captions.path, f"entry {number} (pairid {entry['pairid']}): {fault}")
        if not faults and paths:
            entries.append(entry)
    return _columns(split, paths, known, entries)


def _columns(
    split: str, paths: Mapping[str, str], known: Mapping[str, int], entries: list[dict[str, Any]]
) -> CirrSplit:
    ranked = split != "train"
    members = (known[name] for e in entries for name in e["img_set"]["members"])
    return CirrSplit(
        name=split,
        paths=paths,
        ids=tuple(str(e["pairid"]) for e in entries),
        reference=integers(known[e["reference"]] for e in entries),
        target=integers(-1 if split == "test1" else known[e["target_hard"]] for e in entries),
        captions=tuple((e["caption"],) for e in entries),
        members=integers(members).reshape(-1, _MEMBERS) if ranked else None,
        sets=integers(e["img_set"]["id"] for e in entries) if ranked else None,
    )


def require_one_path(files: CirrFiles, splits: Mapping[str, CirrSplit], problems: Problems) -> None:
    """A name listed by two splits must mean the same picture."""
    table: dict[str, str] = {}
    for split in splits.values():
        for name, path in split.paths.items():
            if table.setdefault(name, path) != path:
                text = f"'{name}' is '{path}' here and '{table[name]}' in another split's list"
                problems.add(files.of(split.name)[1].path, text)
