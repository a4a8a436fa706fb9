"""ZeRO stages 0, 1 and 2 over two processes: equal to one process, and resumed to the bit, on any number."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import same

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


def job(processes: int, what: str, folder: Path, *further: str) -> dict[str, Any]:
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
         str(HERE / "zero_processes.py"), what, str(folder), *further],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = torch.load(folder / f"{what}.pt", weights_only=True)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return job(2, "stages", tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import zero_processes

    return zero_processes.stages(tmp_path_factory.mktemp("one"))


def difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("kind", ["sgd", "clipped", "adam"])
def test_a_stage_gives_the_parameters_of_one_process(one: Any, two: Any, kind: str, zero: int) -> None:
    reference = one[f"{kind} 0"]
    for found in (one[f"{kind} {zero}"], two[f"{kind} {zero}"]):
        assert difference(found["last"], reference["last"]) < 1e-6
        assert found["norms"] == pytest.approx(reference["norms"], rel=1e-5)


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_a_group_over_two_processes_in_micro_batches_is_the_group_on_one(one: Any, two: Any, zero: int) -> None:
    for found in (one, two):
        for kind in ("whole", "micro-batches"):
            assert difference(found[f"{kind} {zero}"]["last"], one["whole 0"]["last"]) < 1e-6
    assert difference(one["whole 0"]["last"], one["sgd 0"]["last"]) > 1e-4


def test_checkpointed_blocks_of_a_group_over_two_processes_are_those_of_one(one: Any, two: Any) -> None:
    """Batch norms over both processes, running statistics and dropout included."""
    for found in (one, two):
        assert same(found["deep again"]["last"], found["deep"]["last"])
        assert difference(found["deep again"]["last"], one["deep"]["last"]) < 1e-5


@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_the_same_arithmetic_at_every_stage(one: Any, two: Any, precision: str, zero: int) -> None:
    """float32 weights and sums: stages and processes differ by rounding only, half precision from float32 by more."""
    for found in (one, two):
        assert difference(found[f"{precision} {zero}"]["last"], one[f"{precision} 0"]["last"]) < 1e-5
    assert difference(one[f"{precision} 0"]["last"], one["adam 0"]["last"]) > 1e-4


@pytest.mark.parametrize("zero", [0, 1])
def test_low_rank_changes_are_those_of_one_process_at_either_stage(one: Any, two: Any, zero: int) -> None:
    """Merged into their matrices; `test_two_processes_are_resumed…` resumes them."""
    reference = one["lora 0"]["last"]
    assert not any("parametrizations" in name for name in reference)
    for found in (one[f"lora {zero}"], two[f"lora {zero}"]):
        assert difference(found["last"], reference) < 1e-5


@pytest.mark.parametrize("zero", [1, 2])
def test_moments_are_whole_whoever_keeps_them(one: Any, two: Any, zero: int) -> None:
    reference, found = one["adam 0"]["moments"], two[f"adam {zero}"]["moments"]
    assert found.keys() == reference.keys()
    for name, kept in reference.items():
        assert found[name]["exp_avg"].shape == kept["exp_avg"].shape
        assert torch.allclose(found[name]["exp_avg"], kept["exp_avg"], atol=1e-6)
        assert int(found[name]["step"]) == int(kept["step"]) == 10


@pytest.mark.slow
def test_two_processes_are_resumed_to_the_bit_and_any_number_goes_on(two: Any, tmp_path: Path) -> None:
    """Stopped by one rank's signal; then on as many processes, on one, and at another stage."""
    (tmp_path / "first").mkdir()
    job(2, "stopped", tmp_path / "first")
    for name in ("one", "moved"):
        shutil.copytree(tmp_path / "first", tmp_path / name)
    again = job(2, "resumed", tmp_path / "first", "same")
    alone = job(1, "resumed", tmp_path / "one", "same")
    moved = job(2, "resumed", tmp_path / "moved", "next")
    for name, found in again.items():
        assert same(found["last"], two[name]["last"]), name
        for other in (alone, moved):
            assert difference(other[name]["last"], found["last"]) < 1e-5, name
