"""The dataset contract: pictures, triplets to train on, tasks to evaluate.

Everything is columnar: arrays of picture indices into one table of pictures, and strings only
where texts are. A dataset class reads annotation files and gives these; it opens no picture.

Notation: P pictures, N triplets, Q queries, G gallery pictures, S members of a subset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from benchmark.facts import DatasetInfo as DatasetInfo

IntArray = NDArray[np.int64]

Captions = tuple[str, ...]
"""The raw modification texts of one triplet or query, in file order; one or more."""


class Words(Protocol):
    """A dictionary, wrong word to right word."""

    @property
    def words(self) -> Mapping[str, str]: ...


class SideTexts(Protocol):
    """What is known of a pair beside its captions; files are read when it is first asked for.

    ``picture_text``: a caption of the reference picture. ``note``: the words that are shown on the reference, a phrase
    or several, separated by comma and blank; they say what the captions ask for. Both raise UserError where the files
    that have them are missing, or have nothing of this pair.
    """

    @property
    def picture_text(self) -> str: ...

    @property
    def note(self) -> str: ...


class CategoryCaptions(tuple[str, ...]):
    """Captions that know what belongs to them, wherever they are taken: the dictionary of their category, since the
    same captions are corrected otherwise in another one, and the side texts of their pair. Only what asks for one of
    them reads it; each is None where the dataset has none."""

    dictionary: Words | None
    side: SideTexts | None

    def __new__(
        cls, captions: Captions, dictionary: Words | None = None, side: SideTexts | None = None
    ) -> CategoryCaptions:
        made = super().__new__(cls, captions)
        made.dictionary, made.side = dictionary, side
        return made


class ConceptCaptions(tuple[str, ...]):
    """Captions that know what reference and target have in common. Only the text rules `with-concept…` read it."""

    concept: str

    def __new__(cls, captions: Captions, concept: str) -> ConceptCaptions:
        made = super().__new__(cls, captions)
        made.concept = concept
        return made


def integers(values: Iterable[int]) -> IntArray:
    """A column (n,) of these numbers."""
    return np.fromiter(values, dtype=np.int64)


@dataclass(frozen=True)
class Pictures:
    """All pictures of a dataset, each once: ``names`` are the annotation's ids."""

    names: tuple[str, ...]
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Triplets:
    """Training triplets as columns; the pictures are indices of the dataset's table of pictures, (N,)."""

    reference_picture: IntArray
    target_picture: IntArray
    captions: tuple[Captions, ...]

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, index: IntArray) -> Triplets:
        return Triplets(
            self.reference_picture[index], self.target_picture[index], tuple(self.captions[i] for i in index)
        )


