"""The table of a fair comparison beside "each paper's recipe": what differs between its rows is the method.

One part for untouched weights and one for a shared stage 1. Seeds are grouped as in every table.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from tabulate import tabulate

from benchmark.data.partial import SUFFIX
from benchmark.facts import DatasetInfo
from benchmark.leaderboards.fair_conditions import Comparison, comparisons, trains
from benchmark.leaderboards.fair_notes import notes_of_comparison
from benchmark.pipeline.controlled_comparison import refusal
from benchmark.records.cost_words import gigaflops, passes
from benchmark.records.costs import Trial
from benchmark.records.record import Record, Result
from benchmark.records.rows import Row, described, distinct_names, rows_of
from benchmark.records.tables import DRAWN, DRAWN_DEMO, metric_cells, notes_of

if TYPE_CHECKING:
    from benchmark.registry import Registry

_TITLES = {
    "untouched": "Encoder untouched, its weights frozen",
    "finetuned": "Encoder fine-tuned by one stage 1 that all share, then frozen",
}
_SEEDS = "seeds"
_READING = """All methods of a table have the same encoder artefact, text rule, triplets seen, batch, negative group,
schedule, held-out selection and search for the learning rate; layers, loss, optimiser and the rate searched
around are each method's own. These conditions are read from the records; a record that differs in one is left out.
"""


def reasons_outside(registry: Registry) -> dict[str, str]:
    """Why a method is in no fair comparison, by its title."""
    reasons = {info.title: refusal(info, registry) for info in registry.methods().values()}
    return {title: reason for title, reason in reasons.items() if reason}


def fair_section(info: DatasetInfo, records: Iterable[Record], outside: Mapping[str, str]) -> str:
    """The section of a dataset's page, markdown; "" without a record for it. ``outside``: `reasons_outside`."""
    mine = [r for r in records if r.identity.data is not None and r.identity.data.name == info.name]
    found = comparisons(mine)
    if not found:
        return ""
    drawn = found[0].records[0].identity.data
    mark = f" ({DRAWN_DEMO})" if drawn is not None and drawn.is_demo else ""
    parts = [f"## Fair comparison{mark}\n", _READING]
    for comparison in found:
        parts.append(f"### {_TITLES[comparison.encoder]}{mark}\n")
        parts += _tables(info, comparison, mark)
    if outside:
        parts.append(f"### Not in these tables{mark}\n")
        parts.append(_listed((f"{title}: {reason}" for title, reason in outside.items()), mark))
    return "\n".join(parts)


def _tables(info: DatasetInfo, comparison: Comparison, mark: str) -> Iterator[str]:
    """A table per category of the dataset's own protocol, the first one with the costs."""
    pairs = [(r, result) for r in comparison.records for result in r.results if _is_reported(result, info)]
    more = tuple(notes_of_comparison(comparison))
    categories = sorted({result.category for _, result in pairs}, key=lambda name: (name != "average", name))
    for category in categories:
        rows = rows_of([(record, result) for record, result in pairs if result.category == category])
        yield f"{rows[0].results[0].key}{mark}\n"
        yield _table(rows, mark, with_costs=category == categories[0])
        _, common = described(rows)
        seeds = {name: told for name, told in common.items() if name == _SEEDS}
        yield _listed((*notes_of(rows, seeds), *(more if category == categories[0] else ())), mark)


def _is_reported(result: Result, info: DatasetInfo) -> bool:
    protocol = result.protocol.removesuffix(SUFFIX)
    is_default = (result.split, protocol) == (info.evaluation_split, info.default_protocol)
    return is_default and result.weights_from != "last" and bool(result.metrics)


def _table(rows: Sequence[Row], mark: str, with_costs: bool) -> str:
    shown, _ = described(rows)
    names = [f"{name}{mark}" for name in distinct_names(rows, shown)]
    lead = pd.DataFrame({"method": names, "trained": [_trained(row) for row in rows]})
    if _SEEDS in shown:
        lead[_SEEDS] = shown[_SEEDS]
    metrics = metric_cells(rows)
    costs = pd.DataFrame([_costs(row) for row in rows]) if with_costs else pd.DataFrame(index=lead.index)
    whole = lead.join(metrics).join(costs)
    return tabulate(
        whole.fillna("").to_numpy().tolist(),
        headers=[str(name) for name in whole.columns],
        tablefmt="pipe",
        colalign=["left"] * lead.shape[1] + ["right"] * (whole.shape[1] - lead.shape[1]),
        disable_numparse=True,
    ) + "\n"


def _trained(row: Row) -> str:
    if not trains(row.first):
        return "nothing"
    rates = dict.fromkeys(f"{trial.learning_rate:.3g}" for trial in _chosen(row))
    return f"at rate {', '.join(rates)}"


def _chosen(row: Row) -> list[Trial]:
    return [trial for record in row.records for trial in record.trials if trial.chosen]


def _costs(row: Row) -> dict[str, str]:
    cost, encoder = row.first.cost, row.first.identity.encoder
    if cost is None or encoder is None:
        return {}
    return {
        "trainable parameters": f"{cost.trainable_parameters:,}",
        "passes per gallery picture": passes(cost.gallery),
        "passes per query": passes(cost.query),
        "GFLOPs per gallery picture": gigaflops(cost.gallery.flops),
        "GFLOPs per query": gigaflops(cost.query.flops),
        "FLOPs per pair": f"{cost.pair_flops:,}",
        "bytes per gallery picture": f"{cost.stored_bytes:,}",
        "training": _seconds([trial.seconds for trial in _chosen(row)]),
        "tuning": _seconds([sum(trial.seconds for trial in record.trials) for record in row.records if record.trials]),
        "weights": f"CLIP {encoder.name}, {'random' if encoder.start == 'random' else encoder.weights}",
    }


def _seconds(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f} s" if values else ""


def _listed(notes: Iterable[str], mark: str) -> str:
    """A list of sentences; ``mark`` is not empty where the data is drawn."""
    first = f"{DRAWN.capitalize()}: " if mark else ""
    return "".join(f"- {first}{' '.join(note.split()).rstrip('.')}.\n" for note in notes)
