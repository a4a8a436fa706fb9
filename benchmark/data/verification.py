"""`data verify`: everything that can be wrong with a data folder, in one go.

Files, counts beside the published ones, every picture decoded, what each split and protocol
needs of the broken ones, pictures that two splits share, queries that ask for their own reference.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np

from benchmark.backbone import TextContext
from benchmark.data.annotated import checked_files
from benchmark.data.annotations import AnnotationFile
from benchmark.data.dataset_choice import locate
from benchmark.data.findings import BrokenPicture, CheckedPictures, LongTexts, Verification
from benchmark.data.folders import picture_problem, remedy
from benchmark.data.long_texts import training_strings
from benchmark.data.pictures import Loss, conversion_losses, each_picture
from benchmark.data.protocols import chosen_tasks
from benchmark.dataset import Dataset, IntArray, Task, read_splits
from benchmark.errors import UserError
from benchmark.files import file_digest
from benchmark.progress import counting
from benchmark.registry import Registry
from benchmark.text_rules import TEXT_RULES, rule_of


@runtime_checkable
class ListsFiles(Protocol):
    """A dataset that can say which files its splits are read from, there or not."""

    def annotation_files(self) -> tuple[AnnotationFile, ...]: ...


def verify(
    dataset: Dataset,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
    context: TextContext | None = None,
) -> Verification:
    """Check all that belongs to the splits that the dataset has read.

    Every picture is decoded and digested; ``workers`` and ``progress`` are those of `each_picture`.
    ``context``: the texts that a backbone cuts are counted.
    """
    refused: list[str] = []
    needs = tuple(_needs(dataset, refused))
    states = each_picture(_state, dataset.pictures.paths, workers, progress)
    return Verification(
        name=dataset.label,
        root=dataset.root,
        kind="official" if dataset.is_official else "drawn" if dataset.is_demo else "own",
        remedy=remedy(dataset.info, dataset.is_official, dataset.is_demo),
        files=dataset.annotation_files() if isinstance(dataset, ListsFiles) else (),
        counts=dataset.counts(),
        rows=tuple(_row(need, states) for need in needs),
        broken=tuple(_broken(dataset, states, needs)),
        shared=_shared(dataset, states),
        losses=_losses(dataset, states),
        checked=checked_files(dataset),
        long_texts=tuple(_long_texts(dataset, context)) if context else (),
        refused=tuple(refused),
    )


def verify_folder(
    registry: Registry, name: str, data_root: Path, context: TextContext | None = None
) -> Verification:
    """Find a dataset under ``data_root``, read every split that is whole there and verify it.

    Raises UserError where the folder is not found or an annotation file is wrong: what cannot be
    read cannot be checked further.
    """
    root = locate(registry, name, data_root)
    splits = registry.dataset_module(name).present_splits(root)
    dataset = registry.load_dataset(name, root, splits)
    with counting("checking pictures") as progress:
        return verify(dataset, progress, context=context)


@dataclass(frozen=True)
class _State:
    """A decoded picture's digest and what its conversion loses, or what is wrong with it."""

    kind: Literal["", "missing", "empty", "unreadable"]
    problem: str = ""
    digest: str = ""
    losses: tuple[Loss, ...] = ()


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


def _state(path: Path) -> _State:
    if (problem := picture_problem(path)) is not None:
        kind: Literal["missing", "empty", "unreadable"] = "empty" if path.is_file() else "unreadable"
        return _State(kind if path.exists() else "missing", problem)
    try:
        losses = conversion_losses(path)  # first: it tells in one line what cannot be read
        return _State("", digest=file_digest(path), losses=losses)
    except UserError as error:
        return _State("unreadable", str(error))


def _needs(dataset: Dataset, refused: list[str]) -> Iterator[_Need]:
    """What training and every protocol need; protocols that cannot be built are told in ``refused``."""
    splits = read_splits(dataset)
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
    kinds = Counter(states[i].kind for i in indices.tolist())
    counts = len(indices), kinds["missing"], kinds["empty"], kinds["unreadable"]
    place = need.split, need.protocol, need.category
    return CheckedPictures(*place, need.queries, need.gallery, *counts, need.self_targets)


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


def _losses(dataset: Dataset, states: Sequence[_State]) -> dict[Loss, tuple[str, ...]]:
    """Names of the pictures by what their conversion loses."""
    found: dict[Loss, list[str]] = {loss: [] for loss in get_args(Loss)}
    for name, state in zip(dataset.pictures.names, states, strict=True):
        for loss in state.losses:
            found[loss].append(name)
    return {loss: tuple(names) for loss, names in found.items() if names}


def _long_texts(dataset: Dataset, context: TextContext) -> Iterator[LongTexts]:
    """Texts of every split and text mode, and how many of them are cut."""
    modes = dict.fromkeys(mode for protocol in dataset.protocols for mode in protocol.text_modes)
    for split, mode in itertools.product(read_splits(dataset), modes):
        rule = rule_of(mode)
        texts: tuple[str, ...] = ()
        if split == "train":
            with suppress(UserError):  # dictionaries are needed by those alone who ask for corrected texts
                texts = training_strings(dataset, rule)
        else:
            tasks: tuple[Task, ...] = ()
            with suppress(UserError):  # a protocol that cannot be built is told by its needs
                tasks = chosen_tasks(dataset, split, (), rule)
            # Several protocols ask the same queries.
            asked = {(task.key.category, query): text for task in tasks for query, text in _asked(task)}
            texts = tuple(asked.values())
        if not texts:
            continue
        yield LongTexts(split, mode, context.name, context.length, len(texts), context.cut(texts))


def _asked(task: Task) -> Iterator[tuple[str, str]]:
    return zip(task.queries.ids, task.queries.texts, strict=True)


def _shared(dataset: Dataset, states: Sequence[_State]) -> tuple[tuple[str, ...], ...]:
    """Groups of pictures of one content that stand in more than one split, named `split: name`."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for split in read_splits(dataset):
        for i in dataset.split_pictures(split).tolist():
            if states[i].digest:
                groups.setdefault(states[i].digest, []).append((split, dataset.pictures.names[i]))
    shared = (group for group in groups.values() if len({split for split, _ in group}) > 1)
    return tuple(tuple(f"{split}: {name}" for split, name in group) for group in shared)