@dataclass(frozen=True)
class Ragged:
    """Sets of different sizes as two arrays: set i is ``values[offsets[i]:offsets[i + 1]]``."""

    offsets: IntArray
    values: IntArray

    @classmethod
    def of(cls, sets: Sequence[Sequence[int]]) -> Ragged:
        lengths = np.fromiter((len(s) for s in sets), dtype=np.int64, count=len(sets))
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        values = np.fromiter((v for s in sets for v in s), dtype=np.int64, count=int(offsets[-1]))
        return cls(offsets, values)

    @classmethod
    def single(cls, values: IntArray) -> Ragged:
        """One value per set."""
        return cls(np.arange(len(values) + 1, dtype=np.int64), np.asarray(values, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> IntArray:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def sizes(self) -> IntArray:
        return np.diff(self.offsets)

    def take(self, index: IntArray) -> Ragged:
        """The sets of these places, in that order."""
        return Ragged.of([self[int(i)].tolist() for i in index])


@dataclass(frozen=True)
class Queries:
    """The queries of a task as columns.

    ``reference_picture`` (Q,): the reference's index in the table of pictures, always there.
    ``reference_in_gallery`` (Q,): its place in the gallery, or -1 where the gallery lacks it.
    ``texts``: the evaluation string of each query, after the text rule.
    ``positives``: gallery indices of the right answers; empty sets where labels are hidden.
    ``subset`` (Q, S) or None: gallery indices of the candidates of the subset ranking.
    ``group`` (Q,): queries that are not independent share a number (for intervals).
    ``feature_picture`` (Q,) or None: another picture whose whole-picture view stands in for the
    reference's (Fashion200k's ``spirit`` protocol looks it up by caption).
    ``captions``: the raw captions behind each text, with what they know (:class:`CategoryCaptions`); () where nothing
    is known.
    ``target`` (Q,) or None: of several positives the gallery index of the one that the text was written for.
    ``aspects`` or None: names of what each query asks for; a query may have several, or none.
    """

    ids: tuple[str, ...]
    reference_picture: IntArray
    reference_in_gallery: IntArray
    texts: tuple[str, ...]
    positives: Ragged
    group: IntArray
    subset: IntArray | None = None
    feature_picture: IntArray | None = None
    captions: tuple[Captions, ...] = ()
    target: IntArray | None = None
    aspects: tuple[tuple[str, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_several_positives(self) -> bool:
        """Whether a query may have several, be it that none of these has."""
        return self.target is not None or int(self.positives.sizes().max(initial=0)) > 1

    def take(self, index: IntArray) -> Queries:
        return Queries(
            ids=tuple(self.ids[i] for i in index),
            reference_picture=self.reference_picture[index],
            reference_in_gallery=self.reference_in_gallery[index],
            texts=tuple(self.texts[i] for i in index),
            positives=self.positives.take(index),
            group=self.group[index],
            subset=None if self.subset is None else self.subset[index],
            feature_picture=None if self.feature_picture is None else self.feature_picture[index],
            captions=tuple(self.captions[i] for i in index) if self.captions else (),
            target=None if self.target is None else self.target[index],
            aspects=None if self.aspects is None else tuple(self.aspects[i] for i in index),
        )


@dataclass(frozen=True)
class TaskKey:
    """What a column of a table is; two numbers that differ in any of these are never compared."""

    dataset: str
    split: str
    protocol: str
    text_mode: str
    category: str = ""

    def __str__(self) -> str:
        parts = [self.dataset, self.split, self.protocol, self.text_mode, self.category]
        return " · ".join(part for part in parts if part)


@dataclass(frozen=True)
class Task:
    """One ranking problem: queries against a gallery under a named protocol.

    ``gallery`` (G,): picture indices. ``labelled`` is False where the positives are hidden
    (CIRR test1): such a task can be ranked and submitted, not scored. All pictures of a task are
    among ``Dataset.split_pictures(key.split)``. ``average`` names the mean of recalls that papers
    report, by its parts: "(R@5+R_subset@1)/2", "mean(R@10,R@50)". ``texts_cut``: how many of the queries'
    texts are longer than the encoder's context, where it is known.
    """

    key: TaskKey
    queries: Queries
    gallery: IntArray
    exclude_reference: bool
    cutoffs: tuple[int, ...]
    subset_cutoffs: tuple[int, ...] = ()
    labelled: bool = True
    notes: tuple[str, ...] = ()
    average: str = ""
    texts_cut: int = 0


@dataclass(frozen=True)
class ProtocolInfo:
    """A named ranking rule of a dataset and the text modes and splits it is defined for."""

    name: str
    summary: str
    splits: tuple[str, ...]
    text_modes: tuple[str, ...]


@dataclass(frozen=True)
class Counts:
    """One line of `data verify`: a count of the files beside the published one (None: none known)."""

    split: str
    what: str
    found: int
    expected: int | None


@runtime_checkable
class Dataset(Protocol):
    """What a file of the `datasets/` shelf gives once it has read its annotation files.

    ``label`` is the name in outputs: the dataset's own, or its manifest's for demo data and cuts.
    ``is_demo`` and ``is_official`` tell synthetic pictures, official data and somebody's own apart.
    ``fingerprint`` is a digest of all annotations read (not of pictures).
    """

    @property
    def info(self) -> DatasetInfo: ...

    @property
    def root(self) -> Path: ...

    @property
    def label(self) -> str: ...

    @property
    def is_demo(self) -> bool: ...

    @property
    def is_official(self) -> bool: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def pictures(self) -> Pictures: ...

    @property
    def protocols(self) -> tuple[ProtocolInfo, ...]: ...

    def train_triplets(self, epoch: int, seed: int, pair_sampling: str = "") -> Triplets:
        """The triplets of one epoch; ``pair_sampling`` names the scheme where pairs are drawn anew."""
        ...

    def split_pictures(self, split: str) -> IntArray:
        """Indices of every picture that the triplets, queries or galleries of a split may need.

        Their order and number do not depend on which other splits were read: features are
        computed and kept by these lists.
        """
        ...

    def training_texts(self) -> tuple[Captions, ...]:
        """Raw captions of the whole training split, for vocabularies."""
        ...

    def side_texts(self) -> dict[str, tuple[str, ...]]:
        """Texts of single pictures (tags, captions) where the dataset has them, by picture name."""
        ...

    def tasks(self, split: str, protocol: str, text_rule: str) -> tuple[Task, ...]:
        """The tasks of a split under a protocol; raises UserError where it cannot be built."""
        ...

    def counts(self) -> tuple[Counts, ...]:
        """Counts found beside those published (or those of the manifest)."""
        ...

    def criterion(self, metrics: dict[str, dict[str, float]]) -> tuple[str, float]:
        """Name and value of the dataset's selection criterion from metrics by category."""
        ...


def read_splits(dataset: Dataset) -> tuple[str, ...]:
    """The splits that were read: of others nothing can be asked."""
    return tuple(dict.fromkeys(count.split for count in dataset.counts()))
