"""Two nodes on one machine: two of DeepSpeed's launchers, one rendezvous, no folder shared."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Command

from benchmark.records.record import read_record

pytestmark = pytest.mark.slow
NODES = 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def arguments(data: Path) -> list[str]:
    chosen = ["--backbone", "tiny", "--weights", "random", "--set", "method.encoder=untouched"]
    return ["run", "--method", "sum", "--dataset", "cirr", "--data-root", str(data), "--output", "run", *chosen]


def start_node(number: int, folder: Path, port: int, data: Path) -> subprocess.Popen[str]:
    """A node's launcher as its administrator starts it where ssh is not to be used."""
    place = folder / f"node-{number}"
    place.mkdir()
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    surroundings = {"PYTHONPATH": paths, "CIR_BENCHMARK_CACHE": str(folder / f"cache-{number}"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "deepspeed"), "--hostfile", str(folder / "hosts"), "--no_ssh",
         "--node_rank", str(number), "--master_addr", "127.0.0.1", "--master_port", str(port),
         "--module", "benchmark", *arguments(data)],
        cwd=place, env={**os.environ, **surroundings}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_two_nodes_give_the_numbers_of_one_process(small_cirr: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "hosts").write_text("".join(f"node-{number} slots=1\n" for number in range(NODES)))
    port = free_port()
    nodes = [start_node(number, tmp_path, port, small_cirr) for number in range(NODES)]
    outputs = [node.communicate(timeout=400)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert command(*arguments(small_cirr)).status == 0
    many, one = tmp_path / "node-0" / "run", Path("run")
    assert read_record(many).environment.world_size == NODES
    assert [r.metrics for r in read_record(many).results] == [r.metrics for r in read_record(one).results]
    with np.load(many / "per_query.npz") as first, np.load(one / "per_query.npz") as other:
        assert all(np.array_equal(first[name], other[name]) for name in other.files)
    assert list((tmp_path / "node-1").iterdir()) == [], "a node that is not rank 0's writes nothing but its cache"
    caches = [{p.name: p.read_bytes() for p in (tmp_path / f"cache-{n}").rglob("global*.safetensors")} for n in range(NODES)]
    assert caches[0] and caches[0] == caches[1]
