"""Orders, groups and seeds of batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.dataset import Triplets
from benchmark.errors import UserError
from benchmark.settings import TrainingSettings
from benchmark.text_rules import text_rule
from benchmark.training.batches import GroupLayout, epoch_table, rank_shares, require_batches, step_seed, update_plan


def batch(size: int, group: int = 0) -> TrainingSettings:
    return TrainingSettings(batch_size=size, negative_group=group)


def test_an_epoch_shows_every_row_at_most_once_and_drops_the_partial_batch() -> None:
    plan = update_plan(50, batch(8), seed=3, epoch=2)
    assert [len(rows) for rows in plan] == [8] * 6
    rows = np.concatenate(plan)
    assert len(set(rows.tolist())) == 48 and rows.max() < 50


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {
        (seed, epoch): tuple(np.concatenate(update_plan(40, batch(8), seed, epoch)).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == 9
    assert orders[1, 2] == tuple(np.concatenate(update_plan(40, batch(8), 1, 2)).tolist())
    assert orders[0, 0][:8] == (22, 13, 28, 4, 26, 23, 30, 38)


def test_what_is_left_of_an_epoch_is_a_smaller_batch_where_it_is_kept() -> None:
    settings = TrainingSettings(batch_size=8, keep_last=True)
    plan = update_plan(50, settings, seed=3, epoch=2)
    assert [len(rows) for rows in plan] == [8] * 6 + [2]
    assert sorted(np.concatenate(plan).tolist()) == list(range(50))
    assert np.array_equal(np.concatenate(plan[:6]), np.concatenate(update_plan(50, batch(8), seed=3, epoch=2)))
    assert [len(rows) for rows in update_plan(5, settings, 0, 0)] == [5]
    assert [len(rows) for rows in update_plan(16, settings, 0, 0)] == [8, 8]


def test_a_smaller_last_batch_is_spread_over_the_processes_or_refused() -> None:
    settings = TrainingSettings(batch_size=8, keep_last=True)
    layout, last = GroupLayout.of(settings, 2), update_plan(22, settings, 0, 0)[-1]
    parts = [share for rank in range(2) for share in rank_shares(last, settings, layout, rank)]
    assert [len(part.rows) for part in parts] == [3, 3]
    assert np.concatenate([part.rows for part in parts]).tolist() == last.tolist() == parts[1].group.tolist()
    require_batches(22, settings, 2)
    with pytest.raises(UserError, match="last batch of an epoch has 5 of its 21 entries.*evenly over 2 processes"):
        require_batches(21, settings, 2)
    with pytest.raises(UserError, match="negative_group 4 need not divide"):
        GroupLayout.of(TrainingSettings(batch_size=8, negative_group=4, keep_last=True), 1)


def test_too_few_entries_are_told() -> None:
    with pytest.raises(UserError, match="7 training entries are fewer than one batch of 8"):
        update_plan(7, batch(8), 0, 0)


@pytest.mark.parametrize(
    ("size", "group", "world", "expected"),
    [
        (8192, 1024, 8, (1, 1, 1024)),
        (8192, 1024, 1, (8, 1, 1024)),
        (8192, 1024, 4, (2, 1, 1024)),
        (8192, 1024, 16, (1, 2, 512)),
        (128, 0, 1, (1, 1, 128)),
        (128, 0, 4, (1, 4, 32)),
        (6, 2, 6, (1, 2, 1)),
    ],
)
def test_groups_lie_on_the_processes(size: int, group: int, world: int, expected: tuple[int, int, int]) -> None:
    layout = GroupLayout.of(batch(size, group), world)
    assert (layout.groups_per_rank, layout.ranks_per_group, layout.rows_per_rank) == expected


@pytest.mark.parametrize(("size", "group", "world"), [(10, 4, 1), (9, 3, 2), (8, 8, 3), (12, 4, 5), (4, 4, 8)])
def test_what_does_not_divide_is_refused(size: int, group: int, world: int) -> None:
    with pytest.raises(UserError, match="--batch-size"):
        GroupLayout.of(batch(size, group), world)


@given(groups=st.integers(1, 8), size=st.integers(2, 8), world=st.integers(1, 16))
def test_every_row_is_computed_once_whatever_the_number_of_processes(groups: int, size: int, world: int) -> None:
    settings = batch(groups * size, size)
    rows = np.arange(100, 100 + groups * size)
    try:
        layout = GroupLayout.of(settings, world)
    except UserError:
        return
    parts = [s.rows for rank in range(world) for s in rank_shares(rows, settings, layout, rank)]
    assert np.concatenate(parts).tolist() == rows.tolist()
    gathered = [
        np.concatenate(parts[i : i + layout.ranks_per_group]).tolist()
        for i in range(0, len(parts), layout.ranks_per_group)
    ]
    assert gathered == [rows[i : i + size].tolist() for i in range(0, len(rows), size)]


def test_step_seeds_differ_in_every_argument() -> None:
    seeds = {step_seed(seed, update, part) for seed in range(4) for update in range(50) for part in range(4)}
    assert len(seeds) == 800
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)


def triplets(captions: list[tuple[str, ...]]) -> Triplets:
    n = len(captions)
    return Triplets(np.arange(n), np.arange(n) + 100, tuple(captions))


def test_a_rule_may_make_several_entries_of_a_triplet() -> None:
    table = epoch_table(triplets([("is red", "is long"), ("only one", " ")]), text_rule("per-caption"), 0, 0)
    assert table.texts == ("is red", "is long", "only one")
    assert table.reference_picture.tolist() == [0, 0, 1] and table.target_picture.tolist() == [100, 100, 101]


def test_drawn_strings_are_a_function_of_seed_and_epoch() -> None:
    pairs = triplets([(f"is a{i}", f"has b{i}") for i in range(40)])
    draws = [epoch_table(pairs, text_rule("joined"), 0, epoch).texts for epoch in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    forms = {text.replace(str(i), "") for i, text in enumerate(draws[0])}
    assert forms == {"Is a and has b", "Has b and is a", "Is a", "Has b"}
