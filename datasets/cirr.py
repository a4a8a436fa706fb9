"""CIRR (Composed Image Retrieval on Real-life images), annotation version rc2.

Source: Z. Liu, C. Rodriguez-Opazo, D. Teney, S. Gould, "Image Retrieval on Real-life Images with
Pre-trained Vision-and-Language Models", ICCV 2021. Pictures are NLVR2's. Queries rank all pictures
of their split without the reference; in the subset ranking, the five other members of the query's
image set. The labels of `test1` are hidden: it is ranked for the official server, not scored here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.annotations import (
    AnnotationFile,
    Layouts,
    Manifest,
    PictureFolder,
    Problems,
    compare_counts,
    read_manifest,
    read_records,
    safe_relative,
    type_problem,
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
from benchmark.files import digest_of, file_digest, read_json
from benchmark.text_rules import TextRule, text_rule

INFO = DatasetInfo(
    name="cirr",
    title="CIRR",
    summary="36,554 pairs of real-life pictures, ranked over a split and within sets of six near twins",
    licence="annotations MIT; pictures are NLVR2's, on request, under its own terms",
    obtain=(
        "annotations: branch cirr_dataset of https://github.com/Cuberick-Orion/CIRR; "
        "pictures: request NLVR2's at https://lil.nlp.cornell.edu/nlvr/"
    ),
    citation="""@inproceedings{liu2021cirr,
  title     = {Image Retrieval on Real-life Images with Pre-trained Vision-and-Language Models},
  author    = {Liu, Zheyuan and Rodriguez-Opazo, Cristian and Teney, Damien and Gould, Stephen},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
  pages     = {2125--2134},
  year      = {2021}
}""",
    folders=("cirr", "cirr_dataset", "CIRR", "cirr-dataset"),
    default_protocol="official",
)

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
class _Files:
    """Where the annotation files lie: the first known place that has any captions file."""

    root: Path
    captions: Path
    lists: tuple[Path, ...]

    @classmethod
    def find(cls, root: Path) -> _Files:
        for captions, lists in _PLACES:
            if any((root / captions / f"cap.rc2.{split}.json").is_file() for split in SPLITS):
                return cls(root, root / captions, tuple(root / folder for folder in lists))
        return cls(root, root / "captions", (root / "image_splits",))

    @property
    def base(self) -> Path:
        return self.captions.parent if self.captions.name == "captions" else self.captions

    def of(self, split: str) -> tuple[AnnotationFile, AnnotationFile]:
        """The captions file and the image list of a split."""
        candidates = [folder / f"split.rc2.{split}.json" for folder in self.lists]
        found = next((path for path in candidates if path.is_file()), candidates[0])
        return AnnotationFile(split, self.captions / f"cap.rc2.{split}.json"), AnnotationFile(split, found)

    def picture_roots(self) -> list[Path]:
        return [base / folder for base in (self.base, self.root) for folder in _PICTURE_ROOTS]


@dataclass(frozen=True)
class _Split:
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
            if (fault := type_problem(relative, str)) is not None:
                raise UserError(f"the path {fault}")
            paths[name] = safe_relative(relative)
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


def _read_split(files: _Files, split: str, problems: Problems) -> _Split:
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


def _columns(split: str, paths: Mapping[str, str], known: Mapping[str, int], entries: list[dict[str, Any]]) -> _Split:
    ranked = split != "train"
    return _Split(
        name=split,
        paths=paths,
        ids=tuple(str(e["pairid"]) for e in entries),
        reference=_integers([known[e["reference"]] for e in entries]),
        target=_integers([-1 if split == "test1" else known[e["target_hard"]] for e in entries]),
        captions=tuple((e["caption"],) for e in entries),
        members=_members(entries, known) if ranked else None,
        sets=_integers([e["img_set"]["id"] for e in entries]) if ranked else None,
    )


def _members(entries: list[dict[str, Any]], known: Mapping[str, int]) -> IntArray:
    return _integers([[known[m] for m in e["img_set"]["members"]] for e in entries]).reshape(-1, _MEMBERS)


def _integers(values: list[Any]) -> IntArray:
    return np.array(values, dtype=np.int64)


class CIRR:
    """CIRR, or other data in its layout, as a :class:`benchmark.dataset.Dataset`."""

    info = INFO
    protocols = (
        ProtocolInfo(
            "official",
            "all pictures of the split but the reference; the set's five others for the subset ranking",
            ("val", "test1"),
            ("single",),
        ),
    )

    def __init__(self, root: Path, files: _Files, splits: dict[str, _Split], manifest: Manifest | None) -> None:
        self.root = root
        self.label = INFO.name if manifest is None else manifest.name
        self.is_demo = manifest is not None and manifest.drawn
        self.is_official = manifest is None
        self._files, self._splits, self._manifest = files, splits, manifest
        read = [file.path for split in splits for file in files.of(split)]
        self.fingerprint = digest_of({path.name: file_digest(path) for path in read})
        table = {name: path for split in splits.values() for name, path in split.paths.items()}
        folder = PictureFolder(files.picture_roots())
        self.pictures = Pictures(tuple(table), tuple(folder.resolve(path) for path in table.values()))
        position = {name: i for i, name in enumerate(table)}
        self._position = {split.name: _integers([position[n] for n in split.paths]) for split in splits.values()}

    def train_triplets(self, epoch: int, seed: int, drawing: str = "") -> Triplets:
        """All training triplets; the same in every epoch, whatever the seed and drawing."""
        train, position = self._split("train"), self._position["train"]
        return Triplets(position[train.reference], position[train.target], train.captions)

    def split_pictures(self, split: str) -> IntArray:
        """Indices of the split's pictures in the order of its image list; in training, those of a triplet."""
        columns = self._split(split)
        if split == "train":
            return self._position[split][np.union1d(columns.reference, columns.target)]
        return self._position[split]

    def training_texts(self) -> tuple[Captions, ...]:
        return self._split("train").captions

    def side_texts(self) -> dict[str, tuple[str, ...]]:
        return {}

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        """The one task of a split; raises UserError for unknown names and rules of other text modes."""
        rule = _fitting_rule(split, protocol, text_rule)
        columns = self._split(split)
        assert columns.members is not None
        assert columns.sets is not None
        labelled = split != "test1"
        empty: list[list[int]] = [[] for _ in columns.ids]
        gallery = self.split_pictures(split)
        queries = Queries(
            ids=columns.ids,
            picture=gallery[columns.reference],
            reference=columns.reference,
            texts=tuple(rule.queries(captions)[0] for captions in columns.captions),
            positives=Ragged.single(columns.target) if labelled else Ragged.of(empty),
            group=columns.sets,
            subset=columns.members,
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
            ),
        )

    def counts(self) -> tuple[Counts, ...]:
        return tuple(
            count
            for name, split in self._splits.items()
            for count in compare_counts(name, split.count(), PUBLISHED[name], self._manifest)
        )

    def criterion(self, metrics: dict[str, dict[str, float]]) -> tuple[str, float]:
        """SPIRIT's: (R@5 + R_subset@1)/2, in percent."""
        (values,) = metrics.values()
        return "(R@5 + R_subset@1)/2", (values["R@5"] + values["R_subset@1"]) / 2

    def annotation_files(self) -> tuple[AnnotationFile, ...]:
        """The files of every split, read or not, there or not."""
        return tuple(file for split in SPLITS for file in self._files.of(split))

    def _split(self, name: str) -> _Split:
        if name not in self._splits:
            if name not in SPLITS:
                raise unknown_name("split of cirr", name, SPLITS)
            raise UserError(f"{self.root}: split {name} of cirr was not read; read: {', '.join(self._splits)}")
        return self._splits[name]


