"""What all annotated datasets have in common: whose data it is, which splits were read, counts beside the published.

A folder with a `dataset.json` is demo data or somebody's own; without one it is held to be the official data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

from benchmark.data.annotations import AnnotationFile, Problems, record_faults, type_problem
from benchmark.data.folders import Layouts, remedy
from benchmark.dataset import Counts, Dataset, DatasetInfo
from benchmark.errors import UserError, unknown_name
from benchmark.files import digest_of, file_digest
from benchmark.structured_files import read_json

MANIFEST = "dataset.json"
Published = Mapping[str, Mapping[str, int]]
"""Split → what is counted → the published number; every split of the dataset is a key."""

Checked = Literal["digest", "counts", "differs"]
"""A file's digest is the official one's; or none is known and the published counts are met; or it is another file."""

S = TypeVar("S")


@dataclass(frozen=True)
class Manifest:
    """`dataset.json`: a folder with one is demo data (``drawn``) or somebody's own, called by ``name``.

    ``counts``: split → what is counted → number; compared where given.
    """

    name: str
    drawn: bool = False
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class SplitFiles(Protocol):
    """Where the annotation files of a dataset's folder lie."""

    def of(self, split: str) -> tuple[AnnotationFile, ...]: ...


def whole_splits(files: SplitFiles, splits: Iterable[str]) -> tuple[str, ...]:
    """The splits whose files are all there."""
    return tuple(split for split in splits if all(file.found for file in files.of(split)))


def advice(info: DatasetInfo, manifest: Manifest | None) -> str:
    """What to do about faulty annotation files, see `folders.remedy`."""
    return remedy(info, manifest is None, manifest is not None and manifest.drawn)


class AnnotatedDataset(Generic[S]):
    """The common part of :class:`benchmark.dataset.Dataset`; ``S`` is what a dataset's reader makes of a split.

    ``read``: the splits that were read from ``files``, by name.
    """

    info: ClassVar[DatasetInfo]
    published: ClassVar[Published]

    def __init__(self, root: Path, files: SplitFiles, read: Mapping[str, S], manifest: Manifest | None) -> None:
        self.root, self._all_files = root, files
        self.label = self.info.name if manifest is None else manifest.name
        self.is_demo = manifest is not None and manifest.drawn
        self.is_official = manifest is None
        self._digests = {f.path.name: file_digest(f.path) for split in read for f in files.of(split)}
        # By name, so that a copy of the files elsewhere is the same data.
        self.fingerprint = digest_of(self._digests)
        self._splits, self._manifest = read, manifest

    def annotation_files(self) -> tuple[AnnotationFile, ...]:
        """The files of every split, read or not, there or not."""
        return tuple(file for split in self.published for file in self._all_files.of(split))

    @property
    def checked(self) -> dict[str, Checked]:
        """How each annotation file that was read was held against the official one; empty for other data."""
        if not self.is_official:
            return {}
        wrong = {c.split for c in self.counts() if c.expected is not None and c.found != c.expected}
        found: dict[str, Checked] = {}
        for split in self._splits:
            for name in (file.path.name for file in self._all_files.of(split)):
                listed = [d for other, d in self.info.official_files.items() if other.startswith(Path(name).stem)]
                if self._digests[name] in (listed or self.info.official_files.values()):
                    found[name] = "digest"
                else:
                    found[name] = "differs" if listed or split in wrong else "counts"
        return found

    def side_texts(self) -> dict[str, tuple[str, ...]]:
        """Texts of single pictures, by picture name: none, where the dataset has none."""
        return {}

    def counts(self) -> tuple[Counts, ...]:
        """Counts of the splits that were read, beside those published or, where there is a manifest, its own."""
        expected: Published = self.published if self._manifest is None else self._manifest.counts
        return tuple(
            Counts(name, what, number, expected.get(name, {}).get(what))
            for name, split in self._splits.items()
            for what, number in self._count(name, split).items()
        )

    def _count(self, name: str, split: S) -> Mapping[str, int]:
        raise TypeError(f"{type(self).__name__} must define _count")

    def _split(self, name: str) -> S:
        """Raises UserError for an unknown name, and for a split that was not read."""
        require_known(self.info, self.published, (name,))
        if name not in self._splits:
            read = ", ".join(self._splits)
            raise UserError(f"{self.root}: split {name} of {self.info.name} was not read; read: {read}")
        return self._splits[name]


@runtime_checkable
class ChecksFiles(Protocol):
    """A dataset that knows the official files."""

    @property
    def checked(self) -> dict[str, Checked]: ...


def checked_files(dataset: Dataset) -> dict[str, Checked]:
    """How each of a dataset's annotation files was held against the official one; empty where nobody can tell."""
    return dataset.checked if isinstance(dataset, ChecksFiles) else {}


def require_known(info: DatasetInfo, published: Published, splits: Iterable[str]) -> None:
    """Raise UserError naming the nearest where a dataset has no split of that name."""
    for split in splits:
        if split not in published:
            raise unknown_name(f"split of {info.name}", split, published)


def manifest_path(info: DatasetInfo, layouts: Layouts, base: Path, root: Path) -> Path | None:
    """The manifest beside the annotation files (``base``), in the dataset's folder, or in the one above.

    That one counts where it would do as the data root as well: it leads to the same files.
    """
    above = [root.parent] if root.name in info.folders or layouts.fits(root.parent) else []
    return next((path for folder in (base, root, *above) if (path := folder / MANIFEST).is_file()), None)


def read_manifest(path: Path | None, reserved: str, published: Published) -> Manifest | None:
    """The manifest; None where there is no path.

    ``reserved``: the official data's name, which no manifest may take. It states counts of what is
    ``published`` only. Raises UserError where the manifest has a wrong form.
    """
    if path is None:
        return None
    problems = Problems("correct it; datasets/README.md says what it holds")
    content = read_json(path)
    record = content if isinstance(content, dict) else {}
    for fault in record_faults(content, {"name": str}):
        problems.add(path, fault)
    name, drawn, counts = record.get("name", ""), record.get("drawn", False), record.get("counts", {})
    if isinstance(name, str) and "name" in record and (name == reserved or not _is_plain(name)):
        problems.add(path, f"'name' is {name!r}; choose letters, digits, '-', '_' and '.', not '{reserved}'")
    if (drawn_fault := type_problem(drawn, bool)) is not None:
        problems.add(path, f"'drawn' {drawn_fault}")
    for fault in _count_faults(counts, published):
        problems.add(path, fault)
    problems.raise_all()
    return Manifest(name, drawn, counts)


def _is_plain(name: str) -> bool:
    """Whether a name can stand in tables and as a folder's name."""
    return name[:1].isalnum() and all(letter.isalnum() or letter in "-_." for letter in name)


def _count_faults(counts: object, countable: Published) -> Iterator[str]:
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
