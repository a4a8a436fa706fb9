"""What `data verify` found in a data folder, told as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from benchmark.data.annotated import Checked
from benchmark.data.annotations import AnnotationFile
from benchmark.data.pictures import Loss
from benchmark.dataset import Counts

_SHOWN = 10
_ROW_HEADERS = (
    "split", "protocol", "category", "queries", "gallery", "pictures",
    "missing", "empty", "unreadable", "reference = target", "",
)  # fmt: skip

_CHECKED: Mapping[Checked, str] = {
    "digest": "the official file",
    "counts": "found, of the published counts",
    "differs": "found, not the official file",
}


@dataclass(frozen=True)
class BrokenPicture:
    """A picture that cannot be used, and the splits and protocols that would need it."""

    name: str
    kind: Literal["missing", "empty", "unreadable"]
    problem: str
    needed_by: tuple[str, ...]


@dataclass(frozen=True)
class CheckedPictures:
    """One split under one protocol (training: no protocol, and its triplets are its queries).

    ``missing``, ``empty``, ``unreadable`` count the pictures it needs; ``self_targets`` the
    queries whose reference is among their right answers.
    """

    split: str
    protocol: str
    category: str
    queries: int
    gallery: int
    pictures: int
    missing: int
    empty: int
    unreadable: int
    self_targets: int

    @property
    def ok(self) -> bool:
        return not (self.missing or self.empty or self.unreadable)


@dataclass(frozen=True)
class LongTexts:
    """How many texts of a split in a text mode are longer than the ``context`` tokens of a backbone."""

    split: str
    text_mode: str
    backbone: str
    context: int
    texts: int
    cut: int


@dataclass(frozen=True)
class Verification:
    """What was found.

    ``shared``: groups of picture names with the same content in several splits. ``refused``: why a
    protocol cannot be built from the files that are there. ``losses``: names of pictures by what the
    conversion to 8 bits of red, green and blue does not keep of them. ``checked``: how annotation files were held
    against the official ones, by file name; empty for other data.
    """

    name: str
    root: Path
    kind: Literal["official", "drawn", "own"]
    remedy: str
    files: tuple[AnnotationFile, ...]
    counts: tuple[Counts, ...]
    rows: tuple[CheckedPictures, ...]
    broken: tuple[BrokenPicture, ...]
    shared: tuple[tuple[str, ...], ...]
    refused: tuple[str, ...]
    losses: Mapping[Loss, tuple[str, ...]] = field(default_factory=dict)
    long_texts: tuple[LongTexts, ...] = ()
    checked: Mapping[str, Checked] = field(default_factory=dict)

    @cached_property
    def half_there(self) -> tuple[AnnotationFile, ...]:
        """Missing files of splits of which another file is there."""
        there = {file.split for file in self.files if file.found}
        return tuple(file for file in self.files if not file.found and file.split in there)

    @cached_property
    def absent_splits(self) -> tuple[str, ...]:
        there = {file.split for file in self.files if file.found}
        return tuple(dict.fromkeys(file.split for file in self.files if file.split not in there))

    @property
    def wrong_counts(self) -> tuple[Counts, ...]:
        return tuple(c for c in self.counts if c.expected is not None and c.found != c.expected)

    @property
    def ok(self) -> bool:
        """Whether every split that is there can be trained on or scored as published.

        Splits that are absent as a whole, broken pictures that nothing needs, pictures shared by
        splits, files that are not the official ones and what conversions lose are told, and are no failure.
        """
        return not (self.half_there or self.wrong_counts or self.refused) and all(row.ok for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`, the verdict first; every broken picture, not only the first ones."""
        return {
            "ok": self.ok,
            "dataset": self.name,
            "root": str(self.root),
            "kind": self.kind,
            "files": [
                {"split": f.split, "path": str(f.path), "found": f.found, "official": self.checked.get(f.path.name)}
                for f in self.files
            ],
            "counts": [asdict(c) for c in self.counts],
            "protocols": [{**asdict(row), "ok": row.ok} for row in self.rows],
            "broken_pictures": [asdict(picture) for picture in self.broken],
            "shared_pictures": [list(names) for names in self.shared],
            "absent_splits": list(self.absent_splits),
            "refused_protocols": list(self.refused),
            "conversion_losses": {loss: list(names) for loss, names in self.losses.items()},
            "long_texts": [asdict(texts) for texts in self.long_texts],
        }

    def as_table(self) -> str:
        """Markdown: three tables, then the problems, then the verdict."""
        return "\n\n".join(block for block in _blocks(self) if block) + "\n"


