"""Recall by kinds of queries: length of the text, number of changes that it asks for, negation, category."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmark.evaluation.metrics import interval
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
    # Groups are numbered anew in every category.
    group = np.concatenate([1_000_000 * i + np.asarray(g) for i, g in enumerate(block.groups.values())])
    values = [
        np.concatenate([np.mean([seed.rank <= k for seed in seeds], axis=0) for seeds in side.values()])
        for side in block.ranked.values()
    ]
    rows = []
    for name in sorted(set(kinds.tolist()), key=lambda name: (int(m[0]) if (m := re.match(r"\d+", name)) else 0, name)):
        chosen = kinds == name
        cells = []
        for value in values:
            low, high = interval(value[chosen], group[chosen])
            cells.append((100 * float(value[chosen].mean()), (high - low) / 2))
        rows.append(BinRow(name, int(chosen.sum()), tuple(cells)))
    if len(rows) > 1:
        yield Breakdown(f"{title}: R@{k}", tuple(block.ranked), tuple(rows))
