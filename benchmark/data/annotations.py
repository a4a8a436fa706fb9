"""Reading a data folder: where it lies, its annotation files, its manifest, its pictures' paths.

Every dataset of the shelf reads through here, so that wrong files are told in one way: all
problems of all files in one go, each with its file and entry. Entries count from 0, as the query
ids do; lines of text files count from 1, as editors do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.dataset import Counts, Dataset, DatasetInfo, IntArray, Pictures
from benchmark.errors import UserError
from benchmark.files import read_json

MANIFEST = "dataset.json"
_SHOWN = 10
_TYPE_WORDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class Problems:
    """Collects what is wrong with the files of a folder and tells it in one error.

    ``advice`` ends the error: where to get the files again.
    """

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self._by_file: dict[str, list[str]] = {}

    def add(self, path: Path, text: str) -> None:
        """``text`` says where in the file (entry or line) and what."""
        self._by_file.setdefault(str(path), []).append(f"{path}: {text}")

    def add_error(self, path: Path, error: UserError) -> None:
        """An error that names the file itself."""
        self._by_file.setdefault(str(path), []).append(str(error))

    def __len__(self) -> int:
        return sum(map(len, self._by_file.values()))

    def raise_all(self) -> None:
        """Raise UserError with the first ten problems of every file and their count, if there are any."""
        lines: list[str] = []
        for path, found in self._by_file.items():
            lines += found[:_SHOWN]
            if len(found) > _SHOWN:
                lines.append(f"{path}: {len(found):,} problems in all, the first {_SHOWN} are shown")
        if lines:
            lines[-1] = f"{lines[-1]}; {self._advice}" if self._advice else lines[-1]
            raise UserError.collect(lines)


def type_problem(value: object, wanted: type) -> str | None:
    """What is wrong with a value's type, in words; a bool is no number here."""
    if isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)):
        return None
    shown = repr(value)
    return f"is {shown if len(shown) <= 60 else shown[:57] + '...'}, not {_TYPE_WORDS[wanted]}"


def read_records(path: Path, required: Mapping[str, type], problems: Problems) -> list[tuple[int, dict[str, Any]]]:
    """Entries of a JSON list of objects with their numbers; faulty ones are told and left out.

    ``required``: key → type. Other keys are ignored.
    """
    try:
        content = read_json(path)
    except UserError as error:
        problems.add_error(path, error)
        return []
    if not isinstance(content, list) or not content:
        problems.add(path, "must be a JSON list of entries" + (" and is empty" if content == [] else ""))
        return []
    good = []
    for number, record in enumerate(content):
        faults = list(_record_faults(record, required))
        for fault in faults:
            problems.add(path, f"entry {number}: {fault}")
        if not faults:
            good.append((number, record))
    return good


def _record_faults(record: object, required: Mapping[str, type]) -> Iterator[str]:
    if not isinstance(record, dict):
        yield "must be an object with keys " + ", ".join(required)
        return
    for key, wanted in required.items():
        if key not in record:
            yield f"key '{key}' is missing"
        elif (fault := type_problem(record[key], wanted)) is not None:
            yield f"'{key}' {fault}"


