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

from benchmark.comparison.composition import CompositionAt, compose, compose_tasks
from benchmark.dataset import Ragged
from benchmark.errors import UserError
from benchmark.evaluation.per_query import PerQuery
from benchmark.records.measurement import ComposedRecall


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


def of_places(method: list[list[int]], picture: list[list[int]], text: list[list[int]]) -> list[PerQuery]:
    """A run that keeps the places of all positives by either modality, and the runs of these."""
    own, *alone = (
        replace(of_ranks(*map(min, places)), positive_ranks=Ragged.of(places), target_rank=np.array([p[0] for p in places]))
        for places in (method, picture, text)
    )
    names = {f"{name}{field}": value for name, found in zip(("picture", "text"), alone, strict=True)
             for field, value in (("_rank", found.rank), ("_positive_ranks", found.positive_ranks))}  # fmt: skip
    return [replace(own, **names), *alone]


def precise_runs(folder: Path, found: list[PerQuery], metrics: tuple[str, ...]) -> list[Path]:
    results = [{"metrics": dict.fromkeys(metrics, 50.0), "intervals": {}}]
    names = ("spirit", "image_only", "text_only")
    return [write_run(folder / name, 0, [ranks], results) for name, ranks in zip(names, found, strict=True)]


def test_gaps_of_mean_average_precision_by_hand(tmp_path: Path, command: Command) -> None:
    found = of_places([[1, 3], [20], [2]], [[5, 2], [1], [10]], [[30, 4], [2], [1]])
    runs = precise_runs(tmp_path, found, ("R@5", "mAP@5", "R_target@5"))
    kept, named = compose(runs[0]), compose(*runs)
    assert kept.at == named.at and [each.metric for each in kept.at] == ["R@5", "mAP@5"]
    method, picture, text = (5 / 6 + 0 + 1 / 2) / 3, (9 / 20 + 1 + 0) / 3, (1 / 8 + 1 / 2 + 1) / 3
    five = at(kept, "mAP@5")
    assert (five.method, five.picture, five.text) == pytest.approx((100 * method, 100 * picture, 100 * text))
    assert five.gap == pytest.approx(100 * (method - text)) and five.union == pytest.approx(100 * (9 / 20 + 1 + 1) / 3)
    assert five.gap_to_union == pytest.approx(five.method - five.union)
    # What is found and what is lost is counted by hits, of which a precision has none.
    assert np.isnan([five.composed, five.lost, five.hard, five.hard_recall]).all() and not five.table
    assert (at(kept, "R@5").composed, at(kept, "R@5").lost) == (0, pytest.approx(100 / 3))
    written = five.for_record().model_dump(mode="json")
    assert "composed" not in written and ComposedRecall.model_validate(written) == five.for_record()
    with pytest.raises(ValueError, match="all of composed, lost and hard, or none"):
        ComposedRecall.model_validate({**written, "lost": 3.0})
    shown = " ".join(command("compose", runs[0]).out.split())
    assert f"| mAP@5 | {five.picture:.2f} | {five.text:.2f}" in shown and "mAP@k has average precisions" in shown
    whole = json.loads(command("compose", runs[0], "--format", "json").out)
    assert [entry["composed"] for entry in whole["at"]] == [0, None]


def test_without_the_places_of_either_modality_there_is_no_gap_of_precision(tmp_path: Path) -> None:
    own, *_ = of_places([[1, 3], [2]], [[5, 2], [1]], [[30, 4], [2]])
    older = replace(own, picture_positive_ranks=None, text_positive_ranks=None)
    found = compose(precise_runs(tmp_path, [older] * 3, ("R@5", "mAP@5", "R_target@5"))[0])
    assert [each.metric for each in found.at] == ["R@5"]
    key = found.at[0].key
    assert set(compose_tasks(key, [older], ["R@5", "mAP@5"])) == {"R@5"}
    assert set(compose_tasks(key, [own], ["R@5", "mAP@5", "R_target@5"])) == {"R@5", "mAP@5"}


def test_the_interval_of_a_gap_of_precision_is_that_of_a_plain_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 5, 60)
    drawn = [[sorted(rng.choice(np.arange(1, top), n, replace=False).tolist()) for n in sizes] for top in (16, 24, 24)]
    found = [replace(each, group=np.arange(60) // 3) for each in of_places(*drawn)]
    ten = at(compose(precise_runs(tmp_path, found, ("mAP@10",))[0]), "mAP@10")
    precision = np.array([
        [sum((i + 1) / rank for i, rank in enumerate(ranks) if rank <= 10) / min(10, len(ranks)) for ranks in side]
        for side in drawn
    ])  # fmt: skip
    gaps = []
    for _ in range(2000):
        queries = np.concatenate([np.arange(3 * g, 3 * g + 3) for g in rng.integers(0, 20, 20)])
        m, i, t = precision[:, queries].mean(axis=1)
        gaps.append(100 * (m - max(i, t)))
    low, high = np.quantile(gaps, [0.025, 0.975])
    assert ten.gap == pytest.approx(100 * (precision[0].mean() - precision[1:].mean(axis=1).max()))
    assert np.abs(np.array(ten.gap_interval) - (low, high)).max() < 0.1 * (high - low)


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
