"""CIRCO's annotation files: where they lie, and how a split's entries become columns.

The gallery is COCO's, the `images` of `image_info_unlabeled2017.json` in that file's order; a picture's file is its id
with twelve digits. Both splits rank the same gallery.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.data.annotations import AnnotationFile, Problems, read_records, record_faults, type_problem
from benchmark.data.folders import Layouts
from benchmark.dataset import ConceptCaptions, IntArray, Ragged, integers
from benchmark.errors import UserError
from benchmark.structured_files import read_json

SPLITS = ("val", "test")
PUBLISHED: Mapping[str, Mapping[str, int]] = {
    "val": {"queries": 220, "references": 220, "positives": 916, "gallery": 123_403},
    "test": {"queries": 800, "references": 798, "gallery": 123_403},
}
_COCO = "COCO2017_unlabeled"
_INFO = "image_info_unlabeled2017.json"
_BASES = (".", "data/circo", "data/CIRCO")
_LARGEST_ID = 10**12 - 1

LAYOUTS = Layouts(
    marks=tuple(
        f"{base}/{mark}".removeprefix("./")
        for base in _BASES
        for mark in (f"{_COCO}/annotations/{_INFO}", "annotations/val.json", "annotations/test.json")
    ),
    told=(
        f"annotations/ + {_COCO}/{{annotations,unlabeled2017}}/ (official, SEARLE, LinCIR)",
        f"{_COCO}/{{annotations,unlabeled2017}}/, val.json and test.json among its annotations (CIRCUS)",
        "data/circo/ above either (MagicLens)",
    ),
)


@dataclass(frozen=True)
class CircoFiles:
    """Where the files lie; ``base`` holds the annotations and COCO's folder."""

    base: Path

    @classmethod
    def find(cls, root: Path) -> CircoFiles:
        marks = [mark for mark in LAYOUTS.marks if (root / mark).is_file()]
        inner = next((base for base in _BASES[1:] if marks and marks[0].startswith(base)), ".")
        return cls(root / inner)

    def of(self, split: str) -> tuple[AnnotationFile, AnnotationFile]:
        """The file of queries, and the list of the gallery's pictures."""
        places = [self.base / "annotations", self.base / _COCO / "annotations"]
        found = [folder for folder in places if (folder / f"{split}.json").is_file()]
        listed = [folder for folder in reversed(places) if (folder / _INFO).is_file()]
        return (
            AnnotationFile(split, (found or places)[0] / f"{split}.json"),
            AnnotationFile(split, (listed or places[::-1])[0] / _INFO),
        )

    def picture_roots(self) -> list[Path]:
        folders = [folder for folder in (self.base / _COCO, self.base) if folder.is_dir()]
        return [folder / "unlabeled2017" for folder in folders or [self.base / _COCO]]


@dataclass(frozen=True)
class CircoSplit:
    """One split as columns; all pictures are indices of the gallery.

    ``reference``, ``target`` (N,): the latter -1 where hidden. ``positives``: every right answer, the target among
    them. ``aspects``: of each query, overlapping.
    """

    reference: IntArray
    target: IntArray
    positives: Ragged
    captions: tuple[ConceptCaptions, ...]
    aspects: tuple[tuple[str, ...], ...]
    gallery: int

    @property
    def ids(self) -> tuple[str, ...]:
        """An entry's id is its place in the file."""
        return tuple(map(str, range(len(self.captions))))

    def count(self) -> dict[str, int]:
        found = {"queries": len(self.captions), "references": len(set(self.reference.tolist()))}
        found |= {"positives": len(self.positives.values)} if len(self.positives.values) else {}
        return found | {"gallery": self.gallery}


def read_gallery(files: CircoFiles, split: str, problems: Problems) -> dict[int, int]:
    """Id to gallery index of every picture, in the order of the file."""
    path = files.of(split)[1].path
    if not path.is_file():
        problems.add(path, "no such file; the gallery of both splits is read from it")
        return {}
    try:
        content = read_json(path)
    except UserError as error:
        problems.add_error(path, error)
        return {}
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        problems.add(path, "must be a JSON object with 'images', a list of at least one")
        return {}
    known: dict[int, int] = {}
    for number, image in enumerate(images):
        faults = list(record_faults(image, {"id": int}))
        if not faults:
            key = image["id"]
            if not 0 <= key <= _LARGEST_ID:
                faults.append(f"id {key} has no name of twelve digits")
            elif (first := known.setdefault(key, number)) != number:
                faults.append(f"id {key} is that of entry {first} already")
        for fault in faults:
            problems.add(path, f"images, entry {number}: {fault}")
    return known


def read_split(files: CircoFiles, split: str, gallery: Mapping[int, int], problems: Problems) -> CircoSplit:
    path = files.of(split)[0].path
    if not path.is_file():
        problems.add(path, f"no such file; split {split} is read from it")
    required: dict[str, type] = {"id": int, "reference_img_id": int, "relative_caption": str, "shared_concept": str}
    if split != "test":
        required |= {"target_img_id": int, "gt_img_ids": list, "semantic_aspects": list}
    entries: list[dict[str, Any]] = []
    for number, entry in read_records(path, required, problems) if path.is_file() else []:
        faults = list(_faults(entry, number, split, gallery)) if gallery else []
        for fault in faults:
            problems.add(path, f"entry {number} (id {entry['id']}): {fault}")
        if not faults and gallery:
            entries.append(entry)
    labelled = split != "test"
    return CircoSplit(
        reference=integers(gallery[e["reference_img_id"]] for e in entries),
        target=integers(gallery[e["target_img_id"]] if labelled else -1 for e in entries),
        positives=Ragged.of([[gallery[i] for i in e["gt_img_ids"]] if labelled else [] for e in entries]),
        captions=tuple(ConceptCaptions((e["relative_caption"],), e["shared_concept"]) for e in entries),
        aspects=tuple(tuple(e["semantic_aspects"]) if labelled else () for e in entries),
        gallery=len(gallery),
    )


def _faults(entry: dict[str, Any], number: int, split: str, gallery: Mapping[int, int]) -> Iterator[str]:
    """What is wrong with an entry whose keys and types are right."""
    if entry["id"] != number:
        # The official script finds positives by the id as a place in the file.
        yield f"ids count from 0 in the order of the file: {number} is expected here"
    reference = entry["reference_img_id"]
    if reference not in gallery:
        yield f"reference_img_id {reference} is not in the gallery"
    if split == "test":
        return
    target, positives, aspects = entry["target_img_id"], entry["gt_img_ids"], entry["semantic_aspects"]
    for positive in positives:
        if (fault := type_problem(positive, int)) is not None:
            yield f"a positive of gt_img_ids {fault}"
            return
        if positive not in gallery:
            yield f"positive {positive} is not in the gallery"
    if len(set(positives)) < len(positives):
        yield f"gt_img_ids names a picture twice: {next(p for i, p in enumerate(positives) if p in positives[:i])}"
    if target not in positives:
        yield f"target_img_id {target} is not among gt_img_ids"
    if reference in positives:
        yield f"reference_img_id {reference} is a positive of its own query"
    for aspect in aspects:
        if not isinstance(aspect, str) or not aspect or not aspect.replace("_", "a").isalnum():
            yield f"semantic aspect {str(aspect)[:60]!r} is not a name of letters, digits and '_'"
    if len(set(map(str, aspects))) < len(aspects):
        yield "semantic_aspects names one twice"
