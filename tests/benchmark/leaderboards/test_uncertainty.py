"""Tie groups are those of the paired test, and of binomial errors where there are no ranks; averages get intervals."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.comparison.comparison import compare
from benchmark.comparison.statistics import holm
from benchmark.dataset import TaskKey
from benchmark.evaluation.metrics import metric_values
from benchmark.evaluation.per_query import PerQuery
from benchmark.leaderboards.published_rows import binomial_error
from benchmark.leaderboards.uncertainty import with_uncertainty
from benchmark.records.record import Record, read_record, write_record
from benchmark.records.rows import BINOMIAL, PAIRED, Cell, Row
from benchmark.records.tables import Table, tables

GOLDEN = read_record(Path(__file__).parents[2] / "golden" / "record_version_4.json").model_dump(mode="json")
QUERIES, GALLERY = 400, 480


def ranks(seed: int, shift: int = 0) -> PerQuery:
    """One difficulty per query, and noise of the method's own; ``shift`` places worse."""
    hard = np.random.default_rng(0).integers(1, 30, QUERIES)
    own = np.random.default_rng(seed).integers(-3, 4, QUERIES)
    return PerQuery(
        ids=tuple(f"q{n}" for n in range(QUERIES)), group=np.arange(QUERIES) // 4,
        rank=np.clip(hard + own + shift, 1, GALLERY),
    )  # fmt: skip


def run(folder: Path, method: str, per_query: dict[str, PerQuery]) -> Record:
    raw = copy.deepcopy(GOLDEN)
    raw.update(method=method, title=method)
    raw["results"] = [
        {**raw["results"][0], "category": category, "intervals": {}, "ties": 0, "texts_cut": 0, "queries": QUERIES,
         "metrics": {m: 100 * float(np.mean(values(m, found))) for m in ("R@10", "R@50")}, "gallery": GALLERY}
        for category, found in per_query.items()
    ]  # fmt: skip
    if len(per_query) > 1:
        means = {m: float(np.mean([r["metrics"][m] for r in raw["results"]])) for m in ("R@10", "R@50")}
        sums = {"queries": QUERIES * len(per_query), "gallery": GALLERY * len(per_query)}
        raw["results"].append({**raw["results"][0], **sums, "category": "average", "metrics": means})
    return write_record(folder, Record.model_validate(raw), dict(enumerate(per_query.values())))


def values(metric: str, found: PerQuery) -> Any:
    return metric_values(metric, found.rank, None, None)


def kept(*runs: tuple[Record, list[PerQuery]]) -> dict[str, dict[int, PerQuery]]:
    return {record.files["per_query"].sha256: dict(enumerate(found)) for record, found in runs}


def test_the_tie_group_is_what_the_paired_comparison_does_not_tell_from_the_best(tmp_path: Path) -> None:
    found = {"a": ranks(1), "b": ranks(2), "near": ranks(3, shift=1), "far": ranks(4, shift=9)}
    records = {name: run(tmp_path / name, name, {"": per_query}) for name, per_query in found.items()}
    (table,) = tables(records.values())
    made = with_uncertainty(table, kept(*((records[name], [found[name]]) for name in found)))
    rows = {row.name: row for row in made.rows}
    best = max(found, key=lambda name: records[name].results[0].metrics["R@10"])
    others = [name for name in found if name != best]
    p = [compare(tmp_path / best, tmp_path / name, metrics=["R@10"]).differences[0].p for name in others]
    expected = {name: p > 0.05 for name, p in zip(others, holm(p), strict=True)}
    assert {name: rows[name].cells["", "R@10"].tie == PAIRED for name in others} == expected
    assert any(expected.values()) and not expected["far"]  # both outcomes occur
    assert rows[best].cells["", "R@10"].tie == PAIRED
    assert "≈" in made.body() and "paired sign-flip test" in made.content()


def test_paired_rows_are_told_apart_that_their_errors_alone_would_not(tmp_path: Path) -> None:
    """The same queries, three places worse: a difference within both intervals that the pairs decide."""
    found = {"a": ranks(1), "b": ranks(1, shift=3)}
    records = {name: run(tmp_path / name, name, {"": per_query}) for name, per_query in found.items()}
    (table,) = tables(records.values())
    both = with_uncertainty(table, kept(*((records[name], [found[name]]) for name in found)))
    assert all(not row.cells["", "R@10"].tie for row in both.rows)
    gap = records["a"].results[0].metrics["R@10"] - records["b"].results[0].metrics["R@10"]
    error = math.hypot(*(binomial_error(r.results[0].metrics["R@10"], [QUERIES]) for r in records.values()))
    assert gap > 0 and 2 * error < 3 * gap


def row(name: str, value: float, **more: Any) -> Row:
    half = 1.96 * binomial_error(value, [1000])
    return Row(name, "", {("", "R@10"): Cell(f"{value:.2f}", value, half=half, **more)})


def test_published_rows_are_tied_by_binomial_errors_and_wrong_ones_take_no_part() -> None:
    # One standard error at 60 % on 1,000 queries is 1.55, of a difference 2.19: 3 points are no difference, 9 are one.
    rows = (row("best", 60.0), row("near", 57.0), row("far", 51.0), row("misprint", 99.0, wrong=True))
    made = with_uncertainty(Table(TaskKey("cirr", "test1", "official", "single"), "", rows), {})
    ties = {r.name: r.cells["", "R@10"].tie for r in made.rows}
    assert ties == {"best": BINOMIAL, "near": BINOMIAL, "far": "", "misprint": ""}
    assert "60.00ᵇ" in made.body() and "~~99.00~~" in made.body() and "binomial errors" in made.content()
    alone = with_uncertainty(Table(made.key, "", (row("best", 60.0), row("far", 40.0))), {})
    assert all(not r.cells["", "R@10"].tie for r in alone.rows), "the best of a column is no tie group of its own"


def test_a_row_whose_error_is_not_known_is_in_no_tie_group() -> None:
    unknown = Row("unknown", "", {("", "R@10"): Cell("59.90", 59.9)})
    made = with_uncertainty(Table(TaskKey("x", "y", "z", "w"), "", (row("best", 60.0), unknown)), {})
    assert all(not r.cells["", "R@10"].tie for r in made.rows)


def test_an_average_s_interval_is_that_of_groups_drawn_within_each_category(tmp_path: Path) -> None:
    found = {"dress": ranks(1), "shirt": ranks(2, shift=2)}
    record = run(tmp_path, "m", found)
    (table,) = tables([record])
    assert math.isnan(table.rows[0].cells["average", "R@10"].half)
    made = with_uncertainty(table, kept((record, list(found.values()))))
    # The variance of a mean of independent halves, each from its groups' means.
    variances = [np.var(values("R@10", r).reshape(-1, 4).mean(axis=1), ddof=1) / (QUERIES // 4) for r in found.values()]
    expected = 1.96 * 100 * math.sqrt(sum(variances)) / 2
    assert made.rows[0].cells["average", "R@10"].half == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("value", "queries", "error"), [(50.0, [2500], 1.0), (50.0, [2500, 2500], 2**-0.5), (0.0, [9], 0)])
def test_the_binomial_error_of_a_share_and_of_a_mean_of_shares(value: float, queries: list[int], error: float) -> None:
    assert binomial_error(value, queries) == pytest.approx(error)
