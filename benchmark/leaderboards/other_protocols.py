"""The page of models that stand under several protocols or text modes, with what the change of protocol is worth.

A model is a method with a backbone. Published copies and re-runs of it, and its own runs here, stand beside each other;
differences are to the first line. They show how little a number says without its protocol, not which method is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from benchmark.dataset import DatasetInfo, TaskKey
from benchmark.leaderboards.blocks import main_block
from benchmark.leaderboards.entries import facts_of
from benchmark.records.layout import paragraph, pipe_table, places_of, short_name
from benchmark.records.rows import AVERAGE, Place, Row, plain
from benchmark.records.tables import Table

FILE_NAME = "same-model-other-protocol.md"

_HEADING = """# Same model, other protocol

Made by `python -m benchmark leaderboard` from the records in `results/records` and from
`results/published.csv`; not edited by hand.

"""
_READING = (
    "Each block is one model on one dataset, a line per protocol, text mode and source; below a line's numbers stands "
    "what they differ by from the block's first line, in points",
    "Other galleries, a reference that is ranked or not, and other texts are what moves them; `unclear` is what a "
    "source does not say",
)


def render_other_protocols(found: Mapping[str, tuple[DatasetInfo, Sequence[Table]]]) -> str:
    """The page, markdown. ``found``: by dataset its facts and all of its measured and published tables."""
    parts = [_HEADING + paragraph(_READING)]
    for info, tables in found.values():
        models = _models(tables)
        blocks = [_block(name, lines, info) for name, lines in models.items() if len({key for key, _ in lines}) > 1]
        if blocks:
            parts += [f"## {info.title}\n", *blocks]
    return "\n".join(parts) if len(parts) > 1 else parts[0] + "\nNo model stands under several protocols yet.\n"


def _models(tables: Sequence[Table]) -> dict[str, list[tuple[TaskKey, Row]]]:
    """By name and encoder: every row of the model with its column."""
    models: dict[str, list[tuple[TaskKey, Row]]] = {}
    for table in tables:
        for row in table.rows:
            if not row.records or row.result.weights_from != "last":
                encoder = facts_of(row)["encoder"]
                models.setdefault(f"{row.name} [{plain(encoder)}]", []).append((table.key, row))
    return models


def _block(name: str, lines: Sequence[tuple[TaskKey, Row]], info: DatasetInfo) -> str:
    main = main_block(info)
    ordered = sorted(lines, key=lambda line: (line[0] != main, "unclear" in str(line[0]), str(line[0]), line[1].label))
    places = [place for place in places_of([row for _, row in ordered]) if place[0] in ("", AVERAGE)]
    heads = ["split · protocol · text mode, source", *(short_name(metric) for _, metric in places)]
    first = ordered[0][1]
    cells: list[list[str]] = []
    for key, row in ordered:
        cells.append([f"{replace(key, dataset='')}, {row.label}", *(_text(row, place) for place in places)])
        if row is not first:
            cells.append(["  difference", *_differences(first, row, places)])
    return f"### {name}\n\n{pipe_table([heads], cells, ['left', *['right'] * len(places)])}"


def _text(row: Row, place: Place) -> str:
    cell = row.cells.get(place)
    return "" if cell is None else f"~~{cell.text}~~" if cell.wrong else cell.text


def _differences(first: Row, row: Row, places: Sequence[Place]) -> Iterator[str]:
    for place in places:
        mine, other = row.cells.get(place), first.cells.get(place)
        known = mine is not None and other is not None and not mine.wrong and not other.wrong
        yield f"{mine.value - other.value:+.2f}" if known and mine and other else ""
