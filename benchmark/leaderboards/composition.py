"""Does a row compose? Its ranks beside those of the picture alone and of the text alone on its own encoder.

A run keeps both beside its own ranks. Where it has not (older records), rows of `image_only` and `text_only` in the
same table stand in for them: of the same encoder, by its start, its digest and what tuning made of it; of the same text
rule; and of the same queries. So every cell follows from ranks that lie in the book of results.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from benchmark.comparison.composition import (
    PICTURE_ALONE,
    TEXT_ALONE,
    CompositionAt,
    compose_whole,
    composed_percentages,
    encoder_of,
)
from benchmark.comparison.sides import Side
from benchmark.dataset import TaskKey
from benchmark.errors import UserError
from benchmark.evaluation.metrics import REPLICATES
from benchmark.evaluation.per_query import PerQuery
from benchmark.leaderboards.uncertainty import KeptRanks, side_of
from benchmark.records.record import Record, Result
from benchmark.records.rows import AVERAGE, COMPOSITION_CUTOFF, COMPOSITION_METRICS, PRECISION_GAP, Cell, Row
from benchmark.records.tables import Table

_Alone = Mapping[tuple[object, ...], Mapping[TaskKey, PerQuery]]
"""Ranks of one modality, by `image_only` or `text_only`, encoder and text rule."""
_TOLERANCE = 1e-5
"""Percent; records hold six digits."""


def with_composition(table: Table, kept: KeptRanks) -> Table:
    """The table with what the ranks of its rows say of composition."""
    sides = [side_of(row, kept) for row in table.rows]
    alone: dict[tuple[object, ...], Mapping[TaskKey, PerQuery]] = {}
    for side in filter(None, sides):
        for record, queries in zip(side.records, side.queries, strict=True):
            if record.method in (PICTURE_ALONE, TEXT_ALONE):
                alone.setdefault((record.method, *_features_of(record)), queries)
    rows = [
        replace(row, composition=_composition(row, side, alone)) if side else row
        for row, side in zip(table.rows, sides, strict=True)
    ]
    return replace(table, rows=tuple(rows))


def _features_of(record: Record) -> tuple[object, ...]:
    return encoder_of(record), record.identity.text_rule


def _composition(row: Row, side: Side, alone: _Alone) -> dict[str, Cell]:
    if row.first.method in (PICTURE_ALONE, TEXT_ALONE):
        return {}
    queries = [_beside(row, record, of_seed, alone) for record, of_seed in zip(side.records, side.queries, strict=True)]
    try:
        found = compose_whole(replace(side, queries=tuple(queries)), COMPOSITION_METRICS, REPLICATES)
    except UserError:  # not known of every seed, or seeds have other queries
        return {}
    return dict(cell for at in found for cell in _cells(at))


def _beside(row: Row, record: Record, queries: Mapping[TaskKey, PerQuery], alone: _Alone) -> dict[TaskKey, PerQuery]:
    """The ranks of a record with those of either modality beside them, where these are known."""
    stages = record.identity.stages
    # A method that is nothing but its tuned encoder has another one at its last epoch than the one that was kept.
    is_another = row.result.weights_from == "last" and bool(stages) and stages[-1].artefact is not None
    found = {}
    for key, own in queries.items():
        picture, text = (alone.get((name, *_features_of(record)), {}).get(key) for name in (PICTURE_ALONE, TEXT_ALONE))
        if own.picture_rank is None and picture is not None and text is not None and not is_another:
            if encoder_of(record) is not None and picture.ids == text.ids == own.ids:
                own = replace(own, picture_rank=picture.rank, text_rank=text.rank)
                if own.target_rank is not None:
                    by_picture, by_text = picture.positive_ranks, text.positive_ranks
                    own = replace(own, picture_positive_ranks=by_picture, text_positive_ranks=by_text)
        found[key] = own
    return found


def _cells(at: CompositionAt) -> Iterator[tuple[str, Cell]]:
    """By :data:`benchmark.records.rows.COMPOSITION_NAMES`."""
    if at.metric != COMPOSITION_CUTOFF:
        yield PRECISION_GAP, Cell(f"{at.gap:+.2f}", at.gap, half=_half(at.gap_interval))
        return
    yield "picture", Cell(f"{at.picture:.2f}", at.picture)
    yield "text", Cell(f"{at.text:.2f}", at.text)
    yield "gap", Cell(f"{at.gap:+.2f}", at.gap, half=_half(at.gap_interval))
    yield "one", Cell(f"{at.union:.2f}", at.union, half=_half(at.union_interval))
    if not math.isnan(at.hard_recall):
        yield "hard", Cell(f"{at.hard_recall:.2f}", at.hard_recall, half=_half(at.hard_recall_interval))


def _half(interval: tuple[float, float]) -> float:
    low, high = interval
    return (high - low) / 2


def composition_faults(record: Record, ranks: Mapping[int, PerQuery]) -> Iterator[str]:
    """Where a record's composition is not what the ranks beside it give, in words; its intervals are not checked."""
    for result in record.results:
        if not result.composition:
            continue
        tasks = [ranks[i] for i, other in enumerate(record.results) if i in ranks and _is_part(other, result)]
        wanted = composed_percentages(result.key, tasks, list(result.composition)) if tasks else {}
        for metric, found in result.composition.items():
            if metric not in wanted:
                yield f"{result.key}, {result.weights_from}: no ranks of one modality alone give its composition"
                continue
            for name in ("picture", "text", "gap", "union", "composed", "lost", "hard", "hard_recall"):
                mine, theirs = wanted[metric][name], getattr(found, name)
                if (mine is None) != (theirs is None) or (mine is not None and abs(mine - theirs) > _TOLERANCE):
                    told = f"'{name}' of the composition of {metric} is {theirs}, its ranks give {mine}"
                    yield f"{result.key}, {result.weights_from}: {told}"


def _is_part(other: Result, whole: Result) -> bool:
    """Whether a result is what another one is made of: itself, or a category of an average."""
    column = (other.key if whole.category != AVERAGE else replace(other.key, category=AVERAGE), other.weights_from)
    return column == (whole.key, whole.weights_from) and other.category != AVERAGE
