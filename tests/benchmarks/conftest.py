"""The closing table: every ratio beside its target."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))

from comparing import Compared, Line, Target

LINES: pytest.StashKey[list[Line]] = pytest.StashKey()

Held = Callable[..., float]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LINES] = []


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    lines = config.stash[LINES]
    if not lines:
        return
    rows = [
        [line.path, line.ratio, f"{line.measured:.3g}", "" if line.processor is None else f"{line.processor:.3g}",
         line.target or "", "" if line.target is None else "met" if line.target.met(line.measured) else "missed"]
        for line in lines
    ]  # fmt: skip
    headers = ["hot path", "ratio of", "measured", "in processor time", "target", ""]
    terminalreporter.section("ratios, each beside its target")
    terminalreporter.write_line(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


@pytest.fixture
def number(request: pytest.FixtureRequest, benchmark: Any) -> Held:
    """Puts a number beside its target: in the closing table and in what pytest-benchmark saves."""

    def put(path: str, ratio: str, measured: float, target: Target | None = None, processor: float | None = None) -> float:
        request.config.stash[LINES].append(Line(path, ratio, measured, processor, target))
        benchmark.extra_info[ratio] = round(measured, 4)
        if target is not None:
            benchmark.extra_info[f"{ratio}, target"] = str(target)
        return measured

    return put


@pytest.fixture
def ratio(number: Held) -> Held:
    """Puts the time of a call over that of its reference beside its target; gives it.

    ``inverse``: the reference's time over the call's, that is, the share of the reference's speed.
    """

    def put(found: Compared, name: str, reference: str, target: Target | None = None, inverse: bool = False) -> float:
        above, below = (reference, name) if inverse else (name, reference)
        wall, processor = found.ratio(above, below)
        return number(found.path, f"{above} / {below}", wall, target, processor)

    return put


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
