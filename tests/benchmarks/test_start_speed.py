"""How soon the command line answers, beside the bare interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from comparing import Compared, at_most, compared, played_back

BARE = "python -c pass"
COMMANDS = {
    "benchmark --help": ("-m", "benchmark", "--help"),
    "benchmark list": ("-m", "benchmark", "list"),
    BARE: ("-c", "pass"),
}
SECONDS = {"benchmark --help": 0.3, "benchmark list": 0.5}


def called(arguments: tuple[str, ...]) -> Callable[[], object]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)


@pytest.fixture(scope="module")
def rounds() -> Compared:
    return compared("start", {name: called(arguments) for name, arguments in COMMANDS.items()}, rounds=7)


@played_back
@pytest.mark.parametrize("row", COMMANDS)
def test_start(benchmark, number, rounds: Compared, row: str) -> None:
    if row in SECONDS:
        took, processor = (float(kind.seconds[row].min()) for kind in (rounds.wall, rounds.processor))
        number("start", f"seconds of {row}", took, at_most(SECONDS[row]), processor)
    rounds.play(benchmark, row)
