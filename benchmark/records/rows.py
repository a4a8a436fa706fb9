"""Rows of a table: which records belong together, and what tells one row from another.

Records that agree in all of their identity but the seed share a row; nothing else is averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark.records.record import Record, Result, identity_key, run_key, seedless_identity

_SELECTION = {"paper": "best epoch (paper)", "heldout": "best epoch (heldout)", "last": "last epoch"}


@dataclass(frozen=True)
class Row:
    """The seeds of one identity in one column, in the order of their seeds."""

    identity: str
    records: tuple[Record, ...]
    results: tuple[Result, ...]
    superseded: int = 0

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def name(self) -> str:
        limit = self.first.identity.limit
        return " ".join(self.first.title.split()) + (f" (limited to {limit})" if limit else "")


def rows_of(pairs: Sequence[tuple[Record, Result]]) -> list[Row]:
    """Group the results of one column by identity; of two with the same seed the later one stays."""
    groups: dict[str, list[tuple[Record, Result]]] = {}
    for record, result in pairs:
        groups.setdefault(identity_key(record, result), []).append((record, result))
    rows = []
    for identity, members in groups.items():
        by_seed = {r.identity.seed: (r, s) for r, s in sorted(members, key=lambda m: m[0].created)}
        kept = [by_seed[seed] for seed in sorted(by_seed, key=lambda s: -1 if s is None else s)]
        rows.append(
            Row(identity, tuple(r for r, _ in kept), tuple(s for _, s in kept), len(members) - len(kept))
        )
    return sorted(rows, key=_row_order)


def _row_order(row: Row) -> tuple[str, str, int, str]:
    """By name; the last epoch's row stands below the selected one of the same run."""
    return row.name.lower(), run_key(row.first), row.results[0].weights_from == "last", row.identity


def _encoder(row: Row) -> str:
    encoder = row.first.identity.encoder
    if encoder is None:
        return "its own"
    start = "random start" if encoder.start == "random" else encoder.weights
    precision = "" if encoder.precision == "fp32" else f", {encoder.precision}"
    return f"{encoder.name}, {start}, {encoder.state}{precision}"


def _weights(row: Row) -> str:
    result = row.results[0]
    if result.measured_by == "server":
        return "measured by the server"
    if result.weights_from == "selected":
        if row.first.identity.selection == "paper" and not _picks_an_epoch(row.first):
            return "last epoch (paper)"
        return _SELECTION.get(row.first.identity.selection, "selected")
    names = {
        "last": "last epoch", "none trained": "nothing trained", "imported": "imported", "external": "from outside",
    }  # fmt: skip
    return names[result.weights_from]


def _picks_an_epoch(record: Record) -> bool:
    """Whether the stage that is evaluated validates another epoch than its last; old records do not say."""
    settings = record.identity.stages[-1].settings if record.identity.stages else {}
    every, epochs = settings.get("validate_every"), settings.get("epochs")
    return not (isinstance(every, int) and isinstance(epochs, int)) or every < epochs


def _seeds(row: Row) -> str:
    return ", ".join("none" if r.identity.seed is None else str(r.identity.seed) for r in row.records)


_DESCRIPTIONS: dict[str, Callable[[Row], str]] = {
    "encoder": _encoder,
    "weights": _weights,
    "recipe": lambda row: (row.first.identity.recipe or "none") + (", rate tuned" * bool(row.first.identity.tuning)),
    "text rule": lambda row: row.first.identity.text_rule or "none",
    "seeds": _seeds,
}


def described(rows: Sequence[Row]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Columns of what differs between rows, and what all rows have in common."""
    frame = pd.DataFrame({name: [of(row) for row in rows] for name, of in _DESCRIPTIONS.items()})
    differs = frame.nunique() > 1
    common = {str(name): str(frame[name].iloc[0]) for name in frame.columns[~differs]}
    return frame.loc[:, differs].copy(), common


def distinct_names(rows: Sequence[Row], shown: pd.DataFrame) -> list[str]:
    """The method's name, with what differs in brackets where two rows would read alike."""
    without_seeds = shown.drop(columns="seeds", errors="ignore").to_numpy().tolist()
    labels = [(row.name, *map(str, line)) for row, line in zip(rows, without_seeds, strict=True)]
    names = []
    for row, label in zip(rows, labels, strict=True):
        alike = [other for other, its in zip(rows, labels, strict=True) if its == label]
        difference = f" [{_difference(row, alike)}]" if len(alike) > 1 else ""
        names.append(row.name + difference)
    return names


def _difference(row: Row, alike: Sequence[Row]) -> str:
    """Up to three entries of the identity in which a row differs from those that read alike."""
    mine = dict(_flattened(seedless_identity(row.first)))
    flat = [dict(_flattened(seedless_identity(other.first))) for other in alike]
    names = sorted({name for entries in flat for name in entries})
    differing = [name for name in names if len({str(entries.get(name)) for entries in flat}) > 1]
    told = [f"{name} {str(mine.get(name, 'none'))[:16]}" for name in differing[:3]]
    return ", ".join(told) or row.identity[:8]


def _flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flattened(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            name = str(inner["name"]) if isinstance(inner, dict) and "name" in inner else str(number)
            yield from _flattened(inner, f"{path}.{name}")
    else:
        yield path, value
