"""Fashion200k's label files and TIRG's test queries: where they lie, and how they become columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmark.data.annotations import AnnotationFile, Problems, read_names, safe_relative
from benchmark.data.folders import Layouts
from benchmark.dataset import IntArray
from benchmark.errors import UserError
from benchmark.text_rules import punctuation_words

SPLITS = ("train", "test")
CATEGORIES = ("dress", "jacket", "pants", "skirt", "top")
PUBLISHED: Mapping[str, Mapping[str, int]] = {
    "train": {"pictures": 172_049, "captions": 53_099, "modifiable": 106_464},
    "test": {"queries": 33_480, "gallery": 29_789},
}
"""As a public log of TIRG's code prints them; lines of the label files, not files of pictures."""

_QUERIES = "test_queries.txt"
_LABEL_FORM = "must be a path, a detection score and a description, separated by tabs"
_NONE: IntArray = np.empty(0, dtype=np.int64)

LAYOUTS = Layouts(
    marks=tuple(f"labels/{category}_{split}_detect_all.txt" for split in SPLITS for category in CATEGORIES),
    told=(f"labels/ + women/ (official), with {_QUERIES} beside them or in labels/",),
)


@dataclass(frozen=True)
class Fashion200kFiles:
    """Where the annotation files lie. Somebody's own data need not have all five categories."""

    root: Path
    is_own: bool

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
class Fashion200kSplit:
    """One split as columns: its label lines in order of the sorted files, and its queries.

    ``names`` (N,) are paths; ``caption`` (N,) indices into the different cleaned ``captions``
    (C,). ``reference`` and ``target`` (Q,) are label lines; none in training.
    """

    name: str
    names: tuple[str, ...]
    captions: tuple[str, ...]
    caption: IntArray
    reference: IntArray
    target: IntArray


def _lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Lines of a file with their numbers from 1; a file without any is told."""
    before = len(problems)
    lines = read_names(path, problems)
    if not lines and len(problems) == before:
        problems.add(path, "has no lines")
    return enumerate(lines, start=1)


def _read_labels(paths: list[Path], split: str, problems: Problems) -> Fashion200kSplit:
    """The label lines of a split; faulty ones are told and left out."""
    names: list[str] = []
    numbers: dict[str, int] = {}
    caption: list[int] = []
    for path in paths:
        for line, text in _lines(path, problems):
            try:
                name, score, description = text.split("\t")
                float(score)
                names.append(safe_relative(name))
            except ValueError:
                problems.add(path, f"line {line}: {_LABEL_FORM}")
            except UserError as error:
                problems.add(path, f"line {line}: {error}")
            else:
                caption.append(numbers.setdefault(punctuation_words(description), len(numbers)))
    return Fashion200kSplit(split, tuple(names), tuple(numbers), np.asarray(caption, dtype=np.int64), _NONE, _NONE)


def _read_queries(path: Path, labels: Fashion200kSplit, problems: Problems) -> Fashion200kSplit:
    """The queries of a split beside its labels; ``labels`` without lines are not compared with."""
    # Of a picture that is labelled twice the later line counts, as in TIRG's release.
    known = {name: line for line, name in enumerate(labels.names)}
    pairs: list[tuple[int, int]] = []
    for line, text in _lines(path, problems):
        faults = list(_query_faults(text.split(), labels, known))
        for fault in faults:
            problems.add(path, f"line {line}: {fault}")
        if not faults and known:
            reference, target = (known[_plain(name, known)] for name in text.split())
            pairs.append((reference, target))
    columns = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    return replace(labels, reference=columns[:, 0], target=columns[:, 1])


def _query_faults(names: list[str], labels: Fashion200kSplit, known: Mapping[str, int]) -> Iterator[str]:
    if len(names) != 2:
        yield f"has {len(names)} parts; the paths of a reference and of a target are expected, a blank between"
        return
    lines = []
    for role, name in zip(("reference", "target"), names, strict=True):
        try:
            line = known.get(_plain(name, known))
        except UserError as error:
            yield str(error)
            continue
        if line is not None:
            lines.append(line)
        elif known:
            yield f"{role} '{name}' is not in the test labels"
    if len(lines) == 2 and labels.caption[lines[0]] == labels.caption[lines[1]]:
        yield f"reference and target have the same description, '{labels.captions[labels.caption[lines[0]]]}'"


def _plain(name: str, known: Mapping[str, int]) -> str:
    return name if name in known else safe_relative(name)


def read_split(files: Fashion200kFiles, split: str, problems: Problems) -> Fashion200kSplit:
    before = len(problems)
    for file in files.of(split):
        if not file.found:
            problems.add(file.path, f"no such file; split {split} is read from it")
    labels = _read_labels([path for path in files.labels(split) if path.is_file()], split, problems)
    if split == "train" or not files.queries.is_file():
        return labels
    # With labels missing or left out, most queries would name unknown pictures.
    whole = labels if len(problems) == before else Fashion200kSplit(split, (), (), _NONE, _NONE, _NONE)
    return _read_queries(files.queries, whole, problems)
