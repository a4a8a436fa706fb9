"""The page of runs on noisy training triplets, a block of rows for each share that is wrong, as published tables are.

What is noisy stands beside the same configuration without noise, over the seeds that it has with every share. Tie
groups are those of one share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from benchmark.dataset import TaskKey
from benchmark.facts import DatasetInfo
from benchmark.leaderboards.provenance import MADE_FROM_DEMO_RECORDS
from benchmark.leaderboards.uncertainty import KeptRanks, with_uncertainty
from benchmark.records.layout import listed, paragraph, table_of_rows
from benchmark.records.record import Record, run_key
from benchmark.records.rows import FACTS, Row, format_facts, noise_mark
from benchmark.records.tables import DEMO, DEMO_CAPTION, Table, notes_of, tables

_READING = (
    "A share of the training triplets has a wrong reference, text or target (noisy triplet correspondence, "
    "`run --noise SHARE`), the same for every method; queries and gallery are untouched. There is a block of rows for "
    "each share, 0 % is the ordinary setting; tie groups are those of one share"
)


def noise_page(dataset: DatasetInfo, records: Iterable[Record], kept: KeptRanks) -> str:
    """The tables of kept demo records with noise, and of the same without, markdown; "" where none has noise."""
    by_column: dict[TaskKey, list[Row]] = {}
    for table in tables(_beside_clean_ones(records)):
        by_column.setdefault(table.key, []).extend(with_uncertainty(table, kept).rows)
    parts = [f"# {dataset.title}: noisy training triplets: {DEMO}\n", paragraph([MADE_FROM_DEMO_RECORDS])]
    parts += [paragraph([_READING])]
    for key, rows in by_column.items():
        shares = [f"{100 * _share(row.first):g} %" for row in rows]
        shown = [replace(row, name=row.name.replace(noise_mark(row.first), "")) for row in rows]
        named = [replace(row, name=f"{row.name} at {share}") for row, share in zip(shown, shares, strict=True)]
        table = Table(key, f": {DEMO_CAPTION}", tuple(shown))
        parts += [f"## {table.heading}\n", paragraph(table.caption()), table_of_rows(shown, ticks={"noise": shares})]
        parts += [listed([*format_facts(shown), *notes_of(named, leave_out=FACTS)])]
    return "\n".join(parts) if by_column else ""


def _share(record: Record) -> float:
    return record.identity.noise.share if record.identity.noise is not None else 0.0


def _beside_clean_ones(records: Iterable[Record]) -> Iterator[Record]:
    """Records with noise, and those that differ from them in nothing else, of the seeds that every share has."""
    by_configuration: dict[str, dict[float, list[Record]]] = {}
    for record in records:
        clean = record.model_copy(update={"identity": record.identity.model_copy(update={"noise": None})})
        by_configuration.setdefault(run_key(clean), {}).setdefault(_share(record), []).append(record)
    for by_share in by_configuration.values():
        if any(by_share):
            seeds = set.intersection(*({record.identity.seed for record in group} for group in by_share.values()))
            every = [record for group in by_share.values() for record in group]
            yield from (record for record in every if not seeds or record.identity.seed in seeds)
