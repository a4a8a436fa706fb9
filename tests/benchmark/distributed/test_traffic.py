"""The bytes that an update of SPIRIT's head gathers and reduces, counted in the collectives.

The calculation for many GPUs in `benchmark/README.md` rests on the same formula.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
WORLDS = (1, 2, 4)
WIDTH, BATCH, FLOAT = 6, 16, 4
PER_PAIR = 2 * WIDTH + 2 * WIDTH
"""Numbers of a pair's encodings: query and target have 2 d each."""


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What every rank counted, by number of ranks."""
    folder = tmp_path_factory.mktemp("traffic")
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "traffic_work.py"), str(folder)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return {w: [json.loads((folder / f"{w}-{rank}.json").read_text()) for rank in range(w)] for w in WORLDS}


def expected(world: int, found: dict[str, Any]) -> dict[str, int]:
    """Bytes that one rank gives to each collective in one update."""
    if world == 1:
        return {}
    gradients = FLOAT * found["parameters"]
    if found["ranks per group"] == 1:
        return {"all_reduce": gradients}
    rows, group = found["rows"], found["rows"] * found["ranks per group"]
    norms = FLOAT * 2 * found["channels"]
    return {
        "all_gather": FLOAT * rows * PER_PAIR + norms,
        "all_reduce": gradients + FLOAT * group * PER_PAIR + norms,
    }


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("layout", ["one group", "four groups"])
def test_bytes_of_an_update_are_those_of_the_formula(
    counted: dict[int, list[dict[str, Any]]], world: int, layout: str
) -> None:
    for found in (rank[layout] for rank in counted[world]):
        assert found["bytes"] == expected(world, found)
        assert found["rows"] * max(found["ranks per group"], 1) == (BATCH if layout == "one group" else BATCH // 4)


def test_whole_groups_gather_nothing_and_gradients_are_reduced_once(
    counted: dict[int, list[dict[str, Any]]],
) -> None:
    """Two accumulated groups on each of two ranks: one reduction, as with four ranks and a group on each."""
    for world in (2, 4):
        assert counted[world][0]["four groups"]["calls"] == {"all_reduce": 1}


@pytest.mark.parametrize("world", [2, 4])
def test_zero_gathers_the_updated_weights_and_its_stage_2_reduces_every_group(
    counted: dict[int, list[dict[str, Any]]], world: int
) -> None:
    """Four groups: two accumulated on each of two ranks, one on each of four; 4 bytes are the gradient's norm."""
    for found in counted[world]:
        gradients = FLOAT * found["zero 1"]["parameters"]
        for stage, reductions in ((1, 1), (2, 4 // world)):
            moved = found[f"zero {stage}"]["bytes"]
            assert moved["all_reduce"] == reductions * gradients + FLOAT
            # Filled up to whole words of memory.
            assert 0 <= moved["all_gather"] - gradients / world <= 16


@pytest.mark.parametrize(("parameters", "rows", "width", "given", "gradients"), [
    (113_940_516, 128, 1280, 1.31e6, 455.8e6),
    (178_300_601, 2, 640, 0.0102e6, 713.2e6),
])  # fmt: skip
def test_the_readme_calculates_by_it(parameters: int, rows: int, width: int, given: float, gradients: float) -> None:
    """SPIRIT's head and stage 1 of RN50x4 on 64 GPUs: what a GPU gives to a gather and to the reduction."""
    assert FLOAT * rows * 2 * width == pytest.approx(given, rel=0.01)
    assert FLOAT * parameters == pytest.approx(gradients, rel=0.001)
