"""Recall by kinds of queries: length of the text, number of changes that it asks for, negation, category, aspect."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.evaluation.metrics import ASPECT_METRIC, FloatArray, interval, metric_values
from benchmark.evaluation.per_query import PerQuery
from benchmark.report.figures import cutoff_of
from benchmark.report.runs import Block

_CLAUSES = re.compile(r"[,;.]|\b(?:and|but|then|also|while)\b", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:no|not|none|never|without|less|remove[sd]?|lacks?|lose[s]?|instead of|\w+n't)\b", re.IGNORECASE
)

KINDS = (
    "Words: what blanks separate. Changes: parts of the text between commas, semicolons, full stops and the words and, "
    "but, then, also, while. Negation: no, not, none, never, without, less, remove, lack, lose, instead of, …n't."
)


@dataclass(frozen=True)
class BinRow:
    """Queries of one kind: how many, and per side recall and half its 95 % interval in percent."""

    name: str
    queries: int
    cells: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Breakdown:
    """``sides``: their numbers in the report, in the order of the cells."""

    title: str
    sides: tuple[int, ...]
    rows: tuple[BinRow, ...]


def count_changes(text: str) -> int:
    """How many changes a text asks for, as far as its punctuation tells; at least one."""
    return max(1, sum(bool(re.search(r"\w", part)) for part in _CLAUSES.split(text)))


def has_negation(text: str) -> bool:
    return _NEGATION.search(text) is not None


def breakdowns_of(block: Block) -> Iterator[Breakdown]:
    """The breakdowns of a block; those of texts only where the texts are known."""
    if not block.is_labelled:
        return
    queries = [(category, query) for category, ids in block.ids.items() for query in ids]
    texts = [asked.text if (asked := block.asked[c].get(q)) else None for c, q in queries]
    if all(text is not None for text in texts):
        known = [text or "" for text in texts]
        yield from _of(block, "Words in the text", known, lambda text: _between(len(text.split()), (5, 10, 15, 20)))
        yield from _of(block, "Changes asked for", known, lambda text: _between(count_changes(text), (1, 2, 3)))
        yield from _of(block, "Negation", known, lambda text: "with negation" if has_negation(text) else "without")
    if len(block.ids) > 1:
        yield from _of(block, "Category", [category for category, _ in queries], str)
    yield from _by_aspect(block)


def _between(count: int, ends: tuple[int, ...]) -> str:
    """The bin of a count, whose name sorts by its numbers."""
    low = 1
    for end in ends:
        if count <= end:
            return str(end) if low == end else f"{low}-{end}"
        low = end + 1
    return f"{low} or more"


def _of(block: Block, title: str, given: list[str], kind: Callable[[str], str]) -> Iterator[Breakdown]:
    kinds, k = np.array([kind(each) for each in given]), cutoff_of(block)
    values = [
        np.concatenate([np.mean([seed.rank <= k for seed in seeds], axis=0) for seeds in side.values()])
        for side in block.ranked.values()
    ]
    names = sorted(set(kinds.tolist()), key=lambda name: (int(m[0]) if (m := re.match(r"\d+", name)) else 0, name))
    yield from _breakdown(block, f"{title}: R@{k}", {name: kinds == name for name in names}, values)


def _by_aspect(block: Block) -> Iterator[Breakdown]:
    """By what queries ask for, of which one may ask for several things; where all sides know it."""
    every = [seed for side in block.ranked.values() for seeds in side.values() for seed in seeds]
    if not all(seed.aspects is not None and seed.positive_ranks is not None for seed in every):
        return
    first = next(iter(block.ranked.values()))
    asked = [names for seeds in first.values() for names in seeds[0].aspects or ()]
    every_name = sorted({name for names in asked for name in names})
    masks = {name: np.array([name in names for names in asked]) for name in every_name}
    values = [
        np.concatenate([np.mean([_precision(seed) for seed in seeds], axis=0) for seeds in side.values()])
        for side in block.ranked.values()
    ]
    yield from _breakdown(block, f"Aspect (a query may have several): {ASPECT_METRIC}", masks, values)


def _precision(queries: PerQuery) -> FloatArray:
    values = metric_values(ASPECT_METRIC, queries.rank, None, queries.positive_ranks)
    assert values is not None
    return values


def _breakdown(
    block: Block, title: str, masks: Mapping[str, NDArray[np.bool_]], values: Sequence[FloatArray]
) -> Iterator[Breakdown]:
    """``masks`` (Q,): by kind of queries; ``values`` (Q,): of each side."""
    # Groups are numbered anew in every category.
    group = np.concatenate([1_000_000 * i + np.asarray(g) for i, g in enumerate(block.groups.values())])
    rows = []
    for name, chosen in masks.items():
        cells = []
        for value in values:
            low, high = interval(value[chosen], group[chosen])
            cells.append((100 * float(value[chosen].mean()), (high - low) / 2))
        rows.append(BinRow(name, int(chosen.sum()), tuple(cells)))
    if len(rows) > 1:
        yield Breakdown(title, tuple(block.ranked), tuple(rows))