def _fitting_rule(split: str, protocol: str, name: str) -> TextRule:
    (known,) = CIRR.protocols
    if protocol != known.name:
        raise unknown_name("protocol of cirr", protocol, [known.name])
    if split in SPLITS and split not in known.splits:
        raise UserError(f"cirr: protocol {protocol} is defined for {' and '.join(known.splits)}, not for {split}")
    rule = text_rule(name)
    if rule.mode not in known.text_modes:
        raise UserError(
            f"cirr: text rule '{name}' gives mode {rule.mode}, and entries have one caption; "
            f"use a rule of mode {' or '.join(known.text_modes)}, such as as-is"
        )
    return rule


def present_splits(root: Path) -> tuple[str, ...]:
    """The splits whose captions and image list are both there."""
    files = _Files.find(root)
    return tuple(split for split in SPLITS if all(file.found for file in files.of(split)))


def load(root: Path, *, splits: tuple[str, ...]) -> CIRR:
    """Read the splits asked for, training first; ``root`` is what `locate_root` found.

    Raises UserError with all problems of all their files. Counts are compared by
    `annotations.require_counts`, the pictures' existence by `annotations.require_pictures`.
    """
    for split in splits:
        if split not in SPLITS:
            raise unknown_name("split of cirr", split, SPLITS)
    files = _Files.find(root)
    countable = {split: tuple(counts) for split, counts in PUBLISHED.items()}
    manifest = read_manifest((files.base, root), INFO.name, countable)
    problems = Problems(INFO.obtain)
    read = {split: _read_split(files, split, problems) for split in SPLITS if split in splits}
    _require_one_path(files, read, problems)
    problems.raise_all()
    return CIRR(root, files, read, manifest)


def _require_one_path(files: _Files, splits: Mapping[str, _Split], problems: Problems) -> None:
    """A name listed by two splits must mean the same picture."""
    table: dict[str, str] = {}
    for split in splits.values():
        for name, path in split.paths.items():
            if table.setdefault(name, path) != path:
                text = f"'{name}' is '{path}' here and '{table[name]}' in another split's list"
                problems.add(files.of(split.name)[1].path, text)
