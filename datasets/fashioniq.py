"""FashionIQ: pairs of product pictures in three categories, two captions for every pair.

Source: H. Wu, Y. Gao, X. Guo, Z. Al-Halah, S. Rennie, K. Grauman, R. Feris, "Fashion IQ: A New Dataset
Towards Retrieving Images by Natural Language Feedback", CVPR 2021. Each category is a task of its own.
``original`` ranks the category's whole image list, ``val`` (VAL's preparation) only the pictures that are
a reference or a target; ``-noref`` leaves the query's reference out. The labels of `test` were never
released: it is ranked, not scored.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
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
from benchmark.data.dictionaries import WordDictionary, dictionary_notes
from benchmark.data.folders import format_doubles, squashed_size
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
from benchmark.errors import unknown_name
from benchmark.facts_file import dataset_info
from benchmark.text_rules import CORRECTED, TextRule

from .readers.fashioniq import CATEGORIES, SPLITS, Category, FashionIQFiles, FashionIQSplit, read_category
from .readers.fashioniq import LAYOUTS as LAYOUTS

INFO = dataset_info(__file__)

_VAL = {
    "dress": {"queries": 2_017, "gallery": 3_817, "VAL gallery": 2_628, "per-caption queries": 4_034},
    "shirt": {"queries": 2_038, "gallery": 6_346, "VAL gallery": 3_089, "per-caption queries": 4_075},
    "toptee": {"queries": 1_961, "gallery": 5_373, "VAL gallery": 2_902, "per-caption queries": 3_920},
}
_TRAIN = {
    "dress": {"triplets": 5_985, "pictures": 11_452, "per-caption triplets": 11_970},
    "shirt": {"triplets": 5_988, "pictures": 19_036, "per-caption triplets": 11_976},
    "toptee": {"triplets": 6_027, "pictures": 16_121, "per-caption triplets": 12_042},
}
_TEST = {
    "dress": {"queries": 2_024, "gallery": 3_818},
    "shirt": {"queries": 2_038, "gallery": 6_346},
    "toptee": {"queries": 2_056, "gallery": 5_374},
}
PUBLISHED: Mapping[str, Mapping[str, int]] = {
    split: {f"{category} {what}": n for category, counts in table.items() for what, n in counts.items()}
    for split, table in (("train", _TRAIN), ("val", _VAL), ("test", _TEST))
}
_TEXT_MODES = ("joined", "per-caption", "both-orders", CORRECTED)


class FashionIQ(AnnotatedDataset[FashionIQSplit]):
    """FashionIQ, or other data in its layout, as a :class:`benchmark.dataset.Dataset`."""

    info, published = INFO, PUBLISHED
    protocols = (
        ProtocolInfo("original", "the category's whole image list, the reference ranked", ("val", "test"), _TEXT_MODES),
        ProtocolInfo("original-noref", "the whole image list but the reference", ("val", "test"), _TEXT_MODES),
        ProtocolInfo("val", "the references and targets, the query's reference ranked", ("val",), _TEXT_MODES),
        ProtocolInfo("val-noref", "the references and targets but the query's reference", ("val",), _TEXT_MODES),
    )

    def __init__(self, files: FashionIQFiles, splits: Mapping[str, FashionIQSplit], manifest: Manifest | None) -> None:
        super().__init__(files.root, files, splits, manifest)
        names = tuple(dict.fromkeys(n for split in splits.values() for part in split.values() for n in part.names))
        folder, index = files.picture_folder()
        self.pictures = Pictures(names, tuple(index.paths.get(name, folder / f"{name}.jpg") for name in names))
        self._doubles = index.doubles & set(names)
        self._number = {name: i for i, name in enumerate(names)}
        bases = [base / folder for base in (files.base, files.root) for folder in ("captions", "json", "")]
        self._places = [files.captions, *bases]
        self.dictionaries = {c: WordDictionary(INFO, c, self._places) for c in CATEGORIES}
        self.side_files = self._side_files_of(splits)
        self.categories = tuple(c for c in CATEGORIES if any(c in split for split in splits.values()))

    def _side_files_of(self, splits: Mapping[str, FashionIQSplit]) -> SideFiles:
        parts = [(split, category) for split, categories in splits.items() for category in categories]
        texts, notes = (f"{c} {s}" for s, c in parts), dict.fromkeys(c for s, c in parts if s != "test")
        return SideFiles(INFO, self._places, texts, notes)

    def of_category(self, name: str) -> FashionIQ:
        """Its triplets, pictures and tasks alone; the table of pictures and the fingerprint are the whole data's."""
        part = copy.copy(self)
        part._splits = {split: {name: parts[name]} for split, parts in self._splits.items() if name in parts}
        part.side_files = self._side_files_of(part._splits)
        part.dictionaries = {name: self.dictionaries[name]}
        return part

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        """All triplets, category after category; the same in every epoch, whatever the seed and pair sampling."""
        train = self._split("train")
        numbers = {category: self._numbers(part.names) for category, part in train.items()}
        return Triplets(
            np.concatenate([numbers[category][part.reference] for category, part in train.items()]),
            np.concatenate([numbers[category][part.target] for category, part in train.items()]),
            self.training_texts(),
        )

    def split_pictures(self, split: str) -> IntArray:
        """The pictures of all categories in the order of their lists, each once; in training, those of a triplet."""
        parts = self._split(split).values()
        lists = ([part.names[i] for i in part.used] if split == "train" else part.names for part in parts)
        return self._numbers(tuple(dict.fromkeys(name for names in lists for name in names)))

    def training_texts(self) -> tuple[Captions, ...]:
        train = self._split("train")
        return tuple(captions for name, part in train.items() for captions in self._captions("train", name, part))

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        """A task for each category; raises UserError for unknown names and rules of other text modes."""
        rule = fitting_rule(INFO.name, self.protocols, SPLITS, split, protocol, text_rule)
        return tuple(
            self._task(TaskKey(self.label, split, protocol, rule.mode, category), part, rule)
            for category, part in self._split(split).items()
        )

    def _task(self, key: TaskKey, part: Category, rule: TextRule) -> Task:
        ranked = part.used if key.protocol.startswith("val") else np.arange(len(part.names), dtype=np.int64)
        position = np.full(len(part.names), -1, dtype=np.int64)
        position[ranked] = np.arange(len(ranked))
        dictionary = self.dictionaries[key.category]
        own = self._captions(key.split, key.category, part)
        asked = [(line, texts) for line, captions in enumerate(own) if (texts := rule.queries(captions))]
        entry = integers(line for line, texts in asked for _ in texts)
        numbers, reference, target = self._numbers(part.names), part.reference[entry], part.target[entry]
        labelled = key.split != "test"
        return Task(
            key=key,
            queries=Queries(
                ids=tuple(name for line, texts in asked for name in _ids(f"{key.category}/{line}", len(texts))),
                reference_picture=numbers[reference],
                reference_in_gallery=position[reference],
                texts=tuple(text for _, texts in asked for text in texts),
                positives=Ragged.single(position[target]) if labelled else Ragged.of([[] for _ in entry]),
                group=reference,
                captions=tuple(own[line] for line in entry.tolist()),
            ),
            gallery=numbers[ranked],
            exclude_reference=key.protocol.endswith("-noref"),
            cutoffs=(10, 50),
            average="mean(R@10,R@50)",
            labelled=labelled,
            notes=(*self.warnings, *(dictionary_notes([dictionary]) if rule.corrects else ())),
        )

    def _captions(self, split: str, category: str, part: Category) -> tuple[Captions, ...]:
        """Those of a category, each knowing its dictionary and its side texts; of `test` there are none."""
        dictionary, names = self.dictionaries[category], part.names
        pairs = zip(part.reference.tolist(), part.target.tolist(), strict=True)
        keys = ((names[reference], names[target]) for reference, target in pairs)
        return tuple(
            dictionary.captions(captions, self.side_files.of(f"{category} {split}", own, category, f"{own}_{target}"))
            for captions, (own, target) in zip(part.captions, keys, strict=True)
        )

    def _count(self, name: str, split: FashionIQSplit) -> dict[str, int]:
        counts = {category: part.count(name) for category, part in split.items()}
        return {f"{category} {what}": number for category, count in counts.items() for what, number in count.items()}

    def criterion(self, metrics: dict[str, dict[str, float]]) -> tuple[str, float]:
        """SPIRIT's: the mean over categories of (R@10 + R@50)/2, in percent."""
        values = [(recalls["R@10"] + recalls["R@50"]) / 2 for recalls in metrics.values()]
        return "(R@10 + R@50)/2, mean of the categories", sum(values) / len(values)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What may change the numbers and is no error: copies of a picture, and squashed pictures."""
        found = [
            *format_doubles(self._doubles, "the .jpg is taken before others, then the first in the folders' order")
        ]
        width = None if self.is_demo else squashed_size(self.pictures.paths)
        if width is not None:
            found.append(
                f"the pictures seem to be squashed copies: all looked at are {width}x{width}; padding them to a "
                "square does nothing, and numbers differ from those on the original pictures"
            )
        return tuple(found)

    def _numbers(self, names: Sequence[str]) -> IntArray:
        return integers(self._number[name] for name in names)


def _ids(name: str, count: int) -> list[str]:
    """The name itself for one query of an entry, numbered names for several."""
    return [name] if count == 1 else [f"{name}/{i}" for i in range(count)]


def present_splits(root: Path) -> tuple[str, ...]:
    """The splits of which all files are there: of all categories, or of those that own data has."""
    return whole_splits(_files(root), SPLITS)


def _files(root: Path, categories: tuple[str, ...] = ()) -> FashionIQFiles:
    files = FashionIQFiles.find(root, categories)
    return replace(files, is_own=manifest_path(INFO, LAYOUTS, files.base, root) is not None)


def load(root: Path, *, splits: tuple[str, ...], categories: tuple[str, ...] = ()) -> FashionIQ:
    """Read the splits asked for, training first; ``root`` is what `locate_root` found.

    All three categories are read, of data with a manifest those that it has; ``categories`` names fewer, to
    check a part of the files. Raises UserError with all problems of all files. Counts are compared by
    `annotated.require_counts`, the pictures' existence by `folders.require_pictures`.
    """
    require_known(INFO, PUBLISHED, splits)
    for category in categories:
        if category not in CATEGORIES:
            raise unknown_name(f"category of {INFO.name}", category, CATEGORIES)
    files = _files(root, categories)
    manifest = read_manifest(manifest_path(INFO, LAYOUTS, files.base, root), INFO.name, PUBLISHED)
    problems = Problems(advice(INFO, manifest))
    read = {
        split: {
            category: read_category(files.of_category(split, category), category, problems)
            for category in files.there(split)
        }
        for split in SPLITS
        if split in splits
    }
    problems.raise_all()
    return FashionIQ(files, read, manifest)
