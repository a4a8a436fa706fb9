"""Composition against the specification's made-up ranks, its identities, and plain loops."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Command
from test_compare import ranked, write_run

from benchmark.comparison.composition import CompositionAt, compose
from benchmark.errors import UserError
from benchmark.evaluation.per_query import PerQuery


def of_ranks(*rank: int) -> PerQuery:
    count = len(rank)
    return replace(
        ranked(0), ids=tuple(f"q{n}" for n in range(count)), group=np.arange(count), rank=np.array(rank),
        subset_rank=None,
    )  # fmt: skip


def three_runs(folder: Path, method: PerQuery, picture: PerQuery, text: PerQuery, seed: int = 0, **identity: Any) -> list[Path]:
    metrics = [{"metrics": {f"R@{k}": 50.0 for k in (1, 5, 10)}, "intervals": {}}]
    return [
        write_run(folder / name, seed, [found], metrics, **identity)
        for name, found in (("spirit", method), ("image_only", picture), ("text_only", text))
    ]


def at(found: Any, metric: str) -> CompositionAt:
    (only,) = [at for at in found.at if at.metric == metric]
    return only


def test_four_queries_by_hand(tmp_path: Path) -> None:
    runs = three_runs(tmp_path, of_ranks(2, 60, 4, 1), of_ranks(3, 40, 70, 5), of_ranks(50, 8, 90, 6))
    found = compose(*reversed(runs))
    ten = at(found, "R@10")
    assert (ten.picture, ten.text, ten.method, ten.gap) == (50, 50, 75, 25)
    assert (ten.union, ten.gap_to_union, ten.composed, ten.lost) == (75, 0, 25, 25)
    assert (ten.hard, ten.hard_recall, ten.relative_gap) == (25, 100, 50)
    assert found.log_ratio[ten.key] == pytest.approx((log(3 / 2) + log(5)) / 2) == pytest.approx(1.0075, abs=1e-4)
    solved = {hits: count for hits, count in ten.table.items() if count}
    assert solved == {(True, False, True): 1, (False, True, False): 1, (False, False, True): 1, (True, True, True): 1}


def test_the_gap_to_the_union_is_what_is_composed_less_what_is_lost(tmp_path: Path) -> None:
    found = compose(*three_runs(tmp_path, ranked(1), ranked(2), ranked(3)))
    assert [at.metric for at in found.at] == ["R@1", "R@5", "R@10"]
    for each in found.at:
        assert each.gap_to_union == pytest.approx(each.composed - each.lost)
        assert each.gap_to_union <= each.gap and each.gap_interval[0] <= each.gap <= each.gap_interval[1]
        assert sum(each.table.values()) == each.queries == 60
        assert each.union + each.hard == pytest.approx(100)


def test_the_interval_takes_the_better_modality_within_each_replicate(tmp_path: Path) -> None:
    method, picture, text = ranked(4), ranked(5), ranked(6)
    ten = at(compose(*three_runs(tmp_path, method, picture, text)), "R@10")
    hits = np.array([found.rank <= 10 for found in (method, picture, text)], dtype=float)
    rng, drawn = np.random.default_rng(7), []
    for _ in range(4000):
        queries = np.concatenate([np.flatnonzero(method.group == g) for g in rng.integers(0, 20, 20)])
        m, i, t = hits[:, queries].mean(axis=1)
        drawn.append(100 * (m - max(i, t)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert np.abs(np.array(ten.gap_interval) - (low, high)).max() < 0.1 * (high - low)


def test_seeds_are_averaged_and_one_seed_of_a_modality_stands_for_all(tmp_path: Path) -> None:
    start = {"encoder": {"name": "tiny", "weights": "random", "digest": "d", "start": "random", "state": "untouched"}}
    runs = three_runs(tmp_path, ranked(1), ranked(2), ranked(3), **start)
    runs.append(write_run(tmp_path / "spirit", 1, [ranked(4)], [{"metrics": {"R@10": 50.0}, "intervals": {}}], **start))
    ten = at(compose(*runs), "R@10")
    hits = [100 * float((found.rank <= 10).mean()) for found in (ranked(1), ranked(4))]
    assert ten.method == pytest.approx(np.mean(hits))


@pytest.mark.parametrize(
    ("left_out", "words"),
    [("image_only", "one run of the picture alone (image_only), and 0"), ("text_only", "the text alone (text_only), and 0")],
)
def test_a_missing_modality_is_named(left_out: str, words: str, tmp_path: Path, command: Command) -> None:
    runs = [run for run in three_runs(tmp_path, ranked(1), ranked(2), ranked(3)) if left_out not in str(run)]
    outcome = command("compose", *runs)
    assert outcome.status == 2 and words in outcome.err and len(outcome.err.splitlines()) == 1


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    runs = three_runs(tmp_path, ranked(1), ranked(2), ranked(3))
    raw = json.loads((runs[1] / "record.json").read_text())
    raw["identity"]["encoder"]["digest"] = "e" * 64
    (runs[1] / "record.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match="on the same encoder and seed"):
        compose(*runs)


def test_what_is_printed_is_what_was_found(tmp_path: Path, command: Command) -> None:
    runs = three_runs(tmp_path, ranked(1), ranked(2), ranked(3))
    whole = json.loads(command("compose", *runs, "--format", "json").out)
    printed = command("compose", *runs).out
    for entry in whole["at"]:
        for name in ("gap", "gap_to_union"):
            assert f"{entry[name]:+.2f}" in printed
        assert sum(entry["table"].values()) == 60
    assert max(map(len, printed.splitlines())) <= 100
