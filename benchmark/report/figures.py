"""The charts of a report, made of records and ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from benchmark.comparison.statistics import Stratum, bootstrap, means, percentile_interval
from benchmark.errors import UserError
from benchmark.evaluation.metrics import REPLICATES
from benchmark.report.charts import Series, bar_chart, line_chart, point_chart
from benchmark.report.runs import Block, ReportedSide
from benchmark.structured_files import read_json
from benchmark.weights.checkpoints import read_header

LOG = "training-log.json"
_CUTOFFS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000)
_BINS = ((1, 1), (2, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, 500), (501, None))


@dataclass(frozen=True)
class Figure:
    title: str
    caption: str
    svg: Markup


def cutoff_of(block: Block) -> int:
    """The k at which a block's queries are held against one another: 10, or the largest that its gallery has."""
    sizes = [len(seed.gallery) for side in block.ranked.values() for seeds in side.values() for seed in seeds]
    return min([10, *(size for size in sizes if size)])


def hits_at(block: Block, number: int, k: int) -> list[Stratum]:
    """A side's hits at k by category, (S, Q) each."""
    return [
        Stratum(block.groups[category], (np.stack([(seed.rank <= k).astype(np.float64) for seed in seeds]),))
        for category, seeds in block.ranked[number].items()
    ]


def block_figures(block: Block, sides: Sequence[ReportedSide]) -> Iterator[Figure]:
    """Recall at k with bands, ranks, and cost against recall."""
    if not block.is_labelled:
        return
    largest = max(int(seed.rank.max()) for side in block.ranked.values() for seeds in side.values() for seed in seeds)
    cutoffs = [k for k in _CUTOFFS if k <= largest] or [1]
    curves = []
    for number in block.ranked:
        points, band = [], []
        for k in cutoffs:
            strata = hits_at(block, number, k)
            points.append((float(k), 100 * float(means(strata)[0])))
            low, high = percentile_interval(100 * bootstrap(strata, 0, REPLICATES)[:, 0])
            band.append((low, high))
        curves.append(Series(sides[number].label, number, tuple(points), tuple(band)))
    yield Figure(
        "Recall at k",
        "Share of the queries whose best right answer is among the first k; bands: 95 %, bootstrap over groups of "
        "queries (and over seeds, where there are several)"
        + ("; categories have equal weight." if len(block.ids) > 1 else "."),
        line_chart(curves, "k", "recall, %", log_x=True),
    )
    bins = [each for each in _BINS if each[0] <= largest]
    bars = [Series(sides[n].label, n, tuple(_shares(block, n, bins))) for n in block.ranked]
    yield Figure(
        "Ranks", "Share of the queries by the rank of their best right answer; seeds are averaged.",
        bar_chart(bars, [_bin_name(*each) for each in bins], "rank", "queries, %"),
    )  # fmt: skip
    yield from _cost_figures(block, sides)


def _shares(block: Block, number: int, bins: Sequence[tuple[int, int | None]]) -> Iterator[tuple[float, float]]:
    ranks = np.concatenate([seed.rank for seeds in block.ranked[number].values() for seed in seeds])
    for place, (low, high) in enumerate(bins):
        yield float(place), 100 * float(((ranks >= low) & (ranks <= (high or math.inf))).mean())


def _bin_name(low: int, high: int | None) -> str:
    return f"> {low - 1}" if high is None else f"{low}" if low == high else f"{low}-{high}"


_COSTS: tuple[tuple[str, Callable[[Any], float]], ...] = (
    ("trainable parameters", lambda cost: cost.trainable_parameters),
    ("GFLOPs per query", lambda cost: cost.query.flops / 1e9),
    ("bytes stored per gallery picture", lambda cost: cost.stored_bytes),
    ("seconds of training, all stages", lambda cost: sum(cost.training_seconds.values())),
)


def _cost_figures(block: Block, sides: Sequence[ReportedSide]) -> Iterator[Figure]:
    k = cutoff_of(block)
    recalls = {
        n: 100 * float(means(hits_at(block, n, k))[0])
        for n in block.ranked
    }
    for name, cost_of in _COSTS:
        points = [
            Series(sides[n].label, n, ((value, recall),))
            for n, recall in recalls.items()
            if (cost := sides[n].first.cost) is not None and (value := cost_of(cost)) > 0
        ]
        if points:
            yield Figure(
                f"Cost: {name}", f"Against recall at {k}, first seed's cost.", point_chart(points, name, f"R@{k}, %")
            )


def training_figures(sides: Sequence[ReportedSide]) -> Iterator[Figure]:
    """Loss and selection score by epoch of each stage of which a log is there."""
    stages: dict[str, list[tuple[int, str, list[dict[str, Any]]]]] = {}
    for number, reported in enumerate(sides):
        for file, record in zip(reported.files, reported.side.records, strict=True):
            several = len(reported.files) > 1
            label = f"{reported.label}, seed {record.identity.seed}" if several else reported.label
            for stage, log in _logs(file.parent, [s.name for s in record.identity.stages]).items():
                stages.setdefault(stage, []).append((number, label, log))
    for stage, found in stages.items():
        for name, key in (("loss", "loss"), ("selection score", "score")):
            lines = [
                Series(label, number, tuple((float(e["epoch"]), float(e[key])) for e in log if e.get(key) is not None))
                for number, label, log in _without_repeats(found)
            ]
            lines = [line for line in lines if line.points]
            if lines:
                told = "Mean loss of each epoch." if key == "loss" else "What the epoch is selected by."
                yield Figure(f"{stage}: {name}", told, line_chart(lines, "epoch", name))


def _without_repeats(
    found: Sequence[tuple[int, str, list[dict[str, Any]]]],
) -> Iterator[tuple[int, str, list[dict[str, Any]]]]:
    """A stage that several runs share is drawn once, under all of their names."""
    told: list[list[dict[str, Any]]] = []
    for number, _, log in found:
        if log not in told:
            told.append(log)
            yield number, ", ".join(dict.fromkeys(label for _, label, other in found if other == log)), log


def _logs(folder: Path, stages: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The training logs of a run by stage: its own, and its encoder's where that is still in the cache."""
    found = {}
    if stages and (log := _log(folder / LOG)):
        found[stages[-1]] = log
    weights = folder / "weights" / "selected.safetensors"
    if len(stages) > 1 and weights.is_file():
        try:
            artefact = Path(read_header(weights).encoder_file)
        except UserError:
            return found
        if artefact.name and (log := _log(artefact.with_name(LOG))):
            found[stages[0]] = log
    return found


def _log(path: Path) -> list[dict[str, Any]]:
    try:
        entries = read_json(path) if path.is_file() else []
    except UserError:
        return []
    well_formed = isinstance(entries, list) and all(
        isinstance(e, dict) and isinstance(e.get("epoch"), int) for e in entries
    )
    return entries if well_formed else []
