"""Does a method compose? Its ranks beside those of the picture alone and the text alone, on the same encoder.

Notation: h_i, h_t, h_m: hits at k of the picture alone, the text alone and the method; K cut-offs. All
shares are percent of the queries; with categories, their mean. The definitions are this project's, where
nothing else is said: the composition gap is that of CIRCUS' released code (arXiv 2605.14787). Where a query has several
positives, a hit is one by the best of them, and average precisions stand in the place of hits for the gaps of mAP@k;
what only hits have (composed, lost, hard) is then not defined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmark.comparison.comparison import MetricDifference, differences_of
from benchmark.comparison.sides import Comparable, Side, comparables, read_sides
from benchmark.comparison.statistics import (
    REPLICATES,
    Stratum,
    bootstrap,
    group_differences,
    means,
    percentile_interval,
    sign_flip_test,
)
from benchmark.dataset import IntArray, TaskKey
from benchmark.errors import UserError
from benchmark.evaluation.metrics import REPLICATES as INTERVAL_REPLICATES
from benchmark.evaluation.metrics import FloatArray
from benchmark.evaluation.per_query import PerQuery
from benchmark.records.layout import metric_order
from benchmark.records.measurement import ComposedRecall
from benchmark.records.record import Record
from benchmark.records.rows import AVERAGE

PICTURE_ALONE, TEXT_ALONE = "image_only", "text_only"

Interval = tuple[float, float]

_SIDES = (False, True)
_ALL_HITS = [(picture, text, method) for picture in _SIDES for text in _SIDES for method in _SIDES]


@dataclass(frozen=True)
class CompositionAt:
    """Of one task at one cut-off; intervals are 95 %, by bootstrap over groups of queries.

    ``gap``: method - max(picture, text). ``union``: solvable by one modality, max(h_i, h_t). ``composed``:
    what the method alone finds; ``lost``: what one modality finds and the method does not. ``hard``: found by
    neither modality, and ``hard_recall`` the method's recall on those (NaN where there are none). Of a mAP ``union``
    is the mean of max(AP_i, AP_t), and ``composed, lost, hard, hard_recall`` are NaN, ``table`` is empty.
    ``relative_gap``: gap / (100 - max(picture, text)), NaN at 100. ``p_picture, p_text``: sign-flip
    tests of the method against either. ``table``: queries by (h_i, h_t, h_m), of the first seed.
    """

    key: TaskKey
    metric: str
    queries: int
    picture: float
    text: float
    method: float
    gap: float
    gap_interval: Interval
    union: float
    union_interval: Interval
    gap_to_union: float
    gap_to_union_interval: Interval
    composed: float
    composed_interval: Interval
    lost: float
    lost_interval: Interval
    hard: float
    hard_recall: float
    hard_recall_interval: Interval
    relative_gap: float
    p_picture: float
    p_text: float
    table: Mapping[tuple[bool, bool, bool], int]

    def for_record(self) -> ComposedRecall:
        """As a record keeps it; the method's own value stands beside it there."""
        values = {name: _written(getattr(self, name)) for name in ComposedRecall.model_fields}
        return ComposedRecall.model_validate(values)


def _written(value: float | Interval) -> float | Interval | None:
    """Without digits of no meaning, which may lead out of 0 to 100; None where there is no value."""
    if isinstance(value, tuple):
        low, high = value
        return None if np.isnan(low) else (round(low, 6), round(high, 6))
    return None if np.isnan(value) else round(value, 6)


@dataclass(frozen=True)
class CompositionFindings:
    """``log_ratio``: per task the median over queries of log(min(r_i, r_t) / r_m), above 0 where the method
    ranks the positive before the better modality does. ``prompt``: of a method that puts a picture's word into a
    sentence, the method (first) against that sentence without the word (second)."""

    label: str
    encoder: str
    at: tuple[CompositionAt, ...]
    log_ratio: Mapping[TaskKey, float]
    prompt: tuple[MetricDifference, ...] = ()


