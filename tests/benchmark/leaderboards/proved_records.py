"""Records beside ranks that give their numbers, and what can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.evaluation.metrics import interval, metric_values
from benchmark.evaluation.per_query import PerQuery
from benchmark.records.record import Record, Result, write_record
from benchmark.records.rows import AVERAGE


def ranks_with(metrics: dict[str, float], kind: str, queries: int, worst: int) -> np.ndarray:
    """Ranks (Q,) of these recalls, "R@5" or "R_subset@1"; percents must be whole numbers of queries."""
    ranks, done = np.full(queries, worst), 0
    for k, value in sorted((int(n.partition("@")[2]), v) for n, v in metrics.items() if n.startswith(f"{kind}@")):
        hits = round(value * queries / 100)
        assert abs(100 * hits / queries - value) < 1e-9, f"{value} % of {queries} is no whole number"
        ranks[done:hits] = k
        done = hits
    return ranks


def ranks_of(result: Result) -> PerQuery:
    """Per-query results that the metrics of a result follow from."""
    queries = result.queries
    has_subsets = any(name.startswith("R_subset@") for name in result.metrics)
    return PerQuery(
        ids=tuple(f"q{n}" for n in range(queries)),
        group=np.arange(queries) // 3,
        rank=ranks_with(result.metrics, "R", queries, result.gallery),
        top=np.zeros((queries, 2), dtype=np.int64),
        gallery=tuple(f"p{n}" for n in range(result.gallery)),
        subset_rank=ranks_with(result.metrics, "R_subset", queries, 6) if has_subsets else None,
    )


def write_proved(folder: Path, record: Record) -> Record:
    """Write a record with ranks that prove its metrics; its intervals become those of the ranks."""
    per_query, results = {}, []
    for index, result in enumerate(record.results):
        if result.metrics and result.measured_by == "this run" and result.category != AVERAGE:
            ranks = per_query[index] = ranks_of(result)
            values = {n: metric_values(n, ranks.rank, ranks.subset_rank, None) for n in result.metrics}
            intervals = {name: interval(value, ranks.group) for name, value in values.items() if value is not None}
            result = result.model_copy(update={"intervals": intervals})
        results.append(result)
    return write_record(folder, record.model_copy(update={"results": tuple(results)}), per_query)