def read_names(path: Path, problems: Problems) -> list[str]:
    """Lines of a UTF-8 text file; any line ends, blanks around a line and final empty lines are dropped."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        problems.add(path, "no such file")
        return []
    except UnicodeDecodeError as error:
        problems.add(path, f"not UTF-8 text (byte {error.start})")
        return []
    lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not line:
            problems.add(path, f"line {number} is empty")
    return [line for line in lines if line]


def safe_relative(path: str) -> str:
    """``./dev/a.png`` → ``dev/a.png``; UserError where it is empty, absolute or climbs out with ``..``."""
    parts = path.replace("\\", "/").split("/")
    if path.startswith(("/", "\\")) or (len(path) > 1 and path[1] == ":"):
        raise UserError(f"path '{path}' is absolute; a path below the data folder is expected")
    if ".." in parts:
        raise UserError(f"path '{path}' leaves the data folder through '..'")
    kept = [part for part in path.split("/") if part not in ("", ".")]
    if not kept or "\0" in path:
        raise UserError(f"path '{path}' names no file")
    return "/".join(kept)


@dataclass(frozen=True)
class Manifest:
    """`dataset.json`: a folder with one is demo data (``drawn``) or somebody's own, called by ``name``.

    ``counts``: split → what is counted → number; compared where given.
    """

    name: str
    drawn: bool = False
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def read_manifest(folders: Iterable[Path], reserved: str, countable: Mapping[str, Sequence[str]]) -> Manifest | None:
    """The manifest in the first of the folders that has one.

    ``reserved``: the official data's name, which no manifest may take. ``countable``: split →
    names of counts. Raises UserError where the manifest has a wrong form.
    """
    path = next((f / MANIFEST for f in folders if (f / MANIFEST).is_file()), None)
    if path is None:
        return None
    problems = Problems("correct it; the README says what a manifest holds")
    content = read_json(path)
    record = content if isinstance(content, dict) else {}
    for fault in _record_faults(content, {"name": str}):
        problems.add(path, fault)
    name, drawn, counts = record.get("name", ""), record.get("drawn", False), record.get("counts", {})
    if isinstance(name, str) and "name" in record and (name == reserved or not _is_plain(name)):
        problems.add(path, f"'name' is {name!r}; choose letters, digits, '-', '_' and '.', not '{reserved}'")
    if (drawn_fault := type_problem(drawn, bool)) is not None:
        problems.add(path, f"'drawn' {drawn_fault}")
    for fault in _count_faults(counts, countable):
        problems.add(path, fault)
    problems.raise_all()
    return Manifest(name, drawn, counts)


def _is_plain(name: str) -> bool:
    """Whether a name can stand in tables and as a folder's name."""
    return name[:1].isalnum() and all(letter.isalnum() or letter in "-_." for letter in name)


