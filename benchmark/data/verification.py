"""`data verify`: everything that can be wrong with a data folder, in one go.

Files, counts beside the published ones, every picture decoded, what each split and protocol
needs of the broken ones, pictures that two splits share, queries that ask for their own reference.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from benchmark.data.annotations import AnnotationFile
from benchmark.data.dataset_choice import locate
from benchmark.data.folders import picture_problem
from benchmark.dataset import Counts, Dataset, IntArray, Task
from benchmark.errors import UserError
from benchmark.files import file_digest
from benchmark.progress import counting
from benchmark.registry import Registry
from benchmark.text_rules import TEXT_RULES

_SHOWN = 10


@runtime_checkable
class ListsFiles(Protocol):
    """A dataset that can say which files its splits are read from, there or not."""

    def annotation_files(self) -> tuple[AnnotationFile, ...]: ...


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
class Verification:
    """What was found.

    ``shared``: groups of picture names with the same content in several splits. ``refused``: why a
    protocol cannot be built from the files that are there.
    """

    name: str
    root: Path
    kind: Literal["official", "drawn", "own"]
    obtain: str
    files: tuple[AnnotationFile, ...]
    counts: tuple[Counts, ...]
    rows: tuple[CheckedPictures, ...]
    broken: tuple[BrokenPicture, ...]
    shared: tuple[tuple[str, ...], ...]
    refused: tuple[str, ...]

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

        Splits that are absent as a whole, broken pictures that nothing needs, and pictures
        shared by splits are told, and are no failure.
        """
        return not (self.half_there or self.wrong_counts or self.refused) and all(row.ok for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`, the verdict first; every broken picture, not only the first ones."""
        return {
            "ok": self.ok,
            "dataset": self.name,
            "root": str(self.root),
            "kind": self.kind,
            "files": [{"split": f.split, "path": str(f.path), "found": f.found} for f in self.files],
            "counts": [asdict(c) for c in self.counts],
            "protocols": [{**asdict(row), "ok": row.ok} for row in self.rows],
            "broken_pictures": [asdict(picture) for picture in self.broken],
            "shared_pictures": [list(names) for names in self.shared],
            "absent_splits": list(self.absent_splits),
            "refused_protocols": list(self.refused),
        }

    def as_table(self) -> str:
        """Markdown: three tables, then the problems, then the verdict."""
        return "\n\n".join(block for block in _blocks(self) if block) + "\n"


def verify(dataset: Dataset, progress: Callable[[int, int], None] | None = None, workers: int = 4) -> Verification:
    """Check all that belongs to the splits that the dataset has read.

    Every picture is decoded and digested on ``workers`` threads; ``progress(done, total)`` is
    called on the caller's thread after each.
    """
    refused: list[str] = []
    needs = tuple(_needs(dataset, refused))
    states = _inspect(dataset.pictures.paths, workers, progress)
    return Verification(
        name=dataset.label,
        root=dataset.root,
        kind="official" if dataset.is_official else "drawn" if dataset.is_demo else "own",
        obtain=dataset.info.obtain,
        files=dataset.annotation_files() if isinstance(dataset, ListsFiles) else (),
        counts=dataset.counts(),
        rows=tuple(_row(need, states) for need in needs),
        broken=tuple(_broken(dataset, states, needs)),
        shared=_shared(dataset, states),
        refused=tuple(refused),
    )


def verify_folder(registry: Registry, name: str, data_root: Path) -> Verification:
    """Find a dataset under ``data_root``, read every split that is whole there and verify it.

    Raises UserError where the folder is not found or an annotation file is wrong: what cannot be
    read cannot be checked further.
    """
    root = locate(registry, name, data_root)
    splits = registry.dataset_module(name).present_splits(root)
    dataset = registry.load_dataset(name, root, splits)
    with counting("checking pictures") as progress:
        return verify(dataset, progress, workers=os.cpu_count() or 1)


@dataclass(frozen=True)
class _State:
    """A decoded picture's digest, or what is wrong with it."""

    kind: Literal["", "missing", "empty", "unreadable"]
    problem: str = ""
    digest: str = ""


@dataclass(frozen=True)
class _Need:
    """What a split needs under a protocol, as picture indices by role."""

    split: str
    protocol: str
    category: str
    queries: int
    gallery: int
    self_targets: int
    roles: dict[str, IntArray]

    def title(self) -> str:
        return " · ".join(part for part in (self.split, self.protocol, self.category) if part)


def _inspect(paths: Sequence[Path], workers: int, progress: Callable[[int, int], None] | None) -> tuple[_State, ...]:
    states = []
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        for done, state in enumerate(pool.map(_state, paths), start=1):
            states.append(state)
            if progress is not None:
                progress(done, len(paths))
    return tuple(states)


def _state(path: Path) -> _State:
    from benchmark.data.pictures import open_picture

    if (problem := picture_problem(path)) is not None:
        return _State("empty" if path.exists() else "missing", problem)
    try:
        open_picture(path)
        return _State("", digest=file_digest(path))
    except UserError as error:
        return _State("unreadable", str(error))


def _read_splits(dataset: Dataset) -> tuple[str, ...]:
    return tuple(dict.fromkeys(count.split for count in dataset.counts()))


def _needs(dataset: Dataset, refused: list[str]) -> Iterator[_Need]:
    """What training and every protocol need; protocols that cannot be built are told in ``refused``."""
    splits = _read_splits(dataset)
    if "train" in splits:
        triplets = dataset.train_triplets(0, 0)
        same = int(np.sum(triplets.reference_picture == triplets.target_picture))
        roles = {"triplet": np.concatenate([triplets.reference_picture, triplets.target_picture])}
        yield _Need("train", "", "", len(triplets), 0, same, roles)
    for protocol in dataset.protocols:
        mode = protocol.text_modes[0]
        rule = next(rule.name for rule in TEXT_RULES.values() if rule.mode == mode)
        for split in protocol.splits:
            if split not in splits:
                continue
            try:
                yield from [_task_need(task) for task in dataset.tasks(split, protocol.name, rule)]
            except UserError as error:
                refused.append(f"{split} · {protocol.name}: {error}")


def _task_need(task: Task) -> _Need:
    queries = task.queries
    answers = np.repeat(queries.reference_picture, queries.positives.sizes())
    # Several right answers of one query count once: a query is counted, not a pair.
    owners = np.repeat(np.arange(len(queries)), queries.positives.sizes())
    same = owners[task.gallery[queries.positives.values] == answers]
    roles = {"gallery": task.gallery, "query": queries.reference_picture}
    if queries.feature_picture is not None:
        roles["query"] = np.concatenate([queries.reference_picture, queries.feature_picture])
    key = task.key
    return _Need(key.split, key.protocol, key.category, len(queries), len(task.gallery), len(np.unique(same)), roles)


def _row(need: _Need, states: Sequence[_State]) -> CheckedPictures:
    indices = np.unique(np.concatenate(list(need.roles.values())))
    kinds = [states[i].kind for i in indices.tolist()]
    return CheckedPictures(
        need.split,
        need.protocol,
        need.category,
        need.queries,
        need.gallery,
        len(indices),
        kinds.count("missing"),
        kinds.count("empty"),
        kinds.count("unreadable"),
        need.self_targets,
    )


def _broken(dataset: Dataset, states: Sequence[_State], needs: Sequence[_Need]) -> Iterator[BrokenPicture]:
    counted = [
        (f"{need.title()} {role}", np.bincount(indices, minlength=len(states)))
        for need in needs
        for role, indices in need.roles.items()
    ]
    for i, state in enumerate(states):
        if state.kind:
            uses = tuple(f"{use} ×{times[i]}" for use, times in counted if times[i])
            yield BrokenPicture(dataset.pictures.names[i], state.kind, state.problem, uses)


def _shared(dataset: Dataset, states: Sequence[_State]) -> tuple[tuple[str, ...], ...]:
    """Groups of pictures of one content that stand in more than one split, named `split: name`."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for split in _read_splits(dataset):
        for i in dataset.split_pictures(split).tolist():
            if states[i].digest:
                groups.setdefault(states[i].digest, []).append((split, dataset.pictures.names[i]))
    shared = (group for group in groups.values() if len({split for split, _ in group}) > 1)
    return tuple(tuple(f"{split}: {name}" for split, name in group) for group in shared)


def _blocks(found: Verification) -> Iterator[str]:
    from tabulate import tabulate

    kind = {"official": "official data", "drawn": "demo data (synthetic pictures)", "own": "own data"}[found.kind]
    yield f"{found.name}, {kind}, in {found.root}"
    if found.files:
        files = [(f.split, str(f.path), "found" if f.found else "missing") for f in found.files]
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
    source = "draw it again with `data demo`" if found.kind == "drawn" else found.obtain
    yield "OK" if found.ok else f"NOT OK; {source}"


_ROW_HEADERS = (
    "split",
    "protocol",
    "category",
    "queries",
    "gallery",
    "pictures",
    "missing",
    "empty",
    "unreadable",
    "reference = target",
    "",
)


def _cells(row: CheckedPictures) -> tuple[str | int, ...]:
    category, gallery = row.category or "-", row.gallery or "-"
    found = (row.missing, row.empty, row.unreadable, row.self_targets)
    verdict = "ok" if row.ok else "broken pictures"
    return row.split, row.protocol or "-", category, row.queries, gallery, row.pictures, *found, verdict


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
    for row in found.rows:
        if row.self_targets:
            title = " · ".join(part for part in (row.split, row.protocol, row.category) if part)
            yield f"- {title}: {row.self_targets:,} with their reference as target"