def compose(*runs: str | Path, seed: int = 0, replicates: int = REPLICATES) -> CompositionFindings:
    """Hold a run (or its seeds) against what one modality alone finds on the same encoder.

    That is what the run itself has found out, or, where they are named, runs of ``image_only`` and ``text_only``: the
    three are told apart by their methods. Raises UserError where one is missing, where their encoders are not the
    same, and as :func:`benchmark.comparison.comparison.compare` does.
    """
    named = read_sides(map(Path, runs), least=1)
    if len(named) == 1:
        return compose_side(named[0], seed, replicates)
    sides = _roles(named)
    _check_encoders(sides)
    return _findings(sides, seed, replicates)


def compose_side(method: Side, seed: int = 0, replicates: int = REPLICATES) -> CompositionFindings:
    """A run (or its seeds) beside the ranks of either modality that it has kept; raises UserError without them."""
    return _findings(_beside_alone(method), seed, replicates)


def compose_whole(method: Side, metrics: Sequence[str], replicates: int) -> list[CompositionAt]:
    """The same in those of the metrics that it has, of the task or of the average over its categories."""
    whole = [found for found in comparables(_beside_alone(method)) if found.key.category in ("", AVERAGE)]
    having = ((metric, [found for found in whole if metric in found.metrics]) for metric in metrics)
    return [_composition_at(found[0], metric, 0, replicates) for metric, found in having if found]


def _beside_alone(method: Side) -> tuple[Side, ...]:
    """The method, the picture alone, the text alone, of the tasks of which both are known."""
    known = {key for key in method.keys() if all(queries[key].picture_rank is not None for queries in method.queries)}
    if not known:
        raise UserError(
            f"{method.label}: its record tells nothing of one modality alone (it is one itself, comes from outside, "
            "its labels are hidden, or it is of an older version): `evaluate --checkpoint` finds it out, or name runs "
            f"of {PICTURE_ALONE} and {TEXT_ALONE} on its encoder beside it"
        )
    return tuple(
        replace(method, queries=tuple({key: _alone(q, name) for key, q in queries.items() if key in known}
                                      for queries in method.queries))
        for name in _OF_EACH
    )  # fmt: skip


_OF_EACH = ("", "picture_", "text_")
"""What the names of the method's ranks, and of either modality's, begin with."""


def _alone(queries: PerQuery, name: str) -> PerQuery:
    """The ranks of that name in the place of the method's own, and nothing else that is of the method."""
    places = getattr(queries, f"{name}positive_ranks")
    return replace(queries, rank=getattr(queries, f"{name}rank"), positive_ranks=places, subset_rank=None,
                   target_rank=None, top=None)  # fmt: skip


def compose_tasks(key: TaskKey, tasks: Sequence[PerQuery], metrics: Sequence[str]) -> dict[str, ComposedRecall]:
    """Of one run's task (``tasks``: its categories), or none where they have no ranks of either modality."""
    return {
        metric: _composition_at(comparable, metric, 0, INTERVAL_REPLICATES).for_record()
        for metric, comparable in _of_task(key, tasks, metrics)
    }