def _blocks(found: Verification) -> Iterator[str]:
    from tabulate import tabulate

    kind = {"official": "official data", "drawn": "demo data (synthetic pictures)", "own": "own data"}[found.kind]
    yield f"{found.name}, {kind}, in {found.root}"
    if found.files:
        files = [(f.split, str(f.path), _file_word(f, found.checked)) for f in found.files]
        yield tabulate(files, headers=("split", "file", ""), tablefmt="github")
    counts = [
        (c.split, c.what, f"{c.found:,}", "" if c.expected is None else f"{c.expected:,}", _count_word(c))
        for c in found.counts
    ]
    expected = "published" if found.kind == "official" else "stated"
    headers = ("split", "count", "found", expected, "")
    aligned = ("left", "left", "right", "right", "left")
    yield tabulate(counts, headers=headers, tablefmt="github", disable_numparse=True, colalign=aligned)
    yield tabulate([_cells(row) for row in found.rows], headers=_ROW_HEADERS, tablefmt="github")
    yield "\n".join(_remarks(found))
    yield "OK" if found.ok else f"NOT OK; {found.remedy}"


def _cells(row: CheckedPictures) -> tuple[str | int, ...]:
    category, gallery = row.category or "-", row.gallery or "-"
    found = (row.missing, row.empty, row.unreadable, row.self_targets)
    verdict = "ok" if row.ok else "broken pictures"
    return row.split, row.protocol or "-", category, row.queries, gallery, row.pictures, *found, verdict


def _file_word(file: AnnotationFile, checked: Mapping[str, Checked]) -> str:
    return _CHECKED[checked[file.path.name]] if file.path.name in checked else "found" if file.found else "missing"


def _count_word(count: Counts) -> str:
    return "" if count.expected is None else "ok" if count.found == count.expected else "differs"


def _remarks(found: Verification) -> Iterator[str]:
    for split in found.absent_splits:
        yield f"- split {split} is not here; nothing else needs it"
    for file in found.half_there:
        yield f"- {file.path}: no such file, and the split's other file is there"
    yield from (f"- {reason}" for reason in found.refused)
    needed = sum(1 for picture in found.broken if picture.needed_by)
    if found.broken:
        yield f"- missing, empty or unreadable pictures: {len(found.broken):,}, of them needed: {needed:,}"
    ordered = sorted(found.broken, key=lambda picture: not picture.needed_by)
    for picture in ordered[:_SHOWN]:
        uses = ", ".join(picture.needed_by) or "no query, gallery or triplet"
        yield f"- {picture.problem}; needed by: {uses}"
    if found.shared:
        yield f"- pictures of the same content in several splits: {len(found.shared):,}"
    for names in found.shared[:_SHOWN]:
        yield f"- the same picture: {', '.join(names)}"
    for loss, pictures in found.losses.items():
        yield f"- pictures that lose something on the way to 8-bit RGB ({loss}): {len(pictures):,}, {pictures[0]} first"
    for texts in found.long_texts:
        read = f"the {texts.context} tokens that {texts.backbone} reads"
        yield f"- {texts.split} · {texts.text_mode}: {texts.cut:,} of {texts.texts:,} texts are longer than {read}"
    for row in found.rows:
        if row.self_targets:
            title = " · ".join(part for part in (row.split, row.protocol, row.category) if part)
            yield f"- {title}: {row.self_targets:,} with their reference as target"
