"""Reading Shoes' annotation files: relative captions, image lists, and what can be ranked with them.

The two evaluation lists in circulation are told apart by their length. ShoesFiles that ARTEMIS' script derives
from the originals are read only where an original is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.data.annotated import Manifest
from benchmark.data.annotations import (
    AnnotationFile,
    Problems,
    list_faults,
    name_problem,
    path_problem,
    read_names,
    read_records,
    relative_path,
)
from benchmark.data.folders import Layouts
from benchmark.errors import UserError
from benchmark.structured_files import read_json

SPLITS = ("train", "test")
OFFICIAL_NAMES, VAL_NAMES = 4_658, 4_621
_ENTRY: Mapping[str, type] = {"ImageName": str, "ReferenceImageName": str, "RelativeCaption": str}
_PLACES = (".", "dataset")
_DERIVED = {"train": "train", "test": "val"}  # the name of a split in the files of ARTEMIS' script

LAYOUTS = Layouts(
    marks=tuple(
        Path(place, name).as_posix()
        for place in _PLACES
        for name in ("relative_captions_shoes.json", "triplet.train.json", "triplet.val.json")
    ),
    told=(
        "relative_captions_shoes.json + train_im_names.txt + eval_im_names.txt, pictures at any depth (official)",
        "split.{train,val}.json + triplet.{train,val}.json (ARTEMIS, SPIRIT)",
    ),
)


@dataclass(frozen=True)
class ShoesFiles:
    """Where the annotation files lie. A derived file stands in for an original only where that is missing."""

    root: Path
    base: Path

    @classmethod
    def find(cls, root: Path) -> ShoesFiles:
        marks = {Path(mark).name for mark in LAYOUTS.marks}
        bases = (root / place for place in _PLACES)
        return cls(root, next((base for base in bases if any((base / mark).is_file() for mark in marks)), root))

    @property
    def derives_captions(self) -> bool:
        """Whether the relative captions have to be read from the derived files."""
        derived = (self.base / f"triplet.{name}.json" for name in _DERIVED.values())
        return not (self.base / "relative_captions_shoes.json").is_file() and any(path.is_file() for path in derived)

    def captions(self, split: str) -> Path:
        original = "relative_captions_shoes.json"
        return self.base / (f"triplet.{_DERIVED[split]}.json" if self.derives_captions else original)

    def lists(self, split: str) -> tuple[Path, ...]:
        """The image lists of a split: one, and in `test` every list beside the plain one."""
        plain = self.base / ("train_im_names.txt" if split == "train" else "eval_im_names.txt")
        others = () if split == "train" else sorted(set(self.base.glob("eval_im_names*.txt")) - {plain})
        found = tuple(path for path in (plain, *others) if path.is_file())
        derived = self.base / f"split.{_DERIVED[split]}.json"
        return found or ((derived,) if derived.is_file() else (plain,))

    def of(self, split: str) -> tuple[AnnotationFile, ...]:
        return tuple(AnnotationFile(split, path) for path in (self.captions(split), *self.lists(split)))


@dataclass(frozen=True)
class Entry:
    """One relative caption; ``number`` counts in its file."""

    number: int
    reference: str
    target: str
    caption: str


@dataclass(frozen=True)
class ImageList:
    """An image list and the file that it was read from."""

    path: Path
    names: tuple[str, ...]


@dataclass(frozen=True)
class Training:
    names: tuple[str, ...]
    entries: tuple[Entry, ...]

    @property
    def used(self) -> tuple[str, ...]:
        """The pictures of a triplet, in list order."""
        used = {name for entry in self.entries for name in (entry.reference, entry.target)}
        return tuple(name for name in self.names if name in used)

    def count(self) -> dict[str, int]:
        return {"triplets": len(self.entries), "pictures": len(self.names)}


@dataclass(frozen=True)
class Ranking:
    """What a group of protocols ranks: queries against picture names, in order."""

    entries: tuple[Entry, ...]
    gallery: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """The evaluation split: what can be ranked by the name of its protocols, and why not what cannot."""

    rankings: Mapping[str, Ranking]
    refusals: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for ranking in self.rankings.values() for name in ranking.gallery))

    def count(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for name, ranking in self.rankings.items():
            prefix = "" if name == "official" else f"{name} "
            counts |= {f"{prefix}queries": len(ranking.entries), f"{prefix}gallery": len(ranking.gallery)}
        return counts


ShoesSplit = Training | Evaluation


def _read_list(path: Path, split: str, problems: Problems) -> ImageList:
    if not path.is_file():
        problems.add(path, f"no such file; split {split} is read from it")
        return ImageList(path, ())
    before = len(problems)
    names = read_names(path, problems) if path.suffix == ".txt" else _read_derived_names(path, problems)
    word, first = ("line", 1) if path.suffix == ".txt" else ("entry", 0)
    for fault in list_faults(names, word, first):
        problems.add(path, fault)
    if not names and len(problems) == before:
        problems.add(path, "names no picture")
    return ImageList(path, tuple(names))


def _read_derived_names(path: Path, problems: Problems) -> list[str]:
    """A JSON list of paths relative to the pictures' folder, as the base names that the captions use."""
    try:
        content = read_json(path)
    except UserError as error:
        problems.add_error(path, error)
        return []
    if not isinstance(content, list):
        problems.add(path, "must be a JSON list of paths")
        return []
    names = []
    for number, relative in enumerate(content):
        try:
            names.append(_base(relative_path(relative)))
        except UserError as error:
            problems.add(path, f"entry {number}: {error}")
    return names


