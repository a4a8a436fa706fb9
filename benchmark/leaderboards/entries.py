"""A row's numbers and facts as plain values, for programs and for pages that are no Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from benchmark.dataset import TaskKey
from benchmark.leaderboards.published import schema_of
from benchmark.records.escaping import Value, literal
from benchmark.records.layout import every_place
from benchmark.records.rows import AVERAGE, COMPOSITION, FACTS, Cell, Place, Row
from benchmark.records.tables import Table

FACT_NAMES = (
    *("rows", "encoder", "year", "venue", "paper", "source kind", "source", "rerun by", "extra data"),
    *("language model", "reproduced", "seeds"),
)


def facts_of(row: Row) -> dict[str, str]:
    """By :data:`FACT_NAMES`, "" for what is not known. ``rows``: "measured" or "published"."""
    found = dict.fromkeys(FACT_NAMES, "")
    if row.records:
        found |= {"rows": "measured", "encoder": literal(FACTS["encoder"](row)), "seeds": FACTS["seeds"](row)}
    else:
        found |= {"rows": "published", **row.published}
    return found


def queries_of(key: TaskKey, row: Row, category: str) -> int | None:
    """How many queries a number is of, where that is known; of an average, those of its categories together."""
    if category == COMPOSITION:
        category = AVERAGE if AVERAGE in row.results else ""
    if results := row.results.get(category):
        return results[0].queries
    schema = None if row.records else schema_of(key.dataset)
    return sum(schema.queries_of(replace(key, category=category))) or None if schema else None


def entries_of(table: Table) -> Iterator[dict[str, Value]]:
    """One per number of a table, row by row: what it is, its uncertainty, and what is known of its row."""
    key = table.key
    column = {"dataset": key.dataset, "split": key.split, "protocol": key.protocol, "text_mode": key.text_mode}
    for row in table.rows:
        facts = {name.replace(" ", "_"): value for name, value in facts_of(row).items()}
        cells = row.every_cell
        for place in every_place([row]):
            if place not in cells:  # the recall on a hard part that is empty
                continue
            cell = cells[place]
            yield {
                **column, "category": place[0], "metric": place[1], "method": literal(row.name),
                "label": literal(row.label), **_numbers(cell), "queries": queries_of(key, row, place[0]), **facts,
                "demo": "demo" in table.remark,
            }  # fmt: skip


def _numbers(cell: Cell) -> dict[str, Value]:
    return {
        "printed": cell.text,
        "value": cell.value,
        "half_interval": None if math.isnan(cell.half) else cell.half,
        "sd": None if math.isnan(cell.sd) else cell.sd,
        "tie_group": cell.tie or None,
        "wrong": cell.wrong,
    }


def further_lines(row: Row) -> Iterator[tuple[str, dict[Place, str]]]:
    """Half intervals, deviations and its own further lines, below a row's numbers."""
    halves = {place: cell.half for place, cell in row.every_cell.items()}
    deviations = {place: cell.sd for place, cell in row.every_cell.items()}
    for mark, values in (("±", halves), ("sd", deviations)):
        texts = {place: f"{value:.1f}" for place, value in values.items() if not math.isnan(value)}
        if texts and (row.records or mark != "±"):
            yield mark, texts
    for label, below in row.below:
        yield literal(label), dict(below)
