"""Systems that lack a module of Python's: what works there works, what does not says so in one line.

macOS and Windows themselves were not tried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import sys
# What libraries take from there on this system, they have.
import filelock, psutil, torch
for name in {hidden!r}:
    sys.modules[name] = None
from benchmark.cli import main
sys.exit(main({arguments!r}))
"""

RUN = (
    "run", "--method", "clip4cir", "--dataset", "cirr", "--backbone", "tiny", "--limit", "24", "--output", "out",
    "--set", "encoders.epochs=1", "--set", "combiner.epochs=1",
)  # fmt: skip


def without(hidden: tuple[str, ...], folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, in which these modules cannot be imported."""
    script = WITHOUT.format(hidden=hidden, arguments=[str(argument) for argument in arguments])
    # Nothing that another test has left in a cache, which would only be read.
    own = {**os.environ, "CIR_BENCHMARK_CACHE": str(folder / "cache")}
    return subprocess.run([sys.executable, "-c", script], cwd=folder, env=own, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", [("--help",), ("list", "methods"), ("list", "datasets"), ("run", "--help")])
def test_what_needs_no_such_module_works_without(command: tuple[str, ...], tmp_path: Path) -> None:
    outcome = without(("resource", "fcntl", "deepspeed"), tmp_path, *command)
    assert outcome.returncode == 0 and outcome.stdout and not outcome.stderr, outcome.stderr


@pytest.mark.slow
def test_a_run_measures_its_memory_without_resource(tmp_path: Path, small_cirr: Path) -> None:
    outcome = without(("resource",), tmp_path, *RUN, "--data-root", small_cirr)
    assert outcome.returncode == 0, outcome.stderr
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["peak_memory_bytes"]["process"] > 2**20


@pytest.mark.parametrize(
    ("hidden", "told"),
    [
        ("fcntl", "the feature store needs file locks that this system does not have"),
        ("deepspeed", "training runs under DeepSpeed, which cannot be imported"),
    ],
)
def test_what_does_not_work_says_so_in_one_line(hidden: str, told: str, tmp_path: Path, small_cirr: Path) -> None:
    outcome = without((hidden,), tmp_path, *RUN, "--data-root", small_cirr)
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error")]
    assert outcome.returncode == 2 and len(errors) == 1 and told in errors[0], outcome.stderr
    assert "Traceback" not in outcome.stderr and not (tmp_path / "out" / "record.json").exists()


def test_apple_s_gpus_are_refused_in_one_line(tmp_path: Path, small_cirr: Path) -> None:
    outcome = without((), tmp_path, *RUN, "--data-root", small_cirr, "--device", "mps")
    assert outcome.returncode == 2 and "known: cpu, cuda, cuda:N (Apple's and other GPUs are not supported)" in outcome.stderr
    assert "Traceback" not in outcome.stderr
