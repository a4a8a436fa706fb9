"""Which tables and rows are shown, and in which order."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmark.dataset import DatasetInfo
from benchmark.errors import UserError, unknown_name
from benchmark.leaderboards.entries import facts_of
from benchmark.leaderboards.leaderboard import Sources, demo_records, demo_tables, measured_tables
from benchmark.records.escaping import literal
from benchmark.records.layout import places_of, short_name
from benchmark.records.rows import AVERAGE, Place, Row
from benchmark.records.tables import Table


@dataclass(frozen=True)
class Selection:
    """Empty: all. Names of ``encoder`` and ``method`` are parts of the whole, whatever their case."""

    demo: bool = False
    dataset: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    text_mode: tuple[str, ...] = ()
    encoder: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    year: tuple[int, ...] = ()
    extra_data: str = ""
    rows: str = ""
    sort: str = ""

    @classmethod
    def of(cls, options: argparse.Namespace) -> Selection:
        return cls(
            demo=options.demo,
            dataset=tuple(options.dataset),
            protocol=tuple(options.protocol),
            text_mode=tuple(options.text_mode),
            encoder=tuple(options.encoder),
            method=tuple(options.method),
            year=tuple(options.year),
            extra_data=options.extra_data or "",
            rows=options.rows or "",
            sort=options.sort or "",
        )


def selected(sources: Sources, datasets: Mapping[str, DatasetInfo], chosen: Selection) -> list[Table]:
    """Tables with the rows that are asked for; raises UserError where a name is none of any table."""
    for name in chosen.dataset:
        if name not in datasets:
            raise unknown_name("dataset", name, datasets)
    found: list[Table] = []
    for name, info in datasets.items():
        if not chosen.dataset or name in chosen.dataset:
            if chosen.demo:
                found += demo_tables(demo_records(name, sources.demo), sources.demo)
            else:
                found += measured_tables(info, sources)
    for field in ("protocol", "text_mode"):
        wanted, known = getattr(chosen, field), {getattr(table.key, field) for table in found}
        for name in wanted:
            if name not in known:
                raise unknown_name(field.replace("_", " "), name, known)
        found = [table for table in found if not wanted or getattr(table.key, field) in wanted]
    shown = [replace(table, rows=tuple(row for row in table.rows if _is_chosen(row, chosen))) for table in found]
    return _sorted([table for table in shown if table.rows], chosen.sort)


def _is_chosen(row: Row, chosen: Selection) -> bool:
    facts = facts_of(row)
    return (
        _holds_one(facts["encoder"], chosen.encoder)
        and _holds_one(literal(row.name), chosen.method)
        and (not chosen.year or facts["year"] in map(str, chosen.year))
        and chosen.extra_data in ("", "said" if facts["extra data"] else "unsaid")
        and chosen.rows in ("", facts["rows"])
    )


def _holds_one(text: str, parts: Sequence[str]) -> bool:
    return not parts or any(part.lower() in text.lower() for part in parts)


def _sorted(tables: Iterable[Table], metric: str) -> list[Table]:
    """The best row of a metric first (its average, where there are categories); rows without it last."""
    found = list(tables)
    if not metric:
        return found
    made, known = [], set[str]()
    for table in found:
        places = places_of(table.rows)
        known.update(short_name(name) for _, name in places)
        at = [place for place in places if metric in (place[1], short_name(place[1]))]
        where = next((place for place in at if place[0] == AVERAGE), at[0] if at else None)
        made.append(replace(table, rows=_by_place(table.rows, where)) if where else table)
    if found and metric not in known and not any(metric == name for t in found for _, name in places_of(t.rows)):
        raise UserError(f"--sort {metric}: in none of these tables; known: {', '.join(sorted(known))}")
    return made


def _by_place(rows: Sequence[Row], place: Place) -> tuple[Row, ...]:
    def order(row: Row) -> tuple[bool, float]:
        cell = row.cells.get(place)
        return cell is None or cell.wrong, -(cell.value if cell else 0)

    return tuple(sorted(rows, key=order))
