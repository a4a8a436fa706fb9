"""Blocks of a leaderboard's page: one per split, protocol and text mode, each not to be compared with the others.

The first block is the dataset's own: its default protocol and text mode, in the split that papers
report. The others say what makes them another thing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from benchmark.dataset import DatasetInfo, TaskKey
from benchmark.leaderboards.published import UNCLEAR, schema_of
from benchmark.records.tables import Printed, Table
from benchmark.text_rules import text_rule


def page_blocks(info: DatasetInfo, found: Sequence[Table], published: Mapping[TaskKey, Printed]) -> str:
    """All blocks of the measured page, markdown. ``found``: tables with the published rows in them."""
    main = main_block(info)
    by_block: dict[TaskKey, list[Table]] = {main: []}
    for table in found:
        by_block.setdefault(table.key, []).append(table)
    parts = []
    for block in sorted(by_block, key=lambda b: _reading_order(b, main)):
        parts.append(f"## {block}{_reservation(block, main)}\n")
        if block not in published:
            parts.append(_without_published(block, published) + "\n")
        parts += [table.content() for table in by_block[block]] or ["No measured row either.\n"]
    return "\n".join(parts)


def main_block(info: DatasetInfo) -> TaskKey:
    """The dataset's default protocol and text mode in the split that leaderboards report."""
    schema = schema_of(info.name)
    split = schema.splits[0] if schema is not None else info.evaluation_split
    return TaskKey(info.name, split, info.default_protocol, text_rule(info.text_rule).mode)


def _reading_order(block: TaskKey, main: TaskKey) -> tuple[bool | str, ...]:
    """The main block, then its split, what is unclear last; other splits behind."""
    return (
        block.split != main.split,
        block.split,
        UNCLEAR in (block.protocol, block.text_mode),
        block.protocol != main.protocol,
        block.protocol,
        block.text_mode != main.text_mode,
        block.text_mode,
    )


def _differences(block: TaskKey, other: TaskKey) -> str:
    pairs = {"split": "split", "protocol": "protocol", "text_mode": "text mode"}
    words = [word for name, word in pairs.items() if getattr(block, name) != getattr(other, name)]
    return " and ".join(f"another {word}" for word in words)


def _reservation(block: TaskKey, main: TaskKey) -> str:
    if block == main:
        return ""
    unclear = [word for word, name in (("protocol", block.protocol), ("text mode", block.text_mode)) if name == UNCLEAR]
    if unclear:
        told = " and ".join(unclear)
        return f" ({told} unclear: not comparable with any other block, and its rows perhaps not with each other)"
    return f" ({_differences(block, main)}: not comparable with {replace(main, dataset='')})"


def _without_published(block: TaskKey, candidates: Collection[TaskKey]) -> str:
    """Says that there is no published row, and which of the blocks with some is the nearest."""
    if not candidates:
        return "No published row for this column, nor for any other of this dataset."
    nearest = min(candidates, key=lambda other: _distance(block, other))
    return (
        f"No published row for this column. The nearest that has some is {replace(nearest, dataset='')}: "
        f"{_differences(nearest, block)}, not comparable."
    )


def _distance(block: TaskKey, other: TaskKey) -> tuple[bool | str, ...]:
    """What weighs most first: the split, the text, the gallery, then whether the reference is ranked."""

    def gallery(key: TaskKey) -> str:
        return key.protocol.removesuffix("-partial").removesuffix("-noref")

    return (
        UNCLEAR in (other.protocol, other.text_mode),
        other.split != block.split,
        other.text_mode != block.text_mode,
        gallery(other) != gallery(block),
        other.protocol != block.protocol,
        str(other),
    )
