"""Systems that lack a module of Python's: what works there works, what does not says so in one line.

macOS and Windows themselves were not tried.
"""

from __future__ import annotations

import json
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

RUN = ("run", "--method", "sum", "--dataset", "cirr", "--backbone", "tiny", "--limit", "24", "--output", "out")


def without(hidden: tuple[str, ...], folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, in which these modules cannot be imported."""
    script = WITHOUT.format(hidden=hidden, arguments=[str(argument) for argument in arguments])
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", [("--help",), ("list", "methods"), ("list", "datasets"), ("run", "--help")])
def test_what_needs_no_such_module_works_without(command: tuple[str, ...], tmp_path: Path) -> None:
    outcome = without(("resource", "fcntl", "deepspeed"), tmp_path, *command)
    assert outcome.returncode == 0 and outcome.stdout and not outcome.stderr, outcome.stderr


def test_a_run_measures_its_memory_without_resource(tmp_path: Path, small_cirr: Path) -> None:
    outcome = without(("resource",), tmp_path, *RUN, "--data-root", small_cirr)
    assert outcome.returncode == 0, outcome.stderr
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["peak_memory_bytes"]["process"] > 2**20


@pytest.mark.parametrize(
    ("hidden", "method", "told"),
    [
        ("fcntl", "sum", "the feature store needs file locks that this system does not have"),
        ("deepspeed", "clip4cir", "training runs under DeepSpeed, which cannot be imported"),
    ],
)
def test_what_does_not_work_says_so_in_one_line(
    hidden: str, method: str, told: str, tmp_path: Path, small_cirr: Path
) -> None:
    command = ["clip4cir" if word == "sum" and method == "clip4cir" else word for word in RUN]
    outcome = without((hidden,), tmp_path, *command, "--data-root", small_cirr, "--set", *_small(method))
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error")]
    assert outcome.returncode == 2 and len(errors) == 1 and told in errors[0], outcome.stderr
    assert "Traceback" not in outcome.stderr and not (tmp_path / "out" / "record.json").exists()


def _small(method: str) -> tuple[str, ...]:
    return ("encoders.epochs=1", "combiner.epochs=1") if method == "clip4cir" else ("backbone.precision=fp32",)


def test_apple_s_gpus_are_refused_in_one_line(tmp_path: Path, small_cirr: Path) -> None:
    outcome = without((), tmp_path, *RUN, "--data-root", small_cirr, "--device", "mps")
    assert outcome.returncode == 2 and "known: cpu, cuda, cuda:N (Apple's and other GPUs are not supported)" in outcome.stderr
    assert "Traceback" not in outcome.stderr