def composed_percentages(
    key: TaskKey, tasks: Sequence[PerQuery], metrics: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """The numbers of :func:`compose_tasks` by their names, without intervals and tests, which take long."""
    return {
        metric: {
            name: None if np.isnan(value) else value
            for name, value in _percentages(_shares(comparable.groups, metric, _values(comparable, metric))).items()
        }
        for metric, comparable in _of_task(key, tasks, metrics)
    }


def _of_task(key: TaskKey, tasks: Sequence[PerQuery], metrics: Sequence[str]) -> list[tuple[str, Comparable]]:
    """The metrics in which the method, the picture alone, the text alone are compared, each with these three."""
    if any(queries.picture_rank is None for queries in tasks):
        return []
    comparable = Comparable(
        key,
        tuple(metrics),
        tuple(queries.ids for queries in tasks),
        tuple(queries.group for queries in tasks),
        tuple(tuple((_alone(queries, name),) for name in _OF_EACH) for queries in tasks),
    )
    has_places = all(queries.picture_positive_ranks is not None for queries in tasks)
    known = (metric for metric in metrics if has_places or not metric.startswith("mAP@"))
    return [(metric, comparable) for metric in _composable(known)]


def _composable(metrics: Iterable[str]) -> list[str]:
    """Those that a composition is told of: recalls by any positive, and mAP."""
    return metric_order(metric for metric in metrics if metric.startswith(("R@", "mAP@")))


def _findings(sides: Sequence[Side], seed: int, replicates: int) -> CompositionFindings:
    method, found = sides[0], comparables(sides)
    return CompositionFindings(
        label=method.label,
        encoder=_encoder_name(method.records[0]),
        at=tuple(
            _composition_at(comparable, metric, seed, replicates)
            for comparable in found
            for metric in _composable(comparable.metrics)
        ),
        log_ratio={comparable.key: _log_ratio(comparable) for comparable in found if len(comparable.ids) == 1},
        prompt=tuple(_against_prompt(method, seed, replicates)),
    )


def _against_prompt(method: Side, seed: int, replicates: int) -> Iterator[MetricDifference]:
    """Where every seed knows what its prompt finds without the word."""
    known = {key for key in method.keys() if all(queries[key].prompt_rank is not None for queries in method.queries)}
    if not known:
        return

    def ranked_by(name: str) -> Side:
        seeds = ({key: of[key] for key in known} for of in method.queries)
        own = ({key: PerQuery(q.ids, q.group, getattr(q, name)) for key, q in of.items()} for of in seeds)
        return replace(method, queries=tuple(own))

    sides = [ranked_by("rank"), ranked_by("prompt_rank")]
    for comparable in comparables(sides):
        recalls = [metric for metric in comparable.metrics if metric.startswith("R@")]
        yield from differences_of(comparable, recalls, sides, seed, replicates)


def _roles(sides: Sequence[Side]) -> tuple[Side, Side, Side]:
    """The method, the picture alone, the text alone."""
    by_method: dict[str, list[Side]] = {}
    for side in sides:
        name = side.records[0].method
        by_method.setdefault(name if name in (PICTURE_ALONE, TEXT_ALONE) else "", []).append(side)
    for name, role in (("", "a method"), (PICTURE_ALONE, "the picture alone"), (TEXT_ALONE, "the text alone")):
        count = len(by_method.get(name, []))
        if count != 1:
            raise UserError(
                f"compose needs one run of {role}{f' ({name})' if name else ''}, and {count} were named: run "
                f"{PICTURE_ALONE} and {TEXT_ALONE} with the method's own encoder, and name the three folders"
            )
    return by_method[""][0], by_method[PICTURE_ALONE][0], by_method[TEXT_ALONE][0]


def _check_encoders(sides: tuple[Side, Side, Side]) -> None:
    """By seed: the encoder's start, its digest and, where it was tuned, what that made of it."""
    method, *alone = sides
    for side in alone:
        by_seed = {record.identity.seed: encoder_of(record) for record in side.records}
        for record in method.records:
            mine = encoder_of(record)
            # What starts from given weights and is not tuned is the same whatever the seed.
            theirs = by_seed.get(record.identity.seed, next(iter(by_seed.values())))
            if mine is None or mine != theirs:
                has = "no encoder of a backbone" if mine is None else f"the encoder {_encoder_name(record)}"
                raise UserError(
                    f"{method.label} (seed {record.identity.seed}) has {has}, and {side.label} another: one modality "
                    "alone says nothing about a method on another encoder; run it on the same encoder and seed"
                )


def encoder_of(record: Record) -> tuple[object, ...] | None:
    """What two records agree in where their features are of the same encoder; None where it is no backbone's."""
    encoder = record.identity.encoder
    if encoder is None:
        return None
    tuned = encoder.state == "finetuned"
    artefact = next((stage.artefact for stage in record.identity.stages if stage.artefact), None) if tuned else None
    return encoder.name, encoder.digest, encoder.state, artefact


def _encoder_name(record: Record) -> str:
    encoder = record.identity.encoder
    return "none" if encoder is None else f"{encoder.name}, {encoder.weights}, {encoder.state}"


def _values(comparable: Comparable, metric: str) -> list[FloatArray]:
    """Per category the hits, or average precisions, of method, picture and text, ``(3, S, Q)``; one seed stands for
    several."""
    found = []
    for stratum in comparable.strata(metric):
        seeds = max(map(len, stratum.values))
        if any(len(side) not in (1, seeds) for side in stratum.values):
            raise UserError("compose needs the same seeds of all three runs, or one of those of a single modality")
        found.append(np.stack([np.broadcast_to(side, (seeds, side.shape[1])) for side in stratum.values]))
    return found


def _shares(groups: Sequence[IntArray], metric: str, values: Sequence[FloatArray]) -> list[Stratum]:
    """Per category the shares that a composition is made of, in the order of :func:`_percentages`; the last three of
    hits alone."""
    strata = []
    for group, (method, picture, text) in zip(groups, values, strict=True):
        union = np.maximum(picture, text)
        shares = [method, picture, text, union]
        if metric.startswith("R@"):
            shares += [method * (1 - union), (1 - method) * union, 1 - union]
        # Hits of seeds are averaged first: the interval is of queries.
        strata.append(Stratum(group, tuple(share.mean(axis=0, keepdims=True) for share in shares)))
    return strata


def _percentages(strata: Sequence[Stratum]) -> dict[str, float]:
    """The numbers of a :class:`CompositionAt` that need no draws, by its names."""
    m, i, t, union, *of_hits = (100 * means(strata)).tolist()
    composed, lost, hard = of_hits or (np.nan, np.nan, np.nan)
    best = max(i, t)
    return {
        "picture": i, "text": t, "method": m, "gap": m - best, "union": union, "gap_to_union": m - union,
        "composed": composed, "lost": lost, "hard": hard, "hard_recall": 100 * composed / hard if hard > 0 else np.nan,
        "relative_gap": 100 * (m - best) / (100 - best) if best < 100 else np.nan,
    }  # fmt: skip


def _composition_at(comparable: Comparable, metric: str, seed: int, replicates: int) -> CompositionAt:
    found, counts_hits = _values(comparable, metric), metric.startswith("R@")
    strata = _shares(comparable.groups, metric, found)
    table: Counter[tuple[bool, bool, bool]] = Counter()
    for hits in found if counts_hits else ():
        for row in hits[:, 0].astype(bool).T:
            table[bool(row[1]), bool(row[2]), bool(row[0])] += 1
    drawn = 100 * bootstrap(strata, seed, replicates)
    composed, lost, hard = drawn[:, 4:].T if counts_hits else np.full((3, 1), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        hard_drawn = 100 * composed / hard
    return CompositionAt(
        comparable.key, metric, sum(map(len, comparable.ids)), **_percentages(strata),
        gap_interval=percentile_interval(drawn[:, 0] - drawn[:, 1:3].max(axis=1)),
        union_interval=percentile_interval(drawn[:, 3]),
        gap_to_union_interval=percentile_interval(drawn[:, 0] - drawn[:, 3]),
        composed_interval=percentile_interval(composed),
        lost_interval=percentile_interval(lost),
        hard_recall_interval=percentile_interval(hard_drawn),
        p_picture=sign_flip_test(group_differences(strata, 0, 1), seed),
        p_text=sign_flip_test(group_differences(strata, 0, 2), seed),
        table={hits: table[hits] for hits in _ALL_HITS if counts_hits},
    )  # fmt: skip


def _log_ratio(comparable: Comparable) -> float:
    method, picture, text = comparable.log_ranks()
    return float(np.median(np.minimum(picture, text) - method))
