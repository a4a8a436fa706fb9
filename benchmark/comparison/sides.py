"""The sides of a comparison: the runs of each, and their queries brought into one order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmark.comparison.statistics import Stratum
from benchmark.dataset import IntArray, TaskKey
from benchmark.errors import UserError
from benchmark.evaluation.metrics import FloatArray, metric_values
from benchmark.evaluation.per_query import PerQuery
from benchmark.records.record import RECORD_NAME, Record, read_per_query, read_record, run_key

_WEIGHTS = ("selected", "last", "none trained", "imported", "external")
"""Of a run's results for one task, the first of these is compared."""


@dataclass(frozen=True)
class Side:
    """One method's configuration with all its seeds. ``queries``: per seed, what it says of each task."""

    label: str
    records: tuple[Record, ...]
    queries: tuple[Mapping[TaskKey, PerQuery], ...]

    def keys(self) -> set[TaskKey]:
        """Tasks, categories among them, that every seed has."""
        return set.intersection(*map(set[TaskKey], self.queries))


@dataclass(frozen=True)
class Comparable:
    """What the sides can be compared on: a task (its category left out) with all or one of its categories.

    ``ids`` and ``groups``: per category, of its Q queries. ``queries``: per category and side what each seed says of
    them, in that order. ``seeds``: those of each side.
    """

    key: TaskKey
    metrics: tuple[str, ...]
    ids: tuple[tuple[str, ...], ...]
    groups: tuple[IntArray, ...]
    queries: tuple[tuple[tuple[PerQuery, ...], ...], ...]
    seeds: tuple[tuple[int | None, ...], ...] = ()

    def strata(self, metric: str) -> list[Stratum]:
        """Of one of its ``metrics``."""
        return [
            Stratum(group, tuple(_of_seeds(metric, seeds) for seeds in sides))
            for group, sides in zip(self.groups, self.queries, strict=True)
        ]

    def log_ranks(self) -> list[FloatArray]:
        """Of one category: per side the logarithm of each query's rank, seeds averaged, (Q,)."""
        (sides,) = self.queries
        return [np.mean([np.log(seed.rank) for seed in seeds], axis=0) for seeds in sides]


def _of_seeds(metric: str, seeds: Sequence[PerQuery]) -> FloatArray:
    return np.stack([values for seed in seeds if (values := _values(metric, seed)) is not None])


def _values(metric: str, queries: PerQuery) -> FloatArray | None:
    return metric_values(metric, queries.rank, queries.subset_rank, queries.positive_ranks, queries.target_rank)


def read_sides(paths: Iterable[Path], least: int = 2) -> list[Side]:
    """The records at or below the paths; seeds of one configuration are one side, in the order first named.

    Raises UserError where a path holds no record, a record has no results per query, or fewer than ``least``
    sides are found.
    """
    found = records_by_side(paths)
    if len(found) < least:
        raise UserError(
            "compare needs runs of at least two configurations; all that were named are seeds of one"
            if found else "compare needs the folders or records of at least two runs"
        )  # fmt: skip
    return with_distinct_labels([_side(members) for members in found])


def records_by_side(paths: Iterable[Path]) -> list[list[tuple[Path, Record]]]:
    """The records at or below the paths with their files, those of one configuration together, as first named."""
    found: dict[str, list[tuple[Path, Record]]] = {}
    seen: set[Path] = set()
    for path in paths:
        for file in _record_files(path):
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            record = read_record(file)
            found.setdefault(run_key(record), []).append((file, record))
    return list(found.values())


def _record_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(path.rglob(RECORD_NAME))
    if not files:
        raise UserError(f"{path}: no {RECORD_NAME} at or below it; name a run's folder, or one that holds runs")
    return files


def _side(members: Sequence[tuple[Path, Record]]) -> Side:
    by_seed: dict[int | None, Path] = {}
    for file, record in members:
        if (first := by_seed.setdefault(record.identity.seed, file)) != file:
            raise UserError(f"{file}: the same configuration and seed as {first}; name one of them")
    # Sides are paired seed by seed, in whatever order they were named.
    members = sorted(members, key=lambda member: -1 if (seed := member[1].identity.seed) is None else seed)
    queries = tuple(queries_of(file, record) for file, record in members)
    for (file, _), found in zip(members, queries, strict=True):
        if not found:
            raise UserError(f"{file}: has no results per query, which a paired comparison needs; run it again")
    # A title may be of several lines, and what is told of a side is one.
    label = " ".join(members[0][1].title.split())
    return Side(label=label, records=tuple(record for _, record in members), queries=queries)


