"""The queries of a page as plain data for its script: columns of numbers, one table of pictures.

What is drawn of a query: its text, its reference, the ten best pictures by each side with the right answers marked,
and the target where it is lower.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmark.evaluation.per_query import PerQuery
from benchmark.report.breakdowns import count_changes, has_negation
from benchmark.report.runs import AskedQuery, Block, ReportedData, ReportedSide

SHOWN = 10
BUDGET = 6_000_000
"""Bytes of the queries of a page: with its pictures it stays under 20 MB."""
_TEXT_BYTES, _SIDE_BYTES = 120, 75
"""What a query takes, and each side's ten pictures of it, generously."""


def step_of(blocks: Iterable[Block]) -> int:
    """Every how manieth query is shown: 1, unless all would take more than the budget."""
    size = sum(block.count * (_TEXT_BYTES + _SIDE_BYTES * len(block.ranked)) for block in blocks)
    return max(1, math.ceil(size / BUDGET))


class PictureTable:
    """Numbers of the pictures that a page shows; two datasets may call different ones alike."""

    def __init__(self) -> None:
        self._number: dict[tuple[int, str], int] = {}

    def number(self, data: ReportedData, name: str) -> int:
        return self._number.setdefault((id(data), name), len(self._number))

    @property
    def names(self) -> list[str]:
        return [name for _, name in self._number]

    def addresses(self, of_data: Mapping[int, Mapping[str, str]]) -> list[str]:
        """The address of each; "" for one that is missing. ``of_data``: addresses by name, by the data's id."""
        return [of_data.get(data, {}).get(name, "") for data, name in self._number]

    def names_of(self, data: ReportedData) -> list[str]:
        return [name for known, name in self._number if known == id(data)]


def browser_of(
    block: Block, sides: Sequence[ReportedSide], pictures: PictureTable, step: int = 1
) -> dict[str, Any]:
    """A block's queries, or every so manieth; of a side with several seeds the lists are the first one's."""
    numbered = partial(pictures.number, block.data)
    named = [(i, query) for i, ids in enumerate(block.ids.values()) for query in ids][::step]
    categories = list(block.ids)
    asked = [block.asked[categories[i]].get(query) for i, query in named]
    return {
        "categories": categories,
        "category": [i for i, _ in named],
        "ids": [query for _, query in named],
        "texts": [each.text if each else "" for each in asked],
        "changes": [count_changes(each.text) if each else 0 for each in asked],
        "negation": [int(has_negation(each.text)) if each else 0 for each in asked],
        "references": [numbered(each.reference) if each else -1 for each in asked],
        "targets": [numbered(min(each.positives)) if each and each.positives else -1 for each in asked],
        "sides": [_side(block, number, sides[number].label, asked, pictures, step) for number in block.ranked],
    }


def _side(
    block: Block, number: int, label: str, asked: Sequence[AskedQuery | None], pictures: PictureTable, step: int
) -> dict[str, Any]:
    """``top``: ten pictures a query, one after the other, -1 for none; ``marks``: of each query the sum of
    2^place of those among them that are right."""
    top: list[int] = []
    marks: list[int] = []
    ranks: list[int] = []
    first_seeds = [seeds[0] for seeds in block.ranked[number].values()]
    shown_of = [(first, i) for first in first_seeds for i in range(first.queries)][::step]
    for (first, i), query in zip(shown_of, asked, strict=True):
        shown, rank = _shown(first, i), int(first.rank[i])
        if query is not None:
            right = sum(2**place for place, name in enumerate(shown) if name in query.positives)
        else:
            # Without annotations the best right answer is known by its rank: all before it are wrong.
            right = 2 ** (rank - 1) if 0 < rank <= len(shown) else 0
        ranks.append(rank)
        marks.append(right)
        top += [pictures.number(block.data, name) for name in shown] + [-1] * (SHOWN - len(shown))
    return {"number": number, "label": label, "ranks": ranks, "top": top, "marks": marks}


def _shown(found: PerQuery, i: int) -> list[str]:
    """Names of a query's best pictures; none in the book of results, which keeps no lists."""
    if found.top is None:
        return []
    return [found.gallery[g] for g in np.asarray(found.top[i, :SHOWN]).tolist() if g >= 0]
