"""Sides of a comparison: which runs belong together, what may be compared, what is printed."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Command

from benchmark.comparison.comparison import compare
from benchmark.errors import UserError
from benchmark.evaluation.per_query import PerQuery
from benchmark.records.record import Record, read_record, write_record

GOLDEN = Path(__file__).parents[2] / "golden" / "record_version_3.json"
QUERIES = 60


def ranked(seed: int) -> PerQuery:
    rng = np.random.default_rng(seed)
    return PerQuery(
        ids=tuple(f"q{n}" for n in range(QUERIES)),
        group=np.arange(QUERIES) // 3,
        rank=rng.integers(1, 30, QUERIES),
        subset_rank=rng.integers(1, 6, QUERIES),
    )


def write_run(folder: Path, seed: int, found: list[PerQuery], results: list[dict[str, Any]], **identity: Any) -> Path:
    """A run's folder with one result per entry of ``results`` (what differs from the golden record's first)."""
    raw = read_record(GOLDEN).model_dump(mode="json")
    raw["method"], raw["title"] = folder.name, folder.name.upper()
    raw["results"] = [{**raw["results"][0], "queries": len(p.ids), **r} for p, r in zip(found, results, strict=True)]
    raw["identity"].update(seed=seed, **identity)
    place = folder / f"seed-{seed}"
    place.mkdir(parents=True)
    write_record(place, Record.model_validate(raw), dict(enumerate(found)))
    return place


def two_runs(tmp_path: Path, **second: Any) -> list[Path]:
    return [
        write_run(tmp_path / "one", 0, [ranked(1)], [{}]),
        write_run(tmp_path / "two", 0, [ranked(2)], [second.pop("result", {})], **second),
    ]


def test_seeds_of_a_configuration_are_one_side_and_queries_are_matched_by_id(tmp_path: Path) -> None:
    ranks = [ranked(seed) for seed in range(4)]
    turned = np.arange(QUERIES)[::-1]
    last = ranks[3]
    reversed_last = replace(
        last, ids=last.ids[::-1], group=last.group[turned], rank=last.rank[turned],
        subset_rank=last.subset_rank[turned] if last.subset_rank is not None else None,
    )  # fmt: skip
    write_run(tmp_path / "one", 0, [ranks[0]], [{}])
    write_run(tmp_path / "one", 1, [ranks[1]], [{}])
    write_run(tmp_path / "two", 0, [ranks[2]], [{}])
    write_run(tmp_path / "two", 1, [reversed_last], [{}])
    found = compare(tmp_path / "one", tmp_path / "two")
    assert found.seeds == (("ONE", 2), ("TWO", 2))
    by_metric = {d.metric: d for d in found.differences}
    hits = np.array([r.rank <= 10 for r in ranks], dtype=float)
    gains = hits[:2].mean(axis=0) - hits[2:].mean(axis=0)
    r10 = by_metric["R@10"]
    assert r10.difference == pytest.approx(100 * gains.mean()) and r10.low < r10.difference < r10.high
    assert (r10.wins, r10.ties, r10.losses) == ((gains > 0).sum(), (gains == 0).sum(), (gains < 0).sum())
    assert (r10.queries, r10.groups) == (QUERIES, QUERIES // 3)
    subset = np.array([r.subset_rank <= 1 for r in ranks if r.subset_rank is not None], dtype=float)
    mean = (np.array([r.rank <= 5 for r in ranks]) + subset) / 2
    assert by_metric["(R@5+R_subset@1)/2"].first_value == pytest.approx(100 * mean[:2].mean())
    assert all(d.p <= d.p_holm <= 1 for d in found.differences)


def test_three_sides_are_compared_in_pairs_and_holm_counts_all(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, 0, [ranked(n)], [{}]) for n, name in enumerate(("a", "b", "c"))]
    found = compare(*runs, metrics=["R@10"])
    assert [(d.first, d.second) for d in found.differences] == [("A", "B"), ("A", "C"), ("B", "C")]
    smallest = min(found.differences, key=lambda d: d.p)
    assert smallest.p_holm == pytest.approx(min(1, 3 * smallest.p))


def test_an_average_over_categories_weighs_them_alike(tmp_path: Path) -> None:
    categories = [{"category": name} for name in ("dress", "shirt")]
    small = replace(
        ranked(9), ids=("x0", "x1"), group=np.arange(2), rank=np.array([1, 1]),
        subset_rank=np.array([1, 1]),
    )  # fmt: skip
    worse = replace(small, rank=np.array([1, 29]))
    runs = [
        write_run(tmp_path / "one", 0, [ranked(1), small], categories),
        write_run(tmp_path / "two", 0, [ranked(1), worse], categories),
    ]
    values = {d.key.category: d.difference for d in compare(*runs, metrics=["R@10"]).differences}
    assert values == {"dress": 0, "shirt": pytest.approx(50), "average": pytest.approx(25)}


def test_the_queries_that_differ_most_come_first(tmp_path: Path) -> None:
    first, second = ranked(1), ranked(1)
    second.rank[7] = first.rank[7] * 100
    runs = [write_run(tmp_path / "one", 0, [first], [{}]), write_run(tmp_path / "two", 0, [second], [{}])]
    (only,) = compare(*runs).queries
    assert (only.query, only.second_rank / only.first_rank) == ("q7", pytest.approx(100))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"result": {"protocol": "official-noref"}}, "no protocol in common"),
        ({"result": {"text_mode": "both"}}, "no text mode in common"),
        ({"result": {"split": "test1"}}, "no split in common"),
        ({"limit": 60}, "--limit 60"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    second: dict[str, Any], words: str, tmp_path: Path, command: Command
) -> None:
    outcome = command("compare", *two_runs(tmp_path, **second))
    assert outcome.status == 2 and words in outcome.err and len(outcome.err.splitlines()) == 1


def test_other_data_other_queries_and_runs_without_queries_are_refused(tmp_path: Path) -> None:
    one, two = two_runs(tmp_path)
    raw = json.loads((two / "record.json").read_text())
    raw["identity"]["data"]["fingerprint"] = "b" * 64
    (two / "record.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match="TWO: was run on demo-cirr with other annotations"):
        compare(one, two)
    other = replace(ranked(3), ids=tuple(f"r{n}" for n in range(QUERIES)))
    with pytest.raises(UserError, match="THREE: query q0 is missing"):
        compare(one, write_run(tmp_path / "three", 0, [other], [{}]))
    four = write_run(tmp_path / "four", 0, [ranked(4)], [{}])
    raw = json.loads((four / "record.json").read_text())
    del raw["files"]["per_query"]
    (four / "record.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match="has no results per query"):
        compare(one, four)
    with pytest.raises(UserError, match="at least two"):
        compare(one)
    with pytest.raises(UserError, match="no record.json at or below it"):
        compare(one, tmp_path / "nowhere")


def test_every_format_says_the_same(tmp_path: Path, command: Command) -> None:
    runs = two_runs(tmp_path)
    whole = json.loads(command("compare", *runs, "--format", "json").out)
    rows = list(csv.DictReader(io.StringIO(command("compare", *runs, "--format", "csv").out)))
    printed = command("compare", *runs).out
    latex = command("compare", *runs, "--format", "latex").out
    for entry, row in zip(whole["differences"], rows, strict=True):
        assert float(row["difference"]) == entry["difference"] and row["metric"] == entry["metric"]
        shown = f"{entry['difference']:+.2f}"
        assert shown in printed and shown.replace("-", "$-$") in latex
    assert "\\toprule" in latex and max(map(len, printed.splitlines())) <= 100


HOSTILE = "<b>x</b> | *a*\n\\input{/etc/passwd} & 5 % ✓"


def test_a_method_s_name_is_shown_as_text_in_every_format(tmp_path: Path, command: Command) -> None:
    runs = two_runs(tmp_path)
    for run, title in zip(runs, (HOSTILE, "=HYPERLINK(1)"), strict=True):
        raw = json.loads((run / "record.json").read_text())
        (run / "record.json").write_text(json.dumps({**raw, "title": title}))
    markdown = command("compare", *runs).out
    assert "<b>" not in markdown.replace("\\<b>", "") and "\n\\input" not in markdown
    latex = command("compare", *runs, "--format", "latex").out
    assert "\\input" not in latex and r"\textbackslash{}input\{/etc/passwd\} \& 5 \%" in latex
    rows = list(csv.DictReader(io.StringIO(command("compare", *runs, "--format", "csv").out)))
    assert {row["second"] for row in rows} == {"'=HYPERLINK(1)"}
    raw["identity"]["limit"] = 60
    (runs[1] / "record.json").write_text(json.dumps({**raw, "title": "=HYPERLINK(1)"}))
    refused = command("compare", *runs)
    assert refused.status == 2 and "<b>x</b>" in refused.err and len(refused.err.splitlines()) == 1


def test_sides_of_the_same_seeds_are_drawn_seed_by_seed(tmp_path: Path) -> None:
    """Two seeds far apart, and one side better by the same three queries with either: that is no spread of the gain."""
    count = 30
    for number, good in enumerate((6, 24)):
        for name, more in (("one", 3), ("two", 0)):
            rank = np.where(np.arange(count) < good + more, 1, 20)
            found = replace(ranked(0), ids=tuple(f"q{n}" for n in range(count)), group=np.arange(count), rank=rank,
                            subset_rank=None)  # fmt: skip
            write_run(tmp_path / name, number, [found], [{"metrics": {"R@10": 50.0}, "intervals": {}}])
    (found,) = compare(tmp_path / "one", tmp_path / "two").differences
    # By queries alone: 3 of 30 are won with each seed, each with another three.
    assert found.difference == pytest.approx(10) and 0 < found.low < found.high < 25


def test_an_unknown_metric_names_the_nearest(tmp_path: Path, command: Command) -> None:
    outcome = command("compare", *two_runs(tmp_path), "--metric", "R@11")
    assert outcome.status == 2 and "did you mean" in outcome.err
