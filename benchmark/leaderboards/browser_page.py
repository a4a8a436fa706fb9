"""The tables as one HTML file that a browser opens from the disk: sorted and filtered there, without any request."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmark.leaderboards.entries import facts_of
from benchmark.records.escaping import literal
from benchmark.records.layout import TIE_MARKS, best_measured, every_place, places_of, short_name
from benchmark.records.rows import Place, Row, has_enough_seeds
from benchmark.records.tables import Table

FILE_NAME = "leaderboard.html"
_TEMPLATE = "browser_page.html"
_FILTERS = {"dataset": "dataset", "protocol": "protocol", "text": "text mode", "encoder": "encoder", "year": "year",
            "extra": "extra data", "rows": "rows"}  # fmt: skip
_SHOWN_FACTS = ("encoder", "year", "source", "rerun by", "extra data", "language model", "reproduced", "seeds")


@dataclass(frozen=True)
class _Section:
    """A table as the template reads it. ``groups``: categories, each with how many columns it has."""

    heading: str
    groups: list[tuple[str, int]]
    metrics: list[str]
    notes: list[str]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class _Number:
    text: str
    value: float
    spread: str
    tie: str
    mark: str
    is_wrong: bool
    is_best: bool


def browser_page(tables: Sequence[Table], title: str, remark: str = "") -> str:
    """The page; every text in it is shown as text, whatever stands in it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    sections = [_section(table) for table in tables]
    choices = {
        name: sorted({row[name] for section in sections for row in section.rows if row[name]})
        for name in _FILTERS
    }
    return environment.get_template(_TEMPLATE).render(
        title=title, remark=remark, sections=sections, filters=_FILTERS, choices=choices
    )


def _section(table: Table) -> _Section:
    places = every_place(table.rows)
    best = best_measured(table.rows, places_of(table.rows)) if table.bold else {}
    column = {"dataset": table.key.dataset, "protocol": table.key.protocol, "text": table.key.text_mode}
    return _Section(
        heading=literal(table.heading),
        groups=[(category, len(list(of))) for category, of in groupby(places, key=lambda place: place[0])],
        metrics=[short_name(metric) for _, metric in places],
        notes=[literal(note).replace("~~", "") for note in _notes(table)],
        rows=[column | _row(row, places, best) for row in table.rows],
    )


def _notes(table: Table) -> list[str]:
    return [*table.caption(), *([table.composition_reading] if table.composed else []), *table.all_notes()]


def _row(row: Row, places: Sequence[Place], best: Mapping[Place, float]) -> dict[str, Any]:
    facts = facts_of(row)
    return {
        "name": literal(row.name),
        "label": literal(row.label),
        "encoder": facts["encoder"],
        "year": facts["year"],
        "extra": "said" if facts["extra data"] else "unsaid",
        "rows": facts["rows"],
        "facts": [(name, facts[name]) for name in _SHOWN_FACTS if facts[name]],
        "numbers": [_number(row, place, best) for place in places],
    }


def _number(row: Row, place: Place, best: Mapping[Place, float]) -> _Number | None:
    cell = row.every_cell.get(place)
    if cell is None:
        return None
    is_best = cell.value == best.get(place) and has_enough_seeds(row.records)
    return _Number(cell.text, cell.value, ", ".join(_spreads(cell.half, cell.sd)), cell.tie,
                   TIE_MARKS.get(cell.tie, ""), cell.wrong, is_best)  # fmt: skip


def _spreads(half: float, sd: float) -> Iterator[str]:
    if not math.isnan(half):
        yield f"±{half:.1f}"
    if not math.isnan(sd):
        yield f"sd {sd:.1f}"
