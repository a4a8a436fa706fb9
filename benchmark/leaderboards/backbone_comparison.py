"""One table of the same methods on several backbones: recalls beside what each backbone costs.

It is made of controlled comparisons, one a backbone, that share every condition but the encoder. Costs are those that
the records hold: of one picture of the gallery, the encoder's passes and the method's own layers, and the bytes of
its encoding, of which a sequence of 32 tokens has 32 times those of a vector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from benchmark.evaluation.metrics import components
from benchmark.leaderboards.uncertainty import KeptRanks, with_uncertainty
from benchmark.records.layout import listed, paragraph, places_of, table_of_rows
from benchmark.records.measurement import format_gigaflops
from benchmark.records.rows import AVERAGE, Place, Row, plain
from benchmark.records.tables import Table

_RECALLS = 5
_OF_THE_BACKBONE = "encoder"
_COUNTING = (
    "GFLOPs and bytes: of one picture of the gallery, encoded (a multiply-add counts as two) and kept in float32; "
    "params: all that a query and a picture pass through, the encoder's included"
)


def backbone_table(
    conditions: Sequence[Mapping[str, str]], rows: Sequence[Sequence[Row]], remark: str, kept: KeptRanks
) -> Iterator[str]:
    """Markdown. ``conditions``, ``rows``: those of each backbone's comparison, in one order."""
    common = dict(Counter(tuple(_shared(of_one).items()) for of_one in conditions).most_common(1)[0][0])
    taken: list[Row] = []
    left_out: list[str] = []
    for of_one, members in zip(conditions, rows, strict=True):
        name = plain(of_one[_OF_THE_BACKBONE])
        different = [f"{key} {value}, not {common[key]}" for key, value in _shared(of_one).items()
                     if common.get(key, value) != value]  # fmt: skip
        if different:
            left_out.append(f"left out: {name}: {plain(', '.join(different))}")
        else:
            taken += [replace(row, label=name) for row in members]
    taken.sort(key=lambda row: (row.name.lower(), _gallery_flops(row), row.label))
    key = replace(taken[0].result.key, category="")
    table = with_uncertainty(Table(key, remark, tuple(taken)), kept)
    places = set(_told_places(table.rows))
    shown = [replace(row, cells={at: cell for at, cell in row.cells.items() if at in places}) for row in table.rows]
    yield f"#### All backbones: {table.heading}\n"
    yield paragraph(replace(table, rows=tuple(shown)).caption())
    yield table_of_rows(shown, ticks=_costs(shown))
    yield listed([_COUNTING, *left_out])


def _shared(conditions: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in conditions.items() if name != _OF_THE_BACKBONE}


def _gallery_flops(row: Row) -> int:
    cost = row.first.cost
    return cost.gallery.flops if cost is not None else 0


def _told_places(rows: Sequence[Row]) -> list[Place]:
    """The columns that find room beside the costs: of all categories' average where there is one, means first."""
    places = places_of(rows)
    places = [place for place in places if place[0] in ("", AVERAGE)] or places
    means = [place for place in places if components(place[1])]
    return [*means, *(place for place in places if place not in means)][:_RECALLS]


def _costs(rows: Sequence[Row]) -> dict[str, list[str]]:
    """A column each; empty cells for records without costs."""
    costs = [row.first.cost for row in rows]
    return {
        "GFLOPs": [format_gigaflops(cost.gallery.flops) if cost else "" for cost in costs],
        "bytes": [f"{cost.stored_bytes:,}" if cost else "" for cost in costs],
        "params": [f"{cost.parameters / 1e6:.3g}M" if cost and cost.parameters is not None else "" for cost in costs],
    }
