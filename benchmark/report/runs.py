"""What a report is about: finished runs with their ranks, and the data whose texts and pictures they are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.comparison.sides import Side, queries_of, records_by_side, with_distinct_labels
from benchmark.data.dataset_choice import EVALUATED, open_dataset
from benchmark.dataset import Dataset, IntArray, TaskKey
from benchmark.errors import UserError
from benchmark.evaluation.per_query import PerQuery
from benchmark.options import RunOptions, make_options
from benchmark.records.record import Record
from benchmark.registry import Registry
from benchmark.text_rules import rule_of, text_rule


@dataclass(frozen=True)
class ReportedSide:
    """A configuration with its seeds: `Side`, and where each seed's record lies."""

    side: Side
    files: tuple[Path, ...]

    @property
    def label(self) -> str:
        return self.side.label

    @property
    def first(self) -> Record:
        return self.side.records[0]


@dataclass(frozen=True)
class AskedQuery:
    """What the data say of a query: its text, its reference and right answers by name."""

    text: str
    reference: str
    positives: tuple[str, ...]


@dataclass(frozen=True)
class ReportedData:
    """The data of some runs. ``dataset`` is None where they cannot be opened here, and ``problem`` says why."""

    dataset: Dataset | None
    problem: str = ""

    @cached_property
    def paths(self) -> Mapping[str, Path]:
        """Of every picture by name."""
        if self.dataset is None:
            return {}
        return dict(zip(self.dataset.pictures.names, self.dataset.pictures.paths, strict=True))

    def queries(self, key: TaskKey, rule: str) -> dict[str, AskedQuery]:
        """What the data say of the queries of a task, by id; ``rule``: the runs' text rule, "" for none known."""
        if self.dataset is None:
            return {}
        names = self.dataset.pictures.names
        asking = text_rule(rule) if rule else None
        fitting = asking if asking is not None and asking.mode == key.text_mode else rule_of(key.text_mode)
        # What a subset or missing pictures renamed is still asked as the whole protocol asks it.
        known = sorted((p.name for p in self.dataset.protocols if key.protocol.startswith(p.name)), key=len)
        found = {}
        for task in self.dataset.tasks(key.split, known[-1], fitting.name) if known else ():
            if task.key.category == key.category:
                for i, query in enumerate(task.queries.ids):
                    found[query] = AskedQuery(
                        task.queries.texts[i],
                        names[task.queries.reference_picture[i]],
                        tuple(names[task.gallery[g]] for g in task.queries.positives[i]),
                    )
        return found


@dataclass(frozen=True)
class Block:
    """All that is told of one split, protocol and text mode of some data, its categories together.

    ``ids``: by category, of its queries. ``ranked``: per side (by its number in the report) and category what each
    seed says of these queries, in that order.
    """

    key: TaskKey
    data: ReportedData
    ids: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, IntArray]
    ranked: Mapping[int, Mapping[str, tuple[PerQuery, ...]]]
    asked: Mapping[str, Mapping[str, AskedQuery]]
    is_demo: bool

    @property
    def count(self) -> int:
        return sum(map(len, self.ids.values()))

    @property
    def is_labelled(self) -> bool:
        """Whether its queries have ranks; hidden labels have none."""
        return any((seed.rank > 0).any() for side in self.ranked.values() for seeds in side.values() for seed in seeds)


def reported_sides(runs: Iterable[Path]) -> list[ReportedSide]:
    """The runs' sides, seeds together; of two records of one configuration and seed the first one is told of.

    Raises UserError where there is no record with results.
    """
    sides, files = [], []
    for members in records_by_side(runs):
        by_seed: dict[int | None, tuple[Path, Record]] = {}
        for file, record in members:
            if record.results:
                by_seed.setdefault(record.identity.seed, (file, record))
        if by_seed:
            records = tuple(record for _, record in by_seed.values())
            queries = tuple(queries_of(file, record) for file, record in by_seed.values())
            sides.append(Side(records[0].title, records, queries))
            files.append(tuple(file for file, _ in by_seed.values()))
    if not sides:
        raise UserError("report: the records that were named hold no results; name runs, or folders that hold some")
    return [ReportedSide(*pair) for pair in zip(with_distinct_labels(sides), files, strict=True)]


