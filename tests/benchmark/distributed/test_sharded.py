"""Work split over the ranks of a job: equal to one process, bit by bit, on every rank."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
WORLDS = (2, 3, 5)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], dict[str, Any]]:
    """What every rank of every job found, by number of ranks and rank."""
    folder = tmp_path_factory.mktemp("sharded")
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "sharded_work.py"), str(folder)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = {}
    for world in (1, *WORLDS):
        for rank in range(world):
            with np.load(folder / f"{world}-{rank}.npz") as archive:
                found[world, rank] = dict(archive)
    return found


@pytest.mark.parametrize("world", WORLDS)
def test_every_rank_has_what_one_process_has(outcomes: dict[tuple[int, int], dict[str, Any]], world: int) -> None:
    one = outcomes[1, 0]
    for rank in range(world):
        many = outcomes[world, rank]
        assert many.keys() == one.keys()
        for name in one:
            if not name.startswith("apart/"):
                assert many[name].dtype == one[name].dtype, name
                assert np.array_equal(many[name], one[name]), (name, rank)


@pytest.mark.parametrize("world", WORLDS)
def test_blocks_are_shared_and_none_is_done_twice(outcomes: dict[tuple[int, int], dict[str, Any]], world: int) -> None:
    """5 + 2 + 3 blocks of queries, one of 20 gallery pictures: some ranks have none."""
    for name in ("product", "own"):
        rows = [int(outcomes[world, rank][f"apart/{name} rows encoded"]) for rank in range(world)]
        assert sum(rows) == int(outcomes[1, 0][f"apart/{name} rows encoded"]) == 20 + 11 + 2 + 9
        assert max(rows) < 42
    passes = [int(outcomes[world, rank]["apart/passes"]) for rank in range(world)]
    folders = 2 if world == 2 else 1
    assert sum(passes) >= folders * int(outcomes[1, 0]["apart/passes"])


def test_ranks_with_a_cache_of_their_own_are_noticed(outcomes: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Of two ranks each had its own folder, of three and five all the same."""
    assert outcomes[2, 1]["apart/sharing"].tolist() == [1]
    assert outcomes[2, 1]["apart/passes"] == outcomes[1, 0]["apart/passes"]
    for world in (3, 5):
        for rank in range(world):
            assert outcomes[world, rank]["apart/sharing"].tolist() == list(range(world))


@pytest.mark.parametrize("world", WORLDS)
def test_each_encoding_is_sent_once_and_no_score(outcomes: dict[tuple[int, int], dict[str, Any]], world: int) -> None:
    """Bytes of a broadcast are counted on every rank: the whole of what is put together."""
    queries, positives = 11 + 2 + 9, sum(len(outcomes[1, 0][f"own/{c}/every"]) for c in ("dress", "shirt", "toptee"))
    for rank in range(world):
        many = outcomes[world, rank]
        assert many["apart/product bytes gathered"] == (20 + queries) * 32 * 4
        assert many["apart/own bytes gathered"] == 20 * (6 + 1) * 4 + queries * (6 * 4 + 4)
        of_ranks = sum(int(many[f"apart/own/{c} bytes of ranks"]) for c in ("dress", "shirt", "toptee"))
        assert of_ranks == 8 * (queries * (3 + 5) + positives)
    assert outcomes[1, 0]["apart/product bytes gathered"] == 0
