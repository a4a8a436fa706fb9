"""The page of ablations from kept records: its rows are of the same seeds."""

from __future__ import annotations

import pytest
from test_controlled_comparison import made

from benchmark.facts import Variant
from benchmark.leaderboards.ablations import ablation_page
from benchmark.leaderboards.uncertainty import NO_RANKS
from benchmark.registry import discover

RECALLS = {("", 0): 10.0, ("", 1): 30.0, ("", 2): 50.0, ("half", 0): 9.0, ("half", 1): 29.0}


@pytest.mark.parametrize(
    ("there", "whole", "half"),
    [
        ([("", 0), ("", 1), ("", 2), ("half", 0)], "10.00", "9.00"),
        ([("", 0), ("", 1), ("", 2), ("half", 0), ("half", 1)], "20.00", "19.00"),
        ([("", 2), ("half", 0)], "50.00", "9.00"),
    ],
    ids=["one seed of the ablation", "two", "none in common"],
)
def test_rows_are_of_the_seeds_that_all_of_them_have(there: list[tuple[str, int]], whole: str, half: str) -> None:
    registry = discover()
    records = [
        made(seed=seed, recall=RECALLS[variant, seed], change={"identity.variant": variant}) for variant, seed in there
    ]
    variant = Variant("spirit", "half", "half of it", "made up", ablation="parts")
    page = ablation_page(registry.methods()["spirit"], [variant], registry.datasets()["cirr"], records, NO_RANKS)
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    assert whole in rows["SPIRIT, whole"] and half in rows["half of it"]
