"""Whole runs on several ranks give the records and per-query results of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.records.record import read_record

HERE = Path(__file__).parent
KINDS = ("untouched", "taken", "evaluated")
WORLDS = (3,)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(small_cirr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "sharded_runs.py"), str(small_cirr), str(folder)],
        capture_output=True, text=True, timeout=400, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def results(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["results"]
    return found


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_that_of_one_process(folder: Path, kind: str, world: int) -> None:
    """A method that trains nothing, one on an encoder that only rank 0 has, a checkpoint with a score of its own."""
    one, many = (folder / f"node-{w}-0" / "run" / kind for w in (1, world))
    with np.load(one / "per_query.npz") as first, np.load(many / "per_query.npz") as other:
        assert first.files == other.files
        for name in first.files:
            assert np.array_equal(first[name], other[name]), name
    assert results(one / "record.json") == results(many / "record.json")
    assert read_record(many).environment.world_size == world


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", KINDS)
def test_rank_0_alone_writes_and_all_have_the_record(folder: Path, kind: str, world: int) -> None:
    written = read_record(folder / f"node-{world}-0" / "run" / kind)
    for rank in range(world):
        told = json.loads((folder / f"{kind}-{world}-{rank}.json").read_text(encoding="utf-8"))
        assert told == json.loads(written.model_dump_json())
        if rank:
            assert list((folder / f"node-{world}-{rank}").iterdir()) == []


def test_each_node_has_the_features_in_its_own_cache(folder: Path) -> None:
    """Bit by bit those that one process stored."""
    stored = {w: {p.name: p.read_bytes() for p in (folder / f"cache-{w}" / "features").rglob("*.safetensors")} for w in ("1-0", "3-0", "3-1")}
    assert stored["1-0"]
    assert all(found == stored["1-0"] for found in stored.values())
    assert not (folder / "cache-3-1" / "encoders").exists()
