"""Records of models that were each trained on one category of a dataset, joined into one record of all.

What every category has is kept, ranks included; averages over categories are made of them. The weights stay where they
are, in the runs' own folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.evaluation.per_query import PerQuery
from benchmark.pipeline.reporting import averages_of, write_table
from benchmark.pipeline.run_folder import Owner, held_folder
from benchmark.records.environment import utc_now
from benchmark.records.identity import EACH, Identity, OneCategory
from benchmark.records.record import (
    Record,
    Result,
    read_per_query,
    read_record,
    run_key,
    seedless_identity,
    write_record,
)
from benchmark.records.rows import flattened

_OF_ITS_CATEGORY = (
    "category", "dictionaries", "side_texts", "missing_pictures", "skipped_pictures", "skipped_triplets",
)  # fmt: skip
"""What of an identity may be another in every category."""
_JOIN = "python -m benchmark join"


def join_categories(runs: Sequence[Path], output: Path | None = None, overwrite: bool = False) -> tuple[Record, Path]:
    """Join the runs of a configuration and seed, one for each category; gives the record and its folder.

    Raises UserError, with all problems, where a run is not on one category, where a category is missing or there
    twice, or where configuration, code, data or seed are not the same in all.
    """
    read = [(folder, read_record(folder)) for folder in runs]
    if problems := list(_problems(read)):
        raise UserError.collect(problems)
    among = _category(read[0][1]).among
    read.sort(key=lambda pair: among.index(_category(pair[1]).name))
    records = [record for _, record in read]
    found = [
        (result, ranks[index])
        for (folder, record), ranks in ((pair, read_per_query(*pair)) for pair in read)
        for index, result in enumerate(record.results)
    ]
    results, per_query = _results(found)
    joined = _joined(records, results)
    folder = output or Path("runs", _label(joined), joined.method, run_key(joined)[:12], f"seed-{joined.identity.seed}")
    owner = Owner("joined", {"run": run_key(joined), "seed": joined.identity.seed})
    with held_folder(folder, owner, overwrite=overwrite):
        written = write_record(folder, joined, per_query)
        write_table(folder, written)
    return written, folder


def _problems(read: Sequence[tuple[Path, Record]]) -> Iterator[str]:
    for folder, record in read:
        if record.identity.category is None or record.identity.category.name == EACH:
            yield f"{folder}: not a run on one category; name runs that were made with --category"
        elif record.identity.tuning is not None:
            yield f"{folder}: its learning rate was searched for, on its category alone; run it without --lr-sweep"
        elif "per_query" not in record.files:
            yield f"{folder}: its ranks are not beside its record; name the run's folder as `run` wrote it"
    if any(record.identity.category is None for _, record in read):
        return
    categories = [_category(record).name for _, record in read]
    among = _category(read[0][1]).among
    for name in among:
        if categories.count(name) != 1 and EACH not in categories:
            told = f"{categories.count(name)} runs on {name} are named" if name in categories else f"{name} is missing"
            yield f"{told}: join one run for each of {', '.join(among)} (run --category {name})"
    (first, one), *others = read
    for folder, other in others:
        differences = list(_differences(one, other))
        if differences:
            more = f"; and {len(differences) - 1} more" if len(differences) > 1 else ""
            yield f"{folder}: not of the same run as {first}: {differences[0]}{more}; run it with the same options"


def _differences(one: Record, other: Record) -> Iterator[str]:
    """Settings, code, data and seed that are not the same, old value and new."""
    mine, theirs = _compared(one), _compared(other)
    for name in sorted({*mine, *theirs}, key=lambda name: (not name.startswith("data."), name)):
        if mine.get(name) != theirs.get(name):
            yield f"{name} {str(theirs.get(name, 'none'))[:60]}, there {str(mine.get(name, 'none'))[:60]}"


def _compared(record: Record) -> dict[str, Any]:
    identity = {k: v for k, v in seedless_identity(record).items() if k not in _OF_ITS_CATEGORY}
    columns = sorted({f"{r.split} {r.protocol} {r.text_mode} {r.weights_from}" for r in record.results})
    return dict(flattened({
        **identity, "method": record.method, "seed": record.identity.seed, "columns": ", ".join(columns),
        "code": record.code.model_dump(mode="json"),
    }))  # fmt: skip


def _results(found: Sequence[tuple[Result, PerQuery]]) -> tuple[tuple[Result, ...], dict[int, PerQuery]]:
    """In a run's order: of each set of weights the protocols with their categories, then the averages."""
    results: list[Result] = []
    per_query: dict[int, PerQuery] = {}
    for weights in dict.fromkeys(result.weights_from for result, _ in found):
        mine = [pair for pair in found if pair[0].weights_from == weights]
        protocols = list(dict.fromkeys(result.protocol for result, _ in mine))
        mine.sort(key=lambda pair: protocols.index(pair[0].protocol))
        per_query |= {len(results) + i: queries for i, (_, queries) in enumerate(mine)}
        results += [result for result, _ in mine]
        results += averages_of([result for result, _ in mine], [queries for _, queries in mine])
    return tuple(results), per_query