def _count_faults(counts: object, countable: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if not isinstance(counts, dict):
        yield "'counts' must be an object"
        return
    for split, numbers in counts.items():
        if split not in countable or not isinstance(numbers, dict):
            yield f"'counts' has '{split}'; known, each an object: {', '.join(countable)}"
            continue
        for what, number in numbers.items():
            if what not in countable[split]:
                yield f"'counts' of {split} has '{what}'; known: {', '.join(countable[split])}"
            elif (fault := type_problem(number, int)) is not None:
                yield f"'counts' of {split}: '{what}' {fault}"


def compare_counts(
    split: str, found: Mapping[str, int], published: Mapping[str, int], manifest: Manifest | None
) -> tuple[Counts, ...]:
    """Counts of a split beside the published ones, or beside the manifest's where there is one."""
    expected = published if manifest is None else manifest.counts.get(split, {})
    return tuple(Counts(split, what, number, expected.get(what)) for what, number in found.items())


def count_problems(dataset: Dataset) -> list[str]:
    """A line for every count that differs from the published one or the manifest's."""
    source = "published" if dataset.is_official else f"stated in {MANIFEST}"
    return [
        f"{dataset.root}: {dataset.info.name} {c.split} has {c.found:,} {c.what}, {c.expected:,} are "
        f"{source}; complete the folder (see `data verify`), or give it a {MANIFEST} of its own"
        for c in dataset.counts()
        if c.expected is not None and c.found != c.expected
    ]


def require_counts(dataset: Dataset) -> None:
    """Raise UserError unless every count is as published. A run that allows gaps asks `count_problems`."""
    if found := count_problems(dataset):
        raise UserError.collect(found)


def picture_problem(path: Path) -> str | None:
    """What is wrong with a picture as far as its directory entry tells: missing or empty."""
    try:
        size = path.stat().st_size
    except OSError:
        return f"{path}: no such picture"
    return None if size else f"{path}: the picture is empty (0 bytes)"


def picture_problems(pictures: Pictures, indices: IntArray) -> list[str]:
    """A line for every one of these pictures that is missing or empty; nothing is decoded."""
    checked = (picture_problem(pictures.paths[i]) for i in indices.tolist())
    return [problem for problem in checked if problem is not None]


def require_pictures(dataset: Dataset, indices: IntArray) -> None:
    """Raise UserError with the first ten missing or empty pictures and their count."""
    found = picture_problems(dataset.pictures, indices)
    if found:
        rest = f"{len(found):,} of {len(indices):,} pictures needed are missing or empty"
        raise UserError.collect([*found[:_SHOWN], f"{dataset.root}: {rest}; {dataset.info.obtain}"])


@dataclass(frozen=True)
class AnnotationFile:
    """A file that a split is read from, and whether it is there."""

    split: str
    path: Path

    @property
    def found(self) -> bool:
        return self.path.is_file()


@dataclass(frozen=True)
class Layouts:
    """How a dataset's folder is recognised: ``marks`` are files, any of which makes a folder its root.

    ``told`` describes the accepted layouts to a person.
    """

    marks: tuple[str, ...]
    told: tuple[str, ...]


def locate_root(info: DatasetInfo, layouts: Layouts, data_root: Path) -> Path:
    """The dataset's folder: ``data_root`` itself, or one of its usual sub-folder names in there.

    Raises UserError that names the files looked for, where, and the layouts that would do.
    """
    if not data_root.is_dir():
        raise UserError(f"--data-root {data_root}: no such folder; give the one that holds {info.title}")
    for root in (data_root, *(data_root / name for name in info.folders)):
        if any((root / mark).is_file() for mark in layouts.marks):
            return root
    raise UserError(
        f"--data-root {data_root}: {info.name} not found: no {layouts.marks[0]} (or like it) in it or in its "
        f"sub-folders {', '.join(info.folders)}; layouts that would do: {'; '.join(layouts.told)}; "
        f"{info.obtain}"
    )


class PictureFolder:
    """Finds pictures under several roots; each folder is listed once, no picture is touched."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self.roots = tuple(dict.fromkeys(Path(os.path.normpath(root)) for root in roots))
        self._listings: dict[str, list[tuple[Path, frozenset[str]]]] = {}

    def resolve(self, relative: str) -> Path:
        """The path of ``relative`` under the first root that has it.

        Where none has it, the path where it would be expected: such a picture is told as missing
        when something needs it.
        """
        folder, _, name = relative.rpartition("/")
        if folder not in self._listings:
            self._listings[folder] = [
                (path, listing) for root in self.roots if (listing := _listing(path := root / folder)) is not None
            ]
        places = self._listings[folder]
        for path, listing in places:
            if name in listing:
                return path / name
        return (places[0][0] if places else self.roots[0] / folder) / name


def _listing(folder: Path) -> frozenset[str] | None:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return None


@dataclass(frozen=True)
class StemIndex:
    """Picture files by name without ending; ``doubles`` were there more than once."""

    paths: Mapping[str, Path]
    doubles: tuple[str, ...]


def index_by_stem(roots: Iterable[Path], endings: Sequence[str] = (".jpg", ".jpeg", ".png")) -> StemIndex:
    """Index every picture file below the roots, at any depth; of a double the first ending wins."""
    found: dict[str, list[Path]] = {}
    for root in roots:
        for folder, subfolders, names in os.walk(root):
            subfolders.sort()
            for name in sorted(names):
                stem, ending = os.path.splitext(name)
                if ending.lower() in endings:
                    found.setdefault(stem, []).append(Path(folder, name))
    order = {ending: i for i, ending in enumerate(endings)}
    paths = {stem: min(these, key=lambda p: order[p.suffix.lower()]) for stem, these in found.items()}
    return StemIndex(paths, tuple(stem for stem, these in found.items() if len(these) > 1))