def blocks_of(sides: Sequence[ReportedSide], registry: Registry, values: Mapping[str, Any]) -> list[Block]:
    """Blocks in the order of their names; ``values`` are the options that say where data lie."""
    opened: dict[tuple[object, ...], ReportedData] = {}
    keys: dict[tuple[TaskKey, tuple[object, ...]], list[int]] = {}
    for number, reported in enumerate(sides):
        data = _identity_of_data(reported.first)
        if data not in opened:
            opened[data] = open_data(reported.first, registry, values)
        for key in dict.fromkeys(replace(key, category="") for key in sorted(reported.side.keys(), key=str)):
            keys.setdefault((key, data), []).append(number)
    ordered = sorted(keys.items(), key=lambda entry: str(entry[0][0]))
    return [_block(key, opened[data], sides, numbers) for (key, data), numbers in ordered]


def _identity_of_data(record: Record) -> tuple[object, ...]:
    data, identity = record.identity.data, record.identity
    assert data is not None
    return data.name, data.fingerprint, identity.limit, identity.missing_pictures


def open_data(record: Record, registry: Registry, values: Mapping[str, Any]) -> ReportedData:
    """The data of a record, if they are here and the same."""
    data = record.identity.data
    assert data is not None
    try:
        options = _options(record, data.name, data.is_demo, values)
        if not data.is_demo and options.data_root_of(data.name) is None:
            raise UserError(f"no --data-root was given for {data.name}")
        for plugin in options.plugins:
            registry.add_plugin(Path(plugin))
        # A fingerprint is of the splits that were read: a run reads training, too; files from outside need it not.
        for also in (("train", EVALUATED), ()):
            dataset = open_dataset(registry, options, (EVALUATED,), also)
            if dataset.fingerprint == data.fingerprint:
                return ReportedData(dataset)
        raise UserError(f"the annotations of {data.name} that are here are others than the runs'")
    except UserError as error:
        return ReportedData(None, str(error).splitlines()[0])


def _options(record: Record, dataset: str, is_demo: bool, values: Mapping[str, Any]) -> RunOptions:
    given = {name: value for name, value in values.items() if name in RunOptions.model_fields}
    if is_demo and "data_root" not in given:
        given["demo"] = True
    reduced = {"limit": record.identity.limit, "allow_missing": bool(record.identity.missing_pictures)}
    return make_options(**{**given, **reduced, "method": record.method, "dataset": dataset})


def _block(key: TaskKey, data: ReportedData, sides: Sequence[ReportedSide], numbers: Sequence[int]) -> Block:
    ids: dict[str, tuple[str, ...]] = {}
    groups: dict[str, IntArray] = {}
    ranked: dict[int, dict[str, tuple[PerQuery, ...]]] = {}
    for number in numbers:
        side = sides[number].side
        categories = {k.category: k for k in side.keys() if replace(k, category="") == key}
        own: dict[str, tuple[PerQuery, ...]] = {}
        for category, full in sorted(categories.items()):
            first = side.queries[0][full]
            ids.setdefault(category, first.ids)
            groups.setdefault(category, first.group)
            seeds = [_in_order(seed[full], ids[category]) for seed in side.queries]
            if all(seed is not None for seed in seeds):
                own[category] = tuple(seed for seed in seeds if seed is not None)
        if own.keys() == ids.keys():
            ranked[number] = own
    rule = sides[numbers[0]].first.identity.text_rule
    asked = {category: data.queries(replace(key, category=category), rule) for category in ids}
    is_demo = any(r.identity.data is not None and r.identity.data.is_demo for r in sides[numbers[0]].side.records)
    return Block(key, data, ids, groups, ranked, asked, is_demo)


def _in_order(found: PerQuery, ids: Sequence[str]) -> PerQuery | None:
    """The queries of these ids in that order; None where there are others."""
    if found.ids == tuple(ids):
        return found
    place = {name: i for i, name in enumerate(found.ids)}
    if set(place) != set(ids):
        return None
    return found.take(np.array([place[name] for name in ids]))
