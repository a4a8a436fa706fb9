"""Averages of published rows, made again from the row's own numbers.

A source can print an average that its own categories do not give; such averages are told apart, never replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from benchmark.evaluation.metrics import components
from benchmark.leaderboards.published import WHOLE, PublishedNumber, schema_of
from benchmark.records.rows import AVERAGE


@dataclass(frozen=True)
class Recomputed:
    """An average made from a row's own numbers. ``printed`` is None where the source prints none;
    ``differs`` tells whether it differs from the printed one by more than rounding explains."""

    value: Decimal
    printed: Decimal | None
    differs: bool


def recomputed(row: Iterable[PublishedNumber]) -> dict[tuple[str, str], Recomputed]:
    """Averages by (category, metric) from a row's own numbers, as far down as these go.

    ``row``: the numbers, at least one, of one method with one backbone in one dataset, split,
    protocol and text mode. A mean over categories is made from the categories where all are there; an average of
    metrics from those, made from the categories in turn. What lacks a part is left out.
    """
    members = list(row)
    schema = schema_of(members[0].key.dataset)
    assert schema is not None
    numbers = {(n.key.category, n.metric): n for n in members if not n.is_wrong}
    found = {}
    for category in ("" if name == WHOLE else name for name in schema.categories):
        for metric in schema.metrics:
            made = _mean_of(numbers, category, metric, schema.parts)
            if made is not None:
                value, slack = made
                printed = numbers.get((category, metric))
                bound = slack + (printed.half_unit if printed else 0)
                differs = printed is not None and abs(value - printed.value) > bound
                found[category, metric] = Recomputed(value, printed.value if printed else None, differs)
    return found


_Made = tuple[Decimal, Decimal]
"""A value and how far the rounding of what it is made from may have moved it."""


def _mean_of(
    numbers: Mapping[tuple[str, str], PublishedNumber], category: str, metric: str, parts: tuple[str, ...]
) -> _Made | None:
    """The mean that the metric is by its name, or that the category is; None for what is no mean."""
    if components(metric):
        columns = [(category, name) for name in components(metric)]
    elif category == AVERAGE:
        columns = [(part, metric) for part in parts]
    else:
        return None
    made = [_mean_of(numbers, *column, parts) or _as_printed(numbers.get(column)) for column in columns]
    whole = [value for value in made if value is not None]
    if len(whole) < len(columns):
        return None
    count = len(whole)
    return sum((v for v, _ in whole), Decimal()) / count, sum((s for _, s in whole), Decimal()) / count


def _as_printed(number: PublishedNumber | None) -> _Made | None:
    return None if number is None else (number.value, number.half_unit)