def queries_of(file: Path, record: Record) -> dict[TaskKey, PerQuery]:
    """What a record's file has beside it of each scored task, of the weights that are compared; {} for none."""
    stored = read_per_query(file.parent, record)
    found: dict[TaskKey, PerQuery] = {}
    for weights in reversed(_WEIGHTS):
        for index, result in enumerate(record.results):
            if index in stored and result.weights_from == weights and result.metrics:
                found[result.key] = stored[index]
    return found


def with_distinct_labels(sides: list[Side]) -> list[Side]:
    labels = [side.label for side in sides]
    if len(set(labels)) < len(labels):
        variants = [side.records[0].identity.variant or side.records[0].method for side in sides]
        encoders = [getattr(side.records[0].identity.encoder, "name", "") for side in sides]
        labels = [", ".join(filter(None, part)) for part in zip(labels, variants, encoders, strict=True)]
    return [
        replace(side, label=label if labels.count(label) == 1 else f"{label} ({number})")
        for number, (side, label) in enumerate(zip(sides, labels, strict=True), 1)
    ]


def comparables(sides: Sequence[Side]) -> list[Comparable]:
    """Every task that all sides have, each category alone and then their average.

    Raises UserError, in one line, where the sides are of other data, or share no task.
    """
    _check_data(sides)
    shared: set[TaskKey] = set.intersection(*(side.keys() for side in sides))
    if not shared:
        raise UserError(_nothing_shared(sides))
    tasks: dict[TaskKey, list[TaskKey]] = {}
    for key in sorted(shared, key=str):
        tasks.setdefault(replace(key, category=""), []).append(key)
    found = []
    for task, keys in tasks.items():
        found += [_comparable(key, [key], sides) for key in keys]
        if len(keys) > 1:
            found.append(_comparable(replace(task, category="average"), keys, sides))
    return found


def _check_data(sides: Sequence[Side]) -> None:
    first = sides[0].records[0].identity
    for side in sides:
        for record in side.records:
            identity = record.identity
            if identity.data is None or first.data is None or identity.data.fingerprint != first.data.fingerprint:
                other = "no data" if identity.data is None else f"{identity.data.label} with other annotations"
                raise UserError(f"{side.label}: was run on {other}; only runs on the same data can be compared")
            if identity.limit != first.limit:
                raise UserError(f"{side.label}: was run with --limit {identity.limit}, {sides[0].label} was not")


def _nothing_shared(sides: Sequence[Side]) -> str:
    one, other = sides[0], next(side for side in sides[1:] if not side.keys() & sides[0].keys())
    mine, theirs = (sorted({replace(key, category="") for key in side.keys()}, key=str) for side in (one, other))
    names = {"split": "split", "protocol": "protocol", "text_mode": "text mode"}
    differing = [
        words for field, words in names.items()
        if not {getattr(key, field) for key in mine} & {getattr(key, field) for key in theirs}
    ]  # fmt: skip
    what = " and ".join(differing) or "task"
    return (
        f"{one.label} and {other.label} have no {what} in common ({', '.join(map(str, mine))}; "
        f"{', '.join(map(str, theirs))}): numbers of two protocols cannot be compared; run both on one"
    )


def _comparable(key: TaskKey, keys: Sequence[TaskKey], sides: Sequence[Side]) -> Comparable:
    ids, groups, queries = [], [], []
    for part in keys:
        first = sides[0].queries[0][part]
        # Hidden labels have rank 0.
        scored = np.flatnonzero(first.rank > 0)
        names = [first.ids[i] for i in scored]
        ids.append(tuple(names))
        groups.append(first.group[scored])
        queries.append(
            tuple(tuple(_in_order(side, seed[part], part, names) for seed in side.queries) for side in sides)
        )
    named = [
        {metric for result in record.results if result.key in keys for metric in result.metrics}
        for side in sides for record in side.records
    ]  # fmt: skip
    every = [seed for category in queries for seeds in category for seed in seeds]
    derivable = (m for m in set.intersection(*named) if all(_values(m, seed) is not None for seed in every))
    seeds = tuple(tuple(record.identity.seed for record in side.records) for side in sides)
    return Comparable(key, tuple(derivable), tuple(ids), tuple(groups), tuple(queries), seeds)


def _in_order(side: Side, found: PerQuery, key: TaskKey, names: Sequence[str]) -> PerQuery:
    """What one seed says of the queries of these names; raises UserError where it has others."""
    place = {name: i for i, name in enumerate(found.ids)}
    missing = [name for name in names if name not in place]
    if missing or int((found.rank > 0).sum()) != len(names):
        what = f"query {missing[0]} is missing" if missing else "it has other queries"
        raise UserError(f"{side.label}: {what} in {key}; only runs on the same queries can be compared")
    return found.take(np.array([place[name] for name in names]))