def _read_entries(path: Path, derived: bool, problems: Problems) -> list[Entry]:
    entries: list[Entry] = []
    first: dict[tuple[str, str], int] = {}
    for number, record in read_records(path, _ENTRY, problems):
        faults = list(_faults(record, derived))
        reference, target = _base(record["ReferenceImageName"]), _base(record["ImageName"])
        entry = Entry(number, reference, target, record["RelativeCaption"])
        pair = (entry.reference, entry.target)
        if first.setdefault(pair, number) != number:
            faults.append(f"the same pictures as entry {first[pair]}")
        for fault in faults:
            problems.add(path, f"entry {number}: {fault}")
        entries.append(entry)
    return entries


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _faults(record: Mapping[str, Any], derived: bool) -> Iterator[str]:
    for key in ("ImageName", "ReferenceImageName"):
        fault = path_problem(record[key]) if derived else name_problem(record[key])
        if fault is not None:
            yield f"{key}: {fault}"
    if not record["RelativeCaption"].strip():
        yield "RelativeCaption is empty"


def _within(entry: Entry, names: frozenset[str]) -> int:
    """How many of the two pictures are among the names."""
    return (entry.reference in names) + (entry.target in names)


class Reader:
    """Reads the splits of a folder; problems of all files come together."""

    def __init__(self, files: ShoesFiles, manifest: Manifest | None, obtain: str) -> None:
        self._files, self._manifest = files, manifest
        self._problems = Problems(obtain)
        self._entries: dict[Path, list[Entry]] = {}
        self._listed: set[str] = set()
        self._some_list_is_empty = False

    def read(self, splits: Sequence[str]) -> dict[str, ShoesSplit]:
        read: dict[str, ShoesSplit] = {}
        if "train" in splits:
            read["train"] = self._train()
        if "test" in splits:
            read["test"] = self._test()
        if len(read) == len(SPLITS):
            self._refuse_unlisted()
        self._problems.raise_all()
        return read

    def _captions(self, split: str) -> list[Entry]:
        path = self._files.captions(split)
        if path not in self._entries:
            if path.is_file():
                self._entries[path] = _read_entries(path, self._files.derives_captions, self._problems)
            else:
                self._problems.add(path, f"no such file; split {split} is read from it")
                self._entries[path] = []
        return self._entries[path]

    def _lists(self, split: str) -> list[ImageList]:
        lists = [_read_list(path, split, self._problems) for path in self._files.lists(split)]
        self._some_list_is_empty |= not all(found.names for found in lists)
        return lists

    def _train(self) -> Training:
        (listed,) = self._lists("train")
        names = frozenset(listed.names)
        self._listed |= names
        entries = self._captions("train")
        self._refuse_halves(self._files.captions("train"), entries, listed)
        return Training(listed.names, tuple(e for e in entries if _within(e, names) == 2))

    def _test(self) -> Evaluation:
        lists = self._lists("test")
        official, val = self._roles(lists)
        entries = self._captions("test")
        rankings = {}
        if official is not None:
            self._refuse_halves(self._files.captions("test"), entries, official)
            rankings["official"] = _both_listed(entries, official)
        if val is not None:
            if not self._files.derives_captions:
                rankings["val"] = _one_listed(entries, val)
            rankings["val-list"] = _both_listed(entries, val)
        for ranking in rankings.values():
            self._listed |= set(ranking.gallery)
        return Evaluation(rankings, _refusals(official, val, rankings))

    def _roles(self, lists: Sequence[ImageList]) -> tuple[ImageList | None, ImageList | None]:
        """The official list and VAL's, told apart by their length; in own data the plain file's is the official.

        A list of another length is taken for the official one, and its count differs.
        """
        if self._manifest is not None:
            return lists[0], lists[1] if len(lists) > 1 else None
        val = next((found for found in lists if len(found.names) == VAL_NAMES), None)
        others = [found for found in lists if len(found.names) != VAL_NAMES]
        others.sort(key=lambda found: len(found.names) != OFFICIAL_NAMES)
        return others[0] if others else None, val

    def _refuse_halves(self, path: Path, entries: Sequence[Entry], listed: ImageList) -> None:
        names = frozenset(listed.names)
        for entry in entries if names else []:
            if _within(entry, names) == 1:
                outside = entry.target if entry.reference in names else entry.reference
                text = f"entry {entry.number}: one of its pictures, '{outside}', is not in {listed.path.name}"
                self._problems.add(path, text)

    def _refuse_unlisted(self) -> None:
        # What a list that could not be read would name is no fault of the captions.
        listed = frozenset(self._listed)
        for path, entries in self._entries.items():
            for entry in entries if not self._some_list_is_empty else []:
                if not _within(entry, listed):
                    self._problems.add(path, f"entry {entry.number}: '{entry.target}' is in no image list")


