"""Rows of a table, made from records: which records belong together, and what tells one row from another.

Records that agree in all of their identity but the seed share a row; nothing else is averaged. The
categories of a task (FashionIQ's dress, shirt, toptee and their average) stand side by side in it.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from benchmark.dataset import TaskKey
from benchmark.records.record import Record, Result, identity_key, run_key, seedless_identity

Place = tuple[str, str]
"""A column of numbers: category ("" where the task has none) and metric."""

AVERAGE = "average"
"""The category that is the mean over the others."""


_MARKUP = re.compile(r"[\\`*<~]|(?<!\w)_|_(?!\w)|(?<=\])\(|^[#>+-]")


def plain(text: str) -> str:
    """Text from outside as it is to be read: on one line, without what Markdown, HTML or a terminal would obey."""
    letters = " ".join(text.split())
    return _MARKUP.sub(r"\\\g<0>", "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in letters))


def _readable(record: Record) -> Record:
    """With every text that somebody may have typed made `plain`."""
    identity = record.identity
    texts = {name: plain(getattr(identity, name)) for name in ("recipe", "selection_note", "text_rule")}
    encoder = identity.encoder
    if encoder is not None:
        encoder = encoder.model_copy(update={"name": plain(encoder.name), "weights": plain(encoder.weights)})
    identity = identity.model_copy(update={**texts, "encoder": encoder})
    return record.model_copy(update={"title": plain(record.title), "identity": identity})


def _with_plain_notes(result: Result) -> Result:
    return result.model_copy(update={"notes": tuple(map(plain, result.notes))})


ENOUGH_SEEDS = 3
"""From so many on a deviation over seeds is told, and a best value is set in bold."""

COMPOSITION_CUTOFF = "R@10"
COMPOSITION = f"composition at {COMPOSITION_CUTOFF}"
"""What stands in a category's place above the columns of :data:`COMPOSITION_NAMES`."""
COMPOSITION_PRECISION = "mAP@10"
COMPOSITION_METRICS = (COMPOSITION_CUTOFF, COMPOSITION_PRECISION)
"""What tables tell of composition; the second where queries have several right answers, one of them the target."""
PRECISION_GAP = f"gap {COMPOSITION_PRECISION}"
COMPOSITION_NAMES = ("picture", "text", "gap", "one", "hard", PRECISION_GAP)
"""Of one modality alone on the row's encoder, the method less the better one, queries that one modality solves, the
method's recall on the others; the gap of the other metric."""

PAIRED, BINOMIAL = "paired", "binomial"
"""How a number was not told from the best of its column."""


class Cell(NamedTuple):
    """A number in percent as it is printed, and as it is; NaN for a half interval or a deviation that is not known.

    ``tie``: by which test it is in the tie group of its column's best, "" where by none. ``wrong``: known to be.
    """

    text: str
    value: float
    half: float = math.nan
    sd: float = math.nan
    tie: str = ""
    wrong: bool = False


@dataclass(frozen=True)
class Row:
    """The seeds of one identity, or what a source prints of one method.

    ``label``: what tells rows of one ``name`` apart: which weights, which encoder and source. ``records``
    (in the order of seeds; none where the numbers are published) and ``results`` (by category, one per record)
    are what ``cells`` are made of. ``below``: further lines of numbers, each behind its label. ``published``: what
    is known of a published row (encoder, year, sources, …), by the names of :data:`benchmark.leaderboards.entries`.
    ``composition``: by :data:`COMPOSITION_NAMES`, of the task, or of the average over its categories; empty where
    ranks of one modality alone are not known.
    """

    name: str
    label: str
    cells: Mapping[Place, Cell]
    records: tuple[Record, ...] = ()
    results: Mapping[str, tuple[Result, ...]] = field(default_factory=dict)
    below: tuple[tuple[str, Mapping[Place, str]], ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)
    composition: Mapping[str, Cell] = field(default_factory=dict)

    @property
    def every_cell(self) -> dict[Place, Cell]:
        """Those of its metrics, and its composition as one more category."""
        return {**self.cells, **{(COMPOSITION, name): cell for name, cell in self.composition.items()}}

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def result(self) -> Result:
        """One of its results: what they say of weights and of who measured is the same in all."""
        return next(iter(self.results.values()))[0]