def _joined(records: Sequence[Record], results: tuple[Result, ...]) -> Record:
    """Times are sums over the models, memory is the largest, what a model costs in use is the first one's."""
    first, names = records[0], [_category(record).name for record in records]
    trained_for = _sums(record.cost.training_seconds for record in records if record.cost is not None)
    probes = [record.probe for record in records if record.probe is not None]
    return first.model_copy(update={
        "results": results,
        "identity": _joined_identity([record.identity for record in records]),
        "command": " && ".join([*dict.fromkeys(r.command for r in records), f"{_JOIN}{' RUN' * len(records)}"]),
        "created": utc_now(),
        "timings": _sums(record.timings for record in records),
        "throughput": {},
        "peak_memory_bytes": _of_all((record.peak_memory_bytes for record in records), max),
        "cost": first.cost and first.cost.model_copy(update={"training_seconds": trained_for}),
        "probe": max(probes, key=lambda probe: probe.largest_deviation, default=None),
        "selected": tuple(
            chosen.model_copy(update={"stage": f"{chosen.stage}, {name}"})
            for record, name in zip(records, names, strict=True)
            for chosen in record.selected
        ),
        "weights": {},
        "files": {},
    })  # fmt: skip


def _joined_identity(identities: Sequence[Identity]) -> Identity:
    first = identities[0]
    assert first.category is not None
    stages = tuple(
        parts[0].model_copy(update={
            "updates": sum(part.updates for part in parts),
            "triplets_seen": sum(part.triplets_seen for part in parts),
            "artefact": None,
        })
        for parts in zip(*(identity.stages for identity in identities), strict=True)
    )  # fmt: skip
    dictionaries, side_texts = (
        {name: digest for identity in identities for name, digest in (getattr(identity, field) or {}).items()} or None
        for field in ("dictionaries", "side_texts")
    )
    missing, skipped = (
        tuple(dict.fromkeys(name for identity in identities for name in getattr(identity, field)))
        for field in ("missing_pictures", "skipped_pictures")
    )
    return first.model_copy(update={
        "category": first.category.model_copy(update={"name": EACH}),
        "stages": stages,
        "dictionaries": dictionaries,
        "side_texts": side_texts,
        "missing_pictures": missing,
        "skipped_pictures": skipped,
        "skipped_triplets": sum(identity.skipped_triplets for identity in identities),
    })  # fmt: skip


def _sums(tables: Iterator[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(seconds, 2) for name, seconds in _of_all(tables, sum).items()}


def _of_all(tables: Iterator[Mapping[str, Any]], of: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """Of each name what is made of its values in all tables."""
    values: dict[str, list[Any]] = {}
    for table in tables:
        for name, value in table.items():
            values.setdefault(name, []).append(value)
    return {name: of(each) for name, each in values.items()}


def _category(record: Record) -> OneCategory:
    assert record.identity.category is not None
    return record.identity.category


def _label(record: Record) -> str:
    assert record.identity.data is not None
    return record.identity.data.label