def _both_listed(entries: Sequence[Entry], listed: ImageList) -> Ranking:
    names = frozenset(listed.names)
    return Ranking(tuple(e for e in entries if _within(e, names) == 2), listed.names)


def _one_listed(entries: Sequence[Entry], listed: ImageList) -> Ranking:
    """VAL's: a query with one picture in the list is asked, and both its pictures join the gallery."""
    names = frozenset(listed.names)
    asked = tuple(e for e in entries if _within(e, names) >= 1)
    pictures = [name for e in asked for name in (e.reference, e.target)]
    return Ranking(asked, tuple(dict.fromkeys([*listed.names, *pictures])))


def _refusals(official: ImageList | None, val: ImageList | None, rankings: Mapping[str, Ranking]) -> dict[str, str]:
    """Why a protocol cannot be built, by its base name."""
    found = {}
    if val is None and official is not None:
        reason = (
            f"needs the evaluation list of VAL's release, of {VAL_NAMES:,} names; {official.path} has "
            f"{len(official.names):,}; put VAL's beside it as eval_im_names.val-release.txt, or use --protocol official"
        )
        found = {"val": reason, "val-list": reason}
    if official is None and val is not None:
        known = len(rankings["val"].gallery) if "val" in rankings else len(val.names)
        found["official"] = (
            f"needs the official evaluation list; {val.path} is that of VAL's release, and {OFFICIAL_NAMES - known} "
            "gallery names are missing; get dataset/eval_im_names.txt of "
            "https://github.com/XiaoxiaoGuo/fashion-retrieval, or use --protocol val or val-list"
        )
    if val is not None and "val" not in rankings:
        found["val"] = (
            "needs relative_captions_shoes.json of https://github.com/XiaoxiaoGuo/fashion-retrieval: the derived "
            "triplet.val.json leaves out the queries with one picture outside the list"
        )
    return found