def rows_of(pairs: Sequence[tuple[Record, Result]]) -> list[Row]:
    """Group results of one split, protocol and text mode by identity; every record of it enters its mean.

    Where the selected epoch turned out to be the last one, in every seed, both are one row.
    """
    groups: dict[str, list[tuple[Record, Result]]] = {}
    # A record is made readable once, since the results of a row are found by their record.
    shown = {key: _readable(record) for key, record in {id(record): record for record, _ in pairs}.items()}
    for record, result in pairs:
        groups.setdefault(identity_key(record, result), []).append((shown[id(record)], _with_plain_notes(result)))
    rows = sorted(map(_row, groups.values()), key=_row_order)
    return _with_distinct_names(_with_equal_epochs_merged(rows))


def _row(members: Sequence[tuple[Record, Result]]) -> Row:
    """One identity's row."""
    by_id = {id(record): record for record, _ in members}
    records = tuple(sorted(by_id.values(), key=_seed_order))
    of_record: dict[int, list[Result]] = {id(record): [] for record in records}
    for record, result in members:
        of_record[id(record)].append(result)
    results: dict[str, tuple[Result, ...]] = {}
    for record in records:
        for result in of_record[id(record)]:
            results[result.category] = (*results.get(result.category, ()), result)
    limit, category = records[0].identity.limit, records[0].identity.category
    marks = [f" (limited to {limit})" if limit else "", f" ({category.words})" if category is not None else ""]
    return Row(
        name="".join([records[0].title, *marks, noise_mark(records[0])]),
        label=_weights(records[0], members[0][1]),
        cells=_statistics(results, has_enough_seeds(records)),
        records=records,
        results=results,
    )


def noise_mark(record: Record) -> str:
    """What the name of a row says of noisy training triplets."""
    noise = record.identity.noise
    return f" ({100 * noise.share:g} % noise)" if noise is not None else ""


def _seed_order(record: Record) -> tuple[int, str]:
    return -1 if record.identity.seed is None else record.identity.seed, record.created


def has_enough_seeds(records: Sequence[Record]) -> bool:
    return len({record.identity.seed for record in records}) >= ENOUGH_SEEDS


def _statistics(results: Mapping[str, Sequence[Result]], with_deviation: bool) -> dict[Place, Cell]:
    """Of every place: the mean over records, their standard deviation, half of the mean interval over queries."""
    cells: dict[Place, Cell] = {}
    for category, of_seeds in results.items():
        for metric in dict.fromkeys(name for result in of_seeds for name in result.metrics):
            values = [result.metrics[metric] for result in of_seeds if metric in result.metrics]
            ends = [result.intervals[metric] for result in of_seeds if metric in result.intervals]
            mean = statistics.fmean(values)
            cells[category, metric] = Cell(
                f"{mean:.2f}",
                mean,
                half=statistics.fmean((high - low) / 2 for low, high in ends) if ends else math.nan,
                sd=statistics.stdev(values) if with_deviation and len(values) > 1 else math.nan,
            )
    return cells


def _row_order(row: Row) -> tuple[str, str, int, str]:
    """By name; the last epoch's row stands below the selected one of the same run."""
    return row.name.lower(), run_key(row.first), row.result.weights_from == "last", identity_key(row.first, row.result)


def _with_equal_epochs_merged(rows: Sequence[Row]) -> Iterator[Row]:
    """A run's selected weights and its last ones in one row, where all of its numbers say that they are the same."""
    last = {run_key(row.first) for row in rows if row.result.weights_from == "last"}
    unequal = {run_key(row.first) for row in rows for record in row.records if not _epochs_are_equal(record)}
    merged = last - unequal
    for row in rows:
        weights = row.result.weights_from if row.result.measured_by == "this run" else "server"
        if weights == "selected" and run_key(row.first) in merged:
            yield row if row.label == _LAST else replace(row, label=_BOTH[row.label])
        elif not (weights == "last" and run_key(row.first) in merged):
            yield row


def _epochs_are_equal(record: Record) -> bool:
    """Whether the selected and the last weights have the same numbers in every column of the record."""
    numbers: dict[str, dict[TaskKey, Any]] = {"selected": {}, "last": {}}
    for result in record.results:
        if result.weights_from in numbers and result.measured_by == "this run":
            numbers[result.weights_from][result.key] = result.metrics, result.intervals, result.ties
    return numbers["selected"] == numbers["last"]


_LAST = "last epoch"
_SELECTION = {"paper": "best epoch", "heldout": "held-out epoch", "last": _LAST}
_BOTH = {"best epoch": "best = last epoch", "held-out epoch": "held-out = last epoch"}
_WEIGHTS = {
    "last": _LAST,
    "none trained": "nothing trained",
    "imported": "imported: recipe and seed unknown",
    "external": "from outside",
}


def _weights(record: Record, result: Result) -> str:
    """Which weights were evaluated, or who measured."""
    if result.measured_by == "server":
        return "measured by the server"
    if result.weights_from != "selected":
        return _WEIGHTS[result.weights_from]
    if record.identity.selection == "paper" and not _picks_an_epoch(record):
        return _LAST
    return _SELECTION.get(record.identity.selection, "selected")


