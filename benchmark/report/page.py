"""One HTML page about runs, whole in itself: no request leaves it, and nothing that a name or caption says is executed.

Style and script stand in the page, and its content security policy allows these two alone, by their digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmark.comparison.composition import CompositionAt, compose_side
from benchmark.dataset import TaskKey
from benchmark.errors import UserError
from benchmark.evaluation.metrics import REPLICATES
from benchmark.files import atomic_write_text
from benchmark.leaderboards.uncertainty import with_uncertainty
from benchmark.progress import say
from benchmark.records.environment import utc_now
from benchmark.records.layout import TIE_MARKS, places_of, short_name
from benchmark.records.record import read_per_query
from benchmark.records.rows import AVERAGE, COMPOSITION_CUTOFF, Row
from benchmark.records.tables import Table, tables
from benchmark.registry import Registry, discover
from benchmark.report.attention import attention_of
from benchmark.report.breakdowns import KINDS, breakdowns_of
from benchmark.report.browser import PictureTable, browser_of, step_of
from benchmark.report.figures import block_figures, training_figures
from benchmark.report.pictures import BUDGET, embedded, linked
from benchmark.report.provenance import facts_of, without_folders
from benchmark.report.runs import Block, ReportedSide, blocks_of, reported_sides
from benchmark.report.sealed_page import sealed_page

_LARGEST = 20_000_000
_LEFT_OUT = (
    "Of the queries one in {step} is here, since the page would be too large with all of them; tables, curves and "
    "kinds of queries are of all."
)


def write_report(
    runs: Iterable[Path],
    page: Path,
    values: Mapping[str, Any],
    *,
    embed: bool = False,
    registry: Registry | None = None,
) -> Path:
    """Write the page about the runs at or below these paths, and give its path.

    ``values``: `RunOptions` that say where data, weights and caches lie. ``embed``: put real data's pictures into the
    page, too, which it then says; demo pictures always are. Of very many queries the page has every so manieth, and
    says so. Raises UserError where there is no run, or where the page would have more than 20 MB all the same.
    """
    registry = registry or discover()
    sides = reported_sides(runs)
    blocks = blocks_of(sides, registry, values)
    for problem in dict.fromkeys(block.data.problem for block in blocks if block.data.problem):
        say(f"texts and pictures are left out: {problem}")
    shown = PictureTable()
    step = step_of(blocks)
    browsers = [browser_of(block, sides, shown, step) for block in blocks]
    where = {
        "assets_root": Path(values["assets_root"]) if values.get("assets_root") else None,
        "plugins": tuple(values.get("plugins", ())),
    }
    attention, without_attention = attention_of(sides, blocks, shown, where)
    composed = [_composed(reported) for reported in sides]
    html, _ = sealed_page(
        "benchmark.report",
        "report",
        "img-src file: data:; form-action 'none'",
        sides=sides,
        blocks=[_shown_block(block, sides, composed) for block in blocks],
        tables=[_shown_table(table) for table in _tables(sides)],
        left_out=_LEFT_OUT.format(step=step) if step > 1 else "",
        training=list(training_figures(sides)),
        facts=[(n, reported.label, facts_of(reported)) for n, reported in enumerate(sides)],
        stamped=embed and any(not block.is_demo for block in blocks),
        demo=any(block.is_demo for block in blocks),
        problems=list(dict.fromkeys(without_folders(block.data.problem) for block in blocks if block.data.problem)),
        attention=attention,
        without_attention=[without_folders(line) for line in without_attention],
        kinds=KINDS,
        made=utc_now(),
        data={
            "pictures": shown.names,
            "sources": _pictures(blocks, shown, page, embed),
            "blocks": browsers,
            "attention": attention,
        },
    )
    if (size := len(html.encode())) > _LARGEST:
        raise UserError(f"report: the page would have {size / 1e6:.0f} MB, and at most {_LARGEST / 1e6:.0f} are fluid "
                        "in a browser; name fewer runs, or write a page for each dataset")  # fmt: skip
    atomic_write_text(page, html)
    return page


def _tables(sides: Sequence[ReportedSide]) -> list[Table]:
    """All records' tables, with what their ranks say: intervals of averages, tie groups."""
    records = [record for reported in sides for record in reported.side.records]
    ranks = {
        record.files["per_query"].sha256: read_per_query(file.parent, record)
        for reported in sides
        for file, record in zip(reported.files, reported.side.records, strict=True)
        if "per_query" in record.files
    }
    return [with_uncertainty(table, ranks) for table in tables(records)]


def _pictures(blocks: Sequence[Block], shown: PictureTable, page: Path, embed: bool) -> list[str]:
    """The address of each picture of the table; "" for one that is missing."""
    every = {id(block.data): (block.data, block.is_demo) for block in blocks}
    budget = BUDGET // max(1, sum(is_demo or embed for _, is_demo in every.values()))
    found = {}
    for key, (data, is_demo) in every.items():
        names = shown.names_of(data)
        found[key] = embedded(data.paths, names, budget) if is_demo or embed else linked(data.paths, names, page)
    return shown.addresses(found)


def _shown_table(table: Table) -> dict[str, Any]:
    places = places_of(table.rows)
    categories = [(category, len(list(of))) for category, of in groupby(places, key=lambda place: place[0])]
    return {
        "heading": table.heading,
        "caption": " ".join(f"{sentence}." for sentence in table.caption()),
        "categories": categories if any(name for name, _ in categories) else [],
        "metrics": [short_name(metric) for _, metric in places],
        "rows": [_shown_row(row, places) for row in table.rows],
        "notes": table.all_notes(),
    }


def _shown_row(row: Row, places: Sequence[tuple[str, str]]) -> dict[str, Any]:
    cells = [row.cells.get(place) for place in places]
    return {
        "name": row.name,
        "label": row.label,
        "cells": [cell and {**cell._asdict(), "mark": TIE_MARKS.get(cell.tie, "")} for cell in cells],
    }


def _shown_block(
    block: Block, sides: Sequence[ReportedSide], composed: Sequence[Mapping[TaskKey, CompositionAt]]
) -> dict[str, Any]:
    # Categories have equal weight, as in the average that papers print.
    key = replace(block.key, category=AVERAGE if len(block.ids) > 1 else next(iter(block.ids)))
    return {
        "key": str(block.key),
        "count": block.count,
        "figures": list(block_figures(block, sides)),
        "composition": [(number, composed[number][key]) for number in block.ranked if key in composed[number]],
        "breakdowns": list(breakdowns_of(block)),
    }


def _composed(reported: ReportedSide) -> dict[TaskKey, CompositionAt]:
    """What a side says of composition at one cut-off, by task; {} where it does not know one modality alone."""
    try:
        found = compose_side(reported.side, replicates=REPLICATES)
    except UserError:
        return {}
    return {at.key: at for at in found.at if at.metric == COMPOSITION_CUTOFF}