def _picks_an_epoch(record: Record) -> bool:
    """Whether the stage that is evaluated validates another epoch than its last; old records do not say."""
    settings = record.identity.stages[-1].settings if record.identity.stages else {}
    every, epochs = settings.get("validate_every"), settings.get("epochs")
    return not (isinstance(every, int) and isinstance(epochs, int)) or every < epochs


def _encoder(row: Row) -> str:
    encoder = row.first.identity.encoder
    if encoder is None:
        return "its own"
    weights = "random weights" if encoder.start == "random" else encoder.weights
    precision = "" if encoder.precision == "fp32" else f", {encoder.precision}"
    state = "trained with the method" if encoder.state == "trained" else encoder.state
    return f"{encoder.name}, {weights}, {state}{precision}"


def _recipe(row: Row) -> str:
    if row.result.weights_from == "imported":
        return "unknown"
    return (row.first.identity.recipe or "none") + (", rate tuned" if row.first.identity.tuning else "")


def _seeds(row: Row) -> str:
    if row.result.weights_from == "imported":
        return "unknown"
    return ", ".join("none" if r.identity.seed is None else str(r.identity.seed) for r in row.records)


def _trained_on(row: Row) -> str:
    """Another dataset than the one that is evaluated, "" for that one."""
    data = row.first.identity.training_data
    return "" if data is None else data.label or data.name


FACTS: dict[str, Callable[[Row], str]] = {
    "encoder": _encoder,
    "recipe": _recipe,
    "text rule": lambda row: row.first.identity.text_rule or "none",
    "trained on": _trained_on,
    "seeds": _seeds,
}
"""What is said of rows beside their label."""


def format_facts(rows: Sequence[Row], leave_out: Iterable[str] = ()) -> Iterator[str]:
    """What rows have in common, in one sentence, and a sentence for each fact in which they differ."""
    facts = {name: [of(row) for row in rows] for name, of in FACTS.items() if name not in leave_out}
    facts = {name: told for name, told in facts.items() if any(told)}
    common = [f"{name}: {told[0]}" for name, told in facts.items() if len(set(told)) == 1]
    if common:
        yield f"{'All rows' if len(rows) > 1 else 'This row'}: {'; '.join(common)}"
    for name, told in facts.items():
        if len(set(told)) == 1:
            continue
        named: dict[str, list[str]] = {text: [] for text in told}
        for row, text in zip(rows, told, strict=True):
            named[text] += [row.name] * (row.name not in named[text])
        most = max(named, key=lambda text: len(named[text]))
        others = [f"{text or 'none'} ({', '.join(names)})" for text, names in named.items() if text != most]
        yield f"{name}: {'; '.join(others)}; all others {most or 'none'}"


def _with_distinct_names(rows: Iterable[Row]) -> list[Row]:
    """Rows of several runs that read alike have in brackets what differs; those of one run keep one name."""
    keyed = [(run_key(row.first), row) for row in rows]
    runs: dict[str, dict[str, Row]] = {}
    for key, row in keyed:
        runs.setdefault(row.name, {}).setdefault(key, row)
    found = []
    for key, row in keyed:
        alike = runs[row.name]
        difference = f" [{_difference(alike[key], list(alike.values()))}]" if len(alike) > 1 else ""
        found.append(replace(row, name=row.name + difference))
    return found


def _difference(row: Row, alike: Sequence[Row]) -> str:
    """The facts in which a run differs from those that read alike, else up to three entries of the identity."""
    told = [{name: of(other) for name, of in FACTS.items() if name != "seeds"} for other in alike]
    mine = told[[other is row for other in alike].index(True)]
    if told.count(mine) == 1:
        return ", ".join(f"{name} {text}" for name, text in mine.items() if any(other[name] != text for other in told))
    flat = [dict(flattened(seedless_identity(other.first))) for other in alike]
    own = dict(flattened(seedless_identity(row.first)))
    names = sorted({name for entries in flat for name in entries})
    names = [name for name in names if len({str(entries.get(name)) for entries in flat}) > 1]
    differing = ", ".join(f"{name} {str(own.get(name, 'none'))[:16]}" for name in names[:3])
    return differing or identity_key(row.first, row.result)[:8]


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Entries of nested tables, behind the names of those that they are in."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flattened(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            name = str(inner["name"]) if isinstance(inner, dict) and "name" in inner else str(number)
            yield from flattened(inner, f"{path}.{name}")
    else:
        yield path, value
